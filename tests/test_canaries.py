"""Raw pointers: what kernels and engine touch beyond their arrays, from one element up to two tiles and one.

Every array stands alone in memory that tells on them.  `Canaries` are bit patterns on both sides, NaN where the array
is float: written over they differ, and read they spoil the result.  `GuardPages` put every array against a page that
may not be touched; this runs in a process of its own, since the touch ends it.
"""

import ctypes
import mmap
import signal
import sys
from contextlib import ExitStack
from itertools import product
from unittest import mock

import kernel_table as table
import numpy as np
import pytest
from fastbp.kernels import plan
from fastbp.kernels.layout import A_AT, DELTA_AT, DROP_AT, Z_AT
from fastbp.kernels.tables import RULES
from shared import HIDDEN, each_dtype, exhaustive, needs_x86, run_python, threads_everywhere

from fastbp import kernels
from fastbp.engine import backend as engine_backend
from fastbp.engine import workspace
from fastbp.engine.backend import NumbaBackend
from fastbp.reference.training import NumpyBackend
from fastbp.update import State, Update

# Twice the tile of 12 rows and 32 columns (AVX-512, float32), and one; few rows have tiles of up to 128 columns.
MAX_ROWS, MAX_COLUMNS, MAX_OF_FEW = 25, 65, {1: 257, 2: 129, 3: 129}
PATTERNS = {"f4": 0x7FC0BEEF, "f8": 0x7FF8BADCAFEDBEEF, "i8": 0x7EADBEEF7EADBEEF, "u4": 0xBADCAFED, "u1": 0xA5}


def pattern(dtype):
    """A bit pattern of this size, a NaN of its own for floats."""
    return np.array(PATTERNS[dtype.str[1:]], f"u{dtype.itemsize}")


class Canaries:
    """Arrays between canaries, each further off the 64-byte boundary than the one before."""

    MARGIN = 2048

    def __init__(self):
        self.kept, self.count = [], 0

    def put(self, array):
        """Return a copy of the array that stands between canaries."""
        array = np.asarray(array)
        canary = pattern(array.dtype)
        self.count += 1
        raw = np.empty((array.nbytes + 2 * self.MARGIN + 128) // array.itemsize, canary.dtype)
        raw.fill(canary)
        start = (self.MARGIN + -(raw.ctypes.data + self.MARGIN) % 64) // array.itemsize + self.count % 16
        inside = raw[start : start + array.size].view(array.dtype).reshape(array.shape)
        inside[...] = array
        self.kept.append((raw, start, start + array.size, canary))
        return inside

    def check(self, what):
        """Fail where a canary is not what it was; then forget all arrays."""
        for raw, start, stop, canary in self.kept:
            touched = np.flatnonzero(raw != canary)
            outside = touched[(touched < start) | (touched >= stop)]
            assert outside.size == 0, (
                f"{what}: an array of {stop - start} {canary.dtype.itemsize}-byte elements was "
                f"overrun at {(outside - start)[:8].tolist()}"
            )
        self.kept.clear()


class GuardPages:
    """Arrays that end at a page which may not be touched, and begin near one (`at_end`), or the other way round."""

    def __init__(self, at_end):
        self.at_end = at_end
        self.mprotect = ctypes.CDLL(None, use_errno=True).mprotect

    def put(self, array):
        """Return a copy of the array next to a forbidden page."""
        array = np.asarray(array)
        page = mmap.PAGESIZE
        pages = -(-array.nbytes // page)
        memory = np.frombuffer(mmap.mmap(-1, (pages + 2) * page), np.uint8)
        for at in (0, (pages + 1) * page):
            address = ctypes.c_void_p(memory.ctypes.data + at)
            if self.mprotect(address, ctypes.c_size_t(page), mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        usable = memory[page : (pages + 1) * page]
        usable.view(pattern(array.dtype).dtype).fill(pattern(array.dtype))
        start = pages * page - array.nbytes if self.at_end else 0
        inside = usable[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        inside[...] = array
        return inside

    def check(self, what):
        """Say where it is, for the case that the next one ends the process."""
        print(what, flush=True)


# Tests of some shapes and networks, and of all.
each_extent = pytest.mark.parametrize(
    "is_quick", [pytest.param(True, id="quick"), pytest.param(False, id="all", marks=exhaustive)]
)


# ------------------------------------------------------------------ the public kernels


def shapes_of(row, step):
    """Every step-th shape from 1 to twice a tile and one in each direction, of the rank that the row takes.

    With a step that has no factor in common with MAX_COLUMNS, every number of columns occurs.
    """
    if row.shapes is table.ELEMENTS:
        return [(1, n) for n in range(1, 2 * MAX_COLUMNS, 1 + step // 10)] + [(3, 7), (7, 11)]
    sides = list(product(range(1, MAX_ROWS + 1), range(1, MAX_COLUMNS + 1)))
    if row.shapes is table.SAMPLES:
        return sides[:: 4 * step]
    sides += [(rows, columns) for rows, most in MAX_OF_FEW.items() for columns in range(MAX_COLUMNS + 1, most + 1)]
    depths = [*range(1, 34), 255, 256, 257, 513]
    return [(*side, depths[(i * 5) % len(depths)]) for i, side in list(enumerate(sides))[::step]] + [(37, 259, 40)]


def run_kernel(row, dtype, memory, step):
    """Run a kernel on every shape with all its arrays in such memory."""
    rng = np.random.default_rng(0)
    for shape in shapes_of(row, step):
        arguments = row.arguments(rng, dtype, *shape)
        results = table.expected(row, arguments)
        placed = [memory.put(a) if isinstance(a, np.ndarray) else a for a in arguments]
        getattr(kernels, row.name)(*placed)
        memory.check(f"{table.name_of(row)} {dtype.__name__} {shape}")
        table.assert_results(row, shape, placed, results)
        for name, given, now in zip(row.parameters, arguments, placed, strict=True):
            assert name in row.written or np.asarray(given).tobytes() == np.asarray(now).tobytes()


@each_dtype
@each_extent
@pytest.mark.parametrize("row", table.TABLE, ids=table.name_of)
def test_kernel_keeps_to_its_arrays(row, is_quick, dtype):
    run_kernel(row, dtype, Canaries(), step=7 if is_quick else 1)


# ------------------------------------------------------------------ the engine

OUTPUTS = [
    ("sigmoid", "binary_cross_entropy", False),
    ("softmax", "cross_entropy", True),
    ("identity", "squared_error", False),
    ("softmax", "cross_entropy", False),
    ("tanh", "huber", False),
    ("softplus", "absolute_error", False),
    ("softmax", "squared_error", False),
    ("sigmoid", "cross_entropy", True),
    ("sigmoid", "squared_error", False),
]
#            sizes, samples, batch size: narrow and tiny ones, deep sums, more samples than a block, wide layers
CORNERS = [
    ((1, 1), 1, 1),
    ((1, 1), 9, 4),
    ((2, 2, 1), 4, 4),
    ((2, 2, 1), 5, 1),
    ((3, 1, 2), 17, 8),
    ((8, 16, 1), 3, 1),
    ((300, 3), 5, 2),
    ((2, 270, 2), 13, 12),
    ((130, 2), 6, 6),
    ((5, 1), 33, 16),
    ((64, 30, 10), 11, 1),
    ((3, 4, 2), 600, 513),
    ((4, 33, 1), 530, 530),
    ((16, 16, 16, 16, 4), 20, 7),
    ((7, 131, 257, 2), 3, 2),
    ((9, 127, 255, 129), 4, 3),
    ((3, 257, 65), 5, 5),
    ((140, 1), 2, 2),
    ((4, 113), 1, 1),
    *[((5, 129, 200, 3), 21, 9), ((33, 197, 131), 30, 17), ((20, 195, 1), 300, 290), ((128, 192), 14, 14)] * 3,
    *[((400, 20, 3), 2700, 10), ((400, 130, 3), 2700, 64)],
]  # samples beyond the cache


def network(i):
    """Sizes, number of samples and batch size of the i-th network: every width from 1 to 65 in every place."""
    if i < len(CORNERS):
        return CORNERS[i]
    sizes = i % MAX_COLUMNS + 1, i * 29 % MAX_COLUMNS + 1, i * 17 % MAX_COLUMNS + 1
    n = i * 7 % MAX_ROWS + 1
    return sizes, n, (1, n // 2 + 1, n)[i % 3]


def networks(is_quick):
    """Numbers of the networks to run: all, or the corners without many samples and every seventh of the others."""
    n = len(CORNERS)
    corners = [i for i, (_, n_samples, _) in enumerate(CORNERS) if n_samples < 1000 or not is_quick]
    return [*corners, *range(n, n + 3 * MAX_COLUMNS, 7 if is_quick else 1)]


class Numpy:
    """NumPy, but new arrays come from elsewhere."""

    def __init__(self, empty):
        self.empty = empty

    def __getattr__(self, name):
        return getattr(np, name)


def apart(plan, gap=64):
    """The same plan with every block of the workspace `gap` elements further from the one before."""
    layers = plan.layers.copy()
    columns = [Z_AT, A_AT, DELTA_AT, DROP_AT]
    names = [name for name in plan._fields if name.endswith("_at") and getattr(plan, name) >= 0]
    places = sorted({*layers[:, columns].ravel().tolist(), *[getattr(plan, name) for name in names]})
    moved = {place: place + gap * (k + 1) for k, place in enumerate(places)}
    layers[:, columns] = [[moved[place] for place in row] for row in layers[:, columns].tolist()]
    size = plan.size + gap * (len(places) + 1)
    free = np.ones(size, bool)
    for place, after in zip(places, [*places[1:], plan.size], strict=True):
        free[moved[place] : moved[place] + after - place] = False
    return plan._replace(layers=layers, size=size, **{name: moved[getattr(plan, name)] for name in names}), free


def run_network(i, dtype, memory):
    """Predict, differentiate and train the i-th network with every array in such memory; compare with NumPy."""
    rng = np.random.default_rng(i)
    sizes, n, batch_size = network(i)
    output, loss, labels = OUTPUTS[i % len(OUTPUTS)]
    activations = (*[HIDDEN[(i + l) % len(HIDDEN)] for l in range(len(sizes) - 2)], output)
    reduction, momentum, nesterov = ("mean", "sum")[i % 2], (0.0, 0.8, 0.8)[i % 3], i % 3 == 2
    x_dtype = (dtype, np.uint8, np.float32, np.float64)[i % 4]
    X = (
        rng.integers(0, 3, (n, sizes[0])).astype(x_dtype)
        if x_dtype == np.uint8
        else (rng.normal(size=(n, sizes[0])).astype(x_dtype))
    )
    Y = rng.integers(0, sizes[-1], n) if labels else rng.dirichlet(np.ones(sizes[-1]), n).astype(dtype)
    dA = rng.normal(size=(n, sizes[-1])).astype(dtype)
    exact = NumpyBackend(sizes, activations, loss, reduction, np.float64)
    n_parameters = sum((a + 1) * b for a, b in zip(sizes, sizes[1:], strict=False))
    parameters = (rng.normal(size=n_parameters) / np.sqrt(max(sizes))).astype(dtype)
    words = rng.integers(0, 2**32, (2, n), dtype=np.uint32)
    rtol, atol = (1e-9, 1e-11) if dtype == np.float64 else (2e-3, 2e-4)
    frees = []

    def new(size, dtype):
        return memory.put(np.zeros(size, dtype) if np.dtype(dtype).kind == "i" else np.full(size, np.nan, dtype))

    def make_plan(*arguments, **options):
        plan, free = apart(engine_make_plan(*arguments, **options))
        frees.append(free)
        return plan

    def new_workspace(size, dtype):
        result = new(size, dtype)
        if frees and frees[-1].size == size and np.dtype(dtype).kind == "f":
            bits = result.view(pattern(result.dtype).dtype)
            bits.fill(pattern(result.dtype))
            workspaces.append((bits, frees.pop()))
        return result

    def check(what):
        memory.check(f"{what} of network {i}: {sizes} {activations} {loss} {n}/{batch_size} {dtype.__name__}")
        for bits, free in workspaces:
            touched = np.flatnonzero((bits != pattern(np.dtype(dtype))) & free)
            assert touched.size == 0, f"{what} of {sizes}: a block of the workspace was overrun at {touched[:8]}"

    def same(given, wanted, what):
        np.testing.assert_allclose(
            given, wanted, rtol, atol * max(1, np.abs(wanted).max()), err_msg=f"{what} {i} {sizes}"
        )

    engine_make_plan, workspaces = plan.make_plan, []
    with ExitStack() as stack:
        stack.enter_context(threads_everywhere(1 + i % 3))
        empty = Numpy(lambda shape, dtype=float: memory.put(np.full(shape, np.nan, dtype)))
        for module, name, value in (
            (workspace, "aligned_zeros", new_workspace),
            (engine_backend, "aligned_zeros", new_workspace),
            (workspace, "make_plan", make_plan),
            (engine_backend, "np", empty),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        backend = NumbaBackend(sizes, activations, loss, reduction, dtype)
        for what, arguments in {
            "predict": (X,),
            "losses": (X, Y),
            "outputs_and_losses": (X, Y),
            "gradient": (X, Y),
            "input_gradient": (X, Y),
            "gradient_from": (X, dA),
            "record": (X, Y),
        }.items():
            placed = [memory.put(parameters), *map(memory.put, arguments)]
            given = getattr(backend, what)(*placed)
            inputs = [a.copy() for a in placed]
            check(what)
            for a, b in zip(inputs, (parameters, *arguments), strict=True):
                np.testing.assert_array_equal(a, b)
            wanted = getattr(exact, what)(parameters.astype(float), *arguments)
            if what == "record":
                for name, w in wanted._asdict().items():
                    for one, other in (
                        zip(getattr(given, name), w, strict=True)
                        if isinstance(w, list)
                        else ([(getattr(given, name), w)])
                    ):
                        same(one, other, name)
            else:
                for one, other in zip(given, wanted, strict=True) if isinstance(wanted, tuple) else [(given, wanted)]:
                    same(one, other, what)
        given = backend.record(memory.put(parameters), memory.put(X), dA=memory.put(dA))
        check("record")
        same(given.dX, exact.record(parameters.astype(float), X, dA=dA.astype(float)).dX, "dX")

        rule = "nesterov" if nesterov else "momentum" if momentum else "sgd"
        settings = [
            {},
            {"l2": 0.1, "dropout": (0.3,) * (len(sizes) - 2), "input_noise": 0.1, "clip_value": 0.5},
            {"clip_norm": 0.3, "max_norm": 0.5, "rule": "adam", "hyperparameters": (0.9, 0.99, 1e-8)},
        ][i // 3 % 3]
        settings = {
            "rule": rule,
            "hyperparameters": (momentum,) if momentum else (),
            "rates": (0.02 / (n if i % 2 else 1),),
            **settings,
        }
        update = Update(**settings)
        options = dict(batch_size=batch_size, update=update, threads=1 + i % 3)
        span = 0, -(-n // batch_size)
        weights = np.linspace(0, 2, n) if i % 4 == 0 else None
        states = [
            State(RULES[update.rule].n_states, n_parameters, float_type) for float_type in (np.dtype(float), dtype)
        ]
        wanted = [parameters.astype(float), np.arange(n), np.zeros(2)]
        steps = exact.training(wanted[0], states[0], order=wanted[1], **options)(X, Y, weights, words, *span, wanted[2])
        given = [memory.put(parameters), memory.put(np.arange(n)), memory.put(np.zeros(2))]
        vars(states[1]).update(
            buffers=[memory.put(buffer) for buffer in states[1].buffers],
            running_products=memory.put(states[1].running_products),
        )
        train = backend.training(given[0], states[1], order=given[1], **options)
        assert steps == train(
            memory.put(X),
            memory.put(Y),
            None if weights is None else memory.put(weights.astype(dtype)),
            memory.put(words),
            *span,
            given[2],
        )
        given = [a.copy() for a in (*given, *states[1].buffers)]
        check("train")
        for one, other in zip(given, (*wanted, *states[0].buffers), strict=True):
            same(one, other, "trained")

        if labels:  # one that is no class, the last of a batch
            Y[min(batch_size, n) - 1] = (sizes[-1], -1, 10**9, -(2**63))[i % 4]
            update = Update(**settings, label_smoothing=0.1 * (i % 2))
            given = memory.put(parameters)
            state = State(RULES[update.rule].n_states, n_parameters, np.dtype(dtype))
            train = backend.training(given, state, order=memory.put(np.arange(n)), batch_size=batch_size, update=update)
            losses = memory.put(np.zeros(1))
            assert train(memory.put(X), memory.put(Y), None, None, *span, losses) == 0
            assert np.isnan(losses).all() and np.array_equal(given, parameters)
            placed = memory.put(parameters), memory.put(X), memory.put(Y)
            assert np.isnan(backend.losses(*placed)).sum() == 1
            assert np.isnan(backend.gradient(*placed)[1]).any()
            check("labels that are no class")


@each_dtype
@each_extent
def test_engine_keeps_to_its_arrays(is_quick, dtype):
    for i in networks(is_quick):
        run_network(i, dtype, Canaries())


# ------------------------------------------------------------------ pages that may not be touched


def main(side, extent="quick"):
    memory, is_quick = GuardPages(at_end=side != "start"), extent == "quick"
    if side == "plant":
        beyond = np.lib.stride_tricks.as_strided(memory.put(np.zeros(5)), (6,))
        kernels.exp(np.ascontiguousarray(beyond[:5]), memory.put(np.zeros(5)))
        print("still here", flush=True)
        kernels.exp(beyond, np.zeros(6))
    else:
        for dtype in (np.float32,) if is_quick and side == "start" else (np.float32, np.float64):
            for row in table.TABLE:
                run_kernel(row, dtype, memory, step=22 if is_quick else 7)
            for i in networks(is_quick or side == "start"):
                run_network(i, dtype, memory)
    print("done")


def touch(*arguments, **environment):
    return run_python("-X", "faulthandler", __file__, *arguments, timeout=500, PYTHONWARNINGS="error", **environment)


def check_pages(side, extent, **environment):
    result = touch(side, extent, **environment)
    last = result.stdout.strip().splitlines()[-1:]
    assert result.returncode == 0 and last == ["done"], f"after {last}:\n{result.stderr[-3000:]}"


needs_mprotect = pytest.mark.skipif(sys.platform != "linux", reason="pages are forbidden by Linux' mprotect")


@needs_mprotect
@each_extent
@pytest.mark.parametrize("side", ["start", "end"])
def test_nothing_touches_the_next_page(side, is_quick):
    check_pages(side, "quick" if is_quick else "all")


@needs_mprotect
@needs_x86
@exhaustive
def test_nothing_touches_the_next_page_with_registers_of_32_bytes():
    check_pages("end", "quick", **table.AVX2)


@needs_mprotect
def test_a_touch_of_the_next_page_ends_the_process():
    result = touch("plant")
    assert result.returncode == -signal.SIGSEGV and result.stdout.split("\n")[-2] == "still here"


if __name__ == "__main__":
    main(*sys.argv[1:])
