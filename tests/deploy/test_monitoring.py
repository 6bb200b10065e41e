"""Alerts fire when they should, and alerts, dashboard and documentation name existing metrics."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.deploy.kustomize import KUBERNETES
from tests.deploy.tools import run_tool
from tests.processes import ROOT

from jobstatus.arq import StatusWorker, create_worker
from jobstatus.arq.metrics import WorkerMetrics
from jobstatus_service.metrics.metrics import Sample
from jobstatus_service.metrics.prometheus import COUNTERS, GAUGE_LABELS, GAUGES, HISTOGRAMS, text

FOLDER = KUBERNETES / "components" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "jobstatus.json").read_text())


def rules() -> dict[str, Any]:
    """Return the groups of the PrometheusRule, in the form that Prometheus itself reads."""
    spec: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus-rule.yaml").read_text())["spec"]
    return spec


def dashboard_queries() -> list[str]:
    """Return every query of the dashboard."""
    panels = DASHBOARD["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def queried_metrics() -> set[str]:
    """Return the names of the metrics in all queries of the alerts and of the dashboard."""
    alerts = [rule["expr"] for group in rules()["groups"] for rule in group["rules"]]
    return set(re.findall(r"jobstatus_\w+", "\n".join([*alerts, *dashboard_queries()])))


def without_suffix(name: str) -> str:
    """Return the name of the metric to which a sample belongs."""
    return re.sub("_(bucket|sum|count|created)$", "", name)


@pytest.fixture
async def exported(pool: Any, redis_url: str) -> set[str]:
    """The names of all samples that the service and the workers export."""
    histograms = {name: ([0] * (len(bounds) + 1), 0.0) for name, (_, bounds) in HISTOGRAMS.items()}
    counters = {name + "|hit" * bool(label): 1.0 for name, (_, label) in COUNTERS.items()}
    gauges = {name + "|x" * (name in GAUGE_LABELS): 1.0 for name in GAUGES}
    service = text([Sample(counters, gauges, histograms)])
    worker: StatusWorker = create_worker({"functions": [_nothing], "redis_pool": pool})
    try:
        await worker.pool.ping()
        worker.burst, worker.poll_delay_s = True, 0.01
        await worker.main()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(WorkerMetrics(worker))
        page = service.decode() + generate_latest(registry).decode()
    finally:
        await worker.close()
    families = text_string_to_metric_families(page)
    return {sample.name for family in families for sample in family.samples}


async def _nothing(_: dict[str, Any]) -> None:
    """A job that does nothing."""


async def test_queries_use_existing_metrics(exported: set[str]) -> None:
    """Every metric in a query of an alert or of the dashboard is exported."""
    queried = queried_metrics()
    assert len(queried) > 20
    assert not queried - exported


async def test_every_metric_is_used(exported: set[str]) -> None:
    """Every exported metric is used by the dashboard or by an alert."""
    used = {without_suffix(name) for name in queried_metrics()}
    assert not {without_suffix(name) for name in exported} - used


async def test_every_worker_metric_is_documented(exported: set[str]) -> None:
    """The workers' documentation names exactly the metrics that workers export."""
    page = (ROOT / "worker" / "README.md").read_text()
    named = set(re.findall(r"`(jobstatus_(?:worker|queue)_\w+)", page))
    prefixes = ("jobstatus_worker", "jobstatus_queue")
    assert named == {without_suffix(name) for name in exported if name.startswith(prefixes)}


def test_alerts(tmp_path: Path) -> None:
    """The unit tests of the alerts pass, and each alert has one."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    tests = Path(__file__).with_name("alerts_test.yaml").read_text()
    (tmp_path / "tests.yaml").write_text(tests)
    run_tool("promtool", "check", "rules", "rules.yaml", folder=tmp_path)
    run_tool("promtool", "test", "rules", "tests.yaml", folder=tmp_path)
    names = {rule["alert"] for group in rules()["groups"] for rule in group["rules"]}
    tested = set(re.findall(r"alertname: (\w+)", tests))
    assert tested == names


def test_dashboard_queries(tmp_path: Path) -> None:
    """Prometheus can parse every query of the dashboard."""
    queries = [
        query.replace("$__rate_interval", "5m").replace("$namespace", "jobstatus")
        for query in dashboard_queries()
    ]
    rules = [{"record": f"q:{n}", "expr": query} for n, query in enumerate(queries)]
    text = yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]})
    (tmp_path / "rules.yaml").write_text(text)
    run_tool("promtool", "check", "rules", "rules.yaml", folder=tmp_path)


def test_dashboard() -> None:
    """Every panel has its own id and position, and is described and has a query."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    positions = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(positions)) == len(positions)
    for panel in panels:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["targets"]
