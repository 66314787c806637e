"""Losses: the value for each sample (the sum over its outputs) and the derivative by the outputs.

Where an output activation takes the loss's logarithm with it (`LOGIT_FORMS`), the engine computes value and delta from
the logits Z: both are right however far the outputs are saturated, where 1 - A or A itself is rounded to 0.  With
sigmoid and binary cross-entropy, and with softmax and cross-entropy, delta is A - Y.  Twins: `fastbp.reference`.
"""

import numpy as np

from .elementwise import (
    _clamp,
    _exp,
    _expm1,
    _finite,
    _identity,
    _log,
    _log1p_of_unit,
    _relu,
    _sigmoid,
    _softplus,
    _tanh,
    map_block,
    softmax_row,
)
from .jit import inline, internal, kernel
from .simd import (
    as_float,
    by_dtype,
    fabs,
    hmax,
    hsum,
    lanes,
    load,
    masked_load,
    masked_store,
    offset,
    peek,
    pointer,
    poke,
    select_lanes,
    store,
    where,
)

# ------------------------------------------------------- functions of one vector of outputs a and targets y


@inline
def _squared_error(a, y):
    d = a - y
    return d * d * 0.5


@inline
def _squared_error_derivative(a, y):
    return a - y


@inline
def _absolute_error(a, y):
    return fabs(a - y)


@inline
def _absolute_error_derivative(a, y):
    d = a - y
    return where(d > 0.0, 1.0, where(d < 0.0, d * 0.0 - 1.0, d * 0.0))


@inline
def _huber(a, y, threshold):
    d = fabs(a - y)
    return where(d < threshold, d * d * 0.5, (d - threshold * 0.5) * threshold)


@inline
def _huber_derivative(a, y, threshold):
    return _clamp(a - y, -threshold, threshold)


@inline
def _log_cosh(a, y):
    """log(cosh d): log1p(sinh(d)**2) / 2 for small d, |d| - log(2) + log1p(e**-2|d|) beyond."""
    d = fabs(a - y)
    t = _expm1(d * -2.0)
    decay = t + 1.0
    is_small = d < 0.875  # then sinh(d)**2 = t**2 / (4 decay) is below 1
    log1p = _log1p_of_unit(where(is_small, t * t * 0.25 / decay, decay))
    return where(is_small, log1p * 0.5, d - 0.6931471805599453 + log1p)


@inline
def _log_cosh_derivative(a, y):
    return _tanh(a - y)


@inline
def _quantile(a, y, q):
    d = a - y
    return where(d > 0.0, d * (1.0 - q), d * -q)


@inline
def _quantile_derivative(a, y, q):
    d = a - y
    return where(d > 0.0, 1.0 - q, where(d < 0.0, -q, d))


@inline
def _hinge(a, y):
    return _relu(1.0 - a * y)


@inline
def _hinge_derivative(a, y):
    return where(a * y < 1.0, -y, 0.0)


@inline
def _positive(a):
    """Keep A above 0, so that its logarithm is finite, and y / a for y up to a million."""
    return _clamp(a, by_dtype(a, 1e-32, 1e-302), float("inf"))


@inline
def _poisson(a, y):
    return a - y * _log(_positive(a))


@inline
def _poisson_derivative(a, y):
    return 1.0 - y / _positive(a)


@inline
def _smallest(a):
    """Return the smallest probability that has a finite logarithm and reciprocal."""
    return by_dtype(a, 1.1754943508222875e-38, 2.2250738585072014e-308)


@inline
def _parts(a):
    """Return (a, b, log(a), log(b)) of the probabilities a and b = 1 - a, kept above 0.

    Half an eps is the smallest b that there is beside 0, as `a` is rounded; the value and the derivative use the same.
    """
    b = _clamp(1.0 - a, by_dtype(a, 5.9604645e-08, 1.1102230246251565e-16), 1.0)
    a = _clamp(a, _smallest(a), 1.0)
    return a, b, _log(a), _log(b)


@inline
def probability_loss(code, loss_parameter, parts, y):
    """Loss of probabilities from their `_parts`."""
    a, b, log_a, log_b = parts
    if code == FOCAL:
        return -(y * _exp(log_b * loss_parameter) * log_a + (1.0 - y) * _exp(log_a * loss_parameter) * log_b)
    if code == POISSON:
        return a - y * log_a
    if code == CROSS_ENTROPY:
        return -(y * log_a)
    return -(y * log_a + (1.0 - y) * log_b)


@inline
def probability_slope(code, loss_parameter, parts, y):
    """Its derivative by a, times a (1 - a): finite, and nothing in it cancels where a is near 0 or 1."""
    a, b, log_a, log_b = parts
    if code == FOCAL:
        return y * _exp(log_b * loss_parameter) * (a * log_a * loss_parameter - b) + (1.0 - y) * _exp(
            log_a * loss_parameter
        ) * (a - b * log_b * loss_parameter)
    if code == CROSS_ENTROPY:
        return -(y * b)
    difference = (1.0 - y) * a - y * b  # a - y
    return difference * b if code == POISSON else difference


@inline
def _binary_cross_entropy(a, y):
    return probability_loss(BINARY_CROSS_ENTROPY, 0.0, _parts(a), y)


@inline
def _binary_cross_entropy_derivative(a, y):
    parts = _parts(a)
    return probability_slope(BINARY_CROSS_ENTROPY, 0.0, parts, y) / (parts[0] * parts[1])


@inline
def _focal(a, y, gamma):
    return probability_loss(FOCAL, gamma, _parts(a), y)


@inline
def _focal_derivative(a, y, gamma):
    parts = _parts(a)
    return probability_slope(FOCAL, gamma, parts, y) / (parts[0] * parts[1])


@inline
def _binary_cross_entropy_logits(z, y):
    """max(z, 0) - z * y + log(1 + e**-|z|), written so that a saturated, right output costs exactly 0."""
    return where(z < 0.0, -z * y, z * (1.0 - y)) + _log1p_of_unit(_exp(-fabs(z)))


@inline
def _sigmoid_parts(z):
    """`_parts` of a = sigmoid(z), from z."""
    rest = _log1p_of_unit(_exp(-fabs(z)))
    return _sigmoid(z), _sigmoid(-z), where(z < 0.0, z, 0.0) - rest, where(z < 0.0, 0.0, -z) - rest


@inline
def sigmoid_loss(code, loss_parameter, z, y):
    """Loss of a = sigmoid(z)."""
    return probability_loss(code, loss_parameter, _sigmoid_parts(z), y)


@inline
def sigmoid_loss_derivative(code, loss_parameter, z, y):
    """Its derivative by z."""
    return probability_slope(code, loss_parameter, _sigmoid_parts(z), y)


@inline
def softplus_loss(code, loss_parameter, z, y):
    """Poisson loss of a = softplus(z), which is e**z to the last digit where z is far below 0."""
    a = _softplus(z)
    return a - y * where(z < by_dtype(z, -20.0, -40.0), z, _log(a))


@inline
def softplus_loss_derivative(code, loss_parameter, z, y):
    """Its derivative by z."""
    slope = _sigmoid(z)
    return slope - y * where(z < by_dtype(z, -20.0, -40.0), 1.0, slope / _softplus(z))


@inline
def exponential_loss(code, loss_parameter, z, y):
    """Poisson loss of a = e**z."""
    return _exp(z) - y * z


@inline
def exponential_loss_derivative(code, loss_parameter, z, y):
    """Its derivative by z."""
    return _exp(z) - y


@inline
def _cross_entropy(a, y):
    return -(y * _log(_clamp(a, _smallest(a), 1.0)))


@inline
def _cross_entropy_derivative(a, y):
    return -(y / _clamp(a, _smallest(a), 1.0))


# ------------------------------------------------------------------------------------------------ the table
# A loss is a line in each of these, two functions of one vector above, and a twin in fastbp/reference.py.

CODES = {
    name: code
    for code, name in enumerate(
        [
            "squared_error",
            "absolute_error",
            "huber",
            "binary_cross_entropy",
            "cross_entropy",
            "log_cosh",
            "quantile",
            "hinge",
            "poisson",
            "focal",
            "from_logits",
            "own",
        ]
    )
}
(
    SQUARED_ERROR,
    ABSOLUTE_ERROR,
    HUBER,
    BINARY_CROSS_ENTROPY,
    CROSS_ENTROPY,
    LOG_COSH,
    QUANTILE,
    HINGE,
    POISSON,
    FOCAL,
    FROM_LOGITS,
    CUSTOM,
) = CODES.values()  # CUSTOM is a user's, in leaves of its own (`own`)
# Whether the loss is computed from the logits: with delta = A - Y (FUSED_), or by the functions for this activation.
NOT_FUSED, FUSED_SIGMOID, FUSED_SOFTMAX, OF_SIGMOID, OF_SOFTPLUS, OF_EXPONENTIAL, OF_SOFTMAX = range(7)
LOGIT_FORMS = {
    ("sigmoid", "binary_cross_entropy"): FUSED_SIGMOID,
    ("softmax", "cross_entropy"): FUSED_SOFTMAX,
    **{("sigmoid", loss): OF_SIGMOID for loss in ("cross_entropy", "focal", "poisson")},
    **{("softmax", loss): OF_SOFTMAX for loss in ("binary_cross_entropy", "focal", "poisson")},
    ("softplus", "poisson"): OF_SOFTPLUS,
    ("exponential", "poisson"): OF_EXPONENTIAL,
}
Y_ROWS, Y_LABELS, Y_GRADIENT, Y_NONE = range(4)  # kinds of targets


@inline
def loss_value(code, loss_parameter, a, y):
    """Return the loss with this code, and its number if it takes one; FROM_LOGITS is binary cross-entropy of z."""
    if code == ABSOLUTE_ERROR:
        return _absolute_error(a, y)
    if code == HUBER:
        return _huber(a, y, loss_parameter)
    if code == BINARY_CROSS_ENTROPY:
        return _binary_cross_entropy(a, y)
    if code == CROSS_ENTROPY:
        return _cross_entropy(a, y)
    if code == LOG_COSH:
        return _log_cosh(a, y)
    if code == QUANTILE:
        return _quantile(a, y, loss_parameter)
    if code == HINGE:
        return _hinge(a, y)
    if code == POISSON:
        return _poisson(a, y)
    if code == FOCAL:
        return _focal(a, y, loss_parameter)
    if code == FROM_LOGITS:
        return _binary_cross_entropy_logits(a, y)
    return _squared_error(a, y)


@inline
def loss_derivative(code, loss_parameter, a, y):
    """Its derivative by a; SQUARED_ERROR's, a - y, is also that of the fused losses by z."""
    if code == ABSOLUTE_ERROR:
        return _absolute_error_derivative(a, y)
    if code == HUBER:
        return _huber_derivative(a, y, loss_parameter)
    if code == BINARY_CROSS_ENTROPY:
        return _binary_cross_entropy_derivative(a, y)
    if code == CROSS_ENTROPY:
        return _cross_entropy_derivative(a, y)
    if code == LOG_COSH:
        return _log_cosh_derivative(a, y)
    if code == QUANTILE:
        return _quantile_derivative(a, y, loss_parameter)
    if code == HINGE:
        return _hinge_derivative(a, y)
    if code == POISSON:
        return _poisson_derivative(a, y)
    if code == FOCAL:
        return _focal_derivative(a, y, loss_parameter)
    return _squared_error_derivative(a, y)


# ------------------------------------------------------------------------------------------ loops over rows


@inline
def sum_rows(loss, code, loss_parameter, a, y, out, rows, columns, row):
    """out[r] = sum over columns of loss(code, number, a, y), rows of `a` and `y` being `row` elements apart."""
    width = lanes(a)
    if row == 1:
        r = 0
        while r + width <= rows:
            store(out, r, loss(code, loss_parameter, load(a, r), load(y, r)))
            r += width
        if r < rows:
            masked_store(
                out, r, loss(code, loss_parameter, masked_load(a, r, rows - r), masked_load(y, r, rows - r)), rows - r
            )
        return
    full = columns - columns % width
    for r in range(rows):
        at = r * row
        total = masked_load(a, 0, 0)
        for j in range(0, full, width):
            total = total + loss(code, loss_parameter, load(a, at + j), load(y, at + j))
        if full < columns:
            n = columns - full
            value = loss(code, loss_parameter, masked_load(a, at + full, n), masked_load(y, at + full, n))
            total = total + select_lanes(value, n, 0.0)
        poke(out, r, hsum(total))


@inline
def scaled_derivative(derivative, code, loss_parameter, a, y, scale, out, n):
    """out[i] = scale * derivative(code, number, a, y)."""
    width = lanes(a)
    i = 0
    while i + width <= n:
        store(out, i, derivative(code, loss_parameter, load(a, i), load(y, i)) * scale)
        i += width
    if i < n:
        masked_store(
            out, i, derivative(code, loss_parameter, masked_load(a, i, n - i), masked_load(y, i, n - i)) * scale, n - i
        )


@inline
def softmax_loss_rows(z, y, lse, out, rows, columns, row):
    """out[r] = sum of y * (lse - z): cross-entropy of softmax outputs, from the logits z and their lse[r]."""
    width = lanes(z)
    full = columns - columns % width
    for r in range(rows):
        at, normaliser = r * row, peek(lse, r)
        n = columns - full
        target = masked_load(y, at + full, n)  # 0 * inf would be NaN: logits without weight are passed over
        total = where(target == 0.0, 0.0, target * (normaliser - masked_load(z, at + full, n)))
        for j in range(0, full, width):
            target = load(y, at + j)
            total = total + where(target == 0.0, 0.0, target * (normaliser - load(z, at + j)))
        poke(out, r, hsum(total))


@inline
def softmax_logits(z, a, n):
    """(largest logit, its log(a), largest logit of the others, sum of e**(z - it) over them, log(sum of a over them)).

    Of one row, each number a vector.  "The others" are those with a <= 1/2: all but one, or all.  The last number is
    relative to the largest a, so that it is log(1 - a) - log(a) where there is one above 1/2.
    """
    zero, width, lowest = masked_load(z, 0, 0), lanes(z), -float("inf")
    top = other = zero + lowest
    for j in range(0, n, width):
        m = min(width, n - j)
        v = select_lanes(masked_load(z, j, m), m, lowest)
        top = where(v > top, v, top)
        v = where(masked_load(a, j, m) > 0.5, lowest, v)
        other = where(v > other, v, other)
    top, other = zero + hmax(top), zero + hmax(other)
    total = zero
    for j in range(0, n, width):
        m = min(width, n - j)
        e = where(masked_load(a, j, m) > 0.5, 0.0, _exp(masked_load(z, j, m) - other))
        total = total + select_lanes(e, m, 0.0)
    total = zero + hsum(total)
    log_total = _log(total)
    log_others = _finite(other - top + log_total)
    log_top = -where(other < top, _log1p_of_unit(_clamp(_exp(log_others), 0.0, 1.0)), log_total)
    return top, log_top, other, total, log_others


@inline
def _softmax_parts(z, a, logits):
    """`_parts` of outputs of a softmax, from their logits and those of their row (`softmax_logits`)."""
    top, log_top, _, _, log_others = logits
    is_large = a > 0.5
    log_a = z - top + log_top
    b = where(is_large, a * _exp(log_others), 1.0 - a)
    return a, b, log_a, where(is_large, log_a + log_others, -_log1p_of_unit(a / b))


@inline
def softmax_loss(code, loss_parameter, z, a, y, out, rows, columns, row):
    """out[r] = sum over columns of the loss of a = softmax(z)."""
    width = lanes(z)
    for r in range(rows):
        at = r * row
        logits = softmax_logits(offset(z, at), offset(a, at), columns)
        total = masked_load(z, 0, 0)
        for j in range(0, columns, width):
            m = min(width, columns - j)
            parts = _softmax_parts(masked_load(z, at + j, m), masked_load(a, at + j, m), logits)
            value = probability_loss(code, loss_parameter, parts, masked_load(y, at + j, m))
            total = total + select_lanes(value, m, 0.0)
        poke(out, r, hsum(total))


@inline
def softmax_loss_derivative(code, loss_parameter, z, a, y, scale, out, rows, columns, row):
    """Write scale * d loss / d z of a = softmax(z): slope[j] - sum over i != j of slope[i] a[j] / (1 - a[i]).

    `slope` are those of `probability_slope`.  Where a[i] is above 1/2, a[j] / (1 - a[i]) is a softmax of the others.
    """
    zero, width = masked_load(z, 0, 0), lanes(z)
    for r in range(rows):
        z_row_stride, a_row_stride, y_row_stride, delta = (
            offset(z, r * row),
            offset(a, r * row),
            offset(y, r * row),
            offset(out, r * row),
        )
        logits = softmax_logits(z_row_stride, a_row_stride, columns)
        total = large = zero
        for j in range(0, columns, width):
            m = min(width, columns - j)
            p = masked_load(a_row_stride, j, m)
            parts = _softmax_parts(masked_load(z_row_stride, j, m), p, logits)
            slope = probability_slope(code, loss_parameter, parts, masked_load(y_row_stride, j, m))
            slope = where(p > 0.5, slope, slope / parts[1])
            masked_store(delta, j, slope, m)
            total = total + select_lanes(where(p > 0.5, 0.0, slope), m, 0.0)
            large = large + select_lanes(where(p > 0.5, slope, 0.0), m, 0.0)
        total, large = zero + hsum(total), zero + hsum(large)
        for j in range(0, columns, width):
            m = min(width, columns - j)
            p = masked_load(a_row_stride, j, m)
            partition = where(p > 0.5, 0.0, _exp(masked_load(z_row_stride, j, m) - logits[2]) / logits[3])
            masked_store(delta, j, (masked_load(delta, j, m) - p * total - partition * large) * scale, m)


@inline
def label_of(labels, r, n):
    """Return a label, kept as a float, as an index; -1 where it is none of n classes, and perhaps fits no integer."""
    label = peek(labels, r)
    if label >= 0 and label < n:
        return np.intp(label)
    return -1


@inline
def sigmoid_label_losses(z, labels, out, rows, columns, row):
    """out[r] = -log(sigmoid(z)) of the label's output."""
    one = masked_load(z, 0, 0) + 1.0
    for r in range(rows):
        label = label_of(labels, r, columns)
        value = one * np.nan
        if label >= 0:
            value = sigmoid_loss(CROSS_ENTROPY, 0.0, one * peek(z, r * row + label), one)
        poke(out, r, hmax(value))


@inline
def sigmoid_label_gradient(z, labels, scale, out, rows, columns, row):
    """Write its derivative by z, times scale."""
    one, width = masked_load(z, 0, 0) + 1.0, lanes(z)
    for r in range(rows):
        label = label_of(labels, r, columns)
        rest = one * 0.0
        if label < 0:
            rest = one * np.nan
        for j in range(0, columns, width):
            masked_store(out, r * row + j, rest, min(width, columns - j))
        if label >= 0:
            at = r * row + label
            poke(out, at, hmax(sigmoid_loss_derivative(CROSS_ENTROPY, 0.0, one * peek(z, at), one) * scale))


@internal
def label_gradient(a, labels, scale, out, rows, columns, row_stride, is_fused):
    """Cross-entropy by the outputs `a` for integer labels, or a - y itself for softmax outputs; times scale.

    The row of a label that is no class is NaN.
    """
    width = lanes(a)
    zero = masked_load(a, 0, 0)
    one = zero + 1.0
    for r in range(rows):
        row, given, label = offset(out, r * row_stride), offset(a, r * row_stride), label_of(labels, r, columns)
        factor = zero + scale
        if not is_fused:
            factor = zero
        if label < 0:
            factor = zero + np.nan
        for j in range(0, columns, width):
            n = min(width, columns - j)
            masked_store(row, j, masked_load(given, j, n) * factor, n)
        if label < 0:
            continue
        at_label = zero + peek(given, label)
        if is_fused:
            poke(row, label, hmax((at_label - one) * scale))
        else:
            poke(row, label, hmax(_cross_entropy_derivative(at_label, one) * scale))


@internal
def sample_losses(loss, loss_parameter, fused, y_kind, z, a, y, lse, out, rows, n, row):
    """Write the loss of each of the rows, `row` elements apart, summed over its n outputs.

    `loss_parameter` is what the loss with this code takes besides outputs and targets, if anything (`loss_value`).  The loss of
    a label that is no class is NaN.
    """
    if y_kind == Y_LABELS and fused == OF_SIGMOID:
        sigmoid_label_losses(z, y, out, rows, n, row)
    elif y_kind == Y_LABELS:
        one = masked_load(a, 0, 0) + 1.0
        for r in range(rows):
            label = label_of(y, r, n)
            at = r * row + label
            if label < 0:
                poke(out, r, np.nan)
            elif fused == FUSED_SOFTMAX:
                poke(out, r, peek(lse, r) - peek(z, at))
            else:
                poke(out, r, hmax(_cross_entropy(masked_load(a, 0, 0) + peek(a, at), one)))
    elif fused == FUSED_SIGMOID:
        sum_rows(loss_value, FROM_LOGITS, loss_parameter, z, y, out, rows, n, row)
    elif fused == FUSED_SOFTMAX:
        softmax_loss_rows(z, y, lse, out, rows, n, row)
    elif fused == OF_SIGMOID:
        sum_rows(sigmoid_loss, loss, loss_parameter, z, y, out, rows, n, row)
    elif fused == OF_SOFTPLUS:
        sum_rows(softplus_loss, loss, loss_parameter, z, y, out, rows, n, row)
    elif fused == OF_EXPONENTIAL:
        sum_rows(exponential_loss, loss, loss_parameter, z, y, out, rows, n, row)
    elif fused == OF_SOFTMAX:
        softmax_loss(loss, loss_parameter, z, a, y, out, rows, n, row)
    else:
        sum_rows(loss_value, loss, loss_parameter, a, y, out, rows, n, row)


@internal
def output_gradient(loss, loss_parameter, fused, y_kind, z, a, y, scale, out, rows, n, row):
    """Scale * d loss / d a of each output; for losses with a logit form d loss / d z; or a copy of a given gradient y.

    Rows are `row` elements apart; what lies between is worked on too, and means nothing.
    """
    if y_kind == Y_LABELS and fused == OF_SIGMOID:
        sigmoid_label_gradient(z, y, scale, out, rows, n, row)
    elif y_kind == Y_LABELS:
        label_gradient(a, y, scale, out, rows, n, row, fused == FUSED_SOFTMAX)
    elif y_kind == Y_GRADIENT:
        map_block(_identity, y, out, rows * row)
    elif fused == FUSED_SIGMOID or fused == FUSED_SOFTMAX:
        scaled_derivative(loss_derivative, SQUARED_ERROR, loss_parameter, a, y, scale, out, rows * row)
    elif fused == OF_SIGMOID:
        scaled_derivative(sigmoid_loss_derivative, loss, loss_parameter, z, y, scale, out, rows * row)
    elif fused == OF_SOFTPLUS:
        scaled_derivative(softplus_loss_derivative, loss, loss_parameter, z, y, scale, out, rows * row)
    elif fused == OF_EXPONENTIAL:
        scaled_derivative(exponential_loss_derivative, loss, loss_parameter, z, y, scale, out, rows * row)
    elif fused == OF_SOFTMAX:
        softmax_loss_derivative(loss, loss_parameter, z, a, y, scale, out, rows, n, row)
    else:
        scaled_derivative(loss_derivative, loss, loss_parameter, a, y, scale, out, rows * row)


# ------------------------------------------------------------------------------------------ the public kernels
# A, Z and Y are (n_samples, n_out), C-contiguous, of one float dtype; out is (n_samples,), that of a derivative
# (n_samples, n_out).  For cross-entropy Y may also be int64 class labels (n_samples,): NaN for those that are no class.


@inline
def losses_of(code, loss_parameter, A, Y, out):
    """Write the loss of each sample."""
    p = pointer(A, 0)
    sum_rows(
        loss_value,
        code,
        as_float(loss_parameter, p),
        p,
        pointer(Y, 0),
        pointer(out, 0),
        A.shape[0],
        A.shape[1],
        A.shape[1],
    )


@inline
def derivatives_of(code, loss_parameter, A, Y, out):
    """Write the derivatives by A."""
    p = pointer(A, 0)
    scaled_derivative(
        loss_derivative, code, as_float(loss_parameter, p), p, pointer(Y, 0), as_float(1, p), pointer(out, 0), A.size
    )


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


@internal
def targets(Y, dtype):
    """Targets as the engine keeps them: flat, labels as floats too."""
    return Y.reshape(Y.size).astype(dtype)


@kernel
def cross_entropy(A, Y, out):
    """Sum of -Y log A of each sample, or -log A[label]; A is kept off 0."""
    rows, n = A.shape
    y = targets(Y, out.dtype)
    p = pointer(A, 0)
    sample_losses(
        CROSS_ENTROPY,
        as_float(0, p),
        NOT_FUSED,
        Y_LABELS if Y.ndim == 1 else Y_ROWS,
        p,
        p,
        pointer(y, 0),
        p,
        pointer(out, 0),
        rows,
        n,
        n,
    )


@kernel
def cross_entropy_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    rows, n = A.shape
    y = targets(Y, out.dtype)
    p = pointer(A, 0)
    output_gradient(
        CROSS_ENTROPY,
        as_float(0, p),
        NOT_FUSED,
        Y_LABELS if Y.ndim == 1 else Y_ROWS,
        p,
        p,
        pointer(y, 0),
        as_float(1, p),
        pointer(out, 0),
        rows,
        n,
        n,
    )


@kernel
def cross_entropy_logits(Z, Y, out):
    """Cross-entropy of softmax(Z) of each sample, finite for every finite Z."""
    rows, n = Z.shape
    y, lse, scratch = targets(Y, out.dtype), np.empty(rows, out.dtype), np.empty(n, out.dtype)
    for r in range(rows):
        lse[r] = softmax_row(pointer(Z, r * n), pointer(scratch, 0), n)
    p = pointer(Z, 0)
    sample_losses(
        CROSS_ENTROPY,
        as_float(0, p),
        FUSED_SOFTMAX,
        Y_LABELS if Y.ndim == 1 else Y_ROWS,
        p,
        p,
        pointer(y, 0),
        pointer(lse, 0),
        pointer(out, 0),
        rows,
        n,
        n,
    )
