"""`create_app`: its public import path, and what it makes of the settings."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from litestar import Litestar

import jobstatus_service
from jobstatus.errors import SettingsError
from jobstatus_service.http.access_log import AccessLogApp
from jobstatus_service.http.app import create_app
from jobstatus_service.settings import ServiceSettings


def run_python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_public_path() -> None:
    """The package exports `create_app` and nothing else."""
    assert jobstatus_service.__all__ == ["create_app"]
    assert jobstatus_service.create_app is create_app
    with pytest.raises(AttributeError, match="has no attribute 'other'"):
        _ = jobstatus_service.other


def test_import_is_lazy() -> None:
    """Importing the package imports Litestar only when `create_app` is used."""
    code = (
        "import sys, jobstatus_service; before = 'litestar' in sys.modules;"
        "from jobstatus_service import create_app; print(before, 'litestar' in sys.modules)"
    )
    assert run_python(code).stdout == "False True\n"


def test_missing_extra() -> None:
    """Without Litestar, `create_app` can't be imported, and one line names the extra to install."""
    code = "import sys; sys.modules['litestar'] = None; from jobstatus_service import create_app"
    result = run_python(code)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "jobstatus.errors.MissingExtraError: jobstatus_service.create_app needs litestar: "
        "pip install 'jobstatus[service]'"
    )


@pytest.mark.parametrize("access_log", [False, True])
@pytest.mark.parametrize("traces", ["", "1"])
def test_access_log_and_traces(
    service_settings: ServiceSettings,
    monkeypatch: pytest.MonkeyPatch,
    access_log: bool,
    traces: str,
) -> None:
    """A Litestar application observes its requests only if they are to be logged or traced."""
    monkeypatch.setenv("JOBSTATUS_TRACES", traces)
    monkeypatch.setattr("jobstatus.tracing._tracer", lambda service: f"tracer of {service}")
    app = create_app(replace(service_settings, access_log=access_log))
    assert isinstance(app, Litestar)
    assert isinstance(app, AccessLogApp) is (access_log or bool(traces))
    if isinstance(app, AccessLogApp):
        assert app.logs_requests is access_log
        tracer: Any = app.tracer
        assert tracer == ("tracer of jobstatus-service" if traces else None)


def test_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without settings as an argument, the environment has them."""
    monkeypatch.setenv("JOBSTATUS_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("JOBSTATUS_API_KEYS", "")
    with pytest.raises(SettingsError, match="no API key"):
        create_app()
    monkeypatch.setenv("JOBSTATUS_API_KEYS", "secret")
    monkeypatch.setenv("JOBSTATUS_ACCESS_LOG", "1")
    app = create_app()
    assert isinstance(app, AccessLogApp)
    assert app.api_keys.find("secret")
