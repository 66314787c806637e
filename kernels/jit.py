"""Decorators that compile functions with this package's flags: `kernel`, `internal` and `inline`."""

import inspect
from types import FunctionType

import numba
from numba import carray

from .compiler import BARE, FLAGS, KernelCompiler
from .native import NativeFunction
from .public import letters_of, parameters_of


def inline(function):
    """Compile into the kernels that call it, always inlined."""
    return numba.njit(**FLAGS, **BARE, forceinline=True, pipeline_class=KernelCompiler)(function)


def internal(function):
    """Compile into the kernels that call it, inlined where LLVM chooses to."""
    return numba.njit(**FLAGS, **BARE, pipeline_class=KernelCompiler)(function)


def kernel(function):
    """Compile as the C function of a public kernel, which `tables.PUBLIC` names."""
    dispatcher, names = inline(function), list(inspect.signature(function).parameters)
    assert names == list(parameters_of(function.__name__)), f"{function.__name__} and tables.PUBLIC differ"
    dispatcher.native = lambda form="": _c_function(dispatcher, function.__name__, form)
    return dispatcher


def _c_function(kernel, name, form):
    """Return the native function that makes arrays of their addresses and dimensions, and calls a kernel with them."""
    arguments, values = [], []
    for parameter, letters in letters_of(name, form).items():
        dimensions = [f"{parameter}_{i}" for i in range(len(letters) - 1)]
        arguments += [parameter, *dimensions]
        values.append(f"carray({parameter}, ({', '.join(dimensions)},))" if dimensions else parameter)
    source = f"def {name}({', '.join(arguments)}):\n    return kernel({', '.join(values)})\n"
    code = next(c for c in compile(source, __file__, "exec").co_consts if hasattr(c, "co_code"))
    function = FunctionType(code, {"carray": carray, "kernel": kernel})
    return NativeFunction(function, "".join(letters_of(name, form).values()))
