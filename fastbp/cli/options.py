"""Options and checks that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Header = Annotated[
    bool | None,
    typer.Option("--header/--no-header", help="Whether a CSV file starts with names.", show_default="detected"),
]
Encoding = Annotated[
    str | None, typer.Option(help="Of a CSV file: utf-8, latin-1, utf-16 ...", show_default="detected")
]
Delimiter = Annotated[
    str | None,
    typer.Option(help="Of a CSV file: a character, tab or blank.", show_default="detected"),
]
Missing = Annotated[
    str,
    typer.Option(
        help="What to do with missing values: fill (numbers by the mean and a flag), drop (the rows), or error."
    ),
]
Ignore = Annotated[
    list[str] | None, typer.Option(help="Columns of a table that are not used: a,b or several times.", show_default="")
]
Features = Annotated[
    list[str] | None, typer.Option(help="The only columns that are used, besides the target.", show_default="all")
]


def columns(given: list[str] | None) -> list[str] | None:
    """Return the columns named by an option, which are separated by commas."""
    return None if given is None else [name.strip() for names in given for name in names.split(",") if name.strip()]


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
