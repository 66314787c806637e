"""Form of a text file: encoding, delimiter, quotes, title, comments and header, detected from its first lines."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import IO, cast

import numpy as np

from .cells import is_missing, is_number, number, unit
from .dataset import first_few, open_maybe_gzipped

DELIMITERS = "\t;|,"  # the comma last: it may also be a decimal comma
BLANKS = " "  # one or more spaces or tabs
NAMES_OF_DELIMITERS = {
    "comma": ",",
    "semicolon": ";",
    "tab": "\t",
    "\\t": "\t",
    "pipe": "|",
    "space": BLANKS,
    "spaces": BLANKS,
    "blank": BLANKS,
}
COMMENT = ("#", "%")
SAMPLE_BYTES = 1 << 18
MAX_QUOTED_BYTES = 1 << 24  # of lines within quotes; a quote that is open for longer is taken for a character
N_ROWS = 20  # that the form is detected from
MAX_TITLE_LINES = 10
YEARS = range(1800, 2201)
MIN_NUMBERED = 4  # columns whose names are taken for consecutive numbers
WESTERN = "cp1252"  # of files that are not UTF-8
CONTROL = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f]")


def _western_hole(error: UnicodeError) -> tuple[str, int]:
    """Decode a byte of the five that Windows's code page lacks: control characters elsewhere."""
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("fastbp_western", _western_hole)


class TableError(ValueError):
    """What is wrong with a table: one line for each problem.

    Attributes
    ----------
    problems : tuple of str
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class NotUtf8Error(ValueError):
    """The file holds other bytes than UTF-8 text."""


@dataclass(frozen=True)
class Form:
    """Form of a file.

    Attributes
    ----------
    path : str or path-like
    encoding : str
    delimiter : str
        " " for blanks.
    quote : str
        Or "" if none has a meaning.
    decimal : str
        The decimal point of most numbers.
    has_header : bool
    names : list of str
    unnamed : frozenset of int
        Columns without a name in the header.
    first_line : int
        Line of the header, or of the first sample.
    skip : int
        Number of lines before the first sample.
    header : list of str
        The cells of the header; empty if there is none.
    sample : list of list of str
        The first rows below the header.
    remarks : list of str
    shown_name : str
    has_given_encoding : bool
        Whether the encoding was not detected.
    has_returns : bool
        Whether lines end with carriage returns alone, as on old Macs.
    """

    path: str | os.PathLike[str]
    encoding: str
    delimiter: str
    quote: str
    decimal: str
    has_header: bool
    names: list[str]
    unnamed: frozenset[int]
    first_line: int
    skip: int
    header: list[str]
    sample: list[list[str]] = field(repr=False)
    remarks: list[str] = field(default_factory=list)
    shown_name: str = ""
    has_given_encoding: bool = False
    has_returns: bool = False

    @property
    def shown(self) -> str:
        """The name of the file, for messages."""
        return self.shown_name or str(self.path)

    def index(self, column: str | int) -> int:
        """Return the number of the column with this name or number."""
        return index_of(self.names, column, self.shown)

    def feature_places(self, target: int | None) -> list[int]:
        """Return the places of all columns but the target; ValueError if there are none."""
        places = [k for k in range(len(self.names)) if k != target]
        if not places:
            raise ValueError(f"{self.shown}: one column only; a target and at least one feature are needed")
        return places

    def blocks(self, size: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield the numbers of lines before and in blocks of complete lines of samples, and their UTF-8 bytes."""
        line, skipped, left = self.skip, 0, b""
        with open_utf8(self.path, self.encoding) as stream:
            while True:
                chunk = stream.read(size)
                data = left + chunk
                if self.has_returns:
                    data = data.replace(b"\r", b"\n")
                if not chunk:
                    if data and not data.endswith(b"\n"):
                        data += b"\n"
                    end = len(data)
                else:
                    end = data.rfind(b"\n") + 1
                    if self.quote and len(data) < MAX_QUOTED_BYTES:
                        end = _even_end(data, end, self.quote.encode())
                left, data = data[end:], data[:end]
                while skipped < self.skip and data:
                    cut = data.find(b"\n") + 1
                    data, skipped = data[cut:], skipped + 1
                if data:
                    n_lines = data.count(b"\n")
                    yield line, n_lines, data
                    line += n_lines
                if not chunk:
                    return

    def rows(self, data: bytes, lines_before: int, problems: list[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and cells of the rows of a block, without comments and repeated headers; add problems."""
        text = _decoded(data)
        width = len(self.names)
        lines = io.StringIO(text, newline="")
        where = f"{self.shown}, line"
        for line, row in _rows(lines, self.delimiter, self.quote, problems, where, lines_before):
            if len(row) != width:
                if row[0].startswith(COMMENT):
                    continue
                if len(row) > width and not any(row[width:]):
                    row = row[:width]
                else:
                    fields = f"{len(row)} field{'s' * (len(row) != 1)}"
                    problems.append(f"{self.shown}, line {line}: {fields}; line {self.first_line} has {width}")
                    continue
            elif self.has_header and row == self.header:
                self.remarks.append(f"{self.shown}, line {line} repeats the header, and is left out")
                continue
            yield line, row


def index_of(names: Sequence[str], column: str | int, shown: str) -> int:
    """Return the number of the column with this name or number; ValueError if there is none."""
    n = len(names)
    if str(column) in names:
        return list(names).index(str(column))
    try:
        number_of_column = int(column)
    except ValueError:
        number_of_column = n
    if -n <= number_of_column < n:
        return number_of_column % n
    raise ValueError(f"{shown} has no column {column!r}; its {n} columns are {first_few(names, 10)}")


def _even_end(data: bytes, end: int, quote: bytes) -> int:
    """Return the last end of a line, up to `end`, that is not within quotes; 0 if there is none."""
    if quote not in data:
        return end
    n_quotes = data.count(quote, 0, end)
    while n_quotes % 2 and end:
        previous = data.rfind(b"\n", 0, end - 1) + 1
        n_quotes -= data.count(quote, previous, end)
        end = previous
    return end


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise NotUtf8Error(str(error.reason)) from None


def open_utf8(path: str | os.PathLike[str], encoding: str) -> IO[bytes]:
    """Open a file, gzipped or not, whose bytes read are UTF-8, without a byte order mark."""
    stream = open_maybe_gzipped(path)
    if encoding != "utf-8":
        return cast(IO[bytes], io.BufferedReader(_Transcoder(stream, encoding, str(path))))
    if stream.peek(3)[:3] == codecs.BOM_UTF8:  # type: ignore[attr-defined]
        stream.read(3)
    return stream


class _Transcoder(io.RawIOBase):
    """The UTF-8 bytes of a text in another encoding."""

    def __init__(self, stream: IO[bytes], encoding: str, name: str) -> None:
        errors = "fastbp_western" if encoding == WESTERN else "strict"
        self._stream, self._decoder, self._left = stream, codecs.getincrementaldecoder(encoding)(errors), b""
        self._name, self._encoding = name, encoding

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            chunk = self._stream.read(1 << 16)
            try:
                self._left = self._decoder.decode(chunk, not chunk).encode(errors="replace")
            except UnicodeDecodeError as error:
                raise ValueError(f"{self._name} is not {self._encoding} text: {error.reason}") from None
            if not chunk:
                break
        n = min(len(buffer), len(self._left))
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n

    def close(self) -> None:
        self._stream.close()
        super().close()


def _rows(
    lines: Iterable[str],
    delimiter: str,
    quote: str,
    problems: list[str] | None,
    where: str = "",
    lines_before: int = 0,
) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and stripped cells of every row that is not blank; strict if there is a list of problems."""
    if delimiter == BLANKS:
        lines = (" ".join(line.split()) + "\n" for line in lines)
    options: dict = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=problems is not None, **options)
    while True:
        first_line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if problems is not None:
                problems.append(f"{where} {lines_before + reader.line_num}: {error}")
            continue
        if len(row) > 1 or any(cell.strip() for cell in row):  # several empty cells are missing values
            yield lines_before + first_line, [cell.strip() for cell in row]


def detect(
    path: str | os.PathLike[str],
    header: bool | None = None,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    is_header: Callable[[list[list[str]], str], bool] | None = None,
    shown_name: str = "",
) -> Form:
    """Detect the form of a file from its first lines.

    Parameters
    ----------
    path : str or path-like
    header : bool, optional
        Whether there is a header.
    encoding, delimiter : str, optional
    is_header : callable, optional
        Tells from the first rows and the delimiter whether the first is a header, instead of `looks_like_header`.
    shown_name : str
        Name of the file in messages.

    Raises
    ------
    ValueError
        If the file is empty, or no text.
    """
    name, is_given = shown_name or str(path), encoding is not None
    remarks: list[str] = []
    if delimiter is not None:
        delimiter = NAMES_OF_DELIMITERS.get(delimiter.lower(), delimiter)
        if len(delimiter) != 1 or delimiter in "\n\r\"'":
            raise ValueError(f"delimiter must be one character, tab, or blank, got {delimiter!r}")
    if encoding is not None:
        try:
            encoding = codecs.lookup(encoding).name
        except LookupError:
            raise ValueError(
                f"encoding {encoding!r} is unknown; known are utf-8, latin-1, cp1252, utf-16 ..."
            ) from None
        encoding = "utf-8" if encoding == "utf-8-sig" else encoding
    encoding, text, has_returns = _sample_text(path, name, encoding, remarks)
    lines = list(io.StringIO(text))
    first_word = next((line.split()[0] for line in lines if line.strip() and not line.lstrip().startswith("%")), "")
    if first_word.lower() == "@relation":
        return _arff_form(path, name, encoding, lines, remarks)
    body, n_comments, comment = _without_comments(lines, delimiter)
    quote, delimiter, rows, n_title = _split(body, delimiter)
    if not rows:
        raise ValueError(f"{name} is empty")
    lines_before = n_comments
    if n_title:
        remarks.append(f"{name}, line {lines_before + rows[0][0]} is a title: {rows[0][1][0]!r}")
        rows = rows[n_title:]
    first_line, first = lines_before + rows[0][0], rows[0][1]
    table = [row for _, row in rows]
    names_in_comment = False
    if comment is not None and header is not False and not n_title:
        cells = next((row for _, row in _rows([comment.lstrip("#% ")], delimiter, quote, None)), [])
        names_in_comment = len(cells) == len(first) > 1 and not any(is_number(cell, delimiter) for cell in cells)
        names_in_comment &= not looks_like_header(table, delimiter)
        if names_in_comment:
            first, header = cells, True
            table.insert(0, cells)
            lines_before -= 1
    below = table[1:]
    width = _width(below) or len(first)
    extra_name = False
    if header is not False and len(first) == width - 1 and below:  # names of all columns but one
        if all(not row[-1] for row in below if len(row) == width):
            first = [*first, ""]
        elif (is_header or looks_like_header)([["", *first], *below], delimiter) or header:
            first, extra_name = ["", *first], True
        table[0] = first
    if len(first) == width + 1 and not first[-1] and below:
        first = table[0] = first[:-1]
    if header is None:
        header = extra_name or (is_header or looks_like_header)(table, delimiter)
    names = [
        (header and cell) or (str(j) if not header or str(j) not in first else f"Unnamed: {j}")
        for j, cell in enumerate(first)
    ]
    _make_unique(names, f"{name}, line {first_line}", remarks)
    if len(first) == 1:  # perhaps for an open quote
        problems: list[str] = []
        list(_rows(body, delimiter, quote, problems, f"{name}, line", n_comments))
        if problems:
            raise TableError(problems)
    samples = table[1:] if header else table
    if not samples:
        raise ValueError(f"{name}: a header, but no rows")
    skip = first_line if header and not names_in_comment else first_line - 1
    unnamed = frozenset(j for j, cell in enumerate(first) if header and not cell)
    decimal = _decimal(samples, delimiter)
    shown_header = first if header else []
    return Form(
        path, encoding, delimiter, quote, decimal, bool(header), names, unnamed, first_line, skip, shown_header,
        samples, remarks, shown_name, is_given, has_returns,
    )  # fmt: skip


def _sample_text(
    path: str | os.PathLike[str], name: str, encoding: str | None, remarks: list[str]
) -> tuple[str, str, bool]:
    """Return the encoding, the text of the first complete lines, and whether these end with returns alone."""
    with open_maybe_gzipped(path) as stream:
        data = stream.read(SAMPLE_BYTES)
    is_whole = len(data) < SAMPLE_BYTES
    is_given = encoding is not None
    if encoding is None:
        encoding = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
    for attempt in (encoding,) if is_given else (encoding, WESTERN):
        errors = "fastbp_western" if attempt == WESTERN else "strict"
        decoder = codecs.getincrementaldecoder("utf-8-sig" if attempt == "utf-8" else attempt)(errors)
        try:
            text = decoder.decode(data, is_whole)
        except UnicodeDecodeError as error:
            if is_given or encoding != "utf-8" or b"\0" in data:
                shown = "UTF-8" if encoding == "utf-8" else encoding
                shown = "UTF-16, which its first bytes announce, nor UTF-8" if encoding == "utf-16" else shown
                raise ValueError(f"{name} is not {shown} text: {error.reason}") from None
            continue
        break
    n_controls = len(CONTROL.findall(text))
    if (b"\0" in data and "16" not in attempt and "32" not in attempt) or (attempt != encoding and n_controls > 4):
        raise ValueError(f"{name} is no text: it holds control characters such as {CONTROL.findall(text)[0]!r}")
    if attempt != encoding:
        remarks.append(western_remark(name))
    has_returns = "\r" in text and "\n" not in text
    text = text.replace("\r", "\n") if has_returns else text.replace("\r\n", "\n")
    if not is_whole and "\n" in text:
        text = text[: text.rindex("\n") + 1]
    return attempt, text, has_returns


def western_remark(name: str) -> str:
    """Return what is said of a file that is not UTF-8."""
    return f"{name} is not UTF-8 text, and is read as {WESTERN}; another encoding can be given"


def _without_comments(lines: list[str], delimiter: str | None) -> tuple[list[str], int, str | None]:
    """Return the lines after comments at the start, the number of these, and the last comment."""
    full = [line for line in lines[: 5 * N_ROWS] if line.strip()]
    marked = [line for line in full if line.lstrip().startswith(COMMENT)]
    if 2 * len(marked) > len(full) and len(full) > 2 and len(marked) == len(full):
        return lines, 0, None  # these are data, such as colors
    n, comment = 0, None
    for i, line in enumerate(lines):
        stripped = line.strip()
        if not stripped:
            continue
        if not stripped.startswith(COMMENT) or stripped[1:2] in tuple(delimiter or DELIMITERS):
            break  # "#,x,y" holds names
        n, comment = i + 1, stripped
    return lines[n:], n, comment


def _split(lines: list[str], delimiter: str | None) -> tuple[str, str, list[tuple[int, list[str]]], int]:
    """Return quote, delimiter, line number and cells of the first rows, and the number of title rows among them."""
    head = "".join(lines[: 5 * N_ROWS])
    quote = '"'
    if '"' not in head and re.search(r"(?:^|[\t;|, ])\s*'[^'\n]*'\s*(?:$|[\t;|, ])", head, re.MULTILINE):
        quote = "'"
    best = _split_by(lines, delimiter, quote)
    if quote == "'":
        rows = [row for _, row in best[1][best[2] :]]
        if len({len(row) for row in rows}) != 1 or "'" in "".join(rows[-1]):  # these are apostrophes
            best, quote = _split_by(lines, delimiter, '"'), '"'
    return quote, *best


def _split_by(lines: list[str], delimiter: str | None, quote: str) -> tuple[str, list[tuple[int, list[str]]], int]:
    """Return the delimiter, the first rows and the number of title rows.

    The delimiter is the first that splits all of these rows into the same number of cells, more than one; otherwise
    that which makes the most cells. Blanks delimit if they split evenly into more numbers.
    """
    candidates = DELIMITERS + BLANKS if delimiter is None else delimiter
    found: dict[str, tuple[list[tuple[int, list[str]]], int]] = {}
    for each in candidates:
        rows: list[tuple[int, list[str]]] = []
        for line, row in _rows(lines, each, quote, None):
            if row[0].startswith(COMMENT) and rows and len(row) != len(rows[-1][1]):
                continue
            rows.append((line, row))
            if len(rows) == N_ROWS + MAX_TITLE_LINES:
                break
        n_title = _n_title_rows([row for _, row in rows])
        found[each] = rows[: n_title + N_ROWS], n_title
    if delimiter is not None:
        return delimiter, *found[delimiter]
    widths = {each: sorted(len(row) for _, row in rows[n:]) or [0] for each, (rows, n) in found.items()}
    if not any(rows for rows, _ in found.values()):
        return ",", [], 0
    even = [each for each in DELIMITERS if 1 < widths[each][0] == widths[each][-1]]
    best = even[0] if even else max(DELIMITERS, key=lambda each: median_low(widths[each]))
    blanks = widths[BLANKS]
    if 1 < blanks[0] == blanks[-1] and (not even or blanks[0] > widths[best][0]):
        n_others = _n_plain_numbers(found[best])
        if _n_plain_numbers(found[BLANKS]) > (2 * n_others if even else n_others):
            best = BLANKS
    return best, *found[best]


def _n_plain_numbers(found: tuple[list[tuple[int, list[str]]], int]) -> int:
    cells = [cell for _, row in found[0] for cell in row]
    return sum(bool(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", cell, re.IGNORECASE)) for cell in cells)


def _n_title_rows(rows: list[list[str]]) -> int:
    """Return the number of rows at the start that hold one text only, above a table of several columns."""
    n = 0
    while n < min(MAX_TITLE_LINES, len(rows) - 2) and len([cell for cell in rows[n] if cell]) == 1 and rows[n][0]:
        n += 1
    if not n or is_number(rows[0][0], ","):
        return 0
    below = [len([cell for cell in row if cell]) for row in rows[n:]]
    return n if min(below) > 1 and max(map(len, rows[n:])) > 1 else 0


def _width(rows: list[list[str]]) -> int | None:
    """Return the number of cells of more than half of the rows; None if there is none."""
    widths = [len(row) for row in rows]
    return next((width for width in set(widths) if 2 * widths.count(width) > len(widths)), None)


def _make_unique(names: list[str], where: str, remarks: list[str]) -> None:
    """Add numbers to names that occur again, as pandas does."""
    seen: set[str] = set()
    for j, name in enumerate(names):
        unique, k = name, 0
        while unique in seen or (k and unique in names):
            k += 1
            unique = f"{name}.{k}"
        if k:
            remarks.append(f"{where}: the name {name!r} occurs again; column {j} is called {unique!r}")
        seen.add(unique)
        names[j] = unique


def _decimal(rows: list[list[str]], delimiter: str) -> str:
    if delimiter == ",":
        return "."
    cells = [cell for row in rows for cell in row if number(cell, delimiter) is not None]
    return "," if sum("," in cell for cell in cells) > sum("." in cell for cell in cells) else "."


def _arff_form(path: str | os.PathLike[str], name: str, encoding: str, lines: list[str], remarks: list[str]) -> Form:
    """Return the form of Weka's ARFF: names in its head, then comma-separated rows, quoted by ' or "."""
    names, skip = [], 0
    for i, line in enumerate(lines, 1):
        if match := re.match(r"\s*@attribute\s+('[^']*'|\"[^\"]*\"|\S+)", line, re.IGNORECASE):
            names.append(match[1].strip("'\""))
        elif line.strip().lower() == "@data":
            skip = i
            break
    if not names or not skip:
        raise ValueError(f"{name} begins as an ARFF file, but has no @attribute and @data lines")
    body = "".join(lines[skip : skip + 5 * N_ROWS])
    quote = '"' if '"' in body else "'"
    rows = [row for _, row in _rows(io.StringIO(body), ",", quote, None) if not row[0].startswith("%")]
    if not rows:
        raise ValueError(f"{name}: no rows after @data")
    if rows[0][0].startswith("{"):
        raise ValueError(f"{name} is a sparse ARFF file, which is not read: save it as a dense one, or as CSV")
    _make_unique(names, name, remarks)
    return Form(path, encoding, ",", quote, ".", True, names, frozenset(), skip, skip, [], rows[:N_ROWS], remarks, name)


# ------------------------------------------------------------------ headers


def looks_like_header(first_rows: list[list[str]], delimiter: str) -> bool:
    """Return whether the first row is a header; the rule is in the docstring of `read_csv`."""
    first, below = first_rows[0], list(zip(*first_rows[1:], strict=False))
    if not below:
        return not any(is_number(text, delimiter) for text in first)
    pairs = list(zip(first, below, strict=False))
    numeric = [
        any(is_number(text, delimiter) and not is_missing(text) for text in column)
        and all(is_number(text, delimiter) for text in column)
        for _, column in pairs  # the first row may be shorter than those below, or longer
    ]
    # "5%" above numbers without a unit is the name of a quantile.
    names = [
        not is_number(text, delimiter) or (unit(text) != "" and not any(map(unit, column))) for text, column in pairs
    ]
    if any(n and name for n, name in zip(numeric, names, strict=True)):
        return True
    differs = all(text not in column for n, (text, column) in zip(numeric, pairs, strict=True) if not n)
    numbers = [text for text in first if is_number(text, delimiter) and not is_missing(text)]
    if any(numeric) or len(numbers) == len(first):
        rows = [
            [text for n, text in zip(numeric, row, strict=False) if n and not is_missing(text)]
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
