"""The samples that are trained on: read by the options of a command, described, and split for the test."""

from __future__ import annotations

import reprlib

import numpy as np

from ..datasets import Dataset
from ..datasets.dataset import first_few
from ..preprocessing import as_columns, read, split
from .options import TrainingOptions, columns
from .screen import Screen

MIN_TEST_DATA = 20  # with fewer samples, none are held out


def read_samples(screen: Screen, data: str, options: TrainingOptions) -> Dataset:
    """Read samples with targets, and show what became of the columns of a table.

    ValueError if there are no targets, or all are of one class.
    """
    samples = read(
        data,
        target=options.target,
        task=options.task,
        header=options.header,
        missing=None if options.missing == "fill" else options.missing,
        ignore=columns(options.ignore) or (),
        features=columns(options.features),
        encoding=options.encoding,
        delimiter=options.delimiter,
    )
    for line in samples.report:
        screen.say(line)
    if samples.y is None:
        raise ValueError(f"{data} has no targets to train on")
    if samples.classes is not None and len(samples.classes) < 2:
        raise ValueError(f"{data}: every sample is of the one class {samples.classes[0]!r}")
    return samples


def split_samples(samples: Dataset, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and those held out for the test."""
    return split(samples.y, fraction if len(samples.y) >= MIN_TEST_DATA else 0, samples.classes is not None)


def fold_pairs(y: np.ndarray, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return training and validation rows: every n-th in the order of the targets, independent of any seed."""
    rank = np.empty(len(y), np.int64)
    rank[np.lexsort(as_columns(y).T[::-1])] = np.arange(len(y))
    return [(np.flatnonzero(rank % n != fold), np.flatnonzero(rank % n == fold)) for fold in range(n)]


def describe_samples(screen: Screen, data: str, samples: Dataset, rows: np.ndarray, test: np.ndarray) -> None:
    """Print what is trained on."""
    targets = f"{len(samples.classes)} classes" if samples.classes else "numbers"
    n = samples.X.shape[1]
    screen.say(
        f"{data}: {len(samples.y):,} samples of {n} feature{'s' * (n != 1)}, {targets}; "
        f"{len(rows):,} to train, {len(test):,} held out to test"
    )


def warn_of_untested(screen: Screen, samples: Dataset, test: np.ndarray, fraction: float) -> None:
    """Warn if no samples are held out although some were asked for, or none of some classes."""
    n = len(samples.y)
    if not len(test):
        if fraction:
            few = f"fewer than {MIN_TEST_DATA}" if n < MIN_TEST_DATA else f"too few for a fraction of {fraction:g}"
            screen.warn(f"nothing is held out to test: {n:,} samples are {few}")
    elif samples.classes:
        counts = np.bincount(samples.y[test], minlength=len(samples.classes))
        names = [reprlib.repr(name) for name, n_test in zip(samples.classes, counts, strict=True) if not n_test]
        if names:
            screen.warn(
                f"{len(names):,} of the {len(counts):,} classes have no sample held out to test: {first_few(names)}"
            )
