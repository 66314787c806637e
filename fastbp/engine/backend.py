"""The Numba side of the backend boundary: plans, workspaces and threads around the kernels.

`NumbaBackend` has the methods of `fastbp.reference.NumpyBackend` and computes the same.
"""

import time

import numba
import numpy as np

from .. import checks, interrupts
from ..kernels import threads as thread_pool
from ..kernels import training as t
from ..kernels.backprop import FUNCTION_TABLE
from ..kernels.layout import (
    A_AT,
    CALL_ARGS_AT,
    DATA_AT,
    DELTA_AT,
    N_EVAL_FUNCTIONS,
    N_OUT,
    N_PLAIN_FUNCTIONS,
    PER_CALL,
    ROW_STRIDE,
    TASK_AT,
    X_FLOAT32,
    X_FLOAT64,
    X_UINT8,
    Z_AT,
    CallArgs,
    Data,
    EvalArgs,
    TrainArgs,
    pack,
    pack_call,
)
from ..kernels.losses import Y_GRADIENT, Y_LABELS, Y_NONE, Y_ROWS
from ..kernels.optimizers import RULES, SQUARES_CHUNK
from ..kernels.parallel_compile import is_ready
from ..kernels.plan import LAST_FUSED_RULE, MAX_LANE_PARAMETERS
from ..kernels.schedules import KINDS
from ..kernels.simd import LANES
from ..losses import smoothing_classes
from ..reference.backprop import Pass
from ..update import Update, aligned_zeros
from . import limits
from . import threads as pools
from .autotune import Autotuner
from .workspace import Workspace, address_of

STEP_DEPENDENT_RULES = ("adam", "adamw", "nadam")  # rules whose factors differ from step to step
X_KINDS = {np.dtype(np.float32): X_FLOAT32, np.dtype(np.float64): X_FLOAT64, np.dtype(np.uint8): X_UINT8}


class _Rules:
    """What of an `Update` stays the same from call to call, as the kernels take it."""

    def __init__(self, update):
        self.update = update
        self.rule, self.schedule = RULES[update.rule], KINDS[update.schedule]
        self.arrays = np.array([*update.hyperparameters, 0.0]), np.array(update.rates, np.float64)
        self.dropout = update.dropout if any(update.dropout) else ()
        self.is_fused = self.rule <= LAST_FUSED_RULE and not (
            update.l1 or update.l2 or update.clip_value or update.clip_norm
        )
        self.is_plain = not (
            self.dropout or update.input_noise or update.label_smoothing or update.max_norm or update.skips
        )
        self.advances = update.schedule != "constant" or update.rule in STEP_DEPENDENT_RULES
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
        self._free = {}  # arguments of Workspace -> desks nobody works at
        self._autotuners = {}  # (rows, threads) -> Autotuner of training
        self._rules = _Rules(Update())  # of the last training
        self._lanes = LANES[numba.from_dtype(self.dtype)]
        self._nothing = np.empty(0, self.dtype)
        self._no_losses = np.empty(0)

    def __getstate__(self):
        """Leave the desks behind."""
        return {**self.__dict__, "_free": {}, "_autotuners": {}}

    def _work(self, prepare, key, threads, look=None, settle=None):
        """Have prepare(desk, threads, *call) write a job, and run it: (steps done, look(desk)).

        `call` are the fields of `plan.CallArgs` between the kernel and the parameters; `key` are the arguments of the desk:
        its rows, the most threads, and for training the number of states and dropout.

        `settle` is called with the desk at the end.  The desk is one's own, so several Python threads may use the same
        network.  Where the gang is at another caller's work there is one thread, for which the results are the same.
        """
        pool = pools.pool()
        in_pool = threads > 1 and pool.lock.acquire(blocking=False)
        threads, slots = threads if in_pool else 1, None
        try:
            if in_pool:
                try:
                    slots = pool.slots(threads - 1)
                except RuntimeError:  # no more threads can be started
                    threads = 1
            free = self._free.setdefault(key, [])
            try:
                workspace = free.pop()
            except IndexError:
                workspace = Workspace(self, *key)
            prepare(workspace, threads, 0 if threads == 1 else address_of(slots), threads - 1, thread_pool.RELEASE)
            pools.launcher()(workspace.address)
            result = workspace.done()
            if settle:
                settle(workspace)
            if look:  # at a desk as large as these data: not kept
                return result, look(workspace)
            if not free:
                free.append(workspace)
            return result, None
        finally:
            if in_pool:
                pool.lock.release()

    def _threads_for(self, rows, products, most=None):
        """Choose the number of threads that pay for a block of this many rows."""
        if rows == 1 or self.n_parameters <= MAX_LANE_PARAMETERS:
            return 1  # the engines of kernels/small.py know no threads
        pay = min(rows // limits.MIN_ROWS_PER_THREAD, products * self.n_parameters * rows // limits.MIN_WORK_PER_THREAD)
        return 1 if pay <= 1 else min(pay, most or pools.get_num_threads())

    def _evaluate(
        self, wants, parameters, X, Y=None, y_kind=Y_NONE, out=None, rows=None, look=None, weights=None, settle=None
    ):
        n = len(X)
        rows = rows or (limits.FEW_ROWS if n <= limits.FEW_ROWS else limits.BLOCK_ROWS)
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
            address_of(X),
            X_KINDS[X.dtype],
            self.scale,
            0 if Y is None else address_of(Y),
            y_kind,
            0 if weights is None else address_of(weights),
            n,
        )
        addresses = (
            address_of(parameters),
            address_of(gradient),
            0,
            0,
            address_of(losses),
            0,
            0,
            0 if out is None else address_of(out),
        )

        def prepare(workspace, threads, *call):
            workspace.need(t.evaluate, N_EVAL_FUNCTIONS)
            pack(workspace.job, DATA_AT, data)
            pack(workspace.job, CALL_ARGS_AT, CallArgs(t.evaluate.address(self.dtype), *call, *addresses))
            pack(workspace.job, TASK_AT, EvalArgs(wants, scale, threads, adds))

        work = products * self.n_parameters * n
        most = self._threads_for(min(n, rows), products) if work >= limits.MIN_PARALLEL_WORK else 1
        if most == 1 or work >= limits.CERTAIN_WORK or look:
            return self._work(prepare, (rows, most), most, look, settle)[1]
        # Other threads of this process or others may want the cores too: then one thread is several times as fast.
        autotuner = self._autotuners.setdefault((most,), Autotuner(most, work))
        threads, is_trial = autotuner.turn()
        start = time.perf_counter()
        self._work(prepare, (rows, most), threads, settle=settle)
        autotuner.note(threads, (time.perf_counter() - start) / work, is_trial)
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

        def look(workspace):
            nonlocal is_finite
            is_finite, workspace.sync[t.NOT_FINITE] = is_finite and not workspace.sync[t.NOT_FINITE], 0

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

        def blocks(workspace):
            for layer in workspace.plan.layers:
                shape = n, layer[N_OUT], layer[ROW_STRIDE]
                yield (
                    tuple(workspace.block(layer[at], *shape) for at in (Z_AT, A_AT, DELTA_AT)),
                    layer[Z_AT] == layer[A_AT],
                )

        losses, gradient, seen = self._evaluate(
            wants, parameters, X, y, kind, out=dX, rows=n, look=lambda workspace: list(blocks(workspace))
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
        self._rows = rows = min(batch_size, limits.BLOCK_ROWS)
        needs_gradient = (
            batch_size > rows
            or update.clip_norm
            or not rules.is_fused
            and (batch_size == 1 or n_parameters <= MAX_LANE_PARAMETERS)
        )
        self._gradient = aligned_zeros(n_parameters, backend.dtype) if needs_gradient else backend._nothing
        self._sums = np.empty(-(-n_parameters // SQUARES_CHUNK)) if update.clip_norm else None
        self._threads = threads
        self._work = 3 * n_parameters * batch_size
        self._rows_at_once = _blocks(3 * n_parameters * rows) * rows
        self._kind = n_states, rules.dropout
        to = [
            (address_of(state.buffers[k]) - address_of(parameters)) // backend.dtype.itemsize for k in range(n_states)
        ]
        self._steps = TrainArgs(
            *[0] * len(PER_CALL),
            batch_size,
            backend.reduction == "mean",
            rules.rule,
            rules.schedule,
            *map(address_of, rules.arrays),
            0 if self._sums is None else address_of(self._sums),
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
        self._addresses = address_of(parameters), address_of(self._gradient)

    def __call__(self, X, Y, weights, words, first_batch, last_batch, losses):
        """Whole epochs, or some batches of one; return the steps done."""
        most = self._backend._threads_for(self._rows, 3, self._threads)
        data = (
            address_of(X),
            X_KINDS[X.dtype],
            self._backend.scale,
            address_of(Y),
            _kind_of(Y),
            0 if weights is None else address_of(weights),
            len(self._order),
        )
        if self._rows_at_once < self._batch_size:
            return self._in_parts(data, words, first_batch, last_batch, losses, most)
        if most == 1 or self._work >= limits.CERTAIN_WORK:
            return self._do(data, words, first_batch, last_batch, losses, most, most)[0]
        paces = self._backend._autotuners
        if (self._rows, most) not in paces:
            self._do(data, None, 0, 0, losses[:0], 1, most)  # loads the kernel, so that no trial pays for it
        autotuner = paces.setdefault((self._rows, most), Autotuner(most, self._work))
        total = 0
        for number, epochs, first, last in autotuner.pieces(slice(0, len(losses)), first_batch, last_batch):
            threads = number or autotuner.best
            done, seconds = self._do(
                data, None if words is None else words[epochs], first, last, losses[epochs], threads, most
            )
            total += done
            if done < (epochs.stop - epochs.start) * last - first:
                break
            autotuner.note(threads, seconds, number is not None)
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
        running_products = state.running_products if threads == 1 else np.tile(state.running_products, threads)

        def prepare(workspace, threads, *call):
            if workspace.holds != (self._steps, data):
                self._put_down(workspace, data)
            pack_call(
                workspace.job,
                workspace.kernel,
                *call,
                *self._addresses,
                0 if words is None else address_of(words),
                address_of(self._order),
                address_of(losses),
                address_of(running_products),
                state.running_products.size,
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

        def skipped(workspace):
            state.skipped += int(workspace.sync[t.SKIPPED])
            workspace.sync[t.SKIPPED] = 0

        start = time.perf_counter()
        done = backend._work(
            prepare, (self._rows, most, *self._kind), threads, settle=skipped if self._rules.update.skips else None
        )[0]
        seconds = time.perf_counter() - start
        if threads > 1:
            state.running_products[:] = running_products[: state.running_products.size]
        state.step += done
        return done, seconds / max(done, 1)

    def _put_down(self, workspace, numbers):
        """Write into the job of a desk what does not differ from call to call; the numbers are those of `plan.Data`."""
        backend, rules, data = self._backend, self._rules, Data(*numbers)
        kernel = t.trainer_for(workspace.plan, self._batch_size, backend._lanes, rules.is_plain and not data.weights)
        is_whole = self._batch_size <= self._rows
        workspace.need(
            kernel, N_PLAIN_FUNCTIONS if rules.is_plain and rules.is_fused and is_whole else len(FUNCTION_TABLE)
        )
        with interrupts.allowed():
            workspace.kernel = kernel.address(backend.dtype)
        pack(workspace.job, DATA_AT, data)
        pack(workspace.job, TASK_AT, self._steps)
        workspace.holds = self._steps, numbers


def _blocks(work):
    """Return how many blocks of so many multiply-adds go into a native call, at least one."""
    return max(1, limits.INTERRUPTIBLE_WORK // work)


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
    return is_ready(t.train_in_blocks, N_PLAIN_FUNCTIONS, dtype)
