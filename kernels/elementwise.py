"""Activations and their derivatives over arrays, and the exp and log they are made of.

Every function of one element (`_sigmoid` and its kin) is written once, for a vector of lanes; the kernels run it
over a block of memory.  No step depends on the width of the host's registers, so results are the same bits
everywhere.  Twins of the public kernels: the functions of the same names in `fastbp.reference`.

Notes
-----
exp is 2**n * e**r with n whole and |r| <= ln(2)/2 (Cody and Waite 1980); e**r = 1 + (r + r**2 q(r)), and
log(1 + f) = 2 artanh(s), s = f / (2 + f).  The polynomials are minimax fits by Remez' exchange, made for these
kernels in 60-digit arithmetic.  erfc follows the form of Numerical Recipes, 6.2: t exp(-z**2 + P(t)), t = 2 / (2 + z).
"""

import functools

from .jit import inline, kernel
from .native import NativeFunction
from .simd import (
    by_dtype,
    copysign,
    fabs,
    fma,
    half,
    hmax,
    hmax_no_nan,
    hsum,
    ilogb,
    lanes,
    load,
    masked_load,
    masked_store,
    narrow,
    offset,
    pointer,
    poke,
    polynomial,
    power_of_two,
    rint,
    select_lanes,
    store,
    where,
)
from .tables import ACTIVATIONS, RELU, SIGMOID, TANH

LEAKY_SLOPE = 0.01
ELU_ALPHA = 1.0
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017, eq. 14

# q(r) = (e**r - 1 - r) / r**2 on |r| <= ln(2)/2: largest relative error of e**r 3e-9 and 3e-18
EXP32 = (0.0013950648970092525, 0.0083689539659530456, 0.041666203181657233, 0.16666518301812148, 0.50000000961766912)
EXP64 = (
    2.5117744247627753e-8,
    2.7631412638538380e-7,
    2.7557216710319038e-6,
    2.4801489596142917e-5,
    0.00019841269916885339,
    0.0013888888947323059,
    0.0083333333333074440,
    0.041666666666514365,
    0.16666666666666699,
    0.50000000000000129,
)
LN2_32, LN2_64 = (0.693359375, -0.00021219444005469058), (0.69314718055989033, 5.4979230187083712e-14)
# p(z) = (log((1 + s) / (1 - s)) - 2 s) / s**3, z = s**2, for (1 + s) / (1 - s) in [sqrt(1/2), sqrt(2)]
LOG32 = (0.23583455840258613, 0.28537247186568416, 0.40000336021355729, 0.66666665642373766)
LOG64 = (
    0.13252751217190307,
    0.13249962576893129,
    0.15387097616655768,
    0.18181775509633853,
    0.22222222648730638,
    0.28571428569073154,
    0.40000000000006286,
    0.66666666666666661,
)
# log(erfc(z) / t) + z**2 as a polynomial in 2 t - 1: largest error 6e-8 for z <= 14, 5e-16 for z <= 27
ERFC32 = (
    0.00031443153980063048,
    -0.00017009471412912810,
    -0.0020474950799610213,
    0.0017385580147475352,
    0.0087159619171663231,
    -0.0098626606474811731,
    -0.046879308772770655,
    0.047342200616130797,
    0.67264253503519980,
    -0.67179406785691803,
)
ERFC64 = (
    3.9541778220238271e-8,
    -1.6183766191966223e-7,
    -1.0150635944947437e-8,
    1.0449471739753675e-6,
    -1.3895112428918250e-6,
    -2.7090494781657415e-6,
    8.6031970211901342e-6,
    -3.1210211591256786e-8,
    -3.0185445864101989e-5,
    3.1822327797501013e-5,
    7.1392795630883855e-5,
    -0.00017432604633204274,
    -9.3731606514740937e-5,
    0.00067368326073683823,
    -0.00014624756717225168,
    -0.0023458130323269997,
    0.0017589336344357342,
    0.0088249385926375648,
    -0.0098726893704440190,
    -0.046895610232287271,
    0.047343306841984945,
    0.67264322397766713,
    -0.67179408405669252,
)


# ------------------------------------------------------------------------- functions of one vector of elements


@inline
def _clamp(x, low, high):
    """X within [low, high]; NaN stays NaN."""
    x = where(x < low, low, x)
    return where(x > high, high, x)


@inline
def _reduced(x):
    """(n, e**r - 1) with x = n ln(2) + r, n whole and |r| <= ln(2)/2."""
    n = rint(x * 1.4426950408889634)
    high, low = by_dtype(x, LN2_32, LN2_64)
    r = fma(-n, low, fma(-n, high, x))
    r_squared = r * r
    return n, fma(r_squared, polynomial(r, r_squared, by_dtype(x, EXP32, EXP64)), r)


@inline
def _exp(x):
    x = _clamp(x, by_dtype(x, -104.0, -746.0), by_dtype(x, 89.0, 710.0))
    n, p = _reduced(x)
    half = rint(n * 0.5)  # two steps, for results that are subnormal or overflow
    return (p + 1.0) * power_of_two(half) * power_of_two(n - half)


@inline
def _expm1(x):
    """e**x - 1, accurate for small x too; from -87 (-708) to 88 (709), and -1 below."""
    x = _clamp(x, by_dtype(x, -87.0, -708.0), by_dtype(x, 88.0, 709.0))
    n, p = _reduced(x)
    scale = power_of_two(n)
    return fma(scale, p, scale - 1.0)


@inline
def _log_of_ratio(f, n):
    """log((1 + f) * 2**n) for 1 + f in [sqrt(1/2), sqrt(2))."""
    s = f / (f + 2.0)
    z = s * s
    high, low = by_dtype(f, LN2_32, LN2_64)
    return fma(n, high, fma(s + s, 1.0, fma(s * z, polynomial(z, z * z, by_dtype(f, LOG32, LOG64)), n * low)))


@inline
def _log(x):
    tiny = by_dtype(x, 1.1754943508222875e-38, 2.2250738585072014e-308)
    is_subnormal = x < tiny
    y = where(is_subnormal, x * by_dtype(x, 16777216.0, 18014398509481984.0), x)
    n = ilogb(y)
    half = rint(n * 0.5)  # two steps: 2**-n itself may be subnormal
    m = y * power_of_two(-half) * power_of_two(half - n)
    result = _log_of_ratio(m - 1.0, n - where(is_subnormal, by_dtype(x, 24.0, 54.0), 0.0))
    result = where(x == 0.0, -float("inf"), result)
    result = where(x < 0.0, float("nan"), result)
    return where(x < float("inf"), result, x)  # inf and NaN are their own logarithms


@inline
def _log1p_of_unit(y):
    """log(1 + y) for y in [0, 1]."""
    above = y > 0.41421356
    return _log_of_ratio(where(above, (y - 1.0) * 0.5, y), where(above, 1.0, 0.0))


@inline
def _half_erfc(x):
    """Return the normal distribution function of -|x| * sqrt(2), that is erfc(|x|) / 2."""
    z = _clamp(fabs(x), 0.0, by_dtype(x, 14.0, 28.0))
    t = 2.0 / (z + 2.0)
    u = t + t - 1.0
    return t * 0.5 * _exp(fma(-z, z, polynomial(u, u * u, by_dtype(x, ERFC32, ERFC64))))


@inline
def _normal_cdf(x):
    tail = _half_erfc(x * 0.7071067811865476)
    return where(x > 0.0, 1.0 - tail, tail)


@inline
def _sigmoid(z):
    x = _clamp(-z, by_dtype(z, -87.0, -708.0), by_dtype(z, 89.0, 710.0))
    n, p = _reduced(x)
    return 1.0 / ((p + 1.0) * power_of_two(n) + 1.0)  # fma(p, 2**n, 2**n) would be NaN for an infinite 2**n


@inline
def _sigmoid_derivative(z, a):
    return a * (1.0 - a)


@inline
def _tanh(z):
    high = by_dtype(z, 20.0, 40.0)
    twice = fabs(z) * 2.0
    t = _expm1(where(twice > high, high, twice))
    return copysign(t / (t + 2.0), z)


@inline
def _tanh_derivative(z, a):
    return fma(-a, a, 1.0)


@inline
def _relu(z):
    return where(z < 0.0, 0.0, z)


@inline
def _relu_derivative(z, a):
    return where(a > 0.0, 1.0, 0.0)


@inline
def _leaky_relu(z):
    return where(z < 0.0, z * LEAKY_SLOPE, z)


@inline
def _leaky_relu_derivative(z, a):
    return where(a > 0.0, 1.0, LEAKY_SLOPE)


@inline
def _elu(z):
    return where(z < 0.0, _expm1(z) * ELU_ALPHA, z)


@inline
def _elu_derivative(z, a):
    return where(a > 0.0, 1.0, a + ELU_ALPHA)


@inline
def _softplus(z):
    return where(z < 0.0, 0.0, z) + _log1p_of_unit(_exp(-fabs(z)))


@inline
def _softplus_derivative(z, a):
    return -_expm1(-a)


@inline
def _silu(z):
    return where(z == -float("inf"), 0.0, z * _sigmoid(z))


@inline
def _silu_derivative(z, a):
    s = _sigmoid(z)
    return s * fma(_clamp(z, -1e4, 1e4), 1.0 - s, 1.0)


@inline
def _gelu(z):
    return where(z == -float("inf"), 0.0, z * _normal_cdf(z))


@inline
def _gelu_derivative(z, a):
    x = _clamp(z, -50.0, 50.0)
    return fma(x * 0.3989422804014327, _exp(x * x * -0.5), _normal_cdf(z))


@inline
def _selu(z):
    return where(z < 0.0, _expm1(z) * (SELU_SCALE * SELU_ALPHA), z * SELU_SCALE)


@inline
def _selu_derivative(z, a):
    return where(a > 0.0, SELU_SCALE, a + SELU_SCALE * SELU_ALPHA)


@inline
def _mish_parts(z):
    """(n, n + 2) with tanh(log(1 + e**z)) = n / (n + 2), that is n = e**z (e**z + 2)."""
    e = _exp(where(z > by_dtype(z, 20.0, 40.0), by_dtype(z, 20.0, 40.0), z))
    n = e * (e + 2.0)
    return n, n + 2.0


@inline
def _mish(z):
    n, m = _mish_parts(z)
    return where(z == -float("inf"), 0.0, z * (n / m))


@inline
def _mish_derivative(z, a):
    n, m = _mish_parts(z)
    one_less = (n + 1.0) * 4.0 / (m * m)  # 1 - (n / m)**2, without cancellation
    return fma(_clamp(z, -1e4, 1e4) * _sigmoid(z), one_less, n / m)


@inline
def _softsign(z):
    z = _finite(z)
    return z / (fabs(z) + 1.0)


@inline
def _softsign_derivative(z, a):
    root = 1.0 / (fabs(z) + 1.0)  # 1 - |a|, in which all digits may cancel
    return root * root


@inline
def _hard_sigmoid(z):
    return _clamp(z + 3.0, 0.0, 6.0) / 6.0


@inline
def _hard_sigmoid_derivative(z, a):
    return where(fabs(a - 0.5) < 0.5, 1.0 / 6.0, 0.0)


@inline
def _hard_tanh(z):
    return _clamp(z, -1.0, 1.0)


@inline
def _hard_tanh_derivative(z, a):
    return where(fabs(a) < 1.0, 1.0, 0.0)


@inline
def _exponential_derivative(z, a):
    return a


@inline
def _identity(z):
    return z


@inline
def _identity_derivative(z, a):
    return where(a == a, 1.0, 1.0)


# ---------------------------------------------------------------------------------------- loops over memory


@inline
def map_array(function, z, out, n):
    """out[i] = function(z[i]) for n elements; `out` may be `z`."""
    width = lanes(z)
    i = 0
    while i + width <= n:
        store(out, i, function(load(z, i)))
        i += width
    if i < n:
        masked_store(out, i, function(masked_load(z, i, n - i)), n - i)


@inline
def map_pair(function, z, a, out, n):
    """out[i] = function(z[i], a[i]); `out` may be either."""
    width = lanes(z)
    i = 0
    while i + width <= n:
        store(out, i, function(load(z, i), load(a, i)))
        i += width
    if i < n:
        masked_store(out, i, function(masked_load(z, i, n - i), masked_load(a, i, n - i)), n - i)


@inline
def _finite(x):
    """X, infinities replaced by the largest numbers."""
    largest = by_dtype(x, 3.4028234663852886e38, 1.7976931348623157e308)
    return _clamp(x, -largest, largest)


@inline
def softmax_row(z, a, n):
    """Write a = softmax(z) for one row, and return log(sum(exp(z))).  `a` may be `z`."""
    width = lanes(z)
    lowest = -float("inf")
    full = n - n % width
    top = select_lanes(masked_load(z, full, n - full), n - full, lowest)
    for i in range(0, full, width):
        v = load(z, i)
        top = where(v > top, v, top)
    shift = _finite(masked_load(z, 0, 0) + hmax(top))
    total = masked_load(z, 0, 0)
    for i in range(0, full, width):
        e = _exp(_finite(load(z, i)) - shift)
        store(a, i, e)
        total = total + e
    if full < n:
        e = select_lanes(_exp(_finite(masked_load(z, full, n - full)) - shift), n - full, 0.0)
        masked_store(a, full, e, n - full)
        total = total + e
    total = masked_load(z, 0, 0) + hsum(total)
    for i in range(0, full, width):
        store(a, i, load(a, i) / total)
    if full < n:
        masked_store(a, full, masked_load(a, full, n - full) / total, n - full)
    return hmax(_log(total) + shift)


@inline
def softmax_vector(z, a, n):
    """`softmax_row` of a row that fits into one vector: it stays in registers."""
    v, zero = masked_load(z, 0, n), masked_load(narrow(z), 0, 0)
    top = hmax_no_nan(select_lanes(v, n, -float("inf")))
    e = select_lanes(_exp(_finite(v) - _finite(masked_load(z, 0, 0) + top)), n, 0.0)
    total = hsum(e)
    masked_store(a, 0, e / total, n)
    return hmax_no_nan(_log(zero + total) + _finite(zero + top))


@inline
def map_rows(function, z, a, row_stride, columns, lse, rows):
    """lse[r] = function(z[r], a[r], columns) for rows `row_stride` elements apart."""
    for r in range(rows):
        poke(lse, r, function(offset(z, r * row_stride), offset(a, r * row_stride), columns))


@inline
def softmax_rows(z, a, row_stride, columns, lse, rows):
    """Write a = softmax(z) for each row, and lse = log(sum(exp(z)))."""
    if columns <= lanes(half(z)):
        map_rows(softmax_vector, half(z), half(a), row_stride, columns, lse, rows)
    elif columns <= lanes(z):
        map_rows(softmax_vector, z, a, row_stride, columns, lse, rows)
    else:
        map_rows(softmax_row, z, a, row_stride, columns, lse, rows)


@inline
def softmax_backward_row(a, d_a, delta, n):
    """Delta = a * (d_a - sum(a * d_a)) for one row; `delta` may be `d_a`."""
    width = lanes(a)
    full = n - n % width
    total = masked_load(a, full, n - full) * masked_load(d_a, full, n - full)
    for i in range(0, full, width):
        total = fma(load(a, i), load(d_a, i), total)
    mean = masked_load(a, 0, 0) + hsum(total)
    for i in range(0, full, width):
        store(delta, i, load(a, i) * (load(d_a, i) - mean))
    if full < n:
        masked_store(delta, full, masked_load(a, full, n - full) * (masked_load(d_a, full, n - full) - mean), n - full)


# -------------------------------------------------------------------------------------- inline, and by address

# The functions of activations whose name is not that of their vector function above.
_exponential, _softmax, _softmax_derivative = _exp, softmax_rows, softmax_backward_row


@inline
def inline_activation(code, z):
    """f(z) of an inline activation."""
    if code == SIGMOID:
        return _sigmoid(z)
    if code == TANH:
        return _tanh(z)
    if code == RELU:
        return _relu(z)
    return z


@inline
def times_inline_derivative(code, delta, a):
    """Delta * f'(z) of an inline activation, from a = f(z)."""
    if code == SIGMOID:
        return delta * _sigmoid_derivative(a, a)
    if code == TANH:
        return delta * _tanh_derivative(a, a)
    if code == RELU:
        return delta * _relu_derivative(a, a)
    return delta


FORWARD, BACKWARD = "ppiipi", "pppiii"  # arguments of the native functions (`native.NativeFunction`)


@functools.cache
def forward(activation):
    """Return the native function of an activation by name, (z, a, row_stride, columns, lse, rows).

    It writes a = f(z), rows `row_stride` elements apart; for softmax also lse = log(sum(exp(z))) of each row.
    """
    function = globals()[f"_{activation}"]

    def activation_forward(z, a, row_stride, columns, lse, rows):
        if columns == row_stride:
            rows, columns = 1, rows * row_stride
        for r in range(rows):
            map_array(function, offset(z, r * row_stride), offset(a, r * row_stride), columns)

    def activation_forward_by_row(z, a, row_stride, columns, lse, rows):
        function(z, a, row_stride, columns, lse, rows)

    loop = activation_forward if ACTIVATIONS[activation].is_elementwise else activation_forward_by_row
    return NativeFunction(loop, FORWARD)


@functools.cache
def backward(activation):
    """Return the native function of its derivative by name, (z, a, delta, row_stride, columns, rows).

    Delta *= f'(z): from d loss / d a to d loss / d z, rows `row_stride` elements apart.
    """
    function = globals()[f"_{activation}_derivative"]

    def activation_backward(z, a, delta, row_stride, columns, rows):
        if columns == row_stride:
            rows, columns = 1, rows * row_stride
        width = lanes(z)
        for r in range(rows):
            i, end = r * row_stride, r * row_stride + columns
            while i + width <= end:
                store(delta, i, load(delta, i) * function(load(z, i), load(a, i)))
                i += width
            if i < end:
                n = end - i
                product = masked_load(delta, i, n) * function(masked_load(z, i, n), masked_load(a, i, n))
                masked_store(delta, i, product, n)

    def activation_backward_by_row(z, a, delta, row_stride, columns, rows):
        for r in range(rows):
            delta_row = offset(delta, r * row_stride)
            function(offset(a, r * row_stride), delta_row, delta_row, columns)

    loop = activation_backward if ACTIVATIONS[activation].is_elementwise else activation_backward_by_row
    return NativeFunction(loop, BACKWARD)


# ------------------------------------------------------------------------------------------ the public kernels
# Z, A and out are contiguous arrays of one shape and float dtype; `out` may be the same array as an argument.


@kernel
def exp(x, out):
    """Exponential: 0 below and infinity above the range of the dtype."""
    map_array(_exp, pointer(x, 0), pointer(out, 0), out.size)


@kernel
def log(x, out):
    """Natural logarithm: -inf at 0, NaN below."""
    map_array(_log, pointer(x, 0), pointer(out, 0), out.size)


@kernel
def sigmoid(Z, out):
    """Logistic function 1 / (1 + exp(-Z))."""
    map_array(_sigmoid, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def tanh(Z, out):
    """Hyperbolic tangent."""
    map_array(_tanh, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def relu(Z, out):
    """Z where positive, else 0."""
    map_array(_relu, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def leaky_relu(Z, out):
    """Z where positive, else 0.01 Z."""
    map_array(_leaky_relu, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def elu(Z, out):
    """Z where positive, else exp(Z) - 1 (Clevert et al. 2016)."""
    map_array(_elu, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def softplus(Z, out):
    """log(1 + exp(Z))."""
    map_array(_softplus, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def silu(Z, out):
    """Z times the logistic function of Z (Elfwing et al. 2018)."""
    map_array(_silu, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def gelu(Z, out):
    """Z Phi(Z), Phi the distribution function of the normal law (Hendrycks and Gimpel 2016)."""
    map_array(_gelu, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def selu(Z, out):
    """Z where positive, else 1.6733 (exp(Z) - 1); times 1.0507 (Klambauer et al. 2017)."""
    map_array(_selu, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def mish(Z, out):
    """Z tanh(log(1 + exp(Z))) (Misra 2019)."""
    map_array(_mish, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def softsign(Z, out):
    """Z / (1 + |Z|)."""
    map_array(_softsign, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def hard_sigmoid(Z, out):
    """Z / 6 + 1/2, held within [0, 1]."""
    map_array(_hard_sigmoid, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def hard_tanh(Z, out):
    """Z, held within [-1, 1]."""
    map_array(_hard_tanh, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def exponential(Z, out):
    """exp(Z)."""
    map_array(_exp, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def identity(Z, out):
    """Z itself."""
    map_array(_identity, pointer(Z, 0), pointer(out, 0), out.size)


@kernel
def sigmoid_derivative(Z, A, out):
    """Write f'(Z) = A (1 - A)."""
    map_pair(_sigmoid_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def tanh_derivative(Z, A, out):
    """Write f'(Z) = 1 - A**2."""
    map_pair(_tanh_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def relu_derivative(Z, A, out):
    """Write f'(Z) = 1 where A > 0, else 0."""
    map_pair(_relu_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def leaky_relu_derivative(Z, A, out):
    """Write f'(Z) = 1 where A > 0, else 0.01."""
    map_pair(_leaky_relu_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def elu_derivative(Z, A, out):
    """Write f'(Z) = 1 where A > 0, else A + 1."""
    map_pair(_elu_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def softplus_derivative(Z, A, out):
    """Write f'(Z) = 1 - exp(-A)."""
    map_pair(_softplus_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def silu_derivative(Z, A, out):
    """Write f'(Z) = S (1 + Z (1 - S)), S the logistic function of Z."""
    map_pair(_silu_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def gelu_derivative(Z, A, out):
    """Write f'(Z) = Phi(Z) + Z phi(Z), phi the density of the normal law."""
    map_pair(_gelu_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def selu_derivative(Z, A, out):
    """Write f'(Z) = 1.0507 where A > 0, else A + 1.7581."""
    map_pair(_selu_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def mish_derivative(Z, A, out):
    """Write f'(Z) = T + Z S (1 - T**2), T = tanh(log(1 + exp(Z))), S the logistic function of Z."""
    map_pair(_mish_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def softsign_derivative(Z, A, out):
    """Write f'(Z) = 1 / (1 + |Z|)**2."""
    map_pair(_softsign_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def hard_sigmoid_derivative(Z, A, out):
    """Write f'(Z) = 1/6 where 0 < A < 1, else 0."""
    map_pair(_hard_sigmoid_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def hard_tanh_derivative(Z, A, out):
    """Write f'(Z) = 1 where |A| < 1, else 0."""
    map_pair(_hard_tanh_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def exponential_derivative(Z, A, out):
    """Write f'(Z) = A."""
    map_pair(_exponential_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def identity_derivative(Z, A, out):
    """Write f'(Z) = 1."""
    map_pair(_identity_derivative, pointer(Z, 0), pointer(A, 0), pointer(out, 0), out.size)


@kernel
def softmax(Z, out):
    """exp(Z) / sum of exp(Z) over each row; Z and out are (n_samples, n_out)."""
    rows, columns = Z.shape
    for r in range(rows):
        softmax_row(pointer(Z, r * columns), pointer(out, r * columns), columns)


@kernel
def softmax_backward(A, dA, out):
    """Write A (dA - row sums of A dA): d loss / d Z of a softmax from d loss / d A, all (n_samples, n_out)."""
    rows, columns = A.shape
    for r in range(rows):
        at = r * columns
        softmax_backward_row(pointer(A, at), pointer(dA, at), pointer(out, at), columns)
