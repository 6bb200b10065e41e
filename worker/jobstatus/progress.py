"""How far a job, or a part of it, has come: set by the job, read from outside by the publisher.

Reading from outside is what makes reports cheap. Job code assigns an attribute, or runs a plain
`for` loop; the publisher's thread looks at the attribute, or at the loop's iterator, ten times a
second.
"""

import sys
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from itertools import chain, compress, repeat
from operator import length_hint
from typing import Any, Never, Protocol, TypeVar

T = TypeVar("T")

Sampler = Callable[[], float]
"""Returns how much is done, 0..1. Called in the publisher's thread."""


class Track(Protocol):
    """The position of one loop."""

    @property
    def reason(self) -> str | None:
        """What the job is at."""

    @property
    def total(self) -> int | None:
        """How many steps there will be, where that is known."""

    @property
    def is_over(self) -> bool:
        """Whether the loop has ended."""

    def done(self) -> int:
        """How many steps are complete."""


class IteratorTrack:
    """Reads the position of an iterator that knows how much it has left.

    Iterators of lists, tuples, ranges and the like do (`__length_hint__`, PEP 424), so the loop
    runs over the bare iterator and pays nothing.
    """

    def __init__(self, iterator: Iterator[object], total: int | None, reason: str | None) -> None:
        self._iterator: Iterator[object] | None = iterator
        self._length = length_hint(iterator)
        self._done = 0
        self.total = self._length if total is None else total
        self.reason = reason

    @property
    def is_over(self) -> bool:
        """Whether the loop has let go of its iterator: it ended, or broke off."""
        self.done()
        return self._iterator is None

    def done(self) -> int:
        """Steps complete: the one that is being worked on doesn't count."""
        iterator = self._iterator
        if iterator is not None:
            # Without the loop's, three references are left: both of ours and the argument's.
            loop_is_over = sys.getrefcount(iterator) <= 3  # noqa: PLR2004
            taken = self._length - length_hint(iterator)
            all_done = loop_is_over and taken == self._length
            self._done = taken if all_done else max(0, taken - 1)
            if loop_is_over:
                self._iterator = None
        return self._done


class CountTrack:
    """Counts the steps of a loop over something that doesn't know its length.

    `compress` takes one of `ticks` for each element that it takes of the iterable, all in C, and
    `ticks` knows how many it has left.
    """

    def __init__(self, total: int | None, reason: str | None) -> None:
        self.total = total
        self.reason = reason
        self.is_over = False
        self._ticks = repeat(True, sys.maxsize)

    def over(self, iterable: Iterable[T]) -> Iterator[T]:
        """The iterable, counted."""
        return compress(chain(iterable, _End(self)), self._ticks)

    async def over_async(self, iterable: AsyncIterable[T]) -> AsyncIterator[T]:
        """The async iterable, counted."""
        async for item in iterable:
            next(self._ticks)
            yield item
        self.is_over = True

    def done(self) -> int:
        """Steps complete: the one that is being worked on doesn't count."""
        taken = sys.maxsize - length_hint(self._ticks)
        return taken if self.is_over else max(0, taken - 1)


class _End:
    """Nothing to iterate over; being asked to means that what came before has ended."""

    def __init__(self, track: CountTrack) -> None:
        self._track = track

    def __iter__(self) -> Iterator[Never]:
        self._track.is_over = True
        return iter(())


def track(
    iterable: Iterable[T], total: int | None, reason: str | None
) -> tuple[Iterator[T], Track]:
    """An iterator over `iterable`, and what reads its position."""
    iterator = iter(iterable)
    if type(iterator) in _TELLING and iterator is not iterable:
        return iterator, IteratorTrack(iterator, total, reason)
    count = CountTrack(_length(iterable) if total is None else total, reason)
    return count.over(iterator), count


def _length(iterable: object) -> int | None:
    try:
        return length_hint(iterable) or None
    except Exception:  # an odd __len__ is no reason to break the loop
        return None


_EMPTY: tuple[Any, ...] = (
    *([], (), range(0), "", "\u0100", b"", bytearray(), set(), deque()),
    *({}, {}.values(), {}.items(), reversed([]), reversed({}), reversed(deque())),
)
_TELLING = {type(iter(empty)) for empty in _EMPTY}
"""Iterators that say truly, at any time and from any thread, how much they have left."""
