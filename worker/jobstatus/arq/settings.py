"""Settings of a worker process, beside those of its publisher."""

from dataclasses import dataclass

from jobstatus.settings import PublisherSettings, choice, env, number, redis_url, whole_number


@dataclass(frozen=True, kw_only=True)
class ProcessSettings(PublisherSettings):
    """How a worker process runs.

    Attributes:
        queue_url: Where the queue is; None: where the status is.
        queue_url_file: The file that this was read from.
        completion_wait: Seconds that jobs get to complete when the worker is told to stop; None:
            as the code says. What isn't over by then is handed back.
        metrics_port: Where metrics and the liveness probe are served, on every address; 0: nowhere.
        log_format: `text` or `json`.
    """

    queue_url: str | None = env("QUEUE_URL", redis_url, secret=True, in_file=True)
    queue_url_file: str | None = None
    job_completion_wait: float | None = env("JOB_COMPLETION_WAIT", number(0, 604_800))
    metrics_port: int = env("METRICS_PORT", whole_number(0, 65_535), 0)
    log_format: str = env("LOG_FORMAT", choice("text", "json"), "text")
