"""In-place parameter updates over flat arrays, and what is done to a gradient before.  Twins: `fastbp.reference`.

Inside a training step the arithmetic of `sgd` and `sgd_momentum` happens in the epilogue of the microkernel that sums
the gradient (`microkernel.tile`), which then is never stored; these kernels serve gradients that were summed over
several blocks, or come from elsewhere, and all other rules.

Notes
-----
An update of a rule is `step_factors`, once a step, then `update_slice` over any slices of the parameters:

==================  ==================================  ===============================  ====================
rule                hyperparameters                     running products after t steps   states
==================  ==================================  ===============================  ====================
sgd
momentum            momentum                                                             velocity
nesterov            momentum                                                             velocity
classical_momentum  momentum, nesterov                                                   velocity
rmsprop             rho, eps                                                             mean square
adagrad             eps                                                                  sum of squares
adam                beta1, beta2, eps                   beta1**t, beta2**t               m, v
adam_eps_hat        beta1, beta2, eps                   beta1**t, beta2**t               m, v
adamw,              beta1, beta2, eps, weight_decay     beta1**t, beta2**t               m, v
adamw_weights
adamw_scaled        beta1, beta2, eps, weight_decay,    beta1**t, beta2**t               m, v, scales
                    input_scale_lr, bias_decay
nadam               beta1, beta2, eps, decay            mu[1] * ... * mu[t], beta2**t,   m, v
                                                        decay**t
lion                beta1, beta2, weight_decay                                           m
rprop               eta_minus, eta_plus, min_step,                                       last gradient, steps
                    max_step
==================  ==================================  ===============================  ====================

States start at 0 and running products at 1.  The factors of one step are a matter between the two functions.
adamw_weights decays weights alone: it writes two sets of factors, and biases are updated by the second one.
adamw_scaled does that too, and the weights of the first layer are updated by `update_scaled`.
"""

import functools

import numpy as np

from .elementwise import _exp
from .jit import inline, internal, kernel
from .layout import BIAS_FACTORS, CLIP, L1, L2, N_FACTORS, RATE, SCALE_RATE, SQUARES_CHUNK, VECTOR_BYTES
from .native import NativeFunction, native
from .schedules import rate_at
from .simd import (
    as_float,
    fma,
    hmax,
    hsum,
    is_single,
    lanes,
    load,
    local,
    masked_load,
    masked_store,
    offset,
    peek,
    pointer,
    pointer_at,
    poke,
    rsqrt_estimate,
    sqrt,
    squares_float64,
    store,
    where,
)
from .tables import RULES

MAX_LANES = VECTOR_BYTES // 4

# ------------------------------------------------------------------------- functions of one vector of elements


@inline
def sqrt_fast(v):
    """Square root of v >= 0; in float32 to 1 unit in the last place.

    The processor's square root and the division that follows it in every rule share a slow unit.  So float32 takes
    v * rsqrt(v): an estimate from the bits and three steps of Newton's method, the last one on the root itself.
    """
    if not is_single(v):
        return sqrt(v)
    is_small = v < 6.617444900424222e-24  # 2**-77; nothing below comes near the subnormal numbers
    x = where(is_small, v * 281474976710656.0, v)
    half = x * 0.5
    y = rsqrt_estimate(x)
    y = y * fma(-(half * y), y, 1.5)
    y = y * fma(-(half * y), y, 1.5)
    root = x * y
    root = fma(y * 0.5, fma(-root, root, x), root)
    root = where(is_small, root * 5.960464477539063e-08, root)
    return where(v < float("inf"), root, v)  # the root of inf is inf, of NaN NaN


@inline
def _sign(x):
    return where(x > 0.0, 1.0, where(x < 0.0, -1.0, x))


@inline
def _clamp(x, low, high):
    x = where(x < low, low, x)
    return where(x > high, high, x)


@inline
def momentum_step(parameter, velocity, gradient, nesterov, lr, momentum):
    """(parameter, velocity) after one update with momentum, to the bits of the microkernel's epilogue."""
    velocity = fma(velocity, momentum, gradient)
    step = velocity
    if nesterov:
        step = fma(velocity, momentum, gradient)
    return fma(step, -lr, parameter), velocity


# Each rule: the factors of the step, vectors of gradient g, parameters p and two states (fewer: not meaningful) to the
# new p and states; and the factors from the hyperparameters, the learning rate and the running products.


@inline
def _sgd(factors, g, p, unused, unused_too):
    lr = factors[0]
    return fma(-lr, g, p), unused, unused_too


@inline
def _sgd_factors(hyperparameters, lr, running_products, factors):
    poke(factors, 0, lr)


@inline
def _momentum(factors, g, p, velocity, unused):
    p, velocity = momentum_step(p, velocity, g, False, factors[0], factors[1])
    return p, velocity, unused


@inline
def _nesterov(factors, g, p, velocity, unused):
    p, velocity = momentum_step(p, velocity, g, True, factors[0], factors[1])
    return p, velocity, unused


@inline
def _momentum_factors(hyperparameters, lr, running_products, factors):
    poke(factors, 0, lr)
    poke(factors, 1, peek(hyperparameters, 0))


@inline
def _classical_momentum(factors, g, p, velocity, unused):
    lr, momentum, of_velocity, of_gradient, _, _, _, _ = factors
    velocity = fma(momentum, velocity, -lr * g)
    return p + fma(of_velocity, velocity, of_gradient * g), velocity, unused


@inline
def _classical_momentum_factors(hyperparameters, lr, running_products, factors):
    momentum, nesterov = peek(hyperparameters, 0), peek(hyperparameters, 1)
    poke(factors, 0, lr)
    poke(factors, 1, momentum)
    poke(factors, 2, momentum if nesterov else 1.0)
    poke(factors, 3, -lr if nesterov else 0.0)


@inline
def _rmsprop(factors, g, p, square, unused):
    lr, rho, rest, eps, _, _, _, _ = factors
    square = fma(rho, square, rest * g * g)
    return fma(-lr, g / (sqrt_fast(square) + eps), p), square, unused


@inline
def _rmsprop_factors(hyperparameters, lr, running_products, factors):
    rho = peek(hyperparameters, 0)
    poke(factors, 0, lr)
    poke(factors, 1, rho)
    poke(factors, 2, 1.0 - rho)
    poke(factors, 3, peek(hyperparameters, 1))


@inline
def _adagrad(factors, g, p, total, unused):
    lr, eps, _, _, _, _, _, _ = factors
    total = fma(g, g, total)
    return fma(-lr, g / (sqrt_fast(total) + eps), p), total, unused


@inline
def _adagrad_factors(hyperparameters, lr, running_products, factors):
    poke(factors, 0, lr)
    poke(factors, 1, peek(hyperparameters, 0))


@inline
def _moments(factors, g, m, v):
    """Return the running means of the gradient and its square, and the denominator of Adam."""
    beta1, rest1, beta2, rest2, scale, eps, _, _ = factors
    m, v = fma(beta1, m, rest1 * g), fma(beta2, v, rest2 * g * g)
    return m, v, fma(sqrt_fast(v), scale, eps)


@inline
def _moment_factors(hyperparameters, running_products, factors):
    """Write the factors of `_moments`, and advance beta2**t."""
    beta1, beta2 = peek(hyperparameters, 0), peek(hyperparameters, 1)
    poke(running_products, 1, peek(running_products, 1) * beta2)
    poke(factors, 0, beta1)
    poke(factors, 1, 1.0 - beta1)
    poke(factors, 2, beta2)
    poke(factors, 3, 1.0 - beta2)
    poke(factors, 4, 1.0 / sqrt(1.0 - peek(running_products, 1)))
    poke(factors, 5, peek(hyperparameters, 2))


@inline
def _adamw(factors, g, p, m, v):
    m, v, root = _moments(factors, g, m, v)
    return fma(-factors[6], m / root, p * factors[7]), m, v


@inline
def _adam_factors(hyperparameters, lr, running_products, factors):
    _moment_factors(hyperparameters, running_products, factors)
    poke(running_products, 0, peek(running_products, 0) * peek(hyperparameters, 0))
    poke(factors, 6, lr / (1.0 - peek(running_products, 0)))
    poke(factors, 7, 1.0)


@inline
def _adam_eps_hat_factors(hyperparameters, lr, running_products, factors):
    _adam_factors(hyperparameters, lr, running_products, factors)
    poke(factors, 4, 1.0)
    poke(factors, 6, lr * sqrt(1.0 - peek(running_products, 1)) / (1.0 - peek(running_products, 0)))


@inline
def _adamw_factors(hyperparameters, lr, running_products, factors):
    _adam_factors(hyperparameters, lr, running_products, factors)
    poke(factors, 7, 1.0 - lr * peek(hyperparameters, 3))


@inline
def _adamw_weights_factors(hyperparameters, lr, running_products, factors):
    _adamw_factors(hyperparameters, lr, running_products, factors)
    for k in range(7):
        poke(factors, BIAS_FACTORS + k, peek(factors, k))
    poke(factors, BIAS_FACTORS + 7, 1.0)


@inline
def _adamw_scaled_factors(hyperparameters, lr, running_products, factors):
    _adamw_weights_factors(hyperparameters, lr, running_products, factors)
    poke(factors, SCALE_RATE, peek(hyperparameters, 4))
    poke(factors, BIAS_FACTORS + 7, 1.0 - lr * peek(hyperparameters, 5))


@inline
def _nadam(factors, g, p, m, v):
    m, v, root = _moments(factors, g, m, v)
    return p - fma(factors[6], m, factors[7] * g) / root, m, v


@inline
def _nadam_factors(hyperparameters, lr, running_products, factors):
    _moment_factors(hyperparameters, running_products, factors)
    beta1, decay = peek(hyperparameters, 0), peek(hyperparameters, 3)
    poke(running_products, 2, peek(running_products, 2) * decay)
    mu = beta1 * (1.0 - 0.5 * peek(running_products, 2))
    next_mu = beta1 * (1.0 - 0.5 * peek(running_products, 2) * decay)
    poke(running_products, 0, peek(running_products, 0) * mu)
    poke(factors, 6, lr * next_mu / (1.0 - peek(running_products, 0) * next_mu))
    poke(factors, 7, lr * (1.0 - mu) / (1.0 - peek(running_products, 0)))


@inline
def _lion(factors, g, p, m, unused):
    lr, beta1, rest1, beta2, rest2, keep, _, _ = factors
    p = fma(-lr, _sign(fma(beta1, m, rest1 * g)), p * keep)
    return p, fma(beta2, m, rest2 * g), unused


@inline
def _lion_factors(hyperparameters, lr, running_products, factors):
    poke(factors, 0, lr)
    for k in range(2):
        poke(factors, 2 * k + 1, peek(hyperparameters, k))
        poke(factors, 2 * k + 2, 1.0 - peek(hyperparameters, k))
    poke(factors, 5, 1.0 - lr * peek(hyperparameters, 2))


@inline
def _rprop(factors, g, p, last, step):
    lr, eta_minus, eta_plus, min_step, max_step, _, _, _ = factors
    agreement = g * _sign(last)  # not g * last, which may underflow
    step = where(step == 0.0, lr, step)
    step = step * where(agreement > 0.0, eta_plus, where(agreement < 0.0, eta_minus, 1.0))
    step = _clamp(step, min_step, max_step)
    g = where(agreement < 0.0, 0.0, g)
    return fma(-_sign(g), step, p), g, step


@inline
def _rprop_factors(hyperparameters, lr, running_products, factors):
    poke(factors, 0, lr)
    for k in range(4):
        poke(factors, k + 1, peek(hyperparameters, k))


@inline
def eight(loader, factors, step):
    """Return the eight numbers, or vectors, of a rule that lie `step` elements apart."""
    return (
        loader(factors, 0),
        loader(factors, step),
        loader(factors, 2 * step),
        loader(factors, 3 * step),
        loader(factors, 4 * step),
        loader(factors, 5 * step),
        loader(factors, 6 * step),
        loader(factors, 7 * step),
    )


@inline
def update_with(function, n_states, hyperparameters, g, p, first, second, n):
    """Update n elements by a rule and its `eight`; states that it does not have are not touched."""
    width = lanes(g)
    i = 0
    while i + width <= n:
        v = load(g, i)
        a = load(first, i) if n_states > 0 else v
        b = load(second, i) if n_states > 1 else v
        v, a, b = function(hyperparameters, v, load(p, i), a, b)
        store(p, i, v)
        if n_states > 0:
            store(first, i, a)
        if n_states > 1:
            store(second, i, b)
        i += width
    if i < n:
        m = n - i
        v = masked_load(g, i, m)
        a = masked_load(first, i, m) if n_states > 0 else v
        b = masked_load(second, i, m) if n_states > 1 else v
        v, a, b = function(hyperparameters, v, masked_load(p, i, m), a, b)
        masked_store(p, i, v, m)
        if n_states > 0:
            masked_store(first, i, a, m)
        if n_states > 1:
            masked_store(second, i, b, m)


@inline
def update_array(function, n_states, factors, g, p, first, second, n):
    """Update n elements by a rule and the factors of the step."""
    update_with(function, n_states, eight(peek, factors, 1), g, p, first, second, n)


# The functions of rules that share them.
_adam = _adam_eps_hat = _adamw_weights = _adamw_scaled = _adamw
_nesterov_factors = _momentum_factors


# ------------------------------------------------------------------------- gradients before, weights after an update


@internal
def penalize_array(g, p, l1, l2, n):
    """Add the gradient of l1 * sum |p| + l2 / 2 * sum p**2: g += l2 * p + l1 * sign(p)."""
    width = lanes(g)
    i = 0
    while i + width <= n:
        v = load(p, i)
        store(g, i, load(g, i) + fma(l2, v, l1 * _sign(v)))
        i += width
    if i < n:
        v = masked_load(p, i, n - i)
        masked_store(g, i, masked_load(g, i, n - i) + fma(l2, v, l1 * _sign(v)), n - i)


@internal
def clip_array(g, limit, n):
    """Hold every element within [-limit, limit]; NaN stays NaN."""
    width = lanes(g)
    i = 0
    while i + width <= n:
        store(g, i, _clamp(load(g, i), -limit, limit))
        i += width
    if i < n:
        masked_store(g, i, _clamp(masked_load(g, i, n - i), -limit, limit), n - i)


@native("pfi")
@internal
def scale_array(g, factor, n):
    """Multiply n elements by a factor."""
    width = lanes(g)
    i = 0
    while i + width <= n:
        store(g, i, load(g, i) * factor)
        i += width
    if i < n:
        masked_store(g, i, masked_load(g, i, n - i) * factor, n - i)


@internal
def squares_array(g, n):
    """Return the sum of the squares in float64, in a fixed order (callers take chunks of SQUARES_CHUNK)."""
    width = lanes(g)
    total = squares_float64(masked_load(g, 0, 0))
    i = 0
    while i + width <= n:
        total = total + squares_float64(load(g, i))
        i += width
    if i < n:
        total = total + squares_float64(masked_load(g, i, n - i))
    return hsum(total)


@native("piiiif")
@internal
def max_norm_columns(w, n_in, n_out, first, last, limit):
    """Scale columns `first` up to `last` of W (n_in, n_out), each so that its Euclidean norm is at most `limit`."""
    width = lanes(w)
    for j in range(first, last, width):
        n = min(width, last - j)
        total = masked_load(w, 0, 0)
        for k in range(n_in):
            v = masked_load(w, k * n_out + j, n)
            total = fma(v, v, total)
        norm = sqrt(total)
        if hmax(norm) > limit:
            factor = where(norm > limit, limit / norm, 1.0)
            for k in range(n_in):
                masked_store(w, k * n_out + j, masked_load(w, k * n_out + j, n) * factor, n)


@internal
def dot_array(x, y, n):
    """Return the sum of the products, in a fixed order."""
    width = lanes(x)
    total = masked_load(x, 0, 0)
    i = 0
    while i + width <= n:
        total = fma(load(x, i), load(y, i), total)
        i += width
    if i < n:
        total = fma(masked_load(x, i, n - i), masked_load(y, i, n - i), total)
    return hsum(total)


@native("ppppppiiii")
@internal
def update_scaled(factors, gradient, w, first_state, second_state, scales, n_in, n_out, top, bottom):
    """Update rows top .. bottom - 1 of the first layer's W (n_in, n_out), each of which has a learned scale.

    W is exp(u) V, row by row, and AdamW's steps are made of V and of u, whose learning rate is factors[SCALE_RATE]
    times as large.  Only W and u are kept: the gradient of u is the sum of W times that of W, the gradient of V is
    exp(u) times that of W, and a step of V is exp(u) times as long for W.

    Parameters
    ----------
    factors, gradient, w, first_state, second_state
        As in `update_slice`, from the first weight on.
    scales : (3, n_in)
        u, and its two means of Adam, all 0 at the start.
    """
    width = lanes(w)
    rate = peek(factors, SCALE_RATE)
    beta1, rest1, beta2, rest2, scale, eps, lr, keep = eight(peek, factors, 1)
    sums, before, growth = local(MAX_LANES, w), local(MAX_LANES, w), local(MAX_LANES, w)
    for start in range(top, bottom, width):
        n = min(width, bottom - start)
        for i in range(n):
            at = (start + i) * n_out
            poke(sums, i, dot_array(offset(w, at), offset(gradient, at), n_out))
        u, m, v = offset(scales, start), offset(scales, n_in + start), offset(scales, 2 * n_in + start)
        of_rows = beta1, rest1, beta2, rest2, scale, eps, lr, keep
        mean, square, root = _moments(of_rows, masked_load(sums, 0, n), masked_load(m, 0, n), masked_load(v, 0, n))
        old = masked_load(u, 0, n)
        step = -(lr * rate) * (mean / root)
        masked_store(u, 0, old + step, n)
        masked_store(m, 0, mean, n)
        masked_store(v, 0, square, n)
        store(before, 0, _exp(old))
        store(growth, 0, _exp(step))
        for i in range(n):
            at = (start + i) * n_out
            of_rows = beta1, rest1, beta2, rest2, scale, eps, lr * peek(before, i), keep
            g, p = offset(gradient, at), offset(w, at)
            scale_array(g, peek(before, i), n_out)
            update_with(_adamw, 2, of_rows, g, p, offset(first_state, at), offset(second_state, at), n_out)
            scale_array(p, peek(growth, i), n_out)


# ------------------------------------------------------------------------------------------- native functions


@native("ppifff")
@internal
def prepare_gradient(gradient, parameters, n, l1, l2, clip_value):
    """Add the gradient of the penalties, then clip each element if `clip_value` is not 0."""
    if l1 != 0 or l2 != 0:
        penalize_array(gradient, parameters, l1, l2, n)
    if clip_value > 0:
        clip_array(gradient, clip_value, n)


@functools.cache
def step_factors(rule):
    """Return the native function that writes the factors of a step, the learning rate too, by the rule's name."""
    rule_factors = globals()[f"_{rule}_factors"]

    def step_factors(hyperparameters, schedule, rates, scale, step, running_products, factors):
        lr = rate_at(schedule, rates, step) * scale
        rule_factors(hyperparameters, lr, running_products, factors)
        poke(factors, RATE, as_float(lr, factors))

    return NativeFunction(step_factors, "didwidp")


@functools.cache
def update_slice(rule):
    """Return the native function that updates n parameters and their states, by the rule's name.

    (factors, gradient, parameters, first, second, n, l1, l2, clip_value): penalties, clipping, and the rule.  It
    overwrites the gradient.  States that the rule does not have may be anything.
    """
    function, n_states = globals()[f"_{rule}"], RULES[rule].n_states

    def update_slice(factors, gradient, parameters, first, second, n, l1, l2, clip_value):
        prepare_gradient(gradient, parameters, n, l1, l2, clip_value)
        update_array(function, n_states, factors, gradient, parameters, first, second, n)

    return NativeFunction(update_slice, "pppppifff")


@functools.cache
def update_members(rule):
    """Return the native function that updates n numbers of interleaved networks, by the rule's name.

    (factors, gradient, parameters, first, second, n, vectors, period, are_same, has_penalties, clips, are_weights): as
    `update_slice`, but factors and penalties are vectors of `period` numbers (`layout.PopulationArgs`), which may be
    the same for all networks; biases have no penalties, only their limit.
    """
    function, n_states = globals()[f"_{rule}"], RULES[rule].n_states

    def update_members(
        factors, gradient, parameters, first, second, n, vectors, period, are_same, has_penalties, clips, are_weights
    ):
        n_together = n
        if period > lanes(gradient) and not are_same:
            n_together = lanes(gradient)
        for i in range(0, n, n_together):
            at = i & (period - 1)
            settings, g, p = offset(vectors, at), offset(gradient, i), offset(parameters, i)
            if has_penalties and are_weights:
                penalize_array(g, p, load(settings, L1 * period), load(settings, L2 * period), n_together)
            if clips:
                clip_array(g, load(settings, CLIP * period), n_together)
            of_rule = eight(load, offset(factors, at), period)
            update_with(function, n_states, of_rule, g, p, offset(first, i), offset(second, i), n_together)

    return NativeFunction(update_members, "pppppipiiiii")


@native("pid")
def sum_of_squares(gradient, n, out):
    """Write the sum of the squares of a chunk."""
    poke(out, 0, squares_array(gradient, n))


# ------------------------------------------------------------------------------------------------- public kernels


@inline
def no_products():
    """Return the running products of rules that have none."""
    return pointer_at(0, np.float64)


@inline
def _one_step(
    update, write_factors, n_states, hyperparameters, lr, running_products, gradient, first, second, parameters
):
    """Make one whole update: the functions of a rule, its number of states, hyperparameters as a tuple of float64."""
    settings, factors = local(8, running_products), local(N_FACTORS, pointer(parameters, 0))
    for i in range(len(hyperparameters)):
        poke(settings, i, hyperparameters[i])
    for i in range(N_FACTORS):
        poke(factors, i, 0)
    write_factors(settings, lr, running_products, factors)
    update_array(
        update,
        n_states,
        factors,
        pointer(gradient, 0),
        pointer(parameters, 0),
        pointer(first, 0),
        pointer(second, 0),
        parameters.size,
    )


@kernel
def sgd(gradient, lr, parameters):
    """Plain gradient descent: parameters -= lr * gradient, in place.

    Parameters
    ----------
    gradient, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
    lr : scalar step size, of the arrays' dtype.
    """
    hyperparameters = (np.float64(0.0),)
    _one_step(_sgd, _sgd_factors, 0, hyperparameters, lr, no_products(), gradient, gradient, gradient, parameters)


@kernel
def sgd_momentum(gradient, lr, momentum, nesterov, velocity, parameters):
    """Gradient descent with momentum (Polyak 1964), or Nesterov's (Sutskever et al. 2013), in place.

    velocity = momentum * velocity + gradient; parameters -= lr * velocity, or with `nesterov`
    parameters -= lr * (gradient + momentum * velocity), as PyTorch writes it.

    Parameters
    ----------
    gradient, velocity, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
    lr, momentum : scalars of the arrays' dtype.
    nesterov : bool
    """
    hyperparameters = (np.float64(momentum),)
    products, v, p = no_products(), velocity, parameters
    if nesterov:
        _one_step(_nesterov, _momentum_factors, 1, hyperparameters, lr, products, gradient, v, v, p)
    else:
        _one_step(_momentum, _momentum_factors, 1, hyperparameters, lr, products, gradient, v, v, p)


@kernel
def classical_momentum(gradient, lr, momentum, nesterov, velocity, parameters):
    """Gradient descent whose velocity holds steps (Sutskever et al. 2013, equations 1 and 2), in place.

    velocity = momentum * velocity - lr * gradient; parameters += velocity, or with `nesterov`
    parameters += momentum * velocity - lr * gradient, as scikit-learn writes it.

    Parameters
    ----------
    gradient, velocity, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
        `velocity` starts at 0.
    lr, momentum, nesterov : float scalars; `nesterov` is 0 or 1.
    """
    hyperparameters = (np.float64(momentum), np.float64(nesterov))
    products, v, p = no_products(), velocity, parameters
    _one_step(_classical_momentum, _classical_momentum_factors, 1, hyperparameters, lr, products, gradient, v, v, p)


@kernel
def rmsprop(gradient, lr, rho, eps, square, parameters):
    """RMSprop (Tieleman and Hinton 2012, lecture 6.5), in place, as PyTorch writes it.

    square = rho * square + (1 - rho) * gradient**2; parameters -= lr * gradient / (sqrt(square) + eps).

    Parameters
    ----------
    gradient, square, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
        `square` starts at 0.
    lr, rho, eps : float scalars.
    """
    hyperparameters = (np.float64(rho), np.float64(eps))
    _one_step(_rmsprop, _rmsprop_factors, 1, hyperparameters, lr, no_products(), gradient, square, square, parameters)


@kernel
def adagrad(gradient, lr, eps, total, parameters):
    """Adagrad (Duchi, Hazan and Singer 2011), in place, as PyTorch writes it.

    total += gradient**2; parameters -= lr * gradient / (sqrt(total) + eps).

    Parameters
    ----------
    gradient, total, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
        `total` starts at 0.
    lr, eps : float scalars.
    """
    _one_step(_adagrad, _adagrad_factors, 1, (np.float64(eps),), lr, no_products(), gradient, total, total, parameters)


@kernel
def adam(gradient, lr, beta1, beta2, eps, running_products, m, v, parameters):
    """Adam (Kingma and Ba 2015, algorithm 1), in place, as PyTorch writes it.

    m = beta1 * m + (1 - beta1) * gradient; v = beta2 * v + (1 - beta2) * gradient**2;
    parameters -= lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps) in step t = 1, 2, ...

    Parameters
    ----------
    gradient, m, v, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
        `m` and `v` start at 0.
    lr, beta1, beta2, eps : float scalars.
    running_products : float64 array of two or more numbers
        beta1**t and beta2**t, advanced by this step; they start at 1.
    """
    hyperparameters = (np.float64(beta1), np.float64(beta2), np.float64(eps))
    _one_step(_adamw, _adam_factors, 2, hyperparameters, lr, pointer(running_products, 0), gradient, m, v, parameters)


@kernel
def adam_eps_hat(gradient, lr, beta1, beta2, eps, running_products, m, v, parameters):
    """Adam in the efficient order of Kingma and Ba (2015, end of section 2), in place, as scikit-learn writes it.

    m and v as `adam`; parameters -= lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps) in step
    t = 1, 2, ...: eps is added before the correction of v.

    Parameters
    ----------
    gradient, m, v, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
        `m` and `v` start at 0.
    lr, beta1, beta2, eps : float scalars.
    running_products : float64 array of two or more numbers
        beta1**t and beta2**t, advanced by this step; they start at 1.
    """
    hyperparameters, products = (np.float64(beta1), np.float64(beta2), np.float64(eps)), pointer(running_products, 0)
    _one_step(_adamw, _adam_eps_hat_factors, 2, hyperparameters, lr, products, gradient, m, v, parameters)


@kernel
def adamw(gradient, lr, beta1, beta2, eps, weight_decay, running_products, m, v, parameters):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), in place, as PyTorch writes it.

    parameters *= 1 - lr * weight_decay, then as `adam`.

    Parameters
    ----------
    gradient, m, v, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
        `m` and `v` start at 0.
    lr, beta1, beta2, eps, weight_decay : float scalars.
    running_products : float64 array of two or more numbers
        beta1**t and beta2**t, advanced by this step; they start at 1.
    """
    hyperparameters = (np.float64(beta1), np.float64(beta2), np.float64(eps), np.float64(weight_decay))
    _one_step(_adamw, _adamw_factors, 2, hyperparameters, lr, pointer(running_products, 0), gradient, m, v, parameters)


@kernel
def nadam(gradient, lr, beta1, beta2, eps, decay, running_products, m, v, parameters):
    """Adam with Nesterov's momentum (Dozat 2016), in place, as PyTorch writes it.

    With m and v as in `adam` and mu[t] = beta1 * (1 - decay**t / 2), in step t = 1, 2, ...
    parameters -= lr * (mu[t + 1] * m / (1 - mu[1] * ... * mu[t + 1])
    + (1 - mu[t]) * gradient / (1 - mu[1] * ... * mu[t])) / (sqrt(v / (1 - beta2**t)) + eps).

    Parameters
    ----------
    gradient, m, v, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
        `m` and `v` start at 0.
    lr, beta1, beta2, eps : float scalars.
    decay : float scalar
        0.96**0.004 in the paper.
    running_products : float64 array of three or more numbers
        mu[1] * ... * mu[t], beta2**t and decay**t, advanced by this step; they start at 1.
    """
    hyperparameters = (np.float64(beta1), np.float64(beta2), np.float64(eps), np.float64(decay))
    _one_step(_nadam, _nadam_factors, 2, hyperparameters, lr, pointer(running_products, 0), gradient, m, v, parameters)


@kernel
def lion(gradient, lr, beta1, beta2, weight_decay, m, parameters):
    """Lion (Chen et al. 2023, algorithm 2), in place.

    parameters = (1 - lr * weight_decay) * parameters - lr * sign(beta1 * m + (1 - beta1) * gradient);
    m = beta2 * m + (1 - beta2) * gradient.

    Parameters
    ----------
    gradient, m, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
        `m` starts at 0.
    lr, beta1, beta2, weight_decay : float scalars.
    """
    hyperparameters = (np.float64(beta1), np.float64(beta2), np.float64(weight_decay))
    _one_step(_lion, _lion_factors, 1, hyperparameters, lr, no_products(), gradient, m, m, parameters)


@kernel
def rprop(gradient, lr, eta_minus, eta_plus, min_step, max_step, last, step, parameters):
    """Resilient propagation (iRprop-: Igel and Hüsken 2000), in place, as PyTorch writes it.

    An element's step is multiplied by eta_plus where its gradient has the sign it had last, by eta_minus where it has
    the other one, and held within [min_step, max_step]; where the sign changed the gradient counts as 0, for the next
    step too.  Then parameters -= sign(gradient) * step.

    Parameters
    ----------
    gradient, last, step, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
        `last`, the gradient before, and `step` start at 0.
    lr : float scalar
        Step of the elements that have none yet.
    eta_minus, eta_plus, min_step, max_step : float scalars.
    """
    hyperparameters = (np.float64(eta_minus), np.float64(eta_plus), np.float64(min_step), np.float64(max_step))
    _one_step(_rprop, _rprop_factors, 2, hyperparameters, lr, no_products(), gradient, last, step, parameters)


@kernel
def penalize(parameters, l1, l2, gradient):
    """Add the gradient of l1 * sum |parameters| + l2 / 2 * sum parameters**2, in place.

    Parameters
    ----------
    parameters, gradient : contiguous arrays of the same float dtype and size; they may not overlap.
    l1, l2 : float scalars.
    """
    penalize_array(pointer(gradient, 0), pointer(parameters, 0), l1, l2, gradient.size)


@kernel
def clip_value(limit, gradient):
    """Hold every element of a contiguous float array within [-limit, limit], in place; NaN stays NaN."""
    clip_array(pointer(gradient, 0), limit, gradient.size)


@kernel
def clip_norm(limit, gradient):
    """Scale a contiguous float array in place so that its Euclidean norm is at most `limit`.

    Pascanu, Mikolov and Bengio (2013), algorithm 1.  The norm is summed in float64, chunk by chunk in order.
    """
    sum_of_squares = 0.0
    for i in range(0, gradient.size, SQUARES_CHUNK):
        sum_of_squares += squares_array(pointer(gradient, i), min(SQUARES_CHUNK, gradient.size - i))
    norm = sqrt(sum_of_squares)
    if norm > limit:
        scale_array(pointer(gradient, 0), limit / norm, gradient.size)


@kernel
def max_norm(limit, W):
    """Scale columns of a contiguous float W (n_in, n_out) in place, so that no norm of a column is above `limit`.

    A column holds the weights into one neuron (Srebro and Shraibman 2005; Hinton et al. 2012, with dropout).
    """
    max_norm_columns(pointer(W, 0), W.shape[0], W.shape[1], 0, W.shape[1], limit)
