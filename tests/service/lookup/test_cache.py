"""The cache of responses: its budget, and the change intervals that it remembers."""

import pytest

from jobstatus_service.lookup.cache import ResponseCache
from jobstatus_service.lookup.response import StatusResponse


def response(
    body: bytes = b"", changed_at: float = 0.0, change_interval: float = 0.0
) -> StatusResponse:
    return StatusResponse(
        (b"etag", b'"e"'), (), body, changed_at=changed_at, change_interval=change_interval
    )


def cache_of(*keys: str) -> ResponseCache:
    """Return a full cache of equally large responses."""
    cache = ResponseCache(len(keys) * response(b"x" * 100).size)
    for key in keys:
        cache.put(key, response(b"x" * 100))
    return cache


def test_eviction() -> None:
    """The response that was not used for longest is evicted first."""
    cache = cache_of("a", "b", "c")
    cache.responses.move_to_end("a")
    cache.put("d", response(b"x" * 100))
    assert list(cache.responses) == ["c", "a", "d"]
    assert cache.evictions == 1


@pytest.mark.parametrize(
    ("key", "body", "keys"),
    [
        ("a", b"x" * 50, ["b", "a"]),
        ("c", b"x" * 100, ["b", "c"]),
        ("c", b"x" * 200, ["c"]),
        ("c", b"x" * 10_000, []),
    ],
)
def test_budget(key: str, body: bytes, keys: list[str]) -> None:
    """The cache never holds more than its budget, and its size is the sum of its responses'."""
    cache = cache_of("a", "b")
    cache.put(key, response(body))
    assert list(cache.responses) == keys
    assert cache.size == sum(each.size for each in cache.responses.values())


def test_clear() -> None:
    """A cleared cache is empty and has forgotten all change intervals."""
    cache = cache_of("a", "b")
    cache.invalidate("a")
    cache.clear()
    assert (len(cache.responses), cache.size, cache.change_interval("a")) == (0, 0, 0)


@pytest.mark.parametrize(
    ("changed_at", "known_interval", "expected"),
    [(90.0, 0.0, 10.0), (98.0, 10.0, 6.0), (float("-inf"), 0.0, 0.0)],
)
def test_change_interval(
    monkeypatch: pytest.MonkeyPatch, changed_at: float, known_interval: float, expected: float
) -> None:
    """An invalidation is remembered as the mean of the known interval and the newest one."""
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    cache = ResponseCache(10_000)
    cache.put("a", response(changed_at=changed_at, change_interval=known_interval))
    assert cache.change_interval("a") == known_interval
    cache.invalidate("a")
    assert "a" not in cache.responses
    assert cache.change_interval("a") == expected


def test_change_interval_of_an_unknown_job() -> None:
    """A job that was never cached has no change interval, invalidated or not."""
    cache = ResponseCache(10_000)
    cache.invalidate("a")
    assert cache.change_interval("a") == 0
