"""What several test files share."""

from contextlib import ExitStack, contextmanager
from unittest import mock

from fastbp.engine import limits, threads

# Threads even where they do not pay.
NO_LIMITS = {"MIN_ROWS_PER_THREAD": 1, "MIN_WORK_PER_THREAD": 1, "LARGE_WORK": 0, "MIN_PARALLEL_WORK": 0}


@contextmanager
def threads_everywhere(n=None):
    """Divide work among threads even where that does not pay; n: as `set_num_threads(n)`."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(limits, **NO_LIMITS))
        if n is not None:
            stack.enter_context(mock.patch.object(threads, "_threads", n))
        yield
