"""Recipes: a table in, an ensemble of small calibrated networks out, with the encoding kept with the model."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from test_cli import run

import fastbp
from fastbp.callbacks import Callback
from fastbp.datasets import Column, Dataset
from fastbp.encodings import PiecewiseLinearEncoding
from fastbp.preprocessing import METADATA_KEY, Preprocessor, output_activation, tempered
from fastbp.recipes import Recipe, TableModel, train
from fastbp.scores import TEMPERATURES, best_temperature

N = 120
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 3)) * [1, 50, 1e-3]
NUMBERS = Dataset(X, 1000 + 70 * np.sin(X[:, 0]))
NOISY = Dataset(X, (X[:, 0] + rng.normal(size=N) > 0).astype(np.int64), ("no", "yes"))
TINY = {"batch_size": 32, "hidden": (8,), "n_networks": 3, "epochs": 8, "lr": 0.01}


def tiny(**changes):
    return Recipe(**{**TINY, **changes})


class Spy(Callback):
    """Keeps what a call of `fit` was given, and the first parameters."""

    def on_train_begin(self, trainer, history):
        self.trainer, self.first = trainer, trainer.pop.parameters.copy()
        self.nets = list(trainer.pop)


@pytest.fixture
def fitted(monkeypatch):
    """Let a test see the arguments of `Population.fit`."""
    calls, fit = [], fastbp.Population.fit

    def spied(self, *args, **options):
        calls.append((args, options))
        return fit(self, *args, **options)

    monkeypatch.setattr(fastbp.Population, "fit", spied)
    return calls


# ------------------------------------------------------------------ encoding and temperature of a Preprocessor


def test_inputs_are_standardized_and_then_encoded():
    made = Preprocessor.of(NOISY, np.arange(100), PiecewiseLinearEncoding(4))
    standardized = (X - X[:100].mean(axis=0)) / X[:100].std(axis=0)
    expected = PiecewiseLinearEncoding(4).fit(standardized[:100]).transform(standardized)
    inputs = made.inputs(X, np.dtype("f8"))
    np.testing.assert_allclose(inputs, expected, atol=1e-5)
    assert inputs.shape == (N, 15) and made.n_features(15) == 3
    assert made.inputs(X, np.dtype("f4")).dtype == np.float32
    missing = X.copy()
    missing[5, 1] = np.nan
    standardized[5, 1] = 0
    expected = PiecewiseLinearEncoding(4).fit(standardized[:100]).transform(standardized)
    np.testing.assert_allclose(made.inputs(missing, np.dtype("f8"))[5], expected[5], atol=0.1)
    assert made.inputs(missing, np.dtype("f8"))[5, 1] == 0


def test_encoding_and_temperature_are_metadata_where_they_are():
    plain = Preprocessor.of(NOISY, np.arange(N))
    assert not {"encoding", "temperature"} & set(json.loads(plain.metadata()[METADATA_KEY]))
    assert Preprocessor.from_metadata(plain.metadata()).metadata() == plain.metadata()
    made = replace(Preprocessor.of(NOISY, np.arange(N), PiecewiseLinearEncoding(4)), temperature=1.3)
    again = Preprocessor.from_metadata(made.metadata(), sizes=[15, 4, 2])
    assert again.metadata() == made.metadata()
    assert again.encoding == made.encoding and again.temperature == 1.3
    assert isinstance(again.encoding.n_bins, int)
    assert (again.inputs(X, np.dtype("f4")) == made.inputs(X, np.dtype("f4"))).all()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"temperature": 0}, r"temperature\[0\] must be a finite number above 0, got 0"),
        ({"temperature": -1.5}, "above 0, got -1.5"),
        ({"temperature": "warm"}, "above 0, got 'warm'"),
        ({"temperature": [1.0]}, "above 0, got"),
        ({"temperature": 2.0, "classes": None}, "temperature must be null for numbers, got 2.0"),
        ({"encoding": 5}, "encoding: the encoding must be a dict of n_bins, max_distinct, scale, edges, got 5"),
        ({"encoding": {"n_bins": 4}}, "encoding: the encoding must be a dict"),
        ({"encoding": {"n_bins": 0, "max_distinct": 10, "scale": 1, "edges": [None] * 3}}, "encoding: n_bins must be"),
        (
            {"encoding": {"n_bins": 4.5, "max_distinct": 10, "scale": 1, "edges": [None] * 3}},
            "encoding: n_bins must be",
        ),
        (
            {"encoding": {"n_bins": 4, "max_distinct": 10, "scale": 1, "edges": [[1, 0], None, None]}},
            r"encoding: edges\[0\]\[1\]",
        ),
        ({"encoding": {"n_bins": 4, "max_distinct": 10, "scale": 1, "edges": 3}}, "encoding: edges must be a list"),
        (
            {"encoding": {"n_bins": 4, "max_distinct": 10, "scale": 1, "edges": [None] * 3}},
            "encoding makes 3 inputs, .* has 15",
        ),
        (
            {"encoding": {"n_bins": 1, "max_distinct": 1, "scale": 1, "edges": [[0, 1]] * 3}},
            "encoding makes 6 inputs, .* has 15",
        ),
        ({"encoding": None}, "mean must be a list of 15"),
        ({"columns": [["a", None], ["b", None]]}, "columns make 2 inputs, but the encoding takes 3"),
        ({"mean": [0.0] * 4, "scale": [1.0] * 4}, "mean must be a list of 3"),
    ],
)
def test_damaged_metadata_are_refused(changes, words):
    made = replace(Preprocessor.of(NOISY, np.arange(N), PiecewiseLinearEncoding(4)), temperature=1.3)
    values = json.loads(made.metadata()[METADATA_KEY]) | changes
    if values["classes"] is None and "temperature" not in changes:
        values["temperature"] = None
    with pytest.raises(ValueError, match=f"the model, metadata 'recipe': .*{words}"):
        Preprocessor.from_metadata({METADATA_KEY: json.dumps(values)}, sizes=[15, 4, 2])


def test_a_temperature_is_a_power_and_keeps_the_order():
    A = rng.dirichlet(np.ones(4), size=50).astype(np.float32)
    made = Preprocessor([0.0], [1.0], ("a", "b", "c", "d"), temperature=2.5)
    powers = A.astype(float) ** (1 / 2.5)
    np.testing.assert_allclose(made.calibrated(A), powers / powers.sum(axis=1, keepdims=True), rtol=1e-12)
    assert (np.argsort(made.calibrated(A), axis=1) == np.argsort(A, axis=1)).all()
    assert replace(made, temperature=None).calibrated(A) is A
    certain = tempered(np.array([[1.0, 0.0], [0.5, 0.5]], np.float32), 1e-300)
    assert certain.tolist() == [[1, 0], [0.5, 0.5]]


def test_output_activations_go_with_the_loss():
    assert output_activation("cross_entropy", "classes") == "softmax"
    assert output_activation("hinge", "classes") == output_activation("huber", "numbers") == "identity"
    assert output_activation("binary_cross_entropy", "classes") == "sigmoid"
    for loss, words in (("cross_entropy", "cross_entropy is for classes"), ("poisson", "poisson is for counts")):
        with pytest.raises(ValueError, match=words):
            train(tiny(loss=loss), NUMBERS)


# ------------------------------------------------------------------ the recipe


def test_what_follows_from_the_table():
    classes, numbers = Recipe().for_table("classes", 2000, 10), Recipe().for_table("numbers", 2000, 10)
    assert (classes.loss, classes.n_bins) == ("cross_entropy", 8)
    assert (numbers.loss, numbers.n_bins) == ("squared_error", 8)
    assert numbers.weight_decay == 0.5 and Recipe().for_table("numbers", 900, 10).weight_decay == 1
    assert numbers.validation_fraction == 0.2 and numbers.input_scale_lr == 40
    assert Recipe(lr=0.016).for_table("numbers", 900, 10).input_scale_lr == 10
    assert Recipe(lr=0.001).for_table("numbers", 900, 10).input_scale_lr == 40
    assert Recipe().for_table("numbers", 8000, 10).epochs == 60  # of 100 updates
    assert all(getattr(numbers, field.name) is not None for field in fields(numbers))
    assert Recipe().for_table("numbers", 100, 10).epochs == 200
    assert Recipe().for_table("numbers", 100_000, 10).epochs == 30
    for n_features, pixels, encodes in ((10, True, False), (129, False, False), (128, False, True)):
        of_table = Recipe().for_table("classes", 2000, n_features, pixels=pixels)
        assert of_table.n_bins == (8 if encodes else 0)
    assert Recipe().for_table("classes", 9, 10).validation_fraction == 0
    given = Recipe(
        loss="huber",
        epochs=3,
        weight_decay=0.0,
        input_scale_lr=3.0,
        n_bins=0,
        validation_fraction=0.0,
        calibrates=False,
    )
    assert given.for_table("numbers", 2000, 10) == given


def test_sizes():
    small, large = Recipe.of_size("small"), Recipe.of_size("large", lr=0.5, hidden=(3,))
    assert sum(small.hidden) < sum(Recipe().hidden) and Recipe.of_size("medium") == Recipe()
    assert large.n_networks > Recipe().n_networks and (large.lr, large.hidden) == (0.5, (3,))
    with pytest.raises(ValueError, match=r"size 'smal' is unknown; did you mean 'small'"):
        Recipe.of_size("smal")
    with pytest.raises(TypeError, match="Recipe has no field 'epoch'; did you mean 'epochs'"):
        Recipe.of_size("small", epoch=3)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"hidden": 64}, "hidden must be a sequence"),
        ({"hidden": (64, 0)}, r"hidden\[1\] must be"),
        ({"n_networks": 0}, "n_networks must be"),
        ({"lr": 0.0}, "lr must be"),
        ({"weight_decay": -1}, "weight_decay must be"),
        ({"schedule": "linear"}, "schedule 'linear' is unknown"),
        ({"warmup": 1.0}, "warmup must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"n_bins": -1}, "n_bins must be"),
        ({"input_scale_lr": -1}, "input_scale_lr must be at least 0"),
        ({"validation_fraction": 1.0}, "validation_fraction must be"),
        ({"patience": 0}, "patience must be"),
        ({"calibrates": 1}, "calibrates must be"),
        ({"calibrates": None}, "calibrates must be"),
    ],
)
def test_fields_are_checked(changes, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Recipe(**changes)


@pytest.mark.parametrize("n_bins, expected", [(0, None), (4, PiecewiseLinearEncoding(4, scale=0.5))])
def test_numbers_are_encoded_as_the_recipe_says(n_bins, expected):
    found = train(tiny(epochs=1, n_bins=n_bins), NOISY).preprocessor.encoding
    assert found == (None if expected is None else Preprocessor.of(NOISY, np.arange(N), expected).encoding)


def test_networks_too_small_for_scales_have_none(fitted):
    for hidden, rate in (((8,), 16.0), ((1,), 0.0)):
        train(tiny(hidden=hidden, epochs=1), NOISY)
        assert fitted[-1][0][4].input_scale_lr == rate


def test_what_is_trained_is_told(fitted):
    lines = []
    model = train(tiny(dropout=0.1, n_bins=4), NOISY, show=lines.append)
    text = "\n".join(lines)
    assert fitted[0][1]["dropout"] == 0.1
    assert "3 networks 15-8-2, relu; cross_entropy; each number also in 4 bins\n" in text
    assert "dropout 0.1; batches of 32, at most 8 epochs" in text and "holds out its own 20% of the rows" in text
    assert f"{3 * (15 * 8 + 8 * 2) * 3 * 8 * 96:.1e} multiply-adds" in text
    assert f"best epochs {', '.join(map(str, model.history.best_epoch))} of 8" in text
    for changes, words in (
        ({"n_bins": 4}, "; each number also in 4 bins\n"),
        ({"n_bins": 0}, "relu; cross_entropy\n"),
        ({"input_scale_lr": 7.0}, ", scales of inputs learned (lr x 7); batches"),
    ):
        lines.clear()
        train(tiny(**changes, calibrates=False), NOISY, show=lines.append)
        assert words in "\n".join(lines) and "temperature" not in "\n".join(lines)


@pytest.mark.parametrize("schedule", ["cosine", "coslog4", "constant"])
def test_the_schedule_lasts_as_long_as_the_training(schedule, fitted):
    train(tiny(schedule=schedule, warmup=0.25), NUMBERS)
    lr = fitted[0][0][4].lr
    expected = {
        "cosine": fastbp.schedules.Cosine(0.01, 18, warmup=6),  # 8 epochs of 3 batches
        "coslog4": fastbp.schedules.CosLog4(0.01, 24),
        "constant": 0.01,
    }
    assert lr == expected[schedule]


# ------------------------------------------------------------------ the training


def test_each_network_holds_out_rows_of_its_own(fitted):
    y = np.repeat([0, 1], [90, 30])
    train(tiny(), Dataset(X, y, ("a", "b")))
    ((_, options),) = fitted
    trained, held_out = options["train_rows"], options["validation_rows"]
    for own, others in zip(trained, held_out, strict=True):
        assert sorted([*own, *others]) == list(range(N))
        assert np.bincount(y[others]).tolist() == [18, 6]
    assert len({tuple(others) for others in held_out}) == 3
    train(tiny(), NUMBERS)
    held_out = fitted[1][1]["validation_rows"]
    assert [len(others) for others in held_out] == [24] * 3 and len({tuple(others) for others in held_out}) == 3


def test_rows_that_are_not_to_be_trained_on_have_no_effect():
    rows = np.arange(0, N, 2)
    others = NOISY.X.copy()
    others[1::2] = 1e6
    one, two = (train(tiny(), Dataset(samples, NOISY.y, NOISY.classes), rows) for samples in (X, others))
    assert one.preprocessor == two.preprocessor and (one.population.parameters == two.population.parameters).all()
    by_mask = train(tiny(), NOISY, np.arange(N) % 2 == 0)
    assert (by_mask.population.parameters == one.population.parameters).all()


def test_the_last_layer_of_numbers_starts_from_zero():
    for data, n_zero in ((NUMBERS, 1), (NOISY, 0)):
        spy = Spy()
        train(tiny(hidden=(8, 4)), data, callbacks=[spy])
        for net in spy.nets:
            assert [not W.any() for W in net.weights] == [False, False, bool(n_zero)]
            assert not any(b.any() for b in net.biases)
        assert (spy.first[0] != spy.first[1]).any()


def test_each_network_keeps_its_best_epoch():
    model = train(tiny(epochs=30, lr=0.05, patience=3), NOISY)
    history = model.history
    assert set(history.stopped) == {"patience"} and (history.epochs_done == history.best_epoch + 3).all()
    assert (model.population.losses == np.nanmin(history.validation_loss, axis=0)).all()


def test_the_same_seed_gives_the_same_bits():
    big = {"hidden": (64,), "n_networks": 4, "epochs": 3}  # enough work for two threads
    first, second, other = (
        train(tiny(**big), NOISY, seed=seed, threads=threads) for seed, threads in ((1, 1), (1, 2), (2, 1))
    )
    assert first.population.parameters.tobytes() == second.population.parameters.tobytes()
    assert first.preprocessor == second.preprocessor
    assert first.population.parameters.tobytes() != other.population.parameters.tobytes()


def test_numbers_are_learned_and_predicted_in_their_units():
    model = train(tiny(hidden=(32,), epochs=100), NUMBERS)
    assert np.mean((model.predict(X) - NUMBERS.y) ** 2) < 0.25 * NUMBERS.y.var()
    spread = model.spread(X)
    each = model.population.predict(model.inputs(X))[:, :, 0] * model.preprocessor.target_scale[0]
    np.testing.assert_allclose(spread, each.std(axis=0), rtol=1e-3)
    with pytest.raises(ValueError, match="spread is of numbers"):
        train(tiny(), NOISY).spread(X)


OVERCONFIDENT = {"hidden": (32,), "epochs": 40, "lr": 0.02, "input_scale_lr": 0.0}


class KeepsEpochs(Callback):
    """Keeps a copy of the population after each epoch."""

    def __init__(self):
        self.populations = []

    def on_epoch_end(self, trainer, history):
        self.populations.append(trainer.pop.copy())


def loss_of(A, y, weights=None):
    return np.average(-np.log(A[np.arange(len(y)), y]), weights=weights)


@pytest.mark.parametrize("weights", [None, np.where(NOISY.y == 1, 5.0, 1.0)], ids=["", "weights"])
def test_each_network_is_calibrated_by_the_rows_that_it_holds_out(fitted, weights):
    kept, shown = KeepsEpochs(), []
    model = train(tiny(**OVERCONFIDENT), NOISY, callbacks=[kept], show=shown.append, sample_weight=weights)
    history, inputs, calibrated, found = model.history, model.inputs(X), [], []
    assert model.preprocessor.temperature is None
    for i, rows in enumerate(fitted[0][1]["validation_rows"]):
        y, w = NOISY.y[rows], None if weights is None else weights[rows]
        outputs = [population.predict(inputs[rows], members=[i])[0] for population in kept.populations]
        # the best epoch is that of least log loss after calibration
        losses = [best_temperature(A, y)[1] for A in outputs[: history.epochs_done[i]]]
        np.testing.assert_allclose(history.validation_loss[: len(losses), i], losses, rtol=1e-5)
        best = int(np.argmin(history.validation_loss[: len(losses), i]))
        assert history.best_epoch[i] == best + 1 and model.population.losses[i] == history.validation_loss[best, i]
        # its outputs become softmax(Z / T)
        net = kept.populations[best].network(i)
        temperature, loss = best_temperature(outputs[best], y, w)
        after = model.population.predict(inputs[rows], members=[i])[0].astype(float)
        assert loss_of(after, y, w) == pytest.approx(loss, rel=1e-5)
        assert loss_of(after, y, w) <= loss_of(outputs[best].astype(float), y, w) + 1e-6
        Z = net.trace(inputs, np.eye(2)[NOISY.y]).layers[-1].Z.astype(float) / temperature
        powers = np.exp(Z - Z.max(axis=1, keepdims=True))
        calibrated.append(powers / powers.sum(axis=1, keepdims=True))
        found.append(temperature)
    np.testing.assert_allclose(model.population.predict(inputs), calibrated, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.outputs(X), np.mean(calibrated, axis=0), rtol=1e-4, atol=1e-6)
    assert max(found) > 1.1 and len(set(found)) > 1
    assert shown[-1] == f"temperatures of the probabilities {', '.join(f'{t:.2g}' for t in found)}"


def test_only_the_last_layer_changes(fitted):
    kept = KeepsEpochs()
    model = train(tiny(**OVERCONFIDENT, patience=99), NOISY, callbacks=[kept])
    for i, (net, best) in enumerate(zip(model.population, model.history.best_epoch, strict=True)):
        before = kept.populations[best - 1].network(i)
        assert (net.weights[0] == before.weights[0]).all() and (net.biases[0] == before.biases[0]).all()
        temperature = before.weights[1][0, 0] / net.weights[1][0, 0]
        assert abs(np.log2(TEMPERATURES / temperature)).min() < 1e-5
        np.testing.assert_allclose(net.weights[1] * temperature, before.weights[1], rtol=1e-5)
        np.testing.assert_allclose(net.biases[1] * temperature, before.biases[1], rtol=1e-5)


@pytest.mark.parametrize(
    "changes, data",
    [
        ({"calibrates": False}, NOISY),
        ({"loss": "hinge"}, NOISY),
        ({}, NUMBERS),
        ({"validation_fraction": 0.0}, NOISY),
    ],
    ids=["calibrates=False", "hinge", "numbers", "no rows held out"],
)
def test_networks_that_are_not_calibrated(fitted, changes, data):
    kept, shown = KeepsEpochs(), []
    model = train(tiny(**OVERCONFIDENT, **changes), data, callbacks=[kept], show=shown.append)
    history, options = model.history, fitted[0][1]
    assert "temperature" not in "".join(shown)
    for i, net in enumerate(model.population):
        best = history.best_epoch[i] if history.has_validation else len(history)
        assert net.parameters.tobytes() == kept.populations[best - 1].network(i).parameters.tobytes()
        if history.has_validation:
            rows = options["validation_rows"][i]
            targets = model.preprocessor.targets(data.y[rows], net.loss_name)
            plain = net.loss(model.inputs(X[rows]), targets)
            assert model.population.losses[i] == pytest.approx(plain, rel=1e-5)
            assert history.validation_loss[best - 1, i] == np.nanmin(history.validation_loss[:, i])


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_networks_that_diverge_are_usable(lr):
    shown = []
    with pytest.warns(RuntimeWarning, match="training became non-finite in 3 networks"):
        model = train(tiny(lr=lr), NOISY, show=shown.append)
    assert "; loss on the rows held out " + ("nan" if lr == 1e30 else "") in shown[-2]
    assert np.isfinite(model.population.parameters).all() and np.isfinite(model.outputs(X)).all()


def test_a_model_of_an_earlier_version_predicts_the_same(tmp_path):
    """One network, numbers in bins, and a temperature that is kept beside them: tests/data/make_recipe.py."""
    data = Path(__file__).parent / "data"
    model = TableModel.load(data / "earlier_recipe.npz")
    samples = np.round(np.sin(np.arange(30.0) ** 1.5).reshape(10, 3) * [1, 50, 0.001], 6)
    expected = np.load(data / "earlier_recipe_outputs.npy")
    assert model.preprocessor.temperature == pytest.approx(1.134, abs=1e-3)
    assert isinstance(model.preprocessor.encoding, PiecewiseLinearEncoding) and len(model.population) == 1
    np.testing.assert_allclose(model.outputs(samples), expected, rtol=1e-5)
    np.savetxt(tmp_path / "data.csv", samples, delimiter=",", header="a,b,c", comments="", fmt="%.17g")
    lines = run("predict", data / "earlier_recipe.npz", tmp_path / "data.csv", "--proba").stdout.splitlines()[1:]
    np.testing.assert_allclose([list(map(float, line.split(",")[1:])) for line in lines], expected, atol=1e-5)
    again = Preprocessor.from_metadata(model.preprocessor.metadata())
    assert again.metadata() == model.preprocessor.metadata() and again.temperature == model.preprocessor.temperature


def test_rows_of_weight_0_are_left_out():
    rows = np.arange(0, N, 2)
    weights = np.where(np.arange(N) % 2, 0.0, 1.0)
    one = train(tiny(), NOISY, sample_weight=weights)
    two = train(tiny(), NOISY, rows, sample_weight=np.ones(N))
    assert one.preprocessor == two.preprocessor and (one.population.parameters == two.population.parameters).all()
    heavy = train(tiny(epochs=40), NOISY, sample_weight=np.where(NOISY.y == 1, 20.0, 1.0))
    assert (heavy.predict(X) == "yes").mean() > (train(tiny(epochs=40), NOISY).predict(X) == "yes").mean() + 0.1
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(120,\), got \(3,\)"):
        train(tiny(), NOISY, sample_weight=np.ones(3))


def test_ctrl_c_leaves_the_best_so_far():
    class Interrupt(Callback):
        def on_epoch_end(self, trainer, history):
            if len(history) == 4:
                raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="interrupted after 4 of 8 epochs"):
        model = train(tiny(), NOISY, callbacks=[Interrupt()])
    assert model.history.interrupted and model.outputs(X).shape == (N, 2)
    assert (model.population.losses == model.history.validation_loss.min(axis=0)).all()


@pytest.mark.parametrize(
    "data",
    [
        Dataset(X[:10], np.arange(10) % 2, ("a", "b")),
        Dataset(X[:3], np.array([0, 1, 1]), ("a", "b")),
        Dataset(X[:10], np.arange(10.0)),
        Dataset(X[:1], np.array([5.0])),
        Dataset(X[:30], np.r_[np.zeros(27, int), 1, 1, 1], ("a", "b")),
        Dataset(X[:30], np.r_[np.zeros(28, int), 1, 2], ("a", "b", "c")),
        Dataset(X[:12], np.arange(12), tuple("abcdefghijkl")),
        Dataset(X[:30], np.zeros(30, int), ("a", "b")),
        Dataset(X, np.full(N, 3.25)),
        Dataset(np.c_[X, np.full(N, 7.0)], NUMBERS.y),
        Dataset(X, np.c_[NUMBERS.y, X[:, 1]]),
        Dataset(np.where(rng.random(X.shape) < 0.3, np.nan, X), NOISY.y, ("a", "b")),
        Dataset(np.full((N, 2), np.nan), NOISY.y, ("a", "b")),
    ],
    ids=[
        "10 rows", "3 rows", "10 numbers", "1 row", "3 rows of a class", "1 row of a class", "classes of 1 row",
        "1 of 2 classes", "constant target", "constant column", "2 targets", "missing", "all missing",
    ],
)  # fmt: skip
def test_odd_tables_are_trained_on(data):
    model = train(tiny(epochs=3), data)
    A = model.outputs(data.X)
    assert A.shape[0] == len(data.X) and np.isfinite(A).all()
    predicted = model.predict(data.X)
    if data.classes is None:
        assert predicted.shape == data.y.shape
        if np.ptp(data.y) == 0:
            np.testing.assert_allclose(predicted, data.y)
    else:
        assert set(predicted) <= set(data.classes)
        np.testing.assert_allclose(A.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "data, rows, words",
    [
        (Dataset(X), None, "data must have targets"),
        (NOISY, np.empty(0, int), "rows must be one or more rows"),
        (Dataset(X, np.zeros(N, int), ("a",)), None, "classes must be a list of two or more"),
        (Dataset(X, np.where(np.arange(N) == 7, np.nan, 1.0)), None, r"Y\[7, 0\] is nan"),
        (Dataset(np.where(np.arange(N)[:, None] == 7, np.inf, X), NUMBERS.y), None, r"X\[7, 0\] is inf: numbers"),
    ],
)
def test_what_cannot_be_trained_on(data, rows, words):
    with pytest.raises(ValueError, match=words):
        train(tiny(), data, rows)


# ------------------------------------------------------------------ the model


@pytest.mark.parametrize("data, suffix", [(NOISY, "npz"), (NUMBERS, "npz"), (NOISY, "safetensors")])
def test_a_saved_model_predicts_the_same_bits(tmp_path, data, suffix):
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    model = train(tiny(n_bins=4), data)
    path = tmp_path / f"model.{suffix}"
    model.save(path, {"note": "kept"})
    again = TableModel.load(path)
    assert (
        again.preprocessor.metadata() == model.preprocessor.metadata() and again.preprocessor.encoding.n_outputs == 15
    )
    assert again.outputs(X).tobytes() == model.outputs(X).tobytes()
    assert (again.predict(X) == model.predict(X)).all()
    assert again.population.metadata["note"] == "kept" and again.task == model.task
    assert isinstance(fastbp.load(path), fastbp.Population)
    assert repr(again) == f"TableModel(3 networks 15-8-{2 if data is NOISY else 1}, {model.task})"


def test_models_of_single_networks_are_loaded(tmp_path):
    net = fastbp.Network([3, 2], "softmax", "cross_entropy", seed=0)
    preprocessor = Preprocessor.of(NOISY, np.arange(N))
    net.save(tmp_path / "net.npz", metadata=preprocessor.metadata())
    model = TableModel.load(tmp_path / "net.npz")
    np.testing.assert_allclose(model.outputs(X), net.predict(preprocessor.inputs(X, net.dtype)), rtol=1e-6)
    net.save(tmp_path / "plain.npz")
    with pytest.raises(ValueError, match=r"plain.npz does not say what samples and outputs mean"):
        TableModel.load(tmp_path / "plain.npz")


def test_samples_are_checked():
    model = train(tiny(n_bins=4), NOISY)
    with pytest.raises(ValueError, match=r"X must have 3 features, \(n_samples, 3\), got shape \(120, 2\)"):
        model.outputs(X[:, :2])
    assert (model.outputs(X.tolist()) == model.outputs(X)).all()


def test_the_command_predicts_with_a_model(tmp_path):
    columns = tuple(Column(name) for name in "abc")
    recipe = tiny(hidden=(32,), epochs=40, lr=0.02, dropout=0.0)
    model = train(recipe, Dataset(X, NOISY.y, NOISY.classes, columns, "t", has_names=True))
    model.save(tmp_path / "model.npz")
    np.savetxt(tmp_path / "data.csv", X[:5], delimiter=",", header="a,b,c", comments="", fmt="%.17g")
    lines = run("predict", tmp_path / "model.npz", tmp_path / "data.csv", "--proba").stdout.splitlines()
    rows = [line.split(",") for line in lines][1:]
    assert [row[0] for row in rows] == model.predict(X[:5]).tolist()
    written = np.array([row[1:] for row in rows], float)
    np.testing.assert_allclose(written, model.outputs(X[:5]), atol=1e-5)


def test_a_model_takes_tables_of_its_columns():
    pd = pytest.importorskip("pandas")
    pytest.importorskip("narwhals")
    columns = (Column("a"), Column("b", flag=True), Column("c", ("x", "y")))
    table = pd.DataFrame({"c": ["x", "y", "x"], "b": [1.0, None, 2.0], "a": [0.5, 1.0, -1.0]})
    matrix = np.array([[0.5, 1, 0, 1, 0], [1, np.nan, 1, 0, 1], [-1, 2, 0, 1, 0]])
    data = Dataset(np.tile(matrix, (10, 1)), np.arange(30.0) % 7, columns=columns, has_names=True)
    model = train(tiny(), data)
    assert (model.predict(table) == model.predict(matrix)).all()
