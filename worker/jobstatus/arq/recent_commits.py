"""The transactions committed last, to be committed again if a failover of Redis loses them."""

import logging
import time
from typing import Final

import msgspec
from arq.connections import ArqRedis

from jobstatus.arq.transactions import Commands, CommitResult, commit_again
from jobstatus.publishing.publisher import Publisher
from jobstatus.storage.write import Write

_MAX_AGE_SECONDS: Final = 30.0
"""Seconds for which a transaction is remembered."""

_MAX_COUNT: Final = 1000
"""Transactions that are remembered at most."""

_MAX_RESULT_BYTES: Final = 32 * 2**20
"""Bytes that the results in the remembered transactions may have in all."""

_log = logging.getLogger("jobstatus")


class CommittedTransaction(msgspec.Struct, frozen=True):
    """A transaction that was committed.

    Attributes:
        at: When, on the monotonic clock.
        token: The value of the job's in-progress key until then.
        commands: arq's commands.
        write: The status, if it was a part of the transaction.
        result_bytes: The size of the result.
    """

    at: float
    token: bytes
    commands: Commands
    write: Write | None
    result_bytes: int


class RecentCommits:
    """The last transactions of one worker, one for each job id, oldest first."""

    def __init__(self) -> None:
        self._transactions: dict[str, CommittedTransaction] = {}
        self._result_bytes = 0

    def add(self, job_id: str, transaction: CommittedTransaction) -> None:
        """Remember a transaction instead of an older one of the same job."""
        self._forget(job_id)
        transactions = self._transactions
        transactions[job_id] = transaction
        self._result_bytes += transaction.result_bytes
        while transactions:
            oldest = next(iter(transactions))
            is_expired = transactions[oldest].at < transaction.at - _MAX_AGE_SECONDS
            is_full = len(transactions) > _MAX_COUNT or self._result_bytes > _MAX_RESULT_BYTES
            if not (is_expired or is_full):
                break
            self._forget(oldest)

    def _forget(self, job_id: str) -> None:
        transaction = self._transactions.pop(job_id, None)
        if transaction is not None:
            self._result_bytes -= transaction.result_bytes

    async def commit_lost(self, pool: ArqRedis, publisher: Publisher) -> None:
        """Commit again the transactions that Redis has lost.

        A replica that was promoted may not have received them. Without this, their jobs would
        run again.

        Args:
            pool: arq's pool.
            publisher: Publishes the status where only that is refused.

        Raises:
            RedisError, OSError: Redis is unavailable. The next call goes on with the rest.
        """
        oldest_at = time.monotonic() - _MAX_AGE_SECONDS
        for job_id, transaction in list(self._transactions.items()):
            if transaction.at >= oldest_at and transaction.token:
                result = await commit_again(
                    pool,
                    transaction.commands,
                    transaction.write,
                    job_id=job_id,
                    token=transaction.token,
                )
                if result is not CommitResult.SUPERSEDED:
                    _log.warning("job %s: Redis had lost its outcome; it was written again", job_id)
                if result is CommitResult.WITHOUT_STATUS and transaction.write is not None:
                    publisher.publish(transaction.write)
            if self._transactions.get(job_id) is transaction:
                self._forget(job_id)
