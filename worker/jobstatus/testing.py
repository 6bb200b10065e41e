"""Test what a job reports, without a server, a thread or a sleep.

    from jobstatus.testing import recorded_statuses

    def test_backup():
        with recorded_statuses() as statuses:
            with statuses.publisher.job("nightly", name="backup"):
                back_up()  # reports by current_job()
        assert statuses["nightly"].state == "succeeded"
        assert [status.progress for status in statuses.history("nightly")] == [0, 50, 100]

With pytest, the fixture `job_statuses` gives the same object. The publisher writes with the real
script to an in-memory server (`fakeredis`), at once and in the calling thread.
"""

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Self
from uuid import UUID

try:
    from fakeredis import FakeServer, FakeStrictRedis
except ModuleNotFoundError:
    from jobstatus.errors import MissingExtraError

    raise MissingExtraError(
        "jobstatus.testing needs fakeredis: pip install 'jobstatus[testing]'"
    ) from None

from jobstatus.keys import uuid_of_key
from jobstatus.publishing.attempt import Attempt
from jobstatus.publishing.publisher import Publisher
from jobstatus.reporting.report import JobReport, Step
from jobstatus.reporting.report_reader import ReportReader
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, JobStatus, Record, WriteResult, job_uuid
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write

__all__ = ["RecordedStatuses", "recorded_statuses"]


class RecordedStatuses:
    """The statuses of jobs, as a poller would get them, and their history.

    `statuses["nightly"]` is the present `JobStatus` of a job; its state is `unknown` if nothing was
    reported.

    Attributes:
        publisher: The publisher to test with.
    """

    def __init__(self, settings: PublisherSettings | None = None) -> None:
        """Create a publisher to an empty in-memory server.

        Args:
            settings: Settings of the publisher; None: the defaults; the environment is ignored.
        """
        self._client: Any = FakeStrictRedis(server=FakeServer(), protocol=2)
        self._history: dict[UUID, list[JobStatus]] = {}
        store = _RecordingStore(self._client, self._record)
        self.publisher: Publisher = _ImmediatePublisher(store, settings or PublisherSettings())

    def __repr__(self) -> str:
        return f"<RecordedStatuses of {len(self._history)} jobs>"

    def __getitem__(self, job_id: str | UUID) -> JobStatus:
        self.publisher.flush()
        uuid = job_uuid(job_id)
        fields = self._client.hgetall(f"{self.publisher.settings.key_prefix}:{uuid}")
        if not fields:
            return JobStatus.unknown(uuid, "nothing was reported for this job")
        decoded = {name.decode(): value.decode() for name, value in fields.items()}
        return JobStatus.from_record(uuid, Record.from_fields(decoded))

    def __contains__(self, job_id: str | UUID) -> bool:
        self.publisher.flush()
        return job_uuid(job_id) in self._history

    def history(self, job_id: str | UUID) -> list[JobStatus]:
        """Return every status that the job has had, in order; empty if nothing was reported."""
        self.publisher.flush()
        return list(self._history.get(job_uuid(job_id), ()))

    def states(self, job_id: str | UUID) -> list[JobState]:
        """Return the states that the job has gone through, in order, each change once."""
        states = [status.state for status in self.history(job_id)]
        return [state for n, state in enumerate(states) if n == 0 or states[n - 1] is not state]

    def _record(self, key: str) -> None:
        uuid = UUID(uuid_of_key(key))
        fields = {k.decode(): v.decode() for k, v in self._client.hgetall(key).items()}
        status = JobStatus.from_record(uuid, Record.from_fields(fields))
        self._history.setdefault(uuid, []).append(status)


@contextlib.contextmanager
def recorded_statuses(settings: PublisherSettings | None = None) -> Iterator[RecordedStatuses]:
    """Record the statuses of the jobs of a publisher.

    Args:
        settings: Settings of the publisher; None: the defaults; the environment is ignored.
    """
    statuses = RecordedStatuses(settings)
    with statuses.publisher:
        yield statuses


class _RecordingStore(Store):
    """A store that notes which records have changed."""

    def __init__(self, client: Any, on_change: Callable[[str], None]) -> None:
        super().__init__(client)
        self._on_change = on_change

    def write(self, writes: Sequence[Write]) -> list[WriteResult | Refusal]:
        results: list[WriteResult | Refusal] = []
        for write in writes:  # one at a time, so that no status is missed
            (result,) = super().write([write])
            if not isinstance(result, Refusal) and result >= WriteResult.CHANGED:
                self._on_change(write.key)
            results.append(result)
        return results


class _ImmediatePublisher(Publisher):
    """A publisher without a thread: it delivers at once, in the calling thread."""

    _is_flushing = False

    def attempt(self, *args: Any, **kwargs: Any) -> Attempt:
        attempt = super().attempt(*args, **kwargs)
        attempt.report = _Immediate()
        attempt.report._deliver = self.flush
        attempt.reader = ReportReader(attempt.report)
        return attempt

    def flush(self, timeout: object = None) -> bool:
        del timeout
        if not self._is_flushing:  # a progress function may report, too
            self._is_flushing = True
            try:
                for attempt in self._delivery.running():
                    attempt.reader.take_samples()
                self._delivery.flush(0)
                self._delivery.tick()
            finally:
                self._is_flushing = False
        return not self._delivery.has_more_to_send

    def _wake(self) -> None:
        self.flush()

    def _start(self) -> None:
        self._is_running = True


class _Immediate(JobReport):
    """A report or a step that has every change delivered at once, each step of a loop included."""

    _deliver: Callable[[], object]

    def progress(self, percent: float, reason: str | None = None) -> None:
        super().progress(percent, reason)
        self._deliver()

    @property
    def reason(self) -> str:
        return self._reason

    @reason.setter
    def reason(self, reason: str) -> None:
        self._reason = reason
        self._deliver()

    def track(self, iterable: Any, total: int | None = None, reason: str | None = None) -> Any:
        is_async = isinstance(iterable, AsyncIterable)
        loop = super().track(iterable, total, reason)
        return self._delivering_async(loop) if is_async else self._delivering(loop)

    def _delivering(self, loop: Iterator[Any]) -> Iterator[Any]:
        for item in loop:
            self._deliver()
            yield item
        del loop  # only then the loop counts as ended
        self._deliver()

    async def _delivering_async(self, loop: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in loop:
            self._deliver()
            yield item
        self._deliver()

    def _new_step(self, name: str, weight: float) -> Step:
        step = _ImmediateStep(self, name, weight)
        step._deliver = self._deliver
        return step


class _ImmediateStep(_Immediate, Step):
    def __enter__(self) -> Self:
        step = super().__enter__()
        self._deliver()
        return step
