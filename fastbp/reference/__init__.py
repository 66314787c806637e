"""The NumPy twin of every public kernel and of the engine: backpropagation in plain code.

The files are those of `fastbp.kernels`.  Every twin has the name and the arguments of its kernel, writes its result
into `out` (its last argument) and returns None; `out` may be the same array as any other argument of its shape.
float32 stays float32, float64 stays float64.  Rows are samples.  W is (n_in, n_out), so Z = A_prev @ W + b.
"""
# ruff: noqa: F403

from . import dense, elementwise, losses, metrics, noise, optimizers, schedules, training
from .backprop import rule_step as rule_step
from .custom import twin_of as twin_of
from .dense import *
from .elementwise import *
from .layout import layer_views as layer_views
from .losses import *
from .metrics import *
from .noise import *
from .optimizers import *
from .schedules import *
from .training import *
from .training import NumpyBackend as NumpyBackend

__all__ = [
    name
    for module in (dense, elementwise, losses, metrics, noise, optimizers, schedules, training)
    for name in module.__all__
]
