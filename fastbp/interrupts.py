"""Ctrl-C that waits for a moment at which everything is whole."""

import signal
import threading

try:  # without the enumerations of the module signal, which take 15 us of a call of fit of 40
    from _signal import getsignal
    from _signal import signal as set_handler
except ImportError:
    from signal import getsignal
    from signal import signal as set_handler

SIGINT = int(signal.SIGINT)
_is_pending = False


def _is_main_thread():
    return threading.get_ident() == threading.main_thread().ident


def _remember(number, frame):
    global _is_pending
    _is_pending = True


class deferred:
    """Context in which Ctrl-C is only remembered: KeyboardInterrupt comes from `check`, or at the end.

    Parameters and step counts change together in it.  It does nothing in other threads than the main one, which Python
    never interrupts, within another one of its kind, and where SIGINT has a handler of the user's own.
    """

    def __enter__(self):
        """Take over SIGINT."""
        global _is_pending
        self._is_active = getsignal(SIGINT) is signal.default_int_handler and _is_main_thread()
        if self._is_active:
            _is_pending = False
            set_handler(SIGINT, _remember)
        return self

    def __exit__(self, *error):
        """Give it back."""
        if self._is_active:
            set_handler(SIGINT, signal.default_int_handler)
            check()


class allowed:
    """Context within `deferred` in which KeyboardInterrupt comes at once: nothing changes in it, and it may last."""

    def __enter__(self):
        """Give SIGINT back for a while."""
        self._is_active = getsignal(SIGINT) is _remember and _is_main_thread()
        if self._is_active:
            set_handler(SIGINT, signal.default_int_handler)
            check()
        return self

    def __exit__(self, *error):
        """Take it over again."""
        if self._is_active:
            set_handler(SIGINT, _remember)


def check():
    """Raise the KeyboardInterrupt that waits, if one does."""
    global _is_pending
    if _is_pending and _is_main_thread():
        _is_pending = False
        raise KeyboardInterrupt
