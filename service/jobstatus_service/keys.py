"""API keys: who may ask, and for whose jobs.

A key file has one key a line, `NAME SHA256HEX [PREFIX]`; `#` begins a comment. NAME is for the
log, SHA256HEX is the SHA-256 of the key, PREFIX the tenant whose jobs the key may see (default:
the service's own prefix). The file holds no secret and is read again when it changes.
"""

import asyncio
import hashlib
import logging
import re
from pathlib import Path
from typing import Final

import msgspec

from jobstatus.errors import SettingsError
from jobstatus.settings import prefix
from jobstatus_service.settings import ServiceSettings

_LOOK: Final = 1.0
"""Seconds between two looks at the key file."""

_SEEN: Final = 10_000
"""Spellings of headers that are remembered at most."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger("jobstatus.service")


class ApiKey(msgspec.Struct, frozen=True):
    """Somebody who may ask.

    Attributes:
        name: Who, for logs and metrics; never the key.
        prefix: The prefix of the keys in Redis that they may see.
    """

    name: str
    prefix: str


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
            prefix(tenant)
        case _:
            raise ValueError("expected NAME SHA256HEX [PREFIX]")
    if not _SHA256.fullmatch(sha256.lower()):
        raise ValueError(f"the second word of {name} is no SHA-256 in 64 hex digits")
    return sha256.lower(), ApiKey(name, tenant)


class ApiKeys:
    """The keys that are valid now.

    Attributes:
        anybody: Who everybody is, where no key is needed.
        seen: Headers in which a valid key was found, so that it needn't be looked for again.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        """Read all keys.

        Raises:
            SettingsError: there are none, or the key file can't be used.
        """
        self._default_prefix = settings.key_prefix
        self._path = Path(settings.api_keys_file) if settings.api_keys_file else None
        self._plain = {
            digest(key): ApiKey(f"env-{number}", settings.key_prefix)
            for number, key in enumerate(settings.api_keys, 1)
        }
        self.anybody = ApiKey("anybody", settings.key_prefix) if settings.no_auth else None
        self.seen: dict[bytes | None, ApiKey] = {}
        self._stamp = self._stat()
        try:
            self._keys = self._read()
        except (OSError, ValueError) as error:
            raise SettingsError(f"JOBSTATUS_API_KEYS_FILE: {self._path}: {error}") from None
        if not self._keys and self.anybody is None:
            raise SettingsError(
                "no API key: set JOBSTATUS_API_KEYS_FILE (see `jobstatus key new`) or "
                "JOBSTATUS_API_KEYS, or allow everybody with --no-auth"
            )

    def find(self, authorization: str | None) -> ApiKey | None:
        """Whose key an `Authorization` header holds: the raw key, or `Bearer <key>`.

        Args:
            authorization: The header's bytes, each as one character, as ASGI frameworks have it.
        """
        if self.anybody is not None:
            return self.anybody
        if not authorization:
            return None
        header = authorization.encode("latin-1", "replace")
        found = self.seen.get(header)
        if found is None:
            scheme, _, rest = header.partition(b" ")
            key = rest.strip() if scheme.lower() == b"bearer" else header.strip()
            found = self._keys.get(digest(key))
            if found is not None:
                if len(self.seen) >= _SEEN:
                    self.seen.clear()
                self.seen[header] = found
        return found

    async def watch(self) -> None:
        """Read the key file again whenever it changes, for ever."""
        while True:
            await asyncio.sleep(_LOOK)
            self.refresh()

    def refresh(self) -> None:
        """Read the key file again if it has changed; keep the last good keys if it is broken."""
        stamp = self._stat()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            found = self._read()
            fault = None if found else "there is no key in it"
        except (OSError, ValueError) as error:
            fault = str(error)
        if fault is not None:
            _log.error("%s can't be used, the last good keys stay: %s", self._path, fault)
            return
        self._keys = found
        self.seen.clear()
        _log.info("the key file %s was read again: %d keys", self._path, len(found))

    def _read(self) -> dict[str, ApiKey]:
        if self._path is None:
            return self._plain
        text = self._path.read_text(encoding="utf-8")
        return self._plain | parse_keys(text, self._default_prefix)

    def _stat(self) -> tuple[int, ...] | None:
        try:
            stat = self._path.stat() if self._path else None
        except OSError:
            return None
        return stat and (stat.st_mtime_ns, stat.st_size, stat.st_ino)
