"""`jobstatus-report`, in a shell's hands."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.processes import environment
from tests.waiting import eventually

from jobstatus import job_uuid

COMMAND = [sys.executable, "-c", "from jobstatus.report_command import main; main()"]


def start(*arguments: str, **environ: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(**environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def report(url: str, *arguments: str) -> tuple[int, str, str]:
    process = start(*arguments, JOBSTATUS_REDIS_URL=url)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def read(redis: Any, *fields: str) -> list[Any]:
    found: list[Any] = redis.hmget(f"job:{job_uuid('x')}", *fields)
    return found


def test_report_by_report(redis: Any, redis_url: str) -> None:
    """Reports go on with the run that stands there, until it is over; then a new one begins."""
    assert report(redis_url, "x", "--name", "copy", "--progress", "40", "--reason", "a") == (
        0,
        "",
        "",
    )
    assert read(redis, "state", "name", "progress", "reason") == ["in_progress", "copy", "40", "a"]
    created = read(redis, "created")
    assert int(read(redis, "lease")[0]) > time.time() * 1000 + 200_000
    report(redis_url, "x", "--progress", "90")
    assert read(redis, "name", "progress", "reason", "attempt") == ["copy", "90", None, "1"]
    report(redis_url, "x", "--state", "retrying", "--reason", "no network")
    report(redis_url, "x", "--progress", "10")
    assert read(redis, "attempt", "progress", "created") == ["2", "10", *created]
    report(redis_url, "x", "--state", "failed", "--reason", "no network")
    assert read(redis, "state", "reason", "created") == ["failed", "no network", *created]
    report(redis_url, "x", "--state", "pending", "--name", "copy")
    assert read(redis, "state", "attempt") == ["pending", "0"]
    assert read(redis, "created") > created


@pytest.mark.parametrize(
    "words",
    [
        ("--progress", "90"),
        ("--name", "copy", "--progress", "90", "--reason", "late"),
        ("--state", "succeeded"),
        ("--state", "retrying"),
    ],
)
def test_late_report(redis: Any, redis_url: str, words: tuple[str, ...]) -> None:
    """A report that comes after the end changes nothing, and says how a new run begins."""
    report(redis_url, "x", "--name", "copy", "--state", "failed", "--reason", "no network")
    before = redis.hgetall(f"job:{job_uuid('x')}")
    code, _, err = report(redis_url, "x", *words)
    assert code == 1
    assert "nothing was changed: the job has finished (failed)" in err
    assert "--state in_progress" in err
    assert redis.hgetall(f"job:{job_uuid('x')}") == before
    assert report(redis_url, "x", "--state", "in_progress", "--progress", "5")[0] == 0
    assert read(redis, "state", "progress", "reason") == ["in_progress", "5", None]


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
    """A command's output and exit status are its own; its end is the job's."""
    assert report(redis_url, "x", "--", "sh", "-c", script) == (code, "out\n", "err\n")
    assert read(redis, "state", "reason", "name") == [state, reason, "sh"]


def test_command_that_is_told_to_stop(redis: Any, redis_url: str) -> None:
    """A signal reaches the command, and the job is aborted."""
    process = start("x", "--", "sleep", "30", JOBSTATUS_REDIS_URL=redis_url)
    eventually(lambda: read(redis, "state") == ["in_progress"])
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM
    assert read(redis, "state", "reason") == [
        "aborted",
        "SIGTERM was received; killed by SIGTERM",
    ]


def test_command_reports_for_itself(redis: Any, redis_url: str, tmp_path: Path) -> None:
    """Within the command, reports go through its wrapper; the heartbeat keeps them."""
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
    eventually(lambda: read(redis, "progress", "reason") == ["40", "copying"], 20)
    first = int(read(redis, "lease")[0])
    eventually(lambda: int(read(redis, "lease")[0]) > first + 500)
    assert read(redis, "progress", "reason", "attempt") == ["40", "copying", "1"]
    gate.touch()
    process.communicate(timeout=10)
    assert read(redis, "state", "progress") == ["succeeded", "100"]


def test_command_can_not_end_its_own_job(redis: Any, redis_url: str) -> None:
    """What would be ignored within the command is refused."""
    inner = " ".join(f"'{word}'" for word in COMMAND) + ' "$JOBSTATUS_JOB_ID" --state failed'
    code, _, err = report(redis_url, "x", "--", "sh", "-c", inner)
    assert code == 1
    assert "only --progress and --reason" in err


def test_command_runs_where_nothing_can_be_written(redis: Any, redis_url: str) -> None:
    """A command runs even where no temporary file can be made."""
    process = start(
        *("x", "--", "sh", "-c", "exit 3"), JOBSTATUS_REDIS_URL=redis_url, TMPDIR="/nonexistent"
    )
    process.communicate(timeout=20)
    assert process.returncode == 3
    assert read(redis, "state") == ["failed"]


def test_command_that_is_not_there(redis: Any, redis_url: str) -> None:
    """A command that can't be run ends as a shell would end, and the job has failed."""
    code, _, err = report(redis_url, "x", "--", "/no/such/command")
    assert code == 127
    assert "/no/such/command: No such file" in err
    assert read(redis, "state") == ["failed"]


def test_command_runs_without_redis() -> None:
    """Without Redis the command runs and ends all the same."""
    code, out, _ = report("redis://127.0.0.1:1/0", "x", "--", "sh", "-c", "echo out; exit 3")
    assert (code, out) == (3, "out\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("x",), 1, "jobstatus-report: "),
        (("x", "--progress", "101"), 2, "must be a number from 0 to 100 percent"),
        (("x", "--"), 2, "no command after --"),
        (("x", "--state", "unknown"), 2, "invalid choice"),
        (("x", "--lease", "nan"), 2, "must be a number from 1 to 31536000 seconds"),
        (("x", "--lease", "-5"), 2, "must be a number from 1 to 31536000 seconds"),
    ],
)
def test_what_can_not_be_done(arguments: tuple[str, ...], code: int, said: str) -> None:
    """What can't be done is said on stderr."""
    ended, _, err = report("redis://127.0.0.1:1/0", *arguments)
    assert ended == code
    assert said in err


def test_show_id(redis: Any, redis_url: str) -> None:
    """`--show-id` says under which UUID the job is asked for."""
    _, out, _ = report(redis_url, "x", "--show-id")
    assert out == f"{job_uuid('x')}\n"
