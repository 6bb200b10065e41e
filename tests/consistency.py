"""A consistency checker: versioned writers, pollers of every kind, faults, and a verdict.

Writers report versions that only rise. A version that Redis has accepted is known; pollers note
what they were answered. The verdict: no answer is older than the bound, none goes backwards, and
every final state is delivered. Where a fault makes Redis itself lose what it had accepted (it comes
back empty, or a replica without the last writes is promoted), answers are not judged until it
serves again; after that, no answer may be older than what has been accepted since.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
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

BOUND = 2.0
"""Seconds by which an answer may be behind: the service's default."""

SLACK = 0.3
"""Seconds that this machine may take to note what it has seen."""

Version = tuple[int, bool, float]
"""When the run was enqueued, in ms; whether it is over; its progress. One writer has each job."""

NOTHING: Version = (-1, False, 0.0)


class Seen(NamedTuple):
    """One answer to one poller.

    Attributes:
        asked: When the request was sent; of an event, when the one before it was received.
        at: When the answer was received.
    """

    asked: float
    at: float
    job: str
    version: Version


class Ledger:
    """What was accepted, what was seen, and when data may have been lost.

    Attributes:
        accepted: Of each job, when which version was accepted.
        seen: Of each poller, its answers in their order.
        losses: From when on Redis may have lost data, and when it served again.
        faults_done: From when until when which fault was done.
        ends: Of each job, the final state of its last run.
    """

    def __init__(self, jobs: list[str]) -> None:
        self.accepted: dict[str, list[tuple[float, Version]]] = {job: [] for job in jobs}
        self.seen: dict[str, list[Seen]] = {}
        self.losses: list[tuple[float, float]] = []
        self.faults_done: list[tuple[float, float, str]] = []
        self.ends: dict[str, JobState] = {}
        self._jobs = {str(job_uuid(job)): job for job in jobs}

    def job_of(self, text: str) -> str:
        """The job whose UUID is at the end of a key, or in an answer."""
        return self._jobs[text[-36:]]

    def accept(self, writes: list[Write], results: list[Any]) -> None:
        """Note what Redis has accepted."""
        now = time.monotonic()
        for write, result in zip(writes, results, strict=True):
            if isinstance(result, Refusal) or result <= 0:
                continue
            job, record = self.job_of(write.key), write.record
            version = (record.created, record.state.is_final, round(record.progress or 0.0, 2))
            self.accepted[job].append((now, version))

    def version_of(self, body: dict[str, Any]) -> tuple[str, Version]:
        """Which job an answer is about, and its version."""
        job = self.job_of(body["id"])
        created = round(datetime.fromisoformat(body["created_at"]).timestamp() * 1000)
        if not created:
            return job, NOTHING
        progress = 0.0 if body["state"] == "pending" else round(body["progress"], 2)
        return job, (created, body["state"] in FINAL_STATES, progress)

    def runs(self, job: str) -> list[int]:
        """The runs of a job that were accepted, in their order."""
        return sorted({created for _, (created, _, _) in self.accepted[job]})

    def lost(self, since: float) -> None:
        """Redis may have lost data from `since` on; by now it serves again."""
        self.losses.append((since, time.monotonic()))

    def faults(self) -> list[str]:
        """What must not be."""
        found = []
        for poller, answers in self.seen.items():
            last: dict[str, Seen] = {}
            for seen in answers:
                if self._is_excused(seen):
                    last.pop(seen.job, None)
                    continue
                before = last.get(seen.job)
                if before is not None and seen.version < before.version:
                    found.append(f"{poller} backwards: {before} -> {seen}")
                needed = self._needed(seen)
                if seen.version < needed:
                    found.append(f"{poller} too old: {seen}, {needed} had been accepted")
                last[seen.job] = seen
        return found

    def _is_excused(self, seen: Seen) -> bool:
        return any(
            start <= seen.at and seen.asked <= back + BOUND + SLACK for start, back in self.losses
        )

    def _needed(self, seen: Seen) -> Version:
        """The newest version that any answer to this request must show."""
        after = max((back for start, back in self.losses if start <= seen.at), default=0.0)
        before = seen.asked - BOUND - SLACK
        known = [v for at, v in self.accepted[seen.job] if after < at <= before]
        return max(known, default=NOTHING)


class Writers:
    """Publishers in threads, whose jobs report all the time, end, and begin again."""

    def __init__(
        self, ledger: Ledger, settings: list[PublisherSettings], dice: random.Random
    ) -> None:
        self._ledger = ledger
        self._stop = threading.Event()
        self._seed = dice.randrange(10**6)
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
        """End every job."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def flush(self, seconds: float) -> bool:
        """Wait until all that was reported has been accepted; whether it was."""
        return all(publisher.flush(seconds) for publisher in self._publishers)

    def _run(self, publisher: Publisher, jobs: list[str], number: int) -> None:
        dice = random.Random(self._seed + number)
        with contextlib.ExitStack() as stack:
            running = {job: self._begin(publisher, job, stack) for job in jobs}
            step = 0
            while not self._stop.wait(0.01):
                step += 1
                for report in running.values():
                    report.progress(min(99.9, step % 1000 / 10))
                if step % 1000 == 999 or dice.random() < 0.01:
                    job = dice.choice(jobs)
                    self._end(job, running[job], dice)
                    running[job] = self._begin(publisher, job, stack)
                    running[job].progress(0)
                    step = step if step % 1000 < 900 else 0
            for job, report in running.items():
                self._end(job, report, dice)

    @staticmethod
    def _begin(publisher: Publisher, job: str, stack: contextlib.ExitStack) -> Any:
        publisher.pending(job, name="versions")
        return stack.enter_context(publisher.job(job, name="versions"))

    def _end(self, job: str, report: Any, dice: random.Random) -> None:
        state = dice.choice([JobState.SUCCEEDED, JobState.FAILED, JobState.ABORTED])
        self._ledger.ends[job] = state
        if state is JobState.SUCCEEDED:
            report.succeed()
        elif state is JobState.FAILED:
            report.fail("so the dice fell")
        else:
            report.abort("so the dice fell")


class Pollers:
    """Clients of every kind, all the time.

    Attributes:
        statuses: How often there was which status.
    """

    def __init__(self, url: str, key: str, ledger: Ledger) -> None:
        self.statuses: Counter[str] = Counter()
        self._ledger = ledger
        self._jobs = {job: f"/api/jobs/{job_uuid(job)}" for job in ledger.accepted}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=30, limits=limits)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Pollers"]:
        """While the block runs."""
        streamed, *_ = [list(self._jobs)[n::2] for n in range(2)]
        kinds = [self._plain(), self._validated(), self._bulk()]
        kinds += [self._waiting(job) for job in list(self._jobs)[:4]]
        kinds += [self._streaming(job) for job in streamed[:4]]
        tasks = [asyncio.create_task(code) for code in kinds]
        yield self
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()
        for each in ended:
            if not isinstance(each, asyncio.CancelledError) and isinstance(each, BaseException):
                raise each

    async def _get(self, code: str, path: str, **headers: str) -> httpx.Response | None:
        try:
            answer = await self._client.get(path, headers=headers)
        except httpx.TransportError:
            self.statuses["no answer"] += 1
            return None
        self.statuses[f"{code} {answer.status_code}"] += 1
        assert answer.status_code in {200, 304, 503}, (path, answer.status_code, answer.text)
        return answer

    def _note(self, poller: str, asked: float, body: dict[str, Any]) -> Version:
        job, version = self._ledger.version_of(body)
        seen = Seen(asked, time.monotonic(), job, version)
        self._ledger.seen.setdefault(poller, []).append(seen)
        return version

    async def _plain(self) -> None:
        while True:
            for path in self._jobs.values():
                asked = time.monotonic()
                if (answer := await self._get("plain", path)) is not None and answer.is_success:
                    self._note("plain", asked, answer.json())
            await asyncio.sleep(0.002)

    async def _validated(self) -> None:
        known: dict[str, tuple[str, dict[str, Any]]] = {}
        while True:
            for path in self._jobs.values():
                asked = time.monotonic()
                etag, body = known.get(path, ('"none"', {}))
                answer = await self._get("validated", path, **{"If-None-Match": etag})
                if answer is None or answer.status_code == 503:
                    continue
                if answer.status_code == 200:
                    body = answer.json()
                    known[path] = answer.headers["etag"], body
                self._note("validated", asked, body)
            await asyncio.sleep(0.002)

    async def _bulk(self) -> None:
        query = "&".join(f"id={path[-36:]}" for path in self._jobs.values())
        while True:
            asked = time.monotonic()
            answer = await self._get("bulk", f"/api/jobs?{query}")
            if answer is not None and answer.is_success:
                for body in answer.json()["jobs"]:
                    self._note("bulk", asked, body)
            await asyncio.sleep(0.01)

    async def _waiting(self, job: str) -> None:
        """Long polls. Their answer must be fresh when it comes, not when it was asked for."""
        etag = '"none"'
        while True:
            answer = await self._get("wait", f"{self._jobs[job]}?wait=1", **{"If-None-Match": etag})
            if answer is None or answer.status_code == 503:
                await asyncio.sleep(0.05)
            elif answer.status_code == 200:
                etag = answer.headers["etag"]
                self._note(f"wait {job}", time.monotonic(), answer.json())

    async def _streaming(self, job: str) -> None:
        while True:
            try:
                async with self._client.stream("GET", f"{self._jobs[job]}/events") as answer:
                    self.statuses[f"stream {answer.status_code}"] += 1
                    assert answer.status_code in {200, 503}, answer.status_code
                    async for line in answer.aiter_lines():
                        if line.startswith("data:"):
                            body = msgspec.json.decode(line[5:])
                            self._note(f"stream {job}", time.monotonic(), body)
            except httpx.TransportError:
                self.statuses["no answer"] += 1
            await asyncio.sleep(0.05)


async def check(
    url: str,
    key: str,
    ledger: Ledger,
    writers: Writers,
    faults: Callable[[], Iterator[str]],
    seconds: float,
) -> str:
    """Write and poll while faults happen; then let everything come right, and judge.

    Args:
        url: The service's.
        key: Its API key.
        ledger: Notes everything.
        writers: Not yet started.
        faults: Each step makes one fault happen, and names it.
        seconds: For how long.

    Returns:
        What happened, in one line.

    Raises:
        AssertionError: the verdict.
    """
    done: Counter[str] = Counter()
    pollers = Pollers(url, key, ledger)
    async with pollers.running():
        with writers:
            until, steps = time.monotonic() + seconds, faults()
            while time.monotonic() < until:
                since = time.monotonic()
                name = await asyncio.to_thread(next, steps)
                ledger.faults_done.append((since, time.monotonic(), name))
                done[name] += 1
            steps_end: Any = getattr(steps, "close", None)
            if steps_end is not None:
                steps_end()
            await asyncio.to_thread(writers.finish)
            assert await asyncio.to_thread(writers.flush, 15.0), "final states were not delivered"
            await asyncio.sleep(BOUND + SLACK)
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                for job, state in ledger.ends.items():
                    headers = {"Authorization": f"Bearer {key}"}
                    answer = await client.get(f"/api/jobs/{job_uuid(job)}", headers=headers)
                    shown = answer.json()["state"], ledger.version_of(answer.json())[1][0]
                    wanted = state, ledger.runs(job)[-1]
                    assert shown == wanted, f"{job}: {shown} is shown, {wanted} was reported"
    answers = sum(map(len, ledger.seen.values()))
    writes = sum(map(len, ledger.accepted.values()))
    runs = sum(len(ledger.runs(job)) for job in ledger.accepted)
    summary = (
        f"{answers} answers, {writes} accepted writes, {runs} runs of {len(ledger.accepted)} jobs, "
        f"{dict(done)}, {dict(pollers.statuses)}"
    )
    faulty = ledger.faults()
    assert not faulty, "\n".join(
        [f"{len(faulty)} answers are wrong", *faulty[:5], *faulty[-2:], summary]
        + [f"{start:.2f} to {end:.2f}: {name}" for start, end, name in ledger.faults_done]
    )
    assert answers > 100 * seconds, summary
    return summary
