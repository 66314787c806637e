"""The command `fastbp`: train on a file, predict with what was learnt, check the arithmetic, trace it."""

from __future__ import annotations

import csv
import functools
import math
import os
import re
import reprlib
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np

from ..datasets import bundled
from ..datasets.dataset import some
from ..losses import row_of
from ..preprocessing import Preprocessor, as_columns, read, split

try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    _missing: str | None = error.name or "typer"
else:
    _missing = None

N_ROWS = 30  # of the table of epochs
WIDTH = 13  # of its columns
N_UPDATES = 200  # of the progress bar
MIN_TEST_DATA = 20  # with fewer samples none are held out
TYPICAL_UPDATES = 2000  # of the parameters, from which the number of epochs follows
WIDEST = 10_000  # columns of a screen
MAX_CONFUSION = 12  # classes of a confusion table; of more, only the commonest confusions are listed
MAX_NAME = 60  # characters shown of the name of a class
MAX_LINE = 4000  # characters of a line that is not of results
# What a terminal obeys, or cannot write: control characters, line separators, directions of writing, lone surrogates.
CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, limit: int = MAX_LINE) -> str:
    r"""Escape a text for a terminal, such as ESC to ``\x1b``, and cut it; whatever is printed goes through here."""
    text = CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def plain(text: str, style: str = "") -> Text:
    """Return a text to be printed by rich as it is, without markup."""
    return Text(printable(text), style)


class Screen:
    """Where the commands write: results to the standard output, remarks and errors to the standard error."""

    def __init__(self, goes_on: bool = False) -> None:
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(highlight=False, soft_wrap=True, stderr=True)
        if goes_on:  # to its end, though nobody listens any more
            self.out.on_broken_pipe = self._say_no_more  # type: ignore[method-assign]

    def _say_no_more(self) -> None:
        self.out.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def remark(self, text: str) -> None:
        """Say what should not go unnoticed."""
        self.err.print(plain(text, "yellow"))

    def announce_compilation(self, net: Any) -> None:
        """Say it if the kernels have yet to be compiled."""
        if net.backend == "numba":
            from ..engine.backend import is_compiled

            if not is_compiled(net.dtype):
                self.err.print(plain("compiling kernels for this machine (once) ...", "dim"))


def main() -> None:
    """Run the command line."""
    if _missing is not None:
        sys.exit(f'The fastbp command needs {_missing}: pip install "fastbp[cli]"')
    make_app()()


def make_app() -> typer.Typer:
    """Build the application from the functions of this file."""

    class Commands(typer.core.TyperGroup):
        """Commands whose usage errors print what was typed as it can be printed."""

        def make_context(self, *args: Any, **kwargs: Any) -> Any:
            with _printable_message():
                return super().make_context(*args, **kwargs)

        def invoke(self, *args: Any, **kwargs: Any) -> Any:
            with _printable_message():
                return super().invoke(*args, **kwargs)

    app = typer.Typer(
        cls=Commands, add_completion=False, pretty_exceptions_enable=False, epilog="Try: fastbp train digits"
    )
    app.callback(invoke_without_command=True)(about)
    for command in (train, predict, verify, trace):
        app.command()(_reporting_errors(command))
    return app


@contextmanager
def _printable_message() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(getattr(error, "message", None), str):  # the usage errors of every version of typer
            error.message = printable(error.message)  # type: ignore[attr-defined]
        raise


def about(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Feed-forward neural networks, trained by backpropagation on the CPU."""
    if version:
        from .. import __version__

        print(f"fastbp {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def _reporting_errors(command: Callable) -> Callable:
    """Turn errors that a user can mend into one red line and exit code 2, and warnings into a yellow one."""

    def show_warning(message, *args, **kwargs):
        Screen().remark(f"warning: {' '.join(str(message).split())}")

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default", UserWarning)
                warnings.showwarning = show_warning
                return command(*args, **kwargs)
        except BrokenPipeError:  # of `| head`: typer exits quietly
            raise
        except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
            text = f"{error.strerror}: {error.filename}" if getattr(error, "filename", None) else str(error)
            Screen().err.print(Text.assemble(("error:", "red"), " ", plain(" ".join(text.split()))))
            raise typer.Exit(2) from None

    return wrapped


# ------------------------------------------------------------------ train


def train(
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="digits, xor, a CSV or npz file, or a pair of IDX files: images,labels."),
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
    momentum: Annotated[float, typer.Option(help="Share of the last step in the next.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Of the first weights and of the shuffling.")] = 0,
    test_fraction: Annotated[float, typer.Option(help="Share of the samples held out to test.")] = 0.2,
    target: Annotated[
        str | None,
        typer.Option(help="Target column of a CSV file: its name, or its number from 0.", show_default="the last"),
    ] = None,
    task: Annotated[str, typer.Option(help="What the targets are: classes, numbers, or auto.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    backend: Annotated[str, typer.Option(help="numba, or numpy: plain and slow.")] = "numba",
    out: Annotated[Path | None, typer.Option(help="Save the model there.", show_default="not saved")] = None,
    header: Annotated[
        bool | None, typer.Option(help="Whether the first line of a CSV file holds names.", show_default="looked at")
    ] = None,
) -> None:
    """Train a network; show loss and accuracy as it learns, then how it does on samples held out."""
    from .. import files
    from ..optimizers import SGD
    from ..training.trainer import Trainer

    _check_out(out, data)
    if out is not None and out.suffix.lower() == ".safetensors":
        files._safetensors()  # before the training, which would be lost
    screen = Screen(goes_on=out is not None)
    samples = read(data, target=target, task=task, header=header)
    y = _targets(samples, data)
    rows, test = split(y, test_fraction if len(y) >= MIN_TEST_DATA else 0, samples.classes is not None)
    preprocessor = Preprocessor.of(samples, rows)
    net = _network(preprocessor, samples, hidden, activation, loss, dtype=dtype, seed=seed, backend=backend)
    if lr is None:
        lr = 0.2 if preprocessor.classes and activation == "sigmoid" else 0.02
    trainer = Trainer(net, SGD(lr, momentum), batch_size=batch_size, seed=seed)
    if epochs is None:
        epochs = min(2000, max(30, math.ceil(TYPICAL_UPDATES * batch_size / len(rows))))

    kinds = f"{len(preprocessor.classes)} classes" if preprocessor.classes else "numbers"
    screen.out.print(
        plain(
            f"{data}: {len(y):,} samples of {net.sizes[0]} features, {kinds}; "
            f"{len(rows):,} to train, {len(test):,} held out to test"
        )
    )
    screen.out.print(
        plain(
            f"network {'-'.join(map(str, net.sizes))}, {', '.join(net.activations)}; "
            f"{net.loss_name}; {net.parameters.size:,} parameters, {net.dtype}"
        )
    )
    _remark_untested(screen, preprocessor, y, test, test_fraction)
    screen.announce_compilation(net)
    X, Y = preprocessor.inputs(samples.X, net.dtype), preprocessor.targets(y, net.loss_name)
    interrupted = _train(
        screen, trainer, X[rows], Y[rows], epochs, (X[test], Y[test]) if len(test) else None, bool(preprocessor.classes)
    )
    if out is not None:
        net.save(out, metadata=preprocessor.metadata())
    shown = test if len(test) else rows
    _show_result(screen.out, preprocessor, y[shown], net.predict(X[shown]), "test" if len(test) else "training")
    if out is not None:
        screen.out.print(plain(f"saved; now try: {shlex.join(['fastbp', 'predict', str(out), data])}"))
    if interrupted:
        kept = "what was learnt is saved" if out is not None else "not saved, as there was no --out"
        screen.remark(f"stopped by Ctrl-C after {trainer.epochs} epochs; {kept}")
        raise typer.Exit(130)


def _remark_untested(
    screen: Screen, preprocessor: Preprocessor, y: np.ndarray, test: np.ndarray, fraction: float
) -> None:
    """Say it if no samples are held out though some were asked for, or none of some classes."""
    if not len(test):
        if fraction:
            few = f"fewer than {MIN_TEST_DATA}" if len(y) < MIN_TEST_DATA else f"too few for a share of {fraction:g}"
            screen.remark(f"nothing is held out to test: {len(y):,} samples are {few}")
    elif preprocessor.classes:
        counts = np.bincount(y[test], minlength=len(preprocessor.classes))
        names = [reprlib.repr(name) for name, n in zip(preprocessor.classes, counts, strict=True) if not n]
        if names:
            screen.remark(
                f"{len(names):,} of the {len(counts):,} classes have no sample held out to test: {some(names)}"
            )


def _check_out(out: Path | None, *inputs: str | Path) -> None:
    """Refuse a file that cannot be written, or that is read."""
    if out is None:
        return
    if not out.parent.is_dir():
        raise ValueError(f"cannot save to {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise ValueError(f"cannot save to {out}: it is a folder")
    for name in inputs:
        if Path(name).exists() and out.exists() and out.samefile(name):
            raise ValueError(f"cannot save to {out}: it is read, and would be lost")


def _network(
    preprocessor: Preprocessor,
    samples: Any,
    hidden: list[str] | None,
    activation: str,
    loss: str | None,
    **options: Any,
) -> Any:
    """Build the network that fits the data."""
    from ..network import Network

    if loss is None:
        loss = "cross_entropy" if preprocessor.classes else "squared_error"
    n_out = len(preprocessor.classes) if preprocessor.classes else as_columns(samples.y).shape[1]
    layers = _hidden(hidden)
    activations = [activation] * len(layers) + [_output(loss, preprocessor.task)]
    return Network([samples.X.shape[1], *layers, n_out], activations, loss=loss, **options)


def _targets(samples: Any, data: str) -> np.ndarray:
    if samples.y is None:
        raise ValueError(f"{data} has no targets to train on")
    if samples.classes is not None and len(samples.classes) < 2:
        raise ValueError(f"{data}: every sample is of the one class {samples.classes[0]!r}")
    return samples.y


def _hidden(hidden: list[str] | None) -> list[int]:
    """Sizes of the hidden layers, from "30", "64,32", or several such."""
    words = ",".join(hidden or ["30"]).split(",")
    if words == ["0"]:
        return []
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"--hidden takes sizes such as 30 or 64,32, not {','.join(words)!r}")
    return [int(word) for word in words]


def _output(loss: str, task: str) -> str:
    """Activation of the output layer that goes with a loss."""
    row = row_of(loss)  # Network tells of names that there are not
    if task == "numbers":
        if row.within_01 or row.takes_signs:
            raise ValueError(f"--loss {loss} is for classes, but the targets are numbers")
        if row.is_positive:
            raise ValueError(f"--loss {loss} is for counts, but numbers are trained with mean 0 and deviation 1 here")
        return "identity"
    return "softmax" if row.takes_labels else "identity" if row.takes_signs else "sigmoid"


def _train(
    screen: Screen, trainer: Any, X: np.ndarray, Y: np.ndarray, epochs: int, validation: Any, classes: bool
) -> bool:
    """Train and show it; return whether Ctrl-C ended it."""
    titles = ["loss", "accuracy"][: 1 + classes]
    titles = ["epoch", *titles, *(["test " + title for title in titles] if validation else [])]
    shown = {1, *np.linspace(0, epochs, min(epochs, N_ROWS) + 1).astype(int)[1:].tolist()}
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
        screen.out.print(plain("  ".join(f"{title:>{WIDTH}}" for title in titles), "bold"))
        try:
            for history in _histories(
                trainer, X, Y, epochs, shown, validation_data=validation, metrics=["accuracy"] * classes
            ):
                seconds += sum(history.seconds)
                if history.interrupted:
                    return True
                if history.nonfinite:
                    raise ValueError(
                        f"the loss became infinite in epoch {trainer.epochs + 1}: "
                        f"try a smaller --lr than {trainer.optimizer.lr:g}"
                    )
                bar.update(task, completed=trainer.epochs, description=f"loss {history.loss[-1]:.4g}")
                if trainer.epochs in shown:
                    screen.out.print(plain(_line(trainer.epochs, history)))
        except KeyboardInterrupt:
            return True
    screen.out.print(plain(f"trained {trainer.epochs:,} epochs in {seconds:.2f} s"))
    return False


def _histories(
    trainer: Any, X: np.ndarray, Y: np.ndarray, epochs: int, stops: set[int], **measured: Any
) -> Iterator[Any]:
    """Train in few calls of `fit`, measuring only the epochs in `stops`, and yield their histories."""
    while trainer.epochs < epochs:
        until = min(stop for stop in stops if stop > trainer.epochs)
        between = min(until - trainer.epochs - 1, math.ceil(epochs / N_UPDATES))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the History says the same
            if between:
                history = trainer.fit(X, Y, epochs=between, progress=False)
            else:
                history = trainer.fit(X, Y, progress=False, **measured)
        yield history


def _line(epoch: int, history: Any) -> str:
    """Format the last epoch of a history: losses and accuracies."""
    cells = [f"{epoch}", f"{history.loss[-1]:.4g}"]
    cells += [f"{values[-1]:.2%}" for name, values in history.metrics.items() if name == "accuracy"]
    cells += [f"{value:.4g}" for value in history.validation_loss[-1:]]
    cells += [f"{values[-1]:.2%}" for name, values in history.metrics.items() if name != "accuracy"]
    return "  ".join(f"{cell:>{WIDTH}}" for cell in cells)


# ------------------------------------------------------------------ results


def _show_result(console: Console, preprocessor: Preprocessor, y: np.ndarray, A: np.ndarray, which: str) -> None:
    """Print accuracy and confusion table, or RMSE and R2, of outputs A for targets y."""
    predicted = preprocessor.predictions(A)
    if preprocessor.classes is None:
        for j, (rmse, r2) in enumerate(_errors(as_columns(y), predicted)):
            name = f" of output {j}" if predicted.shape[1] > 1 else ""
            score = "R2 undefined, as the targets are all equal" if r2 is None else f"R2 {r2:.4f}"
            console.print(plain(f"{which} RMSE{name} {rmse:.4g}, {score}", "bold"))
        return
    right = int((predicted == y).sum())
    console.print(plain(f"{which} accuracy {right / len(y):.2%} ({right:,} of {len(y):,})", "bold"))
    names = [printable(name, MAX_NAME) for name in preprocessor.classes]
    n = len(names)
    counts = np.bincount(y * n + predicted, minlength=n * n).reshape(n, n)
    if n <= MAX_CONFUSION:
        table = _confusion_table(names, names, counts)
        wanted = console.measure(table, options=console.options.update_width(WIDEST)).maximum
        if wanted > console.width:  # long names: numbers above the columns
            table = _confusion_table([f"{i} {name}" for i, name in enumerate(names)], list(map(str, range(n))), counts)
        console.print(table)
        return
    errors = np.where(np.eye(n), 0, counts).ravel()
    order = np.argsort(-errors, kind="stable")
    for k in order[:MAX_CONFUSION]:
        if errors[k]:
            true, wrong = (names[i] for i in divmod(int(k), n))
            console.print(plain(f"  {true} taken for {wrong}: {errors[k]}"))
    if rest := errors[order[MAX_CONFUSION:]].sum():
        console.print(plain(f"  and {rest:,} errors of rarer kinds"))


def _confusion_table(rows: Sequence[str], columns: Sequence[str], counts: np.ndarray) -> Table:
    table = Table("true \\ predicted", box=None, header_style="dim")
    for name in columns:
        table.add_column(plain(name), justify="right")
    for i, name in enumerate(rows):
        cells = [
            plain(str(c), "green" if i == j else "red") if c or i == j else plain(".", "dim")
            for j, c in enumerate(counts[i])
        ]
        table.add_row(plain(name), *cells)
    return table


def _errors(y: np.ndarray, predicted: np.ndarray) -> Iterator[tuple[float, float | None]]:
    """Root mean squared error and coefficient of determination of every output; None where all targets are equal."""
    for true, guess in zip(y.T, predicted.T, strict=True):
        size = max(np.abs(true).max(), np.abs(guess).max()) or 1.0  # so that no difference leaves the range of numbers
        rmse, deviation = _rms(guess / size - true / size), _rms(true / size - (true / size).mean())
        with np.errstate(over="ignore", divide="ignore"):
            yield float(size * rmse), None if (true == true[0]).all() else float(1 - (rmse / deviation) ** 2)


def _rms(values: np.ndarray) -> np.float64:
    """Root of the mean square; no square leaves the range of numbers."""
    size = np.abs(values).max() or 1.0
    return size * np.sqrt(np.mean((values / size) ** 2))


# ------------------------------------------------------------------ predict


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="What fastbp train --out saved.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="As for train; targets may be there or not.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write.", show_default="the screen")] = None,
    backend: Annotated[str, typer.Option(help="numba or numpy.")] = "numba",
    header: Annotated[
        bool | None, typer.Option(help="Whether the first line of a CSV file holds names.", show_default="looked at")
    ] = None,
) -> None:
    """Predict with a saved model; where the data have targets that it knows, say how good the predictions are."""
    from ..files import load

    screen = Screen()
    if not model.is_file():
        raise FileNotFoundError(f"no file {str(model)!r}")
    _check_out(out, model, data)
    net = load(model, backend=backend)
    preprocessor = Preprocessor.from_metadata(net.metadata, net.sizes, model)
    samples = read(data, preprocessor=preprocessor, n_features=net.sizes[0], header=header)
    n_in = samples.X.shape[1]
    if n_in != net.sizes[0]:
        raise ValueError(f"{data} has {n_in} features, but {model} takes {net.sizes[0]}")
    screen.announce_compilation(net)
    X = samples.X if preprocessor is None else preprocessor.inputs(samples.X, net.dtype)
    _check_finite(X, "standardized inputs", data)
    A = net.predict(X)
    _check_finite(A, f"outputs of {model}", data)
    if preprocessor is not None:
        _check_finite(preprocessor.predictions(A), f"predictions of {model}", data)
    titles, rows = _predictions(net, preprocessor, A)
    if out is None:
        _write_csv(sys.stdout, titles, rows)
    else:
        with out.open("w", newline="", encoding="utf-8") as stream:
            _write_csv(stream, titles, rows)
        screen.err.print(plain(f"{len(A):,} predictions written to {out}"))
    _show_score(screen, preprocessor, samples, A, data)


def _check_finite(values: np.ndarray, what: str, data: str) -> None:
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise ValueError(f"the {what} are not finite for row {int(finite.argmin())} of {data}")


def _predictions(net: Any, preprocessor: Preprocessor | None, A: np.ndarray) -> tuple[list[str], Iterable[Sequence]]:
    """Titles and rows of the CSV file: the class and its output, or the numbers, or the bare outputs."""
    if preprocessor is not None and preprocessor.classes is not None:
        best = A.argmax(axis=1)
        title = "probability" if net.activations[-1] == "softmax" else "output"
        names = preprocessor.classes
        return ["prediction", title], ((names[c], f"{row[c]:.6g}") for c, row in zip(best, A, strict=True))
    values = A if preprocessor is None else preprocessor.predictions(A)
    name = "output" if preprocessor is None else "prediction"
    titles = [name] if A.shape[1] == 1 else [f"{name} {j}" for j in range(A.shape[1])]
    return titles, ([f"{value:.9g}" for value in row] for row in values)


def _write_csv(stream: IO[str], titles: list[str], rows: Iterable[Sequence]) -> None:
    if stream.isatty():  # everywhere else, names stay exact
        rows = ([printable(cell) for cell in row] for row in rows)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(rows)


def _show_score(screen: Screen, preprocessor: Preprocessor | None, samples: Any, A: np.ndarray, data: str) -> None:
    """Print how good outputs are where the model knows the targets, and what is left out."""
    why = _not_comparable(samples, preprocessor, A.shape[1], data)
    if why is not None or preprocessor is None:
        screen.remark(f"no score: {why}")
        return
    rows, y, others = _known_targets(samples, preprocessor)
    if not len(rows):
        screen.remark(f"no score: none of {len(A):,} rows has a target that the model knows: {', '.join(others)}")
        return
    if len(rows) < len(A):
        screen.remark(f"{len(A) - len(rows):,} of {len(A):,} rows left out of the score: {', '.join(others)}")
    _show_result(screen.err, preprocessor, y, A[rows], data)


def _not_comparable(samples: Any, preprocessor: Preprocessor | None, n_out: int, data: str) -> str | None:
    """Say why no target at all can be compared with predictions; None if some can."""
    if samples.y is None:
        return f"{data} has no targets" + (
            f" in a column {preprocessor.target!r}" if preprocessor and preprocessor.target else ""
        )
    if preprocessor is None:
        return f"the model does not say what its outputs mean, so the targets of {data} are not compared"
    task = "numbers" if samples.classes is None else "classes"
    if task != preprocessor.task:
        return f"the targets of {data} are {task}, but the model predicts {preprocessor.task}"
    found, expected = as_columns(samples.y).shape[1], n_out if preprocessor.classes is None else 1
    return None if found == expected else f"{data} has {found} targets a row, but the model predicts {expected}"


def _known_targets(samples: Any, preprocessor: Preprocessor) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the rows whose targets the model knows, these in its terms, and how many there are of which others."""
    if preprocessor.classes is None:
        rows = np.flatnonzero(np.isfinite(as_columns(samples.y)).all(axis=1))
        return rows, samples.y[rows], [f"{len(samples.y) - len(rows):,} without a number as the target"]
    index = {name: i for i, name in enumerate(preprocessor.classes)}
    y = np.array([index.get(name, -1) for name in samples.classes])[samples.y]
    counts = np.bincount(samples.y, minlength=len(samples.classes))
    unknown = {name: n for name, n in zip(samples.classes, counts, strict=True) if n and name not in index}
    n_missing = unknown.pop("", 0)
    others = [f"{n_missing:,} without a target"] if n_missing else []
    if unknown:
        which = "a class" if len(unknown) == 1 else f"{len(unknown):,} classes"
        others.append(
            f"{sum(unknown.values()):,} of {which} that the model does not know "
            f"({some([reprlib.repr(name) for name in unknown])})"
        )
    return np.flatnonzero(y >= 0), y[y >= 0], others


# ------------------------------------------------------------------ verify, trace


def verify(seed: Annotated[int, typer.Option(help="Of the weights and the samples.")] = 0) -> None:
    """Check the gradients of small networks: Numba against NumPy against central differences."""
    from ..network import Network

    screen = Screen()
    ok, is_wrong = True, False
    for sizes, activations, loss in VERIFIED:
        net = Network(sizes, activations, loss=loss, seed=seed)
        screen.announce_compilation(net)
        rng = np.random.default_rng(seed)
        X, Y = rng.standard_normal((9, sizes[0])), rng.dirichlet(np.ones(sizes[-1] + 1), 9)[:, 1:]
        report = net.verify(X, Y / Y.sum(axis=1, keepdims=True) if loss == "cross_entropy" else Y)
        print(f"{'-'.join(map(str, sizes))}, {', '.join(activations)}; {loss}\n{report}\n")
        ok, is_wrong = ok and report.ok, is_wrong or report.is_wrong
    screen.out.print(
        "[red]WRONG: see above[/red]"
        if is_wrong
        else "[green]everything agrees[/green]"
        if ok
        else "not everything could be checked: see above"
    )
    raise typer.Exit(0 if ok else 1)


def trace(
    data: Annotated[str, typer.Argument(help="xor.")] = "xor",
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
) -> None:
    """Follow one backpropagation through a 2-2-1 network, quantity by quantity."""
    from ..network import Network

    if data != "xor":
        raise ValueError(f"only xor can be traced here, not {data!r}; net.trace(X, Y) traces any in Python")
    net = Network([2, 2, 1], "sigmoid", loss="squared_error", dtype="float64", seed=seed, backend="numpy")
    print(net.trace(*bundled.load_xor()))


VERIFIED = [
    ([2, 2, 1], ["sigmoid", "sigmoid"], "squared_error"),
    ([5, 7, 4, 3], ["tanh", "sigmoid", "softmax"], "cross_entropy"),
    ([4, 6, 2], ["relu", "sigmoid"], "binary_cross_entropy"),
    ([3, 9, 5, 2], ["gelu", "elu", "identity"], "huber"),
    ([6, 17, 1], ["silu", "softplus"], "absolute_error"),
]
