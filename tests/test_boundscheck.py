"""Indexing inside the compiled code, under NUMBA_BOUNDSCHECK=1 and with a cache folder of its own.

Run as a program it trains and evaluates small networks.  Raw pointers are not checked by the flag: see test_canaries.
"""

import os
import subprocess
import sys

import kernel_table as table
import numpy as np
import pytest
from fastbp.kernels import cache

import fastbp
from fastbp import kernels
from fastbp.update import State, Update

INDEXED = (
    "cross_entropy",
    "shuffle",
    "class_counts",
    "label_counts",
    "top_counts",
    "error_sums",
)  # others use pointers
# sizes, activations, loss, batch size; the first is trained by the same kernels as many others
QUICK = [([5, 9, 4], "sigmoid", "squared_error", 30)]
CASES = [
    *QUICK,
    ([2, 2, 1], "sigmoid", "squared_error", 4),
    ([2, 2, 1], "sigmoid", "squared_error", 7),
    ([2, 1], "tanh", "huber", 1),
    ([3, 9, 4], "sigmoid", "squared_error", 1),
    ([5, 9, 4], ["gelu", "softmax"], "cross_entropy", 7),
    ([5, 9, 4], ["relu", "softmax"], "cross_entropy", 1),
    ([4, 3, 2], ["elu", "sigmoid"], "binary_cross_entropy", 300),
]


def fails(function, *arguments):
    try:
        function(*arguments)
    except IndexError:
        return True
    return False


def train_one_batch_too_many():
    backend = fastbp.Network([3, 40, 4], seed=0)._backend
    order = np.zeros(8, np.int64)[:3]
    train = backend.training(
        np.zeros(backend.n_parameters, np.float32), State(0, 1, np.float32), batch_size=1, order=order, update=Update()
    )
    train(np.zeros((3, 3)), np.zeros((3, 4), np.float32), None, None, 0, 4, np.zeros(1))


def train_and_evaluate(sizes, activations, loss, batch_size):
    rng = np.random.default_rng(0)
    n = 3 if batch_size == 4 else 605
    X, Y = rng.random((n, sizes[0])), rng.integers(0, 2, (n, sizes[-1])).astype(float)
    if loss == "cross_entropy":
        Y = rng.integers(0, sizes[-1], n)
    for momentum, nesterov in ((0.0, False), (0.9, True)):
        net = fastbp.Network(sizes, activations, loss=loss, seed=0, dtype="float64")
        optimizer = fastbp.SGD(0.01, momentum=momentum, nesterov=nesterov)
        history = fastbp.Trainer(net, optimizer, batch_size=batch_size, seed=0).fit(X, Y, epochs=3)
        assert np.isfinite(history.loss).all()
        assert net.predict(X).shape == (n, sizes[-1])
        assert np.isfinite(net.loss(X, Y)) and np.isfinite(net.input_gradient(X, Y)).all()
        net.gradients(X[:20], Y[:20])
        net.trace(X[:20], Y[:20])


def main(is_exhaustive):
    assert fails(kernels.shuffle, np.zeros(3, np.uint32), np.zeros(9, np.int64)), "the flag is not in force"
    if is_exhaustive:
        with pytest.raises(IndexError):
            train_one_batch_too_many()
    rng = np.random.default_rng(0)
    for row in table.TABLE:
        if row.name.startswith(INDEXED) and (is_exhaustive or not row.name.startswith("cross_entropy")):
            for shape in ((1, 1), (3, 5), (2, 17)):
                getattr(kernels, row.name)(*row.arguments(rng, np.float64, *shape))
    for case in CASES if is_exhaustive else QUICK:
        train_and_evaluate(*case)
    print("done")


@pytest.mark.parametrize("cases", ["quick", pytest.param("all", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("flag", ["1", "0"])
def test_nothing_is_out_of_bounds(flag, cases):
    folder = cache.cache_folder()
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": flag, "PYTHONWARNINGS": "error"}
    if folder is not None:
        environment["NUMBA_CACHE_DIR"] = str(folder / "boundscheck")
    command = [sys.executable, __file__, cases]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    if flag == "1":
        assert result.returncode == 0 and result.stdout == "done\n", result.stderr[-3000:]
    else:  # the same folder, warm: without the flag nothing is found
        assert "the flag is not in force" in result.stderr


if __name__ == "__main__":
    main(is_exhaustive=sys.argv[1] == "all")
