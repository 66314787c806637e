"""Learning rates as functions of the step number.  Twin: `fastbp.reference.learning_rate`.

Powers and cosines are made of the vector operations here, not taken from the system's library: the same step has the
same rate, to the bit, on every host.

=================  ===========================================================================================
kind               numbers
=================  ===========================================================================================
constant           rate
step               rate, gamma, every
exponential        rate, gamma
inverse_scaling    rate, power
cosine             rate, least, warmup, period, multiplier (0: no restarts)
one_cycle          first, highest, last, top (the step of the highest), steps
piecewise          n, n boundaries, n + 1 rates
=================  ===========================================================================================
"""

import numpy as np

from .elementwise import _exp, _log
from .jit import inline, internal, kernel
from .simd import hmax, masked_load, peek, pointer, poke, polynomial

__all__ = ["learning_rate"]

KINDS = {
    name: code
    for code, name in enumerate(
        ["constant", "step", "exponential", "inverse_scaling", "cosine", "one_cycle", "piecewise"]
    )
}
(CONSTANT, STEP, EXPONENTIAL, INVERSE_SCALING, COSINE, ONE_CYCLE, PIECEWISE) = KINDS.values()

# sin(pi u) / u as a polynomial in u**2, for |u| <= 1/2: largest error 7e-19
SIN_PI = (
    7.697826768224191e-07,
    -2.1903497074626018e-05,
    0.0004662998161898394,
    -0.007370430505916944,
    0.0821458865731029,
    -0.5992645293189447,
    2.5501640398773007,
    -5.167712780049969,
    3.141592653589793,
)


@inline
def _power(like, base, exponent):
    """base**exponent for a positive base; every lane computes the same."""
    return hmax(_exp(_log(masked_load(like, 0, 0) + base) * exponent))


@inline
def _down(like, partition):
    """(1 + cos(pi * share)) / 2: from 1 to 0 as the share goes from 0 to 1."""
    u = masked_load(like, 0, 0) + (0.5 - partition)
    z = u * u
    return 0.5 + 0.5 * hmax(u * polynomial(z, z * z, SIN_PI))


@internal
def rate_at(kind, hyperparameters, step):
    """Return the learning rate of a step.

    Parameters
    ----------
    kind : int
        One of KINDS.
    numbers : pointer to float64
        Settings, as the table above says.
    step : int
        Updates made before this one.

    Returns
    -------
    float64
    """
    rate, t = peek(hyperparameters, 0), np.float64(step)
    if kind == STEP:
        return rate * _power(
            hyperparameters, peek(hyperparameters, 1), np.float64(step // np.int64(peek(hyperparameters, 2)))
        )
    if kind == EXPONENTIAL:
        return rate * _power(hyperparameters, peek(hyperparameters, 1), t)
    if kind == INVERSE_SCALING:
        return rate / _power(hyperparameters, t + 1.0, peek(hyperparameters, 1))
    if kind == COSINE:
        least, warmup, period, multiplier = (
            peek(hyperparameters, 1),
            peek(hyperparameters, 2),
            peek(hyperparameters, 3),
            peek(hyperparameters, 4),
        )
        if t < warmup:
            return rate * (t + 1.0) / (warmup + 1.0)
        t -= warmup
        if multiplier == 0.0:
            t = min(t, period)
        elif multiplier == 1.0:
            t %= period
        else:
            while t >= period:
                t -= period
                period *= multiplier
        return least + (rate - least) * _down(hyperparameters, t / period)
    if kind == ONE_CYCLE:
        highest, last, top, end = (
            peek(hyperparameters, 1),
            peek(hyperparameters, 2),
            peek(hyperparameters, 3),
            peek(hyperparameters, 4) - 1.0,
        )
        if t <= top:
            return highest + (rate - highest) * _down(hyperparameters, t / top)
        return last + (highest - last) * _down(hyperparameters, (min(t, end) - top) / (end - top))
    if kind == PIECEWISE:
        n, k = np.int64(rate), 0
        while k < n and t >= peek(hyperparameters, 1 + k):
            k += 1
        return peek(hyperparameters, 1 + n + k)
    return rate


@kernel
def learning_rate(kind, hyperparameters, steps, out):
    """Learning rates of some steps, counted from 0.

    Parameters
    ----------
    kind : int
        One of `fastbp.kernels.schedules.KINDS`: step and exponential decay; inverse scaling, as scikit-learn has it;
        cosine with linear warm-up and warm restarts (Loshchilov and Hutter 2017, equation 5); one cycle (Smith 2018,
        with cosines in two phases as PyTorch has it); piecewise constant.
    numbers : float64 array
        Settings, in the order that module documents.
    steps : int64 array
    out : float64 array of the size of steps
    """
    for i in range(steps.size):
        poke(pointer(out, 0), i, rate_at(kind, pointer(hyperparameters, 0), peek(pointer(steps, 0), i)))
