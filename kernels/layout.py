"""Codes, and how a network and a job lie in memory, as plain Python."""

import struct
from typing import NamedTuple

import numpy as np

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
) = range(13)  # columns of Plan.layers


(
    GEMM,
    ACTIVATION_FORWARD,
    ACTIVATION_BACKWARD,
    SAMPLE_LOSSES,
    OUTPUT_GRADIENT,
    GATHER,
    STEP_FACTORS,
    DROP,
    NOISE,
    UPDATE,
    PENALIZE,
    SUM_OF_SQUARES,
    SCALE,
    MAX_NORM,
) = range(14)  # places in Plan.leaves


N_LAYER_COLUMNS, N_FUNCTIONS = BACKWARD_AT + 1, MAX_NORM + 1


N_EVAL_FUNCTIONS, N_PLAIN_FUNCTIONS = STEP_FACTORS, DROP  # the first of them: of evaluation, of training with plain SGD


X_FLOAT32, X_FLOAT64, X_UINT8 = range(3)


class Plan(NamedTuple):
    """One network as the kernels see it.

    layers : int64 (n_layers, 13): n_in, n_out, offset of W in the parameters (b follows it), activation code, offsets
        of Z, A and delta in the workspace, the distance between their rows, whether threads split its columns; for
        dropout, the offset of what is left of A and the 32-bit number below which an element is dropped; and the
        addresses of the leaves for its activation and its derivative.
    leaves : int64, the addresses of the functions in FUNCTION_TABLE.
    n_parameters : how many there are.
    loss, fused : codes of the loss, and of its fusion with the output activation.
    rows : most samples in one block.
    x_at, x_row_stride, x_size : where the block of gathered samples starts in the workspace, how far its rows are apart, and
        how far the copies of the threads are, each of which has its own where they split the columns of the first
        layer; else 0.
    y_at, losses_at, lse_at : where targets, sample losses and softmax normalisers start.
    pack_at, pack_size : where the threads' packed panels start, and how far they are apart.
    private_at, private_row_stride, private_size, private_stride : where the threads' own columns of the first layer's W and b start, how far
        their rows are apart, how far behind them their optimizer states are, and the next thread's.
        private_row_stride is 0 where threads use the parameters themselves.
    factors_at : where the threads' factors of an update start, N_FACTORS apart.
    scratch_at, scratch_size : where the threads' parts of a gradient start, and how far they are apart.
    lanes_at : where samples in lanes start, or -1 where the network is not for them.
    n_neurons : how many there are, inputs not counted.
    is_mixed : whether threads split the columns of any layer.
    size : elements in the workspace.
    number : what the loss takes besides outputs and targets, if anything, such as Huber's threshold.
    """

    layers: np.ndarray
    functions: np.ndarray
    n_parameters: int
    loss: int
    fused: int
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

    bells, n_slots : addresses of the bells of the other threads, and how many these are.
    release : address of PyThread_release_lock.
    n_memory : numbers that each thread has of the memory.
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
    n_memory: int
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
    """What `train` is to do: which batches of how many samples, from which step on, and how to update.

    first_batch ... last_row : the PER_CALL, which differs from call to call (`pack_call`).
    first_row, last_row : rows of the one batch that a call does, whole blocks but for the last; the update comes with
        the last row of the batch, and until then `gradient` holds the sum so far.  last_row is 0 for whole batches.
    numbers, rates, sums : memory addresses, see `training.train_in_blocks`.
    n_states, to_first, to_second : the states of the rule are so many, and lie so many elements after the parameters.
    rate_scale : factor of the learning rate.
    is_fused : whether the register tile ends with the update; for rules up to LAST_FUSED_RULE without anything else.
    advances : whether the factors of the update differ from step to step.
    smoothed : what label smoothing adds to each target.
    The others are those of `fastbp.update.Update`, as codes and numbers.
    """

    first_batch: int
    last_batch: int
    n_epochs: int
    step: int
    shuffles: bool
    threads: int
    first_row: int
    last_row: int
    batch_size: int
    is_mean: bool
    rule: int
    schedule: int
    hyperparameters: int
    rates: int
    sums: int
    n_states: int
    to_first: int
    to_second: int
    rate_scale: float
    is_fused: bool
    advances: bool
    l1: float
    l2: float
    clip_value: float
    clip_norm: float
    max_norm: float
    smoothing: float
    smoothed: float
    noise: float
    key: int
    skips: bool


class EvalArgs(NamedTuple):
    """What `evaluate` is to compute: a sum of WANT_..., the factor of the output delta, and by how many threads.

    adds : whether the gradient is added to the one that is there.
    """

    wants: int
    scale: float
    threads: int
    adds: bool


# A job: the steps that were done, Places, the numbers of a plan, Data, Call, and Steps or Wanted, each number a word of
# 8 bytes.  A kernel reads them from there (`simd.unpacked`): as arguments they would take longer than a small step, and
# so any thread can take up a job at its address.
def _numbers(kind):
    letters = {int: "q", bool: "q", float: "d"}
    return struct.Struct("".join(letters[field] for field in kind.__annotations__.values() if field in letters))


_PACKED = {kind: _numbers(kind) for kind in (Pointers, Plan, Data, CallArgs, TrainArgs, EvalArgs)}


PER_CALL = TrainArgs._fields[:8]


N_PLAN_ARRAYS = 2  # the first fields of a Plan


DONE_AT, POINTERS_AT = 0, 1


PLAN_AT = POINTERS_AT + len(Pointers._fields)


DATA_AT = PLAN_AT + _PACKED[Plan].size // 8


CALL_ARGS_AT = DATA_AT + _PACKED[Data].size // 8


TASK_AT = CALL_ARGS_AT + len(CallArgs._fields)


JOB_SIZE = TASK_AT + max(_PACKED[TrainArgs].size, _PACKED[EvalArgs].size) // 8


_PACKED_CALL = struct.Struct("q" * (len(CallArgs._fields) + len(PER_CALL)))


def pack(job, at, values):
    """Write Places, Data, Call, Steps, Wanted, or the numbers of a Plan, into the bytes of a job, from word `at` on."""
    kind = type(values)
    _PACKED[kind].pack_into(job, 8 * at, *(values[N_PLAN_ARRAYS:] if kind is Plan else values))


def pack_call(job, *values):
    """Write those of a Call and of the PER_CALL of Steps, which lie side by side, into the bytes of a job."""
    _PACKED_CALL.pack_into(job, 8 * CALL_ARGS_AT, *values)


class ThreadContext(NamedTuple):
    """What one thread works with: pointers, its number, and what all blocks of a call share.

    parameters, work, gradient, factors, pack : pointers to the dtype.
    memory, numbers, rates, sums : pointers to float64.
    meeting : pointer to int64, where threads meet.
    has_private : whether its columns of the first layer are in `block.move_private`'s place.
    finish : how the register tile ends a gradient (`simd.tile`), STORE where the update comes after it.
    soon : where it stands which samples come next, for the gradient to ask the memory for (`dense.next_prefetch_lines`); 0 where
        they stay in the cache.
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
