"""The NumPy twin of every public kernel, and of the engine: backpropagation in plain code.

Rows are samples.  W is (n_in, n_out), so Z = A_prev @ W + b.  Every twin has the name and the arguments of its
kernel in `fastbp.kernels`, writes its result into `out` (its last argument) and returns None; `out` may be the
same array as any other argument of its shape.  float32 stays float32, float64 stays float64.  The files are those of
`fastbp.kernels`.
"""

from . import dense, elementwise, losses, metrics, noise, optimizers, schedules, training

for _file in (elementwise, dense, losses, noise, optimizers, schedules, training, metrics):
    globals().update(
        {name: twin for name, twin in vars(_file).items() if getattr(twin, "__module__", "") == _file.__name__}
    )
