"""The NumPy twin of every public kernel, and of the engine: backpropagation in plain code.

Rows are samples.  W is (n_in, n_out), so Z = A_prev @ W + b.  Every twin has the name and the arguments of its
kernel in `fastbp.kernels`, writes its result into `out` (its last argument) and returns None; `out` may be the
same array as any other argument of its shape.  float32 stays float32, float64 stays float64.
"""

import math
from functools import partial
from itertools import pairwise
from math import erfc, sqrt
from typing import NamedTuple

import numpy as np

from . import checks, interrupts
from .losses import name_of, settings_of, smoothing_classes
from .own import Own

# ------------------------------------------------------------------ exp and log


def exp(x, out):
    """Exponential, elementwise."""
    with np.errstate(over="ignore"):
        out[...] = np.exp(x)


def log(x, out):
    """Natural logarithm, elementwise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        out[...] = np.log(x)


# ------------------------------------------------------------------ activations: A = f(Z), and f'(Z)


def sigmoid(Z, out):
    """Logistic function 1 / (1 + exp(-Z)); exp is only taken of numbers <= 0, so it cannot overflow."""
    E = np.exp(-np.abs(Z))
    out[...] = np.where(Z >= 0, 1 / (1 + E), E / (1 + E))


def sigmoid_derivative(Z, A, out):
    """Return A (1 - A)."""
    out[...] = A * (1 - A)


def tanh(Z, out):
    """Hyperbolic tangent."""
    out[...] = np.tanh(Z)


def tanh_derivative(Z, A, out):
    """1 - A^2."""
    out[...] = 1 - A * A


def relu(Z, out):
    """Z where positive, else 0."""
    out[...] = np.maximum(Z, 0)


def relu_derivative(Z, A, out):
    """1 where Z > 0, else 0."""
    out[...] = np.where(Z > 0, 1, 0)


def leaky_relu(Z, out):
    """Z where positive, else 0.01 Z."""
    out[...] = np.where(Z > 0, Z, 0.01 * Z)


def leaky_relu_derivative(Z, A, out):
    """1 where Z > 0, else 0.01."""
    out[...] = np.where(Z > 0, 1, 0.01)


def elu(Z, out):
    """Z where positive, else exp(Z) - 1."""
    out[...] = np.where(Z > 0, Z, np.expm1(np.minimum(Z, 0)))


def elu_derivative(Z, A, out):
    """1 where Z > 0, else exp(Z)."""
    out[...] = np.where(Z > 0, 1, np.exp(np.minimum(Z, 0)))


def softplus(Z, out):
    """log(1 + exp(Z)), written so that exp cannot overflow."""
    out[...] = np.maximum(Z, 0) + np.log1p(np.exp(-np.abs(Z)))


def softplus_derivative(Z, A, out):
    """Logistic function of Z."""
    sigmoid(Z, out)


def silu(Z, out):
    """Z times the logistic function of Z (0 at minus infinity)."""
    S = np.empty_like(Z)
    sigmoid(Z, S)
    out[...] = _away_from_minus_inf(Z) * S


def silu_derivative(Z, A, out):
    """S + Z S (1 - S), S the logistic function of Z."""
    S = np.empty_like(Z)
    sigmoid(Z, S)
    out[...] = S + _away_from_inf(Z) * S * (1 - S)


def gelu(Z, out):
    """Z Phi(Z), Phi the distribution function of the normal law (Hendrycks and Gimpel, 2016)."""
    out[...] = _away_from_minus_inf(Z) * _normal_cdf(Z)


def gelu_derivative(Z, A, out):
    """Phi(Z) + Z phi(Z), phi the density of the normal law."""
    bounded = _away_from_inf(Z)
    out[...] = _normal_cdf(Z) + bounded * np.exp(-0.5 * bounded * bounded) / sqrt(2 * np.pi)


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def selu(Z, out):
    """Z where positive, else 1.6733 (exp(Z) - 1); times 1.0507 (Klambauer et al., 2017)."""
    out[...] = SELU_SCALE * np.where(Z > 0, Z, SELU_ALPHA * np.expm1(np.minimum(Z, 0)))


def selu_derivative(Z, A, out):
    """1 where Z > 0, else 1.6733 exp(Z); times 1.0507."""
    out[...] = SELU_SCALE * np.where(Z > 0, 1, SELU_ALPHA * np.exp(np.minimum(Z, 0)))


def mish(Z, out):
    """Z tanh(softplus(Z)) (Misra, 2019)."""
    S = np.empty_like(Z)
    softplus(Z, S)
    out[...] = _away_from_minus_inf(Z) * np.tanh(S)


def mish_derivative(Z, A, out):
    """T + Z S (1 - T^2), T = tanh(softplus(Z)), S the logistic function of Z."""
    S, T = np.empty_like(Z), np.empty_like(Z)
    sigmoid(Z, S)
    softplus(Z, T)
    T = np.tanh(T)
    out[...] = T + _away_from_inf(Z) * S * (1 - T * T)


def softsign(Z, out):
    """Z / (1 + abs(Z))."""
    Z = _finite(Z)
    out[...] = Z / (1 + np.abs(Z))


def softsign_derivative(Z, A, out):
    """1 / (1 + abs(Z))^2."""
    root = 1 / (1 + np.abs(Z))
    out[...] = root * root


def hard_sigmoid(Z, out):
    """Z + 3, held within [0, 6], over 6: the logistic function in three straight lines."""
    out[...] = np.clip(Z + 3, 0, 6) / 6


def hard_sigmoid_derivative(Z, A, out):
    """1/6 where -3 < Z < 3, else 0."""
    out[...] = np.where(np.abs(Z) < 3, 1 / 6, 0)


def hard_tanh(Z, out):
    """Z, held within [-1, 1]."""
    out[...] = np.clip(Z, -1, 1)


def hard_tanh_derivative(Z, A, out):
    """1 where -1 < Z < 1, else 0."""
    out[...] = np.where(np.abs(Z) < 1, 1, 0)


def exponential(Z, out):
    """exp(Z)."""
    exp(Z, out)


def exponential_derivative(Z, A, out):
    """Return A."""
    out[...] = A


def identity(Z, out):
    """Z itself."""
    out[...] = Z


def identity_derivative(Z, A, out):
    """1."""
    out[...] = 1


def softmax(Z, out):
    """exp(Z) / sum of exp(Z) over each row; the row's largest Z is taken off first."""
    Z = _finite(Z)
    E = np.exp(Z - Z.max(axis=1, keepdims=True))
    out[...] = E / E.sum(axis=1, keepdims=True)


def softmax_backward(A, dA, out):
    """Output gradient dA to delta through a softmax: A (dA - sum of dA A over the row)."""
    out[...] = A * (dA - (dA * A).sum(axis=1, keepdims=True))


_normal_cdf = np.vectorize(lambda z: 0.5 * erfc(-z / sqrt(2)), otypes=[float])


def _away_from_minus_inf(Z):
    """Keep -inf * 0 away: beyond -750 exp(Z) is 0 in float64."""
    return np.maximum(Z, -750)


def _away_from_inf(Z):
    return np.clip(Z, -750, 750)


def _finite(Z):
    """Infinities as very large numbers, so that no difference of two of them is a NaN."""
    return np.clip(Z, -np.finfo(Z.dtype).max / 8, np.finfo(Z.dtype).max / 8)


# ------------------------------------------------------------------ one layer


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
    """Write each sample's own dW and db, as one row, into the columns of `out` from `first` on."""
    n_samples, n_weights = len(delta), A_prev.shape[1] * delta.shape[1]
    out[:, first : first + n_weights] = (A_prev[:, :, None] * delta[:, None, :]).reshape(n_samples, n_weights)
    out[:, first + n_weights : first + n_weights + delta.shape[1]] = delta


# ------------------------------------------------------------------ losses: of each sample, and dE/dA


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


def _logit_loss(activation, loss, Z, A, Y, numbers):
    """Losses of A = activation(Z) from Z, right however large Z is."""
    if loss == "poisson" and activation != "sigmoid" and activation != "softmax":
        log_A = Z if activation == "exponential" else np.where(Z < LINEAR_LOG[Z.dtype.name], Z, np.log(A))
        return (A - Y * log_A).sum(axis=1)
    if activation == "softmax":
        return _probability_loss(loss, _softmax_parts(Z, A)[0], Y, *numbers)
    return _probability_loss(loss, _sigmoid_parts(Z), _rows(Y, A), *numbers)


LINEAR_LOG = {"float32": -20.0, "float64": -40.0}  # below, softplus(Z) is exp(Z) to the last digit


def _logit_slope(activation, loss, Z, A, Y, numbers):
    """Their derivatives by Z."""
    if activation == "exponential":
        return A - Y
    if activation == "softplus":
        slope = np.empty_like(Z)
        sigmoid(Z, slope)
        return slope - Y * np.where(Z < LINEAR_LOG[Z.dtype.name], 1, slope / A)
    if activation == "sigmoid":
        return _probability_slope(loss, _sigmoid_parts(Z), _rows(Y, A), *numbers)
    # slope[j] - sum over i != j of slope[i] A[j] / (1 - A[i]); where A[i] is above 1/2 the share is a softmax of others
    parts, share = _softmax_parts(Z, A)
    slope, is_large = _probability_slope(loss, parts, Y, *numbers), A > 0.5
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


# ------------------------------------------------------------------ updates and shuffling


def sgd(gradient, lr, parameters):
    """Gradient descent, in place: parameters -= lr * gradient."""
    parameters -= lr * gradient


def sgd_momentum(gradient, lr, momentum, nesterov, velocity, parameters):
    """Gradient descent with momentum, in place, in PyTorch's form (Sutskever et al., 2013)."""
    velocity[...] = momentum * velocity + gradient
    parameters -= lr * (gradient + momentum * velocity if nesterov else velocity)


def _row_seeds(key, step, layer, rows):
    """64 random bits of each row: SplitMix64's mixing function (Steele, Lea and Flood 2014) of the four numbers."""
    key, step, layer = (np.uint64(int(number) % 2**64) for number in (key, step, layer))
    factors = [np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xD1342543DE82EF95, 0xF1357AEA2E62A9C5)]
    with np.errstate(over="ignore"):
        z = key + step * factors[0] + layer * factors[1] + np.asarray(rows, np.uint64) * factors[2]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _random_bits(seeds, columns):
    """32 random bits of each column of each row: the integer hash "lowbias32" (C. Wellons)."""
    x = seeds.astype(np.uint32)[:, None] + np.arange(columns, dtype=np.uint32) * np.uint32(0x9E3779B9)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _random_unit(seeds, columns):
    """Random numbers within (0, 1), of 23 bits each."""
    return ((_random_bits(seeds, columns) >> np.uint32(9)) + 0.5) * 2.0**-23


def dropout(A, key, step, layer, rate, out):
    """Inverted dropout (Srivastava et al. 2014): A / (1 - rate) where kept, else 0."""
    threshold = int(rate * 2**32)
    keeps = _random_bits(_row_seeds(key, step, layer, np.arange(len(A))), A.shape[1]) >= threshold
    out[...] = np.where(keeps, A * (2.0**32 / (2**32 - threshold)), 0)


def input_noise(X, key, step, deviation, out):
    """X + deviation * normal random numbers (Box and Muller 1958)."""
    seeds = _row_seeds(key, step, -1, np.arange(len(X)))
    length = np.sqrt(-2 * np.log(_random_unit(seeds, X.shape[1])))
    cosine = np.cos(2 * np.pi * (_random_unit(seeds >> np.uint64(32), X.shape[1]) - 0.5))
    out[...] = X + deviation * (length * cosine)


def rmsprop(gradient, lr, rho, eps, square, parameters):
    """RMSprop (Tieleman and Hinton, 2012), in place."""
    square[...] = rho * square + (1 - rho) * gradient**2
    parameters -= lr * gradient / (np.sqrt(square) + eps)


def adagrad(gradient, lr, eps, total, parameters):
    """Adagrad (Duchi, Hazan and Singer, 2011), in place."""
    total += gradient**2
    parameters -= lr * gradient / (np.sqrt(total) + eps)


def adam(gradient, lr, beta1, beta2, eps, memory, m, v, parameters):
    """Adam (Kingma and Ba, 2015), in place; memory holds beta1**t and beta2**t, 1 before the first step."""
    memory[:2] *= beta1, beta2
    m[...] = beta1 * m + (1 - beta1) * gradient
    v[...] = beta2 * v + (1 - beta2) * gradient**2
    power1, power2 = memory[:2].tolist()
    parameters -= lr / (1 - power1) * m / (np.sqrt(v) / sqrt(1 - power2) + eps)


def adamw(gradient, lr, beta1, beta2, eps, weight_decay, memory, m, v, parameters):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), in place."""
    parameters *= 1 - lr * weight_decay
    adam(gradient, lr, beta1, beta2, eps, memory, m, v, parameters)


def nadam(gradient, lr, beta1, beta2, eps, decay, memory, m, v, parameters):
    """Adam with Nesterov's momentum (Dozat, 2016), in place; memory: mu[1] ... mu[t], beta2**t, decay**t."""
    memory[1:3] *= beta2, decay
    mu, next_mu = (float(beta1 * (1 - 0.5 * power)) for power in (memory[2], memory[2] * decay))
    memory[0] *= mu
    product, power2, _ = memory[:3].tolist()
    m[...] = beta1 * m + (1 - beta1) * gradient
    v[...] = beta2 * v + (1 - beta2) * gradient**2
    ahead = next_mu / (1 - product * next_mu) * m + (1 - mu) / (1 - product) * gradient
    parameters -= lr * ahead / (np.sqrt(v) / sqrt(1 - power2) + eps)


def lion(gradient, lr, beta1, beta2, weight_decay, m, parameters):
    """Lion (Chen et al., 2023), in place."""
    parameters *= 1 - lr * weight_decay
    parameters -= lr * np.sign(beta1 * m + (1 - beta1) * gradient)
    m[...] = beta2 * m + (1 - beta2) * gradient


def rprop(gradient, lr, eta_minus, eta_plus, least, most, last, step, parameters):
    """Resilient propagation (iRprop-: Igel and Hüsken, 2000), in place; a step of 0 is none yet: then it is lr."""
    agreement = np.sign(gradient) * np.sign(last)
    step[step == 0] = lr
    step *= np.where(agreement > 0, eta_plus, np.where(agreement < 0, eta_minus, 1))
    np.clip(step, least, most, out=step)
    last[...] = np.where(agreement < 0, 0, gradient)
    parameters -= np.sign(last) * step


def rule_step(rule, numbers, lr, memory, gradient, buffers, parameters):
    """Make one whole update by the rule of this name, in place.

    Parameters
    ----------
    rule, numbers : str, sequence of float
        One of `kernels.optimizers.RULES`, and its settings in the order documented there.
    lr : float
    memory : float64 ndarray
        Running products of the rule, all 1 at the start.
    gradient, parameters : ndarray (n_parameters,)
    buffers : ndarray (n_states, n_parameters)
        All 0 at the start.
    """
    if rule in ("momentum", "nesterov"):
        sgd_momentum(gradient, lr, *numbers, rule == "nesterov", *buffers, parameters)
    else:
        memory = [memory] if rule in ("adam", "adamw", "nadam") else []
        _twin(rule)(gradient, lr, *numbers, *memory, *buffers, parameters)


def penalize(parameters, l1, l2, gradient):
    """Add the gradient of l1 * sum |parameters| + l2 / 2 * sum parameters**2, in place."""
    gradient += l2 * parameters + l1 * np.sign(parameters)


def clip_value(limit, gradient):
    """Hold every element within [-limit, limit], in place."""
    np.clip(gradient, -limit, limit, out=gradient)


def clip_norm(limit, gradient):
    """Scale so that the Euclidean norm is at most `limit` (Pascanu, Mikolov and Bengio, 2013), in place."""
    norm = float(np.linalg.norm(gradient.astype(np.float64)))
    if norm > limit:
        gradient *= limit / norm


def max_norm(limit, W):
    """Scale columns so that the norm of none is above `limit` (Srebro and Shraibman, 2005), in place."""
    norms = np.linalg.norm(W, axis=0)
    W *= np.where(norms > limit, limit / np.maximum(norms, limit), 1)


# ------------------------------------------------------------------ learning rates


def _step(rate, gamma, every, *, t):
    return rate * gamma ** (t // every)


def _exponential(rate, gamma, *, t):
    return rate * gamma**t


def _inverse_scaling(rate, power, *, t):
    return rate / (t + 1) ** power


def _cosine(rate, least, warmup, period, multiplier, *, t):
    since = np.maximum(t - warmup, 0)
    if multiplier == 0:
        share = np.minimum(since / period, 1)
    elif multiplier == 1:
        share = since % period / period
    else:  # the k-th period starts after period * (multiplier**k - 1) / (multiplier - 1) steps
        lengths = period * multiplier ** np.arange(64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        k = np.searchsorted(starts, since, side="right") - 1
        share = (since - starts[k]) / lengths[k]
    falling = least + (rate - least) * (1 + np.cos(np.pi * share)) / 2
    return np.where(t < warmup, rate * (t + 1) / (warmup + 1), falling)


def _one_cycle(first, highest, last, top, steps, *, t):
    rising = highest + (first - highest) * (1 + np.cos(np.pi * np.minimum(t / top, 1))) / 2
    share = (np.clip(t, top, steps - 1) - top) / (steps - 1 - top)
    return np.where(t <= top, rising, last + (highest - last) * (1 + np.cos(np.pi * share)) / 2)


def _piecewise(n, *numbers, t):
    boundaries, rates = np.split(np.array(numbers), [int(n)])
    return rates[np.searchsorted(boundaries, t, side="right")]


# In the order of `kernels.schedules.KINDS`; t is the step, a float64 array.
RATES = {
    "constant": lambda rate, *, t: np.full_like(t, rate),
    "step": _step,
    "exponential": _exponential,
    "inverse_scaling": _inverse_scaling,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
    "piecewise": _piecewise,
}


def learning_rate(kind, numbers, steps, out):
    """Learning rates of some steps; kind is the number, or the name, of a schedule."""
    rate = RATES[kind] if isinstance(kind, str) else list(RATES.values())[kind]
    out[...] = rate(*np.asarray(numbers).tolist(), t=np.asarray(steps, np.float64))


def shuffle(words, order):
    """Fisher-Yates shuffle of 0 ... n-1 into `order` (int64), from n random 32-bit words (Knuth, TAOCP 3.4.2 P)."""
    order[...] = np.arange(len(order))
    for i in range(len(order) - 1, 0, -1):
        j = (int(words[i]) * (i + 1)) >> 32
        order[i], order[j] = order[j], order[i]


# ------------------------------------------------------------------ metrics: counts and sums, added to those given


def class_counts(A, Y, counts):
    """Of each class the samples that are right, are predicted to be it, and are it; added to counts (3, n_out).

    The class is the first largest number of a row, NaN being none; Y may hold labels (n_samples,).
    """
    predicted, true = _classes(A), _classes(Y, A.shape[1])
    for row, classes in zip(counts, (true[predicted == true], predicted, true), strict=True):
        row += np.bincount(classes, minlength=len(row))


def label_counts(A, Y, threshold, counts, right):
    """Of each output the samples where yes, above the threshold, is right, is predicted, is true; all right."""
    predicted, true = A > threshold, Y > threshold
    for row, yes in zip(counts, (predicted & true, predicted, true), strict=True):
        row += yes.sum(axis=0)
    right += (predicted == true).all(axis=1).sum()


def top_counts(A, Y, k, right):
    """Count the samples whose class has one of the k largest outputs; of equal ones the later class is the larger."""
    largest = np.argsort(A, axis=1, kind="stable")[:, ::-1][:, :k]
    right += (largest == _classes(Y, A.shape[1])[:, None]).any(axis=1).sum()


def error_sums(A, Y, totals):
    """Sum up the errors D = Y - A of each output, in rows of totals (7, n_out).

    Number of samples, sum of |D|, sum of D^2, mean of D, sum of (D - mean)^2, and the latter two of Y.  Means and
    squares of these samples are joined to the given ones by Chan, Golub and LeVeque's formula (1979).
    """
    Y = Y.astype(np.float64)
    D = Y - A
    n, m = totals[0].copy(), len(A)
    totals[0] += m
    totals[1] += np.abs(D).sum(axis=0)
    totals[2] += (D * D).sum(axis=0)
    for (mean, squares), V in zip((totals[3:5], totals[5:7]), (D, Y), strict=True):
        own = V.mean(axis=0)
        step = own - mean
        squares += ((V - own) ** 2).sum(axis=0) + step * step * n * m / (n + m)
        mean += step * m / (n + m)


def _classes(Y, n_out=None):
    if Y.ndim == 1:
        if not _are_classes(Y, n_out).all():
            raise ValueError("Y holds a label that is no class: labels must be 0 to n_out - 1")
        return Y
    largest = np.where(np.isnan(Y), -np.inf, Y).max(axis=1, keepdims=True)
    return (Y == largest).argmax(axis=1)


# ------------------------------------------------------------------ the whole network


class Pass(NamedTuple):
    """Every intermediate of one forward and backward pass; a list has one entry per layer."""

    Z: list
    A: list  # A[0] is X times the scale, so A[l] belongs to Z[l - 1]
    delta: list | None = None
    gradient: np.ndarray | None = None  # flat, as the parameters
    dX: np.ndarray | None = None
    losses: np.ndarray | None = None


def layer_views(flat, sizes):
    """Return lists of the weights and biases inside a flat array [W1, b1, W2, b2, ...] (views, no copy)."""
    weights, biases, start = [], [], 0
    for n_in, n_out in pairwise(sizes):
        middle, stop = start + n_in * n_out, start + n_in * n_out + n_out
        weights.append(flat[start:middle].reshape(n_in, n_out))
        biases.append(flat[middle:stop])
        start = stop
    return weights, biases


class NumpyBackend:
    """Prediction, gradients and training of one network in plain NumPy; the methods are those of the engine.

    Parameters
    ----------
    sizes : tuple of int
    activations : tuple of str or Activation
    loss : str, or an object of `fastbp.losses`
    reduction : "mean" or "sum"
    dtype : numpy.dtype
    scale : float
        Factor of the inputs.
    """

    # With these pairs of output activation and loss the derivatives cancel to delta = A - Y ...
    FUSED = {("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy")}
    # ... and with these both come from Z too, since A or 1 - A may be rounded to 0 where the loss is of order 1.
    LOGIT_FORMS = {
        ("sigmoid", "cross_entropy"),
        ("sigmoid", "focal"),
        ("sigmoid", "poisson"),
        ("softmax", "binary_cross_entropy"),
        ("softmax", "focal"),
        ("softmax", "poisson"),
        ("softplus", "poisson"),
        ("exponential", "poisson"),
    }

    def __init__(self, sizes, activations, loss, reduction, dtype, scale=1.0):
        self.sizes, self.activations, self.loss, self.reduction = sizes, activations, loss, reduction
        self.dtype, self.scale = np.dtype(dtype), scale
        pair = self.pair = activations[-1], name_of(loss)
        self.fused, self.has_logit_form = pair in self.FUSED, pair in self.LOGIT_FORMS
        self.numbers = settings_of(loss).values()  # what the loss takes besides A and Y

    def predict(self, parameters, X):
        """Output activations (n_samples, n_out), of samples that must be finite."""
        checks.finite("X", X, self.dtype)
        return self.record(parameters, X).A[-1]

    def losses(self, parameters, X, Y):
        """Loss of every sample, float64 (n_samples,)."""
        with np.errstate(all="ignore"):
            return self.sample_losses(*self.forward(parameters, X), Y)

    def outputs_and_losses(self, parameters, X, Y):
        """Output activations and the loss of every sample."""
        with np.errstate(all="ignore"):
            Z, A = self.forward(parameters, X)
            return A[-1], self.sample_losses(Z, A, Y)

    def gradient(self, parameters, X, Y, weights=None):
        """Losses of the samples and the flat gradient of the reduced loss, both with the samples' weights, if any."""
        with np.errstate(all="ignore"):
            Z, A = self.forward(parameters, X)
            losses, delta = self.sample_losses(Z, A, Y), self.output_delta(Z[-1], A[-1], Y)
            if weights is not None:
                losses, delta = losses * weights, delta * weights[:, None]
            return losses, self.backward(parameters, Z, A, delta)[1]

    def gradient_from(self, parameters, X, dA):
        """Flat gradient for an output gradient dA."""
        return self.record(parameters, X, dA=dA).gradient

    def input_gradient(self, parameters, X, Y):
        """Gradient of the reduced loss with respect to X."""
        return self.record(parameters, X, Y).dX

    def record(self, parameters, X, Y=None, dA=None):
        """Forward, and with targets Y or an output gradient dA also backward: every intermediate."""
        with np.errstate(all="ignore"):  # a diverging training is told by its losses
            Z, A = self.forward(parameters, X)
            if Y is None and dA is None:
                return Pass(Z, A)
            if dA is None:
                losses, output_delta = self.sample_losses(Z, A, Y), self.output_delta(Z[-1], A[-1], Y)
            else:
                losses, output_delta = None, self.through_activation(-1, Z[-1], A[-1], dA)
            delta, gradient, dX = self.backward(parameters, Z, A, output_delta)
            return Pass(Z, A, delta, gradient, dX, losses)

    def forward(self, parameters, X):
        """Z and A of every layer; A[0] is X times the scale."""
        Z, A = [], [self.inputs(X)]
        for W, b, activation in zip(*layer_views(parameters, self.sizes), self.activations, strict=True):
            Z.append(_result(affine_forward, A[-1], W, b, shape=(len(X), W.shape[1])))
            A.append(_result(_twin(activation), Z[-1], shape=Z[-1].shape))
        return Z, A

    def inputs(self, X):
        """A0: the samples in the dtype of the network, times the scale."""
        X = X.astype(self.dtype, copy=False)
        return X if self.scale == 1 else X * self.dtype.type(self.scale)

    def sample_losses(self, Z, A, Y):
        """Loss of every sample from the outputs; from Z where the output activation allows it."""
        if self.fused:
            losses = _result(_twin(f"{self.loss}_logits"), Z[-1], Y, shape=len(Y))
        elif self.has_logit_form:
            losses = _logit_loss(*self.pair, Z[-1], A[-1], Y, self.numbers)
        else:
            losses = _result(_twin(self.loss), A[-1], Y, *self.numbers, shape=len(Y))
        return losses.astype(np.float64)

    def output_delta(self, Z, A, Y):
        """Delta of the last layer: dE/dA * f'(Z), and the 1/n of the mean."""
        if self.fused:
            delta = A - _rows(Y, A)
        elif self.has_logit_form:
            delta = _logit_slope(*self.pair, Z, A, Y, self.numbers)
        else:
            dA = _result(_twin(self.loss, "_derivative"), A, Y, *self.numbers, shape=A.shape)
            delta = self.through_activation(-1, Z, A, dA)
        return delta / len(A) if self.reduction == "mean" else delta

    def through_activation(self, layer, Z, A, dA):
        """Delta of a layer from the gradient of its output: dA * f'(Z)."""
        activation = self.activations[layer]
        if activation == "softmax":
            return _result(softmax_backward, A, dA, shape=A.shape)
        return dA * _result(_twin(activation, "_derivative"), Z, A, shape=A.shape)

    def backward(self, parameters, Z, A, delta):
        """From the output delta back to the input: every delta, the flat gradient, and dX."""
        weights, _ = layer_views(parameters, self.sizes)
        gradient = np.empty_like(parameters)
        dW, db = layer_views(gradient, self.sizes)
        deltas = [delta]
        for layer in reversed(range(len(weights))):
            weight_gradient(A[layer], deltas[0], dW[layer])
            bias_gradient(deltas[0], db[layer])
            dA = deltas[0] @ weights[layer].T
            if layer > 0:
                deltas.insert(0, self.through_activation(layer - 1, Z[layer - 1], A[layer], dA))
        return deltas, gradient, dA * self.dtype.type(self.scale)

    def training(self, parameters, state, *, batch_size, order, update, threads=0):
        """Return a function that updates `parameters` in place over batches of many epochs; see `Trainer`.

        Parameters
        ----------
        parameters : (n_parameters,)
        state : fastbp.update.State, advanced in place.
        batch_size : int
        order : int64 (n_samples,), in and out.
        update : fastbp.update.Update
        threads : ignored.

        Returns
        -------
        callable
            ``train(X, Y, weights, words, first_batch, last_batch, losses)`` with samples and targets, of a stream more
            of them than `order` names; their weights or None; words uint32 (n_epochs, n_samples) for the shuffles, or
            None.  It does batches first_batch .. last_batch - 1 of the first epoch, 0 .. last_batch - 1 of the others.
            To `losses`, float64 (n_epochs,), the sum of the sample losses of each epoch is added.  It returns the steps
            done; fewer than asked for: the loss of the next one is not finite.
        """
        return partial(self._train, parameters, state, batch_size, order, update)

    def _train(
        self, parameters, state, batch_size, order, update, X, Y, weights, words, first_batch, last_batch, losses
    ):
        steps = 0
        for epoch in range(len(losses)):
            first = first_batch if epoch == 0 else 0
            if words is not None and first == 0:
                shuffle(words[epoch], order)
            for batch in range(first, last_batch):
                rows = order[batch * batch_size : (batch + 1) * batch_size]
                lr = update.rate_scale * self.learning_rate(update, state.step)
                with interrupts.allowed():
                    sample_losses, gradient = self.noisy_gradient(
                        parameters, X[rows], Y[rows], update, state.step, None if weights is None else weights[rows]
                    )
                with np.errstate(over="ignore"):
                    total = losses[epoch] + sample_losses.sum()
                is_finite = np.isfinite(total)
                if not is_finite and not update.skips:
                    losses[epoch] = total
                    return steps
                with np.errstate(all="ignore"):
                    if is_finite:
                        losses[epoch] = total
                        self.step(parameters, gradient, update, lr, state.memory, state.buffers)
                    else:
                        state.skipped += 1
                state.step += 1
                steps += 1
        return steps

    def learning_rate(self, update, step):
        """Learning rate of one step."""
        rate = np.empty(1)
        learning_rate(update.schedule, update.rates, np.array([step]), rate)
        return float(rate[0])

    def noisy_gradient(self, parameters, X, Y, update, step, weights):
        """Losses of the samples and the flat gradient, as training sees them."""
        with np.errstate(all="ignore"):
            X = self.inputs(X)
            if update.input_noise:
                X = _result(input_noise, X, update.key, step, update.input_noise, shape=X.shape)
            if update.label_smoothing:
                K = smoothing_classes(self.loss, self.sizes[-1])
                Y = _rows(Y, np.empty((len(X), self.sizes[-1]), self.dtype))
                Y = (1 - update.label_smoothing) * Y + update.label_smoothing / K
            Z, A, kept = self.forward_with_dropout(parameters, X, update, step)
            losses, delta = self.sample_losses(Z, A, Y), self.output_delta(Z[-1], A[-1], Y)
            if weights is not None:
                losses, delta = losses * weights, delta * weights[:, None]
            parts, layers = [], list(zip(*layer_views(parameters, self.sizes), strict=True))
            for l in reversed(range(len(layers))):
                parts = [(kept[l].T @ delta).ravel(), delta.sum(axis=0), *parts]
                if l > 0:
                    dA = delta @ layers[l][0].T
                    if any(update.dropout):
                        dropout(dA, update.key, step, l - 1, update.dropout[l - 1], dA)
                    delta = self.through_activation(l - 1, Z[l - 1], A[l], dA)
            return losses, np.concatenate(parts)

    def forward_with_dropout(self, parameters, X, update, step):
        """Z and A of every layer, A[0] being X, and what dropout leaves of each A."""
        Z, A, kept = [], [X], [X]
        for l, (W, b) in enumerate(zip(*layer_views(parameters, self.sizes), strict=True)):
            Z.append(_result(affine_forward, kept[-1], W, b, shape=(len(X), W.shape[1])))
            A.append(_result(_twin(self.activations[l]), Z[-1], shape=Z[-1].shape))
            kept.append(A[-1])
            if any(update.dropout) and l < len(update.dropout):
                kept[-1] = _result(dropout, A[-1], update.key, step, l, update.dropout[l], shape=A[-1].shape)
        return Z, A, kept

    def step(self, parameters, gradient, update, lr, memory, buffers):
        """One update by the gradient of the data: penalties, clipping, the rule, the limit of the norms."""
        for W, dW in zip(layer_views(parameters, self.sizes)[0], layer_views(gradient, self.sizes)[0], strict=True):
            penalize(W, update.l1, update.l2, dW)
        if update.clip_value:
            clip_value(update.clip_value, gradient)
        if update.clip_norm:
            clip_norm(update.clip_norm, gradient)
        rule_step(update.rule, update.numbers, lr, memory, gradient, buffers, parameters)
        if update.max_norm:
            for W in layer_views(parameters, self.sizes)[0]:
                max_norm(update.max_norm, W)


def _twin(function, suffix=""):
    """Return the twin of an activation or loss, or with the suffix "_derivative" that of its derivative."""
    return function.twin(bool(suffix)) if isinstance(function, Own) else globals()[name_of(function) + suffix]


def _result(kernel, *arguments, shape):
    """Run a kernel on a new `out` of this shape, and return it."""
    out = np.empty(shape, arguments[0].dtype)
    kernel(*arguments, out)
    return out
