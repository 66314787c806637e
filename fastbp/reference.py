"""The NumPy twin of every public kernel, and of the engine: backpropagation in plain code.

Rows are samples.  W is (n_in, n_out), so Z = A_prev @ W + b.  Every twin has the name and the arguments of its
kernel in `fastbp.kernels`, writes its result into `out` (its last argument) and returns None; `out` may be the
same array as any other argument of its shape.  float32 stays float32, float64 stays float64.
"""

from itertools import pairwise
from math import erfc, sqrt
from typing import NamedTuple

import numpy as np

# ------------------------------------------------------------------ exp and log


def exp(x, out):
    """Exponential, elementwise."""
    with np.errstate(over="ignore"):
        out[...] = np.exp(x)


def log(x, out):
    """Natural logarithm, elementwise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        out[...] = np.log(x)


# ------------------------------------------------------------------ activations: A = f(Z), and f'(Z)


def sigmoid(Z, out):
    """Logistic function 1 / (1 + exp(-Z)); exp is only taken of numbers <= 0, so it cannot overflow."""
    E = np.exp(-np.abs(Z))
    out[...] = np.where(Z >= 0, 1 / (1 + E), E / (1 + E))


def sigmoid_derivative(Z, A, out):
    """Return A (1 - A)."""
    out[...] = A * (1 - A)


def tanh(Z, out):
    """Hyperbolic tangent."""
    out[...] = np.tanh(Z)


def tanh_derivative(Z, A, out):
    """1 - A^2."""
    out[...] = 1 - A * A


def relu(Z, out):
    """Z where positive, else 0."""
    out[...] = np.maximum(Z, 0)


def relu_derivative(Z, A, out):
    """1 where Z > 0, else 0."""
    out[...] = np.where(Z > 0, 1, 0)


def leaky_relu(Z, out):
    """Z where positive, else 0.01 Z."""
    out[...] = np.where(Z > 0, Z, 0.01 * Z)


def leaky_relu_derivative(Z, A, out):
    """1 where Z > 0, else 0.01."""
    out[...] = np.where(Z > 0, 1, 0.01)


def elu(Z, out):
    """Z where positive, else exp(Z) - 1."""
    out[...] = np.where(Z > 0, Z, np.expm1(np.minimum(Z, 0)))


def elu_derivative(Z, A, out):
    """1 where Z > 0, else exp(Z)."""
    out[...] = np.where(Z > 0, 1, np.exp(np.minimum(Z, 0)))


def softplus(Z, out):
    """log(1 + exp(Z)), written so that exp cannot overflow."""
    out[...] = np.maximum(Z, 0) + np.log1p(np.exp(-np.abs(Z)))


def softplus_derivative(Z, A, out):
    """Logistic function of Z."""
    sigmoid(Z, out)


def silu(Z, out):
    """Z times the logistic function of Z (0 at minus infinity)."""
    S = np.empty_like(Z)
    sigmoid(Z, S)
    out[...] = _away_from_minus_inf(Z) * S


def silu_derivative(Z, A, out):
    """S + Z S (1 - S), S the logistic function of Z."""
    S = np.empty_like(Z)
    sigmoid(Z, S)
    out[...] = S + _away_from_inf(Z) * S * (1 - S)


def gelu(Z, out):
    """Z Phi(Z), Phi the distribution function of the normal law (Hendrycks and Gimpel, 2016)."""
    out[...] = _away_from_minus_inf(Z) * _normal_cdf(Z)


def gelu_derivative(Z, A, out):
    """Phi(Z) + Z phi(Z), phi the density of the normal law."""
    bounded = _away_from_inf(Z)
    out[...] = _normal_cdf(Z) + bounded * np.exp(-0.5 * bounded * bounded) / sqrt(2 * np.pi)


def identity(Z, out):
    """Z itself."""
    out[...] = Z


def identity_derivative(Z, A, out):
    """1."""
    out[...] = 1


def softmax(Z, out):
    """exp(Z) / sum of exp(Z) over each row; the row's largest Z is taken off first."""
    Z = _finite(Z)
    E = np.exp(Z - Z.max(axis=1, keepdims=True))
    out[...] = E / E.sum(axis=1, keepdims=True)


def softmax_backward(A, dA, out):
    """Output gradient dA to delta through a softmax: A (dA - sum of dA A over the row)."""
    out[...] = A * (dA - (dA * A).sum(axis=1, keepdims=True))


_normal_cdf = np.vectorize(lambda z: 0.5 * erfc(-z / sqrt(2)), otypes=[float])


def _away_from_minus_inf(Z):
    """Keep -inf * 0 away: beyond -750 exp(Z) is 0 in float64."""
    return np.maximum(Z, -750)


def _away_from_inf(Z):
    return np.clip(Z, -750, 750)


def _finite(Z):
    """Infinities as very large numbers, so that no difference of two of them is a NaN."""
    return np.clip(Z, -np.finfo(Z.dtype).max / 8, np.finfo(Z.dtype).max / 8)


# ------------------------------------------------------------------ one layer


def affine_forward(A_prev, W, b, out):
    """Z = A_prev @ W + b, (n_samples, n_out)."""
    out[...] = A_prev @ W + b


def propagate_delta(delta, W, derivative, out):
    """Delta of the layer before: (delta @ W.T) * f'(Z), (n_samples, n_in)."""
    out[...] = (delta @ W.T) * derivative


def weight_gradient(A_prev, delta, out):
    """Weight gradient dW = A_prev.T @ delta, (n_in, n_out)."""
    out[...] = A_prev.T @ delta


def bias_gradient(delta, out):
    """Column sums of delta: db, (n_out,)."""
    out[...] = delta.sum(axis=0)


# ------------------------------------------------------------------ losses: of each sample, and dE/dA


def squared_error(A, Y, out):
    """Half the sum of (A - Y)^2 over the outputs, (n_samples,)."""
    out[...] = (0.5 * (A - Y) ** 2).sum(axis=1)


def squared_error_derivative(A, Y, out):
    """Return A - Y."""
    out[...] = A - Y


def absolute_error(A, Y, out):
    """Sum of abs(A - Y) over the outputs."""
    out[...] = np.abs(A - Y).sum(axis=1)


def absolute_error_derivative(A, Y, out):
    """Sign of A - Y (0 where they are equal)."""
    out[...] = np.sign(A - Y)


def huber(A, Y, out):
    """Squared error where abs(A - Y) <= 1, a straight line beyond (Huber, 1964); summed over the outputs."""
    d = np.abs(A - Y)
    inner = np.minimum(d, 1)
    out[...] = (0.5 * inner * inner + (d - inner)).sum(axis=1)


def huber_derivative(A, Y, out):
    """Return A - Y, held within [-1, 1]."""
    out[...] = np.clip(A - Y, -1, 1)


def binary_cross_entropy(A, Y, out):
    """-Y log A - (1 - Y) log(1 - A), summed over the outputs; both logarithms are kept finite."""
    tiny = np.finfo(A.dtype).tiny
    out[...] = -(Y * np.log(np.maximum(A, tiny)) + (1 - Y) * np.log(np.maximum(1 - A, tiny))).sum(axis=1)


def binary_cross_entropy_derivative(A, Y, out):
    """Return (A - Y) / (A (1 - A)); A is held within [eps, 1 - eps]."""
    eps = np.finfo(A.dtype).eps
    A = np.clip(A, eps, 1 - eps)
    out[...] = (A - Y) / (A * (1 - A))


def binary_cross_entropy_logits(Z, Y, out):
    """binary_cross_entropy of sigmoid(Z), from Z: softplus(Z) - Z Y, finite for every Z."""
    Z = _finite(Z)
    out[...] = (np.maximum(Z, 0) - Z * Y + np.log1p(np.exp(-np.abs(Z)))).sum(axis=1)


def cross_entropy(A, Y, out):
    """-log of the probability A gives to the true class; A is held above 0.

    Y holds class labels, int64 (n_samples,), or rows of probabilities: then -sum of Y log A.
    """
    A = np.maximum(A, np.finfo(A.dtype).tiny)
    out[...] = -np.log(A[np.arange(len(Y)), Y]) if Y.ndim == 1 else (-Y * np.log(A)).sum(axis=1)


def cross_entropy_derivative(A, Y, out):
    """-Y / A (labels: Y is 1 at the label, 0 elsewhere); A is held above 0."""
    out[...] = -_rows(Y, A) / np.maximum(A, np.finfo(A.dtype).tiny)


def cross_entropy_logits(Z, Y, out):
    """cross_entropy of softmax(Z), from Z: log of the sum of exp(Z), less Z of the class; finite for every Z."""
    Z = _finite(Z)
    Z = Z - Z.max(axis=1, keepdims=True)
    log_A = Z - np.log(np.exp(Z).sum(axis=1, keepdims=True))
    out[...] = -log_A[np.arange(len(Y)), Y] if Y.ndim == 1 else (-Y * log_A).sum(axis=1)


def _rows(Y, like):
    """Targets as rows: class labels become one-hot rows."""
    if Y.ndim == 2:
        return Y
    rows = np.zeros_like(like)
    rows[np.arange(len(Y)), Y] = 1
    return rows


# ------------------------------------------------------------------ updates and shuffling


def sgd(gradient, lr, parameters):
    """Gradient descent, in place: parameters -= lr * gradient."""
    parameters -= lr * gradient


def sgd_momentum(gradient, lr, momentum, nesterov, velocity, parameters):
    """Gradient descent with momentum, in place, in PyTorch's form (Sutskever et al., 2013)."""
    velocity[...] = momentum * velocity + gradient
    parameters -= lr * (gradient + momentum * velocity if nesterov else velocity)


def shuffle(words, order):
    """Fisher-Yates shuffle of 0 ... n-1 into `order` (int64), from n random 32-bit words (Knuth, TAOCP 3.4.2 P)."""
    order[...] = np.arange(len(order))
    for i in range(len(order) - 1, 0, -1):
        j = (int(words[i]) * (i + 1)) >> 32
        order[i], order[j] = order[j], order[i]


# ------------------------------------------------------------------ metrics: counts and sums, added to those given


def class_counts(A, Y, counts):
    """Of each class the samples that are right, are predicted to be it, and are it; added to counts (3, n_out).

    The class is the first largest number of a row; Y may hold labels (n_samples,).
    """
    predicted, true = A.argmax(axis=1), _classes(Y)
    for row, classes in zip(counts, (true[predicted == true], predicted, true), strict=True):
        row += np.bincount(classes, minlength=len(row))


def label_counts(A, Y, threshold, counts, right):
    """Of each output the samples where yes, above the threshold, is right, is predicted, is true; all right."""
    predicted, true = A > threshold, Y > threshold
    for row, yes in zip(counts, (predicted & true, predicted, true), strict=True):
        row += yes.sum(axis=0)
    right += (predicted == true).all(axis=1).sum()


def top_counts(A, Y, k, right):
    """Count the samples whose class has one of the k largest outputs; of equal ones the later class is the larger."""
    largest = np.argsort(A, axis=1, kind="stable")[:, ::-1][:, :k]
    right += (largest == _classes(Y)[:, None]).any(axis=1).sum()


def error_sums(A, Y, totals):
    """Sum up the errors D = Y - A of each output, in rows of totals (7, n_out).

    Number of samples, sum of |D|, sum of D^2, mean of D, sum of (D - mean)^2, and the latter two of Y.  Means and
    squares of these samples are joined to the given ones by Chan, Golub and LeVeque's formula (1979).
    """
    Y = Y.astype(np.float64)
    D = Y - A
    n, m = totals[0].copy(), len(A)
    totals[0] += m
    totals[1] += np.abs(D).sum(axis=0)
    totals[2] += (D * D).sum(axis=0)
    for (mean, squares), V in zip((totals[3:5], totals[5:7]), (D, Y), strict=True):
        own = V.mean(axis=0)
        step = own - mean
        squares += ((V - own) ** 2).sum(axis=0) + step * step * n * m / (n + m)
        mean += step * m / (n + m)


def _classes(Y):
    return Y if Y.ndim == 1 else Y.argmax(axis=1)


# ------------------------------------------------------------------ the whole network


class Pass(NamedTuple):
    """Every intermediate of one forward and backward pass; a list has one entry per layer."""

    Z: list
    A: list  # A[0] is X, so A[l] belongs to Z[l - 1]
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
    activations : tuple of str
    loss : str
    reduction : "mean" or "sum"
    dtype : numpy.dtype
    """

    # With these pairs of output activation and loss the derivatives cancel to delta = A - Y.
    FUSED = {("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy")}

    def __init__(self, sizes, activations, loss, reduction, dtype):
        self.sizes, self.activations, self.loss, self.reduction = sizes, activations, loss, reduction
        self.dtype = np.dtype(dtype)
        self.fused = (activations[-1], loss) in self.FUSED

    def predict(self, parameters, X):
        """Output activations (n_samples, n_out)."""
        return self.record(parameters, X).A[-1]

    def losses(self, parameters, X, Y):
        """Loss of every sample, float64 (n_samples,)."""
        with np.errstate(all="ignore"):
            return self.sample_losses(*self.forward(parameters, X), Y)

    def gradient(self, parameters, X, Y):
        """Losses of the samples, and the flat gradient of the reduced loss."""
        record = self.record(parameters, X, Y)
        return record.losses, record.gradient

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
        """Z and A of every layer; A[0] is X."""
        Z, A = [], [X.astype(self.dtype, copy=False)]
        for W, b, activation in zip(*layer_views(parameters, self.sizes), self.activations, strict=True):
            Z.append(_result(affine_forward, A[-1], W, b, shape=(len(X), W.shape[1])))
            A.append(_result(_twin(activation), Z[-1], shape=Z[-1].shape))
        return Z, A

    def sample_losses(self, Z, A, Y):
        """Loss of every sample from the outputs; from Z where the output activation allows it."""
        name, outputs = (f"{self.loss}_logits", Z[-1]) if self.fused else (self.loss, A[-1])
        return _result(_twin(name), outputs, Y, shape=len(Y)).astype(np.float64)

    def output_delta(self, Z, A, Y):
        """Delta of the last layer: dE/dA * f'(Z), and the 1/n of the mean."""
        if self.fused:
            delta = A - _rows(Y, A)
        else:
            dA = _result(_twin(f"{self.loss}_derivative"), A, Y, shape=A.shape)
            delta = self.through_activation(-1, Z, A, dA)
        return delta / len(A) if self.reduction == "mean" else delta

    def through_activation(self, layer, Z, A, dA):
        """Delta of a layer from the gradient of its output: dA * f'(Z)."""
        activation = self.activations[layer]
        if activation == "softmax":
            return _result(softmax_backward, A, dA, shape=A.shape)
        return dA * _result(_twin(f"{activation}_derivative"), Z, A, shape=A.shape)

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
        return deltas, gradient, dA

    def train(self, parameters, velocity, X, Y, *, batch_size, words, order, first_batch, last_batch,
              lr, momentum, nesterov, losses, threads):
        """Update `parameters` in place over batches of many epochs; see `Trainer`.

        Returns
        -------
        int
            Steps done.  Fewer than asked for: the loss of the next one is not finite.
        """
        steps = 0
        for epoch in range(len(losses)):
            first = first_batch if epoch == 0 else 0
            if words is not None and first == 0:
                shuffle(words[epoch], order)
            for batch in range(first, last_batch):
                rows = order[batch * batch_size : (batch + 1) * batch_size]
                batch_losses, gradient = self.gradient(parameters, X[rows], Y[rows])
                losses[epoch] += batch_losses.sum()
                if not np.isfinite(losses[epoch]):
                    return steps
                with np.errstate(all="ignore"):
                    if velocity is None:
                        sgd(gradient, lr, parameters)
                    else:
                        sgd_momentum(gradient, lr, momentum, nesterov, velocity, parameters)
                steps += 1
        return steps


def _twin(name):
    """Return the twin of this name."""
    return globals()[name]


def _result(kernel, *arguments, shape):
    """Run a kernel on a new `out` of this shape, and return it."""
    out = np.empty(shape, arguments[0].dtype)
    kernel(*arguments, out)
    return out
