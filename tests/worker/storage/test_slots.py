"""The layout of a Redis Cluster, and redirects."""

from typing import Any

import pytest
from redis.crc import key_slot

from jobstatus.storage.slots import (
    SLOTS,
    Layout,
    Redirect,
    fuller_layout,
    parse_cluster_slots,
    redirect_of,
    slot_of,
)

ASKED = ("asked", 7)
"""The node that has sent a reply."""


@pytest.mark.parametrize("key", ["job:67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8", "x:", "ü:1"])
def test_slot_of(key: str) -> None:
    """The slot of a key is the one that redis-py computes."""
    assert slot_of(key) == key_slot(key.encode())


def test_layout() -> None:
    """Each slot has its owner, or none; a node without a name is the one that has replied."""
    reply = [
        [8000, 16383, [b"b", 2, b"id"], [b"replica", 9, b"id"]],
        [0, 100, ["", 1, "id"]],
        [101, 200, [None, 1, "id"]],
    ]
    layout = parse_cluster_slots(reply, ASKED)
    owners = {layout.owner(f"job:{n}") for n in range(2000)}
    assert owners == {("asked", 1), ("b", 2), None}
    assert layout.size == 201 + SLOTS - 8000


@pytest.mark.parametrize(
    ("slot", "owner"), [(0, None), (1, "a"), (9, "a"), (10, None), (20, "b"), (21, None)]
)
def test_bounds_of_ranges(monkeypatch: pytest.MonkeyPatch, slot: int, owner: str | None) -> None:
    """The first and the last slot of a range belong to it; those around it do not."""
    monkeypatch.setattr("jobstatus.storage.slots.slot_of", lambda _: slot)
    layout = Layout((1, 20), (9, 20), (("a", 1), ("b", 1)))
    found = layout.owner("x")
    assert (found and found[0]) == owner


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ([[1]], "malformed"),
        ([[1, 2, ["a", "x"]]], "malformed"),
        ([[1, 2, []]], "malformed"),
        (RuntimeError("NOPERM no"), "NOPERM"),
    ],
)
def test_malformed_layout(reply: Any, message: str) -> None:
    """An error, or a malformed reply, is a ValueError."""
    with pytest.raises(ValueError, match=message):
        parse_cluster_slots(reply, ASKED)


NO_SLOTS = Layout((), (), ())
FEW_SLOTS = Layout((0, 20), (9, 29), (("a", 1), ("b", 1)))
AS_MANY_SLOTS = Layout((0,), (19,), (("c", 1),))
ALL_SLOTS = Layout((0,), (SLOTS - 1,), (("d", 1),))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (None, None, None),
        (None, NO_SLOTS, None),
        (NO_SLOTS, None, None),
        (NO_SLOTS, NO_SLOTS, None),
        (None, FEW_SLOTS, FEW_SLOTS),
        (FEW_SLOTS, None, FEW_SLOTS),
        (FEW_SLOTS, NO_SLOTS, FEW_SLOTS),
        (NO_SLOTS, FEW_SLOTS, FEW_SLOTS),
        (FEW_SLOTS, ALL_SLOTS, ALL_SLOTS),
        (ALL_SLOTS, FEW_SLOTS, ALL_SLOTS),
        (FEW_SLOTS, AS_MANY_SLOTS, FEW_SLOTS),
        (AS_MANY_SLOTS, FEW_SLOTS, AS_MANY_SLOTS),
    ],
)
def test_fuller_layout(one: Layout | None, other: Layout | None, expected: Layout | None) -> None:
    """The layout that knows more slots is chosen, at a tie the first; one without slots never."""
    assert fuller_layout(one, other) == expected


@pytest.mark.parametrize(
    ("error", "redirect"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirect(("127.0.0.1", 6381), once=False)),
        ("ASK 3999 ::1:6381", Redirect(("::1", 6381), once=True)),
        ("MOVED 1 :6381", Redirect(("asked", 6381), once=False)),
        ("MOVED to Mars", None),
        ("CLUSTERDOWN Hash slot not served", None),
    ],
)
def test_redirect_of(error: str, redirect: Redirect | None) -> None:
    """MOVED changes the layout, ASK holds for one command; any other error is no redirect."""
    assert redirect_of(error, ASKED) == redirect
