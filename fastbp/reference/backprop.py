"""The NumPy twin of every public kernel, and of the engine: backpropagation in plain code.

Rows are samples.  W is (n_in, n_out), so Z = A_prev @ W + b.  Every twin has the name and the arguments of its
kernel in `fastbp.kernels`, writes its result into `out` (its last argument) and returns None; `out` may be the
same array as any other argument of its shape.  float32 stays float32, float64 stays float64.
"""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .. import checks, interrupts
from ..custom import CustomFunction
from ..losses import name_of, settings_of, smoothing_classes
from . import elementwise, losses
from .dense import affine_forward, bias_gradient, weight_gradient
from .elementwise import softmax_backward
from .losses import _logit_loss, _logit_slope, _rows
from .noise import dropout, input_noise
from .optimizers import clip_norm, clip_value, max_norm, penalize, rule_step
from .schedules import learning_rate
from .training import shuffle

# ------------------------------------------------------------------ exp and log


# ------------------------------------------------------------------ activations: A = f(Z), and f'(Z)


# ------------------------------------------------------------------ one layer


# ------------------------------------------------------------------ losses: of each sample, and dE/dA


# ------------------------------------------------------------------ updates and shuffling


# ------------------------------------------------------------------ learning rates


# ------------------------------------------------------------------ metrics: counts and sums, added to those given


# ------------------------------------------------------------------ the whole network


TWINS = {**vars(elementwise), **vars(losses)}  # of activations and losses, by name


class Pass(NamedTuple):
    """Every intermediate of one forward and backward pass; a list has one entry per layer."""

    Z: list
    A: list  # A[0] is X times the scale, so A[l] belongs to Z[l - 1]
    delta: list | None = None
    gradient: np.ndarray | None = None  # flat, as the parameters
    dX: np.ndarray | None = None
    losses: np.ndarray | None = None


def layer_views(flat, sizes):
    """Return lists of the weights and biases inside a flat array [W1, b1, W2, b2, ...] (views, no copy)."""
    weights, biases, start = [], [], 0
    for n_in, n_out in pairwise(sizes):
        middle, stop = start + n_in * n_out, start + n_in * n_out + n_out
        weights.append(flat[start:middle].reshape(n_in, n_out))
        biases.append(flat[middle:stop])
        start = stop
    return weights, biases


class NumpyBackend:
    """Prediction, gradients and training of one network in plain NumPy; the methods are those of the engine.

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

    # With these pairs of output activation and loss the derivatives cancel to delta = A - Y ...
    FUSED = {("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy")}
    # ... and with these both come from Z too, since A or 1 - A may be rounded to 0 where the loss is of order 1.
    LOGIT_FORMS = {
        ("sigmoid", "cross_entropy"),
        ("sigmoid", "focal"),
        ("sigmoid", "poisson"),
        ("softmax", "binary_cross_entropy"),
        ("softmax", "focal"),
        ("softmax", "poisson"),
        ("softplus", "poisson"),
        ("exponential", "poisson"),
    }

    def __init__(self, sizes, activations, loss, reduction, dtype, scale=1.0):
        self.sizes, self.activations, self.loss, self.reduction = sizes, activations, loss, reduction
        self.dtype, self.scale = np.dtype(dtype), scale
        pair = self.pair = activations[-1], name_of(loss)
        self.fused, self.has_logit_form = pair in self.FUSED, pair in self.LOGIT_FORMS
        self.hyperparameters = settings_of(loss).values()  # what the loss takes besides A and Y

    def predict(self, parameters, X):
        """Output activations (n_samples, n_out), of samples that must be finite."""
        checks.finite("X", X, self.dtype)
        return self.record(parameters, X).A[-1]

    def losses(self, parameters, X, Y):
        """Loss of every sample, float64 (n_samples,)."""
        with np.errstate(all="ignore"):
            return self.sample_losses(*self.forward(parameters, X), Y)

    def outputs_and_losses(self, parameters, X, Y):
        """Output activations and the loss of every sample."""
        with np.errstate(all="ignore"):
            Z, A = self.forward(parameters, X)
            return A[-1], self.sample_losses(Z, A, Y)

    def gradient(self, parameters, X, Y, weights=None):
        """Losses of the samples and the flat gradient of the reduced loss, both with the samples' weights, if any."""
        with np.errstate(all="ignore"):
            Z, A = self.forward(parameters, X)
            losses, delta = self.sample_losses(Z, A, Y), self.output_delta(Z[-1], A[-1], Y)
            if weights is not None:
                losses, delta = losses * weights, delta * weights[:, None]
            return losses, self.backward(parameters, Z, A, delta)[1]

    def gradient_from(self, parameters, X, dA):
        """Flat gradient for an output gradient dA."""
        return self.record(parameters, X, dA=dA).gradient

    def input_gradient(self, parameters, X, Y):
        """Gradient of the reduced loss with respect to X."""
        return self.record(parameters, X, Y).dX

    def record(self, parameters, X, Y=None, dA=None):
        """Forward, and with targets Y or an output gradient dA also backward: every intermediate."""
        with np.errstate(all="ignore"):  # a diverging training is told by its losses
            Z, A = self.forward(parameters, X)
            if Y is None and dA is None:
                return Pass(Z, A)
            if dA is None:
                losses, output_delta = self.sample_losses(Z, A, Y), self.output_delta(Z[-1], A[-1], Y)
            else:
                losses, output_delta = None, self.through_activation(-1, Z[-1], A[-1], dA)
            delta, gradient, dX = self.backward(parameters, Z, A, output_delta)
            return Pass(Z, A, delta, gradient, dX, losses)

    def forward(self, parameters, X):
        """Z and A of every layer; A[0] is X times the scale."""
        Z, A = [], [self.inputs(X)]
        for W, b, activation in zip(*layer_views(parameters, self.sizes), self.activations, strict=True):
            Z.append(_result(affine_forward, A[-1], W, b, shape=(len(X), W.shape[1])))
            A.append(_result(_twin(activation), Z[-1], shape=Z[-1].shape))
        return Z, A

    def inputs(self, X):
        """A0: the samples in the dtype of the network, times the scale."""
        X = X.astype(self.dtype, copy=False)
        return X if self.scale == 1 else X * self.dtype.type(self.scale)

    def sample_losses(self, Z, A, Y):
        """Loss of every sample from the outputs; from Z where the output activation allows it."""
        if self.fused:
            losses = _result(_twin(f"{self.loss}_logits"), Z[-1], Y, shape=len(Y))
        elif self.has_logit_form:
            losses = _logit_loss(*self.pair, Z[-1], A[-1], Y, self.hyperparameters)
        else:
            losses = _result(_twin(self.loss), A[-1], Y, *self.hyperparameters, shape=len(Y))
        return losses.astype(np.float64)

    def output_delta(self, Z, A, Y):
        """Delta of the last layer: dE/dA * f'(Z), and the 1/n of the mean."""
        if self.fused:
            delta = A - _rows(Y, A)
        elif self.has_logit_form:
            delta = _logit_slope(*self.pair, Z, A, Y, self.hyperparameters)
        else:
            dA = _result(_twin(self.loss, "_derivative"), A, Y, *self.hyperparameters, shape=A.shape)
            delta = self.through_activation(-1, Z, A, dA)
        return delta / len(A) if self.reduction == "mean" else delta

    def through_activation(self, layer, Z, A, dA):
        """Delta of a layer from the gradient of its output: dA * f'(Z)."""
        activation = self.activations[layer]
        if activation == "softmax":
            return _result(softmax_backward, A, dA, shape=A.shape)
        return dA * _result(_twin(activation, "_derivative"), Z, A, shape=A.shape)

    def backward(self, parameters, Z, A, delta):
        """From the output delta back to the input: every delta, the flat gradient, and dX."""
        weights, _ = layer_views(parameters, self.sizes)
        gradient = np.empty_like(parameters)
        dW, db = layer_views(gradient, self.sizes)
        deltas = [delta]
        for layer in reversed(range(len(weights))):
            weight_gradient(A[layer], deltas[0], dW[layer])
            bias_gradient(deltas[0], db[layer])
            dA = deltas[0] @ weights[layer].T
            if layer > 0:
                deltas.insert(0, self.through_activation(layer - 1, Z[layer - 1], A[layer], dA))
        return deltas, gradient, dA * self.dtype.type(self.scale)

    def training(self, parameters, state, *, batch_size, order, update, threads=0):
        """Return a function that updates `parameters` in place over batches of many epochs; see `Trainer`.

        Parameters
        ----------
        parameters : (n_parameters,)
        state : fastbp.update.State, advanced in place.
        batch_size : int
        order : int64 (n_samples,), in and out.
        update : fastbp.update.Update
        threads : ignored.

        Returns
        -------
        callable
            ``train(X, Y, weights, words, first_batch, last_batch, losses)`` with samples and targets, of a stream more
            of them than `order` names; their weights or None; words uint32 (n_epochs, n_samples) for the shuffles, or
            None.  It does batches first_batch .. last_batch - 1 of the first epoch, 0 .. last_batch - 1 of the others.
            To `losses`, float64 (n_epochs,), the sum of the sample losses of each epoch is added.  It returns the steps
            done; fewer than asked for: the loss of the next one is not finite.
        """
        return partial(self._train, parameters, state, batch_size, order, update)

    def _train(
        self, parameters, state, batch_size, order, update, X, Y, weights, words, first_batch, last_batch, losses
    ):
        steps = 0
        for epoch in range(len(losses)):
            first = first_batch if epoch == 0 else 0
            if words is not None and first == 0:
                shuffle(words[epoch], order)
            for batch in range(first, last_batch):
                rows = order[batch * batch_size : (batch + 1) * batch_size]
                lr = update.rate_scale * self.learning_rate(update, state.step)
                with interrupts.allowed():
                    sample_losses, gradient = self.noisy_gradient(
                        parameters, X[rows], Y[rows], update, state.step, None if weights is None else weights[rows]
                    )
                with np.errstate(over="ignore"):
                    total = losses[epoch] + sample_losses.sum()
                is_finite = np.isfinite(total)
                if not is_finite and not update.skips:
                    losses[epoch] = total
                    return steps
                with np.errstate(all="ignore"):
                    if is_finite:
                        losses[epoch] = total
                        self.step(parameters, gradient, update, lr, state.running_products, state.buffers)
                    else:
                        state.skipped += 1
                state.step += 1
                steps += 1
        return steps

    def learning_rate(self, update, step):
        """Learning rate of one step."""
        rate = np.empty(1)
        learning_rate(update.schedule, update.rates, np.array([step]), rate)
        return float(rate[0])

    def noisy_gradient(self, parameters, X, Y, update, step, weights):
        """Losses of the samples and the flat gradient, as training sees them."""
        with np.errstate(all="ignore"):
            X = self.inputs(X)
            if update.input_noise:
                X = _result(input_noise, X, update.key, step, update.input_noise, shape=X.shape)
            if update.label_smoothing:
                K = smoothing_classes(self.loss, self.sizes[-1])
                Y = _rows(Y, np.empty((len(X), self.sizes[-1]), self.dtype))
                Y = (1 - update.label_smoothing) * Y + update.label_smoothing / K
            Z, A, kept = self.forward_with_dropout(parameters, X, update, step)
            losses, delta = self.sample_losses(Z, A, Y), self.output_delta(Z[-1], A[-1], Y)
            if weights is not None:
                losses, delta = losses * weights, delta * weights[:, None]
            parts, layers = [], list(zip(*layer_views(parameters, self.sizes), strict=True))
            for l in reversed(range(len(layers))):
                parts = [(kept[l].T @ delta).ravel(), delta.sum(axis=0), *parts]
                if l > 0:
                    dA = delta @ layers[l][0].T
                    if any(update.dropout):
                        dropout(dA, update.key, step, l - 1, update.dropout[l - 1], dA)
                    delta = self.through_activation(l - 1, Z[l - 1], A[l], dA)
            return losses, np.concatenate(parts)

    def forward_with_dropout(self, parameters, X, update, step):
        """Z and A of every layer, A[0] being X, and what dropout leaves of each A."""
        Z, A, kept = [], [X], [X]
        for l, (W, b) in enumerate(zip(*layer_views(parameters, self.sizes), strict=True)):
            Z.append(_result(affine_forward, kept[-1], W, b, shape=(len(X), W.shape[1])))
            A.append(_result(_twin(self.activations[l]), Z[-1], shape=Z[-1].shape))
            kept.append(A[-1])
            if any(update.dropout) and l < len(update.dropout):
                kept[-1] = _result(dropout, A[-1], update.key, step, l, update.dropout[l], shape=A[-1].shape)
        return Z, A, kept

    def step(self, parameters, gradient, update, lr, running_products, buffers):
        """One update by the gradient of the data: penalties, clipping, the rule, the limit of the norms."""
        for W, dW in zip(layer_views(parameters, self.sizes)[0], layer_views(gradient, self.sizes)[0], strict=True):
            penalize(W, update.l1, update.l2, dW)
        if update.clip_value:
            clip_value(update.clip_value, gradient)
        if update.clip_norm:
            clip_norm(update.clip_norm, gradient)
        rule_step(update.rule, update.hyperparameters, lr, running_products, gradient, buffers, parameters)
        if update.max_norm:
            for W in layer_views(parameters, self.sizes)[0]:
                max_norm(update.max_norm, W)


def _twin(function, suffix=""):
    """Return the twin of an activation or loss, or with the suffix "_derivative" that of its derivative."""
    return function.twin(bool(suffix)) if isinstance(function, CustomFunction) else TWINS[name_of(function) + suffix]


def _result(kernel, *arguments, shape):
    """Run a kernel on a new `out` of this shape, and return it."""
    out = np.empty(shape, arguments[0].dtype)
    kernel(*arguments, out)
    return out
