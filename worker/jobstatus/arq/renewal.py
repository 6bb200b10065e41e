"""Renewing claims: a worker's in-progress keys are leases, which a thread of its own renews.

arq gives such a key the longest job timeout, so that the job of a killed worker waits for as long.
Here it lives for `claim_lease` seconds, and is renewed while the job runs, though never for longer
than arq would have kept it. The thread doesn't depend on the event loop, which a job may block.
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
-- Renew in-progress keys, each only while it is still its claimant's.
-- KEYS[i] → the key; ARGV[2i - 1] → the claim's token, ARGV[2i] → ms for which it is renewed
-- Returns for each 1: renewed; 0: there is no such key; -1: it is another claimant's.
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

_BATCH: Final = 500
"""Keys that are renewed in one round trip at most."""

_RETRY_SECONDS: Final = 1.0
"""Seconds until renewal is tried again after Redis was unavailable, at most."""

_log = logging.getLogger("jobstatus")


@dataclass(eq=False, slots=True)
class Claim:
    """A job that this worker has.

    Attributes:
        token: The value of its in-progress key: whose it is, and since which claim.
        until: Until when it is renewed at most, on the monotonic clock.
        valid_until: Until when the key is sure to exist, on the monotonic clock.
        is_ending: Whether the job's outcome is being committed, which removes the key.
        is_gone: Whether the key was found missing, as after an outage longer than the lease.
        is_taken: Whether the key was found to be another claimant's.
    """

    token: bytes
    until: float
    valid_until: float
    is_ending: bool = False
    is_gone: bool = False
    is_taken: bool = False


class Renewal:
    """The thread that renews the claims of one worker.

    Attributes:
        has_missed: Whether keys were found missing since this was last set back.
    """

    def __init__(
        self,
        claims: Mapping[str, Claim],
        client: Callable[[], Any],
        lease: float,
        failed: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        """A thread that is still to be started.

        Args:
            claims: The worker's claims, by job id. Other threads may change them meanwhile.
            client: Gives a synchronous client of the queue's Redis, or None.
            lease: Seconds for which a claim is renewed.
            failed: Called with what Redis has answered where it refuses to renew claims.
        """
        self.has_missing_claims = False
        self._claims = claims
        self._client = client
        self._lease = lease
        self._failed = failed
        self._interval = lease / 4
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobstatus-claims", daemon=True)

    @staticmethod
    async def is_possible(pool: ArqRedis) -> bool:
        """Whether the worker's user has the right to renew claims.

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
        """Renew the claims from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Renew them no more."""
        self._stop.set()
        self._thread.join(_RETRY_SECONDS)

    def _run(self) -> None:
        wait = self._interval
        while not self._stop.wait(wait):
            wait = self._interval
            try:
                self.renew()
            except REDIS_ERRORS as error:  # the worker itself says that Redis is unavailable
                self._failed(error)
                wait = min(self._interval, _RETRY_SECONDS)
            except BaseException:
                _log.exception("claims could not be renewed")

    def renew(self) -> None:
        """Renew all claims once.

        Raises:
            RedisError, OSError: Redis is unavailable, or refuses.
        """
        client, now = self._client(), time.monotonic()
        due = [
            (in_progress_key_prefix + job_id, claim)
            for job_id, claim in list(self._claims.items())
            if claim.until > now and not claim.is_taken
        ]
        for start in range(0, len(due) if client is not None else 0, _BATCH):
            self._renew(client, due[start : start + _BATCH])

    def _renew(self, client: Any, due: list[tuple[str, Claim]]) -> None:
        now = time.monotonic()
        seconds = [min(self._lease, claim.until - now) for _, claim in due]
        arguments: list[Any] = []
        for (_, claim), each in zip(due, seconds, strict=True):
            arguments += [claim.token, max(1, round(1000 * each))]
        script = client.register_script(_SCRIPT)
        replies = script(keys=[key for key, _ in due], args=arguments)
        for (key, claim), each, reply in zip(due, seconds, replies, strict=True):
            if reply == 1:
                claim.valid_until = now + each
                claim.is_gone = False
            elif not claim.is_ending:
                claim.is_gone = reply == 0
                self.has_missing_claims = self.has_missing_claims or claim.is_gone
                claim.is_taken = reply == -1
                if claim.is_taken:
                    job_id = key.removeprefix(in_progress_key_prefix)
                    _log.warning("job %s: its lease had expired, another worker has it", job_id)
