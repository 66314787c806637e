"""What the estimators check before kernels see it, and what they say."""

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn import datasets  # noqa: E402

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
    with pytest.raises(ValueError, match="not fitted with multilabel input|same classes|knows only"):
        if call == "partial_fit":
            estimator.set_params(warm_start=False).partial_fit(X, wrong)
        elif call == "warm fit":
            estimator.fit(X, wrong)
        elif call == "validation_data":
            estimator.fit(X, y, validation_data=(X, wrong))
        else:
            estimator.input_gradient(X, wrong)
    assert (estimator.network_.parameters == before).all()
