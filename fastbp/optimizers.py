"""The table of optimizers: the settings of each update rule, validated once."""

from dataclasses import dataclass

from . import checks
from .fullbatch import LBFGS, LevenbergMarquardt


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, optionally with momentum.

    ``v = momentum * v + g``, then ``parameters -= lr * v``; with `nesterov`
    ``parameters -= lr * (g + momentum * v)``.  The form is that of Sutskever et al., "On the importance of
    initialization and momentum in deep learning" (2013), as PyTorch writes it.

    Parameters
    ----------
    lr : float
        Step size, above 0.
    momentum : float
        In [0, 1); 0 is plain gradient descent.
    nesterov : bool
        Look ahead along the velocity; needs a momentum above 0.

    Raises
    ------
    ValueError, TypeError
        Where a setting is out of its range or not a number.
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self):
        """Validate."""
        checks.number("lr", self.lr, above=0)
        checks.number("momentum", self.momentum, at_least=0, below=1)
        checks.flag("nesterov", self.nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True needs a momentum above 0, got momentum=0.0")


OPTIMIZERS = (SGD, LBFGS, LevenbergMarquardt)
