"""The examples, in short form."""

import numpy as np
import pytest

import fastbp
from fastbp.examples import cartpole, drift, neural_ode, peers


@pytest.mark.parametrize("example", [cartpole, drift, neural_ode])
def test_example_prints_its_table(example, capsys):
    example.main(["--short"])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) >= 3 and all("  " in row for row in rows)


def test_cart_pole_falls_as_physics_says():
    # The pole alone, without a push, is unstable: a push to the side where it leans rights it.
    state = np.array([0.0, 0.0, 0.05, 0.0])
    right, left = state.copy(), state.copy()
    assert not cartpole.advance(right, 1) and not cartpole.advance(left, 0)
    assert right[3] < 0 < left[3] and left[1] < 0 < right[1]
    assert [cartpole.advance(np.array([2.5, 0, 0, 0.0]), 1), cartpole.advance(np.array([0, 0, 0.3, 0.0]), 1)] == [1, 1]


@pytest.mark.exhaustive
def test_greedy_policy_of_cart_pole_stands():
    assert cartpole.main([]) >= cartpole.SOLVED


def test_adjoint_is_the_gradient():
    net, observed = neural_ode.network(1), neural_ode.observe(1, 9, np.random.default_rng(2))[0]
    directions = np.random.default_rng(0).standard_normal((10, net.parameters.size))
    assert neural_ode.difference_from_central(net, observed, directions) < 1e-7


def test_runge_kutta_has_order_four():
    # without friction the energy of the pendulum stays; its error falls by 2**4 or more with half the step
    net = neural_ode.network(0)
    net.parameters[:] = 0
    m = fastbp.jit.model(net)
    states, stages = np.empty((41, 2)), np.empty((40, 4, 2))
    states[0] = 1.0, 0.5
    neural_ode.integrate(m, states, stages)
    energy = states[:, 1] ** 2 / 2 - np.cos(states[:, 0])
    assert np.abs(energy - energy[0]).max() < 1e-5


def test_friction_is_found():
    net = neural_ode.network(0)
    m = fastbp.jit.model(net, neural_ode.OPTIMIZER)
    before = neural_ode.error_of_friction(m, 11)[0]
    rng = np.random.default_rng(0)
    neural_ode.fit(m, neural_ode.observe(100, 31, rng), 10, 2_000, rng, np.empty(2_000))
    assert neural_ode.error_of_friction(m, 11)[0] < before / 3


def test_stream_is_the_same_for_both():
    X, Y = drift.draw(50, 1000, np.random.default_rng(3))
    errors = np.empty(50)
    m = fastbp.jit.model(drift.network(0), fastbp.SGD(1e-9))
    drift.learn_online(m, 50, 1000, np.random.default_rng(3), errors)
    np.testing.assert_allclose(errors, (drift.network(0).predict(X) - Y)[:, 0] ** 2, rtol=1e-4, atol=1e-7)


def test_online_learning_follows_the_drift():
    online, refitted = drift.main(["--short"])
    assert online < 1.5 * refitted


@pytest.mark.parametrize("modules, kind", [(["torch"], peers.TorchModel), (["jax", "optax"], peers.JaxModel)])
@pytest.mark.parametrize("optimizer", [fastbp.SGD(0.1), fastbp.Adam(0.01)])
def test_peers_learn_the_same(modules, kind, optimizer):
    for name in modules:
        pytest.importorskip(name)
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32)
    net = fastbp.Network([4, 8, 2], activations=["tanh", "identity"], seed=0)
    peer, m = kind(net, optimizer), fastbp.jit.model(net, optimizer)
    for _ in range(5):
        assert peer.train_step(X, Y) == pytest.approx(m.train_step(X, Y), rel=1e-4)
    outputs, expected = np.empty_like(Y), np.empty_like(Y)
    peer.predict(X, outputs)
    m.predict(X, expected)
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-5)
