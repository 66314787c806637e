"""Piecewise-linear encodings of numeric columns."""

import doctest
import json
import pickle

import numpy as np
import pytest

import fastbp
from fastbp import encodings
from fastbp.encodings import CHUNK, PiecewiseLinearEncoding

RNG = np.random.default_rng(0)


def table(n=500, dtype=np.float64):
    """Columns: normal, 0 and 1, skew, ten values, eleven values, mostly 0, constant."""
    eleven = np.arange(n) % 11
    mostly_0 = np.where(np.arange(n) % 10 == 0, np.arange(n), 0)
    columns = [RNG.normal(size=n), np.arange(n) % 2, np.exp(3 * RNG.normal(size=n)), np.minimum(eleven, 9), eleven]
    return np.stack([*columns, mostly_0, np.full(n, 3)], axis=1).astype(dtype)


def by_hand(x, edges):
    """The encoding of one number, case by case as in the paper, from -1 to 1."""
    result = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        result.append(-1.0 if x <= low else 1.0 if x >= high else 2 * (x - low) / (high - low) - 1)
    return result


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_bins", [1, 2, 16, 37])
def test_columns_and_bins(n_bins, dtype):
    X, new = table(dtype=dtype), 2 * table(n=CHUNK // 40 + 3, dtype=dtype)
    encoding = PiecewiseLinearEncoding(n_bins).fit(X)
    assert [edges is not None for edges in encoding.edges] == [True, False, True, False, True, True, False]
    out, before = encoding.transform(new), new.copy()
    assert out.dtype == dtype and out.shape == (len(new), encoding.n_outputs)
    np.testing.assert_array_equal(out[:, :7], new)
    np.testing.assert_array_equal(new, before)
    at = 7
    for column, edges in enumerate(encoding.edges):
        if edges is not None:
            assert edges[0] == X[:, column].min() and edges[-1] == X[:, column].max()
            assert len(edges) == n_bins + 1 or column in (4, 5)
            bins = out[:, at : at + len(edges) - 1]
            for row in (*range(0, len(new), 97), len(new) - 1):
                np.testing.assert_allclose(bins[row], by_hand(float(new[row, column]), edges), 1e-6, 1e-6)
            assert bins.min() >= -1 and bins.max() <= 1
            at += len(edges) - 1
    assert at == out.shape[1]


def test_bins_hold_equal_numbers_of_samples():
    X = RNG.exponential(size=(1601, 1))
    encoding = PiecewiseLinearEncoding().fit(X)
    counts, _ = np.histogram(X, encoding.edges[0])
    assert len(counts) == 16 and abs(counts - 100).max() <= 1


def test_equal_quantiles_make_one_bin():
    X = np.concatenate([np.zeros(900), np.arange(1, 101)])[:, None]
    (edges,) = PiecewiseLinearEncoding(20).fit(X).edges
    np.testing.assert_allclose(edges, [0, 0.1, 50.05, 100], 1e-9)  # 18 of the 20 bins would be of zeros alone


def test_standardizing_does_not_change_the_bins():
    X = table()
    scaled = (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-300)
    one, other = (PiecewiseLinearEncoding().fit(data).transform(data)[:, 7:] for data in (X, scaled))
    np.testing.assert_allclose(one, other, 1e-9, 1e-9)


def test_max_distinct():
    X = (np.arange(100) % 10)[:, None]
    assert PiecewiseLinearEncoding().fit(X).edges == [None]
    assert PiecewiseLinearEncoding().fit(X + (np.arange(100) == 50)[:, None] * 100).edges != [None]
    encoding = PiecewiseLinearEncoding(3, max_distinct=9).fit(X)
    assert encoding.edges == [[0, 3, 6, 9]]
    np.testing.assert_allclose(encoding.transform([[4], [-1]]), [[4, 1, -1 / 3, -1], [-1, -1, -1, -1]], 1e-15)


@pytest.mark.parametrize(
    "data",
    [
        np.arange(24, dtype=np.uint8).reshape(12, 2),
        np.arange(24).reshape(12, 2).tolist(),
        np.asfortranarray(np.arange(24.0).reshape(12, 2)),
    ],
    ids=["uint8", "list", "columns"],
)
def test_any_numbers(data):
    encoding = PiecewiseLinearEncoding(2).fit(data)
    assert encoding.edges == [[0, 11, 22], [1, 12, 23]]
    out = encoding.transform(data)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out[-1], [22, 23, 1, 1, 1, 1])


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(30), "b": np.arange(30) % 2})
    encoding, other = (PiecewiseLinearEncoding(4).fit(data) for data in (frame, frame.to_numpy()))
    assert encoding == other and encoding.edges[1] is None
    np.testing.assert_array_equal(encoding.transform(frame), encoding.transform(frame.to_numpy()))


def test_what_is_not_encoded_and_few_rows():
    X = table()[:, [1, 6]]
    encoding = PiecewiseLinearEncoding().fit(X)
    assert encoding.n_outputs == 2
    np.testing.assert_array_equal(encoding.transform(X), X)
    assert PiecewiseLinearEncoding().fit(X[:1]).transform(X[:1]).shape == (1, 2)


def test_large_and_tiny_numbers():
    X = np.linspace(0, 5e-324 * 30, 31)[:, None]
    out = PiecewiseLinearEncoding(3).fit(X).transform([[0.0], [1.0], [-1e308], [1e-322]])
    assert np.isfinite(out).all() and (out[1, 1:] == 1).all() and (out[2, 1:] == -1).all()
    encoding = PiecewiseLinearEncoding(2).fit(np.linspace(-8e307, 8e307, 21)[:, None])
    np.testing.assert_allclose(encoding.transform([[4e307], [1.7e308]])[:, 1:], [[1, 0], [1, 1]])


def test_json_and_pickles():
    X, encoding = table(), PiecewiseLinearEncoding(5, max_distinct=3, scale=0.5).fit(table())
    again = PiecewiseLinearEncoding.from_dict(json.loads(json.dumps(encoding.to_dict())))
    assert again == encoding == pickle.loads(pickle.dumps(encoding)) != PiecewiseLinearEncoding(5, max_distinct=3)
    assert repr(again) == "PiecewiseLinearEncoding(n_bins=5, max_distinct=3, scale=0.5)"
    assert again.transform(X).tobytes() == encoding.transform(X).tobytes()
    assert encoding != PiecewiseLinearEncoding(5, max_distinct=3, scale=0.5).fit(2 * X)
    assert encoding != PiecewiseLinearEncoding(5, max_distinct=3).fit(X)


def test_the_scale_is_of_the_bins_alone():
    X = table()
    plain, scaled = (PiecewiseLinearEncoding(5, scale=scale).fit(X).transform(X) for scale in (1.0, 0.25))
    n = X.shape[1]
    np.testing.assert_array_equal(scaled, np.hstack([plain[:, :n], 0.25 * plain[:, n:]]))
    assert np.abs(scaled[:, n:]).max() == 0.25


def test_a_network_learns_a_step_from_it():
    """One layer cannot fit a step of x, but it can fit it from the bins of x."""
    x = np.linspace(-1, 1, 400)[:, None]
    Y = (np.abs(x) < 0.4).astype(float)
    losses = []
    for X in (x, PiecewiseLinearEncoding().fit(x).transform(x)):
        net = fastbp.Network([X.shape[1], 1], loss="binary_cross_entropy", seed=0)
        losses.append(fastbp.Trainer(net, fastbp.LBFGS()).fit(X, Y, epochs=100, progress=False).loss[-1])
    assert losses[1] < 0.3 * losses[0]


EDGES = {"n_bins": 4, "max_distinct": 10, "scale": 1.0, "edges": [None, [0.0, 1.0]]}


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: PiecewiseLinearEncoding(0), ValueError, "n_bins must be at least 1, got 0"),
        (lambda: PiecewiseLinearEncoding(2.0), TypeError, "n_bins must be an integer, got 2.0"),
        (lambda: PiecewiseLinearEncoding(max_distinct=0), ValueError, "max_distinct must be at least 1"),
        (lambda: PiecewiseLinearEncoding(scale=0), ValueError, "scale must be above 0"),
        (lambda: PiecewiseLinearEncoding().edges, ValueError, "call fit"),
        (lambda: PiecewiseLinearEncoding().transform([[1.0]]), ValueError, "call fit"),
        (lambda: PiecewiseLinearEncoding().to_dict(), ValueError, "call fit"),
        (lambda: PiecewiseLinearEncoding().fit([1.0, 2.0]), ValueError, r"X must be 2-D"),
        (lambda: PiecewiseLinearEncoding().fit(3.0), ValueError, r"X must be 2-D"),
        (lambda: PiecewiseLinearEncoding().fit(np.empty((0, 2))), ValueError, "X is empty"),
        (lambda: PiecewiseLinearEncoding().fit([[1.0], [np.nan]]), ValueError, r"X\[1, 0\] is nan"),
        (lambda: PiecewiseLinearEncoding().fit([["a"]]), TypeError, "X must hold real numbers"),
        (lambda: PiecewiseLinearEncoding().fit([[0, -1e308], [0, 1e308]]), ValueError, r"X\[:, 1\] goes from -1e\+308"),
        (
            lambda: PiecewiseLinearEncoding().fit(table()).transform(table()[:, 1:]),
            ValueError,
            "6 columns .* fitted to 7",
        ),
        (
            lambda: PiecewiseLinearEncoding.from_dict({}),
            ValueError,
            "a dict of n_bins, max_distinct, scale, edges, got {}",
        ),
        (lambda: PiecewiseLinearEncoding.from_dict({**EDGES, "edges": 3}), TypeError, "edges must be a list, got 3"),
        (
            lambda: PiecewiseLinearEncoding.from_dict({**EDGES, "edges": [[1]]}),
            ValueError,
            r"edges\[0\] must be null or",
        ),
        (
            lambda: PiecewiseLinearEncoding.from_dict({**EDGES, "edges": [None, [0, 1, 1]]}),
            ValueError,
            r"edges\[1\]\[2\] must be above 1, got 1",
        ),
        (
            lambda: PiecewiseLinearEncoding.from_dict({**EDGES, "edges": [[0, np.inf]]}),
            ValueError,
            r"edges\[0\]\[1\] must",
        ),
        (lambda: PiecewiseLinearEncoding.from_dict({**EDGES, "n_bins": "4"}), TypeError, "n_bins must be an integer"),
    ],
)
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_refused_fit_changes_nothing():
    encoding = PiecewiseLinearEncoding().fit(table())
    edges = [None if e is None else list(e) for e in encoding.edges]
    with pytest.raises(ValueError, match="is inf"):
        encoding.fit([[np.inf]])
    assert encoding.edges == edges and PiecewiseLinearEncoding.from_dict(EDGES).edges == EDGES["edges"]


def test_examples():
    found = doctest.testmod(encodings, extraglobs={"np": np})
    assert found.attempted > 2 and not found.failed
