"""Data frames of any library, through narwhals, and the files that such a library reads."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import cells, dates
from .columns import DateValues, Names, Numbers, Texts, Values
from .dataset import open_maybe_gzipped
from .form import open_utf8
from .table import Table

INSTALL = 'pip install "fastbp[tables]"'
SUFFIXES = {".json": "JSON", ".jsonl": "JSON", ".ndjson": "JSON"}
# what a file is by its first bytes, and the functions of polars and pandas that read it
MAGIC = {
    b"PAR1": ("Parquet", "read_parquet", "read_parquet"),
    b"ARROW1": ("Feather", "read_ipc", "read_feather"),
    b"FEA1": ("Feather", "", "read_feather"),
    b"\xd0\xcf\x11\xe0": ("Excel", "read_excel", "read_excel"),
}
EXCEL = ("Excel", "read_excel", "read_excel")
NOT_READ = {
    b"SQLite": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\x80": "a pickle file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"7z\xbc\xaf": "a 7z file",
    b"%PDF": "a PDF file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
}


def is_frame(value: Any) -> bool:
    """Return whether a value is a data frame of a known library: it has named columns."""
    return hasattr(value, "__dataframe__") or (hasattr(value, "columns") and hasattr(value, "shape"))


def table_of_frame(frame: Any, name: str = "X") -> Table:
    """Return the values of a data frame: numbers, texts and dates, whatever they are made of.

    Parameters
    ----------
    frame : data frame
        Of pandas, polars, pyarrow or any other library that narwhals supports.
    name : str
        What messages call it.

    Raises
    ------
    TypeError
        If narwhals does not support it.
    ImportError
        If narwhals is not installed.
    """
    try:
        import narwhals.stable.v2 as nw
    except ImportError:
        raise ImportError(f"{name} is a data frame, which needs narwhals: {INSTALL}", name="narwhals") from None
    frame = nw.from_native(frame, eager_only=True)
    columns = [str(column) for column in frame.columns]
    if len(set(columns)) < len(columns):
        repeated = min(column for column in columns if columns.count(column) > 1)
        raise ValueError(f"{name}: the column name {repeated!r} occurs more than once")
    values: dict[int, Values] = {}
    for j, column in enumerate(frame.iter_columns()):
        values[j] = _values_of_series(column, nw)
    has_header = not all(isinstance(column, int) for column in getattr(nw.to_native(frame), "columns", [""]))
    return Table(Names(name, np.arange(len(frame)), "row"), columns, values, "a data frame", has_header)


def table_of(X: Any, name: str = "X") -> Table:
    """Return the values of a data frame, an array or a list of rows.

    Raises
    ------
    ValueError
        If an array has no two axes.
    """
    if is_frame(X):
        return table_of_frame(X, name)
    array = X if isinstance(X, np.ndarray) else np.array(X, object)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must have rows and columns, got shape {array.shape}")
    columns = [str(j) for j in range(array.shape[1])]
    if array.dtype.kind in "biuf":
        numbers = array.astype(np.float64)
        values: dict[int, Values] = {j: _finite(numbers[:, j]) for j in range(len(columns))}
    elif array.dtype.kind == "M":
        values = {j: DateValues(dates.of_datetimes(array[:, j])) for j in range(len(columns))}
    else:
        values = {j: _values_of_list(array[:, j].tolist()) for j in range(len(columns))}
    return Table(Names(name, np.arange(len(array)), "row"), columns, values, "an array", has_header=False)


def _finite(numbers: np.ndarray) -> Numbers:
    odd = [(int(i), str(numbers[i])) for i in np.flatnonzero(np.isinf(numbers))]
    return Numbers(np.where(np.isinf(numbers), np.nan, numbers), odd)


def _values_of_series(series: Any, nw: Any) -> Values:
    kind = series.dtype
    if kind.is_numeric():
        is_null = series.is_null().to_list()
        if any(is_null):  # by which libraries do not all convert to NaN
            numbers = [np.nan if null else float(v) for v, null in zip(series.to_list(), is_null, strict=True)]
        else:
            numbers = series.to_numpy()
        return _finite(np.asarray(numbers, np.float64))
    if kind == nw.Date or kind == nw.Datetime:
        known = [None if v is None or v != v else np.datetime64(_without_zone(v), "s") for v in series.to_list()]
        of_dates = np.array([np.datetime64("NaT", "s") if v is None else v for v in known], "datetime64[s]")
        return DateValues(dates.of_datetimes(of_dates))
    if kind == nw.Duration:
        return Numbers(
            np.array([np.nan if v is None or v != v else v.total_seconds() for v in series.to_list()], np.float64)
        )
    items = series.to_list()
    if kind == nw.Boolean:  # whose missing values cannot be compared
        items = [None if null else v for v, null in zip(items, series.is_null().to_list(), strict=True)]
    return texts_of_objects(items)


def _without_zone(value: Any) -> Any:
    return value.replace(tzinfo=None) if getattr(value, "tzinfo", None) is not None else value


def texts_of_objects(items: Iterable[Any]) -> Texts:
    """Return objects as texts; None, NaN and what stands for a missing value in text files are missing."""
    places: dict[Any, int] = {}
    texts = [""]
    by_text: dict[str, int] = {}
    codes = []
    for item in items:
        key = (type(item), item) if isinstance(item, str | int | float | bool) else str(item)
        place = places.get(key)
        if place is None:
            is_none = item is None or item != item or str(item) == "<NA>"
            text = "" if is_none else cells.with_truth(str(item).strip().replace("\0", ""))
            if cells.is_missing(text):
                place = 0
            elif text in by_text:
                place = by_text[text]
            else:
                place = by_text[text] = len(texts)
                texts.append(text)
            places[key] = place
        codes.append(place)
    return Texts(np.array(codes, np.int32), texts)


# ------------------------------------------------------------------ files


def file_kind(path: str | os.PathLike[str]) -> tuple[str, str, str] | None:
    """Return what a file is that is no text, and the names of the functions that read it; None for others.

    Raises
    ------
    ValueError
        If nothing here reads such a file.
    """
    with Path(path).open("rb") as stream:
        head = stream.read(8)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    for magic, what in NOT_READ.items():
        if head.startswith(magic):
            raise ValueError(f"{path} is {what}, which is not read: save the table as CSV")
    if head.startswith(b"PK\3\4"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.startswith("xl/") for name in names) or "content.xml" in names:
            return EXCEL
        if not any(name.endswith(".npy") for name in names):
            raise ValueError(f"{path} is a zip file without arrays: unpack it first")
    return None


def is_json(path: str | os.PathLike[str]) -> bool:
    """Return whether a file holds JSON lines, or a list of JSON objects."""
    with open_maybe_gzipped(path) as stream:
        head = stream.read(1 << 12).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] == b"[":
        return head[1:].lstrip()[:1] == b"{"
    if head[:1] != b"{":
        return False
    return head[1:].lstrip()[:1] in (b'"', b"}")


def read_json(path: str | os.PathLike[str], name: str) -> Table:
    """Read JSON lines, or a list of objects: a column for each name; what an object lacks is missing.

    Raises
    ------
    ValueError
        With file and line of what is no object of numbers, texts, truth values and nulls.
    """
    with open_utf8(path, "utf-8") as stream:
        data = stream.read()
    if data.lstrip()[:1] == b"[":
        numbered = list(enumerate(_parsed(data, f"{name}"), 1))
        word = "object"
    else:
        lines = enumerate(data.split(b"\n"), 1)
        numbered = [(i, _parsed(line, f"{name}, line {i}")) for i, line in lines if line.strip()]
        word = "line"
    columns: dict[str, list[Any]] = {}
    for k, (i, record) in enumerate(numbered):
        if not isinstance(record, dict):
            raise ValueError(f"{name}, {word} {i}: expected an object of names and values, got {type(record).__name__}")
        for key, value in record.items():
            if isinstance(value, dict | list):
                raise ValueError(f"{name}, {word} {i}, {key!r}: nested values are not read")
            columns.setdefault(key, [None] * k).append(value)
        for values in columns.values():
            if len(values) == k:
                values.append(None)
    if not columns:
        raise ValueError(f"{name} is empty")
    of_columns = {j: _values_of_list(items) for j, items in enumerate(columns.values())}
    return Table(Names(name, [i for i, _ in numbered], word), list(columns), of_columns, "JSON")


def _parsed(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error or 'nested too deeply'}") from None


def _values_of_list(items: Sequence[Any]) -> Values:
    are_truths = all(item is None or isinstance(item, bool) for item in items) and any(i is not None for i in items)
    if not are_truths and all(item is None or isinstance(item, int | float) for item in items):
        try:
            numbers = np.array([np.nan if item is None else item for item in items], np.float64)
        except OverflowError:
            return texts_of_objects(items)
        return _finite(numbers)
    return texts_of_objects(items)


def read_file(path: str | os.PathLike[str], kind: tuple[str, str, str], name: str) -> Table:
    """Read a file through the data-frame library that is installed: polars, else pandas."""
    what, by_polars, by_pandas = kind
    reader: Callable[..., Any] | None = None
    for library, function in (("polars", by_polars), ("pandas", by_pandas)):
        try:
            reader = getattr(__import__(library), function) if function else None
        except ImportError:
            continue
        if reader is not None:
            break
    needs = f"{name} is {'an' if what[0] in 'AE' else 'a'} {what} file, which needs polars: {INSTALL}"
    if reader is None:
        raise ImportError(needs, name="polars")
    try:
        frame = reader(os.fspath(path))
    except ImportError as error:
        raise ImportError(f"{needs} ({error})", name="polars") from None
    except OSError:
        raise
    except Exception as error:  # of many kinds, by library
        raise ValueError(f"{name} is not a readable {what} file: {' '.join(str(error).split())}") from None
    table = table_of_frame(frame, name)
    table.form = f"{what}, read by {library}"
    table.names.lines = np.arange(1, table.n_rows + 1)
    return table
