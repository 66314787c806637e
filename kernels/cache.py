"""The disk cache of compiled kernels.

Numba's own disk cache tracks only the file of the cached function: it misses edits of functions from other files that
were compiled into it, and changed compile flags; two processes that compile at the same time may mix up its numbered
entries; and it raises at import when no folder is writable.  Here an entry is one file, named by a hash of everything
that went into it (the source of all kernels, signature, processor, versions, flags) and renamed into place when
complete.  A first compile holds a lock, so that of several processes only one compiles.

Files of the cache are executed.  So a folder or file is used only if it belongs to the process's effective user and
nobody else can write to it.  Parent folders are not checked: a user who may rename entries there can put another
folder in place, but cannot make it, or a file in it, belong to this user.
"""

import functools
import hashlib
import os
import pickle
import stat
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

import llvmlite
import numba
from numba.core import compiler, config
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

try:
    import fcntl
except ImportError:  # Windows: first compiles are not serialized there
    fcntl = None


LOCK_TIMEOUT_S, LOCK_MESSAGE_S = 60.0, 2.0
_HERE = Path(__file__).parent
_WINDOWS = os.name == "nt"


@functools.cache
def source_hash():
    """Return a hash of the source of every kernel."""
    digest = hashlib.sha256()
    for path in sorted(_HERE.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _folders():
    """Return the folders that may hold compiled kernels, best first."""
    user = Path(AppDirs("fastbp", appauthor=False).user_cache_dir)
    if not user.is_absolute():  # an empty or relative XDG_CACHE_HOME counts as not set
        user = Path(os.path.expanduser("~/.cache/fastbp"))
    # The user's folder comes first: files left beside an installed package outlive it and hide the next one.
    folders = [user, _HERE / "__pycache__" / "fastbp"]
    return [Path(config.CACHE_DIR) / "fastbp", *folders] if config.CACHE_DIR else folders


def _why_unsafe(info):
    """Return why another user could change a folder or file, by its `os.stat_result`; None if none could."""
    if stat.S_ISLNK(info.st_mode):
        return "is a symbolic link"
    if _WINDOWS:  # its stat_result has no owners and permissions
        return None
    if info.st_uid != os.geteuid():
        return f"belongs to user {info.st_uid}, not to user {os.geteuid()}"
    return "can be written by other users" if info.st_mode & 0o022 else None


@functools.cache
def cache_folder():
    """Return the first safe and writable folder of NUMBA_CACHE_DIR, the user's and that beside the source, or None."""
    found, unsafe, unwritable = None, [], []
    for folder in _folders():
        try:
            reason = "is not an absolute path"
            if folder.is_absolute():
                for path in (*reversed(folder.parents), folder):
                    path.mkdir(0o700, exist_ok=True)
                reason = _why_unsafe(folder.lstat())
            if reason:
                unsafe.append(f"{folder} {reason}")
                continue
            tempfile.TemporaryFile(dir=folder).close()
            found = folder
            break
        except OSError:
            unwritable.append(str(folder))
    if unsafe:
        warnings.warn(
            f"fastbp: not used as the folder of compiled kernels: {'; '.join(unsafe)}", RuntimeWarning, stacklevel=2
        )
    if found is None:
        warnings.warn(
            "fastbp: there is no folder to keep compiled kernels in, so every process compiles them anew"
            + (f"; cannot be written: {', '.join(unwritable)}" if unwritable else ""),
            RuntimeWarning,
            stacklevel=2,
        )
    return found


def open_beside(path, flags):
    """Open a file of the cache folder, never through a symbolic link; a new one is readable by its owner only."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


class KernelCache:
    """The cache of one Numba dispatcher, with its interface: one file per compiled signature."""

    _has_warned = False  # about a file that is unsafe to read; once in a process

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
        arguments = getattr(sig, "args", sig)  # a signature, or the bare argument types
        parts = (
            self._py_func.__module__,
            self._py_func.__qualname__,
            str(arguments),
            codegen.magic_tuple(),
            source_hash(),
            numba.__version__,
            llvmlite.__version__,
            sys.version_info[:2],
            config.BOUNDSCHECK,
            str(config.OPT),
            config.DEBUGINFO_DEFAULT,
        )
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
        return folder / f"fastbp-{self._py_func.__name__}-{digest}.nbc"

    def load_overload(self, sig, target_context):
        """Return the compiled function, or None; its lock is then held until `serialized` has compiled it."""
        target_context.refresh()
        path = self.path(sig, target_context.codegen())
        if path is None:
            return None
        found = self._read(path, target_context)
        if found is None and self._lock is None:
            self._lock = Lock.acquire(path.name)
            found = self._read(path, target_context)  # by now another process may have compiled it
        return found

    def save_overload(self, sig, cres):
        """Write one compiled function with its checksum: a temporary file, then a rename."""
        path = self.path(sig, cres.codegen)
        if path is None or cres.library.has_dynamic_globals:
            return
        data = dumps(cres._reduce())
        try:
            if self._lock is not None:  # remove what a killed process left
                for left in path.parent.glob(f"{path.name}.*.tmp"):
                    left.unlink(missing_ok=True)
            descriptor, temporary = tempfile.mkstemp(".tmp", f"{path.name}.", path.parent)  # a new file, mode 0600
            try:
                with open(descriptor, "wb") as file:
                    file.write(hashlib.sha256(data).digest() + data)
                os.replace(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)
        except OSError as error:
            if _WINDOWS and isinstance(error, PermissionError) and path.exists():
                return  # another process has saved it, and a third one reads it
            warnings.warn(f"fastbp: compiled kernels were not saved: {error}", RuntimeWarning, stacklevel=2)

    def _read(self, path, target_context):
        try:
            with open(path, "rb", opener=open_beside) as file:
                reason, content = _why_unsafe(os.fstat(file.fileno())), file.read()
            if reason:
                if not KernelCache._has_warned:
                    KernelCache._has_warned = True
                    warnings.warn(
                        f"fastbp: compiled kernels are not read from {path}, which {reason}; compiling again",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                return None
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                raise ValueError("wrong checksum")
            return compiler.CompileResult._rebuild(target_context, *pickle.loads(content[32:]))
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged file: compiled again and overwritten
            if _WINDOWS and isinstance(error, PermissionError):
                return None  # another process is putting a new one in its place
            warnings.warn(
                f"fastbp: {path.name} is damaged ({type(error).__name__}: {error}); compiling again",
                RuntimeWarning,
                stacklevel=2,
            )
            return None

    def serialized(self, compile_one):
        """Wrap a compiling function: release the lock when it returns or raises."""

        @functools.wraps(compile_one)
        def compile_and_release(*args):
            with global_compiler_lock:  # reentrant
                try:
                    return compile_one(*args)
                finally:
                    if self._lock is not None:
                        lock, self._lock = self._lock, None
                        lock.release()

        return compile_and_release

    def flush(self):
        """Do nothing: no entry is held in memory."""

    enable = disable = flush


class Lock:
    """A lock between processes on one byte of the lock file in the cache folder, a different byte for each kernel.

    The system releases the locks of a process that ends, and a forked child has none of its parent's.  After one
    timeout, when the holder is suspended for example, a process does not wait again.
    """

    _has_printed = _has_timed_out = False

    def __init__(self, descriptor, byte):
        self._descriptor, self._byte = descriptor, byte

    @staticmethod
    @functools.cache
    def _file():
        """Return the open lock file, or None; closing it would release all locks of this process."""
        if fcntl is None or cache_folder() is None:
            return None
        try:
            return open_beside(cache_folder() / "kernels.lock", os.O_RDWR | os.O_CREAT)
        except OSError:
            return None

    @staticmethod
    def acquire(name):
        """Return the lock of a name; None where there are no locks, or after a timeout."""
        lock, start = Lock(Lock._file(), zlib.crc32(name.encode())), time.monotonic()
        if lock._descriptor is None:
            return None
        while True:
            try:
                lock._change(fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except (BlockingIOError, PermissionError):  # held by another process
                waited = time.monotonic() - start
            except OSError:  # this file system has no locks
                return None
            if waited >= LOCK_MESSAGE_S and not Lock._has_printed:
                Lock._has_printed = True
                print("fastbp: waiting for another process that is compiling kernels", file=sys.stderr, flush=True)
            if waited >= LOCK_TIMEOUT_S or Lock._has_timed_out:
                Lock._has_timed_out = True
                return None
            time.sleep(0.02)

    def release(self):
        """Release the lock."""
        self._change(fcntl.LOCK_UN)

    def _change(self, operation):
        fcntl.lockf(self._descriptor, operation, 1, self._byte)
