"""In-place parameter updates over flat buffers, and what is done to a gradient before.  Twins: `fastbp.reference`.

Inside a training step the arithmetic of `sgd` and `sgd_momentum` happens in the register tile that sums the gradient
(`simd.tile`), which then is never stored; these kernels serve gradients that were summed over several blocks, or come
from elsewhere, and all other rules.

Notes
-----
An update of a rule is `step_factors`, once a step, then `update_block` over any pieces of the parameters:

=========  ==================================  ===============================================  ====================
rule       numbers                             memory after t steps                             states
=========  ==================================  ===============================================  ====================
sgd
momentum   momentum                                                                             velocity
nesterov   momentum                                                                             velocity
rmsprop    rho, eps                                                                             mean square
adagrad    eps                                                                                  sum of squares
adam       beta1, beta2, eps                   beta1**t, beta2**t                               m, v
adamw      beta1, beta2, eps, weight_decay     beta1**t, beta2**t                               m, v
nadam      beta1, beta2, eps, decay            mu[1] * ... * mu[t], beta2**t, decay**t          m, v
lion       beta1, beta2, weight_decay                                                           m
rprop      eta_minus, eta_plus, least, most                                                     last gradient, steps
=========  ==================================  ===============================================  ====================

States start at 0 and memory at 1.  The factors of one step are a matter between the two functions.
"""

import numpy as np

from .jit import inline, internal, kernel
from .simd import (
    fma,
    hmax,
    hsum,
    is_single,
    lanes,
    load,
    masked_load,
    masked_store,
    peek,
    pointer,
    poke,
    rsqrt_estimate,
    sqrt,
    squares_float64,
    store,
    where,
)

RULES = {
    name: code
    for code, name in enumerate(
        ["sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw", "nadam", "lion", "rprop"]
    )
}
(SGD, MOMENTUM, NESTEROV, RMSPROP, ADAGRAD, ADAM, ADAMW, NADAM, LION, RPROP) = RULES.values()
N_STATES = dict(zip(RULES, (0, 1, 1, 1, 1, 2, 2, 2, 1, 2), strict=True))
FACTORS = 8  # numbers of one step, for any rule
SQUARES_CHUNK = 4096  # elements of one call of `squares_block`; chunks are added up in order


@internal
def sgd_block(gradient, lr, parameters, n):
    """Parameters -= lr * gradient."""
    width = lanes(gradient)
    minus_lr = masked_load(gradient, 0, 0) - lr
    i = 0
    while i + width <= n:
        store(parameters, i, fma(minus_lr, load(gradient, i), load(parameters, i)))
        i += width
    if i < n:
        step = fma(minus_lr, masked_load(gradient, i, n - i), masked_load(parameters, i, n - i))
        masked_store(parameters, i, step, n - i)


@internal
def sgd_momentum_block(gradient, lr, momentum, nesterov, velocity, parameters, n):
    """Velocity = momentum * velocity + gradient; parameters -= lr * (velocity, or Nesterov's look ahead)."""
    width = lanes(gradient)
    zero = masked_load(gradient, 0, 0)
    minus_lr, mu = zero - lr, zero + momentum
    for i in range(0, n, width):
        m = min(width, n - i)
        g = masked_load(gradient, i, m)
        v = fma(mu, masked_load(velocity, i, m), g)
        masked_store(velocity, i, v, m)
        step = v
        if nesterov:
            step = fma(mu, v, g)
        masked_store(parameters, i, fma(minus_lr, step, masked_load(parameters, i, m)), m)


# ------------------------------------------------------------------------- functions of one vector of elements


@inline
def sqrt_fast(v):
    """Square root of v >= 0; in float32 to 1 unit in the last place.

    The processor's square root shares a slow unit with the division that follows it in every rule.  So float32 takes
    v * rsqrt(v): a guess from the bits and three steps of Newton's method, the last one on the root itself.
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
    return where(v < float("inf"), root, v)  # inf and NaN are their own roots


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
# new p and states.


@inline
def _rmsprop(factors, g, p, square, unused):
    lr, rho, rest, eps, _, _, _, _ = factors
    square = fma(rho, square, rest * g * g)
    return fma(-lr, g / (sqrt_fast(square) + eps), p), square, unused


@inline
def _adagrad(factors, g, p, total, unused):
    lr, eps, _, _, _, _, _, _ = factors
    total = fma(g, g, total)
    return fma(-lr, g / (sqrt_fast(total) + eps), p), total, unused


@inline
def _moments(factors, g, m, v):
    """Return the running means of the gradient and its square, and the denominator of Adam."""
    beta1, rest1, beta2, rest2, scale, eps, _, _ = factors
    m, v = fma(beta1, m, rest1 * g), fma(beta2, v, rest2 * g * g)
    return m, v, fma(sqrt_fast(v), scale, eps)


@inline
def _adamw(factors, g, p, m, v):
    m, v, root = _moments(factors, g, m, v)
    return fma(-factors[6], m / root, p * factors[7]), m, v


@inline
def _nadam(factors, g, p, m, v):
    m, v, root = _moments(factors, g, m, v)
    return p - fma(factors[6], m, factors[7] * g) / root, m, v


@inline
def _lion(factors, g, p, m, unused):
    lr, beta1, rest1, beta2, rest2, keep, _, _ = factors
    p = fma(-lr, _sign(fma(beta1, m, rest1 * g)), p * keep)
    return p, fma(beta2, m, rest2 * g), unused


@inline
def _rprop(factors, g, p, last, step):
    lr, eta_minus, eta_plus, least, most, _, _, _ = factors
    agreement = g * _sign(last)  # not g * last, which may underflow
    step = where(step == 0.0, lr, step)
    step = step * where(agreement > 0.0, eta_plus, where(agreement < 0.0, eta_minus, 1.0))
    step = _clamp(step, least, most)
    g = where(agreement < 0.0, 0.0, g)
    return fma(-_sign(g), step, p), g, step


@inline
def _over_block(function, n_states, factors, g, p, first, second, n):
    """Run a rule over n elements; what n_states leaves out is not touched."""
    width = lanes(g)
    hyperparameters = (
        peek(factors, 0),
        peek(factors, 1),
        peek(factors, 2),
        peek(factors, 3),
        peek(factors, 4),
        peek(factors, 5),
        peek(factors, 6),
        peek(factors, 7),
    )
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


# --------------------------------------------------------------------------------------------- one step of a rule


@internal
def step_factors(rule, hyperparameters, lr, running_products, factors):
    """Advance the memory of a rule by one step and write what `update_block` needs to know of it.

    Parameters
    ----------
    rule : int
        One of RULES.
    numbers, memory : pointers to float64
        Settings, and running products, as the table above says.
    lr : float64
        Step size of this step.
    factors : pointer to the dtype of the parameters
        Room for FACTORS numbers.
    """
    poke(factors, 0, lr)
    if rule == MOMENTUM or rule == NESTEROV:
        poke(factors, 1, peek(hyperparameters, 0))
    elif rule == RMSPROP:
        poke(factors, 1, peek(hyperparameters, 0))
        poke(factors, 2, 1.0 - peek(hyperparameters, 0))
        poke(factors, 3, peek(hyperparameters, 1))
    elif rule == ADAGRAD:
        poke(factors, 1, peek(hyperparameters, 0))
    elif rule == ADAM or rule == ADAMW or rule == NADAM:
        beta1, beta2 = peek(hyperparameters, 0), peek(hyperparameters, 1)
        poke(running_products, 1, peek(running_products, 1) * beta2)
        poke(factors, 0, beta1)
        poke(factors, 1, 1.0 - beta1)
        poke(factors, 2, beta2)
        poke(factors, 3, 1.0 - beta2)
        poke(factors, 4, 1.0 / sqrt(1.0 - peek(running_products, 1)))
        poke(factors, 5, peek(hyperparameters, 2))
        if rule == NADAM:
            decay = peek(hyperparameters, 3)
            poke(running_products, 2, peek(running_products, 2) * decay)
            mu = beta1 * (1.0 - 0.5 * peek(running_products, 2))
            next_mu = beta1 * (1.0 - 0.5 * peek(running_products, 2) * decay)
            poke(running_products, 0, peek(running_products, 0) * mu)
            poke(factors, 6, lr * next_mu / (1.0 - peek(running_products, 0) * next_mu))
            poke(factors, 7, lr * (1.0 - mu) / (1.0 - peek(running_products, 0)))
        else:
            poke(running_products, 0, peek(running_products, 0) * beta1)
            poke(factors, 6, lr / (1.0 - peek(running_products, 0)))
            poke(factors, 7, 1.0 - lr * peek(hyperparameters, 3) if rule == ADAMW else 1.0)
    elif rule == LION:
        for k in range(2):
            poke(factors, 2 * k + 1, peek(hyperparameters, k))
            poke(factors, 2 * k + 2, 1.0 - peek(hyperparameters, k))
        poke(factors, 5, 1.0 - lr * peek(hyperparameters, 2))
    elif rule == RPROP:
        for k in range(4):
            poke(factors, k + 1, peek(hyperparameters, k))


@internal
def update_block(rule, factors, g, p, first, second, n):
    """Update n parameters at p by their gradients at g.

    Parameters
    ----------
    rule : int
        One of RULES.
    factors : pointer
        What `step_factors` wrote.
    g, p, first, second : pointers
        Gradient, parameters and states; none may overlap, and states that the rule does not have may be anything.
    n : int
    """
    if rule == SGD:
        sgd_block(g, peek(factors, 0), p, n)
    elif rule == MOMENTUM or rule == NESTEROV:
        sgd_momentum_block(g, peek(factors, 0), peek(factors, 1), rule == NESTEROV, first, p, n)
    elif rule == RMSPROP:
        _over_block(_rmsprop, 1, factors, g, p, first, second, n)
    elif rule == ADAGRAD:
        _over_block(_adagrad, 1, factors, g, p, first, second, n)
    elif rule == ADAM or rule == ADAMW:
        _over_block(_adamw, 2, factors, g, p, first, second, n)
    elif rule == NADAM:
        _over_block(_nadam, 2, factors, g, p, first, second, n)
    elif rule == LION:
        _over_block(_lion, 1, factors, g, p, first, second, n)
    elif rule == RPROP:
        _over_block(_rprop, 2, factors, g, p, first, second, n)


# ------------------------------------------------------------------------- gradients before, weights after an update


@internal
def penalize_block(g, p, l1, l2, n):
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
def clip_block(g, limit, n):
    """Hold every element within [-limit, limit]; NaN stays NaN."""
    width = lanes(g)
    i = 0
    while i + width <= n:
        store(g, i, _clamp(load(g, i), -limit, limit))
        i += width
    if i < n:
        masked_store(g, i, _clamp(masked_load(g, i, n - i), -limit, limit), n - i)


@internal
def scale_block(g, factor, n):
    """Multiply n elements by a factor."""
    width = lanes(g)
    i = 0
    while i + width <= n:
        store(g, i, load(g, i) * factor)
        i += width
    if i < n:
        masked_store(g, i, masked_load(g, i, n - i) * factor, n - i)


@internal
def squares_block(g, n):
    """Return the sum of the squares in float64, in a fixed order (of SQUARES_CHUNK elements at most, by custom)."""
    width = lanes(g)
    total = squares_float64(masked_load(g, 0, 0))
    i = 0
    while i + width <= n:
        total = total + squares_float64(load(g, i))
        i += width
    if i < n:
        total = total + squares_float64(masked_load(g, i, n - i))
    return hsum(total)


@internal
def max_norm_block(w, n_in, n_out, first, last, limit):
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


# ------------------------------------------------------------------------------------------------- public kernels


@kernel
def sgd(gradient, lr, parameters):
    """Plain gradient descent: parameters -= lr * gradient, in place.

    Parameters
    ----------
    gradient, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
    lr : scalar step size, of the arrays' dtype.
    """
    sgd_block(pointer(gradient, 0), lr, pointer(parameters, 0), parameters.size)


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
    sgd_momentum_block(
        pointer(gradient, 0), lr, momentum, nesterov, pointer(velocity, 0), pointer(parameters, 0), parameters.size
    )


@inline
def _one_step(function, rule, n_states, hyperparameters, lr, running_products, gradient, first, second, parameters):
    """Make one whole update; `hyperparameters` is a tuple of float64."""
    settings, factors = np.array(hyperparameters), np.zeros(FACTORS, parameters.dtype)
    step_factors(rule, pointer(settings, 0), np.float64(lr), pointer(running_products, 0), pointer(factors, 0))
    _over_block(
        function,
        n_states,
        pointer(factors, 0),
        pointer(gradient, 0),
        pointer(parameters, 0),
        pointer(first, 0),
        pointer(second, 0),
        parameters.size,
    )


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
    _one_step(_rmsprop, RMSPROP, 1, hyperparameters, lr, np.ones(1), gradient, square, square, parameters)


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
    _one_step(_adagrad, ADAGRAD, 1, (np.float64(eps),), lr, np.ones(1), gradient, total, total, parameters)


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
    memory : float64 array of two or more numbers
        beta1**t and beta2**t, advanced by this step; they start at 1.
    """
    hyperparameters = (np.float64(beta1), np.float64(beta2), np.float64(eps))
    _one_step(_adamw, ADAM, 2, hyperparameters, lr, running_products, gradient, m, v, parameters)


@kernel
def adamw(gradient, lr, beta1, beta2, eps, weight_decay, running_products, m, v, parameters):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), in place, as PyTorch writes it.

    parameters *= 1 - lr * weight_decay, then as `adam`.

    Parameters
    ----------
    gradient, m, v, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
        `m` and `v` start at 0.
    lr, beta1, beta2, eps, weight_decay : float scalars.
    memory : float64 array of two or more numbers
        beta1**t and beta2**t, advanced by this step; they start at 1.
    """
    hyperparameters = (np.float64(beta1), np.float64(beta2), np.float64(eps), np.float64(weight_decay))
    _one_step(_adamw, ADAMW, 2, hyperparameters, lr, running_products, gradient, m, v, parameters)


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
    memory : float64 array of three or more numbers
        mu[1] * ... * mu[t], beta2**t and decay**t, advanced by this step; they start at 1.
    """
    hyperparameters = (np.float64(beta1), np.float64(beta2), np.float64(eps), np.float64(decay))
    _one_step(_nadam, NADAM, 2, hyperparameters, lr, running_products, gradient, m, v, parameters)


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
    _one_step(_lion, LION, 1, hyperparameters, lr, np.ones(1), gradient, m, m, parameters)


@kernel
def rprop(gradient, lr, eta_minus, eta_plus, least, most, last, step, parameters):
    """Resilient propagation (iRprop-: Igel and Hüsken 2000), in place, as PyTorch writes it.

    An element's step is multiplied by eta_plus where its gradient has the sign it had last, by eta_minus where it has
    the other one, and held within [least, most]; where the sign changed the gradient counts as 0, for the next step
    too.  Then parameters -= sign(gradient) * step.

    Parameters
    ----------
    gradient, last, step, parameters : contiguous arrays of the same float dtype and size; they may not overlap.
        `last`, the gradient before, and `step` start at 0.
    lr : float scalar
        Step of the elements that have none yet.
    eta_minus, eta_plus, least, most : float scalars.
    """
    hyperparameters = (np.float64(eta_minus), np.float64(eta_plus), np.float64(least), np.float64(most))
    _one_step(_rprop, RPROP, 2, hyperparameters, lr, np.ones(1), gradient, last, step, parameters)


@kernel
def penalize(parameters, l1, l2, gradient):
    """Add the gradient of l1 * sum |parameters| + l2 / 2 * sum parameters**2, in place.

    Parameters
    ----------
    parameters, gradient : contiguous arrays of the same float dtype and size; they may not overlap.
    l1, l2 : float scalars.
    """
    penalize_block(pointer(gradient, 0), pointer(parameters, 0), l1, l2, gradient.size)


@kernel
def clip_value(limit, gradient):
    """Hold every element of a contiguous float array within [-limit, limit], in place; NaN stays NaN."""
    clip_block(pointer(gradient, 0), limit, gradient.size)


@kernel
def clip_norm(limit, gradient):
    """Scale a contiguous float array in place so that its Euclidean norm is at most `limit`.

    Pascanu, Mikolov and Bengio (2013), algorithm 1.  The norm is summed in float64, chunk by chunk in order.
    """
    sum_of_squares = 0.0
    for i in range(0, gradient.size, SQUARES_CHUNK):
        sum_of_squares += squares_block(pointer(gradient, i), min(SQUARES_CHUNK, gradient.size - i))
    norm = sqrt(sum_of_squares)
    if norm > limit:
        scale_block(pointer(gradient, 0), limit / norm, gradient.size)


@kernel
def max_norm(limit, W):
    """Scale columns of a contiguous float W (n_in, n_out) in place, so that no norm of a column is above `limit`.

    A column holds the weights into one neuron (Srebro and Shraibman 2005; Hinton et al. 2012, with dropout).
    """
    max_norm_block(pointer(W, 0), W.shape[0], W.shape[1], 0, W.shape[1], limit)
