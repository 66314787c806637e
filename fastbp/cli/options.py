"""Options and checks that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

READING = "Reading a table"  # titles of groups of options
TRAINING = "Training"

Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether a CSV file starts with names.",
        show_default="detected",
        rich_help_panel=READING,
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(help="Of a CSV file: utf-8, latin-1, utf-16 ...", show_default="detected", rich_help_panel=READING),
]
Delimiter = Annotated[
    str | None,
    typer.Option(help="Of a CSV file: a character, tab or blank.", show_default="detected", rich_help_panel=READING),
]
Backend = Annotated[str, typer.Option(help="numba, or numpy: plain and slow.")]


@dataclass(frozen=True)
class TrainingOptions:
    """Options of the commands that train: what is read, held out and saved."""

    target: Annotated[
        str | None,
        typer.Option(
            help="Target column of a table: its name, or its number from 0.",
            show_default="the last",
            rich_help_panel=READING,
        ),
    ] = None
    task: Annotated[
        str,
        typer.Option(
            help="What the targets are: classes, numbers, or auto: few whole numbers are classes.",
            rich_help_panel=READING,
        ),
    ] = "auto"
    test_fraction: Annotated[float, typer.Option(help="Fraction of the samples held out for the test.")] = 0.2
    seed: Annotated[int, typer.Option(help="Of the initial weights and the shuffling.")] = 0
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32"
    backend: Backend = "numba"
    out: Annotated[
        Path | None, typer.Option("--out", "--save", help="File for the model.", show_default="not saved")
    ] = None
    header: Header = None
    missing: Annotated[
        str,
        typer.Option(
            help="What to do with missing values: fill (numbers by the mean and a flag), drop (the rows), or error.",
            rich_help_panel=READING,
        ),
    ] = "fill"
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns of a table that are not used: a,b or several times.",
            show_default="none",
            rich_help_panel=READING,
        ),
    ] = None
    features: Annotated[
        list[str] | None,
        typer.Option(
            help="The only columns that are used, besides the target.", show_default="all", rich_help_panel=READING
        ),
    ] = None
    encoding: Encoding = None
    delimiter: Delimiter = None


def with_training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `TrainingOptions` to a command, which gets them as its argument ``options``."""
    parameters = dict(inspect.signature(command, eval_str=True).parameters)
    del parameters["options"]
    hints = get_type_hints(TrainingOptions, include_extras=True)
    for field in fields(TrainingOptions):
        parameters[field.name] = inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        options = TrainingOptions(**{field.name: values.pop(field.name) for field in fields(TrainingOptions)})
        command(**values, options=options)

    wrapped.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    wrapped.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return wrapped


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


def check_can_save(out: Path | None, data: str) -> None:
    """Refuse, before the training, what could not be saved after it."""
    check_out(out, data)
    if out is not None and out.suffix.lower() == ".safetensors":
        from .. import files

        files._safetensors()
