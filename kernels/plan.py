"""A network as the kernels see it: arrays of sizes, offsets and codes, and the layout of one workspace."""

import struct
from typing import NamedTuple

import numpy as np

from . import elementwise, losses
from .dense import pack_size
from .jit import inner
from .losses import FUSED_SIGMOID, LOGIT_FORMS, NOT_FUSED
from .update import N_FACTORS

(N_IN, N_OUT, W_AT, ACTIVATION, Z_AT, A_AT, DELTA_AT, ROW, BY_COLUMNS, DROP_AT, THRESHOLD, ACTIVATE_AT, DERIVE_AT) = (
    range(13)
)  # columns of Plan.layers
(
    MULTIPLY,
    ACTIVATE,
    DERIVE,
    MEASURE,
    OUTPUT_GRADIENT,
    GATHER,
    ADVANCE,
    DROP,
    NOISE,
    UPDATE,
    PENALIZE,
    SQUARES,
    SCALE,
    LIMIT_COLUMNS,
) = range(14)  # places in Plan.leaves
N_LAYER_COLUMNS, N_LEAVES = DERIVE_AT + 1, LIMIT_COLUMNS + 1
N_EVALUATION_LEAVES, N_PLAIN_LEAVES = ADVANCE, DROP  # the first of them: of evaluation, of training with plain SGD
QUICK = 4  # the codes below it, identity to relu, are known to the engines of small.py
MIN_COLUMNS = 64  # of a layer for each thread: then threads split its columns, else the samples
MIN_OWN_COLUMNS = 12  # the same of the first layer in training, whose columns a thread has to itself
MOST_OWN_COLUMNS = 256  # up to so many a thread keeps its columns of the first W to itself (`block.take_own`)
MIN_SHARED_W = 1 << 19  # weights of a layer that threads split by columns even in evaluation: they fill the L2
COLUMN_BLOCK = 16  # borders between threads' columns are multiples of it: whole cache lines
MOST_LANES = 16  # of a vector of simd.py
MOST_LANE_PARAMETERS = 64  # networks up to this size may train with samples in lanes; above, tiles are as fast
RULES_OF_TILES = 2  # rules up to this code end in the register tile: SGD, with momentum, Nesterov's
MOST_SCRATCH = 1 << 16  # elements of a gradient that is updated with before the next part of it is computed
X_FLOAT32, X_FLOAT64, X_UINT8 = range(3)


class Plan(NamedTuple):
    """One network as the kernels see it.

    layers : int64 (n_layers, 13): n_in, n_out, offset of W in the parameters (b follows it), activation code, offsets
        of Z, A and delta in the workspace, the distance between their rows, whether threads split its columns; for
        dropout, the offset of what is left of A and the 32-bit number below which an element is dropped; and the
        addresses of the leaves for its activation and its derivative.
    leaves : int64, the addresses of the functions in LEAVES.
    n_parameters : how many there are.
    loss, fused : codes of the loss, and of its fusion with the output activation.
    rows : most samples in one block.
    x_at, x_row, x_size : where the block of gathered samples starts in the workspace, how far its rows are apart, and
        how far the copies of the threads are, each of which has its own where they split the columns of the first
        layer; else 0.
    y_at, losses_at, lse_at : where targets, sample losses and softmax normalisers start.
    pack_at, pack_size : where the threads' packed panels start, and how far they are apart.
    own_at, own_row, own_size, own_stride : where the threads' own columns of the first layer's W and b start, how far
        their rows are apart, how far behind them their optimizer states are, and the next thread's.
        own_row is 0 where threads use the parameters themselves.
    factors_at : where the threads' factors of an update start, N_FACTORS apart.
    scratch_at, scratch_size : where the threads' parts of a gradient start, and how far they are apart.
    lanes_at : where samples in lanes start, or -1 where the network is not for them.
    n_neurons : how many there are, inputs not counted.
    is_mixed : whether threads split the columns of any layer.
    size : elements in the workspace.
    number : what the loss takes besides outputs and targets, if anything, such as Huber's threshold.
    """

    layers: np.ndarray
    leaves: np.ndarray
    n_parameters: int
    loss: int
    fused: int
    rows: int
    x_at: int
    x_row: int
    x_size: int
    y_at: int
    losses_at: int
    lse_at: int
    pack_at: int
    pack_size: int
    own_at: int
    own_row: int
    own_size: int
    own_stride: int
    factors_at: int
    scratch_at: int
    scratch_size: int
    lanes_at: int
    n_neurons: int
    is_mixed: bool
    size: int
    number: float


@inner
def widest_share(n_out, threads):
    """Return the most columns of a layer that one of the threads has; see `block.part_of`."""
    n_blocks = -(-n_out // COLUMN_BLOCK)
    return -(-n_blocks // threads) * COLUMN_BLOCK


def row_distance(n):
    """Return how far rows of n elements and a column of ones are placed apart.

    Wide rows are aligned, and not a multiple of 512 bytes apart, which would put the rows of a tile into the same few
    cache sets.
    """
    if n < 64:
        return n + 1
    padded = -(-(n + 1) // 16) * 16
    return padded + 16 if padded % 128 == 0 else padded


def make_plan(sizes, activations, loss, rows, threads=1, n_states=None, dropout=(), number=0.0):
    """Make the plan of a network, without the addresses of the leaves but for a user's own (`block.load_leaves`).

    Parameters
    ----------
    sizes : sequence of int
    activations : sequence of str or (int, int)
        Names, or the addresses of the leaves of a user's own activation and its derivative.
    loss : str or (int, int)
        A name, or the addresses of the leaves of a user's own loss and its derivative.
    rows : int
        Most samples in one block.
    threads : int
        Threads that will work in the workspace.
    n_states : int or None
        Numbers that the optimizer keeps for each parameter; None for workspaces that are not trained in.
    dropout : sequence of float
        Share dropped of the outputs of each layer but the last; empty for none.
    number : float
        The loss's number.
    """
    used = 0

    def take(n):
        nonlocal used
        start, used = used, used + -(-n // 16) * 16  # each starts on a cache line
        return start

    x_row = row_distance(sizes[0])
    layers = np.empty((len(activations), N_LAYER_COLUMNS), np.int64)
    leaves = np.zeros(N_LEAVES, np.int64)
    w_at = 0
    if not isinstance(loss, str):
        leaves[[MEASURE, OUTPUT_GRADIENT]] = loss
        loss = "own"
    for l, (n_in, n_out, activation) in enumerate(zip(sizes[:-1], sizes[1:], activations, strict=True)):
        addresses = 0, 0
        if not isinstance(activation, str):
            activation, addresses = "own", activation
        is_output = l == len(activations) - 1
        least = MIN_OWN_COLUMNS if l == 0 and n_states is not None and not is_output else MIN_COLUMNS
        by_columns = (
            threads > 1
            and n_out >= least * threads
            and activation != "softmax"
            and (n_states is not None or n_in * n_out >= MIN_SHARED_W)
        )
        row = n_out if is_output and n_out < 64 else row_distance(n_out)  # outputs need no column of ones
        if by_columns:
            row = -(-row // 16) * 16  # no two threads write to one cache line
        a_at = take(rows * row)
        keeps_z = is_output or activation in elementwise.DERIVED_FROM_Z
        z_at = take(rows * row) if keeps_z else a_at
        threshold = 0 if is_output or not dropout else int(dropout[l] * 2**32)
        layers[l] = (
            n_in,
            n_out,
            w_at,
            elementwise.CODES[activation],
            z_at,
            a_at,
            take(rows * row),
            row,
            by_columns,
            take(rows * row) if threshold else a_at,
            threshold,
            *addresses,
        )
        w_at += (n_in + 1) * n_out
    fused = LOGIT_FORMS.get((activations[-1], loss), NOT_FUSED)
    n_neurons, lanes_at = sum(sizes[1:]), -1
    if (
        w_at <= MOST_LANE_PARAMETERS
        and (layers[:, ACTIVATION] < QUICK).all()
        and (fused == FUSED_SIGMOID or loss == "squared_error")
    ):
        lanes_at = take(MOST_LANES * (sizes[0] + sizes[-1] + 2 * n_neurons))
    x_size = -(-rows * x_row // 16) * 16 if layers[0, BY_COLUMNS] else 0
    x_at = take(x_size * threads or rows * x_row)
    widest = widest_share.py_func(sizes[1], threads)
    own_row = widest if x_size and widest <= MOST_OWN_COLUMNS else 0
    own_size = (sizes[0] + 1) * own_row
    size = -(-pack_size.py_func(max(sizes[1:])) // 16) * 16
    scratch_size = 0 if n_states is None else -(-min(w_at, MOST_SCRATCH + max(sizes[1:])) // 16) * 16
    own_stride = own_size * (1 + (n_states or 0))
    return Plan(
        layers,
        leaves,
        w_at,
        losses.CODES[loss],
        fused,
        rows,
        x_at,
        x_row,
        x_size,
        take(rows * row),
        take(rows),
        take(rows),
        take(threads * size),
        size,
        take(threads * own_stride),
        own_row,
        own_size,
        own_stride,
        take(threads * N_FACTORS),
        take(threads * scratch_size),
        scratch_size,
        lanes_at,
        n_neurons,
        bool(layers[:, BY_COLUMNS].any()),
        used,
        float(number),
    )


class Places(NamedTuple):
    """Memory addresses of what all calls with a workspace share; n_layers is the length of Plan.layers."""

    layers: int
    n_layers: int
    leaves: int
    workspace: int
    sync: int


class Call(NamedTuple):
    """Memory addresses of a call: of the kernel, for `gang.launch`, and of the arrays.

    bells, n_bells : addresses of the bells of the other threads, and how many these are.
    release : address of PyThread_release_lock.
    n_memory : numbers that each thread has of the memory.
    """

    kernel: int
    bells: int
    n_bells: int
    release: int
    parameters: int
    gradient: int
    words: int
    order: int
    losses: int
    memory: int
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


class Steps(NamedTuple):
    """What `train` is to do: which batches of how many samples, from which step on, and how to update.

    first_batch ... last_row : the SPAN, which differs from call to call (`pack_call`).
    first_row, last_row : rows of the one batch that a call does, whole blocks but for the last; the update comes with
        the last row of the batch, and until then `gradient` holds the sum so far.  last_row is 0 for whole batches.
    numbers, rates, sums : memory addresses, see `training.train_in_blocks`.
    n_states, to_first, to_second : the states of the rule are so many, and lie so many elements after the parameters.
    rate_scale : factor of the learning rate.
    is_fused : whether the register tile ends with the update; for rules up to RULES_OF_TILES without anything else.
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
    numbers: int
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


class Wanted(NamedTuple):
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


_PACKED = {kind: _numbers(kind) for kind in (Places, Plan, Data, Call, Steps, Wanted)}
SPAN = Steps._fields[:8]
N_PLAN_ARRAYS = 2  # the first fields of a Plan
DONE_AT, PLACES_AT = 0, 1
PLAN_AT = PLACES_AT + len(Places._fields)
DATA_AT = PLAN_AT + _PACKED[Plan].size // 8
CALL_AT = DATA_AT + _PACKED[Data].size // 8
TASK_AT = CALL_AT + len(Call._fields)
JOB_SIZE = TASK_AT + max(_PACKED[Steps].size, _PACKED[Wanted].size) // 8
_PACKED_CALL = struct.Struct("q" * (len(Call._fields) + len(SPAN)))
assert all(Steps.__annotations__[field] in (int, bool) for field in SPAN)


def pack(job, at, numbers):
    """Write Places, Data, Call, Steps, Wanted, or the numbers of a Plan, into the bytes of a job, from word `at` on."""
    kind = type(numbers)
    _PACKED[kind].pack_into(job, 8 * at, *(numbers[N_PLAN_ARRAYS:] if kind is Plan else numbers))


def pack_call(job, *numbers):
    """Write those of a Call and of the SPAN of Steps, which lie side by side, into the bytes of a job."""
    _PACKED_CALL.pack_into(job, 8 * CALL_AT, *numbers)


class Tools(NamedTuple):
    """What one thread works with: pointers, its number, and what all blocks of a call share.

    parameters, work, gradient, factors, pack : pointers to the dtype.
    memory, numbers, rates, sums : pointers to float64.
    meeting : pointer to int64, where threads meet.
    has_own : whether its columns of the first layer are in `block.take_own`'s place.
    finish : how the register tile ends a gradient (`simd.tile`), STORE where the update comes after it.
    soon : where it stands which samples come next, for the gradient to ask the memory for (`dense.next_lines`); 0 where
        they stay in the cache.
    """

    parameters: object
    work: object
    gradient: object
    factors: object
    pack: object
    memory: object
    numbers: object
    rates: object
    sums: object
    meeting: object
    thread: int
    threads: int
    has_own: bool
    finish: int
    key: int
    soon: int
