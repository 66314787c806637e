"""The record of one call of `Trainer.fit`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(repr=False)
class History:
    """What one call of `Trainer.fit` did, epoch by epoch.

    Attributes
    ----------
    first_epoch : int
        Number of the first epoch; calls of `fit` count on from each other.
    loss : list of float
        Loss of each epoch, by the network's reduction; that of each batch is computed before its update.
    validation_loss : list of float
        Loss on the validation data after each epoch; empty without such data.
    metrics : dict of list of float
        After each epoch: by name on the training data, and by "validation_" + name.
    recorded : dict of list of float
        All of these by name: "loss", "validation_loss" if there are such data, and the metrics.
    seconds : list of float
        Time of each epoch.
    stopped : str or None
        Why it ended early: "tol", the class of the callback that ended it, "interrupted", "non-finite";
        of a method of the full batch "converged", or "stalled" where no step lowers the loss any more.
    interrupted : bool
        Whether Ctrl-C ended it; the epoch it interrupted is not recorded.
    nonfinite : bool
        Whether a loss that was not finite ended it.
    skipped : int
        Steps left out by ``on_nonfinite="skip"``.  The loss of an epoch is that of its other batches, NaN if there are
        none.
    """

    first_epoch: int = 1
    validation_loss: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    stopped: str | None = None
    interrupted: bool = False
    nonfinite: bool = False
    skipped: int = 0
    _has_validation: bool = False
    _loss: list[float] = field(default_factory=list)
    _seconds: list[float] = field(default_factory=list)
    _calls: list[tuple] = field(default_factory=list)  # arguments of `add` that are not yet in the two lists above
    _n_epochs: int = 0

    @property
    def loss(self) -> list[float]:
        """Loss of each epoch."""
        self._build_lists()
        return self._loss

    @property
    def seconds(self) -> list[float]:
        """Time of each epoch."""
        self._build_lists()
        return self._seconds

    @property
    def recorded(self) -> dict[str, list[float]]:
        """Losses and metrics by name."""
        validation = {"validation_loss": self.validation_loss} if self._has_validation else {}
        return {"loss": self.loss, **validation, **self.metrics}

    @property
    def epochs(self) -> list[int]:
        """Numbers of the recorded epochs."""
        return list(range(self.first_epoch, self.first_epoch + len(self)))

    def record(self, metrics: list[str], has_validation: bool) -> None:
        """Say what will be recorded besides the loss."""
        self.metrics, self._has_validation = {name: [] for name in metrics}, has_validation

    def add(self, sums: np.ndarray, n_samples: float, seconds: float) -> None:
        """Add epochs: the sums of their sample losses, what each is divided by, and the time of all together."""
        self._calls.append((sums, n_samples, seconds))
        self._n_epochs += len(sums)

    def truncate(self, n_epochs: int) -> None:
        """Drop all but the first epochs."""
        for values in (self.loss, self.validation_loss, self.seconds, *self.metrics.values()):
            del values[n_epochs:]
        self._n_epochs = n_epochs

    def _build_lists(self) -> None:
        """Build the lists lazily: a million tiny epochs are trained in a fraction of the time that it takes."""
        for sums, n_samples, seconds in self._calls:
            self._loss.extend((sums / n_samples).tolist())
            self._seconds.extend([seconds / len(sums)] * len(sums))
        self._calls.clear()

    def __len__(self) -> int:
        """Return the number of recorded epochs."""
        return self._n_epochs

    def __repr__(self) -> str:
        """Return the first and last value of everything recorded."""
        if not len(self):
            return "History(no epochs)"
        series = self.recorded.items()
        changes = ", ".join(f"{name} {values[0]:.4g} -> {values[-1]:.4g}" for name, values in series if values)
        last = self.first_epoch + len(self) - 1
        end = f"; stopped: {self.stopped}" if self.stopped else ""
        return f"History(epochs {self.first_epoch} to {last}: {changes}; {sum(self.seconds):.3g} s{end})"
