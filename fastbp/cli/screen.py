"""What the commands print: escaped text, the standard output and error, and the scores of predictions."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..datasets import reader
from ..preprocessing import Preprocessor, as_columns
from ..scores import calibration_error, log_loss, regression_errors

if TYPE_CHECKING:
    from ..network import Network

MAX_CONFUSION = 12  # classes of a confusion table; with more, only the most frequent confusions are listed
MAX_TABLE_WIDTH = 10_000  # columns of text, when the width of a table is measured
MAX_NAME = 60  # characters shown of the name of a class
COLUMN_WIDTH = 13  # of the table of epochs
MAX_LINE = 4000  # characters of a message
# What a terminal obeys, or cannot write: control characters, line separators, directions of writing, lone surrogates.
CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, limit: int = MAX_LINE) -> str:
    r"""Escape a text for a terminal, such as ESC to ``\x1b``, and cut it; all printed text passes through here."""
    text = CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def plain(text: str, style: str = "") -> Text:
    """Return a text that rich prints as it is, without markup."""
    return Text(printable(text), style)


class Screen:
    """Where the commands write: results to the standard output, warnings and errors to the standard error.

    Parameters
    ----------
    survives_broken_pipe : bool
        Go on silently when nothing reads the standard output any more, instead of exiting.
    """

    def __init__(self, survives_broken_pipe: bool = False) -> None:
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(highlight=False, soft_wrap=True, stderr=True)
        if survives_broken_pipe:
            self.out.on_broken_pipe = self._silence  # type: ignore[method-assign]

        reader.before_compiling[:] = [lambda: self._announce("the reader of large files")]

    def _silence(self) -> None:
        self.out.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def say(self, text: str, style: str = "") -> None:
        """Print a line of results."""
        self.out.print(plain(text, style))

    def warn(self, text: str) -> None:
        """Print what should not go unnoticed."""
        self.err.print(plain(text, "yellow"))

    def announce_compilation(self, net: Network) -> None:
        """Say so if the kernels have yet to be compiled."""
        if net.backend == "numba" and not net._backend.is_compiled():
            self._announce("kernels")

    def _announce(self, what: str) -> None:
        self.err.print(plain(f"compiling {what} for this machine (once) ...", "dim"))


def progress_bar(screen: Screen) -> Progress:
    """Return a bar of epochs, that only a terminal shows."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen.out,
        transient=True,
        disable=not screen.out.is_terminal,
    )


def epoch_line(texts: Sequence[str]) -> str:
    """Return a line of the table of epochs."""
    return "  ".join(f"{text:>{COLUMN_WIDTH}}" for text in texts)


def scores(preprocessor: Preprocessor, y: np.ndarray, A: np.ndarray, are_probabilities: bool) -> dict[str, float]:
    """Return how well outputs A predict the targets y, by name; means over the outputs of numbers.

    Without R2 where the targets of an output are all equal.
    """
    predicted = preprocessor.predictions(A)
    if preprocessor.classes is None:
        rmse, r2 = zip(*regression_errors(as_columns(y), predicted), strict=True)
        errors = {"RMSE": float(np.mean(rmse))}
        return errors if None in r2 else {**errors, "R2": float(np.mean(r2))}
    found = {"accuracy": float((predicted == y).mean())}
    return {**found, "log loss": log_loss(A, y)} if are_probabilities else found


def scores_in_words(found: Sequence[dict[str, float]]) -> str:
    """Return the scores that all have as text, with their standard deviation where there are several."""
    words = []
    for name in [name for name in found[0] if all(name in of_one for of_one in found)]:
        values = [of_one[name] for of_one in found]
        mean, std = np.mean(values), np.std(values)
        mean_in_words, std_in_words = (
            (f"{mean:.2%}", f"{std:.2%}") if name == "accuracy" else (f"{mean:.4g}", f"{std:.2g}")
        )
        words.append(f"{name} {mean_in_words}{f' +- {std_in_words}' if len(found) > 1 else ''}")
    return ", ".join(words)


def show_score(
    console: Console,
    preprocessor: Preprocessor,
    y: np.ndarray,
    A: np.ndarray,
    name: str,
    are_probabilities: bool = False,
    note: str = "",
) -> None:
    """Print how well outputs A predict the targets y: accuracy and confusions of classes, errors of numbers.

    And log loss and calibration error of probabilities. A note ends the first line.
    """
    predicted = preprocessor.predictions(A)
    if preprocessor.classes is None:
        _show_errors(console, as_columns(y), predicted, name, note)
        return
    n_right = int((predicted == y).sum())
    console.print(plain(f"{name} accuracy {n_right / len(y):.2%} ({n_right:,} of {len(y):,}){note}", "bold"))
    if are_probabilities:
        console.print(
            plain(f"{name} log loss {log_loss(A, y):.4g}, expected calibration error {calibration_error(A, y):.2%}")
        )
    classes = [printable(text, MAX_NAME) for text in preprocessor.classes]
    n = len(classes)
    counts = np.bincount(y * n + predicted, minlength=n * n).reshape(n, n)
    if n <= MAX_CONFUSION:
        _show_confusion_table(console, classes, counts)
    else:
        _show_most_frequent_confusions(console, classes, counts)


def _show_errors(console: Console, y: np.ndarray, predicted: np.ndarray, name: str, note: str) -> None:
    """Print RMSE and R2 of every output."""
    for j, (rmse, r2) in enumerate(regression_errors(y, predicted)):
        output = f" of output {j}" if predicted.shape[1] > 1 else ""
        score = "R2 undefined, as the targets are all equal" if r2 is None else f"R2 {r2:.4f}"
        console.print(plain(f"{name} RMSE{output} {rmse:.4g}, {score}{note if j == 0 else ''}", "bold"))


def _show_confusion_table(console: Console, classes: Sequence[str], counts: np.ndarray) -> None:
    table = _confusion_table(classes, classes, counts)
    width = console.measure(table, options=console.options.update_width(MAX_TABLE_WIDTH)).maximum
    if width > console.width:  # long names: numbers above the columns
        numbers = [str(i) for i in range(len(classes))]
        rows = [f"{number} {name}" for number, name in zip(numbers, classes, strict=True)]
        table = _confusion_table(rows, numbers, counts)
    console.print(table)


def _confusion_table(rows: Sequence[str], columns: Sequence[str], counts: np.ndarray) -> Table:
    table = Table("true \\ predicted", box=None, header_style="dim")
    for name in columns:
        table.add_column(plain(name), justify="right")
    for i, name in enumerate(rows):
        cells = [
            plain(str(count), "green" if i == j else "red") if count or i == j else plain(".", "dim")
            for j, count in enumerate(counts[i])
        ]
        table.add_row(plain(name), *cells)
    return table


def _show_most_frequent_confusions(console: Console, classes: Sequence[str], counts: np.ndarray) -> None:
    errors = np.where(np.eye(len(classes)), 0, counts).ravel()
    order = np.argsort(-errors, kind="stable")
    for k in order[:MAX_CONFUSION]:
        if errors[k]:
            true, wrong = (classes[i] for i in divmod(int(k), len(classes)))
            console.print(plain(f"  {true} taken for {wrong}: {errors[k]}"))
    if rest := errors[order[MAX_CONFUSION:]].sum():
        console.print(plain(f"  and {rest:,} errors of rarer kinds"))
