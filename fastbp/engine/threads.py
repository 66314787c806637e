"""The number of threads, and the thread pool."""

import ctypes
import functools
import os
import threading

import numpy as np

from .. import arguments
from ..kernels.cores import n_cores
from ..kernels.layout import SEMAPHORE, SLOT_SIZE, SPINNING, STATE, address_of
from ..kernels.library import native_function
from ..update import aligned_zeros

_DTYPE = np.float32  # whose library holds the functions of no dtype
_python = ctypes.pythonapi  # its locks need no interpreter
_python.PyThread_allocate_lock.restype = ctypes.c_void_p
_python.PyThread_acquire_lock.argtypes = ctypes.c_void_p, ctypes.c_int
ACQUIRE, RELEASE = (
    ctypes.cast(function, ctypes.c_void_p).value
    for function in (_python.PyThread_acquire_lock, _python.PyThread_release_lock)
)
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


def new_slot() -> np.ndarray:
    """Return a slot for `worker_loop`."""
    slot = aligned_zeros(SLOT_SIZE, np.int64)
    slot[SEMAPHORE] = _python.PyThread_allocate_lock()
    _python.PyThread_acquire_lock(int(slot[SEMAPHORE]), 1)
    slot[STATE] = SPINNING
    return slot


class ThreadPool:
    """Worker threads that run a job together (`kernels.threads`); idle ones sleep, and none ever ends."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._slots: list[np.ndarray] = []
        self._addresses = np.empty(0, np.int64)

    def slots(self, n: int) -> np.ndarray:
        """Return the addresses of the slots of n workers; hold the lock until they have done the job."""
        while len(self._slots) < n:
            slot = new_slot()
            loop = worker_loop()  # compiled here: an error would be lost in the thread
            threading.Thread(target=loop, args=(address_of(slot), ACQUIRE), daemon=True, name="fastbp").start()
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
    return ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(native_function("threads.launch").address(_DTYPE))


@functools.cache
def array_launcher(dtype):
    """Return `kernels.arrays.launch` likewise."""
    return ctypes.CFUNCTYPE(*[ctypes.c_ssize_t] * 7)(native_function("arrays.launch").address(dtype))


def check(result):
    """Check what a launched kernel returned."""
    if result < 0:
        raise IndexError("an index is out of bounds")  # which is noticed with NUMBA_BOUNDSCHECK


@functools.cache
def worker_loop():
    """Return `kernels.threads.worker_loop` likewise: it takes the addresses of a slot and of PyThread_acquire_lock."""
    address = native_function("threads.worker_loop").address(_DTYPE)
    return ctypes.CFUNCTYPE(None, ctypes.c_ssize_t, ctypes.c_ssize_t)(address)


def _discard_pool():
    global _pool
    _pool = ThreadPool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_discard_pool)  # a forked child has no worker threads
