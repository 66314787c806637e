"""The NumPy twin of the engine for many networks: one member after the other, by the backend of one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["PopulationBackend"]


class PopulationBackend:
    """Prediction, losses and training of many networks of one architecture.

    Parameters
    ----------
    backend : NumpyBackend or NumbaBackend
        Of one network.

    Attributes
    ----------
    n_parameters : int
        Of one network.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.n_parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(backend.sizes))

    def training(
        self, parameters: np.ndarray, states: Any, *, updates: Sequence[Any], batch_size: int, threads: int = 0
    ) -> Callable[..., np.ndarray]:
        """Return a function that trains members in place over batches of many epochs.

        Parameters
        ----------
        parameters : (n_networks, n_parameters)
            Rows of `fastbp.update.aligned_rows`.
        states : fastbp.update.PopulationState, advanced in place.
        updates : sequence of fastbp.update.Update
            One for each network.
        batch_size : int
        threads : int
            0: as many as `set_num_threads` allows.

        Returns
        -------
        callable
            ``train(members, data, orders, order_of, first_batch, last_batch, losses)``.  members are distinct indices,
            int64; only these train.  data is a `fastbp.update.PopulationData`.  orders, int64 (n_orders, n_epochs, n),
            are rows of the data in the order in which they are trained, and member ``members[k]`` follows
            ``orders[order_of[k]]``.  It does batches first_batch ... last_batch - 1 of the first epoch,
            0 ... last_batch - 1 of the others.  The sums of the sample losses are added to `losses`, float64
            (len(members), n_epochs).  It returns the number of steps done, int64 (len(members),), which are fewer than
            asked for where the loss of the next one is not finite, unless the update skips such steps.
        """
        return partial(self._train, parameters, states, updates, batch_size, threads, {})

    def _train(
        self,
        parameters: np.ndarray,
        states: Any,
        updates: Sequence[Any],
        batch_size: int,
        threads: int,
        trainings: dict[tuple[int, int], tuple[Any, np.ndarray, Callable[..., int]]],
        members: np.ndarray,
        data: Any,
        orders: np.ndarray,
        order_of: np.ndarray,
        first_batch: int,
        last_batch: int,
        losses: np.ndarray,
    ) -> np.ndarray:
        done, n = np.zeros(len(members), np.int64), orders.shape[2]
        for k, i in enumerate(members.tolist()):
            if (i, n) not in trainings:
                state, order = states.member(i), np.empty(n, np.int64)
                train = self._backend.training(
                    parameters[i], state, batch_size=batch_size, order=order, update=updates[i], threads=threads
                )
                trainings[i, n] = state, order, train
            state, order, train = trainings[i, n]
            state.step, state.skipped = states.step.item(i), states.skipped.item(i)
            of_member = member_data(data, i)
            try:
                for epoch in range(orders.shape[1]):
                    first = first_batch if epoch == 0 else 0
                    rows = slice(first * batch_size, last_batch * batch_size)
                    order[rows] = orders[order_of[k], epoch, rows]
                    n_steps = train(*of_member, None, first, last_batch, losses[k, epoch : epoch + 1])
                    done[k] += n_steps
                    if n_steps < last_batch - first:
                        break
            finally:  # Ctrl-C may end it within an epoch
                states.step[i], states.skipped[i] = state.step, state.skipped
        return done

    def predict(self, parameters: np.ndarray, members: np.ndarray, X: np.ndarray) -> np.ndarray:
        """Return outputs (len(members), n, n_out) of finite samples, (n, n_in) or (n_networks, n, n_in)."""
        out = np.empty((len(members), X.shape[-2], self._backend.sizes[-1]), parameters.dtype)
        for k, i in enumerate(members):
            out[k] = self._backend.predict(parameters[i], X[i] if X.ndim == 3 else X)
        return out

    def losses(self, parameters: np.ndarray, members: np.ndarray, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """Return the sum of the losses of the samples, float64 (len(members),)."""
        out = np.empty(len(members))
        for k, i in enumerate(members):
            x, y, _ = member_data((X, Y, None), i)
            out[k] = self._backend.losses(parameters[i], x, y).sum()
        return out


def member_data(data: Any, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return samples, targets and weights of one member, of those that all share or of its own."""
    X, Y, weights = data
    x = X[i] if X.ndim == 3 else X
    y = Y[i] if has_own_targets(Y) else Y
    w = weights[i] if weights is not None and weights.ndim == 2 else weights
    return x, y, w


def has_own_targets(Y: np.ndarray) -> bool:
    """Whether each network has targets of its own: labels are int64, rows of targets floats."""
    return Y.ndim == 3 or Y.ndim == 2 and Y.dtype == np.int64
