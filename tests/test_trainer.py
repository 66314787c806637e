"""Training: against loops written out in NumPy, and that nothing but the arguments decides the result."""

import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbp
import fastbp.trainer
from fastbp import reference


def make(backend, seed=0, dtype="float64", sizes=(3, 4, 2), **options):
    """Build a small network."""
    return fastbp.Network(sizes, "tanh", seed=seed, dtype=dtype, backend=backend, **options)


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
        monkeypatch.setattr(fastbp.trainer, "CHUNK_SECONDS", chunk_seconds)
        net, losses = make(backend), []
        trainer = fastbp.Trainer(net, fastbp.SGD(0.1, 0.9), batch_size=3, seed=5)
        for epochs in parts:
            losses += trainer.fit(*data(n), epochs=epochs).loss
        return net.parameters.tobytes(), losses

    expected = train(0.05, [12])
    assert train(seconds, [12]) == expected
    assert train(seconds, [1, 4, 7]) == expected
    assert train(seconds, [1] * 12) == expected


def test_the_chunk_grows_and_never_passes_an_epoch_that_python_must_see(backend, monkeypatch):
    calls = []
    net = make(backend)
    train = net._backend.train

    def spy(*args, **options):
        calls.append((len(options["losses"]), options["first_batch"], options["last_batch"]))
        return train(*args, **options)

    monkeypatch.setattr(net._backend, "train", spy)
    monkeypatch.setattr(fastbp.trainer, "CHUNK_SECONDS", 1e9)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=1, seed=0)
    trainer.fit(*data(12), epochs=40)
    assert calls == [(1, 0, 1), (1, 1, 11), (1, 11, 12), (8, 0, 12), (31, 0, 12)]
    calls.clear()
    trainer.fit(*data(12), epochs=5, metrics=["accuracy"])
    assert calls == [(1, 0, 12)] * 5
    monkeypatch.setattr(fastbp.trainer, "CHUNK_SECONDS", 0.0)
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
    monkeypatch.setattr(fastbp.trainer, "PREDICTED_NUMBERS", 100)  # so that a few rows are predicted at a time
    X, Y = data(40)
    Xv, Yv = data(9, seed=2)

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


def test_accuracy():
    accuracy = fastbp.trainer.accuracy
    A = np.array([[0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    assert accuracy(A, np.array([1, 0, 0])) == pytest.approx(2 / 3)
    assert accuracy(A, np.array([[0.0, 1], [0, 1], [0, 1]])) == pytest.approx(2 / 3)
    assert accuracy(A[:, :1], np.array([[0.0], [1], [1]])) == pytest.approx(2 / 3)


def test_step_and_partial_fit(backend):
    X, Y = data()
    net, twin = make(backend), make("numpy")
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1, 0.9), batch_size=4, shuffle=False)
    before = net.loss(X, Y)
    assert trainer.step(X, Y) == pytest.approx(before, rel=1e-12)
    trainer.step(X[:5], Y[:5])
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


@pytest.mark.parametrize("snapshot_share", [0, 1e12])  # a snapshot before every call, or only at the start
@pytest.mark.parametrize("chunk_seconds", [0.0, 1e-4, 10.0])
@pytest.mark.parametrize("first", ["loss", "parameters"])  # which of them leaves the finite numbers first
def test_a_loss_that_is_not_finite_stops_with_the_last_finite_parameters(
    backend, first, chunk_seconds, snapshot_share, monkeypatch
):
    monkeypatch.setattr(fastbp.trainer, "CHUNK_SECONDS", chunk_seconds)
    monkeypatch.setattr(fastbp.trainer, "SNAPSHOT_SHARE", snapshot_share)
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
    assert history.nonfinite and not history.interrupted and len(history) == epoch - 1 == trainer.epochs > 5
    for numbers in (net.parameters, trainer.velocity, history.loss):
        assert np.isfinite(numbers).all()
    end = net.parameters.tobytes(), trainer.velocity.tobytes(), history.loss
    assert FINITE_ENDS.setdefault((backend, first), end) == end  # wherever the calls had their borders
    if first == "parameters":
        assert np.abs(net.parameters).max() > 3.2e38  # not one step too early


@pytest.mark.parametrize("epochs", [1, 5])  # found at the end; found at a snapshot
def test_infinite_parameters_under_finite_losses_are_found(backend, epochs):
    net = fastbp.Network([1, 1], "sigmoid", init=[([[0.0]], [0.0])], backend=backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(1e37), batch_size=1, shuffle=False)
    with pytest.warns(RuntimeWarning, match=r"non-finite in epoch 1 \(batch 2 of 3\)"):
        history = trainer.fit([[0.0], [1e5], [1.0]], [[0.5], [0.0], [0.0]], epochs=epochs)
    assert history.nonfinite and len(history) == 0 and not net.parameters.any()


def test_a_step_with_a_loss_that_is_not_finite_changes_nothing(backend):
    net = fastbp.Network([1, 1], "identity", init=[([[3e38]], [0.0])], backend=backend)
    with pytest.warns(RuntimeWarning, match="no update"):
        loss = fastbp.Trainer(net, fastbp.SGD(0.1)).step([[1.0]], [[0.0]])
    assert not np.isfinite(loss) and net.weights[0] == np.float32(3e38)


def test_bad_arguments_change_nothing(backend):
    net = make(backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1, 0.9), 4, seed=0)
    before, state = net.parameters.copy(), trainer.rng.bit_generator.state
    X, Y = data()
    bad = [
        (dict(X=X[:5], Y=Y), "Y has 11 rows"), (dict(X=X, Y=Y, epochs=0), "epochs"),
        (dict(X=X, Y=Y, epochs=2.0), "epochs"), (dict(X=X, Y=Y, metrics=["acuracy"]), "accuracy"),
        (dict(X=X, Y=Y, validation_data=(X[:, :2], Y)), "validation_data: X has 2 columns"),
        (dict(X=X, Y=Y, validation_data=(X, Y[:2])), "validation_data: Y has 2 rows"),
        (dict(X=X, Y=Y, validation_data=X), "pair"), (dict(X=X, Y=Y, metrics=3), "metrics"),
        (dict(X=X, Y=Y, metrics=["accuracy", "accuracy"]), "different names"), (dict(X=X, Y=Y, progress=2), "progress"),
        (dict(X=X[0], Y=Y[0]), r"X\[None, :\]"),
    ]
    for arguments, words in bad:
        with pytest.raises((ValueError, TypeError), match=words):
            trainer.fit(**arguments)
    np.testing.assert_array_equal(net.parameters, before)
    assert trainer.rng.bit_generator.state == state and trainer.epochs == 0 and not trainer.velocity.any()


@pytest.mark.parametrize("arguments, words", [
    (dict(net=3), "net must be"), (dict(optimizer="sgd"), "SGD"), (dict(batch_size=0), "batch_size"),
    (dict(batch_size=2.5), "batch_size"), (dict(shuffle="yes"), "shuffle"), (dict(seed="x"), "seed"),
    (dict(threads=0), "threads"), (dict(seed=-1), "seed"),
])
def test_bad_settings(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        fastbp.Trainer(**{"net": make("numpy"), "optimizer": fastbp.SGD(0.1), **arguments})


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
    monkeypatch.setattr(fastbp.trainer, "SILENT_SECONDS", 0.0)
    trainer.fit(*data(), epochs=2)
    assert "loss" in capsys.readouterr().out
    monkeypatch.setitem(__import__("sys").modules, "rich.progress", None)  # as if rich were not installed
    trainer.fit(*data(), epochs=2)
    assert capsys.readouterr().out == ""


def test_progress_without_rich_says_what_to_install(monkeypatch):
    monkeypatch.setattr(fastbp.trainer, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"fastbp\[cli\]"):
        fastbp.Trainer(make("numpy"), fastbp.SGD(0.1)).fit(*data(), progress=True)


def test_ctrl_c_between_calls_keeps_what_is_done(backend, monkeypatch):
    net = make(backend)
    train, calls = net._backend.train, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return train(*args, **options)

    monkeypatch.setattr(net._backend, "train", interrupted)
    monkeypatch.setattr(fastbp.trainer, "CHUNK_SECONDS", 0.0)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1), 11, seed=0)
    with pytest.warns(RuntimeWarning, match="interrupted after 3 of 9 epochs"):
        history = trainer.fit(*data(), epochs=9)
    assert history.interrupted and len(history) == 3 and trainer.epochs == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trainer.fit(*data(), epochs=2).epochs == [4, 5]
