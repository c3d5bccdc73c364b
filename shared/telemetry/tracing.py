"""
Spans of what is done for a batch, through OpenTelemetry, where that is installed and told where to.

    pip install 'esclusa[otel]'
    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318

Without either nothing of it is imported, and a span costs a look whether there is a tracer. All spans of one run of a
batch are of one trace, whose id the ledger holds; messages say below which span the next stage belongs.
Source: OpenTelemetry Specification, "Environment Variable Specification" and "OTLP Exporter Configuration".
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Final

import structlog

from shared.deadline import within
from shared.domain.traces import TraceParent
from shared.errors import Unavailable

log = structlog.get_logger()

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

#: Before a process is frozen or ends it waits so long at most for its spans to leave.
_FLUSH_PATIENCE: Final = timedelta(seconds=2)

Attribute = str | int | None

_providers: list[Any] = []
_chosen: ContextVar[TraceParent | None] = ContextVar("chosen", default=None)


def configure_tracing(service: str) -> None:
    """
    Have spans of this process exported by OTLP over HTTP, if the environment says where to. Again: nothing changes.

    That the package is missing, or refuses what the environment says, is told once, in the log: it stops nothing.
    """
    if _providers or not _is_asked_for(os.environ):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        trace_with(BatchSpanProcessor(OTLPSpanExporter()), service=service)
    except ImportError:
        log.warning("tracing_not_installed", expected="pip install 'esclusa[otel]'")
    except Exception as error:  # noqa: BLE001  whatever its variables may hold; some are read at the import
        log.warning("tracing_not_configured", error=f"{type(error).__name__}: {error}")


def trace_with(processor: Any, *, service: str) -> None:
    """Hand every span that ends in this process to a span processor of OpenTelemetry."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class ChosenIds(RandomIdGenerator):
        """Random ids, but for the root of a trace: messages name it before anybody records it."""

        def generate_trace_id(self) -> int:
            chosen = _chosen.get()
            return int(chosen.trace_id, 16) if chosen else super().generate_trace_id()

        def generate_span_id(self) -> int:
            chosen = _chosen.get()
            return int(chosen.span_id, 16) if chosen else super().generate_span_id()

    # What is given here goes before what the SDK reads of the environment.
    name = os.environ.get("OTEL_SERVICE_NAME") or service
    resource = Resource.create({"service.name": name, "service.namespace": "esclusa"})
    # Whoever ends flushes, in bounded time; the SDK would wait for a collector that is away.
    provider = TracerProvider(resource=resource, id_generator=ChosenIds(), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    _providers[:] = [provider]


def stop_tracing() -> None:
    """Let spans leave, and record none from now on."""
    while _providers:
        provider = _providers.pop()
        _patiently(provider.shutdown)


def flush_spans() -> None:
    """Let the spans that ended leave now: this process may be frozen, or end. Costs two seconds at most."""
    for provider in _providers:
        _patiently(provider.force_flush)


@contextmanager
def span(
    name: str, *, below: TraceParent | None = None, begun_at: int | None = None, **attributes: Attribute
) -> Iterator[None]:
    """
    Record a span of the block, below another, else below the one that is open here.

    `begun_at`: nanoseconds since 1970, if it began before. An exception that leaves the block marks the span by its
    class: what it says may be about rows.
    """
    if not _providers:
        yield
        return
    from opentelemetry import trace
    from opentelemetry.trace import Status, StatusCode

    opened = _tracer().start_span(
        name, context=_context(below), start_time=begun_at, attributes=_known(attributes)
    )
    with trace.use_span(opened, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except BaseException as error:
            opened.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def past_span(name: str, *, begun_at: int, ended_at: int, **attributes: Attribute) -> None:
    """Record a span of what is over, below the one that is open here."""
    if _providers:
        past = _tracer().start_span(name, start_time=begun_at, attributes=_known(attributes))
        past.end(ended_at)


def root_span(name: str, root: TraceParent, *, begun_at: int, ended_at: int, **attributes: Attribute) -> None:
    """Record the root of a trace, under the ids that its messages have named."""
    if not _providers:
        return
    from opentelemetry.context import Context

    token = _chosen.set(root)
    try:
        opened = _tracer().start_span(
            name, context=Context(), start_time=begun_at, attributes=_known(attributes)
        )
        opened.end(ended_at)
    finally:
        _chosen.reset(token)


def open_span() -> TraceParent | None:
    """Return the span that is open here; None if none is recorded."""
    if not _providers:
        return None
    from opentelemetry import trace

    found = trace.get_current_span().get_span_context()
    return TraceParent(f"{found.trace_id:032x}", f"{found.span_id:016x}") if found.is_valid else None


def _is_asked_for(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() != "otlp":
        return False
    return any(environment.get(name, "").strip() for name in _ENDPOINTS)


def _tracer() -> Any:
    return _providers[0].get_tracer("esclusa")


def _context(below: TraceParent | None) -> Any:
    if below is None:
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    remote = SpanContext(
        int(below.trace_id, 16),
        int(below.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _known(attributes: Mapping[str, Attribute]) -> dict[str, str | int]:
    return {f"esclusa.{name}": value for name, value in attributes.items() if value is not None}


def _patiently(leave: Any) -> None:
    try:
        within(_FLUSH_PATIENCE, leave, what="spans")
    except Unavailable as error:
        log.warning("spans_not_sent", detail=str(error))
