"""`MLPEnsembleClassifier` and `MLPEnsembleRegressor`: their members, their predictions, and what they are better at."""

import pickle
import warnings

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

import joblib  # noqa: E402
from scipy import sparse  # noqa: E402
from sklearn import datasets  # noqa: E402
from sklearn.base import clone, is_classifier, is_regressor  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.model_selection import cross_val_score, train_test_split  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import estimator_checks_generator  # noqa: E402

import fastbp  # noqa: E402
from fastbp.estimators import (  # noqa: E402
    MLPClassifier,
    MLPEnsembleClassifier,
    MLPEnsembleRegressor,
    MLPRegressor,
    together,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, y = datasets.load_iris(return_X_y=True)
X_diabetes, y_diabetes = datasets.load_diabetes(return_X_y=True)
X_labels, Y_labels = datasets.make_multilabel_classification(90, random_state=0)
SMALL = {"hidden_layer_sizes": (7,), "max_iter": 8, "batch_size": 32}
OF_ALL = {"n_estimators": 3, "random_state": 0}
SINGLE = {MLPEnsembleClassifier: MLPClassifier, MLPEnsembleRegressor: MLPRegressor}
DATA = {
    "classes": (MLPEnsembleClassifier, X, np.array(["a", "b", "c"])[y]),
    "two classes": (MLPEnsembleClassifier, X[:100], y[:100]),
    "labels": (MLPEnsembleClassifier, X_labels, Y_labels),
    "numbers": (MLPEnsembleRegressor, X_diabetes, y_diabetes / 100),
    "two numbers": (MLPEnsembleRegressor, X_diabetes, np.column_stack([y_diabetes, -y_diabetes]) / 100),
}
each = pytest.mark.parametrize("kind, X, y", DATA.values(), ids=list(DATA))
both = pytest.mark.parametrize("kind, X, y", [DATA["classes"], DATA["numbers"]], ids=["classifier", "regressor"])


def alone(kind, seed, **parameters):
    """Return the estimator that is one member."""
    return SINGLE[kind](**{**SMALL, **parameters, "random_state": int(seed)})


# ------------------------------------------------------------------ members


@each
@pytest.mark.parametrize("parameters", [{}, {"early_stopping": True}, {"solver": "lbfgs"}, {"dropout": 0.2}], ids=str)
def test_members_are_the_estimators_of_their_seeds(kind, X, y, parameters):
    if parameters.get("early_stopping") and np.ndim(y) == 2 and kind is MLPEnsembleClassifier:
        parameters = {**parameters, "validation_fraction": 0.3}
    ensemble = kind(**SMALL, **OF_ALL, **parameters).fit(X, y)
    assert len(ensemble.population_) == len(ensemble.estimators_) == len(set(ensemble.seeds_.tolist())) == 3
    for seed, net, member in zip(ensemble.seeds_, ensemble.population_, ensemble.estimators_, strict=True):
        expected = alone(kind, seed, **parameters).fit(X, y)
        assert net.parameters.tobytes() == expected.network_.parameters.tobytes()
        np.testing.assert_array_equal(member.predict(X), expected.predict(X))
        assert member.score(X, y) == expected.score(X, y) and member.get_params() == expected.get_params()
        assert member.loss_ == expected.loss_ and member.n_iter_ == expected.n_iter_
        if "solver" not in parameters:
            assert member.loss_curve_ == expected.loss_curve_ and ensemble.loss_curves_[0][0] > 0
            assert member.validation_scores_ == expected.validation_scores_
    assert ensemble.n_iter_.tolist() == [member.n_iter_ for member in ensemble.estimators_]
    assert np.ptp(ensemble.population_.parameters, axis=0).max() > 0.1


@both
@pytest.mark.parametrize("early_stopping", [False, True])
def test_bootstrap_members_are_the_estimators_of_their_rows(kind, X, y, early_stopping, monkeypatch):
    ensemble = kind(**SMALL, **OF_ALL, bootstrap=True, early_stopping=early_stopping)
    rows = []
    drawn = kind._drawn
    monkeypatch.setattr(kind, "_drawn", lambda self, seed, own: rows.append(drawn(self, seed, own)) or rows[-1].copy())
    ensemble.fit(X, y)
    n = len(X) if not early_stopping else len(X) - int(np.ceil(0.1 * len(X)))
    for i, (seed, of_member) in enumerate(zip(ensemble.seeds_, rows, strict=True)):
        assert len(of_member) == n and 0.55 < len(set(of_member.tolist())) / n < 0.72  # 1 - 1/e
        if not early_stopping:
            expected = alone(kind, seed).fit(X[of_member], y[of_member])
            assert ensemble.population_[i].parameters.tobytes() == expected.network_.parameters.tobytes()
    assert not np.array_equal(rows[0], rows[1])
    plain = kind(**SMALL, **OF_ALL, early_stopping=early_stopping).fit(X, y)
    assert plain.seeds_.tolist() == ensemble.seeds_.tolist()
    assert not np.array_equal(plain.predict(X), ensemble.predict(X)) or kind is MLPEnsembleClassifier


@both
def test_weights_of_samples(kind, X, y):
    weights = np.random.default_rng(0).random(len(X))
    ensemble = kind(**SMALL, **OF_ALL).fit(X, y, sample_weight=weights)
    for seed, net in zip(ensemble.seeds_, ensemble.population_, strict=True):
        expected = alone(kind, seed).fit(X, y, sample_weight=weights)
        assert net.parameters.tobytes() == expected.network_.parameters.tobytes()
    if kind is MLPEnsembleClassifier:
        ensemble = kind(**SMALL, **OF_ALL, class_weight={"a": 3.0}).fit(X, y)
        expected = alone(kind, ensemble.seeds_[2], class_weight={"a": 3.0}).fit(X, y)
        assert ensemble.population_[2].parameters.tobytes() == expected.network_.parameters.tobytes()


@both
def test_sparse_samples(kind, X, y):
    dense = kind(**SMALL, **OF_ALL).fit(X, y)
    ensemble = kind(**SMALL, **OF_ALL).fit(sparse.csr_matrix(X), y)
    np.testing.assert_allclose(ensemble.population_.parameters, dense.population_.parameters, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(ensemble.predict(sparse.csr_matrix(X)), ensemble.predict(X))


def test_members_train_in_the_same_calls(monkeypatch):
    n_members = []
    advance = together._Training._advance
    monkeypatch.setattr(
        together._Training, "_advance", lambda *call: n_members.append((len(call[1]), call[2])) or advance(*call)
    )
    MLPEnsembleClassifier(**SMALL, n_estimators=10, random_state=0).fit(X, y)
    assert n_members == [(10, 8)]


# ------------------------------------------------------------------ predictions


@each
def test_predictions_are_means(kind, X, y):
    ensemble = kind(**SMALL, **OF_ALL).fit(X, y)
    if kind is MLPEnsembleRegressor:
        members = np.array([member.predict(X) for member in ensemble.estimators_])
        mean, std = ensemble.predict(X, return_std=True)
        np.testing.assert_allclose(mean, members.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(std, members.std(axis=0), rtol=1e-9)
        np.testing.assert_array_equal(mean, ensemble.predict(X))
        assert mean.shape == np.shape(y) and is_regressor(ensemble)
        return
    members = np.array([member.predict_proba(X) for member in ensemble.estimators_])
    np.testing.assert_allclose(ensemble.predict_proba(X), members.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(ensemble.predict_log_proba(X), np.log(members.mean(axis=0)), rtol=1e-9)
    if np.ndim(y) == 1:
        np.testing.assert_array_equal(ensemble.classes_, np.unique(y))
        np.testing.assert_array_equal(ensemble.predict(X), ensemble.classes_[members.mean(axis=0).argmax(axis=1)])
    else:
        np.testing.assert_array_equal(ensemble.predict(X), members.mean(axis=0) > 0.5)
    assert is_classifier(ensemble) and ensemble.predict(X).shape == np.shape(y)


@each
def test_samples_of_another_dtype_than_the_networks(kind, X, y):
    ensemble = kind(**SMALL, **OF_ALL).fit(X, y)
    single = X.astype(np.float32)
    assert ensemble.population_.dtype == np.float64
    for samples in (single, single[:5]):
        np.testing.assert_array_equal(ensemble.predict(samples), ensemble.predict(samples.astype(np.float64)))


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("data", ["digits", "breast cancer", "diabetes", "friedman"])
def test_an_ensemble_is_better_than_its_members(data, bootstrap):
    """On samples held out: the mean over splits, by how much more than the mean of the members alone."""
    load = {
        "digits": lambda: [array[:700] for array in datasets.load_digits(return_X_y=True)],
        "breast cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
        "diabetes": lambda: datasets.load_diabetes(return_X_y=True),
        "friedman": lambda: datasets.make_friedman1(300, noise=1.0, random_state=0),
    }[data]
    X, y = load()
    kind = MLPEnsembleClassifier if data in ("digits", "breast cancer") else MLPEnsembleRegressor
    margin = {"digits": 0.007, "breast cancer": 0.003, "diabetes": 0.03, "friedman": 0.03}[data]
    y = y if kind is MLPEnsembleClassifier else (y - y.mean()) / y.std()
    parameters = {"hidden_layer_sizes": (16,), "learning_rate_init": 0.02, "max_iter": 60, "batch_size": 64}
    of_ensemble, of_members = [], []
    for split in range(3):
        train, test, y_train, y_test = train_test_split(X, y, test_size=0.5, random_state=split)
        scaler = StandardScaler().fit(train)
        ensemble = kind(**parameters, n_estimators=12, bootstrap=bootstrap, random_state=split)
        ensemble.fit(scaler.transform(train), y_train)
        of_ensemble.append(ensemble.score(scaler.transform(test), y_test))
        scores = [member.score(scaler.transform(test), y_test) for member in ensemble.estimators_]
        of_members.append(np.mean(scores))
        assert of_ensemble[-1] > of_members[-1]
    assert np.mean(of_ensemble) > np.mean(of_members) + margin


def test_the_spread_is_larger_far_from_the_samples():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (150, 1))
    ensemble = MLPEnsembleRegressor(
        hidden_layer_sizes=(20,), activation="tanh", learning_rate_init=0.02, max_iter=200, random_state=0
    ).fit(x, np.sin(3 * x[:, 0]))
    near = ensemble.predict(rng.uniform(-0.9, 0.9, (50, 1)), return_std=True)[1]
    far = ensemble.predict(np.array([[-4.0], [4.0]]), return_std=True)[1]
    assert far.min() > 4 * near.mean() > 0


# ------------------------------------------------------------------ an estimator of scikit-learn


@both
def test_in_the_ecosystem(kind, X, y):
    pandas = pytest.importorskip("pandas")
    ensemble = kind(**SMALL, **OF_ALL)
    with pytest.raises(NotFittedError):
        ensemble.predict(X)
    with pytest.raises(NotFittedError):
        ensemble.estimators_  # noqa: B018
    frame = pandas.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    assert ensemble.fit(frame, y) is ensemble
    assert list(ensemble.feature_names_in_) == list(frame) and ensemble.n_features_in_ == X.shape[1]
    with pytest.raises(ValueError, match="feature names"):
        ensemble.predict(frame.rename(columns={"x0": "other"}))
    again = pickle.loads(pickle.dumps(ensemble))
    np.testing.assert_array_equal(again.predict(frame), ensemble.predict(frame))
    assert again.loss_curves_ == ensemble.loss_curves_
    copy = clone(ensemble)
    assert copy.get_params() == ensemble.get_params() and not hasattr(copy, "population_")
    np.testing.assert_array_equal(copy.fit(X, y).predict(X), ensemble.predict(frame))
    assert not hasattr(copy, "feature_names_in_")
    assert not hasattr(ensemble.fit(X, y), "feature_names_in_")
    assert np.isfinite(cross_val_score(make_pipeline(StandardScaler(), copy), X, y, cv=3)).all()
    assert isinstance(ensemble.population_, fastbp.Population) and ensemble.n_layers_ == 3
    assert ensemble.n_outputs_ == ensemble.population_.sizes[-1]
    assert ensemble.validation_scores_ is None


def test_parameters_are_those_of_the_single_estimators():
    for kind, single in SINGLE.items():
        own = set(kind().get_params()) - {"n_estimators", "bootstrap"}
        assert own == set(single().get_params()) - {"warm_start", "coefs_init", "intercepts_init", "callbacks"}
        for name in own:
            assert kind().get_params()[name] == single().get_params()[name]
        assert set(kind._parameter_constraints) >= set(kind().get_params())
        assert single.__name__ in kind.__doc__ and "_PARAMETERS" not in kind.__doc__


@both
def test_dtypes_and_seeds(kind, X, y):
    ensemble = kind(**SMALL, **OF_ALL).fit(X.astype(np.float32), y)
    assert ensemble.population_.dtype == np.float32
    assert kind(**SMALL, **OF_ALL, dtype="float32").fit(X, y).population_.dtype == np.float32
    seeds = [kind(**{**SMALL, "n_estimators": 2, "random_state": seed}).fit(X, y).seeds_.tolist() for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    state = np.random.RandomState(0)
    assert kind(**{**SMALL, "n_estimators": 2, "random_state": state}).fit(X, y).seeds_.tolist() == seeds[0]
    kind(**SMALL, n_estimators=2).fit(X, y)  # random_state=None


def test_threads_do_not_change_bits():
    found = [MLPEnsembleClassifier(**SMALL, **OF_ALL, threads=threads).fit(X, y) for threads in (1, 2)]
    assert found[0].population_.parameters.tobytes() == found[1].population_.parameters.tobytes()


@pytest.mark.filterwarnings("ignore")
def test_in_workers_of_joblib():
    ensembles = [MLPEnsembleClassifier(**SMALL, n_estimators=3, random_state=seed) for seed in range(2)]
    with joblib.parallel_config(backend="loky", n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(ensemble.fit)(X, y) for ensemble in ensembles)
        n_threads = joblib.Parallel()(joblib.delayed(fastbp.get_num_threads)() for _ in range(2))
    assert n_threads == [1, 1]
    for here, there in zip(ensembles, found, strict=True):
        assert there.population_.parameters.tobytes() == here.fit(X, y).population_.parameters.tobytes()


# ------------------------------------------------------------------ errors and warnings


@both
def test_a_call_that_fails_changes_nothing(kind, X, y):
    ensemble = kind(**SMALL, **OF_ALL).fit(X, y)
    before = pickle.dumps(ensemble)
    bad = X.copy()
    bad[1, 1] = np.nan
    for samples, message in ((bad, "NaN"), (X[:-1], "inconsistent numbers")):
        with pytest.raises(ValueError, match=message):
            ensemble.fit(samples, y)
    with pytest.raises(ValueError, match="3 features|features, but"):
        ensemble.predict(X[:, :3])
    assert pickle.dumps(ensemble) == before
    for name, value in {"n_estimators": 0, "bootstrap": "yes", "alpha": -1.0, "solver": "newton"}.items():
        with pytest.raises(ValueError, match=f"The '{name}' parameter"):
            clone(ensemble).set_params(**{name: value}).fit(X, y)
    with pytest.raises(TypeError):
        kind(warm_start=True)


def test_networks_that_diverge():
    ensemble = MLPEnsembleRegressor(**{**SMALL, "solver": "sgd", "learning_rate_init": 1e250}, **OF_ALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"3 of 3 networks: .*non-finite.*diverged in iteration"):
            ensemble.fit(X_diabetes, y_diabetes)
    assert not hasattr(ensemble, "population_")


def test_one_warning_of_networks_that_have_not_converged():
    with pytest.warns(ConvergenceWarning, match=r"3 of 3 networks: .*Maximum iterations \(8\)") as caught:
        MLPEnsembleClassifier(**SMALL, **OF_ALL).fit(X, y)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MLPEnsembleClassifier(**{**SMALL, "tol": 10.0, "max_iter": 30}, **OF_ALL).fit(X, y)


def test_ctrl_c_leaves_a_usable_ensemble(monkeypatch):
    n_calls, call = [], together._Training._call

    def interrupted(self, *args):
        n_calls.append(1)
        if len(n_calls) == 3:
            raise KeyboardInterrupt
        return call(self, *args)

    monkeypatch.setattr(together._Training, "_call", interrupted)
    ensemble = MLPEnsembleClassifier(**{**SMALL, "max_iter": 100}, **OF_ALL)
    with pytest.warns(UserWarning, match="interrupted by user"):
        ensemble.fit(X, y)
    assert ensemble.n_iter_.tolist() == [16] * 3 and ensemble.predict(X).shape == y.shape
    expected = MLPEnsembleClassifier(**{**SMALL, "max_iter": 16}, **OF_ALL).fit(X, y)
    assert ensemble.population_.parameters.tobytes() == expected.population_.parameters.tobytes()


CHECKED = [kind(hidden_layer_sizes=20, max_iter=100, learning_rate_init=0.01, n_estimators=3) for kind in SINGLE]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator, check",
    [
        pytest.param(estimator, check, id=f"{type(estimator).__name__}-{check.func.__name__}")
        for checked in CHECKED
        for estimator, check in estimator_checks_generator(checked)
    ],
)
def test_check_estimator(estimator, check):
    check(estimator)
