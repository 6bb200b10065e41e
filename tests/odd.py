"""What job code should not hand in, but might."""


class Odd:
    """Raises whatever is asked of it."""

    def __str__(self) -> str:
        raise RuntimeError

    def __float__(self) -> float:
        raise RuntimeError

    __repr__ = __str__
    __int__ = __float__
