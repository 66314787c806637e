"""The compiled library in processes: without Numba where nothing is to be compiled, with threads and forks."""

import ctypes
import json
import os
import threading

import numpy as np
import pytest
from fastbp.kernels import custom, library, native, public
from shared import exhaustive, run_python

NO_NUMBA = """
import sys
assert not [name for name in sys.modules if name.split(".")[0] in {refused}]
"""


def assert_runs(code, **environment):
    """Run code in a new process; return what it prints, in JSON."""
    done = run_python("-c", code, PYTHONDONTWRITEBYTECODE="1", **environment)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-3000:]}"
    return json.loads(done.stdout or "null")


# ------------------------------------------------------------------ without Numba

TRAINING = """
import numpy as np
import fastbp
from fastbp import kernels

rng = np.random.default_rng(0)
X, labels = rng.normal(size=(30, 6)), np.arange(30) % 3

net = fastbp.Network([2, 2, 1], seed=0)
xor = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0.0], [1], [1], [0]])
fastbp.Trainer(net, fastbp.SGD(0.5), batch_size=4).fit(*xor, epochs=3)
net.predict(xor[0]), net.loss(*xor), net.gradients(*xor)

net = fastbp.Network([6, 5, 3], ["tanh", "softmax"], loss="cross_entropy", seed=0, dtype="float32")
trainer = fastbp.Trainer(net, fastbp.Adam(), batch_size=7, seed=0)
trainer.fit(X, labels, epochs=2, validation_data=(X, labels), metrics=["accuracy"])
net.predict(X), net.predict(X[0]), net.loss(X, labels), net.gradients(X, labels)

out = np.empty(6)
kernels.bias_gradient(X, out)
kernels.sigmoid(out=out, Z=out)
kernels.class_counts(X[:, :3].copy(), labels, np.zeros((3, 3), np.int64))
"""
MORE = """
import pickle
m, rows = fastbp.jit.model(trainer), X.astype(np.float32)
m.train_step(rows[0], 1), m.train_step(rows, labels), m.clone().predict(rows[0], np.empty(3, np.float32))
trainer.step(X, labels), trainer.partial_fit(X, labels), net.input_gradient(X, labels), net.activations_of(X)
net.trace(X, labels)
pickle.loads(pickle.dumps(net)).predict(X)
fastbp.set_num_threads(2)
for dtype in ("float32", "float64"):
    for optimizer in (fastbp.SGD(0.1, momentum=0.9), fastbp.RMSprop(0.01), fastbp.Rprop(), fastbp.LBFGS()):
        wide = fastbp.Network([6, 200, 3], ["relu", "identity"], dtype=dtype, seed=0)
        is_plain = isinstance(optimizer, fastbp.LBFGS)
        more = {} if is_plain else dict(dropout=0.2, l2=0.01, clip_norm=1.0, max_norm=2.0, input_noise=0.1)
        trainer = fastbp.Trainer(wide, optimizer, batch_size=None if is_plain else 15, seed=0, **more)
        trainer.fit(X, np.eye(3)[labels], epochs=2, metrics=["r2"])
"""


@pytest.mark.parametrize("code", [TRAINING, pytest.param(TRAINING + MORE, marks=exhaustive)], ids=["some", "more"])
def test_a_process_that_compiles_nothing_imports_no_numba(code):
    assert_runs(code)
    assert_runs(code + NO_NUMBA.format(refused=["numba"]))


@pytest.mark.parametrize(
    "code, refused",
    [
        ("from fastbp.kernels import layout, plan, tables", ["numba", "llvmlite"]),
        ("import fastbp.kernels as kernels; dir(kernels), kernels.__all__", ["numba", "llvmlite"]),
        ("from fastbp.kernels import cache, cores, library, parallel_compile, public", ["numba"]),
        ("import fastbp.engine.backend", ["numba"]),
        ("import inspect; from fastbp.kernels import sigmoid; repr(sigmoid), inspect.signature(sigmoid)", ["numba"]),
        ("from fastbp import Network; Network([2, 2, 1]).parameters", ["numba"]),
        ("import fastbp; fastbp.jit.predict.__doc__, fastbp.jit.Model.clone", ["numba"]),
        ("from fastbp.kernels import *; from fastbp.kernels import sigmoid as s; assert s is sigmoid", ["numba"]),
        ("import pickle; from fastbp.kernels import exp; assert pickle.loads(pickle.dumps(exp)) is exp", ["numba"]),
    ],
)
def test_what_plans_and_describes_imports_no_numba(code, refused):
    assert_runs(code + NO_NUMBA.format(refused=refused))


# ------------------------------------------------------------------ names and addresses


@pytest.mark.parametrize("symbol", public.names_of_symbols())
def test_every_symbol_is_that_of_a_function_with_its_arguments(symbol):
    name, _ = public.names_of_symbols()[symbol]
    assert native.resolve(name).arguments == "".join(public.c_arguments(name))


def test_addresses_of_symbols():
    assert library.address_of_symbol("fastbp_dense_no_such_kernel_f64") == 0
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        symbol = library.symbol_of("elementwise.sigmoid", dtype)
        address = library.address_of_symbol(symbol)
        assert address == library.native_function("elementwise.sigmoid").address(dtype) > 0
        x = np.zeros(3, dtype)
        pointer = ctypes.c_void_p(x.ctypes.data)
        ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p, ctypes.c_ssize_t] * 2)(address)(pointer, 3, pointer, 3)
        assert x.tolist() == [0.5] * 3


# ------------------------------------------------------------------ NUMBA_DISABLE_JIT

USER = """
import json
import numpy as np
from numba import njit
import fastbp
from fastbp import kernels, reference
from fastbp.kernels import bias_gradient

@njit
def sums(A):
    out = np.empty(A.shape[1])
    bias_gradient(A, out)
    kernels.sigmoid(out, out)
    return out

result = sums(np.ones((3, 2)))
assert kernels.affine_forward is reference.affine_forward and bias_gradient is reference.bias_gradient
assert result.tolist() == (1 / (1 + np.exp(-np.array([3.0, 3.0])))).tolist()
"""
PREDICT = """
import json
import sys
{first}
import numpy as np
import fastbp

net = fastbp.Network([6, 5, 3], ["tanh", "softmax"], loss="cross_entropy", seed=0, dtype="float32")
X = np.random.default_rng(0).normal(size=(30, 6))
try:
    fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=7, seed=0).fit(X, np.arange(30) % 3)
    print(json.dumps(net.predict(X).tolist()))
except RuntimeError as error:
    print(json.dumps(str(error)))
"""


def test_without_jit_kernels_are_their_twins():
    assert_runs(USER, NUMBA_DISABLE_JIT="1")


@pytest.mark.parametrize("first", ["", "import numba"])
def test_networks_without_jit(first, tmp_path):
    code = PREDICT.format(first=first)
    expected = assert_runs(code)
    assert len(expected) == 30
    assert assert_runs(code, NUMBA_DISABLE_JIT="1") == expected  # what is on disk is loaded
    said = assert_runs(code, NUMBA_DISABLE_JIT="1", NUMBA_CACHE_DIR=str(tmp_path))
    assert said.startswith("fastbp's kernels are machine code, but NUMBA_DISABLE_JIT is set")


# ------------------------------------------------------------------ threads and forks


def test_threads_that_load_together():
    code = """
import sys
import threading
import numpy as np
import fastbp
from fastbp import kernels

X, results, sums = np.random.default_rng(0).normal(size=(30, 6)), [], []
networks = [fastbp.Network([6, 5, 3], ["tanh", "softmax"], loss="cross_entropy", seed=0, dtype=dtype)
            for dtype in ("float32", "float64")]
barrier = threading.Barrier(8)

def work(i):
    barrier.wait()
    results.append((i % 2, networks[i % 2].predict(X)))
    out = np.empty(6)
    kernels.bias_gradient(X, out)
    sums.append(out)

threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(results) == len(sums) == 8 and "numba" not in sys.modules
for which, result in results:
    np.testing.assert_array_equal(result, networks[which].predict(X))
np.testing.assert_allclose(sums, [X.sum(0)] * 8)
"""
    for dtype in ("float32", "float64"):
        assert_runs(
            f"import fastbp, numpy as np; from fastbp import kernels\n"
            f"net = fastbp.Network([6, 5, 3], ['tanh', 'softmax'], loss='cross_entropy', dtype='{dtype}')\n"
            f"net.predict(np.ones((30, 6))), kernels.bias_gradient(np.ones((2, 6)), np.empty(6))"
        )
    assert_runs(code)


def test_locks_are_taken_in_one_order(monkeypatch):
    """One thread compiles a function of the package, another one a user's."""
    compile_one, both = native.NativeFunction.compile, threading.Barrier(2)

    def compile_with_the_other(*arguments, **options):
        try:
            both.wait(0.5)  # each thread has the first of its locks now, unless one waits for the other
        except threading.BrokenBarrierError:
            pass
        return compile_one(*arguments, **options)

    monkeypatch.setattr(native.NativeFunction, "compile", compile_with_the_other)
    for name in ("read", "add"):  # nothing on disk
        monkeypatch.setattr(library.LibraryFile, name, lambda *_: None)
    monkeypatch.setattr(library, "symbol_of", lambda name, dtype: "fastbp_test_of_locks")
    functions, users = library.Library(np.float64), custom.UserFunction(lambda x: x + 1, "i")
    calls = [lambda: functions.address("elementwise.exp"), lambda: users.address(np.float64)]
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_another_thread_compiles(tmp_path):
    code = """
import os
import signal
import threading
import numpy as np
from fastbp import kernels
from fastbp.kernels import native

x, started, compile_one = np.zeros(3), threading.Event(), native.NativeFunction.compile
native.NativeFunction.compile = lambda *arguments: (started.set(), compile_one(*arguments))[1]

def work():
    for name in ("sigmoid", "exp", "softsign"):
        getattr(kernels, name)(x, np.empty(3))

thread = threading.Thread(target=work)
thread.start()
started.wait()
for name in ("tanh", "softplus"):
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends it where it waits for a lock that nobody releases
        out = np.full(3, np.nan)
        kernels.sigmoid(x, out)
        getattr(kernels, name)(x, out)
        os._exit(0 if np.allclose(out, {"tanh": 0, "softplus": np.log(2)}[name]) else 1)
    assert os.waitpid(child, 0)[1] == 0
thread.join()
"""
    assert_runs(code, NUMBA_CACHE_DIR=str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_loads_and_compiles(tmp_path):
    code = """
import os
import numpy as np
import fastbp
from fastbp import kernels

out = np.zeros(3)
kernels.exp(out, out)
for name in ("exp", "relu"):  # in memory; to be compiled
    child = os.fork()
    if child == 0:
        getattr(kernels, name)(out, out)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
kernels.relu(out, out)
"""
    assert_runs(code, NUMBA_CACHE_DIR=str(tmp_path))


def test_code_is_not_saved_where_the_sources_have_changed_since(monkeypatch, tmp_path):
    """As after an upgrade: the process may have imported modules of either version."""
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path)
    saved = {}
    for changes in (True, False):
        on_disk = library.sources() | ({"simd": b"of another version"} if changes else {})
        monkeypatch.setattr(library, "_sources_on_disk", on_disk.copy)
        assert library.Library("float32").address("optimizers.sum_of_squares")
        saved[changes] = list(tmp_path.rglob(f"*{library.SUFFIX}"))
    assert not saved[True] and len(saved[False]) == 1


def test_files_of_the_kernels_are_attributes_of_the_package():
    code = "import fastbp; print(fastbp.kernels.schedules.KINDS == fastbp.kernels.tables.KINDS); fastbp.kernels.missing"
    result = run_python("-c", code)
    assert result.stdout == "True\n" and "fastbp.kernels has no 'missing'" in result.stderr
