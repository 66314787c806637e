"""The type of a model in functions compiled by Numba: its attributes and methods, which call C functions by address.

A model is a value of two arrays: the parameters, and the memory of all else (`kernels.methods`).  Like a public kernel
(`kernels.callers`), a method is not compiled into its caller.  What a caller holds of a model are the places of the
first fields of the memory, the codes of the errors and the names of the C functions; the first two are part of the
type's name, so that a cached function of another version is compiled again.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from contextlib import ExitStack

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.core.imputils import impl_ret_borrowed, impl_ret_new_ref, lower_constant
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_getattr, signature
from numba.extending import (
    NativeValue,
    box,
    lower_builtin,
    lower_getattr_generic,
    lower_setattr,
    models,
    register_model,
    unbox,
)
from numba.np.arrayobj import make_array, populate_array
from numba.np.numpy_support import as_dtype, from_dtype

from ..kernels.callers import emit_address
from ..kernels.layout import Y_LABELS, Y_ROWS
from ..kernels.library import symbol_of
from ..kernels.methods import (
    ABI,
    ABSENT,
    ALIGNMENT,
    AT,
    COPY,
    DONE,
    LABEL,
    MEMBERS,
    METHODS,
    NUMBER,
    RETURNS_LOSS,
    SHARED,
    arguments_of,
    check,
    errors_of,
    letters_of,
)
from ..kernels.public import Array

i32, i64, byte = ir.IntType(32), ir.IntType(64), ir.IntType(8)


class ModelType(types.Type):
    """The Numba type of models of a float dtype.

    Attributes
    ----------
    from_arrays : function
        Makes an object for Python of the parameters and the memory; set by `fastbp.jit`.
    """

    from_arrays: Callable[..., object]

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"fastbp.jit.Model({dtype}, {ABI})")

    @property
    def parameters(self):
        """The type of the parameters."""
        return types.Array(self.dtype, 1, "C")


MEMORY = types.Array(types.int64, 1, "C")


@functools.cache
def type_of(dtype):
    """Return the type of models of a NumPy dtype."""
    return ModelType(from_dtype(dtype))


def _members(typ):
    return list(zip(MEMBERS, (typ.parameters, MEMORY), strict=True))


@register_model(ModelType)
class _ModelModel(models.StructModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _members(fe_type))


@unbox(ModelType)
def _unbox(typ, obj, c):
    model = cgutils.create_struct_proxy(typ)(c.context, c.builder)
    has_failed = cgutils.alloca_once_value(c.builder, cgutils.false_bit)
    with ExitStack() as stack:
        for name, kind in _members(typ):
            attribute = "_writable_parameters" if name == "parameters" else name  # which raises if they are read-only
            array = c.pyapi.object_getattr_string(obj, attribute)
            with cgutils.early_exit_if_null(c.builder, stack, array):
                c.builder.store(cgutils.true_bit, has_failed)
            setattr(model, name, c.unbox(kind, array).value)
            c.pyapi.decref(array)
    return NativeValue(model._getvalue(), is_error=c.builder.load(has_failed))


@lower_constant(ModelType)
def _constant(context, builder, typ, value):
    raise TypingError(
        "a model must be an argument of a compiled function, not a global or a variable of an enclosing one"
    )


@box(ModelType)
def _box(typ, value, c):
    model = cgutils.create_struct_proxy(typ)(c.context, c.builder, value=value)
    parameters, memory = c.box(typ.parameters, model.parameters), c.box(MEMORY, model.memory)
    make = c.pyapi.unserialize(c.pyapi.serialize_object(ModelType.from_arrays))
    result = c.pyapi.call_function_objargs(make, (parameters, memory))
    for each in (make, parameters, memory):
        c.pyapi.decref(each)
    return result


# ---------------------------------------------------------------------------------------------------- attributes


def _memory_of(context, builder, model):
    """Emit the address of a model's memory, an i64*."""
    return make_array(MEMORY)(context, builder, model.memory).data


def _field(builder, memory, name, kind=i64):
    """Emit the address of a field of the header."""
    return builder.bitcast(builder.gep(memory, [i64(AT[name])]), kind.as_pointer())


@infer_getattr
class _Attributes(AttributeTemplate):
    key = ModelType

    def generic_resolve(self, typ, name):  # type: ignore[override]
        if name in ("parameters", "accumulated"):
            return typ.parameters
        if name == "lr":
            return types.float64
        if name in TEMPLATES:
            return types.BoundFunction(TEMPLATES[name], typ)
        return None


@lower_getattr_generic(ModelType)
def _get_attribute(context, builder, typ, value, name):
    model = cgutils.create_struct_proxy(typ)(context, builder, value=value)
    if name == "parameters":
        return impl_ret_borrowed(context, builder, typ.parameters, model.parameters)
    memory = _memory_of(context, builder, model)
    if name == "lr":
        return builder.load(_field(builder, memory, "lr", ir.DoubleType()))
    array = make_array(MEMORY)(context, builder, model.memory)
    result = _part_of(context, builder, typ, array.meminfo, memory, "accumulated_at")
    return impl_ret_borrowed(context, builder, typ.parameters, result)


@lower_setattr(ModelType, "lr")
def _set_lr(context, builder, sig, args):
    model = cgutils.create_struct_proxy(sig.args[0])(context, builder, value=args[0])
    value = context.cast(builder, args[1], sig.args[1], types.float64)
    zero, infinity = (ir.Constant(ir.DoubleType(), each) for each in (0.0, math.inf))
    is_number = builder.and_(builder.fcmp_ordered(">=", value, zero), builder.fcmp_ordered("<", value, infinity))
    with builder.if_then(builder.not_(is_number), likely=False):
        text = "lr must be a finite number, at least 0"
        context.call_conv.return_user_exc(builder, ValueError, (text,))
    builder.store(value, _field(builder, _memory_of(context, builder, model), "lr", ir.DoubleType()))


def _refuse(name):
    @lower_setattr(ModelType, name)
    def refuse(context, builder, sig, args):
        raise TypingError(f"{name} of a model cannot be replaced: write into it, m.{name}[:] = values")


_refuse("parameters")
_refuse("accumulated")


def _part_of(context, builder, typ, meminfo, memory, field):
    """Emit the array of n_parameters numbers of a model's memory that starts where a field of the header says."""
    result, item = make_array(typ.parameters)(context, builder), context.get_value_type(typ.dtype)
    start = builder.gep(builder.bitcast(memory, byte.as_pointer()), [builder.load(_field(builder, memory, field))])
    data, size = builder.bitcast(start, item.as_pointer()), i64(context.get_abi_sizeof(item))
    shape = [builder.load(_field(builder, memory, "n_parameters"))]
    populate_array(result, data=data, shape=shape, strides=[size], itemsize=size, meminfo=meminfo)
    return result._getvalue()


# ------------------------------------------------------------------------------------------------------- methods


def _describe(kind):
    """Return what `methods.check` looks at, of a Numba type."""
    kind = types.unliteral(kind)
    if isinstance(kind, types.Array):
        return Array(as_dtype(kind.dtype), kind.ndim, kind.layout == "C", kind.mutable, lambda: str(kind))
    if isinstance(kind, types.Integer):
        return LABEL
    if isinstance(kind, types.Float):
        return NUMBER
    if isinstance(kind, types.NoneType | types.Omitted):
        return ABSENT
    return str(kind)


def signature_of(name):
    """Return the Python signature of a method, without `self`."""
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    arguments = arguments_of(name)
    parameters = [inspect.Parameter(a.name, kind, default=None if a.is_optional else empty) for a in arguments]
    return inspect.Signature(parameters)


class _Method(AbstractTemplate):
    """A method of a model (`this`), or the function whose first argument is a model."""

    name = this = None

    def generic(self, args, kws):
        pysig = signature_of(self.name)
        if self.this is None:
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            pysig = pysig.replace(parameters=[inspect.Parameter("m", kind), *pysig.parameters.values()])
        try:
            bound = pysig.bind(*args, **kws)
        except TypeError as error:
            raise TypingError(f"{self.name}: {error}") from None
        bound.apply_defaults()
        values = [types.Omitted(None) if value is None else value for value in bound.arguments.values()]
        model = values.pop(0) if self.this is None else self.this
        if not isinstance(model, ModelType):
            raise TypingError(f"{self.name}: m must be a model of fastbp.jit, got {model}")
        kinds, result = self._checked(model, values), _result(self.name, model)
        if self.this is None:
            return signature(result, model, *kinds).replace(pysig=pysig)
        return signature(result, *kinds, recvr=model).replace(pysig=pysig)

    def _checked(self, model, values):
        """Return the types that the arguments are passed as."""
        described = [_describe(value) for value in values]
        try:
            check(self.name, as_dtype(model.dtype), described)
        except TypeError as error:
            raise TypingError(str(error)) from None  # Numba adds the place in the user's code
        numbers = {LABEL: types.int64, NUMBER: model.dtype}
        return [
            numbers.get(what, kind) if isinstance(what, str) else kind
            for what, kind in zip(described, values, strict=True)
        ]


def _result(name, model):
    """Return what a method returns."""
    if name == "clone":
        return model
    return types.float64 if name in RETURNS_LOSS else model.dtype if name == "predict1" else types.none


TEMPLATES = {
    name: type(f"_Method_{name}", (_Method,), {"key": f"fastbp.jit.{name}", "name": name})
    for name in (*METHODS, "clone")
}


def _emit_method(name, context, builder, sig, args):
    """Emit the call of a method's C function, and the exceptions of the errors it returns."""
    typ = sig.args[0]
    model = cgutils.create_struct_proxy(typ)(context, builder, value=args[0])
    memory, values = _memory_of(context, builder, model), []
    if letters_of(name) == "p":  # which tells the dtype
        values.append(make_array(typ.parameters)(context, builder, model.parameters).data)
    for argument, kind, value in zip(arguments_of(name), sig.args[1:], args[1:], strict=True):
        values += _emit_argument(context, builder, typ, argument, kind, value)
    _emit_call(context, builder, typ, name, [memory, *values])
    result = _result(name, typ)
    if result == types.none:
        return context.get_dummy_value()
    value = builder.load(_field(builder, memory, "result", ir.DoubleType()))
    return context.cast(builder, value, types.float64, result)


def _emit_argument(context, builder, typ, argument, kind, value):
    """Emit the C arguments of an argument."""
    item = context.get_value_type(typ.dtype)
    if isinstance(kind, types.Array):
        array = make_array(kind)(context, builder, value)
        dimensions = cgutils.unpack_tuple(builder, array.shape, kind.ndim)
        if argument.kind == "y":
            has_labels = kind.dtype != typ.dtype
            shape = [dimensions[0], i64(1)] if has_labels else [i64(1), *dimensions][-2:]
            return [builder.ptrtoint(array.data, i64), i64(Y_LABELS if has_labels else Y_ROWS), *shape]
        shape = dimensions if argument.kind == "g" else [i64(1), *dimensions][-2:]
        return [builder.bitcast(array.data, item.as_pointer()), *shape]
    if argument.kind == "y":  # a number
        address = cgutils.alloca_once(builder, value.type)
        builder.store(value, address)
        has_label = isinstance(kind, types.Integer)
        return [builder.ptrtoint(address, i64), i64(Y_LABELS if has_label else Y_ROWS), i64(1), i64(1)]
    return [ir.Constant(item.as_pointer(), None), i64(0), i64(0)]


def _emit_call(context, builder, typ, name, values, release=lambda: None):
    """Emit the call of a C function; where it fails, `release` emits what is to be done before the exception."""
    symbol = symbol_of(f"model.{name}", as_dtype(typ.dtype))
    address = emit_address(context, builder, symbol)
    with builder.if_then(cgutils.is_null(builder, address), likely=False):
        text = f"{name}: compiled by another version of fastbp, of which this one has no {symbol}; compile it again"
        release()
        context.call_conv.return_user_exc(builder, RuntimeError, (text,))
    function = ir.FunctionType(i64, [value.type for value in values])
    code = builder.call(builder.bitcast(address, function.as_pointer()), values)
    with builder.if_then(builder.icmp_signed("!=", code, i64(DONE)), likely=False):
        release()
        for error, (kind, text) in errors_of(name).items():
            with builder.if_then(builder.icmp_signed("==", code, i64(error)), likely=False):
                if error == SHARED:
                    _emit_message(context, builder, text)
                context.call_conv.return_user_exc(builder, kind, (text,))
        context.call_conv.return_user_exc(builder, RuntimeError, (f"{name}: error of another version of fastbp",))


def _emit_message(context, builder, text):
    """Emit that a text is written to stderr: in numba.prange, where threads share models, exceptions are dropped."""
    python, byte_pointer = context.get_python_api(builder), byte.as_pointer()
    lock = python.gil_ensure()
    kind = ir.FunctionType(ir.VoidType(), [byte_pointer], var_arg=True)
    write = cgutils.get_or_insert_function(builder.module, kind, "PySys_WriteStderr")
    builder.call(write, [context.insert_const_string(builder.module, each) for each in ("%s\n", text)])
    python.gil_release(lock)


def _release(module):
    """Return a function of the module that gives back memory; with a plain decref Numba would keep the arguments."""
    name, kind = "fastbp.release", ir.FunctionType(ir.VoidType(), [byte.as_pointer()])
    if name not in module.globals:
        function = ir.Function(module, kind, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        builder = ir.IRBuilder(function.append_basic_block())
        builder.call(cgutils.get_or_insert_function(module, kind, "NRT_decref"), function.args)
        builder.ret_void()
    return module.globals[name]


def _emit_clone(context, builder, sig, args):
    """Emit the copy of a model to memory of its own, which has room for its parameters."""
    typ = sig.args[0]
    source = cgutils.create_struct_proxy(typ)(context, builder, value=args[0])
    memory = _memory_of(context, builder, source)
    n_bytes = builder.load(_field(builder, memory, "size"))
    meminfo = context.nrt.meminfo_alloc_aligned(builder, n_bytes, i32(ALIGNMENT))
    with builder.if_then(cgutils.is_null(builder, meminfo), likely=False):
        context.call_conv.return_user_exc(builder, MemoryError, ("clone: no memory for a copy of the model",))
    copied = builder.bitcast(context.nrt.meminfo_data(builder, meminfo), i64.as_pointer())
    parameters = make_array(typ.parameters)(context, builder, source.parameters).data
    array = make_array(MEMORY)(context, builder)
    n_words = builder.udiv(n_bytes, i64(8))
    populate_array(array, data=copied, shape=[n_words], strides=[i64(8)], itemsize=i64(8), meminfo=meminfo)
    release = functools.partial(builder.call, _release(builder.module), [meminfo])
    _emit_call(context, builder, typ, COPY, [memory, copied, parameters], release)
    result = cgutils.create_struct_proxy(typ)(context, builder)
    result.memory = array._getvalue()
    result.parameters = _part_of(context, builder, typ, meminfo, copied, "parameters_at")
    context.nrt.incref(builder, typ.parameters, result.parameters)
    return impl_ret_new_ref(context, builder, typ, result._getvalue())


for _name in METHODS:
    lower_builtin(f"fastbp.jit.{_name}", ModelType, types.VarArg(types.Any))(functools.partial(_emit_method, _name))
lower_builtin("fastbp.jit.clone", ModelType)(_emit_clone)


@functools.cache
def function_type(name):
    """Return the type of a method as a function."""
    return types.Function(TEMPLATES[name])
