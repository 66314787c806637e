"""The command `fastbp predict`: predictions of a saved model as CSV, and their score where targets are known."""

from __future__ import annotations

import csv
import reprlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import numpy as np
import typer

from ..datasets import Dataset
from ..datasets.dataset import first_few
from ..preprocessing import Preprocessor, as_columns, read
from .options import Header, check_out
from .screen import Screen, plain, printable, show_score

if TYPE_CHECKING:
    from ..network import Network


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that fastbp train --out saved.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="As for train; the targets may be missing.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write.", show_default="the screen")] = None,
    backend: Annotated[str, typer.Option(help="numba or numpy.")] = "numba",
    header: Header = None,
) -> None:
    """Predict with a saved model; if the data have targets that it knows, show how good the predictions are."""
    from ..population import Population, load

    screen = Screen()
    if not model.is_file():
        raise FileNotFoundError(f"no file {str(model)!r}")
    check_out(out, model, data)
    model_of_file = load(model, backend=backend)
    is_ensemble = isinstance(model_of_file, Population)
    net = model_of_file[0] if is_ensemble else model_of_file
    predict_outputs = model_of_file.mean if is_ensemble else model_of_file.predict
    preprocessor = Preprocessor.from_metadata(model_of_file.metadata, sizes=net.sizes, path=model)
    samples = read(data, preprocessor=preprocessor, n_features=net.sizes[0], header=header)
    n_features = samples.X.shape[1]
    if n_features != net.sizes[0]:
        raise ValueError(f"{data} has {n_features} features, but {model} takes {net.sizes[0]}")
    screen.announce_compilation(net)
    A = _outputs(net, predict_outputs, preprocessor, samples.X, data, model)
    _write_predictions(screen, out, *_predictions(net, preprocessor, A))
    _show_score_if_known(screen, preprocessor, samples, A, data)


def _outputs(
    net: Network,
    predict_outputs: Callable[[np.ndarray], np.ndarray],
    preprocessor: Preprocessor | None,
    X: np.ndarray,
    data: str,
    model: Path,
) -> np.ndarray:
    """Return the outputs of the model; ValueError if they, or what leads to or follows from them, are not finite."""
    if preprocessor is not None:
        X = preprocessor.inputs(X, net.dtype)
    _check_finite(X, "standardized inputs", data)
    A = predict_outputs(X)
    _check_finite(A, f"outputs of {model}", data)
    if preprocessor is not None:
        _check_finite(preprocessor.predictions(A), f"predictions of {model}", data)
    return A


def _check_finite(values: np.ndarray, what: str, data: str) -> None:
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise ValueError(f"the {what} are not finite for row {int(finite.argmin())} of {data}")


def _predictions(
    net: Network, preprocessor: Preprocessor | None, A: np.ndarray
) -> tuple[list[str], Iterable[Sequence[str]]]:
    """Titles and rows of the CSV file: the class and its output, or the numbers, or the plain outputs."""
    if preprocessor is not None and preprocessor.classes is not None:
        title = "probability" if net.activations[-1] == "softmax" else "output"
        names = preprocessor.classes
        return ["prediction", title], ((names[row.argmax()], f"{row.max():.6g}") for row in A)
    values = A if preprocessor is None else preprocessor.predictions(A)
    name = "output" if preprocessor is None else "prediction"
    titles = [name] if A.shape[1] == 1 else [f"{name} {j}" for j in range(A.shape[1])]
    return titles, ([f"{value:.9g}" for value in row] for row in values)


def _write_predictions(screen: Screen, out: Path | None, titles: list[str], rows: Iterable[Sequence[str]]) -> None:
    if out is None:
        _write_csv(sys.stdout, titles, rows)
        return
    with out.open("w", newline="", encoding="utf-8") as stream:
        n_rows = _write_csv(stream, titles, rows)
    screen.err.print(plain(f"{n_rows:,} predictions written to {out}"))


def _write_csv(stream: IO[str], titles: list[str], rows: Iterable[Sequence[str]]) -> int:
    """Write a table, names escaped if a terminal shows it and exact otherwise; return the number of rows."""
    is_terminal = stream.isatty()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(titles)
    n_rows = 0
    for row in rows:
        writer.writerow([printable(cell) for cell in row] if is_terminal else row)
        n_rows += 1
    return n_rows


def _show_score_if_known(
    screen: Screen, preprocessor: Preprocessor | None, samples: Dataset, A: np.ndarray, data: str
) -> None:
    """Print how good the outputs are for the rows whose targets the model knows, and which rows are left out."""
    reason = _not_comparable(samples, preprocessor, A.shape[1], data)
    if reason is not None or preprocessor is None:
        screen.warn(f"no score: {reason}")
        return
    rows, y, others = _known_targets(samples, preprocessor)
    if not len(rows):
        screen.warn(f"no score: none of {len(A):,} rows has a target that the model knows: {', '.join(others)}")
        return
    if len(rows) < len(A):
        screen.warn(f"{len(A) - len(rows):,} of {len(A):,} rows left out of the score: {', '.join(others)}")
    show_score(screen.err, preprocessor, y, A[rows], data)


def _not_comparable(samples: Dataset, preprocessor: Preprocessor | None, n_out: int, data: str) -> str | None:
    """Say why no target at all can be compared with the predictions; None if some can."""
    if samples.y is None:
        column = f" in a column {preprocessor.target!r}" if preprocessor and preprocessor.target else ""
        return f"{data} has no targets{column}"
    if preprocessor is None:
        return f"the model does not say what its outputs mean, so the targets of {data} are not compared"
    task = "numbers" if samples.classes is None else "classes"
    if task != preprocessor.task:
        return f"the targets of {data} are {task}, but the model predicts {preprocessor.task}"
    found, expected = as_columns(samples.y).shape[1], n_out if preprocessor.classes is None else 1
    return None if found == expected else f"{data} has {found} targets a row, but the model predicts {expected}"


def _known_targets(samples: Dataset, preprocessor: Preprocessor) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the rows whose targets the model knows, these targets as the model encodes them, and remarks on others."""
    if preprocessor.classes is None or samples.classes is None:
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
            f"({first_few([reprlib.repr(name) for name in unknown])})"
        )
    return np.flatnonzero(y >= 0), y[y >= 0], others
