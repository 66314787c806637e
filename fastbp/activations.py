"""The table of activation functions: name -> settings."""

from typing import NamedTuple


class Activation(NamedTuple):
    """What the library must know of an activation besides its kernels."""

    formula: str
    has_kink: bool = False  # f' jumps at Z = 0
    within_01: bool = False  # the outputs lie in [0, 1]


ACTIVATIONS = {
    "sigmoid": Activation("1 / (1 + exp(-Z))", within_01=True),
    "tanh": Activation("tanh(Z)"),
    "relu": Activation("max(Z, 0)", has_kink=True),
    "leaky_relu": Activation("Z if Z > 0 else 0.01 Z", has_kink=True),
    "elu": Activation("Z if Z > 0 else exp(Z) - 1"),
    "softplus": Activation("log(1 + exp(Z))"),
    "silu": Activation("Z / (1 + exp(-Z))"),
    "gelu": Activation("Z * Phi(Z), Phi the normal distribution function"),
    "identity": Activation("Z"),
    "softmax": Activation("exp(Z) / rowsum(exp(Z))", within_01=True),
}
