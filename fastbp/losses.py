"""The table of loss functions: name -> settings."""

from typing import NamedTuple


class Loss(NamedTuple):
    """What the library must know of a loss besides its kernels."""

    formula: str  # of one sample, summed over the outputs
    has_kink: bool = False  # dE/dA jumps at A = Y
    within_01: bool = False  # outputs and targets are probabilities
    takes_labels: bool = False  # Y may hold the class numbers, (n_samples,)


LOSSES = {
    "squared_error": Loss("1/2 (A - Y)^2"),
    "absolute_error": Loss("|A - Y|", has_kink=True),
    "huber": Loss("1/2 d^2 if d <= 1 else d - 1/2, d = |A - Y|"),
    "binary_cross_entropy": Loss("-Y log A - (1 - Y) log(1 - A)", within_01=True),
    "cross_entropy": Loss("-Y log A", within_01=True, takes_labels=True),
}
