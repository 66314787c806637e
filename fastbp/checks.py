"""Checks of samples, targets, weights and layers, and of the settings of networks and trainers.

All validation is done once, where the user's arguments enter.  Every function returns its argument in the form that the
kernels take, or raises a ValueError or TypeError that names the argument, what was given and what was expected.
"""

from __future__ import annotations

import math
import numbers
import reprlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import arguments, losses
from .activations import ACTIVATIONS, Activation, row_of
from .backends import Config
from .losses import LOSSES, Loss, Parameterized


def optimizer(value: Any, known: tuple[type, ...]) -> Any:
    """Check for an optimizer: an instance of one of the classes `known`."""
    if isinstance(value, known):
        n_networks = getattr(value, "n_networks", None)  # methods of the full batch have none
        if n_networks is not None:
            raise ValueError(
                f"optimizer has settings for each of {n_networks} networks of a Population, but the trainer is of one "
                "Network"
            )
        return value
    hint = ""
    if isinstance(value, str):
        hint = arguments.did_you_mean(value, [kind.__name__ for kind in known], "fastbp.{}(...)")
    elif isinstance(value, type) and value in known:
        hint = f"; write fastbp.{value.__name__}(...)"
    raise TypeError(f"optimizer must be one such as fastbp.SGD(lr=0.1), got {value!r}{hint}")


def validation_pair(value: Any) -> Any:
    """Check for a pair (X, Y)."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return value
    got = type(value).__name__
    if isinstance(value, list | tuple):
        got += f" of {len(value)}" + (": weights of validation samples are not supported" if len(value) == 3 else "")
    raise TypeError(f"validation_data must be a pair (X, Y), got {got}")


def dropout(value: float | Sequence[float], n_layers: int) -> tuple[float, ...]:
    """Check the dropout rates: one number, or one for each layer but the last; () if all are 0."""
    if isinstance(value, list | tuple):
        if len(value) != n_layers - 1:
            raise ValueError(
                f"dropout must be one number or {n_layers - 1} (one per layer but the last), got {value!r}"
            )
        rates = tuple(arguments.number(f"dropout[{l}]", rate, at_least=0, below=1) for l, rate in enumerate(value))
    else:
        rates = (arguments.number("dropout", value, at_least=0, below=1),) * (n_layers - 1)
        if value and not rates:
            raise ValueError(f"dropout is {value}, but the network has one layer, and the last has no dropout")
    return rates if any(rates) else ()


def label_smoothing(value: float, loss: Any) -> float:
    """Check the fraction of the targets that is spread over the classes."""
    value = arguments.number("label_smoothing", value, at_least=0, below=1)
    if value and not (losses.row_of(loss).takes_labels or losses.row_of(loss).is_binary):
        known = ", ".join(key for key, row in LOSSES.items() if row.takes_labels or row.is_binary)
        raise ValueError(f"label_smoothing needs a loss of classes ({known}), but the network has {loss!r}")
    return value


def sizes(value: Sequence[int]) -> tuple[int, ...]:
    """Check the layer sizes: two or more positive integers."""
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) < 2:
        raise TypeError(f"sizes must be the inputs, the layers and the outputs, such as [64, 30, 10], got {value!r}")
    return tuple(arguments.integer(f"sizes[{i}]", size) for i, size in enumerate(value))


def activations(value: Any, n_layers: int) -> tuple[str | Activation, ...]:
    """Check the activations: one name for all layers, or one per layer."""
    if not isinstance(value, str) and isinstance(value, list | tuple):
        if len(value) != n_layers:
            raise ValueError(
                f"activations must be one name or {n_layers} (one per layer after the input), got {value!r}"
            )
        return tuple(_activation(f"activations[{i}]", item) for i, item in enumerate(value))
    return (_activation("activations", value),) * n_layers


def _activation(argument: str, value: Any) -> str | Activation:
    if isinstance(value, Activation):
        return value
    if callable(value):
        raise TypeError(f"{argument} must be a name or a fastbp.Activation(function, derivative), got {value!r}")
    return arguments.name(argument, value, ACTIVATIONS)


def loss(value: Any, output_activation: str | Activation) -> str | Loss | Parameterized:
    """Check the loss, and that it is defined for the outputs of the last layer."""
    if callable(value):
        raise TypeError(
            "loss must be a name, one such as fastbp.losses.Huber(threshold=2.0), or a "
            f"fastbp.Loss(function, derivative), got {value!r}"
        )
    if not isinstance(value, Loss | Parameterized):
        arguments.name("loss", value, LOSSES)
    row = losses.row_of(value)
    for field, takes in (("within_01", "probabilities"), ("is_positive", "outputs above 0")):
        if getattr(row, field) and not getattr(row_of(output_activation), field):
            suitable = ", ".join(key for key, other in ACTIVATIONS.items() if getattr(other, field))
            raise ValueError(
                f"loss {losses.name_of(value)!r} takes {takes}: the last activation must be one of "
                f"{suitable}, got {output_activation!r}"
            )
    return value


def widths(sizes: Sequence[int], activations: Sequence[str | Activation], loss: Any = None) -> None:
    """Check that softmax and cross-entropy, which compare the outputs of a layer, have more than one output."""
    for i, (n_out, activation) in enumerate(zip(sizes[1:], activations, strict=True)):
        if n_out == 1 and activation == "softmax":
            raise ValueError(
                f"activations[{i}] is 'softmax' over one neuron, which is 1 whatever its input: "
                "use 'sigmoid', for classes 0 and 1 with loss='binary_cross_entropy'"
            )
    if loss is not None and sizes[-1] == 1 and losses.row_of(loss).takes_labels:
        raise ValueError(
            f"loss {losses.name_of(loss)!r} needs one output for each class, but the network has one: "
            "use loss='binary_cross_entropy', with 'sigmoid' as the last activation"
        )


def dtype(value: Any) -> np.dtype:
    """Check the dtype: float32 or float64."""
    try:
        result = np.dtype(value)
        known = value is not None and result in (np.dtype(np.float32), np.dtype(np.float64))
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"dtype must be 'float32' or 'float64', got {value!r}")
    return result


def input_scale(value: float, dtype: np.dtype) -> float:
    """Check the factor of the inputs: a normal number of the dtype, above 0."""
    return arguments.number("input_scale", value, above=float(np.finfo(dtype).tiny), below=float(np.finfo(dtype).max))


def config(given: Config) -> Config:
    """Check what defines the function of a network."""
    checked_sizes = sizes(given.sizes)
    functions = activations(given.activations, len(checked_sizes) - 1)
    checked_dtype = dtype(given.dtype)
    return Config(
        sizes=checked_sizes,
        activations=functions,
        loss=loss(given.loss, functions[-1]),
        reduction=arguments.name("reduction", given.reduction, ("mean", "sum")),
        dtype=checked_dtype,
        input_scale=input_scale(given.input_scale, checked_dtype),
    )


def layer(W: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check the arrays of one layer, which are used as they are."""
    for name, array, n_dimensions in (("W", W, 2), ("b", b, 1)):
        unmasked(name, array)
        if not isinstance(array, np.ndarray) or array.dtype not in _KEPT[:2] or not is_plain(array):
            what = f"{array.dtype} array" if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"{name} must be a C-contiguous float32 or float64 array, got {what}")
        if array.ndim != n_dimensions or array.size == 0:
            raise ValueError(f"{name} must be {n_dimensions}-D and not empty, got shape {array.shape}")
    if b.shape != W.shape[1:] or b.dtype != W.dtype:
        raise ValueError(f"b must be {W.dtype} of shape {W.shape[1:]}, as W is {W.shape}, got {b.dtype} {b.shape}")
    return np.asarray(W), np.asarray(b)  # without a mask that hides nothing


def layer_arrays(
    argument: str, value: Any, shapes: Sequence[tuple[int, int]], dtype: np.dtype
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Check a sequence of (W, b), one per layer, finite in `dtype`, and return it as float64 arrays."""
    of_layer = "a name, an initializer or a pair (W, b)"
    if not isinstance(value, list | tuple):
        raise TypeError(f"{argument} must be a name, an initializer or a list of one item per layer, got {value!r}")
    if len(value) != len(shapes):
        raise ValueError(f"{argument} must hold {of_layer} for each of the {len(shapes)} layers, got {len(value)}")
    for layer, pair in enumerate(value, start=1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise TypeError(f"{argument}: layer {layer} must have {of_layer}, got {pair!r}")
    result = []
    for layer, (pair, (n_in, n_out)) in enumerate(zip(value, shapes, strict=True), start=1):
        arrays = []
        for letter, given, shape in zip("Wb", pair, [(n_in, n_out), (n_out,)], strict=True):
            array = _numbers(f"{argument}: {letter} of layer {layer}", given)
            if array.shape != shape:
                raise ValueError(f"{argument}: {letter} of layer {layer} has shape {array.shape}, expected {shape}")
            array = _as_floats(f"{argument}: {letter} of layer {layer}", array, np.dtype(np.float64))
            finite(f"{argument}: {letter} of layer {layer}", array, dtype)
            arrays.append(array)
        result.append((arrays[0], arrays[1]))
    return result


def metadata(value: Any) -> dict[str, str]:
    """Check for a dict of strings."""
    pairs = value.items() if isinstance(value, dict) else [(value, None)]
    if not all(isinstance(key, str) and isinstance(item, str) for key, item in pairs):
        raise TypeError(f"metadata must be a dict of strings, got {value!r}")
    return dict(value)


# dtypes of samples that kernels read without a copy
_KEPT = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.uint8))
_SQUARES = {dtype: float(np.finfo(dtype).max) ** 2 if dtype == np.float32 else math.inf for dtype in _KEPT[:2]}
SUM_TOLERANCE = 1e-3  # of probabilities that should sum to 1
_FEW = 32  # elements that Python checks faster than NumPy
_CHUNK = 1 << 16  # elements checked together: no temporary grows with the data


def inputs(
    X: Any, n_in: int, dtype: np.dtype, argument: str = "X", is_trusted: bool = False
) -> tuple[np.ndarray, bool]:
    """Return samples as (n_samples, n_in), C-contiguous, and whether X was one sample, (n_in,).

    float32, float64 and uint8 stay as they are; any other numbers become the dtype of the network.  Those that stay are
    not checked for infinities and NaN if they are trusted.
    """
    if is_ready(X, n_in, dtype) and (is_trusted or X.size <= _CHUNK and is_finite(X)):
        return X, False
    given, X = X, _numbers(argument, X)
    single = X.ndim == 1
    if X.ndim not in (1, 2):
        raise ValueError(f"{argument} must be 2-D, (n_samples, {n_in}), got {X.ndim}-D with shape {X.shape}")
    if X.size == 0:
        raise ValueError(f"{argument} is empty: shape {X.shape}")
    if X.shape[-1] != n_in:
        if single:
            raise ValueError(
                f"{argument} is 1-D, which is one sample of {n_in} numbers, but holds {len(X)}; for "
                f"{len(X)} samples of one number write {_array_of(argument, given)}.reshape(-1, 1)"
            )
        raise ValueError(f"{argument} has {X.shape[1]} columns (shape {X.shape}), but the network takes {n_in}")
    X = X[None] if single else X
    if is_kept(X):
        if not is_trusted:
            finite(argument, X, dtype)
        return X, single
    return _as_floats(argument, X, dtype), single


def is_ready(array: Any, n_columns: int, dtype: np.dtype) -> bool:
    """Whether these are rows that the kernels take as they are: the short way, on which nothing is converted."""
    if type(array) is not np.ndarray or array.dtype != dtype:
        return False
    shape, flags = array.shape, array.flags
    return len(shape) == 2 and shape[1] == n_columns and shape[0] > 0 and flags.c_contiguous and flags.aligned


def is_plain(array: np.ndarray) -> bool:
    """Whether the kernels can read an array of the right dtype without a copy."""
    flags = array.flags
    return flags.c_contiguous and flags.aligned


def is_kept(X: np.ndarray) -> bool:
    """Whether the kernels can read samples without a copy."""
    return X.dtype in _KEPT and is_plain(X)


def samples(X: Any, n_in: int, dtype: np.dtype, argument: str = "X") -> np.ndarray:
    """Check samples that must be rows: (n_samples, n_in)."""
    if is_ready(X, n_in, dtype) and X.size <= _CHUNK and is_finite(X):
        return X
    rows, single = inputs(X, n_in, dtype, argument)
    if single:
        raise ValueError(
            f"{argument} must be 2-D, (n_samples, {n_in}), got 1-D; "
            f"for one sample write {_array_of(argument, X)}[None, :]"
        )
    return rows


def targets(
    Y: Any,
    n_samples: int,
    n_out: int,
    loss: Any,
    dtype: np.dtype,
    single: bool = False,
    argument: str = "Y",
) -> np.ndarray:
    """Targets as (n_samples, n_out) in the dtype of the network, or class labels as int64 (n_samples,).

    `single`: X was one sample, so Y may lack its first axis.
    """
    row = losses.row_of(loss)
    if not (is_ready(Y, n_out, dtype) and len(Y) == n_samples and Y.size <= _CHUNK and is_finite(Y)):
        Y = _target_array(Y, n_samples, n_out, row, dtype, single, argument)
    if Y.ndim == 2:
        _check_range(argument, Y, loss, row)
    return Y


def _target_array(Y, n_samples, n_out, row, dtype, single, argument):
    """Return targets, or class labels, in the form that kernels take."""
    given, Y = Y, _numbers(argument, Y)
    if single and Y.ndim < 2 and not (Y.ndim == 1 and len(Y) == n_out == 1):
        Y = Y[None]
    if Y.ndim not in (1, 2):
        raise ValueError(f"{argument} must be 1-D or 2-D, got {Y.ndim}-D with shape {Y.shape}")
    if len(Y) != n_samples:
        raise ValueError(f"{argument} has {len(Y)} rows (shape {Y.shape}), but X has {n_samples}")
    if Y.ndim == 1 and row.takes_labels:
        return _labels(argument, Y, n_out, given)
    if Y.ndim == 1 and n_out > 1:
        raise ValueError(
            f"{argument} is 1-D, but the network has {n_out} outputs: expected shape "
            f"({n_samples}, {n_out}); for class labels use loss='cross_entropy' or one-hot rows"
        )
    Y = Y.reshape(n_samples, -1)
    if Y.shape[1] != n_out:
        labels = Y.shape[1] == 1 and row.takes_labels
        raise ValueError(
            f"{argument} has {Y.shape[1]} columns (shape {Y.shape}), but the network has {n_out} outputs"
            + (f" (class labels are 1-D: {_array_of(argument, given)}.ravel())" if labels else "")
        )
    return _as_floats(argument, Y, dtype)


def _check_range(argument, Y, loss, row):
    """Check that the loss is defined for these targets."""
    if row.within_01 or row.is_positive:
        low, high = _bounds(Y)
        if row.within_01 and (low < 0 or high > 1):
            worst = low if low < 0 else high
            raise ValueError(f"{argument} holds {worst:g}, but loss {loss!r} expects targets within [0, 1]")
        if row.is_positive and low < 0:
            raise ValueError(f"{argument} holds {low:g}, but loss {loss!r} expects targets not below 0")
    if row.takes_signs and (np.abs(Y) != 1).any():
        worst = Y[np.abs(Y) != 1][0]
        raise ValueError(f"{argument} holds {worst:g}, but loss {loss!r} expects targets of -1 or 1")
    if row.takes_labels:
        row_sums = Y.sum(axis=1)
        worst = int(np.abs(row_sums - 1).argmax())
        if abs(row_sums[worst] - 1) > SUM_TOLERANCE:
            raise ValueError(
                f"{argument}[{worst}] sums to {row_sums[worst]:g}, but the probabilities of a row must sum to 1"
            )


def target_bounds(loss: Any, dtype: np.dtype) -> tuple[float, float]:
    """Return bounds within which `_check_range` asks no more of targets than that rows of labels sum to 1."""
    row, largest = losses.row_of(loss), float(np.finfo(dtype).max)
    if row.takes_signs:
        return 1.0, -1.0  # none
    return 0.0 if row.within_01 or row.is_positive else -largest, 1.0 if row.within_01 else largest


def _bounds(array):
    """Return the least and the largest element."""
    if array.size > _FEW:
        return array.min(), array.max()
    values = array.ravel().tolist()
    return min(values), max(values)


def weights(sample_weight: Any, class_weight: Any, Y: np.ndarray, n_out: int, dtype: np.dtype) -> np.ndarray | None:
    """Weight of each sample times that of its class, (n_samples,) in `dtype`; None without weights."""
    if sample_weight is None and class_weight is None:
        return None
    result = np.ones(len(Y))
    if sample_weight is not None:
        given = _numbers("sample_weight", sample_weight)
        if given.shape != (len(Y),):
            raise ValueError(f"sample_weight has shape {given.shape}, expected ({len(Y)},): one for each sample")
        result *= _as_floats("sample_weight", given, dtype)
        if result.min() < 0:
            row = int(result.argmin())
            raise ValueError(f"sample_weight[{row}] is {result[row]:g}: weights must be at least 0")
    if class_weight is not None:
        result *= _class_weights(class_weight, Y, n_out)
    return _as_floats("sample_weight times class_weight", result, dtype)


def _class_weights(value, Y, n_out):
    """Weight of each sample by its class."""
    if not isinstance(value, dict) and not (isinstance(value, str) and value == "balanced"):
        raise TypeError(f"class_weight must be 'balanced' or a dict {{class: weight}}, got {value!r}")
    has_signs = n_out == 1 and ((Y < 0).any() or isinstance(value, dict) and -1 in value)  # a chunk may hold 1 alone
    low, high = (-1 if has_signs else 0), 1
    if Y.ndim == 1:
        labels, known = Y, tuple(range(n_out))
    elif ((Y == low) | (Y == high)).all() and (n_out == 1 or (Y.sum(axis=1) == 1).all()):
        labels, known = (Y[:, 0].astype(int), (low, high)) if n_out == 1 else (Y.argmax(axis=1), tuple(range(n_out)))
    else:
        raise ValueError("class_weight needs samples of one class each: labels, one-hot rows, or one output of 0 and 1")
    if isinstance(value, str):  # King and Zeng (2001), as in scikit-learn
        _, where, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return len(labels) / (len(counts) * counts[where])
    result = np.ones(len(labels))
    for key, weight in value.items():
        is_truth = isinstance(key, bool | np.bool_) and known != (0, 1)  # labels that were bool are 0 and 1
        if is_truth or key not in known:
            raise ValueError(
                f"class_weight names the class {key!r}, but the classes are "
                + ", ".join(map(str, known[:3]))
                + (f" ... {known[-1]}" if len(known) > 3 else "")
            )
        result[labels == key] = arguments.number(f"class_weight[{key}]", weight, at_least=0)
    return result


def outputs(A: Any, Y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check outputs and targets without a network: A (n_samples, n_out), Y the same or labels."""
    given, A, Y = Y, _numbers("A", A), _numbers("Y", Y)
    A = A[:, None] if A.ndim == 1 else A
    if A.ndim != 2 or A.size == 0:
        raise ValueError(f"A must be (n_samples, n_out) with at least one sample, got shape {A.shape}")
    if Y.ndim not in (1, 2) or len(Y) != len(A) or (Y.ndim == 2 and Y.shape != A.shape):
        raise ValueError(f"Y has shape {Y.shape}, expected {A.shape}, or ({len(A)},) for labels")
    dtype = A.dtype if A.dtype.kind == "f" and A.dtype.itemsize in (4, 8) else np.dtype(np.float64)
    A = np.ascontiguousarray(A, dtype)
    if Y.ndim == 1 and A.shape[1] > 1:
        return A, _labels("Y", Y, A.shape[1], given)
    return A, _as_floats("Y", Y.reshape(A.shape), dtype)


def output_gradient(dA: Any, n_samples: int, n_out: int, dtype: np.dtype, single: bool) -> np.ndarray:
    """Check an output gradient: (n_samples, n_out)."""
    dA = _numbers("dA", dA)
    dA = dA[None] if single and dA.ndim == 1 else dA
    if dA.shape != (n_samples, n_out):
        raise ValueError(f"dA has shape {dA.shape}, expected ({n_samples}, {n_out})")
    return _as_floats("dA", dA, dtype)


def _labels(argument, Y, n_out, given):
    if Y.dtype.kind == "f":
        finite(argument, Y, np.dtype(np.float64))
        raise TypeError(
            f"{argument} is 1-D, so it holds class labels, which must be integers, got dtype {Y.dtype}; "
            f"write {_array_of(argument, given)}.astype(int)"
        )
    low, high = map(int, _bounds(Y))
    if low < 0 or high >= n_out:
        raise ValueError(
            f"{argument} holds the label {low if low < 0 else high}, but with {n_out} outputs labels "
            f"must be 0 to {n_out - 1}"
        )
    return Y if Y.dtype == np.int64 and is_plain(Y) else np.array(Y, dtype=np.int64, order="C")


def _array_of(argument, given):
    """Return how to write an argument as an array, for a hint."""
    name = argument.split(": ")[-1]
    return name if isinstance(given, np.ndarray) else f"numpy.asarray({name})"


def _numbers(argument, value):
    """Any array-like of real numbers as an array."""
    if type(value) is np.ndarray and value.dtype.kind in "buif":
        return value
    if hasattr(value, "toarray"):
        raise TypeError(
            f"{argument} must be a dense array, got the sparse {type(value).__name__}: write "
            f"{argument.split(': ')[-1]}.toarray()"
        )
    unmasked(argument, value)
    try:
        array = np.asanyarray(value)  # which keeps the mask of what becomes a masked array
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise ValueError(f"{argument} cannot be read as an array: {error}") from error
        raise ValueError(f"{argument} must be a rectangular array of numbers, got rows of different lengths") from None
    except (TypeError, RuntimeError) as error:  # of other libraries, as for a tensor that requires a gradient
        raise TypeError(f"{argument} cannot be read as an array: {error}") from error
    unmasked(argument, array)
    array = np.asarray(array)
    if array.dtype.kind == "O" and array.ndim:
        return _from_objects(argument, value, array)
    if array.dtype.kind not in "buif":
        hint = _text_hint(argument) if array.dtype.kind in "SUT" else ""
        raise TypeError(f"{argument} must hold real numbers, got dtype {array.dtype} ({type(value).__name__}){hint}")
    return array


def _from_objects(argument, value, array):
    """Numbers of several types, as in a table with nullable columns: int64 if all are integers, else float64.

    Missing ones become NaN.
    """
    kinds = set(map(type, array.flat))
    missing = tuple(kind for kind in kinds if kind.__name__ in ("NoneType", "NAType"))  # the latter is pandas.NA
    from decimal import Decimal

    wrong = tuple(kind for kind in kinds - set(missing) if not issubclass(kind, numbers.Real | Decimal | np.bool_))
    if wrong:
        position = next(i for i, item in enumerate(array.flat) if type(item) in wrong)
        item, place = array.flat[position], np.unravel_index(position, array.shape)
        found, names = f"{reprlib.repr(item)} ({type(item).__name__})", _column_names(value)
        if array.ndim == 2 and len(names) == array.shape[1]:
            found = f"column {names[place[1]]!r} holds {found} in row {place[0]}"
        else:
            found = f"{argument}[{', '.join(map(str, place))}] is {found}"
        hint = _text_hint(argument) if isinstance(item, str | bytes) else ""
        raise TypeError(f"{argument} must hold real numbers, but {found}{hint}")
    items = [math.nan if type(item) in missing else item for item in array.flat] if missing else array.ravel()
    is_whole = all(issubclass(kind, numbers.Integral | np.bool_) for kind in kinds)
    for dtype in (np.int64, np.float64)[not is_whole :]:
        try:
            return np.array(items, dtype).reshape(array.shape)
        except OverflowError:
            pass
    raise ValueError(f"{argument} holds an integer that is too large for float64")


def _column_names(table: Any) -> list[Any]:
    """Return the names of the columns of a data frame; empty for other arrays."""
    names: Any = getattr(table, "column_names", None)  # of pyarrow, whose `columns` are arrays
    names = getattr(table, "columns", ()) if names is None else names
    return [name.item() if isinstance(name, np.generic) else name for name in names]


def _text_hint(argument):
    if argument.split(": ")[-1] == "Y":
        return "; encode labels as integers 0 to k - 1: classes, Y = numpy.unique(Y, return_inverse=True)"
    return "; encode text as numbers, such as a column of 0 and 1 for each category"


def unmasked(argument: str, value: Any) -> None:
    """Check that no element of an array, or of arrays within lists, is masked: a masked element has no value."""
    if "numpy.ma" not in sys.modules:  # then there are no masked arrays
        return
    place = _masked_place(value)
    if place is not None:
        raise ValueError(f"{argument}[{', '.join(map(str, place))}] is masked: leave such rows out, or fill them")


def _masked_place(value, depth=2):
    if isinstance(value, np.ma.MaskedArray) and value.dtype.names is None:
        mask = np.ma.getmaskarray(value)
        return tuple(map(int, np.unravel_index(mask.argmax(), mask.shape))) if np.ma.is_masked(value) else None
    if depth and isinstance(value, list | tuple):
        kinds = [kind for kind in set(map(type, value)) if issubclass(kind, list | tuple | np.ma.MaskedArray)]
        for i, item in enumerate(value if kinds else ()):
            place = _masked_place(item, depth - 1)
            if place is not None:
                return i, *place
    return None


def _as_floats(argument, array, dtype):
    """Convert to a C-contiguous, aligned array of `dtype`; without a copy if it is one already."""
    if array.dtype != dtype or not is_plain(array):
        with np.errstate(over="ignore"):
            converted = np.array(array, dtype=dtype, order="C")
        finite(argument, converted, dtype, array)
        return converted
    finite(argument, array, dtype)
    return array


def is_finite(array: np.ndarray, dtype: np.dtype | None = None) -> bool:
    """Whether every element is finite, or would be in `dtype`."""
    if array.size <= _FEW and (dtype is None or array.dtype == dtype):
        values = array.ravel().tolist()
        return math.isfinite(sum(values)) or all(map(math.isfinite, values))  # a sum of finite numbers may overflow
    flat = array.ravel()
    dtype = flat.dtype if dtype is None else dtype
    # A sum of squares below the limit proves it without a copy; a larger one proves nothing.  Unlike np.dot, np.vdot
    # does not warn where it overflows.
    if float(np.vdot(flat, flat)) < _SQUARES[dtype]:
        return True
    with np.errstate(all="ignore"):
        return bool(np.isfinite(flat.astype(dtype, copy=False)).all())


def finite(argument: str, array: np.ndarray, dtype: np.dtype, original: np.ndarray | None = None) -> None:
    """Check that every element is finite in `dtype`."""
    if array.dtype.kind != "f" or array.dtype == dtype and array.size <= _FEW and is_finite(array):
        return
    flat = array.ravel()
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        if not is_finite(chunk, dtype):
            with np.errstate(over="ignore"):
                finite = np.isfinite(chunk.astype(dtype))
            where = np.unravel_index(start + int(finite.argmin()), array.shape)
            value = (array if original is None else original)[where]
            place = ", ".join(map(str, where))
            raise ValueError(f"{argument}[{place}] is {value}: every value must be finite (in {dtype})")
