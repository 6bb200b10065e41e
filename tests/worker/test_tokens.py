"""Signing job tokens."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest

from jobstatus import SettingsError, job_uuid, tokens

PRIVATE, PUBLIC = tokens.new_key_pair("web")


def claims_of(token: str) -> dict[str, Any]:
    """Verify a token's signature, and return its claims."""
    key = tokens.public_key(PUBLIC)
    claims: dict[str, Any] = jwt.decode(token, key, algorithms=["EdDSA"])
    return claims


def test_claims() -> None:
    """A token names its key, its jobs in the order given and once each, and its lifetime."""
    job = uuid4()
    now = int(time.time())
    claims = claims_of(tokens.sign([job.hex, "nightly", job], key=PRIVATE))
    assert claims["jobs"] == [str(job), str(job_uuid("nightly"))]
    assert claims["iss"] == "web"
    assert now <= claims["iat"] <= now + 5
    assert claims["exp"] - claims["iat"] == 900
    assert "scope" not in claims


@pytest.mark.parametrize("expires", [60, 60.0, timedelta(minutes=1)])
def test_lifetime(expires: timedelta | float) -> None:
    """The lifetime is a number of seconds or a timedelta."""
    claims = claims_of(tokens.sign("a", expires=expires, key=PRIVATE))
    assert claims["exp"] - claims["iat"] in {60, 61}


@pytest.mark.parametrize(
    ("rights", "scope"),
    [
        ({"include_result": True}, "result"),
        ({"include_errors": True}, "errors"),
        ({"include_result": True, "include_errors": True}, "result errors"),
    ],
)
def test_scope(rights: dict[str, bool], scope: str) -> None:
    """The rights beyond the status are in the claim `scope`."""
    assert claims_of(tokens.sign("a", **rights, key=PRIVATE))["scope"] == scope


@pytest.mark.parametrize(
    "arguments",
    [
        {"job_ids": []},
        {"job_ids": [str(n) for n in range(101)]},
        {"job_ids": ""},
        {"job_ids": ["a", ""]},
        {"job_ids": "a", "expires": 0},
        {"job_ids": "a", "expires": -1},
        {"job_ids": "a", "expires": float("nan")},
        {"job_ids": "a", "expires": timedelta(hours=24, seconds=1)},
    ],
)
def test_invalid_arguments(arguments: dict[str, Any]) -> None:
    """A token names 1 to 100 jobs, and is valid for at most 24 hours."""
    with pytest.raises(ValueError, match="a token"):
        tokens.sign(**arguments, key=PRIVATE)


def test_hundred_jobs() -> None:
    """A token may name 100 jobs, and is then as long as the service allows a header to be."""
    token = tokens.sign([uuid4() for _ in range(100)], key=PRIVATE)
    assert len(claims_of(token)["jobs"]) == 100
    assert len(token) < 5_900


def test_key_from_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The private key is in a variable or a file, which is read for each token."""
    monkeypatch.setenv("JOBSTATUS_TOKEN_KEY", PRIVATE)
    assert claims_of(tokens.sign("a"))["iss"] == "web"
    monkeypatch.delenv("JOBSTATUS_TOKEN_KEY")
    file = tmp_path / "key"
    file.write_text(PRIVATE + "\n")
    monkeypatch.setenv("JOBSTATUS_TOKEN_KEY_FILE", str(file))
    assert claims_of(tokens.sign("a"))["iss"] == "web"
    other, _ = tokens.new_key_pair("other")
    file.write_text(other)
    token = tokens.sign("a")
    assert jwt.decode(token, options={"verify_signature": False})["iss"] == "other"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "no key to sign"),
        ({"JOBSTATUS_TOKEN_KEY": "a", "JOBSTATUS_TOKEN_KEY_FILE": "b"}, "both set"),
        ({"JOBSTATUS_TOKEN_KEY_FILE": "missing"}, "readable file"),
        ({"JOBSTATUS_TOKEN_KEY": "secret"}, "must be NAME:ed25519-private:KEY"),
        ({"JOBSTATUS_TOKEN_KEY": "web:ed25519-private:secret"}, "must be NAME:"),
        ({"JOBSTATUS_TOKEN_KEY": ":ed25519-private:" + 43 * "A"}, "must be NAME:"),
    ],
)
def test_malformed_key(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    """A missing or malformed private key is an error that does not show it."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message) as error:
        tokens.sign("a")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["", "two words", "a#b", "a\n"])
def test_invalid_name(name: str) -> None:
    """The name of a key is one word, since it is the first word of a line."""
    with pytest.raises(ValueError, match="one word"):
        tokens.new_key_pair(name)


@pytest.mark.parametrize("fault", ["", "ed25519:", "too short", "too long", "ed25519:" + "*" * 43])
def test_malformed_public_key(fault: str) -> None:
    """A malformed public key is an error."""
    text = {"too short": PUBLIC[:-2], "too long": PUBLIC + "AA"}.get(fault, fault)
    with pytest.raises(ValueError, match=r"begins with|bytes|base64url"):
        tokens.public_key(text)
