"""Jobs that change at random, and the check that a list of them misses none."""

import random
import time
from typing import Final
from uuid import UUID, uuid4

from tests.service.conftest import Poller

from jobstatus.keys import record_key
from jobstatus.status import JobState, Record
from jobstatus.storage.cluster_store import AnyStore
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.write import Write

STATES: Final = [state for state in JobState if state is not JobState.UNKNOWN]

_TRIES: Final = 500


class World:
    """Jobs that change at random; each change is written before the next page is read.

    Attributes:
        random: Decides what changes.
        states: The state of each job.
    """

    def __init__(self, store: AnyStore, seed: int, *, is_cluster: bool = False) -> None:
        self.random = random.Random(seed)
        self.states: dict[UUID, JobState] = {}
        self._created: dict[UUID, int] = {}
        self._attempts: dict[UUID, int] = {}
        self._store = store
        self._is_cluster = is_cluster
        self._last_ms = 0

    def change(self) -> None:
        """Create a job, or move one to its next state."""
        unfinished = [job for job, state in self.states.items() if not state.is_final]
        if not unfinished or self.random.random() < 0.3:
            job = uuid4()
            # Unique, as the publisher makes it.
            self._last_ms = max(time.time_ns() // 1_000_000, self._last_ms + 1)
            self._created[job], self._attempts[job] = self._last_ms, 0
            self._write(job, JobState.PENDING)
            return
        job = self.random.choice(unfinished)
        if self.states[job] is JobState.IN_PROGRESS:
            self._write(job, self.random.choice([*STATES[2:]]))
        else:
            self._attempts[job] += 1
            self._write(job, JobState.IN_PROGRESS)

    def _write(self, job: UUID, state: JobState) -> None:
        self.states[job] = state
        now = time.monotonic()
        record = Record(
            name="n", state=state, created=self._created[job], attempt=self._attempts[job]
        )
        # Reports arrive late by up to 50 ms.
        happened_at = now - self.random.uniform(0, 0.05)
        is_running = state is JobState.IN_PROGRESS
        write = Write(
            record_key("job", str(job), is_cluster=self._is_cluster),
            record,
            60_000,
            30_000 if is_running else 0,
            began_at=now - 1,
            happened_at=None if is_running else happened_at,
        )
        for _ in range(_TRIES):
            (result,) = self._store.write([write])
            if not isinstance(result, Refusal):
                return
            time.sleep(0.01)  # the slot of the job is being moved
        raise AssertionError(result)


async def check_one_listing(client: Poller, world: World, at_start: set[UUID], limit: int) -> None:
    """Page through the list while the world changes, and check what was listed."""
    found: list[UUID] = []
    cursor = ""
    while True:
        body = (await client.get(f"/api/jobs?limit={limit}{cursor}")).json()
        found += [UUID(job["id"]) for job in body["jobs"]]
        if body["next"] is None:
            break
        cursor = f"&cursor={body['next']}"
        for _ in range(world.random.randint(0, 6)):
            world.change()
    assert len(found) == len(set(found)), "a job is listed twice"
    assert not at_start - set(found), "a job is left out"
