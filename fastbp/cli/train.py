"""The command `fastbp train`: read a file, train a network, show its progress and its score, save it."""

from __future__ import annotations

import math
import reprlib
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..datasets import Dataset
from ..datasets.dataset import first_few
from ..losses import row_of
from ..preprocessing import Preprocessor, as_columns, read, split
from .options import Delimiter, Encoding, Features, Header, Ignore, Missing, check_out, columns
from .screen import Screen, show_score

if TYPE_CHECKING:
    from ..network import Network
    from ..training.history import History
    from ..training.trainer import Trainer

N_EPOCH_LINES = 30  # of the table of epochs
COLUMN_WIDTH = 13
N_BAR_STEPS = 200  # of the progress bar
MIN_TEST_DATA = 20  # with fewer samples, none are held out
TYPICAL_UPDATES = 2000  # of the parameters, from which the default number of epochs follows


def train(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="digits, xor, a table (CSV, Excel, Parquet ...; - for standard input), npz, or IDX: images,labels.",
        ),
    ],
    hidden: Annotated[
        list[str] | None,
        typer.Option(help="Neurons of each hidden layer: 30, or 64,32; 0 for none.", show_default="30"),
    ] = None,
    activation: Annotated[str, typer.Option(help="Of the hidden layers: sigmoid, tanh, relu, gelu ...")] = "sigmoid",
    loss: Annotated[
        str | None,
        typer.Option(
            help="cross_entropy, squared_error, huber ...",
            show_default="cross_entropy for classes, squared_error for numbers",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, show_default=f"{TYPICAL_UPDATES} updates, but 30 to 2000 epochs")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples of one update.")] = 20,
    lr: Annotated[
        float | None, typer.Option(help="Step size.", show_default="0.2 for classes by sigmoid, else 0.02")
    ] = None,
    momentum: Annotated[float, typer.Option(help="Fraction of the last step that is added to the next.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Of the initial weights and the shuffling.")] = 0,
    test_fraction: Annotated[float, typer.Option(help="Fraction of the samples held out for the test.")] = 0.2,
    target: Annotated[
        str | None,
        typer.Option(help="Target column of a CSV file: its name, or its number from 0.", show_default="the last"),
    ] = None,
    task: Annotated[str, typer.Option(help="What the targets are: classes, numbers, or auto.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    backend: Annotated[str, typer.Option(help="numba, or numpy: plain and slow.")] = "numba",
    out: Annotated[Path | None, typer.Option(help="File for the model.", show_default="not saved")] = None,
    header: Header = None,
    missing: Missing = "fill",
    ignore: Ignore = None,
    features: Features = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
) -> None:
    """Train a network; show loss and accuracy during training, then the score on the samples held out."""
    from ..optimizers import SGD
    from ..training.trainer import Trainer

    _check_can_save(out, data)
    screen = Screen(survives_broken_pipe=out is not None)
    samples = read(
        data,
        target=target,
        task=task,
        header=header,
        missing=None if missing == "fill" else missing,
        ignore=columns(ignore) or (),
        features=columns(features),
        encoding=encoding,
        delimiter=delimiter,
    )
    screen.describe_table(samples)
    y = _targets(samples, data)
    rows, test = split(y, test_fraction if len(y) >= MIN_TEST_DATA else 0, samples.classes is not None)
    preprocessor = Preprocessor.of(samples, rows)
    net = _network(preprocessor, samples, hidden, activation, loss, dtype=dtype, seed=seed, backend=backend)
    if lr is None:
        lr = 0.2 if preprocessor.classes and activation == "sigmoid" else 0.02
    if epochs is None:
        epochs = min(2000, max(30, math.ceil(TYPICAL_UPDATES * batch_size / len(rows))))
    trainer = Trainer(net, SGD(lr, momentum), batch_size=batch_size, seed=seed)

    _describe(screen, data, net, preprocessor, len(rows), len(test))
    _warn_of_untested(screen, preprocessor, y, test, test_fraction)
    screen.announce_compilation(net)
    X, Y = preprocessor.inputs(samples.X, net.dtype), preprocessor.targets(y, net.loss_name)
    validation_data = (X[test], Y[test]) if len(test) else None
    interrupted = _train(screen, trainer, X[rows], Y[rows], epochs, validation_data, bool(preprocessor.classes))
    if out is not None:
        net.save(out, metadata=preprocessor.metadata())
    shown = test if len(test) else rows
    show_score(screen.out, preprocessor, y[shown], net.predict(X[shown]), "test" if len(test) else "training")
    if out is not None:
        screen.say(f"saved; now try: {shlex.join(['fastbp', 'predict', str(out), data])}")
    if interrupted:
        kept = "the model is saved as it is" if out is not None else "not saved, as there was no --out"
        screen.warn(f"stopped by Ctrl-C after {trainer.epochs} epochs; {kept}")
        raise typer.Exit(130)


def _check_can_save(out: Path | None, data: str) -> None:
    """Refuse, before the training, what could not be saved after it."""
    check_out(out, data)
    if out is not None and out.suffix.lower() == ".safetensors":
        from .. import files

        files._safetensors()


def _targets(samples: Dataset, data: str) -> np.ndarray:
    if samples.y is None:
        raise ValueError(f"{data} has no targets to train on")
    if samples.classes is not None and len(samples.classes) < 2:
        raise ValueError(f"{data}: every sample is of the one class {samples.classes[0]!r}")
    return samples.y


def _network(
    preprocessor: Preprocessor,
    samples: Dataset,
    hidden: list[str] | None,
    activation: str,
    loss: str | None,
    **options: Any,
) -> Network:
    """Build the network that fits the data."""
    from ..network import Network

    if loss is None:
        loss = "cross_entropy" if preprocessor.classes else "squared_error"
    n_out = len(preprocessor.classes) if preprocessor.classes else as_columns(samples.y).shape[1]
    layers = _hidden_sizes(hidden)
    activations = [activation] * len(layers) + [_output_activation(loss, preprocessor.task)]
    return Network([samples.X.shape[1], *layers, n_out], activations, loss=loss, **options)


def _hidden_sizes(hidden: list[str] | None) -> list[int]:
    """Sizes of the hidden layers, from "30", "64,32", or several such."""
    words = ",".join(hidden or ["30"]).split(",")
    if words == ["0"]:
        return []
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"--hidden takes sizes such as 30 or 64,32, not {','.join(words)!r}")
    return [int(word) for word in words]


def _output_activation(loss: str, task: str) -> str:
    """Activation of the output layer that goes with a loss; a loss that does not fit the task is refused."""
    row = row_of(loss)
    if task == "numbers":
        if row.within_01 or row.takes_signs:
            raise ValueError(f"--loss {loss} is for classes, but the targets are numbers")
        if row.is_positive:
            raise ValueError(
                f"--loss {loss} is for counts, but numbers are standardized here, to mean 0 and deviation 1"
            )
        return "identity"
    return "softmax" if row.takes_labels else "identity" if row.takes_signs else "sigmoid"


def _describe(screen: Screen, data: str, net: Network, preprocessor: Preprocessor, n_train: int, n_test: int) -> None:
    """Print what is trained on what."""
    targets = f"{len(preprocessor.classes)} classes" if preprocessor.classes else "numbers"
    screen.say(
        f"{data}: {n_train + n_test:,} samples of {net.sizes[0]} features, {targets}; "
        f"{n_train:,} to train, {n_test:,} held out to test"
    )
    screen.say(
        f"network {'-'.join(map(str, net.sizes))}, {', '.join(map(str, net.activations))}; "
        f"{net.loss_name}; {net.parameters.size:,} parameters, {net.dtype}"
    )


def _warn_of_untested(
    screen: Screen, preprocessor: Preprocessor, y: np.ndarray, test: np.ndarray, fraction: float
) -> None:
    """Warn if no samples are held out although some were asked for, or none of some classes."""
    if not len(test):
        if fraction:
            few = f"fewer than {MIN_TEST_DATA}" if len(y) < MIN_TEST_DATA else f"too few for a fraction of {fraction:g}"
            screen.warn(f"nothing is held out to test: {len(y):,} samples are {few}")
    elif preprocessor.classes:
        counts = np.bincount(y[test], minlength=len(preprocessor.classes))
        names = [reprlib.repr(name) for name, n in zip(preprocessor.classes, counts, strict=True) if not n]
        if names:
            screen.warn(
                f"{len(names):,} of the {len(counts):,} classes have no sample held out to test: {first_few(names)}"
            )


def _train(
    screen: Screen,
    trainer: Trainer,
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
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen.out,
        transient=True,
        disable=not screen.out.is_terminal,
    ) as bar:
        task = bar.add_task("", total=epochs)
        screen.say(_titles(metrics, validation_data is not None), "bold")
        try:
            for history in _histories(trainer, X, Y, epochs, shown, validation_data=validation_data, metrics=metrics):
                seconds += sum(history.seconds)
                if history.interrupted:
                    return True
                if history.nonfinite:
                    raise ValueError(
                        f"the loss became infinite in epoch {trainer.epochs + 1}: "
                        f"try a smaller --lr than {trainer.lr:g}"
                    )
                bar.update(task, completed=trainer.epochs, description=f"loss {history.loss[-1]:.4g}")
                if trainer.epochs in shown:
                    screen.say(_epoch_line(trainer.epochs, history))
        except KeyboardInterrupt:
            return True
    screen.say(f"trained {trainer.epochs:,} epochs in {seconds:.2f} s")
    return False


def _histories(
    trainer: Trainer, X: np.ndarray, Y: np.ndarray, epochs: int, measured: set[int], **measurements: Any
) -> Iterator[History]:
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
    return _cells(["epoch", *titles, *([f"test {title}" for title in titles] if has_validation else [])])


def _epoch_line(epoch: int, history: History) -> str:
    """Format the last epoch of a history in the order of `_titles`."""
    cells = [f"{epoch}", f"{history.loss[-1]:.4g}"]
    cells += [f"{values[-1]:.2%}" for name, values in history.metrics.items() if name == "accuracy"]
    cells += [f"{value:.4g}" for value in history.validation_loss[-1:]]
    cells += [f"{values[-1]:.2%}" for name, values in history.metrics.items() if name != "accuracy"]
    return _cells(cells)


def _cells(cells: list[str]) -> str:
    return "  ".join(f"{cell:>{COLUMN_WIDTH}}" for cell in cells)
