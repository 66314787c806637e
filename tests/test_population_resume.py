"""Checkpoints of a population's training: resumed, it ends with the same bits; what no training writes is refused."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_population_training import LRS, XV, YV, N, X, Y, engine, population  # noqa: F401 (a fixture)

import fastbp
from fastbp import callbacks, checkpoints
from fastbp.checkpoints import CheckpointError

EPOCHS = 7
FITS = {
    "plain": {},
    "validation": {"validation_data": (XV, YV), "metrics": "mae"},
    "patience": {"validation_data": (XV, YV), "patience": 2},
    "patience without best": {"validation_data": (XV, YV), "patience": 2, "restore_best": False},
    "loss of one's own": {
        "validation_data": (XV, YV),
        "patience": 2,
        "validation_loss": lambda A, Y: float(np.abs(A - Y).max()),
    },
    "halving": {"halving": 2},
    "halving and patience": {"validation_data": (XV, YV), "patience": 4, "halving": 2},
    "rows": {"train_rows": [np.arange(5 + i // 2) for i in range(N)]},
}


def make(engine, **options):  # noqa: F811
    pop = population(engine, sizes=[[3, 5, 2], [3, 4, 2]], n_networks=3)
    options = {"batch_size": [4, 4, 8, 4, 23, 4], "dropout": 0.1, "seed": 5} | options
    return fastbp.Trainer(pop, fastbp.Adam([0.001, 0.3, 0.1, 0.05, 0.2, 0.01]), **options)


def are_equal(one, other):
    """Whether two trainers are the same to the bit, and their populations too."""
    assert all(np.array_equal(a, b) for a, b in zip(one.pop.parameters, other.pop.parameters, strict=True))
    for a, b in zip(one.states, other.states, strict=True):
        for name in ("buffers", "running_products", "step", "skipped"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert {*one.history} == {*other.history}
    for name, values in one.history.items():
        assert np.array_equal(values, other.history[name], equal_nan=True), name
    assert np.array_equal(one.pop.losses, other.pop.losses, equal_nan=True)
    assert one.epochs == other.epochs and np.array_equal(one.key, other.key)
    return True


class StopsOne:
    def on_epoch_end(self, trainer, history):
        if trainer.epochs == 3:
            trainer.stopped[5] = True


@pytest.mark.parametrize(
    "options, order", [(options, ("shared", "own")[i % 2]) for i, options in enumerate(FITS.values())], ids=FITS
)
def test_a_resumed_fit_ends_with_the_same_bits(engine, options, order, tmp_path):  # noqa: F811
    """From every epoch of a call of fit, and each goes on alike in the next call."""
    saves = callbacks.Checkpoint(tmp_path / "run-{epoch}.ckpt", keep=EPOCHS)
    whole = make(engine)
    history = whole.fit(X, Y, epochs=EPOCHS, order=order, callbacks=[saves, StopsOne()], **options)
    resumed = []
    for epoch in range(1, len(history) + 1):
        trainer = make(engine)
        trainer.load_checkpoint(tmp_path / f"run-{epoch}.ckpt")
        if epoch < EPOCHS:
            rest = trainer.fit(X, Y, epochs=EPOCHS - epoch, callbacks=[StopsOne()], **options)
            assert rest.stopped == history.stopped and rest.first_epoch == epoch + 1
            assert are_equal(trainer, whole)
        resumed.append(trainer)
    assert len(resumed) >= 3
    after = whole.fit(X, Y, epochs=2)
    for trainer in resumed[: EPOCHS - 1]:
        assert np.array_equal(trainer.fit(X, Y, epochs=2).loss, after.loss)
        assert all(np.array_equal(a, b) for a, b in zip(trainer.pop.parameters, whole.pop.parameters, strict=True))


@pytest.mark.parametrize("order", ["shared", "own"])
def test_a_checkpoint_between_calls_of_fit(engine, order, tmp_path):  # noqa: F811
    whole = make(engine)
    whole.fit(X, Y, epochs=3, order=order, validation_data=(XV, YV), patience=1)
    whole.lr_scale = np.linspace(0.5, 1, N)
    whole.save_checkpoint(tmp_path / "a.ckpt")
    other = make(engine, seed=99)
    other.fit(X, Y, epochs=1, order="own")
    other.load_checkpoint(tmp_path / "a.ckpt")
    assert other.epochs == 3 and np.array_equal(other.lr, whole.lr)
    for trainer in (whole, other):
        trainer.fit(X, Y, epochs=2)
    assert are_equal(whole, other)


def test_a_checkpoint_before_the_first_fit(engine, tmp_path):  # noqa: F811
    """The orders are then those of the trainer that loads it."""
    first = make(engine)
    first.key = 17
    first.save_checkpoint(tmp_path / "a.ckpt")
    other = make(engine)
    other.fit(X, Y)
    other.load_checkpoint(tmp_path / "a.ckpt")
    for trainer in (first, other):
        trainer.fit(X, Y)
    assert are_equal(first, other)


@pytest.mark.parametrize("change, message", [
    (lambda: {"l2": 0.1}, "l2 [0.0], here [0.1]"),
    (lambda: {"batch_size": 4}, "batch_size [4, 4, 8, 4, 23, 4], here [4]"),
    (lambda: {"shuffle": False}, "shuffle True, here False"),
    (lambda: {"on_nonfinite": "skip"}, "on_nonfinite 'stop', here 'skip'"),
])  # fmt: skip
def test_another_training_is_refused(engine, change, message, tmp_path):  # noqa: F811
    make(engine).save_checkpoint(tmp_path / "a.ckpt")
    other = make(engine, **change())
    with pytest.raises(ValueError, match=re.escape(f"is of another training: {message}")):
        other.load_checkpoint(tmp_path / "a.ckpt")


def test_another_population_or_optimizer_is_refused(engine, tmp_path):  # noqa: F811
    make(engine).save_checkpoint(tmp_path / "a.ckpt")
    net = fastbp.Network([3, 2])
    with pytest.raises(ValueError, match="of another training"):
        fastbp.Trainer(net, fastbp.SGD(0.1)).load_checkpoint(tmp_path / "a.ckpt")
    for pop, what in [(population(engine), "population"), (make(engine).pop, "optimizer")]:
        with pytest.raises(ValueError, match=f"is of another training: {what}"):
            fastbp.Trainer(pop, fastbp.Adam(LRS), batch_size=[4, 4, 8, 4, 23, 4], dropout=0.1).load_checkpoint(
                tmp_path / "a.ckpt"
            )


def saved_in_fit(engine, tmp_path):  # noqa: F811
    """Write a checkpoint in a call of fit; return what it holds."""
    path = tmp_path / "run-2.ckpt"
    saves = callbacks.Checkpoint(tmp_path / "run-{epoch}.ckpt")
    make(engine).fit(X, Y, epochs=2, callbacks=[saves], validation_data=(XV, YV), patience=5)
    return path, *checkpoints.read(path)


def put(key, value):
    def change(arrays, info):
        info[key] = value

    return change


def put_fit(key, value):
    def change(arrays, info):
        info["fit"][key] = value

    return change


def put_array(name, value):
    def change(arrays, info):
        arrays[name] = value

    return change


CRAFTED = {
    "epochs": (put("epochs", -1), "epochs must be an integer"),
    "lr_scale": (put("lr_scale", [1.0, 2.0]), "lr_scale must be a list of 1 or 6 numbers"),
    "an lr_scale below 0": (put("lr_scale", [-1.0]), "lr_scale must be a number"),
    "order": (put("order", "any"), "order and rng must be"),
    "no order": (put("order", None), "order and rng must be"),
    "rng": (put("rng", [{}]), "a generator must have a state"),
    "rng of no list": (put("rng", {}), "order and rng must be"),
    "fit": (put("fit", {"callbacks": []}), "fit must have callbacks, epochs, stopped and ended"),
    "epochs of fit": (put_fit("epochs", 1.5), "epochs of fit must be an integer"),
    "stopped": (put_fit("stopped", [None]), "stopped must be 6 texts or nulls"),
    "ended": (put_fit("ended", 3), "ended must be a text or null"),
    "callbacks": (put_fit("callbacks", [["A"]]), "callbacks must be pairs of a name and an object"),
    "best": (put_array("fit best", np.zeros(3)), "fit must have the arrays best, best_epoch and last"),
    "best_epoch": (put_array("fit best_epoch", np.zeros(6)), "fit must have the arrays"),
    "best_parameters": (put_array("fit best_parameters 0", np.zeros(3)), "array 'fit best_parameters 0' must be"),
    "parameters": (put_array("parameters 0", np.zeros((3, 9), "f4")), "array 'parameters 0' must be float32 (3, 32)"),
    "step": (put_array("step 1", np.array([1, -1, 1])), "array 'step 1' must hold numbers of steps"),
    "stream_of": (put_array("stream_of", np.full(6, 7)), "array 'stream_of' must hold 0 to"),
    "key": (put_array("key", np.zeros(6)), "array 'key' must be uint64 (6,)"),
    "history": (put_array("history loss", np.zeros((2, 5))), "history must have a loss, and all its series"),
    "integers": (put_array("history validation_loss", np.zeros((2, 6), int)), "must be float64 (n_epochs, 6)"),
    "another array": (put_array("more", np.zeros(1)), "its arrays must be"),
}


@pytest.mark.parametrize("change, message", CRAFTED.values(), ids=CRAFTED)
def test_what_no_training_writes_is_refused(engine, change, message, tmp_path):  # noqa: F811
    path, arrays, info = saved_in_fit(engine, tmp_path)
    change(arrays, info)
    checkpoints.write(path, arrays, info)
    trainer = make(engine)
    before = [parameters.copy() for parameters in trainer.pop.parameters]
    with pytest.raises(CheckpointError, match=f"holds what no training writes: .*{re.escape(message)}"):
        trainer.load_checkpoint(path)
    assert all(np.array_equal(a, b) for a, b in zip(trainer.pop.parameters, before, strict=True))
    assert trainer.epochs == 0 and trainer._streams is None


def test_the_unchanged_file_is_read(engine, tmp_path):  # noqa: F811
    path, arrays, info = saved_in_fit(engine, tmp_path)
    checkpoints.write(path, arrays, info)
    make(engine).load_checkpoint(path)


def test_folds_cannot_be_resumed(engine, tmp_path):  # noqa: F811
    saves = callbacks.Checkpoint(tmp_path / "run-{epoch}.ckpt")
    with pytest.raises(RuntimeError, match="a training with folds cannot be resumed"):
        make(engine).fit(X, Y, epochs=2, folds=2, callbacks=[saves])


def test_parameters_that_are_not_finite_are_told(engine, tmp_path):  # noqa: F811
    trainer = make(engine)
    trainer.pop.parameters[0][1, 2] = np.nan
    with pytest.warns(RuntimeWarning, match="NaN or infinity"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.warns(RuntimeWarning, match="NaN or infinity"):
        make(engine).load_checkpoint(tmp_path / "a.ckpt")


# ------------------------------------------------------------------ Ctrl-C

CHILD = """
import json, sys, time, warnings
import numpy as np
import fastbp

backend, n_samples, watched = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "watched"
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(n_samples, 8)).astype("f4"), rng.uniform(size=(n_samples, 2)).astype("f4")
pop = fastbp.Population([8, 16, 2], n_networks=50, seed=0, backend=backend)
trainer = fastbp.Trainer(pop, fastbp.SGD(1e-3, momentum=0.5), batch_size=4, shuffle=n_samples < 100, seed=0)
trainer.fit(X[:8], Y[:8])                       # compiles
before = pop.parameters.copy()
options = dict(validation_data=(X[:50], Y[:50]), patience=10**6) if watched else {}
print("ready", flush=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    history = trainer.fit(X, Y, epochs=10**9, **options)
stopped = time.monotonic()
moved = (pop.parameters != before).any(axis=1)
moved = bool(moved.all() if n_samples < 100 else moved.any())
again = trainer.fit(X[:8], Y[:8])
print(json.dumps(dict(
    stopped=stopped, interrupted=history.interrupted, epochs=len(history), moved=moved,
    reasons=sorted({*history.stopped}),
    finite=bool(np.isfinite(pop.parameters).all() and np.isfinite(history.loss).all()),
    warnings=[str(w.message) for w in caught], again=again.epochs, usable=np.isfinite(pop.predict(X[:3])).all().item(),
)))
"""


@pytest.mark.parametrize("n_samples, watched", [(4, "plain"), (4, "watched"), (400_000, "plain")])
def test_ctrl_c_stops_soon_and_leaves_usable_networks(engine, n_samples, watched):  # noqa: F811
    command = [sys.executable, "-c", CHILD, engine.backend, str(n_samples), watched]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            time.sleep(1.0)
            sent = time.monotonic()
            child.send_signal(signal.SIGINT)
            output = child.stdout.read()
            assert child.wait() == 0
        finally:
            child.kill()
    result = json.loads(output.splitlines()[-1])
    assert result["stopped"] - sent < 2.0  # a quarter of a second is promised; a busy machine is given more
    assert result["interrupted"] and result["finite"] and result["moved"] and result["usable"]
    assert result["reasons"] == ["interrupted"] and result["again"] == [result["epochs"] + 2]
    assert (result["epochs"] > 2) == (n_samples == 4)
    assert len(result["warnings"]) == 1 and "the networks are usable" in result["warnings"][0]
