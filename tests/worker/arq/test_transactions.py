"""Transactions are executed for the right run and attempt only, however often they are sent."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.constants import default_queue_name, in_progress_key_prefix
from tests.worker.arq.conftest import enqueue

from jobstatus.arq import StatusRedis, create_pool
from jobstatus.arq.claims import Claims
from jobstatus.arq.transactions import (
    Commands,
    CommitResult,
    attempt_commands,
    commit,
    commit_again,
)
from jobstatus.publishing.enqueued_record import pending_write
from jobstatus.settings import PublisherSettings
from jobstatus.storage.write import SCRIPT


def finishing(job_id: str, *, keep_in_progress_ms: int | None = None) -> Commands:
    """Return the commands that finish a job without a result."""
    return attempt_commands(
        job_id,
        default_queue_name,
        is_finished=True,
        result=None,
        keep_result_ms=None,
        next_score=None,
        keep_in_progress_ms=keep_in_progress_ms,
    )


async def commit_late(
    pool: StatusRedis, job_id: str, commands: Commands, token: bytes, score: int
) -> CommitResult:
    """Commit the first attempt of a job whose claim may have expired."""
    return await commit(
        pool,
        commands,
        None,
        job_id=job_id,
        queue=default_queue_name,
        score=score,
        is_claim_valid=False,
        attempt=1,
        token=token,
    )


def score_of(redis: Any, job_id: str) -> int:
    """Return the score of a job in the queue."""
    return int(redis.zscore(default_queue_name, job_id))


async def claim(pool: StatusRedis, claims: Claims, job_id: str) -> bytes:
    """Claim a job; return the token."""
    assert list(await claims.claim(pool, [job_id])) == [job_id]
    return claims.held[job_id].token


@pytest.fixture
def claims() -> Claims:
    return Claims(default_queue_name, 310, 45)


async def test_outcome_of_an_earlier_run(pool: StatusRedis, redis: Any, claims: Claims) -> None:
    """The outcome of a run is not committed again for the next run of the same id."""
    job_id = await enqueue(pool, "add", 1, 2, _job_id="same")
    first = await claim(pool, claims, job_id)
    commands = finishing(job_id)

    async def again(token: bytes) -> CommitResult:
        return await commit_again(pool, commands, None, job_id=job_id, token=token)

    await commit(pool, commands, None, job_id=job_id, queue=default_queue_name, score=0)
    assert await again(first) is CommitResult.SUPERSEDED
    await enqueue(pool, "add", 1, 2, _job_id="same")
    assert await again(first) is CommitResult.SUPERSEDED
    second = await claim(pool, claims, job_id)
    assert await again(first) is CommitResult.SUPERSEDED
    assert redis.exists(f"arq:job:{job_id}")
    assert redis.zcard(default_queue_name) == 1
    assert await again(second) is CommitResult.WITHOUT_STATUS
    assert not redis.exists(f"arq:job:{job_id}")


async def test_outcome_of_a_cron_job_whose_reply_was_lost(
    pool: StatusRedis, redis: Any, claims: Claims
) -> None:
    """The in-progress key that a transaction keeps is not mistaken for another worker's claim."""
    job_id = await enqueue(pool, "add", 1, 2)
    token = await claim(pool, claims, job_id)
    redis.set(f"arq:retry:{job_id}", 1)
    commands = finishing(job_id, keep_in_progress_ms=60_000)

    score = score_of(redis, job_id)

    async def send() -> CommitResult:
        return await commit_late(pool, job_id, commands, token, score)

    assert await send() is CommitResult.WITHOUT_STATUS
    assert await send() is CommitResult.GONE
    redis.set(f"{in_progress_key_prefix}{job_id}", "another's")
    assert await send() is CommitResult.SUPERSEDED


async def test_outcome_of_an_earlier_attempt(pool: StatusRedis, redis: Any, claims: Claims) -> None:
    """The outcome of an attempt is not committed once a later attempt has begun."""
    job_id = await enqueue(pool, "add", 1, 2)
    token = await claim(pool, claims, job_id)
    redis.set(f"arq:retry:{job_id}", 2)
    commands, score = finishing(job_id), score_of(redis, job_id)
    assert await commit_late(pool, job_id, commands, token, score) is CommitResult.SUPERSEDED
    assert redis.exists(f"arq:job:{job_id}")


@pytest.mark.parametrize("has_finished", [False, True])
async def test_late_outcome_of_a_job_that_was_enqueued_again(
    pool: StatusRedis, redis: Any, claims: Claims, has_finished: bool
) -> None:
    """A worker that was frozen past its claim does not finish a later run of the same job id."""
    job_id = await enqueue(pool, "add", 1, 2, _job_id="same")
    token, score = await claim(pool, claims, job_id), score_of(redis, job_id)
    commands = finishing(job_id)
    if has_finished:  # on another worker
        redis.delete(f"{in_progress_key_prefix}{job_id}")
        await commit(pool, commands, None, job_id=job_id, queue=default_queue_name, score=score)
        later = datetime.now(UTC) + timedelta(seconds=5)
        await enqueue(pool, "add", 3, 4, _job_id="same", _defer_until=later)
    result = await commit_late(pool, job_id, commands, token, score)
    assert result is (CommitResult.GONE if has_finished else CommitResult.WITHOUT_STATUS)
    assert redis.exists(f"arq:job:{job_id}") == has_finished
    assert redis.zcard(default_queue_name) == has_finished


@pytest.fixture
async def limited_pool(redis: Any, redis_url: str) -> AsyncIterator[StatusRedis]:
    """Return a pool whose Redis user may not write status."""
    redis.acl_setuser(
        "queue", enabled=True, passwords=["+pw"], keys=["arq:*"], categories=["+@all"]
    )
    url = redis_url.replace("worker:worker@", "queue:pw@")
    pool = await create_pool(RedisSettings.from_dsn(url))
    yield pool
    await pool.aclose()
    redis.acl_deluser("queue")


@pytest.mark.parametrize("is_again", [False, True])
@pytest.mark.parametrize("is_permitted", [False, True])
async def test_refused_status(
    pool: StatusRedis,
    limited_pool: StatusRedis,
    redis: Any,
    claims: Claims,
    is_again: bool,
    is_permitted: bool,
) -> None:
    """If only the status is refused, arq's commands are executed without it."""
    used = pool if is_permitted else limited_pool
    job_id = await enqueue(pool, "add", 1, 2)
    token = await claim(pool, claims, job_id)
    await pool.script_load(SCRIPT)
    commands = finishing(job_id)
    write = pending_write(PublisherSettings(), job_id, "add", None, 1_000)
    if is_again:
        result = await commit_again(used, commands, write, job_id=job_id, token=token)
    else:
        queue, score = default_queue_name, score_of(redis, job_id)
        result = await commit(used, commands, write, job_id=job_id, queue=queue, score=score)
    expected = CommitResult.WITH_STATUS if is_permitted else CommitResult.WITHOUT_STATUS
    assert result is expected
    assert not redis.exists(f"arq:job:{job_id}", default_queue_name)
