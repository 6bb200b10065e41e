"""A cluster that KUBECONFIG names, with the development overlay on it."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.deploy.kustomize import KUBERNETES
from tests.deploy.tools import tool

NAMESPACE = "jobstatus"


class Kubectl:
    """kubectl, in our namespace."""

    def __call__(self, *words: str, stdin: str | None = None, timeout: float = 180) -> str:
        """Run it; what it says."""
        done = subprocess.run(
            [tool("kubectl"), "-n", NAMESPACE, *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def python(self, code: str) -> str:
        """Run Python in a worker's pod."""
        return self("exec", "-i", "deployment/jobstatus-worker", "--", "python", "-", stdin=code)

    def rolled(self, deployment: str) -> None:
        """Wait until all pods of a Deployment are new and ready."""
        self("rollout", "status", f"deployment/{deployment}", "--timeout=170s")

    def pods(self, component: str) -> list[str]:
        """The names of pods."""
        label = f"app.kubernetes.io/component={component}"
        return self("get", "pods", "-l", label, "-o", "name").split()


@pytest.fixture(scope="session")
def kubectl() -> Iterator[Kubectl]:
    """The overlay `dev`, applied and ready; it is taken away again afterwards."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip(
            "no cluster: set KUBECONFIG, and load the images jobstatus-{service,worker}:dev"
        )
    run = Kubectl()
    dev = KUBERNETES / "overlays" / "dev"
    run("apply", "-k", str(dev))
    try:
        for name in ("valkey", "jobstatus-service", "jobstatus-worker"):
            run.rolled(name)
        yield run
    finally:
        run("delete", "-k", str(dev), "--wait=true", timeout=400)


_POLLER = """\
apiVersion: v1
kind: Pod
metadata:
  name: poller
  labels: {jobstatus/access: api}
spec:
  automountServiceAccountToken: false
  restartPolicy: Never
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: poller
      image: jobstatus-worker:dev
      imagePullPolicy: IfNotPresent
      command: [sleep, "3600"]
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
"""


@pytest.fixture(scope="session")
def poller(kubectl: Kubectl) -> Iterator[Any]:
    """Runs Python in a pod that may poll; another pod may not."""
    kubectl("apply", "-f", "-", stdin=_POLLER)
    egress = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "poller"},
        "spec": {
            "podSelector": {"matchLabels": {"jobstatus/access": "api"}},
            "policyTypes": ["Egress"],
            "egress": [{"ports": [{"protocol": "TCP", "port": 8000}]}],
        },
    }

    kubectl("apply", "-f", "-", stdin=json.dumps(egress))
    kubectl("wait", "--for=condition=Ready", "pod/poller", "--timeout=120s")

    def python(code: str) -> str:
        return kubectl("exec", "-i", "poller", "--", "python", "-", stdin=code)

    yield python
    kubectl("delete", "pod/poller", "networkpolicy/poller", "--grace-period=0", "--force")


def eventually(look: Any, timeout: float) -> Any:
    """What `look` returns as soon as that is true."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.5)
    return found
