"""Calls with a few rows: plain arrays take a short way through the checks and the engine, all else the long one."""

import contextlib
import pickle
import signal
import sys
import tempfile
import threading
import warnings

import numpy as np
import pytest
from fastbp.kernels.layout import knows_arrays
from shared import threads_everywhere

import fastbp
from fastbp import checks
from fastbp.engine import backend as backend_module
from fastbp.engine import threads as engine_threads

XS = np.random.default_rng(0).integers(0, 2, (6, 3)).astype(np.float32)  # which bool and uint8 can hold too
WEIGHTS = np.random.default_rng(1).random(70_000, np.float32)
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
    "step with weights": lambda trainer, X, Y: [trainer.step(X, Y, WEIGHTS[: len(X)]) for _ in range(2)],
    "fit with weights": lambda trainer, X, Y: [trainer.fit(X, Y, sample_weight=WEIGHTS[: len(X)]).loss for _ in "ab"],
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


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


def raise_interrupt():
    raise KeyboardInterrupt


@contextlib.contextmanager
def interrupt_at(instruction, interrupt=raise_interrupt):
    """Call `interrupt` before this instruction of the package's Python code, counted from 1; yield whether it was."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if "fastbp" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == instruction:
                interrupt()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lambda: count >= instruction
    finally:
        sys.settrace(before)


# ------------------------------------------------------------------ arrays that the native side reads and checks


@pytest.fixture
def native_calls(monkeypatch):
    """A list that receives what each native call with arrays returns: 0, or REFUSED."""
    results, launcher = [], engine_threads.array_launcher

    def recording_launcher(dtype):
        launch = launcher(dtype)

        def recording_launch(*arguments):
            results.append(launch(*arguments))
            return results[-1]

        return recording_launch

    monkeypatch.setattr(engine_threads, "array_launcher", recording_launcher)
    return results


def long_way(monkeypatch):
    """Have no array read by the native side."""
    monkeypatch.setattr(backend_module, "knows_arrays", False)


LOSSES = {
    "squared_error": ("sigmoid", 1, "rows"),
    "poisson": ("exponential", 1, "rows"),
    "binary_cross_entropy": ("sigmoid", 2, "rows"),
    "cross_entropy": ("softmax", 3, "labels"),
    "focal": ("sigmoid", 1, "rows"),
    "hinge": ("tanh", 1, "signs"),
}


def problem(loss, dtype, n_samples=6, **options):
    """Return a trainer with samples and targets; with targets in rows too for a loss that takes labels."""
    output, n_out, kind = LOSSES[loss]
    rng = np.random.default_rng(3)
    net = fastbp.Network([3, 4, n_out], ["tanh", output], loss, seed=0, dtype=dtype)
    X, labels = rng.normal(size=(n_samples, 3)).astype(dtype), rng.integers(0, max(n_out, 2), n_samples)
    Y = np.eye(n_out, dtype=dtype)[labels] if n_out > 1 else labels[:, None].astype(dtype)
    Ys = {"rows": [Y], "labels": [labels.astype(np.int64), Y], "signs": [2 * Y - 1]}[kind]
    return fastbp.Trainer(net, **{"optimizer": fastbp.Adam(), "batch_size": 2, "seed": 0, **options}), X, Ys


def all_calls(loss, dtype):
    """Return what every kind of call gives, and the states after it."""
    trainer, X, Ys = problem(loss, dtype)
    results = []
    for Y in Ys:
        for _ in range(3):
            for weights in (None, np.linspace(0, 2, len(X)).astype(dtype)):
                results += [trainer.step(X, Y, weights), trainer.fit(X, Y, sample_weight=weights).loss]
            results += [trainer.partial_fit(X, Y).loss, trainer.net.predict(X).tobytes(), trainer.net.loss(X, Y)]
            gradients = trainer.net.gradients(X, Y)
            results += [gradients.loss, *(array.tobytes() for array in gradients.weights + gradients.biases)]
    results += [trainer.net.parameters.tobytes(), trainer.state.buffers.tobytes(), trainer.state.step, trainer.epochs]
    return [*results, trainer.rng.bit_generator.state, trainer.history]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_both_ways_give_the_same_bits(loss, dtype, native_calls, monkeypatch):
    assert knows_arrays
    short = all_calls(loss, dtype)
    assert native_calls.count(0) >= (3 if loss == "hinge" else 17)
    native_calls.clear()
    long_way(monkeypatch)
    assert all_calls(loss, dtype) == short
    assert not native_calls


@pytest.mark.parametrize("form", [*SHORT, *LONG])
@pytest.mark.parametrize("call", CALLS)
def test_the_native_side_takes_plain_arrays_alone(call, form, native_calls):
    convert = (SHORT | LONG)[form]
    trainer = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), fastbp.SGD(0.1), seed=0)
    CALLS[call](trainer, XS, YS)
    for X, Y in ((convert(XS), YS), (XS, convert(YS))):
        native_calls.clear()
        CALLS[call](trainer, X, Y)
        is_taken = form in SHORT and form != "unpickled" or X is XS and call == "predict"
        is_taken |= X is XS and form == "Fortran order"  # a single column is in both orders
        assert (0 in native_calls) == is_taken, native_calls


BAD = {
    "NaN in X": ("squared_error", lambda X, Y: X.__setitem__((1, 2), np.nan)),
    "infinity in X": ("squared_error", lambda X, Y: X.__setitem__((5, 0), -np.inf)),
    "NaN in Y": ("squared_error", lambda X, Y: Y.__setitem__((5, 0), np.nan)),
    "infinity in Y": ("poisson", lambda X, Y: Y.__setitem__((0, 0), np.inf)),
    "negative counts": ("poisson", lambda X, Y: Y.__setitem__((0, 0), -0.1)),
    "more than 1": ("binary_cross_entropy", lambda X, Y: Y.__setitem__((5, 1), 1.1)),
    "less than 0": ("binary_cross_entropy", lambda X, Y: Y.__setitem__((5, 1), -0.1)),
    "no sign": ("hinge", lambda X, Y: Y.__setitem__((2, 0), 0.0)),
    "sums to 2": ("cross_entropy", lambda X, Y: Y.__setitem__((3, slice(None)), [1, 1, 0])),
    "sums to 0.998": ("cross_entropy", lambda X, Y: Y.__setitem__((3, slice(None)), [0.998, 0, 0])),
    "label 3": ("cross_entropy of labels", lambda X, Y: Y.__setitem__(5, 3)),
    "label -1": ("cross_entropy of labels", lambda X, Y: Y.__setitem__(0, -1)),
}


@pytest.mark.parametrize("method", ["predict", "loss", "gradients", "step", "partial_fit"])
@pytest.mark.parametrize("bad", BAD)
def test_bad_numbers_are_refused_after_good_ones(bad, method, monkeypatch):
    loss, spoil = BAD[bad]
    if method == "predict" and "in X" not in bad:
        return
    messages = []
    for _ in range(2):
        trainer, X, Ys = problem(loss.split()[0], "float32")
        Y = Ys[0] if "labels" in loss else Ys[-1]
        owner = trainer if hasattr(trainer, method) else trainer.net
        given = (X,) if method == "predict" else (X, Y)
        for _ in range(4):
            getattr(owner, method)(*given)
        spoil(X, Y)
        before = states_of(trainer)
        with pytest.raises(ValueError) as error:
            getattr(owner, method)(*given)
        messages.append(str(error.value))
        assert states_of(trainer) == before
        long_way(monkeypatch)
    assert messages[0] == messages[1]


@pytest.mark.parametrize("method", ["loss", "gradients", "step", "partial_fit"])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_targets_of_another_shape_are_refused_after_good_ones(loss, method):
    trainer, X, Ys = problem(loss, "float32")
    owner = trainer if hasattr(trainer, method) else trainer.net
    for Y in Ys:
        for _ in range(4):
            getattr(owner, method)(X, Y)
        before = states_of(trainer)
        for wrong, match in ((Y[:5], "5 rows"), (np.concatenate([Y, Y]), "12 rows"), (np.c_[Y, Y], " columns")):
            with pytest.raises(ValueError, match=f"^Y has {'' if 'rows' in match else '[0-9]+'}{match}"):
                getattr(owner, method)(X, wrong)
        assert states_of(trainer) == before


def states_of(trainer):
    """Return all that training changes."""
    state = trainer.state
    arrays = trainer.net.parameters, state.buffers, state.running_products
    rng = trainer.rng.bit_generator.state
    return [array.tobytes() for array in arrays], state.step, state.skipped, trainer.epochs, rng, trainer.history


@pytest.mark.parametrize("method", ["step", "fit"])
@pytest.mark.parametrize(
    "weights, match",
    [
        ([1, 1, 1, 1, 1, -1], r"sample_weight\[5\] is -1"),
        ([np.nan, 1, 1, 1, 1, 1], r"sample_weight\[0\] is nan"),
        ([1, 1, np.inf, 1, 1, 1], r"sample_weight\[2\] is inf"),
        ([1, 1, 1], r"sample_weight has shape \(3,\)"),
        ([[1], [1], [1], [1], [1], [1]], r"sample_weight has shape \(6, 1\)"),
    ],
)
def test_bad_weights_are_refused_after_good_ones(method, weights, match):
    trainer = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), fastbp.SGD(0.1), seed=0)
    for _ in range(3):
        getattr(trainer, method)(XS, YS, sample_weight=WEIGHTS[:6])
    before = states_of(trainer)
    for form in (weights, np.array(weights, np.float32)):
        with pytest.raises(ValueError, match=match):
            getattr(trainer, method)(XS, YS, sample_weight=form)
    assert states_of(trainer) == before


@pytest.mark.parametrize("form", [form for form in LONG if form != "Fortran order"])
@pytest.mark.parametrize("method", ["step", "fit"])
def test_weights_of_any_form_give_the_same_bits(method, form):
    results = []
    for convert in (np.copy, LONG[form]):
        trainer = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), fastbp.SGD(0.1), seed=0)
        for _ in range(3):
            getattr(trainer, method)(XS, YS, sample_weight=convert(XS[:, 0].copy()))
        results.append(states_of(trainer))
    assert results[0] == results[1]


@pytest.mark.parametrize("optimizer", [fastbp.SGD(0.1, momentum=0.5), fastbp.Adam()])
@pytest.mark.parametrize("n_samples", [1, 6, 300])
def test_steps_with_weights_are_epochs_of_the_full_batch(backend, optimizer, n_samples):
    rng = np.random.default_rng(0)
    X, Y = rng.random((n_samples, 3), np.float32), rng.random((n_samples, 1), np.float32)
    weights, ends = WEIGHTS[:n_samples], []
    for is_step in (True, False):
        net = fastbp.Network([3, 4, 1], seed=0, backend=backend)
        trainer = fastbp.Trainer(net, optimizer, batch_size=None, dropout=0.5, seed=0)
        if is_step:
            losses = [trainer.step(X, Y, sample_weight=weights) for _ in range(3)]
        else:
            losses = trainer.fit(X, Y, epochs=3, sample_weight=weights).loss
        ends.append((losses, net.parameters.tobytes(), trainer.state.buffers.tobytes(), trainer.state.step))
    assert ends[0] == ends[1]
    without = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), optimizer, dropout=0.5, seed=0)
    assert without.step(X, Y) != ends[0][0][0]


@pytest.mark.parametrize("name", ["net.parameters", "state.buffers", "state.running_products", "state.vectors"])
@pytest.mark.parametrize("method", ["step", "partial_fit"])
def test_read_only_arrays_are_not_written_to(name, method):
    trainer = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), fastbp.Adam(), seed=0)
    for _ in range(3):
        getattr(trainer, method)(XS, YS)
    before = states_of(trainer)
    owner, attribute = name.split(".")
    array = getattr(getattr(trainer, owner), attribute)
    array.flags.writeable = False
    with pytest.raises(ValueError, match=f"{name} is read-only"):
        getattr(trainer, method)(XS, YS)
    assert states_of(trainer) == before
    array.flags.writeable = True
    getattr(trainer, method)(XS, YS)
    assert trainer.state.step == before[1] + 1


@pytest.mark.parametrize("form", ["float64", "uint8"])
@pytest.mark.parametrize("call", CALLS)
def test_calls_of_both_ways_alternate(call, form):
    results = []
    for convert in (np.copy, LONG[form]):
        trainer = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), fastbp.SGD(0.1), batch_size=2, seed=0)
        calls = [CALLS[call](trainer, f(XS[:n]), YS[:n]) for n in (6, 6, 4, 6, 6) for f in (np.copy, convert)]
        results.append((calls, states_of(trainer)))
    assert results[0] == results[1]


def test_a_backend_evaluates_with_the_parameters_it_is_given(native_calls):
    nets = [fastbp.Network([3, 4, 1], seed=seed) for seed in (0, 1)]
    expected = [net.predict(XS).tobytes() for net in nets]
    backend = nets[0]._backend
    assert [backend.predict_array(net.parameters, XS).tobytes() for net in nets] == expected
    assert [backend.losses_of_arrays(net.parameters, XS, YS).mean() for net in nets] == [
        net.loss(XS, YS) for net in nets
    ]
    assert set(native_calls) == {0}


def test_what_pays_for_threads_goes_the_long_way(native_calls):
    X, Y = np.resize(XS, (200, 3)), np.resize(YS, (200, 1))
    with threads_everywhere(2):
        trainer = fastbp.Trainer(fastbp.Network([3, 60, 1], seed=0), fastbp.SGD(0.1), batch_size=None, seed=0)
        for _ in range(3):
            trainer.step(X, Y)
            trainer.fit(X, Y)
        trainer.net.loss(XS, YS)
    assert 0 not in native_calls
    trainer.batch_size = 100
    for _ in range(3):
        trainer.fit(X, Y)
    assert 0 in native_calls


def test_an_epoch_of_several_native_calls_goes_the_long_way(native_calls):
    trainer = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), fastbp.SGD(0.1), batch_size=2, seed=0)
    for _ in range(3):
        trainer.fit(XS, YS)
    assert 0 in native_calls
    native_calls.clear()
    trainer._last_run._chunk = 2  # batches of 3 that fit into the time of a native call
    trainer.fit(XS, YS)
    assert not native_calls


# ------------------------------------------------------------------ a call of fit after a call of fit


def fits_of(trainer):
    """Return the results of calls of `fit` between which settings and the number of samples change."""
    results = []
    for i, settings in enumerate([*SETTINGS, {"batch_size": 1}, {"shuffle": False}, {"batch_size": None}, {}]):
        for name, value in settings.items():
            setattr(trainer, name, value)
        for n_samples in (6, 6) if i % 3 else (6, 6, 2 + i % 4):
            history = trainer.fit(XS[:n_samples], YS[:n_samples], **({"epochs": 2} if i % 4 == 3 else {}))
            results += [history.loss, history.epochs, states_of(trainer)]
    return results


@pytest.mark.parametrize("optimizer", [fastbp.SGD(0.1, momentum=0.5), fastbp.Adam()])
@pytest.mark.parametrize("sizes", [(3, 4, 1), (3, 60, 1)])
def test_a_fit_sees_every_change_since_the_last_one(sizes, optimizer, native_calls, monkeypatch):
    results = []
    for _ in range(2):
        trainer = fastbp.Trainer(fastbp.Network(sizes, seed=0), optimizer, batch_size=2, seed=0)
        with contextlib.suppress(ValueError):  # another class of optimizer is refused
            results.append(fits_of(trainer))
        long_way(monkeypatch)
    assert native_calls.count(0) > 5 and all(result == results[0] for result in results)
    assert optimizer != fastbp.SGD(0.1, momentum=0.5) or len(results) == 2


@pytest.mark.parametrize("on_nonfinite", ["stop", "raise", "skip"])
@pytest.mark.parametrize("lr, batch_size", [(1e30, 2), (1e42, None), (1e42, 6), (1e38, 1), (3e9, 1)])
def test_a_fit_that_diverges_ends_as_on_the_long_way(on_nonfinite, lr, batch_size, monkeypatch):
    ends = []
    for _ in range(2):
        net = fastbp.Network([3, 4, 1], "identity", seed=0)
        optimizer = fastbp.SGD(0.01, momentum=0.9)
        trainer = fastbp.Trainer(net, optimizer, batch_size=batch_size, seed=0, on_nonfinite=on_nonfinite)
        for _ in range(4):
            trainer.fit(XS, YS)
        trainer.lr_scale = lr
        with warnings.catch_warnings(record=True) as caught, contextlib.suppress(FloatingPointError):
            warnings.simplefilter("always")
            history = trainer.fit(XS, YS)
            caught.append((history.nonfinite, history.stopped, history.skipped, history.loss))
        ends.append(([str(getattr(item, "message", item)) for item in caught], repr(states_of(trainer))))
        long_way(monkeypatch)
    assert ends[0] == ends[1]


def test_a_fit_after_a_checkpoint_goes_on_in_its_call(tmp_path):
    trainer = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), fastbp.SGD(0.1), seed=0)
    trainer.fit(XS, YS, epochs=2, callbacks=[fastbp.callbacks.Checkpoint(tmp_path / "{epoch}.npz")])
    trainer.partial_fit(XS, YS)
    trainer.load_checkpoint(tmp_path / "1.npz")
    assert trainer._resumed is not None
    trainer.partial_fit(XS, YS)
    assert trainer._resumed is None and trainer.epochs == 2


@pytest.mark.parametrize("method", ["step", "fit", "partial_fit"])
def test_no_call_within_a_short_fit(method, monkeypatch):
    trainer = fastbp.Trainer(fastbp.Network([3, 4, 1], seed=0), fastbp.SGD(0.1), seed=0)
    trainer.fit(XS, YS)
    monkeypatch.setattr(trainer, "_keep", lambda history: getattr(trainer, method)(XS, YS))
    with pytest.raises(RuntimeError, match="while fit of the same trainer runs"):
        trainer.fit(XS, YS)
    monkeypatch.undo()
    trainer.fit(XS, YS)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
@pytest.mark.parametrize("batch_size, shuffle", [(None, True), (2, True)])
def test_ctrl_c_at_any_instruction_of_a_short_fit_leaves_a_usable_trainer(batch_size, shuffle):
    def new():
        return fastbp.Trainer(
            fastbp.Network([3, 4, 1], seed=0), fastbp.Adam(), batch_size=batch_size, shuffle=shuffle, seed=0
        )

    trainer, outcomes, instruction = new(), set(), 0
    for _ in range(3):
        trainer.fit(XS, YS)
    n_batches = 1 if batch_size is None else 3
    while "not interrupted" not in outcomes:
        instruction += 1
        before = trainer.epochs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with interrupt_at(instruction, press_ctrl_c) as is_done:
                    history = trainer.fit(XS, YS)
            except KeyboardInterrupt:  # before the first instruction of fit, or after its last one
                outcomes.add("raised")
            else:
                outcomes.add((history.interrupted, len(history)) if is_done() else "not interrupted")
                assert len(history) == trainer.epochs - before
        assert trainer.state.step == n_batches * trainer.epochs == n_batches * len(trainer.history["loss"])
        assert not trainer._fit and trainer.epochs - before in (0, 1), f"instruction {instruction}"
    assert {(True, 0), (True, 1)} <= outcomes
    exact = new()
    exact.fit(XS, YS, epochs=trainer.epochs)
    assert states_of(exact)[0] == states_of(trainer)[0]
