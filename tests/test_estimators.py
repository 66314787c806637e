"""What the estimators offer that scikit-learn's MLPs do not, and how they live in its ecosystem."""

import copy
import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from numba import njit

sklearn = pytest.importorskip("sklearn")

import joblib  # noqa: E402
from sklearn import datasets, neural_network  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.class_weight import compute_sample_weight  # noqa: E402

import fastbp  # noqa: E402
from fastbp.estimators import MLPClassifier, MLPRegressor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, y = datasets.load_iris(return_X_y=True)
X_binary, y_binary = datasets.make_classification(130, 8, random_state=0)
X_diabetes, y_diabetes = datasets.load_diabetes(return_X_y=True)
X_labels, Y_labels = datasets.make_multilabel_classification(90, random_state=0)
BOTH = [(MLPClassifier, X, y), (MLPRegressor, X_diabetes, y_diabetes / 100)]
each = pytest.mark.parametrize("kind, X, y", BOTH, ids=["classifier", "regressor"])


def small(kind=MLPClassifier, **parameters):
    return kind(**{"random_state": 0, "max_iter": 6, "hidden_layer_sizes": (9, 5), "batch_size": 32, **parameters})


def assert_equal(a, b):
    """Two estimators have the same weights, to the bit."""
    assert a.network_.parameters.tobytes() == b.network_.parameters.tobytes()


# ------------------------------------------------------------------ what was refused there


@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 1: 0.5}])
def test_class_weight_is_a_sample_weight(class_weight):
    ours = small(class_weight=class_weight).fit(X_binary, y_binary)
    weights = compute_sample_weight(class_weight, y_binary)
    theirs = neural_network.MLPClassifier(random_state=0, max_iter=6, hidden_layer_sizes=(9, 5), batch_size=32)
    np.testing.assert_allclose(ours.coefs_[0], theirs.fit(X_binary, y_binary, sample_weight=weights).coefs_[0], 1e-10)
    twice = small(class_weight=class_weight).fit(X_binary, y_binary, sample_weight=weights)
    assert_equal(twice, small().fit(X_binary, y_binary, sample_weight=weights**2))
    assert small(class_weight={0: 2.0}).partial_fit(X_binary, y_binary, classes=[0, 1]).n_iter_ == 1
    with pytest.raises(ValueError, match="class_weight='balanced' needs all samples"):
        small(class_weight="balanced").partial_fit(X_binary, y_binary, classes=[0, 1])


def test_dropout():
    plain, dropped, again = (small(dropout=rate).fit(X, y) for rate in (0.0, [0.5, 0.2], [0.5, 0.2]))
    assert_equal(dropped, again)
    assert plain.network_.parameters.tobytes() != dropped.network_.parameters.tobytes()
    assert dropped.trainer_.dropout == (0.5, 0.2)
    with pytest.raises(ValueError, match="dropout must be one number or 2"):
        small(dropout=[0.5]).fit(X, y)
    with pytest.raises(ValueError, match="dropout must be 0 with LBFGS"):
        small(dropout=0.5, solver="lbfgs").fit(X, y)


@each
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_validation_data(kind, X, y, solver):
    aside = X[1::2], y[1::2]
    estimator = small(kind, solver=solver).fit(X[::2], y[::2], validation_data=aside)
    assert len(estimator.validation_loss_curve_) == estimator.n_iter_
    net = estimator.network_
    Y = aside[1] if kind is MLPClassifier else aside[1][:, None]
    np.testing.assert_allclose(estimator.validation_loss_curve_[-1], net.loss(aside[0], Y), 1e-12)
    assert_equal(estimator, small(kind, solver=solver).fit(X[::2], y[::2]))


@each
def test_validation_data_decide_when_to_stop(kind, X, y):
    aside = X[1::2], y[1::2]
    settings = {"early_stopping": True, "max_iter": 300, "n_iter_no_change": 4, "learning_rate_init": 0.05}
    estimator = small(kind, **settings).fit(X[::2], y[::2], validation_data=aside)
    assert len(estimator.validation_scores_) == len(estimator.validation_loss_curve_) == estimator.n_iter_ < 300
    assert estimator.t_ == estimator.n_iter_ * len(X[::2])  # nothing was set aside
    np.testing.assert_allclose(estimator.best_validation_score_, estimator.score(*aside), 1e-12)
    assert estimator.best_validation_score_ == max(estimator.validation_scores_)


@each
def test_validation_loss_of_samples_set_aside(kind, X, y):
    estimator = small(kind, early_stopping=True).fit(X, y)
    assert len(estimator.validation_loss_curve_) == len(estimator.validation_scores_) == estimator.n_iter_


@each
def test_partial_fit_with_early_stopping(kind, X, y):
    estimator = small(kind, early_stopping=True)
    classes = {"classes": np.unique(y)} if kind is MLPClassifier else {}
    for _ in range(3):
        estimator.partial_fit(X[::2], y[::2], validation_data=(X[1::2], y[1::2]), **classes)
    assert len(estimator.validation_scores_) == 3
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        estimator.partial_fit(X, y)
    assert len(estimator.validation_scores_) == len(estimator.loss_curve_) == 3


def test_partial_fit_of_several_labels():
    estimator = small(batch_size=30)
    for rows in (slice(0, 30), slice(30, 60), slice(60, 90)):
        estimator.partial_fit(X_labels[rows], Y_labels[rows])
    assert estimator.predict(X_labels).shape == Y_labels.shape and estimator.t_ == 90


@pytest.mark.parametrize(
    "loss, function",
    [
        ("absolute_error", lambda d: np.abs(d)),
        ("huber", lambda d: np.where(np.abs(d) <= 1, d**2 / 2, np.abs(d) - 0.5)),
        ("quantile", lambda d: np.abs(d) / 2),
        (fastbp.losses.Huber(0.1), lambda d: np.where(np.abs(d) <= 0.1, d**2 / 2, 0.1 * (np.abs(d) - 0.05))),
        (fastbp.losses.Quantile(0.9), lambda d: np.where(d < 0, -0.9 * d, 0.1 * d)),
    ],
    ids=["absolute_error", "huber", "quantile", "Huber", "Quantile"],
)
def test_losses(loss, function):
    Y = np.column_stack([y_diabetes / 100, X_diabetes[:, 0]])
    estimator = small(MLPRegressor, loss=loss, alpha=0, validation_fraction=0.2).fit(
        X_diabetes, Y, validation_data=(X_diabetes, Y)
    )
    errors = estimator.predict(X_diabetes) - Y
    np.testing.assert_allclose(estimator.validation_loss_curve_[-1], function(errors).mean(), 1e-10)
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0]
    assert estimator.network_.verify(X_diabetes[:9], Y[:9]).ok


def test_activations():
    @njit
    def square(z):
        return z * z

    @njit
    def slope(z, a):
        return 2 * z

    custom = fastbp.Activation(square, slope)
    estimator = small(activation=["mish", custom]).fit(X, y)
    assert [str(activation) for activation in estimator.network_.activations] == ["mish", "square", "softmax"]
    assert small(activation="leaky_relu").fit(X, y).network_.activations[:2] == ("leaky_relu",) * 2
    assert_equal(clone(estimator).fit(X, y), estimator)
    with pytest.raises(ValueError, match="activation must be one, or a list of 2"):
        small(activation=["relu"]).fit(X, y)
    with pytest.raises(ValueError, match=r"activation\[1\] must be a fastbp.Activation or one of .* got 'softmax'"):
        small(activation=["relu", "softmax"]).fit(X, y)


@each
def test_activations_of_layers_and_gradients_of_inputs(kind, X, y):
    from scipy.sparse import csr_matrix

    estimator = small(kind).fit(X, y)
    activations = estimator.activations_of(X)
    assert [a.shape[1] for a in activations] == [X.shape[1], 9, 5, estimator.n_outputs_]
    expected = estimator.predict_proba(X) if kind is MLPClassifier else estimator.predict(X)[:, None]
    np.testing.assert_allclose(activations[-1], expected, 1e-12)
    gradient = estimator.input_gradient(csr_matrix(X), y)
    for i in (0, len(X) - 1):
        Y = y[i : i + 1] if kind is MLPClassifier else y[i : i + 1, None]
        np.testing.assert_allclose(gradient[i], estimator.network_.input_gradient(X[i : i + 1], Y)[0], 1e-9, 1e-14)


@pytest.mark.parametrize("settings", [{}, {"solver": "sgd", "learning_rate": "invscaling"}, {"early_stopping": True}])
@pytest.mark.parametrize("warm_start, is_exact", [("exact", True), (True, False)])
def test_exact_warm_start(settings, warm_start, is_exact):
    """Two fits of 4 epochs and, pickled in between, one of 4 make the steps of one of 12."""
    settings = {"n_iter_no_change": 100, "dropout": 0.1, **settings}
    whole = small(max_iter=12, **settings).fit(X, y)
    parts = small(max_iter=4, warm_start=warm_start, **settings).fit(X, y)
    parts = pickle.loads(pickle.dumps(parts.fit(X, y))).fit(X, y)
    is_same = whole.network_.parameters.tobytes() == parts.network_.parameters.tobytes()
    assert is_same == is_exact and len(parts.loss_curve_) == 12
    assert (whole.loss_curve_ == parts.loss_curve_) == is_exact and parts.t_ == whole.t_


@each
def test_divergence_is_said(kind, X, y):
    settings = {"solver": "sgd", "learning_rate_init": 1e200, "activation": "identity", "max_iter": 9}
    estimator = small(kind).fit(X, y)
    before = pickle.dumps(estimator)
    estimator.set_params(**settings, warm_start=True)
    with pytest.raises(ValueError, match="non-finite parameter weights.*diverged in iteration [12]: a smaller"):
        estimator.fit(X, y)
    estimator.set_params(**{name: getattr(small(kind), name) for name in settings}, warm_start=False)
    assert pickle.dumps(estimator) == before
    with pytest.warns(ConvergenceWarning, match="diverged in iteration [12]: the best weights so far are kept"):
        stopped = small(kind, **settings, early_stopping=True).fit(X, y)
    assert np.isfinite(stopped.network_.parameters).all() and np.isnan(stopped.validation_scores_[-1])


def test_initial_weights():
    rng = np.random.default_rng(0)
    shapes = [(4, 9), (9, 5), (5, 3)]
    coefs, intercepts = [rng.normal(size=shape) for shape in shapes], [np.zeros(n) for _, n in shapes]
    given = small(coefs_init=coefs, intercepts_init=intercepts, max_iter=1, learning_rate_init=1e-300).fit(X, y)
    for W, b, expected in zip(given.coefs_, given.intercepts_, coefs, strict=True):
        np.testing.assert_array_equal(W, expected)
        assert abs(b).max() < 1e-290
    assert_equal(
        small(coefs_init=small(max_iter=1, learning_rate_init=1e-300).fit(X, y).coefs_).fit(X, y), small().fit(X, y)
    )
    with pytest.raises(ValueError, match="coefs_init must hold one array for each of the 3 layers, got 2"):
        small(coefs_init=coefs[:2]).fit(X, y)
    with pytest.raises(ValueError, match=r"coefs_init, intercepts_init: W of layer 1 has shape \(9, 4\)"):
        small(coefs_init=[coefs[0].T, *coefs[1:]]).fit(X, y)


def test_threads_give_the_same_bits():
    wide = {"hidden_layer_sizes": (200,), "batch_size": 150, "max_iter": 2}
    assert_equal(small(threads=1, **wide).fit(X, y), small(threads=2, **wide).fit(X, y))
    assert small(threads=2).fit(X, y).trainer_.threads == 2


# ------------------------------------------------------------------ callbacks


class Recorder(fastbp.callbacks.Callback):
    def __init__(self, last=99):
        self.events, self.last = [], last

    def on_train_begin(self, trainer, history):
        self.events.append("begin")

    def on_epoch_end(self, trainer, history):
        self.events.append(history.loss[-1])
        return trainer.epochs >= self.last

    def on_train_end(self, trainer, history):
        self.events.append("end")


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks(solver):
    recorder = Recorder()
    estimator = small(callbacks=[recorder], solver=solver).fit(X, y)
    losses = estimator.loss_curve_ if solver == "adam" else recorder.events[1:-1]
    assert recorder.events == ["begin", *losses, "end"] and len(losses) == estimator.n_iter_ == 6
    assert small(callbacks=[Recorder(last=2)], solver=solver).fit(X, y).n_iter_ == 2


def test_callbacks_of_batches_and_of_the_library():
    class Batches(fastbp.callbacks.Callback):
        losses = []

        def on_batch_end(self, trainer, history, step, loss):
            self.losses.append(loss)

    estimator = small(callbacks=[Batches()], max_iter=1).fit(X, y)
    assert len(Batches.losses) == 5
    np.testing.assert_allclose(np.average(Batches.losses, weights=[32] * 4 + [22]), estimator.loss_, 1e-12)
    assert_equal(estimator, small(max_iter=1).fit(X, y))
    stopping = fastbp.callbacks.EarlyStopping(patience=3)
    settings = {"callbacks": [stopping], "max_iter": 300, "learning_rate_init": 0.05}
    estimator = small(**settings).fit(X[::2], y[::2], validation_data=(X[1::2], y[1::2]))
    assert estimator.n_iter_ == stopping.best_epoch + 3 < 300
    lowering = fastbp.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=1, min_delta=1e9)
    lowered = small(callbacks=[lowering]).fit(X, y)
    assert lowered.trainer_.lr_scale < 1 and abs(lowered.coefs_[0] - small().fit(X, y).coefs_[0]).max() > 1e-6


def test_callbacks_of_scikit_learn():
    pytest.importorskip("sklearn.callback")

    class Stop:
        scores, tasks = [], []

        def setup(self, estimator, context):
            self.tasks.append("setup")

        def teardown(self, estimator, context):
            self.tasks.append("teardown")

        def on_fit_task_begin(self, estimator, context):
            self.tasks.append(context.task_name)

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            self.scores.append(fitted_estimator.score(X, y))
            return len(self.scores) == 3

    estimator = small().set_callbacks(Stop()).fit(X, y)
    assert Stop.tasks == ["setup", "fit", "epoch", "epoch", "epoch", "teardown"] and estimator.n_iter_ == 3
    assert Stop.scores[2] == Stop.scores[3] == estimator.score(X, y)
    assert_equal(estimator, small(max_iter=3).fit(X, y))


# ------------------------------------------------------------------ the way in and out


@each
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_exchange_with_scikit_learn(kind, X, y, solver):
    theirs = small(getattr(neural_network, kind.__name__), solver=solver, learning_rate="invscaling").fit(X, y)
    ours = kind.from_sklearn(theirs)
    back = ours.to_sklearn()
    np.testing.assert_allclose(theirs.predict(X), ours.predict(X), 1e-12)
    np.testing.assert_array_equal(theirs.predict(X), back.predict(X))
    assert type(back) is type(theirs) and back.get_params() == theirs.get_params() and back.loss_ == theirs.loss_
    if solver != "lbfgs":  # they go on alike
        for estimator in (theirs, ours):
            estimator.partial_fit(X, y)
        np.testing.assert_allclose(theirs.coefs_[0], ours.coefs_[0], 1e-10, 1e-12)
        back.partial_fit(X, y)


def test_exchange_refuses_what_the_other_has_not():
    with pytest.raises(ValueError, match="for all hidden layers, but this network has relu, tanh"):
        small(activation=["relu", "tanh"]).fit(X, y).to_sklearn()
    with pytest.raises(TypeError, match="must be a MLPRegressor of sklearn.neural_network, got MLPClassifier"):
        MLPRegressor.from_sklearn(small().fit(X, y).to_sklearn())
    with pytest.raises(NotFittedError):
        small().to_sklearn()
    quantile = small(MLPRegressor, loss="quantile").fit(X_diabetes, y_diabetes)
    np.testing.assert_allclose(quantile.to_sklearn().predict(X_diabetes), quantile.predict(X_diabetes), 1e-10)


def test_the_network_and_the_trainer_are_at_hand():
    estimator = small().fit(X, y)
    assert estimator.network_.verify(X[:20], y[:20]).ok and estimator.trainer_.net is estimator.network_
    assert all(W.base is not None for W in estimator.coefs_)
    estimator.coefs_[0][:] = 0
    assert not estimator.network_.weights[0].any()
    np.testing.assert_array_equal(
        estimator.activations_of(X)[1], np.maximum(estimator.intercepts_[0], 0) + 0 * X[:, :1]
    )
    estimator.coefs_[0] = np.ones((4, 9))
    estimator.predict(X)
    assert (estimator.network_.weights[0] == 1).all()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_pickles_hold_no_native_handles(duplicate):
    estimator = small().fit(X, y)
    other = duplicate(estimator)
    assert_equal(estimator, other)
    assert other.coefs_[0].base is not None and (other.predict(X) == estimator.predict(X)).all()
    assert_equal(estimator.partial_fit(X, y), other if duplicate is copy.copy else other.partial_fit(X, y))


class Finder(pickle.Unpickler):
    def find_class(self, module, name):
        self.found = {*getattr(self, "found", ()), module.partition(".")[0]}
        return super().find_class(module, name)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_pickles_are_small_and_of_plain_objects(solver, tmp_path):
    estimator = small(solver=solver, early_stopping=True).fit(X, y)
    pickled = pickle.dumps(estimator)
    theirs = small(neural_network.MLPClassifier, solver=solver, early_stopping=True).fit(X, y)
    assert len(pickled) < 1.5 * len(pickle.dumps(theirs))
    finder = Finder(io.BytesIO(pickled))
    finder.load()
    assert finder.found <= {"fastbp", "numpy", "sklearn", "builtins"}
    np.save(tmp_path / "X.npy", X)
    (tmp_path / "estimator.pkl").write_bytes(pickled)
    code = (
        "import pickle, numpy\n"
        "estimator = pickle.load(open('estimator.pkl', 'rb'))\n"
        "numpy.save('found.npy', estimator.predict_proba(numpy.load('X.npy')))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=120)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), estimator.predict_proba(X))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library):
    library = pytest.importorskip(library)
    frame = library.DataFrame(dict(zip("abcd", X.T, strict=True)))
    fitted = small().fit(frame, library.Series(y))
    assert_equal(fitted, small().fit(X, y))
    theirs = neural_network.MLPClassifier(max_iter=1).fit(frame, library.Series(y))
    names = [list(getattr(estimator, "feature_names_in_", ())) for estimator in (fitted, theirs)]
    assert names[0] == names[1]  # of polars only newer versions of scikit-learn take names
    if names[0]:
        with pytest.raises(ValueError, match="feature names"):
            fitted.predict(frame[list("bacd")])


def test_in_the_company_of_scikit_learn():
    pipe = make_pipeline(StandardScaler(), small(max_iter=200)).fit(X, y)
    assert pipe.score(X, y) > 0.8
    search = GridSearchCV(small(), {"alpha": [1e-4, 1e-1], "activation": ["tanh", "mish"]}, cv=2).fit(X, y)
    assert 0 < search.best_score_ <= 1
    assert CalibratedClassifierCV(small(), cv=2).fit(X, y).predict_proba(X).shape == (150, 3)
    assert "MLPClassifier" in small()._repr_html_()


def test_metadata_are_routed():
    weights = np.linspace(0, 2, len(X))
    expected = small().fit(StandardScaler().fit_transform(X), y, sample_weight=weights)
    with sklearn.config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipe = make_pipeline(scaler, small().set_fit_request(sample_weight=True))
        assert_equal(pipe.fit(X, y, sample_weight=weights)[-1], expected)


def test_validation_data_are_routed():
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(StandardScaler(), small().set_fit_request(validation_data=True))
        fitted = pipe.fit(X, y, validation_data=(X[:50], y[:50]))[-1]
    assert len(fitted.validation_loss_curve_) == fitted.n_iter_


def test_frames_of_a_pipeline():
    pytest.importorskip("pandas")
    pipe = make_pipeline(StandardScaler(), small()).set_output(transform="pandas").fit(X, y)
    assert list(pipe[-1].feature_names_in_) == ["x0", "x1", "x2", "x3"]
    np.testing.assert_array_equal(
        pipe.predict(X), small().fit(StandardScaler().fit_transform(X), y).predict(pipe[0].transform(X).to_numpy())
    )


def test_memory_that_is_read_only(tmp_path):
    """As joblib gives it to its workers: samples, targets, and estimators themselves."""
    for name, array in (("X", X), ("y", y)):
        np.save(tmp_path / name, array)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "Xy"]
    for solver in ("adam", "lbfgs"):
        estimator = small(solver=solver, early_stopping=True).fit(*mapped, validation_data=mapped)
        assert_equal(estimator, small(solver=solver, early_stopping=True).fit(X, y, validation_data=(X, y)))
        joblib.dump(estimator, tmp_path / "estimator")
        other = joblib.load(tmp_path / "estimator", mmap_mode="r")
        np.testing.assert_array_equal(other.predict(mapped[0]), estimator.predict(X))
        for fitted in (estimator, other):
            fitted.set_params(early_stopping=False, warm_start="exact").fit(X, y)
        assert_equal(estimator, other)


def test_workers_of_joblib_have_one_thread():
    code = (
        "import fastbp, joblib, numpy\n"
        "from fastbp.estimators import MLPClassifier\n"
        "def work(i):\n"
        "    import fastbp\n"
        "    fastbp.set_num_threads(2)\n"
        "    fitted = MLPClassifier(max_iter=1, random_state=0).fit(numpy.eye(4), [0, 1, 0, 1])\n"
        "    return fitted.trainer_.threads, fastbp.get_num_threads()\n"
        "if __name__ == '__main__':\n"
        "    fastbp.set_num_threads(2)\n"
        "    import warnings; warnings.simplefilter('ignore')\n"
        "    call = joblib.delayed(work)\n"
        "    for options in ({}, {'backend': 'threading'}):\n"
        "        print(work(0), *joblib.Parallel(2, **options)(call(i) for i in range(2)))\n"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    expected = ["(None, 2) (1, 1) (1, 1)", "(None, 2) (1, 2) (1, 2)"]
    assert result.stdout.splitlines() == expected, result.stderr[-2000:]


def test_cross_validation_in_processes_gives_the_same():
    scores = [cross_val_score(small(), X, y, cv=2, n_jobs=n_jobs) for n_jobs in (None, 2)]
    np.testing.assert_array_equal(*scores)


def test_importing_the_library_does_not_import_scikit_learn():
    code = (
        "import sys, fastbp; print('sklearn' in sys.modules); import fastbp.estimators; print('sklearn' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["False", "True"], result.stderr


def test_without_scikit_learn_the_import_says_what_to_install():
    code = "import sys; sys.modules['sklearn'] = None; import fastbp.estimators"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ImportError: fastbp.estimators needs scikit-learn: pip install 'fastbp[sklearn]'" in result.stderr


# ------------------------------------------------------------------ what bad input gets


@pytest.mark.parametrize(
    "parameters, fit, message",
    [
        ({"alpha": -1}, {}, "The 'alpha' parameter of MLPClassifier must be"),
        ({"dropout": 1.0}, {}, "The 'dropout' parameter of MLPClassifier must be"),
        ({"activation": "tanhh"}, {}, "The 'activation' parameter of MLPClassifier must be"),
        ({"warm_start": "yes"}, {}, "The 'warm_start' parameter of MLPClassifier must be"),
        ({"threads": 0}, {}, "The 'threads' parameter of MLPClassifier must be"),
        ({"hidden_layer_sizes": (3, 0)}, {}, "hidden_layer_sizes must be > 0"),
        ({"callbacks": [3]}, {}, "callbacks"),
        ({}, {"validation_data": 3}, "validation_data must be a pair"),
        ({}, {"validation_data": (X[:, :2], y)}, "2 features, but MLPClassifier is expecting 4 features"),
        ({}, {"validation_data": (X, y + 1)}, r"has \[0 1 2\]. `y` has \[1 2 3\]"),
        ({}, {"sample_weight": np.ones(3)}, "sample_weight.shape"),
        ({"class_weight": {7: 1.0}}, {}, "class"),
    ],
    ids=str,
)
def test_a_refused_call_changes_nothing(parameters, fit, message):
    estimator = small().fit(X, y)
    before = pickle.dumps(estimator.set_params(**parameters))
    with pytest.raises((ValueError, TypeError), match=message):
        estimator.fit(X, y, **fit)
    assert pickle.dumps(estimator) == before


class Failing(fastbp.callbacks.Callback):
    def on_epoch_end(self, trainer, history):
        if trainer.epochs == 9:
            raise RuntimeError("of a callback")


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "sgd", "learning_rate": "invscaling"}])
def test_a_call_that_fails_in_between_changes_nothing(settings):
    estimator = small(warm_start="exact", **settings).fit(X, y)
    before = pickle.dumps(estimator)
    estimator.set_params(callbacks=[Failing()], batch_size=50)
    with pytest.raises(RuntimeError, match="of a callback"):
        estimator.fit(X, y)
    assert pickle.dumps(estimator.set_params(callbacks=(), batch_size=32)) == before
    assert_equal(estimator.fit(X, y), pickle.loads(before).fit(X, y))


def test_targets_that_do_not_fit_the_network_are_refused():
    regressor = small(MLPRegressor).fit(X_diabetes, y_diabetes)
    with pytest.raises(ValueError, match="y has 2 outputs, but 1 were fitted before"):
        regressor.partial_fit(X_diabetes, np.column_stack([y_diabetes] * 2))
    with pytest.raises(ValueError, match="`y` has classes not in `self.classes_`"):
        small().fit(X, y).partial_fit(X, np.full(150, 5))
    with pytest.raises(AttributeError):
        small(solver="lbfgs").partial_fit(X, y)


def test_the_user_may_interrupt(monkeypatch):
    class Interrupt(fastbp.callbacks.Callback):
        def on_epoch_end(self, trainer, history):
            if trainer.epochs == 2:
                raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted by user"):
        estimator = small(callbacks=[Interrupt()]).fit(X, y)
    assert estimator.n_iter_ == 2 and len(estimator.predict(X)) == 150


@each
def test_what_is_printed(kind, X, y, capsys):
    estimator = small(kind, verbose=True, max_iter=2, early_stopping=True).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Iteration 1, loss = {estimator.loss_curve_[0]:.8f}" and len(lines) == 4
    assert lines[1] == f"Validation score: {estimator.validation_scores_[0]:f}"
