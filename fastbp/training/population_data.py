"""Checks of the data of a population, its folds and evaluation sets, and of the memory that a call of `fit` takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import arguments, checks, losses
from ..reference.population import has_own_targets
from ..update import PopulationData
from .population_orders import Rows, checked_rows

PREDICTED_NUMBERS = 1 << 30  # multiply-adds of one call that evaluates: Ctrl-C waits until it returns
NUMBERS_OF_A_NEURON = 256  # upper limit of what its activation and its loss cost, in multiply-adds
KEPT_BYTES = 1 << 28  # rows of evaluation sets that are gathered once instead of in each epoch


def checked_samples(pop: Any, X: Any, argument: str = "X") -> np.ndarray:
    """Check samples (n_samples, n_in), or those of each network, (n_networks, n_samples, n_in)."""
    n_in, dtype, n = pop._config.sizes[0], pop.dtype, len(pop)
    if np.ndim(X) != 3:
        return checks.samples(X, n_in, dtype, argument)
    if len(X) != n:
        raise ValueError(f"{argument} is 3-D with samples of {len(X)} networks, but the population has {n}")
    of_each = [checks.samples(X[i], n_in, dtype, f"{argument}[{i}]") for i in range(n)]
    is_kept = isinstance(X, np.ndarray) and checks.is_kept(X)
    return X if is_kept else np.stack(of_each)


def checked_targets(pop: Any, Y: Any, n_samples: int, argument: str = "Y") -> np.ndarray:
    """Check targets (n_samples, n_out) or labels (n_samples,), or of each network, with one more axis in front."""
    config, n = pop._config, len(pop)
    n_out, takes_labels = config.sizes[-1], losses.row_of(config.loss).takes_labels
    shape = np.shape(Y)
    is_own = len(shape) == 3 or (
        len(shape) == 2 and shape == (n, n_samples) != (n_samples, n_out) and (takes_labels or n_out == 1)
    )
    if not is_own:
        return checks.targets(Y, n_samples, n_out, pop.loss_name, pop.dtype, False, argument)
    if len(Y) != n:
        raise ValueError(f"{argument} is 3-D with targets of {len(Y)} networks, but the population has {n}")
    of_each = [
        checks.targets(Y[i], n_samples, n_out, pop.loss_name, pop.dtype, False, f"{argument}[{i}]") for i in range(n)
    ]
    is_kept = isinstance(Y, np.ndarray) and Y.ndim == 3 and Y.dtype == pop.dtype and checks.is_plain(Y)
    return Y if is_kept else np.stack(of_each)


def checked_data(pop: Any, X: Any, Y: Any, prefix: str = "") -> PopulationData:
    """Check samples and targets."""
    X = checked_samples(pop, X, f"{prefix}X")
    return PopulationData(X, checked_targets(pop, Y, X.shape[-2], f"{prefix}Y"))


def checked_weights(pop: Any, data: PopulationData, rows: Rows, sample_weight: Any, class_weight: Any) -> Any:
    """Return the weights of the samples times those of their classes: None, (n_samples,) or (n_networks, n_samples)."""
    X, Y, _ = data
    n_samples, n, n_out, dtype = X.shape[-2], len(pop), pop._config.sizes[-1], pop.dtype
    if sample_weight is None and class_weight is None:
        return None
    is_own = np.ndim(sample_weight) == 2
    if is_own and np.shape(sample_weight) != (n, n_samples):
        raise ValueError(
            f"sample_weight has shape {np.shape(sample_weight)}, expected ({n_samples},) or ({n}, {n_samples})"
        )
    is_balanced = isinstance(class_weight, str)
    if not (is_own or class_weight is not None and has_own_targets(Y) or is_balanced and not rows.are_all):
        if sample_weight is not None and np.shape(sample_weight) != (n_samples,):
            raise ValueError(
                f"sample_weight has shape {np.shape(sample_weight)}, expected ({n_samples},) or ({n}, {n_samples})"
            )
        y = np.zeros(n_samples, np.int64) if has_own_targets(Y) else Y
        return checks.weights(sample_weight, class_weight, y, n_out, dtype)
    result = np.zeros((n, n_samples), dtype)
    known: dict[int, np.ndarray] = {}  # by the set of rows, where that decides
    for i in range(n):
        row_set = int(rows.of[i])
        given = sample_weight[i] if is_own else sample_weight
        y = Y[i] if has_own_targets(Y) else Y
        if not is_own and not has_own_targets(Y) and row_set in known:
            result[i] = known[row_set]
            continue
        of_set = rows.sets[row_set] if is_balanced else None  # as of a training on these rows alone
        at: Any = slice(None) if of_set is None else of_set
        try:
            of_rows = None if given is None else np.asarray(given)[at]
            result[i, at] = checks.weights(of_rows, class_weight, y[at], n_out, dtype)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} (network {i})") from None
        known[row_set] = result[i]
    return result


# ------------------------------------------------------------------ folds


def checked_folds(folds: Any, X: np.ndarray, Y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return training and test rows of each fold, int64, of a number of folds, a splitter or pairs of rows."""
    n_samples = X.shape[-2]
    if isinstance(folds, int | np.integer) and not isinstance(folds, bool):
        k = arguments.integer("folds", folds, at_least=2)
        if k > n_samples:
            raise ValueError(f"folds must be at most the number of samples, {n_samples}, got {k}")
        parts = np.array_split(np.arange(n_samples), k)
        return [(np.concatenate(parts[:f] + parts[f + 1 :]), parts[f]) for f in range(k)]
    if hasattr(folds, "split") and not isinstance(folds, str | np.ndarray):
        if X.ndim == 3 or has_own_targets(Y):
            raise ValueError("folds is a splitter, which needs samples that all networks share: give pairs of rows")
        folds = folds.split(X, Y[:, 0] if Y.ndim == 2 and Y.shape[1] == 1 else Y)
    try:
        pairs = [tuple(pair) for pair in folds]
    except TypeError:
        raise TypeError(f"folds must be a number, a splitter, or pairs (train, test) of rows, got {folds!r}") from None
    if len(pairs) < 2 or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"folds must be 2 or more pairs (train, test) of rows, got {len(pairs)}")
    result = []
    for f, pair in enumerate(pairs):
        train, test = (
            checked_rows(f"folds[{f}]: {name}", [rows], 1, n_samples).sets[0]
            for name, rows in zip(("train", "test"), pair, strict=True)
        )
        assert train is not None and test is not None
        result.append((train, test))
    return result


# ------------------------------------------------------------------ evaluation


class Evaluation:
    """The rows on which networks are evaluated after each epoch.

    Parameters
    ----------
    pop : Population
    data : PopulationData
    rows : Rows
        Of each network.
    """

    def __init__(self, pop: Any, data: PopulationData, rows: Rows) -> None:
        self._pop, self._data, self.rows = pop, data, rows
        self._is_own = data.X.ndim == 3 or has_own_targets(data.Y)
        row_bytes = data.X.nbytes // data.X.shape[-2] + data.Y.nbytes // data.X.shape[-2]
        n_rows = sum(len(rows_of_set) for rows_of_set in rows.sets if rows_of_set is not None)
        self._gathered: dict[int, PopulationData] = {}
        self._keeps = n_rows * row_bytes <= KEPT_BYTES
        # Each network has other rows, as many and not too many for a call: then one evaluates all on several threads.
        self._stacks = (
            self._keeps
            and not self._is_own
            and len(pop.groups) == 1
            and 1 < len(rows.of) == len(rows.sets)
            and len(np.unique(rows.counts)) == 1
            and rows.counts[0] <= _rows_of_a_call(pop.groups[0].backend)
        )
        self._stacked: PopulationData | None = None

    @property
    def is_shared(self) -> bool:
        """Whether all networks are evaluated on the same samples."""
        return not self._is_own and len(self.rows.sets) == 1

    def key_of(self, i: int) -> tuple[int, int]:
        """Return what is the same for networks that have the same targets."""
        return int(self.rows.of[i]), i if has_own_targets(self._data.Y) else -1

    def targets_of(self, i: int) -> np.ndarray:
        """Return the targets of a network."""
        Y = self._data.Y[i] if has_own_targets(self._data.Y) else self._data.Y
        rows = self.rows.sets[self.rows.of[i]]
        return Y if rows is None else Y[rows]

    def _of_set(self, row_set: int) -> PopulationData:
        """Return the data of a set of rows that the networks share, in its order."""
        rows = self.rows.sets[row_set]
        if rows is None:
            return self._data
        if row_set in self._gathered:
            return self._gathered[row_set]
        data = PopulationData(self._data.X[rows], self._data.Y[rows])
        if self._keeps:
            self._gathered[row_set] = data
        return data

    def _of_networks(self) -> PopulationData:
        """Return the data of the sets of rows, one for each network."""
        if self._stacked is None:
            rows: Any = np.stack([self.rows.sets[row_set] for row_set in self.rows.of.tolist()])  # type: ignore[misc]
            self._stacked = PopulationData(self._data.X[rows], self._data.Y[rows])
        return self._stacked

    def _calls(self, members: np.ndarray) -> Iterator[tuple[np.ndarray, Any, np.ndarray, np.ndarray, PopulationData]]:
        """Yield short calls: positions in `members`, backend, parameters, their rows there, and data."""
        for g, group in enumerate(self._pop.groups):
            positions = np.flatnonzero(self._pop._group_of[members] == g)
            local = self._pop._row_of[members[positions]]
            sets = self.rows.of[members[positions]]
            if self._is_own and not self.rows.are_all:
                for at, row in zip(positions.tolist(), local.tolist(), strict=True):
                    i = int(members[at])
                    rows: Any = self.rows.sets[self.rows.of[i]]
                    X, Y, _ = self._data
                    data = PopulationData((X[i] if X.ndim == 3 else X)[rows], self.targets_of(i))
                    yield np.array([at]), group.backend, group.parameters[row : row + 1], np.array([0]), data
                continue
            cost = group.backend.n_parameters + NUMBERS_OF_A_NEURON * sum(group.config.sizes)
            if self._stacks:
                sets = np.zeros_like(sets)
            for row_set in [0] if len(self.rows.sets) == 1 else np.unique(sets).tolist():
                at, rows = positions[sets == row_set], local[sets == row_set]
                of_set = self._of_networks() if self._stacks else self._of_set(row_set)
                data = data_of_group(of_set, group.members, len(self._pop))
                n_together = max(1, PREDICTED_NUMBERS // (cost * data.X.shape[-2]))
                for start in range(0, len(at), n_together):
                    part = slice(start, start + n_together)
                    yield at[part], group.backend, group.parameters, rows[part], data

    def losses(self, members: np.ndarray) -> np.ndarray:
        """Return the loss of each of these networks by the reduction, float64 (len(members),)."""
        out = np.zeros(len(members))
        for positions, backend, parameters, rows, (X, Y, _) in self._calls(members):
            for chunk in _chunks(backend, X):
                out[positions] += backend.losses(
                    parameters, rows, _rows_of_samples(X, chunk), _rows_of_targets(Y, chunk)
                )
        return out / self.rows.counts[members] if self._pop.reduction == "mean" else out

    def outputs(self, members: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield of each of these networks, in any order: its position in `members`, its outputs, and its targets."""
        for positions, backend, parameters, rows, (X, Y, _) in self._calls(members):
            parts = [backend.predict(parameters, rows, _rows_of_samples(X, chunk)) for chunk in _chunks(backend, X)]
            A = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
            for at, a, row in zip(positions.tolist(), A, rows.tolist(), strict=True):
                yield at, a, Y[row] if has_own_targets(Y) else Y


def _chunks(backend: Any, X: np.ndarray) -> list[slice]:
    """Return the rows of calls that are short; for several networks all rows are few enough."""
    n_rows, n = _rows_of_a_call(backend), X.shape[-2]
    return [slice(None)] if n <= n_rows else [slice(start, start + n_rows) for start in range(0, n, n_rows)]


def _rows_of_a_call(backend: Any) -> int:
    """Return how many rows a short call evaluates by one network."""
    return max(1, PREDICTED_NUMBERS // (backend.n_parameters + NUMBERS_OF_A_NEURON))


def _rows_of_samples(X: np.ndarray, rows: slice) -> np.ndarray:
    return np.ascontiguousarray(X[..., rows, :])


def _rows_of_targets(Y: np.ndarray, rows: slice) -> np.ndarray:
    return np.ascontiguousarray(Y[:, rows] if has_own_targets(Y) else Y[rows])


def data_of_group(data: PopulationData, members: np.ndarray, n_networks: int) -> PopulationData:
    """Return the data of the networks of a group, of those of all networks."""
    if len(members) == n_networks:
        return data
    X, Y, weights = data
    return PopulationData(
        X if X.ndim == 2 else X[members],
        Y[members] if has_own_targets(Y) else Y,
        weights if weights is None or weights.ndim == 1 else weights[members],
    )


# ------------------------------------------------------------------ memory


def check_memory(needs: dict[str, int], advice: str) -> None:
    """Refuse what takes more memory than is available.

    Parameters
    ----------
    needs : dict
        Bytes by what they are for.
    advice : str

    Raises
    ------
    MemoryError
        Names the sizes.
    """
    total, available = sum(needs.values()), available_memory()
    if total > available:
        parts = ", ".join(f"{in_bytes(n)} for {what}" for what, n in needs.items() if n)
        raise MemoryError(
            f"this needs {in_bytes(total)} of memory ({parts}), but {in_bytes(available)} are available: {advice}"
        )


def available_memory() -> float:
    """Return the bytes of memory that are free: of the machine, and of the container."""
    return min(_free_of_machine(), *map(_free_of_group, _CONTROL_GROUPS))


_CONTROL_GROUPS = (  # limit, use, and statistics with the name of what can be dropped
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def _free_of_machine() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


def _free_of_group(files: tuple[str, str, str, str]) -> float:
    """Return what is left of the limit of the control group of this container; infinity without one."""
    limit, use, statistics, name = files
    folder = Path("/sys/fs/cgroup")
    try:
        left = int((folder / limit).read_text()) - int((folder / use).read_text())
        for line in (folder / statistics).read_text().splitlines():
            if line.split()[0] == name:
                left += int(line.split()[1])
    except (OSError, ValueError, IndexError):  # no such group, or no limit: "max"
        return float("inf")
    return float(left)


def in_bytes(n: float) -> str:
    """Return a number of bytes as text."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"
