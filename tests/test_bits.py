"""The same seed gives the same bits: for any number of threads, and whatever the width of the vector registers.

Run as a program with the name of a processor, it prints the hashes of its networks and the width of the registers, as
JSON.
"""

import json
import sys
from hashlib import sha256
from typing import NamedTuple

import kernel_table as table
import numpy as np
import pytest
from fastbp.kernels import microkernel, training
from shared import HIDDEN, exhaustive, needs_x86, run_python, threads_everywhere, watch_kernels, watch_threads

import fastbp
from fastbp.losses import LOSSES

PLAIN, CLASSICAL, NESTEROV = {}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}
#           sizes, activations, loss, batch size, samples, options of SGD or of Trainer, options of Network
NETWORKS = {
    "xor": ([2, 2, 1], "sigmoid", "squared_error", 4, 4, PLAIN, {}),
    "lanes": ([3, 4, 2], ["tanh", "sigmoid"], "binary_cross_entropy", 5, 23, NESTEROV, {"reduction": "sum"}),
    "online": ([8, 16, 1], "tanh", "squared_error", 1, 50, PLAIN, {}),
    "online wide": ([70, 33, 5], ["gelu", "softmax"], "cross_entropy", 1, 30, CLASSICAL, {}),
    "surrogate": ([4, 32, 32, 1], "tanh", "squared_error", 32, 100, PLAIN, {}),
    "digits": ([64, 30, 10], ["sigmoid", "softmax"], "cross_entropy", 10, 100, PLAIN, {}),
    "deep": ([16, 16, 16, 16, 16, 16, 4], ["relu"] * 5 + ["softmax"], "cross_entropy", 17, 60, CLASSICAL, {}),
    "odd": ([37, 65, 33, 3], ["silu", "elu", "identity"], "huber", 100, 230, NESTEROV, {}),
    "blocks": ([20, 40, 17, 4], ["softplus", "tanh", "softmax"], "cross_entropy", 300, 700, CLASSICAL, {}),
    "deep sums": ([530, 7, 280, 3], ["tanh", "relu", "identity"], "squared_error", 40, 90, PLAIN, {}),
    "wide": ([30, 200, 193, 150], ["relu", "tanh", "sigmoid"], "binary_cross_entropy", 40, 90, NESTEROV, {}),
    "wide and narrow": ([9, 256, 20, 131, 3], ["gelu"] * 3 + ["softmax"], "cross_entropy", 33, 80, PLAIN, {}),
    "packed": ([50, 300, 270], ["leaky_relu", "identity"], "absolute_error", 64, 128, PLAIN, {"reduction": "sum"}),
    "adam": ([64, 30, 10], ["sigmoid", "softmax"], "cross_entropy", 10, 100, {"optimizer": fastbp.Adam(0.01)}, {}),
    "adam, wide": (
        [30, 200, 193, 150],
        ["relu", "tanh", "sigmoid"],
        "binary_cross_entropy",
        40,
        90,
        {
            "optimizer": fastbp.Adam(fastbp.schedules.Cosine(0.01, 40, warmup=3)),
            "dropout": [0.3, 0.1],
            "l2": 0.01,
            "input_noise": 0.2,
            "label_smoothing": 0.1,
        },
        {},
    ),
    "adamw, online": ([8, 16, 1], "tanh", "squared_error", 1, 50, {"optimizer": fastbp.AdamW(0.01), "l1": 1e-3}, {}),
    "adamw, weights": (
        [30, 200, 193, 150],
        ["relu", "tanh", "sigmoid"],
        "binary_cross_entropy",
        40,
        90,
        {"optimizer": fastbp.AdamW(fastbp.schedules.CosLog4(0.01, 9), weight_decay=0.3, decay_biases=False)},
        {},
    ),
    "adamw, scaled inputs": (
        [37, 130, 150],
        "tanh",
        "squared_error",
        300,
        350,
        {"optimizer": fastbp.AdamW(0.01, weight_decay=0.3, decay_biases=False, input_scale_lr=9.0), "clip_norm": 0.5},
        {},
    ),
    "nadam, xor": ([2, 2, 1], "sigmoid", "squared_error", 4, 4, {"optimizer": fastbp.Nadam(0.1)}, {}),
    "rmsprop, clipped": (
        [20, 200, 17, 4],
        ["softplus", "tanh", "softmax"],
        "cross_entropy",
        300,
        700,
        {"optimizer": fastbp.RMSprop(0.01), "clip_norm": 0.5, "max_norm": 1.0, "dropout": 0.2},
        {},
    ),
    "lion": (
        [4, 32, 32, 1],
        "tanh",
        "squared_error",
        32,
        100,
        {"optimizer": fastbp.Lion(0.01), "clip_value": 0.01},
        {},
    ),
    "adagrad": ([20, 300, 3], ["tanh", "identity"], "huber", 33, 70, {"optimizer": fastbp.Adagrad(0.05)}, {}),
    "rprop": ([9, 140, 3], ["mish", "identity"], "log_cosh", 70, 70, {"optimizer": fastbp.Rprop(0.01)}, {}),
    **{
        name: (
            [11, 19, 13, 6],
            [name, "tanh" if name == "exponential" else name, "softmax"],
            "cross_entropy",
            17,
            50,
            PLAIN,
            {},
        )
        for name in HIDDEN
    },
    **{
        f"{name} and {loss}": ([5, 9, 18], ["tanh", name], loss, 12, 40, PLAIN, {})
        for loss, name in zip(
            LOSSES,
            ("softmax", "gelu", "sigmoid", "tanh", "mish", "selu", "softplus", "softmax", "sigmoid", "sigmoid"),
            strict=True,
        )
    },
}


# Networks that need every training kernel and few activations: compiling for another processor takes the time.
QUICK = ("xor", "lanes", "online", "digits", "blocks", "deep sums", "wide", "adam, wide", "rmsprop, clipped")


def trained(name, dtype, threads):
    """Hash of everything that training and evaluation of a network gave."""
    sizes, activations, loss, batch_size, n, options, more = NETWORKS[name]
    rng = np.random.default_rng(1)
    X, Y = rng.random((n, sizes[0])), rng.random((n, sizes[-1]))
    if loss == "hinge":
        Y = np.where(Y < 0.5, -1.0, 1.0)
    if loss == "cross_entropy":
        Y = Y.argmax(axis=1) if name != "blocks" else Y / Y.sum(axis=1, keepdims=True)
    net = fastbp.Network(sizes, activations, loss=loss, dtype=dtype, seed=0, **more)
    lr = 0.05 if more.get("reduction", "mean") == "mean" else 0.0005
    settings = {key: value for key, value in options.items() if key not in ("optimizer", *CLASSICAL, *NESTEROV)}
    optimizer = options.get("optimizer") or fastbp.SGD(lr, **options)
    trainer = fastbp.Trainer(net, optimizer, batch_size=batch_size, seed=0, threads=threads, **settings)
    before = net.parameters.copy()
    history = trainer.fit(X, Y, epochs=4)
    assert np.isfinite(net.parameters).all() and np.mean(net.parameters != before) > 0.3
    gradients = net.gradients(X, Y)
    parts = [
        net.parameters,
        np.array(history.loss),
        net.predict(X),
        *gradients.weights,
        *gradients.biases,
        net.input_gradient(X, Y),
    ]
    return sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in parts)).hexdigest()


def all_hashes(threads=1, dtypes=("float32", "float64"), networks=NETWORKS):
    """Hashes of networks, with threads even where they do not pay."""
    with threads_everywhere(threads):
        return {f"{name} {dtype}": trained(name, dtype, threads) for dtype in dtypes for name in networks}


@pytest.fixture(scope="module")
def hashes():
    return all_hashes()


def test_hashes_tell_networks_apart(hashes):
    assert len(set(hashes.values())) == len(hashes)
    assert trained("digits", "float32", None) == hashes["digits float32"]


@pytest.mark.parametrize(
    "n_threads, networks",
    [
        pytest.param(1, NETWORKS, id="1"),
        pytest.param(2, NETWORKS, id="2"),
        pytest.param(3, QUICK, id="3"),
        pytest.param(3, NETWORKS, id="3, all networks", marks=exhaustive),
    ],
)
def test_threads_do_not_change_the_bits(hashes, n_threads, networks):
    with watch_threads() as used:
        for key, found in all_hashes(n_threads, networks=networks).items():
            assert found == hashes[key], key
    assert max(used, default=1) == n_threads


class Processor(NamedTuple):
    """A processor to compile for, and what is trained on it; None where the width of its registers is not known."""

    environment: dict
    register_bytes: int | None
    dtypes: tuple
    networks: tuple = tuple(NETWORKS)


HASWELL = {"NUMBA_CPU_NAME": "haswell"}  # with the features of this processor
SSE2 = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
PROCESSORS = {
    "avx2": Processor(table.AVX2, 32, ("float32",), QUICK),
    "avx2, all networks": Processor(table.AVX2, 32, ("float32", "float64")),
    "haswell": Processor(HASWELL, None, ("float32",)),
    "sse2": Processor(SSE2, 16, ("float32",)),
}


@needs_x86
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "avx2" else exhaustive) for name in PROCESSORS]
)
def test_the_processor_does_not_change_the_bits(hashes, name):
    processor = PROCESSORS[name]
    result = run_python(__file__, name, timeout=500, **processor.environment)
    assert result.returncode == 0, result.stderr[-3000:]
    answer = json.loads(result.stdout)
    if processor.register_bytes is not None:
        assert answer["register_bytes"] == min(processor.register_bytes, microkernel.register_bytes())
    keys = [f"{network} {dtype}" for network in processor.networks for dtype in processor.dtypes]
    assert answer["hashes"] == {key: hashes[key] for key in keys}


def test_the_quick_networks_need_every_training_kernel():
    with watch_kernels() as kernels:
        all_hashes(1, ("float32",), QUICK)
    assert kernels == {name for name, value in vars(training).items() if hasattr(value, "native")} - {
        "evaluate",
        "shuffle",
    }


if __name__ == "__main__":
    _, _, dtypes, networks = PROCESSORS[sys.argv[1]]
    answer = {"register_bytes": microkernel.register_bytes(), "hashes": all_hashes(1, dtypes, networks)}
    print(json.dumps(answer))
