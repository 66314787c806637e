"""A reader of CSV files that detects delimiter, header, numbers, text, dates and columns that are not features."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import cells, dates
from .columns import (
    DateValues,
    Learned,
    Numbers,
    Summary,
    Texts,
    Values,
    as_kind,
    column_means,
    encode,
    filled,
    learn,
    leave_out,
    meaning,
)
from .dataset import MAX_INTEGER_CLASSES, Column, Dataset, are_classes, check_task, class_names, first_few
from .features import Choice, remark_on_missing, remarks_on, training_data
from .form import Form, TableError, detect, index_of
from .layout import Layout, data_for, have_names
from .reader import Block, Reader
from .table import IF_CLASSES, Table, in_right_encoding, load, odd_in_words


def read_csv(
    path: str | os.PathLike[str],
    target: str | int | None = -1,
    *,
    task: str = "auto",
    header: bool | None = None,
    columns: Sequence[Column] | None = None,
    complete: bool = True,
    has_names: bool | None = None,
    leave_out: bool = True,
    missing: str = "fill",
    ignore: Sequence[str | int] = (),
    features: Sequence[str | int] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    keep: Sequence[str | int] = (),
) -> Dataset:
    """Read samples and targets from a CSV file.

    Delimiter (comma, semicolon, tab, ``|`` or blanks), quotes, header, a title line and the encoding are detected;
    lines of comments begin with # or %. The file may be gzipped, and may be in Weka's ARFF. If the delimiter is the
    comma, numbers may have thousands separators ("1,200"), otherwise decimal commas. Currency and percent signs, and a
    word that follows all numbers of a column, are dropped: "$10.5" is 10.5, "5%" is 5, and "12 kg" is 12.

    Missing are empty cells and ?, NA, N/A, NaN, null, None, - and . in any case; a target of text may be None, - or .
    as a class.

    Parameters
    ----------
    path : str or path-like
        A text file, one sample per row.
    target : str, int or None
        The target column by its name or by its number (0 is the first, -1 the last), None for no target.
    task : {"auto", "classes", "numbers"}
        Kind of the target. "auto": text and integers with few distinct values are classes, other numbers are
        numbers.
    header : bool, optional
        Whether the first line is a header. By default it is one if

        - in any column, the first cell is text and all cells below are numbers;
        - or the numbers in it are years, or consecutive from 0 or 1, and those of no row below are;
        - or there are no numbers in the file, and no cell of it occurs again in its column.

        With `columns`, it is one if it holds their names, or if every cell of a column of numbers is text and no
        cell is a known category.
    columns : sequence of Column, optional
        Read these features (the `columns` of the training data of a model) instead of all columns but the target.
        They are found by name; if one of the files has no header, by position, and then both files must have the
        same width, with or without the target, or this one must hold the features only. The target may be missing,
        altogether (y is None) or in some rows.
    complete : bool
        Whether every row must have a target, and of the kind `task`. Otherwise the targets serve only to be
        compared with predictions: a missing one is NaN, or of the class "", and so is text among numbers.
    has_names : bool, optional
        Whether the file of `columns` has a header (its `Dataset.has_names`). By default it has one unless the
        names are the numbers of the columns.
    leave_out : bool
        Leave out, with a warning, columns that are not features:

        - text, if more than nine tenths of the first 1000 values are distinct;
        - the index of the rows: distinct integers in a column named "id" or "index", or without a name;
        - row numbers: consecutive numbers in a column named "no", "nr", "row" or "#", or from 0 or 1 in a file
          without header.

        - columns that are empty.

        Other columns of consecutive numbers are kept, with a warning. At least one column is kept.
    missing : {"fill", "drop", "error"}
        What happens to missing values of features: numbers become the mean of their column, and a feature of 0 and 1
        says where, while missing texts are a category; or the rows are left out; or they are refused. Rows without a
        target are left out, unless "error". Text among numbers counts as missing.
    ignore, features : sequence of str or int
        Columns that are not used; the only ones that are, besides the target.
    encoding, delimiter : str, optional
        Instead of those detected; delimiter may also be "tab" or "blank".
    keep : sequence of str or int
        Columns whose texts are kept as they are, in `Dataset.kept`.

    Returns
    -------
    Dataset
        X float64 (n_samples, n_in). A text column becomes one feature 0 or 1 for each of its categories (one-hot): its
        40 most frequent texts, in alphabetical order, and one more for all others. With `columns`, missing numbers are
        NaN, and texts that are no category are those others. A date or time becomes numbers, those of year, month,
        day, weekday, days since 1970 and seconds of the day that it gives. y and the attributes as in `Dataset`.

    Raises
    ------
    ValueError
        If the file is empty, ragged, no text or malformed; if targets mix numbers and text; if it is ambiguous
        whether a comma is a decimal comma. The message has a line for each problem, with file, line and column.
    """
    choice = Choice(target, task, missing, ignore, features, keep, complete, leave_out)
    data = read_text(
        path, choice, header=header, columns=columns, has_names=has_names, encoding=encoding, delimiter=delimiter
    )
    for remark in data.remarks:
        warnings.warn(remark, stacklevel=2)
    return data


def read_text(
    path: str | os.PathLike[str],
    choice: Choice,
    *,
    header: bool | None = None,
    columns: Sequence[Column] | None = None,
    has_names: bool | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    shown_name: str = "",
) -> Dataset:
    """Read samples and targets as `read_csv` does, without warnings: the remarks are in the result."""
    options: dict[str, Any] = {"encoding": encoding, "delimiter": delimiter, "shown_name": shown_name}
    if columns is None:
        return in_right_encoding(detect(path, header, **options), lambda form: _to_train(form, choice))
    if has_names is None:
        has_names = have_names(columns, choice.target)
    layout = Layout(tuple(columns), choice.target, has_names)
    if not layout.used:
        raise ValueError("columns must hold at least one feature")
    form = detect(
        path, header, **options, is_header=lambda rows, mark: layout.is_header(shown_name or str(path), rows, mark)
    )
    return in_right_encoding(form, lambda form: _for_model(form, layout, choice))


def _to_train(form: Form, choice: Choice) -> Dataset:
    if len(form.names) == 1 and choice.target is not None:
        form.feature_places(0)  # which there are none of
    target, places, ignored = choice.places(form.index, len(form.names))
    used = [k for k in places if k not in ignored]
    kept = [form.index(name) for name in choice.keep]
    wanted = [*used, *([] if target is None else [target])]
    texts = {target} if target is not None and (choice.task == "classes" or not choice.complete) else set()
    exact = set() if target is None else {target}
    table = load(
        form,
        [*wanted, *(set(kept) - set(wanted))],
        texts={*texts, *kept},
        exact=exact,
        droppable=set(used) - set(kept) if choice.leave_out else (),
    )
    if table.dropped and not set(used) - set(table.dropped):
        table = load(form, wanted, texts=texts, exact=exact)  # the text is the only feature
    return training_data(table, choice, target, places, ignored)


def _for_model(form: Form, layout: Layout, choice: Choice) -> Dataset:
    places, target = layout.places(form.names, form.has_header, form.shown)
    used = [j for j, column in zip(places, layout.columns, strict=True) if j is not None and not column.is_left_out]
    texts = {j for j, column in zip(places, layout.columns, strict=True) if j is not None and column.categories}
    kept = {form.index(name) for name in choice.keep}
    targets = set() if target is None else {target}
    wanted = {*used, *kept, *targets}
    table = load(form, sorted(wanted), texts=texts | kept | targets, exact=targets)
    return data_for(table, layout, choice, places, target)


def dataset_of(
    table: Table, choice: Choice, columns: Sequence[Column] | None = None, has_names: bool | None = None
) -> Dataset:
    """Return the samples of a table that is read, as `read_text` does of a file."""
    if columns is not None:
        names = have_names(columns, choice.target) if has_names is None else has_names
        layout = Layout(tuple(columns), choice.target, names)
        return data_for(table, layout, choice, *layout.places(table.columns, table.has_header, table.names.table))
    chosen = choice.places(lambda column: index_of(table.columns, column, table.names.table), len(table.columns))
    return training_data(table, choice, *chosen)


def n_columns(path: str | os.PathLike[str], encoding: str | None = None, delimiter: str | None = None) -> int:
    """Count the columns of a CSV file."""
    return len(detect(path, encoding=encoding, delimiter=delimiter).names)


class CsvChunks:
    """A CSV file read in chunks: the samples and targets of `read_csv`, in bounded memory.

    The whole file is scanned once, for its categories, means and classes, and for errors.

    Parameters
    ----------
    path, target, task, header
        As in `read_csv`; a target is required.

    Attributes
    ----------
    classes, columns, target, has_names
        As in `Dataset`.
    n_samples : int
        Number of rows that have a target.
    remarks : list of str
        The warnings of `read_csv`.
    """

    def __init__(
        self, path: str | os.PathLike[str], target: str | int = -1, *, task: str = "auto", header: bool | None = None
    ) -> None:
        check_task(task)
        self.path = path
        in_right_encoding(detect(path, header), lambda form: self._scan(form, target, task))

    def _scan(self, form: Form, target: str | int, task: str) -> None:
        self._form, self._j = form, form.index(target)
        self._places = form.feature_places(self._j)
        self.target, self.has_names = form.names[self._j], form.has_header
        texts = {self._j} if task == "classes" else set()
        self._reader = Reader(form, [*self._places, self._j], texts=texts, exact={self._j}, droppable=set(self._places))
        self._start()
        self._reader.scan(self._add, self._start)
        if not self._lines:
            raise ValueError(f"{self.path}: no rows of {len(form.names)} cells")
        remarks = list(dict.fromkeys(form.remarks))
        self._learn_target(task, remarks)
        self._learn_features(remarks)
        self.remarks = remarks

    def _start(self) -> None:
        self.n_samples = self._n_without = self._lines = 0
        self._summaries = {k: Summary() for k in [*self._places, self._j]}
        self._numbers: set[float] = set()  # distinct targets, up to one more than can be classes
        self._without: list[int] = []  # lines

    def _add(self, block: Block) -> None:
        """Add a block to what is known of the columns; rows without a target do not count."""
        targets = block.columns[self._j]
        missing = targets.missing
        if isinstance(targets, Numbers):
            missing = missing.copy()
            missing[[row for row, _ in targets.odd]] = False
            if len(self._numbers) <= MAX_INTEGER_CLASSES:
                known = targets.values[~targets.missing]
                self._numbers.update(np.unique(known)[: MAX_INTEGER_CLASSES + 1].tolist())
        keep = ~missing
        self._lines += len(block.lines)
        self.n_samples += int(np.count_nonzero(keep))
        self._n_without += int(np.count_nonzero(missing))
        self._without += block.lines[missing][: max(0, 6 - len(self._without))].tolist()
        for k, summary in self._summaries.items():
            values = block.columns[k]
            if isinstance(values, Numbers) and values.odd:
                summary.n_odd += len(values.odd)
                summary.first_odd = summary.first_odd or (int(block.lines[values.odd[0][0]]), values.odd[0][1])
            summary.add(values if keep.all() else values.rows(keep))

    def _learn_target(self, task: str, remarks: list[str]) -> None:
        j, where = self._j, f"{self.path}, target column {self.target!r}"
        summary = self._summaries[j]
        if not self.n_samples:
            raise ValueError(f"{where}: it is empty; choose another target column")
        if self._n_without:
            rows = first_few(self._without, 5, self._n_without)
            remarks.append(
                f"{self.path}: {self._n_without:,} row{'s' * (self._n_without > 1)} without a target in column "
                f"{self.target!r} {'are' if self._n_without > 1 else 'is'} left out: "
                f"line{'s' * (self._n_without > 1)} {rows}"
            )
        values = np.array(sorted(self._numbers))
        self._meaning = None
        if j in self._reader.places:
            texts = self._reader.places[j].texts
            self._meaning = meaning(texts, summary.counts, self._form.delimiter, is_target=True)
            used = np.flatnonzero(summary.counts)
            if self._meaning.lookup is None:
                values = np.array(sorted(texts[code] for code in used if code))
            else:
                values = np.unique(self._meaning.lookup[used[used > 0]])
                if len(self._meaning.odd):
                    raise TableError([f"{where}: {self._first_odd_target()}; {IF_CLASSES}"])
            if self._meaning.problem:
                raise TableError([f"{where}: {self._meaning.problem}"])
        elif summary.n_odd and summary.first_odd:
            line, text = summary.first_odd
            raise TableError([f"{where}: {odd_in_words(text)} in line {line}; {IF_CLASSES}"])
        self._values = values
        self.classes = class_names(values) if are_classes(values, self.n_samples, task, where) else None

    def _first_odd_target(self) -> str:
        assert self._meaning is not None
        for block in self._reader.blocks():
            found = block.columns[self._j]
            assert isinstance(found, Texts)
            for row, text in getattr(self._meaning.of(found), "odd", []):
                return f"{odd_in_words(text)} in line {block.lines[row]}"
        raise AssertionError

    def _learn_features(self, remarks: list[str]) -> None:
        form, learned, self._meanings, problems = self._form, {}, {}, []
        for k in self._places:
            summary, values = self._summaries[k], Texts(np.zeros(0, np.int32), [""])
            found: Values = Numbers(np.zeros(0))
            where = f"{self.path}, column {form.names[k]!r}"
            if k in self._reader.dropped:
                column = Column(form.names[k], ("",))
                learned[k] = Learned(column, "text", reason="its text differs in nearly every row")
                continue
            if k in self._reader.places:
                values.texts = self._reader.places[k].texts
                self._meanings[k] = meaning(values.texts, summary.counts, form.delimiter)
                found = self._meanings[k].of(values)
                problem = self._meanings[k].problem
                if isinstance(found, Numbers):
                    summary = self._summary_of_numbers(k)
            else:
                problem = cells.why_ambiguous(self._reader.numbers[k].notations)
                low, high = summary.low, summary.high
                if (known := dates.of_numbers(np.array([low, high, *summary.sample]))) is not None:
                    found = DateValues(known._replace(values=known.values[:0]))
            problems += [f"{where}: {problem}"] if problem else []
            learned[k] = learn(form.names[k], found, summary, is_unnamed=k in form.unnamed, has_header=form.has_header)
        leave_out(list(learned.values()))
        problems = [
            each
            for each in problems
            if not any(
                learned[k].column.is_left_out and each.startswith(f"{self.path}, column {form.names[k]!r}: ")
                for k in learned
            )
        ]
        if all(each.column.is_left_out for each in learned.values()):
            problems.append(f"{self.path}: no column is left as a feature")
        if problems:
            raise TableError(problems)
        self.columns = tuple(learned[k].column for k in self._places)
        self._means = np.concatenate([self._means_of(k, learned[k].column) for k in self._places])
        remarks += remarks_on(learned, lambda k: f"{self.path}, column {form.names[k]!r}")
        for k, each in learned.items():
            if not each.column.is_left_out and (odd := self._summaries[k].first_odd):
                where = f"{self.path}, column {form.names[k]!r}"
                remarks.append(f"{where}: {odd_in_words(odd[1])} in line {odd[0]}, taken as missing")
        n_missing = sum(self._summaries[k].n_missing for k, each in learned.items() if not each.column.is_left_out)
        remarks += [remark_on_missing(self.path, n_missing)] if n_missing else []

    def _means_of(self, k: int, column: Column) -> np.ndarray:
        """Return the means of the features of a column; of a category it has no effect."""
        summary = self._summaries[k]
        if column.is_left_out or column.categories is not None:
            return np.zeros(column.n_features)
        if k not in self._meanings:
            sample = as_kind(Numbers(summary.sample), column)
            return (
                np.array([summary.mean, 0.0][: column.n_features])
                if not column.parts
                else column_means(encode([column], [sample], summary.n_sampled))
            )
        texts = Texts(np.arange(len(summary.counts), dtype=np.int32), self._reader.places[k].texts)
        return column_means(encode([column], [self._meanings[k].of(texts)], len(summary.counts)), summary.counts)

    def _summary_of_numbers(self, k: int) -> Summary:
        """Return the summary of numbers that were read as texts."""
        of_texts, lookup = self._summaries[k], self._meanings[k].lookup
        assert lookup is not None
        summary = Summary().add(Numbers(lookup[of_texts.sample.astype(np.int64)]))
        numbers = np.nan_to_num(lookup)
        summary.total, summary.n = float(of_texts.counts @ numbers[: len(of_texts.counts)]), of_texts.n
        summary.n_missing = int(of_texts.counts[np.isnan(lookup[: len(of_texts.counts)])].sum())
        summary.steps_by_1 = False
        return summary

    def chunks(self) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Yield numbers of the first and last line, X float64 (n, n_in) and y (n,), a block of the file at a time."""
        for block in self._reader.blocks():
            targets = block.columns[self._j]
            keep = ~targets.missing
            if not keep.any():
                continue
            columns = block.columns if keep.all() else {k: each.rows(keep) for k, each in block.columns.items()}
            lines = block.lines[keep]
            values: list[Values | None] = []
            for k, column in zip(self._places, self.columns, strict=True):
                each: Values = columns[k]
                each = self._meanings[k].of(each) if isinstance(each, Texts) and k in self._meanings else each
                values.append(as_kind(each, column) if column.parts else each)
            X = filled(encode(self.columns, values, len(lines)), self._means)
            found = columns[self._j]
            yield int(lines[0]), int(lines[-1]), X, self._encoded_targets(found)

    def _encoded_targets(self, found: Numbers | Texts) -> np.ndarray:
        if isinstance(found, Texts):
            assert self._meaning is not None
            meant = self._meaning.of(found)
            if isinstance(meant, Texts):
                place = {text: i for i, text in enumerate(self._values.tolist())}
                return np.array([place.get(text, 0) for text in meant.texts], np.int64)[meant.codes]
            found = meant  # type: ignore[assignment]
        assert isinstance(found, Numbers)
        return np.searchsorted(self._values, found.values) if self.classes is not None else found.values
