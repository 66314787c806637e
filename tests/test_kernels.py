"""Every public kernel against its NumPy twin; the accuracy of the functions; infinities and NaN."""

import inspect
from importlib import import_module

import kernel_table as table
import mpmath
import numba
import numpy as np
import pytest
from fastbp.kernels.jit import Source
from fastbp.kernels.public import Kernel, check, describe
from fastbp.kernels.tables import PUBLIC
from mpmath import mp

from fastbp import Network, kernels, reference
from fastbp.activations import ACTIVATIONS
from fastbp.losses import LOSSES, settings_of

ELEMENTWISE = [name for name in ACTIVATIONS if name != "softmax"]
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_row = pytest.mark.parametrize("row", table.TABLE, ids=table.name_of)


def call(name, *arguments, shape=None):
    """Run a kernel on an `out` full of NaN."""
    out = np.full(arguments[0].shape if shape is None else shape, np.nan, arguments[0].dtype)
    getattr(kernels, name)(*arguments, out)
    return out


# ------------------------------------------------------------------ the table is complete


def test_every_public_kernel_has_a_row_and_a_twin():
    assert {row.name for row in table.TABLE} == set(kernels.__all__) == set(reference.__all__)
    for name in kernels.__all__:
        arguments = list(inspect.signature(getattr(reference, name)).parameters)
        assert list(inspect.signature(getattr(kernels, name)).parameters) == arguments, name
    for name in ELEMENTWISE:
        assert {name, f"{name}_derivative"} <= set(kernels.__all__)
    for name in LOSSES:
        assert {name, f"{name}_derivative"} <= set(kernels.__all__)


@pytest.mark.parametrize("name", sorted({module for module, _ in PUBLIC.values()}))
def test_every_kernel_of_a_file_is_public(name):
    module = import_module(f"fastbp.kernels.{name}")
    public = {kernel for kernel, (file, _) in PUBLIC.items() if file == name}
    assert {key for key, value in vars(module).items() if isinstance(getattr(value, "native", None), Source)} == public
    assert all(isinstance(getattr(kernels, kernel), Kernel) and getattr(kernels, kernel).__doc__ for kernel in public)


# ------------------------------------------------------------------ equivalence


@each_row
def test_the_quick_shapes_have_every_size(row):
    for every, quick in zip(zip(*row.shapes, strict=True), zip(*row.quick_shapes, strict=True), strict=True):
        assert set(quick) == set(every)


@each_dtype
@each_row
@pytest.mark.parametrize("shapes", ["quick_shapes", pytest.param("shapes", marks=pytest.mark.exhaustive)])
def test_kernel_against_its_twin(row, dtype, shapes):
    rng = np.random.default_rng(0)
    for shape in getattr(row, shapes):
        arguments = row.arguments(rng, dtype, *shape)
        before = [np.copy(a) for a in arguments]
        results = table.expected(row, arguments)
        assert getattr(kernels, row.name)(*arguments) is None
        table.assert_results(row, shape, arguments, results)
        for name, a, copy in zip(row.parameters, arguments, before, strict=True):
            assert name in row.written or np.asarray(a).tobytes() == copy.tobytes(), f"{row.name} changed {name}"


@each_dtype
@pytest.mark.parametrize(
    "name", [*ELEMENTWISE, *[f"{name}_derivative" for name in ELEMENTWISE], "exp", "log", "softmax", "softmax_backward"]
)
def test_out_may_be_an_argument(name, dtype):
    rng = np.random.default_rng(0)
    row = next(row for row in table.TABLE if row.name == name)
    for shape in ((1, 1), (3, 5), (2, 37)):
        *arguments, out = row.arguments(rng, dtype, *shape)
        getattr(kernels, name)(*arguments, out)
        for i in range(len(arguments)):
            inputs = [a.copy() for a in arguments]
            getattr(kernels, name)(*inputs, inputs[i])
            np.testing.assert_array_equal(inputs[i], out)


def test_kernels_can_be_called_in_compiled_code():
    @numba.njit
    def layer(A_prev, W, b, out):
        kernels.affine_forward(A_prev, W, b, out)
        kernels.sigmoid(out, out)

    rng = np.random.default_rng(0)
    A_prev, W, b = rng.normal(size=(5, 7)), rng.normal(size=(7, 3)), rng.normal(size=3)
    out = np.full((5, 3), np.nan)
    layer(A_prev, W, b, out)
    np.testing.assert_allclose(out, 1 / (1 + np.exp(-(A_prev @ W + b))), rtol=1e-13)


# ------------------------------------------------------------------ arrays of the wrong layout or dtype


def variants(row, name, array, n_floats):
    """Arrays that an argument may not be: (words of the message, array)."""
    strided = np.repeat(array, 2, axis=-1)[..., ::2]
    if not strided.flags.c_contiguous:
        yield f"{name} must be C-contiguous, got array.*A", strided
        reversed_rows = array[::-1]
        yield f"{name} must be C-contiguous, got array.*A", reversed_rows
    if array.ndim == 2:
        yield f"{name} must be C-contiguous, got array.*F.*numpy.ascontiguousarray", np.asfortranarray(array)
    is_labels = name == "Y" and array.ndim == 1
    if array.dtype.kind == "f":
        yield f"{name} must be .*float64.*, got int64", np.zeros_like(array, np.int64)
        if n_floats > 1 and (row.name, name) != ("learning_rate", "out"):
            yield "must be float(32|64)(, as the arrays before it)?, got float(32|64)", array.astype(np.float32)
    elif not is_labels:
        yield f"{name} must be u?int(32|64), got int32", array.astype(np.int32)
    if name in row.written:
        array = array.copy()
        array.flags.writeable = False
        yield f"{name} is written to, but the array is read-only", array


@each_row
def test_arrays_of_another_layout_or_dtype_are_refused(row):
    given = row.arguments(np.random.default_rng(0), np.float64, *(3, 5, 4)[: len(row.shapes[0])])
    before = [np.copy(a) for a in given]
    n_floats = sum(isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in given)
    for i, (name, array) in enumerate(zip(row.parameters, given, strict=True)):
        if not isinstance(array, np.ndarray):
            continue
        for words, variant in variants(row, name, array, n_floats):
            arguments = [*given[:i], variant, *given[i + 1 :]]
            with pytest.raises(TypeError, match=f"^{row.name}: .*({words})"):
                getattr(kernels, row.name)(*arguments)
        if name not in row.written:  # arrays that are only read may be read-only
            copy = array.copy()
            copy.flags.writeable = False
            check(row.name, [describe(copy if j == i else a) for j, a in enumerate(given)])
    for a, b in zip(before, given, strict=True):
        np.testing.assert_array_equal(a, b)


def test_arrays_of_another_layout_are_refused_in_compiled_code():
    @numba.njit
    def transposed(Z, out):
        kernels.sigmoid(Z.T, out)

    @numba.njit
    def with_columns_left_out(Z, out):
        kernels.sigmoid(Z[:, 1:], out)

    for function, layout in ((transposed, "F"), (with_columns_left_out, "A")):
        with pytest.raises(
            (TypeError, numba.TypingError),
            match=f"sigmoid: Z must be C-contiguous, got array.*{layout}.*numpy.ascontiguousarray",
        ):
            function(np.zeros((3, 4)), np.zeros((4, 3)))


# ------------------------------------------------------------------ accuracy, against arithmetic of 120 bits

N_NEIGHBORS = 9


@pytest.fixture(autouse=True)
def precision():
    with mpmath.workprec(120):
        yield


def around(dtype, *values):
    """The numbers next to each value."""
    values = np.array(values, dtype)
    result = [values]
    for direction in (-np.inf, np.inf):
        step = values
        for _ in range(N_NEIGHBORS):
            step = np.nextafter(step, dtype(direction))
            result.append(step)
    return np.concatenate(result)


def errors(x, y, function):
    """Differences of y from function(x) in units in the last place of the latter."""
    result = []
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        exact = function(mp.mpf(a))
        if abs(exact) > mp.mpf(float(np.finfo(y.dtype).max)):
            result.append(0.0 if b == float(exact) or np.isinf(b) else np.inf)
        else:
            unit = np.spacing(np.abs(y.dtype.type(float(exact))))
            result.append(float(abs(mp.mpf(b) - exact) / mp.mpf(float(unit))))
    return np.array(result)


def check_ulp(name, x, function, most):
    x = x.reshape(1, -1)
    y = call(name, x)
    error = errors(x[0], y[0], function)
    worst = error.argmax()
    assert error[worst] <= most, f"{name}({x[0, worst]!r}) = {y[0, worst]!r}: {error[worst]} units in the last place"


@each_dtype
def test_exp_to_two_units_in_the_last_place(dtype):
    rng = np.random.default_rng(1)
    info = np.finfo(dtype)
    high, normal, low = np.log(float(info.max)), np.log(float(info.tiny)), np.log(float(info.smallest_subnormal))
    x = np.concatenate(
        [
            rng.uniform(normal, high, 12_000),
            rng.uniform(low, normal, 1_500),
            rng.normal(size=3_000),
            rng.choice([-1, 1], 3_000) * 10.0 ** rng.uniform(np.log10(float(info.smallest_subnormal)), 0, 3_000),
            (np.arange(round(low / np.log(2)), round(high / np.log(2))) + 0.5) * np.log(2),  # where r is largest
        ]
    ).astype(dtype)
    edges = around(
        dtype,
        0.0,
        1.0,
        high,
        normal,
        low,
        low - np.log(2),
        -88.7,
        88.7,
        87.3,
        -87.3,
        89,
        -104,
        709.78,
        -708.4,
        -745.1,
        710,
        -746,
    )
    if dtype == np.float32:
        edges = edges[np.abs(edges) < 200]
    check_ulp("exp", np.concatenate([x[x <= high], edges]), mp.exp, 2)
    zeros = np.array([[0.0, -0.0, info.smallest_subnormal, -info.smallest_subnormal, info.tiny, -info.tiny]], dtype)
    np.testing.assert_array_equal(call("exp", zeros), 1)
    last = next(v for v in np.sort(around(dtype, high))[::-1] if mp.exp(mp.mpf(float(v))) <= float(info.max))
    beyond = np.array(
        [[last, np.nextafter(last, dtype(np.inf)), 1e4, info.max, np.inf, -1e4, -info.max, -np.inf, np.nan]], dtype
    )
    result = call("exp", beyond)[0]
    assert np.isfinite(result[0])
    np.testing.assert_array_equal(result[1:], [np.inf] * 4 + [0.0] * 3 + [np.nan])


def test_exp_of_a_million_numbers_in_float32():
    x = np.linspace(-103.97, 88.722, 1_000_003, dtype=np.float32).reshape(1, -1)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(call("exp", x) - exact) / np.spacing(exact.astype(np.float32))).max() <= 2


@each_dtype
def test_log_to_two_units_in_the_last_place(dtype):
    rng = np.random.default_rng(2)
    info = np.finfo(dtype)
    every = rng.integers(1, int(np.array(info.max).view(f"i{info.bits // 8}")), 12_000).astype(f"i{info.bits // 8}")
    x = np.concatenate(
        [
            every.view(dtype),
            np.exp(rng.normal(size=6_000)).astype(dtype),
            (1 + rng.normal(size=6_000) / 99).astype(dtype),
            rng.uniform(0, float(info.tiny), 1_500).astype(dtype),
            around(dtype, 1.0, 2.0, 0.5, np.sqrt(0.5), np.sqrt(2), np.e, info.tiny),
            np.array([info.smallest_subnormal, info.max], dtype),
        ]
    )
    check_ulp("log", x[x > 0], mp.log, 2)
    x = np.array([[1, 0, -0.0, np.inf, -1, -info.tiny, -np.inf, np.nan]], dtype)
    np.testing.assert_array_equal(call("log", x)[0], [0, -np.inf, -np.inf, np.inf, *[np.nan] * 4])


def sigmoid(z):
    return 1 / (1 + mp.exp(-z))


def normal_cdf(z):
    return mp.erfc(-z / mp.sqrt(2)) / 2


SELU = 1.0507009873554805, 1.6732632423543772


def mish_slope(z, softplus):
    return mp.tanh(softplus) + z * sigmoid(z) * mp.sech(softplus) ** 2


# function, its derivative, units in the last place; gelu's grow as exp(-z**2 / 2) magnifies the rounding of z
ACCURACY = {
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z)), 3),
    "tanh": (mp.tanh, lambda z: mp.sech(z) ** 2, 3),
    "relu": (lambda z: max(z, mp.zero), lambda z: mp.mpf(z > 0), 0),
    "leaky_relu": (lambda z: z if z > 0 else z * mp.mpf("0.01"), lambda z: mp.one if z > 0 else mp.mpf("0.01"), 1.5),
    "elu": (lambda z: z if z > 0 else mp.expm1(z), lambda z: mp.one if z > 0 else mp.exp(z), 2),
    "softplus": (lambda z: mp.log1p(mp.exp(z)), sigmoid, 3),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * (1 - sigmoid(z))), 4),
    "gelu": (lambda z: z * normal_cdf(z), lambda z: normal_cdf(z) + z * mp.npdf(z), None),
    "identity": (lambda z: z, lambda z: mp.one, 0),
    "selu": (
        lambda z: SELU[0] * (z if z > 0 else SELU[1] * mp.expm1(z)),
        lambda z: SELU[0] * (mp.one if z > 0 else SELU[1] * mp.exp(z)),
        3,
    ),
    "mish": (lambda z: z * mp.tanh(mp.log1p(mp.exp(z))), lambda z: mish_slope(z, mp.log1p(mp.exp(z))), 6),
    "softsign": (lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2, 1.5),
    "hard_sigmoid": (
        lambda z: min(max(z + 3, mp.zero), mp.mpf(6)) / 6,
        lambda z: mp.mpf(1) / 6 if abs(z) < 3 else mp.zero,
        1.5,
    ),
    "hard_tanh": (lambda z: min(max(z, -mp.one), mp.one), lambda z: mp.mpf(abs(z) < 1), 0),
    "exponential": (mp.exp, mp.exp, 2),
}


@each_dtype
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation_accuracy(name, dtype):
    function, derivative, most = ACCURACY[name]
    rng = np.random.default_rng(3)
    info = np.finfo(dtype)
    end = 13 if name == "gelu" else 60
    z = np.concatenate(
        [
            rng.uniform(-end, end, 1_500),
            rng.normal(size=1_500),
            10.0 ** rng.uniform(-9, 0, 500),
            -(10.0 ** rng.uniform(-9, 0, 500)),
            [20, -20, 40, -40, 1e-30, -1e-30],
        ]
    ).astype(dtype)
    Z = z.reshape(1, -1)
    A = call(name, Z)
    error = errors(z, A[0], function)
    if name == "gelu":
        assert (error <= 16 + 2 * z.astype(float) ** 2).all()
        error = error[z > -1]
        most = 16
    assert error.max() <= most, f"{name}({z[error.argmax()]!r}) is wrong by {error.max()} units"
    slopes = np.array([float(derivative(mp.mpf(v))) for v in z.tolist()])
    tolerance = (4 + np.abs(z).max() / 2) * float(info.eps)
    relative = tolerance if name == "exponential" else 0
    np.testing.assert_allclose(call(f"{name}_derivative", Z, A)[0], slopes, relative, tolerance)


@each_dtype
@pytest.mark.parametrize("name", ["sigmoid", "silu", "gelu", "softplus", "elu", "tanh", "selu", "mish", "softsign"])
def test_activation_in_the_far_tails(name, dtype):
    info = np.finfo(dtype)
    z = np.linspace(-2.0, 2.0, 501) * -np.log(float(info.smallest_subnormal))
    z = z.astype(dtype)
    exact = np.array([float(ACCURACY[name][0](mp.mpf(v))) for v in z.tolist()])
    smallest = float(info.tiny) * 2 * np.abs(z.astype(float)).max()
    np.testing.assert_allclose(call(name, z.reshape(1, -1))[0], exact, 4096 * float(info.eps), smallest)


# ------------------------------------------------------------------ infinities and NaN

INF, NAN = np.inf, np.nan
LIMITS = {  # at minus and plus infinity: A, f'(Z)
    "sigmoid": ((0, 0), (1, 0)),
    "tanh": ((-1, 0), (1, 0)),
    "relu": ((0, 0), (INF, 1)),
    "leaky_relu": ((-INF, 0.01), (INF, 1)),
    "elu": ((-1, 0), (INF, 1)),
    "softplus": ((0, 0), (INF, 1)),
    "silu": ((0, 0), (INF, 1)),
    "gelu": ((0, 0), (INF, 1)),
    "identity": ((-INF, 1), (INF, 1)),
    "selu": ((-SELU[0] * SELU[1], 0), (INF, SELU[0])),
    "mish": ((0, 0), (INF, 1)),
    "softsign": ((-1, 0), (1, 0)),
    "hard_sigmoid": ((0, 0), (1, 0)),
    "hard_tanh": ((-1, 0), (1, 0)),
    "exponential": ((0, 0), (INF, INF)),
}


@each_dtype
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_saturation(name, dtype):
    info = np.finfo(dtype)
    low, high = LIMITS[name]
    for n in (1, 16, 37):  # in whole vectors and in the last, short one
        for big in (1e30, info.max, INF):
            for sign, (limit, slope) in ((-1, low), (1, high)):
                Z = np.full((1, n), sign * big, dtype)
                A = call(name, Z)
                if np.isfinite(limit) or np.isinf(big) or np.isinf(slope):
                    np.testing.assert_allclose(A, dtype(limit), info.eps if name == "selu" else 0)
                else:
                    factor = {"leaky_relu": 0.01 if sign < 0 else 1, "selu": SELU[0]}.get(name, 1)
                    with np.errstate(over="ignore"):
                        np.testing.assert_allclose(A, Z * dtype(factor), 1e-6)
                derivative = call(f"{name}_derivative", Z, A)
                assert np.isfinite(derivative).all() == np.isfinite(slope), f"{name}_derivative({sign * big})"
                np.testing.assert_allclose(derivative, slope, 1e-6, 4 * info.eps)


@each_dtype
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_stays_where_it_is(name, dtype):
    for n in (1, 16, 37):
        for at in {0, n // 2, n - 1}:
            Z = np.linspace(-3, 3, n, dtype=dtype).reshape(1, -1)
            Z[0, at] = NAN
            A = call(name, Z)
            assert np.isnan(A[0, at]) and np.isnan(A).sum() == 1
            assert np.isfinite(np.delete(call(f"{name}_derivative", Z, A), at)).all()


EXTREME = [
    [1e30, -1e30, 0],
    [INF, 0, 1],
    [-INF, 0, 0],
    [1e4, 1e4, 0],
    [INF, INF, 0],
    [-INF, -INF, -INF],
    [-1e30, -1e30, -1e30],
]


@each_dtype
def test_softmax_and_logits_saturate(dtype):
    Z = np.array(EXTREME, dtype)
    expected = np.array([[1, 0, 0], [1, 0, 0], [0, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0.5, 0], [1 / 3] * 3, [1 / 3] * 3])
    np.testing.assert_allclose(call("softmax", Z), expected, rtol=1e-6)
    wide = np.zeros((3, 40), dtype)
    wide[1, [0, 20, 39]] = 1e30
    wide[2, 39] = NAN
    A = call("softmax", wide)
    np.testing.assert_allclose(A[:2].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(A[1, [0, 20, 39]], 1 / 3, rtol=1e-6)
    assert np.isnan(A[2]).all()
    dA = np.full_like(Z, 2)
    assert np.isfinite(call("softmax_backward", np.ascontiguousarray(expected, dtype), dA)).all()


@each_dtype
@pytest.mark.parametrize("n_out", [2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33])
def test_softmax_of_rows_of_every_length_in_a_network(n_out, dtype):
    rng = np.random.default_rng(0)
    X, labels = (rng.standard_normal((6, 3)) * 20).astype(dtype), rng.integers(0, n_out, 6)
    nets = [
        Network((3, n_out), "softmax", "cross_entropy", seed=1, dtype=dtype, backend=name)
        for name in ("numba", "numpy")
    ]
    tolerance = 10 * np.finfo(dtype).eps
    np.testing.assert_allclose(*(net.predict(X) for net in nets), rtol=20 * tolerance, atol=tolerance)
    np.testing.assert_allclose(*(net.loss(X, labels) for net in nets), rtol=tolerance)


@each_dtype
@pytest.mark.parametrize("big", [1e4, 1e30])
def test_logits_losses_are_finite(dtype, big):
    Z = np.array([[big, -big, 0], [-big, big, 0], [big, big, big]], dtype)
    for right in range(3):
        labels = np.full(3, right)
        rows = np.eye(3, dtype=dtype)[labels]
        for Y in (labels, rows):
            losses = call("cross_entropy_logits", Z, Y, shape=3)
            assert np.isfinite(losses).all() and (losses >= 0).all()
        assert (call("cross_entropy_logits", Z, labels, shape=3)[:2] == 0).sum() == (0 if right == 2 else 1)
        assert np.isfinite(call("binary_cross_entropy_logits", Z, rows, shape=3)).all()
    right = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype)
    certain = np.where(right > 0, dtype(big), dtype(-big))
    assert (call("binary_cross_entropy_logits", certain, right, shape=3) == 0).all()


@each_dtype
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_finite_at_certain_outputs(loss, dtype):
    A, Y = np.array([[0, 1, 0], [1, 0, 1]], dtype), np.array([[1, 0, 0], [0, 0, 1]], dtype)
    parameters = settings_of(loss).values()
    assert np.isfinite(call(loss, A, Y, *parameters, shape=2)).all()
    assert np.isfinite(call(f"{loss}_derivative", A, Y, *parameters)).all()
    if LOSSES[loss].takes_labels:
        labels = np.array([0, 1])
        assert np.isfinite(call(loss, A, labels, shape=2)).all()
        assert np.isfinite(call(f"{loss}_derivative", A, labels)).all()
    A[0, 0] = NAN
    assert np.isnan(call(loss, A, Y, *parameters, shape=2)).tolist() == [True, False]
