"""The application's hooks decide on the outcome, the name and the error text of its jobs."""

from typing import Any

import arq
import pytest
from tests.worker.arq import app
from tests.worker.arq.conftest import ReadStatus, Work, enqueue

from jobstatus import JobState, Outcome, SettingsError
from jobstatus.arq import StatusRedis, StatusWorker, create_worker


def outcome_of(function: str, value: Any) -> Outcome | None:
    """Return the outcome of a job that reports a failure by what it returns."""
    assert function == "returned"
    match value:
        case {"status": "failed", "error": error}:
            return Outcome(JobState.FAILED, error)
        case {"status": "cancelled"}:
            return Outcome(JobState.ABORTED, "no longer wanted")
        case {"status": "again"}:
            return Outcome(JobState.RETRYING)
        case {"status": "raise"}:
            raise ValueError(value)
        case {"status": "other"}:
            return value["status"]  # type: ignore[no-any-return]
    return None


@pytest.mark.parametrize(
    ("value", "state", "reason"),
    [
        ({"status": "failed", "error": "no such file"}, "failed", "no such file"),
        ({"status": "cancelled"}, "aborted", "no longer wanted"),
        ({"status": "ok"}, "succeeded", None),
        ({"status": "again"}, "succeeded", None),
        ({"status": "raise"}, "succeeded", None),
        ({"status": "other"}, "succeeded", None),
    ],
)
async def test_outcome_of_a_returned_value(
    pool: StatusRedis, status: ReadStatus, work: Work, value: Any, state: str, reason: str | None
) -> None:
    """A returned value can be a failure; an error in the hook leaves the job succeeded."""
    job_id = await enqueue(pool, "returned", value)
    worker = await work(status_outcome=outcome_of)
    record = status(job_id)
    assert (record["state"], record.get("reason")) == (state, reason)
    assert worker.jobs_complete == 1


async def test_reported_outcome_comes_first(
    pool: StatusRedis, status: ReadStatus, work: Work
) -> None:
    """The outcome that the job itself has reported counts, not that of the hook."""
    job_id = await enqueue(pool, "explicit", "fail")
    await work(status_outcome=lambda *_: Outcome(JobState.ABORTED))
    assert (status(job_id)["state"], status(job_id)["reason"]) == ("failed", "nothing to do")


def name_of(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Return the name of a job that a dispatcher runs."""
    return f"{args[0]['status']}.task" if function == "returned" else None


async def test_name(redis_url: str, pool: StatusRedis, status: ReadStatus, work: Work) -> None:
    """A job has the name that the hook returns, from when it is enqueued until it has finished."""
    named = StatusRedis.wrap(pool, status_name=name_of)
    job_id = await enqueue(named, "returned", {"status": "resize"})
    plain_id = await enqueue(named, "add", 1, 2)
    broken_id = await enqueue(named, "returned", "not a dict")
    names = [status(each)["name"] for each in (job_id, plain_id, broken_id)]
    assert names == ["resize.task", "add", "returned"]
    await work(status_name=name_of)
    names = [status(each)["name"] for each in (job_id, plain_id, broken_id)]
    assert names == ["resize.task", "add", "returned"]
    assert status(job_id)["state"] == "succeeded"
    await named.aclose()


async def test_name_at_run_time(pool: StatusRedis, status: ReadStatus, work: Work) -> None:
    """A job can change its own name while it runs."""
    job_id = await enqueue(pool, "renamed", "resize")
    await work()
    assert (status(job_id)["name"], status(job_id)["state"]) == ("resize", "succeeded")


class Hooked(app.WorkerSettings):
    """Settings with a hook, as an application has them."""

    @staticmethod
    def status_error(error: BaseException) -> str:
        """Leave out what the message says of the customer."""
        return str(error).replace("customer", "***")


async def test_error_text(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored of an exception is decided by the setting and by the application's hook."""
    plain, redacted = [await enqueue(pool, "report_retry_and_raise") for _ in range(2)]
    await work(max_burst_jobs=1)
    await work(Hooked)
    reasons = {status(plain)["reason"], status(redacted)["reason"]}
    assert reasons == {"ValueError: no such customer", "ValueError: no such ***"}
    monkeypatch.setenv("JOBSTATUS_ERROR_DETAIL", "type")
    job_id = await enqueue(pool, "always_again_after", "secret")
    await work(status=None, max_burst_jobs=1)
    assert status(job_id)["reason"] == "attempt 1 of 5 failed: ValueError; next at once"
    monkeypatch.setenv("JOBSTATUS_ERROR_DETAIL", "none")
    await work(status=None)
    assert status(job_id)["reason"] == "failed after 5 attempts: the last one failed"


async def test_setting_that_is_not_a_function() -> None:
    """A hook that is not a function is an error at the start that names it."""
    with pytest.raises(SettingsError, match="status_outcome must be a function, not 'nonsense'"):
        create_worker(app.WorkerSettings, status_outcome="nonsense")


async def test_unknown_setting(caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt setting is a warning that names the one that was meant."""
    create_worker({"functions": [app.add], "status_outcom": outcome_of, "handle_signals": False})
    assert "setting status_outcom is ignored: did you mean status_outcome?" in caplog.text


async def test_worker_class_without_status() -> None:
    """A worker class that publishes no status is an error."""
    with pytest.raises(TypeError, match="must be derived from StatusWorker: Worker"):
        create_worker(app.WorkerSettings, worker_class=arq.Worker)  # type: ignore[arg-type]


async def test_queue_of_a_worker_in_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without settings for Redis uses the queue that the environment names."""
    monkeypatch.setenv("JOBSTATUS_REDIS_URL", "redis://10.0.0.7:1234/3")
    settings = StatusWorker(functions=[app.add], handle_signals=False).redis_settings
    assert settings is not None
    assert (settings.host, settings.port, settings.database) == ("10.0.0.7", 1234, 3)
