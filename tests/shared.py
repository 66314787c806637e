"""What several test files share."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from fastbp.kernels import layout
from fastbp.kernels.layout import CALL_ARGS_AT, CallArgs

from fastbp.activations import ACTIVATIONS
from fastbp.engine import backend, limits, threads
from fastbp.losses import LOSSES

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
exhaustive = pytest.mark.exhaustive
needs_x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="names processors of the x86-64 family"
)

# Activations of hidden layers; softmax is for the output.
HIDDEN = [name for name in ACTIVATIONS if name != "softmax"]

N_SLOTS_AT = CALL_ARGS_AT + CallArgs._fields.index("n_slots")  # in a job

# Threads even where they do not pay.
NO_LIMITS = {"MIN_ROWS_PER_THREAD": 1, "MIN_WORK_PER_THREAD": 1, "LARGE_WORK": 0, "MIN_PARALLEL_WORK": 0}


def record_launches(monkeypatch):
    """Return a list that receives the number of threads of each native call from now on."""
    launch, calls = threads.launcher(), []

    def launch_and_record(address):
        calls.append(1 + ctypes.c_int64.from_address(address + 8 * N_SLOTS_AT).value)
        return launch(address)

    monkeypatch.setattr(threads, "launcher", lambda: launch_and_record)
    return calls


@contextmanager
def threads_everywhere(n=None):
    """Divide work among threads even where that does not pay; n: as `set_num_threads(n)`."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(limits, **NO_LIMITS))
        if n is not None:
            stack.enter_context(mock.patch.object(threads, "_threads", n))
        yield


def is_admissible(output, loss):
    """Whether the outputs of this activation lie where the loss needs them."""
    row, needs = ACTIVATIONS[output], LOSSES[loss]
    return (row.within_01 or not needs.within_01) and (row.is_positive or not needs.is_positive)


def copy_package(folder):
    """Copy fastbp, with its kernels, into a folder to import it from; return the copy."""
    copy, ignore = folder / "fastbp", shutil.ignore_patterns("__pycache__", "*.fastbp")
    shutil.copytree(Path(limits.__file__).parents[1], copy, ignore=ignore)
    shutil.copytree(Path(layout.__file__).parent, copy / "kernels", ignore=ignore, dirs_exist_ok=True)
    return copy


def run_python(*arguments, timeout=300, **environment):
    """Run Python with these arguments, and these variables added to the environment; keep what it prints."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )


@contextmanager
def watch_threads():
    """Collect how many threads run each job of several threads."""
    used, slots = [], threads.ThreadPool.slots

    def watched(pool, others):
        used.append(others + 1)
        return slots(pool, others)

    with mock.patch.object(threads.ThreadPool, "slots", watched):
        yield used


@contextmanager
def watch_kernels():
    """Collect the names of the training kernels that are chosen."""
    names, choose = set(), backend.trainer_for

    def watched(*arguments, **named):
        kernel = choose(*arguments, **named)
        names.add(kernel.removeprefix("training."))
        return kernel

    with mock.patch.object(backend, "trainer_for", watched):
        yield names
