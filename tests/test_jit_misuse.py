"""Models that are used wrongly: what is refused, what Numba would hide, and what debugging finds."""

import contextlib
import copy
import multiprocessing
import operator

import numpy as np
import pytest
from fastbp.kernels import methods
from numba import njit, prange
from numba.core.errors import TypingError
from shared import run_python
from test_jit import SIZES, G, J, X, Y, allocations, caller, pair, x, y

import fastbp
import fastbp.jit as jit

__all__ = ["allocations"]  # a fixture

LABELS = {"activations": ("tanh", "softmax"), "loss": "cross_entropy"}


def both(**settings):
    """A model, and the twin of NumPy."""
    for backend in ("numba", "numpy"):
        net = fastbp.Network(SIZES, dtype="float64", seed=0, backend=backend, **settings)
        yield jit.model(net, fastbp.SGD(0.1))


# ------------------------------------------------------------------ threads


@njit(parallel=True)
def train_in_parallel(m, x, y, n):
    for _ in prange(n):
        m.train_step(x, y)


@njit(parallel=True)
def predict_in_parallel(m, x, out):
    for i in prange(len(out)):
        m.predict(x, out[i])


DROPPED = contextlib.suppress(SystemError)  # an exception in a loop of prange: in the calling thread a SystemError


def test_sharing_in_prange_is_reported(monkeypatch, capfd):
    monkeypatch.setenv("FASTBP_DEBUG", "1")
    _, m = pair(np.float64, sizes=[5, 300, 3])
    m.memory[methods.AT["busy"]] = 1  # as while another thread is in a method
    with DROPPED:
        train_in_parallel(m, x, y, 4)
    message = "two threads used the model at once: give each a clone"
    assert f"train_step: {message}\n" in capfd.readouterr().err
    m.memory[methods.AT["busy"]] = 0
    for function in (jit.loss, caller("loss", 2)):
        with pytest.raises(RuntimeError, match=f"loss: {message}"):
            function(m, x, y)


def test_a_call_before_a_loop_of_prange_raises_what_the_loop_drops():
    _, m = pair(np.float64)
    out = np.empty((4, 2))
    with DROPPED:
        predict_in_parallel(m, x, out)
    with pytest.raises(ValueError, match="predict: out must have as many rows as x"):
        m.predict(x, out[0])
    assert "call a method once before such a loop" in " ".join(jit.Model.__doc__.split())


def test_a_clone_that_fails_is_given_back(monkeypatch, allocations):
    monkeypatch.setenv("FASTBP_DEBUG", "1")
    _, m = pair(np.float64)
    clone, kept = njit(lambda m: m.clone()), allocations()[1]
    m.memory[methods.AT["busy"]] = 1
    for _ in range(3):
        with pytest.raises(RuntimeError, match="clone: two threads used the model"):
            clone(m)
    assert allocations()[1] == kept


# ------------------------------------------------------------------ where a model is found

USER = """
import numpy as np
from numba import njit
import fastbp
from fastbp import jit
m = jit.model(fastbp.Network([5, 3], seed=0))

@njit
def use(x, y):
    return m.loss(x, y)

try:
    use(np.ones(5, np.float32), np.ones(3, np.float32))
except Exception as error:
    print(error)
"""


def test_a_global_is_refused_by_the_first_function_that_is_compiled():
    assert "a model must be an argument of a compiled function, not a global" in run_python("-c", USER).stdout


def test_a_variable_of_an_enclosing_function_is_refused():
    _, m = pair(np.float64)
    with pytest.raises(TypingError, match="a model must be an argument of a compiled function"):
        njit(lambda x, y: m.loss(x, y))(x, y)


# ------------------------------------------------------------------ attributes


@njit
def set_lr(m, value):
    m.lr = value


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, -np.inf, -1])
def test_a_wrong_learning_rate_is_refused_in_compiled_code(value):
    _, m = pair(np.float64)
    with pytest.raises(ValueError, match="lr must be a finite number, at least 0"):
        set_lr(m, value)
    assert m.lr == 0.1
    set_lr(m, 0)
    assert m.lr == 0


@njit
def add_to_parameters(m, value):
    m.parameters += 1.0


@njit
def replace_parameters(m, value):
    m.parameters = value


@njit
def replace_accumulated(m, value):
    m.accumulated = value


@pytest.mark.parametrize("function", [add_to_parameters, replace_parameters, replace_accumulated])
def test_arrays_are_written_into_and_not_replaced(function):
    name = "accumulated" if function is replace_accumulated else "parameters"
    for m in both():
        message = rf"{name} of a Model cannot be replaced: write into it, m.{name}\[:\] = values"
        with pytest.raises(AttributeError, match=message):
            setattr(m, name, G)
        if not isinstance(m, jit.Twin):
            with pytest.raises(TypingError, match=message.replace("Model", "model")):
                function(m, G)
        assert not np.array_equal(m.parameters, G)
        m.parameters += 1.0
        m.accumulated += 1.0
        assert (m.accumulated == 1).all()


def test_unknown_attributes_are_refused():
    for m in both():
        for name in ("lr_scale", "Parameters", "momentum"):
            with pytest.raises(AttributeError, match=f"a Model has no attribute '{name}'"):
                setattr(m, name, 0.5)


def test_only_the_function_makes_models():
    _, m = pair(np.float64)
    with pytest.raises(TypeError, match="fastbp.jit.model makes models"):
        jit.Model(m.parameters, m.memory)


@pytest.mark.parametrize("name, value", [("batch_size", 8), ("shuffle", False), ("threads", 2)])
def test_settings_of_loops_are_refused(name, value):
    net = fastbp.Network(SIZES)
    with pytest.raises(TypeError, match=f"{name} is of Trainer.fit: a model makes one step of the samples"):
        jit.model(net, fastbp.SGD(0.1), **{name: value})
    assert jit.model(fastbp.Trainer(net, fastbp.SGD(0.1), **{name: value})).lr == 0.1


def test_parameters_that_became_read_only_are_not_written():
    for m in both():
        before = m.parameters.copy()
        m.parameters.flags.writeable = False
        for name, given in (("train_step", (x, y)), ("apply_gradient", (G + 1,)), ("apply_accumulated", ())):
            with pytest.raises(ValueError, match="parameters are read-only, but a model writes to them"):
                getattr(m, name)(*given)
        if not isinstance(m, jit.Twin):
            with pytest.raises(ValueError, match="parameters are read-only, but a model writes to them"):
                caller("train_step", 2)(m, x, y)
        np.testing.assert_array_equal(m.parameters, before)
        m.parameters.flags.writeable = True
        m.train_step(x, y)
        assert np.any(m.parameters != before)


def test_equal_settings_share_a_place():
    def place(lr):
        return jit.model(fastbp.Network(SIZES), fastbp.SGD(lr), seed=0).memory[methods.AT["config"]]

    assert place(0.123) == place(0.123) != place(0.124)


# ------------------------------------------------------------------ arguments


def test_python_and_compiled_functions_refuse_the_same_targets():
    for m in both(**LABELS):
        for value in (True, np.True_):
            with pytest.raises(TypeError, match="loss: y must be an array, got bool"):
                m.loss(x, value)
        for label in (10**30, -(10**30), 2**63):
            with pytest.raises(ValueError, match="loss: y holds a label that is no class"):
                m.loss(x, label)
        with pytest.raises(TypeError, match="loss: x must be an array, got MaskedArray"):
            m.loss(np.ma.masked_invalid(x), y)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of NumPy's arithmetic
def test_a_number_that_the_dtype_cannot_hold_has_no_finite_loss():
    for backend in ("numba", "numpy"):
        m = jit.model(fastbp.Network([5, 1], seed=0, backend=backend), fastbp.SGD(0.1))
        before = m.parameters.copy()
        assert m.train_step(x.astype(np.float32), 1e300) == np.inf or backend == "numpy"
        np.testing.assert_array_equal(m.parameters, before)


@pytest.mark.parametrize(
    "name, given, which",
    [
        ("gradient", (x[1:], y, G[1:]), "x"),
        ("gradient", (x, y[1:], G[1:]), "y"),
        ("input_gradient", (X[:, :4].copy(), Y, X.copy()), "x"),
        ("backpropagate", (x[1:], y, x.copy()), "x"),
    ],
)
def test_the_first_wrong_argument_is_named(name, given, which):
    for m in both():
        place = "xyg".index(which)
        with pytest.raises(ValueError, match=rf"{name}: {which} must .*; got shape \({given[place].shape[0]},"):
            getattr(m, name)(*given)
    with pytest.raises(ValueError, match=f"{name}: {which} must "):
        caller(name, len(given))(pair(np.float64)[1], *given)


@pytest.mark.parametrize("n", [1, 70, 300])
def test_outputs_may_replace_their_samples(n):
    net = fastbp.Network([5, 7, 5], activations=["tanh", "softmax"], dtype="float64", seed=0)
    m, a = jit.model(net), np.random.default_rng(0).normal(size=(n, 5))
    expected = net.predict(a)
    caller("predict", 2)(m, a, a)
    np.testing.assert_array_equal(a, expected)


# ------------------------------------------------------------------ targets for which a loss is not defined

TARGETS = {
    "binary_cross_entropy": ("sigmoid", [0.0, 1.0, 0.5], [0.0, 5.0, 0.5]),
    "poisson": ("exponential", [0.0, 7.0, 1.0], [0.0, -1.0, 1.0]),
    "hinge": ("identity", [1.0, -1.0, 1.0], [1.0, 0.0, 1.0]),
    "cross_entropy": ("softmax", [0.5, 0.5, 0.0], [0.5, 0.5, 0.5]),
}


@pytest.mark.parametrize("loss", TARGETS)
def test_debugging_and_the_twin_check_targets(monkeypatch, loss):
    activation, right, wrong = TARGETS[loss]
    settings = {"activations": ["tanh", activation], "loss": loss}
    quiet, _ = both(**settings)
    quiet.train_step(x, np.array(wrong))
    monkeypatch.setenv("FASTBP_DEBUG", "1")
    checked, twin = both(**settings)
    for m, message in ((checked, "loss: y holds targets for which the loss is not defined"), (twin, "y")):
        assert np.isfinite(m.loss(x, np.array(right)))
        for a, b in ((x, np.array(wrong)), (X[:2], np.array([right, wrong]))):
            with pytest.raises(ValueError, match=message):
                m.loss(a, b)


# ------------------------------------------------------------------ numbers that are not finite


@pytest.mark.parametrize(
    "name, given",
    [
        ("predict", (x, y.copy())),
        ("loss", (x, y)),
        ("train_step", (x, y)),
        ("gradient", (x, y, G.copy())),
        ("backpropagate", (x, y)),
        ("input_gradient", (x, y, x.copy())),
        ("jacobian", (x, J.copy())),
        ("apply_gradient", (G,)),
        ("accumulate", (x, y)),
        ("apply_accumulated", ()),
        ("clone", ()),
    ],
)
def test_debugging_finds_parameters_that_are_not_finite(monkeypatch, name, given):
    monkeypatch.setenv("FASTBP_DEBUG", "1")
    _, m = pair(np.float64)
    m.parameters[3], before = np.inf, m.parameters[3]
    for _ in range(2):  # the first leaves the model
        with pytest.raises(ValueError, match=f"{name}: the parameters hold a number that is not finite"):
            getattr(m, name)(*given)
    m.parameters[3] = before
    getattr(m, name)(*given)


def test_debugging_finds_an_accumulated_gradient_that_is_not_finite(monkeypatch):
    monkeypatch.setenv("FASTBP_DEBUG", "1")
    _, m = pair(np.float64)
    m.accumulated[0], before = np.nan, m.parameters.copy()
    for function in (jit.apply_accumulated, njit(lambda m: m.apply_accumulated())):
        with pytest.raises(ValueError, match="apply_accumulated: the accumulated gradient holds a number that is not"):
            function(m)
    np.testing.assert_array_equal(m.parameters, before)
    m.accumulated[0] = 0
    m.apply_accumulated()


# ------------------------------------------------------------------ other processes


@njit
def square(z):
    return z * z


@njit
def twice(z, a):
    return 2 * z


def test_a_model_with_functions_of_the_user_goes_to_another_process():
    net = fastbp.Network(SIZES, activations=[fastbp.Activation(square, twice), "identity"], dtype="float64", seed=0)
    m = jit.model(net, fastbp.Adam(0.1))
    m.train_step(X, Y)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(operator.methodcaller("train_step", X, Y), (m,))
        returned = pool.apply(copy.copy, (m,))
    assert there == m.clone().train_step(X, Y) == returned.train_step(X, Y)
