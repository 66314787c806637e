"""All validation, done once, where the user's arguments enter.

Every function returns its argument in the form the kernels want, or raises a ValueError or TypeError that names
the argument, what was given and what was expected.
"""

import difflib
import math
import numbers

import numpy as np

from . import losses
from .activations import ACTIVATIONS, Activation, row_of
from .losses import LOSSES, Loss, Parameterised

# ------------------------------------------------------------------ settings


def name(argument, value, known):
    """Check that `value` is one of the names `known`."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a name, got {value!r}; known: {', '.join(known)}")
    if value in known:
        return value
    close = difflib.get_close_matches(value.lower().replace("-", "_").replace(" ", "_"), known, 1, 0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{argument} {value!r} is unknown{hint} (known: {', '.join(known)})")


def flag(argument, value):
    """Check for True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{argument} must be True or False, got {value!r}")
    return bool(value)


def integer(argument, value, at_least=1):
    """Check for an integer that is large enough."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{argument} must be an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{argument} must be at least {at_least}, got {value}")
    return int(value)


def number(argument, value, above=-math.inf, at_least=-math.inf, below=math.inf):
    """Check for a finite number within bounds."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    if not (math.isfinite(value) and value > above and value >= at_least and value < below):
        bounds = [(above, -math.inf, "above"), (at_least, -math.inf, "at least"), (below, math.inf, "below")]
        expected = " and ".join(f"{word} {bound:g}" for bound, none, word in bounds if bound != none)
        raise ValueError(f"{argument} must be {expected or 'finite'}, got {value}")
    return float(value)


def generator(argument, seed):
    """Return the random generator of a seed: None, an int, a SeedSequence, a BitGenerator or a Generator."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        expected = "None, an int >= 0, a SeedSequence or a Generator"
        raise type(error)(f"{argument} must be {expected}, got {seed!r}") from None


def sizes(value):
    """Check the layer sizes: two or more positive integers."""
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) < 2:
        raise TypeError(f"sizes must be the inputs, the layers and the outputs, such as [64, 30, 10], got {value!r}")
    return tuple(integer(f"sizes[{i}]", size) for i, size in enumerate(value))


def activations(value, n_layers):
    """Check the activations: one name for all layers, or one per layer."""
    if not isinstance(value, str) and isinstance(value, list | tuple):
        if len(value) != n_layers:
            raise ValueError(f"activations must be one name or {n_layers} (one per layer after the input), "
                             f"got {value!r}")
        return tuple(_activation(f"activations[{i}]", item) for i, item in enumerate(value))
    return (_activation("activations", value),) * n_layers


def _activation(argument, value):
    if isinstance(value, Activation):
        return value
    if callable(value):
        raise TypeError(f"{argument} must be a name or a fastbp.Activation(function, derivative), got {value!r}")
    return name(argument, value, ACTIVATIONS)


def loss(value, output_activation):
    """Check the loss, and that it is defined for what the last layer gives."""
    if callable(value):
        raise TypeError("loss must be a name, one such as fastbp.losses.Huber(threshold=2.0), or a "
                        f"fastbp.Loss(function, derivative), got {value!r}")
    if not isinstance(value, Loss | Parameterised):
        name("loss", value, LOSSES)
    row = losses.row_of(value)
    for field, takes in (("within_01", "probabilities"), ("is_positive", "outputs above 0")):
        if getattr(row, field) and not getattr(row_of(output_activation), field):
            suitable = ", ".join(key for key, other in ACTIVATIONS.items() if getattr(other, field))
            raise ValueError(f"loss {losses.name_of(value)!r} takes {takes}: the last activation must be one of "
                             f"{suitable}, got {output_activation!r}")
    return value


def dtype(value):
    """Check the dtype: float32 or float64."""
    try:
        result = np.dtype(value)
        known = value is not None and result in (np.dtype(np.float32), np.dtype(np.float64))
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"dtype must be 'float32' or 'float64', got {value!r}")
    return result


def layer_arrays(argument, value, shapes):
    """Check a sequence of (W, b), one per layer, and return it as float64 arrays."""
    pairs = isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value)
    if not pairs:
        raise TypeError(f"{argument} must be a name, an initialiser or one pair (W, b) per layer, got {value!r}")
    if len(value) != len(shapes):
        raise ValueError(f"{argument} must hold one pair (W, b) for each of the {len(shapes)} layers, got {len(value)}")
    result = []
    for layer, (pair, (n_in, n_out)) in enumerate(zip(value, shapes, strict=True), start=1):
        arrays = []
        for letter, given, shape in zip("Wb", pair, [(n_in, n_out), (n_out,)], strict=True):
            array = _numbers(f"{argument}: {letter} of layer {layer}", given)
            if array.shape != shape:
                raise ValueError(f"{argument}: {letter} of layer {layer} has shape {array.shape}, expected {shape}")
            arrays.append(_as_floats(f"{argument}: {letter} of layer {layer}", array, np.dtype(np.float64)))
        result.append(tuple(arrays))
    return result


def metadata(value):
    """Check for a dict of strings."""
    pairs = value.items() if isinstance(value, dict) else [(value, None)]
    if not all(isinstance(key, str) and isinstance(item, str) for key, item in pairs):
        raise TypeError(f"metadata must be a dict of strings, got {value!r}")
    return dict(value)


# ------------------------------------------------------------------ arrays

_KEPT = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.uint8))  # what the kernels read as it is
_FEW = 32  # elements that Python looks at faster than NumPy
_PIECE = 1 << 16  # elements looked at together: no temporary grows with the data


def inputs(X, n_in, dtype, argument="X"):
    """Return samples as (n_samples, n_in), C-contiguous, and whether X was one sample, (n_in,).

    float32, float64 and uint8 stay as they are; what else holds numbers becomes the dtype of the network.
    """
    X = _numbers(argument, X)
    single = X.ndim == 1
    if X.ndim not in (1, 2):
        raise ValueError(f"{argument} must be 2-D, (n_samples, {n_in}), got {X.ndim}-D with shape {X.shape}")
    if X.size == 0:
        raise ValueError(f"{argument} is empty: shape {X.shape}")
    if X.shape[-1] != n_in:
        if single:
            raise ValueError(f"{argument} is 1-D, which is one sample of {n_in} numbers, but holds {len(X)}; for "
                             f"{len(X)} samples of one number write {argument}.reshape(-1, 1)")
        raise ValueError(f"{argument} has {X.shape[1]} columns (shape {X.shape}), but the network takes {n_in}")
    X = X[None] if single else X
    if X.dtype in _KEPT and X.flags.c_contiguous and X.flags.aligned:
        _finite(argument, X, dtype)
        return X, single
    return _as_floats(argument, X, dtype), single


def samples(X, n_in, dtype, argument="X"):
    """Check samples that must be rows: (n_samples, n_in)."""
    X, single = inputs(X, n_in, dtype, argument)
    if single:
        raise ValueError(f"{argument} must be 2-D, (n_samples, {n_in}), got 1-D; "
                         f"for one sample write {argument}[None, :]")
    return X


def targets(Y, n_samples, n_out, loss, dtype, single=False, argument="Y"):
    """Targets as (n_samples, n_out) in the dtype of the network, or class labels as int64 (n_samples,).

    `single`: X was one sample, so Y may lack its first axis.
    """
    row = losses.row_of(loss)
    Y = _numbers(argument, Y)
    if single and Y.ndim < 2 and not (Y.ndim == 1 and len(Y) == n_out == 1):
        Y = Y[None]
    if Y.ndim not in (1, 2):
        raise ValueError(f"{argument} must be 1-D or 2-D, got {Y.ndim}-D with shape {Y.shape}")
    if len(Y) != n_samples:
        raise ValueError(f"{argument} has {len(Y)} rows (shape {Y.shape}), but X has {n_samples}")
    if Y.ndim == 1 and row.takes_labels:
        return _labels(argument, Y, n_out)
    if Y.ndim == 1 and n_out > 1:
        raise ValueError(f"{argument} is 1-D, but the network has {n_out} outputs: expected shape "
                         f"({n_samples}, {n_out}); for class labels use loss='cross_entropy' or one-hot rows")
    Y = Y.reshape(n_samples, -1)
    if Y.shape[1] != n_out:
        labels = Y.shape[1] == 1 and row.takes_labels
        raise ValueError(f"{argument} has {Y.shape[1]} columns (shape {Y.shape}), but the network has {n_out} outputs"
                         + (f" (class labels are 1-D: {argument}.ravel())" if labels else ""))
    Y = _as_floats(argument, Y, dtype)
    if row.within_01 and (Y.min() < 0 or Y.max() > 1):
        worst = Y.min() if Y.min() < 0 else Y.max()
        raise ValueError(f"{argument} holds {worst:g}, but loss {loss!r} expects targets within [0, 1]")
    if row.is_positive and Y.min() < 0:
        raise ValueError(f"{argument} holds {Y.min():g}, but loss {loss!r} expects targets not below 0")
    if row.takes_signs and (np.abs(Y) != 1).any():
        worst = Y[np.abs(Y) != 1][0]
        raise ValueError(f"{argument} holds {worst:g}, but loss {loss!r} expects targets of -1 or 1")
    if row.takes_labels:
        row_sums = Y.sum(axis=1)
        worst = int(np.abs(row_sums - 1).argmax())
        if abs(row_sums[worst] - 1) > 1e-3:
            raise ValueError(f"{argument}[{worst}] sums to {row_sums[worst]:g}, but the probabilities of a row "
                             "must sum to 1")
    return Y


def output_gradient(dA, n_samples, n_out, dtype, single):
    """Check an output gradient of the caller's own: (n_samples, n_out)."""
    dA = _numbers("dA", dA)
    dA = dA[None] if single and dA.ndim == 1 else dA
    if dA.shape != (n_samples, n_out):
        raise ValueError(f"dA has shape {dA.shape}, expected ({n_samples}, {n_out})")
    return _as_floats("dA", dA, dtype)


def _labels(argument, Y, n_out):
    if Y.dtype.kind == "f":
        raise TypeError(f"{argument} is 1-D, so it holds class labels, which must be integers, got dtype {Y.dtype}; "
                        f"write {argument}.astype(int)")
    low, high = int(Y.min()), int(Y.max())
    if low < 0 or high >= n_out:
        hint = "; one output with labels 0 and 1: use loss='binary_cross_entropy'" if n_out == 1 else ""
        raise ValueError(f"{argument} holds the label {low if low < 0 else high}, but with {n_out} outputs labels "
                         f"must be 0 to {n_out - 1}{hint}")
    plain = Y.dtype == np.int64 and Y.flags.c_contiguous and Y.flags.aligned
    return Y if plain else np.array(Y, dtype=np.int64, order="C")


def _numbers(argument, value):
    """Any array-like of real numbers as an array."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{argument} must be a rectangular array of numbers, got rows of different lengths") from None
    if array.dtype.kind not in "buif":
        raise TypeError(f"{argument} must hold real numbers, got dtype {array.dtype} ({type(value).__name__})")
    return array


def _as_floats(argument, array, dtype):
    """Convert to a C-contiguous, aligned array of `dtype`; without a copy where it is one already."""
    if array.dtype != dtype or not (array.flags.c_contiguous and array.flags.aligned):
        with np.errstate(over="ignore"):
            converted = np.array(array, dtype=dtype, order="C")
        _finite(argument, converted, dtype, array)
        return converted
    _finite(argument, array, dtype)
    return array


def is_finite(array):
    """Whether every element is finite.  A finite sum of squares says so at once; it may also overflow."""
    flat = array.ravel()
    if flat.size <= _FEW:
        return all(map(math.isfinite, flat.tolist()))
    return math.isfinite(np.dot(flat, flat)) or bool(np.isfinite(flat).all())


def _finite(argument, array, dtype, original=None):
    """Check that every element is finite in `dtype`."""
    if array.dtype.kind != "f":
        return
    flat = array.ravel()
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        if piece.dtype != dtype:
            with np.errstate(over="ignore"):
                piece = piece.astype(dtype)
        if not is_finite(piece):
            finite = np.isfinite(piece)
            where = np.unravel_index(start + int(finite.argmin()), array.shape)
            value = (array if original is None else original)[where]
            place = ", ".join(map(str, where))
            raise ValueError(f"{argument}[{place}] is {value}: every value must be finite (in {dtype})")
