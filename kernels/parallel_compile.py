"""A first compile on two cores: a helper process compiles, from the other end, what this one is about to need.

Numba compiles in one thread, and what a first training needs takes it several seconds.  Both processes keep what they
compile in the disk cache, and its locks make one wait for what the other is compiling.
"""

import atexit
import os
import sys
from pathlib import Path

import numpy as np

from .cache import cache_folder, fcntl, open_beside
from .cores import n_cores
from .layout import GEMM
from .library import NativeFunctionHandle, native_function
from .tables import FUNCTIONS

_asked = set()


def is_ready(functions, dtype):
    """Whether native functions are compiled for a dtype, in memory or on disk."""
    return all(function.is_cached(dtype) for function in functions)


def start_compile_helper(functions, dtype):
    """Start the helper process, where there is a core for it and little is compiled yet.

    Parameters
    ----------
    functions : sequence of native functions
        What this process compiles, in this order; the helper begins with the last.  Those of users have no name.
    dtype : numpy.dtype
    """
    names = [function.name for function in reversed(functions) if isinstance(function, NativeFunctionHandle)]
    key = (*names, dtype)
    if key in _asked:
        return
    _asked.add(key)
    is_python = Path(sys.executable or "").name.lower().startswith("python")  # not a program that contains one
    gemm = native_function(FUNCTIONS[GEMM])
    if fcntl is None or not is_python or n_cores() < 2 or gemm.is_cached(dtype) or cache_folder() is None:
        return
    lock = _lock()
    if lock is None:
        return  # another process is being helped already
    import subprocess

    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import work; work({names!r}, {dtype.name!r})"
    command = [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", code]  # as multiprocessing does
    try:
        helper = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[lock]
        )
    except OSError:
        return
    finally:
        os.close(lock)  # the helper holds it until it ends
    atexit.register(_end, helper)


def _lock():
    """Return a locked file that a child process can inherit, None where another process has it.

    Locks of bytes as in `cache.Lock` are not inherited, those of whole files are; some systems do not allow both kinds
    on the same file.
    """
    descriptor = None
    try:
        descriptor = open_beside(cache_folder() / "helper.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None


def _end(helper):
    helper.kill()
    helper.wait()


def work(names, dtype):
    """Compile native functions by name, in the helper process."""
    for name in names:
        native_function(name).address(np.dtype(dtype))
