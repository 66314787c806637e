"""The native functions of a custom activation or loss: loops that call the user's compiled functions of one element.

The functions come through `guarded`: where one raises an exception it gives NaN.  One element is computed after the
other, so that results do not depend on vectors or threads.
"""

import itertools
import math

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from .compiler import FLAGS
from .elementwise import BACKWARD, FORWARD
from .library import load_code, loading_lock
from .losses import OUTPUT_GRADIENT, SAMPLE_LOSSES
from .native import NativeFunction
from .simd import LANES, peek, poke


class UserFunction:
    """A native function made of a user's functions: compiled in each process, and not kept on disk."""

    def __init__(self, function, arguments):
        self._native, self._addresses = NativeFunction(function, arguments), {}

    def address(self, dtype):
        """Return the address of its machine code for a dtype, compiled now if need be."""
        dtype = np.dtype(dtype)
        with loading_lock:
            if dtype not in self._addresses:
                symbol = f"fastbp_user_{next(_numbers)}"
                self._addresses[dtype] = load_code(self._native.compile(dtype, symbol, standalone=False), symbol)
            return self._addresses[dtype]

    def is_cached(self, dtype):
        """Whether its machine code is in memory."""
        return np.dtype(dtype) in self._addresses


_numbers = itertools.count()  # symbols are unique


def or_nan(function):
    """Return an intrinsic that calls an njit function of numbers and returns NaN where it raises an exception."""

    @intrinsic
    def call_it(typingctx, *args):
        function.compile(args)
        compiled = function.overloads[args]
        given = compiled.signature.return_type
        result = given if given in LANES else types.float64

        def codegen(context, builder, sig, values):
            context.active_code_library.add_linking_library(compiled.library)
            values = cgutils.unpack_tuple(builder, values[0])
            status, value = context.call_internal_no_propagate(builder, compiled.fndesc, compiled.signature, values)
            value = context.cast(builder, value, given, result)
            return builder.select(status.is_ok, value, ir.Constant(value.type, math.nan))

        return signature(result, types.StarArgTuple(args)), codegen

    return call_it


def guarded(function):
    """Return an njit function that does what the given one does, and returns NaN where that raises an exception."""
    call = or_nan(function)

    @numba.njit(**FLAGS)
    def guard(*arguments):
        return call(*arguments)

    return guard


def activation_functions(function, derivative):
    """Return the native functions of an activation function(z) with the derivative(z, a), njit functions both."""

    def activation_forward(z, a, row_stride, columns, lse, rows):
        for r in range(rows):
            for i in range(r * row_stride, r * row_stride + columns):
                poke(a, i, function(peek(z, i)))

    def activation_backward(z, a, delta, row_stride, columns, rows):
        for r in range(rows):
            for i in range(r * row_stride, r * row_stride + columns):
                poke(delta, i, peek(delta, i) * derivative(peek(z, i), peek(a, i)))

    return UserFunction(activation_forward, FORWARD), UserFunction(activation_backward, BACKWARD)


def loss_functions(function, derivative):
    """Return the native functions of a loss function(a, y) with the derivative(a, y) by a, njit functions both."""

    def sample_losses(parameter, has_labels, z, a, y, lse, out, rows, columns, row_stride):
        for r in range(rows):
            total = 0.0
            for i in range(r * row_stride, r * row_stride + columns):
                total += function(peek(a, i), peek(y, i))
            poke(out, r, total)

    def output_gradient(parameter, has_labels, z, a, y, scale, out, rows, columns, row_stride):
        for r in range(rows):
            for i in range(r * row_stride, r * row_stride + columns):
                poke(out, i, derivative(peek(a, i), peek(y, i)) * scale)

    return UserFunction(sample_losses, SAMPLE_LOSSES), UserFunction(output_gradient, OUTPUT_GRADIENT)
