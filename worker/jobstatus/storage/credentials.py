"""The login to Redis out of the file of a URL, read again for each connection.

So a password is rotated by changing the file: whoever connects next, as after a refused login, logs
in with the new one. Only the login is read again; a new host needs a restart.
"""

import logging
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis import CredentialProvider
from redis.connection import parse_url

from jobstatus.redis_url import RedisMode, RedisUrl, parse_redis_url

_LOGIN: Final = ("username", "password")

_log = logging.getLogger("jobstatus")

Login = tuple[str | None, str | None]
"""A user's name and password; None where there is none."""


def login_of(address: RedisUrl) -> Login:
    """Who logs in to Redis by an address, and with what."""
    if address.mode is not RedisMode.STANDALONE:
        return address.username, address.password
    found = cast("Any", parse_url)(address.url)
    return found.get("username"), found.get("password")


def sentinel_login_of(address: RedisUrl) -> Login:
    """Who logs in to the Sentinels by an address, and with what."""
    return address.sentinel_username, address.sentinel_password


def without_login(url: str) -> str:
    """The URL of a single server without user and password."""
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in _LOGIN]
    plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return f"{plain}?{urlencode(query)}" if query else plain


class FileCredentials(CredentialProvider):
    """Gives redis-py the login that a file holds now."""

    def __init__(self, path: str, known: Login, *, for_sentinels: bool = False) -> None:
        """Credentials.

        Args:
            path: The file; it holds a URL.
            known: The login that it held at first.
            for_sentinels: Whether the login to the Sentinels is meant.
        """
        self._path = path
        self._known = known
        self._read = sentinel_login_of if for_sentinels else login_of

    @property
    def username(self) -> str | None:
        """Who logged in last."""
        return self._known[0]

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """User and password, or the password alone; empty where there is none.

        If the file can't be used, the last login that it held.
        """
        try:
            text = Path(self._path).read_text(encoding="utf-8").strip()
            self._known = self._read(parse_redis_url(text))
        except (OSError, ValueError) as error:
            # The errors of `parse_redis_url` hold no secret; those of decoding hold one byte.
            _log.warning("%s can't be used, the last login is used: %s", self._path, error)
        username, password = self._known
        known = (username, password or "") if username else (password,)
        return cast("tuple[str]", known if username or password else ())

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same, for redis-py's asyncio; a file of one line is read in no time."""
        return self.get_credentials()
