"""API keys: the key file, its reloads, and which requests are authenticated."""

import asyncio
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from tests.service.conftest import JOB, URL, Poller, Put, polling, until

from jobstatus.errors import SettingsError
from jobstatus.keys import record_key
from jobstatus_service.http import api_keys as api_keys_module
from jobstatus_service.http.api_keys import ApiKeys, digest, parse_keys
from jobstatus_service.http.client import Client
from jobstatus_service.settings import ServiceSettings


def keys(path: Path | None = None, **settings: object) -> ApiKeys:
    return ApiKeys(ServiceSettings(api_keys_file=path and str(path), **settings))  # type: ignore[arg-type]


def test_parse_keys() -> None:
    """Names, hashes and tenants are parsed; comments and empty lines are skipped."""
    text = f"# ours\nweb {digest('a')}\n\nmobile {digest('b').upper()} tenant2  # theirs\n"
    assert parse_keys(text, "job") == {
        digest("a"): Client("web", "job", digest("a")),
        digest("b"): Client("mobile", "tenant2", digest("b")),
    }


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("web", "line 2: expected NAME SHA256HEX"),
        ("web abc", "line 2: the SHA-256 of web must be 64"),
        (f"web {'0' * 64} a b", "line 2: expected NAME"),
        (f"web {'0' * 64} {{a}}", "line 2: must be one word"),
        (f"x {'0' * 64}\ny {'0' * 64}", "line 3: the same key as that of x"),
    ],
)
def test_malformed_line(line: str, fault: str) -> None:
    """The error of a malformed line names the line."""
    with pytest.raises(ValueError, match=fault):
        parse_keys(f"# first\n{line}\n", "job")


def test_raw_key_in_the_file() -> None:
    """The error of a line with a key instead of its hash doesn't contain the key."""
    with pytest.raises(ValueError, match="line 1") as raised:
        parse_keys("web js_secret\n", "job")
    assert "js_secret" not in str(raised.value)


@pytest.mark.parametrize("prefix", ["job", "tenant2"])
def test_start_of_record_keys(prefix: str) -> None:
    """The fast path composes the same record key as `record_key`."""
    assert Client("web", prefix).key_start + str(JOB) == record_key(prefix, str(JOB))


def test_no_key_at_all() -> None:
    """Without any key the service doesn't start, unless no key is required."""
    with pytest.raises(SettingsError, match="no API key"):
        keys()
    assert keys(no_auth=True).find(None) == Client("anonymous", "job")


@pytest.mark.parametrize(
    ("content", "fault"), [(None, r"JOBSTATUS_API_KEYS_FILE.*keys"), ("web\n", "line 1")]
)
def test_broken_file_at_start(tmp_path: Path, content: str | None, fault: str) -> None:
    """With a missing or malformed key file the service doesn't start."""
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=fault):
        keys(file)


def test_changed_file(tmp_path: Path) -> None:
    """The keys of a changed file replace those of the last one."""
    file = tmp_path / "keys"
    file.write_text(f"web {digest('old')}\n")
    known = keys(file, api_keys=("plain",))
    assert known.find("old")
    file.write_text(f"web {digest('new!')}\nother {digest('b')}\n")
    known.refresh()
    assert known.find("old") is None
    assert known.find("Bearer new!") == Client("web", "job", digest("new!"))
    file.write_text("# nothing\n" * 5)
    known.refresh()
    assert known.find("new!") is None
    assert known.find("plain")


def test_broken_file_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While a changed file is malformed, missing or without a key, the last valid keys stay."""
    file = tmp_path / "keys"
    file.write_text(f"web {digest('a')}\n")
    known = keys(file)
    with caplog.at_level(logging.ERROR):
        file.write_text("web nonsense\n")
        known.refresh()
        assert "the last valid keys stay: line 1" in caplog.text
        assert known.find("a")
        file.write_text("# nothing\n" * 5)
        known.refresh()
        assert "the last valid keys stay: it has no key" in caplog.text
        assert known.find("a")
        file.unlink()
        known.refresh()
    assert known.find("a")


@pytest.mark.parametrize(
    "header", [None, "", " ", "Bearer ", "Bearer", "b", "Basic a", "A", "\udcff"]
)
def test_header_without_a_key(header: str | None) -> None:
    """Only the exact key is found."""
    assert keys(api_keys=("a",)).find(header) is None


@pytest.mark.parametrize("first_line", ["# ours\n", ""])
def test_byte_order_mark(tmp_path: Path, first_line: str) -> None:
    """A byte order mark, which some editors write, is ignored."""
    file = tmp_path / "keys"
    file.write_text(f"\ufeff{first_line}web {digest('a')}\n", encoding="utf-8")
    known = keys(file).find("a")
    assert known is not None
    assert known.name == "web"


def test_file_that_is_not_regular(tmp_path: Path) -> None:
    """A FIFO, a device or a folder is rejected at once."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/zero"), tmp_path):
        with pytest.raises(SettingsError, match="JOBSTATUS_API_KEYS_FILE"):
            keys(path)


def test_large_file(tmp_path: Path) -> None:
    """A file that is too large is rejected without being read."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(5 * 2**20)
    with pytest.raises(SettingsError, match="larger than 4 MiB"):
        keys(large)


async def test_reload_does_not_block_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed key file is read in another thread; requests are authenticated meanwhile."""
    file = tmp_path / "keys"
    file.write_text(f"web {digest('a')}\n")
    known = keys(file)
    began, may_end = threading.Event(), threading.Event()

    def parse(text: str, default_prefix: str) -> dict[str, Client]:
        began.set()
        assert may_end.wait(10)
        return parse_keys(text, default_prefix)

    monkeypatch.setattr(api_keys_module, "parse_keys", parse)
    watching = asyncio.create_task(known.watch())
    file.write_text(f"web {digest('a')}\nother {digest('b')}\n")
    await until(began.is_set)
    assert known.find("a")
    assert known.find("b") is None
    may_end.set()
    await until(lambda: known.find("b") is not None)
    watching.cancel()


def test_long_header_is_not_remembered() -> None:
    """A header that is padded with spaces is accepted, but takes no memory."""
    known = keys(api_keys=("a",))
    assert known.find("Bearer" + " " * 6_000 + "a")
    assert not known.recent_headers


@pytest.mark.parametrize("header", [None, "", "wrong", "Bearer wrong", "Bearer", "Basic secret"])
@pytest.mark.parametrize("url", [URL, "/api/jobs/not-a-uuid"])
async def test_rejected_request(client: Poller, header: str | None, url: str) -> None:
    """A request without a valid key is a 401, whether its id is valid or not."""
    headers = {} if header is None else {"Authorization": header}
    del client.headers["Authorization"]
    response = await client.get(url, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert list(response.json()) == ["detail"]
    assert client.app.metrics.auth_failures == 1


@pytest.mark.parametrize("header", ["secret", "Bearer secret", "bearer secret"])
async def test_accepted_request(client: Poller, header: str) -> None:
    """A key is accepted by itself or as a bearer token."""
    response = await client.get(URL, headers={"Authorization": header})
    assert response.status_code == 200


async def test_key_that_is_not_ascii(service_settings: ServiceSettings) -> None:
    """A key of other letters is compared as UTF-8."""
    settings = replace(service_settings, api_keys=("schlüssel",))
    async with polling(settings) as client:
        response = await client.get(URL, headers={b"Authorization": "schlüssel".encode()})
        assert response.status_code == 200


async def test_no_auth(service_settings: ServiceSettings) -> None:
    """Where no key is required, a request without one is accepted."""
    async with polling(replace(service_settings, api_keys=(), no_auth=True), "") as client:
        assert (await client.get(URL)).status_code == 200


async def test_tenants(service_settings: ServiceSettings, put: Put, tmp_path: Path) -> None:
    """A key sees its own tenant's jobs; another tenant's jobs look as if they didn't exist."""
    file = tmp_path / "keys"
    file.write_text(f"ours {digest('secret')}\ntheirs {digest('k2')} tenant2\n")
    put(JOB, prefix="tenant2")
    async with polling(replace(service_settings, api_keys=(), api_keys_file=str(file))) as client:
        theirs = await client.get(URL, headers={"Authorization": "k2"})
        ours = await client.get(URL)
        nonexistent = await client.get(f"/api/jobs/{uuid4()}")
    assert theirs.json()["state"] == "in_progress"
    assert ours.json()["state"] == "unknown"
    assert ours.json()["reason"] == nonexistent.json()["reason"]
