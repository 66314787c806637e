"""The cells of a text file, column by column, block by block: numbers in bulk by a kernel, texts each parsed once."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from . import cells, dates
from .columns import DISTINCT, MAX_ODD, SAMPLE, Numbers, Texts
from .form import Form, NotUtf8Error, TableError

SKIP, NUMBER, TEXT = range(3)  # as in kernels/delimited.py
NOTATIONS = {".": {1: "1", 2: "1.0", 4: "1.000"}, ",": {1: "1", 2: "1,0", 4: "1,000"}}  # of the kernel's forms
BLOCK_BYTES = 1 << 19
WORTH_COMPILING, WORTH_LOADING = 1 << 22, 1 << 16  # bytes; the csv module takes some tenths of a second for the former
MAX_PROBLEMS = 1000  # that are gathered; 20 are shown
MAX_SHOWN_PROBLEMS = 20
MAX_ODD_CELLS = 1000  # whose rows are kept for messages


before_compiling: list[Callable[[], None]] = []  # called once, when the kernel is about to be compiled


class Block(NamedTuple):
    """Rows of a file.

    Attributes
    ----------
    lines : ndarray
        Line number of each row.
    columns : dict of int to Numbers or Texts
        By the number of the column. The codes of texts hold for the whole file.
    """

    lines: np.ndarray
    columns: dict[int, Numbers | Texts]


class _OtherKindError(Exception):
    """A column of numbers holds so much text that it must be read anew, as text."""

    def __init__(self, column: int) -> None:
        self.column = column


class _Places(dict):
    """Place of each text among the distinct ones of a column; 0 is that of missing values."""

    def __init__(self, marks: Collection[str]) -> None:
        self.marks, self.texts = marks, [""]

    def __missing__(self, given: str | bytes) -> int:
        text = (given if isinstance(given, str) else given.decode()).strip()
        if len(text) <= cells.MAX_MARK and text.lower() in self.marks:
            place = 0
        elif text == given or text not in self:
            place = len(self.texts)
            self.texts.append(text)
            self[text] = place
        else:
            place = self[text]
        self[given] = place
        return place


class _NumberColumn:
    """What is gathered of a column of numbers."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self.notations: set[str] = set()
        self.n = self.n_missing = self.n_odd = 0
        self._known: dict[str, tuple[float, bool]] = {}

    def parse(self, text: str) -> tuple[float, bool]:
        """Return the number of a cell, NaN if there is none, and whether it is other text."""
        found = self._known.get(text)
        if found is None:
            value = None if cells.is_missing(text) else cells.number(text, self._delimiter)
            if value is not None and math.isfinite(value):
                self.notations |= cells.notations([text], self._delimiter)
                found = value, False
            else:
                found = math.nan, not cells.is_missing(text)
            if len(self._known) < 1 << 16:
                self._known[text] = found
        return found

    def parse_all(self, texts: Sequence[str]) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """Return the numbers of the cells of a block, and rows and texts of others."""
        joined = "\n".join(texts)
        try:
            if "_" in joined or (self._delimiter != "," and "," in joined):
                raise ValueError
            values = np.fromiter(map(float, texts), np.float64, len(texts))
            if not np.isfinite(values).all():
                raise ValueError
            self.notations |= cells.notations(texts, self._delimiter)
            return values, []
        except ValueError:
            found = [self.parse(text) for text in texts]
        odd = [(i, text) for i, (text, (_, is_odd)) in enumerate(zip(texts, found, strict=True)) if is_odd]
        return np.array([value for value, _ in found], np.float64), odd


class Reader:
    """Reads the wanted columns of a file, each as numbers or as texts.

    Parameters
    ----------
    form : Form
    wanted : collection of int
        Numbers of the columns.
    texts : collection of int
        Those that are read as texts, whatever they hold.
    exact : collection of int
        Those in which only what cannot be a class means that a value is missing.
    droppable : collection of int
        Those whose texts are dropped if the first `SAMPLE` of them nearly all differ.
    """

    def __init__(
        self,
        form: Form,
        wanted: Collection[int],
        *,
        texts: Collection[int] = (),
        exact: Collection[int] = (),
        droppable: Collection[int] = (),
    ) -> None:
        self.form = form
        self.dropped: set[int] = set()
        self._droppable, self._exact = set(droppable), set(exact)
        self._kinds = {
            j: TEXT if j in texts else _kind_of([row[j] for row in form.sample if j < len(row)], form.delimiter)
            for j in wanted
        }
        self._start()

    def _start(self) -> None:
        self.numbers = {j: _NumberColumn(self.form.delimiter) for j, kind in self._kinds.items() if kind == NUMBER}
        self.places = {
            j: _Places(cells.NOT_GIVEN if j in self._exact else cells.MISSING)
            for j, kind in self._kinds.items()
            if kind == TEXT
        }
        self._n_texts = dict.fromkeys(self.places, 0)
        self.dropped.clear()
        self.problems: list[str] = []
        self.form.remarks[:] = [remark for remark in self.form.remarks if "repeats the header" not in remark]

    def scan(self, add: Callable[[Block], None], restart: Callable[[], None]) -> None:
        """Read the whole file, and have every block added; anew if the kind of a column proves to be another.

        Raises
        ------
        TableError
            With all that is wrong with rows.
        """
        while True:
            try:
                for block in self.blocks():
                    add(block)
                for j, column in self.numbers.items():
                    if column.n_odd > MAX_ODD * (column.n - column.n_missing):
                        raise _OtherKindError(j)
                break
            except _OtherKindError as error:
                self._kinds[error.column] = TEXT
                self._start()
                restart()
        if self.problems:
            shown, n = self.problems[:MAX_SHOWN_PROBLEMS], len(self.problems)
            more = n - len(shown)
            raise TableError(shown + ([f"{self.form.shown}: {more:,} more rows like these"] if more else []))

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks of the file. Codes, once given, hold for further passes."""
        parse = self._native_parser()
        for lines_before, n_lines, data in self.form.blocks(BLOCK_BYTES):
            block = parse(lines_before, n_lines, data) if parse else None
            if block is None:
                block = self._parse_rows(lines_before, data)
            if len(block.lines):
                self._judge(block)
                yield block

    def _judge(self, block: Block) -> None:
        """Count what a block holds; drop columns of free text, and find those that are of another kind."""
        n = len(block.lines)
        for j, column in self.numbers.items():
            found = block.columns[j]
            column.n += n
            column.n_odd += len(found.odd)  # type: ignore[union-attr]
            column.n_missing += int(np.count_nonzero(found.missing)) - len(found.odd)  # type: ignore[union-attr]
            if column.n_odd > 10 * MAX_ODD_CELLS and column.n_odd > MAX_ODD * column.n:
                raise _OtherKindError(j)
        for j in list(self._droppable & self.places.keys() - self.dropped):
            found = block.columns[j]
            if self._n_texts[j] < SAMPLE:
                self._n_texts[j] += n
                codes = found.codes[~found.missing][:SAMPLE]  # type: ignore[union-attr]
                if len(codes) == SAMPLE and len(np.unique(codes)) > DISTINCT * SAMPLE:
                    texts = [self.places[j].texts[code] for code in codes[:100]]
                    if _is_free(texts, self.form.delimiter):
                        self.dropped.add(j)
                        self.places[j].clear()

    # -------------------------------------------------------------- by the csv module

    def _parse_rows(self, lines_before: int, data: bytes) -> Block:
        problems: list[str] = []
        rows = list(self.form.rows(data, lines_before, problems))
        self.problems += problems[: MAX_PROBLEMS - len(self.problems)]
        lines = np.array([line for line, _ in rows], np.int64)
        table = list(zip(*(row for _, row in rows), strict=True)) if rows else [()] * len(self.form.names)
        columns: dict[int, Numbers | Texts] = {}
        for j, column in self.numbers.items():
            columns[j] = Numbers(*column.parse_all(table[j]))
        for j, places in self.places.items():
            if j in self.dropped:
                columns[j] = Texts(np.ones(len(rows), np.int32), places.texts)
            else:
                columns[j] = Texts(np.fromiter(map(places.__getitem__, table[j]), np.int32, len(rows)), places.texts)
        return Block(lines, columns)

    # -------------------------------------------------------------- by the kernel

    def _native_parser(self) -> Callable[[int, int, bytes], Block | None] | None:
        """Return what parses a block natively, and returns None where it cannot; None for small files."""
        form = self.form
        if form.delimiter == " " or not form.delimiter.isascii() or len(form.quote) > 1:
            return None
        from ..kernels.cache import is_compiler_off
        from ..kernels.library import native_function

        function = native_function("delimited.parse")
        size = _size(form)
        if is_compiler_off() or size < min(WORTH_LOADING, WORTH_COMPILING):
            return None
        if not function.is_cached(np.float64):
            if size < WORTH_COMPILING:
                return None
            for announce in before_compiling:
                announce()
        address = function.address(np.float64)
        integer, pointer = ctypes.c_int64, ctypes.c_void_p
        call = ctypes.CFUNCTYPE(integer, ctypes.c_char_p, *[integer] * 5, *[pointer] * 8)(address)
        width = len(form.names)
        kinds = np.zeros(width, np.int64)
        for j, kind in self._kinds.items():
            kinds[j] = kind
        number_columns, text_columns = sorted(self.numbers), sorted(self.places)
        header = (form.delimiter.join(form.header)).encode() if form.header else None

        scratch: list[np.ndarray] = []

        def parse(lines_before: int, n_rows: int, data: bytes) -> Block | None:
            if header and header in data:  # perhaps the header again
                return None
            if b"\n#" in data or b"\n%" in data or data[:1] in b"#%":
                return None
            _check_utf8(data)
            if not scratch or len(scratch[-1]) < n_rows:
                n_numbers, n_texts = len(number_columns), len(text_columns)
                shapes = (n_rows, n_texts), (n_rows, n_texts), (n_rows * n_numbers, 4), (n_rows,)
                scratch[:] = [np.empty((n_rows, n_numbers)), *(np.empty(shape, np.int64) for shape in shapes)]
            values, starts, ends, bad, lines = scratch
            forms, counts = np.zeros(width, np.int64), np.zeros(2, np.int64)
            arrays = (kinds, forms, *scratch, counts)
            marks = ord(form.delimiter), ord(form.decimal), ord(form.quote or "\0"), width
            n_rows = call(data, len(data), *marks, *(array.ctypes.data for array in arrays))
            if n_rows < 0:
                return None
            columns: dict[int, Numbers | Texts] = {}
            odd: dict[int, list[tuple[int, str]]] = {j: [] for j in number_columns}
            slot = {j: k for k, j in enumerate(number_columns)}
            for row, j, start, end in bad[: counts[0]].tolist():
                text = data[start:end].decode()
                value, is_odd = self.numbers[j].parse(text)
                values[row, slot[j]] = value
                if is_odd:
                    odd[j].append((row, text))
            for k, j in enumerate(number_columns):
                columns[j] = Numbers(values[:n_rows, k].copy(), odd[j])
                notations = NOTATIONS[form.decimal]
                self.numbers[j].notations |= {notations[form] for form in (1, 2, 4) if forms[j] & form}
                self.numbers[j].notations |= {""} if forms[j] else set()
            for k, j in enumerate(text_columns):
                places = self.places[j]
                if j in self.dropped:
                    codes = np.ones(n_rows, np.int32)
                else:
                    bounds = zip(starts[:n_rows, k].tolist(), ends[:n_rows, k].tolist(), strict=True)
                    codes = np.fromiter([places[data[start:end]] for start, end in bounds], np.int32, n_rows)
                columns[j] = Texts(codes, places.texts)
            return Block(lines_before + lines[:n_rows] + 1, columns)

        return parse


def _size(form: Form) -> int:
    from pathlib import Path

    return Path(form.path).stat().st_size


def _check_utf8(data: bytes) -> None:
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise NotUtf8Error(str(error.reason)) from None


def _kind_of(sample: Sequence[str], delimiter: str) -> int:
    """Return whether the first cells of a column are numbers or text."""
    known = [text for text in sample if not cells.is_missing(text)]
    n_numbers = sum(_is_plain(text, delimiter) for text in known)
    return NUMBER if 2 * n_numbers >= len(known) else TEXT


def _is_plain(text: str, delimiter: str) -> bool:
    """Return whether a cell is a number without signs and grouped thousands."""
    try:
        float(text if delimiter == "," else text.replace(",", "."))
        return "_" not in text
    except ValueError:
        return False


def _is_free(texts: Sequence[str], delimiter: str) -> bool:
    """Return whether these are neither numbers nor dates."""
    n_numbers = sum(cells.number(text, delimiter) is not None for text in texts)
    return 2 * n_numbers < len(texts) and not cells.unit_word(texts) and dates.parse(list(texts)) is None
