"""Functions of the application that decide what is shown. An error in one never harms the job."""

import logging
import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from jobstatus.errors import SettingsError
from jobstatus.status import raise_interrupt

T = TypeVar("T")

_LOG_INTERVAL_SECONDS: Final = 60.0

_log = logging.getLogger("jobstatus")


class Hook(Generic[T]):
    """Calls a function of the application."""

    def __init__(
        self, name: str, function: Callable[..., T | None], kinds: tuple[type, ...]
    ) -> None:
        """Create a hook.

        Args:
            name: The name of the setting, for the log.
            function: The application's function.
            kinds: The types that it may return, besides None.
        """
        self._name = name
        self._function = function
        self._kinds = kinds
        self._logged_at = float("-inf")

    def __call__(self, *args: Any) -> T | None:
        """Return what the function returns; None if it raises or returns another type.

        An error is logged with its traceback, once a minute at most.
        """
        try:
            value = self._function(*args)
            self._check(value)
        except BaseException as error:
            raise_interrupt(error)
            if time.monotonic() > self._logged_at + _LOG_INTERVAL_SECONDS:
                self._logged_at = time.monotonic()
                _log.exception("%s has failed, and is ignored for this job", self._name)
            return None
        return value

    def _check(self, value: object) -> None:
        if value is not None and not isinstance(value, self._kinds):
            raise TypeError(f"{self._name} must not return a {type(value).__name__}")


def hook_of(name: str, function: Callable[..., T | None] | None, *kinds: type) -> "Hook[T] | None":
    """Return a hook for a function; None if there is no function.

    Raises:
        SettingsError: It is not a function.
    """
    if function is not None and not callable(function):
        raise SettingsError(f"{name} must be a function, not {function!r}")
    return None if function is None else Hook(name, function, kinds)
