"""What freshness, alarms, proofs and places at a source stand on, in memory and on PostgreSQL alike."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.ledger_rows import NOON, a_batch, add_batch, an_attempt

from shared.domain.alarms import Alarm, AlarmKind
from shared.domain.batches import AttemptState, BatchState, Stage
from shared.domain.progress import Expectation, TableProgress
from shared.domain.proofs import Proof
from shared.domain.quiet_hours import QuietHours
from shared.domain.recounts import Recount
from shared.domain.sources import SourceGuard, SourceLimits
from shared.domain.windows import SNAPSHOT_SLOT_PREFIX, Extent, Window, slot_of
from shared.ports import Ledger, LedgerTransaction, OutboxMessage, QueueName

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


# ---- progress --------------------------------------------------------------------------------------------------


def add_window(
    tx: LedgerTransaction, start: datetime | None, end: datetime, state: BatchState, **changes: Any
) -> None:
    slot = "initial" if start is None else slot_of(start)
    add_batch(tx, a_batch(slot, state=state, window=Window(start, end), **changes))


def add_snapshot(tx: LedgerTransaction, moment: datetime, state: BatchState) -> None:
    slot = SNAPSHOT_SLOT_PREFIX + slot_of(moment)
    add_batch(tx, a_batch(slot, state=state, window=Window(None, moment)))


def progress_of(tx: LedgerTransaction, *, planned_until: datetime) -> datetime | None:
    tx.set_watermark("shop", "orders", planned_until)
    (progress,) = tx.table_progress()
    assert progress == TableProgress("shop", "orders", planned_until, progress.published_until)
    return progress.published_until


def test_a_ledger_without_plans_tells_of_no_progress(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        assert tx.table_progress() == []


def test_a_table_is_published_up_to_where_it_is_planned_if_nothing_is_open(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        add_window(tx, None, NOON, BatchState.PUBLISHED)
        add_window(tx, NOON, NOON + HOUR, BatchState.SUPERSEDED)
        add_window(tx, NOON + HOUR, NOON + 2 * HOUR, BatchState.DISCARDED)

        assert progress_of(tx, planned_until=NOON + 2 * HOUR) == NOON + 2 * HOUR


@pytest.mark.parametrize(
    "state", sorted(set(BatchState) - {BatchState.PUBLISHED, BatchState.SUPERSEDED, BatchState.DISCARDED})
)
def test_a_table_is_published_up_to_the_start_of_its_first_open_window(
    ledger: Ledger, state: BatchState
) -> None:
    with ledger.transaction() as tx:
        add_window(tx, None, NOON, BatchState.PUBLISHED)
        add_window(tx, NOON + HOUR, NOON + 2 * HOUR, BatchState.PLANNED)
        add_window(tx, NOON, NOON + HOUR, state)
        add_window(tx, NOON + 2 * HOUR, NOON + 3 * HOUR, BatchState.PUBLISHED)

        assert progress_of(tx, planned_until=NOON + 3 * HOUR) == NOON


def test_nothing_of_a_table_is_published_while_its_first_window_is_open(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        add_window(tx, None, NOON, BatchState.QUARANTINED)
        add_window(tx, NOON, NOON + HOUR, BatchState.PUBLISHED)

        assert progress_of(tx, planned_until=NOON + HOUR) is None


def test_while_a_snapshot_is_open_the_one_before_counts(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        add_snapshot(tx, NOON, BatchState.PUBLISHED)
        add_snapshot(tx, NOON - HOUR, BatchState.PUBLISHED)
        add_snapshot(tx, NOON + HOUR, BatchState.PROCESSING)

        assert progress_of(tx, planned_until=NOON + HOUR) == NOON


def test_a_first_snapshot_that_is_open_shows_nothing_yet(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        add_snapshot(tx, NOON, BatchState.FAILED)

        assert progress_of(tx, planned_until=NOON) is None


def test_tables_do_not_hold_up_one_another(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for source, table, state in (
            ("shop", "orders", BatchState.FAILED),
            ("shop", "customers", BatchState.PUBLISHED),
            ("crm", "orders", BatchState.PUBLISHED),
        ):
            add_window(tx, NOON, NOON + HOUR, state, source=source, table=table)
            tx.set_watermark(source, table, NOON + HOUR)

        found = tx.table_progress()

    assert found == [
        TableProgress("crm", "orders", NOON + HOUR, NOON + HOUR),
        TableProgress("shop", "customers", NOON + HOUR, NOON + HOUR),
        TableProgress("shop", "orders", NOON + HOUR, NOON),
    ]
    assert all(progress.planned_until.tzinfo is UTC for progress in found)


# ---- expectations ----------------------------------------------------------------------------------------------

EXPECTED = Expectation("shop", "orders", every=15 * MINUTE, expected_by=45 * MINUTE, since=NOON)


def test_an_expectation_keeps_the_moment_it_was_first_saved_with(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.save_expectation(EXPECTED)
        tx.save_expectation(replace(EXPECTED, every=HOUR, expected_by=90 * MINUTE, since=NOON + HOUR))
        tx.save_expectation(replace(EXPECTED, source="crm"))

        found = tx.expectations()

    assert found == [
        replace(EXPECTED, source="crm"),
        replace(EXPECTED, every=HOUR, expected_by=90 * MINUTE),
    ]


def test_a_table_that_is_expected_no_more_may_be_expected_anew(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.save_expectation(EXPECTED)
        tx.save_expectation(replace(EXPECTED, table="customers"))
        tx.delete_expectation("shop", "orders")
        tx.delete_expectation("shop", "orders")
        left = tx.expectations()
        tx.save_expectation(replace(EXPECTED, since=NOON + HOUR))

        again = tx.expectations()

    assert left == [replace(EXPECTED, table="customers")]
    assert again == [*left, replace(EXPECTED, since=NOON + HOUR)]


# ---- alarms ----------------------------------------------------------------------------------------------------

ALARM = Alarm(AlarmKind.TABLE_LATE, "shop.orders", raised_at=NOON, detail="nothing planned")


def test_an_alarm_is_written_over_under_its_kind_subject_and_moment(ledger: Ledger) -> None:
    later = replace(ALARM, raised_at=NOON + HOUR)
    resolved = replace(ALARM, detail="over", resolved_at=NOON + MINUTE, raise_told_at=NOON)
    with ledger.transaction() as tx:
        for alarm in (ALARM, resolved, later, replace(later, subject="shop.customers")):
            tx.save_alarm(alarm)

        found = tx.alarms()
        newest = tx.alarms(limit=1)

    assert found == [replace(later, subject="shop.customers"), later, resolved]
    assert newest == found[:1]
    assert all(alarm.raised_at.tzinfo is UTC for alarm in found)


def test_an_alarm_is_settled_once_it_is_over_and_both_notices_left(ledger: Ledger) -> None:
    settled = replace(ALARM, resolved_at=NOON, raise_told_at=NOON, resolve_told_at=NOON)
    unsettled = [
        replace(settled, subject="lasts", resolved_at=None, resolve_told_at=None),
        replace(settled, subject="was never told", raise_told_at=None),
        replace(settled, subject="its end was not told", resolve_told_at=None),
    ]
    with ledger.transaction() as tx:
        for alarm in (settled, *unsettled):
            tx.save_alarm(alarm)

        found = tx.alarms(unsettled_only=True)

    assert {alarm.subject for alarm in found} == {alarm.subject for alarm in unsettled}


def test_a_detail_that_no_database_can_store_is_kept_as_well_as_it_can(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.save_alarm(replace(ALARM, detail="half \ud800 and zero \0"))

        (found,) = tx.alarms()

    assert found.detail.startswith("half ")


# ---- proofs ----------------------------------------------------------------------------------------------------

WINDOW = Window(NOON, NOON + HOUR)


def a_proof(*, is_equal: bool = True, minutes: int = 0, **changes: Any) -> Proof:
    proof = Proof("shop", "orders", WINDOW, NOON + minutes * MINUTE, is_equal, sides={"source": {"count": 3}})
    return replace(proof, **changes)


def test_the_newest_proof_of_each_window_counts(ledger: Ledger) -> None:
    initial = a_proof(window=Window(None, NOON))
    newest = a_proof(is_equal=False, minutes=2, detail="CSV 3 rows, Parquet 2")
    with ledger.transaction() as tx:
        for proof in (a_proof(minutes=1), newest, a_proof(), initial, a_proof(table="customers")):
            tx.insert_proof(proof)

        found = tx.latest_proofs()

    assert found == [a_proof(table="customers"), initial, newest]
    assert all(proof.proved_at.tzinfo is UTC for proof in found)


def test_proofs_are_found_by_source_and_table(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for proof in (a_proof(), a_proof(table="customers"), a_proof(source="crm")):
            tx.insert_proof(proof)

        assert tx.latest_proofs("shop") == [a_proof(table="customers"), a_proof()]
        assert tx.latest_proofs("shop", "orders") == [a_proof()]
        assert tx.latest_proofs(table="orders") == [a_proof(source="crm"), a_proof()]
        assert tx.latest_proofs("nobody") == []


@pytest.mark.parametrize("window", [WINDOW, Window(None, NOON)], ids=["a window", "the initial one"])
def test_a_window_differs_until_it_is_proved_equal(ledger: Ledger, window: Window) -> None:
    differs = a_proof(is_equal=False, minutes=1, window=window)
    elsewhere = a_proof(minutes=9, window=Window(NOON + HOUR, NOON + 2 * HOUR))
    with ledger.transaction() as tx:
        for proof in (a_proof(window=window), differs, elsewhere, a_proof(minutes=9, table="customers")):
            tx.insert_proof(proof)
        before = tx.latest_proofs(differing_only=True)
        tx.insert_proof(a_proof(minutes=2, window=window))

        after = tx.latest_proofs(differing_only=True)

    assert before == [differs]
    assert after == []


def test_the_parts_of_one_window_are_proved_one_by_one(ledger: Ledger) -> None:
    low = a_proof(extent=Extent("id", None, "9"), is_equal=False)
    high = a_proof(extent=Extent("id", "9", "11"))
    with ledger.transaction() as tx:
        for proof in (low, high):
            tx.insert_proof(proof)
        first = tx.latest_proofs()
        tx.insert_proof(replace(low, proved_at=NOON + MINUTE, is_equal=True))

        assert first == [low, high]
        assert tx.latest_proofs(differing_only=True) == []
        assert len(tx.latest_proofs()) == 2


# ---- recounts --------------------------------------------------------------------------------------------------


def test_the_last_count_of_each_batch_counts(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for slot in ("initial", "next"):
            add_batch(tx, a_batch(slot))
        first, second = (batch.id for batch in sorted(tx.batches(), key=lambda batch: batch.slot))
        tx.save_recounts([])
        tx.save_recounts([Recount(first, NOON, 2**40), Recount(second, NOON, 3)])
        tx.save_recounts([Recount(first, NOON + MINUTE, 2)])

        found = {recount.batch_id: recount for recount in tx.recounts("shop", "orders")}

        assert found == {first: Recount(first, NOON + MINUTE, 2), second: Recount(second, NOON, 3)}
        assert tx.recounts("shop", "customers") == []
        assert tx.recounts("crm", "orders") == []


# ---- places at a source ----------------------------------------------------------------------------------------


def test_a_guard_is_made_when_it_is_first_asked_for(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        assert tx.source_guards() == []

        guard = tx.source_guard("shop")

        assert guard == SourceGuard("shop", SourceLimits())
        assert tx.source_guards() == [guard]


def test_a_guard_is_kept_as_it_was_saved(ledger: Ledger) -> None:
    hours = (QuietHours.parse("22:00-06:00 Europe/Rome"), QuietHours.parse("12:00-13:00 UTC"))
    limits = SourceLimits(2, 1_000, timedelta(minutes=7), hours)
    failing = SourceGuard("shop", limits, failures_in_a_row=3, open_until=NOON)
    with ledger.transaction() as tx:
        tx.source_guard("shop")
        for guard in (failing, SourceGuard("crm", SourceLimits(1))):
            tx.save_source_guard(guard)

        assert tx.source_guard("shop") == failing
        assert tx.source_guards() == [SourceGuard("crm", SourceLimits(1)), failing]

        tx.save_source_guard(failing.after_success())

        assert tx.source_guard("shop") == SourceGuard("shop", limits)


def test_only_batches_that_were_never_woken_wait_for_a_place(ledger: Ledger) -> None:
    waiting = {"woken_at": None, "wake_count": 0}
    with ledger.transaction() as tx:
        later = add_batch(tx, a_batch("later", planned_at=NOON + MINUTE, **waiting))
        first = add_batch(tx, a_batch("first", **waiting))
        add_batch(tx, a_batch("was sent"))
        add_batch(tx, a_batch("elsewhere", source="crm", **waiting))
        add_batch(tx, a_batch("at rest", state=BatchState.PUBLISHED, **waiting))

        assert [batch.id for batch in tx.deferred_batches("shop", limit=9)] == [first.id, later.id]
        assert [batch.id for batch in tx.deferred_batches("shop", limit=1)] == [first.id]
        assert tx.deferred_batches("nobody", limit=9) == []


def test_extract_attempts_are_counted_while_they_run_and_have_a_lease(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        now = tx.now()
        alive, over = now + HOUR, now - HOUR
        batches = [add_batch(tx, a_batch(f"slot {number}")) for number in range(5)]
        elsewhere = add_batch(tx, a_batch("elsewhere", source="crm"))
        tx.insert_attempt(an_attempt(batches[0], lease_until=alive))
        tx.insert_attempt(an_attempt(batches[1], lease_until=alive))
        tx.insert_attempt(an_attempt(batches[2], lease_until=over))
        tx.insert_attempt(an_attempt(batches[3], Stage.PROCESS, lease_until=alive))
        tx.insert_attempt(an_attempt(batches[4], lease_until=alive))
        tx.save_attempt(an_attempt(batches[4], lease_until=alive, state=AttemptState.FAILED, ended_at=now))
        tx.insert_attempt(an_attempt(elsewhere, lease_until=alive))

        assert tx.running_extract_count("shop") == 2
        assert tx.running_extract_count("crm") == 1
        assert tx.running_extract_count("nobody") == 0


# ---- the outbox, and scheduled parts -----------------------------------------------------------------------------


def test_the_age_of_the_outbox_is_that_of_its_oldest_message(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        assert tx.oldest_pending_at() is None
        before = tx.now()
        tx.post(OutboxMessage(QueueName.EXTRACT, "first", "shop"))
        between = tx.now()
        tx.post(OutboxMessage(QueueName.CLEAN, "second", "shop"))

        oldest = tx.oldest_pending_at()
        tx.mark_sent([tx.pending_messages(limit=1)[0].id])
        next_oldest = tx.oldest_pending_at()

    assert oldest is not None
    assert next_oldest is not None
    assert before <= oldest <= between <= next_oldest
    assert oldest.tzinfo is UTC


def test_a_scheduled_part_is_known_by_its_last_run(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        assert tx.last_run("watcher") is None
        tx.record_run("watcher")
        first = tx.last_run("watcher")
        tx.record_run("watcher")

        last = tx.last_run("watcher")

    assert first is not None
    assert last is not None
    assert first <= last
    assert last.tzinfo is UTC


# ---- undone ----------------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[LedgerTransaction], object]] = {
    "an expectation": lambda tx: tx.save_expectation(replace(EXPECTED, table="customers")),
    "an expectation that went": lambda tx: tx.delete_expectation("shop", "orders"),
    "an alarm": lambda tx: tx.save_alarm(replace(ALARM, detail="changed")),
    "a proof": lambda tx: tx.insert_proof(a_proof(is_equal=False, minutes=1)),
    "a guard": lambda tx: tx.save_source_guard(SourceGuard("shop", SourceLimits(9))),
    "a recount": lambda tx: tx.save_recounts([Recount(tx.batches()[0].id, NOON, 9)]),
    "a run": lambda tx: tx.record_run("watcher"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_failed_transaction_changed_is_undone(ledger: Ledger, name: str) -> None:
    def everything(tx: LedgerTransaction) -> list[object]:
        facts = [tx.expectations(), tx.alarms(), tx.latest_proofs(), tx.source_guards()]
        facts.append(tx.recounts("shop", "orders"))
        return [*facts, tx.last_run("watcher")]

    with ledger.transaction() as tx:
        tx.save_expectation(EXPECTED)
        tx.save_alarm(ALARM)
        tx.insert_proof(a_proof())
        tx.source_guard("shop")
        add_batch(tx, a_batch())
        tx.save_recounts([Recount(a_batch().id, NOON, 3)])
        before = everything(tx)

    changed: list[object] = []

    def fail() -> None:
        with ledger.transaction() as tx:
            CHANGES[name](tx)
            changed.extend(everything(tx))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    with ledger.transaction() as tx:
        after = everything(tx)
    assert changed != before
    assert after == before
