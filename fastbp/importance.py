"""Which columns of a table a model needs: how much worse it predicts when one is shuffled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from . import arguments
from .datasets.dataset import Column
from .scores import regression_errors

__all__ = ["Importance", "permutation_importance"]


class Importance(NamedTuple):
    """What `permutation_importance` found.

    Attributes
    ----------
    columns : tuple of str
        Names of the columns, in the order of the table, without those that are no features.
    mean, std : float64 ndarray (n_columns,)
        Loss of score when a column is shuffled: mean and standard deviation over the repeats.
    score : float
        Of the samples as they are.
    metric : str
        What the score is: "accuracy" or "R2".
    """

    columns: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    score: float
    metric: str


def permutation_importance(
    predict: Callable[[np.ndarray], np.ndarray],
    X: np.ndarray,
    y: np.ndarray,
    columns: Sequence[Column | str] | None = None,
    *,
    are_classes: bool,
    n_repeats: int = 10,
    seed: arguments.Seed = 0,
) -> Importance:
    """Measure how much worse a model predicts when the values of one column are shuffled among the samples.

    The features that were made of a column (of its categories, of the parts of a date, of its missing values) are
    shuffled together, by the same permutation.  Of columns that say the same, a model may need any one: each alone
    then loses little.  Take samples that the model was not trained on.  The permutations are the same for every model
    (L. Breiman, Random forests, Machine Learning 45, 2001, section 10).

    Parameters
    ----------
    predict : function (ndarray (n_samples, n_features)) -> ndarray
        Returns the class index of each sample, (n_samples,), or numbers, (n_samples,) or (n_samples, n_out).  Its
        argument is valid only during the call.
    X : ndarray (n_samples, n_features)
        Two samples or more; not changed.
    y : ndarray
        What `predict` should return.
    columns : sequence of Column or str, optional
        Columns that the features are made of, as in `fastbp.datasets.Dataset`; a name is a column of one feature.
        None: each feature is a column, and its number is its name.
    are_classes : bool
        Whether y are class indices: the score is the accuracy then, and otherwise R2, of several outputs the mean
        over those that differ between samples.
    n_repeats : int
        Permutations of each column.
    seed : None, int, SeedSequence or Generator
        Of the permutations.

    Returns
    -------
    Importance

    Raises
    ------
    ValueError
        If the arguments do not fit each other, or numbers y are all equal.

    Examples
    --------
    >>> X = np.arange(20.0).reshape(10, 2)
    >>> permutation_importance(lambda X: 3 * X[:, 0], X, 3 * X[:, 0], ["a", "b"], are_classes=False).mean[1]
    0.0
    """
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim != 2 or len(X) < 2 or len(y) != len(X):
        raise ValueError(
            f"X and y must have the same two or more samples, (n_samples, n_features) and (n_samples, ...), "
            f"got shapes {X.shape} and {y.shape}"
        )
    arguments.integer("n_repeats", n_repeats)
    if columns is None:
        columns = [str(j) for j in range(X.shape[1])]
    described = [Column(column) if isinstance(column, str) else column for column in columns]
    ends = np.cumsum([column.n_features for column in described])
    if not len(described) or ends[-1] != X.shape[1]:
        raise ValueError(f"columns make {ends[-1] if len(ends) else 0} features, but X has {X.shape[1]}")
    as_rows = y.reshape(len(y), -1)
    if not are_classes and (y == y[0]).all():
        raise ValueError("y must differ between samples: R2 is not defined for numbers that are all equal")

    def score(X: np.ndarray) -> float:
        predicted = np.asarray(predict(X))
        if are_classes:
            return float((predicted == y).mean())
        of_outputs = regression_errors(as_rows, predicted.reshape(as_rows.shape))
        return float(np.mean([r2 for _, r2 in of_outputs if r2 is not None]))

    rng = arguments.generator("seed", seed)
    permutations = [rng.permutation(len(X)) for _ in range(n_repeats)]
    of_all, shuffled = score(X), X.copy()
    losses = []
    for column, end in zip(described, ends, strict=True):
        if column.n_features:
            features = slice(end - column.n_features, end)
            of_column = []
            for permutation in permutations:
                shuffled[:, features] = X[permutation, features]
                of_column.append(of_all - score(shuffled))
            shuffled[:, features] = X[:, features]
            losses.append((column.name, of_column))
    names, values = zip(*losses, strict=True)
    found = np.array(values)
    return Importance(names, found.mean(axis=1), found.std(axis=1), of_all, "accuracy" if are_classes else "R2")
