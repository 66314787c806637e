"""The progress bar."""

import sys
import time
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec

from .. import arguments

SILENT_SECONDS = 2.0  # a progress bar of its own accord appears only on longer work


_NO_BAR = nullcontext(lambda history: None)


def _progress_bar(progress, epochs):
    """Return a context whose value shows a history; it does nothing where there is to be no bar."""
    if progress is not None:
        arguments.flag("progress", progress)
    if progress and find_spec("rich") is None:
        raise ImportError("progress=True needs the package rich: pip install 'fastbp[cli]'")
    if progress or (progress is None and sys.stdout is not None and sys.stdout.isatty()):
        return _rich_bar(epochs, 0.0 if progress else SILENT_SECONDS)
    return _NO_BAR


@contextmanager
def _rich_bar(epochs, silent_seconds):
    bar, task, show_from = None, None, time.perf_counter() + silent_seconds

    def show(history):
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
        loss = f"loss {history.loss[-1]:.4g}" if len(history) else "training"
        bar.update(task, completed=len(history), description=loss)

    try:
        yield show
    finally:
        if bar is not None:
            bar.stop()
