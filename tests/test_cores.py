"""The default number of threads: affinity, environment variables, control groups."""

import os
import subprocess
import sys

import pytest
from fastbp.kernels import cores


@pytest.fixture
def limits(monkeypatch):
    """Eight cores without other limits; limits are read again in the test and after it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "_quota", lambda: 0)
    for name in cores.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    cores._limits.cache_clear()
    yield monkeypatch
    cores._limits.cache_clear()


@pytest.mark.parametrize(
    "omp, numba, quota, expected",
    [
        ("1", None, 0, 1),
        (None, "1", 0, 1),
        ("3", "2", 0, 2),
        ("2", "3", 0, 2),
        ("99", "99", 99, 8),
        (None, None, 3, 3),
        ("2", "4", 3, 2),
        ("4", None, 3, 3),
        ("4,2", None, 0, 4),
        (" 2 ", None, 0, 2),
        (None, None, 0, 8),
        *((wrong, wrong, 0, 8) for wrong in ("", "0", "-1", "abc", "1.5", ",1", "9" * 5000)),
        ("abc", "2", 0, 2),
    ],
)
def test_the_minimum_counts(omp, numba, quota, expected, limits):
    for name, value in zip(cores.VARIABLES, (omp, numba), strict=True):
        if value is not None:
            limits.setenv(name, value)
    limits.setattr(cores, "_quota", lambda: quota)
    assert cores.n_cores() == expected


def test_the_affinity_is_read_each_time(limits):
    assert cores.n_cores() == 8
    limits.setattr(os, "sched_getaffinity", lambda process: {5})
    assert cores.n_cores() == 1


@pytest.mark.parametrize(
    "groups, files, expected",
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),  # version 2, in a container: rounded up
        ("0::/\n", {"cpu.max": "1000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, 0),
        ("0::/\n", {}, 0),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),  # above, it limits the group too
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "200000 100000"}, 2),
        ("0::/a/b\n", {"a/c/cpu.max": "100000 100000", "c/cpu.max": "100000 100000"}, 0),  # other groups
        ("0::/docker/x\n", {"cpu.max": "400000 100000"}, 4),  # the path outside of the container
        (
            "4:cpu,cpuacct:/a\n3:memory:/\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            3,
        ),  # version 1
        ("4:cpuacct,cpu:/a\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "50000"}, 1),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 0),
        ("4:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"}, 0),
        (
            "4:cpu:/\n0::/a\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000", "unified/a/cpu.max": "200000 100000"},
            2,
        ),  # both
        ("0::/\n", {"cpu.max": "nonsense"}, 0),
    ],
)
def test_control_groups(groups, files, expected, tmp_path):
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert cores._quota(tmp_path / "groups", tmp_path / "mount") == expected


def test_no_control_groups(tmp_path):
    assert cores._quota(tmp_path / "groups", tmp_path) == 0


@pytest.mark.parametrize("name", cores.VARIABLES)
def test_the_default_of_a_process(name):
    code = (
        "import os; os.sched_getaffinity = lambda process: set(range(8))\n"
        "import fastbp; from fastbp.kernels import cores; cores._quota = lambda: 0\n"
        "print(fastbp.get_num_threads()); fastbp.set_num_threads(5); print(fastbp.get_num_threads())\n"
        "fastbp.set_num_threads(None); print(fastbp.get_num_threads())"
    )
    environment = {key: value for key, value in os.environ.items() if key not in cores.VARIABLES}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**environment, name: "3"}
    )
    assert result.stdout.split() == ["3", "5", "3"], result.stderr
