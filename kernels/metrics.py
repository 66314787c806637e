"""Metrics: counts of classes and sums of errors over samples.  Twin: `fastbp.reference.metrics`.

Each kernel adds to the totals it is given, sample after sample, counts in int64 and sums in float64.  So the samples
may come in chunks, and the result depends neither on the chunks nor on the width of a vector.

A is (n_samples, n_out), Y the same, or, where a docstring says so, int64 class labels (n_samples,); all are
C-contiguous.  At a label that is no class a kernel stops; the samples before it have then been counted.
"""

import numpy as np

from .jit import inline, kernel
from .simd import first_equal, hmax_no_nan, lanes, masked_load, offset, pointer, select_lanes, where
from .tables import BAD_LABEL, DONE

SUMS = 7  # rows of the totals of `error_sums`


@inline
def load_padded(a, n):
    """Return the first of n numbers as a vector, its other lanes filled with -inf."""
    return select_lanes(masked_load(a, 0, min(n, lanes(a))), n, -np.inf)


@inline
def class_of(A, r):
    """Return the index of the first of the largest numbers of a row; NaN is ignored."""
    n, width = A.shape[1], lanes(pointer(A, 0))
    a = pointer(A, r * n)
    top = load_padded(a, 0)
    for j in range(0, n, width):
        v = load_padded(offset(a, j), n - j)
        top = where(v > top, v, top)  # a comparison with NaN is False
    largest = hmax_no_nan(top)
    for j in range(0, n, width):
        at = j + first_equal(load_padded(offset(a, j), n - j), largest)
        if at < min(n, j + width):
            return at
    return 0  # every number is NaN


@inline
def true_class(Y, r, n_out):
    """Return the class of a sample from its label or target row; -1 where a label is no class."""
    if Y.ndim == 1:
        label = Y[r]
        return label if 0 <= label < n_out else -1
    return class_of(Y, r)


@kernel
def class_counts(A, Y, counts):
    """Count samples by class; the class is the index of the first largest number of a row, where NaN is ignored.

    Parameters
    ----------
    A : outputs.
    Y : targets or labels.
    counts : int64 (3, n_out), added to: for each class its true positives, its predictions and its samples.
    """
    for r in range(A.shape[0]):
        predicted, true = class_of(A, r), true_class(Y, r, A.shape[1])
        if true < 0:
            return BAD_LABEL
        counts[1, predicted] += 1
        counts[2, true] += 1
        if predicted == true:
            counts[0, true] += 1
    return DONE


@kernel
def label_counts(A, Y, threshold, counts, right):
    """Count binary labels, one for each output; a label is set where the number is above `threshold`.

    Parameters
    ----------
    A, Y : outputs and targets.
    threshold : float
    counts : int64 (3, n_out), added to: for each output its true positives, its predictions and its samples.
    right : int64 (1,), added to: the samples whose every label is right.
    """
    for r in range(A.shape[0]):
        wrong = 0
        for j in range(A.shape[1]):
            predicted, true = A[r, j] > threshold, Y[r, j] > threshold
            counts[0, j] += predicted and true
            counts[1, j] += predicted
            counts[2, j] += true
            wrong += predicted != true
        right[0] += wrong == 0


@kernel
def top_counts(A, Y, k, right):
    """Count the samples whose class has one of the k largest outputs.

    Of equal outputs the later class counts as the larger, as in scikit-learn's top_k_accuracy_score.

    Parameters
    ----------
    A : outputs.
    Y : targets or labels.
    k : int
    right : int64 (1,), added to: those samples.
    """
    for r in range(A.shape[0]):
        true = true_class(Y, r, A.shape[1])
        if true < 0:
            return BAD_LABEL
        larger = 0
        for j in range(A.shape[1]):  # negated, so that NaN counts as larger
            if j < true:
                larger += not A[r, j] <= A[r, true]
            elif j > true:
                larger += not A[r, j] < A[r, true]
        right[0] += larger < k
    return DONE


@kernel
def error_sums(A, Y, totals):
    """Sum the errors D = Y - A of each output; means and squared deviations by Welford's update (1962).

    Parameters
    ----------
    A, Y : outputs and targets.
    totals : float64 (7, n_out), added to; zeros at the start.
        Number of samples, sum of |D|, sum of D**2, mean of D, sum of (D - mean)**2, mean of Y, sum of (Y - mean)**2.
    """
    n_out = A.shape[1]
    for r in range(A.shape[0]):
        count = totals[0, 0] + 1.0
        weight = 1.0 / count
        for j in range(n_out):
            y = np.float64(Y[r, j])
            d = y - np.float64(A[r, j])
            totals[0, j] = count
            totals[1, j] += abs(d)
            totals[2, j] += d * d
            step = d - totals[3, j]
            totals[3, j] += step * weight
            totals[4, j] += step * (d - totals[3, j])
            step = y - totals[5, j]
            totals[5, j] += step * weight
            totals[6, j] += step * (y - totals[5, j])
