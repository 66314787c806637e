"""Threads that do a job side by side, without the interpreter: it is handed over, awaited and ended in native code.

A thread that has done its share looks out for the next job for some milliseconds, as those of OpenMP do, and then
sleeps.  Waking it takes 50 to 100 us, and a thread that had to come back to Python for its next job would wait for the
interpreter's lock as long: 784-128-10 with 100 rows took 151 us on one thread and takes 90 on two.  Who waits offers
the core to others, for a thread may be woken on the very core that waits for it.
"""
import ctypes

import numpy as np

from .block import SPINS
from .jit import kernel, part
from .plan import ARRAYS_AT, DONE_AT
from .simd import (
    address_of,
    atomic_peek,
    atomic_replace,
    atomic_swap,
    call,
    give_way,
    peek,
    pointer,
    pointer_at,
    pointer_like,
    poke,
    spin_pause,
)

STATE, KERNEL, JOB, PARAMETERS, THREAD, LOCK, BELL_SIZE = *range(6), 16      # of a bell, int64 words
ASLEEP, AWAKE, CALLED = range(3)       # states
AWAKE_SPINS = 100_000                  # some milliseconds

_python = ctypes.pythonapi             # its locks need no interpreter
_python.PyThread_allocate_lock.restype = ctypes.c_void_p
_python.PyThread_acquire_lock.argtypes = ctypes.c_void_p, ctypes.c_int
ACQUIRE, RELEASE = (ctypes.cast(function, ctypes.c_void_p).value
                    for function in (_python.PyThread_acquire_lock, _python.PyThread_release_lock))


def prepare(bell):
    """Make a bell, int64 (BELL_SIZE,) zeros, ready for `serve`."""
    bell[LOCK] = _python.PyThread_allocate_lock()
    _python.PyThread_acquire_lock(int(bell[LOCK]), 1)
    bell[STATE] = AWAKE


@kernel
def serve(bell, acquire):
    """Do the jobs that a bell calls for, one after the other, for ever.

    Parameters
    ----------
    bell : int64 (BELL_SIZE,), from `prepare`.
    acquire : address of PyThread_acquire_lock.
    """
    words = pointer(bell, 0)
    while True:
        spins = 0
        while atomic_peek(words, STATE) != CALLED:
            spins += 1
            if spins < AWAKE_SPINS:
                spin_pause()
                if spins % SPINS == 0:
                    give_way()
            elif atomic_replace(words, STATE, AWAKE, ASLEEP):
                call(acquire, peek(words, LOCK), 1)
        call(peek(words, KERNEL), pointer_like(peek(words, JOB), words), pointer_like(peek(words, PARAMETERS), words),
             peek(words, THREAD))                  # a pointer is a pointer, whatever the dtype
        atomic_swap(words, STATE, AWAKE)


@part
def put_down(job, layers, leaves, workspace, sync, gradient, words, order, losses, memory, numbers, rates, sums, out):
    """Write the addresses of arrays into a job, as the fields of `plan.Arrays`."""
    addresses = (address_of(layers), layers.shape[0], address_of(leaves), address_of(workspace), address_of(sync),
                 address_of(gradient), address_of(words), address_of(order), address_of(losses), address_of(memory),
                 memory.shape[1], address_of(numbers), address_of(rates), address_of(sums), address_of(out))
    for i in range(len(addresses)):
        poke(job, ARRAYS_AT + i, addresses[i])


@kernel
def launch(address, bells, release, job, layers, leaves, workspace, sync, parameters, gradient, words, order, losses,
           memory, numbers, rates, sums, out):
    """Run a kernel of training.py on this thread and on those behind the bells; return when all are done.

    Parameters
    ----------
    address : of the kernel, `Leaf.address`.
    bells : int64, addresses of the bells of the other threads.
    release : address of PyThread_release_lock.
    job : int64 (JOB_SIZE,)
        The numbers are there already.
    layers ... out : arrays
        As the kernel takes them.

    Returns
    -------
    int
        What the kernel left at DONE_AT.
    """
    j, p = pointer(job, 0), pointer(parameters, 0)
    put_down(j, layers, leaves, workspace, sync, gradient, words, order, losses, memory, numbers, rates, sums, out)
    for i in range(bells.size):
        bell = pointer_at(bells[i], np.int64)
        poke(bell, KERNEL, address)
        poke(bell, JOB, address_of(job))
        poke(bell, PARAMETERS, address_of(parameters))
        poke(bell, THREAD, i + 1)
        if atomic_swap(bell, STATE, CALLED) == ASLEEP:
            call(release, peek(bell, LOCK))
    call(address, j, p, 0)
    for i in range(bells.size):
        bell = pointer_at(bells[i], np.int64)
        spins = 0
        while atomic_peek(bell, STATE) == CALLED:
            spins += 1
            if spins < SPINS:
                spin_pause()
            else:
                give_way()
    return peek(j, DONE_AT)
