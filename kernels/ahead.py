"""A first compile on two cores: another process compiles, from the other end, what this one is about to need.

Numba compiles in one thread, and everything a first training needs takes it more than ten seconds.  Both processes
keep what they compile in the disk cache, whose locks see to it that nothing is compiled twice.
"""
import atexit
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np

from . import training
from .block import LEAVES
from .jit import Lock, cache_folder, fcntl, is_cached

_asked = set()


def n_cores():
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _signature(kernel, dtype):
    """Return the argument types with which the engine calls a kernel of training.py."""
    matrix, integers = np.empty((0, 0), np.int64), np.empty(0, np.int64)
    floats, numbers = np.empty(0, dtype), np.empty(0)
    if kernel is training.evaluate:
        values = matrix, integers, integers, floats, floats, floats, numbers, floats, integers, 0
    else:
        values = (matrix, integers, integers, floats, floats, floats, np.empty((0, 0), np.uint32), integers, numbers,
                  np.empty((0, 0)), numbers, numbers, numbers, integers, 0)
    return tuple(map(numba.typeof, values))


def is_ready(kernel, n_leaves, dtype):
    """Whether a kernel and the first so many leaves are compiled for a dtype, in memory or on disk."""
    dtype = np.dtype(dtype)
    return is_cached(kernel, _signature(kernel, dtype)) and all(leaf.is_cached(dtype) for leaf in LEAVES[:n_leaves])


def compile_beside(kernel, n_leaves, dtype):
    """Start the other process, where there is a core for it and little is compiled yet.

    Parameters
    ----------
    kernel : one of training.py
        What this process calls after the leaves.
    n_leaves : int
        It will want the first so many.
    dtype : numpy.dtype
    """
    if (kernel, dtype) in _asked:
        return
    _asked.add((kernel, dtype))
    is_python = Path(sys.executable or "").name.lower().startswith("python")       # not a program that contains one
    if (fcntl is None or not is_python or n_cores() < 2 or LEAVES[0].is_cached(dtype) or cache_folder() is None):
        return
    lock = Lock.taken(cache_folder() / "fastbp.lock", 0)
    if lock is None:
        return                                     # another process is being helped already
    code = (f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import work; "
            f"work({kernel.__name__!r}, {n_leaves}, {dtype.name!r})")
    try:
        helper = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, pass_fds=[lock.descriptor])
    except OSError:
        lock.give_back()
        return
    os.close(lock.descriptor)                      # the other one holds it until it ends
    atexit.register(_end, helper)


def _end(helper):
    helper.terminate()
    helper.wait()


def work(name, n_leaves, dtype):
    """Compile, in the other process: the kernel, the one that everybody calls in the end, the leaves from the last."""
    for kernel in dict.fromkeys((getattr(training, name), training.evaluate)):
        kernel.compile(_signature(kernel, np.dtype(dtype)))
    for leaf in reversed(LEAVES[:n_leaves]):
        leaf.address(dtype)
