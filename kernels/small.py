"""Two more engines for steps too small for register tiles: one sample at a time, and samples in lanes.

`online`: neurons lie along the vectors.  Each W is read once in the forward pass, and once more for the product with
delta and the update together.  `in_lanes`: the few samples of a batch lie along one vector, every weight is one
number; for networks so narrow that a vector of neurons would be mostly empty.

Both compute the activations below QUICK in line.  `online` takes every other activation and loss through the leaves of
`block`; `in_lanes` is for networks without others, with squared error or fused binary cross-entropy (`plan.make_plan`).
"""

import numpy as np

from .block import advance, bring, derive, measure, output_delta, update_all
from .elementwise import (
    IDENTITY,
    RELU,
    SIGMOID,
    TANH,
    _relu,
    _relu_derivative,
    _sigmoid,
    _sigmoid_derivative,
    _tanh,
    _tanh_derivative,
)
from .jit import inner, part
from .losses import (
    FUSED_SIGMOID,
    NOT_FUSED,
    SQUARED_ERROR,
    _binary_cross_entropy_logits,
    _squared_error,
)
from .plan import A_AT, ACTIVATE_AT, ACTIVATION, DELTA_AT, N_IN, N_OUT, QUICK, ROW, W_AT, X_FLOAT32, X_FLOAT64, Z_AT
from .simd import (
    NESTEROV,
    SGD,
    STORE,
    as_float,
    by_dtype,
    call,
    first_lanes,
    fma,
    is_single,
    lanes,
    load,
    load_part,
    narrow,
    offset,
    peek,
    pointer_like,
    poke,
    store,
    store_part,
    sum_of,
    sum_of_four,
)
from .update import RATE


@inner
def quick_activation(code, z):
    """f(z) for the activations below QUICK."""
    if code == SIGMOID:
        return _sigmoid(z)
    if code == TANH:
        return _tanh(z)
    if code == RELU:
        return _relu(z)
    return z


@inner
def times_quick_derivative(code, delta, a):
    """Delta * f'(z) for the activations below QUICK, from a = f(z)."""
    if code == SIGMOID:
        return delta * _sigmoid_derivative(a, a)
    if code == TANH:
        return delta * _tanh_derivative(a, a)
    if code == RELU:
        return delta * _relu_derivative(a, a)
    return delta


@inner
def load_some(p, n, count):
    """Load a vector, or its first `count` lanes where there are not as many; whole ones are quicker to forward."""
    if count >= lanes(p):
        return load(p, n)
    return load_part(p, n, count)


# --------------------------------------------------------------------------------------- one sample at a time


@inner
def combine_rows(x, w, n_in, n_out, z):
    """Write z = x @ W + b for one sample, b following W; z has room for whole vectors.

    The sum over inputs runs in four chains, or in one of each of four vectors of outputs: a fused multiply-add is
    ready only four cycles after it starts.
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
        count = n_out - j
        z0 = load_some(b, j, count)
        z1 = z2 = z3 = load_part(b, 0, 0)
        i = 0
        while i + 4 <= n_in:
            at = i * n_out + j
            z0 = fma(load_some(w, at, count), peek(x, i), z0)
            z1 = fma(load_some(w, at + n_out, count), peek(x, i + 1), z1)
            z2 = fma(load_some(w, at + 2 * n_out, count), peek(x, i + 2), z2)
            z3 = fma(load_some(w, at + 3 * n_out, count), peek(x, i + 3), z3)
            i += 4
        while i < n_in:
            z0 = fma(load_some(w, i * n_out + j, count), peek(x, i), z0)
            i += 1
        store(z, j, (z0 + z1) + (z2 + z3))
        j += width


@inner
def dot(x, w, n):
    """Return the sum of x * w over n elements, in two chains of vectors."""
    width = lanes(x)
    s0 = s1 = load_part(x, 0, 0)
    i = 0
    while i + 2 * width <= n:
        s0 = fma(load(x, i), load(w, i), s0)
        s1 = fma(load(x, i + width), load(w, i + width), s1)
        i += 2 * width
    while i < n:
        s0 = fma(load_some(x, i, n - i), load_some(w, i, n - i), s0)
        i += width
    return sum_of(s0 + s1)


@inner
def moved(parameter, speed, gradient, finish, lr, momentum):
    """(parameter, velocity) after one update with momentum, as the register tile finishes (`simd.tile`)."""
    speed = fma(speed, momentum, gradient)
    step = speed
    if finish == NESTEROV:
        step = fma(speed, momentum, gradient)
    return fma(step, -lr, parameter), speed


@inner
def update_whole(w, at, gradient, finish, lr, momentum, velocity):
    """Update one whole vector of parameters, with the velocity that lies `velocity` elements on.

    If the finish is STORE, the gradient is put there.
    """
    if finish == STORE:
        store(w, at + velocity, gradient)
    elif finish == SGD:
        store(w, at, fma(gradient, -lr, load(w, at)))
    else:
        parameter, speed = moved(load(w, at), load(w, at + velocity), gradient, finish, lr, momentum)
        store(w, at, parameter)
        store(w, at + velocity, speed)


@inner
def update_part(w, at, count, gradient, finish, lr, momentum, velocity):
    """Update the first `count` lanes."""
    if finish == STORE:
        store_part(w, at + velocity, gradient, count)
    elif finish == SGD:
        store_part(w, at, fma(gradient, -lr, load_part(w, at, count)), count)
    else:
        parameter, speed = moved(
            load_part(w, at, count), load_part(w, at + velocity, count), gradient, finish, lr, momentum
        )
        store_part(w, at, parameter, count)
        store_part(w, at + velocity, speed, count)


@inner
def update_vector(w, n, factor, direction, finish, lr, momentum, velocity):
    """Update n parameters whose gradient is factor * direction."""
    width = lanes(w)
    full = n - n % width
    for j in range(0, full, width):
        update_whole(w, j, load(direction, j) * factor, finish, lr, momentum, velocity)
    if full < n:
        update_part(w, full, n - full, load_part(direction, full, n - full) * factor, finish, lr, momentum, velocity)


@inner
def back_and_update(a, w, n_in, n_out, delta, before, wants_before, finish, lr, momentum, velocity):
    """Before = delta @ W.T (if wanted), then W and b move by a outer delta; each vector of W is met once."""
    width = lanes(w)
    if n_out == 1:
        d = peek(delta, 0)
        if wants_before:
            for i in range(0, n_in, width):
                store(before, i, load_some(w, i, n_in - i) * d)
        update_vector(w, n_in, d, a, finish, lr, momentum, velocity)
    else:
        full = n_out - n_out % width
        if full < n_out:
            # The last, partly filled vectors of the rows.  A masked store reaches into the next row, and a load from
            # there would wait for it; so rows that follow each other are a vector or more apart.
            count = n_out - full
            d = load_part(delta, full, count)
            stride = (width + n_out - 1) // n_out
            for first in range(stride):
                for i in range(first, n_in, stride):
                    at = i * n_out + full
                    if wants_before:
                        poke(before, i, sum_of(load_part(w, at, count) * d))
                    update_part(w, at, count, d * peek(a, i), finish, lr, momentum, velocity)
        elif wants_before:
            for i in range(0, n_in, width):
                store(before, i, load_part(w, 0, 0))
        if full > 0:
            for i in range(n_in):
                row, ai = offset(w, i * n_out), peek(a, i)
                total = load_part(w, 0, 0)
                for j in range(0, full, width):
                    d = load(delta, j)
                    if wants_before:
                        total = fma(load(row, j), d, total)
                    update_whole(row, j, d * ai, finish, lr, momentum, velocity)
                if wants_before:
                    poke(before, i, peek(before, i) + sum_of(total))
    b = offset(w, n_in * n_out)
    for j in range(0, n_out, width):
        if n_out - j >= width:
            update_whole(b, j, load(delta, j), finish, lr, momentum, velocity)
        else:
            update_part(b, j, n_out - j, load(delta, j), finish, lr, momentum, velocity)


@part
def online(plan, steps, data, tools, order, start, repeats, step, total_loss, lr, momentum, velocity):
    """Train samples from `start` of the order on one at a time, once (`repeats` is 1); return how many were trained.

    Their losses are added to the number at `total_loss`; the one that is not finite is not trained.  `velocity` is
    where it lies, or else the gradient, in elements after the parameters.
    """
    p, work, finish, stop = tools.parameters, tools.work, tools.finish, steps.last_batch
    n_layers = plan.layers.shape[0]
    last = plan.layers[n_layers - 1]
    n_out, n_x = last[N_OUT], plan.layers[0, N_IN]
    a_out, delta_out = offset(work, last[A_AT]), offset(work, last[DELTA_AT])
    is_squared = plan.fused == NOT_FUSED and plan.loss == SQUARED_ERROR and last[ACTIVATION] < QUICK
    total = peek(total_loss, 0)
    x_is_own = data.x_kind == (X_FLOAT32 if is_single(work) else X_FLOAT64)
    for s in range(start, stop):
        x = offset(work, plan.x_at)
        if x_is_own and is_squared and data.x_scale == 1:
            x = pointer_like(data.x_address + order[s] * n_x * by_dtype(work, 4, 8), work)
        else:
            bring(plan, data, tools, order, s, False, True, 1, 0.0, 0.0, 0.0, 0, 0)
        a = x
        for l in range(n_layers):
            layer = plan.layers[l]
            n, z, code = layer[N_OUT], offset(work, layer[Z_AT]), layer[ACTIVATION]
            w = offset(p, layer[W_AT])
            if n == 1:
                poke(z, 0, dot(a, w, layer[N_IN]) + peek(w, layer[N_IN]))
            else:
                combine_rows(a, w, layer[N_IN], n, z)
            a = offset(work, layer[A_AT])
            if code < QUICK:
                for j in range(0, n, lanes(z)):
                    store(a, j, quick_activation(code, load(z, j)))
            else:
                call(layer[ACTIVATE_AT], code, z, a, n, n, offset(work, plan.lse_at), 1)
        if is_squared:
            y = pointer_like(data.y_address + order[s] * n_out * by_dtype(work, 4, 8), work)
            loss = load_part(work, 0, 0)
            for j in range(0, n_out, lanes(work)):
                out = load(a_out, j)
                error = out - load_some(y, j, n_out - j)
                store(delta_out, j, times_quick_derivative(last[ACTIVATION], error, out))
                loss = fma(error, first_lanes(error, n_out - j, 0.0), loss)
            total += np.float64(sum_of(loss)) * 0.5
        else:
            measure(plan, work, data.y_kind, 0, 1)
            output_delta(plan, work, data.y_kind, as_float(1, work), 0, 1)
            total += np.float64(peek(work, plan.losses_at))
        if not np.isfinite(total):
            poke(total_loss, 0, total)
            return s - start
        if steps.advances:
            advance(plan, steps, tools, step + s - start)
            lr = peek(tools.factors, RATE)
        for l in range(n_layers - 1, -1, -1):
            layer = plan.layers[l]
            delta, before, a = offset(work, layer[DELTA_AT]), delta_out, x
            if l > 0:
                a, before = offset(work, plan.layers[l - 1, A_AT]), offset(work, plan.layers[l - 1, DELTA_AT])
            back_and_update(
                a,
                offset(p, layer[W_AT]),
                layer[N_IN],
                layer[N_OUT],
                delta,
                before,
                l > 0,
                finish,
                lr,
                momentum,
                velocity,
            )
            if l > 0:
                code, n = plan.layers[l - 1, ACTIVATION], layer[N_IN]
                if code < QUICK:
                    for j in range(0, n, lanes(before)):
                        store(before, j, times_quick_derivative(code, load(before, j), load(a, j)))
                else:
                    derive(plan, plan.layers[l - 1], offset(work, plan.layers[l - 1, Z_AT]), a, before, n, 1)
        if finish == STORE:
            update_all(plan, steps, tools)
    poke(total_loss, 0, total)
    return stop - start


# ------------------------------------------------------------------------------------------- samples in lanes


@inner
def sum_of_lanes(v, n):
    """Return the sum of the first n lanes, the others being zero; in the order of `sum_of`."""
    if n <= 4:
        return sum_of_four(v)
    return sum_of(v)


@inner
def update_number(w, at, gradient, finish, lr, momentum, velocity):
    """Update one parameter."""
    if finish == STORE:
        poke(w, at + velocity, gradient)
    elif finish == SGD:
        poke(w, at, fma(gradient, -lr, peek(w, at)))
    else:
        parameter, speed = moved(peek(w, at), peek(w, at + velocity), gradient, finish, lr, momentum)
        poke(w, at, parameter)
        poke(w, at + velocity, speed)


@inner
def transpose_samples(block, row, columns, n, out):
    """out[i * lanes + r] = block[r * row + i] for n samples; zero in the lanes beyond."""
    width = lanes(out)
    for i in range(columns):
        store(out, i * width, load_part(out, 0, 0))
        for r in range(n):
            poke(out, i * width + r, peek(block, r * row + i))


@part
def in_lanes(plan, steps, data, tools, work, order, first_batch, repeats, step, total_losses, lr, momentum, velocity):
    """Train batches first_batch .. steps.last_batch - 1, a batch in one vector; return how many were trained.

    Their losses are added to the number at `total_losses`; the batch whose loss is not finite is not trained.  One
    batch that is all of the data may be trained `repeats` times, its losses added to as many numbers.  `work` is the
    workspace by vectors with lanes enough, `velocity` as in `online`.
    """
    p, block, finish = tools.parameters, tools.work, tools.finish
    n_layers, width = plan.layers.shape[0], lanes(work)
    n_x, n_y = plan.layers[0, N_IN], plan.layers[n_layers - 1, N_OUT]
    x = offset(work, plan.lanes_at)
    y = offset(x, n_x * width)
    activations = offset(y, n_y * width)  # layer after layer, as many deltas behind
    to_delta = plan.n_neurons * width
    zero = load_part(work, 0, 0)
    last_batch = max(steps.last_batch, first_batch + repeats)
    for batch in range(first_batch, last_batch):
        start = batch * steps.batch_size
        total_at = 0
        if repeats > 1:
            start, total_at = 0, batch
        n = min(steps.batch_size, data.n - start)
        if repeats == 1 or batch == 0:
            bring(plan, data, tools, order, start, False, True, n, 0.0, 0.0, 0.0, 0, 0)
            transpose_samples(offset(block, plan.x_at), plan.x_row, n_x, n, x)
            transpose_samples(offset(block, plan.y_at), plan.layers[n_layers - 1, ROW], n_y, n, y)
        here = first_lanes(zero + 1.0, n, 0.0)
        scale = here
        if steps.is_mean:
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
                store(a, j * width, quick_activation(code, z))
            before, a = a, offset(a, n_out * width)
        # the loss, and delta of the output layer
        loss, code = zero, plan.layers[n_layers - 1, ACTIVATION]
        for j in range(n_y):
            out, target = load(before, j * width), load(y, j * width)
            delta = (out - target) * scale
            if plan.fused == FUSED_SIGMOID:
                loss = loss + _binary_cross_entropy_logits(load(before, j * width + to_delta), target)
            else:
                loss = loss + _squared_error(out, target)
                delta = times_quick_derivative(code, delta, out)
            store(before, j * width + to_delta, delta)
        total = peek(total_losses, total_at) + np.float64(sum_of_lanes(loss * here, n))
        poke(total_losses, total_at, total)
        if not np.isfinite(total):
            return batch - first_batch
        if steps.advances:
            advance(plan, steps, tools, step + batch - first_batch)
            lr = peek(tools.factors, RATE)
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
                    update_number(w, at, sum_of_lanes(d * ai, n), finish, lr, momentum, velocity)
                if l > 0:
                    store(before, i * width + to_delta, times_quick_derivative(code, back, ai))
            for j in range(n_out):
                update_number(
                    w, n_in * n_out + j, sum_of_lanes(load(delta, j * width), n), finish, lr, momentum, velocity
                )
            a = before
        if finish == STORE:
            update_all(plan, steps, tools)
    return last_batch - first_batch


@part
def in_few_lanes(plan, steps, data, tools, order, first_batch, repeats, step, total_losses, lr, momentum, velocity):
    """Train batches of at most `FEW_LANES` samples; see `in_lanes`."""
    return in_lanes(
        plan,
        steps,
        data,
        tools,
        narrow(tools.work),
        order,
        first_batch,
        repeats,
        step,
        total_losses,
        lr,
        momentum,
        velocity,
    )


@part
def in_many_lanes(plan, steps, data, tools, order, first_batch, repeats, step, total_losses, lr, momentum, velocity):
    """Train batches of at most as many samples as a whole vector has lanes; see `in_lanes`."""
    return in_lanes(
        plan, steps, data, tools, tools.work, order, first_batch, repeats, step, total_losses, lr, momentum, velocity
    )
