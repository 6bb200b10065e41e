"""Failovers of the queue's Redis: noticing a new primary, and waiting before jobs are claimed."""

import time
from typing import Any, Final, cast

from arq.connections import ArqRedis
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool

from jobstatus.storage.store import PRIMARY_CHECK_SECONDS

_QUIET_SECONDS: Final = 1.5
"""Seconds after a failover in which no job is claimed, so that every worker can first set the
in-progress keys of its running jobs again."""


class PrimaryMonitor:
    """Watches which server the Sentinels name as primary. Without Sentinels it never changes."""

    def __init__(self, pool: ArqRedis) -> None:
        connections: Any = pool.connection_pool
        self._connections = connections if isinstance(connections, SentinelConnectionPool) else None
        self._checked_at = float("-inf")
        self._available_at = float("-inf")

    async def check(self) -> None:
        """Ask the Sentinels for the primary, at most once per `PRIMARY_CHECK_SECONDS`.

        Raises:
            ConnectionError: There is a new primary, which may not have the last commands.
            MasterNotFoundError: No primary has been found so far.
        """
        now = time.monotonic()
        if self._connections is None or now - self._checked_at < PRIMARY_CHECK_SECONDS:
            return
        self._checked_at = now
        known = self._connections.master_address
        try:
            # If the primary has changed, this also closes the connections to the old one.
            found = await cast("Any", self._connections).get_master_address()
        except MasterNotFoundError:
            if known is None:
                raise
            return  # no Sentinel names another primary
        if known not in {None, found}:
            raise ConnectionError(f"Redis has failed over to another primary: {found}")

    def mark_available(self, *, claims_may_be_gone: bool) -> None:
        """Note that Redis is available again, and start the quiet time if it is needed.

        It is needed behind Sentinels, because the primary may be a new one without the last
        claims, and wherever claims may have expired.

        Args:
            claims_may_be_gone: Whether claims may have expired during the outage.
        """
        if self._connections is not None or claims_may_be_gone:
            self._available_at = time.monotonic()

    @property
    def is_quiet_time(self) -> bool:
        """Whether other workers may not yet have restored the claims on their running jobs."""
        return time.monotonic() - self._available_at < _QUIET_SECONDS
