"""Public kernels inside functions compiled by Numba: a call of the C function, whose address is looked up once.

A kernel is not compiled into its caller.  So the caller compiles quickly, Numba may cache it on disk, and in a later
process it calls the kernel as it is then.  The address is asked of `library.address_of_symbol`, through Python's own C
interface, at the first call, and kept in a variable of the caller's module.  No symbol of this package is linked, so a
cached caller always loads; where its kernel is gone, the call raises RuntimeError.
"""

import functools

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.core.typing.templates import make_intrinsic_template, signature
from numba.np.numpy_support import as_dtype

from .library import symbol_of
from .public import MESSAGES, Array, check, native_name
from .tables import DONE, letters_of, parameters_of

i64 = ir.IntType(64)


@functools.cache
def type_of(kernel):
    """Return the Numba type of a public kernel."""
    name = kernel.__name__

    def typed(*kinds):
        try:
            dtype, form = check(name, [_describe(name, kind) for kind in kinds])
        except TypeError as error:
            raise TypingError(str(error)) from None  # Numba adds the place in the user's code
        numbers = {"f": types.float32 if dtype.itemsize == 4 else types.float64, "w": types.float64, "i": types.intp}
        letters = letters_of(name, form).values()
        expected = [numbers.get(each, kind) for each, kind in zip(letters, kinds, strict=True)]
        symbol = symbol_of(native_name(name, form), dtype)
        return signature(types.none, *expected), functools.partial(_emit_call, name, symbol, tuple(letters))

    # Numba takes the names of the arguments from this function
    parameters = ", ".join(parameters_of(name))
    typer = eval(f"lambda typingctx, {parameters}: typed({parameters})", {"typed": typed})
    typer.__qualname__ = name  # in errors
    return types.Function(make_intrinsic_template(kernel, typer, name))


def _describe(name, kind):
    """Return the `public.Array` of a Numba type, None of a number's."""
    if isinstance(kind, types.Array):
        return Array(as_dtype(kind.dtype), kind.ndim, kind.layout == "C", kind.mutable, lambda: str(kind))
    if isinstance(kind, types.Number | types.Boolean):
        return None
    raise TypingError(f"{name}: arguments must be arrays and numbers, got {kind}")


def _emit_call(name, symbol, letters, context, builder, sig, args):
    """Emit the call of the C function of a kernel, and the exception where it returns an error."""
    values = []
    for kind, value, letter in zip(sig.args, args, letters, strict=True):
        if not isinstance(kind, types.Array):
            values.append(value)
            continue
        array = context.make_array(kind)(context, builder, value)
        values.append(builder.bitcast(array.data, context.get_value_type(kind.dtype).as_pointer()))
        dimensions = cgutils.unpack_tuple(builder, array.shape, kind.ndim)
        values += dimensions if len(letter) - 1 == kind.ndim else [array.nitems]
    address = emit_address(context, builder, symbol)
    with builder.if_then(cgutils.is_null(builder, address), likely=False):
        text = f"{name}: compiled by another version of fastbp, of which this one has no {symbol}; compile it again"
        context.call_conv.return_user_exc(builder, RuntimeError, (text,))
    function = ir.FunctionType(i64, [value.type for value in values])
    result = builder.call(builder.bitcast(address, function.as_pointer()), values)
    with builder.if_then(builder.icmp_signed("!=", result, i64(DONE)), likely=False):
        for code, (kind, text) in MESSAGES.items():
            with builder.if_then(builder.icmp_signed("==", result, i64(code)), likely=False):
                context.call_conv.return_user_exc(builder, kind, (f"{name}: {text}",))
        context.call_conv.return_user_exc(builder, RuntimeError, (f"{name}: error of another version of fastbp",))
    return context.get_dummy_value()


def emit_address(context, builder, symbol):
    """Emit the address of a C function, an i8*: looked up at the first call; null where it is not known."""
    module, byte = builder.module, ir.IntType(8).as_pointer()
    known = f"{symbol}.address"
    if known not in module.globals:
        variable = ir.GlobalVariable(module, byte, known)
        variable.linkage, variable.initializer = "internal", ir.Constant(byte, None)
        _add_lookup(context, module, f"{symbol}.look_up", variable, symbol)
    found = builder.load_atomic(module.globals[known], "monotonic", 8)
    result = cgutils.alloca_once_value(builder, found)
    with builder.if_then(cgutils.is_null(builder, found), likely=False):
        builder.store(builder.call(module.globals[f"{symbol}.look_up"], []), result)
    return builder.load(result)


def _add_lookup(context, module, name, variable, symbol):
    """Add a function to the module that looks up an address, and stores and returns it."""
    byte = ir.IntType(8).as_pointer()
    function = ir.Function(module, ir.FunctionType(byte, []), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block())
    python = context.get_python_api(builder)
    result = cgutils.alloca_once_value(builder, ir.Constant(byte, None))
    lock = python.gil_ensure()
    library = python.import_module(context.insert_const_string(module, f"{__package__}.library"))
    with cgutils.if_likely(builder, cgutils.is_not_null(builder, library)):
        kind = ir.FunctionType(byte, [byte] * 3, var_arg=True)
        call_method = cgutils.get_or_insert_function(module, kind, "PyObject_CallMethod")
        texts = [context.insert_const_string(module, text) for text in ("address_of_symbol", "s", symbol)]
        number = builder.call(call_method, [library, *texts])
        with cgutils.if_likely(builder, cgutils.is_not_null(builder, number)):
            builder.store(builder.bitcast(python.long_as_voidptr(number), byte), result)
            python.decref(number)
        python.decref(library)
    with cgutils.if_unlikely(builder, cgutils.is_not_null(builder, python.err_occurred())):
        python.err_write_unraisable(cgutils.get_null_value(python.pyobj))  # the cause is printed
    python.gil_release(lock)
    address = builder.load(result)
    builder.store_atomic(address, variable, "monotonic", 8)
    builder.ret(address)
