"""Online learning on a drifting stream, one sample at a time, beside a network that is refitted in batches.

    python -m fastbp.examples.drift
    python -m fastbp.examples.drift --peers --plot errors.png

What is to be predicted changes all the time.  Each sample is predicted first and learnt then, and the mean of those
errors counts (prequential error; Dawid 1984).  The baseline fits its network to the latest samples every so often, and
predicts with it until the next time.
"""

import math
import time

import numpy as np
from numba import njit

import fastbp

from .options import axes, parse, show
from .peers import ratios

N_INPUTS = 8


@njit(cache=True)
def sample(t, period, rng, x, y):
    """Draw the sample of time t: a sine and a product of sums whose weights turn once in a period."""
    turn = 2 * math.pi * t / period
    first = second = 0.0
    for i in range(N_INPUTS):
        x[i] = rng.uniform(-1, 1)
        first += x[i] * math.cos(turn + i)
        second += x[i] * math.sin(2 * turn + i)
    y[0] = math.sin(first) + 0.3 * first * second + 0.05 * rng.normal()


@njit(cache=True)
def learn_online(m, n_samples, period, rng, errors):
    """Predict and learn one sample after the other; `errors` (n_samples,) receives the squared errors."""
    dtype = m.parameters.dtype
    x, y = np.empty(N_INPUTS, dtype), np.empty(1, dtype)
    for t in range(n_samples):
        sample(t, period, rng, x, y)
        error = m.predict1(x) - y[0]
        errors[t] = error * error
        m.train_step(x, y)


@njit(cache=True)
def draw(n_samples, period, rng):
    """Return the samples and targets that `learn_online` sees."""
    X, Y = np.empty((n_samples, N_INPUTS), np.float32), np.empty((n_samples, 1), np.float32)
    for t in range(n_samples):
        sample(t, period, rng, X[t], Y[t])
    return X, Y


def refit(X, Y, every, window, epochs, seed):
    """Return the squared errors of a network that is fitted anew to the latest `window` samples every so often."""
    net, errors = network(seed), np.empty(len(X))
    for start in range(0, len(X), every):
        now, latest = slice(start, start + every), slice(max(0, start - window), start)
        if start:
            net = network(seed)
            trainer = fastbp.Trainer(net, fastbp.Adam(3e-3), batch_size=16, seed=seed)
            trainer.fit(X[latest], Y[latest], epochs=epochs, progress=False)
        errors[now] = (net.predict(X[now]) - Y[now])[:, 0] ** 2
    return errors


OPTIMIZER = fastbp.SGD(0.05)


def network(seed):
    """Return the network before it learns."""
    return fastbp.Network([N_INPUTS, 32, 1], activations=["tanh", "identity"], seed=seed)


def main(arguments=None):
    """Learn online, and in batches; return the mean squared errors of both."""
    options = parse(__doc__, arguments)
    n_samples = 3_000 if options.short else 200_000
    period, every, epochs = 50_000, 1_000, 20
    m, errors = fastbp.jit.model(network(options.seed), OPTIMIZER), np.empty(n_samples)
    learn_online(m.clone(), 1, period, np.random.default_rng(options.seed), errors)  # compiles
    start = time.perf_counter()
    learn_online(m, n_samples, period, np.random.default_rng(options.seed), errors)
    seconds = time.perf_counter() - start
    X, Y = draw(n_samples, period, np.random.default_rng(options.seed))
    start = time.perf_counter()
    baseline = refit(X, Y, every, 2 * every, epochs, options.seed)
    refit_seconds = time.perf_counter() - start
    late = slice(n_samples // 10, None)  # without the start
    show(
        [
            ("samples", f"{n_samples:,}; what is learnt turns once in {period:,}"),
            (
                "mean squared error, online",
                f"{errors[late].mean():.4f}, {seconds:.2f} s, {1e9 * seconds / n_samples:.0f} ns a sample",
            ),
            (
                "mean squared error, refitted",
                f"{baseline[late].mean():.4f}, {refit_seconds:.2f} s, every {every:,} samples",
            ),
            ("variance of the targets", f"{Y[late].var():.4f}, of which noise 0.0025"),
        ]
    )
    if options.plot:
        ax, save = axes(options.plot)
        n = n_samples // 100
        for name, values in (("online", errors), ("refitted", baseline)):
            ax.plot(np.arange(100) * n, values[: 100 * n].reshape(100, n).mean(axis=1), label=name)
        ax.set(
            xlabel="sample", ylabel="mean squared error", yscale="log", title="Prequential error on a drifting stream"
        )
        ax.legend()
        save()
    if options.peers:
        few = np.empty(2_000)

        def run(model):  # the loop as plain Python
            learn_online.py_func(model, 200, period, np.random.default_rng(options.seed), few)
            return 200

        own = fastbp.jit.model(network(options.seed), OPTIMIZER)

        def run_compiled():
            learn_online(own, 2_000, period, np.random.default_rng(options.seed), few)
            return 2_000

        ratios(network(options.seed), OPTIMIZER, run_compiled, run)
    return errors[late].mean(), baseline[late].mean()


if __name__ == "__main__":
    main()
