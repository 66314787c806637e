"""Learning rates as functions of the step number.  Twin: `fastbp.reference.schedules`.

Powers and cosines use the vector operations of this package, not the system's library: the same step has the same
learning rate, to the bit, on every host.

=================  ===========================================================================================
kind               hyperparameters
=================  ===========================================================================================
constant           lr
step               lr, gamma, every
exponential        lr, gamma
inverse_scaling    lr, power
cosine             lr, min_lr, warmup, period, multiplier (0: no restarts)
one_cycle          first_lr, max_lr, last_lr, peak_step, steps
piecewise          n, n boundaries, n + 1 learning rates
cos_log            max_lr, steps, growth (2**n - 1 for n cycles)
table              first_step, learning rates of the steps from it on, as many as are asked for
=================  ===========================================================================================
"""

import numpy as np

from .elementwise import _exp, _log
from .jit import inline, internal, kernel
from .simd import hmax, masked_load, peek, pointer, poke, polynomial
from .tables import KINDS

(CONSTANT, STEP, EXPONENTIAL, INVERSE_SCALING, COSINE, ONE_CYCLE, PIECEWISE, COS_LOG, TABLE) = KINDS.values()

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
    """Return base**exponent for a positive base; every lane computes the same."""
    return hmax(_exp(_log(masked_load(like, 0, 0) + base) * exponent))


@inline
def _cosine_decay(like, fraction):
    """Return (1 + cos(pi * fraction)) / 2: from 1 to 0 as the fraction goes from 0 to 1."""
    u = masked_load(like, 0, 0) + (0.5 - fraction)
    z = u * u
    return 0.5 + 0.5 * hmax(u * polynomial(z, z * z, SIN_PI))


@inline
def _cosine(hyperparameters, t):
    """Return the learning rate at step t of cosine decay with linear warm-up and warm restarts."""
    lr, min_lr = peek(hyperparameters, 0), peek(hyperparameters, 1)
    warmup, period, multiplier = peek(hyperparameters, 2), peek(hyperparameters, 3), peek(hyperparameters, 4)
    if t < warmup:
        return lr * (t + 1.0) / (warmup + 1.0)
    t -= warmup
    if multiplier == 0.0:
        t = min(t, period)
    elif multiplier == 1.0:
        t %= period
    else:
        while t >= period:
            t -= period
            period *= multiplier
    return min_lr + (lr - min_lr) * _cosine_decay(hyperparameters, t / period)


@inline
def _one_cycle(hyperparameters, t):
    """Return the learning rate at step t of one cycle: a rise, then a decay, both cosines."""
    first_lr, max_lr, last_lr = peek(hyperparameters, 0), peek(hyperparameters, 1), peek(hyperparameters, 2)
    peak, last = peek(hyperparameters, 3), peek(hyperparameters, 4) - 1.0
    if t <= peak:
        return max_lr + (first_lr - max_lr) * _cosine_decay(hyperparameters, t / peak)
    return last_lr + (max_lr - last_lr) * _cosine_decay(hyperparameters, (min(t, last) - peak) / (last - peak))


@inline
def _cos_log(hyperparameters, t):
    """Return the learning rate at step t of cycles each twice as long as the one before, from 0 to max_lr and back."""
    steps, growth = peek(hyperparameters, 1), peek(hyperparameters, 2)
    length = masked_load(hyperparameters, 0, 0) + (1.0 + growth * min(t, steps) / steps)
    cycles = hmax(_log(length)) * 1.4426950408889634  # its logarithm of base 2
    return peek(hyperparameters, 0) * _cosine_decay(hyperparameters, abs(1.0 - 2.0 * (cycles - np.floor(cycles))))


@internal
def rate_at(kind, hyperparameters, step):
    """Return the learning rate of a step.

    Parameters
    ----------
    kind : int
        One of KINDS.
    hyperparameters : pointer to float64
        In the order of the table above.
    step : int
        Number of updates before this one.

    Returns
    -------
    float64
    """
    lr, t = peek(hyperparameters, 0), np.float64(step)
    if kind == STEP:
        n_decays = np.float64(step // np.int64(peek(hyperparameters, 2)))
        return lr * _power(hyperparameters, peek(hyperparameters, 1), n_decays)
    if kind == EXPONENTIAL:
        return lr * _power(hyperparameters, peek(hyperparameters, 1), t)
    if kind == INVERSE_SCALING:
        return lr / _power(hyperparameters, t + 1.0, peek(hyperparameters, 1))
    if kind == COSINE:
        return _cosine(hyperparameters, t)
    if kind == ONE_CYCLE:
        return _one_cycle(hyperparameters, t)
    if kind == PIECEWISE:
        n, k = np.int64(lr), 0
        while k < n and t >= peek(hyperparameters, 1 + k):
            k += 1
        return peek(hyperparameters, 1 + n + k)
    if kind == COS_LOG:
        return _cos_log(hyperparameters, t)
    if kind == TABLE:
        return peek(hyperparameters, 1 + step - np.int64(lr))
    return lr


@kernel
def learning_rate(kind, hyperparameters, steps, out):
    """Learning rates of some steps, counted from 0.

    Parameters
    ----------
    kind : int
        One of `fastbp.kernels.tables.KINDS`: constant; step and exponential decay; inverse scaling, as in
        scikit-learn; cosine with linear warm-up and warm restarts (Loshchilov and Hutter 2017, equation 5); one cycle
        (Smith 2018, with cosines in two phases as in PyTorch); piecewise constant; cosine of the logarithm (Holzmüller
        et al. 2024); a table.
    hyperparameters : float64 array
        In the order of the table in `fastbp.kernels.schedules`.
    steps : int64 array
    out : float64 array of the size of steps
    """
    for i in range(steps.size):
        poke(pointer(out, 0), i, rate_at(kind, pointer(hyperparameters, 0), peek(pointer(steps, 0), i)))
