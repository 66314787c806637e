"""Instructions and system calls of the kernels, compiled for other processors too, and waits against the clock."""

import time

import numba
import pytest
from fastbp.kernels import atomics, threads
from llvmlite import binding, ir

LINUX, ARM, WINDOWS = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "x86_64-pc-windows-msvc"


def compiled(triple, emit):
    """Assembly of a function that returns what `emit` makes of its i64 argument."""
    module = ir.Module("test")
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(ir.IntType(64), [ir.IntType(64)]), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(emit(builder, *function.args) or function.args[0])
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(triple).create_target_machine()
    assembly = machine.emit_assembly(binding.parse_assembly(str(module)))
    return [" ".join(line.split()).lower() for line in assembly.splitlines()]


def reads_control_word(builder, control):
    return atomics.emit_control_word(builder)


def sets_control_word(builder, control):
    atomics.emit_set_control_word(builder, control)


def pauses(builder, _):
    atomics.emit_pause(builder)


def yields(builder, _):
    atomics.emit_yield(builder)


def reads_clock(builder, _):
    return atomics.emit_clock(builder)


@pytest.mark.parametrize(
    "triple, emit, instructions",
    [
        (LINUX, reads_control_word, ["stmxcsr"]),
        (LINUX, sets_control_word, ["ldmxcsr"]),
        (LINUX, pauses, ["pause"]),
        (LINUX, yields, ["sched_yield"]),
        (LINUX, reads_clock, ["clock_gettime"]),
        (ARM, reads_control_word, ["mrs x0, fpcr"]),
        (ARM, sets_control_word, ["msr fpcr, x0"]),
        (ARM, pauses, ["isb"]),
        (ARM, yields, ["bl sched_yield"]),
        (ARM, reads_clock, ["bl clock_gettime"]),
        ("arm64-apple-darwin", reads_control_word, ["mrs x0, fpcr"]),
        ("arm64-apple-darwin", pauses, ["isb"]),
        (WINDOWS, pauses, ["pause"]),
        (WINDOWS, yields, ["switchtothread"]),
        (WINDOWS, reads_clock, ["queryperformancecounter", "queryperformancefrequency"]),
        ("riscv64-unknown-linux-gnu", reads_control_word, []),
        ("riscv64-unknown-linux-gnu", sets_control_word, []),
        ("riscv64-unknown-linux-gnu", pauses, []),
    ],
)
def test_instructions(triple, emit, instructions):
    assembly = compiled(triple, emit)
    assert assembly  # it compiles
    for instruction in instructions:
        assert any(instruction in line for line in assembly), "\n".join(assembly)


def test_the_bits_that_flush_subnormals():
    """Bits 15 and 6 of MXCSR are for results and operands; bit 24 of FPCR is for both."""
    assert (atomics.FLUSH_MXCSR, atomics.FLUSH_FPCR) == (1 << 15 | 1 << 6, 1 << 24)

    @numba.njit
    def words():
        before = atomics.flush_subnormals()
        flushed = atomics.flush_subnormals()
        atomics.restore_mxcsr(before)
        after = atomics.flush_subnormals()
        atomics.restore_mxcsr(before)
        return before, flushed, after

    before, flushed, after = words()
    assert after == before and flushed in (before | atomics.FLUSH_MXCSR, before | atomics.FLUSH_FPCR)


# ------------------------------------------------------------------ waits


@numba.njit
def now():
    return atomics.nanoseconds()


@numba.njit
def wait_until_yield():
    """Wait until the thread yields: nanoseconds, the number of waits, and `start` of the next one."""
    begin, n, start = atomics.nanoseconds(), 0, 0
    while start >= 0:
        n += 1
        start = threads.spin_wait(n, start)
    return atomics.nanoseconds() - begin, n, threads.spin_wait(n + 1, start)


def test_the_clock_is_that_of_the_system():
    clock = (
        (lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC))
        if hasattr(time, "CLOCK_MONOTONIC")
        else (time.perf_counter_ns)
    )
    now()
    times = [read() for _ in range(20) for read in (clock, now)]
    slack = 0 if hasattr(time, "CLOCK_MONOTONIC") else 1000  # of QueryPerformanceCounter as a float
    assert all(one - slack <= other for one, other in zip(times, times[1:], strict=False))


def test_a_wait_lasts_its_time_however_short_a_pause_is(monkeypatch):
    duration, n, start = wait_until_yield()
    assert (
        duration >= threads.SPIN_NS
        and n >= 2 * threads.PAUSES_PER_CLOCK
        and n % threads.PAUSES_PER_CLOCK == 0
        and start == -1
    )
    monkeypatch.setattr(atomics, "emit_pause", lambda builder: None)  # as on processors without such an instruction
    spin_wait = numba.njit(threads.spin_wait.py_func)  # compiled again, without it

    @numba.njit
    def wait():
        begin, n, start = atomics.nanoseconds(), 0, 0
        while start >= 0:
            n += 1
            start = spin_wait(n, start)
        return atomics.nanoseconds() - begin

    assert wait() >= threads.SPIN_NS
