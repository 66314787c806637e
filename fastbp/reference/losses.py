"""Losses: the value for each sample, and the derivative by the outputs."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from .elementwise import clip_infinities, sigmoid

__all__ = [
    "absolute_error",
    "absolute_error_derivative",
    "binary_cross_entropy",
    "binary_cross_entropy_derivative",
    "binary_cross_entropy_logits",
    "cross_entropy",
    "cross_entropy_derivative",
    "cross_entropy_logits",
    "focal",
    "focal_derivative",
    "hinge",
    "hinge_derivative",
    "huber",
    "huber_derivative",
    "log_cosh",
    "log_cosh_derivative",
    "poisson",
    "poisson_derivative",
    "quantile",
    "quantile_derivative",
    "squared_error",
    "squared_error_derivative",
]


def squared_error(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """Half the sum of (A - Y)^2 over the outputs, (n_samples,)."""
    out[...] = (0.5 * (A - Y) ** 2).sum(axis=1)


def squared_error_derivative(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """Return A - Y."""
    out[...] = A - Y


def absolute_error(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """Sum of abs(A - Y) over the outputs."""
    out[...] = np.abs(A - Y).sum(axis=1)


def absolute_error_derivative(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """Sign of A - Y (0 where they are equal)."""
    out[...] = np.sign(A - Y)


def huber(A: np.ndarray, Y: np.ndarray, threshold: float, out: np.ndarray) -> None:
    """Half the squared error up to abs(A - Y) = threshold, a straight line beyond (Huber, 1964)."""
    d = np.abs(A - Y)
    inner = np.minimum(d, threshold)
    out[...] = (0.5 * inner * inner + threshold * (d - inner)).sum(axis=1)


def huber_derivative(A: np.ndarray, Y: np.ndarray, threshold: float, out: np.ndarray) -> None:
    """Return A - Y, clipped to [-threshold, threshold]."""
    out[...] = np.clip(A - Y, -threshold, threshold)


def log_cosh(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """log(cosh(A - Y)), that is log(exp(D) + exp(-D)) - log(2), summed over the outputs."""
    out[...] = (np.logaddexp(A - Y, Y - A) - math.log(2)).sum(axis=1)


def log_cosh_derivative(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """Return tanh(A - Y)."""
    out[...] = np.tanh(A - Y)


def quantile(A: np.ndarray, Y: np.ndarray, q: float, out: np.ndarray) -> None:
    """Return q (Y - A) where A is too small, (1 - q) (A - Y) where too large (Koenker and Bassett, 1978)."""
    out[...] = np.where(A < Y, q * (Y - A), (1 - q) * (A - Y)).sum(axis=1)


def quantile_derivative(A: np.ndarray, Y: np.ndarray, q: float, out: np.ndarray) -> None:
    """-q where A < Y, 1 - q where A > Y (0 where they are equal)."""
    out[...] = np.where(A < Y, -q, np.where(A > Y, 1 - q, 0))


def hinge(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """max(0, 1 - Y A), summed over the outputs; Y is -1 or 1."""
    out[...] = np.maximum(1 - Y * A, 0).sum(axis=1)


def hinge_derivative(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """-Y where Y A < 1, else 0."""
    out[...] = np.where(Y * A < 1, -Y, 0)


def poisson(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """Return A - Y log A, summed over the outputs; A is held above 0."""
    out[...] = (A - Y * np.log(_positive(A))).sum(axis=1)


def poisson_derivative(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """1 - Y / A."""
    out[...] = 1 - Y / _positive(A)


def _positive(A):
    """Hold A above 0, so that Y / A is finite for Y up to a million."""
    return np.maximum(A, 1e-32 if A.dtype == np.float32 else 1e-302)


def binary_cross_entropy(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """-Y log A - (1 - Y) log(1 - A), summed over the outputs; A and 1 - A are held above 0."""
    out[...] = _binary_cross_entropy(*_parts(A), Y).sum(axis=1)


def binary_cross_entropy_derivative(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """Return (A - Y) / (A (1 - A)); A and 1 - A are held above 0."""
    parts = _parts(A)
    out[...] = _binary_cross_entropy_slope(*parts, Y) / (parts[0] * parts[1])


def focal(A: np.ndarray, Y: np.ndarray, gamma: float, out: np.ndarray) -> None:
    """-Y (1 - A)^gamma log A - (1 - Y) A^gamma log(1 - A) (Lin et al., 2017); A and 1 - A are held above 0."""
    out[...] = _focal(*_parts(A), Y, gamma).sum(axis=1)


def focal_derivative(A: np.ndarray, Y: np.ndarray, gamma: float, out: np.ndarray) -> None:
    """Its derivative; A and 1 - A are held above 0."""
    parts = _parts(A)
    out[...] = _focal_slope(*parts, Y, gamma) / (parts[0] * parts[1])


def binary_cross_entropy_logits(Z: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """binary_cross_entropy of sigmoid(Z), from Z: softplus(Z) - Z Y, finite for every Z."""
    Z = clip_infinities(Z)
    out[...] = (np.maximum(Z, 0) - Z * Y + np.log1p(np.exp(-np.abs(Z)))).sum(axis=1)


def cross_entropy(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """-log of the probability A gives to the true class; A is held above 0.

    Y holds class labels, int64 (n_samples,), or rows of probabilities: then -sum of Y log A.  The loss of a label
    that is no class is NaN.
    """
    A = np.maximum(A, np.finfo(A.dtype).tiny)
    out[...] = -np.log(_at_labels(A, Y)) if Y.ndim == 1 else (-Y * np.log(A)).sum(axis=1)


def cross_entropy_derivative(A: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """-Y / A (labels: Y is 1 at the label, 0 elsewhere); A is held above 0."""
    out[...] = -one_hot_rows(Y, A) / np.maximum(A, np.finfo(A.dtype).tiny)


def cross_entropy_logits(Z: np.ndarray, Y: np.ndarray, out: np.ndarray) -> None:
    """cross_entropy of softmax(Z), from Z: log of the sum of exp(Z), minus Z of the class; finite for every Z."""
    Z = clip_infinities(Z)
    Z = Z - Z.max(axis=1, keepdims=True)
    log_A = Z - np.log(np.exp(Z).sum(axis=1, keepdims=True))
    out[...] = -_at_labels(log_A, Y) if Y.ndim == 1 else (-Y * log_A).sum(axis=1)


Parts: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # A, B = 1 - A, log A, log B

# Losses of probabilities, elementwise, from A, B = 1 - A, log A and log B; and their derivatives by A times A B, which
# are finite, and in which nothing cancels where A is near 0 or 1.


def _parts(A: np.ndarray) -> Parts:
    """Return A, B, log A, log B of probabilities A and B = 1 - A, held above 0: B by half an eps."""
    A, B = np.maximum(A, np.finfo(A.dtype).tiny), np.maximum(1 - A, np.finfo(A.dtype).epsneg)
    return A, B, np.log(A), np.log(B)


def _binary_cross_entropy(A, B, log_A, log_B, Y):
    return Y * -log_A + (1 - Y) * -log_B


def _binary_cross_entropy_slope(A, B, log_A, log_B, Y):
    return Y * -B + (1 - Y) * A


def _focal(A, B, log_A, log_B, Y, gamma):
    return Y * (np.exp(gamma * log_B) * -log_A) + (1 - Y) * (np.exp(gamma * log_A) * -log_B)


def _focal_slope(A, B, log_A, log_B, Y, gamma):
    of_ones = np.exp(gamma * log_B) * (gamma * A * log_A - B)
    of_zeros = np.exp(gamma * log_A) * (A - gamma * B * log_B)
    return Y * of_ones + (1 - Y) * of_zeros


def _cross_entropy(A, B, log_A, log_B, Y):
    return Y * -log_A


def _cross_entropy_slope(A, B, log_A, log_B, Y):
    return -Y * B


def _poisson(A, B, log_A, log_B, Y):
    return Y * -log_A + A


def _poisson_slope(A, B, log_A, log_B, Y):
    return ((1 - Y) * A - Y * B) * B


class LogitForm(NamedTuple):
    """A loss of A = activation(Z) computed from Z, accurate for every Z.

    losses(Z, A, Y, *loss_parameter) are those of the samples; delta(Z, A, Y, *loss_parameter) is their derivative by Z.
    """

    losses: Callable[..., np.ndarray]
    delta: Callable[..., np.ndarray]


def _sigmoid_parts(Z: np.ndarray) -> Parts:
    """Return the parts of A = sigmoid(Z), from Z."""
    A, B, rest = np.empty_like(Z), np.empty_like(Z), np.log1p(np.exp(-np.abs(Z)))
    sigmoid(Z, A)
    sigmoid(-Z, B)
    return A, B, np.minimum(Z, 0) - rest, -np.maximum(Z, 0) - rest


def _of_sigmoid(loss, slope):
    """Return the logit form of a loss of probabilities after a sigmoid."""

    def losses(Z, A, Y, *loss_parameter):
        return loss(*_sigmoid_parts(Z), one_hot_rows(Y, A), *loss_parameter).sum(axis=1)

    def delta(Z, A, Y, *loss_parameter):
        return slope(*_sigmoid_parts(Z), one_hot_rows(Y, A), *loss_parameter)

    return LogitForm(losses, delta)


def _softmax_parts(Z: np.ndarray, A: np.ndarray) -> tuple[Parts, np.ndarray]:
    """Return the parts of A = softmax(Z), from Z; and the softmax of the outputs of a row that are up to 1/2, else 0.

    A = e^D / T with D = Z less the largest Z of the row.  Where one A is above 1/2 the sum T is 1 + R, R being that
    over the others, which may be smaller than any number: so it is R = e^top * U, top the largest D of the others.
    """
    is_large = A > 0.5
    D = Z - Z.max(axis=1, keepdims=True)
    others = np.where(is_large, -np.inf, D)
    top = np.maximum(others.max(axis=1, keepdims=True), -np.finfo(Z.dtype).max)  # finite for a single output too
    E = np.exp(others - top)
    U = E.sum(axis=1, keepdims=True)
    log_R = np.maximum(top + np.log(U), -np.finfo(Z.dtype).max)
    log_T = np.where(is_large.any(axis=1, keepdims=True), np.log1p(np.exp(log_R)), log_R)
    log_A = D - log_T
    B = np.where(is_large, A * np.exp(log_R), 1 - A)
    return (A, B, log_A, np.where(is_large, log_A + log_R, np.log1p(-A))), E / U


def _of_softmax(loss, slope):
    """Return the logit form of a loss of probabilities after a softmax.

    delta[j] = slope[j] - sum over i != j of slope[i] A[j] / (1 - A[i]); where A[i] is above 1/2, A[j] / (1 - A[i]) is a
    softmax of the other outputs.
    """

    def losses(Z, A, Y, *loss_parameter):
        return loss(*_softmax_parts(Z, A)[0], Y, *loss_parameter).sum(axis=1)

    def delta(Z, A, Y, *loss_parameter):
        parts, softmax_of_others = _softmax_parts(Z, A)
        slopes, is_large = slope(*parts, Y, *loss_parameter), A > 0.5
        large = np.where(is_large, slopes, 0).sum(axis=1, keepdims=True)
        slopes = np.where(is_large, slopes, slopes / parts[1])
        total = np.where(is_large, 0, slopes).sum(axis=1, keepdims=True)
        return slopes - A * total - softmax_of_others * large

    return LogitForm(losses, delta)


def _fused(logits):
    """Return the logit form of a loss whose derivative and that of the activation cancel to A - Y."""

    def losses(Z, A, Y):
        out = np.empty(len(Z), Z.dtype)
        logits(Z, Y, out)
        return out

    return LogitForm(losses, lambda Z, A, Y: A - one_hot_rows(Y, A))


LINEAR_LOG = {"float32": -20.0, "float64": -40.0}  # below, softplus(Z) is exp(Z) to the last digit


def _softplus_poisson(Z, A, Y):
    log_A = np.where(Z < LINEAR_LOG[Z.dtype.name], Z, np.log(A))
    return (A - Y * log_A).sum(axis=1)


def _softplus_poisson_delta(Z, A, Y):
    slope = np.empty_like(Z)
    sigmoid(Z, slope)
    return slope - Y * np.where(Z < LINEAR_LOG[Z.dtype.name], 1, slope / A)


LOSSES_OF_PROBABILITIES = {
    "binary_cross_entropy": (_binary_cross_entropy, _binary_cross_entropy_slope),
    "cross_entropy": (_cross_entropy, _cross_entropy_slope),
    "focal": (_focal, _focal_slope),
    "poisson": (_poisson, _poisson_slope),
}
LOGIT_FORMS = {  # (activation, loss); every other pair is computed from A
    **{("sigmoid", loss): _of_sigmoid(*pair) for loss, pair in LOSSES_OF_PROBABILITIES.items()},
    **{("softmax", loss): _of_softmax(*pair) for loss, pair in LOSSES_OF_PROBABILITIES.items()},
    ("sigmoid", "binary_cross_entropy"): _fused(binary_cross_entropy_logits),
    ("softmax", "cross_entropy"): _fused(cross_entropy_logits),
    ("softplus", "poisson"): LogitForm(_softplus_poisson, _softplus_poisson_delta),
    ("exponential", "poisson"): LogitForm(lambda Z, A, Y: (A - Y * Z).sum(axis=1), lambda Z, A, Y: A - Y),
}


def one_hot_rows(Y: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Targets as rows: class labels become one-hot rows, and rows of NaN where they are no class."""
    if Y.ndim == 2:
        return Y
    is_class = are_classes(Y, like.shape[1])
    rows = np.zeros_like(like)
    rows[np.flatnonzero(is_class), Y[is_class]] = 1
    rows[~is_class] = np.nan
    return rows


def _at_labels(A, Y):
    """Element of each row at its label; NaN where the label is no class."""
    is_class = are_classes(Y, A.shape[1])
    return np.where(is_class, A[np.arange(len(Y)), np.where(is_class, Y, 0)], np.nan)


def are_classes(Y: np.ndarray, n_out: int) -> np.ndarray:
    return (Y >= 0) & (Y < n_out)
