"""The recipe for the background tasks of FastAPI."""

import contextlib

import httpx
from tests.processes import free_port
from tests.worker.recipes.queue_recipe import QueueRecipe, found_by

JOBS = """
from gates import wait_async


def fail():
    current_job().progress(30)
    raise ValueError("no such customer")


async def hold(gate, percent):
    current_job().progress(percent)
    await wait_async(gate)


@app.post("/jobs")
def create_jobs(gate: str, percent: int, background: BackgroundTasks):
    jobs = (hold, gate, percent), (render, 5), (fail,), (render, 5)
    return [add_job(background, *job) for job in jobs]
"""


def test_background_tasks(recipe: QueueRecipe) -> None:
    """Background tasks are shown from the response to their outcomes."""
    recipe.write("background_status.py", "fastapi_app.py", JOBS)
    port = free_port()
    server = recipe.start("-m", "uvicorn", "fastapi_app:app", "--port", str(port))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

        def job_of_response() -> str | None:
            with contextlib.suppress(httpx.TransportError):
                response = client.post("/renderings", params={"frames": 5})
                return str(response.raise_for_status().json()["job"])
            return None

        rendered = recipe.until(found_by(job_of_response), "succeeded")
        assert (rendered.name, rendered.progress) == ("render", 100)
        first, *waiting = client.post("/jobs", params={"gate": "one", "percent": 20}).json()
        second, *_ = client.post("/jobs", params={"gate": "two", "percent": 70}).json()
    created = recipe.until(first, "in_progress", 20).created
    recipe.until(second, "in_progress", 70)
    assert [recipe.until(job, "pending").attempt for job in waiting] == [0, 0, 0]
    recipe.open("one")
    succeeded = recipe.until(first, "succeeded")
    assert (succeeded.progress, succeeded.created) == (100, created)
    after_it, failing, never_run = waiting
    assert recipe.until(after_it, "succeeded").progress == 100
    failed = recipe.until(failing, "failed")
    assert (failed.reason, failed.progress) == ("ValueError: no such customer", 30)
    assert recipe.record(never_run).state == "pending"
    server.terminate()
    recipe.open("two")
    server.wait(30)
    assert recipe.record(second).state == "succeeded"
