"""The rows that `Trainer.fit(validation_fraction=)` holds out of the training."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import arguments


def check(fraction: Any, validation_data: Any, is_stream: bool) -> None:
    """Refuse a fraction that is none, or that is given with what it cannot go with."""
    if fraction is None:
        return
    arguments.number("validation_fraction", fraction, above=0, below=1)
    if validation_data is not None:
        raise ValueError("validation_fraction and validation_data must not be given together: choose one")
    if is_stream:
        raise ValueError("validation_fraction needs all samples at once; with a stream, give validation_data")


def hold_out(Y: np.ndarray, fraction: float, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the rows to validate on; of each class the same fraction, but never all of its rows.

    Parameters
    ----------
    Y : ndarray (n_samples,) or (n_samples, n_out)
        Class labels, or targets: one-hot rows, and one output of two values, are classes too.
    fraction : float
        In (0, 1).
    key : int
        Seed of the draw: the same key and classes hold out the same rows.

    Returns
    -------
    rows, held_out : int64 ndarrays
        In ascending order.

    Raises
    ------
    ValueError
        Where there are too few samples.
    """
    n = len(Y)
    order = np.random.default_rng(key).permutation(n)
    strata = _strata(Y)[order]
    by_class = np.argsort(strata, kind="stable")
    n_held_out = max(1, round(fraction * n))
    is_held_out = np.zeros(n, bool)
    is_held_out[((np.arange(n_held_out) + 0.5) * n / n_held_out).astype(np.int64)] = True  # evenly, class after class
    _, first, counts = np.unique(strata[by_class], return_index=True, return_counts=True)
    is_held_out[first[np.add.reduceat(is_held_out, first, dtype=np.int64) == counts]] = False
    rows, held_out = np.sort(order[by_class[~is_held_out]]), np.sort(order[by_class[is_held_out]])
    if not len(held_out):
        raise ValueError(
            f"validation_fraction={fraction:g} of {n} samples leaves none to validate on: one of each class is trained"
        )
    return rows, held_out


def _strata(Y: np.ndarray) -> np.ndarray:
    """Return the class of each sample; one class where the targets are numbers."""
    if Y.ndim == 1:
        return Y
    low, high = Y.min(), Y.max()
    if ((Y == low) | (Y == high)).all():
        if Y.shape[1] == 1:
            return Y[:, 0]
        is_high = Y == high
        if (is_high.sum(axis=1) == 1).all():
            return is_high.argmax(axis=1)
    return np.zeros(len(Y), np.int64)
