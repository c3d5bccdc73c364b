"""What is known of the ranges of a table: what a published batch read, and nothing else."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from support.ledger_rows import NOON, a_batch, a_contract, a_final_file, add_batch, an_attempt

from shared import lifecycle
from shared.domain.batches import Batch, BatchState, Stage
from shared.domain.contracts import (
    Column,
    ColumnKind,
    ColumnType,
    KeyRanges,
    Mask,
    MaskKind,
    TableContract,
)
from shared.domain.key_ranges import EVERYTHING, Interval, KnownCells, RangeReading
from shared.lifecycle import CarriedRows
from shared.ports import Ledger, LedgerTransaction

ORDERS = a_contract().contract
RANGED: TableContract = replace(
    ORDERS,
    cursor=None,
    key=("id",),
    columns=(Column("id", ColumnType(ColumnKind.INT64), Mask(MaskKind.KEEP), nullable=False),),
    key_ranges=KeyRanges(),
)
READING = RangeReading("id", 4, {1: "aa", 2: "bb"}, 6, None, EVERYTHING)


def insert(
    tx: LedgerTransaction,
    slot: str,
    *,
    state: BatchState = BatchState.PUBLISHED,
    reading: RangeReading | None = READING,
    minutes: int = 0,
    counts: Mapping[str, int] = {"rows_in_final": 6},
    **more: object,
) -> Batch:
    """A batch that was read, processed and, if its state says so, published: two files of three rows."""
    batch = replace(
        a_batch(slot, state=state, **more),  # type: ignore[arg-type]
        attempts={Stage.EXTRACT: 1, Stage.PROCESS: 1},
        committed_attempt=1,
        counts=dict(counts),
        planned_at=NOON.replace(minute=minutes),
    )
    add_batch(tx, batch)
    tx.insert_attempt(an_attempt(batch))
    for part in range(2):
        tx.insert_file(a_final_file(batch, attempt=1, part=part))
    tx.insert_manifest(batch.id, Stage.EXTRACT, 1, {"ranges": reading.entry()} if reading else {})
    return batch


def known(
    tx: LedgerTransaction, slot: str = "snapshot now", contract: TableContract = RANGED
) -> KnownCells | None:
    return lifecycle.known_cells_of(tx, a_batch(slot), contract)


def test_what_the_newest_published_batch_of_its_kind_read_is_known(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        insert(tx, "snapshot 1", minutes=1, reading=replace(READING, bits=1))
        snapshot = insert(tx, "snapshot 2", minutes=2)
        insert(tx, "snapshot 3", minutes=3, state=BatchState.QUARANTINED)
        insert(tx, "snapshot 4", minutes=4, state=BatchState.COMMITTED)
        sweep = insert(tx, "keys 1", minutes=5, reading=replace(READING, bits=9))
        insert(tx, "2026-01-01T00:00:00.000000Z", minutes=6)

        of_snapshots, of_sweeps = known(tx), known(tx, "keys 2")

    assert of_snapshots == KnownCells(snapshot.id, 4, {1: "aa", 2: "bb"})
    assert of_sweeps == KnownCells(sweep.id, 9, {1: "aa", 2: "bb"})


@pytest.mark.parametrize(
    "more",
    [
        {"reading": None},
        {"contract_version": 2},
        {"counts": {"rows_in_final": 6, "rows_rejected": 1}},
        {"counts": {"rows_in_final": 7}},
        {"state": BatchState.PUBLISHING},
    ],
    ids=["read whole", "another contract", "rows were rejected", "files are missing", "not published yet"],
)
def test_nothing_is_known_of_a_batch_that_cannot_be_relied_on(
    ledger: Ledger, more: Mapping[str, object]
) -> None:
    with ledger.transaction() as tx:
        tx.insert_contract(a_contract(version=2))
        insert(tx, "snapshot 1", minutes=1)
        insert(tx, "snapshot 2", minutes=2, **more)  # type: ignore[arg-type]

        found = known(tx)

    # Of one that is not published yet nothing counts, and the one before still does.
    assert (found is None) == (more.get("state") is None)


def test_nothing_is_known_once_the_files_are_gone(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        before = insert(tx, "snapshot 1")
        lifecycle.record_deleted(tx, a_final_file(before, attempt=1, part=1).location)

        assert known(tx) is None


def test_a_table_that_is_not_read_by_ranges_knows_none(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        insert(tx, "snapshot 1")

        assert known(tx, contract=replace(RANGED, key_ranges=None)) is None
        assert known(tx, contract=replace(RANGED, cursor=ORDERS.cursor)) is None


def test_a_batch_takes_over_what_it_was_compared_with_whatever_was_published_since(ledger: Ledger) -> None:
    read = (Interval(0, 16),)
    with ledger.transaction() as tx:
        before = insert(tx, "snapshot 1", minutes=1)
        reading = replace(READING, baseline=before.id, intervals=read)
        batch = insert(tx, "snapshot 2", minutes=2, state=BatchState.PROCESSING, reading=reading)
        insert(tx, "snapshot 3", minutes=3)

        carried = lifecycle.carried_rows_of(tx, batch)
        alone = lifecycle.carried_rows_of(tx, before)
        lifecycle.record_deleted(tx, a_final_file(before, attempt=1, part=0).location)
        gone = lifecycle.carried_rows_of(tx, batch)

    assert carried is not None
    assert (carried.batch_id, carried.column, carried.intervals) == (before.id, "id", read)
    assert sum(file.record_count for file in carried.files) == 6
    assert alone is None
    assert gone == CarriedRows(before.id, (), "id", read)
