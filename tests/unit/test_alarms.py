"""What is wrong is raised once, told once and resolved by itself; what never came is as loud as what failed."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog
from support.ledger_rows import NOON, a_batch, add_batch
from support.ledgers import SteppingClock

from shared.alarms import (
    AlarmLimits,
    Condition,
    Facts,
    Findings,
    freshness_of,
    judge,
    look,
    record,
    tell,
)
from shared.domain.alarms import Alarm, AlarmKind
from shared.domain.batches import BatchState
from shared.domain.progress import Expectation, TableProgress
from shared.domain.proofs import Proof
from shared.domain.quiet_hours import QuietHours
from shared.domain.reasons import Reason
from shared.domain.sources import SourceGuard, SourceLimits
from shared.domain.windows import Window
from shared.errors import ConfigurationError, EsclusaError, SecretNotFound, Unavailable
from shared.ledger.memory import MemoryLedger
from shared.notices.memory import MemoryNotifier
from shared.planning import retire_source
from shared.ports import OutboxMessage, QueueDepth, QueueName
from shared.queues.memory import MemoryQueues

MINUTE = timedelta(minutes=1)
LIMITS = AlarmLimits(outbox_stuck_after=5 * MINUTE, held_limit=3, queues_patience=timedelta(seconds=5))
EXPECTED = Expectation("shop", "orders", every=15 * MINUTE, expected_by=45 * MINUTE, since=NOON)
LATE = 61 * MINUTE


@dataclass(slots=True)
class Desk:
    """A ledger under a clock, queues, and somebody who is told."""

    clock: SteppingClock = field(default_factory=SteppingClock)
    ledger: MemoryLedger = field(init=False)
    queues: MemoryQueues = field(default_factory=lambda: MemoryQueues(max_receive_count=1))
    notifier: MemoryNotifier = field(default_factory=MemoryNotifier)

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger(self.clock)

    def change(self, change: Callable[[Any], object]) -> None:
        with self.ledger.transaction() as tx:
            change(tx)

    def found(self) -> dict[AlarmKind, Condition]:
        findings = judge(look(self.ledger, self.queues, limits=LIMITS), limits=LIMITS)
        return {condition.kind: condition for condition in findings.conditions}

    def record(self, *conditions: Condition, **unseen: Any) -> tuple[list[str], list[str]]:
        """Record findings and return the subjects that were raised and resolved."""
        findings = Findings(conditions, unseen.get("queues", frozenset()), unseen.get("held", False))
        with self.ledger.transaction() as tx:
            changes = record(tx, findings)
        return [item.subject for item in changes.raised], [item.subject for item in changes.resolved]

    def tell(self) -> int:
        return tell(self.ledger, self.notifier, fleet="esclusa")

    def alarms(self) -> list[Alarm]:
        with self.ledger.transaction() as tx:
            return tx.alarms()

    def told(self) -> list[tuple[list[str], list[str]]]:
        """The subjects that each notice told as raised and as resolved."""
        return [
            ([a.subject for a in notice.raised], [a.subject for a in notice.resolved])
            for notice in self.notifier.notices
        ]


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ---- a table that is late ----------------------------------------------------------------------------------------


def test_a_table_of_which_nothing_was_ever_planned_is_late(desk: Desk) -> None:
    desk.change(lambda tx: tx.save_expectation(EXPECTED))
    desk.clock.advance(minutes=60)
    before = desk.found()
    desk.clock.advance(minutes=1)

    after = desk.found()

    assert before == {}
    late = after[AlarmKind.TABLE_LATE]
    assert late.subject == "shop.orders"
    assert "nothing was ever planned" in late.detail
    assert "esclusa enqueue" in late.detail


def test_a_table_whose_source_may_not_be_read_is_not_late(desk: Desk) -> None:
    limits = SourceLimits(quiet_hours=(QuietHours.parse("12:30-20:30 UTC"),))
    desk.change(lambda tx: tx.save_expectation(EXPECTED))
    desk.change(lambda tx: tx.save_source_guard(SourceGuard("shop", limits)))
    desk.clock.moment = NOON + timedelta(hours=9)
    after_half_an_hour_of_each = desk.found()
    desk.clock.advance(minutes=1)

    after_more = desk.found()

    assert after_half_an_hour_of_each == {}
    assert "nothing was ever planned" in after_more[AlarmKind.TABLE_LATE].detail


def test_a_table_is_late_when_the_cron_that_planned_it_died(desk: Desk) -> None:
    desk.change(lambda tx: tx.save_expectation(EXPECTED))
    desk.change(lambda tx: add_batch(tx, a_batch("a", state=BatchState.PUBLISHED)))
    desk.change(lambda tx: tx.set_watermark("shop", "orders", NOON + 15 * MINUTE))
    desk.clock.advance(minutes=15 + 60)
    before = desk.found()
    desk.clock.advance(minutes=1)

    after = desk.found()

    assert before == {}
    assert "nothing planned since 2026-11-22T12:15:00Z" in after[AlarmKind.TABLE_LATE].detail


def test_a_late_table_tells_up_to_where_it_is_published_even_if_that_is_before_it_was_expected(
    desk: Desk,
) -> None:
    window = Window(NOON - 60 * MINUTE, NOON - 15 * MINUTE)
    desk.change(lambda tx: tx.save_expectation(EXPECTED))
    desk.change(lambda tx: add_batch(tx, a_batch("a", state=BatchState.PUBLISHED, window=window)))
    desk.change(lambda tx: tx.set_watermark("shop", "orders", window.end))
    desk.clock.advance(minutes=61)

    late = desk.found()[AlarmKind.TABLE_LATE]

    assert "published up to 2026-11-22T11:45:00Z only" in late.detail


def test_a_late_table_names_the_batch_that_stands_in_its_way_and_where(desk: Desk) -> None:
    window = Window(NOON, NOON + 15 * MINUTE)
    stuck = a_batch("b", state=BatchState.READY, window=window, changed_at=NOON + 16 * MINUTE)
    desk.change(lambda tx: tx.save_expectation(EXPECTED))
    desk.change(lambda tx: add_batch(tx, stuck))
    desk.change(lambda tx: tx.set_watermark("shop", "orders", window.end))
    desk.clock.advance(minutes=61)

    late = desk.found()[AlarmKind.TABLE_LATE]

    assert f"batch {stuck.id} is ready since 2026-11-22T12:16:00Z" in late.detail
    assert f"esclusa why {stuck.id}" in late.detail


def test_a_table_that_a_held_batch_blocks_says_so_beside_the_alarm_of_the_batch(desk: Desk) -> None:
    window = Window(NOON, NOON + 15 * MINUTE)
    held = a_batch(
        "b", state=BatchState.QUARANTINED, window=window, reason=Reason.COLUMN_MISSING, detail="secret 4711"
    )
    desk.change(lambda tx: tx.save_expectation(EXPECTED))
    desk.change(lambda tx: add_batch(tx, held))
    desk.change(lambda tx: tx.set_watermark("shop", "orders", window.end))
    desk.clock.advance(minutes=61)

    found = desk.found()

    assert "held: column_missing" in found[AlarmKind.TABLE_LATE].detail
    assert found[AlarmKind.BATCH_HELD].subject == held.id
    assert "shop.orders" in found[AlarmKind.BATCH_HELD].detail
    assert "column_missing" in found[AlarmKind.BATCH_HELD].detail
    # What the batch itself says of its trouble may quote the source.
    assert not any("4711" in condition.detail for condition in found.values())


def test_a_table_that_nobody_expects_is_never_late(desk: Desk) -> None:
    desk.change(lambda tx: tx.set_watermark("shop", "orders", NOON))
    desk.clock.advance(days=30)

    assert desk.found() == {}


@pytest.mark.parametrize(
    ("published_until", "minutes_of_age"), [(None, 60), (NOON + 15 * MINUTE, 45), (NOON - 99 * MINUTE, 60)]
)
def test_freshness_is_counted_from_where_a_table_is_published_but_not_before_it_was_expected(
    published_until: datetime | None, minutes_of_age: int
) -> None:
    progress = TableProgress("shop", "orders", NOON, published_until)

    age = freshness_of(EXPECTED, progress, now=NOON + 60 * MINUTE)

    assert age == minutes_of_age * MINUTE
    assert freshness_of(EXPECTED, None, now=NOON + 60 * MINUTE) == 60 * MINUTE


# ---- the other conditions ----------------------------------------------------------------------------------------


def test_a_queue_with_dead_letters_is_named(desk: Desk) -> None:
    desk.queues.send([OutboxMessage(QueueName.PROCESS, "{}", "shop")])
    taken = desk.queues.receive(QueueName.PROCESS)
    assert taken is not None
    desk.queues.release(taken)

    found = desk.found()

    assert found[AlarmKind.DEAD_LETTERS].subject == "process"
    assert "esclusa peek process --dead" in found[AlarmKind.DEAD_LETTERS].detail


class BrokenQueues(MemoryQueues):
    """Queues of which some, or all, cannot be asked."""

    def __init__(self, error: EsclusaError | None, *, only: QueueName | None = None) -> None:
        super().__init__()
        self.error, self.only, self.asked = error, only, 0

    def depth(self, queue: QueueName, *, dead_letters: bool = False) -> QueueDepth:
        self.asked += 1
        if self.error is None:
            raise AssertionError
        if self.only in {None, queue}:
            raise self.error
        return QueueDepth(1, 1, 1)


def test_a_queue_that_cannot_be_asked_keeps_none_of_the_others_from_being_asked(desk: Desk) -> None:
    queues = BrokenQueues(ConfigurationError("no URL"), only=QueueName.EXTRACT)

    facts = look(desk.ledger, queues, limits=LIMITS)

    assert facts.dead_letters == dict.fromkeys(set(QueueName) - {QueueName.EXTRACT}, 3)
    assert judge(facts, limits=LIMITS).unseen_queues == {"extract"}


def test_when_sqs_is_away_it_is_asked_once_and_the_rest_goes_on(desk: Desk) -> None:
    queues = BrokenQueues(Unavailable("away"))
    desk.change(lambda tx: tx.save_expectation(EXPECTED))
    desk.change(lambda tx: tx.save_source_guard(SourceGuard("shop", failures_in_a_row=3)))

    findings = judge(look(desk.ledger, queues, limits=LIMITS), limits=LIMITS)

    assert queues.asked == 1
    assert findings.unseen_queues == {str(queue) for queue in QueueName}
    assert [condition.kind for condition in findings.conditions] == [AlarmKind.SOURCE_FAILING]


@pytest.mark.parametrize(("failures", "is_failing"), [(2, False), (3, True), (9, True)])
def test_a_source_fails_from_its_third_failure_until_it_answers(
    desk: Desk, failures: int, is_failing: bool
) -> None:
    # Its breaker lets an attempt through now and then; the alarm does not come and go with it.
    guard = SourceGuard("shop", failures_in_a_row=failures, open_until=NOON - MINUTE)
    desk.change(lambda tx: tx.save_expectation(EXPECTED))
    desk.change(lambda tx: tx.save_source_guard(guard))
    failing = desk.found()
    desk.change(lambda tx: tx.save_source_guard(guard.after_success()))

    assert (AlarmKind.SOURCE_FAILING in failing) is is_failing
    assert desk.found() == {}


def test_a_source_that_was_retired_alarms_nobody_however_its_last_batches_fail(desk: Desk) -> None:
    desk.change(lambda tx: tx.save_expectation(EXPECTED))
    retire_source("shop", ledger=desk.ledger)

    desk.change(lambda tx: tx.save_source_guard(SourceGuard("shop", failures_in_a_row=3)))

    assert desk.found() == {}


def test_the_outbox_is_stuck_when_its_oldest_message_is_too_old(desk: Desk) -> None:
    desk.change(lambda tx: tx.post(OutboxMessage(QueueName.EXTRACT, "{}", "shop")))
    desk.clock.advance(minutes=5)
    desk.change(lambda tx: tx.post(OutboxMessage(QueueName.EXTRACT, "{}", "shop")))
    before = desk.found()
    desk.clock.advance(seconds=1)

    after = desk.found()

    assert before == {}
    assert "2026-11-22T12:00:00Z" in after[AlarmKind.OUTBOX_STUCK].detail


def test_a_table_whose_windows_differ_has_one_alarm_until_all_are_proved_equal(desk: Desk) -> None:
    windows = [Window(NOON + n * MINUTE, NOON + (n + 1) * MINUTE) for n in range(2)]
    differing = [
        Proof("shop", "orders", window, NOON, is_equal=False, detail="key 4711") for window in windows
    ]
    desk.change(lambda tx: tx.save_expectation(EXPECTED))
    for proof in (*differing, replace(differing[0], source="gone")):
        desk.change(lambda tx, proof=proof: tx.insert_proof(proof))
    before = desk.found()[AlarmKind.PROOF_DIFFERS]

    for proof in differing:
        equal = replace(proof, is_equal=True, proved_at=NOON + MINUTE)
        desk.change(lambda tx, equal=equal: tx.insert_proof(equal))

    assert before.subject == "shop.orders"
    assert "everywhere: 2," in before.detail
    assert "`esclusa prove shop.orders`" in before.detail
    assert "4711" not in before.detail
    assert desk.found() == {}


# ---- raised and resolved -----------------------------------------------------------------------------------------

HELD = Condition(AlarmKind.BATCH_HELD, "b1", "shop.orders: failed")
DEAD = Condition(AlarmKind.DEAD_LETTERS, "extract", "dead")


def test_an_alarm_is_raised_once_and_resolved_when_its_condition_is_gone(desk: Desk) -> None:
    first = desk.record(HELD)
    desk.clock.advance(minutes=1)
    second = desk.record(HELD)
    desk.clock.advance(minutes=1)
    third = desk.record()
    fourth = desk.record()

    assert [first, second, third, fourth] == [(["b1"], []), ([], []), ([], ["b1"]), ([], [])]
    (alarm,) = desk.alarms()
    assert (alarm.raised_at, alarm.resolved_at) == (NOON, NOON + 2 * MINUTE)


def test_a_condition_that_comes_back_is_another_alarm(desk: Desk) -> None:
    for conditions in ([HELD], [], [HELD]):
        desk.record(*conditions)
        desk.clock.advance(minutes=1)

    assert [alarm.resolved_at is None for alarm in desk.alarms()] == [True, False]


def test_what_was_found_anew_is_kept_and_told_no_second_time(desk: Desk) -> None:
    desk.record(HELD)
    desk.tell()

    desk.record(replace(HELD, detail="shop.orders: quarantined"))
    desk.tell()

    (alarm,) = desk.alarms()
    assert alarm.detail == "shop.orders: quarantined"
    assert alarm.raised_at == NOON
    assert len(desk.notifier.notices) == 1


def test_an_alarm_lasts_while_its_queue_cannot_be_asked(desk: Desk) -> None:
    desk.record(DEAD)

    unseen = desk.record(queues=frozenset({"extract"}))
    seen = desk.record(queues=frozenset({"process"}))

    assert (unseen, seen) == (([], []), ([], ["extract"]))


def test_a_mass_of_held_batches_has_alarms_for_the_first_and_resolves_none_of_the_others(desk: Desk) -> None:
    held = [a_batch(str(n), state=BatchState.FAILED, planned_at=NOON + n * MINUTE) for n in range(4)]
    for batch in held:
        desk.change(lambda tx, batch=batch: add_batch(tx, batch))
    findings = judge(look(desk.ledger, None, limits=LIMITS), limits=LIMITS)
    desk.record(replace(HELD, subject="one that was raised before"))

    with desk.ledger.transaction() as tx:
        changes = record(tx, findings)

    assert [alarm.subject for alarm in changes.raised] == [batch.id for batch in held[:3]]
    assert changes.resolved == ()
    assert changes.open_counts == {AlarmKind.BATCH_HELD: 4}


def test_raising_and_resolving_are_log_events_of_two_levels(desk: Desk) -> None:
    with structlog.testing.capture_logs() as logs:
        desk.record(HELD)
        desk.record(HELD)
        desk.record()

    assert [(entry["event"], entry["log_level"], entry["kind"], entry["subject"]) for entry in logs] == [
        ("alarm_raised", "error", "batch_held", "b1"),
        ("alarm_resolved", "info", "batch_held", "b1"),
    ]


# ---- told --------------------------------------------------------------------------------------------------------


def test_each_alarm_is_told_once_when_it_comes_and_once_when_it_goes(desk: Desk) -> None:
    for conditions in ([HELD], [HELD], [HELD, DEAD], [DEAD], [], []):
        desk.record(*conditions)
        desk.tell()
        desk.clock.advance(minutes=1)

    assert desk.told() == [(["b1"], []), (["extract"], []), ([], ["b1"]), ([], ["extract"])]


def test_hundreds_of_alarms_are_one_notice(desk: Desk) -> None:
    desk.record(*(replace(HELD, subject=f"b{number}") for number in range(300)))

    told = desk.tell()

    assert told == 300
    assert len(desk.notifier.notices) == 1


@pytest.mark.parametrize("error", [Unavailable("away"), SecretNotFound("no such secret")])
def test_a_notice_that_cannot_be_delivered_is_tried_again_with_what_came_meanwhile(
    desk: Desk, error: EsclusaError
) -> None:
    desk.notifier.error = error
    desk.record(HELD)
    failed = desk.tell()
    desk.clock.advance(minutes=1)
    desk.record(HELD, DEAD)
    desk.notifier.error = None

    told = [desk.tell(), desk.tell()]

    assert failed == 0
    assert told == [2, 0]
    assert desk.told() == [(["extract", "b1"], [])]


def test_a_notifier_with_a_defect_stops_nobody(desk: Desk) -> None:
    class Defective:
        def notify(self, notice: object) -> None:
            raise ZeroDivisionError

    desk.record(HELD)

    told = tell(desk.ledger, Defective(), fleet="esclusa")

    assert told == 0
    assert desk.tell() == 1


def test_what_came_and_went_before_anybody_could_be_told_is_told_as_resolved(desk: Desk) -> None:
    desk.record(HELD)
    desk.record()

    desk.tell()
    desk.tell()

    assert desk.told() == [([], ["b1"])]
    with desk.ledger.transaction() as tx:
        assert tx.alarms(unsettled_only=True) == []


def test_a_notice_that_is_sent_again_has_the_same_id_and_another_one_another(desk: Desk) -> None:
    class Forgetful(MemoryNotifier):
        def notify(self, notice: Any) -> None:
            self.notices.append(notice)
            raise Unavailable("its answer was lost")

    forgetful = Forgetful()
    desk.record(HELD)
    for _ in range(2):
        tell(desk.ledger, forgetful, fleet="esclusa")
    desk.record(HELD, DEAD)
    tell(desk.ledger, forgetful, fleet="esclusa")

    ids = [notice.id for notice in forgetful.notices]
    assert ids[0] == ids[1] != ids[2]


def test_without_a_channel_the_log_has_told_it(desk: Desk) -> None:
    desk.record(HELD)

    told = [tell(desk.ledger, None, fleet="esclusa"), desk.tell()]

    assert told == [1, 0]


# ---- the facts ---------------------------------------------------------------------------------------------------


def test_a_fleet_that_is_well_has_no_conditions() -> None:
    findings = judge(Facts(NOON, dead_letters=dict.fromkeys(QueueName, 0)), limits=LIMITS)

    assert findings == Findings((), frozenset(), is_held_cut=False)


def test_looking_changes_nothing_and_says_the_same_twice(desk: Desk) -> None:
    desk.change(lambda tx: tx.save_expectation(EXPECTED))
    desk.clock.advance(hours=9)

    first = look(desk.ledger, desk.queues, limits=LIMITS)
    second = look(desk.ledger, desk.queues, limits=LIMITS)

    assert first == second
    assert judge(first, limits=LIMITS) == judge(second, limits=LIMITS)
    assert desk.alarms() == []
