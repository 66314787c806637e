"""Calls with a few rows: plain arrays take a short way through the checks and the engine, all else the long one."""

import contextlib
import pickle
import sys
import tempfile
import threading

import numpy as np
import pytest

import fastbp
from fastbp import checks

XS = np.random.default_rng(0).integers(0, 2, (6, 3)).astype(np.float32)  # which bool and uint8 can hold too
YS = np.array([[0.0], [1.0], [0.0], [1.0], [1.0], [0.0]], np.float32)


def misaligned(array):
    buffer = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    buffer[...] = array
    return buffer


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def mapped(array):
    with tempfile.TemporaryFile() as file:
        result = np.memmap(file, array.dtype, "w+", shape=array.shape)
    result[...] = array
    return result


SHORT = {
    "a copy": np.copy,
    "rows of more": lambda array: np.concatenate([array, array])[len(array) :],
    "read-only": read_only,
    "unpickled": lambda array: pickle.loads(pickle.dumps(array)),  # its dtype is another object
}
LONG = {
    "float64": lambda array: array.astype(float),
    "the other byte order": lambda array: array.astype(array.dtype.newbyteorder()),
    "uint8": lambda array: array.astype(np.uint8),
    "bool": lambda array: array.astype(bool),
    "a list": np.ndarray.tolist,
    "Fortran order": lambda array: np.asfortranarray(np.hstack([array, array]))[:, : array.shape[1]],
    "every other row": lambda array: np.repeat(array, 2, axis=0)[::2],
    "a subclass": lambda array: array.view(type("Subclass", (np.ndarray,), {})),
    "a memmap": mapped,
    "masked, but nothing hidden": np.ma.array,
    "misaligned": misaligned,
}
CALLS = {
    "predict": lambda trainer, X, Y: trainer.net.predict(X).tobytes(),
    "loss": lambda trainer, X, Y: trainer.net.loss(X, Y),
    "gradients": lambda trainer, X, Y: [array.tobytes() for array in trainer.net.gradients(X, Y).weights],
    "partial_fit": lambda trainer, X, Y: [trainer.partial_fit(X, Y).loss for _ in range(2)],
    "step": lambda trainer, X, Y: [trainer.step(X, Y) for _ in range(2)],
}


def result_of(call, X, Y):
    """Return what a call gives with a new network, or its error, and the parameters after it."""
    net = fastbp.Network([3, 4, 1], seed=0)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1, momentum=0.5), seed=0)
    try:
        result = CALLS[call](trainer, X, Y)
    except (TypeError, ValueError) as error:
        result = type(error), str(error)
    return result, net.parameters.tobytes()


@pytest.fixture
def long_ways(monkeypatch):
    """A list that receives those of X and Y that go the long way through the checks."""
    names, numbers = [], checks._numbers

    def record(name, value):
        if name in ("X", "Y"):
            names.append(name)
        return numbers(name, value)

    monkeypatch.setattr(checks, "_numbers", record)
    return names


@pytest.mark.parametrize("form", [*SHORT, *LONG])
@pytest.mark.parametrize("call", CALLS)
def test_plain_arrays_go_the_short_way_to_the_same_bits(call, form, long_ways):
    convert = (SHORT | LONG)[form]
    given = result_of(call, convert(XS), convert(YS))
    assert not long_ways if form in SHORT else "X" in long_ways
    assert given == result_of(call, XS, YS)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_samples", [6, 200, 70_000])
def test_the_short_way_lets_no_bad_number_pass(call, wrong, n_samples):
    for which in range(1 if call == "predict" else 2):
        data = [np.resize(XS, (n_samples, 3)), np.resize(YS, (n_samples, 1))]
        data[which][-1, -1] = wrong
        (kind, message), _ = result_of(call, *data)
        assert kind is ValueError and message.startswith(
            f"{'XY'[which]}[{n_samples - 1}, {2 * (not which)}] is {wrong}"
        )


@pytest.mark.parametrize("n_samples", [1, 2, 6, 200])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_is_reduced_to_the_same_bits_as_by_numpy(reduction, n_samples):
    net = fastbp.Network([3, 4, 1], reduction=reduction, seed=0)
    X, Y = np.random.default_rng(0).random((n_samples, 3), np.float32), np.resize(YS, (n_samples, 1))
    losses = net._backend.losses(net.parameters, X, Y)
    assert net.loss(X, Y) == net.gradients(X, Y).loss == getattr(losses, reduction)()


def test_large_finite_numbers_pass_though_their_sum_overflows():
    net = fastbp.Network([3, 1], dtype="float64", seed=0)
    X = np.full((2, 3), 1.7e308)
    assert np.isfinite(net.predict(X)).all() and np.isfinite(net.loss(X, np.zeros((2, 1))))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "X, match", [(XS[:, :2].copy(), "2 columns"), (XS[:0], "empty"), (XS[None], "3-D"), (XS.astype("U1"), "text")]
)
def test_wrong_shapes_go_the_long_way_to_their_errors(call, X, match):
    (kind, message), after = result_of(call, X, YS)
    assert kind in (TypeError, ValueError) and message.startswith("X ") and match in message
    assert after == fastbp.Network([3, 4, 1], seed=0).parameters.tobytes()


# ------------------------------------------------------------------ a step after a step

SETTINGS = [{}, {"lr_scale": 0.5}, {"l2": 0.1}, {"dropout": 0.5}, {"key": 7}, {"input_noise": 0.1}, {"clip_norm": 0.01}]
SETTINGS += [{"threads": 1}, {"optimizer": fastbp.SGD(0.3, momentum=0.9)}, {"on_nonfinite": "skip"}, {"max_norm": 0.5}]


def steps_of(trainer, is_new):
    """Return losses and parameters of steps between which settings and the number of samples change."""
    results = []
    for i, settings in enumerate([*SETTINGS, {}]):
        for name, value in settings.items():
            setattr(trainer, name, value)
        for n_samples in (1, 1, 6, 2 + i % 3):
            if is_new:
                trainer._last_step = trainer._last_update = None
            results.append((trainer.step(XS[:n_samples], YS[:n_samples]), trainer.net.parameters.tobytes()))
    return results


@pytest.mark.parametrize("optimizer", [fastbp.SGD(0.1, momentum=0.5), fastbp.Adam(), fastbp.Nadam()])
@pytest.mark.parametrize("sizes", [(3, 4, 1), (3, 60, 1)])
def test_a_step_sees_every_change_since_the_last_one(sizes, optimizer):
    results = []
    for is_new in (False, True):
        trainer = fastbp.Trainer(fastbp.Network(sizes, seed=0), optimizer, seed=0)
        with contextlib.suppress(ValueError):  # another class of optimizer is refused
            results.append(steps_of(trainer, is_new))
    assert all(result == results[0] for result in results)


def test_a_step_is_prepared_once(monkeypatch):
    trainer = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), fastbp.SGD(0.1), seed=0)
    trainer.step(XS, YS)
    prepared = trainer._last_step
    trainer.step(XS, YS)
    assert trainer._last_step is prepared
    for change in (lambda: setattr(trainer, "l1", 0.1), lambda: trainer.step(XS[:2], YS[:2])):
        change()
        trainer.step(XS, YS)
        assert trainer._last_step is not prepared
        prepared = trainer._last_step


def test_parameters_written_between_steps_are_used():
    trainer = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), fastbp.SGD(0.1), seed=0)
    first = trainer.step(XS, YS), trainer.net.parameters.tobytes()
    trainer.step(XS, YS)
    trainer.net.parameters[:] = fastbp.Network([3, 4, 1], seed=0).parameters
    assert (trainer.step(XS, YS), trainer.net.parameters.tobytes()) == first
    trainer.net.parameters.flags.writeable = False
    with pytest.raises(ValueError, match="net.parameters is read-only"):
        trainer.step(XS, YS)


def test_trainers_of_one_network_take_turns():
    """Their steps use the same workspace, with other rules."""
    ends = []
    for is_new in (False, True):
        net = fastbp.Network([3, 4, 1], seed=0)
        trainers = [
            fastbp.Trainer(net, fastbp.SGD(0.1, momentum=0.5, nesterov=n), l2=0.1, seed=0) for n in (False, True)
        ]
        for _ in range(4):
            for trainer in trainers:
                if is_new:
                    net._backend._free.clear()
                trainer.step(XS, YS)
        ends.append(net.parameters.tobytes())
    assert ends[0] == ends[1]


def test_threads_predict_and_train_with_one_network():
    net = fastbp.Network([3, 4, 1], seed=0)
    expected, results = net.predict(XS).tobytes(), []

    def work():
        other = fastbp.Trainer(net.copy(), fastbp.Adam(), seed=0)
        other.net._backend = net._backend  # the workspaces of one network
        losses = [other.step(XS, YS) for _ in range(200)]
        results.append((losses, {net.predict(XS).tobytes() for _ in range(200)}))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(result == results[0] for result in results)
    assert results[0][1] == {expected}


@pytest.mark.parametrize("optimizer", [fastbp.SGD(0.1, momentum=0.5), fastbp.Adam()])
def test_ctrl_c_at_any_instruction_of_a_step_leaves_parameters_and_step_count_consistent(optimizer):
    trainer = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), optimizer, seed=0)
    trainer.step(XS, YS)
    outcomes, instruction = set(), 0
    while None not in outcomes:
        instruction += 1
        before, step = trainer.net.parameters.tobytes(), trainer.state.step
        try:
            with interrupt_at(instruction):
                trainer.step(XS, YS)
        except KeyboardInterrupt:
            moved = trainer.net.parameters.tobytes() != before
            outcomes.add(moved)
        else:
            moved = True
            outcomes.add(None)
        assert trainer.state.step == step + moved, f"instruction {instruction}"
    assert outcomes == {True, False, None}
    exact = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), optimizer, seed=0)
    for _ in range(trainer.state.step):
        exact.step(XS, YS)
    assert exact.net.parameters.tobytes() == trainer.net.parameters.tobytes()


@contextlib.contextmanager
def interrupt_at(instruction):
    """Raise KeyboardInterrupt before this instruction of the package's Python code, counted from 1."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if "fastbp" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == instruction:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
