"""Jobs with NumPy arrays that the native side reads and checks: in Python that takes longer than a small step."""

import numpy as np

from .jit import inline, internal
from .layout import (
    ALIGNED,
    ARRAY_ARGS_AT,
    ARRAY_DATA,
    ARRAY_DIMENSIONS,
    ARRAY_DTYPE,
    ARRAY_FLAGS,
    ARRAY_NDIM,
    C_CONTIGUOUS,
    KERNEL_AT,
    N_AT,
    NOT_FINITE,
    REFUSED,
    SCALE_AT,
    SYNC_AT,
    WEIGHTS_AT,
    WRITEABLE,
    X_AT,
    Y_AT,
    Y_KIND_AT,
    Y_LABELS,
    Y_ROWS,
    ArrayArgs,
)
from .native import native
from .simd import address, call, offset, peek, pointer_at, pointer_like, poke, unpacked
from .training import is_finite


@inline
def has_flags(array, flags):
    """Whether an array object has all of these flags."""
    return peek(pointer_at(array, np.int64), ARRAY_FLAGS) & flags == flags


@inline
def is_plain(array, ndim, dtype):
    """Whether kernels can read the array of this object as it is."""
    fields = pointer_at(array, np.int64)
    is_of_kind = peek(fields, ARRAY_DTYPE) == dtype and peek(fields, ARRAY_NDIM) & 0xFFFFFFFF == ndim
    return is_of_kind and has_flags(array, C_CONTIGUOUS | ALIGNED)


@inline
def data_of(array):
    """Return the address of the data of an array object."""
    return peek(pointer_at(array, np.int64), ARRAY_DATA)


@inline
def size_of(array, axis):
    """Return how long an array object is along an axis."""
    return peek(pointer_at(peek(pointer_at(array, np.int64), ARRAY_DIMENSIONS), np.int64), axis)


@inline
def are_within(values, n, low, high):
    """Whether all of n numbers are within bounds; NaN is not."""
    for i in range(n):
        if not low <= peek(values, i) <= high:
            return False
    return True


@internal
def kind_of_targets(Y, n, expected, parameters):
    """Return the kind of an array object as targets of n samples, or -1 where it is none."""
    if expected.n_labels > 0 and is_plain(Y, 1, expected.label_dtype):
        labels = pointer_at(data_of(Y), np.int64)
        return Y_LABELS if size_of(Y, 0) == n and are_within(labels, n, 0, expected.n_labels - 1) else -1
    n_out, y = expected.n_out, pointer_like(data_of(Y), parameters)
    if not is_plain(Y, 2, expected.dtype) or size_of(Y, 0) != n or size_of(Y, 1) != n_out:
        return -1
    if not are_within(y, n * n_out, expected.low, expected.high):
        return -1
    if expected.n_labels > 0:
        for r in range(n):
            total = 0.0
            for j in range(n_out):
                total += peek(y, r * n_out + j)
            if abs(total - 1) > expected.tolerance:
                return -1
    return Y_ROWS


@native("poiiii")
def launch(parameters, job, X, Y, weights, out):
    """Run a job on one thread with these arrays; return its result, or REFUSED.

    Refused are arrays that are not plain, not of the dtype or the shape, or hold what is not finite or no target, and
    read-only ones that are to be written.  Then nothing was changed but `out`.

    Parameters
    ----------
    parameters : pointer (n_parameters,)
    job : pointer to int64
        With ArrayArgs, and all else that is written before.
    X, Y, weights, out : addresses of array objects, not of their data; 0 for none but of X
        `out` is not checked.
    """
    expected = unpacked(offset(job, ARRAY_ARGS_AT), ArrayArgs, ())
    for i in range(expected.n_written):
        if not has_flags(peek(pointer_at(expected.written, np.int64), i), WRITEABLE):
            return REFUSED
    if not is_plain(X, 2, expected.dtype) or size_of(X, 1) != expected.n_in:
        return REFUSED
    n = size_of(X, 0)
    if not expected.min_rows <= n <= expected.max_rows:
        return REFUSED
    if expected.checks_inputs and not is_finite(pointer_like(data_of(X), parameters), 0, 1, n * expected.n_in):
        return REFUSED
    poke(job, X_AT, data_of(X))
    poke(job, N_AT, n)
    if Y != 0:
        kind = kind_of_targets(Y, n, expected, parameters)
        if kind < 0:
            return REFUSED
        poke(job, Y_AT, data_of(Y))
        poke(job, Y_KIND_AT, kind)
    if weights != 0:
        if not is_plain(weights, 1, expected.dtype) or size_of(weights, 0) != n:
            return REFUSED
        if not are_within(pointer_like(data_of(weights), parameters), n, 0.0, expected.max_weight):
            return REFUSED
        poke(job, WEIGHTS_AT, data_of(weights))
    if out != 0:
        poke(job, expected.out_at, data_of(out))
    if expected.is_mean:
        poke(pointer_at(address(job) + 8 * SCALE_AT, np.float64), 0, 1.0 / n)
    result = call(peek(job, KERNEL_AT), job, parameters, 0)
    sync = pointer_at(peek(job, SYNC_AT), np.int64)
    if peek(sync, NOT_FINITE):
        poke(sync, NOT_FINITE, 0)
        return REFUSED
    return result
