"""What job code should not hand in, but might."""


class Odd:
    """Raises whatever is asked of it."""

    def __str__(self) -> str:
        raise RuntimeError

    def __float__(self) -> float:
        raise RuntimeError

    __repr__ = __str__
    __int__ = __float__


class Raises(Odd):
    """Raises what it was made with: what ends a thread, too."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def __str__(self) -> str:
        raise self._error

    def __float__(self) -> float:
        raise self._error

    __repr__ = __str__
    __int__ = __float__
    __length_hint__ = __float__
