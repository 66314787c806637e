"""Vectors, pointers and the register tile: the only file with LLVM IR.

Kernels are written in ordinary Python over one extra type, a vector of 64 bytes (16 lanes of float32 or 8 of
float64).  LLVM maps it to whatever registers the host has (one AVX-512 register, two AVX2, four NEON), so a
result never depends on the host: every lane is computed by the same IEEE operations, and sums over lanes are
added in one fixed order.

    v = load(p, i); w = fma(v, v, 1.0); store(p, i, w)       # p: a pointer from `pointer(array, offset)`

The register tile (`tile`) multiplies a few rows by two registers of columns, with the host's own register
width; each element of its result is one chain of fused multiply-adds over k in order, whatever that width.
"""

import functools
import math
import operator
import time

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic

VECTOR_BYTES = 64
LANES = {types.float32: 16, types.float64: 8}
FEW_LANES = 4  # of the vectors behind a `narrow` pointer

i1, i32, i64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
_FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_INTS = {types.float32: i32, types.float64: i64}
_SUFFIX = {types.float32: "f32", types.float64: "f64"}
_MANTISSA = {types.float32: 23, types.float64: 52}
_BIAS = {types.float32: 127, types.float64: 1023}


# ---------------------------------------------------------------------------------------------- the type


class Vector(types.Type):
    """Lanes of float32 or float64, 64 bytes or `FEW_LANES`, or the mask that comes from comparing two such vectors."""

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
    """A pointer whose vectors have `FEW_LANES`: for short sums, where wide ones divide and shuffle more slowly."""

    def __init__(self, dtype):
        super().__init__(dtype)
        self.name = f"narrow({dtype})"


register_default(NarrowPointer)(models.PointerModel)


def _lanes(p):
    """Lanes of the vectors behind a pointer."""
    return FEW_LANES if isinstance(p, NarrowPointer) else LANES[p.dtype]


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.ir)


def _splat(builder, value, lanes):
    vector = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    vector = builder.insert_element(vector, value, ir.Constant(i32, 0))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(i32, lanes), [0] * lanes))


def _constant(vector_type, value):
    """`value` in every lane, where `value` is a Python number."""
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


_fma, _sqrt, _fabs, _copysign, _nearest, _minnum, _maxnum = (
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
    """Square root."""
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
def nearest(typingctx, a):
    """Return the nearest whole number, ties to even."""
    return _nearest(a)


@intrinsic
def where(typingctx, mask, a, b):
    """Lane by lane: a where the mask is set, b elsewhere."""
    v = Vector(mask.dtype, mask.lanes)

    def codegen(context, builder, sig, args):
        return builder.select(*args)

    return signature(v, mask, v, v), codegen


def _power_of_two(builder, n, vector):
    """2**n: n is added to a number whose last bits then are n + bias, and these are shifted into the exponent."""
    ints = ir.VectorType(_INTS[vector.dtype], vector.lanes)
    shift = _MANTISSA[vector.dtype]
    moved = builder.fadd(n, _constant(vector, 1.5 * 2.0**shift + _BIAS[vector.dtype]))
    bits = builder.shl(builder.bitcast(moved, ints), ir.Constant(ints, [shift] * vector.lanes))
    return builder.bitcast(bits, vector.ir)


@intrinsic
def power_of_two(typingctx, n):
    """2**n for a vector n of whole numbers; infinity one above the largest exponent, 0 one below the smallest."""

    def codegen(context, builder, sig, args):
        return _power_of_two(builder, args[0], sig.return_type)

    return signature(n, n), codegen


@intrinsic
def exponent_of(typingctx, v):
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
def rsqrt_guess(typingctx, v):
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
def squares_of(typingctx, v):
    """Return the squares of the lanes in float64; for float32 each is added to that of its lane in the other half."""
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
    """coefficients[0] * x**n + ... + coefficients[n] by fused multiply-adds.

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
    """One of two constants (numbers or tuples) by the dtype of x (vector, pointer or scalar), when compiled."""
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
    """32 random bits in each lane: the hash "lowbias32" of the seed's low half and the columns from `column` on."""
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
    """Mask of the lanes whose 32 random bits are no less than the threshold; see `noise.py`."""
    v = Vector(p.dtype, _lanes(p))

    def codegen(context, builder, sig, args):
        bits = _random_bits(builder, args[1], args[2], v.lanes)
        return builder.icmp_unsigned(">=", bits, _splat(builder, builder.trunc(args[3], i32), v.lanes))

    return signature(v.mask, p, types.uint64, types.intp, types.int64), codegen


@intrinsic
def random_unit(typingctx, p, seed, column):
    """Vector of random numbers within (0, 1), of 23 bits each; see `noise.py`."""
    v = Vector(p.dtype, _lanes(p))

    def codegen(context, builder, sig, args):
        bits = _random_bits(builder, args[1], args[2], v.lanes)
        bits = builder.lshr(bits, ir.Constant(bits.type, [9] * v.lanes))
        number = builder.fadd(builder.sitofp(bits, v.ir), _constant(v, 0.5))
        return builder.fmul(number, _constant(v, 2.0**-23))

    return signature(v, p, types.uint64, types.intp), codegen


@intrinsic
def sum_of(typingctx, v):
    """Return the sum of the lanes, halves added to halves: one fixed order on every host."""

    def codegen(context, builder, sig, args):
        return _fold(builder, args[0], builder.fadd)

    return signature(v.dtype, v), codegen


@intrinsic
def sum_of_four(typingctx, v):
    """Return the sum of the first four lanes; what `sum_of` gives where the others are zero."""

    def codegen(context, builder, sig, args):
        few = builder.shuffle_vector(args[0], args[0], ir.Constant(ir.VectorType(i32, 4), [0, 1, 2, 3]))
        return _fold(builder, few, builder.fadd)

    return signature(v.dtype, v), codegen


@intrinsic
def largest_of(typingctx, v):
    """Return the largest lane (NaN lanes are passed over)."""

    def codegen(context, builder, sig, args):
        return _fold(builder, args[0], lambda a, b: _llvm(builder, "maxnum", a.type, a, b))

    return signature(v.dtype, v), codegen


@intrinsic
def largest_number_of(typingctx, v):
    """Return the largest lane; none may be NaN, for which `largest_of` looks at every step."""

    def codegen(context, builder, sig, args):
        return _fold(builder, args[0], lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))

    return signature(v.dtype, v), codegen


@intrinsic
def first_equal(typingctx, v, x):
    """Return the number of the first lane that equals x; 64 where there is none."""

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


# ------------------------------------------------------------------------------------- memory: raw pointers


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
    """Return a named tuple: the fields in the tuple `first`, the others from 8-byte words by their annotations."""
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
        context.nrt.incref(builder, sig.return_type, result)  # it holds the arrays of `first` too
        return result

    return signature(types.NamedTuple([*first, *rest], cls), words, kind, first), codegen


@intrinsic
def narrow(typingctx, p):
    """Return the same address as a pointer to narrow vectors."""
    return signature(NarrowPointer(p.dtype), p), lambda context, builder, sig, args: args[0]


@intrinsic
def as_float(typingctx, x, like):
    """Return the number x in the dtype of the pointer `like`."""

    def codegen(context, builder, sig, args):
        return context.cast(builder, args[0], sig.args[0], sig.return_type)

    return signature(like.dtype, x, like), codegen


def _prefetch(builder, address, locality):
    kind = ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32])
    fn = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(fn, [address, i32(0), i32(locality), i32(1)])


@intrinsic
def call(typingctx, address, *args):
    """Call the native function at an address, all integers as 64-bit ones (see `jit.Leaf`)."""
    kinds = [types.intp if isinstance(types.unliteral(a), types.Integer | types.Boolean) else a for a in args]

    def codegen(context, builder, sig, values):
        address, given = values[0], cgutils.unpack_tuple(builder, values[1])
        given = [context.cast(builder, v, have, want) for v, have, want in zip(given, args, kinds, strict=True)]
        kind = ir.FunctionType(ir.VoidType(), [v.type for v in given])
        builder.call(builder.inttoptr(address, kind.as_pointer()), given)
        return context.get_dummy_value()

    return signature(types.void, types.intp, types.StarArgTuple(args)), codegen


@intrinsic
def distance(typingctx, p, q):
    """Elements from p to q."""

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
    """Element n of a pointer."""

    def codegen(context, builder, sig, args):
        return builder.load(_element(context, builder, sig, args), align=_itemsize(sig.args[0]))

    return signature(p.dtype, p, n), codegen


@intrinsic
def poke(typingctx, p, n, value):
    """Set element n of a pointer."""

    def codegen(context, builder, sig, args):
        builder.store(
            context.cast(builder, args[2], sig.args[2], sig.args[0].dtype),
            _element(context, builder, sig, args),
            align=_itemsize(sig.args[0]),
        )

    return signature(types.void, p, n, value), codegen


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
    """Write the vector from element n on."""
    v = Vector(p.dtype, _lanes(p))

    def codegen(context, builder, sig, args):
        builder.store(args[2], _as_vector(builder, _element(context, builder, sig, args), v.ir), align=_itemsize(p))

    return signature(types.void, p, n, v), codegen


def _lane_mask(builder, count, lanes):
    """Lanes below `count` (an i64)."""
    ints = ir.VectorType(i32, lanes)
    return builder.icmp_unsigned(
        "<", ir.Constant(ints, list(range(lanes))), _splat(builder, builder.trunc(count, i32), lanes)
    )


def _masked_load(builder, address, vector, itemsize, mask):
    ptr = _as_vector(builder, address, vector)
    name = f"llvm.masked.load.v{vector.count}{_SUFFIX_OF[str(vector.element)]}.p0"
    fn = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [ptr.type, i32, mask.type, vector]), name
    )
    return builder.call(fn, [ptr, ir.Constant(i32, itemsize), mask, ir.Constant(vector, None)])


def _masked_store(builder, value, address, itemsize, mask):
    vector = value.type
    ptr = _as_vector(builder, address, vector)
    name = f"llvm.masked.store.v{vector.count}{_SUFFIX_OF[str(vector.element)]}.p0"
    fn = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [vector, ptr.type, i32, mask.type]), name
    )
    builder.call(fn, [value, ptr, ir.Constant(i32, itemsize), mask])


@intrinsic
def load_part(typingctx, p, n, count):
    """Return the `count` lanes (fewer than a vector) that start at element n; zeros beyond, which are not read."""
    v = Vector(p.dtype, _lanes(p))

    def codegen(context, builder, sig, args):
        mask = _lane_mask(builder, context.cast(builder, args[2], sig.args[2], types.intp), v.lanes)
        return _masked_load(builder, _element(context, builder, sig, args), v.ir, _itemsize(p), mask)

    return signature(v, p, n, count), codegen


@intrinsic
def store_part(typingctx, p, n, v, count):
    """Write the first `count` lanes from element n on."""
    v = Vector(p.dtype, _lanes(p))

    def codegen(context, builder, sig, args):
        mask = _lane_mask(builder, context.cast(builder, args[3], sig.args[3], types.intp), v.lanes)
        _masked_store(builder, args[2], _element(context, builder, sig, args), _itemsize(p), mask)

    return signature(types.void, p, n, v, count), codegen


@intrinsic
def first_lanes(typingctx, v, count, otherwise):
    """V in the first `count` lanes, `otherwise` in the rest."""

    def codegen(context, builder, sig, args):
        mask = _lane_mask(builder, context.cast(builder, args[1], sig.args[1], types.intp), v.lanes)
        return builder.select(mask, args[0], context.cast(builder, args[2], sig.args[2], v))

    return signature(v, v, count, otherwise), codegen


@intrinsic
def lanes(typingctx, p):
    """Return the number of lanes in a vector of the pointer's dtype."""
    n = _lanes(p)
    return signature(types.intp, p), lambda context, builder, sig, args: ir.Constant(i64, n)


# ------------------------------------------------------------------------------------------ the register tile

START_ZERO, START_BIAS, START_C = 0, 1, 2
STORE, SGD, MOMENTUM, NESTEROV = 0, 1, 2, 3
MOST_OUTER_DEPTH = 13  # of `outer`: twice as many registers hold B, five more are at work
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
    a, a_row, a_col, b, b_row, k, c, c_row, last, start, bias, finish, lr, momentum, velocity = fn.args[:15]
    c_soon, ahead, ahead_step, interval = fn.args[15:]
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
            return _masked_load(builder, address, vector, itemsize, mask)
        return builder.load(_as_vector(builder, address, vector), align=itemsize)

    def write(builder, value, address, j):
        address = builder.gep(address, [i64(j * lanes)])
        if j == columns - 1:
            _masked_store(builder, value, address, itemsize, mask)
        else:
            builder.store(value, _as_vector(builder, address, vector), align=itemsize)

    # this tile of C is wanted when the sums are done, or the next one before they begin; a short sum is not worth it
    with entry.if_then(entry.icmp_signed(">", k, i64(MOST_OUTER_DEPTH))):
        for i in range(rows):
            for j in range(columns):
                _prefetch(entry, at(entry, c_soon, i, c_row, i64(j * lanes)), 3)

    # where the sums start: at zero, at the bias, or at what C holds
    begin = {}
    blocks = {name: fn.append_basic_block(f"start_{name}") for name in (START_ZERO, START_BIAS, START_C)}
    fetch_block, loop_block, done = (fn.append_basic_block(name) for name in ("fetch", "loop", "done"))
    switch = entry.switch(start, blocks[START_ZERO])
    for name, block in blocks.items():
        builder = ir.IRBuilder(block)
        if name == START_ZERO:
            begin[name] = [ir.Constant(vector, None)] * len(cells)
        elif name == START_BIAS:
            row = [read(builder, bias, j) for j in range(columns)]
            begin[name] = [row[j] for _, j in cells]
        else:
            begin[name] = [read(builder, at(builder, c, i, c_row), j) for i, j in cells]
        if name != START_ZERO:
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
            base.add_incoming(at(builder, a, 3 * g, a_row), block)
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
        element = loop.load(at(loop, bases[i // 3], i % 3, a_row), align=itemsize)
        broadcast = _splat(loop, element, lanes)
        sums += [
            _llvm(loop, "fma", vector, broadcast, b_row_vectors[j], accumulators[i * columns + j])
            for j in range(columns)
        ]
    fewer = loop.sub(left, i64(1))
    left.add_incoming(fewer, loop_block)
    following = [loop.gep(b_at, [b_row]), *[loop.gep(base, [a_col]) for base in bases], *sums]
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
    wanted.add_incoming(latch.gep(wanted, [ahead_step]), latch_block)
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
    switch = end.switch(finish, finishers[STORE])
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
                _llvm(builder, "fma", vector, mu, read(builder, at(builder, c, i, c_row, velocity), j), g)
                for (i, j), g in zip(cells, results, strict=True)
            ]
        if name == NESTEROV:
            steps = [_llvm(builder, "fma", vector, mu, v, g) for v, g in zip(speeds, results, strict=True)]
        if name != STORE:
            steps = [
                _llvm(builder, "fma", vector, minus_lr, step, read(builder, at(builder, c, i, c_row), j))
                for (i, j), step in zip(cells, steps, strict=True)
            ]
        if name in (MOMENTUM, NESTEROV):
            for (i, j), value in zip(cells, speeds, strict=True):
                write(builder, value, at(builder, c, i, c_row, velocity), j)
        for (i, j), value in zip(cells, steps, strict=True):
            write(builder, value, at(builder, c, i, c_row), j)
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


MOST_REGISTERS = 8  # of columns, of any tile


def _tile_table(module, dtype):
    """Return a global table of the tile functions, [rows - 1][columns - 1], null where there is none."""
    name = f"fastbp_tiles_{_SUFFIX[dtype]}"
    if name not in module.globals:
        kind = _tile_type(_FLOATS[dtype]).as_pointer()
        functions = [
            _tile_function(module, dtype, r + 1, n + 1) if n < tile_widths(r + 1) else ir.Constant(kind, None)
            for r in range(tile_shape()[0])
            for n in range(MOST_REGISTERS)
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
    a_row,
    a_col,
    b,
    b_row,
    k,
    c,
    c_row,
    last,
    start,
    bias,
    finish,
    lr,
    momentum,
    velocity,
    c_soon,
    ahead,
    ahead_step,
    interval,
):
    """C[i, j] = finish(start + sum over k of a[i * a_row + k * a_col] * b[k * b_row + j]) for one tile.

    rows, columns : rows, and registers of columns, of this tile (see `tile_shape`, `tile_widths`); `last` lanes of
        the last register are used.  start: START_ZERO, START_BIAS (the row at `bias`), START_C (what C holds).
    finish : STORE the sum; SGD: C -= lr * sum; MOMENTUM, NESTEROV: the same with the velocity that lies
        `velocity` elements after C.
    c_soon, ahead : what to ask the memory for meanwhile: the tile of C to be loaded next, at once; and after every
        `interval` steps of the sum two cache lines, the first at `ahead`, the next `ahead_step` elements on.  All
        at once these would keep the tile's own loads waiting.
    """
    n = types.intp
    sig = signature(types.void, n, n, a, n, n, a, n, n, a, n, n, n, a, n, a.dtype, a.dtype, n, a, a, n, n)

    def codegen(context, builder, sig, args):
        table = _tile_table(builder.module, a.dtype)
        row, column = (builder.sub(count, i64(1)) for count in args[:2])
        index = builder.add(builder.mul(row, i64(MOST_REGISTERS)), column)
        fn = builder.load(builder.gep(table, [i64(0), index]))
        builder.call(fn, args[2:])
        return context.get_dummy_value()

    return sig, codegen


def _outer_type(scalar):
    p = scalar.as_pointer()
    a, b, c, ahead = (p, i64), (p, i64), (p, i64, i64), (p, i64)
    return ir.FunctionType(ir.VoidType(), [i64, *a, *b, *c, i64, scalar, scalar, i64, *ahead])


def _outer_function(module, dtype, depth):
    """Add the function for sums of `depth` outer products: B stays in registers while the rows of C pass by."""
    scalar, lanes, itemsize = _FLOATS[dtype], tile_lanes(dtype), dtype.bitwidth // 8
    vector = ir.VectorType(scalar, lanes)
    fn = ir.Function(module, _outer_type(scalar), f"fastbp_outer_{_SUFFIX[dtype]}_{depth}")
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    fn.attributes.add("nounwind")
    rows, a, a_col, b, b_row, c, c_row, second, finish, lr, momentum, velocity, ahead, ahead_step = fn.args
    entry = ir.IRBuilder(fn.append_basic_block("entry"))
    places = i64(0), second  # of the two registers of a row; they may overlap

    def read(builder, address, place):
        return builder.load(_as_vector(builder, builder.gep(address, [place]), vector), align=itemsize)

    def write(builder, value, address, place):
        builder.store(value, _as_vector(builder, builder.gep(address, [place]), vector), align=itemsize)

    kept = []
    for k in range(depth):
        row = entry.gep(b, [entry.mul(b_row, i64(k))])
        kept.append([read(entry, row, place) for place in places])
    minus_lr, mu = _splat(entry, entry.fneg(lr), lanes), _splat(entry, momentum, lanes)
    columns_of_a = [entry.mul(a_col, i64(k)) for k in range(depth)]
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
    switch = loop.switch(finish, finishers[STORE])
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
        (c_at, c, step.gep(c_at, [c_row])),
        (ahead_at, ahead, step.gep(ahead_at, [ahead_step])),
    ):
        phi.add_incoming(first, entry_block)
        phi.add_incoming(following, next_block)
    branch = step.cbranch(step.icmp_signed("<", after, rows), loop_block, done)
    branch.set_metadata("llvm.loop", _no_unrolling(module))
    ir.IRBuilder(done).ret_void()
    return fn


def outer_depth():
    """Return the most outer products that `outer` adds up: with fewer registers the tile is as fast."""
    return MOST_OUTER_DEPTH if tile_shape()[0] == 12 else 0


@intrinsic
def most_outer(typingctx):
    """Return `outer_depth` of this host."""
    return signature(types.intp), lambda context, builder, sig, args: i64(outer_depth())


@intrinsic
def outer(
    typingctx, depth, rows, a, a_col, b, b_row, c, c_row, second, finish, lr, momentum, velocity, ahead, ahead_step
):
    """C[i, j] = finish(sum over k of a[i + k * a_col] * b[k * b_row + j]): few outer products, one or more rows of C.

    depth : 1 to `outer_depth`.  C has the columns of two registers, the second of which starts at column `second`,
        at most one register; columns in both are computed twice.  No memory beyond them is touched, so a row need not
        wait for the one before.  finish : as in `tile`, to the same bits.
    ahead : with each row of C a cache line is asked for, the first at `ahead`, the next `ahead_step` elements on.
    """
    n = types.intp
    sig = signature(types.void, n, n, a, n, a, n, a, n, n, n, a.dtype, a.dtype, n, a, n)

    def codegen(context, builder, sig, args):
        name, kind = f"fastbp_outers_{_SUFFIX[a.dtype]}", _outer_type(_FLOATS[a.dtype]).as_pointer()
        if outer_depth() == 0:
            return context.get_dummy_value()
        if name not in builder.module.globals:
            functions = [_outer_function(builder.module, a.dtype, d + 1) for d in range(outer_depth())]
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


def _transpose(builder, block, out, out_row, itemsize):
    """Store the vectors of a square block as its columns: lanes are exchanged at distances 1, 2, 4, ..."""
    n, distance = len(block), 1
    pick = ir.VectorType(i32, n)
    while distance < n:
        low = ir.Constant(pick, [lane + n - distance if lane & distance else lane for lane in range(n)])
        high = ir.Constant(pick, [lane + n if lane & distance else lane + distance for lane in range(n)])
        for i in range(n):
            if not i & distance:
                a, b = block[i], block[i + distance]
                block[i], block[i + distance] = (builder.shuffle_vector(a, b, m) for m in (low, high))
        distance *= 2
    for j, row in enumerate(block):
        address = builder.gep(out, [builder.mul(out_row, i64(j))])
        builder.store(row, _as_vector(builder, address, row.type), align=itemsize)


@intrinsic
def transpose_block(typingctx, source, source_row, out, out_row):
    """out[j * out_row + i] = source[i * source_row + j] for i and j below `lanes`."""
    v = Vector(source.dtype, _lanes(source))

    def codegen(context, builder, sig, args):
        source, source_row, out, out_row = args
        rows = (builder.gep(source, [builder.mul(source_row, i64(i))]) for i in range(v.lanes))
        block = [builder.load(_as_vector(builder, row, v.ir), align=_itemsize(sig.args[0])) for row in rows]
        _transpose(builder, block, out, out_row, _itemsize(sig.args[0]))
        return context.get_dummy_value()

    return signature(types.void, source, types.intp, source, types.intp), codegen


@intrinsic
def transpose_part(typingctx, source, source_row, rows, columns, out, out_row):
    """Transpose a block of fewer rows and columns, of which no more is read.

    `lanes` whole rows of `out` are written; what lies beyond the block in them is not meaningful.
    """
    v = Vector(source.dtype, _lanes(source))

    def codegen(context, builder, sig, args):
        source, source_row, rows, columns, out, out_row = args
        mask = _lane_mask(builder, columns, v.lanes)
        last = builder.sub(rows, i64(1))
        block = []
        for i in range(v.lanes):
            row = builder.select(builder.icmp_signed("<", i64(i), last), i64(i), last)
            address = builder.gep(source, [builder.mul(row, source_row)])
            block.append(_masked_load(builder, address, v.ir, _itemsize(sig.args[0]), mask))
        _transpose(builder, block, out, out_row, _itemsize(sig.args[0]))
        return context.get_dummy_value()

    n = types.intp
    return signature(types.void, source, n, n, n, source, n), codegen


# ----------------------------------------------------------------------------------------- threads in native code


@intrinsic
def atomic_add(typingctx, p, n, value):
    """Add to an integer in memory, as one indivisible step; returns what it was."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", _element(context, builder, sig, args), args[2], "acq_rel")

    return signature(p.dtype, p, n, p.dtype), codegen


@intrinsic
def atomic_swap(typingctx, p, n, value):
    """Set an integer in memory; returns what it was."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("xchg", _element(context, builder, sig, args), args[2], "acq_rel")

    return signature(p.dtype, p, n, p.dtype), codegen


@intrinsic
def atomic_replace(typingctx, p, n, before, after):
    """Set an integer in memory to `after` if it is `before`; return whether it was."""

    def codegen(context, builder, sig, args):
        pair = builder.cmpxchg(_element(context, builder, sig, args), args[2], args[3], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return signature(types.boolean, p, n, p.dtype, p.dtype), codegen


@intrinsic
def atomic_peek(typingctx, p, n):
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
    """Take subnormal numbers for zero in this thread from now on; return what `restore_control` puts back.

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
def restore_control(typingctx, control):
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


def offer_core(builder):
    """See `give_way`."""
    _call_c(builder, "SwitchToThread" if _is_windows(builder) else "sched_yield", i32)


@intrinsic
def give_way(typingctx):
    """Let another thread have this core."""

    def codegen(context, builder, sig, args):
        offer_core(builder)
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


# ------------------------------------------------------------------------------------------- functions of users


def or_nan(function):
    """Return an intrinsic that calls an njit function of numbers, and gives NaN where it raises an exception."""

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
