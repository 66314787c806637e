"""One dense layer: forward product, delta propagation, weight and bias gradients.

All three products run on `multiply`, which cuts the result into register tiles (`simd.tile`).  Each element of a
result is one chain of fused multiply-adds over the summed index in order, so it does not depend on the tiling, the
register width or the number of threads.
"""

import numpy as np

from .elementwise import map_pair_block
from .jit import inner, kernel, part
from .simd import (
    LINE_BYTES,
    START_BIAS,
    START_C,
    START_ZERO,
    STORE,
    as_float,
    by_dtype,
    flush_subnormals,
    lanes,
    load,
    load_part,
    most_outer,
    offset,
    outer,
    peek,
    pointer,
    pointer_at,
    pointer_like,
    poke,
    registers_for,
    restore_control,
    store,
    store_part,
    tile,
    tile_columns,
    tile_rows,
    transpose_block,
    transpose_part,
)

DEPTH = 256  # the summed index is cut into blocks of this length: a panel of B then fills most of the L1
PANEL = 64  # room for the columns of one packed panel, in elements
GROUP_BYTES = 2048  # of a row of B: the panels packed together for dW; with DEPTH rows they take part of the L2
LEAST_OUTER_ROWS = 12  # of C for `outer`, which loads all of B first
OUTER_ROWS = 16  # of C that `outer` works on together: they stay in the cache from panel to panel
A_ROW = 16  # distance between the rows of a packed strip of A, which is as wide as a tile is high
FAR_BYTES = 1 << 20  # of a thread's part of B, or of X: more do not stay in the L2 from one use to the next
LEAST_INTERVAL = 8  # steps of a tile's sum between two pairs of cache lines that it asks for
PACK_STRIDE_BYTES = 1024  # rows of B further apart than this are packed: they fall into few cache sets and many pages
SOON_X, SOON_BYTES, SOON_ORDER, SOON_FIRST, SOON_LAST, SOON_PLACE, SOON_LINES = range(7)  # see `next_lines`
SOON_SIZE = 8  # room for these numbers: a cache line


@inner
def pack_size(columns):
    """Return the elements that `multiply` needs to pack operands for a result with so many columns."""
    return (DEPTH + 16) * (max(PANEL, min(GROUP_BYTES // 4, columns) + PANEL) + A_ROW)


@part
def multiply(
    rows,
    columns,
    depth,
    a,
    a_row,
    a_col,
    b,
    b_row,
    transposed,
    c,
    c_row,
    start,
    bias,
    finish,
    lr,
    momentum,
    velocity,
    pack,
    soon,
):
    """C = finish(start + A @ B), C (rows, columns) with rows `c_row` apart; see `simd.tile` for start and finish.

    A[i, k] is at a + i * a_row + k * a_col.  B[k, j] is at b + k * b_row + j, or, `transposed`, at
    b + j * b_row + k.  `pack` has room for pack_size(columns) elements.  Every finish but STORE takes depth <= DEPTH.
    soon : 0, or where it stands which samples to ask the memory for meanwhile; see `next_lines`.

    Wide B is copied into panels as wide as a tile.  Where the columns of A lie apart, as in A.T @ delta, so is a strip
    of A as high as a tile, and serves many panels: without it 2048 x 2048 x 256 ran at 104 GFLOP/s, with it at 178.
    What is packed from far away is asked for ahead by the tiles before: 256 x 2048 x 2048 at 140 instead of 130.
    """
    wide, lane = tile_columns(a)
    if (
        a_row == 1
        and depth <= most_outer()
        and columns > lane
        and rows >= LEAST_OUTER_ROWS
        and depth > 0
        and (start == START_ZERO and not transposed)
    ):
        done = add_outer(rows, columns, depth, a, a_col, b, b_row, c, c_row, finish, lr, momentum, velocity, soon)
        columns -= done
        b, c = offset(b, done), offset(c, done)
    if rows <= 3 and not transposed:
        wide = registers_for(rows) * lane
    width = max(wide, lanes(a))
    most = tile_rows()
    n_tiles = (rows + most - 1) // most
    packs = transposed or (n_tiles > 2 and b_row * by_dtype(a, 4, 8) >= PACK_STRIDE_BYTES)
    group = width
    if packs and a_row == 1 and a_col > 1:
        group = by_dtype(a, GROUP_BYTES // 4, GROUP_BYTES // 8)
    is_far = packs and n_tiles > 2 and group == width and depth * columns * by_dtype(a, 4, 8) > FAR_BYTES
    for k in range(0, max(depth, 1), DEPTH):
        k_count = min(DEPTH, depth - k)
        begin = start if k == 0 else START_C
        for left in range(0, columns, group):
            count = min(group, columns - left)
            if packs:
                for panel in range(0, count, width):
                    packed, n, j = offset(pack, panel * DEPTH), min(width, count - panel), left + panel
                    if transposed:
                        pack_transposed(offset(b, j * b_row + k), b_row, k_count, n, packed, width)
                    else:
                        pack_rows(offset(b, k * b_row + j), b_row, k_count, n, packed, width)
            next_k, next_left = k, left + group
            if next_left >= columns:
                next_k, next_left = k + DEPTH, 0
            first = 0
            for t in range(n_tiles):
                n = (rows * (t + 1)) // n_tiles - first
                a_at, row_step, column_step = offset(a, first * a_row + k * a_col), a_row, a_col
                if count > width and group > width:
                    strip = offset(pack, (count + width) * DEPTH)
                    pack_strip(a_at, a_col, k_count, n, strip)
                    a_at, column_step = strip, A_ROW
                ahead, ahead_step, interval = a, 0, k_count
                if is_far and next_k < depth:
                    ahead, ahead_step, n_pairs = part_of_panel(
                        b,
                        b_row,
                        transposed,
                        next_k,
                        min(DEPTH, depth - next_k),
                        next_left,
                        min(width, columns - next_left),
                        t,
                        n_tiles,
                    )
                    interval = max(LEAST_INTERVAL, k_count // max(n_pairs, 1))
                for j in range(0, count, wide):
                    j_count = min(wide, count - j)
                    registers = (j_count + lane - 1) // lane
                    last = j_count - (registers - 1) * lane
                    b_at, b_step = offset(b, k * b_row + left + j), b_row
                    if packs:
                        b_at, b_step = offset(pack, (j - j % width) * DEPTH + j % width), width
                    c_at = offset(c, first * c_row + left + j)
                    c_soon = c_at
                    if is_far and begin == START_C:
                        c_soon = offset(c_at, n * c_row) if t + 1 < n_tiles else offset(c, next_left)
                    if soon != 0:
                        ahead, line, lines = next_lines(soon, a)
                        ahead_step, interval = 2 * line, max(LEAST_INTERVAL // 2, 2 * k_count // lines)
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
                        c_row,
                        last,
                        begin,
                        offset(bias, left + j),
                        finish,
                        lr,
                        momentum,
                        velocity,
                        c_soon,
                        ahead,
                        ahead_step,
                        interval,
                    )
                first += n


@part
def next_lines(soon, a):
    """Return which cache lines to ask for now: where, as a pointer like `a`, how far apart, and how many.

    They are of samples that will be gathered soon.  If gathering had to wait for them, it would take a quarter of the
    time of 784-30 with 10 samples.  At the address `soon`, int64: the address of X and the bytes of its rows; the
    address of the order of the samples; the places in it of the next sample and of the end; how far into the sample
    its next line is, in bytes; and how many lines to ask for at a time.
    """
    state = pointer_at(soon, np.int64)
    first, place = peek(state, SOON_FIRST), peek(state, SOON_PLACE)
    if first >= peek(state, SOON_LAST):
        return a, 0, 1  # nothing is left: a line that is there, once
    size, lines = peek(state, SOON_BYTES), peek(state, SOON_LINES)
    sample = peek(state, SOON_X) + peek(pointer_at(peek(state, SOON_ORDER), np.int64), first) * size
    after = place + LINE_BYTES * lines
    if after >= size:
        poke(state, SOON_FIRST, first + 1)
        after = 0
    poke(state, SOON_PLACE, after)
    return pointer_like(sample + place, a), LINE_BYTES // by_dtype(a, 4, 8), lines


@part
def part_of_panel(b, b_row, transposed, k, k_count, panel, panel_count, share, shares):
    """Return the share of the next panel of B that a tile asks for: where, how far apart, how many pairs of lines.

    A panel is a pair of lines wide, or, `transposed`, a few pairs long: a tile then has one of these, or none.
    """
    if transposed:
        pair = 2 * LINE_BYTES // by_dtype(b, 4, 8)
        pairs = (k_count + pair - 1) // pair
        first, last = pairs * share // shares, pairs * (share + 1) // shares
        return offset(b, panel * b_row + k + first * pair), b_row, min(last - first, 1) * panel_count
    first, last = k_count * share // shares, k_count * (share + 1) // shares
    return offset(b, (k + first) * b_row + panel), b_row, last - first


@part
def add_outer(rows, columns, depth, a, a_col, b, b_row, c, c_row, finish, lr, momentum, velocity, soon):
    """Do the columns of C = finish(A @ B) that `outer` can, A being the transpose of few rows; return how many.

    The gradient of 784-30 with 10 samples: tiles take 17 cycles for each row of W, this 12.
    """
    wide, lane = tile_columns(a)
    done = 0
    for top in range(0, rows, OUTER_ROWS):
        n, done = min(OUTER_ROWS, rows - top), 0
        while columns - done > lane:
            count = min(wide, columns - done)
            ahead, line = a, 0
            if soon != 0:
                ahead, line, _ = next_lines(soon, a)
            outer(
                depth,
                n,
                offset(a, top),
                a_col,
                offset(b, done),
                b_row,
                offset(c, top * c_row + done),
                c_row,
                count - lane,
                finish,
                lr,
                momentum,
                velocity,
                ahead,
                line,
            )
            done += count
    return done


@part
def pack_strip(a, a_col, depth, rows, strip):
    """strip[k, i] = a[k, i] for one tile's rows i, which lie side by side."""
    width = lanes(a)
    for k in range(depth):
        for i in range(0, rows, width):
            store(strip, k * A_ROW + i, load_part(a, k * a_col + i, min(width, rows - i)))


@part
def pack_transposed(b, b_row, depth, columns, pack, pack_row):
    """pack[k, j] = b[j, k]."""
    width = lanes(b)
    for j in range(0, columns, width):
        for k in range(0, depth, width):
            source, target = offset(b, j * b_row + k), offset(pack, k * pack_row + j)
            if columns - j >= width and depth - k >= width:
                transpose_block(source, b_row, target, pack_row)
            else:
                transpose_part(source, b_row, min(width, columns - j), min(width, depth - k), target, pack_row)


@part
def pack_rows(b, b_row, depth, columns, pack, pack_row):
    """pack[k, j] = b[k, j]."""
    width = lanes(b)
    if columns == 2 * width:
        for k in range(depth):
            first, second = load(b, k * b_row), load(b, k * b_row + width)
            store(pack, k * pack_row, first)
            store(pack, k * pack_row + width, second)
    else:
        for k in range(depth):
            for j in range(0, columns, width):
                store(pack, k * pack_row + j, load_part(b, k * b_row + j, min(width, columns - j)))


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
    multiply(
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
        START_BIAS,
        pointer(b, 0),
        STORE,
        as_float(0, p),
        as_float(0, p),
        0,
        pointer(pack, 0),
        0,
    )
    restore_control(control)


@kernel
def propagate_delta(delta, W, derivative, out):
    """Out = (delta @ W.T) * derivative: (n_samples, n_out), (n_in, n_out), (n_samples, n_in) -> (n_samples, n_in).

    C-contiguous arrays of one float dtype; `out` overlaps no other.
    """
    n_in, n_out = W.shape
    pack = np.empty(pack_size(PANEL), out.dtype)
    p, control = pointer(out, 0), flush_subnormals()
    multiply(
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
        START_ZERO,
        p,
        STORE,
        as_float(0, p),
        as_float(0, p),
        0,
        pointer(pack, 0),
        0,
    )
    map_pair_block(_product, p, pointer(derivative, 0), p, out.size)
    restore_control(control)


@kernel
def weight_gradient(A_prev, delta, out):
    """Out = A_prev.T @ delta, the sum of the samples' outer products: (n_in, n_out).

    C-contiguous arrays of one float dtype; `out` overlaps no other.
    """
    n_in, n_out = out.shape
    pack = np.empty(pack_size(n_out), out.dtype)
    p, control = pointer(out, 0), flush_subnormals()
    multiply(
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
        START_ZERO,
        p,
        STORE,
        as_float(0, p),
        as_float(0, p),
        0,
        pointer(pack, 0),
        0,
    )
    restore_control(control)


@kernel
def bias_gradient(delta, out):
    """Out = column sums of delta (n_samples, n_out): (n_out,).  C-contiguous, one float dtype, no overlap."""
    n_samples, n_out = delta.shape
    control = flush_subnormals()
    width = lanes(pointer(out, 0))
    for j in range(0, n_out, width):
        n = min(width, n_out - j)
        total = load_part(pointer(delta, 0), 0, 0)
        for i in range(n_samples):
            total = total + load_part(pointer(delta, 0), i * n_out + j, n)
        store_part(pointer(out, 0), j, total, n)
    restore_control(control)


@inner
def _product(a, b):
    return a * b
