"""Every optimizer, schedule and setting trains, alike on both backends and in every engine path.

What there is to try comes from the library's tables and signatures.  This file only holds, for each setting, a value
that differs from the default.  A new optimizer, schedule, activation, loss or setting is tried by itself; where it
needs a value, its test fails and says so.
"""

import inspect
from dataclasses import MISSING, fields
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
from fastbp.kernels.layout import FEW_LANES
from shared import HIDDEN, exhaustive, is_admissible, threads_everywhere, watch_kernels, watch_threads

import fastbp
from fastbp import schedules
from fastbp.activations import ACTIVATIONS
from fastbp.engine import limits
from fastbp.losses import LOSSES
from fastbp.optimizers import OPTIMIZERS

FULL_BATCH = tuple(kind for kind in OPTIMIZERS if hasattr(kind, "minimize"))  # methods that take all samples at once
SCHEDULES = tuple(schedules.Schedule.__subclasses__())


class Path(NamedTuple):
    """One way through the engine: a network and batches that take it, and the kernel that trains."""

    sizes: tuple
    batch_size: int
    n_samples: int
    kernel: str
    threads: int = 1


PATHS = {
    "few lanes": Path((2, 3, 2), FEW_LANES, 13, "train_in_few_lanes"),
    "many lanes": Path((3, 4, 2), FEW_LANES + 1, 23, "train_in_many_lanes"),
    "online": Path((7, 9, 3), 1, 11, "train_online"),
    "one block": Path((7, 9, 3), 16, 40, "train_in_blocks"),
    "several blocks": Path((6, 11, 3), limits.BLOCK_ROWS + 20, 2 * limits.BLOCK_ROWS + 70, "train_in_blocks"),
    "two threads": Path((5, 130, 20, 3), 12, 30, "train_in_blocks", threads=2),
}
each_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)

# For each field a value that differs from its default and changes what is trained.
OPTIMIZER_FIELDS = {
    "lr": 0.013,
    "momentum": 0.9,
    "nesterov": True,
    "rho": 0.6,
    "eps": 0.1,
    "beta1": 0.7,
    "beta2": 0.8,
    "weight_decay": 0.3,
    "decay_biases": False,
    "input_scale_lr": 3.0,
    "momentum_decay": 0.5,
    "eta_minus": 0.3,
    "eta_plus": 1.5,
    "min_step": 0.019,
    "max_step": 0.021,
    "history": 1,
    "max_line_search": 1,
    "gtol": 0.2,
    "ftol": 0.2,
    "damping": 10.0,
    "factor": 2.0,
    "max_damping": 0.5,
}
SCHEDULE_FIELDS = {
    "lr": 0.03,
    "every": 2,
    "gamma": 0.9,
    "power": 0.25,
    "period": 5,
    "min_lr": 0.005,
    "warmup": 1,
    "restarts": True,
    "multiplier": 3,
    "steps": 6,
    "pct_start": 0.5,
    "div_factor": 7.0,
    "final_div_factor": 3.0,
    "boundaries": (2,),
    "rates": (0.05, 0.01),
}
LOSS_FIELDS = {"threshold": 0.2, "q": 0.9, "gamma": 1.0}
TRAINER_SETTINGS = {
    "batch_size": 3,
    "shuffle": False,
    "seed": 5,
    "threads": 2,
    "l1": 0.01,
    "l2": 0.1,
    "dropout": 0.4,
    "clip_norm": 0.05,
    "clip_value": 0.01,
    "max_norm": 0.4,
    "label_smoothing": 0.3,
    "input_noise": 0.3,
    "on_nonfinite": "skip",
}
WITHOUT_EFFECT = ("threads", "on_nonfinite")  # where everything is finite
# Values of fields that have no default, and those of other fields that a field needs.
REQUIRED = {"lr": 0.02, "every": 1, "gamma": 0.7, "period": 3, "steps": 5, "boundaries": (1,), "rates": (0.02, 0.04)}
NEEDED = {"nesterov": {"momentum": 0.9}, "multiplier": {"restarts": True}, "decay_biases": {"weight_decay": 0.3}}


def sample(table, name, owner):
    """Return the value in the table; fail where there is none."""
    if name not in table:
        pytest.fail(f"no test knows the setting {name!r} of {owner}: give a value of it in tests/test_sweep.py")
    return table[name]


def required(kind):
    """Return values of the fields of an optimizer or schedule that have no default, and of its learning rate."""
    names = [field.name for field in fields(kind) if field.name == "lr" or field.default is MISSING]
    return {name: sample(REQUIRED, name, kind.__name__) for name in names}


def with_and_without(kind, name, table):
    """Return the arguments of an optimizer or schedule with a value of this field, and those without it."""
    plain = {**required(kind), **NEEDED.get(name, {})}
    return {**plain, name: sample(table, name, kind.__name__)}, plain


def fields_of(kinds):
    """Return the class and the name of each field, as parameters of a test."""
    return [
        pytest.param(kind, field.name, id=f"{kind.__name__}-{field.name}") for kind in kinds for field in fields(kind)
    ]


def problem(sizes, n, loss):
    """Samples, and targets that the loss takes."""
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(n, sizes[0])), rng.random((n, sizes[-1]))
    if LOSSES[loss].takes_signs:
        return X, np.where(Y < 0.5, -1.0, 1.0)
    return X, Y / Y.sum(axis=1, keepdims=True) if LOSSES[loss].takes_labels else Y


def train(
    backend,
    path,
    optimizer,
    activations="sigmoid",
    loss="binary_cross_entropy",
    epochs=3,
    sample_weight=None,
    **settings,
):
    """Train every array of a network; return its parameters and the losses."""
    X, Y = problem(path.sizes, path.n_samples, getattr(loss, "name", loss))
    net = fastbp.Network(path.sizes, activations, loss=loss, dtype="float64", seed=2, backend=backend)
    net.parameters *= 0.5  # so that no activation saturates
    before = net.copy()
    with threads_everywhere(path.threads):
        trainer = fastbp.Trainer(net, optimizer, **{"batch_size": path.batch_size, "seed": 3, **settings})
        history = trainer.fit(X, Y, epochs=epochs, sample_weight=sample_weight, progress=False)
    for old, new in zip([*before.weights, *before.biases], [*net.weights, *net.biases], strict=True):
        assert np.isfinite(new).all() and (old != new).any(), (
            f"{backend}: an array of shape {new.shape} was not trained"
        )
    return net.parameters, np.array(history.loss)


def train_on_both(*arguments, **options):
    """Train on both backends and compare; return the parameters."""
    (expected, expected_losses), (parameters, losses) = (
        train(backend, *arguments, **options) for backend in ("numpy", "numba")
    )
    np.testing.assert_allclose(losses, expected_losses, 1e-10, 1e-12)
    np.testing.assert_allclose(parameters, expected, 1e-8, 1e-10)
    return parameters


def is_changed(parameters, *arguments, **options):
    """Whether a training with these arguments, on numba alone, gives other parameters, beyond rounding."""
    return not np.allclose(parameters, train("numba", *arguments, **options)[0], 1e-6, 1e-7)


@each_path
def test_every_path_is_taken(path):
    with watch_kernels() as kernels, watch_threads() as threads:
        train("numba", path, fastbp.SGD(0.1))
    assert kernels == {path.kernel}
    assert max(threads, default=1) == path.threads


def paths_of(kind):
    """Return the engine paths in which an optimizer differs, by name."""
    return {"one block": PATHS["one block"]} if kind in FULL_BATCH else PATHS


def options_of(kind):
    """Return the options of `train` with an optimizer: methods of the full batch need more epochs, and squares."""
    return {"loss": "squared_error", "epochs": 8} if kind in FULL_BATCH else {}


@pytest.mark.parametrize(
    "kind, path",
    [
        pytest.param(kind, path, id=f"{kind.__name__}-{name}")
        for kind in OPTIMIZERS
        for name, path in paths_of(kind).items()
    ],
)
def test_every_optimizer(kind, path):
    train_on_both(path, kind(**required(kind)), **options_of(kind))


@pytest.mark.parametrize("kind, name", fields_of(OPTIMIZERS))
def test_every_field_of_an_optimizer(kind, name):
    with_it, without = with_and_without(kind, name, OPTIMIZER_FIELDS)
    for where, path in paths_of(kind).items():
        parameters = train_on_both(path, kind(**with_it), **options_of(kind))
        assert is_changed(parameters, path, kind(**without), **options_of(kind)), where


@each_path
@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule(kind, path):
    parameters = train_on_both(path, fastbp.SGD(kind(**required(kind))))
    assert is_changed(parameters, path, fastbp.SGD(REQUIRED["lr"])) == (kind is not schedules.Constant)


@each_path
@pytest.mark.parametrize("optimizer", [fastbp.SGD, fastbp.Adam], ids=["SGD", "Adam"])
def test_a_function_of_the_step_is_a_schedule(optimizer, path):
    """With the rates of a schedule it trains to the bits of the schedule."""
    schedule, rates = schedules.Piecewise([2, 4, 7], [0.02, 0.05, 0.01, 0.03]), []

    def lr(step):
        rates.append(step)
        return schedule(step)

    parameters = train_on_both(path, optimizer(lr))
    np.testing.assert_array_equal(parameters, train("numba", path, optimizer(schedule))[0])
    assert rates[0] == 0 and set(rates) == set(range(3 * -(-path.n_samples // path.batch_size)))


@pytest.mark.parametrize("kind, name", fields_of(SCHEDULES))
def test_every_field_of_a_schedule(kind, name):
    with_it, without = with_and_without(kind, name, SCHEDULE_FIELDS)
    parameters = train_on_both(PATHS["online"], fastbp.Adam(kind(**with_it)))
    assert is_changed(parameters, PATHS["online"], fastbp.Adam(kind(**without)))


@each_path
@pytest.mark.parametrize("optimizer", [fastbp.SGD(0.02), fastbp.Adam(0.02)], ids=["SGD", "Adam"])
@pytest.mark.parametrize("name", [*list(inspect.signature(fastbp.Trainer).parameters)[2:]])
def test_every_setting_of_a_trainer(name, optimizer, path):
    parameters = train_on_both(path, optimizer, **{name: sample(TRAINER_SETTINGS, name, "Trainer")})
    assert is_changed(parameters, path, optimizer) == (name not in WITHOUT_EFFECT)


@each_path
def test_weights_of_samples(path):
    optimizer, sample_weight = fastbp.SGD(0.1), np.linspace(0, 2, path.n_samples)
    assert is_changed(train_on_both(path, optimizer, sample_weight=sample_weight), path, optimizer)


def activations_of(path, hidden, output):
    """Return the activations of a network of this path."""
    return [hidden] * (len(path.sizes) - 2) + [output]


@each_path
@pytest.mark.parametrize("activation", HIDDEN)
def test_every_activation(activation, path):
    train_on_both(path, fastbp.SGD(0.05), activations_of(path, activation, "sigmoid"))


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=name, marks=() if name in ("few lanes", "online", "one block") else exhaustive)
        for name, path in PATHS.items()
    ],
)
@pytest.mark.parametrize("output, loss", [pair for pair in product(ACTIVATIONS, LOSSES) if is_admissible(*pair)])
def test_every_output_with_every_loss(output, loss, path):
    train_on_both(path, fastbp.SGD(0.02), activations_of(path, "tanh", output), loss)


@pytest.mark.parametrize("output, loss", [pair for pair in product(ACTIVATIONS, LOSSES) if not is_admissible(*pair)])
def test_outputs_that_a_loss_does_not_take_are_refused(output, loss):
    with pytest.raises(ValueError, match=f"{output}.*{loss}|{loss}.*{output}"):
        fastbp.Network([2, 3, 2], ["tanh", output], loss=loss)


@each_path
@pytest.mark.parametrize("kind, name", fields_of(row.settings for row in LOSSES.values() if row.settings))
def test_every_field_of_a_loss(kind, name, path):
    optimizer, value = fastbp.SGD(0.1), sample(LOSS_FIELDS, name, kind.__name__)
    assert is_changed(train_on_both(path, optimizer, loss=kind(**{name: value})), path, optimizer, loss=kind())
