"""A worker that is told to stop lets go of its batch: the next one takes it over without waiting for a lease."""

from contextlib import nullcontext
from datetime import timedelta

import pytest
from support.journey import LEASE, MAX_ATTEMPTS, MemoryJourney

from shared import stage
from shared.domain.batches import AttemptState, BatchState, Stage
from shared.domain.retries import RetryPolicy
from shared.domain.sources import FAILURES_THAT_OPEN, SourceGuard
from shared.errors import Interrupted
from shared.lifecycle import StageResult
from shared.stage import Assignment, Outcome, StageLimits


@pytest.fixture
def journey() -> MemoryJourney:
    journey = MemoryJourney()
    journey.plan()
    return journey


def run(journey: MemoryJourney, *, is_told_to_stop: bool, overtaken: bool = False) -> Outcome:
    def work(_: Assignment) -> StageResult:
        if overtaken:
            journey.clock.advance(seconds=LEASE.total_seconds() + 1)
            run(journey, is_told_to_stop=False)
        if is_told_to_stop:
            raise Interrupted("the worker was told to stop")
        return StageResult()

    return stage.run(
        Stage.EXTRACT,
        journey.batch_id,
        work,
        ledger=journey.ledger,
        sender=journey.sender,
        worker="w",
        # An attempt that failed would have to wait.
        limits=StageLimits(LEASE, RetryPolicy(MAX_ATTEMPTS, first_pause=timedelta(hours=1))),
        keep_alive=lambda _: nullcontext(),
    )


def attempt_states(journey: MemoryJourney) -> list[AttemptState]:
    with journey.ledger.transaction() as tx:
        return [attempt.state for attempt in tx.attempts(journey.batch_id)]


def test_the_message_of_an_interrupted_attempt_comes_back_and_the_next_worker_begins_at_once(
    journey: MemoryJourney,
) -> None:
    with pytest.raises(Interrupted):
        run(journey, is_told_to_stop=True)

    assert run(journey, is_told_to_stop=False) is Outcome.COMPLETED
    assert attempt_states(journey) == [AttemptState.EXPIRED, AttemptState.SUCCEEDED]


def test_an_interrupted_attempt_that_was_overtaken_frees_nothing(journey: MemoryJourney) -> None:
    with pytest.raises(Interrupted):
        run(journey, is_told_to_stop=True, overtaken=True)

    assert attempt_states(journey) == [AttemptState.EXPIRED, AttemptState.SUCCEEDED]
    assert journey.batch.state is BatchState.EXTRACTED


def test_workers_that_are_told_to_stop_say_nothing_of_the_source(journey: MemoryJourney) -> None:
    for _ in range(FAILURES_THAT_OPEN):
        with pytest.raises(Interrupted):
            run(journey, is_told_to_stop=True)

    source = journey.batch.source
    with journey.ledger.transaction() as tx:
        assert tx.source_guard(source) == SourceGuard(source)
