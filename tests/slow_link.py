"""A slow link: passes bytes on between clients and a server, only so many a second."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator


class SlowLink:
    """A TCP proxy in threads of its own.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        rate: Bytes a second towards the server, for all connections together; 0: no limit.
        passed: Bytes that were passed on towards the server.
    """

    _CHUNK = 4_096

    def __init__(self, port: int, rate: float) -> None:
        self.rate = rate
        self.passed = 0
        self._target = port
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()

    @contextlib.contextmanager
    def running(self) -> Iterator["SlowLink"]:
        """While the block runs."""
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listener.close()
            self.cut()

    def cut(self) -> None:
        """Cut every connection."""
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:  # nobody listens there now
                    client.close()
                    continue
                self._sockets |= {client, server}
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_limited: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(self._CHUNK):
                if is_limited:
                    self._wait(len(data))
                target.sendall(data)
        for each in (source, target):
            self._sockets.discard(each)
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _wait(self, size: int) -> None:
        with self._lock:
            self.passed += size
            if not self.rate:
                return
            self._free_at = max(self._free_at, time.monotonic()) + size / self.rate
            free_at = self._free_at
        time.sleep(max(0.0, free_at - time.monotonic()))
