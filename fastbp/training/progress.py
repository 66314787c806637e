"""The progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

from .. import arguments
from .history import History

SILENT_SECONDS = 2.0  # progress=None shows a bar only on longer work

_NO_BAR: AbstractContextManager[Callable[[Any], None]] = nullcontext(lambda history: None)


def last_loss(history: History) -> str:
    """Return the loss of the last epoch as text."""
    return f"loss {history.loss[-1]:.4g}"


def is_silent(progress: bool | None) -> bool:
    """Whether there is to be no bar, surely."""
    return progress is False or progress is None and not _is_terminal()


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def progress_bar(
    progress: bool | None, epochs: int, describe: Callable[[Any], str] = last_loss
) -> AbstractContextManager[Callable[[Any], None]]:
    """Return a context whose value is a function that shows a history; it does nothing where there is to be no bar.

    Parameters
    ----------
    progress : bool or None
        As in `Trainer.fit`.
    epochs : int
    describe : function (history) -> str
        What stands beside the bar, of a history with epochs.
    """
    if progress is not None:
        arguments.flag("progress", progress)
    if progress and find_spec("rich") is None:
        raise ImportError("progress=True needs the package rich: pip install 'fastbp[cli]'")
    if progress or (progress is None and _is_terminal()):
        return _rich_bar(epochs, 0.0 if progress else SILENT_SECONDS, describe)
    return _NO_BAR


@contextmanager
def _rich_bar(epochs: int, silent_seconds: float, describe: Callable[[Any], str]) -> Iterator[Callable[[Any], None]]:
    bar, task, show_from = None, None, time.perf_counter() + silent_seconds

    def show(history: Any) -> None:
        nonlocal bar, task, show_from
        if bar is None:
            if time.perf_counter() < show_from:
                return
            try:
                from rich.progress import Progress
            except ImportError:
                show_from = float("inf")
                return
            bar = Progress()
            task = bar.add_task("training", total=epochs)
            bar.start()
        bar.update(task, completed=len(history), description=describe(history) if len(history) else "training")

    try:
        yield show
    finally:
        if bar is not None:
            bar.stop()
