"""From a table to training data: which columns are features, what each becomes, and the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from . import cells
from .columns import Learned, Numbers, Summary, Texts, Values, column_means, encode, filled, learn, leave_out, shortened
from .dataset import (
    LEFT_OUT,
    Column,
    Dataset,
    are_classes,
    check_task,
    class_name,
    class_names,
    encode_target,
    first_few,
    targets_to_compare,
)
from .form import TableError
from .table import IF_CLASSES, Table

MISSING = ("fill", "drop", "error")
MAX_LISTED = 12  # columns of plain numbers that are described one by one
MAX_SUGGESTED_CLASSES = 100  # whole numbers that might be classes
MAX_LINES = 40  # columns that are described at all


@dataclass
class Choice:
    """Which columns are used, and what happens to missing values.

    Attributes
    ----------
    target : str, int or None
    task : str
    missing : {"fill", "drop", "error"}
    ignore, features : sequence of str or int
        Columns that are not used; the only ones that are, besides the target.
    keep : sequence of str or int
        Columns whose texts are kept.
    complete : bool
        Whether every sample needs a target.
    leave_out : bool
        Whether columns that are not features are left out.
    fill : bool
        Whether missing numbers are replaced by the mean; otherwise they are NaN.
    """

    target: str | int | None = -1
    task: str = "auto"
    missing: str = "fill"
    ignore: Sequence[str | int] = ()
    features: Sequence[str | int] | None = None
    keep: Sequence[str | int] = ()
    complete: bool = True
    leave_out: bool = True
    fill: bool = True

    def __post_init__(self) -> None:
        """Validate."""
        check_task(self.task)
        if self.missing not in MISSING:
            raise ValueError(f"missing must be one of {', '.join(MISSING)}, not {self.missing!r}")

    def places(self, index: Callable[[str | int], int], n: int) -> tuple[int | None, list[int], list[int]]:
        """Return the places of the target, of the features, and of the columns that are ignored."""
        problems, found = [], {}
        for name in [*([] if self.target is None else [self.target]), *self.ignore, *(self.features or ())]:
            try:
                found[name] = index(name)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise TableError(list(dict.fromkeys(problems)))
        target = None if self.target is None else found[self.target]
        ignored = {found[name] for name in self.ignore}
        if target in ignored:
            name = next(name for name in self.ignore if found[name] == target)
            raise ValueError(f"ignore: column {name!r} is the target")
        if self.features is not None:
            used = {found[name] for name in self.features}
            if target in used:
                raise ValueError(f"features: column {self.target!r} is the target")
            if used & ignored:
                raise ValueError("features and ignore name the same column")
            ignored |= set(range(n)) - used - {target}
        places = [k for k in range(n) if k != target]
        if not set(places) - ignored:
            raise ValueError("no column is left as a feature")
        return target, places, sorted(ignored)


def training_data(table: Table, choice: Choice, target: int | None, places: list[int], ignored: list[int]) -> Dataset:
    """Return samples and targets of a table, and the columns that they are made of."""
    used = [k for k in places if k not in ignored]
    problems: list[str] = []
    table.keep_texts(choice.keep)
    if target is not None:
        _check_target(table, choice, target, problems)
    for k in used:
        table.interpret(k)
    learned = {k: _learn(table, k) for k in used}
    if choice.leave_out:
        leave_out(list(learned.values()))
    used = [k for k in used if not learned[k].column.is_left_out]
    problems += [table.problems[k] for k in used if k in table.problems]
    if choice.missing == "error":
        problems += missing_cells(table, used)
    if not used:
        problems.append(f"{table.names.table}: every feature is empty")
    if problems:
        raise TableError(problems)
    remarks = list(dict.fromkeys(table.remarks))
    if choice.missing == "drop":
        incomplete = np.any([table.values[k].missing for k in used], axis=0)
        if incomplete.all():
            raise ValueError(f"{table.names.table}: every row has missing values; fill them, or ignore columns")
        if incomplete.any():
            remarks.append(_rows_left_out(table, incomplete, "with missing values"))
            table.keep_rows(~incomplete)
            learned |= {k: _learn(table, k) for k in used}
    for k in used:
        if odd := table.odd_cells(k):
            remarks.append(f"{table.where(k)}: {odd}, taken as missing")
    notes = list(remarks)
    if choice.leave_out:
        on_columns = remarks_on(learned, table.where)
        remarks += on_columns
        notes += [remark for remark in on_columns if " is left out: " not in remark]
    columns = [learned[k].column if k in learned else Column(table.columns[k], LEFT_OUT) for k in places]
    n_missing = sum(int(np.count_nonzero(table.values[k].missing)) for k in used)
    if n_missing and choice.fill:
        remarks.append(remark_on_missing(table.names.table, n_missing))
    X = encode(columns, [table.values.get(k) for k in places], table.n_rows)
    if choice.fill:
        X = filled(X, column_means(X))
    y, classes = None, None
    if target is not None:
        y, classes = _targets(table, choice, target)
    report = [*_report(table, choice, target, places, learned, y, classes), *notes]
    name = None if target is None else table.columns[target]
    return Dataset(
        X,
        y,
        classes,
        tuple(columns),
        name,
        has_names=table.has_header,
        remarks=remarks,
        report=report,
        kept=table.kept_texts(),
    )


def remarks_on(learned: dict[int, Learned], where: Callable[[int], str]) -> list[str]:
    """Return what should not go unnoticed of columns that are left out, or perhaps should be."""
    remarks = []
    for k, each in learned.items():
        if each.reason:
            remarks.append(f"{where(k)} is left out: {each.reason}")
        elif each.remark and (len(learned) > 1 or each.remark.startswith(":")):
            remarks.append(f"{where(k)}{'' if each.remark.startswith(':') else ' '}{each.remark}")
    return remarks


def remark_on_missing(path: object, n: int) -> str:
    """Return what is said of missing values."""
    return (
        f"{path}: {n:,} missing value{'s' * (n > 1)}: numbers are the mean instead, and a feature says so; "
        "texts are a category"
    )


def _learn(table: Table, k: int) -> Learned:
    values = table.values[k]
    summary = Summary()
    if k in table.dropped:
        summary.n = table.n_rows
        learned = Learned(Column(table.columns[k], ("",)), "text", reason="its text differs in nearly every row")
        learned.remark = f": {learned.reason}, so that nothing can be learned from it"
        return learned
    if isinstance(values, Numbers) and values.odd:
        summary.n_odd, summary.first_odd = len(values.odd), values.odd[0]
    summary.add(values)
    return learn(table.columns[k], values, summary, is_unnamed=k in table.unnamed, has_header=table.has_header)


def missing_cells(table: Table, used: Iterable[int]) -> list[str]:
    """Return what is missing, and what is text among numbers, in words, for each column."""
    problems = []
    for k in used:
        missing = table.values[k].missing.copy()
        if odd := table.odd_cells(k):
            problems.append(f"{table.where(k)}: {odd}")
            missing[[row for row, _ in table.values[k].odd]] = False  # type: ignore[union-attr]
        if missing.any():
            problems.append(f"{table.where(k)}: missing value in {table.names.of(np.flatnonzero(missing))}")
    return problems


def _rows_left_out(table: Table, out: np.ndarray, why: str) -> str:
    n = int(np.count_nonzero(out))
    which = table.names.of(np.flatnonzero(out))
    return f"{table.names.table}: {n:,} row{'s' * (n > 1)} {why} {'are' if n > 1 else 'is'} left out: {which}"


def _check_target(table: Table, choice: Choice, target: int, problems: list[str]) -> None:
    """Find out what the target is; drop rows without one, and add what is wrong with it."""
    values = table.interpret(target, is_target=True)
    where = f"{table.names.table}, target column {table.columns[target]!r}"
    if target in table.problems:
        problems.append(table.problems[target])
    if not choice.complete:
        return
    if isinstance(values, Numbers) and values.odd:
        odd = table.odd_cells(target)
        problems.append(f"{where}: {odd}; {IF_CLASSES}")
        return
    missing = values.missing
    if missing.all():
        problems.append(f"{where}: it is empty; choose another target column")
    elif missing.any() and choice.missing == "error":
        problems.append(f"{where}: missing value in {table.names.of(np.flatnonzero(missing))}")
    elif missing.any():
        table.remarks.append(_rows_left_out(table, missing, f"without a target in column {table.columns[target]!r}"))
        table.keep_rows(~missing)


def _targets(table: Table, choice: Choice, target: int) -> tuple[np.ndarray, tuple[str, ...] | None]:
    values = table.values[target]
    where = f"{table.names.table}, target column {table.columns[target]!r}"
    if not choice.complete:
        return targets_to_compare(to_compare(values, choice.task, table.delimiter), choice.task, where)
    if not isinstance(values, Texts):
        return encode_target(values.values, choice.task, where)  # type: ignore[union-attr]
    used = np.unique(values.codes)
    texts = np.array([values.texts[code] for code in used])
    order = np.argsort(texts, kind="stable")
    try:
        are_classes(texts[order], len(values.codes), choice.task, where)
    except ValueError as error:
        others = [name for name in table.columns if name != table.columns[target]]
        raise ValueError(f"{error}; the others are {first_few([repr(name) for name in others])}") from None
    place = np.zeros(len(values.texts), np.int64)
    place[used[order]] = np.arange(len(used))
    return place[values.codes], class_names(texts[order])


def to_compare(values: Values, task: str, delimiter: str) -> np.ndarray:
    """Return targets as float64 or text; those that are missing, or text among numbers, are NaN or ""."""
    if isinstance(values, Numbers):
        return values.values
    assert isinstance(values, Texts)
    texts = ["" if cells.is_missing(text) and text.lower() in cells.NOT_GIVEN else text for text in values.texts]
    numbers = [cells.number(text, delimiter) for text in texts]
    counts = np.bincount(values.codes, minlength=len(texts))
    is_number = np.array([number is not None for number in numbers])
    n_numbers = counts[is_number].sum()
    if n_numbers and task != "classes":
        return np.array([np.nan if number is None else number for number in numbers])[values.codes]
    if 2 * n_numbers > counts[np.array([bool(text) for text in texts])].sum():  # mostly numbers: 1.0 is the class "1"
        texts = [text if number is None else class_name(number) for text, number in zip(texts, numbers, strict=True)]
    return np.array(texts)[values.codes]


# ------------------------------------------------------------------ the report


def _report(
    table: Table,
    choice: Choice,
    target: int | None,
    places: list[int],
    learned: dict[int, Learned],
    y: np.ndarray | None,
    classes: tuple[str, ...] | None,
) -> list[str]:
    """Return what was found in a table, and what each column became, in lines."""
    n = len(table.columns)
    lines = [f"{table.names.table}: {table.n_rows:,} rows, {n} column{'s' * (n > 1)}; {table.form}"]
    if target is not None:
        why = "the last column; --target names another" if choice.target == -1 else "as asked"
        words = _target_in_words(table.values[target], y, classes, choice.task)
        lines.append(f"  target {table.columns[target]!r} ({why}): {words}")
    plain = [k for k in places if k in learned and learned[k].kind == "numbers"]
    grouped = set(plain) if len(plain) > MAX_LISTED else set()
    width = min(24, max((len(repr(table.columns[k])) for k in places if k not in grouped), default=0))
    shown = [k for k in places if k not in grouped]
    if grouped:
        lines.append(f"  {len(plain)} columns of numbers: {first_few([table.columns[i] for i in plain])}")
    for k in shown[:MAX_LINES]:
        kind = learned[k].kind if k in learned else "left out, as asked"
        lines.append(f"  {table.columns[k]!r:<{width}}  {kind}")
    if len(shown) > MAX_LINES:
        lines.append(f"  and {len(shown) - MAX_LINES} more columns")
    return lines


def _target_in_words(values: Values, y: np.ndarray | None, classes: tuple[str, ...] | None, task: str) -> str:
    """Return what the targets are taken for, why, and how to have the other."""
    if classes is not None:
        if not isinstance(values, Numbers):
            return f"{len(classes)} classes: {first_few([shortened(name) for name in classes])}"
        why = "few whole numbers; --task numbers predicts them as numbers" if task == "auto" else "as asked"
        return f"{len(classes)} classes: {first_few(classes)} ({why})"
    if y is None or not len(y):
        return "numbers"
    words = f"numbers from {np.nanmin(y):g} to {np.nanmax(y):g}"
    if task == "auto" and np.all(y == np.floor(y)) and len(np.unique(y)) <= MAX_SUGGESTED_CLASSES:
        return f"{words} (many whole numbers; --task classes makes each a class)"
    return words if task == "auto" else f"{words} (as asked)"
