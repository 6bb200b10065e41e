"""Taking jobs from arq's queue.

arq 0.28 takes each job in four round trips (WATCH, EXISTS, ZSCORE, then MULTI and PSETEX). What it
achieves is that of all workers one creates the job's in-progress key, while the job is queued and
due. `SET NX` and ZSCORE in one transaction achieve the same, for many jobs in one round trip, and
exclude arq's own workers as they exclude ours: what counts for either is that the key is there.
The key is a lease, see `renewal`.
"""

import time
from secrets import token_hex
from typing import Any

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from arq.utils import timestamp_ms
from redis.exceptions import ResponseError

from jobstatus.arq.outage import raise_transient
from jobstatus.arq.renewal import Claim


class Claims:
    """Takes jobs of one queue for one worker.

    The key's value says whose it is, and in which taking it was taken: so a job whose taking was
    cut off by an outage can be taken when Redis is back, instead of when the key expires; and no
    end of one run is mistaken for that of the next.

    Attributes:
        held: The jobs that this worker has.
        lease: Seconds for which a key lives, unless it is renewed.
    """

    def __init__(self, queue: str, in_progress_seconds: float, lease: float) -> None:
        """For one worker.

        Args:
            queue: The queue's key.
            in_progress_seconds: For how long arq would keep others from running a job.
            lease: Seconds for which a key lives, unless it is renewed.
        """
        self.held: dict[str, Claim] = {}
        self.lease = min(lease, in_progress_seconds)
        self._queue = queue
        self._in_progress_seconds = in_progress_seconds
        self._token = token_hex(8).encode()
        self._takings = 0
        self._uncertain: set[str] = set()

    async def take(self, pool: ArqRedis, job_ids: list[str]) -> dict[str, int]:
        """Take those of the jobs that nobody has, and that are queued and due.

        Returns:
            Their scores in the queue, ms since the epoch, by their ids.

        Raises:
            RedisError, OSError: Redis can't answer.
        """
        self._takings += 1
        now = time.monotonic()
        value = b"%b:%d" % (self._token, self._takings)
        keys = [in_progress_key_prefix + job_id for job_id in job_ids]
        try:
            async with pool.pipeline(transaction=True) as pipe:
                for key, job_id in zip(keys, job_ids, strict=True):
                    pipe.set(key, value, nx=True, px=self._px)
                    pipe.zscore(self._queue, job_id)
                replies = await pipe.execute()
            found = zip(job_ids, replies[::2], replies[1::2], strict=True)
            mine = {job_id: score for job_id, new, score in found if new}
            until = dict.fromkeys(mine, now + self.lease)
            values = dict.fromkeys(mine, value)
            recovered = await self._recovered(pool, job_ids, mine)
            until |= dict.fromkeys(recovered, now + self.lease)
            scores = dict(zip(job_ids, replies[1::2], strict=True))
            mine |= {job_id: scores[job_id] for job_id in recovered}
            values |= recovered
            due = timestamp_ms()
            gone = [job_id for job_id, score in mine.items() if not score or score > due]
            if gone:  # done elsewhere, or deferred, since the queue was read
                await pool.delete(*(in_progress_key_prefix + job_id for job_id in gone))
        except BaseException as error:
            self._uncertain.update(job_ids)
            raise_transient(error)
            raise
        taken = {job_id: int(mine[job_id]) for job_id in mine if job_id not in gone}
        for job_id in taken:
            last = now + self._in_progress_seconds
            self.held[job_id] = Claim(values[job_id], last, until[job_id])
        return taken

    def extend(self, job_id: str) -> None:
        """The job begins only now: from here on arq would keep others from it for its full time."""
        claim = self.held.get(job_id)
        if claim is not None:
            claim.until = time.monotonic() + self._in_progress_seconds

    @property
    def _px(self) -> int:
        return round(1000 * self.lease)

    def keep_for_long(self) -> None:
        """Claim jobs for as long as arq does, since claims can't be renewed."""
        self.lease = self._in_progress_seconds

    def missing(self) -> list[str]:
        """Jobs that this worker has, and whose keys were found missing."""
        return [
            job_id
            for job_id, claim in self.held.items()
            if claim.is_gone and not claim.is_ending and time.monotonic() < claim.until
        ]

    async def reclaim(self, pool: ArqRedis, job_ids: list[str]) -> None:
        """Say again that these jobs are being run here, to a Redis that may have forgotten it.

        Raises:
            RedisError, OSError: Redis can't answer.
        """
        claims = {}
        async with pool.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                claim = self.held.get(job_id)
                if claim is not None:
                    claim.is_gone = False
                    claims[job_id] = claim
                    pipe.set(
                        in_progress_key_prefix + job_id,
                        claim.token,
                        nx=True,
                        px=self._px,
                    )
            try:
                await pipe.execute()
            except ResponseError as error:
                raise_transient(error)
                raise
        for job_id, claim in claims.items():
            if self.held.get(job_id) is not claim:  # its outcome was committed meanwhile
                await self._give_back(pool, job_id, claim)

    async def _give_back(self, pool: ArqRedis, job_id: str, claim: Claim) -> None:
        """Delete the key of a claim that has just been set again in vain."""
        key = in_progress_key_prefix + job_id
        if await pool.get(key) == claim.token:
            await pool.delete(key)

    async def release(self, pool: ArqRedis) -> None:
        """Let others have what was taken without learning so. For a worker that stops.

        Raises:
            RedisError, OSError: Redis can't answer.
        """
        keys = [in_progress_key_prefix + job_id for job_id in self._uncertain]
        values = await pool.mget(keys) if keys else []
        mine = [key for key, value in zip(keys, values, strict=True) if self._is_ours(value)]
        if mine:
            await pool.delete(*mine)
        self._uncertain.clear()

    async def _recovered(
        self, pool: ArqRedis, job_ids: list[str], mine: dict[str, Any]
    ) -> dict[str, bytes]:
        """Jobs that an earlier try has taken without learning so, and the values of their keys."""
        asked = [job_id for job_id in job_ids if job_id in self._uncertain]
        self._uncertain -= set(asked)
        left = [job_id for job_id in asked if job_id not in mine]
        if not left:
            return {}
        values = await pool.mget([in_progress_key_prefix + job_id for job_id in left])
        owned = zip(left, values, strict=True)
        found = {job_id: value for job_id, value in owned if self._is_ours(value)}
        if found:  # their keys may be about to expire
            async with pool.pipeline(transaction=False) as pipe:
                for job_id in found:
                    pipe.pexpire(in_progress_key_prefix + job_id, self._px)
                await pipe.execute()
        return found

    def _is_ours(self, value: bytes | None) -> bool:
        return value is not None and value.startswith(self._token + b":")
