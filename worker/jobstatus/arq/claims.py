"""Claiming jobs from arq's queue, many in one round trip.

arq 0.28 claims each job in four round trips (WATCH, EXISTS, ZSCORE, then MULTI and PSETEX). The
effect is that exactly one worker creates the job's in-progress key while the job is queued and due.
`SET NX` and ZSCORE in one transaction have the same effect, for many jobs in one round trip. They
also exclude arq's own workers, and are excluded by them, because both sides only check whether the
key exists. The key is a lease, which `renewal` renews.
"""

import logging
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from arq.utils import timestamp_ms
from redis.exceptions import ResponseError

from jobstatus.arq.outage import raise_if_transient
from jobstatus.arq.renewal import Claim, Renewal

_log = logging.getLogger("jobstatus")


class Claims:
    """The claims of one worker on jobs of one queue.

    The value of an in-progress key is a token, made of the worker's own token and a counter of its
    claims. By its own token the worker recovers a job that it claimed without receiving the reply,
    as soon as Redis is available again instead of when the key expires. The counter distinguishes
    two runs of the same job id, so that the outcome of one is never committed for the other.

    Attributes:
        held: The current claims, by job id.
        lease: Seconds for which an in-progress key lives unless it is renewed.
    """

    def __init__(self, queue: str, in_progress_seconds: float, lease: float) -> None:
        """Create the claims of a worker, which has none yet.

        Args:
            queue: The queue's key.
            in_progress_seconds: Seconds for which arq keeps other workers from a claimed job.
            lease: Seconds for which an in-progress key lives unless it is renewed.
        """
        self.held: dict[str, Claim] = {}
        self.lease = min(lease, in_progress_seconds)
        self._queue = queue
        self._in_progress_seconds = in_progress_seconds
        self._worker_token = token_hex(8).encode()
        self._claim_count = 0
        self._renewal: Renewal | None = None
        self._uncertain: set[str] = set()
        """Jobs that may have been claimed by a command whose reply was not received."""

    async def claim(self, pool: ArqRedis, job_ids: list[str]) -> dict[str, int]:
        """Claim those of the jobs that no worker has claimed, and that are queued and due.

        Returns:
            The scores in the queue of the claimed jobs, in ms since the epoch, by job id.

        Raises:
            RedisError, OSError: Redis is unavailable, or refuses a command.
        """
        self._claim_count += 1
        token = b"%b:%d" % (self._worker_token, self._claim_count)
        started_at = time.monotonic()
        try:
            async with pool.pipeline(transaction=True) as pipe:
                for job_id in job_ids:
                    pipe.set(_key(job_id), token, nx=True, px=self._lease_ms)
                    pipe.zscore(self._queue, job_id)
                replies = await pipe.execute()
            was_set = zip(job_ids, replies[::2], strict=True)
            scores = dict(zip(job_ids, replies[1::2], strict=True))
            tokens = dict.fromkeys((job_id for job_id, is_new in was_set if is_new), token)
            tokens |= await self._recover(pool, [i for i in job_ids if i not in tokens])
            self._uncertain.difference_update(job_ids)
            # Since the queue was read, other workers may have finished or deferred some jobs.
            now_ms = timestamp_ms()
            not_due = [i for i in tokens if not scores[i] or scores[i] > now_ms]
            if not_due:
                await pool.delete(*map(_key, not_due))
        except BaseException as error:
            self._uncertain.update(job_ids)
            raise_if_transient(error)
            raise
        claimed = {job_id: int(scores[job_id]) for job_id in tokens if job_id not in not_due}
        for job_id in claimed:
            self.held[job_id] = Claim(
                tokens[job_id],
                renew_until=started_at + self._in_progress_seconds,
                valid_until=started_at + self.lease,
            )
        return claimed

    async def _recover(self, pool: ArqRedis, job_ids: list[str]) -> dict[str, bytes]:
        """Return the tokens of the jobs that were claimed earlier without receiving the reply."""
        uncertain = [job_id for job_id in job_ids if job_id in self._uncertain]
        if not uncertain:
            return {}
        tokens = zip(uncertain, await pool.mget(map(_key, uncertain)), strict=True)
        recovered = {job_id: token for job_id, token in tokens if self._is_own(token)}
        if recovered:  # their keys may be about to expire
            async with pool.pipeline(transaction=False) as pipe:
                for job_id in recovered:
                    pipe.pexpire(_key(job_id), self._lease_ms)
                await pipe.execute()
        return recovered

    def restart_time_limit(self, job_id: str) -> None:
        """Allow renewal for arq's full time from now on, because the job is started only now."""
        claim = self.held.get(job_id)
        if claim is not None:
            claim.renew_until = time.monotonic() + self._in_progress_seconds

    async def start_renewal(
        self,
        pool: ArqRedis,
        client: Callable[[], Any],
        on_error: Callable[[BaseException], None],
    ) -> None:
        """Renew the claims in a thread from now on, if the worker's Redis user has the right to.

        If it has not, in-progress keys live for as long as arq's own do.

        Args:
            pool: arq's pool.
            client: Returns a synchronous client of the queue's Redis, or None.
            on_error: Called with the error when Redis is unavailable or refuses to renew claims.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        if await Renewal.is_permitted(pool):
            self._renewal = Renewal(self.held, client, self.lease, on_error)
            self._renewal.start()
            return
        self.lease = self._in_progress_seconds
        _log.warning(
            "the worker's Redis user may not renew claims (EVALSHA, SCRIPT LOAD): the job of a "
            "worker that is killed is run again only after %g s",
            self.lease,
        )

    def stop_renewal(self) -> None:
        """Stop the thread that renews the claims."""
        if self._renewal is not None:
            self._renewal.stop()
            self._renewal = None

    async def restore_missing(self, pool: ArqRedis, is_running: Callable[[str], bool]) -> None:
        """Restore the in-progress keys that were found missing, of jobs that are still running.

        Raises:
            RedisError, OSError: Redis is unavailable, or refuses a command.
        """
        if self._renewal is not None and self._renewal.has_missing_claims:
            self._renewal.has_missing_claims = False
            await self.restore(pool, list(filter(is_running, self.missing_job_ids())))

    def missing_job_ids(self) -> list[str]:
        """Return the jobs whose in-progress keys were found missing, and are still needed."""
        now = time.monotonic()
        return [
            job_id
            for job_id, claim in self.held.items()
            if claim.is_missing and not claim.is_committing and now < claim.renew_until
        ]

    async def restore(self, pool: ArqRedis, job_ids: list[str]) -> None:
        """Set the in-progress keys of these jobs again where Redis has lost them.

        Raises:
            RedisError, OSError: Redis is unavailable, or refuses a command.
        """
        claims = {job_id: self.held[job_id] for job_id in job_ids if job_id in self.held}
        async with pool.pipeline(transaction=False) as pipe:
            for job_id, claim in claims.items():
                claim.is_missing = False
                pipe.set(_key(job_id), claim.token, nx=True, px=self._lease_ms)
            try:
                await pipe.execute()
            except ResponseError as error:
                raise_if_transient(error)
                raise
        for job_id, claim in claims.items():
            was_committed_meanwhile = self.held.get(job_id) is not claim
            if was_committed_meanwhile and await pool.get(_key(job_id)) == claim.token:
                await pool.delete(_key(job_id))

    async def release_uncertain(self, pool: ArqRedis) -> None:
        """Delete the keys that this worker has set without receiving the reply, because it stops.

        Raises:
            RedisError, OSError: Redis is unavailable, or refuses a command.
        """
        keys = [_key(job_id) for job_id in self._uncertain]
        tokens = await pool.mget(keys) if keys else []
        own = [key for key, token in zip(keys, tokens, strict=True) if self._is_own(token)]
        if own:
            await pool.delete(*own)
        self._uncertain.clear()

    @property
    def _lease_ms(self) -> int:
        return round(1000 * self.lease)

    def _is_own(self, token: bytes | None) -> bool:
        return token is not None and token.startswith(self._worker_token + b":")


def _key(job_id: str) -> str:
    return in_progress_key_prefix + job_id
