"""One call at a time may change a trainer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias, TypeVar, cast

Method = TypeVar("Method", bound=Callable[..., Any])
Callers: TypeAlias = dict[str, tuple[object, int]]  # process and thread of the call "at work", if there is one

_process = object()  # stands for this process, and takes less time than its number


def _begin_process() -> None:
    global _process
    _process = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_process)


def exclusive(method: Method) -> Method:
    """Let one call at a time change a Trainer: another, by a callback or another thread, is refused."""

    @wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        mine, callers = (_process, threading.get_ident()), self._callers
        try:
            # One indivisible step, which Ctrl-C cannot cut in two, unlike taking a lock and recording that.
            caller = callers.setdefault("at work", mine)
            if caller is not mine:
                if caller[0] is not _process:  # that call runs in the process that this one was forked from
                    callers["at work"] = mine
                elif caller[1] != mine[1] or self._fit is not None:  # on_train_end may
                    raise RuntimeError(
                        f"{method.__name__} was called while fit of the same trainer runs: callbacks "
                        "may train another trainer"
                    )
            return method(self, *arguments, **options)
        finally:
            if callers.get("at work") is mine:
                del callers["at work"]

    return cast(Method, call)


def is_another_at_work(callers: Callers) -> bool:
    """Whether another thread of this process is within such a call."""
    caller = callers.get("at work")
    return caller is not None and caller[0] is _process and caller[1] != threading.get_ident()
