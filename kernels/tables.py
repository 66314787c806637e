"""What the kernels offer, as plain Python: activations, losses, update rules, schedules, and the public kernels.

The engine plans with these tables, and calls machine code that an earlier process compiled, without importing Numba.
The functions of a row have its name: `elementwise._tanh`, `losses._huber`, `optimizers._lion`.
"""

import functools
from typing import NamedTuple

from .layout import (
    AFFINE_ROW,
    DROP,
    GATHER,
    GEMM,
    MAX_NORM,
    MOMENTUM,
    NESTEROV,
    NOISE,
    PREPARE_GRADIENT,
    PRODUCT,
    PRODUCT_OF_NUMBERS,
    PROPAGATE_ROW,
    SCALE,
    SGD,
    STORE,
    SUM_OF_SQUARES,
    UPDATE_ROWS,
    UPDATE_SCALED,
)


class Activation(NamedTuple):
    """What the engine must know of an activation.

    needs_z : whether the derivative needs Z; all others need only A, and Z is not kept.
    is_elementwise : whether an output depends on one Z only; else the functions are those of whole rows.
    """

    needs_z: bool = False
    is_elementwise: bool = True


# An activation is a row here, two functions of one vector and two public kernels in `elementwise`, and a twin.
ACTIVATIONS = {
    "identity": Activation(),
    "sigmoid": Activation(),
    "tanh": Activation(),
    "relu": Activation(),
    "leaky_relu": Activation(),
    "elu": Activation(),
    "softplus": Activation(),
    "silu": Activation(needs_z=True),
    "gelu": Activation(needs_z=True),
    "selu": Activation(),
    "mish": Activation(needs_z=True),
    "softsign": Activation(needs_z=True),
    "hard_sigmoid": Activation(),
    "hard_tanh": Activation(),
    "exponential": Activation(),
    "softmax": Activation(is_elementwise=False),
}
CUSTOM = Activation(needs_z=True, is_elementwise=False)  # its functions are the user's (`custom`)

# Activations that the kernels for small steps compute inline, by code: a call takes longer than the arithmetic.
INLINE_ACTIVATIONS = ("identity", "sigmoid", "tanh", "relu")
IDENTITY, SIGMOID, TANH, RELU, ELEMENTWISE, BY_ROW = range(6)  # the others are called, over whole slices or row by row


def code_of(activation):
    """Return the code of an activation by name: that of an inline one, ELEMENTWISE or BY_ROW."""
    if activation in INLINE_ACTIVATIONS:
        return INLINE_ACTIVATIONS.index(activation)
    return ELEMENTWISE if ACTIVATIONS.get(activation, CUSTOM).is_elementwise else BY_ROW


# A loss is a row here, the name of its parameter or "", two functions of one vector and two public kernels in `losses`,
# and a twin; and if an output activation takes its logarithm with it, a pair in LOGIT_FORMS and a row in `losses`.
LOSSES = {
    "squared_error": "",
    "absolute_error": "",
    "huber": "threshold",
    "binary_cross_entropy": "",
    "cross_entropy": "",
    "log_cosh": "",
    "quantile": "q",
    "hinge": "",
    "poisson": "",
    "focal": "gamma",
}
TAKE_LABELS = ("cross_entropy",)

# Pairs of output activation and loss whose losses and deltas come from the logits: both are right however far the
# outputs are saturated, where 1 - a or a itself is rounded to 0.
LOGIT_FORMS = (
    ("sigmoid", "binary_cross_entropy"),
    ("softmax", "cross_entropy"),
    ("sigmoid", "cross_entropy"),
    ("sigmoid", "focal"),
    ("sigmoid", "poisson"),
    ("softmax", "binary_cross_entropy"),
    ("softmax", "focal"),
    ("softmax", "poisson"),
    ("softplus", "poisson"),
    ("exponential", "poisson"),
)

# Losses that the kernels for small steps compute inline, by code; NOT_INLINE are all others.
NOT_INLINE, SQUARED_ERROR, SIGMOID_CROSS_ENTROPY = range(3)


def inline_code(loss, activation):
    """Return the code of an inline loss of outputs of an activation, both by name."""
    if loss == "squared_error":
        return SQUARED_ERROR
    return SIGMOID_CROSS_ENTROPY if (activation, loss) == ("sigmoid", "binary_cross_entropy") else NOT_INLINE


class Rule(NamedTuple):
    """What the engine must know of an update rule.

    n_states : numbers kept for each parameter.
    advances : whether the factors differ from step to step even at a constant learning rate.
    epilogue : that of the microkernel which makes the same update, to the same bits; STORE where there is none.
    has_bias_factors : whether biases have factors of their own, at `layout.BIAS_FACTORS`.
    scales_inputs : whether the weights of each input have a scale (`optimizers.update_scaled`), in the third state.
    """

    n_states: int
    advances: bool = False
    epilogue: int = STORE
    has_bias_factors: bool = False
    scales_inputs: bool = False


# An update rule is a row here and one in PUBLIC, its functions and public kernel in `optimizers`, and a twin.
RULES = {
    "sgd": Rule(0, epilogue=SGD),
    "momentum": Rule(1, epilogue=MOMENTUM),
    "nesterov": Rule(1, epilogue=NESTEROV),
    "classical_momentum": Rule(1),
    "rmsprop": Rule(1),
    "adagrad": Rule(1),
    "adam": Rule(2, advances=True),
    "adam_eps_hat": Rule(2, advances=True),
    "adamw": Rule(2, advances=True),
    "adamw_weights": Rule(2, advances=True, has_bias_factors=True),  # adamw of weights, adam of biases
    "adamw_scaled": Rule(3, advances=True, has_bias_factors=True, scales_inputs=True),
    "nadam": Rule(2, advances=True),
    "lion": Rule(1),
    "rprop": Rule(2),
}

KINDS = {  # of learning rates
    name: code
    for code, name in enumerate(
        ["constant", "step", "exponential", "inverse_scaling", "cosine", "one_cycle", "piecewise", "cos_log", "table"]
    )
}

# Native functions that are the same for all networks, by place in Plan.functions.
FUNCTIONS = {
    GEMM: "dense.gemm",
    GATHER: "backprop.gather",
    DROP: "noise.drop_rows",
    NOISE: "noise.noise_rows",
    PREPARE_GRADIENT: "optimizers.prepare_gradient",
    SUM_OF_SQUARES: "optimizers.sum_of_squares",
    SCALE: "optimizers.scale_array",
    MAX_NORM: "optimizers.max_norm_columns",
    UPDATE_SCALED: "optimizers.update_scaled",
    PRODUCT: "interleaved.product",
    PRODUCT_OF_NUMBERS: "interleaved.product_of_numbers",
}

# Those of training on one sample at a time.
ONLINE_FUNCTIONS = {
    AFFINE_ROW: "online.affine_row",
    PROPAGATE_ROW: "online.propagate_row",
    UPDATE_ROWS: "online.update_rows",
}

# ------------------------------------------------------------------------------------------ the public kernels

# The file of each, and its arguments with their kinds: for arrays, all C-contiguous, the dtype and the number of
# dimensions (* any), f the float dtype that they have in common, i int64, u uint32, w float64, y rows of targets of
# that dtype or class labels; for numbers f, i (also truth values) and w.  A kernel is compiled for each float dtype
# and form of y as a C function, whose arguments are the address and the dimensions of each array (the size where it
# has any number of them), and the numbers.  What was shipped stays as it is: users' compiled functions call it.
PUBLIC = {
    "affine_forward": ("dense", "A_prev:f2 W:f2 b:f1 out:f2"),
    "propagate_delta": ("dense", "delta:f2 W:f2 derivative:f2 out:f2"),
    "weight_gradient": ("dense", "A_prev:f2 delta:f2 out:f2"),
    "bias_gradient": ("dense", "delta:f2 out:f1"),
    "layer_jacobian": ("dense", "A_prev:f2 delta:f2 first:i out:f2"),
    "exp": ("elementwise", "x:f* out:f*"),
    "log": ("elementwise", "x:f* out:f*"),
    "softmax": ("elementwise", "Z:f2 out:f2"),
    "softmax_backward": ("elementwise", "A:f2 dA:f2 out:f2"),
    "binary_cross_entropy_logits": ("losses", "Z:f2 Y:f2 out:f1"),
    "cross_entropy_logits": ("losses", "Z:f2 Y:y out:f1"),
    "class_counts": ("metrics", "A:f2 Y:y counts:i2"),
    "label_counts": ("metrics", "A:f2 Y:f2 threshold:w counts:i2 right:i1"),
    "top_counts": ("metrics", "A:f2 Y:y k:i right:i1"),
    "error_sums": ("metrics", "A:f2 Y:f2 totals:w2"),
    "dropout": ("noise", "A:f2 key:i step:i layer:i rate:w out:f2"),
    "input_noise": ("noise", "X:f2 key:i step:i deviation:f out:f2"),
    "sgd": ("optimizers", "gradient:f* lr:w parameters:f*"),
    "sgd_momentum": ("optimizers", "gradient:f* lr:w momentum:w nesterov:i velocity:f* parameters:f*"),
    "classical_momentum": ("optimizers", "gradient:f* lr:w momentum:w nesterov:w velocity:f* parameters:f*"),
    "rmsprop": ("optimizers", "gradient:f* lr:w rho:w eps:w square:f* parameters:f*"),
    "adagrad": ("optimizers", "gradient:f* lr:w eps:w total:f* parameters:f*"),
    "adam": (
        "optimizers",
        "gradient:f* lr:w beta1:w beta2:w eps:w running_products:w1 m:f* v:f* parameters:f*",
    ),
    "adam_eps_hat": (
        "optimizers",
        "gradient:f* lr:w beta1:w beta2:w eps:w running_products:w1 m:f* v:f* parameters:f*",
    ),
    "adamw": (
        "optimizers",
        "gradient:f* lr:w beta1:w beta2:w eps:w weight_decay:w running_products:w1 m:f* v:f* parameters:f*",
    ),
    "nadam": (
        "optimizers",
        "gradient:f* lr:w beta1:w beta2:w eps:w decay:w running_products:w1 m:f* v:f* parameters:f*",
    ),
    "lion": ("optimizers", "gradient:f* lr:w beta1:w beta2:w weight_decay:w m:f* parameters:f*"),
    "rprop": (
        "optimizers",
        "gradient:f* lr:w eta_minus:w eta_plus:w min_step:w max_step:w last:f* step:f* parameters:f*",
    ),
    "penalize": ("optimizers", "parameters:f* l1:f l2:f gradient:f*"),
    "clip_value": ("optimizers", "limit:f gradient:f*"),
    "clip_norm": ("optimizers", "limit:w gradient:f*"),
    "max_norm": ("optimizers", "limit:f W:f2"),
    "learning_rate": ("schedules", "kind:i hyperparameters:w1 steps:i1 out:w1"),
    "shuffle": ("training", "random_words:u1 order:i1"),
}
for _name, _activation in ACTIVATIONS.items():
    if _activation.is_elementwise:
        PUBLIC[_name] = ("elementwise", "Z:f* out:f*")
        PUBLIC[f"{_name}_derivative"] = ("elementwise", "Z:f* A:f* out:f*")
for _name, _parameter in LOSSES.items():
    _arguments = f"A:f2 Y:{'y' if _name in TAKE_LABELS else 'f2'}{_parameter and f' {_parameter}:f'} out:"
    PUBLIC[_name], PUBLIC[f"{_name}_derivative"] = ("losses", f"{_arguments}f1"), ("losses", f"{_arguments}f2")

# Arguments that kernels write to, besides the last one.
WRITTEN = ("counts", "last", "m", "running_products", "square", "step", "total", "v", "velocity")
# What a public kernel returns; None counts as DONE.  RAISED is what `compiler` makes of an exception.
DONE, BAD_LABEL, NO_MEMORY, RAISED = 0, 1, 2, -1

POINTERS = {"f": "p", "i": "o", "u": "u", "w": "d"}  # kinds of arrays: letters of pointers (`native.NativeFunction`)


@functools.cache
def parameters_of(name):
    """Return the kinds of a kernel's arguments, by argument; see `tables.PUBLIC`."""
    return dict(argument.split(":") for argument in PUBLIC[name][1].split())


@functools.cache
def letters_of(name, form):
    """Return the C arguments of each argument: a pointer and dimensions, or a number (`native.NativeFunction`)."""
    result = {}
    for parameter, kind in parameters_of(name).items():
        kind = ("i1" if form else "f2") if kind == "y" else kind
        is_array = len(kind) == 2
        result[parameter] = POINTERS[kind[0]] + "i" * (1 if kind[1] == "*" else int(kind[1])) if is_array else kind
    return result
