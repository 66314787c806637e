"""Learning rates as functions of the step number."""

from collections.abc import Callable, Sequence

import numpy as np

from .. import arguments

__all__ = ["learning_rate"]


def _step(rate, gamma, every, *, t):
    return rate * gamma ** (t // every)


def _exponential(rate, gamma, *, t):
    return rate * gamma**t


def _inverse_scaling(rate, power, *, t):
    return rate / (t + 1) ** power


def _cosine(rate, min_lr, warmup, period, multiplier, *, t):
    since = np.maximum(t - warmup, 0)
    if multiplier == 0:
        fraction = np.minimum(since / period, 1)
    elif multiplier == 1:
        fraction = since % period / period
    else:  # the k-th period starts after period * (multiplier**k - 1) / (multiplier - 1) steps
        lengths = period * multiplier ** np.arange(64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        k = np.searchsorted(starts, since, side="right") - 1
        fraction = (since - starts[k]) / lengths[k]
    falling = min_lr + (rate - min_lr) * (1 + np.cos(np.pi * fraction)) / 2
    return np.where(t < warmup, rate * (t + 1) / (warmup + 1), falling)


def _one_cycle(first, highest, last, top, steps, *, t):
    rising = highest + (first - highest) * (1 + np.cos(np.pi * np.minimum(t / top, 1))) / 2
    fraction = (np.clip(t, top, steps - 1) - top) / (steps - 1 - top)
    return np.where(t <= top, rising, last + (highest - last) * (1 + np.cos(np.pi * fraction)) / 2)


def _piecewise(n, *hyperparameters, t):
    boundaries, rates = np.split(np.array(hyperparameters), [int(n)])
    return rates[np.searchsorted(boundaries, t, side="right")]


def _cos_log(highest, steps, growth, *, t):
    cycles = np.log2(1 + growth * np.minimum(t / steps, 1))
    return highest * (1 - np.cos(2 * np.pi * cycles)) / 2


def _table(first, *rates, t):
    return np.array(rates)[(t - first).astype(int)]


# In the order of `kernels.schedules.KINDS`; t is the step, a float64 array.
RATES: dict[str, Callable[..., np.ndarray]] = {
    "constant": lambda rate, *, t: np.full_like(t, rate),
    "step": _step,
    "exponential": _exponential,
    "inverse_scaling": _inverse_scaling,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
    "piecewise": _piecewise,
    "cos_log": _cos_log,
    "table": _table,
}


def learning_rate(
    kind: int | str, hyperparameters: Sequence[float] | np.ndarray, steps: np.ndarray, out: np.ndarray
) -> None:
    """Learning rates of some steps; `kind` is the code or the name of a schedule."""
    rate = RATES[kind] if isinstance(kind, str) else list(RATES.values())[kind]
    out[...] = rate(*np.asarray(hyperparameters).tolist(), t=np.asarray(steps, np.float64))


def rate_at(function: Callable[[int], float], step: int) -> float:
    """Return the learning rate that a user's function gives for a step; ValueError, TypeError where it is none."""
    return arguments.number(f"lr({step})", function(step), at_least=0)


def table_of(function: Callable[[int], float], first: int, n: int) -> np.ndarray:
    """Return the hyperparameters of the schedule "table" for n steps of a user's function, a float64 array."""
    return np.array([first, *(rate_at(function, step) for step in range(first, first + n))], np.float64)
