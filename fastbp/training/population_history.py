"""The record of one call of `PopulationTrainer.fit`."""

from __future__ import annotations

import numpy as np


class PopulationHistory:
    """What one call of `PopulationTrainer.fit` did, epoch by epoch, with a column for each network.

    Parameters
    ----------
    n_networks : int
    first_epoch : int

    Attributes
    ----------
    first_epoch : int
        Number of the first epoch; calls of `fit` count on from each other.
    loss, validation_loss : float64 ndarray (n_epochs, n_networks)
        As in `History`; NaN from where a network stopped.  Without validation data `validation_loss` has no rows.
    metrics : dict of float64 ndarray (n_epochs, n_networks)
        Likewise.
    recorded : dict of ndarray
        All of these by name.
    seconds : list of float
        Time of each epoch.
    stopped : list of str or None
        Why each network ended early: "patience", "halving", "callback" (`trainer.stopped` was set), the class of the
        callback that ended all, "stop_training", "interrupted" or "non-finite".
    epochs_done : int64 ndarray (n_networks,)
        Epochs that each network was trained.
    best_epoch : int64 ndarray (n_networks,)
        Epoch of the least validation loss, or training loss without validation data; of equal ones the first.  With
        `patience` that of the last value that was better by more than `min_delta`.  first_epoch - 1 where none is.
    interrupted : bool
        Whether Ctrl-C ended it; the epoch it interrupted is not recorded.
    nonfinite : bool ndarray (n_networks,)
        Which networks a number that is not finite ended.
    skipped : int64 ndarray (n_networks,)
        Steps left out by ``on_nonfinite="skip"``.
    out_of_fold : ndarray (n_networks, n_samples, n_out) or None
        With `folds`: predictions for each sample by the copies that were not trained on it, their mean if there are
        several, NaN if there is none.
    fold_losses : float64 ndarray (n_networks, n_folds) or None
        With `folds`: validation loss of each copy as it was left.
    fold_networks : Population or None
        With `folds`: the trained copies; network i * n_folds + f is the copy of network i for fold f.
    fold_history : PopulationHistory or None
        With `folds`: the history of these copies.
    """

    def __init__(self, n_networks: int, first_epoch: int = 1) -> None:
        self.n_networks, self.first_epoch = n_networks, first_epoch
        self.seconds: list[float] = []
        self.stopped: list[str | None] = [None] * n_networks
        self.interrupted = False
        self.nonfinite = np.zeros(n_networks, bool)
        self.epochs_done, self.skipped = np.zeros((2, n_networks), np.int64)
        self.out_of_fold: np.ndarray | None = None
        self.fold_losses: np.ndarray | None = None
        self.fold_networks: object | None = None
        self.fold_history: PopulationHistory | None = None
        self._blocks: dict[str, list[np.ndarray]] = {"loss": []}  # (epochs, networks), to be put together
        self._best_epoch: np.ndarray | None = None

    def record(self, names: list[str]) -> None:
        """Say what will be recorded besides the loss."""
        self._blocks.update({name: [] for name in names})

    def add(self, losses: np.ndarray, seconds: float) -> None:
        """Add epochs: their losses (n_epochs, n_networks), and the time of all together."""
        self._blocks["loss"].append(losses)
        self.seconds += [seconds / len(losses)] * len(losses)

    def add_value(self, name: str, values: np.ndarray) -> None:
        """Add the values (n_networks,) of the last epoch."""
        self._blocks[name].append(values[None])

    def truncate(self, network: int, n_epochs: int) -> None:
        """Drop all but the first epochs of a network."""
        for name in self._blocks:
            self._series(name)[n_epochs:, network] = np.nan
        self.epochs_done[network] = min(n_epochs, self.epochs_done[network])

    def last(self, name: str) -> np.ndarray:
        """Return the last row of a series."""
        return self._blocks[name][-1][-1]

    def _series(self, name: str) -> np.ndarray:
        blocks = self._blocks[name]
        if len(blocks) != 1:
            blocks[:] = [np.concatenate(blocks) if blocks else np.empty((0, self.n_networks))]
        return blocks[0]

    @property
    def loss(self) -> np.ndarray:
        """Loss of each epoch and network."""
        return self._series("loss")

    @property
    def validation_loss(self) -> np.ndarray:
        """Validation loss of each epoch and network."""
        return self._series("validation_loss") if self.has_validation else np.empty((0, self.n_networks))

    @property
    def has_validation(self) -> bool:
        """Whether the validation loss is recorded."""
        return "validation_loss" in self._blocks

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """Metrics by name."""
        return {name: self._series(name) for name in self._blocks if name not in ("loss", "validation_loss")}

    @property
    def recorded(self) -> dict[str, np.ndarray]:
        """Losses and metrics by name."""
        return {name: self._series(name) for name in self._blocks}

    @property
    def epochs(self) -> list[int]:
        """Numbers of the recorded epochs."""
        return list(range(self.first_epoch, self.first_epoch + len(self)))

    @property
    def best_epoch(self) -> np.ndarray:
        """Epoch of the least loss of each network."""
        if self._best_epoch is not None:
            return self._best_epoch
        series = self.validation_loss if self.has_validation else self.loss
        values = np.where(np.isnan(series), np.inf, series)
        best = np.full(self.n_networks, self.first_epoch - 1)
        if len(values):
            has_any = np.isfinite(values).any(axis=0)
            best[has_any] = self.first_epoch + values.argmin(axis=0)[has_any]
        return best

    def in_short(self) -> str:
        """Return the best and the median loss of the last epoch, for the progress bar."""
        loss = self.last("validation_loss" if self.has_validation and self._blocks["validation_loss"] else "loss")
        loss = loss[np.isfinite(loss)]
        if not len(loss):
            return "training"
        return f"loss: best {loss.min():.4g}, median {np.median(loss):.4g}, {len(loss)} networks"

    def __len__(self) -> int:
        """Return the number of recorded epochs."""
        return len(self.seconds)

    def __repr__(self) -> str:
        """Return the best and the median of everything recorded, and how many networks stopped early."""
        if not len(self):
            return f"PopulationHistory({self.n_networks} networks, no epochs)"
        words = []
        for name, values in self.recorded.items():
            last = values[-1][np.isfinite(values[-1])]
            if len(last):
                words.append(f"{name} {last.min():.4g} to {last.max():.4g}, median {np.median(last):.4g}")
        last_epoch = self.first_epoch + len(self) - 1
        reasons = [reason for reason in self.stopped if reason]
        ends = "".join(f"; {reasons.count(reason)} stopped: {reason}" for reason in dict.fromkeys(reasons))
        return (
            f"PopulationHistory({self.n_networks} networks, epochs {self.first_epoch} to {last_epoch}: "
            f"{'; '.join(words) or 'no finite loss'}; {sum(self.seconds):.3g} s{ends})"
        )
