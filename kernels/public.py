"""The public kernels as Python sees them: checks of the arguments, and the call of the compiled C function.

Nothing here needs Numba.  Inside users' functions compiled by Numba the same objects become calls of the same machine
code (`callers`).
"""

import ctypes
import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

import numpy as np

from .layout import address_of
from .library import native_function, symbol_of
from .methods import COPY, METHODS
from .methods import letters_of as letters_of_method
from .tables import BAD_LABEL, DONE, NO_MEMORY, PUBLIC, RAISED, WRITTEN, letters_of, parameters_of

DTYPES = {"i": np.dtype(np.int64), "u": np.dtype(np.uint32), "w": np.dtype(np.float64)}  # of arrays, by kind
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
LABELS = "labels"  # the form of a kernel whose Y are class labels
MESSAGES = {
    BAD_LABEL: (ValueError, "Y holds a label that is no class: labels must be 0 to n_out - 1"),
    NO_MEMORY: (MemoryError, "no memory for a copy of the data"),
    RAISED: (IndexError, "an index is out of bounds"),  # which is noticed with NUMBA_BOUNDSCHECK
}
_SCALARS = {np.dtype(np.float32): ctypes.c_float, np.dtype(np.float64): ctypes.c_double}


class Array(NamedTuple):
    """What a check looks at."""

    dtype: np.dtype
    ndim: int
    is_contiguous: bool
    is_writable: bool
    show: Callable  # returns what an error shows


def describe(value):
    """Return an `Array` of a NumPy array; None of anything else."""
    if not isinstance(value, np.ndarray):
        return None
    flags = value.flags
    return Array(value.dtype, value.ndim, flags.c_contiguous, flags.writeable, functools.partial(_show, value))


def _show(array):
    layout = "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else "A"
    return f"array({array.dtype}, {array.ndim}d, {layout})"


def check(name, arguments):
    """Check the arguments of a public kernel; return its float dtype and its form.

    Parameters
    ----------
    name : str
    arguments : sequence
        For each argument an `Array`, or None for a number.

    Raises
    ------
    TypeError
        An array is missing, not C-contiguous, of the wrong dtype or number of dimensions, or read-only but written to.
    """
    floats, form, kinds = _FLOATS, "", parameters_of(name)
    last = next(reversed(kinds))
    for (parameter, kind), array in zip(kinds.items(), arguments, strict=True):
        if (array is not None) != (len(kind) == 2 or kind == "y"):
            expected = "a number" if array is not None else "an array"
            raise TypeError(f"{name}: {parameter} must be {expected}")
        if array is None:
            continue
        if kind == "y":
            form = LABELS if array.ndim == 1 and array.dtype.kind in "iu" else ""
            kind = "i1" if form else "f2"
        expected = floats if kind[0] == "f" else (DTYPES[kind[0]],)
        if array.dtype not in expected:
            like = ", as the arrays before it" if kind[0] == "f" and len(floats) == 1 else ""
            raise TypeError(f"{name}: {parameter} must be {' or '.join(map(str, expected))}{like}, got {array.dtype}")
        if not array.is_contiguous:
            raise TypeError(
                f"{name}: {parameter} must be C-contiguous, got {array.show()}; numpy.ascontiguousarray makes it so"
            )
        if kind[1] not in ("*", str(array.ndim)):
            raise TypeError(f"{name}: {parameter} must have {kind[1]} dimension(s), got {array.show()}")
        if not array.is_writable and (parameter == last or parameter in WRITTEN):
            raise TypeError(f"{name}: {parameter} is written to, but the array is read-only")
        if kind[0] == "f":
            floats = (array.dtype,)
    return floats[-1], form


class Kernel:
    """A public kernel, for calls from Python and from functions compiled by Numba.

    Arrays are trusted to fit each other: only their dtypes, numbers of dimensions and layouts are checked.
    """

    def __init__(self, name):
        self.__name__ = self.__qualname__ = name
        self.__module__ = f"{__package__}.{PUBLIC[name][0]}"
        self._functions = {}

    @property
    def __signature__(self):
        """The names of the arguments."""
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Signature([inspect.Parameter(name, kind) for name in parameters_of(self.__name__)])

    @property
    def __doc__(self):
        """The docstring of what Numba compiles."""
        return self._compiled().__doc__

    @property
    def _numba_type_(self):
        """Its type in functions compiled by Numba, which asks for it."""
        return import_module(".callers", __package__).type_of(self)

    def _compiled(self):
        """Return what Numba compiles it from."""
        return getattr(import_module(self.__module__), self.__name__)

    def __call__(self, *arguments, **named):
        """Call it with arrays and numbers, as its signature says."""
        if named or len(arguments) != len(parameters_of(self.__name__)):
            arguments = self.__signature__.bind(*arguments, **named).args
        dtype, form = check(self.__name__, [describe(value) for value in arguments])
        try:
            function, n_dimensions = self._functions[dtype, form]
        except KeyError:
            function, n_dimensions = self._functions[dtype, form] = self._c_function(dtype, form)
        values = []
        for value, n in zip(arguments, n_dimensions, strict=True):
            if n is float or n is int:
                values.append(n(value))
                continue
            values.append(address_of(value))
            values.extend(value.shape if n == value.ndim else (value.size,))
        result = function(*values)
        if result != DONE:
            kind, text = MESSAGES[result]
            raise kind(f"{self.__name__}: {text}")

    def _c_function(self, dtype, form):
        """Return its C function, and for each argument how many dimensions it passes on; of a number, its type."""
        letters = letters_of(self.__name__, form)
        types = {"f": _SCALARS[dtype], "w": ctypes.c_double}
        arguments = [types.get(letter, ctypes.c_ssize_t) for letter in "".join(letters.values())]
        address = native_function(native_name(self.__name__, form)).address(dtype)
        n_dimensions = [len(each) - 1 or (int if each == "i" else float) for each in letters.values()]
        return ctypes.CFUNCTYPE(ctypes.c_int64, *arguments)(address), n_dimensions

    def __repr__(self):
        """Return name and signature."""
        return f"<kernel {self.__name__}{self.__signature__}>"

    def __reduce__(self):
        """Pickle by name."""
        return kernel, (self.__name__,)


@functools.cache
def kernel(name):
    """Return the one `Kernel` of a name."""
    return Kernel(name)


@functools.cache
def names_of_symbols():
    """Return the native function and the float dtype of each C symbol."""
    natives = [
        native_name(name, form) for name in PUBLIC for form in ("", LABELS)[: 1 + ("y" in parameters_of(name).values())]
    ]
    natives += [f"model.{name}" for name in (*METHODS, COPY)]
    return {symbol_of(native, dtype): (native, dtype) for native in natives for dtype in _FLOATS}


def native_name(name, form):
    """Return the name of the native function of a public kernel."""
    return f"{PUBLIC[name][0]}.{name}{form and f'.{form}'}"


def c_arguments(native):
    """Return the letters of each argument of a function that has a symbol (`native.NativeFunction`)."""
    module, name, *form = native.split(".")
    if module == "model":
        return ["o", letters_of_method(name)]
    return list(letters_of(name, *form or [""]).values())
