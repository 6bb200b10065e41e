"""Renewing claims: in-progress keys are leases, which a thread of the worker renews.

arq lets such a key live for the longest job timeout, so the job of a killed worker waits for that
long. Here the key lives for `claim_lease` seconds and is renewed while the job runs, but never for
longer than arq would have kept it. The thread does not depend on the event loop, which a job may
block.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from redis.exceptions import NoPermissionError

from jobstatus.storage.refusals import REDIS_ERRORS

_SCRIPT: Final = """\
-- Renew in-progress keys, each only if its value is still the claim's token.
-- KEYS[i] → the key; ARGV[2i - 1] → the claim's token, ARGV[2i] → the new TTL in ms
-- Returns for each key 1: renewed; 0: the key does not exist; -1: the key has another token.
local renewed = {}
for i, key in ipairs(KEYS) do
  local token = redis.call('GET', key)
  if token == ARGV[2 * i - 1] then
    redis.call('PEXPIRE', key, ARGV[2 * i])
    renewed[i] = 1
  else
    renewed[i] = token and -1 or 0
  end
end
return renewed
"""

_MAX_KEYS_PER_CALL: Final = 500
"""Keys that one call of the script renews at most."""

_RETRY_SECONDS: Final = 1.0
"""Seconds after which a failed renewal is tried again, at most."""

_log = logging.getLogger("jobstatus")


@dataclass(eq=False, slots=True)
class Claim:
    """This worker's claim on a job. All times are on the monotonic clock.

    Attributes:
        token: The value of the job's in-progress key, which is unique to this claim.
        renew_until: The time after which the claim is no longer renewed.
        valid_until: The time until which the key certainly exists.
        is_committing: Whether the outcome of the attempt is being committed, which deletes the key.
        is_missing: Whether the key was found missing, as after an outage longer than the lease.
        is_lost: Whether another worker was found to have claimed the job.
    """

    token: bytes
    renew_until: float
    valid_until: float
    is_committing: bool = False
    is_missing: bool = False
    is_lost: bool = False


class Renewal:
    """The thread that renews the claims of one worker.

    Attributes:
        has_missing_claims: Whether keys were found missing. The worker sets it back to False.
    """

    def __init__(
        self,
        claims: Mapping[str, Claim],
        client: Callable[[], Any],
        lease: float,
        on_error: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        """Create the thread; `start` starts it.

        Args:
            claims: The worker's claims, by job id. Other threads may change the mapping.
            client: Returns a synchronous client of the queue's Redis, or None.
            lease: Seconds for which a claim is renewed.
            on_error: Called with the error when Redis is unavailable or refuses to renew claims.
        """
        self.has_missing_claims = False
        self._claims = claims
        self._client = client
        self._lease = lease
        self._on_error = on_error
        self._interval = lease / 4
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobstatus-claims", daemon=True)

    @staticmethod
    async def is_permitted(pool: ArqRedis) -> bool:
        """Return whether the worker's Redis user may run the script that renews claims.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        try:
            untyped: Any = pool
            await untyped.evalsha(await untyped.script_load(_SCRIPT), 0)
        except NoPermissionError:
            return False
        return True

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; wait at most one second for it."""
        self._stop.set()
        self._thread.join(_RETRY_SECONDS)

    def _run(self) -> None:
        wait_seconds = self._interval
        while not self._stop.wait(wait_seconds):
            wait_seconds = self._interval
            try:
                self.renew()
            except REDIS_ERRORS as error:  # the worker logs it when Redis is unavailable
                self._on_error(error)
                wait_seconds = min(self._interval, _RETRY_SECONDS)
            except BaseException:
                _log.exception("claims could not be renewed, this is tried again")

    def renew(self) -> None:
        """Renew all claims once.

        Raises:
            RedisError, OSError: Redis is unavailable, or refuses a command.
        """
        client = self._client()
        if client is None:
            return
        now = time.monotonic()
        due = [
            (job_id, claim)
            for job_id, claim in list(self._claims.items())
            if claim.renew_until > now and not claim.is_lost
        ]
        for start in range(0, len(due), _MAX_KEYS_PER_CALL):
            self._renew(client, due[start : start + _MAX_KEYS_PER_CALL])

    def _renew(self, client: Any, due: list[tuple[str, Claim]]) -> None:
        now = time.monotonic()
        ttls = [min(self._lease, claim.renew_until - now) for _, claim in due]
        arguments: list[Any] = []
        for (_, claim), ttl in zip(due, ttls, strict=True):
            arguments += [claim.token, max(1, round(1000 * ttl))]
        script = client.register_script(_SCRIPT)
        replies = script(
            keys=[in_progress_key_prefix + job_id for job_id, _ in due], args=arguments
        )
        for (job_id, claim), ttl, reply in zip(due, ttls, replies, strict=True):
            if reply == 1:
                claim.valid_until = now + ttl
                claim.is_missing = False
            elif not claim.is_committing:
                claim.is_missing = reply == 0
                claim.is_lost = reply == -1
                self.has_missing_claims = self.has_missing_claims or claim.is_missing
                if claim.is_lost:
                    _log.warning(
                        "job %s: its claim was not renewed in time, and another worker has claimed "
                        "it; the outcome of this run will be discarded",
                        job_id,
                    )
