"""tqdm's bar as a report."""

import io
from typing import Any

import pytest
from tests.worker.reports import read
from tqdm.std import tqdm as plain

from jobstatus.reporting.report import CURRENT_REPORT, JobReport
from jobstatus.tqdm import tqdm, trange


@pytest.fixture
def report() -> Any:
    report = JobReport()
    token = CURRENT_REPORT.set(report)
    yield report
    CURRENT_REPORT.reset(token)


def test_bar_is_the_progress(report: JobReport) -> None:
    """A bar's position is the job's progress, its description the reason."""
    out = io.StringIO()
    bar = tqdm(range(4), desc="epochs", file=out, mininterval=0, miniters=1)
    assert isinstance(bar, plain)
    seen = [read(report) for _ in bar]
    assert seen == [(n * 25.0, "epochs") for n in range(4)]
    assert read(report)[0] == 100
    assert "epochs: 100%" in out.getvalue()


def test_bar_by_hand(report: JobReport) -> None:
    """A bar that is updated by hand reports too."""
    with tqdm(total=10, file=io.StringIO()) as bar:
        bar.update(3)
        assert read(report)[0] == 30


def test_disabled_bar_reports_all_the_same(report: JobReport) -> None:
    """A bar that is disabled draws nothing; its loop is tracked."""
    seen = [read(report)[0] for _ in tqdm([1, 2], disable=True)]
    assert seen == [0, 50]


def test_disabled_bar_can_be_looped_over_again(report: JobReport) -> None:
    """A disabled bar is looped over as often as its list, in a job and outside one."""
    bar = tqdm([1, 2], disable=True)
    assert [list(bar), list(bar)] == [[1, 2], [1, 2]]


def test_bars_nest(report: JobReport) -> None:
    """A bar inside another one's loop counts for one step of it."""
    out = io.StringIO()
    options: dict[str, Any] = {"file": out, "mininterval": 0, "miniters": 1}
    seen = [
        read(report)[0] for _ in trange(2, **options) for _ in trange(2, leave=False, **options)
    ]
    assert seen == [0, 25, 50, 75]


def test_outside_a_job() -> None:
    """Outside a job it is tqdm and nothing else."""
    assert list(tqdm([1, 2], file=io.StringIO())) == [1, 2]
    assert list(tqdm([1, 2], disable=True)) == [1, 2]
