"""A plan with its workspace and its job: what one call at a time works with."""

import ctypes

import numpy as np

from .. import interrupts
from ..custom import CustomFunction
from ..kernels.backprop import load_functions, sync_size
from ..kernels.layout import (
    DONE_AT,
    JOB_SIZE,
    PLAN_AT,
    POINTERS_AT,
    Pointers,
    pack,
)
from ..kernels.parallel_compile import start_compile_helper
from ..kernels.plan import make_plan
from ..losses import name_of, settings_of
from ..update import aligned_zeros

_word, _HEADER = ctypes.c_ssize_t, object.__basicsize__


def address_of(array):
    """Return the address of an array's data."""
    return _word.from_address(id(array) + _HEADER).value


# An array object begins with the address of its data, as Numba's own code and that of every extension knows; asked in
# another way it takes ten times as long.
assert all(address_of(array) == array.ctypes.data for array in (np.empty(3), np.empty((2, 3), np.uint8)[1:]))


class Workspace:
    """A plan with its workspace: what one call at a time can work with."""

    def __init__(self, backend, rows, threads, n_states=None, dropout=()):
        *activations, loss = [
            item.addresses(backend.dtype) if isinstance(item, CustomFunction) else name_of(item)
            for item in (*backend.activations, backend.loss)
        ]
        self.plan = make_plan(
            backend.sizes, activations, loss, rows, threads, n_states, dropout, *settings_of(backend.loss).values()
        )
        self._dtype, self._n_functions = backend.dtype, 0
        self.job, self.holds = bytearray(8 * JOB_SIZE), None  # the Steps and Data that are in it
        self._words = (ctypes.c_ssize_t * JOB_SIZE).from_buffer(self.job)
        self.address, self.kernel = ctypes.addressof(self._words), 0
        self.workspace = aligned_zeros(self.plan.size, backend.dtype)
        self.sync = aligned_zeros(sync_size(threads), np.int64)
        layers, functions = self.plan.layers, self.plan.functions
        others = map(address_of, (functions, self.workspace, self.sync))
        pack(self.job, POINTERS_AT, Pointers(address_of(layers), len(layers), *others))
        pack(self.job, PLAN_AT, self.plan)
        for copy in range(threads if self.plan.x_size else 1):
            start = self.plan.x_at + copy * self.plan.x_size
            block = self.workspace[start : start + rows * self.plan.x_row_stride].reshape(rows, -1)
            block[:, backend.sizes[0]] = 1

    def need(self, kernel, n_functions):
        """Have the first so many leaves at hand, which `kernel` will call; the others need not be compiled."""
        if self._n_functions < n_functions:
            with interrupts.allowed():
                start_compile_helper(kernel, n_functions, self._dtype)
                load_functions(self.plan, n_functions, self._dtype)
            self._n_functions = n_functions

    def done(self):
        """Return the steps that the kernel has done."""
        return self._words[DONE_AT]

    def block(self, at, n, columns, row):
        """Return a copy of one block of the workspace, without its padding."""
        return self.workspace[at : at + n * row].reshape(n, row)[:, :columns].copy()
