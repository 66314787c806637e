"""Many networks of one architecture by the compiled kernels of `kernels.population`.

`PopulationBackend` has the methods of `fastbp.reference.population.PopulationBackend` and computes the same.
"""

import functools
import math
from ctypes import CFUNCTYPE, c_ssize_t
from itertools import pairwise
from typing import Any

import numpy as np

from .. import interrupts
from ..kernels.layout import (
    AFTER_GRADIENT,
    BACKWARD_AT,
    BIAS_FACTORS,
    CALL_ARGS_AT,
    DROP,
    FIRST_BATCH_AT,
    FORWARD_AT,
    GATHER,
    LAST_BATCH_AT,
    LOSSES_AT,
    MAX_NETWORKS,
    N_FUNCTIONS,
    N_HYPERPARAMETERS,
    ORDER_AT,
    OUT_AT,
    OUTPUT_GRADIENT,
    PARAMETERS_AT,
    POPULATION_JOB_SIZE,
    PRODUCT,
    PRODUCT_OF_NUMBERS,
    PRODUCTS_AT,
    RATES_AT,
    SAMPLE_LOSSES,
    SETTING_CLIP,
    SETTING_L1,
    SETTING_L2,
    SETTING_RATES,
    SKIPPED,
    SQUARES_CHUNK,
    STEP_AT,
    STEP_FACTORS,
    SYNC_AT,
    TASK_AT,
    UPDATE,
    WANT_LOSS,
    WANT_OUTPUT,
    WEIGHTS_AT,
    X_AT,
    X_KIND_AT,
    Y_AT,
    Y_KIND_AT,
    Y_LABELS,
    Y_NONE,
    Y_ROWS,
    CallArgs,
    JobsArgs,
    PopulationArgs,
    TrainArgs,
    address_of,
    pack,
    sync_size,
)
from ..kernels.library import native_function
from ..kernels.plan import interleaved_plan, registers_of_group
from ..kernels.tables import ACTIVATIONS, FUNCTIONS, KINDS, LOGIT_FORMS, LOSSES, RULES
from ..losses import name_of, settings_of, smoothing_classes
from ..optimizers import N_RUNNING_PRODUCTS
from ..reference.population import has_own_targets
from ..reference.schedules import table_of
from ..update import aligned_zeros
from . import limits
from . import threads as pools
from .backend import X_KINDS, NumbaBackend, _Rules, _Workers
from .threads import RELEASE
from .workspace import Workspace, network_functions

TRAIN, EVALUATE, RUN_JOBS, EVALUATE_ONE = map(
    native_function, ("population.train", "population.evaluate", "population.run_jobs", "training.evaluate")
)
EVALUATED_ROWS = 64  # of the blocks of an evaluation
# Of a thread; ints: and as many for each layer (see `kernels.population`).
N_DOUBLES, N_INTS = (4 + N_RUNNING_PRODUCTS) * MAX_NETWORKS, 9 * MAX_NETWORKS
COLUMNS = (
    "l1",
    "l2",
    "clip_value",
    "clip_norm",
    "max_norm",
    "label_smoothing",
    "input_noise",
)  # of Update and TrainArgs

MIN_JOB_PARAMETERS = 1000  # of networks that take little longer one by one; smaller ones are always interleaved
MAX_CUT = 8  # networks for each thread; of more none are cut into parts
MAX_IDLE = 1.25  # time of all threads over that of those that have work


@functools.cache
def register_width(dtype):
    """Return how many networks a register holds."""
    return CFUNCTYPE(c_ssize_t, c_ssize_t)(native_function("population.register_width").address(dtype))(0)


class PopulationBackend:
    """The arithmetic of many networks of one architecture by the compiled kernels.

    Parameters
    ----------
    backend : NumbaBackend
        Of one network.

    Attributes
    ----------
    engine : "interleaved", "jobs" or None
        How networks are trained: those of one register together, or each by the kernels of one network.  None: the
        one that is faster for their size, as far as it knows what the training does.
    n_registers : int or None
        Registers of networks that are interleaved.  None: as many as pay.
    """

    engine = None
    n_registers: int | None = None

    def __init__(self, backend: NumbaBackend):
        self._backend = backend
        self.n_parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(backend.sizes))
        self._evaluations: dict = {}  # engine -> what evaluates

    def __getstate__(self):
        """Leave the workspaces behind."""
        return {**vars(self), "_evaluations": {}}

    def training(self, parameters, states, *, updates, batch_size, threads=0):
        """Return a function that trains members; see `fastbp.reference.population.PopulationBackend.training`."""
        return _Trainings(self, parameters, states, updates, batch_size, threads)

    def predict(self, parameters, members, X):
        """Return outputs (len(members), n, n_out) of finite samples, (n, n_in) or (n_networks, n, n_in)."""
        out = np.empty((len(members), X.shape[-2], self._backend.sizes[-1]), self._backend.dtype)
        self._evaluate(parameters, members, X, None, out, None)
        return out

    def losses(self, parameters, members, X, Y):
        """Return the sum of the losses of the samples, float64 (len(members),)."""
        losses = np.zeros(len(members))
        self._evaluate(parameters, members, X, Y, None, losses)
        return losses

    def _evaluate(self, parameters, members, X, Y, out, losses):
        interleaves = (
            self.engine != "jobs"
            and self.can_interleave()
            and (self.engine == "interleaved" or self.is_faster_interleaved(len(parameters), 0))
        )
        kind = _InterleavedEvaluation if interleaves else _EvaluationJobs
        if kind not in self._evaluations:
            self._evaluations[kind] = kind(self)
        self._evaluations[kind](parameters, np.asarray(members, np.int64), X, Y, out, losses)

    def can_interleave(self):
        """Whether the kernels for interleaved networks know activations and loss."""
        backend = self._backend
        loss, output = name_of(backend.loss), str(backend.activations[-1])
        names = [str(item) for item in backend.activations]
        if not isinstance(loss, str) or loss not in LOSSES or not set(names) <= ACTIVATIONS.keys():
            return False
        return "softmax" not in names[:-1] and (output != "softmax" or loss == "cross_entropy")

    def is_faster_interleaved(self, n_networks, n_states):
        """Whether a population of so many networks is trained faster interleaved, if that is possible.

        Not how many of them a call trains decides: the bits of the result would depend on how it is divided into calls.
        """
        width = register_width(self._backend.dtype)
        size = self.n_parameters * width * self._backend.dtype.itemsize * (1 + n_states)
        return 2 * n_networks > width and size <= limits.MAX_INTERLEAVED_BYTES

    def threads_for(self, n_parts, work, threads):
        """Return how many threads do so many parts of a work in multiply-adds."""
        if work < limits.MIN_PARALLEL_WORK:
            return 1
        return max(1, min(n_parts, threads or pools.get_num_threads()))


class _Trainings:
    """Trains the members of a population; those whose updates differ in kind one kind after the other."""

    def __init__(self, population, parameters, states, updates, batch_size, threads):
        self._population, self._parameters, self._states = population, parameters, states
        self._updates, self._batch_size, self._threads = updates, batch_size, threads
        self._kinds = _codes(updates, lambda update: _kind_of_update(population, update))
        self._kinds_of_jobs = _codes(updates, lambda update: (_kind_of_update(population, update), _details(update)))
        self._parts = {}

    def __call__(self, members, data, orders, order_of, first_batch, last_batch, losses):
        """Train; see `fastbp.reference.population.PopulationBackend.training`."""
        members, order_of, orders = (np.ascontiguousarray(array, np.int64) for array in (members, order_of, orders))
        call = data, orders, first_batch, last_batch
        return self._by_kind(self._kinds, self._train_kind, call, members, order_of, losses)

    def _by_kind(self, kinds, train, call, members, order_of, losses):
        """Call train(kind, call, members, order_of, losses) for the members of each kind; return the steps done."""
        kind_of = kinds[members]
        if not len(members):
            return np.zeros(0, np.int64)
        if (kind_of == kind_of[0]).all():
            return train(kind_of[0], call, members, order_of, losses)
        done = np.zeros(len(members), np.int64)
        for kind in np.unique(kind_of):
            (places,) = np.nonzero(kind_of == kind)
            some = losses[places]
            done[places] = train(kind, call, members[places], order_of[places], some)
            losses[places] = some
        return done

    def _train_kind(self, kind, call, members, order_of, losses):
        """Train members of one kind, interleaved or each by itself."""
        population, update, data = self._population, self._updates[members[0]], call[0]
        interleaves = population.can_interleave() and _suits_interleaving(update)
        if data.weights is not None and update.weighted_mean:
            interleaves = False
        if population.engine is not None:
            interleaves = interleaves and population.engine == "interleaved"
        elif interleaves:
            interleaves = population.is_faster_interleaved(len(self._parameters), RULES[update.rule].n_states)
            interleaves = interleaves and not self._is_faster_one_by_one(update, len(members))
        if interleaves:
            return self._train(_InterleavedTraining, self._kinds, kind, call, members, order_of, losses)

        def train(kind, call, members, order_of, losses):
            return self._train(_TrainingJobs, self._kinds_of_jobs, kind, call, members, order_of, losses)

        return self._by_kind(self._kinds_of_jobs, train, call, members, order_of, losses)

    def _is_faster_one_by_one(self, update, n_members):
        """Whether so few groups of interleaved networks leave threads idle for longer than they save.

        Only of networks that get the same bits from all engines, however many threads there are.  A loss that has the
        penalty in it is the same to rounding only, so the threads have no say there.
        """
        population = self._population
        if population.n_parameters < MIN_JOB_PARAMETERS or self._batch_size == 1:
            return False
        if update.weighted_mean:
            return True
        n_threads, width = self._threads or pools.get_num_threads(), register_width(population._backend.dtype)
        n_groups = -(-n_members // width)
        n_rounds = -(-n_groups // n_threads)
        return n_rounds * n_threads * width > MAX_IDLE * n_members

    def _train(self, cls, kinds, kind, call, members, order_of, losses):
        data, orders, first_batch, last_batch = call
        key = cls, int(kind), orders.shape[2], data.weights is not None
        if key not in self._parts:
            some = np.flatnonzero(kinds == kind)
            self._parts[key] = cls(
                self._population, self._parameters, self._states, self._updates, some, self._batch_size, self._threads
            )
        with interrupts.deferred():  # parameters and step counts change together
            return self._parts[key](members, data, orders, order_of, first_batch, last_batch, losses)


def _codes(updates, kind_of):
    """Return a code for each update, the same where their kinds are."""
    codes: dict = {}
    known: dict = {}
    for update in updates:
        if id(update) not in known:
            known[id(update)] = codes.setdefault(kind_of(update), len(codes))
    return np.array([known[id(update)] for update in updates], np.int64)


def _suits_interleaving(update):
    """Whether the kernels for interleaved networks know all that a training does."""
    return update.suits("interleaved") and not update.skips and not callable(update.rates)


def _kind_of_update(population, update):
    """Return what the updates of networks that are interleaved have in common."""
    return update.rule, update.schedule, update.weighted_mean, _suits_interleaving(update)


def _details(update):
    """Return what else they have in common where each network is trained by the kernels of one."""
    flags = tuple(bool(getattr(update, name)) for name in COLUMNS)
    rates = update.rates if callable(update.rates) else len(update.rates)
    return update.skips, update.dropout, flags, rates


def _settings_rows(updates, of_members, n_networks, smoothing_share):
    """Return the rows of PopulationArgs.settings."""
    n_rates = max(len(updates[i].rates) for i in of_members)
    settings, rows = np.zeros((n_networks, SETTING_RATES + n_rates)), {}
    for i in of_members:
        update = updates[i]
        if id(update) not in rows:
            row = np.zeros(settings.shape[1])
            row[: len(update.hyperparameters)] = update.hyperparameters
            share = smoothing_share(update)
            row[N_HYPERPARAMETERS:SETTING_RATES] = (
                update.l1,
                update.l2,
                update.clip_value,
                update.label_smoothing,
                share,
                update.loss_scale,
                update.max_loss,
                update.rate_scale,
            )
            row[SETTING_RATES : SETTING_RATES + len(update.rates)] = update.rates
            rows[id(update)] = row
        settings[i] = rows[id(update)]
    return settings


def _signed(key):
    """Return an unsigned 64-bit number as a signed one."""
    return key - 2**64 if key >= 2**63 else key


def _target_kind(Y):
    """Return the kind of targets: labels are int64, rows of targets floats, whether or not each network has its own."""
    return Y_LABELS if Y.dtype == np.int64 else Y_ROWS


class _Job:
    """A job that several threads run together, and their workspaces."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.words = aligned_zeros(POPULATION_JOB_SIZE, np.int64)
        self.bytes = self.words.view(np.uint8)
        self.counter = np.zeros(1, np.int64)

    def launch(self, kernel, workers, parameters, args):
        """Run a kernel with these arguments on the threads of the workers."""
        self.counter[0] = 0
        call = CallArgs(
            kernel=kernel.address(self.dtype),
            slots=workers.slots,
            n_slots=workers.threads - 1,
            release=RELEASE,
            parameters=parameters,
            gradient=0,
            random_words=0,
            order=0,
            losses=0,
            running_products=0,
            n_running_products=0,
            out=0,
        )
        pack(self.bytes, CALL_ARGS_AT, call)
        pack(self.bytes, TASK_AT, args)
        pools.check(pools.launcher()(address_of(self.words)))


# ------------------------------------------------------------------------------------------------ interleaved


class _Interleaved:
    """Plan and memory of networks of one architecture that are interleaved."""

    def __init__(self, population, n_networks, batch_size, n_states, has_dropout):
        backend = population._backend
        self._population, self._backend = population, backend
        lanes = register_width(backend.dtype)
        self._n_registers = population.n_registers or registers_of_group(
            backend.sizes, batch_size, n_states, lanes, backend.dtype.itemsize, n_networks
        )
        self._width = lanes * self._n_registers
        names = [str(item) for item in backend.activations]
        self._plan = interleaved_plan(backend.sizes, names, batch_size, n_states, self._width, has_dropout)
        self._functions = np.zeros(N_FUNCTIONS, np.int64)
        self._job = _Job(backend.dtype)
        self._n_ints = N_INTS + MAX_NETWORKS * len(names)
        self._memory = None  # of so many threads: workspaces, doubles, ints
        self._output = names[-1]

    def _load(self, functions, wants_loss, is_trained):
        """Put the native functions that are needed into the plan, compiling them if need be."""
        backend, functions = self._backend, dict(functions)
        forward, backward, (sample_losses, output_gradient) = network_functions(backend.activations, backend.loss)
        functions.update({place: native_function(FUNCTIONS[place]) for place in (GATHER, PRODUCT, PRODUCT_OF_NUMBERS)})
        if wants_loss:
            functions[SAMPLE_LOSSES] = sample_losses
        if is_trained:
            functions[OUTPUT_GRADIENT] = output_gradient
        with interrupts.allowed():
            for place, function in functions.items():
                self._functions[place] = function.address(backend.dtype)
            for column, of_layers in ((FORWARD_AT, forward), (BACKWARD_AT, backward if is_trained else ())):
                if of_layers:
                    self._plan.layers[:, column] = [function.address(backend.dtype) for function in of_layers]

    def _memory_of(self, threads):
        if self._memory is None or len(self._memory[0]) < threads:
            dtype, size = self._backend.dtype, self._plan.size
            self._memory = (
                aligned_zeros(threads * size, dtype).reshape(threads, size),
                aligned_zeros(threads * N_DOUBLES, np.float64).reshape(threads, N_DOUBLES),
                aligned_zeros(threads * self._n_ints, np.int64).reshape(threads, self._n_ints),
            )
        return self._memory

    def _run(self, kernel, threads, parameters, n_rows, data, is_gathered, **values):
        """Run a kernel; `values` are the fields of PopulationArgs that depend on what it does."""
        backend, (X, Y, weights) = self._backend, data
        work, doubles, ints = self._memory_of(threads)
        y_kind, has_own_y = Y_NONE, False
        if Y is not None:
            y_kind, has_own_y = _target_kind(Y), has_own_targets(Y)
        is_in_order = is_gathered and kernel is TRAIN  # then the first axis is that of the orders
        has_own_x, has_own_weights = X.ndim == 3, weights is not None and weights.ndim == 2
        loss = name_of(backend.loss)
        with _Workers(threads) as workers:
            args = PopulationArgs(
                layers=address_of(self._plan.layers),
                n_layers=len(self._plan.layers),
                functions=address_of(self._functions),
                n_parameters=self._population.n_parameters,
                stride=parameters.strides[0] // parameters.itemsize,
                n_registers=self._n_registers,
                n_rows=n_rows,
                x_address=address_of(X),
                x_kind=X_KINDS[X.dtype],
                x_scale=1.0 if is_gathered else backend.scale,
                x_stride=X.strides[0] if has_own_x else 0,
                y_address=0 if Y is None else address_of(Y),
                y_kind=y_kind,
                y_stride=Y.strides[0] if has_own_y else 0,
                weights=0 if weights is None else address_of(weights),
                weights_stride=weights.strides[0] if has_own_weights else 0,
                is_shared=is_in_order or not (has_own_x or has_own_y or has_own_weights),
                is_gathered=is_gathered,
                takes_log_softmax=self._output == "softmax",
                has_logit_form=(self._output, loss) in LOGIT_FORMS,
                is_mean=backend.reduction == "mean",
                loss_parameter=float(next(iter(settings_of(backend.loss).values()), 0.0)),
                next_group=address_of(self._job.counter),
                workspace=address_of(work),
                workspace_size=work.shape[1],
                doubles=address_of(doubles),
                doubles_size=doubles.shape[1],
                ints=address_of(ints),
                ints_size=ints.shape[1],
                **self._plan.places,
                **values,
            )
            self._job.launch(kernel, workers, address_of(parameters), args)


_NOT_TRAINED = dict.fromkeys(
    (
        "first",
        "second",
        "n_states",
        "running_products",
        "n_products",
        "steps",
        "settings",
        "settings_stride",
        "keys",
        "thresholds",
        "schedule",
        "advances",
        "bias_factors",
        "has_same_settings",
        "orders",
        "order_of",
        "n_epochs",
        "first_batch",
        "last_batch",
        "batch_size",
        "weighted_mean",
        "has_penalties",
        "clips",
        "has_smoothing",
        "has_limit",
        "done",
    ),
    0,
)


class _InterleavedEvaluation(_Interleaved):
    """Evaluates networks; those of one register together."""

    def __init__(self, population):
        super().__init__(population, 1, EVALUATED_ROWS, 0, False)  # so many samples fill the caches
        self._has_loss = None

    def __call__(self, parameters, members, X, Y, out, losses):
        """Write outputs, or the sums of the losses, of members."""
        if self._has_loss is None or losses is not None and not self._has_loss:
            self._load({}, losses is not None, False)
            self._has_loss = losses is not None
        population, n_rows = self._population, X.shape[-2]
        work = population.n_parameters * n_rows * len(members)
        threads = population.threads_for(-(-len(members) // self._width), work, 0)
        self._run(
            EVALUATE,
            threads,
            parameters,
            n_rows,
            (X, Y, None),
            X.dtype == self._backend.dtype and self._backend.scale == 1,
            members=address_of(members),
            n_members=len(members),
            losses=0 if losses is None else address_of(losses),
            out=0 if out is None else address_of(out),
            **_NOT_TRAINED,
        )


class _InterleavedTraining(_Interleaved):
    """Trains networks; groups of them together."""

    def __init__(self, population, parameters, states, updates, of_members, batch_size, threads):
        update, n_networks = updates[of_members[0]], len(parameters)
        row = RULES[update.rule]
        has_dropout = any(any(updates[i].dropout) for i in of_members)
        super().__init__(population, len(of_members), batch_size, row.n_states, has_dropout)
        self._parameters, self._states, self._threads = parameters, states, threads
        self._batch_size, self._row, self._update = batch_size, row, update
        backend, n_layers = self._backend, len(self._plan.layers)

        def share(update):
            if not update.label_smoothing:
                return 0.0
            return update.label_smoothing / smoothing_classes(backend.loss, backend.sizes[-1])

        self._settings = _settings_rows(updates, of_members, n_networks, share)
        self._keys, self._thresholds = np.zeros(n_networks, np.int64), None
        self._keys[of_members] = [_signed(updates[i].key) for i in of_members]
        if has_dropout:
            self._thresholds = np.zeros((n_networks, n_layers), np.int64)
            for i in of_members:
                fractions = updates[i].dropout or (0.0,) * (n_layers - 1)
                self._thresholds[i, :-1] = [int(fraction * 2**32) for fraction in fractions]
        some = self._settings[of_members]
        self._flags = {
            "has_penalties": bool(some[:, [SETTING_L1, SETTING_L2]].any()),
            "clips": bool(some[:, SETTING_CLIP].any()),
            "has_smoothing": any(updates[i].label_smoothing for i in of_members),
            "has_limit": any(updates[i].max_loss < np.inf for i in of_members),
        }
        self._are_same_settings = bool((some == some[0]).all())
        functions = {
            STEP_FACTORS: native_function(f"optimizers.step_factors.{update.rule}"),
            UPDATE: native_function(f"optimizers.update_members.{update.rule}"),
        }
        if has_dropout:
            functions[DROP] = native_function(FUNCTIONS[DROP])
        self._load(functions, True, True)

    def __call__(self, members, data, orders, order_of, first_batch, last_batch, losses):
        """Train; see `PopulationBackend.training`."""
        states, population = self._states, self._population
        n_epochs, n_rows = orders.shape[1:]
        places = None
        if len(orders) > 1:  # neighbors with the same order share what they read
            places = np.argsort(order_of, kind="stable")
            members, order_of, sorted_losses = members[places], order_of[places], losses[places]
        else:
            sorted_losses = np.ascontiguousarray(losses)
        done = np.zeros(len(members), np.int64)
        steps = states.step[members]
        n_steps = n_epochs * last_batch - first_batch
        work = 3 * population.n_parameters * len(members) * min(self._batch_size, n_rows) * n_steps
        threads = population.threads_for(-(-len(members) // self._width), work, self._threads)
        buffers = states.buffers
        gathered = self._gathered(data, orders)
        self._run(
            TRAIN,
            threads,
            self._parameters,
            n_rows,
            gathered or data,
            gathered is not None,
            members=address_of(members),
            n_members=len(members),
            first=address_of(buffers[0]) if self._row.n_states > 0 else 0,
            second=address_of(buffers[1]) if self._row.n_states > 1 else 0,
            n_states=self._row.n_states,
            running_products=address_of(states.running_products),
            n_products=N_RUNNING_PRODUCTS,
            steps=address_of(states.step),
            settings=address_of(self._settings),
            settings_stride=self._settings.shape[1],
            keys=address_of(self._keys),
            thresholds=0 if self._thresholds is None else address_of(self._thresholds),
            schedule=KINDS[self._update.schedule],
            advances=self._update.schedule != "constant" or self._row.advances,
            bias_factors=BIAS_FACTORS if self._row.has_bias_factors else 0,
            has_same_settings=self._are_same_settings and bool((steps == steps[0]).all()),
            orders=address_of(orders),
            order_of=address_of(order_of),
            n_epochs=n_epochs,
            first_batch=first_batch,
            last_batch=last_batch,
            batch_size=min(self._batch_size, n_rows),
            weighted_mean=self._update.weighted_mean,
            losses=address_of(sorted_losses),
            done=address_of(done),
            out=0,
            **self._flags,
        )
        if places is None:
            if sorted_losses is not losses:
                losses[...] = sorted_losses
            return done
        losses[places] = sorted_losses
        result = np.empty_like(done)
        result[places] = done
        return result

    def _gathered(self, data, orders):
        """Return the data in order, (n_orders, n_epochs, n_rows, ...), in the dtype and scaled.

        None where networks have their own, or where that takes too much memory: then each register gathers them again.
        """
        X, Y, weights = data
        backend, n_out = self._backend, self._backend.sizes[-1]
        if X.ndim > 2 or has_own_targets(Y) or weights is not None and weights.ndim > 1:
            return None
        if orders.size * (X.shape[1] + n_out) * backend.dtype.itemsize > limits.MAX_GATHERED_BYTES:
            return None
        samples, targets = X[orders].astype(backend.dtype, copy=False), Y[orders]
        if backend.scale != 1:
            samples *= backend.dtype.type(backend.scale)
        shape = len(orders), -1
        if Y.ndim == 1:
            rows = np.zeros((orders.size, n_out), backend.dtype)
            labels = targets.reshape(-1)
            is_class = (labels >= 0) & (labels < n_out)
            rows[np.flatnonzero(is_class), labels[is_class]] = 1
            rows[~is_class] = np.nan
            targets = rows
        return (
            samples.reshape(*shape, X.shape[1]),
            targets.reshape(*shape, n_out),
            None if weights is None else weights[orders].reshape(shape),
        )


# ------------------------------------------------------------------------------------------------ one by one


class _Jobs:
    """Jobs of single networks, one a row, in memory that the threads of `run_jobs` read."""

    def __init__(self, population):
        self._population, self._backend = population, population._backend
        self._job = _Job(self._backend.dtype)
        self._workspaces, self._gradients = [], []

    def _addresses(self, threads, make):
        """Return the addresses of the workspaces of so many threads, and of their gradients."""
        while len(self._workspaces) < threads:
            self._workspaces.append(make())
        return np.array([address_of(workspace.array) for workspace in self._workspaces], np.int64)

    def _launch(self, threads, jobs, members, addresses, gradients, sums, n_epochs, order_size, done, n_parts=1):
        parts_done = np.zeros(len(members) if n_parts > 1 else 0, np.int64)
        with _Workers(threads) as workers:
            args = JobsArgs(
                first=address_of(jobs),
                stride=jobs.shape[1],
                members=address_of(members),
                n_members=len(members),
                next_member=address_of(self._job.counter),
                workspaces=address_of(addresses),
                gradients=0 if gradients is None else address_of(gradients),
                sums=0 if sums is None else address_of(sums),
                n_epochs=n_epochs,
                order_size=order_size,
                n_parts=n_parts,
                parts_done=address_of(parts_done),
                done=0 if done is None else address_of(done),
            )
            self._job.launch(RUN_JOBS, workers, 0, args)


def _n_parts(n_members, threads, n_batches):
    """Return how many parts the batches of each network are cut into, so that threads have as many as each other."""
    rest = n_members % threads
    if rest == 0 or n_members >= MAX_CUT * threads:
        return 1
    return min(n_batches, 2 * threads // math.gcd(rest, threads))


def _addresses_of_rows(array, n):
    """Return the addresses of the first n elements along the first axis."""
    return address_of(array) + np.arange(n) * array.strides[0]


class _EvaluationJobs(_Jobs):
    """Evaluates networks, each by the kernels of one network."""

    def __call__(self, parameters, members, X, Y, out, losses):
        """Write outputs, or the sums of the losses, of members."""
        backend, n, n_members = self._backend, X.shape[-2], len(members)
        wants = WANT_OUTPUT if losses is None else WANT_LOSS
        rows = limits.BLOCK_ROWS if n > limits.FEW_ROWS else limits.FEW_ROWS
        work = self._population.n_parameters * n * n_members
        threads = self._population.threads_for(n_members, work, 0)
        if self._workspaces and self._workspaces[0].plan.rows != rows:
            self._workspaces = []
        addresses = self._addresses(threads, lambda: Workspace(backend, rows, 1))
        workspace = self._workspaces[0]
        workspace.prepared = None
        kind = Y_NONE if Y is None else _target_kind(Y)
        has_own_y = Y is not None and has_own_targets(Y)
        of_samples = np.empty((n_members, n)) if losses is not None else None
        backend._write_evaluation(
            workspace, wants, parameters=0, x_kind=X_KINDS[X.dtype], y_kind=kind, n=n, x=0, y=0, threads=1
        )
        jobs = np.tile(np.frombuffer(workspace.job, np.int64), (n_members, 1))
        jobs[:, PARAMETERS_AT] = _addresses_of_rows(parameters, len(parameters))[members]
        jobs[:, X_AT] = _addresses_of_rows(X, len(X))[members] if X.ndim == 3 else address_of(X)
        if Y is not None:
            jobs[:, Y_AT] = _addresses_of_rows(Y, len(Y))[members] if has_own_y else address_of(Y)
        if losses is None:
            jobs[:, OUT_AT] = _addresses_of_rows(out, n_members)
        else:
            jobs[:, LOSSES_AT] = _addresses_of_rows(of_samples, n_members)
        sync = np.zeros((n_members, sync_size(1)), np.int64)
        jobs[:, SYNC_AT] = _addresses_of_rows(sync, n_members)
        self._launch(threads, jobs, np.arange(n_members), addresses, None, None, 1, 0, None)
        if losses is not None:
            losses[:] = of_samples.sum(axis=1)  # type: ignore[union-attr]


class _TrainingJobs(_Jobs):
    """Trains networks, each by the kernels of one network."""

    def __init__(self, population, parameters, states, updates, of_members, batch_size, threads):
        super().__init__(population)
        self._parameters, self._states, self._threads = parameters, states, threads
        self._updates, self._of_members, self._batch_size = updates, of_members, batch_size
        self._jobs: Any = None

    def _prepare(self, n_rows, has_weights):
        """Write into the jobs what does not differ from call to call."""
        backend, states, updates = self._backend, self._states, self._updates
        first, n_networks = self._of_members[0], len(self._parameters)
        update = updates[first]
        backend._rules = rules = _Rules(update)
        order = np.arange(n_rows)
        self._training = training = backend.training(
            self._parameters[first],
            states.member(first),
            batch_size=self._batch_size,
            order=order,
            update=update,
            threads=1,
        )
        self._make = lambda: Workspace(backend, training._rows, 1, RULES[update.rule].n_states, rules.dropout)
        self._addresses(1, self._make)
        workspace = self._workspaces[0]
        training._write_args(workspace, has_weights)
        losses = np.zeros(1)
        training._write_call(workspace, x_kind=0, losses=losses, batches=(0, 1))
        self._jobs = jobs = np.tile(np.frombuffer(workspace.job, np.int64), (n_networks, 1))
        numbers = jobs.view(np.float64)
        jobs[:, PARAMETERS_AT] = _addresses_of_rows(self._parameters, n_networks)
        jobs[:, PRODUCTS_AT] = _addresses_of_rows(states.running_products, n_networks)
        self._sync = np.zeros((n_networks, sync_size(1)), np.int64)
        jobs[:, SYNC_AT] = _addresses_of_rows(self._sync, n_networks)
        n_rates = 0 if callable(update.rates) else len(update.rates)
        self._numbers = np.zeros((n_networks, N_HYPERPARAMETERS + 1 + n_rates))
        fields = {name: TASK_AT + TrainArgs._fields.index(name) for name in TrainArgs._fields}
        of_update = [
            name for name in fields if hasattr(update, name) and TrainArgs.__annotations__[name] in (float, "float")
        ]
        for i in self._of_members:
            this = updates[i]
            self._numbers[i, : len(this.hyperparameters)] = this.hyperparameters
            if n_rates:
                self._numbers[i, N_HYPERPARAMETERS + 1 :] = this.rates
            for name in of_update:
                numbers[i, fields[name]] = getattr(this, name)
            jobs[i, fields["key"]] = _signed(this.key)
            if this.label_smoothing:
                share = this.label_smoothing / smoothing_classes(backend.loss, backend.sizes[-1])
                numbers[i, fields["smoothing_share"]] = share
        jobs[:, fields["hyperparameters"]] = _addresses_of_rows(self._numbers, n_networks)
        jobs[:, fields["rates"]] = jobs[:, fields["hyperparameters"]] + 8 * (N_HYPERPARAMETERS + 1)

    def __call__(self, members, data, orders, order_of, first_batch, last_batch, losses):
        """Train; see `PopulationBackend.training`."""
        states, population, backend = self._states, self._population, self._backend
        X, Y, weights = data
        n_epochs, n_rows = orders.shape[1:]
        if self._jobs is None:
            self._prepare(n_rows, weights is not None)
        jobs, n_parameters = self._jobs, population.n_parameters
        work = 3 * n_parameters * len(members) * min(self._batch_size, n_rows) * (n_epochs * last_batch - first_batch)
        threads = population.threads_for(len(members), work, self._threads)
        addresses = self._addresses(threads, self._make)
        needs_gradient = self._training._path == AFTER_GRADIENT
        n_sums = -(-n_parameters // SQUARES_CHUNK)
        while len(self._gradients) < threads:
            gradient = aligned_zeros(n_parameters if needs_gradient else 0, backend.dtype)
            self._gradients.append((gradient, np.empty(n_sums)))
        gradients, sums = (np.array([address_of(arrays[k]) for arrays in self._gradients], np.int64) for k in range(2))
        has_own_y = has_own_targets(Y)
        own_losses = np.ascontiguousarray(losses)
        jobs[members, X_KIND_AT] = X_KINDS[X.dtype]
        jobs[members, Y_KIND_AT] = _target_kind(Y)
        jobs[members, X_AT] = address_of(X) + members * (X.strides[0] if X.ndim == 3 else 0)
        jobs[members, Y_AT] = address_of(Y) + members * (Y.strides[0] if has_own_y else 0)
        if weights is not None:
            jobs[members, WEIGHTS_AT] = address_of(weights) + members * (weights.strides[0] if weights.ndim == 2 else 0)
        jobs[members, ORDER_AT] = address_of(orders) + order_of * orders.strides[0]
        jobs[members, LOSSES_AT] = _addresses_of_rows(own_losses, len(members))
        jobs[members, STEP_AT] = states.step[members]
        jobs[members, FIRST_BATCH_AT] = first_batch
        jobs[members, LAST_BATCH_AT] = last_batch
        update = self._updates[members[0]]
        if callable(update.rates):
            n_steps, steps = n_epochs * last_batch - first_batch, states.step[members]
            tables = {step: table_of(update.rates, step, n_steps) for step in set(steps.tolist())}
            jobs[members, RATES_AT] = [address_of(tables[step]) for step in steps.tolist()]
        done = np.zeros(len(members), np.int64)
        n_parts = 1 if n_epochs > 1 else _n_parts(len(members), threads, last_batch - first_batch)
        self._launch(threads, jobs, members, addresses, gradients, sums, n_epochs, orders.strides[1], done, n_parts)
        states.step[members] += done
        if update.skips:
            states.skipped[members] += self._sync[members, SKIPPED]
            self._sync[members, SKIPPED] = 0
        if own_losses is not losses:
            losses[...] = own_losses
        return done
