"""Fixtures shared by the tests: both backends, the XOR data, central differences.

``pytest`` runs the quick tests: all that are not marked `exhaustive` (`addopts` in pyproject.toml).  A quick test and its
exhaustive version are one function, parametrized: the quick one takes some shapes, networks or processors and every
code path, the exhaustive one takes all.  How to run

- the exhaustive ones alone: ``pytest -m exhaustive``
- all, as `.ci/run` does: ``pytest -m "exhaustive or not exhaustive"``
- on several cores: ``pytest -n 2 --dist loadfile``, with pytest-xdist.  Processes share the folder of compiled kernels,
  whose locks make each kernel compile once; every other folder that a test writes to is its own (`tmp_path`).

What several files need and pytest does not (threads everywhere, a Python process) is in shared.py.
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

# Test processes that run side by side wait for what another one compiles, without a message on stderr, which tests read.
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
