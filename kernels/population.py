"""Training and evaluation of many networks of one architecture in one native call.

`train` and `evaluate` interleave groups of networks, see `interleaved`: the same weight of each lies in one vector, so
all vectors are full however narrow the layers are.  A group has as many networks as a register has lanes, or several
registers of them where these stay in the L1 cache: then each call does more.  Networks that see the same data in the
same order share one copy of it.  `run_jobs` trains or evaluates every network by the kernels of one network, each on
one thread.  In all of them threads take the next networks as soon as they are free, and never wait for each other.

Sums over outputs are added in the order of `simd.hsum`, so a network gets the bits that `training.train_in_blocks`
gives it alone.
"""

import numpy as np
from numba import carray

from .atomics import atomic_add, atomic_load, flush_subnormals, restore_mxcsr
from .elementwise import _exp, _finite, _log
from .interleaved import all_finite, as_doubles, doubles_of, registers
from .jit import inline, internal
from .layout import (
    A_AT,
    ACTIVATION,
    BACKWARD_AT,
    CALL_ARGS_AT,
    DELTA_AT,
    DONE_AT,
    DROP,
    DROP_AT,
    FIRST_BATCH_AT,
    FORWARD_AT,
    GATHER,
    GRADIENT_AT,
    L2,
    LAST_BATCH_AT,
    LOSSES_AT,
    MAX_LANES,
    MAX_LOSS,
    MAX_NETWORKS,
    N_FACTORS,
    N_FUNCTIONS,
    N_IN,
    N_LAYER_COLUMNS,
    N_OUT,
    ONES,
    ORDER_AT,
    OUTPUT_GRADIENT,
    PRODUCT,
    PRODUCT_OF_NUMBERS,
    SAMPLE_LOSSES,
    SETTING_L2,
    SETTING_RATE_SCALE,
    SETTING_RATES,
    SHARE,
    SMOOTHING,
    STEP_AT,
    STEP_FACTORS,
    SUMS_AT,
    TASK_AT,
    UPDATE,
    W_AT,
    WORKSPACE_AT,
    Y_LABELS,
    Y_NONE,
    Y_ROWS,
    Z_AT,
    ZEROS,
    CallArgs,
    JobsArgs,
    PopulationArgs,
)
from .members import (
    BEFORE,
    IS_SHARED,
    KEY,
    LOSS_SCALES,
    MEMBER,
    ORDER,
    PENALTIES,
    POSITION,
    PRODUCTS,
    STEP,
    THRESHOLDS,
    TOTALS,
    WEIGHTS,
    X,
    Y,
    begin_group,
    deinterleave,
    double_lane,
    empty_lane,
    first_owned,
    interleave,
    period_of,
    set_lane,
    setting_of,
    width_of,
)
from .native import native
from .simd import (
    as_float,
    by_dtype,
    call,
    fma,
    lanes,
    load,
    masked_load,
    offset,
    peek,
    pointer_at,
    pointer_like,
    poke,
    store,
    unpacked,
    where,
)
from .tables import IDENTITY
from .threads import partition, spin_wait


@native("p")
def register_width(like):
    """Return how many networks lie in one register."""
    return lanes(registers(like))


# ------------------------------------------------------------------------------------------------ data and noise


@inline
def gather_lane(args, functions, ints, lane, x, y, n_in, n_out, order, start, in_order, rows):
    """Gather rows of one network: its inputs into x, its targets, or labels as numbers, into y."""
    call(
        functions[GATHER],
        peek(ints, X + lane),
        args.x_kind,
        n_in,
        as_float(args.x_scale, x),
        x,
        n_in,
        peek(ints, Y + lane),
        args.y_kind,
        n_out,
        as_float(0, x),
        as_float(0, x),
        y,
        n_out,
        order,
        start,
        in_order,
        0,
        rows,
        0,
        rows,
    )


@inline
def splat(value, width, out, at):
    """Give a number to all networks, from place `at` on."""
    out = registers(out)
    vector = masked_load(out, 0, 0) + value
    for first in range(at, at + width, lanes(out)):
        store(out, first, vector)


@internal
def splat_rows(source, n, width, out):
    """Give each of n numbers to all networks."""
    for i in range(n):
        splat(peek(source, i), width, out, i * width)


@internal
def gather_targets(args, work, ints, lane, targets, rows, n_out):
    """Turn gathered targets or labels into those of a lane, or of all lanes where they share them."""
    y, width, one = offset(work, args.y_at), width_of(args, work), as_float(1, work)
    for r in range(rows):
        for j in range(n_out):
            target = as_float(0, work)
            if args.y_kind == Y_LABELS:
                label = peek(targets, r)
                if label == j:
                    target = one
                elif not (label >= 0 and label < n_out):
                    target = as_float(np.nan, work)
            else:
                target = peek(targets, r * n_out + j)
            at = (r * n_out + j) * width
            if peek(ints, IS_SHARED) != 0:
                splat(target, width, y, at)
            else:
                poke(y, at + lane, target)


@internal
def gather_rows(args, layers, functions, work, ints, epoch, start, rows):
    """Gather a block of samples, targets and weights; return a pointer to the inputs.

    Inputs are numbers where all networks of the group share them.  Those that lie in order and in the dtype
    (`args.is_gathered`) are read where they are.
    """
    width, is_shared = width_of(args, work), peek(ints, IS_SHARED) != 0
    n_in, n_out, size = layers[0, N_IN], layers[layers.shape[0] - 1, N_OUT], by_dtype(work, 4, 8)
    x, weights, rows_of_lane = offset(work, args.x_at), offset(work, args.weights_at), offset(work, args.scratch_at)
    targets, at, in_order = (
        offset(rows_of_lane, rows * n_in),
        epoch * args.n_rows + start,
        args.is_gathered or args.orders == 0,
    )
    if is_shared and args.is_gathered:
        if args.y_kind == Y_ROWS:
            splat_rows(
                pointer_like(peek(ints, Y) + at * n_out * size, work), rows * n_out, width, offset(work, args.y_at)
            )
        elif args.y_kind == Y_LABELS:
            labels = pointer_at(peek(ints, Y), np.int64)
            for r in range(rows):
                poke(targets, r, as_float(peek(labels, at + r), work))
            gather_targets(args, work, ints, 0, targets, rows, n_out)
        if args.weights != 0:
            splat_rows(pointer_like(peek(ints, WEIGHTS) + at * size, work), rows, width, weights)
        return pointer_like(peek(ints, X) + at * n_in * size, work)
    for lane in range(1 if is_shared else width):
        order = pointer_at(peek(ints, ORDER + lane), np.int64)
        inputs = x if is_shared else rows_of_lane
        gather_lane(args, functions, ints, lane, inputs, targets, n_in, n_out, order, at, in_order, rows)
        if not is_shared:
            interleave(inputs, rows * n_in, width, lane, x)
        if args.y_kind != Y_NONE:
            gather_targets(args, work, ints, lane, targets, rows, n_out)
        if args.weights != 0:
            of_lane = pointer_like(peek(ints, WEIGHTS + lane), work)
            for r in range(rows):
                weight = peek(of_lane, at + r if in_order else peek(order, at + r))
                for other in range(lane, width if is_shared else lane + 1):
                    poke(weights, r * width + other, weight)
    return x


@internal
def smooth_targets(args, work, n):
    """Smooth n targets of each network, (1 - smoothing) Y + share."""
    y, vectors = registers(offset(work, args.y_at)), registers(offset(work, args.vectors_at))
    width, period = width_of(args, work), period_of(args, work)
    for first in range(0, width, lanes(y)):
        smoothing, share = load(vectors, SMOOTHING * period + first), load(vectors, SHARE * period + first)
        for i in range(first, n * width, width):
            target = load(y, i)
            store(y, i, where(smoothing == 0.0, target, target * (1.0 - smoothing) + share))


@internal
def draw_dropout(args, functions, work, ints, l, n_out, batch, rows, place, factors):
    """Write the factors of dropout, 0 or 1 / (1 - p), of the outputs of layer l; row 0 is row `place` of its batch."""
    row, one, width = offset(work, args.scratch_at), as_float(1, work), width_of(args, work)
    for lane in range(width):
        for i in range(rows * n_out):
            poke(row, i, one)
        threshold = peek(ints, THRESHOLDS + l * MAX_NETWORKS + lane)
        if threshold > 0:
            key, step = peek(ints, KEY + lane), peek(ints, STEP + lane) + batch
            call(functions[DROP], key, step, l, threshold, row, n_out, row, n_out, rows, place, 0, n_out)
        interleave(row, rows * n_out, width, lane, factors)


@internal
def multiply(x, y, out, n):
    """Out = x * y, element by element; `out` may be x."""
    width = lanes(x)
    i = 0
    while i + width <= n:
        store(out, i, load(x, i) * load(y, i))
        i += width
    if i < n:
        x, y, out = registers(x), registers(y), registers(out)
        while i < n:
            store(out, i, load(x, i) * load(y, i))
            i += lanes(x)


# ------------------------------------------------------------------------------------------- sums over outputs


@inline
def fold(sums, n):
    """Return the sum of n vectors as the lanes of one vector are added by `hsum`, halves to halves."""
    width = lanes(sums)
    half = MAX_LANES >> 1
    while half >= 1:
        for i in range(half):
            if i + half < n:
                store(sums, i * width, load(sums, i * width) + load(sums, (i + half) * width))
        n = min(n, half)
        half >>= 1
    return load(sums, 0)


@inline
def add_part(sums, j, whole, value):
    """Add the value of output j to the sums of its lane."""
    width = lanes(sums)
    at = (j & (whole - 1)) * width
    if j >= whole:
        value = load(sums, at) + value
    store(sums, at, value)


@internal
def softmax_rows_of_lanes(args, work, z, a, rows, n):
    """Write a = softmax(z) over the n outputs of each row, and lse = log(sum(exp(z))), as `elementwise.softmax_row`."""
    lse, sums, whole = registers(offset(work, args.lse_at)), registers(offset(work, args.scratch_at)), lanes(z)
    z, a = registers(z), registers(a)
    width = width_of(args, work)
    for r in range(rows):
        for row in range(r * width, (r + 1) * width, lanes(z)):
            at = r * (n - 1) * width + row
            top = load(z, at)
            for j in range(1, n):
                v = load(z, at + j * width)
                top = where(v > top, v, top)
            shift = _finite(top)
            for j in range(n):
                e = _exp(_finite(load(z, at + j * width)) - shift)
                store(a, at + j * width, e)
                add_part(sums, j, whole, e)
            total = fold(sums, min(n, whole))
            for j in range(n):
                store(a, at + j * width, load(a, at + j * width) / total)
            store(lse, row, _log(total) + shift)


@internal
def losses_of_rows(args, layers, functions, work, rows):
    """Write the loss of each sample, summed over its outputs."""
    layer = layers[layers.shape[0] - 1]
    n, whole = layer[N_OUT], lanes(work)
    z, a, y = offset(work, layer[Z_AT]), offset(work, layer[A_AT]), offset(work, args.y_at)
    losses, parts = offset(work, args.losses_at), offset(work, args.scratch_at)
    out, width = registers(losses), width_of(args, work)
    if args.takes_log_softmax:
        sums, lse, logits, targets = registers(parts), registers(offset(work, args.lse_at)), registers(z), registers(y)
        for r in range(rows):
            for row in range(r * width, (r + 1) * width, lanes(out)):
                first, normalizer = r * (n - 1) * width + row, load(lse, row)
                for j in range(n):
                    at = first + j * width
                    target = load(targets, at)
                    add_part(sums, j, whole, where(target == 0.0, 0.0, target * (normalizer - load(logits, at))))
                store(out, row, fold(sums, min(n, whole)))
        return
    values = losses if n == 1 else offset(parts, MAX_LANES * lanes(out))
    parameter = as_float(args.loss_parameter, work)
    call(functions[SAMPLE_LOSSES], parameter, False, z, a, y, z, values, rows * n * width, 1, 1)
    if n > 1:
        sums, terms = registers(parts), registers(values)
        for r in range(rows):
            for row in range(r * width, (r + 1) * width, lanes(out)):
                first = r * (n - 1) * width + row
                for j in range(n):
                    add_part(sums, j, whole, load(terms, first + j * width))
                store(out, row, fold(sums, min(n, whole)))


@internal
def add_losses(args, work, doubles, rows, is_weighted, loss_scale):
    """Add the losses of a block of samples to the sums; return whether all of these are finite."""
    losses, weights = registers(offset(work, args.losses_at)), registers(offset(work, args.weights_at))
    totals, width, vectors = doubles_of(doubles, work), width_of(args, work), registers(offset(work, args.vectors_at))
    are_finite, limits = True, MAX_LOSS * period_of(args, work)
    for first in range(0, width, lanes(losses)):
        limit = load(vectors, limits + first)
        total, scale = load(totals, TOTALS + first), load(totals, LOSS_SCALES + first) * loss_scale
        for at in range(first, rows * width, width):
            loss = load(losses, at)
            if args.has_limit:
                loss = where(loss > limit, where(loss < np.inf, limit, loss), loss)
            if is_weighted:
                loss = loss * load(weights, at)
            total = total + as_doubles(loss) * scale
        store(totals, TOTALS + first, total)
        are_finite = are_finite and all_finite(total)
    return are_finite


# ------------------------------------------------------------------------------------------- forward and backward


@inline
def product_of_layer(ints, l, width):
    """Return the product for what layer l reads, and the distance of its elements: inputs may be shared numbers."""
    if l == 0 and peek(ints, IS_SHARED) != 0:
        return PRODUCT_OF_NUMBERS, 1
    return PRODUCT, width


@internal
def forward(args, layers, functions, work, ints, x, batch, rows, place, drops):
    """Compute Z and A of every layer for a block of samples."""
    width, p, a = width_of(args, work), offset(work, args.parameters_at), x
    for l in range(layers.shape[0]):
        layer = layers[l]
        n_in, n_out, z = layer[N_IN], layer[N_OUT], offset(work, layer[Z_AT])
        w = offset(p, layer[W_AT] * width)
        b, row = offset(w, n_in * n_out * width), n_out * width
        kind, step = product_of_layer(ints, l, width)
        n = args.n_registers
        call(functions[kind], n, rows, n_out, n_in, a, n_in * step, step, w, row, width, z, row, width, b, 0, width)
        a, n = offset(work, layer[A_AT]), rows * row
        if l == layers.shape[0] - 1 and args.takes_log_softmax:
            softmax_rows_of_lanes(args, work, z, a, rows, n_out)
        elif layer[ACTIVATION] != IDENTITY or layer[Z_AT] != layer[A_AT]:
            call(layer[FORWARD_AT], z, a, n, n, z, 1)
        if drops and l < layers.shape[0] - 1:
            kept = offset(work, layer[DROP_AT])
            factors = offset(kept, n)
            draw_dropout(args, functions, work, ints, l, n_out, batch, rows, place, factors)
            multiply(a, factors, kept, n)
            a = kept


@internal
def weigh_delta(args, work, delta, rows, n_out):
    """Multiply the deltas of each row by the weight of its sample."""
    weights, delta, width = registers(offset(work, args.weights_at)), registers(delta), width_of(args, work)
    for r in range(rows):
        for row in range(r * width, (r + 1) * width, lanes(delta)):
            weight, first = load(weights, row), r * (n_out - 1) * width + row
            for at in range(first, first + n_out * width, width):
                store(delta, at, load(delta, at) * weight)


@internal
def output_delta(args, layers, functions, work, scale, rows):
    """Compute delta of the output layer."""
    layer, width = layers[layers.shape[0] - 1], width_of(args, work)
    z, a, delta = offset(work, layer[Z_AT]), offset(work, layer[A_AT]), offset(work, layer[DELTA_AT])
    n, parameter = rows * layer[N_OUT] * width, as_float(args.loss_parameter, work)
    call(functions[OUTPUT_GRADIENT], parameter, False, z, a, offset(work, args.y_at), scale, delta, n, 1, 1)
    if not args.has_logit_form and layer[ACTIVATION] != IDENTITY:
        call(layer[BACKWARD_AT], z, a, delta, n, n, 1)
    if args.weights != 0:
        weigh_delta(args, work, delta, rows, layer[N_OUT])


@internal
def propagate(args, layers, functions, work, p, l, rows, drops):
    """Compute delta of layer l - 1 from that of layer l."""
    layer, before, width = layers[l], layers[l - 1], width_of(args, work)
    n_in, n_out, delta, out = layer[N_IN], layer[N_OUT], offset(work, layer[DELTA_AT]), offset(work, before[DELTA_AT])
    w, row, zero = offset(p, layer[W_AT] * width), n_out * width, offset(work, args.vectors_at)
    n, of_row = args.n_registers, n_in * width
    call(functions[PRODUCT], n, rows, n_in, n_out, delta, row, width, w, width, row, out, of_row, width, zero, 0, 0)
    n = rows * n_in * width
    if drops:
        multiply(out, offset(work, before[DROP_AT] + n), out, n)
    if before[ACTIVATION] != IDENTITY:
        call(before[BACKWARD_AT], offset(work, before[Z_AT]), offset(work, before[A_AT]), out, n, n, 1)


@inline
def update(args, functions, work, at, gradient, n, are_weights):
    """Update n parameters of each network, from place `at` on."""
    width, vectors, factors = width_of(args, work), offset(work, args.vectors_at), offset(work, args.factors_at)
    if not are_weights:
        factors = offset(factors, args.bias_factors * period_of(args, work))
    call(
        functions[UPDATE],
        factors,
        gradient,
        offset(work, args.parameters_at + at * width),
        offset(work, args.first_at + at * width),
        offset(work, args.second_at + at * width),
        n * width,
        vectors,
        period_of(args, work),
        args.has_same_settings,
        args.has_penalties,
        args.clips,
        are_weights,
    )


@internal
def update_layer(args, layers, functions, work, ints, x, l, rows, place, is_last, drops):
    """Sum the gradient of a layer over a block of samples; update by it, after the last block of the batch."""
    layer, width = layers[l], width_of(args, work)
    n_in, n_out, row = layer[N_IN], layer[N_OUT], layer[N_OUT] * width
    delta, zero = offset(work, layer[DELTA_AT]), offset(work, args.vectors_at)  # the vector ZEROS
    a = x
    if l > 0:
        a = offset(work, layers[l - 1, DROP_AT if drops else A_AT])
    one = offset(zero, ONES * period_of(args, work))
    kind, step = product_of_layer(ints, l, width)
    most = n_in
    if args.slice_size > 0:
        most = max(1, args.slice_size // n_out)
    top = 0
    while top <= n_in:
        n = min(most, n_in - top)
        first = layer[W_AT] + top * n_out
        gradient = offset(work, args.gradient_at)
        if args.slice_size == 0:
            gradient = offset(gradient, first * width)
        start, start_row, start_column = zero, 0, 0
        if place > 0:
            start, start_row, start_column = gradient, row, width
        call(
            functions[kind],
            args.n_registers,
            n,
            n_out,
            rows,
            offset(a, top * step),
            step,
            n_in * step,
            delta,
            row,
            width,
            gradient,
            row,
            width,
            start,
            start_row,
            start_column,
        )
        has_biases = top + n == n_in
        if has_biases:
            biases = offset(gradient, n * row)
            if place > 0:
                start = biases
            call(
                functions[PRODUCT_OF_NUMBERS],
                args.n_registers,
                1,
                n_out,
                rows,
                one,
                0,
                0,
                delta,
                row,
                width,
                biases,
                row,
                width,
                start,
                0,
                start_column,
            )
        if is_last:
            if has_biases and not (args.has_penalties or args.clips) and args.bias_factors == 0:
                update(args, functions, work, first, gradient, (n + 1) * n_out, False)
            else:
                update(args, functions, work, first, gradient, n * n_out, True)
                if has_biases:
                    at = first + n * n_out
                    update(args, functions, work, at, offset(gradient, n * row), n_out, False)
        if has_biases:
            break
        top += n


# ------------------------------------------------------------------------------------------------ one group


@internal
def write_factors(args, functions, work, doubles, ints, n_done):
    """Write the factors of the next update of each network into vectors."""
    width, period = width_of(args, work), period_of(args, work)
    factors, number = offset(work, args.factors_at), offset(work, args.scratch_at)
    for lane in range(1 if args.has_same_settings else width):
        member = peek(ints, MEMBER + lane)
        settings = pointer_at(args.settings, np.float64)
        settings = offset(settings, member * args.settings_stride)
        products = offset(doubles, PRODUCTS + lane * args.n_products)
        call(
            functions[STEP_FACTORS],
            settings,
            args.schedule,
            offset(settings, SETTING_RATES),
            peek(settings, SETTING_RATE_SCALE),
            peek(ints, STEP + lane) + n_done,
            products,
            number,
        )
        if args.has_same_settings:
            for i in range(N_FACTORS):
                splat(peek(number, i), period, factors, i * period)
            for other in range(1, width):
                for i in range(args.n_products):
                    poke(doubles, PRODUCTS + other * args.n_products + i, peek(products, i))
        else:
            for i in range(N_FACTORS):
                set_lane(args, factors, i, lane, peek(number, i))


@internal
def squared_weights(args, layers, work, register):
    """Return the sum of the squares of the weights of each network of a register, without the biases."""
    width, p = width_of(args, work), registers(offset(work, args.parameters_at))
    zero = as_doubles(load(registers(offset(work, args.vectors_at)), ZEROS))
    total = zero
    for l in range(layers.shape[0]):
        first, n = layers[l, W_AT] * width + register, layers[l, N_IN] * layers[l, N_OUT]
        even, odd = zero, zero  # two chains of additions, which are slow
        for at in range(first, first + (n & ~1) * width, 2 * width):
            v, w = as_doubles(load(p, at)), as_doubles(load(p, at + width))
            even, odd = fma(v, v, even), fma(w, w, odd)
        if n & 1:
            v = as_doubles(load(p, first + (n - 1) * width))
            even = fma(v, v, even)
        total = total + (even + odd)
    return total


@internal
def add_penalties(args, layers, work, doubles, ints, per_weight, loss_scale):
    """Add l2 / 2 times the squared weights to the sums of losses; the gradients of the batch take l2 * `per_weight`."""
    squares = doubles_of(doubles, work)
    for register in range(0, width_of(args, work), lanes(squares)):
        store(squares, PENALTIES + register, squared_weights(args, layers, work, register))
    for lane in range(width_of(args, work)):
        l2 = setting_of(args, peek(ints, MEMBER + lane), SETTING_L2)
        set_lane(args, offset(work, args.vectors_at), L2, lane, l2 * per_weight)
        penalty = 0.5 * l2 * peek(doubles, PENALTIES + lane) * loss_scale
        poke(doubles, TOTALS + lane, peek(doubles, TOTALS + lane) + penalty)


@internal
def train_batch(args, layers, functions, work, doubles, ints, epoch, batch, n_done):
    """Train one batch of every network of a group; return False where a loss is not finite, before any update."""
    p, start = offset(work, args.parameters_at), batch * args.batch_size
    n = min(args.batch_size, args.n_rows - start)
    scale, loss_scale = as_float(1, work), 1.0
    if args.is_mean or args.weighted_mean:
        scale = as_float(1, work) / as_float(n, work)
    drops = args.thresholds != 0
    if args.weighted_mean:
        per_weight = 1.0 / n
        scale, loss_scale = as_float(per_weight, work), n * per_weight
        if args.has_penalties:
            add_penalties(args, layers, work, doubles, ints, per_weight, loss_scale)
    n_outputs, last = layers[layers.shape[0] - 1, N_OUT], layers.shape[0] - 1
    for place in range(0, n, args.rows):
        rows = min(args.rows, n - place)
        is_last = place + rows == n
        x = gather_rows(args, layers, functions, work, ints, epoch, start + place, rows)
        if args.has_smoothing:
            smooth_targets(args, work, rows * n_outputs)
        forward(args, layers, functions, work, ints, x, n_done, rows, place, drops)
        losses_of_rows(args, layers, functions, work, rows)
        if not add_losses(args, work, doubles, rows, args.weights != 0, loss_scale):
            return False
        output_delta(args, layers, functions, work, scale, rows)
        if is_last and args.advances:
            write_factors(args, functions, work, doubles, ints, n_done)
        for l in range(last, -1, -1):
            if l > 0:
                propagate(args, layers, functions, work, p, l, rows, drops)
            update_layer(args, layers, functions, work, ints, x, l, rows, place, is_last, drops)
    return True


@internal
def stop_nonfinite(args, layers, parameters, work, doubles, ints, n_done):
    """Let the networks whose loss is not finite go, with the parameters before this batch; return whether any is left.

    The sums of the others become those before the batch, which is to be trained again.
    """
    width = width_of(args, work)
    for lane in range(width):
        if not np.isfinite(peek(doubles, TOTALS + lane)) and peek(ints, POSITION + lane) >= 0:
            empty_lane(args, parameters, work, doubles, ints, lane, n_done)
        poke(doubles, TOTALS + lane, peek(doubles, BEFORE + lane))
    origin = first_owned(ints, width)
    if origin < 0:
        return False
    for lane in range(width):
        if peek(ints, POSITION + lane) < 0:
            double_lane(args, layers, work, doubles, ints, origin, lane)
    return True


@internal
def train_group(args, layers, functions, parameters, work, doubles, ints, group):
    """Train the networks of one group over all batches of the call."""
    begin_group(args, layers, parameters, work, doubles, ints, group, True)
    width, losses = width_of(args, work), pointer_at(args.losses, np.float64)
    if not args.advances:
        write_factors(args, functions, work, doubles, ints, 0)
    n_done = 0
    for epoch in range(args.n_epochs):
        for lane in range(width):
            position = peek(ints, POSITION + lane)
            value = peek(losses, position * args.n_epochs + epoch) if position >= 0 else 0.0
            poke(doubles, TOTALS + lane, value)
        batch = args.first_batch if epoch == 0 else 0
        while batch < args.last_batch:
            totals = doubles_of(doubles, work)
            for first in range(0, width, lanes(totals)):
                store(totals, BEFORE + first, load(totals, TOTALS + first))
            if train_batch(args, layers, functions, work, doubles, ints, epoch, batch, n_done):
                batch += 1
                n_done += 1
            elif not stop_nonfinite(args, layers, parameters, work, doubles, ints, n_done):
                return
        for lane in range(width):
            position = peek(ints, POSITION + lane)
            if position >= 0:
                poke(losses, position * args.n_epochs + epoch, peek(doubles, TOTALS + lane))
    for lane in range(width):
        if peek(ints, POSITION + lane) >= 0:
            empty_lane(args, parameters, work, doubles, ints, lane, n_done)


@internal
def evaluate_group(args, layers, functions, parameters, work, doubles, ints, group):
    """Compute outputs, or the sums of the sample losses, of the networks of one group over all samples."""
    begin_group(args, layers, parameters, work, doubles, ints, group, False)
    width, losses, last = width_of(args, work), pointer_at(args.losses, np.float64), layers.shape[0] - 1
    n_out = layers[last, N_OUT]
    for lane in range(width):
        poke(doubles, TOTALS + lane, 0.0)
        poke(doubles, LOSS_SCALES + lane, 1.0)
    for start in range(0, args.n_rows, args.rows):
        rows = min(args.rows, args.n_rows - start)
        x = gather_rows(args, layers, functions, work, ints, 0, start, rows)
        forward(args, layers, functions, work, ints, x, 0, rows, 0, False)
        a = offset(work, layers[last, A_AT])
        if args.out != 0:
            for lane in range(width):
                position = peek(ints, POSITION + lane)
                if position >= 0:
                    out = offset(pointer_like(args.out, work), (position * args.n_rows + start) * n_out)
                    deinterleave(a, rows * n_out, width, lane, out)
        if args.losses != 0:
            losses_of_rows(args, layers, functions, work, rows)
            add_losses(args, work, doubles, rows, False, 1.0)
    if args.losses != 0:
        for lane in range(width):
            position = peek(ints, POSITION + lane)
            if position >= 0:
                poke(losses, position, peek(doubles, TOTALS + lane))


# ------------------------------------------------------------------------------------------------ the kernels


def _over_groups(of_group, name):
    """Return the kernel whose threads take one group of networks after the other."""

    def run(job, parameters, thread):
        """Do one thread's part of a job, whose task is `PopulationArgs`; `parameters` are those of network 0."""
        args = unpacked(offset(job, TASK_AT), PopulationArgs, ())
        layers = carray(pointer_like(args.layers, job), (args.n_layers, N_LAYER_COLUMNS))
        functions = carray(pointer_like(args.functions, job), (N_FUNCTIONS,))
        work = offset(pointer_like(args.workspace, parameters), thread * args.workspace_size)
        doubles = offset(pointer_at(args.doubles, np.float64), thread * args.doubles_size)
        ints = offset(pointer_at(args.ints, np.int64), thread * args.ints_size)
        width, next_group = width_of(args, work), pointer_at(args.next_group, np.int64)
        control = flush_subnormals()
        group = atomic_add(next_group, 0, 1)
        while group * width < args.n_members:
            of_group(args, layers, functions, parameters, work, doubles, ints, group)
            group = atomic_add(next_group, 0, 1)
        restore_mxcsr(control)

    run.__name__ = run.__qualname__ = name
    return native("opi")(run)


train = _over_groups(train_group, "train")
evaluate = _over_groups(evaluate_group, "evaluate")


@internal
def run_part(args, one, i, part, parameters, call_args, done):
    """Run a part of the batches of one job, unless a loss in an earlier one was not finite."""
    first, last = peek(one, FIRST_BATCH_AT), peek(one, LAST_BATCH_AT)
    start, stop = partition(last - first, part, args.n_parts)
    if peek(done, i) < start:
        return
    poke(one, FIRST_BATCH_AT, first + start)
    poke(one, LAST_BATCH_AT, first + stop)
    poke(one, DONE_AT, 0)
    call(call_args.kernel, one, pointer_like(call_args.parameters, parameters), 0)
    n_done = peek(one, DONE_AT)
    poke(done, i, start + n_done)
    poke(one, STEP_AT, peek(one, STEP_AT) + n_done)
    poke(one, FIRST_BATCH_AT, first)
    poke(one, LAST_BATCH_AT, last)


@native("opi")
def run_jobs(job, parameters, thread):
    """Run the jobs of single networks, each on one thread at a time; one thread's part of it.

    Threads take the first part of every job, then the second part, and so on, and wait where the part before is not
    done: another thread is at it.  So two threads train three networks in the time of one and a half.

    Parameters
    ----------
    job : pointer to int64
        CallArgs for `threads.launch`, and `JobsArgs` as its task.
    parameters : not used
    thread : number of this thread, from 0.
    """
    args = unpacked(offset(job, TASK_AT), JobsArgs, ())
    members, counter = pointer_like(args.members, job), pointer_like(args.next_member, job)
    parts_done = pointer_like(args.parts_done, job)
    taken = atomic_add(counter, 0, 1)
    while taken < args.n_members * args.n_parts:
        part, i = taken // args.n_members, taken % args.n_members
        n_waits, waiting_since = 0, 0
        while args.n_parts > 1 and atomic_load(parts_done, i) < part:
            n_waits += 1
            waiting_since = spin_wait(n_waits, waiting_since)
        one = pointer_like(args.first + 8 * args.stride * peek(members, i), job)
        call_args = unpacked(offset(one, CALL_ARGS_AT), CallArgs, ())
        poke(one, WORKSPACE_AT, peek(pointer_like(args.workspaces, job), thread))
        if args.gradients != 0:
            poke(one, GRADIENT_AT, peek(pointer_like(args.gradients, job), thread))
            poke(one, SUMS_AT, peek(pointer_like(args.sums, job), thread))
        if args.n_parts > 1:
            run_part(args, one, i, part, parameters, call_args, pointer_like(args.done, job))
            atomic_add(parts_done, i, 1)
            taken = atomic_add(counter, 0, 1)
            continue
        total = 0
        for _ in range(args.n_epochs):
            poke(one, DONE_AT, 0)
            call(call_args.kernel, one, pointer_like(call_args.parameters, parameters), 0)
            if args.gradients == 0:
                continue
            n_done = peek(one, DONE_AT)
            total += n_done
            if n_done < peek(one, LAST_BATCH_AT) - peek(one, FIRST_BATCH_AT):
                break
            poke(one, ORDER_AT, peek(one, ORDER_AT) + args.order_size)
            poke(one, LOSSES_AT, peek(one, LOSSES_AT) + 8)
            poke(one, STEP_AT, peek(one, STEP_AT) + n_done)
            poke(one, FIRST_BATCH_AT, 0)
        if args.gradients != 0:
            poke(pointer_like(args.done, job), i, total)
        taken = atomic_add(counter, 0, 1)
