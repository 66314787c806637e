"""Verification of the arithmetic: Numba against NumPy against central differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from . import activations, losses
from .backends import COMPILED, REFERENCE, make_backend
from .reference.backprop import Backpropagation
from .reference.custom import evaluated, twin_of
from .reference.layout import layer_views

MAX_SAMPLES = 128  # evenly spaced among those given
MAX_DIFFERENCES = 24  # elements of each W and b compared with central differences
STEP = 6e-6  # of a central difference: the cube root of float64's eps balances rounding and truncation
KINK = 3e-5  # of the largest Z: nearer to a kink than this, rounding may take a Z to its other side

# Bounds on a difference: a fraction of the largest element of the quantity, where a fault is of order 1, plus a
# multiple of its rounding error, measured as NumPy in float32 minus NumPy in float64 (eps64 / eps32 is 2e-9).
NUMBA = 1e-9, 1e-6
NUMBA_32 = 1e-4, 20.0
DIFFERENCES = 1e-5
VISIBLE = 0.1  # if rounding may be more than this fraction of the largest element, it could hide a fault

Quantities: TypeAlias = dict[tuple[int, str], np.ndarray]  # by layer and name
AGREES, WRONG, NOT_CHECKABLE = "agrees", "WRONG", "not checkable"


@dataclass(frozen=True)
class Row:
    """Largest differences of one quantity of one layer, relative to its largest element.

    Attributes
    ----------
    layer : int
    quantity : str
        "A", "dW", "db", or "dX" (the gradient of the network's input).
    numba : float
        Numba from NumPy, both in float64.
    numba_32 : float or None
        For a float32 network: Numba in float32 from NumPy in float64.
    differences : float or None
        NumPy from central differences of the loss, in float64.
    checked, skipped, size : int
        Elements compared with central differences; those left out because the loss has a kink there; all of them.
    verdict : str
        "agrees"; "WRONG"; or "not checkable": nothing differs by more than rounding, but rounding or kinks would hide a
        fault.
    """

    layer: int
    quantity: str
    numba: float
    numba_32: float | None
    differences: float | None
    checked: int
    skipped: int
    size: int
    verdict: str

    @property
    def ok(self) -> bool:
        """Whether it was checked, and agrees."""
        return self.verdict == AGREES


@dataclass(frozen=True)
class Report:
    """Result of `Network.verify`; prints as a table.

    Attributes
    ----------
    rows : list of Row
    n_used, n_samples : int
        Numbers of samples used and given.
    moved : bool
        Whether the parameters (of a copy) were moved a little, because every sample lay on a kink.
    """

    rows: list[Row]
    n_used: int
    n_samples: int
    moved: bool

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong and a gradient was checked."""
        return not self.is_wrong and any(row.ok for row in self.rows if row.quantity != "A")

    @property
    def is_wrong(self) -> bool:
        """Whether a row is wrong."""
        return any(row.verdict == WRONG for row in self.rows)

    def __str__(self) -> str:
        """Return the table."""
        table: list[tuple[str, ...]] = [("layer", "", "numba", "numba 32", "differences", "checked", "")]
        for row in self.rows:
            checked = f"{row.checked} of {row.size}" if row.checked or row.skipped else "-"
            checked += f", {row.skipped} on kinks" if row.skipped else ""
            numbers = ["-" if x is None else f"{x:.1e}" for x in (row.numba, row.numba_32, row.differences)]
            table.append((str(row.layer), row.quantity, *numbers, checked, row.verdict))
        lines = [f"{a:>5}  {b:<3} {c:>9} {d:>9} {e:>12}  {f:<18} {g}".rstrip() for a, b, c, d, e, f, g in table]
        moved = "; parameters moved a little, off a kink" if self.moved else ""
        lost = not all(row.ok for row in self.rows)
        outcome = (
            WRONG
            if self.is_wrong
            else "no gradient could be checked here: rounding or kinks hide them all"
            if not self.ok
            else "everything that can be checked here agrees"
            if lost
            else "everything agrees"
        )
        return "\n".join(
            [
                "Largest difference, as a fraction of the largest element:",
                "  numba        Numba from NumPy, in float64",
                "  numba 32     Numba in float32 from NumPy in float64",
                "  differences  NumPy from central differences of the loss, in float64",
                "",
                *lines,
                "",
                f"{self.n_used} of {self.n_samples} samples{moved}: {outcome}",
            ]
        )


@np.errstate(all="ignore")  # the verdicts show what is not finite
def verify(net: Any, X: np.ndarray, Y: np.ndarray) -> Report:
    """Compare both backends and central differences; X and Y are validated. See `Network.verify`."""
    n_samples = len(X)
    chosen = np.unique(np.linspace(0, n_samples - 1, MAX_SAMPLES).astype(int))
    X, Y = _cast(X[chosen].astype(net.dtype), np.float64), _cast(Y[chosen], np.float64)
    parameters = _cast(net.parameters, np.float64)

    def backend(name: str, dtype: Any = np.float64) -> Any:
        return make_backend(name, net._config._replace(dtype=np.dtype(dtype)))

    smooth = _off_kinks(net, backend(REFERENCE).record(parameters, X), Y)
    moved = not smooth.any()
    if moved:
        parameters += 0.01 * np.random.default_rng(0).standard_normal(parameters.size)
        smooth = _off_kinks(net, backend(REFERENCE).record(parameters, X), Y)
        smooth |= not smooth.any()
    X, Y = X[smooth], Y[smooth]

    def quantities(name: str, dtype: str) -> Quantities:
        return _quantities(backend(name, dtype), *(_cast(array, dtype) for array in (parameters, X, Y)))

    truth, numba, rounded = quantities(REFERENCE, "f8"), quantities(COMPILED, "f8"), quantities(REFERENCE, "f4")
    numba_32 = quantities(COMPILED, "f4") if net.dtype == np.float32 else {}
    blurring = _Blurred(*net._config._replace(dtype=np.dtype(np.float64)))
    blurred = _quantities(blurring, parameters, X, Y)
    rows = []
    for (layer, quantity), exact in truth.items():
        key, scale = (layer, quantity), np.abs(exact).max()
        off = [np.nan_to_num(np.abs(other[key] - exact).max(), nan=0.0, posinf=0.0) for other in (rounded, blurred)]
        rounding, checked, skipped = max(off), 0, 0
        results = [_compared(numba[key], exact, scale, rounding, *NUMBA), (None, None), (None, None)]
        if numba_32:
            results[1] = _compared(numba_32[key], exact, scale, rounding, *NUMBA_32)
            if not np.isfinite(rounded[key]).all():  # beyond the numbers of float32
                results[1] = None, NOT_CHECKABLE
        if quantity in ("dW", "db"):
            index, slopes, noise = _central_differences(
                backend(REFERENCE), blurring, parameters, X, Y, layer, quantity, exact
            )
            kept = ~np.isnan(slopes)
            checked, skipped = int(kept.sum()), int((~kept).sum())
            results[2] = _compared(slopes[kept], exact.flat[index[kept]], scale, noise, DIFFERENCES, 1.0)
        fractions, verdicts = zip(*results, strict=True)
        # float32 loses digits that float64 keeps: there it suffices that nothing is wrong
        verdict = WRONG if WRONG in verdicts else NOT_CHECKABLE if NOT_CHECKABLE in verdicts[::2] else AGREES
        rows.append(Row(layer, quantity, *fractions, checked, skipped, exact.size, verdict))  # type: ignore[call-arg]
    return Report(rows, len(X), n_samples, moved)


class _Blurred(Backpropagation):
    """With random errors of the size of float32 rounding: relative ones in every Z and A, absolute ones in every f'.

    f' computed from A, as 1 - A^2, has no more digits where f is saturated: both backends may be off by as much.
    """

    def __init__(self, *config: Any) -> None:
        super().__init__(*config)
        self._rng = np.random.default_rng(0)

    def _noise(self, array: np.ndarray) -> np.ndarray:
        return np.finfo(np.float32).eps * self._rng.choice([-1.0, 1.0], array.shape) * array

    def forward(self, parameters: np.ndarray, X: np.ndarray) -> tuple[list, list]:
        Z, A = super().forward(parameters, X)
        for layer in range(len(Z)):
            A[layer] = A[layer] + self._noise(A[layer])
            W, b = (views[layer] for views in layer_views(parameters, self.sizes))
            Z[layer] = A[layer] @ W + b
            Z[layer] = Z[layer] + self._noise(Z[layer])
            A[layer + 1] = evaluated(twin_of(self.activations[layer]), Z[layer], shape=Z[layer].shape)
        A[-1] = A[-1] + self._noise(A[-1])
        return Z, A

    def activation_backward(self, layer: int, Z: np.ndarray, A: np.ndarray, dA: np.ndarray) -> np.ndarray:
        return super().activation_backward(layer, Z, A, dA) + self._noise(dA)


def _cast(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Copy in `dtype`; class labels stay integers."""
    return np.array(array, dtype=dtype if array.dtype.kind == "f" else array.dtype)


def _quantities(backend: Any, parameters: np.ndarray, X: np.ndarray, Y: np.ndarray) -> Quantities:
    """Return A, dW and db of every layer, and dX, in float64, by (layer, name)."""
    record = backend.record(parameters, X, Y)
    rows = {}
    dW, db = layer_views(record.gradient, backend.sizes)
    for layer in range(1, len(backend.sizes)):
        rows[layer, "A"] = record.A[layer].astype(np.float64)
        rows[layer, "dW"], rows[layer, "db"] = dW[layer - 1].astype(np.float64), db[layer - 1].astype(np.float64)
        if layer == 1:
            rows[1, "dX"] = record.dX.astype(np.float64)
    return rows


def _compared(
    values: np.ndarray, exact: np.ndarray, scale: float, rounding: float, fraction: float, multiple: float
) -> tuple[float | None, str]:
    """Return the largest difference as a fraction of `scale`, and the verdict; a NaN in one alone is wrong."""
    if not values.size or not (np.isfinite(exact).all() or np.array_equal(np.isfinite(values), np.isfinite(exact))):
        return None, WRONG if values.size else NOT_CHECKABLE
    if not np.isfinite(scale):
        return None, NOT_CHECKABLE
    largest, noise = float(np.abs(values - exact).max()), multiple * rounding
    verdict = AGREES if noise < VISIBLE * scale else NOT_CHECKABLE
    return largest / scale if scale else largest, verdict if largest <= fraction * scale + noise else WRONG


def _off_kinks(net: Any, record: Any, Y: np.ndarray) -> np.ndarray:
    """Mark samples of which no Z lies near the kink of its activation, and no output near the kink of the loss."""
    near = np.zeros(len(Y), bool)
    for activation, Z in zip(net.activations, record.Z, strict=True):
        for kink in activations.row_of(activation).kinks:
            near |= (np.abs(Z - kink) <= KINK * np.abs(Z).max()).any(axis=1)
    if losses.row_of(net.loss_name).has_kink:
        A = record.A[-1]
        near |= (np.abs(A - Y) <= KINK * max(np.abs(A).max(), np.abs(Y).max())).any(axis=1)
    return ~near


def _central_differences(
    backend: Any,
    blurred: Any,
    parameters: np.ndarray,
    X: np.ndarray,
    Y: np.ndarray,
    layer: int,
    quantity: str,
    exact: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Slopes of the loss along some elements of W or b of a layer.

    Returns
    -------
    index : ndarray (n,)
        Flat indices of the elements: the largest of `exact`, and random ones.
    slopes : ndarray (n,)
        NaN where the loss has a kink within the step.
    noise : float
        Rounding error to be expected in a slope, also from how far the losses of `blurred` are off.
    """
    rng, eps = np.random.default_rng(layer), np.finfo(np.float64).eps
    order = np.argsort(-np.abs(exact), axis=None)
    largest, others = order[: MAX_DIFFERENCES // 2], order[MAX_DIFFERENCES // 2 :]
    index = np.concatenate([largest, rng.permutation(others)[: MAX_DIFFERENCES // 2]])
    moved = parameters.copy()
    view = layer_views(moved, backend.sizes)[quantity == "db"][layer - 1].reshape(-1)
    reach = max(1.0, np.abs(backend.record(parameters, X).A[layer - 1]).max()) if quantity == "dW" else 1.0
    mean = 1 / len(X) if backend.reduction == "mean" else 1.0
    middle, blurred_losses = (each.losses(parameters, X, Y) for each in (backend, blurred))
    ratio = eps / np.finfo(np.float32).eps
    for step in (STEP / reach, STEP / reach / 30, STEP / reach / 900):  # smaller ones if all meet a kink
        noise = mean * (50 * eps * (1 + np.abs(middle)) + 10 * ratio * np.abs(blurred_losses - middle)).sum() / step
        slopes = np.array([_slope(backend, moved, view, i, step, X, Y, middle) * mean for i in index])
        smooth = np.abs(slopes[:, 1:]).max(axis=1) <= noise + DIFFERENCES * np.abs(slopes[:, 0]).max()
        if smooth.any():
            break
    return index, np.where(smooth, slopes[:, 0], np.nan), noise


def _slope(
    backend: Any,
    parameters: np.ndarray,
    view: np.ndarray,
    i: int,
    step: float,
    X: np.ndarray,
    Y: np.ndarray,
    middle: np.ndarray,
) -> np.ndarray:
    """Return the central difference, and two numbers that are 0 up to rounding if there is no kink.

    They compare the steps h and h/2: central differences agree, and second differences are proportional to h^2.
    """
    value = view[i]
    central, bend = [], []
    for h in (step * max(1.0, abs(value)) / 2, step * max(1.0, abs(value))):
        above, below = value + h, value - h
        view[i] = above
        up = backend.losses(parameters, X, Y) - middle
        view[i] = below
        down = backend.losses(parameters, X, Y) - middle
        central.append((up - down).sum() / (above - below) if above > below else np.nan)  # NaN: the step is rounded off
        bend.append((up + down).sum() / h)
    view[i] = value
    return np.array([central[1], central[1] - central[0], bend[1] - 2 * bend[0]])
