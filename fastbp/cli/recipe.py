"""A good small model of a table: an ensemble trained by a recipe, with its progress, and its cross-validation."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.progress import Progress

from .. import recipes
from ..callbacks import Callback
from ..datasets import Dataset
from ..preprocessing import Preprocessor
from .options import TrainingOptions
from .samples import fold_pairs
from .screen import Screen, epoch_line, progress_bar, scores, scores_in_words, show_score

SIZE = "medium"
N_EPOCH_LINES = 20  # of the table of epochs
MEASURED_SECONDS = 0.5  # of training, after which its speed is known


class RecipeModel:
    """An ensemble that fits the samples, and its training by a recipe.

    Parameters
    ----------
    samples : Dataset
    rows : ndarray
        Numbers of the training rows.
    options : TrainingOptions
    size : str or None
        Of the recipe.
    **changes
        Fields of the recipe; those that are None follow from size and samples.

    Attributes
    ----------
    interrupted : bool
        Whether Ctrl-C ended the training.
    """

    def __init__(
        self, samples: Dataset, rows: np.ndarray, options: TrainingOptions, size: str | None, **changes: Any
    ) -> None:
        changes = {name: value for name, value in changes.items() if value is not None}
        self.recipe = recipes.Recipe.of_size(SIZE if size is None else size, **changes)
        self.samples, self.rows, self.options, self.n_trainings = samples, rows, options, 1
        self.model: Any = None

    @property
    def preprocessor(self) -> Preprocessor:
        """What is done to the data."""
        return self.model.preprocessor

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the training."""
        return self.model.history.interrupted

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.model.history)

    @property
    def _gives_probabilities(self) -> bool:
        return self.model.population[0].activations[-1] == "softmax"

    def cross_validate(self, screen: Screen, n_folds: int) -> None:
        """Train by the recipe without each fold of the training rows, and print the scores on these."""
        y = self.samples.y
        if n_folds > len(self.rows):
            raise ValueError(
                f"--folds must be at most the number of samples to train on, {len(self.rows)}, got {n_folds}"
            )
        self.n_trainings += n_folds
        screen.say(f"the whole training is done without each of {n_folds} folds first, and scored on that fold:")
        of_folds: list[dict[str, float]] = []
        for fold, (inside, aside) in enumerate(fold_pairs(y[self.rows], n_folds), start=1):
            name, rows = f"fold {fold} of {n_folds}", self.rows[aside]
            self._train(screen, self.rows[inside], name, describes=fold == 1)
            if self.interrupted:
                if of_folds:
                    screen.say(f"mean of {len(of_folds)} of {n_folds} folds: {scores_in_words(of_folds)}", "bold")
                    screen.warn("the other folds are left out")
                screen.warn(f"stopped by Ctrl-C in {name}; nothing is saved")
                raise typer.Exit(130)
            A = self.outputs(self.samples.X[rows])
            of_folds.append(scores(self.preprocessor, y[rows], A, self._gives_probabilities))
            screen.say(f"{name}: {scores_in_words(of_folds[-1:])}")
        screen.say(f"mean of the folds: {scores_in_words(of_folds)}", "bold")

    def train(self, screen: Screen, test: np.ndarray) -> None:
        """Train on all training rows, and print what is trained, and how it goes."""
        start = time.perf_counter()
        self._train(screen, self.rows)
        screen.say(f"trained {self.epochs:,} epochs in {time.perf_counter() - start:.2f} s")

    def _train(self, screen: Screen, rows: np.ndarray, name: str = "", describes: bool = False) -> None:
        """Train on these rows; print what is trained if it has no name or `describes`, what came of it if no name."""
        samples, options = self.samples, self.options
        task = "numbers" if samples.classes is None else "classes"
        epochs = self.recipe.for_table(task, len(rows), samples.X.shape[1], samples.pixels).epochs
        with warnings.catch_warnings(), progress_bar(screen) as bar:
            warnings.simplefilter("ignore", RuntimeWarning)  # of what the history says, too
            shown = _Epochs(screen, bar, epochs, name, self.n_trainings)

            def show(line: str) -> None:
                if not name or (describes and not shown.has_begun):
                    screen.say(line)

            self.model = recipes.train(
                self.recipe,
                samples,
                rows,
                seed=options.seed,
                dtype=options.dtype,
                backend=options.backend,
                callbacks=[shown],
                show=show,
            )
        self.n_trainings = 0  # whose time is still to be told
        n_diverged, n_networks = int(self.model.history.nonfinite.sum()), len(self.model.population)
        if n_diverged:
            words = f"try a smaller --lr than {self.recipe.lr:g}"
            if n_diverged == n_networks:
                raise ValueError(f"the loss became infinite: {words}")
            screen.warn(f"the loss of {n_diverged} of {n_networks} networks became infinite: {words}")

    def outputs(self, X: np.ndarray) -> np.ndarray:
        """Return the outputs for samples, (n_samples, n_out): calibrated probabilities of the classes."""
        return self.model.outputs(X)

    def show_score(self, screen: Screen, rows: np.ndarray, name: str) -> None:
        """Print how well it predicts these rows."""
        A = self.outputs(self.samples.X[rows])
        show_score(screen.out, self.preprocessor, self.samples.y[rows], A, name, self._gives_probabilities)

    def save(self, path: Path) -> None:
        """Save the ensemble, with what is done to its data."""
        self.model.save(path)


class _Epochs(Callback):
    """Shows how a training goes: a bar, a table of epochs unless it has a name, and how long it will take."""

    def __init__(self, screen: Screen, bar: Progress, epochs: int | None, name: str, n_trainings: int) -> None:
        assert epochs is not None
        self._screen, self._bar, self._epochs, self._name, self._n_trainings = screen, bar, epochs, name, n_trainings
        self._shown = {1, *np.linspace(0, epochs, min(epochs, N_EPOCH_LINES) + 1).astype(int)[1:].tolist()}
        self._last_shown, self.has_begun = 0, False
        self._best: Any = np.nan  # loss of each network on the rows that it holds out

    def on_train_begin(self, trainer: Any, history: Any) -> None:
        """Announce what is shown."""
        self.has_begun = True
        self._screen.announce_compilation(trainer.pop[0])
        self._task = self._bar.add_task(self._name, total=self._epochs)
        if not self._name:
            self._screen.say(
                epoch_line(["epoch", "loss", *["held-out loss"] * history.has_validation, "networks"]), "bold"
            )

    def on_epoch_end(self, trainer: Any, history: Any) -> None:
        """Show the epoch."""
        epoch = len(history)
        if history.has_validation:
            self._best = np.fmin(self._best, history.last("validation_loss"))
        loss = self._held_out_loss(trainer, history) if history.has_validation else np.nanmean(history.last("loss"))
        self._bar.update(self._task, completed=epoch, description=f"{self._name} loss {loss:.4g}".strip())
        if not self._name and (epoch in self._shown or trainer.stopped.all()):
            self._show(trainer, history)
        self._tell_time(epoch)

    def on_train_end(self, trainer: Any, history: Any) -> None:
        """Show the last epoch."""
        if not self._name and self._last_shown < len(history):
            self._show(trainer, history)

    def _show(self, trainer: Any, history: Any) -> None:
        """Print a line of the table: the mean loss of the networks trained in this epoch, and on rows held out."""
        self._last_shown = len(history)
        losses = [f"{np.nanmean(history.last('loss')):.4g}"]
        if history.has_validation:
            losses.append(f"{self._held_out_loss(trainer, history):.4g}")
        left = np.count_nonzero(~trainer.stopped)
        self._screen.say(epoch_line([str(len(history)), *losses, f"{left} of {len(trainer.stopped)}"]))

    def _held_out_loss(self, trainer: Any, history: Any) -> float:
        """Return the mean over all networks, of which those that have stopped keep their best epoch."""
        return float(np.nanmean(np.where(trainer.stopped, self._best, history.last("validation_loss"))))

    def _tell_time(self, epoch: int) -> None:
        """Say, once, how long it will take at most."""
        if epoch == 1:  # which may have compiled kernels
            self._since = time.perf_counter()
            return
        seconds = time.perf_counter() - self._since
        if self._n_trainings and seconds >= MEASURED_SECONDS:
            of_epoch = seconds / (epoch - 1)
            left = _duration(of_epoch * (self._n_trainings * self._epochs - epoch))
            each = f" for {self._n_trainings} trainings" if self._n_trainings > 1 else ""
            self._screen.say(f"{of_epoch:.2g} s an epoch: {left} more at most{each}")
            self._n_trainings = 0


def _duration(seconds: float) -> str:
    """Format a time, such as 12 s, 3 min or 2.5 h."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
