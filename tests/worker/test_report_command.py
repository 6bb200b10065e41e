"""The console script `jobstatus-report`."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.processes import environment
from tests.records import key
from tests.waiting import eventually

from jobstatus import job_uuid

COMMAND = [sys.executable, "-c", "from jobstatus.report_command import main; main()"]

IMPATIENT_COMMAND = [
    *COMMAND[:-1],
    f"import jobstatus; jobstatus.Publisher.close.__defaults__ = (0.3,); {COMMAND[-1]}",
]
"""Waits for Redis 0.3 s instead of 5 s when the command has ended."""

NO_REDIS = "redis://127.0.0.1:1/0"


def start(*arguments: str, command: list[str] = COMMAND, **environ: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*command, *arguments],
        env=environment(**environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def report(url: str, *arguments: str) -> tuple[int, str, str]:
    process = start(*arguments, JOBSTATUS_REDIS_URL=url)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def stored(redis: Any, *fields: str) -> list[Any]:
    """Return fields of the record of the job `x`."""
    values: list[Any] = redis.hmget(key("x"), *fields)
    return values


def test_single_reports(redis: Any, redis_url: str) -> None:
    """Reports continue the stored run until it has finished; then a new run begins."""
    assert report(redis_url, "x", "--name", "copy", "--progress", "40", "--reason", "a") == (
        0,
        "",
        "",
    )
    assert stored(redis, "state", "name", "progress", "reason") == [
        "in_progress",
        "copy",
        "40",
        "a",
    ]
    created = stored(redis, "created")
    assert int(stored(redis, "lease")[0]) > time.time() * 1000 + 200_000
    report(redis_url, "x", "--progress", "90")
    assert stored(redis, "name", "progress", "reason", "attempt") == ["copy", "90", None, "1"]
    report(redis_url, "x", "--state", "retrying", "--reason", "no network")
    report(redis_url, "x", "--progress", "10")
    assert stored(redis, "attempt", "progress", "created") == ["2", "10", *created]
    report(redis_url, "x", "--state", "failed", "--reason", "no network")
    assert stored(redis, "state", "reason", "created") == ["failed", "no network", *created]
    report(redis_url, "x", "--state", "pending", "--name", "copy")
    assert stored(redis, "state", "attempt") == ["pending", "0"]
    assert stored(redis, "created") > created


@pytest.mark.parametrize(
    "arguments",
    [
        ("--progress", "90"),
        ("--name", "copy", "--progress", "90", "--reason", "late"),
        ("--state", "succeeded"),
        ("--state", "retrying"),
    ],
)
def test_late_report(redis: Any, redis_url: str, arguments: tuple[str, ...]) -> None:
    """A report on a finished job changes nothing, and the error says how a new run begins."""
    report(redis_url, "x", "--name", "copy", "--state", "failed", "--reason", "no network")
    before = redis.hgetall(key("x"))
    code, _, err = report(redis_url, "x", *arguments)
    assert code == 1
    assert "nothing was changed: the job has finished (state: failed)" in err
    assert "--state in_progress" in err
    assert redis.hgetall(key("x")) == before
    assert report(redis_url, "x", "--state", "in_progress", "--progress", "5")[0] == 0
    assert stored(redis, "state", "progress", "reason") == ["in_progress", "5", None]


@pytest.mark.parametrize(
    ("script", "code", "state", "reason"),
    [
        ("echo out; echo err >&2", 0, "succeeded", None),
        ("echo out; echo err >&2; exit 3", 3, "failed", "exit status 3"),
        ("echo out; echo err >&2; kill -9 $$", -9, "failed", "killed by SIGKILL"),
        ("echo out; echo err >&2; kill -40 $$", -40, "failed", "killed by signal 40"),
    ],
)
def test_command(
    redis: Any, redis_url: str, script: str, code: int, state: str, reason: str | None
) -> None:
    """A command keeps its output and exit status, which decides the outcome of the job."""
    assert report(redis_url, "x", "--", "sh", "-c", script) == (code, "out\n", "err\n")
    assert stored(redis, "state", "reason", "name") == [state, reason, "sh"]


def test_signal_to_a_command(redis: Any, redis_url: str) -> None:
    """A signal is forwarded to the command, and the job is aborted."""
    script = "echo ready; exec sleep 30"
    process = start("x", "--", "sh", "-c", script, JOBSTATUS_REDIS_URL=redis_url)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    eventually(lambda: stored(redis, "state") == ["in_progress"])
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM
    assert stored(redis, "state", "reason") == [
        "aborted",
        "SIGTERM was received; killed by SIGTERM",
    ]


def test_reports_within_a_command(redis: Any, redis_url: str, tmp_path: Path) -> None:
    """Reports within a command go to its wrapper, which keeps them when it renews the lease."""
    gate = tmp_path / "gate"
    inner = f"""
import subprocess, os, time, pathlib
subprocess.run({COMMAND!r} + [os.environ["JOBSTATUS_JOB_ID"], "--progress", "40",
               "--reason", "copying"], check=True)
while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)
"""
    process = start(
        "x", "--", sys.executable, "-c", inner, JOBSTATUS_REDIS_URL=redis_url, JOBSTATUS_LEASE="1"
    )
    eventually(lambda: stored(redis, "progress", "reason") == ["40", "copying"], 20)
    first = int(stored(redis, "lease")[0])
    eventually(lambda: int(stored(redis, "lease")[0]) > first + 500)
    assert stored(redis, "progress", "reason", "attempt") == ["40", "copying", "1"]
    gate.touch()
    process.communicate(timeout=10)
    assert stored(redis, "state", "progress") == ["succeeded", "100"]


def test_state_within_a_command(redis: Any, redis_url: str) -> None:
    """The command itself can't report a state."""
    inner = " ".join(f"'{word}'" for word in COMMAND) + ' "$JOBSTATUS_JOB_ID" --state failed'
    code, _, err = report(redis_url, "x", "--", "sh", "-c", inner)
    assert code == 1
    assert "only --progress and --reason" in err


def test_command_without_a_temporary_folder(redis: Any, redis_url: str) -> None:
    """A command runs even if no temporary file can be created."""
    process = start(
        *("x", "--", "sh", "-c", "exit 3"), JOBSTATUS_REDIS_URL=redis_url, TMPDIR="/nonexistent"
    )
    process.communicate(timeout=20)
    assert process.returncode == 3
    assert stored(redis, "state") == ["failed"]


def test_command_that_does_not_exist(redis: Any, redis_url: str) -> None:
    """The exit status is that of a shell, and the job has failed."""
    code, _, err = report(redis_url, "x", "--", "/no/such/command")
    assert code == 127
    assert "/no/such/command: No such file" in err
    assert stored(redis, "state") == ["failed"]


def test_command_without_redis() -> None:
    """Without Redis a command keeps its output and exit status, and the lost state is logged."""
    arguments = ("x", "--", "sh", "-c", "echo out; exit 3")
    process = start(*arguments, command=IMPATIENT_COMMAND, JOBSTATUS_REDIS_URL=NO_REDIS)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (3, "out\n")
    assert "1 final states were not written" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("x",), 1, "jobstatus-report: Error"),
        (("x", "--progress", "101"), 2, ": it must be a number from 0 to 100 percent, not '101'\n"),
        (("x", "--"), 2, "no command after --"),
        (("x", "--state", "unknown"), 2, "invalid choice"),
        (("x", "--lease", "nan"), 2, "must be a number from 1 to 31536000 seconds"),
        (("x", "--lease", "-5"), 2, "must be a number from 1 to 31536000 seconds"),
    ],
)
def test_errors(arguments: tuple[str, ...], code: int, message: str) -> None:
    """An error is a line on stderr and an exit status."""
    exit_status, _, err = report(NO_REDIS, *arguments)
    assert exit_status == code
    assert message in err


def test_show_id(redis: Any, redis_url: str) -> None:
    """`--show-id` prints the UUID under which a client gets the job's status."""
    _, out, _ = report(redis_url, "x", "--show-id")
    assert out == f"{job_uuid('x')}\n"
