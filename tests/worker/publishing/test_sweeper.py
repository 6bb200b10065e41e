"""The sweeper: when it sweeps, in which steps, and that an unavailable Redis does no harm."""

import logging

import pytest

from jobstatus.keys import SHARDS
from jobstatus.publishing.sweeper import _INTERVAL_SECONDS, _STEPS_PER_TICK, Sweeper
from jobstatus.settings import PublisherSettings

SERVER = PublisherSettings()
CLUSTER = PublisherSettings(redis_url="redis+cluster://h")
LATER = 1e9
"""A time by which a sweep is due, on the monotonic clock."""


class Steps:
    """Stands in for a store.

    Attributes:
        steps: The arguments of each step.
        groups: What the next steps return.
        error: What they raise, if anything.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[str, str, str, int]] = []
        self.groups: list[tuple[str, int]] = []
        self.error: Exception | None = None

    def sweep(
        self, shard_start: str, key: str, group: str, skip: int, limit: int
    ) -> tuple[str, int] | None:
        """Note a step."""
        assert limit > 0
        self.steps.append((shard_start, key, group, skip))
        if self.error is not None:
            raise self.error
        return self.groups.pop(0) if self.groups else None


@pytest.fixture
def steps() -> Steps:
    """Return a store that notes the steps."""
    return Steps()


def sweeper(steps: Steps, settings: PublisherSettings = SERVER) -> Sweeper:
    return Sweeper(steps, settings)  # type: ignore[arg-type]


def test_nothing_was_written(steps: Steps) -> None:
    """Before the first write there is nothing to sweep."""
    idle = sweeper(steps)
    assert idle.due_at is None
    idle.sweep(LATER)
    assert steps.steps == []


def test_interval(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sweep is due some time after the first write, and each other after the last."""
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    own = sweeper(steps)
    own.written("job:a")
    assert own.due_at is not None
    first, last = (100 + seconds for seconds in _INTERVAL_SECONDS)
    assert first <= own.due_at <= last
    own.sweep(own.due_at - 0.1)
    assert steps.steps == []
    own.sweep(own.due_at)
    assert steps.steps
    assert first <= own.due_at <= last


def test_where_a_proxy_finds_the_servers(steps: Steps) -> None:
    """Each sweep is sent by the key of the index, and by those of records written lately."""
    own = sweeper(steps)
    for key in ("job:a", "job:b", "job:a"):
        own.written(key)
    own.sweep(LATER)
    assert {key for _, key, _, _ in steps.steps} == {"job:index:due", "job:a", "job:b"}
    assert {start for start, _, _, _ in steps.steps} == {"job:"}


def test_shards_of_a_cluster(steps: Steps) -> None:
    """In a Cluster every shard is swept once, wherever the records are that were written."""
    own = sweeper(steps, CLUSTER)
    own.written("job:{00}:a")
    own.sweep(LATER)
    assert len({start for start, _, _, _ in steps.steps}) == len(steps.steps) == SHARDS


def test_long_sweep_goes_on_later(steps: Steps) -> None:
    """A sweep goes on where it has stopped, after the publisher has looked at new reports."""
    own = sweeper(steps)
    own.written("job:a")
    count = 3 * _STEPS_PER_TICK
    steps.groups = [("failed:1:2", n) for n in range(count)]
    own.sweep(LATER)
    assert _STEPS_PER_TICK <= len(steps.steps) <= 2 * _STEPS_PER_TICK
    assert own.due_at is not None
    assert own.due_at < LATER  # at once
    while steps.groups:
        own.sweep(LATER)
    skips = [skip for _, _, group, skip in steps.steps if group]
    assert skips == list(range(count))


def test_unavailable_redis(steps: Steps, caplog: pytest.LogCaptureFixture) -> None:
    """While Redis is unavailable, sweeps are left out; that is logged once."""
    own = sweeper(steps)
    own.written("job:a")
    steps.error = ConnectionError("refused")
    with caplog.at_level(logging.WARNING):
        own.sweep(LATER)
        own._sweep_at = 0.0
        own.sweep(LATER)
    assert len(steps.steps) == 2
    assert caplog.text.count("expired jobs can't be removed from the index now: refused") == 1
    steps.error = None
    own._sweep_at = 0.0
    own.sweep(LATER)
    assert len(steps.steps) > 2
