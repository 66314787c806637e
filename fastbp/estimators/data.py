"""Samples, targets and weights of an estimator in the form that kernels take, dense or sparse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..losses import Loss, Parameterized, name_of
from ..network import Network
from ..reference.layout import layer_views

DENSE_NUMBERS = 1 << 22  # of sparse samples that are made dense together outside training


class Data(NamedTuple):
    """Samples (n, n_in), an array or a sparse matrix in CSR; targets (n, n_out) or labels (n,); weights (n,) or None.

    Dense samples, targets and weights have the dtype of the network and lie in C order.
    """

    X: Any
    Y: np.ndarray
    weights: np.ndarray | None = None

    @property
    def is_sparse(self) -> bool:
        """Whether the samples are a sparse matrix."""
        return not isinstance(self.X, np.ndarray)

    def rows(self, rows: np.ndarray) -> Data:
        """Return some of the samples, copied."""
        return Data(self.X[rows], self.Y[rows], None if self.weights is None else self.weights[rows])

    def parts(self) -> Iterator[Data]:
        """Yield dense data, in parts where these are sparse."""
        if not self.is_sparse:
            yield self
            return
        for rows in chunks(self.X):
            weights = None if self.weights is None else self.weights[rows]
            yield Data(dense(self.X[rows]), self.Y[rows], weights)


def chunks(X: Any) -> Iterator[slice]:
    """Yield slices of rows that may be made dense together."""
    n_rows = max(1, DENSE_NUMBERS // X.shape[1])
    for start in range(0, X.shape[0], n_rows):
        yield slice(start, start + n_rows)


def dense(X: Any) -> np.ndarray:
    """Return a sparse matrix as an array in C order."""
    return np.ascontiguousarray(X.toarray())


def outputs(net: Network, X: Any) -> np.ndarray:
    """Return the outputs of a network, of validated samples, dense or sparse."""
    if isinstance(X, np.ndarray):
        return net.predict(X)
    return np.concatenate([net.predict(dense(X[rows])) for rows in chunks(X)])


class Objective(NamedTuple):
    """The loss of a network in scikit-learn's terms.

    Parameters
    ----------
    net : Network
    scale : float
        Factor of the sample losses.
    limit : float
        Upper limit of each of them.
    """

    net: Network
    scale: float
    limit: float

    def value_and_outputs(self, data: Data) -> tuple[float, np.ndarray]:
        """Return the weighted mean of the losses, without the penalty, and the outputs."""
        net, found = self.net, []
        for part in data.parts():
            found.append(net._backend.outputs_and_losses(net.parameters, part.X, part.Y))
        A, losses = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        losses = np.minimum(losses, self.limit) * self.scale
        return float(np.average(losses, weights=data.weights)) + self._constant(data), A

    def value_and_gradient(self, data: Data, alpha: float) -> tuple[float, np.ndarray]:
        """Return the weighted mean of the losses with the penalty, and its flat gradient in float64."""
        net = self.net
        weight = len(data.Y) if data.weights is None else data.weights.sum(dtype=np.float64)
        total, gradient = 0.0, np.zeros(net.parameters.size)
        for part in data.parts():
            losses, of_part = net._backend.gradient(net.parameters, part.X, part.Y, part.weights)
            if self.limit < np.inf:
                limits = self.limit if part.weights is None else self.limit * part.weights
                losses = np.where(limits < 0, np.maximum(losses, limits), np.minimum(losses, limits))
            total += float(losses.sum())
            gradient += of_part.astype(np.float64) * len(part.Y)
        squares = 0.0
        for W, dW in zip(net.weights, layer_views(gradient, net.sizes)[0], strict=True):
            squares += float(np.square(W, dtype=np.float64).sum())
            dW += alpha * W
        penalty = 0.5 * alpha * squares
        return (total * self.scale + penalty) / weight + self._constant(data), gradient / weight

    def _constant(self, data: Data) -> float:
        """Return the weighted mean of what the losses of this library leave out, being the same for all outputs."""
        if name_of(self.net._config.loss) != "poisson":
            return 0.0
        return float(np.average(poisson_constants(data.Y), weights=data.weights))


def poisson_constants(Y: np.ndarray) -> np.ndarray:
    """Return what the half deviance of each sample has besides A - Y log A: the sum of Y log Y - Y over its outputs."""
    Y = Y.astype(np.float64)
    return (Y * np.log(np.where(Y > 0, Y, 1)) - Y).sum(axis=1)


def loss_limit(loss: str | Parameterized | Loss, n_outputs: int, dtype: np.dtype) -> float:
    """Return the largest loss of a sample, as scikit-learn clips probabilities to the rounding unit and 1 minus it.

    Where classes exclude each other this is the same; of several labels each would have a limit of its own.
    """
    is_clipped = name_of(loss) == "cross_entropy" or (name_of(loss) == "binary_cross_entropy" and n_outputs == 1)
    return float(-np.log(np.finfo(dtype).eps)) if is_clipped else np.inf


def accuracy(A: np.ndarray, data: Data) -> float:
    """Return the weighted fraction of samples whose classes, or all of whose labels, are right."""
    if data.Y.ndim == 1:
        right = A.argmax(axis=1) == data.Y
    else:
        right = ((A > 0.5) == (data.Y > 0.5)).all(axis=1)
    return float(np.average(right, weights=data.weights))


def r2(A: np.ndarray, data: Data) -> float:
    """Return the coefficient of determination, averaged over the outputs; NaN where an output is not finite."""
    if not np.isfinite(A).all():
        return float("nan")
    Y, A = data.Y.astype(np.float64), A.astype(np.float64)
    w = np.ones((len(Y), 1)) if data.weights is None else data.weights[:, None].astype(np.float64)
    residual = (w * (Y - A) ** 2).sum(axis=0)
    total = (w * (Y - np.average(Y, axis=0, weights=w[:, 0])) ** 2).sum(axis=0)
    scores = np.where(residual == 0, 1.0, 0.0)  # of constant targets
    varies = total != 0
    scores[varies] = 1 - residual[varies] / total[varies]
    return float(scores.mean())
