"""The key file: which clients are authenticated, and which tenant's jobs each may see.

A key file has one key per line; `#` begins a comment:

    NAME SHA256HEX [PREFIX]          an API key, whose SHA-256 is SHA256HEX
    NAME ed25519:PUBLIC_KEY [PREFIX] the public key of a pair, whose private key signs job tokens

NAME appears in logs and metrics. PREFIX is the key prefix of the tenant whose jobs the client may
see (default: the service's own). The file holds no secret. It is read again when it changes.
"""

import asyncio
import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from jobstatus.errors import SettingsError
from jobstatus.settings import key_prefix
from jobstatus.tokens import PUBLIC_MARK, public_key
from jobstatus_service.http.client import Client
from jobstatus_service.http.job_tokens import TokenVerifier
from jobstatus_service.settings import ServiceSettings

_FILE_CHECK_SECONDS: Final = 1.0
"""Interval at which the key file is checked for changes."""

_MAX_REMEMBERED_HEADERS: Final = 10_000

_MAX_REMEMBERED_BYTES: Final = 32 * 2**20
"""Bytes of all remembered headers together, and of what their job tokens name."""

_BYTES_PER_NAMED_JOB: Final = 280
"""Memory of a path and of a record's key."""

MAX_REMEMBERED_HEADER_BYTES: Final = 6_000
"""A longer header is never remembered. A job token of 100 jobs has 5,500 bytes."""

_MAX_FILE_BYTES: Final = 4 * 2**20
"""Room for some 40,000 keys."""

_DOTS_OF_A_TOKEN: Final = 2
"""In the compact form of a JSON Web Token (RFC 7519, 7.2)."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger("jobstatus.service")


def digest(key: str | bytes) -> str:
    """Return the SHA-256 of a key, as the key file has it."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def parse_keys(text: str, default_prefix: str) -> dict[str, Client]:
    """Parse a key file.

    Returns:
        The clients by the SHA-256 of their API key, or by their public key.

    Raises:
        ValueError: A line is malformed; the message names it.
    """
    keys: dict[str, Client] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            key = _parse_line(words, default_prefix)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if key.key_id in keys:
            raise ValueError(f"line {number}: the same key as that of {keys[key.key_id].name}")
        keys[key.key_id] = key
    return keys


def _parse_line(words: list[str], default_prefix: str) -> Client:
    match words:
        case [name, key]:
            tenant = default_prefix
        case [name, key, tenant]:
            key_prefix(tenant)
        case _:
            raise ValueError(
                "expected NAME SHA256HEX [PREFIX], or NAME ed25519:PUBLIC_KEY [PREFIX]"
            )
    if key.startswith(PUBLIC_MARK):
        try:
            public_key(key)
        except ValueError as error:
            raise ValueError(f"the public key of {name} is malformed: {error}") from None
        return Client(name, tenant, key)
    sha256 = key.lower()
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"the SHA-256 of {name} must be 64 hexadecimal digits")
    return Client(name, tenant, sha256)


class ApiKeys:
    """The API keys and job tokens that are valid now.

    Attributes:
        anonymous: What every client is if no key is required, else None.
        recent_headers: Clients by the `Authorization` headers that they have sent lately, which
            saves hashing and verifying; the fast path authenticates from here. A token among them
            may have expired since.
        on_change: Called after the key file was read again.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        """Read all keys.

        Raises:
            SettingsError: There is no key, or the key file can't be read or is malformed.
        """
        self._default_prefix = settings.key_prefix
        self._is_cluster = settings.is_cluster
        self._path = Path(settings.api_keys_file) if settings.api_keys_file else None
        self._from_environment = {
            (sha256 := digest(key)): Client(f"env-{number}", settings.key_prefix, sha256)
            for number, key in enumerate(settings.api_keys, 1)
        }
        self.on_change: Callable[[], None] = lambda: None
        self.anonymous = Client("anonymous", settings.key_prefix) if settings.no_auth else None
        self.recent_headers: dict[bytes | None, Client] = {}
        self._remembered_bytes = 0
        self._version = self._version_of_file()
        try:
            self._keys = self._read()
        except (OSError, ValueError) as error:
            raise SettingsError(f"JOBSTATUS_API_KEYS_FILE: {self._path}: {error}") from None
        self._tokens = self._verifier_of(self._keys)
        if not self._keys and self.anonymous is None:
            if self._path is not None:
                raise SettingsError(
                    f"JOBSTATUS_API_KEYS_FILE: {self._path} holds no key: append the line that "
                    "`jobstatus key new` prints"
                )
            raise SettingsError(
                "no API key: set JOBSTATUS_API_KEYS_FILE (see `jobstatus key new`) or "
                "JOBSTATUS_API_KEYS, or let every client read all jobs with --no-auth"
            )

    def find(self, authorization: str | None) -> Client | None:
        """Return the client that an `Authorization` header authenticates.

        Args:
            authorization: The header, decoded as latin-1 as ASGI frameworks do: the raw API key or
                token, or `Bearer` and it.

        Raises:
            InvalidTokenError: The header has a job token that is not valid.
        """
        if self.anonymous is not None:
            return self.anonymous
        if not authorization:
            return None
        header = authorization.encode("latin-1", "replace")
        found = self.recent_headers.get(header)
        if found is not None and time.time() < found.valid_until:
            return found
        scheme, _, credentials = header.partition(b" ")
        secret = credentials.strip() if scheme.lower() == b"bearer" else header.strip()
        found = self._keys.get(digest(secret))
        if found is None and self._tokens.has_keys and secret.count(b".") == _DOTS_OF_A_TOKEN:
            found = self._tokens.client(secret)
        if found is not None and header in {secret, b"Bearer " + secret}:
            self._remember(header, found)
        return found

    def _remember(self, header: bytes, client: Client) -> None:
        if len(header) > MAX_REMEMBERED_HEADER_BYTES:
            return
        size = len(header) + _BYTES_PER_NAMED_JOB * len(client.record_keys or ())
        self._remembered_bytes += size
        if (
            len(self.recent_headers) >= _MAX_REMEMBERED_HEADERS
            or self._remembered_bytes > _MAX_REMEMBERED_BYTES
        ):
            self.recent_headers.clear()
            self._remembered_bytes = size
        self.recent_headers[header] = client

    def is_valid(self, client: Client) -> bool:
        """Return whether the key of a client, or the key that signed its token, is still valid."""
        if client is self.anonymous:
            return True
        key = self._keys.get(client.key_id)
        return key is not None and (key.name, key.prefix) == (client.name, client.prefix)

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

    def _read_if_changed(self) -> dict[str, Client] | None:
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

    def _apply(self, keys: dict[str, Client] | None) -> None:
        if keys is not None:
            self._keys, self._tokens = keys, self._verifier_of(keys)
            self.recent_headers.clear()
            self._remembered_bytes = 0
            _log.info("the key file %s was read again: %d keys", self._path, len(keys))
            self.on_change()

    def _read(self) -> dict[str, Client]:
        if self._path is None:
            return self._from_environment
        return self._from_environment | parse_keys(_text_of(self._path), self._default_prefix)

    def _verifier_of(self, keys: dict[str, Client]) -> TokenVerifier:
        signers = [key for key in keys.values() if key.key_id.startswith(PUBLIC_MARK)]
        return TokenVerifier(signers, is_cluster=self._is_cluster)

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
