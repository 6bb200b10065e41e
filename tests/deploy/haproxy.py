"""HAProxy as a load balancer of several replicas of the service, with health checks."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.deploy.tools import tool
from tests.processes import free_port
from tests.waiting import eventually

CHECK_INTERVAL_MS = 200
"""The time between two health checks; after two failures a replica receives no requests."""

_CONFIG = """\
global
    maxconn 4000
    stats socket {folder}/socket
defaults
    mode {mode}
    retries 0
    timeout connect 2s
    timeout client 90s
    timeout server 90s
frontend all
    bind 127.0.0.1:{port}
    default_backend servers
backend servers
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter {check}ms fall 2 rise 1
{servers}
"""


class HAProxy:
    """A load balancer of the replicas at these ports.

    Attributes:
        url: The URL for clients.
    """

    def __init__(self, folder: Path, mode: str, ports: Sequence[int]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder
        lines = (f"    server s{each} 127.0.0.1:{each}" for each in ports)
        self._config = folder / "haproxy.cfg"
        self._config.write_text(
            _CONFIG.format(
                folder=folder,
                mode=mode,
                port=port,
                check=CHECK_INTERVAL_MS,
                servers="\n".join(lines),
            )
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run HAProxy while the block runs."""
        with (self._folder / "haproxy.log").open("wb") as log:
            process = subprocess.Popen(
                [tool("haproxy"), "-db", "-f", str(self._config)], stdout=log, stderr=log
            )
        try:
            eventually((self._folder / "socket").exists)
            yield
        finally:
            process.terminate()
            process.wait()

    def up(self) -> set[int]:
        """Return the ports of the replicas that it sends requests to."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self._folder / "socket"))
            admin.sendall(b"show stat\n")
            text = b"".join(iter(lambda: admin.recv(65_536), b"")).decode()
        rows = [line.split(",") for line in text.splitlines() if line]
        status = rows[0].index("status")
        return {
            int(row[1][1:])
            for row in rows[1:]
            if row[0] == "servers" and row[1] != "BACKEND" and row[status].startswith("UP")
        }
