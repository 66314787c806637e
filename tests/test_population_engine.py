"""The compiled engines of populations against one network after the other, to the bit, and their products."""

import ctypes

import numpy as np
import pytest
from fastbp.kernels.library import native_function
from fastbp.kernels.plan import registers_of_group
from fastbp.kernels.tables import RULES
from numpy.random import default_rng

import fastbp
from fastbp.backends import make_backend, make_population_backend
from fastbp.engine import limits
from fastbp.engine import population as engine_population
from fastbp.engine.population import _InterleavedTraining, _TrainingJobs, register_width
from fastbp.reference.population import PopulationBackend as OneByOne
from fastbp.update import PopulationData, PopulationState, Update, aligned_rows

N, GUARD = 27, 7.25  # networks: several registers and a part of another; what surrounds arrays that kernels write to


def trained(backend, config, data, *, rule, hyperparameters, batch, epochs, orders, order_of, updates):
    """Train part of an epoch, then whole ones; return all that training leaves, and what is predicted after it."""
    n_parameters, dtype = backend.n_parameters, np.dtype(config.dtype)
    memory = aligned_rows((N + 2, n_parameters), dtype)
    memory[:] = default_rng(1).normal(size=memory.shape) * 0.4
    memory[0] = memory[-1] = GUARD
    parameters, state = memory[1:-1], PopulationState([RULES[rule].n_states] * N, n_parameters, dtype)
    train = backend.training(parameters, state, updates=updates, batch_size=batch)
    members, n_batches = np.arange(N)[::-1].copy(), -(-orders.shape[2] // batch)
    first, losses = np.zeros((N, 1)), np.zeros((N, epochs))
    n_first = max(1, n_batches // 2)
    done = [train(members, data, orders[:, :1], order_of, 0, n_first, first)]
    done.append(train(members[2:], data, orders, order_of[2:], n_first % n_batches, n_batches, losses[2:]))
    assert (memory[0] == GUARD).all() and (memory[-1] == GUARD).all()
    X, Y, _ = data
    return {
        "parameters": parameters.copy(),
        "states": state.buffers.copy(),
        "running products": state.running_products,
        "steps": state.step,
        "done": np.concatenate(done),
        "losses": np.concatenate([first, losses], axis=1),
        "outputs": backend.predict(parameters, members, X),
        "sums of losses": backend.losses(parameters, members, X, Y),
    }


def choose(backend, engine):
    """Let a backend train by an engine: the name, and how many registers of networks are interleaved."""
    backend.engine, backend.n_registers = engine


def check(engine, sizes, activations, loss, bits=True, **options):
    """Compare a compiled engine with the networks one by one; what is not bits is compared to rounding."""
    dtype, rule = np.dtype(options.pop("dtype", "f4")), options.pop("rule", "sgd")
    rows, batch, epochs = options.pop("rows", 23), options.pop("batch", 7), options.pop("epochs", 3)
    own, n_orders, x_dtype = options.pop("own", False), options.pop("n_orders", 1), options.pop("x_dtype", dtype)
    has_labels, has_weights = options.pop("labels", False), options.pop("weights", False)
    hyperparameters, scale = options.pop("hyperparameters", ()), options.pop("scale", 1.0)
    config = fastbp.Network(sizes, activations, loss, dtype=dtype, input_scale=scale)._config
    rng, axes = default_rng(0), (N,) if own else ()
    X = rng.normal(size=(*axes, rows, sizes[0])) * (100 if x_dtype == np.uint8 else 1)
    X = np.abs(X).astype(x_dtype) if x_dtype == np.uint8 else X.astype(x_dtype)
    Y = rng.uniform(0.1, 0.9, (*axes, rows, sizes[-1])).astype(dtype)
    if has_labels:
        Y = rng.integers(0, sizes[-1], (*axes, rows))
    elif activations[-1] == "softmax":
        Y /= Y.sum(axis=-1, keepdims=True)
    weights = rng.uniform(0.5, 2, (*axes, rows)).astype(dtype) if has_weights else None
    rates = options.pop("rates", lambda i: (0.05 * (1 + i / N),))
    updates = [
        Update(
            rule=rule,
            hyperparameters=hyperparameters,
            rates=rates(i),
            key=2**63 + 7919 * i,
            **{name: value(i) if callable(value) else value for name, value in options.items()},
        )
        for i in range(N)
    ]
    call = {
        "rule": rule,
        "hyperparameters": hyperparameters,
        "batch": batch,
        "epochs": epochs,
        "orders": np.stack([np.stack([rng.permutation(rows) for _ in range(epochs)]) for _ in range(n_orders)]),
        "order_of": np.arange(N) % n_orders,
        "updates": updates,
    }
    compiled = make_population_backend("numba", config)
    choose(compiled, engine)
    data = PopulationData(X, Y, weights)
    actual = trained(compiled, config, data, **call)
    expected = trained(OneByOne(make_backend("numba", config)), config, data, **call)
    unit = np.finfo(dtype).eps
    for name, value in expected.items():
        if name == "sums of losses" or not bits or (name == "losses" and options.get("weighted_mean")):
            tolerance = (1e3 if not bits else 10) * (unit if not bits else np.finfo(np.float64).eps)
            np.testing.assert_allclose(actual[name], value, tolerance, tolerance * np.abs(value).max(initial=1), name)
        else:
            np.testing.assert_array_equal(actual[name], value, name)


ADAM = {"rule": "adam", "hyperparameters": (0.9, 0.999, 1e-8)}
HIDDEN, ERROR = (6, 19, 7, 3), ("relu", "tanh", "identity")
CASES = {
    "plain": ((8, 16, 1), ("tanh", "identity"), "squared_error", {}),
    "labels": ((8, 13, 10), ("relu", "softmax"), "cross_entropy", {"labels": True}),
    "rows of classes": ((8, 13, 10), ("relu", "softmax"), "cross_entropy", {}),
    "more classes than lanes": ((5, 9, 21), ("sigmoid", "softmax"), "cross_entropy", {"labels": True}),
    "own data": ((8, 16, 3), ("tanh", "identity"), "squared_error", {"own": True, "weights": True}),
    "own labels": ((8, 16, 3), ("tanh", "softmax"), "cross_entropy", {"own": True, "labels": True}),
    "shared weights": ((8, 16, 3), ("tanh", "identity"), "squared_error", {"weights": True}),
    "orders": ((8, 16, 3), ("tanh", "softmax"), "cross_entropy", {"labels": True, "n_orders": 3}),
    "float64": ((8, 16, 3), ("tanh", "softmax"), "cross_entropy", {"labels": True, "dtype": "f8", **ADAM}),
    "adam": ((4, 9, 7, 3), ("gelu", "mish", "softmax"), "cross_entropy", {"labels": True, **ADAM}),
    "two blocks": (
        (4, 9, 7, 3),
        ("gelu", "mish", "identity"),
        "huber",
        {"rule": "nadam", "hyperparameters": (0.9, 0.999, 1e-8, 0.99), "rows": 150, "batch": 100},
    ),
    "full batch": (
        (4, 9, 7, 3),
        ("silu", "softsign", "identity"),
        "log_cosh",
        {"rule": "rprop", "hyperparameters": (0.5, 1.2, 1e-6, 50.0), "rows": 300, "batch": 300},
    ),
    "dropout": (HIDDEN, ERROR, "squared_error", {"dropout": lambda i: (0.1 * (i % 4), 0.2)}),
    "penalties": (
        HIDDEN,
        ERROR,
        "squared_error",
        {"l1": lambda i: 1e-3 * (i + 1), "l2": lambda i: 1e-2 * (i + 1), "clip_value": lambda i: 0.05 * (i + 1)},
    ),
    "smoothing": (
        HIDDEN,
        ("relu", "tanh", "softmax"),
        "cross_entropy",
        {"labels": True, "label_smoothing": lambda i: 0.01 * (i + 1)},
    ),
    "yes and no": ((6, 19, 1), ("relu", "sigmoid"), "binary_cross_entropy", {}),
    "labels of sigmoid": ((6, 19, 4), ("relu", "sigmoid"), "cross_entropy", {"labels": True}),
    "weighted mean": (
        (6, 19, 4),
        ("relu", "identity"),
        "squared_error",
        {"weighted_mean": True, "l2": lambda i: 0.1 * i, "loss_scale": 0.5},
    ),
    "norms": (
        (6, 19, 4),
        ("relu", "identity"),
        "squared_error",
        {"clip_norm": lambda i: 0.1 * (i + 1), "max_norm": 1.0, "input_noise": lambda i: 0.1 * (i + 1)},
    ),
    "cosine": (
        (6, 19, 4),
        ("relu", "identity"),
        "squared_error",
        {"schedule": "cosine", "rates": lambda i: (0.1 * (i + 1) / N, 0.0, 3.0, 50.0, 0.0)},
    ),
    "nesterov": (
        (6, 19, 4),
        ("relu", "identity"),
        "squared_error",
        {
            "schedule": "exponential",
            "rates": lambda i: (0.1, 0.9 + 0.099 * i / N),
            "rule": "nesterov",
            "hyperparameters": (0.9,),
        },
    ),
    "decay of weights": (
        (6, 19, 4),
        ("relu", "identity"),
        "squared_error",
        {"rule": "adamw_weights", "hyperparameters": (0.9, 0.999, 1e-8, 0.5)},
    ),
    "scaled inputs": (
        (6, 19, 4),
        ("relu", "identity"),
        "squared_error",
        {"rule": "adamw_scaled", "hyperparameters": (0.9, 0.999, 1e-8, 0.5, 8.0, 0.2)},
    ),
    "wide": ((70, 133, 5), ("sigmoid", "sigmoid"), "squared_error", {}),
    "converted": ((8, 16, 3), ("tanh", "identity"), "squared_error", {"x_dtype": np.float64, "scale": 0.5}),
    "own bytes": ((8, 16, 3), ("tanh", "identity"), "squared_error", {"x_dtype": np.uint8, "scale": 0.01, "own": True}),
    "bytes": ((8, 16, 3), ("tanh", "identity"), "squared_error", {"x_dtype": np.uint8, "scale": 0.01}),
}


ENGINES = {"interleaved": ("interleaved", 1), "groups": ("interleaved", 4), "jobs": ("jobs", None)}


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_networks_train_to_the_bits_that_they_get_alone(engine, case):
    sizes, activations, loss, options = CASES[case]
    check(engine, sizes, activations, loss, **options)


@pytest.fixture
def cut_jobs(monkeypatch):
    """Two threads train an odd number of networks, in four parts; return the numbers of parts."""
    parts, launch = [], engine_population._Jobs._launch

    def counted(self, *arguments):
        parts.append(arguments[9] if len(arguments) > 9 else 1)
        launch(self, *arguments)

    monkeypatch.setattr(engine_population, "MAX_CUT", 100)
    monkeypatch.setattr(limits, "MIN_PARALLEL_WORK", 0)
    monkeypatch.setattr(engine_population.pools, "get_num_threads", lambda: 2)
    monkeypatch.setattr(engine_population._Jobs, "_launch", counted)
    return parts


@pytest.mark.parametrize("case", ["dropout", "decay of weights", "scaled inputs", "cosine", "own bytes"])
def test_parts_of_an_epoch_on_several_threads(case, cut_jobs):
    sizes, activations, loss, options = CASES[case]
    check(ENGINES["jobs"], sizes, activations, loss, **{**options, "rows": 51, "batch": 5, "epochs": 1})
    assert cut_jobs.count(4) >= 2


def test_a_network_that_fails_in_a_part_has_no_later_ones(cut_jobs):
    config = fastbp.Network((3, 4, 2), "identity", "squared_error", dtype="f4")._config
    backend = make_population_backend("numba", config)
    choose(backend, ENGINES["jobs"])
    X, Y = default_rng(0).normal(size=(24, 3)).astype("f4"), default_rng(1).normal(size=(24, 2)).astype("f4")
    rates = [1e36 if i in (2, 20) else 0.01 for i in range(N)]

    def train(n_networks):
        parameters = aligned_rows((N, backend.n_parameters), "f4")
        parameters[:] = default_rng(2).normal(size=parameters.shape)
        state = PopulationState([0] * N, backend.n_parameters, "f4")
        call = backend.training(parameters, state, updates=[Update(rates=(rate,)) for rate in rates], batch_size=2)
        losses, orders = np.zeros((n_networks, 1)), np.arange(24)[None, None]
        members = np.arange(n_networks)
        done = call(members, PopulationData(X, Y), orders, np.zeros(n_networks, np.int64), 0, 12, losses)
        return parameters[:26], done[:26], losses[:26], state.step[:26]

    whole, in_parts = train(N - 1), train(N)
    assert cut_jobs == [1, 4]
    for one, other in zip(whole, in_parts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert in_parts[1][2] == in_parts[1][20] < 3 and (np.delete(in_parts[1], [2, 20]) == 12).all()


def test_groups_are_of_small_networks():
    """As many registers as fit, but enough groups for the threads."""
    registers = {
        (sizes, batch, n): registers_of_group(sizes, batch, n_states=0, lanes=8, itemsize=4, n_networks=n)
        for sizes, batch in (((2, 2, 1), 4), ((8, 16, 1), 8), ((64, 30, 10), 10))
        for n in (7, 128, 1024, 10**6)
    }
    assert [registers[(2, 2, 1), 4, n] for n in (7, 128, 1024, 10**6)] == [1, 2, 8, 8]
    assert [registers[(8, 16, 1), 8, n] for n in (7, 128, 1024, 10**6)] == [1, 2, 2, 2]
    assert {registers[(64, 30, 10), 10, n] for n in (7, 128, 1024, 10**6)} == {1}


@pytest.mark.parametrize(
    "sizes, n, threads, weighted_mean, engine",
    [
        ((30, 32, 4), 11, 2, False, "jobs"),
        ((8, 16, 3), 11, 2, False, "interleaved"),
        ((30, 32, 4), 64, 2, False, "interleaved"),
        ((30, 32, 4), 64, 1, True, "jobs"),
        ((30, 32, 4), 64, 2, True, "jobs"),
        ((8, 16, 3), 11, 2, True, "interleaved"),
    ],
)
def test_networks_train_one_by_one_where_groups_leave_threads_idle(sizes, n, threads, weighted_mean, engine):
    """Eleven are two registers of networks or fewer, of which the last is not full; threads never choose the bits."""
    batch = 7
    backend = make_population_backend("numba", fastbp.Network(sizes, "tanh", "squared_error")._config)
    parameters, state = (
        aligned_rows((n, backend.n_parameters), "f4"),
        PopulationState([0] * n, backend.n_parameters, "f4"),
    )
    train = backend.training(
        parameters, state, updates=[Update(weighted_mean=weighted_mean)] * n, batch_size=batch, threads=threads
    )
    X, Y = np.zeros((batch, sizes[0]), "f4"), np.zeros((batch, sizes[-1]), "f4")
    orders, of = np.arange(batch)[None, None], np.zeros(n, np.int64)
    train(np.arange(n), PopulationData(X, Y), orders, of, 0, 1, np.zeros((n, 1)))
    (part,) = train._parts.values()
    assert isinstance(part, {"jobs": _TrainingJobs, "interleaved": _InterleavedTraining}[engine])


@pytest.mark.parametrize("engine", [ENGINES["interleaved"], ENGINES["groups"]], ids=["interleaved", "groups"])
@pytest.mark.parametrize("batch", [1, 4])
def test_small_steps_agree_to_rounding(batch, engine):
    """Alone, samples one by one and samples in lanes have sums in another order."""
    check(engine, (2, 2, 1), ("sigmoid", "sigmoid"), "squared_error", bits=False, batch=batch, rows=8)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_a_network_whose_loss_is_not_finite_ends_alone(engine):
    config = fastbp.Network([3, 5, 2], ["tanh", "identity"], "squared_error")._config
    backend = make_population_backend("numba", config)
    choose(backend, engine)
    X, Y = default_rng(0).normal(size=(12, 3)).astype("f4"), default_rng(1).normal(size=(12, 2)).astype("f4")

    def train(rates):
        parameters = aligned_rows((N, backend.n_parameters), "f4")
        parameters[:] = default_rng(2).normal(size=parameters.shape)
        first, state = parameters.copy(), PopulationState([1] * N, backend.n_parameters, "f4")
        updates = [Update(rule="momentum", hyperparameters=(0.9,), rates=(rate,)) for rate in rates]
        call = backend.training(parameters, state, updates=updates, batch_size=3)
        losses, orders = np.zeros((N, 5)), np.tile(np.arange(12), (1, 5, 1))
        done = call(np.arange(N), PopulationData(X, Y), orders, np.zeros(N, np.int64), 0, 4, losses)
        return first, parameters, done, losses, state

    first, parameters, done, losses, state = train([0.01] * N)
    assert (done == 20).all() and (state.step == 20).all()
    wild = {2: 1e30, 20: 1e36}
    _, with_wild, done_wild, losses_wild, state_wild = train([wild.get(i, 0.01) for i in range(N)])
    others = [i for i in range(N) if i not in wild]
    np.testing.assert_array_equal(with_wild[others], parameters[others])
    np.testing.assert_array_equal(losses_wild[others], losses[others])
    np.testing.assert_array_equal(state_wild.buffers[:, others], state.buffers[:, others])
    assert (done_wild[others] == 20).all() and done_wild[2] == done_wild[20] == 1 and state_wild.step[2] == 1
    assert np.isfinite(with_wild[[2, 20]]).all() and not np.array_equal(with_wild[2], first[2])


@pytest.mark.parametrize("n_registers", [1, 3])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", ["product", "product_of_numbers"])
def test_products(name, dtype, n_registers):
    """Every size of tile; nothing around the result is touched."""
    width, rng, word = n_registers * register_width(np.dtype(dtype)), default_rng(3), ctypes.c_ssize_t
    call = ctypes.CFUNCTYPE(word, *[word] * 16)(native_function(f"interleaved.{name}").address(np.dtype(dtype)))
    for rows, columns, k in [(m, n, k) for m in (*range(1, 14), 17) for n in (*range(1, 12), 16) for k in (0, 1, 7)]:
        b = rng.normal(size=(k, columns, width)).astype(dtype)
        a = rng.normal(size=(rows, k, width) if name == "product" else (rows, k)).astype(dtype)
        start = rng.normal(size=(columns, width)).astype(dtype)
        c = np.full((rows + 2, columns, width), GUARD, dtype)
        step = width if name == "product" else 1
        call(
            *(n_registers, rows, columns, k, a.ctypes.data, k * step, step, b.ctypes.data, columns * width, width),
            *(c[1:].ctypes.data, columns * width, width, start.ctypes.data, 0, width),
        )
        of_each = a if name == "product" else np.repeat(a[..., None], width, axis=2)
        expected = start + np.einsum("rkw,kcw->rcw", of_each, b)
        np.testing.assert_allclose(c[1:-1], expected, 1e-4 if dtype == "f4" else 1e-12, 1e-5, f"{rows} {columns} {k}")
        assert (c[0] == GUARD).all() and (c[-1] == GUARD).all()
