"""Fixtures shared by the tests: both backends, the XOR data, central differences.

``pytest`` runs the quick tests: all that are not marked `exhaustive` (`addopts` in pyproject.toml).  A quick test and
its exhaustive version are one function, parametrized: the quick one takes every code path, on some of the shapes,
networks or processors; the exhaustive one takes all of them.

- ``pytest -m exhaustive`` runs the exhaustive ones; one that is named on the command line needs this too.
- ``pytest -m "exhaustive or not exhaustive"`` runs all, as `.ci/run` does.
- Two processes run them side by side, a file in one of them (pytest-xdist); ``pytest -n 0`` runs them in one, as
  ``pytest --pdb`` does.  They share the folder of compiled kernels, whose locks make each kernel compile once; every
  other folder that a test writes to is its own (`tmp_path`).

What several files share besides fixtures is in shared.py.
"""

import numpy as np
import pytest
from fastbp.kernels import cache
from hypothesis import settings
from shared import threads_everywhere

# The same examples in every run: whether a change passes is not left to chance.  `pytest --hypothesis-profile=default
# --hypothesis-seed=N` tries others.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

# Processes that run tests side by side wait for what another one compiles.  They must not say so: tests read stderr.
cache.LOCK_MESSAGE_S = float("inf")


@pytest.fixture(scope="session", params=["numpy", "numba"])
def backend(request):
    """Run the test on each backend."""
    return request.param


@pytest.fixture(scope="session")
def xor():
    """Inputs and targets of the worked example."""
    return np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0.0], [1], [1], [0]])


@pytest.fixture(scope="session")
def central_differences():
    """Gradient of function() with respect to an array that it reads, by central differences."""

    def gradient(function, array, step=6e-6):
        result = np.empty_like(array)
        for i in np.ndindex(array.shape):
            value = array[i]
            array[i] = value + step
            up = function()
            array[i] = value - step
            down = function()
            array[i] = value
            result[i] = (up - down) / (2 * step)
        return result

    return gradient


@pytest.fixture
def no_thread_limits():
    """Divide work among threads even where that does not pay."""
    with threads_everywhere():
        yield
