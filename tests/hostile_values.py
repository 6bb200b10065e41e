"""Values that job code should not report, but might."""

from typing import Any


class RaisingValue:
    """A value whose conversion to text, to a number or to a length raises an exception."""

    def __init__(self, error: type[BaseException] = RuntimeError) -> None:
        self._error = error

    def _raise(self) -> Any:
        raise self._error

    __str__ = __repr__ = __int__ = __float__ = __length_hint__ = _raise


class UnprintableError(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError
