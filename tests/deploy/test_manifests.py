"""What would be applied to a cluster is valid, hardened, and does what the pages say."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import ACL
from tests.deploy.kustomize import (
    COMPONENTS,
    OVERLAYS,
    ROOT,
    Manifest,
    find,
    overlay,
    parse,
    pod,
    with_components,
)
from tests.deploy.tools import TOOLS, tool

DEPLOYMENTS = ("jobstatus-service", "jobstatus-worker")

FOREIGN = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PodMonitor"}
FOREIGN |= {"PrometheusRule", "HTTPRoute"}
"""Kinds that Kubernetes itself doesn't know; their schemas come with their operators."""

WAIVED = {
    "CKV_K8S_11": "no limit of CPU: it would only throttle, and make polls late",
    "CKV_K8S_14": "the tag is set where the images are pushed",
    "CKV_K8S_15": "tags are pinned; what was loaded onto a node (kind, k3s) is to be used",
    "CKV_K8S_43": "a digest is known only where the images are pushed",
    "CKV_K8S_9": "a worker answers nobody, so there is nothing to be ready for",
}
"""Checks of checkov that are not heeded, and why."""


def renderings(folder: Path) -> dict[str, str]:
    """Every overlay as it is, each component alone, and those that go together."""
    found = {name: overlay(name) for name in OVERLAYS}
    for name in COMPONENTS:
        own = folder / name
        own.mkdir()
        found[f"with {name}"] = with_components(own, name)
    own = folder / "all"
    own.mkdir()
    found["with all"] = with_components(own, *(name for name in COMPONENTS if name != "gateway"))
    return found


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All renderings."""
    return renderings(tmp_path_factory.mktemp("kustomize"))


def test_overlays_and_components() -> None:
    """The folders are those that the pages name."""
    assert OVERLAYS == ["dev", "production"]
    assert sorted(["gateway", "hpa", "ingress", "keda", "monitoring", "redis-tls"]) == COMPONENTS


@pytest.mark.parametrize("version", ["1.29", "1.32", "1.35"])
def test_schemas(rendered: dict[str, str], tmp_path: Path, version: str) -> None:
    """Kubernetes' own schemas find nothing, not even an unknown field."""
    for name, text in rendered.items():
        own = [each for each in parse(text) if each["kind"] not in FOREIGN]
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump_all(own))
        done = subprocess.run(
            [tool("kubernetes-validate"), "--strict", "-k", version, str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"


def test_checkov(rendered: dict[str, str], tmp_path: Path) -> None:
    """Checkov finds nothing but what is waived, with a reason."""
    for name in ("dev", "production", "with all"):
        (tmp_path / f"{name.replace(' ', '-')}.yaml").write_text(rendered[name])
    done = subprocess.run(
        [
            *(tool("checkov"), "-d", str(tmp_path), "--framework", "kubernetes", "-o", "json"),
            *("--skip-download", "--quiet", "--compact"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"},
    )
    found = json.loads(done.stdout)
    assert found["summary"]["passed"] > 100
    failed = found["results"]["failed_checks"]
    unexpected = {(f["check_id"], f["check_name"], f["resource"]) for f in failed}
    unexpected = {each for each in unexpected if each[0] not in WAIVED}
    assert not unexpected, "\n".join(map(str, sorted(unexpected)))
    unneeded = WAIVED.keys() - {f["check_id"] for f in failed}
    assert not unneeded, f"waived, and not found: {unneeded}"


@pytest.mark.parametrize("name", ["dev", "production", "with all"])
def test_restricted(rendered: dict[str, str], name: str) -> None:
    """Every pod keeps to the `restricted` standard, which its namespace enforces.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    manifests = parse(rendered[name])
    labels = find(manifests, "Namespace", "jobstatus")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for deployment in (each for each in manifests if each["kind"] == "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] >= 10_000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "secret", "emptyDir"}
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} == container["resources"]["requests"].keys()
            assert container["resources"]["limits"].keys() == {"memory"}
            assert not any("subPath" in mount for mount in container["volumeMounts"])


@pytest.mark.parametrize("name", ["dev", "production", "with all"])
def test_selectors(rendered: dict[str, str], name: str) -> None:
    """What selects pods selects those that it is meant for, and no others."""
    manifests = parse(rendered[name])
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in manifests
        if each["kind"] == "Deployment"
    }

    def selected(selector: dict[str, str]) -> set[str]:
        return {pod for pod, labels in pods.items() if selector.items() <= labels.items()}

    for deployment in DEPLOYMENTS:
        budget = find(manifests, "PodDisruptionBudget", deployment)
        assert selected(budget["spec"]["selector"]["matchLabels"]) == {deployment}
        assert budget["spec"]["maxUnavailable"] == 1
        policy = find(manifests, "NetworkPolicy", deployment)
        assert selected(policy["spec"]["podSelector"]["matchLabels"]) == {deployment}
    service = find(manifests, "Service", "jobstatus")
    assert selected(service["spec"]["selector"]) == {"jobstatus-service"}
    (entry,) = find(manifests, "NetworkPolicy", "jobstatus-service")["spec"]["ingress"]
    assert entry["from"][0]["podSelector"]["matchLabels"] == {"jobstatus/access": "api"}
    assert "ingress" not in find(manifests, "NetworkPolicy", "jobstatus-worker")["spec"]
    assert find(manifests, "NetworkPolicy", "default-deny")["spec"]["podSelector"] == {}


def test_leaving() -> None:
    """A pod has the time to drain, and a worker to complete its jobs, before it is killed."""
    manifests = parse(overlay("production"))
    service = pod(manifests, "jobstatus-service")
    command = service["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:2] == ["jobstatus", "drain"]
    assert service["terminationGracePeriodSeconds"] > float(command[3]) + 10
    config = find(manifests, "ConfigMap", "jobstatus-worker")["data"]
    grace = pod(manifests, "jobstatus-worker")["terminationGracePeriodSeconds"]
    assert grace >= float(config["JOBSTATUS_JOB_COMPLETION_WAIT"]) + 15
    for name in DEPLOYMENTS:
        rolling = find(manifests, "Deployment", name)["spec"]["strategy"]["rollingUpdate"]
        assert rolling["maxUnavailable"] == 0
        container = pod(manifests, name)["containers"][0]
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
        assert container["startupProbe"]["httpGet"]["path"] == "/livez"


def test_autoscalers_own_the_replicas(rendered: dict[str, str]) -> None:
    """Where something scales a Deployment, the manifest says no number."""
    manifests = parse(rendered["with all"])
    for name in DEPLOYMENTS:
        assert "replicas" not in find(manifests, "Deployment", name)["spec"]
    assert (
        find(parse(rendered["with gateway"]), "Deployment", DEPLOYMENTS[0])["spec"]["replicas"] == 2
    )
    trigger = find(manifests, "ScaledObject", "jobstatus-worker")["spec"]["triggers"][0]
    assert trigger["metadata"]["listName"] == "arq:queue"


def test_configuration(rendered: dict[str, str]) -> None:
    """What is configured exists; a change of it rolls the pods; no Secret is an environment."""
    known = set(re.findall(r"JOBSTATUS_[A-Z_]+", _help("jobstatus") + _help("jobstatus-worker")))
    for text in rendered.values():
        manifests = parse(text)
        for name in DEPLOYMENTS:
            container = pod(manifests, name)["containers"][0]
            (source,) = container["envFrom"]
            generated = source["configMapRef"]["name"]
            assert re.fullmatch(rf"{name}-[0-9a-z]{{10}}", generated)
            named = {*find(manifests, "ConfigMap", name)["data"], *_names(container)}
            assert named <= known, named - known
            assert all("valueFrom" not in each for each in container["env"])


def _names(container: Manifest) -> set[str]:
    return {each["name"] for each in container["env"]}


def _help(command: str) -> str:
    from tests.processes import run  # noqa: PLC0415

    sub = ["serve"] if command == "jobstatus" else []
    return run(command, *sub, "--help")[1]


def test_redis_tls(rendered: dict[str, str]) -> None:
    """The component gives both sides the files that its settings name."""
    manifests = parse(rendered["with redis-tls"])
    for name in DEPLOYMENTS:
        container = pod(manifests, name)["containers"][0]
        paths = {e["value"] for e in container["env"] if e["name"].startswith("JOBSTATUS_REDIS_")}
        folder = next(m["mountPath"] for m in container["volumeMounts"] if m["name"] == "redis-tls")
        assert {f"{folder}/{file}" for file in ("ca.crt", "tls.crt", "tls.key")} < paths


def test_dev_users() -> None:
    """The development overlay's Valkey has the users of the template, rule by rule."""
    template = [line for line in ACL.read_text().splitlines() if line.startswith("user")]
    for user in ("service", "worker", "keda"):
        template = [line.replace(f"{user.upper()}_PASSWORD", f"dev-{user}") for line in template]
    assert (ROOT / "overlays" / "dev" / "users.acl").read_text().splitlines() == template


def test_dev_key() -> None:
    """The development overlay's API key is `dev-key`."""
    from jobstatus_service.http.api_keys import digest, parse_keys  # noqa: PLC0415

    keys = parse_keys((ROOT / "overlays" / "dev" / "keys").read_text(), "job")
    assert keys.keys() == {digest("dev-key")}


def test_compose() -> None:
    """The one machine's services are hardened like the pods, and know each other by name."""
    compose: dict[str, Any] = yaml.safe_load((ROOT.parent / "compose.yaml").read_text())
    services = compose["services"]
    assert services.keys() == {"valkey", "service", "worker"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["user"] == "10001:10001"
    for side in ("service", "worker"):
        url = services[side]["environment"]["JOBSTATUS_REDIS_URL"]
        assert url == "redis://valkey:6379/0"
        assert services[side]["build"]["target"] == side
    assert services["service"]["ports"] == ["127.0.0.1:${PORT:-8000}:8000"]
    assert compose["networks"]["inside"] == {"internal": True}


def test_dockerfile() -> None:
    """Hadolint finds nothing in the Dockerfile."""
    file = ROOT.parent / "Dockerfile"
    done = subprocess.run(
        [tool("hadolint"), str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
