"""A TCP proxy with limited bandwidth."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator


class SlowLink:
    """A TCP proxy that runs in its own threads and forwards to a port of 127.0.0.1.

    Attributes:
        port: The port of 127.0.0.1 where it listens.
        rate: Bytes per second towards the server, for all connections together; 0: no limit.
        passed: Bytes that it has forwarded towards the server.
    """

    _CHUNK_BYTES = 4_096

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
        """Accept connections while the block runs; then close them."""
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listener.close()
            self.cut()

    def cut(self) -> None:
        """Close every connection."""
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:  # the server is not running
                    client.close()
                    continue
                self._sockets |= {client, server}
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, is_limited: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(self._CHUNK_BYTES):
                if is_limited:
                    self._limit(len(data))
                target.sendall(data)
        for each in (source, target):
            self._sockets.discard(each)
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _limit(self, size: int) -> None:
        """Sleep until `size` more bytes may be sent."""
        with self._lock:
            self.passed += size
            if not self.rate:
                return
            self._free_at = max(self._free_at, time.monotonic()) + size / self.rate
            free_at = self._free_at
        time.sleep(max(0.0, free_at - time.monotonic()))
