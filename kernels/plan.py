"""The plan of a network: sizes, offsets and codes for the kernels, and the layout of one workspace."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .layout import (
    BY_COLUMNS,
    FEW_LANES,
    LINE_BYTES,
    MAX_LANES,
    MAX_NETWORKS,
    N_FACTORS,
    N_FUNCTIONS,
    N_LAYER_COLUMNS,
    N_VECTORS,
    ROW_STRIDE,
    Plan,
    pack_size,
)
from .tables import ACTIVATIONS, CUSTOM, INLINE_ACTIVATIONS, LOGIT_FORMS, NOT_INLINE, code_of, inline_code

MIN_COLUMNS = 64  # of a layer for each thread: then threads split its columns, else the samples
MIN_PRIVATE_COLUMNS = 12  # the same of the first layer in training, whose columns a thread has to itself
MAX_PRIVATE_COLUMNS = 256  # up to so many a thread works on private columns of the first W (`backprop.load_private`)
MIN_SHARED_W = 1 << 19  # weights of a layer that threads split by columns even in evaluation: they fill the L2
COLUMN_BLOCK = LINE_BYTES // 4  # borders between threads' columns are multiples of it: whole cache lines
MAX_LANE_PARAMETERS = 64  # networks up to this size may train with samples in lanes; above, tiles are as fast
INTERLEAVED_ROWS = 64  # most samples of one block of networks whose parameters are interleaved
GROUP_BYTES = 48 << 10  # of what interleaved networks read and write for a batch: about what an L1 cache holds
MIN_GROUPS = 8  # of interleaved networks, so that several threads have enough of them
INTERLEAVED_SLICE = 4096  # elements of a slice of their gradient, of all networks of a register
MAX_SCRATCH = 1 << 16  # elements of a gradient that is updated with before the next slice of it is computed


def max_slice(n_out, threads):
    """Return the most columns of a layer that one of the threads has; see `backprop.thread_slice`."""
    n_blocks = -(-n_out // COLUMN_BLOCK)
    return -(-n_blocks // threads) * COLUMN_BLOCK


def row_stride(n):
    """Return the distance between rows of n elements and a column of ones.

    Wide rows are aligned, and not a multiple of 512 bytes apart, which would put the rows of a tile into the same few
    cache sets.
    """
    if n < 64:
        return n + 1
    padded = _padded(n + 1)
    return padded + 16 if padded % 128 == 0 else padded


def _padded(n):
    """Return n rounded up to whole cache lines."""
    return -(-n // COLUMN_BLOCK) * COLUMN_BLOCK


class _Allocator:
    """Hands out the elements of a workspace, each array on a cache line."""

    def __init__(self):
        self.size = 0

    def take(self, n):
        """Return where n elements start."""
        start, self.size = self.size, self.size + _padded(n)
        return start


def make_plan(sizes, activations, loss, rows, threads=1, n_states=None, dropout=(), loss_parameter=0.0):
    """Make the plan of a network, without the addresses of its native functions.

    Parameters
    ----------
    sizes : sequence of int
    activations : sequence of str
        One for each layer after the input; any name that is not in the table is a custom one.
    loss : str
        Likewise.
    rows : int
        Most samples in one block.
    threads : int
        Most threads that will work in the workspace.
    n_states : int or None
        Numbers that the optimizer keeps for each parameter; None for workspaces that are not trained in.
    dropout : sequence of float
        Fraction dropped of the outputs of each layer but the last; empty for none.
    loss_parameter : float
    """
    memory = _Allocator()
    layers = _layers(memory, sizes, activations, rows, threads, n_states is not None, dropout)
    n_parameters = sum((n_in + 1) * n_out for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True))
    inline_loss, n_neurons = inline_code(loss, activations[-1]), sum(sizes[1:])
    lanes_at = -1
    if n_parameters <= MAX_LANE_PARAMETERS and set(activations) <= {*INLINE_ACTIVATIONS} and inline_loss != NOT_INLINE:
        lanes_at = memory.take(MAX_LANES * (sizes[0] + sizes[-1] + 2 * n_neurons))
    x_row_stride = row_stride(sizes[0])
    x_size = _padded(rows * x_row_stride) if layers[0, BY_COLUMNS] else 0
    widest = max_slice(sizes[1], threads)
    private_row_stride = widest if x_size and widest <= MAX_PRIVATE_COLUMNS else 0
    private_size = (sizes[0] + 1) * private_row_stride
    private_stride = private_size * (1 + (n_states or 0))
    panels = _padded(pack_size(max(sizes[1:])))
    scratch_size = 0 if n_states is None else _padded(min(n_parameters, MAX_SCRATCH + max(sizes[1:])))
    places = {
        "x_at": memory.take(x_size * threads or rows * x_row_stride),
        "y_at": memory.take(rows * int(layers[-1, ROW_STRIDE])),
        "losses_at": memory.take(rows),
        "lse_at": memory.take(rows),
        "pack_at": memory.take(threads * panels),
        "private_at": memory.take(threads * private_stride),
        "factors_at": memory.take(threads * N_FACTORS),
        "scratch_at": memory.take(threads * scratch_size),
    }
    return Plan(
        layers=layers,
        functions=np.zeros(N_FUNCTIONS, np.int64),
        n_parameters=n_parameters,
        inline_loss=inline_loss,
        has_logit_form=(activations[-1], loss) in LOGIT_FORMS,
        rows=rows,
        x_row_stride=x_row_stride,
        x_size=x_size,
        pack_size=panels,
        private_row_stride=private_row_stride,
        private_size=private_size,
        private_stride=private_stride,
        scratch_size=scratch_size,
        lanes_at=lanes_at,
        n_neurons=n_neurons,
        is_mixed=bool(layers[:, BY_COLUMNS].any()),
        size=memory.size,
        loss_parameter=float(loss_parameter),
        **places,
    )


class InterleavedPlan(NamedTuple):
    """Where the arrays of `population` lie in the workspace of a thread, in elements of the dtype.

    layers : int64 (n_layers, N_LAYER_COLUMNS), as in `Plan`, without addresses; rows are not padded.
    size : elements of a workspace.
    places : fields of `PopulationArgs`, by name.
    """

    layers: np.ndarray
    size: int
    places: dict


def registers_of_group(sizes, batch_size, n_states, lanes, itemsize, n_networks):
    """Return how many registers of networks are interleaved: as many as stay in the L1 cache, so that calls do more.

    Parameters
    ----------
    sizes, batch_size, n_states : as in `interleaved_plan`
    lanes, itemsize : int
        Of a register, and bytes of a number.
    n_networks : int
        Of which groups are made, enough for the threads.
    """
    n_parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))
    of_samples = min(batch_size, INTERLEAVED_ROWS) * (2 * sum(sizes[1:]) + sizes[-1])
    nbytes = itemsize * lanes * ((2 + n_states) * n_parameters + of_samples)
    most = min(MAX_NETWORKS // lanes, n_networks // (MIN_GROUPS * lanes), GROUP_BYTES // nbytes)
    return 1 << max(most, 1).bit_length() - 1


def interleaved_plan(sizes, activations, batch_size, n_states, width, has_dropout):
    """Make the plan of networks whose parameters are interleaved.

    Parameters
    ----------
    sizes, activations : as in `make_plan`
    batch_size : int
    n_states : int
        Numbers that the optimizer keeps for each parameter.
    width : int
        Networks that are interleaved.
    has_dropout : bool
    """
    memory, rows, period = _Allocator(), min(batch_size, INTERLEAVED_ROWS), max(width, MAX_LANES)
    vectors_at = memory.take(N_VECTORS * period)
    layers, w_at = np.zeros((len(activations), N_LAYER_COLUMNS), np.int64), 0
    for l, (n_in, n_out, activation) in enumerate(zip(sizes[:-1], sizes[1:], activations, strict=True)):
        is_output, n = l == len(activations) - 1, rows * n_out * width
        a_at = memory.take(n)
        z_at = memory.take(n) if is_output or ACTIVATIONS[activation].needs_z else a_at
        delta_at = memory.take(n)
        drop_at = memory.take(2 * n) if has_dropout and not is_output else a_at
        row = n_in, n_out, w_at, code_of(activation), z_at, a_at, delta_at, 0, False, drop_at
        layers[l, : len(row)] = row
        w_at += (n_in + 1) * n_out
    widest = max(sizes)
    slice_size = max(INTERLEAVED_SLICE // width, 1) if batch_size <= rows else 0
    gradient_size = min(w_at, slice_size + 2 * widest) if slice_size else w_at
    parts_size = MAX_LANES * width + rows * sizes[-1] * width
    places = {
        "rows": rows,
        "slice_size": slice_size,
        "vectors_at": vectors_at,
        "parameters_at": memory.take(w_at * width),
        "first_at": memory.take(w_at * width if n_states > 0 else 0),
        "second_at": memory.take(w_at * width if n_states > 1 else 0),
        "gradient_at": memory.take(gradient_size * width),
        "x_at": memory.take(rows * sizes[0] * width),
        "y_at": memory.take(rows * sizes[-1] * width),
        "weights_at": memory.take(rows * width),
        "losses_at": memory.take(rows * width),
        "lse_at": memory.take(rows * width),
        "factors_at": memory.take(N_FACTORS * period),
        "scratch_at": memory.take(max(rows * (sizes[0] + sizes[-1]), rows * widest, parts_size)),
    }
    return InterleavedPlan(layers, memory.size, places)


def _output_stride(n_out):
    """Return the distance between rows of outputs, which need no column of ones."""
    return n_out if n_out < 64 else row_stride(n_out)


def _layers(memory, sizes, activations, rows, threads, is_trained, dropout):
    """Return the rows of Plan.layers, without addresses, and take the memory of Z, A and delta."""
    layers, w_at = np.zeros((len(activations), N_LAYER_COLUMNS), np.int64), 0
    for l, (n_in, n_out, activation) in enumerate(zip(sizes[:-1], sizes[1:], activations, strict=True)):
        is_output = l == len(activations) - 1
        splits_columns = _splits_columns(n_in, n_out, activation, threads, is_trained, l == 0 and not is_output)
        stride = _output_stride(n_out) if is_output else row_stride(n_out)
        if splits_columns:
            stride = _padded(stride)  # no two threads write to one cache line
        a_at = memory.take(rows * stride)
        keeps_z = is_output or ACTIVATIONS.get(activation, CUSTOM).needs_z
        z_at = memory.take(rows * stride) if keeps_z else a_at
        threshold = 0 if is_output or not dropout else int(dropout[l] * 2**32)
        delta_at = memory.take(rows * stride)
        drop_at = memory.take(rows * stride) if threshold else a_at
        row = n_in, n_out, w_at, code_of(activation), z_at, a_at, delta_at, stride, splits_columns, drop_at, threshold
        layers[l, : len(row)] = row
        w_at += (n_in + 1) * n_out
    return layers


def _splits_columns(n_in, n_out, activation, threads, is_trained, is_first):
    """Whether threads split the columns of a layer, instead of the samples."""
    least = MIN_PRIVATE_COLUMNS if is_first and is_trained else MIN_COLUMNS
    return (
        threads > 1
        and n_out >= least * threads
        and activation != "softmax"
        and (is_trained or n_in * n_out >= MIN_SHARED_W)
    )


def trainer_for(plan, batch_size, lanes, suits_online, suits_lanes):
    """Return the name of the kernel for batches of this size.

    Parameters
    ----------
    plan : Plan
    batch_size : int
    lanes : int
        Of a vector of the dtype.
    suits_online, suits_lanes : bool
        Whether the kernel for one sample, and those for samples in lanes, know all that this training does.
    """
    if suits_lanes and plan.lanes_at >= 0 and batch_size <= lanes:
        return "training.train_in_few_lanes" if batch_size <= FEW_LANES else "training.train_in_many_lanes"
    return "training.train_online" if suits_online and batch_size == 1 else "training.train_in_blocks"
