"""What trainers of populations refuse, in which words, and that nothing is changed then."""

import re

import numpy as np
import pytest

import fastbp
from fastbp import callbacks, schedules
from fastbp.training import population_data

X, Y = np.zeros((7, 3)), np.zeros((7, 2))
N = 4


def population(**options):
    return fastbp.Population([3, 5, 2], N, seed=0, backend="numpy", **options)


SGD = fastbp.SGD(0.1)
MAKING = {
    "l2 of another length": (
        {"l2": np.zeros(3)},
        ValueError,
        "l2 must be one value, or one for each of the 4 networks",
    ),
    "l2 of two axes": ({"l2": np.zeros((3, 2))}, ValueError, "got shape (3, 2)"),
    "l2 below 0": ({"l2": [0, 0, -1.0, 0]}, ValueError, "l2 must be at least 0, got -1.0 (network 2)"),
    "l2 a text": ({"l2": "a"}, TypeError, "l2 must be a number, got 'a'"),
    "l2 a list of lists": ({"l2": [0, [0], 0, 0]}, TypeError, "l2 must be a number, got [0] (network 1)"),
    "dropout of other layers": ({"dropout": (0.1, 0.1)}, ValueError, "dropout must be one number or 1 (one per layer"),
    "dropout above 1": (
        {"dropout": np.array([0, 0, 0, 1.5])},
        ValueError,
        "dropout must be at least 0 and below 1, got",
    ),
    "dropout of layers": ({"dropout": np.zeros((N, 3))}, ValueError, "(network 0)"),
    "clip_norm of 0": ({"clip_norm": [None, 0, 1, 1]}, ValueError, "clip_norm must be above 0, got 0 (network 1)"),
    "label_smoothing": ({"label_smoothing": 0.1}, ValueError, "label_smoothing needs a loss of classes"),
    "batch_size of 0": ({"batch_size": [1, 2, 0, 3]}, ValueError, "batch_size must be at least 1, got 0 (network 2)"),
    "batch_size of floats": (
        {"batch_size": np.ones(N)},
        TypeError,
        "batch_size must be an integer, got 1.0 (network 0)",
    ),
    "shuffle": ({"shuffle": 1}, TypeError, "shuffle must be True or False"),
    "threads": ({"threads": 0}, ValueError, "threads must be at least 1"),
    "seed": ({"seed": "a"}, TypeError, "seed must be None, an int >= 0"),
    "seeds of another number": ({"seed": [1, 2]}, ValueError, "seed must be one, or 4, one for each network, got 2"),
    "a seed of a sequence": ({"seed": [1, 2, 3, -4]}, ValueError, "seed[3] must be"),
    "on_nonfinite": ({"on_nonfinite": "go"}, ValueError, "on_nonfinite 'go' is unknown"),
    "an unknown keyword": (
        {"dropuot": 0.1},
        TypeError,
        "unexpected keyword argument 'dropuot'; did you mean 'dropout'?",
    ),
    "optimizer of another number": (
        {"optimizer": fastbp.SGD([0.1, 0.2])},
        ValueError,
        "settings for each of 2 networks",
    ),
    "optimizers of another number": ({"optimizer": [SGD] * 3}, ValueError, "one for each of the 4 networks, got 3"),
    "an optimizer of a name": ({"optimizer": "adam"}, TypeError, "did you mean fastbp.Adam(...)?"),
    "a class of optimizers": (
        {"optimizer": [SGD, SGD, fastbp.Adam, SGD]},
        TypeError,
        "write fastbp.Adam(...) (network 2)",
    ),
    "optimizers of optimizers": ({"optimizer": [fastbp.SGD([0.1, 0.2])] * N}, ValueError, "of one Network (network 0)"),
    "a method of the full batch": ({"optimizer": fastbp.LBFGS()}, TypeError, "LBFGS takes all samples of one network"),
    "one in a sequence": ({"optimizer": [SGD] * 3 + [fastbp.LBFGS()]}, TypeError, "LBFGS takes all samples"),
}


@pytest.mark.parametrize("options, error, message", MAKING.values(), ids=MAKING)
def test_settings(options, error, message):
    options = {"optimizer": SGD} | options
    with pytest.raises(error, match=re.escape(message)):
        fastbp.Trainer(population(), **options)


@pytest.mark.parametrize("name", [name for name in MAKING if "seed" not in name and "keyword" not in name])
def test_attributes(name):
    """What the constructor refuses is refused of the attribute too, and leaves the value before."""
    options, error, message = MAKING[name]
    ((attribute, value),) = options.items()
    trainer = fastbp.Trainer(population(), SGD)
    before = getattr(trainer, attribute)
    with pytest.raises(error, match=re.escape(message)):
        setattr(trainer, attribute, value)
    assert getattr(trainer, attribute) is before


def test_an_optimizer_of_another_state():
    trainer = fastbp.Trainer(population(), SGD)
    trainer.optimizer = fastbp.SGD(np.linspace(0.1, 0.4, N))
    assert trainer.lr.tolist() == np.linspace(0.1, 0.4, N).tolist()
    with pytest.raises(ValueError, match="of network 2 remembers other numbers"):
        trainer.optimizer = [SGD, SGD, fastbp.Adam(), SGD]
    trainer.fit(X, Y)


def test_pop_and_states_stay():
    trainer = fastbp.Trainer(population(), SGD)
    for name in ("pop", "states"):
        with pytest.raises(AttributeError, match=f"{name} of a PopulationTrainer cannot be replaced"):
            setattr(trainer, name, None)
    with pytest.raises(ValueError, match="key must be one integer, or one for each of the 4 networks, got 2"):
        trainer.key = [1, 2]
    with pytest.raises(ValueError, match="lr_scale must be at least 0"):
        trainer.lr_scale = -1
    trainer.l2 = [0.1, 0.2, 0.3, 0.4]
    with pytest.raises(ValueError, match="read-only"):
        trainer.l2[0] = 1


def test_a_trainer_of_one_network_takes_no_settings_of_many():
    net = fastbp.Network([3, 2], backend="numpy")
    with pytest.raises(ValueError, match="settings for each of 2 networks of a Population"):
        fastbp.Trainer(net, fastbp.SGD([0.1, 0.2]))


OPTIMIZERS = {
    "lengths": (lambda: fastbp.SGD([0.1, 0.2], momentum=[0.1] * 3), ValueError, "got different: lr 2, momentum 3"),
    "a value": (
        lambda: fastbp.Adam(beta1=[0.9, 1.0]),
        ValueError,
        "beta1 must be at least 0 and below 1, got 1.0 (network 1)",
    ),
    "two settings": (
        lambda: fastbp.Rprop(min_step=[1, 2], max_step=[3, 1]),
        ValueError,
        "max_step must be at least 2, got 1",
    ),
    "nesterov": (lambda: fastbp.SGD(0.1, [0.5, 0.0], True), ValueError, "needs a momentum above 0"),
    "no value": (lambda: fastbp.SGD([]), ValueError, "lr must be one value, or a sequence of one for each network"),
    "axes": (lambda: fastbp.SGD(np.ones((2, 2))), ValueError, "got shape (2, 2)"),
    "nested": (lambda: fastbp.SGD([[0.1], 0.2]), ValueError, "got shape (2, ...)"),
    "a text": (lambda: fastbp.SGD([0.1, "a"]), TypeError, "lr must be a number, got 'a' (network 1)"),
    "no axis": (lambda: fastbp.SGD(np.array(0.1)), TypeError, "lr must be a number"),
}


@pytest.mark.parametrize("make, error, message", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_settings_of_optimizers(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_optimizers_with_sequences_are_values():
    lrs = [0.1, schedules.Cosine(0.1, period=9), 0.1]
    optimizer = fastbp.Adam(lr=lrs, beta1=np.array([0.8, 0.9, 0.8], np.float32))
    assert optimizer == fastbp.Adam(lr=tuple(lrs), beta1=np.array([0.8, 0.9, 0.8], np.float32).tolist())
    assert optimizer != fastbp.Adam(lr=lrs) and hash(optimizer) == hash(fastbp.Adam(lr=lrs, beta1=optimizer.beta1))
    one, two, three = optimizer.of_networks(3)
    assert (
        one is three
        and two.lr == lrs[1]
        and type(one.beta1) is float
        and eval(repr(optimizer), vars(fastbp) | vars(schedules)) == optimizer
    )
    assert optimizer.n_networks == 3 and fastbp.Adam().n_networks is None


FIT = {
    "epochs": ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
    "a stream": ({"X": fastbp.stream(lambda: [(X, Y)])}, TypeError, "X is a stream: a Population takes arrays"),
    "columns": ({"X": np.zeros((7, 4))}, ValueError, "X has 4 columns"),
    "samples of other networks": ({"X": np.zeros((3, 7, 3))}, ValueError, "X is 3-D with samples of 3 networks"),
    "samples of networks": ({"X": np.full((N, 7, 3), np.nan)}, ValueError, "X[0][0, 0] is nan"),
    "rows of targets": ({"Y": np.zeros((6, 2))}, ValueError, "Y has 6 rows"),
    "targets of other networks": ({"Y": np.zeros((3, 7, 2))}, ValueError, "Y is 3-D with targets of 3 networks"),
    "targets of networks": ({"Y": np.full((N, 7, 2), np.inf)}, ValueError, "Y[0][0, 0] is inf"),
    "order": ({"order": "any"}, ValueError, "order 'any' is unknown"),
    "patience": ({"patience": 3}, ValueError, "patience needs validation_data, validation_rows or folds"),
    "patience of 0": ({"patience": 0, "validation_data": (X, Y)}, ValueError, "patience must be at least 1"),
    "validation_loss": (
        {"validation_loss": "mae", "validation_data": (X, Y)},
        TypeError,
        "validation_loss must be a function (A, Y) -> float, got 'mae'",
    ),
    "validation_loss of nothing": (
        {"validation_loss": lambda A, Y: 0.0},
        ValueError,
        "validation_loss needs validation_data, validation_rows or folds",
    ),
    "min_delta": ({"min_delta": -1}, ValueError, "min_delta must be at least 0"),
    "restore_best": ({"restore_best": 1}, TypeError, "restore_best must be True or False"),
    "keep_predictions": ({"keep_predictions": 1}, TypeError, "keep_predictions must be True or False"),
    "halving": ({"halving": 1}, ValueError, "halving must be at least 2, got 1"),
    "validation_data": ({"validation_data": X}, TypeError, "validation_data must be a pair (X, Y)"),
    "validation targets": ({"validation_data": (X, Y[:3])}, ValueError, "validation_data: Y has 3 rows"),
    "rows of other networks": ({"train_rows": [[0]] * 3}, ValueError, "train_rows must have rows for each of the 4"),
    "rows as a number": ({"train_rows": 3}, TypeError, "train_rows must be 4 arrays of row numbers"),
    "rows out of range": (
        {"train_rows": [[0], [1], [7], [0]]},
        ValueError,
        "train_rows[2] holds 7, but there are 7 rows",
    ),
    "rows below": ({"train_rows": [[0], [1], [-8], [0]]}, ValueError, "train_rows[2] holds -8"),
    "no rows": ({"train_rows": [[0], [], [1], [0]]}, ValueError, "train_rows[1] is empty"),
    "an empty mask": ({"train_rows": np.zeros((N, 7), bool)}, ValueError, "train_rows[0] is empty"),
    "a short mask": (
        {"train_rows": np.ones((N, 6), bool)},
        ValueError,
        "train_rows[0] is a mask of 6, but there are 7",
    ),
    "rows of floats": ({"train_rows": [[0.5]] * N}, TypeError, "train_rows[0] must be integers or a mask"),
    "rows of rows": ({"train_rows": [[[0]]] * N}, ValueError, "train_rows[0] must be 1-D"),
    "validation rows": ({"validation_rows": [[9]] * N}, ValueError, "validation_rows[0] holds 9"),
    "sample_weight": (
        {"sample_weight": np.ones(6)},
        ValueError,
        "sample_weight has shape (6,), expected (7,) or (4, 7)",
    ),
    "weights of networks": ({"sample_weight": np.ones((3, 7))}, ValueError, "expected (7,) or (4, 7)"),
    "negative weights": ({"sample_weight": -np.ones((N, 7))}, ValueError, "weights must be at least 0 (network 0)"),
    "class_weight": ({"class_weight": {0: 1}}, ValueError, "class_weight needs samples of one class each"),
    "metrics": ({"metrics": "acuracy"}, ValueError, "metrics 'acuracy' is unknown; did you mean 'accuracy'?"),
    "metrics of labels": ({"metrics": "accuracy", "Y": Y + 3}, ValueError, "metrics of classes"),
    "callbacks": ({"callbacks": callbacks.TimeLimit(1)}, TypeError, "callbacks must be a sequence"),
    "EarlyStopping": (
        {"callbacks": [callbacks.EarlyStopping()]},
        TypeError,
        "follows one network, not a Population: use patience",
    ),
    "CSVLogger": ({"callbacks": [callbacks.CSVLogger("a.csv")]}, TypeError, "CSVLogger follows one network"),
    "ModelCheckpoint": ({"callbacks": [callbacks.ModelCheckpoint("a.npz")]}, TypeError, "ModelCheckpoint follows one"),
    "ReduceLROnPlateau": ({"callbacks": [callbacks.ReduceLROnPlateau()]}, TypeError, "set trainer.lr_scale"),
    "folds of 1": ({"folds": 1}, ValueError, "folds must be at least 2"),
    "too many folds": ({"folds": 8}, ValueError, "folds must be at most the number of samples, 7, got 8"),
    "folds that are none": ({"folds": 1.5}, TypeError, "folds must be a number, a splitter, or pairs"),
    "one pair": ({"folds": [([0], [1])]}, ValueError, "folds must be 2 or more pairs (train, test) of rows, got 1"),
    "rows of folds": ({"folds": [([0], [1]), ([0], [9])]}, ValueError, "folds[1]: test[0] holds 9"),
    "folds and rows": ({"folds": 2, "train_rows": [[0]] * N}, ValueError, "train_rows must be left out with folds"),
    "folds and data": (
        {"folds": 2, "validation_data": (X, Y)},
        ValueError,
        "validation_data must be left out with folds",
    ),
    "progress": ({"progress": 1}, TypeError, "progress must be True or False"),
}


@pytest.mark.parametrize("options, error, message", FIT.values(), ids=FIT)
def test_fit(options, error, message):
    pop = population()
    trainer = fastbp.Trainer(pop, fastbp.SGD(0.1, momentum=0.5), batch_size=2, seed=3)
    arrays = [pop.parameters.copy(), trainer.states[0].buffers.copy(), pop.losses.copy()]
    with pytest.raises(error, match=re.escape(message)):
        trainer.fit(**{"X": X, "Y": Y} | options)
    after = [pop.parameters, trainer.states[0].buffers, pop.losses]
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(arrays, after, strict=True))
    assert trainer.epochs == 0 and trainer.history == {} and pop.history is None
    # The orders are still those of a new trainer.
    trainer.fit(X + np.arange(7)[:, None], Y, epochs=2)
    other = population()
    fastbp.Trainer(other, fastbp.SGD(0.1, momentum=0.5), batch_size=2, seed=3).fit(
        X + np.arange(7)[:, None], Y, epochs=2
    )
    assert np.array_equal(pop.parameters, other.parameters)


def test_order_stays():
    trainer = fastbp.Trainer(population(), SGD, batch_size=2, seed=3)
    trainer.fit(X, Y, order="own")
    trainer.fit(X, Y)
    with pytest.raises(ValueError, match="order is 'shared', but this trainer has begun with 'own'"):
        trainer.fit(X, Y, order="shared")
    with pytest.raises(ValueError, match="seed has one for each network"):
        fastbp.Trainer(population(), SGD, seed=[1, 2, 3, 4]).fit(X, Y, order="shared")
    with pytest.raises(TypeError, match="order='own' needs a seed"):
        fastbp.Trainer(population(), SGD, seed=np.random.default_rng(0)).fit(X, Y, order="own")


def test_batches_are_not_seen():
    class SeesBatches:
        def on_batch_end(self, trainer, history, step, loss):
            pass

    with pytest.raises(TypeError, match="a Population calls no on_batch_end"):
        fastbp.Trainer(population(), SGD).fit(X, Y, callbacks=[SeesBatches()])


def test_a_splitter_needs_shared_samples():
    model_selection = pytest.importorskip("sklearn.model_selection")
    with pytest.raises(ValueError, match="folds is a splitter, which needs samples that all networks share"):
        fastbp.Trainer(population(), SGD).fit(np.stack([X] * N), Y, folds=model_selection.KFold(2))


def test_read_only_memory():
    pop = population()
    trainer = fastbp.Trainer(pop, fastbp.SGD(0.1, momentum=0.5))
    for name, array in [("parameters", pop.parameters), ("states[0].buffers", trainer.states[0].buffers)]:
        array.flags.writeable = False
        with pytest.raises(ValueError, match=re.escape(f"{name} is read-only")):
            trainer.fit(X, Y)
        array.flags.writeable = True
    trainer.fit(X, Y)


def test_memory_is_checked_before_anything_is_done(monkeypatch):
    pop = population()
    trainer = fastbp.Trainer(pop, fastbp.Adam(), seed=0)
    before, large = pop.parameters.copy(), fastbp.Population([3, 30, 2], N, seed=0, backend="numpy")
    monkeypatch.setattr(population_data, "available_memory", lambda: 1000.0)
    with pytest.raises(MemoryError, match=r"needs 3.07 kB of memory \(.* for the states of the optimizer\), but 1 kB"):
        fastbp.Trainer(large, fastbp.SGD(0.1, momentum=0.5))
    with pytest.raises(MemoryError, match="kB for copies for 2 folds, .* for snapshots of parameters and states"):
        trainer.fit(X, Y, folds=2)
    for options in ({}, {"validation_data": (X, Y), "patience": 1}):
        with pytest.raises(MemoryError, match="for snapshots of parameters and states.* are available: take fewer"):
            trainer.fit(X, Y, **options)
    assert np.array_equal(pop.parameters, before) and trainer.epochs == 0
    monkeypatch.setattr(population_data, "available_memory", lambda: 2e4)
    trainer.fit(X, Y)
    wide = np.zeros((4000, 3)), np.zeros((4000, 2))
    with pytest.raises(MemoryError, match="128 kB for predictions for the validation data"):
        trainer.fit(X, Y, validation_data=wide)
    trainer.fit(X, Y, validation_data=wide, keep_predictions=False)
    with pytest.raises(MemoryError, match="256 kB for predictions out of fold"):
        trainer.fit(*wide, folds=2)


def test_available_memory_is_that_of_this_machine():
    free = population_data.available_memory()
    assert 1e6 < free < 1e15
    assert [population_data.in_bytes(n) for n in (5, 5e4, 5e7, 5e10, 5e13)] == [
        "5 B",
        "50 kB",
        "50 MB",
        "50 GB",
        "50 TB",
    ]


class Calls:
    """A callback that calls a method of its trainer."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments

    def on_epoch_end(self, trainer, history):
        getattr(trainer, self.name)(*self.arguments)


@pytest.mark.parametrize(
    "name, arguments", [("fit", (X, Y)), ("partial_fit", (X, Y)), ("load_checkpoint", ("a.ckpt",))]
)
def test_callbacks_train_no_further(name, arguments):
    trainer = fastbp.Trainer(population(), SGD, seed=3)
    with pytest.raises(RuntimeError, match="was called while fit of the same trainer runs"):
        trainer.fit(X, Y, callbacks=[Calls(name, *arguments)])
    assert len(trainer.fit(X, Y)) == 1


def test_stopped_keeps_its_shape():
    class Replaces:
        def on_epoch_end(self, trainer, history):
            trainer.stopped = [True]

    with pytest.raises(ValueError, match=re.escape("trainer.stopped must be a bool array (4,), got bool (1,)")):
        fastbp.Trainer(population(), SGD).fit(X, Y, callbacks=[Replaces()])


def test_a_callback_that_fails_leaves_a_usable_trainer():
    class Fails:
        def on_epoch_end(self, trainer, history):
            if len(history) == 2:
                raise OSError("full")

    pop = population()
    trainer = fastbp.Trainer(pop, SGD, batch_size=2, seed=3)
    with pytest.raises(OSError, match="full"):
        trainer.fit(X, Y, epochs=5, callbacks=[Fails()])
    assert trainer.epochs == 2 and len(trainer.history["loss"]) == 2
    trainer.fit(X, Y, epochs=2)
    other = population()
    fastbp.Trainer(other, SGD, batch_size=2, seed=3).fit(X, Y, epochs=4)
    assert np.array_equal(pop.parameters, other.parameters)
