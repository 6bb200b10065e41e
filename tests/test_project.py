"""Rules of the whole project: what is public, and which way imports run."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import jobstatus
import jobstatus.arq
import jobstatus_client
import jobstatus_service

PACKAGE = Path(jobstatus.__file__).parent
SERVICE = Path(jobstatus_service.__file__).parent


def test_public_names() -> None:
    """The public surface is this and nothing else."""
    assert jobstatus.__all__ == [
        "JobDetails",
        "JobReport",
        "JobState",
        "JobStatus",
        "JobStatusError",
        "MissingExtraError",
        "Outcome",
        "Publisher",
        "PublisherSettings",
        "SettingsError",
        "SharedStep",
        "Step",
        "UnknownCause",
        "current_job",
        "job_uuid",
        "share",
    ]
    assert jobstatus.arq.__all__ == [
        "StatusRedis",
        "StatusWorker",
        "create_pool",
        "create_worker",
        "instrument",
        "redis_settings",
        "run_worker",
    ]
    assert jobstatus_client.__all__ == [
        "AsyncClient",
        "Client",
        "ClientClosedError",
        "JobCounts",
        "JobList",
        "ListEvent",
        "RequestError",
        "UnavailableError",
        "WaitTimeoutError",
    ]
    for module in (jobstatus, jobstatus.arq, jobstatus_client):
        assert all(hasattr(module, name) for name in module.__all__)


def test_version_of_the_npm_package() -> None:
    """The npm package has the version of the Python package."""
    package = json.loads((SERVICE.parent / "jobstatus_web" / "package.json").read_text())
    assert package["version"] == jobstatus.__version__


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("statement", "never"),
    [
        ("import jobstatus", {"redis", "msgspec", "jobstatus_service"}),
        (
            "from jobstatus import Publisher",
            {"litestar", "arq", "click", "granian", "jobstatus_service"},
        ),
        ("import jobstatus.arq", {"litestar", "granian", "jobstatus_service"}),
        ("import jobstatus.worker_command", {"arq", "click"}),
        ("import jobstatus_service.command", {"litestar", "granian", "arq", "redis", "httpx"}),
        (
            "import jobstatus_client.client, jobstatus_client.async_client",
            {"litestar", "granian", "arq", "redis", "jobstatus_service"},
        ),
        ("import jobstatus_client.command.operations", {"asyncio", "redis", "shtab"}),
        ("import jobstatus_service.lookup.representation", {"litestar", "arq"}),
        ("import jobstatus_service.http.app", {"arq", "granian"}),
    ],
)
def test_imports_run_one_way(statement: str, never: set[str]) -> None:
    """The publisher knows no arq, the worker side no service, the service no arq."""
    assert not never & modules_after(statement)


WORKER_LAYERS = ["reporting", "storage", "publishing", "arq"]
"""Packages of the worker side: each imports those before it, never those after it."""

SERVICE_LAYERS = ["storage", "metrics", "lookup", "http"]
"""The same of the service."""


def imported(module: Path) -> set[str]:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    names = {n.name for i in ast.walk(tree) if isinstance(i, ast.Import) for n in i.names}
    return names | {i.module or "" for i in ast.walk(tree) if isinstance(i, ast.ImportFrom)}


def modules_of(package: Path, layer: str) -> list[Path]:
    found = sorted((package / layer).glob("*.py"))
    assert found
    return found


@pytest.mark.parametrize(
    ("package", "layers"), [(PACKAGE, WORKER_LAYERS), (SERVICE, SERVICE_LAYERS)]
)
def test_imports_run_one_way_between_layers(package: Path, layers: list[str]) -> None:
    """A layer imports only the layers below it."""
    for number, layer in enumerate(layers):
        above = {f"{package.name}.{name}" for name in layers[number + 1 :]}
        for module in modules_of(package, layer):
            wrong = [i for i in imported(module) if any(i.startswith(a) for a in above)]
            assert not wrong, f"{module.name} imports {wrong}"


def test_modules_below_the_layers_import_none_of_them() -> None:
    """Settings, arguments, logs, errors, traces, URLs and the status itself know no layer."""
    names = ("command_arguments", "errors", "logs", "redis_url", "settings", "status", "tracing")
    for name in names:
        wrong = [
            i
            for i in imported(PACKAGE / f"{name}.py")
            if any(i.startswith(f"jobstatus.{layer}") for layer in WORKER_LAYERS)
        ]
        assert not wrong, f"{name} imports {wrong}"
    assert not {i for i in imported(PACKAGE / "status.py") if "jobstatus" in i}


def test_only_storage_imports_redis() -> None:
    """Only `storage`, and the integration with arq, know redis-py."""
    for package in (PACKAGE, SERVICE):
        users = {
            str(module.relative_to(package))
            for module in package.rglob("*.py")
            if any(i == "redis" or i.startswith("redis.") for i in imported(module))
        }
        assert users
        assert {user.partition("/")[0] for user in users} <= {"storage", "arq"}, users
