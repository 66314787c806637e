"""The table of activation functions: name -> settings; and activations of one's own."""

from typing import NamedTuple

from .custom import CustomFunction


class Row(NamedTuple):
    """What the library must know of an activation besides its kernels."""

    formula: str
    kinks: tuple = ()  # where f' jumps
    within_01: bool = False  # the outputs lie in [0, 1]
    is_positive: bool = False  # the outputs are above 0

    @property
    def has_kink(self):
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
    "hard_sigmoid": Row("Z / 6 + 1/2, held within [0, 1]", kinks=(-3, 3), within_01=True),
    "hard_tanh": Row("Z, held within [-1, 1]", kinks=(-1, 1)),
    "exponential": Row("exp(Z)", is_positive=True),
    "identity": Row("Z"),
    "softmax": Row("exp(Z) / rowsum(exp(Z))", within_01=True, is_positive=True),
}
CUSTOM = Row("a function of one's own", within_01=True, is_positive=True)  # for whose range its author answers


class Activation(CustomFunction):
    """An activation of one's own, to be given wherever the name of one is.

    Parameters
    ----------
    function : function compiled with ``@numba.njit``
        f(z) of one number.
    derivative : function compiled with ``@numba.njit``
        f'(z) as d(z, a), a being f(z).  `Network.verify` finds a wrong one.
    name : str, optional
        What it is called where a network is printed; else the name of the function.

    Raises
    ------
    TypeError, ValueError
        Where one of the functions is missing or not compiled, or the name is that of
        an activation of the library.

    Notes
    -----
    Both run inside the compiled training loop.  They are compiled anew with the library's flags: division by 0 gives
    an infinity or NaN, and options such as ``fastmath`` do not count.  An exception in them, or in what they
    call, counts as NaN: the loss is then not finite, and training stops.
    """

    kind, arguments, known = "activation", (("z",), ("z", "a")), ACTIVATIONS


def row_of(activation):
    """Return the row of a name, or `CUSTOM`."""
    return ACTIVATIONS[activation] if isinstance(activation, str) else CUSTOM
