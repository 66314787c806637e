"""Networks in and out of the lanes of a group that is interleaved, and what is known of the network in each lane."""

import numpy as np

from .interleaved import registers
from .jit import inline, internal
from .layout import (
    CLIP,
    L1,
    L2,
    MAX_LOSS,
    MAX_NETWORKS,
    N_FACTORS,
    N_VECTORS,
    ONES,
    SETTING_CLIP,
    SETTING_L1,
    SETTING_L2,
    SETTING_LOSS_SCALE,
    SETTING_MAX_LOSS,
    SETTING_SHARE,
    SETTING_SMOOTHING,
    SHARE,
    SMOOTHING,
    ZEROS,
)
from .simd import lanes, offset, peek, pointer_at, pointer_like, poke

# Fields of a lane in the workspace of integers, MAX_NETWORKS numbers each; then those of the thresholds of each layer.
# IS_SHARED is whether all lanes read the same data in the same order.
MEMBER, POSITION, X, Y, WEIGHTS, ORDER, KEY, STEP, IS_SHARED, THRESHOLDS = (field * MAX_NETWORKS for field in range(10))
# Fields in the workspace of float64: sums of losses, those before the batch, factors of losses, sums of squares of the
# weights; running products.
TOTALS, BEFORE, LOSS_SCALES, PENALTIES, PRODUCTS = (field * MAX_NETWORKS for field in range(5))


@inline
def width_of(args, p):
    """Return how many networks are interleaved."""
    return args.n_registers * lanes(registers(p))


@inline
def period_of(args, vectors):
    """Return after how many numbers the vectors of settings repeat: those of all networks, but a whole vector."""
    return max(width_of(args, vectors), lanes(vectors))


@inline
def set_lane(args, vectors, place, lane, value):
    """Set the number of a network in one of the vectors, in each of its repetitions."""
    period = period_of(args, vectors)
    for at in range(place * period + lane, (place + 1) * period, width_of(args, vectors)):
        poke(vectors, at, value)


@internal
def interleave(source, n, width, lane, out):
    """Copy n numbers to a lane."""
    for i in range(n):
        poke(out, i * width + lane, peek(source, i))


@internal
def deinterleave(source, n, width, lane, out):
    """Copy n numbers of a lane back."""
    for i in range(n):
        poke(out, i, peek(source, i * width + lane))


@internal
def copy_lane(values, n, width, origin, lane):
    """Copy n numbers from one lane to another."""
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
    set_lane(args, vectors, L1, lane, setting_of(args, member, SETTING_L1))
    set_lane(args, vectors, L2, lane, setting_of(args, member, SETTING_L2) * per_weight)
    set_lane(args, vectors, CLIP, lane, clip if clip > 0 else np.inf)
    set_lane(args, vectors, SMOOTHING, lane, setting_of(args, member, SETTING_SMOOTHING))
    set_lane(args, vectors, SHARE, lane, setting_of(args, member, SETTING_SHARE))
    set_lane(args, vectors, MAX_LOSS, lane, setting_of(args, member, SETTING_MAX_LOSS))
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
    n, at, width = args.n_parameters, member * args.stride, width_of(args, work)
    interleave(offset(parameters, at), n, width, lane, offset(work, args.parameters_at))
    if not is_trained:
        return
    order = peek(pointer_at(args.order_of, np.int64), position) * args.n_epochs * args.n_rows
    poke(ints, ORDER + lane, args.orders + 8 * order)
    poke(ints, KEY + lane, peek(pointer_at(args.keys, np.int64), member))
    poke(ints, STEP + lane, peek(pointer_at(args.steps, np.int64), member))
    if args.thresholds != 0:
        thresholds, n_layers = pointer_at(args.thresholds, np.int64), layers.shape[0]
        for l in range(n_layers):
            poke(ints, THRESHOLDS + l * MAX_NETWORKS + lane, peek(thresholds, member * n_layers + l))
    if args.n_states > 0:
        interleave(offset(pointer_like(args.first, parameters), at), n, width, lane, offset(work, args.first_at))
    if args.n_states > 1:
        interleave(offset(pointer_like(args.second, parameters), at), n, width, lane, offset(work, args.second_at))
    products = pointer_at(args.running_products, np.float64)
    for i in range(args.n_products):
        poke(doubles, PRODUCTS + lane * args.n_products + i, peek(products, member * args.n_products + i))
    write_settings(args, work, doubles, ints, lane, 1.0)


@internal
def empty_lane(args, parameters, work, doubles, ints, lane, n_done):
    """Write the network in a lane, and its states, back to where they came from."""
    position, member = peek(ints, POSITION + lane), peek(ints, MEMBER + lane)
    n, at, width = args.n_parameters, member * args.stride, width_of(args, work)
    deinterleave(offset(work, args.parameters_at), n, width, lane, offset(parameters, at))
    if args.n_states > 0:
        deinterleave(offset(work, args.first_at), n, width, lane, offset(pointer_like(args.first, parameters), at))
    if args.n_states > 1:
        deinterleave(offset(work, args.second_at), n, width, lane, offset(pointer_like(args.second, parameters), at))
    products, steps = pointer_at(args.running_products, np.float64), pointer_at(args.steps, np.int64)
    for i in range(args.n_products):
        poke(products, member * args.n_products + i, peek(doubles, PRODUCTS + lane * args.n_products + i))
    poke(steps, member, peek(ints, STEP + lane) + n_done)
    poke(pointer_at(args.done, np.int64), position, n_done)
    poke(ints, POSITION + lane, -1)


@internal
def double_lane(args, layers, work, doubles, ints, origin, lane):
    """Let a lane that no network has do what another one does, so that its numbers stay finite."""
    n, width = args.n_parameters, width_of(args, work)
    copy_lane(offset(work, args.parameters_at), n, width, origin, lane)
    if args.n_states > 0:
        copy_lane(offset(work, args.first_at), n, width, origin, lane)
    if args.n_states > 1:
        copy_lane(offset(work, args.second_at), n, width, origin, lane)
    for i in range(args.n_products):
        at = PRODUCTS + i
        poke(doubles, at + lane * args.n_products, peek(doubles, at + origin * args.n_products))
    for field in range(0, THRESHOLDS + layers.shape[0] * MAX_NETWORKS, MAX_NETWORKS):
        if field != POSITION:
            poke(ints, field + lane, peek(ints, field + origin))
    for field in (TOTALS, BEFORE, LOSS_SCALES):
        poke(doubles, field + lane, peek(doubles, field + origin))
    vectors, period = offset(work, args.vectors_at), period_of(args, work)
    for place in range(N_VECTORS):
        set_lane(args, vectors, place, lane, peek(vectors, place * period + origin))
    factors = offset(work, args.factors_at)
    for place in range(N_FACTORS):
        set_lane(args, factors, place, lane, peek(factors, place * period + origin))


@internal
def first_owned(ints, width):
    """Return the first lane that has a network; -1 where none has."""
    for lane in range(width):
        if peek(ints, POSITION + lane) >= 0:
            return lane
    return -1


@internal
def begin_group(args, layers, parameters, work, doubles, ints, group, is_trained):
    """Fill the lanes with the next networks; where there are fewer, the others double the first one."""
    width, vectors = width_of(args, work), offset(work, args.vectors_at)
    for lane in range(width):
        set_lane(args, vectors, ZEROS, lane, 0.0)
        set_lane(args, vectors, ONES, lane, 1.0)
    n = min(width, args.n_members - group * width)
    for lane in range(n):
        fill_lane(args, layers, parameters, work, doubles, ints, lane, group * width + lane, is_trained)
    for lane in range(n, width):
        poke(ints, POSITION + lane, -1)
        double_lane(args, layers, work, doubles, ints, 0, lane)
    is_shared = args.is_shared
    for lane in range(1, width):
        is_shared = is_shared and (not is_trained or peek(ints, ORDER + lane) == peek(ints, ORDER))
    for lane in range(width):
        poke(ints, IS_SHARED + lane, is_shared)
