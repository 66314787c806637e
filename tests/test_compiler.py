"""Object code: what it computes, where it loads, what it may call, and that it is optimized once."""

import ctypes
import subprocess
import sys

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from fastbp.kernels import compiler
from fastbp.kernels.compiler import compile_object
from fastbp.kernels.custom import or_nan
from fastbp.kernels.jit import inline, internal
from fastbp.kernels.simd import lanes, load, masked_load, masked_store, peek, poke, store
from numba import types

C_TYPES = {types.float32: ctypes.c_float, types.float64: ctypes.c_double}
each_dtype = pytest.mark.parametrize("dtype", C_TYPES, ids=str)


@internal
def twice(x):
    return x + x


@inline
def scaled(x, factor):
    return twice(x) * factor


def scale_array(x, n, factor):
    j = 0
    while j + lanes(x) <= n:
        store(x, j, load(x, j) * (factor + factor))
        j += lanes(x)
    masked_store(x, j, masked_load(x, j, n - j) * (factor + factor), n - j)


def scale_numbers(x, n, factor):
    for j in range(n):
        poke(x, j, scaled(peek(x, j), factor))
    return n > 2


def compile_for(function, dtype, **settings):
    """Return the object code of a function of an array, its size and a number."""
    arguments = types.CPointer(dtype), types.intp, dtype
    return compile_object(function, arguments, function.__name__, **settings)


def new_engine(*objects):
    """Return an engine with object code loaded, as a process without Numba makes it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for code in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    return engine


def call(engine, function, numbers, factor):
    """Call a loaded function of an array, its size and a number."""
    address = engine.get_function_address(function.__name__)
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, np.ctypeslib.as_ctypes_type(numbers.dtype)
    )
    return prototype(address)(numbers.ctypes.data, numbers.size, factor)


LOADER = """
import ctypes, sys
import llvmlite.binding as llvm

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
number, paths = getattr(ctypes, sys.argv[1]), sys.argv[2:]
for path in paths:
    engine.add_object_file(llvm.ObjectFileRef.from_path(path))
prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, number)
numbers = (number * 22)(*range(22))
for name in ("scale_array", "scale_numbers"):
    print(prototype(engine.get_function_address(name))(ctypes.addressof(numbers), 21, 3))
print(*numbers)
assert not [name for name in sys.modules if name.startswith("numba")]
"""


@each_dtype
def test_object_code_runs_in_a_process_without_numba(dtype, tmp_path):
    paths = [tmp_path / "a.o", tmp_path / "b.o"]
    for path, function in zip(paths, (scale_array, scale_numbers), strict=True):
        path.write_bytes(compile_for(function, dtype))
    command = [sys.executable, "-c", LOADER, C_TYPES[dtype].__name__, *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[:2] == ["0", "1"]  # nothing is returned, and a truth value
    assert [float(number) for number in lines[2].split()] == [36.0 * n for n in range(21)] + [21.0]


def test_integers_are_returned_and_exceptions_become_minus_one():
    def size_or_error(x, n, factor):
        if n < 3:
            raise ValueError("too few")
        return n + 7

    engine = new_engine(compile_for(size_or_error, types.float64))
    assert call(engine, size_or_error, np.ones(3), 1) == 10
    assert call(engine, size_or_error, np.ones(2), 1) == -1


def test_other_results_are_refused():
    def half(x, n, factor):
        return n / 2

    with pytest.raises(TypeError, match="half returns float64"):
        compile_for(half, types.float64)


def test_missing_symbols_are_refused_by_name():
    nowhere = types.ExternalFunction("found_nowhere", types.intp(types.intp))

    def calls_nowhere(x, n, factor):
        return nowhere(n)

    with pytest.raises(ValueError, match="calls_nowhere needs found_nowhere"):
        compile_for(calls_nowhere, types.float64)
    assert b"found_nowhere" in compile_for(calls_nowhere, types.float64, standalone=False)


@numba.njit
def total_or_error(x):
    if x < 0:
        raise ValueError(f"{x} is negative")
    return np.full(3, x).sum()


def test_code_for_this_process_calls_users_functions_that_allocate_and_raise():
    function = or_nan(total_or_error)

    def map_users(x, n, factor):
        for j in range(n):
            poke(x, j, function(peek(x, j)))

    with pytest.raises(ValueError, match="map_users needs .*NRT_"):
        compile_for(map_users, types.float64)
    engine = new_engine(compile_for(map_users, types.float64, standalone=False))
    numbers = np.array([1.0, -1.0, 2.0])
    assert call(engine, map_users, numbers, 1) == 0
    np.testing.assert_array_equal(numbers, [3.0, np.nan, 6.0])


def test_callees_are_optimized_and_emitted_with_their_caller_only(monkeypatch):
    counts = {}

    def count(owner, name):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            counts[name] = counts.get(name, 0) + 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(llvm.ModulePassManager, "run")
    count(llvm.FunctionPassManager, "run")
    count(llvm.TargetMachine, "emit_object")
    count(llvm.ExecutionEngine, "add_module")
    count(compiler.ModuleLibrary, "add_ir_module")

    @internal
    def callee(x):
        return x * x

    def caller(x, n, factor):
        poke(x, 0, callee(peek(x, 0)) + factor)

    compile_for(caller, types.float64)
    assert counts == {"add_ir_module": 2, "run": 1, "emit_object": 1}
