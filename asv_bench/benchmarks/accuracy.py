"""Largest difference from NumPy in float64, for every elementwise kernel and for gradients."""

import numpy as np

import fastbp
from fastbp import kernels, reference
from fastbp.losses import LOSSES

from .kernels import ACTIVATIONS, DTYPES, ONE_ARGUMENT, TWO_ARGUMENTS


class Functions:
    """Largest difference in units in the last place of the exact value."""

    param_names = ["kernel", "dtype"]
    params = [[*ONE_ARGUMENT, "softmax"], DTYPES]
    unit = "units in the last place"

    def track_largest_difference(self, kernel, dtype):
        Z = np.linspace(-20, 20, 100_000).reshape(-1, 10).astype(dtype)
        if kernel == "log":
            Z = np.exp(Z)
        result, exact = _both(kernel, Z)
        return float((np.abs(result - exact) / np.spacing(np.abs(exact).astype(dtype)).astype("f8")).max())


class Derivatives:
    """Largest difference in units of eps; derivatives near 0 are computed from A, which is already rounded."""

    param_names = ["kernel", "dtype"]
    params = [TWO_ARGUMENTS, DTYPES]
    unit = "eps"

    def track_largest_difference(self, kernel, dtype):
        Z = np.linspace(-20, 20, 100_000).astype(dtype)
        A, _ = _both(kernel.removesuffix("_derivative"), Z)
        result, exact = _both(kernel, Z, A)
        return float(np.abs(result - exact).max() / np.finfo(dtype).eps)


class Gradients:
    """Largest difference of a gradient, relative to its largest element."""

    param_names = ["activation, loss", "dtype"]
    params = [[f"{name}, squared_error" for name in ACTIVATIONS] + [f"sigmoid, {name}" for name in LOSSES][1:], DTYPES]
    unit = "fraction of the largest element"

    def track_largest_difference(self, names, dtype):
        activation, loss = names.split(", ")
        output = {
            "cross_entropy": "softmax",
            "binary_cross_entropy": "sigmoid",
            "focal": "sigmoid",
            "poisson": "softplus",
        }.get(loss, "identity")
        rng = np.random.default_rng(0)
        X, Y = rng.standard_normal((50, 20)).astype("f4"), rng.dirichlet(np.ones(5), 50).astype("f4")
        Y = np.where(Y < 0.2, -1.0, 1.0) if loss == "hinge" else Y
        sizes, activations = [20, 30, 15, 5], [activation, activation, output]
        tested = fastbp.Network(sizes, activations, loss=loss, dtype=dtype, seed=0)
        exact = fastbp.Network(sizes, activations, loss=loss, dtype="float64", backend="numpy")
        exact.parameters[:] = tested.parameters
        pairs = zip(tested.gradients(X, Y).weights, exact.gradients(X, Y).weights, strict=True)
        return float(max(np.abs(dW - right).max() / np.abs(right).max() for dW, right in pairs))


def _both(kernel, *arguments):
    """Return the result of the kernel, and of its NumPy twin in float64."""
    result, exact = np.empty_like(arguments[0]), np.empty(arguments[0].shape)
    getattr(kernels, kernel)(*arguments, result)
    getattr(reference, kernel)(*(argument.astype("f8") for argument in arguments), exact)
    return result, exact
