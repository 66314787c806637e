"""Training on one sample at a time: every setting alike on both backends, by the engine for one sample."""

from contextlib import nullcontext
from itertools import product

import numpy as np
import pytest
from shared import each_dtype, exhaustive, threads_everywhere, watch_kernels

import fastbp

OPTIMIZERS = {
    "sgd": fastbp.SGD(0.05),
    "momentum": fastbp.SGD(0.02, momentum=0.9),
    "nesterov": fastbp.SGD(0.02, momentum=0.9, nesterov=True),
    "rmsprop": fastbp.RMSprop(),
    "adagrad": fastbp.Adagrad(),
    "adam": fastbp.Adam(),
    "adamw": fastbp.AdamW(),
    "nadam": fastbp.Nadam(),
    "lion": fastbp.Lion(),
    "rprop": fastbp.Rprop(),
}
SETTINGS = {
    "dropout": 0.3,
    "input_noise": 0.1,
    "label_smoothing": 0.2,
    "clip_norm": 0.5,
    "max_norm": 0.9,
    "sample_weight": True,
}
NETWORKS = {
    "squared error": ((7, 20, 11, 5), "tanh", "squared_error"),
    "softmax": ((6, 13, 9, 3), ["gelu", "relu", "softmax"], "cross_entropy"),
}
# widths around those of whole, half and narrow vectors of both dtypes
WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 27, 31, 32, 33, 48, 63, 64, 70)


def problem(sizes, dtype, n=23):
    """Return samples, targets, and weights of the samples of which one is 0."""
    rng = np.random.default_rng(3)
    Y = rng.random((n, sizes[-1])).astype(dtype)
    weights = rng.random(n) * 2
    weights[4] = 0
    return rng.standard_normal((n, sizes[0])).astype(dtype), Y / Y.sum(axis=1, keepdims=True), weights


def trained(backend, network, optimizer, dtype, settings, epochs=2, **options):
    """Train; return the parameters and the losses."""
    sizes, activations, loss = network
    X, Y, weights = problem(sizes, dtype)
    settings = dict(settings)
    weights = weights if settings.pop("sample_weight", False) else None
    net = fastbp.Network(sizes, activations, loss, seed=1, dtype=dtype, backend=backend)
    trainer = fastbp.Trainer(net, optimizer, batch_size=1, seed=2, **settings, **options)
    for _ in range(epochs):
        trainer.fit(X, Y, 1, sample_weight=weights)
    return net.parameters.copy(), np.array(trainer.history["loss"])


def assert_alike(network, optimizer, dtype, settings):
    """Assert that the engine for one sample trains as the twin does."""
    with watch_kernels() as kernels:
        parameters, losses = trained("numba", network, optimizer, dtype, settings)
    assert kernels == {"train_online"}
    expected, expected_losses = trained("numpy", network, optimizer, dtype, settings)
    tolerance = {np.float32: 2e-4, np.float64: 1e-10}[dtype]
    np.testing.assert_allclose(parameters, expected, tolerance, tolerance)
    np.testing.assert_allclose(losses, expected_losses, tolerance, tolerance)


def combinations():
    """Return each setting alone, all together, and every other combination for the exhaustive run."""
    for chosen in product((False, True), repeat=len(SETTINGS)):
        names = [name for name, is_on in zip(SETTINGS, chosen, strict=True) if is_on]
        is_quick = len(names) in (1, len(SETTINGS))
        yield pytest.param(names, id=" ".join(names) or "plain", marks=() if is_quick else exhaustive)


@each_dtype
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("names", list(combinations()))
def test_settings_train_as_in_the_twin(names, kind, dtype):
    if kind != "softmax":  # label smoothing is for losses of classes
        names = [name for name in names if name != "label_smoothing"]
    assert_alike(NETWORKS[kind], OPTIMIZERS["sgd"], dtype, {name: SETTINGS[name] for name in names})


@pytest.mark.parametrize(
    "optimizer, dtype",
    [
        (optimizer, dtype)
        for optimizer, dtype in product(OPTIMIZERS, (np.float32, np.float64))
        if (optimizer, dtype) != ("lion", np.float32)  # the sign of a gradient near 0 depends on its last bit
    ],
)
def test_every_optimizer_trains_with_all_settings_as_in_the_twin(optimizer, dtype):
    assert_alike(NETWORKS["softmax"], OPTIMIZERS[optimizer], dtype, SETTINGS)


@each_dtype
@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam"])
@pytest.mark.parametrize("width", WIDTHS)
def test_layers_of_every_width_train_as_in_the_twin(width, optimizer, dtype):
    network = (9, width, max(2, width - 1), width), "tanh", "squared_error"
    assert_alike(network, OPTIMIZERS[optimizer], dtype, {"l2": 0.01, "dropout": 0.2})
    assert_alike(network, OPTIMIZERS[optimizer], dtype, {"dropout": 0.2})


@each_dtype
@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam"])
@pytest.mark.parametrize("width", WIDTHS)
def test_one_output_of_layers_of_every_width_trains_as_in_the_twin(width, optimizer, dtype):
    assert_alike(((5, width, 1), "tanh", "squared_error"), OPTIMIZERS[optimizer], dtype, {"dropout": 0.2})


@each_dtype
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_falling_learning_rate_trains_as_in_the_twin(momentum, dtype):
    optimizer = fastbp.SGD(fastbp.schedules.Exponential(0.05, 0.9), momentum=momentum)
    assert_alike(NETWORKS["squared error"], optimizer, dtype, {})


@each_dtype
def test_large_layers_train_as_in_the_twin(dtype):
    assert_alike(((301, 30, 130, 10), "tanh", "squared_error"), OPTIMIZERS["momentum"], dtype, {})


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_tiny_network_with_dropout_is_for_one_sample_too(optimizer):
    assert_alike(((2, 3, 1), "tanh", "squared_error"), OPTIMIZERS[optimizer], np.float64, {"dropout": 0.5})


@each_dtype
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize(
    "sizes, batch_size, kernel",
    [((7, 9, 2), 1, "train_online"), ((2, 3, 1), 3, "train_in_few_lanes"), ((2, 3, 1), 7, "train_in_many_lanes")],
)
def test_samples_of_every_kind_are_scaled_as_in_the_twin(sizes, batch_size, kernel, kind, dtype):
    X, Y, _ = problem(sizes, dtype)
    X = (np.abs(X) * 50).astype(kind)

    def parameters(backend):
        net = fastbp.Network(sizes, "tanh", input_scale=0.01, seed=1, dtype=dtype, backend=backend)
        fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=batch_size, seed=2).fit(X, Y, 3)
        return net.parameters

    with watch_kernels() as kernels:
        found = parameters("numba")
    assert kernels == {kernel}
    tolerance = {np.float32: 1e-5, np.float64: 1e-12}[dtype]
    np.testing.assert_allclose(found, parameters("numpy"), tolerance, tolerance)


def test_threads_do_not_change_the_bits():
    expected, _ = trained("numba", NETWORKS["softmax"], OPTIMIZERS["adam"], np.float32, SETTINGS)
    with threads_everywhere(2):
        found, _ = trained("numba", NETWORKS["softmax"], OPTIMIZERS["adam"], np.float32, SETTINGS, threads=2)
    assert found.tobytes() == expected.tobytes()


@each_dtype
def test_a_training_stopped_and_resumed_has_the_same_bits(dtype, tmp_path):
    network, settings = NETWORKS["softmax"], {k: v for k, v in SETTINGS.items() if k != "sample_weight"}
    expected, _ = trained("numba", network, OPTIMIZERS["adam"], dtype, settings, epochs=3)
    sizes, activations, loss = network
    X, Y, _ = problem(sizes, dtype)

    def trainer():
        net = fastbp.Network(sizes, activations, loss, seed=1, dtype=dtype)
        return fastbp.Trainer(net, OPTIMIZERS["adam"], batch_size=1, seed=2, **settings)

    first = trainer()
    first.fit(X, Y, 1)
    first.save_checkpoint(tmp_path / "checkpoint")
    second = trainer()
    second.load_checkpoint(tmp_path / "checkpoint")
    for _ in range(2):
        second.fit(X, Y, 1)
    assert second.net.parameters.tobytes() == expected.tobytes()


def with_a_huge_target(backend, on_nonfinite, **settings):
    """Train where the loss of sample 3 is not finite; return the trainer."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((8, 5)), rng.random((8, 2))
    Y[3] = 1e200
    net = fastbp.Network((5, 9, 2), "tanh", seed=1, dtype="float64", backend=backend)
    trainer = fastbp.Trainer(
        net, fastbp.Adam(), batch_size=1, shuffle=False, seed=2, on_nonfinite=on_nonfinite, **settings
    )
    says = nullcontext() if on_nonfinite == "skip" else pytest.warns(RuntimeWarning, match="non-finite")
    with watch_kernels() as kernels, says:
        trainer.fit(X, Y, 2)
    assert kernels == ({"train_online"} if backend == "numba" else set())
    return trainer


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.2, "input_noise": 0.1, "clip_norm": 1.0}], ids=["plain", "all"])
@pytest.mark.parametrize("on_nonfinite", ["skip", "stop"])
def test_a_loss_that_is_not_finite(on_nonfinite, settings):
    trainer, twin = (with_a_huge_target(backend, on_nonfinite, **settings) for backend in ("numba", "numpy"))
    np.testing.assert_allclose(trainer.net.parameters, twin.net.parameters, 1e-10, 1e-10)
    assert trainer.state.step == twin.state.step == (16 if on_nonfinite == "skip" else 3)
    assert trainer.state.skipped == twin.state.skipped == (2 if on_nonfinite == "skip" else 0)
