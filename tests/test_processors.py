"""Instructions and system calls of the kernels, compiled for other processors too, and waits against the clock."""

import functools
import re
import time
from contextlib import ExitStack, contextmanager
from unittest import mock

import numba
import pytest
from fastbp.kernels import atomics, microkernel, simd, threads
from llvmlite import binding, ir
from numba import types

LINUX, ARM, WINDOWS = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "x86_64-pc-windows-msvc"
APPLE = "arm64-apple-darwin"


def compiled(triple, emit):
    """Assembly of a function that returns what `emit` makes of its i64 argument."""
    module = ir.Module("test")
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(ir.IntType(64), [ir.IntType(64)]), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(emit(builder, *function.args) or function.args[0])
    return lines_of(target_machine(triple).emit_assembly(binding.parse_assembly(str(module))))


def target_machine(triple, cpu=""):
    """LLVM's description of another processor."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    return binding.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)


def lines_of(assembly):
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
        (APPLE, reads_control_word, ["mrs x0, fpcr"]),
        (APPLE, pauses, ["isb"]),
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


# ------------------------------------------------------------------ partial vectors and the register tile

PROCESSORS = {
    "haswell": (LINUX, "haswell"),
    "skylake-avx512": (LINUX, "skylake-avx512"),
    "neoverse-n1": (ARM, "neoverse-n1"),
    "apple-m1": (APPLE, "apple-m1"),
}


@contextmanager
def compiling_for(name):
    """Let the kernels emit code for a processor; gives LLVM's description of it."""
    machine = machine_of(name)
    with ExitStack() as stack:
        for module in (simd, microkernel):
            stack.enter_context(mock.patch.object(module, "target_machine", lambda: machine))
        yield machine


@functools.cache
def machine_of(name):
    return target_machine(*PROCESSORS[name])


@functools.cache
def code_of(name, emit):
    """What `emit` adds to a module, compiled for a processor: the bytes of code, and the assembly."""
    with compiling_for(name) as machine:
        module = ir.Module("test")
        module.triple, module.data_layout = machine.triple, str(machine.target_data)
        emit(module)
    module = binding.parse_assembly(str(module))
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(module, passes)
    sections = binding.ObjectFileRef.from_data(machine.emit_object(module)).sections()
    return sum(section.size() for section in sections if section.is_text()), machine.emit_assembly(module)


def emit_tiles_f32(module):
    microkernel._tile_table(module, types.float32).linkage = ""


def emit_tiles_f64(module):
    microkernel._tile_table(module, types.float64).linkage = ""


def emit_partial_copies(module):
    """Functions that copy the first lanes of a vector, in as many types as there are."""
    for element in (ir.FloatType(), ir.DoubleType()):
        vector = ir.VectorType(element, 64 // (4 if element == ir.FloatType() else 8))
        for i in range(8):
            p = element.as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [p, p, ir.IntType(64)])
            function = ir.Function(module, kind, f"copy_{element}_{i}")
            builder = ir.IRBuilder(function.append_basic_block())
            source, target, count = function.args
            simd.emit_store_first(builder, simd.emit_load_first(builder, source, vector, count), target, count)
            builder.ret_void()


@pytest.mark.parametrize(
    "name, loads, stores",
    [
        ("haswell", True, False),
        ("skylake-avx512", True, True),
        ("neoverse-n1", False, False),
        ("apple-m1", False, False),
    ],
)
def test_masked_memory(name, loads, stores):
    with compiling_for(name):
        assert (simd.has_masked_loads(), simd.has_masked_stores()) == (loads, stores)
    masked = [line.split()[-1] for line in lines_of(code_of(name, emit_partial_copies)[1]) if "vmaskmov" in line]
    assert bool(masked) == (name == "haswell")
    assert all(target.startswith("%ymm") for target in masked)  # loads, no stores


@pytest.mark.parametrize("emit", [emit_tiles_f32, emit_tiles_f64, emit_partial_copies])
@pytest.mark.parametrize("name", ["neoverse-n1", "apple-m1"])
def test_code_without_masked_memory_is_small(name, emit):
    assert code_of(name, emit)[0] <= 2 * code_of("haswell", emit)[0]


def loops_of(assembly, function):
    """The loops of one basic block in a function of the assembly, as lists of lines."""
    lines, loops, block = lines_of(assembly), [], []
    first = next(i for i, line in enumerate(lines) if re.match(rf"_?{function}:", line))
    for line in lines[first + 1 :]:
        label = re.match(r"([.\w$]+):", line)
        if label and "fastbp" in label[1] or "func_end" in line:
            break
        if label:
            block = [label[1]]
        elif block and line:
            block.append(line)
            if line.split()[-1] == block[0] and line[0] in "bcjt":
                loops.append(block)
    return loops


@pytest.mark.parametrize("emit", [emit_tiles_f32, emit_tiles_f64])
@pytest.mark.parametrize("name", PROCESSORS)
def test_the_loop_over_k_is_one_block_of_multiply_adds(name, emit):
    assembly = code_of(name, emit)[1]
    with compiling_for(name):
        first, most_rows = int(simd.has_masked_stores()), microkernel.tile_shape()[0]
        shapes = [(i, j) for i in range(1, most_rows + 1) for j in range(first, microkernel.tile_widths(i) + 1)]
    for rows, columns in shapes:
        loops = loops_of(assembly, f"fastbp_tile_{emit.__name__[-3:]}_{rows}x{columns}")
        counts = [sum(line.startswith(("fmla", "vfmadd")) for line in loop) for loop in loops]
        assert rows * max(columns, 1) in counts, (rows, columns, counts)
        loop = loops[counts.index(rows * max(columns, 1))]
        spills = [line for line in loop if re.match(r"st(r|p|ur) [qds]|vmov\w+ %[xyz]mm\d+, .*sp", line)]
        assert not spills, loop


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
