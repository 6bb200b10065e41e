"""Taking jobs from arq's queue.

arq 0.28 takes each job in four round trips (WATCH, EXISTS, ZSCORE, then MULTI and PSETEX). What it
achieves is that of all workers one creates the job's in-progress key, while the job is queued and
due. `SET NX` and ZSCORE in one transaction achieve the same, for many jobs in one round trip, and
exclude arq's own workers as they exclude ours: what counts for either is that the key is there.
"""

from secrets import token_hex
from typing import Any

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from arq.utils import timestamp_ms

from jobstatus.arq.outage import raise_passing


class Taking:
    """Takes jobs of one queue for one worker.

    The key's value says whose it is, and in which taking it was taken: so a job whose taking was
    cut off by an outage can be taken when Redis is back, instead of when the key expires; and no
    end of one run is mistaken for that of the next.

    Attributes:
        held: The values of the keys of the jobs that this worker has.
    """

    def __init__(self, queue: str, in_progress_seconds: float) -> None:
        self.held: dict[str, bytes] = {}
        self._queue = queue
        self._px = round(in_progress_seconds * 1000)
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
            values = dict.fromkeys(mine, value)
            recovered = await self._recovered(pool, job_ids, mine)
            scores = dict(zip(job_ids, replies[1::2], strict=True))
            mine |= {job_id: scores[job_id] for job_id in recovered}
            values |= recovered
            now = timestamp_ms()
            gone = [job_id for job_id, score in mine.items() if not score or score > now]
            if gone:  # done elsewhere, or deferred, since the queue was read
                await pool.delete(*(in_progress_key_prefix + job_id for job_id in gone))
        except BaseException as error:
            self._uncertain.update(job_ids)
            raise_passing(error)
            raise
        taken = {job_id: int(mine[job_id]) for job_id in mine if job_id not in gone}
        self.held |= {job_id: values[job_id] for job_id in taken}
        return taken

    async def reclaim(self, pool: ArqRedis, job_ids: list[str]) -> None:
        """Say again that these jobs are being run here, to a Redis that may have forgotten it.

        Raises:
            RedisError, OSError: Redis can't answer.
        """
        async with pool.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                value = self.held.get(job_id)
                if value is not None:
                    pipe.set(in_progress_key_prefix + job_id, value, nx=True, px=self._px)
            await pipe.execute()

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
        return {job_id: value for job_id, value in owned if self._is_ours(value)}

    def _is_ours(self, value: bytes | None) -> bool:
        return value is not None and value.startswith(self._token + b":")
