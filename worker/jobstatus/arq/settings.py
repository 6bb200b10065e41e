"""Settings of a worker process, beside those of its publisher."""

from dataclasses import dataclass

from jobstatus.logs import log_format
from jobstatus.settings import Parse, PublisherSettings, env, redis_url, seconds


def port(text: str) -> int:
    """A TCP port; 0 for none."""
    number = int(text)
    if not 0 <= number < 65_536:  # noqa: PLR2004
        raise ValueError("must be 0 to 65535")
    return number


_LONG: Parse = seconds(0, 604_800)


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

    queue_url: str | None = env("QUEUE_URL", redis_url, secret=True)
    queue_url_file: str | None = None
    job_completion_wait: float | None = env("JOB_COMPLETION_WAIT", _LONG)
    metrics_port: int = env("METRICS_PORT", port, 0)
    log_format: str = env("LOG_FORMAT", log_format, "text")
