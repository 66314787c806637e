"""The twin of an activation, a loss or an update rule: by its name, or that of a custom function."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..custom import CustomFunction
from . import elementwise, losses, optimizers


def twin_of(function: Any, suffix: str = "") -> Callable[..., None]:
    """Return the twin that writes a function into its last argument, or with "_derivative" the derivative.

    Parameters
    ----------
    function : str, object with a name, or CustomFunction
        An activation, a loss or an update rule.
    suffix : str
        Appended to the name.
    """
    if isinstance(function, CustomFunction):
        return custom_twin(function, suffix == "_derivative")
    name = (function if isinstance(function, str) else function.name) + suffix
    for module in (elementwise, losses, optimizers):
        if hasattr(module, name):
            return getattr(module, name)
    raise LookupError(f"{name!r} has no twin")


def custom_twin(function: CustomFunction, is_derivative: bool) -> Callable[..., None]:
    """Return the twin of a custom function or of its derivative, which calls it for one element after the other."""
    vectorized = np.vectorize(function.guarded[is_derivative], otypes=[float])

    def twin(*arguments: np.ndarray) -> None:
        *given, out = arguments
        with np.errstate(all="ignore"):  # as in compiled code
            values = vectorized(*given)
        out[...] = values if out.ndim == values.ndim else values.sum(axis=1)

    return twin


def evaluated(kernel: Callable[..., None], *arguments: Any, shape: tuple[int, ...] | int) -> np.ndarray:
    """Run a twin on a new `out` of this shape and of the dtype of the first argument, and return it."""
    out = np.empty(shape, arguments[0].dtype)
    kernel(*arguments, out)
    return out
