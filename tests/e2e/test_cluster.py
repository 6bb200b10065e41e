"""The development overlay works on a real Kubernetes cluster: `KUBECONFIG=... pytest tests/e2e`.

The nodes need the images `jobstatus-service:dev` and `jobstatus-worker:dev` (`kind load
docker-image`, `k3s ctr images import`, or a registry and a patch).
"""

import json
import threading
import time
from functools import partial
from typing import Any

from tests.e2e.conftest import Kubectl, RunPython
from tests.waiting import eventually

from jobstatus_service.http.api_keys import digest

eventually_in_cluster = partial(eventually, interval=0.5)

_ENQUEUE = """\
import asyncio
from jobstatus import job_uuid
from jobstatus.arq import create_pool

async def main():
    pool = await create_pool()
    job = await pool.enqueue_job("countdown", {seconds})
    await pool.aclose()
    print(job_uuid(job.job_id))

asyncio.run(main())
"""

_POLL = """\
import json, urllib.error, urllib.request

def get(path, key={key!r}):
    request = urllib.request.Request("http://jobstatus" + path, headers={{"Authorization": key}})
    try:
        with urllib.request.urlopen(request, timeout=70) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)

{code}
"""


def enqueue(kubectl: Kubectl, seconds: int) -> str:
    """Enqueue a job of that duration from the pod of a worker; return its UUID."""
    return kubectl.python(_ENQUEUE.format(seconds=seconds)).strip()


def run_json(poller: RunPython, code: str, key: str = "dev-key") -> Any:
    """Run code, which may call `get(path)`, in the poller's pod; decode the last printed line."""
    return json.loads(poller(_POLL.format(code=code, key=key)).splitlines()[-1])


def state(poller: RunPython, job: str) -> str:
    """Return the state of a job that the service shows."""
    status, body = run_json(poller, f"print(json.dumps(get('/api/jobs/{job}')))")
    assert status == 200, body
    return str(body["state"])


def test_states_of_a_job(kubectl: Kubectl, poller: RunPython) -> None:
    """A poller in another pod sees each state of a job in order."""
    job = enqueue(kubectl, 5)
    seen = run_json(
        poller,
        f"seen = []\n"
        f"while not seen or seen[-1] not in ('succeeded', 'failed', 'aborted'):\n"
        f"    state = get('/api/jobs/{job}?wait=30')[1]['state']\n"
        f"    seen += [state] * (state not in seen[-1:])\n"
        f"print(json.dumps(seen))",
    )
    assert seen[-1] == "succeeded"
    assert set(seen) <= {"pending", "in_progress", "succeeded"}


def test_pods_are_restricted(kubectl: Kubectl) -> None:
    """Every pod is ready in a namespace that enforces the `restricted` standard."""
    namespace = json.loads(kubectl("get", "namespace", "jobstatus", "-o", "json"))
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in json.loads(kubectl("get", "pods", "-o", "json"))["items"]:
        conditions = pod["status"]["conditions"]
        ready = {condition["type"]: condition["status"] for condition in conditions}["Ready"]
        assert ready == "True", pod["metadata"]["name"]


def test_rollout_under_load(kubectl: Kubectl, poller: RunPython) -> None:
    """No request fails while the pods of the service are replaced."""
    job = enqueue(kubectl, 120)
    counts: list[Any] = []
    code = (
        "import time\n"
        "statuses, end = {}, time.time() + 60\n"
        "while time.time() < end:\n"
        "    try:\n"
        f"        status = get('/api/jobs/{job}')[0]\n"
        "    except OSError as error:\n"
        "        status = repr(error)\n"
        "    statuses[status] = statuses.get(status, 0) + 1\n"
        "print(json.dumps(statuses))"
    )
    load = threading.Thread(target=lambda: counts.append(run_json(poller, code)))
    load.start()
    time.sleep(3)
    kubectl("rollout", "restart", "deployment/jobstatus-service")
    kubectl.wait_for_rollout("jobstatus-service")
    load.join()
    assert counts[0].keys() == {"200"}, counts


def test_killed_worker(kubectl: Kubectl, poller: RunPython) -> None:
    """A job is shown as unknown after its worker has been killed."""
    job = enqueue(kubectl, 100)
    eventually_in_cluster(lambda: state(poller, job) == "in_progress", 30)
    kubectl("delete", "--grace-period=0", "--force", *kubectl.pods("worker"))
    eventually_in_cluster(lambda: state(poller, job) == "unknown", 60)
    kubectl.wait_for_rollout("jobstatus-worker")


def test_rotated_api_key(kubectl: Kubectl, poller: RunPython) -> None:
    """Running pods accept a key that is added to the Secret, and reject one that is removed."""
    before = kubectl.pods("service")

    def set_keys(*keys: str) -> None:
        lines = "".join(f"dev {digest(key)}\n" for key in keys)
        patch = json.dumps({"stringData": {"keys": lines}})
        kubectl("patch", "secret", "jobstatus-api-keys", "-p", patch)

    def status(key: str) -> int:
        code = "print(json.dumps(get('/api/jobs/67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8')))"
        return int(run_json(poller, code, key)[0])

    try:
        set_keys("dev-key", "new-key")
        eventually_in_cluster(lambda: [status("new-key") for _ in range(5)] == [200] * 5, 180)
        assert status("dev-key") == 200
        set_keys("new-key")
        eventually_in_cluster(lambda: [status("dev-key") for _ in range(5)] == [401] * 5, 180)
    finally:
        set_keys("dev-key")
    assert kubectl.pods("service") == before


def test_network_policy(kubectl: Kubectl) -> None:
    """A pod without the label cannot connect to the service, if the network enforces policies."""
    code = (
        "import socket\n"
        "try:\n"
        "    socket.create_connection(('jobstatus', 80), timeout=3).close()\n"
        "    print('connected')\n"
        "except OSError:\n"
        "    print('not connected')\n"
    )
    assert kubectl.python(code).strip() == "not connected"
