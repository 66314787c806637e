"""The compiled kernels, usable one by one, also inside your own `@njit` functions.

Arrays are contiguous, of one float dtype, and trusted: nothing but that is checked here.  Results go into `out`, the
last argument; what may alias is said in each docstring.  The NumPy twins of the same names are in `fastbp.reference`;
with NUMBA_DISABLE_JIT=1 these names are the twins.

A step of gradient descent on a hidden layer of tanh and an output of half squared error, in a loop of your own:

    affine_forward(X, W1, b1, Z)
    tanh(Z, A)
    affine_forward(A, W2, b2, delta2)
    delta2 -= Y
    tanh_derivative(Z, A, derivative)
    propagate_delta(delta2, W2, derivative, delta1)  # (delta2 @ W2.T) * derivative
    for A_prev, delta, W, b, dW, db in layers:
        weight_gradient(A_prev, delta, dW)
        bias_gradient(delta, db)
        sgd(dW, lr / len(X), W)
        sgd(db, lr / len(X), b)

For whole networks in your loops, see `fastbp.jit`.
"""

from importlib import import_module
from pathlib import Path

from .cache import is_compiler_off
from .tables import PUBLIC

__all__ = sorted(PUBLIC)


def __getattr__(name):
    if name not in PUBLIC:
        if (Path(__file__).parent / f"{name}.py").exists():
            return import_module(f".{name}", __name__)
        raise AttributeError(f"{__name__} has no {name!r}")
    if is_compiler_off():
        return getattr(import_module("..reference", __name__), name)
    from .public import kernel

    return kernel(name)


def __dir__():
    return sorted([*globals(), *__all__])
