"""Decorators that compile functions with this package's flags: `kernel`, `internal` and `inline`."""

import inspect

import numba
from numba import carray

from .compiler import BARE, FLAGS, KernelCompiler
from .native import NativeFunction
from .tables import letters_of, parameters_of


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
    dispatcher.native = Source(dispatcher, function.__name__)
    return dispatcher


class Source:
    """What gives the native functions of a public kernel, one for each form of its arguments."""

    def __init__(self, kernel, name):
        self._kernel, self._name = kernel, name

    def __call__(self, form=""):
        """Return the one that makes arrays of their addresses and dimensions, and calls the kernel with them."""
        arguments, values = [], []
        for parameter, letters in letters_of(self._name, form).items():
            dimensions = [f"{parameter}_{i}" for i in range(len(letters) - 1)]
            arguments += [parameter, *dimensions]
            values.append(f"carray({parameter}, ({', '.join(dimensions)},))" if dimensions else parameter)
        source = f"lambda {', '.join(arguments)}: kernel({', '.join(values)})"
        function = eval(source, {"carray": carray, "kernel": self._kernel})
        function.__name__ = function.__qualname__ = self._name
        return NativeFunction(function, "".join(letters_of(self._name, form).values()))
