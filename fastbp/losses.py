"""The table of loss functions: name -> settings; losses that take a number; and losses of one's own."""

from dataclasses import asdict, dataclass, fields
from typing import ClassVar, NamedTuple

from . import arguments
from .custom import CustomFunction


class Parameterized:
    """A loss with a number, such as ``Quantile(q=0.9)``; given to a network in the place of the name."""

    name: ClassVar[str]
    bounds: ClassVar[dict]  # of the number, as `checks.number` takes them

    def __post_init__(self):
        """Validate."""
        (number,) = fields(self)
        object.__setattr__(self, number.name, arguments.number(number.name, getattr(self, number.name), **self.bounds))

    def __str__(self):
        """Return name and number."""
        return f"{self.name}({', '.join(f'{key}={value:g}' for key, value in asdict(self).items())})"


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
    """Binary cross-entropy in which samples that are nearly right weigh less (Lin et al. 2017); gamma=0 is the same."""

    gamma: float = 2.0

    name, bounds = "focal", {"at_least": 0}


class Row(NamedTuple):
    """What the library must know of a loss besides its kernels."""

    formula: str  # of one sample, summed over the outputs
    has_kink: bool = False  # dE/dA jumps at A = Y
    within_01: bool = False  # outputs and targets are probabilities
    takes_labels: bool = False  # Y may hold the class numbers, (n_samples,)
    is_positive: bool = False  # outputs are above 0, targets not below
    takes_signs: bool = False  # targets are -1 or 1
    settings: type | None = None  # the class that holds its number


LOSSES = {
    "squared_error": Row("1/2 (A - Y)^2"),
    "absolute_error": Row("|A - Y|", has_kink=True),
    "huber": Row("1/2 d^2 if d <= threshold else threshold (d - threshold/2), d = |A - Y|", settings=Huber),
    "log_cosh": Row("log(cosh(A - Y))"),
    "quantile": Row("q (Y - A) if A < Y else (1 - q) (A - Y)", has_kink=True, settings=Quantile),
    "hinge": Row("max(0, 1 - Y A)", has_kink=True, takes_signs=True),
    "poisson": Row("A - Y log A", is_positive=True),
    "binary_cross_entropy": Row("-Y log A - (1 - Y) log(1 - A)", within_01=True),
    "focal": Row("-Y (1 - A)^gamma log A - (1 - Y) A^gamma log(1 - A)", within_01=True, settings=Focal),
    "cross_entropy": Row("-Y log A", within_01=True, takes_labels=True),
}
CUSTOM = Row("a function of one's own")


class Loss(CustomFunction):
    """A loss of one's own, to be given in the place of a name.

    Parameters
    ----------
    function : function compiled with ``@numba.njit``
        l(a, y) of one output and its target; the loss of a sample is the sum over its outputs.
    derivative : function compiled with ``@numba.njit``
        dl/da(a, y).  `Network.verify` finds a wrong one.
    name : str, optional
        What it is called where a network is printed; else the name of the function.

    Raises
    ------
    TypeError, ValueError
        Where one of the functions is missing or not compiled, or the name is that of
        a loss of the library.

    Notes
    -----
    As for `fastbp.Activation`.  It is never fused with the output activation.
    """

    kind, arguments, known = "loss", (("a", "y"), ("a", "y")), LOSSES


def name_of(loss):
    """Return the name of what a network takes as its loss."""
    return loss if isinstance(loss, str) else loss.name


def row_of(loss):
    """Return the row of a loss, or of a name; `CUSTOM` for what is not in the table."""
    return LOSSES.get(name_of(loss), CUSTOM)


def smoothing_classes(loss, n_out):
    """Return over how many classes label smoothing spreads: with binary_cross_entropy each output is yes or no."""
    return 2 if name_of(loss) == "binary_cross_entropy" else max(n_out, 2)


def settings_of(loss):
    """Return the numbers of a loss by name: {} or one, which its kernels take besides A and Y."""
    settings = row_of(loss).settings
    if settings is None:
        return {}
    return asdict(settings() if isinstance(loss, str) else loss)
