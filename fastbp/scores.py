"""How good predictions for a table are: errors of numbers, and of probabilities of classes, in plain NumPy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["best_temperature", "calibration_error", "log_loss", "regression_errors"]

TEMPERATURES = 2.0 ** (np.arange(-6, 9) / 4)  # which `best_temperature` compares: from 0.35 to 4


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


def best_temperature(
    probabilities: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """Return the temperature of `TEMPERATURES` that is best for the log loss of probabilities, and that log loss.

    A temperature T makes of probabilities their power 1 / T, divided by the sum: of logits Z those of Z / T (C. Guo et
    al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2).  To the sum of the losses (ln T)**2 is
    added, as if ln T were drawn from a normal distribution of variance 1/2: few samples that are all right would make
    every probability 0 or 1.

    Parameters
    ----------
    probabilities : ndarray (n_samples, n_classes)
        Those below the least normal float32 count as that.
    y : int ndarray (n_samples,)
        Index of the true class.
    weights : ndarray (n_samples,), optional
        Of the samples, not all 0.  Only their ratios count.

    Returns
    -------
    temperature, log loss with it : float
    """
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny, dtype=np.float64))
    logs -= logs[np.arange(len(y)), y][:, None]  # then the log loss is the log of the sum of the exp: at most e**247
    losses = []
    for temperature in TEMPERATURES.tolist():
        of_samples = np.log(np.exp(logs / temperature).sum(axis=1))
        losses.append(float(np.average(of_samples, weights=weights)))
    best = int(np.argmin(losses + np.log(TEMPERATURES) ** 2 / len(y)))
    return float(TEMPERATURES[best]), losses[best]


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
