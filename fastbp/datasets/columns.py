"""Columns of a table: their values, what kind they are of, and the features made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from . import cells, dates
from .dataset import LEFT_OUT, MAX_INTEGER_CLASSES, Column, first_few

MAX_CATEGORIES = 40  # of a text column; the others together are one more
SAMPLE = 1000  # first values of a column, whose distinct ones are counted
DISTINCT = 0.9  # a text column with a larger fraction of distinct values is names or comments, not a feature
MAX_ODD = 0.1  # fraction of other text that a column of numbers may hold
MIN_COUNTED = 4  # rows; fewer may hold consecutive numbers by chance
IDS = {"", "id", "idx", "index", "row_id", "rowid", "unnamed: 0"}  # names of row indices; pandas writes none
ROW_NUMBERS = {"no", "nr", "row", "#"}  # names of row indices if the values are consecutive numbers
TRIED = 500  # texts of a column, to find out whether there are numbers
COPIED_ROWS = 1024  # at a time, column by column, so that they stay in the cache
MAX_SHOWN = 60  # characters of a value in a message


@dataclass
class Numbers:
    """Numbers of a column: float64, NaN where one is missing.

    `odd` are the rows and texts of cells that hold other text, taken as missing.
    """

    values: np.ndarray
    odd: list[tuple[int, str]] = field(default_factory=list)
    unit: str = ""

    @property
    def missing(self) -> np.ndarray:
        """Where values are missing."""
        return np.isnan(self.values)

    def rows(self, keep: np.ndarray) -> Numbers:
        """Return some of the rows, by a mask."""
        number = np.cumsum(keep) - 1
        return Numbers(self.values[keep], [(int(number[i]), text) for i, text in self.odd if keep[i]], self.unit)


@dataclass
class Texts:
    """Texts of a column: for each row the place of its text among the distinct ones, of which the first is ""."""

    codes: np.ndarray
    texts: list[str]

    @property
    def missing(self) -> np.ndarray:
        """Where values are missing."""
        return self.codes == 0

    def rows(self, keep: np.ndarray) -> Texts:
        """Return some of the rows, by a mask."""
        return Texts(self.codes[keep], self.texts)


@dataclass
class DateValues:
    """Dates of a column."""

    dates: dates.Dates

    @property
    def missing(self) -> np.ndarray:
        """Where values are missing."""
        return np.isnat(self.dates.values)

    def rows(self, keep: np.ndarray) -> DateValues:
        """Return some of the rows, by a mask."""
        return DateValues(self.dates._replace(values=self.dates.values[keep]))


Values = Numbers | Texts | DateValues


@dataclass
class Names:
    """What messages call a table and its rows."""

    table: str
    lines: Sequence[int] | np.ndarray
    word: str = "line"

    def of(self, rows: Sequence[int] | np.ndarray) -> str:
        """Return the first of these rows in words, such as "lines 3, 7 and 2 more"."""
        return f"{self.word}{'s' * (len(rows) > 1)} {first_few([self.lines[i] for i in rows[:6]], 5, len(rows))}"

    def column(self, name: str) -> str:
        """Return what begins a message on a column."""
        return f"{self.table}, column {name!r}"


# ------------------------------------------------------------------ kinds


@dataclass
class Meaning:
    """What the distinct texts of a column mean.

    Attributes
    ----------
    lookup : ndarray or None
        For each text its number or date; None if texts are just texts.
    odd : ndarray
        Places of texts among numbers.
    unit : str
        Word that follows the numbers.
    dates : Dates or None
        Their parts and order.
    problem : str or None
        What is ambiguous in the numbers.
    """

    lookup: np.ndarray | None = None
    odd: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    unit: str = ""
    dates: dates.Dates | None = None
    problem: str | None = None

    def of(self, values: Texts) -> Values:
        """Return the numbers or dates of rows of texts."""
        if self.lookup is None:
            return values
        found = self.lookup[values.codes]
        if self.dates is not None:
            return DateValues(self.dates._replace(values=found))
        rows = np.flatnonzero(np.isin(values.codes, self.odd)).tolist() if len(self.odd) else []
        return Numbers(found, [(i, values.texts[values.codes[i]]) for i in rows], self.unit)


def meaning(texts: Sequence[str], counts: np.ndarray, delimiter: str = ",", is_target: bool = False) -> Meaning:
    """Find out whether distinct texts, each of which occurs so many times, are numbers or dates.

    They are numbers if more than half of the cells are, and the rest is little, or the numbers are many; a number may
    be followed by a unit. They are dates if nine tenths are. Targets are never dates.
    """
    used = np.array([i for i in range(1, len(texts)) if i < len(counts) and counts[i]], np.int64)
    known = [texts[i] for i in used]
    if not known:
        return Meaning()
    if any(cells.number(text, delimiter) is not None for text in known[:: max(1, len(known) // TRIED)]):
        found = [cells.number(text, delimiter) for text in known]
    else:
        found = [None] * len(known)  # numbers may be few, which does not matter
    unit = "" if is_target or any(number is not None for number in found[:5]) else cells.unit_word(known)
    if unit:
        found = [cells.number(cells.without_unit_word(text, unit), delimiter) for text in known]
    numbers = np.array([np.nan if number is None else number for number in found])
    is_number = np.isfinite(numbers)
    n_numbers = counts[used][is_number].sum()
    n_odd = counts[used].sum() - n_numbers
    if _are_numbers(numbers[is_number], n_numbers, n_odd, is_target):
        lookup = np.full(len(texts), np.nan)
        lookup[used] = np.where(is_number, numbers, np.nan)
        plain = [text for text, good in zip(known, is_number, strict=True) if good]
        problem = None if unit else cells.why_ambiguous(cells.notations(plain, delimiter))
        return Meaning(lookup, used[~is_number], unit, problem=problem)
    if not is_target and (parsed := dates.parse(known, semicolons=delimiter == ";")) is not None:
        lookup = np.full(len(texts), np.datetime64("NaT"), "datetime64[s]")
        lookup[used] = parsed.values
        return Meaning(lookup, dates=parsed)
    return Meaning()


def _are_numbers(numbers: np.ndarray, n_numbers: int, n_odd: int, is_target: bool) -> bool:
    """Return whether a column of numbers and other texts is one of numbers."""
    if n_odd > n_numbers or not n_numbers:
        return False
    if not n_odd:
        return True
    n_different = len(np.unique(numbers))
    few = n_different <= min(MAX_INTEGER_CLASSES, n_numbers / 2)
    return n_odd <= MAX_ODD * (n_odd + n_numbers) or not few or is_target


def as_kind(values: Values, column: Column, delimiter: str = ",") -> Values:
    """Return values as the kind of a column of a trained model; what cannot be read as that is missing, or text."""
    if column.categories is not None:
        if isinstance(values, Texts):
            return values
        texts = texts_of(values)
        distinct, codes = np.unique(np.array(texts), return_inverse=True)
        if not len(distinct) or distinct[0] != "":
            distinct, codes = np.concatenate([[""], distinct]), codes + 1
        return Texts(codes.astype(np.int32), distinct.tolist())
    if column.parts:
        if isinstance(values, DateValues):
            return values
        if isinstance(values, Numbers) and (found := dates.of_numbers(values.values)) is not None:
            known = np.full(len(values.values), np.datetime64("NaT"), "datetime64[s]")
            known[~values.missing] = found.values
            return DateValues(found._replace(values=known))
        texts = values.texts[1:] if isinstance(values, Texts) else []
        parsed = dates.parse(texts, column.day_first, delimiter == ";", min_dates=0.0)
        n = len(values.codes) if isinstance(values, Texts) else len(values.values)
        if parsed is None:
            return DateValues(dates.Dates(np.full(n, np.datetime64("NaT"), "datetime64[s]"), column.parts))
        lookup = np.concatenate([np.array(["NaT"], "datetime64[s]"), parsed.values])
        return DateValues(parsed._replace(values=lookup[values.codes]))  # type: ignore[union-attr]
    if isinstance(values, Numbers):
        return values
    if isinstance(values, DateValues):
        return Numbers(np.full(len(values.missing), np.nan))
    truths = {"False": 0.0, "True": 1.0}  # in columns of models that took truth values as numbers
    found_numbers = [
        truths[text] if text in truths else cells.number(cells.without_unit_word(text, column.unit), delimiter)
        for text in values.texts
    ]
    lookup = np.array([np.nan if v is None or not np.isfinite(v) else v for v in found_numbers])
    odd = np.flatnonzero(np.isnan(lookup[values.codes]) & ~values.missing)
    return Numbers(lookup[values.codes], [(int(i), values.texts[values.codes[i]]) for i in odd], column.unit)


def texts_of(values: Values) -> list[str]:
    """Return the values as texts; missing ones are empty."""
    if isinstance(values, Texts):
        return [values.texts[code] for code in values.codes]
    if isinstance(values, DateValues):
        return ["" if missing else str(d) for d, missing in zip(values.dates.values, values.missing, strict=True)]
    return ["" if v != v else f"{v:.17g}" if not v.is_integer() else str(int(v)) for v in values.values.tolist()]


# ------------------------------------------------------------------ what a column becomes


class Summary:
    """What is to be known of a column to make features of it, gathered block by block."""

    def __init__(self) -> None:
        self.n = self.n_missing = self.n_odd = 0
        self.first_odd: tuple[int, str] | None = None
        self.total = 0.0  # of the numbers
        self.counts = np.zeros(1, np.int64)  # of each text
        self.steps_by_1 = True  # each number is the one before plus 1
        self.start = 0.0
        self.low, self.high = np.inf, -np.inf
        self._sample: list[np.ndarray] = []  # first values that are not missing
        self.n_sampled = 0

    def add(self, values: Values) -> Summary:
        """Add the next rows."""
        missing = values.missing
        n = len(missing)
        if isinstance(values, Numbers):
            numbers = values.values
            if n:
                self.start = self.start if self.n else float(numbers[0])
                expected = self.start + self.n + np.arange(n)
                self.steps_by_1 = self.steps_by_1 and bool((numbers == expected).all())
                known = numbers[~missing] if missing.any() else numbers
                if len(known):
                    self.low, self.high = min(self.low, float(known.min())), max(self.high, float(known.max()))
                    with np.errstate(over="ignore"):
                        self.total += float(known.sum())
            sampled: np.ndarray = numbers
        elif isinstance(values, Texts):
            counts = np.bincount(values.codes, minlength=len(self.counts))
            counts[: len(self.counts)] += self.counts
            self.counts, sampled, self.steps_by_1 = counts, values.codes, False
        else:
            sampled, self.steps_by_1 = values.dates.values, False
        if self.n_sampled < SAMPLE and n:
            first = sampled[~missing][: SAMPLE - self.n_sampled]
            self._sample.append(first)
            self.n_sampled += len(first)
        self.n += n
        self.n_missing += int(np.count_nonzero(missing))
        return self

    @property
    def sample(self) -> np.ndarray:
        """The first values that are not missing, at most `SAMPLE`."""
        return np.concatenate(self._sample) if self._sample else np.zeros(0)

    @property
    def differs(self) -> bool:
        """Whether nearly all values are distinct."""
        return len(np.unique(self.sample)) > max(1, DISTINCT * self.n_sampled)

    @property
    def mean(self) -> float:
        """Mean of the numbers; 0 if there are none."""
        return self.total / max(1, self.n - self.n_missing)


@dataclass
class Learned:
    """A column, what it is in words, and whether and why it is left out, or a remark."""

    column: Column
    kind: str
    reason: str = ""  # to leave it out
    is_index: bool = False  # the reason is that it numbers the rows
    remark: str = ""  # where it is kept


def learn(name: str, values: Values, summary: Summary, *, is_unnamed: bool, has_header: bool) -> Learned:
    """Find the features that a column becomes.

    Parameters
    ----------
    name : str
    values : Values
        Any rows; only their kind, texts, unit and parts of dates are used.
    summary : Summary
    is_unnamed, has_header : bool
        Whether the column has no name, and whether the table has a header.
    """
    n_missing, flag = summary.n_missing, summary.n_missing > 0
    if n_missing == summary.n:
        return Learned(Column(name, LEFT_OUT), "left out: it is empty", reason="it is empty")
    missing = f"; {n_missing:,} missing: a flag, and the mean instead" if flag else ""
    if isinstance(values, DateValues):
        column = Column(name, None, values.dates.parts, flag, day_first=values.dates.day_first)
        order = {None: "", True: ", day first", False: ", month first"}[column.day_first]
        return Learned(column, f"date{order}: {', '.join(column.parts)}{missing}")
    if isinstance(values, Numbers):
        column = Column(name, flag=flag, unit=values.unit)
        kind = "numbers" + (f" ({values.unit})" if values.unit else "") + missing
        if summary.low == summary.high:
            kind += "; always the same, without effect"
        if summary.n_odd and summary.first_odd:
            kind += f" ({summary.n_odd:,} of them text, such as {shortened(summary.first_odd[1])})"
        learned = Learned(column, kind)
        is_consecutive = summary.steps_by_1 and summary.n >= MIN_COUNTED
        if _is_index("" if is_unnamed else name.lower().rstrip("."), summary, is_consecutive, has_header):
            learned.reason, learned.is_index = "it numbers the rows", True
        if is_consecutive:
            learned.remark = "counts the rows: if it is only their number, leave it out"
        return learned
    counts = summary.counts.copy()
    counts[0] = 0
    order_of_codes = sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], values.texts[code]))
    chosen = sorted(values.texts[code] for code in order_of_codes[:MAX_CATEGORIES])
    other = len(order_of_codes) > MAX_CATEGORIES
    column = Column(name, (*([""] * flag), *chosen), other=other)
    n = len(order_of_codes)
    kind = f"text of {n:,} values"
    if n <= 4:
        kind += f": {', '.join(shortened(text) for text in chosen)}"
    kind += f": the {MAX_CATEGORIES} most frequent, and one for all others" if other else ""
    kind += f"; {n_missing:,} missing: one more" if flag else ""
    learned = Learned(column, kind)
    if summary.differs:
        learned.reason = "its text differs in nearly every row"
        if summary.n >= MIN_COUNTED:
            learned.remark = f": {learned.reason}, so that nothing can be learned from it"
    return learned


def _is_index(name: str, summary: Summary, is_consecutive: bool, has_header: bool) -> bool:
    """Return whether numbers are those of the rows, to judge by name and values."""
    if summary.n < 2 or summary.n_missing:
        return False
    if not has_header:
        return is_consecutive and summary.start in (0, 1)
    sample = summary.sample
    are_integers = bool((sample == np.floor(sample)).all())
    return (name in IDS and are_integers and len(np.unique(sample)) == summary.n_sampled) or (
        name in ROW_NUMBERS and summary.steps_by_1
    )


def leave_out(found: Sequence[Learned]) -> None:
    """Leave out the columns that have a reason, but keep at least one."""
    empty = [each for each in found if each.reason and each.column.is_left_out]
    rest = [each for each in found if not each.column.is_left_out]
    texts = [each for each in rest if each.reason and not each.is_index]
    out = [each for each in rest if each.reason]
    if len(out) == len(rest):
        out = texts if len(texts) < len(rest) else []
    for each in out:
        each.column, each.kind = Column(each.column.name, LEFT_OUT), f"left out: {each.reason}"
    for each in found:
        if each not in out and each not in empty:
            each.reason = ""


def shortened(text: str) -> str:
    """Return a text in quotes, cut if it is long."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}...")


# ------------------------------------------------------------------ features


def encode(columns: Sequence[Column], values: Sequence[Values | None], n: int) -> np.ndarray:
    """Return the features of a table, float64 (n, n_features), where missing numbers are NaN.

    `values` are of the kinds of the columns; those of columns that are left out are not used.
    """
    X = np.empty((n, sum(column.n_features for column in columns)))
    at, plain = 0, []
    for column, found in zip(columns, values, strict=True):
        width = column.n_features
        if width:
            assert found is not None
            if isinstance(found, Numbers):
                plain.append((at, found.values))
                if column.flag:
                    X[:, at + 1] = found.missing
            else:
                _encode(column, found, X[:, at : at + width])
        at += width
    for start in range(0, n, COPIED_ROWS):
        rows = slice(start, start + COPIED_ROWS)
        for k, numbers in plain:
            X[rows, k] = numbers[rows]
    return X


def _encode(column: Column, values: Texts | DateValues, out: np.ndarray) -> None:
    if isinstance(values, Texts):
        assert column.categories is not None
        place = {
            cells.with_truth(text): i for i, text in enumerate(column.categories)
        }  # models of before have any case
        unknown = len(column.categories) if column.other else -1
        places = np.array([place.get(text, unknown if text else -1) for text in values.texts])[values.codes]
        out[:] = 0
        known = np.flatnonzero(places >= 0)
        out[known, places[known]] = 1
        return
    out[:, : len(column.parts)] = dates.features(values.dates.values, column.parts)
    if column.flag:
        out[:, -1] = values.missing


def column_means(X: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Return the mean of each column without missing numbers, 0 where there are no others; rows may be counted."""
    known = ~np.isnan(X)
    weights = known if counts is None else known * counts[:, None]
    n = weights.sum(axis=0)
    if known.all() and counts is None:
        return X.mean(axis=0)
    with np.errstate(over="ignore"):
        return (np.where(known, X, 0) * weights).sum(axis=0) / np.maximum(n, 1)


def filled(X: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return features with means instead of missing numbers."""
    missing = np.isnan(X)
    return np.where(missing, means, X) if missing.any() else X


def unknown_texts(column: Column, values: Values) -> list[str]:
    """Return the texts that are no category of the column, without those that are missing; the first ones of all."""
    if not isinstance(values, Texts) or column.categories is None or column.other:
        return []
    used = np.unique(values.codes)
    known = {"", *map(cells.with_truth, column.categories)}
    return [values.texts[code] for code in used if values.texts[code] not in known]
