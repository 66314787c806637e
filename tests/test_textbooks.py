"""Five ways in which textbooks write backpropagation, each with its own loop, against the API."""

import numpy as np
import pytest

import fastbp

CLOSE = {"float64": dict(rtol=1e-10, atol=1e-14), "float32": dict(rtol=1e-4, atol=1e-6)}
pytestmark = pytest.mark.parametrize("dtype", CLOSE)


def s(z):
    """Sigmoid."""
    return 1 / (1 + np.exp(-z))


def ds(z):
    """Derivative of the sigmoid."""
    return s(z) * (1 - s(z))


def test_1_column_vectors_and_layers_counted_from_the_end(backend, dtype):
    rng = np.random.default_rng(0)
    sizes, lr, k = [3, 5, 4, 2], 0.7, 4
    X, Y = rng.normal(size=(12, 3)), rng.uniform(size=(12, 2))
    net = fastbp.Network(sizes, "sigmoid", init="normal", seed=1, dtype=dtype, backend=backend)
    W = [w.T.astype(float) for w in net.weights]
    b = [v[:, None].astype(float) for v in net.biases]

    def backprop(x, y):
        grad_b, grad_w = [np.zeros_like(v) for v in b], [np.zeros_like(w) for w in W]
        activation, activations, zs = x, [x], []
        for bias, w in zip(b, W, strict=True):
            z = w @ activation + bias
            zs.append(z)
            activation = s(z)
            activations.append(activation)
        delta = (activations[-1] - y) * ds(zs[-1])
        grad_b[-1], grad_w[-1] = delta, delta @ activations[-2].T
        for layer in range(2, len(sizes)):
            delta = (W[-layer + 1].T @ delta) * ds(zs[-layer])
            grad_b[-layer], grad_w[-layer] = delta, delta @ activations[-layer - 1].T
        return grad_b, grad_w

    one = net.gradients(X[0], Y[0])
    for ours, theirs in zip(one.weights, backprop(X[0][:, None], Y[0][:, None])[1], strict=True):
        np.testing.assert_allclose(ours, theirs.T, **CLOSE[dtype])
    for start in range(0, len(X), k):  # mini-batches: the mean over their samples
        sum_b, sum_w = [np.zeros_like(v) for v in b], [np.zeros_like(w) for w in W]
        for x, y in zip(X[start : start + k], Y[start : start + k], strict=True):
            grad_b, grad_w = backprop(x[:, None], y[:, None])
            sum_b = [total + g for total, g in zip(sum_b, grad_b, strict=True)]
            sum_w = [total + g for total, g in zip(sum_w, grad_w, strict=True)]
        W = [w - lr / k * g for w, g in zip(W, sum_w, strict=True)]
        b = [v - lr / k * g for v, g in zip(b, sum_b, strict=True)]
    fastbp.Trainer(net, fastbp.SGD(lr), batch_size=k, shuffle=False).fit(X, Y)
    for layer in range(3):
        np.testing.assert_allclose(net.weights[layer], W[layer].T, **CLOSE[dtype])
        np.testing.assert_allclose(net.biases[layer], b[layer][:, 0], **CLOSE[dtype])


def test_2_rows_and_an_activation_per_layer(backend, dtype):
    rng = np.random.default_rng(1)
    f = [np.tanh, s, lambda z: z]
    df = [lambda z: 1 - np.tanh(z) ** 2, ds, np.ones_like]
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 2))
    net = fastbp.Network([4, 6, 5, 2], ["tanh", "sigmoid", "identity"], seed=2, dtype=dtype, backend=backend)
    w = [np.array(v, float) for v in net.weights]
    b = [np.array(v, float) for v in net.biases]
    trainer = fastbp.Trainer(net, fastbp.SGD(0.3), batch_size=None)
    for _ in range(5):
        a, z = [x], []
        for i in range(3):
            z.append(a[i] @ w[i] + b[i])
            a.append(f[i](z[i]))
        E = np.mean(np.sum(0.5 * (a[-1] - y) ** 2, axis=1))
        d = [None, None, (a[-1] - y) / len(x) * df[2](z[2])]
        for i in (1, 0):
            d[i] = d[i + 1] @ w[i + 1].T * df[i](z[i])
        trace = net.trace(x, y)
        for i in range(3):
            np.testing.assert_allclose(trace.layers[i].delta, d[i], **CLOSE[dtype])
            w[i] -= 0.3 * a[i].T @ d[i]
            b[i] -= 0.3 * d[i].sum(axis=0)
        (loss,) = trainer.fit(x, y).loss
        np.testing.assert_allclose(loss, E, **CLOSE[dtype])
        for i in range(3):
            np.testing.assert_allclose(net.weights[i], w[i], **CLOSE[dtype])
            np.testing.assert_allclose(net.biases[i], b[i], **CLOSE[dtype])


def test_3_layer_objects(backend, dtype):
    class Dense:
        """Samples are columns; W is (n_out, n_in)."""

        def __init__(self, W, b):
            self.W, self.b = W, b

        def forward(self, X):
            self.input, self.Z = X, self.W @ X + self.b
            return s(self.Z)

        def backward(self, dY):
            dZ = dY * ds(self.Z)
            self.dW, self.db = dZ @ self.input.T, dZ.sum(axis=1, keepdims=True)
            return self.W.T @ dZ

    rng = np.random.default_rng(2)
    X, Y = rng.normal(size=(3, 8)), rng.uniform(size=(2, 8))
    net = fastbp.Network([3, 5, 2], "sigmoid", reduction="sum", seed=3, dtype=dtype, backend=backend)
    pairs = zip(net.weights, net.biases, strict=True)
    textbook = [Dense(W.T.astype(float), b[:, None].astype(float)) for W, b in pairs]
    A, ours = X, X.T
    for theirs, layer in zip(textbook, net.layers, strict=True):
        A, ours = theirs.forward(A), layer.forward(ours)
        np.testing.assert_allclose(ours.T, A, **CLOSE[dtype])
    dA, d_ours = A - Y, ours - Y.T
    for theirs, layer in zip(reversed(textbook), reversed(net.layers), strict=True):
        dA, d_ours = theirs.backward(dA), layer.backward(d_ours)
        np.testing.assert_allclose(d_ours.T, dA, **CLOSE[dtype])
        np.testing.assert_allclose(layer.dW.T, theirs.dW, **CLOSE[dtype])
        np.testing.assert_allclose(layer.db[:, None], theirs.db, **CLOSE[dtype])
    for layer, dW in zip(net.layers, net.gradients(X.T, Y.T).weights, strict=True):
        np.testing.assert_allclose(layer.dW, dW, **CLOSE[dtype])


@pytest.mark.parametrize("batch_size", [1, 2, 3, None])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_4_the_xor_matrices(backend, dtype, reduction, batch_size, xor):
    X, Y = xor
    net = fastbp.Network([2, 2, 1], "sigmoid", reduction=reduction, seed=4, dtype=dtype, backend=backend)
    W1, W2 = (np.array(W, float) for W in net.weights)
    b1, b2 = (np.array(b, float) for b in net.biases)
    MSE = np.sum((net.predict(X) - Y) ** 2) / (2 * len(X))
    np.testing.assert_allclose(net.loss(X, Y) / (4 if reduction == "sum" else 1), MSE, **CLOSE[dtype])
    k = batch_size or 4
    for _ in range(20):
        for start in range(0, 4, k):
            A0, T = X[start : start + k], Y[start : start + k]
            A1 = s(A0 @ W1 + b1)
            A2 = s(A1 @ W2 + b2)
            Delta2 = (A2 - T) * A2 * (1 - A2)
            Delta1 = (Delta2 @ W2.T) * A1 * (1 - A1)
            eta = 0.5 / (len(A0) if reduction == "mean" else 1)
            W2, b2 = W2 - eta * A1.T @ Delta2, b2 - eta * Delta2.sum(axis=0)
            W1, b1 = W1 - eta * A0.T @ Delta1, b1 - eta * Delta1.sum(axis=0)
    fastbp.Trainer(net, fastbp.SGD(0.5), batch_size, shuffle=False).fit(X, Y, epochs=20)
    for ours, theirs in zip([*net.weights, *net.biases], [W1, W2, b1, b2], strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE[dtype])


def test_5_the_general_method(backend, dtype):
    rng = np.random.default_rng(5)
    eps, lr = 0.5, 0.5
    X = rng.uniform(-1, 1, (20, 3))
    Y = s(X @ rng.normal(size=(3, 2)))
    init = fastbp.initializers.Uniform(eps)
    net = fastbp.Network([3, 4, 2], "sigmoid", init=init, seed=5, dtype=dtype, backend=backend)
    assert np.abs(net.parameters).max() <= eps
    W, b = [np.array(v, float) for v in net.weights], [np.array(v, float) for v in net.biases]
    cost = []
    while len(cost) < 2 or cost[-1] < cost[-2] * 0.999:  # until the cost stops falling
        A = [X]
        for layer in range(2):
            A.append(s(A[-1] @ W[layer] + b[layer]))
        cost.append(0.5 * np.mean(np.sum((A[-1] - Y) ** 2, axis=1)))
        delta = (A[-1] - Y) / len(X) * A[-1] * (1 - A[-1])
        for layer in (1, 0):
            dW, db = A[layer].T @ delta, delta.sum(axis=0)
            delta = delta @ W[layer].T * A[layer] * (1 - A[layer])
            W[layer] = W[layer] - lr * dW
            b[layer] = b[layer] - lr * db
    trainer = fastbp.Trainer(net, fastbp.SGD(lr), batch_size=None)
    history = trainer.fit(X, Y, epochs=len(cost))
    assert len(cost) > 20
    np.testing.assert_allclose(history.loss, cost, **CLOSE[dtype])
    for layer in range(2):
        np.testing.assert_allclose(net.weights[layer], W[layer], **CLOSE[dtype])
