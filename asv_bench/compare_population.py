#!/usr/bin/env python3
"""Train many networks at once with fastbp.Population and by the ways a user would pick instead, in one run.

    pip install jax scikit-learn torch            # whichever are missing are left out
    python compare_population.py                  # four shapes, all peers
    python compare_population.py --shape 256:20-40-3:16 --peers jax
    python compare_population.py --peers-only     # without fastbp.Population
    taskset -c 0 python compare_population.py     # all of them on one core

All networks of a shape train by plain SGD, each at its own learning rate, on the same rows in the same order.  One
output: identity and half squared error; several: softmax and cross-entropy.  Before it is timed, each way trains the
same networks from the same parameters on rows in a fixed order, and its losses must be those of NumPy in float64.

fastbp draws a new order in each epoch, which counts as its time; its peers get theirs for nothing (they go through 16
orders that were drawn before; scikit-learn shuffles).  fastbp and a peer run in turn, A B A B ..., and the ratio is
taken pair by pair, so that a machine whose speed drifts does not decide the result.  All are warm.

JAX compiles one call that trains all networks for any number of epochs, its parameters donated.  It is written in three
forms, over one device or as many as there are cores, and in blocks of networks that fit caches; the fastest in short
trials is timed, without the time to compile it.  Not faster where tried: lax.scan instead of fori_loop, unrolled steps,
batches gathered before the loop, einsum over the networks in the first layer.

PyTorch takes one thread or all, whichever is faster in a trial.  Loops over networks (PyTorch, scikit-learn) are
measured on a few of them and extrapolated.
"""

import argparse
import os
import platform
import statistics
import time
import warnings
from functools import partial
from importlib import metadata
from itertools import pairwise
from typing import NamedTuple

import numpy as np

import fastbp

SHAPES = ["1024:2-2-1:4", "1024:8-16-1:8", "64:64-30-10:10", "16:784-128-10:64"]
N_SAMPLES = {(2, 2, 1): 4, (784, 128, 10): 6400}  # of others about 2000; those of 2-2-1 are XOR's
N_ORDERS = 16  # of the peers
MIN_SECONDS, MAX_SECONDS = 0.3, 2.0  # of what is timed
TRIAL_SECONDS = 0.02  # of a form of JAX
BLOCK_BYTES = np.inf, 2**19, 2**17, 2**15  # of the parameters of a block of networks in JAX
MAX_LANES_SIZE = 16  # of a layer in the form "lanes" of JAX, which writes sums out: wider ones take minutes to compile
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # of the losses, relative to those of NumPy in float64
N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Problem(NamedTuple):
    """Networks and what they train on; Y is (n_samples, 1) numbers, or (n_samples,) labels if outputs are several."""

    sizes: tuple
    batch_size: int
    X: np.ndarray
    Y: np.ndarray
    lr: np.ndarray  # (n_networks,)
    layers: list  # of W (n_networks, n_in, n_out) and b (n_networks, n_out)
    activation: str

    @property
    def n_networks(self):
        return len(self.lr)

    @property
    def n_batches(self):
        return len(self.X) // self.batch_size

    @property
    def classifies(self):
        return self.sizes[-1] > 1

    @property
    def settings(self):
        """Arguments of Network and Population."""
        return {
            "activations": [self.activation] * (len(self.sizes) - 2) + ["softmax" if self.classifies else "identity"],
            "loss": "cross_entropy" if self.classifies else "squared_error",
            "dtype": self.X.dtype.name,
        }

    def targets(self):
        """(n_samples, n_out): numbers, or 1 in the column of the label."""
        return np.eye(self.sizes[-1], dtype=self.X.dtype)[self.Y] if self.classifies else self.Y

    def orders(self, shuffle):
        """(n_orders, n_batches, batch_size) rows."""
        rng = np.random.default_rng(1)
        orders = [rng.permutation(len(self.X)) for _ in range(N_ORDERS)] if shuffle else [np.arange(len(self.X))]
        return np.array(orders).reshape(len(orders), self.n_batches, self.batch_size)

    def networks(self, n):
        """The first n of them."""
        return self._replace(lr=self.lr[:n], layers=[(W[:n], b[:n]) for W, b in self.layers])

    def rows(self, n):
        return self._replace(X=self.X[:n], Y=self.Y[:n])


def make_problem(n_networks, sizes, batch_size, activation, dtype):
    rng = np.random.default_rng(0)
    n = max(1, N_SAMPLES.get(sizes, 2000) // batch_size) * batch_size
    if sizes == (2, 2, 1):
        X = np.resize(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype), (n, 2))
        Y = (X[:, :1] != X[:, 1:]).astype(dtype)
    else:
        X = rng.standard_normal((n, sizes[0])).astype(dtype)
        scores = X @ rng.standard_normal((sizes[0], sizes[-1])) / np.sqrt(sizes[0])
        Y = scores.argmax(axis=1) if sizes[-1] > 1 else np.sin(scores).astype(dtype)
    problem = Problem(sizes, batch_size, X, Y, np.geomspace(0.05, 0.2, n_networks).astype(dtype), [], activation)
    seeds = np.random.SeedSequence(0).spawn(n_networks)
    networks = [fastbp.Network(sizes, seed=seed, **problem.settings) for seed in seeds]  # as in the Population
    return problem._replace(layers=stacked(networks))


def stacked(networks):
    """[(W (n_networks, n_in, n_out), b (n_networks, n_out)), ...]."""
    layers = zip(*(zip(net.weights, net.biases, strict=True) for net in networks), strict=True)
    return [tuple(np.stack(arrays) for arrays in zip(*layer, strict=True)) for layer in layers]


# What f'(z) is, by the activation a = f(z), in NumPy and JAX.
DERIVATIVES = {"sigmoid": lambda a: a * (1 - a), "tanh": lambda a: 1 - a * a, "relu": lambda a: 1.0 * (a > 0)}
FUNCTIONS = {"sigmoid": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def losses(problem, layers):
    """Mean loss of each network over all rows, in float64."""
    result, f = [], FUNCTIONS[problem.activation]
    for i in range(len(layers[0][0])):
        a = problem.X.astype(np.float64)
        for l, (W, b) in enumerate(layers):
            z = a @ W[i].astype(np.float64) + b[i]
            a = f(z) if l < len(layers) - 1 else softmax(z) if problem.classifies else z
        if problem.classifies:
            result.append(-np.log(a[np.arange(len(a)), problem.Y]).mean())
        else:
            result.append(0.5 * ((a - problem.Y) ** 2).sum(axis=1).mean())
    return np.array(result)


# Each maker takes a problem and whether rows are shuffled, and returns what trains these networks.


class Runner(NamedTuple):
    """run(epochs) trains on, and returns when the work is done; layers() are the parameters as in Problem."""

    run: object
    layers: object
    compile_seconds: float = 0.0


def numpy_runner(problem, shuffle):
    """All networks by matmul, in float64: what the others are checked against."""
    layers = [(W.astype(np.float64), b.astype(np.float64)) for W, b in problem.layers]
    X, Y = problem.X.astype(np.float64), problem.targets().astype(np.float64)
    lr = problem.lr.astype(np.float64)[:, None, None] / problem.batch_size
    f, df = FUNCTIONS[problem.activation], DERIVATIVES[problem.activation]

    def run(epochs):
        orders = problem.orders(shuffle)
        for epoch in range(epochs):
            for rows in orders[epoch % len(orders)]:
                A = [X[rows]]
                for l, (W, b) in enumerate(layers):
                    z = A[-1] @ W + b[:, None]
                    A.append(f(z) if l < len(layers) - 1 else softmax(z) if problem.classifies else z)
                delta = A[-1] - Y[rows]
                for l in reversed(range(len(layers))):
                    W, b = layers[l]
                    dW, db = A[l].swapaxes(-1, -2) @ delta, delta.sum(axis=1)
                    delta = delta @ W.swapaxes(1, 2) * df(A[l])
                    W -= lr * dW
                    b -= lr[:, 0] * db

    return Runner(run, lambda: layers)


def fastbp_runner(problem, shuffle, threads=None):
    pop = fastbp.Population(list(problem.sizes), n_networks=problem.n_networks, seed=0, **problem.settings)
    rule = fastbp.SGD(lr=problem.lr)
    trainer = fastbp.Trainer(pop, rule, batch_size=problem.batch_size, shuffle=shuffle, seed=0, threads=threads)
    return Runner(
        lambda epochs: trainer.fit(problem.X, problem.Y, epochs=epochs, progress=False),
        lambda: stacked([pop.network(i) for i in range(len(pop))]),
    )


def jax_vmap(problem):
    """The gradient of one network, mapped over the networks: what the documentation of JAX shows."""
    import jax

    f = getattr(jax.nn, problem.activation)

    def loss(layers, x, y):
        for W, b in layers[:-1]:
            x = f(x @ W + b)
        z = x @ layers[-1][0] + layers[-1][1]
        if problem.classifies:
            return -(y * jax.nn.log_softmax(z)).sum(1).mean()
        return 0.5 * ((z - y) ** 2).sum(1).mean()

    def step(layers, lr, x, y):
        return jax.tree.map(lambda p, g: p - lr * g, layers, jax.grad(loss)(layers, x, y))

    return lambda layers: layers, jax.vmap(step, in_axes=(0, 0, None, None)), lambda layers: layers


def jax_shared(problem):
    """Backpropagation written out.  All networks read the same rows: their first layers are one matrix product."""
    import jax
    import jax.numpy as jnp

    f, df = getattr(jax.nn, problem.activation), DERIVATIVES[problem.activation]

    def first_axes(layers):  # W of the first layer is (n_in, n_networks, n_out); its own inverse
        (W, b), *rest = layers
        return [(W.swapaxes(0, 1), b), *rest]

    def step(layers, lr, x, y):
        (W, b), *rest = layers
        A = [(x @ W.reshape(len(W), -1)).reshape(len(x), *b.shape) + b]  # (batch_size, n_networks, n_out)
        for V, c in rest:
            A[-1] = f(A[-1])
            A.append(jnp.einsum("bnm,nmh->bnh", A[-1], V) + c)
        delta = ((jax.nn.softmax(A[-1]) if problem.classifies else A[-1]) - y[:, None]) * (lr / len(x))[:, None]
        new = []
        for (V, c), a in zip(rest[::-1], A[-2::-1], strict=True):
            new.append((V - jnp.einsum("bnm,bnh->nmh", a, delta), c - delta.sum(0)))
            delta = jnp.einsum("bnh,nmh->bnm", delta, V) * df(a)
        dW = (x.T @ delta.reshape(len(x), -1)).reshape(W.shape)
        return [(W - dW, b - delta.sum(0)), *new[::-1]]

    return first_axes, step, first_axes


def jax_lanes(problem):
    """Networks in the last axis, one a lane of the vectors, and sums over neurons and rows written out."""
    import jax

    f, df = getattr(jax.nn, problem.activation), DERIVATIVES[problem.activation]

    def step(layers, lr, x, y):
        A = [x[:, :, None]]  # (batch_size, n_out, n_networks)
        for l, (W, b) in enumerate(layers):
            z = b + sum(A[-1][:, k, None] * W[k] for k in range(len(W)))
            last = jax.nn.softmax(z, axis=1) if problem.classifies else z
            A.append(f(z) if l < len(layers) - 1 else last)
        delta, new = (A[-1] - y[:, :, None]) * (lr / len(x)), []
        for (W, b), a in zip(layers[::-1], A[-2::-1], strict=True):
            dW = sum(a[s, :, None] * delta[s] for s in range(len(x)))
            new.append((W - dW, b - delta.sum(0)))
            delta = sum(delta[:, None, k] * W[:, k] for k in range(W.shape[1])) * df(a)
        return new[::-1]

    return (
        lambda layers: [(W.transpose(1, 2, 0), b.T) for W, b in layers],
        step,
        lambda layers: [(W.transpose(2, 0, 1), b.T) for W, b in layers],
    )


JAX_FORMS = {"vmap": jax_vmap, "shared": jax_shared, "lanes": jax_lanes}


def jax_runner(problem, shuffle, form="vmap", n_devices=1, n_blocks=1):
    """One compiled call for all steps; blocks of networks of a device train one after the other."""
    import jax
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    pack, step, unpack = JAX_FORMS[form](problem)

    def train(layers, lr, X, Y, orders, n_steps):
        def one(i, layers):
            rows = orders[i % len(orders)]
            return step(layers, lr, X[rows], Y[rows])

        return jax.lax.fori_loop(0, n_steps, one, layers)

    def train_blocks(layers, lr, *data):
        if n_blocks == 1:
            return jax.tree.map(lambda p: p[None], train(jax.tree.map(lambda p: p[0], layers), lr[0], *data))
        return jax.lax.map(lambda block: train(*block, *data), (layers, lr))

    mesh = Mesh(np.array(jax.devices()[:n_devices]), ("device",))
    by_device, everywhere = P("device"), P()
    blocks = np.split(np.arange(problem.n_networks), n_devices * n_blocks)
    layers = [pack([(W[block], b[block]) for W, b in problem.layers]) for block in blocks]
    layers = jax.tree.map(lambda *arrays: np.stack(arrays), *layers)
    orders = problem.orders(shuffle).reshape(-1, problem.batch_size).astype(np.int32)
    layers, lr = jax.device_put(
        (layers, np.stack([problem.lr[block] for block in blocks])), NamedSharding(mesh, by_device)
    )
    data = jax.device_put((problem.X, problem.targets(), orders), NamedSharding(mesh, everywhere))
    call = jax.shard_map(
        train_blocks, mesh=mesh, in_specs=(by_device,) * 2 + (everywhere,) * 4, out_specs=by_device, check_vma=False
    )
    start = time.perf_counter()
    call = jax.jit(call, donate_argnums=0).lower(layers, lr, *data, np.int32(1)).compile()
    compile_seconds = time.perf_counter() - start

    def run(epochs):
        nonlocal layers
        layers = jax.block_until_ready(call(layers, lr, *data, np.int32(epochs * problem.n_batches)))

    def results():
        parts = jax.tree.map(np.asarray, layers)
        parts = [unpack(jax.tree.map(lambda p, k=k: p[k], parts)) for k in range(len(blocks))]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    return Runner(run, results, compile_seconds)


def jax_forms(problem):
    """Arguments of jax_runner that are worth a trial."""
    network_bytes = problem.X.itemsize * sum((m + 1) * n for m, n in pairwise(problem.sizes))
    for form in JAX_FORMS:
        if form == "lanes" and max(problem.sizes) > MAX_LANES_SIZE:
            continue
        for n_devices in sorted({1, N_CORES}):
            each, rest = divmod(problem.n_networks, n_devices)
            if rest or not each:
                continue
            divisors = [n for n in range(1, each + 1) if each % n == 0]
            for n_blocks in sorted(
                {next((n for n in divisors if each // n * network_bytes <= limit), each) for limit in BLOCK_BYTES}
            ):
                yield {"form": form, "n_devices": n_devices, "n_blocks": n_blocks}


def fastest_jax(problem, verbose):
    """The fastest of the forms: a short trial of each, then the best five in turn."""
    trials = []
    for form in jax_forms(problem):
        run, epochs = jax_runner(problem, True, **form).run, 1
        while (once := seconds(run, epochs)) < TRIAL_SECONDS:
            epochs *= 2
        trials.append(([once / epochs, seconds(run, epochs) / epochs], run, epochs, form))
    trials.sort(key=lambda trial: min(trial[0]))
    for _ in range(7):
        for times, run, epochs, _ in trials[:5]:
            times.append(seconds(run, epochs) / epochs)
    trials.sort(key=lambda trial: min(trial[0]))
    for times, _, _, form in trials if verbose else []:
        print(f"    {min(times) / problem.n_batches * 1e6:9.1f} us a step, JAX in the form {form}", flush=True)
    return trials[0][3]


def set_torch_threads(runner):
    """Take one thread or all, whichever is faster in a short trial."""
    import torch

    times = []
    for threads in sorted({1, N_CORES}):
        torch.set_num_threads(threads)
        runner.run(1)
        times.append((min(seconds(runner.run, 1) for _ in range(2)), threads))
    torch.set_num_threads(min(times)[1])
    return min(times)[1]


def torch_functions(problem):
    import torch

    torch.set_num_threads(1)  # until set_torch_threads chooses

    def loss(z, labels_or_targets):
        if problem.classifies:
            return torch.nn.functional.cross_entropy(z, labels_or_targets)
        return 0.5 * ((z - labels_or_targets) ** 2).sum(1).mean()

    return getattr(torch, problem.activation), loss


def torch_steps(problem, shuffle, step):
    """run(epochs) that calls step(rows of X, rows of Y)."""
    import torch

    X, Y, orders = torch.from_numpy(problem.X), torch.from_numpy(problem.Y), torch.from_numpy(problem.orders(shuffle))

    def run(epochs):
        for epoch in range(epochs):
            for rows in orders[epoch % len(orders)]:
                step(X[rows], Y[rows])

    return run


def torch_stacked_runner(problem, shuffle):
    """All networks as batched matrix products, their gradients by autograd of the sum of their losses."""
    import torch

    f, loss = torch_functions(problem)
    layers = [
        (torch.tensor(W, requires_grad=True), torch.tensor(b[:, None], requires_grad=True)) for W, b in problem.layers
    ]
    parameters = [p for layer in layers for p in layer]
    n, lr = problem.n_networks, torch.from_numpy(problem.lr)[:, None, None]

    def step(x, y):
        a = x.expand(n, *x.shape)
        for l, (W, b) in enumerate(layers):
            z = torch.baddbmm(b, a, W)
            a = f(z) if l < len(layers) - 1 else z
        mean = loss(a.flatten(0, 1), y.expand(n, *y.shape).flatten(0, 1))
        gradients = torch.autograd.grad(mean * n, parameters)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p.addcmul_(lr, g, value=-1)

    return Runner(
        torch_steps(problem, shuffle, step), lambda: [(W.detach().numpy(), b.detach().numpy()[:, 0]) for W, b in layers]
    )


def torch_func_runner(problem, shuffle):
    """torch.func: vmap of the gradient of one network."""
    import torch

    f, loss = torch_functions(problem)
    layers = [(torch.tensor(W), torch.tensor(b)) for W, b in problem.layers]
    lr = torch.from_numpy(problem.lr)

    def loss_of_one(layers, x, y):
        for W, b in layers[:-1]:
            x = f(x @ W + b)
        return loss(x @ layers[-1][0] + layers[-1][1], y)

    gradient = torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(0, None, None))

    def step(x, y):
        for (W, b), (dW, db) in zip(layers, gradient(layers, x, y), strict=True):
            W.addcmul_(lr[:, None, None], dW, value=-1)
            b.addcmul_(lr[:, None], db, value=-1)

    return Runner(torch_steps(problem, shuffle, step), lambda: [(W.numpy(), b.numpy()) for W, b in layers])


def torch_loop_runner(problem, shuffle):
    """One network after the other, as most PyTorch code is written."""
    import torch

    modules = {"sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
    loss = torch_functions(problem)[1]
    linears, runs = [], []
    for i in range(problem.n_networks):
        linear = [torch.nn.Linear(m, n, dtype=torch.from_numpy(problem.X).dtype) for m, n in pairwise(problem.sizes)]
        with torch.no_grad():
            for layer, (W, b) in zip(linear, problem.layers, strict=True):
                layer.weight[:], layer.bias[:] = torch.tensor(W[i].T), torch.tensor(b[i])
        net = torch.nn.Sequential(*[m for layer in linear for m in (layer, modules[problem.activation]())][:-1])
        rule = torch.optim.SGD(net.parameters(), lr=float(problem.lr[i]))

        def step(x, y, net=net, rule=rule):
            rule.zero_grad()
            loss(net(x), y).backward()
            rule.step()

        linears.append(linear)
        runs.append(torch_steps(problem, shuffle, step))

    def layers():
        arrays = [[(l.weight.detach().numpy().T, l.bias.detach().numpy()) for l in linear] for linear in linears]
        return [tuple(np.stack(a) for a in zip(*layer, strict=True)) for layer in zip(*arrays, strict=True)]

    return Runner(lambda epochs: [run(epochs) for run in runs], layers)


def sklearn_runner(problem, shuffle):
    """One fit after the other; each goes on from the parameters of the last one."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    if problem.sizes[-1] == 2:
        raise NotImplementedError("scikit-learn has one output for two classes")
    models = []
    X, y = problem.X, problem.Y if problem.classifies else problem.Y[:, 0]
    for i in range(problem.n_networks):
        model = (MLPClassifier if problem.classifies else MLPRegressor)(
            hidden_layer_sizes=problem.sizes[1:-1],
            activation={"sigmoid": "logistic"}.get(problem.activation, problem.activation),
            solver="sgd",
            alpha=0.0,
            batch_size=problem.batch_size,
            learning_rate_init=float(problem.lr[i]),
            momentum=0.0,
            nesterovs_momentum=False,
            shuffle=shuffle,
            tol=0.0,
            n_iter_no_change=10**9,
            warm_start=True,
            random_state=0,
        )
        model.partial_fit(X, y, **({"classes": np.arange(problem.sizes[-1])} if problem.classifies else {}))
        model.coefs_ = [W[i].copy() for W, _ in problem.layers]
        model.intercepts_ = [b[i].copy() for _, b in problem.layers]
        models.append(model)

    def run(epochs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the number of epochs is given
            for model in models:
                model.set_params(max_iter=epochs).fit(X, y)

    def layers():
        n = len(problem.layers)
        return [
            (np.stack([m.coefs_[l] for m in models]), np.stack([m.intercepts_[l] for m in models])) for l in range(n)
        ]

    return Runner(run, layers)


PEERS = {
    "jax": jax_runner,
    "torch-stacked": torch_stacked_runner,
    "torch-func": torch_func_runner,
    "torch": torch_loop_runner,
    "sklearn": sklearn_runner,
}
LOOPS = ("torch", "sklearn")


def seconds(run, *arguments):
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


def check(name, make, problem, tolerance):
    """Largest relative difference of the losses from NumPy's; ends the program if it is too large."""
    problem = problem.rows(40 * problem.batch_size)
    epochs = -(-80 // problem.n_batches)
    reference, runner = numpy_runner(problem, False), make(problem, False)
    reference.run(epochs)
    runner.run(epochs)
    start, expected, found = (
        losses(problem, layers) for layers in (problem.layers, reference.layers(), runner.layers())
    )
    error = np.max(np.abs(found - expected) / expected)
    change = np.min(np.abs(expected - start) / expected)
    if not error <= min(tolerance, change / 10):
        raise SystemExit(
            f"{name} trains something else: its losses after {epochs} epochs differ from those of NumPy in float64 by "
            f"up to {error:.1e} (tolerance {tolerance:.0e}; training changed them by at least {change:.1e})"
        )
    return error


def calibrated(run):
    """Epochs that take between MIN_SECONDS and MAX_SECONDS, or 1."""
    run(1)
    epochs, once = 1, seconds(run, 1)
    while once < MIN_SECONDS / 2:
        epochs *= 2
        once = seconds(run, epochs)
    return max(1, round(epochs * (MIN_SECONDS + MAX_SECONDS) / 3 / once)) if once < MAX_SECONDS else epochs


def in_turn(ours, theirs, rounds):
    """Seconds of an epoch of both, in turn: two lists."""
    epochs = calibrated(ours), calibrated(theirs)
    pairs = [[seconds(run, n) / n for run, n in zip((ours, theirs), epochs, strict=True)] for _ in range(rounds)]
    return tuple(zip(*pairs, strict=True))


def flops_of_step(problem):
    """Multiply-adds x 2 of all networks: forward, weight gradient, and delta for all but the first layer."""
    per_sample = sum(2 * m * n * (3 if l else 2) for l, (m, n) in enumerate(pairwise(problem.sizes)))
    return per_sample * problem.batch_size * problem.n_networks


def row(problem, who, epoch_seconds, ratios, note):
    step = statistics.median(epoch_seconds) / problem.n_batches
    ratio = f"{statistics.median(ratios):.3g}x ({min(ratios):.3g} to {max(ratios):.3g})" if ratios else ""
    shape = f"{problem.n_networks} x {'-'.join(map(str, problem.sizes))}"
    rate = flops_of_step(problem) / step / 1e9
    print(f"| {shape} | {problem.batch_size} | {who} | {step * 1e6:.4g} | {rate:.3g} | {ratio} | {note} |", flush=True)


def compare(problem, chosen):
    """Check and time one shape, and print its rows."""
    tolerance = TOLERANCE[problem.X.dtype.name]
    ours = None
    if not chosen.peers_only:
        difference = check("fastbp", fastbp_runner, problem, tolerance)
        ours, one = (fastbp_runner(problem, True, threads) for threads in (None, 1))
        alone, free = in_turn(one.run, ours.run, chosen.rounds)
        row(problem, "fastbp", free, [1.0], f"losses to {difference:.0e}")
        row(problem, "fastbp, 1 thread", alone, [a / b for a, b in zip(alone, free, strict=True)], "")
    for name in chosen.peers:
        part, note, make = problem, "", PEERS[name]
        try:
            if name in LOOPS:
                part = problem.networks(chosen.measured)
                note = f"; extrapolated from {part.n_networks} networks"
            elif name == "jax":
                form = fastest_jax(problem, chosen.forms)
                make = partial(jax_runner, **form)
            difference = check(name, make, part, tolerance)
        except (ImportError, NotImplementedError) as error:
            print(f"left out: {name} ({error})", flush=True)
            continue
        theirs = make(part, True)
        if name.startswith("torch"):
            note += f"; threads: {set_torch_threads(theirs)}"
        if name == "jax":
            note = f"; {form['form']}, devices: {form['n_devices']}, blocks on each: {form['n_blocks']}"
            note += f"; compiled in {theirs.compile_seconds:.1f} s, not counted"
        if ours:
            a, b = in_turn(ours.run, theirs.run, chosen.rounds)
        else:
            epochs = calibrated(theirs.run)
            a, b = (), [seconds(theirs.run, epochs) / epochs for _ in range(chosen.rounds)]
        b = [t * problem.n_networks / part.n_networks for t in b]
        row(problem, name, b, [y / x for x, y in zip(a, b, strict=False)], f"losses to {difference:.0e}{note}")


def compare_ensemble(chosen, n_networks=16, sizes=(64, 30, 10), batch_size=10):
    """Time of an ensemble over that of one of its networks, on the same rows."""
    problem = make_problem(n_networks, sizes, batch_size, chosen.activation, chosen.dtype)
    for threads in sorted({1, fastbp.get_num_threads()}):
        net = fastbp.Network(sizes, seed=0, **problem.settings)
        alone = fastbp.Trainer(net, fastbp.SGD(lr=0.1), batch_size=batch_size, seed=0, threads=threads)
        a, b = in_turn(
            lambda epochs, fit=alone.fit: fit(problem.X, problem.Y, epochs=epochs, progress=False),
            fastbp_runner(problem, True, threads).run,
            chosen.rounds,
        )
        ratios = [y / x for x, y in zip(a, b, strict=True)]
        print(
            f"{n_networks} x {'-'.join(map(str, sizes))}, threads: {threads}: {statistics.median(ratios):.3g} "
            f"({min(ratios):.3g} to {max(ratios):.3g}) times as long as one network alone",
            flush=True,
        )


def shape(text):
    """Parse N:SIZES:BATCH, such as 1024:8-16-1:8."""
    try:
        n_networks, sizes, batch_size = text.split(":")
        n_networks, batch_size, sizes = int(n_networks), int(batch_size), tuple(map(int, sizes.split("-")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not N:SIZES:BATCH, such as 1024:8-16-1:8") from None
    if len(sizes) < 3 or min(n_networks, batch_size, *sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers must be positive, and at least one layer hidden")
    return n_networks, sizes, batch_size


def names(text):
    if unknown := set(text.split(",")) - {*PEERS}:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not of {', '.join(PEERS)}")
    return text.split(",")


def machine():
    """Name of the processor, its widest vectors, and how busy it is."""
    try:
        with open("/proc/cpuinfo") as file:
            fields = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        vectors = [name for name in ("avx512f", "avx2") if name in fields["flags"].split()]
        name = ", ".join([fields["model name"], f"family {fields['cpu family']} model {fields['model']}", *vectors[:1]])
    except (OSError, KeyError):
        name = platform.processor() or platform.machine()
    return name + (f"; load before the run {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "")


def versions():
    found = []
    for name in ("fastbp", "numpy", "jax", "torch", "scikit-learn"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            pass
    return ", ".join(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=shape, action="append", help="N:SIZES:BATCH, repeatable; default: four shapes")
    parser.add_argument("--peers", type=names, default=list(PEERS), help="comma-separated, of " + ", ".join(PEERS))
    parser.add_argument("--peers-only", action="store_true", help="leave fastbp out")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of each comparison")
    parser.add_argument("--measured", type=int, default=2, help="networks of a loop over networks")
    parser.add_argument("--forms", action="store_true", help="show the trials of all forms of JAX")
    parser.add_argument("--activation", choices=[*FUNCTIONS], default="sigmoid", help="of hidden layers")
    parser.add_argument("--dtype", choices=[*TOLERANCE], default="float32")
    chosen = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={N_CORES}"
    os.environ["JAX_ENABLE_X64"] = str(chosen.dtype == "float64")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    print(machine())
    print(f"{N_CORES} cores; fastbp may use {fastbp.get_num_threads()} threads")
    print(f"{chosen.dtype}, hidden layers {chosen.activation}; {versions()}")
    print(f"losses relative to NumPy's in float64, tolerance {TOLERANCE[chosen.dtype]:.0e}\n")
    print("| networks | batch | | us, a step of all | GFLOP/s | time over fastbp | |")
    print("|---|---:|---|---:|---:|---:|---|")
    for n_networks, sizes, batch_size in chosen.shape or map(shape, SHAPES):
        compare(make_problem(n_networks, sizes, batch_size, chosen.activation, chosen.dtype), chosen)
    if not chosen.peers_only:
        print()
        compare_ensemble(chosen)


if __name__ == "__main__":
    main()
