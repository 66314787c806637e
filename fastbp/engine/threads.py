"""The number of threads, and the pool of them."""

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

_threads = None


def get_num_threads():
    """Return the most threads in use: by `set_num_threads`, else the default.

    The default is the least of the cores that the process may use (its affinity), the processor time that its Linux
    control group may use, rounded up, and the numbers in OMP_NUM_THREADS and NUMBA_NUM_THREADS where these are set.
    """
    return n_cores() if _threads is None else _threads


def set_num_threads(n):
    """Limit the threads that training and evaluation use; None returns to the default of `get_num_threads`.

    Results have the same bits for any number of threads, and small networks use one in any case.

    Parameters
    ----------
    n : int or None
        At least 1.

    Raises
    ------
    TypeError, ValueError
        When `n` is not a positive whole number or None.
    """
    global _threads
    if n is not None:
        n = arguments.integer("n", n)
    _threads = n


class ThreadPool:
    """Worker threads that run one job side by side (`kernels.threads`); idle ones sleep, and none ever ends."""

    def __init__(self):
        self.lock = threading.Lock()
        self._slots, self._addresses = [], np.empty(0, np.int64)

    def slots(self, others):
        """Return the addresses of the slots of that many workers.  Hold the lock until they have done the job."""
        while len(self._slots) < others:
            slot = aligned_zeros(native.SLOT_SIZE, np.int64)
            native.init_slot(slot)
            native.worker_loop.compile((numba.typeof(slot), numba.intp))  # here, where an error is seen
            threading.Thread(target=native.worker_loop, args=(slot, native.ACQUIRE), daemon=True, name="fastbp").start()
            self._slots.append(slot)
        if len(self._addresses) != len(self._slots):
            self._addresses = np.array([address_of(slot) for slot in self._slots], np.int64)
        return self._addresses[:others]


_pool = ThreadPool()


def pool():
    """Return the pool of this process."""
    return _pool


@functools.cache
def launcher():
    """Return `kernels.threads.launch` as Python calls it, without the interpreter's lock."""
    return ctypes.CFUNCTYPE(None, ctypes.c_ssize_t)(native.launch.address(np.float64))


def _discard_pool():
    global _pool
    _pool = ThreadPool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_discard_pool)  # a forked child has none of its parent's threads
