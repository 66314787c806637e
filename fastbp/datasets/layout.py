"""The columns of a trained model, found in another table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import cells
from .columns import Texts, Values, as_kind, encode, shortened, unknown_texts
from .dataset import Column, Dataset, first_few, targets_to_compare
from .features import Choice, missing_cells, to_compare
from .form import TableError, looks_like_header
from .table import Table


@dataclass(frozen=True)
class Layout:
    """Columns and target of the training data of a model, to be found in another file."""

    columns: tuple[Column, ...]
    target: str | int | None
    has_names: bool

    @property
    def used(self) -> list[Column]:
        """The columns that are not left out."""
        return [column for column in self.columns if not column.is_left_out]

    def places(self, names: list[str], has_header: bool, path: str) -> tuple[list[int | None], int | None]:
        """Return the places of the columns (None: left out and missing) and of the target (None: missing)."""
        if not (self.has_names and has_header):
            places, target = self._by_width(path, names)
        else:
            missing = [repr(column.name) for column in self.used if column.name not in names]
            if missing:
                raise ValueError(
                    f"{path} has no column {first_few(missing)}; its {len(names)} columns are {first_few(names, 10)}"
                )
            target = str(self.target)
            if isinstance(self.target, int) and -len(names) <= self.target < len(names):
                target = names[self.target]
            places = [names.index(column.name) if column.name in names else None for column in self.columns]
        j = names.index(target) if target in names else None
        return places, None if j in places else j

    def _by_width(self, path: str, names: Sequence[str]) -> tuple[list[int | None], str | None]:
        """Find the columns by position: as in the training data, with or without the target, or the features only."""
        n, width, used = len(self.columns), len(names), self.used
        target = int(str(self.target)) if not self.has_names and re.fullmatch(r"-?\d+", str(self.target)) else None
        wanted = [f"{n + 1} columns with the target"] * (target is not None)
        wanted += [f"{n} columns without the target"] * (n > len(used))
        wanted.append(f"{len(used)} features: {first_few([column.name for column in used], 10)}")
        if width == n + 1 and target is not None:
            j = target % width
            return [k for k in range(width) if k != j], names[j]
        if width == n and self.target is not None and len(used) == n - 1:
            left_out = next(column.name for column in self.columns if column.is_left_out)
            raise ValueError(
                f"{path} has {width} columns without the names of the model: the target may be missing, "
                f"or column {left_out!r}, which the model leaves out; "
                + ("add names" if self.has_names else "add an empty column for what is missing")
            )
        if width == n:
            return list(range(n)), None
        if width == len(used):
            place = {column: k for k, column in enumerate(used)}
            return [place.get(column) for column in self.columns], None
        raise ValueError(f"{path} has {width} columns without the names of the model; expected {', or '.join(wanted)}")

    def is_header(self, path: str, first_rows: list[list[str]], delimiter: str) -> bool:
        """Return whether the first row is a header."""
        first, names = first_rows[0], {column.name for column in self.used}
        found = names & set(first) if self.has_names else set()
        if found and (found == names or any(cells.number(name, delimiter) is None for name in found)):
            return True
        try:
            places, _ = self._by_width(path, first)
        except ValueError:
            places = None
        if places is None or found:
            return looks_like_header(first_rows, delimiter)
        pairs = [
            (column, first[j])
            for j, column in zip(places, self.columns, strict=True)
            if j is not None and not column.is_left_out
        ]
        below = zip(*first_rows[1:], strict=False)
        occurs_again = any(cell in column for cell, column in zip(first, below, strict=False))
        if any(cell and cell in (column.categories or ()) for column, cell in pairs):
            return False
        numbers = [
            cells.is_number(cells.without_unit_word(cell, column.unit), delimiter)
            for column, cell in pairs
            if column.categories is None and not column.parts
        ]
        if numbers:
            return not any(numbers) and not occurs_again
        if not self.has_names:
            return False
        return looks_like_header(first_rows, delimiter)


def have_names(columns: Sequence[Column], target: str | int | None) -> bool:
    """Return whether the names of columns are other than their numbers."""
    n = len(columns) + (target is not None)
    names = {column.name for column in columns}
    if target is not None:
        names.add(target if isinstance(target, str) else str(target % n))
    return names != set(map(str, range(n)))


def data_for(table: Table, layout: Layout, choice: Choice, places: Sequence[int | None], target: int | None) -> Dataset:
    """Return the samples of a table for a trained model, and its targets where it has them."""
    table.keep_texts(choice.keep)
    problems, remarks = [], list(dict.fromkeys(table.remarks))
    values: list[Values | None] = []
    for j, column in zip(places, layout.columns, strict=True):
        if j is None or column.is_left_out:
            values.append(None)
            continue
        raw = table.values[j]
        given = as_kind(raw, column, table.delimiter)
        values.append(given)
        n_wrong = int(np.count_nonzero(given.missing & ~raw.missing))
        n_wrong = max(n_wrong, len(getattr(given, "odd", [])))
        n_given = table.n_rows - int(np.count_nonzero(raw.missing)) + len(getattr(raw, "odd", []))
        table.values[j] = given
        if n_wrong and 2 * n_wrong > n_given:
            wanted = "date" if column.parts else "number"
            odd = getattr(given, "odd", [])
            rows = [row for row, _ in odd] or np.flatnonzero(given.missing & ~raw.missing)
            example = f" {shortened(odd[0][1])}" if odd else ""
            problems.append(f"{table.where(j)}: text for a {wanted}{example} in {table.names.of(rows)}")
        elif odd_cells := table.odd_cells(j):
            remarks.append(f"{table.where(j)}: {odd_cells}, taken as missing")
        elif n_wrong:
            rows = np.flatnonzero(given.missing & ~raw.missing)
            remarks.append(f"{table.where(j)}: no date in {table.names.of(rows)}, taken as missing")
        if unknown := unknown_texts(column, given):
            assert isinstance(given, Texts)
            n = int(np.isin(np.array(given.texts)[given.codes], unknown).sum())
            shown = first_few([shortened(text) for text in unknown])
            remarks.append(f"{table.where(j)}: {n:,} of texts unknown to the model, {shown}, are taken as other ones")
        if j in table.problems:
            problems.append(table.problems[j])
        if choice.missing == "error":
            problems += missing_cells(table, [j])
        elif n := int(np.count_nonzero(given.missing)) - n_wrong:
            is_new = not (column.flag or "" in (column.categories or ()))
            if is_new:
                instead = (
                    "the mean of the training data instead" if column.categories is None else "taken as other ones"
                )
                remarks.append(f"{table.where(j)}: {n:,} missing, as none was in the training data: {instead}")
    if problems:
        raise TableError(problems)
    X = encode(layout.columns, values, table.n_rows)
    y, classes = None, None
    if target is not None:
        given_targets = to_compare(table.values[target], choice.task, table.delimiter)
        y, classes = targets_to_compare(given_targets, choice.task, "target")
        if classes == ("",):
            y, classes = None, None
    name = None if layout.target is None else str(layout.target)
    return Dataset(
        X, y, classes, tuple(layout.columns), name, has_names=layout.has_names, remarks=remarks, kept=table.kept_texts()
    )
