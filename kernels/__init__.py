"""The compiled kernels, usable one by one, also inside your own `@njit` functions.

Arrays are contiguous, of one float dtype, and trusted: nothing is checked here.  Results go into `out`, the last
argument; what may alias is said in each docstring.  The NumPy twins of the same names are in `fastbp.reference`.
"""

from . import dense, elementwise, losses, metrics, noise, optimizers, schedules, training
from .dense import *
from .elementwise import *
from .losses import *
from .metrics import *
from .noise import *
from .optimizers import *
from .schedules import *
from .training import *

__all__ = [
    *dense.__all__,
    *elementwise.__all__,
    *losses.__all__,
    *metrics.__all__,
    *noise.__all__,
    *optimizers.__all__,
    *schedules.__all__,
    *training.__all__,
]
