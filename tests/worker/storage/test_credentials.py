"""The login to Redis from a file, in which the password is rotated."""

from pathlib import Path

import pytest
from tests.password_rotation import Rotation
from tests.records import key
from tests.waiting import eventually

from jobstatus import Publisher
from jobstatus.redis_url import parse_redis_url
from jobstatus.settings import PublisherSettings
from jobstatus.storage.cluster_store import store_for
from jobstatus.storage.credentials import (
    FileCredentials,
    Login,
    login_of,
    sentinel_login_of,
    without_login,
)

NO_LOGIN: Login = (None, None)


@pytest.mark.parametrize(
    ("url", "login", "plain"),
    [
        ("redis://h:1/2", NO_LOGIN, "redis://h:1/2"),
        ("redis://u:p%40@h:1/2", ("u", "p@"), "redis://h:1/2"),
        ("rediss://:p@h/0?socket_timeout=3", (None, "p"), "rediss://h/0?socket_timeout=3"),
        ("redis://h/0?username=u&password=p", ("u", "p"), "redis://h/0"),
        ("unix://u:p@/tmp/redis.sock?db=3", ("u", "p"), "unix:///tmp/redis.sock?db=3"),
    ],
)
def test_login_of_a_single_server(url: str, login: Login, plain: str) -> None:
    """The login in the URL of a single server is separated from the server."""
    assert login_of(parse_redis_url(url)) == login
    assert without_login(url) == plain
    assert login_of(parse_redis_url(plain)) == NO_LOGIN


def test_logins_with_sentinels() -> None:
    """A URL of Sentinels may have one login to Redis and another one to the Sentinels."""
    url = parse_redis_url("redis+sentinel://u:p@h/main?sentinel_username=s&sentinel_password=t")
    assert login_of(url) == ("u", "p")
    assert sentinel_login_of(url) == ("s", "t")


@pytest.mark.parametrize(
    ("text", "for_sentinels", "credentials"),
    [
        ("redis://u:p@h/0", False, ("u", "p")),
        ("redis://:p@h/0", False, ("p",)),
        ("redis://h/0", False, ()),
        ("redis+sentinel://u:p@h/main?sentinel_password=t", False, ("u", "p")),
        ("redis+sentinel://u:p@h/main?sentinel_password=t", True, ("t",)),
    ],
)
async def test_credentials_of_a_file(
    tmp_path: Path, text: str, for_sentinels: bool, credentials: tuple[str, ...]
) -> None:
    """A password alone is that of the default user; without one there is no login."""
    file = tmp_path / "url"
    file.write_text(text)
    known = FileCredentials(str(file), (None, "old"), for_sentinels=for_sentinels)
    assert known.get_credentials() == credentials
    assert await known.get_credentials_async() == credentials


def test_unusable_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the file can't be used, the last valid login is, and the log contains no secret."""
    file = tmp_path / "url"
    file.write_text("redis://user:old@h/0")
    known = FileCredentials(str(file), ("a", "b"))
    assert known.get_credentials() == ("user", "old")
    assert known.username == "user"
    file.write_text("http://user:secret@nowhere\n")
    assert known.get_credentials() == ("user", "old")
    file.write_bytes(b"redis://user:\xff\xfe@127.0.0.1/0")
    assert known.get_credentials() == ("user", "old")
    file.unlink()
    assert known.get_credentials() == ("user", "old")
    assert caplog.text.count("the last valid login is used") == 3
    assert "secret" not in caplog.text


def test_rotated_password(rotation: Rotation) -> None:
    """Outcomes that are held while the old password is rejected are written with the new one."""
    environ = {"JOBSTATUS_REDIS_URL_FILE": str(rotation.file), "JOBSTATUS_REPORT_INTERVAL": "0.02"}
    settings = PublisherSettings.from_env(environ)
    with Publisher(store_for(settings), settings) as publisher:
        with publisher.job("running", name="x") as report:
            with publisher.job("finished", name="x"):
                assert publisher.flush()
                rotation.revoke()
            report.progress(50)
            eventually(lambda: publisher.stats.outages)
            assert publisher.unwritten_final_states == 1
            rotation.write("new")
            assert publisher.flush(10)
            assert rotation.admin.hget(key("finished"), "state") == "succeeded"
            assert rotation.admin.hget(key("running"), "progress") == "50"
