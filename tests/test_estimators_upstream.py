"""scikit-learn's own tests of its MLPs, and its checks of estimators, run on those of this library."""

import importlib.util
import sys
from unittest import mock

import pytest

sklearn = pytest.importorskip("sklearn")
neural_network = pytest.importorskip("sklearn.neural_network")

from sklearn.utils.estimator_checks import estimator_checks_generator  # noqa: E402

from fastbp.estimators import MLPClassifier, MLPRegressor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # scikit-learn's tests do not expect that warnings are errors
CANNOT_PASS = {"test_gradient": "it calls the private method _loss_grad_lbfgs with arrays of its own"}


def load_tests():
    """Return scikit-learn's module of tests with its two classes replaced by ours; None where it is not installed."""
    found = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    if found is None:
        return None
    spec = importlib.util.spec_from_file_location("sklearn_test_mlp", found.origin)
    module = importlib.util.module_from_spec(spec)
    with (
        mock.patch.object(neural_network, "MLPClassifier", MLPClassifier),
        mock.patch.object(neural_network, "MLPRegressor", MLPRegressor),
        mock.patch.dict(sys.modules, {"sklearn_test_mlp": module}),
    ):
        spec.loader.exec_module(module)
    return module


upstream = load_tests()
UPSTREAM = {} if upstream is None else {name: f for name, f in vars(upstream).items() if name.startswith("test_")}
for name, test in UPSTREAM.items():
    if name in CANNOT_PASS:
        test = pytest.mark.xfail(raises=AttributeError, strict=True, reason=CANNOT_PASS[name])(test)
    globals()[name] = test


@pytest.fixture
def global_random_seed():
    return 42


def test_scikit_learns_tests_are_of_these_estimators():
    if upstream is None:
        pytest.skip("this scikit-learn has no tests")
    assert len(UPSTREAM) >= 35 and set(CANNOT_PASS) <= set(UPSTREAM)
    assert upstream.MLPClassifier is MLPClassifier and upstream.MLPRegressor is MLPRegressor
    assert neural_network.MLPClassifier is not MLPClassifier


CHECKED = [
    *[kind(max_iter=20) for kind in (MLPClassifier, MLPRegressor)],
    *[kind(hidden_layer_sizes=(8,), max_iter=20, solver="lbfgs") for kind in (MLPClassifier, MLPRegressor)],
]


@pytest.mark.parametrize(
    "estimator, check",
    [
        pytest.param(estimator, check, id=f"{type(estimator).__name__}-{estimator.solver}-{check.func.__name__}")
        for checked in CHECKED
        for estimator, check in estimator_checks_generator(checked)
    ],
)
def test_check_estimator(estimator, check):
    check(estimator)
