"""Losses: the value for each sample, and the derivative by the outputs."""

import math

import numpy as np

from .elementwise import _finite, sigmoid


def squared_error(A, Y, out):
    """Half the sum of (A - Y)^2 over the outputs, (n_samples,)."""
    out[...] = (0.5 * (A - Y) ** 2).sum(axis=1)


def squared_error_derivative(A, Y, out):
    """Return A - Y."""
    out[...] = A - Y


def absolute_error(A, Y, out):
    """Sum of abs(A - Y) over the outputs."""
    out[...] = np.abs(A - Y).sum(axis=1)


def absolute_error_derivative(A, Y, out):
    """Sign of A - Y (0 where they are equal)."""
    out[...] = np.sign(A - Y)


def huber(A, Y, threshold, out):
    """Half the squared error up to abs(A - Y) = threshold, a straight line beyond (Huber, 1964)."""
    d = np.abs(A - Y)
    inner = np.minimum(d, threshold)
    out[...] = (0.5 * inner * inner + threshold * (d - inner)).sum(axis=1)


def huber_derivative(A, Y, threshold, out):
    """Return A - Y, held within [-threshold, threshold]."""
    out[...] = np.clip(A - Y, -threshold, threshold)


def log_cosh(A, Y, out):
    """log(cosh(A - Y)), that is log(exp(D) + exp(-D)) - log(2), summed over the outputs."""
    out[...] = (np.logaddexp(A - Y, Y - A) - math.log(2)).sum(axis=1)


def log_cosh_derivative(A, Y, out):
    """Return tanh(A - Y)."""
    out[...] = np.tanh(A - Y)


def quantile(A, Y, q, out):
    """Return q (Y - A) where A is too small, (1 - q) (A - Y) where too large (Koenker and Bassett, 1978)."""
    out[...] = np.where(A < Y, q * (Y - A), (1 - q) * (A - Y)).sum(axis=1)


def quantile_derivative(A, Y, q, out):
    """-q where A < Y, 1 - q where A > Y (0 where they are equal)."""
    out[...] = np.where(A < Y, -q, np.where(A > Y, 1 - q, 0))


def hinge(A, Y, out):
    """max(0, 1 - Y A), summed over the outputs; Y is -1 or 1."""
    out[...] = np.maximum(1 - Y * A, 0).sum(axis=1)


def hinge_derivative(A, Y, out):
    """-Y where Y A < 1, else 0."""
    out[...] = np.where(Y * A < 1, -Y, 0)


def poisson(A, Y, out):
    """Return A - Y log A, summed over the outputs; A is held above 0."""
    out[...] = (A - Y * np.log(_positive(A))).sum(axis=1)


def poisson_derivative(A, Y, out):
    """1 - Y / A."""
    out[...] = 1 - Y / _positive(A)


def _positive(A):
    """Hold A above 0, so that Y / A is finite for Y up to a million."""
    return np.maximum(A, 1e-32 if A.dtype == np.float32 else 1e-302)


def binary_cross_entropy(A, Y, out):
    """-Y log A - (1 - Y) log(1 - A), summed over the outputs; A and 1 - A are held above 0."""
    out[...] = _probability_loss("binary_cross_entropy", _parts(A), Y)


def binary_cross_entropy_derivative(A, Y, out):
    """Return (A - Y) / (A (1 - A)); A and 1 - A are held above 0."""
    A, B, *_ = parts = _parts(A)
    out[...] = _probability_slope("binary_cross_entropy", parts, Y) / (A * B)


def focal(A, Y, gamma, out):
    """-Y (1 - A)^gamma log A - (1 - Y) A^gamma log(1 - A) (Lin et al., 2017); A and 1 - A are held above 0."""
    out[...] = _probability_loss("focal", _parts(A), Y, gamma)


def focal_derivative(A, Y, gamma, out):
    """Its derivative; A and 1 - A are held above 0."""
    A, B, *_ = parts = _parts(A)
    out[...] = _probability_slope("focal", parts, Y, gamma) / (A * B)


def _parts(A):
    """Return A, B, log A, log B of probabilities A and B = 1 - A, held above 0: by half an eps B can tell from 0."""
    A, B = np.maximum(A, np.finfo(A.dtype).tiny), np.maximum(1 - A, np.finfo(A.dtype).epsneg)
    return A, B, np.log(A), np.log(B)


def _probability_loss(loss, parts, Y, gamma=0):
    """Losses of probabilities from their `_parts`, summed over the outputs."""
    A, B, log_A, log_B = parts
    of_ones, of_zeros = -log_A, -log_B
    if loss == "focal":
        of_ones, of_zeros = np.exp(gamma * log_B) * of_ones, np.exp(gamma * log_A) * of_zeros
    if loss in ("cross_entropy", "poisson"):
        return (Y * of_ones + (A if loss == "poisson" else 0)).sum(axis=1)
    return (Y * of_ones + (1 - Y) * of_zeros).sum(axis=1)


def _probability_slope(loss, parts, Y, gamma=0):
    """Their derivatives by A, times A (1 - A): finite, and nothing in it cancels where A is near 0 or 1."""
    A, B, log_A, log_B = parts
    if loss == "cross_entropy":
        return -Y * B
    if loss == "poisson":
        return ((1 - Y) * A - Y * B) * B
    of_ones, of_zeros = -B, A
    if loss == "focal":
        of_ones = np.exp(gamma * log_B) * (gamma * A * log_A - B)
        of_zeros = np.exp(gamma * log_A) * (A - gamma * B * log_B)
    return Y * of_ones + (1 - Y) * of_zeros


def binary_cross_entropy_logits(Z, Y, out):
    """binary_cross_entropy of sigmoid(Z), from Z: softplus(Z) - Z Y, finite for every Z."""
    Z = _finite(Z)
    out[...] = (np.maximum(Z, 0) - Z * Y + np.log1p(np.exp(-np.abs(Z)))).sum(axis=1)


def cross_entropy(A, Y, out):
    """-log of the probability A gives to the true class; A is held above 0.

    Y holds class labels, int64 (n_samples,), or rows of probabilities: then -sum of Y log A.  The loss of a label
    that is no class is NaN.
    """
    A = np.maximum(A, np.finfo(A.dtype).tiny)
    out[...] = -np.log(_at_labels(A, Y)) if Y.ndim == 1 else (-Y * np.log(A)).sum(axis=1)


def cross_entropy_derivative(A, Y, out):
    """-Y / A (labels: Y is 1 at the label, 0 elsewhere); A is held above 0."""
    out[...] = -_rows(Y, A) / np.maximum(A, np.finfo(A.dtype).tiny)


def cross_entropy_logits(Z, Y, out):
    """cross_entropy of softmax(Z), from Z: log of the sum of exp(Z), less Z of the class; finite for every Z."""
    Z = _finite(Z)
    Z = Z - Z.max(axis=1, keepdims=True)
    log_A = Z - np.log(np.exp(Z).sum(axis=1, keepdims=True))
    out[...] = -_at_labels(log_A, Y) if Y.ndim == 1 else (-Y * log_A).sum(axis=1)


def _sigmoid_parts(Z):
    """`_parts` of A = sigmoid(Z), from Z."""
    A, B, rest = np.empty_like(Z), np.empty_like(Z), np.log1p(np.exp(-np.abs(Z)))
    sigmoid(Z, A)
    sigmoid(-Z, B)
    return A, B, np.minimum(Z, 0) - rest, -np.maximum(Z, 0) - rest


def _softmax_parts(Z, A):
    """`_parts` of A = softmax(Z), from Z; and the softmax of those outputs of a row that are up to 1/2, 0 for others.

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


def _logit_loss(activation, loss, Z, A, Y, hyperparameters):
    """Losses of A = activation(Z) from Z, right however large Z is."""
    if loss == "poisson" and activation != "sigmoid" and activation != "softmax":
        log_A = Z if activation == "exponential" else np.where(Z < LINEAR_LOG[Z.dtype.name], Z, np.log(A))
        return (A - Y * log_A).sum(axis=1)
    if activation == "softmax":
        return _probability_loss(loss, _softmax_parts(Z, A)[0], Y, *hyperparameters)
    return _probability_loss(loss, _sigmoid_parts(Z), _rows(Y, A), *hyperparameters)


LINEAR_LOG = {"float32": -20.0, "float64": -40.0}  # below, softplus(Z) is exp(Z) to the last digit


def _logit_slope(activation, loss, Z, A, Y, hyperparameters):
    """Their derivatives by Z."""
    if activation == "exponential":
        return A - Y
    if activation == "softplus":
        slope = np.empty_like(Z)
        sigmoid(Z, slope)
        return slope - Y * np.where(Z < LINEAR_LOG[Z.dtype.name], 1, slope / A)
    if activation == "sigmoid":
        return _probability_slope(loss, _sigmoid_parts(Z), _rows(Y, A), *hyperparameters)
    # slope[j] - sum over i != j of slope[i] A[j] / (1 - A[i]); where A[i] is above 1/2 the share is a softmax of others
    parts, share = _softmax_parts(Z, A)
    slope, is_large = _probability_slope(loss, parts, Y, *hyperparameters), A > 0.5
    large = np.where(is_large, slope, 0).sum(axis=1, keepdims=True)
    slope = np.where(is_large, slope, slope / parts[1])
    total = np.where(is_large, 0, slope).sum(axis=1, keepdims=True)
    return slope - A * total - share * large


def _rows(Y, like):
    """Targets as rows: class labels become one-hot rows, and rows of NaN where they are no class."""
    if Y.ndim == 2:
        return Y
    is_class = _are_classes(Y, like.shape[1])
    rows = np.zeros_like(like)
    rows[np.flatnonzero(is_class), Y[is_class]] = 1
    rows[~is_class] = np.nan
    return rows


def _at_labels(A, Y):
    """Element of each row at its label; NaN where the label is no class."""
    is_class = _are_classes(Y, A.shape[1])
    return np.where(is_class, A[np.arange(len(Y)), np.where(is_class, Y, 0)], np.nan)


def _are_classes(Y, n_out):
    return (Y >= 0) & (Y < n_out)
