"""A user's own activation or loss as leaves: loops over a block that call the compiled functions of one element.

The functions come through `guarded`: where one raises an exception it gives NaN.  The leaves take what
`elementwise.activation_forward` and `activation_backward`, or `losses.sample_losses` and `output_gradient`, take.  One element is computed after the
other, so that results do not depend on vectors or threads.
"""

import numba

from .backprop import FUNCTION_TABLE
from .elementwise import _identity, map_block
from .jit import FLAGS, internal
from .layout import ACTIVATION_BACKWARD, ACTIVATION_FORWARD, OUTPUT_GRADIENT, SAMPLE_LOSSES
from .losses import Y_GRADIENT
from .simd import or_nan, peek, poke


def guarded(function):
    """Return an njit function that does what the given one does, and returns NaN where that raises an exception."""
    call = or_nan(function)

    @numba.njit(**FLAGS)
    def guard(*arguments):
        return call(*arguments)

    return guard


def activation_functions(function, derivative):
    """Return the two leaves of an activation function(z) with the derivative(z, a), njit functions both."""

    @internal
    def activation_forward(code, z, a, row, columns, lse, rows):
        for r in range(rows):
            for i in range(r * row, r * row + columns):
                poke(a, i, function(peek(z, i)))

    @internal
    def activation_backward(code, z, a, delta, row, columns, rows):
        for r in range(rows):
            for i in range(r * row, r * row + columns):
                poke(delta, i, peek(delta, i) * derivative(peek(z, i), peek(a, i)))

    return FUNCTION_TABLE[ACTIVATION_FORWARD].like(activation_forward), FUNCTION_TABLE[ACTIVATION_BACKWARD].like(
        activation_backward
    )


def loss_functions(function, derivative):
    """Return the two leaves of a loss function(a, y) with the derivative(a, y) by a, njit functions both."""

    @internal
    def sample_losses(loss, loss_parameter, fused, y_kind, z, a, y, lse, out, rows, n, row):
        for r in range(rows):
            total = 0.0
            for i in range(r * row, r * row + n):
                total += function(peek(a, i), peek(y, i))
            poke(out, r, total)

    @internal
    def output_gradient(loss, loss_parameter, fused, y_kind, z, a, y, scale, out, rows, n, row):
        if y_kind == Y_GRADIENT:
            map_block(_identity, y, out, rows * row)
        else:
            for r in range(rows):
                for i in range(r * row, r * row + n):
                    poke(out, i, derivative(peek(a, i), peek(y, i)) * scale)

    return FUNCTION_TABLE[SAMPLE_LOSSES].like(sample_losses), FUNCTION_TABLE[OUTPUT_GRADIENT].like(output_gradient)
