"""How good predictions for a table are: errors of numbers, and of probabilities of classes, in plain NumPy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["calibration_error", "log_loss", "regression_errors"]


def regression_errors(y: np.ndarray, predicted: np.ndarray) -> Iterator[tuple[float, float | None]]:
    """Yield root mean squared error and coefficient of determination, R2, of every output.

    The latter is None where all targets are equal. No intermediate result overflows.

    Parameters
    ----------
    y, predicted : ndarray (n_samples, n_out)
    """
    for true, guess in zip(y.T, predicted.T, strict=True):
        scale = max(np.abs(true).max(), np.abs(guess).max()) or 1.0
        rmse, deviation = _rms(guess / scale - true / scale), _rms(true / scale - (true / scale).mean())
        with np.errstate(over="ignore", divide="ignore"):
            yield float(scale * rmse), None if (true == true[0]).all() else float(1 - (rmse / deviation) ** 2)


def _rms(values: np.ndarray) -> np.float64:
    """Root of the mean square, scaled so that no square overflows or underflows."""
    scale = np.abs(values).max() or 1.0
    return scale * np.sqrt(np.mean((values / scale) ** 2))


def log_loss(probabilities: np.ndarray, y: np.ndarray) -> float:
    """Return the mean of -log of the probability of the true class; those below 1e-15 count as 1e-15.

    Parameters
    ----------
    probabilities : ndarray (n_samples, n_classes)
    y : int ndarray (n_samples,)
        Index of the true class.
    """
    of_targets = probabilities[np.arange(len(y)), y].astype(np.float64)
    return float(-np.log(np.clip(of_targets, 1e-15, 1.0)).mean())


def calibration_error(probabilities: np.ndarray, y: np.ndarray, n_bins: int = 15) -> float:
    """Return the expected calibration error of the predicted classes.

    The samples are put into bins by the probability of the predicted class; it is the mean over the samples of the
    difference, in a bin, between the mean probability and the fraction that is right.  (C. Guo et al., On Calibration
    of Modern Neural Networks, ICML 2017, equation 3.)

    Parameters
    ----------
    probabilities : ndarray (n_samples, n_classes)
    y : int ndarray (n_samples,)
        Index of the true class.
    n_bins : int
        Bins of equal width, from 0 to 1.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    excess = np.bincount(bins, confidence - (probabilities.argmax(axis=1) == y), n_bins)
    return float(np.abs(excess).sum() / len(y))
