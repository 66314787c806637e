"""A population trains as its networks would alone, whatever their settings, rows and orders, whenever each stops.

What each test compares with is a `Trainer` of one network, or a loop written out here.
"""

import copy
import pickle
import warnings
from typing import NamedTuple

import numpy as np
import pytest

import fastbp
from fastbp import callbacks, schedules
from fastbp.backends import kernels_of
from fastbp.engine.population import PopulationBackend
from fastbp.training import population_orders, population_run
from fastbp.update import PopulationState, aligned_rows

N_SAMPLES, N = 23, 6


class Engine(NamedTuple):
    """A backend of populations, and how near its numbers are to those of the backend of one network."""

    backend: str
    bitwise: bool  # else within `rtol` of the largest number
    kind: str | None = None  # of the compiled engine, see `fastbp.engine.population.PopulationBackend`
    rtol: float = 1e-4

    def are_same(self, actual, expected):
        actual, expected = np.asarray(actual), np.asarray(expected)
        if self.bitwise:
            return actual.shape == expected.shape and np.array_equal(actual, expected, equal_nan=True)
        atol = self.rtol * max(1.0, np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
        return actual.shape == expected.shape and np.allclose(actual, expected, self.rtol, atol, equal_nan=True)


# Networks alone add up their sums in another order where samples lie in lanes or come one by one.
ENGINES = [Engine("numpy", True), Engine("numba", True, "jobs"), Engine("numba", False, "interleaved")]


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.kind or engine.backend)
def engine(request, monkeypatch):
    monkeypatch.setattr(PopulationBackend, "engine", request.param.kind)
    return request.param


rng = np.random.default_rng(0)
X, Y = rng.normal(size=(N_SAMPLES, 3)), rng.uniform(size=(N_SAMPLES, 2))
XV, YV = rng.normal(size=(9, 3)), rng.uniform(size=(9, 2))
LABELS = rng.integers(0, 3, N_SAMPLES)


def population(engine, dtype="float32", **options):
    options = {"activations": "tanh", "loss": "squared_error", "seed": 1} | options
    sizes = options.pop("sizes", [3, 5, 2])
    return fastbp.Population(sizes, options.pop("n_networks", N), dtype=dtype, backend=engine.backend, **options)


def of_network(value, i):
    """Return the value of network i of a list of them, or the value of all."""
    return value[i] if isinstance(value, list) else value


def train_alone(pop, i, optimizer, settings, seed, x, y, fits, data_options):
    """Train network i of a population alone, in several calls of fit; return trainer and histories."""
    trainer = fastbp.Trainer(
        pop.network(i), of_network(optimizer, i), seed=seed, **{name: of_network(v, i) for name, v in settings.items()}
    )
    histories = [
        trainer.fit(of_network(x, i), of_network(y, i), **fit, **{k: of_network(v, i) for k, v in data_options.items()})
        for fit in fits
    ]
    return trainer, histories


def seeds_of(order, n=N, seed=5):
    return [seed] * n if order == "shared" else np.random.SeedSequence(seed).spawn(n)


def check(
    engine,
    pop,
    optimizer,
    settings=None,
    *,
    order="shared",
    x=X,
    y=Y,
    together=None,
    alone=None,
    fits=(3, 2),
    joined=None,
):
    """Train a population, and its networks alone, and compare all that is left."""
    settings, together, alone, fits = settings or {}, together or {}, alone or {}, (3, 2)
    first = pop.copy()
    as_arrays = {
        name: np.array(v) if isinstance(v, list) and name != "batch_size" else v for name, v in settings.items()
    }
    trainer = fastbp.Trainer(pop, joined or optimizer, seed=5, **as_arrays)
    stack_x, stack_y = (np.stack(v) if isinstance(v, list) else v for v in (x, y))
    histories = [
        trainer.fit(stack_x, stack_y, epochs=epochs, order=order if call == 0 else None, **together)
        for call, epochs in enumerate(fits)
    ]
    seeds = seeds_of(order, len(pop))
    each = [{"epochs": epochs} for epochs in fits]
    for i in range(len(pop)):
        lone, lone_histories = train_alone(first, i, optimizer, settings, seeds[i], x, y, each, alone)
        assert engine.are_same(pop.network(i).parameters, lone.net.parameters), i
        for history, lone_history in zip(histories, lone_histories, strict=True):
            for name, series in lone_history.recorded.items():
                assert engine.are_same(history.recorded[name][:, i], series), (i, name)
        group, row = pop._group_of[i], pop._row_of[i]
        state = trainer.states[group]
        assert state.step[row] == lone.state.step and state.skipped[row] == lone.state.skipped
        assert engine.are_same(state.buffers[: len(lone.state.buffers), row], lone.state.buffers)
        assert np.array_equal(trainer.lr[i], lone.lr) and is_in_order_of(trainer, i, lone)
    return trainer, histories


def is_in_order_of(trainer, i, lone):
    """Whether network i sees its rows from now on in the orders of a trainer of its own."""
    generator = trainer._streams.generators[trainer._streams.of[i]]
    return generator.bit_generator.state == lone.rng.bit_generator.state


LRS = [0.01, 0.02, 0.05, 0.01, 0.1, 0.2]
OPTIMIZERS = [
    fastbp.SGD(0.1),
    fastbp.SGD(0.1, momentum=0.9),
    fastbp.SGD(0.1, momentum=0.9, nesterov=True),
    fastbp.ClassicalSGD(0.1, momentum=0.5),
    fastbp.RMSprop(),
    fastbp.Adagrad(),
    fastbp.Adam(0.01),
    fastbp.AdamEpsHat(0.01),
    fastbp.AdamW(0.01),
    fastbp.AdamW(0.01, input_scale_lr=5.0),
    fastbp.Nadam(),
    fastbp.Lion(0.01),
    fastbp.Rprop(),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: f"{type(o).__name__}-{o.rule}")
def test_every_rule(engine, optimizer):
    check(engine, population(engine, n_networks=3), optimizer, {"batch_size": 8})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ["shared", "own"])
@pytest.mark.parametrize("batch_size", [1, 4, 23, None])
def test_orders_batches_and_dtypes(engine, dtype, order, batch_size):
    pop = population(engine, dtype)
    check(engine, pop, fastbp.SGD(0.1, momentum=0.5), {"batch_size": batch_size}, order=order)


def test_without_shuffling(engine):
    check(engine, population(engine), fastbp.SGD(0.1), {"batch_size": 4, "shuffle": False})


@pytest.mark.parametrize("reduction, loss, activations, y", [
    ("sum", "squared_error", "tanh", Y),
    ("mean", "cross_entropy", ["tanh", "softmax"], LABELS),
    ("mean", "binary_cross_entropy", ["relu", "sigmoid"], (Y > 0.5).astype(float)),
])  # fmt: skip
def test_losses_and_reductions(engine, reduction, loss, activations, y):
    sizes = [3, 5, 3 if y.ndim == 1 else 2]
    pop = population(engine, sizes=sizes, reduction=reduction, loss=loss, activations=activations)
    check(engine, pop, fastbp.SGD(0.02), {"batch_size": 8}, y=y)


@pytest.mark.parametrize("order", ["shared", "own"])
def test_settings_of_each_network(engine, order):
    """Arrays of every setting; keys of dropout and noise are those of the seeds."""
    settings = {
        "batch_size": [4, 4, 8, 23, 100, 1],
        "l1": [0.0, 0.01, 0.0, 0.02, 0.0, 0.0],
        "l2": [0.0, 0.01, 0.1, 0.0, 0.0, 0.3],
        "dropout": [0.0, 0.1, 0.5, 0.0, 0.2, 0.0],
        "clip_norm": [0.1, 1.0, 2.0, 0.5, 0.3, 0.2],
        "clip_value": [0.1, 0.1, 2.0, 0.5, 0.3, 0.2],
        "max_norm": [1.0, 2.0, 0.5, 1.0, 1.0, 1.0],
        "input_noise": [0.0, 0.1, 0.0, 0.2, 0.3, 0.0],
    }
    optimizer = [fastbp.Adam(lr=lr, beta1=0.8) for lr in LRS]
    check(engine, population(engine), optimizer, settings, order=order, joined=fastbp.Adam(lr=np.array(LRS), beta1=0.8))


def test_limits_and_batches_of_none(engine):
    settings = {"batch_size": [4, None, 4, None, 4, 4]}
    pop = population(engine)
    first = pop.copy()
    trainer = fastbp.Trainer(pop, fastbp.SGD(0.1), seed=5, clip_norm=[None, 0.1, None, 0.2, 0.1, None], **settings)
    trainer.fit(X, Y, epochs=3)
    for i, limit in enumerate([None, 0.1, None, 0.2, 0.1, None]):
        one = {"batch_size": settings["batch_size"][i], "clip_norm": limit}
        lone, _ = train_alone(first, i, fastbp.SGD(0.1), one, 5, X, Y, [{"epochs": 3}], {})
        assert engine.are_same(pop.network(i).parameters, lone.net.parameters)


def test_label_smoothing_of_each_network(engine):
    pop = population(engine, sizes=[3, 4, 3], loss="cross_entropy", activations=["tanh", "softmax"])
    check(engine, pop, fastbp.SGD(0.1), {"label_smoothing": [0.0, 0.1, 0.2, 0.0, 0.3, 0.1]}, y=LABELS)


def test_optimizers_and_schedules_of_each_network(engine):
    optimizer = [
        fastbp.SGD(schedules.Cosine(0.1, period=20)),
        fastbp.SGD(schedules.Step(0.1, every=5)),
        fastbp.Adam(0.01),
        fastbp.SGD(0.1, momentum=0.5),
        fastbp.SGD(0.2),
        fastbp.Lion(schedules.Exponential(0.01, gamma=0.99)),
    ]
    check(engine, population(engine), optimizer, {"batch_size": 8})


def test_learning_rates_that_are_functions(engine):
    lrs = [lambda step: 0.1 / (1 + step), 0.1, lambda step: 0.2 * 0.9**step, 0.1, schedules.Cosine(0.1, period=9), 0.2]
    optimizer = [fastbp.SGD(lr) for lr in lrs]
    check(engine, population(engine), optimizer, {"batch_size": 8}, joined=fastbp.SGD(lr=lrs))
    check(engine, population(engine), fastbp.SGD(lrs[0]), {"batch_size": 8})


def test_schedules_in_one_optimizer(engine):
    lrs = [schedules.Cosine(0.1, period=20), 0.1, schedules.Cosine(0.2, period=9), 0.2, 0.1, schedules.Constant(0.1)]
    momenta = [0.1, 0.5, 0.0, 0.9, 0.0, 0.5]
    optimizer = [fastbp.SGD(lr, momentum) for lr, momentum in zip(lrs, momenta, strict=True)]
    check(engine, population(engine), optimizer, {"batch_size": 8}, joined=fastbp.SGD(lr=lrs, momentum=momenta))


def test_scales_of_inputs_of_some_networks(engine):
    rates, decays = [0.0, 5.0, 20.0, 0.0, 5.0, 0.5], [True, False, True, False, True, False]
    optimizer = [fastbp.AdamW(0.01, decay_biases=d, input_scale_lr=r) for d, r in zip(decays, rates, strict=True)]
    joined = fastbp.AdamW(0.01, decay_biases=decays, input_scale_lr=rates)
    check(engine, population(engine), optimizer, {"batch_size": 8}, joined=joined)


@pytest.mark.parametrize("order", ["shared", "own"])
def test_several_architectures(engine, order):
    pop = population(engine, sizes=[[3, 5, 2], [3, 4, 4, 2], [3, 2]], n_networks=2)
    settings = {"batch_size": [4, 8, 4, 8, 4, 4], "l2": [0.0, 0.1, 0.2, 0.0, 0.1, 0.1]}
    check(engine, pop, fastbp.Adam(0.01), settings, order=order)


def test_dropout_of_layers(engine):
    pop = population(engine, sizes=[[3, 5, 2], [3, 4, 4, 2]], n_networks=3)
    check(engine, pop, fastbp.SGD(0.1), {"dropout": 0.3, "batch_size": 8})
    deep = population(engine, sizes=[3, 4, 4, 2])
    first = deep.copy()
    trainer = fastbp.Trainer(deep, fastbp.SGD(0.1), seed=5, dropout=np.linspace(0, 0.5, 2 * N).reshape(N, 2))
    trainer.fit(X, Y, epochs=2)
    for i, rates in enumerate(np.linspace(0, 0.5, 2 * N).reshape(N, 2).tolist()):
        lone, _ = train_alone(first, i, fastbp.SGD(0.1), {"dropout": tuple(rates)}, 5, X, Y, [{"epochs": 2}], {})
        assert engine.are_same(deep.network(i).parameters, lone.net.parameters)


def test_seeds_of_each_network(engine):
    pop = population(engine)
    first = pop.copy()
    seeds, lone_seeds = (
        [3, np.random.SeedSequence(4), np.random.default_rng(5), 11, 3, np.random.PCG64(7)] for _ in range(2)
    )
    trainer = fastbp.Trainer(pop, fastbp.SGD(0.1), batch_size=4, seed=seeds, dropout=0.2)
    trainer.fit(X, Y, epochs=3)
    for i in range(N):
        settings = {"batch_size": 4, "dropout": 0.2}
        lone, _ = train_alone(first, i, fastbp.SGD(0.1), settings, lone_seeds[i], X, Y, [{"epochs": 3}], {})
        assert engine.are_same(pop.network(i).parameters, lone.net.parameters)
        assert int(trainer.key[i]) == lone.key


@pytest.mark.parametrize("seed", [np.random.SeedSequence(3), None])
def test_seed_sequences_are_not_changed(engine, seed):
    pop = population(engine, n_networks=2)
    fastbp.Trainer(pop, fastbp.SGD(0.1), seed=seed).fit(X, Y, order="own")
    assert seed is None or seed.n_children_spawned == 0


def test_copies_of_seeds_give_the_same_numbers():
    """NumPy before 2.0 copies generators without the sequence that they spawn from."""
    seeds = [3, np.random.SeedSequence(4), np.random.default_rng(5), np.random.PCG64(7)]
    for seed, copied in zip(seeds, population_orders.copied(seeds), strict=True):
        one, other = (np.random.default_rng(s) for s in (seed, copied))
        assert one.random() == other.random() and one.spawn(1)[0].random() == other.spawn(1)[0].random()


# ------------------------------------------------------------------ data of each network

ROWS = [
    np.arange(12),
    np.array([3, 3, 1, 0, 22, 9, 9, 9, 9]),
    np.arange(12),
    np.arange(5, 17),
    np.array([0, 1]),
    np.arange(N_SAMPLES - 12, N_SAMPLES),
]


@pytest.mark.parametrize("order", ["shared", "own"])
def test_rows_of_each_network(engine, order):
    x, y = [X[rows] for rows in ROWS], [Y[rows] for rows in ROWS]
    pop = population(engine)
    first = pop.copy()
    trainer = fastbp.Trainer(pop, fastbp.SGD(0.1), batch_size=4, seed=5)
    histories = [trainer.fit(X, Y, epochs=epochs, order=order, train_rows=ROWS) for epochs in (3, 2)]
    for i, seed in enumerate(seeds_of(order)):
        fits = [{"epochs": 3}, {"epochs": 2}]
        lone, lone_histories = train_alone(first, i, fastbp.SGD(0.1), {"batch_size": 4}, seed, x, y, fits, {})
        assert engine.are_same(pop.network(i).parameters, lone.net.parameters), i
        for history, lone_history in zip(histories, lone_histories, strict=True):
            assert engine.are_same(history.loss[:, i], lone_history.loss)


def test_masks_and_matrices_of_rows(engine):
    mask = rng.uniform(size=(N, N_SAMPLES)) < 0.6
    results = []
    for rows in (mask, [np.flatnonzero(row) for row in mask], [row.tolist() for row in mask]):
        pop = population(engine)
        fastbp.Trainer(pop, fastbp.SGD(0.1), batch_size=4, seed=5).fit(X, Y, epochs=2, train_rows=rows)
        results.append(pop.parameters.copy())
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])
    matrix = rng.integers(-N_SAMPLES, N_SAMPLES, (N, 11))
    x, y = [X[rows] for rows in matrix], [Y[rows] for rows in matrix]
    pop = population(engine)
    first = pop.copy()
    fastbp.Trainer(pop, fastbp.SGD(0.1), batch_size=4, seed=5).fit(X, Y, epochs=2, train_rows=matrix)
    for i in range(N):
        lone, _ = train_alone(first, i, fastbp.SGD(0.1), {"batch_size": 4}, 5, x, y, [{"epochs": 2}], {})
        assert engine.are_same(pop.network(i).parameters, lone.net.parameters), i


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_samples_of_each_network(engine, dtype):
    x = [(rng.uniform(size=(N_SAMPLES, 3)) * 9).astype(dtype) for _ in range(N)]
    y = [rng.uniform(size=(N_SAMPLES, 2)) for _ in range(N)]
    pop = population(engine, sizes=[[3, 5, 2], [3, 4, 2]], n_networks=3)
    check(engine, pop, fastbp.SGD(0.01), {"batch_size": 4}, x=x, y=y)
    check(engine, pop, fastbp.SGD(0.01), {"batch_size": 4}, x=x, y=Y)
    check(engine, pop, fastbp.SGD(0.01), {"batch_size": 4}, x=X, y=y)


def test_labels_of_each_network(engine):
    y = [rng.integers(0, 3, N_SAMPLES) for _ in range(N)]
    pop = population(engine, sizes=[3, 4, 3], loss="cross_entropy", activations=["tanh", "softmax"])
    check(engine, pop, fastbp.SGD(0.1), {"batch_size": 4}, y=y)


def test_targets_of_one_output(engine):
    y = [rng.uniform(size=N_SAMPLES) for _ in range(N)]
    check(engine, population(engine, sizes=[3, 4, 1]), fastbp.SGD(0.1), {"batch_size": 4}, y=y)
    check(engine, population(engine, sizes=[3, 4, 1]), fastbp.SGD(0.1), {"batch_size": 4}, y=Y[:, 0])


def test_weights(engine):
    weights = [rng.uniform(size=N_SAMPLES) for _ in range(N)]
    pop = population(engine, sizes=[[3, 4, 3], [3, 5, 3]], n_networks=3, loss="cross_entropy",
                     activations=[["tanh", "softmax"]] * 2)  # fmt: skip
    optimizer, settings = fastbp.SGD(0.1), {"batch_size": 4}
    for together, alone in [
        ({"sample_weight": np.stack(weights)}, {"sample_weight": weights}),
        ({"sample_weight": weights[0]}, {"sample_weight": weights[0]}),
        ({"class_weight": {0: 2.0, 2: 0.5}}, {"class_weight": {0: 2.0, 2: 0.5}}),
        ({"class_weight": "balanced"}, {"class_weight": "balanced"}),
        ({"class_weight": "balanced", "sample_weight": np.stack(weights)},
         {"class_weight": "balanced", "sample_weight": weights}),
    ]:  # fmt: skip
        sample_weight = together.get("sample_weight")
        assert sample_weight is None or isinstance(sample_weight, np.ndarray)
        check(engine, pop, optimizer, settings, y=LABELS, together=together, alone=alone)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 2.0, 2: 0.5}])
def test_weights_of_rows(engine, class_weight):
    pop = population(engine, sizes=[3, 4, 3], loss="cross_entropy", activations=["tanh", "softmax"])
    first, weights = pop.copy(), rng.uniform(size=N_SAMPLES)
    fastbp.Trainer(pop, fastbp.SGD(0.1), batch_size=4, seed=5).fit(
        X, LABELS, epochs=3, train_rows=ROWS, sample_weight=weights, class_weight=class_weight
    )
    for i, rows in enumerate(ROWS):
        data = {"sample_weight": weights[rows], "class_weight": class_weight}
        settings, fits = {"batch_size": 4}, [{"epochs": 3}]
        lone, _ = train_alone(first, i, fastbp.SGD(0.1), settings, 5, X[rows], LABELS[rows], fits, data)
        assert engine.are_same(pop.network(i).parameters, lone.net.parameters), i


# ------------------------------------------------------------------ evaluation


def test_validation_and_metrics(engine):
    options = {"validation_data": (XV, YV), "metrics": ("mae", "r2", lambda A, Y: float(A[0, 0]))}
    pop = population(engine, sizes=[[3, 5, 2], [3, 4, 2]], n_networks=3)
    trainer, (first, second) = check(engine, pop, fastbp.Adam(0.01), {"batch_size": 8}, together=options, alone=options)
    assert {*second.metrics} == {"mae", "r2", "<lambda>", "validation_mae", "validation_r2", "validation_<lambda>"}
    assert np.array_equal(pop.losses, second.validation_loss[-1]) and pop.history is second
    assert np.array_equal(trainer.history["mae"], np.concatenate([first.metrics["mae"], second.metrics["mae"]]))
    for i in range(N):
        assert engine.are_same(pop.losses[i], pop.network(i).loss(XV, YV))


def test_metrics_of_classes_and_rows(engine):
    pop = population(engine, sizes=[3, 4, 3], loss="cross_entropy", activations=["tanh", "softmax"])
    rows = [np.arange(12), np.arange(3, 15), np.arange(12), np.arange(9), np.arange(14, 23), np.arange(20)]
    tests = [np.setdiff1d(np.arange(N_SAMPLES), one) for one in rows]
    first = pop.copy()
    history = fastbp.Trainer(pop, fastbp.SGD(0.1), batch_size=4, seed=5).fit(
        X, LABELS, epochs=3, train_rows=rows, validation_rows=tests, metrics=["accuracy", "f1"]
    )
    for i in range(N):
        data = {"validation_data": (X[tests[i]], LABELS[tests[i]]), "metrics": ("accuracy", "f1")}
        x, y = X[rows[i]], LABELS[rows[i]]
        _, (lone,) = train_alone(first, i, fastbp.SGD(0.1), {"batch_size": 4}, 5, x, y, [{"epochs": 3}], data)
        assert {*lone.recorded} == {*history.recorded}
        for name, series in lone.recorded.items():
            assert engine.are_same(history.recorded[name][:, i], series), (i, name)


def test_validation_data_of_each_network(engine):
    xv, yv = rng.normal(size=(N, 9, 3)), rng.uniform(size=(N, 9, 2))
    rows = [np.arange(2 + i) for i in range(N)]
    pop = population(engine, sizes=[[3, 5, 2], [3, 4, 2]], n_networks=3)
    history = fastbp.Trainer(pop, fastbp.SGD(0.1), seed=5).fit(X, Y, validation_data=(xv, yv))
    for i in range(N):
        assert engine.are_same(history.validation_loss[0, i], pop.network(i).loss(xv[i], yv[i]))
    history = fastbp.Trainer(pop, fastbp.SGD(0.1), seed=5).fit(X, Y, validation_data=(xv, yv), validation_rows=rows)
    for i in range(N):
        assert engine.are_same(history.validation_loss[0, i], pop.network(i).loss(xv[i, : 2 + i], yv[i, : 2 + i]))
    history = fastbp.Trainer(pop, fastbp.SGD(0.1), seed=5).fit(X, Y, validation_data=(XV, YV), validation_rows=rows)
    for i in range(N):
        assert engine.are_same(history.validation_loss[0, i], pop.network(i).loss(XV[: 2 + i], YV[: 2 + i]))


@pytest.mark.parametrize("targets", [Y, LABELS], ids=["numbers", "labels"])
def test_as_many_other_rows_for_each_network_are_evaluated_in_one_call(engine, monkeypatch, targets):
    shape, calls = {"sizes": [3, 4, 2]}, []
    if targets is LABELS:
        shape = {"sizes": [3, 4, 3], "loss": "cross_entropy", "activations": ["tanh", "softmax"]}
    pop = population(engine, **shape)
    rows = [np.roll(np.arange(N_SAMPLES), i)[:7] for i in range(N)]
    backend = pop.groups[0].backend
    losses = backend.losses
    monkeypatch.setattr(backend, "losses", lambda *of_call: calls.append(of_call[1]) or losses(*of_call))

    class StopsOne(fastbp.callbacks.Callback):
        def on_epoch_end(self, trainer, history):
            trainer.stopped[2] = True

    history = fastbp.Trainer(pop, fastbp.SGD(0.1), seed=5).fit(
        X, targets, 2, validation_rows=rows, callbacks=[StopsOne()]
    )
    assert [members.tolist() for members in calls] == [[0, 1, 2, 3, 4, 5], [0, 1, 3, 4, 5]]
    for i in range(N):
        lone = pop.network(i).loss(X[rows[i]], targets[rows[i]])
        assert engine.are_same(history.validation_loss[0 if i == 2 else 1, i], lone)


def test_evaluation_in_parts(engine, monkeypatch):
    """Calls of few networks and few rows give the same losses, to rounding, and the same outputs."""
    from fastbp.training import population_data

    histories = []
    for numbers in (population_data.PREDICTED_NUMBERS, 5000, 1):
        monkeypatch.setattr(population_data, "PREDICTED_NUMBERS", numbers)
        for x in (X, np.stack([X] * N)):
            pop = population(engine, "float64")
            trainer = fastbp.Trainer(pop, fastbp.SGD(0.1), seed=5)
            histories.append(trainer.fit(x, Y, epochs=2, validation_data=(x, Y), metrics="mae"))
    for history in histories[1:]:
        np.testing.assert_allclose(history.validation_loss, histories[0].validation_loss, rtol=1e-13)
        np.testing.assert_allclose(history.metrics["mae"], histories[0].metrics["mae"], rtol=1e-13)


def test_predictions_are_kept_for_selection(engine):
    pop = population(engine)
    trainer = fastbp.Trainer(pop, fastbp.SGD(0.1), seed=5)
    trainer.fit(X, Y, validation_data=(XV, YV))
    A, y = pop._kept_validation
    assert engine.are_same(A, pop.predict(XV)) and np.array_equal(y, YV.astype("f4"))
    trainer.fit(X, Y, validation_data=(XV, YV), keep_predictions=False)
    assert pop._kept_validation is None
    trainer.fit(X, Y, validation_rows=[np.arange(4)] * N)
    assert engine.are_same(pop._kept_validation[0], pop.predict(X[:4]))
    trainer.fit(X, Y, validation_rows=ROWS)
    assert pop._kept_validation is None
    history = trainer.fit(X, Y, folds=3)
    assert pop._kept_validation[0] is history.out_of_fold and np.array_equal(pop._kept_validation[1], Y.astype("f4"))
    for options in (
        {"folds": 3, "keep_predictions": False},
        {"folds": [(np.arange(9), np.arange(9, 15)), (np.arange(9, 15), np.arange(9))]},
    ):
        trainer.fit(X, Y, **options)
        assert pop._kept_validation is None
    trainer.fit(X, np.stack([Y] * N), folds=3)
    assert pop._kept_validation is None


# ------------------------------------------------------------------ who stops when


@pytest.mark.parametrize("restore_best", [True, False])
@pytest.mark.parametrize("patience, min_delta", [(1, 0.0), (3, 0.0), (2, 0.01)])
def test_patience(engine, patience, min_delta, restore_best):
    pop = population(engine, sizes=[[3, 5, 2], [3, 4, 2]], n_networks=3)
    first = pop.copy()
    optimizer = [fastbp.Adam(lr) for lr in [0.001, 0.3, 0.1, 0.05, 0.2, 0.01]]
    trainer = fastbp.Trainer(pop, optimizer, batch_size=4, seed=5)
    options = {"patience": patience, "min_delta": min_delta, "restore_best": restore_best}
    history = trainer.fit(X, Y, epochs=12, validation_data=(XV, YV), **options)
    trainer.fit(X, Y, epochs=2)  # each goes on with its own order
    assert len({*history.epochs_done.tolist()}) > 2
    for i in range(N):
        stopping = callbacks.EarlyStopping(**options)
        lone = fastbp.Trainer(first.network(i), optimizer[i], batch_size=4, seed=5)
        lone_history = lone.fit(X, Y, epochs=12, validation_data=(XV, YV), callbacks=[stopping])
        n = len(lone_history)
        assert history.epochs_done[i] == n and history.best_epoch[i] == stopping.best_epoch
        assert history.stopped[i] == (lone_history.stopped and "patience")
        assert engine.are_same(history.validation_loss[:n, i], lone_history.validation_loss)
        assert np.isnan(history.loss[n:, i]).all() and np.isnan(history.validation_loss[n:, i]).all()
        lone.fit(X, Y, epochs=2)
        assert engine.are_same(pop.network(i).parameters, lone.net.parameters), i


def test_the_losses_of_a_population_are_those_of_its_parameters(engine):
    pop = population(engine)
    trainer = fastbp.Trainer(pop, fastbp.Adam([0.001, 0.3, 0.1, 0.05, 0.2, 0.01]), batch_size=4, seed=5)
    for options in ({}, {"patience": 2}, {"patience": 2, "restore_best": False}, {"halving": 2}):
        trainer.fit(X, Y, epochs=5, validation_data=(XV, YV), **options)
        np.testing.assert_allclose(pop.losses, pop.loss(XV, YV), rtol=1e-6)
    history = trainer.fit(X, Y, epochs=3)
    assert np.array_equal(pop.losses, history.loss[-1])
    history = trainer.fit(X, Y, epochs=9, halving=2)
    assert np.array_equal(pop.losses, [history.loss[n - 1, i] for i, n in enumerate(history.epochs_done)])


def largest_error(A, Y):
    return np.abs(A - Y).max()


@pytest.mark.parametrize("restore_best", [True, False])
def test_a_validation_loss_takes_the_place_of_the_loss(engine, restore_best):
    """Patience, the best epochs and the losses follow it as they would follow the loss."""
    pops = [population(engine, sizes=[[3, 5, 2], [3, 4, 2]], n_networks=3) for _ in range(2)]
    optimizer = [fastbp.Adam(lr) for lr in [0.001, 0.3, 0.1, 0.05, 0.2, 0.01]]
    options = {"patience": 2, "restore_best": restore_best, "validation_data": (XV, YV), "epochs": 12}
    one, other = (fastbp.Trainer(pop, optimizer, batch_size=4, seed=5) for pop in pops)
    plain = one.fit(X, Y, **options)
    history = other.fit(X, Y, validation_loss=largest_error, metrics=[largest_error], **options)
    values = history.validation_loss
    assert np.array_equal(values, history.metrics["validation_largest_error"], equal_nan=True)
    assert (history.best_epoch == np.nanargmin(values, axis=0) + 1).all()
    assert (history.best_epoch != plain.best_epoch).any()
    assert (history.epochs_done == np.minimum(12, history.best_epoch + 2)).all()
    n_common = min(len(plain), len(history))
    both = ~np.isnan(plain.loss[:n_common] + history.loss[:n_common])
    assert np.array_equal(plain.loss[:n_common][both], history.loss[:n_common][both])  # what is trained stays
    errors = [largest_error(pops[1].network(i).predict(XV), YV) for i in range(N)]
    np.testing.assert_allclose(pops[1].losses, errors, rtol=1e-5)
    last = [values[n - 1, i] for i, n in enumerate(history.epochs_done)]
    assert np.array_equal(pops[1].losses, np.nanmin(values, axis=0) if restore_best else last)
    best = pops[1].best(1).network(0).parameters
    assert np.array_equal(best, pops[1].network(int(pops[1].losses.argmin())).parameters)


def test_a_validation_loss_decides_halving_and_folds(engine):
    pop = population(engine)
    wanted = [4, 2, 0, 5, 1, 3]  # from the best to the worst, by whose outputs they are
    bias = np.array([wanted.index(i) for i in range(N)], pop.dtype)
    pop.parameters[:] = 0
    pop.parameters[:, -1] = bias / 100

    def rank(A, Y):
        return A[0, -1]

    history = fastbp.Trainer(pop, fastbp.SGD(1e-9)).fit(
        X, Y, 4, validation_data=(XV, YV), halving=2, validation_loss=rank
    )
    assert [i for i in wanted if history.stopped[i] is None] == wanted[:1]
    assert history.epochs_done[wanted].tolist() == [4, 4, 2, 1, 1, 1]
    history = fastbp.Trainer(pop, fastbp.SGD(1e-9)).fit(X, Y, 2, folds=3, validation_loss=rank)
    np.testing.assert_allclose(history.fold_losses, np.repeat(np.tanh(bias / 100)[:, None], 3, axis=1), atol=1e-6)
    np.testing.assert_allclose(pop.losses, np.tanh(bias / 100), atol=1e-6)
    assert np.array_equal(pop.best(2).parameters, pop.subset(wanted[:2]).parameters)


@pytest.mark.parametrize("are_labels", [True, False])
def test_a_validation_loss_sees_outputs_and_targets_of_its_rows(engine, are_labels):
    options = {"sizes": [3, 5, 3], "activations": "softmax", "loss": "cross_entropy"} if are_labels else {}
    pop, targets = population(engine, **options), LABELS if are_labels else Y
    rows = [np.arange(i, i + 5) for i in range(N)]
    seen = []

    def kept(A, Y):
        seen.append((A.copy(), Y.copy()))
        return len(seen)

    history = fastbp.Trainer(pop, fastbp.SGD(0.1)).fit(X, targets, 1, validation_rows=rows, validation_loss=kept)
    of_network = history.validation_loss[0].astype(int) - 1
    assert sorted(of_network) == list(range(N))
    for i, call in enumerate(of_network):
        A, of_rows = seen[call]
        assert np.array_equal(of_rows, targets[rows[i]].astype(of_rows.dtype)) and A.shape == (5, 2 + are_labels)
        np.testing.assert_allclose(A, pop.network(i).predict(X[rows[i]]), rtol=1e-5)


@pytest.mark.parametrize("value", [None, "3", "low", [1.0, 2.0], np.ones(1), 1j], ids=str)
def test_a_validation_loss_must_be_a_number(engine, value):
    pop = population(engine)
    trainer = fastbp.Trainer(pop, fastbp.SGD(0.1), batch_size=4, seed=5)
    with pytest.raises(TypeError, match="validation_loss must return a number, got "):
        trainer.fit(X, Y, 3, validation_data=(XV, YV), patience=2, validation_loss=lambda A, Y: value)
    other = population(engine)
    fastbp.Trainer(other, fastbp.SGD(0.1), batch_size=4, seed=5).fit(X, Y, 1)
    assert np.array_equal(pop.parameters, other.parameters)  # the epoch before it is not lost
    history = trainer.fit(X, Y, 2, validation_data=(XV, YV), validation_loss=lambda A, Y: np.float32(3))
    assert (history.validation_loss == 3).all()


def test_a_validation_loss_of_nan_is_never_better(engine):
    pop = population(engine)
    values = iter(np.array([[3, np.nan, 2, np.nan, np.nan]] * N).T.ravel())
    history = fastbp.Trainer(pop, fastbp.SGD(0.1), batch_size=4, seed=5).fit(
        X, Y, 9, validation_data=(XV, YV), patience=2, validation_loss=lambda A, Y: next(values)
    )
    assert len(history) == 5 and set(history.best_epoch) == {3} and (pop.losses == 2).all()
    history = fastbp.Trainer(pop, fastbp.SGD(0.1)).fit(
        X, Y, 9, validation_data=(XV, YV), patience=2, validation_loss=lambda A, Y: np.nan
    )
    assert len(history) == 2 and np.isnan(pop.losses).all() and np.isfinite(pop.parameters).all()


@pytest.mark.parametrize("eta, n_networks", [(2, 6), (3, 7), (2, 1)])
@pytest.mark.parametrize("has_validation", [True, False])
def test_halving(engine, eta, n_networks, has_validation):
    """The same as a loop over trainers of one network."""
    pop = population(engine, n_networks=n_networks)
    optimizer = [fastbp.Adam(lr) for lr in (0.001 * 2.0 ** np.arange(n_networks)).tolist()]
    lone = [fastbp.Trainer(pop.network(i), optimizer[i], batch_size=4, seed=5) for i in range(n_networks)]
    alive, reasons, losses = list(range(n_networks)), [None] * n_networks, np.full((10, n_networks), np.nan)
    for epoch in range(1, 11):
        scores = {}
        for i in alive:
            losses[epoch - 1, i] = scores[i] = lone[i].fit(X, Y).loss[0]
            if has_validation:
                scores[i] = lone[i].net.loss(XV, YV)
        if epoch in [eta**k for k in range(5)]:
            ranked = sorted(alive, key=scores.get)
            alive = sorted(ranked[: -(-len(ranked) // eta)])
            for i in set(scores) - set(alive):
                reasons[i] = "halving"
    trainer = fastbp.Trainer(pop, optimizer, batch_size=4, seed=5)
    options = {"validation_data": (XV, YV)} if has_validation else {}
    history = trainer.fit(X, Y, epochs=10, halving=eta, **options)
    assert history.stopped == reasons and engine.are_same(history.loss, losses)
    assert history.epochs_done.tolist() == [t.epochs for t in lone]
    assert trainer.stopped.tolist() == [reason is not None for reason in reasons]
    for i in range(n_networks):
        assert engine.are_same(pop.network(i).parameters, lone[i].net.parameters)


def test_nonfinite_losses_lose_by_halving(engine):
    pop = population(engine, n_networks=4, activations="identity")
    pop.parameters[1] = 3e38
    with pytest.warns(RuntimeWarning, match=r"1 network \(1\)"):
        history = fastbp.Trainer(pop, fastbp.SGD(0.01), seed=5).fit(X, Y, epochs=5, halving=2, validation_data=(XV, YV))
    assert history.stopped.count("halving") == 2 and history.stopped[1] == "non-finite"


class Stops:
    """Stops network 2 after epoch 1, network 4 before epoch 3, and all after epoch 4."""

    def on_epoch_begin(self, trainer, history):
        if len(history) == 2:
            trainer.stopped[4] = True

    def on_epoch_end(self, trainer, history):
        trainer.stopped[2] = True
        return len(history) == 4


def test_callbacks_stop_networks(engine):
    pop = population(engine)
    first = pop.copy()
    trainer = fastbp.Trainer(pop, fastbp.SGD(0.1), batch_size=4, seed=5)
    history = trainer.fit(X, Y, epochs=9, callbacks=[Stops()])
    assert history.epochs_done.tolist() == [4, 4, 1, 4, 2, 4] and len(history) == 4 == trainer.epochs
    assert history.stopped == ["Stops", "Stops", "callback", "Stops", "callback", "Stops"]
    trainer.fit(X, Y, epochs=2)
    for i, epochs in enumerate(history.epochs_done.tolist()):
        fits = [{"epochs": epochs}, {"epochs": 2}]
        lone, _ = train_alone(first, i, fastbp.SGD(0.1), {"batch_size": 4}, 5, X, Y, fits, {})
        assert engine.are_same(pop.network(i).parameters, lone.net.parameters), i


def test_callbacks_change_parameters_and_settings(engine):
    """As population-based training does it: between two epochs a network becomes a copy of another."""

    class Exploit:
        def on_epoch_end(self, trainer, history):
            if len(history) == 2:
                trainer.pop.parameters[3] = trainer.pop.parameters[0]
                trainer.lr_scale = np.linspace(0.5, 1.5, N)
                trainer.l2 = np.linspace(0, 0.1, N)

    pop = population(engine)
    first = pop.copy()
    trainer = fastbp.Trainer(pop, fastbp.SGD(0.1), batch_size=4, seed=5)
    trainer.fit(X, Y, epochs=4, callbacks=[Exploit()])
    lone = [fastbp.Trainer(first.network(i), fastbp.SGD(0.1), batch_size=4, seed=5) for i in range(N)]
    for one in lone:
        one.fit(X, Y, epochs=2)
    lone[3].net.parameters[:] = lone[0].net.parameters
    for i, one in enumerate(lone):
        one.lr_scale, one.l2 = np.linspace(0.5, 1.5, N)[i], np.linspace(0, 0.1, N)[i]
        one.fit(X, Y, epochs=2)
        assert engine.are_same(pop.network(i).parameters, one.net.parameters), i
        assert trainer.lr[i] == one.lr


def test_setting_stop_training_and_time_limit(engine):
    class Sets:
        def on_epoch_end(self, trainer, history):
            trainer.stop_training = True

    pop = population(engine)
    assert fastbp.Trainer(pop, fastbp.SGD(0.1)).fit(X, Y, epochs=9, callbacks=[Sets()]).stopped == ["Sets"] * N
    history = fastbp.Trainer(pop, fastbp.SGD(0.1)).fit(X, Y, epochs=9, callbacks=[callbacks.TimeLimit(1e-9)])
    assert history.stopped == ["TimeLimit"] * N and len(history) == 1


# ------------------------------------------------------------------ folds


def test_folds_are_those_of_scikit_learn(engine):
    model_selection = pytest.importorskip("sklearn.model_selection")
    pop = population(engine, sizes=[[3, 5, 2], [3, 4, 2]], n_networks=2)
    first = pop.copy()
    optimizer = [fastbp.Adam(lr) for lr in LRS[:4]]
    trainer = fastbp.Trainer(pop, optimizer, batch_size=4, seed=5, dropout=np.array([0.0, 0.1, 0.2, 0.3]))
    history = trainer.fit(X, Y, epochs=3, folds=4, metrics="mae")
    assert np.array_equal(history.fold_networks.losses, history.fold_losses.ravel())
    assert all(np.array_equal(a, b) for a, b in zip(pop.parameters, first.parameters, strict=True))
    assert trainer.epochs == 0 and all((state.step == 0).all() for state in trainer.states)
    metric = np.full((4, 4), np.nan)
    for i in range(4):
        for f, (train, test) in enumerate(model_selection.KFold(4).split(X)):
            settings = {"batch_size": 4, "dropout": [0.0, 0.1, 0.2, 0.3][i]}
            data = {"validation_data": (X[test], Y[test]), "metrics": "mae"}
            fits = [{"epochs": 3}]
            lone, (alone,) = train_alone(first, i, optimizer, settings, 5, X[train], Y[train], fits, data)
            assert engine.are_same(history.fold_networks.network(4 * i + f).parameters, lone.net.parameters)
            assert engine.are_same(history.fold_losses[i, f], alone.validation_loss[-1])
            assert engine.are_same(history.out_of_fold[i, test], lone.net.predict(X[test]))
            metric[i, f] = alone.metrics["validation_mae"][-1]
    np.testing.assert_allclose(history.metrics["validation_mae"][-1], metric.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(pop.losses, history.fold_losses.mean(axis=1), rtol=1e-12)
    assert pop.history is history and history.out_of_fold.dtype == pop.dtype
    # Afterwards each network trains as if there had been no folds.
    trainer.fit(X, Y, epochs=2)
    again = fastbp.Trainer(first, optimizer, batch_size=4, seed=5, dropout=np.array([0.0, 0.1, 0.2, 0.3]))
    again.fit(X, Y, epochs=2)
    assert all(np.array_equal(a, b) for a, b in zip(pop.parameters, first.parameters, strict=True))


def test_folds_of_a_splitter_pairs_and_own_orders(engine):
    model_selection = pytest.importorskip("sklearn.model_selection")
    splitter = model_selection.ShuffleSplit(3, test_size=5, random_state=0)
    pairs = list(splitter.split(X))
    results = []
    for folds in (splitter, pairs, iter(pairs)):
        pop = population(engine, n_networks=2)
        trainer = fastbp.Trainer(pop, fastbp.SGD(0.1), batch_size=4, seed=5)
        results.append(trainer.fit(X, Y, epochs=2, folds=folds, order="own"))
    for history in results[1:]:
        assert np.array_equal(history.fold_losses, results[0].fold_losses)
    for i, seed in enumerate(seeds_of("own", 2)):
        train, test = pairs[1]
        data = {"validation_data": (X[test], Y[test])}
        fits = [{"epochs": 2}]
        lone, _ = train_alone(pop, i, fastbp.SGD(0.1), {"batch_size": 4}, seed, X[train], Y[train], fits, data)
        assert engine.are_same(results[0].fold_networks.network(3 * i + 1).parameters, lone.net.parameters)
    tested = [sum(row in test for _, test in pairs) for row in range(N_SAMPLES)]
    assert 0 in tested and 2 in tested
    for row, n in enumerate(tested):
        of_row = results[0].out_of_fold[0, row]
        assert np.isnan(of_row).all() == (n == 0)
        if n:
            predictions = [
                results[0].fold_networks.network(f).predict(X[row]) for f, (_, test) in enumerate(pairs) if row in test
            ]
            np.testing.assert_allclose(of_row, np.mean(predictions, axis=0), rtol=1e-6)


def test_stratified_folds_weights_and_labels(engine):
    model_selection = pytest.importorskip("sklearn.model_selection")
    pop = population(engine, sizes=[3, 4, 3], n_networks=2, loss="cross_entropy", activations=["tanh", "softmax"])
    weights = rng.uniform(size=(2, N_SAMPLES))
    y = np.arange(N_SAMPLES) % 3
    splitter = model_selection.StratifiedKFold(3)
    trainer = fastbp.Trainer(pop, fastbp.SGD(0.1), batch_size=4, seed=5)
    history = trainer.fit(X, y, epochs=2, folds=splitter, sample_weight=weights, class_weight="balanced")
    for i in range(2):
        for f, (train, test) in enumerate(splitter.split(X, y)):
            data = {"sample_weight": weights[i, train], "class_weight": "balanced"}
            fits = [{"epochs": 2}]
            lone, _ = train_alone(pop, i, fastbp.SGD(0.1), {"batch_size": 4}, 5, X[train], y[train], fits, data)
            assert engine.are_same(history.fold_networks.network(3 * i + f).parameters, lone.net.parameters)
            assert engine.are_same(history.fold_losses[i, f], lone.net.loss(X[test], y[test]))


def test_folds_go_on_from_where_training_is(engine):
    """Copies start with states, orders and schedules of the trainer, which stays as it is."""
    pop = population(engine, n_networks=2)
    trainer = fastbp.Trainer(pop, fastbp.Adam(schedules.Cosine(0.1, period=30)), batch_size=4, seed=5)
    trainer.fit(X, Y, epochs=2)
    twin, other = (pickle.loads(pickle.dumps(trainer)) for _ in range(2))
    history = trainer.fit(X, Y, epochs=2, folds=2)
    twin.fit(X, Y, epochs=2, train_rows=[np.arange(12, N_SAMPLES)] * 2)
    assert engine.are_same(history.fold_networks.parameters[::2], twin.pop.parameters)
    assert history.epochs == [3, 4] and trainer.epochs == 2
    for one in (trainer, other):
        one.fit(X, Y, epochs=2)
    assert np.array_equal(trainer.pop.parameters, other.pop.parameters)


def test_halving_with_folds_ends_all_copies_of_a_network(engine):
    pop = population(engine, n_networks=4)
    trainer = fastbp.Trainer(pop, fastbp.SGD([1e-6, 0.2, 1e-6, 0.2]), batch_size=4, seed=5)
    full = copy.deepcopy(trainer).fit(X, Y, epochs=1, folds=3)
    history = trainer.fit(X, Y, epochs=3, folds=3, halving=2)
    best = np.argsort(full.fold_losses.mean(axis=1))
    assert history.epochs_done[best].tolist() == [2, 2, 1, 1] or history.epochs_done[best].tolist() == [3, 2, 1, 1]
    done = history.fold_history.epochs_done.reshape(4, 3)
    assert (done == done[:, :1]).all()
    assert [history.stopped[i] for i in best[2:]] == ["halving"] * 2


def test_folds_of_own_samples_with_patience(engine):
    x, y = rng.normal(size=(2, N_SAMPLES, 3)), rng.uniform(size=(2, N_SAMPLES, 2))
    pop = population(engine, n_networks=2)
    trainer = fastbp.Trainer(pop, fastbp.Adam(0.1), batch_size=4, seed=5)
    history = trainer.fit(x, y, epochs=6, folds=2, patience=1)
    parts = np.arange(12), np.arange(12, N_SAMPLES)
    for i in range(2):
        for f in range(2):
            train, test = parts[1 - f], parts[f]
            stopping = callbacks.EarlyStopping(patience=1)
            data = {"validation_data": (x[i, test], y[i, test]), "callbacks": (stopping,)}
            settings, fits = {"batch_size": 4}, [{"epochs": 6}]
            lone, _ = train_alone(pop, i, fastbp.Adam(0.1), settings, 5, x[i, train], y[i, train], fits, data)
            assert engine.are_same(history.fold_networks.network(2 * i + f).parameters, lone.net.parameters)
            assert engine.are_same(history.fold_losses[i, f], stopping.best)


# ------------------------------------------------------------------ numbers that are not finite

DIVERGING = [0.1, 1e30, 0.1, 1e5, 0.2, 3e38]


@pytest.mark.parametrize("optimizer", [fastbp.SGD, lambda lr: fastbp.SGD(lr, momentum=0.9), fastbp.Adagrad])
@pytest.mark.parametrize("order", ["shared", "own"])
@pytest.mark.parametrize("is_watched", [True, False])
def test_networks_that_become_nonfinite_disturb_no_other(engine, optimizer, order, is_watched):
    """Each ends as alone, at its last finite step, and goes on as alone in the next call."""
    pop = population(engine, activations="identity", sizes=[[3, 4, 2], [3, 2]], n_networks=3)
    first, data = pop.copy(), {"validation_data": (XV, YV)} if is_watched else {}
    trainer = fastbp.Trainer(pop, optimizer(np.array(DIVERGING)), batch_size=4, seed=5)
    with pytest.warns(RuntimeWarning, match=r"became non-finite in \d networks \(1, .*\) of 6") as caught:
        history = trainer.fit(X, Y, epochs=30, order=order, **data)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lone_trainers = [
            fastbp.Trainer(first.network(i), optimizer(DIVERGING[i]), batch_size=4, seed=seed)
            for i, seed in enumerate(seeds_of(order))
        ]
        lone_histories = [lone.fit(X, Y, epochs=30, **data) for lone in lone_trainers]
    for i, (lone, alone) in enumerate(zip(lone_trainers, lone_histories, strict=True)):
        assert history.nonfinite[i] == alone.nonfinite and history.epochs_done[i] == len(alone), i
        assert history.stopped[i] == ("non-finite" if alone.nonfinite else None)
        assert engine.are_same(history.loss[: len(alone), i], alone.loss)
        assert np.isnan(history.loss[len(alone) :, i]).all()
        assert engine.are_same(pop.network(i).parameters, lone.net.parameters), i
        assert np.isfinite(pop.network(i).parameters).all() and is_in_order_of(trainer, i, lone)
    assert history.nonfinite.any() and not history.nonfinite.all()


def end_together_and_alone(engine, pop, optimizers, x, y, order, epochs, data):
    """Train networks, some of which become non-finite, and compare where each ends, and how it goes on."""
    first = pop.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = fastbp.Trainer(pop, optimizers, batch_size=4, seed=5)
        history = trainer.fit(np.stack(x), np.stack(y), epochs=epochs, order=order, **data)
        for i, seed in enumerate(seeds_of(order, len(pop))):
            lone = fastbp.Trainer(first.network(i), optimizers[i], batch_size=4, seed=seed)
            alone = lone.fit(x[i], y[i], epochs=epochs, **data)
            assert history.nonfinite[i] == alone.nonfinite and history.epochs_done[i] == len(alone), i
            assert engine.are_same(history.loss[: len(alone), i], alone.loss)
            assert np.isnan(history.loss[len(alone) :, i]).all()
            assert engine.are_same(pop.network(i).parameters, lone.net.parameters), i
            assert is_in_order_of(trainer, i, lone), i
    return history


@pytest.mark.parametrize("order", ["shared", "own"])
@pytest.mark.parametrize("is_watched", [True, False])
def test_parameters_that_overflow_after_many_steps(engine, order, is_watched):
    """The loss is finite until the step whose update overflows, in the midst of a call."""
    lrs = [schedules.Step(1e-3, every=every, gamma=1e42) for every in (1, 5, 37, 64, 1000, 90)]
    pop = population(engine, sizes=[[3, 4, 2], [3, 2]], n_networks=3, activations="identity")
    data = {"validation_data": (XV, YV)} if is_watched else {}
    optimizers = [fastbp.SGD(lr) for lr in lrs]
    history = end_together_and_alone(engine, pop, optimizers, [X] * N, [Y] * N, order, 20, data)
    assert history.epochs_done.tolist() == [0, 0, 6, 10, 20, 15]


class Halves:
    """Halves the parameters of the networks that still train after the third epoch."""

    def on_epoch_end(self, trainer, history):
        if len(history) == 3 and isinstance(trainer, fastbp.Trainer):
            trainer.net.parameters[:] *= 0.5
        elif len(history) == 3:
            trainer.pop.parameters[~trainer.stopped] *= 0.5


def test_networks_go_back_to_what_callbacks_left(engine, monkeypatch):
    monkeypatch.setattr(population_run, "MIN_SNAPSHOT_SECONDS", 1e9)  # only those that callbacks make necessary
    lrs = [schedules.Step(1e-3, every=every, gamma=1e42) for every in (5, 22, 37, 64)]
    pop = population(engine, n_networks=4, activations="identity")
    optimizers, data = [fastbp.SGD(lr) for lr in lrs], {"callbacks": (Halves(),)}
    history = end_together_and_alone(engine, pop, optimizers, [X] * 4, [Y] * 4, "shared", 20, data)
    assert history.epochs_done.tolist() == [0, 3, 6, 10]


@pytest.mark.parametrize("optimizer", [fastbp.RMSprop(1e-3), fastbp.Adam(1e-3)])
@pytest.mark.parametrize("is_watched", [True, False])
def test_states_that_overflow_while_the_loss_is_finite(engine, optimizer, is_watched):
    """The square of one gradient overflows; training alone tells so at its next snapshot or at its end."""
    x, y = np.stack([X] * 4).astype("f4"), np.stack([Y] * 4).astype("f4")
    x[1, 3], y[1, 3] = 1e15, 1e15
    x[3, 0], y[3, 0] = 1e15, 1e15
    pop = population(engine, sizes=[3, 2], n_networks=4, activations="identity")
    data = {"validation_data": (XV, YV)} if is_watched else {}
    history = end_together_and_alone(engine, pop, [optimizer] * 4, x, y, "shared", 8, data)
    assert history.epochs_done.tolist() == [8, 0, 8, 0]


@pytest.mark.parametrize("folds", [None, 2])
def test_warnings_name_the_line_of_the_caller(engine, folds):
    pop = population(engine, activations="identity")
    with pytest.warns(RuntimeWarning) as caught:
        pop.fit(X, Y, epochs=30, optimizer=fastbp.SGD(1e30), folds=folds)
        fastbp.Trainer(pop, fastbp.SGD(1e30)).fit(X, Y, epochs=30, folds=folds)
    assert [warning.filename for warning in caught] == [__file__] * 2


def test_nonfinite_raises(engine):
    pop = population(engine, activations="identity")
    trainer = fastbp.Trainer(pop, fastbp.SGD(DIVERGING), batch_size=4, seed=5, on_nonfinite="raise")
    with pytest.raises(FloatingPointError, match=r"non-finite in .* keep their last finite parameters"):
        trainer.fit(X, Y, epochs=30)
    assert np.isfinite(pop.parameters).all() and trainer._fit is None


@pytest.mark.parametrize("batch_size", [1, 4, 23])
def test_nonfinite_losses_are_skipped(engine, batch_size):
    """One sample overflows the loss in float32; the updates with it are left out, as by a Trainer alone."""
    x = X.copy()
    x[7] = 1e25
    x[22] = 1e25  # in the last, shorter batch of 4
    pop = population(engine, sizes=[3, 2], activations="identity")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"batch_size": batch_size, "on_nonfinite": "skip", "shuffle": batch_size == 1}
        _, histories = check(engine, pop, fastbp.SGD(1e-3), settings, x=x)
    assert (histories[0].skipped > 0).all()


# ------------------------------------------------------------------ calls and their borders


@pytest.mark.parametrize("seconds", [1e-9, 1e-3, 10.0])
def test_the_length_of_calls_changes_nothing(engine, seconds, monkeypatch):
    expected = population(engine, sizes=[[3, 5, 2], [3, 4, 2]], n_networks=3)
    options = {"batch_size": [4, 4, 8, 4, 23, 4], "seed": 5}
    first = fastbp.Trainer(expected, fastbp.Adam(0.01), **options).fit(X, Y, epochs=7, train_rows=ROWS)
    monkeypatch.setattr(population_run, "CHUNK_SECONDS", seconds)
    monkeypatch.setattr(population_run, "MIN_SNAPSHOT_SECONDS", seconds)
    pop = population(engine, sizes=[[3, 5, 2], [3, 4, 2]], n_networks=3)
    second = fastbp.Trainer(pop, fastbp.Adam(0.01), **options).fit(X, Y, epochs=7, train_rows=ROWS)
    assert all(np.array_equal(a, b) for a, b in zip(pop.parameters, expected.parameters, strict=True))
    assert np.array_equal(first.loss, second.loss)


@pytest.mark.parametrize("seconds", [1e-9, 10.0])
def test_the_length_of_calls_changes_no_divergence(engine, seconds, monkeypatch):
    results = []
    for of_calls in (population_run.CHUNK_SECONDS, seconds):
        monkeypatch.setattr(population_run, "CHUNK_SECONDS", of_calls)
        pop = population(engine, activations="identity")
        with pytest.warns(RuntimeWarning, match="non-finite"):
            history = fastbp.Trainer(pop, fastbp.SGD(DIVERGING), batch_size=4, seed=5).fit(X, Y, epochs=30)
        results.append((pop.parameters.copy(), history.loss, history.epochs_done))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("seconds", [1e-9, 0.05])
def test_a_batch_of_infinite_loss_ends_a_network_within_its_epoch(engine, seconds, monkeypatch):
    """Later calls of the same epoch, whose batches have a finite loss, do not train it."""
    monkeypatch.setattr(population_run, "CHUNK_SECONDS", seconds)
    x = np.stack([X] * 4)
    x[1, 9] = x[2, 0] = 1e25
    pop = population(engine, sizes=[3, 2], n_networks=4, activations="identity")
    history = end_together_and_alone(engine, pop, [fastbp.SGD(1e-3)] * 4, x, [Y] * 4, "shared", 3, {})
    assert history.nonfinite.tolist() == [False, True, True, False]


@pytest.mark.parametrize("order", ["shared", "own"])
def test_calls_of_fit_go_on_from_each_other(engine, order):
    results = []
    for fits in ([6], [1, 2, 3], [1] * 6):
        pop = population(engine)
        trainer = fastbp.Trainer(pop, fastbp.Adam(0.01), batch_size=4, seed=5, dropout=0.2)
        for epochs in fits:
            trainer.fit(X, Y, epochs=epochs, order=order)
        results.append((pop.parameters.copy(), trainer.history["loss"]))
        assert trainer.epochs == 6
    for parameters, losses in results[1:]:
        assert np.array_equal(parameters, results[0][0]) and np.array_equal(losses, results[0][1])


def test_many_histories_are_kept_together(engine, monkeypatch):
    from fastbp.training import population as module

    monkeypatch.setattr(module, "MAX_HISTORIES", 3)
    trainer = fastbp.Trainer(population(engine), fastbp.SGD(0.1), batch_size=4, seed=5)
    losses = [trainer.fit(X, Y, epochs=1 + call % 2).loss for call in range(8)]
    trainer.fit(X, Y, metrics="mae")
    history = trainer.history
    assert len(trainer._histories) <= 3 and np.array_equal(history["loss"][:-1], np.concatenate(losses))
    assert np.isnan(history["mae"][:-1]).all() and np.isfinite(history["mae"][-1]).all()


def test_a_pickled_trainer_goes_on(engine):
    pop = population(engine, sizes=[[3, 5, 2], [3, 4, 2]], n_networks=3)
    trainer = fastbp.Trainer(pop, fastbp.Adam(np.array(LRS)), batch_size=4, seed=5, dropout=0.2)
    for order in ("own", None):
        trainer.fit(X, Y, epochs=2, order=order)
        other = pickle.loads(pickle.dumps(trainer))
        assert other.history["loss"].tolist() == trainer.history["loss"].tolist()
        histories = [one.fit(X, Y, epochs=2) for one in (trainer, other)]
        assert np.array_equal(histories[0].loss, histories[1].loss)
        assert all(np.array_equal(a, b) for a, b in zip(pop.parameters, other.pop.parameters, strict=True))


def test_partial_fit_is_an_epoch(engine):
    pops = population(engine), population(engine)
    fastbp.Trainer(pops[0], fastbp.SGD(0.1), seed=5).partial_fit(X, Y)
    fastbp.Trainer(pops[1], fastbp.SGD(0.1), seed=5).fit(X, Y)
    assert np.array_equal(pops[0].parameters, pops[1].parameters)


# ------------------------------------------------------------------ parts


def test_orders_are_those_of_the_shuffle(engine):
    words = rng.integers(0, 2**32, (200, 7), dtype=np.uint32)
    expected = np.empty((200, 7), np.int64)
    for one, order in zip(words, expected, strict=True):
        kernels_of("numpy").shuffle(one, order)
    for n in (1, 3, 200):
        assert np.array_equal(population_orders.permutations(words[:n], engine.backend), expected[:n])


def test_rows_of_states_start_on_cache_lines():
    state = PopulationState([2, 0, 1], 37, "float32")
    assert state.buffers.shape == (2, 3, 37) and state.buffers.strides == (3 * 48 * 4, 48 * 4, 4)
    assert state.buffers.ctypes.data % 128 == 0
    one = state.member(2)
    assert one.buffers.shape == (1, 37) and len(state.member(1).buffers) == 0
    one.buffers[:] = 3
    one.running_products[:] = 5
    assert (state.buffers[0, 2] == 3).all() and state.buffers.sum() == 3 * 37
    assert state.running_products[2].tolist() == [5.0] * 8 and (state.running_products[:2] == 1).all()
    state.step[:] = 1, 2, 3
    other = pickle.loads(pickle.dumps(state))
    assert other.buffers.strides == state.buffers.strides and other.buffers.ctypes.data % 128 == 0
    for name in ("buffers", "running_products", "step", "skipped", "n_states"):
        assert np.array_equal(getattr(other, name), getattr(state, name))
    repeated = state.repeated(2)
    assert repeated.step.tolist() == [1, 1, 2, 2, 3, 3] and (repeated.buffers[0, 4:] == 3).all()
    assert aligned_rows((0, 4), "float64").shape == (0, 4)


def test_networks_of_the_same_settings_share_an_update(engine):
    pop = population(engine)
    trainer = fastbp.Trainer(pop, fastbp.SGD([0.1, 0.2, 0.1, 0.2, 0.1, 0.1]), l2=[0.0, 0.0, 0.1, 0.0, 0.0, 0.0])
    updates = trainer._updates()
    assert updates[0] is updates[4] is updates[5] and updates[1] is updates[3]
    assert len({id(update) for update in updates}) == 3 and trainer._updates() is updates
    trainer.l2 = 0.0
    assert len({id(update) for update in trainer._updates()}) == 2


def test_history_shows_what_happened(engine):
    pop = population(engine)
    trainer = fastbp.Trainer(pop, fastbp.SGD(0.1), seed=0)
    history = trainer.fit(X, Y, epochs=4, validation_data=(XV, YV), halving=2)
    text = repr(history)
    assert "6 networks, epochs 1 to 4" in text and "stopped: halving" in text and "validation_loss" in text
    assert "best" in history.in_short() and "median" in history.in_short()
    assert history.epochs == [1, 2, 3, 4] and len(history.seconds) == 4
    assert "no epochs" in repr(type(history)(3))


def test_progress_bar(engine, capsys):
    pytest.importorskip("rich")
    fastbp.Trainer(population(engine), fastbp.SGD(0.1), seed=0).fit(X, Y, epochs=2, progress=True)
    assert "median" in capsys.readouterr().out
