"""Rejected rows of a published batch: read again by a batch of their own, or given up."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from support.ledger_rows import BUCKET, NOON, a_batch, a_contract, a_raw_file, add_batch
from support.ledgers import SteppingClock

from shared import lifecycle
from shared.domain.batches import EDGES, Batch, BatchState, Stage, batch_id
from shared.domain.files import Area, DataFile, FileFormat, FileStatus, Location, rejects_key
from shared.domain.reasons import Reason
from shared.ledger.memory import MemoryLedger
from shared.messages import parse_clean_message, parse_task_message
from shared.ports import LedgerTransaction, QueueName


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger(SteppingClock())


def a_published_batch(**changes: object) -> Batch:
    return a_batch(
        state=BatchState.PUBLISHED,
        attempts={Stage.EXTRACT: 1, Stage.PROCESS: 2, Stage.PUBLISH: 1},
        counts={"rows_rejected": 2},
        woken_at=None,
        **changes,
    )


def a_rejects_file(batch: Batch, *, attempt: int = 2) -> DataFile:
    key = rejects_key(table=batch.table, batch_id=batch.id, attempt=attempt)
    return DataFile(
        Location(batch.bucket, key),
        Area.QUARANTINE,
        FileFormat.REJECTS,
        batch.id,
        attempt,
        0,
        record_count=3,
        file_size_in_bytes=90,
        sha256="7e" * 32,
        status=FileStatus.CORRECT,
    )


def read_again(ledger: MemoryLedger, batch: Batch, *, version: int = 1) -> Batch | None:
    with ledger.transaction() as tx:
        return lifecycle.plan_again(tx, batch, contract=a_contract(version=version), detail="cured")


def move_to(ledger: MemoryLedger, batch: Batch, state: BatchState) -> None:
    """Lead a batch along the edges to a state."""
    ways = {BatchState.PLANNED: [BatchState.PLANNED]}
    while state not in ways:
        ways |= {
            after: [*ways[before], after] for before, after in EDGES if before in ways and after not in ways
        }
    with ledger.transaction() as tx:
        for step in ways[state][1:]:
            batch = tx.save_batch(replace(batch, state=step))


# ---- reading again -----------------------------------------------------------------------------------------


def test_the_window_of_a_published_batch_is_read_again_by_another_batch(ledger: MemoryLedger) -> None:
    with ledger.transaction() as tx:
        published = add_batch(tx, a_published_batch())

    again = read_again(ledger, published)

    assert again is not None
    assert (again.id, again.slot) == (batch_id("shop", "orders", "initial rejects 1"), "initial rejects 1")
    assert (again.state, again.window, again.bucket) == (BatchState.PLANNED, published.window, BUCKET)
    with ledger.transaction() as tx:
        assert tx.batch(published.id) == published
        (event,) = tx.events(again.id)
        (entry,) = tx.pending_messages(limit=10)
    assert (event.actor, event.reason) == ("operator", Reason.REPLAYED)
    assert event.detail == f"the rejected rows of {published.id}: cured"
    assert entry.message.queue is QueueName.EXTRACT
    assert parse_task_message(entry.message.body).batch_id == again.id


def test_it_is_read_under_the_contract_given(ledger: MemoryLedger) -> None:
    with ledger.transaction() as tx:
        published = add_batch(tx, a_published_batch())
        tx.insert_contract(a_contract(version=2))

    again = read_again(ledger, published, version=2)

    assert again is not None
    assert (again.contract_version, again.configuration_sha256) == (2, a_contract(version=2).sha256)


@pytest.mark.parametrize(
    "state", [BatchState.PLANNED, BatchState.PROCESSING, BatchState.QUARANTINED, BatchState.FAILED]
)
def test_while_one_is_under_way_or_held_no_other_is_planned(ledger: MemoryLedger, state: BatchState) -> None:
    with ledger.transaction() as tx:
        published = add_batch(tx, a_published_batch())
    first = read_again(ledger, published)
    assert first is not None
    move_to(ledger, first, state)

    assert read_again(ledger, published) is None


@pytest.mark.parametrize("state", [BatchState.PUBLISHED, BatchState.DISCARDED])
def test_after_one_that_is_final_the_next_is_numbered_on(ledger: MemoryLedger, state: BatchState) -> None:
    with ledger.transaction() as tx:
        published = add_batch(tx, a_published_batch())
    first = read_again(ledger, published)
    assert first is not None
    move_to(ledger, first, state)

    second = read_again(ledger, published)

    assert second is not None
    assert second.slot == "initial rejects 2"
    with ledger.transaction() as tx:
        assert [batch.slot for batch in lifecycle.readings_after(tx, published)] == [
            "initial rejects 1",
            "initial rejects 2",
        ]
        assert [batch.slot for batch in lifecycle.readings_after(tx, first)] == ["initial rejects 2"]


def test_what_a_second_reading_rejects_is_read_by_the_third(ledger: MemoryLedger) -> None:
    with ledger.transaction() as tx:
        published = add_batch(tx, a_published_batch())
    first = read_again(ledger, published)
    assert first is not None
    move_to(ledger, first, BatchState.PUBLISHED)

    second = read_again(ledger, first)

    assert second is not None
    assert second.slot == "initial rejects 2"


def test_a_second_reading_does_not_set_back_what_is_published(ledger: MemoryLedger) -> None:
    with ledger.transaction() as tx:
        published = add_batch(tx, a_published_batch())
        tx.set_watermark("shop", "orders", NOON)
    read_again(ledger, published)

    with ledger.transaction() as tx:
        (progress,) = tx.table_progress()

    assert progress.published_until == NOON


# ---- giving up ---------------------------------------------------------------------------------------------


def discard(ledger: MemoryLedger, batch: Batch) -> list[DataFile]:
    with ledger.transaction() as tx:
        return lifecycle.discard_rejects(tx, batch, detail="test rows")


def cleaned(tx: LedgerTransaction) -> list[str]:
    messages = [entry.message for entry in tx.pending_messages(limit=100)]
    assert {message.queue for message in messages} <= {QueueName.CLEAN}
    return [parse_clean_message(message.body).batch_id for message in messages]  # type: ignore[union-attr]


def test_rejected_rows_that_are_given_up_go_to_the_cleaner_with_the_reason_in_the_ledger(
    ledger: MemoryLedger,
) -> None:
    with ledger.transaction() as tx:
        published = add_batch(tx, a_published_batch())
        tx.insert_file(a_rejects_file(published))

    (given_up,) = discard(ledger, published)

    with ledger.transaction() as tx:
        file = tx.file(given_up.location)
        assert file is not None
        assert (file.reason, file.detail, file.deleted_at) == (Reason.DISCARDED, "test rows", None)
        assert lifecycle.leftovers(tx, published) == [file]
        assert tx.batches_with_leftovers(limit=10) == [published]
        assert cleaned(tx) == [published.id]
        assert tx.batch(published.id) == published


def test_what_nobody_gave_up_stays(ledger: MemoryLedger) -> None:
    with ledger.transaction() as tx:
        published = add_batch(tx, a_published_batch())
        tx.insert_file(a_rejects_file(published))

    with ledger.transaction() as tx:
        assert lifecycle.leftovers(tx, published) == []
        assert tx.batches_with_leftovers(limit=10) == []


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda batch: a_rejects_file(batch, attempt=1), id="of an earlier attempt"),
        pytest.param(lambda batch: a_raw_file(batch, Area.QUARANTINE, attempt=2), id="evidence of a gate"),
    ],
)
def test_only_the_rejects_of_the_attempt_that_readers_see_are_given_up(
    ledger: MemoryLedger, other: Callable[[Batch], DataFile]
) -> None:
    with ledger.transaction() as tx:
        published = add_batch(tx, a_published_batch())
        tx.insert_file(other(published))

    assert discard(ledger, published) == []
    with ledger.transaction() as tx:
        assert cleaned(tx) == []


def test_giving_up_twice_changes_nothing(ledger: MemoryLedger) -> None:
    with ledger.transaction() as tx:
        published = add_batch(tx, a_published_batch())
        tx.insert_file(a_rejects_file(published))
    discard(ledger, published)

    assert discard(ledger, published) == []
