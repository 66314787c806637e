"""Native functions: compiled once for each dtype, and called by address."""

import numba
import numpy as np
from numba import types
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from .cache import KernelCache
from .jit import FLAGS


class NativeFunction:
    """A function compiled once for each dtype and called by other kernels through its address (`simd.call`).

    Numba copies every function that a kernel calls into that kernel and compiles it again there; for large ones this
    would multiply the time to compile, for users' own compiled loops too.  And a kernel that calls an address need not
    know which activation, loss or update rule is behind it.

    Parameters
    ----------
    function : function
        Of what `simd` and the other kernels offer; it returns nothing.
    arguments : str
        A letter for each argument: i integer, f number of the dtype, p pointer to the dtype, o pointer to int64, w
        float64, d pointer to float64.
    name : str, optional
        Of this one of several functions from the same source, such as "sigmoid_forward".
    expression : str, optional
        What gives it in another process, as "elementwise.forward('sigmoid')"; without one it is a user's, and its
        machine code is not kept on disk.
    """

    def __init__(self, function, arguments, name=None, expression=None):
        if name is not None:
            function.__name__ = function.__qualname__ = name  # the disk cache tells functions apart by it
        self._function, self._arguments, self._compiled, self._addresses = function, arguments, {}, {}
        self.name, self.expression = function.__name__, expression

    def _cfunc(self, dtype):
        if dtype not in self._compiled:
            scalar = numba.from_dtype(dtype)
            kinds = {
                "i": types.intp,
                "f": scalar,
                "p": types.CPointer(scalar),
                "o": types.CPointer(types.int64),
                "w": types.float64,
                "d": types.CPointer(types.float64),
            }
            sig = types.void(*[kinds[letter] for letter in self._arguments])
            cfunc = CFunc(self._function, (sig.args, sig.return_type), {}, FLAGS)
            if self.expression is not None:
                cfunc._cache = cache = KernelCache(self._function)
                cfunc.compile = cache.serialized(cfunc.compile)
            self._compiled.setdefault(dtype, cfunc)
        return self._compiled[dtype]

    def address(self, dtype):
        """Return the address of its machine code for a dtype, compiled or loaded now if need be."""
        if dtype not in self._addresses:
            with global_compiler_lock:  # a second thread's would take the place of the first's code
                if dtype not in self._addresses:
                    cfunc = self._cfunc(np.dtype(dtype))
                    cfunc.compile()
                    self._addresses[dtype] = cfunc.address
        return self._addresses[dtype]

    def is_cached(self, dtype):
        """Whether its machine code is in memory or on disk."""
        dtype = np.dtype(dtype)
        if dtype in self._addresses:
            return True
        if self.expression is None:
            return False
        cfunc = self._cfunc(dtype)
        path = cfunc._cache.path(cfunc._sig.args, cpu_target.target_context.codegen())
        return path is not None and path.exists()
