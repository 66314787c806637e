"""A plan with its workspace and its job: what one call at a time works with."""

import ctypes

import numpy as np

from .. import interrupts
from ..custom import CustomFunction
from ..kernels.layout import (
    AFTER_GRADIENT,
    BACKWARD_AT,
    DONE_AT,
    DROP,
    FORWARD_AT,
    GATHER,
    GEMM,
    IN_EPILOGUE,
    JOB_SIZE,
    MAX_NORM,
    NOISE,
    OUTPUT_GRADIENT,
    PLAN_AT,
    POINTERS_AT,
    PREPARE_GRADIENT,
    SAMPLE_LOSSES,
    SCALE,
    STEP_FACTORS,
    SUM_OF_SQUARES,
    UPDATE,
    UPDATE_SCALED,
    WANT_GRADIENT,
    WANT_INPUT_GRADIENT,
    WANT_LOSS,
    Pointers,
    address_of,
    pack,
    sync_size,
)
from ..kernels.library import native_function
from ..kernels.parallel_compile import start_compile_helper
from ..kernels.plan import make_plan
from ..kernels.tables import FUNCTIONS, LOGIT_FORMS, ONLINE_FUNCTIONS, RULES
from ..losses import name_of, settings_of
from ..update import aligned_zeros
from .threads import check

EVALUATE = native_function("training.evaluate")


def network_functions(activations, loss):
    """Return the native functions of a network.

    Returns
    -------
    forward, backward : lists of native functions
        Of the activations of the layers.
    of_loss : tuple of native functions
        Sample losses and output gradient.
    """
    forward, backward = (
        [
            item.native_functions()[place]
            if isinstance(item, CustomFunction)
            else native_function(f"elementwise.{name}.{item}")
            for item in activations
        ]
        for place, name in enumerate(("forward", "backward"))
    )
    if isinstance(loss, CustomFunction):
        return forward, backward, loss.native_functions()
    form = name_of(loss)
    if (str(activations[-1]), form) in LOGIT_FORMS:
        form = f"{form}.{activations[-1]}"
    return forward, backward, tuple(native_function(f"losses.{n}.{form}") for n in ("sample_losses", "output_gradient"))


def training_functions(update, path):
    """Return the places in Plan.functions that training needs besides evaluation, and their native functions.

    Parameters
    ----------
    update : fastbp.update.Update
    path : IN_EPILOGUE, BY_SLICE or AFTER_GRADIENT
    """
    result = {STEP_FACTORS: native_function(f"optimizers.step_factors.{update.rule}")}
    if path != IN_EPILOGUE:
        result[UPDATE] = native_function(f"optimizers.update_slice.{update.rule}")
    scales = RULES[update.rule].scales_inputs
    if path == AFTER_GRADIENT and (update.clip_norm or update.l1 or update.l2 or scales):
        result.update({place: native_function(FUNCTIONS[place]) for place in (PREPARE_GRADIENT, SUM_OF_SQUARES, SCALE)})
    are_used = {
        DROP: any(update.dropout),
        NOISE: update.input_noise,
        MAX_NORM: update.max_norm,
        UPDATE_SCALED: scales,
    }
    result.update({place: native_function(FUNCTIONS[place]) for place, is_used in are_used.items() if is_used})
    return result


class Workspace:
    """A plan with its workspace and its job, of which the kernels get the address."""

    def __init__(self, backend, rows, threads, n_states=None, dropout=()):
        self.plan = make_plan(
            sizes=backend.sizes,
            activations=[str(item) for item in backend.activations],
            loss=name_of(backend.loss),
            rows=rows,
            threads=threads,
            n_states=n_states,
            dropout=dropout,
            loss_parameter=next(iter(settings_of(backend.loss).values()), 0.0),
        )
        self._backend, self._dtype, self._loaded = backend, backend.dtype, set()
        self.job, self.holds = bytearray(8 * JOB_SIZE), None  # the rule and TrainArgs, and whether samples have weights
        self.prepared: object = None  # what calls with arrays all else is written in the job for
        self.words = (ctypes.c_ssize_t * JOB_SIZE).from_buffer(self.job)
        self.address, self.kernel = ctypes.addressof(self.words), 0
        self.array = aligned_zeros(self.plan.size, backend.dtype)
        self.sync = aligned_zeros(sync_size(threads), np.int64)
        layers, functions = self.plan.layers, self.plan.functions
        others = map(address_of, (functions, self.array, self.sync))
        pack(self.job, POINTERS_AT, Pointers(address_of(layers), len(layers), *others))
        pack(self.job, PLAN_AT, self.plan)
        for copy in range(threads if self.plan.x_size else 1):
            start = self.plan.x_at + copy * self.plan.x_size
            inputs = self.array[start : start + rows * self.plan.x_row_stride].reshape(rows, -1)
            inputs[:, backend.sizes[0]] = 1

    def load_evaluation(self, wants, kernel=EVALUATE):
        """Put the native functions that `wants` needs (a sum of WANT_...) into the plan, compiling them if need be."""
        if wants not in self._loaded:
            self._load(wants, {}, kernel)
            self._loaded.add(wants)

    def load_training(self, kernel, update, path):
        """Put the native functions of a training into the plan, compiling them and the kernel if need be."""
        others = training_functions(update, path)
        if kernel.name == "training.train_online":
            others.update({place: native_function(name) for place, name in ONLINE_FUNCTIONS.items()})
        self._load(WANT_LOSS | WANT_GRADIENT, others, kernel)
        with interrupts.allowed():
            self.kernel = kernel.address(self._dtype)

    def _load(self, wants, others, kernel):
        forward, backward, (sample_losses, output_gradient) = network_functions(
            self._backend.activations, self._backend.loss
        )
        functions = {place: native_function(FUNCTIONS[place]) for place in (GEMM, GATHER)}
        layers = {FORWARD_AT: forward}
        if wants & WANT_LOSS:
            functions[SAMPLE_LOSSES] = sample_losses
        if wants & (WANT_GRADIENT | WANT_INPUT_GRADIENT):
            functions[OUTPUT_GRADIENT] = output_gradient
            layers[BACKWARD_AT] = backward
        functions.update(others)
        needed = list(dict.fromkeys([*functions.values(), *(item for column in layers.values() for item in column)]))
        with interrupts.allowed():
            start_compile_helper([*needed, EVALUATE, kernel], self._dtype)
            for place, function in functions.items():
                self.plan.functions[place] = function.address(self._dtype)
            for column, of_layers in layers.items():
                self.plan.layers[:, column] = [function.address(self._dtype) for function in of_layers]

    def launch_and_count(self, launch, state):
        """Run the job of a training; return the steps done, which the state counts as the kernel writes them."""
        words, step = self.words, state.step
        words[DONE_AT] = 0
        state.follow(step, words)
        check(launch(self.address))
        done = words[DONE_AT]
        state.step = step + done  # before the next job counts there
        return done

    def take(self, place):
        """Return a counter of `sync`, and set it to 0."""
        value = self.sync.item(place)
        if value:
            self.sync[place] = 0
        return value

    def rows_of(self, at, n, columns, stride):
        """Return a copy of n rows of an array in the workspace, without its padding."""
        return self.array[at : at + n * stride].reshape(n, stride)[:, :columns].copy()
