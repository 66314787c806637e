"""Time of each public elementwise and dense kernel, and of its NumPy twin."""

import importlib

import numpy as np

BACKENDS = ["fastbp.kernels", "fastbp.reference"]
DTYPES = ["float32", "float64"]
ACTIVATIONS = [
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "elu",
    "softplus",
    "silu",
    "gelu",
    "selu",
    "mish",
    "softsign",
    "hard_sigmoid",
    "hard_tanh",
    "exponential",
    "identity",
]

ONE_ARGUMENT = ["exp", "log", *ACTIVATIONS]
TWO_ARGUMENTS = [f"{name}_derivative" for name in ACTIVATIONS]


class _Kernel:
    """One call of `kernel(*arguments)`; subclasses make the arguments in `arguments`."""

    rounds, repeat, warmup_time, min_run_count = 1, (3, 10, 1.0), 0.02, 1

    def setup(self, kernel, size, dtype, backend):
        rng = np.random.default_rng(0)
        self.function = getattr(importlib.import_module(backend), kernel)
        self.values = self.arguments(kernel, size, lambda *shape: rng.standard_normal(shape).astype(dtype))
        self.function(*self.values)

    def time_kernel(self, kernel, size, dtype, backend):
        self.function(*self.values)


class Elementwise(_Kernel):
    """`size` elements, about -4 to 4; log takes their magnitudes."""

    param_names = ["kernel", "size", "dtype", "backend"]
    params = [ONE_ARGUMENT + TWO_ARGUMENTS, [1_000, 100_000], DTYPES, BACKENDS]

    def arguments(self, kernel, size, draw):
        Z = draw(size)
        if kernel in ONE_ARGUMENT:
            return np.abs(Z) if kernel == "log" else Z, np.empty_like(Z)
        return Z, np.tanh(Z), np.empty_like(Z)


class Softmax(_Kernel):
    """`size` rows of 10."""

    param_names = Elementwise.param_names
    params = [["softmax", "softmax_backward"], [100, 10_000], DTYPES, BACKENDS]

    def arguments(self, kernel, size, draw):
        Z = draw(size, 10)
        if kernel == "softmax":
            return Z, np.empty_like(Z)
        A = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
        return A, Z, np.empty_like(Z)


class Dense(_Kernel):
    """One layer: `size` is (samples, inputs, outputs)."""

    param_names = Elementwise.param_names
    params = [
        ["affine_forward", "propagate_delta", "weight_gradient", "bias_gradient"],
        [(1, 8, 16), (10, 64, 30), (64, 784, 128), (128, 512, 512)],
        DTYPES,
        BACKENDS,
    ]

    def arguments(self, kernel, size, draw):
        n_samples, n_in, n_out = size
        A_prev, W, b, delta = draw(n_samples, n_in), draw(n_in, n_out), draw(n_out), draw(n_samples, n_out)
        return {
            "affine_forward": (A_prev, W, b, np.empty_like(delta)),
            "propagate_delta": (delta, W, np.abs(A_prev), np.empty_like(A_prev)),
            "weight_gradient": (A_prev, delta, np.empty_like(W)),
            "bias_gradient": (delta, np.empty_like(b)),
        }[kernel]
