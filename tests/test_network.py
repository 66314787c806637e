"""The network: parameters, prediction, copies, initializers, how it prints."""

import copy
import importlib.metadata
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import fastbp
from fastbp import initializers
from fastbp.activations import ACTIVATIONS
from fastbp.network import Layer


def test_parameters_are_one_aligned_buffer_of_views(backend):
    for dtype in ("float32", "float64"):
        for sizes in ([1, 1], [3, 5, 2], [7, 1, 1, 9]):
            net = fastbp.Network(sizes, seed=0, dtype=dtype, backend=backend)
            assert net.parameters.ctypes.data % 64 == 0 and net.parameters.dtype == dtype
            flat = [array.ravel() for pair in zip(net.weights, net.biases, strict=True) for array in pair]
            np.testing.assert_array_equal(np.concatenate(flat), net.parameters)
            assert all(np.shares_memory(array, net.parameters) for array in [*net.weights, *net.biases])


def test_parameters_are_written_in_place(backend):
    net = fastbp.Network([2, 3, 1], seed=0, backend=backend)
    buffer = net.parameters
    net.weights[0] = np.arange(6).reshape(2, 3)
    net.weights[1][:] = 7
    net.biases[0] -= 2
    net.parameters[-1:] = 9
    net.parameters *= 2
    np.testing.assert_array_equal(net.parameters, 2 * np.array([0, 1, 2, 3, 4, 5, -2, -2, -2, 7, 7, 7, 9]))
    assert net.parameters is buffer
    with pytest.raises(AttributeError, match=r"net\.parameters\[:\]"):
        net.parameters = np.zeros(13)
    with pytest.raises(ValueError):
        net.weights[0] = np.zeros((3, 3))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_predict_is_the_formula(backend, activation):
    net = fastbp.Network([4, 5, 3], [activation, "identity"], seed=0, dtype="float64", backend=backend)
    X = np.random.default_rng(0).normal(size=(6, 4))
    A1 = np.empty((6, 5))
    getattr(fastbp.reference, activation)(X @ net.weights[0] + net.biases[0], A1)
    expected = A1 @ net.weights[1] + net.biases[1]
    np.testing.assert_allclose(net.predict(X), expected, rtol=1e-12)
    np.testing.assert_allclose(net.predict(X[2]), expected[2], rtol=1e-12)
    A = net.activations_of(X)
    for ours, theirs in zip(A, [X, A1, expected], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert [a.shape for a in net.activations_of(X[0])] == [(4,), (5,), (3,)]


def test_predict_gives_a_new_array_of_the_dtype(backend):
    for dtype in ("float32", "float64"):
        net = fastbp.Network([2, 2], "identity", seed=0, dtype=dtype, backend=backend)
        for X in ([[1, 2]], np.ones((3, 2), np.uint8), np.ones((3, 2), "float32"), np.ones((3, 2))):
            first, second = net.predict(X), net.predict(X)
            assert first.dtype == dtype and first.shape == np.shape(X)
            assert not np.shares_memory(first, second) and not np.shares_memory(first, net.parameters)


def test_every_array_layout_gives_the_same_answer(backend):
    rng = np.random.default_rng(0)
    net = fastbp.Network([4, 6, 2], ["tanh", "sigmoid"], seed=0, backend=backend)
    X = rng.integers(0, 8, (10, 4)).astype(np.float32)
    Y = rng.integers(0, 2, (10, 2)).astype(np.float32)
    expected, loss = net.predict(X), net.loss(X, Y)
    unaligned = np.frombuffer(b"\0" + X.tobytes(), np.uint8)[1:].view("f4").reshape(10, 4)
    read_only = X.copy()
    read_only.flags.writeable = False
    wide = np.zeros((20, 8), np.float32)
    wide[::2, ::2] = X
    kinds = [X.astype(kind) for kind in ("f2", "f8", ">f4", ">f8", "u1", "i1", "i8", ">i2", "u4", "g")]
    for same in (*kinds, X.tolist(), np.asfortranarray(X), wide[::2, ::2], unaligned, read_only, X[::-1][::-1]):
        np.testing.assert_array_equal(net.predict(same), expected)
    for same in (Y.astype(bool), Y.astype("f2"), Y.astype(">f8"), Y.astype(int), Y.tolist(), np.asfortranarray(Y)):
        assert net.loss(X, same) == loss


def test_loss_and_reductions(backend):
    X, Y = np.random.default_rng(0).normal(size=(2, 7, 3))
    mean = fastbp.Network([3, 3], "tanh", seed=0, dtype="float64", backend=backend)
    total = fastbp.Network([3, 3], "tanh", seed=0, dtype="float64", reduction="sum", backend=backend)
    expected = 0.5 * ((mean.predict(X) - Y) ** 2).sum(axis=1)
    assert mean.loss(X, Y) == pytest.approx(expected.mean()) and total.loss(X, Y) == pytest.approx(expected.sum())
    np.testing.assert_allclose(total.gradients(X, Y).weights[0], 7 * mean.gradients(X, Y).weights[0], rtol=1e-12)
    assert isinstance(mean.loss(X, Y), float) and mean.loss(X[0], Y[0]) == pytest.approx(expected[0])


def test_one_output_takes_flat_targets(backend):
    X, y = np.random.default_rng(0).normal(size=(7, 3)), np.arange(7) % 2
    for activation, loss in (("tanh", "squared_error"), ("sigmoid", "binary_cross_entropy")):
        net = fastbp.Network([3, 1], activation, loss, seed=0, backend=backend)
        assert net.loss(X, y) == net.loss(X, y[:, None]) == net.loss(X, y.astype(bool)) == net.loss(X, y.tolist())
        assert net.loss(X[0], y[0]) == net.loss(X[0], [y[0]]) == net.loss(X[:1], y[:1])


def test_labels_are_one_hot_rows(backend):
    X, labels = np.random.default_rng(0).normal(size=(7, 3)), np.arange(7) % 4
    net = fastbp.Network([3, 4], "softmax", "cross_entropy", seed=0, dtype="float64", backend=backend)
    for same in (labels, labels.astype("u1"), labels.astype(">i4"), labels.tolist(), np.repeat(labels, 2)[::2]):
        assert net.loss(X, same) == pytest.approx(net.loss(X, np.eye(4)[labels]), rel=1e-14)
    assert net.loss(X[1], 1) == pytest.approx(net.loss(X[1:2], labels[1:2]))


def test_saturated_outputs_have_a_finite_loss(backend):
    for activation, loss in (("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy")):
        net = fastbp.Network([1, 2], activation, loss, init=[([[1e20, -1e20]], [0, 0])], backend=backend)
        gradients = net.gradients([[1.0]], [[0.0, 1.0]])
        assert 1e19 < gradients.loss < 1e21 and np.isfinite(gradients.weights[0]).all()
        assert net.loss([[1.0]], [[1.0, 0.0]]) == 0


def test_layers_share_the_parameters_and_chain_to_the_gradient(backend):
    rng = np.random.default_rng(0)
    net = fastbp.Network([3, 5, 2], ["tanh", "softmax"], reduction="sum", seed=0, dtype="float64", backend=backend)
    X, Y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    A = X
    for layer in net.layers:
        A = layer.forward(A)
    np.testing.assert_allclose(A, net.predict(X), rtol=1e-13)
    dA = A - Y
    for layer in reversed(net.layers):
        dA = layer.backward(dA)
    np.testing.assert_allclose(dA, net.input_gradient(X, Y), rtol=1e-11)
    for layer, dW, db in zip(net.layers, net.gradients(X, Y).weights, net.gradients(X, Y).biases, strict=True):
        np.testing.assert_allclose(layer.dW, dW, rtol=1e-11)
        np.testing.assert_allclose(layer.db, db, rtol=1e-11)
        layer.W -= 0.1 * layer.dW
    assert net.layers[0].W is net.weights[0] and net.layers[0].A_prev.shape == (6, 3)


def test_a_layer_without_a_network(backend):
    layer = Layer(np.eye(2), np.zeros(2), "relu", backend=backend)
    np.testing.assert_array_equal(layer.forward([3.0, -4.0]), [3, 0])
    np.testing.assert_array_equal(layer.backward([1.0, 1.0]), [1, 0])
    with pytest.raises(ValueError, match="forward"):
        Layer(np.eye(2), np.zeros(2), backend=backend).backward([[1.0, 1.0]])
    with pytest.raises(ValueError, match="dA has shape"):
        layer.backward(np.ones((3, 2)))
    assert repr(layer) == "Layer(2 -> 2, relu)"


@pytest.mark.parametrize("name", ["W", "b", "A_prev", "Z", "A"])
def test_arrays_of_a_layer_cannot_be_replaced(backend, name):
    net = fastbp.Network([3, 2], backend=backend, seed=0)
    for layer in (net.layers[0], Layer(np.eye(3), np.zeros(3), backend=backend)):
        layer.forward(np.ones((4, 3)))
        before = getattr(layer, name)
        with pytest.raises(AttributeError, match=f"{name} of a Layer cannot be replaced"):
            setattr(layer, name, np.ones((1, 1)))
        assert getattr(layer, name) is before
        assert layer.backward(np.ones((4, len(layer.b)))).shape == (4, 3)


def test_copies_are_independent(backend, xor):
    options = dict(loss="binary_cross_entropy", reduction="sum", backend=backend)
    net = fastbp.Network([2, 3, 1], ["tanh", "sigmoid"], seed=0, **options)
    net.metadata["who"] = "me"
    for same in (
        net.copy(),
        copy.copy(net),
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        net.with_backend("numpy").with_backend(backend),
    ):
        assert repr(same) == repr(net) and same.metadata == {"who": "me"}
        assert same.parameters.ctypes.data % 64 == 0
        np.testing.assert_array_equal(same.predict(xor[0]), net.predict(xor[0]))
        same.parameters[:] = 0
        same.metadata.clear()
        assert net.parameters.any() and net.metadata
    assert net.with_backend("numpy").backend == "numpy"


def test_seeds(backend):
    def parameters(seed, dtype="float64"):
        return fastbp.Network([3, 4, 2], seed=seed, dtype=dtype, backend=backend).parameters

    np.testing.assert_array_equal(parameters(3), parameters(3))
    np.testing.assert_array_equal(parameters(3), parameters(np.random.default_rng(3)))
    np.testing.assert_array_equal(parameters(3), parameters(np.random.SeedSequence(3)))
    np.testing.assert_array_equal(parameters(3).astype("f4"), parameters(3, "float32"))
    assert not np.array_equal(parameters(3), parameters(4))
    assert not np.array_equal(parameters(None), parameters(None))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    parameters(None)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    "name, std, bounded",
    [
        ("glorot_uniform", np.sqrt(2 / 500), True),
        ("glorot_normal", np.sqrt(2 / 500), False),
        ("he_uniform", np.sqrt(2 / 300), True),
        ("he_normal", np.sqrt(2 / 300), False),
        ("lecun_normal", np.sqrt(1 / 300), False),
        ("uniform", 0.5 / np.sqrt(3), True),
        ("normal", 0.1, False),
        ("zeros", 0, True),
        ("constant", 0, True),
        (initializers.Uniform(2.0), 2 / np.sqrt(3), True),
        (initializers.Normal(std=3.0), 3, False),
    ],
)
def test_initializers(name, std, bounded):
    net = fastbp.Network([300, 200], init=name, seed=0, backend="numpy", dtype="float64")
    W, b = net.weights[0], net.biases[0]
    assert W.std() == pytest.approx(std, rel=0.02)
    center = 0.5 if name == "constant" else 0.0
    assert (np.abs(W - center).max() <= np.sqrt(3) * std + 1e-12) == bounded
    uniform = name == "uniform" or isinstance(name, initializers.Uniform)
    assert b.any() == uniform and np.abs(b).max() <= np.abs(W).max()
    assert abs(W.mean() - center) < 5 * std / np.sqrt(W.size) + 1e-12


def test_arrays_and_functions_as_initializers():
    W, b = [[1, 2], [3, 4]], [5, 6]
    net = fastbp.Network([2, 2], init=[(W, b)], backend="numpy")
    np.testing.assert_array_equal(net.parameters, [1, 2, 3, 4, 5, 6])
    ones = fastbp.Network([2, 2], init=lambda rng, *shape: (np.ones(shape), np.zeros(shape[1])), backend="numpy")
    np.testing.assert_array_equal(ones.parameters, [1, 1, 1, 1, 0, 0])
    net = fastbp.Network([2, 2], init=initializers.Constant(-3), backend="numpy")
    np.testing.assert_array_equal(net.weights[0], np.full((2, 2), -3))


def test_one_initializer_per_layer():
    """Each layer draws as it does where all layers have its initializer, and arrays draw nothing."""
    sizes, pair = [3, 5, 4, 2], (np.full((5, 4), 7.0), np.arange(4.0))

    def network(init):
        return fastbp.Network(sizes, init=init, seed=4, dtype="float64", backend="numpy")

    net, normal = network(["he_normal", "zeros", initializers.Uniform(2.0)]), network("he_normal")
    np.testing.assert_array_equal(net.weights[0], normal.weights[0])
    assert not net.weights[1].any() and not net.biases[1].any()
    uniform = fastbp.Network(sizes, init=("he_normal", pair, initializers.Uniform(2.0)), seed=4, backend="numpy")
    np.testing.assert_array_equal(uniform.weights[1], pair[0])
    np.testing.assert_array_equal(uniform.biases[1], pair[1])
    np.testing.assert_array_equal(uniform.weights[2], net.weights[2].astype(np.float32))
    assert 1 < np.abs(net.weights[2]).max() <= 2 and net.biases[2].all()
    np.testing.assert_array_equal(network(["he_normal"] * 3).parameters, normal.parameters)
    zero = network(["glorot_uniform", lambda rng, *shape: (np.ones(shape), np.zeros(shape[1])), "zeros"])
    assert (zero.weights[1] == 1).all()
    np.testing.assert_array_equal(zero.predict(np.ones((2, 3))), np.full((2, 2), 0.5))  # sigmoid of 0


def test_repr_and_summary(backend):
    net = fastbp.Network([64, 30, 10], ["sigmoid", "softmax"], "cross_entropy", seed=0, backend=backend)
    again = eval(repr(net), {"Network": fastbp.Network})
    assert repr(again) == repr(net)
    summary = net.summary()
    for words in ("64 x 30", "30 x 10", "softmax", "1,950", "310", "2,260", "9.04 kB", "cross_entropy (mean)", backend):
        assert words in summary


def test_what_the_package_shows():
    assert set(fastbp.__all__) <= set(dir(fastbp))
    assert all(hasattr(fastbp, name) for name in fastbp.__all__)
    assert fastbp.__version__ == importlib.metadata.version("fastbp")
    with pytest.raises(AttributeError, match="nothing_like_it"):
        fastbp.nothing_like_it  # noqa: B018
    assert fastbp.Gradients._fields == ("loss", "weights", "biases")


def test_importing_is_light():
    script = (
        "import sys, fastbp; fastbp.Network([2, 1], backend='numpy').predict([0, 1]); "
        "print([name for name in ('numba', 'rich', 'typer', 'safetensors', 'scipy') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output == "[]\n"


def test_metadata_that_could_not_be_read_again_is_not_written(tmp_path):
    net = fastbp.Network([2, 1])
    net.save(tmp_path / "m.npz")
    before = (tmp_path / "m.npz").read_bytes()
    for wrong in ({"epoch": 3}, {1: "x"}, None):
        net.metadata = wrong
        with pytest.raises(TypeError, match="metadata must be a dict of strings"):
            net.save(tmp_path / "m.npz")
    assert (tmp_path / "m.npz").read_bytes() == before


def test_numbers_too_large_for_the_dtype():
    large = [(np.full((2, 1), 1e39), [0.0])]
    for options, name in [
        ({"init": large}, "init: W"),
        ({"input_scale": 1e40}, "input_scale"),
        ({"input_scale": 1e-50}, "input_scale"),
    ]:
        with pytest.raises(ValueError, match=f"^{name}"):
            fastbp.Network([2, 1], **options)
        assert np.isfinite(fastbp.Network([2, 1], dtype="float64", **options).predict([[1.0, 2.0]])).all()


@pytest.mark.parametrize(
    "activation, loss", [("softmax", "cross_entropy"), ("softmax", "squared_error"), ("sigmoid", "cross_entropy")]
)
def test_one_output_has_nothing_to_be_compared_with(backend, activation, loss, tmp_path, monkeypatch):
    """Neither in new networks nor in those of files and pickles of old versions."""
    with monkeypatch.context() as old:
        old.setattr(fastbp.checks, "widths", lambda *_: None)
        net = fastbp.Network([3, 1], activation, loss, backend=backend)
        net.save(tmp_path / "old.npz")
        pickled = pickle.dumps(net)
    for call in (
        lambda: fastbp.Network([3, 1], activation, loss, backend=backend),
        lambda: pickle.loads(pickled),
        lambda: fastbp.load(tmp_path / "old.npz", backend),
        net.copy,
    ):
        with pytest.raises(ValueError, match="^(activations|loss).*one.*'sigmoid'"):
            call()
    fastbp.Network([1, 2], "softmax", "cross_entropy", backend=backend)


@pytest.mark.parametrize(
    "W, b, message",
    [
        (np.ones((3, 2)), np.zeros(5), r"b must be float64 of shape \(2,\)"),
        (np.ones((3, 2)), np.zeros(2, np.float32), "b must be float64"),
        ([[1.0]], np.zeros(1), "W must be .* got list"),
        (np.ones((3, 2), int), np.zeros(2), "W must be .* got int64 array"),
        (np.ones(3), np.zeros(3), "W must be 2-D"),
        (np.ones((3, 2)).T, np.zeros(3), "W must be a C-contiguous"),
        (np.ma.array(np.ones((3, 2)), mask=np.eye(3, 2)), np.zeros(2), r"W\[0, 0\] is masked"),
    ],
)
def test_a_layer_of_arrays_that_do_not_fit(W, b, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fastbp.network.Layer(W, b)


def test_numba_without_its_compiler(tmp_path):
    code = (
        "import fastbp; print(fastbp.Network([2, 1], backend='numpy').predict([1.0, 2.0]).shape)\n"
        "try: fastbp.Network([2, 1]).predict([1.0, 2.0])\nexcept RuntimeError as error: print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "NUMBA_CACHE_DIR": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout.startswith("(1,)\n") and "NUMBA_DISABLE_JIT is set" in result.stdout


def test_the_old_name_of_the_input_scale_is_refused():
    with pytest.raises(TypeError, match="'scale'.*'input_scale'"):
        fastbp.Network([2, 1], scale=0.5)
    net = fastbp.Network([2, 1], input_scale=0.5, backend="numpy")
    for call in (lambda: net.scale, lambda: setattr(net, "scale", 1.0)):
        with pytest.raises(AttributeError, match="'scale'.*'input_scale'"):
            call()
    assert net.input_scale == net.copy().input_scale == pickle.loads(pickle.dumps(net)).input_scale == 0.5
    assert "input_scale=0.5" in repr(net)
    np.testing.assert_array_equal(net.activations_of([2.0, 4.0])[0], [1.0, 2.0])


def test_files_keep_the_input_scale_as_scale(tmp_path):
    fastbp.Network([2, 1], input_scale=0.5, backend="numpy").save(tmp_path / "net.npz")
    header = json.loads(np.load(tmp_path / "net.npz")["header"].tobytes())
    assert header["scale"] == 0.5 and "input_scale" not in header
    assert fastbp.load(tmp_path / "net.npz", "numpy").input_scale == 0.5
