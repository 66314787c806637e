"""The command `fastbp verify`: the gradients of some small networks, computed in three ways."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer

from .screen import Screen

VERIFIED = [  # sizes, activations, loss
    ([2, 2, 1], ["sigmoid", "sigmoid"], "squared_error"),
    ([5, 7, 4, 3], ["tanh", "sigmoid", "softmax"], "cross_entropy"),
    ([4, 6, 2], ["relu", "sigmoid"], "binary_cross_entropy"),
    ([3, 9, 5, 2], ["gelu", "elu", "identity"], "huber"),
    ([6, 17, 1], ["silu", "softplus"], "absolute_error"),
]


def verify(seed: Annotated[int, typer.Option(help="Of the weights and the samples.")] = 0) -> None:
    """Check the gradients of small networks: Numba against NumPy against central differences."""
    from ..network import Network

    screen = Screen()
    reports = []
    for sizes, activations, loss in VERIFIED:
        net = Network(sizes, activations, loss=loss, seed=seed)
        screen.announce_compilation(net)
        report = net.verify(*_samples(sizes[0], sizes[-1], loss, seed))
        print(f"{'-'.join(map(str, sizes))}, {', '.join(map(str, activations))}; {loss}\n{report}\n")
        reports.append(report)
    ok = all(report.ok for report in reports)
    if any(report.is_wrong for report in reports):
        screen.say("WRONG: see above", "red")
    elif ok:
        screen.say("everything agrees", "green")
    else:
        screen.say("not everything could be checked: see above")
    raise typer.Exit(0 if ok else 1)


def _samples(n_in: int, n_out: int, loss: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw nine samples, and targets between 0 and 1 whose sum is 1 for cross-entropy."""
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((9, n_in)), rng.dirichlet(np.ones(n_out + 1), 9)[:, 1:]
    return X, Y / Y.sum(axis=1, keepdims=True) if loss == "cross_entropy" else Y
