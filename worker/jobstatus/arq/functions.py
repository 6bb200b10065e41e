"""A worker's functions, whose coroutines are wrapped at the moment when arq calls them.

arq's own objects stay as they are, so what other code has done to them, or does to them later (a
wrapper around a coroutine, a changed timeout, a function that is added), has its effect.
"""

from collections.abc import Callable
from typing import Any


class TrackedFunction:
    """One of arq's functions or cron jobs, with a wrapped coroutine and otherwise unchanged."""

    def __init__(self, function: Any, wrap: Callable[[Any], Any]) -> None:
        object.__setattr__(self, "_function", function)
        object.__setattr__(self, "_wrap", wrap)

    @property
    def coroutine(self) -> Any:
        """The wrapped coroutine function."""
        return self.__dict__["_wrap"](self.__dict__["_function"])

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Arq's class, for `isinstance`."""
        return type(self.__dict__["_function"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_function"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_function"], name, value)

    def __repr__(self) -> str:
        return repr(self.__dict__["_function"])


class TrackedFunctions(dict[str, Any]):
    """arq's functions by name, of which each is tracked when it is looked up to be run."""

    def __init__(self, functions: dict[str, Any], wrap: Callable[[Any], Any]) -> None:
        """Track functions.

        Args:
            functions: arq's functions by name.
            wrap: Returns the wrapped coroutine function of one of them.
        """
        super().__init__(functions)
        self._wrap = wrap

    def __getitem__(self, name: str) -> Any:
        return TrackedFunction(super().__getitem__(name), self._wrap)
