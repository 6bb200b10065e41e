"""OpenTelemetry traces: enqueue → attempt → status writes, and requests. Off unless asked for.

`JOBSTATUS_TRACES=1` turns them on; where they go, OpenTelemetry's own variables say, such as
`OTEL_EXPORTER_OTLP_ENDPOINT` (https://opentelemetry.io/docs/specs/otel/configuration/). The trace
goes with the job as a W3C `traceparent` (https://www.w3.org/TR/trace-context/) in arq's payload.
"""

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from jobstatus.errors import MissingExtraError, SettingsError

VARIABLE: Final = "JOBSTATUS_TRACES"

TRACE_FIELD: Final = "jobstatus"
"""The member of arq's payload of a job that holds the `traceparent`; arq passes over it."""


def is_on() -> bool:
    """Whether traces are asked for.

    Raises:
        SettingsError: the variable is no switch.
    """
    word = os.environ.get(VARIABLE, "").lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word not in {"", "0", "false", "no", "off"}:
        raise SettingsError(f"{VARIABLE}: {word!r} can't be used: must be 1 or 0")
    return False


def tracer(service: str = "jobstatus") -> "Tracer | None":
    """The process's tracer; None where traces are not asked for.

    Args:
        service: The service's name, unless `OTEL_SERVICE_NAME` says one.

    Raises:
        MissingExtraError: they are asked for, and OpenTelemetry isn't installed.
    """
    return _tracer(service) if is_on() else None


@functools.cache
def _tracer(service: str) -> "Tracer":
    try:
        return Tracer(service)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{VARIABLE} is set, and {error.name} is missing: pip install 'jobstatus[otel]'"
        ) from None


def told(span: Any, state: str, seconds: float) -> None:
    """A change of state was written, which took so long, as a child of `span`."""
    traces = tracer()
    if traces is not None:
        traces.wrote(span, state, seconds)


class Tracer:
    """Makes spans. Where a provider was set by somebody else's code it is used."""

    def __init__(self, service: str) -> None:
        from opentelemetry import propagate, trace  # noqa: PLC0415 - an extra

        self._trace: Any = trace
        self._propagate: Any = propagate
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(_provider(service))
        self._tracer = trace.get_tracer("jobstatus")

    @contextlib.contextmanager
    def span(
        self,
        name: str,
        kind: str,
        carrier: Mapping[str, str] | None = None,
        **attributes: str | int,
    ) -> Iterator[Any]:
        """A span around a block, the current one meanwhile.

        Args:
            name: What happens.
            kind: `PRODUCER`, `CONSUMER`, `SERVER` or `CLIENT`.
            carrier: Headers with the `traceparent` of what led to it.
            **attributes: What is known of it; `_` in a name stands for a dot.
        """
        context = None if carrier is None else self._propagate.extract(carrier)
        with self._tracer.start_as_current_span(
            name,
            context,
            kind=getattr(self._trace.SpanKind, kind),
            attributes={key.replace("_", "."): value for key, value in attributes.items()},
        ) as span:
            yield span

    def carrier(self) -> dict[str, str]:
        """The current span's `traceparent`."""
        found: dict[str, str] = {}
        self._propagate.inject(found)
        return found

    def wrote(self, parent: Any, state: str, seconds: float) -> None:
        """A change of state was written, which took so long, as a child of `parent`."""
        end = time.time_ns()
        span = self._tracer.start_span(
            f"status {state}",
            self._trace.set_span_in_context(parent),
            kind=self._trace.SpanKind.CLIENT,
            attributes={"job.state": state, "db.system.name": "redis"},
            start_time=end - round(seconds * 1e9),
        )
        span.end(end)


def _provider(service: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
