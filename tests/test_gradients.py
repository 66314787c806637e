"""Every gradient against central differences, in float64."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fastbp
from fastbp.activations import ACTIVATIONS
from fastbp.losses import LOSSES


def make_targets(rng, loss, n_samples, n_out):
    """Draw targets that the loss takes."""
    if loss == "cross_entropy":
        return rng.dirichlet(np.ones(n_out), n_samples)
    row, size = LOSSES[loss], (n_samples, n_out)
    if row.takes_signs:
        return rng.choice([-1.0, 1.0], size)
    return rng.uniform(size=size) if row.within_01 or row.is_positive else rng.normal(size=size)


def suits(activation, loss):
    """Whether the loss takes what the activation gives."""
    needs, gives = LOSSES[loss], ACTIVATIONS[activation]
    return needs.within_01 <= gives.within_01 and needs.is_positive <= gives.is_positive


def assert_gradients(net, X, Y, central_differences):
    """Compare every gradient that the API gives with central differences."""
    loss, weights, biases = net.gradients(X, Y)
    assert loss == pytest.approx(net.loss(X, Y), rel=1e-12)
    flat = np.concatenate([array.ravel() for pair in zip(weights, biases, strict=True) for array in pair])
    bound = 1e-7 * max(1, np.abs(flat).max())
    np.testing.assert_allclose(flat, central_differences(lambda: net.loss(X, Y), net.parameters), rtol=1e-6, atol=bound)
    dX = net.input_gradient(X, Y)
    np.testing.assert_allclose(
        dX, central_differences(lambda: net.loss(X, Y), X), rtol=1e-6, atol=1e-7 * max(1, np.abs(dX).max())
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_loss(backend, activation, loss, reduction, central_differences):
    rng = np.random.default_rng(5)
    net = fastbp.Network(
        [3, 4, 3],
        [activation, activation if suits(activation, loss) else "sigmoid"],
        loss,
        seed=1,
        dtype="float64",
        reduction=reduction,
        backend=backend,
    )
    net.biases[0] = rng.normal(size=4)
    X, Y = rng.normal(size=(5, 3)), make_targets(rng, loss, 5, 3)
    assert_gradients(net, X, Y, central_differences)


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
def test_class_labels(backend, output, central_differences):
    rng = np.random.default_rng(6)
    net = fastbp.Network([3, 4, 5], ["tanh", output], "cross_entropy", seed=1, dtype="float64", backend=backend)
    X, labels = rng.normal(size=(7, 3)), rng.integers(0, 5, 7)
    assert_gradients(net, X, labels, central_differences)
    one_hot = net.gradients(X, np.eye(5)[labels])
    for a, b in zip(net.gradients(X, labels).weights, one_hot.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


CORNERED = "elu", "softsign"  # f'' jumps at 0: a central difference across it is wrong by the step


def is_smooth_around(net, X, Y):
    """Whether central differences can be trusted: no derivative jumps, or grows fast, near by."""
    record = net.with_backend("numpy")._backend.record(net.parameters, X)
    far = [np.abs(Z).min() > 1e-3 for name, Z in zip(net.activations, record.Z, strict=True) if name in CORNERED]
    far.append(max(np.abs(A).max() for A in record.A) < 100)
    distance = np.abs(record.A[-1] - Y)
    if LOSSES[net.loss_name].has_kink:
        far.append(distance.min() > 1e-3)
    if net.loss_name == "huber":
        far.append(np.abs(distance - 1.0).min() > 1e-3)
    return all(far)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    n_samples=st.integers(1, 9),
    scale=st.sampled_from([1e-3, 1.0, 3.0]),
    loss=st.sampled_from(list(LOSSES)),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_any_shape_and_values(backend, sizes, n_samples, scale, loss, seed, data, central_differences):
    if loss == "cross_entropy":
        sizes[-1] = max(sizes[-1], 2)
    smooth = [name for name, row in ACTIVATIONS.items() if not row.has_kink]
    names = [[name for name in smooth if n_out > 1 or name != "softmax"] for n_out in sizes[1:]]
    names[-1] = [name for name in names[-1] if suits(name, loss)]
    activations = [data.draw(st.sampled_from(several)) for several in names]
    net = fastbp.Network(sizes, activations, loss, seed=seed, dtype="float64", backend=backend)
    rng = np.random.default_rng(seed)
    net.parameters[:] += 0.1 * rng.normal(size=net.parameters.size)
    X = scale * rng.normal(size=(n_samples, sizes[0]))
    Y = make_targets(rng, loss, n_samples, sizes[-1])
    assume(is_smooth_around(net, X, Y))
    assert_gradients(net, X, Y, central_differences)


def test_backpropagate_is_the_gradient_of_a_linear_loss(backend, central_differences):
    rng = np.random.default_rng(7)
    net = fastbp.Network([3, 4, 2], ["tanh", "softmax"], seed=1, dtype="float64", backend=backend)
    X, dA = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    loss, weights, biases = net.backpropagate(X, dA)
    flat = np.concatenate([array.ravel() for pair in zip(weights, biases, strict=True) for array in pair])
    expected = central_differences(lambda: (net.predict(X) * dA).sum(), net.parameters)
    assert loss is None
    np.testing.assert_allclose(flat, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_layer_alone(backend, activation, central_differences):
    rng = np.random.default_rng(8)
    net = fastbp.Network([4, 3], activation, seed=1, dtype="float64", backend=backend)
    layer, A_prev, dA = net.layers[0], rng.normal(size=(6, 4)), rng.normal(size=(6, 3))
    layer.forward(A_prev)
    dA_prev = layer.backward(dA)

    def linear_loss():
        return (net.predict(A_prev) * dA).sum()

    for array, expected in [(layer.W, layer.dW), (layer.b, layer.db), (A_prev, dA_prev)]:
        np.testing.assert_allclose(expected, central_differences(linear_loss, array), rtol=1e-6, atol=1e-8)
