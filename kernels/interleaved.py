"""Products of many networks at once, interleaved: element k of network w lies at place k * width + w.

So each lane of a vector belongs to another network (the "compact" layout of batched BLAS), every vector is full, and a
transposed operand is only a matter of strides.  Each element of a result is one chain of fused multiply-adds over k in
order, as in `microkernel`: a network gets the bits that it gets alone.
"""

from llvmlite import ir
from numba import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from .jit import inline
from .microkernel import (
    _add_function,
    _add_incoming,
    _add_table,
    _branch_back,
    _llvm_type,
    _numba_types,
    _phis,
    tile_lanes,
)
from .native import native
from .simd import (
    _FLOATS,
    _SUFFIX,
    NarrowPointer,
    Vector,
    _llvm,
    _splat,
    emit_load,
    emit_store,
    i64,
    offset,
)

# Strides are in elements.  The sums start at the vectors from `start` on: zero, a bias, or the result so far.
_ARGUMENTS = {
    "n_registers": "i",  # of networks, side by side in every element
    "n_columns": "i",  # of tiles, side by side
    "n_rows": "i",  # of tiles, one below the other
    "a": "p",
    "a_row_stride": "i",
    "a_k_stride": "i",
    "b": "p",
    "b_k_stride": "i",
    "b_column_stride": "i",
    "k": "i",
    "c": "p",
    "c_row_stride": "i",
    "c_column_stride": "i",
    "start": "p",
    "start_row_stride": "i",
    "start_column_stride": "i",
}
# Most columns of a tile by its rows: accumulators, a register for each column and one for A fit into 16 registers.
MAX_COLUMNS = {1: 8, 2: 5, 3: 3, 4: 3, 5: 2, 6: 2, 7: 1, 8: 1}
MAX_TILE = 8  # rows, and columns


@intrinsic
def registers(typingctx, p):
    """Return the same address as a pointer to vectors of one register of this host."""
    return signature(NarrowPointer(p.dtype, tile_lanes(p.dtype)), p), lambda context, builder, sig, args: args[0]


@intrinsic
def doubles_of(typingctx, p, like):
    """Return a pointer to float64 as one to vectors with as many lanes as a register has elements of `like`."""
    kind = NarrowPointer(types.float64, tile_lanes(like.dtype))
    return signature(kind, p, like), lambda context, builder, sig, args: args[0]


@intrinsic
def as_doubles(typingctx, v):
    """Return the lanes in float64."""
    wide = Vector(types.float64, v.lanes)

    def codegen(context, builder, sig, args):
        return args[0] if v.dtype == types.float64 else builder.fpext(args[0], wide.ir)

    return signature(wide, v), codegen


@intrinsic
def all_finite(typingctx, v):
    """Whether every lane is finite."""

    def codegen(context, builder, sig, args):
        zero = ir.Constant(v.ir, [0.0] * v.lanes)
        is_finite = builder.fcmp_ordered("==", builder.fsub(args[0], args[0]), zero)
        bits = builder.bitcast(is_finite, ir.IntType(v.lanes))
        return builder.icmp_unsigned("==", bits, ir.Constant(bits.type, -1))

    return signature(types.boolean, v), codegen


def _tile_function(module, dtype, rows, columns, is_scalar):
    """Emit the function of tiles of one size; `is_scalar`: elements of A are numbers, the same for all networks."""
    name = f"fastbp_interleaved_{_SUFFIX[dtype]}_{rows}x{columns}{'_scalar' * is_scalar}"
    fn, args = _add_function(module, name, _ARGUMENTS, dtype)
    lanes, itemsize = tile_lanes(dtype), dtype.bitwidth // 8
    vector = ir.VectorType(_FLOATS[dtype], lanes)
    names = "entry", "register", "column", "tile", "loop", "done", "next_column", "next_register", "end"
    entry, register, column, tile, loop, done, next_column, next_register, end = map(fn.append_basic_block, names)
    builder = ir.IRBuilder(entry)

    def place(builder, base, row, row_stride, j, column_stride):
        at = builder.mul(row_stride, i64(row))
        if j:
            at = builder.add(at, builder.mul(column_stride, i64(j)))
        return builder.gep(base, [at]) if row or j else base

    a_at = [builder.mul(args.a_row_stride, i64(i)) for i in range(rows)]
    b_at = [builder.mul(args.b_column_stride, i64(j)) for j in range(columns)]
    down = [builder.mul(stride, i64(rows)) for stride in (args.a_row_stride, args.c_row_stride, args.start_row_stride)]
    strides = args.b_column_stride, args.c_column_stride, args.start_column_stride
    across = [builder.mul(stride, i64(columns)) for stride in strides]
    builder.branch(register)
    builder = ir.IRBuilder(register)
    first = [args.n_registers, args.a, args.b, args.c, args.start]
    registers_left, a_register, *operands = of_register = _phis(builder, first)
    _add_incoming(of_register, first, entry)
    builder.branch(column)
    builder = ir.IRBuilder(column)
    first = [args.n_columns, *operands]
    columns_left, b_column, *below = column_of_tiles = _phis(builder, first)
    _add_incoming(column_of_tiles, first, register)
    builder.branch(tile)
    builder = ir.IRBuilder(tile)
    first = [args.n_rows, a_register, *below]
    n_left, a_tile, c, start = tiles = _phis(builder, first)
    _add_incoming(tiles, first, column)
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    sums = [
        emit_load(builder, place(builder, start, i, args.start_row_stride, j, args.start_column_stride), vector)
        for i, j in cells
    ]
    builder.cbranch(builder.icmp_signed(">", args.k, i64(0)), loop, done)
    builder = ir.IRBuilder(loop)
    before = [args.k, a_tile, b_column, *sums]
    k_left, a, b, *old = state = _phis(builder, before)
    _add_incoming(state, before, tile)
    b_row = [emit_load(builder, builder.gep(b, [at]), vector) for at in b_at]
    new = []
    for i in range(rows):
        address = builder.gep(a, [a_at[i]])
        if is_scalar:
            element = _splat(builder, builder.load(address, align=itemsize), lanes)
        else:
            element = emit_load(builder, address, vector)
        of_row = old[i * columns : (i + 1) * columns]
        new += [_llvm(builder, "fma", vector, element, *pair) for pair in zip(b_row, of_row, strict=True)]
    k_left = builder.sub(k_left, i64(1))
    after = [k_left, builder.gep(a, [args.a_k_stride]), builder.gep(b, [args.b_k_stride]), *new]
    _add_incoming(state, after, loop)
    _branch_back(builder, builder.icmp_signed("!=", k_left, i64(0)), loop, done)
    builder = ir.IRBuilder(done)
    results = _phis(builder, sums)
    _add_incoming(results, sums, tile)
    _add_incoming(results, new, loop)
    for (i, j), value in zip(cells, results, strict=True):
        emit_store(builder, value, place(builder, c, i, args.c_row_stride, j, args.c_column_stride))
    n_left = builder.sub(n_left, i64(1))
    after = [n_left, *(builder.gep(at, [step]) for at, step in zip((a_tile, c, start), down, strict=True))]
    _add_incoming(tiles, after, done)
    _branch_back(builder, builder.icmp_signed("!=", n_left, i64(0)), tile, next_column)
    builder = ir.IRBuilder(next_column)
    columns_left = builder.sub(columns_left, i64(1))
    at = [builder.gep(p, [step]) for p, step in zip((b_column, *below), across, strict=True)]
    _add_incoming(column_of_tiles, [columns_left, *at], next_column)
    _branch_back(builder, builder.icmp_signed("!=", columns_left, i64(0)), column, next_register)
    builder = ir.IRBuilder(next_register)
    registers_left = builder.sub(registers_left, i64(1))
    a = a_register if is_scalar else builder.gep(a_register, [i64(lanes)])
    after = [registers_left, a, *(builder.gep(p, [i64(lanes)]) for p in operands)]
    _add_incoming(of_register, after, next_register)
    _branch_back(builder, builder.icmp_signed("!=", registers_left, i64(0)), register, end)
    ir.IRBuilder(end).ret_void()
    return fn


def _table(module, dtype, is_scalar):
    """Return a global table of the tile functions, [rows - 1][columns - 1], null where there is none."""
    name = f"fastbp_interleaved_table_{_SUFFIX[dtype]}{'_scalar' * is_scalar}"
    if name not in module.globals:
        null = ir.Constant(_llvm_type(_ARGUMENTS, dtype).as_pointer(), None)
        functions = [
            _tile_function(module, dtype, rows, columns, is_scalar) if columns <= most else null
            for rows, most in MAX_COLUMNS.items()
            for columns in range(1, MAX_TILE + 1)
        ]
        _add_table(module, name, functions)
    return module.globals[name]


@intrinsic
def _tile(
    typingctx,
    rows,
    columns,
    n_registers,
    n_columns,
    n_rows,
    a,
    a_row_stride,
    a_k_stride,
    b,
    b_k_stride,
    b_column_stride,
    k,
    c,
    c_row_stride,
    c_column_stride,
    start,
    start_row_stride,
    start_column_stride,
):
    """Compute tiles side by side and one below the other; `a` points to numbers or, if of `registers`, to vectors."""
    is_scalar = not isinstance(a, NarrowPointer)

    def codegen(context, builder, sig, args):
        table = _table(builder.module, b.dtype, is_scalar)
        row, column = (builder.sub(n, i64(1)) for n in args[:2])
        at = builder.add(builder.mul(row, i64(MAX_TILE)), column)
        function = builder.load(builder.gep(table, [i64(0), at]))
        builder.call(function, args[2:])
        return context.get_dummy_value()

    kinds = _numba_types(_ARGUMENTS, b)
    kinds[3] = a
    return signature(types.void, types.intp, types.intp, *kinds), codegen


@inline
def _parts(n, most):
    """Cut n rows or columns into parts: how many of `most`, the size and number of the next, the size of the last or 0.

    What is left after the last whole part is put together with that one and halved: no part is much smaller.
    """
    if n <= most:  # divisions are slow
        return 0, n, 1, 0
    whole = n // most
    left = n - whole * most
    if left > 0 and whole > 0:
        left += most
        whole -= 1
    upper = left
    if left > most:
        upper = (left + 1) >> 1
    lower = left - upper
    if left == 0:
        return whole, 0, 0, 0
    if lower == upper:
        return whole, upper, 2, 0
    return whole, upper, 1, lower


@inline
def _block(
    m,
    n,
    n_registers,
    n_rows,
    n_columns,
    i,
    j,
    k,
    a,
    a_row,
    a_k,
    b,
    b_k,
    b_column,
    c,
    c_row,
    c_column,
    start,
    s_row,
    s_column,
):
    """Compute n_rows times n_columns tiles of m rows and n columns, from row i and column j on."""
    if n_rows > 0 and n_columns > 0:
        c, start = offset(c, i * c_row + j * c_column), offset(start, i * s_row + j * s_column)
        a, b = offset(a, i * a_row), offset(b, j * b_column)
        _tile(
            m,
            n,
            n_registers,
            n_columns,
            n_rows,
            a,
            a_row,
            a_k,
            b,
            b_k,
            b_column,
            k,
            c,
            c_row,
            c_column,
            start,
            s_row,
            s_column,
        )


@inline
def _product(n_registers, rows, columns, k, *operands):
    most = 3
    if rows == 1:
        most = 8
    elif rows == 2:
        most = 5
    whole, upper, n_upper, lower = _parts(columns, most)
    j = 0
    for part in range(3):
        n, n_columns = most, whole
        if part == 1:
            n, n_columns = upper, n_upper
        elif part == 2:
            n, n_columns = lower, 1
        if n == 0 or n_columns == 0:
            continue
        most_rows = 4
        if n == 1:
            most_rows = 8
        elif n == 2:
            most_rows = 6
        whole_rows, upper_rows, n_upper_rows, lower_rows = _parts(rows, most_rows)
        _block(most_rows, n, n_registers, whole_rows, n_columns, 0, j, k, *operands)
        i = whole_rows * most_rows
        _block(upper_rows, n, n_registers, n_upper_rows, n_columns, i, j, k, *operands)
        if lower_rows > 0:
            _block(lower_rows, n, n_registers, 1, n_columns, i + upper_rows, j, k, *operands)
        j += n * n_columns


# C = start + A @ B for interleaved networks: (registers of them, rows, columns, k, a, its strides by row and by k; b,
# its strides by k and by column; c, its strides by row and by column; start, likewise).  The elements of A are vectors,
# or numbers that all networks have in common.
PRODUCT = "iiiipiipiipiipii"


@native(PRODUCT)
def product(n_registers, rows, columns, k, a, a_row, a_k, b, b_k, b_column, c, c_row, c_column, start, s_row, s_column):
    """Multiply vectors by vectors; see `PRODUCT`."""
    a = registers(a)
    _product(n_registers, rows, columns, k, a, a_row, a_k, b, b_k, b_column, c, c_row, c_column, start, s_row, s_column)


@native(PRODUCT)
def product_of_numbers(
    n_registers, rows, columns, k, a, a_row, a_k, b, b_k, b_column, c, c_row, c_column, start, s_row, s_column
):
    """Multiply numbers by vectors; see `PRODUCT`."""
    _product(n_registers, rows, columns, k, a, a_row, a_k, b, b_k, b_column, c, c_row, c_column, start, s_row, s_column)
