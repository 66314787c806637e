"""The Numba side of the backend boundary: plans, workspaces and threads around the kernels.

`NumbaBackend` has the methods of `fastbp.reference.NumpyBackend` and computes the same.
"""

import ctypes
import functools
import math
import os
import threading
import time

import numba
import numpy as np

from . import checks, interrupts
from .kernels import gang
from .kernels import training as t
from .kernels.ahead import compile_beside, is_ready
from .kernels.block import LEAVES, load_leaves, sync_size
from .kernels.cores import n_cores
from .kernels.losses import Y_GRADIENT, Y_LABELS, Y_NONE, Y_ROWS
from .kernels.optimizers import RULES, SQUARES_CHUNK
from .kernels.plan import (
    A_AT,
    CALL_AT,
    DATA_AT,
    DELTA_AT,
    DONE_AT,
    JOB_SIZE,
    MOST_LANE_PARAMETERS,
    N_EVALUATION_LEAVES,
    N_OUT,
    N_PLAIN_LEAVES,
    PLACES_AT,
    PLAN_AT,
    ROW,
    RULES_OF_TILES,
    SPAN,
    TASK_AT,
    X_FLOAT32,
    X_FLOAT64,
    X_UINT8,
    Z_AT,
    Call,
    Data,
    Places,
    Steps,
    Wanted,
    make_plan,
    pack,
    pack_call,
)
from .kernels.schedules import KINDS
from .kernels.simd import LANES
from .losses import name_of, settings_of, smoothing_classes
from .network import aligned_zeros
from .own import Own
from .reference import Pass
from .update import Update

BLOCK_ROWS = 256  # most samples in one block: a block's activations stay in the cache, and dW sums over one block
FEW_ROWS = 16  # blocks of this size serve evaluations of a few samples
MIN_ROWS_PER_THREAD = 4  # with fewer rows of a block a thread's tiles are too flat to pay
# An update of fewer multiply-adds than this for each thread is not worth the meetings and moving W between cores: on
# two cores two threads were even with one at 4-32-32-1 with 32 samples (60,000 each), 0.75 times as fast at 64-30-10
# with 10 (34,000); at 784-30-10 with 10 (360,000) 1.2 times on one machine, 0.45 times on another, and trials decide.
MIN_WORK_PER_THREAD = 200_000
LARGE_WORK = 2_000_000  # of an update for each thread: until a trial tells better, several threads do such
TRIAL_WORK = 200_000_000  # multiply-adds of a trial of a number of threads: 2 ms, for waking them takes up to 0.1 ms
LEAST_TRIAL_WORK = 25_000_000
TRIALS = 2  # of each number of threads, in turn; the better one counts
CALLS_BETWEEN_TRIALS = 8
EVALUATIONS_BETWEEN_TRIALS = 64
CERTAIN_WORK = 100_000_000  # an update of more multiply-adds is divided without trials: meetings are little of it
# Multiply-adds of an evaluation for several threads: 25 us on one.  Threads that are awake pay from 0.5 million on; one
# that must be woken comes 0.05 to 0.1 ms late, and then two threads are even with one.
LEAST_SHARED_WORK = 1_000_000
# Multiply-adds of one native call, which Ctrl-C must wait for: 20 to 80 ms.
INTERRUPTIBLE_WORK = 2_000_000_000
REMEMBERING = ("adam", "adamw", "nadam")  # rules whose factors differ from step to step
X_KINDS = {np.dtype(np.float32): X_FLOAT32, np.dtype(np.float64): X_FLOAT64, np.dtype(np.uint8): X_UINT8}

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
        n = checks.integer("n", n)
    _threads = n


# -------------------------------------------------------------------------------------------------- threads


class _Gang:
    """Threads that do one job side by side (`kernels.gang`); they sleep some time after it, and never end."""

    def __init__(self):
        self.lock = threading.Lock()
        self._bells, self._addresses = [], np.empty(0, np.int64)

    def bells(self, others):
        """Return the addresses of the bells of that many other threads.  Hold the lock until they have done the job."""
        while len(self._bells) < others:
            bell = aligned_zeros(gang.BELL_SIZE, np.int64)
            gang.prepare(bell)
            gang.serve.compile((numba.typeof(bell), numba.intp))  # here, where an error is seen
            threading.Thread(target=gang.serve, args=(bell, gang.ACQUIRE), daemon=True, name="fastbp").start()
            self._bells.append(bell)
        if len(self._addresses) != len(self._bells):
            self._addresses = np.array([_address(bell) for bell in self._bells], np.int64)
        return self._addresses[:others]


_gang = _Gang()


@functools.cache
def _launch():
    """Return `gang.launch` as Python calls it, without the interpreter's lock."""
    return ctypes.CFUNCTYPE(None, ctypes.c_ssize_t)(gang.launch.address(np.float64))


def _forget_gang():
    global _gang
    _gang = _Gang()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_gang)  # a forked child has none of its parent's threads


# -------------------------------------------------------------------------------------------------- backend


def _address(array):
    return _word.from_address(id(array) + _HEADER).value


_word, _HEADER = ctypes.c_ssize_t, object.__basicsize__
# An array object begins with the address of its data, as Numba's own code and that of every extension knows; asked in
# another way it takes ten times as long.
assert all(_address(array) == array.ctypes.data for array in (np.empty(3), np.empty((2, 3), np.uint8)[1:]))


class _Desk:
    """A plan with its workspace: what one call at a time can work with."""

    def __init__(self, backend, rows, threads, n_states=None, dropout=()):
        *activations, loss = [
            item.addresses(backend.dtype) if isinstance(item, Own) else name_of(item)
            for item in (*backend.activations, backend.loss)
        ]
        self.plan = make_plan(
            backend.sizes, activations, loss, rows, threads, n_states, dropout, *settings_of(backend.loss).values()
        )
        self._dtype, self._n_leaves = backend.dtype, 0
        self.job, self.holds = bytearray(8 * JOB_SIZE), None  # the Steps and Data that are in it
        self._words = (ctypes.c_ssize_t * JOB_SIZE).from_buffer(self.job)
        self.address, self.kernel = ctypes.addressof(self._words), 0
        self.workspace = aligned_zeros(self.plan.size, backend.dtype)
        self.sync = aligned_zeros(sync_size(threads), np.int64)
        layers, leaves = self.plan.layers, self.plan.leaves
        others = map(_address, (leaves, self.workspace, self.sync))
        pack(self.job, PLACES_AT, Places(_address(layers), len(layers), *others))
        pack(self.job, PLAN_AT, self.plan)
        for copy in range(threads if self.plan.x_size else 1):
            start = self.plan.x_at + copy * self.plan.x_size
            block = self.workspace[start : start + rows * self.plan.x_row].reshape(rows, -1)
            block[:, backend.sizes[0]] = 1

    def need(self, kernel, n_leaves):
        """Have the first so many leaves at hand, which `kernel` will call; the others need not be compiled."""
        if self._n_leaves < n_leaves:
            with interrupts.allowed():
                compile_beside(kernel, n_leaves, self._dtype)
                load_leaves(self.plan, n_leaves, self._dtype)
            self._n_leaves = n_leaves

    def done(self):
        """Return the steps that the kernel has done."""
        return self._words[DONE_AT]

    def block(self, at, n, columns, row):
        """Return a copy of one block of the workspace, without its padding."""
        return self.workspace[at : at + n * row].reshape(n, row)[:, :columns].copy()


class _Pace:
    """How long an update takes on one thread and on several: tried now and then, for other work comes and goes.

    Threads wait for each other some times in every update.  Where another process takes a core away, such waits make
    several threads slower than one.  A short trial may miss that; so what follows a trial is timed too.
    """

    def __init__(self, most, work):
        self._work, self._most = work, most
        self._trial = {}  # threads -> seconds of an update in each piece of the trial
        self._calls = 0
        self.seconds = {}  # threads -> seconds of an update, as far as is known

    def note(self, threads, seconds, is_trial):
        """Take in how long updates took: the best of a trial; after it a geometric mean that forgets."""
        if is_trial:
            times = self._trial.setdefault(threads, [])
            times.append(seconds)
            self.seconds[threads] = min(times)
        elif threads in self.seconds:
            self.seconds[threads] = math.sqrt(seconds * self.seconds[threads])

    def pieces(self, epochs, first, last):
        """Cut a call into (threads, epochs, first batch, last batch): trials, if it is time, and the rest.

        A trial is some batches of the first epoch, or some epochs where one is too short; None threads means the best.
        """
        self._calls += 1
        if self.seconds and self._calls % CALLS_BETWEEN_TRIALS:
            return [(None, epochs, first, last)]
        numbers = [1, self._most] * TRIALS
        n = self._trial_size((last - first) // (2 * len(numbers)), self._work)
        n_epochs = self._trial_size(epochs.stop // (2 * len(numbers)), self._work * last)
        if not n and not n_epochs:
            return [(None, epochs, first, last)]
        self._trial = {}
        if n:
            cuts = [first + i * n for i in range(len(numbers) + 1)]
            one, rest = slice(0, 1), slice(1, epochs.stop)
            pieces = [(number, one, *cuts[i : i + 2]) for i, number in enumerate(numbers)]
            pieces.append((None, one, cuts[-1], last))
            return [*pieces, (None, rest, 0, last)] if epochs.stop > 1 else pieces
        cuts = [i * n_epochs for i in range(len(numbers) + 1)]
        pieces = [(number, slice(*cuts[i : i + 2]), 0, last) for i, number in enumerate(numbers)]
        return [*pieces, (None, slice(cuts[-1], epochs.stop), 0, last)]

    def turn(self):
        """Return the threads of an evaluation, and whether it is one of a trial: some calls in a row, now and then."""
        call, self._calls = self._calls % EVALUATIONS_BETWEEN_TRIALS, self._calls + 1
        if call == 0:
            self._trial = {}
        if call < 2 * TRIALS:
            return (self._most, 1)[call % 2], True
        return self.best, False

    @staticmethod
    def _trial_size(most, work):
        """Return how many units of work make a trial; 0 where `most` are not enough."""
        n = min(most, -(-TRIAL_WORK // work))
        return n if n * work >= LEAST_TRIAL_WORK else 0

    @property
    def best(self):
        """The faster number of threads; where none was tried yet, several for large updates."""
        if self.seconds:
            return min(self.seconds, key=self.seconds.get)
        return self._most if self._work >= LARGE_WORK * self._most else 1


class _Rules:
    """What of an `Update` stays the same from call to call, as the kernels take it."""

    def __init__(self, update):
        self.update = update
        self.rule, self.schedule = RULES[update.rule], KINDS[update.schedule]
        self.arrays = np.array([*update.numbers, 0.0]), np.array(update.rates, np.float64)
        self.dropout = update.dropout if any(update.dropout) else ()
        self.is_fused = self.rule <= RULES_OF_TILES and not (
            update.l1 or update.l2 or update.clip_value or update.clip_norm
        )
        self.is_plain = not (
            self.dropout or update.input_noise or update.label_smoothing or update.max_norm or update.skips
        )
        self.advances = update.schedule != "constant" or update.rule in REMEMBERING
        self.key = update.key - 2**64 if update.key >= 2**63 else update.key  # as a signed number


class NumbaBackend:
    """The arithmetic of one network by the compiled kernels.

    Parameters
    ----------
    sizes : tuple of int
    activations : tuple of str or Activation
        One for each layer after the input.
    loss : str, or an object of `fastbp.losses`
    reduction : str
    dtype : numpy.dtype
        float32 or float64.
    scale : float
        Factor of the inputs.
    """

    name = "numba"

    def __init__(self, sizes, activations, loss, reduction, dtype, scale=1.0):
        self.sizes, self.activations, self.loss, self.reduction = sizes, activations, loss, reduction
        self.dtype, self.scale = np.dtype(dtype), float(scale)
        self.n_parameters = sum((m + 1) * n for m, n in zip(sizes[:-1], sizes[1:], strict=True))
        self._free = {}  # arguments of _Desk -> desks nobody works at
        self._paces = {}  # (rows, threads) -> _Pace of training
        self._rules = _Rules(Update())  # of the last training
        self._lanes = LANES[numba.from_dtype(self.dtype)]
        self._nothing = np.empty(0, self.dtype)
        self._no_losses = np.empty(0)

    def __getstate__(self):
        """Leave the desks behind."""
        return {**self.__dict__, "_free": {}, "_paces": {}}

    def _work(self, prepare, key, threads, look=None, settle=None):
        """Have prepare(desk, threads, *call) write a job, and run it: (steps done, look(desk)).

        `call` are the fields of `plan.Call` between the kernel and the parameters; `key` are the arguments of the desk:
        its rows, the most threads, and for training the number of states and dropout.

        `settle` is called with the desk at the end.  The desk is one's own, so several Python threads may use the same
        network.  Where the gang is at another caller's work there is one thread, for which the results are the same.
        """
        crew = _gang
        in_gang = threads > 1 and crew.lock.acquire(blocking=False)
        threads, bells = threads if in_gang else 1, None
        try:
            if in_gang:
                try:
                    bells = crew.bells(threads - 1)
                except RuntimeError:  # no more threads can be started
                    threads = 1
            free = self._free.setdefault(key, [])
            try:
                desk = free.pop()
            except IndexError:
                desk = _Desk(self, *key)
            prepare(desk, threads, 0 if threads == 1 else _address(bells), threads - 1, gang.RELEASE)
            _launch()(desk.address)
            result = desk.done()
            if settle:
                settle(desk)
            if look:  # at a desk as large as these data: not kept
                return result, look(desk)
            if not free:
                free.append(desk)
            return result, None
        finally:
            if in_gang:
                crew.lock.release()

    def _threads_for(self, rows, products, most=None):
        """Choose the number of threads that pay for a block of this many rows."""
        if rows == 1 or self.n_parameters <= MOST_LANE_PARAMETERS:
            return 1  # the engines of kernels/small.py know no threads
        pay = min(rows // MIN_ROWS_PER_THREAD, products * self.n_parameters * rows // MIN_WORK_PER_THREAD)
        return 1 if pay <= 1 else min(pay, most or get_num_threads())

    def _evaluate(
        self, wants, parameters, X, Y=None, y_kind=Y_NONE, out=None, rows=None, look=None, weights=None, settle=None
    ):
        n = len(X)
        rows = rows or (FEW_ROWS if n <= FEW_ROWS else BLOCK_ROWS)
        losses = np.empty(n) if wants & t.WANT_LOSS else self._no_losses
        gradient = aligned_zeros(self.n_parameters, self.dtype) if wants & t.WANT_GRADIENT else self._nothing
        products = 3 if wants & t.WANT_GRADIENT else 1
        scale = 1.0 / n if self.reduction == "mean" else 1.0
        n_at_once = _blocks(products * self.n_parameters * rows) * rows
        if n <= n_at_once:
            seen = self._evaluate_rows(
                wants,
                scale,
                False,
                products,
                rows,
                parameters,
                gradient,
                y_kind,
                look,
                settle,
                X,
                Y,
                weights,
                losses,
                out,
            )
            return losses, gradient, seen
        for start in range(0, n, n_at_once):
            arrays = (
                array if array is None or array is self._no_losses else array[start : start + n_at_once]
                for array in (X, Y, weights, losses, out)
            )
            self._evaluate_rows(
                wants, scale, start > 0, products, rows, parameters, gradient, y_kind, look, settle, *arrays
            )
        return losses, gradient, None

    def _evaluate_rows(
        self, wants, scale, adds, products, rows, parameters, gradient, y_kind, look, settle, X, Y, weights, losses, out
    ):
        """Evaluate these samples in one native call; return look(desk)."""
        n = len(X)
        data = Data(
            _address(X),
            X_KINDS[X.dtype],
            self.scale,
            0 if Y is None else _address(Y),
            y_kind,
            0 if weights is None else _address(weights),
            n,
        )
        addresses = (
            _address(parameters),
            _address(gradient),
            0,
            0,
            _address(losses),
            0,
            0,
            0 if out is None else _address(out),
        )

        def prepare(desk, threads, *call):
            desk.need(t.evaluate, N_EVALUATION_LEAVES)
            pack(desk.job, DATA_AT, data)
            pack(desk.job, CALL_AT, Call(t.evaluate.address(self.dtype), *call, *addresses))
            pack(desk.job, TASK_AT, Wanted(wants, scale, threads, adds))

        work = products * self.n_parameters * n
        most = self._threads_for(min(n, rows), products) if work >= LEAST_SHARED_WORK else 1
        if most == 1 or work >= CERTAIN_WORK or look:
            return self._work(prepare, (rows, most), most, look, settle)[1]
        # Other threads of this process or others may want the cores too: then one thread is several times as fast.
        pace = self._paces.setdefault((most,), _Pace(most, work))
        threads, is_trial = pace.turn()
        start = time.perf_counter()
        self._work(prepare, (rows, most), threads, settle=settle)
        pace.note(threads, (time.perf_counter() - start) / work, is_trial)
        return None

    def predict(self, parameters, X):
        """Return outputs (n, n_out) of samples (n, n_in), which must be finite."""
        return self._outputs(t.WANT_OUTPUT, parameters, X)[0]

    def outputs_and_losses(self, parameters, X, Y):
        """Return what `predict` and `losses` do, in one pass."""
        return self._outputs(t.WANT_OUTPUT | t.WANT_LOSS, parameters, X, Y, _kind_of(Y))

    def _outputs(self, wants, parameters, X, *targets):
        out = np.empty((len(X), self.sizes[-1]), self.dtype)
        is_finite = True

        def look(desk):
            nonlocal is_finite
            is_finite, desk.sync[t.NOT_FINITE] = is_finite and not desk.sync[t.NOT_FINITE], 0

        losses = self._evaluate(wants, parameters, X, *targets, out=out, settle=look)[0]
        if not is_finite:  # or only so large that their squares are not
            checks.finite("X", X, self.dtype)
        return out, losses

    def losses(self, parameters, X, Y):
        """Return the loss of each sample, float64 (n,), before the mean or sum."""
        return self._evaluate(t.WANT_LOSS, parameters, X, Y, _kind_of(Y))[0]

    def gradient(self, parameters, X, Y, weights=None):
        """(sample losses, flat gradient of the reduced loss), both with the weights of the samples, (n,) or None."""
        return self._evaluate(t.WANT_LOSS | t.WANT_GRADIENT, parameters, X, Y, _kind_of(Y), weights=weights)[:2]

    def gradient_from(self, parameters, X, dA):
        """Return the flat gradient for an output gradient dA."""
        return self._evaluate(t.WANT_GRADIENT, parameters, X, dA, Y_GRADIENT)[1]

    def input_gradient(self, parameters, X, Y):
        """Return the gradient of the reduced loss with respect to X."""
        dX = np.empty((len(X), self.sizes[0]), self.dtype)
        self._evaluate(t.WANT_INPUT_GRADIENT, parameters, X, Y, _kind_of(Y), out=dX)
        dX *= self.dtype.type(self.scale)
        return dX

    def record(self, parameters, X, Y=None, dA=None):
        """Every Z, A and delta of one pass, as a `Pass`: forward only, or back from targets Y or a gradient dA."""
        n = len(X)
        wants, dX = 0, None
        if Y is not None or dA is not None:
            wants = t.WANT_GRADIENT | t.WANT_INPUT_GRADIENT | (t.WANT_LOSS if dA is None else 0)
            dX = np.empty((n, self.sizes[0]), self.dtype)
        y, kind = (Y, _kind_of(Y)) if dA is None else (dA, Y_GRADIENT)

        def blocks(desk):
            for layer in desk.plan.layers:
                shape = n, layer[N_OUT], layer[ROW]
                yield tuple(desk.block(layer[at], *shape) for at in (Z_AT, A_AT, DELTA_AT)), layer[Z_AT] == layer[A_AT]

        losses, gradient, seen = self._evaluate(
            wants, parameters, X, y, kind, out=dX, rows=n, look=lambda desk: list(blocks(desk))
        )
        if dX is not None:
            dX *= self.dtype.type(self.scale)
        Z, A, delta = [], [X.astype(self.dtype) * self.dtype.type(self.scale)], []
        for l, ((z, a, d), is_overwritten) in enumerate(seen):
            if is_overwritten:  # Z, by A: computed once more
                W, b = self._weights(parameters, l)
                z = A[l] @ W + b
            Z.append(z)
            A.append(a)
            delta.append(d)
        if wants == 0:
            return Pass(Z=Z, A=A, delta=None, gradient=None, dX=None, losses=None)
        return Pass(Z=Z, A=A, delta=delta, gradient=gradient, dX=dX, losses=losses if dA is None else None)

    def _weights(self, parameters, l):
        start = sum((m + 1) * n for m, n in zip(self.sizes[:l], self.sizes[1:], strict=False))
        n_in, n_out = self.sizes[l], self.sizes[l + 1]
        return parameters[start : start + n_in * n_out].reshape(n_in, n_out), parameters[start + n_in * n_out :][:n_out]

    def training(self, parameters, state, *, batch_size, order, update, threads=0):
        """Return a function that trains with these settings; see `fastbp.reference.NumpyBackend.training`."""
        rules = self._rules  # this thread's; another may train with rules of its own
        if rules.update is not update:
            rules = self._rules = _Rules(update)
        return _Training(self, rules, parameters, state, batch_size, order, threads)


class _Training:
    """Trains with the same settings, call by call; what the calls share is put together once."""

    def __init__(self, backend, rules, parameters, state, batch_size, order, threads):
        _check_indices("order", order)
        update, n_states, n_parameters = rules.update, len(state.buffers), backend.n_parameters
        self._backend, self._rules, self._state = backend, rules, state
        self._parameters, self._order = parameters, order
        self._batch_size = batch_size = min(batch_size, len(order))
        self._rows = rows = min(batch_size, BLOCK_ROWS)
        needs_gradient = (
            batch_size > rows
            or update.clip_norm
            or not rules.is_fused
            and (batch_size == 1 or n_parameters <= MOST_LANE_PARAMETERS)
        )
        self._gradient = aligned_zeros(n_parameters, backend.dtype) if needs_gradient else backend._nothing
        self._sums = np.empty(-(-n_parameters // SQUARES_CHUNK)) if update.clip_norm else None
        self._threads = threads
        self._work = 3 * n_parameters * batch_size
        self._rows_at_once = _blocks(3 * n_parameters * rows) * rows
        self._kind = n_states, rules.dropout
        to = [(_address(state.buffers[k]) - _address(parameters)) // backend.dtype.itemsize for k in range(n_states)]
        self._steps = Steps(
            *[0] * len(SPAN),
            batch_size,
            backend.reduction == "mean",
            rules.rule,
            rules.schedule,
            *map(_address, rules.arrays),
            0 if self._sums is None else _address(self._sums),
            n_states,
            *(*to, 0, 0)[:2],
            update.rate_scale,
            rules.is_fused,
            rules.advances,
            update.l1,
            update.l2,
            update.clip_value,
            update.clip_norm,
            update.max_norm,
            update.label_smoothing,
            update.label_smoothing / smoothing_classes(backend.loss, backend.sizes[-1]),
            update.input_noise,
            rules.key,
            update.skips,
        )
        self._addresses = _address(parameters), _address(self._gradient)

    def __call__(self, X, Y, weights, words, first_batch, last_batch, losses):
        """Whole epochs, or some batches of one; return the steps done."""
        most = self._backend._threads_for(self._rows, 3, self._threads)
        data = (
            _address(X),
            X_KINDS[X.dtype],
            self._backend.scale,
            _address(Y),
            _kind_of(Y),
            0 if weights is None else _address(weights),
            len(self._order),
        )
        if self._rows_at_once < self._batch_size:
            return self._in_parts(data, words, first_batch, last_batch, losses, most)
        if most == 1 or self._work >= CERTAIN_WORK:
            return self._do(data, words, first_batch, last_batch, losses, most, most)[0]
        paces = self._backend._paces
        if (self._rows, most) not in paces:
            self._do(data, None, 0, 0, losses[:0], 1, most)  # loads the kernel, so that no trial pays for it
        pace = paces.setdefault((self._rows, most), _Pace(most, self._work))
        total = 0
        for number, epochs, first, last in pace.pieces(slice(0, len(losses)), first_batch, last_batch):
            threads = number or pace.best
            done, seconds = self._do(
                data, None if words is None else words[epochs], first, last, losses[epochs], threads, most
            )
            total += done
            if done < (epochs.stop - epochs.start) * last - first:
                break
            pace.note(threads, seconds, number is not None)
        return total

    def _in_parts(self, data, words, first_batch, last_batch, losses, threads):
        """Train batches that take long, each in several native calls; Ctrl-C between them leaves all as it was."""
        state, total = self._state, 0
        for epoch in range(len(losses)):
            one = slice(epoch, epoch + 1)
            for batch in range(first_batch if epoch == 0 else 0, last_batch):
                before, skipped, done, first_row = losses[epoch], state.skipped, 0, 0
                while not done and np.isfinite(losses[epoch]):
                    interrupts.check()
                    last_row = first_row + self._rows_at_once
                    done, _ = self._do(
                        data,
                        None if words is None else words[one],
                        batch,
                        batch + 1,
                        losses[one],
                        threads,
                        threads,
                        first_row,
                        last_row,
                    )
                    first_row = last_row
                if not done:
                    return total
                if state.skipped > skipped:
                    losses[epoch] = before
                total += done
        return total

    def _do(self, data, words, first, last, losses, threads, most, first_row=0, last_row=0):
        """Train without trials, at a desk for the most threads: (steps done, seconds of one)."""
        backend, state = self._backend, self._state
        memory = state.memory if threads == 1 else np.tile(state.memory, threads)

        def prepare(desk, threads, *call):
            if desk.holds != (self._steps, data):
                self._put_down(desk, data)
            pack_call(
                desk.job,
                desk.kernel,
                *call,
                *self._addresses,
                0 if words is None else _address(words),
                _address(self._order),
                _address(losses),
                _address(memory),
                state.memory.size,
                0,
                first,
                last,
                len(losses),
                state.step,
                words is not None,
                threads,
                first_row,
                last_row,
            )

        def skipped(desk):
            state.skipped += int(desk.sync[t.SKIPPED])
            desk.sync[t.SKIPPED] = 0

        start = time.perf_counter()
        done = backend._work(
            prepare, (self._rows, most, *self._kind), threads, settle=skipped if self._rules.update.skips else None
        )[0]
        seconds = time.perf_counter() - start
        if threads > 1:
            state.memory[:] = memory[: state.memory.size]
        state.step += done
        return done, seconds / max(done, 1)

    def _put_down(self, desk, numbers):
        """Write into the job of a desk what does not differ from call to call; the numbers are those of `plan.Data`."""
        backend, rules, data = self._backend, self._rules, Data(*numbers)
        kernel = t.trainer_for(desk.plan, self._batch_size, backend._lanes, rules.is_plain and not data.weights)
        is_whole = self._batch_size <= self._rows
        desk.need(kernel, N_PLAIN_LEAVES if rules.is_plain and rules.is_fused and is_whole else len(LEAVES))
        with interrupts.allowed():
            desk.kernel = kernel.address(backend.dtype)
        pack(desk.job, DATA_AT, data)
        pack(desk.job, TASK_AT, self._steps)
        desk.holds = self._steps, numbers


def _blocks(work):
    """Return how many blocks of so many multiply-adds go into a native call, at least one."""
    return max(1, INTERRUPTIBLE_WORK // work)


def _kind_of(Y):
    if Y is None:
        return Y_NONE
    if Y.ndim == 1:
        _check_indices("Y", Y)
        return Y_LABELS
    return Y_ROWS


def _check_indices(name, array):
    """Check indices of which the kernels get no more than the address."""
    if array.dtype != np.int64:
        raise TypeError(f"{name} must be int64 where it holds indices, got {array.dtype}")


def is_compiled(dtype):
    """Whether the training kernels for float32 or float64 are compiled already, in memory or on disk."""
    return is_ready(t.train_in_blocks, N_PLAIN_LEAVES, dtype)
