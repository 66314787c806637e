"""XOR, 2-2-1, by hand: every number of one backpropagation, and learning it by each update mode."""

import math

import numpy as np
import pytest

import fastbp

# Weights that a textbook could print, and what follows from them, computed apart from this library with 30 digits.
INIT = [(np.array([[0.5, -0.3], [0.2, 0.8]]), np.array([0.1, -0.1])), (np.array([[0.7], [-0.4]]), np.array([0.05]))]

LOSS = 0.1270809378957265
DW1 = [[0.0012076661748577518, -0.00094367223792038158], [0.0004337705220390138, -0.00087316409324676426]]
DB1 = [0.0023891767703388914, -0.0018747457024177811]
DW2 = [[0.0097635974356262452], [0.0083752485374830193]]
DB2 = [0.016032921133478399]


@pytest.fixture
def net(backend):
    """Build the network of the worked example."""
    return fastbp.Network([2, 2, 1], "sigmoid", init=INIT, dtype="float64", backend=backend)


def test_every_number(net, xor):
    X, Y = xor
    (W1, b1), (W2, b2) = INIT
    dW1, db1 = [[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]
    dW2, db2, losses = [0.0, 0.0], 0.0, []
    trace = net.trace(X, Y)
    for i in range(4):  # one sample after the other, in scalars: nothing of NumPy but the inputs
        z1 = [sum(X[i, p] * W1[p, q] for p in range(2)) + b1[q] for q in range(2)]
        a1 = [1 / (1 + math.exp(-z)) for z in z1]
        z2 = a1[0] * W2[0, 0] + a1[1] * W2[1, 0] + b2[0]
        a2 = 1 / (1 + math.exp(-z2))
        losses.append(0.5 * (a2 - Y[i, 0]) ** 2)
        delta2 = (a2 - Y[i, 0]) * a2 * (1 - a2) / 4
        delta1 = [delta2 * W2[q, 0] * a1[q] * (1 - a1[q]) for q in range(2)]
        np.testing.assert_allclose(trace.layers[0].Z[i], z1, rtol=1e-15, atol=1e-16)
        np.testing.assert_allclose(trace.layers[0].A[i], a1, rtol=1e-15)
        np.testing.assert_allclose(trace.layers[1].Z[i], [z2], rtol=4e-15)
        np.testing.assert_allclose(trace.layers[1].A[i], [a2], rtol=1e-15)
        np.testing.assert_allclose(trace.layers[1].delta[i], [delta2], rtol=4e-15)
        np.testing.assert_allclose(trace.layers[0].delta[i], delta1, rtol=4e-15)
        for q in range(2):
            dW2[q] += a1[q] * delta2
            db1[q] += delta1[q]
            for p in range(2):
                dW1[p][q] += X[i, p] * delta1[q]
        db2 += delta2
    close = dict(rtol=1e-13, atol=1e-17)
    np.testing.assert_allclose(trace.losses, losses, rtol=4e-15)
    np.testing.assert_allclose(trace.loss, sum(losses) / 4, rtol=1e-14)
    np.testing.assert_allclose(trace.layers[0].dW, dW1, **close)
    np.testing.assert_allclose(trace.layers[0].db, db1, **close)
    np.testing.assert_allclose(trace.layers[1].dW[:, 0], dW2, **close)
    np.testing.assert_allclose(trace.layers[1].db, [db2], **close)


def test_the_printed_digits(net, xor):
    loss, weights, biases = net.gradients(*xor)
    assert loss == pytest.approx(LOSS, rel=1e-15)
    np.testing.assert_allclose(weights[0], DW1, rtol=1e-14)
    np.testing.assert_allclose(weights[1], DW2, rtol=1e-14)
    np.testing.assert_allclose(biases[0], DB1, rtol=1e-14)
    np.testing.assert_allclose(biases[1], DB2, rtol=1e-14)


def test_trace_prints_every_step(net, xor):
    trace = net.trace(*xor)
    text = str(trace)
    for words in (
        "Z1 = X @ W1 + b1, A1 = sigmoid(Z1)",
        "delta1 = (delta2 @ W2.T) * f'(Z1)",
        "dW2 = A1.T @ delta2",
        "delta2 = dE/dA2 * f'(Z2) / 4",
        "squared_error",
    ):
        assert words in text
    for layer in trace.layers:
        for name in ("W", "b", "Z", "A", "delta", "dW", "db"):
            for value in getattr(layer, name).ravel():
                assert f"{value:.6f}" in text


def test_trace_of_one_sample_and_of_labels(backend):
    net = fastbp.Network([3, 4], "softmax", "cross_entropy", seed=0, backend=backend)
    one = net.trace([1.0, 2, 3], 2)
    assert one.layers[0].Z.shape == (1, 4) and "sample" in str(one)
    many = net.trace(np.ones((100, 3)), np.zeros(100, int))
    assert many.layers[0].delta.shape == (100, 4) and "..." in str(many) and len(str(many).splitlines()) < 100


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_learns_xor_by_each_update_mode(backend, batch_size, xor):
    net = fastbp.Network([2, 4, 1], "sigmoid", init="uniform", seed=1, backend=backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(1.0, momentum=0.9), batch_size, seed=1)
    history = trainer.fit(*xor, epochs=2000)
    assert history.loss[-1] < 1e-3
    assert ((net.predict(xor[0]) > 0.5) == xor[1]).all()


def test_equal_weights_stay_equal(backend, xor):
    net = fastbp.Network([2, 2, 1], "sigmoid", init="constant", dtype="float64", backend=backend)
    fastbp.Trainer(net, fastbp.SGD(0.5), batch_size=None).fit(*xor, epochs=50)
    np.testing.assert_array_equal(net.weights[0][:, 0], net.weights[0][:, 1])
    assert net.weights[0][0, 0] != 0.5
