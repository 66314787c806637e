"""The methods of a model in users' compiled code, as plain Python: names, arguments, errors, and the model's memory.

A model is two arrays (`MEMBERS`): the network's parameters, and its memory, which holds all else: a `Header`, the jobs
of evaluation and of training (`layout`), the tables and the workspace that these name, the states of the optimizer, and
room for parameters.  Every method is a C function (`model`), whose first argument is the address of the memory.
"""

import functools
import struct
import zlib
from typing import NamedTuple

from .layout import Y_LABELS, Y_ROWS, field_packing


class Header(NamedTuple):
    """What the memory of a model starts with.

    Users' compiled functions hold the places of the first fields (`SHARED_FIELDS`); the others may change.

    lr : learning rate; where a schedule is set, a factor of it.
    result : what the last method returned.
    size : bytes of the memory.
    n_parameters, accumulated_at, parameters_at : how many parameters there are; where in the memory, in bytes, the
        accumulated gradient is, and the room for parameters, which those of a clone take.
    n_copied : bytes that a clone copies; after them is what every call writes before it reads it.
    config : place of what the model was made from in a list of this process (`fastbp.jit`).
    is_checked : whether methods check that one thread at a time uses the model, and that numbers are finite.
    busy : 1 while a thread is in a method of a checked model.
    failed : 1 as soon as another thread wanted to be in one; stays, as loops of threads may drop exceptions.
    n_in, n_out, n_layers : sizes of the network.
    rows : most samples of a block.
    takes_labels : whether targets may be class labels.
    takes_signs, y_least, y_most, sum_tolerance : for which targets the loss is defined: whether for -1 and 1 only;
        bounds; how far the sum of a row may be from 1.
    is_mean : whether losses are means over samples.
    raises : whether a loss that is not finite raises an exception in training.
    input_scale : factor of the inputs.
    factors_lr : learning rate whose factors are in the workspace, for rules whose factors do not advance; NaN for none.
    step, n_accumulated : steps done; samples whose gradients are in the accumulated one.
    parameters ... programs : memory addresses.  `layers` are those of evaluation, `losses` has room for the samples of
        a block, `order` counts them, `programs` are the trainings by number of samples.
    x_at, lse_at : as in Plan.
    n_programs : how many there are; 0 for a model without optimizer.
    relocations, n_addresses, n_parameter_addresses, n_distances : address of a list of places in it, in words:
        of memory addresses within it, of addresses of the parameters, and of distances from these to states.
    states_at, state_stride, running_products_at : places in it, in bytes, for Python.
    """

    lr: float
    result: float
    size: int
    n_parameters: int
    accumulated_at: int
    parameters_at: int
    n_copied: int
    config: int
    is_checked: bool
    busy: int
    failed: int
    n_in: int
    n_out: int
    n_layers: int
    rows: int
    takes_labels: bool
    takes_signs: bool
    y_least: float
    y_most: float
    sum_tolerance: float
    is_mean: bool
    raises: bool
    input_scale: float
    factors_lr: float
    step: int
    n_accumulated: int
    parameters: int
    layers: int
    workspace: int
    evaluation: int
    evaluate: int
    gradient: int
    accumulated: int
    order: int
    losses: int
    programs: int
    n_programs: int
    x_at: int
    lse_at: int
    relocations: int
    n_addresses: int
    n_parameter_addresses: int
    n_distances: int
    states_at: int
    state_stride: int
    running_products_at: int


class Program(NamedTuple):
    """How batches of at most `rows` samples are trained: addresses of the kernel and of its job."""

    rows: int
    kernel: int
    job: int


MEMBERS = "parameters", "memory"
ALIGNMENT = 128  # of the memory
PACKED_HEADER: struct.Struct = field_packing(Header)
SHARED_FIELDS = Header._fields[: Header._fields.index("parameters_at") + 1]
AT = {field: place for place, field in enumerate(Header._fields)}  # in words

# The arguments of each method and their kinds: x one sample or rows of samples, v one sample, y targets, o what is
# shaped as outputs, i as x, g a flat gradient, j a Jacobian; ! where it is written to, ? where it may be left out.
# What was shipped stays as it is: users' compiled functions call it.
METHODS = {
    "predict": "x:x out:o!",
    "predict1": "x:v",
    "loss": "x:x y:y",
    "train_step": "x:x y:y",
    "gradient": "x:x y:y g:g!",
    "backpropagate": "x:x dout:o dx:i!?",
    "input_gradient": "x:x y:y dx:i!",
    "jacobian": "x:v J:j!",
    "apply_gradient": "g:g",
    "accumulate": "x:x y:y",
    "apply_accumulated": "",
}
RETURNS_LOSS = ("loss", "train_step", "gradient", "accumulate")  # a float64; predict1 returns a number of the dtype
UPDATES = ("train_step", "apply_gradient", "apply_accumulated")
COPY = "copy"  # the C function behind `clone`
_LETTERS = {"x": "pii", "v": "pii", "o": "pii", "i": "pii", "j": "pii", "g": "pi", "y": "iiii"}
_OTHER_LETTERS = {COPY: "op", "apply_accumulated": "p"}  # the last is of the parameters

# What the C functions return.  The sum of LENGTH or NOT_FINITE and the place of the argument names one.
DONE, LENGTH, NOT_FINITE = 0, 1, 11
BAD_LABEL, NO_LABELS, MANY_OUTPUTS, SHARED, NO_OPTIMIZER, NO_SAMPLES, NONFINITE_LOSS = range(21, 28)
BAD_TARGETS, NONFINITE_PARAMETERS, NONFINITE_ACCUMULATED = range(28, 31)
RAISED = -1

_EXPECTED = {
    "x": "must have as many numbers, or columns, as the network has inputs",
    "v": "must have as many numbers as the network has inputs",
    "y": "must have as many rows as x, of as many numbers as the network has outputs, or one label for each row",
    "o": "must have as many rows as x, of as many numbers as the network has outputs",
    "i": "must have the shape of x",
    "g": "must have as many numbers as the network has parameters",
    "j": "must have the shape (outputs, inputs) of the network",
}
_ERRORS = {
    BAD_LABEL: (ValueError, "y holds a label that is no class: labels must be 0 to n_out - 1"),
    NO_LABELS: (TypeError, "y must be numbers of the model's dtype: only cross_entropy takes class labels"),
    MANY_OUTPUTS: (ValueError, "the network must have one output"),
    SHARED: (RuntimeError, "two threads used the model at once: give each a clone"),
    NO_OPTIMIZER: (RuntimeError, "the model was made without an optimizer: fastbp.jit.model(net, optimizer=...)"),
    NO_SAMPLES: (ValueError, "there must be one sample or more"),
    NONFINITE_LOSS: (FloatingPointError, "the loss is not finite: no update was made"),
    BAD_TARGETS: (ValueError, "y holds targets for which the loss is not defined"),
    NONFINITE_PARAMETERS: (ValueError, "the parameters hold a number that is not finite"),
    NONFINITE_ACCUMULATED: (ValueError, "the accumulated gradient holds a number that is not finite"),
    RAISED: (IndexError, "an index is out of bounds"),  # which is noticed with NUMBA_BOUNDSCHECK
}
# What compiled callers hold, as a number; but for the methods, of which each is asked for by name.
_HELD = (
    *(MEMBERS, ALIGNMENT, SHARED_FIELDS, _LETTERS, _OTHER_LETTERS, Y_ROWS, Y_LABELS),
    *(DONE, LENGTH, NOT_FINITE, _ERRORS, _EXPECTED),
)
ABI = f"{zlib.crc32(repr(_HELD).encode()):08x}"


class Argument(NamedTuple):
    """An argument of a method."""

    name: str
    kind: str
    is_written: bool
    is_optional: bool


@functools.cache
def arguments_of(name):
    """Return the arguments of a method."""
    pairs = [each.split(":") for each in METHODS.get(name, "").split()]  # `clone` has none
    return tuple(Argument(argument, kind[0], "!" in kind, "?" in kind) for argument, kind in pairs)


@functools.cache
def letters_of(name):
    """Return the C arguments of a function, after the address of the model (`native.NativeFunction`)."""
    return _OTHER_LETTERS.get(name) or "".join(_LETTERS[argument.kind] for argument in arguments_of(name))


@functools.cache
def errors_of(name):
    """Return the exceptions of a method, (class, message) by what its C function returns."""
    errors, arguments = {}, arguments_of(name)
    for place, argument in enumerate(arguments):
        errors[LENGTH + place] = ValueError, f"{argument.name} {_EXPECTED[argument.kind]}"
        errors[NOT_FINITE + place] = ValueError, f"{argument.name} holds a number that is not finite"
    kinds = {argument.kind for argument in arguments}
    codes = {SHARED, RAISED, NONFINITE_PARAMETERS}
    codes |= {BAD_LABEL, NO_LABELS, NO_SAMPLES, BAD_TARGETS} if "y" in kinds else set()
    codes |= {NO_OPTIMIZER, NONFINITE_LOSS} if name in UPDATES else set()
    codes |= {MANY_OUTPUTS} if name == "predict1" else set()
    codes |= {NONFINITE_ACCUMULATED} if name == "apply_accumulated" else set()
    errors.update((code, _ERRORS[code]) for code in sorted(codes))
    method = "clone" if name == COPY else name
    return {code: (kind, f"{method}: {text}") for code, (kind, text) in errors.items()}


LABEL, NUMBER, ABSENT = "an integer", "a number", "nothing"  # arguments that are no arrays


def check(name, dtype, values):
    """Check the arguments of a method; return of the targets, if there are any, their kind: Y_ROWS or Y_LABELS.

    Parameters
    ----------
    name : str
    dtype : numpy.dtype
        Of the model.
    values : sequence
        For each argument a `public.Array`, or LABEL, NUMBER or ABSENT.

    Raises
    ------
    TypeError
        An argument is missing, not C-contiguous, of the wrong dtype or number of dimensions, or read-only but written
        to.
    """
    y_kind, ndim = Y_ROWS, None
    for argument, value in zip(arguments_of(name), values, strict=True):
        what, kind = f"{name}: {argument.name}", argument.kind
        if value == ABSENT and argument.is_optional:
            continue
        if kind == "y" and value in (LABEL, NUMBER):
            if ndim != 1:
                raise TypeError(f"{what} must have 2 dimensions, as x, or be class labels, got {value}")
            y_kind = Y_LABELS if value == LABEL else Y_ROWS
            continue
        if isinstance(value, str):
            raise TypeError(f"{what} must be an array, got {value}")
        has_labels = kind == "y" and ndim == 2 and value.ndim == 1
        if has_labels:
            y_kind = Y_LABELS
            if value.dtype != "int64":
                raise TypeError(f"{what} must have 2 dimensions, as x, or be class labels of int64, got {value.show()}")
        elif value.dtype != dtype:
            raise TypeError(f"{what} must be {dtype}, as the model is, got {value.show()}")
        expected = {"x": (1, 2), "v": (1,), "g": (1,), "j": (2,)}.get(kind, (ndim,))
        if value.ndim not in expected and not has_labels:
            dimensions = " or ".join(map(str, expected)) + f" dimension{'s' * (expected != (1,))}"
            as_x = ", as x" if kind in "yoi" else ""
            raise TypeError(f"{what} must have {dimensions}{as_x}, got {value.show()}")
        if not value.is_contiguous:
            raise TypeError(f"{what} must be C-contiguous, got {value.show()}; numpy.ascontiguousarray makes it so")
        if argument.is_written and not value.is_writable:
            raise TypeError(f"{what} is written to, but the array is read-only")
        ndim = value.ndim if kind in "xv" else ndim
    return y_kind
