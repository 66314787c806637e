"""Ctrl-C that is deferred while parameters and step counts change together."""

from __future__ import annotations

import signal
import threading
from types import FrameType

try:  # without the enumerations of the module signal: 15 us less in a call of fit of 50
    from _signal import getsignal
    from _signal import signal as set_handler
except ImportError:
    from signal import getsignal
    from signal import signal as set_handler

SIGINT = int(signal.SIGINT)
_is_pending = False


def _is_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def _remember(number: int, frame: FrameType | None) -> None:
    global _is_pending
    _is_pending = True


class deferred:
    """Context in which Ctrl-C is only recorded; `check`, or the end of the context, raises KeyboardInterrupt.

    It does nothing in threads other than the main one, which Python never interrupts, within another context of its
    kind, and where the user has set a handler of SIGINT.
    """

    def __enter__(self) -> deferred:
        """Replace the handler of SIGINT."""
        global _is_pending
        self._is_active = getsignal(SIGINT) is signal.default_int_handler and _is_main_thread()
        if self._is_active:
            _is_pending = False
            set_handler(SIGINT, _remember)
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the handler; raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._is_active:
            set_handler(SIGINT, signal.default_int_handler)
            check()


class allowed:
    """Context within `deferred` in which Ctrl-C raises at once: for long computations that change nothing."""

    def __enter__(self) -> allowed:
        """Restore the handler of SIGINT."""
        self._is_active = getsignal(SIGINT) is _remember and _is_main_thread()
        if self._is_active:
            set_handler(SIGINT, signal.default_int_handler)
            check()
        return self

    def __exit__(self, *error: object) -> None:
        """Replace it again."""
        if self._is_active:
            set_handler(SIGINT, _remember)


def check() -> None:
    """Raise the KeyboardInterrupt that is pending, if there is one."""
    global _is_pending
    if _is_pending and _is_main_thread():
        _is_pending = False
        raise KeyboardInterrupt
