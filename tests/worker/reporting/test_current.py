"""`current_job()`, in a job and outside one."""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from tests.worker.reports import read, take_samples

from jobstatus import JobReport, current_job
from jobstatus.testing import RecordedStatuses


async def test_outside_a_job() -> None:
    """Outside a job, reports do nothing, and loops run unchanged."""
    report = current_job()
    report.progress(50, "x")
    report.reason = "y"
    report.sample(lambda: 1.0)
    report.fail("z")
    assert list(report.track([1, 2], reason="r")) == [1, 2]

    async def rows() -> AsyncIterator[int]:
        yield 1

    assert [x async for x in report.track(rows())] == [1]
    async with report.step("x") as step:
        step.sample(lambda: 1.0)
        assert current_job() is step
    take_samples(report)
    assert read(report) == (None, "")
    assert report.reason == ""
    assert report.outcome is None
    assert repr(report) == "<JobReport: no job is running>"


async def test_nested_code(job_statuses: RecordedStatuses) -> None:
    """Tasks and threads that a job starts have the report of the job."""

    async def nested() -> JobReport:
        return current_job()

    async with job_statuses.publisher.job("a", name="x") as report:
        assert current_job() is report
        assert await asyncio.create_task(nested()) is report
        assert await asyncio.to_thread(current_job) is report
        with ThreadPoolExecutor(1) as pool:
            context = contextvars.copy_context()
            assert pool.submit(context.run, current_job).result() is report
            assert pool.submit(current_job).result() is not report
    assert current_job() is not report
