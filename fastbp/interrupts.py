"""Ctrl-C that waits for a moment at which everything is whole."""

import signal
import threading

_is_pending = False


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
        self._is_active = (threading.current_thread() is threading.main_thread()
                           and signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        if self._is_active:
            _is_pending = False
            signal.signal(signal.SIGINT, _remember)
        return self

    def __exit__(self, *error):
        """Give it back."""
        if self._is_active:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            check()


class allowed:
    """Context within `deferred` in which KeyboardInterrupt comes at once: nothing changes in it, and it may last."""

    def __enter__(self):
        """Give SIGINT back for a while."""
        self._is_active = (threading.current_thread() is threading.main_thread()
                           and signal.getsignal(signal.SIGINT) is _remember)
        if self._is_active:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            check()
        return self

    def __exit__(self, *error):
        """Take it over again."""
        if self._is_active:
            signal.signal(signal.SIGINT, _remember)


def check():
    """Raise the KeyboardInterrupt that waits, if one does."""
    global _is_pending
    if _is_pending and threading.current_thread() is threading.main_thread():
        _is_pending = False
        raise KeyboardInterrupt
