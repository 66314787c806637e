"""How the parameters of a network lie in memory."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def layer_views(flat: np.ndarray, sizes: Sequence[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return lists of the weights and biases inside a flat array [W1, b1, W2, b2, ...] (views, no copy)."""
    weights, biases, start = [], [], 0
    for n_in, n_out in pairwise(sizes):
        middle, stop = start + n_in * n_out, start + n_in * n_out + n_out
        weights.append(flat[start:middle].reshape(n_in, n_out))
        biases.append(flat[middle:stop])
        start = stop
    return weights, biases
