"""The position of a loop, read from outside while the loop runs.

Reading from outside makes tracking cheap: job code runs a plain `for` loop, and the publisher's
thread reads the position of the loop's iterator ten times a second.
"""

import sys
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from itertools import chain, compress, repeat
from operator import length_hint
from typing import Any, Never, Protocol, TypeVar

from jobstatus.status import raise_interrupt

T = TypeVar("T")

ProgressFunction = Callable[[], float]
"""Returns how much is done, 0..100 percent. Called in the sampler's thread."""


class LoopPosition(Protocol):
    """The position of one loop."""

    @property
    def reason(self) -> str | None:
        """What the job is doing in this loop."""

    @property
    def total(self) -> int | None:
        """The number of steps; None if it is unknown."""

    @property
    def has_ended(self) -> bool:
        """Whether the loop has ended."""

    def done(self) -> int:
        """Return the number of complete steps; the current one does not count."""


class IteratorPosition:
    """Reads the position of an iterator that knows how many items it has left.

    Iterators of lists, tuples, ranges and the like do (`__length_hint__`, PEP 424), so the loop
    runs over the bare iterator and costs nothing extra. The loop has ended when nothing but this
    object refers to the iterator.
    """

    def __init__(
        self, iterator: Iterator[object], items: Sized, total: int | None, reason: str | None
    ) -> None:
        self._iterator: Iterator[object] | None = iterator
        self._items: Sized | None = items
        self._length = len(items)
        self._total = total
        self._done = 0
        self.reason = reason

    @property
    def total(self) -> int:
        """The number of steps; a list may grow while the loop runs over it."""
        return self._length if self._total is None else self._total

    @property
    def has_ended(self) -> bool:
        """Whether the loop has ended or was left early."""
        self.done()
        return self._iterator is None

    def done(self) -> int:
        """Return the number of complete steps; the current one does not count."""
        loop_has_ended = self.references() <= _REFERENCES_AFTER_LOOP
        iterator, items = self._iterator, self._items
        if iterator is not None and items is not None:
            self._length = len(items)
            taken = self._length - length_hint(iterator)
            all_done = loop_has_ended and taken == self._length
            self._done = taken if all_done else max(0, taken - 1)
            if loop_has_ended:
                self._iterator = self._items = None
        return self._done

    def references(self) -> int:
        """Return the number of references to the iterator, including those of this call."""
        iterator = self._iterator
        return sys.getrefcount(iterator)


class CountingPosition:
    """Counts the steps of a loop over an iterable that does not know its length.

    `compress` takes one of `ticks` for each item of the iterable, all in C, and `ticks` knows how
    many it has left.
    """

    def __init__(self, total: int | None, reason: str | None) -> None:
        self.total = total
        self.reason = reason
        self.has_ended = False
        self._all_done = False
        self._ticks = repeat(True, sys.maxsize)

    def over(self, iterable: Iterable[T]) -> Iterator[T]:
        """Return an iterator over the iterable that is counted."""
        return compress(chain(iterable, _EndMarker(self)), self._ticks)

    async def over_async(self, iterable: AsyncIterable[T]) -> AsyncIterator[T]:
        """Iterate over the async iterable, and count."""
        try:
            async for item in iterable:
                next(self._ticks)
                yield item
            self._all_done = True
        finally:
            self.has_ended = True

    def done(self) -> int:
        """Return the number of complete steps; the current one does not count."""
        taken = sys.maxsize - length_hint(self._ticks)
        return taken if self._all_done else max(0, taken - 1)

    def end(self, *, all_done: bool) -> None:
        """Mark the loop as ended.

        Args:
            all_done: Whether the iterable is exhausted; otherwise the loop was left early.
        """
        self._all_done = self._all_done or all_done
        self.has_ended = True


class _EndMarker:
    """An empty iterable behind the items of a loop.

    If it is iterated over, the items are exhausted. If it is deleted without that, the loop was
    left early.
    """

    def __init__(self, position: CountingPosition) -> None:
        self._position = position

    def __iter__(self) -> Iterator[Never]:
        self._position.end(all_done=True)
        return iter(())

    def __del__(self) -> None:
        self._position.end(all_done=False)


def track(
    iterable: Iterable[T], total: int | None, reason: str | None
) -> tuple[Iterator[T], LoopPosition]:
    """Return an iterator over `iterable`, and its position."""
    iterator = iter(iterable)
    if type(iterable) in _TYPES_WITH_LENGTH_HINT and isinstance(iterable, Sized):
        return iterator, IteratorPosition(iterator, iterable, total, reason)
    position = CountingPosition(_length(iterable) if total is None else total, reason)
    return position.over(iterator), position


def _length(iterable: object) -> int | None:
    try:
        return length_hint(iterable) or None
    except BaseException as error:  # an iterable whose __len__ raises can still be iterated over
        raise_interrupt(error)
        return None


_EMPTY_VIEWS: tuple[Any, ...] = ({}.keys(), {}.values(), {}.items())
_TYPES_WITH_LENGTH_HINT: set[type] = {
    *(list, tuple, range, str, bytes, bytearray, set, frozenset, dict, deque),
    *(type(view) for view in _EMPTY_VIEWS),
}
"""Types whose iterators know at any time, in any thread, how many items they have left."""

_REFERENCES_AFTER_LOOP = IteratorPosition(iter([]), [], None, None).references()
"""The number of references to an iterator that only its `IteratorPosition` holds."""
