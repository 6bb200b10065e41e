"""A web site on an origin of its own, as that of an application that shows its jobs."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.processes import free_port

Answer = Callable[[dict[str, list[str]]], str]
"""Takes the parameters of the query; returns the body."""

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript",
    "json": "application/json",
}


class Site:
    """Pages and functions by their paths.

    Attributes:
        url: The origin. Its host differs from the service's, too.
        pages: The body at each path, or a function that returns it.
        requests: The paths of the requests so far, with their queries.
        headers: Further headers of all responses.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        self.pages: dict[str, str | Answer] = {}
        self.requests: list[str] = []
        self.headers: dict[str, str] = {}

    def page(self, script: str, body: str = "", path: str = "/") -> str:
        """Add a page with a module; return its address."""
        self.pages[path] = (
            "<!doctype html><html lang=en><meta charset=utf-8><title>Test</title>"
            f"<link rel=icon href=data:,><body>{body}<script type=module>{script}</script>"
        )
        return self.url + path

    @contextlib.contextmanager
    def running(self) -> Iterator["Site"]:
        """Serve while the block runs."""
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """Answer with the page at the path."""
                site.requests.append(self.path)
                url = urlsplit(self.path)
                page = site.pages.get(url.path)
                body = page(parse_qs(url.query)) if callable(page) else page or ""
                self.send_response(200 if page is not None else 404)
                ending = url.path.rpartition(".")[2] if "." in url.path else "html"
                self.send_header("Content-Type", _MEDIA_TYPES.get(ending, "text/html"))
                for name, value in site.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # the page waits no longer
                    self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
