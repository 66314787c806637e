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
from .screen import Screen, regression_errors, show_score

if TYPE_CHECKING:
    from ..network import Network
    from ..population import Population

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
    ensemble: Annotated[
        int | None,
        typer.Option(min=2, help="Train so many networks together; the model is their mean.", show_default="one"),
    ] = None,
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

    check_can_save(out, data)
    screen = Screen(survives_broken_pipe=out is not None)
    samples = read_samples(screen, data, target, task, header, missing, ignore, features, encoding, delimiter)
    y = targets_of(samples, data)
    rows, test = split(y, test_fraction if len(y) >= MIN_TEST_DATA else 0, samples.classes is not None)
    preprocessor = Preprocessor.of(samples, rows)
    layers = _hidden_sizes(hidden)
    options = {"dtype": dtype, "seed": seed, "backend": backend}
    net = _model(preprocessor, samples, layers, activation, loss, ensemble, **options)
    if lr is None:
        lr = 0.2 if preprocessor.classes and activation == "sigmoid" else 0.02
    epochs = epochs or default_epochs(batch_size, len(rows))
    trainer = Trainer(net, SGD(lr, momentum), batch_size=batch_size, seed=seed)  # type: ignore[arg-type]

    _describe(screen, data, net, preprocessor, len(rows), len(test))
    _warn_of_untested(screen, preprocessor, y, test, test_fraction)
    screen.announce_compilation(net if ensemble is None else net[0])  # type: ignore[arg-type,index]
    X, Y = preprocessor.inputs(samples.X, net.dtype), preprocessor.targets(y, net.loss_name)
    validation_data = (X[test], Y[test]) if len(test) else None
    interrupted = _train(screen, trainer, X[rows], Y[rows], epochs, validation_data, bool(preprocessor.classes))
    if out is not None:
        net.save(out, metadata=preprocessor.metadata())
    shown = test if len(test) else rows
    name = "test" if len(test) else "training"
    A = net.predict(X[shown])
    show_score(screen.out, preprocessor, y[shown], A if ensemble is None else net.mean(X[shown]), name)  # type: ignore[union-attr]
    if ensemble is not None:
        screen.say(_of_single_networks(preprocessor, y[shown], A, name))
    if out is not None:
        screen.say(f"saved; now try: {shlex.join(['fastbp', 'predict', str(out), data])}")
    if interrupted:
        kept = "the model is saved as it is" if out is not None else "not saved, as there was no --out"
        screen.warn(f"stopped by Ctrl-C after {trainer.epochs} epochs; {kept}")
        raise typer.Exit(130)


def default_epochs(batch_size: int, n_samples: int) -> int:
    """Return the number of epochs that make a typical number of updates."""
    return min(2000, max(30, math.ceil(TYPICAL_UPDATES * batch_size / n_samples)))


def check_can_save(out: Path | None, data: str) -> None:
    """Refuse, before the training, what could not be saved after it."""
    check_out(out, data)
    if out is not None and out.suffix.lower() == ".safetensors":
        from .. import files

        files._safetensors()


def read_samples(
    screen: Screen,
    data: str,
    target: str | None,
    task: str,
    header: bool | None,
    missing: str,
    ignore: list[str] | None,
    features: list[str] | None,
    encoding: str | None,
    delimiter: str | None,
) -> Dataset:
    """Read samples by the options of the command, and show what became of the columns of a table."""
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
    return samples


def targets_of(samples: Dataset, data: str) -> np.ndarray:
    """Return the targets; ValueError if there are none, or all are of one class."""
    if samples.y is None:
        raise ValueError(f"{data} has no targets to train on")
    if samples.classes is not None and len(samples.classes) < 2:
        raise ValueError(f"{data}: every sample is of the one class {samples.classes[0]!r}")
    return samples.y


def _model(
    preprocessor: Preprocessor,
    samples: Dataset,
    layers: list[int],
    activation: str,
    loss: str | None,
    ensemble: int | None,
    **options: Any,
) -> Network | Population:
    """Build the network that fits the data, or so many of them."""
    from ..network import Network
    from ..population import Population

    sizes, activations, loss = architecture(preprocessor, samples, layers, activation, loss)
    if ensemble is None:
        return Network(sizes, activations, loss=loss, **options)
    return Population(sizes, ensemble, activations, loss=loss, **options)


def architecture(
    preprocessor: Preprocessor, samples: Dataset, layers: list[int], activation: str, loss: str | None
) -> tuple[list[int], list[str], str]:
    """Return sizes, activations and loss of a network with these hidden layers that fits the data."""
    if loss is None:
        loss = "cross_entropy" if preprocessor.classes else "squared_error"
    n_out = len(preprocessor.classes) if preprocessor.classes else as_columns(samples.y).shape[1]
    activations = [activation] * len(layers) + [_output_activation(loss, preprocessor.task)]
    return [samples.X.shape[1], *layers, n_out], activations, loss


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


def _describe(
    screen: Screen, data: str, net: Network | Population, preprocessor: Preprocessor, n_train: int, n_test: int
) -> None:
    """Print what is trained on what."""
    describe_data(screen, data, net.sizes[0], preprocessor, n_train, n_test)  # type: ignore[arg-type]
    is_one = net.parameters.ndim == 1
    screen.say(
        f"{'network' if is_one else f'{len(net.parameters)} networks'} {'-'.join(map(str, net.sizes))}, "
        f"{', '.join(map(str, net.activations))}; {net.loss_name}; "
        f"{net.parameters.shape[-1]:,} parameters{'' if is_one else ' each'}, {net.dtype}"
    )
    if not is_one:
        screen.say("the table has means over the networks, each alone")


def describe_data(
    screen: Screen, data: str, n_features: int, preprocessor: Preprocessor, n_train: int, n_test: int
) -> None:
    """Print what is trained on."""
    targets = f"{len(preprocessor.classes)} classes" if preprocessor.classes else "numbers"
    screen.say(
        f"{data}: {n_train + n_test:,} samples of {n_features} features, {targets}; "
        f"{n_train:,} to train, {n_test:,} held out to test"
    )


def _of_single_networks(preprocessor: Preprocessor, y: np.ndarray, outputs: np.ndarray, name: str) -> str:
    """Say how well the networks of an ensemble do, each alone."""
    predictions = [preprocessor.predictions(A) for A in outputs]
    if preprocessor.classes is not None:
        scores = [float((predicted == y).mean()) for predicted in predictions]
        return f"{name} accuracy of single networks: mean {np.mean(scores):.2%}, {min(scores):.2%} to {max(scores):.2%}"
    y = as_columns(y)
    errors = [float(np.mean([rmse for rmse, _ in regression_errors(y, predicted)])) for predicted in predictions]
    return f"{name} RMSE of single networks: mean {np.mean(errors):.4g}, {min(errors):.4g} to {max(errors):.4g}"


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
    return _cells(["epoch", *titles, *([f"test {title}" for title in titles] if has_validation else [])])


def _epoch_line(epoch: int, history: Any) -> str:
    """Format the last epoch of a history, with means over the networks, in the order of `_titles`."""
    cells = [f"{epoch}", f"{np.mean(history.loss[-1]):.4g}"]
    cells += [f"{np.mean(values[-1]):.2%}" for name, values in history.metrics.items() if name == "accuracy"]
    cells += [f"{np.mean(value):.4g}" for value in history.validation_loss[-1:]]
    cells += [f"{np.mean(values[-1]):.2%}" for name, values in history.metrics.items() if name != "accuracy"]
    return _cells(cells)


def _cells(cells: list[str]) -> str:
    return "  ".join(f"{cell:>{COLUMN_WIDTH}}" for cell in cells)
