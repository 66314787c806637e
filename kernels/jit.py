"""`kernel` and `inner`: numba.njit with this package's flags, and a disk cache that is safe to share.

Numba's own disk cache knows the file of the cached function only: it misses edits of another file's functions that
were compiled into it, and changes of compile flags; two processes that compile at once may mix up its numbered
entries; and it raises at import when no folder is writable.  Here an entry is one file, named after everything that
went into it (the source of all kernels, signature, processor, versions, flags) and renamed into place when complete;
a first compile holds a lock, so that processes that start together compile once.
"""
import functools
import hashlib
import os
import pickle
import sys
import tempfile
import time
import warnings
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba import types
from numba.core import compiler, config
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

try:
    import fcntl
except ImportError:                                 # Windows: first compiles are then not serialised
    fcntl = None

if config.DISABLE_JIT:
    raise ImportError("fastbp's kernels are machine code, but NUMBA_DISABLE_JIT is set: unset it, or use "
                      "backend='numpy'")

# error_model="numpy": division as IEEE has it.  fastmath is never used: it deletes the checks for NaN.
FLAGS = {"nogil": True, "error_model": "numpy"}
BARE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
LOCK_PATIENCE_S = 60.0
_HERE = Path(__file__).parent


@functools.cache
def source_hash():
    """Return a hash of the source of every kernel."""
    digest = hashlib.sha256()
    for path in sorted(_HERE.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def cache_folder():
    """Return the first writable folder of: NUMBA_CACHE_DIR, the user's cache folder, beside the source; or None."""
    candidates = [Path(config.CACHE_DIR) / "fastbp"] if config.CACHE_DIR else []
    # The user's folder first: what is left beside an installed package outlives it, and hides the next one.
    candidates += [Path(AppDirs("fastbp", appauthor=False).user_cache_dir), _HERE / "__pycache__"]
    for folder in candidates:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return folder
        except OSError:
            continue
    warnings.warn("fastbp: no folder can be written to keep compiled kernels in, so every process compiles them "
                  f"anew; tried {', '.join(map(str, candidates))}", RuntimeWarning, stacklevel=2)
    return None


class KernelCache:
    """What a Numba dispatcher asks of its cache, over one file per compiled signature."""

    def __init__(self, py_func):
        self._py_func = py_func
        self._lock = None

    @property
    def cache_path(self):
        """The folder."""
        return str(cache_folder())

    def path(self, sig, codegen):
        """Return the file of one signature, or None without a folder."""
        folder = cache_folder()
        if folder is None:
            return None
        arguments = getattr(sig, "args", sig)         # a signature, or the bare argument types
        parts = (self._py_func.__module__, self._py_func.__qualname__, str(arguments), codegen.magic_tuple(),
                 source_hash(), numba.__version__, llvmlite.__version__, sys.version_info[:2], config.BOUNDSCHECK,
                 str(config.OPT), config.DEBUGINFO_DEFAULT)
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
        return folder / f"fastbp-{self._py_func.__name__}-{digest}.nbc"

    def load_overload(self, sig, target_context):
        """Return the compiled function, or None; then its lock is held until the compiling ends."""
        target_context.refresh()
        path = self.path(sig, target_context.codegen())
        if path is None:
            return None
        found = self._read(path, target_context)
        if found is None and self._lock is None:
            self._lock = Lock.taken(path.with_suffix(".lock"), LOCK_PATIENCE_S)
            found = self._read(path, target_context)         # by now another process may have compiled it
        return found

    def save_overload(self, sig, cres):
        """Write one compiled function with its checksum: a temporary file, then a rename."""
        path = self.path(sig, cres.codegen)
        if path is None or cres.library.has_dynamic_globals:
            return
        data = dumps(cres._reduce())
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(hashlib.sha256(data).digest() + data)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            warnings.warn(f"fastbp: compiled kernels were not saved: {error}", RuntimeWarning, stacklevel=2)

    def _read(self, path, target_context):
        try:
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                raise ValueError("wrong checksum")
            return compiler.CompileResult._rebuild(target_context, *pickle.loads(content[32:]))
        except FileNotFoundError:
            return None
        except Exception as error:                  # a damaged file: compiled again and overwritten
            warnings.warn(f"fastbp: {path.name} is damaged ({type(error).__name__}: {error}); compiling again",
                          RuntimeWarning, stacklevel=2)
            return None

    def serialised(self, compile_one):
        """Wrap a compiling function: give the lock back when it is done, whatever came of it."""
        @functools.wraps(compile_one)
        def compile_and_release(*args):
            with global_compiler_lock:                  # of all threads of this process; it may be held already
                try:
                    return compile_one(*args)
                finally:
                    if self._lock is not None:
                        lock, self._lock = self._lock, None
                        lock.give_back()
        return compile_and_release

    def flush(self):
        """Nothing is held in memory."""

    enable = disable = flush


class Lock:
    """A lock of several processes: a locked file, deleted by each that gives the lock back.

    Who waits for the deleted file gets its lock too, beside another who made a new one.  Both look into the cache
    first, and compile twice only what could not be compiled or saved.
    """

    def __init__(self, path, descriptor):
        self.path, self.descriptor = path, descriptor

    @staticmethod
    def taken(path, patience_s):
        """Return the lock at a path; None where there are no locks or it was not free in time."""
        if fcntl is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        except OSError:
            return None
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return Lock(path, descriptor)
            except OSError:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    return None
            time.sleep(0.02)

    def give_back(self):
        """Let others have it."""
        try:
            self.path.unlink()
        except OSError:
            pass                                       # another's file in a shared folder, say
        finally:
            os.close(self.descriptor)


def kernel(function):
    """Compile at the first call and keep the machine code on disk."""
    dispatcher = numba.njit(**FLAGS)(function)
    dispatcher._cache = cache = KernelCache(function)
    dispatcher.compile = cache.serialised(dispatcher.compile)
    return dispatcher


def inner(function):
    """Compile into whichever kernel calls it, in line."""
    return numba.njit(**FLAGS, **BARE, forceinline=True)(function)


def part(function):
    """Compile into whichever kernel calls it, as a function of its own where LLVM finds that better."""
    return numba.njit(**FLAGS, **BARE)(function)


class Leaf:
    """A function compiled once for each dtype and called by other kernels through its address.

    Numba copies every function that a kernel calls into that kernel and compiles it again there; for the large ones
    at the bottom this would multiply the time to compile, for users' own compiled loops too.

    Parameters
    ----------
    function : njit function that returns nothing.
    arguments : str
        A letter for each argument: i integer, f number of the dtype, p pointer to the dtype, o pointer to int64, w
        float64, d pointer to float64.
    on_disk : bool
        Whether the machine code is kept on disk.
    """

    def __init__(self, function, arguments, on_disk=True):
        self._function, self._arguments, self._compiled, self._addresses = function.py_func, arguments, {}, {}
        self.name = function.__name__
        self._on_disk = on_disk

    def like(self, function):
        """Return a leaf with the same arguments around a user's function, of which the disk cache knows nothing."""
        return Leaf(function, self._arguments, on_disk=False)

    def _cfunc(self, dtype):
        if dtype not in self._compiled:
            scalar = numba.from_dtype(dtype)
            kinds = {"i": types.intp, "f": scalar, "p": types.CPointer(scalar), "o": types.CPointer(types.int64),
                     "w": types.float64, "d": types.CPointer(types.float64)}
            sig = types.void(*[kinds[letter] for letter in self._arguments])
            cfunc = CFunc(self._function, (sig.args, sig.return_type), {}, FLAGS)
            if self._on_disk:
                cfunc._cache = cache = KernelCache(self._function)
                cfunc.compile = cache.serialised(cfunc.compile)
            self._compiled.setdefault(dtype, cfunc)
        return self._compiled[dtype]

    def address(self, dtype):
        """Return the address of its machine code for a dtype, compiled or loaded now if need be."""
        if dtype not in self._addresses:
            with global_compiler_lock:                   # a second thread's would take the place of the first's code
                if dtype not in self._addresses:
                    cfunc = self._cfunc(np.dtype(dtype))
                    cfunc.compile()
                    self._addresses[dtype] = cfunc.address
        return self._addresses[dtype]

    def is_cached(self, dtype):
        """Whether its machine code is in memory or on disk."""
        dtype = np.dtype(dtype)
        if dtype in self._addresses:
            return True
        cfunc = self._cfunc(dtype)
        path = cfunc._cache.path(cfunc._sig.args, cpu_target.target_context.codegen())
        return path is not None and path.exists()

