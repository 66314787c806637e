"""Time and peak memory of training: sigmoid networks, half squared error, plain SGD, float32."""

import numpy as np

import fastbp

#    name         layer sizes              batch samples epochs of one call
LADDER = {
    "xor":       ([2, 2, 1],                  4,     4, 5000),
    "online":    ([8, 16, 1],                 1,  2000, 10),
    "surrogate": ([4, 32, 32, 1],            32,  6400, 10),
    "digits":    ([64, 30, 10],              10,  1790, 10),
    "nielsen":   ([784, 30, 10],             10,  5000, 1),
    "mnist":     ([784, 128, 10],            64,  6400, 1),
    "mlp512":    ([784, 512, 512, 10],      128,  6400, 1),
    "wide2k":    ([1024, 2048, 2048, 1024], 256,  1024, 1),
}  # fmt: skip


class Ladder:
    """One call of `fit` for the epochs of the rung, the kernels warm."""

    param_names = ["rung"]
    params = [list(LADDER)]
    rounds, repeat, number, warmup_time, min_run_count = 1, (3, 10, 3.0), 1, 0, 1

    def setup(self, rung):
        sizes, batch_size, n_samples, self.epochs = LADDER[rung]
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((n_samples, sizes[0])).astype(np.float32)
        self.Y = rng.random((n_samples, sizes[-1])).astype(np.float32)
        net = fastbp.Network(sizes, activations="sigmoid", loss="squared_error", dtype="float32", seed=0)
        self.trainer = fastbp.Trainer(net, optimizer=fastbp.SGD(lr=0.1), batch_size=batch_size, seed=0)
        self.trainer.fit(self.X, self.Y, progress=False)

    def time_epochs(self, rung):
        self.trainer.fit(self.X, self.Y, epochs=self.epochs, progress=False)

    def peakmem_epochs(self, rung):
        self.trainer.fit(self.X, self.Y, epochs=self.epochs, progress=False)


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
