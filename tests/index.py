"""Compare the index with the stored records, and make its times short enough for tests."""

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from jobstatus.status import FINAL_STATES, UNFINISHED_STATES, Record
from jobstatus.storage.write import SCRIPT, SWEEP

SPAN_MS: Final = 30_000
"""`SPAN_MS` of the scripts."""

STATES: Final = tuple(sorted(UNFINISHED_STATES | FINAL_STATES))


def with_span(script: str, span_ms: int) -> str:
    """Return a script whose spans are shorter."""
    line = f"local SPAN_MS = {SPAN_MS}"
    assert script.count(line) == 1
    return script.replace(line, f"local SPAN_MS = {span_ms}")


def write_script(span_ms: int = SPAN_MS) -> str:
    """Return the script that writes records."""
    return with_span(SCRIPT, span_ms)


def sweep(redis: Any, start: str = "job:", span_ms: int = SPAN_MS, limit: int = 100) -> int:
    """Sweep a shard until nothing is due; return the number of steps."""
    script = redis.register_script(with_span(SWEEP, span_ms))
    group, skip = "", 0
    for step in range(10_000):
        reply = script(keys=[f"{start}index:due"], args=[start, limit, group, skip])
        if not reply:
            return step
        group, skip = reply
    raise AssertionError("the sweep does not end")


def listed(redis: Any, starts: Iterable[str] = ("job:",)) -> dict[tuple[str, UUID], float]:
    """Return the scores of all entries of the index, by state and job.

    The client must not decode replies.
    """
    return {
        (state, UUID(bytes=job_id)): score
        for start in starts
        for state in STATES
        for job_id, score in redis.zrange(f"{start}index:{state}", 0, -1, withscores=True)
    }


def stored(redis: Any) -> dict[UUID, Record]:
    """Return all records. The client must not decode replies."""
    found = {}
    for key in redis.scan_iter("*:????????-????-????-????-????????????"):
        fields = {k.decode(): v.decode() for k, v in redis.hgetall(key).items()}
        if fields:
            found[UUID(key.decode()[-36:])] = Record.from_fields(fields)
    return found


def score_of(record: Record) -> int:
    """Return the whole ms of the score with which a record is listed."""
    if record.state in FINAL_STATES:
        return max(record.updated, record.created)
    return record.created


def disagreements(redis: Any, starts: Iterable[str] = ("job:",)) -> list[str]:
    """Return what is wrong with the index, given that nothing has to be swept.

    Every record is listed exactly once, in its state and at its time; nothing else is listed; and
    every key has a TTL.
    """
    starts = list(starts)
    records = stored(redis)
    entries = {key: int(score) for key, score in listed(redis, starts).items()}
    expected = {(record.state.value, i): score_of(record) for i, record in records.items()}
    found = [f"{key}: listed at {at}" for key, at in entries.items() if expected.get(key) != at]
    found += [f"{key}: not listed" for key in expected if key not in entries]
    for start in starts:
        for name in (*STATES, "due"):
            if redis.pttl(f"{start}index:{name}") == -1:
                found.append(f"{start}index:{name} has no TTL")
    return found
