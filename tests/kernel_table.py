"""The table of public kernels: for each its arguments, for any shape.

It drives the equivalence tests and those of the memory that kernels access.  A kernel's twin has its name in
`fastbp.reference`.  Activations, losses and update rules stand here by the library's tables; another new kernel needs
one row.
"""

import inspect
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
from llvmlite.binding import get_host_cpu_features
from shared import HIDDEN

from fastbp import reference
from fastbp.losses import LOSSES, settings_of
from fastbp.optimizers import OPTIMIZERS, SGD


class Row(NamedTuple):
    """One kernel, or one of the forms of its arguments.

    arguments : (rng, dtype, *shape) -> list of arrays and numbers, in the order of the call; `out` is full of NaN.
    shapes : those of the exhaustive equivalence test.
    terms : shape -> how many numbers an element of the result sums, which bounds its rounding.
    written : names of the arguments that the kernel writes.
    """

    name: str
    arguments: Callable
    shapes: list
    terms: Callable = lambda *shape: 1
    written: tuple = ("out",)
    form: str = ""

    @property
    def parameters(self):
        return list(inspect.signature(getattr(reference, self.name)).parameters)

    @property
    def quick_shapes(self):
        """Some of the shapes; every size of every axis is among them."""
        return self.shapes if len(self.shapes) < 30 else [*self.shapes[::5], *self.shapes[-6:]]


# One above and below the lanes of a vector (8, 16), the columns of a tile (4 ... 32; up to 128 for few rows), its rows
# (6, 12) and KC (256); primes; ones.
ROWS_OF_TILES = (1, 2, 5, 6, 7, 11, 12, 13, 23, 24, 25, 37)
COLUMNS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 37, 63, 64, 65)
FEW_ROWS, WIDE_ROWS = (1, 2, 3, 4), (95, 96, 97, 113, 127, 128, 129, 160, 255, 256, 257)
DEPTHS = (1, 2, 3, 17, 255, 256, 257)
ELEMENTS = [(1, n) for n in (*COLUMNS, 127, 128, 129, 257)] + [(3, 5), (13, 11), (127, 1), (8, 16), (17, 31)]
SAMPLES = list(product((1, 2, 3, 7, 8, 9, 15, 16, 17, 33), COLUMNS))
TILES = [
    *[
        (rows, columns, DEPTHS[(i + shift) % len(DEPTHS)])
        for i, (rows, columns) in enumerate([*product(ROWS_OF_TILES, COLUMNS), *product(FEW_ROWS, WIDE_ROWS)])
        for shift in (0, 3)
    ],
    (25, 256, 3),
    (37, 259, 257),
    (49, 300, 2),
    (2, 3, 513),
    (1, 1, 1031),
    (37, 515, 517),
]


def nan(dtype, *shape):
    return np.full(shape, np.nan, dtype)


def uniform(rng, low, high, dtype, *shape):
    return rng.uniform(low, high, shape).astype(dtype)


def elementwise(low, high):
    return lambda rng, dtype, n, m: [uniform(rng, low, high, dtype, n, m), nan(dtype, n, m)]


def derivative_of(activation):
    def arguments(rng, dtype, n, m):
        Z = uniform(rng, -6, 6, dtype, n, m)
        A = np.empty_like(Z)
        getattr(reference, activation)(Z, A)
        return [Z, A, nan(dtype, n, m)]

    return arguments


def of_samples(low, high, *loss_parameters, low_y=None, is_derivative=False):
    """A (or Z) between low and high, Y between low_y and high, and the parameters of a loss."""

    def arguments(rng, dtype, n, m):
        A = uniform(rng, low, high, dtype, n, m)
        Y = uniform(rng, low if low_y is None else low_y, high, dtype, n, m)
        return [A, Y, *map(dtype, loss_parameters), nan(dtype, n, m) if is_derivative else nan(dtype, n)]

    return arguments


def of_classes(low, high, *, labels, is_derivative=False):
    """A (or Z) between low and high; Y class labels, or rows of probabilities."""

    def arguments(rng, dtype, n, m):
        Y = rng.integers(0, m, n) if labels else rng.dirichlet(np.ones(m), n).astype(dtype)
        return [uniform(rng, low, high, dtype, n, m), Y, nan(dtype, n, m) if is_derivative else nan(dtype, n)]

    return arguments


def affine_forward(rng, dtype, rows, columns, depth):
    A_prev, W = uniform(rng, -1, 1, dtype, rows, depth), uniform(rng, -1, 1, dtype, depth, columns)
    return [A_prev, W, uniform(rng, -1, 1, dtype, columns), nan(dtype, rows, columns)]


def propagate_delta(rng, dtype, rows, columns, depth):
    delta, W = uniform(rng, -1, 1, dtype, rows, depth), uniform(rng, -1, 1, dtype, columns, depth)
    return [delta, W, uniform(rng, 0, 1, dtype, rows, columns), nan(dtype, rows, columns)]


def weight_gradient(rng, dtype, rows, columns, depth):
    A_prev, delta = uniform(rng, -1, 1, dtype, depth, rows), uniform(rng, -1, 1, dtype, depth, columns)
    return [A_prev, delta, nan(dtype, rows, columns)]


def bias_gradient(rng, dtype, rows, columns):
    return [uniform(rng, -1, 1, dtype, rows, columns), nan(dtype, columns)]


def layer_jacobian(rng, dtype, rows, columns, depth):
    A_prev, delta = uniform(rng, -1, 1, dtype, rows, depth), uniform(rng, -1, 1, dtype, rows, columns)
    return [A_prev, delta, 3, nan(dtype, rows, (depth + 1) * columns + 5)]


def sgd(rng, dtype, n, m):
    return [uniform(rng, -1, 1, dtype, n * m), dtype(0.3), uniform(rng, -1, 1, dtype, n * m)]


def sgd_momentum(nesterov):
    def arguments(rng, dtype, n, m):
        gradient, velocity, parameters = (uniform(rng, -1, 1, dtype, n * m) for _ in range(3))
        return [gradient, dtype(0.3), dtype(0.9), nesterov, velocity, parameters]

    return arguments


def random_numbers(n_names, size):
    """X, the key and the other names of the random numbers, and their rate or size."""
    return lambda rng, dtype, n, m: [
        uniform(rng, -1, 1, dtype, n, m),
        -n * 10**15,
        *range(m, m + n_names),
        size,
        nan(dtype, n, m),
    ]


def update(hyperparameters, *, n_states=2, running_products=False, has_steps=False):
    """A rule: gradient, lr, hyperparameters, running products, states >= 0 (but the first of two), parameters."""

    def arguments(rng, dtype, n, m):
        states = [uniform(rng, -1 if i == 0 and n_states == 2 else 0.01, 1, dtype, n * m) for i in range(n_states)]
        if has_steps:
            states[1][::3] = 0
        products = [np.array([0.8, 0.9, 0.95, 7.0])] if running_products else []
        return [
            uniform(rng, -1, 1, dtype, n * m),
            dtype(0.01),
            *map(dtype, hyperparameters),
            *products,
            *states,
            uniform(rng, -1, 1, dtype, n * m),
        ]

    return arguments


def penalize(rng, dtype, n, m):
    parameters = uniform(rng, -1, 1, dtype, n * m)
    parameters[::5] = 0
    return [parameters, dtype(0.3), dtype(0.2), uniform(rng, -1, 1, dtype, n * m)]


def limited(limit):
    return lambda rng, dtype, n, m: [dtype(limit), uniform(rng, -1, 1, dtype, n * m)]


def max_norm(rng, dtype, n, m):
    return [dtype(np.sqrt(n / 3)), uniform(rng, -1, 1, dtype, n, m)]


def learning_rate(kind, *hyperparameters):
    return lambda rng, dtype, n, m: [
        kind,
        np.array(hyperparameters, float),
        rng.integers(0, 120, n * m),
        nan(float, n * m),
    ]


def shuffle(rng, dtype, n, m):
    return [rng.integers(0, 2**32, n * m, dtype=np.uint32), np.full(n * m, -1)]


def counted(name, *, labels=False):
    """Outputs and targets to count, added to earlier counts; few distinct values, so that many are equal."""

    def arguments(rng, dtype, n, m):
        A = rng.integers(0, 4, (n, m)).astype(dtype) / 3
        Y = rng.integers(0, m, n) if labels else rng.integers(0, 3, (n, m)).astype(dtype) / 2
        counts, right = rng.integers(0, 99, (3, m)), rng.integers(0, 99, 1)
        return {
            "class_counts": [A, Y, counts],
            "label_counts": [A, Y, 0.5, counts, right],
            "top_counts": [A, Y, int(rng.integers(1, m + 1)), right],
        }[name]

    return arguments


def error_sums(rng, dtype, n, m):
    totals = rng.uniform(0, 1, (7, m))
    totals[0] = rng.integers(0, 9)
    totals[:, :] *= totals[0] > 0
    return [uniform(rng, -2, 2, dtype, n, m), uniform(rng, -2, 2, dtype, n, m), totals]


def sums_columns(n, m):
    return m


def sums_depth(rows, columns, depth):
    return depth


def rule_row(optimizer):
    """The row of an optimizer's update rule."""
    rule = optimizer.rule
    hyperparameters = HYPERPARAMETERS.get(rule, optimizer.hyperparameters)
    written = list(inspect.signature(getattr(reference, rule)).parameters)[2 + len(hyperparameters) :]
    arguments = update(
        hyperparameters,
        n_states=optimizer.n_states,
        running_products="running_products" in written,
        has_steps=rule == "rprop",
    )
    return Row(rule, arguments, ELEMENTS, lambda n, m: 3, written=tuple(written))


ADAM = (0.9, 0.99, 1e-3)
HYPERPARAMETERS = {  # of update rules; of the others the defaults
    "rmsprop": (0.9, 1e-3),
    "adagrad": (1e-3,),
    "adam": ADAM,
    "adam_eps_hat": ADAM,
    "adamw": (*ADAM, 0.3),
    "classical_momentum": (0.9, 1.0),
    "nadam": (*ADAM, 0.98),
    "lion": (0.9, 0.8, 0.3),
    "rprop": (0.5, 1.2, 0.03, 0.9),
}
RULES = [kind(0.01) for kind in OPTIMIZERS if hasattr(kind, "rule") and kind is not SGD]  # whose rows are below
SCHEDULES = [  # hyperparameters, by code
    [(0.3,)],
    [(0.3, 0.5, 10)],
    [(0.3, 0.97)],
    [(0.3, 0.6)],
    [(0.3, 0.1, 7, 50, 0), (0.3, 0.0, 0, 13, 1), (0.3, 0.1, 7, 10, 3)],
    [(0.01, 0.3, 0.001, 20.6, 90)],
    [(0, 0.3), (3, 1, 10, 50, 0.3, 0.2, 0.4, 0.1)],
    [(0.3, 90, 15), (0.3, 7, 1), (0.3, 200, 63)],
    [(0, *np.linspace(0.3, 0.1, 120)), (-3, *np.linspace(0, 0.1, 123))],
]


def ends_of(name):
    """Where outputs and targets of a loss lie, and its parameter, if any, somewhat off the default."""
    row = LOSSES[name]
    ends = (0.02, 0.98) if row.within_01 else (0.02, 3) if row.is_positive else (-2, 2)
    return *ends, *(0.875 * value for value in settings_of(name).values())


ENDS = {name: ends_of(name) for name, row in LOSSES.items() if not row.takes_labels}
TABLE = [
    Row("exp", elementwise(-80, 80), ELEMENTS),
    Row("log", elementwise(1e-30, 9), ELEMENTS),
    *[Row(name, elementwise(-6, 6), ELEMENTS) for name in HIDDEN],
    *[Row(f"{name}_derivative", derivative_of(name), ELEMENTS) for name in HIDDEN],
    Row("softmax", elementwise(-4, 4), SAMPLES, sums_columns),
    Row("softmax_backward", of_samples(0, 1, is_derivative=True), SAMPLES, sums_columns),
    *[Row(name, of_samples(*ends), SAMPLES, sums_columns) for name, ends in ENDS.items()],
    *[Row(f"{name}_derivative", of_samples(*ends, is_derivative=True), SAMPLES) for name, ends in ENDS.items()],
    Row("binary_cross_entropy_logits", of_samples(-9, 1, low_y=0), SAMPLES, sums_columns),
    *[
        Row(
            f"cross_entropy{suffix}",
            of_classes(*ends, labels=form == "labels", is_derivative=suffix == "_derivative"),
            SAMPLES,
            sums_columns,
            form=form,
        )
        for suffix, ends in {"": (0.02, 1), "_derivative": (0.02, 1), "_logits": (-9, 9)}.items()
        for form in ("labels", "rows")
    ],
    Row("affine_forward", affine_forward, TILES, sums_depth),
    Row("propagate_delta", propagate_delta, TILES, sums_depth),
    Row("weight_gradient", weight_gradient, TILES, sums_depth),
    Row("bias_gradient", bias_gradient, SAMPLES, lambda n, m: n),
    Row("layer_jacobian", layer_jacobian, TILES[:-6]),
    Row("sgd", sgd, ELEMENTS, written=("parameters",)),
    *[
        Row(
            "sgd_momentum",
            sgd_momentum(nesterov),
            ELEMENTS,
            written=("velocity", "parameters"),
            form="nesterov" if nesterov else "classical",
        )
        for nesterov in (False, True)
    ],
    Row("dropout", random_numbers(2, 0.4), SAMPLES),
    Row("input_noise", random_numbers(1, 0.7), SAMPLES, terms=lambda n, m: 1000),  # its cosine is a series
    *map(rule_row, RULES),
    Row("penalize", penalize, ELEMENTS, written=("gradient",)),
    Row("clip_value", limited(0.6), ELEMENTS, written=("gradient",)),
    *[
        Row("clip_norm", limited(limit), ELEMENTS, written=("gradient",), form=form)
        for form, limit in {"clips": 0.1, "leaves": 99}.items()
    ],
    Row("max_norm", max_norm, SAMPLES, lambda n, m: n, written=("W",)),
    *[
        Row("learning_rate", learning_rate(kind, *hyperparameters), ELEMENTS, lambda n, m: 1, form=f"{kind}-{i}")
        for kind, settings in enumerate(SCHEDULES)
        for i, hyperparameters in enumerate(settings)
    ],
    Row("shuffle", shuffle, ELEMENTS, written=("order",)),
    *[
        Row(name, counted(name, labels=form == "labels"), SAMPLES, written=("counts", "right"), form=form)
        for name in ("class_counts", "top_counts")
        for form in ("labels", "rows")
    ],
    Row("label_counts", counted("label_counts"), SAMPLES, written=("counts", "right")),
    Row("error_sums", error_sums, SAMPLES, lambda n, m: n, written=("totals",)),
]


def name_of(row):
    """The name of a row in the tests."""
    return f"{row.name}-{row.form}" if row.form else row.name


def expected(row, arguments):
    """The results of the twin in float64, by the names of the written arguments."""
    copies = [np.array(a, np.float64 if np.asarray(a).dtype.kind == "f" else None) for a in arguments]
    copies = [a if a.ndim else a[()] for a in copies]
    getattr(reference, row.name)(*copies)
    return {name: a for name, a in zip(row.parameters, copies, strict=True) if name in row.written}


def assert_results(row, shape, arguments, results):
    """Assert that the kernel wrote what its twin writes, to the rounding of their dtype."""
    for name, a in zip(row.parameters, arguments, strict=True):
        if name in row.written:
            tolerance = 8 * (1 + row.terms(*shape)) * np.finfo(a.dtype).eps if a.dtype.kind == "f" else 0
            np.testing.assert_allclose(a, results[name], tolerance, tolerance, err_msg=f"{name_of(row)} {shape} {name}")


# A processor with registers of 32 bytes: this one without the features that make them wider.
WIDER = ("avx512", "avx10", "evex512", "amx")
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": ",".join(
        f"{'+' if has and not name.startswith(WIDER) else '-'}{name}" for name, has in get_host_cpu_features().items()
    ),
}
