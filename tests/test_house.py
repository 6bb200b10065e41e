"""The lines of the house: what is public, and which way imports run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jobstatus
import jobstatus.arq
import jobstatus_service

PACKAGE = Path(jobstatus.__file__).parent
SERVICE = Path(jobstatus_service.__file__).parent


def test_public_names() -> None:
    """The public surface is this and nothing else."""
    assert jobstatus.__all__ == [
        "JobReport",
        "JobState",
        "JobStatus",
        "JobStatusError",
        "MissingExtraError",
        "Publisher",
        "SettingsError",
        "current_job",
        "job_uuid",
    ]
    assert jobstatus.arq.__all__ == [
        "StatusRedis",
        "StatusWorker",
        "create_pool",
        "create_worker",
        "redis_settings",
        "run_worker",
    ]
    for module in (jobstatus, jobstatus.arq):
        assert all(hasattr(module, name) for name in module.__all__)


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("statement", "never"),
    [
        ("import jobstatus", {"litestar", "arq", "click", "granian", "jobstatus_service"}),
        ("import jobstatus.arq", {"litestar", "granian", "jobstatus_service"}),
        ("import jobstatus.command", {"arq", "click"}),
        ("import jobstatus_service.command", {"litestar", "granian", "arq"}),
        ("import jobstatus_service.answer", {"litestar", "arq"}),
        ("import jobstatus_service.app", {"arq", "granian"}),
    ],
)
def test_imports_run_one_way(statement: str, never: set[str]) -> None:
    """The publisher knows no arq, the worker side no service, the service no arq."""
    assert not never & modules_after(statement)


LAYERS = [
    *(
        "errors",
        "address",
        "settings",
        "status",
        "handed",
        "counts",
        "slots",
        "client",
        "store",
        "cluster",
    ),
    *("progress", "report", "current", "attempt", "delivery", "sampling", "publisher"),
]


def imported(module: Path) -> set[str]:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    names = {n.name for i in ast.walk(tree) if isinstance(i, ast.Import) for n in i.names}
    return names | {i.module or "" for i in ast.walk(tree) if isinstance(i, ast.ImportFrom)}


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_knows_those_below(name: str) -> None:
    """A module of the worker side imports only what stands before it in the list."""
    above = {f"jobstatus.{layer}" for layer in LAYERS[LAYERS.index(name) :]}
    assert not above & imported(PACKAGE / f"{name}.py")


def test_few_modules_talk_to_redis() -> None:
    """Those that connect and those that talk know redis-py; what the states are knows nothing."""
    own = {m.stem for m in PACKAGE.glob("*.py") if any("redis" in i for i in imported(m))}
    assert own == {"client", "cluster", "credentials", "store"}
    service = {m.stem for m in SERVICE.glob("*.py") if any("redis" in i for i in imported(m))}
    assert service == {"servers", "wire"}
    assert not {i for i in imported(PACKAGE / "status.py") if "jobstatus" in i}
