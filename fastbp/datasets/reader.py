"""The cells of a text file, column by column, block by block: numbers in bulk by a kernel, texts each parsed once."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
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
        text = cells.with_truth(text)
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
        kernel = self._kernel()
        given = self.form.blocks(BLOCK_BYTES)
        for lines_before, data, found in _with_cells(given, kernel):
            if kernel is None or found is None:
                block = self._parse_rows(lines_before, data)
            else:
                block = self._block(lines_before, data, kernel, found)
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

    def _kernel(self) -> _Kernel | None:
        """Return the kernel that parses blocks; None for small files, and those that it does not read."""
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
        return _Kernel(function.address(np.float64), form, self._kinds)

    def _block(self, lines_before: int, data: bytes, kernel: _Kernel, found: _Found) -> Block:
        """Return the rows of a block whose cells the kernel has found."""
        n = found.n_rows
        columns: dict[int, Numbers | Texts] = {}
        odd: dict[int, list[tuple[int, str]]] = {j: [] for j in kernel.numbers}
        slot = {j: k for k, j in enumerate(kernel.numbers)}
        for row, j, start, end in found.bad.tolist():
            text = data[start:end].decode()
            value, is_odd = self.numbers[j].parse(text)
            found.values[row, slot[j]] = value
            if is_odd:
                odd[j].append((row, text))
        notations = NOTATIONS[self.form.decimal]
        for k, j in enumerate(kernel.numbers):
            columns[j] = Numbers(found.values[:n, k].copy(), odd[j])
            forms = {notations[form] for form in notations if found.forms[j] & form}
            self.numbers[j].notations |= {"", *forms} if forms else set()
        for k, j in enumerate(kernel.texts):
            places = self.places[j]
            if j in self.dropped:
                codes = np.ones(n, np.int32)
            else:
                bounds = zip(found.starts[:n, k].tolist(), found.ends[:n, k].tolist(), strict=True)
                codes = np.fromiter([places[data[start:end]] for start, end in bounds], np.int32, n)
            columns[j] = Texts(codes, places.texts)
        lines = lines_before + found.lines[:n] + 1
        kernel.unused.append(found)
        return Block(lines, columns)


class _Found:
    """What the kernel finds in a block of at most `capacity` rows; see `kernels.delimited`."""

    def __init__(self, capacity: int, width: int, n_numbers: int, n_texts: int) -> None:
        self.capacity, self.n_rows = capacity, 0
        self.forms, self.values = np.empty(width, np.int64), np.empty((capacity, n_numbers))
        self.starts, self.ends = (np.empty((capacity, n_texts), np.int64) for _ in range(2))
        self.all_bad, self.lines = np.empty((capacity * n_numbers, 4), np.int64), np.empty(capacity, np.int64)
        self.counts = np.zeros(2, np.int64)

    @property
    def bad(self) -> np.ndarray:
        """Row, column, start and end of each cell of numbers that holds other text."""
        return self.all_bad[: self.counts[0]]


class _Kernel:
    """The kernel for one file."""

    def __init__(self, address: int, form: Form, kinds: dict[int, int]) -> None:
        integer, pointer = ctypes.c_int64, ctypes.c_void_p
        self._call = ctypes.CFUNCTYPE(integer, ctypes.c_char_p, *[integer] * 5, *[pointer] * 8)(address)
        self._width = len(form.names)
        self._kinds = np.zeros(self._width, np.int64)
        for j, kind in kinds.items():
            self._kinds[j] = kind
        self.numbers = sorted(j for j, kind in kinds.items() if kind == NUMBER)
        self.texts = sorted(j for j, kind in kinds.items() if kind == TEXT)
        self._header = (form.delimiter.join(form.header)).encode() if form.header else None
        self._marks = ord(form.delimiter), ord(form.decimal), ord(form.quote or "\0"), self._width
        self.unused: list[_Found] = []  # memory for further blocks

    def find(self, n_lines: int, data: bytes) -> _Found | None:
        """Find the cells of a block; None if the csv module has to."""
        if self._header and self._header in data:  # perhaps the header again
            return None
        if b"\n#" in data or b"\n%" in data or data[:1] in b"#%":
            return None
        _check_utf8(data)
        found = self.unused.pop() if self.unused else None
        if found is None or found.capacity < n_lines:
            found = _Found(n_lines, self._width, len(self.numbers), len(self.texts))
        found.forms[:] = 0
        arrays = (found.forms, found.values, found.starts, found.ends, found.all_bad, found.lines, found.counts)
        pointers = (array.ctypes.data for array in (self._kinds, *arrays))
        found.n_rows = self._call(data, len(data), *self._marks, *pointers)
        return found if found.n_rows >= 0 else None


def _with_cells(
    given: Iterator[tuple[int, int, bytes]], kernel: _Kernel | None
) -> Iterator[tuple[int, bytes, _Found | None]]:
    """Yield blocks with what the kernel finds in them, which it does in a thread while the block before is used."""
    first = next(given, None)
    second = None if first is None else next(given, None)
    if first is None:
        return
    if kernel is None or second is None:
        for lines_before, n_lines, data in (first, *([] if second is None else [second])):
            yield lines_before, data, kernel.find(n_lines, data) if kernel else None
        for lines_before, _, data in given:
            yield lines_before, data, None
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        before = first, pool.submit(kernel.find, first[1], first[2])
        for block in chain([second], given):
            after = block, pool.submit(kernel.find, block[1], block[2])
            (lines_before, _, data), found = before
            yield lines_before, data, found.result()
            before = after
        (lines_before, _, data), found = before
        yield lines_before, data, found.result()


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
