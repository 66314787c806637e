"""The compiled engine against its NumPy twin: every network, batch size, activation, loss, kind of data."""

import os
import pickle
import subprocess
import sys
import threading
import time
from hashlib import sha256
from itertools import product

import numba
import numpy as np
import pytest
from fastbp.kernels import dense, layout, simd
from fastbp.kernels import plan as plans
from fastbp.kernels.tables import RULES
from shared import NO_LIMITS, record_launches

import fastbp
from fastbp import kernels
from fastbp.activations import ACTIVATIONS
from fastbp.engine import backend as engine_backend
from fastbp.engine import limits, workspace
from fastbp.engine import threads as engine_threads
from fastbp.engine.backend import NumbaBackend
from fastbp.losses import LOSSES
from fastbp.reference.layout import layer_views
from fastbp.reference.training import NumpyBackend
from fastbp.update import State, Update

HIDDEN = [name for name in ACTIVATIONS if name != "softmax"]
ADAM = {"rule": "adam", "hyperparameters": (0.9, 0.999, 1e-8), "rates": (0.01,)}
DECAY = {"rule": "adamw_weights", "hyperparameters": (0.9, 0.999, 1e-8, 3.0), "rates": (0.01,)}
SCALED = {"rule": "adamw_scaled", "hyperparameters": (0.9, 0.999, 1e-8, 3.0, 7.0, 1.5), "rates": (0.01,)}
BATCH_SIZES = (1, 2, 3, 17, 100, 257, 600)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Case:
    """A network with data, and both backends that run it; NumPy's always in float64."""

    def __init__(
        self,
        sizes,
        activations,
        loss,
        dtype,
        *,
        n=40,
        labels=False,
        reduction="mean",
        x_dtype=None,
        seed=0,
        scale=1.0,
        x_scale=1.0,
    ):
        rng = np.random.default_rng(seed)
        x_dtype = x_dtype or dtype
        self.dtype, self.n = dtype, n
        self.X = rng.integers(0, 4, (n, sizes[0])) if x_dtype == np.uint8 else rng.normal(size=(n, sizes[0]))
        self.X = self.X.astype(x_dtype)
        if labels:
            self.Y = rng.integers(0, sizes[-1], n)
        elif LOSSES[loss].within_01:
            self.Y = rng.dirichlet(np.ones(sizes[-1]), n) if sizes[-1] > 1 else rng.random((n, 1))
            self.Y = self.Y.astype(dtype)
        elif LOSSES[loss].takes_signs or LOSSES[loss].is_positive:
            self.Y = rng.choice([-1, 1] if LOSSES[loss].takes_signs else [0, 1, 5], (n, sizes[-1])).astype(dtype)
        else:
            self.Y = rng.normal(size=(n, sizes[-1])).astype(dtype)
        self.dA = rng.normal(size=(n, sizes[-1])).astype(dtype)
        self.parameters = np.zeros(sum((a + 1) * b for a, b in zip(sizes, sizes[1:], strict=False)), dtype)
        for W, b in zip(*layer_views(self.parameters, sizes), strict=True):
            W[...] = scale * rng.normal(size=W.shape) / np.sqrt(len(W))
            b[...] = rng.normal(size=b.shape) / 4
        self.numba = NumbaBackend(sizes, activations, loss, reduction, np.dtype(dtype), x_scale)
        self.numpy = NumpyBackend(sizes, activations, loss, reduction, np.dtype(float), x_scale)

    def train(
        self,
        backend,
        batch_size,
        *,
        epochs=2,
        momentum=0.0,
        nesterov=False,
        shuffles=True,
        lr=0.01,
        cuts=(),
        threads=1,
        seed=0,
        weights=None,
        **settings,
    ):
        """Train from the start; with `cuts` the batches of an epoch are spread over several calls."""
        float_type = backend.dtype.type
        parameters = self.parameters.astype(float_type)
        rule = "nesterov" if nesterov else "momentum" if momentum else "sgd"
        update = Update(
            **{"rule": rule, "hyperparameters": (momentum,) if momentum else (), "rates": (lr,), **settings}
        )
        state = State(RULES[update.rule].n_states, parameters.size, backend.dtype)
        words = np.random.default_rng(seed).integers(0, 2**32, (epochs, self.n), dtype=np.uint32) if shuffles else None
        weights = None if weights is None else weights.astype(float_type)
        order, losses, steps = np.arange(self.n), np.zeros(epochs), 0
        n_batches = -(-self.n // batch_size)
        Y = self.Y if self.Y.ndim == 1 else self.Y.astype(float_type)
        ends = sorted({min(cut, n_batches) for cut in cuts} | {n_batches})
        spans = list(zip([0, *ends], ends, strict=False))
        calls = [(slice(e, e + 1), *span) for e in range(epochs) for span in spans]
        if not cuts:
            calls = [(slice(0, epochs), 0, n_batches)]
        train = backend.training(parameters, state, batch_size=batch_size, order=order, update=update, threads=threads)
        for which, first, last in calls:
            part = losses[which].copy()
            steps += train(self.X, Y, weights, words[which] if shuffles else None, first, last, part)
            losses[which] = part
        assert state.step == steps
        return dict(
            parameters=parameters,
            velocity=state.buffers if len(state.buffers) else None,
            order=order,
            losses=losses,
            steps=steps,
            running_products=state.running_products,
            skipped=state.skipped,
        )

    def assert_same(self, given, wanted, what):
        if wanted is None:
            assert given is None, what
            return
        rtol, atol = (1e-9, 1e-11) if self.dtype == np.float64 else (2e-3, 1e-4)
        wanted = np.asarray(wanted)
        np.testing.assert_allclose(given, wanted, rtol, atol * max(1.0, np.abs(wanted).max()), err_msg=what)

    def check_passes(self):
        exact = self.parameters.astype(float)
        Y = self.Y if self.Y.ndim == 1 else self.Y.astype(float)
        given = self.numba.predict(self.parameters, self.X)
        assert given.dtype == self.dtype
        self.assert_same(given, self.numpy.predict(exact, self.X), "outputs")
        losses, gradient = self.numba.gradient(self.parameters, self.X, self.Y)
        wanted_losses, wanted = self.numpy.gradient(exact, self.X, Y)
        assert losses.dtype == np.float64 and gradient.dtype == self.dtype
        self.assert_same(losses, wanted_losses, "losses")
        self.assert_same(gradient, wanted, "gradient")
        np.testing.assert_array_equal(self.numba.losses(self.parameters, self.X, self.Y), losses)
        self.assert_same(
            self.numba.input_gradient(self.parameters, self.X, self.Y),
            self.numpy.input_gradient(exact, self.X, Y),
            "input gradient",
        )
        self.assert_same(
            self.numba.gradient_from(self.parameters, self.X, self.dA),
            self.numpy.gradient_from(exact, self.X, self.dA.astype(float)),
            "gradient from dA",
        )
        for backend in (self.numba, self.numpy):
            both = backend.outputs_and_losses(self.parameters, self.X, self.Y)
            np.testing.assert_array_equal(both[0], backend.predict(self.parameters, self.X))
            np.testing.assert_array_equal(both[1], backend.losses(self.parameters, self.X, self.Y))
        for options, exact_options in (
            ({}, {}),
            ({"Y": self.Y}, {"Y": Y}),
            ({"dA": self.dA}, {"dA": self.dA.astype(float)}),
        ):
            given = self.numba.record(self.parameters, self.X, **options)
            wanted = self.numpy.record(exact, self.X, **exact_options)
            for field in wanted._fields:
                one, other = getattr(given, field), getattr(wanted, field)
                assert (one is None) == (other is None), f"{field} of {list(options)}"
                if isinstance(other, list):
                    assert len(one) == len(other)
                    for l, (a, b) in enumerate(zip(one, other, strict=True)):
                        self.assert_same(a, b, f"{field}[{l}]")
                elif other is not None:
                    self.assert_same(one, other, field)

    def check_training(self, batch_size, **options):
        before = [np.copy(a) for a in (self.X, self.Y)]
        given, wanted = (self.train(backend, batch_size, **options) for backend in (self.numba, self.numpy))
        assert given["steps"] == wanted["steps"]
        np.testing.assert_array_equal(given["order"], wanted["order"])
        for what in ("parameters", "velocity", "losses", "running_products", "skipped"):
            self.assert_same(given[what], wanted[what], what)
        for a, b in zip((self.X, self.Y), before, strict=True):
            np.testing.assert_array_equal(a, b)
        return given


@pytest.fixture
def many_threads(monkeypatch):
    """Two threads even where they do not pay."""
    for name, value in NO_LIMITS.items():
        monkeypatch.setattr(limits, name, value)
    monkeypatch.setattr(plans, "MIN_SHARED_W", 0)
    monkeypatch.setattr(engine_threads, "_threads", 2)


# ------------------------------------------------------------------ all sorts of networks

SIZES = [
    (1, 1),
    (1, 3, 1),
    (3, 1, 3),
    (17, 33, 2),
    (2, 2, 1),
    (65, 1),
    (33, 130, 17),
    (130, 65, 33, 3),
    (1, 130, 1),
    (4, 32, 32, 1),
    (16, 16, 16, 16, 16, 16, 4),
    (3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 2),
    (784, 10),
    (64, 30, 10),
    (8, 16, 1),
    (9, 131, 257, 2),
    (300, 257, 2),
]


@each_dtype
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_shapes(sizes, dtype):
    for i, batch_size in enumerate(BATCH_SIZES):
        activations = [HIDDEN[(i + l) % len(HIDDEN)] for l in range(len(sizes) - 2)]
        output, loss = [
            ("identity", "squared_error"),
            ("sigmoid", "binary_cross_entropy"),
            ("softmax", "cross_entropy"),
        ][i % 3]
        n = batch_size + (batch_size + 2) // 3 if batch_size > 1 else 5  # the last batch is short
        case = Case(sizes, (*activations, output), loss, dtype, n=n, reduction=("mean", "sum")[i % 2], seed=i)
        case.check_passes()
        momentum, nesterov = ((0.0, False), (0.9, False), (0.9, True))[i % 3]
        case.check_training(
            batch_size,
            momentum=momentum,
            nesterov=nesterov,
            shuffles=i % 2 == 0,
            lr=0.01 if i % 2 == 0 else 0.01 / batch_size,
        )


@each_dtype
@pytest.mark.parametrize("output", ACTIVATIONS)
def test_every_activation_with_every_loss(output, dtype):
    for i, (hidden, loss) in enumerate(product(HIDDEN, LOSSES)):
        if any(
            getattr(LOSSES[loss], what) and not getattr(ACTIVATIONS[output], what)
            for what in ("within_01", "is_positive")
        ):
            continue
        scale = 0.25 if {hidden, output} & {"exponential", "hard_sigmoid"} else 1.0  # neither huge nor just 0 or 1
        for labels in (False, True)[: 1 + LOSSES[loss].takes_labels]:
            case = Case((5, 9, 4), (hidden, output), loss, dtype, n=21, labels=labels, seed=i, scale=scale)
            case.check_passes()
            for batch_size in (1, 4):
                case.check_training(batch_size, momentum=(0.0, 0.5)[i % 2], nesterov=i % 4 == 1, epochs=1)


@each_dtype
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "identity", "gelu"])
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_small_networks(activation, momentum, nesterov, dtype):
    for i, sizes in enumerate([(1, 1), (2, 1), (2, 2, 1), (3, 4, 2), (2, 3, 3, 1), (4, 5, 3), (7, 7, 1), (1, 16, 2)]):
        for j, batch_size in enumerate((1, 2, 3, 4, 5, 8, 9, 16, 17)):
            output, loss = [(activation, "squared_error"), ("sigmoid", "binary_cross_entropy"), ("tanh", "huber")][
                (i + j) % 3
            ]
            case = Case(
                sizes,
                (*[activation] * (len(sizes) - 2), output),
                loss,
                dtype,
                n=(batch_size, 2 * batch_size + 1)[j % 2],
                reduction=("mean", "sum")[i % 2],
                seed=i,
            )
            for shuffles in (False, True):
                case.check_training(batch_size, momentum=momentum, nesterov=nesterov, shuffles=shuffles, epochs=3)


@each_dtype
@pytest.mark.parametrize("x_dtype", [np.uint8, np.float32, np.float64])
def test_kinds_of_data(x_dtype, dtype):
    for n_in in (1, 3, 16, 33):
        for labels in (False, True):
            case = Case((n_in, 7, 5), ("tanh", "softmax"), "cross_entropy", dtype, n=37, labels=labels, x_dtype=x_dtype)
            case.check_passes()
            for batch_size in (1, 10, 37):
                case.check_training(batch_size)
        case = Case((n_in, 7, 5), ("tanh", "sigmoid"), "squared_error", dtype, n=37, x_dtype=x_dtype)
        for batch_size in (1, 10):
            case.check_training(batch_size)


@each_dtype
@pytest.mark.parametrize("x_dtype", [np.uint8, np.float32, np.float64])
def test_scale_of_the_inputs(x_dtype, dtype):
    for sizes in ((3, 2, 1), (33, 7, 1)):
        case = Case(sizes, ("tanh", "sigmoid"), "squared_error", dtype, n=37, x_dtype=x_dtype, x_scale=0.3)
        case.check_passes()
        for batch_size in (1, 4, 10, 37):
            case.check_training(batch_size)
        case.check_training(10, input_noise=0.5)


@each_dtype
@pytest.mark.parametrize("batch_size", [1, 3, 5])
@pytest.mark.parametrize("sizes", [(2, 2, 1), (5, 20, 2)])
def test_a_loss_that_is_not_finite_stops_before_the_update(sizes, batch_size, dtype):
    for settings in ({}, {"momentum": 0.9}, ADAM):
        case = Case(sizes, ("relu", "identity"), "squared_error", dtype, n=11)
        case.Y[7] = np.inf
        results = [
            case.train(backend, batch_size, epochs=2, shuffles=False, **settings)
            for backend in (case.numba, case.numpy)
        ]
        assert results[0]["steps"] == results[1]["steps"] == 7 // batch_size
        assert not np.isfinite(results[0]["losses"][0]) and results[0]["losses"][1] == 0
        for what in ("parameters", "velocity", "running_products"):
            case.assert_same(results[0][what], results[1][what], what)


# ------------------------------------------------------------------ what training does besides backpropagation

SETTINGS = {
    "dropout": {"dropout": (0.4, 0.25)},
    "dropout of one layer, Adam": {"dropout": (0.0, 0.5), **ADAM},
    "input noise": {"input_noise": 0.3},
    "label smoothing": {"label_smoothing": 0.2},
    "penalties": {"l1": 0.01, "l2": 0.1},
    "penalties, Adam": {"l1": 0.01, "l2": 0.1, **ADAM},
    "clip value": {"clip_value": 0.002, "l2": 0.1},
    "clip norm": {"clip_norm": 0.05, "l1": 0.01},
    "clip both, momentum": {"clip_value": 0.01, "clip_norm": 0.05, "rule": "momentum", "hyperparameters": (0.9,)},
    "max norm": {"max_norm": 0.7},
    "max norm, Adam": {"max_norm": 0.7, **ADAM},
    "schedule": {"schedule": "exponential", "rates": (0.02, 0.9), "rule": "nesterov", "hyperparameters": (0.8,)},
    "rate scale": {"rate_scale": 0.5, **ADAM},
    "decay of weights": DECAY,
    "decay of weights, clip value": {"clip_value": 0.002, **DECAY},
    "decay of weights, penalties": {"l1": 0.01, "l2": 0.1, "max_norm": 0.7, **DECAY},
    "decay of weights, clip norm": {"clip_norm": 0.05, "clip_value": 0.01, **DECAY},
    "scaled inputs": SCALED,
    "scaled inputs, clip value": {"clip_value": 0.002, **SCALED},
    "scaled inputs, penalties": {"l1": 0.01, "l2": 0.1, **SCALED},
    "scaled inputs, clip norm": {"clip_norm": 0.05, "clip_value": 0.01, **SCALED},
    "everything": {
        "dropout": (0.3, 0.1),
        "input_noise": 0.1,
        "label_smoothing": 0.1,
        "l1": 1e-3,
        "l2": 1e-2,
        "clip_value": 0.1,
        "clip_norm": 0.5,
        "max_norm": 2.0,
        "skips": True,
        **ADAM,
    },
}


@each_dtype
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_an_update(many_threads, name, dtype):
    for i, (sizes, batch_size) in enumerate(
        [
            ((2, 3, 2, 1), 4),
            ((8, 16, 5, 1), 1),
            ((4, 32, 32, 3), 32),
            ((9, 200, 20, 3), 17),
            ((20, 17, 140, 5), 300),
            ((30, 192, 130, 2), 40),
        ]
    ):
        output, loss = [("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy")][sizes[-1] > 1]
        case = Case(
            sizes,
            ("tanh", "sigmoid", output),
            loss,
            dtype,
            n=2 * batch_size + batch_size // 2,
            labels=i % 2 == 0 and sizes[-1] > 1,
        )
        weights = np.random.default_rng(i).random(case.n) if i % 3 == 2 else None
        engine_threads._threads = 1 + i % 3
        case.check_training(
            batch_size, threads=1 + i % 3, weights=weights, **{"key": 2**63 + 12345 - i * 2**60, **SETTINGS[name]}
        )


@pytest.mark.parametrize(
    "sizes, output, loss, classes",
    [
        ((4, 5, 3), "softmax", "cross_entropy", 3),
        ((4, 5, 3), "sigmoid", "binary_cross_entropy", 2),
        ((4, 5, 1), "sigmoid", "binary_cross_entropy", 2),
    ],
)
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_smoothing_is_training_on_smoothed_targets(sizes, output, loss, classes, backend):
    case = Case(sizes, ("tanh", output), loss, np.float64)
    smoothed = case.train(getattr(case, backend), 7, label_smoothing=0.3)
    case.Y = 0.7 * case.Y + 0.3 / classes
    plain = case.train(getattr(case, backend), 7)
    np.testing.assert_allclose(smoothed["parameters"], plain["parameters"], 1e-12)
    np.testing.assert_allclose(smoothed["losses"], plain["losses"], 1e-12)


@each_dtype
def test_weights_of_samples(many_threads, dtype):
    """A sample of weight 2 is one that comes twice, one of weight 0 does not count."""
    case = Case((5, 150, 3), ("tanh", "softmax"), "cross_entropy", dtype, n=24, labels=True)
    weights = np.arange(24) % 3
    one = case.train(case.numba, 24, weights=weights, shuffles=False, epochs=3, threads=2)
    case.check_training(7, weights=weights)
    repeated = np.repeat(np.arange(24), weights)
    case.X, case.Y, case.n = case.X[repeated], case.Y[repeated], repeated.size
    other = case.train(case.numba, repeated.size, shuffles=False, epochs=3, lr=0.01 * repeated.size / 24)
    case.assert_same(one["parameters"], other["parameters"], "parameters")


@each_dtype
@pytest.mark.parametrize("sizes, batch_size", [((2, 2, 1), 4), ((8, 16, 1), 1), ((5, 150, 3), 6)])
def test_steps_whose_loss_is_not_finite_are_skipped(many_threads, sizes, batch_size, dtype):
    for settings in ({}, ADAM):
        case = Case(sizes, ("relu", "identity"), "squared_error", dtype, n=24)
        case.Y[7] = np.inf
        given = case.check_training(batch_size, skips=True, epochs=2, threads=2, **settings)
        assert given["skipped"] == 2 and np.isfinite(given["parameters"]).all() and np.isfinite(given["losses"]).all()


@each_dtype
def test_dropout_keeps_the_share_and_the_mean(dtype):
    A = np.ones((400, 300), dtype)
    out, again, other = (np.full_like(A, np.nan) for _ in range(3))
    kernels.dropout(A, 7, 3, 1, 0.3, out)
    kernels.dropout(A, 7, 3, 1, 0.3, again)
    kernels.dropout(A, 7, 4, 1, 0.3, other)
    np.testing.assert_array_equal(out, again)
    assert set(np.unique(out).round(4)) == {0, np.float64(1 / 0.7).round(4).astype(dtype)}
    assert abs((out == 0).mean() - 0.3) < 0.006 and abs((out == 0).mean(axis=0) - 0.3).max() < 0.12
    assert abs(np.mean((out == 0) == (other == 0)) - 0.58) < 0.01  # 0.3**2 + 0.7**2: independent


def test_input_noise_is_normal():
    X = np.zeros((500, 200))
    out = np.full_like(X, np.nan)
    kernels.input_noise(X, 1, 2, 2.0, out)
    z = out / 2
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01 and abs((z**4).mean() - 3) < 0.1
    assert abs((np.abs(z) > 2).mean() - 0.0455) < 0.003
    assert np.abs(np.corrcoef(z[:, :20], rowvar=False) - np.eye(20)).max() < 0.2


# ------------------------------------------------------------------ calls, threads, processes


@pytest.fixture
def short_calls(monkeypatch):
    """Native calls of one block each."""
    monkeypatch.setattr(limits, "INTERRUPTIBLE_WORK", 1)
    return record_launches(monkeypatch)


@each_dtype
@pytest.mark.parametrize("name", [*SETTINGS, "plain"])
def test_a_batch_in_several_calls_has_the_same_bits(many_threads, short_calls, name, dtype, monkeypatch):
    for i, (sizes, batch_size) in enumerate([((2, 3, 2, 1), 600), ((20, 17, 140, 5), 300), ((9, 20, 3), 257)]):
        output, loss = [("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy")][sizes[-1] > 1]
        case = Case(sizes, ("tanh",) * (len(sizes) - 2) + (output,), loss, dtype, n=2 * batch_size + 20, labels=i == 1)
        settings = SETTINGS.get(name, {})
        if "dropout" in settings:
            settings = {**settings, "dropout": (settings["dropout"] * 2)[: len(sizes) - 2]}
        options = dict(
            threads=1 + i % 2, weights=np.random.default_rng(i).random(case.n) if i == 2 else None, key=77, **settings
        )
        del short_calls[:]
        parts = case.train(case.numba, batch_size, **options)
        n_blocks = sum(-(-min(batch_size, case.n - start) // 256) for start in range(0, case.n, batch_size))
        assert len(short_calls) == 2 * n_blocks
        with monkeypatch.context() as patched:
            patched.setattr(limits, "INTERRUPTIBLE_WORK", 10**12)
            whole = case.train(case.numba, batch_size, **options)
        assert parts["steps"] == whole["steps"] and parts["skipped"] == whole["skipped"]
        for what in ("parameters", "velocity", "order", "losses", "running_products"):
            np.testing.assert_array_equal(parts[what], whole[what], what)


@each_dtype
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("bad", [0, 299, 300, 555, 899])
def test_a_loss_that_is_not_finite_in_a_part_of_a_batch(short_calls, bad, skips, dtype):
    """Three batches of 300 samples, each in two calls."""
    case = Case((5, 20, 2), ("relu", "identity"), "squared_error", dtype, n=900)
    case.Y[bad] = np.inf
    given, wanted = (
        case.train(backend, 300, shuffles=False, skips=skips, epochs=2, momentum=0.5)
        for backend in (case.numba, case.numpy)
    )
    assert given["steps"] == wanted["steps"] == (6 if skips else bad // 300) and given["skipped"] == 2 * skips
    for what in ("parameters", "velocity", "losses") if skips else ("parameters", "velocity"):
        case.assert_same(given[what], wanted[what], what)
    assert np.isfinite(given["losses"]).tolist() == [skips, True]  # the second epoch was not begun, or is finite


@each_dtype
def test_an_evaluation_in_several_calls_has_the_same_bits(many_threads, short_calls, dtype, monkeypatch):
    for sizes, labels in (((9, 40, 3), True), ((9, 40, 3), False), ((70, 1), False)):
        output, loss = [("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy")][sizes[-1] > 1]
        case = Case(sizes, ("tanh",) * (len(sizes) - 2) + (output,), loss, dtype, n=1000, labels=labels)
        weights = np.random.default_rng(0).random(1000).astype(dtype)

        def evaluated(case=case, weights=weights):
            backend, arguments = case.numba, (case.parameters, case.X, case.Y)
            return [
                backend.predict(*arguments[:2]),
                backend.losses(*arguments),
                *backend.gradient(*arguments),
                *backend.gradient(*arguments, weights),
                backend.input_gradient(*arguments),
                backend.gradient_from(*arguments[:2], case.dA),
                *backend.outputs_and_losses(*arguments),
            ]

        del short_calls[:]
        parts = evaluated()
        assert len(short_calls) == 7 * 4
        with monkeypatch.context() as patched:
            patched.setattr(limits, "INTERRUPTIBLE_WORK", 10**12)
            whole = evaluated()
        for one, other in zip(parts, whole, strict=True):
            np.testing.assert_array_equal(one, other)
        for bad in (3, 999):
            X = case.X.copy()
            X[bad] = np.nan
            with pytest.raises(ValueError, match=rf"X\[{bad}, 0\] is nan"):
                case.numba.predict(case.parameters, X)


@each_dtype
@pytest.mark.parametrize("batch_size", [1, 4, 17, 300])
@pytest.mark.parametrize("sizes", [(2, 2, 1), (9, 16, 3), (33, 20, 20, 3)])
def test_batches_spread_over_calls_give_the_same_bits(sizes, batch_size, dtype):
    for momentum, shuffles in product((0.0, 0.9), (False, True)):
        case = Case(sizes, ("tanh",) * (len(sizes) - 2) + ("sigmoid",), "squared_error", dtype, n=640)
        whole = case.train(case.numba, batch_size, momentum=momentum, shuffles=shuffles, lr=0.1)
        for cuts in ((1,), (2, 3), (1, 30, 90)):
            parts = case.train(case.numba, batch_size, momentum=momentum, shuffles=shuffles, lr=0.1, cuts=cuts)
            for what in ("parameters", "velocity", "order", "losses"):
                assert np.array_equal(parts[what], whole[what]) or parts[what] is whole[what] is None, (what, cuts)
            assert parts["steps"] == whole["steps"]


@pytest.mark.parametrize("dtype, tiny", [(np.float32, 1e-21), (np.float64, 1e-160)])
def test_subnormal_numbers_are_zero_in_training_and_evaluation_and_only_there(many_threads, dtype, tiny):
    """Squares of such gradients are subnormal; afterwards this thread's control word is the caller's again."""
    smallest = np.finfo(dtype).smallest_normal
    numbers = np.full(3, smallest) * dtype(0.25)

    def check_this_thread():
        assert (numbers * dtype(0.5) > 0).all() and dtype(smallest) * dtype(0.5) > 0
        out = np.empty(3, dtype)
        kernels.relu(numbers, out)
        assert (out > 0).all()

    case = Case((5, 150, 3), ("tanh", "identity"), "squared_error", dtype, n=24)
    given = case.train(
        case.numba, 24, threads=2, rule="rmsprop", hyperparameters=(0.5, 1e-8), weights=np.full(24, tiny)
    )
    assert not ((given["velocity"] > 0) & (given["velocity"] < smallest)).any()
    check_this_thread()
    # half of the rows are another thread's
    X, Y, ones = np.tile(numbers, (24, 1)), np.ones((24, 1), dtype), np.array([1, 1, 1, 0], dtype)
    adder = NumbaBackend((3, 1), ("identity",), "squared_error", "mean", dtype)
    given = {
        "predict": adder.predict(ones, X),
        "outputs": adder.outputs_and_losses(ones, X, Y)[0],
        "record": adder.record(ones, X, Y).A[1],
        "dW": adder.gradient(ones, X, Y)[1][:3],
        "of dA": adder.gradient_from(ones, X, Y)[:3],
        "dX": adder.input_gradient(np.append(numbers, dtype(0)), np.ones_like(X), Y),
    }
    check_this_thread()
    layer = fastbp.network.Layer(ones[:3, None].copy(), ones[3:], "identity")
    given |= {"layer": layer.forward(X), "layer's dA_prev": layer.backward(Y * numbers[0]), "layer's db": layer.db}
    layer.backward(Y)
    given["layer's dW"] = layer.dW
    given["jacobian"] = np.full((24, 4), np.nan, dtype)
    kernels.layer_jacobian(X, Y, 0, given["jacobian"])
    given["jacobian"] = given["jacobian"][:, :3]
    check_this_thread()
    for what, result in given.items():
        assert (result == 0).all(), what


def test_indices_must_be_what_the_kernels_read():
    case = Case((3, 4, 2), ("tanh", "softmax"), "cross_entropy", np.float32, n=6, labels=True)
    options = dict(batch_size=2, update=Update())
    with pytest.raises(TypeError, match="order must be int64.*int32"):
        case.numba.training(case.parameters, State(0, 1, np.float32), order=np.arange(6, dtype=np.int32), **options)
    train = case.numba.training(case.parameters, State(0, 1, np.float32), order=np.arange(6, dtype=np.int64), **options)
    for call in (
        lambda Y: train(case.X, Y, None, None, 0, 3, np.zeros(1)),
        lambda Y: case.numba.losses(case.parameters, case.X, Y),
    ):
        with pytest.raises(TypeError, match="Y must be int64.*int32"):
            call(case.Y.astype(np.int32))


@each_dtype
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_with_columns_of_their_own_put_them_back(many_threads, threads, dtype):
    """The steps before a loss that is not finite are kept, and so are calls by turns with one thread and with many."""
    engine_threads._threads = threads
    for momentum in (0.0, 0.9):
        case = Case((5, 200, 2), ("tanh", "identity"), "squared_error", dtype, n=23)
        plan = workspace.Workspace(case.numba, 4, threads, 1).plan
        assert plan.private_row_stride > 0, "this network no longer shows what it is to show"
        one, many = (
            case.train(case.numba, 4, momentum=momentum, epochs=3, cuts=(2, 5), threads=number)
            for number in (1, threads)
        )
        for what in ("parameters", "velocity", "losses"):
            assert np.array_equal(one[what], many[what]) or one[what] is many[what] is None, what
        case.Y[17] = np.inf
        one, many = (
            case.train(case.numba, 4, momentum=momentum, shuffles=False, threads=number) for number in (1, threads)
        )
        assert many["steps"] == one["steps"] == 4
        for what in ("parameters", "velocity", "losses"):
            assert np.array_equal(one[what], many[what]) or one[what] is many[what] is None, what


@numba.njit
def walk(state, X, most):
    """Return what `dense.next_prefetch_lines` prefetches, call by call: bytes from X on, the stride of the lines."""
    x, places = simd.pointer(X, 0), []
    for _ in range(most):
        at, step, _ = dense.next_prefetch_lines(state.ctypes.data, x)
        if step == 0:
            break
        places.append((simd.distance(x, at) * X.itemsize, step * X.itemsize))
    return places


@each_dtype
@pytest.mark.parametrize("n_in", [5, 16, 32, 33, 200])
def test_the_lines_of_the_next_samples_are_all_asked_for(n_in, dtype):
    rng, X = np.random.default_rng(0), np.zeros((40, n_in), dtype)
    order, size = rng.permutation(40), n_in * X.itemsize
    for first, last, lines in ((0, 40, 1), (3, 9, 4), (39, 40, 100), (7, 7, 2)):
        state = np.zeros(layout.PREFETCH_SIZE, np.int64)
        for place, value in (
            (dense.PREFETCH_X, X.ctypes.data),
            (dense.PREFETCH_ROW_BYTES, size),
            (dense.PREFETCH_ORDER, order.ctypes.data),
            (dense.PREFETCH_FIRST, first),
            (dense.PREFETCH_LAST, last),
            (dense.PREFETCH_LINES, lines),
        ):
            state[place] = value
        wanted = [(order[i] * size + at, 64) for i in range(first, last) for at in range(0, size, 64 * lines)]
        assert walk(state, X, 10_000) == wanted
        assert walk(state, X, 10_000) == []


@each_dtype
@pytest.mark.parametrize("x_dtype, n", [(np.float32, 700), (np.float64, 350), (np.uint8, 2800)])
def test_samples_that_do_not_stay_in_the_cache(many_threads, x_dtype, n, dtype):
    """Of the next batch they are asked for while this one's gradient is computed."""
    for sizes, batch_size in (((400, 20, 3), 10), ((400, 130, 3), 64)):
        case = Case(sizes, ("tanh", "sigmoid"), "squared_error", dtype, n=n, x_dtype=x_dtype, x_scale=0.3)
        assert case.X.nbytes > dense.PREFETCH_MIN_BYTES, "this data no longer shows what it is to show"
        for settings in ({"momentum": 0.9}, ADAM):
            case.check_training(batch_size, **settings)
            one, cut, many = (
                case.train(case.numba, batch_size, **options, **settings)
                for options in ({}, {"cuts": (1, 3)}, {"threads": 2})
            )
            for what in ("parameters", "velocity", "losses"):
                np.testing.assert_array_equal(cut[what], one[what])
                np.testing.assert_array_equal(many[what], one[what])


@each_dtype
@pytest.mark.parametrize("n", [256 + 32, 3 * 256 + 100, 2 * 256 + 1])
@pytest.mark.parametrize("sizes", [(20, 64, 64, 3), (10, 200, 20, 3)])
def test_threads_meet_between_blocks(many_threads, sizes, n, dtype):
    """The last, lower block is split at other rows than those before it."""
    case = Case(sizes, ("tanh", "gelu", "softmax"), "cross_entropy", dtype, n=n, labels=True)
    whole = case.numba.predict(case.parameters, case.X)
    alone = np.concatenate([case.numba.predict(case.parameters, case.X[i : i + 1]) for i in range(n)])
    for threads in (2, 3):
        engine_threads._threads = threads
        for _ in range(100):
            np.testing.assert_array_equal(case.numba.predict(case.parameters, case.X), alone)
            losses, gradient = case.numba.gradient(case.parameters, case.X, case.Y)
            np.testing.assert_array_equal(case.numba.losses(case.parameters, case.X, case.Y), losses)
    np.testing.assert_array_equal(whole, alone)


@each_dtype
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("n_in", [20, 128])
def test_inputs_that_are_not_finite_are_found_while_predicting(many_threads, n_in, scale, dtype):
    """In any row and column, of samples read where they are (20 inputs) or gathered; the squares may overflow."""
    n = 600
    net = fastbp.Network([n_in, 140, 3], ["tanh", "identity"], dtype=dtype, seed=0, input_scale=scale)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, n_in)).astype(dtype)
    wanted = net.with_backend("numpy").predict(X)
    for threads in (1, 3):
        engine_threads._threads = threads
        for r, j, value in [(0, 0, np.nan), (n - 1, n_in - 1, -np.inf), (257, 16, np.inf), (300, 15, np.nan)]:
            bad = X.copy()
            bad[r, j] = value
            with pytest.raises(ValueError, match=rf"X\[{r}, {j}\] is {value}"):
                net.predict(bad)
        np.testing.assert_allclose(net.predict(X), wanted, rtol=1e-3, atol=1e-5)  # the flag was taken back
        large = X.copy()
        large[5, 3] = np.sqrt(np.finfo(dtype).max) * 4
        assert np.isfinite(net.predict(large)).all()


def run_together(*functions):
    """Results of functions that run in threads side by side."""
    results, errors, start = [None] * len(functions), [], threading.Barrier(len(functions))

    def work(i):
        try:
            start.wait()
            results[i] = functions[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def test_two_python_threads_with_two_networks(many_threads):
    cases = [
        Case((30, 40, 5), ("tanh", "softmax"), "cross_entropy", np.float32, n=300, labels=True, seed=1),
        Case((30, 24, 24, 5), ("gelu", "relu", "identity"), "squared_error", np.float32, n=300, seed=2),
    ]

    def work(case):
        def function():
            hashes = []
            for seed in range(6):
                trained = case.train(case.numba, 32, momentum=0.9, epochs=3, threads=2, seed=seed)["parameters"]
                hashes += [
                    trained.tobytes(),
                    case.numba.predict(trained, case.X).tobytes(),
                    case.numba.gradient(trained, case.X, case.Y)[1].tobytes(),
                ]
            return hashes

        return function

    alone = [work(case)() for case in cases]
    for _ in range(5):
        assert run_together(*map(work, cases)) == alone


def test_python_threads_share_one_network(many_threads):
    case = Case((20, 30, 30, 4), ("sigmoid", "tanh", "softmax"), "cross_entropy", np.float64, n=70)
    inputs = [np.ascontiguousarray(case.X * scale) for scale in (1.0, -2.0, 0.5)]

    def work(X):
        def function():
            results = []
            for _ in range(150):
                record = case.numba.record(case.parameters, X, Y=case.Y)
                losses, gradient = case.numba.gradient(case.parameters, X, case.Y)
                arrays = [
                    case.numba.predict(case.parameters, X),
                    losses,
                    gradient,
                    record.dX,
                    *record.Z,
                    *record.A,
                    *record.delta,
                ]
                results.append(sha256(b"".join(a.tobytes() for a in arrays)).hexdigest())
            return set(results)

        return function

    alone = [work(X)() for X in inputs]
    assert [len(results) for results in alone] == [1, 1, 1]
    assert run_together(*map(work, inputs)) == alone


def test_threads_sleep_and_are_woken(many_threads, monkeypatch):
    """Jobs in quick succession, and after pauses in which the other threads fall asleep."""
    case = Case((20, 70, 70, 4), ("sigmoid", "tanh", "identity"), "squared_error", np.float32, n=90)
    monkeypatch.setattr(engine_threads, "_threads", 1)
    alone = case.numba.predict(case.parameters, case.X)
    monkeypatch.setattr(engine_threads, "_threads", 3)
    slept = 0
    for i in range(60):
        np.testing.assert_array_equal(case.numba.predict(case.parameters, case.X), alone)
        slots = engine_threads._pool._slots[:2]
        assert len(slots) == 2 and layout.POSTED not in [slot[layout.STATE] for slot in slots]
        if i % 10 == 9:
            deadline = time.monotonic() + 60
            while any(slot[layout.STATE] != layout.SLEEPING for slot in slots) and time.monotonic() < deadline:
                time.sleep(0.001)
            slept += all(slot[layout.STATE] == layout.SLEEPING for slot in slots)
    assert slept == 6


def test_threads_that_cannot_be_started_are_done_without(many_threads, monkeypatch):
    case = Case((20, 70, 70, 4), ("sigmoid", "tanh", "identity"), "squared_error", np.float32, n=90)
    wanted = case.numba.predict(case.parameters, case.X)
    monkeypatch.setattr(engine_threads, "_pool", engine_threads.ThreadPool())

    def cannot_start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot_start)
        for _ in range(3):
            np.testing.assert_array_equal(case.numba.predict(case.parameters, case.X), wanted)
            assert engine_threads._pool._slots == []
    case.numba._autotuners.clear()  # the first of a trial is by several threads
    np.testing.assert_array_equal(case.numba.predict(case.parameters, case.X), wanted)
    assert len(engine_threads._pool._slots) == 1


FORK = """
import hashlib, os, signal
import numpy as np
import fastbp
from fastbp import kernels
from fastbp.engine import limits, threads
limits.MIN_ROWS_PER_THREAD, limits.MIN_WORK_PER_THREAD, limits.LARGE_WORK, limits.MIN_PARALLEL_WORK = 1, 1, 0, 0
X = np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32)
Y = np.arange(200) % 4

def trained(net=None):
    net = net or fastbp.Network([20, 30, 4], ["tanh", "softmax"], loss="cross_entropy", seed=0)
    fastbp.Trainer(net, fastbp.SGD(0.1, momentum=0.9), batch_size=50, seed=0, threads=2).fit(X, Y, epochs=5)
    return hashlib.sha256(net.parameters.tobytes() + net.predict(X).tobytes()).hexdigest()

net = fastbp.Network([20, 30, 4], ["tanh", "softmax"], loss="cross_entropy", seed=0)
expected = trained()
for is_busy in (False, True):
    if is_busy:
        threads._pool.lock.acquire()            # as if another thread were in the middle of training
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if trained() == expected and trained(net) == expected else 3)
    if is_busy:
        threads._pool.lock.release()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"the child ended with {code}"
    net = fastbp.Network([20, 30, 4], ["tanh", "softmax"], loss="cross_entropy", seed=0)
    assert trained() == expected
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_trains():
    result = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and result.stdout == "done\n", result.stderr


def test_pickles():
    case = Case((6, 5, 3), ("tanh", "softmax"), "cross_entropy", np.float32)
    outputs = case.numba.predict(case.parameters, case.X)
    backend = pickle.loads(pickle.dumps(case.numba))
    np.testing.assert_array_equal(backend.predict(case.parameters, case.X), outputs)
    net = fastbp.Network([6, 5, 3], ["relu", "identity"], seed=3)
    outputs = net.predict(case.X)
    copy = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(copy.predict(case.X), outputs)
    copy.weights[0][...] = 0  # the views still lie in the buffer of the copy
    assert (copy.parameters[: 6 * 5] == 0).all() and (net.parameters[: 6 * 5] != 0).any()
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(copy.predict(case.X), outputs)
    trainer = fastbp.Trainer(copy, fastbp.SGD(0.1, momentum=0.5), batch_size=4, seed=0)
    trainer.fit(case.X, case.dA, epochs=1)
    assert np.isfinite(copy.parameters).all()


def test_records_leave_no_workspace_behind():
    backend = NumbaBackend((3, 4, 2), ("tanh", "sigmoid"), "squared_error", "mean", np.dtype(np.float64))
    parameters = np.zeros(backend.n_parameters)
    for n in (5, 6, 300):
        backend.record(parameters, np.ones((n, 3)), Y=np.ones((n, 2)))
    assert not any(backend._free.values())
    backend.predict(parameters, np.ones((5, 3)))
    assert [len(kept) for kept in backend._free.values() if kept] == [1]


def test_a_rule_at_the_addresses_of_another_is_not_taken_for_it():
    """As where the settings of a rule that nobody needs any more are freed, and those of the next lie there."""
    config = (3, 4, 2), ("tanh", "sigmoid"), "squared_error", "mean", np.dtype(np.float64)
    updates = [Update(rule=rule, hyperparameters=(0.9,), rates=(0.1,), l2=0.01) for rule in ("momentum", "nesterov")]
    X, Y, order, ends = np.eye(8, 3), np.ones((8, 2)), np.arange(8), []
    for shared in (True, False):
        backend, parameters = NumbaBackend(*config), np.linspace(-1, 1, 26)
        state = State(1, parameters.size, parameters.dtype)
        kept = [engine_backend._Rules(update) for update in updates]
        if shared:
            kept[1].arrays = kept[0].arrays
            kept[1].args.update({name: kept[0].args[name] for name in ("hyperparameters", "rates")})
        for rules in kept:
            backend._rules = rules
            train = backend.training(parameters, state, batch_size=4, order=order, update=rules.update)
            train(X, Y, None, None, 0, 2, np.zeros(3))
        ends.append(parameters.tolist())
    assert ends[0] == ends[1]
