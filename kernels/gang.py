"""Threads that do a job side by side, without the interpreter: it is handed over, awaited and ended in native code.

A thread that has done its share looks out for the next job for some milliseconds, as those of OpenMP do, and then
sleeps.  Waking it takes 50 to 100 us, and a thread that had to come back to Python for its next job would wait for the
interpreter's lock as long: 784-128-10 with 100 rows took 151 us on one thread and takes 90 on two.  Who waits offers
the core to others, for a thread may be woken on the very core that waits for it.
"""

import ctypes

import numpy as np

from .block import wait_a_turn
from .jit import Leaf, kernel, part
from .plan import CALL_AT, Call
from .simd import (
    atomic_peek,
    atomic_replace,
    atomic_swap,
    call,
    give_way,
    nanoseconds,
    offset,
    peek,
    pointer,
    pointer_at,
    pointer_like,
    poke,
    spin_pause,
    unpacked,
)

STATE, JOB, THREAD, LOCK, BELL_SIZE = *range(4), 16  # of a bell, int64 words
ASLEEP, AWAKE, CALLED = range(3)  # states
AWAKE_NS = 5_000_000  # of looking out for the next job
PAUSES_AWAKE = 400  # before the core is offered to others, and the clock looked at: 5 to 20 us

_python = ctypes.pythonapi  # its locks need no interpreter
_python.PyThread_allocate_lock.restype = ctypes.c_void_p
_python.PyThread_acquire_lock.argtypes = ctypes.c_void_p, ctypes.c_int
ACQUIRE, RELEASE = (
    ctypes.cast(function, ctypes.c_void_p).value
    for function in (_python.PyThread_acquire_lock, _python.PyThread_release_lock)
)


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
        turn, start = 0, 0
        while atomic_peek(words, STATE) != CALLED:
            turn += 1
            spin_pause()
            if turn % PAUSES_AWAKE == 0:
                give_way()
                now = nanoseconds()
                if start == 0:
                    start = now
                elif now - start >= AWAKE_NS and atomic_replace(words, STATE, AWAKE, ASLEEP):
                    call(acquire, peek(words, LOCK), 1)
        job = pointer_like(peek(words, JOB), words)
        what = unpacked(offset(job, CALL_AT), Call, ())
        call(what.kernel, job, pointer_like(what.parameters, words), peek(words, THREAD))
        atomic_swap(words, STATE, AWAKE)


@part
def launch(job):
    """Run a kernel of training.py on this thread and on those behind the bells; return when all are done.

    Parameters
    ----------
    job : address of a job, which names the kernel (`plan.Call`).
    """
    words = pointer_at(job, np.int64)
    what = unpacked(offset(words, CALL_AT), Call, ())
    bells = pointer_at(what.bells, np.int64)
    for i in range(what.n_bells):
        bell = pointer_at(peek(bells, i), np.int64)
        poke(bell, JOB, job)
        poke(bell, THREAD, i + 1)
        if atomic_swap(bell, STATE, CALLED) == ASLEEP:
            call(what.release, peek(bell, LOCK))
    call(what.kernel, words, pointer_like(what.parameters, words), 0)  # a pointer is a pointer, whatever the dtype
    for i in range(what.n_bells):
        bell = pointer_at(peek(bells, i), np.int64)
        turn, start = 0, 0
        while atomic_peek(bell, STATE) == CALLED:
            turn += 1
            start = wait_a_turn(turn, start)


launch = Leaf(launch, "i")
