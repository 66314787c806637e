"""Machine code kept on disk: edits are noticed, damage is mended, only one's own is read, processes get on.

Every test runs processes of their own over a copy of the package, with a cache folder of their own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fastbp.kernels
import pytest
from fastbp.kernels import cores

import fastbp

PRELUDE = """
import json, sys, warnings
import numpy as np
caught = warnings.catch_warnings(record=True)
warned = caught.__enter__()
warnings.simplefilter("always")
from fastbp import engine, kernels
from fastbp.kernels import cache, jit, native

def updated():
    parameters = np.ones(5)
    kernels.sgd(np.arange(5.0), 0.5, parameters)
    return parameters.tolist()

def answer(**values):
    print(json.dumps({**values, "warnings": [str(w.message) for w in warned]}))
"""
UPDATED = [1.0, 0.5, 0.0, -0.5, -1.0]


def copy_of_package(folder):
    """Copy fastbp, with its kernels, into a folder to import it from."""
    ignore = shutil.ignore_patterns("__pycache__", "*.nbc")
    shutil.copytree(Path(fastbp.__file__).parent, folder / "fastbp", ignore=ignore)
    shutil.copytree(
        Path(fastbp.kernels.__file__).parent, folder / "fastbp" / "kernels", ignore=ignore, dirs_exist_ok=True
    )
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return copy_of_package(tmp_path_factory.mktemp("package"))


def start(package, cache, code, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=package,
        env={
            **os.environ,
            "PYTHONPATH": str(package),
            "NUMBA_CACHE_DIR": str(cache),
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


def files(cache):
    """Names of the files in the cache folder, but for locks; one may stay where a process was killed."""
    return sorted(path.name for path in (cache / "fastbp").iterdir() if path.suffix != ".lock")


def test_copy_is_what_runs(package, tmp_path):
    assert run(package, tmp_path, "answer(where=kernels.__file__)")["where"].startswith(str(package))


def test_an_edit_of_any_kernel_file_is_noticed(tmp_path):
    package, cache = copy_of_package(tmp_path / "package"), tmp_path / "cache"
    code = """
out = np.empty((1, 2))
kernels.huber_derivative(np.array([[9.0, -9.0]]), np.zeros((1, 2)), 1.0, out)
answer(out=out.tolist(), updated=updated())
"""
    wanted = {"out": [[1.0, -1.0]], "updated": UPDATED, "warnings": []}
    assert run(package, cache, code) == wanted
    first = files(cache)
    assert len(first) == 2
    assert run(package, cache, code) == wanted
    assert files(cache) == first
    path = package / "fastbp" / "kernels" / "elementwise.py"
    source = path.read_text()
    edited = source.replace("    return where(x > high, high, x)\n", "    return where(x > high, high, x) * 3.0\n")
    assert edited != source
    path.write_text(edited)  # `_clamp`, which losses.py compiles into huber_derivative
    assert run(package, cache, code) == {**wanted, "out": [[3.0, -3.0]]}
    assert len(files(cache)) == 4 and set(first) < set(files(cache))
    path.write_text(source)
    assert run(package, cache, code) == wanted
    assert len(files(cache)) == 4


def test_compile_flags_are_noticed(package, tmp_path):
    code = "answer(updated=updated())"
    environments = {}, {"NUMBA_BOUNDSCHECK": "1"}, {"NUMBA_CPU_NAME": "generic"}, {"NUMBA_OPT": "1"}
    for n, environment in enumerate(environments, start=1):
        assert run(package, tmp_path, code, **environment)["updated"] == UPDATED
        assert len(files(tmp_path)) == n


def test_damaged_files_are_compiled_again(package, tmp_path):
    code = "answer(updated=updated())"
    run(package, tmp_path, code)
    (name,) = files(tmp_path)
    path = tmp_path / "fastbp" / name
    whole = path.read_bytes()
    for case, damaged in {"empty": b"", "half": whole[: len(whole) // 2], "nonsense": b"nonsense" * 999}.items():
        path.write_bytes(damaged)
        answer = run(package, tmp_path, code)
        assert answer["updated"] == UPDATED, case
        assert len(set(answer["warnings"])) == 1 and name in answer["warnings"][0], (case, answer["warnings"])
        assert files(tmp_path) == [name] and path.read_bytes() != damaged, case
        assert run(package, tmp_path, code)["warnings"] == []


def test_a_wrong_byte_is_found(package, tmp_path):
    code = """
updated()
(path,) = cache.cache_folder().glob("*.nbc")
results = []
for k in range(16):
    data = bytearray(path.read_bytes())
    data[len(data) * k // 15 - (k > 0)] ^= 0x10
    path.write_bytes(data)
    del warned[:]
    parameters = np.ones(5)
    jit.kernel(kernels.sgd.py_func)(np.arange(5.0), 0.5, parameters)
    results.append([parameters.tolist(), len(warned) > 0, path.read_bytes() != data])
answer(results=results)
"""
    assert run(package, tmp_path, code)["results"] == [[UPDATED, True, True]] * 16


TRAIN = """
import fastbp
from fastbp.kernels import training

def compiled():
    is_sgd = len(list(cache.cache_folder().glob("fastbp-sgd-*.nbc"))) > 0
    return is_sgd, backend.is_compiled("float32"), backend.is_compiled("float64")

def train():
    net = fastbp.Network([6, 5, 3], ["tanh", "softmax"], loss="cross_entropy", seed=0, dtype="float32")
    X, Y = np.random.default_rng(0).normal(size=(30, 6)), np.arange(30) % 3
    fastbp.Trainer(net, fastbp.SGD(0.1), batch_size=7, seed=0).fit(X, Y, epochs=2)
    return net.parameters.tobytes().hex()
"""


def test_eight_processes_start_on_a_cold_cache(package, tmp_path):
    assert run(package, tmp_path, TRAIN + "answer(compiled=compiled())")["compiled"] == [False] * 3
    assert files(tmp_path) == []
    code = (
        TRAIN
        + """
answer(before=compiled(), parameters=train(), updated=updated(), after=compiled(),
       compiles=[sum(kernels.sgd.stats.cache_misses.values()),
                 1 - training.train_in_blocks._cfunc(np.dtype("float32")).cache_hits])
"""
    )
    processes = [start(package, tmp_path, code) for _ in range(8)]
    answers = [finish(process) for process in processes]
    for answer in answers:
        assert answer["updated"] == UPDATED and answer["warnings"] == [] and answer["after"] == [True, True, False]
        assert answer["parameters"] == answers[0]["parameters"]
    of_sgd, of_training = zip(*(answer["compiles"] for answer in answers), strict=True)
    assert sum(of_sgd) == 1 and sum(of_training) <= 1  # one compiled, or its helper, and the others waited for it
    counts = Counter(re.fullmatch(r"fastbp-(\w+)-[0-9a-f]+\.nbc", name).group(1) for name in files(tmp_path))
    assert {"train_in_blocks", "multiply", "sgd"} <= set(counts) and set(counts.values()) == {1}
    assert run(package, tmp_path, code) == {**answers[0], "before": [True, True, False], "compiles": [0, 0]}
    assert sum(counts.values()) == len(files(tmp_path))


def home(folder):
    """The environment of a user whose folders lie in this one, and who has not said where compiled kernels go."""
    return {
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "LOCALAPPDATA": str(folder / "cache"),
        "USERPROFILE": str(folder),
    }


@pytest.mark.skipif(os.name == "nt", reason="Windows does not take the user's folder from the environment")
def test_no_folder_can_be_written(tmp_path):
    package = copy_of_package(tmp_path / "package")
    (package / "file").write_text("a file where folders are looked for")
    (package / "fastbp" / "kernels" / "__pycache__").write_text("another")
    here = str(package / "file")
    code = """
values = updated()
out = np.empty((1, 1))
kernels.exp(np.zeros((1, 1)), out)
answer(updated=values, exp=out.tolist(), cached=backend.is_compiled("float32"))
"""
    answer = run(package, here, code, **home(package / "file"))
    assert answer["updated"] == UPDATED and answer["exp"] == [[1.0]] and answer["cached"] is False
    assert len(answer["warnings"]) == 1 and here in answer["warnings"][0]


@pytest.mark.skipif(os.name == "nt", reason="Windows does not take the user's folder from the environment")
def test_the_next_folder_is_used_where_one_cannot_be_written(tmp_path):
    package = copy_of_package(tmp_path / "package")
    beside = package / "fastbp" / "kernels" / "__pycache__"
    (package / "file").write_text("a file where a folder is looked for")
    code, wanted = "answer(updated=updated())", {"updated": UPDATED, "warnings": []}
    assert run(package, package / "file", code, **home(tmp_path / "user")) == wanted
    assert len(list((tmp_path / "user").rglob("fastbp-sgd-*.nbc"))) == 1 and not beside.exists()
    assert run(package, package / "file", code, **home(package / "file")) == wanted
    assert len(list((beside / "fastbp").glob("fastbp-sgd-*.nbc"))) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows does not take the user's folder from the environment")
def test_a_package_that_was_used_holds_what_was_installed(tmp_path):
    """Pip takes out what it put in: a folder that keeps more stays, and Python imports it, empty, as `fastbp`."""
    package = copy_of_package(tmp_path / "package")
    before = sorted(package.rglob("*"))
    assert run(package, "", TRAIN + "answer(trained=len(train()) > 0)", **home(tmp_path / "user"))["trained"]
    assert sorted(package.rglob("*")) == before
    assert len(list((tmp_path / "user").rglob("fastbp-*.nbc"))) > 1


def test_a_failed_save_is_said_and_leaves_nothing(package, tmp_path):
    code = """
import os
def no_space(*_):
    raise OSError("no space left")
cache.os.replace = no_space
answer(updated=updated())
"""
    answer = run(package, tmp_path, code)
    assert answer["updated"] == UPDATED
    assert len(answer["warnings"]) == 1 and "no space left" in answer["warnings"][0]
    assert files(tmp_path) == []


def test_what_killed_writers_left_is_cleared_and_names_are_not_foreseen(package, tmp_path):
    code = """
import os
names, replace = [], os.replace
cache.os.replace = lambda source, target: (names.append(os.path.basename(source)), replace(source, target))
updated()
(path,) = cache.cache_folder().glob("*.nbc")
path.unlink()
for name in (f"{path.name}.left.tmp", "fastbp-other-0.nbc.left.tmp"):
    path.with_name(name).write_bytes(b"unfinished")
jit.kernel(kernels.sgd.py_func)(np.arange(5.0), 0.5, np.ones(5))
answer(n=len(set(names)), new=[path.name, "fastbp-other-0.nbc.left.tmp"])
"""
    answer = run(package, tmp_path, code)
    assert answer["n"] == 2 and answer["warnings"] == []  # one kernel of one process under two temporary names
    assert files(tmp_path) == sorted(answer["new"])


def test_files_in_use_are_no_news_on_windows(package, tmp_path):
    """There, a file that is open cannot be replaced, nor one opened that is being replaced."""
    code = "answer(updated=updated())"
    assert run(package, tmp_path, code)["updated"] == UPDATED
    (name,) = files(tmp_path)
    code = (
        """
def in_use(*arguments, **options):
    raise PermissionError(13, "The process cannot access the file because it is being used by another process")
cache.os.replace = cache.open_beside = in_use
cache._WINDOWS = %s
"""
        + code
    )
    assert run(package, tmp_path, code % "True") == {"updated": UPDATED, "warnings": []}
    assert len(run(package, tmp_path, code % "False")["warnings"]) > 1  # elsewhere they are
    assert files(tmp_path) == [name]


# ------------------------------------------------------------------ whose the files are

PLANT = """
import hashlib, pickle
class Planted:
    def __reduce__(self):
        return open, ({!r}, "w")
updated()
(path,) = cache.cache_folder().glob("*.nbc")
content = pickle.dumps(Planted())
path.write_bytes(hashlib.sha256(content).digest() + content)
answer()
"""
posix = pytest.mark.skipif(os.name == "nt", reason="there are no owners and permissions in a mode on Windows")


@pytest.fixture(scope="module")
def plant(package, tmp_path_factory):
    """Return a cache with code in place of a kernel, and the file that the code writes."""
    cache = tmp_path_factory.mktemp("plant")
    run(package, cache, PLANT.format(str(cache / "ran")))
    return cache / "fastbp", cache / "ran"


@pytest.fixture
def planted(plant, package, tmp_path):
    """Return a cache with the plant in it, and a function that tells whether it runs."""
    cache, (source, ran) = tmp_path / "cache", plant
    shutil.copytree(source, cache / "fastbp")

    def runs(cache=cache, code="", **environment):
        """Whether the planted code ran in a process that needs a kernel, and the warnings."""
        environment = {**home(tmp_path / "user"), **environment}
        answer = run(package, cache, code + "\nanswer(updated=updated())", **environment)
        assert answer["updated"] == UPDATED
        was_run = ran.exists()
        ran.unlink(missing_ok=True)
        return was_run, answer["warnings"]

    return cache, runs


def test_what_lies_in_the_cache_is_run(planted):
    """What the tests below plant would be: here it is the user's own."""
    was_run, warnings = planted[1]()
    assert was_run and any("damaged" in warning for warning in warnings)  # code, but no kernel


@posix
@pytest.mark.parametrize("mode", [0o720, 0o702])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_others_can_write_is_not_read(what, mode, planted, tmp_path):
    cache, runs = planted
    (path,) = (cache / "fastbp").glob("*.nbc")
    (path if what == "file" else path.parent).chmod(mode)
    was_run, warnings = runs()
    assert not was_run and len(warnings) == 1 and "can be written by other users" in warnings[0]
    assert str(path if what == "file" else path.parent) in warnings[0]
    if what == "folder":  # the next one is used instead
        assert len(list((tmp_path / "user").rglob("fastbp-sgd-*.nbc"))) == 1
        assert len(runs()[1]) == 1  # and read
    else:
        assert path.stat().st_mode & 0o777 == 0o600 and runs() == (False, [])  # a new file


@posix
@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_belongs_to_another_user_is_not_read(which, planted):
    """To a process of another user, this user's files are another's."""
    code = "import os\nmine = os.geteuid()\njit.os.geteuid = lambda: mine + 1\n"
    if which == "file":
        code = "cache.cache_folder()\n" + code
    was_run, warnings = planted[1](code=code)
    assert not was_run and "belongs to user" in warnings[0]


@posix
@pytest.mark.parametrize("which", ["file", "folder"])
def test_symbolic_links_are_not_followed(which, planted):
    cache, runs = planted
    (path,) = (cache / "fastbp").glob("*.nbc")
    link = path if which == "file" else path.parent
    link.rename(cache / "elsewhere")
    link.symlink_to(cache / "elsewhere")
    was_run, warnings = runs()
    assert not was_run and len(set(warnings)) == 1 and "symbolic link" in warnings[0]


@pytest.mark.skipif(os.name == "nt", reason="Windows does not take the user's folder from the environment")
@pytest.mark.parametrize("cache, xdg", [("", ""), ("", "cache"), ("cache", None)])
def test_the_current_folder_is_no_cache(cache, xdg, planted, package, tmp_path):
    for folder in (tmp_path, tmp_path / "cache"):
        if not (folder / "fastbp").exists():
            shutil.copytree(tmp_path / "cache" / "fastbp", folder / "fastbp")
    environment = {} if xdg is None else {"XDG_CACHE_HOME": xdg}
    code = "import os; os.chdir(" + repr(str(tmp_path)) + ")"
    was_run, warnings = planted[1](cache, code, **environment)
    assert not was_run and len(warnings) == bool(cache)  # what a user has set is not ignored in silence
    assert all("is not an absolute path" in warning for warning in warnings)


@posix
def test_what_is_made_is_for_its_owner_alone(package, tmp_path):
    cache = tmp_path / "new" / "cache"
    answer = run(package, cache, "import os; os.umask(0); answer(updated=updated())")
    assert answer == {"updated": UPDATED, "warnings": []}
    modes = {path.name: path.stat().st_mode & 0o777 for path in cache.parent.rglob("*")}
    assert cache.parent.stat().st_mode & 0o777 == modes.pop("cache") == modes.pop("fastbp") == 0o700
    assert len(modes) == 2 and set(modes.values()) == {0o600}  # the kernel and the lock file


def test_threads_of_one_process_start_together(package, tmp_path):
    code = """
import threading
errors, values = [], np.linspace(-1, 1, 8).reshape(2, 4)
for name in ("exp", "tanh", "relu", "softsign", "elu"):
    start = threading.Barrier(6)

    def work():
        try:
            start.wait()
            getattr(kernels, name)(values, np.empty((2, 4)))
        except BaseException as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
answer(errors=errors)
"""
    assert run(package, tmp_path, code) == {"errors": [], "warnings": []}
    assert len(files(tmp_path)) == 5


@pytest.mark.skipif(os.name == "nt", reason="there are no file locks on Windows")
def test_a_failed_compile_gives_the_lock_back(package, tmp_path):
    code = """
from numba.core.errors import NumbaError
try:
    kernels.sgd("no", "arrays", "here")
    failed = False
except NumbaError:
    failed = True
import subprocess
path = str(cache.cache_folder() / "kernels.lock")
code = f"import fcntl; fcntl.lockf(open({path!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
def others_can_lock():
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 0
lock = cache.Lock.taken("any")
held = others_can_lock()
lock.give_back()
answer(failed=failed, free=[held, others_can_lock()], updated=updated())
"""
    expected = {"failed": True, "free": [False, True], "updated": UPDATED, "warnings": []}
    assert run(package, tmp_path, code) == expected


HOLDER = """
import fcntl, os, sys
os.makedirs(sys.argv[1], mode=0o700)
file = open(sys.argv[1] + "/kernels.lock", "w")
fcntl.lockf(file, fcntl.LOCK_EX)                   # every byte: the lock of every kernel
print("held", flush=True)
sys.stdin.read()
"""
WAITING = """
import contextlib, io, types
clock = [0.0]
cache.time = types.SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda s: clock.__setitem__(0, clock[0] + s))
out = np.empty((1, 1))
with contextlib.redirect_stderr(io.StringIO()) as said:
    values = updated()
    kernels.exp(np.zeros((1, 1)), out)
    kernels.tanh(np.zeros((1, 1)), out)
answer(updated=values, waited=clock[0], said=said.getvalue().splitlines())
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no file locks on Windows")
def test_a_lock_that_stays_held_is_waited_for_once(package, tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "fastbp")], **pipes) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            held = run(package, tmp_path, WAITING)
        finally:
            holder.kill()
    assert held["updated"] == UPDATED and held["warnings"] == [] and 59 < held["waited"] < 61
    assert len(held["said"]) == 1 and "another process" in held["said"][0]
    for path in (tmp_path / "fastbp").glob("*.nbc"):
        path.unlink()
    free = run(package, tmp_path, WAITING)  # its holder was killed
    assert free == {"updated": UPDATED, "waited": 0.0, "said": [], "warnings": []}


@pytest.mark.skipif(os.name == "nt", reason="there are no file locks on Windows")
def test_no_waiting_where_there_are_no_locks(package, tmp_path):
    code = (
        """
import errno
def lockf(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")
cache.fcntl.lockf = cache.fcntl.flock = lockf
"""
        + WAITING
    )
    assert run(package, tmp_path, code) == {"updated": UPDATED, "waited": 0.0, "said": [], "warnings": []}


HELPED = (
    TRAIN
    + """
import os, subprocess
helpers = []

class Recorded(subprocess.Popen):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        helpers.append(self)

subprocess.Popen = Recorded
"""
)
TRAINED = """
train()
codes = [helper.wait() for helper in helpers]
answer(codes=codes, evaluates=len(list(cache.cache_folder().glob("fastbp-evaluate-*"))))
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no file locks on Windows")
@pytest.mark.skipif(cores.n_cores() < 2, reason="needs a second core")
def test_another_process_compiles_ahead(package, tmp_path):
    cold, warm = (run(package, tmp_path, HELPED + TRAINED) for _ in range(2))
    assert cold == {"codes": [0], "evaluates": 1, "warnings": []}  # training alone does not evaluate
    assert warm == {"codes": [], "evaluates": 1, "warnings": []}


@pytest.mark.skipif(os.name == "nt", reason="there are no file locks on Windows")
@pytest.mark.parametrize(
    "obstacle",
    ["sys.executable = '/opt/program'", "cores.n_cores = lambda: 1", "held = parallel_compile._lock()"],
)
def test_no_other_process_where_there_is_no_place_for_it(obstacle, package, tmp_path):
    code = (
        HELPED
        + """
from fastbp.kernels import cores, parallel_compile
native.NativeFunction.is_cached = lambda leaf, dtype: False
"""
        + obstacle
        + """
parallel_compile.start_compile_helper(training.evaluate, 1, np.dtype("float32"))
answer(helpers=len(helpers))
"""
    )
    assert run(package, tmp_path, code)["helpers"] == 0
    assert run(package, tmp_path, code.replace(obstacle, "pass"))["helpers"] == (cores.n_cores() > 1)
