"""Fixtures that deploy the development overlay on the cluster that KUBECONFIG names."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest
from tests.deploy.kustomize import KUBERNETES
from tests.deploy.tools import tool

NAMESPACE = "jobstatus"


class Kubectl:
    """Runs kubectl in the namespace of the overlay."""

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 180) -> str:
        """Run kubectl, return what it prints, and fail the test if its exit status is not 0."""
        done = subprocess.run(
            [tool("kubectl"), "-n", NAMESPACE, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def python(self, code: str) -> str:
        """Run Python code in the pod of a worker; return what it prints."""
        return self("exec", "-i", "deployment/jobstatus-worker", "--", "python", "-", stdin=code)

    def wait_for_rollout(self, deployment: str) -> None:
        """Wait until all pods of a Deployment are up to date and ready."""
        self("rollout", "status", f"deployment/{deployment}", "--timeout=170s")

    def pods(self, component: str) -> list[str]:
        """Return the names of the pods of the service or of the workers."""
        label = f"app.kubernetes.io/component={component}"
        return self("get", "pods", "-l", label, "-o", "name").split()


@pytest.fixture(scope="session")
def kubectl() -> Iterator[Kubectl]:
    """Apply the overlay `dev`, and delete it after the tests."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip(
            "KUBECONFIG names no cluster; set it, and load the images jobstatus-service:dev and "
            "jobstatus-worker:dev onto the nodes"
        )
    run = Kubectl()
    dev = KUBERNETES / "overlays" / "dev"
    run("apply", "-k", str(dev))
    try:
        for name in ("valkey", "jobstatus-service", "jobstatus-worker"):
            run.wait_for_rollout(name)
        yield run
    finally:
        run("delete", "-k", str(dev), "--wait=true", timeout=400)


RunPython = Callable[[str], str]
"""Runs Python code in a pod, and returns what it prints."""

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
def poller(kubectl: Kubectl) -> Iterator[RunPython]:
    """Run Python code in a pod that may connect to the service, which other pods may not."""
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
