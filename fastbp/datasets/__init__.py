"""Training data: two bundled sets, and readers of CSV, npz and IDX (MNIST) files.

Each loader returns a `Dataset`, a pair: ``X, y = fastbp.datasets.load_digits()``.
"""

from .arrays import read_idx, read_idx_array, read_npz
from .bundled import load_digits, load_xor
from .dataset import Column, Dataset
from .tables import read_csv

__all__ = ["Column", "Dataset", "load_digits", "load_xor", "read_csv", "read_idx", "read_idx_array", "read_npz"]
