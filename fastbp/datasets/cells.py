"""Cells of a table: which are missing, which are numbers, and how they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

NOT_GIVEN = {"", "?", "na", "n/a", "n.a.", "#n/a", "<na>", "nan", "nat", "null"}
MISSING = NOT_GIVEN | {"none", "-", "--", "."}  # the latter may be classes of a target
MAX_MARK = max(map(len, MISSING))
CURRENCIES = "$€£¥₹"
MAX_UNIT = 8  # letters
_SIGNS = re.compile(f"[{CURRENCIES}%]")
_UNIT = re.compile(rf"([+-]?)\s?([{CURRENCIES}]?)\s?([+-]?[.,\d]\S*?)\s?([{CURRENCIES}%]?)")
_GROUPED = {  # by the delimiter: the grouped thousands, then the decimals
    ",": re.compile(r"([+-]?[1-9]\d{0,2}(?:,\d{3})+)((?:\.\d*)?)"),
    "": re.compile(r"([+-]?[1-9]\d{0,2}(?:\.\d{3})+)(,\d*)"),
}
_SPACED = re.compile("([+-]?[1-9]\\d{0,2}(?:(?: \\d{3})+|(?:'\\d{3})+))((?:[.,]\\d*)?)")  # 1 234 567, 1'234
_THREE_DECIMALS = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")  # or grouped thousands
_LIKE_SPACES = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2019": "'", "\u2212": "-"})
_WITH_UNIT_WORD = re.compile(rf"([+-]?[\d.,]*\d)\s?([^\W\d_]{{1,{MAX_UNIT}}}[²³]?|°[CF]?)")


def is_missing(text: str) -> bool:
    """Return whether a cell says that its value is missing."""
    return text.lower() in MISSING


def with_truth(text: str) -> str:
    """Return a truth value as Python writes it, True or False, in whatever case it is; other text as it is."""
    return text.capitalize() if len(text) <= 5 and text.lower() in ("true", "false") else text


def number(text: str, delimiter: str) -> float | None:
    """Return the value of a cell; None if it is not a number."""
    try:
        return None if "_" in text else float(text if delimiter == "," else text.replace(",", "."))
    except ValueError:
        plain = text if text.isascii() else text.translate(_LIKE_SPACES)
        sign, _, digits, _ = _parts(plain)
    if grouped := _GROUPED["," if delimiter == "," else ""].fullmatch(digits):
        digits = re.sub("[.,]", "", grouped[1]) + grouped[2]
    elif delimiter != " " and (grouped := _SPACED.fullmatch(digits)):
        digits = re.sub("[ ']", "", grouped[1]) + grouped[2]
    return number(sign + digits, delimiter) if sign + digits != text else None


def _parts(text: str) -> tuple[str, str, str, str]:
    """Return sign, currency, number, and unit after it; all but the number are empty if there is no unit."""
    parts = _UNIT.fullmatch(text) if _SIGNS.search(text) else None
    return parts.groups() if parts else ("", "", text, "")  # type: ignore[return-value]


def unit(text: str) -> str:
    """Return the currency or percent sign of a number."""
    _, currency, _, after = _parts(text)
    return currency + after


def unit_word(texts: Iterable[str]) -> str:
    """Return the word that follows the number in each text, as in "12 kg"; "" if there is none, or several."""
    found = ""
    for text in texts:
        match = _WITH_UNIT_WORD.fullmatch(text)
        if match is None or (found and match[2] != found):
            return ""
        found = match[2]
    return found


def without_unit_word(text: str, word: str) -> str:
    """Return a number without the word that follows it."""
    return text.removesuffix(word).rstrip() if word else text


def _notations(text: str, delimiter: str) -> Iterator[str]:
    """Yield how a number is written: its unit, and the possible meaning of its commas and points."""
    _, currency, text, after = _parts(text)
    yield currency + after
    if delimiter == ",":
        return
    if "," in text and "." in text:
        yield "1.000,0"
    elif _THREE_DECIMALS.fullmatch(text):
        yield "1,000" if "," in text else "1.000"
    else:
        yield "1,0" if "," in text else "1.0" if "." in text else "1"


def notations(texts: Sequence[str], delimiter: str) -> set[str]:
    """Return the notations of many numbers."""
    joined = "\n".join(texts)
    if not _SIGNS.search(joined) and (delimiter == "," or "," not in joined):  # points are decimal points
        return {"", "1.0" if "." in joined else "1"}
    return {notation for text in texts for notation in _notations(text, delimiter)}


def why_ambiguous(found: set[str]) -> str | None:
    """Return why the numbers of a column, written in these ways, are ambiguous; None if they are not."""
    units = found & {"", "%", *CURRENCIES}
    if len(units - {""}) > 1 or {"", "%"} <= units:
        return f"numbers of several units: {', '.join(each or 'none' for each in sorted(units))}"
    if "1,000" in found and not found & {"1,0", "1.000,0"} and found & {"1", "1.0", "1.000"}:
        return (
            "a comma before three digits may be a decimal comma or separate thousands; write 1200 or 1.200, not 1,200"
        )
    if "1.000,0" in found and found & {"1.0", "1.000"}:
        return "points separate thousands in some numbers, and may be decimal points in others"
    return None


def is_number(text: str, delimiter: str) -> bool:
    """Return whether a cell is a number, or missing."""
    return is_missing(text) or number(text, delimiter) is not None
