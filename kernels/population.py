"""Training and evaluation of many networks of one architecture in one native call.

`train` and `predict` interleave as many networks as a register has lanes, see `interleaved`: the same weight of each
lies in one vector, so all vectors are full however narrow the layers are.  Networks that see the same data in the same
order share one copy of it.  `run_jobs` trains or evaluates every network by the kernels of one network, each on one
thread.  In all of them threads take the next networks as soon as they are free, and never wait for each other.

Sums over outputs are added in the order of `simd.hsum`, so a network gets the bits that `training.train_in_blocks`
gives it alone.
"""

import numpy as np
from numba import carray

from .atomics import atomic_add, flush_subnormals, restore_mxcsr
from .elementwise import _exp, _finite, _log
from .interleaved import all_finite, as_doubles, doubles_of, registers
from .jit import inline, internal
from .layout import (
    A_AT,
    ACTIVATION,
    BACKWARD_AT,
    CALL_ARGS_AT,
    CLIP,
    DELTA_AT,
    DONE_AT,
    DROP,
    DROP_AT,
    FIRST_BATCH_AT,
    FORWARD_AT,
    GATHER,
    GRADIENT_AT,
    L1,
    L2,
    LAST_BATCH_AT,
    LOSSES_AT,
    MAX_LANES,
    MAX_LOSS,
    N_FACTORS,
    N_FUNCTIONS,
    N_IN,
    N_LAYER_COLUMNS,
    N_OUT,
    N_VECTORS,
    ONES,
    ORDER_AT,
    OUTPUT_GRADIENT,
    PRODUCT,
    PRODUCT_OF_NUMBERS,
    SAMPLE_LOSSES,
    SETTING_CLIP,
    SETTING_L1,
    SETTING_L2,
    SETTING_LOSS_SCALE,
    SETTING_MAX_LOSS,
    SETTING_RATE_SCALE,
    SETTING_RATES,
    SETTING_SHARE,
    SETTING_SMOOTHING,
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
from .native import native
from .simd import (
    as_float,
    by_dtype,
    call,
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

# Fields of a lane in the workspace of integers, MAX_LANES numbers each; then those of the thresholds of each layer.
# IS_SHARED is whether all lanes read the same data in the same order.
MEMBER, POSITION, X, Y, WEIGHTS, ORDER, KEY, STEP, IS_SHARED, THRESHOLDS = (field * MAX_LANES for field in range(10))
# Fields in the workspace of float64: sums of losses, those before the batch, factors of losses; running products.
TOTALS, BEFORE, LOSS_SCALES, PRODUCTS = (field * MAX_LANES for field in range(4))


@inline
def width_of(p):
    """Return how many networks lie in one register."""
    return lanes(registers(p))


@native("p")
def register_width(like):
    """Return `width_of`."""
    return width_of(like)


# ------------------------------------------------------------------------------------------------ the lanes


@inline
def set_lane(vectors, place, lane, value):
    """Set the number of a network in one of the vectors, in each of its repetitions."""
    width = width_of(vectors)
    for at in range(place * lanes(vectors) + lane, (place + 1) * lanes(vectors), width):
        poke(vectors, at, value)


@internal
def interleave(source, n, lane, out):
    """Copy n numbers to a lane."""
    width = width_of(out)
    for i in range(n):
        poke(out, i * width + lane, peek(source, i))


@internal
def deinterleave(source, n, lane, out):
    """Copy n numbers of a lane back."""
    width = width_of(out)
    for i in range(n):
        poke(out, i, peek(source, i * width + lane))


@internal
def copy_lane(values, n, origin, lane):
    """Copy n numbers from one lane to another."""
    width = width_of(values)
    for i in range(n):
        poke(values, i * width + lane, peek(values, i * width + origin))


@inline
def setting_of(args, member, setting):
    """Return a number of the settings of a network."""
    return peek(pointer_at(args.settings, np.float64), member * args.settings_stride + setting)


@internal
def write_settings(args, work, doubles, ints, lane, per_weight):
    """Write the settings of the network in a lane into the vectors; its l2 is multiplied by `per_weight`."""
    member, vectors = peek(ints, MEMBER + lane), offset(work, args.vectors_at)
    clip = setting_of(args, member, SETTING_CLIP)
    set_lane(vectors, L1, lane, setting_of(args, member, SETTING_L1))
    set_lane(vectors, L2, lane, setting_of(args, member, SETTING_L2) * per_weight)
    set_lane(vectors, CLIP, lane, clip if clip > 0 else np.inf)
    set_lane(vectors, SMOOTHING, lane, setting_of(args, member, SETTING_SMOOTHING))
    set_lane(vectors, SHARE, lane, setting_of(args, member, SETTING_SHARE))
    set_lane(vectors, MAX_LOSS, lane, setting_of(args, member, SETTING_MAX_LOSS))
    poke(doubles, LOSS_SCALES + lane, setting_of(args, member, SETTING_LOSS_SCALE))


@internal
def fill_lane(args, layers, parameters, work, doubles, ints, lane, position, is_trained):
    """Put the network at a position among the members into a lane."""
    member = peek(pointer_at(args.members, np.int64), position)
    poke(ints, MEMBER + lane, member)
    poke(ints, POSITION + lane, position)
    if args.is_gathered and is_trained:
        order = peek(pointer_at(args.order_of, np.int64), position)
        poke(ints, X + lane, args.x_address + order * args.x_stride)
        poke(ints, Y + lane, args.y_address + order * args.y_stride)
        poke(ints, WEIGHTS + lane, args.weights + order * args.weights_stride)
    else:
        poke(ints, X + lane, args.x_address + member * args.x_stride)
        poke(ints, Y + lane, args.y_address + member * args.y_stride)
        poke(ints, WEIGHTS + lane, args.weights + member * args.weights_stride)
    n, at = args.n_parameters, member * args.stride
    interleave(offset(parameters, at), n, lane, offset(work, args.parameters_at))
    if not is_trained:
        return
    order = peek(pointer_at(args.order_of, np.int64), position) * args.n_epochs * args.n_rows
    poke(ints, ORDER + lane, args.orders + 8 * order)
    poke(ints, KEY + lane, peek(pointer_at(args.keys, np.int64), member))
    poke(ints, STEP + lane, peek(pointer_at(args.steps, np.int64), member))
    if args.thresholds != 0:
        thresholds, n_layers = pointer_at(args.thresholds, np.int64), layers.shape[0]
        for l in range(n_layers):
            poke(ints, THRESHOLDS + l * MAX_LANES + lane, peek(thresholds, member * n_layers + l))
    if args.n_states > 0:
        interleave(offset(pointer_like(args.first, parameters), at), n, lane, offset(work, args.first_at))
    if args.n_states > 1:
        interleave(offset(pointer_like(args.second, parameters), at), n, lane, offset(work, args.second_at))
    products = pointer_at(args.running_products, np.float64)
    for i in range(args.n_products):
        poke(doubles, PRODUCTS + lane * MAX_LANES + i, peek(products, member * args.n_products + i))
    write_settings(args, work, doubles, ints, lane, 1.0)


@internal
def empty_lane(args, parameters, work, doubles, ints, lane, n_done):
    """Write the network in a lane, and its states, back to where they came from."""
    position, member = peek(ints, POSITION + lane), peek(ints, MEMBER + lane)
    n, at = args.n_parameters, member * args.stride
    deinterleave(offset(work, args.parameters_at), n, lane, offset(parameters, at))
    if args.n_states > 0:
        deinterleave(offset(work, args.first_at), n, lane, offset(pointer_like(args.first, parameters), at))
    if args.n_states > 1:
        deinterleave(offset(work, args.second_at), n, lane, offset(pointer_like(args.second, parameters), at))
    products, steps = pointer_at(args.running_products, np.float64), pointer_at(args.steps, np.int64)
    for i in range(args.n_products):
        poke(products, member * args.n_products + i, peek(doubles, PRODUCTS + lane * MAX_LANES + i))
    poke(steps, member, peek(ints, STEP + lane) + n_done)
    poke(pointer_at(args.done, np.int64), position, n_done)
    poke(ints, POSITION + lane, -1)


@internal
def double_lane(args, layers, work, doubles, ints, origin, lane):
    """Let a lane that no network has do what another one does, so that its numbers stay finite."""
    n = args.n_parameters
    copy_lane(offset(work, args.parameters_at), n, origin, lane)
    if args.n_states > 0:
        copy_lane(offset(work, args.first_at), n, origin, lane)
    if args.n_states > 1:
        copy_lane(offset(work, args.second_at), n, origin, lane)
    for i in range(args.n_products):
        at = PRODUCTS + i
        poke(doubles, at + lane * MAX_LANES, peek(doubles, at + origin * MAX_LANES))
    for field in range(0, THRESHOLDS + layers.shape[0] * MAX_LANES, MAX_LANES):
        if field != POSITION:
            poke(ints, field + lane, peek(ints, field + origin))
    for field in (TOTALS, BEFORE, LOSS_SCALES):
        poke(doubles, field + lane, peek(doubles, field + origin))
    vectors = offset(work, args.vectors_at)
    for place in range(N_VECTORS):
        set_lane(vectors, place, lane, peek(vectors, place * lanes(vectors) + origin))
    factors = offset(work, args.factors_at)
    for place in range(N_FACTORS):
        set_lane(factors, place, lane, peek(factors, place * lanes(factors) + origin))


@internal
def first_owned(ints, width):
    """Return the first lane that has a network; -1 where none has."""
    for lane in range(width):
        if peek(ints, POSITION + lane) >= 0:
            return lane
    return -1


@internal
def begin_register(args, layers, parameters, work, doubles, ints, register, is_trained):
    """Fill the lanes with the next networks; where there are fewer, the others double the first one."""
    width, vectors = width_of(work), offset(work, args.vectors_at)
    for lane in range(width):
        set_lane(vectors, ZEROS, lane, 0.0)
        set_lane(vectors, ONES, lane, 1.0)
    n = min(width, args.n_members - register * width)
    for lane in range(n):
        fill_lane(args, layers, parameters, work, doubles, ints, lane, register * width + lane, is_trained)
    for lane in range(n, width):
        poke(ints, POSITION + lane, -1)
        double_lane(args, layers, work, doubles, ints, 0, lane)
    is_shared = args.is_shared
    for lane in range(1, width):
        is_shared = is_shared and (not is_trained or peek(ints, ORDER + lane) == peek(ints, ORDER))
    for lane in range(width):
        poke(ints, IS_SHARED + lane, is_shared)


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


@internal
def splat_rows(source, n, out):
    """Give each of n numbers to all networks."""
    width, none, out = width_of(out), masked_load(registers(out), 0, 0), registers(out)
    for i in range(n):
        store(out, i * width, none + peek(source, i))


@internal
def gather_targets(args, work, ints, lane, targets, rows, n_out):
    """Turn gathered targets or labels into those of a lane, or of all lanes where they share them."""
    y, width, one = offset(work, args.y_at), width_of(work), as_float(1, work)
    none = masked_load(registers(work), 0, 0)
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
                store(registers(y), at, none + target)
            else:
                poke(y, at + lane, target)


@internal
def gather_rows(args, layers, functions, work, ints, epoch, start, rows):
    """Gather a block of samples, targets and weights; return a pointer to the inputs.

    Inputs are numbers where all networks of the register share them.  Those that lie in order and in the dtype
    (`args.is_gathered`) are read where they are.
    """
    width, is_shared = width_of(work), peek(ints, IS_SHARED) != 0
    n_in, n_out, size = layers[0, N_IN], layers[layers.shape[0] - 1, N_OUT], by_dtype(work, 4, 8)
    x, weights, rows_of_lane = offset(work, args.x_at), offset(work, args.weights_at), offset(work, args.scratch_at)
    targets, at, in_order = (
        offset(rows_of_lane, rows * n_in),
        epoch * args.n_rows + start,
        args.is_gathered or args.orders == 0,
    )
    if is_shared and args.is_gathered:
        if args.y_kind == Y_ROWS:
            splat_rows(pointer_like(peek(ints, Y) + at * n_out * size, work), rows * n_out, offset(work, args.y_at))
        elif args.y_kind == Y_LABELS:
            labels = pointer_at(peek(ints, Y), np.int64)
            for r in range(rows):
                poke(targets, r, as_float(peek(labels, at + r), work))
            gather_targets(args, work, ints, 0, targets, rows, n_out)
        if args.weights != 0:
            splat_rows(pointer_like(peek(ints, WEIGHTS) + at * size, work), rows, weights)
        return pointer_like(peek(ints, X) + at * n_in * size, work)
    for lane in range(1 if is_shared else width):
        order = pointer_at(peek(ints, ORDER + lane), np.int64)
        inputs = x if is_shared else rows_of_lane
        gather_lane(args, functions, ints, lane, inputs, targets, n_in, n_out, order, at, in_order, rows)
        if not is_shared:
            interleave(inputs, rows * n_in, lane, x)
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
    y, vectors = registers(offset(work, args.y_at)), offset(work, args.vectors_at)
    width, whole = lanes(y), lanes(vectors)
    smoothing, share = load(registers(vectors), SMOOTHING * whole), load(registers(vectors), SHARE * whole)
    for i in range(0, n * width, width):
        target = load(y, i)
        store(y, i, where(smoothing == 0.0, target, target * (1.0 - smoothing) + share))


@internal
def draw_dropout(args, functions, work, ints, l, n_out, batch, rows, place, factors):
    """Write the factors of dropout, 0 or 1 / (1 - p), of the outputs of layer l; row 0 is row `place` of its batch."""
    row, one = offset(work, args.scratch_at), as_float(1, work)
    for lane in range(width_of(work)):
        for i in range(rows * n_out):
            poke(row, i, one)
        threshold = peek(ints, THRESHOLDS + l * MAX_LANES + lane)
        if threshold > 0:
            key, step = peek(ints, KEY + lane), peek(ints, STEP + lane) + batch
            call(functions[DROP], key, step, l, threshold, row, n_out, row, n_out, rows, place, 0, n_out)
        interleave(row, rows * n_out, lane, factors)


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
    width = lanes(z)
    for r in range(rows):
        at = r * n * width
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
        store(lse, r * width, _log(total) + shift)


@internal
def losses_of_rows(args, layers, functions, work, rows):
    """Write the loss of each sample, summed over its outputs."""
    layer = layers[layers.shape[0] - 1]
    n, whole = layer[N_OUT], lanes(work)
    z, a, y = offset(work, layer[Z_AT]), offset(work, layer[A_AT]), offset(work, args.y_at)
    losses, parts = offset(work, args.losses_at), offset(work, args.scratch_at)
    out, width = registers(losses), width_of(work)
    if args.takes_log_softmax:
        sums, lse, logits, targets = registers(parts), registers(offset(work, args.lse_at)), registers(z), registers(y)
        for r in range(rows):
            normalizer = load(lse, r * width)
            for j in range(n):
                at = (r * n + j) * width
                target = load(targets, at)
                add_part(sums, j, whole, where(target == 0.0, 0.0, target * (normalizer - load(logits, at))))
            store(out, r * width, fold(sums, min(n, whole)))
        return
    values = losses if n == 1 else offset(parts, MAX_LANES * width)
    parameter = as_float(args.loss_parameter, work)
    call(functions[SAMPLE_LOSSES], parameter, False, z, a, y, z, values, rows * n * width, 1, 1)
    if n > 1:
        sums, terms = registers(parts), registers(values)
        for r in range(rows):
            for j in range(n):
                add_part(sums, j, whole, load(terms, (r * n + j) * width))
            store(out, r * width, fold(sums, min(n, whole)))


@internal
def add_losses(args, work, doubles, rows, is_weighted, loss_scale):
    """Add the losses of a block of samples to the sums; return whether all of these are finite."""
    losses, weights = registers(offset(work, args.losses_at)), registers(offset(work, args.weights_at))
    totals, width, vectors = doubles_of(doubles, work), lanes(losses), offset(work, args.vectors_at)
    limit = load(registers(vectors), MAX_LOSS * lanes(vectors))
    total, scale = load(totals, TOTALS), load(totals, LOSS_SCALES) * loss_scale
    for r in range(rows):
        loss = load(losses, r * width)
        if args.has_limit:
            loss = where(loss > limit, where(loss < np.inf, limit, loss), loss)
        if is_weighted:
            loss = loss * load(weights, r * width)
        total = total + as_doubles(loss) * scale
    store(totals, TOTALS, total)
    return all_finite(total)


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
    width, p, a = width_of(work), offset(work, args.parameters_at), x
    for l in range(layers.shape[0]):
        layer = layers[l]
        n_in, n_out, z = layer[N_IN], layer[N_OUT], offset(work, layer[Z_AT])
        w = offset(p, layer[W_AT] * width)
        b, row = offset(w, n_in * n_out * width), n_out * width
        kind, step = product_of_layer(ints, l, width)
        call(functions[kind], rows, n_out, n_in, a, n_in * step, step, w, row, width, z, row, width, b, 0, width)
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
    weights, delta = registers(offset(work, args.weights_at)), registers(delta)
    width = lanes(delta)
    for r in range(rows):
        weight = load(weights, r * width)
        for at in range(r * n_out * width, (r + 1) * n_out * width, width):
            store(delta, at, load(delta, at) * weight)


@internal
def output_delta(args, layers, functions, work, scale, rows):
    """Compute delta of the output layer."""
    layer, width = layers[layers.shape[0] - 1], width_of(work)
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
    layer, before, width = layers[l], layers[l - 1], width_of(work)
    n_in, n_out, delta, out = layer[N_IN], layer[N_OUT], offset(work, layer[DELTA_AT]), offset(work, before[DELTA_AT])
    w, row, zero = offset(p, layer[W_AT] * width), n_out * width, offset(work, args.vectors_at)
    call(functions[PRODUCT], rows, n_in, n_out, delta, row, width, w, width, row, out, n_in * width, width, zero, 0, 0)
    n = rows * n_in * width
    if drops:
        multiply(out, offset(work, before[DROP_AT] + n), out, n)
    if before[ACTIVATION] != IDENTITY:
        call(before[BACKWARD_AT], offset(work, before[Z_AT]), offset(work, before[A_AT]), out, n, n, 1)


@inline
def update(args, functions, work, at, gradient, n, are_weights):
    """Update n parameters of each network, from place `at` on."""
    width, vectors, factors = width_of(work), offset(work, args.vectors_at), offset(work, args.factors_at)
    if not are_weights:
        factors = offset(factors, args.bias_factors * lanes(factors))
    call(
        functions[UPDATE],
        factors,
        gradient,
        offset(work, args.parameters_at + at * width),
        offset(work, args.first_at + at * width),
        offset(work, args.second_at + at * width),
        n * width,
        vectors,
        args.has_penalties,
        are_weights,
    )


@internal
def update_layer(args, layers, functions, work, ints, x, l, rows, place, is_last, drops):
    """Sum the gradient of a layer over a block of samples; update by it, after the last block of the batch."""
    layer, width = layers[l], width_of(work)
    n_in, n_out, row = layer[N_IN], layer[N_OUT], layer[N_OUT] * width
    delta, zero = offset(work, layer[DELTA_AT]), offset(work, args.vectors_at)  # the vector ZEROS
    a = x
    if l > 0:
        a = offset(work, layers[l - 1, DROP_AT if drops else A_AT])
    one = offset(zero, ONES * lanes(zero))
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
            if has_biases and not args.has_penalties and args.bias_factors == 0:
                update(args, functions, work, first, gradient, (n + 1) * n_out, False)
            else:
                update(args, functions, work, first, gradient, n * n_out, True)
                if has_biases:
                    at = first + n * n_out
                    update(args, functions, work, at, offset(gradient, n * row), n_out, False)
        if has_biases:
            break
        top += n


# ------------------------------------------------------------------------------------------------ one register


@internal
def write_factors(args, functions, work, doubles, ints, n_done):
    """Write the factors of the next update of each network into vectors."""
    width, factors, number = width_of(work), offset(work, args.factors_at), offset(work, args.scratch_at)
    for lane in range(1 if args.has_same_settings else width):
        member = peek(ints, MEMBER + lane)
        settings = pointer_at(args.settings, np.float64)
        settings = offset(settings, member * args.settings_stride)
        products = offset(doubles, PRODUCTS + lane * MAX_LANES)
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
            for other in range(width):
                for i in range(N_FACTORS):
                    set_lane(factors, i, other, peek(number, i))
                if other > 0:
                    for i in range(args.n_products):
                        poke(doubles, PRODUCTS + other * MAX_LANES + i, peek(products, i))
        else:
            for i in range(N_FACTORS):
                set_lane(factors, i, lane, peek(number, i))


@internal
def penalty_of_lanes(args, layers, work, lane):
    """Return l2 / 2 times the sum of the squares of the weights of the network in a lane."""
    width, p, total = width_of(work), offset(work, args.parameters_at), 0.0
    for l in range(layers.shape[0]):
        w = offset(p, layers[l, W_AT] * width + lane)
        for i in range(layers[l, N_IN] * layers[l, N_OUT]):
            value = np.float64(peek(w, i * width))
            total += value * value
    return 0.5 * total


@internal
def train_batch(args, layers, functions, work, doubles, ints, epoch, batch, n_done):
    """Train one batch of every network of a register; return False where a loss is not finite, before any update."""
    width, p = width_of(work), offset(work, args.parameters_at)
    start = batch * args.batch_size
    n = min(args.batch_size, args.n_rows - start)
    scale, loss_scale = as_float(1, work), 1.0
    if args.is_mean or args.weighted_mean:
        scale = as_float(1, work) / as_float(n, work)
    drops = args.thresholds != 0
    if args.weighted_mean:
        per_weight = 1.0 / n
        scale, loss_scale = as_float(per_weight, work), n * per_weight
        if args.has_penalties:
            for lane in range(width):
                l2 = setting_of(args, peek(ints, MEMBER + lane), SETTING_L2)
                set_lane(offset(work, args.vectors_at), L2, lane, l2 * per_weight)
                penalty = l2 * penalty_of_lanes(args, layers, work, lane) * loss_scale
                poke(doubles, TOTALS + lane, peek(doubles, TOTALS + lane) + penalty)
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
    width = width_of(work)
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
def train_register(args, layers, functions, parameters, work, doubles, ints, register):
    """Train the networks of one register over all batches of the call."""
    begin_register(args, layers, parameters, work, doubles, ints, register, True)
    width, losses = width_of(work), pointer_at(args.losses, np.float64)
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
            store(totals, BEFORE, load(totals, TOTALS))
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
def evaluate_register(args, layers, functions, parameters, work, doubles, ints, register):
    """Compute outputs, or the sums of the sample losses, of the networks of one register over all samples."""
    begin_register(args, layers, parameters, work, doubles, ints, register, False)
    width, losses, last = width_of(work), pointer_at(args.losses, np.float64), layers.shape[0] - 1
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
                    deinterleave(a, rows * n_out, lane, out)
        if args.losses != 0:
            losses_of_rows(args, layers, functions, work, rows)
            add_losses(args, work, doubles, rows, False, 1.0)
    if args.losses != 0:
        for lane in range(width):
            position = peek(ints, POSITION + lane)
            if position >= 0:
                poke(losses, position, peek(doubles, TOTALS + lane))


# ------------------------------------------------------------------------------------------------ the kernels


def _over_registers(of_register, name):
    """Return the kernel whose threads take one register of networks after the other."""

    def run(job, parameters, thread):
        """Do one thread's part of a job, whose task is `PopulationArgs`; `parameters` are those of network 0."""
        args = unpacked(offset(job, TASK_AT), PopulationArgs, ())
        layers = carray(pointer_like(args.layers, job), (args.n_layers, N_LAYER_COLUMNS))
        functions = carray(pointer_like(args.functions, job), (N_FUNCTIONS,))
        work = offset(pointer_like(args.workspace, parameters), thread * args.workspace_size)
        doubles = offset(pointer_at(args.doubles, np.float64), thread * args.doubles_size)
        ints = offset(pointer_at(args.ints, np.int64), thread * args.ints_size)
        width, next_register = width_of(work), pointer_at(args.next_register, np.int64)
        control = flush_subnormals()
        register = atomic_add(next_register, 0, 1)
        while register * width < args.n_members:
            of_register(args, layers, functions, parameters, work, doubles, ints, register)
            register = atomic_add(next_register, 0, 1)
        restore_mxcsr(control)

    run.__name__ = run.__qualname__ = name
    return native("opi")(run)


train = _over_registers(train_register, "train")
evaluate = _over_registers(evaluate_register, "evaluate")


@native("opi")
def run_jobs(job, parameters, thread):
    """Run the jobs of single networks, each on one thread; one thread's part of it.

    Parameters
    ----------
    job : pointer to int64
        CallArgs for `threads.launch`, and `JobsArgs` as its task.
    parameters : not used
    thread : number of this thread, from 0.
    """
    args = unpacked(offset(job, TASK_AT), JobsArgs, ())
    members, counter = pointer_like(args.members, job), pointer_like(args.next_member, job)
    i = atomic_add(counter, 0, 1)
    while i < args.n_members:
        one = pointer_like(args.first + 8 * args.stride * peek(members, i), job)
        call_args = unpacked(offset(one, CALL_ARGS_AT), CallArgs, ())
        poke(one, WORKSPACE_AT, peek(pointer_like(args.workspaces, job), thread))
        if args.gradients != 0:
            poke(one, GRADIENT_AT, peek(pointer_like(args.gradients, job), thread))
            poke(one, SUMS_AT, peek(pointer_like(args.sums, job), thread))
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
        i = atomic_add(counter, 0, 1)
