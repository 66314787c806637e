"""The engine: forward, output delta, backward and update over many steps and epochs in one native call.

A network is a `Plan` here; its one workspace is made once, and nothing is allocated per step.  Samples go through in
blocks of at most `Plan.rows`.

Threads run the same call side by side, each with its number.  They split the rows of a block for the forward and
the backward pass and the rows of W for the update, and never a sum, so results have the same bits for any number.
"""
import numpy as np

from . import elementwise
from .block import accumulate, backward, bring, forward, measure, meet, output_delta, propagate, share, take_own
from .jit import kernel, part
from .optimizers import sgd_block, sgd_momentum_block
from .plan import A_AT, DELTA_AT, N_IN, N_OUT, ROW, widest_share
from .simd import (
    FEW_LANES,
    MOMENTUM,
    NESTEROV,
    SGD,
    START_C,
    START_ZERO,
    STORE,
    as_float,
    distance,
    lanes,
    narrow,
    offset,
    peek,
    pointer,
    poke,
)
from .small import in_lanes, online

WANT_OUTPUT, WANT_LOSS, WANT_GRADIENT, WANT_INPUT_GRADIENT = 1, 2, 4, 8

# ------------------------------------------------------------------------------------------- the two kernels

@part
def shuffle_order(words, order, n):
    """Fisher and Yates' shuffle of 0 .. n - 1 (Durstenfeld 1964), from one random 32-bit word for each place."""
    for i in range(n):
        order[i] = i
    for i in range(n - 1, 0, -1):
        j = np.int64((np.uint64(words[i]) * np.uint64(i + 1)) >> np.uint64(32))
        order[i], order[j] = order[j], order[i]


@kernel
def shuffle(words, order):
    """Fisher and Yates' shuffle: `order` becomes a permutation of 0 .. n - 1.

    Parameters
    ----------
    words : uint32 (n,), uniformly random.
    order : int64 (n,), overwritten.  For i = n - 1 ... 1 it swaps places i and floor(words[i] * (i + 1) / 2**32).
    """
    shuffle_order(words, order, order.size)


@part
def in_blocks(plan, steps, data, order, first_batch, total_loss, p, n_parameters, work, gradient, finish, lr, momentum,
              to_velocity, pack, meeting, thread, has_own):
    """Train batches first_batch .. steps.last_batch - 1 in blocks of samples; return how many were trained.

    Their losses are added to the number at `total_loss`; the batch whose loss is not finite is not trained.
    """
    threads, nothing = steps.threads, as_float(0, p)
    total = peek(total_loss, 0)
    for batch in range(first_batch, steps.last_batch):
        start = batch * steps.batch_size
        n = min(steps.batch_size, data.n - start)
        scale = as_float(1, p) / as_float(n, p) if steps.is_mean else as_float(1, p)
        is_one_block = n <= plan.rows
        for block in range(0, n, plan.rows):
            rows = min(plan.rows, n - block)
            first, last = share(rows, thread, threads)
            bring(plan, data, work, order, start + block, False, rows, thread, threads)
            forward(plan, p, work, rows, pack, meeting, thread, threads, has_own)
            measure(plan, work, data.y_kind, first, last)
            output_delta(plan, work, data.y_kind, scale, first, last)
            backward(plan, p, work, rows, pack, meeting, thread, threads)
            meet(meeting, threads)
            for r in range(rows):
                total += np.float64(peek(work, plan.losses_at + r))
            if not np.isfinite(total):
                if thread == 0:
                    poke(total_loss, 0, total)
                return batch - first_batch
            if is_one_block:
                accumulate(plan, work, rows, p, START_ZERO, finish, lr, momentum, to_velocity, pack, thread, threads,
                           has_own)
            else:
                accumulate(plan, work, rows, gradient, START_ZERO if block == 0 else START_C, STORE, nothing, nothing,
                           0, pack, thread, threads, False)
            meet(meeting, threads)
        if not is_one_block:
            first, last = share(n_parameters, thread, threads)
            g = offset(gradient, first)
            if finish == SGD:
                sgd_block(g, lr, offset(p, first), last - first)
            else:
                sgd_momentum_block(g, lr, momentum, steps.nesterov, offset(p, first + to_velocity), offset(p, first),
                                   last - first)
            meet(meeting, threads)
    meet(meeting, threads)                         # nobody shuffles while another still reads the order
    if thread == 0:
        poke(total_loss, 0, total)
    return steps.last_batch - first_batch


@kernel
def train(plan, steps, data, parameters, velocity, gradient, workspace, words, order, losses, sync, thread):
    """Train whole epochs, or some batches of one; one thread's share of it.

    Parameters
    ----------
    plan : Plan
    steps : Steps
        Batches of one sample, and those of networks that train with samples in lanes, take steps.threads == 1.
    data : Data
    parameters : float (n_parameters,), updated in place.
    velocity : float (n_parameters,), updated in place; size 0 without momentum.
    gradient : float (n_parameters,), scratch where a batch is larger than a block; else size 0.
    workspace : float (plan.size,); x's column of ones is set by the caller.
    words : uint32 (n_epochs, n_samples): random words for shuffling; unused unless steps.shuffles.
    order : int64 (n_samples,), the order of the samples, in and out.
    losses : float64 (n_epochs,); the sum of the sample losses of each epoch is added.
    sync : int64 (16,), zeros, shared by the threads.
    thread : number of this thread, from 0.

    Returns
    -------
    int
        The steps done; fewer than asked for when the loss of the next one is not finite.
    """
    p, work, meeting = pointer(parameters, 0), pointer(workspace, 0), pointer(sync, 0)
    pack = offset(work, plan.pack_at + thread * plan.pack_size)
    lr, momentum = as_float(steps.lr, p), as_float(steps.momentum, p)
    threads = steps.threads
    finish, to_velocity = SGD, 0
    if velocity.size:
        finish = NESTEROV if steps.nesterov else MOMENTUM
        to_velocity = distance(p, pointer(velocity, 0))
    has_own = (threads > 1 and steps.batch_size <= plan.rows
               and widest_share(plan.layers[0, N_OUT], threads) <= plan.own_row)
    if has_own:
        take_own(plan, p, work, to_velocity, thread, threads, False)
    done = 0
    epoch = 0
    while epoch < steps.n_epochs:
        first_batch = steps.first_batch if epoch == 0 else 0
        if steps.shuffles and first_batch == 0:
            if thread == 0:
                shuffle_order(words[epoch], order, data.n)
            meet(meeting, threads)
        if plan.lanes_at >= 0 and steps.batch_size <= lanes(work):
            repeats = 1
            if not steps.shuffles and steps.last_batch == 1:
                repeats = steps.n_epochs - epoch
            total = pointer(losses, epoch)
            if steps.batch_size <= FEW_LANES:
                n_done = in_lanes(plan, steps, data, order, first_batch, repeats, total, p, work, narrow(work), finish,
                                  lr, momentum, to_velocity)
            else:
                n_done = in_lanes(plan, steps, data, order, first_batch, repeats, total, p, work, work, finish, lr,
                                  momentum, to_velocity)
            done += n_done
            if n_done < repeats * (steps.last_batch - first_batch):
                return done
            epoch += repeats
            continue
        if steps.batch_size == 1:
            n_done = online(plan, data, order, first_batch, steps.last_batch, pointer(losses, epoch), p, work, finish,
                            lr, momentum, to_velocity)
            done += n_done
            if n_done < steps.last_batch - first_batch:
                return done
            epoch += 1
            continue
        n_done = in_blocks(plan, steps, data, order, first_batch, pointer(losses, epoch), p, parameters.size, work,
                           pointer(gradient, 0), finish, lr, momentum, to_velocity, pack, meeting, thread, has_own)
        done += n_done
        if n_done < steps.last_batch - first_batch:
            break
        epoch += 1
    if has_own:
        take_own(plan, p, work, to_velocity, thread, threads, True)
    return done


@kernel
def evaluate(plan, wants, scale, data, parameters, workspace, out, losses, gradient, sync, thread, threads):
    """Compute what `wants` names: outputs, sample losses, gradients; one thread's share of it.

    Parameters
    ----------
    plan : Plan
    wants : int
        A sum of WANT_OUTPUT: `out` (n, n_out) receives the outputs.  WANT_LOSS: `losses` float64 (n,) of the samples.
        WANT_GRADIENT: `gradient` (n_parameters,) the gradient.  WANT_INPUT_GRADIENT: `out` (n, n_in) d loss / d X.
    scale : float
        Factor of the output delta: 1 / n for the mean over samples.
    data : Data
        Taken in order.  The targets may be an output gradient of the caller's own (Y_GRADIENT), used as it is.
    parameters, workspace, sync, thread : as in `train`.
    threads : int
    """
    p, work, meeting = pointer(parameters, 0), pointer(workspace, 0), pointer(sync, 0)
    pack = offset(work, plan.pack_at + thread * plan.pack_size)
    nothing = as_float(0, p)
    last_layer = plan.layers[plan.layers.shape[0] - 1]
    n_out, n_in, row = last_layer[N_OUT], plan.layers[0, N_IN], plan.layers[0, ROW]
    no_order = np.empty(0, np.int64)
    for start in range(0, data.n, plan.rows):
        rows = min(plan.rows, data.n - start)
        first, last = share(rows, thread, threads)
        bring(plan, data, work, no_order, start, True, rows, thread, threads)
        forward(plan, p, work, rows, pack, meeting, thread, threads, False)
        if wants & WANT_OUTPUT:
            for r in range(first, last):
                a = offset(work, last_layer[A_AT] + r * last_layer[ROW])
                elementwise.map_block(elementwise._identity, a, pointer(out, (start + r) * n_out), n_out)
        if wants & WANT_LOSS:
            measure(plan, work, data.y_kind, first, last)
            for r in range(first, last):
                losses[start + r] = peek(work, plan.losses_at + r)
        if wants & (WANT_GRADIENT | WANT_INPUT_GRADIENT):
            output_delta(plan, work, data.y_kind, as_float(scale, p), first, last)
            backward(plan, p, work, rows, pack, meeting, thread, threads)
            if plan.is_mixed:
                meet(meeting, threads)
            if wants & WANT_INPUT_GRADIENT:
                layer = plan.layers[0]
                propagate(plan, offset(work, layer[DELTA_AT] + first * row), row, p, n_in, layer[N_OUT],
                          0, n_in, pointer(out, (start + first) * n_in), n_in, last - first, pack)
            meet(meeting, threads)
            if wants & WANT_GRADIENT:
                accumulate(plan, work, rows, pointer(gradient, 0), START_ZERO if start == 0 else START_C, STORE,
                           nothing, nothing, 0, pack, thread, threads, False)
        meet(meeting, threads)                     # the next block's rows may be another thread's in this one
