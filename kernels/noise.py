"""Random numbers inside training: dropout and input noise.  Twin: `fastbp.reference.noise`.

A random number depends only on (key, step, layer, row, column).  So it is the same for any number of threads and on
either backend, takes no memory, and a resumed training draws the same ones.  The row's 64 bits are SplitMix64's mixing
function of the four (Steele, Lea and Flood 2014); a column's 32 bits mix those with the column (the two-round integer
hash of C. Wellons, "lowbias32").
"""

import numpy as np

from .elementwise import _identity, _log, map_array
from .jit import inline, internal, kernel
from .native import native
from .simd import (
    fma,
    keep_mask,
    lanes,
    masked_load,
    masked_store,
    offset,
    pointer,
    polynomial,
    random_unit,
    sqrt,
    where,
)

# sin(pi t) = t * polynomial(t**2) for |t| <= 1/2, by its Taylor series: the first omitted term is below 1e-13
SINE = (
    7.952054001475508e-07,
    -2.1915353447830204e-05,
    4.6630280576761234e-04,
    -7.370430945714348e-03,
    0.08214588661112819,
    -0.5992645293207919,
    2.550164039877345,
    -5.167712780049969,
    3.141592653589793,
)


@inline
def row_seed(key, step, layer, row):
    """Return the 64 random bits of one row of one layer in one step."""
    z = (
        np.uint64(key)
        + np.uint64(step) * np.uint64(0x9E3779B97F4A7C15)
        + np.uint64(layer) * np.uint64(0xD1342543DE82EF95)
        + np.uint64(row) * np.uint64(0xF1357AEA2E62A9C5)
    )
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@native("iiiipipiiiii")
@internal
def drop_rows(key, step, layer, threshold, a, a_row_stride, out, out_row_stride, rows, start, left, right):
    """Set each element of columns left to right - 1 to 0 with probability p = threshold / 2**32, else divide by 1 - p.

    Rows of `a` are `a_row_stride` apart; row r is row start + r of the batch.
    """
    width = lanes(a)
    factor = masked_load(a, 0, 0) + 4294967296.0 / (4294967296.0 - threshold)
    for r in range(rows):
        seed = row_seed(key, step, layer, start + r)
        source, target = offset(a, r * a_row_stride), offset(out, r * out_row_stride)
        for j in range(left, right, width):
            n = min(width, right - j)
            kept = where(keep_mask(a, seed, j, threshold), masked_load(source, j, n) * factor, 0.0)
            masked_store(target, j, kept, n)


@native("iifpiiiii")
@internal
def noise_rows(key, step, deviation, x, x_row_stride, first, last, start, columns):
    """Add normal random numbers to rows first to last - 1, in place (Box and Muller 1958)."""
    width = lanes(x)
    for r in range(first, last):
        seed = row_seed(key, step, -1, start + r)
        row = offset(x, r * x_row_stride)
        for j in range(0, columns, width):
            n = min(width, columns - j)
            t = random_unit(x, seed >> np.uint64(32), j) - 0.5
            sine = t * polynomial(t * t, t * t * (t * t), SINE)
            cosine = fma(sine * sine, -2.0, 1.0)
            length = sqrt(_log(random_unit(x, seed, j)) * -2.0)
            masked_store(row, j, fma(length * cosine, deviation, masked_load(row, j, n)), n)


@kernel
def dropout(A, key, step, layer, rate, out):
    """Inverted dropout: out is A / (1 - rate) where kept, else 0 (Srivastava et al. 2014).

    Parameters
    ----------
    A : float (n_samples, n_out)
    key, step, layer : int
        Select the random numbers: the key of the training, its step, and the layer.
    rate : float
        Probability of dropping an element, in [0, 1), to 32 bits.
    out : as A; may be A.
    """
    rows, columns = A.shape
    drop_rows(
        key,
        step,
        layer,
        threshold=np.int64(rate * 4294967296.0),
        a=pointer(A, 0),
        a_row_stride=columns,
        out=pointer(out, 0),
        out_row_stride=columns,
        rows=rows,
        start=0,
        left=0,
        right=columns,
    )


@kernel
def input_noise(X, key, step, deviation, out):
    """Out = X + deviation * normal random numbers; X and out (n_samples, n_in), key and step as for `dropout`."""
    rows, columns = X.shape
    map_array(_identity, pointer(X, 0), pointer(out, 0), X.size)
    noise_rows(
        key,
        step,
        deviation,
        x=pointer(out, 0),
        x_row_stride=columns,
        first=0,
        last=rows,
        start=0,
        columns=columns,
    )
