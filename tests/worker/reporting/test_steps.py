"""Progress that is made of parts, in one process or in several."""

import gc
import multiprocessing
import os
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import eventually
from tests.worker.reports import read, take_samples

from jobstatus import current_job
from jobstatus.reporting.report import CURRENT_REPORT, JobReport
from jobstatus.reporting.shared_step import SharedStep, share


def test_steps_count_for_their_weight() -> None:
    """A step's 0..100 counts for its weight beside its siblings'."""
    report = JobReport()
    download, convert = report.step("download"), report.step("convert", weight=3)
    assert read(report) == (0, "")
    with download:
        download.progress(50)
        assert read(report) == (12.5, "download")
    assert read(report)[0] == 25
    with convert as step:
        step.progress(50, "page 3")
        assert read(report) == (62.5, "convert: page 3")
    assert read(report) == (100, "")


def test_step_is_the_current_job_of_its_block() -> None:
    """Code that knows nothing of steps reports for the step that it runs in."""
    report = JobReport()
    token = CURRENT_REPORT.set(report)
    with report.step("only") as step:
        assert current_job() is step
        for _ in current_job().track([1, 2]):
            pass
        current_job().fail("no disk")
    assert current_job() is report
    assert report.outcome is not None
    assert report.outcome.reason == "no disk"
    CURRENT_REPORT.reset(token)


def test_steps_nest() -> None:
    """A step may have steps and tracks of its own."""
    report = JobReport()
    outer, _ = report.step("outer"), report.step("other")
    first, second = outer.step("first"), outer.step("second")
    with outer, first:
        pass
    outer._is_running = second._is_running = True
    seen = [read(second)[0] for _ in second.track([1, 2], reason="{done} of {total}")]
    assert seen == [0, 50]
    second.progress(50)
    assert read(report)[0] == 50


def test_failed_step_is_not_complete() -> None:
    """A step that raises isn't complete."""
    report = JobReport()
    step = report.step("only")
    step.progress(30)
    with pytest.raises(ValueError, match="x"), step:
        raise ValueError("x")
    assert read(report)[0] == 30


@pytest.mark.parametrize("weight", [0, -1, float("nan")])
def test_weight_must_be_positive(weight: float) -> None:
    """A weight that can't count is refused."""
    with pytest.raises(ValueError, match="above 0"):
        JobReport().step("x", weight)


async def test_async_with() -> None:
    """A step takes `async with` too, and does nothing outside a job."""
    async with JobReport().step("x") as step:
        assert current_job() is step
    async with current_job().step("x") as step:
        step.progress(3)


def work(handle: SharedStep, percent: float, gate: str) -> int:
    with handle as report:
        report.progress(percent, "in a child")
        while not Path(gate).exists():
            time.sleep(0.01)
        assert current_job() is report
    return os.getpid()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_report_one_progress(method: str, tmp_path: Path) -> None:
    """Steps that run in child processes add up in the parent's one progress."""
    report = JobReport()
    gate = tmp_path / "gate"
    context: Any = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        steps = [report.step("one"), report.step("two", weight=3)]
        handles = [share(step) for step in steps]
        futures = [
            pool.submit(work, handle, percent, str(gate))
            for handle, percent in zip(handles, (25, 75), strict=True)
        ]

        def shown() -> float | None:
            take_samples(report)
            return read(report)[0]

        try:
            eventually(lambda: shown() == 62.5, 20)
            assert read(report)[1] == "two: in a child"
        finally:
            gate.touch()
        assert os.getpid() not in {future.result() for future in futures}
    take_samples(report)
    assert read(report)[0] == 100


def test_step_that_can_not_be_shared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no file can be made the job goes on, and the log says why it reports nothing."""
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    with share(JobReport().step("x")) as report:
        report.progress(10)
    assert "a step can't be shared with another process: FileNotFoundError" in caplog.text


def test_shared_file_goes_with_its_step() -> None:
    """The file behind a shared step is gone when the step is; a late child does no harm."""
    handle = share(JobReport().step("x"))
    gc.collect()
    assert not Path(handle._path).exists()
    late: SharedStep = pickle.loads(pickle.dumps(handle))
    with late as report:
        report.progress(10)
