"""The data sets in the package."""

from __future__ import annotations

from importlib import resources

import numpy as np

from .dataset import Dataset


def load_digits() -> Dataset:
    """Load the 1,797 handwritten digits of the UCI repository, 8 x 8 pixels each.

    Returns
    -------
    Dataset
        ``X, y = load_digits()``: X float32 (1797, 64), the pixels row by row, gray levels 0..16 scaled
        to [0, 1]; y int64 (1797,), the digits 0..9.

    Notes
    -----
    The test part of "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak (1998), UCI
    Machine Learning Repository, https://doi.org/10.24432/C50P49, used under the Creative Commons
    Attribution 4.0 license (https://creativecommons.org/licenses/by/4.0/); the same rows, in the same
    order, as scikit-learn's ``load_digits``, whose values are 16 times as large.
    """
    with resources.files(__package__).joinpath("digits.npz").open("rb") as stream, np.load(stream) as arrays:
        X, y = arrays["X"], arrays["y"]
    return Dataset(X.astype(np.float32) / np.float32(16), y.astype(np.int64), classes=tuple("0123456789"), pixels=True)


def load_xor() -> Dataset:
    """Load the four rows of the exclusive or.

    Returns
    -------
    Dataset
        ``X, Y = load_xor()``: X float32 (4, 2), Y float32 (4, 1).
    """
    X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    return Dataset(X, np.array([[0], [1], [1], [0]], np.float32))
