"""The thread pool's native side: partition, barrier, and workers that run jobs without the interpreter.

An idle worker spins for some milliseconds, as those of OpenMP do, then sleeps on a semaphore.  Waking it takes 50 to
100 us; a thread that had to return to Python for its next job would wait as long for the interpreter's lock: 784-128-10
with 100 rows took 151 us on one thread and takes 90 on two.  A waiting thread yields its core, since a worker may be
woken on the very core that waits for it.
"""

import numpy as np

from .atomics import atomic_add, atomic_exchange, atomic_load, compare_exchange, nanoseconds, spin_pause, yield_thread
from .jit import inline, internal
from .layout import (
    ARRIVALS,
    CALL_ARGS_AT,
    GENERATION,
    JOB,
    POSTED,
    SEMAPHORE,
    SLEEPING,
    SPINNING,
    STATE,
    THREAD,
    CallArgs,
)
from .native import native
from .simd import call, offset, peek, pointer_at, pointer_like, poke, unpacked

SPIN_BEFORE_SLEEP_NS = 5_000_000
PAUSES_BEFORE_YIELD = 400  # of an idle worker, before it yields and reads the clock: 5 to 20 us
SPIN_NS = 20_000  # of a thread that waits for others, before it yields
PAUSES_PER_CLOCK = 64  # pauses between two readings of the clock; a wait that is over before reads none


@inline
def partition(n, thread, threads):
    """Cut n items for threads: first item of this thread, first of the next."""
    if threads == 1:  # divisions are slow
        return 0, n
    return n * thread // threads, n * (thread + 1) // threads


@inline
def spin_wait(n_waits, start):
    """Wait once in a loop, for the n_waits-th time (1, 2, 3 ...): pause, or after SPIN_NS yield.

    Returns
    -------
    int
        `start` for the next call: 0 at first, then the time at which the clock was read first, or -1 once threads
        yield.
    """
    if start < 0:
        yield_thread()
        return start
    spin_pause()
    if n_waits % PAUSES_PER_CLOCK == 0:
        now = nanoseconds()
        if start == 0:
            return now
        if now - start >= SPIN_NS:
            return -1
    return start


@internal
def barrier(sync, threads):
    """Wait until every thread has come here.

    Parameters
    ----------
    sync : pointer to int64
        Counters that the threads share: sync[ARRIVALS] and sync[GENERATION] are used.
    threads : int
        How many come.
    """
    if threads > 1:
        generation = atomic_load(sync, GENERATION)
        if atomic_add(sync, ARRIVALS, 1) == threads - 1:
            poke(sync, ARRIVALS, 0)
            atomic_add(sync, GENERATION, 1)
        else:
            n_waits, start = 0, 0
            while atomic_load(sync, GENERATION) == generation:
                n_waits += 1
                start = spin_wait(n_waits, start)


@native("oi")
def worker_loop(fields, acquire):
    """Run the jobs that are posted to a slot, one after the other, for ever.

    Parameters
    ----------
    fields : pointer to int64
        The slot (SLOT_SIZE,), with a semaphore and in the state SPINNING.
    acquire : address of PyThread_acquire_lock.
    """
    while True:
        n_waits, start = 0, 0
        while atomic_load(fields, STATE) != POSTED:
            n_waits += 1
            spin_pause()
            if n_waits % PAUSES_BEFORE_YIELD == 0:
                yield_thread()
                now = nanoseconds()
                if start == 0:
                    start = now
                elif now - start >= SPIN_BEFORE_SLEEP_NS and compare_exchange(fields, STATE, SPINNING, SLEEPING):
                    call(acquire, peek(fields, SEMAPHORE), 1)
        job = pointer_like(peek(fields, JOB), fields)
        args = unpacked(offset(job, CALL_ARGS_AT), CallArgs, ())
        call(args.kernel, job, pointer_like(args.parameters, fields), peek(fields, THREAD))
        atomic_exchange(fields, STATE, SPINNING)


@native("i")
def launch(job):
    """Run a job on this thread and on the workers of its slots; return this thread's result when all are done.

    Parameters
    ----------
    job : address of a job, which names its kernel and the slots (`plan.CallArgs`).
    """
    fields = pointer_at(job, np.int64)
    args = unpacked(offset(fields, CALL_ARGS_AT), CallArgs, ())
    slots = pointer_at(args.slots, np.int64)
    for i in range(args.n_slots):
        slot = pointer_at(peek(slots, i), np.int64)
        poke(slot, JOB, job)
        poke(slot, THREAD, i + 1)
        if atomic_exchange(slot, STATE, POSTED) == SLEEPING:
            call(args.release, peek(slot, SEMAPHORE))
    # a pointer is a pointer, whatever the dtype
    result = call(args.kernel, fields, pointer_like(args.parameters, fields), 0)
    for i in range(args.n_slots):
        slot = pointer_at(peek(slots, i), np.int64)
        n_waits, start = 0, 0
        while atomic_load(slot, STATE) == POSTED:
            n_waits += 1
            start = spin_wait(n_waits, start)
    return result
