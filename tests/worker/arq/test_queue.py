"""Where arq's queue is, as the environment says."""

import pytest

from jobstatus.arq import create_worker, redis_settings
from jobstatus.errors import SettingsError


def test_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is said it is arq's own; else where the status is, or where is said."""
    assert (redis_settings().host, redis_settings().port) == ("localhost", 6379)
    monkeypatch.setenv("JOBSTATUS_REDIS_URL", "redis://u:p@status:1/2")
    found = redis_settings()
    assert (found.host, found.port, found.database) == ("status", 1, 2)
    assert (found.username, found.password) == ("u", "p")
    monkeypatch.setenv("JOBSTATUS_QUEUE_URL", "redis://queue:3")
    assert redis_settings().host == "queue"
    assert redis_settings("redis://here").host == "here"


def test_sentinel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentinels are arq's own settings of them."""
    url = "redis+sentinel://u:p@one:1,two/main?db=3"
    monkeypatch.setenv("JOBSTATUS_QUEUE_URL", url)
    found = redis_settings()
    assert found.sentinel
    assert found.host == [("one", 1), ("two", 26_379)]
    assert (found.sentinel_master, found.database) == ("main", 3)
    assert (found.username, found.password) == ("u", "p")


def test_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory) -> None:
    """With TLS the files are those of the status, and names are checked."""
    file = f"{tmp_path}/ca"
    with open(file, "w") as new:  # noqa: PTH123
        new.write("-")
    monkeypatch.setenv("JOBSTATUS_REDIS_CA_FILE", file)
    found = redis_settings("rediss://h")
    assert found.ssl
    assert found.ssl_ca_certs == file
    assert found.ssl_check_hostname
    assert redis_settings("redis://h").ssl_ca_certs is None


def test_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Cluster is refused, in words that say what to do."""
    monkeypatch.setenv("JOBSTATUS_REDIS_URL", "redis+cluster://h:1")
    with pytest.raises(SettingsError, match=r"JOBSTATUS_QUEUE_URL.*Cluster"):
        redis_settings()


async def test_worker_without_a_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WorkerSettings that names no Redis uses the environment's; one that does keeps its own."""

    async def job(_: object) -> None:
        """Do nothing."""

    monkeypatch.setenv("JOBSTATUS_REDIS_URL", "redis://status:1")
    worker = create_worker({"functions": [job], "handle_signals": False})
    assert worker.redis_settings is not None
    assert worker.redis_settings.host == "status"
    own = redis_settings("redis://own")
    kept = create_worker({"functions": [job], "handle_signals": False, "redis_settings": own})
    assert kept.redis_settings is own
