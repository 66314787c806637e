"""The compiled kernels, usable one by one, also inside your own `@njit` functions.

Arrays are contiguous, of one float dtype, and trusted: nothing is checked here.  Results go into `out`, the last
argument; what may alias is said in each docstring.  The NumPy twins of the same names are in `fastbp.reference`.
"""
from .dense import affine_forward, bias_gradient, propagate_delta, weight_gradient
from .elementwise import (
    elu,
    elu_derivative,
    exp,
    exponential,
    exponential_derivative,
    gelu,
    gelu_derivative,
    hard_sigmoid,
    hard_sigmoid_derivative,
    hard_tanh,
    hard_tanh_derivative,
    identity,
    identity_derivative,
    leaky_relu,
    leaky_relu_derivative,
    log,
    mish,
    mish_derivative,
    relu,
    relu_derivative,
    selu,
    selu_derivative,
    sigmoid,
    sigmoid_derivative,
    silu,
    silu_derivative,
    softmax,
    softmax_backward,
    softplus,
    softplus_derivative,
    softsign,
    softsign_derivative,
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
    focal,
    focal_derivative,
    hinge,
    hinge_derivative,
    huber,
    huber_derivative,
    log_cosh,
    log_cosh_derivative,
    poisson,
    poisson_derivative,
    quantile,
    quantile_derivative,
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
    "cross_entropy_logits", "dropout", "elu", "elu_derivative", "error_sums", "exp", "exponential",
    "exponential_derivative", "focal", "focal_derivative", "gelu", "gelu_derivative", "hard_sigmoid",
    "hard_sigmoid_derivative", "hard_tanh", "hard_tanh_derivative", "hinge", "hinge_derivative", "huber",
    "huber_derivative", "identity", "identity_derivative", "input_noise", "label_counts", "layer_jacobian",
    "leaky_relu", "leaky_relu_derivative", "learning_rate", "lion", "log", "log_cosh", "log_cosh_derivative",
    "max_norm", "mish", "mish_derivative", "nadam", "penalize", "poisson", "poisson_derivative",
    "propagate_delta", "quantile", "quantile_derivative", "relu", "relu_derivative", "rmsprop", "rprop", "selu",
    "selu_derivative", "sgd", "sgd_momentum", "shuffle", "sigmoid", "sigmoid_derivative", "silu",
    "silu_derivative", "softmax", "softmax_backward", "softplus", "softplus_derivative", "softsign",
    "softsign_derivative", "squared_error", "squared_error_derivative", "tanh", "tanh_derivative", "top_counts",
    "weight_gradient",
]
