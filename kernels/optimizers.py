"""In-place parameter updates over flat buffers.  Twins: `fastbp.reference`.

Inside a training step the same arithmetic happens in the register tile that sums the gradient (`simd.tile`), which
then is never stored; these kernels serve gradients that were summed over several blocks, or come from elsewhere.
"""
from .jit import kernel, part
from .simd import fma, lanes, load, load_part, pointer, store, store_part


@part
def sgd_block(gradient, lr, parameters, n):
    """Parameters -= lr * gradient."""
    width = lanes(gradient)
    minus_lr = load_part(gradient, 0, 0) - lr
    i = 0
    while i + width <= n:
        store(parameters, i, fma(minus_lr, load(gradient, i), load(parameters, i)))
        i += width
    if i < n:
        step = fma(minus_lr, load_part(gradient, i, n - i), load_part(parameters, i, n - i))
        store_part(parameters, i, step, n - i)


@part
def sgd_momentum_block(gradient, lr, momentum, nesterov, velocity, parameters, n):
    """Velocity = momentum * velocity + gradient; parameters -= lr * (velocity, or Nesterov's look ahead)."""
    width = lanes(gradient)
    zero = load_part(gradient, 0, 0)
    minus_lr, mu = zero - lr, zero + momentum
    for i in range(0, n, width):
        m = min(width, n - i)
        g = load_part(gradient, i, m)
        v = fma(mu, load_part(velocity, i, m), g)
        store_part(velocity, i, v, m)
        step = v
        if nesterov:
            step = fma(mu, v, g)
        store_part(parameters, i, fma(minus_lr, step, load_part(parameters, i, m)), m)


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
    sgd_momentum_block(pointer(gradient, 0), lr, momentum, nesterov, pointer(velocity, 0), pointer(parameters, 0),
                       parameters.size)
