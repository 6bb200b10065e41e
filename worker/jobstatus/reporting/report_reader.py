"""Reading a report from outside the job: by the publisher, or where a step runs elsewhere.

Reading may call job code: properties, `__str__`, progress functions. Its errors are logged once per
report and never reach the job.
"""

from collections.abc import Callable
from typing import TypeVar

from jobstatus.reporting import sanitize
from jobstatus.reporting.report import JobReport
from jobstatus.status import REASON_LIMIT, one_line, raise_interrupt

T = TypeVar("T")


class ReportReader:
    """Reads one report. The publisher's thread and the sampler's thread call it."""

    def __init__(self, report: JobReport) -> None:
        self._report = report
        self._shown_reason = ("", "")
        self._has_logged_error = False

    @property
    def needs_sampling(self) -> bool:
        """Whether the job has progress functions, which have to be called."""
        return self._report._needs_sampling

    @property
    def report_count(self) -> int:
        """Approximately how many reports the job has made; each step of a loop is one."""
        return self._guarded(_report_count, 0)

    @property
    def has_progress(self) -> bool:
        """Whether the job reports progress, even if it has no value yet."""
        return self.needs_sampling or self._guarded(_percent, None) is not None

    def read(self) -> tuple[float | None, str]:
        """Return the current progress (0..100 percent, or None) and reason.

        If job code raises meanwhile, the progress is None and the reason is the last one.
        """
        percent = self._guarded(_percent, None)
        if percent is not None:
            percent = sanitize.clamp_percent(percent)
        reason = self._guarded(_reason, self._shown_reason[0])
        if reason is not self._shown_reason[0]:
            self._shown_reason = (reason, one_line(reason, REASON_LIMIT))
        return percent, self._shown_reason[1]

    def take_samples(self) -> None:
        """Call the job's progress functions. They may block; their errors are logged."""
        _take_samples(self._report)

    def _guarded(self, read: Callable[[JobReport], T], otherwise: T) -> T:
        """Return what `read` returns; `otherwise` if it raises."""
        try:
            return read(self._report)
        except BaseException as error:
            raise_interrupt(error)
            if not self._has_logged_error:
                self._has_logged_error = True
                sanitize.log_ignored_error("a job's report can't be read", error)
            return otherwise


def _take_samples(report: JobReport) -> None:
    for step in report._steps:
        _take_samples(step)
    if report._progress_function is None:
        return
    function = report._progress_function
    try:
        report._sampled_percent = sanitize.clamp_percent(float(function()))
    except BaseException as error:  # SystemExit, too: it would end the sampler's thread
        report._progress_function = None
        name = one_line(getattr(function, "__qualname__", function), REASON_LIMIT)
        sanitize.log_ignored_error(
            f"the progress function {name} failed and is not called again, the job continues", error
        )


def _report_count(report: JobReport) -> int:
    own = report._report_count + sum(loop.done() for loop in report._loops)
    return own + sum(map(_report_count, report._steps))


def _percent(report: JobReport) -> float | None:
    """Return the highest progress of all sources; None if none has reported any."""
    explicit = _explicit_percent(report)
    if not (report._loops or report._steps or report._needs_sampling):
        return explicit
    sources = (explicit, _loop_percent(report), report._sampled_percent, _step_percent(report))
    return max((percent for percent in sources if percent is not None), default=None)


def _explicit_percent(report: JobReport) -> float | None:
    if report._percent is None:
        return None
    try:
        percent = float(report._percent)
    except BaseException as error:
        raise_interrupt(error)
        report._percent = None
        sanitize.log_ignored_error("a job's progress is not a number and is ignored", error)
        return None
    return sanitize.clamp_percent(percent)


def _loop_percent(report: JobReport) -> float | None:
    """Return the progress of the nested loops: an inner loop is one step of the outer one."""
    percent, share = None, 100.0
    for loop in report._loops:
        if not loop.total:
            break
        percent = (percent or 0.0) + share * min(1.0, loop.done() / loop.total)
        share /= loop.total
    return percent


def _step_percent(report: JobReport) -> float | None:
    steps = report._steps
    if not steps:
        return None
    done = sum(step.weight * (_percent(step) or 0.0) for step in steps)
    return done / sum(step.weight for step in steps)


def _reason(report: JobReport) -> str:
    """Return the reason of the running step or loop, or else the report's own."""
    for step in reversed(report._steps):
        if step._is_running:
            inner = _reason(step)
            return f"{step.name}: {inner}" if inner else step.name
    for loop in reversed(report._loops):
        if loop.reason and not loop.has_ended:
            total = "?" if loop.total is None else str(loop.total)
            return loop.reason.replace("{done}", str(loop.done())).replace("{total}", total)
    return report._reason
