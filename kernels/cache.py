"""The folder of the compiled library, and the locks of the processes that share it.

Files of the cache are executed.  So a folder or file is used only if it belongs to the process's effective user and
nobody else can write to it.  Parent folders are not checked: a user who may rename entries there can put another
folder in place, but cannot make it, or a file in it, belong to this user.
"""

import functools
import os
import stat
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: first compiles are not serialized there
    fcntl = None


LOCK_TIMEOUT_S, LOCK_MESSAGE_S = 60.0, 2.0
_HERE = Path(__file__).parent
WINDOWS = os.name == "nt"
_VARIABLES = {"DEBUGINFO_DEFAULT": "NUMBA_DEBUGINFO"}  # of settings that are not called as their variable
_DEFAULTS = {"OPT": 3, "DEBUGINFO_DEFAULT": 0, "DISABLE_JIT": 0}


def setting(name):
    """Return a setting of Numba as text, "" where it is not set; without importing Numba where that is possible."""
    if "numba" in sys.modules or Path(".numba_config.yaml").exists():
        from numba.core import config

        value = getattr(config, name)
        value = int(value) if isinstance(value, int) else value  # OPT is of a class that shows itself otherwise
    else:
        value = os.environ.get(_VARIABLES.get(name, f"NUMBA_{name}")) or _DEFAULTS.get(name)
        value = 3 if value == "max" else value  # as Numba reads OPT
    return "" if value is None else str(value)


def is_compiler_off():
    """Whether NUMBA_DISABLE_JIT is set: then nothing can be compiled."""
    return setting("DISABLE_JIT") not in ("", "0")


def _folders():
    """Return the folders that may hold compiled kernels, best first."""
    home = Path(os.path.expanduser("~"))
    if WINDOWS:
        user = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "fastbp" / "Cache"
    elif sys.platform == "darwin":
        user = home / "Library" / "Caches" / "fastbp"
    else:
        user = Path(os.environ.get("XDG_CACHE_HOME", "")) / "fastbp"
        if not user.is_absolute():  # an empty or relative one counts as not set
            user = home / ".cache" / "fastbp"
    # The user's folder comes first: files left beside an installed package outlive it and hide the next one.
    folders = [user, _HERE / "__pycache__" / "fastbp"]
    return [Path(setting("CACHE_DIR")) / "fastbp", *folders] if setting("CACHE_DIR") else folders


def why_unsafe(info):
    """Return why another user could change a folder or file, by its `os.stat_result`; None if none could."""
    if stat.S_ISLNK(info.st_mode):
        return "is a symbolic link"
    if WINDOWS:  # its stat_result has no owners and permissions
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
                reason = why_unsafe(folder.lstat())
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
