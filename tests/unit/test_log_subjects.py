"""Every line that is written while somebody works on a batch says which one, and which attempt of which stage."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import structlog
from support.journey import LEASE, TWO_PARTS, MemoryJourney

from lambdas.cleaner.clean import clean
from shared import stage
from shared.domain.batches import Attempt, Stage
from shared.domain.files import Area
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.errors import Interrupted, Refused, Unavailable
from shared.heartbeat import renewing
from shared.lifecycle import StageResult
from shared.messages import CleanBatch
from shared.stage import Assignment, StageLimits
from shared.telemetry.logs import configure_logging

log = structlog.get_logger()


@pytest.fixture
def written() -> StringIO:
    stream = StringIO()
    configure_logging("tested", stream=stream)
    return stream


@pytest.fixture
def journey() -> MemoryJourney:
    return MemoryJourney()


def subjects(written: StringIO) -> set[tuple[Any, ...]]:
    """Return what the lines are about: batch, source, table, stage, attempt, trace."""
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert lines
    names = ("batch_id", "source", "table", "stage", "attempt", "trace_id")
    return {tuple(line.get(name) for name in names) for line in lines}


def about(journey: MemoryJourney, stage_name: str, attempt: int = 1) -> tuple[Any, ...]:
    return journey.batch_id, "shop", "orders", stage_name, attempt, journey.batch.trace_id


def refuse() -> None:
    raise Refused(Reason.NULL_CURSOR, "a row has none")


def break_down() -> None:
    raise Unavailable("away")


def be_interrupted() -> None:
    raise Interrupted("told to stop")


@pytest.mark.parametrize("work", [lambda: None, refuse, break_down, be_interrupted])
def test_whatever_becomes_of_an_attempt_its_lines_say_what_they_are_about(
    journey: MemoryJourney, written: StringIO, work: Callable[[], None]
) -> None:
    def speak(_: Assignment) -> StageResult:
        log.info("work_went_on")
        work()
        return StageResult()

    journey.plan()
    try:
        run(journey, speak)
    except (Unavailable, Interrupted):
        # What Celery says of it afterwards.
        log.warning("task_failed_afterwards")

    assert subjects(written) == {about(journey, "extract")}


def test_the_thread_that_renews_a_lease_writes_about_the_attempt_too(
    journey: MemoryJourney, written: StringIO
) -> None:
    @contextmanager
    def renewed_often(attempt: Attempt) -> Iterator[None]:
        with renewing(attempt, ledger=journey.ledger, lease=timedelta(seconds=0.03)):
            yield

    def wait_for_the_loss(assignment: Assignment) -> StageResult:
        with journey.ledger.transaction() as tx:
            stage.lifecycle.let_go(tx, assignment.attempt)
        while "lease_lost" not in written.getvalue():
            time.sleep(0.01)
        return StageResult()

    journey.plan()
    run(journey, wait_for_the_loss, keep_alive=renewed_often)

    assert subjects(written) == {about(journey, "extract")}


def test_a_message_with_nothing_to_do_writes_of_the_attempt_that_was_made(
    journey: MemoryJourney, written: StringIO
) -> None:
    journey.plan()
    journey.extract()

    run(journey, lambda _: StageResult())
    log.info("message_done")

    assert subjects(written) == {about(journey, "extract")}


@contextmanager
def silent(_: Attempt) -> Iterator[None]:
    yield


def run(journey: MemoryJourney, work: Any, *, keep_alive: Any = silent) -> None:
    stage.run(
        Stage.EXTRACT,
        journey.batch_id,
        work,
        ledger=journey.ledger,
        sender=journey.sender,
        worker="w",
        limits=StageLimits(LEASE, RetryPolicy(3)),
        keep_alive=keep_alive,
    )


@pytest.mark.parametrize("area", [Area.TMP, Area.INPUT, Area.PROCESSING, Area.FINAL])
def test_a_gate_writes_about_the_attempt_whose_files_it_checks(
    journey: MemoryJourney, written: StringIO, area: Area
) -> None:
    journey.go_to(area)
    written.truncate(0)
    written.seek(0)

    journey.see(area, journey.file(area).location)
    journey.check(area)

    assert subjects(written) == {about(journey, f"gate-{area}")}


def test_a_gate_that_refuses_writes_about_the_attempt_that_it_refuses(
    journey: MemoryJourney, written: StringIO
) -> None:
    journey.go_to(Area.TMP, TWO_PARTS)
    journey.overwrite(journey.file(Area.TMP), b"altered")

    journey.check(Area.TMP)

    assert subjects(written) == {about(journey, "gate-tmp")}


def test_the_cleaner_writes_about_the_batch_that_it_cleans(journey: MemoryJourney, written: StringIO) -> None:
    journey.go_to(Area.FINAL)
    journey.check(Area.FINAL)
    written.truncate(0)
    written.seek(0)

    clean(CleanBatch(journey.batch_id), ledger=journey.ledger, store=journey.store)

    assert subjects(written) == {about(journey, "clean")}


def test_after_a_gate_nothing_is_bound_any_more(journey: MemoryJourney, written: StringIO) -> None:
    journey.go_to(Area.TMP)
    journey.check(Area.TMP)
    written.truncate(0)
    written.seek(0)

    log.info("between_messages")

    assert subjects(written) == {(None,) * 6}
