"""One dense layer: forward product, delta propagation, weight and bias gradients."""

__all__ = ["affine_forward", "bias_gradient", "layer_jacobian", "propagate_delta", "weight_gradient"]


def affine_forward(A_prev, W, b, out):
    """Z = A_prev @ W + b, (n_samples, n_out)."""
    out[...] = A_prev @ W + b


def propagate_delta(delta, W, derivative, out):
    """Delta of the layer before: (delta @ W.T) * f'(Z), (n_samples, n_in)."""
    out[...] = (delta @ W.T) * derivative


def weight_gradient(A_prev, delta, out):
    """Weight gradient dW = A_prev.T @ delta, (n_in, n_out)."""
    out[...] = A_prev.T @ delta


def bias_gradient(delta, out):
    """Column sums of delta: db, (n_out,)."""
    out[...] = delta.sum(axis=0)


def layer_jacobian(A_prev, delta, first, out):
    """Write dW and db of each sample, as one row, into the columns of `out` from `first` on."""
    n_samples, n_weights = len(delta), A_prev.shape[1] * delta.shape[1]
    out[:, first : first + n_weights] = (A_prev[:, :, None] * delta[:, None, :]).reshape(n_samples, n_weights)
    out[:, first + n_weights : first + n_weights + delta.shape[1]] = delta
