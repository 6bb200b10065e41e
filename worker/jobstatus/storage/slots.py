"""The layout of a Redis Cluster: which node owns which slots, and redirects. Pure.

A key belongs to one of 16,384 slots by the CRC16 of its hash tag, the text between braces, or else
of the whole key (https://valkey.io/topics/cluster-spec/).
"""

import re
from binascii import crc_hqx
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from jobstatus.redis_url import HostPort

SLOTS: Final = 16_384
"""The number of slots of every Cluster."""

CLUSTER_SLOTS_COMMAND: Final = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n"
"""Asks a node for the layout, encoded in RESP; `parse_cluster_slots` parses the reply."""

ASKING_COMMAND: Final = b"*1\r\n$6\r\nASKING\r\n"
"""Precedes a command that an ASK redirect has sent to another node, encoded in RESP."""

_REDIRECT = re.compile(r"(MOVED|ASK) (\d+) (.*):(\d+)")


def slot_of(key: str) -> int:
    """Return the slot that a key belongs to."""
    _, _, after = key.partition("{")
    tag, brace, _ = after.partition("}")
    return crc_hqx((tag if tag and brace else key).encode(), 0) % SLOTS


class Layout(msgspec.Struct, frozen=True):
    """Which primary owns which slots.

    Attributes:
        starts: The first slot of each range, ascending.
        ends: The last slot of each range.
        owners: The primary that owns each range.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    owners: tuple[HostPort, ...]

    @property
    def size(self) -> int:
        """The number of slots that have an owner; fewer than `SLOTS` in a broken Cluster."""
        return sum(end - start + 1 for start, end in zip(self.starts, self.ends, strict=True))

    def owner(self, key: str) -> HostPort | None:
        """Return the primary that owns a key; None if its slot has no owner."""
        slot = slot_of(key)
        at = bisect_right(self.starts, slot) - 1
        return self.owners[at] if at >= 0 and slot <= self.ends[at] else None


def parse_cluster_slots(reply: Sequence[Any], asked: HostPort) -> Layout:
    """Parse a reply to CLUSTER SLOTS.

    Args:
        reply: Ranges: first slot, last slot, the primary, its replicas. Or an error.
        asked: The node that has replied: a node that doesn't know its own address leaves it out.

    Raises:
        ValueError: The reply is an error, or malformed.
    """
    if isinstance(reply, Exception):
        raise ValueError(f"CLUSTER SLOTS failed: {reply}")  # noqa: TRY004
    try:
        ranges = sorted(
            (int(first), int(last), _host(node, asked)) for first, last, node, *_ in reply
        )
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"the reply to CLUSTER SLOTS is malformed: {error}") from None
    return Layout(
        tuple(first for first, _, _ in ranges),
        tuple(last for _, last, _ in ranges),
        tuple(node for _, _, node in ranges),
    )


def fuller_layout(one: Layout | None, other: Layout | None) -> Layout | None:
    """Return the layout in which more slots have an owner; the first if both have as many.

    A node that has left the Cluster knows no slots: such a layout counts as None.
    """
    known = [layout for layout in (one, other) if layout is not None and layout.size]
    return max(known, key=lambda layout: layout.size, default=None)


def _host(node: Sequence[Any], asked: HostPort) -> HostPort:
    name = node[0].decode() if isinstance(node[0], bytes) else node[0]
    return (name if name and name != "?" else asked[0]), int(node[1])


class Redirect(msgspec.Struct, frozen=True):
    """Redis's reply that another node owns a key.

    Attributes:
        host: That node.
        once: Whether this is for one command only (ASK), which must be preceded by ASKING;
            otherwise (MOVED) the layout has changed.
    """

    host: HostPort
    once: bool


def redirect_of(error: str, asked: HostPort) -> Redirect | None:
    """Parse an error reply as a redirect; None if it is another error.

    Args:
        error: The error with its code, such as `MOVED 3999 127.0.0.1:6381`.
        asked: The node that has replied: a node that doesn't know an address leaves it out.
    """
    found = _REDIRECT.fullmatch(error)
    if found is None:
        return None
    return Redirect((found[3] or asked[0], int(found[4])), once=found[1] == "ASK")
