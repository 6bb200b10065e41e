"""API keys."""

import logging
from pathlib import Path

import pytest

from jobstatus.errors import SettingsError
from jobstatus_service.keys import ApiKey, ApiKeys, digest, parse_keys
from jobstatus_service.settings import ServiceSettings


def keys(path: Path | None = None, **settings: object) -> ApiKeys:
    return ApiKeys(ServiceSettings(api_keys_file=path and str(path), **settings))  # type: ignore[arg-type]


def test_file_is_read() -> None:
    """Names, hashes and tenants are read; comments and empty lines are not."""
    text = f"# ours\nweb {digest('a')}\n\nmobile {digest('b').upper()} tenant2  # theirs\n"
    assert parse_keys(text, "job") == {
        digest("a"): ApiKey("web", "job"),
        digest("b"): ApiKey("mobile", "tenant2"),
    }


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("web", "line 2: expected NAME SHA256HEX"),
        ("web abc", "line 2: the second word of web is no SHA-256"),
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
    assert keys(no_auth=True).find(None) == ApiKey("anybody", "job")


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
    assert known.find("Bearer new!") == ApiKey("web", "job")
    with caplog.at_level(logging.ERROR):
        file.write_text("web nonsense\n")
        known.refresh()
    assert "the last good keys stay: line 1" in caplog.text
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
