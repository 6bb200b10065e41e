"""Which node of a Redis Cluster has which keys. Pure.

A key belongs to one of 16,384 slots by its CRC16 (https://valkey.io/topics/cluster-spec/); the
prefix of our keys can't hold braces, so there are no hash tags to look for.
"""

import re
from binascii import crc_hqx
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from jobstatus.redis_url import HostPort

SLOTS: Final = 16_384

_REDIRECT = re.compile(r"(MOVED|ASK) (\d+) (.*):(\d+)")


def slot_of(key: str) -> int:
    """The slot of a key."""
    return crc_hqx(key.encode(), 0) % SLOTS


class Layout(msgspec.Struct, frozen=True):
    """Who has which slots.

    Attributes:
        starts: The first slot of each range, rising.
        ends: The last one.
        owners: The primary that has the range.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    owners: tuple[HostPort, ...]

    @property
    def size(self) -> int:
        """How many slots have an owner."""
        return sum(end - start + 1 for start, end in zip(self.starts, self.ends, strict=True))

    def owner(self, key: str) -> HostPort | None:
        """The primary that has a key; None where nobody has its slot."""
        slot = slot_of(key)
        at = bisect_right(self.starts, slot) - 1
        return self.owners[at] if at >= 0 and slot <= self.ends[at] else None


def parse_cluster_slots(reply: Sequence[Any], asked: HostPort) -> Layout:
    """Read a reply to CLUSTER SLOTS.

    Args:
        reply: Ranges: first slot, last slot, the primary, its replicas. Or an error.
        asked: Whose reply it is; a node that doesn't know its own name leaves it out.

    Raises:
        ValueError: it can't be read.
    """
    if isinstance(reply, Exception):
        raise ValueError(f"CLUSTER SLOTS: {reply}")  # noqa: TRY004
    try:
        ranges = sorted(
            (int(first), int(last), _host(node, asked)) for first, last, node, *_ in reply
        )
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"CLUSTER SLOTS can't be read: {error}") from None
    return Layout(
        tuple(first for first, _, _ in ranges),
        tuple(last for _, last, _ in ranges),
        tuple(node for _, _, node in ranges),
    )


def _host(node: Sequence[Any], asked: HostPort) -> HostPort:
    name = node[0].decode() if isinstance(node[0], bytes) else node[0]
    return (name if name and name != "?" else asked[0]), int(node[1])


class Redirect(msgspec.Struct, frozen=True):
    """Redis's word that a key is elsewhere.

    Attributes:
        host: Where.
        once: Whether that holds for this command only (ASK), which ASKING must precede.
    """

    host: HostPort
    once: bool


def redirect_of(error: str, asked: HostPort) -> Redirect | None:
    """Read an error reply, code and all; None if it is no redirect.

    Args:
        error: Such as `MOVED 3999 127.0.0.1:6381`.
        asked: Whose reply it is; a node that doesn't know a name leaves it out.
    """
    found = _REDIRECT.fullmatch(error)
    if found is None:
        return None
    return Redirect((found[3] or asked[0], int(found[4])), once=found[1] == "ASK")
