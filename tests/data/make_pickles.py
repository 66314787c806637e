"""Write pickles of version 0.1, which every later version reads.

Run it with that version, and with the oldest NumPy that is allowed: an older one may not read what a newer one pickles.

version_0_1_table.npz was written by `fastbp train version_0_1_table.csv --epochs 5 --backend numpy --seed 1`.
"""

import pickle
from pathlib import Path

import numpy as np

import fastbp
from fastbp import schedules
from fastbp.callbacks import EarlyStopping, ReduceLROnPlateau

FOLDER = Path(__file__).parent
X = np.sin(np.arange(360.0) ** 1.5).reshape(60, 6)
Y = X[:, :2] * X[:, 2:4] + 0.3 * X[:, 4:]
OPTIMIZERS = {
    "momentum": fastbp.SGD(lr=0.1, momentum=0.9),
    "nadam": fastbp.Nadam(schedules.Cosine(0.01, period=40, least=1e-4)),
    "rprop": fastbp.Rprop(least=1e-5, most=2.0),
    "one cycle": fastbp.AdamW(schedules.OneCycle(0.02, steps=40, rise=0.25)),
    "lbfgs": fastbp.LBFGS(),
    "levenberg": fastbp.LevenbergMarquardt(),
}


def trainers(epochs):
    """Return a trainer of each optimizer after some epochs."""
    result = {}
    for name, optimizer in OPTIMIZERS.items():
        net = fastbp.Network(
            [6, 5, 2],
            ["tanh", "identity"],
            fastbp.losses.Huber(2.0),
            seed=1,
            dtype="float64",
            backend="numpy",
            scale=0.5,
        )
        if name == "levenberg":
            net = fastbp.Network([6, 5, 2], ["tanh", "identity"], seed=1, dtype="float64", backend="numpy")
        result[name] = fastbp.Trainer(net, optimizer, batch_size=16, seed=3)
        result[name].fit(X, Y, epochs)
    return result


if __name__ == "__main__":
    (FOLDER / "version_0_1.pickle").write_bytes(
        pickle.dumps(
            {
                "trainers": trainers(4),
                "history": trainers(4)["nadam"].fit(X, Y, 3),
                "net": fastbp.Network([3, 4, 2], ["relu", "softmax"], "cross_entropy", seed=2),
                "callbacks": [EarlyStopping(patience=3), ReduceLROnPlateau(factor=0.3)],
            },
            protocol=4,
        )
    )
    np.savez(
        FOLDER / "version_0_1_pickle_end.npz", **{name: trainer.net.parameters for name, trainer in trainers(9).items()}
    )
