"""OpenTelemetry traces: enqueue → attempt → status writes, and HTTP requests. Off by default.

`JOBSTATUS_TRACES=1` turns them on. OpenTelemetry's own variables, such as
`OTEL_EXPORTER_OTLP_ENDPOINT`, configure the exporter
(https://opentelemetry.io/docs/specs/otel/configuration/). The trace context travels with a job as a
W3C `traceparent` (https://www.w3.org/TR/trace-context/) in arq's payload.
"""

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from jobstatus.errors import MissingExtraError
from jobstatus.settings import parse_variable, switch

VARIABLE: Final = "JOBSTATUS_TRACES"

TRACE_FIELD: Final = "jobstatus"
"""The member of a job's payload that holds the `traceparent`; arq ignores it."""


def is_on() -> bool:
    """Whether traces are turned on.

    Raises:
        SettingsError: The variable is not valid.
    """
    text = os.environ.get(VARIABLE, "")
    return bool(text) and bool(parse_variable(VARIABLE, text, switch))


def tracer(service: str = "jobstatus") -> "Tracer | None":
    """Return the process's tracer; None if traces are turned off.

    Args:
        service: The name of the service in the traces, unless `OTEL_SERVICE_NAME` is set.

    Raises:
        MissingExtraError: Traces are turned on, and OpenTelemetry is not installed.
    """
    return _tracer(service) if is_on() else None


@functools.cache
def _tracer(service: str) -> "Tracer":
    try:
        return Tracer(service)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{VARIABLE} needs {error.name}: pip install 'jobstatus[otel]'"
        ) from None


def record_write(parent: Any, state: str, seconds: float) -> None:
    """Add a span for a change of state that was written.

    Args:
        parent: The parent span.
        state: The new state.
        seconds: How long it took from the change to the end of the write.
    """
    traces = tracer()
    if traces is not None:
        traces.record_write(parent, state, seconds)


class Tracer:
    """Creates spans, with the provider that other code has set, if there is one."""

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
        """Create a span around a block; it is the current span inside the block.

        Args:
            name: The name of the span.
            kind: `PRODUCER`, `CONSUMER`, `SERVER` or `CLIENT`.
            carrier: Headers with the `traceparent` of the parent.
            **attributes: Attributes of the span; `_` in a name is replaced by a dot.
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
        """Return headers with the current span's `traceparent`."""
        headers: dict[str, str] = {}
        self._propagate.inject(headers)
        return headers

    def record_write(self, parent: Any, state: str, seconds: float) -> None:
        """Add a span for a change of state; the arguments are those of `record_write`."""
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
