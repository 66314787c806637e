"""Callbacks: when they are called, how they end a training, and what the ones that come along do."""

import csv
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

import fastbp
from fastbp.callbacks import (
    Callback,
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TensorBoard,
    TimeLimit,
)
from fastbp.training import run


@pytest.fixture
def data():
    """Samples and targets, 11 for training and 5 for validation."""
    rng = np.random.default_rng(1)
    return SimpleNamespace(
        X=rng.normal(size=(11, 3)),
        Y=rng.normal(size=(11, 2)),
        validation=(rng.normal(size=(5, 3)), rng.normal(size=(5, 2))),
    )


def make(backend="numpy", lr=0.1, batch_size=4, seed=0, **options):
    """Build a trainer of a small network."""
    net = fastbp.Network([3, 4, 2], "tanh", seed=0, dtype="float64", backend=backend)
    return fastbp.Trainer(net, fastbp.SGD(lr, 0.5), batch_size, seed=seed, **options)


class Scripted(Callback):
    """Puts values of its own in the place of a recorded series; first in the list of callbacks."""

    def __init__(self, values, name="loss"):
        self.values, self.name = list(values), name

    def on_epoch_end(self, trainer, history):
        history.recorded[self.name][-1] = self.values.pop(0)


# ------------------------------------------------------------------ when they are called


def test_the_order_of_the_calls(backend, data):
    calls = []

    class Spy(Callback):
        def on_train_begin(self, trainer, history):
            calls.append(("begin", len(history), trainer.epochs))

        def on_train_end(self, trainer, history):
            calls.append(("end", len(history), trainer.epochs))
            return True  # which means nothing any more

        def on_epoch_begin(self, trainer, history):
            calls.append(("epoch", len(history), trainer.epochs))

        def on_epoch_end(self, trainer, history):
            calls.append(("epoch end", len(history), trainer.epochs, len(history.recorded["validation_mae"])))

        def on_batch_end(self, trainer, history, step, loss):
            calls.append(("batch", step, loss))

    trainer = make(backend, shuffle=False)
    twin = make("numpy", shuffle=False)
    losses = [twin.step(data.X[start : start + 4], data.Y[start : start + 4]) for _ in range(2) for start in (0, 4, 8)]
    history = trainer.fit(data.X, data.Y, epochs=2, validation_data=data.validation, metrics="mae", callbacks=[Spy()])
    batches = [("batch", step, pytest.approx(loss, rel=1e-9)) for step, loss in enumerate(losses, 1)]
    assert calls == [
        ("begin", 0, 0),
        ("epoch", 0, 0),
        *batches[:3],
        ("epoch end", 1, 1, 1),
        ("epoch", 1, 1),
        *batches[3:],
        ("epoch end", 2, 2, 2),
        ("end", 2, 2),
    ]
    assert history.stopped is None and not trainer.stop_training
    calls.clear()
    trainer.fit(data.X, data.Y, callbacks=[SimpleNamespace(on_epoch_begin=lambda trainer, history: calls.append(3))])
    assert calls == [3]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_calls_of_one_batch_change_nothing(backend, data, reduction):
    results = []
    for event in ("on_train_begin", "on_batch_end", "on_epoch_end"):
        callbacks = [SimpleNamespace(**{event: lambda *_: None})]
        net = fastbp.Network([3, 4, 2], "tanh", seed=0, backend=backend, reduction=reduction)
        trainer = fastbp.Trainer(net, fastbp.SGD(0.01, 0.5), 4, seed=0)
        history = trainer.fit(data.X, data.Y, epochs=5, callbacks=callbacks)
        results.append((net.parameters.tobytes(), history.loss))
    assert results[0] == results[1] == results[2]


def test_epochs_are_trained_together_where_nobody_looks(backend, data, monkeypatch):
    monkeypatch.setattr(run, "CHUNK_SECONDS", 1e9)

    def calls_of(callbacks):
        trainer, calls = make(backend), []
        training = trainer.net._backend.training

        def counted(*args, **options):
            train = training(*args, **options)
            return lambda *call: calls.append(len(call[-1])) or train(*call)

        monkeypatch.setattr(trainer.net._backend, "training", counted)
        trainer.fit(data.X, data.Y, epochs=50, callbacks=callbacks)
        return calls

    quiet = SimpleNamespace(on_train_begin=lambda *_: None, on_train_end=lambda *_: None)
    assert max(calls_of([quiet, Callback()])) > 10
    assert set(calls_of([SimpleNamespace(on_epoch_end=lambda *_: None)])) == {1}
    assert calls_of([SimpleNamespace(on_batch_end=lambda *_: None)]) == [1] * 150


@pytest.mark.parametrize(
    "event, epochs", [("on_epoch_end", 3), ("on_epoch_begin", 2), ("on_batch_end", 2), ("on_train_begin", 0)]
)
@pytest.mark.parametrize("how", ["return", "set"])
def test_each_can_end_the_training(backend, data, event, epochs, how):
    class Ender:
        calls = 0

    def method(self, trainer, *_):
        self.calls += 1
        end = self.calls == {"on_batch_end": 8, "on_train_begin": 1}.get(event, 3)  # batch 8 is in epoch 3
        if how == "set" and end:
            trainer.stop_training = True
        return end if how == "return" else None

    setattr(Ender, event, method)
    seen = []
    trainer = make(backend)
    last = SimpleNamespace(on_train_end=lambda trainer, history: seen.append(history.stopped))
    history = trainer.fit(data.X, data.Y, epochs=9, callbacks=[Ender(), last])
    assert history.stopped == "Ender" and seen == ["Ender"] and len(history) == epochs == trainer.epochs
    assert len(trainer.fit(data.X, data.Y, epochs=2)) == 2


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin", "on_batch_end", "on_epoch_end"])
def test_fit_of_the_same_trainer_is_refused(backend, data, event):
    trainer, other = make(backend), make(backend)

    def in_another_thread():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(trainer.fit, data.X, data.Y).result()

    for fit in (lambda: trainer.fit(data.X, data.Y), in_another_thread):
        again = SimpleNamespace(**{event: lambda *_, fit=fit: fit()})
        with pytest.raises(RuntimeError, match="fit was called while fit of the same trainer runs"):
            trainer.fit(data.X, data.Y, epochs=3, callbacks=[again])
    done = trainer.epochs
    beside = SimpleNamespace(**{event: lambda *_: other.fit(data.X, data.Y) and None})
    assert len(trainer.fit(data.X, data.Y, epochs=2, callbacks=[beside])) == 2
    assert trainer.epochs == done + 2 and other.epochs == {"on_train_begin": 1, "on_batch_end": 6}.get(event, 2)
    after = SimpleNamespace(on_train_end=lambda *_: trainer.fit(data.X, data.Y) and None)
    trainer.fit(data.X, data.Y, callbacks=[after])
    assert trainer.epochs == done + 4


def test_the_end_is_told_after_errors_too(data):
    ends = []

    def fail(*_):
        raise RuntimeError("mine")

    end = SimpleNamespace(on_train_end=lambda trainer, history: ends.append(history.stopped))
    with pytest.raises(RuntimeError, match="mine"):
        make().fit(data.X, data.Y, callbacks=[EarlyStopping("loss"), SimpleNamespace(on_epoch_end=fail), end])
    with pytest.raises(ValueError, match="not recorded"):
        make().fit(data.X, data.Y, callbacks=[EarlyStopping(), end])
    with pytest.warns(RuntimeWarning, match="interrupted"):
        make().fit(data.X, data.Y, epochs=3, callbacks=[SimpleNamespace(on_epoch_end=interrupt), end])
    assert ends == [None, None, "interrupted"]


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("make_callback", [EarlyStopping, ReduceLROnPlateau, lambda name: ModelCheckpoint("x", name)])
def test_an_unknown_monitor(data, make_callback):
    trainer = make()
    before = trainer.net.parameters.copy()
    with pytest.raises(ValueError, match=r"validation_data to fit \(available: loss, mae\)"):
        trainer.fit(data.X, data.Y, metrics="mae", callbacks=[make_callback("validation_loss")])
    with pytest.raises(ValueError, match=r"recorded \(available: loss, validation_loss, mae, validation_mae\)"):
        trainer.fit(data.X, data.Y, metrics="mae", validation_data=data.validation, callbacks=[make_callback("rmse")])
    np.testing.assert_array_equal(trainer.net.parameters, before)
    with pytest.raises(ValueError, match="mode="):
        make_callback("profit")
    with pytest.raises(TypeError, match="monitor must be"):
        make_callback(3)


# ------------------------------------------------------------------ the callbacks


@pytest.mark.parametrize(
    "values, options, epochs, best_epoch",
    [
        ([5, 4, 3, 4, 3, 3, 9, 9], dict(patience=3), 6, 3),
        ([5, 4, 3, 4, 2, 3, 9, 9], dict(patience=3), 8, 5),
        ([5, 4, 3.5, 3.2, 3, 2], dict(patience=2, min_delta=1.0), 5, 3),
        ([5, 4.5, 4.2, 3.9, 3, 2], dict(patience=2, min_delta=1.0), 3, 1),
        ([1, 2, 3, 2, 2, 5], dict(patience=2, mode="max"), 5, 3),
        ([np.nan, np.nan, 1, 2, 3], dict(patience=2), 2, 0),
    ],
)
def test_early_stopping(backend, data, values, options, epochs, best_epoch):
    trainer, kept = make(backend), [None]
    kept[0] = trainer.net.parameters.copy()
    keep = SimpleNamespace(on_epoch_end=lambda trainer, history: kept.append(trainer.net.parameters.copy()))
    early = EarlyStopping("validation_loss", **options)
    history = trainer.fit(
        data.X,
        data.Y,
        epochs=len(values),
        validation_data=data.validation,
        callbacks=[Scripted(values, "validation_loss"), keep, early],
    )
    stopped = epochs < len(values) or epochs - best_epoch >= options["patience"]
    assert len(history) == epochs and history.stopped == ("EarlyStopping" if stopped else None)
    assert early.best_epoch == best_epoch
    if best_epoch:
        assert early.best == values[best_epoch - 1]
        np.testing.assert_array_equal(trainer.net.parameters, kept[best_epoch])
    else:
        np.testing.assert_array_equal(trainer.net.parameters, kept[epochs])


def test_early_stopping_can_leave_the_parameters_and_starts_anew(data):
    trainer, early = make(), EarlyStopping("loss", patience=2, restore_best=False)
    last = []
    keep = SimpleNamespace(on_epoch_end=lambda trainer, history: last.append(trainer.net.parameters.copy()))
    for values, epochs in (([1, 2, 3, 4], 3), ([7, 6, 5, 4], 4)):
        history = trainer.fit(data.X, data.Y, epochs=4, callbacks=[Scripted(values), keep, early])
        assert len(history) == epochs
        np.testing.assert_array_equal(trainer.net.parameters, last[-1])
    assert early.best_epoch == trainer.epochs == 7 and early.best == 4


def test_the_direction_follows_from_the_name():
    assert EarlyStopping("validation_accuracy").sign == -1 == EarlyStopping("r2").sign == EarlyStopping("top_4").sign
    assert EarlyStopping().sign == 1 == EarlyStopping("validation_rmse").sign == EarlyStopping("f1", mode="min").sign
    assert EarlyStopping("profit", mode="max").sign == -1


def test_restored_parameters_are_finite(backend):
    net = fastbp.Network([1, 1], "sigmoid", init=[([[0.0]], [0.0])], backend=backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(1e37), batch_size=1, shuffle=False)
    with pytest.warns(RuntimeWarning, match="non-finite in epoch 1"):
        history = trainer.fit([[0.0], [1e5]], [[0.5], [0.0]], epochs=3, callbacks=[EarlyStopping("loss")])
    assert np.isfinite(net.parameters).all() and history.stopped == "non-finite"


def test_model_checkpoint(backend, data, tmp_path):
    trainer, kept = make(backend), []
    keep = SimpleNamespace(on_epoch_end=lambda trainer, history: kept.append(trainer.net.parameters.copy()))
    values = [3, 4, 2, 2, 1]
    trainer.fit(
        data.X,
        data.Y,
        epochs=5,
        metrics="mae",
        callbacks=[
            Scripted(values),
            keep,
            ModelCheckpoint(tmp_path / "best.npz", "loss"),
            ModelCheckpoint(str(tmp_path / "{epoch:02d}_{loss:.1f}.npz"), "loss"),
            ModelCheckpoint(tmp_path / "all_{epoch}.npz", save_best_only=False),
        ],
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "01_3.0.npz",
        "03_2.0.npz",
        "05_1.0.npz",
        *[f"all_{epoch}.npz" for epoch in range(1, 6)],
        "best.npz",
    ]
    for name, epoch in (("best", 5), ("01_3.0", 1), ("all_4", 4)):
        np.testing.assert_array_equal(fastbp.load(tmp_path / f"{name}.npz").parameters, kept[epoch - 1])
    before = trainer.net.parameters.copy()
    with pytest.raises(FileNotFoundError, match="folder"):
        trainer.fit(data.X, data.Y, callbacks=[ModelCheckpoint(tmp_path / "none" / "x.npz", "loss")])
    with pytest.raises(ValueError, match=r"available: epoch, loss\)"):
        trainer.fit(data.X, data.Y, callbacks=[ModelCheckpoint(tmp_path / "{acc}.npz", "loss")])
    np.testing.assert_array_equal(trainer.net.parameters, before)


@pytest.mark.parametrize(
    "mode, first, second, saved",
    [
        ("min", [3, 2], [4, 2, 2.5], None),
        ("min", [3, 2], [4, 1, 5], 4),
        ("max", [3, 5], [4, 5, 1], None),
        ("max", [3, 2], [3, 9, 1], 4),
    ],
)
def test_the_best_file_stays_in_later_calls(data, mode, first, second, saved, tmp_path):
    trainer, kept = make(), {}
    keep = SimpleNamespace(on_epoch_end=lambda trainer, _: kept.update({trainer.epochs: trainer.net.parameters.copy()}))
    callback = ModelCheckpoint(tmp_path / "best.npz", "loss", mode=mode)
    for values in (first, second):
        trainer.fit(data.X, data.Y, epochs=len(values), callbacks=[Scripted(values), keep, callback])
    best = (min if mode == "min" else max)(first)
    assert callback.best == (best if saved is None else second[saved - 3])
    epoch = saved or first.index(best) + 1
    np.testing.assert_array_equal(fastbp.load(tmp_path / "best.npz").parameters, kept[epoch])


@pytest.mark.parametrize(
    "is_new, values, best", [(True, [3, 2.5], 2), (True, [3, 1.5], 1.5), (False, [1.5, 2], 1), (False, [0.5, 2], 0.5)]
)
def test_the_best_file_stays_in_a_resumed_training(data, is_new, values, best, tmp_path):
    trainer, callback = make(), ModelCheckpoint(tmp_path / "best.npz", "loss")
    trainer.fit(
        data.X,
        data.Y,
        epochs=4,
        callbacks=[Scripted([4, 2, 3, 1]), callback, Checkpoint(tmp_path / "r-{epoch}.ckpt", keep=9)],
    )
    trainer.load_checkpoint(tmp_path / "r-3.ckpt")
    if is_new:  # it knows what the checkpoint says; the other one has seen the last epoch, too
        callback = ModelCheckpoint(tmp_path / "best.npz", "loss")
    trainer.fit(data.X, data.Y, epochs=2, callbacks=[Scripted(values), callback])
    assert callback.best == best


def test_parameters_of_a_call_that_failed_are_not_put_back(data):
    def fail(*_):
        raise RuntimeError("mine")

    early, trainer = EarlyStopping("loss", patience=9), make()
    with pytest.raises(RuntimeError, match="mine"):
        trainer.fit(data.X, data.Y, callbacks=[SimpleNamespace(on_train_end=fail), early])
    trainer.net.parameters[:] = before = np.linspace(-1, 1, trainer.net.parameters.size)
    with pytest.raises(ValueError, match="not recorded"):
        trainer.fit(data.X, data.Y, callbacks=[early, EarlyStopping()])
    np.testing.assert_array_equal(trainer.net.parameters, before)


def test_names_of_keras_are_told(data):
    with pytest.raises(ValueError, match=r"monitor 'val_loss' .* is not recorded; did you mean 'validation_loss'\?"):
        make().fit(data.X, data.Y, validation_data=data.validation, callbacks=[EarlyStopping("val_loss")])


def test_reduce_lr_on_plateau(backend, data):
    trainer, rates = make(backend, lr=0.8), []
    see = SimpleNamespace(on_epoch_end=lambda trainer, history: rates.append(trainer.lr))
    values = [5, 5, 5, 4, 4, 4, 4, 4, 4, 4]
    reduce = ReduceLROnPlateau("loss", factor=0.25, patience=2, min_lr=0.02)
    trainer.fit(data.X, data.Y, epochs=10, callbacks=[Scripted(values), reduce, see])
    assert rates == pytest.approx([0.8, 0.8, 0.2, 0.2, 0.2, 0.05, 0.05, 0.02, 0.02, 0.02])
    assert trainer.lr_scale == pytest.approx(0.025) and trainer.optimizer.lr == 0.8
    # the steps are really smaller: plain gradient descent of one step, with the rate scaled
    nets = []
    for lr, scale in ((0.5, 0.1), (0.05, 1.0)):
        one = make(backend, lr=lr)
        one.lr_scale = scale
        one.fit(data.X, data.Y, epochs=3)
        nets.append(one.net.parameters)
    np.testing.assert_allclose(*nets, rtol=1e-12)


def test_csv_logger(backend, data, tmp_path):
    trainer, logger = make(backend), CSVLogger(tmp_path / "run.csv")
    options = dict(validation_data=data.validation, metrics="mae", callbacks=[logger])
    history = trainer.fit(data.X, data.Y, epochs=2, **options)
    second = trainer.fit(data.X, data.Y, epochs=1, **options)
    with open(tmp_path / "run.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss", "validation_loss", "mae", "validation_mae", "seconds"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["validation_mae"]) for row in rows] == history.metrics["validation_mae"] + second.metrics[
        "validation_mae"
    ]
    assert [float(row["loss"]) for row in rows] == history.loss + second.loss
    with pytest.raises(ValueError, match="has the columns"):
        trainer.fit(data.X, data.Y, callbacks=[logger])


def test_tensorboard(data, tmp_path):
    trainer, board = make(), TensorBoard(tmp_path / "logs")
    history = trainer.fit(data.X, data.Y, epochs=3, validation_data=data.validation, callbacks=[board])
    (file,) = (tmp_path / "logs").iterdir()
    from tensorboardX.proto.event_pb2 import Event

    content, events = file.read_bytes(), []
    while content:  # records of TensorFlow: length (8 bytes), its checksum (4), the record, its checksum (4)
        length = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    seen = [(value.tag, event.step, value.simple_value) for event in events for value in event.summary.value]
    expected = [
        (name, epoch, pytest.approx(history.recorded[name][epoch - 1], rel=1e-6))
        for epoch in (1, 2, 3)
        for name in ("loss", "validation_loss")
    ]
    assert seen == expected


def test_tensorboard_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"fastbp\[tensorboard\]"):
        TensorBoard("logs")


def test_time_limit(backend, data, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(fastbp.callbacks, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    history = make(backend).fit(data.X, data.Y, epochs=50, callbacks=[TimeLimit(4)])
    assert len(history) == 4 and history.stopped == "TimeLimit"


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: EarlyStopping(patience=0), "patience"),
        (lambda: EarlyStopping(min_delta=-1), "min_delta"),
        (lambda: EarlyStopping(restore_best=1), "restore_best"),
        (lambda: EarlyStopping(mode="up"), "mode"),
        (lambda: ReduceLROnPlateau(factor=1.0), "factor"),
        (lambda: ReduceLROnPlateau(min_lr=-1), "min_lr"),
        (lambda: ReduceLROnPlateau(patience=1.5), "patience"),
        (lambda: TimeLimit(0), "seconds"),
        (lambda: ModelCheckpoint("x", save_best_only="no"), "save_best_only"),
    ],
)
def test_bad_settings(wrong, words):
    with pytest.raises((ValueError, TypeError), match=words):
        wrong()


@pytest.mark.parametrize("name", ["r-{epoch}.ckpt", "r-{epoch}.ckpt2"])
def test_checkpoints_of_another_training_are_left_alone(backend, data, name, tmp_path, recwarn):
    pattern = tmp_path / name
    make(backend).fit(data.X, data.Y, epochs=10, callbacks=[Checkpoint(pattern)])
    other = make(backend)
    assert not recwarn.list
    with pytest.warns(RuntimeWarning, match="r-10.ckpt2? is of a later epoch"):
        other.fit(data.X, data.Y, epochs=5, callbacks=[Checkpoint(pattern)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [name.format(epoch=n) for n in (10, 3, 4, 5, 8, 9)]


@pytest.mark.parametrize(
    "path, error", [(5, TypeError), ("{epoch}-{loss}.ckpt", ValueError), ("nowhere/r-{epoch}.ckpt", FileNotFoundError)]
)
def test_a_path_that_cannot_hold_checkpoints_is_refused_before_the_first_epoch(
    backend, data, path, error, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    trainer = make(backend)
    with pytest.raises(error):
        trainer.fit(data.X, data.Y, callbacks=[Checkpoint(path)])
    assert trainer.epochs == 0 and trainer.state.step == 0


def test_a_time_limit_ends_one_call_only(backend, data, tmp_path, monkeypatch):
    """A training that is resumed again and again, each time for a while, gets on."""
    now = [0.0]
    monkeypatch.setattr(fastbp.callbacks.time, "monotonic", lambda: now[0])

    class Clock:
        def on_epoch_begin(self, trainer, history):
            now[0] += 1.0

    for job in range(3):
        trainer = make(backend)
        if job:
            trainer.load_checkpoint(fastbp.checkpoints.latest(tmp_path / "r-{epoch}.ckpt"))
        callbacks = [Clock(), TimeLimit(4), Checkpoint(tmp_path / "r-{epoch}.ckpt")]
        history = trainer.fit(data.X, data.Y, epochs=100, callbacks=callbacks)
        assert history.stopped == "TimeLimit" and len(history) == 4 and trainer.epochs == 4 * (job + 1)


def test_a_method_without_a_rate_says_so(data):
    net = fastbp.Network([3, 4, 2], ["tanh", "identity"], dtype="float64", seed=0)
    trainer = fastbp.Trainer(net, fastbp.LBFGS())
    X, Y = np.ones((5, 3)), np.ones((5, 2))
    for use in (lambda: trainer.lr, lambda: trainer.fit(X, Y, epochs=2, callbacks=[ReduceLROnPlateau("loss")])):
        with pytest.raises(TypeError, match="LBFGS has no learning rate"):
            use()
    assert trainer.epochs == 0
