"""The recipe for Celery."""

from tests.worker.recipes.queue_recipe import QueueRecipe, check_flow, lines_of

JOBS = """
from gates import wait_for


@app.task
def fail():
    current_job().progress(30)
    raise ValueError("no such customer")


@app.task(bind=True)
def try_twice(self):
    if self.request.retries:
        return
    current_job().progress(50)
    wait_for("retry")
    raise self.retry(exc=TimeoutError("slow"), countdown=0)


@app.task
def hold(gate, percent):
    current_job().progress(percent)
    wait_for(gate)


@app.task(autoretry_for=[TimeoutError], max_retries=1, default_retry_delay=0, retry_backoff=False)
def fail_twice():
    raise TimeoutError("too slow")
"""

CLIENT = """
from celery_app import *


def revoke(job, **options):
    for _ in range(60):  # the worker may not listen yet
        if app.control.revoke(job.id, reply=True, limit=1, timeout=1, **options):
            return
    raise TimeoutError


jobs = [
    fail.delay(),
    try_twice.delay(),
    hold.delay("both", 20),
    hold.delay("both", 70),
    render.delay(5),
    render.delay(5),
]
print(*[job.id for job in jobs], sep="\\n", flush=True)
revoke(jobs[-1])
print("revoked", flush=True)
wait_for("more")
jobs = [fail_twice.delay(), render.apply_async([5], expires=-1), hold.delay("end", 40)]
print(*[job.id for job in jobs], sep="\\n", flush=True)
wait_for("terminate")
revoke(jobs[2], terminate=True)
print(hold.delay("stop", 90).id, flush=True)
"""


def test_celery(recipe: QueueRecipe) -> None:
    """Jobs of a Celery worker with child processes are shown from the queue to their outcomes."""
    recipe.write("celery_status.py", "celery_app.py", JOBS)
    client = recipe.start("-c", CLIENT)
    options = ("--concurrency", "2", "--without-gossip", "--without-mingle", "--without-heartbeat")
    worker = recipe.start("-m", "celery", "--app", "celery_app", "worker", *options)
    *flow, not_needed, _ = lines_of(client, 7)
    check_flow(recipe, flow)
    aborted = recipe.until(not_needed, "aborted")
    assert (aborted.reason, aborted.progress) == ("revoked", None)
    recipe.open("more")
    given_up, expired, terminated = lines_of(client, 3)
    failed = recipe.until(given_up, "failed")
    assert (failed.reason, failed.attempt) == ("TimeoutError: too slow", 2)
    assert recipe.has_one_run(given_up)
    assert recipe.until(expired, "aborted").reason == "expired"
    created = recipe.until(terminated, "in_progress", 40).created
    recipe.open("terminate")
    aborted = recipe.until(terminated, "aborted")
    assert (aborted.reason, aborted.progress, aborted.created) == ("revoked", 40, created)
    (stopped,) = lines_of(client)
    recipe.until(stopped, "in_progress", 90)
    worker.terminate()
    recipe.open("stop")
    assert worker.wait(30) == 0
    assert recipe.record(stopped).state == "succeeded"
