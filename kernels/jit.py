"""Decorators that compile functions with this package's flags: `kernel`, `internal` and `inline`."""

import inspect

import numba
from numba.core import config

from .cache import KernelCache
from .signature import check_arrays

if config.DISABLE_JIT:
    raise ImportError(
        "fastbp's kernels are machine code, but NUMBA_DISABLE_JIT is set: unset it, or use backend='numpy'"
    )

# error_model="numpy": division by zero as in IEEE 754.  fastmath is never used: it deletes the checks for NaN.
FLAGS = {"nogil": True, "error_model": "numpy"}
BARE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def kernel(function):
    """Compile at the first call, after `signature.check_arrays`, and keep the machine code on disk."""
    dispatcher = numba.njit(**FLAGS)(function)
    dispatcher._cache = cache = KernelCache(function)
    compile_one, names = cache.serialized(dispatcher.compile), list(inspect.signature(function).parameters)

    def compile_checked(sig):
        check_arrays(function.__name__, names, getattr(sig, "args", sig))
        return compile_one(sig)

    dispatcher.compile = compile_checked
    return dispatcher


def inline(function):
    """Compile into the kernels that call it, always inlined."""
    return numba.njit(**FLAGS, **BARE, forceinline=True)(function)


def internal(function):
    """Compile into the kernels that call it, inlined where LLVM chooses to."""
    return numba.njit(**FLAGS, **BARE)(function)
