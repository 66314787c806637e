"""What the estimators check before kernels see it, and what they say."""

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn import datasets, neural_network  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402

import fastbp  # noqa: E402
from fastbp import estimators  # noqa: E402
from fastbp.estimators import MLPClassifier, MLPRegressor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, y = datasets.load_iris(return_X_y=True)
X_binary, y_binary = X[:100], y[:100]
LABELS = np.eye(3, dtype=int)[y]


def small(kind=MLPClassifier, **parameters):
    return kind(**{"random_state": 0, "max_iter": 4, "hidden_layer_sizes": (7,), "batch_size": 30, **parameters})


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
@pytest.mark.parametrize(
    "kind, y, wrong, came",
    [
        (MLPRegressor, np.ones((150, 3)), np.ones((150, 2)), 2),
        (MLPRegressor, np.ones((150, 3)), np.ones((150, 4)), 4),
        (MLPRegressor, np.ones((150, 3)), np.ones(150), 1),
        (MLPClassifier, LABELS, LABELS[:, :2], 2),
        (MLPClassifier, LABELS[:, :2], y_binary.repeat(2)[:150] % 2, 1),
    ],
    ids=["too few", "too many", "one", "too few labels", "classes for labels"],
)
def test_validation_data_fit_the_outputs(kind, y, wrong, came, settings):
    message = f"validation_data: y has {came} outputs, but {y.shape[1]} were fitted|mismatch with the labels"
    with pytest.raises(ValueError, match=message):
        small(kind, **settings).fit(X, y, validation_data=(X, wrong))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_coefs_of_another_size_do_not_take_the_data(solver):
    """Weights that the user sets may be of other sizes; kernels then do not read beyond the data."""
    estimator = small(MLPRegressor, solver=solver, warm_start=True).fit(X, y)
    estimator.coefs_ = [np.ones((9, 7)), np.ones((7, 1))]
    with pytest.raises(ValueError, match=r"X has 4 features, but coefs_\[0\] takes 9"):
        estimator.fit(X, y)
    with pytest.raises(ValueError, match="X has 4 columns .* but the network takes 9"):
        estimator.input_gradient(X, y)


@pytest.mark.parametrize(
    "shapes",
    [
        [(4, 7), (1, 3), (7,), (3,)],
        [(4, 7), (7, 3), (1,), (3,)],
        [(4, 7), (7,), (7,), (3,)],
        [(4, 7), (7, 3), (7,), ()],
    ],
    ids=str,
)
def test_coefs_that_are_not_of_layers_are_refused(shapes):
    estimator = small().fit(X, y)
    arrays = list(map(np.ones, shapes))
    estimator.coefs_, estimator.intercepts_ = arrays[:2], arrays[2:]
    with pytest.raises(ValueError, match="coefs_ and intercepts_ have the shapes .* which are not of layers"):
        estimator.predict(X)


def test_the_order_of_other_data_is_not_gone_on_with():
    """Samples set aside of more data have as many rows to train on, with larger numbers."""
    settings = {"warm_start": "exact", "early_stopping": True, "validation_fraction": 0.25}
    estimator = small(**settings).fit(X, y)  # 112 of 150
    assert estimator._order.max() > 112
    rows = np.r_[0:38, 50:87, 100:137]
    estimator.set_params(early_stopping=False).fit(X[rows], y[rows])
    assert (np.sort(estimator._order) == np.arange(112)).all()


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize("y, wrong", [(y, LABELS), (y % 2, LABELS[:, :2])], ids=["classes", "two classes"])
@pytest.mark.parametrize("call", ["partial_fit", "warm fit", "validation_data", "input_gradient"])
def test_rows_of_labels_are_not_classes(call, y, wrong):
    estimator = small(warm_start=True).fit(X, y)
    before = estimator.network_.parameters.copy()
    with pytest.raises(ValueError, match="not fitted with multilabel input|same classes|classes not in"):
        if call == "partial_fit":
            estimator.set_params(warm_start=False).partial_fit(X, wrong)
        elif call == "warm fit":
            estimator.fit(X, wrong)
        elif call == "validation_data":
            estimator.fit(X, y, validation_data=(X, wrong))
        else:
            estimator.input_gradient(X, wrong)
    assert (estimator.network_.parameters == before).all()


# ------------------------------------------------------------------ weights


def test_class_weight_names_classes_that_a_batch_lacks():
    for names, others in (([0, 1], [0, 1]), (["no", "yes"], np.array(["no", "yes"]))):
        batch = y_binary == 0
        settings = {"class_weight": {names[1]: 5.0, names[0]: 2.0}}
        one = small(**settings).partial_fit(X_binary[batch], np.take(others, y_binary[batch]), classes=names)
        weights = np.full(batch.sum(), 2.0)
        two = small().partial_fit(X_binary[batch], np.take(others, y_binary[batch]), weights, classes=names)
        np.testing.assert_array_equal(one.coefs_[0], two.coefs_[0])
        with pytest.raises(ValueError, match="class_weight names the classes"):
            small(class_weight={"of others": 1.0}).partial_fit(X_binary, np.take(others, y_binary), classes=names)


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("y", [y_binary, LABELS[:100]], ids=["classes", "labels"])
def test_class_weight_is_a_weight(factor, y):
    class_weight = dict.fromkeys((0, 1), factor) if y.ndim == 1 else [dict.fromkeys((0, 1), factor)] * 3
    with pytest.raises(ValueError, match="class_weight must be finite, at least 0, and leave samples"):
        small(class_weight=class_weight).fit(X_binary, y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_negative_weights_weigh_limited_losses(solver):
    """The loss of a sample that is wrong with certainty is limited before it is weighted."""
    weights = np.where(np.arange(100) < 3, -1.0, 1.0)
    settings = {"max_iter": 1, "learning_rate_init": 1e-9, "solver": solver, "max_fun": 1}
    rows = X_binary * 3000
    ours, theirs = (
        small(kind, **settings).fit(rows, y_binary, sample_weight=weights)
        for kind in (MLPClassifier, neural_network.MLPClassifier)
    )
    np.testing.assert_allclose(ours.loss_, theirs.loss_, 1e-8)


def test_one_class_scores_1():
    kinds = (MLPClassifier, neural_network.MLPClassifier)
    ours, theirs = (small(kind, early_stopping=True).fit(X_binary, np.full(100, 7)) for kind in kinds)
    assert ours.validation_scores_ == theirs.validation_scores_ == [1.0] * ours.n_iter_


# ------------------------------------------------------------------ the way in and out


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_exchanged_estimators_go_on_with_early_stopping(kind, solver):
    settings = {"early_stopping": True, "warm_start": True, "solver": solver, "learning_rate_init": 0.05}
    theirs = small(getattr(neural_network, kind.__name__), **settings).fit(X, y)
    theirs.best_validation_score_ = 2.0  # no epoch is better: the best weights are those of before
    theirs._best_coefs = best = [W + 1 for W in theirs.coefs_]
    ours = kind.from_sklearn(theirs)
    for estimator in (ours, ours.to_sklearn()):
        estimator.fit(X, y)
        np.testing.assert_array_equal(estimator.coefs_[0], best[0])


@pytest.mark.parametrize(
    "settings, y",
    [
        ({"kind": MLPRegressor}, np.column_stack([X[:, 0], X[:, 1], X[:, 2]])),
        ({"kind": MLPRegressor, "loss": "huber"}, np.column_stack([X[:, 0], X[:, 1]])),
        ({"kind": MLPRegressor, "loss": "poisson"}, np.column_stack([X[:, 0], X[:, 1]])),
        ({}, y),
        ({}, LABELS),
    ],
    ids=["squared error", "huber", "poisson", "classes", "labels"],
)
def test_gradients_of_inputs_are_those_of_the_loss(settings, y):
    estimator = small(activation="tanh", alpha=0, **settings).fit(X, y)

    def loss(rows):
        """The loss as it is recorded, of one sample, before a step."""
        other = small(activation="tanh", alpha=0, **{**settings, "max_iter": 1, "batch_size": 1})
        other.set_params(coefs_init=estimator.coefs_, intercepts_init=estimator.intercepts_)
        if isinstance(other, MLPRegressor):
            return other.fit(rows, y[7:8]).loss_
        return other.partial_fit(rows, y[7:8], classes=estimator.classes_).loss_

    gradient, step = estimator.input_gradient(X[7:10], y[7:10])[0], 1e-5
    for i in range(4):
        rows = [X[7:8] + sign * step * np.eye(4)[i] for sign in (1, -1)]
        slope = (loss(rows[0]) - loss(rows[1])) / (2 * step)
        np.testing.assert_allclose(gradient[i], slope, 1e-5, 1e-8)


def test_weights_that_the_user_sets_are_gone_on_with():
    settings = {"warm_start": "exact", "early_stopping": True, "learning_rate_init": 1e-9, "max_iter": 1}
    estimator = small(**settings).fit(X, y)
    estimator.coefs_[0][:] = 0.25
    estimator.best_validation_score_ = -np.inf
    estimator.fit(X, y)
    np.testing.assert_allclose(estimator.coefs_[0], 0.25, 1e-5)


# ------------------------------------------------------------------ parameters set between calls


@pytest.mark.parametrize("call", ["partial_fit", "fit", "predict"])
@pytest.mark.parametrize("start, then", [("relu", "tanh"), ("relu", ["mish"])], ids=str)
def test_another_activation(call, start, then):
    estimator = small(activation=start, warm_start=True).fit(X, y).set_params(activation=then)
    W, b = [list(map(np.copy, arrays)) for arrays in (estimator.coefs_, estimator.intercepts_)]
    expected = small(activation=then, coefs_init=W, intercepts_init=b, learning_rate_init=1e-300).fit(X, y)
    if call == "fit":
        estimator.set_params(learning_rate_init=1e-300).fit(X, y)
    elif call == "partial_fit":
        estimator.partial_fit(X, y)
        assert estimator.trainer_.net is estimator.network_ and estimator.trainer_.state.step == 25
    else:
        np.testing.assert_array_equal(estimator.predict_proba(X), expected.predict_proba(X))
    assert estimator.network_.activations == expected.network_.activations
    assert (estimator.coefs_[0] == W[0]).all() == (call != "partial_fit")


def test_another_activation_is_that_of_scikit_learn():
    kinds = (MLPRegressor, neural_network.MLPRegressor)
    ours, theirs = (small(kind).fit(X, y).set_params(activation="tanh").partial_fit(X, y) for kind in kinds)
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], 1e-10)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), 1e-10)


@pytest.mark.parametrize("warm_start", [True, "exact"])
def test_another_loss_and_dtype(warm_start):
    estimator = small(MLPRegressor, warm_start=warm_start, early_stopping=True).fit(X, y)
    last = estimator.predict(X)
    estimator.set_params(loss="poisson", dtype="float32")
    np.testing.assert_allclose(estimator.predict(X), np.exp(last), 1e-5)
    assert estimator.network_.dtype == np.float64  # no digit is lost before it is trained
    estimator.fit(X, y)
    assert estimator.network_.dtype == estimator.coefs_[0].dtype == estimator.predict(X).dtype == np.float32
    assert estimator.network_.loss_name == "poisson" and estimator.out_activation_ == "exp"
    assert len(estimator.loss_curve_) == 8


def test_other_hidden_layers_need_a_new_fit():
    estimator = small().fit(X, y).set_params(hidden_layer_sizes=(8, 2))
    with pytest.raises(ValueError, match=r"hidden_layer_sizes is \[8, 2\], but \[7\] were fitted before"):
        estimator.partial_fit(X, y)
    assert estimator.fit(X, y).network_.sizes == (4, 8, 2, 3)


@pytest.mark.parametrize("warm_start", [False, "exact"])
def test_dropout_and_threads_may_be_set_between_calls(warm_start):
    other, estimator = (small(warm_start=warm_start).fit(X, y) for _ in range(2))
    call = "fit" if warm_start else "partial_fit"
    getattr(estimator.set_params(dropout=0.5, threads=2), call)(X, y)
    getattr(other, call)(X, y)
    assert (
        estimator.trainer_.dropout == (0.5,)
        and estimator.trainer_.threads == 2
        and estimator.trainer_.key != other.trainer_.key
    )
    assert (estimator.coefs_[0] != other.coefs_[0]).any()
    getattr(estimator.set_params(dropout=0.0, threads=None), call)(X, y)
    assert estimator.trainer_.dropout == () and estimator.trainer_.threads is None


@pytest.mark.parametrize("solvers", [("adam", "sgd"), ("sgd", "adam"), ("lbfgs", "adam"), ("adam", "lbfgs", "sgd")])
@pytest.mark.parametrize("warm_start", [False, "exact"])
def test_another_solver_begins_with_a_new_optimizer(warm_start, solvers):
    estimator = small(warm_start=warm_start)
    for solver in solvers[:-1]:
        estimator.set_params(solver=solver, warm_start=True).fit(X, y)
    estimator.set_params(solver=solvers[-1], warm_start=warm_start)
    (estimator.fit if warm_start else estimator.partial_fit)(X, y)
    assert type(estimator.trainer_.optimizer) is {"adam": fastbp.AdamEpsHat, "sgd": fastbp.ClassicalSGD}[solvers[-1]]
    assert estimator.trainer_.state.step == 5 * estimator.n_iter_ and estimator.loss_curve_[-1] == estimator.loss_


def test_exact_warm_start_takes_up_the_learning_rate():
    estimator = small(warm_start="exact", solver="sgd", learning_rate="invscaling").fit(X, y)
    W = estimator.coefs_[0].copy()
    estimator.set_params(learning_rate_init=1e-300, momentum=0.0).fit(X, y)
    assert (estimator.coefs_[0] == W).all() and estimator.trainer_.optimizer.momentum == 0
    assert estimator._optimizer.learning_rate == 1e-300 / 1201**0.5


def test_the_best_weights_are_at_hand():
    estimator = small(early_stopping=True, learning_rate_init=0.5)
    assert not hasattr(estimator, "best_coefs_")
    weights = []
    for _ in range(8):
        estimator.partial_fit(X, y, classes=[0, 1, 2], validation_data=(X, y))
        weights.append([*map(np.copy, estimator.coefs_), *map(np.copy, estimator.intercepts_)])
    best = int(np.argmax(estimator.validation_scores_))
    assert best < 7
    for ours, expected in zip([*estimator.best_coefs_, *estimator.best_intercepts_], weights[best], strict=True):
        np.testing.assert_array_equal(ours, expected)


# ------------------------------------------------------------------ what is said, and what is refused


@pytest.mark.parametrize(
    "category, call, n_same",
    [
        (ConvergenceWarning, lambda kind: small(kind).fit(X, y), 45),
        (ConvergenceWarning, lambda kind: small(kind, solver="lbfgs", max_iter=2).fit(X, y), 58),
        (UserWarning, lambda kind: small(kind, batch_size=500, tol=9, max_iter=50).fit(X, y), 81),
        (ValueError, lambda kind: small(kind, early_stopping=True, validation_fraction=0.01).fit(X[:50], 50 * [0]), 60),
        (ValueError, lambda kind: small(kind).fit(X_binary, y_binary).partial_fit(X, y), 57),
        (ValueError, lambda kind: small(kind, hidden_layer_sizes=(3, 0)).fit(X, y), 50),
        (ValueError, lambda kind: small(kind).fit(X, y).predict(X[:9].astype(str)), 60),
    ],
    ids=["iterations", "lbfgs", "batch size", "samples set aside", "classes", "sizes", "text"],
)
def test_messages_begin_as_those_of_scikit_learn(category, call, n_same):
    """So filters of warnings match, of both."""
    expect, texts = pytest.warns if issubclass(category, Warning) else pytest.raises, []
    for module in (estimators, neural_network):
        with expect(category) as said:
            call(module.MLPClassifier)
        texts.append(str(said.pop(category).message if expect is pytest.warns else said.value))
    assert texts[0][:n_same] == texts[1][:n_same]


def test_solvers_that_have_no_partial_fit():
    with pytest.raises(AttributeError) as said:
        small(solver="lbfgs").partial_fit(X, y)
    cause = said.value.__cause__
    assert str(cause) == "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic."
    kinds = (MLPRegressor, neural_network.MLPRegressor)  # that of regressors takes lbfgs there, too
    ours, theirs = (small(kind, solver="lbfgs").partial_fit(X, y).partial_fit(X, y) for kind in kinds)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), 1e-6)


@pytest.mark.parametrize(
    "kind, parameters, message",
    [
        (MLPClassifier, {"hidden_layer_sizes": ((3, 2),)}, "hidden_layer_sizes must be an integer or a sequence"),
        (MLPClassifier, {"coefs_init": [np.ones((4, 2)), None]}, r"W of layer 1 has shape \(4, 2\), expected \(4, 7\)"),
        (MLPRegressor, {"loss": "poisson"}, "y holds -1, but loss 'poisson' expects targets not below 0"),
    ],
    ids=["sizes", "weights", "poisson"],
)
def test_refused_parameters(kind, parameters, message):
    with pytest.raises((ValueError, TypeError), match=message):
        small(kind, **parameters).fit(X, y - 1)


def test_negative_counts_are_refused_everywhere():
    estimator = small(MLPRegressor, loss="poisson").fit(X, y)
    for call in (estimator.partial_fit, estimator.input_gradient):
        with pytest.raises(ValueError, match="-1, but loss 'poisson' expects targets not below 0"):
            call(X, y - 1)
    with pytest.raises(ValueError, match="-1, but loss 'poisson' expects targets not below 0"):
        estimator.fit(X, y, validation_data=(X, y - 1))


@pytest.mark.parametrize("wrong, came", [((X, y, y), "tuple of 3"), (X, "ndarray"), ({"X": X}, "dict")])
def test_validation_data_are_a_pair(wrong, came):
    with pytest.raises(TypeError, match=rf"validation_data must be a pair \(X, Y\), got {came}") as said:
        small().fit(X, y, validation_data=wrong)
    assert len(str(said.value)) < 120  # no numbers


def test_none_stands_for_what_is_drawn():
    expected = small().fit(X, y)
    drawn = small(max_iter=1, learning_rate_init=1e-300).fit(X, y)
    for given in ([None, drawn.coefs_[1]], [drawn.coefs_[0], None], [None, None]):
        ours = small(coefs_init=given, intercepts_init=[None, drawn.intercepts_[1]], callbacks=None).fit(X, y)
        np.testing.assert_array_equal(ours.coefs_[0], expected.coefs_[0])


def test_dropout_may_be_an_array():
    two = {"hidden_layer_sizes": (7, 5), "max_iter": 1}
    ours = small(dropout=np.array([0.5, 0.25]), **two).fit(X, y)
    assert ours.trainer_.dropout == (0.5, 0.25)
    np.testing.assert_array_equal(ours.coefs_[0], small(dropout=[0.5, 0.25], **two).fit(X, y).coefs_[0])


# ------------------------------------------------------------------ what is taken from scikit-learn


class OurClassifier(MLPClassifier):
    pass


class TheirClassifier(neural_network.MLPClassifier):
    def __init__(self, note="", **parameters):
        super().__init__(**parameters)
        self.note = note


@pytest.mark.parametrize(
    "wrong", [3, neural_network.MLPClassifier, neural_network.MLPRegressor(), MLPClassifier()], ids=str
)
def test_what_from_sklearn_refuses(wrong):
    with pytest.raises(TypeError, match="fitted must be a MLPClassifier of sklearn.neural_network, got|got the class"):
        MLPClassifier.from_sklearn(wrong)


def test_subclasses_and_copies_are_exchanged():
    theirs = TheirClassifier(random_state=0, max_iter=2, hidden_layer_sizes=(7,)).fit(X, y)
    ours = OurClassifier.from_sklearn(theirs)
    assert type(ours) is OurClassifier
    for other in (theirs, ours.to_sklearn()):
        np.testing.assert_allclose(ours.predict_proba(X), other.predict_proba(X), 1e-10)
    for one, other in ((ours, theirs), (ours.to_sklearn(), ours)):
        assert one._label_binarizer is not other._label_binarizer
        for name in ("classes_", "coefs_", "intercepts_", "loss_curve_"):
            assert getattr(one, name) is not getattr(other, name)
