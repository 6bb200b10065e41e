"""Taking jobs: by one worker only, and not lost when the claims is cut off."""

import asyncio
from typing import Any

from arq.constants import default_queue_name, in_progress_key_prefix
from arq.utils import timestamp_ms

from jobstatus.arq import StatusRedis
from jobstatus.arq.claims import Claims
from jobstatus.arq.transactions import CommitResult, attempt_commands, commit, commit_again


async def queue(pool: StatusRedis, count: int, **kwargs: Any) -> list[str]:
    jobs = [await pool.enqueue_job("add", 1, 2, **kwargs) for _ in range(count)]
    return [job.job_id for job in jobs if job is not None]


async def test_one_of_many_gets_each_job(pool: StatusRedis) -> None:
    """Of many workers that want the same jobs each job goes to one."""
    ids = await queue(pool, 50)
    all_claims = [Claims(default_queue_name, 310, 45) for _ in range(5)]
    taken = await asyncio.gather(*(claims.claim(pool, ids) for claims in all_claims))
    assert sorted(job_id for some in taken for job_id in some) == sorted(ids)


async def test_what_arq_has_is_left(pool: StatusRedis, redis: Any) -> None:
    """A job that a worker of arq's own has, that is done, or that is deferred is left alone."""
    running, done, deferred, free = await queue(pool, 4)
    redis.set(in_progress_key_prefix + running, b"1", px=60_000)
    redis.zrem(default_queue_name, done)
    redis.zadd(default_queue_name, {deferred: timestamp_ms() + 60_000})
    taken = await Claims(default_queue_name, 310, 45).claim(pool, [running, done, deferred, free])
    assert list(taken) == [free]
    kept = {key.removeprefix(in_progress_key_prefix) for key in redis.keys("arq:in-progress:*")}
    assert kept == {running, free}
    assert 44_000 < redis.pttl(in_progress_key_prefix + free) <= 45_000


async def cut_off(pool: StatusRedis, claims: Claims, ids: list[str]) -> None:
    """Take jobs, and lose the reply."""
    await claims.claim(pool, ids)
    claims._uncertain.update(ids)


async def test_cut_off_taking_is_recovered(pool: StatusRedis, redis: Any) -> None:
    """What was taken when the reply was lost is taken at the next try, by the same worker."""
    ids = await queue(pool, 3)
    claims = Claims(default_queue_name, 310, 45)
    await cut_off(pool, claims, ids)
    assert await Claims(default_queue_name, 310, 45).claim(pool, ids) == {}
    redis.pexpire(in_progress_key_prefix + ids[0], 2_000)
    assert sorted(await claims.claim(pool, ids)) == sorted(ids)
    assert redis.pttl(in_progress_key_prefix + ids[0]) > 40_000
    assert await claims.claim(pool, ids) == {}


async def test_cancelled_taking_is_uncertain(pool: StatusRedis) -> None:
    """A claims that is cancelled while it waits for Redis is recovered too."""
    ids = await queue(pool, 3)
    claims = Claims(default_queue_name, 310, 45)
    task = asyncio.create_task(claims.claim(pool, ids))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert claims._uncertain == set(ids)
    assert sorted(await claims.claim(pool, ids)) == sorted(ids)


async def test_release(pool: StatusRedis, redis: Any) -> None:
    """A worker that stops gives back what it has taken without learning so, and nothing else."""
    mine, theirs = await queue(pool, 2)
    claims = Claims(default_queue_name, 310, 45)
    await cut_off(pool, claims, [mine])
    redis.set(in_progress_key_prefix + theirs, b"1", px=60_000)
    claims._uncertain.add(theirs)
    await claims.release_uncertain(pool)
    assert redis.keys("arq:in-progress:*") == [in_progress_key_prefix + theirs]


async def test_end_of_an_earlier_run(pool: StatusRedis, redis: Any) -> None:
    """What is committed again is the end of that run only, never that of the next under its id."""
    (job_id,) = await queue(pool, 1, _job_id="same")
    claims = Claims(default_queue_name, 310, 45)
    await claims.claim(pool, [job_id])
    first = claims.held[job_id].token
    commands = attempt_commands(
        job_id,
        default_queue_name,
        is_finished=True,
        result=None,
        keep_result_ms=None,
        next_score=None,
        keep_in_progress_ms=None,
    )

    async def again(token: bytes) -> CommitResult:
        return await commit_again(pool, commands, None, job_id=job_id, token=token)

    await commit(pool, commands, None, job_id=job_id)
    assert await again(first) is CommitResult.SUPERSEDED
    await queue(pool, 1, _job_id="same")
    assert await again(first) is CommitResult.SUPERSEDED
    await cut_off(pool, claims, [job_id])
    assert await again(first) is CommitResult.SUPERSEDED
    assert redis.exists(f"arq:job:{job_id}")
    assert redis.zcard(default_queue_name) == 1
    assert await again(claims.held[job_id].token) is CommitResult.WITHOUT_STATUS
    assert not redis.exists(f"arq:job:{job_id}")


async def test_outcome_of_a_cron_job_whose_reply_was_lost(pool: StatusRedis, redis: Any) -> None:
    """What a transaction leaves of a cron job's claim isn't mistaken for another worker's."""
    (job_id,) = await queue(pool, 1)
    claims = Claims(default_queue_name, 310, 45)
    await claims.claim(pool, [job_id])
    redis.set(f"arq:retry:{job_id}", 1)
    commands = attempt_commands(
        job_id,
        default_queue_name,
        is_finished=True,
        result=None,
        keep_result_ms=None,
        next_score=None,
        keep_in_progress_ms=60_000,
    )

    async def again(attempt: int) -> CommitResult:
        token = claims.held[job_id].token
        return await commit(
            pool, commands, None, job_id=job_id, is_claim_valid=False, attempt=attempt, token=token
        )

    assert await again(1) is CommitResult.WITHOUT_STATUS
    assert await again(1) is CommitResult.GONE
    redis.set(f"{in_progress_key_prefix}{job_id}", "another's")
    assert await again(1) is CommitResult.SUPERSEDED
