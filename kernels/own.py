"""A user's own activation or loss as leaves: loops over a block that call the compiled functions of one element.

The functions come through `guarded`: where one raises an exception it gives NaN.  The leaves take what
`elementwise.activate` and `derive`, or `losses.measure` and `output_gradient`, take.  One element is computed after the
other, so that results do not depend on vectors or threads.
"""

import numba

from .block import LEAVES
from .elementwise import _identity, map_block
from .jit import FLAGS, part
from .losses import Y_GRADIENT
from .plan import ACTIVATE, DERIVE, MEASURE, OUTPUT_GRADIENT
from .simd import or_nan, peek, poke


def guarded(function):
    """Return an njit function that does what the given one does, and returns NaN where that raises an exception."""
    call = or_nan(function)

    @numba.njit(**FLAGS)
    def guard(*arguments):
        return call(*arguments)

    return guard


def activation_leaves(function, derivative):
    """Return the two leaves of an activation function(z) with the derivative(z, a), njit functions both."""

    @part
    def activate(code, z, a, row, columns, lse, rows):
        for r in range(rows):
            for i in range(r * row, r * row + columns):
                poke(a, i, function(peek(z, i)))

    @part
    def derive(code, z, a, delta, row, columns, rows):
        for r in range(rows):
            for i in range(r * row, r * row + columns):
                poke(delta, i, peek(delta, i) * derivative(peek(z, i), peek(a, i)))

    return LEAVES[ACTIVATE].like(activate), LEAVES[DERIVE].like(derive)


def loss_leaves(function, derivative):
    """Return the two leaves of a loss function(a, y) with the derivative(a, y) by a, njit functions both."""

    @part
    def measure(loss, number, fused, y_kind, z, a, y, lse, out, rows, n, row):
        for r in range(rows):
            total = 0.0
            for i in range(r * row, r * row + n):
                total += function(peek(a, i), peek(y, i))
            poke(out, r, total)

    @part
    def output_gradient(loss, number, fused, y_kind, z, a, y, scale, out, rows, n, row):
        if y_kind == Y_GRADIENT:
            map_block(_identity, y, out, rows * row)
        else:
            for r in range(rows):
                for i in range(r * row, r * row + n):
                    poke(out, i, derivative(peek(a, i), peek(y, i)) * scale)

    return LEAVES[MEASURE].like(measure), LEAVES[OUTPUT_GRADIENT].like(output_gradient)
