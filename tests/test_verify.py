"""net.verify: it agrees where all is well, and no planted fault passes."""

import numpy as np
import pytest

import fastbp
from fastbp import reference
from fastbp.activations import ACTIVATIONS
from fastbp.backends import BACKENDS
from fastbp.losses import LOSSES


def wrong(name):
    """Return a backend with one fault."""

    class Wrong(reference.NumpyBackend):
        def output_delta(self, Z, A, Y):
            delta = super().output_delta(Z, A, Y)
            if name == "missing 1/n":
                return delta * len(A)
            if name == "1/n twice":
                return delta / len(A)
            return A - Y if name == "output derivative left out" else delta

        def activation_backward(self, layer, Z, A, dA):
            if name == "hidden derivative of A instead of Z" and layer == 0:
                return dA * (1 - np.tanh(A) ** 2)
            if name == "hidden derivative left out" and layer == 0:
                return dA
            return super().activation_backward(layer, Z, A, dA)

        def backward(self, parameters, Z, A, delta):
            deltas, gradient = super().backward(parameters, Z, A, delta)
            dW, db = reference.layer_views(gradient, self.sizes)
            if name == "wrong sign":
                gradient *= -1
            if name == "wrong sign of one layer":
                dW[0] *= -1
            if name == "transposed matrix":
                dW[0][...] = dW[0].T.copy()
            if name == "W not transposed on the way back":
                hidden = (deltas[1] @ reference.layer_views(parameters, self.sizes)[0][1]) * (1 - A[1] ** 2)
                dW[0][...] = A[0].T @ hidden
            if name == "bias gradient averaged":
                db[1] /= len(A[0])
            if name == "one element off by a thousandth":
                dW[1].flat[np.abs(dW[1]).argmax()] *= 1.001
            return deltas, gradient

        def forward(self, parameters, X):
            Z, A = super().forward(parameters, X)
            if name == "bias left out of the last layer":
                Z[-1] = A[-2] @ reference.layer_views(parameters, self.sizes)[0][-1]
                A[-1] = np.tanh(Z[-1])
            return Z, A

    return Wrong


FAULTS = [
    "missing 1/n",
    "1/n twice",
    "output derivative left out",
    "hidden derivative of A instead of Z",
    "hidden derivative left out",
    "wrong sign",
    "wrong sign of one layer",
    "transposed matrix",
    "W not transposed on the way back",
    "bias gradient averaged",
    "one element off by a thousandth",
]


def network(dtype, **options):
    """Build a network with square matrices, in which a transposed one still fits."""
    net = fastbp.Network([4, 4, 4], "tanh", seed=0, dtype=dtype, **options)
    net.biases[0], net.biases[1] = 0.1 * np.arange(4), 0.1
    return net


@pytest.fixture
def data():
    """Draw samples and targets."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 9, 4))


def test_all_is_well(data):
    for dtype in ("float32", "float64"):
        report = network(dtype).verify(*data)
        assert report.ok and "everything agrees" in str(report) and "9 of 9 samples" in str(report)
        assert [(row.layer, row.quantity) for row in report.rows] == [
            (1, "A"),
            (1, "dW"),
            (1, "db"),
            (1, "dX"),
            (2, "A"),
            (2, "dW"),
            (2, "db"),
        ]
        assert all(row.checked > 0 and row.skipped == 0 for row in report.rows if row.differences is not None)


@pytest.mark.parametrize("where", ["numpy", "both"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, dtype, where, data, monkeypatch):
    """In one backend the other tells it, in both the central differences do."""
    if where == "both":
        monkeypatch.setitem(BACKENDS, "numba", BACKENDS["numpy"])
    monkeypatch.setattr(reference.training, "NumpyBackend", wrong(fault))
    report = network(dtype, backend="numpy").verify(*data)
    assert not report.ok and "WRONG" in str(report)
    slopes_wrong = [row for row in report.rows if row.differences is not None and row.differences > 1e-5]
    assert slopes_wrong and not any(row.ok for row in slopes_wrong)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fault", [*FAULTS, "bias left out of the last layer"])
def test_a_fault_in_numba_alone_is_found(fault, dtype, data, monkeypatch):
    monkeypatch.setattr(reference.training, "Wrong", wrong(fault), raising=False)
    monkeypatch.setitem(BACKENDS, "numba", BACKENDS["numpy"]._replace(class_name="Wrong"))
    report = network(dtype, backend="numpy").verify(*data)
    assert not report.ok
    assert any(row.numba > 1e-4 and not row.ok for row in report.rows)
    assert all((row.numba_32 is None) == (dtype == "float64") for row in report.rows)
    assert dtype == "float64" or any(row.numba_32 > 1e-4 and not row.ok for row in report.rows)
    assert all(row.differences < 1e-6 for row in report.rows if row.differences is not None)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "softmax"])
def test_a_wrong_derivative_of_each_activation_is_found(activation, data, monkeypatch):
    right = getattr(reference, f"{activation}_derivative")

    def wrong_derivative(Z, A, out):
        right(Z, A, out)
        out *= 1.01

    monkeypatch.setattr(reference.elementwise, f"{activation}_derivative", wrong_derivative)
    monkeypatch.setitem(BACKENDS, "numba", BACKENDS["numpy"])
    net = fastbp.Network([4, 4, 4], [activation, "identity"], seed=0, backend="numpy")
    assert not net.verify(*data).ok


@pytest.mark.parametrize("loss", LOSSES)
def test_a_wrong_derivative_of_each_loss_is_found(loss, data, monkeypatch):
    right = getattr(reference, f"{loss}_derivative")

    def wrong_derivative(*arguments):
        right(*arguments)
        arguments[-1][...] *= 1.01

    monkeypatch.setattr(reference.losses, f"{loss}_derivative", wrong_derivative)
    monkeypatch.setitem(BACKENDS, "numba", BACKENDS["numpy"])
    monkeypatch.setattr(reference.backprop, "LOGIT_FORMS", {})
    output = {
        "cross_entropy": "softmax",
        "binary_cross_entropy": "sigmoid",
        "focal": "sigmoid",
        "poisson": "softplus",
    }.get(loss, "identity")
    net = fastbp.Network([4, 4, 4], ["tanh", output], loss, seed=0, backend="numpy")
    Y = np.full((9, 4), 0.25) if LOSSES[loss].within_01 or LOSSES[loss].is_positive else data[1]
    Y = np.sign(Y) if LOSSES[loss].takes_signs else Y
    assert not net.verify(data[0], Y).ok
    monkeypatch.undo()
    assert net.verify(data[0], Y).ok


HIDDEN = ["relu", "leaky_relu", "softmax", "gelu"]
OUTPUTS = [
    ("identity", "squared_error"),
    ("identity", "absolute_error"),
    ("relu", "huber"),
    ("softmax", "cross_entropy"),
]
KINDS = [("float32", "mean"), ("float64", "sum"), ("float32", "sum"), ("float64", "mean")]


@pytest.mark.parametrize(
    "hidden, output, loss, dtype, reduction",
    [
        pytest.param(hidden, *output, *kind, marks=[] if k == (i + j) % 4 else pytest.mark.exhaustive)
        for i, hidden in enumerate(HIDDEN)
        for j, output in enumerate(OUTPUTS)
        for k, kind in enumerate(KINDS)
    ],
)
def test_no_false_alarm(hidden, output, loss, dtype, reduction):
    rng = np.random.default_rng(1)
    net = fastbp.Network([5, 40, 30, 3], [hidden, hidden, output], loss, reduction=reduction, seed=0, dtype=dtype)
    X = rng.normal(size=(300, 5)) * [1, 1, 1, 0, 200]
    Y = rng.integers(0, 3, 300) if loss == "cross_entropy" else rng.normal(size=(300, 3))
    report = net.verify(X, Y)
    assert report.ok, str(report)
    assert 50 <= report.n_used <= 128 and report.n_samples == 300 and not report.moved
    assert all(row.checked > 0 for row in report.rows if row.quantity in ("dW", "db"))


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error"])
def test_no_false_alarm_where_every_sample_lies_on_a_kink(loss, xor):
    for init in ("zeros", "glorot_uniform"):
        net = fastbp.Network([2, 4, 1], ["relu", "identity"], loss, init=init, seed=0, dtype="float64")
        before = net.parameters.copy()
        report = net.verify(*xor)
        assert report.ok and report.moved == (init == "zeros"), str(report)
        np.testing.assert_array_equal(net.parameters, before)
    report = net.verify(np.zeros((1, 2)), [[0.0]])
    assert report.ok and report.moved and "moved" in str(report)


@pytest.mark.parametrize("activation, kink", [("relu", 0), ("hard_tanh", -1), ("hard_tanh", 1), ("hard_sigmoid", 3)])
def test_no_false_alarm_where_every_z_lies_on_a_kink(activation, kink, xor):
    init = [(np.zeros((2, 3)), np.full(3, float(kink))), (np.ones((3, 1)), [0.1])]
    report = fastbp.Network([2, 3, 1], [activation, "identity"], init=init, dtype="float64").verify(*xor)
    assert report.ok and report.moved, str(report)


def test_no_false_alarm_where_some_or_all_steps_cross_a_kink():
    # Z of a relu is 1e-3, and a step of 6e-6 in the layer before moves it by 6e-3
    steep = np.array([[1000.0, 0.0], [0.0, 1.0]]), np.array([1e-3 - 1000, 0.0])
    init = [([[1.0, 1.0]], [0.0, 0.0]), steep, ([[1.0], [1.0]], [0.0])]
    net = fastbp.Network([1, 2, 2, 1], ["identity", "relu", "identity"], init=init, dtype="float64")
    report = net.verify([[1.0]], [[0.5]])
    assert report.ok, str(report)
    assert {row.skipped for row in report.rows if row.layer == 1 and row.quantity in ("dW", "db")} == {1}
    assert "on kinks" in str(report)
    init = [([[1.0]], [0.0]), ([[1000.0]], [1e-3 - 1000]), ([[1.0]], [0.0])]
    net = fastbp.Network([1, 1, 1, 1], ["identity", "relu", "identity"], init=init, dtype="float64")
    report = net.verify([1.0], 0.5)
    assert report.ok and not any(row.skipped for row in report.rows), str(report)


@pytest.mark.parametrize("epochs", [300, 5000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_false_alarm_after_training_to_the_end(epochs, dtype, xor):
    net = fastbp.Network([2, 4, 1], ["tanh", "identity"], seed=0, dtype=dtype)
    fastbp.Trainer(net, fastbp.SGD(0.3, 0.9), batch_size=None).fit(*xor, epochs=epochs)
    report = net.verify(*xor)
    assert not report.is_wrong, str(report)
    if net.loss(*xor) < 1e-30:  # A - Y is nothing but rounding
        assert not report.ok and "no gradient could be checked here" in str(report)
    else:
        assert report.ok, str(report)


def verdicts(report, layer):
    """Verdicts of the gradients of a layer."""
    return {row.verdict for row in report.rows if row.layer == layer and row.quantity != "A"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where_nothing_can_be_checked(dtype):
    net = fastbp.Network([1, 1, 1], ["exponential", "tanh"], init=[([[1.0]], [30.0]), ([[0.5]], [0.0])], dtype=dtype)
    report = net.verify([[1.0]], [[0.5]])
    assert not report.ok and not report.is_wrong, str(report)
    assert verdicts(report, 1) == verdicts(report, 2) == {"not checkable"}
    assert "no gradient could be checked here" in str(report) and "WRONG" not in str(report)


@pytest.mark.parametrize("activation", ["selu", "elu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saturated_layer_cannot_be_checked_but_the_others_can(activation, dtype):
    init = [(np.full((2, 3), 0.1), np.full(3, -62.0)), (np.array([[0.5], [-0.3], [0.2]]), [0.1])]
    report = fastbp.Network([2, 3, 1], [activation, "identity"], init=init, dtype=dtype).verify([[1.0, 2]], [[0.5]])
    assert report.ok and verdicts(report, 1) == {"not checkable"} and verdicts(report, 2) == {"agrees"}, str(report)
    assert "everything that can be checked here agrees" in str(report)


@pytest.mark.parametrize("loss", ["focal", "binary_cross_entropy", "cross_entropy"])
def test_a_saturated_softmax_is_checked(loss):
    net = fastbp.Network([2, 3, 3], ["tanh", "softmax"], loss, seed=0, dtype="float64")
    net.biases[1] = [40, 0, -40]
    report = net.verify([[1.0, 2.0]], [[0.0, 0, 1]])
    assert report.ok and all(row.ok for row in report.rows), str(report)


def test_outputs_beyond_float64_cannot_be_checked():
    init = [([[1.0]], [800.0]), ([[1.0]], [0.0])]
    report = fastbp.Network([1, 1, 1], ["exponential", "identity"], init=init, dtype="float64").verify([[1.0]], [[0.5]])
    assert not report.ok and not report.is_wrong, str(report)


@pytest.mark.parametrize("size", [1e-6, 1e-15, 1e-27])
@pytest.mark.parametrize("fault", [*FAULTS])
def test_a_fault_is_found_where_gradients_are_tiny_but_whole(fault, size, data, monkeypatch):
    """Small, not lost in rounding: the samples of the first layer are small, as are the weights of the last."""
    monkeypatch.setattr(reference.training, "Wrong", wrong(fault), raising=False)
    net = network("float64", backend="numpy")
    net.weights[1] *= size
    net.biases[1] = 0
    X, Y = data[0], size * data[1]
    assert net.verify(X, Y).ok
    monkeypatch.setitem(BACKENDS, "numba", BACKENDS["numpy"]._replace(class_name="Wrong"))
    report = net.verify(X, Y)
    assert report.is_wrong and not report.ok, str(report)


def test_labels_and_one_sample(data):
    net = fastbp.Network([4, 3], "softmax", "cross_entropy", seed=0)
    assert net.verify(data[0], np.arange(9) % 3).ok
    assert net.verify(data[0][0], 2).ok


def test_parameters_that_are_not_finite_are_not_ok(data):
    net = network("float64")
    net.weights[0][0, 0] = np.nan
    with np.errstate(all="ignore"):
        assert not net.verify(*data).ok
