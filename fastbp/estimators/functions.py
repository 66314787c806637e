"""Activations, losses and initial weights: scikit-learn's names and draws, and what they are here."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import checks
from ..activations import ACTIVATIONS, Activation
from ..losses import LOSSES, Loss, Parameterized, name_of, row_of

NAMES = {"logistic": "sigmoid", "exp": "exponential", "log_loss": "binary_cross_entropy"}
HIDDEN = {"logistic", *ACTIVATIONS} - {"softmax"}  # names that the parameter `activation` takes
REGRESSION_LOSSES = {"squared_error", "poisson", "absolute_error", "huber", "quantile", "log_cosh"}
assert REGRESSION_LOSSES <= LOSSES.keys()


def hidden_sizes(hidden_layer_sizes: Any) -> list[int]:
    """Return the number of neurons of each hidden layer."""
    sizes = list(hidden_layer_sizes) if hasattr(hidden_layer_sizes, "__iter__") else [hidden_layer_sizes]
    try:
        result = list(map(operator.index, sizes))
    except TypeError:
        raise TypeError(f"hidden_layer_sizes must be an integer or a sequence of them, got {sizes}") from None
    if any(size <= 0 for size in result):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return result


def hidden_activations(activation: Any, n_hidden: int) -> list[str | Activation]:
    """Return the activation of each hidden layer, by this library's names.

    Parameters
    ----------
    activation : str or Activation, or a list of them
    n_hidden : int
    """
    if isinstance(activation, str | Activation):
        return [_activation("activation", activation)] * n_hidden
    if len(activation) != n_hidden:
        raise ValueError(
            f"activation must be one, or a list of {n_hidden}, one for each hidden layer, got {activation!r}"
        )
    return [_activation(f"activation[{i}]", item) for i, item in enumerate(activation)]


def _activation(argument: str, value: Any) -> str | Activation:
    if isinstance(value, Activation):
        return value
    if not isinstance(value, str) or value not in HIDDEN:
        raise ValueError(f"{argument} must be a fastbp.Activation or one of {', '.join(sorted(HIDDEN))}, got {value!r}")
    return NAMES.get(value, value)


def shapes_of(coefs: Any, intercepts: Any) -> list[tuple[int, ...]]:
    """Return the shapes of the weights of all layers, checked against each other and those of the biases."""
    shapes, of_biases = list(map(np.shape, coefs)), list(map(np.shape, intercepts))
    are_layers = len(shapes) > 0 and all(len(shape) == 2 for shape in shapes)
    if (
        not are_layers
        or of_biases != [shape[1:] for shape in shapes]
        or any(before[1] != shape[0] for before, shape in zip(shapes[:-1], shapes[1:], strict=True))
    ):
        raise ValueError(f"coefs_ and intercepts_ have the shapes {shapes} and {of_biases}, which are not of layers")
    return shapes


def dtype_of(W: Any) -> np.dtype:
    """Return the dtype of a network with such weights."""
    return np.dtype(np.float32 if np.asarray(W).dtype == np.float32 else np.float64)


def output_activation(loss: str | Parameterized | Loss) -> str:
    """Return scikit-learn's name of the output activation of a regressor."""
    return "exp" if row_of(loss).is_positive else "identity"


def loss_scale(loss: str | Parameterized | Loss, n_outputs: int) -> float:
    """Return the factor of recorded losses: the mean over the outputs, as scikit-learn has it of squared errors.

    Its gradients are those of the sum over the outputs, as here.
    """
    return 1 / n_outputs if name_of(loss) in REGRESSION_LOSSES - {"poisson"} else 1.0


def initial_weights(
    random_state: np.random.RandomState, sizes: Sequence[int], activations: Sequence[str | Activation]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw W and b of each layer as scikit-learn does: uniform within Glorot's bound, a smaller one for the sigmoid.

    Parameters
    ----------
    random_state : RandomState
    sizes : sequence of int
        Of inputs, hidden layers and outputs.
    activations : sequence of str or Activation
        Of the hidden layers; the last one also decides the bound of the output layer.
    """
    pairs = []
    for layer, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        activation = activations[min(layer, len(activations) - 1)] if activations else "identity"
        bound = np.sqrt((2.0 if activation == "sigmoid" else 6.0) / (n_in + n_out))
        pairs.append((random_state.uniform(-bound, bound, (n_in, n_out)), random_state.uniform(-bound, bound, n_out)))
    return pairs


def given_weights(
    drawn: list[tuple[np.ndarray, np.ndarray]], coefs: Any, intercepts: Any, dtype: np.dtype
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the drawn weights and biases, but for those that the user gives and that are not None."""
    if coefs is intercepts is None:
        return drawn
    result = []
    for argument, given, of_layers in zip(
        ("coefs_init", "intercepts_init"), (coefs, intercepts), zip(*drawn, strict=True), strict=True
    ):
        if given is not None and len(given) != len(drawn):
            raise ValueError(f"{argument} must hold one array for each of the {len(drawn)} layers, got {len(given)}")
        given = [None] * len(drawn) if given is None else given
        result.append([own if array is None else array for array, own in zip(given, of_layers, strict=True)])
    shapes: list[Any] = [W.shape for W, _ in drawn]
    return checks.layer_arrays("coefs_init, intercepts_init", list(zip(*result, strict=True)), shapes, dtype)
