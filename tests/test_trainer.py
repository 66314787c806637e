"""Training: against loops written out in NumPy, and that nothing but the arguments decides the result."""

import gc
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from dataclasses import fields, replace
from functools import partial
from inspect import signature

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbp
from fastbp import reference, training
from fastbp.training import progress, run
from fastbp.update import Update, UpdateSettings


def make(backend, seed=0, dtype="float64", sizes=(3, 4, 2), **options):
    """Build a small network."""
    return fastbp.Network(sizes, options.pop("activations", "tanh"), seed=seed, dtype=dtype, backend=backend, **options)


def data(n=11, sizes=(3, 4, 2), seed=1):
    """Draw samples and targets."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, sizes[0])), rng.normal(size=(n, sizes[-1]))


def by_hand(net, X, Y, epochs, lr, batch_size, momentum=0.0, nesterov=False, seed=None):
    """Stochastic gradient descent written out, on the gradients of the API; the loss of each epoch."""
    velocity, rng, losses = np.zeros_like(net.parameters), np.random.default_rng(seed), []
    order = np.arange(len(X))
    for _ in range(epochs):
        if seed is not None:
            reference.shuffle(rng.integers(0, 2**32, len(X), dtype=np.uint32), order)
        total = 0.0
        for start in range(0, len(X), batch_size):
            rows = order[start : start + batch_size]
            loss, weights, biases = net.gradients(X[rows], Y[rows])
            g = np.concatenate([a.ravel() for pair in zip(weights, biases, strict=True) for a in pair])
            velocity = momentum * velocity + g
            net.parameters[:] -= lr * (g + momentum * velocity if nesterov else velocity)
            total += loss * (len(rows) if net.reduction == "mean" else 1)
        losses.append(total / (len(X) if net.reduction == "mean" else 1))
    return losses


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 11])
def test_fit_is_the_textbook_loop(backend, batch_size, momentum, nesterov, reduction):
    X, Y = data()
    net, twin = make(backend, reduction=reduction), make("numpy", reduction=reduction)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.05, momentum, nesterov), batch_size, seed=7)
    history = trainer.fit(X, Y, epochs=6)
    expected = by_hand(twin, X, Y, 6, 0.05, batch_size, momentum, nesterov, seed=7 if batch_size < 11 else None)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(history.loss, expected, rtol=1e-9)
    assert history.epochs == [1, 2, 3, 4, 5, 6] and len(history.seconds) == 6 and min(history.seconds) > 0


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=4),
    n=st.integers(1, 40),
    batch_size=st.integers(1, 45),
    epochs=st.integers(1, 4),
    kind=st.sampled_from(["f4", "f8", "u1"]),
)
def test_any_shape_trains_as_the_twin_does(backend, sizes, n, batch_size, epochs, kind):
    X, Y = data(n, sizes)
    X = (2 * np.abs(X)).astype(kind) if kind == "u1" else X.astype(kind)
    net, twin = (make(name, sizes=sizes) for name in (backend, "numpy"))
    fastbp.Trainer(net, fastbp.SGD(0.01, 0.5), batch_size, seed=3).fit(X, Y, epochs=epochs)
    by_hand(twin, X, Y, epochs, 0.01, batch_size, 0.5, seed=3 if batch_size < n else None)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-8, atol=1e-11)


def test_trains_on_class_labels(backend):
    X, _ = data(31)
    labels = np.arange(31) % 5
    nets = [fastbp.Network([3, 5], "softmax", "cross_entropy", seed=0, dtype="float64", backend=backend) for _ in "ab"]
    for net, Y in zip(nets, (labels, np.eye(5)[labels]), strict=True):
        fastbp.Trainer(net, fastbp.SGD(0.5), 4, seed=0).fit(X, Y, epochs=5)
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-12)


@pytest.mark.parametrize("n", [10, 11])  # an odd number of 32-bit words leaves half of one 64-bit draw
@pytest.mark.parametrize("seconds", [0.0, 1e-4, 10.0])
def test_the_chunk_decides_nothing(backend, n, seconds, monkeypatch):
    def train(chunk_seconds, parts):
        monkeypatch.setattr(run, "CHUNK_SECONDS", chunk_seconds)
        net, losses = make(backend), []
        trainer = fastbp.Trainer(net, fastbp.SGD(0.1, 0.9), batch_size=3, seed=5)
        for epochs in parts:
            losses += trainer.fit(*data(n), epochs=epochs).loss
        return net.parameters.tobytes(), losses

    expected = train(0.05, [12])
    assert train(seconds, [12]) == expected
    assert train(seconds, [1, 4, 7]) == expected
    assert train(seconds, [1] * 12) == expected


def wrap_training(net, monkeypatch, call):
    """Have call(train, X, Y, weights, words, first, last, losses) made instead of each train(X, ...) of the backend."""
    training = net._backend.training
    wrapped = lambda *args, **options: partial(call, training(*args, **options))  # noqa: E731
    monkeypatch.setattr(net._backend, "training", wrapped)


def name_span(call):
    """Return the last arguments of a call of the backend by name."""
    return dict(zip(("first", "last", "losses"), call[4:], strict=True))


def watch_training(net, monkeypatch, look):
    """Have look(X, Y, weights, words, first=, last=, losses=) called before each call of the backend's training."""

    def call(train, *args):
        look(*args[:4], **name_span(args))
        return train(*args)

    wrap_training(net, monkeypatch, call)


def test_the_chunk_grows_and_never_passes_an_epoch_that_python_must_see(backend, monkeypatch):
    calls = []
    net = make(backend)
    watch_training(net, monkeypatch, lambda *_, first, last, losses: calls.append((len(losses), first, last)))
    monkeypatch.setattr(run, "CHUNK_SECONDS", 1e9)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=1, seed=0)
    trainer.fit(*data(12), epochs=40)
    assert calls == [(1, 0, 1), (1, 1, 11), (1, 11, 12), (8, 0, 12), (31, 0, 12)]
    calls.clear()
    trainer.fit(*data(12), epochs=5, metrics=["mae"])
    assert calls == [(1, 0, 12)] * 5
    monkeypatch.setattr(run, "CHUNK_SECONDS", 0.0)
    trainer.fit(*data(12), epochs=1)
    calls.clear()
    trainer.fit(*data(12), epochs=2)
    assert all(epochs == 1 and last - first == 1 for epochs, first, last in calls) and len(calls) == 24


def test_same_seed_same_orders_on_both_backends():
    nets = [make(name) for name in ("numpy", "numba")]
    for net in nets:
        fastbp.Trainer(net, fastbp.SGD(0.3), batch_size=1, seed=9).fit(*data(50), epochs=3)
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-8, atol=1e-11)


def test_shuffle_can_be_off_and_full_batch_draws_nothing(backend):
    X, Y = data()
    net, twin = make(backend), make("numpy")
    fastbp.Trainer(net, fastbp.SGD(0.1), 4, shuffle=False, seed=0).fit(X, Y, epochs=3)
    by_hand(twin, X, Y, 3, 0.1, 4)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-9)
    results = []
    for batch_size in (None, 11, 12, 1000):
        net = make(backend)
        trainer = fastbp.Trainer(net, fastbp.SGD(0.1), batch_size, seed=0)
        state = trainer.rng.bit_generator.state
        trainer.fit(X, Y, epochs=3)
        assert trainer.rng.bit_generator.state == state
        results.append(net.parameters.tobytes())
    assert len(set(results)) == 1


def test_fit_changes_none_of_its_arguments(backend):
    X, Y = data()
    copies = X.copy(), Y.copy()
    fastbp.Trainer(make(backend), fastbp.SGD(0.1, 0.9), 4).fit(X, Y, epochs=3, validation_data=(X, Y))
    np.testing.assert_array_equal((X, Y)[0], copies[0])
    np.testing.assert_array_equal(Y, copies[1])


def test_validation_and_metrics(backend, monkeypatch):
    monkeypatch.setattr(training.trainer, "PREDICTED_NUMBERS", 20_000)  # so that a few rows are predicted at a time
    (X, Y), (Xv, Yv) = data(40), data(9, seed=2)
    Y, Yv = np.eye(2)[Y.argmax(axis=1)], np.eye(2)[Yv.argmax(axis=1)]

    def largest(A, Y):
        assert A.shape == Y.shape
        return np.abs(A).max()

    net = make(backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), 8, seed=0)
    history = trainer.fit(X, Y, epochs=1, validation_data=(Xv, Yv), metrics=("accuracy", largest))
    history2 = trainer.fit(X, Y, epochs=3, validation_data=(Xv, Yv), metrics="accuracy")
    once = make(backend)
    fastbp.Trainer(once, fastbp.SGD(0.1), 8, seed=0).fit(X, Y)
    assert history.validation_loss == [pytest.approx(once.loss(Xv, Yv), rel=1e-12)]
    right = once.predict(Xv).argmax(axis=1) == Yv.argmax(axis=1)
    assert history.metrics["validation_accuracy"] == [right.mean()]
    assert history.metrics["largest"] == [pytest.approx(np.abs(once.predict(X)).max())]
    assert set(history.metrics) == {"accuracy", "largest", "validation_accuracy", "validation_largest"}
    assert history2.epochs == [2, 3, 4]
    for values in (history2.loss, history2.validation_loss, history2.metrics["accuracy"], history2.seconds):
        assert len(values) == 3
    assert history2.validation_loss[-1] == pytest.approx(net.loss(Xv, Yv), rel=1e-12)
    assert "epochs 2 to 4" in repr(history2) and "accuracy" in repr(history2)


def test_step_and_partial_fit(backend):
    X, Y = data()
    net, twin = make(backend), make("numpy")
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1, 0.9), batch_size=4, shuffle=False)
    before = net.loss(X, Y)
    assert trainer.step(X, Y) == pytest.approx(before, rel=1e-12)
    trainer.step(X[:5], Y[:5])
    assert trainer.state.step == 2
    with pytest.raises(AttributeError):
        trainer.velocity = None
    velocity = np.zeros_like(twin.parameters)
    for rows in (slice(None), slice(5)):
        _, weights, biases = twin.gradients(X[rows], Y[rows])
        g = np.concatenate([a.ravel() for pair in zip(weights, biases, strict=True) for a in pair])
        velocity = 0.9 * velocity + g
        twin.parameters[:] -= 0.1 * velocity
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-9)
    np.testing.assert_allclose(trainer.velocity, velocity, rtol=1e-9, atol=1e-14)
    history = trainer.partial_fit(X, Y)
    assert len(history) == 1 and trainer.epochs == 1 and trainer.partial_fit(X, Y).epochs == [2]


def test_a_trainer_can_be_pickled_in_the_middle(backend):
    net = make(backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1, 0.9), 3, seed=0)
    trainer.fit(*data(), epochs=2)
    twin = pickle.loads(pickle.dumps(trainer))
    for one in (trainer, twin):
        one.fit(*data(), epochs=3)
    np.testing.assert_array_equal(trainer.net.parameters, twin.net.parameters)
    assert twin.epochs == 5


FINITE_ENDS: dict = {}


@pytest.mark.parametrize("snapshot_fraction", [0, 1e12])  # a snapshot before every call, or only at the start
@pytest.mark.parametrize("chunk_seconds", [0.0, 1e-4, 10.0])
@pytest.mark.parametrize("first", ["loss", "parameters"])  # which of them leaves the finite numbers first
def test_a_loss_that_is_not_finite_stops_with_the_last_finite_parameters(
    backend, first, chunk_seconds, snapshot_fraction, monkeypatch
):
    monkeypatch.setattr(run, "CHUNK_SECONDS", chunk_seconds)
    monkeypatch.setattr(run, "SNAPSHOT_FRACTION", snapshot_fraction)
    X, Y = data(7)
    if first == "loss":
        net = fastbp.Network([3, 4, 2], ["tanh", "identity"], seed=0, backend=backend)
        trainer = fastbp.Trainer(net, fastbp.SGD(1.0, 0.5), batch_size=2, seed=0)
    else:  # the bias falls by 3e36 a step and never brings A near Y
        net = fastbp.Network([3, 2], "leaky_relu", "absolute_error", init="zeros", backend=backend)
        trainer = fastbp.Trainer(net, fastbp.SGD(3e38, 0.5), batch_size=2, seed=0)
        X, Y = 0.01 * X, np.full_like(Y, -1e38)
    with pytest.warns(RuntimeWarning, match=r"non-finite in epoch (\d+) \(batch \d of 4\)") as caught:
        history = trainer.fit(X, Y, epochs=1000)
    epoch = int(str(caught[0].message).split("epoch ")[1].split()[0])
    assert caught[0].filename == __file__
    assert history.nonfinite and not history.interrupted and history.stopped == "non-finite"
    assert trainer.state.step == 4 * len(history) + int(str(caught[0].message).split("(batch ")[1][0]) - 1
    assert len(history) == epoch - 1 == trainer.epochs > 5
    for numbers in (net.parameters, trainer.velocity, history.loss):
        assert np.isfinite(numbers).all()
    end = net.parameters.tobytes(), trainer.velocity.tobytes(), history.loss
    assert FINITE_ENDS.setdefault((backend, first), end) == end  # wherever the calls had their borders
    if first == "parameters":
        assert np.abs(net.parameters).max() > 3.2e38  # not one step too early


def test_earlier_calls_do_not_change_what_is_led_back_to(backend, monkeypatch):
    """The second call keeps its copies in the memory of the first one's, or, with other data, cannot."""
    monkeypatch.setattr(run, "SNAPSHOT_FRACTION", 1e12)
    X, Y = data(7)
    X, Y, ends = 0.01 * X, np.full_like(Y, -1e38), []
    for calls in ([1000], [2, 998], [2, 3, 995], "other data"):
        net = fastbp.Network([3, 2], "leaky_relu", "absolute_error", init="zeros", backend=backend)
        trainer = fastbp.Trainer(net, fastbp.SGD(3e38, 0.5), batch_size=2, seed=0)
        others = calls == "other data"
        if others:
            trainer.fit(X[:5], Y[:5], epochs=1)
            trainer.net.parameters[:] = trainer.velocity[:] = 0
            trainer.rng, calls = np.random.default_rng(0), [1000]
        for epochs in calls[:-1]:
            trainer.fit(X, Y, epochs=epochs)
        with pytest.warns(RuntimeWarning, match="non-finite"):
            trainer.fit(X, Y, epochs=calls[-1])
        steps = trainer.state.step - (3 if others else 0)
        ends.append((net.parameters.tobytes(), trainer.velocity.tobytes(), steps))
        drawn = np.random.default_rng(0)  # as far as for the order of the epoch that became non-finite
        for _ in range(trainer.epochs + (0 if others else 1)):
            drawn.integers(0, 2**32, 7, dtype=np.uint32)
        assert trainer.rng.bit_generator.state == drawn.bit_generator.state
    assert ends == ends[:1] * 4 and net.parameters.any()


@pytest.mark.parametrize("epochs", [1, 5])  # found at the end; found at a snapshot
def test_infinite_parameters_under_finite_losses_are_found(backend, epochs):
    net = fastbp.Network([1, 1], "sigmoid", init=[([[0.0]], [0.0])], backend=backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(1e37), batch_size=1, shuffle=False)
    with pytest.warns(RuntimeWarning, match=r"non-finite in epoch 1 \(batch 2 of 3\)"):
        history = trainer.fit([[0.0], [1e5], [1.0]], [[0.5], [0.0], [0.0]], epochs=epochs)
    assert history.nonfinite and len(history) == 0 and not net.parameters.any()


def test_a_step_with_a_loss_that_is_not_finite_changes_nothing(backend):
    net = fastbp.Network([1, 1], "identity", init=[([[3e38]], [0.0])], backend=backend)
    with pytest.warns(RuntimeWarning, match="the loss, of finite outputs: no update"):
        loss = fastbp.Trainer(net, fastbp.SGD(0.1)).step([[1.0]], [[0.0]])
    assert not np.isfinite(loss) and net.weights[0] == np.float32(3e38)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), on_nonfinite="raise")
    with pytest.raises(FloatingPointError, match="Z of layer 1: no update"):
        trainer.step([[9.0]], [[0.0]])
    assert net.weights[0] == np.float32(3e38) and trainer.state.step == 0


@pytest.mark.parametrize(
    "weights, origin",
    [((1e20, 1e30), "Z of layer 2"), ((1e39 / 9, 1), "Z of layer 1"), ((1e20, 1), "the loss, of finite outputs")],
)
def test_the_message_says_where_it_began(backend, weights, origin):
    net = fastbp.Network([1, 1, 1], "identity", init=[([[w]], [0.0]) for w in weights], backend=backend)
    before = net.parameters.copy()
    X = np.array([[0.0]] * 4 + [[9.0]])
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), 2, shuffle=False, on_nonfinite="raise")
    with pytest.raises(FloatingPointError, match=rf"in epoch 1 \(batch 3 of 3\), step 3, first in {origin}: "):
        trainer.fit(X, 0 * X, epochs=2)
    np.testing.assert_array_equal(net.parameters, before)
    assert trainer.epochs == 0 and trainer.state.step == 2


@pytest.mark.parametrize("seed", range(6))
def test_the_failing_batch_is_found_again(backend, seed, monkeypatch):
    net = fastbp.Network([1, 1], "sigmoid", init=[([[0.0]], [0.0])], backend=backend)
    trainer, seen = fastbp.Trainer(net, fastbp.SGD(1e37, 0.5), batch_size=1, seed=seed), []
    origin = lambda net, X, Y: seen.append((X.tolist(), Y.tolist())) or "here"  # noqa: E731
    monkeypatch.setattr(training.trainer, "nonfinite_origin", origin)
    order = np.empty(3, int)
    reference.shuffle(np.random.default_rng(seed).integers(0, 2**32, 3, dtype=np.uint32), order)
    place = int(np.flatnonzero(order == 1)[0])
    with pytest.warns(RuntimeWarning, match=rf"epoch 1 \(batch {place + 1} of 3\), step {place + 1}, first in here"):
        history = trainer.fit([[0.0], [1e5], [0.0]], [[0.5], [0.0], [0.5]], epochs=2)
    assert seen == [([[1e5]], [[0.0]])] and trainer.state.step == place and history.stopped == "non-finite"


@pytest.mark.parametrize("chunk_seconds", [0.0, 10.0])
@pytest.mark.parametrize("first", ["loss", "parameters"])
def test_the_whole_state_goes_back(backend, first, chunk_seconds, monkeypatch):
    monkeypatch.setattr(run, "CHUNK_SECONDS", chunk_seconds)
    if first == "loss":
        net = fastbp.Network([3, 4, 2], ["tanh", "identity"], seed=0, backend=backend)
        trainer, (X, Y) = fastbp.Trainer(net, fastbp.SGD(1.0, 0.5), batch_size=2, seed=0), data(7)
    else:
        net = fastbp.Network([3, 2], "leaky_relu", "absolute_error", init="zeros", backend=backend)
        trainer = fastbp.Trainer(net, fastbp.SGD(3e38, 0.5), batch_size=2, seed=0)
        X, Y = data(7)[0] / 99, [[-1e38] * 2] * 7

    def counted(train, X, Y, weights, words, first, last, losses):
        step = trainer.state.step
        assert step % 4 == first
        done = train(X, Y, weights, words, first, last, losses)
        trainer.state.running_products[0] *= 0.5**done
        trainer.state.step = step + done + (not np.isfinite(losses).all())  # a step that failed was tried, too
        return done

    wrap_training(net, monkeypatch, counted)
    with pytest.warns(RuntimeWarning, match="non-finite") as caught:
        history = trainer.fit(X, Y, epochs=100)
    batch = int(str(caught[0].message).split("(batch ")[1][0])
    assert trainer.state.step == 4 * len(history) + batch - 1 > 10
    assert trainer.state.running_products.tolist() == [0.5**trainer.state.step] + [1.0] * 7


@pytest.mark.parametrize("chunk_seconds", [0.0, 10.0])
def test_steps_that_are_skipped(backend, chunk_seconds, monkeypatch):
    monkeypatch.setattr(run, "CHUNK_SECONDS", chunk_seconds)
    X, Y = data(6)
    X[4] = 1e300  # the loss of this sample is infinite
    net, twin = (make(backend, activations=["identity", "identity"]) for _ in "ab")
    trainer = fastbp.Trainer(net, fastbp.SGD(0.01, 0.5), 1, shuffle=False, on_nonfinite="skip")

    def one_by_one(train, *data, first, last, losses):
        done = 0
        for epoch in range(len(losses)):
            for batch in range(first if epoch == 0 else 0, last):
                total, skipped = losses[epoch : epoch + 1].copy(), trainer.state.skipped
                done += train(*data, batch, batch + 1, total)
                losses[epoch] = total[0] if trainer.state.skipped == skipped else losses[epoch]
        return done

    wrap_training(net, monkeypatch, lambda train, *call: one_by_one(train, *call[:4], **name_span(call)))
    history = trainer.fit(X, Y, epochs=3)
    good = [0, 1, 2, 3, 5]
    same = fastbp.Trainer(twin, fastbp.SGD(0.01, 0.5), 1, shuffle=False)
    expected = same.fit(X[good], Y[good], epochs=3)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-12)  # by another kernel
    assert history.skipped == 3 and history.stopped is None and not history.nonfinite and expected.skipped == 0
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-12)
    X[:] = 1e300
    assert np.isnan(trainer.fit(X, Y, epochs=2).loss).all()


def test_infinite_parameters_cannot_be_skipped(backend):
    net = fastbp.Network([1, 1], "sigmoid", init=[([[0.0]], [0.0])], backend=backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(1e37), batch_size=1, shuffle=False, on_nonfinite="skip")
    with pytest.warns(RuntimeWarning, match=r"epoch 1 \(batch 2 of 3\), step 2, first in the update"):
        history = trainer.fit([[0.0], [1e5], [1.0]], [[0.5], [0.0], [0.0]], epochs=5)
    assert history.nonfinite and len(history) == 0 == trainer.epochs and not net.parameters.any()


@pytest.mark.parametrize(
    "loss, X, W, Y, place",
    [
        ("squared_error", 1e30, 1.0, 1.0, "the loss, of finite outputs"),
        ("huber", 1e20, 1e30, 1.0, "Z of layer 1"),
        ("squared_error", 1.0, 1.0, 1e30, "the loss, of finite outputs"),
        ("huber", 1e38, 0.0, 1e3, "the gradient"),
    ],
)
def test_a_first_step_that_is_not_finite_is_not_due_to_lr(backend, loss, X, W, Y, place):
    net = fastbp.Network([1, 1], "identity", loss, init=[([[W]], [0.0])], reduction="sum", backend=backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(1e-3), batch_size=4, seed=0)
    with pytest.warns(RuntimeWarning, match=f"step 1, first in {place}: .*; no update came before it: .* not lr$"):
        trainer.fit(np.full((8, 1), X), np.full((8, 1), Y))
    assert trainer.state.step == 0


def test_later_steps_and_large_ones_advise_a_smaller_lr(backend):
    for X, lr, step in (([[0.0], [1e5]], 1e37, 2), ([[1e10]], 1e35, 1)):
        net = fastbp.Network([1, 1], "identity", init=[([[0.0]], [0.0])], backend=backend)
        with pytest.warns(RuntimeWarning, match=f"step {step}, .*; a smaller lr may help$"):
            fastbp.Trainer(net, fastbp.SGD(lr), 1, shuffle=False).fit(X, np.ones((len(X), 1)), epochs=2)


@pytest.mark.parametrize("tol, lr", [(0.0, 0.3), (1e-4, 0.05), (1e-2, 0.05), (1e-3, 0.0001)])
def test_tol_stops_as_scikit_learn_does(backend, tol, lr):
    X, Y = data(40)
    long, stopped = make(backend), make(backend)
    losses = fastbp.Trainer(long, fastbp.SGD(lr), 5, seed=0).fit(X, Y, epochs=300).loss
    best, count, epochs = np.inf, 0, 300
    for epoch, loss in enumerate(losses, 1):  # BaseMultilayerPerceptron._update_no_improvement_count
        count = count + 1 if loss > best - tol else 0
        best = min(best, loss)
        if count > 10:
            epochs = epoch
            break
    trainer = fastbp.Trainer(stopped, fastbp.SGD(lr), 5, seed=0)
    history = trainer.fit(X, Y, epochs=300, tol=tol)
    assert history.loss == losses[:epochs] and trainer.epochs == epochs < 300
    assert history.stopped == "tol" and repr(history).endswith("stopped: tol)")


def test_bad_arguments_change_nothing(backend):
    net = make(backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1, 0.9), 4, seed=0)
    before, state = net.parameters.copy(), trainer.rng.bit_generator.state
    X, Y = data()
    bad = [
        (dict(X=X[:5], Y=Y), "Y has 11 rows"),
        (dict(X=X, Y=Y, epochs=0), "epochs"),
        (dict(X=X, Y=Y, epochs=2.0), "epochs"),
        (dict(X=X, Y=Y, metrics=["acuracy"]), "accuracy"),
        (dict(X=X, Y=Y, validation_data=(X[:, :2], Y)), "validation_data: X has 2 columns"),
        (dict(X=X, Y=Y, validation_data=(X, Y[:2])), "validation_data: Y has 2 rows"),
        (dict(X=X, Y=Y, validation_data=X), "pair"),
        (dict(X=X, Y=Y, metrics=3), "metrics"),
        (dict(X=X, Y=Y, metrics=["accuracy", "accuracy"]), "different names"),
        (dict(X=X, Y=Y, progress=2), "progress"),
        (dict(X=X[0], Y=Y[0]), r"X\[None, :\]"),
        (dict(X=X, Y=Y, tol=-1), "tol"),
        (dict(X=X, Y=Y, tol="1"), "tol"),
        (dict(X=X, Y=Y, sample_weight=np.ones(3)), r"shape \(3,\), expected \(11,\)"),
        (dict(X=X, Y=Y, sample_weight=np.r_[np.ones(10), -1]), r"sample_weight\[10\] is -1"),
        (dict(X=X, Y=Y, sample_weight=np.full(11, np.inf)), r"sample_weight\[0\] is inf"),
        (dict(X=X, Y=Y, class_weight="balanced"), "one class each"),
        (dict(X=X, Y=Y, class_weight=3), "class_weight"),
        (dict(X=X, Y=Y, callbacks=3), "callbacks"),
        (dict(X=X, Y=Y, callbacks=[3]), r"callbacks\[0\]"),
        (dict(X=X, Y=Y, callbacks=[fastbp.callbacks.TimeLimit]), r"write TimeLimit\(\.\.\.\)"),
    ]
    for arguments, words in bad:
        with pytest.raises((ValueError, TypeError), match=words):
            trainer.fit(**arguments)
    np.testing.assert_array_equal(net.parameters, before)
    assert trainer.rng.bit_generator.state == state and trainer.epochs == 0 and not trainer.velocity.any()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(net=3), "net must be"),
        (dict(optimizer="sgd"), "SGD"),
        (dict(batch_size=0), "batch_size"),
        (dict(batch_size=2.5), "batch_size"),
        (dict(shuffle="yes"), "shuffle"),
        (dict(seed="x"), "seed"),
        (dict(threads=0), "threads"),
        (dict(seed=-1), "seed"),
        (dict(l1=-1), "l1"),
        (dict(l2="x"), "l2"),
        (dict(dropout=1.0), "dropout"),
        (dict(dropout=[0.1, 0.2]), "or 1 "),
        (dict(dropout=[1]), r"dropout\[0\]"),
        (dict(net=fastbp.Network([3, 2]), dropout=0.5), "one layer"),
        (dict(clip_norm=0), "clip_norm"),
        (dict(clip_value=-1), "clip_value"),
        (dict(max_norm=np.inf), "max_norm"),
        (dict(input_noise=-0.1), "input_noise"),
        (dict(label_smoothing=0.1), "squared_error"),
        (dict(label_smoothing=1.0), "below 1"),
        (dict(on_nonfinite="ignore"), "on_nonfinite"),
    ],
)
def test_bad_settings(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        fastbp.Trainer(**{"net": make("numpy"), "optimizer": fastbp.SGD(0.1), **arguments})


def test_lr_scale_is_a_plain_number(backend, xor):
    """NumPy's float64 would turn the reference's float32 into float64."""
    nets = [make(backend, dtype="float32", sizes=(2, 3, 1)), make(backend, dtype="float32", sizes=(2, 3, 1))]
    for net, scale in zip(nets, (0.7, np.float64(0.7)), strict=True):
        trainer = fastbp.Trainer(net, fastbp.SGD(0.3), seed=0)
        trainer.lr_scale = scale
        trainer.fit(*xor, epochs=3)
        for wrong in ("x", np.nan, -1):
            with pytest.raises((ValueError, TypeError), match="lr_scale"):
                trainer.lr_scale = wrong
        assert trainer.lr_scale == 0.7
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)


def test_the_settings_of_every_update():
    net = fastbp.Network([3, 4, 5, 2], ["tanh", "tanh", "softmax"], "cross_entropy", seed=0)
    trainer = fastbp.Trainer(
        net,
        fastbp.SGD(0.5, 0.9, True),
        seed=1,
        l1=0.1,
        l2=0.2,
        dropout=0.3,
        clip_norm=4,
        clip_value=5,
        max_norm=6,
        label_smoothing=0.7,
        input_noise=0.8,
        on_nonfinite="skip",
    )
    trainer.lr_scale = 0.5
    update = trainer._update()
    assert replace(update, key=0) == Update(
        rule="nesterov",
        hyperparameters=(0.9,),
        schedule="constant",
        rates=(0.5,),
        l1=0.1,
        l2=0.2,
        clip_value=5.0,
        clip_norm=4.0,
        max_norm=6.0,
        dropout=(0.3, 0.3),
        label_smoothing=0.7,
        input_noise=0.8,
        skips=True,
        rate_scale=0.5,
    )
    assert trainer.lr == 0.25 and 0 < update.key < 2**64
    plain = fastbp.Trainer(net, fastbp.SGD(0.5), seed=1)
    assert replace(plain._update(), key=0) == Update(rule="sgd", rates=(0.5,))
    assert plain.velocity is None and plain._update().key > 0
    assert trainer.rng.bit_generator.state == plain.rng.bit_generator.state  # dropout changes nothing in the orders
    assert fastbp.Trainer(net, fastbp.SGD(0.5), seed=1, dropout=[0.0, 0.5])._update().dropout == (0.0, 0.5)
    keys = {fastbp.Trainer(net, fastbp.SGD(0.5), seed=seed, dropout=0.5).key for seed in (1, 1, 2)}
    assert len(keys) == 2 and update.key in keys


def weights_of(Y, sizes=(2, 3), loss="cross_entropy", dtype="float32", **options):
    """Weights that the backend is told for such targets."""
    net = fastbp.Network(sizes, "softmax" if loss == "cross_entropy" else "sigmoid", loss, dtype=dtype, seed=0)
    trainer, seen = fastbp.Trainer(net, fastbp.SGD(0.1)), []
    with pytest.MonkeyPatch.context() as monkeypatch:
        watch_training(net, monkeypatch, lambda X, Y, weights, *_, **span: seen.append(weights))
        trainer.fit(np.ones((len(Y), sizes[0])), Y, **options)
    return seen[0]


def test_weights_of_samples_and_classes():
    labels = np.array([0, 0, 0, 2, 2, 0])
    assert weights_of(labels) is None
    sample = np.arange(6)
    weights = weights_of(labels, sample_weight=sample, class_weight={2: 3, 1: 9})
    assert weights.dtype == np.float32 and weights.tolist() == [0, 1, 2, 9, 12, 5]
    for Y in (labels, np.eye(3)[labels]):
        assert weights_of(Y, dtype="float64", class_weight="balanced").tolist() == [0.75, 0.75, 0.75, 1.5, 1.5, 0.75]
    yes = np.array([0, 1, 1, 1.0])
    for Y in (yes, yes[:, None]):
        one = dict(sizes=(2, 1), loss="binary_cross_entropy")
        assert weights_of(Y, **one, class_weight={0: 5}).tolist() == [5, 1, 1, 1]
        np.testing.assert_allclose(weights_of(Y, **one, class_weight="balanced"), [2, 2 / 3, 2 / 3, 2 / 3], 1e-6)
        assert weights_of(2 * Y - 1, (2, 1), "squared_error", class_weight={-1: 5}).tolist() == [5, 1, 1, 1]
    for Y, value, words in [
        (labels, {3: 1}, "class 3"),
        (labels, {True: 1}, "class True"),
        (labels, {0: -1}, "least 0"),
        (labels, "equal", "balanced"),
        (np.full((4, 3), 1 / 3), "balanced", "one class each"),
    ]:
        with pytest.raises((ValueError, TypeError), match=words):
            weights_of(Y, class_weight=value)


def test_progress_is_silent_in_a_pipe_and_can_be_forced(backend, capsys):
    trainer = fastbp.Trainer(make(backend), fastbp.SGD(0.1), 4, seed=0)
    trainer.fit(*data(), epochs=2)
    trainer.fit(*data(), epochs=2, progress=False)
    assert capsys.readouterr() == ("", "")
    trainer.fit(*data(), epochs=2, progress=True)
    assert "100%" in capsys.readouterr().out


def test_progress_in_a_terminal_shows_only_on_long_work(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    trainer = fastbp.Trainer(make("numpy"), fastbp.SGD(0.1), 4, seed=0)
    trainer.fit(*data(), epochs=2)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.0)
    trainer.fit(*data(), epochs=2)
    assert "loss" in capsys.readouterr().out
    monkeypatch.setitem(__import__("sys").modules, "rich.progress", None)  # as if rich were not installed
    trainer.fit(*data(), epochs=2)
    assert capsys.readouterr().out == ""


def test_progress_without_rich_says_what_to_install(monkeypatch):
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"fastbp\[cli\]"):
        fastbp.Trainer(make("numpy"), fastbp.SGD(0.1)).fit(*data(), progress=True)


def test_ctrl_c_between_calls_keeps_what_is_done(backend, monkeypatch):
    net = make(backend)
    calls = []

    def interrupted(*args, **span):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    watch_training(net, monkeypatch, interrupted)
    monkeypatch.setattr(run, "CHUNK_SECONDS", 0.0)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), 11, seed=0)
    with pytest.warns(RuntimeWarning, match="interrupted after 3 of 9 epochs"):
        history = trainer.fit(*data(), epochs=9)
    assert history.interrupted and history.stopped == "interrupted" and len(history) == 3 and trainer.epochs == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trainer.fit(*data(), epochs=2).epochs == [4, 5]


def test_a_trainer_keeps_neither_data_nor_itself(backend):
    """The next call of fit finds much ready, but no data; and what is dropped goes at once, without the collector."""
    gc.collect()
    gc.disable()
    try:
        X, Y = data(12)
        trainer = fastbp.Trainer(make(backend), fastbp.SGD(0.1, 0.5), batch_size=3, seed=0)
        trainer.fit(X, Y, epochs=2)
        last_run, seen = trainer._last_run, weakref.ref(X)
        del X
        assert seen() is None
        trainer.fit(*data(12), epochs=2)
        assert trainer._last_run is last_run
        seen = weakref.ref(trainer)
        del trainer, last_run
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("argument", ["callbacks", "metrics"])
@pytest.mark.parametrize("value", [np.array([]), np.array([1, 2]), None, "nonsense"])
def test_what_is_no_sequence_of_callbacks_or_metrics(backend, argument, value):
    with pytest.raises((TypeError, ValueError), match=f"^{argument} "):
        fastbp.Trainer(make(backend), fastbp.SGD(0.1)).fit(*data(), **{argument: value})


def change_batch_size(trainer, X, Y):
    trainer.batch_size = 5


def change_order(trainer, X, Y):
    trainer.shuffle, trainer.rng = True, np.random.default_rng(5)


def change_rate(trainer, X, Y):
    trainer.lr_scale = 0.5


def change_rule(trainer, X, Y):
    trainer.optimizer = fastbp.SGD(0.3, 0.9)


def change_threads(trainer, X, Y):
    trainer.threads = 1


CHANGES = {
    "batch size": (change_batch_size, {}),
    "order": (change_order, {}),
    "rate": (change_rate, {}),
    "rule": (change_rule, {}),
    "threads": (change_threads, {}),
    "fewer": (None, {"rows": 7}),
    "float32": (None, {"dtype": np.float32}),
    "weights": (None, {"weight": True}),
    "uint8": (None, {"dtype": np.uint8}),
    "nothing": (None, {}),
}


@pytest.mark.parametrize("between", ["nothing", "stream", "shuffled stream", "step", "weighted", "refused"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_ready_from_the_last_call_is_not_used_for_another(backend, change, between):
    """A trainer that goes on with something changed trains as one that never trained before."""
    change, how = CHANGES[change]
    X, Y = data(12)
    X *= 9
    used = fastbp.Trainer(make(backend), fastbp.SGD(0.1, 0.5), batch_size=3, seed=0, shuffle=False)
    used.fit(X, Y)
    if "stream" in between:
        used.shuffle = between == "shuffled stream"
        used.fit(fastbp.stream(X, Y, buffer_rows=15))
        used.shuffle = False
    elif between == "step":
        used.step(X[:3], Y[:3])
    elif between == "weighted":
        used.fit(X, Y, sample_weight=np.arange(12))
    elif between == "refused":
        with pytest.raises(ValueError, match="tol"):
            used.fit(X, Y, tol=-1)
    fresh = fastbp.Trainer(make(backend), fastbp.SGD(0.1, 0.5), batch_size=3, seed=0, shuffle=False)
    fresh.net.parameters[:], fresh.state.buffers[:], fresh.state.step = (
        used.net.parameters,
        used.state.buffers,
        used.state.step,
    )
    X, Y = X.astype(how.get("dtype", float))[: how.get("rows")], Y[: how.get("rows")]
    for trainer in (used, fresh):
        if change:
            change(trainer, X, Y)
        before = trainer.net.parameters.copy()
        trainer.fit(X, Y, epochs=2, sample_weight=np.arange(12) if how.get("weight") else None)
        assert trainer.net.parameters.tobytes() != before.tobytes()
    assert used.net.parameters.tobytes() == fresh.net.parameters.tobytes()
    assert used.state.buffers.tobytes() == fresh.state.buffers.tobytes() and used.state.step == fresh.state.step


def test_what_follows_a_nonfinite_end_does_not_depend_on_the_time(backend, monkeypatch):
    """The generator is where it was in the epoch that training ended in, however long the calls were."""
    losses = []
    for seconds in (0.0, 0.05, 1e9):
        monkeypatch.setattr(run, "CHUNK_SECONDS", seconds)
        trainer = fastbp.Trainer(make(backend, activations="identity", dtype="float32"), fastbp.SGD(0.01), 3, seed=0)
        trainer.fit(*data(12), epochs=20)
        trainer.lr_scale = 500
        with pytest.warns(RuntimeWarning, match="non-finite"):
            trainer.fit(*data(12), epochs=300)
        trainer.net.parameters[:], trainer.lr_scale = 0.1, 1.0
        losses.append(trainer.fit(*data(12), epochs=3).loss)
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("event", ["on_epoch_begin", "on_epoch_end", "on_batch_end"])
@pytest.mark.parametrize("what", ["rate", "parameters"])
def test_the_way_back_keeps_what_callbacks_did(backend, event, what):
    """Five epochs are fine; then the rate is so large that the next step overflows."""
    seen = []

    def act(trainer, *_):
        if trainer.epochs == 5 and not seen:
            if what == "parameters":
                trainer.net.parameters *= 0.5
            trainer.lr_scale = 1e300
            seen.append((trainer.net.parameters.tobytes(), trainer.state.step))

    trainer = fastbp.Trainer(make(backend, dtype="float32"), fastbp.SGD(1e-2), 3, seed=0)
    with pytest.warns(RuntimeWarning, match="non-finite in epoch 6"):
        history = trainer.fit(*data(12), epochs=30, callbacks=[type("C", (), {event: staticmethod(act)})()])
    assert len(history) == 5 == trainer.epochs and seen == [(trainer.net.parameters.tobytes(), trainer.state.step)]


OTHERS = {
    "states added": (fastbp.SGD(0.1), fastbp.Adam()),
    "states removed": (fastbp.SGD(0.1, 0.5), fastbp.SGD(0.1)),
    "states of another meaning": (fastbp.RMSprop(), fastbp.Adagrad()),
    "products of another meaning": (fastbp.Adam(), fastbp.Nadam()),
}


@pytest.mark.parametrize("before, after", OTHERS.values(), ids=OTHERS)
def test_an_optimizer_that_needs_another_state_is_refused(backend, before, after):
    trainer = fastbp.Trainer(make(backend), before, seed=0)
    with pytest.raises(ValueError, match="remembers other numbers of each parameter than .* make a new Trainer"):
        trainer.optimizer = after
    assert trainer.optimizer is before
    trainer.fit(*data())


def test_an_optimizer_goes_on_with_the_state_of_its_like(backend):
    net = make(backend)
    trainer = fastbp.Trainer(net, fastbp.Adam(), 4, seed=0)
    trainer.fit(*data())
    trainer.optimizer = fastbp.AdamW(lr=0.5, weight_decay=0.0)
    trainer.fit(*data())
    twin = fastbp.Trainer(make(backend), fastbp.Adam(), 4, seed=0)
    twin.fit(*data())
    twin.optimizer = fastbp.Adam(lr=0.5)
    twin.fit(*data())
    np.testing.assert_allclose(net.parameters, twin.net.parameters, rtol=1e-12)


@pytest.mark.parametrize("name", ["net", "state"])
def test_what_a_trainer_is_built_on_cannot_be_replaced(backend, name):
    """Kernels read and write at the addresses of these."""
    trainer, other = (fastbp.Trainer(make(backend, sizes=sizes), fastbp.SGD(0.1, 0.5)) for sizes in ((3, 4, 2), (3, 2)))
    with pytest.raises(AttributeError, match=f"{name} of a Trainer cannot be replaced: make a new Trainer"):
        setattr(trainer, name, getattr(other, name))
    for part in ("buffers", "running_products", "vectors"):
        with pytest.raises(AttributeError, match=f"{part} of a State cannot be replaced: write into it"):
            setattr(trainer.state, part, np.zeros(1))
    with pytest.raises(AttributeError, match="'memory': it is called 'running_products'"):
        trainer.state.memory[:] = 1
    trainer.state.buffers *= 0.5
    trainer.state = trainer.state
    trainer.fit(*data())


SETTINGS = [
    ("optimizer", "sgd", TypeError),
    ("batch_size", 0, ValueError),
    ("batch_size", 2.5, TypeError),
    ("shuffle", 1, TypeError),
    ("threads", 0, ValueError),
    ("l1", -1, ValueError),
    ("l2", "x", TypeError),
    ("dropout", 1.0, ValueError),
    ("dropout", [0.1, 0.1], ValueError),
    ("clip_norm", 0, ValueError),
    ("clip_value", -1.0, ValueError),
    ("max_norm", np.nan, ValueError),
    ("label_smoothing", 0.1, ValueError),
    ("input_noise", -0.1, ValueError),
    ("on_nonfinite", "go on", ValueError),
    ("rng", -1, ValueError),
    ("key", -1, ValueError),
    ("lr_scale", np.inf, ValueError),
]


def test_a_setting_stands_in_one_place():
    """The constructor, the update, the checkpoint and the documentation name the same settings."""
    names = [row.name for row in fields(UpdateSettings)]
    keywords = signature(fastbp.Trainer).parameters
    assert list(keywords) == (["net", "optimizer", "batch_size", "shuffle", "seed", "threads", *names, "on_nonfinite"])
    assert {name: keywords[name].default for name in keywords if name not in names} == {
        "net": keywords["net"].empty,
        "optimizer": keywords["net"].empty,
        "batch_size": 32,
        "shuffle": True,
        "seed": None,
        "threads": None,
        "on_nonfinite": "stop",
    }
    trainer = fastbp.Trainer(make("numpy"), fastbp.SGD(0.1))
    for row in fields(UpdateSettings):
        assert keywords[row.name].default == row.default
        assert getattr(trainer, row.name) == row.metadata["off"] == getattr(trainer._update(), row.name)
        assert not row.metadata["off"]  # what full-batch methods and old files take for off
    assert set(trainer._config()) == {"network", "optimizer", "batch_size", "shuffle", "on_nonfinite", *names}
    documentation = fastbp.Trainer.__doc__.split("Attributes\n")[0]
    assert all(re.search(rf"^    (\w+, )?{name}\b.* : ", documentation, re.MULTILINE) for name in keywords)
    assert {name for name, *_ in SETTINGS} == {*keywords, "rng", "key", "lr_scale"} - {"net", "seed"}


@pytest.mark.parametrize("name, value, error", SETTINGS)
def test_settings_are_checked_when_they_are_set(backend, name, value, error):
    trainer = fastbp.Trainer(make(backend), fastbp.SGD(0.1))
    before = getattr(trainer, name)
    with pytest.raises(error, match=rf"^{name}\b"):
        setattr(trainer, name, value)
    assert getattr(trainer, name) is before


def test_settings_that_are_set_later_are_those_of_the_start(backend):
    """Dropout and noise too, whose random numbers are drawn from the seed in any case."""
    given = dict(
        batch_size=4,
        shuffle=False,
        threads=1,
        l1=0.01,
        l2=0.1,
        dropout=0.4,
        clip_norm=1.0,
        clip_value=0.5,
        max_norm=2.0,
        input_noise=0.2,
        on_nonfinite="raise",
    )
    trainers = (
        fastbp.Trainer(make(backend), fastbp.SGD(0.1), seed=3),
        fastbp.Trainer(make(backend), fastbp.SGD(0.1), seed=3, **given),
    )
    for name, value in given.items():
        setattr(trainers[0], name, value)
    for trainer in trainers:
        trainer.fit(*data(), epochs=3)
    assert trainers[0].net.parameters.tobytes() == trainers[1].net.parameters.tobytes()
    trainers[0].dropout = 0.0
    assert trainers[0].dropout == ()


def test_a_pickle_without_a_setting_has_it_off(backend):
    """As of a version that did not know the setting."""
    trainer = fastbp.Trainer(make(backend), fastbp.SGD(0.1), seed=0)
    kept = trainer.__getstate__()
    for row in fields(UpdateSettings):
        del kept[row.name]
    twin = object.__new__(fastbp.Trainer)
    twin.__setstate__({**kept, "net": make(backend)})
    assert twin.dropout == () and twin.clip_norm == 0.0
    for one in (trainer, twin):
        one.fit(*data())
    assert twin.net.parameters.tobytes() == trainer.net.parameters.tobytes()


def read_only(array):
    array.flags.writeable = False


@pytest.mark.parametrize("name", ["net.parameters", "state.buffers", "state.running_products", "state.vectors"])
@pytest.mark.parametrize("call", ["fit", "partial_fit", "step", "load_checkpoint"])
def test_arrays_that_cannot_be_written_to_are_refused(backend, name, call, tmp_path):
    trainer = fastbp.Trainer(make(backend), fastbp.Adam(), seed=0)
    trainer.fit(*data())
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    before = trainer.net.parameters.tobytes(), trainer.state.buffers.tobytes(), trainer.epochs, trainer.state.step
    read_only(
        {
            "net.parameters": trainer.net.parameters,
            "state.buffers": trainer.state.buffers,
            "state.running_products": trainer.state.running_products,
            "state.vectors": trainer.state.vectors,
        }[name]
    )
    with pytest.raises(ValueError, match=f"^{name} is read-only"):
        getattr(trainer, call)(*[tmp_path / "c.ckpt"] if call == "load_checkpoint" else data())
    now = trainer.net.parameters.tobytes(), trainer.state.buffers.tobytes(), trainer.epochs, trainer.state.step
    assert now == before and len(trainer.history["loss"]) == 1


def unpickled_in_place(trainer):
    """Unpickle with the arrays in bytes objects, which nobody may change."""
    buffers = []
    data = pickle.dumps(trainer, protocol=5, buffer_callback=buffers.append)
    kept = [bytes(buffer) for buffer in buffers]
    return pickle.loads(data, buffers=kept), kept


@pytest.mark.parametrize("optimizer", [fastbp.SGD(0.1, 0.9), fastbp.Adam(), fastbp.Lion()], ids=repr)
def test_unpickled_state_is_memory_of_its_own(backend, optimizer):
    trainer = fastbp.Trainer(make(backend), optimizer, 4, seed=0)
    trainer.fit(*data())
    copy, kept = unpickled_in_place(trainer)
    before = list(map(bytearray, kept))
    for other in (trainer, copy):
        other.fit(*data(), epochs=2)
        other.step(*data())
    assert kept == before and len(kept) > 1
    assert copy.net.parameters.tobytes() == trainer.net.parameters.tobytes()
    assert copy.state.buffers.tobytes() == trainer.state.buffers.tobytes()
    assert all(buffer.ctypes.data % 64 == 0 for buffer in copy.state.buffers)


def test_a_trainer_mapped_from_a_file_trains(backend, tmp_path):
    nets = [fastbp.Network([1, 4000, 1], seed=0, backend=backend) for _ in range(2)]
    trainer, twin = (fastbp.Trainer(net, fastbp.SGD(0.01, momentum=0.9)) for net in nets)
    joblib.dump(trainer, tmp_path / "trainer")
    written = (tmp_path / "trainer").read_bytes()
    for mode in ("r", "c", "r+"):
        mapped = joblib.load(tmp_path / "trainer", mmap_mode=mode)
        mapped.step([[1.0]], [[0.0]])
    twin.step([[1.0]], [[0.0]])
    assert mapped.net.parameters.tobytes() == twin.net.parameters.tobytes()
    assert (tmp_path / "trainer").read_bytes() == written


def test_one_thread_at_a_time(backend):
    """While one call of fit waits in a callback, every other call that trains is refused at once."""
    trainer = fastbp.Trainer(make(backend), fastbp.SGD(0.1), seed=0)
    entered, leave, seen = threading.Event(), threading.Event(), []

    def wait(*_):
        entered.set()
        leave.wait(60)

    thread = threading.Thread(
        target=trainer.fit,
        args=data(),
        kwargs={"epochs": 3, "callbacks": [type("C", (), {"on_epoch_end": staticmethod(wait)})()]},
    )
    thread.start()
    try:
        assert entered.wait(60)
        for name in ("fit", "partial_fit", "step"):
            with pytest.raises(RuntimeError, match="was called while fit of the same trainer runs"):
                getattr(trainer, name)(*data())
        for name in ("load_checkpoint", "save_checkpoint"):
            with pytest.raises(RuntimeError, match="was called while"):
                getattr(trainer, name)("no such file")
        seen.append(pickle.loads(pickle.dumps(trainer)))
    finally:
        leave.set()
        thread.join()
    assert len(trainer.history["loss"]) == trainer.epochs == 3
    trainer.fit(*data())
    seen[0].fit(*data())


def test_threads_that_enter_at_once(backend):
    """All are at the door together; as many epochs are recorded as calls got in."""
    trainer = fastbp.Trainer(make(backend), fastbp.SGD(0.1), seed=0)
    trainer.fit(*data())
    for _ in range(20):
        door, results = threading.Barrier(4), []

        def enter(door=door, results=results):
            door.wait()
            try:
                results.append(len(trainer.fit(*data(), epochs=2)))
            except RuntimeError as error:
                results.append(str(error))

        before = trainer.epochs
        threads = [threading.Thread(target=enter) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        n_in = results.count(2)
        assert n_in >= 1 and all(result == 2 or "was called while fit" in result for result in results)
        assert trainer.epochs == before + 2 * n_in == len(trainer.history["loss"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_while_a_thread_trains_can_train(tmp_path):
    code = textwrap.dedent("""
        import os, signal, threading
        import numpy as np
        import fastbp

        X, Y = np.ones((4, 2)), np.ones((4, 1))
        trainer = fastbp.Trainer(fastbp.Network([2, 1], seed=0), fastbp.SGD(0.1), seed=0)
        trainer.fit(X, Y)
        entered, leave = threading.Event(), threading.Event()

        class Wait:
            def on_epoch_end(self, trainer, history):
                entered.set()
                leave.wait(60)

        thread = threading.Thread(target=trainer.fit, args=(X, Y), kwargs={"callbacks": [Wait()]})
        thread.start()
        entered.wait(60)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            trainer.fit(X, Y, epochs=2)
            trainer.step(X, Y)
            trainer.save_checkpoint("child.ckpt")
            os._exit(0)
        leave.set()
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """)
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout == "0\n", result.stderr


def test_a_call_that_fails_leaves_no_history(backend):
    trainer = fastbp.Trainer(make(backend), fastbp.SGD(0.1), seed=0)
    trainer.fit(*data())
    before = trainer.history
    with pytest.raises(ValueError, match="monitor"):
        trainer.fit(*data(), metrics=["r2"], validation_data=data(), callbacks=[fastbp.callbacks.EarlyStopping("f1")])
    assert trainer.history == before


def test_label_smoothing_with_a_loss_of_ones_own(backend):
    import numba

    square, twice = numba.njit(lambda a, y: (a - y) ** 2), numba.njit(lambda a, y: 2 * (a - y))
    net = fastbp.Network([3, 2], loss=fastbp.Loss(square, twice, "mine"), backend=backend)
    with pytest.raises(ValueError, match="label_smoothing needs a loss of classes"):
        fastbp.Trainer(net, fastbp.SGD(0.1), label_smoothing=0.1)


def small_trainer(optimizer, backend, **settings):
    net = fastbp.Network([3, 5, 2], "tanh", dtype="float64", seed=0, backend=backend)
    return fastbp.Trainer(net, optimizer, **{"batch_size": 4, "seed": 1, **settings})


def small_data(n=30):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)), rng.normal(size=(n, 2))


@pytest.mark.parametrize("settings", [{}, {"batch_size": 1}, {"on_nonfinite": "skip"}, {"shuffle": False}], ids=repr)
def test_a_learning_rate_that_is_a_function(backend, settings):
    """Every way to train takes the rate of the step that it is at."""
    X, Y = small_data()
    schedule = fastbp.schedules.Piecewise([3, 11, 40], [0.1, 0.02, 0.2, 0.05])
    one, other = (small_trainer(fastbp.SGD(lr, 0.9), backend, **settings) for lr in (schedule, lambda t: schedule(t)))
    for trainer in (one, other):
        trainer.fit(X, Y, epochs=3, progress=False)
        trainer.lr_scale = 0.5
        for _ in range(3):  # the second and third call go the short way
            trainer.partial_fit(X, Y)
            trainer.step(X[:7], Y[:7])
        trainer.fit(X, Y, epochs=2, callbacks=[OnBatches()], progress=False)
        trainer.fit(fastbp.stream(lambda: iter([(X[:20], Y[:20]), (X[20:], Y[20:])])), epochs=2, progress=False)
    assert one.state.step == other.state.step > 40 and one.lr == other.lr == 0.025
    np.testing.assert_array_equal(other.net.parameters, one.net.parameters)


class OnBatches(fastbp.callbacks.Callback):
    def on_batch_end(self, trainer, history, step, loss):
        self.step = step


def test_a_learning_rate_that_grows_until_the_loss_is_not_finite(backend):
    X, Y = small_data()
    net = fastbp.Network([3, 5, 2], "identity", seed=0, backend=backend)
    results = []
    for lr in (fastbp.schedules.Exponential(0.1, 1.3), lambda t: fastbp.schedules.Exponential(0.1, 1.3)(t)):
        trainer = fastbp.Trainer(net.copy(), fastbp.SGD(lr), batch_size=4, seed=1)
        with pytest.warns(RuntimeWarning, match="non-finite in epoch"):
            history = trainer.fit(X, Y, epochs=20, progress=False)
        results.append((trainer.state.step, history.loss, trainer.net.parameters.tobytes()))
        assert trainer.state.step > 8
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "wrong, error, words", [(-1.0, ValueError, "at least 0, got -1.0"), (None, TypeError, "number")]
)
def test_a_function_that_fails_leaves_what_was_trained(backend, wrong, error, words):
    X, Y = small_data()
    trainer, wanted = (
        small_trainer(fastbp.SGD(lr), backend, shuffle=False)
        for lr in (lambda step: 0.1 if step < 11 else wrong, fastbp.schedules.Constant(0.1))
    )
    with pytest.raises(error, match=rf"lr\(11\) must be .*{words}"):
        trainer.fit(X, Y, epochs=3, callbacks=[OnBatches()], progress=False)
    assert trainer.state.step == 11 and trainer.epochs == 1
    wanted.fit(X, Y, progress=False)
    for start in range(0, 12, 4):
        wanted.step(X[start : start + 4], Y[start : start + 4])
    np.testing.assert_allclose(trainer.net.parameters, wanted.net.parameters, 1e-12)
    with pytest.raises(error, match=r"lr\(11\)"):
        trainer.step(X[:4], Y[:4])
    assert trainer.state.step == 11


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_orders_are_int64_where_integers_are_int32(is_stream, shuffle, monkeypatch):
    """As on Windows with NumPy 1: kernels read an order as int64, and the engine insists on it."""
    arange, seen = np.arange, []

    def narrow(*args, dtype=None):
        return arange(*args, dtype=np.int32 if dtype is None and all(type(a) is int for a in args) else dtype)

    monkeypatch.setattr(np, "arange", narrow)
    assert np.arange(3).dtype == np.int32
    net = make("numba")
    training = net._backend.training
    monkeypatch.setattr(
        net._backend,
        "training",
        lambda *args, **options: (seen.append(options["order"].dtype), training(*args, **options))[1],
    )
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), 4, shuffle=shuffle, seed=0)
    X, Y = data(50)
    trainer.fit(*(fastbp.stream(X, Y, buffer_rows=8),) if is_stream else (X, Y), epochs=2)
    trainer.fit(
        *(fastbp.stream(lambda: [(X, Y)], buffer_rows=8),) if is_stream else (X, Y),
        validation_data=(X, Y),
        metrics=["r2"],
    )
    trainer.step(X, Y)
    assert set(seen) == {np.dtype(np.int64)}
    with pytest.raises(TypeError, match="order must be int64 .* got int32"):
        training(net.parameters, trainer.state, batch_size=4, order=np.arange(50), update=trainer._update())
