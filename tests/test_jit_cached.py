"""Cached compiled functions of users that call models: a hit in the next process, and new code after an upgrade."""

import json
import shutil

import pytest
from fastbp.kernels.cache import cache_folder
from shared import copy_package, run_python
from test_callers import edit

USER = """
import json
import sys
import numpy as np
from numba import njit
from fastbp import jit

@njit(cache=True)
def inner(m, x, out):
    jit.predict(m, x, out)

@njit(cache=True)
def function(m, x):
    out, child = np.empty(1, x.dtype), m.clone()
    child.parameters[:] = m.parameters * m.lr
    inner(child, x, out)
    return child, out

def result(m):
    try:
        child, out = function(m, np.ones(2, m.parameters.dtype))
        return [float(out[0]), float(child.parameters.sum())]
    except Exception as error:
        return type(error).__name__ + ": " + str(error)

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    import fastbp
    import user
    net = fastbp.Network([2, 3, 1], activations=["tanh", "identity"], dtype=sys.argv[2], seed=0)
    m = jit.model(net)
    m.lr = 0.5
    results = [user.result(m) for _ in range(2)]
    hits = sum(user.function.stats.cache_hits.values()), sum(user.function.stats.cache_misses.values())
    print(json.dumps([*results, *hits]))
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A user's module, the copy of the package that it imports, and a cache that has this process's machine code."""
    folder = tmp_path_factory.mktemp("user")
    package = copy_package(folder)
    (folder / "user.py").write_text(USER)
    if cache_folder() is not None:
        (folder / "cache" / "fastbp").mkdir(0o700, parents=True)
        for path in cache_folder().glob("float*-*.fastbp"):
            shutil.copy(path, folder / "cache" / "fastbp")
    return package


def run(package, dtype="float64"):
    """Call the function twice in a new process; return the result, and cache hits and misses."""
    folder = package.parent
    done = run_python(
        str(folder / "user.py"),
        str(folder),
        dtype,
        PYTHONPATH=str(folder),
        NUMBA_CACHE_DIR=str(folder / "cache"),
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert done.returncode == 0, done.stderr
    first, second, *hits_and_misses = json.loads(done.stdout)
    assert first == second
    return first, hits_and_misses


@pytest.fixture(scope="module")
def expected(user):
    """What the function returns, first compiled, then from the cache."""
    first, hits_and_misses = run(user)
    assert hits_and_misses == [0, 1]
    assert run(user) == (first, [1, 0])
    return first


def run_edited(user, name, old, new):
    """Run with an edit of a file of the kernels, and undo it."""
    path = user / "kernels" / name
    source = path.read_text()
    try:
        edit(path, old, new)
        return run(user)
    finally:
        path.write_text(source)


def test_a_cached_function_gets_the_code_of_an_upgrade(user, expected):
    old, new = "poke(out, 0, peek(a, 0))", "poke(out, 0, peek(a, 0) * 2)"
    result, hits_and_misses = run_edited(user, "model.py", old, new)
    assert hits_and_misses == [1, 0]
    assert result == [2 * expected[0], *expected[1:]]


def test_a_cached_function_of_another_version_raises(user, expected):
    old, new = 'COPY = "copy"', 'del METHODS["predict"]\nCOPY = "copy"'
    result, hits_and_misses = run_edited(user, "methods.py", old, new)
    assert hits_and_misses == [1, 0]
    assert result.startswith("RuntimeError: predict: compiled by another version of fastbp")


def test_each_dtype_is_cached(user, expected):
    result, hits_and_misses = run(user, "float32")
    assert hits_and_misses == [0, 1]
    assert run(user, "float32") == (result, [1, 0])
    assert result == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "old, new",
    [
        ("range(21, 28)", "range(31, 38)"),
        ("import Y_LABELS, Y_ROWS, field_packing", "import Y_ROWS, field_packing\n\nY_LABELS = 9"),
        ('"j": "pii"', '"j": "piii"'),
        ("ALIGNMENT = 128", "ALIGNMENT = 256"),
    ],
    ids=["codes", "kinds of targets", "letters", "alignment"],
)
def test_what_compiled_functions_hold_of_a_model_is_part_of_its_type(user, expected, old, new):
    """Otherwise they would raise the wrong exceptions, or read wrong memory."""
    assert run_edited(user, "methods.py", old, new) == (expected, [0, 1])
