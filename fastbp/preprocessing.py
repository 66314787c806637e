"""What `fastbp train` does to its data: standardize inputs, encode targets, decode outputs; saved with the model."""

from __future__ import annotations

import json
import os
import re
import reprlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from . import checks
from .datasets import arrays, bundled, frames, tables
from .datasets.columns import column_means, filled
from .datasets.dataset import Column, Dataset, open_maybe_gzipped
from .datasets.dates import PARTS
from .datasets.features import Choice
from .encodings import PiecewiseLinearEncoding
from .losses import name_of, row_of

BUNDLED = ("digits", "xor")
METADATA_KEY = "recipe"  # of a Preprocessor in the metadata of a model file
COLUMN_FIELDS = ("parts", "flag", "other", "unit", "day_first")  # beside name and categories
STDIN = "-"
OPTIONAL = {"has_names", "encoding", "temperature"}  # fields missing in models of earlier versions
UNLESS_NONE = ("encoding", "temperature")  # fields that only models that need them have, so that earlier versions read
MAX_TEXT = 1 << 17  # characters of a name; the csv module reads no longer cells
MAX_CATEGORY_TEXT = 1 << 24  # characters of the categories of a column, as an array of 64 MB
FLOAT32 = np.finfo(np.float32)
NO_EFFECT = 1e38  # scale of an input that is constant in the training data, so that other values have no effect


@dataclass(frozen=True)
class Preprocessor:
    """How samples become inputs, and outputs become classes or numbers.

    Missing numbers, which are NaN, become inputs of 0: the mean of the training rows.

    Attributes
    ----------
    mean, scale : list of float
        Inputs are (X - mean) / scale; one number for all features, or one per feature.
    classes : sequence of str or None
        The class of each output; None if the targets are numbers.
    target_mean, target_scale : list of float
        Predicted numbers are outputs * target_scale + target_mean.
    columns : sequence of Column or None
        The columns to read from a table, and the features that each becomes.
    target : str or None
        The target column of a table.
    has_names : bool or None
        Whether that table has a header; None in models saved by earlier versions, and without a table.
    encoding : PiecewiseLinearEncoding or None
        Fitted to standardized samples; the inputs are what it makes of these.
    temperature : float or None
        Of classes: probabilities become their power 1 / temperature, divided by the sum; see `calibrated`.  Only models
        of earlier versions have one: `fastbp.recipes.train` divides the last layers of the networks by theirs.

    Raises
    ------
    ValueError
        If a field is not valid; the message names it.
    """

    mean: list[float]
    scale: list[float]
    classes: Sequence[str] | None = None
    target_mean: Sequence[float] = (0.0,)
    target_scale: Sequence[float] = (1.0,)
    columns: Sequence[Column] | None = None
    target: str | None = None
    has_names: bool | None = None
    encoding: PiecewiseLinearEncoding | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        """Validate."""
        _check(self)

    @classmethod
    def of(cls, data: Dataset, rows: np.ndarray, encoding: PiecewiseLinearEncoding | None = None) -> Preprocessor:
        """Make a preprocessor that standardizes by mean and standard deviation over the training rows.

        Parameters
        ----------
        data : Dataset
        rows : ndarray
            Numbers of the training rows.
        encoding : PiecewiseLinearEncoding, optional
            Fitted here to these rows.
        """
        X = data.X[rows].reshape(-1, 1) if data.pixels else data.X[rows]
        mean, scale = _mean_and_scale(X, NO_EFFECT)
        of_table: dict[str, Any] = {"columns": data.columns, "target": data.target, "has_names": data.has_names}
        if data.classes is not None:
            made = cls(mean, scale, data.classes, **of_table)
        else:
            made = cls(mean, scale, None, *_mean_and_scale(as_columns(data.y)[rows]), **of_table)
        if encoding is None:
            return made
        return replace(made, encoding=encoding.fit(made.inputs(data.X[rows], np.dtype(np.float32))))

    @classmethod
    def from_metadata(
        cls, metadata: dict[str, str], sizes: Sequence[int] | None = None, path: str | os.PathLike[str] = "the model"
    ) -> Preprocessor | None:
        """Read the preprocessor that `metadata` wrote; None if there is none.

        Parameters
        ----------
        metadata : dict of str
            The metadata of a network.
        sizes : sequence of int, optional
            The sizes of the network, which the preprocessor must fit.
        path : str or path-like
            The file of the network, for the messages.

        Raises
        ------
        ValueError
            If the text is damaged, or does not fit the network; the message names file and field.
        """
        if METADATA_KEY not in checks.metadata(metadata):
            return None
        try:
            preprocessor = cls(**_field_values(metadata[METADATA_KEY], {field.name for field in fields(cls)}))
            if sizes is not None:
                _check(preprocessor, sizes[0], sizes[-1])
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else error
            raise ValueError(f"{path}, metadata {METADATA_KEY!r}: {reason}") from None
        return preprocessor

    def metadata(self) -> dict[str, str]:
        """Return the metadata for `Network.save`, from which `from_metadata` reads the preprocessor."""
        values = asdict(self)
        if self.columns is not None:
            values["columns"] = [_column_to_json(column) for column in self.columns]
        if self.encoding is not None:
            values["encoding"] = self.encoding.to_dict()
        kept = {name: value for name, value in values.items() if value is not None or name not in UNLESS_NONE}
        return {METADATA_KEY: json.dumps(kept)}

    @property
    def task(self) -> str:
        """Kind of the targets: "classes" or "numbers"."""
        return "numbers" if self.classes is None else "classes"

    def n_features(self, n_inputs: int) -> int:
        """Return the number of features of samples, of which a network has so many inputs."""
        return n_inputs if self.encoding is None else len(self.encoding.edges)

    def inputs(self, X: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Standardize samples in float32, or in float64 if float32 cannot hold the numbers, and convert to `dtype`.

        Then they are encoded, if there is an encoding.
        """
        precise = np.result_type(X, np.float32)
        if max(np.abs([*self.mean, *self.scale])) > FLOAT32.max or min(self.scale) < FLOAT32.tiny:
            precise = np.dtype(np.float64)
        with np.errstate(over="ignore"):
            inputs = ((X - np.array(self.mean, precise)) / np.array(self.scale, precise)).astype(dtype, copy=False)
        if X.dtype.kind == "f" and np.isnan(X).any():
            inputs[np.isnan(X)] = 0
        return inputs if self.encoding is None else self.encoding.transform(inputs)

    def targets(self, y: np.ndarray, loss: str) -> np.ndarray:
        """Encode targets for a loss: class indices, one-hot rows, or rows of -1 and 1; numbers are standardized."""
        if self.classes is None:
            return (as_columns(y) - self.target_mean) / self.target_scale
        row = row_of(loss)
        if row.takes_labels:
            return y
        one_hot = np.eye(len(self.classes))[y]
        return 2 * one_hot - 1 if row.takes_signs else one_hot

    def calibrated(self, A: np.ndarray) -> np.ndarray:
        """Return outputs, such as the mean of those of several networks, as calibrated probabilities, float64.

        Without a temperature they are returned as they are.  The order of the classes of a sample is not changed.
        """
        return A if self.temperature is None else tempered(A, self.temperature)

    def predictions(self, A: np.ndarray) -> np.ndarray:
        """Decode outputs: class indices (n_samples,), or numbers (n_samples, n_out) in the units of the targets."""
        if self.classes is not None:
            return A.argmax(axis=1)
        with np.errstate(over="ignore"):
            return A.astype(np.float64) * self.target_scale + self.target_mean


def _check(preprocessor: Preprocessor, n_in: int | None = None, n_out: int | None = None) -> None:
    """Raise ValueError unless every field has its type, and the fields fit each other and the network."""
    for field in ("mean", "target_mean"):
        _check_numbers(field, getattr(preprocessor, field))
    for field, other in (("scale", preprocessor.mean), ("target_scale", preprocessor.target_mean)):
        _check_numbers(field, getattr(preprocessor, field), positive=True)
        _check_length(field, getattr(preprocessor, field), len(other), "one for each mean")
    if (encoding := preprocessor.encoding) is not None:
        _require(isinstance(encoding, PiecewiseLinearEncoding), "encoding", "a PiecewiseLinearEncoding", encoding)
        if n_in not in (None, encoding.n_outputs):
            raise ValueError(f"encoding makes {encoding.n_outputs} inputs, but the network has {n_in}")
        n_in = len(encoding.edges)
    if preprocessor.columns is not None:
        _check_texts("columns", [column.name for column in preprocessor.columns])
        for i, column in enumerate(preprocessor.columns):
            _check_column(f"columns[{i}]", column)
        width = sum(column.n_features for column in preprocessor.columns)
        if n_in not in (None, width):
            takes = "the network has" if encoding is None else "the encoding takes"
            raise ValueError(f"columns make {width} inputs, but {takes} {n_in}")
        n_in = width
    if len(preprocessor.mean) > 1:
        _check_length("mean", preprocessor.mean, n_in, "one for each input")
    if preprocessor.classes is None:
        _check_length("target_mean", preprocessor.target_mean, n_out, "one for each output")
    else:
        _check_texts("classes", preprocessor.classes)
        _require(len(preprocessor.classes) > 1, "classes", "a list of two or more", preprocessor.classes)
        _check_length("classes", preprocessor.classes, n_out, "one for each output")
    if preprocessor.temperature is not None:
        _check_numbers("temperature", [preprocessor.temperature], positive=True)
        _require(preprocessor.classes is not None, "temperature", "null for numbers", preprocessor.temperature)
    _require(
        isinstance(preprocessor.has_names, bool | None), "has_names", "true, false or null", preprocessor.has_names
    )
    if preprocessor.target is not None:
        _check_text("target", preprocessor.target)
        known = [column.name for column in preprocessor.columns or ()]
        _require(preprocessor.target not in known, "target", "none of the columns", preprocessor.target)


def _check_column(field: str, column: Column) -> None:
    """Raise ValueError unless the features of a column are described as `Column` says."""
    if column.categories is not None and not column.is_left_out:
        _check_texts(f"{field}.categories", column.categories, MAX_CATEGORY_TEXT)
    parts = column.parts
    are_parts = isinstance(parts, list | tuple) and all(isinstance(part, str) and part in PARTS for part in parts)
    _require(are_parts and len(set(parts)) == len(parts), f"{field}.parts", f"some of {', '.join(PARTS)}", parts)
    for name in ("flag", "other"):
        _require(isinstance(getattr(column, name), bool), f"{field}.{name}", "true or false", getattr(column, name))
    _check_text(f"{field}.unit", column.unit)
    _require(isinstance(column.day_first, bool | None), f"{field}.day_first", "true, false or null", column.day_first)
    is_text = column.categories is not None
    _require(not (is_text and (parts or column.flag or column.unit)), field, "text, a number or a date", column)
    _require(is_text or not column.other, f"{field}.other", "false for a number", column.other)


def _check_numbers(field: str, values: Any, positive: bool = False) -> None:
    """Raise ValueError unless these are one or more finite numbers."""
    _require(isinstance(values, list | tuple) and len(values) > 0, field, "a list of numbers", values)
    for i, value in enumerate(values):
        is_finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        expected = "a finite number above 0" if positive else "a finite number"
        _require(is_finite and (value > 0 or not positive), f"{field}[{i}]", expected, value)


def _check_texts(field: str, values: Any, limit: float = np.inf) -> None:
    """Raise ValueError unless these are one or more different texts, that fit into an array within the limit."""
    _require(isinstance(values, list | tuple) and len(values) > 0, field, "a list of texts", values)
    seen = set()
    for i, value in enumerate(values):
        _check_text(f"{field}[{i}]", value)
        _require(value not in seen, f"{field}[{i}]", "different from those before it", value)
        seen.add(value)
    _require(len(values) * max(map(len, values)) <= limit, field, f"texts of {limit:,} characters in all", values)


def _check_text(field: str, value: Any) -> None:
    """Raise ValueError unless this is a text that a cell of a table and a NumPy array can hold exactly."""
    _require(isinstance(value, str), field, "text", value)
    _require(len(value) <= MAX_TEXT, field, f"a text of at most {MAX_TEXT:,} characters", value)
    _require(not re.search("[\0\ud800-\udfff]", value), field, "a text without NUL and lone surrogates", value)


def _check_length(field: str, values: Sequence[Any], n: int | None, each: str) -> None:
    _require(n in (None, len(values)), field, f"a list of {n}, {each}", values)


def _require(condition: bool, field: str, expected: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{field} must be {expected}, got {reprlib.repr(value)}")


def _field_values(text: str, known: set[str]) -> dict[str, Any]:
    """Parse the fields of a preprocessor; ValueError if one is missing, unknown or repeated."""

    def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in pairs:
            if name in values:
                raise ValueError(f"the field {reprlib.repr(name)} is there twice")
            values[name] = value
        return values

    values = json.loads(text, parse_int=float, object_pairs_hook=without_repetition)  # 400 digits: infinity
    _require(isinstance(values, dict), "it", "an object", values)
    for names, what in ((known - OPTIONAL - set(values), "missing"), (set(values) - known, "unknown")):
        if names:
            raise ValueError(f"the field {reprlib.repr(min(names))} is {what}")
    if values["columns"] is not None:
        _require(isinstance(values["columns"], list), "columns", "a list or null", values["columns"])
        values["columns"] = tuple(_column(f"columns[{i}]", value) for i, value in enumerate(values["columns"]))
    if values.get("encoding") is not None:
        values["encoding"] = _encoding(values["encoding"])
    return values


def _encoding(value: Any) -> PiecewiseLinearEncoding:
    """Return the encoding of a file, whose whole numbers have become floats."""
    if isinstance(value, dict):
        of_settings = {name: number for name, number in value.items() if name in ("n_bins", "max_distinct")}
        whole = {name: int(n) for name, n in of_settings.items() if isinstance(n, float) and n.is_integer()}
        value = value | whole
    try:
        return PiecewiseLinearEncoding.from_dict(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"encoding: {error}") from None


def _column(field: str, value: Any) -> Column:
    expected = "a list of a name, its categories, and perhaps an object of more"
    _require(isinstance(value, list) and len(value) in (2, 3), field, expected, value)
    name, categories, *rest = value
    more = rest[0] if rest else {}
    _require(isinstance(more, dict) and more.keys() <= set(COLUMN_FIELDS), field, expected, value)
    more = {key: tuple(each) if isinstance(each, list) else each for key, each in more.items()}
    return Column(name, tuple(categories) if isinstance(categories, list) else categories, **more)


def _column_to_json(column: Column) -> list[Any]:
    """Return name and categories, as in models of earlier versions, and the fields that are not as in those."""
    more = {name: getattr(column, name) for name in COLUMN_FIELDS}
    more = {name: value for name, value in more.items() if value != Column._field_defaults[name]}
    return [column.name, column.categories, *([more] if more else [])]


def read(
    source: str,
    *,
    target: str | None = None,
    task: str = "auto",
    preprocessor: Preprocessor | None = None,
    n_features: int | None = None,
    header: bool | None = None,
    missing: str | None = None,
    ignore: Sequence[str] = (),
    features: Sequence[str] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    keep: Sequence[str] = (),
) -> Dataset:
    """Read bundled data by name, or a table, npz or IDX file, recognized by its first bytes.

    Parameters
    ----------
    source : str
        A name of `BUNDLED`, a file, "-" for the standard input, or two IDX files "images,labels" (or "images:labels").
    target, task
        As in `fastbp.datasets.read_csv`.
    preprocessor : Preprocessor, optional
        Read the columns, the target and the kind of target of this one.
    n_features : int, optional
        Read data to predict, with this number of features: a CSV file with as many columns has no target, and
        targets may be missing.
    header, missing, ignore, features, encoding, delimiter, keep
        As in `fastbp.datasets.read_csv`. But missing numbers are NaN, which the preprocessor made of the training rows
        replaces by their mean; without a preprocessor there must be none in data to predict.

    Returns
    -------
    Dataset
        What `read_csv` would warn of is in its remarks.

    Raises
    ------
    ValueError
        If the file cannot be parsed, or an option does not apply to its format.
    FileNotFoundError
        If there is no such file.
    """
    complete = n_features is None
    reading: dict[str, Any] = {"header": header, "missing": missing, "encoding": encoding, "delimiter": delimiter}
    reading |= {"ignore": list(ignore) or None, "features": features, "keep": list(keep) or None}
    table_options = {"target": target, **reading}
    label_options = {**table_options, "task": None if task in ("auto", "classes") else task}
    if preprocessor is not None:
        target, task = preprocessor.target, preprocessor.task
    if source in BUNDLED:
        _refuse(label_options, source)
    if source == "digits":
        return bundled.load_digits()
    if source == "xor":
        X, Y = bundled.load_xor()
        return Dataset(X, Y.ravel().astype(np.int64), classes=("0", "1"))
    choice = Choice(-1 if target is None and complete else target, task, missing or "fill", ignore, features, keep)
    choice.complete = choice.leave_out = complete
    choice.fill = False
    if source != STDIN:
        return _read(_files(source), source, choice, preprocessor, n_features, reading, table_options, label_options)
    with tempfile.TemporaryDirectory() as folder:  # a table is read more than once
        path = os.path.join(folder, "stdin")
        with open(path, "wb") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        name = "the standard input"
        return _read([path], name, choice, preprocessor, n_features, reading, table_options, label_options)


def _read(
    files: list[str],
    name: str,
    choice: Choice,
    preprocessor: Preprocessor | None,
    n_features: int | None,
    reading: dict[str, Any],
    table_options: dict[str, Any],
    label_options: dict[str, Any],
) -> Dataset:
    """Read files; see `read`."""
    with open_maybe_gzipped(files[0]) as stream:
        magic = stream.read(4)
    if magic[:2] == b"\0\0":
        _refuse(label_options, f"the IDX file {name}")
        return arrays.read_idx(*files)
    if len(files) == 2:
        raise ValueError(f"{files[0]} is not an IDX file, and only those come in pairs")
    path = files[0]
    shown = path if name != "the standard input" else name
    kind = frames.file_kind(path)
    if magic == b"PK\3\4" and kind is None:
        _refuse(table_options, f"the npz file {name}")
        return arrays.read_npz(path, task=choice.task, complete=choice.complete)
    of_model: dict[str, Any] = {}
    if preprocessor is not None and preprocessor.columns is not None:
        of_model = {"columns": preprocessor.columns, "has_names": preprocessor.has_names}
    if kind is not None or frames.is_json(path):
        _refuse({key: reading[key] for key in ("header", "encoding", "delimiter")}, shown)
        table = frames.read_json(path, shown) if kind is None else frames.read_file(path, kind, shown)
        columns = len(table.columns)
    else:
        table = None
        columns = 0 if of_model else tables.n_columns(path, **{key: reading[key] for key in ("encoding", "delimiter")})
    if of_model:
        choice.complete = True
    elif n_features is not None:  # features only, or a target, too
        choice.missing = "error"
        choice.target = -1 if choice.target is None and columns != n_features else choice.target
    if table is not None:
        return tables.dataset_of(table, choice, **of_model)
    options = {key: reading[key] for key in ("header", "encoding", "delimiter")}
    return tables.read_text(path, choice, **of_model, **options, shown_name=shown)


class TableEncoder:
    """Makes a matrix of numbers of tables with text, dates and missing values: data frames, lists of rows, arrays.

    A number is one column of the matrix, text is one-hot encoded, and a date becomes several numbers, as
    `fastbp.datasets.read_csv` says. What the columns become is learned by `fit`, from its rows alone.

    Parameters
    ----------
    ignore, features : sequence of str
        Columns that are not used; the only ones that are.
    leave_out : bool
        Whether columns that are no features (numbers of the rows, and text that differs in nearly every row) are left
        out. Columns without any value always are.

    Attributes
    ----------
    columns : tuple of Column
        Of the table that was learned from.
    has_names : bool
        Whether it names its columns.
    means : ndarray
        Of each column of the matrix, without missing numbers.
    feature_names : list of str
        Of the columns of the matrix.
    report, remarks : tuple of str
        What each column became, and what should not go unnoticed, in lines.
    """

    def __init__(
        self, ignore: Sequence[str | int] = (), features: Sequence[str | int] | None = None, leave_out: bool = True
    ) -> None:
        self.ignore, self.features, self.leave_out = ignore, features, leave_out
        self.columns: tuple[Column, ...] | None = None

    def fit(self, X: Any) -> TableEncoder:
        """Learn what the columns of a table become."""
        self.fit_transform(X)
        return self

    def fit_transform(self, X: Any, fill: bool = True) -> np.ndarray:
        """Learn what the columns of a table become, and return the matrix, as `transform` does."""
        table = frames.table_of(X)
        choice = Choice(None, ignore=self.ignore, features=self.features, leave_out=self.leave_out, fill=False)
        data = tables.dataset_of(table, choice)
        assert data.columns is not None
        self.columns, self.has_names = data.columns, table.has_header
        self.report, self.remarks = data.report, data.remarks
        self.feature_names = [name for column in data.columns for name in column.feature_names]
        self.means = column_means(data.X)
        return filled(data.X, self.means) if fill else data.X

    def transform(self, X: Any, fill: bool = True) -> np.ndarray:
        """Return the matrix of a table with the same columns, float64 (n_rows, n_features).

        Columns of frames are found by name. Texts that were not there in `fit` are the other ones, and text among
        numbers is missing.

        Parameters
        ----------
        X : data frame, array or list of rows
        fill : bool
            Whether missing numbers are the mean over the rows of `fit`; otherwise they are NaN.

        Raises
        ------
        ValueError
            If columns are missing, or numbers or dates are text; in a line for each column.
        """
        if self.columns is None:
            raise ValueError("the encoder has learned from no table yet: call fit")
        data = encoded(X, self.columns, self.has_names)
        self.remarks = data.remarks
        return filled(data.X, self.means) if fill else data.X


def encoded(X: Any, columns: tuple[Column, ...], has_names: bool) -> Dataset:
    """Return the samples of a table of these columns, a data frame, array or list of rows; see `TableEncoder`."""
    table = frames.table_of(X)
    return tables.dataset_of(table, Choice(None), columns, has_names and table.has_header)


def split(y: np.ndarray, fraction: float, classes: bool) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows into training and test rows, stratified by target.

    The rows are sorted by target and every k-th is a test row, so each class, and each range of numbers, is
    represented in both sets in proportion. There is no randomness. The only row of a class is a training row.

    Parameters
    ----------
    y : ndarray, shape (n_samples,) or (n_samples, n_out)
        Class indices or numbers; rows of several numbers are sorted by the first.
    fraction : float
        Fraction of test rows, from 0 to 0.5.
    classes : bool
        Whether y are class indices.

    Returns
    -------
    train, test : ndarray of int
        Row numbers in ascending order.
    """
    if not 0 <= fraction <= 0.5:
        raise ValueError(f"the test fraction must be between 0 and 0.5, not {fraction:g}")
    n_test = round(fraction * len(y))
    order = np.argsort(as_columns(y)[:, 0], kind="stable")
    test = order[((np.arange(n_test) + 0.5) * len(y) / max(1, n_test)).astype(int)]
    if classes:
        test = test[np.bincount(y)[y[test]] > 1]
    return np.setdiff1d(np.arange(len(y)), test), np.sort(test)


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities (n_samples, n_classes) to the power of 1 / temperature, divided by their sum, float64."""
    logs = np.log(np.maximum(probabilities, FLOAT32.tiny, dtype=np.float64))
    with np.errstate(over="ignore"):
        powers = np.exp((logs - logs.max(axis=1, keepdims=True)) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def output_activation(loss: Any, task: str) -> str:
    """Return the activation of the output layer that goes with a loss and targets of `Preprocessor.targets`.

    Raises
    ------
    ValueError
        If the loss does not fit the task.
    """
    row = row_of(loss)
    if task == "classes":
        return "softmax" if row.takes_labels else "identity" if row.takes_signs else "sigmoid"
    if row.within_01 or row.takes_signs:
        raise ValueError(f"loss {name_of(loss)} is for classes, but the targets are numbers")
    if row.is_positive:
        raise ValueError(
            f"loss {name_of(loss)} is for counts, but numbers are standardized here, to mean 0 and deviation 1"
        )
    return "identity"


def as_columns(y: np.ndarray) -> np.ndarray:
    """Reshape targets (n_samples,) to (n_samples, 1)."""
    return y.reshape(len(y), -1)


def _mean_and_scale(X: np.ndarray, constant: float = 1.0) -> tuple[list[float], list[float]]:
    """Mean and deviation of every column without NaN; `constant` for the latter where all numbers agree to rounding."""
    X = X.astype(np.float64)
    if np.isnan(X).any():
        of_known = [_mean_and_scale(column[~np.isnan(column), None], constant) for column in X.T]
        return [mean for each, _ in of_known for mean in each], [scale for _, each in of_known for scale in each]
    if not len(X):  # a column without any number
        return [0.0] * X.shape[1], [constant] * X.shape[1]
    low, high = X.min(axis=0), X.max(axis=0)
    middle = low / 2 + high / 2  # scaled to -1 .. 1, no square overflows or underflows
    half_range = np.maximum(high / 2 - low / 2, np.finfo(np.float64).tiny)
    scaled = (X - middle) / half_range
    mean, scale = middle + half_range * scaled.mean(axis=0), half_range * scaled.std(axis=0)
    return mean.tolist(), np.where(scale > 8 * np.finfo(np.float64).eps * np.abs(mean), scale, constant).tolist()


def _refuse(options: dict[str, Any], source: str) -> None:
    """Raise ValueError if an option is given that does not apply to the source."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"the option {name} ({value!r}) does not apply to {source}")


def _files(source: str) -> list[str]:
    for files in ([source], source.split(","), source.split(":")):
        if len(files) < 3 and all(Path(file).is_file() for file in files):
            return files
    hint = get_close_matches(source, BUNDLED, 1)
    raise FileNotFoundError(
        f"no file {source!r}" + (f"; did you mean {hint[0]!r}?" if hint else f" (bundled data: {', '.join(BUNDLED)})")
    )
