"""The NumPy twin: definitions over the whole range, dtypes, saturation without a warning."""

import math

import numpy as np
import pytest

import fastbp
from fastbp import reference
from fastbp.activations import ACTIVATIONS
from fastbp.losses import LOSSES, settings_of
from fastbp.update import State, Update

DEFINITIONS = {
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "tanh": math.tanh,
    "relu": lambda z: max(z, 0.0),
    "leaky_relu": lambda z: z if z > 0 else 0.01 * z,
    "elu": lambda z: z if z > 0 else math.expm1(z),
    "softplus": lambda z: math.log1p(math.exp(z)),
    "silu": lambda z: z / (1 + math.exp(-z)),
    "gelu": lambda z: z * (1 + math.erf(z / math.sqrt(2))) / 2,
    "identity": lambda z: z,
    "selu": lambda z: 1.0507009873554805 * (z if z > 0 else 1.6732632423543772 * math.expm1(z)),
    "mish": lambda z: z * math.tanh(math.log1p(math.exp(z))),
    "softsign": lambda z: z / (1 + abs(z)),
    "hard_sigmoid": lambda z: min(max(z + 3, 0), 6) / 6,
    "hard_tanh": lambda z: min(max(z, -1), 1),
    "exponential": math.exp,
}
LIMITS = {  # at minus and plus infinity: A, f'(Z)
    "sigmoid": ((0, 0), (1, 0)),
    "tanh": ((-1, 0), (1, 0)),
    "relu": ((0, 0), (math.inf, 1)),
    "leaky_relu": ((-math.inf, 0.01), (math.inf, 1)),
    "elu": ((-1, 0), (math.inf, 1)),
    "softplus": ((0, 0), (math.inf, 1)),
    "silu": ((0, 0), (math.inf, 1)),
    "gelu": ((0, 0), (math.inf, 1)),
    "identity": ((-math.inf, 1), (math.inf, 1)),
    "selu": ((-1.0507009873554805 * 1.6732632423543772, 0), (math.inf, 1.0507009873554805)),
    "mish": ((0, 0), (math.inf, 1)),
    "softsign": ((-1, 0), (1, 0)),
    "hard_sigmoid": ((0, 0), (1, 0)),
    "hard_tanh": ((-1, 0), (1, 0)),
    "exponential": ((0, 0), (math.inf, math.inf)),
}
ELEMENTWISE = [name for name in ACTIVATIONS if name != "softmax"]


def call(name, *arguments, shape=None):
    """Run a twin on an `out` full of NaN."""
    out = np.full(arguments[0].shape if shape is None else shape, np.nan, arguments[0].dtype)
    assert getattr(reference, name)(*arguments, out) is None
    return out


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation_and_derivative(name):
    Z = np.linspace(-8, 8, 101)[:, None]
    f = DEFINITIONS[name]
    A = call(name, Z)
    np.testing.assert_allclose(A[:, 0], [f(z) for z in Z[:, 0]], rtol=1e-12, atol=1e-15)
    smooth = (np.abs(Z - np.array([0, *ACTIVATIONS[name].kinks])) > 1e-5).all(axis=1)
    slopes = [(f(z + 1e-6) - f(z - 1e-6)) / 2e-6 for z in Z[smooth, 0]]
    np.testing.assert_allclose(call(f"{name}_derivative", Z, A)[smooth, 0], slopes, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_saturation(name, dtype):
    for big in (1e30, np.inf):
        Z = np.array([[-big, big]], dtype)
        A = call(name, Z)
        derivative = call(f"{name}_derivative", Z, A)
        for column in range(2):
            limit, slope = LIMITS[name][column]
            if np.isinf(limit) and big == 1e30:
                assert abs(A[0, column]) >= dtype(1e28) and np.sign(A[0, column]) == np.sign(limit)
            else:
                assert A[0, column] == pytest.approx(limit, rel=1e-6, abs=0)
            assert derivative[0, column] == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_and_logits_saturate(dtype):
    Z = np.array([[1e30, -1e30, 0], [np.inf, 0, 1], [-np.inf, 0, 0], [1e4, 1e4, 0]], dtype)
    expected = np.array([[1, 0, 0], [1, 0, 0], [0, 0.5, 0.5], [0.5, 0.5, 0]])
    np.testing.assert_allclose(call("softmax", Z), expected, rtol=1e-6)
    labels = np.array([1, 1, 0, 0])
    for Y in (labels, np.eye(3, dtype=dtype)[labels]):
        losses = call("cross_entropy_logits", Z, Y, shape=4)
        assert np.isfinite(losses).all() and losses[0] > 1e29 and losses[3] == pytest.approx(math.log(2))
    losses = call("binary_cross_entropy_logits", Z, np.eye(3, dtype=dtype)[labels], shape=4)
    assert np.isfinite(losses).all()
    np.testing.assert_array_equal(call("exp", np.array([-np.inf, 0, 1e4, np.inf], dtype)), [0, 1, np.inf, np.inf])
    np.testing.assert_array_equal(call("log", np.array([0, 1, np.inf, -1], dtype)), [-np.inf, 0, np.inf, np.nan])


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "cross_entropy"])
def test_logits_forms_agree_with_the_losses(loss):
    rng = np.random.default_rng(0)
    Z, Y = rng.normal(size=(6, 3)), rng.dirichlet(np.ones(3), 6)
    A = call("sigmoid" if loss == "binary_cross_entropy" else "softmax", Z)
    np.testing.assert_allclose(call(f"{loss}_logits", Z, Y, shape=6), call(loss, A, Y, shape=6), rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_are_finite_at_certain_outputs(loss, dtype):
    A, Y = np.array([[0, 1], [1, 0]], dtype), np.array([[1, 0], [0, 1]], dtype)
    numbers = settings_of(loss).values()
    losses = call(loss, A, Y, *numbers, shape=2)
    assert np.isfinite(losses).all()
    assert np.isfinite(call(f"{loss}_derivative", A, Y, *numbers)).all()
    values = {
        "squared_error": 1,
        "absolute_error": 2,
        "huber": 1,
        "log_cosh": 2 * math.log(math.cosh(1)),
        "quantile": 1,
        "hinge": 2,
    }
    assert loss not in values or losses[0] == pytest.approx(values[loss])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept_and_out_may_be_an_argument(dtype):
    Z = np.linspace(-3, 3, 12, dtype=dtype).reshape(3, 4)
    for name in ACTIVATIONS:
        expected, in_place = call(name, Z), Z.copy()
        getattr(reference, name)(in_place, in_place)
        assert in_place.dtype == dtype
        np.testing.assert_array_equal(in_place, expected)


def test_shuffle_is_a_fair_permutation():
    rng = np.random.default_rng(0)
    counts = np.zeros((5, 5))
    for _ in range(4000):
        order = np.full(5, -1)
        reference.shuffle(rng.integers(0, 2**32, 5, dtype=np.uint32), order)
        counts[np.arange(5), order] += 1
        assert sorted(order) == [0, 1, 2, 3, 4]
    assert np.abs(counts / 4000 - 0.2).max() < 0.03


def test_a_new_activation_loss_or_rule_needs_its_twin_and_its_row_alone(monkeypatch, central_differences):
    def squared(Z, out):
        out[...] = Z * Z

    def squared_derivative(Z, A, out):
        out[...] = 2 * Z

    def quartic(A, Y, out):
        out[...] = ((A - Y) ** 4).sum(axis=1)

    def quartic_derivative(A, Y, out):
        out[...] = 4 * (A - Y) ** 3

    def averaged(gradient, lr, running_products, mean, parameters):
        running_products[0] *= 0.5
        mean += gradient
        parameters -= lr * running_products[0] * mean

    for module, twins in {
        reference.elementwise: (squared, squared_derivative),
        reference.losses: (quartic, quartic_derivative),
        reference.optimizers: (averaged,),
    }.items():
        for twin in twins:
            monkeypatch.setattr(module, twin.__name__, twin, raising=False)
    monkeypatch.setitem(ACTIVATIONS, "squared", type(ACTIVATIONS["tanh"])("Z^2"))
    monkeypatch.setitem(LOSSES, "quartic", type(LOSSES["hinge"])("(A - Y)^4"))
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    net = fastbp.Network([3, 4, 2], ["squared", "identity"], "quartic", dtype="float64", seed=0, backend="numpy")
    gradients = net.gradients(X, Y)
    flat = np.concatenate([a.ravel() for pair in zip(gradients.weights, gradients.biases, strict=True) for a in pair])
    np.testing.assert_allclose(flat, central_differences(lambda: net.loss(X, Y), net.parameters), 1e-6, 1e-7)
    before = net.parameters.copy()
    state = State(1, before.size, "float64")
    settings = Update(rule="averaged", rates=(0.1,))
    order = np.arange(5)
    train = net._backend.training(net.parameters, state, batch_size=5, order=order, update=settings)
    assert train(X, Y, None, None, 0, 1, np.zeros(1)) == 1
    np.testing.assert_allclose(net.parameters, before - 0.1 * 0.5 * flat, rtol=1e-14)


def test_a_name_without_a_twin():
    with pytest.raises(LookupError, match="'sigmoidal' has no twin"):
        reference.twin_of("sigmoidal")
