"""The record of one backpropagation: every quantity by its textbook name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .reference.layout import layer_views

MAX_ROWS, MAX_COLUMNS = 12, 8  # of a printed table; the arrays are whole


@dataclass(frozen=True)
class TracedLayer:
    """The arrays of one layer in one backpropagation.

    Attributes
    ----------
    W, b : ndarray (n_in, n_out), (n_out,)
        Copies of the parameters.
    Z, A, delta : ndarray (n_samples, n_out)
        Pre-activation, activation, and d loss / d Z.
    dW, db : ndarray (n_in, n_out), (n_out,)
        Gradients of the loss.
    """

    activation: str
    W: np.ndarray
    b: np.ndarray
    Z: np.ndarray
    A: np.ndarray
    delta: np.ndarray
    dW: np.ndarray
    db: np.ndarray


@dataclass(frozen=True)
class Trace:
    """One backpropagation, step by step; ``print(trace)`` shows it as tables.

    Attributes
    ----------
    X, Y : ndarray
    loss : float
    losses : ndarray (n_samples,)
        Loss of each sample.
    layers : list of TracedLayer
        From the first layer after the input to the output.
    dX : ndarray (n_samples, n_in)
        d loss / d X.
    """

    sizes: tuple[int, ...]
    loss_name: str
    reduction: str
    X: np.ndarray
    Y: np.ndarray
    loss: float
    losses: np.ndarray
    layers: list[TracedLayer]
    dX: np.ndarray

    def __str__(self) -> str:
        """Return the tables, forward and then backward."""
        n_layers, n_samples = len(self.layers), len(self.X)
        mean = f" / {n_samples}" if self.reduction == "mean" else ""
        parts = [
            f"Backpropagation through {'-'.join(map(str, self.sizes))}, {n_samples} samples: "
            f"loss {self.loss:.6f} ({self.loss_name}, {self.reduction})",
            "",
            "Forward",
            "",
        ]
        for number, layer in enumerate(self.layers, start=1):
            before = "X" if number == 1 else f"A{number - 1}"
            formula = f"Z{number} = {before} @ W{number} + b{number}, A{number} = {layer.activation}(Z{number})"
            parts += [
                f"layer {number}: {formula}",
                _table({f"W{number}": layer.W}, "input"),
                _table({f"b{number}": layer.b[None]}, ""),
                _table(
                    {
                        before: self.X if number == 1 else self.layers[number - 2].A,
                        f"Z{number}": layer.Z,
                        f"A{number}": layer.A,
                    }
                ),
                "",
            ]
        parts += [
            "loss",
            _table(
                {f"A{n_layers}": self.layers[-1].A, "Y": self.Y.reshape(n_samples, -1), "loss": self.losses[:, None]}
            ),
            "",
            "Backward",
            "",
        ]
        for number in range(n_layers, 0, -1):
            layer, before = self.layers[number - 1], "X" if number == 1 else f"A{number - 1}"
            formula = (
                f"dE/dA{number} * f'(Z{number}){mean}"
                if number == n_layers
                else f"(delta{number + 1} @ W{number + 1}.T) * f'(Z{number})"
            )
            gradients = f"dW{number} = {before}.T @ delta{number}, db{number} = column sums of delta{number}"
            parts += [
                f"layer {number}: delta{number} = {formula}",
                _table({f"delta{number}": layer.delta}),
                f"layer {number}: {gradients}",
                _table({f"dW{number}": layer.dW}, "input"),
                _table({f"db{number}": layer.db[None]}, ""),
                "",
            ]
        return "\n".join(parts).rstrip()


def trace(net: Any, X: np.ndarray, Y: np.ndarray) -> Trace:
    """Record one backpropagation of `net`; X and Y are validated. See `Network.trace`."""
    record = net._backend.record(net.parameters, X, Y)
    weights, biases = layer_views(np.array(net.parameters), net.sizes)
    columns = zip(
        map(str, net.activations),
        weights,
        biases,
        record.Z,
        record.A[1:],
        record.delta,
        *layer_views(record.gradient, net.sizes),
        strict=True,
    )
    return Trace(
        net.sizes,
        str(net._config.loss),
        net.reduction,
        record.A[0],
        Y,
        net._reduced(record.losses),
        record.losses,
        [TracedLayer(*row) for row in columns],
        record.dX,
    )


def _table(columns: dict[str, np.ndarray], index: str = "sample") -> str:
    """Matrices side by side, one line a row, under their names."""
    n_rows = len(next(iter(columns.values())))
    lines = [f"  {index:>6}", *(f"  {row if index else '':>6}" for row in range(min(n_rows, MAX_ROWS)))]
    if n_rows > MAX_ROWS:
        lines.append(f"     ... {n_rows} rows")
    for name, matrix in columns.items():
        for column in range(min(matrix.shape[1], MAX_COLUMNS)):
            title = name if matrix.shape[1] == 1 else f"{name}[{column}]"
            values = matrix[:MAX_ROWS, column]
            cells = [title, *(f"{value:.6f}" if matrix.dtype.kind == "f" else str(value) for value in values)]
            width = max(map(len, cells)) + 2
            lines[: len(cells)] = [f"{line}{cell:>{width}}" for line, cell in zip(lines, cells, strict=False)]
        if matrix.shape[1] > MAX_COLUMNS:
            lines[0] += f"  ... {matrix.shape[1]} columns"
    return "\n".join(lines)
