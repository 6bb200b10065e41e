"""`jobstatus.testing`, with which worker authors test their jobs."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobstatus import JobState, PublisherSettings, current_job, share
from jobstatus.testing import RecordedStatuses, recorded_statuses


def copy(files: list[str]) -> None:
    for _ in current_job().track(files, reason="file {done} of {total}"):
        pass


def test_current_status(job_statuses: RecordedStatuses) -> None:
    """The status is the current one while the job runs, and then the final one."""
    with job_statuses.publisher.job("nightly", name="backup") as report:
        assert job_statuses["nightly"].state == "in_progress"
        report.progress(40, "copying")
        status = job_statuses["nightly"]
        assert (status.progress, status.reason, status.name) == (40, "copying", "backup")
    assert job_statuses["nightly"].state == "succeeded"
    assert job_statuses["nightly"].progress == 100


def test_history_of_a_loop(job_statuses: RecordedStatuses) -> None:
    """Every step of a tracked loop is in the history."""
    job_statuses.publisher.pending("nightly", name="backup")
    with job_statuses.publisher.job("nightly", name="backup"):
        copy(["a", "b"])
    shown = [(s.state.value, s.progress, s.reason) for s in job_statuses.history("nightly")]
    assert shown == [
        ("pending", 0, ""),
        ("in_progress", 0, ""),
        ("in_progress", 0, "file 0 of 2"),
        ("in_progress", 50, "file 1 of 2"),
        ("in_progress", 100, ""),
        ("succeeded", 100, ""),
    ]
    assert job_statuses.states("nightly") == ["pending", "in_progress", "succeeded"]


async def test_async_loop(job_statuses: RecordedStatuses) -> None:
    """The steps of an async loop are in the history as well."""

    async def rows() -> AsyncIterator[int]:
        for n in range(2):
            await asyncio.sleep(0)
            yield n

    async with job_statuses.publisher.job("a", name="x") as report:
        async for _ in report.track(rows(), total=2):
            pass
    assert [s.progress for s in job_statuses.history("a")] == [0, 0, 50, 100, 100]


def test_steps(job_statuses: RecordedStatuses) -> None:
    """Steps report by their weight, and have their names in the reason."""
    with job_statuses.publisher.job("a", name="x") as report:
        first, second = report.step("first"), report.step("second", weight=3)
        with first:
            current_job().progress(50, "half")
            assert job_statuses["a"].reason == "first: half"
        with second:
            assert job_statuses["a"].progress == 25
    assert [s.progress for s in job_statuses.history("a")][-2:] == [100, 100]


def test_sampled_progress(job_statuses: RecordedStatuses) -> None:
    """A progress function is called when the status is read."""
    done = 0
    with job_statuses.publisher.job("a", name="x") as report:
        report.sample(lambda: done)
        done = 70
        assert job_statuses["a"].progress == 70
        handle = share(report.step("elsewhere"))
        with handle as child:
            child.progress(100, "ready")
        assert job_statuses["a"].progress == 100


def test_failure_and_next_attempt(job_statuses: RecordedStatuses) -> None:
    """Exceptions propagate, and another attempt may follow."""
    with job_statuses.publisher.job("a", name="x", created=1) as report:
        report.retry("not yet", delay=5)
    with (
        pytest.raises(ZeroDivisionError),
        job_statuses.publisher.job("a", name="x", created=1, attempt=2),
    ):
        1 / 0  # noqa: B018
    assert job_statuses.states("a") == ["in_progress", "retrying", "in_progress", "failed"]
    assert job_statuses["a"].reason == "ZeroDivisionError: division by zero"


def test_job_without_reports(job_statuses: RecordedStatuses) -> None:
    """A job without a report has the state `unknown` and no history."""
    assert job_statuses["other"].state is JobState.UNKNOWN
    assert job_statuses.history("other") == []
    assert "other" not in job_statuses
    job_statuses.publisher.pending("other", name="x")
    assert "other" in job_statuses


def test_no_thread_and_settings_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording starts no thread, and does not depend on the environment."""
    monkeypatch.setenv("JOBSTATUS_KEY_PREFIX", "tenant")
    before = threading.active_count()
    with recorded_statuses() as statuses, statuses.publisher.job("a", name="x"):
        assert threading.active_count() == before
        assert statuses["a"].state is JobState.IN_PROGRESS
        assert statuses.publisher.settings.key_prefix == "job"
    with recorded_statuses(PublisherSettings(key_prefix="own")) as statuses:
        statuses.publisher.pending("a", name="x")
    assert statuses["a"].state is JobState.PENDING
    assert repr(statuses) == "<RecordedStatuses of 1 jobs>"


def test_fixture_needs_no_import(tmp_path: Path) -> None:
    """Pytest finds the fixture by itself where jobstatus is installed."""
    test = tmp_path / "test_mine.py"
    test.write_text(
        "def test_it(job_statuses):\n"
        "    with job_statuses.publisher.job('a', name='x'):\n"
        "        pass\n"
        "    assert job_statuses['a'].state == 'succeeded'\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stdout + result.stderr
