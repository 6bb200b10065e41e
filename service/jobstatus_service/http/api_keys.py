"""API keys: who may ask, and for whose jobs.

A key file has one key a line, `NAME SHA256HEX [PREFIX]`; `#` begins a comment. NAME is for the
log, SHA256HEX is the SHA-256 of the key, PREFIX the tenant whose jobs the key may see (default:
the service's own prefix). The file holds no secret and is read again when it changes.
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
from jobstatus.settings import key_prefix
from jobstatus_service.settings import ServiceSettings

_LOOK: Final = 1.0
"""Seconds between two looks at the key file."""

_SEEN: Final = 10_000
"""Spellings of headers that are remembered at most."""

MAX_REMEMBERED_HEADER_BYTES: Final = 1_000
"""Bytes of a header that is remembered at most."""

_LARGEST: Final = 4 * 2**20
"""Bytes of a key file at most: some 40,000 keys."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger("jobstatus.service")


class ApiKey(msgspec.Struct, frozen=True):
    """Somebody who may ask.

    Attributes:
        name: Who, for logs and metrics; never the key.
        prefix: The prefix of the keys in Redis that they may see.
        sha256: The SHA-256 of the key, in hex digits; empty where no key is needed.
    """

    name: str
    prefix: str
    sha256: str = ""


def digest(key: str | bytes) -> str:
    """The SHA-256 of a key, as it stands in the key file."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def parse_keys(text: str, default_prefix: str) -> dict[str, ApiKey]:
    """Read a key file.

    Raises:
        ValueError: a line can't be read; the message names it.
    """
    found: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            sha256, key = _key(words, default_prefix)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if sha256 in found:
            raise ValueError(f"line {number}: the same key as that of {found[sha256].name}")
        found[sha256] = key
    return found


def _key(words: list[str], default_prefix: str) -> tuple[str, ApiKey]:
    match words:
        case [name, sha256]:
            tenant = default_prefix
        case [name, sha256, tenant]:
            key_prefix(tenant)
        case _:
            raise ValueError("expected NAME SHA256HEX [PREFIX]")
    if not _SHA256.fullmatch(sha256.lower()):
        raise ValueError(f"the second word of {name} is no SHA-256 in 64 hex digits")
    return sha256.lower(), ApiKey(name, tenant, sha256.lower())


class ApiKeys:
    """The keys that are valid now.

    Attributes:
        anybody: Who everybody is, where no key is needed.
        seen: Headers in which a valid key was found, so that it needn't be looked for again.
        changed: Called when the keys have changed.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        """Read all keys.

        Raises:
            SettingsError: there are none, or the key file can't be used.
        """
        self._default_prefix = settings.key_prefix
        self._path = Path(settings.api_keys_file) if settings.api_keys_file else None
        self._plain = {
            (sha256 := digest(key)): ApiKey(f"env-{number}", settings.key_prefix, sha256)
            for number, key in enumerate(settings.api_keys, 1)
        }
        self.changed: Callable[[], None] = lambda: None
        self.anonymous = ApiKey("anybody", settings.key_prefix) if settings.no_auth else None
        self.recent_headers: dict[bytes | None, ApiKey] = {}
        self._stamp = self._stat()
        try:
            self._keys = self._read()
        except (OSError, ValueError) as error:
            raise SettingsError(f"JOBSTATUS_API_KEYS_FILE: {self._path}: {error}") from None
        if not self._keys and self.anonymous is None:
            raise SettingsError(
                "no API key: set JOBSTATUS_API_KEYS_FILE (see `jobstatus key new`) or "
                "JOBSTATUS_API_KEYS, or allow everybody with --no-auth"
            )

    def find(self, authorization: str | None) -> ApiKey | None:
        """Whose key an `Authorization` header holds: the raw key, or `Bearer <key>`.

        Args:
            authorization: The header's bytes, each as one character, as ASGI frameworks have it.
        """
        if self.anonymous is not None:
            return self.anonymous
        if not authorization:
            return None
        header = authorization.encode("latin-1", "replace")
        found = self.recent_headers.get(header)
        if found is None:
            scheme, _, other_headers = header.partition(b" ")
            key = other_headers.strip() if scheme.lower() == b"bearer" else header.strip()
            found = self._keys.get(digest(key))
            if found is not None and len(header) <= MAX_REMEMBERED_HEADER_BYTES:
                if len(self.recent_headers) >= _SEEN:
                    self.recent_headers.clear()
                self.recent_headers[header] = found
        return found

    def is_valid(self, key: ApiKey) -> bool:
        """Whether a key that was found once is still valid."""
        return key is self.anonymous or self._keys.get(key.sha256) == key

    async def watch(self) -> None:
        """Read the key file again whenever it changes, for ever. The event loop isn't blocked."""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                self._apply(await asyncio.to_thread(self._read_changed))
            except Exception:
                _log.exception("%s could not be read again, the last good keys stay", self._path)

    def refresh(self) -> None:
        """Read the key file again if it has changed; keep the last good keys if it is broken."""
        self._apply(self._read_changed())

    def _read_changed(self) -> dict[str, ApiKey] | None:
        """The keys of a file that has changed and is good; may run in another thread."""
        stamp = self._stat()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            found = self._read()
            fault = None if found else "there is no key in it"
        except (OSError, ValueError) as error:
            fault = str(error)
        if fault is not None:
            _log.error("%s can't be used, the last good keys stay: %s", self._path, fault)
            return None
        return found

    def _apply(self, found: dict[str, ApiKey] | None) -> None:
        if found is not None:
            self._keys = found
            self.recent_headers.clear()
            _log.info("the key file %s was read again: %d keys", self._path, len(found))
            self.changed()

    def _read(self) -> dict[str, ApiKey]:
        if self._path is None:
            return self._plain
        return self._plain | parse_keys(_text_of(self._path), self._default_prefix)

    def _stat(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return found and (found.st_mtime_ns, found.st_size, found.st_ino)


def _text_of(path: Path) -> str:
    """The text of a key file, with or without a byte order mark.

    Raises:
        OSError: it can't be read.
        ValueError: it is no regular file, is too large, or isn't UTF-8.
    """
    # Opening a FIFO would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST // 2**20} MiB")
    return content.decode("utf-8-sig")
