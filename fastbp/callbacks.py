"""Callbacks: objects that are called during ``Trainer.fit(..., callbacks=[EarlyStopping(), CSVLogger("run.csv")])``.

A callback is an object with any of the methods of `Callback`; it need not inherit from it.
"""

import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from . import arguments, checkpoints
from .checkpoints import CheckpointError, check_number
from .metrics import falls

__all__ = [
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "TensorBoard",
    "TimeLimit",
]
STATE = ("state_dict", "load_state_dict")
EVENTS = ("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_batch_end")


class Callback:
    """Base class of callbacks; methods that are not overridden are never called.

    A method that returns True, or sets ``trainer.stop_training = True``, ends the training.  `trainer` and its
    ``trainer.net`` are live; ``history.recorded`` has what was recorded so far, by name.
    """

    def on_train_begin(self, trainer: Any, history: Any) -> bool | None:
        """Before the first epoch of a call of `fit`."""

    def on_train_end(self, trainer: Any, history: Any) -> None:
        """After the last epoch, however training ended, by Ctrl-C and exceptions too."""

    def on_epoch_begin(self, trainer: Any, history: Any) -> bool | None:
        """Before each epoch."""

    def on_epoch_end(self, trainer: Any, history: Any) -> bool | None:
        """After each epoch, when its losses and metrics are recorded."""

    def on_batch_end(self, trainer: Any, history: Any, step: int, loss: float) -> bool | None:
        """After each update: the number of the step, and the loss of its batch before it.

        With it, each batch is one native call and a copy of the parameters, which is slow for small batches.  It is
        not called for full-batch methods.
        """

    def state_dict(self) -> dict:
        """Return the state from which a resumed training goes on, for a checkpoint: arrays and what JSON can hold."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Restore a state of `state_dict`; called after `on_train_begin` by the first `fit` of a resumed training."""


class Callbacks:
    """The callbacks of one call of `fit`, and which methods they have.

    Each `Checkpoint` is called last in each event, so that the file holds what the others did.

    Attributes
    ----------
    sees_epochs, sees_batches : bool
        Whether any is called at the begin or the end of an epoch; after a batch.
    final : list of str
        Names of the classes that, having ended a training, end it again where it is resumed.
    """

    def __init__(self, callbacks: Any) -> None:
        if not isinstance(callbacks, list | tuple):
            raise TypeError(f"callbacks must be a sequence of callbacks, got {callbacks!r}")
        self._methods: dict[str, list] = {event: [] for event in (*EVENTS, *STATE)}
        for i, callback in enumerate(callbacks):
            if isinstance(callback, type):
                raise TypeError(f"callbacks[{i}] is the class {callback.__name__}: write {callback.__name__}(...)")
            if not any(hasattr(callback, event) for event in EVENTS):
                raise TypeError(f"callbacks[{i}] must have a method such as on_epoch_end, got {callback!r}")
        for callback in sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint)):
            keeps_state = all(callable(getattr(callback, name, None)) for name in STATE)
            for event, methods in self._methods.items():
                method = getattr(callback, event, None)
                if event in STATE and not keeps_state:
                    continue
                if method is not None and getattr(method, "__func__", None) is not getattr(Callback, event):
                    methods.append((type(callback).__name__, method))
        self.sees_batches = bool(self._methods["on_batch_end"])
        self.sees_epochs = bool(self._methods["on_epoch_begin"] or self._methods["on_epoch_end"])
        self.final = [type(callback).__name__ for callback in callbacks if not isinstance(callback, TimeLimit)]

    def call(self, event: str, trainer: Any, history: Any, *arguments: Any) -> None:
        """Call all that have this method; record the name of the first that ends the training."""
        for name, method in self._methods[event]:
            ends = method(trainer, history, *arguments)
            if event == "on_train_end":
                continue
            trainer.stop_training = trainer.stop_training or bool(ends)
            if trainer.stop_training and history.stopped is None:
                history.stopped = name

    def states(self) -> list:
        """Return the states of the callbacks: pairs of a class name and a dict."""
        return [(name, dict(method())) for name, method in self._methods["state_dict"]]

    def load_states(self, states: list, path: str) -> None:
        """Restore each callback from the first state left of its class that has the same `monitor`, if any.

        A CheckpointError names the file, `path`, whose state a callback refuses.
        """
        states = list(states)
        for name, method in self._methods["load_state_dict"]:
            monitor = getattr(getattr(method, "__self__", None), "monitor", None)
            for i, (other, state) in enumerate(states):
                if other == name and state.get("monitor", monitor) == monitor:
                    try:
                        method(dict(states.pop(i)[1]))
                    except CheckpointError as error:
                        raise CheckpointError(f"checkpoint {path!r}, state of {name}: {error}") from None
                    break


class _Monitor(Callback):
    """Base class of callbacks that follow the best value of one recorded series.

    Parameters
    ----------
    monitor : str
        "loss", "validation_loss", or a metric such as "validation_accuracy".
    min_delta : float
        A value is better only if it is so by more than this.
    mode : "min", "max" or None
        Whether smaller or larger is better; None tells it from the name.
    """

    def __init__(self, monitor: str, min_delta: float, mode: str | None) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be a name such as 'validation_loss', got {monitor!r}")
        self.monitor = monitor
        self.min_delta = arguments.number("min_delta", min_delta, at_least=0)
        is_min = falls(monitor) if mode is None else arguments.name("mode", mode, ("min", "max")) == "min"
        self.sign = 1 if is_min else -1
        self.best: float = self.sign * math.inf

    def on_train_begin(self, trainer: Any, history: Any) -> None:
        """Start anew."""
        self.best = self.sign * math.inf
        self.check_name(history)

    def check_name(self, history: Any) -> None:
        """Check that the monitored series is recorded."""
        if self.monitor not in history.recorded:
            hint = "; pass validation_data to fit" if self.monitor.startswith("validation_") else ""
            if self.monitor.startswith("val_"):
                hint = f"; did you mean 'validation_{self.monitor[4:]}'?"
            raise ValueError(
                f"monitor {self.monitor!r} of {type(self).__name__} is not recorded{hint} (available: "
                f"{', '.join(history.recorded)})"
            )

    def is_better(self, history: Any) -> bool:
        """Whether the last value is the best so far by more than min_delta; then it is the new best."""
        value = history.recorded[self.monitor][-1]
        better = self.sign * value < self.sign * self.best - self.min_delta
        if better:
            self.best = value
        return better

    def state_dict(self) -> dict:
        """Return the best value so far."""
        return {"monitor": self.monitor, "best": self.best}

    def load_state_dict(self, state: dict) -> None:
        """Restore it."""
        self.best = check_number("best", state.get("best"))


class EarlyStopping(_Monitor):
    """Stops when the monitored series has not improved for some epochs.

    Each call of `fit` starts anew: best value, patience and best parameters are those of that call.

    Parameters
    ----------
    monitor : str
        "loss", "validation_loss", or a metric such as "validation_accuracy".
    patience : int
        Epochs in a row without a better value.
    min_delta : float
        A value is better only if it is so by more than this.
    restore_best : bool
        Restore the parameters of the best epoch at the end, however training ended.  The state of the optimizer stays
        that of the last epoch.
    mode : "min", "max" or None
        Whether smaller or larger is better; None tells it from the name.

    Attributes
    ----------
    best : float
        Best value of the last call of `fit`.
    best_epoch : int
        Its epoch.
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
        mode: str | None = None,
    ) -> None:
        super().__init__(monitor, min_delta, mode)
        self.patience = arguments.integer("patience", patience)
        self.restore_best = arguments.flag("restore_best", restore_best)
        self._parameters: np.ndarray | None = None

    def on_train_begin(self, trainer: Any, history: Any) -> None:
        """Start anew."""
        self._parameters = None  # of a call without on_train_end, because another callback failed
        super().on_train_begin(trainer, history)
        self.best_epoch = history.first_epoch - 1
        self._of_network = trainer.net.parameters.shape, trainer.net.dtype

    def on_epoch_end(self, trainer: Any, history: Any) -> bool:
        """Keep the parameters if they are the best; return whether the patience is exhausted."""
        if self.is_better(history):
            self.best_epoch = trainer.epochs
            if self.restore_best:
                self._parameters = trainer.net.parameters.copy()
        return trainer.epochs - self.best_epoch >= self.patience

    def state_dict(self) -> dict:
        """Return the best value, its epoch and its parameters."""
        parameters = {} if self._parameters is None else {"parameters": self._parameters}
        return {**super().state_dict(), "best_epoch": self.best_epoch, **parameters}

    def load_state_dict(self, state: dict) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self.best_epoch = check_number(
            "best_epoch", state.get("best_epoch"), is_integer=True, at_least=0, below=1 << 62
        )
        parameters, (shape, dtype) = state.get("parameters"), self._of_network
        if parameters is not None and (
            not isinstance(parameters, np.ndarray) or parameters.shape != shape or parameters.dtype != dtype
        ):
            raise CheckpointError(
                f"parameters must be {dtype} {shape}, got "
                f"{getattr(parameters, 'dtype', type(parameters).__name__)} {np.shape(parameters)}"
            )
        self._parameters = parameters if self.restore_best else None

    def on_train_end(self, trainer: Any, history: Any) -> None:
        """Restore the best parameters."""
        if self._parameters is not None:
            trainer.net.parameters[:] = self._parameters
            self._parameters = None


class ModelCheckpoint(_Monitor):
    """Saves the network after each epoch, or after those that are the best so far.

    The best value stays with the object: a later call of `fit` saves only what is better than all before it, as does a
    training that is resumed from a checkpoint.  For another training use another object.

    Parameters
    ----------
    path : str or Path
        Where `Network.save` puts it; may name what was recorded, as in ``"{epoch:03d}_{validation_loss:.3f}.npz"``.
    monitor, mode : as for `EarlyStopping`
    save_best_only : bool
        Otherwise save each; the monitor is not used.

    Attributes
    ----------
    best : float
        Best value of all calls of `fit`.
    """

    def __init__(
        self, path: str | Path, monitor: str = "validation_loss", save_best_only: bool = True, mode: str | None = None
    ) -> None:
        self.save_best_only = arguments.flag("save_best_only", save_best_only)
        self.path = Path(path)
        super().__init__(monitor, 0.0, mode if save_best_only else "min")

    def on_train_begin(self, trainer: Any, history: Any) -> None:
        """Check the name and the folder."""
        if self.save_best_only:
            self.check_name(history)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"the folder of ModelCheckpoint({str(self.path)!r}) does not exist")
        values = dict.fromkeys(history.recorded, 0.0)
        try:
            self.path.name.format(epoch=0, **values)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"path {self.path.name!r} of ModelCheckpoint cannot be filled in: {error!r} (available: "
                f"epoch, {', '.join(values)})"
            ) from None

    def on_epoch_end(self, trainer: Any, history: Any) -> None:
        """Save, if the network is the best so far or each is to be saved."""
        if not self.save_best_only or self.is_better(history):
            values = {name: series[-1] for name, series in history.recorded.items()}
            trainer.net.save(self.path.with_name(self.path.name.format(epoch=trainer.epochs, **values)))

    def load_state_dict(self, state: dict) -> None:
        """Go on from the best value of that training, or of this object, whose file may be of a later epoch."""
        best = self.best
        super().load_state_dict(state)
        self.best = self.sign * min(self.sign * best, self.sign * self.best)


class Checkpoint(Callback):
    """Saves all of a training after some epochs, to go on exactly there: see `Trainer.load_checkpoint`.

    Parameters
    ----------
    path : str or Path
        Such as "run-{epoch}.ckpt"; without a field the number of the epoch is put before the suffix.
    every : int
        Epochs from one checkpoint to the next, counted from the first of the trainer.
    keep : int
        How many are kept, the last ones.  Those of later epochs, of another training, are left alone.

    Warns
    -----
    RuntimeWarning
        Where there are such: `checkpoints.latest` would return one of them.
    """

    def __init__(self, path: str | Path, every: int = 1, keep: int = 3) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path of Checkpoint must be a str or Path, got {path!r}")
        checkpoints.numbered(path, 0)
        self.path = path
        self.every, self.keep = arguments.integer("every", every), arguments.integer("keep", keep)

    def on_train_begin(self, trainer: Any, history: Any) -> None:
        """Check that the folder exists, and warn of checkpoints of later epochs."""
        if not Path(self.path).parent.is_dir():
            raise FileNotFoundError(f"the folder of Checkpoint({str(self.path)!r}) does not exist")
        last = checkpoints.last_number(self.path)
        if last > trainer.epochs:
            warnings.warn(
                f"{checkpoints.numbered(self.path, last)} is of a later epoch than this training has reached "
                f"({trainer.epochs}): if it is of another training, use another path",
                RuntimeWarning,
                stacklevel=6,
            )

    def on_epoch_end(self, trainer: Any, history: Any) -> None:
        """Write a checkpoint every so many epochs, and delete the oldest."""
        if trainer.epochs % self.every == 0:
            trainer.save_checkpoint(checkpoints.numbered(self.path, trainer.epochs))
            checkpoints.rotate(self.path, self.keep, trainer.epochs)


class ReduceLROnPlateau(_Monitor):
    """Lowers the learning rate when the monitored series has not improved for some epochs.

    It lowers ``trainer.lr_scale``, the factor of the optimizer's learning rate or schedule, which stays for later
    calls of `fit`; each of these starts anew with best value and patience.

    Parameters
    ----------
    monitor, min_delta, mode : as for `EarlyStopping`
    factor : float
        In (0, 1); the rate is multiplied by it.
    patience : int
        Epochs in a row without a better value.
    min_lr : float
        Lower limit of the rate.
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        factor: float = 0.5,
        patience: int = 5,
        min_lr: float = 0.0,
        min_delta: float = 0.0,
        mode: str | None = None,
    ) -> None:
        super().__init__(monitor, min_delta, mode)
        self.factor = arguments.number("factor", factor, above=0, below=1)
        self.patience = arguments.integer("patience", patience)
        self.min_lr = arguments.number("min_lr", min_lr, at_least=0)

    def on_train_begin(self, trainer: Any, history: Any) -> None:
        """Start anew."""
        super().on_train_begin(trainer, history)
        _ = trainer.lr  # a full-batch method has none, and raises
        self._since = history.first_epoch - 1

    def on_epoch_end(self, trainer: Any, history: Any) -> None:
        """Lower the rate if the patience is exhausted."""
        if self.is_better(history):
            self._since = trainer.epochs
        elif trainer.epochs - self._since >= self.patience:
            self._since = trainer.epochs
            lr = trainer.lr
            if lr > self.min_lr:
                trainer.lr_scale *= max(self.factor, self.min_lr / lr)

    def state_dict(self) -> dict:
        """Return the best value, and the epoch from which the patience counts."""
        return {**super().state_dict(), "since": self._since}

    def load_state_dict(self, state: dict) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self._since = check_number("since", state.get("since"), is_integer=True, at_least=0, below=1 << 62)


class CSVLogger(Callback):
    """Writes a line for each epoch to a CSV file: its number, all that was recorded, and its seconds.

    The first epoch begins the file; later calls of `fit` with the same object add to it, as does a training that is
    resumed from a checkpoint: the lines after that are written once more.

    Parameters
    ----------
    path : str or Path
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._columns: list[str] | None = None
        self._is_begun = False

    def on_train_begin(self, trainer: Any, history: Any) -> None:
        """Check that the file can be written, and that its columns are those to come."""
        self.path.open("a").close()
        columns = ["epoch", *history.recorded, "seconds"]
        if self._columns is None:
            self._columns = columns
        self._compare(columns)

    def _compare(self, columns: list[str]) -> None:
        if columns != self._columns:
            raise ValueError(
                f"CSVLogger({str(self.path)!r}) has the columns {', '.join(self._columns or ())}, but now "
                f"there are {', '.join(columns)}: use another one"
            )

    def on_epoch_end(self, trainer: Any, history: Any) -> None:
        """Write a line."""
        import csv

        values = [series[-1] for series in history.recorded.values()]
        with self.path.open("a" if self._is_begun else "w", newline="") as file:
            writer = csv.writer(file)
            if not self._is_begun:
                writer.writerow(self._columns or ())
            writer.writerow([trainer.epochs, *values, history.seconds[-1]])
        self._is_begun = True

    def state_dict(self) -> dict:
        """Return the columns, and how long the file is."""
        return {"columns": self._columns, "size": self.path.stat().st_size if self._is_begun else 0}

    def load_state_dict(self, state: dict) -> None:
        """Continue the file from its length in that state; begin it anew if it is another file."""
        import csv

        given, size = (
            state.get("columns"),
            check_number("size", state.get("size"), is_integer=True, at_least=0, below=1 << 62),
        )
        if given is not None and (not isinstance(given, list) or not all(isinstance(name, str) for name in given)):
            raise CheckpointError(f"columns must be a list of texts or null, got {given!r}")
        columns, self._columns = self._columns, given
        self._compare(columns or [])
        with self.path.open(newline="") as file:
            is_ours = next(csv.reader(file), None) == self._columns
        self._is_begun = is_ours and 0 < size <= self.path.stat().st_size
        if self._is_begun:
            os.truncate(self.path, size)


class TensorBoard(Callback):
    """Writes all recorded series for TensorBoard (package tensorboardX), one scalar by name and epoch.

    Parameters
    ----------
    folder : str or Path

    Raises
    ------
    ImportError
        Without tensorboardX: ``pip install 'fastbp[tensorboard]'``.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError("TensorBoard needs the package tensorboardX: pip install 'fastbp[tensorboard]'") from None
        self.folder, self._writer_of = Path(folder), SummaryWriter
        self._writer: Any = None

    def on_train_begin(self, trainer: Any, history: Any) -> None:
        """Open the file."""
        self._writer = self._writer_of(str(self.folder))

    def on_epoch_end(self, trainer: Any, history: Any) -> None:
        """Write what was recorded."""
        for name, series in history.recorded.items():
            self._writer.add_scalar(name, series[-1], trainer.epochs)

    def on_train_end(self, trainer: Any, history: Any) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class TimeLimit(Callback):
    """Stops after the first epoch that ends later than this.

    Parameters
    ----------
    seconds : float
        From the start of the call of `fit`; a resumed training starts anew.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = arguments.number("seconds", seconds, above=0)

    def on_train_begin(self, trainer: Any, history: Any) -> None:
        """Start the clock."""
        self._end = time.monotonic() + self.seconds

    def on_epoch_end(self, trainer: Any, history: Any) -> bool:
        """Return whether the time is up."""
        return time.monotonic() >= self._end
