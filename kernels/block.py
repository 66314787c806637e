"""One block of samples: gather, forward, losses, output delta, backward, gradient.

In the workspace every block of activations carries a column of ones after its last column, so that the bias gradient
is one more row of the weight gradient.
"""
import numpy as np

from . import dense, elementwise, losses
from .elementwise import IDENTITY
from .jit import Leaf, inner, part
from .losses import NOT_FUSED, Y_GRADIENT, Y_LABELS, Y_NONE
from .plan import A_AT, ACTIVATION, DELTA_AT, N_IN, N_OUT, ROW, W_AT, X_FLOAT32, X_FLOAT64, Z_AT
from .simd import (
    START_BIAS,
    START_C,
    START_ZERO,
    STORE,
    as_float,
    call,
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
def gather(x_address, x_kind, n_in, x, x_row, y_address, y_kind, n_out, y, order, start, in_order, first, last):
    """Bring samples into rows first .. last - 1 of the blocks x and y.

    They are those at places start + first ... of the order, or of the data themselves (`in_order`).
    """
    if x_kind == X_FLOAT32 and is_single(x) or x_kind == X_FLOAT64 and not is_single(x):
        _copied_rows(pointer_like(x_address, x), n_in, order, start, in_order, first, last, x, x_row)
    elif x_kind == X_FLOAT32:
        _converted_rows(pointer_at(x_address, np.float32), n_in, order, start, in_order, first, last, x, x_row)
    elif x_kind == X_FLOAT64:
        _converted_rows(pointer_at(x_address, np.float64), n_in, order, start, in_order, first, last, x, x_row)
    else:
        _converted_rows(pointer_at(x_address, np.uint8), n_in, order, start, in_order, first, last, x, x_row)
    if y_kind == Y_LABELS:
        _converted_rows(pointer_at(y_address, np.int64), 1, order, start, in_order, first, last, y, 1)
    elif y_kind != Y_NONE:
        _copied_rows(pointer_like(y_address, y), n_out, order, start, in_order, first, last, y, n_out)


# ------------------------------------------------------------------------------------- leaves and their callers

LEAVES = (Leaf(dense.multiply, "iiipiipiipiipiffip"),
          Leaf(elementwise.activate, "ippiipii"),
          Leaf(elementwise.derive, "ipppiii"),
          Leaf(losses.measure, "iiipppppii"),
          Leaf(losses.output_gradient, "iiippfpii"),
          Leaf(gather, "iiipiiiipoiiii"))
MULTIPLY, ACTIVATE, DERIVE, MEASURE, OUTPUT_GRADIENT, GATHER = range(len(LEAVES))


def leaf_addresses(dtype):
    """Addresses of the LEAVES for a dtype; compiles or loads them."""
    return np.array([leaf.address(dtype) for leaf in LEAVES])


@part
def bring(plan, data, work, order, start, in_order, first, last):
    """Gather samples into rows first .. last - 1 of the plan's block."""
    call(plan.leaves[GATHER], data.x_address, data.x_kind, plan.layers[0, N_IN], offset(work, plan.x_at), plan.x_row,
         data.y_address, data.y_kind, plan.layers[plan.layers.shape[0] - 1, N_OUT], offset(work, plan.y_at),
         pointer(order, 0), start, in_order, first, last)


# ----------------------------------------------------------------- one block: forward, output delta, backward

@part
def affine(plan, a, a_row, w, n_in, n_out, z, z_row, rows, pack):
    """Z = a @ W + b, b following W in memory."""
    b = offset(w, n_in * n_out)
    nothing = as_float(0, w)
    if z_row == 1 and rows >= 4:                   # one output: samples lie along the registers
        for r in range(rows):
            poke(z, r, peek(b, 0))
        call(plan.leaves[MULTIPLY], 1, rows, n_in, w, 0, 1, a, a_row, True, z, 0, START_C, b, STORE, nothing, nothing,
             0, pack)
    else:
        call(plan.leaves[MULTIPLY], rows, n_out, n_in, a, a_row, 1, w, n_out, False, z, z_row, START_BIAS, b, STORE,
             nothing, nothing, 0, pack)


@part
def forward(plan, parameters, work, first, last, pack):
    """Z and A of every layer for rows first .. last - 1 of the gathered block."""
    a, a_row = offset(work, plan.x_at), plan.x_row
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        n_out, row = layer[N_OUT], layer[ROW]
        z, next_a = offset(work, layer[Z_AT]), offset(work, layer[A_AT])
        affine(plan, offset(a, first * a_row), a_row, offset(parameters, layer[W_AT]), layer[N_IN], n_out,
               offset(z, first * row), row, last - first, pack)
        if layer[ACTIVATION] != IDENTITY or layer[Z_AT] != layer[A_AT]:
            call(plan.leaves[ACTIVATE], layer[ACTIVATION], z, next_a, row, n_out, offset(work, plan.lse_at), first,
                 last)
        if row > n_out:
            for r in range(first, last):
                poke(next_a, r * row + n_out, 1)   # the column of ones
        a, a_row = next_a, row


@part
def measure(plan, work, y_kind, first, last):
    """Write the loss of each sample, rows first .. last - 1."""
    layer = plan.layers[plan.layers.shape[0] - 1]
    n = layer[N_OUT]
    call(plan.leaves[MEASURE], plan.loss, plan.fused, y_kind, offset(work, layer[Z_AT] + first * n),
         offset(work, layer[A_AT] + first * n), offset(work, plan.y_at + first * (1 if y_kind == Y_LABELS else n)),
         offset(work, plan.lse_at + first), offset(work, plan.losses_at + first), last - first, n)


@part
def output_delta(plan, work, y_kind, scale, first, last):
    """Delta of the output layer, with the factor 1/n of the mean in `scale`; rows first .. last - 1."""
    layer = plan.layers[plan.layers.shape[0] - 1]
    n = layer[N_OUT]
    a, delta = offset(work, layer[A_AT] + first * n), offset(work, layer[DELTA_AT] + first * n)
    call(plan.leaves[OUTPUT_GRADIENT], plan.loss, plan.fused, y_kind, a,
         offset(work, plan.y_at + first * (1 if y_kind == Y_LABELS else n)), scale, delta, last - first, n)
    if plan.fused == NOT_FUSED or y_kind == Y_GRADIENT:
        derive(plan, layer, offset(work, layer[Z_AT] + first * n), a, delta, last - first)


@part
def derive(plan, layer, z, a, delta, rows):
    """Delta *= f'(z), from d loss / d a to d loss / d z."""
    if layer[ACTIVATION] != IDENTITY:
        call(plan.leaves[DERIVE], layer[ACTIVATION], z, a, delta, layer[ROW], layer[N_OUT], rows)


@part
def propagate(plan, delta, delta_row, w, n_in, n_out, out, out_row, rows, pack):
    """Out = delta @ W.T."""
    nothing = as_float(0, w)
    call(plan.leaves[MULTIPLY], rows, n_in, n_out, delta, delta_row, 1, w, n_out, n_out > 1, out, out_row, START_ZERO,
         w, STORE, nothing, nothing, 0, pack)


@part
def backward(plan, parameters, work, first, last, pack):
    """Delta of every layer before the last, rows first .. last - 1."""
    for l in range(plan.layers.shape[0] - 1, 0, -1):
        layer, before = plan.layers[l], plan.layers[l - 1]
        row = before[ROW]
        delta = offset(work, before[DELTA_AT] + first * row)
        propagate(plan, offset(work, layer[DELTA_AT] + first * layer[ROW]), layer[ROW], offset(parameters, layer[W_AT]),
                  layer[N_IN], layer[N_OUT], delta, row, last - first, pack)
        derive(plan, before, offset(work, before[Z_AT] + first * row), offset(work, before[A_AT] + first * row), delta,
               last - first)


@part
def accumulate(plan, work, rows, out, start, finish, lr, momentum, velocity, pack, thread, threads):
    """[dW; db] = [A_prev, 1].T @ delta of every layer, put into `out` as `finish` says (see `simd.tile`)."""
    a, a_row = offset(work, plan.x_at), plan.x_row
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        n_in, n_out, row = layer[N_IN] + 1, layer[N_OUT], layer[ROW]
        first, last = n_in * thread // threads, n_in * (thread + 1) // threads
        delta, w = offset(work, layer[DELTA_AT]), offset(out, layer[W_AT] + first * n_out)
        if n_out == 1:                             # one column: it lies along the registers
            call(plan.leaves[MULTIPLY], 1, last - first, rows, delta, 0, row, offset(a, first), a_row, False, w, 0,
                 start, w, finish, lr, momentum, velocity, pack)
        else:
            call(plan.leaves[MULTIPLY], last - first, n_out, rows, offset(a, first), 1, a_row, delta, row, False, w,
                 n_out, start, w, finish, lr, momentum, velocity, pack)
        a, a_row = offset(work, layer[A_AT]), row
