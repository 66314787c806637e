"""Losses, deltas and derivatives against mpmath, far into the saturation of every activation."""

from functools import cache

import mpmath
import numpy as np
import pytest
from mpmath import mp

import fastbp
from fastbp import kernels, losses, reference
from fastbp.activations import ACTIVATIONS
from fastbp.losses import LOSSES, Focal

mp_sigmoid = lambda z: 1 / (1 + mp.exp(-z))  # noqa: E731
mp_softplus = lambda z: mp.log1p(mp.exp(z))  # noqa: E731
SELU, ALPHA = mp.mpf(1.0507009873554805), mp.mpf(1.6732632423543772)
FUNCTIONS = {
    "sigmoid": mp_sigmoid,
    "tanh": mp.tanh,
    "relu": lambda z: max(z, mp.zero),
    "leaky_relu": lambda z: z if z > 0 else z / 100,
    "elu": lambda z: z if z > 0 else mp.expm1(z),
    "softplus": mp_softplus,
    "silu": lambda z: z * mp_sigmoid(z),
    "gelu": lambda z: z * mp.erfc(-z / mp.sqrt(2)) / 2,
    "selu": lambda z: SELU * (z if z > 0 else ALPHA * mp.expm1(z)),
    "mish": lambda z: z * mp.tanh(mp_softplus(z)),
    "softsign": lambda z: z / (1 + abs(z)),
    "hard_sigmoid": lambda z: min(max(z + 3, mp.zero), mp.mpf(6)) / 6,
    "hard_tanh": lambda z: min(max(z, -mp.one), mp.one),
    "exponential": mp.exp,
    "identity": lambda z: z,
}
BITS = 1300  # of the arithmetic: 1 - e**-750 needs 1,082
LOGITS = [
    -750,
    -300,
    -104,
    -88.5,
    -60,
    -40,
    -30,
    -17,
    -9.5,
    -3.25,
    -1.25,
    -0.125,
    0.25,
    2,
    8,
    12,
    17.5,
    25,
    37.5,
    45,
    90,
    200,
    750,
]
TARGETS = {"signs": [-1.0, 1], "probabilities": [0.0, 1, 0.25], "counts": [0.0, 1, 3], "numbers": [-2.0, 0.375]}
EVERY_LOSS = [*(name for name in LOSSES if name != "focal"), *(Focal(gamma) for gamma in (0, 0.5, 1, 2, 5))]
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def kind_of(loss):
    """Name what targets a loss takes."""
    row = losses.row_of(loss)
    return (
        "signs" if row.takes_signs else "probabilities" if row.within_01 else "counts" if row.is_positive else "numbers"
    )


def fits(activation, loss):
    """Whether a network takes the pair, and the loss is finite: -log 0 of hard_sigmoid is not."""
    row, gives = losses.row_of(loss), ACTIVATIONS[activation]
    return (
        row.within_01 <= gives.within_01
        and row.is_positive <= gives.is_positive
        and not (row.within_01 and activation == "hard_sigmoid")
    )


PAIRS = [(activation, loss) for activation in ACTIVATIONS for loss in EVERY_LOSS if fits(activation, loss)]


def exact_loss(loss, a, y):
    """Loss of one output; 0 log 0 is 0."""
    name, d = losses.name_of(loss), a - y
    log_a, log_b = (mp.log(a) if y else mp.zero), (mp.log1p(-a) if y != 1 else mp.zero)
    if name == "focal":
        gamma = mp.mpf(loss.gamma)
        return -(y * (1 - a) ** gamma * log_a if y else 0) - ((1 - y) * a**gamma * log_b if y != 1 else 0)
    return {
        "squared_error": lambda: d * d / 2,
        "absolute_error": lambda: abs(d),
        "huber": lambda: d * d / 2 if abs(d) < 1 else abs(d) - mp.mpf(0.5),
        "log_cosh": lambda: mp.log(mp.cosh(d)) if abs(d) < 2000 else abs(d) - mp.log(2),
        "quantile": lambda: abs(d) / 2,
        "hinge": lambda: max(mp.zero, 1 - y * a),
        "poisson": lambda: a - y * log_a,
        "binary_cross_entropy": lambda: -y * log_a - (1 - y) * log_b,
        "cross_entropy": lambda: -y * log_a,
    }[name]()


def exact_softmax(z):
    """Return exp(z) / sum of exp(z)."""
    top = max(z)
    e = [mp.exp(v - top) for v in z]
    return [v / mp.fsum(e) for v in e]


def exact(activation, loss, Z, Y):
    """Loss of every row, and its derivative by every z, in float64 from the arithmetic of mpmath."""
    values, slopes = [], []
    with mpmath.workprec(BITS):
        for z_row, y_row in zip(Z.tolist(), Y.tolist(), strict=True):
            z, y = [mp.mpf(v) for v in z_row], [mp.mpf(v) for v in y_row]

            def of_row(z, y=y):
                return mp.fsum(exact_loss(loss, *pair) for pair in zip(exact_softmax(z), y, strict=True))

            def of_one(v, t):
                return exact_loss(loss, FUNCTIONS[activation](v), t)

            if activation == "softmax":
                values.append(of_row(z))
                slopes.append(
                    [mp.diff(lambda v, j=j, z=z: of_row([*z[:j], v, *z[j + 1 :]]), z[j]) for j in range(len(z))]
                )
            else:
                values.append(mp.fsum(map(of_one, z, y)))
                slopes.append([mp.diff(lambda v, t=t: of_one(v, t), v) for v, t in zip(z, y, strict=True)])
        return np.array(values, float), np.array(slopes, float)


def cases(activation, loss):
    """Yield logits and targets of one output a row, and of rows with a short last vector; every number is a float32."""
    targets = TARGETS[kind_of(loss)]
    logits = [z for z in LOGITS if z < 43] if activation == "exponential" else LOGITS  # its square fits float32
    logits = [z for z in LOGITS if abs(z) < 20] if activation == "gelu" else logits  # erfc takes mpmath long
    logits = logits if kind_of(loss) in ("probabilities", "counts") else logits[::2]
    if activation != "softmax":
        Z, Y = (np.array(a, float)[:, None] for a in (np.repeat(logits, len(targets)), np.tile(targets, len(logits))))
        if losses.name_of(loss) != "cross_entropy":  # which takes several outputs
            yield Z, Y
        order = np.random.default_rng(0).integers(0, len(Z), 19 * 3)
        yield Z[order].reshape(-1, 19), Y[order].reshape(-1, 19)
        return
    for width, some in ((2, logits), (3, logits[::2]), (19, logits[1::12])):
        rng = np.random.default_rng(width)
        Z = rng.integers(-8, 8, (len(some), width)) / 4
        Z[:, 0] = some
        Z[::3, 1] = -np.array(some[::3])
        Z[::5, :2] = np.abs(Z[::5, :1])  # two are the largest
        Y = np.array(targets)[rng.integers(0, len(targets), Z.shape)]
        if losses.name_of(loss) == "cross_entropy":
            Y = np.zeros(Z.shape)
            Y[:, :2] = np.array([[0.25, 0.75], [1, 0], [0, 1]])[rng.integers(0, 3, len(Z))]
        yield Z, Y


def network(activation, loss, n, **options):
    """Build a network whose pre-activations are its inputs."""
    return fastbp.Network([n, n], activation, loss, init=[(np.eye(n), np.zeros(n))], reduction="sum", **options)


def is_quick(activation, loss):
    """Whether a pair has code of its own (a logit form), or is the first of its activation or of its loss."""
    if isinstance(loss, Focal):
        return loss.gamma == 2
    pair, losses_of = (activation, loss), [other for other in PAIRS if other[1] == loss]
    return pair in reference.losses.LOGIT_FORMS or loss == "squared_error" or pair == losses_of[0]


@pytest.mark.parametrize(
    "activation, loss",
    [pytest.param(*pair, marks=[] if is_quick(*pair) else pytest.mark.exhaustive) for pair in PAIRS],
    ids=str,
)
def test_loss_and_delta_of_every_pair(activation, loss):
    for Z, Y in cases(activation, loss):
        values, slopes = exact(activation, loss, Z, Y)
        assert len(np.unique(slopes)) > 1
        for backend in ("numba", "numpy"):
            for dtype in (np.float32, np.float64):
                net = network(activation, loss, Z.shape[1], dtype=dtype, backend=backend)
                record = net._backend.record(net.parameters, Z.astype(dtype), Y.astype(dtype))
                eps = np.finfo(dtype).eps
                # log(sum of exp(z)) - z of softmax and cross-entropy rounds the logits
                rounding = 50 + np.abs(Z).max(axis=1) * (activation == "softmax" and loss == "cross_entropy")
                assert (np.abs(record.losses - values) <= rounding * eps * np.maximum(1, values)).all(), dtype
                off = np.abs(record.delta[-1] - slopes) / np.maximum(1, np.abs(slopes).max(axis=1, keepdims=True))
                assert off.max() <= 50 * eps, (backend, dtype, Z[off.argmax() // Z.shape[1]])
                if losses.name_of(loss) != "cross_entropy" or activation == "softmax":  # whose rows must sum to 1
                    np.testing.assert_array_equal(net.trace(Z, Y).layers[-1].delta, record.delta[-1])


LOGIT_FORMS = [("sigmoid", loss) for loss in ("binary_cross_entropy", "cross_entropy", "poisson", "focal", Focal(0.5))]
LOGIT_FORMS += [("softmax", loss) for loss in ("binary_cross_entropy", "cross_entropy", "poisson", "focal", Focal(0.5))]
LOGIT_FORMS += [("softplus", "poisson"), ("exponential", "poisson")]


def test_every_pair_with_a_logarithm_has_its_logit_form():
    expected = {(activation, losses.name_of(loss)) for activation, loss in LOGIT_FORMS}
    assert set(kernels.losses.LOGIT_FORMS) == expected
    assert set(reference.losses.LOGIT_FORMS) == expected


@each_dtype
@pytest.mark.parametrize("big", [1e4, 1e30])
@pytest.mark.parametrize("activation, loss", LOGIT_FORMS, ids=str)
def test_certain_outputs_of_any_size(backend, activation, loss, big, dtype):
    """Wrong: the loss is as large as the logit, and delta of order 1.  Right: both are 0 (for counts the loss is 1)."""
    net = network(activation, loss, 3, dtype=dtype, backend=backend)
    right, wrong = ([0, -big, -big], [-big, 0, -big]) if activation == "softmax" else ([1, 0, 0], [-big, 0, 0])
    Y = np.array([[1.0, 0, 0]], dtype)
    if activation == "sigmoid":
        right = [big, -big, -big]
    record = net._backend.record(net.parameters, np.array([wrong], dtype), Y)
    assert np.isfinite(record.delta[-1]).all() and record.delta[-1][0, 0] <= -1
    several = 1 + (activation == "softmax" and losses.name_of(loss) in ("binary_cross_entropy", "focal"))
    np.testing.assert_allclose(record.losses, several * big, 1e-3)
    if activation in ("sigmoid", "softmax"):
        record = net._backend.record(net.parameters, np.array([right], dtype), Y)
        assert record.losses == (1 if losses.name_of(loss) == "poisson" else 0) and not record.delta[-1].any()


@each_dtype
@pytest.mark.parametrize("loss", ["binary_cross_entropy", Focal(0), "cross_entropy", Focal(0.5), Focal(3)], ids=str)
def test_value_and_derivative_from_outputs_are_held_by_one_bound(backend, loss, dtype):
    """At 0 and 1 the loss is -log(bound) and its derivative -1 / bound or 1 / bound."""
    module = {"numba": kernels, "numpy": reference}[backend]
    name, numbers = losses.name_of(loss), losses.settings_of(loss).values()
    A, Y = np.array([[0.0], [1.0]], dtype), np.array([[1.0], [0.0]], dtype)
    value, slope = np.empty(2, dtype), np.empty((2, 1), dtype)
    getattr(module, name)(A, Y, *numbers, value)
    getattr(module, f"{name}_derivative")(A, Y, *numbers, slope)
    bounds = np.array([np.finfo(dtype).tiny, np.finfo(dtype).epsneg if name != "cross_entropy" else 1])
    np.testing.assert_allclose(value, -np.log(bounds), 1e-6, 0)
    np.testing.assert_allclose(slope[:, 0], np.where(value == 0, 0, [-1, 1] / bounds), 1e-5)


SATURATED = np.array([[-90, 30, 2, 0, -1], [700, -700, 0, 1, 2], [0, 0, 0, 0, 0], [-40, -41, -42, -43, -44.0]])


@cache
def exact_with_smoothing(activation, loss, smoothing):
    """Return what `exact` does for rows of the classes 0, 1, 2 and 3 of five, with label smoothing."""
    smooth = (1 - smoothing) * np.eye(5)[:4] + smoothing / losses.smoothing_classes(loss, 5)
    return exact(activation, loss, SATURATED, smooth)


@each_dtype
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    "activation, loss, labels",
    [
        ("sigmoid", "cross_entropy", True),
        ("sigmoid", "cross_entropy", False),
        ("softmax", "cross_entropy", True),
        ("softmax", "binary_cross_entropy", False),
        ("sigmoid", "binary_cross_entropy", False),
    ],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_training_with_labels_and_smoothing(backend, activation, loss, labels, smoothing, batch_size, dtype):
    Z, classes, n = SATURATED, np.arange(4), 5
    Y = np.eye(n)[classes]
    values, slopes = exact_with_smoothing(activation, loss, smoothing)
    for row in range(0, 4, batch_size):
        rows = slice(row, row + batch_size)
        net = network(activation, loss, n, dtype=dtype, backend=backend)
        trainer = fastbp.Trainer(net, fastbp.SGD(1.0), batch_size=batch_size, label_smoothing=smoothing)
        value = trainer.step(Z[rows], (classes if labels else Y)[rows])
        eps = np.finfo(dtype).eps
        assert value == pytest.approx(values[rows].sum(), rel=50 * float(eps))
        np.testing.assert_allclose(net.biases[0], -slopes[rows].sum(axis=0), 50 * eps, 50 * eps)


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
def test_confidently_wrong_outputs_learn(backend, output):
    """The gradient of each is of order 1."""
    net = fastbp.Network([1, 2], output, "focal", init=[([[0.0, 0.0]], [-25.0, 25.0])], backend=backend)
    history = fastbp.Trainer(net, fastbp.SGD(0.5)).fit([[1.0]], [[1.0, 0.0]], epochs=200)
    assert history.loss[0] > 49 and history.loss[-1] < 0.01
    logits = net.weights[0][0] + net.biases[0]
    assert logits[0] > 0 > logits[1]


@pytest.mark.parametrize("activation, loss", LOGIT_FORMS, ids=str)
def test_an_output_gradient_of_the_caller_goes_through_the_activation(backend, activation, loss):
    rng = np.random.default_rng(0)
    Z, dA = rng.normal(size=(2, 4, 3))
    net, plain = (network(activation, name, 3, dtype="float64", backend=backend) for name in (loss, "squared_error"))
    np.testing.assert_array_equal(net.backpropagate(Z, dA).biases[0], plain.backpropagate(Z, dA).biases[0])


# ------------------------------------------------------------------ derivatives of the activations

# Of f'(z): multiples of eps that its error may be, absolute (where f saturates, 1 - a, 1 - a^2 and a + alpha lose
# their digits, as they do in every library; z phi(z) and z s(z) multiply those of z), and relative for the others.
ABSOLUTE = {"sigmoid": 2, "tanh": 2, "elu": 2, "selu": 4, "silu": 20, "gelu": 20, "mish": 20}
RELATIVE = dict.fromkeys([name for name in FUNCTIONS if name not in ABSOLUTE], 8)


@each_dtype
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_for_every_size_of_z(backend, name, dtype):
    module = {"numba": kernels, "numpy": reference}[backend]
    info = np.finfo(dtype)
    size = np.concatenate([10.0 ** np.arange(-30, 1), np.linspace(0.3, 87, 40), [1e3, 1e4, 1e7, 1e15, 1e18, 1e30]])
    z = np.concatenate([-size, size]).astype(dtype)
    z = z[(np.abs(z) != 1) & (z < 88 if name == "exponential" else True)]  # 1 is a kink of hard_tanh
    Z, A, slope = z[None], np.empty((1, len(z)), dtype), np.empty((1, len(z)), dtype)
    getattr(module, name)(Z, A)
    getattr(module, f"{name}_derivative")(Z, A, slope)
    with mpmath.workprec(400):
        exact = [
            mp.diff(FUNCTIONS[name], mp.mpf(v))
            if abs(v) < 200 or name == "softsign"
            else round(mp.diff(FUNCTIONS[name], mp.mpf(float(np.sign(v)) * 200)), 30)
            for v in z.tolist()
        ]
        off = [abs(mp.mpf(v) - e) for v, e in zip(slope[0].tolist(), exact, strict=True)]
        for v, error, e in zip(z, off, exact, strict=True):
            bound = ABSOLUTE[name] if name in ABSOLUTE else RELATIVE[name] * abs(e)
            assert error <= bound * info.eps + info.tiny, (name, v, float(e))
