"""The engine: forward, output delta, backward and update over many steps and epochs in one native call.

A network is a `Plan` here; its one workspace is made once, and nothing is allocated per step.  Samples go through in
blocks of at most `Plan.rows`.

Threads run the same call side by side, each with its number.  They split the rows of a block for the forward and
the backward pass and the rows of W for the update, and never a sum, so results have the same bits for any number.
"""

import numpy as np
from numba import carray

from . import elementwise
from .atomics import flush_subnormals, restore_mxcsr
from .backprop import (
    advance,
    apply_max_norm,
    apply_sample_weights,
    backward,
    block_inputs,
    forward,
    gather_block,
    init_prefetch,
    move_private,
    output_delta,
    plan_prefetch,
    propagate,
    sample_losses,
    update_by_slice,
    update_parameters,
    weight_gradients,
)
from .jit import inline, internal, kernel
from .lanes import in_few_lanes, in_many_lanes
from .layout import (
    A_AT,
    CALL_ARGS_AT,
    DATA_AT,
    DELTA_AT,
    DONE_AT,
    N_FUNCTIONS,
    N_IN,
    N_LAYER_COLUMNS,
    N_OUT,
    PLAN_AT,
    POINTERS_AT,
    ROW_STRIDE,
    TASK_AT,
    X_FLOAT32,
    X_FLOAT64,
    CallArgs,
    Data,
    EvalArgs,
    Plan,
    Pointers,
    ThreadContext,
    TrainArgs,
)
from .microkernel import INIT_C, INIT_ZERO, STORE
from .native import NativeFunction
from .online import online
from .plan import max_slice
from .simd import (
    FEW_LANES,
    as_float,
    by_dtype,
    distance,
    fma,
    hsum,
    is_single,
    lanes,
    load,
    masked_load,
    offset,
    peek,
    pointer_at,
    pointer_like,
    poke,
    unpacked,
)
from .threads import barrier, partition
from .update import N_FACTORS, RATE

SKIPPED = 12  # place in sync: steps left out because their loss was not finite
NOT_FINITE = 13  # place in sync: 1 where inputs may not be finite
WANT_OUTPUT, WANT_LOSS, WANT_GRADIENT, WANT_INPUT_GRADIENT = 1, 2, 4, 8

# ------------------------------------------------------------------------------------------------ the kernels


@internal
def shuffle_order(random_words, order, n):
    """Fisher and Yates' shuffle of 0 .. n - 1 (Durstenfeld 1964), from one random 32-bit word for each place."""
    for i in range(n):
        order[i] = i
    for i in range(n - 1, 0, -1):
        j = np.int64((np.uint64(random_words[i]) * np.uint64(i + 1)) >> np.uint64(32))
        order[i], order[j] = order[j], order[i]


@kernel
def shuffle(random_words, order):
    """Fisher and Yates' shuffle: `order` becomes a permutation of 0 .. n - 1.

    Parameters
    ----------
    words : uint32 (n,), uniformly random.
    order : int64 (n,), overwritten.  For i = n - 1 ... 1 it swaps places i and floor(words[i] * (i + 1) / 2**32).
    """
    shuffle_order(random_words, order, order.size)


@internal
def in_blocks(plan, steps, data, tools, order, first_batch, repeats, step, total_loss, lr, momentum, to_velocity):
    """Train batches first_batch .. steps.last_batch - 1 in blocks of samples, once; return how many were trained.

    Their losses are added to the number at `total_loss`; the batch whose loss is not finite is not trained.  Nor is one
    of which more rows follow in the next call (`plan.TrainArgs`).
    """
    p, work, thread, threads, sync = tools.parameters, tools.work, tools.thread, tools.threads, tools.sync
    nothing = as_float(0, p)
    total, n_done = peek(total_loss, 0), steps.last_batch - first_batch
    for batch in range(first_batch, steps.last_batch):
        now = step + batch - first_batch
        start = batch * steps.batch_size
        n = min(steps.batch_size, data.n - start)
        scale = as_float(1, p) / as_float(n, p) if steps.is_mean else as_float(1, p)
        updates_at_once = n <= plan.rows and steps.clip_norm == 0
        before, is_skipped = total, False
        first_row, last_row = 0, n
        if steps.last_row > 0:
            first_row, last_row = steps.first_row, min(n, steps.last_row)
        for block in range(first_row, last_row, plan.rows):
            rows = min(plan.rows, n - block)
            first, last = partition(rows, thread, threads)
            y_kind = gather_block(
                plan,
                data,
                tools,
                order,
                start + block,
                False,
                True,
                rows,
                steps.smoothing,
                steps.smoothed,
                steps.noise,
                now,
                block,
            )
            forward(plan, tools, block_inputs(plan, tools), plan.x_row_stride, rows, now, block)
            sample_losses(plan, work, y_kind, first, last)
            output_delta(plan, work, y_kind, scale, first, last)
            if data.weights != 0:
                apply_sample_weights(plan, data, tools, order, start + block, False, first, last)
            backward(plan, tools, rows, now, block)
            barrier(sync, threads)
            for r in range(rows):
                total += np.float64(peek(work, plan.losses_at + r))
            if not np.isfinite(total):
                if not steps.skips:
                    if thread == 0:
                        poke(total_loss, 0, total)
                    return batch - first_batch
                is_skipped = True
                break
            if tools.prefetch != 0:
                plan_prefetch(plan, data, tools, start + block + rows, min(steps.batch_size, plan.rows))
            if updates_at_once and steps.advances:
                advance(plan, steps, tools, now)
                lr = peek(tools.factors, RATE)
            if updates_at_once and tools.epilogue != STORE:
                weight_gradients(plan, tools, rows, p, INIT_ZERO, tools.epilogue, lr, momentum, to_velocity)
            elif updates_at_once:
                update_by_slice(plan, steps, tools, rows)
            else:
                weight_gradients(
                    plan, tools, rows, tools.gradient, INIT_ZERO if block == 0 else INIT_C, STORE, nothing, nothing, 0
                )
            barrier(sync, threads)
        if is_skipped:
            total = before
            if thread == 0:
                poke(sync, SKIPPED, peek(sync, SKIPPED) + 1)
            barrier(sync, threads)
            continue
        if last_row < n:
            n_done = 0
            break
        if not updates_at_once:
            if steps.advances:
                advance(plan, steps, tools, now)
            update_parameters(plan, steps, tools)
            barrier(sync, threads)
        if steps.max_norm > 0:
            apply_max_norm(plan, steps, tools)
            barrier(sync, threads)
    barrier(sync, threads)  # nobody shuffles while another still reads the order
    if thread == 0:
        poke(total_loss, 0, total)
    return n_done


def _train_with(engine, name, repeats_batches):
    """Return the kernel that trains with an engine: one of its own for each, since few programs need them all."""

    def train(job, parameters, thread):
        """Train whole epochs, or some batches of one; one thread's share of it.  Subnormal numbers are taken for zero.

        Parameters
        ----------
        job : pointer to int64
            Places, the numbers of Plan, Data, Call and Steps (`plan.pack`).  DONE_AT receives the steps done;
            fewer than asked for when the loss of the next one is not finite.  All engines but that of blocks take
            steps.threads == 1, and settings that `trainer_for` takes for plain.
        parameters : pointer (n_parameters,), updated in place, as are the states that lie at distances from them.
        thread : number of this thread, from 0.

        At the addresses of Call and Steps:

        gradient : (n_parameters,), scratch, wherever the update does not follow part by part; else size 0.
        workspace : (plan.size,); x's column of ones is set by the caller.
        words : uint32 (n_epochs, n_samples): random words for shuffling; unused unless steps.shuffles.
        order : int64 (n_samples,), the order of the samples, in and out.
        losses : float64 (n_epochs,); the sum of the sample losses of each epoch is added.
        memory : float64 (threads, n_memory): what the rule carries from step to step, the same for each thread.
        numbers, rates : float64, settings of the rule and of the learning rate.
        sums : float64, one for each SQUARES_CHUNK elements of the gradient where its norm is limited.
        sync : int64 (block.sync_size(threads),), zeros, shared by the threads; sync[SKIPPED] counts the steps left out.
        """
        call_args, places, plan, data = read(job)
        steps = unpacked(offset(job, TASK_AT), TrainArgs, ())
        control = flush_subnormals()
        p, work, sync = parameters, pointer_like(places.workspace, parameters), pointer_like(places.sync, job)
        gradient, hyperparameters = pointer_like(call_args.gradient, p), pointer_at(steps.hyperparameters, np.float64)
        random_words = carray(pointer_at(call_args.random_words, np.uint32), (steps.n_epochs, data.n))
        order, losses = carray(pointer_like(call_args.order, job), (data.n,)), pointer_at(call_args.losses, np.float64)
        threads = steps.threads
        epilogue = steps.rule + 1 if steps.is_fused else STORE
        has_private = (
            threads > 1
            and steps.batch_size <= plan.rows
            and steps.clip_norm == 0
            and steps.max_norm == 0
            and max_slice(plan.layers[0, N_OUT], threads) <= plan.private_row_stride
        )
        tools = ThreadContext(
            p,
            work,
            gradient,
            offset(work, plan.factors_at + thread * N_FACTORS),
            offset(work, plan.pack_at + thread * plan.pack_size),
            pointer_at(call_args.running_products + thread * 8 * call_args.n_memory, np.float64),
            hyperparameters,
            pointer_at(steps.rates, np.float64),
            pointer_at(steps.sums, np.float64),
            sync,
            thread,
            threads,
            has_private,
            epilogue,
            steps.key,
            init_prefetch(plan, steps, data, call_args.order, places.sync, thread),
        )
        momentum = as_float(peek(hyperparameters, 0) if steps.is_fused and steps.rule != 0 else 0.0, p)
        to_velocity = steps.to_first if steps.is_fused else distance(p, gradient)
        if has_private:
            move_private(plan, steps, tools, False)
        if not steps.advances:
            advance(plan, steps, tools, steps.step)
        lr = peek(tools.factors, RATE)
        done = 0
        epoch = 0
        while epoch < steps.n_epochs:
            first_batch, repeats = steps.first_batch if epoch == 0 else 0, 1
            now, total = steps.step + done, offset(losses, epoch)
            if steps.shuffles and first_batch == 0 and steps.first_row == 0:
                if thread == 0:
                    shuffle_order(random_words[epoch], order, data.n)
                barrier(sync, threads)
            if repeats_batches and not steps.shuffles and steps.last_batch == 1:
                repeats = steps.n_epochs - epoch
            n_done = engine(
                plan, steps, data, tools, order, first_batch, repeats, now, total, lr, momentum, to_velocity
            )
            done += n_done
            if n_done < repeats * (steps.last_batch - first_batch):
                break
            epoch += repeats
        if has_private:
            move_private(plan, steps, tools, True)
        restore_mxcsr(control)
        if thread == 0:
            poke(job, DONE_AT, done)

    train.__name__ = train.__qualname__ = name
    return NativeFunction(internal(train), "opi")


@inline
def read(job):
    """Return Call, Places, Plan and Data of a job."""
    call_args, places = (
        unpacked(offset(job, CALL_ARGS_AT), CallArgs, ()),
        unpacked(offset(job, POINTERS_AT), Pointers, ()),
    )
    layers = carray(pointer_like(places.layers, job), (places.n_layers, N_LAYER_COLUMNS))
    functions = carray(pointer_like(places.functions, job), (N_FUNCTIONS,))
    plan = unpacked(offset(job, PLAN_AT), Plan, (layers, functions))
    return call_args, places, plan, unpacked(offset(job, DATA_AT), Data, ())


train_in_blocks = _train_with(in_blocks, "train_in_blocks", False)
train_online = _train_with(online, "train_online", False)
train_in_few_lanes = _train_with(in_few_lanes, "train_in_few_lanes", True)
train_in_many_lanes = _train_with(in_many_lanes, "train_in_many_lanes", True)


def trainer_for(plan, batch_size, lanes, is_plain):
    """Return the kernel for batches of this size; `is_plain` is without weights, noise, smoothing, dropout and limits.

    Parameters
    ----------
    plan : Plan
    batch_size : int
    lanes : int
        Of a vector of the dtype.
    is_plain : bool
        The engines for small steps know nothing of sample weights, input noise, label smoothing, dropout, the limit of
        norms, and steps left out.
    """
    if is_plain and plan.lanes_at >= 0 and batch_size <= lanes:
        return train_in_few_lanes if batch_size <= FEW_LANES else train_in_many_lanes
    return train_online if is_plain and batch_size == 1 else train_in_blocks


@internal
def is_finite(x, row, rows, columns):
    """Whether the sum of the squares of a block is finite; then all of it is."""
    width = lanes(x)
    total = other = masked_load(x, 0, 0)
    for r in range(rows):
        j = r * row
        end = j + columns
        while j + 2 * width <= end:
            v, w = load(x, j), load(x, j + width)
            total, other = fma(v, v, total), fma(w, w, other)
            j += 2 * width
        while j < end:
            v = masked_load(x, j, min(width, end - j))
            total = fma(v, v, total)
            j += width
    return np.isfinite(hsum(total + other))


@internal
def evaluate(job, parameters, thread):
    """Compute what is wanted: outputs, sample losses, gradients; one thread's share of it.

    Subnormal numbers are taken for zero.

    Parameters
    ----------
    job : pointer to int64
        Places, the numbers of Plan, Data, Call, of which are used: gradient, losses, out, and Wanted (`plan.pack`).
        Wanted.wants is a sum of WANT_OUTPUT: `out` (n, n_out) receives the outputs, and sync[NOT_FINITE] becomes 1
        where X may not be finite (its squares have no finite sum).  WANT_LOSS: `losses` float64 (n,)
        of the samples.  WANT_GRADIENT: `gradient` (n_parameters,) the gradient, added to what is there if Wanted.adds.
        WANT_INPUT_GRADIENT: `out` (n, n_in) d loss / d X.  Wanted.scale is 1 / n for the mean over samples.
        Data are taken in order.  The targets may be an output gradient of the caller's own (Y_GRADIENT), used as it is.
    parameters : pointer (n_parameters,)
    thread : number of this thread, from 0.
    """
    call_args, places, plan, data = read(job)
    wanted = unpacked(offset(job, TASK_AT), EvalArgs, ())
    control = flush_subnormals()
    wants, scale, threads = wanted.wants, wanted.scale, wanted.threads
    p, work, sync = parameters, pointer_like(places.workspace, parameters), pointer_like(places.sync, job)
    out, losses = pointer_like(call_args.out, p), pointer_at(call_args.losses, np.float64)
    tools = ThreadContext(
        p,
        work,
        pointer_like(call_args.gradient, p),
        work,
        offset(work, plan.pack_at + thread * plan.pack_size),
        losses,
        losses,
        losses,
        losses,
        sync,
        thread,
        threads,
        False,
        STORE,
        0,
        0,
    )
    nothing = as_float(0, p)
    last_layer = plan.layers[plan.layers.shape[0] - 1]
    n_out, n_in, row = last_layer[N_OUT], plan.layers[0, N_IN], plan.layers[0, ROW_STRIDE]
    no_order = carray(job, (0,))
    # samples of the right dtype need not be gathered, unless their rows lie so that those of a tile share cache sets
    size = by_dtype(work, 4, 8)
    reads_in_place = (
        not wants & (WANT_GRADIENT | WANT_INPUT_GRADIENT)
        and data.x_scale == 1
        and (n_in * size % 512 != 0 and data.x_kind == (X_FLOAT32 if is_single(work) else X_FLOAT64))
    )
    for start in range(0, data.n, plan.rows):
        rows = min(plan.rows, data.n - start)
        first, last = partition(rows, thread, threads)
        x, x_row_stride = block_inputs(plan, tools), plan.x_row_stride
        if reads_in_place:
            x, x_row_stride = pointer_like(data.x_address + start * n_in * size, work), n_in
        if not reads_in_place or wants & WANT_LOSS:
            gather_block(plan, data, tools, no_order, start, True, not reads_in_place, rows, 0.0, 0.0, 0.0, 0, 0)
        if wants & WANT_OUTPUT and not is_finite(offset(x, first * x_row_stride), x_row_stride, last - first, n_in):
            poke(sync, NOT_FINITE, 1)
        forward(plan, tools, x, x_row_stride, rows, 0, 0)
        if wants & WANT_OUTPUT:
            for r in range(first, last):
                a = offset(work, last_layer[A_AT] + r * last_layer[ROW_STRIDE])
                elementwise.map_block(elementwise._identity, a, offset(out, (start + r) * n_out), n_out)
        if wants & WANT_LOSS:
            sample_losses(plan, work, data.y_kind, first, last)
        if wants & (WANT_GRADIENT | WANT_INPUT_GRADIENT):
            output_delta(plan, work, data.y_kind, as_float(scale, p), first, last)
            if data.weights != 0:
                apply_sample_weights(plan, data, tools, no_order, start, True, first, last)
            backward(plan, tools, rows, 0, 0)
            if plan.is_mixed:
                barrier(sync, threads)
            if wants & WANT_INPUT_GRADIENT:
                layer = plan.layers[0]
                propagate(
                    plan,
                    offset(work, layer[DELTA_AT] + first * row),
                    row,
                    p,
                    n_in,
                    layer[N_OUT],
                    0,
                    n_in,
                    offset(out, (start + first) * n_in),
                    n_in,
                    last - first,
                    tools.pack,
                )
            barrier(sync, threads)
            if wants & WANT_GRADIENT:
                is_first = start == 0 and not wanted.adds
                weight_gradients(
                    plan, tools, rows, tools.gradient, INIT_ZERO if is_first else INIT_C, STORE, nothing, nothing, 0
                )
        if wants & WANT_LOSS:
            for r in range(first, last):
                poke(losses, start + r, peek(work, plan.losses_at + r))
        barrier(sync, threads)  # the next block's rows may be another thread's in this one
    restore_mxcsr(control)


evaluate = NativeFunction(evaluate, "opi")
