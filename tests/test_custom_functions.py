"""Activations and losses of one's own: in the compiled loop, on both backends, proved, copied; and what is refused."""

import copy
import math
import pickle

import numpy as np
import pytest
from fastbp.kernels import cache
from numba import njit, vectorize

import fastbp


@njit
def bent(z):
    return (math.sqrt(z * z + 1) - 1) / 2 + z


@njit
def bent_slope(z, a):
    return z / (2 * math.sqrt(z * z + 1)) + 1


@njit
def ramp(z):  # whole numbers are numbers too
    return z if z > 0 else 0


@njit
def ramp_slope(z, a):
    return a > 0


@njit
def logistic(z):
    return 1 / (1 + math.exp(-z))


@njit
def logistic_slope(z, a):
    return a * (1 - a)


@njit
def quartic(a, y):
    return (a - y) ** 4 / 4 + (a - y) ** 2


@njit
def quartic_slope(a, y):
    return (a - y) ** 3 + 2 * (a - y)


@njit
def half_square(a, y):
    return (a - y) ** 2 / 2


@njit
def difference(a, y):
    return a - y


@njit
def wrong_slope(z, a):
    return 1.01 * bent_slope(z, a)


BENT, RAMP = fastbp.Activation(bent, bent_slope), fastbp.Activation(ramp, ramp_slope)
LOGISTIC = fastbp.Activation(logistic, logistic_slope, name="my sigmoid")
QUARTIC, HALF_SQUARE = fastbp.Loss(quartic, quartic_slope), fastbp.Loss(half_square, difference, "half a square")
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def data(n, sizes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, sizes[0])), 0.3 * rng.normal(size=(n, sizes[-1]))


def trained(net, batch_size, n=60, epochs=3, threads=None):
    """Train, and return parameters, losses and predictions."""
    X, Y = data(n, net.sizes)
    history = fastbp.Trainer(net, fastbp.SGD(0.05), batch_size=batch_size, seed=0, threads=threads).fit(X, Y, epochs)
    return net.parameters.copy(), np.array(history.loss), net.predict(X)


# ------------------------------------------------------------------ they compute what they say


@each_dtype
@pytest.mark.parametrize("batch_size", [1, 4, 17, 300])
@pytest.mark.parametrize("sizes", [(2, 2, 1), (8, 16, 3), (9, 70, 65, 2), (3, 40)])
def test_the_same_functions_as_the_librarys_train_the_same_network(sizes, batch_size, dtype):
    n_layers = len(sizes) - 1
    own = [LOGISTIC, RAMP, LOGISTIC][-n_layers:]
    named = ["sigmoid", "relu", "sigmoid"][-n_layers:]
    tolerance = 1e-11 if dtype == "float64" else 2e-5
    for activations, loss in ((own, "squared_error"), (named, HALF_SQUARE), (own, HALF_SQUARE)):
        nets = [
            fastbp.Network(sizes, *functions, seed=0, dtype=dtype)
            for functions in ((activations, loss), (named, "squared_error"))
        ]
        for mine, theirs in zip(*(trained(net, batch_size, n=450) for net in nets), strict=True):
            np.testing.assert_allclose(mine, theirs, tolerance, tolerance)


@each_dtype
@pytest.mark.parametrize("batch_size", [1, 7, 60])
@pytest.mark.parametrize(
    "activations, loss",
    [
        ([BENT, BENT], QUARTIC),
        (["tanh", BENT], "huber"),
        ([BENT, "softmax"], "cross_entropy"),
        ([BENT, "softmax"], QUARTIC),
        (["silu", LOGISTIC], "binary_cross_entropy"),
    ],
)
def test_both_backends_agree(activations, loss, batch_size, dtype):
    tolerance = 1e-10 if dtype == "float64" else 1e-4
    nets = [
        fastbp.Network([3, 5, 4], activations, loss, seed=0, dtype=dtype, backend=backend)
        for backend in ("numba", "numpy")
    ]
    X, Y = data(60, (3, 4))
    if loss in ("cross_entropy", "binary_cross_entropy"):
        Y = np.random.default_rng(1).dirichlet(np.ones(4), 60)
    results = []
    for net in nets:
        history = fastbp.Trainer(net, fastbp.SGD(0.002, 0.5), batch_size=batch_size, seed=0).fit(X, Y, epochs=3)
        layer, dA = net.layers[0], np.ones((60, 5))
        layer.forward(X)
        results.append(
            [
                net.parameters,
                history.loss,
                net.predict(X),
                net.loss(X, Y),
                net.input_gradient(X, Y),
                net.backpropagate(X, Y).weights[0],
                layer.backward(dA),
                layer.dW,
            ]
        )
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, tolerance, tolerance)


def test_gradients(backend, central_differences):
    net = fastbp.Network([3, 5, 4], [BENT, LOGISTIC], QUARTIC, seed=0, dtype="float64", backend=backend)
    X, Y = data(7, (3, 4))
    _, weights, biases = net.gradients(X, Y)
    flat = np.concatenate([array.ravel() for pair in zip(weights, biases, strict=True) for array in pair])
    wanted = central_differences(lambda: net.loss(X, Y), net.parameters)
    np.testing.assert_allclose(flat, wanted, rtol=1e-6, atol=1e-8)


@each_dtype
@pytest.mark.parametrize(
    "activations, loss",
    [([BENT, BENT], QUARTIC), ([RAMP, "identity"], "squared_error"), ([LOGISTIC, "softmax"], "cross_entropy")],
)
def test_verify_agrees(activations, loss, dtype):
    net = fastbp.Network([3, 40, 4], activations, loss, seed=0, dtype=dtype)
    X, Y = data(50, (3, 4))
    report = net.verify(X, np.arange(50) % 4 if loss == "cross_entropy" else Y)
    assert report.ok, str(report)


@pytest.mark.parametrize(
    "activations, loss",
    [
        ([fastbp.Activation(bent, wrong_slope), "tanh"], "squared_error"),
        (["tanh", fastbp.Activation(bent, wrong_slope)], "squared_error"),
        (["tanh", "tanh"], fastbp.Loss(quartic, difference)),
    ],
)
def test_verify_finds_a_wrong_derivative(activations, loss):
    for backend in ("numba", "numpy"):
        report = fastbp.Network([3, 5, 4], activations, loss, seed=0, backend=backend).verify(*data(9, (3, 4)))
        assert not report.ok
        assert all(row.numba < 1e-9 for row in report.rows)  # both backends are wrong alike


@each_dtype
def test_threads_give_the_same_bits(no_thread_limits, dtype):
    results = []
    for threads in (1, 2, 3):
        fastbp.set_num_threads(threads)
        net = fastbp.Network([9, 200, 30, 3], [BENT, LOGISTIC, BENT], QUARTIC, seed=0, dtype=dtype)
        results.append(b"".join(array.tobytes() for array in trained(net, 33, n=90, threads=threads)))
    fastbp.set_num_threads(None)
    assert results[0] == results[1] == results[2]


def test_dividing_by_zero_and_overflow_are_no_exceptions(backend, capfd):
    @njit
    def inverse(z):
        return 1 / z

    @njit(fastmath=True)  # which does not count
    def inverse_slope(z, a):
        return 0.0 if math.isnan(a) else -a * math.exp(800 - 800)

    net = fastbp.Network([1, 1], fastbp.Activation(inverse, inverse_slope), init="zeros", backend=backend)
    assert net.predict([[1.0]]) == np.inf
    net.biases[0][:] = np.nan
    assert net.backpropagate([[1.0]], [[1.0]]).biases[0] == 0
    assert capfd.readouterr().err == ""


# ------------------------------------------------------------------ exceptions in them


@njit
def checked(z):
    if z > -0.2:
        raise ValueError("too large")
    return z


@njit
def value_in_message(z):
    if z > -0.2:
        raise ValueError(z)
    return z


@njit
def beyond(z):
    numbers = [z]
    return numbers.pop() if z < -0.2 else numbers.pop() + numbers.pop()


def raising(inner):
    """Functions that call one which raises, of one argument and of two."""

    @njit
    def deeper(z):
        return 2 * inner(z)

    @njit
    def of_two(z, a):
        return 2 * inner(z - a)

    return deeper, of_two


@njit
def refusing(z):
    if z > -0.2:
        raise ValueError("in the function itself")
    return z


@njit
def one_less(z, a):
    return z - 1


@njit
def never(a, y):
    raise ValueError


EXCEPTIONS = {
    "itself": (fastbp.Activation(refusing, one_less), "squared_error"),
    "activation": (fastbp.Activation(raising(checked)[0], one_less), "squared_error"),
    "with a value": (fastbp.Activation(raising(value_in_message)[0], one_less), "squared_error"),
    "empty list": (fastbp.Activation(raising(beyond)[0], one_less), "squared_error"),
    "its derivative": (fastbp.Activation(bent, raising(checked)[1]), "squared_error"),
    "loss": ("tanh", fastbp.Loss(raising(checked)[1], difference)),
    "derivative of the loss": ("tanh", fastbp.Loss(half_square, raising(checked)[1])),
}


@each_dtype
@pytest.mark.parametrize("batch_size", [1, 17, None])
@pytest.mark.parametrize("what", EXCEPTIONS)
def test_an_exception_is_a_loss_that_is_not_finite(backend, what, batch_size, dtype, capfd):
    activation, loss = EXCEPTIONS[what]
    net = fastbp.Network([3, 5, 2], activation, loss, seed=0, dtype=dtype, backend=backend)
    X, Y = data(40, net.sizes)
    with pytest.warns(RuntimeWarning, match="training became non-finite in epoch 1"):
        history = fastbp.Trainer(net, fastbp.SGD(0.01), batch_size, seed=0).fit(X, Y, epochs=3)
    assert history.nonfinite and np.isfinite(net.parameters).all()
    if "derivative" not in what:
        assert np.isnan(net.loss(X, Y))
    layer, dA = net.layers[0], np.ones((40, 5))
    assert np.isnan(layer.forward(X)).any() == (what not in ("its derivative", "loss", "derivative of the loss"))
    assert np.isnan(layer.backward(dA)).any() == (what == "its derivative")
    assert capfd.readouterr() == ("", "")


def test_a_function_that_always_raises_returns_no_number(backend):
    with pytest.raises(TypeError, match="never.*must return one real number, got none"):
        fastbp.Network([3, 2], loss=fastbp.Loss(never, difference), backend=backend)


# ------------------------------------------------------------------ compiled apart


def scaled(k):
    """Return functions that have one name, and differ in what they close over."""

    @njit
    def function(z):
        return k * z

    @njit
    def derivative(z, a):
        return k

    return fastbp.Activation(function, derivative)


def test_functions_of_one_name_are_not_mixed_up_and_not_kept_on_disk():
    X = data(5, (3, 2))[0]
    net = fastbp.Network([3, 2], "identity", seed=0)
    plain = net.predict(X)
    trained(net, 7)
    folder, pattern = cache.cache_folder(), "fastbp-activation_*"  # other processes may compile the library's own
    before = sorted(folder.glob(pattern)) if folder else []
    for k in (2.0, 3.0, -1.0):
        net = fastbp.Network([3, 2], scaled(k), seed=0)
        np.testing.assert_allclose(net.predict(X), k * plain, 1e-6)
        trained(net, 7)
    assert (sorted(folder.glob(pattern)) if folder else []) == before


# ------------------------------------------------------------------ copies, files, print


@each_dtype
def test_copies_and_pickles(backend, dtype):
    net = fastbp.Network([3, 5, 4], [BENT, "tanh"], QUARTIC, seed=0, dtype=dtype, backend=backend)
    X, Y = data(9, (3, 4))
    for same in (net.copy(), net.with_backend(backend), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert repr(same) == repr(net)
        np.testing.assert_array_equal(same.predict(X), net.predict(X))
        assert same.loss(X, Y) == net.loss(X, Y)


def test_a_file_does_not_hold_code(backend, tmp_path):
    for activations, loss, name in ((["tanh", BENT], "huber", "bent"), ("tanh", QUARTIC, "quartic")):
        net = fastbp.Network([3, 5, 4], activations, loss, backend=backend)
        with pytest.raises(ValueError, match=f"{name}.*is custom.*code"):
            net.save(tmp_path / "m.npz")
    assert list(tmp_path.iterdir()) == []


def test_names(backend):
    net = fastbp.Network([3, 5, 4], [LOGISTIC, BENT], HALF_SQUARE, backend=backend)
    assert net.activations == (LOGISTIC, BENT) and net.loss_name == "half a square" and net.loss_settings == {}
    assert "[Activation('my sigmoid'), Activation('bent')], loss=Loss('half a square')" in repr(net)
    assert "my sigmoid" in net.summary() and "loss half a square (mean)" in net.summary()
    printed = str(net.trace(*data(2, (3, 4))))
    assert "A1 = my sigmoid(Z1)" in printed and "half a square" in printed
    assert repr(net.layers[1]) == "Layer(5 -> 4, bent)"


# ------------------------------------------------------------------ what is refused


def plain(z):
    return z


@vectorize
def ufunc(z):
    return z


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: fastbp.Activation(plain, bent_slope), ["function", "of z", "@numba.njit", "plain"]),
        (lambda: fastbp.Activation(bent, lambda z, a: 1.0), ["derivative", "of z and a", "@numba.njit", "lambda"]),
        (lambda: fastbp.Activation(ufunc, bent_slope), ["function", "@numba.njit"]),
        (lambda: fastbp.Activation(np.tanh, bent_slope), ["function", "@numba.njit", "tanh"]),
        (lambda: fastbp.Activation(bent), ["derivative must be given", "of z and a", "none is guessed"]),
        (lambda: fastbp.Loss(quartic), ["derivative must be given", "of a and y"]),
        (lambda: fastbp.Loss("quartic", quartic_slope), ["function", "of a and y", "'quartic'"]),
        (lambda: fastbp.Activation(bent, bent_slope, 3), ["name", "3"]),
        (lambda: fastbp.Network([3, 2], activations=bent), ["activations", "fastbp.Activation(function, derivative)"]),
        (lambda: fastbp.Network([3, 2], activations=[plain]), ["activations[0]", "a name or"]),
        (lambda: fastbp.Network([3, 2], activations=QUARTIC), ["activations", "name"]),
        (lambda: fastbp.Network([3, 2], loss=quartic), ["loss", "fastbp.Loss(function, derivative)"]),
        (lambda: fastbp.Network([3, 2], loss=BENT), ["loss", "name"]),
        (lambda: fastbp.Network([3, 2], loss=fastbp.losses.Huber), ["loss", "Huber(threshold=2.0)"]),
    ],
)
def test_what_is_not_a_function_of_the_kind(make, words):
    with pytest.raises(TypeError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_names_that_are_taken():
    with pytest.raises(ValueError, match="name 'relu' is that of a built-in activation"):
        fastbp.Activation(bent, bent_slope, name="relu")
    with pytest.raises(ValueError, match="name 'huber' is that of a built-in loss"):
        fastbp.Loss(quartic, quartic_slope, name="huber")


@njit
def text(z):
    return "a"


@njit
def nothing(z):
    pass


@njit
def imaginary(z):
    return z * 1j


@njit
def pair(a, y):
    return a, y


@njit
def unknown(z):
    return z.shape[0]


@pytest.mark.parametrize(
    "own, words",
    [
        (fastbp.Activation(text, bent_slope), ["text(z)", "one real number"]),
        (fastbp.Activation(nothing, bent_slope), ["nothing(z)", "one real number", "none"]),
        (fastbp.Activation(imaginary, bent_slope), ["imaginary(z)", "complex"]),
        (fastbp.Activation(unknown, bent_slope), ["unknown(z)", "'unknown'", "does not compile for float64"]),
        (fastbp.Activation(bent_slope, bent_slope), ["bent_slope(z)", "does not compile", "argument"]),
        (fastbp.Activation(bent, bent), ["bent(z, a)", "does not compile"]),
        (fastbp.Loss(quartic, bent), ["bent(a, y)", "loss 'quartic'"]),
        (fastbp.Loss(pair, difference), ["pair(a, y)", "one real number"]),
    ],
)
def test_what_does_not_compile_is_refused_with_the_network(backend, own, words):
    arguments = {"loss": own} if isinstance(own, fastbp.Loss) else {"activations": own}
    with pytest.raises(TypeError) as caught:
        fastbp.Network([3, 2], dtype="float64", backend=backend, **arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)
