"""Metrics: against numbers recorded from scikit-learn (tests/data/make_metrics.py), in chunks, and in training."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import fastbp
from fastbp import kernels, metrics, reference
from fastbp.metrics import METRICS, Measures, TopK, by_name

CASES = json.loads(Path(__file__).parent.joinpath("data", "metrics.json").read_text())["cases"]
VALUES = [(case, name) for case, row in CASES.items() for name in row["expected"]]
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def arrays(case, dtype="float64"):
    """Outputs and targets of a recorded case."""
    A, Y = np.array(CASES[case]["A"], dtype), np.array(CASES[case]["Y"])
    return A, Y if Y.ndim == 1 else Y.astype(dtype)


def test_every_metric_is_recorded():
    assert {name for _, name in VALUES} >= set(METRICS)


@each_dtype
@pytest.mark.parametrize("case, name", VALUES)
def test_the_value_is_that_of_scikit_learn(case, name, dtype):
    A, Y = arrays(case, dtype)
    if Y.ndim == 1 and len(set(Y)) == A.shape[1]:
        Y = Y.astype(np.uint8)
    before = A.copy(), Y.copy()
    assert by_name(name)(A, Y) == pytest.approx(CASES[case]["expected"][name], rel=1e-12, nan_ok=True)
    np.testing.assert_array_equal(A, before[0])
    np.testing.assert_array_equal(Y, before[1])


@each_dtype
@pytest.mark.parametrize("twin", [kernels, reference], ids=["kernels", "reference"])
@pytest.mark.parametrize("case", CASES)
def test_chunks_change_nothing(case, twin, dtype):
    A, Y = arrays(case, dtype)
    expected = CASES[case]["expected"]
    measures = Measures({name: by_name(name) for name in expected}, A.shape[1], [Y], twin)
    whole = measures.of([(A, Y)], Y)
    assert whole == pytest.approx(expected, rel=1e-12, nan_ok=True)
    for rows in (1, 4, 1000):
        chunks = [(A[start : start + rows], Y[start : start + rows]) for start in range(0, len(A), rows)]
        result = measures.of(iter(chunks), Y)
        if twin is kernels:
            np.testing.assert_array_equal(list(result.values()), list(whole.values()))
        else:
            assert result == pytest.approx(whole, rel=1e-12, nan_ok=True)


def test_errors_far_from_zero_keep_their_digits():
    rng = np.random.default_rng(0)
    Y = 1e8 + rng.normal(size=(1000, 1))
    A = Y + 1e6 + rng.normal(size=Y.shape)
    D = (Y - A).ravel()
    assert metrics.explained_variance(A, Y) == pytest.approx(1 - D.var() / Y.var(), rel=1e-6)
    assert metrics.r2(A, Y) == pytest.approx(1 - (D**2).mean() / Y.var(), rel=1e-6)


def test_outputs_that_are_not_numbers_are_no_hit():
    A = np.full((3, 4), np.nan)
    for label in range(4):
        assert metrics.TopK(1)(A, np.full(3, label)) == 0
    assert np.isnan(metrics.mae(A, np.zeros((3, 4))))


@pytest.mark.parametrize(
    "metric, A, Y, words",
    [
        ("top_3", np.ones((2, 3)), [0, 1], "3 outputs"),
        ("top_2", np.ones((2, 3)), [[1, 1, 0], [0, 0, 0]], "one class"),
        ("top_1", np.ones(2), [0, 1], "one class"),
        ("mae", np.ones((2, 3)), [0, 1], "labels"),
        ("accuracy", np.ones((2, 3)), [0, 3], "label 3"),
        ("accuracy", np.ones((2, 3)), [0.0, 1.0], "integers"),
        ("f1", np.ones((2, 3)), np.ones((2, 2)), r"shape \(2, 2\)"),
        ("f1", np.ones((2, 3)), [0], r"shape \(1,\)"),
        ("f1", np.ones((0, 3)), np.ones((0, 3)), "at least one"),
        ("f1", np.ones((1, 2, 3)), np.ones((1, 2, 3)), "A must"),
        ("f1", [["a"]], [[1]], "real numbers"),
        ("mae", [[1.0]], [[np.nan]], r"Y\[0, 0\] is nan"),
        ("accuracy", np.ones((2, 3)), [0.0, np.nan], r"Y\[1\] is nan"),
        ("accuracy", np.ones((2, 3)), ["a", "b"], r"classes, Y = numpy\.unique\(Y, return_inverse=True\)"),
    ],
)
def test_what_does_not_fit_is_said(metric, A, Y, words):
    with pytest.raises((ValueError, TypeError), match=words):
        by_name(metric)(A, Y)


NUMBERS = {
    "digits": np.arange(10.0)[:, None],
    "numbers": np.array([[100.0], [200], [-300]]),
    "above 1": np.array([[0, 1.5]]),
    "below 0": np.array([[0.5, -0.1], [1, 0]]),
    "signs and 0": np.array([[-1.0], [0], [1]]),
    "1 and 2": np.array([[1.0], [2]]),
    "signs, larger": np.array([[-1.0, 1], [1, 2]]),
    "counts": np.array([[3, 0, 1], [0, 0, 9]]),
}
OF_CLASSES = ["accuracy", "precision", "recall", "f1", "top_1"]


@pytest.mark.parametrize("Y", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("name", OF_CLASSES)
def test_numbers_are_no_classes(name, Y):
    expected = rf"metrics of classes .* got {Y.shape[1]} columns of numbers from {Y.min():g} to {Y.max():g}: .*use mae"
    for targets in (Y, Y.tolist(), Y[:, 0] if Y.shape[1] == 1 else Y):
        with pytest.raises(ValueError, match=expected):
            by_name(name)(np.zeros(Y.shape), targets)


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize(
    "sizes, Y, Yv",
    [
        ([3, 1], np.arange(10) % 10, None),
        ([3, 2], np.arange(20.0).reshape(10, 2), None),
        ([3, 1], np.arange(10) % 2, np.arange(10)),
        ([3, 1], np.arange(10) % 2, np.arange(10) % 2 * 2 - 1),
        ([3, 2], np.eye(2)[np.arange(10) % 2], np.arange(20.0).reshape(10, 2)),
    ],
)
def test_metrics_of_classes_refuse_numbers_before_training(backend, name, sizes, Y, Yv):
    net = fastbp.Network(sizes, "identity", seed=0, backend=backend)
    trainer, before, X = fastbp.Trainer(net, fastbp.SGD(0.1), seed=0), net.parameters.copy(), np.ones((10, 3))
    validation = (X, Y if Yv is None else Yv)
    with pytest.raises(ValueError, match="metrics of classes"):
        trainer.fit(X, Y, epochs=3, validation_data=validation, metrics=[name, "mae"])
    with pytest.raises(ValueError, match="metrics of classes"):
        trainer.fit(fastbp.stream(X, Y), validation_data=(X, np.arange(Y.size).reshape(Y.shape)), metrics=name)
    assert trainer.epochs == 0 and not trainer.history
    np.testing.assert_array_equal(net.parameters, before)


def test_soft_targets_name_classes():
    A = np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    smooth = np.full((3, 3), 0.05) + 0.85 * np.eye(3)[[1, 0, 1]]
    flat = [[0.3, 0.4, 0.3], [0.4, 0.3, 0.3], [0.2, 0.45, 0.35]]  # probabilities, none above 1/2
    for Y in (smooth, smooth.astype(np.float32), flat, np.float32(flat), np.eye(3)[[1, 0, 1]], np.array([1, 0, 1])):
        assert metrics.accuracy(A, Y) == pytest.approx(2 / 3) == metrics.TopK(1)(A, Y)
    soft = np.array([[0.05, 0.95, 0.05], [0.95, 0.95, 0.05], [0.05, 0.05, 0.05]])  # two are yes, or none
    assert metrics.accuracy([[0.2, 0.7, 0.2], [0.9, 0.8, 0.1], [0.1, 0.9, 0.1]], soft) == pytest.approx(2 / 3)
    assert metrics.recall([[0.2, 0.7, 0.2], [0.9, 0.1, 0.1], [0.1, 0.1, 0.1]], soft) == pytest.approx((1 + 0.5 + 0) / 3)
    for Y, A in (([0.1, 0.9, 0.9], [0.2, 0.6, 0.3]), ([0, 1, 1], [0.2, 0.6, 0.3]), ([-1, 1, 1], [-0.2, 0.1, -0.3])):
        assert metrics.accuracy(A, Y) == pytest.approx(2 / 3)


@each_dtype
def test_targets_that_overflow(backend, dtype):
    X, Y = np.random.default_rng(0).normal(size=(2, 20, 3))
    net = fastbp.Network([3, 3], "identity", "absolute_error", seed=0, dtype=dtype, backend=backend)
    names = ["mae", "rmse", "r2", "explained_variance"]
    if dtype == "float32":
        for call in (
            lambda: net.loss(X, 1e300 * Y),
            lambda: metrics.mae(net.predict(X), 1e300 * Y),
            lambda: fastbp.Trainer(net, fastbp.SGD(0.1)).fit(X, 1e300 * Y, metrics=names),
        ):
            with pytest.raises(ValueError, match=r"Y\[0, 0\] is -?\d\S*: every value must be finite \(in float32\)"):
                call()
        return
    data = X, 1e300 * Y
    history = fastbp.Trainer(net, fastbp.SGD(0.1)).fit(*data, validation_data=data, metrics=names)
    assert history.metrics["validation_mae"] == [pytest.approx(1e300 * np.abs(Y).mean())]
    assert history.metrics["rmse"] == [np.inf] and np.isnan(history.metrics["r2"]).all()
    assert metrics.mae(0 * Y, 1e300 * Y) == pytest.approx(1e300 * np.abs(Y).mean())
    assert metrics.rmse(0 * Y, 1e300 * Y) == np.inf and np.isnan(metrics.explained_variance(0 * Y, 1e300 * Y))
    assert net.loss(X, np.full(Y.shape, 5e307)) == np.inf
    with pytest.warns(RuntimeWarning, match="first in the loss, of finite outputs"):
        fastbp.Trainer(net, fastbp.SGD(0.1)).fit(X, np.full(Y.shape, 5e307))


def test_names():
    assert by_name("top_7").name == "top_7" == TopK(7).name and repr(TopK(7)) == "fastbp.metrics.TopK(7)"
    assert eval(repr(metrics.f1)) is metrics.f1
    for bad in ("top_0", "top_", "f2", 3):
        with pytest.raises((ValueError, TypeError), match="metrics"):
            by_name(bad)
    with pytest.raises((ValueError, TypeError), match="k must"):
        TopK(0)
    falling = [name for name in METRICS if metrics.falls(name)]
    assert falling == ["mae", "rmse"] and metrics.falls("validation_loss") and not metrics.falls("validation_top_9")
    assert metrics.falls("my_error") and not metrics.falls("F_score")
    with pytest.raises(ValueError, match="mode="):
        metrics.falls("validation_profit")
    with pytest.raises(ValueError, match=r"did you mean 'validation_f1'\?\): pass mode="):
        metrics.falls("val_f1")
    assert pickle.loads(pickle.dumps(TopK(4))).name == "top_4"


# ------------------------------------------------------------------ in training


def trained(backend, sizes, output, loss, Y, names, Yv=None):
    """History of two epochs, and what the metrics are of the network they end with."""
    X = np.random.default_rng(3).normal(size=(len(Y), sizes[0]))
    net = fastbp.Network(sizes, ["tanh", output], loss, seed=0, dtype="float64", backend=backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.3), 8, seed=0)
    history = trainer.fit(X, Y, epochs=2, metrics=names, validation_data=None if Yv is None else (X[: len(Yv)], Yv))
    return history, net.predict(X)


def test_metrics_of_classes_in_training(backend, monkeypatch):
    monkeypatch.setattr(fastbp.training.trainer, "PREDICTED_NUMBERS", 20_000)  # a few rows at a time
    labels = np.random.default_rng(0).integers(0, 4, 50)
    names = ["accuracy", TopK(2), "top_3", "precision", "recall", metrics.f1]
    keys = ["accuracy", "top_2", "top_3", "precision", "recall", "f1"]
    history, A = trained(backend, (3, 5, 4), "softmax", "cross_entropy", labels, names, labels[:20])
    assert list(history.metrics) == keys + ["validation_" + key for key in keys]
    for prefix, rows in (("", slice(None)), ("validation_", slice(20))):
        expected = {key: by_name(key)(A[rows], labels[rows]) for key in keys}
        assert {key: history.metrics[prefix + key][1] for key in keys} == pytest.approx(expected)
    rows, _ = trained(backend, (3, 5, 4), "softmax", "cross_entropy", np.eye(4)[labels], names, np.eye(4)[labels[:20]])
    assert rows.metrics == history.metrics
    mixed, _ = trained(backend, (3, 5, 4), "softmax", "cross_entropy", np.eye(4)[labels], names, labels[:20])
    assert mixed.metrics == history.metrics


def test_multi_label_targets_and_several_numbers_are_just_rows(backend):
    rng = np.random.default_rng(0)
    Y = (rng.random((40, 3)) < 0.4).astype(float)
    # the validation rows alone look like one class each; the training rows say that they are not
    names = ["accuracy", "precision", "recall", "f1"]
    history, A = trained(backend, (3, 6, 3), "sigmoid", "binary_cross_entropy", Y, names, np.eye(3))
    assert history.metrics["accuracy"][1] == ((A > 0.5) == (Y > 0.5)).all(axis=1).mean()
    assert history.metrics["validation_accuracy"][1] == ((A[:3] > 0.5) == np.eye(3)).all(axis=1).mean()
    assert history.metrics["f1"][1] == pytest.approx(metrics.f1(A, Y))
    history, A = trained(
        backend, (3, 6, 3), "sigmoid", "binary_cross_entropy", np.eye(3), names, np.eye(3)[:2] + [0, 0, 1]
    )
    assert history.metrics["accuracy"][1] == ((A > 0.5) == np.eye(3)).all(axis=1).mean()
    Y = rng.normal(size=(40, 3))
    history, A = trained(
        backend, (3, 6, 3), "identity", "squared_error", Y, ["mae", "rmse", "r2", "explained_variance"]
    )
    assert history.metrics["rmse"][1] == pytest.approx(np.sqrt(((A - Y) ** 2).mean(axis=0)).mean())
    assert history.metrics["r2"][1] == pytest.approx((1 - ((A - Y) ** 2).sum(axis=0) / (40 * Y.var(axis=0))).mean())


def test_functions_see_all_outputs_at_once(backend, monkeypatch):
    monkeypatch.setattr(fastbp.training.trainer, "PREDICTED_NUMBERS", 20_000)
    Y = np.random.default_rng(0).normal(size=(50, 2))
    seen = []

    def worst(A, Y):
        seen.append(A.shape)
        return np.abs(A - Y).max()

    history, A = trained(backend, (3, 5, 2), "identity", "squared_error", Y, [worst, "mae"])
    assert seen == [(50, 2)] * 2 and history.metrics["worst"][1] == pytest.approx(np.abs(A - Y).max())
    assert list(history.metrics) == ["worst", "mae"]


@pytest.mark.parametrize(
    "names, words",
    [
        (["top_4"], "up to 4 outputs, and this has 4"),
        (["mae"], "labels"),
        (["top_2", TopK(2)], "different names"),
        (["top_x"], "unknown"),
    ],
)
def test_a_metric_that_does_not_fit_changes_nothing(backend, names, words):
    net = fastbp.Network([2, 4], "softmax", "cross_entropy", seed=0, backend=backend)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=words):
        fastbp.Trainer(net, fastbp.SGD(0.1)).fit(np.ones((4, 2)), np.arange(4), metrics=names)
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "reference"])
def test_the_class_is_the_first_largest_number(module, dtype):
    """Wherever it stands in rows narrower and wider than a vector; among equals, infinities and NaN."""
    for n in (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65):
        for place in range(n):
            rows = np.full((5, n), -np.inf, dtype)
            rows[1] = -3
            rows[2, place:] = 5  # equals from here on
            rows[3] = np.nan
            rows[3, place] = -np.inf
            rows[4] = np.arange(n)
            rows[4, place] = np.inf
            counts = np.zeros((3, n), np.int64)
            for row, expected in zip(rows, (0, 0, place, place, place), strict=True):
                counts[:] = 0
                module.class_counts(row[None], np.array([n - 1]), counts)
                assert counts[1].argmax() == expected and counts[1].sum() == 1, (n, place, row)
    counts = np.zeros((3, 3), np.int64)
    module.class_counts(np.full((1, 3), np.nan, dtype), np.array([1]), counts)
    assert counts[1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("name", ["loss", "epoch", "validation_f1"])
def test_names_of_what_is_recorded_anyway(backend, name):
    def function(A, Y):
        return 42.0

    function.__name__ = name
    with pytest.raises(ValueError, match=f"metrics must not be named '{name}'"):
        trained(backend, (3, 4, 2), "identity", "squared_error", np.zeros((5, 2)), [function])


def test_a_function_that_returns_no_number_is_named(backend):
    for function in (lambda A, Y: None, lambda A, Y: A):
        with pytest.raises(TypeError, match="the metric '<lambda>' must return a number"):
            trained(backend, (3, 4, 2), "identity", "squared_error", np.zeros((5, 2)), [function])


def test_signs_that_are_all_positive_are_told_from_the_loss(backend):
    X, Y = np.random.default_rng(0).normal(size=(40, 3)), np.ones((40, 1))
    net = fastbp.Network([3, 1], "tanh", "hinge", seed=0, dtype="float64", backend=backend)
    history = fastbp.Trainer(net, fastbp.SGD(1e-9)).fit(X, Y, metrics=["accuracy"], validation_data=(X[:9], Y[:9]))
    A = net.predict(X)
    assert ((A > 0) != (A > 0.5)).any(), "this no longer shows what it is to show"
    assert history.metrics == {"accuracy": [(A > 0).mean()], "validation_accuracy": [(A[:9] > 0).mean()]}


def test_a_metric_refuses_before_anything_changes(backend, monkeypatch):
    """By a row of METRICS, and by a function that has a check."""
    seen = []

    def check(kind):
        seen.append(kind)
        if kind.n_out > 1:
            raise ValueError(f"metric bias takes one output, not {kind.n_out}")

    monkeypatch.setitem(METRICS, "bias", metrics.Metric("bias", METRICS["mae"].totals, lambda errors: 0.0, check))

    def custom(A, Y):
        return 42.0

    custom.check = check
    X, Y = np.ones((8, 3)), np.zeros((8, 2))
    for metric in ("bias", custom):
        net = fastbp.Network([3, 2], "identity", seed=0, backend=backend)
        before = net.parameters.copy()
        with pytest.raises(ValueError, match="one output, not 2"):
            fastbp.Trainer(net, fastbp.SGD(0.1)).fit(X, Y, metrics=[metric])
        np.testing.assert_array_equal(net.parameters, before)
        net = fastbp.Network([3, 1], "identity", seed=0, backend=backend)
        history = fastbp.Trainer(net, fastbp.SGD(0.1)).fit(X, Y[:, :1], metrics=[metric])
        assert history.metrics == ({"bias": [0.0]} if metric == "bias" else {"custom": [42.0]})
    assert seen == [metrics.Kind(2, False, 0.5), metrics.Kind(1, False, 0.5)] * 2
