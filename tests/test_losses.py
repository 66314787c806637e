"""Losses that take a number, and losses that ask something of outputs or targets."""

import json
import pickle

import numpy as np
import pytest
from mpmath import mp

import fastbp
from fastbp import files, kernels
from fastbp.losses import LOSSES, Focal, Huber, Quantile, settings_of

OUTPUT = {"focal": "sigmoid", "binary_cross_entropy": "sigmoid", "poisson": "exponential"}
WITH_NUMBER = [Huber(0.2), Huber(3), Quantile(0.1), Quantile(q=0.9), Focal(gamma=0), Focal(0.5), Focal(gamma=5)]
each_with_number = pytest.mark.parametrize("loss", WITH_NUMBER, ids=str)


def network(loss, **options):
    name = loss if isinstance(loss, str) else loss.name
    return fastbp.Network([3, 5, 4], ["tanh", OUTPUT.get(name, "identity")], loss, seed=0, **options)


def data(n=20):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)), rng.random((n, 4))


# ------------------------------------------------------------------ the number


@each_with_number
def test_gradients_and_backends(loss, central_differences):
    X, Y = data()
    results = []
    for backend in ("numba", "numpy"):
        net = network(loss, dtype="float64", backend=backend)
        _, weights, biases = net.gradients(X, Y)
        flat = np.concatenate([array.ravel() for pair in zip(weights, biases, strict=True) for array in pair])
        wanted = central_differences(lambda net=net: net.loss(X, Y), net.parameters)
        np.testing.assert_allclose(flat, wanted, rtol=1e-6, atol=1e-8)
        fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=6, seed=0).fit(X, Y, epochs=3)
        fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=1, seed=0).fit(X, Y)
        results.append([flat, net.parameters, net.loss(X, Y)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, 1e-11, 1e-13)


@each_with_number
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_verify(loss, dtype):
    report = network(loss, dtype=dtype).verify(*data())
    assert report.ok, str(report)


@pytest.mark.parametrize(
    "name, number, plain",
    [("focal", Focal(gamma=0), "binary_cross_entropy"), ("huber", Huber(threshold=1e6), "squared_error")],
)
def test_special_numbers_give_other_losses(backend, name, number, plain):
    X, Y = data()
    one, other = (
        fastbp.Network([3, 4], "sigmoid", loss, seed=0, dtype="float64", backend=backend).gradients(X, Y)
        for loss in (number, plain)
    )
    assert one.loss == pytest.approx(other.loss, rel=1e-13)
    np.testing.assert_allclose(one.weights[0], other.weights[0], rtol=1e-12)
    assert number.name == name


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_the_quantile_loss_finds_the_quantile(backend, q):
    Y = np.random.default_rng(0).exponential(size=(101, 1))
    net = fastbp.Network([1, 1], "identity", Quantile(q), init="zeros", dtype="float64", backend=backend)
    slopes = []
    for move in (-1e-6, 1e-6):
        net.biases[0][:] = np.quantile(Y, q) + move
        slopes.append(net.gradients(np.zeros((101, 1)), Y).biases[0][0])
    assert slopes[0] < 0 < slopes[1] or 0 in np.round(slopes, 12)
    assert net.loss([[0.0]], [[net.biases[0][0] + 2]]) == pytest.approx(2 * q)


@pytest.mark.parametrize("name, default", [("huber", Huber()), ("quantile", Quantile()), ("focal", Focal())])
def test_the_name_alone_means_the_default(backend, name, default):
    X, Y = data()
    one, other = network(name, backend=backend), network(default, backend=backend)
    assert one.loss(X, Y) == other.loss(X, Y)
    assert one.loss_name == other.loss_name == name and one.loss_settings == other.loss_settings == settings_of(name)
    assert settings_of(name) == {"huber": {"threshold": 1.0}, "quantile": {"q": 0.5}, "focal": {"gamma": 2.0}}[name]
    assert network("squared_error").loss_settings == {}


@each_with_number
def test_copies_files_and_print(loss, backend, tmp_path):
    X, Y = data()
    net = network(loss, backend=backend)
    same = [net.copy(), net.with_backend(backend), pickle.loads(pickle.dumps(net))]
    for suffix in (".npz", ".safetensors"):
        net.save(tmp_path / f"m{suffix}")
        same.append(fastbp.load(tmp_path / f"m{suffix}", backend))
    for other in same:
        assert repr(other) == repr(net) and other.loss_settings == net.loss_settings
        assert other.loss(X, Y) == net.loss(X, Y) != network(loss.name, backend=backend).loss(X, Y)
    (number,) = net.loss_settings.values()
    assert f"loss={loss!r}" in repr(net)
    assert all(f"={number:g})" in printed for printed in (net.summary(), str(net.trace(X, Y))))


def rewritten(path, change):
    """Change the header of a file, and its checksum with it."""
    arrays = dict(np.load(path))
    header = json.loads(arrays.pop("header").tobytes())
    parameters = np.concatenate([array.ravel() for array in arrays.values()])
    del header["sha256"]
    change(header)
    header["sha256"] = files._checksum(header, parameters)
    np.savez(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def test_files_from_before_there_were_numbers(backend, tmp_path):
    path = tmp_path / "m.npz"
    network(Huber(1.0), backend=backend).save(path)
    rewritten(path, lambda header: header.pop("loss_settings"))
    assert fastbp.load(path, backend).loss_settings == {"threshold": 1.0}
    network("squared_error", backend=backend).save(path)
    rewritten(path, lambda header: header.pop("format"))
    with pytest.raises(ValueError, match="damaged"):
        fastbp.load(path, backend)


@pytest.mark.parametrize("settings", [{"threshold": -1.0}, {"q": 0.5}, {"threshold": "x"}, 3])
def test_files_with_settings_that_do_not_fit(settings, tmp_path):
    path = tmp_path / "m.npz"
    network(Huber(2.0), backend="numpy").save(path)
    rewritten(path, lambda header: header.update(loss_settings=settings))
    with pytest.raises(ValueError, match="damaged"):
        fastbp.load(path, "numpy")


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: Huber(0), ValueError, ["threshold", "above 0"]),
        (lambda: Huber("1"), TypeError, ["threshold", "'1'"]),
        (lambda: Quantile(1.0), ValueError, ["q", "below 1", "1.0"]),
        (lambda: Quantile(q=0), ValueError, ["q", "above 0"]),
        (lambda: Focal(-1), ValueError, ["gamma", "at least 0"]),
        (lambda: Focal(np.nan), ValueError, ["gamma", "nan"]),
        (lambda: Huber(True), TypeError, ["threshold"]),
        (
            lambda: network(Focal(), backend="numpy").loss(np.ones((1, 3)), np.full((1, 4), 2.0)),
            ValueError,
            ["Y holds 2", "focal", "[0, 1]"],
        ),
        (
            lambda: fastbp.Network([3, 2], "tanh", Focal(), backend="numpy"),
            ValueError,
            ["'focal'", "sigmoid", "'tanh'"],
        ),
    ],
)
def test_bad_numbers(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


# ------------------------------------------------------------------ outputs and targets


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "hard_sigmoid"])
def test_poisson_wants_outputs_above_zero(activation):
    with pytest.raises(ValueError, match=f"'poisson' takes outputs above 0: .*softplus.*exponential.*'{activation}'"):
        fastbp.Network([3, 2], activation, "poisson", backend="numpy")


@pytest.mark.parametrize(
    "loss, Y, words",
    [
        ("poisson", [[1.0, -0.5, 2, 0]], ["Y holds -0.5", "'poisson'", "not below 0"]),
        ("hinge", [[1.0, -1, 1, 0]], ["Y holds 0", "'hinge'", "-1 or 1"]),
        ("hinge", [[1.0, -1, 1, 2]], ["Y holds 2", "'hinge'", "-1 or 1"]),
    ],
)
def test_targets(backend, loss, Y, words):
    with pytest.raises(ValueError) as caught:
        network(loss, backend=backend).loss([[1.0, 2, 3]], Y)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("loss", ["focal", Focal(0.5), Focal(0), Focal(7), "poisson"], ids=str)
def test_finite_at_saturated_outputs(backend, loss, size, dtype):
    net = fastbp.Network([1, 2], "sigmoid", loss, init="zeros", dtype=dtype, backend=backend)
    net.weights[0][:] = [[size, -size]]
    for Y in ([[1.0, 0]], [[0.0, 1]], [[0.5, 0.5]]):
        value, (dW,), _ = net.gradients([[1.0]], Y)
        assert np.isfinite(value) and np.isfinite(dW).all()


def test_poisson_is_the_negative_log_likelihood_up_to_what_the_targets_alone_decide(backend):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(400, 2)), rng.poisson(3.0, (400, 1)).astype(float)
    net = fastbp.Network([2, 1], "exponential", "poisson", init="zeros", dtype="float64", backend=backend)
    assert net.loss(X, Y) == pytest.approx(1)
    fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=None).fit(np.zeros_like(X), Y, epochs=500)
    assert net.predict([0.0, 0])[0] == pytest.approx(Y.mean(), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_cosh_keeps_its_relative_accuracy(dtype):
    d = np.concatenate([10.0 ** np.linspace(-15, 1.9, 400), np.linspace(0.8, 0.95, 100), [0, 1e4, 1e30]]).astype(dtype)
    out = np.empty(len(d), dtype)
    kernels.log_cosh(d[:, None], np.zeros((len(d), 1), dtype), out)
    with mp.workprec(200):
        exact = np.array(
            [float(mp.log(mp.cosh(mp.mpf(float(v)))) if v < 100 else mp.mpf(float(v)) - mp.log(2)) for v in d]
        )
    np.testing.assert_allclose(out, exact, 8 * np.finfo(dtype).eps, np.finfo(dtype).tiny)


def test_every_loss_has_its_row():
    assert {name for name, row in LOSSES.items() if row.settings} == {"huber", "quantile", "focal"}
    assert all(row.settings.name == name for name, row in LOSSES.items() if row.settings)
