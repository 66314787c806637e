"""Training with samples in lanes: the few samples of a batch lie along one vector, and every weight is one number.

For networks so narrow that a vector of neurons would be mostly empty, with activations that are computed inline, and
squared error or binary cross-entropy of sigmoid outputs (`plan.make_plan`).
"""

import numpy as np

from .backprop import gather_block
from .elementwise import inline_activation, times_inline_derivative
from .jit import inline, internal
from .layout import ACTIVATION, N_IN, N_OUT, RATE, ROW_STRIDE, STORE, W_AT, X_FLOAT32, X_FLOAT64
from .losses import _binary_cross_entropy_logits, _squared_error
from .online import Epilogue, update_at
from .simd import (
    as_float,
    fma,
    hsum,
    hsum4,
    is_single,
    lanes,
    load,
    masked_load,
    narrow,
    offset,
    peek,
    pointer_like,
    poke,
    select_lanes,
    store,
)
from .tables import IDENTITY, SIGMOID_CROSS_ENTROPY
from .updates import step_factors, update_parameters


@inline
def sum_of_lanes(v, n):
    """Return the sum of the first n lanes, the others being zero; in the order of `hsum`."""
    if n <= 4:
        return hsum4(v)
    return hsum(v)


@inline
def transpose_samples(block, row, columns, n, out):
    """out[i * lanes + r] = block[r * row + i] for n samples; zero in the lanes beyond."""
    width = lanes(out)
    for i in range(columns):
        store(out, i * width, masked_load(out, 0, 0))
        for r in range(n):
            poke(out, i * width + r, peek(block, r * row + i))


@inline
def gather_samples(source, columns, scale, order, start, n, out):
    """out[i * lanes + r] = source[order[start + r], i] * scale for n samples; zero in the lanes beyond."""
    width = lanes(out)
    for i in range(columns):
        store(out, i * width, masked_load(out, 0, 0))
    for r in range(n):
        at = order[start + r] * columns
        for i in range(columns):
            poke(out, i * width + r, peek(source, at + i) * scale)


@internal
def in_lanes(plan, args, data, context, work, order, first_batch, repeats, step, total_losses, lr, momentum, velocity):
    """Train batches first_batch .. args.last_batch - 1, a batch in one vector; return how many were trained.

    Their losses are added to the number at `total_losses`; the batch whose loss is not finite is not trained.  One
    batch that is all of the data may be trained `repeats` times, its losses added to as many numbers.  `work` is the
    workspace by vectors with lanes enough, `velocity` as in `online`.
    """
    p, block = context.parameters, context.work
    n_layers, width = plan.layers.shape[0], lanes(work)
    n_x, n_y = plan.layers[0, N_IN], plan.layers[n_layers - 1, N_OUT]
    x = offset(work, plan.lanes_at)
    y = offset(x, n_x * width)
    activations = offset(y, n_y * width)  # layer after layer, as many deltas behind
    to_delta = plan.n_neurons * width
    zero, x_scale = masked_load(work, 0, 0), as_float(data.x_scale, block)
    x_has_dtype = data.x_kind == (X_FLOAT32 if is_single(work) else X_FLOAT64)
    last_batch = max(args.last_batch, first_batch + repeats)
    for batch in range(first_batch, last_batch):
        start = batch * args.batch_size
        total_at = 0
        if repeats > 1:
            start, total_at = 0, batch
        n = min(args.batch_size, data.n - start)
        if repeats == 1 or batch == 0:
            if x_has_dtype:
                gather_samples(pointer_like(data.x_address, block), n_x, x_scale, order, start, n, x)
                gather_samples(pointer_like(data.y_address, block), n_y, as_float(1, block), order, start, n, y)
            else:
                gather_block(plan, data, context, order, start, False, True, n, 0.0, 0.0, 0.0, 0, 0)
                transpose_samples(offset(block, plan.x_at), plan.x_row_stride, n_x, n, x)
                transpose_samples(offset(block, plan.y_at), plan.layers[n_layers - 1, ROW_STRIDE], n_y, n, y)
        here = select_lanes(zero + 1.0, n, 0.0)
        scale = here
        if args.is_mean:
            scale = here / as_float(n, work)
        # forward: z stays where delta of the output layer will be
        before, a = x, activations
        for l in range(n_layers):
            n_in, n_out, code = plan.layers[l, N_IN], plan.layers[l, N_OUT], plan.layers[l, ACTIVATION]
            w = offset(p, plan.layers[l, W_AT])
            for j in range(n_out):
                z = zero + peek(w, n_in * n_out + j)
                for i in range(n_in):
                    z = fma(load(before, i * width), peek(w, i * n_out + j), z)
                store(a, j * width + to_delta, z)
                store(a, j * width, inline_activation(code, z))
            before, a = a, offset(a, n_out * width)
        # the loss, and delta of the output layer
        loss, code = zero, plan.layers[n_layers - 1, ACTIVATION]
        for j in range(n_y):
            out, target = load(before, j * width), load(y, j * width)
            delta = (out - target) * scale
            if plan.inline_loss == SIGMOID_CROSS_ENTROPY:
                loss = loss + _binary_cross_entropy_logits(load(before, j * width + to_delta), target, 0.0)
            else:
                loss = loss + _squared_error(out, target, 0.0)
                delta = times_inline_derivative(code, delta, out)
            store(before, j * width + to_delta, delta)
        total = peek(total_losses, total_at) + np.float64(sum_of_lanes(loss * here, n))
        poke(total_losses, total_at, total)
        if not np.isfinite(total):
            return batch - first_batch
        if args.advances:
            step_factors(plan, args, context, step + batch - first_batch)
            lr = peek(context.factors, RATE)
        epilogue = Epilogue(context.epilogue, lr, momentum, velocity)
        # backward and update
        a = before
        for l in range(n_layers - 1, -1, -1):
            n_in, n_out = plan.layers[l, N_IN], plan.layers[l, N_OUT]
            w, delta = offset(p, plan.layers[l, W_AT]), offset(a, to_delta)
            before, code = x, IDENTITY
            if l > 0:
                before, code = offset(a, -n_in * width), plan.layers[l - 1, ACTIVATION]
            for i in range(n_in):
                back, ai = zero, load(before, i * width)
                for j in range(n_out):
                    d, at = load(delta, j * width), i * n_out + j
                    back = fma(d, peek(w, at), back)
                    update_at(w, at, sum_of_lanes(d * ai, n), epilogue, peek, poke)
                if l > 0:
                    store(before, i * width + to_delta, times_inline_derivative(code, back, ai))
            for j in range(n_out):
                update_at(w, n_in * n_out + j, sum_of_lanes(load(delta, j * width), n), epilogue, peek, poke)
            a = before
        if epilogue.code == STORE:
            update_parameters(plan, args, context, args.l2)
    return last_batch - first_batch


@internal
def in_few_lanes(plan, args, data, context, order, first_batch, repeats, step, total_losses, lr, momentum, velocity):
    """Train batches of at most `FEW_LANES` samples; see `in_lanes`."""
    return in_lanes(
        plan,
        args,
        data,
        context,
        narrow(context.work),
        order,
        first_batch,
        repeats,
        step,
        total_losses,
        lr,
        momentum,
        velocity,
    )


@internal
def in_many_lanes(plan, args, data, context, order, first_batch, repeats, step, total_losses, lr, momentum, velocity):
    """Train batches of at most as many samples as a whole vector has lanes; see `in_lanes`."""
    return in_lanes(
        plan, args, data, context, context.work, order, first_batch, repeats, step, total_losses, lr, momentum, velocity
    )
