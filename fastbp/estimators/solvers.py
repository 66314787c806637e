"""How an estimator trains: epochs of batches in scikit-learn's orders, its learning rates, and L-BFGS of SciPy."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..engine import limits
from ..losses import name_of
from ..network import Network
from ..training.trainer import Trainer
from ..update import State, Update
from .data import Data, Objective, dense, poisson_constants

MIN_LEARNING_RATE = 1e-6  # at which the mode "adaptive" ends the training
DIVISOR = 5.0  # of the learning rate in the mode "adaptive"


class LearningRate:
    """The learning rate from epoch to epoch.

    Parameters
    ----------
    mode : "constant", "invscaling" or "adaptive"
    initial, power_t : float
        As of the estimator.

    Attributes
    ----------
    learning_rate : float
        That of the next epoch.
    """

    def __init__(self, mode: str, initial: float, power_t: float) -> None:
        self.mode, self.initial, self.power_t = mode, float(initial), power_t
        self.learning_rate = self.initial

    def is_like(self, other: LearningRate) -> bool:
        """Whether the other has the same settings."""
        return (self.mode, self.initial, self.power_t) == (other.mode, other.initial, other.power_t)

    def end_epoch(self, n_seen: int) -> None:
        """Take the number of samples that were trained so far."""
        if self.mode == "invscaling":
            self.learning_rate = self.initial / (n_seen + 1) ** self.power_t

    def is_exhausted(self) -> bool:
        """Whether training ends where it does not improve any more; otherwise the rate is lowered."""
        if self.mode != "adaptive" or self.learning_rate <= MIN_LEARNING_RATE:
            return True
        self.learning_rate /= DIVISOR
        return False


def moved(trainer: Trainer, net: Network) -> Trainer:
    """Return a trainer that goes on, where this one is, with another network of the same sizes."""
    state, kept = State.__new__(State), trainer.state.__getstate__()
    state.__setstate__({**kept, "buffers": kept["buffers"].astype(net.dtype)})
    result = copy.copy(trainer)
    vars(result).update(net=net, state=state)  # which the user cannot replace
    return result


class Epochs:
    """Trains a network on some rows of the data, one epoch at a time.

    Parameters
    ----------
    trainer : Trainer
        Whose network, optimizer, state and settings are used.
    data : Data
    order : int64 ndarray (n,)
        The rows to train on, in their order; shuffled in place.
    batch_size : int
    alpha : float
        Penalty: alpha / 2 * sum W**2, divided by the weight of the samples of a batch.
    objective : Objective

    Attributes
    ----------
    order : int64 ndarray (n,)
        That of the last epoch.
    batch_size : int
    data : Data
    """

    def __init__(
        self, trainer: Trainer, data: Data, order: np.ndarray, batch_size: int, alpha: float, objective: Objective
    ) -> None:
        self._trainer, self.data, self._alpha, self._objective = trainer, data, alpha, objective
        self.order, self.batch_size = order, batch_size
        self._n_batches = -(-len(order) // batch_size)
        self._settings: Update | None = None
        self._update: Update | None = None
        self._learning_rate = np.nan
        self._trainings: dict[int, Callable[..., int]] = {}  # by the number of rows of a batch, of sparse samples
        work = 3 * trainer.net.parameters.size * batch_size
        self._batches_of_call = max(1, limits.INTERRUPTIBLE_WORK // work)  # so that Ctrl-C is heard
        is_poisson = name_of(trainer.net._config.loss) == "poisson"
        self._constants = poisson_constants(data.Y) if is_poisson else None

    def shuffle(self, random_state: np.random.RandomState) -> None:
        """Draw a new order, which permutes the last one."""
        self.order[:] = self.order[random_state.permutation(len(self.order))]

    def train(self, learning_rate: float, after_batch: Callable[[float], bool] | None = None) -> float:
        """Train one epoch; return its loss, which is not finite where training diverged: the rest is left out then.

        Parameters
        ----------
        learning_rate : float
        after_batch : function (loss) -> bool, optional
            Called after each batch; True ends the epoch.
        """
        self._prepare(learning_rate)
        total, n_at_once = 0.0, 1 if after_batch or self.data.is_sparse else self._batches_of_call
        for first in range(0, self._n_batches, n_at_once):
            last = min(first + n_at_once, self._n_batches)
            loss = self._batches(first, last)
            total += loss
            if not math.isfinite(total):
                return total
            if after_batch and after_batch(loss / min(self.batch_size, len(self.order) - first * self.batch_size)):
                break
        return self.mean_loss(total, self.order)

    def mean_loss(self, total: float, order: np.ndarray) -> float:
        """Return the loss of an epoch in this order, of which the kernels recorded `total`."""
        return total / len(order) + self._constant(order)

    def update(self, learning_rate: float) -> Update:
        """Return what the kernels are told, with the settings of the trainer, which callbacks may change."""
        settings = self._trainer._update()
        if self._update is not None and settings is self._settings and learning_rate == self._learning_rate:
            return self._update
        self._settings, self._learning_rate = settings, learning_rate
        self._update = replace(
            settings,
            rates=(learning_rate,),
            schedule="constant",
            l2=self._alpha,
            weighted_mean=True,
            loss_scale=self._objective.scale,
            max_loss=self._objective.limit,
        )
        return self._update

    def _prepare(self, learning_rate: float) -> None:
        """Make the functions that train, where a setting has changed."""
        before = self._update
        if self.update(learning_rate) is before:
            return
        self._trainings = {}
        if not self.data.is_sparse:
            self._training = self._make_training(self.order, self.batch_size)

    def _make_training(self, order: np.ndarray, batch_size: int) -> Callable[..., int]:
        trainer = self._trainer
        return trainer.net._backend.training(
            trainer.net.parameters,
            trainer.state,
            batch_size=batch_size,
            order=order,
            update=self._update,
            threads=trainer.threads or 0,
        )

    def _batches(self, first: int, last: int) -> float:
        """Train batches `first` up to `last`, which is one of sparse samples; return the sum of their losses."""
        X, Y, weights = self.data
        losses = np.zeros(1)
        if self.data.is_sparse:
            rows = self.order[first * self.batch_size : last * self.batch_size]
            training = self._trainings.get(len(rows))
            if training is None:
                training = self._make_training(np.arange(len(rows)), len(rows))
                self._trainings[len(rows)] = training
            n_steps = training(dense(X[rows]), Y[rows], None if weights is None else weights[rows], None, 0, 1, losses)
        else:
            n_steps = self._training(X, Y, weights, None, first, last, losses)
        return losses.item() if n_steps == last - first else math.nan

    def _constant(self, order: np.ndarray) -> float:
        """Return what the loss of an epoch has besides what the kernels record of it."""
        if self._constants is None:
            return 0.0
        values, n = self._constants[order], len(order)
        if self.data.weights is None:
            return float(values.mean())
        weights, starts = self.data.weights[order].astype(np.float64), np.arange(0, n, self.batch_size)
        sums, of_weights = np.add.reduceat(values * weights, starts), np.add.reduceat(weights, starts)
        rows = np.diff(np.append(starts, n))
        return float((rows[of_weights > 0] * sums[of_weights > 0] / of_weights[of_weights > 0]).sum() / n)


def minimize(
    objective: Objective,
    data: Data,
    alpha: float,
    *,
    max_iter: int,
    max_fun: int,
    tol: float,
    after: Callable[[int, float], None],
) -> Any:
    """Minimize over all samples by SciPy's L-BFGS-B, leaving the minimum in the network; return SciPy's result.

    Parameters
    ----------
    objective : Objective
    data : Data
    alpha : float
    max_iter, max_fun, tol
        As of the estimator.
    after : function (iteration, loss)
        Called after each iteration; the network holds the iterate.
    """
    import scipy.optimize

    parameters, n_iterations, last_loss = objective.net.parameters, 0, np.nan

    def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal last_loss
        with np.errstate(all="ignore"):
            parameters[:] = x
            last_loss, gradient = objective.value_and_gradient(data, alpha)
        return last_loss, gradient

    def callback(x: np.ndarray) -> None:
        nonlocal n_iterations
        n_iterations += 1
        parameters[:] = x
        after(n_iterations, last_loss)

    result = scipy.optimize.minimize(
        evaluate,
        parameters.astype(np.float64),
        method="L-BFGS-B",
        jac=True,
        callback=callback,
        options={"maxfun": max_fun, "maxiter": max_iter, "gtol": tol},
    )
    parameters[:] = result.x
    return result
