"""HEAD."""

import pytest
from tests.service.conftest import JOB, URL, Poller, Put

from jobstatus.status import JobState


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
        "/api/jobs/not-a-uuid",
        "/nowhere",
    ],
)
async def test_same_head(client: Poller, put: Put, path: str) -> None:
    """The response has the status and the headers of GET, and no body."""
    put(JOB, state=JobState.SUCCEEDED)
    got, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    varying = {"content-length", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in varying} == {
        k: v for k, v in got.headers.items() if k not in varying
    }
    if path != "/metrics" and not path.endswith("/events"):
        assert int(head.headers["content-length"]) == len(got.content)


async def test_wrong_key(client: Poller) -> None:
    """HEAD requires an API key as GET does."""
    response = await client.head(URL, headers={"Authorization": "wrong"})
    assert response.status_code == 401


async def test_not_modified(client: Poller) -> None:
    """HEAD with the current validator is a 304."""
    known = {"If-None-Match": (await client.get(URL)).headers["etag"]}
    assert (await client.head(URL, headers=known)).status_code == 304


async def test_open_stream(client: Poller, put: Put) -> None:
    """HEAD of the events of a running job ends at once and leaves no watcher."""
    put(JOB)
    response = await client.head(f"{URL}/events")
    assert response.headers["content-type"] == "text/event-stream"
    assert client.app.statuses.watchers.open["stream"] == 0
    assert not client.app.statuses.watchers.jobs
