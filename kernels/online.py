"""Training on one sample at a time: neurons lie along the vectors.

Each W is read once in the forward pass, and once more for the product with delta and the update together.  The
activations of `elementwise.INLINE_ACTIVATIONS` and the squared error are computed inline; every other activation and
loss is called by its address.
"""

import numpy as np

from .backprop import activation_backward, gather_block, output_delta, sample_losses, step_factors, update_parameters
from .elementwise import inline_activation, times_inline_derivative
from .jit import inline, internal
from .layout import (
    A_AT,
    ACTIVATION,
    DELTA_AT,
    FORWARD_AT,
    N_IN,
    N_OUT,
    NESTEROV,
    RATE,
    SGD,
    STORE,
    W_AT,
    X_FLOAT32,
    X_FLOAT64,
    Z_AT,
)
from .optimizers import momentum_step
from .simd import (
    as_float,
    by_dtype,
    call,
    fma,
    hsum,
    is_single,
    lanes,
    load,
    masked_load,
    masked_store,
    offset,
    peek,
    pointer_like,
    poke,
    select_lanes,
    store,
)
from .tables import ELEMENTWISE, SQUARED_ERROR


@inline
def load_some(p, n, count):
    """Load a vector, or its first `count` lanes; store forwarding is faster for full vectors than for masked ones."""
    if count >= lanes(p):
        return load(p, n)
    return masked_load(p, n, count)


# --------------------------------------------------------------------------------------- one sample at a time


@inline
def affine_row(x, w, n_in, n_out, z):
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
        z1 = z2 = z3 = masked_load(b, 0, 0)
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


@inline
def update_full_vector(w, at, gradient, epilogue, lr, momentum, velocity):
    """Update one whole vector of parameters, with the velocity that lies `velocity` elements on.

    If the epilogue is STORE, the gradient is stored there.
    """
    if epilogue == STORE:
        store(w, at + velocity, gradient)
    elif epilogue == SGD:
        store(w, at, fma(gradient, -lr, load(w, at)))
    else:
        parameter, speed = momentum_step(
            load(w, at), load(w, at + velocity), gradient, epilogue == NESTEROV, lr, momentum
        )
        store(w, at, parameter)
        store(w, at + velocity, speed)


@inline
def update_masked_vector(w, at, count, gradient, epilogue, lr, momentum, velocity):
    """Update the first `count` lanes."""
    if epilogue == STORE:
        masked_store(w, at + velocity, gradient, count)
    elif epilogue == SGD:
        masked_store(w, at, fma(gradient, -lr, masked_load(w, at, count)), count)
    else:
        parameter, speed = momentum_step(
            masked_load(w, at, count),
            masked_load(w, at + velocity, count),
            gradient,
            epilogue == NESTEROV,
            lr,
            momentum,
        )
        masked_store(w, at, parameter, count)
        masked_store(w, at + velocity, speed, count)


@inline
def update_vector(w, n, factor, direction, epilogue, lr, momentum, velocity):
    """Update n parameters whose gradient is factor * direction."""
    width = lanes(w)
    full = n - n % width
    for j in range(0, full, width):
        update_full_vector(w, j, load(direction, j) * factor, epilogue, lr, momentum, velocity)
    if full < n:
        update_masked_vector(
            w, full, n - full, masked_load(direction, full, n - full) * factor, epilogue, lr, momentum, velocity
        )


@inline
def backward_and_update(a, w, n_in, n_out, delta, before, wants_before, epilogue, lr, momentum, velocity):
    """Before = delta @ W.T (if wanted), then W and b move by a outer delta; each vector of W is met once."""
    width = lanes(w)
    if n_out == 1:
        d = peek(delta, 0)
        if wants_before:
            for i in range(0, n_in, width):
                store(before, i, load_some(w, i, n_in - i) * d)
        update_vector(w, n_in, d, a, epilogue, lr, momentum, velocity)
    else:
        full = n_out - n_out % width
        if full < n_out:
            # The last, partly filled vectors of the rows.  A masked store reaches into the next row, and a load from
            # there would wait for it; so rows that follow each other are a vector or more apart.
            count = n_out - full
            d = masked_load(delta, full, count)
            stride = (width + n_out - 1) // n_out
            for first in range(stride):
                for i in range(first, n_in, stride):
                    at = i * n_out + full
                    if wants_before:
                        poke(before, i, hsum(masked_load(w, at, count) * d))
                    update_masked_vector(w, at, count, d * peek(a, i), epilogue, lr, momentum, velocity)
        elif wants_before:
            for i in range(0, n_in, width):
                store(before, i, masked_load(w, 0, 0))
        if full > 0:
            for i in range(n_in):
                row, ai = offset(w, i * n_out), peek(a, i)
                total = masked_load(w, 0, 0)
                for j in range(0, full, width):
                    d = load(delta, j)
                    if wants_before:
                        total = fma(load(row, j), d, total)
                    update_full_vector(row, j, d * ai, epilogue, lr, momentum, velocity)
                if wants_before:
                    poke(before, i, peek(before, i) + hsum(total))
    b = offset(w, n_in * n_out)
    for j in range(0, n_out, width):
        if n_out - j >= width:
            update_full_vector(b, j, load(delta, j), epilogue, lr, momentum, velocity)
        else:
            update_masked_vector(b, j, n_out - j, load(delta, j), epilogue, lr, momentum, velocity)


@internal
def online(plan, args, data, context, order, start, repeats, step, total_loss, lr, momentum, velocity):
    """Train samples from `start` of the order on one at a time, once (`repeats` is 1); return how many were trained.

    Their losses are added to the number at `total_loss`; the one that is not finite is not trained.  `velocity` is
    where it lies, or else the gradient, in elements after the parameters.
    """
    p, work, epilogue, stop = context.parameters, context.work, context.epilogue, args.last_batch
    n_layers = plan.layers.shape[0]
    last = plan.layers[n_layers - 1]
    n_out, n_x = last[N_OUT], plan.layers[0, N_IN]
    a_out, delta_out = offset(work, last[A_AT]), offset(work, last[DELTA_AT])
    is_squared = plan.inline_loss == SQUARED_ERROR and last[ACTIVATION] < ELEMENTWISE
    total = peek(total_loss, 0)
    x_has_dtype = data.x_kind == (X_FLOAT32 if is_single(work) else X_FLOAT64)
    for s in range(start, stop):
        x = offset(work, plan.x_at)
        if x_has_dtype and is_squared and data.x_scale == 1:
            x = pointer_like(data.x_address + order[s] * n_x * by_dtype(work, 4, 8), work)
        else:
            gather_block(plan, data, context, order, s, False, True, 1, 0.0, 0.0, 0.0, 0, 0)
        a = x
        for l in range(n_layers):
            layer = plan.layers[l]
            n, z, code = layer[N_OUT], offset(work, layer[Z_AT]), layer[ACTIVATION]
            w = offset(p, layer[W_AT])
            if n == 1:
                poke(z, 0, dot(a, w, layer[N_IN]) + peek(w, layer[N_IN]))
            else:
                affine_row(a, w, layer[N_IN], n, z)
            a = offset(work, layer[A_AT])
            if code < ELEMENTWISE:
                for j in range(0, n, lanes(z)):
                    store(a, j, inline_activation(code, load(z, j)))
            else:
                call(layer[FORWARD_AT], z, a, n, n, offset(work, plan.lse_at), 1)
        if is_squared:
            y = pointer_like(data.y_address + order[s] * n_out * by_dtype(work, 4, 8), work)
            loss = masked_load(work, 0, 0)
            for j in range(0, n_out, lanes(work)):
                out = load(a_out, j)
                error = out - load_some(y, j, n_out - j)
                store(delta_out, j, times_inline_derivative(last[ACTIVATION], error, out))
                loss = fma(error, select_lanes(error, n_out - j, 0.0), loss)
            total += np.float64(hsum(loss)) * 0.5
        else:
            sample_losses(plan, work, data.y_kind, 0, 1)
            output_delta(plan, work, data.y_kind, as_float(1, work), 0, 1)
            total += np.float64(peek(work, plan.losses_at))
        if not np.isfinite(total):
            poke(total_loss, 0, total)
            return s - start
        if args.advances:
            step_factors(plan, args, context, step + s - start)
            lr = peek(context.factors, RATE)
        for l in range(n_layers - 1, -1, -1):
            layer = plan.layers[l]
            delta, before, a = offset(work, layer[DELTA_AT]), delta_out, x
            if l > 0:
                a, before = offset(work, plan.layers[l - 1, A_AT]), offset(work, plan.layers[l - 1, DELTA_AT])
            backward_and_update(
                a,
                offset(p, layer[W_AT]),
                layer[N_IN],
                layer[N_OUT],
                delta,
                before,
                l > 0,
                epilogue,
                lr,
                momentum,
                velocity,
            )
            if l > 0:
                code, n = plan.layers[l - 1, ACTIVATION], layer[N_IN]
                if code < ELEMENTWISE:
                    for j in range(0, n, lanes(before)):
                        store(before, j, times_inline_derivative(code, load(before, j), load(a, j)))
                else:
                    activation_backward(
                        plan, plan.layers[l - 1], offset(work, plan.layers[l - 1, Z_AT]), a, before, n, 1
                    )
        if epilogue == STORE:
            update_parameters(plan, args, context)
    poke(total_loss, 0, total)
    return stop - start


# ------------------------------------------------------------------------------------------- samples in lanes
