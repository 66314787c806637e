"""Training over many batches and epochs: the order of the samples, dropout, noise, and the updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .. import interrupts
from ..losses import smoothing_classes
from .backprop import Backpropagation, update_parameters
from .custom import evaluated
from .layout import layer_views
from .losses import one_hot_rows
from .noise import dropout, input_noise
from .schedules import learning_rate, rate_at

__all__ = ["shuffle"]


def shuffle(random_words: np.ndarray, order: np.ndarray) -> None:
    """Fisher-Yates shuffle of 0 ... n-1 into `order` (int64), from n random 32-bit words (Knuth, TAOCP 3.4.2 P)."""
    order[...] = np.arange(len(order))
    for i in range(len(order) - 1, 0, -1):
        j = (int(random_words[i]) * (i + 1)) >> 32
        order[i], order[j] = order[j], order[i]


class NumpyBackend(Backpropagation):
    """Prediction, gradients and training of one network in plain NumPy, with the methods of the engine."""

    def training(
        self, parameters: np.ndarray, state: Any, *, batch_size: int, order: np.ndarray, update: Any, threads: int = 0
    ) -> Callable[..., int]:
        """Return a function that updates `parameters` in place over batches of many epochs; see `Trainer`.

        Parameters
        ----------
        parameters : (n_parameters,)
        state : fastbp.update.State, advanced in place.
        batch_size : int
        order : int64 (n_samples,), in and out.
        update : fastbp.update.Update
        threads : ignored.

        Returns
        -------
        callable
            ``train(X, Y, weights, random_words, first_batch, last_batch, losses)``.  X and Y are the samples and
            targets, of a stream more of them than `order` names; weights those of the samples, or None; random_words
            uint32 (n_epochs, n_samples) for the shuffles, or None.  It does batches first_batch ... last_batch - 1 of
            the first epoch, 0 ... last_batch - 1 of the others.  The sum of the sample losses of each epoch is added
            to `losses`, float64 (n_epochs,).  It returns the number of steps done, which are fewer than asked for if
            the loss of the next one is not finite.
        """
        return partial(self._train, parameters, state, batch_size, order, update)

    def _train(self, *call):
        with interrupts.deferred():  # parameters, states and step count change together
            return self._train_batches(*call)

    def _train_batches(
        self, parameters, state, batch_size, order, update, X, Y, weights, random_words, first_batch, last_batch, losses
    ):
        first_step = state.step
        for epoch in range(len(losses)):
            first = first_batch if epoch == 0 else 0
            if random_words is not None and first == 0:
                shuffle(random_words[epoch], order)
            for batch in range(first, last_batch):
                rows = order[batch * batch_size : (batch + 1) * batch_size]
                with interrupts.allowed():
                    sample_losses, gradient = self.training_gradient(
                        parameters, X[rows], Y[rows], None if weights is None else weights[rows], update, state.step
                    )
                settings = update
                if update.weighted_mean:
                    of_rows = np.ones(len(rows)) if weights is None else weights[rows].astype(np.float64)
                    settings = self._to_weighted_mean(parameters, update, of_rows, sample_losses, gradient)
                with np.errstate(over="ignore"):
                    total = losses[epoch] + sample_losses.sum()
                if np.isfinite(total):
                    losses[epoch] = total
                    self._update(parameters, state, settings, gradient)
                elif update.skips:
                    state.skipped += 1
                else:
                    losses[epoch] = total
                    return state.step - first_step
                state.step += 1
        return state.step - first_step

    def training_gradient(
        self,
        parameters: np.ndarray,
        X: np.ndarray,
        Y: np.ndarray,
        weights: np.ndarray | None,
        update: Any,
        step: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Losses of the samples and the flat gradient with input noise, label smoothing and dropout."""

        def drop(layer: int, array: np.ndarray) -> np.ndarray:
            if layer >= len(update.dropout) or not any(update.dropout):
                return array
            return evaluated(dropout, array, update.key, step, layer, update.dropout[layer], shape=array.shape)

        with np.errstate(all="ignore"):
            A0 = self.inputs(X)
            if update.input_noise:
                A0 = evaluated(input_noise, A0, update.key, step, update.input_noise, shape=A0.shape)
            if update.label_smoothing:
                K = smoothing_classes(self.loss, self.sizes[-1])
                Y = one_hot_rows(Y, np.empty((len(X), self.sizes[-1]), self.dtype))
                Y = (1 - update.label_smoothing) * Y + update.label_smoothing / K
            Z, A, kept = self.forward_with_dropout(parameters, A0, drop)
            losses, delta = self.losses_and_delta(Z, A, Y, weights)
            return losses, self.backward(parameters, Z, A, delta, kept, drop)[1]

    def _to_weighted_mean(self, parameters, update, weights, losses, gradient):
        """Divide the losses of a batch and their gradient by the weight of its samples, in place, not by their number.

        The losses then sum to what is recorded, see `fastbp.update.Update`.  Returns the settings with the penalty
        divided too.
        """
        n, weight = len(losses), float(weights.sum())
        per_weight = 1 / weight if weight else 0.0
        with np.errstate(invalid="ignore"):
            limits = update.max_loss * weights  # NaN, which nothing is above, where there is neither limit nor weight
        is_above = np.isfinite(losses) & (losses > limits)
        losses[is_above] = limits[is_above]
        squares = sum(float((W.astype(np.float64) ** 2).sum()) for W in layer_views(parameters, self.sizes)[0])
        losses *= n * per_weight * update.loss_scale
        losses[0] += n * per_weight * 0.5 * update.l2 * squares
        gradient *= n * per_weight
        return replace(update, l2=update.l2 * per_weight)

    def _update(self, parameters, state, settings, gradient):
        rate = np.empty(1)
        if callable(settings.rates):
            rate[0] = rate_at(settings.rates, state.step)
        else:
            learning_rate(settings.schedule, settings.rates, np.array([state.step]), rate)
        lr = settings.rate_scale * float(rate[0])
        with np.errstate(all="ignore"):
            update_parameters(settings, lr, state.running_products, gradient, state.buffers, parameters, self.sizes)
