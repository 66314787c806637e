"""Steps on weighted means with the penalty in the loss, as estimators make them (`Update.weighted_mean`)."""

from dataclasses import replace

import numpy as np
import pytest

import fastbp

SHAPES = {  # sizes of the network, samples, batch size: each ends with a shorter batch
    "lanes": ((2, 2, 1), 20, 3),
    "online": ((5, 3, 2), 11, 1),
    "slices": ((7, 40, 3), 101, 50),
    "columns": ((20, 140, 30, 3), 700, 200),
    "blocks": ((20, 40, 3), 1000, 600),
}
OPTIMIZERS = [fastbp.AdamEpsHat(0.01), fastbp.ClassicalSGD(0.1, 0.9, True), fastbp.SGD(0.1), fastbp.SGD(0.1, 0.9)]


def trained(backend, sizes, n, batch_size, optimizer, has_weights, threads=1, l2=0.3, **settings):
    """Parameters and recorded losses after two epochs of the same order."""
    rng = np.random.default_rng(0)
    X, Y, weights = rng.normal(size=(n, sizes[0])), rng.random((n, sizes[-1])), rng.random(n)
    if has_weights:
        weights[: n // 2] *= 5
    net = fastbp.Network(sizes, "tanh", dtype="float64", seed=1, backend=backend)
    trainer = fastbp.Trainer(net, optimizer, batch_size=batch_size, l2=l2, seed=0)
    update = replace(trainer._update(), weighted_mean=True, **settings)
    train = net._backend.training(
        net.parameters, trainer.state, batch_size=batch_size, order=rng.permutation(n), update=update, threads=threads
    )
    losses = np.zeros(2)
    for epoch in range(2):
        train(X, Y, weights if has_weights else None, None, 0, -(-n // batch_size), losses[epoch : epoch + 1])
    return net.parameters, losses


@pytest.mark.parametrize("has_weights", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.rule)
@pytest.mark.parametrize("shape", SHAPES)
def test_backends_agree(shape, optimizer, has_weights):
    settings = {"loss_scale": 0.5, "max_loss": 0.4}
    expected, expected_losses = trained("numpy", *SHAPES[shape], optimizer, has_weights, **settings)
    for threads in (1, 2):
        parameters, losses = trained("numba", *SHAPES[shape], optimizer, has_weights, threads, **settings)
        np.testing.assert_allclose(parameters, expected, 1e-9, 1e-12)
        np.testing.assert_allclose(losses, expected_losses, 1e-12)


@pytest.mark.parametrize("has_weights", [False, True], ids=["", "weights"])
def test_a_step_is_its_formula(has_weights):
    rng = np.random.default_rng(0)
    X, Y, w = rng.normal(size=(6, 3)), rng.normal(size=(6, 2)) * 3, rng.random(6) if has_weights else np.ones(6)
    net = fastbp.Network([3, 2], "identity", dtype="float64", seed=1)
    (W,), (b,) = (list(map(np.copy, arrays)) for arrays in (net.weights, net.biases))
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=6, l2=0.3, seed=0)
    update = replace(trainer._update(), weighted_mean=True, loss_scale=0.5, max_loss=6.0)
    order, losses = np.arange(6), np.zeros(1)
    train = net._backend.training(net.parameters, trainer.state, batch_size=6, order=order, update=update)
    assert train(X, Y, w if has_weights else None, None, 0, 1, losses) == 1
    delta = (X @ W + b - Y) * w[:, None] / w.sum()
    of_samples = np.minimum(0.5 * ((X @ W + b - Y) ** 2).sum(axis=1), 6.0)
    assert 0 < (of_samples == 6.0).sum() < 6
    np.testing.assert_allclose(losses, 6 * (0.5 * w @ of_samples + 0.15 * (W**2).sum()) / w.sum(), 1e-13)
    np.testing.assert_allclose(net.weights[0], W - 0.1 * (X.T @ delta + 0.3 * W / w.sum()), 1e-12)
    np.testing.assert_allclose(net.biases[0], b - 0.1 * delta.sum(axis=0), 1e-12)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_batch_without_weight_has_no_gradient(backend):
    net = fastbp.Network([3, 2], "identity", dtype="float64", seed=1, backend=backend)
    before = net.parameters.copy()
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=4, l2=0.3, seed=0)
    update = replace(trainer._update(), weighted_mean=True)
    order, losses = np.arange(4), np.zeros(1)
    train = net._backend.training(net.parameters, trainer.state, batch_size=4, order=order, update=update)
    assert train(np.ones((4, 3)), np.ones((4, 2)), np.zeros(4), None, 0, 1, losses) == 1
    assert losses[0] == 0 and (net.parameters == before).all()
