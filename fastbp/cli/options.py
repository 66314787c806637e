"""Options and checks that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Header = Annotated[
    bool | None,
    typer.Option("--header/--no-header", help="Whether a CSV file starts with names.", show_default="detected"),
]


def check_out(out: Path | None, *inputs: str | Path) -> None:
    """Refuse an output file that cannot be written, or that is one of the inputs."""
    if out is None:
        return
    if not out.parent.is_dir():
        raise ValueError(f"cannot save to {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise ValueError(f"cannot save to {out}: it is a folder")
    for name in inputs:
        if Path(name).exists() and out.exists() and out.samefile(name):
            raise ValueError(f"cannot save to {out}: it is read, and would be lost")
