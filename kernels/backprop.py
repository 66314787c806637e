"""One block of samples: gather, forward, losses, output delta, backward, gradient.

In the workspace every block of activations carries a column of ones after its last column, so that the bias gradient
is one more row of the weight gradient.
"""

import numpy as np

from . import dense, elementwise, losses, noise, update
from .elementwise import IDENTITY, SOFTMAX
from .jit import inline, internal
from .layout import (
    A_AT,
    ACTIVATION,
    ACTIVATION_BACKWARD,
    ACTIVATION_FORWARD,
    BACKWARD_AT,
    BY_COLUMNS,
    DELTA_AT,
    DROP,
    DROP_AT,
    FORWARD_AT,
    GATHER,
    GEMM,
    MAX_NORM,
    N_IN,
    N_OUT,
    NOISE,
    OUTPUT_GRADIENT,
    PENALIZE,
    ROW_STRIDE,
    SAMPLE_LOSSES,
    SCALE,
    STEP_FACTORS,
    SUM_OF_SQUARES,
    THRESHOLD,
    UPDATE,
    W_AT,
    X_FLOAT32,
    X_FLOAT64,
    Z_AT,
)
from .losses import NOT_FUSED, Y_GRADIENT, Y_LABELS, Y_NONE, Y_ROWS
from .microkernel import INIT_BIAS, INIT_C, INIT_ZERO, LINE_BYTES, STORE, tile_columns
from .native import NativeFunction
from .optimizers import SQUARES_CHUNK, max_norm_block, scale_block
from .plan import COLUMN_BLOCK, MAX_SCRATCH
from .simd import (
    as_float,
    call,
    is_single,
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
)
from .threads import barrier, partition

# ------------------------------------------------------------------------------------------- moving samples


@inline
def _converted_rows(source, columns, scale, order, start, in_order, first, last, out, out_row_stride):
    """Copy rows of `source` times `scale` to rows first .. last - 1 of `out`, converting the dtype."""
    for r in range(first, last):
        row = start + r
        if not in_order:
            row = peek(order, row)
        for j in range(columns):
            poke(out, r * out_row_stride + j, as_float(peek(source, row * columns + j), out) * scale)


@inline
def _copied_rows(source, columns, scale, order, start, in_order, first, last, out, out_row_stride):
    """Copy, times `scale`, without conversion, a vector at a time."""
    width = lanes(out)
    for r in range(first, last):
        row = start + r
        if not in_order:
            row = peek(order, row)
        origin, target = offset(source, row * columns), offset(out, r * out_row_stride)
        j = 0
        while j + width <= columns:
            store(target, j, load(origin, j) * scale)
            j += width
        if j < columns:
            masked_store(target, j, masked_load(origin, j, columns - j) * scale, columns - j)


@internal
def gather(
    x_address,
    x_kind,
    n_in,
    scale,
    x,
    x_row_stride,
    y_address,
    y_kind,
    n_out,
    smoothing,
    smoothed,
    y,
    y_row_stride,
    order,
    start,
    in_order,
    top,
    bottom,
    first,
    last,
):
    """Bring samples times `scale` into rows top .. bottom - 1 of the block x, their targets to first .. last - 1 of y.

    Row r is the sample at place start + r of the order, or of the data themselves (`in_order`).  With `smoothing`
    class labels become rows of targets, and all become (1 - smoothing) Y + smoothed (Szegedy et al. 2016).  The row of
    a label that is no class is NaN: labels are the caller's memory, and may change after they were checked.
    """
    if x_kind == X_FLOAT32 and is_single(x) or x_kind == X_FLOAT64 and not is_single(x):
        _copied_rows(pointer_like(x_address, x), n_in, scale, order, start, in_order, top, bottom, x, x_row_stride)
    elif x_kind == X_FLOAT32:
        _converted_rows(
            pointer_at(x_address, np.float32), n_in, scale, order, start, in_order, top, bottom, x, x_row_stride
        )
    elif x_kind == X_FLOAT64:
        _converted_rows(
            pointer_at(x_address, np.float64), n_in, scale, order, start, in_order, top, bottom, x, x_row_stride
        )
    else:
        _converted_rows(
            pointer_at(x_address, np.uint8), n_in, scale, order, start, in_order, top, bottom, x, x_row_stride
        )
    one = as_float(1, x)
    if y_kind == Y_LABELS and smoothing == 0:
        _converted_rows(pointer_at(y_address, np.int64), 1, one, order, start, in_order, first, last, y, 1)
    elif y_kind == Y_LABELS:
        labels = pointer_at(y_address, np.int64)
        for r in range(first, last):
            at = start + r
            if not in_order:
                at = peek(order, at)
            label = peek(labels, at)
            is_class = np.uint64(label) < np.uint64(n_out)
            for j in range(n_out):
                poke(y, r * y_row_stride + j, as_float(0 if is_class else np.nan, y))
            if is_class:
                poke(y, r * y_row_stride + label, one)
    elif y_kind != Y_NONE:
        _copied_rows(pointer_like(y_address, y), n_out, one, order, start, in_order, first, last, y, y_row_stride)
    if smoothing != 0:
        for r in range(first, last):
            for j in range(n_out):
                at = r * y_row_stride + j
                poke(y, at, peek(y, at) * (one - smoothing) + smoothed)


# ------------------------------------------------------------------------------------------------- threads


SYNC_SIZE = 16  # numbers of sync before the notes of `plan_prefetch`, PREFETCH_SIZE for each thread


def sync_size(threads):
    """Return how many numbers sync has for so many threads."""
    return SYNC_SIZE + dense.PREFETCH_SIZE * threads


FLAT_ROW = 65  # rows up to this length go through elementwise functions in one go, padding and all


# ------------------------------------------------------------------------------------- leaves and their callers

# in the order of `plan.GEMM` ... `plan.MAX_NORM`
FUNCTION_TABLE = (
    NativeFunction(dense.gemm, "iiipiipiipiipiffipi"),
    NativeFunction(elementwise.activation_forward, "ippiipi"),
    NativeFunction(elementwise.activation_backward, "ipppiii"),
    NativeFunction(losses.sample_losses, "ifiipppppiii"),
    NativeFunction(losses.output_gradient, "ifiipppfpiii"),
    NativeFunction(gather, "iiifpiiiiffpioiiiiii"),
    NativeFunction(update.advance, "ididwidp"),
    NativeFunction(noise.drop_rows, "iiiipipiiiii"),
    NativeFunction(noise.noise_rows, "iifpiiiii"),
    NativeFunction(update.update, "ipppppifff"),
    NativeFunction(update.penalize, "ppifff"),
    NativeFunction(update.sum_of_squares, "pid"),
    NativeFunction(scale_block, "pfi"),
    NativeFunction(max_norm_block, "piiiif"),
)


def load_functions(plan, n_functions, dtype):
    """Put the addresses of the first so many FUNCTION_TABLE for a dtype into a plan, compiling them if need be."""
    for i in range(n_functions):
        if plan.functions[i] == 0:
            plan.functions[i] = FUNCTION_TABLE[i].address(dtype)
    for function, column in ((ACTIVATION_FORWARD, FORWARD_AT), (ACTIVATION_BACKWARD, BACKWARD_AT)):
        of_layers = plan.layers[:, column]
        of_layers[of_layers == 0] = plan.functions[function]


@internal
def gather_block(plan, data, tools, order, start, in_order, inputs, rows, smoothing, smoothed, deviation, step, place):
    """Gather a block of samples: one thread's share, or all inputs into its own copy; return the kind of the targets.

    Without `inputs` only the targets.  Row 0 is the sample at `start` of the order, and row `place` of its batch, which
    names the noise added to it.
    """
    last_layer, work = plan.layers[plan.layers.shape[0] - 1], tools.work
    first, last = partition(rows, tools.thread, tools.threads)
    top, bottom = first, last
    if plan.x_size > 0:
        top, bottom = 0, rows
    if not inputs:
        bottom = top
    x = block_inputs(plan, tools)
    call(
        plan.functions[GATHER],
        data.x_address,
        data.x_kind,
        plan.layers[0, N_IN],
        as_float(data.x_scale, work),
        x,
        plan.x_row_stride,
        data.y_address,
        data.y_kind,
        last_layer[N_OUT],
        as_float(smoothing, work),
        as_float(smoothed, work),
        offset(work, plan.y_at),
        last_layer[ROW_STRIDE],
        pointer(order, 0),
        start,
        in_order,
        top,
        bottom,
        first,
        last,
    )
    if deviation != 0:
        call(
            plan.functions[NOISE],
            tools.key,
            step,
            as_float(deviation, work),
            x,
            plan.x_row_stride,
            top,
            bottom,
            place,
            plan.layers[0, N_IN],
        )
    if data.y_kind == Y_LABELS and smoothing != 0:
        return Y_ROWS
    return data.y_kind


# ----------------------------------------------------------------- one block: forward, output delta, backward


@internal
def affine(plan, a, a_row_stride, w, w_row_stride, n_in, columns, z, z_row_stride, rows, pack):
    """Z = a @ W + b for the columns from w and z on, b being one more row of W."""
    b = offset(w, n_in * w_row_stride)
    nothing = as_float(0, w)
    if z_row_stride == 1 and rows >= 4:  # one output: samples lie along the registers
        for r in range(rows):
            poke(z, r, peek(b, 0))
        call(
            plan.functions[GEMM],
            1,
            rows,
            n_in,
            w,
            0,
            1,
            a,
            a_row_stride,
            True,
            z,
            0,
            INIT_C,
            b,
            STORE,
            nothing,
            nothing,
            0,
            pack,
            0,
        )
    else:
        call(
            plan.functions[GEMM],
            rows,
            columns,
            n_in,
            a,
            a_row_stride,
            1,
            w,
            w_row_stride,
            False,
            z,
            z_row_stride,
            INIT_BIAS,
            b,
            STORE,
            nothing,
            nothing,
            0,
            pack,
            0,
        )


@internal
def thread_slice(layer, rows, thread, threads):
    """Return the part of a layer's block that is a thread's: first and last row, first and last column."""
    n = layer[N_OUT]
    if layer[BY_COLUMNS]:
        first, last = partition((n + COLUMN_BLOCK - 1) // COLUMN_BLOCK, thread, threads)
        return 0, rows, first * COLUMN_BLOCK, min(n, last * COLUMN_BLOCK)
    first, last = partition(rows, thread, threads)
    return first, last, 0, n


@inline
def block_inputs(plan, tools):
    """Where a thread finds the block of gathered samples."""
    return offset(tools.work, plan.x_at + tools.thread * plan.x_size)


@inline
def private_columns(plan, tools):
    """Where a thread's own copy of its columns of the first layer's W and b is; that of each state follows."""
    return offset(tools.work, plan.private_at + tools.thread * plan.private_stride)


@internal
def move_private(plan, steps, tools, back):
    """Copy a thread's columns of the first layer, and their states; or copy them back.

    Narrow columns of one W in the hands of several threads are slow: a core that fetches ahead in its own columns takes
    lines of the others' away.  Two threads on 784-128 with 64 samples: 105 us a step, with columns of their own 75.
    """
    n_in, n_out = plan.layers[0, N_IN], plan.layers[0, N_OUT]
    _, _, left, right = thread_slice(plan.layers[0], 0, tools.thread, tools.threads)
    shared, own = offset(tools.parameters, plan.layers[0, W_AT] + left), private_columns(plan, tools)
    width = lanes(own)
    for state in range(1 + steps.n_states):
        distance = 0 if state == 0 else steps.to_first if state == 1 else steps.to_second
        for i in range(n_in + 1):
            there, here = i * n_out + distance, i * plan.private_row_stride + state * plan.private_size
            for j in range(0, right - left, width):
                n = min(width, right - left - j)
                if back:
                    masked_store(shared, there + j, masked_load(own, here + j, n), n)
                else:
                    masked_store(own, here + j, masked_load(shared, there + j, n), n)


@internal
def drop(plan, tools, l, step, place, a, out, rows, top, left, right):
    """Drop some outputs, or deltas, of layer l: columns left .. right - 1 of the rows from row `top` of the block on.

    `a` and `out` are at row `top`.
    """
    row = plan.layers[l, ROW_STRIDE]
    call(
        plan.functions[DROP],
        tools.key,
        step,
        l,
        plan.layers[l, THRESHOLD],
        a,
        row,
        out,
        row,
        rows,
        place + top,
        left,
        right,
    )


@inline
def weight_slice(layer, thread, threads):
    """Return the part of a layer's W, b being its last row, that is a thread's: first and last row and column."""
    if layer[BY_COLUMNS]:
        _, _, left, right = thread_slice(layer, 0, thread, threads)
        return 0, layer[N_IN] + 1, left, right
    first, last = partition(layer[N_IN] + 1, thread, threads)
    return first, last, 0, layer[N_OUT]


@internal
def forward(plan, tools, a, a_row_stride, rows, step, place):
    """Z and A of every layer for a block of samples at `a`, rows `a_row_stride` apart; one thread's part of it.

    Where threads split columns they meet after each layer.  `step` and `place`, the block's first row in its batch,
    name the numbers of dropout.
    """
    work, thread, threads = tools.work, tools.thread, tools.threads
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        n_out, row, code = layer[N_OUT], layer[ROW_STRIDE], layer[ACTIVATION]
        top, bottom, left, right = thread_slice(layer, rows, thread, threads)
        z, next_a = offset(work, layer[Z_AT] + top * row), offset(work, layer[A_AT] + top * row)
        w, w_row_stride = offset(tools.parameters, layer[W_AT] + left), n_out
        if l == 0 and tools.has_private:
            w, w_row_stride = private_columns(plan, tools), plan.private_row_stride
        affine(
            plan,
            offset(a, top * a_row_stride),
            a_row_stride,
            w,
            w_row_stride,
            layer[N_IN],
            right - left,
            offset(z, left),
            row,
            bottom - top,
            tools.pack,
        )
        if code != IDENTITY or layer[Z_AT] != layer[A_AT]:
            columns = right - left
            if row <= FLAT_ROW and code < SOFTMAX and not layer[BY_COLUMNS]:
                columns = row  # short rows in one go, the column of ones with them
            call(
                layer[FORWARD_AT],
                code,
                offset(z, left),
                offset(next_a, left),
                row,
                columns,
                offset(work, plan.lse_at + top),
                bottom - top,
            )
        kept = next_a
        if layer[THRESHOLD] > 0:
            kept = offset(work, layer[DROP_AT] + top * row)
            drop(plan, tools, l, step, place, next_a, kept, bottom - top, top, left, right)
        if row > n_out and right == n_out:
            for r in range(bottom - top):
                poke(kept, r * row + n_out, 1)  # the column of ones
        if plan.is_mixed:
            barrier(tools.sync, threads)
        a, a_row_stride = offset(work, layer[DROP_AT]), row


@internal
def sample_losses(plan, work, y_kind, first, last):
    """Write the loss of each sample, rows first .. last - 1."""
    layer = plan.layers[plan.layers.shape[0] - 1]
    row = layer[ROW_STRIDE]
    call(
        plan.functions[SAMPLE_LOSSES],
        plan.loss,
        as_float(plan.loss_parameter, work),
        plan.fused,
        y_kind,
        offset(work, layer[Z_AT] + first * row),
        offset(work, layer[A_AT] + first * row),
        offset(work, plan.y_at + first * (1 if y_kind == Y_LABELS else row)),
        offset(work, plan.lse_at + first),
        offset(work, plan.losses_at + first),
        last - first,
        layer[N_OUT],
        row,
    )


@internal
def output_delta(plan, work, y_kind, scale, first, last):
    """Delta of the output layer, with the factor 1/n of the mean in `scale`; rows first .. last - 1."""
    layer = plan.layers[plan.layers.shape[0] - 1]
    row = layer[ROW_STRIDE]
    z, a = offset(work, layer[Z_AT] + first * row), offset(work, layer[A_AT] + first * row)
    delta = offset(work, layer[DELTA_AT] + first * row)
    call(
        plan.functions[OUTPUT_GRADIENT],
        plan.loss,
        as_float(plan.loss_parameter, work),
        plan.fused,
        y_kind,
        z,
        a,
        offset(work, plan.y_at + first * (1 if y_kind == Y_LABELS else row)),
        scale,
        delta,
        last - first,
        layer[N_OUT],
        row,
    )
    if plan.fused == NOT_FUSED or y_kind == Y_GRADIENT:
        activation_backward(plan, layer, z, a, delta, layer[N_OUT], last - first)


@internal
def activation_backward(plan, layer, z, a, delta, columns, rows):
    """Delta *= f'(z), from d loss / d a to d loss / d z."""
    if layer[ACTIVATION] != IDENTITY:
        if layer[ROW_STRIDE] <= FLAT_ROW and layer[ACTIVATION] < SOFTMAX and not layer[BY_COLUMNS]:
            columns = layer[ROW_STRIDE]
        call(layer[BACKWARD_AT], layer[ACTIVATION], z, a, delta, layer[ROW_STRIDE], columns, rows)


@internal
def propagate(plan, delta, delta_row_stride, w, n_in, n_out, first, last, out, out_row_stride, rows, pack):
    """Columns first .. last - 1 of out = delta @ W.T."""
    nothing = as_float(0, w)
    call(
        plan.functions[GEMM],
        rows,
        last - first,
        n_out,
        delta,
        delta_row_stride,
        1,
        offset(w, first * n_out),
        n_out,
        n_out > 1,
        offset(out, first),
        out_row_stride,
        INIT_ZERO,
        w,
        STORE,
        nothing,
        nothing,
        0,
        pack,
        0,
    )


@internal
def apply_sample_weights(plan, data, tools, order, start, in_order, first, last):
    """Losses and output deltas of rows first .. last - 1 times the weights of their samples."""
    layer, weights = plan.layers[plan.layers.shape[0] - 1], pointer_like(data.weights, tools.work)
    losses, delta, row = offset(tools.work, plan.losses_at), offset(tools.work, layer[DELTA_AT]), layer[ROW_STRIDE]
    for r in range(first, last):
        weight = peek(weights, start + r if in_order else order[start + r])
        poke(losses, r, peek(losses, r) * weight)
        for j in range(layer[N_OUT]):
            poke(delta, r * row + j, peek(delta, r * row + j) * weight)


@internal
def backward(plan, tools, rows, step, place):
    """Delta of every layer before the last; one thread's part of it."""
    work, thread, threads = tools.work, tools.thread, tools.threads
    for l in range(plan.layers.shape[0] - 1, 0, -1):
        if plan.is_mixed:
            barrier(tools.sync, threads)
        layer, before = plan.layers[l], plan.layers[l - 1]
        row = before[ROW_STRIDE]
        top, bottom, left, right = thread_slice(before, rows, thread, threads)
        delta = offset(work, before[DELTA_AT] + top * row)
        propagate(
            plan,
            offset(work, layer[DELTA_AT] + top * layer[ROW_STRIDE]),
            layer[ROW_STRIDE],
            offset(tools.parameters, layer[W_AT]),
            layer[N_IN],
            layer[N_OUT],
            left,
            right,
            delta,
            row,
            bottom - top,
            tools.pack,
        )
        if before[THRESHOLD] > 0:
            drop(plan, tools, l - 1, step, place, delta, delta, bottom - top, top, left, right)
        activation_backward(
            plan,
            before,
            offset(work, before[Z_AT] + top * row + left),
            offset(work, before[A_AT] + top * row + left),
            offset(delta, left),
            right - left,
            bottom - top,
        )


@internal
def init_prefetch(plan, steps, data, order, sync, thread):
    """Return where in sync a thread's notes of `plan_prefetch` are, having begun them; 0 where it would not pay."""
    size = plan.layers[0, N_IN] * (4 if data.x_kind == X_FLOAT32 else 8 if data.x_kind == X_FLOAT64 else 1)
    address = sync + 8 * (SYNC_SIZE + dense.PREFETCH_SIZE * thread)
    prefetch = pointer_at(address, np.int64)
    poke(prefetch, dense.PREFETCH_X, data.x_address)
    poke(prefetch, dense.PREFETCH_ROW_BYTES, size)
    poke(prefetch, dense.PREFETCH_ORDER, order)
    pays = (
        data.n * size > dense.PREFETCH_MIN_BYTES
        and 4 * size * min(steps.batch_size, plan.rows) <= dense.PREFETCH_MIN_BYTES
    )
    return address if pays else 0


@internal
def plan_prefetch(plan, data, tools, start, rows):
    """Note what `gather_block` will gather next, up to so many rows from `start` of the order on; see `dense.next_prefetch_lines`.

    The gradient of the first layer asks for it: where samples are large, it is among the largest products.
    """
    prefetch = pointer_at(tools.prefetch, np.int64)
    rows = max(0, min(rows, data.n - start))
    first, last = (0, rows) if plan.x_size > 0 else partition(rows, tools.thread, tools.threads)
    top, bottom, left, right = weight_slice(plan.layers[0], tools.thread, tools.threads)
    wide, _ = tile_columns(tools.work)
    n_tiles = ((bottom - top) // dense.RANK_K_ROWS + 1) * ((right - left + wide - 1) // wide)
    tiles_of_sample = max(1, n_tiles // max(1, last - first))
    poke(prefetch, dense.PREFETCH_FIRST, start + first)
    poke(prefetch, dense.PREFETCH_LAST, start + last)
    poke(prefetch, dense.PREFETCH_PLACE, 0)
    poke(prefetch, dense.PREFETCH_LINES, peek(prefetch, dense.PREFETCH_ROW_BYTES) // LINE_BYTES // tiles_of_sample + 1)


# ------------------------------------------------------------------------------------- the gradient and the update


@inline
def gradient_tiles(
    plan,
    tools,
    rows,
    delta,
    delta_row_stride,
    a,
    a_row_stride,
    n,
    columns,
    w,
    w_row_stride,
    start,
    epilogue,
    lr,
    momentum,
    velocity,
):
    """A.T @ delta for n columns of `a` and some columns of delta, put into `w` as `epilogue` says (see `simd.tile`)."""
    if w_row_stride == 1:  # one column: it lies along the registers
        call(
            plan.functions[GEMM],
            1,
            n,
            rows,
            delta,
            0,
            delta_row_stride,
            a,
            a_row_stride,
            False,
            w,
            0,
            start,
            w,
            epilogue,
            lr,
            momentum,
            velocity,
            tools.pack,
            tools.prefetch,
        )
    else:
        call(
            plan.functions[GEMM],
            n,
            columns,
            rows,
            a,
            1,
            a_row_stride,
            delta,
            delta_row_stride,
            False,
            w,
            w_row_stride,
            start,
            w,
            epilogue,
            lr,
            momentum,
            velocity,
            tools.pack,
            tools.prefetch,
        )


@internal
def weight_gradients(plan, tools, rows, out, start, epilogue, lr, momentum, velocity):
    """[dW; db] = [A_prev, 1].T @ delta of every layer, put into `out` as `epilogue` says (see `simd.tile`).

    One thread's part of it: the columns that it had before, or else some rows of W.
    """
    work, thread, threads = tools.work, tools.thread, tools.threads
    a, a_row_stride = block_inputs(plan, tools), plan.x_row_stride
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        n_out, row = layer[N_OUT], layer[ROW_STRIDE]
        first, last, left, right = weight_slice(layer, thread, threads)
        w, w_row_stride, to_velocity = offset(out, layer[W_AT] + first * n_out + left), n_out, velocity
        if l == 0 and tools.has_private:
            w, w_row_stride, to_velocity = private_columns(plan, tools), plan.private_row_stride, plan.private_size
        gradient_tiles(
            plan,
            tools,
            rows,
            offset(work, layer[DELTA_AT] + left),
            row,
            offset(a, first),
            a_row_stride,
            last - first,
            right - left,
            w,
            w_row_stride,
            start,
            epilogue,
            lr,
            momentum,
            to_velocity,
        )
        a, a_row_stride = offset(work, layer[DROP_AT]), row


@internal
def update_by_slice(plan, steps, tools, rows):
    """Update one thread's part of W and b by [A_prev, 1].T @ delta, of which only small parts exist at a time."""
    work, thread, threads = tools.work, tools.thread, tools.threads
    nothing, scratch = as_float(0, work), offset(work, plan.scratch_at + thread * plan.scratch_size)
    a, a_row_stride = block_inputs(plan, tools), plan.x_row_stride
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        n_in, n_out, row = layer[N_IN], layer[N_OUT], layer[ROW_STRIDE]
        first, last, left, right = weight_slice(layer, thread, threads)
        w, w_row_stride = offset(tools.parameters, layer[W_AT] + first * n_out + left), n_out
        to_first, to_second, columns = steps.to_first, steps.to_second, right - left
        if l == 0 and tools.has_private:
            w, w_row_stride, to_first, to_second = (
                private_columns(plan, tools),
                plan.private_row_stride,
                plan.private_size,
                2 * plan.private_size,
            )
        most = max(1, MAX_SCRATCH // columns)
        for top in range(first, last, most):
            n = min(most, last - top)
            gradient_tiles(
                plan,
                tools,
                rows,
                offset(work, layer[DELTA_AT] + left),
                row,
                offset(a, top),
                a_row_stride,
                n,
                columns,
                scratch,
                columns,
                INIT_ZERO,
                STORE,
                nothing,
                nothing,
                0,
            )
            n_weights = max(0, min(top + n, n_in) - top)
            parameters = offset(w, (top - first) * w_row_stride)
            if w_row_stride == columns:
                update_part(plan, steps, tools, scratch, parameters, to_first, to_second, n_weights * columns, True)
                update_part(
                    plan,
                    steps,
                    tools,
                    offset(scratch, n_weights * columns),
                    offset(parameters, n_weights * columns),
                    to_first,
                    to_second,
                    (n - n_weights) * columns,
                    False,
                )
            else:
                for i in range(n):
                    update_part(
                        plan,
                        steps,
                        tools,
                        offset(scratch, i * columns),
                        offset(parameters, i * w_row_stride),
                        to_first,
                        to_second,
                        columns,
                        i < n_weights,
                    )
        a, a_row_stride = offset(work, layer[DROP_AT]), row


@inline
def update_part(plan, steps, tools, gradient, parameters, to_first, to_second, n, are_weights):
    """Update n parameters that lie side by side; biases have no penalties."""
    if n > 0:
        l1, l2 = as_float(0, parameters), as_float(0, parameters)
        if are_weights:
            l1, l2 = as_float(steps.l1, parameters), as_float(steps.l2, parameters)
        call(
            plan.functions[UPDATE],
            steps.rule,
            tools.factors,
            gradient,
            parameters,
            offset(parameters, to_first),
            offset(parameters, to_second),
            n,
            l1,
            l2,
            as_float(steps.clip_value, parameters),
        )


@inline
def weights_or_biases(piece, layer, first, last):
    """Return where a layer's weights (even pieces) or biases lie within first .. last - 1 of the parameters."""
    middle = layer[W_AT] + layer[N_IN] * layer[N_OUT]
    if piece % 2 == 0:
        return max(first, layer[W_AT]), min(last, middle)
    return max(first, middle), min(last, middle + layer[N_OUT])


@internal
def update_parameters(plan, steps, tools):
    """Update one thread's share of all parameters by the gradient at tools.gradient; threads have met before."""
    n, p, g = plan.n_parameters, tools.parameters, tools.gradient
    n_sums = (n + SQUARES_CHUNK - 1) // SQUARES_CHUNK
    first_sum, last_sum = partition(n_sums, tools.thread, tools.threads)
    first, last = first_sum * SQUARES_CHUNK, min(n, last_sum * SQUARES_CHUNK)
    limit, nothing = as_float(steps.clip_value, p), as_float(0, p)
    if steps.clip_norm == 0 and steps.l1 == 0 and steps.l2 == 0:
        update_part(
            plan, steps, tools, offset(g, first), offset(p, first), steps.to_first, steps.to_second, last - first, False
        )
        return
    for piece in range(2 * plan.layers.shape[0]):
        start, stop = weights_or_biases(piece, plan.layers[piece // 2], first, last)
        if start < stop:
            l1 = as_float(steps.l1, p) if piece % 2 == 0 else nothing
            l2 = as_float(steps.l2, p) if piece % 2 == 0 else nothing
            call(plan.functions[PENALIZE], offset(g, start), offset(p, start), stop - start, l1, l2, limit)
    if steps.clip_norm > 0:
        for i in range(first_sum, last_sum):
            start = i * SQUARES_CHUNK
            call(plan.functions[SUM_OF_SQUARES], offset(g, start), min(SQUARES_CHUNK, n - start), offset(tools.sums, i))
        barrier(tools.sync, tools.threads)
        total = 0.0
        for i in range(n_sums):
            total += peek(tools.sums, i)
        norm = np.sqrt(total)
        if norm > steps.clip_norm:
            call(plan.functions[SCALE], offset(g, first), as_float(steps.clip_norm / norm, p), last - first)
    call(
        plan.functions[UPDATE],
        steps.rule,
        tools.factors,
        offset(g, first),
        offset(p, first),
        offset(p, first + steps.to_first),
        offset(p, first + steps.to_second),
        last - first,
        nothing,
        nothing,
        nothing,
    )


@internal
def apply_max_norm(plan, steps, tools):
    """Rescale the weights into each neuron whose norm is above the limit; one thread's share of the neurons."""
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        first, last = partition(layer[N_OUT], tools.thread, tools.threads)
        call(
            plan.functions[MAX_NORM],
            offset(tools.parameters, layer[W_AT]),
            layer[N_IN],
            layer[N_OUT],
            first,
            last,
            as_float(steps.max_norm, tools.parameters),
        )


@internal
def advance(plan, steps, tools, step):
    """Write the factors of this step's update."""
    call(
        plan.functions[STEP_FACTORS],
        steps.rule,
        tools.hyperparameters,
        steps.schedule,
        tools.rates,
        steps.rate_scale,
        step,
        tools.running_products,
        tools.factors,
    )
