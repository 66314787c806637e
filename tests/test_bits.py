"""The same seed gives the same bits: for any number of threads, and whatever the width of the vector registers.

Run as a program it prints the hashes of all networks and the width of the registers, as JSON.
"""

import json
import os
import platform
import subprocess
import sys
from hashlib import sha256
from unittest import mock

import numpy as np
import pytest

import fastbp
from fastbp import engine
from fastbp.activations import ACTIVATIONS
from fastbp.kernels import simd
from fastbp.losses import LOSSES

HIDDEN = [name for name in ACTIVATIONS if name != "softmax"]
PLAIN, CLASSICAL, NESTEROV = {}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}
#           sizes, activations, loss, batch size, samples, momentum, options of Network
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
    "packed": ([50, 300, 270], ["leaky_relu", "identity"], "absolute_error", 64, 128, PLAIN, {"reduction": "sum"}),
    **{name: ([11, 19, 13, 6], [name, name, "softmax"], "cross_entropy", 17, 50, PLAIN, {}) for name in HIDDEN},
    **{f"{name} and {loss}": ([5, 9, 18], ["tanh", name], loss, 12, 40, PLAIN, {}) for loss, name in zip(
        LOSSES, ("softmax", "gelu", "sigmoid", "softmax", "sigmoid"), strict=True)},
}


def trained(name, dtype, threads):
    """Hash of everything that training and evaluation of a network gave."""
    sizes, activations, loss, batch_size, n, options, more = NETWORKS[name]
    rng = np.random.default_rng(1)
    X, Y = rng.random((n, sizes[0])), rng.random((n, sizes[-1]))
    if loss == "cross_entropy":
        Y = Y.argmax(axis=1) if name != "blocks" else Y / Y.sum(axis=1, keepdims=True)
    net = fastbp.Network(sizes, activations, loss=loss, dtype=dtype, seed=0, **more)
    lr = 0.05 if more.get("reduction", "mean") == "mean" else 0.0005
    trainer = fastbp.Trainer(net, fastbp.SGD(lr, **options), batch_size=batch_size, seed=0, threads=threads)
    before = net.parameters.copy()
    history = trainer.fit(X, Y, epochs=4)
    assert np.isfinite(net.parameters).all() and np.mean(net.parameters != before) > 0.3
    gradients = net.gradients(X, Y)
    parts = [net.parameters, np.array(history.loss), net.predict(X), *gradients.weights, *gradients.biases, net.input_gradient(X, Y)]
    return sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in parts)).hexdigest()


def all_hashes(threads=1):
    """Hashes of every network, with threads even where they do not pay."""
    with mock.patch.multiple(engine, MIN_WORK_PER_THREAD=1, MIN_ROWS_PER_THREAD=1, _threads=threads):
        return {f"{name} {dtype}": trained(name, dtype, threads) for dtype in ("float32", "float64") for name in NETWORKS}


@pytest.fixture(scope="module")
def hashes():
    return all_hashes()


def test_hashes_tell_networks_apart(hashes):
    assert len(set(hashes.values())) == len(hashes)
    assert trained("digits", "float32", None) == hashes["digits float32"]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_the_bits(hashes, threads):
    used = []
    run = engine._Gang.run

    def watched(gang, function, number):
        used.append(number)
        return run(gang, function, number)

    with mock.patch.object(engine._Gang, "run", watched):
        assert all_hashes(threads) == hashes
    assert max(used, default=1) == threads                     # threads there were


def other_processor(name, without=()):
    """What a process that compiles for another processor prints."""
    features = dict(simd.binding.get_host_cpu_features())
    chosen = ",".join(f"{'+' if there and not f.startswith(tuple(without)) else '-'}{f}" for f, there in features.items())
    environment = {**os.environ, "NUMBA_CPU_NAME": name, **({"NUMBA_CPU_FEATURES": chosen} if without else {})}
    result = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=500, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


is_x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="processors of the x86-64 family")


@is_x86
def test_haswell_gives_the_same_bits(hashes):
    assert other_processor("haswell")["hashes"] == hashes


@is_x86
def test_registers_of_32_bytes_give_the_same_bits(hashes):
    answer = other_processor("haswell", ("avx512", "avx10", "evex512", "amx", "avx5"))
    assert answer["register_bytes"] == 32
    assert answer["hashes"] == hashes


if __name__ == "__main__":
    print(json.dumps({"register_bytes": simd.register_bytes(), "hashes": all_hashes()}))
