"""Largest difference from NumPy in float64: of every elementwise kernel, and of gradients."""

import numpy as np

import fastbp
from fastbp import kernels, reference
from fastbp.losses import LOSSES

from .kernels import ACTIVATIONS, DTYPES, ONE_ARGUMENT, TWO_ARGUMENTS


class Elementwise:
    """Largest difference in units in the last place of the exact value."""

    param_names = ["kernel", "dtype"]
    params = [ONE_ARGUMENT + TWO_ARGUMENTS + ["softmax"], DTYPES]
    unit = "units in the last place"

    def track_largest_difference(self, kernel, dtype):
        Z = np.linspace(-20, 20, 100_000).reshape(-1, 10).astype(dtype)
        if kernel == "log":
            Z = np.exp(Z)
        arguments = (Z, _twin(kernel.removesuffix("_derivative"), Z).astype(dtype)) if kernel in TWO_ARGUMENTS else (Z,)
        result = np.empty_like(Z)
        getattr(kernels, kernel)(*arguments, result)
        exact = _twin(kernel, *arguments)
        difference = np.abs(result - exact) / np.spacing(np.abs(exact).astype(dtype)).astype(np.float64)
        return float(difference.max())


class Gradients:
    """Largest difference of a gradient, as a share of its largest element."""

    param_names = ["activation", "loss", "dtype"]
    params = [ACTIVATIONS, list(LOSSES), DTYPES]
    unit = "share of the largest element"

    def track_largest_difference(self, activation, loss, dtype):
        output = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}.get(loss, "identity")
        net = fastbp.Network([20, 30, 15, 5], [activation, activation, output], loss=loss, dtype="float64", seed=0)
        net.parameters = net.parameters.astype(np.float32)  # values that both dtypes hold
        rng = np.random.default_rng(0)
        X, Y = rng.standard_normal((50, 20)).astype(np.float32), rng.dirichlet(np.ones(5), 50).astype(np.float32)
        tested = fastbp.Network(net.sizes, net.activations, loss=loss, dtype=dtype, seed=0)
        tested.parameters = net.parameters
        exact = net.with_backend("numpy").gradients(X, Y)
        pairs = zip(tested.gradients(X, Y).weights, exact.weights, strict=True)
        return float(max(np.abs(dW - right).max() / np.abs(right).max() for dW, right in pairs))


def _twin(kernel, *arguments):
    """Result of the NumPy kernel in float64."""
    arguments = [np.asarray(argument, np.float64) for argument in arguments]
    result = np.empty_like(arguments[0])
    getattr(reference, kernel)(*arguments, result)
    return result
