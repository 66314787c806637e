"""Native functions: compiled once for each dtype, and called by address.

Numba copies every function that a kernel calls into that kernel and compiles it again there; for large ones this would
multiply the time to compile, for users' own compiled loops too.  And a kernel that calls an address (`simd.call`) need
not know which activation, loss or update rule is behind it.

Native functions have a name, such as "elementwise.forward.sigmoid": module, function, arguments of the function.  By it
`library` finds their machine code, of this or an earlier process.
"""

from importlib import import_module

import numba
import numpy as np
from numba import types

from .compiler import compile_object
from .library import sources

sources()  # read while the modules that use this one are imported: machine code is saved as that of these


class NativeFunction:
    """What a native function is compiled from.

    Parameters
    ----------
    function : function
        Of what `simd` and the other kernels offer; it returns nothing or an integer.
    arguments : str
        A letter for each argument: i integer, f number of the dtype, p pointer to the dtype, o pointer to int64, u
        pointer to uint32, w float64, d pointer to float64, b pointer to uint8.
    """

    def __init__(self, function, arguments):
        self.function, self.arguments = function, arguments

    def compile(self, dtype, symbol, standalone=True):
        """Return its object code for a dtype, with this name; see `compiler.compile_object`."""
        scalar = numba.from_dtype(np.dtype(dtype))
        kinds = {
            "i": types.intp,
            "f": scalar,
            "p": types.CPointer(scalar),
            "o": types.CPointer(types.int64),
            "u": types.CPointer(types.uint32),
            "w": types.float64,
            "d": types.CPointer(types.float64),
            "b": types.CPointer(types.uint8),
        }
        return compile_object(self.function, [kinds[letter] for letter in self.arguments], symbol, standalone)


def native(arguments):
    """Decorate a function, or an `internal` one, which others may call by address too; see `NativeFunction`."""

    def decorate(function):
        function.native = lambda: NativeFunction(getattr(function, "py_func", function), arguments)
        return function

    return decorate


def resolve(name):
    """Return the `NativeFunction` of a name."""
    module, function, *arguments = name.split(".")
    source = getattr(import_module(f".{module}", __package__), function)
    return source.native(*arguments) if hasattr(source, "native") else source(*arguments)
