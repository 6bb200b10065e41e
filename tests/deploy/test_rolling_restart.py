"""No request fails while the replicas of the service are restarted one after the other."""

import asyncio
import contextlib
from pathlib import Path
from uuid import uuid4

import pytest
from tests.deploy.haproxy import HAProxy
from tests.deploy.load import POLLERS, Load, Replica, restart_in_turn
from tests.service.conftest import Put
from tests.waiting import eventually

RESTARTS_PER_REPLICA = 5


@pytest.mark.parametrize("mode", ["http", "tcp"])
async def test_rolling_restarts(service_url: str, put: Put, tmp_path: Path, mode: str) -> None:
    """No request fails while two replicas are restarted five times each under load.

    With `http` the load balancer uses its own connections to the replicas. With `tcp` it forwards
    the connections of the clients, as a Kubernetes Service does.
    """
    jobs = [uuid4() for _ in range(POLLERS)]

    def renew_leases() -> None:
        for job in jobs:
            put(job, lease=60_000, progress=1.0)

    renew_leases()
    with contextlib.ExitStack() as stack:
        replicas = [Replica(service_url, stack) for _ in range(2)]
        balancer = HAProxy(tmp_path, mode, [replica.port for replica in replicas])
        with balancer.running():
            eventually(lambda: len(balancer.up()) == 2)
            load = Load(balancer.url, jobs)
            async with load.running():
                await asyncio.sleep(1)
                for _ in range(RESTARTS_PER_REPLICA):
                    await restart_in_turn(replicas, balancer)
                    renew_leases()
    print(
        f"\n{mode}: {2 * RESTARTS_PER_REPLICA} restarts, {len(load.failed)} failed requests, "
        f"successful ones: {dict(load.done)}; slowest poll: {load.longest_poll_seconds:.2f} s"
    )
    assert not load.failed, load.failed[:5]
    assert min(load.done.values()) > 50
