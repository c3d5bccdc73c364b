"""What operators leave behind in a ledger: second readings of a window, and rejected rows that were given up."""

from datetime import timedelta

from support.ledger_rows import NOON, a_batch, a_raw_file, add_batch

from shared import lifecycle
from shared.domain.batches import BatchState
from shared.domain.files import Area
from shared.domain.reasons import Reason
from shared.domain.windows import SNAPSHOT_SLOT_PREFIX, Window, rejects_slot
from shared.ports import Ledger

HOUR = timedelta(hours=1)
WINDOW = Window(NOON - HOUR, NOON)


def test_a_table_has_come_as_far_while_a_window_is_read_again(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for slot in ("a window", f"{SNAPSHOT_SLOT_PREFIX}of once"):
            add_batch(tx, a_batch(slot, window=WINDOW, state=BatchState.PUBLISHED))
            add_batch(tx, a_batch(rejects_slot(slot, 1), window=WINDOW))
        tx.set_watermark("shop", "orders", NOON + HOUR)

    with ledger.transaction() as tx:
        (progress,) = tx.table_progress()

    assert progress.published_until == NOON + HOUR


def test_batches_with_leftovers_are_also_those_of_which_something_set_aside_was_given_up(
    ledger: Ledger,
) -> None:
    given_up, kept, gone = (
        a_batch(slot, state=BatchState.PUBLISHED) for slot in ("given up", "kept", "gone")
    )
    with ledger.transaction() as tx:
        for batch in (given_up, kept, gone):
            add_batch(tx, batch)
        tx.insert_file(a_raw_file(given_up, Area.QUARANTINE, reason=Reason.DISCARDED))
        tx.insert_file(a_raw_file(kept, Area.QUARANTINE))
        tx.insert_file(a_raw_file(gone, Area.QUARANTINE, reason=Reason.DISCARDED, deleted_at=NOON))

    with ledger.transaction() as tx:
        found = [batch.slot for batch in tx.batches_with_leftovers(limit=10)]

        assert found == ["given up"]
        assert [len(lifecycle.leftovers(tx, batch)) for batch in (given_up, kept, gone)] == [1, 0, 0]
