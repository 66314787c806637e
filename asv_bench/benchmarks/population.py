"""Many networks at once: plain SGD, one learning rate for each network, float32."""

import statistics

import numpy as np

import fastbp

from .training import seconds

#    networks, layer sizes, batch, samples, epochs of one call
POPULATIONS = {
    "1024 x 2-2-1":     (1024, [2, 2, 1],      4,   4, 500),
    "1024 x 8-16-1":    (1024, [8, 16, 1],     8, 200, 5),
    "64 x 64-30-10":    (64,   [64, 30, 10],  10, 500, 2),
    "16 x 784-128-10":  (16,   [784, 128, 10], 64, 640, 1),
}  # fmt: skip
SEED = 0


def settings(sizes):
    """Return arguments of Network and Population: softmax and cross-entropy if outputs are several."""
    output, loss = ("softmax", "cross_entropy") if sizes[-1] > 1 else ("identity", "squared_error")
    return {"activations": ["sigmoid"] * (len(sizes) - 2) + [output], "loss": loss, "dtype": "float32"}


def data(sizes, n_samples):
    """Return samples and numbers, or labels if outputs are several; those of 2-2-1 are XOR's."""
    rng = np.random.default_rng(SEED)
    if sizes == [2, 2, 1]:
        X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
        return X, np.array([[0], [1], [1], [0]], np.float32)
    X = rng.standard_normal((n_samples, sizes[0])).astype(np.float32)
    if sizes[-1] > 1:
        return X, rng.integers(0, sizes[-1], n_samples)
    return X, rng.random((n_samples, sizes[-1])).astype(np.float32)


class _Cases:
    """A population and its trainer, the kernels warm."""

    param_names = ["case"]
    params = [list(POPULATIONS)]

    def setup(self, case):
        n_networks, sizes, batch_size, n_samples, self.epochs = POPULATIONS[case]
        self.X, self.Y = data(sizes, n_samples)
        self.lr = np.geomspace(0.05, 0.2, n_networks)
        pop = fastbp.Population(sizes, n_networks=n_networks, seed=SEED, **settings(sizes))
        self.trainer = fastbp.Trainer(pop, fastbp.SGD(lr=self.lr), batch_size=batch_size, seed=SEED)
        self.trainer.fit(self.X, self.Y, progress=False)


class Population(_Cases):
    """One call of `fit` that trains all networks."""

    rounds, repeat, number, warmup_time, min_run_count = 1, (3, 10, 3.0), 1, 0, 1

    def time_fit(self, case):
        self.trainer.fit(self.X, self.Y, epochs=self.epochs, progress=False)

    def peakmem_fit(self, case):
        self.trainer.fit(self.X, self.Y, epochs=self.epochs, progress=False)


class PopulationOverLoop(_Cases):
    """Time in which `Trainer` trains a few of the networks one after the other, for all of them, over that of one fit.

    The median of ratios over interleaved runs.
    """

    unit = "time over one fit of all networks"
    n_measured = 4

    def setup(self, case):
        super().setup(case)
        n_networks, sizes, batch_size, _, _ = POPULATIONS[case]
        self.scale = n_networks / self.n_measured
        self.loop = []
        for lr in self.lr[: self.n_measured].tolist():
            net = fastbp.Network(sizes, seed=SEED, **settings(sizes))
            self.loop.append(fastbp.Trainer(net, fastbp.SGD(lr), batch_size=batch_size, seed=SEED))
            self.loop[-1].fit(self.X, self.Y, progress=False)

    def track_ratio(self, case):
        def fit(trainers):
            for trainer in trainers:
                trainer.fit(self.X, self.Y, epochs=self.epochs, progress=False)

        return statistics.median(self.scale * seconds(fit, self.loop) / seconds(fit, [self.trainer]) for _ in range(7))


class Ensemble:
    """Time in which 16 networks train on the same batches over that of one of them alone; interleaved runs."""

    param_names = ["threads"]
    params = [[1, None]]
    unit = "time over one network"

    def setup(self, threads):
        _, sizes, batch_size, n_samples, self.epochs = POPULATIONS["64 x 64-30-10"]
        self.X, self.Y = data(sizes, n_samples)
        networks = (
            fastbp.Network(sizes, seed=SEED, **settings(sizes)),
            fastbp.Population(sizes, n_networks=16, seed=SEED, **settings(sizes)),
        )
        self.trainers = [
            fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=batch_size, seed=SEED, threads=threads) for net in networks
        ]
        for trainer in self.trainers:
            trainer.fit(self.X, self.Y, progress=False)

    def track_ratio(self, threads):
        def fit(trainer, epochs):
            trainer.fit(self.X, self.Y, epochs=epochs, progress=False)

        alone, together = self.trainers
        return statistics.median(
            seconds(fit, together, self.epochs) / (seconds(fit, alone, 16 * self.epochs) / 16) for _ in range(7)
        )
