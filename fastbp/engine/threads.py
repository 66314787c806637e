"""The number of threads, and the thread pool."""

import ctypes
import functools
import os
import threading

import numba
import numpy as np

from .. import arguments
from ..kernels import threads as native
from ..kernels.cores import n_cores
from ..update import aligned_zeros
from .workspace import address_of

_threads: int | None = None


def get_num_threads() -> int:
    """Return the limit on the number of threads: that of `set_num_threads`, else the default.

    The default is the minimum of the cores that the process may use (its affinity), the CPU quota of its Linux control
    groups, rounded up, and OMP_NUM_THREADS and NUMBA_NUM_THREADS where they are set.
    """
    return n_cores() if _threads is None else _threads


def set_num_threads(n: int | None) -> None:
    """Limit the threads that training and evaluation use; None restores the default of `get_num_threads`.

    Results are the same to the bit for any number of threads.  Small networks use one thread in any case.

    Parameters
    ----------
    n : int or None
        At least 1.

    Raises
    ------
    TypeError, ValueError
        `n` is not a positive integer or None.
    """
    global _threads
    if n is not None:
        n = arguments.integer("n", n)
    _threads = n


class ThreadPool:
    """Worker threads that run a job together (`kernels.threads`); idle ones sleep, and none ever ends."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._slots: list[np.ndarray] = []
        self._addresses = np.empty(0, np.int64)

    def slots(self, n: int) -> np.ndarray:
        """Return the addresses of the slots of n workers; hold the lock until they have done the job."""
        while len(self._slots) < n:
            slot = aligned_zeros(native.SLOT_SIZE, np.int64)
            native.init_slot(slot)
            native.worker_loop.compile((numba.typeof(slot), numba.intp))  # an error would be lost in the thread
            threading.Thread(target=native.worker_loop, args=(slot, native.ACQUIRE), daemon=True, name="fastbp").start()
            self._slots.append(slot)
        if len(self._addresses) != len(self._slots):
            self._addresses = np.array([address_of(slot) for slot in self._slots], np.int64)
        return self._addresses[:n]


_pool = ThreadPool()


def pool() -> ThreadPool:
    """Return the pool of this process."""
    return _pool


@functools.cache
def launcher():
    """Return `kernels.threads.launch` as a ctypes function, which releases the interpreter's lock."""
    return ctypes.CFUNCTYPE(None, ctypes.c_ssize_t)(native.launch.address(np.float64))


def _discard_pool():
    global _pool
    _pool = ThreadPool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_discard_pool)  # a forked child has no worker threads
