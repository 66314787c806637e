"""Losses: the value for each sample (the sum over its outputs) and the derivative by the outputs.

The engine fuses sigmoid with binary cross-entropy and softmax with cross-entropy: their delta is A - Y, and their
value comes from Z (the logits form), finite however far the outputs are saturated.  Twins: `fastbp.reference`.
"""
import numpy as np

from .elementwise import (
    _clamp,
    _exp,
    _expm1,
    _identity,
    _log,
    _log1p_of_unit,
    _relu,
    _tanh,
    map_block,
    softmax_row,
)
from .jit import inner, kernel, part
from .simd import (
    as_float,
    by_dtype,
    fabs,
    first_lanes,
    lanes,
    largest_of,
    load,
    load_part,
    offset,
    peek,
    pointer,
    poke,
    store,
    store_part,
    sum_of,
    where,
)

# ------------------------------------------------------- functions of one vector of outputs a and targets y

@inner
def _squared_error(a, y):
    d = a - y
    return d * d * 0.5


@inner
def _squared_error_derivative(a, y):
    return a - y


@inner
def _absolute_error(a, y):
    return fabs(a - y)


@inner
def _absolute_error_derivative(a, y):
    d = a - y
    return where(d > 0.0, 1.0, where(d < 0.0, d * 0.0 - 1.0, d * 0.0))


@inner
def _huber(a, y, threshold):
    d = fabs(a - y)
    return where(d < threshold, d * d * 0.5, (d - threshold * 0.5) * threshold)


@inner
def _huber_derivative(a, y, threshold):
    return _clamp(a - y, -threshold, threshold)


@inner
def _log_cosh(a, y):
    """log(cosh d): log1p(sinh(d)**2) / 2 for small d, |d| - log(2) + log1p(e**-2|d|) beyond."""
    d = fabs(a - y)
    t = _expm1(d * -2.0)
    decay = t + 1.0
    is_small = d < 0.875                           # then sinh(d)**2 = t**2 / (4 decay) is below 1
    log1p = _log1p_of_unit(where(is_small, t * t * 0.25 / decay, decay))
    return where(is_small, log1p * 0.5, d - 0.6931471805599453 + log1p)


@inner
def _log_cosh_derivative(a, y):
    return _tanh(a - y)


@inner
def _quantile(a, y, q):
    d = a - y
    return where(d > 0.0, d * (1.0 - q), d * -q)


@inner
def _quantile_derivative(a, y, q):
    d = a - y
    return where(d > 0.0, 1.0 - q, where(d < 0.0, -q, d))


@inner
def _hinge(a, y):
    return _relu(1.0 - a * y)


@inner
def _hinge_derivative(a, y):
    return where(a * y < 1.0, -y, 0.0)


@inner
def _positive(a):
    """Keep A above 0, so that its logarithm is finite, and y / a for y up to a million."""
    return _clamp(a, by_dtype(a, 1e-32, 1e-302), float("inf"))


@inner
def _poisson(a, y):
    return a - y * _log(_positive(a))


@inner
def _poisson_derivative(a, y):
    return 1.0 - y / _positive(a)


@inner
def _smallest(a):
    """Return the smallest probability that has a finite logarithm and reciprocal."""
    return by_dtype(a, 1.1754943508222875e-38, 2.2250738585072014e-308)


@inner
def _binary_cross_entropy(a, y):
    one_less = _clamp(1.0 - a, _smallest(a), 1.0)
    return -(y * _log(_clamp(a, _smallest(a), 1.0)) + (1.0 - y) * _log(one_less))


@inner
def _inside_01(a):
    """Keep A within [eps, 1 - eps]."""
    return _clamp(a, by_dtype(a, 1.1920929e-07, 2.220446049250313e-16), by_dtype(a, 0.9999999, 0.9999999999999998))


@inner
def _binary_cross_entropy_derivative(a, y):
    a = _inside_01(a)
    return (a - y) / (a * (1.0 - a))


@inner
def _focal(a, y, gamma):
    log_a, log_b = _log(_clamp(a, _smallest(a), 1.0)), _log(_clamp(1.0 - a, _smallest(a), 1.0))
    return -(y * _exp(log_b * gamma) * log_a + (1.0 - y) * _exp(log_a * gamma) * log_b)


@inner
def _focal_derivative(a, y, gamma):
    a = _inside_01(a)
    b = 1.0 - a
    log_a, log_b = _log(a), _log(b)
    of_ones = _exp(log_b * gamma) * (log_a * gamma / b - 1.0 / a)
    of_zeros = _exp(log_a * gamma) * (1.0 / b - log_b * gamma / a)
    return y * of_ones + (1.0 - y) * of_zeros


@inner
def _binary_cross_entropy_logits(z, y):
    """max(z, 0) - z * y + log(1 + e**-|z|), written so that a saturated, right output costs exactly 0."""
    return where(z < 0.0, -z * y, z * (1.0 - y)) + _log1p_of_unit(_exp(-fabs(z)))


@inner
def _cross_entropy(a, y):
    return -(y * _log(_clamp(a, _smallest(a), 1.0)))


@inner
def _cross_entropy_derivative(a, y):
    return -(y / _clamp(a, _smallest(a), 1.0))


# ------------------------------------------------------------------------------------------------ the table
# A loss is a line in each of these, two functions of one vector above, and a twin in fastbp/reference.py.

CODES = {name: code for code, name in enumerate(
    ["squared_error", "absolute_error", "huber", "binary_cross_entropy", "cross_entropy", "log_cosh", "quantile",
     "hinge", "poisson", "focal", "from_logits", "own"])}
(SQUARED_ERROR, ABSOLUTE_ERROR, HUBER, BINARY_CROSS_ENTROPY, CROSS_ENTROPY, LOG_COSH, QUANTILE, HINGE, POISSON, FOCAL,
 FROM_LOGITS, OWN) = CODES.values()                     # OWN is a user's, in leaves of its own (`own`)
NOT_FUSED, FUSED_SIGMOID, FUSED_SOFTMAX = range(3)      # whether the loss is fused with the output activation
Y_ROWS, Y_LABELS, Y_GRADIENT, Y_NONE = range(4)         # kinds of targets


@inner
def loss_value(code, number, a, y):
    """Return the loss with this code, and its number if it takes one; FROM_LOGITS is binary cross-entropy of z."""
    if code == ABSOLUTE_ERROR:
        return _absolute_error(a, y)
    if code == HUBER:
        return _huber(a, y, number)
    if code == BINARY_CROSS_ENTROPY:
        return _binary_cross_entropy(a, y)
    if code == CROSS_ENTROPY:
        return _cross_entropy(a, y)
    if code == LOG_COSH:
        return _log_cosh(a, y)
    if code == QUANTILE:
        return _quantile(a, y, number)
    if code == HINGE:
        return _hinge(a, y)
    if code == POISSON:
        return _poisson(a, y)
    if code == FOCAL:
        return _focal(a, y, number)
    if code == FROM_LOGITS:
        return _binary_cross_entropy_logits(a, y)
    return _squared_error(a, y)


@inner
def loss_derivative(code, number, a, y):
    """Its derivative by a; SQUARED_ERROR's, a - y, is also that of the fused losses by z."""
    if code == ABSOLUTE_ERROR:
        return _absolute_error_derivative(a, y)
    if code == HUBER:
        return _huber_derivative(a, y, number)
    if code == BINARY_CROSS_ENTROPY:
        return _binary_cross_entropy_derivative(a, y)
    if code == CROSS_ENTROPY:
        return _cross_entropy_derivative(a, y)
    if code == LOG_COSH:
        return _log_cosh_derivative(a, y)
    if code == QUANTILE:
        return _quantile_derivative(a, y, number)
    if code == HINGE:
        return _hinge_derivative(a, y)
    if code == POISSON:
        return _poisson_derivative(a, y)
    if code == FOCAL:
        return _focal_derivative(a, y, number)
    return _squared_error_derivative(a, y)


# ------------------------------------------------------------------------------------------ loops over rows

@inner
def sum_rows(code, number, a, y, out, rows, columns, row):
    """out[r] = sum over columns of loss(a, y), rows of `a` and `y` being `row` elements apart."""
    width = lanes(a)
    if row == 1:
        r = 0
        while r + width <= rows:
            store(out, r, loss_value(code, number, load(a, r), load(y, r)))
            r += width
        if r < rows:
            store_part(out, r, loss_value(code, number, load_part(a, r, rows - r), load_part(y, r, rows - r)), rows - r)
        return
    full = columns - columns % width
    for r in range(rows):
        at = r * row
        total = load_part(a, 0, 0)
        for j in range(0, full, width):
            total = total + loss_value(code, number, load(a, at + j), load(y, at + j))
        if full < columns:
            n = columns - full
            value = loss_value(code, number, load_part(a, at + full, n), load_part(y, at + full, n))
            total = total + first_lanes(value, n, 0.0)
        poke(out, r, sum_of(total))


@inner
def scaled_derivative(code, number, a, y, scale, out, n):
    """out[i] = scale * d loss / d a."""
    width = lanes(a)
    i = 0
    while i + width <= n:
        store(out, i, loss_derivative(code, number, load(a, i), load(y, i)) * scale)
        i += width
    if i < n:
        store_part(out, i, loss_derivative(code, number, load_part(a, i, n - i), load_part(y, i, n - i)) * scale, n - i)


@inner
def softmax_loss_rows(z, y, lse, out, rows, columns, row):
    """out[r] = sum of y * (lse - z): cross-entropy of softmax outputs, from the logits z and their lse[r]."""
    width = lanes(z)
    full = columns - columns % width
    for r in range(rows):
        at, normaliser = r * row, peek(lse, r)
        n = columns - full
        target = load_part(y, at + full, n)        # 0 * inf would be NaN: logits without weight are passed over
        total = where(target > 0.0, target * (normaliser - load_part(z, at + full, n)), 0.0)
        for j in range(0, full, width):
            target = load(y, at + j)
            total = total + where(target > 0.0, target * (normaliser - load(z, at + j)), 0.0)
        poke(out, r, sum_of(total))


@part
def label_gradient(a, labels, scale, out, rows, columns, row_distance, is_fused):
    """Cross-entropy by the outputs `a` for integer labels, or a - y itself for softmax outputs; times scale."""
    width = lanes(a)
    zero = load_part(a, 0, 0)
    one = zero + 1.0
    for r in range(rows):
        row, given, label = offset(out, r * row_distance), offset(a, r * row_distance), np.intp(peek(labels, r))
        factor = zero + scale
        if not is_fused:
            factor = zero
        for j in range(0, columns, width):
            n = min(width, columns - j)
            store_part(row, j, load_part(given, j, n) * factor, n)
        at_label = zero + peek(given, label)
        if is_fused:
            poke(row, label, largest_of((at_label - one) * scale))
        else:
            poke(row, label, largest_of(_cross_entropy_derivative(at_label, one) * scale))


@part
def measure(loss, number, fused, y_kind, z, a, y, lse, out, rows, n, row):
    """Write the loss of each of the rows, `row` elements apart, summed over its n outputs.

    `number` is what the loss with this code takes besides outputs and targets, if anything (`loss_value`).
    """
    if y_kind == Y_LABELS:
        one = load_part(a, 0, 0) + 1.0
        for r in range(rows):
            at = r * row + np.intp(peek(y, r))
            if fused == FUSED_SOFTMAX:
                poke(out, r, peek(lse, r) - peek(z, at))
            else:
                poke(out, r, largest_of(_cross_entropy(load_part(a, 0, 0) + peek(a, at), one)))
    elif fused == FUSED_SIGMOID:
        sum_rows(FROM_LOGITS, number, z, y, out, rows, n, row)
    elif fused == FUSED_SOFTMAX:
        softmax_loss_rows(z, y, lse, out, rows, n, row)
    else:
        sum_rows(loss, number, a, y, out, rows, n, row)


@part
def output_gradient(loss, number, fused, y_kind, a, y, scale, out, rows, n, row):
    """Scale * d loss / d a of each output; for the fused losses d loss / d z; or a copy of a given gradient y.

    Rows are `row` elements apart; what lies between is worked on too, and means nothing.
    """
    if y_kind == Y_LABELS:
        label_gradient(a, y, scale, out, rows, n, row, fused == FUSED_SOFTMAX)
    elif y_kind == Y_GRADIENT:
        map_block(_identity, y, out, rows * row)
    elif fused != NOT_FUSED:
        scaled_derivative(SQUARED_ERROR, number, a, y, scale, out, rows * row)
    else:
        scaled_derivative(loss, number, a, y, scale, out, rows * row)


# ------------------------------------------------------------------------------------------ the public kernels
# A, Z and Y are (n_samples, n_out), C-contiguous, of one float dtype; out is (n_samples,), that of a derivative
# (n_samples, n_out).  For cross-entropy Y may also be int64 class labels (n_samples,).

@inner
def losses_of(code, number, A, Y, out):
    """Write the loss of each sample."""
    p = pointer(A, 0)
    sum_rows(code, as_float(number, p), p, pointer(Y, 0), pointer(out, 0), A.shape[0], A.shape[1], A.shape[1])


@inner
def derivatives_of(code, number, A, Y, out):
    """Write the derivatives by A."""
    p = pointer(A, 0)
    scaled_derivative(code, as_float(number, p), p, pointer(Y, 0), as_float(1, p), pointer(out, 0), A.size)


@kernel
def squared_error(A, Y, out):
    """Half the squared error, 1/2 sum (A - Y)**2, of each sample."""
    losses_of(SQUARED_ERROR, 0, A, Y, out)


@kernel
def squared_error_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(SQUARED_ERROR, 0, A, Y, out)


@kernel
def absolute_error(A, Y, out):
    """Sum of |A - Y| of each sample."""
    losses_of(ABSOLUTE_ERROR, 0, A, Y, out)


@kernel
def absolute_error_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(ABSOLUTE_ERROR, 0, A, Y, out)


@kernel
def huber(A, Y, threshold, out):
    """Sum of d**2 / 2 where d = |A - Y| < threshold, else threshold (d - threshold / 2), of each sample.

    Huber 1964.
    """
    losses_of(HUBER, threshold, A, Y, out)


@kernel
def huber_derivative(A, Y, threshold, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(HUBER, threshold, A, Y, out)


@kernel
def log_cosh(A, Y, out):
    """Sum of log(cosh(A - Y)) of each sample."""
    losses_of(LOG_COSH, 0, A, Y, out)


@kernel
def log_cosh_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(LOG_COSH, 0, A, Y, out)


@kernel
def quantile(A, Y, q, out):
    """Sum of q (Y - A) where A < Y, else (1 - q) (A - Y), of each sample (Koenker and Bassett 1978)."""
    losses_of(QUANTILE, q, A, Y, out)


@kernel
def quantile_derivative(A, Y, q, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(QUANTILE, q, A, Y, out)


@kernel
def hinge(A, Y, out):
    """Sum of max(0, 1 - Y A) of each sample; Y is -1 or 1."""
    losses_of(HINGE, 0, A, Y, out)


@kernel
def hinge_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(HINGE, 0, A, Y, out)


@kernel
def poisson(A, Y, out):
    """Sum of A - Y log A of each sample; A is kept above 0."""
    losses_of(POISSON, 0, A, Y, out)


@kernel
def poisson_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(POISSON, 0, A, Y, out)


@kernel
def binary_cross_entropy(A, Y, out):
    """Sum of -(Y log A + (1 - Y) log(1 - A)) of each sample; A is kept off 0 and 1."""
    losses_of(BINARY_CROSS_ENTROPY, 0, A, Y, out)


@kernel
def binary_cross_entropy_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(BINARY_CROSS_ENTROPY, 0, A, Y, out)


@kernel
def focal(A, Y, gamma, out):
    """Sum of -Y (1 - A)**gamma log A - (1 - Y) A**gamma log(1 - A) of each sample; A is kept off 0 and 1.

    Lin et al. 2017, eq. 4, without their alpha.
    """
    losses_of(FOCAL, gamma, A, Y, out)


@kernel
def focal_derivative(A, Y, gamma, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(FOCAL, gamma, A, Y, out)


@kernel
def binary_cross_entropy_logits(Z, Y, out):
    """Sum of the binary cross-entropy of sigmoid(Z) of each sample, finite for every finite Z."""
    losses_of(FROM_LOGITS, 0, Z, Y, out)


@part
def targets(Y, dtype):
    """Targets as the engine keeps them: flat, labels as floats too."""
    return Y.reshape(Y.size).astype(dtype)


@kernel
def cross_entropy(A, Y, out):
    """Sum of -Y log A of each sample, or -log A[label]; A is kept off 0."""
    rows, n = A.shape
    y = targets(Y, out.dtype)
    p = pointer(A, 0)
    measure(CROSS_ENTROPY, as_float(0, p), NOT_FUSED, Y_LABELS if Y.ndim == 1 else Y_ROWS, p, p, pointer(y, 0), p,
            pointer(out, 0), rows, n, n)


@kernel
def cross_entropy_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    rows, n = A.shape
    y = targets(Y, out.dtype)
    p = pointer(A, 0)
    output_gradient(CROSS_ENTROPY, as_float(0, p), NOT_FUSED, Y_LABELS if Y.ndim == 1 else Y_ROWS, p, pointer(y, 0),
                    as_float(1, p), pointer(out, 0), rows, n, n)


@kernel
def cross_entropy_logits(Z, Y, out):
    """Cross-entropy of softmax(Z) of each sample, finite for every finite Z."""
    rows, n = Z.shape
    y, lse, scratch = targets(Y, out.dtype), np.empty(rows, out.dtype), np.empty(n, out.dtype)
    for r in range(rows):
        lse[r] = softmax_row(pointer(Z, r * n), pointer(scratch, 0), n)
    p = pointer(Z, 0)
    measure(CROSS_ENTROPY, as_float(0, p), FUSED_SOFTMAX, Y_LABELS if Y.ndim == 1 else Y_ROWS, p, p, pointer(y, 0),
            pointer(lse, 0), pointer(out, 0), rows, n, n)
