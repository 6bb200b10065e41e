"""Alerts fire when they should and only then; every query names a metric that exists."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.deploy.kustomize import ROOT
from tests.deploy.tools import tool

from jobstatus.arq import StatusWorker, create_worker
from jobstatus.arq.metrics import WorkerMetrics
from jobstatus_service.metrics.metrics import Sample
from jobstatus_service.metrics.prometheus import COUNTERS, GAUGES, HISTOGRAMS, text

FOLDER = ROOT / "components" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "jobstatus.json").read_text())


def rules() -> dict[str, Any]:
    """The groups of the PrometheusRule, as Prometheus itself takes them."""
    spec: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus-rule.yaml").read_text())["spec"]
    return spec


def expressions() -> list[str]:
    """Every query of the alerts and of the dashboard."""
    alerts = [rule["expr"] for group in rules()["groups"] for rule in group["rules"]]
    panels = DASHBOARD["panels"]
    return alerts + [each["expr"] for panel in panels for each in panel.get("targets", [])]


@pytest.fixture
async def existing(pool: Any, redis_url: str) -> set[str]:
    """The names of all samples that both sides expose, as they are exposed."""
    histograms = {name: ([0] * (len(bounds) + 1), 0.0) for name, (_, bounds) in HISTOGRAMS.items()}
    counters = {name + "|hit" * bool(label): 1.0 for name, (_, label) in COUNTERS.items()}
    service = text([Sample(counters, dict.fromkeys(GAUGES, 1.0), histograms)])
    worker: StatusWorker = create_worker({"functions": [_nothing], "redis_pool": pool})
    try:
        await worker.pool.ping()
        worker.burst, worker.poll_delay_s = True, 0.01
        await worker.main()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(WorkerMetrics(worker))
        exposed = service.decode() + generate_latest(registry).decode()
    finally:
        await worker.close()
    families = text_string_to_metric_families(exposed)
    return {sample.name for family in families for sample in family.samples}


async def _nothing(_: dict[str, Any]) -> None:
    """Do nothing."""


async def test_every_metric_exists(existing: set[str]) -> None:
    """No query asks for a metric that nobody exposes."""
    named = {name for query in expressions() for name in re.findall(r"jobstatus_\w+", query)}
    assert len(named) > 20
    assert not named - existing


async def test_every_metric_is_shown(existing: set[str]) -> None:
    """No metric is exposed that neither the dashboard nor an alert shows."""
    shown = {name for query in expressions() for name in re.findall(r"jobstatus_\w+", query)}
    families = {re.sub("_(bucket|sum|count|created)$", "", name) for name in existing}
    unseen = {name for name in families if not any(each.startswith(name) for each in shown)}
    assert not unseen


async def test_every_worker_metric_is_explained(existing: set[str]) -> None:
    """The workers' page names each metric that there is, and no other."""
    page = (ROOT.parents[1] / "worker" / "README.md").read_text()
    named = set(re.findall(r"`(jobstatus_(?:worker|queue)_\w+)", page))
    own = {name for name in existing if name.startswith(("jobstatus_worker", "jobstatus_queue"))}
    assert named == {re.sub("_(bucket|sum|count|created)$", "", name) for name in own}


def test_alerts(tmp_path: Path) -> None:
    """Promtool's unit tests pass: each alert fires when it should, and not before."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    tests = Path(__file__).with_name("alerts_test.yaml").read_text()
    (tmp_path / "tests.yaml").write_text(tests)
    for command in ("check rules rules.yaml", "test rules tests.yaml"):
        done = subprocess.run(
            [tool("promtool"), *command.split()],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    names = {rule["alert"] for group in rules()["groups"] for rule in group["rules"]}
    tested = set(re.findall(r"alertname: (\w+)", tests))
    assert tested == names


def test_queries_parse(tmp_path: Path) -> None:
    """Prometheus understands every query of the dashboard."""
    own = [
        re.sub(r"\$__rate_interval", "5m", each["expr"]).replace("$namespace", "jobstatus")
        for panel in DASHBOARD["panels"]
        for each in panel.get("targets", [])
    ]
    group = {
        "name": "dashboard",
        "rules": [{"record": f"q:{n}", "expr": e} for n, e in enumerate(own)],
    }
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    done = subprocess.run(
        [tool("promtool"), "check", "rules", "rules.yaml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_dashboard() -> None:
    """Every panel has a query, a place of its own, and a number of its own."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(places)
    assert all(panel["type"] == "row" or panel["targets"] for panel in panels)
