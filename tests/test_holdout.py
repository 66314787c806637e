"""`Trainer.fit(validation_fraction=)`: which rows are held out, and that training does not see them."""

import numpy as np
import pytest

import fastbp
from fastbp.callbacks import Checkpoint, EarlyStopping
from fastbp.checkpoints import latest
from fastbp.training.holdout import hold_out

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4)).astype(np.float32)
LABELS = np.repeat([2, 0, 1], [60, 20, 10])[RNG.permutation(90)]
NUMBERS = RNG.normal(size=(90, 2))


def make(backend="numba", labels=True, optimizer=None, **options):
    outputs = ([4, 8, 3], ["tanh", "softmax"], "cross_entropy") if labels else ([4, 8, 2], "tanh", "squared_error")
    net = fastbp.Network(*outputs, dtype="float64", seed=0, backend=backend)
    options = {"batch_size": 8, "seed": 1, "dropout": 0.2, **options}
    return fastbp.Trainer(net, optimizer or fastbp.Adam(0.01), **options)


# ------------------------------------------------------------------ the rows


@pytest.mark.parametrize("fraction, n", [(0.2, 18), (0.5, 45), (0.01, 1), (0.33, 30), (0.9, 81)])
def test_every_row_is_in_one_part(fraction, n):
    for Y in (LABELS, NUMBERS):
        rows, held_out = hold_out(Y, fraction, 7)
        assert len(held_out) == n
        np.testing.assert_array_equal(np.sort(np.concatenate([rows, held_out])), np.arange(90))
        assert (np.diff(rows) > 0).all() and (np.diff(held_out) > 0).all()


@pytest.mark.parametrize(
    "Y, classes",
    [
        (LABELS, LABELS),
        (np.eye(3)[LABELS], LABELS),
        (2 * np.eye(3)[LABELS] - 1, LABELS),
        ((LABELS == 2)[:, None].astype(float), LABELS == 2),
        (np.where(LABELS == 1, -1.0, 1.0)[:, None], LABELS == 1),
    ],
    ids=["labels", "one-hot", "signs", "one output", "one sign"],
)
def test_of_each_class_the_same_fraction(Y, classes):
    for key in range(20):
        _, held_out = hold_out(Y, 0.2, key)
        counts = np.bincount(classes[held_out].astype(int))
        np.testing.assert_allclose(counts, 0.2 * np.bincount(classes.astype(int)), atol=0.51)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8, 0.97])
def test_of_each_class_one_row_is_trained(fraction):
    labels = np.array([0, 1, 1, 2, 2, 2, *[3] * 30])
    for key in range(50):
        rows, held_out = hold_out(labels, fraction, key)
        assert set(labels[rows]) == {0, 1, 2, 3} and len(held_out)


def test_the_rows_are_drawn_at_random_from_the_key():
    for Y in (LABELS, NUMBERS):
        drawn = [hold_out(Y, 0.2, key)[1] for key in range(400)]
        np.testing.assert_array_equal(hold_out(Y, 0.2, 399)[1], drawn[-1])
        counts = np.bincount(np.concatenate(drawn), minlength=90)
        assert 50 < counts.min() and counts.max() < 115  # 80 of 400 on average, standard deviation 8
        others = np.bincount(np.concatenate([rows for rows in drawn if 0 in rows]), minlength=90)
        assert (others > 0).all()  # any two rows may be held out together


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("labels", [True, False])
def test_training_is_that_on_the_other_rows(backend, labels):
    Y, weights, options = (LABELS if labels else NUMBERS), np.linspace(0, 2, 90), {"epochs": 3}
    options["metrics"] = ["accuracy" if labels else "mae"]
    trainer, expected = make(backend, labels), make(backend, labels)
    rows, held_out = hold_out(Y, 0.2, trainer.key)
    data = X[held_out], Y[held_out]
    history = trainer.fit(X, Y, sample_weight=weights, validation_fraction=0.2, **options)
    wanted = expected.fit(X[rows], Y[rows], sample_weight=weights[rows], validation_data=data, **options)
    assert history.recorded == wanted.recorded and len(history.validation_loss) == 3
    assert trainer.net.parameters.tobytes() == expected.net.parameters.tobytes()


def test_one_epoch_after_others_on_all_rows(backend):
    """It does not go the short way of calls that are like the last one."""
    one, other, samples = make(backend), make(backend), X.astype(np.float64)
    for trainer in (one, other):
        for _ in range(3):
            trainer.fit(samples, LABELS, progress=False)
    rows, held_out = hold_out(LABELS, 0.2, one.key)
    data = samples[held_out], LABELS[held_out]
    history = one.fit(samples, LABELS, validation_fraction=0.2, progress=False)
    wanted = other.fit(samples[rows], LABELS[rows], validation_data=data, progress=False)
    assert history.recorded == wanted.recorded and len(history.validation_loss) == 1
    assert one.net.parameters.tobytes() == other.net.parameters.tobytes()


@pytest.mark.parametrize("optimizer", [fastbp.Adam(0.01), fastbp.LBFGS()], ids=repr)
def test_no_call_trains_the_rows_that_another_holds_out(backend, optimizer):
    """What the held-out rows hold changes validation losses alone, and dividing the epochs among calls nothing."""
    trainers = [make(backend, False, optimizer, dropout=0.0) for _ in range(3)]
    _, held_out = hold_out(NUMBERS, 0.3, trainers[0].key)
    others, values = NUMBERS.copy(), X.copy()
    others[held_out], values[held_out] = 9, 7
    trainers[0].fit(X, NUMBERS, epochs=4, validation_fraction=0.3)
    for _ in range(4):
        trainers[1].fit(X, NUMBERS, epochs=1, validation_fraction=0.3)
    trainers[2].fit(values, others, epochs=4, validation_fraction=0.3)
    first, second, third = (trainer.net.parameters.tobytes() for trainer in trainers)
    assert first == second == third
    losses = [trainer.history["validation_loss"] for trainer in trainers]
    assert losses[0] == losses[1] and min(losses[2]) > 2 * max(losses[0])


def test_the_best_epoch_is_restored(backend):
    trainer, stopping = make(backend, optimizer=fastbp.Adam(0.05), dropout=0.0), EarlyStopping(patience=5)
    _, held_out = hold_out(LABELS, 0.2, trainer.key)
    history = trainer.fit(X, LABELS, epochs=200, validation_fraction=0.2, callbacks=[stopping])
    assert history.stopped == "EarlyStopping" and len(history) == stopping.best_epoch + 5
    assert trainer.net.loss(X[held_out], LABELS[held_out]) == min(history.validation_loss) == stopping.best
    assert stopping.best < history.validation_loss[-1]


def test_a_resumed_training_holds_out_the_same_rows(backend, tmp_path):
    options = {"validation_fraction": 0.2, "progress": False}
    whole, first, second = make(backend), make(backend), make(backend, seed=5)
    whole.fit(X, LABELS, epochs=6, callbacks=[EarlyStopping(patience=9)], **options)
    first.fit(
        X,
        LABELS,
        epochs=3,
        callbacks=[EarlyStopping(patience=9), Checkpoint(tmp_path / "training.ckpt", every=3)],
        **options,
    )
    second.load_checkpoint(latest(tmp_path))
    second.fit(X, LABELS, epochs=3, callbacks=[EarlyStopping(patience=9)], **options)
    assert second.net.parameters.tobytes() == whole.net.parameters.tobytes()
    assert second.history == whole.history


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "fraction, options, error, words",
    [
        (0, {}, ValueError, "validation_fraction must be above 0 and below 1, got 0"),
        (1.0, {}, ValueError, "validation_fraction must be above 0 and below 1, got 1.0"),
        (np.nan, {}, ValueError, "validation_fraction must be above 0"),
        (True, {}, TypeError, "validation_fraction must be a number, got True"),
        ("some", {}, TypeError, "validation_fraction must be a number, got 'some'"),
        (
            0.2,
            {"validation_data": (X, LABELS)},
            ValueError,
            "validation_fraction and validation_data must not",
        ),
        (0.2, {"X": X[:1], "Y": LABELS[:1]}, ValueError, "validation_fraction=0.2 of 1 samples leaves none"),
        (
            0.9,
            {"X": X[:3], "Y": np.arange(3)},
            ValueError,
            "leaves none to validate on: one of each class is trained",
        ),
        (
            0.2,
            {"X": fastbp.stream(lambda: iter([(X, LABELS)])), "Y": None},
            ValueError,
            "with a stream, give",
        ),
    ],
)
def test_what_is_refused(fraction, options, error, words):
    trainer = make()
    before, state = trainer.net.parameters.copy(), trainer.rng.bit_generator.state
    with pytest.raises(error, match=words):
        trainer.fit(**{"X": X, "Y": LABELS, **options}, validation_fraction=fraction)
    assert trainer.state.step == trainer.epochs == 0 and trainer.rng.bit_generator.state == state
    np.testing.assert_array_equal(trainer.net.parameters, before)
