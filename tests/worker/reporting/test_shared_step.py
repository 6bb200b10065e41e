"""Steps of a job that run in other processes."""

import gc
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import eventually
from tests.worker.reports import read, take_samples

from jobstatus import SharedStep, current_job, share
from jobstatus.reporting.report import JobReport


def run_step(handle: SharedStep, percent: float, gate: Path) -> int:
    """Report progress until the file `gate` exists; return the id of this process."""
    with handle as report:
        report.progress(percent, "in a child")
        eventually(gate.exists, 60)
        assert current_job() is report
    return os.getpid()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_steps_in_child_processes(method: str, tmp_path: Path) -> None:
    """Steps that run in child processes add up to the progress of the job."""
    report = JobReport()
    gate = tmp_path / "gate"
    context: Any = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        steps = [report.step("one"), report.step("two", weight=3)]
        handles = [share(step) for step in steps]
        futures = [
            pool.submit(run_step, handle, percent, gate)
            for handle, percent in zip(handles, (25, 75), strict=True)
        ]

        def sampled() -> float | None:
            take_samples(report)
            return read(report)[0]

        try:
            eventually(lambda: sampled() == 62.5, 20)
            assert read(report)[1] == "two: in a child"
        finally:
            gate.touch()
        assert os.getpid() not in {future.result() for future in futures}
    take_samples(report)
    assert read(report)[0] == 100


def test_step_that_can_not_be_shared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If no file can be created, the job continues, and the log says that nothing is reported."""
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    with share(JobReport().step("x")) as report:
        report.progress(10)
    assert "a step can't be shared with another process: FileNotFoundError" in caplog.text


def test_file_of_a_shared_step() -> None:
    """The file of a shared step is deleted with the step; a late child reports nothing."""
    handle = share(JobReport().step("x"))
    gc.collect()
    assert not Path(handle._path).exists()
    late: SharedStep = pickle.loads(pickle.dumps(handle))
    with late as report:
        report.progress(10)


def test_repr() -> None:
    """The repr shows the file that the processes share."""
    assert repr(SharedStep("/tmp/step")) == "<SharedStep '/tmp/step'>"
