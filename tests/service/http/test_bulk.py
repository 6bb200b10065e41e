"""`GET /api/jobs`: many statuses in one request."""

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from tests.service.conftest import Poller, Put

from jobstatus.status import JobState, job_uuid

IDS = [str(UUID(int=n)) for n in range(100)]


def url_of(ids: list[str]) -> str:
    return "/api/jobs?" + "&".join(f"id={job_id}" for job_id in ids)


async def test_order_and_one_round_trip(client: Poller, put: Put, redis: Any) -> None:
    """Statuses are in the order of the ids, as single reads have them, and read in one trip."""
    for job_id in IDS[::2]:
        put(job_id, state=JobState.SUCCEEDED)
    ids = [*reversed(IDS)]
    redis.config_resetstat()
    response = await client.get(url_of(ids))
    assert redis.info("commandstats")["cmdstat_time"]["calls"] == 1
    assert response.status_code == 200
    jobs = response.json()["jobs"]
    assert [job["id"] for job in jobs] == ids
    assert [job["state"] for job in jobs] == ["unknown", "succeeded"] * 50
    assert jobs[1] == (await client.get(f"/api/jobs/{ids[1]}")).json()


async def test_repeated_id(client: Poller) -> None:
    """An id that the request repeats has one status for each time."""
    jobs = (await client.get(url_of([IDS[0], IDS[0]]))).json()["jobs"]
    assert [job["id"] for job in jobs] == [IDS[0], IDS[0]]


async def test_validator(client: Poller, put: Put) -> None:
    """The response has a validator of its own, which changes with any of its jobs."""
    first = await client.get(url_of(IDS[:3]))
    condition = {"If-None-Match": first.headers["etag"]}
    again = await client.get(url_of(IDS[:3]), headers=condition)
    assert (again.status_code, again.content) == (304, b"")
    put(IDS[2])
    await client.settle()
    assert (await client.get(url_of(IDS[:3]), headers=condition)).status_code == 200


async def test_outcome(client: Poller) -> None:
    """A bulk read counts as a hit only if all of its jobs were cached."""
    await client.cache_valid()
    await client.get(url_of(IDS[:2]))
    await client.get(url_of(IDS[:2]))
    await client.get(url_of(IDS[:3]))
    reads = client.app.metrics.reads
    assert (reads["hit"], reads["miss"]) == (1, 2)


async def test_malformed_ids(client: Poller) -> None:
    """Each malformed id is named by its index."""
    response = await client.get(url_of([IDS[0], "x", IDS[1], "y"]))
    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["detail"]] == [
        ["query", "id", 1],
        ["query", "id", 3],
    ]


async def test_number_of_ids(client: Poller) -> None:
    """A request must not have more than 100 ids."""
    response = await client.get(url_of((IDS * 2)[:101]))
    assert response.status_code == 422
    (error,) = response.json()["detail"]
    assert error["loc"] == ["query", "id"]


async def test_no_key(client: Poller) -> None:
    """The API key is checked before the ids."""
    del client.headers["Authorization"]
    assert (await client.get(url_of(["x"]))).status_code == 401


async def test_keys(client: Poller, put: Put) -> None:
    """Ids of any form are asked for by keys; ids and keys may be mixed, and keep their order."""
    keys = ["tenant7:resize:2026-11", "cron:tidy:1764", "a b&c=d/é"]
    for key in keys:
        put(job_uuid(key), name=key, state=JobState.SUCCEEDED)
    query = [("key", keys[0]), ("id", IDS[0]), ("key", keys[1]), ("key", keys[2]), ("key", IDS[1])]
    jobs = (await client.get("/api/jobs?" + urlencode(query))).json()["jobs"]
    assert [job["name"] for job in jobs] == [keys[0], "", keys[1], keys[2], ""]
    assert [jobs[1]["id"], jobs[4]["id"]] == IDS[:2]


async def test_empty_key(client: Poller) -> None:
    """An empty key is named by its index among the keys."""
    response = await client.get(f"/api/jobs?id={IDS[0]}&key=a&key=")
    assert response.status_code == 422
    (error,) = response.json()["detail"]
    assert (error["loc"], error["msg"]) == (["query", "key", 1], "A job's key must not be empty.")


async def test_number_of_ids_and_keys(client: Poller) -> None:
    """The limit is that of ids and keys together."""
    response = await client.get(url_of(IDS) + "&key=a")
    assert response.status_code == 422
    (error,) = response.json()["detail"]
    assert error["msg"] == "The request has 101 ids and keys; it must have 1 to 100."


async def test_error_says_how_to_ask_for_other_ids(client: Poller) -> None:
    """The error of an id that is not a UUID names the way to ask for it."""
    (error,) = (await client.get("/api/jobs/cron:tidy:1764")).json()["detail"]
    assert "GET /api/jobs?key=ID" in error["msg"]
