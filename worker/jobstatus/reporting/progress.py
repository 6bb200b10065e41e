"""How far a job, or a part of it, has come: set by the job, read from outside by the publisher.

Reading from outside is what makes reports cheap. Job code assigns an attribute, or runs a plain
`for` loop; the publisher's thread looks at the attribute, or at the loop's iterator, ten times a
second.
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
"""Returns how much is done, 0..1. Called in the publisher's thread."""


class LoopPosition(Protocol):
    """The position of one loop."""

    @property
    def reason(self) -> str | None:
        """What the job is at."""

    @property
    def total(self) -> int | None:
        """How many steps there will be, where that is known."""

    @property
    def has_ended(self) -> bool:
        """Whether the loop has ended."""

    def done(self) -> int:
        """How many steps are complete."""


class IteratorPosition:
    """Reads the position of an iterator that knows how much it has left.

    Iterators of lists, tuples, ranges and the like do (`__length_hint__`, PEP 424), so the loop
    runs over the bare iterator and pays nothing.
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
        """How many steps there will be; a list may grow while it is looped over."""
        return self._length if self._total is None else self._total

    @property
    def has_ended(self) -> bool:
        """Whether the loop has let go of its iterator: it ended, or broke off."""
        self.done()
        return self._iterator is None

    def done(self) -> int:
        """Steps complete: the one that is being worked on doesn't count."""
        loop_is_over = self.references() <= _UNHELD
        iterator, items = self._iterator, self._items
        if iterator is not None and items is not None:
            self._length = len(items)
            taken = self._length - length_hint(iterator)
            all_done = loop_is_over and taken == self._length
            self._done = taken if all_done else max(0, taken - 1)
            if loop_is_over:
                self._iterator = self._items = None
        return self._done

    def references(self) -> int:
        """How many references to the iterator there are, those of this look included."""
        iterator = self._iterator
        return sys.getrefcount(iterator)


class CountingPosition:
    """Counts the steps of a loop over something that doesn't know its length.

    `compress` takes one of `ticks` for each element that it takes of the iterable, all in C, and
    `ticks` knows how many it has left.
    """

    def __init__(self, total: int | None, reason: str | None) -> None:
        self.total = total
        self.reason = reason
        self.has_ended = False
        self._all_done = False
        self._ticks = repeat(True, sys.maxsize)

    def over(self, iterable: Iterable[T]) -> Iterator[T]:
        """The iterable, counted."""
        return compress(chain(iterable, _End(self)), self._ticks)

    async def over_async(self, iterable: AsyncIterable[T]) -> AsyncIterator[T]:
        """The async iterable, counted."""
        try:
            async for item in iterable:
                next(self._ticks)
                yield item
            self._all_done = True
        finally:
            self.has_ended = True

    def done(self) -> int:
        """Steps complete: the one that is being worked on doesn't count."""
        taken = sys.maxsize - length_hint(self._ticks)
        return taken if self._all_done else max(0, taken - 1)

    def end(self, *, all_done: bool) -> None:
        """The loop has ended, or was broken off."""
        self._all_done = self._all_done or all_done
        self.has_ended = True


class _End:
    """Nothing to iterate over.

    To be asked for it means that what came before has ended; to be dropped without having been
    asked, that the loop was broken off.
    """

    def __init__(self, track: CountingPosition) -> None:
        self._track = track

    def __iter__(self) -> Iterator[Never]:
        self._track.end(all_done=True)
        return iter(())

    def __del__(self) -> None:
        self._track.end(all_done=False)


def track(
    iterable: Iterable[T], total: int | None, reason: str | None
) -> tuple[Iterator[T], LoopPosition]:
    """An iterator over `iterable`, and what reads its position."""
    iterator = iter(iterable)
    if type(iterable) in _TELLING and isinstance(iterable, Sized):
        return iterator, IteratorPosition(iterator, iterable, total, reason)
    count = CountingPosition(_length(iterable) if total is None else total, reason)
    return count.over(iterator), count


def _length(iterable: object) -> int | None:
    try:
        return length_hint(iterable) or None
    except BaseException as error:  # an odd __len__ is no reason to break the loop
        raise_interrupt(error)
        return None


_EMPTY: tuple[Any, ...] = ({}.keys(), {}.values(), {}.items())
_TELLING: set[type] = {list, tuple, range, str, bytes, bytearray, set, frozenset, dict, deque}
_TELLING |= {type(view) for view in _EMPTY}
"""Whose iterators say truly, at any time and from any thread, how much they have left."""

_UNHELD = IteratorPosition(iter([]), [], None, None).references()
"""How many references there are to an iterator that only its track holds."""
