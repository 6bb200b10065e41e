"""Passwords that are rotated in the file of a URL, while everything runs."""

from pathlib import Path

import pytest
from tests.password_rotation import Rotation
from tests.records import key
from tests.waiting import eventually

from jobstatus import Publisher
from jobstatus.redis_url import parse_redis_url
from jobstatus.settings import PublisherSettings
from jobstatus.storage.cluster_store import store_for
from jobstatus.storage.credentials import FileCredentials, login_of, without_login


def test_publisher_goes_on(rotation: Rotation) -> None:
    """Final states that were held while the old password was refused are delivered."""
    environ = {"JOBSTATUS_REDIS_URL_FILE": str(rotation.file), "JOBSTATUS_REPORT_INTERVAL": "0.02"}
    settings = PublisherSettings.from_env(environ)
    with Publisher(store_for(settings), settings) as publisher:
        with publisher.job("running", name="x") as report:
            with publisher.job("ended", name="x"):
                assert publisher.flush()
                rotation.revoke()
            report.progress(50)
            eventually(lambda: publisher.stats.outages)
            assert not publisher.flush(0.3)
            rotation.write("new")
            assert publisher.flush(3)
            assert rotation.admin.hget(key("ended"), "state") == "succeeded"
            assert rotation.admin.hget(key("running"), "progress") == "50"


def test_file_that_breaks(rotation: Rotation, caplog: pytest.LogCaptureFixture) -> None:
    """A file that can't be read leaves the last login, and no secret in the log."""
    known = FileCredentials(str(rotation.file), ("a", "b"))
    assert known.get_credentials() == ("user", "old")
    rotation.file.write_text("http://user:secret@nowhere\n")
    assert known.get_credentials() == ("user", "old")
    rotation.file.write_bytes(b"redis://user:\xff\xfe@127.0.0.1/0")
    assert known.get_credentials() == ("user", "old")
    rotation.file.unlink()
    assert known.get_credentials() == ("user", "old")
    assert caplog.text.count("the last valid login is used") == 3
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("url", "login", "plain"),
    [
        ("redis://h:1/2", (None, None), "redis://h:1/2"),
        ("redis://u:p%40@h:1/2", ("u", "p@"), "redis://h:1/2"),
        ("rediss://:p@h/0?socket_timeout=3", (None, "p"), "rediss://h/0?socket_timeout=3"),
        ("redis://h/0?username=u&password=p", ("u", "p"), "redis://h/0"),
        ("unix://u:p@/tmp/redis.sock?db=3", ("u", "p"), "unix:///tmp/redis.sock?db=3"),
    ],
)
def test_login_of_a_url(url: str, login: tuple[str | None, str | None], plain: str) -> None:
    """The login in a URL is separated from the server."""
    assert login_of(parse_redis_url(url)) == login
    assert without_login(url) == plain
    assert login_of(parse_redis_url(plain)) == (None, None)


def test_login_without_a_user(tmp_path: Path) -> None:
    """A password alone is one of the default user; without one nobody logs in."""
    file = tmp_path / "url"
    file.write_text("redis://:p@h/0")
    assert FileCredentials(str(file), (None, None)).get_credentials() == ("p",)
    file.write_text("redis://h/0")
    assert not FileCredentials(str(file), (None, "p")).get_credentials()
    file.write_text("redis+sentinel://u:p@h/main?sentinel_username=s&sentinel_password=t")
    assert FileCredentials(str(file), (None, None)).get_credentials() == ("u", "p")
    sentinels = FileCredentials(str(file), (None, None), for_sentinels=True)
    assert sentinels.get_credentials() == ("s", "t")
