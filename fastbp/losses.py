"""The table of loss functions: name -> properties; losses with a parameter; and custom losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import ClassVar, NamedTuple

from . import arguments
from .custom import CustomFunction


class Parameterized:
    """A loss with a parameter, such as ``Quantile(q=0.9)``, given to a network in place of a name."""

    name: ClassVar[str]
    bounds: ClassVar[Mapping[str, float]]  # of the parameter, as `arguments.number` takes them

    def __post_init__(self) -> None:
        """Validate."""
        (parameter,) = fields(self)  # type: ignore[arg-type]
        value = arguments.number(parameter.name, getattr(self, parameter.name), **self.bounds)
        object.__setattr__(self, parameter.name, value)

    def __str__(self) -> str:
        """Return name and parameter."""
        return f"{self.name}({', '.join(f'{key}={value:g}' for key, value in settings_of(self).items())})"


@dataclass(frozen=True)
class Huber(Parameterized):
    """Half the squared error up to `threshold` from the target, a straight line beyond (Huber 1964)."""

    threshold: float = 1.0

    name, bounds = "huber", {"above": 0}


@dataclass(frozen=True)
class Quantile(Parameterized):
    """The outputs become the q-quantile of the targets, given X (Koenker and Bassett 1978)."""

    q: float = 0.5

    name, bounds = "quantile", {"above": 0, "below": 1}


@dataclass(frozen=True)
class Focal(Parameterized):
    """Binary cross-entropy with smaller weights for samples that are nearly right (Lin et al. 2017); 1 for gamma=0."""

    gamma: float = 2.0

    name, bounds = "focal", {"at_least": 0}


class Row(NamedTuple):
    """Properties of a loss."""

    formula: str  # of one sample, summed over the outputs
    has_kink: bool = False  # dE/dA jumps at A = Y
    within_01: bool = False  # outputs and targets are probabilities
    takes_labels: bool = False  # Y may hold the class numbers, (n_samples,)
    is_positive: bool = False  # outputs are above 0, targets not below
    takes_signs: bool = False  # targets are -1 or 1
    is_binary: bool = False  # each output is a class of its own, yes or no: so label smoothing takes it
    settings: type | None = None  # the class that holds its parameter


LOSSES = {
    "squared_error": Row("1/2 (A - Y)^2"),
    "absolute_error": Row("|A - Y|", has_kink=True),
    "huber": Row("1/2 d^2 if d <= threshold else threshold (d - threshold/2), d = |A - Y|", settings=Huber),
    "log_cosh": Row("log(cosh(A - Y))"),
    "quantile": Row("q (Y - A) if A < Y else (1 - q) (A - Y)", has_kink=True, settings=Quantile),
    "hinge": Row("max(0, 1 - Y A)", has_kink=True, takes_signs=True),
    "poisson": Row("A - Y log A", is_positive=True),
    "binary_cross_entropy": Row("-Y log A - (1 - Y) log(1 - A)", within_01=True, is_binary=True),
    "focal": Row("-Y (1 - A)^gamma log A - (1 - Y) A^gamma log(1 - A)", within_01=True, settings=Focal),
    "cross_entropy": Row("-Y log A", within_01=True, takes_labels=True),
}
CUSTOM = Row("a custom function")


class Loss(CustomFunction):
    """A custom loss, given to a network in place of a name.

    Parameters
    ----------
    function : function compiled with ``@numba.njit``
        l(a, y) of one output and its target; the loss of a sample is the sum over its outputs.
    derivative : function compiled with ``@numba.njit``
        dl/da(a, y).  `Network.verify` finds a wrong one.
    name : str, optional
        Its name where a network is printed; by default that of the function.

    Raises
    ------
    TypeError, ValueError
        If one of the functions is missing or not compiled, or the name is that of a built-in loss.

    Notes
    -----
    As for `fastbp.Activation`.  It is never fused with the output activation.
    """

    kind, arguments, known = "loss", (("a", "y"), ("a", "y")), LOSSES


def name_of(loss: str | Parameterized | Loss) -> str:
    """Return the name of a loss."""
    return loss if isinstance(loss, str) else loss.name


def row_of(loss: str | Parameterized | Loss) -> Row:
    """Return the row of a loss; `CUSTOM` if it is not in the table."""
    return LOSSES.get(name_of(loss), CUSTOM)


def smoothing_classes(loss: str | Parameterized | Loss, n_out: int) -> int:
    """Return the number of classes over which label smoothing spreads."""
    return 2 if row_of(loss).is_binary else max(n_out, 2)


def settings_of(loss: str | Parameterized | Loss) -> dict[str, float]:
    """Return the parameters of a loss by name: none or one, which its kernels take besides A and Y."""
    settings = row_of(loss).settings
    if settings is None:
        return {}
    return asdict(settings() if isinstance(loss, str) else loss)  # type: ignore[arg-type]
