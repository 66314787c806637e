"""The compiled kernels, usable one by one, also inside your own `@njit` functions.

Arrays are contiguous, of one float dtype, and trusted: nothing is checked here.  Results go into `out`, the last
argument; what may alias is said in each docstring.  The NumPy twins of the same names are in `fastbp.reference`.
"""
from .dense import affine_forward, bias_gradient, propagate_delta, weight_gradient
from .elementwise import (
    elu,
    elu_derivative,
    exp,
    gelu,
    gelu_derivative,
    identity,
    identity_derivative,
    leaky_relu,
    leaky_relu_derivative,
    log,
    relu,
    relu_derivative,
    sigmoid,
    sigmoid_derivative,
    silu,
    silu_derivative,
    softmax,
    softmax_backward,
    softplus,
    softplus_derivative,
    tanh,
    tanh_derivative,
)
from .jacobian import layer_jacobian
from .losses import (
    absolute_error,
    absolute_error_derivative,
    binary_cross_entropy,
    binary_cross_entropy_derivative,
    binary_cross_entropy_logits,
    cross_entropy,
    cross_entropy_derivative,
    cross_entropy_logits,
    huber,
    huber_derivative,
    squared_error,
    squared_error_derivative,
)
from .metrics import class_counts, error_sums, label_counts, top_counts
from .noise import dropout, input_noise
from .optimizers import (
    adagrad,
    adam,
    adamw,
    clip_norm,
    clip_value,
    lion,
    max_norm,
    nadam,
    penalize,
    rmsprop,
    rprop,
    sgd,
    sgd_momentum,
)
from .schedules import learning_rate
from .training import shuffle

__all__ = [
    "absolute_error", "absolute_error_derivative", "adagrad", "adam", "adamw", "affine_forward",
    "bias_gradient", "binary_cross_entropy", "binary_cross_entropy_derivative", "binary_cross_entropy_logits",
    "class_counts", "clip_norm", "clip_value", "cross_entropy", "cross_entropy_derivative",
    "cross_entropy_logits", "dropout", "elu", "elu_derivative", "error_sums", "exp", "gelu", "gelu_derivative",
    "huber", "huber_derivative", "identity", "identity_derivative", "input_noise", "label_counts",
    "layer_jacobian", "leaky_relu", "leaky_relu_derivative", "learning_rate", "lion", "log", "max_norm",
    "nadam", "penalize", "propagate_delta", "relu", "relu_derivative", "rmsprop", "rprop", "sgd",
    "sgd_momentum", "shuffle", "sigmoid", "sigmoid_derivative", "silu", "silu_derivative", "softmax",
    "softmax_backward", "softplus", "softplus_derivative", "squared_error", "squared_error_derivative", "tanh",
    "tanh_derivative", "top_counts", "weight_gradient",
]
