"""One update of the parameters: penalties, clipping, the update rule, the limit of norms."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np

from .custom import twin_of
from .layout import layer_views
from .optimizers import clip_norm, clip_value, max_norm, penalize


def update(
    settings: Any,
    lr: float,
    running_products: np.ndarray,
    gradient: np.ndarray,
    buffers: np.ndarray,
    parameters: np.ndarray,
    sizes: Sequence[int],
) -> None:
    """Update the parameters of a network in place by the gradient of the loss, which is overwritten.

    Parameters
    ----------
    settings : fastbp.update.Update
    sizes : sequence of int
        Of the network.
    lr, running_products, gradient, buffers, parameters
        See `rule_step`.
    """
    weights, _ = layer_views(parameters, sizes)
    for W, dW in zip(weights, layer_views(gradient, sizes)[0], strict=True):
        penalize(W, settings.l1, settings.l2, dW)
    if settings.clip_value:
        clip_value(settings.clip_value, gradient)
    if settings.clip_norm:
        clip_norm(settings.clip_norm, gradient)
    rule_step(settings.rule, settings.hyperparameters, lr, running_products, gradient, buffers, parameters)
    if settings.max_norm:
        for W in weights:
            max_norm(settings.max_norm, W)


def rule_step(
    rule: str,
    hyperparameters: Sequence[float],
    lr: float,
    running_products: np.ndarray,
    gradient: np.ndarray,
    buffers: np.ndarray,
    parameters: np.ndarray,
) -> None:
    """Update all parameters once by the rule of this name, in place.

    Parameters
    ----------
    rule, hyperparameters : str, sequence of float
        One of `kernels.optimizers.RULES`, and its settings in the order documented there.
    lr : float
    running_products : float64 ndarray
        Running products of the rule, all 1 at the start.
    gradient, parameters : ndarray (n_parameters,)
    buffers : ndarray (n_states, n_parameters)
        All 0 at the start.
    """
    twin = twin_of(rule)
    products = [running_products] if "running_products" in signature(twin).parameters else []
    twin(gradient, lr, *hyperparameters, *products, *buffers, parameters)
