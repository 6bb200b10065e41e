"""The progress bar of tqdm as a source of progress."""

import contextvars
import io
from collections.abc import Iterator
from typing import Any

import pytest
from tqdm.std import tqdm as plain_tqdm

from jobstatus.testing import RecordedStatuses
from jobstatus.tqdm import tqdm, trange


@pytest.fixture(autouse=True)
def job(job_statuses: RecordedStatuses) -> Iterator[None]:
    """Run the test within the job `a`."""
    with job_statuses.publisher.job("a", name="x"):
        yield


@pytest.fixture
def options() -> dict[str, Any]:
    """Return options of a bar that is updated with every step, and written to a buffer."""
    return {"file": io.StringIO(), "mininterval": 0, "miniters": 1}


def test_bar(job_statuses: RecordedStatuses, options: dict[str, Any]) -> None:
    """The position of a bar is the job's progress, its description the reason."""
    bar = tqdm(range(4), desc="epochs", **options)
    assert isinstance(bar, plain_tqdm)
    shown = [(job_statuses["a"].progress, job_statuses["a"].reason) for _ in bar]
    assert shown == [(0, "epochs"), (25, "epochs"), (50, "epochs"), (75, "epochs")]
    assert job_statuses["a"].progress == 100
    assert "epochs: 100%" in options["file"].getvalue()


def test_bar_that_is_updated(job_statuses: RecordedStatuses, options: dict[str, Any]) -> None:
    """A bar without a loop reports when it is updated."""
    with tqdm(total=10, **options) as bar:
        bar.update(3)
        assert job_statuses["a"].progress == 30


def test_disabled_bar(job_statuses: RecordedStatuses) -> None:
    """The loop of a disabled bar is tracked, too."""
    assert [job_statuses["a"].progress for _ in tqdm([1, 2], disable=True)] == [0, 50]


def test_second_loop_over_a_disabled_bar() -> None:
    """A disabled bar can be iterated over again."""
    bar = tqdm([1, 2], disable=True)
    assert [list(bar), list(bar)] == [[1, 2], [1, 2]]


def test_nested_bars(job_statuses: RecordedStatuses, options: dict[str, Any]) -> None:
    """A bar within the loop of another bar counts as one step of the outer loop."""
    shown = [
        job_statuses["a"].progress
        for _ in trange(2, **options)
        for _ in trange(2, leave=False, **options)
    ]
    assert shown == [0, 25, 50, 75]


@pytest.mark.parametrize("is_disabled", [True, False])
def test_outside_a_job(is_disabled: bool) -> None:
    """Outside a job the bar is that of tqdm."""
    context = contextvars.Context()
    bar = context.run(tqdm, [1, 2], file=io.StringIO(), disable=is_disabled)
    assert context.run(list, bar) == [1, 2]
