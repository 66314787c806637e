"""`TabularClassifier` and `TabularRegressor`: tables of any kind in, scikit-learn's interface out."""

import datetime
import pickle

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")
pd = pytest.importorskip("pandas")
pytest.importorskip("narwhals")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.utils.estimator_checks import estimator_checks_generator  # noqa: E402
from sklearn.utils.validation import _get_feature_names  # noqa: E402

import fastbp  # noqa: E402
from fastbp.callbacks import Callback  # noqa: E402
from fastbp.estimators import TabularClassifier, TabularRegressor, tabular  # noqa: E402
from fastbp.recipes import Recipe, TableModel  # noqa: E402

N = 90
rng = np.random.default_rng(0)
AGE = rng.normal(40, 10, N).round(1)
CITY = rng.choice(["Rome", "Oslo", "Bern"], N)
KNOWN_AGE, KNOWN_CITY = np.arange(N) % 7 > 0, np.arange(N) % 11 > 0
DAYS = [datetime.date(2020, 1, 1) + datetime.timedelta(int(n)) for n in rng.integers(0, 700, N)]
COLUMNS = {
    "id": list(range(N)),
    "age": [age if known else None for age, known in zip(AGE.tolist(), KNOWN_AGE, strict=True)],
    "city": [city if known else None for city, known in zip(CITY.tolist(), KNOWN_CITY, strict=True)],
    "when": DAYS,
    "name": [f"person {i}" for i in range(N)],
    "member": (rng.random(N) < 0.5).tolist(),
}
FRAME = pd.DataFrame(COLUMNS)
CLASSES = np.where(CITY == "Rome", "yes", "no")
NUMBERS = np.where(CITY == "Rome", 1000.0, 100.0) + AGE
X = rng.normal(size=(N, 3))
TINY = {"hidden": (8,), "n_networks": 2, "epochs": 5, "lr": 0.02, "random_state": 0}
left_out = pytest.mark.filterwarnings("ignore:.* is left out:UserWarning")


def frame_of(library):
    if library == "pandas":
        return FRAME
    if library == "polars":
        return pytest.importorskip("polars").DataFrame(COLUMNS)
    return pytest.importorskip("pyarrow").table(COLUMNS)


# ------------------------------------------------------------------ tables as they are


@left_out
@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_frames_are_taken_as_they_are(library):
    frame = frame_of(library)
    classifier = TabularClassifier(**{**TINY, "epochs": 30}).fit(frame, CLASSES)
    assert classifier.score(frame, CLASSES) > 0.9
    assert classifier.n_features_in_ == 6
    expected = TabularClassifier(**{**TINY, "epochs": 30}).fit(FRAME, CLASSES).predict_proba(FRAME)
    assert (classifier.predict_proba(frame) == expected).all()
    assert "  'name'    left out: its text differs in nearly every row" in classifier.report_
    inputs = [name for column in classifier.model_.preprocessor.columns for name in column.feature_names]
    assert "age missing" in inputs and "city=Rome" in inputs and "when.weekday" in inputs and "member=True" in inputs
    assert not any("id" in name.split() for name in inputs)
    if _get_feature_names(frame) is None:
        return  # earlier versions of scikit-learn find no names in frames of new versions of polars
    assert classifier.feature_names_in_.tolist() == list(COLUMNS)
    new = FRAME.iloc[:3].assign(city=["Lima", None, "Rome"], age=[None, 30.0, "?"])
    assert set(classifier.predict(new)) <= {"yes", "no"} and np.isfinite(classifier.predict_proba(new)).all()


def test_what_is_left_out_is_said():
    with pytest.warns(UserWarning) as caught:
        TabularRegressor(**TINY).fit(FRAME, NUMBERS)
    assert [str(warning.message) for warning in caught] == [
        "X, column 'id' is left out: it numbers the rows",
        "X, column 'name' is left out: its text differs in nearly every row",
    ]
    assert caught[0].filename == __file__


def test_columns_are_chosen():
    only = TabularRegressor(**TINY, features=("age", "city")).fit(FRAME, NUMBERS)
    others = TabularRegressor(**TINY, ignore=("id", "when", "name", "member")).fit(FRAME, NUMBERS)
    assert (only.predict(FRAME) == others.predict(FRAME)).all()
    changed = FRAME.assign(member=~FRAME["member"], name="x")
    assert (only.predict(FRAME) == only.predict(changed)).all()
    with pytest.raises(ValueError, match="'hair'"):
        TabularRegressor(**TINY, ignore=("hair",)).fit(FRAME, NUMBERS)


def test_lists_and_arrays_of_objects_are_tables():
    rows = FRAME[["age", "city"]].to_numpy(object).tolist()
    of_rows = TabularRegressor(**TINY).fit(rows, NUMBERS)
    of_array = TabularRegressor(**TINY).fit(np.array(rows, object), NUMBERS)
    assert of_rows.n_features_in_ == 2 and not hasattr(of_rows, "feature_names_in_")
    assert (of_rows.predict(rows) == of_array.predict(np.array(rows, object))).all()
    numbers = TabularRegressor(**TINY).fit(X, NUMBERS)
    assert (TabularRegressor(**TINY).fit(X.tolist(), NUMBERS).predict(X.tolist()) == numbers.predict(X)).all()


def test_numbers_of_rows_in_an_array_are_a_feature():
    x = np.c_[np.arange(N), X[:, 0]]
    regressor = TabularRegressor(**{**TINY, "hidden": (32,), "epochs": 60}).fit(x, np.abs(x[:, 0] - 45))
    assert regressor.score(x, np.abs(x[:, 0] - 45)) > 0.5


def test_missing_numbers_of_an_array_are_flagged():
    holes = np.where(rng.random(X.shape) < 0.3, np.nan, X)
    target = np.isnan(holes[:, 0]) * 10.0
    regressor = TabularRegressor(**{**TINY, "epochs": 60}).fit(holes, target)
    assert regressor.score(holes, target) > 0.5


# ------------------------------------------------------------------ targets and outputs


@pytest.mark.parametrize(
    "labels", [np.array(["b", "a"]), np.array([7, -3]), np.array([-1.0, 2.0]), np.array([True, False])]
)
def test_classes_have_their_kind_also_after_loading(tmp_path, labels):
    y = labels[(X[:, 0] > 0).astype(int)]
    classifier = TabularClassifier(**{**TINY, "epochs": 20}).fit(X, y)
    assert classifier.classes_.tolist() == sorted(labels.tolist()) and classifier.classes_.dtype == labels.dtype
    assert classifier.score(X, y) > 0.8
    probabilities = classifier.predict_proba(X)
    assert (classifier.classes_[probabilities.argmax(axis=1)] == classifier.predict(X)).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(classifier.predict_log_proba(X), np.log(probabilities))
    classifier.save(tmp_path / "model.npz")
    again = TabularClassifier.load(tmp_path / "model.npz")
    assert again.classes_.tolist() == classifier.classes_.tolist() and again.classes_.dtype == labels.dtype
    assert again.predict_proba(X).tobytes() == probabilities.tobytes() and again.n_features_in_ == 3
    assert (again.predict(X) == classifier.predict(X)).all()


@left_out
def test_a_saved_model_knows_its_columns(tmp_path):
    regressor = TabularRegressor(**TINY).fit(FRAME, NUMBERS)
    regressor.save(tmp_path / "model.npz")
    again = TabularRegressor.load(tmp_path / "model.npz")
    assert (again.predict(FRAME) == regressor.predict(FRAME)).all()
    assert again.feature_names_in_.tolist() == list(COLUMNS)
    with pytest.raises(ValueError, match="feature names should match"):
        again.predict(FRAME[list(COLUMNS)[::-1]])
    assert (TableModel.load(tmp_path / "model.npz").predict(FRAME) == regressor.predict(FRAME)).all()
    with pytest.raises(ValueError, match=r"model.npz predicts numbers, but TabularClassifier classes"):
        TabularClassifier.load(tmp_path / "model.npz")
    net = fastbp.Network([3, 1])
    net.save(tmp_path / "net.npz", metadata=fastbp.preprocessing.Preprocessor([0.0], [1.0]).metadata())
    with pytest.raises(ValueError, match="was trained on arrays without columns"):
        TabularRegressor.load(tmp_path / "net.npz")


def test_how_far_networks_disagree():
    regressor = TabularRegressor(**TINY).fit(X, NUMBERS)
    mean, std = regressor.predict(X, return_std=True)
    assert mean.shape == std.shape == (N,) and (mean == regressor.predict(X)).all() and std.max() > 0
    inputs = regressor.model_.inputs(X)
    each = regressor.population_.predict(inputs)[:, :, 0] * NUMBERS.std()
    np.testing.assert_allclose(std, each.std(axis=0), rtol=1e-3)
    targets = np.c_[NUMBERS, X[:, 0]]
    mean, std = TabularRegressor(**TINY).fit(X, targets).predict(X, return_std=True)
    assert mean.shape == std.shape == (N, 2)


def test_a_loss_is_chosen():
    y = np.where(np.arange(N) % 10 == 0, 1000.0, 0.0)
    squared, absolute = (
        TabularRegressor(**{**TINY, "epochs": 60}, loss=loss).fit(X, y) for loss in (None, "absolute_error")
    )
    assert squared.predict(X).mean() > 50 and abs(np.median(absolute.predict(X))) < 20


def test_weights_count():
    y = (X[:, 0] + rng.normal(size=N) > 0).astype(int)
    plain, heavy = (
        TabularClassifier(**{**TINY, "epochs": 30}).fit(X, y, weights) for weights in (None, np.where(y, 30.0, 1.0))
    )
    assert heavy.predict(X).mean() > plain.predict(X).mean() + 0.1
    half = np.arange(N) % 2 == 0
    of_half = TabularClassifier(**TINY).fit(X[half], y[half], np.ones(half.sum()))
    assert (TabularClassifier(**TINY).fit(X, y, half.astype(float)).predict_proba(X) == of_half.predict_proba(X)).all()
    for weights, words in ((np.zeros(N), "at least one non-zero"), (np.full(N, -1.0), "Negative"), ([1.0], "shape")):
        with pytest.raises(ValueError, match=words):
            TabularClassifier(**TINY).fit(X, y, weights)


# ------------------------------------------------------------------ as an estimator


def test_parameters_are_those_of_the_recipe():
    classifier = TabularClassifier("small", dropout=0.3, patience=7, input_scale_lr=3.0, batch_size=16, epochs=2).fit(
        X, CLASSES
    )
    expected = Recipe.of_size("small", dropout=0.3, patience=7, input_scale_lr=3.0, batch_size=16, epochs=2).for_table(
        "classes", N, 3
    )
    assert classifier.model_.recipe == expected and len(classifier.population_) == expected.n_networks
    own = {"size", "random_state", "dtype", "threads", "ignore", "features"}
    of_recipe = set(vars(Recipe())) - {"calibrates"}
    assert set(TabularRegressor().get_params()) - own == of_recipe - {"warmup"}
    assert set(TabularClassifier().get_params()) - own == of_recipe - {"warmup", "loss"}
    assert TabularClassifier(**TINY, dtype="float64").fit(X, CLASSES).population_.dtype == np.float64


def test_the_same_state_gives_the_same_bits():
    one, two, other = (
        TabularClassifier(**{**TINY, "random_state": state, "threads": threads, "hidden": (64,)}).fit(X, CLASSES)
        for state, threads in ((0, 1), (0, 2), (1, 1))
    )
    assert one.predict_proba(X).tobytes() == two.predict_proba(X).tobytes() != other.predict_proba(X).tobytes()


def test_copies():
    regressor = TabularRegressor(**TINY, ignore=("id", "name")).fit(FRAME, NUMBERS)
    again = pickle.loads(pickle.dumps(regressor))
    assert (again.predict(FRAME) == regressor.predict(FRAME)).all()
    copy = clone(regressor)
    assert copy.get_params() == regressor.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(FRAME)
    assert (copy.fit(FRAME, NUMBERS).predict(FRAME) == regressor.predict(FRAME)).all()


def test_scikit_learn_validates_and_searches_over_frames():
    classifier = TabularClassifier(**TINY, features=("age", "city"))
    assert np.isfinite(cross_val_score(classifier, FRAME, CLASSES, cv=2)).all()
    search = GridSearchCV(classifier, {"dropout": [0.0, 0.2]}, cv=2).fit(FRAME, CLASSES)
    assert search.best_params_["dropout"] in (0.0, 0.2)


@pytest.mark.parametrize(
    "kind, changes, y, words",
    [
        (TabularClassifier, {}, np.full(N, "yes"), "two or more classes, got the one class 'yes'"),
        (TabularClassifier, {}, NUMBERS, "Unknown label type"),
        (TabularClassifier, {}, CLASSES[:50], "inconsistent numbers of samples"),
        (TabularClassifier, {"size": "tiny"}, CLASSES, "size 'tiny' is unknown"),
        (TabularClassifier, {"dropout": 2.0}, CLASSES, "dropout must be"),
        (TabularRegressor, {"loss": "poisson"}, NUMBERS, "poisson is for counts"),
        (TabularRegressor, {}, np.full(N, np.nan), "contains NaN"),
        (TabularRegressor, {"dtype": "float16"}, NUMBERS, "float16"),
    ],
)
def test_errors_leave_the_estimator_as_it_was(kind, changes, y, words):
    estimator = kind(**TINY).fit(X, CLASSES if kind is TabularClassifier else NUMBERS)
    before, fitted = estimator.predict(X), dict(vars(estimator))
    estimator.set_params(**changes)
    with pytest.raises((ValueError, TypeError), match=words):
        estimator.fit(X, y)
    assert {name: value for name, value in vars(estimator).items() if name not in changes} == {
        name: value for name, value in fitted.items() if name not in changes
    }
    assert (estimator.predict(X) == before).all()


def test_ctrl_c_leaves_a_fitted_estimator(monkeypatch):
    class Interrupt(Callback):
        def on_epoch_end(self, trainer, history):
            raise KeyboardInterrupt

    train = tabular.train
    monkeypatch.setattr(tabular, "train", lambda *args, **options: train(*args, **options, callbacks=[Interrupt()]))
    with pytest.warns(RuntimeWarning, match="interrupted after 1 of 5 epochs"):
        classifier = TabularClassifier(**TINY).fit(X, CLASSES)
    assert classifier.predict(X).shape == (N,)


# Which rows are held out depends on how many there are, so that a row of weight 2 is not two rows.
NOT_EQUIVALENT = "check_sample_weight_equivalence_on_dense_data"
CHECKED = [
    kind("small", hidden=(16,), n_networks=2, lr=0.02, epochs=60) for kind in (TabularClassifier, TabularRegressor)
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator, check",
    [
        pytest.param(estimator, check, id=f"{type(estimator).__name__}-{check.func.__name__}")
        for checked in CHECKED
        for estimator, check in estimator_checks_generator(checked)
        if check.func.__name__ != NOT_EQUIVALENT
    ],
)
def test_check_estimator(estimator, check):
    check(estimator)
