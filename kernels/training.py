"""The training kernels: forward, output delta, backward and update over many steps and epochs in one native call.

A network is a `Plan` here; its workspace is made once, and nothing is allocated per step.  Samples pass in blocks of at
most `Plan.rows`.

Threads run the same call side by side, each with its number.  They split the rows of a block, or the columns of wide
layers, and the rows of W for the update, and never a sum, so results have the same bits for any number of threads.
"""

import numpy as np
from numba import carray

from .atomics import flush_subnormals, restore_mxcsr
from .backprop import (
    apply_sample_weights,
    backward,
    block_inputs,
    forward,
    gather_block,
    init_prefetch,
    limit_losses,
    load_private,
    output_delta,
    plan_prefetch,
    propagate,
    sample_losses,
    squared_weights,
    store_private,
    total_weight,
    update_by_slice,
    weight_gradients,
)
from .elementwise import _identity, map_array
from .jit import inline, internal, kernel
from .lanes import in_few_lanes, in_many_lanes
from .layout import (
    A_AT,
    AFTER_GRADIENT,
    BY_SLICE,
    CALL_ARGS_AT,
    DATA_AT,
    DELTA_AT,
    DONE_AT,
    IN_EPILOGUE,
    N_FACTORS,
    N_FUNCTIONS,
    N_IN,
    N_LAYER_COLUMNS,
    N_OUT,
    NOT_FINITE,
    PLAN_AT,
    POINTERS_AT,
    RATE,
    ROW_STRIDE,
    SGD,
    SKIPPED,
    STORE,
    TASK_AT,
    WANT_GRADIENT,
    WANT_INPUT_GRADIENT,
    WANT_LOSS,
    WANT_OUTPUT,
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
from .microkernel import INIT_C, INIT_ZERO
from .native import native
from .online import online
from .simd import (
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
from .updates import apply_max_norm, step_factors, update_parameters

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
def in_blocks(plan, args, data, context, order, first_batch, repeats, step, total_loss, lr, momentum, to_velocity):
    """Train batches first_batch .. steps.last_batch - 1 in blocks of samples, once; return how many were trained.

    Their losses are added to the number at `total_loss`; the batch whose loss is not finite is not trained.  Nor is one
    of which more rows follow in the next call (`layout.TrainArgs`).
    """
    p, work, thread, threads, sync = context.parameters, context.work, context.thread, context.threads, context.sync
    nothing = as_float(0, p)
    total, n_done = peek(total_loss, 0), args.last_batch - first_batch
    for batch in range(first_batch, args.last_batch):
        now = step + batch - first_batch
        start = batch * args.batch_size
        n = min(args.batch_size, data.n - start)
        scale = as_float(1, p) / as_float(n, p) if args.is_mean else as_float(1, p)
        l2, loss_scale, penalty = args.l2, 1.0, 0.0
        if args.weighted_mean:
            weight = total_weight(data, p, order, start, n)
            per_weight = 1.0 / weight if weight != 0 else 0.0
            scale, l2, loss_scale = as_float(per_weight, p), args.l2 * per_weight, n * per_weight
            if l2 != 0 and args.first_row == 0:
                penalty = 0.5 * args.l2 * squared_weights(plan, p)
            total += penalty * loss_scale
            loss_scale *= args.loss_scale
        before, is_skipped = total, False
        first_row, last_row = 0, n
        if args.last_row > 0:
            first_row, last_row = args.first_row, min(n, args.last_row)
        for block in range(first_row, last_row, plan.rows):
            rows = min(plan.rows, n - block)
            first, last = partition(rows, thread, threads)
            y_kind = gather_block(
                plan,
                data,
                context,
                order,
                start + block,
                False,
                True,
                rows,
                args.label_smoothing,
                args.smoothing_share,
                args.input_noise,
                now,
                block,
            )
            forward(plan, context, block_inputs(plan, context), plan.x_row_stride, rows, now, block)
            sample_losses(plan, work, y_kind, first, last)
            if args.weighted_mean:
                limit_losses(plan, work, args.max_loss, first, last)
            output_delta(plan, work, y_kind, scale, first, last)
            if data.weights != 0:
                apply_sample_weights(plan, data, context, order, start + block, False, first, last)
            backward(plan, context, rows, now, block)
            barrier(sync, threads)
            for r in range(rows):
                total += np.float64(peek(work, plan.losses_at + r)) * loss_scale
            if not np.isfinite(total):
                if not args.skips:
                    if thread == 0:
                        poke(total_loss, 0, total)
                    return batch - first_batch
                is_skipped = True
                break
            if context.prefetch != 0:
                plan_prefetch(plan, data, context, start + block + rows, min(args.batch_size, plan.rows))
            if args.update_path != AFTER_GRADIENT and args.advances:
                step_factors(plan, args, context, now)
                lr = peek(context.factors, RATE)
            if args.update_path == IN_EPILOGUE:
                weight_gradients(plan, context, rows, p, INIT_ZERO, context.epilogue, lr, momentum, to_velocity)
            elif args.update_path == BY_SLICE:
                update_by_slice(plan, args, context, rows, l2)
            else:
                weight_gradients(
                    plan,
                    context,
                    rows,
                    context.gradient,
                    INIT_ZERO if block == 0 else INIT_C,
                    STORE,
                    nothing,
                    nothing,
                    0,
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
        if args.update_path == AFTER_GRADIENT:
            if args.advances:
                step_factors(plan, args, context, now)
            update_parameters(plan, args, context, l2)
            barrier(sync, threads)
        if args.max_norm > 0:
            apply_max_norm(plan, args, context)
            barrier(sync, threads)
    barrier(sync, threads)  # nobody shuffles while another still reads the order
    if thread == 0:
        poke(total_loss, 0, total)
    return n_done


def _train_with(train_batches, name, repeats_batches):
    """Return the kernel that trains by a function for some batches; separate kernels, since few programs need all."""

    def train(job, parameters, thread):
        """Train whole epochs, or some batches of one; one thread's part of it.  Subnormal numbers are taken for zero.

        Parameters
        ----------
        job : pointer to int64
            Pointers, the numbers of Plan, Data, CallArgs and TrainArgs (`layout.pack`).  DONE_AT receives the steps
            done; fewer than asked for when the loss of the next one is not finite.  All kernels but that of blocks
            take args.threads == 1, and those of samples in lanes few settings (`trainer_for`).
        parameters : pointer (n_parameters,), updated in place, as are the states that lie at distances from them.
        thread : number of this thread, from 0.

        At the addresses of CallArgs and TrainArgs:

        gradient : (n_parameters,), overwritten, for AFTER_GRADIENT; else size 0.
        workspace : (plan.size,); x's column of ones is set by the caller.
        random_words : uint32 (n_epochs, n_samples), for shuffling; unused unless args.shuffles.
        order : int64 (n_samples,), the order of the samples, in and out.
        losses : float64 (n_epochs,); the sum of the sample losses of each epoch is added.
        running_products : float64 (threads, n_running_products) of the rule, the same for each thread.
        hyperparameters, rates : float64, settings of the rule and of the learning rate.
        sums : float64, one for each SQUARES_CHUNK elements of the gradient where its norm is limited.
        sync : int64 (backprop.sync_size(threads),), zeros, shared by the threads; sync[SKIPPED] counts the steps
            left out.
        """
        call_args, pointers, plan, data = read(job)
        args = unpacked(offset(job, TASK_AT), TrainArgs, ())
        control = flush_subnormals()
        p, work, sync = parameters, pointer_like(pointers.workspace, parameters), pointer_like(pointers.sync, job)
        gradient, hyperparameters = pointer_like(call_args.gradient, p), pointer_at(args.hyperparameters, np.float64)
        random_words = carray(pointer_at(call_args.random_words, np.uint32), (args.n_epochs, data.n))
        order, losses = carray(pointer_like(call_args.order, job), (data.n,)), pointer_at(call_args.losses, np.float64)
        threads = args.threads
        context = ThreadContext(
            p,
            work,
            gradient,
            offset(work, plan.factors_at + thread * N_FACTORS),
            offset(work, plan.pack_at + thread * plan.pack_size),
            pointer_at(call_args.running_products + thread * 8 * call_args.n_running_products, np.float64),
            hyperparameters,
            pointer_at(args.rates, np.float64),
            pointer_at(args.sums, np.float64),
            sync,
            thread,
            threads,
            args.has_private,
            args.epilogue,
            args.key,
            init_prefetch(plan, args, data, call_args.order, pointers.sync, thread),
        )
        momentum = as_float(peek(hyperparameters, 0) if args.epilogue > SGD else 0.0, p)
        to_velocity = args.to_first if args.update_path == IN_EPILOGUE else distance(p, gradient)
        if args.has_private:
            load_private(plan, args, context)
        if not args.advances:
            step_factors(plan, args, context, args.step)
        lr = peek(context.factors, RATE)
        done = 0
        epoch = 0
        while epoch < args.n_epochs:
            first_batch, repeats = args.first_batch if epoch == 0 else 0, 1
            now, total = args.step + done, offset(losses, epoch)
            if args.shuffles and first_batch == 0 and args.first_row == 0:
                if thread == 0:
                    shuffle_order(random_words[epoch], order, data.n)
                barrier(sync, threads)
            if repeats_batches and not args.shuffles and args.last_batch == 1:
                repeats = args.n_epochs - epoch
            n_done = train_batches(
                plan, args, data, context, order, first_batch, repeats, now, total, lr, momentum, to_velocity
            )
            done += n_done
            if n_done < repeats * (args.last_batch - first_batch):
                break
            epoch += repeats
        if args.has_private:
            store_private(plan, args, context)
        restore_mxcsr(control)
        if thread == 0:
            poke(job, DONE_AT, done)

    train.__name__ = train.__qualname__ = name
    return native("opi")(train)


@inline
def read(job):
    """Return CallArgs, Pointers, Plan and Data of a job."""
    call_args, pointers = (
        unpacked(offset(job, CALL_ARGS_AT), CallArgs, ()),
        unpacked(offset(job, POINTERS_AT), Pointers, ()),
    )
    layers = carray(pointer_like(pointers.layers, job), (pointers.n_layers, N_LAYER_COLUMNS))
    functions = carray(pointer_like(pointers.functions, job), (N_FUNCTIONS,))
    plan = unpacked(offset(job, PLAN_AT), Plan, (layers, functions))
    return call_args, pointers, plan, unpacked(offset(job, DATA_AT), Data, ())


train_in_blocks = _train_with(in_blocks, "train_in_blocks", False)
train_online = _train_with(online, "train_online", False)
train_in_few_lanes = _train_with(in_few_lanes, "train_in_few_lanes", True)
train_in_many_lanes = _train_with(in_many_lanes, "train_in_many_lanes", True)


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


@native("opi")
def evaluate(job, parameters, thread):
    """Compute what is wanted: outputs, sample losses, gradients; one thread's part of it.

    Subnormal numbers are taken for zero.

    Parameters
    ----------
    job : pointer to int64
        Pointers, the numbers of Plan, Data, CallArgs, of which are used: gradient, losses, out, and EvalArgs
        (`layout.pack`).  EvalArgs.wants is a sum of
        WANT_OUTPUT : `out` (n, n_out) receives the outputs, and sync[NOT_FINITE] becomes 1 where X may not be finite
        (its squares have no finite sum);
        WANT_LOSS : `losses` float64 (n,) those of the samples;
        WANT_GRADIENT : `gradient` (n_parameters,) the gradient, added to what is there if EvalArgs.adds;
        WANT_INPUT_GRADIENT : `out` (n, n_in) d loss / d X.
        EvalArgs.scale is 1 / n for the mean over samples.  Data are taken in order.  The targets may be an output
        gradient (Y_GRADIENT), used as it is.
    parameters : pointer (n_parameters,)
    thread : number of this thread, from 0.
    """
    call_args, pointers, plan, data = read(job)
    wanted = unpacked(offset(job, TASK_AT), EvalArgs, ())
    control = flush_subnormals()
    wants, scale, threads = wanted.wants, wanted.scale, wanted.threads
    p, work, sync = parameters, pointer_like(pointers.workspace, parameters), pointer_like(pointers.sync, job)
    out, losses = pointer_like(call_args.out, p), pointer_at(call_args.losses, np.float64)
    context = ThreadContext(
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
    # samples of the right dtype are not gathered, unless the rows of a tile would fall into the same cache sets
    size = by_dtype(work, 4, 8)
    reads_in_place = (
        not wants & (WANT_GRADIENT | WANT_INPUT_GRADIENT)
        and data.x_scale == 1
        and (n_in * size % 512 != 0 and data.x_kind == (X_FLOAT32 if is_single(work) else X_FLOAT64))
    )
    for start in range(0, data.n, plan.rows):
        rows = min(plan.rows, data.n - start)
        first, last = partition(rows, thread, threads)
        x, x_row_stride = block_inputs(plan, context), plan.x_row_stride
        if reads_in_place:
            x, x_row_stride = pointer_like(data.x_address + start * n_in * size, work), n_in
        if not reads_in_place or wants & WANT_LOSS:
            gather_block(plan, data, context, no_order, start, True, not reads_in_place, rows, 0.0, 0.0, 0.0, 0, 0)
        if wants & WANT_OUTPUT and not is_finite(offset(x, first * x_row_stride), x_row_stride, last - first, n_in):
            poke(sync, NOT_FINITE, 1)
        forward(plan, context, x, x_row_stride, rows, 0, 0)
        if wants & WANT_OUTPUT:
            for r in range(first, last):
                a = offset(work, last_layer[A_AT] + r * last_layer[ROW_STRIDE])
                map_array(_identity, a, offset(out, (start + r) * n_out), n_out)
        if wants & WANT_LOSS:
            sample_losses(plan, work, data.y_kind, first, last)
        if wants & (WANT_GRADIENT | WANT_INPUT_GRADIENT):
            output_delta(plan, work, data.y_kind, as_float(scale, p), first, last)
            if data.weights != 0:
                apply_sample_weights(plan, data, context, no_order, start, True, first, last)
            backward(plan, context, rows, 0, 0)
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
                    context.pack,
                )
            barrier(sync, threads)
            if wants & WANT_GRADIENT:
                is_first = start == 0 and not wanted.adds
                weight_gradients(
                    plan, context, rows, context.gradient, INIT_ZERO if is_first else INIT_C, STORE, nothing, nothing, 0
                )
        if wants & WANT_LOSS:
            for r in range(first, last):
                poke(losses, start + r, peek(work, plan.losses_at + r))
        barrier(sync, threads)  # the next block's rows may be another thread's in this one
    restore_mxcsr(control)
