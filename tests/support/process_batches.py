"""Batches for the processor, made by hand: a contract, CSV files in a memory store, and what came of them."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.processor.process import process
from shared.csv_dialect import header_line, record_line
from shared.domain.batches import Attempt, AttemptState, Batch, BatchState, Stage, batch_id
from shared.domain.contracts import (
    Column,
    ColumnType,
    Cursor,
    Mask,
    MaskKind,
    Origin,
    Publishing,
    PublishMode,
    QuarantineLimits,
    SourceKind,
    TableContract,
)
from shared.domain.files import Area, DataFile, FileFormat, FileStatus, Location, raw_key
from shared.domain.windows import Schedule, Window
from shared.lifecycle import StageResult
from shared.object_store.memory import MemoryObjectStore
from shared.stage import Assignment

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
BUCKET = "acme-shop"
USUAL = QuarantineLimits()
EVERYTHING = QuarantineLimits(max_rejected_rows=10**9, max_rejected_ratio=1.0)


def column(
    name: str, text: str = "string", *, mask: MaskKind = MaskKind.KEEP, nullable: bool = True
) -> Column:
    return Column(name=name, type=ColumnType.parse(text), mask=Mask(mask), nullable=nullable)


def table(
    *columns: Column,
    key: Sequence[str] = (),
    cursor: str | None = None,
    limits: QuarantineLimits = USUAL,
    name: str = "orders",
) -> TableContract:
    return TableContract(
        origin=Origin("shop", SourceKind.POSTGRES, {"dsn": "env:SHOP_DSN"}),
        table=name,
        relation=("public", name),
        columns=columns,
        key=tuple(key),
        cursor=Cursor(cursor, lag=timedelta(0), overlap=timedelta(0)) if cursor else None,
        schedule=Schedule(every=timedelta(minutes=15), max_window=timedelta(hours=1), catch_up_limit=24),
        publishing=Publishing(PublishMode.MERGE if key else PublishMode.APPEND),
        limits=limits,
    )


def csv_file(contract: TableContract, rows: Iterable[Sequence[str | None]]) -> bytes:
    names = [column.name for column in contract.output_columns]
    return header_line(names) + b"".join(record_line(row) for row in rows)


@dataclass
class Scene:
    """One batch of a table whose CSV files lie in `processing/`."""

    contract: TableContract
    attempt: int = 1
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    files: list[DataFile] = field(default_factory=list)

    @property
    def batch(self) -> Batch:
        return Batch(
            id=batch_id("shop", self.contract.table, "initial"),
            source="shop",
            table=self.contract.table,
            slot="initial",
            window=Window(None, NOON),
            contract_version=3,
            configuration_sha256="0" * 64,
            bucket=BUCKET,
            state=BatchState.PROCESSING,
            planned_at=NOON,
            changed_at=NOON,
            attempts={Stage.EXTRACT: 2, Stage.PROCESS: self.attempt},
            counts={"rows_written": sum(file.record_count for file in self.files)},
        )

    @property
    def assignment(self) -> Assignment:
        attempt = Attempt(
            self.batch.id,
            Stage.PROCESS,
            self.attempt,
            "w1",
            AttemptState.RUNNING,
            NOON,
            NOON + timedelta(hours=1),
        )
        return Assignment(attempt, self.batch, self.contract, tuple(self.files))

    def add_rows(self, *rows: Sequence[str | None]) -> None:
        self.add_file(csv_file(self.contract, rows), record_count=len(rows))

    def add_file(self, body: bytes, *, record_count: int, sha256: str | None = None) -> None:
        part = len(self.files)
        key = raw_key(
            Area.PROCESSING, table=self.contract.table, batch_id=self.batch.id, attempt=2, part=part
        )
        location = Location(BUCKET, key)
        self.store.put(location, body, sha256=hashlib.sha256(body).hexdigest(), metadata={})
        self.files.append(
            DataFile(
                location=location,
                area=Area.PROCESSING,
                format=FileFormat.CSV,
                batch_id=self.batch.id,
                attempt=2,
                part=part,
                record_count=record_count,
                file_size_in_bytes=len(body),
                sha256=sha256 or hashlib.sha256(body).hexdigest(),
                status=FileStatus.CORRECT,
            )
        )

    def process(self, **options: Any) -> StageResult:
        return process(self.assignment, store=self.store, **options)

    def rows_of(self, result: StageResult) -> list[tuple[Any, ...]]:
        """Return the rows of a result's Parquet, in order."""
        rows: list[tuple[Any, ...]] = []
        for file in result.files:
            if file.format is FileFormat.PARQUET:
                rows += rows_in(self.store.read(file.location))
        return rows

    def rejects_of(self, files: Iterable[DataFile]) -> list[str]:
        """Return the lines of the rejects file, without the header."""
        (file,) = [file for file in files if file.format is FileFormat.REJECTS]
        return self.store.read(file.location).decode().splitlines()[1:]


def rows_in(parquet: bytes) -> list[tuple[Any, ...]]:
    arrow: pa.Table = pq.read_table(io.BytesIO(parquet))
    columns = [arrow.column(position).to_pylist() for position in range(arrow.num_columns)]
    return list(zip(*columns, strict=True))
