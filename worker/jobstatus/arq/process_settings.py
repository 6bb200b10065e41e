"""Settings of a worker process, in addition to those of its publisher."""

from dataclasses import dataclass

from jobstatus.settings import PublisherSettings, choice, env, number, redis_url, whole_number


@dataclass(frozen=True, kw_only=True)
class ProcessSettings(PublisherSettings):
    """How a worker process runs.

    Attributes:
        queue_url: The URL of the queue's Redis; None: that of the status.
        queue_url_file: The file from which this was read.
        job_completion_wait: Seconds for which a stopping worker waits for its running jobs; None:
            from arq's settings. Jobs that have not finished by then are returned to the queue.
        metrics_port: The TCP port of the metrics and the liveness probe, on every address; 0: none.
        log_format: `text` or `json`.
    """

    queue_url: str | None = env("QUEUE_URL", redis_url, secret=True, in_file=True)
    queue_url_file: str | None = None
    job_completion_wait: float | None = env("JOB_COMPLETION_WAIT", number(0, 604_800))
    metrics_port: int = env("METRICS_PORT", whole_number(0, 65_535), 0)
    log_format: str = env("LOG_FORMAT", choice("text", "json"), "text")
