"""The files of the compiled library: edits are noticed, damage is repaired, only the user's own files are read.

Most tests compile a tiny function through new libraries in this process, which look into the folder as new processes
do.  The others run processes over a copy of the package, with a cache folder of their own.
"""

import ast
import ctypes
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastbp.kernels import cache, cores, custom, library, native, parallel_compile
from fastbp.kernels.layout import GEMM
from fastbp.kernels.library import Library, LibraryFile, native_function
from fastbp.kernels.tables import FUNCTIONS
from numba.core import config
from numba.core.errors import NumbaError
from shared import copy_package, run_python

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no file locks, owners and permissions")
exhaustive = pytest.mark.exhaustive

NAME, OTHER = "metrics.increment", "schedules.increment"  # as if these modules of the kernels held it
DTYPE = np.dtype(np.float64)


def increment(x):
    return x + 1


def decrement(x):
    return x - 1


def wrong(x):
    return x.no_such_attribute


def forget():
    """Forget what this process knows about its cache folder and its files, as a new process would."""
    for function in (cache.cache_folder, cache.Lock._file, library.sources, library._imported, library.module_hash):
        function.cache_clear()
    library._has_warned = cache.Lock._has_printed = cache.Lock._has_timed_out = False


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache folder for this process, and homes of which nothing is used before it."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "user"))
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "user" / "cache"))
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "resolve", lambda name: native.NativeFunction(increment, "i"))
    # what other tests have loaded stays in memory, in its own engine
    monkeypatch.setattr(library, "_engine", functools.cache(library._engine.__wrapped__))
    forget()
    yield tmp_path / "cache" / "fastbp"
    monkeypatch.undo()
    forget()


def call(address):
    """Return what a function gives for 0: 1 for `increment`, -1 for `decrement`."""
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_ssize_t)(address)(0)


def compiles(*names):
    """Call functions (NAME by default) as a new process would; return how many were compiled, and the warnings."""
    forget()
    library._engine.cache_clear()  # all symbols are new
    compiled, compile_one = [], native.NativeFunction.compile
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(
            native.NativeFunction, "compile", lambda *arguments: (compiled.append(0), compile_one(*arguments))[1]
        )
        functions = Library(DTYPE)
        for name in names or (NAME,):
            assert call(functions.address(name)) == 1
    return len(compiled), [str(warning.message) for warning in caught]


COMPILED, LOADED = (1, []), (0, [])


def files(folder):
    """Names of the files in a cache folder, without those of locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def only_file(folder):
    """The one library in a cache folder."""
    (path,) = folder.glob(f"*{library.SUFFIX}")
    return path


def entries(path):
    """The functions in a file, in the order of their code."""
    header = path.read_bytes().split(b"\n", 1)[1]
    return json.JSONDecoder().raw_decode(header.decode("latin-1"))[0]


# ------------------------------------------------------------------ what makes a file, and a function in it


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """The folder of a copy of the sources that hashes are made of."""
    monkeypatch.setattr(library, "_HERE", Path(shutil.copytree(library._HERE, tmp_path / "kernels")))
    forget()
    return tmp_path / "kernels"


def edit(path):
    path.write_text(path.read_text() + "# edited\n")


def test_an_edit_of_any_kernel_file_makes_another_file(sources, folder):
    assert compiles() == COMPILED and compiles() == LOADED
    paths = [sources / name for name in ("metrics.py", "layout.py", "cores.py")]
    for n, path in enumerate(paths, start=2):
        edit(path)
        compiles()
        assert len(files(folder)) == n
    path.write_text(path.read_text().removesuffix("# edited\n"))
    assert compiles() == LOADED and len(files(folder)) == n


@pytest.mark.parametrize(
    "module, n_compiled",
    [
        ("metrics", 1),
        ("schedules", 1),
        ("elementwise", 1),
        ("simd", 2),
        ("tables", 2),
        ("compiler", 2),
        ("training", 0),
        ("cores", 0),
    ],
)
def test_only_functions_whose_modules_changed_are_compiled_again(module, n_compiled, sources, folder):
    """Metrics imports no elementwise, schedules does; both import simd and tables."""
    assert compiles(NAME, OTHER) == (2, [])
    edit(sources / f"{module}.py")
    assert compiles(NAME, OTHER) == (n_compiled, [])
    assert compiles(NAME, OTHER) == (0, [])
    assert [len(entries(path)) for path in folder.glob(f"*{library.SUFFIX}")] == [2, 2]


def test_a_change_of_one_module_leaves_the_old_file_as_it_is(sources, folder):
    compiles(NAME, OTHER)
    path = only_file(folder)
    content = path.read_bytes()
    edit(sources / "metrics.py")
    compiles(NAME, OTHER)
    assert path.read_bytes() == content


def test_imports_between_modules_are_found():
    """By text, without importing the modules: all that they import when they are imported."""
    for name, source in library.sources().items():
        imported = set()
        for node in ast.parse(source).body:
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                imported |= {node.module} if node.module else {alias.name for alias in node.names}
        assert library._imported(name) == imported & library.sources().keys(), name
    assert {"simd", "elementwise", "training"} < library.sources().keys()


@pytest.mark.parametrize(
    "name, value",
    [
        ("numba.core.config.BOUNDSCHECK", 1),
        ("numba.core.config.OPT", config._OptLevel(1)),
        ("numba.core.config.DEBUGINFO_DEFAULT", 1),
        ("numba.core.config.CPU_NAME", "generic"),
        ("numba.core.config.CPU_FEATURES", "+sse2"),
        ("fastbp.kernels.library._numba_version", lambda: b"9"),
        ("llvmlite.__version__", "9"),
        ("sys.version_info", (3, 99)),
        ("NUMBA_ENABLE_AVX", "0"),
        ("fastbp.kernels.library.binding.get_host_cpu_name", lambda: "another"),
    ],
)
def test_flags_and_versions_are_part_of_the_name(name, value, folder, monkeypatch):
    def path(dtype=DTYPE):
        return Library(dtype)._find_file().path

    before = path()
    assert before == path() and before.parent == folder and path(np.float32) != before
    monkeypatch.setenv(name, value) if name.isupper() else monkeypatch.setattr(name, value)
    assert path() != before


@pytest.mark.parametrize("opt, others", [(None, None), ("", ""), ("0", "0"), ("2", "1"), ("max", "1")])
def test_settings_are_the_same_with_and_without_numba(opt, others):
    """So processes that import Numba, and those that do not, read the same file."""
    code = """
import sys
from fastbp.kernels import library
before = library._target(), library._numba_version(), library.setting("DISABLE_JIT") not in ("", "0")
assert "numba" not in sys.modules
import numba
after = library._target(), library._numba_version(), library.setting("DISABLE_JIT") not in ("", "0")
assert before == after, (before, after)
"""
    values = {"OPT": opt} | dict.fromkeys(
        ["BOUNDSCHECK", "DEBUGINFO", "CPU_NAME", "CPU_FEATURES", "DISABLE_JIT"], others
    )
    environment = {f"NUMBA_{name}": value for name, value in values.items() if value is not None}
    assert run_python("-W", "ignore", "-c", code, **environment).stderr == ""


def test_functions_are_kept_on_disk_for_each_dtype(folder):
    first = Library(DTYPE)
    assert not first.is_cached(NAME)
    first.address(NAME)
    assert first.is_cached(NAME) and Library(DTYPE).is_cached(NAME)
    assert not Library(DTYPE).is_cached(OTHER) and not Library(np.float32).is_cached(NAME)
    assert only_file(folder).name.startswith("float64-")


def test_functions_of_users_are_not_kept_on_disk(folder):
    function = custom.UserFunction(increment, "i")
    assert not function.is_cached(DTYPE)
    assert call(function.address(DTYPE)) == 1 and function.is_cached(DTYPE)
    assert not custom.UserFunction(increment, "i").is_cached(DTYPE) and not folder.exists()


# ------------------------------------------------------------------ damage, failures, folders


def damage(kind, path):
    """Damage a file with the functions NAME and OTHER."""
    whole = path.read_bytes()
    line, rest = whole.split(b"\n", 1)
    wrong = bytearray(whole)
    if isinstance(kind, int):  # flip a bit of the header's line, of the header, of the code
        wrong[(len(whole) - 1) * kind // 20] ^= 0x10
    changed = {
        "empty": b"",
        "cut in the line": whole[:10],
        "cut in the header": whole[: len(line) + 20],
        "cut in the code": whole[:-100],
        "garbage": b"nonsense" * 999,
        "one long line": b"x" * 9999,
        "older format": whole.replace(b"library 1 ", b"library 0 ", 1),
        "header": line + b"\n" + rest.replace(b'"metrics.', b'"metrucs.', 1),
        "size": line.replace(b"library 1 ", b"library 1 9", 1) + b"\n" + rest,
        "checksum": line[:-1] + (b"0" if line[-1:] != b"0" else b"1") + b"\n" + rest,
    }
    path.write_bytes(changed.get(kind, wrong))
    assert path.read_bytes() != whole


DAMAGES = ["empty", "cut in the line", "cut in the header", "cut in the code", "garbage", "one long line"]
DAMAGES += ["older format", "header", "size", "checksum", 0, 1, 5, 9, 10, 15, 20]


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files_are_compiled_again(kind, folder):
    compiles(NAME, OTHER)
    path = only_file(folder)
    damage(kind, path)
    n_compiled, said = compiles(NAME, OTHER)
    assert 1 <= n_compiled <= 2 and len(said) > 0
    assert all(path.name in words and "is damaged" in words for words in said)
    assert compiles(NAME, OTHER) == (0, []) and only_file(folder) == path


def test_damage_of_one_function_leaves_the_others(folder):
    compiles(NAME, OTHER)
    path = only_file(folder)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the last function in the file: which is it?
    path.write_bytes(content)
    damaged = list(entries(path))[-1]
    kept = ({NAME, OTHER} - {damaged}).pop()
    assert compiles(kept) == LOADED
    n_compiled, said = compiles(damaged, kept)
    assert n_compiled == 1 and all(f"wrong checksum of {damaged}" in words for words in said)
    assert compiles(NAME, OTHER) == (0, [])


def test_a_damaged_file_of_another_source_is_no_obstacle(sources, folder):
    compiles(NAME, OTHER)
    damage("cut in the code", only_file(folder))
    edit(sources / "cores.py")
    n_compiled, said = compiles(NAME, OTHER)
    assert n_compiled >= 1 and all("is damaged" in words for words in said)
    assert compiles(NAME, OTHER) == (0, [])


def test_a_failed_save_warns_and_leaves_nothing(folder, monkeypatch):
    def no_space(*_):
        raise OSError("no space left")

    monkeypatch.setattr(library.os, "replace", no_space)
    n_compiled, (said,) = compiles()
    assert n_compiled == 1 and "no space left" in said and files(folder) == []


def test_files_of_killed_writers_are_removed_and_names_are_random(folder, monkeypatch):
    names, replace = [], os.replace
    monkeypatch.setattr(library.os, "replace", lambda source, target: (names.append(source), replace(source, target)))
    compiles()
    path = only_file(folder)
    path.unlink()
    other = f"float64-other{library.SUFFIX}.left.tmp"
    for name in (f"{path.name}.left.tmp", other):
        path.with_name(name).write_bytes(b"unfinished")
    assert compiles() == COMPILED
    assert len(set(names)) == 2  # one file of one process under two temporary names
    assert files(folder) == sorted([path.name, other])


@pytest.mark.parametrize("is_windows", [True, False])
def test_files_in_use_are_ignored_on_windows_only(is_windows, folder, monkeypatch):
    """There, a file that is open cannot be replaced, nor one opened that is being replaced."""

    def in_use(*arguments, **options):
        raise PermissionError(13, "The process cannot access the file because it is being used by another process")

    compiles()
    before = files(folder)
    for module in (cache, library):
        monkeypatch.setattr(module, "open_beside", in_use)
        monkeypatch.setattr(module, "WINDOWS", is_windows)
    monkeypatch.setattr(library.os, "replace", in_use)
    n_compiled, said = compiles()
    assert n_compiled == 1 and (said == []) == is_windows and files(folder) == before


def set_age(path, days):
    moment = time.time() - days * 86400
    os.utime(path, (moment, moment))


def test_unused_files_are_removed_when_one_is_written(sources, folder):
    compiles()
    old, young = (folder / f"float32-{name}{library.SUFFIX}" for name in ("old", "young"))
    former, temporary, foreign = folder / "fastbp-gemm-0.nbc", folder / "x.tmp", folder / "notes.txt"
    for path in (old, young, former, temporary, foreign):
        path.write_bytes(b"")
        set_age(path, 89 if path == young else 91)
    used = only_file_of(folder, "float64")
    assert compiles() == LOADED and old.exists()  # nothing is written
    edit(sources / "metrics.py")
    assert compiles() == COMPILED
    assert not (old.exists() or former.exists() or temporary.exists())
    assert young.exists() and foreign.exists() and used.exists()


def only_file_of(folder, dtype):
    (path,) = folder.glob(f"{dtype}-*{library.SUFFIX}")
    return path


def test_a_file_that_is_used_counts_as_used(folder):
    compiles()
    path = only_file(folder)
    for days, is_marked in ((60, True), (0.5, False)):  # not more often than once a day
        set_age(path, days)
        before = path.stat().st_mtime
        assert compiles() == LOADED
        assert (path.stat().st_mtime > before + 3600) == is_marked


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Where the cache goes beside the source; NUMBA_CACHE_DIR cannot be written."""
    monkeypatch.setattr(cache, "_HERE", Path(shutil.copytree(cache._HERE, tmp_path / "kernels")))
    (tmp_path / "file").write_text("a file in place of a folder")
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "file"))
    shutil.rmtree(tmp_path / "kernels" / "__pycache__", ignore_errors=True)
    return tmp_path / "kernels" / "__pycache__" / "fastbp"


@posix
def test_the_next_folder_is_used_where_one_cannot_be_written(beside, tmp_path, monkeypatch):
    assert compiles() == COMPILED
    assert len(list((tmp_path / "user").rglob(f"*{library.SUFFIX}"))) == 1 and not beside.exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert compiles() == COMPILED and compiles() == LOADED
    assert only_file(beside)
    shutil.rmtree(beside.parent)
    beside.parent.write_text("a file in place of the last folder")
    n_compiled, (said,) = compiles(NAME, OTHER)  # once for two functions
    assert n_compiled == 2 and str(tmp_path / "file") in said and "no folder" in said


# ------------------------------------------------------------------ whose the files are


@pytest.fixture
def plant(folder):
    """A file with another function's code; a function that tells whether a new process runs that, and the warnings."""
    compiles()
    path = only_file(folder)
    code = native.NativeFunction(decrement, "i").compile(DTYPE, library.symbol_of(NAME, DTYPE))
    LibraryFile(path)._write({NAME: (library.module_hash("metrics"), code)})

    def runs():
        forget()
        library._engine.cache_clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = call(Library(DTYPE).address(NAME))
        assert result in (1, -1)
        return result == -1, [str(warning.message) for warning in caught]

    return runs


def test_files_of_the_cache_are_executed(plant):
    """So the tests below would find code that was planted: here the file is the user's own."""
    assert plant() == (True, [])


@posix
@pytest.mark.parametrize("mode", [0o720, 0o702])
@pytest.mark.parametrize("which", ["folder", "file"])
def test_files_that_others_can_write_are_not_read(which, mode, plant, folder, tmp_path):
    path = only_file(folder)
    unsafe = path if which == "file" else folder
    unsafe.chmod(mode)
    was_run, (said,) = plant()
    assert not was_run and "can be written by other users" in said and str(unsafe) in said
    if which == "folder":  # the next one is used instead
        assert len(list((tmp_path / "user").rglob(f"*{library.SUFFIX}"))) == 1
        n_compiled, said = compiles()
        assert n_compiled == 0 and len(said) == 1
    else:
        assert path.stat().st_mode & 0o777 == 0o600 and compiles() == LOADED  # a new file


@posix
@pytest.mark.parametrize("which", ["file", "folder"])
def test_files_of_another_user_are_not_read(which, plant, folder, monkeypatch):
    """To a process of another user, this user's files are another's."""
    user = os.geteuid()
    monkeypatch.setattr(cache.os, "geteuid", lambda: user + 1)
    if which == "file":
        monkeypatch.setattr(library, "cache_folder", lambda: folder)
    was_run, said = plant()
    assert not was_run and "belongs to user" in said[0]


@posix
@pytest.mark.parametrize("which", ["file", "folder"])
def test_symbolic_links_are_not_followed(which, plant, folder, tmp_path):
    link = only_file(folder) if which == "file" else folder
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    was_run, said = plant()
    assert not was_run and len(set(said)) == 1 and "symbolic link" in said[0]


@posix
@pytest.mark.parametrize("numba_dir, xdg", [("", ""), ("", "cache"), ("cache", None)])
def test_the_current_folder_is_no_cache(numba_dir, xdg, plant, tmp_path, monkeypatch):
    shutil.copytree(tmp_path / "cache" / "fastbp", tmp_path / "fastbp")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "CACHE_DIR", numba_dir)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    was_run, said = plant()
    assert not was_run and len(said) == bool(numba_dir)  # what a user has set is not ignored in silence
    assert all("is not an absolute path" in warning for warning in said)


@posix
def test_new_files_and_folders_are_private(folder):
    mask = os.umask(0)
    try:
        assert compiles() == COMPILED
    finally:
        os.umask(mask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert folder.parent.stat().st_mode & 0o777 == folder.stat().st_mode & 0o777 == 0o700
    assert len(modes) == 2 and set(modes.values()) == {0o600}  # the library and the lock file


# ------------------------------------------------------------------ threads and processes


def test_threads_of_one_process_start_together(folder):
    errors, results = [], []
    for n_round in range(3):
        library._engine.cache_clear()
        functions, start = Library(DTYPE), threading.Barrier(6)

        def work(i, functions=functions, start=start):
            try:
                start.wait()
                results.append(call(functions.address((NAME, OTHER)[i % 2])))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == [] and results == [1] * 6 * (n_round + 1)
        if n_round == 0:  # then they load, then they compile again
            assert set(entries(only_file(folder))) == {NAME, OTHER}
        else:
            only_file(folder).unlink(missing_ok=True)


@posix
def test_a_failed_compile_releases_the_lock(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(native, "resolve", lambda name: native.NativeFunction(wrong, "i"))
        with pytest.raises(NumbaError):
            Library(DTYPE).address(NAME)
    path = str(folder / "kernels.lock")
    code = f"import fcntl; fcntl.lockf(open({path!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"

    def others_can_lock():
        return subprocess.run([sys.executable, "-Sc", code], stderr=subprocess.DEVNULL).returncode == 0

    free = others_can_lock()
    lock = cache.Lock.acquire("any")
    held = not others_can_lock()
    lock.release()
    assert free and held and others_can_lock()
    assert compiles() == COMPILED


HOLDER = """
import fcntl, os, sys
os.makedirs(sys.argv[1], mode=0o700)
file = open(sys.argv[1] + "/kernels.lock", "w")
fcntl.lockf(file, fcntl.LOCK_EX)                   # every byte: the lock of every function and file
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def waiting(monkeypatch):
    """Call two functions, in a time that passes only while waiting: seconds waited."""
    clock = [0.0]
    monkeypatch.setattr(cache, "LOCK_MESSAGE_S", 2.0)
    monkeypatch.setattr(
        cache,
        "time",
        SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda s: clock.__setitem__(0, clock[0] + s)),
    )

    def wait():
        clock[0] = 0.0
        assert compiles(NAME, OTHER) == (2, [])
        return clock[0]

    return wait


@posix
def test_a_lock_that_stays_held_is_waited_for_once(folder, waiting, capfd):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-Sc", HOLDER, str(folder)], **pipes) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            assert 59 < waiting() < 61
        finally:
            holder.kill()
    (said,) = capfd.readouterr().err.splitlines()
    assert "another process" in said
    only_file(folder).unlink()
    assert waiting() == 0 and capfd.readouterr().err == ""  # its holder was killed


@posix
def test_no_waiting_where_there_are_no_locks(waiting, monkeypatch):
    def lockf(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(cache.fcntl, "lockf", lockf)
    assert waiting() == 0


@posix
@pytest.mark.parametrize("obstacle", [None, "program", "one core", "other helper", "warm", "asked"])
def test_a_helper_process_starts_where_there_is_a_core_for_it(obstacle, folder, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: started.append(command))
    monkeypatch.setattr(parallel_compile.atexit, "register", lambda *_: None)
    monkeypatch.setattr(parallel_compile, "_asked", set())
    monkeypatch.setattr(library.NativeFunctionHandle, "is_cached", lambda function, dtype: obstacle == "warm")
    monkeypatch.setattr(parallel_compile, "n_cores", lambda: 1 if obstacle == "one core" else 2)
    if obstacle == "program":
        monkeypatch.setattr(sys, "executable", "/opt/program")
    lock = parallel_compile._lock() if obstacle == "other helper" else None
    functions = [native_function("elementwise.forward.relu"), custom.UserFunction(increment, "i")]
    functions.append(native_function(FUNCTIONS[GEMM]))
    for _ in range(2 if obstacle == "asked" else 1):
        parallel_compile.start_compile_helper(functions, np.dtype("float32"))
    if lock is not None:
        os.close(lock)
    assert len(started) == (obstacle in (None, "asked"))
    for command in started:  # from the last function, without those of users
        assert f"work({['dense.gemm', 'elementwise.forward.relu']!r}, 'float32')" in command[-1]


def test_a_helper_process_compiles_functions_by_name(monkeypatch):
    """Here without a process: the code that it runs."""
    done, names = [], ["elementwise.forward.softsign", "optimizers.update_slice.lion"]
    monkeypatch.setattr(Library, "address", lambda functions, name: done.append((name, functions._dtype.name)))
    parallel_compile.work(names, "float32")
    assert done == [(name, "float32") for name in names]


# ------------------------------------------------------------------ processes over a copy of the package

PRELUDE = """
import json, sys, warnings
import numpy as np
caught = warnings.catch_warnings(record=True)
warned = caught.__enter__()
warnings.simplefilter("always")
import fastbp
from fastbp import kernels
from fastbp.kernels import cache, library

compiled, compile_one = [], library.Library._compile
library.Library._compile = lambda functions, name: (compiled.append(name), compile_one(functions, name))

def column_sums():
    out = np.empty(2)
    kernels.bias_gradient(np.arange(6.0).reshape(3, 2), out)
    return out.tolist()

def train():
    net = fastbp.Network([6, 5, 3], ["tanh", "softmax"], loss="cross_entropy", seed=0, dtype="float32")
    X, Y = np.random.default_rng(0).normal(size=(30, 6)), np.arange(30) % 3
    fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=7, seed=0).fit(X, Y, epochs=2)
    return net.parameters.tobytes().hex()

def is_compiled(dtype):
    return fastbp.Network([6, 5, 3], ["tanh", "softmax"], loss="cross_entropy", dtype=dtype)._backend.is_compiled()

def answer(**values):
    print(json.dumps({**values, "warnings": [str(w.message) for w in warned]}))
"""
SUMS = [6.0, 9.0]


@pytest.fixture
def package(tmp_path):
    """A copy of fastbp, with its kernels, in a folder to import it from."""
    return copy_package(tmp_path / "package").parent


def start(package, code, **environment):
    """Start a process; the cache folder is `cache` beside the package."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=package,
        env={
            **os.environ,
            "PYTHONPATH": str(package),
            "NUMBA_CACHE_DIR": str(package.parent / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, f"ended with {process.returncode}: {errors[-3000:]}"
    return json.loads(output)


def run(*arguments, **environment):
    """What the code answers."""
    return finish(start(*arguments, **environment))


def test_processes_that_start_together_compile_once(package, folder):
    code = "answer(sums=column_sums(), compiled=compiled, where=kernels.__file__)"
    processes = [start(package, code) for _ in range(2)]
    answers = [finish(process) for process in processes]
    assert all(answer["sums"] == SUMS and answer["warnings"] == [] for answer in answers)
    assert [name for answer in answers for name in answer["compiled"]] == ["dense.bias_gradient"]
    assert list(entries(only_file(folder))) == ["dense.bias_gradient"]
    assert all(answer["where"].startswith(str(package)) for answer in answers)  # the copy is what runs


@posix
def test_a_package_that_was_used_holds_what_was_installed(package, tmp_path):
    """Pip removes what it installed: a folder that holds more stays, and Python imports it, empty, as `fastbp`."""
    before = sorted(package.rglob("*"))
    assert run(package, "answer(sums=column_sums())", NUMBA_CACHE_DIR="") == {"sums": SUMS, "warnings": []}
    assert sorted(package.rglob("*")) == before
    assert len(list((tmp_path / "user").rglob(f"*{library.SUFFIX}"))) == 1


@exhaustive
def test_an_edit_of_another_file_is_noticed(package, folder):
    code = """
out = np.empty((1, 2))
kernels.huber_derivative(np.array([[9.0, -9.0]]), np.zeros((1, 2)), 1.0, out)
correct = np.zeros((3, 2), np.int64)
kernels.class_counts(np.eye(2), np.eye(2), correct)
answer(out=out.tolist(), correct=correct.tolist(), compiled=compiled)
"""
    wanted = {"out": [[1.0, -1.0]], "correct": [[1, 1]] * 3, "warnings": []}
    huber, counts = "losses.huber_derivative", "metrics.class_counts"
    assert run(package, code) == {**wanted, "compiled": [huber, counts]}
    assert run(package, code) == {**wanted, "compiled": []}
    path = package / "fastbp" / "kernels" / "elementwise.py"
    source = path.read_text()
    edited = source.replace("    return where(x > high, high, x)\n", "    return where(x > high, high, x) * 3.0\n")
    assert edited != source
    path.write_text(edited)  # `_clamp`, which losses.py compiles into huber_derivative; metrics.py does not import it
    assert run(package, code) == {**wanted, "out": [[3.0, -3.0]], "compiled": [huber]}
    path.write_text(source)
    assert run(package, code) == {**wanted, "compiled": []}
    assert len(files(folder)) == 2


@exhaustive
def test_flags_of_the_environment_are_noticed(package, folder):
    environments = {}, {"NUMBA_BOUNDSCHECK": "1"}, {"NUMBA_CPU_NAME": "generic"}, {"NUMBA_OPT": "1"}
    for n, environment in enumerate(environments, start=1):
        for _ in range(2):
            assert run(package, "answer(sums=column_sums())", **environment)["sums"] == SUMS
            assert len(files(folder)) == n


@exhaustive
def test_processes_that_train_together_on_a_cold_cache_compile_once(package, folder):
    code = """
before = is_compiled("float32")
answer(before=before, parameters=train(), after=[is_compiled("float32"), is_compiled("float64")], compiled=compiled)
"""
    processes = [start(package, code) for _ in range(8)]
    answers = [finish(process) for process in processes]
    for answer in answers:
        assert answer["warnings"] == [] and answer["after"] == [True, False]
        assert answer["parameters"] == answers[0]["parameters"]
    compiled = [name for answer in answers for name in answer["compiled"]]
    assert len(compiled) == len(set(compiled))  # one compiled each, or a helper; the others waited
    path = only_file_of(folder, "float32")
    assert {"training.train_in_blocks", "dense.gemm"} <= set(entries(path)) and len(files(folder)) == 1
    content = path.read_bytes()
    assert run(package, code) == {**answers[0], "before": True, "compiled": []}
    assert path.read_bytes() == content


@exhaustive
@posix
@pytest.mark.skipif(cores.n_cores() < 2, reason="needs a second core")
def test_a_helper_process_compiles_for_the_first_training(package, folder):
    code = """
import subprocess
helpers = []

class Recorded(subprocess.Popen):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        helpers.append(self)

subprocess.Popen = Recorded
train()
answer(codes=[helper.wait() for helper in helpers])
"""
    cold, warm = (run(package, code) for _ in range(2))
    assert cold == {"codes": [0], "warnings": []} and warm == {"codes": [], "warnings": []}
    assert "training.evaluate" in entries(only_file_of(folder, "float32"))  # training alone does not evaluate
