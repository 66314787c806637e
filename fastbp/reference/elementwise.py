"""Activations, their derivatives, exp and log."""

from math import erfc, sqrt

import numpy as np

__all__ = [
    "elu",
    "elu_derivative",
    "exp",
    "exponential",
    "exponential_derivative",
    "gelu",
    "gelu_derivative",
    "hard_sigmoid",
    "hard_sigmoid_derivative",
    "hard_tanh",
    "hard_tanh_derivative",
    "identity",
    "identity_derivative",
    "leaky_relu",
    "leaky_relu_derivative",
    "log",
    "mish",
    "mish_derivative",
    "relu",
    "relu_derivative",
    "selu",
    "selu_derivative",
    "sigmoid",
    "sigmoid_derivative",
    "silu",
    "silu_derivative",
    "softmax",
    "softmax_backward",
    "softplus",
    "softplus_derivative",
    "softsign",
    "softsign_derivative",
    "tanh",
    "tanh_derivative",
]


def exp(x: np.ndarray, out: np.ndarray) -> None:
    """Exponential, elementwise."""
    with np.errstate(over="ignore"):
        out[...] = np.exp(x)


def log(x: np.ndarray, out: np.ndarray) -> None:
    """Natural logarithm, elementwise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        out[...] = np.log(x)


def sigmoid(Z: np.ndarray, out: np.ndarray) -> None:
    """Logistic function 1 / (1 + exp(-Z)); exp has only arguments <= 0, so it cannot overflow."""
    E = np.exp(-np.abs(Z))
    out[...] = np.where(Z >= 0, 1 / (1 + E), E / (1 + E))


def sigmoid_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """Return A (1 - A)."""
    out[...] = A * (1 - A)


def tanh(Z: np.ndarray, out: np.ndarray) -> None:
    """Hyperbolic tangent."""
    out[...] = np.tanh(Z)


def tanh_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """1 - A^2."""
    out[...] = 1 - A * A


def relu(Z: np.ndarray, out: np.ndarray) -> None:
    """Z where positive, else 0."""
    out[...] = np.maximum(Z, 0)


def relu_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """1 where Z > 0, else 0."""
    out[...] = np.where(Z > 0, 1, 0)


def leaky_relu(Z: np.ndarray, out: np.ndarray) -> None:
    """Z where positive, else 0.01 Z."""
    out[...] = np.where(Z > 0, Z, 0.01 * Z)


def leaky_relu_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """1 where Z > 0, else 0.01."""
    out[...] = np.where(Z > 0, 1, 0.01)


def elu(Z: np.ndarray, out: np.ndarray) -> None:
    """Z where positive, else exp(Z) - 1."""
    out[...] = np.where(Z > 0, Z, np.expm1(np.minimum(Z, 0)))


def elu_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """1 where Z > 0, else exp(Z)."""
    out[...] = np.where(Z > 0, 1, np.exp(np.minimum(Z, 0)))


def softplus(Z: np.ndarray, out: np.ndarray) -> None:
    """log(1 + exp(Z)), written so that exp cannot overflow."""
    out[...] = np.maximum(Z, 0) + np.log1p(np.exp(-np.abs(Z)))


def softplus_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """Logistic function of Z."""
    sigmoid(Z, out)


def silu(Z: np.ndarray, out: np.ndarray) -> None:
    """Z times the logistic function of Z (0 at minus infinity)."""
    S = np.empty_like(Z)
    sigmoid(Z, S)
    out[...] = _clip_below(Z) * S


def silu_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """S + Z S (1 - S), S the logistic function of Z."""
    S = np.empty_like(Z)
    sigmoid(Z, S)
    out[...] = S + _clip_both(Z) * S * (1 - S)


def gelu(Z: np.ndarray, out: np.ndarray) -> None:
    """Z Phi(Z), Phi the normal distribution function (Hendrycks and Gimpel, 2016)."""
    out[...] = _clip_below(Z) * _normal_cdf(Z)


def gelu_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """Phi(Z) + Z phi(Z), phi the normal density."""
    bounded = _clip_both(Z)
    out[...] = _normal_cdf(Z) + bounded * np.exp(-0.5 * bounded * bounded) / sqrt(2 * np.pi)


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def selu(Z: np.ndarray, out: np.ndarray) -> None:
    """Z where positive, else 1.6733 (exp(Z) - 1); times 1.0507 (Klambauer et al., 2017)."""
    out[...] = SELU_SCALE * np.where(Z > 0, Z, SELU_ALPHA * np.expm1(np.minimum(Z, 0)))


def selu_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """1 where Z > 0, else 1.6733 exp(Z); times 1.0507."""
    out[...] = SELU_SCALE * np.where(Z > 0, 1, SELU_ALPHA * np.exp(np.minimum(Z, 0)))


def mish(Z: np.ndarray, out: np.ndarray) -> None:
    """Z tanh(softplus(Z)) (Misra, 2019)."""
    S = np.empty_like(Z)
    softplus(Z, S)
    out[...] = _clip_below(Z) * np.tanh(S)


def mish_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """T + Z S (1 - T^2), T = tanh(softplus(Z)), S the logistic function of Z."""
    S, T = np.empty_like(Z), np.empty_like(Z)
    sigmoid(Z, S)
    softplus(Z, T)
    T = np.tanh(T)
    out[...] = T + _clip_both(Z) * S * (1 - T * T)


def softsign(Z: np.ndarray, out: np.ndarray) -> None:
    """Z / (1 + abs(Z))."""
    Z = clip_infinities(Z)
    out[...] = Z / (1 + np.abs(Z))


def softsign_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """1 / (1 + abs(Z))^2."""
    root = 1 / (1 + np.abs(Z))
    out[...] = root * root


def hard_sigmoid(Z: np.ndarray, out: np.ndarray) -> None:
    """Z + 3, clipped to [0, 6], over 6: a piecewise linear logistic function."""
    out[...] = np.clip(Z + 3, 0, 6) / 6


def hard_sigmoid_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """1/6 where -3 < Z < 3, else 0."""
    out[...] = np.where(np.abs(Z) < 3, 1 / 6, 0)


def hard_tanh(Z: np.ndarray, out: np.ndarray) -> None:
    """Z, clipped to [-1, 1]."""
    out[...] = np.clip(Z, -1, 1)


def hard_tanh_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """1 where -1 < Z < 1, else 0."""
    out[...] = np.where(np.abs(Z) < 1, 1, 0)


def exponential(Z: np.ndarray, out: np.ndarray) -> None:
    """exp(Z)."""
    exp(Z, out)


def exponential_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """Return A."""
    out[...] = A


def identity(Z: np.ndarray, out: np.ndarray) -> None:
    """Z itself."""
    out[...] = Z


def identity_derivative(Z: np.ndarray, A: np.ndarray, out: np.ndarray) -> None:
    """1."""
    out[...] = 1


def softmax(Z: np.ndarray, out: np.ndarray) -> None:
    """exp(Z) / sum of exp(Z) over each row; the row's largest Z is subtracted first."""
    Z = clip_infinities(Z)
    E = np.exp(Z - Z.max(axis=1, keepdims=True))
    out[...] = E / E.sum(axis=1, keepdims=True)


def softmax_backward(A: np.ndarray, dA: np.ndarray, out: np.ndarray) -> None:
    """Delta of a softmax from its output gradient dA: A (dA - sum of dA A over the row)."""
    out[...] = A * (dA - (dA * A).sum(axis=1, keepdims=True))


_normal_cdf = np.vectorize(lambda z: 0.5 * erfc(-z / sqrt(2)), otypes=[float])


def _clip_below(Z):
    """Clip -inf, which times 0 would be NaN: below -750 exp(Z) is 0 in float64."""
    return np.maximum(Z, -750)


def _clip_both(Z):
    return np.clip(Z, -750, 750)


def clip_infinities(Z: np.ndarray) -> np.ndarray:
    """Replace infinities by very large numbers, so that no difference of two of them is a NaN."""
    return np.clip(Z, -np.finfo(Z.dtype).max / 8, np.finfo(Z.dtype).max / 8)
