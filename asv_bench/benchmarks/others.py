"""fastbp against other libraries that are installed, over interleaved runs in one process."""

import functools
import importlib
import statistics
import subprocess
import sys
import timeit
import warnings
from itertools import pairwise

import numpy as np

import fastbp

from .training import CASES, one_sample, seconds

CALL_SECONDS = 0.25  # of each call that is timed


def _module(name):
    """Import another library; without it asv skips the benchmark."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise NotImplementedError(f"{name} is not installed") from None


def _jax_trainer(sizes, batch_size, X, Y, rule):
    """Return run(epochs) by lax.scan and optax, and the epochs of one call: many if an epoch is one step."""
    jax, optax = _module("jax"), _module("optax")
    jnp = jax.numpy
    parameters = [
        (jax.random.normal(jax.random.key(i), (m, n)) / np.sqrt(m), jnp.zeros(n))
        for i, (m, n) in enumerate(pairwise(sizes))
    ]
    data, targets, n_steps, n = jnp.asarray(X), jnp.asarray(Y), len(X) // batch_size, len(X)
    repeats = 5000 if n_steps == 1 else 1
    rule = optax.sgd(0.1) if rule == "sgd" else optax.adam(1e-3)

    def loss(parameters, x, y):
        for W, b in parameters:
            x = jax.nn.sigmoid(x @ W + b)
        return 0.5 * ((x - y) ** 2).sum(1).mean()

    def step(carry, rows):
        parameters, state = carry
        gradient = jax.grad(loss)(parameters, data[rows], targets[rows])
        updates, state = rule.update(gradient, state)
        return (optax.apply_updates(parameters, updates), state), None

    @jax.jit
    def epoch(carry, seed):
        rows = jax.random.permutation(jax.random.key(seed), n)[: n_steps * batch_size].reshape(n_steps, batch_size)
        return jax.lax.scan(step, carry, jnp.tile(rows, (repeats, 1)))[0]

    carry, calls = (parameters, rule.init(parameters)), 0

    def run(epochs):
        nonlocal carry, calls
        for _ in range(max(1, epochs // repeats)):
            carry, calls = epoch(carry, calls), calls + 1
        jax.block_until_ready(carry)

    return run, repeats


def _per_unit(run, unit):
    """Return how many units of work take about CALL_SECONDS, after two calls to compile and load."""
    for _ in range(2):
        run(unit)
    return unit * max(1, round(CALL_SECONDS / min(seconds(run, unit) for _ in range(3))))


def _repeated(call):
    def run(n):
        for _ in range(n):
            call()

    return run


class AgainstJax:
    """Time of an epoch in jax and optax over that in fastbp, in calls of a quarter of a second."""

    param_names = ["case", "rule"]
    params = [list(CASES), ["sgd", "adam"]]
    unit = "time over fastbp"

    def setup(self, case, rule):
        sizes, batch_size, n_samples, _ = CASES[case]
        rng = np.random.default_rng(0)
        X = rng.standard_normal((n_samples, sizes[0])).astype(np.float32)
        Y = rng.random((n_samples, sizes[-1])).astype(np.float32)
        self.jax, repeats = _jax_trainer(sizes, batch_size, X, Y, rule)
        net = fastbp.Network(sizes, activations="sigmoid", loss="squared_error", dtype="float32", seed=0)
        optimizer = fastbp.SGD(0.1) if rule == "sgd" else fastbp.Adam(1e-3)
        trainer = fastbp.Trainer(net, optimizer, batch_size=batch_size, seed=0)
        self.ours = lambda epochs: trainer.fit(X, Y, epochs=epochs, progress=False)
        self.epochs, self.jax_epochs = _per_unit(self.ours, repeats), _per_unit(self.jax, repeats)

    def track_speed_up(self, case, rule):
        ratios = [
            seconds(self.jax, self.jax_epochs) / self.jax_epochs * self.epochs / seconds(self.ours, self.epochs)
            for _ in range(7)
        ]
        return statistics.median(ratios)


def _houses():
    """Skewed features and a nonlinear target that is cut off above, as of the 20,640 houses of California."""
    rng = np.random.default_rng(0)
    X = np.exp(rng.normal(size=(20_640, 8)) * np.linspace(0.2, 1, 8))
    return X, np.minimum(X[:, 0] * np.sqrt(X[:, 7]) + np.cos(X[:, 1]) + 0.3 * rng.normal(size=len(X)), 5)


def _table(name):
    """Samples and targets of a benchmark of estimators, standardized, and the kind of estimator."""
    datasets = _module("sklearn.datasets")
    makers = {
        "friedman1": lambda: datasets.make_friedman1(2000, noise=1, random_state=0),
        "houses": _houses,
        "100,000 rows": lambda: datasets.make_classification(100_000, 20, n_informative=10, random_state=0),
    }
    X, y = makers[name]() if name in makers else getattr(datasets, f"load_{name}")(return_X_y=True)
    is_regression = name in ("diabetes", "friedman1", "houses")
    return (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-9), y, "MLPRegressor" if is_regression else "MLPClassifier"


class EstimatorAgainstScikitLearn:
    """Time in which scikit-learn's MLP fits, or predicts all samples or one, over that of the estimator of fastbp."""

    param_names = ["data", "dtype", "method"]
    params = [
        ["iris", "wine", "breast_cancer", "digits", "diabetes", "friedman1", "houses", "100,000 rows"],
        ["float64", "float32"],
        ["fit", "predict", "predict one"],
    ]
    unit = "time over fastbp"
    timeout = 600

    def setup(self, data, dtype, method):
        X, y, kind = _table(data)
        X, estimators = X.astype(dtype), importlib.import_module("fastbp.estimators")
        max_iter = 1 if len(X) > 10_000 else 50
        self.calls = []
        for module in (estimators, _module("sklearn.neural_network")):
            estimator = getattr(module, kind)(max_iter=max_iter, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                estimator.fit(X, y)  # compiles
            call = {
                "fit": functools.partial(estimator.fit, X, y),
                "predict": functools.partial(estimator.predict, X),
                "predict one": functools.partial(estimator.predict, X[:1]),
            }
            self.calls.append(call[method])
        errors = [np.abs(call.func.__self__.predict(X) - y).mean() for call in self.calls]
        np.testing.assert_allclose(*errors, rtol=0.02, atol=0.02)

    def track_speed_up(self, data, dtype, method):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runs = [_repeated(call) for call in self.calls]
            n = [_per_unit(run, 1) for run in runs]
            return statistics.median(
                1 / (seconds(runs[0], n[0]) / n[0] / (seconds(runs[1], n[1]) / n[1])) for _ in range(3)
            )


class EstimatorImport:
    """Time in which a process imports scikit-learn's MLPs over that in which it imports the estimators of fastbp."""

    unit = "time over fastbp"

    def track_ratio(self):
        _module("sklearn")
        times = []
        for module in ("fastbp.estimators", "sklearn.neural_network"):
            command = [sys.executable, "-c", f"import {module}"]
            subprocess.run(command, check=True)  # compiles its bytecode
            times.append(min(timeit.repeat(functools.partial(subprocess.run, command, check=True), number=1, repeat=5)))
        return times[1] / times[0]


def _jax_predictor(parameters):
    jax = _module("jax")
    layers = [(jax.numpy.asarray(W), jax.numpy.asarray(b)) for W, b in parameters]

    @jax.jit
    def forward(x):
        for W, b in layers:
            x = jax.nn.sigmoid(x @ W + b)
        return x

    return lambda X: np.asarray(forward(X))


def _torch_predictor(parameters):
    torch = _module("torch")
    modules = []
    for W, b in parameters:
        linear = torch.nn.Linear(*W.shape)
        with torch.no_grad():
            linear.weight[:], linear.bias[:] = torch.from_numpy(W.T.copy()), torch.from_numpy(b.copy())
        modules += [linear, torch.nn.Sigmoid()]
    network = torch.nn.Sequential(*modules)

    def predict(X):
        with torch.inference_mode():
            return network(torch.from_numpy(X)).numpy()

    return predict


def _sklearn_predictor(parameters):
    network = _module("sklearn.neural_network").MLPRegressor(
        hidden_layer_sizes=(parameters[0][0].shape[1],), activation="logistic"
    )
    n_in, n_out = parameters[0][0].shape[0], parameters[-1][0].shape[1]
    rng = np.random.default_rng(0)
    network.partial_fit(rng.random((20, n_in), np.float32), rng.random((20, n_out), np.float32))
    network.coefs_, network.intercepts_ = [W for W, _ in parameters], [b for _, b in parameters]
    return network.predict


PREDICTORS = {"jax": _jax_predictor, "torch": _torch_predictor, "sklearn": _sklearn_predictor}


class PredictAgainst:
    """Time of a prediction in another library over that in fastbp, from NumPy to NumPy."""

    param_names = ["case", "samples", "peer"]
    params = [["online", "digits", "mnist"], [1, 100, 100_000], list(PREDICTORS)]
    unit = "time over fastbp"

    def setup(self, case, samples, peer):
        sizes = CASES[case][0]
        net = fastbp.Network(sizes, activations="sigmoid", loss="squared_error", dtype="float32", seed=0)
        X = np.random.default_rng(0).standard_normal((samples, sizes[0])).astype(np.float32)
        theirs = PREDICTORS[peer](list(zip(net.weights, net.biases, strict=True)))
        if peer != "sklearn":  # whose output is linear
            np.testing.assert_allclose(theirs(X[:9]), net.predict(X[:9]), rtol=1e-3, atol=1e-5)
        self.runs = [_repeated(lambda: net.predict(X)), _repeated(lambda: theirs(X))]
        self.n = [_per_unit(run, 1) for run in self.runs]

    def track_speed_up(self, case, samples, peer):
        def each(which):
            return seconds(self.runs[which], self.n[which]) / self.n[which]

        return statistics.median(1 / (each(0) / each(1)) for _ in range(7))


def _jax_step(parameters, X, Y):
    jax = _module("jax")
    jnp = jax.numpy

    def loss(parameters, x, y):
        for W, b in parameters:
            x = jax.nn.sigmoid(x @ W + b)
        return 0.5 * ((x - y) ** 2).sum(1).mean()

    @jax.jit
    def update(parameters, x, y):
        value, gradient = jax.value_and_grad(loss)(parameters, x, y)
        return jax.tree.map(lambda p, g: p - 0.1 * g, parameters, gradient), value

    parameters = [(jnp.asarray(W), jnp.asarray(b)) for W, b in parameters]

    def step():
        nonlocal parameters
        parameters, value = update(parameters, X, Y)
        return float(value)

    return step


def _torch_step(parameters, X, Y):
    torch = _module("torch")
    layers = [torch.nn.Linear(*W.shape) for W, _ in parameters]
    with torch.no_grad():
        for layer, (W, b) in zip(layers, parameters, strict=True):
            layer.weight[:], layer.bias[:] = torch.from_numpy(W.T.copy()), torch.from_numpy(b.copy())
    network = torch.nn.Sequential(*[module for layer in layers for module in (layer, torch.nn.Sigmoid())])
    rule = torch.optim.SGD(network.parameters(), lr=0.1)

    def step():
        value = 0.5 * torch.nn.functional.mse_loss(network(torch.from_numpy(X)), torch.from_numpy(Y))
        rule.zero_grad()
        value.backward()
        rule.step()
        return value.item()

    return step


class StepAgainst:
    """Time of one step on one sample of 8-16-1 in another library over that in fastbp, from NumPy to Python."""

    param_names = ["peer"]
    params = [["jax", "torch"]]
    unit = "time over fastbp"

    def setup(self, peer):
        net, X, Y = one_sample()
        parameters = [(W.copy(), b.copy()) for W, b in zip(net.weights, net.biases, strict=True)]
        theirs = {"jax": _jax_step, "torch": _torch_step}[peer](parameters, X, Y)
        trainer = fastbp.Trainer(net, fastbp.SGD(0.1), seed=0)
        for _ in range(3):
            np.testing.assert_allclose(theirs(), trainer.step(X, Y), rtol=1e-4)
        self.runs = [_repeated(lambda: trainer.step(X, Y)), _repeated(theirs)]
        self.n = [_per_unit(run, 1) for run in self.runs]

    def track_speed_up(self, peer):
        def each(which):
            return seconds(self.runs[which], self.n[which]) / self.n[which]

        return statistics.median(1 / (each(0) / each(1)) for _ in range(7))
