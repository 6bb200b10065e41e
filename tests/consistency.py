"""Check that the service never shows a wrong or old status while Redis fails in many ways.

Writers report progress that only rises, so each status has a comparable version. The ledger
records when Redis accepted which version, and pollers of every kind record which versions they
received. The check fails if a response is older than the service's staleness bound, if a poller
receives an older version after a newer one, or if a final state is not delivered.

Some faults make Redis lose data that it had accepted: it restarts empty, or a replica without the
last writes is promoted. Responses are then not judged until it serves again; afterwards they must
be at least as new as what has been accepted since.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator
from datetime import datetime
from typing import Any, NamedTuple, Self

import httpx
import msgspec

from jobstatus import Publisher, job_uuid
from jobstatus.settings import PublisherSettings
from jobstatus.status import FINAL_STATES, JobState
from jobstatus.storage.cluster_store import store_for
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.write import Write

JOBS = [f"job-{n}" for n in range(12)]

MAX_STALENESS_SECONDS = 2.0
"""How old a response may be: the default of JOBSTATUS_MAX_STALENESS."""

TOLERANCE_SECONDS = 0.3
"""Additional age that is allowed, because this machine records events with a delay."""

Version = tuple[int, bool, float]
"""A run's enqueue time in ms, whether the run has finished, its progress; one writer per job."""

NO_VERSION: Version = (-1, False, 0.0)
"""The version of a job without a record."""


class Seen(NamedTuple):
    """A version that a poller received.

    Attributes:
        requested_at: When the request was sent. Of a long poll and of an event: when it was
            received, because such a response must be current when it is sent.
        received_at: When the response was received.
        job: The id of the job.
        version: What the response shows.
    """

    requested_at: float
    received_at: float
    job: str
    version: Version


class Ledger:
    """What Redis accepted, what pollers received, and when Redis may have lost data.

    All times are those of `time.monotonic()`.

    Attributes:
        accepted: Per job the versions that Redis accepted, with the time of each.
        seen: Per poller what it received, in order.
        losses: Intervals from the moment when Redis may have lost data until it served again.
        faults: Start, end and name of each fault that was caused.
        outcomes: Per job the final state that its last run reported.
    """

    def __init__(self, jobs: list[str]) -> None:
        self.accepted: dict[str, list[tuple[float, Version]]] = {job: [] for job in jobs}
        self.seen: dict[str, list[Seen]] = {}
        self.losses: list[tuple[float, float]] = []
        self.faults: list[tuple[float, float, str]] = []
        self.outcomes: dict[str, JobState] = {}
        self._jobs = {str(job_uuid(job)): job for job in jobs}

    def accept(self, writes: list[Write], results: list[Any]) -> None:
        """Record the writes that Redis has accepted."""
        now = time.monotonic()
        for write, result in zip(writes, results, strict=True):
            if isinstance(result, Refusal) or result <= 0:
                continue
            job, record = self._jobs[write.key[-36:]], write.record
            version = (record.created, record.state.is_final, round(record.progress or 0.0, 2))
            self.accepted[job].append((now, version))

    def version_of(self, body: dict[str, Any]) -> tuple[str, Version]:
        """Return the job and the version that a response shows."""
        job = self._jobs[body["id"]]
        created = round(datetime.fromisoformat(body["created_at"]).timestamp() * 1000)
        if not created:
            return job, NO_VERSION
        progress = 0.0 if body["state"] == "pending" else round(body["progress"], 2)
        return job, (created, body["state"] in FINAL_STATES, progress)

    def runs(self, job: str) -> list[int]:
        """Return the enqueue times of the runs that were accepted, in order."""
        return sorted({created for _, (created, _, _) in self.accepted[job]})

    def record_loss(self, since: float) -> None:
        """Record that Redis may have lost data since then, and that it serves again now."""
        self.losses.append((since, time.monotonic()))

    def violations(self) -> list[str]:
        """Return a description of each response that was too old or went backwards."""
        found = []
        for poller, responses in self.seen.items():
            last: dict[str, Seen] = {}
            for seen in responses:
                if self._is_excused(seen):
                    last.pop(seen.job, None)
                    continue
                before = last.get(seen.job)
                if before is not None and seen.version < before.version:
                    found.append(f"{poller} went backwards: {before} -> {seen}")
                required = self._required(seen)
                if seen.version < required:
                    found.append(f"{poller} is too old: {seen}, {required} had been accepted")
                last[seen.job] = seen
        return found

    def _is_excused(self, seen: Seen) -> bool:
        """Return whether Redis may have lost data while the request was processed."""
        allowed = MAX_STALENESS_SECONDS + TOLERANCE_SECONDS
        return any(
            start <= seen.received_at and seen.requested_at <= end + allowed
            for start, end in self.losses
        )

    def _required(self, seen: Seen) -> Version:
        """Return the newest version that a response to this request must at least show."""
        after = max((end for start, end in self.losses if start <= seen.received_at), default=0.0)
        before = seen.requested_at - MAX_STALENESS_SECONDS - TOLERANCE_SECONDS
        known = [version for at, version in self.accepted[seen.job] if after < at <= before]
        return max(known, default=NO_VERSION)


class Writers:
    """Publishers in threads, whose jobs report all the time, finish, and are enqueued again."""

    def __init__(
        self, ledger: Ledger, settings: list[PublisherSettings], rng: random.Random
    ) -> None:
        self._ledger = ledger
        self._stop = threading.Event()
        self._seed = rng.randrange(10**6)
        jobs = list(ledger.accepted)
        self._publishers = [self._publisher(each) for each in settings]
        count = len(settings)
        self._threads = [
            threading.Thread(target=self._run, args=(publisher, jobs[n::count], n), daemon=True)
            for n, publisher in enumerate(self._publishers)
        ]

    def _publisher(self, settings: PublisherSettings) -> Publisher:
        store: Any = store_for(settings)
        plain: Callable[[Any], Any] = store.write

        def write(writes: Any) -> Any:
            results = plain(writes)
            self._ledger.accept(writes, results)
            return results

        store.write = write
        return Publisher(store, settings)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()
        for publisher in self._publishers:
            publisher.close()

    def finish(self) -> None:
        """Finish every job, and stop the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def flush(self, timeout: float) -> bool:
        """Wait until Redis has accepted all reports; return False after `timeout` seconds."""
        return all(publisher.flush(timeout) for publisher in self._publishers)

    def _run(self, publisher: Publisher, jobs: list[str], number: int) -> None:
        rng = random.Random(self._seed + number)
        with contextlib.ExitStack() as stack:
            running = {job: self._begin(publisher, job, stack) for job in jobs}
            step = 0
            while not self._stop.wait(0.01):
                step += 1
                for report in running.values():
                    report.progress(min(99.9, step % 1000 / 10))
                if step % 1000 == 999 or rng.random() < 0.01:
                    job = rng.choice(jobs)
                    self._end(job, running[job], rng)
                    running[job] = self._begin(publisher, job, stack)
                    running[job].progress(0)
                    step = step if step % 1000 < 900 else 0
            for job, report in running.items():
                self._end(job, report, rng)

    @staticmethod
    def _begin(publisher: Publisher, job: str, stack: contextlib.ExitStack) -> Any:
        publisher.pending(job, name="versions")
        return stack.enter_context(publisher.job(job, name="versions"))

    def _end(self, job: str, report: Any, rng: random.Random) -> None:
        state = rng.choice([JobState.SUCCEEDED, JobState.FAILED, JobState.ABORTED])
        self._ledger.outcomes[job] = state
        if state is JobState.SUCCEEDED:
            report.succeed()
        elif state is JobState.FAILED:
            report.fail("chosen at random")
        else:
            report.abort("chosen at random")


class Pollers:
    """Clients of every kind, which send requests all the time.

    Attributes:
        statuses: How often each kind of request received each HTTP status.
    """

    def __init__(self, url: str, key: str, ledger: Ledger) -> None:
        self.statuses: Counter[str] = Counter()
        self._ledger = ledger
        self._paths = {job: f"/api/jobs/{job_uuid(job)}" for job in ledger.accepted}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=30, limits=limits)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Pollers"]:
        """Send requests while the block runs."""
        jobs = list(self._paths)
        kinds = [self._plain(), self._conditional(), self._bulk()]
        kinds += [self._long_poll(job) for job in jobs[:4]]
        kinds += [self._stream(job) for job in jobs[:8:2]]
        tasks = [asyncio.create_task(code) for code in kinds]
        yield self
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()
        for result in results:
            if not isinstance(result, asyncio.CancelledError) and isinstance(result, BaseException):
                raise result

    async def _get(self, code: str, path: str, **headers: str) -> httpx.Response | None:
        try:
            response = await self._client.get(path, headers=headers)
        except httpx.TransportError:
            self.statuses["no response"] += 1
            return None
        self.statuses[f"{code} {response.status_code}"] += 1
        details = path, response.status_code, response.text
        assert response.status_code in {200, 304, 503}, details
        return response

    def _record(self, poller: str, requested_at: float, body: dict[str, Any]) -> None:
        job, version = self._ledger.version_of(body)
        seen = Seen(requested_at, time.monotonic(), job, version)
        self._ledger.seen.setdefault(poller, []).append(seen)

    async def _plain(self) -> None:
        while True:
            for path in self._paths.values():
                requested_at = time.monotonic()
                response = await self._get("plain", path)
                if response is not None and response.is_success:
                    self._record("plain", requested_at, response.json())
            await asyncio.sleep(0.002)

    async def _conditional(self) -> None:
        cached: dict[str, tuple[str, dict[str, Any]]] = {}
        while True:
            for path in self._paths.values():
                requested_at = time.monotonic()
                etag, body = cached.get(path, ('"none"', {}))
                response = await self._get("conditional", path, **{"If-None-Match": etag})
                if response is None or response.status_code == 503:
                    continue
                if response.status_code == 200:
                    body = response.json()
                    cached[path] = response.headers["etag"], body
                self._record("conditional", requested_at, body)
            await asyncio.sleep(0.002)

    async def _bulk(self) -> None:
        query = "&".join(f"id={path[-36:]}" for path in self._paths.values())
        while True:
            requested_at = time.monotonic()
            response = await self._get("bulk", f"/api/jobs?{query}")
            if response is not None and response.is_success:
                for body in response.json()["jobs"]:
                    self._record("bulk", requested_at, body)
            await asyncio.sleep(0.01)

    async def _long_poll(self, job: str) -> None:
        path, etag = f"{self._paths[job]}?wait=1", '"none"'
        while True:
            response = await self._get("long poll", path, **{"If-None-Match": etag})
            if response is None or response.status_code == 503:
                await asyncio.sleep(0.05)
            elif response.status_code == 200:
                etag = response.headers["etag"]
                self._record(f"long poll {job}", time.monotonic(), response.json())

    async def _stream(self, job: str) -> None:
        while True:
            try:
                async with self._client.stream("GET", f"{self._paths[job]}/events") as response:
                    self.statuses[f"stream {response.status_code}"] += 1
                    assert response.status_code in {200, 503}, response.status_code
                    async for line in response.aiter_lines():
                        if line.startswith("data:"):
                            body = msgspec.json.decode(line[5:])
                            self._record(f"stream {job}", time.monotonic(), body)
            except httpx.TransportError:
                self.statuses["no response"] += 1
            await asyncio.sleep(0.05)


async def check(
    url: str,
    key: str,
    ledger: Ledger,
    writers: Writers,
    faults: Generator[str],
    seconds: float,
) -> str:
    """Write and poll while faults happen; then finish all jobs, and check what was recorded.

    Args:
        url: The URL of the service.
        key: An API key of the service.
        ledger: Records what happens.
        writers: Are started and finished here.
        faults: Causes one fault per step, and yields its name.
        seconds: How long faults are caused.

    Returns:
        One line that says what happened.

    Raises:
        AssertionError: A response was wrong, or a final state was not delivered.
    """
    pollers = Pollers(url, key, ledger)
    async with pollers.running():
        with writers, contextlib.closing(faults):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                start = time.monotonic()
                name = await asyncio.to_thread(next, faults)
                ledger.faults.append((start, time.monotonic(), name))
            await asyncio.to_thread(writers.finish)
            assert await asyncio.to_thread(writers.flush, 15.0), "final states were not delivered"
            await asyncio.sleep(MAX_STALENESS_SECONDS + TOLERANCE_SECONDS)
            await _check_final_states(url, key, ledger)
    received = sum(map(len, ledger.seen.values()))
    writes = sum(map(len, ledger.accepted.values()))
    runs = sum(len(ledger.runs(job)) for job in ledger.accepted)
    counts = dict(Counter(name for _, _, name in ledger.faults))
    summary = (
        f"{received} responses, {writes} accepted writes, {runs} runs of {len(ledger.accepted)} "
        f"jobs, {counts}, {dict(pollers.statuses)}"
    )
    violations = ledger.violations()
    assert not violations, "\n".join(
        [f"{len(violations)} wrong responses", *violations[:5], *violations[-2:], summary]
        + [f"{start:.2f} to {end:.2f}: {name}" for start, end, name in ledger.faults]
    )
    assert received > 100 * seconds, summary
    return summary


async def _check_final_states(url: str, key: str, ledger: Ledger) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
        for job, state in ledger.outcomes.items():
            body = (await client.get(f"/api/jobs/{job_uuid(job)}")).json()
            shown = body["state"], ledger.version_of(body)[1][0]
            reported = state, ledger.runs(job)[-1]
            assert shown == reported, f"{job}: {shown} is shown, {reported} was reported"
