"""What people list of a ledger, in memory and on PostgreSQL alike."""

from dataclasses import replace
from datetime import datetime, timedelta

from support.ledger_rows import BUCKET, NOON, a_batch, a_foreign_file, a_raw_file, add_batch

from infra import migrations
from shared.domain.batches import Batch, BatchState, batch_id
from shared.domain.contracts import MaskEvidence, MaskKind
from shared.domain.files import Area, Location
from shared.domain.sources import SourceGuard, SourceLimits, Visit
from shared.domain.windows import Window
from shared.ports import BatchTally, Ledger, MaskTally

MINUTE = timedelta(minutes=1)


def test_batches_are_tallied_by_source_table_and_state(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for slot, changed_at in (("a", NOON), ("b", NOON + MINUTE), ("c", NOON - MINUTE)):
            add_batch(tx, a_batch(slot, changed_at=changed_at))
        add_batch(tx, a_batch("d", state=BatchState.FAILED))
        add_batch(tx, a_batch("a", source="crm", table="deals"))

        tallies = tx.batch_tallies()
        failed = tx.batch_tallies(states=[BatchState.FAILED, BatchState.PUBLISHED])

    assert failed == [BatchTally("shop", "orders", BatchState.FAILED, 1, NOON, NOON)]
    assert tallies == [
        BatchTally("crm", "deals", BatchState.PLANNED, 1, NOON, NOON),
        BatchTally("shop", "orders", BatchState.FAILED, 1, NOON, NOON),
        BatchTally("shop", "orders", BatchState.PLANNED, 3, NOON - MINUTE, NOON + MINUTE),
    ]


def test_an_empty_ledger_has_nothing_to_tally(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        assert tx.batch_tallies() == []


def test_evidence_is_tallied_by_version_column_mask_and_key(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for number, slot in enumerate(("late", "early", "replayed")):
            batch = a_batch(slot, state=BatchState.PUBLISHED, window=window_until(NOON - number * MINUTE))
            tx.insert_mask_evidence([evidence_of(add_batch(tx, batch), count=3_000_000_000)])
        # Read twice, the second time under another key: that is what left.
        tx.insert_mask_evidence([evidence_of(batch, attempt=2, key_id="k2", count=5)])
        for slot, state in (("waits", BatchState.PLANNED), ("held", BatchState.QUARANTINED)):
            other = add_batch(tx, a_batch(slot, state=state))
            tx.insert_mask_evidence([evidence_of(other)])
        add_batch(tx, a_batch("without", state=BatchState.EXTRACTED))
        # It dropped the column, as it does with all that is no key.
        add_batch(tx, a_batch("keys 2026-11-22T12:00:00.000000Z", state=BatchState.PUBLISHED))

    with ledger.transaction() as tx:
        tallies, counts = tx.mask_tallies("shop", "orders"), tx.read_batch_counts("shop", "orders")

    late, early, replayed = (batch_id("shop", "orders", slot) for slot in ("late", "early", "replayed"))
    two_back = NOON - 2 * MINUTE
    assert tallies == [
        MaskTally(1, "email", MaskKind.HMAC, "k1", 2, 6_000_000_000, early, late, NOON - MINUTE, NOON),
        MaskTally(1, "email", MaskKind.HMAC, "k2", 1, 5, replayed, replayed, two_back, two_back),
    ]
    assert counts == {1: 4}


def test_a_table_that_was_never_read_has_no_evidence(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        assert tx.mask_tallies("shop", "orders") == []
        assert tx.read_batch_counts("shop", "orders") == {}


def window_until(end: datetime) -> Window:
    return Window(end - timedelta(hours=1), end)


def evidence_of(batch: Batch, *, attempt: int = 1, key_id: str = "k1", count: int = 1) -> MaskEvidence:
    return MaskEvidence(batch.id, attempt, "email", MaskKind.HMAC, key_id, count)


def test_files_are_found_by_bucket_foreign_ones_too(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        ours = a_raw_file(add_batch(tx, a_batch()))
        elsewhere = replace(ours, location=Location("esclusa-crm", "tmp/x.csv"), batch_id=None)
        for file in (ours, elsewhere, a_foreign_file()):
            tx.insert_file(file)

        found = tx.files(bucket=BUCKET)

    assert {file.location for file in found} == {ours.location, a_foreign_file().location}


def test_files_are_found_by_the_table_of_their_batch(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        orders = a_raw_file(add_batch(tx, a_batch()))
        customers = a_raw_file(add_batch(tx, a_batch(table="customers")))
        for file in (orders, customers, a_foreign_file("tmp/orders/x.csv")):
            tx.insert_file(file)

        found = tx.files(table="orders")

    assert [file.location for file in found] == [orders.location]


def test_the_last_recorded_files_come_first_if_asked_for(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        batch = add_batch(tx, a_batch())
        for part, recorded_at in enumerate((NOON, NOON + MINUTE, NOON - MINUTE, NOON)):
            tx.insert_file(a_raw_file(batch, part=part, recorded_at=recorded_at))

        found = tx.files(newest_first=True, limit=3)

    assert [file.part for file in found] == [1, 0, 3]


def test_a_migrated_database_is_at_the_newest_revision(fresh_database: str) -> None:
    migrations.upgrade(fresh_database)

    assert migrations.newest() is not None
    assert migrations.current(fresh_database) == migrations.newest()


def test_files_that_no_batch_wrote_can_be_asked_for_alone(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        own = a_raw_file(add_batch(tx, a_batch()))
        for file in (own, a_foreign_file("tmp/gone.csv", deleted_at=NOON), a_foreign_file("tmp/notes.csv")):
            tx.insert_file(file)

        found = tx.files(areas=[Area.TMP], foreign_only=True, present_only=True)

    assert [file.location.key for file in found] == ["tmp/notes.csv"]


def test_who_visits_a_source_and_how_many_connections_it_allows_are_kept(ledger: Ledger) -> None:
    guard = SourceGuard("shop", SourceLimits(3, max_connections=6), visits=(Visit("v1", "prove", 2, NOON),))

    with ledger.transaction() as tx:
        tx.source_guard("shop")
        tx.save_source_guard(guard)
    with ledger.transaction() as tx:
        found = tx.source_guard("shop"), tx.source_guards()
        tx.save_source_guard(guard.after_leaving("v1"))
        left = tx.source_guard("shop").visits

    assert found == (guard, [guard])
    assert left == ()


def test_batches_are_listed_by_the_beginning_of_their_slots(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for slot in ("keys 1", "keys_1", "keys%", "initial"):
            add_batch(tx, a_batch(slot))

        found = {
            prefix: [batch.slot for batch in tx.batches(slot_prefix=prefix)]
            for prefix in ("keys ", "keys_", "keys%")
        }

    assert found == {"keys ": ["keys 1"], "keys_": ["keys_1"], "keys%": ["keys%"]}
