"""Metrics: how good predictions are, by name in ``Trainer.fit(metrics=["accuracy", "f1"])`` or called, ``f1(A, Y)``.

The values are those of scikit-learn with zero_division=0.  The targets of training and validation together tell how
they name classes.  They must be labels, the integers 0 to n_out - 1, rows within 0 and 1, or rows of -1 and 1; for any
others the metrics of classes (accuracy, precision, recall, f1, top_k) raise a ValueError:

- labels (n_samples,), or rows: each sample has one class, the label or that of the largest target; the prediction is
  the class of the largest output;
- one output, or rows of which one neither holds exactly one yes nor sums to 1 (multi-label): each output by itself
  means yes above 1/2, or above 0 if the targets are -1 and 1.  Targets that are all 1 are 0 and 1, unless the loss
  takes -1 and 1.

Precision, recall and f1 of one output are those of yes; of several they are means over the outputs, or over the classes
that occur in targets or predictions.  Errors of several outputs are averaged.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from . import arguments, checks
from .backends import COMPILED, kernels_of

__all__ = ["METRICS", "TopK", "accuracy", "explained_variance", "f1", "mae", "precision", "r2", "recall", "rmse"]


class Kind(NamedTuple):
    """Properties of the targets of a training, known before it begins."""

    n_out: int
    has_labels: bool  # class labels, (n_samples,)
    threshold: float | None  # of each output by itself: 1/2, or 0 for targets of -1 and 1; None: one class per sample
    not_classes: tuple[float, float] | None = None  # the smallest and largest target, if they do not name classes


def kind_of(n_out: int, targets: list[np.ndarray], has_signs: bool) -> Kind:
    """Derive from all targets of a training how they name classes; `has_signs`: the loss takes -1 and 1."""
    if any(Y.ndim == 1 for Y in targets):
        return Kind(n_out, True, None)
    low, high = min(float(Y.min()) for Y in targets), max(float(Y.max()) for Y in targets)
    has_signs = has_signs or low == -1 and all((np.abs(Y) == 1).all() for Y in targets)
    if not (has_signs or low >= 0 and high <= 1):
        return Kind(n_out, False, None, (low, high))
    threshold = 0.0 if has_signs else 0.5
    is_multi_label = any(_is_multi_label(Y, threshold) for Y in targets)
    return Kind(n_out, False, threshold if n_out == 1 or is_multi_label else None)


def _is_multi_label(Y: np.ndarray, threshold: float) -> bool:
    """Whether a row holds no yes or several, and its elements do not sum to 1 as probabilities do."""
    rows = Y[(Y > threshold).sum(axis=1) != 1]
    return bool(len(rows) and (threshold == 0 or (np.abs(rows.sum(axis=1) - 1) > checks.SUM_TOLERANCE).any()))


def _accept_all(kind: Kind) -> None:
    pass


def _check_classes(kind: Kind) -> None:
    if kind.not_classes is not None:
        low, high = kind.not_classes
        raise ValueError(
            "metrics of classes (accuracy, precision, recall, f1, top_k) need targets that are labels "
            f"(integers 0 to n_out - 1, one output for each class), rows within 0 and 1, or rows of -1 "
            f"and 1; got {kind.n_out} columns of numbers from {low:g} to {high:g}: for numbers use mae, "
            "rmse or r2"
        )


def _check_top(k: int, kind: Kind) -> None:
    _check_classes(kind)
    if kind.threshold is not None:
        raise ValueError(f"metric top_{k} needs one class for each sample: labels or one-hot rows of targets")
    if kind.n_out <= k:
        raise ValueError(f"metric top_{k} is 1 for any network with up to {k} outputs, and this has {kind.n_out}")


def _check_rows(kind: Kind) -> None:
    if kind.has_labels:
        raise ValueError("metrics of errors (mae, rmse, r2, explained_variance) need rows of targets, got labels")


class _Counts:
    """Of each class the samples that are right, predicted and true."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self.n_samples = kind, 0
        self.counts, self.right = np.zeros((3, kind.n_out), np.int64), np.zeros(1, np.int64)

    def add(self, kernels: ModuleType, A: np.ndarray, Y: np.ndarray) -> None:
        self.n_samples += len(A)
        if self.kind.threshold is None:
            kernels.class_counts(A, Y, self.counts)
            self.right[0] = self.counts[0].sum()
        else:
            kernels.label_counts(A, Y, self.kind.threshold, self.counts, self.right)

    def mean(self, values: np.ndarray) -> float:
        """Average over outputs, or over the classes that occur."""
        occurs = self.counts[1] + self.counts[2] > 0
        return float(values[occurs].mean() if self.kind.threshold is None else values.mean())


class _Top:
    """The samples whose class has one of the k largest outputs."""

    def __init__(self, k: int, kind: Kind) -> None:
        self.k, self.n_samples, self.right = k, 0, np.zeros(1, np.int64)

    def add(self, kernels: ModuleType, A: np.ndarray, Y: np.ndarray) -> None:
        self.n_samples += len(A)
        kernels.top_counts(A, Y, self.k, self.right)


class _Errors:
    """Sums over the errors of each output."""

    def __init__(self, kind: Kind) -> None:
        self.totals = np.zeros((7, kind.n_out))  # see kernels.error_sums

    def add(self, kernels: ModuleType, A: np.ndarray, Y: np.ndarray) -> None:
        kernels.error_sums(A, Y, self.totals)

    def explained(self, rest: np.ndarray) -> float:
        """1 - rest / sum of (Y - mean)^2; for a constant target 1 if nothing rests, else 0."""
        spread = self.totals[6]
        is_constant = spread == 0
        constant = np.where(rest > 0, 0.0, 1.0)
        return float(np.where(is_constant, constant, 1 - rest / np.where(is_constant, 1, spread)).mean())


class Metric:
    """A measure of how good predictions are.

    Parameters
    ----------
    name : str
    totals : callable, Kind -> totals over the samples, with a method add(kernels, A, Y); metrics may share them.
    value : callable, totals -> float
    check : callable, optional
        Called with the `Kind` of the targets before training changes anything; raises a ValueError if the metric is not
        defined for them.
    falls : bool
        Whether smaller is better.
    """

    def __init__(
        self,
        name: str,
        totals: Callable[[Kind], Any],
        value: Callable[[Any], float],
        check: Callable[[Kind], None] = _accept_all,
        falls: bool = False,
    ) -> None:
        self.name, self.totals, self.value, self.check, self.falls = name, totals, value, check, falls

    def __call__(self, A: Any, Y: Any) -> float:
        """Compute it.

        Parameters
        ----------
        A : array_like (n_samples, n_out)
            Output activations; (n_samples,) is one output.
        Y : array_like (n_samples, n_out), or class labels (n_samples,)
            With one output a 1-D Y is its targets.  For metrics of classes (accuracy, precision, recall, f1, top_k):
            labels 0 to n_out - 1, rows within 0 and 1 (one-hot, probabilities, multi-label), or rows of -1 and 1.

        Raises
        ------
        ValueError, TypeError
            If these do not fit each other, or the metric is not defined for them, as accuracy for numbers.
        """
        A, Y = checks.outputs(A, Y)
        return Measures({self.name: self}, A.shape[1], [Y], kernels_of(COMPILED)).of([(A, Y)], Y)[self.name]

    def of(self, totals: Any) -> float:
        """Return the value of the totals; infinite or not a number if they overflowed."""
        with np.errstate(all="ignore"):
            return self.value(totals)

    def __repr__(self) -> str:
        """Return where it is found."""
        return f"fastbp.metrics.{self.name}"


class TopK(Metric):
    """Fraction of the samples whose class has one of the k largest outputs; by name "top_3", "top_5" and so on.

    Of equal outputs the later class counts as the larger, as in scikit-learn's top_k_accuracy_score.

    Parameters
    ----------
    k : int
        Smaller than the number of outputs.
    """

    def __init__(self, k: int) -> None:
        k = arguments.integer("k", k)
        super().__init__(f"top_{k}", partial(_Top, k), _fraction_right, partial(_check_top, k))

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"fastbp.metrics.TopK({self.name[4:]})"


def _fraction_right(totals: _Counts | _Top) -> float:
    return float(totals.right[0] / totals.n_samples)


def _precision(totals: _Counts) -> float:
    right, predicted, _ = totals.counts
    return totals.mean(right / np.maximum(predicted, 1))


def _recall(totals: _Counts) -> float:
    right, _, true = totals.counts
    return totals.mean(right / np.maximum(true, 1))


def _f1(totals: _Counts) -> float:
    right, predicted, true = totals.counts
    return totals.mean(2 * right / np.maximum(predicted + true, 1))


def _mae(errors: _Errors) -> float:
    return float((errors.totals[1] / errors.totals[0]).mean())


def _rmse(errors: _Errors) -> float:
    return float(np.sqrt(errors.totals[2] / errors.totals[0]).mean())


def _r2(errors: _Errors) -> float:
    return errors.explained(errors.totals[2]) if errors.totals[0, 0] > 1 else float("nan")


def _explained_variance(errors: _Errors) -> float:
    return errors.explained(errors.totals[4])


accuracy = Metric("accuracy", _Counts, _fraction_right, _check_classes)  # multi-label: all outputs of a sample right
precision = Metric("precision", _Counts, _precision, _check_classes)
recall = Metric("recall", _Counts, _recall, _check_classes)
f1 = Metric("f1", _Counts, _f1, _check_classes)
mae = Metric("mae", _Errors, _mae, _check_rows, falls=True)
rmse = Metric("rmse", _Errors, _rmse, _check_rows, falls=True)
r2 = Metric("r2", _Errors, _r2, _check_rows)  # not a number for a single sample
explained_variance = Metric("explained_variance", _Errors, _explained_variance, _check_rows)
METRICS = {
    metric.name: metric
    for metric in (accuracy, TopK(3), TopK(5), precision, recall, f1, mae, rmse, r2, explained_variance)
}


RESERVED = ("loss", "epoch", "seconds")  # recorded anyway


def by_name(name: Any) -> Metric:
    """Return the metric of this name."""
    top = re.fullmatch(r"top_([1-9]\d*)", name) if isinstance(name, str) else None
    return TopK(int(top[1])) if top else METRICS[arguments.name("metrics", name, METRICS)]


def named(metrics: Any) -> dict[str, Callable]:
    """Return the metrics of ``fit(metrics=...)``, names or functions, by name."""
    if isinstance(metrics, str) or callable(metrics):
        metrics = (metrics,)
    if not isinstance(metrics, list | tuple):
        raise TypeError(f"metrics must be a sequence of names or functions (A, Y) -> float, got {metrics!r}")
    functions = [metric if callable(metric) else by_name(metric) for metric in metrics]
    names = [
        metric.name if isinstance(metric, Metric) else getattr(metric, "__name__", repr(metric)) for metric in functions
    ]
    if len(set(names)) < len(names):
        raise ValueError(f"metrics must have different names, got {names}")
    for name in names:
        if name in RESERVED or name.startswith("validation_"):
            raise ValueError(f"metrics must not be named {name!r}, which is recorded anyway: rename the function")
    return dict(zip(names, functions, strict=True))


class Measures:
    """The metrics of one training, over samples that come in chunks.

    Parameters
    ----------
    metrics : dict, name -> Metric or function (A, Y) -> float
        A function may have an attribute `check`, as `Metric` does.
    n_out : int
    targets : list of ndarray
        Of every set that will be measured.
    kernels : module
        `fastbp.kernels`, or `fastbp.reference`.
    has_signs : bool
        Whether the targets are -1 and 1, even where none is -1.

    Raises
    ------
    ValueError
        If a metric is not defined for these targets.
    """

    def __init__(
        self,
        metrics: dict[str, Callable],
        n_out: int,
        targets: list[np.ndarray],
        kernels: ModuleType,
        has_signs: bool = False,
    ) -> None:
        self._metrics, self._kernels = metrics, kernels
        self._built_in = [metric for metric in metrics.values() if isinstance(metric, Metric)]
        checks_of_metrics = [metric.check for metric in metrics.values() if hasattr(metric, "check")]
        self._kind = kind_of(n_out, targets, has_signs) if checks_of_metrics else Kind(n_out, False, None)
        for check in checks_of_metrics:
            check(self._kind)

    def _totals(self) -> dict:
        return {start: start(self._kind) for start in {metric.totals: None for metric in self._built_in}}

    def of(self, chunks: Iterable[tuple[np.ndarray, np.ndarray]], Y: np.ndarray) -> dict[str, float]:
        """Measure a set that comes in chunks (A, Y); its outputs are kept only if a function needs them all."""
        totals, outputs = self._totals(), []
        for A, y in chunks:
            with np.errstate(all="ignore"):  # squares of large errors overflow
                for each in totals.values():
                    each.add(self._kernels, A, y)
            if len(self._built_in) < len(self._metrics):
                outputs.append(A)
        everything = np.concatenate(outputs) if outputs else None
        return {
            name: metric.of(totals[metric.totals])
            if isinstance(metric, Metric)
            else returned_number(f"the metric {name!r}", metric(everything, Y))
            for name, metric in self._metrics.items()
        }


def returned_number(what: str, value: Any) -> float:
    """Check what a custom function returned."""
    try:
        if not isinstance(value, str) and np.ndim(value) == 0:
            return float(value)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{what} must return a number, got {value!r}")


def falls(name: str) -> bool:
    """Derive from the name of a recorded quantity whether smaller values are better.

    Raises
    ------
    ValueError
        If the name does not tell.
    """
    plain = name.removeprefix("validation_")
    if plain in METRICS or plain.startswith("top_"):
        return plain in METRICS and METRICS[plain].falls
    if "loss" in plain or "error" in plain:
        return True
    if "accuracy" in plain or "score" in plain:
        return False
    hint = f" (did you mean 'validation_{name[4:]}'?)" if name.startswith("val_") else ""
    raise ValueError(
        f"whether a better {name!r} is smaller or larger is not known{hint}: pass mode='min' or mode='max'"
    )
