"""The network of the textbooks: its sizes and activations, and its training with a table of epochs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Dataset
from ..preprocessing import Preprocessor, as_columns, output_activation
from ..scores import regression_errors
from .options import TrainingOptions
from .screen import Screen, epoch_line, progress_bar, show_score

HIDDEN, ACTIVATION, BATCH_SIZE, MOMENTUM = (30,), "sigmoid", 20, 0.9
N_EPOCH_LINES = 30  # of the table of epochs
N_BAR_STEPS = 200  # of the progress bar
TYPICAL_UPDATES = 2000  # of the parameters, from which the default number of epochs follows


class Textbook:
    """A network, or an ensemble of them, that fits the samples, and its training by SGD with momentum.

    Parameters
    ----------
    samples : Dataset
    rows : ndarray
        Numbers of the training rows.
    options : TrainingOptions
    hidden, activation, loss, epochs, batch_size, lr, momentum, ensemble
        Options of ``fastbp train``; None is the default, which may follow from the samples.

    Attributes
    ----------
    interrupted : bool
        Whether Ctrl-C ended the training.
    """

    def __init__(
        self,
        samples: Dataset,
        rows: np.ndarray,
        options: TrainingOptions,
        hidden: list[int] | None,
        activation: str | None,
        loss: str | None,
        epochs: int | None,
        batch_size: int | None,
        lr: float | None,
        momentum: float | None,
        ensemble: int | None,
    ) -> None:
        from ..network import Network
        from ..optimizers import SGD
        from ..population import Population
        from ..training.trainer import Trainer

        activation = ACTIVATION if activation is None else activation
        batch_size = BATCH_SIZE if batch_size is None else batch_size
        if lr is None:
            lr = 0.2 if samples.classes and activation == "sigmoid" else 0.02
        self.samples, self.rows, self.is_ensemble, self.interrupted = samples, rows, ensemble is not None, False
        self.preprocessor = Preprocessor.of(samples, rows)
        layers = HIDDEN if hidden is None else hidden
        sizes, activations, loss = architecture(self.preprocessor, samples, layers, activation, loss)
        of_net: dict[str, Any] = {"loss": loss, "dtype": options.dtype, "seed": options.seed}
        of_net["backend"] = options.backend
        self.net: Any = (
            Network(sizes, activations, **of_net)
            if ensemble is None
            else Population(sizes, ensemble, activations, **of_net)
        )
        self.n_epochs = epochs or default_epochs(batch_size, len(rows))
        optimizer = SGD(lr, MOMENTUM if momentum is None else momentum)
        self.trainer: Any = Trainer(self.net, optimizer, batch_size=batch_size, seed=options.seed)  # type: ignore[arg-type]

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return self.trainer.epochs

    def _describe(self, screen: Screen) -> None:
        """Print what is trained."""
        net, n_networks = self.net, len(self.net.parameters) if self.is_ensemble else 1
        screen.say(
            f"{f'{n_networks} networks' if self.is_ensemble else 'network'} {'-'.join(map(str, net.sizes))}, "
            f"{', '.join(map(str, net.activations))}; {net.loss_name}; "
            f"{net.parameters.shape[-1]:,} parameters{' each' if self.is_ensemble else ''}, {net.dtype}"
        )
        if self.is_ensemble:
            screen.say("the table has means over the networks, each alone")

    def train(self, screen: Screen, test: np.ndarray) -> None:
        """Train, with a progress bar and a table of epochs, which shows the rows of the test too."""
        self._describe(screen)
        screen.announce_compilation(self.net[0] if self.is_ensemble else self.net)
        X = self.preprocessor.inputs(self.samples.X, self.net.dtype)
        Y = self.preprocessor.targets(self.samples.y, self.net.loss_name)
        validation_data = (X[test], Y[test]) if len(test) else None
        rows = self.rows
        self.interrupted = _train(
            screen, self.trainer, X[rows], Y[rows], self.n_epochs, validation_data, bool(self.samples.classes)
        )

    def outputs(self, X: np.ndarray) -> np.ndarray:
        """Return the outputs for samples, (n_samples, n_out)."""
        return (self.net.mean if self.is_ensemble else self.net.predict)(self.preprocessor.inputs(X, self.net.dtype))

    def show_score(self, screen: Screen, rows: np.ndarray, name: str) -> None:
        """Print how well it predicts these rows, and the networks of an ensemble, each alone."""
        X, y = self.samples.X[rows], self.samples.y[rows]
        show_score(screen.out, self.preprocessor, y, self.outputs(X), name)
        if self.is_ensemble:
            screen.say(self._of_single_networks(X, y, name))

    def _of_single_networks(self, X: np.ndarray, y: np.ndarray, name: str) -> str:
        outputs = self.net.predict(self.preprocessor.inputs(X, self.net.dtype))
        predictions = [self.preprocessor.predictions(A) for A in outputs]
        if self.samples.classes is not None:
            scores = [float((predicted == y).mean()) for predicted in predictions]
            return (
                f"{name} accuracy of single networks: mean {np.mean(scores):.2%}, "
                f"{min(scores):.2%} to {max(scores):.2%}"
            )
        y = as_columns(y)
        errors = [float(np.mean([rmse for rmse, _ in regression_errors(y, guess)])) for guess in predictions]
        return f"{name} RMSE of single networks: mean {np.mean(errors):.4g}, {min(errors):.4g} to {max(errors):.4g}"

    def save(self, path: Path) -> None:
        """Save the network, with what is done to its data."""
        self.net.save(path, metadata=self.preprocessor.metadata())


def default_epochs(batch_size: int, n_samples: int) -> int:
    """Return the number of epochs that make a typical number of updates."""
    return min(2000, max(30, math.ceil(TYPICAL_UPDATES * batch_size / n_samples)))


def architecture(
    preprocessor: Preprocessor, samples: Dataset, layers: Sequence[int], activation: str, loss: str | None
) -> tuple[list[int], list[str], str]:
    """Return sizes, activations and loss of a network with these hidden layers that fits the data."""
    if loss is None:
        loss = "cross_entropy" if preprocessor.classes else "squared_error"
    n_out = len(preprocessor.classes) if preprocessor.classes else as_columns(samples.y).shape[1]
    activations = [activation] * len(layers) + [output_activation(loss, preprocessor.task)]
    return [samples.X.shape[1], *layers, n_out], activations, loss


def _train(
    screen: Screen,
    trainer: Any,
    X: np.ndarray,
    Y: np.ndarray,
    epochs: int,
    validation_data: tuple[np.ndarray, np.ndarray] | None,
    are_classes: bool,
) -> bool:
    """Train, with a progress bar and a table of epochs; return whether Ctrl-C ended it."""
    metrics = ["accuracy"] if are_classes else []
    shown = {1, *np.linspace(0, epochs, min(epochs, N_EPOCH_LINES) + 1).astype(int)[1:].tolist()}
    seconds = 0.0
    with progress_bar(screen) as bar:
        task = bar.add_task("", total=epochs)
        screen.say(_titles(metrics, validation_data is not None), "bold")
        try:
            for history in _histories(trainer, X, Y, epochs, shown, validation_data=validation_data, metrics=metrics):
                seconds += sum(history.seconds)
                if history.interrupted:
                    return True
                if np.any(history.nonfinite):
                    raise ValueError(
                        f"the loss became infinite in epoch {trainer.epochs + 1}: "
                        f"try a smaller --lr than {np.max(trainer.lr):g}"
                    )
                bar.update(task, completed=trainer.epochs, description=f"loss {np.mean(history.loss[-1]):.4g}")
                if trainer.epochs in shown:
                    screen.say(_epoch_line(trainer.epochs, history))
        except KeyboardInterrupt:
            return True
    screen.say(f"trained {trainer.epochs:,} epochs in {seconds:.2f} s")
    return False


def _histories(
    trainer: Any, X: np.ndarray, Y: np.ndarray, epochs: int, measured: set[int], **measurements: Any
) -> Iterator[Any]:
    """Train in few calls of `fit` and yield their histories; only the epochs in `measured` pay for measurements."""
    while trainer.epochs < epochs:
        next_measured = min(epoch for epoch in measured if epoch > trainer.epochs)
        n_unmeasured = min(next_measured - trainer.epochs - 1, math.ceil(epochs / N_BAR_STEPS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a loss that is not finite: the history says the same
            if n_unmeasured:
                history = trainer.fit(X, Y, epochs=n_unmeasured, progress=False)
            else:
                history = trainer.fit(X, Y, progress=False, **measurements)
        yield history


def _titles(metrics: list[str], has_validation: bool) -> str:
    titles = ["loss", *metrics]
    return epoch_line(["epoch", *titles, *([f"test {title}" for title in titles] if has_validation else [])])


def _epoch_line(epoch: int, history: Any) -> str:
    """Format the last epoch of a history, with means over the networks, in the order of `_titles`."""
    cells = [f"{epoch}", f"{np.mean(history.loss[-1]):.4g}"]
    cells += [f"{np.mean(values[-1]):.2%}" for name, values in history.metrics.items() if name == "accuracy"]
    cells += [f"{np.mean(value):.4g}" for value in history.validation_loss[-1:]]
    cells += [f"{np.mean(values[-1]):.2%}" for name, values in history.metrics.items() if name != "accuracy"]
    return epoch_line(cells)
