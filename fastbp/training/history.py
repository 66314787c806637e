"""The record of one call of `Trainer.fit`."""

from dataclasses import dataclass, field


@dataclass(repr=False)
class History:
    """What one call of `Trainer.fit` did, epoch by epoch.

    Attributes
    ----------
    first_epoch : int
        Number of the first epoch; calls of `fit` count on from each other.
    loss : list of float
        Loss of each epoch, by the network's reduction, each batch taken before its own update.
    validation_loss : list of float
        Loss on the validation data after each epoch; empty without such data.
    metrics : dict of list of float
        After each epoch: by name on the training data, and by "validation_" + name.
    recorded : dict of list of float
        All of these by name: "loss", "validation_loss" if there are such data, and the metrics.
    seconds : list of float
        Time of each epoch.
    stopped : str or None
        Why it ended before its time: "tol", the class of the callback that ended it, "interrupted", "non-finite";
        of a method of the full batch "converged", or "stalled" where no step lowers the loss any more.
    interrupted : bool
        Whether Ctrl-C ended it; the epoch it fell into is not recorded.
    nonfinite : bool
        Whether a loss that was not finite ended it.
    skipped : int
        Steps left out by ``on_nonfinite="skip"``.  The loss of an epoch is that of its other batches, not a number if
        there are none.
    """

    first_epoch: int = 1
    validation_loss: list = field(default_factory=list)
    metrics: dict = field(default_factory=dict)
    stopped: str | None = None
    interrupted: bool = False
    nonfinite: bool = False
    skipped: int = 0
    _has_validation: bool = False
    _loss: list = field(default_factory=list)
    _seconds: list = field(default_factory=list)
    _calls: list = field(default_factory=list)  # of calls not yet in the two lists above: arguments of _add
    _n_epochs: int = 0

    @property
    def loss(self):
        """Loss of each epoch."""
        self._write_up()
        return self._loss

    @property
    def seconds(self):
        """Time of each epoch."""
        self._write_up()
        return self._seconds

    @property
    def recorded(self):
        """Losses and metrics by name."""
        validation = {"validation_loss": self.validation_loss} if self._has_validation else {}
        return {"loss": self.loss, **validation, **self.metrics}

    @property
    def epochs(self):
        """Numbers of the recorded epochs."""
        return list(range(self.first_epoch, self.first_epoch + len(self)))

    def _add(self, losses, share, seconds):
        """Take the sums of the losses of some epochs, which so many samples share, and the time of all."""
        self._calls.append((losses, share, seconds))
        self._n_epochs += len(losses)

    def _write_up(self):
        """Fill the lists when somebody looks: a million tiny epochs are trained in a fraction of the time it takes."""
        for losses, share, seconds in self._calls:
            self._loss.extend((losses / share).tolist())
            self._seconds.extend([seconds / len(losses)] * len(losses))
        self._calls.clear()

    def _keep(self, n_epochs):
        for values in (self.loss, self.validation_loss, self.seconds, *self.metrics.values()):
            del values[n_epochs:]
        self._n_epochs = n_epochs

    def __len__(self):
        """Return the number of recorded epochs."""
        return self._n_epochs

    def __repr__(self):
        """Return the first and last value of everything recorded."""
        if not len(self):
            return "History(no epochs)"
        series = self.recorded.items()
        course = ", ".join(f"{name} {values[0]:.4g} -> {values[-1]:.4g}" for name, values in series if values)
        last = self.first_epoch + len(self) - 1
        end = f"; stopped: {self.stopped}" if self.stopped else ""
        return f"History(epochs {self.first_epoch} to {last}: {course}; {sum(self.seconds):.3g} s{end})"
