"""The pair (X, y) that every loader returns, and functions that several loaders use."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

TASKS = ("auto", "classes", "numbers")
MAX_INTEGER_CLASSES = 20  # more distinct integers than this are numbers, not classes
LEFT_OUT: tuple[str, ...] = ()  # categories of a column that is not a feature


class Column(NamedTuple):
    """A column of a table, and the features that are made of it.

    A number is one feature; text is one-hot encoded, and a date becomes the numbers of its `parts`. A column whose
    categories are the empty tuple is left out.

    Attributes
    ----------
    name : str
    categories : tuple of str or None
        Those of text, in order; "" is that of missing values. None for numbers and dates.
    parts : tuple of str
        Of a date: some of year, month, day, weekday (Monday is 0), days (since 1970), seconds (of the day).
    flag : bool
        Whether a further feature says, by 0 or 1, that the number or date is missing.
    other : bool
        Whether a further feature stands for all texts that are no category.
    unit : str
        Word that follows the numbers, such as "kg".
    day_first : bool or None
        The order of dates such as 1/2/2019.
    """

    name: str
    categories: tuple[str, ...] | None = None
    parts: tuple[str, ...] = ()
    flag: bool = False
    other: bool = False
    unit: str = ""
    day_first: bool | None = None

    @property
    def is_left_out(self) -> bool:
        """Whether the column is not a feature."""
        return self.categories == LEFT_OUT

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features."""
        name = self.name
        if self.categories is not None:
            of_categories = [f"{name}={category}" if category else f"{name} missing" for category in self.categories]
            return (*of_categories, *([f"{name} other"] * self.other))
        of_values = [f"{name}.{part}" for part in self.parts] or [name]
        return (*of_values, *([f"{name} missing"] * self.flag))

    @property
    def n_features(self) -> int:
        """Number of features."""
        n = (len(self.parts) or 1) + self.flag if self.categories is None else len(self.categories) + self.other
        return n


class _Pair(NamedTuple):
    X: np.ndarray
    y: Any


class Dataset(_Pair):
    """Samples and targets: a named tuple ``(X, y)`` with attributes that describe its columns.

    Attributes
    ----------
    X : ndarray, shape (n_samples, n_in)
    y : ndarray or None
        int64 class indices (n_samples,) where `classes` is given; otherwise numbers, (n_samples,) or
        (n_samples, n_out); None if the source has no targets.
    classes : tuple of str or None
        Name of each class, ``classes[y[i]]`` being that of sample i.
    columns : tuple of Column or None
        The columns of a table without the target, before one-hot encoding.
    target : str or None
        Name of the target column of a table.
    has_names : bool or None
        Whether the table has a header; without one, the columns are named by their numbers.
    pixels : bool
        Whether all features have the same meaning and scale, like the pixels of an image.
    remarks : tuple of str
        What should not go unnoticed of a table, such as columns left out; `read_csv` warns of it.
    report : tuple of str
        What was found in a table, and what each column became, in lines to show.
    kept : dict of str to list of str
        Texts of the columns that were asked for besides the features.
    """

    classes: tuple[str, ...] | None
    columns: tuple[Column, ...] | None
    target: str | None
    has_names: bool | None
    pixels: bool
    remarks: tuple[str, ...]
    report: tuple[str, ...]
    kept: dict[str, list[str]]

    def __new__(
        cls,
        X: np.ndarray,
        y: np.ndarray | None = None,
        classes: tuple[str, ...] | None = None,
        columns: tuple[Column, ...] | None = None,
        target: str | None = None,
        pixels: bool = False,
        has_names: bool | None = None,
        remarks: Sequence[str] = (),
        report: Sequence[str] = (),
        kept: dict[str, list[str]] | None = None,
    ) -> Dataset:
        """Make the pair."""
        self = super().__new__(cls, X, y)
        self.classes, self.columns, self.target, self.pixels = classes, columns, target, pixels
        self.has_names, self.remarks, self.report, self.kept = has_names, tuple(remarks), tuple(report), kept or {}
        return self


def open_maybe_gzipped(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file for reading bytes, decompressed if its first bytes are those of a gzip file.

    If gzipped data are damaged, reading raises a ValueError that names the file.
    """
    with Path(path).open("rb") as stream:
        gzipped = stream.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], io.BufferedReader(GzipReader(path)) if gzipped else Path(path).open("rb"))


class GzipReader(io.RawIOBase):
    """The decompressed content of a gzipped file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path, self._file = path, gzip.open(path)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; ValueError for damaged data."""
        try:
            return self._file.readinto(buffer)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{self._path}: damaged gzip data ({error})") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def encode_target(y: np.ndarray, task: str, where: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return targets as (class indices, class names) or (numbers, None).

    With ``task="auto"`` text is classes, floats are numbers, and integers are classes when at most
    `MAX_INTEGER_CLASSES` distinct values occur, each twice or more on average.
    """
    check_task(task)
    _check_kind(y, where)
    is_text = y.dtype.kind in "UST"
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError(f"{where}: every value must be finite, found {y[~np.isfinite(y)][0]}")
    if (task == "numbers" and not is_text) or (y.ndim > 1 and task == "auto"):
        return y.astype(np.float64), None
    if y.ndim > 1:
        raise ValueError(f"{where}: classes take one column of targets, found {y.shape[1]}")
    values, indices = np.unique(y, return_inverse=True)
    if not are_classes(values, len(y), task, where):
        return y.astype(np.float64), None
    return indices.astype(np.int64), class_names(values)


def targets_to_compare(y: np.ndarray, task: str, where: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return targets to compare with predictions, in the form of `encode_target`; any may be missing.

    A missing number is NaN, a missing class is named "". Targets of the other kind than `task` keep their kind.
    """
    _check_kind(y, where)
    if y.dtype.kind not in "UST" and (task != "classes" or y.ndim > 1):
        numbers = y.astype(np.float64)
        return np.where(np.isfinite(numbers), numbers, np.nan), None
    if y.dtype.kind == "f":
        y = np.where(np.isfinite(y), y, np.nan)
    values, indices = np.unique(y, return_inverse=True)
    names = tuple("" if value != value else class_name(value) for value in values)
    return indices.reshape(y.shape).astype(np.int64), names


def are_classes(values: np.ndarray, n: int, task: str, where: str) -> bool:
    """Return whether n targets with these distinct values are classes, by the rule of `encode_target`."""
    is_text = values.dtype.kind in "UST"
    if task == "numbers" and is_text:
        raise ValueError(f"{where}: numbers were asked for, but there is text, such as {str(values[0])!r}")
    if is_text and len(values) > max(MAX_INTEGER_CLASSES, n / 2):
        raise ValueError(
            f"{where}: {len(values)} different texts in {n} rows are no classes; choose another target column"
        )
    few = len(values) <= min(MAX_INTEGER_CLASSES, n / 2)
    return is_text or task == "classes" or (task == "auto" and few and _all_integers(values))


def class_names(values: np.ndarray) -> tuple[str, ...]:
    """Return the names of classes with these values."""
    return tuple(class_name(value) for value in values)


def check_task(task: str) -> None:
    """Raise ValueError unless `task` is one of `TASKS`."""
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, not {task!r}")


def first_few(items: Sequence[Any], limit: int = 5, n: int | None = None) -> str:
    """Join the first items by commas, and add how many more there are; n is the number of all."""
    more = (len(items) if n is None else n) - limit
    return ", ".join(str(i) for i in items[:limit]) + (f" and {more} more" if more > 0 else "")


def _check_kind(y: np.ndarray, where: str) -> None:
    if y.dtype.kind not in "biufUST":
        raise ValueError(f"{where}: expected numbers or text as targets, found {y.dtype}")


def _all_integers(values: np.ndarray) -> bool:
    return values.dtype.kind in "biu" or bool(np.all(values == np.floor(values)))


def class_name(value: Any) -> str:
    """Return the name of the class with this value."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bytes):
        return value.decode()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
