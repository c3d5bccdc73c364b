"""One trace for one run of a batch, from the plan to the publication, whatever stands in the messages."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta

import pytest
from support.journey import LEASE, MAX_ATTEMPTS, MemoryJourney

from lambdas import gate
from lambdas.invocation import Received, handle_messages
from shared import lifecycle, stage
from shared.domain.batches import BatchState, Stage
from shared.domain.files import Area
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.traces import TraceParent, trace_id_of
from shared.lifecycle import StageResult
from shared.messages import CheckBatch
from shared.outbox import send_pending
from shared.ports import OutboxMessage, QueueName
from shared.stage import StageLimits

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD[:-2] + "00",
        "cc" + GOOD[2:],
        "cc" + GOOD[2:] + "-what-comes-in-later-versions",
    ],
)
def test_what_the_standard_allows_is_read(text: str) -> None:
    found = TraceParent.parse(text)

    assert found == TraceParent("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert str(found) == GOOD


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        b"00",
        "",
        "x" * 10_000,
        GOOD.upper(),
        GOOD + "\n",
        GOOD + "-more",
        "ff" + GOOD[2:],
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "cc" + GOOD[2:] + "-" + "x" * 1000,
        GOOD.replace("-", " "),
    ],
)
def test_whatever_else_anybody_sends_is_no_trace_and_no_error(text: object) -> None:
    assert TraceParent.parse(text) is None


@pytest.fixture
def journey() -> MemoryJourney:
    journey = MemoryJourney()
    journey.plan()
    return journey


def sent(journey: MemoryJourney, queue: QueueName) -> OutboxMessage:
    return journey.queues.waiting(queue)[-1].message


def do(journey: MemoryJourney, work: Callable[[], StageResult] = StageResult, **given: str) -> None:
    stage.run(
        Stage.EXTRACT,
        journey.batch_id,
        lambda _: work(),
        ledger=journey.ledger,
        sender=journey.sender,
        worker="w",
        limits=StageLimits(LEASE, RetryPolicy(MAX_ATTEMPTS, first_pause=timedelta(0))),
        keep_alive=lambda _: nullcontext(),
        **given,  # type: ignore[arg-type]
    )


def test_every_message_of_a_run_belongs_to_the_trace_that_the_ledger_knows(journey: MemoryJourney) -> None:
    traces = set()
    send_pending(journey.ledger, journey.sender)
    traces.add(sent(journey, QueueName.EXTRACT).traceparent)
    journey.extract()
    send_pending(journey.ledger, journey.sender)
    traces.add(sent(journey, QueueName.GATE_TMP).traceparent)
    for area in (Area.TMP, Area.INPUT, Area.PROCESSING):
        journey.check(area)
    traces.add(sent(journey, QueueName.PROCESS).traceparent)
    journey.process()
    journey.check(Area.FINAL)
    traces.add(sent(journey, QueueName.PUBLISH).traceparent)
    traces.add(sent(journey, QueueName.CLEAN).traceparent)

    trace_id = journey.batch.trace_id
    assert trace_id == trace_id_of(journey.batch_id, begun_at=journey.batch.planned_at)
    assert traces == {str(TraceParent.root_of(trace_id))}


def test_a_replay_is_another_run_and_has_another_trace(journey: MemoryJourney) -> None:
    before = journey.batch.trace_id
    attempt = journey.claim(Stage.EXTRACT)
    with journey.ledger.transaction() as tx:
        lifecycle.refuse_attempt(tx, attempt, reason=Reason.NULL_CURSOR, detail="")
    journey.clock.advance(minutes=1)

    with journey.ledger.transaction() as tx:
        lifecycle.replay(tx, journey.batch_id, contract=journey.contract, detail="")

    assert journey.batch.state is BatchState.PLANNED
    assert journey.batch.trace_id not in {None, before}


@pytest.mark.parametrize("traceparent", [GOOD, "poison", ""])
def test_what_a_message_says_of_its_trace_changes_nothing_of_the_batch(
    journey: MemoryJourney, traceparent: str
) -> None:
    before = journey.batch.trace_id

    do(journey, traceparent=traceparent)

    assert journey.batch.state is BatchState.EXTRACTED
    assert journey.batch.trace_id == before
    assert sent(journey, QueueName.GATE_TMP).traceparent == str(TraceParent.root_of(str(before)))


def test_a_batch_of_before_there_were_traces_goes_its_way_without_one(journey: MemoryJourney) -> None:
    forget_trace(journey)

    do(journey, traceparent=GOOD)
    gate.check(
        Area.TMP,
        CheckBatch(journey.batch_id, Area.TMP),
        ledger=journey.ledger,
        store=journey.store,
        sender=journey.sender,
        trace=TraceParent.parse(GOOD),
    )

    assert journey.batch.state is BatchState.EXTRACTED
    assert sent(journey, QueueName.GATE_TMP).traceparent is None


def forget_trace(journey: MemoryJourney) -> None:
    batch = journey.batch
    with journey.ledger.transaction() as tx:
        tx.save_batch(replace(batch, trace_id=None))


@pytest.mark.parametrize(
    ("attributes", "trace"),
    [
        ({"traceparent": {"stringValue": GOOD, "dataType": "String"}}, GOOD),
        ({"traceparent": {"stringValue": "poison", "dataType": "String"}}, None),
        ({"traceparent": {"binaryValue": "AA==", "dataType": "Binary"}}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_lambda_reads_the_trace_that_stands_beside_a_body(attributes: object, trace: str | None) -> None:
    received: list[Received] = []
    event = {"Records": [{"messageId": "1", "body": "{}", "messageAttributes": attributes}]}

    answer = handle_messages(event, received.append, function="gate-tmp")

    assert answer == {"batchItemFailures": []}
    assert [str(message.trace) if message.trace else None for message in received] == [trace]
