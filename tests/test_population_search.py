"""`PopulationSearchCV` and `cross_val_predict`: the scores of scikit-learn, from networks trained together."""

import pickle
import warnings

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

import joblib  # noqa: E402
from scipy import sparse, stats  # noqa: E402
from sklearn import datasets, model_selection  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.compose import TransformedTargetRegressor  # noqa: E402
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning, NotFittedError  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, RandomizedSearchCV, ShuffleSplit  # noqa: E402
from sklearn.pipeline import Pipeline, make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import estimator_checks_generator  # noqa: E402

from fastbp.callbacks import Callback  # noqa: E402
from fastbp.estimators import MLPClassifier, MLPRegressor, PopulationSearchCV, cross_val_predict, search  # noqa: E402
from fastbp.estimators import together as together_module  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, y = datasets.load_iris(return_X_y=True)
X_digits, y_digits = (array[:300] for array in datasets.load_digits(return_X_y=True))
X_binary, y_binary = datasets.make_classification(131, 6, random_state=0)
X_diabetes, y_diabetes = (array[:200] for array in datasets.load_diabetes(return_X_y=True))
y_diabetes = y_diabetes / 100


def small(kind=MLPClassifier, **parameters):
    return kind(**{"hidden_layer_sizes": (7,), "max_iter": 12, "random_state": 0, **parameters})


def assert_same_results(ours, theirs):
    """All but the times."""
    assert set(ours.cv_results_) == set(theirs.cv_results_)
    for key, expected in theirs.cv_results_.items():
        found = ours.cv_results_[key]
        if key.endswith("_time"):
            assert (found >= 0).all() and found.shape == expected.shape
        elif key == "params":
            assert str(found) == str(expected)
        elif key.startswith("param_"):
            assert [str(item) for item in found] == [str(item) for item in expected]
        else:
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=key)
    for name in ("best_index_", "best_score_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-6)


@pytest.fixture
def calls(monkeypatch):
    """Count the native calls, and the members that each `train` is given."""
    counts = {"advance": 0, "members": []}
    train, advance = together_module.train, together_module._Training._advance

    def counting_train(members):
        members = list(members)
        counts["members"].append(len(members))
        return train(members)

    def counting_advance(self, members, n_epochs):
        counts["advance"] += 1
        return advance(self, members, n_epochs)

    monkeypatch.setattr(search, "train", counting_train)
    monkeypatch.setattr(together_module._Training, "_advance", counting_advance)
    return counts


# ------------------------------------------------------------------ the numbers of GridSearchCV

GRIDS = {
    "rates": {"learning_rate_init": [1e-3, 0.02], "alpha": [1e-5, 0.3], "beta_1": [0.5, 0.9], "epsilon": [1e-8, 1e-3]},
    "sgd": {"solver": ["sgd"], "momentum": [0.0, 0.9], "nesterovs_momentum": [False, True], "shuffle": [False, True]},
    "rates of sgd": {
        "solver": ["sgd"],
        "learning_rate": ["constant", "invscaling", "adaptive"],
        "learning_rate_init": [0.3],
        "n_iter_no_change": [1],
        "tol": [0.02],
        "max_iter": [60],
    },
    "mixed": {"solver": ["sgd", "adam", "lbfgs"], "batch_size": [16, "auto"], "random_state": [0, 5]},
    "architectures": {
        "hidden_layer_sizes": [(), (5,), (5, 4)],
        "activation": ["tanh", "logistic", "mish"],
        "dtype": ["float32", "float64"],
    },
    "stopping": {"tol": [1e-4, 0.05], "n_iter_no_change": [1, 3, 10], "learning_rate_init": [0.02], "max_iter": [80]},
    "early": {
        "early_stopping": [True],
        "validation_fraction": [0.1, 0.3],
        "n_iter_no_change": [2, 5],
        "max_iter": [40],
        "learning_rate_init": [0.01],
    },
    "dropout": {"dropout": [0.0, 0.3, [0.1]], "warm_start": [False, True]},
    "weights": {"class_weight": [None, "balanced", {0: 2.0}], "alpha": [0.0, 0.1]},
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("X, y", [(X, y), (X_digits, y_digits)], ids=["iris", "digits"])
def test_scores_are_those_of_grid_search(name, X, y):
    if name == "architectures" and len(X) > 200:
        X, y = X[:90], y[:90]
    arguments = {"cv": 3, "return_train_score": True, "scoring": "neg_log_loss"}  # of which no digit hides
    ours = PopulationSearchCV(small(), GRIDS[name], **arguments).fit(X, y)
    theirs = GridSearchCV(small(), GRIDS[name], **arguments).fit(X, y)
    assert_same_results(ours, theirs)
    assert ours.best_estimator_.network_.parameters.tobytes() == theirs.best_estimator_.network_.parameters.tobytes()
    assert ours.best_params_ == theirs.best_params_
    assert np.ptp(ours.cv_results_["split0_test_score"]) > 0  # the parameters matter


@pytest.mark.parametrize(
    "parameters",
    [
        {"loss": ["squared_error", "huber", "absolute_error"], "alpha": [1e-4, 1.0]},
        {"loss": ["poisson"], "learning_rate_init": [1e-3, 1e-2]},
        {"early_stopping": [False, True], "learning_rate_init": [1e-2, 1e-1]},
    ],
    ids=["losses", "poisson", "early stopping"],
)
def test_regressors_too(parameters):
    arguments = {"cv": KFold(4, shuffle=True, random_state=1), "scoring": "neg_mean_absolute_error"}
    ours = PopulationSearchCV(small(MLPRegressor), parameters, **arguments).fit(X_diabetes, y_diabetes)
    theirs = GridSearchCV(small(MLPRegressor), parameters, **arguments).fit(X_diabetes, y_diabetes)
    assert_same_results(ours, theirs)
    np.testing.assert_allclose(ours.predict(X_diabetes), theirs.predict(X_diabetes), atol=1e-6)


@pytest.mark.parametrize("weighs", [False, True])
def test_binary_classes_multilabels_and_weights(weighs):
    X_labels, Y_labels = datasets.make_multilabel_classification(90, random_state=0)
    for samples, targets in ((X_binary, y_binary), (X_binary, np.array(["no", "yes"])[y_binary]), (X_labels, Y_labels)):
        weights = {"sample_weight": np.random.default_rng(0).random(len(samples)) + 0.1} if weighs else {}
        grid = {"alpha": [1e-4, 1.0], "learning_rate_init": [1e-2, 1e-1], "early_stopping": [False, True]}
        if weighs and targets.ndim == 2:
            grid.pop("early_stopping")
        ours = PopulationSearchCV(small(), grid, cv=3).fit(samples, targets, **weights)
        assert_same_results(ours, GridSearchCV(small(), grid, cv=3).fit(samples, targets, **weights))
        if weighs:
            unweighted = PopulationSearchCV(small(), grid, cv=3).fit(samples, targets)
            assert (unweighted.cv_results_["mean_test_score"] != ours.cv_results_["mean_test_score"]).any()


def test_folds_without_some_class_have_networks_of_their_own():
    order = np.argsort(y, kind="stable")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of a class that is not there
        arguments = {"cv": KFold(3), "scoring": "accuracy"}
        ours = PopulationSearchCV(small(max_iter=40), {"alpha": [1e-4, 0.1]}, **arguments).fit(X[order], y[order])
        theirs = GridSearchCV(small(max_iter=40), {"alpha": [1e-4, 0.1]}, **arguments).fit(X[order], y[order])
    assert_same_results(ours, theirs)
    assert ours.best_score_ == 0  # each fold is the class that it was not trained on
    mixed = [(np.r_[0:80], np.r_[80:100]), (np.r_[20:40, 50:90, 100:120], np.r_[0:20]), (np.r_[50:130], np.r_[130:150])]
    arguments["cv"] = mixed  # two classes, three, and two others; the same number of samples
    ours = PopulationSearchCV(small(max_iter=40), {"alpha": [1e-4, 0.1]}, **arguments).fit(X, y)
    assert_same_results(ours, GridSearchCV(small(max_iter=40), {"alpha": [1e-4, 0.1]}, **arguments).fit(X, y))


@pytest.mark.parametrize("kind", ["list", "pandas", "float32", "Fortran", "integers"])
def test_samples_of_other_kinds(kind):
    samples, targets = X, y
    if kind == "pandas":
        pandas = pytest.importorskip("pandas")
        samples, targets = pandas.DataFrame(X, columns=list("abcd")), pandas.Series(y)
    elif kind == "list":
        samples, targets = X.tolist(), y.tolist()
    else:
        samples = {"float32": X.astype(np.float32), "Fortran": np.asfortranarray(X), "integers": X.astype(int)}[kind]
    ours = PopulationSearchCV(small(), {"alpha": [1e-4, 0.1]}, cv=3).fit(samples, targets)
    theirs = GridSearchCV(small(), {"alpha": [1e-4, 0.1]}, cv=3).fit(samples, targets)
    assert_same_results(ours, theirs)
    np.testing.assert_array_equal(ours.predict(samples), theirs.predict(samples))
    if kind == "pandas":
        assert list(ours.feature_names_in_) == list("abcd")


# ------------------------------------------------------------------ pipelines, and what is fitted one by one


def test_pipelines(calls):
    pipeline = make_pipeline(StandardScaler(), PCA(random_state=0), small(max_iter=30))
    grid = {"pca__n_components": [2, 3], "mlpclassifier__learning_rate_init": [1e-2, 1e-1]}
    ours = PopulationSearchCV(pipeline, grid, cv=3, return_train_score=True).fit(X, y)
    assert calls["members"] == [12]
    assert_same_results(ours, GridSearchCV(pipeline, grid, cv=3, return_train_score=True).fit(X, y))
    nested = Pipeline([("first", StandardScaler()), ("rest", pipeline)])
    grid = {f"rest__{name}": values for name, values in grid.items()}
    assert_same_results(PopulationSearchCV(nested, grid, cv=3).fit(X, y), GridSearchCV(nested, grid, cv=3).fit(X, y))


def test_steps_that_are_searched(calls):
    pipeline = Pipeline([("scale", StandardScaler()), ("last", small())])
    grid = [
        {"last": [small(alpha=0.1), small(solver="lbfgs"), LogisticRegression()], "scale": ["passthrough"]},
        {"last__alpha": [1e-4, 1e-2]},
    ]
    ours = PopulationSearchCV(pipeline, grid, cv=3).fit(X, y)
    assert calls["members"] == [9]
    assert_same_results(ours, GridSearchCV(pipeline, grid, cv=3).fit(X, y))


@pytest.mark.parametrize("kind", ["lbfgs", "sparse", "callbacks", "warm_start", "subclass", "other", "wrapped"])
def test_what_cannot_be_trained_together_is_fitted_one_by_one(kind, calls):
    class Subclass(MLPClassifier):
        def _fit(self, *args, **kwargs):
            return super()._fit(*args, **kwargs)

    samples, targets, grid = X, y, {"alpha": [1e-4, 0.1]}
    estimator = {
        "lbfgs": small(solver="lbfgs"),
        "sparse": small(),
        "callbacks": small(callbacks=[Callback()]),
        "warm_start": small(warm_start=True),
        "subclass": Subclass((7,), max_iter=12, random_state=0),
        "other": LogisticRegression(max_iter=1000),
        "wrapped": TransformedTargetRegressor(small(MLPRegressor)),
    }[kind]
    if kind == "sparse":
        samples = sparse.csr_matrix(X)
    if kind in ("other", "wrapped"):
        grid = {"C": [0.1, 1.0]} if kind == "other" else {"regressor__alpha": [1e-4, 0.1]}
    ours = PopulationSearchCV(estimator, grid, cv=3).fit(samples, targets)
    assert calls["members"] == [0]
    assert_same_results(ours, GridSearchCV(estimator, grid, cv=3).fit(samples, targets))


def test_networks_of_one_shape_train_in_the_same_calls(calls):
    grid = {"learning_rate_init": np.logspace(-3, -1, 5), "alpha": [1e-4, 1e-2], "solver": ["sgd", "adam"]}
    PopulationSearchCV(small(max_iter=8, n_iter_no_change=20), grid, cv=3, refit=False).fit(X, y)
    assert calls == {"advance": 1, "members": [60]}
    calls.update(advance=0, members=[])
    PopulationSearchCV(small(), {"batch_size": [10, 20], "hidden_layer_sizes": [(3,), (4,)]}, cv=3, refit=False).fit(
        X, y
    )
    assert calls["members"] == [12]


def test_long_epochs_are_divided_among_calls(calls, monkeypatch):
    """So that Ctrl-C is heard: fewer epochs, members and batches of a call."""
    grid = {"alpha": [1e-4, 1e-3, 1e-2, 0.1], "batch_size": [9], "early_stopping": [False, True]}
    theirs = GridSearchCV(small(), grid, cv=5).fit(X, y)
    n_calls, call_train = [], together_module._Training._prepare

    def counting(self, active):
        call_train(self, active)
        train = self._train
        self._train = lambda *call: n_calls.append((len(call[0]), *call[4:6])) or train(*call)

    monkeypatch.setattr(together_module._Training, "_prepare", counting)
    assert_same_results(PopulationSearchCV(small(), grid, cv=5).fit(X, y), theirs)
    assert max(n for n, _, _ in n_calls) == 20 and {first for _, first, _ in n_calls} == {0}
    n_calls.clear()
    monkeypatch.setattr(together_module.limits, "INTERRUPTIBLE_WORK", 16 * 3 * 59 * 9 * 2)
    assert_same_results(PopulationSearchCV(small(), grid, cv=5).fit(X, y), theirs)
    assert max(n for n, _, _ in n_calls) == 16
    assert {(first, last) for n, first, last in n_calls if n == 16} >= {(0, 2), (2, 4), (10, 12)}


def test_memory_is_limited(calls, monkeypatch):
    monkeypatch.setattr(search, "MAX_BYTES", 9_000)
    ours = PopulationSearchCV(small(), {"alpha": [1e-4, 1e-3, 1e-2, 0.1]}, cv=3).fit(X, y)
    assert sum(calls["members"]) == 12 and len(calls["members"]) > 2
    assert_same_results(ours, GridSearchCV(small(), {"alpha": [1e-4, 1e-3, 1e-2, 0.1]}, cv=3).fit(X, y))


def test_samples_are_kept_once(monkeypatch):
    seen = []
    data = together_module._Training._shared_data
    monkeypatch.setattr(together_module._Training, "_shared_data", lambda self: seen.append(data(self)) or seen[-1])
    PopulationSearchCV(small(), {"alpha": [1e-4, 1e-3, 1e-2]}, cv=5, refit=False).fit(X, y)
    assert seen.pop().X is X and not seen
    scaled = make_pipeline(StandardScaler(), small())
    PopulationSearchCV(scaled, {"mlpclassifier__alpha": [1e-4, 1e-3, 1e-2]}, cv=5, refit=False).fit(X, y)
    assert seen.pop().X.shape == (600, 4) and not seen  # of each fold, but not of each candidate


# ------------------------------------------------------------------ the interface


def test_randomized_search():
    distributions = {"alpha": stats.loguniform(1e-5, 1), "learning_rate_init": [1e-3, 1e-2, 1e-1]}
    ours = PopulationSearchCV(small(), param_distributions=distributions, n_iter=5, cv=3, random_state=7).fit(X, y)
    assert_same_results(ours, RandomizedSearchCV(small(), distributions, n_iter=5, cv=3, random_state=7).fit(X, y))
    ours = PopulationSearchCV(small(max_iter=1), param_distributions=distributions, cv=2, random_state=7).fit(X, y)
    assert len(ours.cv_results_["params"]) == 10
    grid = {"alpha": [1e-4, 1e-3, 1e-2], "beta_1": [0.5, 0.9]}
    ours = PopulationSearchCV(small(), grid, n_iter=4, cv=3, random_state=1).fit(X, y)
    assert_same_results(ours, RandomizedSearchCV(small(), grid, n_iter=4, cv=3, random_state=1).fit(X, y))


def test_several_metrics_and_refit_by_a_function():
    def simplest(results):
        return int(np.argmax(results["param_alpha"]))

    for scoring, refit in (
        ({"a": "accuracy", "f": "f1_macro"}, "f"),
        (["accuracy", "neg_log_loss"], simplest),
        (lambda estimator, X, y: {"right": estimator.score(X, y), "n": len(y)}, "right"),
        (["accuracy", "f1_macro"], False),
    ):
        arguments = {"scoring": scoring, "refit": refit, "cv": 3, "return_train_score": True}
        ours = PopulationSearchCV(small(), {"alpha": [1e-4, 0.5, 0.1]}, **arguments).fit(X, y)
        theirs = GridSearchCV(small(), {"alpha": [1e-4, 0.5, 0.1]}, **arguments).fit(X, y)
        assert set(ours.cv_results_) == set(theirs.cv_results_) and ours.multimetric_
        for key in ours.cv_results_:
            if key.startswith(("mean_test", "rank", "split", "mean_train")):
                np.testing.assert_allclose(ours.cv_results_[key], theirs.cv_results_[key], atol=1e-6)
        assert hasattr(ours, "best_estimator_") == (refit is not False)
        if refit:
            assert ours.best_index_ == theirs.best_index_
        if isinstance(refit, str):
            assert ours.score(X, y) == theirs.score(X, y)
    with pytest.raises(ValueError, match="refit"):
        PopulationSearchCV(small(), {"alpha": [1e-4]}, scoring=["accuracy", "f1_macro"]).fit(X, y)


def test_groups_and_splitters():
    groups = np.arange(len(X)) % 7
    for cv in (GroupKFold(3), ShuffleSplit(3, random_state=0), 4):
        given = {"groups": groups} if isinstance(cv, GroupKFold) else {}
        ours = PopulationSearchCV(small(), {"alpha": [1e-4, 0.1]}, cv=cv).fit(X, y, **given)
        assert_same_results(ours, GridSearchCV(small(), {"alpha": [1e-4, 0.1]}, cv=cv).fit(X, y, **given))


def test_what_a_search_offers():
    search = PopulationSearchCV(small(max_iter=60, learning_rate_init=0.05), {"alpha": [1e-4, 0.1]}, cv=3)
    with pytest.raises(NotFittedError):
        search.predict(X)
    assert search.fit(X, y) is search
    best = search.best_estimator_
    for method in ("predict", "predict_proba", "predict_log_proba"):
        np.testing.assert_array_equal(getattr(search, method)(X), getattr(best, method)(X))
    assert search.score(X, y) == best.score(X, y) > 0.9
    assert not hasattr(search, "transform") and not hasattr(search, "decision_function")
    assert search.n_features_in_ == 4 and search.classes_.tolist() == [0, 1, 2]
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))
    assert clone(search).get_params()["param_grid"] == {"alpha": [1e-4, 0.1]}
    assert vars(clone(search)).keys() == vars(GridSearchCV(small(), {})).keys() | {
        "param_distributions", "n_iter", "random_state"
    }  # fmt: skip
    assert "_end_collecting" not in vars(search)
    assert search.refit_time_ > 0 and (search.cv_results_["mean_fit_time"] > 0).all()
    best.partial_fit(X, y)  # an ordinary estimator


def test_fitted_networks_are_ordinary_ones():
    """Also what a fold leaves behind: loss curves, the optimizer's state."""
    whole = model_selection.cross_validate
    with joblib.parallel_config(backend=search._Collecting()):
        ours = whole(small(early_stopping=True), X, y, cv=3, return_estimator=True)["estimator"]
    theirs = whole(small(early_stopping=True), X, y, cv=3, return_estimator=True)["estimator"]
    for a, b in zip(ours, theirs, strict=True):
        assert vars(a).keys() == vars(b).keys()
        assert a.loss_curve_ == b.loss_curve_ and a.validation_scores_ == b.validation_scores_
        assert (a.n_iter_, a.t_, a.best_loss_, a.trainer_.epochs) == (b.n_iter_, b.t_, b.best_loss_, b.trainer_.epochs)
        a.partial_fit(X, y, validation_data=(X, y))
        b.partial_fit(X, y, validation_data=(X, y))
        assert a.network_.parameters.tobytes() == b.network_.parameters.tobytes()


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_cross_val_predict(method):
    groups = np.arange(len(X)) % 5
    pipeline = make_pipeline(StandardScaler(), small())
    for estimator, given in (
        (small(), {}),
        (pipeline, {"cv": 7}),
        (small(), {"cv": GroupKFold(5), "groups": groups}),
        (small(), {"params": {"sample_weight": np.linspace(0.1, 2, len(X))}}),
        (LogisticRegression(max_iter=1000), {}),
    ):
        ours = cross_val_predict(estimator, X, y, method=method, **given)
        theirs = model_selection.cross_val_predict(estimator, X, y, method=method, **given)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    prediction = cross_val_predict(small(MLPRegressor), X_diabetes, y_diabetes)
    expected = model_selection.cross_val_predict(small(MLPRegressor), X_diabetes, y_diabetes)
    np.testing.assert_allclose(prediction, expected, atol=1e-6)


# ------------------------------------------------------------------ errors and warnings


def test_one_of_two_sources_of_candidates():
    for given in ({}, {"param_grid": {"alpha": [1]}, "param_distributions": {"alpha": [1]}}):
        with pytest.raises(ValueError, match="give either param_grid or param_distributions"):
            PopulationSearchCV(small(), **given).fit(X, y)
    with pytest.raises(TypeError, match="Parameter grid"):
        PopulationSearchCV(small(), {"alpha": stats.loguniform(1e-5, 1)}).fit(X, y)
    for name, value in {"n_iter": 0, "cv": "none", "verbose": -1}.items():
        with pytest.raises(ValueError, match=f"'{name}' parameter"):
            PopulationSearchCV(small(), {"alpha": [1]}, **{name: value}).fit(X, y)
    with pytest.raises(ValueError, match="Invalid parameter 'alhpa'"):
        PopulationSearchCV(small(), {"alhpa": [1]}).fit(X, y)


FAULTS = {
    "parameter": ({"alpha": [1e-4, -1.0]}, "alpha"),
    "sizes": ({"hidden_layer_sizes": [(7,), (7, -1)]}, "hidden_layer_sizes"),
    "divergence": ({"solver": ["sgd"], "learning_rate_init": [1e-3, 1e250]}, "non-finite"),
}


@pytest.mark.filterwarnings("ignore")  # but for those that are asked for
@pytest.mark.parametrize("fault", FAULTS)
def test_candidates_that_fail(fault):
    grid, message = FAULTS[fault]
    estimator = small(MLPRegressor)
    with pytest.warns(FitFailedWarning, match=r"(?s)3 fits failed.*" + message):
        ours = PopulationSearchCV(estimator, grid, cv=3).fit(X_diabetes, y_diabetes)
    with pytest.warns(FitFailedWarning):
        theirs = GridSearchCV(estimator, grid, cv=3).fit(X_diabetes, y_diabetes)
    assert_same_results(ours, theirs)
    assert np.isnan(ours.cv_results_["mean_test_score"]).tolist() == [False, True]
    with pytest.warns(FitFailedWarning):
        ours = PopulationSearchCV(estimator, grid, cv=3, error_score=-1000).fit(X_diabetes, y_diabetes)
    assert ours.cv_results_["mean_test_score"][1] == -1000
    with pytest.raises(ValueError, match=message):
        PopulationSearchCV(estimator, grid, cv=3, error_score="raise").fit(X_diabetes, y_diabetes)


@pytest.mark.filterwarnings("ignore")
def test_all_candidates_fail():
    with pytest.raises(ValueError, match="All the 3 fits failed"):
        PopulationSearchCV(small(), {"alpha": [-1.0]}, cv=3).fit(X, y)
    bad = X.copy()
    bad[3, 2] = np.nan
    with pytest.raises(ValueError, match="All the 3 fits failed"):
        PopulationSearchCV(small(), {"alpha": [1.0]}, cv=KFold(3)).fit(np.full_like(X, np.nan), y)
    with pytest.warns(FitFailedWarning, match="2 fits failed"), pytest.warns(UserWarning, match="non-finite"):
        PopulationSearchCV(small(), {"alpha": [1.0]}, cv=KFold(3), refit=False).fit(bad, y)


def test_networks_that_have_not_converged_are_warned_of():
    with pytest.warns(ConvergenceWarning, match="Maximum iterations") as caught:
        PopulationSearchCV(small(), {"alpha": [1e-4, 0.1]}, cv=3, refit=False).fit(X, y)
    assert sum(issubclass(warning.category, ConvergenceWarning) for warning in caught) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PopulationSearchCV(small(max_iter=50, tol=10.0), {"alpha": [1e-4, 0.1]}, cv=3).fit(X, y)


def test_a_broken_native_call_is_noticed(monkeypatch):
    """The comparison with GridSearchCV finds a population that trains one member with the settings of another."""
    train = together_module._Training._prepare

    def shifted(self, active):
        train(self, active)
        self._updates[:] = self._updates[1:] + self._updates[:1]

    grid = {"learning_rate_init": [1e-3, 0.05]}
    theirs = GridSearchCV(small(), grid, cv=3).fit(X, y)
    monkeypatch.setattr(together_module._Training, "_prepare", shifted)
    with pytest.raises(AssertionError):
        assert_same_results(PopulationSearchCV(small(), grid, cv=3).fit(X, y), theirs)


def test_ctrl_c_ends_the_search(monkeypatch):
    monkeypatch.setattr(together_module._Training, "_call", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    outer = joblib.parallel.get_active_backend()
    with pytest.raises(KeyboardInterrupt):
        PopulationSearchCV(small(), {"alpha": [1e-4]}, cv=3).fit(X, y)
    assert type(joblib.parallel.get_active_backend()[0]) is type(outer[0])


def test_verbose(capsys):
    PopulationSearchCV(small(), {"alpha": [1e-4, 0.1]}, cv=3, verbose=3, refit=False).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Fitting 3 folds for each of 2 candidates, totalling 6 fits"
    assert sum("[CV 1/3] END" in line and "total time=" in line for line in lines) == 2


# ------------------------------------------------------------------ joblib


@pytest.mark.filterwarnings("ignore")
def test_in_workers_of_joblib():
    searches = [PopulationSearchCV(small(), {"alpha": [alpha, 10 * alpha]}, cv=3) for alpha in (1e-4, 1e-3)]
    with joblib.parallel_config(backend="loky", n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(search.fit)(X, y) for search in searches)
    for here, there in zip(searches, found, strict=True):
        assert_same_results(there, here.fit(X, y))
        assert there.best_estimator_.trainer_.threads == 1


def test_functions_within_a_fit_keep_their_backend():
    """Only the calls of the search itself are collected."""
    seen = []

    class Watching(StandardScaler):
        def fit(self, X, y=None):
            seen.append(type(joblib.parallel.get_active_backend()[0]).__name__)
            assert joblib.Parallel(n_jobs=1)(joblib.delayed(abs)(x) for x in (-1, 2)) == [1, 2]
            return super().fit(X, y)

    PopulationSearchCV(make_pipeline(Watching(), small()), {"mlpclassifier__alpha": [1.0]}, cv=3).fit(X, y)
    cross_val_predict(make_pipeline(Watching(), small()), X, y, cv=3)
    assert len(seen) == 7 and "_Collecting" not in seen
    with joblib.parallel_config(backend=search._Collecting()):  # and others are called as they are
        assert joblib.Parallel()(joblib.delayed(divmod)(x, 3) for x in range(5)) == [divmod(x, 3) for x in range(5)]


# ------------------------------------------------------------------ scikit-learn's checks

CHECKED = [
    PopulationSearchCV(
        small(kind, max_iter=60, hidden_layer_sizes=(20,), learning_rate_init=0.02), {"alpha": [1e-4, 0.1]}, cv=2
    )
    for kind in (MLPClassifier, MLPRegressor)
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator, check",
    [
        pytest.param(estimator, check, id=f"{type(estimator.estimator).__name__}-{check.func.__name__}")
        for checked in CHECKED
        for estimator, check in estimator_checks_generator(checked)
    ],
)
def test_check_estimator(estimator, check):
    check(estimator)
