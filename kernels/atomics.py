"""Atomic operations, the pause of a spin loop, yielding, the clock and the floating-point control word, as LLVM IR."""

import time

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from .simd import _element, i32, i64


@intrinsic
def atomic_add(typingctx, p, n, value):
    """Add to an integer in memory; return its value before."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", _element(context, builder, sig, args), args[2], "acq_rel")

    return signature(p.dtype, p, n, p.dtype), codegen


@intrinsic
def atomic_exchange(typingctx, p, n, value):
    """Set an integer in memory; return its value before."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("xchg", _element(context, builder, sig, args), args[2], "acq_rel")

    return signature(p.dtype, p, n, p.dtype), codegen


@intrinsic
def compare_exchange(typingctx, p, n, before, after):
    """Set an integer in memory to `after` if it is `before`; return whether it was set."""

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


FLUSH_MXCSR = 0x8040  # bits of x86's control word: subnormal results, and operands, are taken for zero
FLUSH_FPCR = 1 << 24  # the bit of ARM's control word for both


def emit_control_word(builder):
    """Emit a read of the floating-point control word, an i64; 0 on other processors than x86 and ARM."""
    if _is_x86(builder):
        word = cgutils.alloca_once(builder, i32)
        _call_c(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), word)
        return builder.zext(builder.load(word), i64)
    return _call_c(builder, "llvm.aarch64.get.fpcr", i64) if _is_arm(builder) else i64(0)


def emit_set_control_word(builder, control):
    """Emit a write of the control word."""
    if _is_x86(builder):
        word = cgutils.alloca_once_value(builder, builder.trunc(control, i32))
        _call_c(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), word)
    elif _is_arm(builder):
        _call_c(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), control)


@intrinsic
def flush_subnormals(typingctx):
    """Take subnormal numbers for zero in this thread from now on; return the control word for `restore_mxcsr`.

    Operations on them are slow, and moments that decay towards zero are full of them: Lion on 8-16-1 took 1567 ns a
    step with them and 170 without.  Works on x86 and 64-bit ARM and does nothing elsewhere.  x86 tells whether a result
    is subnormal after rounding, ARM before; they differ for results that round up to the smallest normal number.
    """

    def codegen(context, builder, sig, args):
        before = emit_control_word(builder)
        emit_set_control_word(builder, builder.or_(before, i64(FLUSH_MXCSR if _is_x86(builder) else FLUSH_FPCR)))
        return before

    return signature(types.int64), codegen


@intrinsic
def restore_mxcsr(typingctx, control):
    """Restore the control word, MXCSR or FPCR, that `flush_subnormals` returned."""

    def codegen(context, builder, sig, args):
        emit_set_control_word(builder, args[0])
        return context.get_dummy_value()

    return signature(types.void, types.int64), codegen


def emit_pause(builder):
    """See `spin_pause`."""
    if _is_x86(builder):
        _call_c(builder, "llvm.x86.sse2.pause", ir.VoidType())
    elif _is_arm(builder):  # whose hint for this, `yield`, takes no time on most cores
        _call_c(builder, "llvm.aarch64.isb", ir.VoidType(), i32(15))


@intrinsic
def spin_pause(typingctx):
    """Tell the processor that this thread waits in a loop; takes 10 to 50 ns."""

    def codegen(context, builder, sig, args):
        emit_pause(builder)
        return context.get_dummy_value()

    return signature(types.void), codegen


def emit_yield(builder):
    """See `yield_thread`."""
    _call_c(builder, "SwitchToThread" if _is_windows(builder) else "sched_yield", i32)


@intrinsic
def yield_thread(typingctx):
    """Yield this core to another thread."""

    def codegen(context, builder, sig, args):
        emit_yield(builder)
        return context.get_dummy_value()

    return signature(types.void), codegen


def emit_clock(builder):
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
    """Return the time of a monotonic clock in ns; takes as long as one or two pauses."""
    return signature(types.int64), lambda context, builder, sig, args: emit_clock(builder)
