"""A network as the kernels see it: arrays of sizes, offsets and codes, and the layout of one workspace."""

import numpy as np

from . import elementwise, losses
from .dense import pack_size
from .jit import inline
from .layout import (
    ACTIVATION,
    BY_COLUMNS,
    N_FUNCTIONS,
    N_LAYER_COLUMNS,
    OUTPUT_GRADIENT,
    PER_CALL,
    SAMPLE_LOSSES,
    Plan,
    TrainArgs,
)
from .losses import FUSED_SIGMOID, LOGIT_FORMS, NOT_FUSED
from .update import N_FACTORS

N_INLINE = 4  # the codes below it, identity to relu, are known to the engines of small.py
MIN_COLUMNS = 64  # of a layer for each thread: then threads split its columns, else the samples
MIN_PRIVATE_COLUMNS = 12  # the same of the first layer in training, whose columns a thread has to itself
MAX_PRIVATE_COLUMNS = 256  # up to so many a thread keeps its columns of the first W to itself (`block.move_private`)
MIN_SHARED_W = 1 << 19  # weights of a layer that threads split by columns even in evaluation: they fill the L2
COLUMN_BLOCK = 16  # borders between threads' columns are multiples of it: whole cache lines
MAX_LANES = 16  # of a vector of simd.py
MAX_LANE_PARAMETERS = 64  # networks up to this size may train with samples in lanes; above, tiles are as fast
LAST_FUSED_RULE = 2  # rules up to this code end in the register tile: SGD, with momentum, Nesterov's
MAX_SCRATCH = 1 << 16  # elements of a gradient that is updated with before the next part of it is computed


@inline
def max_slice(n_out, threads):
    """Return the most columns of a layer that one of the threads has; see `block.thread_slice`."""
    n_blocks = -(-n_out // COLUMN_BLOCK)
    return -(-n_blocks // threads) * COLUMN_BLOCK


def row_stride(n):
    """Return how far rows of n elements and a column of ones are placed apart.

    Wide rows are aligned, and not a multiple of 512 bytes apart, which would put the rows of a tile into the same few
    cache sets.
    """
    if n < 64:
        return n + 1
    padded = -(-(n + 1) // 16) * 16
    return padded + 16 if padded % 128 == 0 else padded


def make_plan(sizes, activations, loss, rows, threads=1, n_states=None, dropout=(), loss_parameter=0.0):
    """Make the plan of a network, without the addresses of the leaves but for a user's own (`block.load_functions`).

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

    x_row_stride = row_stride(sizes[0])
    layers = np.empty((len(activations), N_LAYER_COLUMNS), np.int64)
    functions = np.zeros(N_FUNCTIONS, np.int64)
    w_at = 0
    if not isinstance(loss, str):
        functions[[SAMPLE_LOSSES, OUTPUT_GRADIENT]] = loss
        loss = "own"
    for l, (n_in, n_out, activation) in enumerate(zip(sizes[:-1], sizes[1:], activations, strict=True)):
        addresses = 0, 0
        if not isinstance(activation, str):
            activation, addresses = "own", activation
        is_output = l == len(activations) - 1
        least = MIN_PRIVATE_COLUMNS if l == 0 and n_states is not None and not is_output else MIN_COLUMNS
        by_columns = (
            threads > 1
            and n_out >= least * threads
            and activation != "softmax"
            and (n_states is not None or n_in * n_out >= MIN_SHARED_W)
        )
        row = n_out if is_output and n_out < 64 else row_stride(n_out)  # outputs need no column of ones
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
        w_at <= MAX_LANE_PARAMETERS
        and (layers[:, ACTIVATION] < N_INLINE).all()
        and (fused == FUSED_SIGMOID or loss == "squared_error")
    ):
        lanes_at = take(MAX_LANES * (sizes[0] + sizes[-1] + 2 * n_neurons))
    x_size = -(-rows * x_row_stride // 16) * 16 if layers[0, BY_COLUMNS] else 0
    x_at = take(x_size * threads or rows * x_row_stride)
    widest = max_slice.py_func(sizes[1], threads)
    private_row_stride = widest if x_size and widest <= MAX_PRIVATE_COLUMNS else 0
    private_size = (sizes[0] + 1) * private_row_stride
    size = -(-pack_size.py_func(max(sizes[1:])) // 16) * 16
    scratch_size = 0 if n_states is None else -(-min(w_at, MAX_SCRATCH + max(sizes[1:])) // 16) * 16
    private_stride = private_size * (1 + (n_states or 0))
    return Plan(
        layers,
        functions,
        w_at,
        losses.CODES[loss],
        fused,
        rows,
        x_at,
        x_row_stride,
        x_size,
        take(rows * row),
        take(rows),
        take(rows),
        take(threads * size),
        size,
        take(threads * private_stride),
        private_row_stride,
        private_size,
        private_stride,
        take(threads * N_FACTORS),
        take(threads * scratch_size),
        scratch_size,
        lanes_at,
        n_neurons,
        bool(layers[:, BY_COLUMNS].any()),
        used,
        float(loss_parameter),
    )


assert all(TrainArgs.__annotations__[field] in (int, bool) for field in PER_CALL)
