"""Places at a source, its breaker, and the time before which no attempt begins."""

from dataclasses import replace
from datetime import timedelta

import pytest
from support.ledger_rows import NOON, a_contract
from support.ledgers import SteppingClock

from shared import lifecycle
from shared.domain.batches import Attempt, Batch, BatchState, Stage, batch_id
from shared.domain.quiet_hours import QuietHours
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.sources import FAILURES_THAT_OPEN, LONGEST_OPEN, SourceGuard, SourceLimits
from shared.domain.windows import PlannedWindow, Window
from shared.ledger.memory import MemoryLedger
from shared.lifecycle import StageResult
from shared.messages import parse_task_message
from shared.ports import QueueName

LEASE = timedelta(minutes=2)
RETRY = RetryPolicy(12)


class Fleet:
    """Some batches of some sources, and those who move them. Each method is one transaction."""

    def __init__(self, *, places: int) -> None:
        self.clock = SteppingClock()
        self.ledger = MemoryLedger(self.clock)
        self.set_places(places)

    def set_places(self, places: int, *, source: str = "shop") -> None:
        with self.ledger.transaction() as tx:
            tx.save_source_guard(SourceGuard(source, SourceLimits(places)))

    def be_quiet(self, *hours: str, source: str = "shop") -> None:
        with self.ledger.transaction() as tx:
            guard = tx.source_guard(source)
            limits = replace(guard.limits, quiet_hours=tuple(QuietHours.parse(text) for text in hours))
            tx.save_source_guard(replace(guard, limits=limits))

    def plan(self, *slots: str, source: str = "shop") -> list[str]:
        """Plan batches one after the other, and let their first messages leave."""
        contract = a_contract(source=source)
        for slot in slots:
            with self.ledger.transaction() as tx:
                tx.insert_contract(contract)
                lifecycle.plan(
                    tx,
                    contract,
                    planned=PlannedWindow(slot, Window(None, NOON)),
                    bucket=f"esclusa-{source}",
                )
            self.clock.advance(seconds=1)
        self.woken()
        return [batch_id(source, "orders", slot) for slot in slots]

    def claim(self, id_: str) -> Attempt | None:
        with self.ledger.transaction() as tx:
            return lifecycle.claim(tx, id_, Stage.EXTRACT, worker="w", lease=LEASE, retry=RETRY)

    def claimed(self, id_: str) -> Attempt:
        attempt = self.claim(id_)
        assert attempt is not None
        return attempt

    def complete(self, attempt: Attempt) -> None:
        with self.ledger.transaction() as tx:
            lifecycle.complete(tx, attempt, StageResult(counts={"rows_read": 0, "rows_written": 0}))

    def fail(self, attempt: Attempt, *, blames_source: bool = True) -> None:
        with self.ledger.transaction() as tx:
            lifecycle.fail_attempt(
                tx, attempt, detail="connection refused", retry=RETRY, blames_source=blames_source
            )

    def refuse(self, attempt: Attempt) -> None:
        with self.ledger.transaction() as tx:
            lifecycle.refuse_attempt(tx, attempt, reason=Reason.TABLE_MISSING, detail="no such table")

    def let_go(self, attempt: Attempt) -> None:
        with self.ledger.transaction() as tx:
            lifecycle.let_go(tx, attempt)

    def expire(self, attempt: Attempt) -> bool:
        with self.ledger.transaction() as tx:
            return lifecycle.expire_attempt(tx, attempt, retry=RETRY)

    def start_deferred(self, source: str = "shop") -> int:
        with self.ledger.transaction() as tx:
            return lifecycle.start_deferred(tx, source)

    def wake(self, id_: str) -> bool:
        with self.ledger.transaction() as tx:
            return lifecycle.wake(tx, id_, state=BatchState.PLANNED)

    def batch(self, id_: str) -> Batch:
        with self.ledger.transaction() as tx:
            batch = tx.batch(id_)
        assert batch is not None
        return batch

    def deferred(self, source: str = "shop") -> list[str]:
        with self.ledger.transaction() as tx:
            return [batch.id for batch in tx.deferred_batches(source, limit=100)]

    def guard(self, source: str = "shop") -> SourceGuard:
        with self.ledger.transaction() as tx:
            return tx.source_guard(source)

    def woken(self) -> list[str]:
        """Return the batches for which an extract message was posted since the last call."""
        with self.ledger.transaction() as tx:
            pending = tx.pending_messages(limit=100)
            tx.mark_sent([item.id for item in pending])
        return [
            parse_task_message(item.message.body).batch_id
            for item in pending
            if item.message.queue is QueueName.EXTRACT
        ]

    def open_breaker(self, id_: str) -> None:
        """Let attempts of a batch fail until its source is left alone."""
        for _ in range(FAILURES_THAT_OPEN):
            self.fail(self.claimed(id_))
            self.clock.moment = max(self.clock.moment, self.batch(id_).not_before or self.clock.moment)


# ---- places ------------------------------------------------------------------------------------------------


def test_a_source_runs_no_more_attempts_than_it_has_places() -> None:
    fleet = Fleet(places=2)
    first, second, third = fleet.plan("1", "2", "3")

    claims = [fleet.claim(id_) is not None for id_ in (first, second, third)]

    assert claims == [True, True, False]
    assert fleet.deferred() == [third]
    assert fleet.batch(third).state is BatchState.PLANNED


def test_another_source_has_places_of_its_own() -> None:
    fleet = Fleet(places=1)
    fleet.set_places(1, source="crm")
    (held,) = fleet.plan("1")
    (free,) = fleet.plan("1", source="crm")
    fleet.claimed(held)

    assert fleet.claim(free) is not None


@pytest.mark.parametrize("end", ["complete", "refuse", "fail", "let_go", "expire"])
def test_however_an_attempt_ends_its_place_goes_to_the_batch_that_waits_longest(end: str) -> None:
    fleet = Fleet(places=1)
    first, second, third = fleet.plan("1", "2", "3")
    attempt = fleet.claimed(first)
    for id_ in (third, second):
        fleet.claim(id_)
    if end == "expire":
        fleet.clock.advance(minutes=2)
    before = fleet.woken()

    getattr(fleet, end)(attempt)

    assert before == []
    # What expired is woken as well: its message died with its worker.
    assert fleet.woken() == ([first, second] if end == "expire" else [second])
    assert fleet.claim(second) is not None


def test_a_worker_that_died_holds_its_place_no_longer_than_its_lease() -> None:
    fleet = Fleet(places=1)
    first, second = fleet.plan("1", "2")
    fleet.claimed(first)

    during = fleet.claim(second)
    fleet.clock.advance(minutes=2)
    afterwards = fleet.claim(second)

    assert during is None
    assert afterwards is not None


def test_a_hand_over_that_was_lost_is_made_again() -> None:
    fleet = Fleet(places=1)
    first, second = fleet.plan("1", "2")
    attempt = fleet.claimed(first)
    fleet.claim(second)
    fleet.complete(attempt)
    fleet.woken()  # and lost

    started = fleet.start_deferred()

    assert (started, fleet.woken()) == (1, [second])


def test_who_waits_is_not_woken_while_no_place_is_free() -> None:
    fleet = Fleet(places=1)
    first, second = fleet.plan("1", "2")
    fleet.claimed(first)
    fleet.claim(second)

    assert fleet.start_deferred() == 0
    assert fleet.woken() == []


def test_a_place_that_is_handed_over_twice_is_taken_once() -> None:
    fleet = Fleet(places=1)
    first, second, third = fleet.plan("1", "2", "3")
    attempt = fleet.claimed(first)
    fleet.claim(second)
    fleet.claim(third)
    fleet.complete(attempt)
    fleet.start_deferred()

    claims = [fleet.claim(id_) is not None for id_ in fleet.woken()]

    assert claims == [True, False]
    assert fleet.deferred() == [third]


def test_fewer_places_take_effect_as_attempts_end_and_forget_nobody() -> None:
    fleet = Fleet(places=2)
    first, second, third = fleet.plan("1", "2", "3")
    attempts = [fleet.claimed(first), fleet.claimed(second)]
    fleet.claim(third)

    fleet.set_places(1)
    fleet.complete(attempts[0])
    after_one = fleet.woken()
    fleet.complete(attempts[1])
    after_both = fleet.woken()

    assert (after_one, after_both) == ([], [third])


def test_a_message_for_a_batch_that_waits_finds_the_place_if_there_is_one() -> None:
    fleet = Fleet(places=1)
    first, second = fleet.plan("1", "2")
    attempt = fleet.claimed(first)
    fleet.claim(second)
    fleet.complete(attempt)

    assert fleet.wake(second)
    assert fleet.claim(second) is not None
    assert fleet.deferred() == []


# ---- the breaker -------------------------------------------------------------------------------------------


def test_a_source_that_fails_time_and_again_is_left_alone_for_a_while() -> None:
    fleet = Fleet(places=4)
    first, second = fleet.plan("1", "2")
    fleet.open_breaker(first)

    refused = fleet.claim(second)

    open_until = fleet.guard().open_until
    assert refused is None
    assert open_until is not None
    assert timedelta(0) < open_until - fleet.clock.moment <= LONGEST_OPEN
    assert fleet.deferred() == [second]


def test_an_outage_of_something_else_neither_opens_nor_closes_the_breaker() -> None:
    fleet = Fleet(places=4)
    batches = fleet.plan("a", "b", "c", "d", "e")
    attempts = [fleet.claimed(id_) for id_ in batches[:4]]
    fleet.claim(batches[4])
    fleet.fail(attempts[0])

    for attempt in attempts[1:]:
        fleet.fail(attempt, blames_source=False)

    guard = fleet.guard()
    assert (guard.failures_in_a_row, guard.open_until) == (1, None)
    assert batches[4] in fleet.woken()


def test_a_worker_that_was_told_to_stop_neither_opens_nor_closes_the_breaker() -> None:
    fleet = Fleet(places=4)
    first, second = fleet.plan("1", "2")
    fleet.fail(fleet.claimed(first))
    before = fleet.guard()

    fleet.let_go(fleet.claimed(second))

    assert before.failures_in_a_row == 1
    assert fleet.guard() == before
    assert fleet.claim(second) is not None


def test_when_the_breaker_is_over_one_attempt_at_a_time_tries_the_source() -> None:
    fleet = Fleet(places=4)
    first, second, third = fleet.plan("1", "2", "3")
    fleet.open_breaker(first)
    fleet.claim(second)
    fleet.claim(third)
    fleet.clock.moment = fleet.guard().open_until or NOON

    started = fleet.start_deferred()
    claims = [fleet.claim(id_) is not None for id_ in (second, third)]

    assert (started, claims) == (1, [True, False])


def test_a_source_that_answers_again_has_all_its_places_again() -> None:
    fleet = Fleet(places=4)
    first, second, third = fleet.plan("1", "2", "3")
    fleet.open_breaker(first)
    fleet.clock.moment = fleet.guard().open_until or NOON
    trial = fleet.claimed(second)
    fleet.claim(third)

    fleet.complete(trial)

    assert fleet.guard() == SourceGuard("shop", SourceLimits(4))
    assert fleet.woken() == [third]
    assert fleet.claim(third) is not None


def test_a_source_that_is_refused_for_what_it_holds_answers() -> None:
    fleet = Fleet(places=4)
    first, second = fleet.plan("1", "2")
    fleet.fail(fleet.claimed(first))

    fleet.refuse(fleet.claimed(second))

    assert fleet.guard().failures_in_a_row == 0


def test_a_batch_that_is_taken_over_while_the_breaker_opens_waits_for_it_and_is_not_forgotten() -> None:
    fleet = Fleet(places=4)
    first, second = fleet.plan("1", "2")
    for _ in range(FAILURES_THAT_OPEN - 1):
        fleet.fail(fleet.claimed(first))
        fleet.clock.moment = fleet.batch(first).not_before or NOON
    fleet.claimed(second)
    fleet.clock.advance(minutes=2)
    fleet.woken()

    taken_over = fleet.claim(second)  # the lease that ran out was the third failure
    fleet.clock.moment = fleet.guard().open_until or NOON
    started = fleet.start_deferred()

    assert taken_over is None
    assert (started, fleet.woken()) == (1, [second])


# ---- quiet hours -------------------------------------------------------------------------------------------


def test_in_quiet_hours_no_batch_begins_and_none_uses_up_an_attempt() -> None:
    fleet = Fleet(places=2)
    fleet.be_quiet("11:00-13:00 UTC")
    first, second = fleet.plan("1", "2")

    refused = [fleet.claim(id_) for id_ in (first, second, first)]
    started = fleet.start_deferred()

    assert refused == [None] * 3
    assert (started, fleet.woken()) == (0, [])
    assert fleet.deferred() == [first, second]
    assert not fleet.batch(first).attempts


def test_when_quiet_hours_are_over_those_who_waited_begin_by_themselves() -> None:
    fleet = Fleet(places=2)
    fleet.be_quiet("11:00-13:00 UTC")
    batches = fleet.plan("1", "2", "3")
    for id_ in batches:
        fleet.claim(id_)
    fleet.clock.moment = NOON + timedelta(hours=1)

    started = fleet.start_deferred()

    assert (started, fleet.woken()) == (2, batches[:2])
    assert [fleet.claimed(id_).number for id_ in batches[:2]] == [1, 1]


def test_what_was_begun_before_quiet_hours_is_read_to_its_end_and_hands_no_place_on() -> None:
    fleet = Fleet(places=1)
    first, second = fleet.plan("1", "2")
    attempt = fleet.claimed(first)
    fleet.claim(second)
    fleet.be_quiet("11:00-13:00 UTC")

    fleet.complete(attempt)

    assert fleet.batch(first).state is BatchState.EXTRACTED
    assert fleet.woken() == []
    assert fleet.deferred() == [second]


def test_quiet_hours_that_are_lifted_hold_nobody() -> None:
    fleet = Fleet(places=1)
    fleet.be_quiet("11:00-13:00 UTC")
    (only,) = fleet.plan("1")
    fleet.claim(only)

    fleet.be_quiet()
    started = fleet.start_deferred()

    assert (started, fleet.woken()) == (1, [only])


# ---- no attempt before its time ------------------------------------------------------------------------------


def test_no_message_begins_the_next_attempt_before_its_time() -> None:
    fleet = Fleet(places=4)
    (only,) = fleet.plan("1")
    fleet.fail(fleet.claimed(only))
    not_before = fleet.batch(only).not_before
    assert not_before is not None

    too_early = fleet.claim(only)
    fleet.clock.moment = not_before
    in_time = fleet.claim(only)

    assert too_early is None
    assert in_time is not None
    assert in_time.number == 2


def test_who_comes_too_early_is_not_deferred() -> None:
    fleet = Fleet(places=4)
    (only,) = fleet.plan("1")
    fleet.fail(fleet.claimed(only))

    fleet.claim(only)

    assert fleet.deferred() == []
    assert fleet.batch(only).woken_at is not None


def test_a_batch_whose_message_came_too_early_is_woken_when_its_time_is_over() -> None:
    fleet = Fleet(places=4)
    (only,) = fleet.plan("1")
    fleet.fail(fleet.claimed(only))
    fleet.claim(only)  # and its message is gone

    def to_wake() -> list[str]:
        with fleet.ledger.transaction() as tx:
            now = tx.now() - timedelta(minutes=1)
            found = tx.batches_to_wake(states=[BatchState.PLANNED], woken_before=[now], limit=10)
        return [batch.id for batch in found]

    at_once = to_wake()
    fleet.clock.advance(minutes=2)

    assert at_once == []
    assert to_wake() == [only]


def test_a_replay_begins_at_once_and_takes_part_in_the_places() -> None:
    fleet = Fleet(places=1)
    first, second = fleet.plan("1", "2")
    fleet.refuse(fleet.claimed(first))
    fleet.claimed(second)

    with fleet.ledger.transaction() as tx:
        lifecycle.replay(tx, first, contract=a_contract(), detail="cured")
    refused = fleet.claim(first)

    assert refused is None
    assert fleet.deferred() == [first]


def test_a_discarded_batch_waits_for_nothing() -> None:
    fleet = Fleet(places=1)
    first, second = fleet.plan("1", "2")
    fleet.refuse(fleet.claimed(first))

    with fleet.ledger.transaction() as tx:
        lifecycle.discard(tx, first, detail="given up")
    claim = fleet.claim(first)

    assert claim is None
    assert fleet.deferred() == []
    assert fleet.claim(second) is not None
