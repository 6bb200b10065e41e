"""The files of the JavaScript client and of the web page."""

import gzip
import re
from dataclasses import replace

import pytest
from tests.processes import ROOT
from tests.service.conftest import Poller, polling

from jobstatus_service.http.assets import read_assets
from jobstatus_service.settings import ServiceSettings

WEB = ROOT / "service" / "jobstatus_web"
MODULES = ("client.js", "element.js", "react.js", "page/page.js", "page/dom.js", "schema/schema.js")


@pytest.mark.parametrize("name", MODULES)
async def test_module(client: Poller, name: str) -> None:
    """A module is at an address that stays the same, which browsers revalidate, without a key."""
    del client.headers["Authorization"]
    response = await client.get(f"/assets/{name}")
    assert response.status_code == 200
    assert response.content == (WEB / name).read_bytes()
    assert response.headers["content-type"] == "text/javascript; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers.get_list("access-control-allow-origin") == ["*"]
    etag = response.headers["etag"]
    again = await client.get(f"/assets/{name}", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


async def test_compression(client: Poller) -> None:
    """A client that accepts gzip gets it, under another ETag."""
    bare = await client.get("/assets/client.js", headers={"Accept-Encoding": "identity"})
    packed = await client.get("/assets/client.js", headers={"Accept-Encoding": "br, gzip"})
    assert packed.content == bare.content  # httpx has decompressed it
    assert packed.headers["content-encoding"] == "gzip"
    assert bare.headers.get("content-encoding") is None
    assert packed.headers["etag"] != bare.headers["etag"]
    assert packed.headers["vary"] == bare.headers["vary"] == "Accept-Encoding"
    size = len(gzip.compress(bare.content, 9))
    assert abs(int(packed.headers.get("content-length", size)) - size) < 50


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [
        *(("gzip", True), ("GZIP", True), ("br;q=1.0, gzip;q=0.5", True), ("gzip; q=0.001", True)),
        *(("gzip;q=0", False), ("identity, gzip; q=0.0", False), ("x-gzip", False), ("", False)),
    ],
)
async def test_negotiation(client: Poller, accepted: str, is_compressed: bool) -> None:
    """Gzip is sent only to who accepts it."""
    response = await client.get("/assets/react.js", headers={"Accept-Encoding": accepted})
    assert (response.headers.get("content-encoding") == "gzip") == is_compressed


async def test_hash(client: Poller) -> None:
    """The page names modules by the hash of all files, under which they are kept for a year."""
    page = await client.get("/")
    addresses = re.findall(r'(?:src|href)="(assets/[^"]+)"', page.text)
    assert len(addresses) >= 8
    assert {address.split("/")[1] for address in addresses} == {read_assets().hash}
    for address in addresses:
        response = await client.get(f"/{address}")
        assert response.status_code == 200
        assert response.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_other_hash(client: Poller) -> None:
    """The hash of another version has this version's file, which is not kept."""
    response = await client.get("/assets/0123456789ab/client.js")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        *("none.js", "", "package.json", "__init__.py", "page/index.html", "README.md"),
        *("../jobstatus_service/server.py", "%2e%2e/jobstatus_service/server.py", "//etc/passwd"),
        *("0123456789ab/none.js", "a/b/client.js", "page"),
    ],
)
async def test_no_such_file(client: Poller, path: str) -> None:
    """Nothing else is served."""
    response = await client.get(f"/assets/{path}")
    assert (response.status_code, list(response.json())) == (404, ["detail"])


@pytest.mark.parametrize("path", ["/", "/schema", "/schema/openapi.json", "/schema/none"])
async def test_page_headers(client: Poller, path: str) -> None:
    """Pages run only the service's own scripts, are in nobody's frame, and send no referrer."""
    response = await client.get(path)
    policy = response.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["/", "/schema"])
async def test_no_inline_script(client: Poller, path: str) -> None:
    """A page has no script or style of its own, and names no other host."""
    text = (await client.get(path)).text
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on\w+=", text) == []
    assert re.findall(r"(?:src|href)=\"(?:https?:)?//", text) == []


async def test_page_is_off(service_settings: ServiceSettings) -> None:
    """Without the page the client is still served."""
    async with polling(replace(service_settings, ui=False)) as client:
        assert (await client.get("/")).status_code == 404
        assert (await client.get("/assets/client.js")).status_code == 200


def test_no_other_host() -> None:
    """No file loads anything from another host."""
    for path in WEB.rglob("*"):
        if path.suffix in {".js", ".css", ".html", ".svg"}:
            urls = re.findall(r"https?://[^\s\"'`)]+", path.read_text(encoding="utf-8"))
            known = ("https://jobs.example", "https://html.spec.whatwg.org", "http://www.w3.org")
            assert [url for url in urls if not url.startswith(known)] == []
