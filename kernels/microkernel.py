"""The register-tile GEMM microkernel, the rank-k update and their epilogues, in LLVM IR."""

import functools

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from .simd import (
    _FLOATS,
    _SUFFIX,
    _as_vector,
    _emit_masked_load,
    _emit_masked_store,
    _lane_mask,
    _llvm,
    _splat,
    i32,
    i64,
)


def _prefetch(builder, address, locality):
    kind = ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32])
    fn = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(fn, [address, i32(0), i32(locality), i32(1)])


INIT_ZERO, INIT_BIAS, INIT_C = 0, 1, 2


STORE, SGD, MOMENTUM, NESTEROV = 0, 1, 2, 3


MAX_RANK = 13  # of `rank_k_update`: twice as many registers hold B, five more are at work


LINE_BYTES = 64


@functools.cache
def register_bytes():
    """Bytes in the widest vector register that LLVM uses for this target: 64, 32 or 16.

    Asked of the code generator itself, so that it holds for every host and for NUMBA_CPU_NAME.
    """
    text = """define void @probe(ptr %p) {
        %v = load <16 x float>, ptr %p, align 4
        %w = fadd <16 x float> %v, %v
        store <16 x float> %w, ptr %p, align 4
        ret void }"""
    machine = cpu_target.target_context.codegen()._tm
    assembly = machine.emit_assembly(binding.parse_assembly(text))
    return 64 if "zmm" in assembly else 32 if "ymm" in assembly else 16


def tile_shape():
    """(most rows, most registers of columns) of the tile: its accumulators fill most of the register file."""
    return {64: (12, 2), 32: (6, 2), 16: (12, 2) if "v31" in _register_names() else (6, 2)}[register_bytes()]


def tile_widths(rows):
    """Return the most registers of columns of a tile with this many rows: few rows need more of them to keep busy."""
    most_rows, columns = tile_shape()
    return {1: 8, 2: 4, 3: 4 if most_rows == 12 else columns}.get(rows, columns)


def _register_names():
    return "v31" if cpu_target.target_context.codegen()._llvm_module.triple.startswith(("aarch64", "arm64")) else ""


def tile_lanes(dtype):
    """Elements in one register."""
    return register_bytes() * 8 // dtype.bitwidth


def _tile_type(scalar):
    p = scalar.as_pointer()
    a, b, c, bias, ahead = (p, i64, i64), (p, i64, i64), (p, i64, i64), (p, i64), (p, p, i64, i64)
    return ir.FunctionType(ir.VoidType(), [*a, *b, *c, i64, *bias, scalar, scalar, i64, *ahead])


def _tile_function(module, dtype, rows, columns):
    """Add one tile function to the module: `rows` rows times `columns` registers."""
    scalar, lanes, itemsize = _FLOATS[dtype], tile_lanes(dtype), dtype.bitwidth // 8
    vector = ir.VectorType(scalar, lanes)
    fn = ir.Function(module, _tile_type(scalar), f"fastbp_tile_{_SUFFIX[dtype]}_{rows}x{columns}")
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    fn.attributes.add("nounwind")
    (
        a,
        a_row_stride,
        a_col_stride,
        b,
        b_row_stride,
        k,
        c,
        c_row_stride,
        last,
        start,
        bias,
        epilogue,
        lr,
        momentum,
        velocity,
    ) = fn.args[:15]
    c_prefetch, ahead, prefetch_stride, interval = fn.args[15:]
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    entry = ir.IRBuilder(fn.append_basic_block("entry"))
    mask = _lane_mask(entry, last, lanes)

    def at(builder, base, row, step, extra=None):
        """Return base + row * step (+ extra)."""
        p = base if row == 0 else builder.gep(base, [builder.mul(step, i64(row))])
        return p if extra is None else builder.gep(p, [extra])

    def read(builder, address, j):
        address = builder.gep(address, [i64(j * lanes)])
        if j == columns - 1:
            return _emit_masked_load(builder, address, vector, itemsize, mask)
        return builder.load(_as_vector(builder, address, vector), align=itemsize)

    def write(builder, value, address, j):
        address = builder.gep(address, [i64(j * lanes)])
        if j == columns - 1:
            _emit_masked_store(builder, value, address, itemsize, mask)
        else:
            builder.store(value, _as_vector(builder, address, vector), align=itemsize)

    # this tile of C is wanted when the sums are done, or the next one before they begin; a short sum is not worth it
    with entry.if_then(entry.icmp_signed(">", k, i64(MAX_RANK))):
        for i in range(rows):
            for j in range(columns):
                _prefetch(entry, at(entry, c_prefetch, i, c_row_stride, i64(j * lanes)), 3)

    # where the sums start: at zero, at the bias, or at what C holds
    begin = {}
    blocks = {name: fn.append_basic_block(f"start_{name}") for name in (INIT_ZERO, INIT_BIAS, INIT_C)}
    fetch_block, loop_block, done = (fn.append_basic_block(name) for name in ("fetch", "loop", "done"))
    switch = entry.switch(start, blocks[INIT_ZERO])
    for name, block in blocks.items():
        builder = ir.IRBuilder(block)
        if name == INIT_ZERO:
            begin[name] = [ir.Constant(vector, None)] * len(cells)
        elif name == INIT_BIAS:
            row = [read(builder, bias, j) for j in range(columns)]
            begin[name] = [row[j] for _, j in cells]
        else:
            begin[name] = [read(builder, at(builder, c, i, c_row_stride), j) for i, j in cells]
        if name != INIT_ZERO:
            switch.add_case(i64(name), block)
        builder.cbranch(builder.icmp_signed(">", k, i64(0)), fetch_block, done)

    # the sum over k, in order, cut into intervals; at the start of each two lines are asked for
    fetch = ir.IRBuilder(fetch_block)
    outer_left, outer_b = fetch.phi(i64), fetch.phi(b.type)
    outer_bases = [fetch.phi(a.type) for _ in range(0, rows, 3)]
    outer_accumulators = [fetch.phi(vector) for _ in cells]
    wanted = fetch.phi(a.type)
    for name, block in blocks.items():
        builder = ir.IRBuilder(block)
        builder.position_before(block.terminator)
        outer_left.add_incoming(k, block)
        outer_b.add_incoming(b, block)
        for g, base in enumerate(outer_bases):
            base.add_incoming(at(builder, a, 3 * g, a_row_stride), block)
        for phi, value in zip(outer_accumulators, begin[name], strict=True):
            phi.add_incoming(value, block)
        wanted.add_incoming(ahead, block)
    for place in (0, LINE_BYTES // itemsize):
        _prefetch(fetch, fetch.gep(wanted, [i64(place)]), 2)
    now = fetch.select(fetch.icmp_signed("<", outer_left, interval), outer_left, interval)
    fetch.branch(loop_block)

    # rows are reached from every third one, so that addresses fit the registers
    loop = ir.IRBuilder(loop_block)
    left, b_at = loop.phi(i64), loop.phi(b.type)
    bases = [loop.phi(a.type) for _ in range(0, rows, 3)]
    accumulators = [loop.phi(vector) for _ in cells]
    left.add_incoming(now, fetch_block)
    for phi, value in zip([b_at, *bases, *accumulators], [outer_b, *outer_bases, *outer_accumulators], strict=True):
        phi.add_incoming(value, fetch_block)
    b_row_vectors = [read(loop, b_at, j) for j in range(columns)]
    sums = []
    for i in range(rows):
        element = loop.load(at(loop, bases[i // 3], i % 3, a_row_stride), align=itemsize)
        broadcast = _splat(loop, element, lanes)
        sums += [
            _llvm(loop, "fma", vector, broadcast, b_row_vectors[j], accumulators[i * columns + j])
            for j in range(columns)
        ]
    fewer = loop.sub(left, i64(1))
    left.add_incoming(fewer, loop_block)
    following = [loop.gep(b_at, [b_row_stride]), *[loop.gep(base, [a_col_stride]) for base in bases], *sums]
    for phi, value in zip([b_at, *bases, *accumulators], following, strict=True):
        phi.add_incoming(value, loop_block)
    latch_block = fn.append_basic_block("latch")
    branch = loop.cbranch(loop.icmp_signed(">", fewer, i64(0)), loop_block, latch_block)
    branch.set_metadata("llvm.loop", _no_unrolling(module))
    latch = ir.IRBuilder(latch_block)
    still = latch.sub(outer_left, now)
    outer_left.add_incoming(still, latch_block)
    for phi, value in zip([outer_b, *outer_bases, *outer_accumulators], following, strict=True):
        phi.add_incoming(value, latch_block)
    wanted.add_incoming(latch.gep(wanted, [prefetch_stride]), latch_block)
    branch = latch.cbranch(latch.icmp_signed(">", still, i64(0)), fetch_block, done)
    branch.set_metadata("llvm.loop", _no_unrolling(module))

    # what becomes of the sums
    end = ir.IRBuilder(done)
    results = [end.phi(vector) for _ in cells]
    for n, phi in enumerate(results):
        for name, block in blocks.items():
            phi.add_incoming(begin[name][n], block)
        phi.add_incoming(sums[n], latch_block)
    finishers = {name: fn.append_basic_block(f"finish_{name}") for name in (STORE, SGD, MOMENTUM, NESTEROV)}
    switch = end.switch(epilogue, finishers[STORE])
    for name, block in finishers.items():
        builder = ir.IRBuilder(block)
        if name != STORE:
            switch.add_case(i64(name), block)
            minus_lr = _splat(builder, builder.fneg(lr), lanes)
            mu = _splat(builder, momentum, lanes)
        # every load comes before every store: the footprint of a masked store reaches into the next row, whose load
        # would wait for it (2.2 times slower on 784-30 with 10 samples)
        speeds = steps = results
        if name in (MOMENTUM, NESTEROV):
            speeds = steps = [
                _llvm(builder, "fma", vector, mu, read(builder, at(builder, c, i, c_row_stride, velocity), j), g)
                for (i, j), g in zip(cells, results, strict=True)
            ]
        if name == NESTEROV:
            steps = [_llvm(builder, "fma", vector, mu, v, g) for v, g in zip(speeds, results, strict=True)]
        if name != STORE:
            steps = [
                _llvm(builder, "fma", vector, minus_lr, step, read(builder, at(builder, c, i, c_row_stride), j))
                for (i, j), step in zip(cells, steps, strict=True)
            ]
        if name in (MOMENTUM, NESTEROV):
            for (i, j), value in zip(cells, speeds, strict=True):
                write(builder, value, at(builder, c, i, c_row_stride, velocity), j)
        for (i, j), value in zip(cells, steps, strict=True):
            write(builder, value, at(builder, c, i, c_row_stride), j)
        builder.ret_void()
    return fn


def _no_unrolling(module):
    """Loop metadata: unrolled by LLVM, the loop over k spills its accumulators to the stack."""
    if not hasattr(module, "_fastbp_no_unrolling"):
        module._fastbp_no_unrolling = True
    node = module.add_metadata([module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])])
    distinct = ir.values.MDValue(module, list(node.operands), name=str(len(module.metadata)))
    distinct.operands = (distinct, *node.operands)
    return distinct


MAX_REGISTERS = 8  # of columns, of any tile


def _tile_table(module, dtype):
    """Return a global table of the tile functions, [rows - 1][columns - 1], null where there is none."""
    name = f"fastbp_tiles_{_SUFFIX[dtype]}"
    if name not in module.globals:
        kind = _tile_type(_FLOATS[dtype]).as_pointer()
        functions = [
            _tile_function(module, dtype, r + 1, n + 1) if n < tile_widths(r + 1) else ir.Constant(kind, None)
            for r in range(tile_shape()[0])
            for n in range(MAX_REGISTERS)
        ]
        kind = ir.ArrayType(kind, len(functions))
        table = ir.GlobalVariable(module, kind, name)
        table.linkage, table.global_constant, table.initializer = "internal", True, ir.Constant(kind, functions)
    return module.globals[name]


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
    c,
    c_row_stride,
    last,
    start,
    bias,
    epilogue,
    lr,
    momentum,
    velocity,
    c_prefetch,
    ahead,
    prefetch_stride,
    interval,
):
    """C[i, j] = finish(start + sum over k of a[i * a_row_stride + k * a_col_stride] * b[k * b_row_stride + j]) for one tile.

    rows, columns : rows, and registers of columns, of this tile (see `tile_shape`, `tile_widths`); `last` lanes of
        the last register are used.  start: INIT_ZERO, INIT_BIAS (the row at `bias`), INIT_C (what C holds).
    finish : STORE the sum; SGD: C -= lr * sum; MOMENTUM, NESTEROV: the same with the velocity that lies
        `velocity` elements after C.
    c_prefetch, ahead : what to ask the memory for meanwhile: the tile of C to be loaded next, at once; and after every
        `interval` steps of the sum two cache lines, the first at `ahead`, the next `prefetch_stride` elements on.  All
        at once these would keep the tile's own loads waiting.
    """
    n = types.intp
    sig = signature(types.void, n, n, a, n, n, a, n, n, a, n, n, n, a, n, a.dtype, a.dtype, n, a, a, n, n)

    def codegen(context, builder, sig, args):
        table = _tile_table(builder.module, a.dtype)
        row, column = (builder.sub(count, i64(1)) for count in args[:2])
        index = builder.add(builder.mul(row, i64(MAX_REGISTERS)), column)
        fn = builder.load(builder.gep(table, [i64(0), index]))
        builder.call(fn, args[2:])
        return context.get_dummy_value()

    return sig, codegen


def _rank_k_type(scalar):
    p = scalar.as_pointer()
    a, b, c, ahead = (p, i64), (p, i64), (p, i64, i64), (p, i64)
    return ir.FunctionType(ir.VoidType(), [i64, *a, *b, *c, i64, scalar, scalar, i64, *ahead])


def _rank_k_function(module, dtype, depth):
    """Add the function for sums of `depth` outer products: B stays in registers while the rows of C pass by."""
    scalar, lanes, itemsize = _FLOATS[dtype], tile_lanes(dtype), dtype.bitwidth // 8
    vector = ir.VectorType(scalar, lanes)
    fn = ir.Function(module, _rank_k_type(scalar), f"fastbp_outer_{_SUFFIX[dtype]}_{depth}")
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    fn.attributes.add("nounwind")
    (
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
        ahead,
        prefetch_stride,
    ) = fn.args
    entry = ir.IRBuilder(fn.append_basic_block("entry"))
    places = i64(0), second  # of the two registers of a row; they may overlap

    def read(builder, address, place):
        return builder.load(_as_vector(builder, builder.gep(address, [place]), vector), align=itemsize)

    def write(builder, value, address, place):
        builder.store(value, _as_vector(builder, builder.gep(address, [place]), vector), align=itemsize)

    kept = []
    for k in range(depth):
        row = entry.gep(b, [entry.mul(b_row_stride, i64(k))])
        kept.append([read(entry, row, place) for place in places])
    minus_lr, mu = _splat(entry, entry.fneg(lr), lanes), _splat(entry, momentum, lanes)
    columns_of_a = [entry.mul(a_col_stride, i64(k)) for k in range(depth)]
    loop_block, next_block, done = (fn.append_basic_block(name) for name in ("loop", "next", "done"))
    entry_block = entry.block
    entry.branch(loop_block)

    loop = ir.IRBuilder(loop_block)
    i, a_at, c_at, ahead_at = loop.phi(i64), loop.phi(a.type), loop.phi(c.type), loop.phi(ahead.type)
    _prefetch(loop, ahead_at, 2)
    sums = [ir.Constant(vector, None)] * 2
    for k in range(depth):
        element = _splat(loop, loop.load(loop.gep(a_at, [columns_of_a[k]]), align=itemsize), lanes)
        sums = [_llvm(loop, "fma", vector, element, kept[k][j], sums[j]) for j in range(2)]
    finishers = {name: fn.append_basic_block(f"finish_{name}") for name in (STORE, SGD, MOMENTUM, NESTEROV)}
    switch = loop.switch(epilogue, finishers[STORE])
    for name, block in finishers.items():
        builder = ir.IRBuilder(block)
        if name != STORE:
            switch.add_case(i64(name), block)
        speeds = steps = sums
        speed_at = builder.gep(c_at, [velocity])
        if name in (MOMENTUM, NESTEROV):
            speeds = steps = [
                _llvm(builder, "fma", vector, mu, read(builder, speed_at, place), g)
                for place, g in zip(places, sums, strict=True)
            ]
        if name == NESTEROV:
            steps = [_llvm(builder, "fma", vector, mu, v, g) for v, g in zip(speeds, sums, strict=True)]
        if name != STORE:
            steps = [
                _llvm(builder, "fma", vector, minus_lr, step, read(builder, c_at, place))
                for place, step in zip(places, steps, strict=True)
            ]
        for place, speed, value in zip(places, speeds, steps, strict=True):
            if name in (MOMENTUM, NESTEROV):
                write(builder, speed, speed_at, place)
            write(builder, value, c_at, place)
        builder.branch(next_block)
    step = ir.IRBuilder(next_block)
    after = step.add(i, i64(1))
    for phi, first, following in (
        (i, i64(0), after),
        (a_at, a, step.gep(a_at, [i64(1)])),
        (c_at, c, step.gep(c_at, [c_row_stride])),
        (ahead_at, ahead, step.gep(ahead_at, [prefetch_stride])),
    ):
        phi.add_incoming(first, entry_block)
        phi.add_incoming(following, next_block)
    branch = step.cbranch(step.icmp_signed("<", after, rows), loop_block, done)
    branch.set_metadata("llvm.loop", _no_unrolling(module))
    ir.IRBuilder(done).ret_void()
    return fn


def max_rank_of_host():
    """Return the most outer products that `rank_k_update` adds up: with fewer registers the tile is as fast."""
    return MAX_RANK if tile_shape()[0] == 12 else 0


@intrinsic
def max_rank(typingctx):
    """Return `max_rank_of_host` of this host."""
    return signature(types.intp), lambda context, builder, sig, args: i64(max_rank_of_host())


@intrinsic
def rank_k_update(
    typingctx,
    depth,
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
    ahead,
    prefetch_stride,
):
    """C[i, j] = finish(sum over k of a[i + k * a_col_stride] * b[k * b_row_stride + j]): few outer products, one or more rows of C.

    depth : 1 to `max_rank_of_host`.  C has the columns of two registers, the second of which starts at column `second`,
        at most one register; columns in both are computed twice.  No memory beyond them is touched, so a row need not
        wait for the one before.  finish : as in `tile`, to the same bits.
    ahead : with each row of C a cache line is asked for, the first at `ahead`, the next `prefetch_stride` elements on.
    """
    n = types.intp
    sig = signature(types.void, n, n, a, n, a, n, a, n, n, n, a.dtype, a.dtype, n, a, n)

    def codegen(context, builder, sig, args):
        name, kind = f"fastbp_outers_{_SUFFIX[a.dtype]}", _rank_k_type(_FLOATS[a.dtype]).as_pointer()
        if max_rank_of_host() == 0:
            return context.get_dummy_value()
        if name not in builder.module.globals:
            functions = [_rank_k_function(builder.module, a.dtype, d + 1) for d in range(max_rank_of_host())]
            array = ir.ArrayType(kind, len(functions))
            table = ir.GlobalVariable(builder.module, array, name)
            table.linkage, table.global_constant, table.initializer = "internal", True, ir.Constant(array, functions)
        table = builder.module.globals[name]
        builder.call(builder.load(builder.gep(table, [i64(0), builder.sub(args[0], i64(1))])), args[1:])
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def tile_rows(typingctx):
    """Return the most rows of a tile on this host."""
    return signature(types.intp), lambda context, builder, sig, args: i64(tile_shape()[0])


@intrinsic
def tile_columns(typingctx, p):
    """Elements in a row of the tile, and in one register of it, on this host."""

    def codegen(context, builder, sig, args):
        lanes = tile_lanes(p.dtype)
        return context.make_tuple(builder, sig.return_type, [i64(lanes * tile_shape()[1]), i64(lanes)])

    return signature(types.UniTuple(types.intp, 2), p), codegen


@intrinsic
def registers_for(typingctx, rows):
    """Return the registers of columns of the widest tile with this many rows; see `tile_widths`."""

    def codegen(context, builder, sig, args):
        answer = i64(tile_shape()[1])
        for few in (3, 2, 1):
            answer = builder.select(builder.icmp_signed("==", args[0], i64(few)), i64(tile_widths(few)), answer)
        return answer

    return signature(types.intp, types.intp), codegen
