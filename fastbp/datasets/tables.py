"""A reader of CSV files that detects delimiter, header, numbers, text and columns that are not features."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median_low
from typing import Any

import numpy as np

from .dataset import (
    LEFT_OUT,
    MAX_INTEGER_CLASSES,
    Column,
    Dataset,
    are_classes,
    check_task,
    class_name,
    class_names,
    encode_target,
    first_few,
    open_maybe_gzipped,
    targets_to_compare,
)

DELIMITERS = "\t;|,"  # the comma last: it may also be a decimal comma
MISSING = {"", "?", "na", "n/a", "#n/a", "<na>", "nan", "null"}
CHUNK_CELLS = 1 << 17  # of a file read in chunks: 1 MB of numbers, about 10 MB of text
MAX_CATEGORIES = 32  # a text column with more distinct values is refused as a feature
SAMPLE = 1000  # first values of a column, whose distinct ones are counted
DISTINCT = 0.9  # a text column with a larger fraction of distinct values is names or comments, not a feature
MIN_COUNTED = 4  # rows; fewer may hold consecutive numbers by chance
IDS = {"", "id", "idx", "index", "row_id", "rowid", "unnamed: 0"}  # names of row indices; pandas writes none
ROW_NUMBERS = {"no", "nr", "row", "#"}  # names of row indices if the values are consecutive numbers
YEARS = range(1800, 2201)
MIN_NUMBERED = 4  # columns whose names are taken for consecutive numbers
CURRENCIES = "$€£¥₹"
_SIGNS = re.compile(f"[{CURRENCIES}%]")
_UNIT = re.compile(rf"([+-]?)\s?([{CURRENCIES}]?)\s?([+-]?[.,\d]\S*?)\s?([{CURRENCIES}%]?)")
_GROUPED = {  # by the delimiter: the grouped thousands, then the decimals
    ",": re.compile(r"([+-]?[1-9]\d{0,2}(?:,\d{3})+)((?:\.\d*)?)"),
    "": re.compile(r"([+-]?[1-9]\d{0,2}(?:\.\d{3})+)(,\d*)"),
}
_THREE_DECIMALS = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")  # or grouped thousands


def read_csv(
    path: str | os.PathLike[str],
    target: str | int | None = -1,
    *,
    task: str = "auto",
    header: bool | None = None,
    columns: Sequence[Column] | None = None,
    complete: bool = True,
    has_names: bool | None = None,
    leave_out: bool = True,
) -> Dataset:
    """Read samples and targets from a CSV file.

    The delimiter (comma, semicolon, tab or ``|``) and the header are detected; fields may be quoted, the file may
    be gzipped, and it may start with a byte order mark. If the delimiter is the comma, numbers may have thousands
    separators ("1,200"), otherwise decimal commas. Currency and percent signs are dropped: "$10.5" is 10.5 and
    "5%" is 5.

    Parameters
    ----------
    path : str or path-like
        A UTF-8 text file, one sample per row.
    target : str, int or None
        The target column by its name or by its number (0 is the first, -1 the last), None for no target.
    task : {"auto", "classes", "numbers"}
        Kind of the target. "auto": text and integers with few distinct values are classes, other numbers are
        numbers.
    header : bool, optional
        Whether the first line is a header. By default it is one if

        - in any column, the first cell is text and all cells below are numbers;
        - or the numbers in it are years, or consecutive from 0 or 1, and those of no row below are;
        - or there are no numbers in the file, and no cell of it occurs again in its column.

        With `columns`, it is one if it holds their names, or if every cell of a column of numbers is text and no
        cell is a known category.
    columns : sequence of Column, optional
        Read these features (the `columns` of the training data of a model) instead of all columns but the target.
        They are found by name; if one of the files has no header, by position, and then both files must have the
        same width, with or without the target, or this one must hold the features only. The target may be missing,
        altogether (y is None) or in some rows.
    complete : bool
        Whether every row must have a target, and of the kind `task`. Otherwise the targets serve only to be
        compared with predictions: a missing one is NaN, or of the class "", and so is text among numbers.
    has_names : bool, optional
        Whether the file of `columns` has a header (its `Dataset.has_names`). By default it has one unless the
        names are the numbers of the columns.
    leave_out : bool
        Leave out, with a warning, columns that are not features:

        - text, if more than nine tenths of the first 1000 values are distinct;
        - the index of the rows: distinct integers in a column named "id" or "index", or without a name;
        - row numbers: consecutive numbers in a column named "no", "nr", "row" or "#", or from 0 or 1 in a file
          without header.

        Other columns of consecutive numbers are kept, with a warning. At least one column is kept.

    Returns
    -------
    Dataset
        X float64 (n_samples, n_in). A text column becomes one feature 0 or 1 for each of its categories in
        alphabetical order (one-hot), at most `MAX_CATEGORIES`. y and the attributes as in `Dataset`.

    Raises
    ------
    ValueError
        If the file is empty, ragged, not UTF-8 text or malformed; if values are missing; if a column mixes
        numbers and text or has too many categories; if it is ambiguous whether a comma is a decimal comma. The
        message names file, line and column.
    """
    check_task(task)
    if columns is not None:
        if has_names is None:
            has_names = _have_names(columns, target)
        layout = _Layout(tuple(columns), target, has_names)
        if not layout.used:
            raise ValueError("columns must hold at least one feature")
        table = _read_table(_detect_format(path, header, layout), columns)
        places, found = layout.places(table)
        X = table.features(places, columns)
        y, classes = _target_if_present(table, found, task, places)
        return Dataset(X, y, classes, tuple(columns), None if target is None else str(target), has_names=has_names)
    file_format = _detect_format(path, header)
    j = None if target is None else file_format.index(target)
    table = _read_table(file_format, ())
    features = file_format.feature_places(j)
    scans = [_FeatureScan(file_format, k) for k in features]
    for scan in scans:
        scan.add(table)
    columns, remarks = _features_found(scans, leave_out)
    X = table.features(features, columns)
    y, classes = None, None
    if j is not None and complete:
        y, classes = encode_target(table.values(j), task, f"{path}, target column {table.names[j]!r}")
    elif j is not None:
        y, classes = targets_to_compare(
            table.values_to_compare(j, task), task, f"{path}, target column {table.names[j]!r}"
        )
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    return Dataset(X, y, classes, columns, None if j is None else table.names[j], has_names=file_format.has_header)


def n_columns(path: str | os.PathLike[str]) -> int:
    """Count the columns in the first line of a CSV file."""
    return len(_detect_delimiter(path)[1][0][1])


class CsvChunks:
    """A CSV file read in chunks: the samples and targets of `read_csv`, in bounded memory.

    The whole file is scanned once, for its categories and classes and for errors.

    Parameters
    ----------
    path, target, task, header
        As in `read_csv`; a target is required.

    Attributes
    ----------
    classes, columns, target, has_names
        As in `Dataset`.
    n_samples : int
        Number of rows.
    remarks : list of str
        The warnings of `read_csv`.
    """

    def __init__(
        self, path: str | os.PathLike[str], target: str | int = -1, *, task: str = "auto", header: bool | None = None
    ) -> None:
        check_task(task)
        self.path, self._format = path, _detect_format(path, header)
        self._j = self._format.index(target)
        self._places = self._format.feature_places(self._j)
        self.target, self.has_names = self._format.names[self._j], self._format.has_header
        self._notations: dict[int, set[str]] = {}
        try:
            self._read = self._number_tables
            self._scan(task)
        except (ValueError, EOFError, OSError, zlib.error):  # text, or an error that the second scan reports
            self._read = self._text_tables
            self._scan(task)

    def chunks(self) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Yield numbers of the first and last line, X float64 (n, n_in) and y (n,), `CHUNK_CELLS` at a time."""
        for table in self._read():
            y = table.values(self._j)
            if self.classes is not None:
                y = np.searchsorted(self._values, y).astype(np.int64)
            yield table.lines[0], table.lines[-1], table.features(self._places, self.columns), y

    def _scan(self, task: str) -> None:
        n = 0
        scans = [_FeatureScan(self._format, k) for k in self._places]
        self._notations.clear()
        targets: set[float | str] = set()
        for table in self._read():
            for scan in scans:
                scan.add(table)
            y = table.values(self._j)
            if targets and (y.dtype.kind == "U") != isinstance(next(iter(targets)), str):
                table._reject("numbers and text mixed", self._j, [0], y)
            n += len(y)
            if y.dtype.kind == "U" or task == "classes" or len(targets) <= MAX_INTEGER_CLASSES:
                targets.update(np.unique(y).tolist())
                if y.dtype.kind == "U" and task != "numbers":
                    are_classes(np.array(list(targets)), n, task, f"{self.path}, target column {self.target!r}")
        self.n_samples = n
        self.columns, self.remarks = _features_found(scans)
        for k, found in self._notations.items():
            _check_notations(found, f"{self.path}, column {self._format.names[k]!r}")
        self._values = np.array(sorted(targets))
        classes = are_classes(self._values, n, task, f"{self.path}, target column {self.target!r}")
        self.classes = class_names(self._values) if classes else None

    def _number_tables(self) -> Iterator[_Table]:
        skip = self._format.skip
        with _open_text(self.path) as stream:
            lines = ((i, text) for i, text in enumerate(stream, 1) if i > skip and not text.isspace())
            while chunk := list(islice(lines, self._n_rows)):
                cells = _parse_numbers(self._format, [text for _, text in chunk])
                yield self._format.table(cells, [i for i, _ in chunk])

    def _text_tables(self) -> Iterator[_Table]:
        rows = self._format.rows()
        while chunk := list(islice(rows, self._n_rows)):
            yield self._format.text_table(chunk, self._notations)

    @property
    def _n_rows(self) -> int:
        return max(1, CHUNK_CELLS // len(self._format.names))


@dataclass(frozen=True)
class _Table:
    """Rows of a file: their cells, and their line numbers for error messages."""

    path: str | os.PathLike[str]
    delimiter: str
    has_header: bool
    names: list[str]
    cells: np.ndarray | list[list[str]]  # numbers if all cells are numbers, else rows of text
    lines: Sequence[int]  # line number of each row in the file
    notations: dict[int, set[str]] | None = None  # collects those of each column; None: they are checked at once

    def values(self, j: int) -> np.ndarray:
        """Return column j as float64 or text; ValueError if values are missing, or numbers and text mixed."""
        if isinstance(self.cells, np.ndarray):
            return self.cells[:, j]
        texts = self._texts(j)
        numbers = [_number(text, self.delimiter) for text in texts]
        not_numbers = [i for i, number in enumerate(numbers) if number is None]
        if len(not_numbers) > len(texts) / 2:
            return np.array(texts)
        self._reject("text among numbers", j, not_numbers, texts)
        notations = _all_notations(texts, self.delimiter)
        if self.notations is None:
            _check_notations(notations, f"{self.path}, column {self.names[j]!r}")
        else:
            self.notations.setdefault(j, set()).update(notations)
        column = np.array(numbers, np.float64)
        self._reject("infinity", j, np.flatnonzero(~np.isfinite(column)))
        return column

    def values_to_compare(self, j: int, task: str) -> np.ndarray:
        """Return column j as float64 or text; values that are missing, or text among numbers, are NaN or ""."""
        if isinstance(self.cells, np.ndarray):
            return self.cells[:, j]
        texts = ["" if row[j].lower() in MISSING else row[j] for row in self.cells]
        numbers = [_number(text, self.delimiter) for text in texts]
        n_numbers = sum(number is not None for number in numbers)
        if n_numbers and task != "classes":
            return np.array([np.nan if number is None else number for number in numbers])
        if 2 * n_numbers > sum(map(bool, texts)):  # mostly numbers: 1.0 is the class "1"
            texts = [
                text if number is None else class_name(number) for text, number in zip(texts, numbers, strict=True)
            ]
        return np.array(texts)

    def _texts(self, j: int) -> list[str]:
        texts = [row[j] for row in self.cells]
        self._reject("missing value", j, [i for i, text in enumerate(texts) if text.lower() in MISSING])
        return texts

    def features(self, places: Sequence[int | None], columns: Sequence[Column]) -> np.ndarray:
        """Return the columns at `places` as X, text one-hot encoded, without the columns that are left out."""
        used = [(j, column) for j, column in zip(places, columns, strict=True) if column.categories != LEFT_OUT]
        places, columns = zip(*used, strict=True)
        if isinstance(self.cells, np.ndarray) and all(c.categories is None for c in columns):
            return np.ascontiguousarray(self.cells[:, places])
        return np.column_stack([self._encoded(j, column) for j, column in zip(places, columns, strict=True)])

    def _encoded(self, j: int, column: Column) -> np.ndarray:
        if column.categories is None:
            values = self.values(j)
            if values.dtype.kind == "U":
                self._reject("text for a number", j, range(len(values)), values)
            return values
        if isinstance(self.cells, np.ndarray):
            self._reject("number for a text", j, range(len(self.cells)), self.cells[:, j])
        values = np.array(self._texts(j))
        categories = np.array(column.categories)
        self._reject("unknown category", j, np.flatnonzero(~np.isin(values, categories)), values)
        return (values[:, None] == categories).astype(np.float64)

    def _reject(
        self, what: str, j: int, rows: Sequence[int] | np.ndarray, values: Sequence[Any] | np.ndarray = ()
    ) -> None:
        if len(rows):
            where = f"line{'s' * (len(rows) > 1)} {first_few([self.lines[i] for i in rows])}"
            example = f" {str(values[rows[0]])!r}" if len(values) else ""
            raise ValueError(f"{self.path}, column {self.names[j]!r}: {what}{example} in {where}")


@dataclass(frozen=True)
class _Layout:
    """Columns and target of the training data of a model, to be found in another file."""

    columns: tuple[Column, ...]
    target: str | int | None
    has_names: bool

    @property
    def used(self) -> list[Column]:
        """The columns that are not left out."""
        return [column for column in self.columns if column.categories != LEFT_OUT]

    def places(self, table: _Table) -> tuple[list[int | None], str | None]:
        """Return the places of the columns (None: left out and missing) and the name of the target (None: missing)."""
        names = table.names
        if not (self.has_names and table.has_header):
            return self._by_width(table.path, names)
        missing = [repr(column.name) for column in self.used if column.name not in names]
        if missing:
            raise ValueError(
                f"{table.path} has no column {first_few(missing)}; its {len(names)} columns are {first_few(names, 10)}"
            )
        target = str(self.target)
        if isinstance(self.target, int) and -len(names) <= self.target < len(names):
            target = names[self.target]
        return (
            [names.index(column.name) if column.name in names else None for column in self.columns],
            target if target in names else None,
        )

    def _by_width(self, path: str | os.PathLike[str], names: Sequence[str]) -> tuple[list[int | None], str | None]:
        """Find the columns by position: as in the training data, with or without the target, or the features only."""
        n, width, used = len(self.columns), len(names), self.used
        target = int(str(self.target)) if not self.has_names and re.fullmatch(r"-?\d+", str(self.target)) else None
        wanted = [f"{n + 1} columns with the target"] * (target is not None)
        wanted += [f"{n} columns without the target"] * (n > len(used))
        wanted.append(f"{len(used)} features: {first_few([column.name for column in used], 10)}")
        if width == n + 1 and target is not None:
            j = target % width
            return [k for k in range(width) if k != j], names[j]
        if width == n and self.target is not None and len(used) == n - 1:
            left_out = next(column.name for column in self.columns if column.categories == LEFT_OUT)
            raise ValueError(
                f"{path} has {width} columns without the names of the model: the target may be missing, "
                f"or column {left_out!r}, which the model leaves out; "
                + ("add names" if self.has_names else "add an empty column for what is missing")
            )
        if width == n:
            return list(range(n)), None
        if width == len(used):
            place = {column: k for k, column in enumerate(used)}
            return [place.get(column) for column in self.columns], None
        raise ValueError(f"{path} has {width} columns without the names of the model; expected {', or '.join(wanted)}")

    def is_header(self, path: str | os.PathLike[str], first_rows: list[list[str]], delimiter: str) -> bool:
        """Return whether the first row is a header."""
        first, names = first_rows[0], {column.name for column in self.used}
        found = names & set(first) if self.has_names else set()
        if found and (found == names or any(_number(name, delimiter) is None for name in found)):
            return True
        try:
            places, _ = self._by_width(path, first)
        except ValueError:
            places = None
        if places is None or found:
            return _looks_like_header(first_rows, delimiter)
        cells = [
            (column, first[j])
            for j, column in zip(places, self.columns, strict=True)
            if j is not None and column.categories != LEFT_OUT
        ]
        below = zip(*first_rows[1:], strict=False)
        occurs_again = any(cell in column for cell, column in zip(first, below, strict=False))
        if any(cell in (column.categories or ()) for column, cell in cells):
            return False
        numbers = [_is_number(cell, delimiter) for column, cell in cells if column.categories is None]
        if numbers:
            return not any(numbers) and not occurs_again
        if not self.has_names:
            return False
        return _looks_like_header(first_rows, delimiter)


def _have_names(columns: Sequence[Column], target: str | int | None) -> bool:
    """Return whether the names of columns are other than their numbers."""
    n = len(columns) + (target is not None)
    names = {column.name for column in columns}
    if target is not None:
        names.add(target if isinstance(target, str) else str(target % n))
    return names != set(map(str, range(n)))


def _target_if_present(
    table: _Table, target: str | None, task: str, features: Sequence[int | None]
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Return targets and classes, both None if the table has no target."""
    try:
        j = -1 if target is None else table.names.index(target)
    except ValueError:
        return None, None
    if j in features or j < 0:
        return None, None
    y, classes = targets_to_compare(table.values_to_compare(j, task), task, "target")
    return (None, None) if classes == ("",) else (y, classes)


def _read_table(file_format: _Format, columns: Sequence[Column]) -> _Table:
    has_text = any(column.categories for column in columns)  # categories may look like numbers
    cells = None if has_text else _read_numbers(file_format)
    if cells is not None:
        first_line = file_format.skip + 1
        return file_format.table(cells, range(first_line, first_line + len(cells)))
    return file_format.text_table(list(file_format.rows()))


@dataclass(frozen=True)
class _Format:
    """Format of a file, detected from its first lines: delimiter, header, names and number of columns."""

    path: str | os.PathLike[str]
    delimiter: str
    has_header: bool
    names: list[str]
    unnamed: frozenset[int]  # columns without a name in the header
    first_line: int

    @property
    def skip(self) -> int:
        """Number of lines that are not samples, at the start of the file."""
        return self.first_line if self.has_header else 0

    def index(self, column: str | int) -> int:
        """Return the number of the column with this name or number."""
        n = len(self.names)
        if str(column) in self.names:
            return self.names.index(str(column))
        try:
            number = int(column)
        except ValueError:
            number = n
        if -n <= number < n:
            return number % n
        raise ValueError(f"{self.path} has no column {column!r}; its {n} columns are {first_few(self.names, 10)}")

    def feature_places(self, target: int | None) -> list[int]:
        """Return the places of all columns but the target; ValueError if there are none."""
        places = [k for k in range(len(self.names)) if k != target]
        if not places:
            raise ValueError(f"{self.path}: one column only; a target and at least one feature are needed")
        return places

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and cells of every sample."""
        return islice(_rows(self.path, self.delimiter), int(self.has_header), None)

    def table(
        self, cells: np.ndarray | list[list[str]], lines: Sequence[int], notations: dict[int, set[str]] | None = None
    ) -> _Table:
        """Return samples as a table."""
        return _Table(self.path, self.delimiter, self.has_header, self.names, cells, lines, notations)

    def text_table(self, rows: Sequence[tuple[int, list[str]]], notations: dict[int, set[str]] | None = None) -> _Table:
        """Return rows of text as a table; ValueError if one is of another width than the first line, or repeats it."""
        for line, row in rows:
            if len(row) != len(self.names):
                raise ValueError(
                    f"{self.path}, line {line}: {len(row)} fields; line {self.first_line} has {len(self.names)}"
                )
            if self.has_header and row == self.names:
                raise ValueError(f"{self.path}, line {line}: the header of line {self.first_line} again")
        return self.table([row for _, row in rows], [line for line, _ in rows], notations)


def _open_text(path: str | os.PathLike[str], newline: str | None = None) -> io.TextIOWrapper:
    """Open a UTF-8 text file, gzipped or not, with or without a byte order mark."""
    return io.TextIOWrapper(open_maybe_gzipped(path), encoding="utf-8-sig", newline=newline)


def _detect_format(path: str | os.PathLike[str], header: bool | None, layout: _Layout | None = None) -> _Format:
    delimiter, lines = _detect_delimiter(path)
    first_line, first = lines[0]
    if header is None:
        rows = [row for _, row in lines]
        header = layout.is_header(path, rows, delimiter) if layout else _looks_like_header(rows, delimiter)
    names = [
        (header and name) or (str(j) if not header or str(j) not in first else f"Unnamed: {j}")
        for j, name in enumerate(first)
    ]
    if len(set(names)) < len(names):
        repeated = min(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}, line {first_line}: column name {repeated!r} occurs more than once")
    if len(lines) == int(header):
        raise ValueError(f"{path}: a header, but no rows")
    unnamed = frozenset(j for j, name in enumerate(first) if header and not name)
    return _Format(path, delimiter, header, names, unnamed, first_line)


def _rows(path: str | os.PathLike[str], delimiter: str, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and stripped cells of every row that is not blank."""
    try:
        with _open_text(path, newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=strict)
            for row in reader:
                if len(row) > 1 or any(cell.strip() for cell in row):  # several empty cells are missing values
                    yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip data ({error})") from None


def _detect_delimiter(path: str | os.PathLike[str]) -> tuple[str, list[tuple[int, list[str]]]]:
    """Return the delimiter, and line number and cells of the first rows.

    It is the first delimiter that splits all of these rows into the same number of cells, more than one; otherwise
    that which makes the most cells.
    """
    first_rows = {delimiter: list(islice(_rows(path, delimiter, strict=False), 20)) for delimiter in DELIMITERS}
    if not first_rows[","]:
        raise ValueError(f"{path} is empty")
    widths = {delimiter: sorted(len(row) for _, row in rows) for delimiter, rows in first_rows.items()}
    even = [delimiter for delimiter, w in widths.items() if 1 < w[0] == w[-1]]
    best = even[0] if even else max(DELIMITERS, key=lambda delimiter: median_low(widths[delimiter]))
    return best, first_rows[best]


def _looks_like_header(first_rows: list[list[str]], delimiter: str) -> bool:
    """Return whether the first row is a header; the rule is in the docstring of `read_csv`."""
    first, below = first_rows[0], list(zip(*first_rows[1:], strict=False))
    if not below:
        return not any(_is_number(text, delimiter) for text in first)
    pairs = list(zip(first, below, strict=False))
    numeric = [
        any(_is_number(text, delimiter) and not _is_missing(text) for text in column)
        and all(_is_number(text, delimiter) for text in column)
        for column in below
    ]
    # "5%" above numbers without a unit is the name of a quantile.
    names = [
        not _is_number(text, delimiter) or (_unit(text) != "" and not any(map(_unit, column))) for text, column in pairs
    ]
    if any(n and name for n, name in zip(numeric, names, strict=True)):
        return True
    differs = all(text not in column for n, (text, column) in zip(numeric, pairs, strict=True) if not n)
    numbers = [text for text in first if _is_number(text, delimiter) and not _is_missing(text)]
    if any(numeric) or len(numbers) == len(first):
        rows = [
            [text for n, text in zip(numeric, row, strict=False) if n and not _is_missing(text)]
            for row in first_rows[1:]
        ]
        return differs and _are_column_numbers([numbers, *rows])
    return differs and len(set(first)) == len(first)


def _are_column_numbers(rows: list[list[str]]) -> bool:
    """Return whether the numbers of the first row are names: years, or consecutive from 0 or 1, and no others are."""

    def steps(row: list[str]) -> tuple[bool, bool, set[int]]:
        """Return whether they are integers, whether they are years, and the differences of neighbors."""
        if not row or not all(text.isascii() and text.isdecimal() and len(text) < 10 for text in row):
            return False, False, set()
        numbers = list(map(int, row))
        return True, all(number in YEARS for number in numbers), set(np.diff(numbers).tolist())

    are_integers, are_years, step = steps(rows[0])
    if are_years:
        return len(step) < 2 and step != {0} and not any(steps(row)[1] for row in rows[1:])
    return (
        are_integers
        and len(rows[0]) >= MIN_NUMBERED
        and step == {1}
        and int(rows[0][0]) in (0, 1)
        and not any(steps(row)[2] == {1} for row in rows[1:])
    )


def _read_numbers(file_format: _Format) -> np.ndarray | None:
    """Read a table of finite numbers by NumPy, which is much faster; None if there are other cells."""
    try:
        with _open_text(file_format.path) as stream:
            return _parse_numbers(file_format, stream, skiprows=file_format.skip)
    except (ValueError, EOFError, OSError, zlib.error):
        return None


def _parse_numbers(file_format: _Format, lines: Iterable[str], **options: Any) -> np.ndarray:
    """Return lines of finite numbers as an array; ValueError if there are other cells."""
    delimiter, n_columns = file_format.delimiter, len(file_format.names)
    cells = np.loadtxt(lines, delimiter=delimiter, ndmin=2, comments=None, quotechar='"', **options)
    if not cells.size or cells.shape[1] != n_columns or not np.isfinite(cells).all():
        raise ValueError(f"{file_format.path} is not a table of finite numbers")
    return cells


def _number(text: str, delimiter: str) -> float | None:
    """Return the value of a cell; None if it is not a number."""
    try:
        return None if "_" in text else float(text if delimiter == "," else text.replace(",", "."))
    except ValueError:
        sign, _, number, _ = _parts(text)
    if grouped := _GROUPED["," if delimiter == "," else ""].fullmatch(number):
        number = re.sub("[.,]", "", grouped[1]) + grouped[2]
    return _number(sign + number, delimiter) if sign + number != text else None


def _parts(text: str) -> tuple[str, str, str, str]:
    """Return sign, currency, number, and unit after it; all but the number are empty if there is no unit."""
    parts = _UNIT.fullmatch(text) if _SIGNS.search(text) else None
    return parts.groups() if parts else ("", "", text, "")  # type: ignore[return-value]


def _unit(text: str) -> str:
    _, currency, _, unit = _parts(text)
    return currency + unit


def _notations(text: str, delimiter: str) -> Iterator[str]:
    """Yield how a number is written: its unit, and the possible meaning of its commas and points."""
    _, currency, text, unit = _parts(text)
    yield currency + unit
    if delimiter == ",":
        return
    if "," in text and "." in text:
        yield "1.000,0"
    elif _THREE_DECIMALS.fullmatch(text):
        yield "1,000" if "," in text else "1.000"
    else:
        yield "1,0" if "," in text else "1.0" if "." in text else "1"


def _all_notations(texts: Sequence[str], delimiter: str) -> set[str]:
    """Return the notations of many numbers."""
    joined = "\n".join(texts)
    if not _SIGNS.search(joined) and (delimiter == "," or "," not in joined):  # points are decimal points
        return {"", "1.0" if "." in joined else "1"}
    return {notation for text in texts for notation in _notations(text, delimiter)}


def _check_notations(found: set[str], where: str) -> None:
    """Raise ValueError if the numbers of a column are written in ways that make their meaning ambiguous."""
    units = found & {"", "%", *CURRENCIES}
    if len(units - {""}) > 1 or {"", "%"} <= units:
        raise ValueError(f"{where}: numbers of several units: {', '.join(unit or 'none' for unit in sorted(units))}")
    if "1,000" in found and not found & {"1,0", "1.000,0"} and found & {"1", "1.0", "1.000"}:
        raise ValueError(
            f"{where}: a comma before three digits may be a decimal comma or separate thousands; "
            "write 1200 or 1.200, not 1,200"
        )
    if "1.000,0" in found and found & {"1.0", "1.000"}:
        raise ValueError(f"{where}: points separate thousands in some numbers, and may be decimal points in others")


def _is_missing(text: str) -> bool:
    return text.lower() in MISSING


def _is_number(text: str, delimiter: str) -> bool:
    """Return whether a cell is a number, or missing."""
    return _is_missing(text) or _number(text, delimiter) is not None


class _FeatureScan:
    """Scan of a column, chunk by chunk: numbers, text with its categories, or not a feature."""

    def __init__(self, file_format: _Format, place: int) -> None:
        self.name, self._place, self._format = file_format.names[place], place, file_format
        self.error: ValueError | None = None  # raised at the end, unless the column is left out
        self._categories: set[str] | None = None
        self._n = self._n_sampled = self._n_texts = 0
        self._sample: set[float | str] = set()  # distinct values among the first
        self._steps_by_1 = True  # each number is the one before plus 1
        self._start = 0.0

    def add(self, table: _Table) -> None:
        """Scan the next rows."""
        j = self._place
        if self._n_sampled < SAMPLE:
            wanted = SAMPLE - self._n_sampled
            texts = (
                table.cells[:wanted, j].tolist()
                if isinstance(table.cells, np.ndarray)
                else list(islice((row[j] for row in table.cells if not _is_missing(row[j])), wanted))
            )
            self._sample.update(texts)
            self._n_sampled += len(texts)
            self._n_texts += sum(isinstance(text, str) and _number(text, table.delimiter) is None for text in texts)
        elif self.error and not self.is_free_text:
            raise self.error
        if self.error is None:
            try:
                self._add_values(table, table.values(j))
            except ValueError as error:
                self.error = error
        self._n += len(table.cells)

    def _add_values(self, table: _Table, values: np.ndarray) -> None:
        is_text = values.dtype.kind == "U"
        if self._n and is_text == (self._categories is None):
            table._reject("text for a number" if is_text else "number for a text", self._place, [0], values)
        if not is_text:
            self._start = self._start if self._n else values[0]
            expected = self._start + self._n + np.arange(len(values))
            self._steps_by_1 = self._steps_by_1 and np.array_equal(values, expected)
            return
        known, texts = self._categories or set(), values.tolist()
        self._categories = known | set(texts)
        if len(self._categories) > MAX_CATEGORIES:
            text = [text for text in dict.fromkeys(texts) if text not in known][MAX_CATEGORIES - len(known)]
            raise ValueError(
                f"{table.path}, column {self.name!r}: more than {MAX_CATEGORIES} different texts, "
                f"up to line {table.lines[texts.index(text)]} ({text!r}), are too many"
            )

    @property
    def is_free_text(self) -> bool:
        """Whether this is text that differs in nearly every row."""
        return 2 * self._n_texts > self._n_sampled and len(self._sample) > max(1, DISTINCT * self._n_sampled)

    @property
    def is_consecutive(self) -> bool:
        """Whether the numbers increase by 1 from row to row."""
        return self._categories is None and self._steps_by_1 and self._n >= MIN_COUNTED

    @property
    def is_index(self) -> bool:
        """Whether these are the numbers of the rows, to judge by name and values."""
        if self.error or self._categories is not None or self._n < 2:
            return False
        if not self._format.has_header:
            return self.is_consecutive and self._start in (0, 1)
        name = "" if self._place in self._format.unnamed else self.name.lower().rstrip(".")
        numbers = [_number(str(value), self._format.delimiter) for value in self._sample]
        are_integers = all(number is not None and number.is_integer() for number in numbers)
        return (name in IDS and are_integers and len(set(numbers)) == self._n_sampled) or (
            name in ROW_NUMBERS and self._steps_by_1
        )

    def column(self) -> Column:
        """Return the column as a feature; ValueError if it cannot be one."""
        if self.error:
            raise self.error
        return Column(self.name, None if self._categories is None else tuple(sorted(self._categories)))


def _features_found(scans: Sequence[_FeatureScan], leave_out: bool = True) -> tuple[tuple[Column, ...], list[str]]:
    """Return the columns, marked `LEFT_OUT` if they are not features, and warnings about them."""
    reasons = {scan: "its text differs in nearly every row" for scan in scans if scan.is_free_text} if leave_out else {}
    indices = {scan: "it numbers the rows" for scan in scans if scan.is_index} if leave_out else {}
    if len(reasons) + len(indices) < len(scans):
        reasons |= indices
    elif len(reasons) == len(scans):
        reasons = {}
    columns, remarks = [], []
    for scan in scans:
        columns.append(Column(scan.name, LEFT_OUT) if scan in reasons else scan.column())
        where = f"{scan._format.path}, column {scan.name!r}"
        if scan in reasons:
            remarks.append(f"{where} is left out: {reasons[scan]}")
        elif leave_out and scan.is_consecutive and len(scans) > 1:
            remarks.append(f"{where} counts the rows: if it is only their number, leave it out")
        elif leave_out and scan.is_free_text and scan._n >= MIN_COUNTED:
            remarks.append(f"{where}: its text differs in nearly every row, so that nothing can be learned from it")
    return tuple(columns), remarks
