"""Learning-rate schedules: the step size as a function of the number of updates made before.

Every optimizer takes one as its `lr`: ``fastbp.Adam(lr=fastbp.schedules.Cosine(1e-3, period=5000, warmup=200))``.
Calling a schedule gives the rate of a step, or the rates of an array of steps: ``schedule(step)``.  So any function of
the step is a schedule too, ``fastbp.Adam(lr=lambda step: 1e-3 / (1 + step))``, but it is called in Python for every
step, and compiled code (`fastbp.jit`) takes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, cast, overload

import numpy as np

from . import arguments
from .reference.schedules import learning_rate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Schedule:
    """Base class of the schedules.

    Attributes
    ----------
    kind : str
        Name of the function (`fastbp.kernels.schedules.KINDS`).
    hyperparameters : tuple of float
        Its settings, in the order documented there.
    """

    kind: ClassVar[str]

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        """The settings, as the kernels take them."""
        return tuple(float(getattr(self, field.name)) for field in fields(cast(Any, self)))

    @overload
    def __call__(self, step: int) -> float: ...
    @overload
    def __call__(self, step: ArrayLike) -> float | np.ndarray: ...
    def __call__(self, step: ArrayLike) -> float | np.ndarray:
        """Return the learning rate of a step, counted from 0; or an array of rates for an array of steps.

        Parameters
        ----------
        step : int or array_like of int

        Returns
        -------
        float or float64 ndarray

        Raises
        ------
        ValueError, TypeError
            Where a step is negative or not an integer.
        """
        steps = np.asarray(step)
        if steps.dtype.kind not in "iu":
            raise TypeError(f"step must be an integer or an array of integers, got {step!r}")
        if steps.size and steps.min() < 0:
            raise ValueError(f"step must be at least 0, got {steps.min()}")
        rates = np.empty(steps.shape)
        learning_rate(self.kind, self.hyperparameters, steps, rates)
        return rates if rates.ndim else float(rates)


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate always.

    Parameters
    ----------
    lr : float
        Above 0.
    """

    lr: float
    kind: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        """Validate."""
        arguments.number("lr", self.lr, above=0)


@dataclass(frozen=True)
class Step(Schedule):
    """lr * gamma**(step // every): falls by the factor gamma after every so many steps.

    Parameters
    ----------
    lr : float
        First rate, above 0.
    every : int
        Steps between two changes.
    gamma : float
        Above 0.
    """

    lr: float
    every: int
    gamma: float = 0.1
    kind: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        """Validate."""
        arguments.number("lr", self.lr, above=0)
        arguments.integer("every", self.every)
        arguments.number("gamma", self.gamma, above=0)

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        """The settings, as the kernels take them."""
        return float(self.lr), float(self.gamma), float(self.every)


@dataclass(frozen=True)
class Exponential(Schedule):
    """lr * gamma**step.

    Parameters
    ----------
    lr : float
        First rate, above 0.
    gamma : float
        Above 0.
    """

    lr: float
    gamma: float
    kind: ClassVar[str] = "exponential"

    def __post_init__(self) -> None:
        """Validate."""
        arguments.number("lr", self.lr, above=0)
        arguments.number("gamma", self.gamma, above=0)


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """lr / (step + 1)**power, scikit-learn's "invscaling".

    Parameters
    ----------
    lr : float
        First rate, above 0.
    power : float
        At least 0.
    """

    lr: float
    power: float = 0.5
    kind: ClassVar[str] = "inverse_scaling"

    def __post_init__(self) -> None:
        """Validate."""
        arguments.number("lr", self.lr, above=0)
        arguments.number("power", self.power, at_least=0)


@arguments.renamed(least="min_lr")
@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from `lr` down to `min_lr`, after a linear warm-up; with warm restarts if wanted.

    The rate is lr * (step + 1) / (warmup + 1) in the warm-up.  Then, with t steps since, it is
    min_lr + (lr - min_lr) * (1 + cos(pi * t / period)) / 2 up to t = period (Loshchilov and Hutter, "SGDR: Stochastic
    gradient descent with warm restarts", 2017, equation 5).  There it stays at `min_lr`, or starts again with a
    period `multiplier` times as long.

    Parameters
    ----------
    lr : float
        Highest rate, above 0.
    period : int
        Steps from `lr` to `min_lr`.
    min_lr : float
        Lowest rate, from 0 to `lr`.
    warmup : int
        Steps of the warm-up.
    restarts : bool
    multiplier : int
        Length of each period by that of the one before; needs `restarts` if it is not 1.
    """

    lr: float
    period: int
    min_lr: float = 0.0
    warmup: int = 0
    restarts: bool = False
    multiplier: int = 1
    kind: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        """Validate."""
        arguments.number("lr", self.lr, above=0)
        arguments.integer("period", self.period)
        arguments.number("min_lr", self.min_lr, at_least=0)
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr must be at most lr={self.lr}, got {self.min_lr}")
        arguments.integer("warmup", self.warmup, at_least=0)
        arguments.flag("restarts", self.restarts)
        arguments.integer("multiplier", self.multiplier)
        if self.multiplier != 1 and not self.restarts:
            raise ValueError(f"multiplier={self.multiplier} needs restarts=True")

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        """The settings, as the kernels take them."""
        multiplier = self.multiplier if self.restarts else 0
        return float(self.lr), float(self.min_lr), float(self.warmup), float(self.period), float(multiplier)


@arguments.renamed(rise="pct_start")
@dataclass(frozen=True)
class OneCycle(Schedule):
    """One cycle: up to `lr` and far down again, both along half a cosine.

    Smith, "A disciplined approach to neural network hyper-parameters" (2018), in the two phases of PyTorch's
    OneCycleLR: from lr / div_factor up to `lr`, which is reached at step pct_start * steps - 1, then down to
    lr / div_factor / final_div_factor at step `steps` - 1, where it stays.

    Parameters
    ----------
    lr : float
        Highest rate, above 0.
    steps : int
        Steps of the cycle.
    pct_start : float
        Fraction of the steps on the way up, in (0, 1); pct_start * steps must be above 1.
    div_factor, final_div_factor : float
        Above 0.
    """

    lr: float
    steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    kind: ClassVar[str] = "one_cycle"

    def __post_init__(self) -> None:
        """Validate."""
        arguments.number("lr", self.lr, above=0)
        arguments.integer("steps", self.steps)
        arguments.number("pct_start", self.pct_start, above=0, below=1)
        if self.pct_start * self.steps <= 1:
            raise ValueError(f"pct_start * steps must be above 1, got {self.pct_start} * {self.steps}")
        arguments.number("div_factor", self.div_factor, above=0)
        arguments.number("final_div_factor", self.final_div_factor, above=0)

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        """The settings, as the kernels take them."""
        first = self.lr / self.div_factor
        last, top = first / self.final_div_factor, self.pct_start * self.steps - 1
        return float(first), float(self.lr), float(last), float(top), float(self.steps)


@dataclass(frozen=True)
class CosLog4(Schedule):
    """Four cycles, each from 0 to `lr` and back to 0, each twice as long as the one before.

    The rate is lr * (1 - cos(2 pi log2(1 + 15 t))) / 2 with t = step / steps, so that of the first step is 0; from
    step `steps` on it stays 0: the schedule coslog_4 of RealMLP (Holzmüller, Grinsztajn and Steinwart, "Better by
    default: strong pre-tuned MLPs and boosted trees on tabular data", 2024).

    Parameters
    ----------
    lr : float
        Highest rate, above 0.
    steps : int
        Steps of the four cycles.
    """

    lr: float
    steps: int
    kind: ClassVar[str] = "cos_log"

    def __post_init__(self) -> None:
        """Validate."""
        arguments.number("lr", self.lr, above=0)
        arguments.integer("steps", self.steps)

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        """The settings, as the kernels take them."""
        return float(self.lr), float(self.steps), 2.0**4 - 1


@dataclass(frozen=True)
class Piecewise(Schedule):
    """rates[i] from step boundaries[i - 1] on, up to the step before boundaries[i].

    Parameters
    ----------
    boundaries : sequence of int
        Steps at which the rate changes, increasing, the first at least 1.
    rates : sequence of float
        One more than boundaries, each above 0.
    """

    boundaries: Sequence[int]
    rates: Sequence[float]
    kind: ClassVar[str] = "piecewise"

    def __post_init__(self) -> None:
        """Validate."""
        for name in ("boundaries", "rates"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple | np.ndarray):
                raise TypeError(f"{name} must be a sequence of numbers, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        before = 0
        for i, boundary in enumerate(self.boundaries):
            before = arguments.integer(f"boundaries[{i}]", boundary, at_least=before + 1)
        if len(self.rates) != len(self.boundaries) + 1:
            raise ValueError(
                f"rates must be {len(self.boundaries) + 1} numbers, one more than boundaries, got {len(self.rates)}"
            )
        for i, rate in enumerate(self.rates):
            arguments.number(f"rates[{i}]", rate, above=0)

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        """The settings, as the kernels take them."""
        return (float(len(self.boundaries)), *map(float, self.boundaries), *map(float, self.rates))
