"""Public kernels in users' compiled functions: what they take and raise, and that a cached caller gets new code.

Users' functions call kernels as C functions, by symbols.  One that was shipped stays, with its arguments: the file
data/symbols.txt has them all.  After adding a public kernel, add its symbols: `python tests/test_callers.py`.
"""

import copy
import inspect
import json
import pickle
import pydoc
import threading
from pathlib import Path

import kernel_table as table
import numpy as np
import pytest
from fastbp.kernels import methods, public
from fastbp.kernels.tables import BAD_LABEL, DONE, NO_MEMORY, PUBLIC
from numba import njit, typeof
from numba.core.errors import TypingError
from shared import copy_package, each_dtype, exhaustive, run_python

import fastbp
from fastbp import kernels, reference

SYMBOLS = Path(__file__).parent / "data" / "symbols.txt"

# ------------------------------------------------------------------ the symbols


def symbols():
    """The C arguments of each symbol: of each argument of the kernel, the letters of `native.NativeFunction`."""
    natives = {symbol: native for symbol, (native, _) in public.names_of_symbols().items()}
    return {symbol: " ".join(public.c_arguments(native)) for symbol, native in natives.items()}


def shipped():
    """The same of what was shipped."""
    return dict(line.split(" ", 1) for line in SYMBOLS.read_text().splitlines())


def test_no_symbol_was_removed_or_changed():
    """Functions that users have compiled and cached call them."""
    now = symbols()
    assert {symbol: now.get(symbol) for symbol in shipped()} == shipped()


def test_the_file_of_symbols_is_complete():
    missing = symbols().keys() - shipped().keys()
    assert not missing, f"add {sorted(missing)}: run `python tests/test_callers.py`"


def test_symbols_and_what_their_functions_return_are_unique():
    n_functions = sum(1 + ("y" in public.parameters_of(name).values()) for name in PUBLIC) + len(methods.METHODS) + 1
    assert len(symbols()) == 2 * n_functions
    assert (DONE, BAD_LABEL, NO_MEMORY) == (0, 1, 2)  # callers hold these, and the exceptions


# ------------------------------------------------------------------ arguments


def written(row, arguments):
    return [a for name, a in zip(row.parameters, arguments, strict=True) if name in row.written]


@exhaustive
@each_dtype
@pytest.mark.parametrize(
    "row", {(row.name, row.form == "labels"): row for row in table.TABLE}.values(), ids=table.name_of
)
def test_compiled_callers_get_the_results_of_python_callers(row, dtype):
    kernel = getattr(kernels, row.name)
    caller = njit(eval(f"lambda {', '.join(row.parameters)}: kernel({', '.join(row.parameters)})", {"kernel": kernel}))
    shape = row.shapes[len(row.shapes) // 2]
    first, second = (row.arguments(np.random.default_rng(0), dtype, *shape) for _ in range(2))
    kernel(*first)
    caller(*second)
    for a, b in zip(written(row, first), written(row, second), strict=True):
        np.testing.assert_array_equal(a, b)


@njit
def sigmoid(x, out):
    kernels.sigmoid(x, out)


@each_dtype
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 3, 4), (0, 3)])
def test_arrays_of_any_number_of_dimensions(shape, dtype):
    x = np.linspace(-3, 3, int(np.prod(shape))).astype(dtype).reshape(shape)
    results = [np.full(shape, np.nan, dtype) for _ in range(3)]
    for function, out in zip((sigmoid, kernels.sigmoid, reference.sigmoid), results, strict=True):
        function(x, out)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0], results[2], rtol=1e-6)


@each_dtype
def test_keyword_arguments_and_numbers_of_any_type(dtype):
    @njit
    def huber(A, Y, threshold, out):
        kernels.huber(A, out=out, threshold=threshold, Y=Y)

    A, Y = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(dtype)
    expected, out = np.empty((2, 4), dtype)
    for threshold in (1, 0.5, dtype(0.25), True):
        reference.huber(A, Y, threshold, expected)
        for function in (huber, kernels.huber):
            out[:] = np.nan
            function(A, Y=Y, out=out, threshold=threshold)
            np.testing.assert_allclose(out, expected, rtol=1e-5)


@each_dtype
def test_class_labels_and_rows_of_targets(dtype):
    @njit
    def cross_entropy(A, Y, out):
        kernels.cross_entropy(A, Y, out)

    A, labels = np.array([[0.25, 0.75], [0.5, 0.5]], dtype), np.array([1, 0])
    for Y in (labels, np.eye(2, dtype=dtype)[labels]):
        for function in (cross_entropy, kernels.cross_entropy):
            out = np.full(2, np.nan, dtype)
            function(A, Y, out)
            np.testing.assert_allclose(out, -np.log([0.75, 0.5]), rtol=1e-6)


def test_two_dtypes_in_one_function():
    @njit
    def both(x, y):
        kernels.exp(x, x)
        kernels.exp(y, y)

    x, y = np.zeros(3, np.float32), np.ones(3)
    both(x, y)
    np.testing.assert_array_equal(x, np.float32([1, 1, 1]))
    np.testing.assert_allclose(y, np.e, rtol=1e-15)


@each_dtype
def test_a_network_trained_by_kernels_alone(dtype):
    """The loop in the docstring of the kernels."""

    @njit
    def step(X, Y, lr, layers, Z, A, derivative, delta1, delta2):
        (W1, b1, dW1, db1), (W2, b2, dW2, db2) = layers
        kernels.affine_forward(X, W1, b1, Z)
        kernels.tanh(Z, A)
        kernels.affine_forward(A, W2, b2, delta2)
        delta2 -= Y
        kernels.tanh_derivative(Z, A, derivative)
        kernels.propagate_delta(delta2, W2, derivative, delta1)
        for A_prev, delta, W, b, dW, db in ((X, delta1, W1, b1, dW1, db1), (A, delta2, W2, b2, dW2, db2)):
            kernels.weight_gradient(A_prev, delta, dW)
            kernels.bias_gradient(delta, db)
            kernels.sgd(dW, lr / len(X), W)
            kernels.sgd(db, lr / len(X), b)

    net = fastbp.Network([3, 7, 2], activations=["tanh", "identity"], dtype=dtype, seed=0)
    X, Y = (np.random.default_rng(0).normal(size=(5, n)).astype(dtype) for n in (3, 2))
    layers = tuple((W.copy(), b.copy(), W.copy(), b.copy()) for W, b in zip(net.weights, net.biases, strict=True))
    trainer, arrays = fastbp.Trainer(net, fastbp.SGD(0.1)), [np.empty((5, n), dtype) for n in (7, 7, 7, 7, 2)]
    for _ in range(3):
        trainer.step(X, Y)
        step(X, Y, 0.1, layers, *arrays)
    for (W, b, _, _), expected_W, expected_b in zip(layers, net.weights, net.biases, strict=True):
        np.testing.assert_allclose(W, expected_W, rtol=1e-5)
        np.testing.assert_allclose(b, expected_b, rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------ what is refused

F64, F32, I64 = np.zeros((2, 3)), np.zeros((2, 3), np.float32), np.zeros(2, np.int64)
READ_ONLY = np.zeros(3)
READ_ONLY.flags.writeable = False
NO_MATRIX, OUT = np.zeros(3), np.zeros(2)
REFUSED = {
    "layout": ("bias_gradient", (F64.T, np.zeros(2)), "delta must be C-contiguous"),
    "stride": ("bias_gradient", (F64, np.zeros(6)[::2]), "out must be C-contiguous"),
    "dtype": ("bias_gradient", (I64.reshape(2, 1), OUT), "delta must be float32 or float64, got int64"),
    "two dtypes": ("bias_gradient", (F64, F32[0]), "out must be float64, as the arrays before it, got float32"),
    "too few dimensions": ("bias_gradient", (NO_MATRIX, OUT), r"delta must have 2 dimension\(s\)"),
    "too many dimensions": ("bias_gradient", (F64, F64), r"out must have 1 dimension\(s\)"),
    "read-only out": ("bias_gradient", (F64, READ_ONLY), "out is written to"),
    "read-only state": ("lion", (OUT, 0.1, 0.9, 0.9, 0.0, READ_ONLY, OUT), "m is written to"),
    "number for an array": ("bias_gradient", (F64, 2.0), "out must be an array"),
    "array for a number": ("clip_value", (OUT, OUT), "limit must be a number"),
    "labels": ("cross_entropy", (F64, I64.astype(np.int32), OUT), "Y must be int64, got int32"),
    "counts": ("class_counts", (F64, I64, np.zeros((3, 3))), "counts must be int64, got float64"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("is_compiled", [False, True])
def test_refused_arguments_are_named(is_compiled, case):
    name, arguments, message = REFUSED[case]
    function = getattr(kernels, name)
    if is_compiled:
        names = ", ".join(public.parameters_of(name))
        function = njit(eval(f"lambda {names}: function({names})", {"function": function}))
    with pytest.raises(TypingError if is_compiled else TypeError, match=f"{name}: {message}"):
        function(*arguments)


def test_a_read_only_array_that_is_only_read_is_taken():
    out = np.empty(3)
    for function in (sigmoid, kernels.sigmoid):
        function(READ_ONLY, out)
        assert out.tolist() == [0.5] * 3


@pytest.mark.parametrize("value", ["text", None, (1.0, 2.0), [1.0, 2.0]])
def test_other_arguments_are_refused(value):
    with pytest.raises((TypeError, ValueError)):
        kernels.sigmoid(value, OUT)
    with pytest.raises(TypingError, match="sigmoid: "):
        njit(lambda out: kernels.sigmoid(value, out))(OUT)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: kernels.sigmoid(1, 2), "sigmoid: Z must be an array"),
        (lambda: kernels.sigmoid(OUT), "missing a required argument: 'out'"),
        (lambda: kernels.sigmoid(OUT, OUT, OUT), "too many positional arguments"),
        (lambda: kernels.sigmoid(OUT, out=OUT, other=OUT), "unexpected keyword argument 'other'"),
        (lambda: kernels.sigmoid(OUT, Z=OUT), "multiple values for argument 'Z'"),
    ],
)
def test_wrong_calls_from_python(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("call", ["(x)", "(x, x, x)", "(x, x, other=x)", "(x, Z=x)"])
def test_wrong_calls_in_compiled_code(call):
    with pytest.raises(TypeError, match=r"^sigmoid\(\) "):
        njit(eval(f"lambda x: kernel{call}", {"kernel": kernels.sigmoid}))(OUT)


def test_unknown_kernels():
    with pytest.raises(AttributeError, match="fastbp.kernels has no 'sigmund'"):
        kernels.sigmund  # noqa: B018
    assert set(PUBLIC) <= set(dir(kernels)) and kernels.__all__ == sorted(PUBLIC)


# ------------------------------------------------------------------ exceptions

A, BAD, GOOD = np.eye(3)[[0, 1, 2]], np.array([0, 1, 7]), np.array([0, 1, 2])


@pytest.mark.parametrize("bad", [-1, 3, 2**40, -(2**63)])
def test_a_bad_label_raises_the_exception_of_python(bad):
    @njit
    def counts(A, Y, out):
        kernels.class_counts(A, Y, out)

    for function in (counts, kernels.class_counts):
        out = np.zeros((3, 3), np.int64)
        with pytest.raises(ValueError, match="class_counts: Y holds a label that is no class: labels must be 0"):
            function(A, np.array([0, 1, bad]), out)
        assert out.tolist() == [[1, 1, 0]] * 3  # the samples before it
        function(A, GOOD, out)
        assert out.tolist() == [[2, 2, 1]] * 3


def test_exceptions_can_be_caught_in_compiled_code():
    @njit
    def has_good_labels(A, Y, out):
        try:
            kernels.class_counts(A, Y, out)
        except Exception:
            return False
        return True

    out = np.zeros((3, 3), np.int64)
    assert [has_good_labels(A, Y, out) for Y in (BAD, GOOD, BAD)] == [False, True, False]


# ------------------------------------------------------------------ as Python objects


def test_signatures_names_and_help():
    kernel = kernels.huber_derivative
    assert str(inspect.signature(kernel)) == "(A, Y, threshold, out)"
    assert repr(kernel) == "<kernel huber_derivative(A, Y, threshold, out)>"
    assert kernel.__name__ == kernel.__qualname__ == "huber_derivative"
    assert kernel.__module__ == "fastbp.kernels.losses"
    assert "(A, Y, threshold, out)" in pydoc.render_doc(kernel, renderer=pydoc.plaintext)
    assert inspect.getdoc(kernel) in pydoc.render_doc(kernel, renderer=pydoc.plaintext).replace("\n    ", "\n")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_kernel_is_documented_and_has_a_twin(name):
    kernel = getattr(kernels, name)
    assert inspect.getdoc(kernel)
    assert list(inspect.signature(kernel).parameters) == list(inspect.signature(getattr(reference, name)).parameters)


def test_a_kernel_is_one_object():
    kernel = kernels.sigmoid
    assert kernel is kernels.sigmoid
    assert pickle.loads(pickle.dumps(kernel)) is kernel
    assert copy.deepcopy(kernel) is copy.copy(kernel) is kernel


# ------------------------------------------------------------------ threads


def test_threads_that_make_the_first_call_together():
    @njit(nogil=True)
    def total(x, out):
        for _ in range(20):
            kernels.tanh(x, out)
            kernels.tanh_derivative(x, out, out)
        return out.sum()

    x = np.linspace(-1, 1, 100)
    total.compile((typeof(x),) * 2)
    results, barrier = [], threading.Barrier(6)

    def work():
        out = np.empty_like(x)
        barrier.wait()
        results.append(total(x, out))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    np.testing.assert_allclose(results, [np.sum(1 - np.tanh(x) ** 2)] * 6, rtol=1e-12)


PARALLEL = """
import threading
import numba
import numpy as np
from fastbp import kernels

@numba.njit(parallel=True)
def sigmoid_rows(X, out):
    for i in numba.prange(X.shape[0]):
        kernels.sigmoid(X[i], out[i])

@numba.njit(parallel=True, nogil=True)
def exp_rows(X, out):
    for i in numba.prange(X.shape[0]):
        kernels.exp(X[i], out[i])

X, errors = np.linspace(-1, 1, 4000).reshape(200, 20), []
types = (numba.typeof(X),) * 2
for function in (sigmoid_rows, exp_rows):
    function.compile(types)

def work(function, right):
    for _ in range(5):
        out = np.empty_like(X)
        function(X, out)
        if not np.allclose(out, right):
            errors.append(function)

n_threads = 4
try:
    numba.set_num_threads(2)
    sigmoid_rows(X, np.empty_like(X))
except ValueError:  # no layer here is safe for calls from several threads
    numba.config.THREADING_LAYER = "workqueue"
    n_threads = 1
threads = [
    threading.Thread(target=work, args=pair)
    for pair in [(sigmoid_rows, 1 / (1 + np.exp(-X))), (exp_rows, np.exp(X))] * 2
][:n_threads]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(errors))
"""


def test_parallel_loops_from_several_threads():
    done = run_python("-c", PARALLEL, NUMBA_NUM_THREADS="2", NUMBA_THREADING_LAYER="threadsafe")
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


# ------------------------------------------------------------------ cached callers

USER = """
import json
import sys
import traceback
import numpy as np
from numba import njit
try:
    import fastbp
    from fastbp import kernels
    from fastbp.kernels import {kernel}, sigmoid
except ImportError:
    fastbp = kernels = {kernel} = sigmoid = None

@njit(cache=True)
def inner(A, b, out):
    {call}

@njit(cache=True)
def function(A, b):
    out = np.zeros({shape})
    inner(A, b, out)
    {sigmoid}(out, out)
    return out

def result(call):
    try:
        return call().tolist()
    except Exception as error:
        return type(error).__name__ + ": " + str(error)

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    import user
    A, b = np.arange(6.0).reshape(3, 2) / 10, np.zeros(2)
    results = [result(lambda: user.function(A, b)) for _ in range(2)]
    hits = sum(user.function.stats.cache_hits.values()), sum(user.function.stats.cache_misses.values())
    print(json.dumps([*results, *hits]))
"""
CALLS = {  # and the shape of its result
    "bias_gradient": ("bias_gradient(A, out)", "A.shape[1]"),
    "affine_forward": ("affine_forward(A, np.eye(2), b, out)", "A.shape"),
}
DOUBLE = {  # edits of dense.py after which a kernel returns twice as much
    "bias_gradient": ("pointer(out, 0), j, total, n)", "pointer(out, 0), j, total + total, n)"),
    "affine_forward": (
        "        pack=pack,\n    )\n    restore_mxcsr(control)\n    release(pack)\n",
        "        pack=pack,\n    )\n    for i in range(out.size):\n        masked_store(pointer(out, 0), i, "
        "masked_load(pointer(out, 0), i, 1) + masked_load(pointer(out, 0), i, 1), 1)\n"
        "    restore_mxcsr(control)\n    release(pack)\n",
    ),
}
RIGHT = {"bias_gradient": np.array([0.6, 0.9]), "affine_forward": np.arange(6.0).reshape(3, 2) / 10}


def edit(path, old, new):
    source = path.read_text()
    assert old in source
    path.write_text(source.replace(old, new, 1))


class User:
    """A user's module, whose compiled functions are cached, and the copy of the package that it imports."""

    def __init__(self, folder, kernel, style):
        self.package, self.folder, self.kernel = copy_package(folder), folder, kernel
        call, shape = CALLS[kernel]
        prefix = {"names": "", "attributes": "kernels.", "chains": "fastbp.kernels."}[style]
        source = USER.format(kernel=kernel, call=prefix + call, shape=shape, sigmoid=f"{prefix}sigmoid")
        (folder / "user.py").write_text(source)

    def run(self, **environment):
        """Call the function twice in a new process: results or exceptions; cache hits and misses; errors printed."""
        done = run_python(
            str(self.folder / "user.py"),
            str(self.folder),
            PYTHONPATH=str(self.folder),
            NUMBA_CACHE_DIR=str(self.folder / "cache"),
            PYTHONDONTWRITEBYTECODE="1",
            **environment,
        )
        assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
        first, second, hits, misses = json.loads(done.stdout)
        assert first == second
        return first, (hits, misses), done.stderr


def assert_values(result, factor, kernel):
    """Assert that this is the sigmoid of what the kernel gives, times a factor."""
    np.testing.assert_allclose(result, 1 / (1 + np.exp(-factor * RIGHT[kernel])), rtol=1e-12)


@pytest.mark.parametrize(
    "kernel, style",
    [
        ("bias_gradient", "names"),
        pytest.param("affine_forward", "names", marks=exhaustive),
        pytest.param("affine_forward", "attributes", marks=exhaustive),
        pytest.param("bias_gradient", "chains", marks=exhaustive),
    ],
)
def test_a_cached_caller_gets_the_code_of_an_upgrade(kernel, style, tmp_path):
    user = User(tmp_path, kernel, style)
    for n in range(2):
        result, hits_and_misses, _ = user.run()
        assert_values(result, 1, kernel)
        assert hits_and_misses == ((0, 1) if n == 0 else (1, 0))
    edit(user.package / "kernels" / "dense.py", *DOUBLE[kernel])
    result, hits_and_misses, _ = user.run()
    assert_values(result, 2, kernel)
    assert hits_and_misses == (1, 0)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A user whose function is cached."""
    user = User(tmp_path_factory.mktemp("user"), "bias_gradient", "attributes")
    user.run()
    return user


OTHERS = {  # edits that make the package another version
    "without the kernel": ("tables.py", "# Arguments that kernels write to", 'del PUBLIC["bias_gradient"]\n#'),
    "without the look-up": ("library.py", "def address_of_symbol", "def address_by_symbol"),
    "with another look-up": ("library.py", "def address_of_symbol(symbol)", "def address_of_symbol(symbol, dtype)"),
    "with a broken look-up": ("library.py", "return 0 if known is None else", "return 'no number' if known else"),
    "without a library": ("library.py", "import ctypes\n", 'raise ImportError("no library")\n'),
    "that cannot be imported": ("__init__.py", '"""', 'raise ImportError("no kernels")\n"""'),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_cached_caller_of_another_version_raises(other, cached):
    """Another environment, or a downgrade, that shares the user's cache."""
    name, old, new = OTHERS[other]
    path = cached.package / "kernels" / name
    source = path.read_text()
    try:
        edit(path, old, new)
        result, hits_and_misses, errors = cached.run()
    finally:
        path.write_text(source)
    assert hits_and_misses == (1, 0)
    assert result.startswith("RuntimeError: bias_gradient: compiled by another version of fastbp")
    assert "fastbp_dense_bias_gradient_f64" in result and "compile it again" in result
    assert ("Traceback" in errors) == (other != "without the kernel")  # the cause is shown
    assert_values(cached.run()[0], 1, "bias_gradient")


def main():
    """Add new symbols to the file; none is removed, and none changed."""
    lines = {**symbols(), **(shipped() if SYMBOLS.exists() else {})}
    SYMBOLS.write_text("".join(f"{symbol} {arguments}\n" for symbol, arguments in sorted(lines.items())))


if __name__ == "__main__":
    main()
