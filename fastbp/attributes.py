"""Descriptors: attributes that are checked when they are set, or that cannot be replaced.

Both write to the instance's own dictionary and define no ``__get__``, so reading them costs nothing extra.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Checked:
    """An attribute that may be set; ``check(instance, name, value)`` returns what is kept, or raises."""

    def __init__(self, check: Callable[[Any, str, Any], Any]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the name."""
        self._name = name

    def __set__(self, instance: object, value: Any) -> None:
        """Check the value and keep it."""
        vars(instance)[self._name] = self._check(instance, self._name, value)


class Fixed(Checked):
    """An attribute that is checked and set once and cannot be replaced; `hint` says what to do instead."""

    def __init__(self, hint: str, check: Callable[[Any, str, Any], Any] = lambda instance, name, value: value) -> None:
        super().__init__(check)
        self._hint = hint

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the names of the attribute and its class."""
        self._name, self._owner = name, owner.__name__

    def __set__(self, instance: object, value: Any) -> None:
        """Refuse another object; the same one is allowed: ``trainer.state.buffers *= 2`` has written in place."""
        if self._name not in vars(instance):
            super().__set__(instance, value)
        elif value is not vars(instance)[self._name]:
            raise AttributeError(f"{self._name} of a {self._owner} cannot be replaced: {self._hint}")


def fixed(hint: str) -> Any:
    """Return a `Fixed` attribute; its annotation in the class says what it holds."""
    return Fixed(hint)
