"""Scores of predictions, and the importance of the columns of a table."""

import numpy as np
import pytest

import fastbp
from fastbp.datasets.dataset import Column
from fastbp.importance import permutation_importance
from fastbp.scores import calibration_error, log_loss, regression_errors


@pytest.mark.parametrize("factor", [1e-300, 1.0, 1e300])
def test_errors_of_any_size(factor):
    y, guess = np.array([[1.0], [2], [4]]) * factor, np.array([[1.5], [2], [3]]) * factor
    ((rmse, r2),) = regression_errors(y, guess)
    assert (rmse, r2) == pytest.approx((np.sqrt(1.25 / 3) * factor, 1 - 1.25 / (14 / 3)), rel=1e-12, abs=0)


def test_errors_far_larger_than_the_targets():
    ((rmse, r2),) = regression_errors(np.array([[1.0], [2]]), np.array([[1e300], [1e300]]))
    assert rmse == pytest.approx(1e300) and r2 == -np.inf
    ((rmse, r2),) = regression_errors(np.array([[-1.7e308], [1.7e308]]), np.array([[1e308], [1e308]]))
    assert rmse == np.inf and r2 == pytest.approx(1 - (2.7**2 + 0.7**2) / 2 / 1.7**2)


def test_log_loss():
    P = np.array([[0.5, 0.5], [0.25, 0.75], [0, 1]])
    assert log_loss(P, np.array([0, 1, 1])) == pytest.approx(-np.log([0.5, 0.75, 1]).mean())
    assert log_loss(P, np.array([0, 0, 0])) == pytest.approx(-np.log([0.5, 0.25, 1e-15]).mean())


def test_the_calibration_error_is_that_of_its_bins():
    P = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 6)
    y = np.array([0, 0, 0, 1] + [1, 1, 1, 1, 0, 0])
    expected = 0.4 * abs(0.9 - 0.75) + 0.6 * abs(0.6 - 4 / 6)
    assert calibration_error(P, y) == pytest.approx(expected)
    assert calibration_error(P, y, n_bins=1) == pytest.approx(abs(0.72 - 0.7))
    assert calibration_error(np.eye(3), np.arange(3)) == 0 and calibration_error(np.eye(2), np.array([1, 0])) == 1


def test_predictions_of_the_right_probability_are_calibrated():
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 50_000)
    P, y = np.column_stack([1 - p, p]), (rng.random(50_000) < p).astype(int)
    assert calibration_error(P, y) < 0.01 < 0.1 < calibration_error(P**4 / (P**4).sum(axis=1, keepdims=True), y)


# ------------------------------------------------------------------ importance

COLUMNS = (Column("a"), Column("kind", ("x", "y", "z")), Column("left out", ()), Column("b", None, (), True))


@pytest.fixture
def table():
    """Samples of a number, a category of three, and a number with a flag."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 300)
    return np.column_stack([rng.normal(size=300), np.eye(3)[kind], rng.normal(size=300), rng.random(300) < 0.1])


def test_importance_is_the_loss_of_accuracy_of_a_shuffled_column(table):
    before = table.copy()

    def predict(X):
        assert (X[:, 1:4].sum(axis=1) == 1).all()  # the features of a column are shuffled together
        return X[:, 1:4].argmax(axis=1)

    y = table[:, 1:4].argmax(axis=1)
    y[:30] = (y[:30] + 1) % 3
    found = permutation_importance(predict, table, y, COLUMNS, are_classes=True, n_repeats=5, seed=3)
    assert found.columns == ("a", "kind", "b") and found.metric == "accuracy" and found.score == 0.9
    assert found.mean[[0, 2]].tolist() == found.std[[0, 2]].tolist() == [0, 0]
    rng = np.random.default_rng(3)
    losses = [0.9 - (predict(table[rng.permutation(300)]) == y).mean() for _ in range(5)]
    assert found.mean[1] == pytest.approx(np.mean(losses)) and found.std[1] == pytest.approx(np.std(losses))
    assert found.mean[1] == pytest.approx(0.9 - 1 / 3, abs=0.05) and found.std[1] > 0
    np.testing.assert_array_equal(table, before)


def test_importance_is_the_loss_of_r2_and_grows_with_the_weight_of_a_column(table):
    def predict(X):
        return np.column_stack([X[:, 0] + 3 * X[:, 4], X[:, 0]])

    Y = predict(table)
    found = permutation_importance(predict, table, Y, COLUMNS, are_classes=False, n_repeats=40)
    assert found.metric == "R2" and found.score == 1 and found.columns == ("a", "kind", "b")
    # a shuffled column of variance v adds an error of variance 2 v: of the two outputs, of variances 10 and 1
    np.testing.assert_allclose(found.mean, [(2 / 10 + 2) / 2, 0, 18 / 10 / 2], atol=0.1)
    again = permutation_importance(predict, table, Y, COLUMNS, are_classes=False, n_repeats=40)
    other = permutation_importance(predict, table, Y, COLUMNS, are_classes=False, n_repeats=40, seed=1)
    np.testing.assert_array_equal(found.mean, again.mean)
    assert (found.mean != other.mean).any()


def test_every_feature_is_a_column_without_columns(table):
    assert fastbp.importance.permutation_importance is permutation_importance
    of_numbers = permutation_importance(lambda X: X[:, 4], table, table[:, 4], are_classes=False)
    assert of_numbers.columns == tuple("012345") and np.flatnonzero(of_numbers.mean).tolist() == [4]
    named = permutation_importance(lambda X: X[:, 4], table, table[:, 4], list("abcdef"), are_classes=False)
    assert named.columns == tuple("abcdef")
    np.testing.assert_array_equal(named.mean, of_numbers.mean)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"X": np.ones(5)}, "X and y must have the same two or more samples"),
        ({"y": np.ones(4)}, "X and y must have the same"),
        ({"X": np.ones((1, 2)), "y": np.ones(1)}, "two or more samples"),
        ({"columns": ["a"]}, "columns make 1 features, but X has 2"),
        ({"columns": []}, "columns make 0 features"),
        ({"n_repeats": 0}, "n_repeats"),
        ({"seed": "x"}, "seed"),
        ({"are_classes": False, "y": np.ones(5)}, "R2 is not defined"),
    ],
)
def test_wrong_arguments_of_importance(change, words):
    arguments = {"X": np.ones((5, 2)), "y": np.arange(5), "are_classes": True, **change}
    with pytest.raises((ValueError, TypeError), match=words):
        permutation_importance(lambda X: X[:, 0], **arguments)
