"""Models in compiled functions: the bits of `Trainer.step` and `Network.predict`, what is refused, and threads."""

import copy
import pickle
import threading
from functools import cache

import numba
import numpy as np
import pytest
from fastbp.kernels import methods
from fastbp.kernels.tables import RULES
from numba import njit, prange, typed
from numba.core.errors import TypingError
from numba.core.runtime import _nrt_python, rtsys
from shared import HIDDEN, each_dtype, exhaustive, is_admissible
from test_canaries import Canaries

import fastbp
import fastbp.jit as jit
from fastbp import schedules
from fastbp.losses import LOSSES

SIZES = [5, 7, 3]
OPTIMIZERS = {
    "sgd": fastbp.SGD(0.1),
    "momentum": fastbp.SGD(0.1, momentum=0.9),
    "nesterov": fastbp.SGD(0.1, momentum=0.9, nesterov=True),
    "classical_momentum": fastbp.ClassicalSGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": fastbp.RMSprop(1e-2),
    "adagrad": fastbp.Adagrad(1e-2),
    "adam": fastbp.Adam(1e-2),
    "adam_eps_hat": fastbp.AdamEpsHat(1e-2),
    "adamw": fastbp.AdamW(1e-2),
    "adamw_weights": fastbp.AdamW(1e-2, weight_decay=3.0, decay_biases=False),
    "adamw_scaled": fastbp.AdamW(1e-2, weight_decay=0.3, input_scale_lr=8.0),
    "nadam": fastbp.Nadam(1e-2),
    "lion": fastbp.Lion(1e-2),
    "rprop": fastbp.Rprop(),
}


@njit(nogil=True)
def train(m, X, Y, losses):
    for i in range(len(losses)):
        losses[i] = m.train_step(X, Y)


@njit
def predict(m, x, out):
    m.predict(x, out)


@njit
def predict1(m, x):
    return m.predict1(x)


def samples(n, sizes=SIZES, dtype=np.float64, loss="squared_error", seed=0):
    """Inputs, and targets that the loss takes: within 0 and 1, and rows of class probabilities."""
    rng = np.random.default_rng([seed, n])
    X, Y = rng.normal(size=(n, sizes[0])), rng.uniform(0.1, 0.9, size=(n, sizes[-1]))
    if loss in ("cross_entropy", "focal"):
        Y = np.eye(sizes[-1])[Y.argmax(axis=1)]
    return X.astype(dtype), Y.astype(dtype)


def pair(dtype, optimizer=None, sizes=SIZES, activations=("tanh", "identity"), loss="squared_error", **settings):
    """A trainer, and a model of another one that is its equal."""
    reduction, scale = settings.pop("reduction", "mean"), settings.pop("input_scale", 1.0)
    nets = [
        fastbp.Network(
            sizes, activations=list(activations), loss=loss, dtype=dtype, seed=1, reduction=reduction, input_scale=scale
        )
        for _ in range(2)
    ]
    trainers = [fastbp.Trainer(net, optimizer or fastbp.SGD(0.1), seed=3, **settings) for net in nets]
    return trainers[0], jit.model(trainers[1])


# Batches of one sample, of few and of many lanes, of a block and of several blocks.
BATCHES = (1, 1, 3, 6, 13, 64, 150, 2, 1)


def assert_same_steps(trainer, m, loss="squared_error", batches=BATCHES):
    """Assert that both learn the same, to the bit."""
    net = trainer.net
    for i, n in enumerate(batches):
        X, Y = samples(n, net.sizes, net.dtype, loss, seed=i)
        expected, losses = [trainer.step(X, Y) for _ in range(2)], np.empty(2)
        train(m, X, Y, losses)
        np.testing.assert_array_equal(losses, expected)
        np.testing.assert_array_equal(m.parameters, net.parameters)


# ------------------------------------------------------------------ the bits of Trainer.step


def test_every_rule_is_tested():
    assert OPTIMIZERS.keys() == RULES.keys()


@each_dtype
@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_steps_of_every_rule(rule, dtype):
    assert_same_steps(*pair(dtype, OPTIMIZERS[rule]))


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_steps_of_networks_for_lanes(rule):
    assert_same_steps(*pair(np.float32, OPTIMIZERS[rule], sizes=[3, 4, 1], activations=("sigmoid", "sigmoid")))


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
def test_steps_of_networks_with_large_blocks(rule):
    trainer, m = pair(np.float32, OPTIMIZERS[rule], sizes=[40, 300, 20])
    assert_same_steps(trainer, m, batches=(1, 4, 200, 300))


SCHEDULES = {
    "step": schedules.Step(0.1, every=3),
    "exponential": schedules.Exponential(0.1, gamma=0.9),
    "inverse_scaling": schedules.InverseScaling(0.1),
    "cosine": schedules.Cosine(0.1, period=7),
    "one_cycle": schedules.OneCycle(0.1, steps=17),
    "piecewise": schedules.Piecewise([4], [0.1, 0.05]),
    "cos_log": schedules.CosLog4(0.1, steps=17),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", [fastbp.SGD, fastbp.Adam])
def test_steps_of_every_schedule(optimizer, schedule):
    assert_same_steps(*pair(np.float64, optimizer(lr=SCHEDULES[schedule])))


SETTINGS = {
    "penalties": {"l1": 0.01, "l2": 0.02},
    "dropout": {"dropout": 0.3},
    "noise": {"input_noise": 0.2},
    "clip_norm": {"clip_norm": 0.05},
    "clip_value": {"clip_value": 0.02},
    "max_norm": {"max_norm": 0.4},
    "all": {"l2": 0.01, "dropout": 0.2, "clip_norm": 0.1, "max_norm": 0.5, "input_noise": 0.1},
    "sum": {"reduction": "sum"},
    "scale": {"input_scale": 0.3},
    "skip": {"on_nonfinite": "skip"},
}


@each_dtype
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_steps_of_every_setting(rule, settings, dtype):
    assert_same_steps(*pair(dtype, OPTIMIZERS[rule], **SETTINGS[settings]))


@exhaustive
@each_dtype
@pytest.mark.parametrize(
    "activation, loss",
    [(a, loss) for a in [*HIDDEN, "softmax"] for loss in LOSSES if is_admissible(a, loss) and loss != "hinge"],
)
def test_steps_of_every_loss(activation, loss, dtype):
    hidden = "gelu" if activation in ("softmax", "exponential") else activation
    trainer, m = pair(dtype, activations=(hidden, activation), loss=loss, optimizer=fastbp.SGD(1e-3))
    assert_same_steps(trainer, m, loss, batches=(1, 3, 70))


def test_steps_with_label_smoothing():
    settings = {"activations": ("relu", "softmax"), "loss": "cross_entropy", "label_smoothing": 0.1}
    assert_same_steps(*pair(np.float32, **settings), loss="cross_entropy")


def test_a_model_goes_on_where_the_trainer_is():
    trainer, _ = pair(np.float64, fastbp.Adam(lr=schedules.Exponential(0.01, 0.9)), dropout=0.1)
    other = copy.deepcopy(trainer)
    X, Y = samples(20)
    for t in (trainer, other):
        t.fit(X, Y, epochs=3)
        t.lr_scale = 0.5
    assert_same_steps(trainer, jit.model(other))


def test_learning_shows_in_the_network_and_the_networks_in_the_model():
    net = fastbp.Network(SIZES, seed=0)
    m = jit.model(net, fastbp.SGD(0.1))
    assert m.parameters is net.parameters
    X, Y = samples(4, dtype=np.float32)
    before = net.parameters.copy()
    train(m, X, Y, np.empty(3))
    assert np.any(net.parameters != before)
    net.parameters[:] = before
    assert m.loss(X, Y) == pytest.approx(net.loss(X, Y), rel=1e-6)


# ------------------------------------------------------------------ the learning rate


def test_the_learning_rate_can_be_set():
    trainer, m = pair(np.float64, fastbp.SGD(0.1))

    @njit
    def halve(m):
        m.lr = m.lr / 2
        return m.lr

    assert m.lr == 0.1 and halve(m) == m.lr == 0.05
    trainer.lr_scale = 0.5
    assert_same_steps(trainer, m)
    m.lr = 0.2
    trainer.lr_scale = 2.0
    assert_same_steps(trainer, m)


@pytest.mark.parametrize("rule", ["sgd", "momentum", "rmsprop"])
def test_the_learning_rate_changes_between_samples_and_batches(rule):
    """Steps of one sample keep what they computed from it."""
    trainer, m = pair(np.float64, OPTIMIZERS[rule])
    lr = m.lr
    for scale, n in [(1, 1), (0.5, 20), (1, 1), (0.5, 1), (1, 20), (0.5, 1)]:
        trainer.lr_scale, m.lr = scale, scale * lr
        assert_same_steps(trainer, m, batches=(n,))


def test_a_learning_rate_that_is_a_function_of_python_is_refused():
    for backend in ("numba", "numpy"):
        net = fastbp.Network(SIZES, seed=0, backend=backend)
        for arguments in ((net, fastbp.SGD(lambda step: 0.1)), (fastbp.Trainer(net, fastbp.SGD(lambda step: 0.1)),)):
            with pytest.raises(TypeError, match="lr is a function of Python, which compiled code cannot call"):
                jit.model(*arguments)


def test_the_learning_rate_is_a_factor_of_a_schedule():
    trainer, m = pair(np.float64, fastbp.Adam(lr=schedules.Cosine(0.1, period=7)))
    assert m.lr == 1
    m.lr = trainer.lr_scale = 0.25
    assert_same_steps(trainer, m)


@pytest.mark.parametrize("value", [-1, np.nan, "0.1"])
def test_a_wrong_learning_rate_is_refused(value):
    _, m = pair(np.float64)
    with pytest.raises((ValueError, TypeError), match="lr must be"):
        m.lr = value


# ------------------------------------------------------------------ predictions


@each_dtype
@pytest.mark.parametrize("activation", [*HIDDEN, "softmax"])
def test_predictions_have_the_bits_of_the_network(activation, dtype):
    hidden = activation if activation != "softmax" else "silu"
    for sizes in ([1, 1, 1], [3, 17, 2], [7, 31, 1], [33, 64, 130, 9]):
        if activation == "softmax" and sizes[-1] == 1:
            continue
        activations = [hidden] * (len(sizes) - 2) + [activation]
        net = fastbp.Network(sizes, activations=activations, dtype=dtype, seed=0, input_scale=0.5)
        m = jit.model(net)
        for n in (1, 2, 17, 100):
            X, _ = samples(n, sizes, dtype)
            expected, out = net.predict(X), np.full((n, sizes[-1]), np.nan, dtype)
            predict(m, X, out)
            np.testing.assert_array_equal(out, expected)
        x, out = X[7], np.full(sizes[-1], np.nan, dtype)
        predict(m, x, out)
        np.testing.assert_array_equal(out, net.predict(x))
        if sizes[-1] == 1:
            assert predict1(m, x) == out[0] == m.predict1(x)


def test_a_row_of_a_matrix_and_a_part_of_a_vector_are_samples():
    net = fastbp.Network(SIZES, seed=0)
    m, (X, _), out = jit.model(net), samples(4, dtype=np.float32), np.empty((4, 3), np.float32)

    @njit
    def rows(m, X, flat, out):
        m.predict(X[1], out[0])
        m.predict(flat[5:10], out[1])
        m.predict(X[2:4], out[2:4])

    rows(m, X, X.ravel(), out)
    np.testing.assert_array_equal(out, net.predict(X)[[1, 1, 2, 3]])


# ------------------------------------------------------------------ gradients


@njit
def gradients(m, X, Y, g, dx):
    loss = m.gradient(X, Y, g)
    m.input_gradient(X, Y, dx)
    return loss


@each_dtype
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("n", [1, 5, 64, 150])
def test_gradients_are_those_of_the_network(n, reduction, dtype):
    trainer, m = pair(dtype, reduction=reduction, dropout=0.5, input_scale=0.5)  # a gradient is without dropout
    X, Y = samples(n, dtype=dtype)
    g, dx = np.full(m.parameters.size, np.nan, dtype), np.full(X.shape, np.nan, dtype)
    loss = gradients(m, X, Y, g, dx)
    expected = trainer.net.gradients(X, Y)
    assert loss == pytest.approx(expected.loss, rel=1e-12)
    np.testing.assert_array_equal(g, flat(expected))
    np.testing.assert_array_equal(dx, trainer.net.input_gradient(X, Y))
    assert m.loss(X, Y) == loss


def flat(gradients):
    """The gradient as one array."""
    arrays = [part.ravel() for pair in zip(gradients.weights, gradients.biases, strict=True) for part in pair]
    return np.concatenate(arrays)


@each_dtype
def test_backpropagation_of_a_gradient_adds_up(dtype):
    trainer, m = pair(dtype, input_scale=2.0)
    net = trainer.net

    @njit
    def backpropagate(m, X, dout, dx):
        m.backpropagate(X, dout, dx)
        m.backpropagate(X[0], dout[0])
        m.backpropagate(x=X, dout=dout, dx=None)

    X, dout = samples(70, dtype=dtype)
    dx = np.full(X.shape, np.nan, dtype)
    backpropagate(m, X, dout, dx)
    expected = 2 * flat(net.backpropagate(X, dout)) + flat(net.backpropagate(X[0], dout[0]))
    np.testing.assert_allclose(m.accumulated, expected, rtol=1e-4 if dtype == np.float32 else 1e-12, atol=1e-4)
    J = np.empty((3, 5), dtype)
    m.jacobian(X[0], J)
    np.testing.assert_allclose(dx[0], dout[0] @ J, rtol=1e-4)


@pytest.mark.parametrize("activation", HIDDEN)
def test_the_jacobian_agrees_with_finite_differences(activation):
    net = fastbp.Network([4, 6, 90], activations=[activation, "identity"], dtype="float64", seed=0, input_scale=0.7)
    m, x, J, h = jit.model(net), np.array([0.3, -0.4, 0.8, 1.1]), np.full((90, 4), np.nan), 1e-6
    njit(lambda m, x, J: m.jacobian(x, J))(m, x, J)
    steps = h * np.eye(4)
    differences = (net.predict(x + steps) - net.predict(x - steps)).T / (2 * h)
    np.testing.assert_allclose(J, differences, rtol=1e-6, atol=1e-8)


# ------------------------------------------------------------------ updates by gradients


@njit
def step_by_gradient(m, X, Y, g):
    loss = m.gradient(X, Y, g)
    m.apply_gradient(g)
    return loss


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("rule", ["nesterov", "adamw", pytest.param("rprop", marks=exhaustive)])
def test_a_gradient_is_applied_as_by_a_step(rule, settings):
    """With the kernel for blocks, whose gradient is the same; but for dropout and noise, which only steps have."""
    settings = {k: v for k, v in SETTINGS[settings].items() if k not in ("dropout", "input_noise")}
    trainer, m = pair(np.float64, OPTIMIZERS[rule], **settings)
    for n in (20, 20, 150):
        X, Y = samples(n)
        assert step_by_gradient(m, X, Y, np.empty_like(m.parameters)) == pytest.approx(trainer.step(X, Y), rel=1e-12)
        np.testing.assert_array_equal(m.parameters, trainer.net.parameters)


@each_dtype
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_gradients_are_reduced_over_all_samples(reduction, dtype):
    trainer, m = pair(dtype, fastbp.SGD(0.1, momentum=0.9), reduction=reduction)

    @njit
    def step(m, X, Y):
        total = 0.0
        for i in range(0, 20, 4):
            total += m.accumulate(X[i : i + 4], Y[i : i + 4])
        total += m.accumulate(X[20], Y[20])
        m.apply_accumulated()
        return total

    X, Y = samples(21, dtype=dtype)
    for _ in range(3):
        before = trainer.step(X, Y)
        total = step(m, X, Y)
        np.testing.assert_allclose(m.parameters, trainer.net.parameters, rtol=2e-5 if dtype == np.float32 else 1e-12)
        assert reduction == "mean" or total == pytest.approx(before, rel=1e-6)
        assert not m.accumulated.any()


# ------------------------------------------------------------------ class labels, and numbers for targets


@each_dtype
def test_class_labels(dtype):
    settings = {"activations": ("tanh", "softmax"), "loss": "cross_entropy"}
    trainer, m = pair(dtype, **settings)

    @njit
    def step(m, x, label):
        return m.train_step(x, label)

    for n in (1, 5, 64, 200):
        X, _ = samples(n, dtype=dtype)
        labels = np.arange(n) % 3
        assert trainer.step(X, labels) == step(m, X, labels)
        assert trainer.step(X[:1], labels[:1]) == step(m, X[0], labels[0])
        np.testing.assert_array_equal(m.parameters, trainer.net.parameters)


def test_one_number_for_one_output():
    trainer, m = pair(np.float32, sizes=[5, 7, 1])
    X, _ = samples(1, dtype=np.float32)
    expected = trainer.step(X, np.array([[0.25]]))
    assert njit(lambda m, x: m.train_step(x, 0.25))(m, X[0]) == expected
    assert trainer.step(X, np.array([[0.5]])) == m.train_step(X[0], 0.5)
    np.testing.assert_array_equal(m.parameters, trainer.net.parameters)


# ------------------------------------------------------------------ losses that are not finite


@pytest.mark.parametrize("n", [1, 3, 20, 150])
@pytest.mark.parametrize("on_nonfinite", ["stop", "skip", "raise"])
def test_nothing_is_updated_where_the_loss_is_not_finite(on_nonfinite, n):
    trainer, m = pair(np.float64, fastbp.Adam(lr=schedules.Exponential(0.01, 0.9)), on_nonfinite=on_nonfinite)
    X, Y = samples(n)
    trainer.step(X, Y)
    m.train_step(X, Y)
    before, bad = m.parameters.copy(), Y.copy()
    bad[-1, -1] = 1e200  # whose square is not finite
    if on_nonfinite == "raise":
        with pytest.raises(FloatingPointError, match="train_step: the loss is not finite: no update was made"):
            train(m, X, bad, np.empty(1))
    else:
        losses = np.zeros(1)
        train(m, X, bad, losses)
        assert not np.isfinite(losses[0])
        with pytest.warns(RuntimeWarning):
            trainer.step(X, bad)
    np.testing.assert_array_equal(m.parameters, before)
    assert m.train_step(X, Y) == trainer.step(X, Y)
    np.testing.assert_array_equal(m.parameters, trainer.net.parameters)
    assert not np.isfinite(m.accumulate(X, bad)) and not m.accumulated.any()


# ------------------------------------------------------------------ what is refused

X, Y = samples(4)
x, y, G, J = X[0].copy(), Y[0].copy(), np.zeros(5 * 7 + 7 + 7 * 3 + 3), np.zeros((3, 5))
READ_ONLY = np.zeros(3)
READ_ONLY.flags.writeable = False
REFUSED = {  # what the arguments are, when a function is compiled
    "dtype": ("predict", (x.astype(np.float32), y), "x must be float64, as the model is, got array"),
    "integers": ("predict", (np.arange(5), y), "x must be float64"),
    "dtype of out": ("predict", (x, y.astype(np.float32)), "out must be float64"),
    "layout": ("predict", (np.zeros(10)[::2], y), "x must be C-contiguous, got .*; numpy.ascontiguousarray makes it"),
    "column": ("predict", (np.zeros((5, 2))[:, 0], y), "x must be C-contiguous"),
    "transposed": ("predict", (np.zeros((5, 4)).T, Y), "x must be C-contiguous"),
    "dimensions": ("predict", (np.zeros((2, 2, 5)), Y), "x must have 1 or 2 dimensions, got array"),
    "one sample, rows": ("predict", (x, Y), "out must have 1 dimension, as x, got array"),
    "rows, one sample": ("loss", (X, y), "y must have 2 dimensions, as x, or be class labels of int64"),
    "rows, a number": ("loss", (X, 0.5), "y must have 2 dimensions, as x, or be class labels, got a number"),
    "read-only": ("predict", (x, READ_ONLY), "out is written to, but the array is read-only"),
    "number": ("predict", (0.5, y), "x must be an array, got a number"),
    "nothing": ("loss", (x, None), "y must be an array, got nothing"),
    "other": ("loss", ("x", y), "x must be an array, got "),
    "rows of one": ("predict1", (X,), "x must have 1 dimension, got array"),
    "rows of a Jacobian": ("jacobian", (x, G), "J must have 2 dimensions, got array"),
    "gradient": ("gradient", (X, Y, np.zeros((73, 1))), "g must have 1 dimension, got array"),
    "gradient of labels": ("gradient", (X, np.zeros(4, np.int64), np.zeros((73, 1))), "g must have 1 dimension, got"),
    "input gradient": ("input_gradient", (X, Y, x), "dx must have 2 dimensions, as x, got array"),
    "labels": ("loss", (X, np.zeros(4, np.int32)), "y must have 2 dimensions, as x, or be class labels of int64"),
}
WRONG = {  # lengths and values
    "inputs": (
        "predict",
        (np.zeros(4), y),
        ValueError,
        "x must have as many numbers, or columns, as the network has in",
    ),
    "columns": ("predict", (np.zeros((4, 6)), Y), ValueError, "x must have as many numbers, or columns"),
    "outputs": ("predict", (x, np.zeros(4)), ValueError, "out must have as many rows as x, of as many numbers as the"),
    "rows": ("predict", (X, Y[:3]), ValueError, "out must have as many rows as x"),
    "targets": ("train_step", (x, np.zeros(2)), ValueError, "y must have as many rows as x, of as many numbers as the"),
    "rows of targets": ("train_step", (X, Y[:3]), ValueError, "y must have as many rows as x"),
    "no samples": ("train_step", (X[:0], Y[:0]), ValueError, "there must be one sample or more"),
    "no samples to rate": ("loss", (X[:0], Y[:0]), ValueError, "there must be one sample or more"),
    "gradient": ("gradient", (X, Y, G[1:]), ValueError, "g must have as many numbers as the network has parameters"),
    "applied": ("apply_gradient", (G[1:],), ValueError, "g must have as many numbers as the network has parameters"),
    "input gradient": ("input_gradient", (X, Y, X[:3].copy()), ValueError, "dx must have the shape of x"),
    "own gradient": ("backpropagate", (X, Y[:3]), ValueError, "dout must have as many rows as x"),
    "own input gradient": ("backpropagate", (X, Y, np.zeros((4, 6))), ValueError, "dx must have the shape of x"),
    "Jacobian": ("jacobian", (x, np.zeros((5, 3))), ValueError, r"J must have the shape \(outputs, inputs\)"),
    "many outputs": ("predict1", (x,), ValueError, "the network must have one output"),
    "labels": ("loss", (X, np.zeros(4, np.int64)), TypeError, "y must be numbers of the model's dtype: only"),
    "a label": ("loss", (x, 1), TypeError, "y must be numbers of the model's dtype: only"),
    "a number": ("loss", (x, 0.5), ValueError, "y must have as many rows as x, of as many numbers as the network"),
}


@cache
def caller(name, n_arguments):
    names = ", ".join(f"a{i}" for i in range(n_arguments))
    return njit(eval(f"lambda m, {names}: m.{name}({names})"))


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("is_compiled", [False, True])
def test_refused_arguments_are_named(is_compiled, case):
    name, arguments, message = REFUSED[case]
    _, m = pair(np.float64)
    function = caller(name, len(arguments)) if is_compiled else getattr(jit, name)
    with pytest.raises(TypingError if is_compiled else TypeError, match=f"{name}: {message}"):
        function(m, *arguments)


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("backend", ["compiled", "python", "numpy"])
def test_wrong_lengths_and_values_raise_and_change_nothing(backend, case):
    name, arguments, kind, message = WRONG[case]
    net = fastbp.Network(SIZES, dtype="float64", seed=0, backend="numpy" if backend == "numpy" else "numba")
    m = jit.model(net, fastbp.SGD(0.1))
    canaries = Canaries()
    given = [canaries.put(a) if isinstance(a, np.ndarray) else a for a in arguments]
    parameters = net.parameters.copy()
    with pytest.raises(kind, match=f"{name}: {message}"):
        (caller(name, len(given)) if backend == "compiled" else getattr(jit, name))(m, *given)
    canaries.check(name)
    for array, before in zip(given, arguments, strict=True):
        np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(net.parameters, parameters)
    assert not m.accumulated.any()


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_a_label_that_is_no_class(label):
    _, m = pair(np.float64, activations=("tanh", "softmax"), loss="cross_entropy")
    for function in (caller("loss", 2), m.loss.__func__):
        with pytest.raises(ValueError, match="y holds a label that is no class"):
            function(m, X, np.array([0, 1, label, 2]))
        with pytest.raises(ValueError, match="y holds a label that is no class"):
            function(m, x, label)


def test_errors_can_be_caught_in_compiled_code():
    _, m = pair(np.float64)

    @njit
    def fits(m, x, out):
        try:
            m.predict(x, out)
        except Exception:
            return False
        return True

    assert [fits(m, a, y) for a in (x, x[1:], x)] == [True, False, True]


@pytest.mark.parametrize(
    "name, arguments", [("train_step", (X, Y)), ("apply_gradient", (G,)), ("apply_accumulated", ())]
)
def test_a_model_without_optimizer_only_predicts(name, arguments):
    for backend in ("numba", "numpy"):
        m = jit.model(fastbp.Network(SIZES, dtype="float64", backend=backend))
        with pytest.raises(RuntimeError, match=f"{name}: the model was made without an optimizer"):
            getattr(m, name)(*arguments)
        assert m.loss(X, Y) > 0


def test_what_no_model_can_be_made_of():
    net = fastbp.Network(SIZES)
    with pytest.raises(TypeError, match=r"source must be a fastbp.Trainer or a fastbp.Network, got \[5\]"):
        jit.model([5])
    with pytest.raises(TypeError, match="optimizer and settings are those of the trainer"):
        jit.model(fastbp.Trainer(net, fastbp.SGD(0.1)), l2=0.1)
    with pytest.raises(TypeError, match="dropout is of training: give an optimizer too"):
        jit.model(net, dropout=0.1)
    with pytest.raises(TypeError, match="LBFGS makes no single steps: use Trainer.fit"):
        jit.model(net, fastbp.LBFGS())
    net.parameters.flags.writeable = False
    with pytest.raises(ValueError, match="parameters are read-only"):
        jit.model(net)


def test_functions_take_models_only():
    with pytest.raises(TypingError, match="predict: m must be a model of fastbp.jit, got array"):
        njit(lambda x, out: jit.predict(x, x, out))(x, y)
    with pytest.raises(TypeError, match=r"predict: m must be a model of fastbp.jit, got array\("):
        jit.predict(x, x, y)
    with pytest.raises(TypingError, match="predict: missing a required argument: 'out'"):
        njit(lambda m, x: m.predict(x))(pair(np.float64)[1], x)


# ------------------------------------------------------------------ beside the arrays


@njit
def everything(m, x, y, out, dx, g):
    m.predict(x, out)
    m.loss(x, y)
    m.train_step(x, y)
    m.gradient(x, y, g)
    m.input_gradient(x, y, dx)
    m.backpropagate(x, out, dx)
    m.accumulate(x, y)
    m.apply_accumulated()
    m.apply_gradient(g)


@each_dtype
@pytest.mark.parametrize("sizes", [[1, 1], [3, 4, 1], [5, 17, 3], [9, 33, 16]])
def test_nothing_beside_the_arrays_is_touched(sizes, dtype):
    _, m = pair(dtype, fastbp.Adam(0.01), sizes=sizes, activations=("tanh",) * (len(sizes) - 1))

    for n in (1, 2, 17, 70):
        canaries = Canaries()
        put = canaries.put
        a, b = (put(each) for each in samples(n, sizes, dtype))
        out, dx = put(np.empty(b.shape, dtype)), put(np.empty(a.shape, dtype))
        g, J = put(np.empty(m.parameters.size, dtype)), put(np.empty((sizes[-1], sizes[0]), dtype))
        for i in range(2):
            everything(m, *((a, b, out, dx) if i == 0 else (a[0], b[0], out[0], dx[0])), g)
            m.jacobian(a[0], J)
            canaries.check(n)
            assert all(np.isfinite(array).all() for array in (out, dx, g, J))


def test_subnormal_numbers_stay_those_of_the_caller():
    """Inside the methods they count as zero, as in `Trainer.step`."""
    _, m = pair(np.float64, sizes=[5, 7, 1])
    g, J, tiny = np.zeros_like(m.parameters), np.zeros((1, 5)), np.array([5e-310])
    calls = {
        "predict": (x, y[:1].copy()),
        "predict1": (x,),
        "loss": (x, y[:1]),
        "train_step": (x, y[:1]),
        "gradient": (x, y[:1], g),
        "backpropagate": (x, y[:1]),
        "input_gradient": (x, y[:1], x.copy()),
        "jacobian": (x, J),
        "apply_gradient": (g,),
        "accumulate": (x, y[:1]),
        "apply_accumulated": (),
        "clone": (),
    }
    assert calls.keys() == {*methods.METHODS, "clone"}
    for name, arguments in calls.items():
        getattr(m, name)(*arguments)
        assert (tiny * 0.5)[0] > 0, name


# ------------------------------------------------------------------ models as values


@njit
def make_clones(m, n):
    clones = typed.List()
    for _ in range(n):
        clones.append(m.clone())
    return clones


def test_models_in_lists_and_tuples_and_as_results():
    trainer, m = pair(np.float64, fastbp.Adam(0.01))

    @njit
    def use(models, both, X, Y):
        for i in range(len(models)):
            models[i].train_step(X, Y)
        both[0].train_step(X, Y)
        return both[1], models[0].loss(X, Y)

    clones = make_clones(m, 3)
    same, loss = use(clones, (m, clones[2]), X, Y)
    expected = trainer.step(X, Y)
    assert expected != loss == trainer.net.loss(X, Y)
    for each in (*clones, m, same):
        np.testing.assert_array_equal(each.parameters, trainer.net.parameters)
    assert isinstance(same, jit.Model)
    trainer.step(X, Y)
    same.train_step(X, Y)
    np.testing.assert_array_equal(clones[2].parameters, trainer.net.parameters)
    assert np.any(clones[1].parameters != trainer.net.parameters)


@pytest.mark.parametrize(
    "sizes, optimizer, dropout",
    [(SIZES, fastbp.Adam(0.01), 0.2), ([3, 4, 1], fastbp.SGD(0.1), 0), ([40, 300, 20], fastbp.SGD(0.01, 0.9), 0)],
)
def test_clones_outlive_what_they_came_from(sizes, optimizer, dropout):
    trainer, m = pair(np.float64, optimizer, sizes, dropout=dropout)
    a, b = samples(1, sizes)
    trainer.step(a, b)
    m.train_step(a, b)
    clones = [make_clones(m, 1)[0], m.clone(), njit(lambda m: m.clone().clone())(m)]
    del m
    np.empty(10**6).fill(np.nan)
    for n in (1, 270, 4):
        a, b = samples(n, sizes)
        expected = trainer.step(a, b)
        assert [clone.train_step(a, b) for clone in clones] == [expected] * 3
    for clone in clones:
        np.testing.assert_array_equal(clone.parameters, trainer.net.parameters)


@pytest.fixture
def allocations():
    """Return a function that returns how much was allocated, and how much of it is still there."""
    _nrt_python.memsys_enable_stats()

    def count():
        stats = rtsys.get_allocation_stats()
        return stats.alloc, stats.alloc - stats.free

    yield count
    _nrt_python.memsys_disable_stats()


def test_only_clones_take_memory_and_give_it_back(allocations):
    _, m = pair(np.float64, fastbp.Adam(0.01))

    @njit
    def work(m, x, y, out, dx, g, J, n):
        for _ in range(n):
            everything(m, x, y, out, dx, g)
            m.jacobian(x, J)
            m.lr = m.lr * 0.5 + m.parameters[0] * 0 + m.accumulated[0] * 0

    @njit
    def clone(m, n):
        one = m
        for _ in range(n):
            one = one.clone()
            one.parameters[0] += 1
        return one

    arguments = x, y, y.copy(), x.copy(), G.copy(), J.copy()
    work(m, *arguments, 1), clone(m, 1)
    n_before, kept = allocations()
    work(m, *arguments, 100)
    n, now = allocations()
    assert n - n_before < 20 and now == kept  # those of the arguments
    last = clone(m, 100)
    assert last.parameters[0] == pytest.approx(m.parameters[0] + 100)
    assert allocations()[0] - n >= 100
    del last
    assert allocations()[1] == kept


def test_children_of_evolution():
    net = fastbp.Network(SIZES, dtype="float64", seed=0)
    m = jit.model(net)

    @njit
    def mutate(m, child):
        before = m.parameters.copy()
        m.parameters[:] = child
        return before

    child = np.linspace(-1, 1, net.parameters.size)
    mutate(m, child)
    np.testing.assert_array_equal(net.parameters, child)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("through", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), jit.clone])
def test_copies_go_on_alike(through, backend):
    net = fastbp.Network(SIZES, dtype="float64", seed=0, backend=backend)
    m = jit.model(net, fastbp.Nadam(schedules.Exponential(0.01, 0.9)), dropout=0.1, seed=1)
    m.lr = 0.5
    m.train_step(X, Y)
    m.accumulate(X, Y)
    other = through(m)
    assert other.lr == 0.5 and repr(other) == repr(m)
    before = other.parameters.copy()
    for _ in range(2):
        m.apply_accumulated()
        m.train_step(X, Y)
    np.testing.assert_array_equal(other.parameters, before)
    for _ in range(2):
        other.apply_accumulated()
        other.train_step(X, Y)
    np.testing.assert_array_equal(other.parameters, m.parameters)


# ------------------------------------------------------------------ threads


@pytest.mark.filterwarnings("ignore:unsafe cast from uint64")  # of Numba, for an index of prange into a typed list
def test_a_clone_for_each_thread():
    _, m = pair(np.float64, fastbp.Adam(0.01))

    @njit(parallel=True)
    def train_all(models, X, Y):
        losses = np.empty(len(models))
        for i in prange(len(models)):
            for _ in range(50):
                losses[i] = models[i].train_step(X, Y)
        return losses

    @njit(parallel=True)
    def train_clones(m, n, X, Y):
        losses = np.empty(n)
        for i in prange(n):
            one = m.clone()
            for _ in range(50):
                losses[i] = one.train_step(X, Y)
        return losses

    clones = make_clones(m, 8)
    first, second = train_all(clones, X, Y), train_clones(m, 8, X, Y)
    for _ in range(50):
        expected = m.train_step(X, Y)
    assert first.tolist() == second.tolist() == [expected] * 8


def test_debugging_finds_two_threads_that_share_a_model(monkeypatch):
    monkeypatch.setenv("FASTBP_DEBUG", "1")
    _, m = pair(np.float64, sizes=[5, 300, 3])
    train.compile(tuple(map(numba.typeof, (m, X, Y, np.empty(1)))))
    results, barrier = [], threading.Barrier(2)

    def work():
        barrier.wait(60)
        for _ in range(200):
            try:
                train(m, X, Y, np.empty(100))
            except RuntimeError as error:
                results.append(str(error))
                return

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert "train_step: two threads used the model at once: give each a clone" in results
    with pytest.raises(RuntimeError, match="clone: two threads used the model at once"):
        m.clone()


def test_debugging_finds_numbers_that_are_not_finite(monkeypatch):
    nan = np.full(5, np.nan)
    _, quiet = pair(np.float64)
    quiet.predict(nan, y.copy())
    monkeypatch.setenv("FASTBP_DEBUG", "1")
    _, m = pair(np.float64)
    for name, arguments, which in [
        ("predict", (nan, y.copy()), "x"),
        ("loss", (nan, y), "x"),
        ("train_step", (x, nan[:3]), "y"),
        ("backpropagate", (x, nan[:3]), "dout"),
        ("jacobian", (nan, J.copy()), "x"),
        ("apply_gradient", (np.full(G.size, np.inf),), "g"),
    ]:
        with pytest.raises(ValueError, match=f"{name}: {which} holds a number that is not finite"):
            caller(name, len(arguments))(m, *arguments)
    assert np.isfinite(m.train_step(x, y))


# ------------------------------------------------------------------ the twin


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("rule", ["nesterov", "adamw"])
def test_the_twin_does_the_same(rule, settings):
    options = dict(SETTINGS[settings])
    keywords = {key: options.pop(key) for key in ("reduction", "input_scale") if key in options}
    models = [
        jit.model(
            fastbp.Network(SIZES, dtype="float64", seed=0, backend=backend, **keywords),
            OPTIMIZERS[rule],
            seed=1,
            **options,
        )
        for backend in ("numba", "numpy")
    ]
    results = []
    for m in models:
        out, dx, g, jacobian = np.empty((4, 3)), np.empty((4, 5)), np.empty_like(G), np.empty((3, 5))
        jit.predict(m, X, out)
        jit.jacobian(m, x, jacobian)
        values = [jit.loss(m, X, Y), jit.train_step(m, X, Y), jit.train_step(m, x, y), jit.gradient(m, X, Y, g)]
        jit.apply_gradient(m, g)
        jit.input_gradient(m, X, Y, dx)
        values += [jit.accumulate(m, X, Y), jit.accumulate(m, x, y)]
        jit.apply_accumulated(m)
        jit.backpropagate(m, X, out, dx)
        m.lr = m.lr / 2
        values.append(jit.train_step(m, X, Y))
        results.append([out, jacobian, g, dx, np.array(values), m.accumulated, m.parameters])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_compiled_functions_do_not_take_the_twin():
    m = jit.model(fastbp.Network(SIZES, dtype="float64", backend="numpy"))
    with pytest.raises(TypeError, match="backend='numba'"):
        predict(m, x, y)


# ------------------------------------------------------------------ names


@pytest.mark.parametrize("name", [*methods.METHODS, "clone"])
def test_every_method_is_documented_and_is_a_function_too(name):
    function = getattr(jit, name)
    assert function.__doc__ == getattr(jit.Model, name).__doc__
    assert pickle.loads(pickle.dumps(function)) is function and name in jit.__all__ and name in repr(function)
