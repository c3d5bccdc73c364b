"""Rows of a ledger for tests: whole and valid, so that a test names only what it is about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.contract_document import sha256_of
from shared.domain.batches import Attempt, AttemptState, Batch, BatchEvent, BatchState, Stage, batch_id
from shared.domain.compactions import CompactedBatch, Compaction, CompactionState
from shared.domain.contracts import (
    STRING,
    Column,
    ColumnKind,
    ColumnType,
    ContractVersion,
    Cursor,
    Mask,
    MaskKind,
    Origin,
    Publishing,
    PublishMode,
    SourceKind,
    TableContract,
)
from shared.domain.files import Area, DataFile, FileFormat, Location, final_key, raw_key
from shared.domain.windows import INITIAL_SLOT, Schedule, Window
from shared.ports import LedgerTransaction

BUCKET = "esclusa-shop"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def a_contract(table: str = "orders", *, source: str = "shop", version: int = 1) -> ContractVersion:
    """Return a contract that differs from version to version."""
    contract = TableContract(
        origin=Origin(source, SourceKind.POSTGRES, {"dsn": "env:SHOP_DSN"}, {"k1": "env:MASK_KEY"}),
        table=table,
        relation=("public", table),
        columns=(
            *(Column(f"column_{i}", STRING, Mask(MaskKind.KEEP)) for i in range(version)),
            Column("updated_at", ColumnType(ColumnKind.TIMESTAMPTZ), Mask(MaskKind.KEEP), nullable=False),
        ),
        key=("column_0",),
        cursor=Cursor("updated_at", lag=timedelta(seconds=30), overlap=timedelta(minutes=5)),
        schedule=Schedule(timedelta(minutes=15), max_window=timedelta(hours=1), catch_up_limit=4),
        publishing=Publishing(PublishMode.MERGE),
    )
    return ContractVersion(version, sha256_of(contract), contract)


def a_batch(
    slot: str = INITIAL_SLOT,
    *,
    table: str = "orders",
    source: str = "shop",
    state: BatchState = BatchState.PLANNED,
    planned_at: datetime = NOON,
    **changes: Any,
) -> Batch:
    """Return a batch whose contract is version 1 of `a_contract`."""
    contract = a_contract(table, source=source)
    batch = Batch(
        id=batch_id(source, table, slot),
        source=source,
        table=table,
        slot=slot,
        window=Window(None, NOON),
        contract_version=contract.version,
        configuration_sha256=contract.sha256,
        bucket=BUCKET,
        state=state,
        planned_at=planned_at,
        changed_at=planned_at,
        woken_at=planned_at,
        wake_count=1,
    )
    return replace(batch, **changes)


def add_batch(tx: LedgerTransaction, batch: Batch) -> Batch:
    """Add a batch and, if need be, its contract."""
    tx.insert_contract(a_contract(batch.table, source=batch.source))
    assert tx.insert_batch(batch)
    return batch


def an_attempt(batch: Batch, stage: Stage = Stage.EXTRACT, number: int = 1, **changes: Any) -> Attempt:
    """Return a running attempt with a minute of lease."""
    attempt = Attempt(
        batch.id, stage, number, "worker-1", AttemptState.RUNNING, NOON, NOON + timedelta(minutes=1)
    )
    return replace(attempt, **changes)


def an_event(
    batch: Batch, sequence: int = 1, *, to_state: BatchState = BatchState.PLANNED, **changes: Any
) -> BatchEvent:
    """Return a transition; without `from_state` it is the first."""
    return replace(BatchEvent(batch.id, sequence, None, to_state, NOON, "planner"), **changes)


def a_raw_file(
    batch: Batch, area: Area = Area.TMP, *, attempt: int = 1, part: int = 0, **changes: Any
) -> DataFile:
    """Return a CSV file of a batch."""
    key = raw_key(area, table=batch.table, batch_id=batch.id, attempt=attempt, part=part)
    file = DataFile(
        Location(batch.bucket, key), area, FileFormat.CSV, batch.id, attempt, part, 3, 120, "c5" * 32
    )
    return replace(file, **changes)


def a_final_file(batch: Batch, *, attempt: int = 1, part: int = 0, **changes: Any) -> DataFile:
    """Return a Parquet file of a batch."""
    key = final_key(table=batch.table, day="2026-11-22", batch_id=batch.id, attempt=attempt, part=part)
    file = DataFile(
        Location(batch.bucket, key),
        Area.FINAL,
        FileFormat.PARQUET,
        batch.id,
        attempt,
        part,
        3,
        240,
        "9a" * 32,
    )
    return replace(file, **changes)


def a_foreign_file(key: str = "tmp/stray.bin", **changes: Any) -> DataFile:
    """Return an object that no batch wrote."""
    file = DataFile(Location(BUCKET, key), Area.TMP, FileFormat.FOREIGN, None, 0, 0, 0, 7, "f0" * 32)
    return replace(file, **changes)


def a_compaction(number: int = 1, **changes: Any) -> Compaction:
    """A compaction of two batches, one of them without rows, whose file is being written."""
    compaction = Compaction(
        id=f"c{number:024x}",
        source="shop",
        table="orders",
        bucket=BUCKET,
        day="2026-11-22",
        contract_version=1,
        state=CompactionState.WRITING,
        batches=(CompactedBatch("b1", 0, 3), CompactedBatch("b2", 3, 0)),
        begun_at=NOON + timedelta(minutes=number),
        lease_until=NOON + timedelta(hours=1),
        detail="first",
    )
    return replace(compaction, **changes)
