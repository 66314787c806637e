"""The compiled library: the object code of native functions, in one file for each dtype, loaded without Numba.

A file holds a line with the size and the checksum of its header, the header (JSON: for each function a hash of the
source that it was compiled from, and place, size and checksum of its object code), and the object code.  Its name says
for which processor, versions, flags and source it is.  A missing function is compiled, and the file written anew and
renamed into place.  A function whose modules did not change is copied from the file of another source.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
import time
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import llvmlite
import numpy as np
from llvmlite import binding

from .cache import WINDOWS, Lock, cache_folder, is_compiler_off, open_beside, setting, why_unsafe

SUFFIX, MAGIC = ".fastbp", b"fastbp library 1"
DAYS_UNUSED = 90  # then a file is removed when another one is written
MAX_OTHERS = 8  # files of other sources that a missing function is looked for in
_HERE = Path(__file__).parent
# Held by a thread that compiles or loads; taken before Numba's lock, never after it.
loading_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A fork waits until no other thread compiles or loads: in the child, the locks of Numba and LLVM would stay held.
    os.register_at_fork(
        before=loading_lock.acquire, after_in_parent=loading_lock.release, after_in_child=loading_lock.release
    )
_IMPORTS = re.compile(r"^from \.(\w*) import (\([^)]*\)|.*)", re.MULTILINE)


# ------------------------------------------------------------------------------------------------ names and hashes


def _sources_on_disk():
    return {path.stem: path.read_bytes() for path in sorted(_HERE.glob("*.py"))}


@functools.cache
def sources():
    """Return the source of each module of the kernels, by name, as it was when it was first asked for."""
    return _sources_on_disk()


@functools.cache
def _imported(module):
    """Return the modules of the kernels that a module imports."""
    found = set()
    for source, names in _IMPORTS.findall(sources()[module].decode()):
        found |= {source} if source else set(re.findall(r"\w+", names))
    return found & sources().keys()


@functools.cache
def module_hash(module):
    """Return a hash of the source of a module and of all that it imports, directly or not."""
    seen, pending = set(), [module]
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending += _imported(name)
    return _digest(*(part for name in sorted(seen) for part in (name.encode(), sources()[name])))


def _digest(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d " % len(part) + part)
    return digest.hexdigest()[:24]


@functools.cache
def _numba_version():
    """Return what tells versions of Numba apart, without importing it."""
    spec = find_spec("numba")
    if spec is None or not spec.submodule_search_locations:
        return b""
    try:
        return (Path(spec.submodule_search_locations[0]) / "_version.py").read_bytes()
    except OSError:
        from importlib.metadata import version

        return version("numba").encode()


def _target():
    """Return what machine code depends on besides the source: processor, versions, flags."""
    return (
        binding.get_process_triple(),
        setting("CPU_NAME") or binding.get_host_cpu_name(),
        setting("CPU_FEATURES") or binding.get_host_cpu_features().flatten(),
        llvmlite.__version__,
        sys.version_info[:2],
        *(setting(name) for name in ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")),
        os.environ.get("NUMBA_ENABLE_AVX"),
    )


def symbol_of(name, dtype):
    """Return the C symbol of a native function for a dtype."""
    return f"fastbp_{name.replace('.', '_')}_f{8 * np.dtype(dtype).itemsize}"


# ------------------------------------------------------------------------------------------------ the file


class Entry(NamedTuple):
    """Where the object code of a function is in the file, and what it was compiled from."""

    source: str  # `module_hash`
    start: int  # after the header
    size: int
    checksum: str


class LibraryFile:
    """One file of object code."""

    def __init__(self, path):
        self.path, self._state, self._entries, self._start = path, None, {}, 0

    def read(self, name, source):
        """Return the object code of a function of this source; None where the file has none."""
        try:
            with open(self.path, "rb", opener=open_beside) as file:
                info = os.fstat(file.fileno())
                if reason := why_unsafe(info):
                    _warn_once(f"compiled kernels are not read from {self.path}, which {reason}; compiling again")
                    return None
                if (info.st_ino, info.st_mtime_ns, info.st_size) != self._state:
                    self._read_header(file)
                    self._state = info.st_ino, info.st_mtime_ns, info.st_size
                entry = self._entries.get(name)
                if entry is None or entry.source != source:
                    return None
                file.seek(self._start + entry.start)
                code = file.read(entry.size)
                if _digest(code) != entry.checksum:
                    raise ValueError(f"wrong checksum of {name}")
                return code
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged file: compiled again and overwritten
            if WINDOWS and isinstance(error, PermissionError):
                return None  # another process is putting a new one in its place
            self._entries.pop(name, None)
            _warn(f"{self.path.name} is damaged ({type(error).__name__}: {error}); compiling again")
            return None

    def _read_header(self, file):
        self._entries = {}
        magic, size, checksum = file.readline(200).rsplit(b" ", 2)
        if magic != MAGIC:
            raise ValueError("it is no library of this package")
        header = file.read(int(size))
        if _digest(header).encode() != checksum.strip():
            raise ValueError("wrong checksum of the header")
        self._entries = {name: Entry(*entry) for name, entry in json.loads(header).items()}
        self._start = file.tell()

    def add(self, name, source, code):
        """Put a function into the file; the others are copied, the file is written anew and renamed into place."""
        lock = Lock.acquire(self.path.name)
        try:
            codes = {name: (source, code)}
            self.read(name, source)
            for other, entry in list(self._entries.items()):
                if other != name and (kept := self.read(other, entry.source)) is not None:
                    codes[other] = entry.source, kept
            self._write(codes)
        except OSError as error:
            if WINDOWS and isinstance(error, PermissionError) and self.path.exists():
                return  # another process reads it
            _warn(f"compiled kernels were not saved: {error}")
        finally:
            if lock is not None:
                lock.release()

    def _write(self, codes):
        entries, at = {}, 0
        for name, (source, code) in codes.items():
            entries[name] = Entry(source, at, len(code), _digest(code))
            at += len(code)
        header = json.dumps(entries).encode()
        for left in self.path.parent.glob(f"{self.path.name}.*.tmp"):  # of a killed process
            left.unlink(missing_ok=True)
        descriptor, temporary = tempfile.mkstemp(".tmp", f"{self.path.name}.", self.path.parent)  # new, mode 0600
        try:
            with open(descriptor, "wb") as file:
                file.write(b"%s %d %s\n" % (MAGIC, len(header), _digest(header).encode()) + header)
                file.writelines(code for _, code in codes.values())
            os.replace(temporary, self.path)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _remove_unused(folder):
    """Remove files that no process used for `DAYS_UNUSED`."""
    oldest = time.time() - DAYS_UNUSED * 86400
    for path in folder.iterdir():
        try:
            if path.suffix in (SUFFIX, ".nbc", ".tmp") and path.stat().st_mtime < oldest:
                path.unlink()
        except OSError:
            pass  # another process removed it, or uses it


# ------------------------------------------------------------------------------------------------ in memory


class Library:
    """The native functions of one dtype: machine code in memory, and the file that it comes from."""

    def __init__(self, dtype):
        self._dtype, self._addresses, self._file, self._others = np.dtype(dtype), {}, None, None

    def _find_file(self):
        """Open the file, and mark it as used."""
        folder = cache_folder()
        if self._file is None and folder is not None:
            target = _digest(repr(_target()).encode(), _numba_version())
            source = _digest(*(part for name, text in sources().items() for part in (name.encode(), text)))
            path = folder / f"{self._dtype.name}-{target}-{source}{SUFFIX}"
            others = [other for other in folder.glob(f"{self._dtype.name}-{target}-*{SUFFIX}") if other != path]
            self._others = [LibraryFile(other) for other in sorted(others, key=_age)[:MAX_OTHERS]]
            self._file = LibraryFile(path)
            if _age(path) > 86400:
                try:
                    os.utime(path)
                except OSError:
                    pass  # it is not there yet
        return self._file

    def is_cached(self, name):
        """Whether the machine code of a function is in memory or on disk."""
        return name in self._addresses or self._load(name)

    def address(self, name):
        """Return the address of a function, loaded or compiled now if need be."""
        try:
            return self._addresses[name]
        except KeyError:
            pass
        with loading_lock:
            if name not in self._addresses and not self._load(name):
                lock = Lock.acquire(f"{self._dtype.name} {name}") if self._find_file() else None
                try:
                    if not self._load(name):  # by now another process may have compiled it
                        self._compile(name)
                finally:
                    if lock is not None:
                        lock.release()
            return self._addresses[name]

    def _load(self, name):
        """Load a function from a file; return whether there was one."""
        with loading_lock:
            file, source = self._find_file(), module_hash(name.split(".")[0])
            if file is None:
                return False
            code = file.read(name, source)
            if code is None:
                code = next((c for other in self._others if (c := other.read(name, source)) is not None), None)
                if code is None:
                    return False
                file.add(name, source, code)
            self._add(name, code)
            return True

    def _compile(self, name):
        if is_compiler_off():
            raise RuntimeError(
                "fastbp's kernels are machine code, but NUMBA_DISABLE_JIT is set: unset it, or use backend='numpy'"
            )
        file = self._find_file()
        native = import_module(".native", __package__)  # which imports Numba
        code = native.resolve(name).compile(self._dtype, symbol_of(name, self._dtype))
        if file is not None and _sources_on_disk() == sources():  # after an upgrade, modules may be of either version
            file.add(name, module_hash(name.split(".")[0]), code)
            _remove_unused(file.path.parent)
        self._add(name, code)

    def _add(self, name, code):
        self._addresses[name] = load_code(code, symbol_of(name, self._dtype))


def _age(path):
    """Return the seconds since a file was written or used; 0 where there is none."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0


@functools.cache
def _engine():
    """Return LLVM's engine that links object code into this process."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    for name in ("PyMem_RawMalloc", "PyMem_RawFree"):
        binding.add_symbol(name, ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value)
    machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    if setting("ENABLE_PROFILING") not in ("", "0"):
        engine.enable_jit_events()  # profilers see the symbols
    return engine


def load_code(code, symbol):
    """Load object code into this process; return the address of its symbol."""
    with loading_lock:
        engine = _engine()
        engine.add_object_file(binding.ObjectFileRef.from_data(code))
        engine.finalize_object()
        return engine.get_function_address(symbol)


class NativeFunctionHandle:
    """A native function by name, such as "elementwise.forward.sigmoid"; see `native`."""

    def __init__(self, name):
        self.name = name

    def address(self, dtype):
        """Return the address of its machine code for a dtype, loaded or compiled now if need be."""
        return _library(np.dtype(dtype)).address(self.name)

    def is_cached(self, dtype):
        """Whether its machine code is in memory or on disk."""
        return _library(np.dtype(dtype)).is_cached(self.name)

    def __repr__(self):
        """Return the name."""
        return f"<native function {self.name}>"


@functools.cache
def native_function(name):
    """Return the handle of a native function."""
    return NativeFunctionHandle(name)


@functools.cache
def _library(dtype):
    return Library(dtype)


def address_of_symbol(symbol):
    """Return the address of a public kernel's C function; 0 where there is none of this name.

    Users' compiled functions call this, through Python's C interface; see `callers`.
    """
    known = import_module(".public", __package__).names_of_symbols().get(symbol)
    return 0 if known is None else _library(known[1]).address(known[0])


_has_warned = False


def _warn(message):
    warnings.warn(f"fastbp: {message}", RuntimeWarning, stacklevel=2)


def _warn_once(message):
    global _has_warned
    if not _has_warned:
        _has_warned = True
        _warn(message)
