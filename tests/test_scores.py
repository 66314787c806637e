"""Scores of predictions, and the importance of the columns of a table."""

import numpy as np
import pytest

import fastbp
from fastbp.datasets.dataset import Column
from fastbp.importance import permutation_importance
from fastbp.scores import TEMPERATURES, best_temperature, calibration_error, log_loss, regression_errors


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


def unsure(n=400, temperature=1.0, n_classes=3, seed=0):
    """Probabilities that are right at a temperature, and classes drawn from these."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(n_classes), n)
    y = np.array([rng.choice(n_classes, p=p) for p in P])
    powers = P**temperature
    return powers / powers.sum(axis=1, keepdims=True), y


def loss_at(P, y, temperature, weights=None):
    powers = P ** (1 / temperature)
    return np.average(-np.log((powers / powers.sum(axis=1, keepdims=True))[np.arange(len(y)), y]), weights=weights)


@pytest.mark.parametrize("temperature", [0.4, 0.7, 1.0, 1.7, 3.5])
@pytest.mark.parametrize("n", [2, 20, 4000])
def test_the_best_temperature_is_of_least_loss_and_prior(temperature, n):
    P, y = unsure(n, temperature)
    found, loss = best_temperature(P, y)
    assert loss == pytest.approx(loss_at(P, y, found), rel=1e-12)
    assert loss + np.log(found) ** 2 / n <= loss_at(P, y, 1.0) + 1e-15  # no worse than none

    def objective(t):
        return loss_at(P, y, t) + np.log(t) ** 2 / n

    fine = np.geomspace(TEMPERATURES[0], TEMPERATURES[-1], 2000)
    best = fine[np.argmin([objective(t) for t in fine])]
    # convex in 1 / T apart from the prior: a neighbor in the grid of the best
    assert abs(np.log2(found / best)) < 0.25 and found in TEMPERATURES
    assert objective(found) == min(map(objective, TEMPERATURES))
    if n == 4000:
        assert abs(np.log2(found / temperature)) < 0.25


def test_temperatures_lie_around_1():
    assert 1.0 in TEMPERATURES and TEMPERATURES[0] == 2**-1.5 and TEMPERATURES[-1] == 4
    np.testing.assert_allclose(TEMPERATURES[1:] / TEMPERATURES[:-1], 2**0.25)


def test_few_samples_that_are_all_right_stay_near_1():
    for n, lowest in ((1, 0.8), (2, 0.6), (5, 0.4)):
        P = np.tile([0.8, 0.2], (n, 1))
        temperature, loss = best_temperature(P, np.zeros(n, int))
        assert lowest < temperature <= 1 and loss <= -np.log(0.8)
    assert best_temperature(np.tile([0.8, 0.2], (1000, 1)), np.zeros(1000, int))[0] == TEMPERATURES[0]
    assert best_temperature(np.array([[0.5, 0.5]]), np.array([1])) == (1.0, pytest.approx(np.log(2)))


def test_weights_of_samples_decide_the_temperature():
    one, other = unsure(300, 0.5), unsure(300, 2.5, seed=1)
    P, y = (np.concatenate(both) for both in zip(one, other, strict=True))
    of_one, of_other = np.repeat([1.0, 1e-9], 300), np.repeat([1e-9, 1.0], 300)
    assert best_temperature(P, y, of_one)[0] == best_temperature(*one)[0] < 0.8
    assert best_temperature(P, y, of_other)[0] == best_temperature(*other)[0] > 1.8
    found, loss = best_temperature(P, y, 1 + of_one)
    assert loss == pytest.approx(loss_at(P, y, found, 1 + of_one), rel=1e-12)
    assert best_temperature(P, y, 8 * of_one) == best_temperature(P, y, of_one)  # ratios
    assert best_temperature(P, y, np.ones(600)) == best_temperature(P, y)  # to the bit
    before = P.copy()
    best_temperature(P, y, of_one)
    np.testing.assert_array_equal(P, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_certain_probabilities_have_a_temperature(dtype):
    sure = np.array([[1, 0], [0, 1]] * 5, dtype)
    temperature, loss = best_temperature(sure, np.array([0, 1] * 5))
    assert temperature == 1 and loss == pytest.approx(0, abs=1e-30)
    wrong = np.array([1] + [1, 0] * 4 + [1])
    temperature, loss = best_temperature(sure, wrong)
    of_a_wrong_one = -np.log(np.finfo(np.float32).tiny) / 4
    assert temperature == 4 and loss == pytest.approx(of_a_wrong_one * np.mean(sure[np.arange(10), wrong] == 0))


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
