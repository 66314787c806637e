"""Training on one sample at a time: neurons lie along the vectors.

Each W is read once in the forward pass, and once more for the product with delta and the update together.  The
activations of `elementwise.INLINE_ACTIVATIONS` and the squared error are computed inline; every other activation and
loss is called by its address.
"""

from typing import NamedTuple

import numpy as np

from .backprop import activation_backward, apply_sample_weights, drop, gather_block, output_delta, sample_losses
from .elementwise import inline_activation, times_inline_derivative
from .jit import inline, internal
from .layout import (
    A_AT,
    ACTIVATION,
    AFFINE_ROW,
    DELTA_AT,
    DROP_AT,
    FEW_LANES,
    FORWARD_AT,
    N_IN,
    N_OUT,
    NESTEROV,
    PROPAGATE_ROW,
    RATE,
    SGD,
    SKIPPED,
    STORE,
    THRESHOLD,
    UPDATE_ROWS,
    W_AT,
    X_FLOAT32,
    X_FLOAT64,
    Z_AT,
)
from .native import native
from .optimizers import momentum_step
from .simd import (
    as_float,
    by_dtype,
    call,
    fma,
    half,
    hsum,
    hsum_rows,
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
    widened,
)
from .tables import ELEMENTWISE, SQUARED_ERROR
from .updates import apply_max_norm, step_factors, update_parameters

BLOCK_SIZE = 2048  # elements of W that are propagated through, then updated out of the L1 cache


@inline
def load_some(p, n, count):
    """Load a vector, or its first `count` lanes; store forwarding is faster for full vectors than for masked ones."""
    if count >= lanes(p):
        return load(p, n)
    return masked_load(p, n, count)


# ------------------------------------------------------------------------------------------------------- forward


@inline
def affine_tail(x, w, n_in, n_out, j):
    """Return x @ W + b for the columns of one vector from j on, or the last columns.

    The sum over inputs runs in four chains: a fused multiply-add is ready only four cycles after it starts.
    """
    count = n_out - j
    z0 = load_some(w, n_in * n_out + j, count)
    z1 = z2 = z3 = masked_load(w, 0, 0)
    i, at = 0, j
    while i + 4 <= n_in:
        z0 = fma(load_some(w, at, count), peek(x, i), z0)
        z1 = fma(load_some(w, at + n_out, count), peek(x, i + 1), z1)
        z2 = fma(load_some(w, at + 2 * n_out, count), peek(x, i + 2), z2)
        z3 = fma(load_some(w, at + 3 * n_out, count), peek(x, i + 3), z3)
        i, at = i + 4, at + 4 * n_out
    while i < n_in:
        z0 = fma(load_some(w, at, count), peek(x, i), z0)
        i, at = i + 1, at + n_out
    return widened((z0 + z1) + (z2 + z3))


@native("ppiip")
@internal
def affine_row(x, w, n_in, n_out, z):
    """Write z = x @ W + b for one sample, b following W; z has room for whole vectors.

    Four vectors of outputs are four chains of sums; single vectors are summed as in `affine_tail`.
    """
    width = lanes(x)
    b = offset(w, n_in * n_out)
    j = 0
    while j + 4 * width <= n_out:
        z0, z1, z2, z3 = load(b, j), load(b, j + width), load(b, j + 2 * width), load(b, j + 3 * width)
        for i in range(n_in):
            at, xi = i * n_out + j, peek(x, i)
            z0 = fma(load(w, at), xi, z0)
            z1 = fma(load(w, at + width), xi, z1)
            z2 = fma(load(w, at + 2 * width), xi, z2)
            z3 = fma(load(w, at + 3 * width), xi, z3)
        store(z, j, z0)
        store(z, j + width, z1)
        store(z, j + 2 * width, z2)
        store(z, j + 3 * width, z3)
        j += 4 * width
    while j < n_out:
        if n_out - j > lanes(half(w)):
            store(z, j, affine_tail(x, w, n_in, n_out, j))
        elif n_out - j > FEW_LANES:
            store(z, j, affine_tail(x, half(w), n_in, n_out, j))
        else:
            store(z, j, affine_tail(x, narrow(w), n_in, n_out, j))
        j += width


@inline
def dot(x, w, n):
    """Return the sum of x * w over n elements, in two chains of vectors."""
    width = lanes(x)
    s0 = s1 = masked_load(x, 0, 0)
    i = 0
    while i + 2 * width <= n:
        s0 = fma(load(x, i), load(w, i), s0)
        s1 = fma(load(x, i + width), load(w, i + width), s1)
        i += 2 * width
    while i < n:
        s0 = fma(load_some(x, i, n - i), load_some(w, i, n - i), s0)
        i += width
    return hsum(s0 + s1)


# ---------------------------------------------------------------------------------------- backward, and the update


@inline
def propagate_tail(w, n_in, n_out, at, delta, before):
    """Before += delta @ W.T for the last columns, from `at` on: fewer than a whole vector."""
    count, out = n_out - at, narrow(before)
    d = masked_load(delta, at, count)
    second = third = fourth = n_out
    for i in range(0, n_in, 4):
        if n_in - i < 4:  # the last row stands for those that there are not
            fourth, third, second = 0, n_out * (n_in - i > 2), n_out * (n_in - i > 1)
        first = load_some(w, at, count) * d
        at += second
        other = load_some(w, at, count) * d
        at += third
        one_more = load_some(w, at, count) * d
        at += fourth
        last = load_some(w, at, count) * d
        at += n_out
        store(out, i, hsum_rows(first, other, one_more, last) + load(out, i))


@native("piipp")
@internal
def propagate_row(w, n_in, n_out, delta, before):
    """Before = delta @ W.T, four rows of W at a time; `before` has room for whole vectors."""
    width, out = lanes(w), narrow(before)
    full = n_out - n_out % width
    second = third = fourth = n_out
    at = 0
    for i in range(0, n_in, 4):
        if n_in - i < 4:
            fourth, third, second = 0, n_out * (n_in - i > 2), n_out * (n_in - i > 1)
        s0 = s1 = s2 = s3 = masked_load(w, 0, 0)
        one, two, three, four = at, at + second, at + second + third, at + second + third + fourth
        for j in range(0, full, width):
            d = load(delta, j)
            s0 = fma(load(w, one + j), d, s0)
            s1 = fma(load(w, two + j), d, s1)
            s2 = fma(load(w, three + j), d, s2)
            s3 = fma(load(w, four + j), d, s3)
        at = four + n_out
        store(out, i, hsum_rows(s0, s1, s2, s3) + 0.0)
    count = n_out - full
    if count > lanes(half(w)):
        propagate_tail(w, n_in, n_out, full, delta, before)
    elif count > FEW_LANES:
        propagate_tail(half(w), n_in, n_out, full, half(delta), before)
    elif count > 0:
        propagate_tail(narrow(w), n_in, n_out, full, narrow(delta), before)


class Epilogue(NamedTuple):
    """What is done with a gradient: a code of `microkernel`, the rule's numbers, and where the velocity lies.

    If the code is STORE, the gradient is stored `velocity` elements after the parameters.
    """

    code: int
    lr: float
    momentum: float
    velocity: int


@inline
def stepped(w, at, gradient, epilogue, loader):
    """Return what the update writes: parameters or numbers, and what lies `epilogue.velocity` elements on."""
    if epilogue.code == STORE:
        return gradient, gradient
    if epilogue.code == SGD:
        return fma(gradient, -epilogue.lr, loader(w, at)), gradient
    return momentum_step(
        loader(w, at),
        loader(w, at + epilogue.velocity),
        gradient,
        epilogue.code == NESTEROV,
        epilogue.lr,
        epilogue.momentum,
    )


@inline
def write(w, at, values, epilogue, storer):
    """Write what `stepped` returns."""
    if epilogue.code != STORE:
        storer(w, at, values[0])
    if epilogue.code != SGD:
        storer(w, at + epilogue.velocity, values[1])


@inline
def update_at(w, at, gradient, epilogue, loader, storer):
    """Update the vector or number at an element; if the epilogue is STORE, the gradient is stored at the velocity."""
    write(w, at, stepped(w, at, gradient, epilogue, loader), epilogue, storer)


@inline
def update_piece(w, rows, n, at, factors, direction, has_b, epilogue, loader, storer):
    """Update the vector, or number, `at` elements after the start of each row; see `update_pieces`."""
    d = loader(direction, at)
    for r in range(rows):
        update_at(w, at, d * peek(factors, r), epilogue, loader, storer)
        at += n
    if has_b:
        update_at(w, at, d, epilogue, loader, storer)


@inline
def update_overlapping(w, rows, n, at, factors, direction, has_b, epilogue):
    """Update the elements of each row from `at` on, by that vector and the one at the end, which overlap.

    Both are computed before either is written.  A masked store is slow on processors without masks.
    """
    last = n - lanes(w)
    d, e = load(direction, at), load(direction, last)
    last -= at
    for r in range(rows + has_b):
        factor = as_float(1, direction) if r == rows else peek(factors, r)
        one = stepped(w, at, d * factor, epilogue, load)
        two = stepped(w, at + last, e * factor, epilogue, load)
        write(w, at, one, epilogue, store)
        write(w, at + last, two, epilogue, store)
        at += n


@inline
def update_pieces(w, rows, n, factors, direction, has_b, epilogue):
    """Update rows of n parameters whose gradients are factors[r] * direction; that of one more, b, is `direction`."""
    width, count = lanes(w), n % lanes(w)
    full = n - count
    if n > width and count != 0 and count != lanes(half(w)) and count != FEW_LANES:
        full -= width
    for j in range(0, full, width):
        update_piece(w, rows, n, j, factors, direction, has_b, epilogue, load, store)
    if count == 0:
        return
    if count == lanes(half(w)):
        update_piece(half(w), rows, n, full, factors, half(direction), has_b, epilogue, load, store)
    elif count == FEW_LANES:
        update_piece(narrow(w), rows, n, full, factors, narrow(direction), has_b, epilogue, load, store)
    elif n > width:
        update_overlapping(w, rows, n, full, factors, direction, has_b, epilogue)
    elif n > lanes(half(w)):
        update_overlapping(half(w), rows, n, 0, factors, half(direction), has_b, epilogue)
    elif n > FEW_LANES:
        update_overlapping(narrow(w), rows, n, 0, factors, narrow(direction), has_b, epilogue)
    else:
        for j in range(n):
            update_piece(w, rows, n, j, factors, direction, has_b, epilogue, peek, poke)


@native("piippiiffi")
@internal
def update_rows(w, rows, n, factors, direction, has_b, code, lr, momentum, velocity):
    """Update by an `Epilogue`; see `update_pieces`."""
    if code == SGD:
        update_pieces(w, rows, n, factors, direction, has_b, Epilogue(SGD, lr, momentum, velocity))
    elif code == STORE:
        update_pieces(w, rows, n, factors, direction, has_b, Epilogue(STORE, lr, momentum, velocity))
    else:
        update_pieces(w, rows, n, factors, direction, has_b, Epilogue(code, lr, momentum, velocity))


@inline
def update_whole_vectors(w, at, n, a, d, epilogue):
    """Update as many whole vectors from `at` on as end within n; return where the next one starts."""
    while at + lanes(w) <= n:
        update_at(w, at, load(a, at) * d, epilogue, load, store)
        at += lanes(w)
    return at


@inline
def update_column(w, n, a, d, epilogue):
    """Update n weights and the b that follows, whose gradients are a * d and d."""
    at = update_whole_vectors(w, 0, n, a, d, epilogue)
    at = update_whole_vectors(half(w), at, n, half(a), d, epilogue)
    at = update_whole_vectors(narrow(w), at, n, narrow(a), d, epilogue)
    while at < n:
        update_at(w, at, peek(a, at) * d, epilogue, peek, poke)
        at += 1
    update_at(w, n, d, epilogue, peek, poke)


@inline
def update_layer(plan, a, w, n_in, n_out, delta, before, wants_before, code, lr, momentum, velocity):
    """Before = delta @ W.T (if wanted), then W and b move by a outer delta."""
    if n_out == 1:
        d = peek(delta, 0)
        if wants_before:
            for i in range(0, n_in, lanes(w)):
                store(before, i, load_some(w, i, n_in - i) * d)
        update_column(w, n_in, a, d, Epilogue(code, lr, momentum, velocity))
    else:
        block = max(4, BLOCK_SIZE // n_out // 4 * 4)
        for first in range(0, n_in, block):
            rows = min(block, n_in - first)
            some, factors, has_b = offset(w, first * n_out), offset(a, first), first + rows == n_in
            if wants_before:
                call(plan.functions[PROPAGATE_ROW], some, rows, n_out, delta, offset(before, first))
            call(
                plan.functions[UPDATE_ROWS],
                some,
                rows,
                n_out,
                factors,
                delta,
                has_b,
                code,
                lr,
                momentum,
                velocity,
            )


@inline
def to_input_of_activation(plan, context, l, step):
    """Turn what was propagated to the outputs of layer l into its delta, through dropout and the activation."""
    layer, work = plan.layers[l], context.work
    a, delta, n, activation = offset(work, layer[A_AT]), offset(work, layer[DELTA_AT]), layer[N_OUT], layer[ACTIVATION]
    if layer[THRESHOLD] > 0:
        drop(plan, context, l, step, 0, delta, delta, 1, 0, 0, n)
    if activation < ELEMENTWISE:
        for j in range(0, n, lanes(delta)):
            store(delta, j, times_inline_derivative(activation, load(delta, j), load(a, j)))
    else:
        activation_backward(plan, layer, offset(work, layer[Z_AT]), a, delta, n, 1)


@internal
def online(plan, args, data, context, order, start, repeats, step, total_loss, lr, momentum, velocity):
    """Train samples from `start` of the order on one at a time, once (`repeats` is 1); return how many were trained.

    Their losses are added to the number at `total_loss`; the one that is not finite is not trained, but counted if
    `args.skips`.  `velocity` is where it lies, or else the gradient, in elements after the parameters.
    """
    p, work, code, stop = context.parameters, context.work, context.epilogue, args.last_batch
    n_layers = plan.layers.shape[0]
    last = plan.layers[n_layers - 1]
    n_out, n_x = last[N_OUT], plan.layers[0, N_IN]
    a_out, delta_out = offset(work, last[A_AT]), offset(work, last[DELTA_AT])
    is_squared = plan.inline_loss == SQUARED_ERROR and last[ACTIVATION] < ELEMENTWISE
    total = peek(total_loss, 0)
    x_has_dtype = data.x_kind == (X_FLOAT32 if is_single(work) else X_FLOAT64)
    is_in_place = x_has_dtype and is_squared and data.x_scale == 1 and args.input_noise == 0
    for s in range(start, stop):
        x, y_kind, now = offset(work, plan.x_at), data.y_kind, step + s - start
        if is_in_place:
            x = pointer_like(data.x_address + order[s] * n_x * by_dtype(work, 4, 8), work)
        else:
            y_kind = gather_block(
                plan,
                data,
                context,
                order,
                s,
                False,
                True,
                1,
                args.label_smoothing,
                args.smoothing_share,
                args.input_noise,
                now,
                0,
            )
        a = x
        for l in range(n_layers):
            layer = plan.layers[l]
            n, z, activation = layer[N_OUT], offset(work, layer[Z_AT]), layer[ACTIVATION]
            w = offset(p, layer[W_AT])
            if n == 1:
                poke(z, 0, dot(a, w, layer[N_IN]) + peek(w, layer[N_IN]))
            else:
                call(plan.functions[AFFINE_ROW], a, w, layer[N_IN], n, z)
            a = offset(work, layer[A_AT])
            if activation < ELEMENTWISE:
                for j in range(0, n, lanes(z)):
                    store(a, j, inline_activation(activation, load(z, j)))
            else:
                call(layer[FORWARD_AT], z, a, n, n, offset(work, plan.lse_at), 1)
            if layer[THRESHOLD] > 0:
                kept = offset(work, layer[DROP_AT])
                drop(plan, context, l, now, 0, a, kept, 1, 0, 0, n)
                a = kept
        if is_squared:
            y = pointer_like(data.y_address + order[s] * n_out * by_dtype(work, 4, 8), work)
            loss = masked_load(work, 0, 0)
            for j in range(0, n_out, lanes(work)):
                out = load(a_out, j)
                error = out - load_some(y, j, n_out - j)
                store(delta_out, j, times_inline_derivative(last[ACTIVATION], error, out))
                loss = fma(error, select_lanes(error, n_out - j, 0.0), loss)
            poke(work, plan.losses_at, hsum(loss) * as_float(0.5, work))
        else:
            sample_losses(plan, work, y_kind, 0, 1)
            output_delta(plan, work, y_kind, as_float(1, work), 0, 1)
        if data.weights != 0:
            apply_sample_weights(plan, data, context, order, s, False, 0, 1)
        before, total = total, total + np.float64(peek(work, plan.losses_at))
        if not np.isfinite(total):
            if not args.skips:
                poke(total_loss, 0, total)
                return s - start
            total = before
            poke(context.sync, SKIPPED, peek(context.sync, SKIPPED) + 1)
            continue
        if args.advances:
            step_factors(plan, args, context, now)
            lr = peek(context.factors, RATE)
        for l in range(n_layers - 1, -1, -1):
            layer = plan.layers[l]
            w, n_in, n, delta = offset(p, layer[W_AT]), layer[N_IN], layer[N_OUT], offset(work, layer[DELTA_AT])
            a, propagated = x, delta_out
            if l > 0:
                a, propagated = offset(work, plan.layers[l - 1, DROP_AT]), offset(work, plan.layers[l - 1, DELTA_AT])
            update_layer(plan, a, w, n_in, n, delta, propagated, l > 0, code, lr, momentum, velocity)
            if l > 0:
                to_input_of_activation(plan, context, l - 1, now)
        if code == STORE:
            update_parameters(plan, args, context, args.l2)
        if args.max_norm > 0:
            apply_max_norm(plan, args, context)
    poke(total_loss, 0, total)
    return stop - start
