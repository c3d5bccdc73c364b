"""One stage of one batch: what comes of a message, whatever its work meets."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import pytest
from support.journey import LEASE, MAX_ATTEMPTS, MemoryJourney

from shared import stage
from shared.domain.batches import AttemptState, BatchState, Stage
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.sources import SourceGuard, SourceLimits
from shared.errors import LostLease, Refused, SourceConflict, SourceUnavailable, Unavailable
from shared.ledger.memory import MemoryLedger
from shared.lifecycle import StageResult
from shared.ports import Ledger, LedgerTransaction, QueueName
from shared.stage import Assignment, Outcome, StageLimits

Work = Callable[[Assignment], StageResult]


@pytest.fixture
def journey() -> MemoryJourney:
    journey = MemoryJourney()
    journey.plan()
    return journey


def run(
    journey: MemoryJourney, work: Work, *, ledger: Ledger | None = None, max_attempts: int = MAX_ATTEMPTS
) -> Outcome:
    return stage.run(
        Stage.EXTRACT,
        journey.batch_id,
        work,
        ledger=ledger or journey.ledger,
        sender=journey.sender,
        worker="w",
        limits=StageLimits(LEASE, RetryPolicy(max_attempts, first_pause=timedelta(0))),
        keep_alive=lambda _: nullcontext(),
    )


def write_nothing(_: Assignment) -> StageResult:
    return StageResult()


def never(_: Assignment) -> StageResult:
    raise AssertionError("there was nothing to do")


def break_down(_: Assignment) -> StageResult:
    raise Unavailable("the source is away")


def attempt_states(journey: MemoryJourney) -> list[AttemptState]:
    with journey.ledger.transaction() as tx:
        return [attempt.state for attempt in tx.attempts(journey.batch_id)]


def test_work_that_is_done_is_recorded_and_sent_on(journey: MemoryJourney) -> None:
    assert run(journey, write_nothing) is Outcome.COMPLETED

    assert journey.batch.state is BatchState.EXTRACTED
    assert journey.queues.waiting(QueueName.GATE_TMP)


def test_a_message_that_comes_twice_does_no_work_twice(journey: MemoryJourney) -> None:
    run(journey, write_nothing)

    assert run(journey, never) is Outcome.NOTHING_TO_DO
    assert attempt_states(journey) == [AttemptState.SUCCEEDED]


def test_a_message_for_a_batch_that_is_not_there_is_done(journey: MemoryJourney) -> None:
    journey.slot = "never planned"

    assert run(journey, never) is Outcome.NOTHING_TO_DO


def test_an_attempt_that_raised_has_its_message_come_back_and_the_last_one_has_not(
    journey: MemoryJourney,
) -> None:
    with pytest.raises(Unavailable, match="the source is away"):
        run(journey, break_down, max_attempts=2)
    assert journey.batch.state is BatchState.PLANNED

    assert run(journey, break_down, max_attempts=2) is Outcome.EXHAUSTED
    assert journey.batch.state is BatchState.FAILED
    assert journey.queues.waiting(QueueName.CLEAN)


def test_a_batch_whose_attempts_are_used_up_is_sent_to_the_cleaner_by_who_finds_it_so(
    journey: MemoryJourney,
) -> None:
    with pytest.raises(Unavailable):
        run(journey, break_down, max_attempts=2)

    assert run(journey, never, max_attempts=1) is Outcome.NOTHING_TO_DO
    assert journey.batch.state is BatchState.FAILED
    assert journey.queues.waiting(QueueName.CLEAN)


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (SourceUnavailable("the source is away"), 1),
        (ValueError("whatever it sent"), 1),
        (Unavailable("s3: slow down"), 0),
        (SourceConflict("a deadlock"), 0),
    ],
)
def test_only_what_a_source_may_be_to_blame_for_counts_against_it(
    journey: MemoryJourney, error: Exception, counted: int
) -> None:
    def fail(_: Assignment) -> StageResult:
        raise error

    with pytest.raises(type(error)):
        run(journey, fail)

    with journey.ledger.transaction() as tx:
        assert tx.source_guard("shop").failures_in_a_row == counted


def test_the_work_is_told_what_the_fleet_may_take_of_the_source_now(journey: MemoryJourney) -> None:
    limits = SourceLimits(1, rows_per_second=10)
    with journey.ledger.transaction() as tx:
        tx.save_source_guard(SourceGuard("shop", limits))
    told = []

    def work(assignment: Assignment) -> StageResult:
        told.append(assignment.source_limits)
        return StageResult()

    run(journey, work)

    assert told == [limits]


def test_what_is_refused_is_quarantined_and_its_message_is_done(journey: MemoryJourney) -> None:
    def refuse(_: Assignment) -> StageResult:
        raise Refused(Reason.TYPE_CHANGED, "amount became text")

    assert run(journey, refuse) is Outcome.REFUSED

    assert (journey.batch.state, journey.batch.reason) == (BatchState.QUARANTINED, Reason.TYPE_CHANGED)
    assert journey.queues.waiting(QueueName.CLEAN)


def test_counts_that_do_not_add_up_are_refused_and_nothing_of_them_is_recorded(
    journey: MemoryJourney,
) -> None:
    assert run(journey, lambda _: StageResult(counts={"rows_read": 3, "rows_written": 2})) is Outcome.REFUSED

    assert journey.batch.reason is Reason.COUNTS_DO_NOT_ADD_UP
    assert journey.batch.counts == {}


@pytest.mark.parametrize(
    "error", [None, Refused(Reason.TYPE_CHANGED, "x"), LostLease("told by the warehouse")]
)
def test_a_worker_that_lost_its_lease_is_done_and_changes_nothing(
    journey: MemoryJourney, error: Exception | None
) -> None:
    def outlast_the_lease(_: Assignment) -> StageResult:
        journey.clock.advance(seconds=LEASE.total_seconds() + 1)
        journey.claim(Stage.EXTRACT)
        if error is not None:
            raise error
        return StageResult()

    assert run(journey, outlast_the_lease) is Outcome.LOST_LEASE

    assert journey.batch.state is BatchState.EXTRACTING
    assert attempt_states(journey) == [AttemptState.EXPIRED, AttemptState.RUNNING]


def test_a_worker_that_lost_its_lease_and_breaks_down_fails_no_attempt_but_its_own(
    journey: MemoryJourney,
) -> None:
    def outlast_the_lease(_: Assignment) -> StageResult:
        journey.clock.advance(seconds=LEASE.total_seconds() + 1)
        journey.claim(Stage.EXTRACT)
        raise Unavailable("the source is away")

    with pytest.raises(Unavailable):
        run(journey, outlast_the_lease)

    assert attempt_states(journey) == [AttemptState.EXPIRED, AttemptState.RUNNING]


def test_a_lease_that_is_over_and_that_nobody_took_loses_no_work(journey: MemoryJourney) -> None:
    def outlast_the_lease(_: Assignment) -> StageResult:
        journey.clock.advance(seconds=LEASE.total_seconds() + 1)
        return StageResult()

    assert run(journey, outlast_the_lease) is Outcome.COMPLETED


class ForgetfulLedger:
    """A ledger whose answer to one commit, of a number from 1, is lost."""

    def __init__(self, plain: MemoryLedger, *, lost: int) -> None:
        self._plain = plain
        self._lost = lost
        self._count = 0

    def transaction(self) -> AbstractContextManager[LedgerTransaction]:
        return self._transaction()

    @contextmanager
    def _transaction(self) -> Iterator[LedgerTransaction]:
        self._count += 1
        is_lost = self._count == self._lost
        with self._plain.transaction() as tx:
            yield tx
        if is_lost:
            raise Unavailable("the reply of the commit was lost")


@pytest.mark.parametrize(
    ("lost", "states"),
    [
        pytest.param(1, [AttemptState.EXPIRED, AttemptState.SUCCEEDED], id="claim"),
        pytest.param(2, [AttemptState.SUCCEEDED], id="complete"),
    ],
)
def test_a_commit_whose_reply_is_lost_stands_and_the_message_comes_back(
    journey: MemoryJourney, lost: int, states: list[AttemptState]
) -> None:
    assert isinstance(journey.ledger, MemoryLedger)
    with pytest.raises(Unavailable, match="was lost"):
        run(journey, write_nothing, ledger=ForgetfulLedger(journey.ledger, lost=lost))
    journey.clock.advance(seconds=LEASE.total_seconds() + 1)

    run(journey, write_nothing)

    assert journey.batch.state is BatchState.EXTRACTED
    assert attempt_states(journey) == states


def test_an_error_is_told_in_one_bounded_line() -> None:
    assert stage.describe(ValueError("a\nb")) == "ValueError: a b"
    assert len(stage.describe(ValueError("x" * 10_000))) == stage.MAX_DETAIL_CHARACTERS
