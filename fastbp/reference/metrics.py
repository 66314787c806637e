"""Counts and sums over samples, from which metrics are computed."""

import numpy as np

from .losses import are_classes

__all__ = ["class_counts", "error_sums", "label_counts", "top_counts"]


def class_counts(A: np.ndarray, Y: np.ndarray, counts: np.ndarray) -> None:
    """Of each class the samples that are right, are predicted to be it, and are it; added to counts (3, n_out).

    The class is the first largest number of a row, NaN being none; Y may hold labels (n_samples,).
    """
    predicted, true = _classes(A), _classes(Y, A.shape[1])
    for row, classes in zip(counts, (true[predicted == true], predicted, true), strict=True):
        row += np.bincount(classes, minlength=len(row))


def label_counts(A: np.ndarray, Y: np.ndarray, threshold: float, counts: np.ndarray, right: np.ndarray) -> None:
    """Count yes, above the threshold: of each output right, predicted and true ones; and samples that are all right."""
    predicted, true = A > threshold, Y > threshold
    for row, yes in zip(counts, (predicted & true, predicted, true), strict=True):
        row += yes.sum(axis=0)
    right += (predicted == true).all(axis=1).sum()


def top_counts(A: np.ndarray, Y: np.ndarray, k: int, right: np.ndarray) -> None:
    """Count the samples whose class has one of the k largest outputs; of equal ones the later class is the larger."""
    largest = np.argsort(A, axis=1, kind="stable")[:, ::-1][:, :k]
    right += (largest == _classes(Y, A.shape[1])[:, None]).any(axis=1).sum()


def error_sums(A: np.ndarray, Y: np.ndarray, totals: np.ndarray) -> None:
    """Sum up the errors D = Y - A of each output, in rows of totals (7, n_out).

    Number of samples, sum of |D|, sum of D^2, mean of D, sum of (D - mean)^2, and the latter two of Y.  Means and
    squares of these samples are merged with those given by Chan, Golub and LeVeque's formula (1979).
    """
    Y = Y.astype(np.float64)
    D = Y - A
    n, m = totals[0].copy(), len(A)
    totals[0] += m
    totals[1] += np.abs(D).sum(axis=0)
    totals[2] += (D * D).sum(axis=0)
    for (mean, squares), V in zip((totals[3:5], totals[5:7]), (D, Y), strict=True):
        batch_mean = V.mean(axis=0)
        step = batch_mean - mean
        squares += ((V - batch_mean) ** 2).sum(axis=0) + step * step * n * m / (n + m)
        mean += step * m / (n + m)


def _classes(Y, n_out=None):
    if Y.ndim == 1:
        if not are_classes(Y, n_out).all():
            raise ValueError("Y holds a label that is no class: labels must be 0 to n_out - 1")
        return Y
    largest = np.where(np.isnan(Y), -np.inf, Y).max(axis=1, keepdims=True)
    return (Y == largest).argmax(axis=1)
