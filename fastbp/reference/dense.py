"""One dense layer: forward product, delta propagation, weight and bias gradients."""

import numpy as np

__all__ = ["affine_forward", "bias_gradient", "layer_jacobian", "propagate_delta", "weight_gradient"]


def affine_forward(A_prev: np.ndarray, W: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Z = A_prev @ W + b, (n_samples, n_out)."""
    out[...] = A_prev @ W + b


def propagate_delta(delta: np.ndarray, W: np.ndarray, derivative: np.ndarray, out: np.ndarray) -> None:
    """Delta of the layer before: (delta @ W.T) * f'(Z), (n_samples, n_in)."""
    out[...] = (delta @ W.T) * derivative


def weight_gradient(A_prev: np.ndarray, delta: np.ndarray, out: np.ndarray) -> None:
    """Weight gradient dW = A_prev.T @ delta, (n_in, n_out)."""
    out[...] = A_prev.T @ delta


def bias_gradient(delta: np.ndarray, out: np.ndarray) -> None:
    """Column sums of delta: db, (n_out,)."""
    out[...] = delta.sum(axis=0)


def layer_jacobian(A_prev: np.ndarray, delta: np.ndarray, first: int, out: np.ndarray) -> None:
    """Write dW and db of each sample, as one row, into the columns of `out` from `first` on."""
    n_samples, n_weights = len(delta), A_prev.shape[1] * delta.shape[1]
    out[:, first : first + n_weights] = (A_prev[:, :, None] * delta[:, None, :]).reshape(n_samples, n_weights)
    out[:, first + n_weights : first + n_weights + delta.shape[1]] = delta
