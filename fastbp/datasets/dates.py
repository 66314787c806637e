"""Dates and times in the common forms, as seconds since 1970."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

PARTS = ("year", "month", "day", "weekday", "days", "seconds")  # weekday: Monday is 0; days since 1970; of the day
Parts = tuple[str, ...]
MONTH_PARTS: Parts = ("year", "month", "days")
DATE_PARTS: Parts = PARTS[:5]
TIME_PARTS: Parts = ("seconds",)
MIN_DATES = 0.9  # fraction of the texts of a column of dates that are dates
YEARS = (1500, 2500)
FIRST_FULL_DATE, LAST_FULL_DATE = 18000101, 22001231  # of numbers such as 20190301
_MONTHS = {name: i for i, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_MONTH = r"(?P<name>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_ZONE = r"(?:\s*(?:Z|UTC|GMT|[+-]\d\d:?\d\d))?"
_CLOCK = rf"(?P<h>\d{{1,2}}):(?P<min>\d\d)(?::(?P<s>\d\d)(?:[.,]\d+)?)?\s*(?P<half>[ap]\.?m\.?)?{_ZONE}"
_TIME = rf"(?:(?:T|,?\s+){_CLOCK})?"
_YEAR = r"(?P<y>\d{4})"
_SHORT_YEAR = r"(?P<y>\d{4}|'?\d\d)"
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
_FORMS = (
    rf"{_WEEKDAY}{_YEAR}(?P<sep>[-/.])(?P<m>\d{{1,2}})(?:(?P=sep)(?P<d>\d{{1,2}}){_TIME})?",
    rf"{_WEEKDAY}(?P<first>\d{{1,2}})(?P<sep>[-/.])(?P<second>\d{{1,2}})(?P=sep){_SHORT_YEAR}{_TIME}",
    rf"{_WEEKDAY}(?P<d>\d{{1,2}})(?:st|nd|rd|th|\.)?[\s/-]*{_MONTH}[\s/,-]*{_SHORT_YEAR}{_TIME}",
    rf"{_WEEKDAY}{_MONTH}\s+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?,?\s+{_YEAR}{_TIME}",
    rf"{_YEAR}[\s/-]*{_MONTH}(?:[\s/-]*(?P<d>\d{{1,2}}){_TIME})?",
    rf"{_MONTH}[\s/,-]*{_SHORT_YEAR}",
    r"(?P<y>\d{4})[\s-]*Q(?P<quarter>[1-4])",
    r"Q(?P<quarter>[1-4])[\s/-]*(?P<y>\d{4})",
    _CLOCK,
)
_ISO = r"(?:\d{4}-\d\d(?:-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?)?\n)+"


class Dates(NamedTuple):
    """Dates of a column.

    Attributes
    ----------
    values : ndarray of datetime64[s]
        NaT where the text is no date. Times of the day are on the first day of 1970, months on their first day.
    parts : tuple of str
        Those of `PARTS` that the texts give.
    day_first : bool or None
        The order of dates such as 1/2/2019; None if there are none.
    """

    values: np.ndarray
    parts: tuple[str, ...]
    day_first: bool | None = None


def parse(
    texts: Sequence[str],
    day_first: bool | None = None,
    semicolons: bool = False,
    min_dates: float = MIN_DATES,
) -> Dates | None:
    """Parse the texts of a column; None if they are not mostly dates.

    Parameters
    ----------
    texts : sequence of str
    day_first : bool, optional
        Whether 1/2/2019 is the first of February. By default it is if a first number is above 12, or the separator
        is a point, or `semicolons`, and no second number is above 12.
    semicolons : bool
        Whether the file is delimited by semicolons, as in countries that write the day first.
    min_dates : float
        Fraction of the texts that must be dates.
    """
    if not texts:
        return None
    if (iso := _parse_iso(texts)) is not None:
        return iso
    found = [_match(text) for text in texts[:50]]
    if sum(map(bool, found)) < min_dates * len(found):
        return None
    found += [_match(text) for text in texts[50:]]
    pairs = [(int(m["first"]), int(m["second"]), m["sep"]) for m in found if m and "first" in m]
    if pairs:
        if day_first is None:
            is_day = any(first > 12 for first, _, _ in pairs) or semicolons or pairs[0][2] == "."
            day_first = is_day and not any(second > 12 for _, second, _ in pairs)
    fields = np.array([_fields(m, bool(day_first)) for m in found], np.int64)
    years, months, days, seconds = fields.T
    firsts = ((years - 1970) * 12 + months - 1).astype("datetime64[M]")
    dates = firsts.astype("datetime64[D]") + (days - 1)
    is_date = (dates.astype("datetime64[M]") == firsts) & (days > 0) & (months > 0) & (months < 13) & (seconds >= 0)
    is_date &= (years >= YEARS[0]) & (years <= YEARS[1])
    if is_date.mean() < min_dates:
        return None
    values = np.where(is_date, dates.astype("datetime64[s]") + seconds, np.datetime64("NaT"))
    kinds = [m for m, good in zip(found, is_date, strict=True) if good and m]
    has_date = any(m.get("y") for m in kinds)
    has_day = any(m.get("d") or m.get("first") for m in kinds)
    parts: Parts = (DATE_PARTS if has_day else MONTH_PARTS) if has_date else ()
    if not has_date or np.any(seconds[is_date] > 0):
        parts += TIME_PARTS
    return Dates(values, parts, day_first if pairs else None)


def _parse_iso(texts: Sequence[str]) -> Dates | None:
    """Parse dates that are all in ISO's form, which NumPy does quickly."""
    if not re.fullmatch(_ISO, texts[0] + "\n") or not re.fullmatch(_ISO, "\n".join(texts) + "\n"):
        return None
    try:
        values = np.array([text[:19] for text in texts], "datetime64[s]")
    except ValueError:  # as of February 30
        return None
    return of_datetimes(values, any(len(text) > 7 for text in texts))


def of_datetimes(values: np.ndarray, has_day: bool = True) -> Dates:
    """Return dates and times with the parts that they need."""
    values = values.astype("datetime64[s]")
    known = values[~np.isnat(values)]
    parts = DATE_PARTS if has_day else MONTH_PARTS
    if np.any(known != known.astype("datetime64[D]")):
        parts += TIME_PARTS
    return Dates(values, parts)


def of_numbers(values: np.ndarray) -> Dates | None:
    """Return the dates of numbers such as 20190301; None if any is none."""
    known = values[~np.isnan(values)]
    if not len(known) or known.min() < FIRST_FULL_DATE or known.max() > LAST_FULL_DATE:
        return None
    if np.any(known != np.floor(known)):
        return None
    return parse([f"{int(v) // 10000}-{int(v) // 100 % 100:02d}-{int(v) % 100:02d}" for v in known])


@cache
def _forms() -> list[re.Pattern[str]]:
    """Compile the forms, which most commands do not need."""
    return [re.compile(form, re.IGNORECASE) for form in _FORMS]


def _match(text: str) -> dict[str, str] | None:
    for form in _forms():
        if match := form.fullmatch(text):
            return {name: value for name, value in match.groupdict().items() if value is not None}
    return None


def _fields(found: dict[str, str] | None, day_first: bool) -> tuple[int, int, int, int]:
    """Return year, month, day and second of the day; a month 0 or a second -1 where they are invalid."""
    if found is None:
        return 1970, 0, 0, 0
    year = found.get("y", "1970").lstrip("'")
    y = int(year) + (0 if len(year) == 4 else 2000 if int(year) < 70 else 1900)
    if "first" in found:
        first, second = int(found["first"]), int(found["second"])
        d, m = (first, second) if day_first else (second, first)
    else:
        m = _MONTHS[found["name"].lower()] if "name" in found else int(found.get("m", "1"))
        m = 3 * int(found["quarter"]) - 2 if "quarter" in found else m
        d = int(found.get("d", "1"))
    h, minute, s = (int(found.get(name, "0")) for name in ("h", "min", "s"))
    if half := found.get("half"):
        h = h % 12 + 12 * (half[0] in "pP") if 0 < h < 13 else 99
    return y, m, d, 3600 * h + 60 * minute + s if h < 25 and minute < 60 and s < 61 else -1


def features(values: np.ndarray, parts: Sequence[str]) -> np.ndarray:
    """Return the parts of dates (n,) as numbers (n, n_parts); NaN where the date is missing."""
    missing = np.isnat(values)
    known = np.where(missing, np.datetime64(0, "s"), values)
    months, days = known.astype("datetime64[M]"), known.astype("datetime64[D]")
    of = {
        "year": lambda: known.astype("datetime64[Y]").astype(np.int64) + 1970,
        "month": lambda: months.astype(np.int64) % 12 + 1,
        "day": lambda: (days - months.astype("datetime64[D]")).astype(np.int64) + 1,
        "weekday": lambda: (days.astype(np.int64) + 3) % 7,
        "days": lambda: days.astype(np.int64),
        "seconds": lambda: (known - days.astype("datetime64[s]")).astype(np.int64),
    }
    numbers = np.column_stack([of[part]() for part in parts]).astype(np.float64)
    numbers[missing] = np.nan
    return numbers
