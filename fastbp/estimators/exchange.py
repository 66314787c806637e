"""Fitted estimators of scikit-learn into those of this library, and back."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..reference.layout import layer_views

RECORD = (  # fitted attributes that both have, with the same meaning
    "classes_",
    "n_features_in_",
    "feature_names_in_",
    "n_layers_",
    "n_outputs_",
    "out_activation_",
    "n_iter_",
    "t_",
    "loss_",
    "best_loss_",
    "loss_curve_",
    "validation_scores_",
    "best_validation_score_",
    "_label_binarizer",
    "_no_improvement_count",
)
SQUARED_ERROR_STANDS_FOR = ("absolute_error", "huber", "quantile", "log_cosh")  # losses with the same output
ACTIVATIONS = {"sigmoid": "logistic"}
KNOWN_ACTIVATIONS = ("identity", "logistic", "tanh", "relu")


def _record(estimator: Any) -> dict[str, Any]:
    """Return a copy of what both record."""
    return copy.deepcopy({name: value for name, value in vars(estimator).items() if name in RECORD})


def from_sklearn(cls: Any, fitted: Any, source: Any) -> Any:
    """Return an estimator of this library with the parameters, weights and record of a fitted one of scikit-learn.

    Parameters
    ----------
    cls : type
        `MLPClassifier` or `MLPRegressor` of this library, or a subclass.
    fitted : estimator of scikit-learn
        Its optimizer's state is taken over too, so that `partial_fit` goes on.
    source : type
        What it must be an instance of.
    """
    if not isinstance(fitted, source):
        got = f"the class {fitted.__name__}" if isinstance(fitted, type) else type(fitted).__name__
        raise TypeError(f"fitted must be a {source.__name__} of sklearn.neural_network, got {got}")
    check_is_fitted(fitted)
    known = cls().get_params()
    estimator = cls(**{name: value for name, value in fitted.get_params(deep=False).items() if name in known})
    vars(estimator).update(_record(fitted))
    estimator.coefs_ = [np.array(W) for W in fitted.coefs_]
    estimator.intercepts_ = [np.array(b) for b in fitted.intercepts_]
    net = estimator._current_network()
    if hasattr(fitted, "_best_coefs"):
        best = [*fitted._best_coefs, *fitted._best_intercepts]
        weights, biases = layer_views(estimator._best_parameters, net.sizes)
        for view, array in zip([*weights, *biases], best, strict=True):
            view[...] = array
    optimizer = getattr(fitted, "_optimizer", None)
    if optimizer is not None:
        estimator._begin_optimizer()
        _take_state(estimator, optimizer)
    return estimator


def _take_state(estimator: Any, optimizer: Any) -> None:
    """Take over what an optimizer of scikit-learn remembers."""
    state = estimator.trainer_.state
    estimator._optimizer.learning_rate = float(optimizer.learning_rate)
    if estimator.solver == "sgd":
        arrays = [optimizer.velocities]
    else:
        arrays = [optimizer.ms, optimizer.vs]
        state.running_products[:2] = optimizer.beta_1**optimizer.t, optimizer.beta_2**optimizer.t
        estimator._optimizer.learning_rate = estimator._optimizer.initial
    n_layers = len(estimator.coefs_)
    for buffer, of_optimizer in zip(state.buffers, arrays, strict=True):
        pairs = zip(of_optimizer[:n_layers], of_optimizer[n_layers:], strict=True)
        buffer[:] = np.concatenate([np.ravel(array) for pair in pairs for array in pair])


def to_sklearn(estimator: Any, cls: type) -> Any:
    """Return an estimator of scikit-learn with the same predictions.

    Parameters
    ----------
    estimator : fitted `MLPClassifier` or `MLPRegressor` of this library
    cls : type
        That of the same name of scikit-learn.

    Raises
    ------
    ValueError
        Where scikit-learn has no such activation or output.
    """
    check_is_fitted(estimator)
    net = estimator._current_network()
    names = {ACTIVATIONS.get(activation, activation) for activation in map(str, net.activations[:-1])}
    if len(names) > 1 or not names <= set(KNOWN_ACTIVATIONS):
        raise ValueError(
            f"scikit-learn has one of the activations {', '.join(KNOWN_ACTIVATIONS)} for all hidden layers, but this "
            f"network has {', '.join(map(str, net.activations[:-1]))}"
        )
    known = cls().get_params()
    parameters = {name: value for name, value in estimator.get_params().items() if name in known}
    parameters["activation"] = names.pop() if names else "identity"
    parameters["warm_start"] = bool(parameters["warm_start"])
    if "loss" in parameters:
        name = str(net.loss_name)
        if name in SQUARED_ERROR_STANDS_FOR:
            parameters["loss"] = "squared_error"
        elif name not in ("squared_error", "poisson"):
            raise ValueError(f"scikit-learn has no loss {name!r}")
    result = cls(**parameters)
    vars(result).update(_record(estimator))
    result.coefs_, result.intercepts_ = [W.copy() for W in net.weights], [b.copy() for b in net.biases]
    best = layer_views(vars(estimator).get("_best_parameters", net.parameters), net.sizes)
    result._best_coefs, result._best_intercepts = ([array.copy() for array in arrays] for arrays in best)
    return result
