"""A sweep over PostgreSQL: what it asks, and that a dry run writes nothing: the database itself refuses writes then."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from support.journey import Journey
from support.ledger_rows import (
    BUCKET,
    NOON,
    a_batch,
    a_compaction,
    a_final_file,
    a_foreign_file,
    a_raw_file,
    add_batch,
)
from support.ledgers import postgres_ledger

from lambdas.sweeper.actions import ActionKind
from lambdas.sweeper.limits import SweepLimits
from lambdas.sweeper.report import SweepReport
from lambdas.sweeper.sweep import sweep
from shared.compactions import file_of
from shared.domain.batches import BatchState, Stage
from shared.domain.compactions import CompactionState
from shared.domain.files import Area, Location, raw_key
from shared.domain.retries import RetryPolicy
from shared.ledger.postgres import PostgresLedger
from shared.object_store.memory import MemoryObjectStore
from shared.ports import Ledger, QueueName
from shared.queues.memory import MemoryQueues

DAY = timedelta(days=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
AT_ONCE = SweepLimits(stray_after=timedelta(0), upload_after=timedelta(0), foreign_after=timedelta(0))


def test_a_dry_run_finds_everything_in_a_database_that_takes_no_writes(dsn: str) -> None:
    store = MemoryObjectStore()
    with postgres_ledger(dsn) as ledger:
        _one_of_each_kind(Journey(ledger, store, MemoryQueues()), store)
    before = _rows(dsn)
    queues = MemoryQueues()

    with postgres_ledger(f"{dsn}?options=-c%20default_transaction_read_only%3Don") as read_only:
        report = _swept(read_only, store, queues, is_dry_run=True)

    assert set(report.counts) == set(ActionKind)
    assert not report.buckets_not_swept
    assert _rows(dsn) == before
    assert not any(queues.waiting(queue) for queue in QueueName)


def test_a_run_does_on_postgresql_what_the_dry_run_found(dsn: str) -> None:
    store, queues = MemoryObjectStore(), MemoryQueues()
    with postgres_ledger(dsn) as ledger:
        _one_of_each_kind(Journey(ledger, store, queues), store)
        found = _swept(ledger, store, queues, is_dry_run=True)

        done = _swept(ledger, store, queues)

    assert set(done.counts) == set(ActionKind)
    assert {(action.kind, action.subject) for action in done.actions} == {
        (action.kind, action.subject) for action in found.actions
    }


def test_sources_with_deferred_batches_are_told_once_and_in_order(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for source, slot, woken_at in (
            ("shop", "a", None),
            ("shop", "b", None),
            ("crm", "a", None),
            ("erp", "a", NOON),
        ):
            add_batch(tx, a_batch(slot, source=source, woken_at=woken_at))
        add_batch(tx, a_batch("done", source="hr", state=BatchState.PUBLISHED, woken_at=None))

        assert tx.sources_with_deferred_batches() == ["crm", "shop"]


def test_files_are_found_by_when_they_were_recorded(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for days in (1, 2, 3):
            tx.insert_file(a_foreign_file(f"tmp/{days}", recorded_at=NOON - days * DAY))

        found = tx.files(recorded_before=NOON - 2 * DAY)

    assert [file.location.key for file in found] == ["tmp/3"]


def _swept(
    ledger: PostgresLedger, store: MemoryObjectStore, queues: MemoryQueues, *, is_dry_run: bool = False
) -> SweepReport:
    return sweep(
        ledger=ledger,
        store=store,
        sender=queues,
        buckets=[BUCKET],
        limits=AT_ONCE,
        retry=RetryPolicy(3),
        areas=tuple(Area),
        is_dry_run=is_dry_run,
    )


def _one_of_each_kind(journey: Journey, store: MemoryObjectStore) -> None:
    """Bring about something to do of every kind."""
    journey.plan()
    journey.write_raw(journey.claim(Stage.EXTRACT))
    leftover = a_batch(
        "leftover",
        state=BatchState.PUBLISHED,
        attempts={Stage.EXTRACT: 1},
        committed_attempt=1,
        woken_at=None,
    )
    with journey.ledger.transaction() as tx:
        attempt = tx.attempt(journey.batch_id, Stage.EXTRACT, 1)
        assert attempt is not None
        tx.save_attempt(replace(attempt, lease_until=LONG_AGO))
        add_batch(tx, a_batch("asleep", planned_at=LONG_AGO))
        add_batch(tx, a_batch("deferred", woken_at=None))
        tx.insert_file(a_raw_file(add_batch(tx, leftover)))
        # Its own file may go.
        undone = a_compaction(
            state=CompactionState.UNDONE,
            batches=(),
            begun_at=LONG_AGO,
            lease_until=LONG_AGO,
            decided_at=LONG_AGO,
            shown_at=LONG_AGO,
            delete_after=LONG_AGO,
        )
        tx.insert_compaction(undone)
        unread = replace(
            a_final_file(leftover),
            location=file_of(undone),
            batch_id=None,
            compaction_id=undone.id,
            attempt=0,
        )
        tx.insert_file(unread)
        tx.insert_file(a_foreign_file("quarantine/expired", area=Area.QUARANTINE, recorded_at=LONG_AGO))
    stray = raw_key(Area.TMP, table="orders", batch_id=leftover.id, attempt=1, part=9)
    unknown = raw_key(Area.TMP, table="orders", batch_id=leftover.id, attempt=7, part=0)
    for key in ("tmp/notes.csv", "quarantine/notes.csv", stray, unknown):
        store.overwrite(Location(BUCKET, key), b"mine")
    store.open_upload(Location(BUCKET, "tmp/b.csv"), metadata={})


def _rows(dsn: str) -> list[Any]:
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'esclusa' ORDER BY 1"
        ).fetchall()
        return [
            (table, connection.execute(f'SELECT t::text FROM esclusa."{table}" t ORDER BY 1').fetchall())  # type: ignore[arg-type]
            for (table,) in tables
        ]
