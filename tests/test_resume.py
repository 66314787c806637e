"""Checkpoints: a training that is killed at any moment and resumed ends with the bits of one that never stopped."""

import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest

import fastbp
from fastbp import checkpoints, schedules
from fastbp.callbacks import Callback, Checkpoint, CSVLogger, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau
from fastbp.checkpoints import CheckpointError, latest
from fastbp.update import UpdateSettings

DATA = Path(__file__).parent / "data"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 150)
OPTIONS = dict(batch_size=16, seed=3, l2=1e-4, dropout=0.2, clip_norm=1.0, input_noise=0.05, label_smoothing=0.1)
OPTIMIZERS = [
    fastbp.SGD(0.05),
    fastbp.SGD(0.05, momentum=0.9, nesterov=True),
    fastbp.RMSprop(0.01),
    fastbp.Adagrad(0.05),
    fastbp.Adam(schedules.Cosine(0.01, period=40, warmup=5)),
    fastbp.AdamW(0.01),
    fastbp.AdamW(schedules.CosLog4(0.01, 60), weight_decay=0.3, decay_biases=False),
    fastbp.AdamW(0.01, weight_decay=0.3, input_scale_lr=5.0),
    fastbp.Nadam(0.01),
    fastbp.Lion(0.001),
]


@dataclass(frozen=True)
class Falling:
    """A learning rate that is a function of the step, and says what it is."""

    lr: float

    def __call__(self, step):
        return self.lr / (1 + step) ** 0.3


OPTIMIZERS.append(fastbp.Adam(Falling(0.03)))


def make(optimizer, backend, **options):
    net = fastbp.Network([6, 20, 3], ["tanh", "softmax"], "cross_entropy", seed=0, backend=backend)
    return fastbp.Trainer(net, optimizer, **{**OPTIONS, **options})


def bits(trainer):
    return (
        trainer.net.parameters.tobytes(),
        trainer.state.buffers.tobytes(),
        trainer.state.running_products.tobytes(),
        trainer.state.step,
        trainer.epochs,
        trainer.rng.bit_generator.state,
        trainer.history,
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_resumed_training_has_the_same_bits(optimizer, backend, tmp_path):
    whole = make(optimizer, backend)
    whole.fit(X, Y, epochs=7, metrics=["accuracy"])
    first = make(optimizer, backend)
    first.fit(X, Y, epochs=3, metrics=["accuracy"])
    first.save_checkpoint(tmp_path / "c")
    other = make(optimizer, backend)
    other.fit(X, Y, epochs=1)
    other.load_checkpoint(tmp_path / "c")
    assert bits(other) == bits(first)
    other.fit(X, Y, epochs=4, metrics=["accuracy"])
    assert bits(other) == bits(whole) and len(whole.history["accuracy"]) == 7


def test_a_stream_resumed(backend, tmp_path):
    def stream():
        return fastbp.stream(X, Y, buffer_rows=64)

    whole, parts = make(fastbp.Adam(), backend), make(fastbp.Adam(), backend)
    whole.fit(stream(), epochs=5)
    parts.fit(stream(), epochs=2)
    parts.save_checkpoint(tmp_path / "c")
    other = make(fastbp.Adam(), backend)
    other.load_checkpoint(tmp_path / "c")
    other.fit(stream(), epochs=3)
    assert bits(other) == bits(whole)


def test_the_callback_keeps_the_last_ones(backend, tmp_path):
    trainer = make(fastbp.Adam(), backend)
    trainer.fit(X, Y, epochs=9, callbacks=[Checkpoint(tmp_path / "run-{epoch}.ckpt", every=2, keep=3)])
    assert sorted(os.listdir(tmp_path)) == ["run-4.ckpt", "run-6.ckpt", "run-8.ckpt"]
    other = make(fastbp.Adam(), backend)
    other.load_checkpoint(latest(tmp_path))
    other.fit(X, Y, epochs=1)
    assert bits(other) == bits(trainer)


def test_damage_and_strangers_are_refused_and_change_nothing(backend, tmp_path):
    trainer = make(fastbp.Adam(), backend)
    trainer.fit(X, Y, epochs=2, callbacks=[Checkpoint(tmp_path / "run-{epoch}.ckpt")])
    path = tmp_path / "run-2.ckpt"
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    before = bits(trainer)
    with pytest.raises(CheckpointError, match=r"damaged.*run-1\.ckpt"):
        trainer.load_checkpoint(path)
    for stranger in (
        make(fastbp.Adam(0.5), backend),
        make(fastbp.Adam(), backend, l2=0.5),
        make(fastbp.SGD(0.1), backend),
    ):
        with pytest.raises(ValueError, match="another training"):
            stranger.load_checkpoint(tmp_path / "run-1.ckpt")
    assert bits(trainer) == before


def test_the_history_spans_calls(backend):
    trainer = make(fastbp.SGD(0.1), backend)
    trainer.fit(X, Y, epochs=2)
    trainer.fit(X, Y, epochs=3, validation_data=(X, Y), callbacks=[EarlyStopping(patience=5)])
    assert len(trainer.history["loss"]) == 5 and np.isnan(trainer.history["validation_loss"][:2]).all()
    assert np.isfinite(trainer.history["validation_loss"][2:]).all()


class Kill(Callback):
    """Ends the training by an error after an epoch; last in the list, after the checkpoint."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_begin(self, trainer, history):
        if trainer.epochs == self.epoch:
            raise RuntimeError("killed")


class Counter:
    """A callback of one's own that knows something: every third epoch changes the step size."""

    def on_train_begin(self, trainer, history):
        self.numbers, self.count = np.zeros(3), 0

    def on_epoch_end(self, trainer, history):
        self.count += 1
        self.numbers += history.loss[-1]
        if self.count == 3:
            self.count, trainer.lr_scale = 0, trainer.lr_scale * (0.9 + 0.01 * self.numbers[1])

    def state_dict(self):
        return {"count": self.count, "numbers": self.numbers}

    def load_state_dict(self, state):
        self.count, self.numbers = state["count"], state["numbers"]


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("end", ["tol", "patience", "epochs"])
def test_callbacks_and_tol_go_on_counting(end, every, backend, tmp_path):
    """Wherever it is killed: the same end, bits, history, best epoch and log."""
    validation = X[:40], (Y[:40] + np.repeat([0, 1], 20)) % 3

    def run(folder, kill=None, path=None):
        folder.mkdir(exist_ok=True)
        trainer = make(fastbp.Adam(0.02), backend)
        if path:
            trainer.load_checkpoint(path)
        early = EarlyStopping(patience=4 if end == "patience" else 50)
        callbacks = [
            Checkpoint(folder / "run-{epoch}.ckpt", keep=100),
            early,  # the checkpoint last, even so
            ReduceLROnPlateau("loss", factor=0.7, patience=2, min_delta=0.02),
            ReduceLROnPlateau("validation_loss", factor=0.9, patience=1),
            Counter(),
            CSVLogger(folder / "log.csv"),
            ModelCheckpoint(folder / "best.npz"),
        ]
        if kill is not None:
            callbacks.append(Kill(kill))
        options = dict(tol=0.02 if end == "tol" else None, callbacks=callbacks, validation_data=validation)
        try:
            history = trainer.fit(X, Y, epochs=30 - trainer.epochs, **options)
        except RuntimeError:
            return None
        log = [line.rsplit(",", 1)[0] for line in (folder / "log.csv").read_text().splitlines()]
        return (
            history.stopped,
            bits(trainer)[:-1],
            trainer.lr_scale,
            early.best_epoch,
            early.best,
            log,
            fastbp.load(folder / "best.npz").parameters.tobytes(),
            trainer.history,
        )

    whole = run(tmp_path / "whole")
    assert whole[0] == {"tol": "tol", "patience": "EarlyStopping", "epochs": None}[end]
    epochs = len(whole[5]) - 1
    assert (epochs == 30) == (end == "epochs") and epochs >= 6 and whole[2] < 1
    for kill in range(1, epochs, every):
        folder = tmp_path / str(kill)
        assert run(folder, kill) is None
        assert run(folder, path=latest(folder / "run-{epoch}.ckpt")) == whole
    if end != "epochs":  # killed between the last checkpoint and the end: it had ended already
        assert run(tmp_path / "whole", path=latest(tmp_path / "whole" / "run-{epoch}.ckpt")) == whole


def test_what_callbacks_knew_is_for_the_next_fit_alone(tmp_path):
    trainer, early = make(fastbp.Adam(0.02), "numpy"), EarlyStopping("loss", patience=3, min_delta=100.0)
    trainer.fit(X, Y, epochs=20, callbacks=[early, Checkpoint(tmp_path / "c.ckpt")])
    assert trainer.epochs == 4
    trainer.load_checkpoint(latest(tmp_path / "c.ckpt"))
    assert trainer.fit(X, Y, epochs=20, callbacks=[early]).stopped == "EarlyStopping" and trainer.epochs == 4
    assert len(trainer.fit(X, Y, epochs=20, callbacks=[early])) == 4
    trainer.save_checkpoint(tmp_path / "d.ckpt")  # not within a call of fit
    trainer.load_checkpoint(tmp_path / "d.ckpt")
    assert len(trainer.fit(X, Y, epochs=20, callbacks=[early])) == 4


def test_states_that_cannot_be_taken_up_wait_for_the_next_fit(tmp_path):
    def callbacks(path):
        return [EarlyStopping("loss", patience=50), CSVLogger(path), Counter()]

    trainer = make(fastbp.Adam(0.02), "numpy")
    trainer.fit(X, Y, epochs=5, callbacks=[*callbacks(tmp_path / "a.csv"), Checkpoint(tmp_path / "c.ckpt")])
    whole = make(fastbp.Adam(0.02), "numpy")
    whole.fit(X, Y, epochs=9, callbacks=callbacks(tmp_path / "whole.csv"))
    other = make(fastbp.Adam(0.02), "numpy")
    other.load_checkpoint(latest(tmp_path / "c.ckpt"))
    before = bits(other)[:-1]
    with pytest.raises(ValueError, match="has the columns"):  # a metric more than then
        other.fit(X, Y, epochs=4, metrics=["accuracy"], callbacks=callbacks(tmp_path / "a.csv"))
    assert bits(other)[:-1] == before
    other.save_checkpoint(tmp_path / "again.ckpt")  # what is not taken up yet is kept
    for path in (None, tmp_path / "again.ckpt"):
        if path:
            other = make(fastbp.Adam(0.02), "numpy")
            other.load_checkpoint(path)
        given = callbacks(tmp_path / "a.csv")
        other.fit(X, Y, epochs=4, callbacks=given)
        assert bits(other)[:-1] == bits(whole)[:-1] and other.history["loss"] == whole.history["loss"]
        assert given[0].best_epoch == 9 and given[2].count == 0


def test_what_ended_a_training_must_be_there_to_end_it_again(tmp_path):
    trainer = make(fastbp.Adam(0.02), "numpy")
    trainer.fit(
        X, Y, epochs=9, tol=10.0, callbacks=[EarlyStopping("loss", 3, min_delta=100.0), Checkpoint(tmp_path / "c.ckpt")]
    )
    for options in ({}, {"callbacks": [CSVLogger(tmp_path / "log.csv")]}, {"tol": 1e-9}):
        trainer.load_checkpoint(latest(tmp_path / "c.ckpt"))
        assert len(trainer.fit(X, Y, epochs=2, **options)) == 2
    trainer.load_checkpoint(latest(tmp_path / "c.ckpt"))
    assert len(trainer.fit(X, Y, epochs=2, callbacks=[EarlyStopping("loss")])) == 0


class Odd(Callback):
    """Keeps numbers as NumPy has them."""

    def __init__(self, value):
        self.value, self.given = value, None

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.given = state["value"]


def test_states_of_callbacks_of_ones_own(tmp_path):
    for i, value in enumerate((np.int64(3), np.float32(0.5), {"a": [1, np.arange(3)]}, "text", None)):
        path = tmp_path / f"{i}.ckpt"
        trainer, odd = make(fastbp.Adam(), "numpy"), Odd(value)
        trainer.fit(X, Y, callbacks=[odd, Checkpoint(path)])
        trainer.load_checkpoint(latest(path))
        trainer.fit(X, Y, callbacks=[odd])
        assert repr(odd.given) == repr(value.item() if isinstance(value, np.generic) else value)
    with pytest.raises(TypeError, match="state_dict of Odd must hold"):
        make(fastbp.Adam(), "numpy").fit(X, Y, callbacks=[Odd(object()), Checkpoint(tmp_path / "x.ckpt")])


def test_the_state_of_a_monitor_is_for_one_of_the_same(tmp_path):
    trainer = make(fastbp.Adam(), "numpy")
    trainer.fit(
        X,
        Y,
        epochs=2,
        metrics=["accuracy"],
        callbacks=[ReduceLROnPlateau("loss"), ReduceLROnPlateau("accuracy"), Checkpoint(tmp_path / "c.ckpt")],
    )
    trainer.load_checkpoint(latest(tmp_path / "c.ckpt"))
    of_accuracy, best = ReduceLROnPlateau("accuracy"), []
    trainer.fit(X, Y, metrics=["accuracy"], callbacks=[of_accuracy, Odd(0)])
    best = trainer.history["accuracy"]
    assert of_accuracy.best == max(best)


def test_a_trainer_is_copied_in_the_middle_of_training(backend):
    class Copying(Callback):
        def on_epoch_end(self, trainer, history):
            self.copy = pickle.loads(pickle.dumps(trainer))

        def __reduce__(self):
            raise TypeError("not to be pickled")

    trainer, callback = make(fastbp.Adam(), backend), Copying()
    trainer.fit(X, Y, epochs=2, callbacks=[callback])
    callback.copy.fit(X, Y, epochs=3)
    trainer.fit(X, Y, epochs=3)
    assert callback.copy.net.parameters.tobytes() == trainer.net.parameters.tobytes()


# ------------------------------------------------------------------ files of other makers


def test_a_checkpoint_of_version_0_1_goes_on(backend):
    """With momentum, dropout, a history, tol and callbacks that count: to where that version ended."""
    spec = importlib.util.spec_from_file_location("make_files", DATA / "make_files.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    trainer, end = made.trainer(backend), np.load(DATA / "version_0_1_end.npz")
    trainer.load_checkpoint(DATA / "version_0_1-4.ckpt")
    assert trainer.epochs == 4 and trainer.history["loss"] == end["loss"][:4].tolist()
    made.fit(trainer, 5)
    assert trainer.epochs == 9 and trainer.lr_scale == end["lr_scale"]
    np.testing.assert_allclose(trainer.net.parameters, end["parameters"], rtol=1e-9)
    for name in ("loss", "validation_loss"):
        np.testing.assert_allclose(trainer.history[name], end[name], rtol=1e-9)


def test_a_checkpoint_with_old_names_of_settings_is_loaded(tmp_path):
    net = fastbp.Network([6, 3], seed=0, backend="numpy")
    trainer = fastbp.Trainer(net, fastbp.Rprop(schedules.Cosine(0.1, 9, min_lr=0.01), min_step=0.01), seed=0)
    trainer.save_checkpoint(tmp_path / "c")
    arrays, info = checkpoints.read(tmp_path / "c")
    for new, old in (("min_lr", "least"), ("min_step", "least"), ("max_step", "most")):
        info["optimizer"] = info["optimizer"].replace(new, old)
    checkpoints.write(tmp_path / "old", arrays, info)
    trainer.load_checkpoint(tmp_path / "old")
    checkpoints.write(tmp_path / "other", arrays, {**info, "optimizer": info["optimizer"].replace("most=50", "most=5")})
    with pytest.raises(ValueError, match="is of another training: optimizer"):
        trainer.load_checkpoint(tmp_path / "other")


def small():
    """Return a trainer with state, and the callbacks of the library that have a state."""
    net = fastbp.Network([6, 3], "softmax", "cross_entropy", seed=0, backend="numpy")
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1, momentum=0.9), seed=0, input_noise=0.1)
    return trainer, [EarlyStopping("loss"), ReduceLROnPlateau("loss"), Odd({"a": [np.arange(2.0)]})]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Return what a checkpoint within `fit` holds."""
    folder = tmp_path_factory.mktemp("parts")
    trainer, callbacks = small()
    callbacks.append(CSVLogger(folder / "log.csv"))
    trainer.fit(X, Y, epochs=2, tol=1e-3, validation_data=(X, Y), callbacks=[*callbacks, Checkpoint(folder / "c.ckpt")])
    return checkpoints.read(latest(folder / "c.ckpt"))


def refused(arrays, info, path, words="'.*c.ckpt'"):
    """See that a trainer refuses a checkpoint by a CheckpointError and stays what it was."""
    trainer, _ = small()
    trainer.fit(X, Y)
    checkpoints.write(path, arrays, info)
    before = bits(trainer)
    with pytest.raises(ValueError, match=words) as error:
        trainer.load_checkpoint(path)
    assert bits(trainer) == before and trainer._resumed is None
    assert isinstance(error.value, CheckpointError) or "is of another training" in str(error.value)
    assert len(str(error.value)) < 1000


WRONG = [
    None,
    True,
    -1,
    0.5,
    float("nan"),
    "x",
    [],
    [1],
    {},
    {"a": 1},
    2**64,
    10**4000,
    [[None]],
    {"dtype": "O", "values": [1]},
    {"dtype": "<M8[s]", "values": [1]},
    {"dtype": "float64", "values": ["x"]},
    {"dtype": "float64", "values": [[1], [1, 2]]},
    {"dtype": "int8", "values": [300]},
]
MAY = {
    "step": [],
    "epochs": [],
    "skipped": [],
    "key": [],
    "lr_scale": [0.5, 2**64],
    "history": [{}],
    "rng": [],
    "fit": [None],
    "versions": WRONG,
}  # nobody reads the versions


SETTINGS = [row.name for row in fields(UpdateSettings)]


@pytest.mark.parametrize(
    "field",
    [
        "network",
        "optimizer",
        "batch_size",
        "shuffle",
        "on_nonfinite",
        *SETTINGS,
        *MAY,
    ],
)
def test_every_field_of_a_checkpoint_is_checked(parts, field, tmp_path):
    arrays, info = parts
    for wrong in WRONG:
        if wrong != info[field] and wrong not in MAY.get(field, []):
            refused(arrays, {**info, field: wrong}, tmp_path / "c.ckpt")
    rest = {key: value for key, value in info.items() if key != field}
    if field in SETTINGS and not info[field]:  # a version without this setting wrote it
        checkpoints.write(tmp_path / "c.ckpt", arrays, rest)
        small()[0].load_checkpoint(tmp_path / "c.ckpt")
    elif field not in ("versions", "fit"):
        refused(arrays, rest, tmp_path / "c.ckpt")


@pytest.mark.parametrize(
    "change",
    [
        {"history": {"loss": [1.0, "x"]}},
        {"history": {"loss": [1.0, None]}},
        {"history": {"loss": 1.0}},
        {"history": {"loss": [1.0], "accuracy": []}},
        {"history": {"accuracy": [1.0]}},
        {"epochs": "x"},
        {"step": 1.5},
        {"step": 2**62},
        {"lr_scale": float("inf")},
        {"lr_scale": -0.5},
        {"key": 2**64},
        {"key": -1},
    ],
)
def test_values_of_fields(parts, change, tmp_path):
    arrays, info = parts
    refused(arrays, {**info, **change}, tmp_path / "c.ckpt", "c.ckpt' holds what no training writes: ")


@pytest.mark.parametrize(
    "change",
    [
        {"stopped": 3},
        {"stopped": ["tol"]},
        {"plateau": None},
        {"plateau": [1.0]},
        {"plateau": ["x", 0]},
        {"plateau": [1.0, 0.5]},
        {"plateau": [1.0, -1]},
        {"callbacks": None},
        {"callbacks": {"Odd": {}}},
        {"callbacks": [["Odd"]]},
        {"callbacks": [["Odd", []]]},
        {"callbacks": [[3, {}]]},
        {"callbacks": [["Odd", None]]},
        {"callbacks": [["Odd", {"dtype": "float64", "values": [1]}]]},
        {"callbacks": []},
        {"more": 1},
        {"callbacks": [["Odd", {"a": {"dtype": "O", "values": [1]}}]]},
    ],
    ids=str,
)
def test_what_a_call_of_fit_knew_is_checked(parts, change, tmp_path):
    arrays, info = parts
    refused(
        arrays,
        {**info, "fit": {**info["fit"], **change}},
        tmp_path / "c.ckpt",
        "c.ckpt' holds what no training writes: ",
    )


def test_states_nested_deep(parts, tmp_path):
    """Python's own recursion may end before that of the JSON parser."""
    arrays = {name: array for name, array in parts[0].items() if not name.startswith("callback")}
    for depth in range(100, 900, 100):
        deep = {}
        for _ in range(depth):
            deep = {"a": deep}
        info = {**parts[1], "fit": {**parts[1]["fit"], "callbacks": [["Odd", {"value": deep}]]}}
        checkpoints.write(tmp_path / "c.ckpt", arrays, info)
        trainer, callbacks = small()
        try:
            trainer.load_checkpoint(tmp_path / "c.ckpt")
        except CheckpointError as error:
            assert depth > 200 and "c.ckpt' holds what no training writes: " in str(error)
        else:
            trainer.fit(X, Y, callbacks=callbacks)
            assert callbacks[2].given == deep


@pytest.mark.parametrize("name", ["parameters", "buffers", "memory"])
@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.ravel()[:1],
        lambda a: a.astype("f2"),
        lambda a: a.astype(np.float64 if a.itemsize == 4 else "f4"),
        lambda a: a[..., None],
        lambda a: a[..., :-1],
        lambda a: a.astype(int),
        lambda a: np.array(1.0),
        None,
    ],
)
def test_arrays_that_do_not_fit(parts, name, change, tmp_path):
    arrays, info = dict(parts[0]), parts[1]
    array = arrays.pop(name)
    if change is not None:
        arrays[name] = change(array)
    refused(arrays, info, tmp_path / "c.ckpt", "c.ckpt' holds what no training writes: .*array.* must be ")


def test_arrays_of_nothing(parts, tmp_path):
    for name in ("more", "callback 9 a", "callback x"):
        refused({**parts[0], name: np.ones(1)}, parts[1], tmp_path / "c.ckpt", "its arrays must be parameters")


STATES = {
    "EarlyStopping": {"best": 1.0, "best_epoch": 1},
    "ReduceLROnPlateau": {"best": 1.0, "since": 1},
    "CSVLogger": {"columns": ["epoch"], "size": 0},
    "ModelCheckpoint": {"best": 1.0},
}


@pytest.mark.parametrize(
    "index, name, key",
    [(i, name, key) for i, (name, state) in enumerate(STATES.items()) for key in state]
    + [(0, "EarlyStopping", "parameters")],
)
def test_states_of_callbacks_are_checked(parts, index, name, key, tmp_path):
    """The next `fit` says so, before it changes anything; without that callback it goes on."""
    arrays, info = parts
    arrays = {other: array for other, array in arrays.items() if not other.startswith("callback")}
    wrongs = {
        "columns": [3, "epoch", [3]],
        "parameters": ["x", 1.0, {"dtype": "float32", "values": [0.5]}, {"dtype": "float64", "values": [0.5] * 21}],
    }.get(key, [None, "x", [], {}, True])
    for wrong in wrongs:
        state = {**STATES[name], key: wrong}
        path = tmp_path / "c.ckpt"
        checkpoints.write(path, arrays, {**info, "fit": {**info["fit"], "callbacks": [[name, state]]}})
        trainer, _ = small()
        trainer.load_checkpoint(path)
        before = bits(trainer)
        callback = [
            EarlyStopping("loss"),
            ReduceLROnPlateau("loss"),
            CSVLogger(tmp_path / "log.csv"),
            ModelCheckpoint(tmp_path / "best.npz", "loss"),
        ][index]
        with pytest.raises(CheckpointError, match=f"checkpoint '.*c.ckpt', state of {name}: {key} must be"):
            trainer.fit(X, Y, validation_data=(X, Y), callbacks=[callback])
        assert bits(trainer) == before
        trainer.fit(X, Y)
        assert trainer.epochs == 3


def test_a_state_that_would_be_taken_for_an_array(tmp_path):
    with pytest.raises(TypeError, match="state_dict of Odd must hold .*: a dict of dtype and values alone"):
        make(fastbp.Adam(), "numpy").fit(X, Y, callbacks=[Odd({"dtype": 1, "values": 2}), Checkpoint(tmp_path / "c")])


def test_parameters_that_are_not_finite_are_warned_of(tmp_path):
    trainer, _ = small()
    trainer.net.weights[0][1, 1] = np.inf
    with pytest.warns(RuntimeWarning, match="NaN or infinity in W1 of the network in '.*c'$") as warned:
        trainer.save_checkpoint(tmp_path / "c")
        trainer.load_checkpoint(tmp_path / "c")
    assert [warning.filename for warning in warned] == [__file__] * 2


WORKER = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[2])
import test_resume as t
from fastbp.callbacks import Checkpoint
from fastbp.checkpoints import latest
trainer = t.make(t.fastbp.Adam(), "numba")
path = latest(sys.argv[1])
if path is not None:
    trainer.load_checkpoint(path)
print("begun", flush=True)
trainer.fit(t.X, t.Y, epochs=200 - trainer.epochs, callbacks=[Checkpoint(sys.argv[1] + "/run-{epoch}.ckpt")])
np.save(sys.argv[1] + "/end.npy", trainer.net.parameters)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("n_kills", [3, pytest.param(12, marks=pytest.mark.exhaustive)])
def test_killed_at_random_moments(n_kills, tmp_path):
    whole = make(fastbp.Adam(), "numba")
    whole.fit(X, Y, epochs=200)
    rng, kills = np.random.default_rng(1), 0
    for attempt in range(200):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), os.path.dirname(__file__)], stdout=subprocess.PIPE, text=True
        )
        assert worker.stdout.readline() == "begun\n"
        deadline = time.monotonic() + (rng.uniform(0, 0.06) if attempt < n_kills else 60)
        while worker.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        if worker.poll() is None:
            worker.send_signal(signal.SIGKILL)
            kills += 1
        worker.stdout.close()
        if worker.wait() == 0:
            break
        assert worker.returncode == -signal.SIGKILL
    assert kills >= n_kills // 3
    assert np.load(tmp_path / "end.npy").tobytes() == whole.net.parameters.tobytes()
    assert len(list(tmp_path.glob("*.ckpt"))) == 3
