"""Check the arrays of a kernel's call: layout, dtype, and whether they are writable.

Numba compiles a kernel for every layout and dtype that it is called with, but kernels work on raw pointers: a wrong
array must be refused before the kernel is compiled.
"""

from numba import types

# Arguments that kernels write to, besides the last one.
WRITTEN = ("counts", "last", "m", "running_products", "square", "step", "total", "v", "velocity")
# All others have one float dtype in common, but Y may hold class labels.
DTYPES = {
    "random_words": types.uint32,
    **dict.fromkeys(("slot", "counts", "order", "right", "steps"), types.int64),
    **dict.fromkeys(("running_products", "hyperparameters", "totals"), types.float64),
}


def check_arrays(kernel, names, kinds):
    """Check the Numba types of a kernel's arguments.

    Raises
    ------
    TypeError
        An array is not C-contiguous, has the wrong dtype, or is written to but read-only.
    """
    floats = (types.float32, types.float64)
    for name, kind in zip(names, kinds, strict=False):
        if not isinstance(kind, types.Array):
            continue
        expected = (DTYPES[name],) if name in DTYPES else floats
        is_labels = name == "Y" and kind.ndim == 1 and isinstance(kind.dtype, types.Integer)
        if kind.dtype not in expected and not is_labels:
            like = "" if name in DTYPES or len(floats) > 1 else ", as the arrays before it"
            raise TypeError(f"{kernel}: {name} must be {' or '.join(map(str, expected))}{like}, got {kind.dtype}")
        if kind.layout != "C":
            raise TypeError(f"{kernel}: {name} must be C-contiguous, got {kind}; numpy.ascontiguousarray makes it so")
        if not kind.mutable and name in (names[-1], *WRITTEN):
            raise TypeError(f"{kernel}: {name} is written to, but the array is read-only")
        if name not in DTYPES and not is_labels:
            floats = (kind.dtype,)
