"""A table that travelled all the way, to be compared: a PostgreSQL source, gates, Parquet in memory, a PostgreSQL warehouse."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from support.extraction import MASK_KEY, column, make_contract, updated_at

from lambdas import gate
from reconciliation.findings import TableFinding, WindowFinding
from reconciliation.history import EVERYTHING, Span
from reconciliation.prove import prove_table
from reconciliation.reading import Places
from reconciliation.recount import TableRecount, recount_table
from services.extractor.extract import extract
from services.extractor.readers import open_reader
from services.processor.process import process
from services.publisher.memory import MemoryCatalog
from services.publisher.postgres import PostgresWarehouse
from services.publisher.publish import publish
from shared import lifecycle, stage
from shared.bulk import BulkRun, plan_backfill
from shared.domain.batches import Batch, BatchState, Stage, batch_id
from shared.domain.contracts import Column, Cursor, Publishing, PublishMode, TableContract
from shared.domain.files import Area
from shared.domain.progress import Expectation
from shared.domain.retries import RetryPolicy
from shared.domain.windows import (
    INITIAL_SLOT,
    KEY_SWEEP_SLOT_PREFIX,
    SNAPSHOT_SLOT_PREFIX,
    PlannedWindow,
    Window,
    counted_windows,
    slot_of,
)
from shared.ledger.memory import MemoryLedger
from shared.lifecycle import StageResult
from shared.messages import CheckBatch
from shared.object_store.memory import MemoryObjectStore
from shared.planning import register_contract
from shared.queues.memory import MemoryQueues
from shared.secrets.memory import MemorySecrets
from shared.stage import Assignment, StageLimits

DAWN = datetime(2026, 1, 1, tzinfo=UTC)
BUCKET = "esclusa-shop"


def hour(number: float) -> datetime:
    """So many hours after dawn."""
    return DAWN + timedelta(hours=number)


def orders(
    *,
    mode: PublishMode = PublishMode.MERGE,
    columns: Sequence[Column] = (),
    key: Sequence[str] = ("id",),
    overlap: timedelta = timedelta(0),
    **changes: Any,
) -> TableContract:
    """The contract of a table `orders`: an id, a name, a price, a cursor."""
    cursor: Cursor | None = updated_at(overlap=overlap) if mode is not PublishMode.REPLACE else None
    usual = [
        column("id", "int64", nullable=False),
        column("name"),
        column("price", "decimal(10,2)"),
        column("updated_at", "timestamptz"),
    ]
    contract = make_contract(columns or usual, relation=("public", "orders"), cursor=cursor)
    return replace(contract, key=tuple(key), publishing=Publishing(mode), **changes)


CREATE_ORDERS = """
CREATE TABLE public.orders (id bigint, name text, price numeric(10,2), updated_at timestamptz, gone timestamptz)
"""


@dataclass
class Travelled:
    """A table, and everybody who moves its rows. Source and warehouse share one database."""

    dsn: str
    contract: TableContract = field(default_factory=orders)
    ledger: MemoryLedger = field(default_factory=lambda: MemoryLedger(lambda: datetime.now(UTC)))
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)

    def __post_init__(self) -> None:
        self.secrets = MemorySecrets({"env:SHOP_DSN": self.dsn, "env:MASK_KEY": MASK_KEY})
        self.warehouse = PostgresWarehouse(self.dsn, store=self.store)
        self._queues = MemoryQueues()
        self.catalog = MemoryCatalog()
        self.execute(CREATE_ORDERS)
        hour = timedelta(hours=1)
        with self.ledger.transaction() as tx:
            name = (self.contract.source, self.contract.table)
            tx.save_expectation(Expectation(*name, every=hour, expected_by=hour, since=tx.now()))

    # ---- the source and the warehouse ----------------------------------------------------------------------

    def execute(self, statement: str, *values: object) -> int:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return connection.execute(statement, values).rowcount  # type: ignore[call-overload, no-any-return]

    def insert(self, *rows: Sequence[object]) -> None:
        """Add rows of id, name, price, updated_at to the source."""
        for row in rows:
            marks = sql.SQL(", ").join(sql.Placeholder() * len(row))
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                connection.execute(sql.SQL("INSERT INTO public.orders VALUES ({})").format(marks), row)

    # ---- moving --------------------------------------------------------------------------------------------

    def move(self, start: datetime | None, end: datetime, *, until: Stage = Stage.PUBLISH) -> Batch:
        """Lead the batch of a window to the warehouse, or to the end of a stage before."""
        if self.contract.cursor is None:
            slot = SNAPSHOT_SLOT_PREFIX + slot_of(end)
        else:
            slot = INITIAL_SLOT if start is None else slot_of(start)
        (batch,) = self.move_parts([PlannedWindow(slot, Window(start, end))], until=until)
        return batch

    def move_parts(self, parts: Sequence[PlannedWindow], *, until: Stage = Stage.PUBLISH) -> list[Batch]:
        """Lead the batches of windows, or of parts of them, one after the other."""
        with self.ledger.transaction() as tx:
            version = register_contract(tx, self.contract)
            for part in parts:
                lifecycle.plan(tx, version, planned=part, bucket=BUCKET)
            ends = [batch.window.end for batch in tx.batches()]
            tx.set_watermark(self.contract.source, self.contract.table, max(ends))
        ids = [batch_id(self.contract.source, self.contract.table, part.slot) for part in parts]
        return [self._lead(id_, until) for id_ in ids]

    def move_numbers(
        self, window: Window, *, low: int | None, high: int, rows_per_part: int = 1_000
    ) -> list[Batch]:
        """Lead the batches of the numbers `[low, high)` of the cursor to the warehouse."""
        assert self.contract.cursor is not None
        return self.move_parts(
            counted_windows(
                self.contract.cursor.column, window, first=0, low=low, high=high, rows_per_part=rows_per_part
            )
        )

    def plan_backfill(self, *windows: PlannedWindow) -> BulkRun:
        """Plan to read spans again that are published."""
        return plan_backfill(self.contract, windows, ledger=self.ledger, bucket=BUCKET)

    def lead(self, run: BulkRun) -> list[Batch]:
        """Lead the batches of a backfill to the warehouse."""
        return [self._lead(batch.id, Stage.PUBLISH) for batch in run.batches]

    def sweep_keys(self, end: datetime, *, until: Stage = Stage.PUBLISH) -> Batch:
        """Read all keys, and delete the rows of others that were there before."""
        slot = KEY_SWEEP_SLOT_PREFIX + slot_of(end)
        (batch,) = self.move_parts([PlannedWindow(slot, Window(None, end), is_bulk=True)], until=until)
        return batch

    def read_again(self, batch: Batch) -> Batch:
        """Read the window of a published batch again, for the rows that were rejected."""
        with self.ledger.transaction() as tx:
            version = register_contract(tx, self.contract)
            again = lifecycle.plan_again(tx, batch, contract=version, detail="mended")
        assert again is not None
        return self._lead(again.id, Stage.PUBLISH)

    def _lead(self, id_: str, until: Stage) -> Batch:
        works = {Stage.EXTRACT: self._extract, Stage.PROCESS: self._process, Stage.PUBLISH: self._publish}
        gates = {
            Stage.EXTRACT: (Area.TMP, Area.INPUT, Area.PROCESSING),
            Stage.PROCESS: (Area.FINAL,),
            Stage.PUBLISH: (),
        }
        for done, work in works.items():
            self._run(done, id_, work)
            for area in gates[done]:
                gate.check(
                    area, CheckBatch(id_, area), ledger=self.ledger, store=self.store, sender=self._queues
                )
            if done is until:
                break
        batch = self.batch(id_)
        assert until is not Stage.PUBLISH or batch.state is BatchState.PUBLISHED, (batch.state, batch.detail)
        return batch

    def publish(self, batch: Batch) -> Batch:
        """Have a publisher try a batch, and return what became of it."""
        self._run(Stage.PUBLISH, batch.id, self._publish)
        return self.batch(batch.id)

    def batch(self, id_: str) -> Batch:
        with self.ledger.transaction() as tx:
            batch = tx.batch(id_)
        assert batch is not None
        return batch

    def _run(self, done: Stage, id_: str, work: Any) -> None:
        stage.run(
            done,
            id_,
            work,
            ledger=self.ledger,
            sender=self._queues,
            worker="w",
            limits=StageLimits(timedelta(minutes=5), RetryPolicy(3, timedelta(0), timedelta(0))),
            keep_alive=lambda _: nullcontext(),
        )

    def _extract(self, assignment: Assignment) -> StageResult:
        with open_reader(assignment.contract, secrets=self.secrets) as reader:
            return extract(assignment, reader=reader, store=self.store, secrets=self.secrets)

    def _process(self, assignment: Assignment) -> StageResult:
        return process(assignment, store=self.store)

    def _publish(self, assignment: Assignment) -> StageResult:
        return publish(assignment, warehouse=self.warehouse, catalog=self.catalog)

    # ---- counting and comparing -----------------------------------------------------------------------------------------

    @property
    def places(self) -> Places:
        return Places(self.ledger, self.store, self.secrets, self.warehouse)

    def prove(self, span: Span = EVERYTHING) -> TableFinding:
        return prove_table(self.contract.source, self.contract.table, places=self.places, span=span)

    def recount(self, span: Span = EVERYTHING, *, is_dry_run: bool = False) -> TableRecount:
        return recount_table(
            self.contract.source,
            self.contract.table,
            ledger=self.ledger,
            secrets=self.secrets,
            bucket=BUCKET,
            span=span,
            is_dry_run=is_dry_run,
        )

    def first_difference(self) -> WindowFinding:
        found = self.prove().first_difference
        assert found is not None
        return found
