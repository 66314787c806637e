"""Custom activations and losses: what they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class CustomFunction:
    """A function of one element and its derivative, both compiled with ``@numba.njit``; see the subclasses."""

    kind: ClassVar[str]  # "activation" or "loss"
    arguments: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]]  # of the function, and of the derivative
    known: ClassVar[Mapping[str, Any]]  # names that are taken
    name: str
    function: Callable[..., Any]
    derivative: Callable[..., Any]

    def __init__(
        self, function: Callable[..., Any], derivative: Callable[..., Any] | None = None, name: str | None = None
    ) -> None:
        from numba import njit
        from numba.extending import is_jitted

        from .kernels.compiler import FLAGS
        from .kernels.custom import guarded

        functions: tuple[Any, Any] = function, derivative
        for argument, value, letters in zip(("function", "derivative"), functions, self.arguments, strict=True):
            expected = f"a function of {' and '.join(letters)} compiled with @numba.njit"
            if value is None:
                raise TypeError(f"{argument} must be given, {expected}: none is guessed")
            if not is_jitted(value):
                raise TypeError(f"{argument} must be {expected}, got {value!r}")
        self.name = function.__name__ if name is None else name
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a str, got {name!r}")
        if self.name in self.known:
            raise ValueError(f"name {self.name!r} is that of a built-in {self.kind}: give another")
        self.function, self.derivative = functions
        # compiled again with the flags of all kernels: division by 0 is inf or NaN, and no fastmath
        self._functions = [njit(**FLAGS)(value.py_func) for value in functions]
        self.guarded = [guarded(function) for function in self._functions]
        self._native: tuple[Any, ...] | None = None

    def compile(self, dtype: DTypeLike) -> None:
        """Compile both functions for numbers of a dtype.

        Raises
        ------
        TypeError
            If one does not compile, or does not return a real number.
        """
        from numba import from_dtype, types
        from numba.core.errors import NumbaError

        for function, letters in zip(self._functions, self.arguments, strict=True):
            call = f"{function.__name__}({', '.join(letters)}) of {self.kind} {self.name!r}"
            kinds = (from_dtype(np.dtype(dtype)),) * len(letters)
            try:
                function.compile(kinds)
            except (NumbaError, TypeError) as error:  # a TypeError: for another number of arguments
                raise TypeError(f"{call} does not compile for {np.dtype(dtype)} numbers: {error}") from error
            returned = function.overloads[kinds].signature.return_type
            if not isinstance(returned, types.Float | types.Integer | types.Boolean):
                raise TypeError(f"{call} must return one real number, got {returned}")

    def native_functions(self) -> tuple[Any, ...]:
        """Return its two native functions; see `kernels.custom`."""
        from .kernels import custom

        if self._native is None:
            self._native = getattr(custom, f"{self.kind}_functions")(*self.guarded)
        return self._native

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the two functions, if these can be pickled."""
        return type(self), (self.function, self.derivative, self.name)

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    def __repr__(self) -> str:
        """Return class and name."""
        return f"{type(self).__name__}({self.name!r})"
