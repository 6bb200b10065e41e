"""The OpenAPI document that the service serves has the published contract in it."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

CONTRACT: dict[str, Any] = yaml.safe_load(
    Path("tests/contract/job-status.openapi.yaml").read_text(encoding="utf-8")
)
SCHEMAS = CONTRACT["components"]["schemas"]
OPERATION = CONTRACT["paths"]["/jobs/{job_id}"]["get"]


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    """The served document."""
    response = await client.get("/schema/openapi.json")
    assert response.status_code == 200
    document: dict[str, Any] = response.json()
    return document


@pytest.mark.parametrize("name", SCHEMAS)
async def test_schema(document: dict[str, Any], name: str) -> None:
    """Each schema equals the contract's."""
    assert document["components"]["schemas"][name] == SCHEMAS[name]


async def test_security_scheme(document: dict[str, Any]) -> None:
    """The API key is sent as the contract says."""
    assert document["components"]["securitySchemes"] == CONTRACT["components"]["securitySchemes"]


async def test_operation(document: dict[str, Any]) -> None:
    """The operation has the contract's id, parameter, responses and security."""
    operation = document["paths"]["/api/jobs/{job_id}"]["get"]
    for member in ("operationId", "summary", "tags", "security"):
        assert operation[member] == OPERATION[member]
    parameter = next(p for p in operation["parameters"] if p["in"] == "path")
    for member in ("name", "required", "schema"):
        assert parameter[member] == OPERATION["parameters"][0][member]
    for status, response in OPERATION["responses"].items():
        assert operation["responses"][status]["description"] == response["description"]
        assert operation["responses"][status]["content"] == response["content"]
    assert "400" not in operation["responses"]


@pytest.mark.parametrize(
    ("path", "parameters", "statuses"),
    [
        (
            "/api/jobs/{job_id}",
            {"job_id", "wait", "until", "If-None-Match", "Prefer"},
            {"200", "304", "401", "403", "414", "422", "429", "503"},
        ),
        (
            "/api/jobs/{job_id}/events",
            {"job_id", "Last-Event-ID"},
            {"200", "204", "401", "403", "414", "422", "429", "503"},
        ),
        (
            "/api/jobs",
            {
                *("id", "key", "wait", "until", "state", "name", "limit", "cursor"),
                *("details",),
                *("If-None-Match", "Prefer"),
            },
            {"200", "304", "401", "403", "414", "422", "429", "503"},
        ),
        (
            "/api/jobs/{job_id}/details",
            {"job_id", "wait", "until", "If-None-Match", "Prefer"},
            {"200", "304", "401", "403", "414", "422", "429", "503"},
        ),
        (
            "/api/jobs/{job_id}/result",
            {"job_id", "If-None-Match"},
            {"200", "304", "401", "403", "404", "410", "414", "422", "429", "503"},
        ),
        ("/api/jobs/counts", {"If-None-Match"}, {"200", "304", "401", "403", "414", "429", "503"}),
        (
            "/api/jobs/events",
            {"id", "key", "state", "name", "details", "Last-Event-ID"},
            {"200", "204", "401", "403", "414", "422", "429", "503"},
        ),
    ],
)
async def test_declarations(
    document: dict[str, Any], path: str, parameters: set[str], statuses: set[str]
) -> None:
    """Each route declares its parameters, its statuses, and the headers of its errors."""
    operation = document["paths"][path]["get"]
    assert {parameter["name"] for parameter in operation["parameters"]} == parameters
    assert set(operation["responses"]) == statuses
    for status in ("429", "503"):
        assert "Retry-After" in operation["responses"][status]["headers"]


async def test_page(client: httpx.AsyncClient) -> None:
    """The document is also served as a page for people."""
    response = await client.get("/schema")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
