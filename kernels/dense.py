"""One dense layer: forward product, delta propagation, weight and bias gradients.

All three products run on `gemm`, which cuts the result into register tiles (`simd.tile`).  Each element of a
result is one chain of fused multiply-adds over the summed index in order, so it does not depend on the tiling, the
register width or the number of threads.
"""

import numpy as np

from .atomics import flush_subnormals, restore_mxcsr
from .elementwise import map_pair
from .jit import inline, internal, kernel
from .microkernel import (
    INIT_BIAS,
    INIT_C,
    INIT_ZERO,
    LINE_BYTES,
    STORE,
    max_rank,
    rank_k_update,
    registers_for,
    tile,
    tile_columns,
    tile_rows,
)
from .simd import (
    as_float,
    by_dtype,
    lanes,
    load,
    masked_load,
    masked_store,
    offset,
    peek,
    pointer,
    pointer_at,
    pointer_like,
    poke,
    store,
    transpose_full,
    transpose_masked,
)

__all__ = ["affine_forward", "bias_gradient", "layer_jacobian", "propagate_delta", "weight_gradient"]

KC = 256  # the summed index is cut into blocks of this length: a panel of B then fills most of the L1
PANEL = 64  # room for the columns of one packed panel, in elements
GROUP_BYTES = 2048  # of a row of B: the panels packed together for dW; with DEPTH rows they take part of the L2
MIN_RANK_K_ROWS = 12  # of C for `rank_k_update`, which loads all of B first
RANK_K_ROWS = 16  # of C that `rank_k_update` works on together: they stay in the cache from panel to panel
STRIP_STRIDE = 16  # distance between the rows of a packed strip of A, which is as wide as a tile is high
PREFETCH_MIN_BYTES = 1 << 20  # of a thread's part of B, or of X: more do not stay in the L2 from one use to the next
MIN_PREFETCH_INTERVAL = 8  # steps of a tile's sum between two pairs of cache lines that it asks for
PACK_STRIDE_BYTES = 1024  # rows of B further apart than this are packed: they fall into few cache sets and many pages
PREFETCH_X, PREFETCH_ROW_BYTES, PREFETCH_ORDER, PREFETCH_FIRST, PREFETCH_LAST, PREFETCH_PLACE, PREFETCH_LINES = range(
    7
)  # see `next_prefetch_lines`
PREFETCH_SIZE = 8  # room for these numbers: a cache line


@inline
def pack_size(columns):
    """Return the elements that `gemm` needs to pack operands for a result with so many columns."""
    return (KC + 16) * (max(PANEL, min(GROUP_BYTES // 4, columns) + PANEL) + STRIP_STRIDE)


@internal
def gemm(
    rows,
    columns,
    depth,
    a,
    a_row_stride,
    a_col_stride,
    b,
    b_row_stride,
    transposed,
    c,
    c_row_stride,
    start,
    bias,
    epilogue,
    lr,
    momentum,
    velocity,
    pack,
    prefetch,
):
    """C = finish(start + A @ B), C (rows, columns) with rows `c_row_stride` apart; see `simd.tile` for start and finish.

    A[i, k] is at a + i * a_row_stride + k * a_col_stride.  B[k, j] is at b + k * b_row_stride + j, or, `transposed`, at
    b + j * b_row_stride + k.  `pack` has room for pack_size(columns) elements.  Every finish but STORE takes depth <= DEPTH.
    soon : 0, or where it stands which samples to ask the memory for meanwhile; see `next_prefetch_lines`.

    Wide B is copied into panels as wide as a tile.  Where the columns of A lie apart, as in A.T @ delta, so is a strip
    of A as high as a tile, and serves many panels: without it 2048 x 2048 x 256 ran at 104 GFLOP/s, with it at 178.
    What is packed from far away is asked for ahead by the tiles before: 256 x 2048 x 2048 at 140 instead of 130.
    """
    wide, lane = tile_columns(a)
    if (
        a_row_stride == 1
        and depth <= max_rank()
        and columns > lane
        and rows >= MIN_RANK_K_ROWS
        and depth > 0
        and (start == INIT_ZERO and not transposed)
    ):
        done = rank_k_columns(
            rows,
            columns,
            depth,
            a,
            a_col_stride,
            b,
            b_row_stride,
            c,
            c_row_stride,
            epilogue,
            lr,
            momentum,
            velocity,
            prefetch,
        )
        columns -= done
        b, c = offset(b, done), offset(c, done)
    if rows <= 3 and not transposed:
        wide = registers_for(rows) * lane
    width = max(wide, lanes(a))
    most = tile_rows()
    n_tiles = (rows + most - 1) // most
    packs = transposed or (n_tiles > 2 and b_row_stride * by_dtype(a, 4, 8) >= PACK_STRIDE_BYTES)
    group = width
    if packs and a_row_stride == 1 and a_col_stride > 1:
        group = by_dtype(a, GROUP_BYTES // 4, GROUP_BYTES // 8)
    is_far = packs and n_tiles > 2 and group == width and depth * columns * by_dtype(a, 4, 8) > PREFETCH_MIN_BYTES
    for k in range(0, max(depth, 1), KC):
        k_count = min(KC, depth - k)
        begin = start if k == 0 else INIT_C
        for left in range(0, columns, group):
            count = min(group, columns - left)
            if packs:
                for panel in range(0, count, width):
                    packed, n, j = offset(pack, panel * KC), min(width, count - panel), left + panel
                    if transposed:
                        pack_transposed(offset(b, j * b_row_stride + k), b_row_stride, k_count, n, packed, width)
                    else:
                        pack_rows(offset(b, k * b_row_stride + j), b_row_stride, k_count, n, packed, width)
            next_k, next_left = k, left + group
            if next_left >= columns:
                next_k, next_left = k + KC, 0
            first = 0
            for t in range(n_tiles):
                n = (rows * (t + 1)) // n_tiles - first
                a_at, row_step, column_step = (
                    offset(a, first * a_row_stride + k * a_col_stride),
                    a_row_stride,
                    a_col_stride,
                )
                if count > width and group > width:
                    strip = offset(pack, (count + width) * KC)
                    pack_strip(a_at, a_col_stride, k_count, n, strip)
                    a_at, column_step = strip, STRIP_STRIDE
                ahead, prefetch_stride, interval = a, 0, k_count
                if is_far and next_k < depth:
                    ahead, prefetch_stride, n_pairs = prefetch_slice(
                        b,
                        b_row_stride,
                        transposed,
                        next_k,
                        min(KC, depth - next_k),
                        next_left,
                        min(width, columns - next_left),
                        t,
                        n_tiles,
                    )
                    interval = max(MIN_PREFETCH_INTERVAL, k_count // max(n_pairs, 1))
                for j in range(0, count, wide):
                    j_count = min(wide, count - j)
                    registers = (j_count + lane - 1) // lane
                    last = j_count - (registers - 1) * lane
                    b_at, b_step = offset(b, k * b_row_stride + left + j), b_row_stride
                    if packs:
                        b_at, b_step = offset(pack, (j - j % width) * KC + j % width), width
                    c_at = offset(c, first * c_row_stride + left + j)
                    c_prefetch = c_at
                    if is_far and begin == INIT_C:
                        c_prefetch = offset(c_at, n * c_row_stride) if t + 1 < n_tiles else offset(c, next_left)
                    if prefetch != 0:
                        ahead, line, lines = next_prefetch_lines(prefetch, a)
                        prefetch_stride, interval = 2 * line, max(MIN_PREFETCH_INTERVAL // 2, 2 * k_count // lines)
                    tile(
                        n,
                        registers,
                        a_at,
                        row_step,
                        column_step,
                        b_at,
                        b_step,
                        k_count,
                        c_at,
                        c_row_stride,
                        last,
                        begin,
                        offset(bias, left + j),
                        epilogue,
                        lr,
                        momentum,
                        velocity,
                        c_prefetch,
                        ahead,
                        prefetch_stride,
                        interval,
                    )
                first += n


@internal
def next_prefetch_lines(prefetch, a):
    """Return which cache lines to ask for now: where, as a pointer like `a`, how far apart, and how many.

    They are of samples that will be gathered soon.  If gathering had to wait for them, it would take a quarter of the
    time of 784-30 with 10 samples.  At the address `prefetch`, int64: the address of X and the bytes of its rows; the
    address of the order of the samples; the places in it of the next sample and of the end; how far into the sample
    its next line is, in bytes; and how many lines to ask for at a time.
    """
    state = pointer_at(prefetch, np.int64)
    first, place = peek(state, PREFETCH_FIRST), peek(state, PREFETCH_PLACE)
    if first >= peek(state, PREFETCH_LAST):
        return a, 0, 1  # nothing is left: a line that is there, once
    size, lines = peek(state, PREFETCH_ROW_BYTES), peek(state, PREFETCH_LINES)
    sample = peek(state, PREFETCH_X) + peek(pointer_at(peek(state, PREFETCH_ORDER), np.int64), first) * size
    after = place + LINE_BYTES * lines
    if after >= size:
        poke(state, PREFETCH_FIRST, first + 1)
        after = 0
    poke(state, PREFETCH_PLACE, after)
    return pointer_like(sample + place, a), LINE_BYTES // by_dtype(a, 4, 8), lines


@internal
def prefetch_slice(b, b_row_stride, transposed, k, k_count, panel, panel_count, partition, shares):
    """Return the share of the next panel of B that a tile asks for: where, how far apart, how many pairs of lines.

    A panel is a pair of lines wide, or, `transposed`, a few pairs long: a tile then has one of these, or none.
    """
    if transposed:
        pair = 2 * LINE_BYTES // by_dtype(b, 4, 8)
        pairs = (k_count + pair - 1) // pair
        first, last = pairs * partition // shares, pairs * (partition + 1) // shares
        return offset(b, panel * b_row_stride + k + first * pair), b_row_stride, min(last - first, 1) * panel_count
    first, last = k_count * partition // shares, k_count * (partition + 1) // shares
    return offset(b, (k + first) * b_row_stride + panel), b_row_stride, last - first


@internal
def rank_k_columns(
    rows, columns, depth, a, a_col_stride, b, b_row_stride, c, c_row_stride, epilogue, lr, momentum, velocity, prefetch
):
    """Do the columns of C = finish(A @ B) that `rank_k_update` can, A being the transpose of few rows; return how many.

    The gradient of 784-30 with 10 samples: tiles take 17 cycles for each row of W, this 12.
    """
    wide, lane = tile_columns(a)
    done = 0
    for top in range(0, rows, RANK_K_ROWS):
        n, done = min(RANK_K_ROWS, rows - top), 0
        while columns - done > lane:
            count = min(wide, columns - done)
            ahead, line = a, 0
            if prefetch != 0:
                ahead, line, _ = next_prefetch_lines(prefetch, a)
            rank_k_update(
                depth,
                n,
                offset(a, top),
                a_col_stride,
                offset(b, done),
                b_row_stride,
                offset(c, top * c_row_stride + done),
                c_row_stride,
                count - lane,
                epilogue,
                lr,
                momentum,
                velocity,
                ahead,
                line,
            )
            done += count
    return done


@internal
def pack_strip(a, a_col_stride, depth, rows, strip):
    """strip[k, i] = a[k, i] for one tile's rows i, which lie side by side."""
    width = lanes(a)
    for k in range(depth):
        for i in range(0, rows, width):
            store(strip, k * STRIP_STRIDE + i, masked_load(a, k * a_col_stride + i, min(width, rows - i)))


@internal
def pack_transposed(b, b_row_stride, depth, columns, pack, pack_row_stride):
    """pack[k, j] = b[j, k]."""
    width = lanes(b)
    for j in range(0, columns, width):
        for k in range(0, depth, width):
            source, target = offset(b, j * b_row_stride + k), offset(pack, k * pack_row_stride + j)
            if columns - j >= width and depth - k >= width:
                transpose_full(source, b_row_stride, target, pack_row_stride)
            else:
                transpose_masked(
                    source, b_row_stride, min(width, columns - j), min(width, depth - k), target, pack_row_stride
                )


@internal
def pack_rows(b, b_row_stride, depth, columns, pack, pack_row_stride):
    """pack[k, j] = b[k, j]."""
    width = lanes(b)
    if columns == 2 * width:
        for k in range(depth):
            first, second = load(b, k * b_row_stride), load(b, k * b_row_stride + width)
            store(pack, k * pack_row_stride, first)
            store(pack, k * pack_row_stride + width, second)
    else:
        for k in range(depth):
            for j in range(0, columns, width):
                store(pack, k * pack_row_stride + j, masked_load(b, k * b_row_stride + j, min(width, columns - j)))


# ------------------------------------------------------------------------------------------ the public kernels
# Subnormal numbers are taken for zero, as in training.


@kernel
def affine_forward(A_prev, W, b, out):
    """Out = A_prev @ W + b: (n_samples, n_in), (n_in, n_out), (n_out,) -> (n_samples, n_out).

    C-contiguous arrays of one float dtype; `out` overlaps no other.
    """
    n_in, n_out = W.shape
    pack = np.empty(pack_size(PANEL), out.dtype)
    p, control = pointer(out, 0), flush_subnormals()
    gemm(
        A_prev.shape[0],
        n_out,
        n_in,
        pointer(A_prev, 0),
        n_in,
        1,
        pointer(W, 0),
        n_out,
        False,
        p,
        n_out,
        INIT_BIAS,
        pointer(b, 0),
        STORE,
        as_float(0, p),
        as_float(0, p),
        0,
        pointer(pack, 0),
        0,
    )
    restore_mxcsr(control)


@kernel
def propagate_delta(delta, W, derivative, out):
    """Out = (delta @ W.T) * derivative: (n_samples, n_out), (n_in, n_out), (n_samples, n_in) -> (n_samples, n_in).

    C-contiguous arrays of one float dtype; `out` overlaps no other.
    """
    n_in, n_out = W.shape
    pack = np.empty(pack_size(PANEL), out.dtype)
    p, control = pointer(out, 0), flush_subnormals()
    gemm(
        delta.shape[0],
        n_in,
        n_out,
        pointer(delta, 0),
        n_out,
        1,
        pointer(W, 0),
        n_out,
        True,
        p,
        n_in,
        INIT_ZERO,
        p,
        STORE,
        as_float(0, p),
        as_float(0, p),
        0,
        pointer(pack, 0),
        0,
    )
    map_pair(_product, p, pointer(derivative, 0), p, out.size)
    restore_mxcsr(control)


@kernel
def weight_gradient(A_prev, delta, out):
    """Out = A_prev.T @ delta, the sum of the samples' outer products: (n_in, n_out).

    C-contiguous arrays of one float dtype; `out` overlaps no other.
    """
    n_in, n_out = out.shape
    pack = np.empty(pack_size(n_out), out.dtype)
    p, control = pointer(out, 0), flush_subnormals()
    gemm(
        n_in,
        n_out,
        delta.shape[0],
        pointer(A_prev, 0),
        1,
        n_in,
        pointer(delta, 0),
        n_out,
        False,
        p,
        n_out,
        INIT_ZERO,
        p,
        STORE,
        as_float(0, p),
        as_float(0, p),
        0,
        pointer(pack, 0),
        0,
    )
    restore_mxcsr(control)


@kernel
def bias_gradient(delta, out):
    """Out = column sums of delta (n_samples, n_out): (n_out,).  C-contiguous, one float dtype, no overlap."""
    n_samples, n_out = delta.shape
    control = flush_subnormals()
    width = lanes(pointer(out, 0))
    for j in range(0, n_out, width):
        n = min(width, n_out - j)
        total = masked_load(pointer(delta, 0), 0, 0)
        for i in range(n_samples):
            total = total + masked_load(pointer(delta, 0), i * n_out + j, n)
        masked_store(pointer(out, 0), j, total, n)
    restore_mxcsr(control)


@inline
def _product(a, b):
    return a * b


@kernel
def layer_jacobian(A_prev, delta, first, out):
    """Write the columns of one layer: row i is [A_prev[i] (outer) delta[i], delta[i]], from column `first` on.

    With delta = d a / d Z for one output a of the network these are d a / d W and d a / d b of each sample.  Subnormal
    numbers are taken for zero, as in training.

    Parameters
    ----------
    A_prev, delta : arrays (n_samples, n_in), (n_samples, n_out)
    first : int
        Place of the layer's W among the parameters; b follows it.
    out : array (n_samples, n_parameters)
        The other columns stay as they are.  C-contiguous, as the others, of one float dtype; it overlaps none.
    """
    n_in, n_out, row = A_prev.shape[1], delta.shape[1], out.shape[1]
    p, control = pointer(out, 0), flush_subnormals()
    width = lanes(p)
    for i in range(out.shape[0]):
        d, W = pointer(delta, i * n_out), offset(p, i * row + first)
        for j in range(0, n_out, width):
            n = min(width, n_out - j)
            v = masked_load(d, j, n)
            for k in range(n_in):
                masked_store(W, k * n_out + j, v * peek(pointer(A_prev, i * n_in), k), n)
            masked_store(W, n_in * n_out + j, v, n)
    restore_mxcsr(control)
