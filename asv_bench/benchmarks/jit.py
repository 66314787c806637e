"""Models in compiled functions, beside the same loops written by hand for fixed sizes."""

import numpy as np
from numba import njit

import fastbp

from .training import one_sample

N_CALLS = 1000
N_HIDDEN, N_IN = 16, 8


@njit(nogil=True)
def predict(m, x, y):
    """Sum of the outputs."""
    total = 0.0
    for _ in range(N_CALLS):
        total += m.predict1(x)
    return total


@njit(nogil=True)
def train(m, x, y):
    """Sum of the losses."""
    total = 0.0
    for _ in range(N_CALLS):
        total += m.train_step(x, y)
    return total


@njit(nogil=True)
def sigmoid(z):
    """1 / (1 + exp(-z))."""
    return np.float32(1) / (np.float32(1) + np.exp(-z))


@njit(nogil=True)
def forward_by_hand(p, x, hidden):
    """Output of 8-16-1."""
    b1, w2 = N_IN * N_HIDDEN, (N_IN + 1) * N_HIDDEN
    for j in range(N_HIDDEN):
        hidden[j] = p[b1 + j]
    for i in range(N_IN):
        for j in range(N_HIDDEN):
            hidden[j] += x[i] * p[i * N_HIDDEN + j]
    z = p[w2 + N_HIDDEN]
    for j in range(N_HIDDEN):
        hidden[j] = sigmoid(hidden[j])
        z += hidden[j] * p[w2 + j]
    return sigmoid(z)


@njit(nogil=True)
def predict_by_hand(p, x, y, hidden):
    """Sum of the outputs."""
    total = 0.0
    for _ in range(N_CALLS):
        total += forward_by_hand(p, x, hidden)
    return total


@njit(nogil=True)
def train_by_hand(p, x, y, hidden):
    """Sum of the losses of steps of gradient descent."""
    b1, w2, lr, total = N_IN * N_HIDDEN, (N_IN + 1) * N_HIDDEN, np.float32(0.1), 0.0
    for _ in range(N_CALLS):
        a = forward_by_hand(p, x, hidden)
        error = a - y[0]
        total += np.float32(0.5) * error * error
        delta = error * a * (np.float32(1) - a)
        for j in range(N_HIDDEN):
            back = delta * p[w2 + j] * hidden[j] * (np.float32(1) - hidden[j])
            p[w2 + j] -= lr * delta * hidden[j]
            hidden[j] = back
        p[w2 + N_HIDDEN] -= lr * delta
        for i in range(N_IN):
            for j in range(N_HIDDEN):
                p[i * N_HIDDEN + j] -= lr * x[i] * hidden[j]
        for j in range(N_HIDDEN):
            p[b1 + j] -= lr * hidden[j]
    return total


def use_all(m, x, y, out, dx, g, J):
    """Call every method."""
    m.predict(x, out)
    total = m.predict1(x) + m.loss(x, y) + m.train_step(x, y) + m.gradient(x, y, g) + m.accumulate(x, y)
    m.backpropagate(x, out, dx)
    m.input_gradient(x, y, dx)
    m.jacobian(x, J)
    m.apply_gradient(g)
    m.apply_accumulated()
    m.lr = 0.5 * m.lr
    return total + m.clone().parameters[0]


class FirstCompile:
    """Compilation of a function that calls every method, by a process that has compiled functions before."""

    number, repeat, warmup_time = 1, 3, 0

    def setup(self):
        net, X, Y = one_sample()
        self.m = fastbp.jit.model(net, fastbp.SGD(0.1))
        x, y = X[0].copy(), Y[0].copy()
        J, g = np.empty((1, N_IN), np.float32), np.empty_like(net.parameters)
        self.arguments = self.m, x, y, y.copy(), x.copy(), g, J
        use_all(*self.arguments)  # loads the kernels
        predict(self.m, x, y)

    def time_function(self):
        njit(use_all)(*self.arguments)


class Jit:
    """One thousand predictions or steps of one sample on 8-16-1, and predictions of one neuron."""

    param_names = ["loop"]
    params = [
        [
            *("predict", "predict, by hand", "predict, float64", "predict, 1-1"),
            *("train", "train, by hand", "train, float64", "train, Trainer.fit"),
        ]
    ]

    def setup(self, loop):
        net, X, Y = one_sample()
        if loop == "predict, 1-1":
            net, X = fastbp.Network([1, 1], activations="identity", seed=0), X[:, :1]
        elif "float64" in loop:
            net, X, Y = one_sample("float64")
        x, y, hidden = X[0].copy(), Y[0].copy(), np.empty(N_HIDDEN, np.float32)
        if loop == "train, Trainer.fit":
            X, Y = np.repeat(X, N_CALLS, axis=0), np.repeat(Y, N_CALLS, axis=0)
            trainer = fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=1, shuffle=False)
            self.run = lambda: trainer.fit(X, Y, progress=False)
        elif "by hand" in loop:
            function = train_by_hand if "train" in loop else predict_by_hand
            self.run = lambda: function(net.parameters, x, y, hidden)
        else:
            m, function = fastbp.jit.model(net, fastbp.SGD(0.1)), train if "train" in loop else predict
            self.run = lambda: function(m, x, y)
        self.run()

    def time_loop(self, loop):
        self.run()
