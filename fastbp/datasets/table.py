"""A table in memory: the values of its columns, and how messages call them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import cells, dates
from .columns import DateValues, Names, Numbers, Texts, Values, meaning, shortened, texts_of
from .form import WESTERN, Form, NotUtf8Error, index_of, western_remark
from .reader import Block, Reader

IF_CLASSES = "if these are classes, choose the task classes"


@dataclass
class Table:
    """Values of the wanted columns of a table.

    Attributes
    ----------
    names : Names
        What messages call the table and its rows.
    columns : list of str
        Names of all columns.
    values : dict of int to Values
        By the number of the column; those whose texts are kept once more by -1 minus the number.
    form : str
        Of the file, in words.
    has_header : bool
    unnamed : collection of int
        Columns without a name.
    dropped : collection of int
        Columns of text that differs in nearly every row; their values are not kept.
    delimiter : str
    remarks : list of str
    problems : dict of int to str
        What makes the values of a column ambiguous.
    """

    names: Names
    columns: list[str]
    values: dict[int, Values]
    form: str
    has_header: bool = True
    unnamed: Collection[int] = ()
    dropped: Collection[int] = ()
    delimiter: str = ","
    remarks: list[str] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.names.lines)

    def where(self, j: int) -> str:
        """Return what begins a message on a column."""
        return self.names.column(self.columns[j])

    def keep_rows(self, keep: np.ndarray) -> None:
        """Drop the other rows."""
        self.values = {j: values.rows(keep) for j, values in self.values.items()}
        self.names.lines = np.asarray(self.names.lines)[keep]

    def interpret(self, j: int, is_target: bool = False) -> Values:
        """Find out what the texts of a column mean."""
        values = self.values[j]
        if isinstance(values, Texts) and j not in self.dropped:
            counts = np.bincount(values.codes, minlength=len(values.texts))
            found = meaning(values.texts, counts, self.delimiter, is_target)
            self.values[j] = found.of(values)
            if found.problem:
                self.problems[j] = f"{self.where(j)}: {found.problem}"
        elif isinstance(values, Numbers) and not is_target and (known := dates.of_numbers(values.values)) is not None:
            of_all = np.full(len(values.values), np.datetime64("NaT"), "datetime64[s]")
            of_all[~values.missing] = known.values
            self.values[j] = DateValues(known._replace(values=of_all))
        return self.values[j]

    def keep_texts(self, columns: Sequence[str | int]) -> None:
        """Keep the texts of columns, whatever becomes of their values."""
        for column in columns:
            j = index_of(self.columns, column, self.names.table)
            self.values[-1 - j] = self.values[j]

    def kept_texts(self) -> dict[str, list[str]]:
        """Return the texts of the columns that are kept, by name."""
        return {self.columns[-1 - j]: texts_of(values) for j, values in self.values.items() if j < 0}

    def odd_cells(self, j: int) -> str | None:
        """Return what texts a column of numbers holds, in words; None if there are none."""
        odd = getattr(self.values[j], "odd", [])
        if not odd:
            return None
        infinite = [row for row, text in odd if odd_in_words(text) == "infinity"]
        what = "infinity" if len(infinite) == len(odd) else f"text among numbers {shortened(odd[0][1])}"
        return f"{what} in {self.names.of([row for row, _ in odd])}"


def odd_in_words(text: str) -> str:
    """Return what other text among numbers is."""
    is_infinite = text.lower().lstrip("+-") in ("inf", "infinity")
    return "infinity" if is_infinite else f"text among numbers {shortened(text)}"


def load(
    form: Form,
    wanted: Collection[int],
    *,
    texts: Collection[int] = (),
    exact: Collection[int] = (),
    droppable: Collection[int] = (),
) -> Table:
    """Read the wanted columns of a file; see `Reader`."""
    reader = Reader(form, wanted, texts=texts, exact=exact, droppable=droppable)
    blocks: list[Block] = []

    reader.scan(blocks.append, blocks.clear)
    if not blocks:
        raise ValueError(f"{form.shown}: no rows of {len(form.names)} cells")
    values: dict[int, Values] = {}
    for j in wanted:
        parts = [block.columns.pop(j) for block in blocks]
        starts = np.cumsum([0, *(len(block.lines) for block in blocks)])
        if isinstance(parts[0], Numbers):
            odd = [(int(at) + row, text) for at, part in zip(starts, parts, strict=False) for row, text in part.odd]  # type: ignore[union-attr]
            values[j] = Numbers(np.concatenate([part.values for part in parts]), odd)  # type: ignore[union-attr]
        else:
            values[j] = Texts(np.concatenate([part.codes for part in parts]), reader.places[j].texts)  # type: ignore[union-attr]
    lines = np.concatenate([block.lines for block in blocks])
    table = Table(
        Names(form.shown, lines),
        form.names,
        values,
        _form_in_words(form),
        form.has_header,
        form.unnamed,
        set(reader.dropped),
        form.delimiter,
        form.remarks,
    )
    for j, column in reader.numbers.items():
        if problem := cells.why_ambiguous(column.notations):
            table.problems[j] = f"{table.where(j)}: {problem}"
    return table


def _form_in_words(form: Form) -> str:
    delimiters = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|", " ": "blanks"}
    words = [f"delimited by {delimiters.get(form.delimiter, form.delimiter)}"]
    words += ["decimal commas"] * (form.decimal == ",")
    words.append(f"a header in line {form.first_line}" if form.header else "named" if form.has_header else "no header")
    return ", ".join(words + [form.encoding] * (form.encoding != "utf-8"))


def in_right_encoding(form: Form, use: Callable[[Form], Any]) -> Any:
    """Use a form; again in the western encoding if the file proves, later on, not to be UTF-8."""
    try:
        return use(form)
    except NotUtf8Error as error:
        if form.encoding != "utf-8" or form.has_given_encoding:
            raise ValueError(f"{form.shown} is not {form.encoding} text: {error}") from None
        return use(replace(form, encoding=WESTERN, remarks=[*form.remarks, western_remark(form.shown)]))
