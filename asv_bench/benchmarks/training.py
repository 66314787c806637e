"""Time and peak memory of training: sigmoid networks, half squared error, plain SGD, float32."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from fastbp.kernels.microkernel import INIT_ZERO, STORE, tile, tile_columns, tile_lanes, tile_shape
from fastbp.kernels.simd import as_float, pointer
from numba import float32, njit

import fastbp

#    name         layer sizes              batch samples epochs of one call
CASES = {
    "xor":       ([2, 2, 1],                  4,     4, 5000),
    "online":    ([8, 16, 1],                 1,  2000, 10),
    "surrogate": ([4, 32, 32, 1],            32,  6400, 10),
    "digits":    ([64, 30, 10],              10,  1790, 10),
    "nielsen":   ([784, 30, 10],             10,  5000, 1),
    "mnist":     ([784, 128, 10],            64,  6400, 1),
    "mlp512":    ([784, 512, 512, 10],      128,  6400, 1),
    "wide2k":    ([1024, 2048, 2048, 1024], 256,  1024, 1),
}  # fmt: skip


class Cases:
    """One call of `fit` for the epochs of the case, the kernels warm."""

    param_names = ["case"]
    params = [list(CASES)]
    rounds, repeat, number, warmup_time, min_run_count = 1, (3, 10, 3.0), 1, 0, 1

    def setup(self, case):
        sizes, batch_size, n_samples, self.epochs = CASES[case]
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((n_samples, sizes[0])).astype(np.float32)
        self.Y = rng.random((n_samples, sizes[-1])).astype(np.float32)
        net = fastbp.Network(sizes, activations="sigmoid", loss="squared_error", dtype="float32", seed=0)
        self.trainer = fastbp.Trainer(net, optimizer=fastbp.SGD(lr=0.1), batch_size=batch_size, seed=0)
        self.trainer.fit(self.X, self.Y, progress=False)

    def time_epochs(self, case):
        self.trainer.fit(self.X, self.Y, epochs=self.epochs, progress=False)

    def peakmem_epochs(self, case):
        self.trainer.fit(self.X, self.Y, epochs=self.epochs, progress=False)


OPTIMIZERS = {
    "sgd": fastbp.SGD(0.1), "momentum": fastbp.SGD(0.01, momentum=0.9), "rmsprop": fastbp.RMSprop(1e-3),
    "adagrad": fastbp.Adagrad(1e-3), "adam": fastbp.Adam(), "adamw": fastbp.AdamW(), "nadam": fastbp.Nadam(),
    "lion": fastbp.Lion(), "scheduled": fastbp.SGD(fastbp.schedules.Cosine(0.1, period=10_000, warmup=100)),
}  # fmt: skip
SETTINGS = {
    "dropout": {"dropout": 0.2},
    "penalties": {"l1": 1e-5, "l2": 1e-4},
    "clip norm": {"clip_norm": 1.0},
    "clip value": {"clip_value": 0.1},
    "max norm": {"max_norm": 3.0},
    "input noise": {"input_noise": 0.1},
}


class Rules:
    """Time of an epoch over that with plain SGD, by optimizer and by setting of the trainer.

    Medians of ratios over interleaved runs.
    """

    param_names = ["case", "rule"]
    params = [["digits", "mnist", "mlp512"], [*OPTIMIZERS, *SETTINGS]]
    unit = "time over plain SGD"

    def setup(self, case, rule):
        Cases.setup(self, case)
        sizes, batch_size, _, _ = CASES[case]
        net = fastbp.Network(sizes, activations="sigmoid", loss="squared_error", dtype="float32", seed=0)
        self.other = fastbp.Trainer(
            net, OPTIMIZERS.get(rule, OPTIMIZERS["sgd"]), batch_size=batch_size, seed=0, **SETTINGS.get(rule, {})
        )
        for trainer in (self.trainer, self.other):
            trainer.fit(self.X, self.Y, epochs=self.epochs, progress=False)

    def track_ratio(self, case, rule):
        def run(trainer):
            trainer.fit(self.X, self.Y, epochs=self.epochs, progress=False)

        return statistics.median(seconds(run, self.other) / seconds(run, self.trainer) for _ in range(7))


class Evaluation:
    """Time of validation and a metric in an epoch over that of predict on the same data."""

    def setup(self):
        rng = np.random.default_rng(0)
        X, Y = rng.standard_normal((20_000, 64)).astype(np.float32), rng.integers(0, 10, 20_000)
        self.few, self.many = (X[:10], Y[:10]), (X, Y)
        net = fastbp.Network([64, 30, 10], ["sigmoid", "softmax"], loss="cross_entropy", seed=0)
        self.trainer = fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=10, seed=0)
        self.track_ratio()

    def track_ratio(self):
        def fit(metrics):
            self.trainer.fit(*self.few, epochs=5, validation_data=self.many, metrics=metrics, progress=False)

        ratios = []
        for _ in range(7):
            both = seconds(fit, ["accuracy"]) / 5
            ratios.append(both / seconds(self.trainer.net.predict, self.many[0]))
        return statistics.median(ratios)

    track_ratio.unit = "time over predict"


class FullBatch:
    """20 epochs of the full-batch methods on the 6-20-1 network of a small regression."""

    param_names = ["optimizer"]
    params = [["LBFGS", "LevenbergMarquardt", "Rprop"]]
    rounds, repeat, number, warmup_time, min_run_count = 1, (3, 10, 3.0), 1, 0, 1

    def setup(self, optimizer):
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((1000, 6))
        self.Y = np.sin(self.X).sum(axis=1, keepdims=True)
        self.optimizer = getattr(fastbp, optimizer)()
        self.time_fit(optimizer)

    def time_fit(self, optimizer):
        net = fastbp.Network([6, 20, 1], ["tanh", "identity"], dtype="float64", seed=0)
        fastbp.Trainer(net, self.optimizer, batch_size=None).fit(self.X, self.Y, epochs=20, progress=False)


class Streams:
    """Speed of training on a mapped file over that on the same samples in memory; interleaved runs."""

    param_names = ["source"]
    params = [["float32", "float64", "int16"]]  # the kernels read the map, or for int16 rows converted from it
    unit = "fraction of the speed in memory"

    def setup_cache(self):
        rng = np.random.default_rng(0)
        for name in self.params[0]:
            np.save(f"{name}.npy", (3 * rng.standard_normal((40_000, 784))).astype(name))
        np.save("labels.npy", rng.integers(0, 10, 40_000))

    def setup(self, source):
        self.stream = fastbp.stream(f"{source}.npy", "labels.npy")
        self.X, self.y = np.load(f"{source}.npy").astype(np.float32), np.load("labels.npy")
        net = fastbp.Network([784, 128, 10], ["sigmoid", "softmax"], loss="cross_entropy", seed=0)
        self.trainer = fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=64, seed=0)
        self.fit(self.X, self.y)
        self.fit(self.stream)

    def fit(self, *data):
        self.trainer.fit(*data, progress=False)

    def track_speed(self, source):
        return statistics.median(seconds(self.fit, self.X, self.y) / seconds(self.fit, self.stream) for _ in range(7))

    def peakmem_stream(self, source):
        self.fit(self.stream)


class Checkpoints:
    """Save and load a checkpoint of 784-512-512-10 with Adam: 8 MB."""

    rounds, repeat, number, warmup_time, min_run_count = 1, (3, 10, 3.0), 1, 0, 1

    def setup(self):
        net = fastbp.Network([784, 512, 512, 10], seed=0)
        self.trainer = fastbp.Trainer(net, fastbp.Adam(), seed=0)
        self.time_save()

    def time_save(self):
        self.trainer.save_checkpoint("checkpoint")

    def time_load(self):
        self.trainer.load_checkpoint("checkpoint")


class Predict:
    """Outputs of 10,000 samples, on either backend."""

    param_names = ["backend"]
    params = [["numba", "numpy"]]

    def setup(self, backend):
        self.X = np.random.default_rng(0).standard_normal((10_000, 64)).astype(np.float32)
        self.net = fastbp.Network([64, 30, 10], ["sigmoid", "softmax"], loss="cross_entropy", seed=0, backend=backend)
        self.net.predict(self.X)

    def time_predict(self, backend):
        self.net.predict(self.X)


def one_sample(dtype="float32"):
    """Return network, sample and target of the calls with one sample: 8-16-1."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((1, 8)).astype(dtype), rng.random((1, 1)).astype(dtype)
    return fastbp.Network(CASES["online"][0], activations="sigmoid", loss="squared_error", dtype=dtype, seed=0), X, Y


class Calls:
    """One call from Python with one sample, most of it Python's own time."""

    param_names = ["call"]
    params = [["predict", "loss", "gradients", "step", "step, momentum", "step, adam", "step, dropout", "partial_fit",
               "step with a weight", "fit with a weight"]]  # fmt: skip

    def setup(self, call):
        net, X, Y = one_sample()
        rule = OPTIMIZERS[call.partition(", ")[2] if call.startswith("step, ") and "dropout" not in call else "sgd"]
        trainer = fastbp.Trainer(net, rule, batch_size=1, seed=0, dropout=0.2 * ("dropout" in call))
        weight = np.array([0.5], np.float32)
        self.call = {
            "predict": lambda: net.predict(X),
            "loss": lambda: net.loss(X, Y),
            "gradients": lambda: net.gradients(X, Y),
            "partial_fit": lambda: trainer.partial_fit(X, Y),
            "step with a weight": lambda: trainer.step(X, Y, sample_weight=weight),
            "fit with a weight": lambda: trainer.fit(X, Y, sample_weight=weight, progress=False),
        }.get(call, lambda: trainer.step(X, Y))
        self.call()

    def time_call(self, call):
        self.call()


@njit(nogil=True)
def run_microkernel(A, B, C, n):
    """Run the widest tile n times on operands that stay in the L1."""
    a, b, c = pointer(A, 0), pointer(B, 0), pointer(C, 0)
    nothing = as_float(0, a)
    columns, register = tile_columns(a)
    for _ in range(n):
        tile(
            A.shape[0],
            columns // register,
            a,
            A.shape[1],
            1,
            b,
            B.shape[1],
            B.shape[0],
            1,
            c,
            C.shape[1],
            register,
            INIT_ZERO,
            c,
            STORE,
            nothing,
            nothing,
            0,
            c,
            a,
            0,
            B.shape[0],
        )


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


class ThreadsChosen:
    """Time of a call of `fit` with the number of threads left alone, over the better of one thread and all."""

    param_names = ["sizes", "batch", "samples", "epochs"]
    params = [
        [(300, 250, 130), (784, 30, 10), (180, 50, 5), (320, 260, 130, 5), (784, 128, 10), (64, 256, 10)],
        [10, 100],
        [1000],
        [1, 10],
    ]
    unit = "time over the better choice"

    def setup(self, sizes, batch, samples, epochs):
        rng = np.random.default_rng(0)
        X, Y = (rng.random((samples, n), np.float32) for n in (sizes[0], sizes[-1]))
        self.calls = []
        for threads in (None, 1, fastbp.get_num_threads()):
            trainer = fastbp.Trainer(
                fastbp.Network(sizes, seed=0), fastbp.SGD(0.01), batch_size=batch, seed=0, threads=threads
            )
            self.calls.append(lambda fit=trainer.fit: fit(X, Y, epochs=epochs, progress=False))
        for call in 4 * self.calls:
            call()

    def track_ratio(self, sizes, batch, samples, epochs):
        rounds = np.array([[seconds(call) for call in self.calls] for _ in range(9)])
        alone, *fixed = np.median(rounds, axis=0)
        return alone / min(fixed)


def flops_of_sample(sizes):
    """Return the FLOPs of one sample in training; no gradient goes back to the inputs."""
    return sum(2 * m * n * (3 if l else 2) for l, (m, n) in enumerate(pairwise(sizes)))


class Peak:
    """The microkernel's rate on some threads at once, its operands in the first-level cache."""

    def __init__(self, threads):
        rows, depth = tile_shape()[0], 256
        self.tiles = [
            [np.ones(shape, np.float32) for shape in ((rows, depth), (depth, 32), (rows, 32))] for _ in range(threads)
        ]
        self.flops = 2 * rows * depth * tile_shape()[1] * tile_lanes(float32) * threads
        self._run(1)

    def _run(self, n):
        with ThreadPoolExecutor(len(self.tiles)) as pool:
            list(pool.map(lambda arrays: run_microkernel(*arrays, n), self.tiles))  # list() raises their exceptions

    def measure(self):
        """Return FLOPs a second."""
        return 20_000 * self.flops / seconds(self._run, 20_000)


class FractionOfPeak:
    """Rate of training over the microkernel's peak rate on all cores, its operands in the L1.

    The median of ratios over interleaved runs.
    """

    param_names = ["case"]
    params = [list(CASES)]
    unit = "fraction of the microkernel's peak rate on all cores"

    def setup(self, case):
        Cases.setup(self, case)
        self.trainer.fit(self.X, self.Y, epochs=self.epochs, progress=False)
        self.peak = Peak(fastbp.get_num_threads())

    def track_fraction(self, case):
        sizes, _, n_samples, epochs = CASES[case]
        flops = n_samples * epochs * flops_of_sample(sizes)
        fractions = []
        for _ in range(7):
            training = seconds(lambda: self.trainer.fit(self.X, self.Y, epochs=epochs, progress=False))
            fractions.append(flops / training / self.peak.measure())
        return statistics.median(fractions)
