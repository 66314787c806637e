"""A first compile on two cores: another process compiles, from the other end, what this one is about to need.

Numba compiles in one thread, and everything a first training needs takes it more than ten seconds.  Both processes
keep what they compile in the disk cache, and its locks make one wait for what the other is compiling.
"""

import atexit
import os
import subprocess
import sys
from pathlib import Path

from . import training
from .backprop import FUNCTION_TABLE
from .cache import cache_folder, fcntl, open_beside
from .cores import n_cores

_asked = set()


def is_ready(kernel, n_functions, dtype):
    """Whether a kernel and the first so many leaves are compiled for a dtype, in memory or on disk."""
    return all(function.is_cached(dtype) for function in (kernel, *FUNCTION_TABLE[:n_functions]))


def start_compile_helper(kernel, n_functions, dtype):
    """Start the other process, where there is a core for it and little is compiled yet.

    Parameters
    ----------
    kernel : one of training.py
        What this process calls after the leaves.
    n_functions : int
        It will want the first so many.
    dtype : numpy.dtype
    """
    if (kernel, dtype) in _asked:
        return
    _asked.add((kernel, dtype))
    is_python = Path(sys.executable or "").name.lower().startswith("python")  # not a program that contains one
    if fcntl is None or not is_python or n_cores() < 2 or FUNCTION_TABLE[0].is_cached(dtype) or cache_folder() is None:
        return
    lock = _lock()
    if lock is None:
        return  # another process is being helped already
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import work; "
        f"work({kernel.name!r}, {n_functions}, {dtype.name!r})"
    )
    command = [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", code]  # as multiprocessing does
    try:
        helper = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[lock]
        )
    except OSError:
        return
    finally:
        os.close(lock)  # the other one holds it until it ends
    atexit.register(_end, helper)


def _lock():
    """Return a locked file that a child process can inherit, None where another process has it.

    Locks of bytes as in `jit.Lock` are not inherited, those of whole files are; some systems do not allow both kinds
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


def work(name, n_functions, dtype):
    """Compile, in the other process: the kernel, the one that everybody calls in the end, the leaves from the last."""
    for function in (
        *dict.fromkeys((getattr(training, name), training.evaluate)),
        *reversed(FUNCTION_TABLE[:n_functions]),
    ):
        function.address(dtype)
