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
    is_small = d < 0.875  # then sinh(d)**2 = t**2 / (4 decay) is below 1
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
def _parts(a):
    """Return (a, b, log(a), log(b)) of the probabilities a and b = 1 - a, kept above 0.

    Half an eps is the smallest b that there is beside 0, as `a` is rounded; the value and the derivative use the same.
    """
    b = _clamp(1.0 - a, by_dtype(a, 5.9604645e-08, 1.1102230246251565e-16), 1.0)
    a = _clamp(a, _smallest(a), 1.0)
    return a, b, _log(a), _log(b)


@inner
def probability_loss(code, number, parts, y):
    """Loss of probabilities from their `_parts`."""
    a, b, log_a, log_b = parts
    if code == FOCAL:
        return -(y * _exp(log_b * number) * log_a + (1.0 - y) * _exp(log_a * number) * log_b)
    if code == POISSON:
        return a - y * log_a
    if code == CROSS_ENTROPY:
        return -(y * log_a)
    return -(y * log_a + (1.0 - y) * log_b)


@inner
def probability_slope(code, number, parts, y):
    """Its derivative by a, times a (1 - a): finite, and nothing in it cancels where a is near 0 or 1."""
    a, b, log_a, log_b = parts
    if code == FOCAL:
        return y * _exp(log_b * number) * (a * log_a * number - b) + (1.0 - y) * _exp(log_a * number) * (
            a - b * log_b * number
        )
    if code == CROSS_ENTROPY:
        return -(y * b)
    difference = (1.0 - y) * a - y * b  # a - y
    return difference * b if code == POISSON else difference


@inner
def _binary_cross_entropy(a, y):
    return probability_loss(BINARY_CROSS_ENTROPY, 0.0, _parts(a), y)


@inner
def _binary_cross_entropy_derivative(a, y):
    parts = _parts(a)
    return probability_slope(BINARY_CROSS_ENTROPY, 0.0, parts, y) / (parts[0] * parts[1])


@inner
def _focal(a, y, gamma):
    return probability_loss(FOCAL, gamma, _parts(a), y)


@inner
def _focal_derivative(a, y, gamma):
    parts = _parts(a)
    return probability_slope(FOCAL, gamma, parts, y) / (parts[0] * parts[1])


@inner
def _binary_cross_entropy_logits(z, y):
    """max(z, 0) - z * y + log(1 + e**-|z|), written so that a saturated, right output costs exactly 0."""
    return where(z < 0.0, -z * y, z * (1.0 - y)) + _log1p_of_unit(_exp(-fabs(z)))


@inner
def _sigmoid_parts(z):
    """`_parts` of a = sigmoid(z), from z."""
    rest = _log1p_of_unit(_exp(-fabs(z)))
    return _sigmoid(z), _sigmoid(-z), where(z < 0.0, z, 0.0) - rest, where(z < 0.0, 0.0, -z) - rest


@inner
def sigmoid_loss(code, number, z, y):
    """Loss of a = sigmoid(z)."""
    return probability_loss(code, number, _sigmoid_parts(z), y)


@inner
def sigmoid_loss_derivative(code, number, z, y):
    """Its derivative by z."""
    return probability_slope(code, number, _sigmoid_parts(z), y)


@inner
def softplus_loss(code, number, z, y):
    """Poisson loss of a = softplus(z), which is e**z to the last digit where z is far below 0."""
    a = _softplus(z)
    return a - y * where(z < by_dtype(z, -20.0, -40.0), z, _log(a))


@inner
def softplus_loss_derivative(code, number, z, y):
    """Its derivative by z."""
    slope = _sigmoid(z)
    return slope - y * where(z < by_dtype(z, -20.0, -40.0), 1.0, slope / _softplus(z))


@inner
def exponential_loss(code, number, z, y):
    """Poisson loss of a = e**z."""
    return _exp(z) - y * z


@inner
def exponential_loss_derivative(code, number, z, y):
    """Its derivative by z."""
    return _exp(z) - y


@inner
def _cross_entropy(a, y):
    return -(y * _log(_clamp(a, _smallest(a), 1.0)))


@inner
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
    OWN,
) = CODES.values()  # OWN is a user's, in leaves of its own (`own`)
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
def sum_rows(loss, code, number, a, y, out, rows, columns, row):
    """out[r] = sum over columns of loss(code, number, a, y), rows of `a` and `y` being `row` elements apart."""
    width = lanes(a)
    if row == 1:
        r = 0
        while r + width <= rows:
            store(out, r, loss(code, number, load(a, r), load(y, r)))
            r += width
        if r < rows:
            store_part(out, r, loss(code, number, load_part(a, r, rows - r), load_part(y, r, rows - r)), rows - r)
        return
    full = columns - columns % width
    for r in range(rows):
        at = r * row
        total = load_part(a, 0, 0)
        for j in range(0, full, width):
            total = total + loss(code, number, load(a, at + j), load(y, at + j))
        if full < columns:
            n = columns - full
            value = loss(code, number, load_part(a, at + full, n), load_part(y, at + full, n))
            total = total + first_lanes(value, n, 0.0)
        poke(out, r, sum_of(total))


@inner
def scaled_derivative(derivative, code, number, a, y, scale, out, n):
    """out[i] = scale * derivative(code, number, a, y)."""
    width = lanes(a)
    i = 0
    while i + width <= n:
        store(out, i, derivative(code, number, load(a, i), load(y, i)) * scale)
        i += width
    if i < n:
        store_part(out, i, derivative(code, number, load_part(a, i, n - i), load_part(y, i, n - i)) * scale, n - i)


@inner
def softmax_loss_rows(z, y, lse, out, rows, columns, row):
    """out[r] = sum of y * (lse - z): cross-entropy of softmax outputs, from the logits z and their lse[r]."""
    width = lanes(z)
    full = columns - columns % width
    for r in range(rows):
        at, normaliser = r * row, peek(lse, r)
        n = columns - full
        target = load_part(y, at + full, n)  # 0 * inf would be NaN: logits without weight are passed over
        total = where(target == 0.0, 0.0, target * (normaliser - load_part(z, at + full, n)))
        for j in range(0, full, width):
            target = load(y, at + j)
            total = total + where(target == 0.0, 0.0, target * (normaliser - load(z, at + j)))
        poke(out, r, sum_of(total))


@inner
def softmax_logits(z, a, n):
    """(largest logit, its log(a), largest logit of the others, sum of e**(z - it) over them, log(sum of a over them)).

    Of one row, each number a vector.  "The others" are those with a <= 1/2: all but one, or all.  The last number is
    relative to the largest a, so that it is log(1 - a) - log(a) where there is one above 1/2.
    """
    zero, width, lowest = load_part(z, 0, 0), lanes(z), -float("inf")
    top = other = zero + lowest
    for j in range(0, n, width):
        m = min(width, n - j)
        v = first_lanes(load_part(z, j, m), m, lowest)
        top = where(v > top, v, top)
        v = where(load_part(a, j, m) > 0.5, lowest, v)
        other = where(v > other, v, other)
    top, other = zero + largest_of(top), zero + largest_of(other)
    total = zero
    for j in range(0, n, width):
        m = min(width, n - j)
        e = where(load_part(a, j, m) > 0.5, 0.0, _exp(load_part(z, j, m) - other))
        total = total + first_lanes(e, m, 0.0)
    total = zero + sum_of(total)
    log_total = _log(total)
    log_others = _finite(other - top + log_total)
    log_top = -where(other < top, _log1p_of_unit(_clamp(_exp(log_others), 0.0, 1.0)), log_total)
    return top, log_top, other, total, log_others


@inner
def _softmax_parts(z, a, logits):
    """`_parts` of outputs of a softmax, from their logits and those of their row (`softmax_logits`)."""
    top, log_top, _, _, log_others = logits
    is_large = a > 0.5
    log_a = z - top + log_top
    b = where(is_large, a * _exp(log_others), 1.0 - a)
    return a, b, log_a, where(is_large, log_a + log_others, -_log1p_of_unit(a / b))


@inner
def softmax_loss(code, number, z, a, y, out, rows, columns, row):
    """out[r] = sum over columns of the loss of a = softmax(z)."""
    width = lanes(z)
    for r in range(rows):
        at = r * row
        logits = softmax_logits(offset(z, at), offset(a, at), columns)
        total = load_part(z, 0, 0)
        for j in range(0, columns, width):
            m = min(width, columns - j)
            parts = _softmax_parts(load_part(z, at + j, m), load_part(a, at + j, m), logits)
            value = probability_loss(code, number, parts, load_part(y, at + j, m))
            total = total + first_lanes(value, m, 0.0)
        poke(out, r, sum_of(total))


@inner
def softmax_loss_derivative(code, number, z, a, y, scale, out, rows, columns, row):
    """Write scale * d loss / d z of a = softmax(z): slope[j] - sum over i != j of slope[i] a[j] / (1 - a[i]).

    `slope` are those of `probability_slope`.  Where a[i] is above 1/2, a[j] / (1 - a[i]) is a softmax of the others.
    """
    zero, width = load_part(z, 0, 0), lanes(z)
    for r in range(rows):
        z_row, a_row, y_row, delta = offset(z, r * row), offset(a, r * row), offset(y, r * row), offset(out, r * row)
        logits = softmax_logits(z_row, a_row, columns)
        total = large = zero
        for j in range(0, columns, width):
            m = min(width, columns - j)
            p = load_part(a_row, j, m)
            parts = _softmax_parts(load_part(z_row, j, m), p, logits)
            slope = probability_slope(code, number, parts, load_part(y_row, j, m))
            slope = where(p > 0.5, slope, slope / parts[1])
            store_part(delta, j, slope, m)
            total = total + first_lanes(where(p > 0.5, 0.0, slope), m, 0.0)
            large = large + first_lanes(where(p > 0.5, slope, 0.0), m, 0.0)
        total, large = zero + sum_of(total), zero + sum_of(large)
        for j in range(0, columns, width):
            m = min(width, columns - j)
            p = load_part(a_row, j, m)
            share = where(p > 0.5, 0.0, _exp(load_part(z_row, j, m) - logits[2]) / logits[3])
            store_part(delta, j, (load_part(delta, j, m) - p * total - share * large) * scale, m)


@inner
def label_of(labels, r, n):
    """Return a label, kept as a float, as an index; -1 where it is none of n classes, and perhaps fits no integer."""
    label = peek(labels, r)
    if label >= 0 and label < n:
        return np.intp(label)
    return -1


@inner
def sigmoid_label_losses(z, labels, out, rows, columns, row):
    """out[r] = -log(sigmoid(z)) of the label's output."""
    one = load_part(z, 0, 0) + 1.0
    for r in range(rows):
        label = label_of(labels, r, columns)
        value = one * np.nan
        if label >= 0:
            value = sigmoid_loss(CROSS_ENTROPY, 0.0, one * peek(z, r * row + label), one)
        poke(out, r, largest_of(value))


@inner
def sigmoid_label_gradient(z, labels, scale, out, rows, columns, row):
    """Write its derivative by z, times scale."""
    one, width = load_part(z, 0, 0) + 1.0, lanes(z)
    for r in range(rows):
        label = label_of(labels, r, columns)
        rest = one * 0.0
        if label < 0:
            rest = one * np.nan
        for j in range(0, columns, width):
            store_part(out, r * row + j, rest, min(width, columns - j))
        if label >= 0:
            at = r * row + label
            poke(out, at, largest_of(sigmoid_loss_derivative(CROSS_ENTROPY, 0.0, one * peek(z, at), one) * scale))


@part
def label_gradient(a, labels, scale, out, rows, columns, row_distance, is_fused):
    """Cross-entropy by the outputs `a` for integer labels, or a - y itself for softmax outputs; times scale.

    The row of a label that is no class is NaN.
    """
    width = lanes(a)
    zero = load_part(a, 0, 0)
    one = zero + 1.0
    for r in range(rows):
        row, given, label = offset(out, r * row_distance), offset(a, r * row_distance), label_of(labels, r, columns)
        factor = zero + scale
        if not is_fused:
            factor = zero
        if label < 0:
            factor = zero + np.nan
        for j in range(0, columns, width):
            n = min(width, columns - j)
            store_part(row, j, load_part(given, j, n) * factor, n)
        if label < 0:
            continue
        at_label = zero + peek(given, label)
        if is_fused:
            poke(row, label, largest_of((at_label - one) * scale))
        else:
            poke(row, label, largest_of(_cross_entropy_derivative(at_label, one) * scale))


@part
def measure(loss, number, fused, y_kind, z, a, y, lse, out, rows, n, row):
    """Write the loss of each of the rows, `row` elements apart, summed over its n outputs.

    `number` is what the loss with this code takes besides outputs and targets, if anything (`loss_value`).  The loss of
    a label that is no class is NaN.
    """
    if y_kind == Y_LABELS and fused == OF_SIGMOID:
        sigmoid_label_losses(z, y, out, rows, n, row)
    elif y_kind == Y_LABELS:
        one = load_part(a, 0, 0) + 1.0
        for r in range(rows):
            label = label_of(y, r, n)
            at = r * row + label
            if label < 0:
                poke(out, r, np.nan)
            elif fused == FUSED_SOFTMAX:
                poke(out, r, peek(lse, r) - peek(z, at))
            else:
                poke(out, r, largest_of(_cross_entropy(load_part(a, 0, 0) + peek(a, at), one)))
    elif fused == FUSED_SIGMOID:
        sum_rows(loss_value, FROM_LOGITS, number, z, y, out, rows, n, row)
    elif fused == FUSED_SOFTMAX:
        softmax_loss_rows(z, y, lse, out, rows, n, row)
    elif fused == OF_SIGMOID:
        sum_rows(sigmoid_loss, loss, number, z, y, out, rows, n, row)
    elif fused == OF_SOFTPLUS:
        sum_rows(softplus_loss, loss, number, z, y, out, rows, n, row)
    elif fused == OF_EXPONENTIAL:
        sum_rows(exponential_loss, loss, number, z, y, out, rows, n, row)
    elif fused == OF_SOFTMAX:
        softmax_loss(loss, number, z, a, y, out, rows, n, row)
    else:
        sum_rows(loss_value, loss, number, a, y, out, rows, n, row)


@part
def output_gradient(loss, number, fused, y_kind, z, a, y, scale, out, rows, n, row):
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
        scaled_derivative(loss_derivative, SQUARED_ERROR, number, a, y, scale, out, rows * row)
    elif fused == OF_SIGMOID:
        scaled_derivative(sigmoid_loss_derivative, loss, number, z, y, scale, out, rows * row)
    elif fused == OF_SOFTPLUS:
        scaled_derivative(softplus_loss_derivative, loss, number, z, y, scale, out, rows * row)
    elif fused == OF_EXPONENTIAL:
        scaled_derivative(exponential_loss_derivative, loss, number, z, y, scale, out, rows * row)
    elif fused == OF_SOFTMAX:
        softmax_loss_derivative(loss, number, z, a, y, scale, out, rows, n, row)
    else:
        scaled_derivative(loss_derivative, loss, number, a, y, scale, out, rows * row)


# ------------------------------------------------------------------------------------------ the public kernels
# A, Z and Y are (n_samples, n_out), C-contiguous, of one float dtype; out is (n_samples,), that of a derivative
# (n_samples, n_out).  For cross-entropy Y may also be int64 class labels (n_samples,): NaN for those that are no class.


@inner
def losses_of(code, number, A, Y, out):
    """Write the loss of each sample."""
    p = pointer(A, 0)
    sum_rows(
        loss_value, code, as_float(number, p), p, pointer(Y, 0), pointer(out, 0), A.shape[0], A.shape[1], A.shape[1]
    )


@inner
def derivatives_of(code, number, A, Y, out):
    """Write the derivatives by A."""
    p = pointer(A, 0)
    scaled_derivative(
        loss_derivative, code, as_float(number, p), p, pointer(Y, 0), as_float(1, p), pointer(out, 0), A.size
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
    measure(
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
    measure(
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
