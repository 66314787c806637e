"""Vectors, raw pointers and masked memory, as LLVM IR.

Kernels are written in ordinary Python over one extra type, a vector of 64 bytes (16 lanes of float32 or 8 of
float64).  LLVM maps it to whatever registers the host has (one AVX-512 register, two AVX2, four NEON), so a
result never depends on the host: every lane is computed by the same IEEE operations, and sums over lanes are
added in one fixed order.

    v = load(p, i); w = fma(v, v, 1.0); store(p, i, w)       # p: a pointer from `pointer(array, offset)`
"""

import functools
import operator

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.core.errors import RequireLiteralValue
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic

from .layout import FEW_LANES

LANES = {types.float32: 16, types.float64: 8}

i1, i32, i64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
_FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_INTS = {types.float32: i32, types.float64: i64}
_SUFFIX = {types.float32: "f32", types.float64: "f64"}
_MANTISSA = {types.float32: 23, types.float64: 52}
_BIAS = {types.float32: 127, types.float64: 1023}


# ---------------------------------------------------------------------------------------------- the vector type


class Vector(types.Type):
    """The type of a vector of float32 or float64, 64 bytes or `FEW_LANES` long, or of the mask from a comparison."""

    def __init__(self, dtype, lanes, is_mask=False):
        self.dtype, self.lanes, self.is_mask = dtype, lanes, is_mask
        super().__init__(f"{'mask' if is_mask else 'vector'}({dtype}, {self.lanes})")

    @property
    def mask(self):
        """The type of a comparison's result."""
        return Vector(self.dtype, self.lanes, is_mask=True)

    @property
    def ir(self):
        """The LLVM type."""
        return ir.VectorType(i1 if self.is_mask else _FLOATS[self.dtype], self.lanes)


class NarrowPointer(types.CPointer):
    """A pointer whose vectors have few lanes: for short sums, where wide vectors divide and shuffle more slowly."""

    def __init__(self, dtype, lanes=FEW_LANES):
        super().__init__(dtype)
        self.name, self.lanes = f"narrow({dtype}, {lanes})", lanes

    @property
    def key(self):
        """What tells types apart."""
        return self.dtype, self.lanes


register_default(NarrowPointer)(models.PointerModel)


def _lanes(p):
    """Return the lanes of the vectors behind a pointer."""
    return p.lanes if isinstance(p, NarrowPointer) else LANES[p.dtype]


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.ir)


def _splat(builder, value, lanes):
    vector = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    vector = builder.insert_element(vector, value, ir.Constant(i32, 0))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(i32, lanes), [0] * lanes))


def _constant(vector_type, value):
    """Return a constant vector with the Python number `value` in every lane."""
    return ir.Constant(vector_type.ir, [value] * vector_type.lanes)


@lower_cast(types.Float, Vector)
@lower_cast(types.Integer, Vector)
@lower_cast(types.Boolean, Vector)
def _cast_scalar(context, builder, fromty, toty, value):
    return _splat(builder, context.cast(builder, value, fromty, toty.dtype), toty.lanes)


def _vector_of(*args):
    return next((a for a in args if isinstance(a, Vector) and not a.is_mask), None)


def _number_or(vector, *args):
    return all(a == vector or isinstance(a, types.Number | types.Boolean) for a in args)


def _register_binary(op, emit, comparison=False):
    @infer_global(op)
    class Template(AbstractTemplate):
        def generic(self, args, kws):
            v = _vector_of(*args)
            if v is not None and _number_or(v, *args):
                return signature(v.mask if comparison else v, v, v)

    @lower_builtin(op, Vector, Vector)
    def lower(context, builder, sig, args):
        return emit(builder, *args)


for _op, _name in [(operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")]:
    _register_binary(_op, lambda b, x, y, name=_name: getattr(b, name)(x, y))
for _op, _sign in [
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
]:
    # unordered only for != : like IEEE and NumPy, every other comparison with NaN is False
    _register_binary(
        _op,
        lambda b, x, y, sign=_sign: (b.fcmp_unordered if sign == "!=" else b.fcmp_ordered)(sign, x, y),
        comparison=True,
    )


@infer_global(operator.neg)
class _Negative(AbstractTemplate):
    def generic(self, args, kws):
        if _vector_of(*args):
            return signature(args[0], args[0])


@lower_builtin(operator.neg, Vector)
def _lower_negative(context, builder, sig, args):
    return builder.fneg(args[0])


def _llvm(builder, name, result, *args):
    """Call the LLVM intrinsic `name` (its type suffix taken from the first argument)."""
    t = args[0].type
    suffix = f"v{t.count}{_SUFFIX_OF[str(t.element)]}" if isinstance(t, ir.VectorType) else _SUFFIX_OF[str(t)]
    fn = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [a.type for a in args]), f"llvm.{name}.{suffix}"
    )
    return builder.call(fn, args)


_SUFFIX_OF = {"float": "f32", "double": "f64", "i32": "i32", "i64": "i64"}


def _vector_function(llvm_name, n_args):
    """Type an LLVM function of vectors (plain numbers among its arguments become vectors) or scalars."""

    def typer(*args):
        v = _vector_of(*args)
        if v is None:
            v = next((a for a in args if a in LANES), None)
            if v is None or any(a != v for a in args):
                return None
        elif not _number_or(v, *args):
            return None

        def codegen(context, builder, sig, values):
            return _llvm(builder, llvm_name, values[0].type, *values)

        return signature(v, *[v] * n_args), codegen

    return typer


_fma, _sqrt, _fabs, _copysign, _rint, _minnum, _maxnum = (
    _vector_function(name, n)
    for name, n in [
        ("fma", 3),
        ("sqrt", 1),
        ("fabs", 1),
        ("copysign", 2),
        ("nearbyint", 1),
        ("minnum", 2),
        ("maxnum", 2),
    ]
)


@intrinsic
def fma(typingctx, a, b, c):
    """Return a * b + c, rounded once."""
    return _fma(a, b, c)


@intrinsic
def sqrt(typingctx, a):
    """Return the square root."""
    return _sqrt(a)


@intrinsic
def fabs(typingctx, a):
    """Return |a|."""
    return _fabs(a)


@intrinsic
def copysign(typingctx, a, b):
    """Return |a| with the sign of b."""
    return _copysign(a, b)


@intrinsic
def rint(typingctx, a):
    """Return the nearest integer, ties to even."""
    return _rint(a)


@intrinsic
def where(typingctx, mask, a, b):
    """Return a in the lanes where the mask is set, b elsewhere."""
    v = Vector(mask.dtype, mask.lanes)

    def codegen(context, builder, sig, args):
        return builder.select(*args)

    return signature(v, mask, v, v), codegen


def _power_of_two(builder, n, vector):
    """Emit 2**n: n is added to a number whose last bits become n + bias, and these are shifted into the exponent."""
    ints = ir.VectorType(_INTS[vector.dtype], vector.lanes)
    shift = _MANTISSA[vector.dtype]
    moved = builder.fadd(n, _constant(vector, 1.5 * 2.0**shift + _BIAS[vector.dtype]))
    bits = builder.shl(builder.bitcast(moved, ints), ir.Constant(ints, [shift] * vector.lanes))
    return builder.bitcast(bits, vector.ir)


@intrinsic
def power_of_two(typingctx, n):
    """Return 2**n for a vector n of integers; infinity one above the largest exponent, 0 one below the smallest."""

    def codegen(context, builder, sig, args):
        return _power_of_two(builder, args[0], sig.return_type)

    return signature(n, n), codegen


@intrinsic
def ilogb(typingctx, v):
    """Return the n for which v = m * 2**n with m in [sqrt(1/2), sqrt(2)), for v normal and positive; as floats."""

    def codegen(context, builder, sig, args):
        vector = sig.return_type
        ints = ir.VectorType(_INTS[vector.dtype], vector.lanes)
        shift, bias = _MANTISSA[vector.dtype], _BIAS[vector.dtype]
        # adding the distance from sqrt(1/2) up to 1 carries into the exponent just where m would be >= sqrt(2)
        one, root = {types.float32: (0x3F800000, 0x3F3504F3), types.float64: (0x3FF0000000000000, 0x3FE6A09E667F3BCD)}[
            vector.dtype
        ]
        magic = 2.0**shift  # its last bits take the integer, which makes it a float
        magic_bits = (shift + bias) << shift
        carry, by, into = (ir.Constant(ints, [c] * vector.lanes) for c in (one - root, shift, magic_bits))
        n = builder.lshr(builder.add(builder.bitcast(args[0], ints), carry), by)
        return builder.fsub(builder.bitcast(builder.or_(n, into), vector.ir), _constant(vector, magic + bias))

    return signature(v, v), codegen


@intrinsic
def rsqrt_estimate(typingctx, v):
    """Return 1 / sqrt(v) to 3.5 %, for v normal and positive; a large number for 0 (Lomont 2003)."""

    def codegen(context, builder, sig, args):
        vector = sig.return_type
        ints = ir.VectorType(_INTS[vector.dtype], vector.lanes)
        magic = {types.float32: 0x5F3759DF, types.float64: 0x5FE6EB50C7B537A9}[vector.dtype]
        magic, one = (ir.Constant(ints, [c] * vector.lanes) for c in (magic, 1))
        # the bits of a float are nearly its logarithm: halved and negated, with the bias put right
        bits = builder.sub(magic, builder.lshr(builder.bitcast(args[0], ints), one))
        return builder.bitcast(bits, vector.ir)

    return signature(v, v), codegen


@intrinsic
def squares_float64(typingctx, v):
    """Return the squares of the lanes in float64; float32 has twice the lanes, and squares of both halves are added."""
    is_single = v.dtype == types.float32
    wide = Vector(types.float64, v.lanes // 2 if is_single else v.lanes)

    def codegen(context, builder, sig, args):
        halves = args
        if is_single:
            halves = [builder.fpext(half, wide.ir) for half in _halves(builder, args[0])]
        result = builder.fmul(halves[0], halves[0])
        for half in halves[1:]:
            result = _llvm(builder, "fma", wide.ir, half, half, result)
        return result

    return signature(wide, v), codegen


@intrinsic
def polynomial(typingctx, x, x_squared, coefficients):
    """Return coefficients[0] * x**n + ... + coefficients[n] by fused multiply-adds.

    Pairs of terms first, then Horner's scheme in x**2: half the latency of Horner's scheme in x.
    """

    def codegen(context, builder, sig, args):
        x, x_squared, constants = args
        terms = [
            context.cast(builder, builder.extract_value(constants, i), sig.args[2].dtype, sig.args[0])
            for i in range(sig.args[2].count)
        ]
        pairs = [terms.pop(0)] if len(terms) % 2 else []
        pairs += [
            _llvm(builder, "fma", x.type, high, x, low) for high, low in zip(terms[::2], terms[1::2], strict=True)
        ]
        return functools.reduce(lambda acc, pair: _llvm(builder, "fma", x.type, acc, x_squared, pair), pairs)

    return signature(x, x, x, coefficients), codegen


@intrinsic
def by_dtype(typingctx, x, for_float32, for_float64):
    """Return one of two constants (numbers or tuples) by the dtype of x (vector, pointer or scalar), when compiled."""
    is_single = getattr(x, "dtype", x) == types.float32
    chosen = for_float32 if is_single else for_float64

    def codegen(context, builder, sig, args):
        return args[1 if is_single else 2]

    return signature(chosen, x, for_float32, for_float64), codegen


@intrinsic
def is_single(typingctx, x):
    """Return True when the dtype of x (vector, pointer or scalar) is float32; known when compiled."""
    answer = getattr(x, "dtype", x) == types.float32
    return signature(types.boolean, x), lambda context, builder, sig, args: ir.Constant(i1, int(answer))


def _random_bits(builder, seed, column, lanes):
    """Emit 32 random bits for each lane: the hash "lowbias32" of the seed's low half and of each column."""
    ints = ir.VectorType(i32, lanes)

    def constant(c):
        return ir.Constant(ints, [c] * lanes)

    columns = builder.add(_splat(builder, builder.trunc(column, i32), lanes), ir.Constant(ints, list(range(lanes))))
    x = builder.add(_splat(builder, builder.trunc(seed, i32), lanes), builder.mul(columns, constant(0x9E3779B9)))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = builder.mul(builder.xor(x, builder.lshr(x, constant(shift))), constant(factor))
    return builder.xor(x, builder.lshr(x, constant(16)))


@intrinsic
def keep_mask(typingctx, p, seed, column, threshold):
    """Return the mask of the lanes whose 32 random bits are no less than the threshold; see `noise.py`."""
    v = Vector(p.dtype, _lanes(p))

    def codegen(context, builder, sig, args):
        bits = _random_bits(builder, args[1], args[2], v.lanes)
        return builder.icmp_unsigned(">=", bits, _splat(builder, builder.trunc(args[3], i32), v.lanes))

    return signature(v.mask, p, types.uint64, types.intp, types.int64), codegen


@intrinsic
def random_unit(typingctx, p, seed, column):
    """Return a vector of random numbers in (0, 1), of 23 bits each; see `noise.py`."""
    v = Vector(p.dtype, _lanes(p))

    def codegen(context, builder, sig, args):
        bits = _random_bits(builder, args[1], args[2], v.lanes)
        bits = builder.lshr(bits, ir.Constant(bits.type, [9] * v.lanes))
        number = builder.fadd(builder.sitofp(bits, v.ir), _constant(v, 0.5))
        return builder.fmul(number, _constant(v, 2.0**-23))

    return signature(v, p, types.uint64, types.intp), codegen


@intrinsic
def hsum(typingctx, v):
    """Return the sum of the lanes, halves added to halves: one fixed order on every host."""

    def codegen(context, builder, sig, args):
        return _fold(builder, args[0], builder.fadd)

    return signature(v.dtype, v), codegen


@intrinsic
def hsum4(typingctx, v):
    """Return the sum of the first four lanes, which is `hsum` where the others are zero."""

    def codegen(context, builder, sig, args):
        few = builder.shuffle_vector(args[0], args[0], ir.Constant(ir.VectorType(i32, 4), [0, 1, 2, 3]))
        return _fold(builder, few, builder.fadd)

    return signature(v.dtype, v), codegen


@intrinsic
def hsum_rows(typingctx, v, w, x, y):
    """Return the narrow vector of the sums of the lanes of four vectors, each in the order of `hsum`."""
    v4 = Vector(v.dtype, 4)

    def codegen(context, builder, sig, args):
        def pick(a, b, lanes):
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(i32, 4), lanes))

        def added(a, b, low, high):
            return builder.fadd(pick(a, b, low), pick(a, b, high))

        rows = []
        for row in args:
            while row.type.count > 4:
                row = builder.fadd(*_halves(builder, row))
            rows.append(row)
        pairs = [added(*two, [0, 1, 4, 5], [2, 3, 6, 7]) for two in (rows[:2], rows[2:])]
        return added(*pairs, [0, 2, 4, 6], [1, 3, 5, 7])

    return signature(v4, v, v, v, v), codegen


@intrinsic
def widened(typingctx, v):
    """Return the whole vector whose first lanes are v, zero in the others."""
    whole = Vector(v.dtype, LANES[v.dtype])

    def codegen(context, builder, sig, args):
        lanes = [min(lane, v.lanes) for lane in range(whole.lanes)]
        return builder.shuffle_vector(
            args[0], ir.Constant(v.ir, None), ir.Constant(ir.VectorType(i32, whole.lanes), lanes)
        )

    return signature(whole, v), codegen


@intrinsic
def hmax(typingctx, v):
    """Return the largest lane; NaN is ignored."""

    def codegen(context, builder, sig, args):
        return _fold(builder, args[0], lambda a, b: _llvm(builder, "maxnum", a.type, a, b))

    return signature(v.dtype, v), codegen


@intrinsic
def hmax_no_nan(typingctx, v):
    """Return the largest lane where none is NaN; faster than `hmax`, which checks for NaN at every step."""

    def codegen(context, builder, sig, args):
        return _fold(builder, args[0], lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))

    return signature(v.dtype, v), codegen


@intrinsic
def first_equal(typingctx, v, x):
    """Return the index of the first lane that equals x; 64 where there is none."""

    def codegen(context, builder, sig, args):
        mask = builder.fcmp_ordered("==", args[0], _splat(builder, args[1], v.lanes))
        bits = builder.zext(builder.bitcast(mask, ir.IntType(v.lanes)), i64)
        return builder.cttz(bits, ir.Constant(ir.IntType(1), 0))

    return signature(types.intp, v, v.dtype), codegen


def _halves(builder, v):
    n = v.type.count
    return [
        builder.shuffle_vector(v, v, ir.Constant(ir.VectorType(i32, n // 2), list(part)))
        for part in (range(n // 2), range(n // 2, n))
    ]


def _fold(builder, v, combine):
    while v.type.count > 1:
        v = combine(*_halves(builder, v))
    return builder.extract_element(v, ir.Constant(i32, 0))


# ---------------------------------------------------------------------------------------------- raw pointers


@intrinsic
def pointer(typingctx, array, offset):
    """Return the address of element `offset` of a contiguous array."""

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.gep(data, [context.cast(builder, args[1], sig.args[1], types.intp)])

    if isinstance(array, types.Array):
        return signature(types.CPointer(array.dtype), array, offset), codegen


@intrinsic
def pointer_at(typingctx, address, kind):
    """Return a memory address (an integer) as a pointer to elements of the NumPy type `kind`."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return signature(types.CPointer(kind.instance_type), types.intp, kind), codegen


@intrinsic
def pointer_like(typingctx, address, like):
    """Return a memory address (an integer) as a pointer of the type of `like`."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return signature(like, types.intp, like), codegen


@intrinsic
def unpacked(typingctx, words, kind, first):
    """Return a named tuple: its first fields from the tuple `first`, the others from 8-byte words, by annotation."""
    cls = kind.instance_class
    known = {int: types.intp, bool: types.boolean, float: types.float64}
    rest = [known[cls.__annotations__[name]] for name in cls._fields[len(first) :]]

    def codegen(context, builder, sig, args):
        fields = cgutils.unpack_tuple(builder, args[2], len(first))
        for i, field in enumerate(rest):
            address = builder.gep(args[0], [ir.Constant(i64, i)])
            if field is types.float64:
                address = builder.bitcast(address, ir.DoubleType().as_pointer())
            value = builder.load(address)
            fields.append(cgutils.is_not_null(builder, value) if field is types.boolean else value)
        result = context.make_tuple(builder, sig.return_type, fields)
        return result

    return signature(types.NamedTuple([*first, *rest], cls), words, kind, first), codegen


@intrinsic
def narrow(typingctx, p):
    """Return the same address as a pointer to narrow vectors."""
    return signature(NarrowPointer(p.dtype), p), lambda context, builder, sig, args: args[0]


@intrinsic
def half(typingctx, p):
    """Return the same address as a pointer to vectors of half the lanes."""
    return signature(NarrowPointer(p.dtype, LANES[p.dtype] // 2), p), lambda context, builder, sig, args: args[0]


@intrinsic
def as_float(typingctx, x, like):
    """Return the number x in the dtype of the pointer `like`."""

    def codegen(context, builder, sig, args):
        return context.cast(builder, args[0], sig.args[0], sig.return_type)

    return signature(like.dtype, x, like), codegen


@intrinsic
def call(typingctx, address, *args):
    """Call the native function at an address and return its result, an integer.

    Every integer is passed as a 64-bit one (see `native.NativeFunction`).
    """
    kinds = [types.intp if isinstance(types.unliteral(a), types.Integer | types.Boolean) else a for a in args]

    def codegen(context, builder, sig, values):
        address, given = values[0], cgutils.unpack_tuple(builder, values[1])
        given = [context.cast(builder, v, have, want) for v, have, want in zip(given, args, kinds, strict=True)]
        kind = ir.FunctionType(i64, [v.type for v in given])
        return builder.call(builder.inttoptr(address, kind.as_pointer()), given)

    return signature(types.intp, types.intp, types.StarArgTuple(args)), codegen


@intrinsic
def distance(typingctx, p, q):
    """Return the number of elements from p to q."""

    def codegen(context, builder, sig, args):
        p, q = (builder.ptrtoint(v, i64) for v in args)
        return builder.sdiv(builder.sub(q, p), i64(_itemsize(sig.args[0])))

    return signature(types.intp, p, p), codegen


@intrinsic
def offset(typingctx, p, n):
    """Return the pointer n elements on."""

    def codegen(context, builder, sig, args):
        return builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.intp)])

    return signature(p, p, n), codegen


@intrinsic
def peek(typingctx, p, n):
    """Return element n."""

    def codegen(context, builder, sig, args):
        return builder.load(_element(context, builder, sig, args), align=_itemsize(sig.args[0]))

    return signature(p.dtype, p, n), codegen


@intrinsic
def poke(typingctx, p, n, value):
    """Set element n."""

    def codegen(context, builder, sig, args):
        builder.store(
            context.cast(builder, args[2], sig.args[2], sig.args[0].dtype),
            _element(context, builder, sig, args),
            align=_itemsize(sig.args[0]),
        )

    return signature(types.void, p, n, value), codegen


@intrinsic
def local(typingctx, n, like):
    """Return a pointer like `like` to n numbers on the stack, not initialized; n is a constant."""
    size = getattr(n, "literal_value", None)
    if size is None:
        raise RequireLiteralValue("n")

    def codegen(context, builder, sig, args):
        return cgutils.alloca_once(builder, context.get_value_type(sig.args[1].dtype), size=i32(size))

    return signature(like, n, like), codegen


@intrinsic
def allocate(typingctx, n, like):
    """Return a pointer like `like` to n numbers, not initialized, for `release`; its address is 0 without memory."""

    def codegen(context, builder, sig, args):
        size = builder.mul(context.cast(builder, args[0], sig.args[0], types.intp), i64(_itemsize(sig.args[1])))
        kind = ir.FunctionType(ir.IntType(8).as_pointer(), [i64])
        fn = cgutils.get_or_insert_function(builder.module, kind, "PyMem_RawMalloc")
        return builder.bitcast(builder.call(fn, [size]), context.get_value_type(sig.return_type))

    return signature(like, n, like), codegen


@intrinsic
def release(typingctx, p):
    """Free the memory from `allocate`."""

    def codegen(context, builder, sig, args):
        byte = ir.IntType(8).as_pointer()
        fn = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [byte]), "PyMem_RawFree")
        builder.call(fn, [builder.bitcast(args[0], byte)])
        return context.get_dummy_value()

    return signature(types.void, p), codegen


@intrinsic
def address(typingctx, p):
    """Return the address of a pointer, an integer."""
    return signature(types.intp, p), lambda context, builder, sig, args: builder.ptrtoint(args[0], i64)


def _element(context, builder, sig, args):
    return builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.intp)])


def _itemsize(p):
    return p.dtype.bitwidth // 8


def _as_vector(builder, address, vector):
    return builder.bitcast(address, vector.as_pointer())


@intrinsic
def load(typingctx, p, n):
    """Return the vector that starts at element n."""
    v = Vector(p.dtype, _lanes(p))

    def codegen(context, builder, sig, args):
        return builder.load(_as_vector(builder, _element(context, builder, sig, args), v.ir), align=_itemsize(p))

    return signature(v, p, n), codegen


@intrinsic
def store(typingctx, p, n, v):
    """Store the vector from element n on."""
    v = Vector(p.dtype, _lanes(p))

    def codegen(context, builder, sig, args):
        builder.store(args[2], _as_vector(builder, _element(context, builder, sig, args), v.ir), align=_itemsize(p))

    return signature(types.void, p, n, v), codegen


# ---------------------------------------------------------------------------------------------- partial vectors
# AVX-512 has masked loads and stores.  AVX2 has masked loads, but AMD's processors run its masked stores as microcode.
# NEON and SSE have neither, and LLVM makes a test and a branch for each lane.  Where a target has no fast instruction,
# the first lanes of a vector are moved in pieces of 1, 2, 4, ... lanes; where there is neither, by shared functions.


def target_machine():
    """Return LLVM's description of the processor that is compiled for: this host, or the one in NUMBA_CPU_NAME."""
    return cpu_target.target_context.codegen()._tm


def has_masked_loads():
    """Whether a masked load is one instruction on this target."""
    return _masked_memory(target_machine())[0]


def has_masked_stores():
    """Whether a masked store is one fast instruction on this target."""
    return _masked_memory(target_machine())[1]


@functools.cache
def _masked_memory(machine):
    """Return `has_masked_loads` and `has_masked_stores`; the code generator itself is asked."""
    module, vector = ir.Module(), ir.VectorType(ir.FloatType(), 16)
    module.triple = machine.triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [vector.element.as_pointer(), i64]), "probe")
    builder = ir.IRBuilder(function.append_basic_block())
    address, count = function.args
    mask = _lane_mask(builder, count, vector.count)
    _emit_masked_store(builder, _emit_masked_load(builder, address, vector, mask), address, mask)
    builder.ret_void()
    assembly = machine.emit_assembly(binding.parse_assembly(str(module)))
    has_branches = "BB0_" in assembly  # a label
    return not has_branches, not has_branches and "vmaskmov" not in assembly


def _lane_mask(builder, count, lanes):
    """Emit the mask of the lanes below `count`, an i64."""
    ints = ir.VectorType(i32, lanes)
    return builder.icmp_unsigned(
        "<", ir.Constant(ints, list(range(lanes))), _splat(builder, builder.trunc(count, i32), lanes)
    )


def _emit_masked_load(builder, address, vector, mask):
    ptr = _as_vector(builder, address, vector)
    name = f"llvm.masked.load.v{vector.count}{_SUFFIX_OF[str(vector.element)]}.p0"
    fn = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [ptr.type, i32, mask.type, vector]), name
    )
    return builder.call(fn, [ptr, ir.Constant(i32, _align(vector)), mask, ir.Constant(vector, None)])


def _emit_masked_store(builder, value, address, mask):
    vector = value.type
    ptr = _as_vector(builder, address, vector)
    name = f"llvm.masked.store.v{vector.count}{_SUFFIX_OF[str(vector.element)]}.p0"
    fn = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [vector, ptr.type, i32, mask.type]), name
    )
    builder.call(fn, [value, ptr, ir.Constant(i32, _align(vector)), mask])


def _align(vector):
    """Return the alignment of a vector in memory: that of its elements."""
    return 4 if isinstance(vector.element, ir.FloatType) else 8


def emit_load(builder, address, vector):
    """Emit the load of a whole vector."""
    return builder.load(_as_vector(builder, address, vector), align=_align(vector))


def emit_store(builder, value, address):
    """Emit the store of a whole vector."""
    builder.store(value, _as_vector(builder, address, value.type), align=_align(value.type))


def _phi(builder, *incoming):
    """Emit the phi node for a value that comes from blocks: (block, value) pairs."""
    phi = builder.phi(incoming[0][1].type)
    for block, value in incoming:
        phi.add_incoming(value, block)
    return phi


def _emit_load_pieces(builder, address, vector, count):
    """Emit the load of the first `count` lanes (an i64, less than all), zero in the others, by halves of halves."""
    if vector.count == 1:
        return ir.Constant(vector, None)
    half = ir.VectorType(vector.element, vector.count // 2)
    has_half = builder.icmp_unsigned(">=", count, i64(half.count))
    start = builder.select(has_half, i64(half.count), i64(0))  # of the lanes that are no whole half
    rest = _emit_load_pieces(builder, builder.gep(address, [start]), half, builder.sub(count, start))
    before = builder.block
    with builder.if_then(has_half):
        whole, inside = emit_load(builder, address, half), builder.block
    low = _phi(builder, (before, rest), (inside, whole))
    high = _phi(builder, (before, ir.Constant(half, None)), (inside, rest))
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(i32, vector.count), list(range(vector.count))))


def emit_store_pieces(builder, value, address, count):
    """Emit the store of the first `count` lanes (an i64, less than all), by halves of halves."""
    if value.type.count == 1:
        return
    (low, high), before = _halves(builder, value), builder.block
    size = i64(low.type.count)
    with builder.if_then(builder.icmp_unsigned(">=", count, size)):
        emit_store(builder, low, address)
        after, left, inside = builder.gep(address, [size]), builder.sub(count, size), builder.block
    pairs = (low, high), (address, after), (count, left)
    emit_store_pieces(builder, *(_phi(builder, (before, old), (inside, new)) for old, new in pairs))


def _shared_function(module, name, result, arguments, emit):
    """Return a function of the module that is not inlined, added at the first use: emit(builder, *arguments)."""
    if name not in module.globals:
        fn = ir.Function(module, ir.FunctionType(result, arguments), name)
        fn.linkage = "internal"
        fn.attributes.add("noinline")
        fn.attributes.add("nounwind")
        builder = ir.IRBuilder(fn.append_basic_block())
        value = emit(builder, *fn.args)
        builder.ret_void() if value is None else builder.ret(value)
    return module.globals[name]


def emit_load_first(builder, address, vector, count):
    """Emit the load of the first `count` lanes (an i64) of a vector, zero in the others, whose memory is not read."""
    if has_masked_loads():
        return _emit_masked_load(builder, address, vector, _lane_mask(builder, count, vector.count))
    fn = _shared_function(
        builder.module,
        f"fastbp_load_pieces_{vector.count}_{vector.element}",
        vector,
        [vector.element.as_pointer(), i64],
        lambda builder, address, count: _emit_load_pieces(builder, address, vector, count),
    )
    before = builder.block
    with builder.if_then(builder.icmp_unsigned("!=", count, i64(0))):  # often a constant
        with builder.if_else(builder.icmp_unsigned(">=", count, i64(vector.count))) as (whole, part):
            with whole:
                all_lanes = builder.block, emit_load(builder, address, vector)
            with part:
                first_lanes = builder.block, builder.call(fn, [address, count])
        some = builder.block, _phi(builder, all_lanes, first_lanes)
    return _phi(builder, (before, ir.Constant(vector, None)), some)


def emit_store_first(builder, value, address, count):
    """Emit the store of the first `count` lanes (an i64) of a vector; the memory of the others is not touched."""
    vector = value.type
    if has_masked_stores():
        _emit_masked_store(builder, value, address, _lane_mask(builder, count, vector.count))
        return
    with builder.if_else(builder.icmp_unsigned(">=", count, i64(vector.count))) as (whole, part):
        with whole:
            emit_store(builder, value, address)
        with part:
            if has_masked_loads():  # few registers for a vector, and few instructions: a call would save more registers
                emit_store_pieces(builder, value, address, count)
            else:
                arguments = [vector, vector.element.as_pointer(), i64]
                name = f"fastbp_store_pieces_{vector.count}_{vector.element}"
                fn = _shared_function(builder.module, name, ir.VoidType(), arguments, emit_store_pieces)
                builder.call(fn, [value, address, count])


@intrinsic
def masked_load(typingctx, p, n, count):
    """Return the vector of the `count` elements from n on, zero in the other lanes, whose memory is not read."""
    v = Vector(p.dtype, _lanes(p))

    def codegen(context, builder, sig, args):
        count = context.cast(builder, args[2], sig.args[2], types.intp)
        return emit_load_first(builder, _element(context, builder, sig, args), v.ir, count)

    return signature(v, p, n, count), codegen


@intrinsic
def masked_store(typingctx, p, n, v, count):
    """Store the first `count` lanes from element n on."""
    v = Vector(p.dtype, _lanes(p))

    def codegen(context, builder, sig, args):
        count = context.cast(builder, args[3], sig.args[3], types.intp)
        emit_store_first(builder, args[2], _element(context, builder, sig, args), count)

    return signature(types.void, p, n, v, count), codegen


@intrinsic
def select_lanes(typingctx, v, count, otherwise):
    """Return v in the first `count` lanes, `otherwise` in the rest."""

    def codegen(context, builder, sig, args):
        mask = _lane_mask(builder, context.cast(builder, args[1], sig.args[1], types.intp), v.lanes)
        return builder.select(mask, args[0], context.cast(builder, args[2], sig.args[2], v))

    return signature(v, v, count, otherwise), codegen


@intrinsic
def lanes(typingctx, p):
    """Return the number of lanes in a vector of the pointer's dtype."""
    n = _lanes(p)
    return signature(types.intp, p), lambda context, builder, sig, args: ir.Constant(i64, n)
