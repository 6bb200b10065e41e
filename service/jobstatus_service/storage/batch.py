"""One pipeline of reads: its keys, its commands, and how the replies about a key are parsed."""

import asyncio
import logging
from typing import Any, Final

import msgspec

from jobstatus.status import Record
from jobstatus.storage.slots import ASKING_COMMAND
from jobstatus_service.storage.connection import TIME_COMMAND, ReplyError
from jobstatus_service.storage.link import UnavailableError
from jobstatus_service.storage.stored_record import StoredRecord

_READ_COMMANDS: Final = b"*2\r\n$7\r\nHGETALL\r\n$%d\r\n%b\r\n*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n"

_log = logging.getLogger("jobstatus.service")

Waiters = list[asyncio.Future[Any]]
"""The futures of all callers that wait for one key's response."""


class Batch:
    """Keys that are read by one pipeline.

    Attributes:
        waiters: The waiters of each key.
        redirected: Keys that an ASK redirect sent to this node: their slot is being moved to it.
        timeout: The timer that fails the batch if Redis does not answer in time.
    """

    def __init__(self) -> None:
        self.waiters: dict[str, Waiters] = {}
        self.redirected: set[str] = set()
        self.timeout: asyncio.TimerHandle | None = None

    def commands(self, *, has_time: bool) -> tuple[bytes, int]:
        """Return the commands, encoded in RESP, and the number of replies that they have.

        The replies are: Redis's time if `has_time`; then for each key its fields and its TTL, each
        preceded by a reply to ASKING if the key was redirected.
        """
        commands = [TIME_COMMAND] if has_time else []
        for key in self.waiters:
            name = key.encode()
            read = _READ_COMMANDS % (len(name), name, len(name), name)
            commands.append(_with_asking(read) if key in self.redirected else read)
        return b"".join(commands), has_time + 2 * (len(self.waiters) + len(self.redirected))

    def fail(self, reason: str) -> None:
        """Raise `UnavailableError` in all waiters."""
        for waiters in self.waiters.values():
            fail(waiters, reason)
            waiters.clear()


def fail(waiters: Waiters, reason: str) -> None:
    """Raise `UnavailableError` in the waiters of one key."""
    for future in waiters:
        if not future.done():
            future.set_exception(UnavailableError(reason))


def _with_asking(read: bytes) -> bytes:
    """Put ASKING before each of the two commands that read a key."""
    hgetall, pttl, arguments = read.partition(b"*2\r\n$4\r\nPTTL")
    return ASKING_COMMAND + hgetall + ASKING_COMMAND + pttl + arguments


def parse_record(key: str, fields: Any, ttl_ms: Any, now_ms: int) -> StoredRecord:
    """Parse the replies to HGETALL and PTTL.

    Raises:
        UnavailableError: Redis refused a command.
    """
    if isinstance(ttl_ms, ReplyError):
        raise UnavailableError(str(ttl_ms))
    if isinstance(fields, ReplyError):
        if not str(fields).startswith("WRONGTYPE"):
            raise UnavailableError(str(fields))
        return _malformed(key, "the value is not a hash", now_ms, ttl_ms)
    if isinstance(fields, list):  # RESP2
        fields = dict(zip(fields[::2], fields[1::2], strict=True))
    if not fields:
        return StoredRecord(None, "", now_ms, -2)
    try:
        return StoredRecord(Record.from_fields(fields), "", now_ms, ttl_ms)
    except (msgspec.ValidationError, ValueError) as error:
        return _malformed(key, str(error), now_ms, ttl_ms)


def _malformed(key: str, error: str, now_ms: int, ttl_ms: int) -> StoredRecord:
    _log.error("the record at the key %s is malformed: %s", key, error)
    return StoredRecord(None, error, now_ms, ttl_ms)
