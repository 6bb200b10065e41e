"""Many statuses in one request."""

from typing import Any
from uuid import UUID

import pytest
from tests.service.conftest import Poller, Put

from jobstatus.status import JobState

IDS = [str(UUID(int=n)) for n in range(100)]


def query(ids: list[str]) -> str:
    return "/api/jobs?" + "&".join(f"id={job_id}" for job_id in ids)


async def test_order_and_one_round_trip(client: Poller, put: Put, redis: Any) -> None:
    """Statuses come in the order asked, each as a single read has it, in one round trip."""
    for job_id in IDS[::2]:
        put(job_id, state=JobState.SUCCEEDED)
    asked = [*reversed(IDS)]
    redis.config_resetstat()
    response = await client.get(query(asked))
    assert redis.info("commandstats")["cmdstat_time"]["calls"] == 1
    assert response.status_code == 200
    jobs = response.json()["jobs"]
    assert [job["id"] for job in jobs] == asked
    assert [job["state"] for job in jobs] == ["unknown", "succeeded"] * 50
    assert jobs[1] == (await client.get(f"/api/jobs/{asked[1]}")).json()


async def test_same_id_twice(client: Poller) -> None:
    """An id that is asked for twice is answered twice."""
    jobs = (await client.get(query([IDS[0], IDS[0]]))).json()["jobs"]
    assert [job["id"] for job in jobs] == [IDS[0], IDS[0]]


async def test_validator(client: Poller, put: Put) -> None:
    """A bulk read has a validator of its own, which changes with any of its jobs."""
    first = await client.get(query(IDS[:3]))
    condition = {"If-None-Match": first.headers["etag"]}
    again = await client.get(query(IDS[:3]), headers=condition)
    assert (again.status_code, again.content) == (304, b"")
    put(IDS[2])
    await client.settle()
    assert (await client.get(query(IDS[:3]), headers=condition)).status_code == 200


async def test_bad_id_is_named_by_its_index(client: Poller) -> None:
    """A bad id is a 422 that names its index; each of several is named."""
    response = await client.get(query([IDS[0], "x", IDS[1], "y"]))
    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["detail"]] == [
        ["query", "id", 1],
        ["query", "id", 3],
    ]


@pytest.mark.parametrize("count", [0, 101])
async def test_how_many(client: Poller, count: int) -> None:
    """1 to 100 ids can be asked for at once."""
    response = await client.get(query((IDS * 2)[:count]))
    assert response.status_code == 422
    (error,) = response.json()["detail"]
    assert error["loc"] == ["query", "id"]


async def test_no_key(client: Poller) -> None:
    """The key is asked for before anything else."""
    del client.headers["Authorization"]
    assert (await client.get(query(["x"]))).status_code == 401
