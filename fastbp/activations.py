"""The table of activation functions: name -> properties; and custom activations."""

from __future__ import annotations

from typing import NamedTuple

from .custom import CustomFunction


class Row(NamedTuple):
    """Properties of an activation."""

    formula: str
    kinks: tuple[float, ...] = ()  # where f' jumps
    within_01: bool = False  # the outputs lie in [0, 1]
    is_positive: bool = False  # the outputs are above 0

    @property
    def has_kink(self) -> bool:
        """Whether f' jumps anywhere."""
        return bool(self.kinks)


ACTIVATIONS = {
    "sigmoid": Row("1 / (1 + exp(-Z))", within_01=True, is_positive=True),
    "tanh": Row("tanh(Z)"),
    "relu": Row("max(Z, 0)", kinks=(0,)),
    "leaky_relu": Row("Z if Z > 0 else 0.01 Z", kinks=(0,)),
    "elu": Row("Z if Z > 0 else exp(Z) - 1"),
    "softplus": Row("log(1 + exp(Z))", is_positive=True),
    "silu": Row("Z / (1 + exp(-Z))"),
    "gelu": Row("Z * Phi(Z), Phi the normal distribution function"),
    "selu": Row("1.0507 (Z if Z > 0 else 1.6733 (exp(Z) - 1))", kinks=(0,)),
    "mish": Row("Z * tanh(log(1 + exp(Z)))"),
    "softsign": Row("Z / (1 + |Z|)"),
    "hard_sigmoid": Row("Z / 6 + 1/2, clipped to [0, 1]", kinks=(-3, 3), within_01=True),
    "hard_tanh": Row("Z, clipped to [-1, 1]", kinks=(-1, 1)),
    "exponential": Row("exp(Z)", is_positive=True),
    "identity": Row("Z"),
    "softmax": Row("exp(Z) / rowsum(exp(Z))", within_01=True, is_positive=True),
}
CUSTOM = Row("a custom function", within_01=True, is_positive=True)  # its range is not checked


class Activation(CustomFunction):
    """A custom activation, given to a network in place of a name.

    Parameters
    ----------
    function : function compiled with ``@numba.njit``
        f(z) of one number.
    derivative : function compiled with ``@numba.njit``
        f'(z) as d(z, a), a being f(z).  `Network.verify` finds a wrong one.
    name : str, optional
        Its name where a network is printed; by default that of the function.

    Raises
    ------
    TypeError, ValueError
        If one of the functions is missing or not compiled, or the name is that of a built-in activation.

    Notes
    -----
    Both run inside the compiled training loop.  They are compiled again with the library's flags: division by 0 gives
    an infinity or NaN, and options such as ``fastmath`` are ignored.  An exception in them, or in a function that they
    call, becomes NaN: the loss is then not finite, and training stops.
    """

    kind, arguments, known = "activation", (("z",), ("z", "a")), ACTIVATIONS


def row_of(activation: str | Activation) -> Row:
    """Return the row of a name, or `CUSTOM`."""
    return ACTIVATIONS[activation] if isinstance(activation, str) else CUSTOM
