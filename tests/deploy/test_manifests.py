"""The manifests are valid and hardened, and match the documentation and the settings."""

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
    KUBERNETES,
    OVERLAYS,
    find,
    overlay,
    parse,
    pod,
    with_components,
)
from tests.deploy.tools import TOOLS, run_tool, tool
from tests.processes import run

from jobstatus_service.http.api_keys import digest, parse_keys

DEPLOYMENTS = ("jobstatus-service", "jobstatus-worker")

CUSTOM_KINDS = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PodMonitor"}
CUSTOM_KINDS |= {"PrometheusRule", "HTTPRoute"}
"""Kinds that are not part of Kubernetes, so the validator has no schemas for them."""

IGNORED_CHECKS = {
    "CKV_K8S_11": "there is no CPU limit, because throttling delays requests",
    "CKV_K8S_14": "the user sets the tag of the pushed images",
    "CKV_K8S_15": "tags are pinned; images that were loaded onto a node (kind, k3s) must be used",
    "CKV_K8S_43": "digests are only known after the images have been pushed",
    "CKV_K8S_9": "a worker receives no requests, so it needs no readiness probe",
}
"""The ids of checkov's checks that the manifests do not pass, each with the reason."""


NEEDED = {"ingress-page": ["ingress"], "gateway-page": ["gateway"]}
"""Components that others change."""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every overlay, the bases with each component and what it needs, and with all combined."""
    folder = tmp_path_factory.mktemp("kustomize")
    found = {name: overlay(name) for name in OVERLAYS}
    combined = [name for name in COMPONENTS if not name.startswith("gateway")]
    alone = [(name, [*NEEDED.get(name, []), name]) for name in COMPONENTS]
    for title, names in [*alone, ("all", combined)]:
        (folder / title).mkdir()
        found[f"with {title}"] = with_components(folder / title, *names)
    return found


def test_overlays_and_components() -> None:
    """The overlays and components are those of the documentation."""
    assert OVERLAYS == ["dev", "production"]
    known = ["gateway", "gateway-page", "hpa", "ingress", "ingress-page", "keda", "monitoring"]
    assert [*known, "redis-tls"] == COMPONENTS


@pytest.mark.parametrize(
    ("component", "paths"),
    [
        ("ingress", ["/api/jobs"]),
        ("gateway", ["/api/jobs"]),
        ("ingress-page", ["/api/jobs", "/", "/assets"]),
        ("gateway-page", ["/api/jobs", "/", "/assets"]),
        ("all", ["/api/jobs", "/", "/assets"]),
    ],
)
def test_exposed_paths(rendered: dict[str, str], component: str, paths: list[str]) -> None:
    """Only the API is exposed outside the cluster, unless a component adds the page."""
    manifests = parse(rendered[f"with {component}"])
    if component.startswith("gateway"):
        (rule,) = find(manifests, "HTTPRoute", "jobstatus")["spec"]["rules"]
        found = [match["path"]["value"] for match in rule["matches"]]
    else:
        (rule,) = find(manifests, "Ingress", "jobstatus")["spec"]["rules"]
        found = [path["path"] for path in rule["http"]["paths"]]
    assert found == paths


@pytest.mark.parametrize("version", ["1.29", "1.32", "1.35"])
def test_schemas(rendered: dict[str, str], tmp_path: Path, version: str) -> None:
    """The manifests match the schemas of this version of Kubernetes, and have no unknown field."""
    for name, text in rendered.items():
        own = [each for each in parse(text) if each["kind"] not in CUSTOM_KINDS]
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump_all(own))
        run_tool("kubernetes-validate", "--strict", "-k", version, file)


def test_checkov(rendered: dict[str, str], tmp_path: Path) -> None:
    """Checkov reports only the checks that are ignored, and all of these."""
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
    unexpected = {each for each in unexpected if each[0] not in IGNORED_CHECKS}
    assert not unexpected, "\n".join(map(str, sorted(unexpected)))
    unneeded = IGNORED_CHECKS.keys() - {f["check_id"] for f in failed}
    assert not unneeded, f"ignored, but not reported: {unneeded}"


@pytest.mark.parametrize("name", ["dev", "production", "with all"])
def test_restricted(rendered: dict[str, str], name: str) -> None:
    """Every pod meets the `restricted` standard, which its namespace enforces.

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
    """Every selector matches exactly the pods that it is meant for."""
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
    (rule,) = find(manifests, "NetworkPolicy", "jobstatus-service")["spec"]["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"] == {"jobstatus/access": "api"}
    assert "ingress" not in find(manifests, "NetworkPolicy", "jobstatus-worker")["spec"]
    assert find(manifests, "NetworkPolicy", "default-deny")["spec"]["podSelector"] == {}


def test_termination() -> None:
    """Before a pod is killed, the service has time to drain, and a worker to finish its jobs."""
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


def test_autoscaled_deployments_have_no_replicas(rendered: dict[str, str]) -> None:
    """A Deployment that an autoscaler scales does not set the number of replicas."""
    manifests = parse(rendered["with all"])
    for name in DEPLOYMENTS:
        assert "replicas" not in find(manifests, "Deployment", name)["spec"]
    assert (
        find(parse(rendered["with gateway"]), "Deployment", DEPLOYMENTS[0])["spec"]["replicas"] == 2
    )
    trigger = find(manifests, "ScaledObject", "jobstatus-worker")["spec"]["triggers"][0]
    assert trigger["metadata"]["listName"] == "arq:queue"


def test_configuration(rendered: dict[str, str]) -> None:
    """Every setting exists, a change restarts the pods, and no variable comes from a Secret."""
    help_texts = run("jobstatus", "serve", "--help")[1] + run("jobstatus-worker", "--help")[1]
    known = set(re.findall(r"JOBSTATUS_[A-Z_]+", help_texts))
    for text in rendered.values():
        manifests = parse(text)
        for name in DEPLOYMENTS:
            container = pod(manifests, name)["containers"][0]
            (source,) = container["envFrom"]
            generated = source["configMapRef"]["name"]
            assert re.fullmatch(rf"{name}-[0-9a-z]{{10}}", generated)
            variables = {variable["name"] for variable in container["env"]}
            named = {*find(manifests, "ConfigMap", name)["data"], *variables}
            assert named <= known, named - known
            assert all("valueFrom" not in variable for variable in container["env"])


def test_redis_tls(rendered: dict[str, str]) -> None:
    """The component mounts the files that the TLS settings of both Deployments name."""
    manifests = parse(rendered["with redis-tls"])
    for name in DEPLOYMENTS:
        container = pod(manifests, name)["containers"][0]
        paths = {e["value"] for e in container["env"] if e["name"].startswith("JOBSTATUS_REDIS_")}
        folder = next(m["mountPath"] for m in container["volumeMounts"] if m["name"] == "redis-tls")
        assert {f"{folder}/{file}" for file in ("ca.crt", "tls.crt", "tls.key")} < paths


def test_dev_users() -> None:
    """The Valkey server of the development overlay has exactly the users of deploy/redis."""
    template = [line for line in ACL.read_text().splitlines() if line.startswith("user")]
    for user in ("service", "worker", "keda"):
        template = [line.replace(f"{user.upper()}_PASSWORD", f"dev-{user}") for line in template]
    assert (KUBERNETES / "overlays" / "dev" / "users.acl").read_text().splitlines() == template


def test_dev_key() -> None:
    """The API key of the development overlay is `dev-key`."""
    keys = parse_keys((KUBERNETES / "overlays" / "dev" / "keys").read_text(), "job")
    assert keys.keys() == {digest("dev-key")}


def test_compose() -> None:
    """The containers of compose.yaml are hardened like the pods, and use the same Valkey."""
    compose: dict[str, Any] = yaml.safe_load((KUBERNETES.parent / "compose.yaml").read_text())
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
    """Hadolint reports no problem in the Dockerfile."""
    run_tool("hadolint", KUBERNETES.parent / "Dockerfile")
