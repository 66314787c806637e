"""Bad input: one clear error that names the argument, what was given and what was expected; nothing changes."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

import fastbp
from fastbp import arguments, checks, initializers
from fastbp.activations import ACTIVATIONS
from fastbp.initializers import INITIALIZERS
from fastbp.losses import LOSSES
from fastbp.metrics import METRICS, by_name

NAN, INF = float("nan"), float("inf")
X, Y = np.ones((6, 3)), np.full((6, 2), 0.5)
LABELS = np.array([0, 1, 0, 1, 0, 1])


class Sparse:
    """As a matrix of scipy.sparse."""

    def toarray(self):
        return X


class Refusing:
    """Raises where an array is made of it, as a tensor of PyTorch that requires a gradient."""

    def __array__(self, *_, **__):
        raise RuntimeError("Can't call numpy(), use .detach().numpy()")


# pyarrow takes NumPy 2 alone
ARROW_FLOAT, ARROW_INTEGER = ("Float64", "Int64") if np.__version__ < "2" else ("float64[pyarrow]", "int64[pyarrow]")


def table(kind=None, third=(1.5, 2, 3, 4, 5, 6)):
    """Six rows of three columns, the last one as given, or of a type of pandas."""
    third = third if kind is None else pd.array(third, kind)
    return pd.DataFrame({"a": [1, 2, 3, 4, 5, 6], "b": [True, False] * 3, "c": third})


def masked(array, *where):
    """Masked array with one element masked, or none."""
    mask = np.zeros(np.shape(array), bool)
    mask[where] = len(where) > 0
    return np.ma.array(array, mask=mask)


def spoilt(array, where, value):
    """Copy with one element changed."""
    array = array.copy()
    array[where] = value
    return array


#   X, Y, error, words of the message; for a 3-4-2 network with each loss
BAD_DATA = [
    ("squared_error", np.ones((6, 4)), Y, ValueError, ["X has 4 columns", "takes 3"]),
    ("squared_error", np.ones(6), Y, ValueError, ["X is 1-D", "one sample of 3", "reshape"]),
    ("squared_error", np.ones((6, 3, 1)), Y, ValueError, ["X must be 2-D", "3-D", "(6, 3, 1)"]),
    ("squared_error", 3.0, Y, ValueError, ["X must be 2-D", "0-D"]),
    ("squared_error", np.ones((0, 3)), np.ones((0, 2)), ValueError, ["X is empty", "(0, 3)"]),
    ("squared_error", [], [], ValueError, ["X is empty"]),
    ("squared_error", spoilt(X, (4, 1), NAN), Y, ValueError, ["X[4, 1] is nan", "finite"]),
    ("squared_error", spoilt(X, (0, 0), -INF).astype("f4"), Y, ValueError, ["X[0, 0] is -inf"]),
    ("squared_error", spoilt(X, (5, 2), NAN)[:, ::-1], Y, ValueError, ["X[5, 0] is nan"]),
    ("squared_error", spoilt(X, (1, 1), 1e300), Y, ValueError, ["X[1, 1] is 1e+300", "float32"]),
    ("squared_error", np.array([[1.0, "x", 2]] * 6, object), Y, TypeError, ["X[0, 1] is 'x' (str)", "encode text"]),
    ("squared_error", table(third=list("abcdef")), Y, TypeError, ["X", "column 'c' holds 'a' (str) in row 0"]),
    ("squared_error", table("category", list("abcdef")), Y, TypeError, ["column 'c' holds 'a' (str) in row 0"]),
    ("squared_error", table(third=[1, 2, 3, 4, 5j, 6]), Y, TypeError, ["column 'c' holds", "(complex) in row 0"]),
    ("squared_error", table(third=pd.date_range("2020", periods=6)), Y, TypeError, ["column 'c'", "(Timestamp)"]),
    ("squared_error", table("Int64", [1, 2, None, 4, 5, 6]), Y, ValueError, ["X[2, 2] is nan", "finite"]),
    ("squared_error", table(ARROW_FLOAT, [1, 2, 3, None, 5, 6]), Y, ValueError, ["X[3, 2] is nan", "finite"]),
    ("squared_error", [[1, 2, 3]] * 5 + [[1, None, 3]], Y, ValueError, ["X[5, 1] is nan", "finite"]),
    ("squared_error", [[1, 2, 10**400]] * 6, Y, ValueError, ["X holds an integer that is too large"]),
    ("squared_error", Sparse(), Y, TypeError, ["X", "sparse Sparse", "write X.toarray()"]),
    ("squared_error", Refusing(), Y, TypeError, ["X cannot be read as an array", "detach().numpy()"]),
    ("squared_error", [Refusing()] * 6, Y, TypeError, ["X cannot be read as an array", "detach().numpy()"]),
    ("squared_error", {"a": 1}, Y, TypeError, ["X", "dict"]),
    ("squared_error", np.ma.array([(1, 2)], "f4,f4", mask=[(True, False)]), Y, TypeError, ["X", "f0"]),
    ("squared_error", masked(X, 4, 1), Y, ValueError, ["X[4, 1] is masked"]),
    ("squared_error", list(masked(X, 4, 1)), Y, ValueError, ["X[4, 1] is masked"]),
    ("squared_error", [[1.0, 2.0, 3.0]] * 5 + [(1.0, np.ma.masked, 3.0)], Y, ValueError, ["X[5, 1] is masked"]),
    ("squared_error", X, masked(Y, 0, 1), ValueError, ["Y[0, 1] is masked"]),
    ("cross_entropy", X, masked(LABELS, 3), ValueError, ["Y[3] is masked"]),
    ("squared_error", np.ones((6, 3), complex), Y, TypeError, ["X", "complex128"]),
    ("squared_error", [["a", "b", "c"]] * 6, Y, TypeError, ["X", "<U1", "encode text"]),
    ("squared_error", None, Y, TypeError, ["X", "NoneType"]),
    ("squared_error", np.ones((6, 3), "M8[s]"), Y, TypeError, ["X", "datetime64"]),
    ("squared_error", [[1, 2, 3], [1, 2]], Y, ValueError, ["X", "rows of different lengths"]),
    ("squared_error", X, Y[:5], ValueError, ["Y has 5 rows", "X has 6"]),
    ("squared_error", X, np.ones((6, 3)), ValueError, ["Y has 3 columns", "2 outputs"]),
    ("squared_error", X, np.ones((6, 2, 1)), ValueError, ["Y must be 1-D or 2-D", "3-D"]),
    ("squared_error", X, 1.0, ValueError, ["Y must be 1-D or 2-D", "0-D"]),
    ("squared_error", X, spoilt(Y, (3, 1), NAN), ValueError, ["Y[3, 1] is nan"]),
    ("squared_error", X, spoilt(Y, (3, 1), INF), ValueError, ["Y[3, 1] is inf"]),
    ("squared_error", X, spoilt(Y, (3, 1), 1e300), ValueError, ["Y[3, 1] is 1e+300", "float32"]),
    ("squared_error", X, LABELS, ValueError, ["Y is 1-D", "2 outputs", "cross_entropy", "one-hot"]),
    ("squared_error", X, [["yes", "no"]] * 6, TypeError, ["Y", "<U3", "numpy.unique(Y, return_inverse=True)"]),
    ("cross_entropy", X, pd.Series(list("ababab")), TypeError, ["Y[0] is 'a'", "numpy.unique(Y, return_inverse=True)"]),
    ("cross_entropy", X, pd.Series([0, 1, 0, None, 1, 0], dtype="Int64"), ValueError, ["Y[3] is nan", "finite"]),
    ("cross_entropy", X, pd.Series(LABELS * 1.0), TypeError, ["integers", "numpy.asarray(Y).astype(int)"]),
    ("cross_entropy", X, pd.DataFrame({"y": LABELS}), ValueError, ["1 columns", "numpy.asarray(Y).ravel()"]),
    ("cross_entropy", X, LABELS[:, None].tolist(), ValueError, ["1 columns", "numpy.asarray(Y).ravel()"]),
    ("squared_error", X, [[1, 2], [1]], ValueError, ["Y", "rows of different lengths"]),
    ("binary_cross_entropy", X, LABELS, ValueError, ["cross_entropy", "one-hot"]),
    ("binary_cross_entropy", X, Y + 1, ValueError, ["Y holds 1.5", "[0, 1]"]),
    ("binary_cross_entropy", X, -Y, ValueError, ["Y holds -0.5", "[0, 1]"]),
    ("cross_entropy", X, LABELS + 1, ValueError, ["Y holds the label 2", "0 to 1"]),
    ("cross_entropy", X, LABELS - 1, ValueError, ["Y holds the label -1", "0 to 1"]),
    ("cross_entropy", X, np.full(6, 2**64 - 1, "u8"), ValueError, ["18446744073709551615"]),
    ("cross_entropy", X, LABELS.astype(float), TypeError, ["class labels", "integers", "float64", "astype(int)"]),
    ("cross_entropy", X, LABELS[:, None], ValueError, ["1 columns", "2 outputs", "Y.ravel()"]),
    ("cross_entropy", X, LABELS[:5], ValueError, ["Y has 5 rows"]),
    ("cross_entropy", X, spoilt(Y, (2, 0), 0.75), ValueError, ["Y[2] sums to 1.25", "sum to 1"]),
    ("cross_entropy", X, spoilt(Y, (2, 0), -0.5), ValueError, ["Y holds -0.5", "[0, 1]"]),
]
OUTPUT = {"squared_error": "tanh", "binary_cross_entropy": "sigmoid", "cross_entropy": "softmax"}


@pytest.mark.parametrize("loss, X, Y, error, words", BAD_DATA)
def test_bad_data(backend, loss, X, Y, error, words):
    net = fastbp.Network([3, 4, 2], ["tanh", OUTPUT[loss]], loss, seed=0, backend=backend)
    trainer = fastbp.Trainer(net, fastbp.SGD(0.1, 0.9), seed=0)
    before = net.parameters.copy()
    calls = [
        net.loss,
        net.gradients,
        net.input_gradient,
        net.trace,
        net.verify,
        trainer.fit,
        trainer.step,
        trainer.partial_fit,
    ]
    messages = set()
    for call in calls:
        with pytest.raises(error) as caught:
            call(X, Y)
        messages.add(str(caught.value))
    assert len(messages) <= 2 and all(word in message for word in words for message in messages)
    np.testing.assert_array_equal(net.parameters, before)
    assert not trainer.velocity.any() and trainer.epochs == 0


def test_bad_inputs_alone(backend):
    net = fastbp.Network([3, 2], seed=0, backend=backend)
    for call in (net.predict, net.activations_of, lambda X: net.backpropagate(X, Y), net.layers[0].forward):
        with pytest.raises(ValueError, match=r"\[4, 1\] is nan"):
            call(spoilt(X, (4, 1), NAN))
        with pytest.raises(ValueError, match="4 columns"):
            call(np.ones((6, 4)))
    with pytest.raises(ValueError, match=r"dA has shape \(6, 3\), expected \(6, 2\)"):
        net.backpropagate(X, X)
    with pytest.raises(ValueError, match=r"dA\[0, 0\] is nan"):
        net.backpropagate(X, spoilt(Y, (0, 0), NAN))
    with pytest.raises(ValueError, match=r"dA\[2, 1\] is masked"):
        net.backpropagate(X, masked(Y, 2, 1))
    for three, words in (
        (np.arange(3.0), r"write X\.reshape\(-1, 1\)"),
        ([1.0, 2, 3], r"write numpy\.asarray\(X\)\.reshape\(-1, 1\)"),
    ):
        with pytest.raises(ValueError, match=words):
            fastbp.Network([1, 1], backend=backend).predict(three)


@pytest.mark.parametrize(
    "given",
    [
        table(),
        table("Float64"),
        table("Float32"),
        table(ARROW_FLOAT),
        table(third=[1.5, *map(Decimal, "23456")]),
        table(third=[Fraction(3, 2), 2, 3, 4, 5, 6]),
        table().astype(object),
        table().to_numpy(object).tolist(),
        masked(table().to_numpy(float)),
        list(masked(table().to_numpy(float))),
    ],
)
def test_tables_of_numbers_of_several_types(backend, given):
    expected = np.array([[1, 1, 1.5], [2, 0, 2], [3, 1, 3], [4, 0, 4], [5, 1, 5], [6, 0, 6]])
    for dtype in ("float32", "float64"):
        net = fastbp.Network([3, 2], seed=0, dtype=dtype, backend=backend)
        np.testing.assert_array_equal(net.predict(given), net.predict(expected.astype(dtype)))
        history = fastbp.Trainer(net, fastbp.SGD(0.1)).fit(fastbp.stream(given, Y))
        assert len(history) == 1
    large = pd.DataFrame({"a": pd.array([2**24 + 1], "Int64"), "b": pd.array([0.5], "Float64")})
    np.testing.assert_array_equal(checks.inputs(large, 2, np.dtype("f8"))[0], [[2**24 + 1, 0.5]])


@pytest.mark.parametrize(
    "given",
    [
        pd.Series(LABELS, dtype="Int64"),
        pd.Series(LABELS, dtype=ARROW_INTEGER),
        pd.Series(LABELS == 1, dtype="boolean"),
        pd.Series(LABELS, dtype="category"),
        LABELS.astype(object),
        masked(LABELS),
        (LABELS == 1).tolist(),
    ],
)
def test_labels_of_other_types(backend, given):
    net = fastbp.Network([3, 2], "softmax", "cross_entropy", seed=0, backend=backend)
    assert net.loss(X, given) == net.loss(X, LABELS)


def test_integers_of_tables_are_exact():
    labels = checks.targets(np.array([0, 1, True], object), 3, 2, "cross_entropy", np.dtype("f4"))
    assert labels.dtype == np.int64 and labels.tolist() == [0, 1, 1]
    wide = np.array([[2**63 - 1, 2**70]], object)
    np.testing.assert_array_equal(checks.inputs(wide, 2, np.dtype("f8"))[0], [[2.0**63, 2.0**70]])


def test_what_is_masked_is_refused_everywhere(backend):
    net = fastbp.Network([3, 2], "sigmoid", seed=0, backend=backend)
    trainer, before = fastbp.Trainer(net, fastbp.SGD(0.1), 2, seed=0), net.parameters.copy()

    def chunks():
        yield masked(X, 2, 2), Y

    class Masking:
        def __array__(self, *_, **__):
            return masked(X, 2, 2)

    W = np.ma.array(np.ones((3, 2)), mask=np.eye(3, 2))
    calls = [
        (lambda: net.predict(Masking()), r"^X\[2, 2\]"),
        (lambda: trainer.fit(X, Y, sample_weight=masked(np.ones(6), 5)), r"^sample_weight\[5\]"),
        (lambda: trainer.fit(X, Y, validation_data=(masked(X, 1, 0), Y)), r"^validation_data: X\[1, 0\]"),
        (lambda: trainer.fit(X, Y, validation_data=(X, masked(Y, 1, 0))), r"^validation_data: Y\[1, 0\]"),
        (lambda: fastbp.stream(masked(X, 5, 0), Y), r"^X\[5, 0\]"),
        (lambda: fastbp.stream(X, masked(Y, 5, 0)), r"^Y\[5, 0\]"),
        (lambda: trainer.fit(fastbp.stream(chunks)), r"^chunk 1: X\[2, 2\]"),
        (lambda: fastbp.Network([3, 2], init=[(W, [0, 0])]), r"^init: W of layer 1\[0, 0\]"),
        (lambda: fastbp.network.Layer(W, np.zeros(2), backend=backend), r"^W\[0, 0\]"),
        (lambda: net.layers[0].forward(masked(X, 0, 2)), r"^A_prev\[0, 2\]"),
        (lambda: net.weights.__setitem__(0, W), r"^values of layer 1\[0, 0\]"),
        (lambda: by_name("mae")(masked(Y, 0, 0), Y), r"^A\[0, 0\]"),
        (lambda: by_name("accuracy")(Y, masked(Y, 0, 0)), r"^Y\[0, 0\]"),
    ]
    for call, words in calls:
        with pytest.raises(ValueError, match=words + " is masked"):
            call()
    np.testing.assert_array_equal(net.parameters, before)
    W.mask = False
    layer = fastbp.network.Layer(W, np.zeros(2), backend=backend)
    assert type(layer.W) is np.ndarray and np.shares_memory(layer.W, W)
    np.testing.assert_allclose(layer.forward(X), 1 / (1 + np.exp(-X @ np.ones((3, 2)))))


def test_nan_is_found_wherever_it_is():
    big = np.zeros((70_001, 3), np.float32)
    for row in (0, 21_845, 21_846, 43_690, 70_000):
        with pytest.raises(ValueError, match=rf"X\[{row}, 1\] is nan"):
            checks.inputs(spoilt(big, (row, 1), NAN), 3, np.dtype("f4"))


@pytest.mark.parametrize("kind", ["f4", "f8", "u1"])
def test_what_the_kernels_read_is_not_copied(kind):
    given = np.ones((5, 3), kind)
    for dtype in ("f4", "f8"):
        assert np.shares_memory(checks.inputs(given, 3, np.dtype(dtype))[0], given)
    labels = np.arange(5, dtype=np.int64)
    assert checks.targets(labels, 5, 5, "cross_entropy", np.dtype("f4")) is labels


@pytest.mark.parametrize(
    "given",
    [
        np.ones((5, 3), "f2"),
        np.ones((5, 3), ">f4"),
        np.ones((5, 3), "i8"),
        np.ones((5, 3), bool),
        np.ones((3, 5), "f4").T,
        np.ones((5, 6), "f4")[:, ::2],
        np.frombuffer(bytes(61), np.uint8)[1:].view("f4").reshape(5, 3),
    ],
)
def test_everything_else_becomes_plain_rows_of_the_dtype(given):
    for dtype in (np.dtype("f4"), np.dtype("f8")):
        X, single = checks.inputs(given, 3, dtype)
        assert X.dtype == dtype and X.flags.c_contiguous and X.flags.aligned and not single
        np.testing.assert_array_equal(X, given)
        Y = checks.targets(given, 5, 3, "squared_error", dtype)
        assert Y.dtype == dtype and Y.flags.c_contiguous and Y.flags.aligned


NETWORK = dict(sizes=[3, 4, 2], backend="numpy")


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (dict(sizes=[3]), TypeError, ["sizes", "[3]"]),
        (dict(sizes=3), TypeError, ["sizes", "3"]),
        (dict(sizes="64"), TypeError, ["sizes"]),
        (dict(sizes=[3, 0, 1]), ValueError, ["sizes[1]", "0"]),
        (dict(sizes=[3, -4]), ValueError, ["sizes[1]", "-4"]),
        (dict(sizes=[3, 2.5]), TypeError, ["sizes[1]", "2.5"]),
        (dict(sizes=[3, True]), TypeError, ["sizes[1]", "True"]),
        (dict(activations="sigmoyd"), ValueError, ["activations", "'sigmoyd'", "did you mean 'sigmoid'"]),
        (dict(activations="Leaky-ReLU"), ValueError, ["did you mean 'leaky_relu'"]),
        (dict(activations=["tanh"]), ValueError, ["activations", "2 (one per layer", "tanh"]),
        (dict(activations=["tanh", "rellu"]), ValueError, ["activations[1]", "'relu'"]),
        (dict(activations=np.tanh), TypeError, ["activations", "name"]),
        (dict(loss="squared_eror"), ValueError, ["loss", "did you mean 'squared_error'"]),
        (dict(loss="crossentropy"), ValueError, ["did you mean 'cross_entropy'"]),
        (dict(loss="mse"), ValueError, ["loss 'mse' is unknown; did you mean 'squared_error'?"]),
        (dict(activations="logistic"), ValueError, ["activations 'logistic' is unknown; did you mean 'sigmoid'?"]),
        (dict(activations=["linear", "tanh"]), ValueError, ["activations[0]", "did you mean 'identity'?"]),
        (dict(loss="zzz"), ValueError, ["loss 'zzz' is unknown", "known: squared_error"]),
        (dict(loss="cross_entropy", activations="tanh"), ValueError, ["cross_entropy", "softmax", "'tanh'"]),
        (dict(loss="binary_cross_entropy", activations="identity"), ValueError, ["sigmoid", "'identity'"]),
        (dict(init="glorot"), ValueError, ["init", "did you mean 'glorot"]),
        (dict(init=3), TypeError, ["init", "3"]),
        (dict(init=[(np.ones((3, 4)), np.ones(4))]), ValueError, ["init", "2 layers", "got 1"]),
        (dict(init=["zeros"] * 3), ValueError, ["init", "2 layers", "got 3"]),
        (dict(init=["zeros", "glorot"]), ValueError, ["init[1] 'glorot'", "did you mean 'glorot"]),
        (dict(init=["zeros", 3]), TypeError, ["init", "layer 2", "a name, an initializer or a pair (W, b), got 3"]),
        (
            dict(init=[(np.ones((4, 3)), np.ones(4)), (np.ones((4, 2)), np.ones(2))]),
            ValueError,
            ["W of layer 1", "(4, 3)", "(3, 4)"],
        ),
        (
            dict(init=[(np.ones((3, 4)), np.ones(4)), (np.ones((4, 2)), [NAN, 0])]),
            ValueError,
            ["b of layer 2[0] is nan"],
        ),
        (dict(reduction="average"), ValueError, ["reduction", "did you mean 'mean'?", "mean, sum"]),
        (
            dict(sizes=[3, 1], activations="softmax"),
            ValueError,
            ["activations[0] is 'softmax' over one", "use 'sigmoid'"],
        ),
        (
            dict(sizes=[3, 1, 2], activations=["softmax", "tanh"]),
            ValueError,
            ["activations[0] is 'softmax'", "'sigmoid'"],
        ),
        (
            dict(sizes=[3, 4, 1], activations=["tanh", "softmax"], loss="cross_entropy"),
            ValueError,
            ["activations[1] is 'softmax' over one", "use 'sigmoid'", "binary_cross_entropy"],
        ),
        (dict(sizes=[3, 1], loss="cross_entropy"), ValueError, ["cross_entropy", "one output", "binary_cross_entropy"]),
        (dict(dtype="float16"), ValueError, ["dtype", "float16"]),
        (dict(dtype="real"), ValueError, ["dtype", "'real'"]),
        (dict(dtype=int), ValueError, ["dtype"]),
        (dict(seed="one"), TypeError, ["seed", "'one'"]),
        (dict(seed=-1), ValueError, ["seed", "-1"]),
        (dict(backend="nunba"), ValueError, ["did you mean 'numba'"]),
    ],
)
def test_bad_settings_of_a_network(arguments, error, words):
    with pytest.raises(error) as caught:
        fastbp.Network(**{**NETWORK, **arguments})
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: fastbp.SGD(0), ValueError, ["lr", "above 0", "0"]),
        (lambda: fastbp.SGD(-0.1), ValueError, ["lr", "-0.1"]),
        (lambda: fastbp.SGD(NAN), ValueError, ["lr", "nan"]),
        (lambda: fastbp.SGD(INF), ValueError, ["lr", "inf"]),
        (lambda: fastbp.SGD("0.1"), TypeError, ["lr", "'0.1'"]),
        (lambda: fastbp.SGD(True), TypeError, ["lr", "True"]),
        (lambda: fastbp.SGD(0.1, 1.0), ValueError, ["momentum", "below 1", "1.0"]),
        (lambda: fastbp.SGD(0.1, -0.1), ValueError, ["momentum", "at least 0"]),
        (lambda: fastbp.SGD(0.1, nesterov=True), ValueError, ["nesterov", "momentum"]),
        (lambda: fastbp.SGD(0.1, 0.5, nesterov=1), TypeError, ["nesterov", "1"]),
        (lambda: initializers.Uniform(0), ValueError, ["eps"]),
        (lambda: initializers.Normal(-1), ValueError, ["std"]),
        (lambda: initializers.Constant(NAN), ValueError, ["value"]),
        (lambda: initializers.VarianceScaling("norml", 1, "in"), ValueError, ["distribution", "'normal'"]),
        (lambda: initializers.VarianceScaling("normal", 1, "out"), ValueError, ["fan"]),
    ],
)
def test_bad_settings_of_the_tables(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    "known, names",
    [
        (
            LOSSES,
            {
                "squared_error": "mse MSELoss mean_squared_error",
                "absolute_error": "mae L1Loss MeanAbsoluteError",
                "huber": "HuberLoss smooth_l1",
                "log_cosh": "logcosh",
                "quantile": "pinball",
                "poisson": "PoissonNLLLoss",
                "binary_cross_entropy": "bce BCEWithLogitsLoss binary_crossentropy logistic",
                "focal": "binary_focal_crossentropy",
                "cross_entropy": "nll NLLLoss CrossEntropyLoss categorical_crossentropy "
                "sparse_categorical_crossentropy",
                "cross_entropy' or 'binary_cross_entropy": "logloss log_loss",
            },
        ),
        (
            ACTIVATIONS,
            {
                "sigmoid": "logistic sigmoyd",
                "identity": "linear None",
                "silu": "swish",
                "relu": "ReLU",
                "leaky_relu": "LeakyReLU leaky-relu",
                "exponential": "exp",
                "softmax": "log_softmax",
            },
        ),
        (
            INITIALIZERS,
            {
                "glorot_uniform": "GlorotUniform xavier_uniform_",
                "he_normal": "kaiming_normal HeNormal",
                "glorot_uniform' or 'glorot_normal": "glorot xavier",
                "he_uniform' or 'he_normal": "he kaiming",
                "lecun_normal": "lecun",
                "zeros": "zero",
                "constant": "ones",
            },
        ),
        (
            METRICS,
            {
                "accuracy": "acc accuracy_score",
                "rmse": "mse",
                "mae": "mean_absolute_error l1",
                "r2": "r2_score",
                "f1": "f1_score F1Score",
            },
        ),
    ],
)
def test_names_of_other_libraries(known, names):
    for right, others in names.items():
        for other in others.split():
            with pytest.raises(ValueError) as caught:
                arguments.name("which", other, known)
            assert f"which {other!r} is unknown; did you mean '{right}'? (known: " in str(caught.value)
    for nothing_like_it in ("zzz", "hard_swish", "deviance"):
        with pytest.raises(ValueError, match=rf"which '{nothing_like_it}' is unknown \(known"):
            arguments.name("which", nothing_like_it, known)


def test_every_alias_means_a_name():
    names = {
        *LOSSES,
        *ACTIVATIONS,
        *INITIALIZERS,
        *METRICS,
        "mean",
        "min",
        "max",
        *(kind.__name__ for kind in fastbp.optimizers.OPTIMIZERS),
    }
    for alias, meant in arguments._ALIASES.items():
        assert alias == arguments._plain(alias) and set(meant.split()) <= names, alias


@pytest.mark.parametrize(
    "wrong, words",
    [
        ("adam", r"got 'adam'; did you mean fastbp\.Adam\(\.\.\.\)\?"),
        ("l-bfgs", r"did you mean fastbp\.LBFGS\("),
        (fastbp.Adam, r"; write fastbp\.Adam\(\.\.\.\)"),
        ("zzz", "got 'zzz'$"),
        (3, "got 3$"),
        (dict, "got <class 'dict'>$"),
    ],
)
def test_optimizers_are_objects(wrong, words):
    with pytest.raises(TypeError, match=r"optimizer must be one such as fastbp\.SGD\(lr=0\.1\), .*" + words):
        fastbp.Trainer(fastbp.Network([3, 2], backend="numpy"), wrong)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ((X, Y, np.ones(6)), "tuple of 3: weights of validation samples are not supported"),
        ([X], "list of 1$"),
        (X, "ndarray$"),
        ({"X": X, "Y": Y}, "dict$"),
    ],
)
def test_validation_data_are_a_pair(wrong, words):
    trainer = fastbp.Trainer(fastbp.Network([3, 2], backend="numpy", seed=0), fastbp.SGD(0.1))
    with pytest.raises(TypeError, match=rf"validation_data must be a pair \(X, Y\), got {words}"):
        trainer.fit(X, Y, validation_data=wrong)


@pytest.mark.parametrize("labels", [LABELS == 1, LABELS, pd.Series(LABELS == 1, dtype="boolean")])
@pytest.mark.parametrize("n_out", [1, 2])
def test_weights_of_true_and_false(backend, labels, n_out):
    results = []
    for class_weight in ({True: 2.0, False: 0.5}, {1: 2.0, 0: 0.5}):
        output = {1: ("sigmoid", "binary_cross_entropy"), 2: ("softmax", "cross_entropy")}[n_out]
        net = fastbp.Network([3, n_out], *output, seed=0, backend=backend)
        fastbp.Trainer(net, fastbp.SGD(0.1), seed=0).fit(X, labels, class_weight=class_weight)
        results.append(net.parameters.tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "output, loss, Y, classes",
    [(["softmax"], "cross_entropy", LABELS, "0, 1, 2"), (["tanh"], "hinge", LABELS * 2 - 1, "-1, 1")],
)
def test_weights_of_true_where_the_classes_are_others(output, loss, Y, classes):
    trainer = fastbp.Trainer(
        fastbp.Network([3, 3 if loss == "cross_entropy" else 1], output, loss, backend="numpy"), fastbp.SGD(0.1)
    )
    with pytest.raises(ValueError, match=f"class_weight names the class True, but the classes are {classes}"):
        trainer.fit(X, Y, class_weight={True: 2.0})


def test_numbers_of_numpy_are_numbers():
    assert fastbp.SGD(np.float32(0.5), np.float64(0.5)).lr == 0.5
    assert fastbp.Network(np.array([3, 2]), backend="numpy").sizes == (3, 2)
    fastbp.Trainer(fastbp.Network([3, 2], backend="numpy"), fastbp.SGD(0.1), np.int64(5))
