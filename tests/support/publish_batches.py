"""Batches for the publisher, made by hand: a contract, Parquet files in a memory store, and what analysts see."""

import hashlib
import io
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql

from services.processor.parquet import arrow_schema
from services.publisher.memory import MemoryWarehouse
from services.publisher.postgres import PostgresWarehouse
from services.publisher.warehouse import LoadResult, NativeLoad, Warehouse
from shared.domain.batches import Attempt, AttemptState, Batch, BatchState, Stage, batch_id
from shared.domain.contracts import (
    Column,
    ColumnType,
    Cursor,
    DeleteMode,
    Deletes,
    Mask,
    MaskKind,
    Origin,
    Publishing,
    PublishMode,
    SourceKind,
    TableContract,
    Target,
)
from shared.domain.files import Area, DataFile, FileFormat, FileStatus, Location, final_key
from shared.domain.windows import Schedule, Window, slot_of
from shared.measures import MEASURES_KEY, to_text
from shared.measuring import measure
from shared.object_store.memory import MemoryObjectStore
from shared.ports import ByteReader
from shared.stage import Assignment

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
BUCKET = "acme-shop"

Row = tuple[Any, ...]


def at(minute: int) -> datetime:
    """A cursor value, as it stands in Parquet: UTC without a zone."""
    return (NOON + timedelta(minutes=minute)).replace(tzinfo=None)


def column(name: str, text: str = "string", *, mask: MaskKind = MaskKind.KEEP) -> Column:
    parameters = {"domain": "customer", "key_id": "k1"} if mask is MaskKind.HMAC else {}
    return Column(name=name, type=ColumnType.parse(text), mask=Mask(mask, **parameters))


def contract_of(
    *columns: Column,
    mode: PublishMode = PublishMode.MERGE,
    key: Sequence[str] = ("id",),
    cursor: str | None = "changed",
    table: str = "orders",
    source: str = "shop",
    deleted_at: str = "",
    allow_empty: bool = False,
    target: Target = Target.BOTH,
) -> TableContract:
    return TableContract(
        origin=Origin(source, SourceKind.POSTGRES, {"dsn": "env:SHOP_DSN"}),
        table=table,
        relation=("public", table),
        columns=columns or (column("id", "int64"), column("name"), column("changed", "timestamptz")),
        key=tuple(key),
        cursor=Cursor(cursor, lag=timedelta(0), overlap=timedelta(0)) if cursor else None,
        schedule=Schedule(every=timedelta(minutes=15), max_window=timedelta(hours=1), catch_up_limit=24),
        publishing=Publishing(mode, target, allow_empty=allow_empty),
        deletes=Deletes(DeleteMode.SOFT, deleted_at) if deleted_at else Deletes(),
    )


APPEND = contract_of(mode=PublishMode.APPEND, key=())
MERGE = contract_of()
REPLACE = contract_of(mode=PublishMode.REPLACE)


def write_file(
    store: MemoryObjectStore,
    rows: Sequence[Row],
    contract: TableContract,
    *,
    batch: str,
    attempt: int = 1,
    part: int = 0,
) -> DataFile:
    """Write rows as the processor would, and return what the ledger knows of the file."""
    schema = arrow_schema(contract)
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    arrays = [pa.array(values, type=type_) for values, type_ in zip(columns, schema.types, strict=True)]
    sink = io.BytesIO()
    table = pa.Table.from_arrays(arrays, schema=schema)
    with pq.ParquetWriter(sink, schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({MEASURES_KEY: to_text(measure(table))})
    body = sink.getvalue()
    key = final_key(table=contract.table, day="2026-11-22", batch_id=batch, attempt=attempt, part=part)
    location = Location(BUCKET, key)
    digest = hashlib.sha256(body).hexdigest()
    store.put(location, body, sha256=digest, metadata={})
    return DataFile(
        location=location,
        area=Area.FINAL,
        format=FileFormat.PARQUET,
        batch_id=batch,
        attempt=attempt,
        part=part,
        record_count=len(rows),
        file_size_in_bytes=len(body),
        sha256=digest,
        status=FileStatus.CORRECT,
    )


@dataclass
class Published:
    """A warehouse under test, with a store to load from."""

    warehouse: Warehouse
    store: MemoryObjectStore
    #: None for the warehouse in memory.
    dsn: str | None = None
    #: The database is what stands in for Redshift.
    is_redshift: bool = False

    def batch(
        self,
        rows: Sequence[Row],
        contract: TableContract = MERGE,
        *,
        quarter: int = 1,
        attempt: int = 1,
        process_attempt: int = 1,
        version: int = 1,
    ) -> NativeLoad:
        """Return the load of the batch whose window is the given quarter of an hour after noon."""
        end = NOON + timedelta(minutes=15 * quarter)
        window = Window(end - timedelta(minutes=15), end)
        id_ = batch_id(contract.source, contract.table, slot_of(end))
        half = (len(rows) + 1) // 2
        parts = [rows[:half], rows[half:]] if len(rows) > 1 else [rows]
        files = [
            write_file(self.store, part_rows, contract, batch=id_, attempt=process_attempt, part=part)
            for part, part_rows in enumerate(parts)
        ]
        return NativeLoad(
            batch_id=id_,
            slot=slot_of(end),
            window=window,
            as_of=window.end,
            contract=contract,
            contract_version=version,
            attempt=attempt,
            files=tuple(files),
        )

    def load(self, *args: Any, **kwargs: Any) -> LoadResult:
        return self.warehouse.load(self.batch(*args, **kwargs))

    def rows(self, table: str = "orders", source: str = "shop") -> list[Row]:
        """Return what analysts see, sorted; moments in UTC without a zone, as in Parquet."""
        if isinstance(self.warehouse, MemoryWarehouse):
            rows = self.warehouse.rows(source, table)
        else:
            query = sql.SQL("SELECT * FROM {}.{}").format(sql.Identifier(source), sql.Identifier(table))
            with self.connect() as connection:
                rows = connection.execute(query).fetchall()
        return sorted((tuple(map(_plain, row)) for row in rows), key=repr)

    def connect(self) -> psycopg.Connection:
        assert self.dsn is not None
        return psycopg.connect(self.dsn, autocommit=True, options="-c timezone=UTC")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value


def assignment_of(load: NativeLoad) -> Assignment:
    """Return what a worker is given for a load."""
    batch = Batch(
        id=load.batch_id,
        source=load.contract.source,
        table=load.contract.table,
        slot=load.slot,
        window=load.window,
        contract_version=load.contract_version,
        configuration_sha256="0" * 64,
        bucket=BUCKET,
        state=BatchState.PUBLISHING,
        planned_at=NOON,
        changed_at=NOON,
        attempts={Stage.PUBLISH: load.attempt},
        committed_attempt=load.files[0].attempt if load.files else None,
    )
    attempt = Attempt(
        batch_id=load.batch_id,
        stage=Stage.PUBLISH,
        number=load.attempt,
        worker="test",
        state=AttemptState.RUNNING,
        claimed_at=NOON,
        lease_until=NOON + timedelta(minutes=2),
    )
    return Assignment(attempt, batch, load.contract, load.files)


def with_files_changed(load: NativeLoad, **changes: Any) -> NativeLoad:
    """Return a load whose ledger says something else of its first file."""
    return replace(load, files=(replace(load.files[0], **changes), *load.files[1:]))


class BreakingStore(MemoryObjectStore):
    """Breaks off, or holds on, when the second part of a batch is read."""

    def __init__(self, at_second_part: Callable[[], None]) -> None:
        super().__init__()
        self.at_second_part = at_second_part

    @contextmanager
    def open(self, location: Location) -> Iterator[ByteReader]:
        if location.key.endswith("part-00001.parquet"):
            self.at_second_part()
        with super().open(location) as body:
            yield body


def load_and_hang(dsn: str, is_half_way: Event) -> None:
    """Load a batch of two parts, and wait for ever between them: the work of a process that is to be killed."""

    def hang() -> None:
        is_half_way.set()
        signal.pause()

    store = BreakingStore(hang)
    Published(PostgresWarehouse(dsn, store=store), store, dsn).load([(1, "Anna", at(1)), (2, "Bert", at(2))])
