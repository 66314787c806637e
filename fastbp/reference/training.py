"""The order of the samples."""

import numpy as np


def shuffle(words, order):
    """Fisher-Yates shuffle of 0 ... n-1 into `order` (int64), from n random 32-bit words (Knuth, TAOCP 3.4.2 P)."""
    order[...] = np.arange(len(order))
    for i in range(len(order) - 1, 0, -1):
        j = (int(words[i]) * (i + 1)) >> 32
        order[i], order[j] = order[j], order[i]
