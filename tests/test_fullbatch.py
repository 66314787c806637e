"""L-BFGS and Levenberg-Marquardt: against SciPy, against steps written out, and the Jacobian against differences."""

import copy
import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from scipy import optimize

import fastbp
from fastbp.callbacks import Checkpoint
from fastbp.training import fullbatch
from fastbp.update import N_RUNNING_PRODUCTS, Update, UpdateSettings


def make(backend, sizes=(3, 4, 2), activations="tanh", dtype="float64", seed=0, **options):
    return fastbp.Network(sizes, activations, seed=seed, dtype=dtype, backend=backend, **options)


def data(n=30, sizes=(3, 4, 2), seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, sizes[0])), rng.uniform(-0.8, 0.8, size=(n, sizes[-1]))


def sine(n=60):
    X = np.linspace(-3, 3, n).reshape(-1, 1)
    return X, np.sin(X)


def flat(gradients):
    return np.concatenate([a.ravel() for pair in zip(gradients.weights, gradients.biases, strict=True) for a in pair])


def loss_at(net, X, Y, is_weight=0.0, l2=0.0):
    """The objective as a function of the parameters, and its gradient, on the API of the network alone."""

    def function(p):
        net.parameters[:] = p
        gradients = net.gradients(X, Y)
        return gradients.loss + 0.5 * l2 * np.sum(is_weight * p * p), flat(gradients) + l2 * is_weight * p

    return function


def weights_of(net):
    """1 for every weight, 0 for every bias."""
    return flat(fastbp.Gradients(None, [np.ones_like(W) for W in net.weights], [np.zeros_like(b) for b in net.biases]))


def minimize(method, net, X, Y, epochs, after=None, **options):
    losses = []
    stopped = method.minimize(net, X, Y, epochs, after or losses.append, **options)
    return stopped, losses


# ------------------------------------------------------------------ the Jacobian


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activations", ["sigmoid", "relu", "gelu", ["tanh", "softmax"], ["elu", "identity"]])
def test_jacobian_against_central_differences(backend, activations, dtype, central_differences):
    X, _ = data(7)
    net = make(backend, activations=activations, dtype=dtype)
    twin = make("numpy", activations=activations)
    twin.parameters[:] = net.parameters
    J = fullbatch.jacobian(net, X)
    assert J.shape == (2, 7, net.parameters.size) and J.dtype == net.dtype
    X = X.astype(dtype)
    tolerance = 1e-8 if dtype == "float64" else 1e-5
    for k in range(2):
        for i in range(7):
            differences = central_differences(lambda i=i, k=k: twin.predict(X[i])[k], twin.parameters)
            np.testing.assert_allclose(J[k, i], differences, tolerance, tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_normal_equations_do_not_depend_on_the_blocks(backend, reduction, monkeypatch):
    X, Y = data(23)
    net = make(backend, reduction=reduction)
    weights = np.random.default_rng(0).uniform(0, 2, 23)
    whole = fullbatch.Objective(net, X, Y, weights, Update(l2=0.3)).normal_equations(np.array(net.parameters))
    J = fullbatch.jacobian(net, X).reshape(-1, net.parameters.size)
    w, scale = np.tile(weights, 2), 1 / 23 if reduction == "mean" else 1
    decay = 0.3 * weights_of(net)
    r = (net.predict(X) - Y).T.ravel()
    np.testing.assert_allclose(whole[0], scale * J.T @ (w * r) + decay * net.parameters, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(whole[1], scale * J.T @ (w[:, None] * J) + np.diag(decay), rtol=1e-10, atol=1e-13)
    monkeypatch.setattr(fullbatch, "CHUNK_BYTES", 8 * 2 * net.parameters.size * 5)
    parts = fullbatch.Objective(net, X, Y, weights, Update(l2=0.3)).normal_equations(np.array(net.parameters))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "pair", [("softmax", "cross_entropy"), ("sigmoid", "binary_cross_entropy"), ("tanh", "squared_error")]
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_of_the_objective(backend, reduction, pair, central_differences):
    n = 300  # more than one block of the engine's
    X, Y = data(n)
    Y = np.abs(Y)
    Y = Y / Y.sum(axis=1, keepdims=True)
    net = make(backend, activations=["tanh", pair[0]], loss=pair[1], reduction=reduction)
    x = np.array(net.parameters)
    for weights in (None, np.random.default_rng(2).uniform(0, 3, n)):
        objective = fullbatch.Objective(net, X, Y, weights, Update(l2=0.7))
        gradient = objective(x)[1]
        losses = [net.loss(X[i : i + 1], Y[i : i + 1]) for i in range(n)]
        expected = np.dot(losses, np.ones(n) if weights is None else weights) / (n if reduction == "mean" else 1)
        assert objective.loss == pytest.approx(expected, rel=1e-12)
        assert objective.total == pytest.approx(expected + 0.35 * sum((W**2).sum() for W in net.weights), rel=1e-12)
        differences = central_differences(lambda objective=objective: objective.value(x), x)
        np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)


# ------------------------------------------------------------------ L-BFGS


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_lbfgs_is_the_recursion_written_out(backend, reduction):
    """The directions of algorithm 7.4; along each, a step with the strong Wolfe conditions."""
    X, Y = data()
    net, twin = make(backend, reduction=reduction), make("numpy", reduction=reduction)
    function, trainer = loss_at(twin, X, Y), fastbp.Trainer(net, fastbp.LBFGS(history=4, gtol=0.0, ftol=0.0))
    x = np.array(net.parameters)
    f, g = function(x)
    pairs = []
    for _ in range(20):
        H = np.eye(x.size)
        if pairs:
            s, y = pairs[-1]
            H *= (s @ y) / (y @ y)
        for s, y in pairs[-4:]:  # equation 6.17, from the oldest on
            V = np.eye(x.size) - np.outer(y, s) / (s @ y)
            H = V.T @ H @ V + np.outer(s, s) / (s @ y)
        (loss,) = trainer.fit(X, Y).loss
        x_new = np.array(net.parameters)
        f_new, g_new = function(x_new)
        step, d = x_new - x, -H @ g
        t = np.linalg.norm(step) / np.linalg.norm(d)
        np.testing.assert_allclose(step, t * d, rtol=1e-6, atol=1e-9 * np.abs(step).max())
        assert f_new <= f + 1e-4 * t * (g @ d) and abs(g_new @ d) <= 0.9 * abs(g @ d)
        assert loss == pytest.approx(f_new, rel=1e-12)
        pairs.append((step, g_new - g))
        x, f, g = x_new, f_new, g_new


@pytest.mark.parametrize(
    "dtype, n_problems, factor",
    [
        ("float64", 2, 1.2),
        pytest.param("float32", 6, 1.05, marks=pytest.mark.exhaustive),
        pytest.param("float64", 6, 1.05, marks=pytest.mark.exhaustive),
    ],
)
def test_lbfgs_takes_no_more_evaluations_than_scipy(dtype, n_problems, factor, monkeypatch):
    """To where the worse of the two ends, over all problems."""
    needed, values = np.zeros(2), []

    class Noted(fullbatch.Objective):
        def __call__(self, x):
            values.append(super().__call__(x))
            return values[-1]

    monkeypatch.setattr(fullbatch, "Objective", Noted)
    update, options = Update(l2=1e-2), dict(maxcor=10, maxls=20, gtol=1e-5, ftol=1e-9, maxiter=500)
    for seed in range(n_problems):
        rng = np.random.default_rng(seed)
        X, labels, courses = rng.normal(size=(200, 8)).astype(dtype), rng.integers(0, 5, 200), []
        for is_ours in (True, False):
            net = fastbp.Network([8, 12, 5], ["tanh", "softmax"], "cross_entropy", dtype=dtype, seed=seed)
            if is_ours:
                stopped, _ = minimize(fastbp.LBFGS(ftol=1e-9), net, X, labels, 500, update=update)
                assert stopped == "converged"
            else:
                optimize.minimize(
                    Noted(net, X, labels, None, update),
                    net.parameters.astype(float),
                    jac=True,
                    method="L-BFGS-B",
                    options=options,
                )
            courses.append(np.minimum.accumulate([total for total, _ in values]))
            del values[:]
        target = 1.001 * max(course[-1] for course in courses)
        needed += [np.argmax(course <= target) + 1 for course in courses]
    assert needed[0] <= factor * needed[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", ["calls", "checkpoint", "pickle", "copy"])
@pytest.mark.parametrize("method", [fastbp.LBFGS(history=3), fastbp.LBFGS(), fastbp.LevenbergMarquardt()], ids=repr)
def test_goes_on_as_if_nothing_had_happened(backend, method, how, dtype, tmp_path):
    X, Y = data()
    once = fastbp.Trainer(make(backend, dtype=dtype), method, l2=1e-4)
    whole = once.fit(X, Y, epochs=16)
    trainer, losses = fastbp.Trainer(make(backend, dtype=dtype), method, l2=1e-4), []
    for part in (1, 1, 5, 2, 7):
        losses += trainer.fit(X, Y, epochs=part).loss
        if how == "checkpoint":
            trainer.save_checkpoint(tmp_path / "c.ckpt")
            trainer = fastbp.Trainer(make(backend, dtype=dtype, seed=9), method, l2=1e-4)
            trainer.load_checkpoint(tmp_path / "c.ckpt")
        elif how in ("pickle", "copy"):
            trainer = pickle.loads(pickle.dumps(trainer)) if how == "pickle" else copy.deepcopy(trainer)
    assert losses == whole.loss and len(losses) == 16
    assert trainer.net.parameters.tobytes() == once.net.parameters.tobytes()
    for name in ("running_products", "vectors"):
        assert getattr(trainer.state, name).tobytes() == getattr(once.state, name).tobytes()


def test_lbfgs_of_a_trainer_without_vectors_begins_anew(backend):
    """A trainer that version 0.1 pickled has none."""
    X, Y = data()
    trainer, twin = (fastbp.Trainer(make(backend), fastbp.LBFGS()) for _ in range(2))
    kept = {name: value for name, value in trainer.state.__getstate__().items() if name != "vectors"}
    trainer.state.__setstate__(kept)
    assert trainer.state.vectors.shape == (0, trainer.net.parameters.size)
    assert trainer.fit(X, Y, epochs=9).loss == twin.fit(X, Y, epochs=9).loss


def test_lbfgs_forgets_pairs_that_give_no_descent(backend):
    """As after the data changed: what is wrong in them costs a step, not the training."""
    X, Y = data()
    trainer = fastbp.Trainer(make(backend), fastbp.LBFGS())
    trainer.fit(X, Y, epochs=6)
    trainer.state.vectors[10:] *= -1  # the curvature of every pair
    before = trainer.net.loss(X, Y)
    history = trainer.fit(X, Y, epochs=5)
    assert len(history) == 5 and all(np.diff([before, *history.loss]) < 0)


@pytest.mark.parametrize("weighted", [False, True])
def test_lbfgs_finds_the_minimum_of_a_convex_loss(backend, weighted):
    rng = np.random.default_rng(3)
    X, labels, l2 = rng.normal(size=(40, 3)), rng.integers(0, 4, 40), 0.1
    counts = rng.integers(0, 3, 40) if weighted else np.ones(40, int)
    net = make(backend, (3, 4), "softmax", loss="cross_entropy", reduction="sum")
    twin = make("numpy", (3, 4), "softmax", loss="cross_entropy", reduction="sum")
    stopped, losses = minimize(
        fastbp.LBFGS(gtol=1e-9, ftol=0.0),
        net,
        X,
        labels,
        500,
        update=Update(l2=l2),
        weights=counts.astype(float) if weighted else None,
    )
    is_weight = weights_of(net)
    rows = np.repeat(np.arange(40), counts)  # a weight of 2 is the sample twice
    function = loss_at(twin, X[rows], labels[rows], is_weight, l2)
    result = optimize.minimize(function, np.zeros(16), method="BFGS", jac=True, options={"gtol": 1e-8})
    assert stopped in ("converged", "stalled") and len(losses) < 500
    np.testing.assert_allclose(np.array(net.weights[0]), result.x[:12].reshape(3, 4), atol=1e-6)
    twin.parameters[:] = net.parameters
    assert losses[-1] == pytest.approx(twin.loss(X[rows], labels[rows]), rel=1e-12)  # without the penalty


@pytest.mark.parametrize("method", [fastbp.LBFGS(gtol=1e-4), fastbp.LevenbergMarquardt(gtol=1e-6)])
def test_converges_and_says_so(backend, method):
    X, Y = data()
    net = make(backend, (3, 2), "identity")
    history = fastbp.Trainer(net, method).fit(X, Y, epochs=200)
    assert history.stopped == "converged" and 1 < len(history) < 60 and not history.interrupted
    easy = dataclasses.replace(method, gtol=1e3)
    ready = fastbp.Trainer(make(backend, (3, 2), "identity"), easy).fit(X, Y, epochs=200)
    assert ready.stopped == "converged" and len(ready) == 0
    solution = np.linalg.lstsq(np.c_[X, np.ones(len(X))], Y, rcond=None)[0]
    np.testing.assert_allclose(np.r_[net.weights[0], net.biases[0][None]], solution, atol=2e-3)


@pytest.mark.parametrize("init", ["zeros", "glorot_uniform"])
@pytest.mark.parametrize(
    "dtype, unit",
    [
        ("float32", 1e-6),
        ("float32", 1e3),
        ("float32", 1e10),
        ("float64", 1e-10),
        ("float64", 1e-6),
        ("float64", 1e3),
        ("float64", 1e10),
    ],
)
@pytest.mark.parametrize("method", [fastbp.LBFGS(), fastbp.LevenbergMarquardt()], ids=repr)
def test_units_of_targets_do_not_matter(backend, method, unit, dtype, init):
    """A linear fit: the minimum is known, and scales with the targets."""
    X, Y = data(40, (3, 2))
    solution = np.linalg.lstsq(np.c_[X, np.ones(len(X))], Y, rcond=None)[0]
    least = 0.5 * ((np.c_[X, np.ones(len(X))] @ solution - Y) ** 2).sum() / len(X)
    net = make(backend, (3, 2), "identity", dtype, init=init)
    history = fastbp.Trainer(net, method).fit(X, Y * unit, epochs=200)
    assert history.stopped in ("converged", "stalled")
    assert history.loss[-1] / unit**2 == pytest.approx(least, rel=1e-5)
    np.testing.assert_allclose(np.r_[net.weights[0], net.biases[0][None]] / unit, solution, atol=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_units_of_inputs_do_not_matter_to_levenberg_marquardt(backend, dtype):
    X, Y = data(40, (3, 2))
    solution = np.linalg.lstsq(np.c_[X, np.ones(len(X))], Y, rcond=None)[0]
    units = np.array([1e-4, 1.0, 1e4])
    net = make(backend, (3, 2), "identity", dtype, init="zeros")
    history = fastbp.Trainer(net, fastbp.LevenbergMarquardt()).fit(X * units, Y, epochs=100)
    assert history.stopped in ("converged", "stalled") and len(history) < 30
    np.testing.assert_allclose(net.weights[0] * units[:, None], solution[:3], atol=1e-3)


@pytest.mark.parametrize("method", [fastbp.LBFGS(), fastbp.LevenbergMarquardt()], ids=repr)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("unit", [1e-10, 1e-6, 1e3, 1e10])
def test_what_has_converged_is_stationary(backend, method, unit, seed):
    """Gradients of layers may differ by the unit of the targets; "converged" says that they are small in each."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 5))
    Y = np.sin(X.sum(axis=1, keepdims=True)) * unit
    net = make(backend, (5, 8, 1), ["tanh", "identity"], seed=seed)
    before = net.loss(X, Y)
    history = fastbp.Trainer(net, method).fit(X, Y, epochs=100)
    J = fullbatch.jacobian(net, X).reshape(-1, net.parameters.size)
    r = (net.predict(X) - Y).T.ravel()
    lengths = np.linalg.norm(J, axis=0) * np.linalg.norm(r)
    is_stationary = (np.abs(J.T @ r) <= 1e-4 * lengths).all()
    assert history.loss[-1] < before and (is_stationary or history.stopped in (None, "stalled"))


@pytest.mark.parametrize("method", [fastbp.LBFGS(ftol=1e-3), fastbp.LevenbergMarquardt(gtol=1e-2)], ids=repr)
def test_the_end_is_the_same_from_every_checkpoint(backend, method, tmp_path):
    """What a callback saves within an iteration is whole; and what has converged stays so, until the data change."""
    X, Y = data()
    once = fastbp.Trainer(make(backend), method)
    whole = once.fit(X, Y, epochs=300, callbacks=[Checkpoint(tmp_path / "r-{epoch}.ckpt", keep=300)])
    assert whole.stopped == "converged" and len(whole) > 4
    for epoch in range(1, len(whole) + 1):
        trainer = fastbp.Trainer(make(backend), method)
        trainer.load_checkpoint(tmp_path / f"r-{epoch}.ckpt")
        rest = trainer.fit(X, Y, epochs=300)
        assert rest.stopped == "converged" and rest.loss == whole.loss[epoch:]
        assert trainer.net.parameters.tobytes() == once.net.parameters.tobytes()
    assert len(trainer.fit(X[:20], Y[:20], epochs=300)) > 1


def test_levenberg_marquardt_keeps_no_scale_that_is_not_finite(backend):
    net = make(backend, (1, 1), "identity", init="zeros")
    trainer = fastbp.Trainer(net, fastbp.LevenbergMarquardt())
    assert trainer.fit([[1e200]], [[1.0]], epochs=3).stopped == "stalled"
    assert trainer.fit([[1.0], [2.0]], [[1.0], [3.0]], epochs=20).loss[-1] < 1e-20


def test_lbfgs_in_float32_goes_as_far_as_its_digits(backend):
    X, Y = sine()
    net = make(backend, (1, 10, 1), ["tanh", "identity"], "float32")
    history = fastbp.Trainer(net, fastbp.LBFGS(gtol=0.0, ftol=0.0)).fit(X, Y, epochs=5000)
    assert net.parameters.dtype == np.float32 and history.loss[-1] < 1e-5
    assert history.loss[-1] == pytest.approx(net.loss(X, Y), rel=1e-5)


@pytest.mark.parametrize("most", [1, 20])
def test_lbfgs_walks_back_from_what_is_not_finite(backend, most):
    """The first step is long, and there the outputs overflow float32."""
    X, Y = np.array([[50.0]]), np.array([[1e15]])
    net = make(backend, (1, 1), "exponential", "float32", init="zeros")
    start = net.loss(X, Y)
    history = fastbp.Trainer(net, fastbp.LBFGS(max_line_search=most)).fit(X, Y, epochs=50)
    assert not history.nonfinite
    if most == 1:
        assert history.stopped == "stalled" and not net.parameters.any()
    else:
        assert net.predict(X)[0, 0] == pytest.approx(1e15, rel=1e-3) and net.loss(X, Y) < 1e-6 * start


# ------------------------------------------------------------------ Levenberg-Marquardt


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_levenberg_marquardt_is_the_method_written_out(backend, reduction):
    X, Y = data()
    net, twin = make(backend, reduction=reduction), make("numpy", reduction=reduction)
    history = fastbp.Trainer(net, fastbp.LevenbergMarquardt(damping=1e-4, factor=3.0)).fit(X, Y, epochs=8)
    p, mu, c, losses, raised = np.array(twin.parameters), 1e-4, 1 / len(X) if reduction == "mean" else 1, [], 0
    D = np.zeros(p.size)

    def residuals(p):
        twin.parameters[:] = p
        return (twin.predict(X) - Y).ravel()

    for _ in range(8):
        r, e = residuals(p), 6e-6
        J = np.array([(residuals(p + d) - residuals(p - d)) / (2 * e) for d in e * np.eye(p.size)]).T
        D = np.maximum(D, c * (J**2).sum(axis=0))
        while True:
            trial = p - np.linalg.solve(c * J.T @ J + mu * np.diag(D), c * J.T @ r)
            if np.sum(residuals(trial) ** 2) < np.sum(r**2):
                break
            mu, raised = 3 * mu, raised + 1
        p, mu = trial, mu / 3
        losses.append(c * np.sum(residuals(p) ** 2) / 2)
    assert raised  # both ways of the damping were gone
    np.testing.assert_allclose(history.loss, losses, rtol=1e-5)
    np.testing.assert_allclose(net.parameters, p, rtol=1e-4, atol=1e-5)
    assert net.loss(X, Y) == pytest.approx(history.loss[-1], rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_levenberg_marquardt_against_least_squares(backend, weighted):
    """A logistic curve through noisy points, whose best fit is unique; with l2, rows of the penalty are added."""
    rng = np.random.default_rng(5)
    X = rng.uniform(-3, 3, size=(50, 2))
    Y = 1 / (1 + np.exp(-(X @ [[1.5], [-0.7]] + 0.4))) + 0.05 * rng.normal(size=(50, 1))
    weights = rng.uniform(0.2, 2, 50) if weighted else None
    roots = np.sqrt(weights) if weighted else 1.0
    net = make(backend, (2, 1), "sigmoid", reduction="sum")
    stopped, losses = minimize(
        fastbp.LevenbergMarquardt(gtol=1e-9), net, X, Y, 100, update=Update(l2=0.01), weights=weights
    )

    def residuals(p):
        A = 1 / (1 + np.exp(-(X @ p[:2] + p[2])))
        return np.r_[roots * (A - Y[:, 0]), 0.1 * p[:2]]

    result = optimize.least_squares(residuals, np.zeros(3), method="lm", xtol=1e-14, ftol=1e-14, gtol=1e-14)
    assert stopped == "converged" and len(losses) < 30
    np.testing.assert_allclose(net.parameters, result.x, rtol=1e-5)
    assert losses[-1] + 0.005 * np.sum(result.x[:2] ** 2) == pytest.approx(result.cost, rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype, most", [("float64", 1e-7), ("float32", 1e-6)])
def test_levenberg_marquardt_fits_a_sine_in_few_iterations(backend, dtype, most, seed):
    X, Y = sine()
    net = make(backend, (1, 8, 1), ["tanh", "identity"], dtype, seed, init=fastbp.initializers.Uniform(1.0))
    history = fastbp.Trainer(net, fastbp.LevenbergMarquardt()).fit(X, Y, epochs=30)
    assert history.loss[-1] < most and net.loss(X, Y) < most


def test_levenberg_marquardt_in_float32_goes_as_far_as_its_digits(backend):
    X, Y = data()
    net = make(backend, (3, 2), "identity", "float32")
    trainer = fastbp.Trainer(net, fastbp.LevenbergMarquardt(gtol=0.0))
    history = trainer.fit(X, Y, epochs=500)
    assert history.stopped in ("converged", "stalled") and len(history) < 30
    solution = np.linalg.lstsq(np.c_[X, np.ones(len(X))], Y, rcond=None)[0]
    np.testing.assert_allclose(np.r_[net.weights[0], net.biases[0][None]], solution, atol=1e-3)


def test_levenberg_marquardt_stalls_where_nothing_is_lower(backend, monkeypatch):
    X, Y = data()
    net, running_products = make(backend), np.ones(N_RUNNING_PRODUCTS)
    vectors = np.zeros((1, net.parameters.size))
    before = net.parameters.tobytes()
    monkeypatch.setattr(net._backend, "losses", lambda parameters, X, Y: np.ones(len(X)))
    stopped, losses = minimize(
        fastbp.LevenbergMarquardt(), net, X, Y, 5, running_products=running_products, vectors=vectors
    )
    assert (
        stopped == "stalled" and losses == [] and net.parameters.tobytes() == before and (running_products == 1).all()
    )


def test_levenberg_marquardt_goes_on_where_it_was(backend):
    X, Y = data()
    nets = [make(backend) for _ in range(3)]
    optimizer = fastbp.LevenbergMarquardt(damping=10.0)
    once = fastbp.Trainer(nets[0], optimizer).fit(X, Y, epochs=9)
    trainer = fastbp.Trainer(nets[1], optimizer)
    parts = trainer.fit(X, Y, epochs=4).loss
    trainer = pickle.loads(pickle.dumps(trainer))
    parts += trainer.fit(X, Y, epochs=5).loss
    assert parts == once.loss and trainer.net.parameters.tobytes() == nets[0].parameters.tobytes()
    assert trainer.epochs == 9
    running_products, vectors = np.ones(N_RUNNING_PRODUCTS), np.zeros((1, nets[2].parameters.size))
    minimize(optimizer, nets[2], X, Y, 4, running_products=running_products, vectors=vectors)
    assert running_products[0] < 1 and (running_products[1:] == 1).all() and (vectors > 0).all()
    assert nets[2].parameters.tobytes() == nets[1].parameters.tobytes()


# ------------------------------------------------------------------ behind the Trainer


METHODS = [fastbp.LBFGS(), fastbp.LevenbergMarquardt()]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


@each_method
def test_validation_metrics_and_callbacks_see_every_iteration(backend, method):
    X, Y = data()
    net, seen = make(backend), []

    def largest(A, Y):
        seen.append(A.copy())
        return np.abs(A).max()

    trainer = fastbp.Trainer(net, method)
    history = trainer.fit(X, Y, epochs=5, validation_data=(X[:9], Y[:9]), metrics=[largest])
    assert len(history.validation_loss) == len(history.metrics["largest"]) == len(history.seconds) == 5
    assert min(history.seconds) > 0 and trainer.epochs == 5
    np.testing.assert_array_equal(seen[-2], net.predict(X))  # after each iteration, of its result
    losses = [0.5 * ((A - Y) ** 2).sum() / len(X) for A in seen[::2]]
    np.testing.assert_allclose(losses, history.loss, rtol=1e-10)
    assert history.validation_loss[-1] == pytest.approx(net.loss(X[:9], Y[:9]), rel=1e-12)
    assert trainer.partial_fit(X, Y).epochs == [6]


@each_method
def test_after_can_end_it(backend, method):
    net, losses = make(backend), []

    def after(loss):
        losses.append(loss)
        return len(losses) == 3

    X, Y = data()
    assert minimize(method, net, X, Y, 50, after)[0] is None
    assert len(losses) == 3 and net.loss(X, Y) == pytest.approx(losses[-1], rel=1e-12)


@each_method
@pytest.mark.parametrize("calls", [1, 2, 3, 6])
def test_an_interrupt_leaves_the_last_iterate(backend, method, calls, monkeypatch):
    X, Y = data()
    net, twin = make(backend), make(backend)
    trainer = fastbp.Trainer(net, method)
    losses, gradient, count = net._backend.losses, net._backend.gradient, 0

    def counted(function):
        def call(*arguments):
            nonlocal count
            count += 1
            if count > calls:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    monkeypatch.setattr(net._backend, "losses", counted(losses))
    monkeypatch.setattr(net._backend, "gradient", counted(gradient))
    with pytest.warns(RuntimeWarning, match="interrupted after"):
        history = trainer.fit(X, Y, epochs=50)
    assert history.interrupted and trainer.epochs == len(history) < 50
    if len(history):
        fastbp.Trainer(twin, method).fit(X, Y, epochs=len(history))
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-12)


CHILD = """
import json, math, warnings
import numpy as np
import fastbp

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(3000, 8)), rng.uniform(size=(3000, 2))
net = fastbp.Network([8, 30, 2], "tanh", seed=0, dtype="float64", backend="numpy")
trainer = fastbp.Trainer(net, {})
before = net.parameters.copy()
print("ready", flush=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    told = []
    tell = lambda trainer, history: told or told.append(print("iterating", flush=True))
    history = trainer.fit(X, Y, epochs=10**9, callbacks=[type("Tell", (), {{"on_epoch_end": staticmethod(tell)}})()])
moved = bool((net.parameters != before).any())
print(json.dumps(dict(interrupted=history.interrupted, epochs=len(history), moved=moved,
                      same=math.isclose(net.loss(X, Y), history.loss[-1], rel_tol=1e-12))))
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process on Windows")
@pytest.mark.parametrize("method", ["fastbp.LBFGS(gtol=0, ftol=0)", "fastbp.LevenbergMarquardt(gtol=0)"])
def test_ctrl_c(method):
    with subprocess.Popen([sys.executable, "-c", CHILD.format(method)], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            assert child.stdout.readline() == "iterating\n"
            child.send_signal(signal.SIGINT)
            result = json.loads(child.stdout.read())
        finally:
            child.kill()
    assert result == {"interrupted": True, "epochs": result["epochs"], "moved": True, "same": True}


@each_method
def test_a_start_that_is_not_finite(backend, method):
    net = fastbp.Network([1, 1], "identity", init=[([[3e38]], [0.0])], backend=backend)
    trainer = fastbp.Trainer(net, method)
    with pytest.warns(RuntimeWarning, match="not finite at the parameters") as caught:
        history = trainer.fit([[1.0]], [[0.0]], epochs=3)
    assert caught[0].filename == __file__
    assert history.nonfinite and len(history) == 0 and net.weights[0] == np.float32(3e38)


@pytest.mark.parametrize("name", [row.name for row in dataclasses.fields(UpdateSettings) if row.name != "l2"])
@each_method
def test_settings_with_no_place_in_one_smooth_function(method, name):
    net = make("numpy")
    before = net.parameters.tobytes()
    value = (0.5,) if name == "dropout" else 0.1
    with pytest.raises(ValueError, match=f"{name} must be 0 with {type(method).__name__}"):
        minimize(method, net, *data(), 3, update=Update(**{name: value}))
    assert net.parameters.tobytes() == before
    minimize(method, net, *data(), 1, update=Update(l2=0.1, dropout=(0.0,)))


def test_levenberg_marquardt_refuses_other_losses_and_large_networks(backend):
    X, Y = data()
    net = make(backend, loss="huber")
    before = net.parameters.tobytes()
    trainer = fastbp.Trainer(net, fastbp.LevenbergMarquardt())
    with pytest.raises(ValueError, match="'squared_error', got 'huber'"):
        trainer.fit(X, Y)
    assert net.parameters.tobytes() == before and trainer.epochs == 0
    net = fastbp.Network([3, 3000, 2], backend="numpy")
    with pytest.raises(ValueError, match="at most 10,000, but the network has 18,002"):
        fastbp.Trainer(net, fastbp.LevenbergMarquardt()).fit(X, Y)


@each_method
def test_a_single_step_is_refused(method):
    with pytest.raises(TypeError, match=f"{type(method).__name__} makes no single steps"):
        fastbp.Trainer(make("numpy"), method).step(*data())


@pytest.mark.parametrize(
    "method, settings, words",
    [
        (fastbp.LBFGS, dict(history=0), "history"),
        (fastbp.LBFGS, dict(max_line_search=1.5), "max_line_search"),
        (fastbp.LBFGS, dict(gtol=-1e-5), "gtol"),
        (fastbp.LBFGS, dict(ftol="x"), "ftol"),
        (fastbp.LevenbergMarquardt, dict(damping=0), "damping"),
        (fastbp.LevenbergMarquardt, dict(factor=1), "factor"),
        (fastbp.LevenbergMarquardt, dict(max_damping=1e-4), "max_damping"),
        (fastbp.LevenbergMarquardt, dict(gtol=np.nan), "gtol"),
    ],
)
def test_bad_settings(method, settings, words):
    with pytest.raises((ValueError, TypeError), match=words):
        method(**settings)


@pytest.mark.parametrize("optimizer", [fastbp.LBFGS(), fastbp.LevenbergMarquardt()])
def test_a_start_that_is_not_finite_raises_where_it_is_to(optimizer):
    net = fastbp.Network([3, 4, 2], ["tanh", "identity"], dtype="float64", seed=0)
    net.parameters[:] = 1e300
    trainer = fastbp.Trainer(net, optimizer, on_nonfinite="raise")
    with pytest.raises(FloatingPointError, match="not finite at the parameters"):
        trainer.fit(np.ones((5, 3)), np.ones((5, 2)))
    assert trainer.epochs == 0 and (net.parameters == 1e300).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("l2", [0.0, 1e-3])
def test_levenberg_marquardt_goes_on_from_call_to_call(dtype, l2):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    results = []
    for parts in ([6], [3, 3], [1] * 6):
        net = fastbp.Network([3, 5, 2], ["tanh", "identity"], dtype=dtype, seed=0)
        trainer = fastbp.Trainer(net, fastbp.LevenbergMarquardt(), l2=l2)
        losses = [loss for epochs in parts for loss in trainer.fit(X, Y, epochs=epochs).loss]
        results.append((net.parameters.tobytes(), losses))
    assert results[0] == results[1] == results[2]


def test_settings_that_are_refused_change_nothing():
    trainer = fastbp.Trainer(fastbp.Network([3, 4, 2], "tanh"), fastbp.LevenbergMarquardt(), l1=0.1)
    seen = []
    callback = type("C", (), {"on_train_begin": lambda *_: seen.append(1)})()
    with pytest.raises(ValueError, match="l1 must be 0"):
        trainer.fit(np.ones((5, 3)), np.ones((5, 2)), metrics=["r2"], callbacks=[callback])
    assert not seen and trainer.history == {}
