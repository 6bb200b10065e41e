"""Values that job code should not report, but might: every conversion of them raises."""

from typing import Any


class Odd:
    """A value whose conversion to text or to a number raises RuntimeError."""

    _error: type[BaseException] = RuntimeError

    def _raise(self) -> Any:
        raise self._error

    __str__ = __repr__ = __int__ = __float__ = _raise


class Raises(Odd):
    """A value whose conversion raises the given exception, for example one that ends a thread."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    __length_hint__ = Odd._raise
