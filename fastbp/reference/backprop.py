"""Backpropagation of one batch: forward, output delta, backward, update.

Rows are samples.  W is (n_in, n_out), so Z = A_prev @ W + b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, NamedTuple

import numpy as np

from .. import checks
from ..losses import name_of, settings_of
from .custom import evaluated, twin_of
from .dense import affine_forward, bias_gradient, weight_gradient
from .elementwise import softmax_backward
from .layout import layer_views
from .losses import LOGIT_FORMS
from .optimizers import adam, clip_norm, clip_value, max_norm, penalize


class Pass(NamedTuple):
    """Every intermediate of one forward and backward pass; a list has one entry per layer."""

    Z: list
    A: list  # A[0] is X times the scale, so A[l] belongs to Z[l - 1]
    delta: Any = None  # it and what follows are None without a backward pass
    gradient: Any = None  # flat, as the parameters
    dX: Any = None
    losses: Any = None


Drop = Callable[[int, np.ndarray], np.ndarray]  # (layer, activation or its gradient) -> what dropout leaves of it


class Backpropagation:
    """Prediction and gradients of one network.

    Parameters
    ----------
    sizes : tuple of int
    activations : tuple of str or Activation
    loss : str, or an object of `fastbp.losses`
    reduction : "mean" or "sum"
    dtype : numpy.dtype
    scale : float
        Factor of the inputs.
    """

    def __init__(
        self, sizes: tuple, activations: tuple, loss: Any, reduction: str, dtype: Any, scale: float = 1.0
    ) -> None:
        self.sizes, self.activations, self.loss, self.reduction = sizes, activations, loss, reduction
        self.dtype, self.scale = np.dtype(dtype), scale
        self.loss_parameter = tuple(settings_of(loss).values())  # what the loss takes besides A and Y, if anything
        self.logit_form = LOGIT_FORMS.get((activations[-1], name_of(loss)))

    def predict(self, parameters: np.ndarray, X: np.ndarray) -> np.ndarray:
        """Output activations (n_samples, n_out), of samples that must be finite."""
        checks.finite("X", X, self.dtype)
        return self.record(parameters, X).A[-1]

    def predict_array(self, parameters: np.ndarray, X: Any) -> np.ndarray | None:
        """Return outputs of an array that is not checked yet, or None; the engine has a shorter way for some."""
        return None

    def losses_of_arrays(self, parameters: np.ndarray, X: Any, Y: Any) -> np.ndarray | None:
        """Return losses of arrays that are not checked yet, or None, likewise."""
        return None

    def gradient_of_arrays(self, parameters: np.ndarray, X: Any, Y: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """Return what `gradient` does, of arrays that are not checked yet, or None, likewise."""
        return None

    def losses(self, parameters: np.ndarray, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """Loss of every sample, float64 (n_samples,)."""
        return self.outputs_and_losses(parameters, X, Y)[1]

    def outputs_and_losses(self, parameters: np.ndarray, X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Output activations and the loss of every sample."""
        with np.errstate(all="ignore"):
            Z, A = self.forward(parameters, X)
            return A[-1], self.sample_losses(Z, A, Y)

    def gradient(
        self, parameters: np.ndarray, X: np.ndarray, Y: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Losses of the samples and the flat gradient of the reduced loss, both with the samples' weights, if any."""
        with np.errstate(all="ignore"):
            Z, A = self.forward(parameters, X)
            losses, delta = self.losses_and_delta(Z, A, Y, weights)
            return losses, self.backward(parameters, Z, A, delta)[1]

    def gradient_from(self, parameters: np.ndarray, X: np.ndarray, dA: np.ndarray) -> np.ndarray:
        """Flat gradient for an output gradient dA."""
        return self.record(parameters, X, dA=dA).gradient

    def input_gradient(self, parameters: np.ndarray, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """Gradient of the reduced loss with respect to X."""
        return self.record(parameters, X, Y).dX

    def record(
        self, parameters: np.ndarray, X: np.ndarray, Y: np.ndarray | None = None, dA: np.ndarray | None = None
    ) -> Pass:
        """Forward, and with targets Y or an output gradient dA also backward: every intermediate."""
        with np.errstate(all="ignore"):  # divergence shows in the losses
            Z, A = self.forward(parameters, X)
            if dA is not None:
                losses, output_delta = None, self.activation_backward(-1, Z[-1], A[-1], dA)
            elif Y is not None:
                losses, output_delta = self.losses_and_delta(Z, A, Y)
            else:
                return Pass(Z, A)
            delta, gradient = self.backward(parameters, Z, A, output_delta)
            dX = (delta[0] @ layer_views(parameters, self.sizes)[0][0].T) * self.dtype.type(self.scale)
            return Pass(Z, A, delta, gradient, dX, losses)

    def inputs(self, X: np.ndarray) -> np.ndarray:
        """A0: the samples in the dtype of the network, times the scale."""
        X = X.astype(self.dtype, copy=False)
        return X if self.scale == 1 else X * self.dtype.type(self.scale)

    def forward(self, parameters: np.ndarray, X: np.ndarray) -> tuple[list, list]:
        """Z and A of every layer; A[0] is X times the scale."""
        Z, A, _ = self.forward_with_dropout(parameters, self.inputs(X), drop=lambda layer, A: A)
        return Z, A

    def forward_with_dropout(self, parameters: np.ndarray, A0: np.ndarray, drop: Drop) -> tuple[list, list, list]:
        """Z and A of every layer, and what dropout leaves of each A: the inputs of the next layer."""
        Z, A, kept = [], [A0], [A0]
        for l, (W, b) in enumerate(zip(*layer_views(parameters, self.sizes), strict=True)):
            Z.append(evaluated(affine_forward, kept[-1], W, b, shape=(len(A0), W.shape[1])))
            A.append(evaluated(twin_of(self.activations[l]), Z[-1], shape=Z[-1].shape))
            kept.append(drop(l, A[-1]))
        return Z, A, kept

    def losses_and_delta(
        self, Z: list, A: list, Y: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Loss of every sample and delta of the last layer, both times the weights of the samples, if any."""
        losses, delta = self.sample_losses(Z, A, Y), self.output_delta(Z[-1], A[-1], Y)
        return (losses, delta) if weights is None else (losses * weights, delta * weights[:, None])

    def sample_losses(self, Z: list, A: list, Y: np.ndarray) -> np.ndarray:
        """Loss of every sample from the outputs; from Z where the loss has a logit form."""
        if self.logit_form:
            losses = self.logit_form.losses(Z[-1], A[-1], Y, *self.loss_parameter)
        else:
            losses = evaluated(twin_of(self.loss), A[-1], Y, *self.loss_parameter, shape=len(Y))
        return losses.astype(np.float64)

    def output_delta(self, Z: np.ndarray, A: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """Delta of the last layer: dE/dA * f'(Z), and the 1/n of the mean."""
        if self.logit_form:
            delta = self.logit_form.delta(Z, A, Y, *self.loss_parameter)
        else:
            dA = evaluated(twin_of(self.loss, "_derivative"), A, Y, *self.loss_parameter, shape=A.shape)
            delta = self.activation_backward(-1, Z, A, dA)
        return delta / len(A) if self.reduction == "mean" else delta

    def activation_backward(self, layer: int, Z: np.ndarray, A: np.ndarray, dA: np.ndarray) -> np.ndarray:
        """Delta of a layer from the gradient of its output: dA * f'(Z)."""
        activation = self.activations[layer]
        if activation == "softmax":  # the only one that is not elementwise
            return evaluated(softmax_backward, A, dA, shape=A.shape)
        return dA * evaluated(twin_of(activation, "_derivative"), Z, A, shape=A.shape)

    def backward(
        self,
        parameters: np.ndarray,
        Z: list,
        A: list,
        delta: np.ndarray,
        kept: list | None = None,
        drop: Drop = lambda layer, dA: dA,
    ) -> tuple[list, np.ndarray]:
        """From the output delta back to the first layer: every delta, and the flat gradient.

        `kept` is what dropout left of each A, and `drop` does the same to its gradient.
        """
        weights, _ = layer_views(parameters, self.sizes)
        gradient = np.empty_like(parameters)
        dW, db = layer_views(gradient, self.sizes)
        deltas = [delta]
        for l in reversed(range(len(weights))):
            weight_gradient((A if kept is None else kept)[l], deltas[0], dW[l])
            bias_gradient(deltas[0], db[l])
            if l > 0:
                dA = drop(l - 1, deltas[0] @ weights[l].T)
                deltas.insert(0, self.activation_backward(l - 1, Z[l - 1], A[l], dA))
        return deltas, gradient


def update_parameters(
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
    rule, hyperparameters = settings.rule, settings.hyperparameters
    if rule == "adamw_weights":
        *hyperparameters, weight_decay = hyperparameters
        rule = "adam"
        for W in weights:
            W *= 1 - lr * weight_decay
    if rule == "adamw_scaled":
        scaled_step(hyperparameters, lr, running_products, gradient, buffers, parameters, sizes)
    else:
        rule_step(rule, hyperparameters, lr, running_products, gradient, buffers, parameters)
    if settings.max_norm:
        for W in weights:
            max_norm(settings.max_norm, W)


def scaled_step(
    hyperparameters: Sequence[float],
    lr: float,
    running_products: np.ndarray,
    gradient: np.ndarray,
    buffers: np.ndarray,
    parameters: np.ndarray,
    sizes: Sequence[int],
) -> None:
    """Update by AdamW with scales of the inputs, W = exp(u) V for each row of the first layer; see `rule_step`."""
    beta1, beta2, eps, weight_decay, input_scale_lr, bias_decay = hyperparameters
    (weights, biases), (dW, _) = layer_views(parameters, sizes), layer_views(gradient, sizes)
    n_in, n_out = weights[0].shape
    scales = buffers[2, : 3 * n_in].reshape(3, n_in)
    before = scales[0].copy()
    of_scales = (weights[0] * dW[0]).sum(axis=1)  # the gradient of u
    adam(of_scales, lr * input_scale_lr, beta1, beta2, eps, running_products.copy(), scales[1], scales[2], scales[0])
    factors = np.exp(before)[:, None]
    dW[0] *= factors  # the gradient of V
    rates = np.full_like(parameters, lr)
    rates[: n_in * n_out] *= factors.repeat(n_out)
    for W, b in zip(weights, biases, strict=True):
        W *= 1 - lr * weight_decay
        b *= 1 - lr * bias_decay
    adam(gradient, rates, beta1, beta2, eps, running_products, buffers[0], buffers[1], parameters)
    weights[0] *= np.exp(scales[0] - before)[:, None]


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
        One of `kernels.tables.RULES` that does not tell weights from biases, and its settings in the order documented
        in `kernels.optimizers`.
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
