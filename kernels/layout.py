"""Codes and sizes, and how a network and a job lie in memory, as plain Python.

A job is a block of 8-byte words: how many steps were done, Pointers, the numbers of a Plan, Data, CallArgs, TrainArgs
or EvalArgs, and ArrayArgs.  Kernels read them from there (`simd.unpacked`): as arguments they would take longer than a
small step, and so any thread can take up a job at its address.
"""

import ctypes
import platform
import struct
import sys
from typing import NamedTuple

import numpy as np

# Columns of Plan.layers: sizes; offset of W in the parameters (b follows it); code of the activation
# (`elementwise.code_of`); offsets of Z, A and delta in the workspace, and the distance between their rows; whether
# threads split the columns; for dropout the offset of what is left of A, and the 32-bit number below which an element
# is dropped; addresses of the native functions of the activation and of its derivative.
(
    N_IN,
    N_OUT,
    W_AT,
    ACTIVATION,
    Z_AT,
    A_AT,
    DELTA_AT,
    ROW_STRIDE,
    BY_COLUMNS,
    DROP_AT,
    THRESHOLD,
    FORWARD_AT,
    BACKWARD_AT,
) = range(13)
N_LAYER_COLUMNS = BACKWARD_AT + 1

# Places in Plan.functions, the addresses of native functions; those of activations are in Plan.layers.
(
    GEMM,
    GATHER,
    DROP,
    NOISE,
    SAMPLE_LOSSES,
    OUTPUT_GRADIENT,
    STEP_FACTORS,
    UPDATE,
    PREPARE_GRADIENT,
    SUM_OF_SQUARES,
    SCALE,
    MAX_NORM,
    UPDATE_SCALED,
    AFFINE_ROW,
    PROPAGATE_ROW,
    UPDATE_ROWS,
    PRODUCT,
    PRODUCT_OF_NUMBERS,
) = range(18)
N_FUNCTIONS = PRODUCT_OF_NUMBERS + 1

X_FLOAT32, X_FLOAT64, X_UINT8 = range(3)  # kinds of samples
Y_ROWS, Y_LABELS, Y_GRADIENT, Y_NONE = range(4)  # kinds of targets
# Where the update happens: in the epilogue of the microkernel that sums the gradient; slice by slice, right after each
# slice of the gradient; or after the whole gradient of the batch, which needs a buffer for it.
IN_EPILOGUE, BY_SLICE, AFTER_GRADIENT = range(3)
STORE, SGD, MOMENTUM, NESTEROV = range(4)  # epilogues of the microkernel

VECTOR_BYTES = 64
FEW_LANES = 4  # lanes of the vectors behind a `simd.narrow` pointer
N_FACTORS = 32  # room for the numbers of one step, of any update rule
RATE = 8  # place of the learning rate among them, after the rule's own
SCALE_RATE = 9  # place of the factor of it for the scales of inputs, of rules that have some
BIAS_FACTORS = 16  # place of those of biases, of rules for which they differ
SQUARES_CHUNK = 4096  # elements of a sum of squares; the sums of these chunks are added up in order
WANT_OUTPUT, WANT_LOSS, WANT_GRADIENT, WANT_INPUT_GRADIENT = 1, 2, 4, 8  # what `training.evaluate` computes
# What different threads write lies so far apart.  Apple's processors have cache lines of 128 bytes, others of 64.
LINE_BYTES = 128 if platform.machine().lower() in ("arm64", "aarch64") else 64
# Places in sync, int64: the two words of the barrier, 128 bytes apart; steps left out because their loss was not
# finite; 1 where inputs may not be finite.  After SYNC_SIZE words come the prefetch states of the threads
# (`dense.next_prefetch_lines`).
ARRIVALS, GENERATION, SKIPPED, NOT_FINITE, SYNC_SIZE, PREFETCH_SIZE = 0, 16, 24, 25, 32, 16
STATE, JOB, THREAD, SEMAPHORE, SLOT_SIZE = *range(4), 16  # fields of a worker's slot, int64 (`threads`)
SLEEPING, SPINNING, POSTED = range(3)  # states of a slot

KC = 256  # the sums over k are cut at multiples of it: a packed panel of B then fills most of the L1
PANEL = 64  # most columns of one packed panel
GROUP_BYTES = 24 << 10  # of what registers of networks read and write for a batch: L1 caches have 32 KB or more
STRIP_STRIDE = 16  # distance of the rows in a packed strip of A, at least the rows of a tile


def pack_size(columns):
    """Return the elements that `dense.gemm` needs to pack operands for a result with so many columns."""
    return (KC + 16) * (max(PANEL, min(GROUP_BYTES // 4, columns) + PANEL) + STRIP_STRIDE)


def sync_size(threads):
    """Return how many numbers sync has for so many threads."""
    return SYNC_SIZE + PREFETCH_SIZE * threads


_word, _HEADER = ctypes.c_ssize_t, object.__basicsize__


def address_of(array):
    """Return the address of an array's data."""
    return _word.from_address(id(array) + _HEADER).value


# An array object begins with the address of its data, as Numba's own code and that of every extension knows; asked in
# another way it takes ten times as long.
assert all(address_of(array) == array.ctypes.data for array in (np.empty(3), np.empty((2, 3), np.uint8)[1:]))

# Words of an array object, as extensions know them (PyArrayObject_fields); NDIM and FLAGS are 32 bits of theirs.
ARRAY_DATA = _HEADER // 8
ARRAY_NDIM, ARRAY_DIMENSIONS, ARRAY_DTYPE, ARRAY_FLAGS = (ARRAY_DATA + i for i in (1, 2, 5, 6))
C_CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400  # bits of the flags


def _is_known(array):
    """Whether an array object has these words."""

    def word(at, kind=_word):
        return kind.from_address(id(array) + 8 * at).value

    bits = {C_CONTIGUOUS: array.flags.c_contiguous, ALIGNED: array.flags.aligned, WRITEABLE: array.flags.writeable}
    return (
        word(ARRAY_NDIM, ctypes.c_int32) == array.ndim
        and word(ARRAY_DTYPE) == id(array.dtype)
        and all(bool(word(ARRAY_FLAGS, ctypes.c_int32) & bit) == is_set for bit, is_set in bits.items())
        and tuple((_word * array.ndim).from_address(word(ARRAY_DIMENSIONS))) == array.shape
    )


# Where they differ, calls with arrays take the longer way, on which NumPy tells what they are.
knows_arrays = sys.byteorder == "little" and all(
    map(_is_known, (np.empty((2, 3)), np.broadcast_to(np.float32(1), (4, 5, 6)), np.empty((3, 4), np.uint8)[:, 1:]))
)


class Plan(NamedTuple):
    """One network as the kernels see it.

    layers : int64 (n_layers, N_LAYER_COLUMNS), one row a layer.
    functions : int64 (N_FUNCTIONS,), addresses of native functions.
    n_parameters : how many there are.
    inline_loss : code of a loss that the kernels for small steps compute inline (`losses.inline_code`).
    has_logit_form : whether the gradient of the loss is by the logits Z of the outputs, not by the outputs A.
    rows : most samples in one block.
    x_at, x_row_stride, x_size : where the gathered inputs of a block start in the workspace, the distance between their
        rows, and between the copies of the threads, each of which has its own where threads split the columns of the
        first layer; else 0.
    y_at, losses_at, lse_at : where targets, sample losses and softmax normalizers start.
    pack_at, pack_size : where the threads' packed panels start, and the distance between them.
    private_at, private_row_stride, private_size, private_stride : where the threads' private columns of the first
        layer's W and b start, the distance between their rows, from them to each of their optimizer states, and to the
        next thread's.  private_row_stride is 0 where threads use the parameters themselves.
    factors_at : where the threads' factors of an update start, N_FACTORS apart.
    scratch_at, scratch_size : where the threads' slices of a gradient start, and the distance between them.
    lanes_at : where samples in lanes start, or -1 where the network is not for them.
    n_neurons : how many there are, inputs not counted.
    is_mixed : whether threads split the columns of any layer.
    size : elements in the workspace.
    loss_parameter : what the loss takes besides outputs and targets, such as Huber's threshold.
    """

    layers: np.ndarray
    functions: np.ndarray
    n_parameters: int
    inline_loss: int
    has_logit_form: bool
    rows: int
    x_at: int
    x_row_stride: int
    x_size: int
    y_at: int
    losses_at: int
    lse_at: int
    pack_at: int
    pack_size: int
    private_at: int
    private_row_stride: int
    private_size: int
    private_stride: int
    factors_at: int
    scratch_at: int
    scratch_size: int
    lanes_at: int
    n_neurons: int
    is_mixed: bool
    size: int
    loss_parameter: float


class Pointers(NamedTuple):
    """Memory addresses of what all calls with a workspace share; n_layers is the length of Plan.layers."""

    layers: int
    n_layers: int
    functions: int
    workspace: int
    sync: int


class CallArgs(NamedTuple):
    """Memory addresses of a call: of the kernel, for `threads.launch`, and of the arrays.

    slots, n_slots : addresses of the slots of the workers, and how many these are.
    release : address of PyThread_release_lock.
    n_running_products : numbers that each thread has of the running products.
    """

    kernel: int
    slots: int
    n_slots: int
    release: int
    parameters: int
    gradient: int
    random_words: int
    order: int
    losses: int
    running_products: int
    n_running_products: int
    out: int


class Data(NamedTuple):
    """Samples and targets: memory addresses and kinds (X_..., Y_...), and how many there are.

    x_scale is a factor of X; weights the address of the sample weights, or 0.
    """

    x_address: int
    x_kind: int
    x_scale: float
    y_address: int
    y_kind: int
    weights: int
    n: int


class TrainArgs(NamedTuple):
    """What a training kernel is to do: which batches of how many samples, from which step on, and how to update.

    first_batch ... has_private : PER_CALL, which differ from call to call (`TRAINING`).
    first_row, last_row : rows of the one batch that a call does, whole blocks but for the last; the update comes with
        the last row of the batch, and until then `gradient` holds the sum so far.  last_row is 0 for whole batches.
    has_private : whether threads work on private columns of the first layer (`backprop.load_private`).
    update_path : IN_EPILOGUE, BY_SLICE or AFTER_GRADIENT.
    epilogue : that of the microkernel, STORE but for IN_EPILOGUE.
    hyperparameters, rates, sums : memory addresses, see `training.train_in_blocks`.
    n_states, to_first, to_second : number of optimizer states, and their offsets from the parameters in elements.
    to_scales : offset of the state of the scales of inputs (`optimizers.update_scaled`); 0 where there are none.
    advances : whether the factors of the update differ from step to step.
    bias_factors : BIAS_FACTORS where those of biases are others than those of weights, else 0.
    smoothing_share : what label smoothing adds to each target.
    The others are those of `fastbp.update.Update`, by name.
    """

    first_batch: int
    last_batch: int
    n_epochs: int
    step: int
    shuffles: bool
    threads: int
    first_row: int
    last_row: int
    has_private: bool
    batch_size: int
    is_mean: bool
    update_path: int
    epilogue: int
    schedule: int
    hyperparameters: int
    rates: int
    sums: int
    n_states: int
    to_first: int
    to_second: int
    to_scales: int
    advances: bool
    bias_factors: int
    smoothing_share: float
    rate_scale: float
    l1: float
    l2: float
    clip_value: float
    clip_norm: float
    max_norm: float
    label_smoothing: float
    input_noise: float
    key: int
    skips: bool
    weighted_mean: bool
    loss_scale: float
    max_loss: float


class PopulationArgs(NamedTuple):
    """What the kernels of `population` are to do; numbers, and memory addresses of arrays whose rows are networks.

    layers, n_layers, functions, n_parameters : as in `Plan` and `Pointers`; the places in a layer's row are those of
        `plan.interleaved_plan`.
    stride : elements between the parameters of two networks, and between their states.
    n_registers : registers of networks that are interleaved; a power of 2.
    first, second, n_states : addresses of the first and second state, and how many there are.
    running_products, steps : float64 (n_networks, n_products); int64 (n_networks,), updates done by each.
    n_products : numbers of each network's running products.
    members, n_members : int64 (n_members,), the networks that take part.
    settings, settings_stride : float64 rows of numbers (`SETTING_L1` ...), and the numbers of a row.
    keys, thresholds : int64 (n_networks,); int64 (n_networks, n_layers), or 0 without dropout.
    schedule, advances, bias_factors : as in `TrainArgs`.
    has_same_settings : whether all members have the same settings and number of steps.
    orders, order_of : int64 (n_orders, n_epochs, n_rows); int64 (n_members,), which of them each member follows.
    n_rows, n_epochs, first_batch, last_batch, batch_size : rows of an epoch, and as in `TrainArgs`.
    rows : most samples of one block.
    x_address ... weights : as in `Data`; 0 for no targets.
    x_stride, y_stride, weights_stride : bytes from one network's to the next, 0 where all have the same.
    is_shared : whether all members read the same data.
    is_gathered : whether samples are of the dtype, scaled and in order: for training x_address ... are those of arrays
        (n_orders, n_epochs, n_rows, ...), and the strides those from one order to the next.
    takes_log_softmax : whether the outputs are those of softmax and the loss is cross-entropy.
    has_logit_form : as in `Plan`.
    is_mean, weighted_mean : as in `TrainArgs`.
    has_penalties, clips, has_smoothing, has_limit : whether any member has l1 or l2; a clipped gradient; smoothed
        targets; a limit of its losses.
    loss_parameter : as in `Plan`.
    losses, done : float64 (n_members, n_epochs), the sums of sample losses are added; int64 (n_members,), batches done.
    out : where outputs (n_members, n_rows, n_out) go; 0 where they are not wanted.
    next_group : int64, counts the groups of interleaved networks that threads have taken.
    workspace, workspace_size, doubles, doubles_size, ints, ints_size : memory of the threads, and the elements of each.
    parameters_at ... scratch_at : places in a workspace, in elements; see `plan.interleaved_plan`.
    slice_size : elements of a slice of the gradient, at `gradient_at`; 0 where all of it has room there.
    """

    layers: int
    n_layers: int
    functions: int
    n_parameters: int
    stride: int
    n_registers: int
    first: int
    second: int
    n_states: int
    running_products: int
    n_products: int
    steps: int
    members: int
    n_members: int
    settings: int
    settings_stride: int
    keys: int
    thresholds: int
    schedule: int
    advances: bool
    bias_factors: int
    has_same_settings: bool
    orders: int
    order_of: int
    n_rows: int
    n_epochs: int
    first_batch: int
    last_batch: int
    batch_size: int
    rows: int
    x_address: int
    x_kind: int
    x_scale: float
    x_stride: int
    y_address: int
    y_kind: int
    y_stride: int
    weights: int
    weights_stride: int
    is_shared: bool
    is_gathered: bool
    takes_log_softmax: bool
    has_logit_form: bool
    is_mean: bool
    weighted_mean: bool
    has_penalties: bool
    clips: bool
    has_smoothing: bool
    has_limit: bool
    loss_parameter: float
    losses: int
    done: int
    out: int
    next_group: int
    workspace: int
    workspace_size: int
    doubles: int
    doubles_size: int
    ints: int
    ints_size: int
    parameters_at: int
    first_at: int
    second_at: int
    gradient_at: int
    slice_size: int
    x_at: int
    y_at: int
    weights_at: int
    losses_at: int
    lse_at: int
    factors_at: int
    vectors_at: int
    scratch_at: int


class JobsArgs(NamedTuple):
    """What `population.run_jobs` is to do; memory addresses and numbers.

    first, stride : address of the first network's job, and the words from one job to the next.
    members, n_members : int64 (n_members,), the networks whose jobs are run, and how many.
    next_member : int64, counts the members that threads have taken.
    workspaces, gradients, sums : int64 (threads,), addresses of each thread's; 0 for evaluation.
    n_epochs, order_size : epochs of each job, and the bytes of the order of one epoch.
    n_parts, parts_done : parts that the batches of a job are cut into, 1 where there are several epochs; int64
        (n_members,), zeros, the parts of each that are done.
    done : int64 (n_members,), batches done.
    """

    first: int
    stride: int
    members: int
    n_members: int
    next_member: int
    workspaces: int
    gradients: int
    sums: int
    n_epochs: int
    order_size: int
    n_parts: int
    parts_done: int
    done: int


# Numbers of a row of PopulationArgs.settings: the rule's hyperparameters, then these, then the rates of the schedule.
N_HYPERPARAMETERS = 8
(
    SETTING_L1,
    SETTING_L2,
    SETTING_CLIP,
    SETTING_SMOOTHING,
    SETTING_SHARE,
    SETTING_LOSS_SCALE,
    SETTING_MAX_LOSS,
    SETTING_RATE_SCALE,
    SETTING_RATES,
) = range(N_HYPERPARAMETERS, N_HYPERPARAMETERS + 9)


# Vectors of a number for each network, repeated up to a whole vector if that is longer, at PopulationArgs.vectors_at.
ZEROS, ONES, L1, L2, CLIP, SMOOTHING, SHARE, MAX_LOSS, N_VECTORS = range(9)
MAX_LANES = 16  # of a vector
MAX_NETWORKS = 64  # that are interleaved


class EvalArgs(NamedTuple):
    """What `training.evaluate` is to compute: a sum of WANT_..., the factor of the output delta, the number of threads.

    adds : whether the gradient is added to the one that is there.
    """

    wants: int
    scale: float
    threads: int
    adds: bool


class ArrayArgs(NamedTuple):
    """What `arrays.launch` expects of the arrays of a call.

    n_in, n_out : columns of samples and targets.
    dtype : address of their dtype object.
    min_rows, max_rows : bounds of the number of samples.
    written, n_written : address of the addresses of the array objects that are written to.
    checks_inputs : whether the samples must be finite; else the kernel says it, as `training.evaluate` does.
    out_at : word of the job for the address of what is written to `out`.
    is_mean : whether the factor of the output delta is written, 1 / n.
    n_labels, label_dtype : number of classes where targets may be labels, else 0; address of their dtype object.
    low, high : bounds of the targets.
    tolerance : how far the sum of a row of them may be from 1, where they may be labels.
    max_weight : upper bound of the weights.
    """

    n_in: int
    n_out: int
    dtype: int
    min_rows: int
    max_rows: int
    written: int
    n_written: int
    checks_inputs: bool
    out_at: int
    is_mean: bool
    n_labels: int
    label_dtype: int
    low: float
    high: float
    tolerance: float
    max_weight: float


REFUSED = 1  # what `arrays.launch` returns where it did nothing


def field_packing(kind):
    """Return the packing of the numbers of a named tuple, by its annotations."""
    letters = {int: "q", bool: "q", float: "d"}
    return struct.Struct("".join(letters[field] for field in kind.__annotations__.values() if field in letters))


_PACKED = {
    kind: field_packing(kind)
    for kind in (Pointers, Plan, Data, CallArgs, TrainArgs, EvalArgs, ArrayArgs, PopulationArgs, JobsArgs)
}
N_PLAN_ARRAYS = 2  # the first fields of a Plan
PER_CALL = TrainArgs._fields[: TrainArgs._fields.index("has_private") + 1]
# What differs from call to call lies side by side, from word DATA_AT on: Data, CallArgs, and PER_CALL of the TrainArgs
# or the EvalArgs.  Its writer packs it at once, since named tuples in between take longer than a small step.
TRAINING = struct.Struct(_PACKED[Data].format + "q" * (len(CallArgs._fields) + len(PER_CALL)))
EVALUATION = struct.Struct("".join(_PACKED[kind].format for kind in (Data, CallArgs, EvalArgs)))
assert all(TrainArgs.__annotations__[field] in (int, bool) for field in PER_CALL)

# Places of all of these in a job, and its size, in words.
DONE_AT, POINTERS_AT = 0, 1
PLAN_AT = POINTERS_AT + len(Pointers._fields)
DATA_AT = PLAN_AT + _PACKED[Plan].size // 8
CALL_ARGS_AT = DATA_AT + _PACKED[Data].size // 8
TASK_AT = CALL_ARGS_AT + len(CallArgs._fields)
ARRAY_ARGS_AT = TASK_AT + max(_PACKED[TrainArgs].size, _PACKED[EvalArgs].size) // 8
JOB_SIZE = ARRAY_ARGS_AT + _PACKED[ArrayArgs].size // 8
POPULATION_JOB_SIZE = (
    TASK_AT + _PACKED[PopulationArgs].size // 8
)  # of a job of `population`, with PopulationArgs at TASK_AT
# Places of fields that are written one by one.
X_AT, X_KIND_AT, Y_AT, Y_KIND_AT, WEIGHTS_AT, N_AT = (
    DATA_AT + Data._fields.index(name) for name in ("x_address", "x_kind", "y_address", "y_kind", "weights", "n")
)
KERNEL_AT, PARAMETERS_AT, GRADIENT_AT, RANDOM_WORDS_AT, ORDER_AT, LOSSES_AT, PRODUCTS_AT, OUT_AT = (
    CALL_ARGS_AT + CallArgs._fields.index(name)
    for name in (
        "kernel",
        "parameters",
        "gradient",
        "random_words",
        "order",
        "losses",
        "running_products",
        "out",
    )
)
FIRST_BATCH_AT, LAST_BATCH_AT, STEP_AT, SHUFFLES_AT, SUMS_AT, RATES_AT = (
    TASK_AT + TrainArgs._fields.index(name)
    for name in ("first_batch", "last_batch", "step", "shuffles", "sums", "rates")
)
WORKSPACE_AT = POINTERS_AT + Pointers._fields.index("workspace")
SYNC_AT = POINTERS_AT + Pointers._fields.index("sync")
SCALE_AT = TASK_AT + EvalArgs._fields.index("scale")


def pack(job, at, values):
    """Write a named tuple of numbers, or the numbers of a Plan, into a job or other words, from word `at` on."""
    kind = type(values)
    _PACKED[kind].pack_into(job, 8 * at, *(values[N_PLAN_ARRAYS:] if kind is Plan else values))


class ThreadContext(NamedTuple):
    """What one thread works with: pointers, its number, and what all blocks of a call share.

    parameters, work, gradient, factors, pack : pointers to the dtype.
    running_products, hyperparameters, rates, sums : pointers to float64.
    sync : pointer to int64, the counters of the barrier.
    has_private : whether it works on private columns of the first layer.
    epilogue : that of the microkernel for gradients; STORE where the update comes after it.
    prefetch : where it stands which samples come next, for the gradient of the first layer to prefetch
        (`dense.next_prefetch_lines`); 0 where they stay in the cache.
    """

    parameters: object
    work: object
    gradient: object
    factors: object
    pack: object
    running_products: object
    hyperparameters: object
    rates: object
    sums: object
    sync: object
    thread: int
    threads: int
    has_private: bool
    epilogue: int
    key: int
    prefetch: int
