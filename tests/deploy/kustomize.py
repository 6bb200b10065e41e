"""The manifests as they would be applied."""

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml
from tests.deploy.tools import tool

ROOT = Path(__file__).parents[2] / "deploy" / "kubernetes"
COMPONENTS = sorted(path.name for path in (ROOT / "components").iterdir())
OVERLAYS = sorted(path.name for path in (ROOT / "overlays").iterdir())

Manifest = dict[str, Any]


@functools.cache
def overlay(name: str) -> str:
    """An overlay, rendered."""
    return render(ROOT / "overlays" / name)


def render(folder: Path) -> str:
    """A folder with a kustomization, rendered."""
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def with_components(folder: Path, *names: str) -> str:
    """Both bases with components, rendered."""
    lines = [
        "apiVersion: kustomize.config.k8s.io/v1beta1",
        "kind: Kustomization",
        "namespace: jobstatus",
        "resources:",
        *(f"  - {_from(folder)}/base/{base}" for base in ("namespace", "service", "worker")),
        "components:",
        *(f"  - {_from(folder)}/components/{name}" for name in names),
    ]
    (folder / "kustomization.yaml").write_text("\n".join(lines) + "\n")
    return render(folder)


def _from(folder: Path) -> str:
    """The way from there to our manifests: kustomize takes no absolute path."""
    return "../" * (len(folder.resolve().parts) - 1) + str(ROOT).lstrip("/")


def parse(text: str) -> list[Manifest]:
    """The manifests in a rendered text."""
    return [each for each in yaml.safe_load_all(text) if each]


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one of that kind and name; kustomize's hash at its end is passed over."""
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
    """The pod's spec of a Deployment."""
    spec: Manifest = find(manifests, "Deployment", name)["spec"]["template"]["spec"]
    return spec
