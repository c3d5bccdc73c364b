"""A table that was published, in every place that knows of it: ledger, store, warehouse and catalog, in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from support.publish_batches import BUCKET, MERGE, Published, Row

from services.publisher.memory import MemoryCatalog, MemoryWarehouse, rows_in
from services.publisher.publish import publish
from services.publisher.warehouse import NativeLoad
from shared.contract_document import sha256_of
from shared.domain.batches import Attempt, AttemptState, Batch, BatchEvent, BatchState, Stage
from shared.domain.contracts import ContractVersion, TableContract
from shared.domain.counts import Count
from shared.domain.files import Location
from shared.domain.reasons import Reason
from shared.ledger.memory import MemoryLedger
from shared.object_store.memory import MemoryObjectStore
from shared.ports import Ledger
from shared.stage import Assignment

START = datetime(2026, 11, 23, tzinfo=UTC)

#: The states of a batch that its publisher refuses.
WAY_TO_BEING_REFUSED = (
    None,
    BatchState.PLANNED,
    BatchState.EXTRACTING,
    BatchState.EXTRACTED,
    BatchState.ADMITTED,
    BatchState.STAGED,
    BatchState.READY,
    BatchState.PROCESSING,
    BatchState.PROCESSED,
    BatchState.COMMITTED,
    BatchState.PUBLISHING,
    BatchState.QUARANTINED,
)


@dataclass
class Clock:
    """The ledger's clock, moved by hand; each look is a moment later."""

    moment: datetime = START

    def __call__(self) -> datetime:
        self.moment += timedelta(microseconds=1)
        return self.moment


@dataclass
class LakeHouse:
    """Where batches are published to, and what readers find."""

    clock: Clock = field(default_factory=Clock)
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    catalog: Any = field(default_factory=MemoryCatalog)
    ledger: Ledger = None  # type: ignore[assignment]
    published: Published = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.ledger = self.ledger or MemoryLedger(self.clock)
        self.published = self.published or Published(MemoryWarehouse(rows_in(self.store)), self.store)

    def publish(
        self, rows: Sequence[Row], contract: TableContract = MERGE, *, quarter: int = 1, version: int = 1
    ) -> Batch:
        """Publish the batch of a quarter of an hour, as its publisher would, and return it."""
        load = self.published.batch(rows, contract, quarter=quarter, version=version)
        return self.publish_load(load)

    def publish_load(self, load: NativeLoad, *, name: str = "") -> Batch:
        with self.ledger.transaction() as tx:
            now = tx.now()
            hash_ = sha256_of(load.contract)
            tx.insert_contract(ContractVersion(load.contract_version, hash_, load.contract))
            batch = Batch(
                id=load.batch_id,
                source=load.contract.source,
                table=load.contract.table,
                slot=name or load.slot,
                window=load.window,
                contract_version=load.contract_version,
                configuration_sha256=hash_,
                bucket=BUCKET,
                state=BatchState.PUBLISHED,
                planned_at=now,
                changed_at=now,
                attempts={Stage.EXTRACT: 1, Stage.PROCESS: 1, Stage.PUBLISH: load.attempt},
                committed_attempt=1,
                counts={Count.ROWS_IN_FINAL: load.record_count},
            )
            assert tx.insert_batch(batch)
            tx.append_event(BatchEvent(batch.id, 1, None, BatchState.PLANNED, now, "planner"))
            attempt = Attempt(batch.id, Stage.PUBLISH, load.attempt, "test", AttemptState.SUCCEEDED, now, now)
            tx.insert_attempt(attempt)
            for file in load.files:
                assert tx.insert_file(file)
        assignment = Assignment(attempt, batch, load.contract, load.files)
        publish(assignment, warehouse=self.published.warehouse, catalog=self.catalog)
        return batch

    def hold(self, batch: Batch, reason: Reason) -> None:
        """Keep a batch that its publisher refused."""
        with self.ledger.transaction() as tx:
            assert tx.insert_batch(replace(batch, state=BatchState.QUARANTINED, reason=reason))
            for number, (before, after) in enumerate(pairwise(WAY_TO_BEING_REFUSED), start=1):
                tx.append_event(BatchEvent(batch.id, number, before, after, tx.now(), "test"))

    def rows(self, table: str = "orders") -> list[Row]:
        """Return what analysts see in the native table."""
        return self.published.rows(table)

    def lake_folders(self, table: str = "orders") -> list[Location]:
        """Return the folders that the catalog leads to."""
        return [batch.folder for batch in self.catalog.batches["shop", table].values()]

    def lake_rows(self, table: str = "orders", *, between: Callable[[], object] = lambda: None) -> list[Row]:
        """
        Return the rows of the external table, sorted, as DuckDB reads them.

        As engines do, it asks the catalog first and then reads what lies in the folders; `between` comes in between.
        """
        folders = self.lake_folders(table)
        between()
        found = [
            pq.read_table(pa.BufferReader(self.store.read(info.location)))
            for folder in folders
            for info in self.store.list(folder.bucket, folder.key)
        ]
        if not found:
            return []
        everything = pa.concat_tables(found)
        with duckdb.connect() as connection:
            connection.register("everything", everything)
            return sorted(connection.execute("SELECT * FROM everything").fetchall(), key=repr)

    def keys(self) -> list[str]:
        """Return the keys of all objects."""
        return sorted(info.location.key for info in self.store.list(BUCKET, ""))
