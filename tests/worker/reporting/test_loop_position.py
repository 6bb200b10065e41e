"""The position of a loop as progress."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
from tests.hostile_values import RaisingValue
from tests.worker.reports import read

from jobstatus.reporting.report import JobReport


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


async def async_numbers(count: int) -> AsyncIterator[int]:
    for n in range(count):
        await asyncio.sleep(0)
        yield n


class Rows:
    """An iterable with a length."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[int]:
        return numbers(4)


@pytest.fixture
def report() -> JobReport:
    """Return a new report."""
    return JobReport()


LOOPS: list[Any] = [
    [0, 1, 2, 3],
    (0, 1, 2, 3),
    range(4),
    "abcd",
    {0: "", 1: "", 2: "", 3: ""},
    {0: "", 1: "", 2: "", 3: ""}.values(),
    {0, 1, 2, 3},
    deque([0, 1, 2, 3]),
    iter([0, 1, 2, 3]),
    Rows(),
]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: type(loop).__name__)
def test_complete_steps_count(report: JobReport, loop: Iterable[int]) -> None:
    """A step counts when it is complete: the current one does not."""
    assert [read(report)[0] for _ in report.track(loop)] == [0, 25, 50, 75]
    assert read(report)[0] == 100


def test_generator_with_a_total(report: JobReport) -> None:
    """The steps of a generator count if their number is given."""
    assert [read(report)[0] for _ in report.track(numbers(4), total=4)] == [0, 25, 50, 75]
    assert read(report)[0] == 100


def test_generator_without_a_total(report: JobReport) -> None:
    """If the number of steps is unknown, there is a reason but no progress."""
    shown = [read(report) for _ in report.track(numbers(2), reason="row {done} of {total}")]
    assert shown == [(None, "row 0 of ?"), (None, "row 1 of ?")]


async def test_async_iterable(report: JobReport) -> None:
    """An async iterable is tracked with `async for`."""
    assert [read(report)[0] async for _ in report.track(async_numbers(2), total=2)] == [0, 50]
    assert read(report)[0] == 100


@pytest.mark.parametrize("iterable", [[1], range(3), {1}])
def test_fast_loops(report: JobReport, iterable: Iterable[int]) -> None:
    """A loop over a list, range or set runs over its own iterator, without any cost."""
    assert type(report.track(iterable)) is type(iter(iterable))


def test_loop_that_is_left_early(report: JobReport) -> None:
    """A loop that is left early is not complete, and its list is released."""
    for n in report.track([0, 1, 2, 3]):
        if n == 2:
            break
    assert read(report)[0] == 50
    assert report._loops[0].has_ended
    assert report._loops[0]._iterator is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", [[0, 1, 2, 3], iter([0, 1, 2, 3])], ids=["list", "iterator"])
def test_loop_after_one_that_was_left_early(report: JobReport, first: Iterable[int]) -> None:
    """A loop that was left early leaves neither its reason nor its position to the next one."""
    for _ in report.track(first, total=4, reason="searching"):
        break
    report.reason = "found"
    assert read(report) == (0, "found")
    assert [read(report)[0] for _ in report.track([1, 2])] == [0, 50]
    assert len(report._loops) == 1


async def test_async_loop_that_is_left_early(report: JobReport) -> None:
    """An async loop that is left early and closed has ended."""
    loop: Any = report.track(async_numbers(2), total=2)
    async for _ in loop:
        break
    await loop.aclose()
    assert report._loops[0].has_ended
    assert read(report)[0] == 0


def test_generator_of_a_loop_that_is_left_early(report: JobReport) -> None:
    """The generator is closed when its loop is left."""
    is_closed = False

    def rows() -> Iterator[int]:
        nonlocal is_closed
        try:
            yield from range(5)
        finally:
            is_closed = True

    for _ in report.track(rows(), total=5):
        break
    assert is_closed


def test_list_that_grows(report: JobReport) -> None:
    """A list may grow while a loop runs over it."""
    items, shown = [1, 2], []
    for item in report.track(items):
        if item == 1:
            items += [3, 4]
        shown.append(read(report)[0])
    assert shown == [0, 25, 50, 75]


def test_nested_loops(report: JobReport) -> None:
    """A loop inside another tracked loop counts as one step of the outer loop."""
    shown = [read(report)[0] for _ in report.track([1, 2]) for _ in report.track(range(2))]
    assert shown == [0, 25, 50, 75]


def test_reason_of_a_loop(report: JobReport) -> None:
    """`{done}` and `{total}` are replaced while the loop runs; other braces remain."""
    reasons = [read(report)[1] for _ in report.track("ab", reason="frame {done} of {total} {x}")]
    assert reasons == ["frame 0 of 2 {x}", "frame 1 of 2 {x}"]
    report.reason = "after"
    assert read(report)[1] == "after"


@pytest.mark.parametrize("value", [5, RaisingValue(), b"x", [], {}, "many", 10**400, float("nan")])
def test_unexpected_total_and_reason(report: JobReport, value: Any) -> None:
    """The loop runs over all items with any total and reason."""
    assert list(report.track([1, 2], total=value, reason=value)) == [1, 2]
    read(report)


def test_length_that_raises(report: JobReport) -> None:
    """An iterable whose length raises is iterated over without progress."""

    class Broken(Rows):
        def __len__(self) -> int:
            raise RuntimeError

    assert [read(report)[0] for _ in report.track(Broken())] == [None] * 4
