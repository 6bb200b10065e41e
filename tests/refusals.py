"""Configure a Redis server so that it refuses writes."""

from collections.abc import Callable
from typing import Any


def require_replica(admin: Any, is_on: bool) -> None:
    """Refuse writes because a replica is missing (`min-replicas-to-write`)."""
    admin.config_set("min-replicas-to-write", int(is_on))


def fill_memory(admin: Any, is_on: bool) -> None:
    """Refuse writes because the memory is full."""
    admin.config_set("maxmemory", int(is_on))


def deny_command(admin: Any, is_on: bool) -> None:
    """Deny the user `writer` the command that writes status."""
    admin.execute_command("ACL", "SETUSER", "writer", "-evalsha" if is_on else "+evalsha")


def make_replica(admin: Any, is_on: bool) -> None:
    """Make the server a replica, which refuses all writes."""
    admin.replicaof("127.0.0.1", "1") if is_on else admin.replicaof("NO", "ONE")


FAULTS: dict[str, Callable[[Any, bool], None]] = {
    "NOREPLICAS": require_replica,
    "OOM": fill_memory,
    "NOPERM": deny_command,
    "READONLY": make_replica,
}
"""By the error code of the refusals: a function that turns them on or off."""
