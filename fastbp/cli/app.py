"""The typer application: its commands, and how it reports errors and warnings."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.text import Text

from .predict import predict
from .screen import Screen, plain, printable
from .search import search
from .trace import trace
from .train import train
from .verify import verify

_shows_tracebacks = False  # set by --debug


def make_app() -> typer.Typer:
    """Build the application from the functions of the commands."""
    app = typer.Typer(
        cls=_Group, add_completion=False, pretty_exceptions_enable=False, epilog="Try: fastbp train digits"
    )
    app.callback(invoke_without_command=True)(_about)
    for command in (train, search, predict, verify, trace):
        app.command()(_reporting_errors(command))
    return app


class _Group(typer.core.TyperGroup):
    """Commands whose usage errors escape what a terminal would obey."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _printable_usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        with _printable_usage_errors():
            return super().invoke(*args, **kwargs)


@contextmanager
def _printable_usage_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(getattr(error, "message", None), str):  # typer's usage errors, in all its versions
            error.message = printable(error.message)  # type: ignore[attr-defined]
        raise


def _about(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Feed-forward neural networks, trained by backpropagation on the CPU."""
    global _shows_tracebacks
    _shows_tracebacks = debug
    if version:
        from .. import __version__

        print(f"fastbp {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def _reporting_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Report the errors that a user can correct as red lines, exit code 2, and warnings as a yellow line."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default", UserWarning)
                warnings.showwarning = _show_warning
                command(*args, **kwargs)
        except BrokenPipeError:  # as in `fastbp ... | head`: typer exits quietly
            raise
        except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
            if _shows_tracebacks:
                raise
            for problem in getattr(error, "problems", [_in_one_line(error)]):
                Screen().err.print(Text.assemble(("error:", "red"), " ", plain(" ".join(problem.split()))))
            raise typer.Exit(2) from None

    return wrapped


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    Screen().warn(f"warning: {' '.join(str(message).split())}")


def _in_one_line(error: Exception) -> str:
    has_file = isinstance(error, OSError) and error.filename
    text = f"{error.strerror}: {error.filename}" if has_file else str(error)  # type: ignore[attr-defined]
    return " ".join(text.split())
