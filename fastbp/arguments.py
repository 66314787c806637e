"""Generic checks of arguments: each returns its argument, or raises an error that names it."""

from __future__ import annotations

import functools
import math
import numbers
import re
from collections.abc import Callable, Collection
from typing import Any, TypeAlias, TypeVar

import numpy as np

Class = TypeVar("Class", bound=type)
Seed: TypeAlias = "int | np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | None"

# Names of scikit-learn, PyTorch and Keras, in lower-case letters and digits alone: for the hints of messages.
_ALIASES = {
    # losses and metrics
    "mse": "squared_error rmse",
    "meansquarederror": "squared_error rmse",
    "l2": "squared_error rmse",
    "mae": "absolute_error",
    "meanabsoluteerror": "absolute_error mae",
    "l1": "absolute_error mae",
    "rootmeansquarederror": "rmse",
    "smoothl1": "huber",
    "pinball": "quantile",
    "poissonnll": "poisson",
    "bce": "binary_cross_entropy",
    "bcewithlogits": "binary_cross_entropy",
    "log": "cross_entropy binary_cross_entropy",
    "nll": "cross_entropy",
    "cce": "cross_entropy",
    "negativeloglikelihood": "cross_entropy",
    "categoricalcrossentropy": "cross_entropy",
    "sparsecategoricalcrossentropy": "cross_entropy",
    "softmaxcrossentropy": "cross_entropy",
    "softmax": "cross_entropy",
    "sigmoid": "binary_cross_entropy",
    "quadratic": "squared_error",
    "binaryfocalcrossentropy": "focal",
    "acc": "accuracy",
    "binaryaccuracy": "accuracy",
    "categoricalaccuracy": "accuracy",
    "sparsecategoricalaccuracy": "accuracy",
    "balancedaccuracy": "recall",
    "topkaccuracy": "top_3",
    "topkcategoricalaccuracy": "top_3",
    # activations
    "logistic": "sigmoid binary_cross_entropy",
    "linear": "identity",
    "none": "identity",
    "swish": "silu",
    "exp": "exponential",
    "logsoftmax": "softmax",
    "prelu": "leaky_relu",
    # initializers
    "glorot": "glorot_uniform glorot_normal",
    "xavier": "glorot_uniform glorot_normal",
    "xavieruniform": "glorot_uniform",
    "xaviernormal": "glorot_normal",
    "he": "he_uniform he_normal",
    "kaiming": "he_uniform he_normal",
    "kaiminguniform": "he_uniform",
    "kaimingnormal": "he_normal",
    "lecun": "lecun_normal",
    "lecununiform": "lecun_normal",
    "randomuniform": "uniform",
    "randomnormal": "normal",
    "ones": "constant",
    # optimizers
    "nesterov": "SGD",
    "momentum": "SGD",
    "gd": "SGD",
    "bfgs": "LBFGS",
    "lm": "LevenbergMarquardt",
    # reductions and modes
    "average": "mean",
    "avg": "mean",
    "minimize": "min",
    "maximize": "max",
}


def name(argument: str, value: Any, known: Collection[str]) -> str:
    """Check that `value` is one of the names `known`."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a name, got {value!r}; known: {', '.join(known)}")
    if value in known:
        return value
    raise ValueError(f"{argument} {value!r} is unknown{did_you_mean(value, known)} (known: {', '.join(known)})")


def did_you_mean(value: str, known: Collection[str], write: str = "{!r}") -> str:
    """Return the end of a message about an unknown name: those of `known` that it may mean, or nothing."""
    from difflib import get_close_matches

    plain = {_plain(key): key for key in known}
    key = re.sub("(loss|score|initializer)$", "", _plain(value))
    meant = [plain[key]] if key in plain else [name for name in _ALIASES.get(key, "").split() if name in known]
    meant = meant or [plain[close] for close in get_close_matches(key, plain, 1, 0.7)]
    return f"; did you mean {' or '.join(map(write.format, meant))}?" if meant else ""


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def flag(argument: str, value: Any) -> bool:
    """Check for True or False."""
    if value is True or value is False:
        return value
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{argument} must be True or False, got {value!r}")
    return bool(value)


def integer(argument: str, value: Any, at_least: int = 1) -> int:
    """Check for an integer that is large enough."""
    if type(value) is int and value >= at_least:
        return value
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{argument} must be an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{argument} must be at least {at_least}, got {value}")
    return int(value)


def number(
    argument: str,
    value: Any,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> float:
    """Check for a finite number within bounds."""
    is_number: bool = isinstance(value, numbers.Real) and not isinstance(value, bool)  # without narrowing the type
    if not is_number:
        raise TypeError(f"{argument} must be a number, got {value!r}")
    if not (math.isfinite(value) and value > above and at_least <= value <= at_most and value < below):
        bounds = [(above, "above"), (at_least, "at least"), (below, "below"), (at_most, "at most")]
        expected = " and ".join(f"{word} {bound:g}" for bound, word in bounds if math.isfinite(bound))
        raise ValueError(f"{argument} must be {expected or 'finite'}, got {value}")
    return float(value)


def generator(argument: str, seed: Seed) -> np.random.Generator:
    """Return the random generator of a seed: None, an int, a SeedSequence, a BitGenerator or a Generator."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        expected = "None, an int >= 0, a SeedSequence or a Generator"
        raise type(error)(f"{argument} must be {expected}, got {seed!r}") from None


def limit(argument: str, value: float | None) -> float:
    """Check an upper limit, a number above 0; None is no limit, which is 0."""
    return 0.0 if value is None else number(argument, value, above=0)


def renamed(**names: str) -> Callable[[Class], Class]:
    """Return a class decorator that refuses old names of keywords and attributes: ``renamed(old="new")``.

    As a keyword of the constructor an old name raises a TypeError, as an attribute an AttributeError, both of which
    name the new one.  Pickles that hold attributes under old names are read, unless the class has a ``__setstate__``.
    """

    def decorate(cls: Class) -> Class:
        construct = cls.__init__  # type: ignore[misc]

        @functools.wraps(construct)
        def __init__(self: Any, *positional: Any, **keywords: Any) -> None:
            for old in names.keys() & keywords.keys():
                raise TypeError(_now(cls.__name__, old, names[old]))
            construct(self, *positional, **keywords)

        def __setstate__(self: Any, state: dict) -> None:
            vars(self).update({names.get(key, key): value for key, value in state.items()})

        cls.__init__ = __init__  # type: ignore[misc]
        if not hasattr(cls, "__setstate__"):
            setattr(cls, "__setstate__", __setstate__)  # noqa: B010
        for old, new in names.items():
            setattr(cls, old, _Renamed(_now(cls.__name__, old, new)))
        return cls

    return decorate


def _now(owner: str, old: str, new: str) -> str:
    return f"{owner} has no {old!r}: it is called {new!r}"


class _Renamed:
    """An attribute that can be neither read nor written."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(self._message)

    def __set__(self, instance: Any, value: Any) -> None:
        raise AttributeError(self._message)
