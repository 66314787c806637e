"""One block of samples: gather, forward, losses, output delta, backward, gradient.

In the workspace every block of activations carries a column of ones after its last column, so that the bias gradient
is one more row of the weight gradient.
"""
import numpy as np

from . import dense, elementwise, losses
from .elementwise import IDENTITY, SOFTMAX
from .jit import Leaf, inner, part
from .losses import NOT_FUSED, Y_GRADIENT, Y_LABELS, Y_NONE
from .plan import (
    A_AT,
    ACTIVATE_AT,
    ACTIVATION,
    BY_COLUMNS,
    COLUMN_BLOCK,
    DELTA_AT,
    DERIVE_AT,
    GATHER,
    MEASURE,
    MULTIPLY,
    N_IN,
    N_OUT,
    OUTPUT_GRADIENT,
    ROW,
    W_AT,
    X_FLOAT32,
    X_FLOAT64,
    Z_AT,
)
from .simd import (
    START_BIAS,
    START_C,
    START_ZERO,
    STORE,
    as_float,
    atomic_add,
    atomic_peek,
    call,
    give_way,
    is_single,
    lanes,
    load,
    load_part,
    offset,
    peek,
    pointer,
    pointer_at,
    pointer_like,
    poke,
    spin_pause,
    store,
    store_part,
)

# ------------------------------------------------------------------------------------------- moving samples

@inner
def _converted_rows(source, columns, order, start, in_order, first, last, out, out_row):
    """Copy rows of `source` to rows first .. last - 1 of `out`, converting the dtype."""
    for r in range(first, last):
        row = start + r
        if not in_order:
            row = peek(order, row)
        for j in range(columns):
            poke(out, r * out_row + j, peek(source, row * columns + j))


@inner
def _copied_rows(source, columns, order, start, in_order, first, last, out, out_row):
    """Copy without conversion, a vector at a time."""
    width = lanes(out)
    for r in range(first, last):
        row = start + r
        if not in_order:
            row = peek(order, row)
        origin, target = offset(source, row * columns), offset(out, r * out_row)
        j = 0
        while j + width <= columns:
            store(target, j, load(origin, j))
            j += width
        if j < columns:
            store_part(target, j, load_part(origin, j, columns - j), columns - j)


@part
def gather(x_address, x_kind, n_in, x, x_row, y_address, y_kind, n_out, y, y_row, order, start, in_order, top, bottom,
           first, last):
    """Bring samples into rows top .. bottom - 1 of the block x, and their targets into first .. last - 1 of y.

    Row r is the sample at place start + r of the order, or of the data themselves (`in_order`).
    """
    if x_kind == X_FLOAT32 and is_single(x) or x_kind == X_FLOAT64 and not is_single(x):
        _copied_rows(pointer_like(x_address, x), n_in, order, start, in_order, top, bottom, x, x_row)
    elif x_kind == X_FLOAT32:
        _converted_rows(pointer_at(x_address, np.float32), n_in, order, start, in_order, top, bottom, x, x_row)
    elif x_kind == X_FLOAT64:
        _converted_rows(pointer_at(x_address, np.float64), n_in, order, start, in_order, top, bottom, x, x_row)
    else:
        _converted_rows(pointer_at(x_address, np.uint8), n_in, order, start, in_order, top, bottom, x, x_row)
    if y_kind == Y_LABELS:
        _converted_rows(pointer_at(y_address, np.int64), 1, order, start, in_order, first, last, y, 1)
    elif y_kind != Y_NONE:
        _copied_rows(pointer_like(y_address, y), n_out, order, start, in_order, first, last, y, y_row)


# ------------------------------------------------------------------------------------------------- threads

@inner
def share(n, thread, threads):
    """Cut n items for threads: from where to where."""
    return n * thread // threads, n * (thread + 1) // threads


SPINS = 4000             # about 20 us of waiting before the core is offered to others


@part
def meet(sync, threads):
    """Wait until every thread has come here.  sync[0] counts arrivals, sync[8] meetings."""
    if threads > 1:
        meeting = atomic_peek(sync, 8)
        if atomic_add(sync, 0, 1) == threads - 1:
            poke(sync, 0, 0)
            atomic_add(sync, 8, 1)
        else:
            spins = 0
            while atomic_peek(sync, 8) == meeting:
                spins += 1
                if spins < SPINS:
                    spin_pause()
                else:
                    give_way()


FLAT_ROW = 65            # rows up to this length go through elementwise functions in one go, padding and all


# ------------------------------------------------------------------------------------- leaves and their callers

# in the order of `plan.MULTIPLY` ... `plan.GATHER`
LEAVES = (Leaf(dense.multiply, "iiipiipiipiipiffip"),
          Leaf(elementwise.activate, "ippiipi"),
          Leaf(elementwise.derive, "ipppiii"),
          Leaf(losses.measure, "ifiipppppiii"),
          Leaf(losses.output_gradient, "ifiippfpiii"),
          Leaf(gather, "iiipiiiipioiiiiii"))


def leaf_addresses(dtype):
    """Addresses of the LEAVES for a dtype; compiles or loads them."""
    return np.array([leaf.address(dtype) for leaf in LEAVES])


@part
def bring(plan, data, work, order, start, in_order, rows, thread, threads):
    """Gather a block of samples; one thread's share of it, or all of the inputs into its own copy."""
    last_layer = plan.layers[plan.layers.shape[0] - 1]
    first, last = share(rows, thread, threads)
    top, bottom = first, last
    if plan.x_size > 0:
        top, bottom = 0, rows
    x = offset(work, plan.x_at + thread * plan.x_size)
    call(plan.leaves[GATHER], data.x_address, data.x_kind, plan.layers[0, N_IN], x, plan.x_row,
         data.y_address, data.y_kind, last_layer[N_OUT], offset(work, plan.y_at), last_layer[ROW],
         pointer(order, 0), start, in_order, top, bottom, first, last)


# ----------------------------------------------------------------- one block: forward, output delta, backward

@part
def affine(plan, a, a_row, w, w_row, n_in, columns, z, z_row, rows, pack):
    """Z = a @ W + b for the columns from w and z on, b being one more row of W."""
    b = offset(w, n_in * w_row)
    nothing = as_float(0, w)
    if z_row == 1 and rows >= 4:                   # one output: samples lie along the registers
        for r in range(rows):
            poke(z, r, peek(b, 0))
        call(plan.leaves[MULTIPLY], 1, rows, n_in, w, 0, 1, a, a_row, True, z, 0, START_C, b, STORE, nothing, nothing,
             0, pack)
    else:
        call(plan.leaves[MULTIPLY], rows, columns, n_in, a, a_row, 1, w, w_row, False, z, z_row, START_BIAS, b, STORE,
             nothing, nothing, 0, pack)


@part
def part_of(layer, rows, thread, threads):
    """Return the part of a layer's block that is a thread's: first and last row, first and last column."""
    n = layer[N_OUT]
    if layer[BY_COLUMNS]:
        first, last = share(n // COLUMN_BLOCK, thread, threads)
        return 0, rows, first * COLUMN_BLOCK, n if thread == threads - 1 else last * COLUMN_BLOCK
    first, last = share(rows, thread, threads)
    return first, last, 0, n


@inner
def own_columns(plan, work, thread):
    """Where a thread's own copy of its columns of the first layer's W and b is; that of the velocity follows."""
    return offset(work, plan.own_at + 2 * thread * plan.own_size)


@part
def take_own(plan, parameters, work, velocity, thread, threads, back):
    """Copy a thread's columns of the first layer, and their velocity if it is not 0 elements on; or copy them back.

    Narrow columns of one W in the hands of several threads are slow: a core that fetches ahead in its own columns takes
    lines of the others' away.  Two threads on 784-128 with 64 samples: 105 us a step, with columns of their own 75.
    """
    n_in, n_out = plan.layers[0, N_IN], plan.layers[0, N_OUT]
    _, _, left, right = part_of(plan.layers[0], 0, thread, threads)
    shared, own, width = offset(parameters, plan.layers[0, W_AT] + left), own_columns(plan, work, thread), lanes(work)
    for state in range(2 if velocity != 0 else 1):
        for i in range(n_in + 1):
            there, here = i * n_out + state * velocity, i * plan.own_row + state * plan.own_size
            for j in range(0, right - left, width):
                n = min(width, right - left - j)
                if back:
                    store_part(shared, there + j, load_part(own, here + j, n), n)
                else:
                    store_part(own, here + j, load_part(shared, there + j, n), n)


@part
def forward(plan, parameters, work, rows, pack, sync, thread, threads, has_own):
    """Z and A of every layer for the gathered block; one thread's part of it.

    Where threads split columns they meet after each layer.  `has_own`: the first layer's are in `take_own`'s place.
    """
    a, a_row = offset(work, plan.x_at + thread * plan.x_size), plan.x_row
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        n_out, row, code = layer[N_OUT], layer[ROW], layer[ACTIVATION]
        top, bottom, left, right = part_of(layer, rows, thread, threads)
        z, next_a = offset(work, layer[Z_AT] + top * row), offset(work, layer[A_AT] + top * row)
        w, w_row = offset(parameters, layer[W_AT] + left), n_out
        if l == 0 and has_own:
            w, w_row = own_columns(plan, work, thread), plan.own_row
        affine(plan, offset(a, top * a_row), a_row, w, w_row, layer[N_IN], right - left, offset(z, left), row,
               bottom - top, pack)
        if code != IDENTITY or layer[Z_AT] != layer[A_AT]:
            columns = right - left
            if row <= FLAT_ROW and code < SOFTMAX:
                columns = row                      # short rows in one go, the column of ones with them
            call(layer[ACTIVATE_AT], code, offset(z, left), offset(next_a, left), row, columns,
                 offset(work, plan.lse_at + top), bottom - top)
        if row > n_out and right == n_out:
            for r in range(bottom - top):
                poke(next_a, r * row + n_out, 1)   # the column of ones
        if plan.is_mixed:
            meet(sync, threads)
        a, a_row = offset(work, layer[A_AT]), row


@part
def measure(plan, work, y_kind, first, last):
    """Write the loss of each sample, rows first .. last - 1."""
    layer = plan.layers[plan.layers.shape[0] - 1]
    row = layer[ROW]
    call(plan.leaves[MEASURE], plan.loss, as_float(plan.number, work), plan.fused, y_kind,
         offset(work, layer[Z_AT] + first * row), offset(work, layer[A_AT] + first * row),
         offset(work, plan.y_at + first * (1 if y_kind == Y_LABELS else row)),
         offset(work, plan.lse_at + first), offset(work, plan.losses_at + first), last - first, layer[N_OUT], row)


@part
def output_delta(plan, work, y_kind, scale, first, last):
    """Delta of the output layer, with the factor 1/n of the mean in `scale`; rows first .. last - 1."""
    layer = plan.layers[plan.layers.shape[0] - 1]
    row = layer[ROW]
    a, delta = offset(work, layer[A_AT] + first * row), offset(work, layer[DELTA_AT] + first * row)
    call(plan.leaves[OUTPUT_GRADIENT], plan.loss, as_float(plan.number, work), plan.fused, y_kind, a,
         offset(work, plan.y_at + first * (1 if y_kind == Y_LABELS else row)), scale, delta, last - first, layer[N_OUT],
         row)
    if plan.fused == NOT_FUSED or y_kind == Y_GRADIENT:
        derive(plan, layer, offset(work, layer[Z_AT] + first * row), a, delta, layer[N_OUT], last - first)


@part
def derive(plan, layer, z, a, delta, columns, rows):
    """Delta *= f'(z), from d loss / d a to d loss / d z."""
    if layer[ACTIVATION] != IDENTITY:
        if layer[ROW] <= FLAT_ROW and layer[ACTIVATION] < SOFTMAX:
            columns = layer[ROW]
        call(layer[DERIVE_AT], layer[ACTIVATION], z, a, delta, layer[ROW], columns, rows)


@part
def propagate(plan, delta, delta_row, w, n_in, n_out, first, last, out, out_row, rows, pack):
    """Columns first .. last - 1 of out = delta @ W.T."""
    nothing = as_float(0, w)
    call(plan.leaves[MULTIPLY], rows, last - first, n_out, delta, delta_row, 1, offset(w, first * n_out), n_out,
         n_out > 1, offset(out, first), out_row, START_ZERO, w, STORE, nothing, nothing, 0, pack)


@part
def backward(plan, parameters, work, rows, pack, sync, thread, threads):
    """Delta of every layer before the last; one thread's part of it."""
    for l in range(plan.layers.shape[0] - 1, 0, -1):
        if plan.is_mixed:
            meet(sync, threads)
        layer, before = plan.layers[l], plan.layers[l - 1]
        row = before[ROW]
        top, bottom, left, right = part_of(before, rows, thread, threads)
        delta = offset(work, before[DELTA_AT] + top * row)
        propagate(plan, offset(work, layer[DELTA_AT] + top * layer[ROW]), layer[ROW], offset(parameters, layer[W_AT]),
                  layer[N_IN], layer[N_OUT], left, right, delta, row, bottom - top, pack)
        derive(plan, before, offset(work, before[Z_AT] + top * row + left),
               offset(work, before[A_AT] + top * row + left), offset(delta, left), right - left, bottom - top)


@part
def accumulate(plan, work, rows, out, start, finish, lr, momentum, velocity, pack, thread, threads, has_own):
    """[dW; db] = [A_prev, 1].T @ delta of every layer, put into `out` as `finish` says (see `simd.tile`).

    One thread's part of it: the columns that it had before, or else some rows of W; `has_own` as in `forward`.
    """
    a, a_row = offset(work, plan.x_at + thread * plan.x_size), plan.x_row
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        n_in, n_out, row = layer[N_IN] + 1, layer[N_OUT], layer[ROW]
        first, last, left, right = 0, n_in, 0, n_out
        if layer[BY_COLUMNS]:
            _, _, left, right = part_of(layer, rows, thread, threads)
        else:
            first, last = share(n_in, thread, threads)
        delta, w, w_row = offset(work, layer[DELTA_AT] + left), offset(out, layer[W_AT] + first * n_out + left), n_out
        to_velocity = velocity
        if l == 0 and has_own:
            w, w_row, to_velocity = own_columns(plan, work, thread), plan.own_row, plan.own_size
        if n_out == 1:                             # one column: it lies along the registers
            call(plan.leaves[MULTIPLY], 1, last - first, rows, delta, 0, row, offset(a, first), a_row, False, w, 0,
                 start, w, finish, lr, momentum, velocity, pack)
        else:
            call(plan.leaves[MULTIPLY], last - first, right - left, rows, offset(a, first), 1, a_row, delta, row, False,
                 w, w_row, start, w, finish, lr, momentum, to_velocity, pack)
        a, a_row = offset(work, layer[A_AT]), row
