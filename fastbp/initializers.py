"""The table of initializers: how the first weights and biases are drawn.

An initializer is called as ``initializer(rng, n_in, n_out)`` and returns W (n_in, n_out) and b (n_out,) in float64; any
function with this signature may be given as ``Network(..., init=function)``, or in a list for one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from . import arguments, checks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Initializer: TypeAlias = "Callable[[np.random.Generator, int, int], tuple[ArrayLike, ArrayLike]]"
Init: TypeAlias = "str | Initializer | Sequence[str | Initializer | tuple[ArrayLike, ArrayLike]]"


@dataclass(frozen=True)
class Uniform:
    """Weights and biases uniform in [-eps, eps]."""

    eps: float = 0.5

    def __post_init__(self) -> None:
        """Validate."""
        arguments.number("eps", self.eps, above=0)

    def __call__(self, rng: np.random.Generator, n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw W and b of one layer."""
        return rng.uniform(-self.eps, self.eps, (n_in, n_out)), rng.uniform(-self.eps, self.eps, n_out)


@dataclass(frozen=True)
class Normal:
    """Weights normal with mean 0 and standard deviation `std`; biases 0."""

    std: float = 0.1

    def __post_init__(self) -> None:
        """Validate."""
        arguments.number("std", self.std, above=0)

    def __call__(self, rng: np.random.Generator, n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw W and b of one layer."""
        return self.std * rng.standard_normal((n_in, n_out)), np.zeros(n_out)


@dataclass(frozen=True)
class Constant:
    """Every weight `value`; biases 0.  Equal weights keep the neurons of a layer equal forever."""

    value: float = 0.5

    def __post_init__(self) -> None:
        """Validate."""
        arguments.number("value", self.value)

    def __call__(self, rng: np.random.Generator, n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
        """Fill W and b of one layer."""
        return np.full((n_in, n_out), float(self.value)), np.zeros(n_out)


@dataclass(frozen=True)
class VarianceScaling:
    """Weights with mean 0 and variance ``scale / fan``; biases 0.

    Parameters
    ----------
    distribution : "uniform" or "normal"
    scale : float
    fan : "in" or "average"
        n_in, or (n_in + n_out) / 2.
    """

    distribution: str
    scale: float
    fan: str

    def __post_init__(self) -> None:
        """Validate."""
        arguments.name("distribution", self.distribution, ("uniform", "normal"))
        arguments.number("scale", self.scale, above=0)
        arguments.name("fan", self.fan, ("in", "average"))

    def __call__(self, rng: np.random.Generator, n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw W and b of one layer."""
        std = np.sqrt(self.scale / (n_in if self.fan == "in" else (n_in + n_out) / 2))
        if self.distribution == "normal":
            return std * rng.standard_normal((n_in, n_out)), np.zeros(n_out)
        limit = np.sqrt(3) * std
        return rng.uniform(-limit, limit, (n_in, n_out)), np.zeros(n_out)


INITIALIZERS: dict[str, Initializer] = {
    "glorot_uniform": VarianceScaling("uniform", 1, "average"),  # Glorot and Bengio (2010), eq. 16
    "glorot_normal": VarianceScaling("normal", 1, "average"),
    "he_uniform": VarianceScaling("uniform", 2, "in"),  # He et al. (2015), eq. 10
    "he_normal": VarianceScaling("normal", 2, "in"),
    "lecun_normal": VarianceScaling("normal", 1, "in"),  # LeCun et al., "Efficient BackProp" (1998), eq. 16
    "uniform": Uniform(),
    "normal": Normal(),
    "zeros": Constant(0.0),
    "constant": Constant(),
}


def draw(
    init: Init, sizes: Sequence[int], seed: arguments.Seed, dtype: Any = np.float64
) -> list[tuple[np.ndarray, np.ndarray]]:
    """First weights and biases of every layer.

    Parameters
    ----------
    init : str, initializer, or sequence of str, initializers or (W, b)
        A name of `INITIALIZERS` or an initializer for all layers; or for each layer one of these or its arrays (W, b).
    sizes : sequence of int
    seed : None, int, SeedSequence, BitGenerator or Generator
        The layers draw from it in turn; those with arrays draw nothing.
    dtype : numpy.dtype
        The parameters must be finite in it.

    Returns
    -------
    list of (W, b)
        float64, so that networks of either dtype start from the same draws.
    """
    shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
    rng = arguments.generator("seed", seed)
    items: Any = [_named("init", init)] * len(shapes) if isinstance(init, str) or callable(init) else init
    if isinstance(items, list | tuple) and len(items) == len(shapes):
        items = [_named(f"init[{layer}]", item) for layer, item in enumerate(items)]
        items = [item(rng, *shape) if callable(item) else item for item, shape in zip(items, shapes, strict=True)]
    return checks.layer_arrays("init", items, shapes, np.dtype(dtype))


def _named(argument: str, item: Any) -> Any:
    """Return the initializer of a name; anything else as it is."""
    return INITIALIZERS[arguments.name(argument, item, INITIALIZERS)] if isinstance(item, str) else item
