"""API keys: which clients are authenticated, and which tenant's jobs each may see.

A key file has one key per line, `NAME SHA256HEX [PREFIX]`; `#` begins a comment. NAME appears in
logs and metrics, SHA256HEX is the SHA-256 of the key, PREFIX is the key prefix of the tenant whose
jobs the key may see (default: the service's own). The file holds no secret. It is read again when
it changes.
"""

import asyncio
import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from jobstatus.errors import SettingsError
from jobstatus.keys import shard_starts
from jobstatus.settings import key_prefix
from jobstatus_service.settings import ServiceSettings

_FILE_CHECK_SECONDS: Final = 1.0
"""Interval at which the key file is checked for changes."""

_MAX_REMEMBERED_HEADERS: Final = 10_000

MAX_REMEMBERED_HEADER_BYTES: Final = 1_000
"""A longer header is never remembered."""

_MAX_FILE_BYTES: Final = 4 * 2**20
"""Room for some 40,000 keys."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger("jobstatus.service")


class ApiKey(msgspec.Struct, frozen=True):
    """An authenticated client.

    Attributes:
        name: The client's name, for logs and metrics; never the key itself.
        prefix: The key prefix in Redis of the jobs that the client may see.
        sha256: The SHA-256 of the key in hexadecimal digits; empty if no key is required.
        key_start: What the keys of those jobs' records begin with, unless they are in a Redis
            Cluster; derived from `prefix`.
    """

    name: str
    prefix: str
    sha256: str = ""
    key_start: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "key_start", shard_starts(self.prefix)[0])


def digest(key: str | bytes) -> str:
    """Return the SHA-256 of a key, as the key file has it."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def parse_keys(text: str, default_prefix: str) -> dict[str, ApiKey]:
    """Parse a key file.

    Returns:
        The API keys by their SHA-256.

    Raises:
        ValueError: A line is malformed; the message names it.
    """
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            key = _parse_line(words, default_prefix)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if key.sha256 in keys:
            raise ValueError(f"line {number}: the same key as that of {keys[key.sha256].name}")
        keys[key.sha256] = key
    return keys


def _parse_line(words: list[str], default_prefix: str) -> ApiKey:
    match words:
        case [name, sha256]:
            tenant = default_prefix
        case [name, sha256, tenant]:
            key_prefix(tenant)
        case _:
            raise ValueError("expected NAME SHA256HEX [PREFIX]")
    sha256 = sha256.lower()
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"the SHA-256 of {name} must be 64 hexadecimal digits")
    return ApiKey(name, tenant, sha256)


class ApiKeys:
    """The keys that are valid now.

    Attributes:
        anonymous: The key that every client has if no key is required, else None.
        recent_headers: API keys by the `Authorization` headers in which they were found lately,
            which saves hashing; the fast path authenticates from here.
        on_change: Called after the key file was read again.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        """Read all keys.

        Raises:
            SettingsError: There is no key, or the key file can't be read or is malformed.
        """
        self._default_prefix = settings.key_prefix
        self._path = Path(settings.api_keys_file) if settings.api_keys_file else None
        self._from_environment = {
            (sha256 := digest(key)): ApiKey(f"env-{number}", settings.key_prefix, sha256)
            for number, key in enumerate(settings.api_keys, 1)
        }
        self.on_change: Callable[[], None] = lambda: None
        self.anonymous = ApiKey("anonymous", settings.key_prefix) if settings.no_auth else None
        self.recent_headers: dict[bytes | None, ApiKey] = {}
        self._version = self._version_of_file()
        try:
            self._keys = self._read()
        except (OSError, ValueError) as error:
            raise SettingsError(f"JOBSTATUS_API_KEYS_FILE: {self._path}: {error}") from None
        if not self._keys and self.anonymous is None:
            raise SettingsError(
                "no API key: set JOBSTATUS_API_KEYS_FILE (see `jobstatus key new`) or "
                "JOBSTATUS_API_KEYS, or let every client read all jobs with --no-auth"
            )

    def find(self, authorization: str | None) -> ApiKey | None:
        """Return the API key in an `Authorization` header: the raw key, or `Bearer <key>`.

        Args:
            authorization: The header, decoded as latin-1 as ASGI frameworks do.
        """
        if self.anonymous is not None:
            return self.anonymous
        if not authorization:
            return None
        header = authorization.encode("latin-1", "replace")
        found = self.recent_headers.get(header)
        if found is None:
            scheme, _, credentials = header.partition(b" ")
            key = credentials.strip() if scheme.lower() == b"bearer" else header.strip()
            found = self._keys.get(digest(key))
            if found is not None and len(header) <= MAX_REMEMBERED_HEADER_BYTES:
                if len(self.recent_headers) >= _MAX_REMEMBERED_HEADERS:
                    self.recent_headers.clear()
                self.recent_headers[header] = found
        return found

    def is_valid(self, key: ApiKey) -> bool:
        """Return whether a key that was found earlier is still valid."""
        return key is self.anonymous or self._keys.get(key.sha256) == key

    def prefixes(self) -> set[str]:
        """Return the key prefixes of all tenants that have a key."""
        known = [*self._keys.values(), *([self.anonymous] if self.anonymous else [])]
        return {key.prefix for key in known}

    async def watch(self) -> None:
        """Read the key file again whenever it changes, until cancelled.

        The file is read in another thread, since a slow disk would block the event loop.
        """
        while True:
            await asyncio.sleep(_FILE_CHECK_SECONDS)
            try:
                self._apply(await asyncio.to_thread(self._read_if_changed))
            except Exception:
                _log.exception("%s could not be read again; the last valid keys stay", self._path)

    def refresh(self) -> None:
        """Read the key file again if it has changed; keep the last valid keys if it is broken."""
        self._apply(self._read_if_changed())

    def _read_if_changed(self) -> dict[str, ApiKey] | None:
        """Return the keys of a file that has changed and is valid; may run in another thread."""
        version = self._version_of_file()
        if version == self._version:
            return None
        self._version = version
        try:
            keys = self._read()
            fault = None if keys else "it has no key"
        except (OSError, ValueError) as error:
            fault = str(error)
        if fault is not None:
            _log.error("%s can't be used; the last valid keys stay: %s", self._path, fault)
            return None
        return keys

    def _apply(self, keys: dict[str, ApiKey] | None) -> None:
        if keys is not None:
            self._keys = keys
            self.recent_headers.clear()
            _log.info("the key file %s was read again: %d keys", self._path, len(keys))
            self.on_change()

    def _read(self) -> dict[str, ApiKey]:
        if self._path is None:
            return self._from_environment
        return self._from_environment | parse_keys(_text_of(self._path), self._default_prefix)

    def _version_of_file(self) -> tuple[int, ...] | None:
        """Return what differs after the file has changed; None if it can't be found."""
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return found and (found.st_mtime_ns, found.st_size, found.st_ino)


def _text_of(path: Path) -> str:
    """Return the text of a key file, with or without a byte order mark.

    Raises:
        OSError: It can't be read.
        ValueError: It is not a regular file, is too large, or isn't UTF-8.
    """
    # Without O_NONBLOCK, opening a FIFO would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - opens a descriptor, not a path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {_MAX_FILE_BYTES // 2**20} MiB")
    return content.decode("utf-8-sig")
