"""The Numba side of the backend: workspaces, threads and their number, around the kernels."""
