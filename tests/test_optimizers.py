"""Update rules and learning-rate schedules: against PyTorch's trajectories, formulas written out, edges of memory."""

import dataclasses
import functools
import json
import math
from pathlib import Path

import numba
import numpy as np
import problem
import pytest
from fastbp.kernels import optimizers as rules
from fastbp.kernels import schedules as schedule_kernels
from fastbp.kernels import tables
from fastbp.kernels.compiler import FLAGS
from fastbp.kernels.simd import lanes, masked_load, masked_store, peek, pointer

import fastbp
from fastbp import kernels, optimizers, reference, schedules
from fastbp.schedules import Constant, Cosine, CosLog4, Exponential, InverseScaling, OneCycle, Piecewise, Step
from fastbp.update import State

DATA = Path(__file__).parent / "data"
RECORD = json.loads((DATA / "trajectories.json").read_text())
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_rule = pytest.mark.parametrize(
    "optimizer",
    [
        fastbp.SGD(0.1),
        fastbp.SGD(0.1, 0.9),
        fastbp.SGD(0.1, 0.9, True),
        fastbp.RMSprop(),
        fastbp.Adagrad(),
        fastbp.Adam(),
        fastbp.AdamEpsHat(),
        fastbp.ClassicalSGD(0.1, 0.9),
        fastbp.AdamW(),
        fastbp.Nadam(),
        fastbp.Lion(),
        fastbp.Rprop(),
    ],
    ids=lambda optimizer: optimizer.rule,
)

BY_STEPS = [kind for kind in optimizers.OPTIMIZERS if issubclass(kind, optimizers.Optimizer)]


@functools.cache
def rule_step(rule):
    """Return a compiled function that makes one update by a rule of the kernels, in two parts."""
    update, write_factors = getattr(rules, f"_{rule}"), getattr(rules, f"_{rule}_factors")
    n_states = tables.RULES[rule].n_states

    @numba.njit(**FLAGS)
    def step(hyperparameters, lr, running_products, gradient, first, second, parameters, split):
        factors = np.full(rules.N_FACTORS, np.nan, parameters.dtype)
        write_factors(pointer(hyperparameters, 0), lr, pointer(running_products, 0), pointer(factors, 0))
        for start, stop in ((0, split), (split, parameters.size)):
            rules.update_array(
                update,
                n_states,
                pointer(factors, 0),
                pointer(gradient, start),
                pointer(parameters, start),
                pointer(first, start),
                pointer(second, start),
                stop - start,
            )

    return step


def kernel_step(rule, hyperparameters, lr, running_products, gradient, buffers, parameters, split=0):
    """The kernels' `reference.rule_step`."""
    states = [*buffers, np.zeros(0, parameters.dtype), np.zeros(0, parameters.dtype)][:2]
    numbers = np.array(hyperparameters, float)
    rule_step(rule)(numbers, float(lr), running_products, gradient, *states, parameters, split)


# ------------------------------------------------------------------ against PyTorch


@pytest.mark.parametrize(
    "step, dtype, tolerance",
    [
        (reference.rule_step, np.float64, 1e-12),
        (kernel_step, np.float64, 1e-12),
        (reference.rule_step, np.float32, 2e-4),
        (kernel_step, np.float32, 2e-4),
    ],
)
@pytest.mark.parametrize("name, settings, wanted", RECORD["optimizers"])
def test_trajectory_is_pytorchs(name, settings, wanted, step, dtype, tolerance):
    optimizer = getattr(fastbp, name)(**settings)
    p = problem.START.astype(dtype)
    state = State(optimizer.n_states, p.size, dtype)
    schedule = schedules.Constant(optimizer.lr)
    for t in range(RECORD["steps"][-1]):
        gradient = problem.gradient(p.astype(float)).astype(dtype)
        step(optimizer.rule, optimizer.hyperparameters, schedule(t), state.running_products, gradient, state.buffers, p)
        if t + 1 in RECORD["steps"]:
            np.testing.assert_allclose(p, wanted[RECORD["steps"].index(t + 1)], tolerance, tolerance * 1e-2)


def rates_of_kernel(schedule, steps):
    out = np.full(len(steps), np.nan)
    kernels.learning_rate(tables.KINDS[schedule.kind], np.array(schedule.hyperparameters), np.array(steps), out)
    return out


@pytest.mark.parametrize("name, settings, wanted", RECORD["schedules"])
def test_schedule_is_pytorchs(name, settings, wanted):
    schedule = getattr(schedules, name)(**settings)
    steps = np.arange(len(wanted))
    np.testing.assert_allclose(schedule(steps), wanted, 1e-13)
    np.testing.assert_allclose(rates_of_kernel(schedule, steps), wanted, 1e-13)


# ------------------------------------------------------------------ formulas written out


def random_gradients(n=7, dtype=np.float64):
    rng = np.random.default_rng(0)
    return rng.normal(size=(9, n)).round(1).astype(dtype), rng.normal(size=n).astype(dtype)


def follow(optimizer, gradients, p):
    """Parameters after each step, by the kernels; the twins give the same."""
    memories, buffers = np.ones((2, 8)), np.zeros((2, optimizer.n_states, p.size), p.dtype)
    p, q, result = p.copy(), p.copy(), []
    for gradient in gradients:
        arguments = optimizer.rule, optimizer.hyperparameters, float(optimizer.lr)
        kernel_step(*arguments, memories[0], gradient, buffers[0], p)
        reference.rule_step(*arguments, memories[1], gradient, buffers[1], q)
        np.testing.assert_allclose(p, q, 1e-12)
        np.testing.assert_allclose(memories[0], memories[1], 1e-14)
        result.append(p.copy())
    return np.array(result)


@pytest.mark.parametrize("nesterov", [False, True])
def test_classical_sgd_is_its_formula(nesterov):
    gradients, p = random_gradients()
    v, expected = np.zeros_like(p), p.copy()
    for found, g in zip(follow(fastbp.ClassicalSGD(0.1, 0.7, nesterov), gradients, p), gradients, strict=True):
        v = 0.7 * v - 0.1 * g
        expected = expected + (0.7 * v - 0.1 * g if nesterov else v)
        np.testing.assert_allclose(found, expected, 1e-13)


def test_adam_eps_hat_is_its_formula():
    gradients, p = random_gradients()
    m, v, expected = np.zeros_like(p), np.zeros_like(p), p.copy()
    steps = follow(fastbp.AdamEpsHat(0.1, 0.8, 0.9, 0.3), gradients, p)
    for t, (found, g) in enumerate(zip(steps, gradients, strict=True), start=1):
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        expected = expected - 0.1 * np.sqrt(1 - 0.9**t) / (1 - 0.8**t) * m / (np.sqrt(v) + 0.3)
        np.testing.assert_allclose(found, expected, 1e-13)


def test_lion_is_its_formula():
    lr, beta1, beta2, decay = 0.03, 0.8, 0.95, 0.4
    gradients, start = random_gradients()
    gradients[:2, 3] = 0  # the sign of 0 is 0
    result = follow(fastbp.Lion(lr, beta1, beta2, decay), gradients, start)
    for i, p in enumerate(start.tolist()):
        m = 0.0
        for t, g in enumerate(gradients[:, i].tolist()):
            c = beta1 * m + (1 - beta1) * g
            p = p - lr * ((c > 0) - (c < 0) + decay * p)
            m = beta2 * m + (1 - beta2) * g
            assert math.isclose(result[t, i], p, rel_tol=1e-12)


def test_rprop_is_its_formula():
    lr, minus, plus, min_step, max_step = 0.03, 0.5, 1.3, 0.02, 0.05
    gradients, start = random_gradients(n=40)
    gradients[3:5, :9] = 0
    result = follow(fastbp.Rprop(lr, minus, plus, min_step, max_step), gradients, start)
    for i, p in enumerate(start.tolist()):
        step, last = lr, 0.0
        for t, g in enumerate(gradients[:, i].tolist()):
            if g * last > 0:
                step = min(step * plus, max_step)
            elif g * last < 0:
                step, g = max(step * minus, min_step), 0.0
            p -= step * ((g > 0) - (g < 0))
            last = g
            assert math.isclose(result[t, i], p, rel_tol=1e-12)


@each_dtype
def test_rprop_compares_the_signs_of_tiny_gradients(dtype):
    tiny = np.finfo(dtype).tiny
    p, buffers = np.zeros(3, dtype), np.zeros((2, 3), dtype)
    for _ in range(2):
        kernel_step("rprop", (0.5, 1.2, 1e-6, 50.0), 0.1, np.ones(8), np.full(3, tiny), buffers, p)
    np.testing.assert_allclose(p, -0.22, 1e-6)


def test_weight_decay_is_decoupled():
    for optimizer in (fastbp.AdamW(0.1, weight_decay=0.3), fastbp.Lion(0.1, weight_decay=0.3)):
        result = follow(optimizer, np.zeros((3, 5)), np.ones(5))
        np.testing.assert_allclose(result, 0.97 ** np.c_[1:4].repeat(5, axis=1))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("sizes, batch_size", [((2, 3, 1), 4), ((3, 9, 2), 1), ((5, 130, 20, 3), 12), ((4, 6, 2), 300)])
def test_weight_decay_may_leave_biases_out(backend, sizes, batch_size):
    """The steps of biases are those of Adam, those of weights longer by lr * weight_decay * W."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(batch_size, sizes[0])), rng.normal(size=(batch_size, sizes[-1]))

    def after_a_step(optimizer):
        net = fastbp.Network(sizes, "tanh", init="uniform", dtype="float64", seed=1, backend=backend)
        fastbp.Trainer(net, optimizer).step(X, Y)
        return net

    start = fastbp.Network(sizes, init="uniform", dtype="float64", seed=1, backend=backend)
    adam, all_decay = after_a_step(fastbp.Adam(0.1)), after_a_step(fastbp.AdamW(0.1, weight_decay=0.3))
    net = after_a_step(fastbp.AdamW(0.1, weight_decay=0.3, decay_biases=False))
    for l, W in enumerate(start.weights):
        np.testing.assert_allclose(net.weights[l], adam.weights[l] - 0.03 * W, 1e-12)
        np.testing.assert_array_equal(net.weights[l], all_decay.weights[l])
        np.testing.assert_array_equal(net.biases[l], adam.biases[l])
        np.testing.assert_allclose(all_decay.biases[l], adam.biases[l] - 0.03 * start.biases[l], 1e-12)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("decay_biases", [True, False])
def test_scales_of_inputs_are_those_of_a_factor_of_W(backend, decay_biases):
    """Written out: W = exp(u) V, of which u and V take the steps of AdamW by their own gradients."""
    sizes, lr, factor, decay = (19, 7, 2), 0.02, 6.0, 0.3
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(12, sizes[0])), rng.normal(size=(12, sizes[-1]))
    net = fastbp.Network(sizes, "tanh", init="uniform", dtype="float64", seed=1, backend=backend)
    optimizer = fastbp.AdamW(lr, eps=1e-300, weight_decay=decay, decay_biases=decay_biases, input_scale_lr=factor)
    trainer = fastbp.Trainer(net, optimizer)
    u, V = np.zeros((sizes[0], 1)), net.weights[0].copy()
    others = [a.copy() for a in (net.biases[0], net.weights[1], net.biases[1])]
    moments = [(np.zeros_like(a), np.zeros_like(a)) for a in (u, V, *others)]
    written_out = net.copy()
    for t in range(1, 9):
        for array, value in zip(
            (written_out.weights[0], written_out.biases[0], written_out.weights[1], written_out.biases[1]),
            (np.exp(u) * V, *others),
            strict=True,
        ):
            array[:] = value
        _, dW, db = written_out.gradients(X, Y)
        gradients = [(dW[0] * np.exp(u) * V).sum(axis=1, keepdims=True), dW[0] * np.exp(u), db[0], dW[1], db[1]]
        of_biases = decay * decay_biases
        decays, rates = (0, decay, of_biases, decay, of_biases), (lr * factor, lr, lr, lr, lr)
        for p, g, (m, v), wd, rate in zip((u, V, *others), gradients, moments, decays, rates, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p *= 1 - rate * wd
            p -= rate * (m / (1 - 0.9**t)) / np.sqrt(v / (1 - 0.999**t))
        trainer.step(X, Y)
        np.testing.assert_allclose(net.weights[0], np.exp(u) * V, 1e-9, 1e-12)
        for array, value in zip((net.biases[0], net.weights[1], net.biases[1]), others, strict=True):
            np.testing.assert_allclose(array, value, 1e-9, 1e-12)
    assert np.abs(u).max() > 0.3
    np.testing.assert_allclose(trainer.state.buffers[2][: sizes[0]], u[:, 0], 1e-9)
    assert not trainer.state.buffers[2][3 * sizes[0] :].any()


@pytest.mark.parametrize(
    "make", [fastbp.Trainer, lambda net, optimizer: fastbp.Trainer(fastbp.Population.of([net] * 2), optimizer)]
)
def test_scales_need_room_in_the_state(make):
    net = fastbp.Network([9, 2, 1], "tanh")  # 23 parameters
    with pytest.raises(ValueError, match=r"at least 3 \* 9 parameters, 3 for each input, but 9-2-1 has 23"):
        make(net, fastbp.AdamW(input_scale_lr=1.0))
    make(net, fastbp.AdamW())
    make(fastbp.Network([9, 3, 1], "tanh"), fastbp.AdamW(input_scale_lr=1.0))


@each_dtype
@each_rule
def test_no_gradient_no_change(optimizer, dtype):
    p, buffers = np.linspace(-1, 1, 21).astype(dtype), np.zeros((optimizer.n_states, 21), dtype)
    wanted = p * (1 - optimizer.lr * getattr(optimizer, "weight_decay", 0))
    kernel_step(optimizer.rule, optimizer.hyperparameters, optimizer.lr, np.ones(8), np.zeros(21, dtype), buffers, p)
    np.testing.assert_allclose(p, wanted, 1e-6 if optimizer.rule == "adamw" else 0)


@each_rule
def test_nan_reaches_the_parameter_and_no_other(optimizer):
    p, g = np.ones(21, np.float32), np.ones(21, np.float32)
    g[[3, 18]] = np.nan
    buffers = np.zeros((optimizer.n_states, 21), np.float32)
    kernel_step(optimizer.rule, optimizer.hyperparameters, optimizer.lr, np.ones(8), g, buffers, p)
    assert np.flatnonzero(np.isnan(p)).tolist() == [3, 18]


# ------------------------------------------------------------------ memory, and how the parameters are divided


@each_dtype
@each_rule
def test_parts_and_borders(optimizer, dtype):
    """Every size up to 40, in two parts: nothing outside is touched, and the bits are those of one part."""
    rng = np.random.default_rng(0)
    numbers = np.array(optimizer.hyperparameters, float)
    for n in range(1, 41):
        margin = 16
        outer = rng.uniform(0.1, 1, (4, n + 2 * margin)).astype(dtype)
        outer[:, :margin] = outer[:, -margin:] = np.nan
        results = []
        for split in (0, n // 3, n - 1):
            gradient, p, first, second = arrays = outer.copy()
            inside = [a[margin:-margin] for a in (gradient, first, second, p)]
            rule_step(optimizer.rule)(numbers, 0.1, np.full(8, 0.9), *inside, split)
            changed = [
                not np.array_equal(a, b) for a, b in zip(inside, (outer[[0, 2, 3, 1], margin:-margin]), strict=True)
            ]
            assert changed == [False, optimizer.n_states > 0, optimizer.n_states > 1, True]
            assert np.isnan(arrays[:, :margin]).all() and np.isnan(arrays[:, -margin:]).all()
            results.append(arrays[:, margin:-margin].tobytes())
        assert len(set(results)) == 1


@numba.njit(**FLAGS)
def root(x, out):
    p, q = pointer(x, 0), pointer(out, 0)
    for i in range(0, x.size, lanes(p)):
        n = min(lanes(p), x.size - i)
        masked_store(q, i, rules.sqrt_fast(masked_load(p, i, n)), n)


def test_fast_square_root():
    rng = np.random.default_rng(0)
    bits = [
        rng.integers(0, 0x7F800000, 300_000),
        np.arange(3_000),
        np.arange(0x7FF000, 0x801000),  # around tiny
        np.arange(0x19000000 - 999, 0x19000000 + 999),
        np.arange(0x3F7FFF00, 0x3F800100),  # around 2**-77, 1
        np.arange(0x7F7FF000, 0x7F800001),
    ]
    x = np.concatenate(bits).astype(np.int32).view(np.float32)
    result = np.full_like(x, np.nan)
    root(x, result)
    assert result[x == 0].tolist() == [0.0] and result[-1] == np.inf
    exact = np.sqrt(x[:-1].astype(float))
    error = np.abs(result[:-1] - exact) / np.spacing(exact.astype(np.float32))
    assert error.max() < 0.51
    result = np.zeros(3, np.float32)
    root(np.array([np.nan, -0.0, 4], np.float32), result)
    np.testing.assert_array_equal(result, [np.nan, 0, 2])
    x = np.concatenate([rng.random(999), 10.0 ** rng.uniform(-320, 308, 999), [0, np.inf, np.nan]])
    result = np.empty_like(x)
    root(x, result)
    np.testing.assert_array_equal(result, np.sqrt(x))


# ------------------------------------------------------------------ gradients before, weights after


def test_clipping_of_extreme_gradients():
    g = np.full(5000, 1e30, np.float32)  # its squares are too large for float32
    kernels.clip_norm(1.0, g)
    np.testing.assert_allclose(g, 1 / np.sqrt(5000), 1e-6)
    g = np.full(37, 1e-30, np.float32)
    kernels.clip_norm(3e-30, g)
    np.testing.assert_allclose(g, 3e-30 / np.sqrt(37), 1e-6)
    g = np.array([np.nan, np.inf, -np.inf, 0.5] * 5)
    kernels.clip_value(2.0, g)
    np.testing.assert_array_equal(g, [np.nan, 2, -2, 0.5] * 5)


def test_max_norm_leaves_short_columns_alone():
    W = np.zeros((3, 19))
    W[:, 4] = 3, 4, 12
    W[0, 5], W[1, 6] = 6.5, 2
    before = W.copy()
    kernels.max_norm(6.5, W)
    before[:, 4] /= 2
    np.testing.assert_array_equal(W, before)


def test_penalty_of_zero_is_zero():
    g = np.zeros(4)
    kernels.penalize(np.array([0.0, -0.0, 2, -2]), 0.5, 0.25, g)
    np.testing.assert_array_equal(g, [0, 0, 1, -1])


@numba.njit(**FLAGS)
def max_norm_columns(W, first, last, limit):
    rules.max_norm_columns(pointer(W, 0), W.shape[0], W.shape[1], first, last, limit)
    return rules.squares_array(pointer(W, 0), W.size)


@each_dtype
def test_max_norm_of_some_columns(dtype):
    W = np.random.default_rng(0).normal(size=(5, 37)).astype(dtype)
    wanted, parts = W.copy(), W.copy()
    kernels.max_norm(dtype(1), wanted)
    max_norm_columns(parts, 7, 30, 1.0)
    np.testing.assert_array_equal(parts[:, 7:30], wanted[:, 7:30])
    np.testing.assert_array_equal(parts[:, [*range(7), *range(30, 37)]], W[:, [*range(7), *range(30, 37)]])
    max_norm_columns(parts, 0, 7, 1.0)
    squares = max_norm_columns(parts, 30, 37, 1.0)
    np.testing.assert_array_equal(parts, wanted)
    assert math.isclose(squares, (wanted.astype(float) ** 2).sum(), rel_tol=1e-14)


# ------------------------------------------------------------------ schedules


def half_cosine(fraction):
    return (1 + math.cos(math.pi * fraction)) / 2


EXAMPLES = [  # schedule, step -> rate
    (Constant(0.1), lambda t: 0.1),
    (Step(0.5, 3, 0.2), lambda t: 0.5 * 0.2 ** (t // 3)),
    (Exponential(0.5, 1.01), lambda t: 0.5 * 1.01**t),
    (InverseScaling(0.5), lambda t: 0.5 / (t + 1) ** 0.5),
    (InverseScaling(0.5, 0), lambda t: 0.5),
    (Cosine(0.5, 8), lambda t: 0.5 * half_cosine(min(t, 8) / 8)),
    (Cosine(0.5, 8, 0.1, 4), lambda t: 0.1 * (t + 1) if t < 4 else 0.1 + 0.4 * half_cosine(min(t - 4, 8) / 8)),
    (Cosine(0.5, 8, 0.1, 4, True), lambda t: 0.1 * (t + 1) if t < 4 else 0.1 + 0.4 * half_cosine((t - 4) % 8 / 8)),
    (
        OneCycle(0.5, 20, 0.25, 10, 5),
        lambda t: 0.5 - 0.45 * half_cosine(t / 4) if t <= 4 else 0.01 + 0.49 * half_cosine((min(t, 19) - 4) / 15),
    ),
    (Piecewise([2, 10], [0.5, 0.7, 0.1]), lambda t: 0.5 if t < 2 else 0.7 if t < 10 else 0.1),
    (Piecewise([], [0.5]), lambda t: 0.5),
    (CosLog4(0.5, 30), lambda t: 0.5 * math.sin(math.pi * math.log2(1 + min(t, 30) / 2)) ** 2),
    (CosLog4(0.5, 1), lambda t: 0.0),
]


@pytest.mark.parametrize("schedule, formula", EXAMPLES)
def test_schedule_is_its_formula(schedule, formula):
    steps = [*range(40), 100, 999]
    wanted = [formula(t) for t in steps]
    np.testing.assert_allclose(schedule(steps), wanted, 1e-13, 1e-16)
    np.testing.assert_allclose(rates_of_kernel(schedule, steps), wanted, 1e-13, 1e-16)
    np.testing.assert_allclose([schedule(t) for t in steps], wanted, 1e-13, 1e-16)


def test_restarts_lengthen_their_period():
    schedule = Cosine(0.5, 10, restarts=True, multiplier=3)
    starts = [5 * (3**k - 1) for k in (0, 1, 2, 3, 30)]
    for rates in (schedule(starts), rates_of_kernel(schedule, starts)):
        np.testing.assert_array_equal(rates, 0.5)
    assert max(schedule(np.array(starts[1:]) - 1)) < 0.013


def test_cycles_double_their_length():
    """Of 150 steps the cycles take 10, 20, 40 and 80; each begins at 0 and has its peak at its 0.414th part."""
    schedule = CosLog4(0.5, 150)
    for rates in (schedule(range(200)), rates_of_kernel(schedule, range(200))):
        np.testing.assert_allclose(rates[[0, 10, 30, 70, *range(150, 200)]], 0, atol=1e-16)
        peaks = np.flatnonzero((rates[1:-1] > rates[:-2]) & (rates[1:-1] > rates[2:])) + 1
        np.testing.assert_allclose(peaks, [10 * (2 ** (k + 0.5) - 1) for k in range(4)], atol=0.5)
        assert (rates >= 0).all() and rates.max() <= 0.5


def test_a_schedule_takes_a_number_or_an_array():
    schedule = Exponential(1.0, 0.5)
    assert type(schedule(3)) is float and schedule(3) == schedule(np.int32(3)) == 0.125
    result = schedule(np.array([[0, 1], [2, 3]], np.uint8))
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, [[1, 0.5], [0.25, 0.125]])
    assert schedule(np.zeros(0, int)).shape == (0,)
    for step, error in ((-1, ValueError), ([3, -2], ValueError), (1.0, TypeError), ("3", TypeError), (True, TypeError)):
        with pytest.raises(error, match="step must be"):
            schedule(step)


@numba.njit(**FLAGS)
def rate(kind, hyperparameters, step):
    return schedule_kernels.rate_at(kind, pointer(hyperparameters, 0), step), peek(pointer(hyperparameters, 0), 0)


def test_rate_of_one_step_in_compiled_code():
    schedule = Cosine(0.5, 8, 0.1)
    assert rate(tables.KINDS[schedule.kind], np.array(schedule.hyperparameters), 4) == (
        pytest.approx(0.3, rel=1e-15),
        0.5,
    )


# ------------------------------------------------------------------ the tables


def test_tables_agree():
    assert list(reference.schedules.RATES) == list(tables.KINDS)
    assert {schedule.kind for schedule, _ in EXAMPLES} == set(tables.KINDS) - {"table"}  # that of functions
    for optimizer in (*[kind() for kind in BY_STEPS[1:]], fastbp.SGD(1), fastbp.SGD(1, 0.5), fastbp.SGD(1, 0.5, True)):
        assert optimizer.n_states == tables.RULES[optimizer.rule].n_states
        assert all(type(number) is float for number in optimizer.hyperparameters)
    for schedule, _ in EXAMPLES:
        assert all(type(number) is float for number in schedule.hyperparameters)


@pytest.mark.parametrize("optimizer", [fastbp.LBFGS(), fastbp.LevenbergMarquardt()], ids=repr)
def test_full_batch_methods_have_a_loop(optimizer):
    assert optimizers.minimize.dispatch(type(optimizer)) is not optimizers.minimize.dispatch(object)
    with pytest.raises(AttributeError, match="'minimise': it is called 'minimize'"):
        optimizer.minimise(None)


def test_optimizers_that_share_a_state():
    rows = [fastbp.SGD(1), fastbp.SGD(1, 0.5), *[kind() for kind in optimizers.OPTIMIZERS[1:]]]
    shared = {(type(a), type(b)) for a in rows for b in rows if a is not b and optimizers.share_state(a, b)}
    assert shared == {(fastbp.Adam, fastbp.AdamW), (fastbp.AdamW, fastbp.Adam)}
    assert all(optimizers.share_state(row, row) for row in rows)
    assert not optimizers.share_state(fastbp.AdamW(), fastbp.AdamW(input_scale_lr=1.0))


@pytest.mark.parametrize(
    "kind, settings, old, new",
    [
        (fastbp.Rprop, {}, "least", "min_step"),
        (fastbp.Rprop, {}, "most", "max_step"),
        (Cosine, {"lr": 0.5, "period": 5}, "least", "min_lr"),
        (OneCycle, {"lr": 0.5, "steps": 9}, "rise", "pct_start"),
    ],
)
def test_old_names_of_settings_are_refused(kind, settings, old, new):
    with pytest.raises(TypeError, match=f"'{old}': it is called '{new}'"):
        kind(**settings, **{old: 0.05})
    with pytest.raises(AttributeError, match=f"'{old}': it is called '{new}'"):
        getattr(kind(**settings), old)
    value = getattr(kind(**settings, **{new: 0.25}), new)
    assert value == 0.25
    unpickled = object.__new__(kind)
    unpickled.__setstate__({**settings, old: 0.25})
    assert getattr(unpickled, new) == 0.25


@pytest.mark.parametrize(
    "optimizer, written",
    [
        (fastbp.Rprop(0.1, min_step=0.01), "Rprop(lr=0.1, eta_minus=0.5, eta_plus=1.2, least=0.01, most=50.0)"),
        (
            fastbp.Rprop(Cosine(0.1, 9, min_lr=0.01), max_step=2),
            "Rprop(lr=Cosine(lr=0.1, period=9, least=0.01, warmup=0, restarts=False, multiplier=1), eta_minus=0.5, "
            "eta_plus=1.2, least=1e-06, most=2)",
        ),
        (
            fastbp.SGD(OneCycle(0.1, 40, pct_start=0.25)),
            "SGD(lr=OneCycle(lr=0.1, steps=40, rise=0.25, div_factor=25.0, final_div_factor=10000.0), momentum=0.0, "
            "nesterov=False)",
        ),
        (fastbp.Adam(0.1), "Adam(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-08)"),
        (
            fastbp.AdamW(OneCycle(0.1, 40)),
            "AdamW(lr=OneCycle(lr=0.1, steps=40, rise=0.3, div_factor=25.0, final_div_factor=10000.0), beta1=0.9, "
            "beta2=0.999, eps=1e-08, weight_decay=0.01)",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_how_version_0_1_described_an_optimizer_in_a_checkpoint(optimizer, written):
    assert optimizers.described_today(written) == optimizers.described(optimizer)
    assert optimizers.described_today(optimizers.described(optimizer)) == optimizers.described(optimizer)


def test_the_description_tells_what_decays():
    optimizer = fastbp.AdamW(decay_biases=False)
    assert optimizers.described_today(optimizers.described(optimizer)) == optimizers.described(optimizer)
    assert optimizers.described(optimizer) != optimizers.described(fastbp.AdamW())
    assert optimizers.described(optimizer) != optimizers.described(fastbp.AdamW(input_scale_lr=1.0))


def test_what_earlier_versions_said_of_decay():
    for decays in (True, False):
        written = optimizers.described(fastbp.AdamW(0.5, decay_biases=decays)).replace(", input_scale_lr=0.0", "")
        assert written.endswith(f"decay_biases={decays})")
        assert optimizers.described_today(written) == optimizers.described(fastbp.AdamW(0.5, decay_biases=decays))


def test_schedule_of_a_learning_rate():
    assert optimizers.schedule_of(1) == ("constant", (1.0,))
    schedule = Exponential(0.1, 0.9)
    assert (
        optimizers.schedule_of(fastbp.Adam(schedule).lr)
        == ("exponential", (0.1, 0.9))
        == (schedule.kind, schedule.hyperparameters)
    )


def rate_of_a_step(step):
    return 0.1 / (1 + step)


def test_a_learning_rate_may_be_a_function_of_the_step():
    optimizer = fastbp.Adam(rate_of_a_step)
    assert optimizers.schedule_of(optimizer.lr) == ("table", rate_of_a_step)
    assert optimizers.described(optimizer) == "Adam(lr=<function rate_of_a_step>, beta1=0.9, beta2=0.999, eps=1e-08)"
    table = reference.schedules.table_of(rate_of_a_step, 5, 4)
    np.testing.assert_array_equal(table, [5, 0.1 / 6, 0.1 / 7, 0.1 / 8, 0.1 / 9])
    out = np.full(3, np.nan)
    for learning_rate in (kernels.learning_rate, reference.learning_rate):
        learning_rate(tables.KINDS["table"], table, np.array([8, 5, 7]), out)
        np.testing.assert_array_equal(out, table[[4, 1, 3]])


@pytest.mark.parametrize("kind", BY_STEPS)
@pytest.mark.parametrize(
    "lr, error, words",
    [
        (Cosine, TypeError, "lr must be a number, one of fastbp.schedules or a function of the step, got <class"),
        (lambda step: step - 1.0, ValueError, r"lr\(0\) must be at least 0, got -1.0"),
        (lambda step: math.nan, ValueError, r"lr\(0\) must be at least 0, got nan"),
        (lambda step: "fast", TypeError, r"lr\(0\) must be a number, got 'fast'"),
        (lambda step: None, TypeError, r"lr\(0\) must be a number, got None"),
        (lambda: 0.1, TypeError, "positional argument"),
    ],
)
def test_functions_that_are_no_learning_rate(kind, lr, error, words):
    with pytest.raises(error, match=words):
        kind(lr)


def test_settings_are_frozen_and_comparable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        fastbp.Adam().lr = 3
    assert fastbp.Adam() == fastbp.Adam(0.001) != fastbp.AdamW()
    assert hash(Piecewise([2], [1, 2])) == hash(Piecewise(np.array([2]), (1, 2)))
    assert repr(fastbp.AdamW(Constant(0.5))) == (
        "AdamW(lr=Constant(lr=0.5), beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0.01, decay_biases=True, "
        "input_scale_lr=0.0)"
    )


@pytest.mark.parametrize(
    "kind, settings, error, words",
    [
        *[
            (kind, dict(lr=lr), error, "lr must be")
            for kind in BY_STEPS
            for lr, error in (
                (0, ValueError),
                (-1.0, ValueError),
                (math.nan, ValueError),
                ("fast", TypeError),
                (True, TypeError),
            )
        ],
        (fastbp.RMSprop, dict(rho=1.0), ValueError, "rho must be at least 0 and below 1, got 1.0"),
        (fastbp.RMSprop, dict(eps=0), ValueError, "eps must be above 0"),
        (fastbp.Adagrad, dict(eps=-1), ValueError, "eps must be above 0"),
        (fastbp.Adam, dict(beta1=-0.1), ValueError, "beta1"),
        (fastbp.Adam, dict(beta2=1), ValueError, "beta2"),
        (fastbp.AdamW, dict(beta2=1), ValueError, "beta2"),
        (fastbp.AdamW, dict(eps="x"), TypeError, "eps"),
        (fastbp.AdamW, dict(weight_decay=-1), ValueError, "weight_decay must be at least 0"),
        (fastbp.AdamW, dict(input_scale_lr=-1), ValueError, "input_scale_lr must be at least 0"),
        (fastbp.AdamW, dict(input_scale_lr=True), TypeError, "input_scale_lr must be a number"),
        (fastbp.AdamW, dict(decay_biases=1), TypeError, "decay_biases must be True or False, got 1"),
        (fastbp.Nadam, dict(momentum_decay=-1), ValueError, "momentum_decay"),
        (fastbp.Lion, dict(beta1=2), ValueError, "beta1"),
        (fastbp.Lion, dict(weight_decay=None), TypeError, "weight_d"),
        (fastbp.Rprop, dict(eta_minus=1), ValueError, "eta_m"),
        (fastbp.Rprop, dict(eta_plus=1), ValueError, "eta_p"),
        (fastbp.Rprop, dict(min_step=0), ValueError, "min_step"),
        (fastbp.Rprop, dict(min_step=3, max_step=2), ValueError, "max_step"),
        (Constant, dict(lr=0), ValueError, "lr must be above 0, got 0"),
        (Constant, dict(lr=Constant(1)), TypeError, "lr"),
        (Step, dict(lr=1, every=0), ValueError, "every"),
        (Step, dict(lr=1, every=2.5), TypeError, "every"),
        (Step, dict(lr=1, every=1, gamma=0), ValueError, "gamma"),
        (Exponential, dict(lr=1, gamma=-1), ValueError, "gamma"),
        (InverseScaling, dict(lr=1, power=-1), ValueError, "power"),
        (Cosine, dict(lr=1, period=0), ValueError, "period"),
        (Cosine, dict(lr=1, period=5, min_lr=-1), ValueError, "min_lr"),
        (Cosine, dict(lr=1, period=5, min_lr=2), ValueError, "min_lr must be at most lr=1, got 2"),
        (Cosine, dict(lr=1, period=5, warmup=-1), ValueError, "warmup"),
        (Cosine, dict(lr=1, period=5, restarts=1), TypeError, "restarts"),
        (Cosine, dict(lr=1, period=5, restarts=True, multiplier=1.5), TypeError, "multiplier"),
        (Cosine, dict(lr=1, period=5, multiplier=2), ValueError, "multiplier=2 needs restarts=True"),
        (OneCycle, dict(lr=1, steps=3), ValueError, r"pct_start \* steps must be above 1, got 0.3 \* 3"),
        (OneCycle, dict(lr=1, steps=9, pct_start=1), ValueError, "pct_start"),
        (OneCycle, dict(lr=1, steps="9"), TypeError, "steps"),
        (OneCycle, dict(lr=1, steps=9, div_factor=0), ValueError, "div_factor"),
        (OneCycle, dict(lr=1, steps=9, final_div_factor=0), ValueError, "final_div_factor"),
        (CosLog4, dict(lr=0, steps=9), ValueError, "lr must be above 0, got 0"),
        (CosLog4, dict(lr=1, steps=0), ValueError, "steps must be at least 1, got 0"),
        (CosLog4, dict(lr=1, steps=1.5), TypeError, "steps must be an integer, got 1.5"),
        (Piecewise, dict(boundaries=3, rates=[1]), TypeError, "boundaries must be a sequence of numbers, got 3"),
        (Piecewise, dict(boundaries=[3, 3], rates=[1, 1, 1]), ValueError, r"boundaries\[1\] must be at least 4, got 3"),
        (Piecewise, dict(boundaries=[0], rates=[1, 1]), ValueError, r"boundaries\[0\]"),
        (Piecewise, dict(boundaries=[3], rates=[1]), ValueError, "rates must be 2 numbers, one more than .* got 1"),
        (Piecewise, dict(boundaries=[3], rates=[1, 0]), ValueError, r"rates\[1\] must be above 0"),
    ],
)
def test_bad_settings(kind, settings, error, words):
    with pytest.raises(error, match=words):
        kind(**settings)
