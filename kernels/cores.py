"""The number of cores that this process may use."""

import functools
import os
from pathlib import Path

VARIABLES = "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"


def n_cores():
    """Return the number of cores that this process may use.

    It is the minimum of the affinity, the CPU quota of the process's control groups (Linux), OMP_NUM_THREADS and
    NUMBA_NUM_THREADS.  All but the affinity are read once.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *_limits()])


@functools.cache
def _limits():
    """Return the limits other than the affinity."""
    return [limit for limit in (*map(_variable, VARIABLES), _quota()) if limit]


def _variable(name):
    """Return the number in a variable, the first of a list (one for each nesting level); 0 where it is not above 0."""
    try:
        return max(int(os.environ.get(name, "").split(",")[0]), 0)
    except ValueError:
        return 0


def _quota(groups="/proc/self/cgroup", mount="/sys/fs/cgroup"):
    """Return the CPU quota of this process's control groups in cores, rounded up; 0 where there is none.

    A group's limit holds for all groups below it too.  In a container the path is often that of the host, of which
    only the root is visible.
    """
    limits = []
    try:
        lines = Path(groups).read_text().splitlines()
    except (OSError, ValueError):  # not Linux
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        places = (controllers, "cpu") if controllers else ("", "unified")  # version 1, or version 2
        limits += [
            _limit(Path(mount, place, *group.parts[1:]))
            for place in places
            for group in (Path(path), *Path(path).parents)
        ]
    return min(filter(None, limits), default=0)


def _limit(folder):
    """Return the limit of one control group in cores; 0 where it has none."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):  # "max" and -1: no limit
        try:
            quota, period = map(int, " ".join((folder / name).read_text() for name in names).split())
        except (OSError, ValueError):
            continue
        if quota > 0:
            return -(-quota // period)
    return 0
