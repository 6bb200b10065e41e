"""The OpenAPI document that is served is the published contract."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

CONTRACT: dict[str, Any] = yaml.safe_load(
    Path("tests/contract/job-status.openapi.yaml").read_text(encoding="utf-8")
)
SCHEMAS = CONTRACT["components"]["schemas"]
PUBLISHED = CONTRACT["paths"]["/jobs/{job_id}"]["get"]


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get("/schema/openapi.json")
    assert response.status_code == 200
    document: dict[str, Any] = response.json()
    return document


@pytest.mark.parametrize("name", SCHEMAS)
async def test_component(document: dict[str, Any], name: str) -> None:
    """Each component is the contract's, to the letter."""
    assert document["components"]["schemas"][name] == SCHEMAS[name]


async def test_security_scheme(document: dict[str, Any]) -> None:
    """The key is where the contract says."""
    assert document["components"]["securitySchemes"] == CONTRACT["components"]["securitySchemes"]


async def test_operation(document: dict[str, Any]) -> None:
    """The operation has the contract's id, parameter, responses and security."""
    operation = document["paths"]["/api/jobs/{job_id}"]["get"]
    for member in ("operationId", "summary", "tags", "security"):
        assert operation[member] == PUBLISHED[member]
    parameter = next(p for p in operation["parameters"] if p["in"] == "path")
    for member in ("name", "required", "schema"):
        assert parameter[member] == PUBLISHED["parameters"][0][member]
    for status, response in PUBLISHED["responses"].items():
        assert operation["responses"][status]["description"] == response["description"]
        assert operation["responses"][status]["content"] == response["content"]
    assert "400" not in operation["responses"]


async def test_page(client: httpx.AsyncClient) -> None:
    """There is a page for people."""
    response = await client.get("/schema")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
