"""The disk cache: edits are noticed, damage is repaired, only the user's own files are read, processes share entries.

Most tests call a tiny kernel through new dispatchers in this process, which look into the cache as new processes do.
The others run processes over a copy of the package, with a cache folder of their own.
"""

import functools
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import warnings
from collections import Counter
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastbp.kernels import backprop, cache, cores, elementwise, jit, native, parallel_compile
from fastbp.kernels.layout import GEMM
from numba.core import config
from numba.core.errors import NumbaError
from shared import copy_package

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no file locks, owners and permissions")
exhaustive = pytest.mark.exhaustive


def increment(x, out):
    for i in range(x.size):
        out[i] = x[i] + 1


def forget():
    """Forget what this process knows about its cache folder, as a new process would."""
    cache.cache_folder.cache_clear()
    cache.source_hash.cache_clear()
    cache.Lock._file.cache_clear()
    cache.KernelCache._has_warned = cache.Lock._has_printed = cache.Lock._has_timed_out = False


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache folder for this process, and homes of which nothing is used before it."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "user"))
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "user" / "cache"))
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "fastbp"
    monkeypatch.undo()
    forget()


def compiles():
    """Call the kernel as a new process would; return whether it was compiled, and the warnings."""
    forget()
    kernel, out = jit.kernel(increment), np.empty(3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kernel(np.arange(3.0), out)
    assert out.tolist() == [1, 2, 3]
    return bool(sum(kernel.stats.cache_misses.values())), [str(warning.message) for warning in caught]


COMPILED, LOADED = (True, []), (False, [])


def files(folder):
    """Names of the files in a cache folder, without those of locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def entry(folder):
    """The one compiled kernel in a cache folder."""
    (path,) = folder.glob("*.nbc")
    return path


# ------------------------------------------------------------------ what makes an entry


def test_an_edit_of_any_kernel_file_is_noticed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_HERE", Path(shutil.copytree(cache._HERE, tmp_path / "kernels")))
    assert compiles() == COMPILED and compiles() == LOADED
    paths, hashes = list((tmp_path / "kernels").glob("*.py")), set()
    assert {"simd.py", "elementwise.py"} < {path.name for path in paths}
    for path in paths:
        source = path.read_text()
        path.write_text(source + "\n")
        cache.source_hash.cache_clear()
        hashes.add(cache.source_hash())
        path.write_text(source)
    assert len(hashes) == len(paths)
    paths[0].write_text(source := paths[0].read_text() + "\n")
    assert compiles() == COMPILED and len(files(folder)) == 2
    paths[0].write_text(source[:-1])
    assert compiles() == LOADED


@pytest.mark.parametrize(
    "name, value",
    [
        ("numba.core.config.BOUNDSCHECK", 1),
        ("numba.core.config.OPT", config._OptLevel(1)),
        ("numba.core.config.DEBUGINFO_DEFAULT", 1),
        ("numba.__version__", "9"),
        ("llvmlite.__version__", "9"),
        ("sys.version_info", (3, 99)),
    ],
)
def test_flags_and_versions_are_part_of_the_name(name, value, monkeypatch):
    def path(magic="processor"):
        return cache.KernelCache(increment).path((), SimpleNamespace(magic_tuple=lambda: magic))

    before = path()
    assert before == path() and path("another") != before
    monkeypatch.setattr(name, value)
    assert path() != before


def test_native_functions_are_kept_on_disk(folder):
    def function(expression="a module"):
        return native.NativeFunction(increment_pointer, "pi", "increment_pointer", expression)

    first, dtype = function(), np.dtype("float32")
    assert not first.is_cached(dtype)
    first.address(dtype)
    assert first.is_cached(dtype) and function().is_cached(dtype) and not function().is_cached(np.dtype("float64"))
    assert not function(None).is_cached(dtype)  # custom functions are not kept
    assert entry(folder).name.startswith("fastbp-increment_pointer-")


def increment_pointer(p, n):
    pass


# ------------------------------------------------------------------ damage, failures, folders


def test_damaged_files_are_compiled_again(folder):
    compiles()
    path = entry(folder)
    whole = path.read_bytes()
    wrong = [bytearray(whole) for _ in range(8)]
    for k, data in enumerate(wrong):
        data[(len(data) - 1) * k // 7] ^= 0x10
    for damaged in (b"", whole[: len(whole) // 2], b"nonsense" * 999, *wrong):
        path.write_bytes(damaged)
        was_compiled, said = compiles()
        assert was_compiled and len(said) > 0 and all(path.name in words and "damaged" in words for words in said)
        assert entry(folder) == path and path.read_bytes() != damaged and compiles() == LOADED


def test_a_failed_save_warns_and_leaves_nothing(folder, monkeypatch):
    def no_space(*_):
        raise OSError("no space left")

    monkeypatch.setattr(cache.os, "replace", no_space)
    was_compiled, (said,) = compiles()
    assert was_compiled and "no space left" in said and files(folder) == []


def test_files_of_killed_writers_are_removed_and_names_are_random(folder, monkeypatch):
    names, replace = [], os.replace
    monkeypatch.setattr(cache.os, "replace", lambda source, target: (names.append(source), replace(source, target)))
    compiles()
    path = entry(folder)
    path.unlink()
    for name in (f"{path.name}.left.tmp", "fastbp-other-0.nbc.left.tmp"):
        path.with_name(name).write_bytes(b"unfinished")
    assert compiles() == COMPILED
    assert len(set(names)) == 2  # one kernel of one process under two temporary names
    assert files(folder) == sorted([path.name, "fastbp-other-0.nbc.left.tmp"])


@pytest.mark.parametrize("is_windows", [True, False])
def test_files_in_use_are_ignored_on_windows_only(is_windows, folder, monkeypatch):
    """There, a file that is open cannot be replaced, nor one opened that is being replaced."""

    def in_use(*arguments, **options):
        raise PermissionError(13, "The process cannot access the file because it is being used by another process")

    compiles()
    before = files(folder)
    monkeypatch.setattr(cache.os, "replace", in_use)
    monkeypatch.setattr(cache, "open_beside", in_use)
    monkeypatch.setattr(cache, "_WINDOWS", is_windows)
    was_compiled, said = compiles()
    assert was_compiled and (said == []) == is_windows and files(folder) == before


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
    assert len(list((tmp_path / "user").rglob("fastbp-increment-*.nbc"))) == 1 and not beside.exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert compiles() == COMPILED and compiles() == LOADED
    assert entry(beside)
    shutil.rmtree(beside.parent)
    beside.parent.write_text("a file in place of the last folder")
    was_compiled, (said,) = compiles()
    assert was_compiled and str(tmp_path / "file") in said and "no folder" in said


# ------------------------------------------------------------------ whose the files are


@pytest.fixture
def planted(folder, tmp_path):
    """A cache with code in place of a kernel, and a function that tells whether the code runs, and the warnings."""
    compiles()
    ran = tmp_path / "ran"
    content = pickle.dumps(Planted(ran))
    entry(folder).write_bytes(sha256(content).digest() + content)

    def runs():
        _, said = compiles()
        was_run = ran.exists()
        ran.unlink(missing_ok=True)
        return was_run, said

    return runs


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_files_of_the_cache_are_executed(planted):
    """So the tests below would find code that was planted: here the file is the user's own."""
    was_run, said = planted()
    assert was_run and any("damaged" in warning for warning in said)  # code, but no kernel


@posix
@pytest.mark.parametrize("mode", [0o720, 0o702])
@pytest.mark.parametrize("which", ["folder", "file"])
def test_files_that_others_can_write_are_not_read(which, mode, planted, folder, tmp_path):
    path = entry(folder)
    unsafe = path if which == "file" else folder
    unsafe.chmod(mode)
    was_run, (said,) = planted()
    assert not was_run and "can be written by other users" in said and str(unsafe) in said
    if which == "folder":  # the next one is used instead
        assert len(list((tmp_path / "user").rglob("fastbp-increment-*.nbc"))) == 1
        was_compiled, said = compiles()
        assert not was_compiled and len(said) == 1
    else:
        assert path.stat().st_mode & 0o777 == 0o600 and compiles() == LOADED  # a new file


@posix
@pytest.mark.parametrize("which", ["file", "folder"])
def test_files_of_another_user_are_not_read(which, planted, folder, monkeypatch):
    """To a process of another user, this user's files are another's."""
    user = os.geteuid()
    monkeypatch.setattr(cache.os, "geteuid", lambda: user + 1)
    if which == "file":
        monkeypatch.setattr(cache, "cache_folder", functools.cache(lambda: folder))
    was_run, said = planted()
    assert not was_run and "belongs to user" in said[0]


@posix
@pytest.mark.parametrize("which", ["file", "folder"])
def test_symbolic_links_are_not_followed(which, planted, folder, tmp_path):
    link = entry(folder) if which == "file" else folder
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    was_run, said = planted()
    assert not was_run and len(set(said)) == 1 and "symbolic link" in said[0]


@posix
@pytest.mark.parametrize("numba_dir, xdg", [("", ""), ("", "cache"), ("cache", None)])
def test_the_current_folder_is_no_cache(numba_dir, xdg, planted, tmp_path, monkeypatch):
    shutil.copytree(tmp_path / "cache" / "fastbp", tmp_path / "fastbp")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "CACHE_DIR", numba_dir)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    was_run, said = planted()
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
    assert len(modes) == 2 and set(modes.values()) == {0o600}  # the kernel and the lock file


# ------------------------------------------------------------------ threads and processes


def test_threads_of_one_process_start_together(folder):
    errors, values = [], np.linspace(-1, 1, 8)
    for _ in range(3):
        kernel, start = jit.kernel(increment), threading.Barrier(6)

        def work(kernel=kernel, start=start):
            try:
                start.wait()
                kernel(values, np.empty(8))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entry(folder).unlink()
    assert errors == []


@posix
def test_a_failed_compile_releases_the_lock(folder):
    with pytest.raises(NumbaError):
        jit.kernel(increment)("no", "arrays")
    path = str(folder / "kernels.lock")
    code = f"import fcntl; fcntl.lockf(open({path!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"

    def others_can_lock():
        return subprocess.run([sys.executable, "-Sc", code], stderr=subprocess.DEVNULL).returncode == 0

    lock = cache.Lock.acquire("any")
    held = others_can_lock()
    lock.release()
    assert (held, others_can_lock()) == (False, True)
    assert compiles() == COMPILED


HOLDER = """
import fcntl, os, sys
os.makedirs(sys.argv[1], mode=0o700)
file = open(sys.argv[1] + "/kernels.lock", "w")
fcntl.lockf(file, fcntl.LOCK_EX)                   # every byte: the lock of every kernel
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def waiting(monkeypatch):
    """Call three kernels, in a time that passes only while waiting: seconds waited."""
    clock = [0.0]
    monkeypatch.setattr(cache, "LOCK_MESSAGE_S", 2.0)
    monkeypatch.setattr(
        cache,
        "time",
        SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda s: clock.__setitem__(0, clock[0] + s)),
    )

    def wait():
        forget()
        clock[0] = 0.0
        for dtype in (np.float32, np.float64):
            kernel, out = jit.kernel(increment), np.empty(3, dtype)
            kernel(np.arange(3, dtype=dtype), out)
            assert out.tolist() == [1, 2, 3]
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
    for path in folder.glob("*.nbc"):
        path.unlink()
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
    monkeypatch.setattr(parallel_compile.subprocess, "Popen", lambda command, **options: started.append(command))
    monkeypatch.setattr(parallel_compile.atexit, "register", lambda *_: None)
    monkeypatch.setattr(parallel_compile, "_asked", set())
    monkeypatch.setattr(native.NativeFunction, "is_cached", lambda function, dtype: obstacle == "warm")
    monkeypatch.setattr(parallel_compile, "n_cores", lambda: 1 if obstacle == "one core" else 2)
    if obstacle == "program":
        monkeypatch.setattr(sys, "executable", "/opt/program")
    lock = parallel_compile._lock() if obstacle == "other helper" else None
    functions = [elementwise.forward("relu"), backprop.FUNCTIONS[GEMM]]
    for _ in range(2 if obstacle == "asked" else 1):
        parallel_compile.start_compile_helper(functions, np.dtype("float32"))
    if lock is not None:
        os.close(lock)
    assert len(started) == (obstacle in (None, "asked"))


def test_a_helper_process_compiles_from_the_last_function(folder):
    """Here without a process: the code that it runs."""
    done = []
    expressions = [elementwise.forward(name).expression for name in ("softsign", "hard_tanh")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native.NativeFunction, "address", lambda function, dtype: done.append((function.name, dtype)))
        parallel_compile.work(expressions, "float32")
    assert [name for name, _ in done] == [elementwise.forward(name).name for name in ("softsign", "hard_tanh")]
    assert {dtype for _, dtype in done} == {np.dtype("float32")}


# ------------------------------------------------------------------ processes over a copy of the package

PRELUDE = """
import json, sys, warnings
import numpy as np
caught = warnings.catch_warnings(record=True)
warned = caught.__enter__()
warnings.simplefilter("always")
import fastbp
from fastbp import kernels
from fastbp.kernels import cache, training

def column_sums():
    out = np.empty(2)
    kernels.bias_gradient(np.arange(6.0).reshape(3, 2), out)
    return out.tolist()

def train():
    net = fastbp.Network([6, 5, 3], ["tanh", "softmax"], loss="cross_entropy", seed=0, dtype="float32")
    X, Y = np.random.default_rng(0).normal(size=(30, 6)), np.arange(30) % 3
    fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=7, seed=0).fit(X, Y, epochs=2)
    return net.parameters.tobytes().hex()

def compiled(dtype):
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
    code = """
sums = column_sums()
answer(sums=sums, compiles=sum(kernels.bias_gradient.stats.cache_misses.values()), where=kernels.__file__)
"""
    processes = [start(package, code) for _ in range(2)]
    answers = [finish(process) for process in processes]
    assert all(answer["sums"] == SUMS and answer["warnings"] == [] for answer in answers)
    assert sum(answer["compiles"] for answer in answers) == 1 and len(files(folder)) == 1
    assert all(answer["where"].startswith(str(package)) for answer in answers)  # the copy is what runs


@posix
def test_a_package_that_was_used_holds_what_was_installed(package, tmp_path):
    """Pip removes what it installed: a folder that holds more stays, and Python imports it, empty, as `fastbp`."""
    before = sorted(package.rglob("*"))
    assert run(package, "answer(sums=column_sums())", NUMBA_CACHE_DIR="") == {"sums": SUMS, "warnings": []}
    assert sorted(package.rglob("*")) == before
    assert len(list((tmp_path / "user").rglob("fastbp-bias_gradient-*.nbc"))) == 1


@exhaustive
def test_an_edit_of_another_file_is_noticed(package, folder):
    code = """
out = np.empty((1, 2))
kernels.huber_derivative(np.array([[9.0, -9.0]]), np.zeros((1, 2)), 1.0, out)
answer(out=out.tolist(), sums=column_sums())
"""
    wanted = {"out": [[1.0, -1.0]], "sums": SUMS, "warnings": []}
    assert run(package, code) == wanted
    first = files(folder)
    assert len(first) == 2
    assert run(package, code) == wanted
    assert files(folder) == first
    path = package / "fastbp" / "kernels" / "elementwise.py"
    source = path.read_text()
    edited = source.replace("    return where(x > high, high, x)\n", "    return where(x > high, high, x) * 3.0\n")
    assert edited != source
    path.write_text(edited)  # `_clamp`, which losses.py compiles into huber_derivative
    assert run(package, code) == {**wanted, "out": [[3.0, -3.0]]}
    assert len(files(folder)) == 4 and set(first) < set(files(folder))
    path.write_text(source)
    assert run(package, code) == wanted
    assert len(files(folder)) == 4


@exhaustive
def test_flags_of_the_environment_are_noticed(package, folder):
    environments = {}, {"NUMBA_BOUNDSCHECK": "1"}, {"NUMBA_CPU_NAME": "generic"}, {"NUMBA_OPT": "1"}
    for n, environment in enumerate(environments, start=1):
        assert run(package, "answer(sums=column_sums())", **environment)["sums"] == SUMS
        assert len(files(folder)) == n


@exhaustive
def test_processes_that_train_together_on_a_cold_cache_compile_once(package, folder):
    code = """
before = compiled("float32")
answer(before=before, parameters=train(), after=[compiled("float32"), compiled("float64")],
       compiles=1 - training.train_in_blocks._cfunc(np.dtype("float32")).cache_hits)
"""
    processes = [start(package, code) for _ in range(8)]
    answers = [finish(process) for process in processes]
    for answer in answers:
        assert answer["warnings"] == [] and answer["after"] == [True, False]
        assert answer["parameters"] == answers[0]["parameters"]
    assert sum(answer["compiles"] for answer in answers) <= 1  # one compiled it, or its helper; the others waited
    counts = Counter(re.fullmatch(r"fastbp-(\w+)-[0-9a-f]+\.nbc", name).group(1) for name in files(folder))
    assert {"train_in_blocks", "gemm"} <= set(counts) and set(counts.values()) == {1}
    assert run(package, code) == {**answers[0], "before": True, "compiles": 0}
    assert sum(counts.values()) == len(files(folder))


@exhaustive
@posix
@pytest.mark.skipif(cores.n_cores() < 2, reason="needs a second core")
def test_a_helper_process_compiles_for_the_first_training(package):
    code = """
import subprocess
helpers = []

class Recorded(subprocess.Popen):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        helpers.append(self)

subprocess.Popen = Recorded
train()
codes = [helper.wait() for helper in helpers]
answer(codes=codes, evaluates=len(list(cache.cache_folder().glob("fastbp-evaluate-*"))))
"""
    cold, warm = (run(package, code) for _ in range(2))
    assert cold == {"codes": [0], "evaluates": 1, "warnings": []}  # training alone does not evaluate
    assert warm == {"codes": [], "evaluates": 1, "warnings": []}
