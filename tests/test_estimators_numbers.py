"""The numbers of the estimators are scikit-learn's, where the algorithm is the same."""

import warnings

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn import datasets, neural_network  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402

from fastbp import estimators  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
RNG = np.random.default_rng(0)
DATA = {
    "iris": datasets.load_iris(return_X_y=True),
    "binary": datasets.make_classification(130, 8, random_state=0),
    "multilabel": datasets.make_multilabel_classification(90, random_state=0),
    "diabetes": datasets.load_diabetes(return_X_y=True),
    "two outputs": datasets.make_regression(110, 6, n_targets=2, noise=5, random_state=0),
    "counts": (RNG.normal(size=(120, 4)), RNG.poisson(3, 120)),
    "wine": datasets.load_wine(return_X_y=True),  # features of other sizes: probabilities that are clipped
}
SCHEDULES = [("adam", "constant"), ("sgd", "constant"), ("sgd", "invscaling"), ("sgd", "adaptive")]


def fitted(data, weights=None, **parameters):
    """Both estimators after a fit with the same parameters."""
    X, y = DATA[data]
    kind = "MLPRegressor" if data in ("diabetes", "two outputs", "counts") else "MLPClassifier"
    parameters = {"random_state": 3, "max_iter": 5, "hidden_layer_sizes": (13, 7), "batch_size": 32, **parameters}
    pair = [getattr(module, kind)(**parameters) for module in (neural_network, estimators)]
    for estimator in pair:
        estimator.fit(X, y, sample_weight=weights)
    return pair


def assert_same(theirs, ours, tolerance=1e-10):
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(theirs, name), getattr(ours, name), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, tolerance, tolerance)
    for name in ("loss_curve_", "loss_", "best_loss_", "validation_scores_", "best_validation_score_"):
        expected = getattr(theirs, name, None)
        if expected is None:
            assert getattr(ours, name, None) is None
        else:
            np.testing.assert_allclose(expected, getattr(ours, name), max(tolerance, 1e-10))
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(theirs, name) == getattr(ours, name)


@pytest.mark.parametrize("batch_size", ["auto", 32])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("solver, learning_rate", SCHEDULES)
def test_every_solver_and_learning_rate(solver, learning_rate, shuffle, batch_size):
    settings = {"solver": solver, "learning_rate": learning_rate, "shuffle": shuffle, "batch_size": batch_size}
    assert_same(*fitted("iris", alpha=0.1, learning_rate_init=0.01, **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "sgd", "momentum": 0.0},
        {"solver": "sgd", "momentum": 1.0},
        {"solver": "sgd", "nesterovs_momentum": False},
        {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.2, "nesterovs_momentum": False},
        {"beta_1": 0.5, "beta_2": 0.8, "epsilon": 0.1},
        {"activation": "logistic"},
        {"activation": "tanh", "batch_size": 1},
        {"activation": "identity", "hidden_layer_sizes": ()},
        {"hidden_layer_sizes": 5, "batch_size": 300},
        {"max_iter": 3000, "solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 3, "batch_size": 64},
        {"max_iter": 3000, "tol": 1e-2},
        {"max_iter": 40, "early_stopping": True, "n_iter_no_change": 4, "validation_fraction": 0.3},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Got `batch_size`", "ignore:batch_size=300 is larger")
def test_every_parameter(settings):
    assert_same(*fitted("iris", **settings))


@pytest.mark.parametrize("has_weights", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("early_stopping", [False, True], ids=["", "early"])
@pytest.mark.parametrize("data", [name for name in DATA if name != "wine"])
def test_every_kind_of_target(data, early_stopping, has_weights):
    weights = RNG.random(len(DATA[data][0])) * 3 if has_weights else None
    loss = {"loss": "poisson"} if data == "counts" else {}
    assert_same(*fitted(data, weights, early_stopping=early_stopping, **loss))


def test_losses_of_clipped_probabilities():
    theirs, ours = fitted("wine", learning_rate_init=0.1)
    assert max(theirs.loss_curve_) > 10
    assert_same(theirs, ours)


@pytest.mark.parametrize("data", ["iris", "binary", "multilabel", "two outputs", "counts"])
@pytest.mark.parametrize("has_weights", [False, True], ids=["", "weights"])
def test_lbfgs(data, has_weights):
    weights = RNG.integers(0, 3, len(DATA[data][0])).astype(float) if has_weights else None
    loss = {"loss": "poisson"} if data == "counts" else {}
    theirs, ours = fitted(data, weights, solver="lbfgs", max_iter=8, **loss)
    assert theirs.n_iter_ == ours.n_iter_
    np.testing.assert_allclose(theirs.loss_, ours.loss_, 1e-9)
    for a, b in zip(theirs.coefs_, ours.coefs_, strict=True):
        np.testing.assert_allclose(a, b, 1e-7, 1e-9)


def test_float32():
    X, y = DATA["iris"]
    parameters = {"random_state": 3, "max_iter": 5, "batch_size": 32}
    theirs = neural_network.MLPClassifier(**parameters).fit(X.astype(np.float32), y)
    ours = estimators.MLPClassifier(**parameters).fit(X.astype(np.float32), y)
    assert ours.network_.dtype == np.float32 and ours.predict_proba(X[:1].astype(np.float32)).dtype == np.float32
    assert_same(theirs, ours, 1e-4)
    forced = estimators.MLPClassifier(dtype="float32", **parameters).fit(X, y)
    np.testing.assert_array_equal(forced.coefs_[0], ours.coefs_[0])
    assert estimators.MLPClassifier(dtype="float64", **parameters).fit(X.astype("f4"), y).coefs_[0].dtype == np.float64


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "csr_array"])
def test_sparse_samples(kind):
    from scipy import sparse

    X, y = datasets.load_digits(return_X_y=True)
    container = getattr(sparse, kind)
    parameters = {"random_state": 3, "max_iter": 2, "batch_size": 301, "early_stopping": True}
    theirs = neural_network.MLPClassifier(**parameters).fit(container(X), y)
    ours = estimators.MLPClassifier(**parameters).fit(container(X), y)
    assert_same(theirs, ours)
    np.testing.assert_allclose(theirs.predict_proba(container(X)), ours.predict_proba(container(X)), 1e-9, 1e-12)
    np.testing.assert_array_equal(ours.predict(X), ours.predict(container(X)))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("warm_start", [False, True])
def test_calls_that_follow_each_other(solver, warm_start):
    X, y = DATA["iris"]
    pair = [
        module.MLPClassifier(random_state=0, solver=solver, max_iter=3, warm_start=warm_start, batch_size=64)
        for module in (neural_network, estimators)
    ]
    for estimator in pair:
        estimator.fit(X, y).partial_fit(X[::2], y[::2])
        estimator.partial_fit(X, y).fit(X[::-1], y[::-1])
        if not warm_start:  # not all classes
            estimator.partial_fit(X[:70], y[:70])
    assert_same(*pair)


@pytest.mark.parametrize("data", DATA)
def test_what_is_predicted(data):
    theirs, ours = fitted(data, max_iter=2)
    X, y = DATA[data]
    for method in ("predict", "predict_proba", "predict_log_proba"):
        if hasattr(theirs, method):
            expected, found = getattr(theirs, method)(X), getattr(ours, method)(X)
            assert expected.dtype == found.dtype
            np.testing.assert_allclose(expected, found, 1e-8, 1e-10)
    np.testing.assert_allclose(theirs.score(X, y), ours.score(X, y))


@pytest.mark.parametrize(
    "wrong, message",
    [
        (np.full((2, 4), np.nan), "contains NaN"),
        (np.full((2, 4), np.inf), "contains infinity"),
        (np.zeros((2, 3)), "3 features, but MLPClassifier is expecting 4"),
        (np.zeros(4), "Expected 2D array, got 1D"),
        (np.zeros((0, 4)), "0 sample"),
        (np.full((2, 4), "a"), "could not convert string|arrays of bytes/strings"),
    ],
    ids=["NaN", "infinity", "features", "1-D", "empty", "text"],
)
def test_what_predict_refuses(wrong, message):
    for estimator in fitted("iris", max_iter=1):
        with pytest.raises(ValueError, match=message):
            estimator.predict(wrong)


def test_arrays_of_any_layout_are_predicted_alike():
    theirs, ours = fitted("iris", max_iter=1)
    X = DATA["iris"][0]
    expected = theirs.predict_proba(X)
    for other in (
        np.asfortranarray(X),
        np.repeat(X, 2, axis=0)[::2],
        X.tolist(),
        X.astype(np.float32),
        X.astype(object),
    ):
        np.testing.assert_allclose(ours.predict_proba(other), expected, 1e-5)


@pytest.mark.parametrize("n_classes", [1, 2, 3])
@pytest.mark.parametrize("names", [["a", "bc", "d"], [False, True, None], [-1.0, 0.0, 7.0], [5, 7, 2**40]], ids=str)
def test_every_kind_of_class(names, n_classes):
    if None in names[:n_classes]:
        pytest.skip("there are two truth values")
    X, labels = DATA["iris"]
    y = np.array(names[:n_classes], dtype=object if isinstance(names[0], str) else None)[labels % n_classes]
    pair = [module.MLPClassifier(random_state=0, max_iter=3).fit(X, y) for module in (neural_network, estimators)]
    assert_same(*pair)
    expected, found = (estimator.predict(X) for estimator in pair)
    np.testing.assert_array_equal(expected, found)
    assert expected.dtype == found.dtype and list(pair[0].classes_) == list(pair[1].classes_)
    np.testing.assert_allclose(*(estimator.predict_proba(X) for estimator in pair), 1e-9, 1e-12)


@pytest.mark.parametrize("name, load", [("breast cancer", "load_breast_cancer"), ("digits", "load_digits")])
def test_scores_of_a_whole_fit(name, load):
    from sklearn.preprocessing import StandardScaler

    X, y = getattr(datasets, load)(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = [
            module.MLPClassifier((20,), random_state=0, max_iter=30).fit(X[::2], y[::2]).score(X[1::2], y[1::2])
            for module in (neural_network, estimators)
        ]
    assert scores[0] == scores[1] > 0.8


SCORED = {
    "wine": datasets.load_wine(return_X_y=True),
    "breast cancer": datasets.load_breast_cancer(return_X_y=True),
    "digits": datasets.load_digits(return_X_y=True),
    "diabetes": datasets.load_diabetes(return_X_y=True),
    "Friedman 1": datasets.make_friedman1(1000, noise=1, random_state=0),
}


def houses():
    """Skewed features and a nonlinear target that is cut off above, as of the houses of California."""
    rng = np.random.default_rng(0)
    X = np.exp(rng.normal(size=(2000, 8)) * np.linspace(0.2, 1, 8))
    return X, np.minimum(X[:, 0] * np.sqrt(X[:, 7]) + np.cos(X[:, 1]) + 0.3 * rng.normal(size=2000), 5)


@pytest.mark.parametrize(
    "data",
    [
        "wine",
        "diabetes",
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in ("breast cancer", "digits", "Friedman 1", "houses")
        ),
    ],
)
def test_scores_are_within_the_spread_over_seeds(data):
    X, y = houses() if data == "houses" else SCORED[data]
    X = (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-9)
    is_regression = data in ("diabetes", "Friedman 1", "houses")
    kind, y = ("MLPRegressor", (y - y.mean()) / y.std()) if is_regression else ("MLPClassifier", y)
    scores = np.empty((2, 6))
    for seed in range(6):
        rows = np.random.default_rng(seed).permutation(len(X))
        training, test = rows[: len(X) * 3 // 4], rows[len(X) * 3 // 4 :]
        for module, of_module in zip((neural_network, estimators), scores, strict=True):
            fitted = getattr(module, kind)(random_state=seed, max_iter=20).fit(X[training], y[training])
            of_module[seed] = fitted.score(X[test], y[test])
    theirs, ours = scores
    assert theirs.mean() > 0.3
    assert abs(ours.mean() - theirs.mean()) <= theirs.std() / 2
    np.testing.assert_allclose(ours, theirs, atol=0.03)
