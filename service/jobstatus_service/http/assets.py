"""The files of `jobstatus_web`: the JavaScript client for web pages, and the page at `/`.

Each file has two addresses. `/assets/client.js` has the current content, and browsers revalidate
it. `/assets/HASH/client.js` has the content of one version, and browsers cache it for a year. HASH
is computed from all files, so that modules import each other by relative paths under either
address. While replicas of two versions serve, an address with the hash of the other version has
this version's content, and is revalidated.
"""

import functools
import gzip
import importlib.resources
from collections.abc import Iterator
from hashlib import blake2b
from importlib.resources.abc import Traversable
from typing import Any, Final, NamedTuple

from litestar import get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive, Scope, Send

from jobstatus_service.http.cors import ALLOW_ORIGIN
from jobstatus_service.lookup.representation import etag_matches
from jobstatus_service.lookup.response import END_OF_BODY, Header

_MEDIA_TYPES: Final = {
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".html": b"text/html; charset=utf-8",
}
"""The files that are served, by the extensions of their names."""

_ASSETS_MARK: Final = b"ASSETS"
"""The placeholder of `assets/HASH` in HTML files."""

_IMMUTABLE: Final[Header] = (b"cache-control", b"public, max-age=31536000, immutable")
_REVALIDATED: Final[Header] = (b"cache-control", b"no-cache")

_NO_SNIFFING: Final[Header] = (b"x-content-type-options", b"nosniff")

_FILE_HEADERS: Final[tuple[Header, ...]] = (
    _NO_SNIFFING,
    (b"vary", b"Accept-Encoding"),
    # Pages of any origin may run the client. What it reads is another matter, see `cors`.
    (ALLOW_ORIGIN, b"*"),
    (b"cross-origin-resource-policy", b"cross-origin"),
)

_CONTENT_SECURITY_POLICY: Final = (
    *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'"),
    *("connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    *("require-trusted-types-for 'script'", "trusted-types 'none'"),
)

PAGE_HEADERS: Final[tuple[Header, ...]] = (
    _NO_SNIFFING,
    (b"vary", b"Accept-Encoding"),
    (b"content-security-policy", "; ".join(_CONTENT_SECURITY_POLICY).encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
"""The headers of HTML pages: they run only the service's own scripts, and can't be framed."""


class _File(NamedTuple):
    """A file in the two forms in which it is sent.

    Attributes:
        media_type: The header `Content-Type`.
        plain: Its content.
        compressed: The same with gzip.
        etag: The validator of the plain form.
    """

    media_type: bytes
    plain: bytes
    compressed: bytes
    etag: bytes


class Assets:
    """The files, read once.

    Attributes:
        hash: The hash of all files, as addresses have it.
    """

    def __init__(self) -> None:
        contents = dict(_walk(importlib.resources.files("jobstatus_web")))
        digest = blake2b(digest_size=6)
        for path, content in sorted(contents.items()):
            digest.update(path.encode() + b"\0" + content + b"\0")
        self.hash = digest.hexdigest()
        self._files = {
            path: _file(path, content.replace(_ASSETS_MARK, f"assets/{self.hash}".encode()))
            for path, content in contents.items()
        }

    def respond(self, path: str) -> ASGIApp:
        """Return the ASGI application that sends a file.

        Args:
            path: What follows `/assets/` in the request's path.

        Raises:
            NotFoundException: There is no such file.
        """
        name, is_immutable = path, False
        if path not in self._files:
            hash_, _, name = path.partition("/")
            is_immutable = hash_ == self.hash
        if name not in self._files or name.endswith(".html"):
            raise NotFoundException("There is no such file.")
        headers = (_IMMUTABLE if is_immutable else _REVALIDATED, *_FILE_HEADERS)
        return _sending(self._files[name], headers)

    def respond_page(self) -> ASGIApp:
        """Return the ASGI application that sends the web page."""
        return _sending(self._files["page/index.html"], (_REVALIDATED, *PAGE_HEADERS))

    @property
    def schema_page(self) -> bytes:
        """The page that documents the API."""
        return self._files["schema/index.html"].plain


@functools.cache
def read_assets() -> Assets:
    """Return the files, which are read by the first call."""
    return Assets()


def _walk(folder: Traversable, parent: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        path = parent + entry.name
        if entry.is_dir() and entry.name in {"page", "schema"}:
            yield from _walk(entry, f"{path}/")
        elif entry.is_file() and path[path.rfind(".") :] in _MEDIA_TYPES:
            yield path, entry.read_bytes()


def _file(path: str, content: bytes) -> _File:
    etag = blake2b(content, digest_size=12).hexdigest().encode()
    media_type = _MEDIA_TYPES[path[path.rfind(".") :]]
    return _File(media_type, content, gzip.compress(content, 9, mtime=0), etag)


def _accepts_gzip(accept_encoding: bytes) -> bool:
    """Return whether the header `Accept-Encoding` accepts gzip (RFC 9110, 12.5.3)."""
    for element in accept_encoding.lower().split(b","):
        coding, _, weight = element.replace(b" ", b"").partition(b";q=")
        if coding == b"gzip":
            return weight.strip(b"0.") != b"" or weight == b""
    return False


def _sending(file: _File, headers: tuple[Header, ...]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        request_headers = dict(scope["headers"])
        is_compressed = _accepts_gzip(request_headers.get(b"accept-encoding", b""))
        etag = b'"%b%b"' % (file.etag, b"-gzip" if is_compressed else b"")
        all_headers = [(b"etag", etag), *headers]
        if etag_matches(request_headers.get(b"if-none-match", b""), etag):
            await _send(send, 304, all_headers, b"")
            return
        all_headers.append((b"content-type", file.media_type))
        if is_compressed:
            all_headers.append((b"content-encoding", b"gzip"))
        await _send(send, 200, all_headers, file.compressed if is_compressed else file.plain)

    return app


async def _send(send: Send, status: int, headers: list[Header], body: bytes) -> None:
    start: Any = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    if not body:
        await send(END_OF_BODY)
        return
    await send({"type": "http.response.body", "body": body, "more_body": False})


@get("/assets/{path:path}", include_in_schema=False)
async def get_asset(path: FromPath[str]) -> ASGIApp:
    """Get a file of the JavaScript client, or of the page."""
    return read_assets().respond(path.removeprefix("/"))


@get("/", include_in_schema=False)
async def get_page() -> ASGIApp:
    """Get the live page."""
    return read_assets().respond_page()
