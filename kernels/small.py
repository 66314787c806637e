"""Two more engines for steps too small for register tiles: one sample at a time, and samples in lanes.

`online`: neurons lie along the vectors.  Each W is read once in the forward pass, and once more for the product with
delta and the update together.  `in_lanes`: the few samples of a batch lie along one vector, every weight is one
number; for networks so narrow that a vector of neurons would be mostly empty.

Both know the activations in QUICK and any loss; anything else goes through the leaves of `training`.
"""

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
from .jit import inner
from .simd import NESTEROV, SGD, fma, lanes, load, load_part, offset, peek, poke, store, store_part, sum_of

QUICK = (IDENTITY, SIGMOID, TANH, RELU)
MOST_LANE_PARAMETERS = 64      # above, tiles are as fast


@inner
def quick_activation(code, z):
    """f(z) for the activations in QUICK."""
    if code == SIGMOID:
        return _sigmoid(z)
    if code == TANH:
        return _tanh(z)
    if code == RELU:
        return _relu(z)
    return z


@inner
def times_quick_derivative(code, delta, a):
    """Delta * f'(z) for the activations in QUICK, from a = f(z)."""
    if code == SIGMOID:
        return delta * _sigmoid_derivative(a, a)
    if code == TANH:
        return delta * _tanh_derivative(a, a)
    if code == RELU:
        return delta * _relu_derivative(a, a)
    return delta


@inner
def load_some(p, n, count):
    """A vector, or its first `count` lanes where there are not as many; whole ones are quicker to forward."""
    if count >= lanes(p):
        return load(p, n)
    return load_part(p, n, count)


@inner
def store_some(p, n, v, count):
    """The counterpart of `load_some`."""
    if count >= lanes(p):
        store(p, n, v)
    else:
        store_part(p, n, v, count)


# --------------------------------------------------------------------------------------- one sample at a time

@inner
def combine_rows(x, w, n_in, n_out, z):
    """z = x @ W + b for one sample, b following W; z has room for whole vectors.

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
    """The sum of x * w over n elements, in two chains of vectors."""
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
def update(w, at, count, gradient, finish, lr, momentum, velocity):
    """One vector of parameters; as the register tile finishes (`simd.tile`)."""
    if finish == SGD:
        step = gradient
    else:
        speed = fma(load_some(w, at + velocity, count), momentum, gradient)
        store_some(w, at + velocity, speed, count)
        step = speed
        if finish == NESTEROV:
            step = fma(speed, momentum, gradient)
    store_some(w, at, fma(step, -lr, load_some(w, at, count)), count)


@inner
def update_vector(w, n, factor, direction, finish, lr, momentum, velocity):
    """Update n parameters whose gradient is factor * direction."""
    for j in range(0, n, lanes(w)):
        update(w, j, n - j, load_some(direction, j, n - j) * factor, finish, lr, momentum, velocity)


@inner
def back_and_update(a, w, n_in, n_out, delta, before, wants_before, finish, lr, momentum, velocity):
    """Before = delta @ W.T (if wanted), then W and b move by a outer delta; each row of W is met once."""
    if n_out == 1:
        d = peek(delta, 0)
        if wants_before:
            for i in range(0, n_in, lanes(w)):
                store(before, i, load_some(w, i, n_in - i) * d)
        update_vector(w, n_in, d, a, finish, lr, momentum, velocity)
    else:
        for i in range(n_in):
            row = offset(w, i * n_out)
            if wants_before:
                poke(before, i, dot(row, delta, n_out))
            update_vector(row, n_out, peek(a, i), delta, finish, lr, momentum, velocity)
    b = offset(w, n_in * n_out)
    for j in range(0, n_out, lanes(w)):
        update(b, j, n_out - j, load_some(delta, j, n_out - j), finish, lr, momentum, velocity)
