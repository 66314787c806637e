"""Atomics, the pause of a spin loop, the clock, and the control word of floating-point arithmetic, in LLVM IR."""

import time

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from .simd import _element, i32, i64


@intrinsic
def atomic_add(typingctx, p, n, value):
    """Add to an integer in memory, as one indivisible step; returns what it was."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", _element(context, builder, sig, args), args[2], "acq_rel")

    return signature(p.dtype, p, n, p.dtype), codegen


@intrinsic
def atomic_exchange(typingctx, p, n, value):
    """Set an integer in memory; returns what it was."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("xchg", _element(context, builder, sig, args), args[2], "acq_rel")

    return signature(p.dtype, p, n, p.dtype), codegen


@intrinsic
def compare_exchange(typingctx, p, n, before, after):
    """Set an integer in memory to `after` if it is `before`; return whether it was."""

    def codegen(context, builder, sig, args):
        pair = builder.cmpxchg(_element(context, builder, sig, args), args[2], args[3], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return signature(types.boolean, p, n, p.dtype, p.dtype), codegen


@intrinsic
def atomic_load(typingctx, p, n):
    """Read an integer that another thread may be writing."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(_element(context, builder, sig, args), "acquire", 8)

    return signature(p.dtype, p, n), codegen


def _is_x86(builder):
    return builder.module.triple.startswith(("x86_64", "i686", "i386"))


def _is_arm(builder):
    return builder.module.triple.startswith(("aarch64", "arm64"))


def _is_windows(builder):
    return "windows" in builder.module.triple


def _call_c(builder, name, result, *args):
    """Call an LLVM intrinsic, or a function of the C library, by its name."""
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


FLUSH_AND_ZERO = 0x8040  # of x86's control word MXCSR: subnormal results, and operands, are zero


FLUSH_BOTH = 1 << 24  # of ARM's control word FPCR: the same


def control_word(builder):
    """Read the control word of floating-point arithmetic, an i64; 0 where it is not known how."""
    if _is_x86(builder):
        word = cgutils.alloca_once(builder, i32)
        _call_c(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), word)
        return builder.zext(builder.load(word), i64)
    return _call_c(builder, "llvm.aarch64.get.fpcr", i64) if _is_arm(builder) else i64(0)


def set_control_word(builder, control):
    """Write the control word."""
    if _is_x86(builder):
        word = cgutils.alloca_once_value(builder, builder.trunc(control, i32))
        _call_c(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), word)
    elif _is_arm(builder):
        _call_c(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), control)


@intrinsic
def flush_subnormals(typingctx):
    """Take subnormal numbers for zero in this thread from now on; return what `restore_mxcsr` puts back.

    Operations on them are slow, and moments that decay towards zero are full of them: Lion on 8-16-1 took 1567 ns a
    step with them and 170 without.  On x86 and 64-bit ARM; elsewhere nothing happens.  Whether a result is subnormal
    is decided after rounding on x86, before it on ARM: they differ in what rounds up to the smallest normal number.
    """

    def codegen(context, builder, sig, args):
        before = control_word(builder)
        set_control_word(builder, builder.or_(before, i64(FLUSH_AND_ZERO if _is_x86(builder) else FLUSH_BOTH)))
        return before

    return signature(types.int64), codegen


@intrinsic
def restore_mxcsr(typingctx, control):
    """Undo `flush_subnormals`."""

    def codegen(context, builder, sig, args):
        set_control_word(builder, args[0])
        return context.get_dummy_value()

    return signature(types.void, types.int64), codegen


def pause(builder):
    """See `spin_pause`."""
    if _is_x86(builder):
        _call_c(builder, "llvm.x86.sse2.pause", ir.VoidType())
    elif _is_arm(builder):  # its own hint, `yield`, takes no time on most cores
        _call_c(builder, "llvm.aarch64.isb", ir.VoidType(), i32(15))


@intrinsic
def spin_pause(typingctx):
    """Tell the processor that this thread is waiting in a loop; it takes some 10 to 50 ns."""

    def codegen(context, builder, sig, args):
        pause(builder)
        return context.get_dummy_value()

    return signature(types.void), codegen


def emit_yield(builder):
    """See `yield_thread`."""
    _call_c(builder, "SwitchToThread" if _is_windows(builder) else "sched_yield", i32)


@intrinsic
def yield_thread(typingctx):
    """Let another thread have this core."""

    def codegen(context, builder, sig, args):
        emit_yield(builder)
        return context.get_dummy_value()

    return signature(types.void), codegen


def clock(builder):
    """See `nanoseconds`."""
    if _is_windows(builder):
        now, frequency = (cgutils.alloca_once(builder, i64) for _ in range(2))
        _call_c(builder, "QueryPerformanceCounter", i32, now)
        _call_c(builder, "QueryPerformanceFrequency", i32, frequency)
        now, frequency = (builder.sitofp(builder.load(word), ir.DoubleType()) for word in (now, frequency))
        return builder.fptosi(builder.fmul(builder.fdiv(now, frequency), ir.Constant(now.type, 1e9)), i64)
    now = cgutils.alloca_once(builder, ir.ArrayType(i64, 2))  # a timespec
    _call_c(builder, "clock_gettime", i32, i32(getattr(time, "CLOCK_MONOTONIC", 1)), now)
    seconds, rest = (builder.load(builder.gep(now, [i32(0), i32(i)])) for i in range(2))
    return builder.add(builder.mul(seconds, i64(1_000_000_000)), rest)


@intrinsic
def nanoseconds(typingctx):
    """Return the time of a clock that only goes forward, in ns from some start; it takes as long as a pause or two."""
    return signature(types.int64), lambda context, builder, sig, args: clock(builder)
