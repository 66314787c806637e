"""Attributes that are checked when they are set, or that cannot be replaced.

Both write to the instance's own dictionary and define no ``__get__``, so reading costs what it costs anywhere.
"""


class Checked:
    """An attribute that may be set; ``check(instance, name, value)`` returns what is kept, or raises."""

    def __init__(self, check):
        self._check = check

    def __set_name__(self, owner, name):
        """Take the name."""
        self._name = name

    def __set__(self, instance, value):
        """Check the value and keep it."""
        vars(instance)[self._name] = self._check(instance, self._name, value)


class Fixed:
    """An attribute that cannot be replaced; `hint` says what to do instead.  ``vars(instance)`` holds it."""

    def __init__(self, hint):
        self._hint = hint

    def __set_name__(self, owner, name):
        """Take the names of the attribute and its class."""
        self._name, self._owner = name, owner.__name__

    def __set__(self, instance, value):
        """Refuse, but for what is there already: ``trainer.state.buffers *= 2`` has written in place."""
        if value is not vars(instance).get(self._name):
            raise AttributeError(f"{self._name} of a {self._owner} cannot be replaced: {self._hint}")
