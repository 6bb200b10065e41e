"""Render the manifests as they would be applied."""

import functools
from pathlib import Path
from typing import Any

import yaml
from tests.deploy.tools import run_tool
from tests.processes import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())

Manifest = dict[str, Any]


@functools.cache
def overlay(name: str) -> str:
    """Render an overlay."""
    return render(KUBERNETES / "overlays" / name)


def render(folder: Path) -> str:
    """Render a folder that contains a kustomization, and fail if kustomize prints a warning."""
    done = run_tool("kubectl", "kustomize", folder)
    assert not done.stderr, done.stderr
    return done.stdout


def with_components(folder: Path, *names: str) -> str:
    """Render all bases with some components, using `folder` for a temporary kustomization."""
    lines = [
        "apiVersion: kustomize.config.k8s.io/v1beta1",
        "kind: Kustomization",
        "namespace: jobstatus",
        "resources:",
        *(f"  - {_relative(folder)}/base/{base}" for base in ("namespace", "service", "worker")),
        "components:",
        *(f"  - {_relative(folder)}/components/{name}" for name in names),
    ]
    (folder / "kustomization.yaml").write_text("\n".join(lines) + "\n")
    return render(folder)


def _relative(folder: Path) -> str:
    """Return the relative path from a folder to the manifests: kustomize needs a relative one."""
    return "../" * (len(folder.resolve().parts) - 1) + str(KUBERNETES).lstrip("/")


def parse(text: str) -> list[Manifest]:
    """Return the manifests in a rendered text."""
    return [each for each in yaml.safe_load_all(text) if each]


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Return the only manifest of that kind and name, ignoring a hash that kustomize appended."""
    (found,) = [
        each
        for each in manifests
        if each["kind"] == kind
        and (
            each["metadata"]["name"] == name or each["metadata"]["name"].rpartition("-")[0] == name
        )
    ]
    return found


def pod(manifests: list[Manifest], name: str) -> Manifest:
    """Return the specification of the pods of a Deployment."""
    spec: Manifest = find(manifests, "Deployment", name)["spec"]["template"]["spec"]
    return spec
