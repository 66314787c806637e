"""One call of `PopulationTrainer.fit`: its arguments, its epochs, and which networks stop when."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import arguments, checks, interrupts
from ..backends import kernels_of
from ..callbacks import Callbacks, CSVLogger, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau, TensorBoard
from ..losses import row_of
from ..metrics import Measures, named, returned_number
from ..reference.population import has_own_targets
from ..update import PopulationState
from .population_data import (
    Evaluation,
    check_memory,
    checked_data,
    checked_folds,
    checked_weights,
)
from .population_history import PopulationHistory
from .population_orders import check_order, checked_rows
from .population_run import PopulationRun
from .progress import progress_bar
from .run import Watch
from .streams import Stream

# Callbacks that follow one series of numbers, or one network, and what to use instead.
REFUSED = {
    EarlyStopping: "use patience=, min_delta= and restore_best= of fit",
    ReduceLROnPlateau: "set trainer.lr_scale in a callback of your own",
    ModelCheckpoint: "save networks in a callback of your own, or use callbacks.Checkpoint",
    CSVLogger: "the history has the losses of all networks as arrays",
    TensorBoard: "the history has the losses of all networks as arrays",
}
ADVICE = "take fewer networks at a time, smaller data, or keep_predictions=False"


class PopulationCallbacks(Callbacks):
    """The callbacks of a call of `PopulationTrainer.fit`.

    Attributes
    ----------
    ended : str or None
        Name of the first that ended the training.
    """

    def __init__(self, given: Any) -> None:
        super().__init__(given)
        self.ended: str | None = None
        for i, callback in enumerate(given):
            for kind, advice in REFUSED.items():
                if isinstance(callback, kind):
                    raise TypeError(f"callbacks[{i}]: {kind.__name__} follows one network, not a Population: {advice}")
        if self.sees_batches:
            raise TypeError("a Population calls no on_batch_end: its networks train many batches in one native call")

    def call(self, event: str, trainer: Any, history: Any, *arguments: Any) -> None:
        """Call all that have this method; keep the name of the first that ends the training."""
        for name, method in self._methods[event]:
            ends = method(trainer, history, *arguments)
            if event == "on_train_end":
                continue
            trainer.stop_training = trainer.stop_training or bool(ends)
            if trainer.stop_training and self.ended is None:
                self.ended = name


class PopulationFit:
    """One call of `PopulationTrainer.fit`: its arguments, checked when it is made, and its epochs.

    Parameters
    ----------
    trainer : PopulationTrainer
    copies : int
        How many networks in a row are copies of one, which halving ends together.
    others : as for `PopulationTrainer.fit`

    Attributes
    ----------
    has_begun : bool
        Whether the callbacks know of it, and have their states from a checkpoint.
    """

    def __init__(
        self,
        trainer: Any,
        X: Any,
        Y: Any,
        *,
        epochs: Any,
        validation_data: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        metrics: Any = (),
        callbacks: Any = (),
        progress: Any = None,
        order: Any = None,
        train_rows: Any = None,
        validation_rows: Any = None,
        halving: Any = None,
        patience: Any = None,
        min_delta: Any = 0.0,
        restore_best: Any = True,
        validation_loss: Any = None,
        keep_predictions: Any = False,
        copies: int = 1,
        extra_memory: dict[str, int] | None = None,
    ) -> None:
        pop = trainer.pop
        n = len(pop)
        self._trainer, self._pop, self._copies, self.has_begun = trainer, pop, copies, False
        check_writable(pop, trainer.states)
        self._epochs = arguments.integer("epochs", epochs)
        if isinstance(X, Stream):
            raise TypeError("X is a stream: a Population takes arrays")
        data = checked_data(pop, X, Y)
        n_samples = data.X.shape[-2]
        rows = checked_rows("train_rows", train_rows, n, n_samples)
        data = data._replace(weights=checked_weights(pop, data, rows, sample_weight, class_weight))
        self._evaluations: list[tuple[str, Evaluation]] = [("", Evaluation(pop, data, rows))]
        self._validation: Evaluation | None = None
        if validation_data is not None or validation_rows is not None:
            of_validation = data
            if validation_data is not None:
                Xv, Yv = checks.validation_pair(validation_data)
                of_validation = checked_data(pop, Xv, Yv, "validation_data: ")
            of_network = checked_rows("validation_rows", validation_rows, n, of_validation.X.shape[-2])
            self._validation = Evaluation(pop, of_validation, of_network)
            self._evaluations.append(("validation_", self._validation))
        self._order = check_order(order, trainer._seed, trainer._order)
        self._halving = None if halving is None else arguments.integer("halving", halving, at_least=2)
        self._patience = None if patience is None else arguments.integer("patience", patience)
        self._min_delta = arguments.number("min_delta", min_delta, at_least=0)
        self._restores = arguments.flag("restore_best", restore_best) and self._patience is not None
        if self._patience is not None and self._validation is None:
            raise ValueError("patience needs validation_data, validation_rows or folds")
        if validation_loss is not None and not callable(validation_loss):
            raise TypeError(f"validation_loss must be a function (A, Y) -> float, got {validation_loss!r}")
        if validation_loss is not None and self._validation is None:
            raise ValueError("validation_loss needs validation_data, validation_rows or folds")
        self._validation_loss = validation_loss
        metrics = named(metrics)
        self._metrics = list(metrics)
        self._measures = self._measures_of(metrics) if metrics else []
        self._callbacks = PopulationCallbacks(callbacks)
        self._keeps_predictions = (
            arguments.flag("keep_predictions", keep_predictions)
            and self._validation is not None
            and self._validation.is_shared
        )
        self._history = history = PopulationHistory(n, trainer.epochs + 1)
        self._bar = progress_bar(progress, self._epochs, PopulationHistory.in_short)
        sees_epochs = self._callbacks.sees_epochs
        self._is_watched = sees_epochs or bool(metrics) or self._validation is not None
        names = [prefix + name for prefix, _ in self._evaluations for name in metrics]
        history.record(["validation_loss"] * (self._validation is not None) + names)
        check_memory(self._memory() | (extra_memory or {}), ADVICE)
        self._best = np.full(n, np.inf)
        self._best_epoch = np.full(n, history.first_epoch - 1)
        self._best_parameters = [np.empty_like(group.parameters) for group in pop.groups] if self._restores else []
        self._last = np.full(n, np.nan)  # the loss that the population keeps of each network
        self._epochs_before = 0  # of this call, before the checkpoint that it goes on from
        batch_sizes = np.minimum(trainer._batch_sizes(), rows.counts)
        shuffles = (batch_sizes < rows.counts) & trainer.shuffle
        self._run_arguments = batch_sizes, shuffles, rows, data, Watch(self._is_watched, may_change=sees_epochs)

    def _memory(self) -> dict[str, int]:
        """Return the bytes that the call takes, by what they are for."""
        pop = self._pop
        n_parameters = sum(group.parameters.nbytes for group in pop.groups)
        states = sum(state.buffers.nbytes for state in self._trainer.states)
        needs = {"snapshots of parameters and states": n_parameters + states}
        if self._restores:
            needs["the best parameters"] = n_parameters
        if self._keeps_predictions:
            assert self._validation is not None
            n_rows = int(self._validation.rows.counts[0])
            needs["predictions for the validation data"] = (
                len(pop) * n_rows * pop._config.sizes[-1] * pop.dtype.itemsize
            )
        return needs

    def _measures_of(self, metrics: dict[str, Any]) -> list[Measures]:
        """Return the measures of each network, as of a `Trainer` of its own; one object for the same data."""
        pop = self._pop
        known: dict[tuple, Measures] = {}
        result = []
        for i in range(len(pop)):
            key = tuple(evaluation.key_of(i) for _, evaluation in self._evaluations)
            if key not in known:
                targets = [evaluation.targets_of(i) for _, evaluation in self._evaluations]
                kernels, takes_signs = kernels_of(pop.backend), row_of(pop.loss_name).takes_signs
                known[key] = Measures(metrics, pop._config.sizes[-1], targets, kernels, takes_signs)
            result.append(known[key])
        return result

    # ------------------------------------------------------------------ the epochs

    def run(self) -> PopulationHistory:
        """Train; whatever ends it, trainer, population and history tell what was done."""
        trainer, history, callbacks = self._trainer, self._history, self._callbacks
        batch_sizes, shuffles, rows, data, watch = self._run_arguments
        streams = trainer._begin_streams(self._order)
        streams.split(np.unique(np.stack([rows.counts, shuffles]), axis=1, return_inverse=True)[1].reshape(-1))
        self._steps = steps = PopulationRun(
            self._pop, trainer.states, streams, batch_sizes, shuffles, rows, data, watch, trainer._chunks
        )
        trainer._keep(history)
        trainer.stop_training = False
        trainer.stopped = np.zeros(len(self._pop), bool)
        resumed = trainer._resumed
        try:
            trainer._fit = self
            callbacks.call("on_train_begin", trainer, history)
            if resumed is not None:
                self._resume(resumed)
            self.has_begun = True
            with self._bar as self._show:
                self._train()
            self._settle()
            if trainer.stop_training:
                self._stop(steps.active, callbacks.ended or "stop_training")
        except KeyboardInterrupt:
            history.interrupted = True
            with interrupts.deferred():
                self._settle()
            self._stop(steps.active, "interrupted")
        except BaseException:
            if not len(history):
                trainer._histories = [other for other in trainer._histories if other is not history]
            raise
        finally:
            with interrupts.deferred():
                self._close()
            trainer._fit = None
            callbacks.call("on_train_end", trainer, history)
        if self._keeps_predictions:
            self._keep_predictions()
        return history

    def _train(self) -> None:
        """Train epoch by epoch."""
        trainer, history, steps = self._trainer, self._history, self._steps
        while len(history) < self._epochs and not trainer.stop_training and steps.active.any():
            self._callbacks.call("on_epoch_begin", trainer, history)
            self._take_stopped()
            if trainer.stop_training or not steps.active.any():
                break
            start = time.perf_counter()
            with interrupts.deferred():
                steps.prepare(trainer._updates(), trainer.threads)
            losses, skipped = steps.advance(self._epochs_to_watch())
            with interrupts.deferred():
                self._record(losses, skipped, time.perf_counter() - start)
            if not self._is_watched and self._is_halving_epoch():
                self._settle()
            self._check_finite()
            if self._is_watched or self._is_halving_epoch():
                self._end_epoch()
            self._show(history)

    def _epochs_to_watch(self) -> int:
        """Return the number of epochs until the next after which networks are evaluated."""
        left = self._epochs - len(self._history)
        if self._is_watched:
            return 1
        if self._halving is None:
            return left
        done, end = self._epochs_done(), 1
        while end <= done:
            end *= self._halving
        return min(left, end - done)

    def _epochs_done(self) -> int:
        """Return the epochs of this call, with those before the checkpoint that it goes on from."""
        return self._epochs_before + len(self._history)

    def _is_halving_epoch(self) -> bool:
        epoch = self._epochs_done()
        while self._halving is not None and epoch > 1 and epoch % self._halving == 0:
            epoch //= self._halving
        return self._halving is not None and epoch == 1

    def _record(self, losses: np.ndarray, skipped: np.ndarray, seconds: float) -> None:
        """Add epochs to the history."""
        history, trainer, steps = self._history, self._trainer, self._steps
        history.add(losses, seconds)
        history.skipped += skipped
        trainer.epochs += len(losses)
        history.epochs_done[steps.active] = len(history)
        recorded = ~np.isnan(losses)
        last = len(losses) - 1 - recorded[::-1].argmax(axis=0)
        chosen = recorded.any(axis=0)
        if self._validation is None:
            self._last[chosen] = losses[last[chosen], np.flatnonzero(chosen)]
        self._take_ended()

    def _take_ended(self) -> None:
        """Record which networks the steps have found to be non-finite."""
        history = self._history
        for i, epochs in self._steps.ended:
            if not history.nonfinite[i]:
                history.nonfinite[i] = True
                history.stopped[i] = "non-finite"
                history.truncate(i, epochs)
                history.epochs_done[i] = epochs
                series = history.recorded["loss" if self._validation is None else "validation_loss"]
                if epochs <= len(series):
                    self._last[i] = series[epochs - 1, i] if epochs else np.nan
        self._trainer.stopped[~self._steps.active] = True

    def _end_epoch(self) -> None:
        """Evaluate the networks, and let patience, halving and callbacks decide which of them go on."""
        trainer, history, steps = self._trainer, self._history, self._steps
        members = np.flatnonzero(steps.active)
        self._evaluate(members)
        if self._validation is not None:
            self._last[members] = history.last("validation_loss")[members]
        if self._patience is not None:
            self._stop_early(members)
        if self._is_halving_epoch():
            self._halve(members)
        self._callbacks.call("on_epoch_end", trainer, history)
        self._take_stopped()

    def _evaluate(self, members: np.ndarray) -> None:
        """Record metrics and validation losses of these networks."""
        history, n = self._history, len(self._pop)
        for prefix, evaluation in self._evaluations:
            if self._metrics:
                values = {name: np.full(n, np.nan) for name in self._metrics}
                for at, A, Y in evaluation.outputs(members):
                    i = members[at]
                    for name, value in self._measures[i].of([(A, Y)], Y).items():
                        values[name][i] = value
                for name, of_networks in values.items():
                    history.add_value(prefix + name, of_networks)
            if prefix:
                losses = np.full(n, np.nan)
                if self._validation_loss is None:
                    losses[members] = evaluation.losses(members)
                else:
                    for at, A, Y in evaluation.outputs(members):
                        losses[members[at]] = returned_number("validation_loss", self._validation_loss(A, Y))
                history.add_value("validation_loss", losses)

    def _stop_early(self, members: np.ndarray) -> None:
        """Keep the best parameters, and stop networks whose patience is exhausted."""
        epoch, loss = self._trainer.epochs, self._last[members]
        better = members[loss < self._best[members] - self._min_delta]
        with interrupts.deferred():
            self._best[better] = self._last[better]
            self._best_epoch[better] = epoch
            if self._restores:
                is_better = np.zeros(len(self._pop), bool)
                is_better[better] = True
                for group, kept in zip(self._pop.groups, self._best_parameters, strict=True):
                    rows = np.flatnonzero(is_better[group.members])
                    kept[rows] = group.parameters[rows]
        self._stop(epoch - self._best_epoch >= self._patience, "patience")

    def _halve(self, members: np.ndarray) -> None:
        """Stop the networks that are not among the best; copies of one go on or stop together."""
        assert self._halving is not None
        ids = members // self._copies
        networks = np.unique(ids)
        sums, counts = np.zeros((2, len(self._pop) // self._copies))
        np.add.at(sums, ids, self._last[members])
        np.add.at(counts, ids, 1)
        scores = sums[networks] / counts[networks]
        n_kept = -(-len(networks) // self._halving)
        order = np.argsort(np.where(np.isnan(scores), np.inf, scores), kind="stable")
        kept = np.isin(np.arange(len(self._pop)) // self._copies, networks[order[:n_kept]])
        self._stop(~kept, "halving")

    def _stop(self, which: np.ndarray, reason: str) -> None:
        """Stop those of these networks, a mask, that still train."""
        steps = self._steps
        which = which & steps.active
        if which.any():
            members = np.flatnonzero(which)
            with interrupts.deferred():
                steps.stop(members)
                for i in members.tolist():
                    self._history.stopped[i] = reason
                self._trainer.stopped[members] = True

    def _take_stopped(self) -> None:
        """Stop the networks that callbacks have stopped."""
        stopped = np.asarray(self._trainer.stopped)
        if stopped.shape != (len(self._pop),) or stopped.dtype != bool:
            self._trainer.stopped = ~self._steps.active
            raise ValueError(
                f"trainer.stopped must be a bool array ({len(self._pop)},), got {stopped.dtype} {stopped.shape}"
            )
        self._stop(stopped, "callback")

    def _settle(self) -> None:
        """Stop all networks in which a number is not finite, back at their last finite step."""
        with interrupts.deferred():
            self._steps.settle()
            self._take_ended()
        self._check_finite()

    def _check_finite(self) -> None:
        if self._trainer.on_nonfinite == "raise" and self._steps.ended:
            networks = [i for i, _ in self._steps.ended]
            raise FloatingPointError(
                f"training became non-finite in {named_networks(networks)}: all networks keep their last finite "
                "parameters; a smaller lr may help"
            )

    def _close(self) -> None:
        """Leave networks, trainer and population as training ended."""
        trainer, pop, history, steps = self._trainer, self._pop, self._history, self._steps
        if self.has_begun:
            steps.settle()
            self._take_ended()
        if trainer._resumed is not None:  # it never began: the next call goes on
            return
        if self._restores:
            has_best: Any = np.isfinite(self._best)
            for group, kept in zip(pop.groups, self._best_parameters, strict=True):
                rows = np.flatnonzero(has_best[group.members])
                group.parameters[rows] = kept[rows]
            self._last[has_best] = self._best[has_best]
        if self._patience is not None:
            history._best_epoch = self._best_epoch.copy()
        if len(history) or self._epochs_before:
            pop.losses = self._last.copy()
            pop.history = history
            pop._kept_validation = None

    def _keep_predictions(self) -> None:
        """Let the population keep the predictions that `Population.select` needs."""
        if self._pop.history is not self._history:
            return
        assert self._validation is not None
        n, n_rows = len(self._pop), int(self._validation.rows.counts[0])
        predictions = np.empty((n, n_rows, self._pop._config.sizes[-1]), self._pop.dtype)
        for i, A, _ in self._validation.outputs(np.arange(n)):
            predictions[i] = A
        self._pop._kept_validation = predictions, self._validation.targets_of(0)

    # ------------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Any]:
        """Return the part of a checkpoint from which another call resumes this one."""
        by_callbacks = zip(self._history.stopped, self._trainer.stopped, strict=True)
        return {
            "callbacks": self._callbacks.states(),
            "epochs": self._epochs_done(),
            "stopped": [reason or ("callback" if is_stopped else None) for reason, is_stopped in by_callbacks],
            "ended": self._callbacks.ended if self._trainer.stop_training else None,
            "best": self._best.copy(),
            "best_epoch": self._best_epoch.copy(),
            "last": self._last.copy(),
            "best_parameters": [kept.copy() for kept in self._best_parameters],
        }

    def _resume(self, resumed: dict[str, Any]) -> None:
        """Go on within the call of `fit` that a checkpoint was written in."""
        trainer, history, steps = self._trainer, self._history, self._steps
        self._callbacks.load_states(resumed["callbacks"], resumed["path"])
        self._epochs_before = resumed["epochs"]
        self._best, self._best_epoch = resumed["best"].copy(), resumed["best_epoch"].copy()
        self._last = resumed["last"].copy()
        kept = resumed["best_parameters"]
        if self._restores and kept:
            self._best_parameters = [array.copy() for array in kept]
        elif self._restores:  # that call kept none
            self._best[:] = np.inf
        stopped = np.array([reason is not None for reason in resumed["stopped"]])
        if stopped.any():
            steps.stop(np.flatnonzero(stopped))
            history.stopped = list(resumed["stopped"])
            trainer.stopped = stopped
        if resumed["ended"] in self._callbacks.final:
            trainer.stop_training, self._callbacks.ended = True, resumed["ended"]
        trainer._resumed = None


def named_networks(networks: Sequence[int]) -> str:
    """Return how a message names networks."""
    shown = ", ".join(map(str, sorted(networks)[:10])) + (", ..." if len(networks) > 10 else "")
    return f"{len(networks)} network{'s' * (len(networks) > 1)} ({shown})"


def fit_folds(trainer: Any, X: Any, Y: Any, folds: Any, options: dict[str, Any]) -> PopulationHistory:
    """Train a copy of each network for each fold; return the history of the networks, the means over their copies."""
    pop = trainer.pop
    n = len(pop)
    data = checked_data(pop, X, Y)
    pairs = checked_folds(folds, data.X, data.Y)
    k = len(pairs)
    n_out, n_samples = pop._config.sizes[-1], data.X.shape[-2]
    n_bytes = k * sum(
        group.parameters.nbytes + state.buffers.nbytes for group, state in zip(pop.groups, trainer.states, strict=True)
    )
    out_of_fold = {"predictions out of fold": n * n_samples * n_out * 8}
    check_memory(
        {f"copies for {k} folds": n_bytes, "snapshots of parameters and states": n_bytes} | out_of_fold, ADVICE
    )
    arguments.flag("keep_predictions", options["keep_predictions"])
    copies = trainer._repeated(k, check_order(options["order"], trainer._seed, trainer._order))
    weights = options["sample_weight"]
    fit = PopulationFit(
        copies,
        np.repeat(data.X, k, axis=0) if data.X.ndim == 3 else data.X,
        np.repeat(data.Y, k, axis=0) if has_own_targets(data.Y) else data.Y,
        train_rows=[train for train, _ in pairs] * n,
        validation_rows=[test for _, test in pairs] * n,
        copies=k,
        extra_memory=out_of_fold,
        **{
            **options,
            "order": None,
            "keep_predictions": False,
            "sample_weight": np.repeat(weights, k, axis=0) if np.ndim(weights) == 2 else weights,
        },
    )
    of_copies = fit.run()
    history = PopulationHistory(n, of_copies.first_epoch)
    for name, values in of_copies.recorded.items():
        history._blocks[name] = [_mean(values.reshape(len(values), n, k))]
    history.seconds, history.interrupted = of_copies.seconds, of_copies.interrupted
    history.nonfinite = np.any(of_copies.nonfinite.reshape(n, k), axis=1)
    history.epochs_done = of_copies.epochs_done.reshape(n, k).max(axis=1)
    history.skipped = of_copies.skipped.reshape(n, k).sum(axis=1)
    for i in range(n):
        reasons = of_copies.stopped[i * k : (i + 1) * k]
        history.stopped[i] = reasons[-1] if all(reasons) else None
    history.fold_losses = fit._last.reshape(n, k)
    history.out_of_fold = _out_of_fold(fit, [test for _, test in pairs], n, n_samples)
    history.fold_networks, history.fold_history = copies.pop, of_copies
    if len(history):
        pop.losses, pop.history = history.fold_losses.mean(axis=1), history
        is_tested = bool(np.bincount(np.concatenate([test for _, test in pairs]), minlength=n_samples).all())
        is_kept = options["keep_predictions"] and is_tested and not has_own_targets(data.Y)
        pop._kept_validation = (history.out_of_fold, data.Y) if is_kept else None
    return history


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of the values that are not NaN; NaN where all are."""
    is_number = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(is_number, values, 0).sum(axis=-1) / is_number.sum(axis=-1)


def _out_of_fold(fit: PopulationFit, tests: list[np.ndarray], n: int, n_samples: int) -> np.ndarray:
    """Return the mean of the predictions for each sample by the copies that were evaluated on it."""
    assert fit._validation is not None
    k, dtype = len(tests), fit._pop.dtype
    sums = np.zeros((n, n_samples, fit._pop._config.sizes[-1]))
    for copy, A, _ in fit._validation.outputs(np.arange(n * k)):
        np.add.at(sums[copy // k], tests[copy % k], A)
    counts = np.bincount(np.concatenate(tests), minlength=n_samples)[:, None]
    with np.errstate(invalid="ignore"):
        sums /= counts
    return sums.astype(dtype)


def check_writable(pop: Any, states: list[PopulationState]) -> None:
    """Refuse to train where an array that is written to is read-only: kernels would write all the same."""
    for g, (group, state) in enumerate(zip(pop.groups, states, strict=True)):
        arrays = {
            "parameters": group.parameters,
            f"states[{g}].buffers": state.buffers,
            f"states[{g}].running_products": state.running_products,
        }
        for name, array in arrays.items():
            if not array.flags.writeable:
                raise ValueError(f"{name} is read-only, but training writes to it: set flags.writeable = True")
