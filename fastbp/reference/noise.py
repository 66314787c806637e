"""Dropout and input noise, from random numbers that depend only on key, step, layer, row and column."""

import numpy as np

__all__ = ["dropout", "input_noise"]


def _row_seeds(key, step, layer, rows):
    """64 random bits of each row: SplitMix64's mixing function (Steele, Lea and Flood 2014) of the four numbers."""
    key, step, layer = (np.uint64(int(number) % 2**64) for number in (key, step, layer))
    factors = [np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xD1342543DE82EF95, 0xF1357AEA2E62A9C5)]
    with np.errstate(over="ignore"):
        z = key + step * factors[0] + layer * factors[1] + np.asarray(rows, np.uint64) * factors[2]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _random_bits(seeds, columns):
    """32 random bits of each column of each row: the integer hash "lowbias32" (C. Wellons)."""
    x = seeds.astype(np.uint32)[:, None] + np.arange(columns, dtype=np.uint32) * np.uint32(0x9E3779B9)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _random_unit(seeds, columns):
    """Random numbers within (0, 1), of 23 bits each."""
    return ((_random_bits(seeds, columns) >> np.uint32(9)) + 0.5) * 2.0**-23


def dropout(A: np.ndarray, key: int, step: int, layer: int, rate: float, out: np.ndarray) -> None:
    """Inverted dropout (Srivastava et al. 2014): A / (1 - rate) where kept, else 0."""
    threshold = int(rate * 2**32)
    keeps = _random_bits(_row_seeds(key, step, layer, np.arange(len(A))), A.shape[1]) >= threshold
    out[...] = np.where(keeps, A * (2.0**32 / (2**32 - threshold)), 0)


def input_noise(X: np.ndarray, key: int, step: int, deviation: float, out: np.ndarray) -> None:
    """X + deviation * normal random numbers (Box and Muller 1958)."""
    seeds = _row_seeds(key, step, -1, np.arange(len(X)))
    length = np.sqrt(-2 * np.log(_random_unit(seeds, X.shape[1])))
    cosine = np.cos(2 * np.pi * (_random_unit(seeds >> np.uint64(32), X.shape[1]) - 0.5))
    out[...] = X + deviation * (length * cosine)
