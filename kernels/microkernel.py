"""The GEMM microkernel, the rank-k update and their epilogues, and transposition for packing, as LLVM IR.

The first two are written in registers of the host's own width.  Each element of a result is one chain of fused
multiply-adds over k in order, so it depends neither on that width nor on the shape of the tile.
"""

import functools
from types import SimpleNamespace

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from .layout import LINE_BYTES, MOMENTUM, NESTEROV, SGD, STORE
from .simd import (
    _FLOATS,
    _SUFFIX,
    Vector,
    _align,
    _as_vector,
    _emit_masked_load,
    _emit_masked_store,
    _itemsize,
    _lane_mask,
    _llvm,
    _splat,
    emit_load,
    emit_load_first,
    emit_store,
    emit_store_pieces,
    has_masked_loads,
    has_masked_stores,
    i32,
    i64,
    target_machine,
)

INITS = INIT_ZERO, INIT_BIAS, INIT_C = 0, 1, 2
EPILOGUES = STORE, SGD, MOMENTUM, NESTEROV
MAX_RANK = 13  # of `rank_k_update`: B takes two registers for each k, and five more are in use
MAX_REGISTERS = 8  # of columns, of any tile
ROWS_PER_POINTER = 3  # rows of A that one pointer reaches; with a pointer for each row the addresses would not fit


# ---------------------------------------------------------------------------------------- the shape of the tile


def register_bytes():
    """Bytes in the widest vector register that LLVM uses for this target: 64, 32 or 16."""
    return _register_bytes(target_machine())


@functools.cache
def _register_bytes(machine):
    """Return `register_bytes`; the code generator itself is asked, so it holds for every host and NUMBA_CPU_NAME."""
    text = """define void @probe(ptr %p) {
        %v = load <16 x float>, ptr %p, align 4
        %w = fadd <16 x float> %v, %v
        store <16 x float> %w, ptr %p, align 4
        ret void }"""
    assembly = machine.emit_assembly(binding.parse_assembly(text))
    return 64 if "zmm" in assembly else 32 if "ymm" in assembly else 16


def _has_32_registers():
    """Whether there are 32 vector registers, as on AVX-512 and ARM, not 16."""
    return register_bytes() == 64 or target_machine().triple.startswith(("aarch64", "arm64"))


def tile_shape():
    """(most rows, most registers of columns) of the tile: enough accumulators to hide the latency of their sums.

    ARM's 16 accumulators are those of OpenBLAS for its processors; with 24 the tiles would be twice as much code.
    """
    return {64: (12, 2), 32: (6, 2), 16: (8, 2) if _has_32_registers() else (6, 2)}[register_bytes()]


def tile_widths(rows):
    """Return the most registers of columns of a tile with this many rows: few rows need more of them to keep busy."""
    columns = tile_shape()[1]
    return {1: 8, 2: 4, 3: 4 if _has_32_registers() else columns}.get(rows, columns)


def tile_lanes(dtype):
    """Elements in one register."""
    return register_bytes() * 8 // dtype.bitwidth


def max_rank_of_host():
    """Return the most outer products that `rank_k_update` adds up: with fewer registers the tile is as fast."""
    return MAX_RANK if _has_32_registers() else 0


@intrinsic
def max_rank(typingctx):
    """Return `max_rank_of_host` of this host."""
    return signature(types.intp), lambda context, builder, sig, args: i64(max_rank_of_host())


@intrinsic
def tile_rows(typingctx):
    """Return the most rows of a tile on this host."""
    return signature(types.intp), lambda context, builder, sig, args: i64(tile_shape()[0])


@intrinsic
def tile_columns(typingctx, p):
    """Return the columns of a tile, and of one register of it, on this host."""

    def codegen(context, builder, sig, args):
        lanes = tile_lanes(p.dtype)
        return context.make_tuple(builder, sig.return_type, [i64(lanes * tile_shape()[1]), i64(lanes)])

    return signature(types.UniTuple(types.intp, 2), p), codegen


@intrinsic
def min_tile_columns(typingctx, p):
    """Return the fewest columns of a tile that takes no longer than one of a whole register."""

    def codegen(context, builder, sig, args):
        return i64(1 if has_masked_stores() else tile_lanes(p.dtype))

    return signature(types.intp, p), codegen


@intrinsic
def registers_for(typingctx, rows):
    """Return the registers of columns of the widest tile with this many rows; see `tile_widths`."""

    def codegen(context, builder, sig, args):
        answer = i64(tile_shape()[1])
        for few in (3, 2, 1):
            answer = builder.select(builder.icmp_signed("==", args[0], i64(few)), i64(tile_widths(few)), answer)
        return answer

    return signature(types.intp, types.intp), codegen


# ---------------------------------------------------------------------------------------- functions and tables

# The arguments of the LLVM functions, and their kinds: p pointer to the dtype, i integer, f number of the dtype.
_TILE_ARGUMENTS = {
    "a": "p",
    "a_row_stride": "i",
    "a_col_stride": "i",
    "b": "p",
    "b_row_stride": "i",
    "k": "i",
    "n_tiles": "i",
    "c": "p",
    "c_row_stride": "i",
    "last_lanes": "i",
    "init": "i",
    "bias": "p",
    "epilogue": "i",
    "lr": "f",
    "momentum": "f",
    "velocity": "i",
    "c_prefetch": "p",
    "prefetch_at": "p",
    "prefetch_stride": "i",
    "prefetch_interval": "i",
}
_SHORT_ROWS_ARGUMENTS = {
    "sums": "p",
    "rows": "i",
    "c": "p",
    "c_row_stride": "i",
    "last_lanes": "i",
    "epilogue": "i",
    "lr": "f",
    "momentum": "f",
    "velocity": "i",
}
_RANK_K_ARGUMENTS = {
    "rows": "i",
    "a": "p",
    "a_col_stride": "i",
    "b": "p",
    "b_row_stride": "i",
    "c": "p",
    "c_row_stride": "i",
    "second": "i",
    "epilogue": "i",
    "lr": "f",
    "momentum": "f",
    "velocity": "i",
    "prefetch_at": "p",
    "prefetch_stride": "i",
}


def _numba_types(arguments, p):
    """Return the Numba types of the arguments, p being that of the pointers."""
    return [{"p": p, "i": types.intp, "f": p.dtype}[kind] for kind in arguments.values()]


def _llvm_type(arguments, dtype):
    """Return the LLVM type of a function with these arguments."""
    scalar = _FLOATS[dtype]
    kinds = {"p": scalar.as_pointer(), "i": i64, "f": scalar}
    return ir.FunctionType(ir.VoidType(), [kinds[kind] for kind in arguments.values()])


def _add_function(module, name, arguments, dtype):
    """Add an empty function to the module; return it and its arguments by name."""
    fn = ir.Function(module, _llvm_type(arguments, dtype), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    fn.attributes.add("nounwind")
    return fn, SimpleNamespace(**dict(zip(arguments, fn.args, strict=True)))


def _add_table(module, name, functions):
    """Add a constant table of functions to the module."""
    kind = ir.ArrayType(functions[0].type, len(functions))
    table = ir.GlobalVariable(module, kind, name)
    table.linkage, table.global_constant, table.initializer = "internal", True, ir.Constant(kind, functions)
    return table


def _tile_table(module, dtype):
    """Return a global table of the tile functions, [rows - 1][columns], null where there is none.

    Without masked stores the tiles with 0 columns are those of less than one register.
    """
    name = f"fastbp_tiles_{_SUFFIX[dtype]}"
    if name not in module.globals:
        null, first = ir.Constant(_llvm_type(_TILE_ARGUMENTS, dtype).as_pointer(), None), int(has_masked_stores())
        shapes = ((rows + 1, n) for rows in range(tile_shape()[0]) for n in range(MAX_REGISTERS + 1))
        functions = [
            _TileFunction(module, dtype, rows, n).emit() if first <= n <= tile_widths(rows) else null
            for rows, n in shapes
        ]
        _add_table(module, name, functions)
    return module.globals[name]


def _rank_k_table(module, dtype):
    """Return a global table of the rank-k functions, [k - 1]."""
    name = f"fastbp_rank_k_table_{_SUFFIX[dtype]}"
    if name not in module.globals:
        _add_table(module, name, [_rank_k_function(module, dtype, k + 1) for k in range(max_rank_of_host())])
    return module.globals[name]


# ---------------------------------------------------------------------------------------- pieces of both functions


def _prefetch(builder, address, locality):
    """Emit the prefetch of one cache line for reading; locality 3: into the L1, 2: into the L2."""
    kind = ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32])
    fn = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(fn, [address, i32(0), i32(locality), i32(1)])


def _phis(builder, values):
    """Emit phi nodes for values of these types, still without incoming values."""
    return [builder.phi(value.type) for value in values]


def _add_incoming(phis, values, block):
    for phi, value in zip(phis, values, strict=True):
        phi.add_incoming(value, block)


def _branch_back(builder, condition, loop, after):
    """Emit the end of a loop: branch back to its start while the condition holds.

    LLVM must not unroll it: the loop over k would spill its accumulators to the stack.
    """
    module = builder.module
    node = module.add_metadata([module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])])
    distinct = ir.values.MDValue(module, list(node.operands), name=str(len(module.metadata)))
    distinct.operands = (distinct, *node.operands)  # a loop node is its own first operand
    builder.cbranch(condition, loop, after).set_metadata("llvm.loop", distinct)


def _switch(builder, selector, blocks):
    """Emit a branch to the block whose key the selector holds, else to the first."""
    default, *others = blocks
    switch = builder.switch(selector, blocks[default])
    for key in others:
        switch.add_case(i64(key), blocks[key])


def _emit_epilogue(builder, epilogue, sums, minus_lr, mu, load, store):
    """Emit one epilogue: store the sums, or update C by them, which are then its gradient.

    load(of_velocity) returns the registers of C or of its velocity, store(values, of_velocity) sets them.
    """

    def fma(a, bs, cs):
        return [_llvm(builder, "fma", b.type, a, b, c) for b, c in zip(bs, cs, strict=True)]

    values, velocities = sums, []
    if epilogue in (MOMENTUM, NESTEROV):
        values = velocities = fma(mu, load(True), sums)
    if epilogue == NESTEROV:
        values = fma(mu, velocities, sums)
    if epilogue != STORE:
        values = fma(minus_lr, values, load(False))
    if velocities:
        store(velocities, True)
    store(values, False)


def _factors(builder, args, vector):
    """Emit -lr and the momentum as vectors."""
    return [_splat(builder, factor, vector.count) for factor in (builder.fneg(args.lr), args.momentum)]


class _FirstLanes:
    """Emits loads and stores of the first `count` lanes of a register, at least one."""

    def __init__(self, builder, vector, count):
        self.vector, self.count = vector, count
        if has_masked_loads():
            self.mask = _lane_mask(builder, count, vector.count)
        else:
            last = builder.sub(count, i64(1))
            has_lane = (builder.icmp_signed("<", i64(lane), last) for lane in range(vector.count - 1))
            self.lane_at = [builder.select(has, i64(lane), last) for lane, has in enumerate(has_lane)]

    def load(self, builder, address):
        """Emit a load without a branch; the other lanes are zero or, without masked loads, the last of these again."""
        if has_masked_loads():
            return _emit_masked_load(builder, address, self.vector, self.mask)
        value = ir.Constant(self.vector, None)
        for lane, at in enumerate(self.lane_at):
            element = builder.load(builder.gep(address, [at]), align=_align(self.vector))
            value = builder.insert_element(value, element, i32(lane))
        return value

    def store(self, builder, value, address):
        """Emit a store."""
        if has_masked_stores():
            _emit_masked_store(builder, value, address, self.mask)
        else:
            emit_store_pieces(builder, value, address, self.count)


def _emit_epilogues_of_row(builder, args, c, sums, factors, load_row, store_row, after):
    """Emit the branch to the epilogue `args.epilogue`, and each of them, for the row of C at `c`; then to `after`.

    load_row(builder, row) and store_row(builder, values, row) access a row of C or of its velocity.
    """
    blocks = {epilogue: builder.function.append_basic_block(f"epilogue_{epilogue}") for epilogue in EPILOGUES}
    _switch(builder, args.epilogue, blocks)
    for epilogue, block in blocks.items():
        builder = ir.IRBuilder(block)

        def row(of_velocity, builder=builder):
            return builder.gep(c, [args.velocity]) if of_velocity else c

        def load(of_velocity, builder=builder, row=row):
            return load_row(builder, row(of_velocity))

        def store(values, of_velocity, builder=builder, row=row):
            store_row(builder, values, row(of_velocity))

        _emit_epilogue(builder, epilogue, sums, *factors, load, store)
        builder.branch(after)


# ------------------------------------------------------------------------------------------------- the microkernel


class _TileFunction:
    """Emits one tile function: sums start at an init, the products over k are added, an epilogue writes the result.

    It does so for `n_tiles` tiles one below the other; `at` has the pointers that move from tile to tile.
    The accumulators are a flat list, row by row: (i, j) in `cells` are the row and the register of each.

    The last register of a row may be partial.  With masked stores it is masked.  Without them it ends with the row and
    overlaps the register before it: columns in both are computed twice, to the same bits.  The epilogue of rows of less
    than one register (`columns` is 0) is `_short_rows_function`.
    """

    def __init__(self, module, dtype, rows, columns):
        name = f"fastbp_tile_{_SUFFIX[dtype]}_{rows}x{columns}"
        self.fn, self.args = _add_function(module, name, _TILE_ARGUMENTS, dtype)
        self.dtype, self.rows, self.columns, self.is_short = dtype, rows, max(columns, 1), columns == 0
        self.lanes, self.itemsize = tile_lanes(dtype), dtype.bitwidth // 8
        self.vector = ir.VectorType(_FLOATS[dtype], self.lanes)
        self.cells = [(i, j) for i in range(rows) for j in range(self.columns)]
        self.entry = ir.IRBuilder(self.fn.append_basic_block("entry"))
        self.register_at = [i64(j * self.lanes) for j in range(self.columns)]
        self.first_lanes = None
        if has_masked_stores() or self.is_short:
            self.first_lanes = _FirstLanes(self.entry, self.vector, self.args.last_lanes)
        elif self.columns > 1:
            self.register_at[-1] = self.entry.add(self.args.last_lanes, i64((self.columns - 2) * self.lanes))

    def emit(self):
        """Emit the whole function and return it."""
        args, block = self.args, self.fn.append_basic_block
        top, prefetch, loop, done, after, end = (
            block(name) for name in ("tile", "prefetch", "loop", "done", "after", "end")
        )
        inits = {init: block(f"init_{init}") for init in INITS}
        entry_block = self.entry.block
        self.entry.branch(top)
        builder = ir.IRBuilder(top)
        first = [args.n_tiles, args.a, args.c, args.c_prefetch, args.prefetch_at]
        n_left, *pointers = state = _phis(builder, first)
        self.at = SimpleNamespace(**dict(zip(("a", "c", "c_prefetch", "prefetch_at"), pointers, strict=True)))
        self.prefetch_c(builder)
        _switch(builder, args.init, inits)
        starts = [(block, self.init_sums(init, block, prefetch, done)) for init, block in inits.items()]
        prefetch_at = self.epilogues(done, [*starts, self.sum_over_k(starts, prefetch, loop, done)], after)
        builder = ir.IRBuilder(after)
        n_left = builder.sub(n_left, i64(1))
        a = self.row(builder, self.at.a, self.rows, args.a_row_stride)
        c, c_prefetch = (self.row(builder, p, self.rows, args.c_row_stride) for p in (self.at.c, self.at.c_prefetch))
        _add_incoming(state, first, entry_block)
        _add_incoming(state, [n_left, a, c, c_prefetch, prefetch_at], after)
        _branch_back(builder, builder.icmp_signed(">", n_left, i64(0)), top, end)
        ir.IRBuilder(end).ret_void()
        return self.fn

    def row(self, builder, base, i, stride, distance=None):
        """Emit the address of row i of a matrix, or the one `distance` elements after it."""
        address = base if i == 0 else builder.gep(base, [builder.mul(stride, i64(i))])
        return address if distance is None else builder.gep(address, [distance])

    def load(self, builder, row, j):
        """Emit the load of register j of a row; lanes that are no columns have meaningless values."""
        address = builder.gep(row, [self.register_at[j]])
        if self.first_lanes is not None and j == self.columns - 1:
            return self.first_lanes.load(builder, address)
        return emit_load(builder, address, self.vector)

    def store(self, builder, value, row, j):
        """Emit the store of register j of a row."""
        address = builder.gep(row, [self.register_at[j]])
        if self.first_lanes is not None and j == self.columns - 1:
            self.first_lanes.store(builder, value, address)
        else:
            emit_store(builder, value, address)

    def prefetch_c(self, builder):
        """Emit the prefetch of the tile of C at `c_prefetch`, skipped if the sum is short."""
        with builder.if_then(builder.icmp_signed(">", self.args.k, i64(MAX_RANK))):
            for i, j in self.cells:
                row = self.row(builder, self.at.c_prefetch, i, self.args.c_row_stride, i64(j * self.lanes))
                _prefetch(builder, row, 3)

    def init_sums(self, init, block, prefetch, done):
        """Emit where the sums start: at zero, at the bias, or at what C holds; return them and the prefetch address."""
        args, builder = self.args, ir.IRBuilder(block)
        if init == INIT_ZERO:
            sums = [ir.Constant(self.vector, None)] * len(self.cells)
        elif init == INIT_BIAS:
            sums = [self.load(builder, args.bias, j) for j in range(self.columns)] * self.rows
        else:
            sums = [self.load(builder, self.row(builder, self.at.c, i, args.c_row_stride), j) for i, j in self.cells]
        builder.cbranch(builder.icmp_signed(">", args.k, i64(0)), prefetch, done)
        return [*sums, self.at.prefetch_at]

    def sum_over_k(self, starts, prefetch, loop, done):
        """Emit the sum over k, in order, cut into intervals; at the start of each two cache lines are prefetched.

        starts : (block, [*sums, prefetch address]) of the blocks before.  Returns the same of the block after the sum.
        """
        args, pointers = self.args, range(0, self.rows, ROWS_PER_POINTER)
        # the loop over intervals
        outer = ir.IRBuilder(prefetch)
        left, b, *rest = state = _phis(outer, [args.k, args.b, *[args.a for _ in pointers], *starts[0][1]])
        for block, sums in starts:
            before = ir.IRBuilder(block)
            before.position_before(block.terminator)
            a = [self.row(before, self.at.a, i, args.a_row_stride) for i in pointers]
            _add_incoming(state, [args.k, args.b, *a, *sums], block)
        prefetch_at = rest.pop()
        for element in (0, LINE_BYTES // self.itemsize):
            _prefetch(outer, outer.gep(prefetch_at, [i64(element)]), 2)
        is_last = outer.icmp_signed("<", left, args.prefetch_interval)
        n_steps = outer.select(is_last, left, args.prefetch_interval)
        outer.branch(loop)
        # the loop over k in one interval
        inner = ir.IRBuilder(loop)
        inner_state = _phis(inner, [n_steps, b, *rest])
        _add_incoming(inner_state, [n_steps, b, *rest], prefetch)
        n_left, b, *rest = inner_state
        a, sums = rest[: len(pointers)], rest[len(pointers) :]
        sums = self.add_products(inner, a, b, sums)
        n_left = inner.sub(n_left, i64(1))  # compared with zero, it needs no other instruction
        b, a = inner.gep(b, [args.b_row_stride]), [inner.gep(pointer, [args.a_col_stride]) for pointer in a]
        _add_incoming(inner_state, [n_left, b, *a, *sums], loop)
        latch = self.fn.append_basic_block("latch")
        _branch_back(inner, inner.icmp_signed("!=", n_left, i64(0)), loop, latch)
        # the end of the interval
        outer = ir.IRBuilder(latch)
        left = outer.sub(left, n_steps)
        after = [*sums, outer.gep(prefetch_at, [args.prefetch_stride])]
        _add_incoming(state, [left, b, *a, *after], latch)
        _branch_back(outer, outer.icmp_signed(">", left, i64(0)), prefetch, done)
        return latch, after

    def add_products(self, builder, a, b, sums):
        """Add the products of one column of A, behind the pointers a, and the row of B at b; return the new sums."""
        b_row = [self.load(builder, b, j) for j in range(self.columns)]
        result = []
        for i in range(self.rows):
            address = self.row(builder, a[i // ROWS_PER_POINTER], i % ROWS_PER_POINTER, self.args.a_row_stride)
            element = _splat(builder, builder.load(address, align=self.itemsize), self.lanes)
            of_row = sums[i * self.columns : (i + 1) * self.columns]
            result += [_llvm(builder, "fma", self.vector, element, *pair) for pair in zip(b_row, of_row, strict=True)]
        return result

    def epilogues(self, done, before, after):
        """Emit the epilogues, which branch to `after`; return the next tile's prefetch address.

        before : (block, [*sums, prefetch address]) of the blocks that branch to `done`.
        """
        args, builder = self.args, ir.IRBuilder(done)
        *sums, prefetch_at = phis = _phis(builder, before[0][1])
        for block, values in before:
            _add_incoming(phis, values, block)
        if self.is_short:
            self.short_epilogue(builder, sums)
            builder.branch(after)
            return prefetch_at
        blocks = {epilogue: self.fn.append_basic_block(f"epilogue_{epilogue}") for epilogue in EPILOGUES}
        _switch(builder, args.epilogue, blocks)
        for epilogue, block in blocks.items():
            builder = ir.IRBuilder(block)
            factors = _factors(builder, args, self.vector)
            for cells in self.groups():
                self.epilogue(builder, epilogue, cells, dict(zip(self.cells, sums, strict=True)), *factors)
            builder.branch(after)
        return prefetch_at

    def short_epilogue(self, builder, sums):
        """Emit the call of the epilogue for rows of less than one register."""
        args, entry = self.args, self.entry
        with entry.goto_entry_block():
            buffer = entry.alloca(ir.ArrayType(self.vector, self.rows))
        for i, value in enumerate(sums):
            builder.store(value, builder.gep(buffer, [i64(0), i64(i)]))
        start = builder.bitcast(buffer, self.at.c.type)
        given = [start, i64(self.rows), self.at.c, args.c_row_stride, args.last_lanes, args.epilogue]
        builder.call(_short_rows_function(self.fn.module, self.dtype), [*given, args.lr, args.momentum, args.velocity])

    def groups(self):
        """Return the cells whose loads come before their stores: those of one row, or all.

        The footprint of a masked store reaches into the next row, whose load would wait for it (2.2 times slower on
        784-30 with 10 samples).
        """
        if has_masked_stores():
            return [self.cells]
        return [self.cells[i * self.columns : (i + 1) * self.columns] for i in range(self.rows)]

    def epilogue(self, builder, epilogue, cells, sums, minus_lr, mu):
        """Emit one epilogue for some cells."""
        args = self.args

        def rows(of_velocity):
            distance = args.velocity if of_velocity else None
            return [self.row(builder, self.at.c, i, args.c_row_stride, distance) for i, _ in cells]

        def load(of_velocity):
            return [self.load(builder, row, j) for row, (_, j) in zip(rows(of_velocity), cells, strict=True)]

        def store(values, of_velocity):
            for value, row, (_, j) in zip(values, rows(of_velocity), cells, strict=True):
                self.store(builder, value, row, j)

        _emit_epilogue(builder, epilogue, [sums[cell] for cell in cells], minus_lr, mu, load, store)


def _short_rows_function(module, dtype):
    """Return the function, added at the first use, that runs the epilogue on rows of less than one register."""
    name = f"fastbp_short_rows_{_SUFFIX[dtype]}"
    if name in module.globals:
        return module.globals[name]
    fn, args = _add_function(module, name, _SHORT_ROWS_ARGUMENTS, dtype)
    vector = ir.VectorType(_FLOATS[dtype], tile_lanes(dtype))
    entry_block, loop_block, next_block, done = (fn.append_basic_block(n) for n in ("entry", "loop", "next", "done"))
    entry = ir.IRBuilder(entry_block)
    first_lanes, factors = _FirstLanes(entry, vector, args.last_lanes), _factors(entry, args, vector)
    entry.branch(loop_block)
    loop = ir.IRBuilder(loop_block)
    starts = [args.rows, args.sums, args.c]
    n_left, sums, c = state = _phis(loop, starts)
    _add_incoming(state, starts, entry_block)

    def load_row(builder, row):
        return [first_lanes.load(builder, row)]

    def store_row(builder, values, row):
        first_lanes.store(builder, values[0], row)

    _emit_epilogues_of_row(loop, args, c, [emit_load(loop, sums, vector)], factors, load_row, store_row, next_block)
    step = ir.IRBuilder(next_block)
    n_left = step.sub(n_left, i64(1))
    state_after = [n_left, step.gep(sums, [i64(vector.count)]), step.gep(c, [args.c_row_stride])]
    _add_incoming(state, state_after, next_block)
    _branch_back(step, step.icmp_signed(">", n_left, i64(0)), loop_block, done)
    ir.IRBuilder(done).ret_void()
    return fn


@intrinsic
def tile(
    typingctx,
    rows,
    columns,
    a,
    a_row_stride,
    a_col_stride,
    b,
    b_row_stride,
    k,
    n_tiles,
    c,
    c_row_stride,
    last_lanes,
    init,
    bias,
    epilogue,
    lr,
    momentum,
    velocity,
    c_prefetch,
    prefetch_at,
    prefetch_stride,
    prefetch_interval,
):
    """Run the microkernel on tiles of C, one below the other: C = epilogue(init + A @ B).

    A[i, k] is at a + i * a_row_stride + k * a_col_stride, B[k, j] at b + k * b_row_stride + j, and C[i, j] at
    c + i * c_row_stride + j.

    Parameters
    ----------
    rows, columns : int
        Rows, and registers of columns, of this tile (see `tile_shape`, `tile_widths`).
    k : int
        Length of the sums.
    n_tiles : int
        How many tiles.
    last_lanes : int
        How many lanes of the last register of each row are columns.
    init : int
        Where the sums start: INIT_ZERO, INIT_BIAS (the row at `bias`) or INIT_C (what C holds).
    epilogue : int
        STORE writes the sums to C.  SGD: C -= lr * sum.  MOMENTUM, NESTEROV: the same with the velocity, which lies
        `velocity` elements after C.
    c_prefetch : pointer
        The tiles of C to prefetch, each at the start of one: these, or the next ones.
    prefetch_at, prefetch_stride, prefetch_interval
        Two cache lines are prefetched after every `prefetch_interval` steps of the sum, the first two at
        `prefetch_at`, the next `prefetch_stride` elements after them, and so on from tile to tile.  Prefetched all at
        once they would delay the tile's own loads.
    """
    sig = signature(types.void, types.intp, types.intp, *_numba_types(_TILE_ARGUMENTS, a))

    def codegen(context, builder, sig, args):
        table = _tile_table(builder.module, a.dtype)
        rows, columns, *rest = args
        if not has_masked_stores():
            last_lanes = rest[list(_TILE_ARGUMENTS).index("last_lanes")]
            is_whole = builder.icmp_signed(">=", last_lanes, i64(tile_lanes(a.dtype)))
            is_short = builder.icmp_signed("<", columns, builder.select(is_whole, i64(1), i64(2)))
            columns = builder.select(is_short, i64(0), columns)
        index = builder.add(builder.mul(builder.sub(rows, i64(1)), i64(MAX_REGISTERS + 1)), columns)
        builder.call(builder.load(builder.gep(table, [i64(0), index])), rest)
        return context.get_dummy_value()

    return sig, codegen


# ------------------------------------------------------------------------------------------------- the rank-k update


def _rank_k_function(module, dtype, k):
    """Add the function for sums of k outer products: B stays in registers while the loop goes over the rows of C."""
    fn, args = _add_function(module, f"fastbp_rank_k_{_SUFFIX[dtype]}_{k}", _RANK_K_ARGUMENTS, dtype)
    lanes, itemsize = tile_lanes(dtype), dtype.bitwidth // 8
    vector = ir.VectorType(_FLOATS[dtype], lanes)
    columns = i64(0), args.second  # where the two registers of a row start; they may overlap

    def load_row(builder, row):
        return [emit_load(builder, builder.gep(row, [column]), vector) for column in columns]

    entry = ir.IRBuilder(fn.append_basic_block("entry"))
    b = []
    for step in range(k):
        b_row = entry.gep(args.b, [entry.mul(args.b_row_stride, i64(step))])
        b.append(load_row(entry, b_row))
    minus_lr, mu = _factors(entry, args, vector)
    a_columns = [entry.mul(args.a_col_stride, i64(step)) for step in range(k)]
    loop_block, next_block, done = (fn.append_basic_block(name) for name in ("loop", "next", "done"))
    entry.branch(loop_block)

    loop = ir.IRBuilder(loop_block)
    starts = [i64(0), args.a, args.c, args.prefetch_at]
    i, a, c, prefetch_at = state = _phis(loop, starts)
    _add_incoming(state, starts, entry.block)
    _prefetch(loop, prefetch_at, 2)
    sums = [ir.Constant(vector, None)] * 2
    for step in range(k):
        element = _splat(loop, loop.load(loop.gep(a, [a_columns[step]]), align=itemsize), lanes)
        sums = [_llvm(loop, "fma", vector, element, b[step][n], sums[n]) for n in range(2)]

    def store_row(builder, values, row):
        for value, column in zip(values, columns, strict=True):
            emit_store(builder, value, builder.gep(row, [column]))

    _emit_epilogues_of_row(loop, args, c, sums, (minus_lr, mu), load_row, store_row, next_block)
    step = ir.IRBuilder(next_block)
    i = step.add(i, i64(1))
    a, c = step.gep(a, [i64(1)]), step.gep(c, [args.c_row_stride])
    _add_incoming(state, [i, a, c, step.gep(prefetch_at, [args.prefetch_stride])], next_block)
    _branch_back(step, step.icmp_signed("<", i, args.rows), loop_block, done)
    ir.IRBuilder(done).ret_void()
    return fn


@intrinsic
def rank_k_update(
    typingctx,
    k,
    rows,
    a,
    a_col_stride,
    b,
    b_row_stride,
    c,
    c_row_stride,
    second,
    epilogue,
    lr,
    momentum,
    velocity,
    prefetch_at,
    prefetch_stride,
):
    """Add up a few outer products in one or more rows of C: C = epilogue(A @ B), to the same bits as `tile`.

    A[i, k] is at a + i + k * a_col_stride, B[k, j] at b + k * b_row_stride + j and C[i, j] at c + i * c_row_stride + j.

    Parameters
    ----------
    k : int
        Length of the sums, 1 to `max_rank_of_host`.
    second : int
        C has the columns of two registers; the second one starts at this column, at most one register from the first.
        Columns in both are computed twice.  No memory beyond them is touched, so a row need not wait for the one
        before.
    epilogue, lr, momentum, velocity
        As in `tile`.
    prefetch_at, prefetch_stride
        With each row of C one cache line is prefetched, the first at `prefetch_at`, the next `prefetch_stride`
        elements after it, and so on.
    """
    sig = signature(types.void, types.intp, *_numba_types(_RANK_K_ARGUMENTS, a))

    def codegen(context, builder, sig, args):
        if max_rank_of_host() > 0:
            table = _rank_k_table(builder.module, a.dtype)
            fn = builder.load(builder.gep(table, [i64(0), builder.sub(args[0], i64(1))]))
            builder.call(fn, args[1:])
        return context.get_dummy_value()

    return sig, codegen


# ---------------------------------------------------------------------------------------------- transposition


def _transpose(builder, rows, out, out_row_stride, itemsize):
    """Store the vectors of a square matrix as its columns: lanes are exchanged at distances 1, 2, 4, ..."""
    n, distance = len(rows), 1
    pick = ir.VectorType(i32, n)
    while distance < n:
        low = ir.Constant(pick, [lane + n - distance if lane & distance else lane for lane in range(n)])
        high = ir.Constant(pick, [lane + n if lane & distance else lane + distance for lane in range(n)])
        for i in range(n):
            if not i & distance:
                a, b = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = (builder.shuffle_vector(a, b, m) for m in (low, high))
        distance *= 2
    for j, row in enumerate(rows):
        address = builder.gep(out, [builder.mul(out_row_stride, i64(j))])
        builder.store(row, _as_vector(builder, address, row.type), align=itemsize)


@intrinsic
def transpose_full(typingctx, source, source_row_stride, out, out_row_stride):
    """out[j * out_row_stride + i] = source[i * source_row_stride + j] for i and j below the lanes of one register."""
    v = Vector(source.dtype, tile_lanes(source.dtype))

    def codegen(context, builder, sig, args):
        source, source_row_stride, out, out_row_stride = args
        addresses = (builder.gep(source, [builder.mul(source_row_stride, i64(i))]) for i in range(v.lanes))
        vectors = [builder.load(_as_vector(builder, at, v.ir), align=_itemsize(sig.args[0])) for at in addresses]
        _transpose(builder, vectors, out, out_row_stride, _itemsize(sig.args[0]))
        return context.get_dummy_value()

    return signature(types.void, source, types.intp, source, types.intp), codegen


@intrinsic
def transpose_masked(typingctx, source, source_row_stride, rows, columns, out, out_row_stride):
    """Transpose fewer rows and columns, of which no more is read.

    As many rows of `out` as a register has lanes are written; beyond `rows` elements their values are meaningless.
    """
    v = Vector(source.dtype, tile_lanes(source.dtype))

    def codegen(context, builder, sig, args):
        source, source_row_stride, rows, columns, out, out_row_stride = args
        last = builder.sub(rows, i64(1))
        vectors = []
        for i in range(v.lanes):
            row = builder.select(builder.icmp_signed("<", i64(i), last), i64(i), last)
            address = builder.gep(source, [builder.mul(row, source_row_stride)])
            vectors.append(emit_load_first(builder, address, v.ir, columns))
        _transpose(builder, vectors, out, out_row_stride, _itemsize(sig.args[0]))
        return context.get_dummy_value()

    n = types.intp
    return signature(types.void, source, n, n, n, source, n), codegen
