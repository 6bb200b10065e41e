"""The login to Redis from a file that holds a URL, read again for each connection.

A password is rotated by changing the file: the next connection, such as the one after a rejected
login, uses the new password. Only the login is read again; a new host needs a restart.
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
"""User name and password; None if there is none."""


def login_of(url: RedisUrl) -> Login:
    """Return the login to Redis that a URL holds."""
    if url.mode is not RedisMode.STANDALONE:
        return url.username, url.password
    parsed = cast("Any", parse_url)(url.url)
    return parsed.get("username"), parsed.get("password")


def sentinel_login_of(url: RedisUrl) -> Login:
    """Return the login to the Sentinels that a URL holds."""
    return url.sentinel_username, url.sentinel_password


def without_login(url: str) -> str:
    """Return the URL of a single server without user name and password."""
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in _LOGIN]
    plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return f"{plain}?{urlencode(query)}" if query else plain


class FileCredentials(CredentialProvider):
    """Gives redis-py the login that the file holds at the moment of a connection."""

    def __init__(self, path: str, known: Login, *, for_sentinels: bool = False) -> None:
        """Create credentials.

        Args:
            path: The file that holds the URL.
            known: The login that it held when it was first read.
            for_sentinels: Whether to use the URL's login to the Sentinels.
        """
        self._path = path
        self._known = known
        self._read = sentinel_login_of if for_sentinels else login_of

    @property
    def username(self) -> str | None:
        """The user name of the last login."""
        return self._known[0]

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return user name and password, or the password alone; empty if there is no login.

        If the file can't be used, the last valid login is returned.
        """
        try:
            text = Path(self._path).read_text(encoding="utf-8").strip()
            self._known = self._read(parse_redis_url(text))
        except (OSError, ValueError) as error:
            # Errors of `parse_redis_url` contain no secret; those of decoding contain one byte.
            _log.warning(
                "%s holds no valid URL, the last valid login is used: %s", self._path, error
            )
        username, password = self._known
        login = (username, password or "") if username else (password,)
        return cast("tuple[str]", login if username or password else ())

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Return the same for redis-py's asyncio; reading a file of one line does not block."""
        return self.get_credentials()
