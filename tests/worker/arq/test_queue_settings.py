"""The settings of the queue's Redis, from the environment."""

from pathlib import Path

import pytest

from jobstatus.arq import create_worker, redis_settings
from jobstatus.errors import SettingsError


def test_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue's URL comes before that of the status, and both before arq's own default."""
    assert (redis_settings().host, redis_settings().port) == ("localhost", 6379)
    monkeypatch.setenv("JOBSTATUS_REDIS_URL", "redis://u:p@status:1/2")
    found = redis_settings()
    assert (found.host, found.port, found.database) == ("status", 1, 2)
    assert (found.username, found.password) == ("u", "p")
    monkeypatch.setenv("JOBSTATUS_QUEUE_URL", "redis://queue:3")
    assert redis_settings().host == "queue"
    assert redis_settings("redis://here").host == "here"


def test_sentinel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Sentinel URL sets arq's own settings for Sentinels."""
    url = "redis+sentinel://u:p@one:1,two/main?db=3"
    monkeypatch.setenv("JOBSTATUS_QUEUE_URL", url)
    found = redis_settings()
    assert found.sentinel
    assert found.host == [("one", 1), ("two", 26_379)]
    assert (found.sentinel_master, found.database) == ("main", 3)
    assert (found.username, found.password) == ("u", "p")


def test_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With TLS the files of the status are used, and host names are checked."""
    file = tmp_path / "ca"
    file.write_text("-")
    monkeypatch.setenv("JOBSTATUS_REDIS_CA_FILE", str(file))
    found = redis_settings("rediss://h")
    assert found.ssl
    assert found.ssl_ca_certs == str(file)
    assert found.ssl_check_hostname
    assert redis_settings("redis://h").ssl_ca_certs is None


def test_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Cluster URL is rejected with a message that says what to use instead."""
    monkeypatch.setenv("JOBSTATUS_REDIS_URL", "redis+cluster://h:1")
    with pytest.raises(SettingsError, match=r"JOBSTATUS_QUEUE_URL.*Cluster"):
        redis_settings()


async def test_worker_without_a_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker settings without a Redis use that of the environment; others keep their own."""

    async def job(_: object) -> None:
        """Do nothing."""

    monkeypatch.setenv("JOBSTATUS_REDIS_URL", "redis://status:1")
    worker = create_worker({"functions": [job], "handle_signals": False})
    assert worker.redis_settings is not None
    assert worker.redis_settings.host == "status"
    own = redis_settings("redis://own")
    kept = create_worker({"functions": [job], "handle_signals": False, "redis_settings": own})
    assert kept.redis_settings is own
