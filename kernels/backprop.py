"""Backpropagation over one block of samples: gather, forward, losses, output delta, backward, gradient.

In the workspace every array of activations has a column of ones after its last column, so that the bias gradient is
one more row of the weight gradient.  Each function does one thread's part.
"""

import numpy as np

from . import dense
from .elementwise import _identity, map_array
from .jit import inline, internal
from .layout import (
    A_AT,
    ACTIVATION,
    BACKWARD_AT,
    BY_COLUMNS,
    DELTA_AT,
    DROP,
    DROP_AT,
    FORWARD_AT,
    GATHER,
    GEMM,
    N_IN,
    N_OUT,
    NOISE,
    OUTPUT_GRADIENT,
    PREFETCH_SIZE,
    ROW_STRIDE,
    SAMPLE_LOSSES,
    STORE,
    SYNC_SIZE,
    THRESHOLD,
    UPDATE,
    W_AT,
    X_FLOAT32,
    X_FLOAT64,
    Y_GRADIENT,
    Y_LABELS,
    Y_NONE,
    Y_ROWS,
    Z_AT,
)
from .microkernel import INIT_BIAS, INIT_C, INIT_ZERO, LINE_BYTES, tile_columns
from .native import native
from .optimizers import squares_array
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
from .tables import BY_ROW, IDENTITY
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


@native("iiifpiiiiffpioiiiiii")
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
    smoothing_share,
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
    """Gather samples times `scale` into rows top .. bottom - 1 of x, their targets into rows first .. last - 1 of y.

    Row r is the sample at place start + r of the order, or of the data themselves (`in_order`).  With `smoothing`
    class labels become rows of targets, and all become (1 - smoothing) Y + smoothing_share (Szegedy et al. 2016).  The
    row of a label that is no class is NaN: labels are in the caller's memory, and may change after they were checked.
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
                poke(y, at, peek(y, at) * (one - smoothing) + smoothing_share)


FLAT_ROW = 65  # rows up to this length go through elementwise activations as one array, padding and all


@internal
def gather_block(
    plan, data, context, order, start, in_order, inputs, rows, smoothing, smoothing_share, deviation, step, place
):
    """Gather a block of samples: one thread's rows, or all inputs into its copy; return the kind of the targets.

    Without `inputs` only the targets.  Row 0 is the sample at `start` of the order, and row `place` of its batch, which
    seeds the noise added to it.
    """
    last_layer, work = plan.layers[plan.layers.shape[0] - 1], context.work
    first, last = partition(rows, context.thread, context.threads)
    top, bottom = first, last
    if plan.x_size > 0:
        top, bottom = 0, rows
    if not inputs:
        bottom = top
    x = block_inputs(plan, context)
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
        as_float(smoothing_share, work),
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
            context.key,
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
    """Return a thread's slice of the rows and columns of a layer: first row, end, first column, end."""
    n = layer[N_OUT]
    if layer[BY_COLUMNS]:
        first, last = partition((n + COLUMN_BLOCK - 1) // COLUMN_BLOCK, thread, threads)
        return 0, rows, first * COLUMN_BLOCK, min(n, last * COLUMN_BLOCK)
    first, last = partition(rows, thread, threads)
    return first, last, 0, n


@inline
def block_inputs(plan, context):
    """Return the gathered inputs of a block."""
    return offset(context.work, plan.x_at + context.thread * plan.x_size)


@inline
def private_columns(plan, context):
    """Return a thread's private columns of the first layer's W and b; those of each optimizer state follow."""
    return offset(context.work, plan.private_at + context.thread * plan.private_stride)


@inline
def _move_private(plan, args, context, stores):
    """Copy a thread's columns of the first layer, and their states, to its private ones; or back (`stores`)."""
    n_in, n_out = plan.layers[0, N_IN], plan.layers[0, N_OUT]
    _, _, left, right = thread_slice(plan.layers[0], 0, context.thread, context.threads)
    shared, private = offset(context.parameters, plan.layers[0, W_AT] + left), private_columns(plan, context)
    width = lanes(private)
    for state in range(1 + args.n_states):
        distance = 0 if state == 0 else args.to_first if state == 1 else args.to_second
        for i in range(n_in + 1):
            there, here = i * n_out + distance, i * plan.private_row_stride + state * plan.private_size
            for j in range(0, right - left, width):
                n = min(width, right - left - j)
                if stores:
                    masked_store(shared, there + j, masked_load(private, here + j, n), n)
                else:
                    masked_store(private, here + j, masked_load(shared, there + j, n), n)


@internal
def load_private(plan, args, context):
    """Copy a thread's columns of the first layer, and their states, to its private ones.

    Narrow columns of one W that several threads write to are slow: a core that prefetches in its own columns takes
    cache lines of the others' away.  Two threads on 784-128 with 64 samples: 105 us a step, with private columns 75.
    """
    _move_private(plan, args, context, False)


@internal
def store_private(plan, args, context):
    """Copy a thread's private columns, and their states, back."""
    _move_private(plan, args, context, True)


@internal
def drop(plan, context, l, step, place, a, out, rows, top, left, right):
    """Drop some outputs, or deltas, of layer l: columns left .. right - 1 of the rows from row `top` of the block on.

    `a` and `out` are at row `top`.
    """
    row = plan.layers[l, ROW_STRIDE]
    call(
        plan.functions[DROP],
        context.key,
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
    """Return a thread's slice of a layer's W, b being its last row: first row, end, first column, end."""
    if layer[BY_COLUMNS]:
        _, _, left, right = thread_slice(layer, 0, thread, threads)
        return 0, layer[N_IN] + 1, left, right
    first, last = partition(layer[N_IN] + 1, thread, threads)
    return first, last, 0, layer[N_OUT]


@internal
def forward(plan, context, a, a_row_stride, rows, step, place):
    """Compute Z and A of every layer for a block of samples at `a`, rows `a_row_stride` apart.

    Where threads split columns there is a barrier after each layer.  `step` and `place`, the first row of the block
    within its batch, seed dropout.
    """
    work, thread, threads = context.work, context.thread, context.threads
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        n_out, row, code = layer[N_OUT], layer[ROW_STRIDE], layer[ACTIVATION]
        top, bottom, left, right = thread_slice(layer, rows, thread, threads)
        z, next_a = offset(work, layer[Z_AT] + top * row), offset(work, layer[A_AT] + top * row)
        w, w_row_stride = offset(context.parameters, layer[W_AT] + left), n_out
        if l == 0 and context.has_private:
            w, w_row_stride = private_columns(plan, context), plan.private_row_stride
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
            context.pack,
        )
        if code != IDENTITY or layer[Z_AT] != layer[A_AT]:
            columns = right - left
            if row <= FLAT_ROW and code != BY_ROW and not layer[BY_COLUMNS]:
                columns = row  # short rows in one go, the column of ones with them
            call(
                layer[FORWARD_AT],
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
            drop(plan, context, l, step, place, next_a, kept, bottom - top, top, left, right)
        if row > n_out and right == n_out:
            for r in range(bottom - top):
                poke(kept, r * row + n_out, 1)  # the column of ones
        if plan.is_mixed:
            barrier(context.sync, threads)
        a, a_row_stride = offset(work, layer[DROP_AT]), row


@internal
def sample_losses(plan, work, y_kind, first, last):
    """Write the loss of each sample, rows first .. last - 1."""
    layer = plan.layers[plan.layers.shape[0] - 1]
    row = layer[ROW_STRIDE]
    call(
        plan.functions[SAMPLE_LOSSES],
        as_float(plan.loss_parameter, work),
        y_kind == Y_LABELS,
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
    """Compute delta of the output layer, with the factor 1/n of the mean in `scale`; rows first .. last - 1."""
    layer = plan.layers[plan.layers.shape[0] - 1]
    row = layer[ROW_STRIDE]
    z, a = offset(work, layer[Z_AT] + first * row), offset(work, layer[A_AT] + first * row)
    delta = offset(work, layer[DELTA_AT] + first * row)
    y = offset(work, plan.y_at + first * (1 if y_kind == Y_LABELS else row))
    if y_kind == Y_GRADIENT:
        map_array(_identity, y, delta, (last - first) * row)
    else:
        call(
            plan.functions[OUTPUT_GRADIENT],
            as_float(plan.loss_parameter, work),
            y_kind == Y_LABELS,
            z,
            a,
            y,
            scale,
            delta,
            last - first,
            layer[N_OUT],
            row,
        )
    if y_kind == Y_GRADIENT or not plan.has_logit_form:
        activation_backward(plan, layer, z, a, delta, layer[N_OUT], last - first)


@internal
def activation_backward(plan, layer, z, a, delta, columns, rows):
    """Delta *= f'(z), from d loss / d a to d loss / d z."""
    if layer[ACTIVATION] != IDENTITY:
        if layer[ROW_STRIDE] <= FLAT_ROW and layer[ACTIVATION] != BY_ROW and not layer[BY_COLUMNS]:
            columns = layer[ROW_STRIDE]
        call(layer[BACKWARD_AT], z, a, delta, layer[ROW_STRIDE], columns, rows)


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
def apply_sample_weights(plan, data, context, order, start, in_order, first, last):
    """Multiply losses and output deltas of rows first .. last - 1 by the weights of their samples."""
    layer, weights = plan.layers[plan.layers.shape[0] - 1], pointer_like(data.weights, context.work)
    losses, delta, row = offset(context.work, plan.losses_at), offset(context.work, layer[DELTA_AT]), layer[ROW_STRIDE]
    for r in range(first, last):
        weight = peek(weights, start + r if in_order else order[start + r])
        poke(losses, r, peek(losses, r) * weight)
        for j in range(layer[N_OUT]):
            poke(delta, r * row + j, peek(delta, r * row + j) * weight)


@internal
def limit_losses(plan, work, limit, first, last):
    """Let no finite loss of rows first .. last - 1 be above the limit."""
    losses = offset(work, plan.losses_at)
    for r in range(first, last):
        loss = peek(losses, r)
        if loss > limit and np.isfinite(loss):
            poke(losses, r, as_float(limit, work))


@internal
def total_weight(data, like, order, start, n):
    """Return the sum of the weights of n samples from place `start` of the order on; their number without weights."""
    if data.weights == 0:
        return np.float64(n)
    weights, total = pointer_like(data.weights, like), 0.0
    for r in range(start, start + n):
        total += np.float64(peek(weights, order[r]))
    return total


@internal
def squared_weights(plan, parameters):
    """Return the sum of the squares of all weights, without the biases."""
    total = 0.0
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        total += squares_array(offset(parameters, layer[W_AT]), layer[N_IN] * layer[N_OUT])
    return total


@internal
def backward(plan, context, rows, step, place):
    """Compute delta of every layer before the last."""
    work, thread, threads = context.work, context.thread, context.threads
    for l in range(plan.layers.shape[0] - 1, 0, -1):
        if plan.is_mixed:
            barrier(context.sync, threads)
        layer, before = plan.layers[l], plan.layers[l - 1]
        row = before[ROW_STRIDE]
        top, bottom, left, right = thread_slice(before, rows, thread, threads)
        delta = offset(work, before[DELTA_AT] + top * row)
        propagate(
            plan,
            offset(work, layer[DELTA_AT] + top * layer[ROW_STRIDE]),
            layer[ROW_STRIDE],
            offset(context.parameters, layer[W_AT]),
            layer[N_IN],
            layer[N_OUT],
            left,
            right,
            delta,
            row,
            bottom - top,
            context.pack,
        )
        if before[THRESHOLD] > 0:
            drop(plan, context, l - 1, step, place, delta, delta, bottom - top, top, left, right)
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
def init_prefetch(plan, args, data, order, sync, thread):
    """Initialize the state of a thread's prefetches, in sync; return its address, or 0 where it would not pay."""
    size = plan.layers[0, N_IN] * (4 if data.x_kind == X_FLOAT32 else 8 if data.x_kind == X_FLOAT64 else 1)
    address = sync + 8 * (SYNC_SIZE + PREFETCH_SIZE * thread)
    prefetch = pointer_at(address, np.int64)
    poke(prefetch, dense.PREFETCH_X, data.x_address)
    poke(prefetch, dense.PREFETCH_ROW_BYTES, size)
    poke(prefetch, dense.PREFETCH_ORDER, order)
    pays = (
        data.n * size > dense.PREFETCH_MIN_BYTES
        and 4 * size * min(args.batch_size, plan.rows) <= dense.PREFETCH_MIN_BYTES
    )
    return address if pays else 0


@internal
def plan_prefetch(plan, data, context, start, rows):
    """Plan the prefetch of what `gather_block` gathers next: up to `rows` samples from `start` of the order on.

    The gradient of the first layer prefetches it (`dense.next_prefetch_lines`): where samples are large, it is among
    the largest products.
    """
    prefetch = pointer_at(context.prefetch, np.int64)
    rows = max(0, min(rows, data.n - start))
    first, last = (0, rows) if plan.x_size > 0 else partition(rows, context.thread, context.threads)
    top, bottom, left, right = weight_slice(plan.layers[0], context.thread, context.threads)
    wide, _ = tile_columns(context.work)
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
    context,
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
    """A.T @ delta for n columns of `a` and some columns of delta, put into `w` by the epilogue."""
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
            context.pack,
            context.prefetch,
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
            context.pack,
            context.prefetch,
        )


@internal
def weight_gradients(plan, context, rows, out, start, epilogue, lr, momentum, velocity):
    """[dW; db] = [A_prev, 1].T @ delta of every layer, put into `out` by the epilogue (see `microkernel.tile`).

    A thread does the columns that it had in the forward pass, or else some rows of W.
    """
    work, thread, threads = context.work, context.thread, context.threads
    a, a_row_stride = block_inputs(plan, context), plan.x_row_stride
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        n_out, row = layer[N_OUT], layer[ROW_STRIDE]
        first, last, left, right = weight_slice(layer, thread, threads)
        w, w_row_stride, to_velocity = offset(out, layer[W_AT] + first * n_out + left), n_out, velocity
        if l == 0 and context.has_private:
            w, w_row_stride, to_velocity = private_columns(plan, context), plan.private_row_stride, plan.private_size
        gradient_tiles(
            plan,
            context,
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
def update_by_slice(plan, args, context, rows, l2):
    """Update W and b by [A_prev, 1].T @ delta, of which only one slice exists at a time."""
    work, thread, threads = context.work, context.thread, context.threads
    nothing, scratch = as_float(0, work), offset(work, plan.scratch_at + thread * plan.scratch_size)
    a, a_row_stride = block_inputs(plan, context), plan.x_row_stride
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        n_in, n_out, row = layer[N_IN], layer[N_OUT], layer[ROW_STRIDE]
        first, last, left, right = weight_slice(layer, thread, threads)
        w, w_row_stride = offset(context.parameters, layer[W_AT] + first * n_out + left), n_out
        to_first, to_second, columns = args.to_first, args.to_second, right - left
        if l == 0 and context.has_private:
            w, w_row_stride, to_first, to_second = (
                private_columns(plan, context),
                plan.private_row_stride,
                plan.private_size,
                2 * plan.private_size,
            )
        most = max(1, MAX_SCRATCH // columns)
        for top in range(first, last, most):
            n = min(most, last - top)
            gradient_tiles(
                plan,
                context,
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
                n_first = n_weights * columns
                update_range(plan, args, context, scratch, parameters, to_first, to_second, n_first, True, l2)
                update_range(
                    plan,
                    args,
                    context,
                    offset(scratch, n_first),
                    offset(parameters, n_first),
                    to_first,
                    to_second,
                    n * columns - n_first,
                    False,
                    l2,
                )
            else:
                for i in range(n):
                    update_range(
                        plan,
                        args,
                        context,
                        offset(scratch, i * columns),
                        offset(parameters, i * w_row_stride),
                        to_first,
                        to_second,
                        columns,
                        i < n_weights,
                        l2,
                    )
        a, a_row_stride = offset(work, layer[DROP_AT]), row


@inline
def update_range(plan, args, context, gradient, parameters, to_first, to_second, n, are_weights, l2):
    """Update n adjacent parameters; biases have no penalties."""
    if n > 0:
        l1_of_these, l2_of_these = as_float(0, parameters), as_float(0, parameters)
        factors = offset(context.factors, args.bias_factors)
        if are_weights:
            l1_of_these, l2_of_these = as_float(args.l1, parameters), as_float(l2, parameters)
            factors = context.factors
        call(
            plan.functions[UPDATE],
            factors,
            gradient,
            parameters,
            offset(parameters, to_first),
            offset(parameters, to_second),
            n,
            l1_of_these,
            l2_of_these,
            as_float(args.clip_value, parameters),
        )
