"""Encodings of numeric columns, which make tables easier for networks to learn."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arguments, checks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

CHUNK = 1 << 18  # bins encoded together: no temporary grows with the data


class PiecewiseLinearEncoding:
    """Adds, for each numeric column, how far each of its quantile bins is filled, from -scale to scale.

    The edges b[0] < b[1] < ... < b[T] of a column's bins are quantiles of the training data.  The encoding of a number
    x in bin t is 2 * (x - b[t-1]) / (b[t] - b[t-1]) - 1, at least -1 and at most 1, times scale: -scale for numbers
    below the bin, scale for those above it (Gorishniy, Rubachev and Babenko, "On embeddings for numerical features in
    tabular deep learning", 2022, equation 1, there from 0 to 1 and without bounds in the outer bins).  The column
    itself stays beside it as it is; standardized before or after, it has the same encoding.  Columns of few distinct
    values are not encoded.

    Parameters
    ----------
    n_bins : int
        Bins of a column; fewer where quantiles coincide.
    max_distinct : int
        Columns of at most so many distinct values, such as 0 and 1, are not encoded.
    scale : float
        Of the encoding.  With ``n_bins ** -0.5`` the bins of a standardized column weigh together about as much as the
        column itself.

    Attributes
    ----------
    edges : list of (list of float or None)
        Edges of the bins of each column, None of one that is not encoded.  `fit` sets it.

    Raises
    ------
    ValueError, TypeError
        From every method, before anything is changed, if an argument does not fit.

    Examples
    --------
    >>> encoding = PiecewiseLinearEncoding(n_bins=2).fit(np.arange(21.0).reshape(-1, 1))
    >>> encoding.edges
    [[0.0, 10.0, 20.0]]
    >>> encoding.transform([[-3.0], [5.0], [20.0]])
    array([[-3., -1., -1.],
           [ 5.,  0., -1.],
           [20.,  1.,  1.]])
    """

    def __init__(self, n_bins: int = 16, max_distinct: int = 10, scale: float = 1.0) -> None:
        self.n_bins = arguments.integer("n_bins", n_bins)
        self.max_distinct = arguments.integer("max_distinct", max_distinct)
        self.scale = arguments.number("scale", scale, above=0)
        self._edges: list[list[float] | None] | None = None

    @property
    def edges(self) -> list[list[float] | None]:
        """Edges of the bins of each column."""
        if self._edges is None:
            raise ValueError("the encoding has no edges yet: call fit")
        return self._edges

    def fit(self, X: ArrayLike) -> PiecewiseLinearEncoding:
        """Choose the edges of every column.

        Parameters
        ----------
        X : array_like (n_samples, n_columns)
            The training data, finite numbers.

        Returns
        -------
        PiecewiseLinearEncoding
            Itself.
        """
        X = _samples(X)
        low, high = X.min(axis=0).astype(np.float64), X.max(axis=0).astype(np.float64)
        with np.errstate(over="ignore"):
            too_wide = ~np.isfinite(high - low)
        if too_wide.any():
            column = int(too_wide.argmax())
            raise ValueError(f"X[:, {column}] goes from {low[column]:g} to {high[column]:g}, too far apart for float64")
        self._set_edges([self._edges_of(np.sort(column.astype(np.float64))) for column in X.T])
        return self

    def _edges_of(self, values: np.ndarray) -> list[float] | None:
        """Return the edges of a column of sorted values."""
        if np.count_nonzero(np.diff(values)) < self.max_distinct:
            return None
        return np.unique(np.quantile(values, np.linspace(0, 1, self.n_bins + 1))).tolist()

    def _set_edges(self, edges: list[list[float] | None]) -> None:
        """Keep the edges, and the column, start and width of each bin."""
        encoded = [(column, np.array(of_column)) for column, of_column in enumerate(edges) if of_column is not None]
        self._edges = edges
        self._columns = np.array([column for column, of_column in encoded for _ in of_column[1:]], np.int64)
        self._starts = np.concatenate([np.empty(0), *(of_column[:-1] for _, of_column in encoded)])
        self._widths = np.concatenate([np.empty(0), *(np.diff(of_column) for _, of_column in encoded)])

    @property
    def n_outputs(self) -> int:
        """Number of columns that `transform` returns."""
        return len(self.edges) + len(self._columns)

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Encode samples.

        Parameters
        ----------
        X : array_like (n_samples, n_columns)
            Finite numbers.

        Returns
        -------
        ndarray (n_samples, n_outputs)
            The columns of X, then the bins of the first column that is encoded, and so on; float32 where X is float32,
            else float64.
        """
        n = len(self.edges)
        X = _samples(X, n)
        out = np.empty((len(X), self.n_outputs), np.float32 if X.dtype == np.float32 else np.float64)
        out[:, :n] = X
        n_rows = max(1, CHUNK // out.shape[1])
        for first in range(0, len(X), n_rows):
            some = slice(first, first + n_rows)
            bins = X[some].astype(np.float64).take(self._columns, axis=1)
            with np.errstate(over="ignore"):  # far from a narrow bin
                bins -= self._starts
                bins /= self._widths
            np.clip(bins, 0, 1, out=bins)
            bins *= 2
            bins -= 1
            bins *= self.scale
            out[some, n:] = bins
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return the settings and edges, as JSON can hold them; `from_dict` reads them."""
        return {**self._settings(), "edges": self.edges}

    def _settings(self) -> dict[str, Any]:
        return {"n_bins": self.n_bins, "max_distinct": self.max_distinct, "scale": self.scale}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PiecewiseLinearEncoding:
        """Return the fitted encoding that `to_dict` described; a ValueError or TypeError names what is wrong."""
        names = ["n_bins", "max_distinct", "scale", "edges"]
        if not isinstance(values, Mapping) or sorted(values) != sorted(names):
            raise ValueError(f"the encoding must be a dict of {', '.join(names)}, got {reprlib.repr(values)}")
        edges = values["edges"]
        encoding = cls(values["n_bins"], values["max_distinct"], values["scale"])
        if not _is_list(edges):
            raise TypeError(f"edges must be a list, got {reprlib.repr(edges)}")
        encoding._set_edges([_checked(f"edges[{column}]", of_column) for column, of_column in enumerate(edges)])
        return encoding

    def __eq__(self, other: object) -> bool:
        """Whether it has the same settings and edges."""
        if not isinstance(other, PiecewiseLinearEncoding):
            return NotImplemented
        return self._settings() == other._settings() and self._edges == other._edges

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return the call that makes one with these settings."""
        return f"PiecewiseLinearEncoding(n_bins={self.n_bins}, max_distinct={self.max_distinct}, scale={self.scale:g})"


def _samples(X: ArrayLike, n_columns: int | None = None) -> np.ndarray:
    """Check samples: float32, float64 or uint8 (n_samples, n_columns)."""
    shape = np.shape(X)
    if len(shape) == 2 and shape[1] != (shape[1] if n_columns is None else n_columns):
        raise ValueError(f"X has {shape[1]} columns (shape {shape}), but the encoding was fitted to {n_columns}")
    return checks.samples(X, (n_columns or shape[-1]) if shape else 1, np.dtype(np.float64))


def _checked(name: str, edges: Any) -> list[float] | None:
    """Check the edges of a column from a file."""
    if edges is None:
        return None
    if not _is_list(edges) or len(edges) < 2:
        raise ValueError(f"{name} must be null or a list of two or more numbers, got {reprlib.repr(edges)}")
    result = [arguments.number(f"{name}[0]", edges[0])]
    for i, edge in enumerate(edges[1:], start=1):
        result.append(arguments.number(f"{name}[{i}]", edge, above=result[-1]))
    return result


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
