"""Spans of a batch's run: one trace from plan to publication, exported only where somebody asked for it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.journey import LEASE, MemoryJourney
from support.otlp import Collector

from lambdas import gate
from shared import stage
from shared.domain.batches import Stage
from shared.domain.files import Area
from shared.domain.retries import RetryPolicy
from shared.domain.traces import TraceParent
from shared.lifecycle import StageResult
from shared.messages import CheckBatch
from shared.ports import QueueName
from shared.stage import StageLimits
from shared.telemetry import tracing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.trace_with(SimpleSpanProcessor(exporter), service="tested")
    yield exporter
    tracing.stop_tracing()


def run(journey: MemoryJourney, name: Stage, work: Any, *, traceparent: str | None = None) -> None:
    stage.run(
        name,
        journey.batch_id,
        work,
        ledger=journey.ledger,
        sender=journey.sender,
        worker="w",
        limits=StageLimits(LEASE, RetryPolicy(3)),
        keep_alive=lambda _: nullcontext(),
        traceparent=traceparent,
    )


def extract(journey: MemoryJourney) -> Any:
    return lambda assignment: StageResult(
        [journey.write_raw(assignment.attempt)], {"rows_read": 2, "rows_written": 2}
    )


def hint(journey: MemoryJourney, queue: QueueName) -> str:
    return str(journey.queues.waiting(queue)[-1].message.traceparent)


def tree(finished: tuple[ReadableSpan, ...]) -> set[tuple[str, str | None]]:
    """Return the spans as (name, name of the span above)."""
    names = {span.context.span_id: span.name for span in finished}
    return {
        (span.name, names.get(span.parent.span_id, "unknown") if span.parent else None) for span in finished
    }


def test_all_spans_of_a_run_are_one_tree_under_the_trace_that_the_ledger_knows(
    spans: InMemorySpanExporter,
) -> None:
    journey = MemoryJourney()
    journey.plan()

    run(journey, Stage.EXTRACT, extract(journey))
    parent = TraceParent.parse(hint(journey, QueueName.GATE_TMP))
    gate.check(
        Area.TMP,
        CheckBatch(journey.batch_id, Area.TMP),
        ledger=journey.ledger,
        store=journey.store,
        sender=journey.sender,
        trace=parent,
    )
    for area in (Area.INPUT, Area.PROCESSING):
        journey.check(area)
    decoded = {"rows_decoded": 2, "rows_in_final": 2}
    run(
        journey,
        Stage.PROCESS,
        lambda _: StageResult(counts=decoded),
        traceparent=hint(journey, QueueName.PROCESS),
    )

    finished = spans.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in finished} == {journey.batch.trace_id}
    assert tree(finished) == {
        ("planned", None),
        ("extract", "planned"),
        ("claim", "extract"),
        ("work", "extract"),
        ("record", "extract"),
        # Its message left in the record.
        ("gate-tmp", "record"),
        # These had no message that says where they belong, as events of S3 have none.
        ("gate-input", "planned"),
        ("gate-processing", "planned"),
        ("process", "gate-processing"),
        ("claim", "process"),
        ("work", "process"),
        ("record", "process"),
    }


def test_a_span_says_what_it_is_about_and_no_more(spans: InMemorySpanExporter) -> None:
    journey = MemoryJourney()
    journey.plan()

    def leak(_: Any) -> StageResult:
        raise ValueError("alice@example.com is no number")

    with suppress(ValueError):
        run(journey, Stage.EXTRACT, leak)

    finished = {span.name: span for span in spans.get_finished_spans()}
    assert dict(finished["extract"].attributes or {}) == {
        "esclusa.batch_id": journey.batch_id,
        "esclusa.source": "shop",
        "esclusa.table": "orders",
        "esclusa.attempt": 1,
    }
    assert finished["work"].status.description == "ValueError"
    assert "alice" not in "".join(span.to_json() for span in finished.values())


@pytest.mark.parametrize(
    "traceparent", ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "poison", None]
)
def test_a_message_cannot_put_a_batch_into_another_trace(
    spans: InMemorySpanExporter, traceparent: str | None
) -> None:
    journey = MemoryJourney()
    journey.plan()

    run(journey, Stage.EXTRACT, extract(journey), traceparent=traceparent)

    finished = spans.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in finished} == {journey.batch.trace_id}
    assert ("extract", "planned") in tree(finished)


def test_the_second_attempt_of_a_run_has_no_root_of_its_own(spans: InMemorySpanExporter) -> None:
    journey = MemoryJourney()
    journey.plan()
    with suppress(ValueError):
        run(journey, Stage.EXTRACT, lambda _: int("x"))
    journey.clock.advance(minutes=30)

    run(journey, Stage.EXTRACT, extract(journey))

    names = [span.name for span in spans.get_finished_spans()]
    assert names.count("planned") == 1
    assert names.count("extract") == 2


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


# ---- who asks for it -------------------------------------------------------------------------------------------


def test_spans_leave_by_otlp_for_the_endpoint_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    journey = MemoryJourney()
    journey.plan()

    tracing.configure_tracing("extractor")
    run(journey, Stage.EXTRACT, extract(journey))
    tracing.flush_spans()
    tracing.stop_tracing()

    assert collector.services == {"extractor"}
    assert {span.name for span in collector.spans} == {"planned", "extract", "claim", "work", "record"}


def in_another_process(script: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_where_nobody_asks_for_spans_nothing_of_opentelemetry_is_imported(
    environment: dict[str, str],
) -> None:
    script = (
        "import sys; from shared.telemetry import tracing; from shared import stage, lifecycle\n"
        "tracing.configure_tracing('x')\n"
        "with tracing.span('work'): tracing.flush_spans()\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')], tracing.open_span())"
    )

    assert in_another_process(script, **environment) == "[] None\n"


def test_where_it_is_asked_for_and_not_installed_the_log_says_so_and_work_goes_on() -> None:
    script = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from shared.telemetry import tracing; from shared.telemetry.logs import configure_logging\n"
        "configure_logging('x'); tracing.configure_tracing('x')\n"
        "with tracing.span('work'): pass\n"
    )

    told = in_another_process(script, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")

    assert '"event": "tracing_not_installed"' in told


@pytest.mark.parametrize(
    "mistake", [{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "99999"}, {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "-3"}]
)
def test_settings_that_opentelemetry_refuses_cost_the_spans_and_not_the_work(mistake: dict[str, str]) -> None:
    script = (
        "from shared.telemetry import tracing; from shared.telemetry.logs import configure_logging\n"
        "configure_logging('x'); tracing.configure_tracing('x')\n"
        "with tracing.span('work'): tracing.flush_spans()\n"
    )

    told = in_another_process(script, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", **mistake)

    assert '"event": "tracing_not_configured"' in told


def test_a_collector_that_is_away_costs_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{black_hole.getsockname()[1]}")
        monkeypatch.setattr(tracing, "_FLUSH_PATIENCE", tracing._FLUSH_PATIENCE / 20)
        tracing.configure_tracing("extractor")
        with tracing.span("work"):
            pass
        begun = time.monotonic()
        tracing.flush_spans()
        took = time.monotonic() - begun
        tracing._providers.clear()

    assert took < 1
