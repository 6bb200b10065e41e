"""What job code holds: reports, tracks and samples, without any Redis."""

import asyncio
import contextvars
import logging
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from tests.hostile_values import RaisingValue
from tests.worker.reports import read, take_samples

from jobstatus import current_job
from jobstatus.reporting.report import CURRENT_REPORT, JobReport


def numbers(n: int) -> Iterator[int]:
    yield from range(n)


LOOPS: list[Any] = [
    [0, 1, 2, 3],
    (0, 1, 2, 3),
    range(4),
    {0: "", 1: "", 2: "", 3: ""},
    {0, 1, 2, 3},
    deque([0, 1, 2, 3]),
]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: type(loop).__name__)
def test_track_counts_complete_steps(loop: Iterable[int]) -> None:
    """A step counts when it is complete: the one that is being worked on doesn't."""
    report = JobReport()
    seen = [read(report)[0] for _ in report.track(loop)]
    assert seen == [0, 25, 50, 75]
    assert read(report)[0] == 100


def test_track_over_a_list_is_the_bare_iterator() -> None:
    """A loop over a list runs over the list's own iterator: it pays nothing."""
    assert type(JobReport().track([1])) is type(iter([]))
    assert type(JobReport().track(range(3))) is type(iter(range(3)))


def test_track_counts_what_has_no_length() -> None:
    """A generator with a total is counted; without one there is a reason but no progress."""
    report = JobReport()
    seen = [read(report)[0] for _ in report.track(numbers(4), total=4)]
    assert seen == [0, 25, 50, 75]
    assert read(report)[0] == 100
    report = JobReport()
    seen2 = [read(report) for _ in report.track(numbers(2), reason="row {done} of {total}")]
    assert seen2 == [(None, "row 0 of ?"), (None, "row 1 of ?")]


def test_track_counts_an_iterator_that_somebody_holds() -> None:
    """An iterator of the caller's own is counted too, and complete when it ends."""
    report = JobReport()
    held = iter([1, 2])
    assert [read(report)[0] for _ in report.track(held)] == [0, 50]
    assert read(report)[0] == 100


def test_track_takes_the_length_of_a_sequence() -> None:
    """Something of the user's own that has a length needs no total."""

    class Rows:
        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Iterator[int]:
            return numbers(2)

    report = JobReport()
    assert [read(report)[0] for _ in report.track(Rows())] == [0, 50]


async def test_track_counts_async_iterables() -> None:
    """An async iterable is tracked with `async for`."""

    async def rows() -> AsyncIterator[int]:
        for i in range(2):
            await asyncio.sleep(0)
            yield i

    report = JobReport()
    assert [read(report)[0] async for _ in report.track(rows(), total=2)] == [0, 50]
    assert read(report)[0] == 100


def test_broken_off_loop_keeps_its_place() -> None:
    """A loop that breaks off doesn't count as complete, and its list is let go."""
    report = JobReport()
    for i in report.track([0, 1, 2, 3]):
        if i == 2:
            break
    assert read(report)[0] == 50
    assert report._loops[0].has_ended


@pytest.mark.parametrize("first", [[0, 1, 2, 3], iter([0, 1, 2, 3])], ids=["list", "iterator"])
def test_loop_after_a_broken_off_one(first: Any) -> None:
    """A loop that was broken off leaves neither its reason nor its place to the next one."""
    report = JobReport()
    for _ in report.track(first, total=4, reason="searching"):
        break
    report.reason = "found"
    assert read(report) == (0, "found")
    assert [read(report)[0] for _ in report.track([1, 2])] == [0, 50]
    assert len(report._loops) == 1


async def test_async_loop_that_breaks_off() -> None:
    """An async loop that is broken off and closed is over too."""

    async def rows() -> AsyncIterator[int]:
        yield 1
        yield 2

    report = JobReport()
    loop: Any = report.track(rows(), total=2)
    async for _ in loop:
        break
    await loop.aclose()
    assert report._loops[0].has_ended


def test_list_that_grows() -> None:
    """A list may grow while it is looped over."""
    report = JobReport()
    items = [1, 2]
    seen = []
    for item in report.track(items):
        if item == 1:
            items += [3, 4]
        seen.append(read(report)[0])
    assert seen == [0, 25, 50, 75]


def test_generator_is_closed_when_its_loop_breaks_off() -> None:
    """Tracking a generator keeps it no longer than the loop does."""
    closed = []

    def rows() -> Iterator[int]:
        try:
            yield from range(5)
        finally:
            closed.append(True)

    report = JobReport()
    for _ in report.track(rows(), total=5):
        break
    assert closed == [True]


def test_nested_tracks_add_up() -> None:
    """A track that begins within another one's step counts for that step."""
    report = JobReport()
    seen = [read(report)[0] for _ in report.track([1, 2]) for _ in report.track(range(2))]
    assert seen == [0, 25, 50, 75]


def test_reason_says_where_the_loop_is() -> None:
    """`{done}` and `{total}` are filled in; any other brace stays as it is."""
    report = JobReport()
    reasons = [read(report)[1] for _ in report.track("ab", reason="frame {done} of {total} {x}")]
    assert reasons == ["frame 0 of 2 {x}", "frame 1 of 2 {x}"]
    report.reason = "after"
    assert read(report)[1] == "after"


def test_furthest_source_counts() -> None:
    """Of several sources of progress the furthest counts."""
    report = JobReport()
    report.progress(30, "copying")
    report.sample(lambda: 60)
    take_samples(report)
    assert read(report) == (60, "copying")
    report.progress(80)
    assert read(report) == (80, "copying")


@pytest.mark.parametrize(("reported", "shown"), [(-5, 0), (105, 100), (1e308, 100), (True, 1)])
def test_progress_is_kept_in_bounds(reported: float, shown: float) -> None:
    """What lies outside 0..100 counts as the nearer end."""
    report = JobReport()
    report.progress(reported)
    assert read(report)[0] == shown


def test_nothing_odd_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever job code hands in, reading the report raises nothing."""
    odd: Any = RaisingValue()
    report = JobReport()
    report.progress(odd, odd)
    report.reason = odd
    assert read(report) == (None, "<RaisingValue>")
    report.sample(odd)
    take_samples(report)
    anything: list[Any] = [5, odd, b"x", [], {}]
    for strange in anything:
        assert list(report.track([1], total=strange, reason=strange)) == [1]
        read(report)

    def leave() -> float:
        sys.exit(1)

    report.sample(leave)
    take_samples(report)
    anything = [odd, "soon", float("nan"), float("inf"), -5, 1e300, timedelta(seconds=3)]
    for delay in anything:
        ending = JobReport()
        ending.retry(odd, delay)
        assert ending.outcome is not None
        assert ending.outcome.delay is None or 0 <= ending.outcome.delay <= 315_360_000
        assert ending.outcome.reason == "<RaisingValue>"
    assert "a progress function failed and is not called again: SystemExit: 1" in caplog.text


@pytest.mark.parametrize("reported", ["half", None, 10**400, object(), float("nan")])
def test_odd_progress_is_no_progress(reported: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Progress that is no number is said once in the log, and never raises."""
    report = JobReport()
    report.progress(reported)
    assert read(report)[0] is None
    assert read(report)[0] is None
    assert len(caplog.records) <= 1


def test_sample_that_raises_ends_sampling(caplog: pytest.LogCaptureFixture) -> None:
    """A sample that raises is said once in the log, and isn't asked again."""
    report = JobReport()
    report.sample(lambda: 1 / 0)
    with caplog.at_level(logging.WARNING):
        take_samples(report)
        take_samples(report)
        assert read(report)[0] is None
    assert [r.getMessage() for r in caplog.records] == [
        "a progress function failed and is not called again: ZeroDivisionError: division by zero"
    ]


def test_reason_is_one_line() -> None:
    """A reason of many lines is shown as one of at most 500 characters."""
    report = JobReport()
    report.reason = "a\nb\t c" + "d" * 600
    shown = read(report)[1]
    assert shown.startswith("a b cd")
    assert len(shown) == 500


def test_first_outcome_counts() -> None:
    """An attempt ends once: what it says later of its end changes nothing."""
    report = JobReport()
    report.fail("no such customer")
    report.succeed()
    assert report.outcome is not None
    assert report.outcome.reason == "no such customer"


async def test_outside_a_job_reports_do_nothing() -> None:
    """Job code runs unchanged where there is no job."""
    report = current_job()
    report.progress(50, "x")
    report.reason = "y"
    report.sample(lambda: 1.0)
    report.fail("z")
    assert list(report.track([1, 2], reason="r")) == [1, 2]

    async def rows() -> AsyncIterator[int]:
        yield 1

    assert [x async for x in report.track(rows())] == [1]
    assert read(report) == (None, "")
    assert report.reason == ""
    assert report.outcome is None


async def test_current_job_follows_the_context() -> None:
    """`current_job()` is the same in nested calls, tasks and threads of the job."""
    report = JobReport()

    async def nested() -> Any:
        return current_job()

    def look() -> list[Any]:
        CURRENT_REPORT.set(report)
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as pool:
            return [current_job(), pool.submit(context.run, current_job).result()]

    assert contextvars.copy_context().run(look) == [report, report]
    CURRENT_REPORT.set(report)
    assert await asyncio.create_task(nested()) is report
    assert await asyncio.to_thread(current_job) is report
