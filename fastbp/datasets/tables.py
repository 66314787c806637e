"""A reader of CSV files that finds out by itself what is in them."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median_low

import numpy as np

from .dataset import (
    MAX_INTEGER_CLASSES,
    Column,
    Dataset,
    are_classes,
    check_task,
    class_name,
    class_names,
    encoded_target,
    opened,
    some,
    targets_to_compare,
)

DELIMITERS = "\t;|,"  # the comma last: it may also be a decimal comma
MISSING = {"", "?", "na", "n/a", "nan", "null"}
PIECE_CELLS = 1 << 17  # of a file read piece by piece: 1 MB of numbers, some 10 MB of text
MAX_CATEGORIES = 32  # a text column with more distinct values than this is a name or a comment, not a feature


def read_csv(path: str | Path, target: str | int | None = -1, *, task: str = "auto",
             header: bool | None = None, columns: Sequence[Column] | None = None, complete: bool = True) -> Dataset:
    """Read samples and targets from a CSV file.

    The delimiter (comma, semicolon, tab or ``|``) and whether the first line is a header are found out;
    fields may be quoted, the file may be gzipped, and it may start with a byte order mark. Where the
    delimiter is not the comma, numbers may have decimal commas.

    Parameters
    ----------
    path : str or Path
        A UTF-8 text file, one sample per row.
    target : str, int or None
        The target column by its name or by its number (0 is the first, -1 the last), None for no target.
    task : {"auto", "classes", "numbers"}
        What the target is. "auto": text is classes, integers with few distinct values are classes, other
        numbers are numbers.
    header : bool, optional
        Whether the first line holds names. By default it does if it holds those of `columns`; if the first
        cell of any column is text while all below it are numbers; or, if there are no numbers at all, if no
        cell of it occurs again in its column.
    columns : sequence of Column, optional
        Read these features (the `columns` of the data a model was trained on) instead of all but the
        target: by name, or by place if one of the files has no names. The target may then be absent, which
        is y None, and need not be complete.
    complete : bool
        Whether every target must be there, and be of the task. Otherwise targets are only to be compared with
        predictions: one that is missing is NaN, or of the class "", and text among numbers is as good as missing.

    Returns
    -------
    Dataset
        X float64 (n_samples, n_in). A text column becomes one feature 0 or 1 for each of its categories in
        alphabetical order (one-hot), at most `MAX_CATEGORIES`. y, `classes`, `columns` and `target` as in
        `Dataset`.

    Raises
    ------
    ValueError
        If the file is empty, ragged, not UTF-8 text or malformed; if values are missing; if a column mixes
        numbers and text or has too many categories. The message names file, line and column.
    """
    check_task(task)
    table = _read_table(path, header, columns or ())
    if columns is not None:
        places = _places(table, columns, target)
        X = table.features(places, columns)
        y, classes = _target_if_there(table, target, task, places)
        return Dataset(X, y, classes, tuple(columns), None if target is None else str(target))
    j = None if target is None else table.index(target)
    places = [k for k in range(len(table.names)) if k != j]
    if not places:
        raise ValueError(f"{path}: one column only; a target and at least one feature are needed")
    columns = tuple(table.column(k) for k in places)
    X = table.features(places, columns)
    if j is None:
        return Dataset(X, None, None, columns)
    where = f"{path}, target column {table.names[j]!r}"
    if complete:
        y, classes = encoded_target(table.values(j), task, where)
    else:
        y, classes = targets_to_compare(table.values_to_compare(j, task), task, where)
    return Dataset(X, y, classes, columns, table.names[j])


def n_columns(path: str | Path) -> int:
    """Count the columns of a CSV file, by its first lines."""
    return len(_headed(path, None).names)


class CsvPieces:
    """A CSV file read piece by piece: the samples and targets of `read_csv`, in bounded memory.

    The whole file is looked through once, for its categories and classes and for whatever is wrong in it.

    Parameters
    ----------
    path, target, task, header
        As in `read_csv`, but a target there must be.

    Attributes
    ----------
    classes, columns, target
        As in `Dataset`.
    n_samples : int
    """

    def __init__(self, path: str | Path, target: str | int = -1, *, task: str = "auto", header: bool | None = None):
        check_task(task)
        self.path, self._head = path, _headed(path, header)
        self._j = self._head.table([], ()).index(target)
        self._places = [k for k in range(len(self._head.names)) if k != self._j]
        if not self._places:
            raise ValueError(f"{path}: one column only; a target and at least one feature are needed")
        self.target = self._head.names[self._j]
        try:
            self._read = self._number_tables
            self._look_through(task)
        except (ValueError, EOFError, OSError, zlib.error):  # not all numbers; or whatever is wrong comes up again
            self._read = self._text_tables
            self._look_through(task)

    def pieces(self) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Yield numbers of the first and last line, X float64 (n, n_in) and y (n,), some thousand cells at a time."""
        for table in self._read():
            y = table.values(self._j)
            if self.classes is not None:
                y = np.searchsorted(self._values, y).astype(np.int64)
            yield table.lines[0], table.lines[-1], table.features(self._places, self.columns), y

    def _look_through(self, task: str) -> None:
        n = 0
        categories: list[set[str] | None] = [None] * len(self._head.names)
        targets: set = set()
        for table in self._read():
            for k in self._places:
                known = categories[k]
                found = table.column(k).categories
                if n and (known is None) != (found is None):
                    what = "text for a number" if known is None else "number for a text"
                    table._reject(what, k, [0], table.values(k))
                if found is not None:
                    categories[k] = known = (known or set()) | set(found)
                    if len(known) > MAX_CATEGORIES:
                        raise ValueError(f"{self.path}, column {self._head.names[k]!r}: more than {MAX_CATEGORIES} "
                                         f"different texts, up to line {table.lines[-1]}, are too many")
            y = table.values(self._j)
            if targets and (y.dtype.kind == "U") != isinstance(next(iter(targets)), str):
                table._reject("numbers and text mixed", self._j, [0], y)
            n += len(y)
            if y.dtype.kind == "U" or task == "classes" or len(targets) <= MAX_INTEGER_CLASSES:
                targets.update(np.unique(y).tolist())
                if y.dtype.kind == "U" and task != "numbers":
                    are_classes(np.array(list(targets)), n, task, f"{self.path}, target column {self.target!r}")
        self.n_samples = n
        self.columns = tuple(Column(self._head.names[k], None if (texts := categories[k]) is None else
                                    tuple(sorted(texts))) for k in self._places)
        self._values = np.array(sorted(targets))
        classes = are_classes(self._values, n, task, f"{self.path}, target column {self.target!r}")
        self.classes = class_names(self._values) if classes else None

    def _number_tables(self) -> Iterator[_Table]:
        head = self._head
        with io.TextIOWrapper(opened(self.path), encoding="utf-8-sig") as stream:  # type: ignore[type-var]
            lines = ((i, text) for i, text in enumerate(stream, 1) if i > head.skip and not text.isspace())
            while piece := list(islice(lines, self._n_rows)):
                yield head.table(_numeric(head, [text for _, text in piece]), [i for i, _ in piece])

    def _text_tables(self) -> Iterator[_Table]:
        rows = self._head.rows()
        while piece := list(islice(rows, self._n_rows)):
            yield self._head.text_table(piece)

    @property
    def _n_rows(self) -> int:
        return max(1, PIECE_CELLS // len(self._head.names))


@dataclass(frozen=True)
class _Table:
    path: str | Path
    delimiter: str
    has_header: bool
    names: list[str]
    cells: np.ndarray | list[list[str]]  # all of it numbers, or rows of text
    lines: Sequence[int]  # line number of each row in the file

    def index(self, column: str | int) -> int:
        """Find the column of this name or number."""
        n = len(self.names)
        if str(column) in self.names:
            return self.names.index(str(column))
        try:
            number = int(column)
        except ValueError:
            number = n
        if -n <= number < n:
            return number % n
        raise ValueError(f"{self.path} has no column {column!r}; its {n} columns are {some(self.names, 10)}")

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
        column = np.array(numbers, np.float64)
        self._reject("infinity", j, np.flatnonzero(~np.isfinite(column)))
        return column

    def values_to_compare(self, j: int, task: str) -> np.ndarray:
        """Return column j as float64 or text, NaN or "" where values are missing, or text among numbers."""
        if isinstance(self.cells, np.ndarray):
            return self.cells[:, j]
        texts = ["" if row[j].lower() in MISSING else row[j] for row in self.cells]
        numbers = [_number(text, self.delimiter) for text in texts]
        n_numbers = sum(number is not None for number in numbers)
        if n_numbers and task != "classes":
            return np.array([np.nan if number is None else number for number in numbers])
        if 2 * n_numbers > sum(map(bool, texts)):  # mostly numbers: 1.0 is the class "1"
            texts = [text if number is None else class_name(number)
                     for text, number in zip(texts, numbers, strict=True)]
        return np.array(texts)

    def _texts(self, j: int) -> list[str]:
        texts = [row[j] for row in self.cells]
        self._reject("missing value", j, [i for i, text in enumerate(texts) if text.lower() in MISSING])
        return texts

    def column(self, j: int) -> Column:
        """Describe column j as a feature."""
        values = self.values(j)
        if values.dtype.kind != "U":
            return Column(self.names[j])
        categories: dict[str, None] = {}
        for i, text in enumerate(values.tolist()):
            categories[text] = None
            if len(categories) > MAX_CATEGORIES:
                raise ValueError(
                    f"{self.path}, column {self.names[j]!r}: {text!r} in line {self.lines[i]} is no number, "
                    f"and more than {MAX_CATEGORIES} different texts are too many")
        return Column(self.names[j], tuple(sorted(categories)))

    def features(self, places: Sequence[int], columns: Sequence[Column]) -> np.ndarray:
        """Return the columns at `places` as X, text one-hot encoded."""
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

    def _reject(self, what: str, j: int, rows: Sequence[int] | np.ndarray,
                values: Sequence | np.ndarray = ()) -> None:
        if len(rows):
            where = f"line{'s' * (len(rows) > 1)} {some([self.lines[i] for i in rows])}"
            example = f" {str(values[rows[0]])!r}" if len(values) else ""
            raise ValueError(f"{self.path}, column {self.names[j]!r}: {what}{example} in {where}")


def _places(table: _Table, columns: Sequence[Column], target: str | int | None) -> list[int]:
    """Find the columns of a model in the table: by name, or by place if either has no names."""
    missing = [c.name for c in columns if c.name not in table.names]
    if not missing:
        return [table.names.index(c.name) for c in columns]
    if table.has_header and not all(column.name.isdecimal() for column in columns):
        raise ValueError(f"{table.path} has no column {some([repr(name) for name in missing])}")
    places = list(range(len(table.names)))
    if len(places) == len(columns) + 1 and str(target).isdecimal():
        places.remove(int(target))  # type: ignore[arg-type]
    if len(places) != len(columns):
        raise ValueError(f"{table.path} has {len(table.names)} columns; expected {len(columns)} features: "
                         f"{some([c.name for c in columns], 10)}")
    return places


def _target_if_there(table: _Table, target: str | int | None, task: str, features: Sequence[int]):
    try:
        j = -1 if target is None else table.index(target)
    except ValueError:
        return None, None
    if j in features or j < 0:
        return None, None
    y, classes = targets_to_compare(table.values_to_compare(j, task), task, "target")
    return (None, None) if classes == ("",) else (y, classes)


def _read_table(path: str | Path, header: bool | None, columns: Sequence[Column]) -> _Table:
    head = _headed(path, header, columns)
    has_texts = any(column.categories is not None for column in columns)      # some of which may look like numbers
    cells = None if has_texts else _all_numbers(head)
    if cells is not None:
        return head.table(cells, range(head.skip + 1, head.skip + 1 + len(cells)))
    return head.text_table(list(head.rows()))


@dataclass(frozen=True)
class _Head:
    """What the first lines of a file tell of it."""

    path: str | Path
    delimiter: str
    has_header: bool
    names: list[str]
    first_line: int

    @property
    def skip(self) -> int:
        """Number of lines before the first that may be a sample."""
        return self.first_line if self.has_header else 0

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and cells of every sample."""
        return islice(_rows(self.path, self.delimiter), int(self.has_header), None)

    def table(self, cells: np.ndarray | list[list[str]], lines: Sequence[int]) -> _Table:
        """Return these samples as a table."""
        return _Table(self.path, self.delimiter, self.has_header, self.names, cells, lines)

    def text_table(self, rows: Sequence[tuple[int, list[str]]]) -> _Table:
        """Return rows of text as a table; ValueError unless they are as wide as the first line."""
        for line, row in rows:
            if len(row) != len(self.names):
                raise ValueError(f"{self.path}, line {line}: {len(row)} fields; "
                                 f"line {self.first_line} has {len(self.names)}")
        return self.table([row for _, row in rows], [line for line, _ in rows])


def _headed(path: str | Path, header: bool | None, columns: Sequence[Column] = ()) -> _Head:
    delimiter, head = _sniffed(path)
    first_line, first = head[0]
    known = {column.name for column in columns}
    if header is None and known <= set(first) and not known <= set(map(str, range(len(first) + 1))):
        header = True                                          # names that are not just numbers of columns
    if header is None:
        header = _looks_like_header([row for _, row in head], delimiter)
    names = [(header and name) or str(j) for j, name in enumerate(first)]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{path}, line {first_line}: column name {twice[0]!r} occurs more than once")
    if len(head) == int(header):
        raise ValueError(f"{path}: a header, but no rows")
    return _Head(path, delimiter, header, names, first_line)


def _rows(path: str | Path, delimiter: str, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and stripped cells of every row that is not blank."""
    try:
        with io.TextIOWrapper(opened(path), encoding="utf-8-sig", newline="") as stream:  # type: ignore[type-var]
            reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=strict)
            for row in reader:
                if len(row) > 1 or any(cell.strip() for cell in row):      # cells that are all empty are missing values
                    yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip data ({error})") from None


def _sniffed(path: str | Path) -> tuple[str, list[tuple[int, list[str]]]]:
    """Return the first delimiter that divides the first rows into as many cells each, and those rows.

    If none does, it is the one that makes the most cells.
    """
    heads = {delimiter: list(islice(_rows(path, delimiter, strict=False), 20)) for delimiter in DELIMITERS}
    if not heads[","]:
        raise ValueError(f"{path} is empty")
    widths = {delimiter: sorted(len(row) for _, row in head) for delimiter, head in heads.items()}
    even = [delimiter for delimiter, w in widths.items() if 1 < w[0] == w[-1]]
    best = even[0] if even else max(DELIMITERS, key=lambda delimiter: median_low(widths[delimiter]))
    return best, heads[best]


def _looks_like_header(head: list[list[str]], delimiter: str) -> bool:
    """Say whether the first of the rows holds names; the rule is in the docstring of `read_csv`."""
    def is_number(text: str) -> bool:
        return text.lower() in MISSING or _number(text, delimiter) is not None

    first, below = head[0], list(zip(*head[1:], strict=False))
    if not below or all(is_number(text) for text in first):
        return not any(is_number(text) for text in first)
    numeric = [all(is_number(text) for text in column) for column in below]
    if any(numeric):
        return any(n and not is_number(text) for n, text in zip(numeric, first, strict=False))
    return len(set(first)) == len(first) and all(text not in column
                                                 for text, column in zip(first, below, strict=False))


def _all_numbers(head: _Head) -> np.ndarray | None:
    """Read a table of finite numbers by NumPy, which is much faster; None if it is none."""
    try:
        with io.TextIOWrapper(opened(head.path), encoding="utf-8-sig") as stream:  # type: ignore[type-var]
            return _numeric(head, stream, skiprows=head.skip)
    except (ValueError, EOFError, OSError, zlib.error):
        return None


def _numeric(head: _Head, lines, **options) -> np.ndarray:
    """Return lines of finite numbers as an array; ValueError if they are none."""
    cells = np.loadtxt(lines, delimiter=head.delimiter, ndmin=2, comments=None, quotechar='"', **options)
    if not cells.size or cells.shape[1] != len(head.names) or not np.isfinite(cells).all():
        raise ValueError(f"{head.path} is not a table of finite numbers")
    return cells


def _number(text: str, delimiter: str) -> float | None:
    if delimiter != ",":
        text = text.replace(",", ".")
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None
