"""The command `fastbp predict`: predictions of a saved model as CSV, and their score where targets are known."""

from __future__ import annotations

import csv
import itertools
import json
import reprlib
import sys
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..datasets import Dataset
from ..datasets.cells import with_truth
from ..datasets.dataset import first_few
from ..preprocessing import Preprocessor, as_columns, read
from .options import Backend, Delimiter, Encoding, Header, check_out, columns
from .screen import Screen, plain, printable, show_score

if TYPE_CHECKING:
    from ..network import Network


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that fastbp train --out saved.")],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="As for train, - for standard input; the targets may be missing.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write: CSV, .jsonl (JSON lines) or .npz.", show_default="CSV, the screen"),
    ] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Write the probability of every class.")] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Columns of a table to write before the predictions: id, or a,b.", show_default="none"),
    ] = None,
    backend: Backend = "numba",
    header: Header = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
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
    if proba and (preprocessor is None or preprocessor.classes is None):
        raise ValueError(f"--proba is for models of classes, and {model} predicts numbers")
    n_features = net.sizes[0] if preprocessor is None else preprocessor.n_features(net.sizes[0])
    samples = read(
        data,
        preprocessor=preprocessor,
        n_features=n_features,
        header=header,
        encoding=encoding,
        delimiter=delimiter,
        keep=columns(keep) or (),
    )
    for remark in samples.remarks:
        screen.warn(f"warning: {remark}")
    if samples.X.shape[1] != n_features:
        raise ValueError(f"{data} has {samples.X.shape[1]} features, but {model} takes {n_features}")
    screen.announce_compilation(net)
    A = _outputs(net, predict_outputs, preprocessor, samples.X, data, model)
    results = {**samples.kept, **_predictions(net, preprocessor, A, proba, samples.kept)}
    digits = 9 if preprocessor is None or preprocessor.classes is None else 6
    _write_predictions(screen, out, results, digits)
    _show_score_if_known(screen, preprocessor, samples, A, data, net.activations[-1] == "softmax")


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
        A = preprocessor.calibrated(A)
        _check_finite(preprocessor.predictions(A), f"predictions of {model}", data)
    return A


def _check_finite(values: np.ndarray, what: str, data: str) -> None:
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise ValueError(f"the {what} are not finite for row {int(finite.argmin())} of {data}")


def _predictions(
    net: Network, preprocessor: Preprocessor | None, A: np.ndarray, proba: bool, taken: Container[str]
) -> dict[str, Sequence[Any] | np.ndarray]:
    """Columns to write: the class and its output, or those of all classes; or the numbers; or the plain outputs.

    A name that is taken by a column of the table gets an underscore.
    """
    results: dict[str, Sequence[Any] | np.ndarray] = {}

    def add(name: str, values: Sequence[Any] | np.ndarray) -> None:
        while name in taken:
            name += "_"
        results[name] = values

    if preprocessor is not None and preprocessor.classes is not None:
        title = "probability" if net.activations[-1] == "softmax" else "output"
        classes = list(preprocessor.classes)
        add("prediction", [classes[c] for c in A.argmax(axis=1)])
        if proba:
            for name, column in zip(classes, A.T, strict=True):
                add(f"{title} {name}", column)
        else:
            add(title, A.max(axis=1))
        return results
    values = A if preprocessor is None else preprocessor.predictions(A)
    name = "output" if preprocessor is None else "prediction"
    for j, column in enumerate(values.T):
        add(name if len(values.T) == 1 else f"{name} {j}", column)
    return results


def _write_predictions(
    screen: Screen, out: Path | None, results: dict[str, Sequence[Any] | np.ndarray], digits: int
) -> None:
    """Write columns: to the screen as CSV, or to a file in the format of its name."""
    if out is None:
        _write_csv(sys.stdout, results, digits)
        return
    if out.suffix.lower() == ".npz":
        arrays = {"file_" if name == "file" else name: np.asarray(values) for name, values in results.items()}
        np.savez(out, **arrays)  # type: ignore[arg-type]
    else:
        with out.open("w", newline="", encoding="utf-8") as stream:
            if out.suffix.lower() in (".jsonl", ".ndjson"):
                _write_json(stream, results)
            else:
                _write_csv(stream, results, digits)
    screen.err.print(plain(f"{len(next(iter(results.values()))):,} predictions written to {out}"))


def _write_csv(stream: IO[str], results: dict[str, Sequence[Any] | np.ndarray], digits: int) -> None:
    """Write a table, names escaped if a terminal shows it and exact otherwise."""
    is_terminal = stream.isatty()
    writer = csv.writer(stream, lineterminator="\n")
    columns = [
        values if isinstance(values, list) else [f"{value:.{digits}g}" for value in values]
        for values in results.values()
    ]
    for row in itertools.chain([list(results)], zip(*columns, strict=True)):
        writer.writerow([printable(cell) for cell in row] if is_terminal else row)


def _write_json(stream: IO[str], results: dict[str, Sequence[Any] | np.ndarray]) -> None:
    """Write an object for each row in a line of its own."""
    columns = [values.tolist() if isinstance(values, np.ndarray) else values for values in results.values()]
    for row in zip(*columns, strict=True):
        stream.write(json.dumps(dict(zip(results, row, strict=True)), ensure_ascii=False) + "\n")


def _show_score_if_known(
    screen: Screen,
    preprocessor: Preprocessor | None,
    samples: Dataset,
    A: np.ndarray,
    data: str,
    are_probabilities: bool,
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
    show_score(
        screen.err, preprocessor, y, A[rows], data, are_probabilities, note="; flatters if trained on these rows"
    )


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
    index = {with_truth(name): i for i, name in enumerate(preprocessor.classes)}
    y = np.array([index.get(with_truth(name), -1) for name in samples.classes])[samples.y]
    counts = np.bincount(samples.y, minlength=len(samples.classes))
    unknown = {name: n for name, n in zip(samples.classes, counts, strict=True) if n and with_truth(name) not in index}
    n_missing = unknown.pop("", 0)
    others = [f"{n_missing:,} without a target"] if n_missing else []
    if unknown:
        which = "a class" if len(unknown) == 1 else f"{len(unknown):,} classes"
        others.append(
            f"{sum(unknown.values()):,} of {which} that the model does not know "
            f"({first_few([reprlib.repr(name) for name in unknown])})"
        )
    return np.flatnonzero(y >= 0), y[y >= 0], others
