"""The Numba side of the backend boundary: evaluation and training by the compiled kernels.

`NumbaBackend` has the methods of `fastbp.reference.NumpyBackend` and computes the same.
"""

import time
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from .. import checks, interrupts
from ..kernels.layout import (
    A_AT,
    AFTER_GRADIENT,
    ARRAY_ARGS_AT,
    BIAS_FACTORS,
    BY_SLICE,
    DATA_AT,
    DELTA_AT,
    DONE_AT,
    EVALUATION,
    GRADIENT_AT,
    IN_EPILOGUE,
    LOSSES_AT,
    N_OUT,
    NOT_FINITE,
    OUT_AT,
    PER_CALL,
    RANDOM_WORDS_AT,
    RATES_AT,
    ROW_STRIDE,
    SHUFFLES_AT,
    SKIPPED,
    SQUARES_CHUNK,
    STEP_AT,
    STORE,
    TASK_AT,
    TRAINING,
    VECTOR_BYTES,
    WANT_GRADIENT,
    WANT_INPUT_GRADIENT,
    WANT_LOSS,
    WANT_OUTPUT,
    X_FLOAT32,
    X_FLOAT64,
    X_UINT8,
    Y_GRADIENT,
    Y_LABELS,
    Y_NONE,
    Y_ROWS,
    Z_AT,
    ArrayArgs,
    TrainArgs,
    address_of,
    knows_arrays,
    pack,
)
from ..kernels.library import native_function
from ..kernels.parallel_compile import is_ready
from ..kernels.plan import MAX_LANE_PARAMETERS, max_slice, trainer_for
from ..kernels.tables import KINDS, RULES
from ..losses import row_of, smoothing_classes
from ..optimizers import N_RUNNING_PRODUCTS
from ..reference.backprop import Pass
from ..reference.schedules import table_of
from ..update import Update, aligned_zeros
from . import limits
from . import threads as pools
from .autotune import Autotuner
from .threads import RELEASE
from .workspace import EVALUATE, Workspace, network_functions

X_KINDS = {np.dtype(np.float32): X_FLOAT32, np.dtype(np.float64): X_FLOAT64, np.dtype(np.uint8): X_UINT8}


class _Workers:
    """Context in which as many threads of the pool as are free are this caller's alone.

    While another caller uses the pool there is one thread, for which the results are the same.
    """

    __slots__ = ("_pool", "threads", "slots")

    def __init__(self, threads):
        self._pool: pools.ThreadPool | None = pools.pool() if threads > 1 else None
        self.threads, self.slots = threads, 0

    def __enter__(self):
        if self._pool is not None and not self._pool.lock.acquire(blocking=False):
            self._pool, self.threads = None, 1
        if self._pool is None:
            return self
        try:
            self.slots = address_of(self._pool.slots(self.threads - 1))
        except RuntimeError:  # no more threads can be started
            self.threads = 1
        except BaseException:
            self._pool.lock.release()
            raise
        return self

    def __exit__(self, *error):
        if self._pool is not None:
            self._pool.lock.release()


class _Rules:
    """What of an `Update` stays the same from call to call, as the kernels take it."""

    def __init__(self, update):
        self.update, self.row = update, RULES[update.rule]
        self.rate_function = update.rates if callable(update.rates) else None  # each call has a table of its rates
        rates = () if self.rate_function else update.rates
        self.arrays = np.array([*update.hyperparameters, 0.0]), np.array(rates, np.float64)
        self.dropout = update.dropout if any(update.dropout) else ()
        self.suits_online = update.suits("online")
        self.suits_lanes = update.suits("lanes") and not update.skips
        has_more = update.l1 or update.l2 or update.clip_value or update.clip_norm
        self.epilogue = STORE if has_more else self.row.epilogue
        hyperparameters, rates = map(address_of, self.arrays)
        # TrainArgs that follow from the update alone; fields that are named as those of the Update are its
        self.args = {
            **dict.fromkeys(PER_CALL, 0),
            **{field: getattr(update, field) for field in TrainArgs._fields if hasattr(update, field)},
            "epilogue": STORE,
            "schedule": KINDS[update.schedule],
            "hyperparameters": hyperparameters,
            "rates": rates,
            "advances": update.schedule != "constant" or self.row.advances,
            "bias_factors": BIAS_FACTORS if self.row.has_bias_factors else 0,
            "key": update.key - 2**64 if update.key >= 2**63 else update.key,  # as a signed number
        }

    def update_path(self, batch_size, n_parameters):
        """Return where the update of batches of this size happens: IN_EPILOGUE, BY_SLICE or AFTER_GRADIENT."""
        if batch_size > limits.BLOCK_ROWS or self.update.clip_norm or self.row.scales_inputs:
            return AFTER_GRADIENT
        if self.epilogue != STORE:
            return IN_EPILOGUE
        return AFTER_GRADIENT if batch_size == 1 or n_parameters <= MAX_LANE_PARAMETERS else BY_SLICE


# Where the address of what is wanted lies in a job.
_OUT_AT = {WANT_OUTPUT: OUT_AT, WANT_LOSS: LOSSES_AT, WANT_LOSS | WANT_GRADIENT: GRADIENT_AT}


class _ArrayCall(NamedTuple):
    """An evaluation of arrays as they are, which the job of a workspace is prepared for."""

    wants: int
    parameters: np.ndarray
    address: int  # of the parameters


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
        self._is_mean = reduction == "mean"
        self.n_parameters = sum((m + 1) * n for m, n in zip(sizes[:-1], sizes[1:], strict=True))
        self._free = {}  # arguments of Workspace -> those that nobody uses
        self._autotuners = {}  # (rows, threads) -> Autotuner of training
        self._calls = {}  # what is wanted -> _ArrayCall
        self._rules = _Rules(Update())  # of the last training
        self._lanes = VECTOR_BYTES // self.dtype.itemsize
        self._nothing = np.empty(0, self.dtype)

    def __getstate__(self):
        """Leave the workspaces behind."""
        return {**self.__dict__, "_free": {}, "_autotuners": {}, "_calls": {}}

    def is_compiled(self) -> bool:
        """Whether the native functions of plain training are compiled already, in memory or on disk."""
        forward, backward, of_loss = network_functions(self.activations, self.loss)
        return is_ready([native_function("training.train_in_blocks"), *forward, *backward, *of_loss], self.dtype)

    def _threads_for(self, rows, products, most=None):
        """Choose the number of threads that pay for a block of this many rows."""
        if rows == 1 or self.n_parameters <= MAX_LANE_PARAMETERS:
            return 1  # the kernels for small steps know no threads
        pay = min(rows // limits.MIN_ROWS_PER_THREAD, products * self.n_parameters * rows // limits.MIN_WORK_PER_THREAD)
        return 1 if pay <= 1 else min(pay, most or pools.get_num_threads())

    def _take(self, key):
        """Return a workspace that is this caller's alone, so that several Python threads may use the same network."""
        try:
            return self._free.setdefault(key, []).pop()
        except IndexError:
            return Workspace(self, *key)

    def _give_back(self, key, workspace):
        """Keep a workspace for the next caller; one whose call was cut short by an error is not given back."""
        free = self._free[key]
        if not free:
            free.append(workspace)

    def _evaluate(self, wants, parameters, X, Y=None, y_kind=Y_NONE, out=None, weights=None):
        """Evaluate samples: (losses, gradient, whether the inputs are surely finite), as far as wanted."""
        n = len(X)
        scale = 1.0 / n if self._is_mean else 1.0
        products = 3 if wants & WANT_GRADIENT else 1
        losses = np.empty(n) if wants & WANT_LOSS else None
        gradient = aligned_zeros(self.n_parameters, self.dtype) if wants & WANT_GRADIENT else None
        arrays = X, Y, weights, losses, out
        if n <= limits.FEW_ROWS and products * self.n_parameters * n < limits.MIN_PARALLEL_WORK:
            key = limits.FEW_ROWS, 1
            workspace = self._take(key)
            is_finite = self._evaluate_in(workspace, 1, 0, wants, scale, False, parameters, gradient, y_kind, arrays)
            self._give_back(key, workspace)
        else:
            is_finite = self._evaluate_many(wants, scale, products, parameters, gradient, y_kind, arrays)
        return losses, gradient, is_finite

    def _evaluate_many(self, wants, scale, products, parameters, gradient, y_kind, arrays):
        """Evaluate in as many native calls as Ctrl-C may wait for; return whether the inputs are surely finite."""
        n, is_finite = len(arrays[0]), True
        rows = limits.FEW_ROWS if n <= limits.FEW_ROWS else limits.BLOCK_ROWS
        n_at_once = _blocks(products * self.n_parameters * rows) * rows
        for start in range(0, n, n_at_once):
            some = slice(start, start + n_at_once)
            parts = arrays if n <= n_at_once else [None if array is None else array[some] for array in arrays]
            work = products * self.n_parameters * min(n - start, n_at_once)
            most = self._threads_for(min(n, rows), products) if work >= limits.MIN_PARALLEL_WORK else 1
            call = wants, scale, start > 0, parameters, gradient, y_kind, parts
            is_finite &= self._evaluate_on_threads((rows, most), work, call)
        return is_finite

    def _evaluate_on_threads(self, key, work, call):
        """Evaluate in one native call; return whether the inputs are surely finite."""
        threads = most = key[1]
        is_certain = most == 1 or work >= limits.CERTAIN_WORK
        if not is_certain:
            # Other threads of this process or others may want the cores too: then one thread is several times as fast.
            autotuner = self._autotuners.setdefault((most,), Autotuner(most, work))
            threads, is_trial = autotuner.choose()
        start = time.perf_counter()
        with _Workers(threads) as workers:
            workspace = self._take(key)
            is_finite = self._evaluate_in(workspace, workers.threads, workers.slots, *call)
            self._give_back(key, workspace)
        if not is_certain:
            autotuner.record(threads, (time.perf_counter() - start) / work, is_trial)
        return is_finite

    def _evaluate_in(self, workspace, threads, slots, wants, scale, adds, parameters, gradient, y_kind, arrays):
        """Write the job of an evaluation, and run it; return whether the inputs are surely finite."""
        X, Y, weights, losses, out = arrays
        workspace.prepared = None
        self._write_evaluation(
            workspace,
            wants,
            parameters=address_of(parameters),
            x=address_of(X),
            x_kind=X_KINDS[X.dtype],
            y=0 if Y is None else address_of(Y),
            y_kind=y_kind,
            weights=0 if weights is None else address_of(weights),
            n=len(X),
            gradient=0 if gradient is None else address_of(gradient),
            losses=0 if losses is None else address_of(losses),
            out=0 if out is None else address_of(out),
            scale=scale,
            adds=adds,
            threads=threads,
            slots=slots,
        )
        pools.check(pools.launcher()(workspace.address))
        return not workspace.take(NOT_FINITE)

    def _write_evaluation(
        self,
        workspace,
        wants,
        *,
        parameters,
        x_kind,
        y_kind,
        x=0,
        y=0,
        weights=0,
        n=0,
        gradient=0,
        losses=0,
        out=0,
        scale=1.0,
        adds=False,
        threads=1,
        slots=0,
    ):
        """Write the job of an evaluation, of arrays by their addresses."""
        workspace.load_evaluation(wants)
        EVALUATION.pack_into(
            workspace.job,
            8 * DATA_AT,
            x,
            x_kind,
            self.scale,
            y,
            y_kind,
            weights,
            n,
            EVALUATE.address(self.dtype),
            slots,
            threads - 1,
            RELEASE,
            parameters,
            gradient,
            0,  # random_words
            0,  # order
            losses,
            0,  # running_products
            0,  # n_running_products
            out,
            wants,
            scale,
            threads,
            adds,
        )

    def _array_args(self, min_rows, max_rows, written=(), checks_inputs=True, out_at=0, is_mean=False):
        """Return what `arrays.launch` expects; `written` are the addresses of array objects."""
        low, high = checks.target_bounds(self.loss, self.dtype)
        # Dtype objects of arrays; those from a pickle are others.
        dtype, label_dtype = (id(np.dtype(kind)) for kind in (self.dtype.type, np.int64))
        return ArrayArgs(
            n_in=self.sizes[0],
            n_out=self.sizes[-1],
            dtype=dtype,
            min_rows=min_rows,
            max_rows=max_rows,
            written=address_of(written) if len(written) else 0,
            n_written=len(written),
            checks_inputs=checks_inputs,
            out_at=out_at,
            is_mean=is_mean,
            n_labels=self.sizes[-1] if row_of(self.loss).takes_labels else 0,
            label_dtype=label_dtype,
            low=low,
            high=high,
            # Sums are rounded in another way than in the other check, which decides near its border.
            tolerance=checks.SUM_TOLERANCE / 2,
            max_weight=float(np.finfo(self.dtype).max),
        )

    def predict_array(self, parameters, X):
        """Return outputs of a few samples whose array is taken as it is, or None where it must go the longer way."""
        if not _are_few(X):
            return None
        out = np.empty((len(X), self.sizes[-1]), self.dtype)
        return out if self._evaluate_arrays(WANT_OUTPUT, parameters, id(X), 0, out) else None

    def losses_of_arrays(self, parameters, X, Y):
        """Return the losses of a few samples, likewise."""
        if not _are_few(X) or type(Y) is not ndarray:
            return None
        losses = np.empty(len(X))
        return losses if self._evaluate_arrays(WANT_LOSS, parameters, id(X), id(Y), losses) else None

    def gradient_of_arrays(self, parameters, X, Y):
        """Return sample losses and flat gradient of a few samples, likewise."""
        if not _are_few(X) or type(Y) is not ndarray:
            return None
        losses, gradient = np.empty(len(X)), aligned_zeros(self.n_parameters, self.dtype)
        wants = WANT_LOSS | WANT_GRADIENT
        is_done = self._evaluate_arrays(wants, parameters, id(X), id(Y), gradient, losses)
        return (losses, gradient) if is_done else None

    def _evaluate_arrays(self, wants, parameters, X, Y, out, losses=None):
        """Evaluate the arrays of these objects as they are; return whether it was done."""
        call = self._calls.get(wants)
        if call is None or call.parameters is not parameters:
            if not knows_arrays:
                return False
            call = self._calls[wants] = _ArrayCall(wants, parameters, address_of(parameters))
        key = limits.FEW_ROWS, 1
        workspace = self._take(key)
        if workspace.prepared is not call:
            self._prepare(workspace, call)
        if losses is not None:
            workspace.words[LOSSES_AT] = address_of(losses)
        result = pools.array_launcher(self.dtype)(call.address, workspace.address, X, Y, 0, id(out))
        self._give_back(key, workspace)
        pools.check(result)
        return not result

    def _prepare(self, workspace, call):
        """Write all but the arrays into the job of a workspace."""
        y_kind = Y_ROWS if call.wants & WANT_LOSS else Y_NONE
        self._write_evaluation(
            workspace, call.wants, parameters=call.address, x_kind=X_KINDS[self.dtype], y_kind=y_kind
        )
        work = (3 if call.wants & WANT_GRADIENT else 1) * self.n_parameters
        args = self._array_args(
            min_rows=1,
            max_rows=min(limits.FEW_ROWS, (limits.MIN_PARALLEL_WORK - 1) // work),
            checks_inputs=not call.wants & WANT_OUTPUT,
            out_at=_OUT_AT[call.wants],
            is_mean=self._is_mean,
        )
        pack(workspace.job, ARRAY_ARGS_AT, args)
        workspace.prepared = call

    def predict(self, parameters, X):
        """Return outputs (n, n_out) of samples (n, n_in), which must be finite."""
        return self._outputs(WANT_OUTPUT, parameters, X)[0]

    def outputs_and_losses(self, parameters, X, Y):
        """Return what `predict` and `losses` do, in one pass."""
        return self._outputs(WANT_OUTPUT | WANT_LOSS, parameters, X, Y, _kind_of(Y))

    def _outputs(self, wants, parameters, X, Y=None, y_kind=Y_NONE):
        out = np.empty((len(X), self.sizes[-1]), self.dtype)
        losses, _, is_finite = self._evaluate(wants, parameters, X, Y, y_kind, out=out)
        if not is_finite:  # or only so large that their squares are not
            checks.finite("X", X, self.dtype)
        return out, losses

    def losses(self, parameters, X, Y):
        """Return the loss of each sample, float64 (n,), before the mean or sum."""
        return self._evaluate(WANT_LOSS, parameters, X, Y, _kind_of(Y))[0]

    def gradient(self, parameters, X, Y, weights=None):
        """(sample losses, flat gradient of the reduced loss), both with the weights of the samples, (n,) or None."""
        wants = WANT_LOSS | WANT_GRADIENT
        return self._evaluate(wants, parameters, X, Y, _kind_of(Y), weights=weights)[:2]

    def gradient_from(self, parameters, X, dA):
        """Return the flat gradient for an output gradient dA."""
        return self._evaluate(WANT_GRADIENT, parameters, X, dA, Y_GRADIENT)[1]

    def input_gradient(self, parameters, X, Y):
        """Return the gradient of the reduced loss with respect to X."""
        dX = np.empty((len(X), self.sizes[0]), self.dtype)
        self._evaluate(WANT_INPUT_GRADIENT, parameters, X, Y, _kind_of(Y), out=dX)
        dX *= self.dtype.type(self.scale)
        return dX

    def record(self, parameters, X, Y=None, dA=None):
        """Every Z, A and delta of one pass, as a `Pass`: forward only, or back from targets Y or a gradient dA."""
        n, is_backward = len(X), Y is not None or dA is not None
        wants, losses, gradient, dX = 0, None, None, None
        if is_backward:
            wants = WANT_GRADIENT | WANT_INPUT_GRADIENT
            gradient = aligned_zeros(self.n_parameters, self.dtype)
            dX = np.empty((n, self.sizes[0]), self.dtype)
        if dA is None and is_backward:
            wants, losses = wants | WANT_LOSS, np.empty(n)
        targets, kind = (Y, Y_NONE if Y is None else _kind_of(Y)) if dA is None else (dA, Y_GRADIENT)
        scale = 1.0 / n if self._is_mean else 1.0
        workspace = Workspace(self, n, 1)  # as large as these data: its arrays hold every intermediate
        arrays = X, targets, None, losses, dX
        self._evaluate_in(workspace, 1, 0, wants, scale, False, parameters, gradient, kind, arrays)
        Z, A, delta = self._intermediates(workspace, parameters, X)
        if not is_backward:
            return Pass(Z=Z, A=A, delta=None, gradient=None, dX=None, losses=None)
        dX *= self.dtype.type(self.scale)
        return Pass(Z=Z, A=A, delta=delta, gradient=gradient, dX=dX, losses=losses if dA is None else None)

    def _intermediates(self, workspace, parameters, X):
        """Return lists of Z, A (A[0] being the inputs) and delta of the samples that a workspace holds."""
        Z, A, delta = [], [X.astype(self.dtype) * self.dtype.type(self.scale)], []
        for l, layer in enumerate(workspace.plan.layers):
            shape = len(X), layer[N_OUT], layer[ROW_STRIDE]
            z, a, d = (workspace.rows_of(layer[at], *shape) for at in (Z_AT, A_AT, DELTA_AT))
            if layer[Z_AT] == layer[A_AT]:  # Z was overwritten by A: computed once more
                W, b = self._weights(parameters, l)
                z = A[l] @ W + b
            Z.append(z)
            A.append(a)
            delta.append(d)
        return Z, A, delta

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
        update, n_parameters = rules.update, backend.n_parameters
        self._backend, self._rules, self._state = backend, rules, state
        self._parameters, self._order = parameters, order
        self._batch_size = batch_size = min(batch_size, len(order))
        self._rows = rows = min(batch_size, limits.BLOCK_ROWS)
        self._path = rules.update_path(batch_size, n_parameters)
        needs_gradient = self._path == AFTER_GRADIENT
        self._gradient = aligned_zeros(n_parameters, backend.dtype) if needs_gradient else backend._nothing
        self._sums = np.empty(-(-n_parameters // SQUARES_CHUNK)) if update.clip_norm else None
        self._threads = threads
        self._work = 3 * n_parameters * batch_size
        self._rows_at_once = _blocks(3 * n_parameters * rows) * rows
        self._key = rows, 1, len(state.buffers), rules.dropout  # of its workspace for one thread
        # One native call on one thread changes parameters, states and the step count together, for Python.
        self._is_one_change = self._rows_at_once >= batch_size and not update.skips
        args = self._train_args(update)
        # What a workspace holds for it, without and with weights: addresses may come again, with another rule.
        self._holds = [(update.rule, args, has_weights) for has_weights in (False, True)]
        arrays = parameters, self._gradient, order, state.running_products
        self._addresses = [address_of(array) for array in arrays]
        self.loss_sum = np.zeros(1)  # of the samples of `take_arrays`
        self._rates = None  # table of the steps of a call
        written = parameters, state.buffers, state.running_products, state.vectors
        self._written = np.array([id(array) for array in written], np.int64)  # state and backend keep them
        self._takes_arrays = knows_arrays and self._is_one_change and backend._threads_for(rows, 3, most=2) == 1

    def _train_args(self, update):
        """Return the TrainArgs of all calls."""
        backend, rules, state = self._backend, self._rules, self._state
        start, itemsize = address_of(self._parameters), backend.dtype.itemsize
        offsets = [(address_of(buffer) - start) // itemsize for buffer in state.buffers]
        values = {
            **rules.args,
            "batch_size": self._batch_size,
            "is_mean": backend._is_mean,
            "update_path": self._path,
            "sums": 0 if self._sums is None else address_of(self._sums),
            "n_states": len(offsets),
            "to_first": offsets[0] if offsets else 0,
            "to_second": offsets[1] if len(offsets) > 1 else 0,
            "to_scales": offsets[2] if len(offsets) > 2 else 0,
            "smoothing_share": 0.0,
        }
        if self._path == IN_EPILOGUE:
            values["epilogue"] = rules.epilogue
        if update.label_smoothing:
            values["smoothing_share"] = update.label_smoothing / smoothing_classes(backend.loss, backend.sizes[-1])
        assert self._path != AFTER_GRADIENT or self._gradient.size == backend.n_parameters, "no memory for the gradient"
        return TrainArgs(**values)

    def __call__(self, X, Y, weights, random_words, first_batch, last_batch, losses):
        """Whole epochs, or some batches of one; return the steps done."""
        if self._rules.rate_function is not None:
            self._tabulate(len(losses) * last_batch - first_batch)
        most = self._backend._threads_for(self._rows, 3, self._threads)
        data = X, Y, weights
        if most == 1 and self._is_one_change:
            return self._train_in(self._key, 1, 0, data, random_words, first_batch, last_batch, losses)
        if self._rows_at_once < self._batch_size:
            with interrupts.deferred():
                return self._in_parts(data, random_words, first_batch, last_batch, losses, most)
        if most == 1 or self._work >= limits.CERTAIN_WORK:
            return self._train(data, random_words, first_batch, last_batch, losses, most, most)
        autotuners = self._backend._autotuners
        if (self._rows, most) not in autotuners:
            self._train(data, None, 0, 0, losses[:0], 1, most)  # loads the kernel, so that no trial pays for it
        autotuner = autotuners.setdefault((self._rows, most), Autotuner(most, self._work))
        total = 0
        for number, epochs, first, last in autotuner.split(len(losses), first_batch, last_batch):
            threads = number or autotuner.best
            words = None if random_words is None else random_words[epochs]
            start = time.perf_counter()
            done = self._train(data, words, first, last, losses[epochs], threads, most)
            total += done
            if done < (epochs.stop - epochs.start) * last - first:
                break
            autotuner.record(threads, (time.perf_counter() - start) / max(done, 1), number is not None)
        return total

    def _tabulate(self, n_steps):
        """Ask the user's function for the learning rates of the next steps."""
        self._rates = table_of(self._rules.rate_function, self._state.step, n_steps)

    def _in_parts(self, data, random_words, first_batch, last_batch, losses, threads):
        """Train batches that take long, each in several native calls; Ctrl-C between them leaves all as it was."""
        state, total = self._state, 0
        for epoch in range(len(losses)):
            one = slice(epoch, epoch + 1)
            words = None if random_words is None else random_words[one]
            for batch in range(first_batch if epoch == 0 else 0, last_batch):
                before, skipped, done, first_row = losses[epoch], state.skipped, 0, 0
                while not done and np.isfinite(losses[epoch]):
                    interrupts.check()
                    rows = first_row, first_row + self._rows_at_once
                    done = self._train(data, words, batch, batch + 1, losses[one], threads, threads, rows)
                    first_row = rows[1]
                if not done:
                    return total
                if state.skipped > skipped:
                    losses[epoch] = before
                total += done
        return total

    def _train(self, data, random_words, first, last, losses, threads, most, rows=(0, 0)):
        """Train without trials, in a workspace for `most` threads; return the steps done."""
        key = self._rows, most, *self._key[2:]
        with interrupts.deferred(), _Workers(threads) as workers:  # until running products and skipped steps are kept
            return self._train_in(key, workers.threads, workers.slots, data, random_words, first, last, losses, *rows)

    def _train_in(self, key, threads, slots, data, random_words, first, last, losses, first_row=0, last_row=0):
        """Train in a workspace of this key; return the steps done."""
        backend, state = self._backend, self._state
        X, Y, weights = data
        workspace = backend._take(key)
        self._write_args(workspace, weights is not None)
        if self._rates is not None:
            workspace.words[RATES_AT] = address_of(self._rates)
        products = np.tile(state.running_products, threads) if threads > 1 else None
        workspace.prepared = None
        self._write_call(
            workspace,
            x=address_of(X),
            x_kind=X_KINDS[X.dtype],
            y=address_of(Y),
            y_kind=_kind_of(Y),
            weights=0 if weights is None else address_of(weights),
            random_words=random_words,
            losses=losses,
            batches=(first, last),
            rows=(first_row, last_row),
            products=products,
            threads=threads,
            slots=slots,
        )
        done = workspace.launch_and_count(pools.launcher(), state)
        if self._rules.update.skips:
            state.skipped += workspace.take(SKIPPED)
        backend._give_back(key, workspace)
        if products is not None:
            state.running_products[:] = products[:N_RUNNING_PRODUCTS]
        return done

    def _write_call(
        self,
        workspace,
        *,
        x_kind,
        losses,
        batches,
        x=0,
        y=0,
        y_kind=Y_ROWS,
        weights=0,
        random_words=None,
        rows=(0, 0),
        products=None,
        threads=1,
        slots=0,
    ):
        """Write into the job of a workspace what differs from call to call, of arrays of data their addresses."""
        parameters, gradient, order, products_of_one = self._addresses
        TRAINING.pack_into(
            workspace.job,
            8 * DATA_AT,
            x,
            x_kind,
            self._backend.scale,
            y,
            y_kind,
            weights,
            len(self._order),
            workspace.kernel,
            slots,
            threads - 1,
            RELEASE,
            parameters,
            gradient,
            0 if random_words is None else address_of(random_words),
            order,
            address_of(losses),
            products_of_one if products is None else address_of(products),
            N_RUNNING_PRODUCTS,
            0,  # out
            *batches,
            len(losses),
            self._state.step,
            random_words is not None,
            threads,
            *rows,
            threads > 1 and self._has_private(workspace.plan, threads),
        )

    def take_arrays(self, X, Y, weights=None, random_words=None):
        """Train one epoch on arrays as they are; return the steps done, or None where they must go the longer way.

        These have shape and dtype of the network, and weights its dtype; `loss_sum` becomes that of the epoch.  They
        are checked, as everywhere else; what is refused has changed nothing.
        """
        has_weights = weights is not None
        if not type(X) is type(Y) is ndarray or has_weights and type(weights) is not ndarray or not self._takes_arrays:
            return None
        backend, state = self._backend, self._state
        workspace = backend._take(self._key)
        if workspace.prepared is not self._holds[has_weights]:
            self._prepare(workspace, has_weights)
        words, step = workspace.words, state.step
        words[DONE_AT], words[STEP_AT] = 0, step
        if self._rules.rate_function is not None:
            self._tabulate(-(-len(self._order) // self._batch_size))
            words[RATES_AT] = address_of(self._rates)
        if random_words is not None:
            words[RANDOM_WORDS_AT] = address_of(random_words)
        words[SHUFFLES_AT] = random_words is not None
        self.loss_sum[0] = 0
        state.follow(step, words)
        result = self._launch(self._addresses[0], workspace.address, id(X), id(Y), id(weights) if has_weights else 0, 0)
        done = words[DONE_AT]
        state.step = step + done
        backend._give_back(self._key, workspace)
        if result:
            pools.check(result)
            return None
        return done

    def _prepare(self, workspace, has_weights):
        """Write all but the arrays into the job of a workspace."""
        backend, n = self._backend, len(self._order)
        self._write_args(workspace, has_weights)
        batches = 0, -(-n // self._batch_size)
        self._write_call(workspace, x_kind=X_KINDS[backend.dtype], losses=self.loss_sum, batches=batches)
        pack(workspace.job, ARRAY_ARGS_AT, backend._array_args(min_rows=n, max_rows=n, written=self._written))
        with interrupts.allowed():  # it may be compiled
            self._launch = pools.array_launcher(backend.dtype)
        workspace.prepared = self._holds[has_weights]

    def _has_private(self, plan, threads):
        """Whether threads train private columns of the first layer: then nothing reads W between the updates."""
        fits = max_slice(self._backend.sizes[1], threads) <= plan.private_row_stride
        update = self._rules.update
        reads_weights = update.max_norm or update.weighted_mean
        return fits and self._path != AFTER_GRADIENT and not reads_weights

    def _write_args(self, workspace, has_weights):
        """Write into the job of a workspace what does not differ from call to call."""
        backend, rules, holds = self._backend, self._rules, self._holds[has_weights]
        if workspace.holds == holds:
            return
        _, args, _ = holds
        kernel = trainer_for(
            workspace.plan,
            self._batch_size,
            backend._lanes,
            suits_online=rules.suits_online,
            suits_lanes=rules.suits_lanes and not has_weights,
        )
        workspace.load_training(native_function(kernel), rules.update, self._path)
        pack(workspace.job, TASK_AT, args)
        workspace.holds = holds


def _are_few(X):
    """Whether it is an array of few samples."""
    return type(X) is ndarray and X.ndim == 2 and 0 < len(X) <= limits.FEW_ROWS


def _blocks(work):
    """Return how many blocks of so many multiply-adds go into a native call, at least one."""
    return max(1, limits.INTERRUPTIBLE_WORK // work)


def _kind_of(Y):
    if Y.ndim == 1:
        _check_indices("Y", Y)
        return Y_LABELS
    return Y_ROWS


def _check_indices(name, array):
    """Check indices of which the kernels get no more than the address."""
    if array.dtype != np.int64:
        raise TypeError(f"{name} must be int64 where it holds indices, got {array.dtype}")
