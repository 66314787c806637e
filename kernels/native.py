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
    """A function compiled once for each dtype and called by other kernels through its address.

    Numba copies every function that a kernel calls into that kernel and compiles it again there; for the large ones
    at the bottom this would multiply the time to compile, for users' own compiled loops too.

    Parameters
    ----------
    function : njit function that returns nothing.
    arguments : str
        A letter for each argument: i integer, f number of the dtype, p pointer to the dtype, o pointer to int64, w
        float64, d pointer to float64.
    on_disk : bool
        Whether the machine code is kept on disk.
    """

    def __init__(self, function, arguments, on_disk=True):
        self._function, self._arguments, self._compiled, self._addresses = function.py_func, arguments, {}, {}
        self.name = function.__name__
        self._on_disk = on_disk

    def like(self, function):
        """Return a leaf with the same arguments around a user's function, of which the disk cache knows nothing."""
        return NativeFunction(function, self._arguments, on_disk=False)

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
            if self._on_disk:
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
        cfunc = self._cfunc(dtype)
        path = cfunc._cache.path(cfunc._sig.args, cpu_target.target_context.codegen())
        return path is not None and path.exists()
