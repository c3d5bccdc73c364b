"""What every ledger promises of compactions and rollbacks."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.ledger_rows import NOON, a_batch, a_compaction, a_final_file, add_batch
from support.ledgers import postgres_ledger

from shared import compactions
from shared.compactions import CommittedRows, file_of
from shared.domain.batches import Batch, BatchState
from shared.domain.compactions import CompactedBatch, Compaction, CompactionState
from shared.domain.counts import Count
from shared.domain.files import DataFile
from shared.domain.rollbacks import Rollback
from shared.errors import LostLease
from shared.ports import LedgerTransaction

LATER = NOON + timedelta(hours=1)
DAY = timedelta(days=1)


def test_a_compaction_is_kept_as_it_was_and_changed_by_its_state(ledger):
    with ledger.transaction() as tx:
        tx.insert_compaction(a_compaction())
    changed = a_compaction(
        state=CompactionState.COMMITTED,
        decided_at=NOON,
        shown_at=NOON,
        delete_after=LATER,
        deletes_begun_at=LATER,
        cleaned_at=LATER,
        detail="second",
    )

    with ledger.transaction() as tx:
        before = tx.compaction(changed.id)
        tx.save_compaction(changed)

    with ledger.transaction() as tx:
        assert before == a_compaction()
        assert tx.compaction(changed.id, lock=True) == changed
        assert tx.compaction("c0") is None
        with pytest.raises(KeyError):
            tx.save_compaction(a_compaction(7))


def test_the_types_of_a_widening_are_kept_and_it_waits_and_is_replaced(ledger):
    widening = a_compaction(types_version=2)
    with ledger.transaction() as tx:
        tx.insert_compaction(widening)

    for state in (CompactionState.PREPARED, CompactionState.REPLACED):
        with ledger.transaction() as tx:
            tx.save_compaction(replace(widening, state=state))
        with ledger.transaction() as tx:
            assert tx.compactions("shop", "orders", states=[state]) == [replace(widening, state=state)]


def test_all_widenings_of_a_table_are_read_by_one_commit_and_replace_what_had_their_rows(ledger):
    with ledger.transaction() as tx:
        batches = [
            add_batch(tx, a_batch(slot, state=BatchState.PUBLISHED)) for slot in ("one", "two", "three")
        ]
        first, second, third = (CompactedBatch(batch.id, 0, 1) for batch in batches)
        lease = {"lease_until": tx.now() + timedelta(hours=1)}
        before = a_compaction(1, batches=(first, second), **lease)
        late = a_compaction(2, batches=(second, third), **lease)
        both = [
            a_compaction(3, batches=(first, second), types_version=2, **lease),
            a_compaction(4, batches=(third,), types_version=2, **lease),
        ]
        tearing = a_compaction(5, batches=(second,), types_version=2, **lease)
        for compaction in (before, late, *both, tearing):
            tx.insert_compaction(compaction)
        _commit(tx, before, batches[0])
        for compaction in (*both, tearing):
            compactions.prepare(tx, compaction.id, file=_file_of(compaction, batches[0]))

    with ledger.transaction() as tx:
        assert CommittedRows.of(tx, "shop", "orders").types_version is None
        with pytest.raises(LostLease, match="compacted otherwise"):
            compactions.commit_widenings(tx, [tearing.id], retention=DAY)
    with ledger.transaction() as tx:
        ids = [compaction.id for compaction in both]
        committed = compactions.commit_widenings(tx, ids, retention=DAY)
        rows = CommittedRows.of(tx, "shop", "orders")
        found = tx.compaction(before.id)

    assert [one.state for one in committed] == [CompactionState.COMMITTED] * 2
    assert (found.state, found.shown_at) == (CompactionState.REPLACED, None)
    assert [rows.compaction_of(batch.id).id for batch in batches] == [ids[0], ids[0], ids[1]]
    assert rows.types_version == 2
    with ledger.transaction() as tx:
        with pytest.raises(LostLease, match="no longer prepared"):
            compactions.commit_widenings(tx, ids, retention=DAY)
        with pytest.raises(LostLease, match="compacted or held meanwhile"):
            _commit(tx, late, batches[0])
        with pytest.raises(LostLease, match="no way back"):
            compactions.undo(tx, ids[0], retention=DAY, detail="test")


def test_compactions_are_listed_by_table_and_state_as_they_began(ledger):
    second = a_compaction(2, state=CompactionState.UNDONE, decided_at=NOON)
    with ledger.transaction() as tx:
        for compaction in (second, a_compaction(1), a_compaction(3, table="other")):
            tx.insert_compaction(compaction)

        assert tx.compactions("shop", "orders") == [a_compaction(1), second]
        assert tx.compactions("shop", "orders", states=[CompactionState.UNDONE]) == [second]


def test_compactions_are_cleaned_once_they_are_shown_and_had_their_time(ledger):
    due = a_compaction(
        1, state=CompactionState.COMMITTED, shown_at=NOON, delete_after=NOON - timedelta(days=400)
    )
    others = [
        a_compaction(2, delete_after=due.delete_after),
        replace(due, id="c3", delete_after=NOON + timedelta(days=36_500)),
        replace(due, id="c4", cleaned_at=NOON),
        replace(due, id="c5", delete_after=NOON - timedelta(days=300)),
    ]
    with ledger.transaction() as tx:
        for compaction in (*others, due):
            tx.insert_compaction(compaction)

        assert [found.id for found in tx.compactions_to_clean(limit=9)] == [due.id, "c5"]
        assert [found.id for found in tx.compactions_to_clean(limit=1)] == [due.id]


class Announced:
    """A transaction that tells when it is about to lock a batch."""

    def __init__(self, tx: LedgerTransaction, event: threading.Event) -> None:
        self._tx = tx
        self._event = event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def batch(self, batch_id: str, *, lock: bool = False) -> Any:
        if lock:
            self._event.set()
        return self._tx.batch(batch_id, lock=lock)


def _file_of(compaction: Compaction, batch: Batch) -> DataFile:
    """The file of a compaction, as large as one of a batch."""
    return replace(
        a_final_file(batch), location=file_of(compaction), batch_id=None, compaction_id=compaction.id
    )


def _commit(tx: LedgerTransaction, compaction: Compaction, batch: Batch) -> None:
    compactions.commit(tx, compaction.id, file=_file_of(compaction, batch), retention=DAY)


@pytest.mark.parametrize("other", ["compaction", "widening", "rollback"])
def test_of_two_that_would_lead_the_same_batches_elsewhere_at_one_moment_the_later_finds_the_earlier(
    dsn, other
):
    with postgres_ledger(dsn) as ledger:
        with ledger.transaction() as tx:
            batches = [add_batch(tx, a_batch(slot, state=BatchState.PUBLISHED)) for slot in ("one", "two")]
            parts = tuple(CompactedBatch(batch.id, 0, 1) for batch in batches)
            both = [
                a_compaction(number, batches=parts, lease_until=tx.now() + timedelta(hours=1))
                for number in (1, 2)
            ]
            for compaction in both:
                tx.insert_compaction(compaction)
        is_waiting = threading.Event()

        def commit_second() -> None:
            with ledger.transaction() as tx:
                _commit(Announced(tx, is_waiting), both[1], batches[0])  # type: ignore[arg-type]

        with ThreadPoolExecutor(1) as pool:
            with ledger.transaction() as tx:
                if other == "compaction":
                    _commit(tx, both[0], batches[0])
                elif other == "widening":
                    compactions.prepare(tx, both[0].id, file=_file_of(both[0], batches[0]))
                    compactions.commit_widenings(tx, [both[0].id], retention=DAY)
                else:
                    compactions.lock_batches(tx, [batches[1].id])
                    withdrawn = (batches[1].id,)
                    tx.insert_rollback(
                        Rollback("r1", "shop", "orders", batches[0].id, withdrawn, tx.now(), "anna")
                    )
                second = pool.submit(commit_second)
                assert is_waiting.wait(20)
            with pytest.raises(LostLease):
                second.result(20)
        with ledger.transaction() as tx:
            assert tx.compaction(both[1].id).state is CompactionState.WRITING


def test_a_file_of_a_compaction_is_not_foreign(ledger):
    with ledger.transaction() as tx:
        batch = add_batch(tx, a_batch())
        file = a_final_file(batch)
        compacted = replace(
            file, location=replace(file.location, key="final/x"), batch_id=None, compaction_id="c1", attempt=0
        )
        foreign = replace(compacted, location=replace(file.location, key="final/y"), compaction_id=None)
        for one in (file, compacted, foreign):
            tx.insert_file(one)

        assert tx.file(compacted.location).compaction_id == "c1"
        assert [one.location.key for one in tx.files(foreign_only=True)] == ["final/y"]


def test_rollbacks_are_kept_in_their_order_and_end(ledger):
    back = Rollback("r1", "shop", "orders", "b1", ("b2", "b3"), NOON, "anna", "why")
    forward = Rollback("r2", "shop", "orders", None, (), LATER, "anna")
    with ledger.transaction() as tx:
        for rollback in (forward, back, replace(back, id="r3", table="other")):
            tx.insert_rollback(rollback)
        tx.save_rollback(replace(back, done_at=LATER))

        assert tx.rollbacks("shop", "orders") == [replace(back, done_at=LATER), forward]
        with pytest.raises(KeyError):
            tx.save_rollback(replace(back, id="r9"))


def test_the_rows_of_published_batches_are_counted_without_key_sweeps(ledger):
    counts = {Count.ROWS_IN_FINAL: 5}
    with ledger.transaction() as tx:
        for slot, state in (
            ("one", BatchState.PUBLISHED),
            ("two", BatchState.PUBLISHED),
            ("keys three", BatchState.PUBLISHED),
            ("four", BatchState.PUBLISHING),
        ):
            add_batch(tx, a_batch(slot, state=state, counts=counts))
        add_batch(tx, a_batch("five", table="empty"))

        assert tx.published_row_count("shop", "orders") == 10
        assert tx.published_row_count("shop", "empty") == 0
