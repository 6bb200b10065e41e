"""API keys."""

import asyncio
import logging
import os
import threading
from pathlib import Path

import pytest

from jobstatus.errors import SettingsError
from jobstatus_service.http import api_keys as keys_module
from jobstatus_service.http.api_keys import ApiKey, ApiKeys, digest, parse_keys
from jobstatus_service.settings import ServiceSettings


def keys(path: Path | None = None, **settings: object) -> ApiKeys:
    return ApiKeys(ServiceSettings(api_keys_file=path and str(path), **settings))  # type: ignore[arg-type]


def test_file_is_read() -> None:
    """Names, hashes and tenants are read; comments and empty lines are not."""
    text = f"# ours\nweb {digest('a')}\n\nmobile {digest('b').upper()} tenant2  # theirs\n"
    assert parse_keys(text, "job") == {
        digest("a"): ApiKey("web", "job", digest("a")),
        digest("b"): ApiKey("mobile", "tenant2", digest("b")),
    }


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("web", "line 2: expected NAME SHA256HEX"),
        ("web abc", "line 2: the second word of web is not a SHA-256"),
        (f"web {'0' * 64} a b", "line 2: expected NAME"),
        (f"web {'0' * 64} {{a}}", "line 2: must be one word"),
        (f"x {'0' * 64}\ny {'0' * 64}", "line 3: the same key as that of x"),
    ],
)
def test_broken_line_is_named(line: str, fault: str) -> None:
    """A line that can't be read is named."""
    with pytest.raises(ValueError, match=fault):
        parse_keys(f"# first\n{line}\n", "job")


def test_no_key_is_refused() -> None:
    """Without any key the service doesn't start, unless that is wanted."""
    with pytest.raises(SettingsError, match="no API key"):
        keys()
    assert keys(no_auth=True).find(None) == ApiKey("anonymous", "job")


def test_broken_file_is_refused(tmp_path: Path) -> None:
    """A broken or missing file stops the service at start, and the line is named."""
    file = tmp_path / "keys"
    with pytest.raises(SettingsError, match=r"JOBSTATUS_API_KEYS_FILE.*keys"):
        keys(file)
    file.write_text("web\n")
    with pytest.raises(SettingsError, match="line 1"):
        keys(file)


def test_file_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A changed file counts at the next look; a broken one leaves the last good keys."""
    file = tmp_path / "keys"
    file.write_text(f"web {digest('old')}\n")
    known = keys(file, api_keys=("plain",))
    assert known.find("old")
    file.write_text(f"web {digest('new!')}\nother {digest('b')}\n")
    known.refresh()
    assert known.find("old") is None
    assert known.find("Bearer new!") == ApiKey("web", "job", digest("new!"))
    with caplog.at_level(logging.ERROR):
        file.write_text("web nonsense\n")
        known.refresh()
    assert "the last valid keys stay: line 1" in caplog.text
    assert known.find("new!")
    file.unlink()
    known.refresh()
    assert known.find("new!")
    assert known.find("plain")
    file.write_text("# nothing\n" * 5)
    known.refresh()
    assert known.find("plain")


@pytest.mark.parametrize(
    "header", [None, "", " ", "Bearer ", "Bearer", "b", "Basic a", "A", "\udcff"]
)
def test_wrong_header(header: str | None) -> None:
    """Nothing but the key itself is the key."""
    assert keys(api_keys=("a",)).find(header) is None


def test_byte_order_mark(tmp_path: Path) -> None:
    """A file that an editor has begun with a byte order mark is read like any other."""
    file = tmp_path / "keys"
    file.write_text(f"\ufeff# ours\nweb {digest('a')}\n", encoding="utf-8")
    assert keys(file).find("a")
    file.write_text(f"\ufeffweb {digest('a')}\n", encoding="utf-8")
    known = keys(file).find("a")
    assert known is not None
    assert known.name == "web"


def test_file_that_is_none(tmp_path: Path) -> None:
    """A FIFO, a device or a folder is refused at once; so is a file that is too large."""
    fifo, large = tmp_path / "fifo", tmp_path / "large"
    os.mkfifo(fifo)
    with large.open("wb") as file:
        file.truncate(5 * 2**20)
    for path in (fifo, Path("/dev/zero"), tmp_path):
        with pytest.raises(SettingsError, match="JOBSTATUS_API_KEYS_FILE"):
            keys(path)
    with pytest.raises(SettingsError, match="larger than 4 MiB"):
        keys(large)


async def test_reload_does_not_block_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key file that has changed is read in another thread; requests go on meanwhile."""
    file = tmp_path / "keys"
    file.write_text(f"web {digest('a')}\n")
    known = keys(file)
    began_at, may_end = threading.Event(), threading.Event()

    def parse(text: str, default_prefix: str) -> dict[str, ApiKey]:
        began_at.set()
        assert may_end.wait(10)
        return parse_keys(text, default_prefix)

    monkeypatch.setattr(keys_module, "parse_keys", parse)
    watching = asyncio.create_task(known.watch())
    file.write_text(f"web {digest('a')}\nother {digest('b')}\n")
    async with asyncio.timeout(10):
        while not began_at.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)
        assert known.find("a")
        assert known.find("b") is None
        may_end.set()
        while known.find("b") is None:  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)
    watching.cancel()


def test_long_headers_are_not_remembered(tmp_path: Path) -> None:
    """A header that is padded to be long is understood, and not kept."""
    known = keys(api_keys=("a",))
    assert known.find("Bearer" + " " * 2_000 + "a")
    assert not known.recent_headers
