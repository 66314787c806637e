"""Compile a Python function to object code: one C function that any process can load, without Numba.

Numba types and lowers each function, and would then optimize it and emit its machine code, once for itself and once
more inside each function that calls it.  Here the modules of a function and of all that it calls are linked first;
LLVM's pipeline runs once, on the whole.

This relies on these parts of Numba (0.62 and later), which are not its public interface: `compiler.compile_extra` and
`compiler.CompilerBase` with its `state`; the passes of `PASSES` and `PassManager._ENFORCING`; that callers find a
function by its entry point (`_dynfunc.make_function`, `insert_user_function`); the interface of `codegen.CodeLibrary`
that lowering and other libraries use (`add_ir_module`, `add_linking_library`, `_ensure_finalized`,
`_get_module_for_linking`); `call_conv.call_function`; and `codegen._tm`, the target machine.
"""

import contextlib
import gc

import llvmlite.binding as llvm
from llvmlite import ir
from numba import _dynfunc
from numba.core import cgutils, codegen, compiler, registry, typed_passes, types, untyped_passes
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import LoweringPass, PassManager, register_pass

# error_model="numpy": division by zero as in IEEE 754.  fastmath is never used: it deletes the checks for NaN.
FLAGS = {"nogil": True, "error_model": "numpy"}
BARE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

# Functions of the C library and of its mathematics, which every process has, that object code may call.
C_FUNCTIONS = {"memcpy", "memmove", "memset", "sched_yield", "clock_gettime", "PyMem_RawMalloc", "PyMem_RawFree"}
C_FUNCTIONS |= {"SwitchToThread", "QueryPerformanceCounter", "QueryPerformanceFrequency"}
C_FUNCTIONS |= {
    name + suffix for name in ("cos", "exp", "fma", "log", "nearbyint", "pow", "sin", "sqrt") for suffix in ("", "f")
}
OPTIMIZATION_LEVEL = 3

i64 = ir.IntType(64)


class ModuleLibrary(codegen.CodeLibrary):
    """The LLVM module of one function as it was lowered, and the libraries of the functions that it calls."""

    def __init__(self, codegen, name):
        super().__init__(codegen, name)
        self._callees, self._module, self._shared = {}, None, None

    def add_linking_library(self, library):
        """Add the library of a function that is called."""
        library._ensure_finalized()
        self._callees[library] = None

    def add_ir_module(self, ir_module):
        """Add the module of the function."""
        self._raise_if_finalized()
        module = llvm.parse_assembly(cgutils.normalize_ir_text(str(ir_module)))
        for function in module.functions:
            if not function.is_declaration:
                function.linkage = "linkonce_odr"  # it may come to a caller in more than one way
        if self._module is None:
            self._module = module
        else:
            self._module.link_in(module)

    def finalize(self):
        """End the adding; nothing is optimized before everything is linked."""
        self._finalized = True

    def linked(self):
        """Return a new module: this one with those of all callees."""
        result, seen, pending = self._module.clone(), {self}, list(self._callees)
        while pending:
            library = pending.pop()
            if library in seen:
                continue
            seen.add(library)
            if isinstance(library, ModuleLibrary):
                result.link_in(library._module, preserve=True)
                pending += library._callees
            else:
                result.link_in(library._get_module_for_linking(), preserve=True)
        return result

    def _get_module_for_linking(self):
        """Return the module that another kind of library links into itself."""
        if self._shared is None:
            self._shared = self.linked()
        return self._shared

    def get_function(self, name):
        """Return a function of the module."""
        return self._module.get_function(name)

    def get_llvm_str(self):
        """Return the text of the module."""
        return str(self._module)

    def get_asm_str(self):
        """Return the assembly of the module, not optimized."""
        return self._codegen._tm.emit_assembly(self._module.clone())


class KernelCompiler(compiler.CompilerBase):
    """Numba's compiler for functions that only become part of others' code: typed and lowered, no more.

    Without reference counts: kernels allocate nothing.
    """

    def __init__(self, typingctx, targetctx, library, args, return_type, flags, locals):
        super().__init__(typingctx, targetctx, library, args, return_type, flags, locals)
        self.state.targetctx = self.state.targetctx.subtarget(enable_nrt=False)

    def define_pipelines(self):
        """Put the module where it waits to be linked."""
        state = self.state
        state.library = ModuleLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        pipeline = _Pipeline("kernels")
        for step in PASSES:
            pipeline.add_pass(step, step.__name__)
        pipeline.finalize()
        return [pipeline]


@register_pass(mutates_CFG=False, analysis_only=True)
class _Registration(LoweringPass):
    """Register a lowered function for its callers, who look it up by an entry point, which has no code."""

    _name = "register_without_code"

    def __init__(self):
        super().__init__()

    def run_pass(self, state):
        lowered = state["cr"]
        module, name = lowered.fndesc.lookup_module(), lowered.fndesc.qualname
        entry_point = _dynfunc.make_function(module, name, "", 0, lowered.env, (state.library,))
        state.targetctx.insert_user_function(entry_point, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=entry_point)
        return True


class _Pipeline(PassManager):
    """Passes of which the next does not need the lifetimes of variables, which Numba computes after each."""

    _ENFORCING = False


# Those of Numba's passes that kernels need: no closures, `with`, array expressions, literal loops or raised variables.
PASSES = (
    untyped_passes.TranslateByteCode,
    untyped_passes.FixupArgs,
    untyped_passes.IRProcessing,
    untyped_passes.RewriteSemanticConstants,
    untyped_passes.DeadBranchPrune,
    untyped_passes.GenericRewrites,
    untyped_passes.ReconstructSSA,
    untyped_passes.DeadBranchPrune,
    typed_passes.NopythonTypeInference,
    typed_passes.PreLowerStripPhis,
    typed_passes.IRLegalization,
    typed_passes.NativeLowering,
    _Registration,
    typed_passes.NoPythonBackend,
)


@contextlib.contextmanager
def _without_garbage_collection():
    """Let the compiler's many objects live until the end; to look through them again and again takes a tenth longer."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def compile_object(function, argument_types, symbol, standalone=True):
    """Return object code that defines a C function `symbol`.

    It returns an int64: what the Python function returns, 0 where that is nothing, and -1 where it raises.

    Parameters
    ----------
    function : function
        Of the kernels' dialect.
    argument_types : sequence of Numba types
        Integers, floats and pointers.
    symbol : str
    standalone : bool
        Whether the code must load in processes that have not imported Numba.

    Raises
    ------
    ValueError
        The code needs a symbol that such a process does not have.
    """
    with global_compiler_lock, _without_garbage_collection():
        target = registry.cpu_target
        context, flags = target.target_context, compiler.Flags()
        target.options.parse_as_flags(flags, {**FLAGS, **BARE, "nopython": True})
        result = compiler.compile_extra(
            typingctx=target.typing_context,
            targetctx=context,
            func=function,
            args=tuple(argument_types),
            return_type=None,
            flags=flags,
            locals={},
            pipeline_class=KernelCompiler,
        )
        module = result.library.linked()
        module.link_in(_c_function(context, result, symbol))
        for value in (*module.functions, *module.global_variables):
            if not value.is_declaration and value.name != symbol:
                value.linkage = "internal"
        machine = context.codegen()._tm
        optimize(module, machine)
        if standalone:
            check_symbols(module, symbol)
        return machine.emit_object(module)


def _c_function(context, result, symbol):
    """Return a module of the C function that calls a compiled one."""
    arguments, returned = result.signature.args, result.signature.return_type
    if not isinstance(returned, types.NoneType | types.Integer | types.Boolean):
        raise TypeError(f"{symbol} returns {returned}; it may return an integer, a truth value, or nothing")
    module = context.codegen()._create_empty_module(symbol)
    kind = ir.FunctionType(i64, [context.get_value_type(argument) for argument in arguments])
    function = ir.Function(module, kind, symbol)
    builder = ir.IRBuilder(function.append_basic_block())
    callee = context.declare_function(module, result.fndesc)
    status, value = context.call_conv.call_function(builder, callee, returned, arguments, function.args)
    value = i64(0) if returned == types.none else context.cast(builder, value, returned, types.int64)
    builder.ret(builder.select(status.is_error, i64(-1), value))
    return llvm.parse_assembly(cgutils.normalize_ir_text(str(module)))


def optimize(module, machine):
    """Run LLVM's pipeline on a module."""
    options = llvm.create_pipeline_tuning_options(speed_level=OPTIMIZATION_LEVEL)
    options.loop_vectorization, options.slp_vectorization = True, False  # as Numba does
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)


def check_symbols(module, symbol):
    """Check that a module needs no other symbols than `C_FUNCTIONS`."""
    needed = {
        value.name
        for value in (*module.functions, *module.global_variables)
        if value.is_declaration and not value.name.startswith("llvm.")
    }
    if needed - C_FUNCTIONS:
        raise ValueError(f"{symbol} needs {', '.join(sorted(needed - C_FUNCTIONS))}, which only Numba has")
