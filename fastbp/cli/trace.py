"""The command `fastbp trace`: one backpropagation, quantity by quantity."""

from __future__ import annotations

from typing import Annotated

import typer

from ..datasets import load_xor


def trace(
    data: Annotated[str, typer.Argument(help="xor.")] = "xor",
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
) -> None:
    """Follow one backpropagation through a 2-2-1 network, quantity by quantity."""
    from ..network import Network

    if data != "xor":
        raise ValueError(f"only xor can be traced here, not {data!r}; net.trace(X, Y) traces any in Python")
    net = Network([2, 2, 1], "sigmoid", loss="squared_error", dtype="float64", seed=seed, backend="numpy")
    print(net.trace(*load_xor()))
