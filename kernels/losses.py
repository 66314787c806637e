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
    _log,
    _log1p_of_unit,
    _relu,
    _sigmoid,
    _softplus,
    _tanh,
    softmax_row,
)
from .jit import inline, kernel
from .native import NativeFunction
from .simd import (
    address,
    allocate,
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
    release,
    select_lanes,
    store,
    where,
)
from .tables import DONE, LOGIT_FORMS, NO_MEMORY

# ------------------------------------------------------- functions of one vector of outputs a and targets y


@inline
def _squared_error(a, y, unused):
    d = a - y
    return d * d * 0.5


@inline
def _squared_error_derivative(a, y, unused):
    return a - y


@inline
def _absolute_error(a, y, unused):
    return fabs(a - y)


@inline
def _absolute_error_derivative(a, y, unused):
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
def _log_cosh(a, y, unused):
    """log(cosh d): log1p(sinh(d)**2) / 2 for small d, |d| - log(2) + log1p(e**-2|d|) beyond."""
    d = fabs(a - y)
    t = _expm1(d * -2.0)
    decay = t + 1.0
    is_small = d < 0.875  # then sinh(d)**2 = t**2 / (4 decay) is below 1
    log1p = _log1p_of_unit(where(is_small, t * t * 0.25 / decay, decay))
    return where(is_small, log1p * 0.5, d - 0.6931471805599453 + log1p)


@inline
def _log_cosh_derivative(a, y, unused):
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
def _hinge(a, y, unused):
    return _relu(1.0 - a * y)


@inline
def _hinge_derivative(a, y, unused):
    return where(a * y < 1.0, -y, 0.0)


@inline
def _positive(a):
    """Keep A above 0, so that its logarithm is finite, and y / a for y up to a million."""
    return _clamp(a, by_dtype(a, 1e-32, 1e-302), float("inf"))


@inline
def _poisson(a, y, unused):
    return a - y * _log(_positive(a))


@inline
def _poisson_derivative(a, y, unused):
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


# Losses of probabilities: the value from their `_parts`, and the derivative by a times a (1 - a), which is finite, and
# in which nothing cancels where a is near 0 or 1.


@inline
def _binary_loss(parts, y, unused):
    a, b, log_a, log_b = parts
    return -(y * log_a + (1.0 - y) * log_b)


@inline
def _binary_slope(parts, y, unused):
    a, b, log_a, log_b = parts
    return (1.0 - y) * a - y * b  # a - y


@inline
def _focal_loss(parts, y, gamma):
    a, b, log_a, log_b = parts
    return -(y * _exp(log_b * gamma) * log_a + (1.0 - y) * _exp(log_a * gamma) * log_b)


@inline
def _focal_slope(parts, y, gamma):
    a, b, log_a, log_b = parts
    return y * _exp(log_b * gamma) * (a * log_a * gamma - b) + (1.0 - y) * _exp(log_a * gamma) * (a - b * log_b * gamma)


@inline
def _poisson_loss(parts, y, unused):
    a, b, log_a, log_b = parts
    return a - y * log_a


@inline
def _poisson_slope(parts, y, unused):
    a, b, log_a, log_b = parts
    return ((1.0 - y) * a - y * b) * b


@inline
def _class_loss(parts, y, unused):
    a, b, log_a, log_b = parts
    return -(y * log_a)


@inline
def _class_slope(parts, y, unused):
    a, b, log_a, log_b = parts
    return -(y * b)


@inline
def _binary_cross_entropy(a, y, unused):
    return _binary_loss(_parts(a), y, unused)


@inline
def _binary_cross_entropy_derivative(a, y, unused):
    parts = _parts(a)
    return _binary_slope(parts, y, unused) / (parts[0] * parts[1])


@inline
def _focal(a, y, gamma):
    return _focal_loss(_parts(a), y, gamma)


@inline
def _focal_derivative(a, y, gamma):
    parts = _parts(a)
    return _focal_slope(parts, y, gamma) / (parts[0] * parts[1])


@inline
def _binary_cross_entropy_logits(z, y, unused):
    """max(z, 0) - z * y + log(1 + e**-|z|), written so that a saturated, right output costs exactly 0."""
    return where(z < 0.0, -z * y, z * (1.0 - y)) + _log1p_of_unit(_exp(-fabs(z)))


@inline
def _sigmoid_parts(z):
    """`_parts` of a = sigmoid(z), from z."""
    rest = _log1p_of_unit(_exp(-fabs(z)))
    return _sigmoid(z), _sigmoid(-z), where(z < 0.0, z, 0.0) - rest, where(z < 0.0, 0.0, -z) - rest


@inline
def _softplus_poisson(z, y, unused):
    """Poisson loss of a = softplus(z), which is e**z to the last digit where z is far below 0."""
    a = _softplus(z)
    return a - y * where(z < by_dtype(z, -20.0, -40.0), z, _log(a))


@inline
def _softplus_poisson_derivative(z, y, unused):
    slope = _sigmoid(z)
    return slope - y * where(z < by_dtype(z, -20.0, -40.0), 1.0, slope / _softplus(z))


@inline
def _exponential_poisson(z, y, unused):
    return _exp(z) - y * z


@inline
def _exponential_poisson_derivative(z, y, unused):
    return _exp(z) - y


@inline
def _cross_entropy(a, y, unused):
    return -(y * _log(_clamp(a, _smallest(a), 1.0)))


@inline
def _cross_entropy_derivative(a, y, unused):
    return -(y / _clamp(a, _smallest(a), 1.0))


# ------------------------------------------------------------------------------------------------ the table


# ------------------------------------------------------------------------------------------ loops over rows


@inline
def sum_rows(loss, loss_parameter, a, y, out, rows, columns, row_stride):
    """out[r] = sum over columns of loss(a, y, loss_parameter); rows of `a` and `y` are `row_stride` elements apart."""
    width = lanes(a)
    if row_stride == 1:
        r = 0
        while r + width <= rows:
            store(out, r, loss(load(a, r), load(y, r), loss_parameter))
            r += width
        if r < rows:
            masked_store(
                out, r, loss(masked_load(a, r, rows - r), masked_load(y, r, rows - r), loss_parameter), rows - r
            )
        return
    full = columns - columns % width
    for r in range(rows):
        at = r * row_stride
        total = masked_load(a, 0, 0)
        for j in range(0, full, width):
            total = total + loss(load(a, at + j), load(y, at + j), loss_parameter)
        if full < columns:
            n = columns - full
            value = loss(masked_load(a, at + full, n), masked_load(y, at + full, n), loss_parameter)
            total = total + select_lanes(value, n, 0.0)
        poke(out, r, hsum(total))


@inline
def scaled_derivative(derivative, loss_parameter, a, y, scale, out, n):
    """out[i] = scale * derivative(a, y, loss_parameter)."""
    width = lanes(a)
    i = 0
    while i + width <= n:
        store(out, i, derivative(load(a, i), load(y, i), loss_parameter) * scale)
        i += width
    if i < n:
        masked_store(
            out, i, derivative(masked_load(a, i, n - i), masked_load(y, i, n - i), loss_parameter) * scale, n - i
        )


@inline
def softmax_loss_rows(z, y, lse, out, rows, columns, row_stride):
    """out[r] = sum of y * (lse - z): cross-entropy of softmax outputs, from the logits z and their lse[r]."""
    width = lanes(z)
    full = columns - columns % width
    for r in range(rows):
        at, normalizer = r * row_stride, peek(lse, r)
        n = columns - full
        target = masked_load(y, at + full, n)  # 0 * inf would be NaN: logits without weight are passed over
        total = where(target == 0.0, 0.0, target * (normalizer - masked_load(z, at + full, n)))
        for j in range(0, full, width):
            target = load(y, at + j)
            total = total + where(target == 0.0, 0.0, target * (normalizer - load(z, at + j)))
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
    """`_parts` of softmax outputs, from their logits and those of the row (`softmax_logits`)."""
    top, log_top, _, _, log_others = logits
    is_large = a > 0.5
    log_a = z - top + log_top
    b = where(is_large, a * _exp(log_others), 1.0 - a)
    return a, b, log_a, where(is_large, log_a + log_others, -_log1p_of_unit(a / b))


@inline
def softmax_loss(loss, loss_parameter, z, a, y, out, rows, columns, row_stride):
    """out[r] = sum over columns of the loss of a = softmax(z)."""
    width = lanes(z)
    for r in range(rows):
        at = r * row_stride
        logits = softmax_logits(offset(z, at), offset(a, at), columns)
        total = masked_load(z, 0, 0)
        for j in range(0, columns, width):
            m = min(width, columns - j)
            parts = _softmax_parts(masked_load(z, at + j, m), masked_load(a, at + j, m), logits)
            value = loss(parts, masked_load(y, at + j, m), loss_parameter)
            total = total + select_lanes(value, m, 0.0)
        poke(out, r, hsum(total))


@inline
def softmax_loss_derivative(slope_of, loss_parameter, z, a, y, scale, out, rows, columns, row_stride):
    """Write scale * d loss / d z of a = softmax(z): slope[j] - sum over i != j of slope[i] a[j] / (1 - a[i]).

    `slope` is slope_of(parts, y, loss_parameter).  Where a[i] is above 1/2, a[j] / (1 - a[i]) is a softmax of the
    others.
    """
    zero, width = masked_load(z, 0, 0), lanes(z)
    for r in range(rows):
        z_row, a_row, y_row, delta = (
            offset(z, r * row_stride),
            offset(a, r * row_stride),
            offset(y, r * row_stride),
            offset(out, r * row_stride),
        )
        logits = softmax_logits(z_row, a_row, columns)
        total = large = zero
        for j in range(0, columns, width):
            m = min(width, columns - j)
            p = masked_load(a_row, j, m)
            parts = _softmax_parts(masked_load(z_row, j, m), p, logits)
            slope = slope_of(parts, masked_load(y_row, j, m), loss_parameter)
            slope = where(p > 0.5, slope, slope / parts[1])
            masked_store(delta, j, slope, m)
            total = total + select_lanes(where(p > 0.5, 0.0, slope), m, 0.0)
            large = large + select_lanes(where(p > 0.5, slope, 0.0), m, 0.0)
        total, large = zero + hsum(total), zero + hsum(large)
        for j in range(0, columns, width):
            m = min(width, columns - j)
            p = masked_load(a_row, j, m)
            ratio = where(p > 0.5, 0.0, _exp(masked_load(z_row, j, m) - logits[2]) / logits[3])
            masked_store(delta, j, (masked_load(delta, j, m) - p * total - ratio * large) * scale, m)


@inline
def label_of(labels, r, n):
    """Return a label, kept as a float, as an index; -1 where it is none of n classes, and perhaps fits no integer."""
    label = peek(labels, r)
    if label >= 0 and label < n:
        return np.intp(label)
    return -1


@inline
def sigmoid_label_losses(z, a, labels, out, rows, columns, row_stride):
    """out[r] = -log(sigmoid(z)) of the label's output."""
    one = masked_load(z, 0, 0) + 1.0
    for r in range(rows):
        label = label_of(labels, r, columns)
        value = one * np.nan
        if label >= 0:
            value = _class_loss(_sigmoid_parts(one * peek(z, r * row_stride + label)), one, 0.0)
        poke(out, r, hmax(value))


@inline
def sigmoid_label_gradient(z, a, labels, scale, out, rows, columns, row_stride):
    """Write its derivative by z, times scale."""
    one, width = masked_load(z, 0, 0) + 1.0, lanes(z)
    for r in range(rows):
        label = label_of(labels, r, columns)
        rest = one * 0.0
        if label < 0:
            rest = one * np.nan
        for j in range(0, columns, width):
            masked_store(out, r * row_stride + j, rest, min(width, columns - j))
        if label >= 0:
            at = r * row_stride + label
            poke(out, at, hmax(_class_slope(_sigmoid_parts(one * peek(z, at)), one, 0.0) * scale))


@inline
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
            poke(row, label, hmax(_cross_entropy_derivative(at_label, one, 0.0) * scale))


@inline
def softmax_label_losses(z, labels, lse, out, rows, columns, row_stride):
    """out[r] = lse - z of the label's output: cross-entropy of softmax outputs."""
    for r in range(rows):
        label = label_of(labels, r, columns)
        if label < 0:
            poke(out, r, np.nan)
        else:
            poke(out, r, peek(lse, r) - peek(z, r * row_stride + label))


# ------------------------------------------------------------------------------------------- native functions
# Of a loss and the output activation, which see a block of rows: sample_losses(parameter, has_labels, z, a, y, lse,
# out, rows, columns, row_stride) writes the loss of each row, summed over its columns;
# output_gradient(parameter, has_labels, z, a, y, scale, out, rows, columns, row_stride) writes scale * d loss / d a, or
# scale * d loss / d z of a logit form.  Rows are `row_stride` elements apart; the gradient may overwrite what lies
# between.  The parameter is what the loss takes besides outputs and targets, such as Huber's threshold.  With labels y
# holds one number a row; the loss and gradient of a label that is no class are NaN.

SAMPLE_LOSSES, OUTPUT_GRADIENT = "fipppppiii", "fipppfpiii"  # arguments, see `native.NativeFunction`


def _from_outputs(value, derivative):
    """Loops of a loss of the outputs."""

    def sample_losses(parameter, has_labels, z, a, y, lse, out, rows, columns, row_stride):
        sum_rows(value, parameter, a, y, out, rows, columns, row_stride)

    def output_gradient(parameter, has_labels, z, a, y, scale, out, rows, columns, row_stride):
        scaled_derivative(derivative, parameter, a, y, scale, out, rows * row_stride)

    return sample_losses, output_gradient


def _from_logits(value, derivative):
    """Loops of a loss of the logits: value(z, y, parameter), and its derivative by z."""

    def sample_losses(parameter, has_labels, z, a, y, lse, out, rows, columns, row_stride):
        sum_rows(value, parameter, z, y, out, rows, columns, row_stride)

    def output_gradient(parameter, has_labels, z, a, y, scale, out, rows, columns, row_stride):
        scaled_derivative(derivative, parameter, z, y, scale, out, rows * row_stride)

    return sample_losses, output_gradient


def _from_sigmoid(loss, slope):
    """Loops of a loss of sigmoid outputs, by the functions of their `_parts`."""

    @inline
    def value(z, y, parameter):
        return loss(_sigmoid_parts(z), y, parameter)

    @inline
    def derivative(z, y, parameter):
        return slope(_sigmoid_parts(z), y, parameter)

    return _from_logits(value, derivative)


def _from_softmax(loss, slope):
    """Loops of a loss of softmax outputs, by the functions of their `_parts`."""

    def sample_losses(parameter, has_labels, z, a, y, lse, out, rows, columns, row_stride):
        softmax_loss(loss, parameter, z, a, y, out, rows, columns, row_stride)

    def output_gradient(parameter, has_labels, z, a, y, scale, out, rows, columns, row_stride):
        softmax_loss_derivative(slope, parameter, z, a, y, scale, out, rows, columns, row_stride)

    return sample_losses, output_gradient


def _sigmoid_cross_entropy():
    """Loops of binary cross-entropy of sigmoid outputs, whose delta is a - y."""
    losses, _ = _from_logits(_binary_cross_entropy_logits, _squared_error_derivative)
    _, gradient = _from_outputs(_squared_error, _squared_error_derivative)
    return losses, gradient


def _softmax_cross_entropy():
    """Loops of cross-entropy of softmax outputs, whose delta is a - y."""

    def sample_losses(parameter, has_labels, z, a, y, lse, out, rows, columns, row_stride):
        if has_labels:
            softmax_label_losses(z, y, lse, out, rows, columns, row_stride)
        else:
            softmax_loss_rows(z, y, lse, out, rows, columns, row_stride)

    def output_gradient(parameter, has_labels, z, a, y, scale, out, rows, columns, row_stride):
        if has_labels:
            label_gradient(a, y, scale, out, rows, columns, row_stride, True)
        else:
            scaled_derivative(_squared_error_derivative, parameter, a, y, scale, out, rows * row_stride)

    return sample_losses, output_gradient


def _cross_entropy_of(with_rows, label_losses, label_gradients):
    """Loops of cross-entropy: those with rows of targets, or these with labels."""
    row_losses, row_gradients = map(inline, with_rows)

    def sample_losses(parameter, has_labels, z, a, y, lse, out, rows, columns, row_stride):
        if has_labels:
            label_losses(z, a, y, out, rows, columns, row_stride)
        else:
            row_losses(parameter, has_labels, z, a, y, lse, out, rows, columns, row_stride)

    def output_gradient(parameter, has_labels, z, a, y, scale, out, rows, columns, row_stride):
        if has_labels:
            label_gradients(z, a, y, scale, out, rows, columns, row_stride)
        else:
            row_gradients(parameter, has_labels, z, a, y, scale, out, rows, columns, row_stride)

    return sample_losses, output_gradient


@inline
def output_label_losses(z, a, labels, out, rows, columns, row_stride):
    """out[r] = -log(a) of the label's output."""
    one = masked_load(a, 0, 0) + 1.0
    for r in range(rows):
        label = label_of(labels, r, columns)
        if label < 0:
            poke(out, r, np.nan)
        else:
            poke(out, r, hmax(_cross_entropy(masked_load(a, 0, 0) + peek(a, r * row_stride + label), one, 0.0)))


@inline
def output_label_gradient(z, a, labels, scale, out, rows, columns, row_stride):
    """Write its derivative by a, times scale."""
    label_gradient(a, labels, scale, out, rows, columns, row_stride, False)


# The two loops of each pair of `tables.LOGIT_FORMS`.
LOGIT_LOOPS = {
    ("sigmoid", "binary_cross_entropy"): _sigmoid_cross_entropy,
    ("softmax", "cross_entropy"): _softmax_cross_entropy,
    ("sigmoid", "cross_entropy"): lambda: _cross_entropy_of(
        _from_sigmoid(_class_loss, _class_slope), sigmoid_label_losses, sigmoid_label_gradient
    ),
    ("sigmoid", "focal"): lambda: _from_sigmoid(_focal_loss, _focal_slope),
    ("sigmoid", "poisson"): lambda: _from_sigmoid(_poisson_loss, _poisson_slope),
    ("softmax", "binary_cross_entropy"): lambda: _from_softmax(_binary_loss, _binary_slope),
    ("softmax", "focal"): lambda: _from_softmax(_focal_loss, _focal_slope),
    ("softmax", "poisson"): lambda: _from_softmax(_poisson_loss, _poisson_slope),
    ("softplus", "poisson"): lambda: _from_logits(_softplus_poisson, _softplus_poisson_derivative),
    ("exponential", "poisson"): lambda: _from_logits(_exponential_poisson, _exponential_poisson_derivative),
}


def _loops(loss, activation):
    """Return the two loops of a loss of outputs of an activation, both by name; by the logits where there is a form."""
    if (activation, loss) in LOGIT_FORMS:
        return LOGIT_LOOPS[activation, loss]()
    loops = _from_outputs(globals()[f"_{loss}"], globals()[f"_{loss}_derivative"])
    if loss == "cross_entropy":
        loops = _cross_entropy_of(loops, output_label_losses, output_label_gradient)
    return loops


def sample_losses(loss, activation=None):
    """Return the native function of the losses of samples, by the names of the loss and of the output activation.

    Only pairs with a logit form depend on the activation.
    """
    return NativeFunction(_loops(loss, activation)[0], SAMPLE_LOSSES)


def output_gradient(loss, activation=None):
    """Return the native function of the gradient by outputs, or by logits where there is a form, likewise."""
    return NativeFunction(_loops(loss, activation)[1], OUTPUT_GRADIENT)


# ------------------------------------------------------------------------------------------ the public kernels
# A, Z and Y are (n_samples, n_out), C-contiguous, of one float dtype; out is (n_samples,), that of a derivative
# (n_samples, n_out).  For cross-entropy Y may also be int64 class labels (n_samples,): NaN for those that are no class.


@inline
def losses_of(value, parameter, A, Y, out):
    """Write the loss of each sample."""
    p, n_out = pointer(A, 0), A.shape[1]
    sum_rows(value, as_float(parameter, p), p, pointer(Y, 0), pointer(out, 0), A.shape[0], n_out, n_out)


@inline
def derivatives_of(derivative, parameter, A, Y, out):
    """Write the derivatives by A."""
    p = pointer(A, 0)
    scaled_derivative(derivative, as_float(parameter, p), p, pointer(Y, 0), as_float(1, p), pointer(out, 0), A.size)


@kernel
def squared_error(A, Y, out):
    """Half the squared error, 1/2 sum (A - Y)**2, of each sample."""
    losses_of(_squared_error, 0, A, Y, out)


@kernel
def squared_error_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(_squared_error_derivative, 0, A, Y, out)


@kernel
def absolute_error(A, Y, out):
    """Sum of |A - Y| of each sample."""
    losses_of(_absolute_error, 0, A, Y, out)


@kernel
def absolute_error_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(_absolute_error_derivative, 0, A, Y, out)


@kernel
def huber(A, Y, threshold, out):
    """Sum of d**2 / 2 where d = |A - Y| < threshold, else threshold (d - threshold / 2), of each sample.

    Huber 1964.
    """
    losses_of(_huber, threshold, A, Y, out)


@kernel
def huber_derivative(A, Y, threshold, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(_huber_derivative, threshold, A, Y, out)


@kernel
def log_cosh(A, Y, out):
    """Sum of log(cosh(A - Y)) of each sample."""
    losses_of(_log_cosh, 0, A, Y, out)


@kernel
def log_cosh_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(_log_cosh_derivative, 0, A, Y, out)


@kernel
def quantile(A, Y, q, out):
    """Sum of q (Y - A) where A < Y, else (1 - q) (A - Y), of each sample (Koenker and Bassett 1978)."""
    losses_of(_quantile, q, A, Y, out)


@kernel
def quantile_derivative(A, Y, q, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(_quantile_derivative, q, A, Y, out)


@kernel
def hinge(A, Y, out):
    """Sum of max(0, 1 - Y A) of each sample; Y is -1 or 1."""
    losses_of(_hinge, 0, A, Y, out)


@kernel
def hinge_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(_hinge_derivative, 0, A, Y, out)


@kernel
def poisson(A, Y, out):
    """Sum of A - Y log A of each sample; A is kept above 0."""
    losses_of(_poisson, 0, A, Y, out)


@kernel
def poisson_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(_poisson_derivative, 0, A, Y, out)


@kernel
def binary_cross_entropy(A, Y, out):
    """Sum of -(Y log A + (1 - Y) log(1 - A)) of each sample; A is kept off 0 and 1."""
    losses_of(_binary_cross_entropy, 0, A, Y, out)


@kernel
def binary_cross_entropy_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(_binary_cross_entropy_derivative, 0, A, Y, out)


@kernel
def focal(A, Y, gamma, out):
    """Sum of -Y (1 - A)**gamma log A - (1 - Y) A**gamma log(1 - A) of each sample; A is kept off 0 and 1.

    Lin et al. 2017, eq. 4, without their alpha.
    """
    losses_of(_focal, gamma, A, Y, out)


@kernel
def focal_derivative(A, Y, gamma, out):
    """Its derivative by A, for each sample (no 1/n)."""
    derivatives_of(_focal_derivative, gamma, A, Y, out)


@kernel
def binary_cross_entropy_logits(Z, Y, out):
    """Sum of the binary cross-entropy of sigmoid(Z) of each sample, finite for every finite Z."""
    losses_of(_binary_cross_entropy_logits, 0, Z, Y, out)


@inline
def of_labels(function, a, Y, extra, rows, columns, out):
    """Call function(a, labels, extra, ...), the labels as numbers of the dtype; `extra` is a pointer that it takes."""
    labels = allocate(rows, a)
    if address(labels) == 0:
        return NO_MEMORY
    for r in range(rows):
        poke(labels, r, as_float(Y[r], a))
    function(a, labels, extra, out, rows, columns)
    release(labels)
    return DONE


@inline
def _label_losses(a, labels, lse, out, rows, columns):
    output_label_losses(a, a, labels, out, rows, columns, columns)


@inline
def _label_gradient(a, labels, lse, out, rows, columns):
    output_label_gradient(a, a, labels, as_float(1, a), out, rows, columns, columns)


@inline
def _label_logit_losses(z, labels, lse, out, rows, columns):
    softmax_label_losses(z, labels, lse, out, rows, columns, columns)


@kernel
def cross_entropy(A, Y, out):
    """Sum of -Y log A of each sample, or -log A[label]; A is kept off 0."""
    rows, n = A.shape
    p = pointer(A, 0)
    if Y.ndim == 1:
        return of_labels(_label_losses, p, Y, p, rows, n, pointer(out, 0))
    sum_rows(_cross_entropy, as_float(0, p), p, pointer(Y, 0), pointer(out, 0), rows, n, n)
    return DONE


@kernel
def cross_entropy_derivative(A, Y, out):
    """Its derivative by A, for each sample (no 1/n)."""
    rows, n = A.shape
    p = pointer(A, 0)
    if Y.ndim == 1:
        return of_labels(_label_gradient, p, Y, p, rows, n, pointer(out, 0))
    one = as_float(1, p)
    scaled_derivative(_cross_entropy_derivative, as_float(0, p), p, pointer(Y, 0), one, pointer(out, 0), A.size)
    return DONE


@kernel
def cross_entropy_logits(Z, Y, out):
    """Cross-entropy of softmax(Z) of each sample, finite for every finite Z."""
    rows, n = Z.shape
    z = pointer(Z, 0)
    lse = allocate(rows + n, z)
    if address(lse) == 0:
        return NO_MEMORY
    for r in range(rows):
        poke(lse, r, softmax_row(offset(z, r * n), offset(lse, rows), n))
    result = DONE
    if Y.ndim == 1:
        result = of_labels(_label_logit_losses, z, Y, lse, rows, n, pointer(out, 0))
    else:
        softmax_loss_rows(z, pointer(Y, 0), lse, pointer(out, 0), rows, n, n)
    release(lse)
    return result
