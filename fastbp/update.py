"""What one training step does besides backpropagation, as both backends are told it."""

from typing import NamedTuple

import numpy as np

from .attributes import Fixed

N_RUNNING_PRODUCTS = 8  # numbers that an update rule may carry from step to step, such as beta**t


class Update(NamedTuple):
    """The settings of every update of a training run.

    rule, hyperparameters : name of the update rule (`kernels.optimizers.RULES`) and its settings, in the order it documents.
    schedule, rates : kind of the learning-rate schedule (`kernels.schedules.KINDS`) and its settings.
    l1, l2 : penalties l1 * sum |W| + l2 / 2 * sum W**2, their gradients added before clipping; biases have none.
    clip_value, clip_norm : limits of every element of the gradient, then of its Euclidean norm; 0 is no limit.
    max_norm : limit of the norm of the weights into each neuron after an update; 0 is no limit.
    dropout : share of the outputs dropped of each layer but the last.
    label_smoothing : share of the targets spread evenly over the classes.
    input_noise : standard deviation of the normal noise added to X.
    key : seed of dropout and noise, an unsigned 64-bit number.
    skips : leave out a step whose loss is not finite instead of ending there.
    rate_scale : factor of the learning rate.
    """

    rule: str = "sgd"
    hyperparameters: tuple = ()
    schedule: str = "constant"
    rates: tuple = (0.1,)
    l1: float = 0.0
    l2: float = 0.0
    clip_value: float = 0.0
    clip_norm: float = 0.0
    max_norm: float = 0.0
    dropout: tuple = ()
    label_smoothing: float = 0.0
    input_noise: float = 0.0
    key: int = 0
    skips: bool = False
    rate_scale: float = 1.0


class State:
    """What an update rule remembers, and how many steps were made.

    Attributes
    ----------
    buffers : ndarray (n_states, n_parameters)
        Such as velocities, or first and second moments; each on a cache line.
    running_products : float64 ndarray (N_RUNNING_PRODUCTS,)
        Numbers of the rule's own, all 1 at the start.
    vectors : float64 ndarray (n_vectors, n_parameters)
        What a method of the full batch remembers of each parameter, such as the pairs of L-BFGS; 0 at the start.
    skipped : int
        Of them, those left out because their loss was not finite.
    step : int
        Steps done so far, skipped ones too: place in the schedule, and of the random numbers of dropout and noise.
    """

    buffers = Fixed("write into it, state.buffers[:] = values")
    running_products = Fixed("write into it, state.running_products[:] = values")
    vectors = Fixed("write into it, state.vectors[:] = values")

    def __init__(self, n_states, n_parameters, dtype, n_vectors=0):
        row = -(-n_parameters // 16) * 16
        buffers = aligned_zeros(n_states * row, dtype).reshape(n_states, row)[:, :n_parameters]
        vars(self).update(
            buffers=buffers,
            running_products=np.ones(N_RUNNING_PRODUCTS),
            vectors=np.zeros((n_vectors, n_parameters)),
            step=0,
            skipped=0,
        )

    def __setstate__(self, kept):
        """Copy what was unpickled into memory of its own: kernels write to it, and it may be a mapped file's."""
        buffers, vectors = kept["buffers"], kept.get("vectors", ())  # early files of version 0.1 have no vectors
        products = kept["running_products"] if "running_products" in kept else kept["memory"]  # so version 0.1
        self.__init__(len(buffers), buffers.shape[1], buffers.dtype, len(vectors))
        self.buffers[:], self.running_products[:] = buffers, products
        if len(vectors):
            self.vectors[:] = vectors
        self.step, self.skipped = kept["step"], kept["skipped"]


def aligned_zeros(size, dtype):
    """Zeros that start on a 64-byte boundary: a whole cache line, and a whole AVX-512 vector."""
    dtype = np.dtype(dtype)
    buffer = np.zeros(size * dtype.itemsize + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size * dtype.itemsize].view(dtype)
