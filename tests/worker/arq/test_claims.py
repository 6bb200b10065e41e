"""A job is claimed by exactly one worker, and no claim is lost when a reply is lost."""

import asyncio
from typing import Any

import pytest
from arq.constants import default_queue_name, in_progress_key_prefix
from arq.utils import timestamp_ms
from redis.asyncio.client import Pipeline
from tests.worker.arq.conftest import enqueue_many

from jobstatus.arq import StatusRedis
from jobstatus.arq.claims import Claims

IN_PROGRESS_SECONDS = 310
LEASE = 45


def new_claims() -> Claims:
    """Return the claims of a worker that has none yet."""
    return Claims(default_queue_name, IN_PROGRESS_SECONDS, LEASE)


@pytest.fixture
def claims() -> Claims:
    return new_claims()


async def claim_without_reply(pool: StatusRedis, claims: Claims, job_ids: list[str]) -> None:
    """Claim jobs as if the reply had been lost."""
    await claims.claim(pool, job_ids)
    claims._uncertain.update(job_ids)


async def test_each_job_is_claimed_once(pool: StatusRedis) -> None:
    """If many workers try to claim the same jobs, each job is claimed by exactly one."""
    ids = await enqueue_many(pool, 50, "add", 1, 2)
    claimed = await asyncio.gather(*(new_claims().claim(pool, ids) for _ in range(5)))
    assert sorted(job_id for each in claimed for job_id in each) == sorted(ids)


async def test_only_free_jobs_are_claimed(pool: StatusRedis, redis: Any, claims: Claims) -> None:
    """A job that arq's own worker runs, that has finished, or that is deferred is not claimed."""
    running, finished, deferred, free = await enqueue_many(pool, 4, "add", 1, 2)
    redis.set(in_progress_key_prefix + running, b"1", px=60_000)
    redis.zrem(default_queue_name, finished)
    redis.zadd(default_queue_name, {deferred: timestamp_ms() + 60_000})
    claimed = await claims.claim(pool, [running, finished, deferred, free])
    assert list(claimed) == list(claims.held) == [free]
    keys = {key.removeprefix(in_progress_key_prefix) for key in redis.keys("arq:in-progress:*")}
    assert keys == {running, free}
    assert 44_000 < redis.pttl(in_progress_key_prefix + free) <= 45_000


async def test_claim_without_reply_is_recovered(
    pool: StatusRedis, redis: Any, claims: Claims
) -> None:
    """Jobs that were claimed without receiving the reply are claimed by the same worker's retry."""
    ids = await enqueue_many(pool, 3, "add", 1, 2)
    await claim_without_reply(pool, claims, ids)
    assert await new_claims().claim(pool, ids) == {}
    redis.pexpire(in_progress_key_prefix + ids[0], 2_000)
    assert sorted(await claims.claim(pool, ids)) == sorted(ids)
    assert redis.pttl(in_progress_key_prefix + ids[0]) > 40_000
    assert await claims.claim(pool, ids) == {}


async def test_cancelled_claim_is_recovered(
    pool: StatusRedis, claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs are recovered too if the claim was cancelled while it waited for the reply."""
    ids = await enqueue_many(pool, 3, "add", 1, 2)
    with monkeypatch.context() as patch:
        plain = Pipeline.execute

        async def execute(self: Any, *args: Any, **kwargs: Any) -> None:
            await plain(self, *args, **kwargs)
            raise asyncio.CancelledError

        patch.setattr(Pipeline, "execute", execute)
        with pytest.raises(asyncio.CancelledError):
            await claims.claim(pool, ids)
    assert claims._uncertain == set(ids)
    assert sorted(await claims.claim(pool, ids)) == sorted(ids)


async def test_release_of_uncertain_claims(pool: StatusRedis, redis: Any, claims: Claims) -> None:
    """A worker that stops deletes only keys that it set without receiving the reply."""
    own, other = await enqueue_many(pool, 2, "add", 1, 2)
    await claim_without_reply(pool, claims, [own])
    redis.set(in_progress_key_prefix + other, b"1", px=60_000)
    claims._uncertain.add(other)
    await claims.release_uncertain(pool)
    assert redis.keys("arq:in-progress:*") == [in_progress_key_prefix + other]
