"""Rows of the Jacobian of a network's outputs: the gradient of each sample by itself.  Twin: `fastbp.reference`."""

from .jit import kernel
from .simd import flush_subnormals, lanes, load_part, offset, peek, pointer, restore_control, store_part


@kernel
def layer_jacobian(A_prev, delta, first, out):
    """Write the columns of one layer: row i is [A_prev[i] (outer) delta[i], delta[i]], from column `first` on.

    With delta = d a / d Z for one output a of the network these are d a / d W and d a / d b of each sample.  Subnormal
    numbers are taken for zero, as in training.

    Parameters
    ----------
    A_prev, delta : arrays (n_samples, n_in), (n_samples, n_out)
    first : int
        Place of the layer's W among the parameters; b follows it.
    out : array (n_samples, n_parameters)
        The other columns stay as they are.  C-contiguous, as the others, of one float dtype; it overlaps none.
    """
    n_in, n_out, row = A_prev.shape[1], delta.shape[1], out.shape[1]
    p, control = pointer(out, 0), flush_subnormals()
    width = lanes(p)
    for i in range(out.shape[0]):
        d, W = pointer(delta, i * n_out), offset(p, i * row + first)
        for j in range(0, n_out, width):
            n = min(width, n_out - j)
            v = load_part(d, j, n)
            for k in range(n_in):
                store_part(W, k * n_out + j, v * peek(pointer(A_prev, i * n_in), k), n)
            store_part(W, n_in * n_out + j, v, n)
    restore_control(control)
