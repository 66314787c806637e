"""One dense layer: forward product, delta propagation, weight and bias gradients.  Twin: `fastbp.reference.dense`.

All three products run on `gemm`, which cuts the result into register tiles for the microkernel (`microkernel.tile`).
Each element of a result is one chain of fused multiply-adds over the summed index in order, so it does not depend on
the tiling, the register width or the number of threads.
"""

from typing import NamedTuple

import numpy as np

from . import layout
from .atomics import flush_subnormals, restore_mxcsr
from .elementwise import map_pair
from .jit import inline, internal, kernel
from .layout import GROUP_BYTES, KC, PANEL, STRIP_STRIDE
from .microkernel import (
    INIT_BIAS,
    INIT_C,
    INIT_ZERO,
    LINE_BYTES,
    STORE,
    max_rank,
    min_tile_columns,
    rank_k_update,
    registers_for,
    tile,
    tile_columns,
    tile_rows,
    transpose_full,
    transpose_masked,
)
from .native import native
from .simd import (
    address,
    allocate,
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
    release,
    store,
)
from .tables import DONE, NO_MEMORY

pack_size = inline(layout.pack_size)
PACK_STRIDE_BYTES = 1024  # B with rows further apart is packed: they fall into few cache sets and many pages
MIN_RANK_K_ROWS = 12  # rows of C for which `rank_k_update` pays, since it loads all of B first
RANK_K_ROWS = 16  # rows of C that `rank_k_update` works on together: they stay in the cache from panel to panel
PREFETCH_MIN_BYTES = 1 << 20  # a thread's part of B, or of X, of more bytes does not stay in the L2 until its next use
MIN_PREFETCH_INTERVAL = 8  # steps of a tile's sum between two pairs of prefetched cache lines

# Fields of the prefetch state, int64; see `next_prefetch_lines`.
(
    PREFETCH_X,
    PREFETCH_ROW_BYTES,
    PREFETCH_ORDER,
    PREFETCH_FIRST,
    PREFETCH_LAST,
    PREFETCH_PLACE,
    PREFETCH_LINES,
) = range(7)


class Matrix(NamedTuple):
    """A matrix in memory: element [i, j] is at `at` + i * row_stride + j * col_stride."""

    at: object  # a pointer
    row_stride: int
    col_stride: int


class Epilogue(NamedTuple):
    """How the sums become C; the fields are those of `microkernel.tile`."""

    kind: int
    lr: float
    momentum: float
    velocity: int


class Blocking(NamedTuple):
    """How `gemm` cuts a product."""

    tile: int  # columns of a whole tile
    register: int  # columns of one register
    panel: int  # columns of a packed panel of B, a multiple of a tile's
    group: int  # columns of the panels that are packed together
    min_columns: int  # a group leaves none or at least so many columns to the next one
    height: int  # rows of the lower strips of C, at most as many as of a tile
    n_high: int  # the first strips, of one row more
    n_strips: int  # strips of C
    together: int  # how many strips may run in one call of the microkernel
    packs: bool  # whether B is packed
    prefetches: bool  # whether the next panel of B is prefetched


class Slice(NamedTuple):
    """A slice of B: rows k to k + depth - 1, columns left to left + columns - 1."""

    k: int
    depth: int
    left: int
    columns: int


class Prefetch(NamedTuple):
    """The cache lines that one tile prefetches; the fields are those of `microkernel.tile`."""

    at: object  # a pointer
    stride: int
    interval: int


@native("iiipiipiipiipiffipi")
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
    init,
    bias,
    epilogue,
    lr,
    momentum,
    velocity,
    pack,
    prefetch,
):
    """C = epilogue(init + A @ B), where A is (rows, depth), B (depth, columns) and C (rows, columns).

    A[i, k] is at a + i * a_row_stride + k * a_col_stride, C[i, j] at c + i * c_row_stride + j.  B[k, j] is at
    b + k * b_row_stride + j, or, if `transposed`, at b + j * b_row_stride + k.

    Wide B is copied into panels as wide as a tile.  Where the columns of A lie apart, as in A.T @ delta, a strip of A
    as high as a tile is packed too, and serves many panels: without it 2048 x 2048 x 256 ran at 104 GFLOP/s, with it
    at 178.  Each tile prefetches some of the next panel to be packed: 256 x 2048 x 2048 at 140 instead of 130.

    Parameters
    ----------
    init, bias, epilogue, lr, momentum, velocity
        As in `microkernel.tile`.  Every epilogue but STORE takes depth <= KC.
    pack : pointer
        Room for pack_size(columns) elements.
    prefetch : int
        Address of the prefetch state, 0 where there is none; see `next_prefetch_lines`.
    """
    update = Epilogue(epilogue, lr, momentum, velocity)
    if prefers_rank_k(rows, columns, depth, a, a_row_stride, transposed, init):
        done = rank_k_columns(rows, columns, depth, a, a_col_stride, b, b_row_stride, c, c_row_stride, update, prefetch)
        columns -= done
        b, c = offset(b, done), offset(c, done)
    blocking = choose_blocking(
        rows, columns, depth, a, a_row_stride, a_col_stride, b_row_stride, transposed, prefetch != 0
    )
    if blocking.group == blocking.tile and depth <= KC and prefetch == 0 and not blocking.prefetches:
        strips_a = Matrix(a, a_row_stride, a_col_stride)
        plain_tiles(
            rows,
            columns,
            depth,
            strips_a,
            b,
            b_row_stride,
            transposed,
            blocking,
            c,
            c_row_stride,
            init,
            bias,
            update,
            pack,
        )
        return
    for k in range(0, max(depth, 1), KC):
        slice_init = init if k == 0 else INIT_C
        left = 0
        while left < columns:  # a range with this step would take a division
            current = slice_of_b(k, left, depth, columns, blocking)
            following = slice_of_b(k, left + current.columns, depth, columns, blocking)
            if following.columns <= 0:
                following = slice_of_b(k + KC, 0, depth, columns, blocking)
            if blocking.packs:
                pack_slice(b, b_row_stride, transposed, current, blocking.panel, pack)
            top = strip = 0
            while strip < blocking.n_strips:
                height, n_equal = blocking.height, blocking.n_strips - strip
                if strip < blocking.n_high:
                    height, n_equal = height + 1, blocking.n_high - strip
                n_tiles = min(n_equal, blocking.together)
                strip_a = Matrix(offset(a, top * a_row_stride + k * a_col_stride), a_row_stride, a_col_stride)
                if blocking.panel < current.columns:
                    packed = offset(pack, (current.columns + blocking.panel) * KC)
                    pack_strip(strip_a.at, a_col_stride, current.depth, height, packed)
                    strip_a = Matrix(packed, a_row_stride, STRIP_STRIDE)
                strip_c = offset(c, top * c_row_stride + left)
                c_prefetch, lines = strip_c, Prefetch(a, 0, current.depth)
                if blocking.prefetches:
                    if slice_init == INIT_C:
                        c_prefetch = offset(c, following.left)
                        if strip + 1 < blocking.n_strips:
                            c_prefetch = offset(strip_c, height * c_row_stride)
                    if following.depth > 0:
                        lines = prefetch_slice(
                            b, b_row_stride, transposed, following, current.depth, strip, blocking.n_strips
                        )
                run_tiles(
                    height,
                    n_tiles,
                    strip_a,
                    b,
                    b_row_stride,
                    pack,
                    current,
                    blocking,
                    strip_c,
                    c_row_stride,
                    slice_init,
                    offset(bias, left),
                    update,
                    c_prefetch,
                    lines,
                    prefetch,
                )
                strip += n_tiles
                top += n_tiles * height
            left += current.columns


# ------------------------------------------------------------------------------------------ the steps of gemm


@inline
def choose_blocking(rows, columns, depth, a, a_row_stride, a_col_stride, b_row_stride, transposed, prefetches_samples):
    """Return how `gemm` cuts a product and what it packs."""
    itemsize = by_dtype(a, 4, 8)
    tile_width, register = tile_columns(a)
    if rows <= 3 and not transposed:
        tile_width = registers_for(rows) * register
    panel = max(tile_width, lanes(a))
    n_strips = (rows + tile_rows() - 1) // tile_rows()
    packs = transposed or (n_strips > 2 and b_row_stride * itemsize >= PACK_STRIDE_BYTES)
    group = panel
    if packs and a_row_stride == 1 and a_col_stride > 1:
        group = GROUP_BYTES // itemsize
    prefetches = packs and n_strips > 2 and group == panel and depth * columns * itemsize > PREFETCH_MIN_BYTES
    # a tile of less than one register takes longer than one of a whole register without masked stores
    min_columns = min_tile_columns(a) if group == tile_width else 1
    height, together = rows // max(n_strips, 1), n_strips
    if prefetches or panel < min(group, columns):  # each strip prefetches other lines, or is packed itself
        together = 1
    elif prefetches_samples:
        together = max(1, RANK_K_ROWS // tile_rows())
    return Blocking(
        tile_width,
        register,
        panel,
        group,
        min_columns,
        height,
        rows - height * n_strips,
        n_strips,
        together,
        packs,
        prefetches,
    )


@inline
def slice_of_b(k, left, depth, columns, blocking):
    """Return the slice of B, (depth, columns), that starts at row k and column `left`."""
    rest = columns - left - blocking.group
    n = blocking.group + min(rest, 0)
    if 0 < rest < blocking.min_columns:
        n -= blocking.min_columns - rest
    return Slice(k, min(KC, depth - k), left, n)


@internal
def pack_slice(b, b_row_stride, transposed, part, panel, pack):
    """Pack a slice of B, panel by panel; each takes `panel` columns and has room for KC rows."""
    j = 0
    while j < part.columns:
        packed, n, column = offset(pack, j * KC), min(panel, part.columns - j), part.left + j
        if transposed:
            pack_transposed(offset(b, column * b_row_stride + part.k), b_row_stride, part.depth, n, packed, panel)
        else:
            pack_rows(offset(b, part.k * b_row_stride + column), b_row_stride, part.depth, n, packed, panel)
        j += panel


@internal
def plain_tiles(
    rows, columns, depth, a, b, b_row_stride, transposed, blocking, c, c_row_stride, init, bias, update, pack
):
    """Run all tiles of a product that needs no loop over k, strips of A or prefetches: half as long as those of `gemm`.

    The tiles of the strips of one row more come first, then those of the others, all in one call each.
    """
    left = 0
    while left < columns:
        part = slice_of_b(0, left, depth, columns, blocking)
        tile_b, tile_b_stride = offset(b, left), b_row_stride
        if blocking.packs:
            pack_slice(b, b_row_stride, transposed, part, blocking.panel, pack)
            tile_b, tile_b_stride = pack, blocking.panel
        top, height, n_tiles = 0, blocking.height + 1, blocking.n_high
        while top < rows:
            if n_tiles > 0:
                strip_c = offset(c, top * c_row_stride + left)
                call_tile(
                    height,
                    n_tiles,
                    Matrix(offset(a.at, top * a.row_stride), a.row_stride, a.col_stride),
                    tile_b,
                    tile_b_stride,
                    depth,
                    strip_c,
                    c_row_stride,
                    part.columns,
                    blocking.register,
                    init,
                    offset(bias, left),
                    update,
                    strip_c,
                    Prefetch(a.at, 0, depth),
                )
            top += height * n_tiles
            height, n_tiles = blocking.height, blocking.n_strips - blocking.n_high
        left += part.columns


@inline
def call_tile(
    rows,
    n_tiles,
    a,
    b,
    b_row_stride,
    depth,
    c,
    c_row_stride,
    columns,
    register,
    init,
    bias,
    update,
    c_prefetch,
    lines,
):
    """Run the microkernel on tiles of so many rows and columns, one below the other."""
    registers = (columns + register - 1) // register
    tile(
        rows,
        registers,
        a.at,
        a.row_stride,
        a.col_stride,
        b,
        b_row_stride,
        depth,
        n_tiles,
        c,
        c_row_stride,
        columns - (registers - 1) * register,
        init,
        bias,
        update.kind,
        update.lr,
        update.momentum,
        update.velocity,
        c_prefetch,
        lines.at,
        lines.stride,
        lines.interval,
    )


@inline
def run_tiles(
    rows,
    n_tiles,
    a,
    b,
    b_row_stride,
    pack,
    part,
    blocking,
    c,
    c_row_stride,
    init,
    bias,
    update,
    c_prefetch,
    lines,
    prefetch,
):
    """Run the tiles of `n_tiles` strips of C, each of so many rows.

    Parameters
    ----------
    a : Matrix
        The rows of A that belong to the strips, from column part.k on.
    part : Slice
        The slice of B.  Its packed panels are at `pack`.
    c, bias : pointer
        The strips' first row of C, and the bias, from column part.left on.
    c_prefetch, lines, prefetch
        The tile of C and the cache lines to prefetch; if `prefetch` is not 0, `next_prefetch_lines` gives the lines.
    """
    j = 0
    while j < part.columns:
        columns = min(blocking.tile, part.columns - j)
        tile_b, tile_b_stride = offset(b, part.k * b_row_stride + part.left + j), b_row_stride
        if blocking.packs:
            in_panel = j & (blocking.panel - 1)  # a panel is a power of two wide
            tile_b, tile_b_stride = offset(pack, (j - in_panel) * KC + in_panel), blocking.panel
        if prefetch != 0:
            at, stride, n_lines = next_prefetch_lines(prefetch, c)
            lines = Prefetch(at, 2 * stride, max(MIN_PREFETCH_INTERVAL // 2, 2 * part.depth * n_tiles // n_lines))
        call_tile(
            rows,
            n_tiles,
            a,
            tile_b,
            tile_b_stride,
            part.depth,
            offset(c, j),
            c_row_stride,
            columns,
            blocking.register,
            init,
            offset(bias, j),
            update,
            offset(c_prefetch, j),
            lines,
        )
        j += blocking.tile


@internal
def next_prefetch_lines(prefetch, like):
    """Return the next cache lines to prefetch: the address as a pointer like `like`, their distance, their number.

    They belong to samples that will be gathered soon.  If gathering had to wait for them, it would take a quarter of
    the time of 784-30 with 10 samples.  The prefetch state at the address `prefetch` holds: the address of X and the
    bytes of its rows; the address of the order of the samples; the positions in it of the next sample and of the end;
    how many bytes of the next sample are prefetched; and how many lines to prefetch at a time.
    """
    state = pointer_at(prefetch, np.int64)
    first, place = peek(state, PREFETCH_FIRST), peek(state, PREFETCH_PLACE)
    if first >= peek(state, PREFETCH_LAST):
        return like, 0, 1  # nothing is left: one line that is in the cache
    size, lines = peek(state, PREFETCH_ROW_BYTES), peek(state, PREFETCH_LINES)
    sample = peek(state, PREFETCH_X) + peek(pointer_at(peek(state, PREFETCH_ORDER), np.int64), first) * size
    after = place + LINE_BYTES * lines
    if after >= size:
        poke(state, PREFETCH_FIRST, first + 1)
        after = 0
    poke(state, PREFETCH_PLACE, after)
    return pointer_like(sample + place, like), LINE_BYTES // by_dtype(like, 4, 8), lines


@internal
def prefetch_slice(b, b_row_stride, transposed, part, depth, strip, n_strips):
    """Return what a tile of this strip, with sums of length `depth`, prefetches of a panel of B.

    A panel is one pair of cache lines wide, or, if `transposed`, a few pairs long; then a tile prefetches one pair of
    each column or none.
    """
    if transposed:
        pair = 2 * LINE_BYTES // by_dtype(b, 4, 8)
        n_pairs = (part.depth + pair - 1) // pair
        first, last = n_pairs * strip // n_strips, n_pairs * (strip + 1) // n_strips
        at, n = offset(b, part.left * b_row_stride + part.k + first * pair), min(last - first, 1) * part.columns
    else:
        first, last = part.depth * strip // n_strips, part.depth * (strip + 1) // n_strips
        at, n = offset(b, (part.k + first) * b_row_stride + part.left), last - first
    return Prefetch(at, b_row_stride, max(MIN_PREFETCH_INTERVAL, depth // max(n, 1)))


@inline
def prefers_rank_k(rows, columns, depth, a, a_row_stride, transposed, init):
    """Whether `rank_k_columns` is the faster way for most columns: A is the transpose of few rows."""
    _, register = tile_columns(a)
    return (
        a_row_stride == 1
        and depth <= max_rank()
        and columns > register
        and rows >= MIN_RANK_K_ROWS
        and depth > 0
        and (init == INIT_ZERO and not transposed)
    )


@internal
def rank_k_columns(rows, columns, depth, a, a_col_stride, b, b_row_stride, c, c_row_stride, update, prefetch):
    """Compute the columns of C = epilogue(A @ B) that `rank_k_update` can; return how many.

    The gradient of 784-30 with 10 samples: tiles take 17 cycles for each row of W, this takes 12.
    """
    tile_width, register = tile_columns(a)
    done = 0
    for top in range(0, rows, RANK_K_ROWS):
        n, done = min(RANK_K_ROWS, rows - top), 0
        while columns - done > register:
            count = min(tile_width, columns - done)
            prefetch_at, stride = a, 0
            if prefetch != 0:
                prefetch_at, stride, _ = next_prefetch_lines(prefetch, a)
            rank_k_update(
                depth,
                n,
                offset(a, top),
                a_col_stride,
                offset(b, done),
                b_row_stride,
                offset(c, top * c_row_stride + done),
                c_row_stride,
                count - register,
                update.kind,
                update.lr,
                update.momentum,
                update.velocity,
                prefetch_at,
                stride,
            )
            done += count
    return done


@internal
def pack_strip(a, a_col_stride, depth, rows, strip):
    """strip[k, i] = a[k, i] for the rows i of one tile, which are contiguous."""
    width = lanes(a)
    for k in range(depth):
        for i in range(0, rows, width):
            store(strip, k * STRIP_STRIDE + i, masked_load(a, k * a_col_stride + i, min(width, rows - i)))


@internal
def pack_transposed(b, b_row_stride, depth, columns, pack, pack_row_stride):
    """pack[k, j] = b[j, k], one square of registers after the other."""
    _, width = tile_columns(b)
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


@inline
def _product(rows, columns, depth, a, a_row_stride, a_col_stride, b, b_row_stride, transposed, c, init, bias, pack):
    """C = init + A @ B, C being contiguous."""
    nothing = as_float(0, c)
    gemm(
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
        c_row_stride=columns,
        init=init,
        bias=bias,
        epilogue=STORE,
        lr=nothing,
        momentum=nothing,
        velocity=0,
        pack=pack,
        prefetch=0,
    )


@kernel
def affine_forward(A_prev, W, b, out):
    """Out = A_prev @ W + b: (n_samples, n_in), (n_in, n_out), (n_out,) -> (n_samples, n_out).

    C-contiguous arrays of one float dtype; `out` overlaps no other.
    """
    n_in, n_out = W.shape
    pack, control = allocate(pack_size(PANEL), pointer(out, 0)), flush_subnormals()
    if address(pack) == 0:
        return NO_MEMORY
    _product(
        A_prev.shape[0],
        n_out,
        n_in,
        a=pointer(A_prev, 0),
        a_row_stride=n_in,
        a_col_stride=1,
        b=pointer(W, 0),
        b_row_stride=n_out,
        transposed=False,
        c=pointer(out, 0),
        init=INIT_BIAS,
        bias=pointer(b, 0),
        pack=pack,
    )
    restore_mxcsr(control)
    release(pack)
    return DONE


@kernel
def propagate_delta(delta, W, derivative, out):
    """Out = (delta @ W.T) * derivative: (n_samples, n_out), (n_in, n_out), (n_samples, n_in) -> (n_samples, n_in).

    C-contiguous arrays of one float dtype; `out` overlaps no other.
    """
    n_in, n_out = W.shape
    pack, control = allocate(pack_size(PANEL), pointer(out, 0)), flush_subnormals()
    if address(pack) == 0:
        return NO_MEMORY
    p = pointer(out, 0)
    _product(
        delta.shape[0],
        n_in,
        n_out,
        a=pointer(delta, 0),
        a_row_stride=n_out,
        a_col_stride=1,
        b=pointer(W, 0),
        b_row_stride=n_out,
        transposed=True,
        c=p,
        init=INIT_ZERO,
        bias=p,
        pack=pack,
    )
    map_pair(_times, p, pointer(derivative, 0), p, out.size)
    restore_mxcsr(control)
    release(pack)
    return DONE


@kernel
def weight_gradient(A_prev, delta, out):
    """Out = A_prev.T @ delta, the sum of the samples' outer products: (n_in, n_out).

    C-contiguous arrays of one float dtype; `out` overlaps no other.
    """
    n_in, n_out = out.shape
    pack, control = allocate(pack_size(n_out), pointer(out, 0)), flush_subnormals()
    if address(pack) == 0:
        return NO_MEMORY
    _product(
        n_in,
        n_out,
        delta.shape[0],
        a=pointer(A_prev, 0),
        a_row_stride=1,
        a_col_stride=n_in,
        b=pointer(delta, 0),
        b_row_stride=n_out,
        transposed=False,
        c=pointer(out, 0),
        init=INIT_ZERO,
        bias=pointer(out, 0),
        pack=pack,
    )
    restore_mxcsr(control)
    release(pack)
    return DONE


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
def _times(a, b):
    return a * b


@kernel
def layer_jacobian(A_prev, delta, first, out):
    """Write the columns of one layer: row i is [A_prev[i] (outer) delta[i], delta[i]], from column `first` on.

    With delta = d a / d Z for one output a of the network these are d a / d W and d a / d b of each sample.

    Parameters
    ----------
    A_prev, delta : arrays (n_samples, n_in), (n_samples, n_out)
    first : int
        Index of the layer's W among the parameters; b follows it.
    out : array (n_samples, n_parameters)
        The other columns stay as they are.  C-contiguous, as the others, of one float dtype; it overlaps none.
    """
    n_in, n_out, row_stride = A_prev.shape[1], delta.shape[1], out.shape[1]
    p, control = pointer(out, 0), flush_subnormals()
    width = lanes(p)
    for i in range(out.shape[0]):
        d, W = pointer(delta, i * n_out), offset(p, i * row_stride + first)
        for j in range(0, n_out, width):
            n = min(width, n_out - j)
            v = masked_load(d, j, n)
            for k in range(n_in):
                masked_store(W, k * n_out + j, v * peek(pointer(A_prev, i * n_in), k), n)
            masked_store(W, n_in * n_out + j, v, n)
    restore_mxcsr(control)
