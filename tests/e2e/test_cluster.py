"""On a real cluster: `KUBECONFIG=... pytest tests/e2e`.

The images `jobstatus-service:dev` and `jobstatus-worker:dev` must be on its nodes (`kind load`,
`k3s ctr images import`, or a registry and a patch). Nothing else is needed.
"""

import json
import threading
import time
from typing import Any

from tests.e2e.conftest import Kubectl, eventually

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
        with urllib.request.urlopen(request, timeout=70) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)

{code}
"""


def enqueue(kubectl: Kubectl, seconds: int) -> str:
    """Enqueue a job from a worker's pod; its UUID."""
    return kubectl.python(_ENQUEUE.format(seconds=seconds)).strip()


def polled(poller: Any, code: str, key: str = "dev-key") -> Any:
    """What the code, run in the poller's pod, prints as JSON."""
    return json.loads(poller(_POLL.format(code=code, key=key)).splitlines()[-1])


def state(poller: Any, job: str) -> str:
    """A job's state, through the Service."""
    status, body = polled(poller, f"print(json.dumps(get('/api/jobs/{job}')))")
    assert status == 200, body
    return str(body["state"])


def test_life_of_a_job(kubectl: Kubectl, poller: Any) -> None:
    """A job that is enqueued in one pod is seen from another, from its beginning to its end."""
    job = enqueue(kubectl, 5)
    seen = polled(
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
    """Every pod was admitted under the standard that the namespace enforces, and is ready."""
    namespace = json.loads(kubectl("get", "namespace", "jobstatus", "-o", "json"))
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in json.loads(kubectl("get", "pods", "-o", "json"))["items"]:
        ready = {c["type"]: c["status"] for c in pod["status"]["conditions"]}["Ready"]
        assert ready == "True", pod["metadata"]["name"]


def test_rollout_under_load(kubectl: Kubectl, poller: Any) -> None:
    """The service is rolled while it is polled, and no request fails."""
    job = enqueue(kubectl, 120)
    found: list[Any] = []
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
    load = threading.Thread(target=lambda: found.append(polled(poller, code)))
    load.start()
    time.sleep(3)
    kubectl("rollout", "restart", "deployment/jobstatus-service")
    kubectl.rolled("jobstatus-service")
    load.join()
    assert found[0].keys() == {"200"}, found


def test_killed_worker(kubectl: Kubectl, poller: Any) -> None:
    """A worker that is killed leaves no job running for ever."""
    job = enqueue(kubectl, 100)
    eventually(lambda: state(poller, job) == "in_progress", 30)
    kubectl("delete", "--grace-period=0", "--force", *kubectl.pods("worker"))
    eventually(lambda: state(poller, job) == "unknown", 60)
    kubectl.rolled("jobstatus-worker")


def test_api_key_rotates(kubectl: Kubectl, poller: Any) -> None:
    """A new key is taken from the Secret by running pods, and an old one ends."""
    from jobstatus_service.http.api_keys import digest  # noqa: PLC0415

    before = kubectl("get", "pods", "-l", "app.kubernetes.io/component=service", "-o", "name")

    def put(*keys: str) -> None:
        lines = "".join(f"dev {digest(key)}\n" for key in keys)
        patch = json.dumps({"stringData": {"keys": lines}})
        kubectl("patch", "secret", "jobstatus-api-keys", "-p", patch)

    def status(key: str) -> int:
        code = "print(json.dumps(get('/api/jobs/67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8')))"
        return int(polled(poller, code, key)[0])

    try:
        put("dev-key", "new-key")
        eventually(lambda: [status("new-key") for _ in range(5)] == [200] * 5, 180)
        assert status("dev-key") == 200
        put("new-key")
        eventually(lambda: [status("dev-key") for _ in range(5)] == [401] * 5, 180)
    finally:
        put("dev-key")
    after = kubectl("get", "pods", "-l", "app.kubernetes.io/component=service", "-o", "name")
    assert before == after


def test_who_may_poll(kubectl: Kubectl) -> None:
    """A pod without the label can't reach the service, where the network enforces policies."""
    code = (
        "import socket\n"
        "try:\n"
        "    socket.create_connection(('jobstatus', 80), timeout=3).close()\n"
        "    print('reached')\n"
        "except OSError:\n"
        "    print('kept away')\n"
    )
    assert kubectl.python(code).strip() == "kept away"
