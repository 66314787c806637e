"""The update of a network by the gradient of a batch: penalties, clipping, the rule, norms.  One thread's part of each.

Where each slice of the gradient is used at once, the update is that of `backprop.update_by_slice`.
"""

import numpy as np

from .jit import inline, internal
from .layout import (
    MAX_NORM,
    N_IN,
    N_OUT,
    PREPARE_GRADIENT,
    SCALE,
    SQUARES_CHUNK,
    STEP_FACTORS,
    SUM_OF_SQUARES,
    UPDATE,
    UPDATE_SCALED,
    W_AT,
)
from .simd import as_float, call, lanes, offset, peek
from .threads import barrier, partition


@inline
def weights_or_biases(i, layer, first, last):
    """Return where a layer's weights (even i) or biases (odd i) lie within first .. last - 1 of the parameters."""
    middle = layer[W_AT] + layer[N_IN] * layer[N_OUT]
    if i % 2 == 0:
        return max(first, layer[W_AT]), min(last, middle)
    return max(first, middle), min(last, middle + layer[N_OUT])


@inline
def update_with(factors, plan, args, context, first, last, clip_value):
    """Update parameters first .. last - 1 by their gradients and these factors."""
    p, nothing = context.parameters, as_float(0, context.parameters)
    call(
        plan.functions[UPDATE],
        factors,
        offset(context.gradient, first),
        offset(p, first),
        offset(p, first + args.to_first),
        offset(p, first + args.to_second),
        last - first,
        nothing,
        nothing,
        clip_value,
    )


@inline
def update_between(plan, args, context, first, last, clip_value):
    """Update parameters first .. last - 1 by their gradients, biases by factors of their own where they have some."""
    if args.bias_factors == 0:
        update_with(context.factors, plan, args, context, first, last, clip_value)
    else:
        for i in range(2 * plan.layers.shape[0]):
            start, stop = weights_or_biases(i, plan.layers[i // 2], first, last)
            if start < stop:
                factors = offset(context.factors, i % 2 * args.bias_factors)
                update_with(factors, plan, args, context, start, stop, clip_value)


@internal
def update_scaled_rows(plan, args, context):
    """Update a thread's rows of the first layer's W where each has a scale; return the end of all."""
    p, layer = context.parameters, plan.layers[0]
    n_in, n_out, width = layer[N_IN], layer[N_OUT], lanes(context.parameters)
    first, last = partition((n_in + width - 1) // width, context.thread, context.threads)
    call(
        plan.functions[UPDATE_SCALED],
        context.factors,
        context.gradient,
        p,
        offset(p, args.to_first),
        offset(p, args.to_second),
        offset(p, args.to_scales),
        n_in,
        n_out,
        first * width,
        min(n_in, last * width),
    )
    return n_in * n_out


@internal
def update_parameters(plan, args, context, l2_of_batch):
    """Update a thread's slice of all parameters by the gradient of the batch; a barrier comes before."""
    n, p, g = plan.n_parameters, context.parameters, context.gradient
    n_sums = (n + SQUARES_CHUNK - 1) // SQUARES_CHUNK
    first_sum, last_sum = partition(n_sums, context.thread, context.threads)
    first, last = first_sum * SQUARES_CHUNK, min(n, last_sum * SQUARES_CHUNK)
    limit, nothing = as_float(args.clip_value, p), as_float(0, p)
    if args.clip_norm == 0 and args.l1 == 0 and args.l2 == 0 and args.to_scales == 0:
        update_between(plan, args, context, first, last, limit)
        return
    for i in range(2 * plan.layers.shape[0]):
        start, stop = weights_or_biases(i, plan.layers[i // 2], first, last)
        if start < stop:
            l1 = as_float(args.l1, p) if i % 2 == 0 else nothing
            l2 = as_float(l2_of_batch, p) if i % 2 == 0 else nothing
            call(plan.functions[PREPARE_GRADIENT], offset(g, start), offset(p, start), stop - start, l1, l2, limit)
    if args.clip_norm > 0:
        for chunk in range(first_sum, last_sum):
            start = chunk * SQUARES_CHUNK
            call(
                plan.functions[SUM_OF_SQUARES],
                offset(g, start),
                min(SQUARES_CHUNK, n - start),
                offset(context.sums, chunk),
            )
        barrier(context.sync, context.threads)
        total = 0.0
        for i in range(n_sums):
            total += peek(context.sums, i)
        norm = np.sqrt(total)
        if norm > args.clip_norm:
            call(plan.functions[SCALE], offset(g, first), as_float(args.clip_norm / norm, p), last - first)
    if args.to_scales != 0:
        barrier(context.sync, context.threads)  # rows are divided in another way than slices
        first = max(first, update_scaled_rows(plan, args, context))
    update_between(plan, args, context, first, last, nothing)


@internal
def apply_max_norm(plan, args, context):
    """Rescale the weights into each neuron whose norm is above the limit; a thread does some of the neurons."""
    for l in range(plan.layers.shape[0]):
        layer = plan.layers[l]
        first, last = partition(layer[N_OUT], context.thread, context.threads)
        call(
            plan.functions[MAX_NORM],
            offset(context.parameters, layer[W_AT]),
            layer[N_IN],
            layer[N_OUT],
            first,
            last,
            as_float(args.max_norm, context.parameters),
        )


@internal
def step_factors(plan, args, context, step):
    """Write the factors of this step's update."""
    call(
        plan.functions[STEP_FACTORS],
        context.hyperparameters,
        args.schedule,
        context.rates,
        args.rate_scale,
        step,
        context.running_products,
        context.factors,
    )
