"""One batch led from gate to gate: real claims, real CSV and Parquet objects, over any adapters."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support.ledger_rows import NOON, a_contract
from support.ledgers import SteppingClock

from lambdas import gate
from lambdas.gate import Verdict
from shared import lifecycle
from shared.contract_document import sha256_of
from shared.csv_dialect import header_line
from shared.domain.batches import Attempt, Batch, Stage, batch_id
from shared.domain.contracts import (
    Column,
    ColumnKind,
    ColumnType,
    ContractVersion,
    Mask,
    MaskKind,
    TableContract,
)
from shared.domain.files import Area, DataFile, FileFormat, Location, final_key, raw_key
from shared.domain.retries import RetryPolicy
from shared.domain.windows import PlannedWindow, Window
from shared.ledger.memory import MemoryLedger
from shared.lifecycle import StageResult
from shared.messages import CheckBatch, ObjectCreated, SetObjectAside, parse_clean_message
from shared.object_store.memory import MemoryObjectStore
from shared.parquet_footer import footer_metadata
from shared.ports import Ledger, ObjectStore, QueueName, QueueSender
from shared.queues.memory import MemoryQueues

LEASE = timedelta(minutes=5)
MAX_ATTEMPTS = 3


def two_column_contract(version: int = 1) -> ContractVersion:
    keep = Mask(MaskKind.KEEP)
    columns = (
        Column("id", ColumnType(ColumnKind.INT64), keep, nullable=False),
        Column("name", ColumnType(ColumnKind.STRING), keep),
    )
    contract = replace(a_contract().contract, columns=columns, key=("id",))
    return ContractVersion(version, sha256_of(contract), contract)


CONTRACT = two_column_contract()
HEADER = header_line(column.name for column in CONTRACT.contract.output_columns)


@dataclass(frozen=True)
class Part:
    """A CSV file as an extractor would write it, or would not."""

    rows: bytes = b"1,a\n2,b\n"
    record_count: int = 2
    header: bytes = HEADER


TWO_PARTS = (Part(), Part(b"3,c\n", 1))


@dataclass
class Journey:
    """A batch and everybody who works on it."""

    ledger: Ledger
    store: ObjectStore
    sender: QueueSender
    bucket: str = "esclusa-shop"
    slot: str = "initial"
    contract: ContractVersion = field(default=CONTRACT)

    @property
    def batch_id(self) -> str:
        return batch_id("shop", "orders", self.slot)

    @property
    def batch(self) -> Batch:
        with self.ledger.transaction() as tx:
            batch = tx.batch(self.batch_id)
        assert batch is not None
        return batch

    def files(self, *areas: Area) -> list[DataFile]:
        with self.ledger.transaction() as tx:
            return tx.files(batch_id=self.batch_id, areas=areas or list(Area))

    def file(self, area: Area, part: int = 0) -> DataFile:
        """The file of the attempt that the batch stands on."""
        attempt = self.batch.attempt_number(lifecycle.writer_of(area))
        return next(file for file in self.files(area) if (file.attempt, file.part) == (attempt, part))

    # ---- work ----------------------------------------------------------------------------------------------

    def plan(self) -> None:
        with self.ledger.transaction() as tx:
            tx.insert_contract(self.contract)
            planned = PlannedWindow(self.slot, Window(None, NOON))
            lifecycle.plan(tx, self.contract, planned=planned, bucket=self.bucket)

    def claim(self, stage: Stage) -> Attempt:
        with self.ledger.transaction() as tx:
            attempt = lifecycle.claim(
                tx, self.batch_id, stage, worker="w", lease=LEASE, retry=RetryPolicy(MAX_ATTEMPTS)
            )
        assert attempt is not None
        return attempt

    def extract(self, parts: Sequence[Part] = TWO_PARTS, *, row_count: int | None = None) -> None:
        """Write CSV files to `tmp/` and record them; `row_count`: what the attempt says, if that is not true."""
        attempt = self.claim(Stage.EXTRACT)
        files = [self.write_raw(attempt, part, number) for number, part in enumerate(parts)]
        count = sum(part.record_count for part in parts) if row_count is None else row_count
        self._complete(attempt, files, {"rows_read": count, "rows_written": count})

    def write_raw(self, attempt: Attempt, part: Part = Part(), number: int = 0) -> DataFile:
        key = raw_key(Area.TMP, table="orders", batch_id=self.batch_id, attempt=attempt.number, part=number)
        body = part.header + part.rows
        return self._write(key, body, attempt, number, Area.TMP, FileFormat.CSV, part.record_count)

    def process(self, body: bytes | None = None, *, record_count: int = 3) -> None:
        """Write one Parquet file to `final/` and record it; `body`: if it is not to be a right one."""
        attempt = self.claim(Stage.PROCESS)
        key = final_key(
            table="orders", day="2026-11-22", batch_id=self.batch_id, attempt=attempt.number, part=0
        )
        body = parquet_of(self.batch, attempt.number, self.contract.contract) if body is None else body
        file = self._write(key, body, attempt, 0, Area.FINAL, FileFormat.PARQUET, record_count)
        dropped = {"rows_decoded": 3, "rows_in_final": record_count, "rows_rejected": 3 - record_count}
        self._complete(attempt, [file], dropped)

    def metadata(self, attempt: int) -> dict[str, str]:
        return {
            "esclusa-batch": self.batch_id,
            "esclusa-attempt": str(attempt),
            "esclusa-source": "shop",
        }

    def _complete(self, attempt: Attempt, files: Sequence[DataFile], counts: Mapping[str, int]) -> None:
        with self.ledger.transaction() as tx:
            lifecycle.complete(tx, attempt, StageResult(files=files, counts=counts))

    def _write(
        self,
        key: str,
        body: bytes,
        attempt: Attempt,
        part: int,
        area: Area,
        file_format: FileFormat,
        record_count: int,
    ) -> DataFile:
        location, digest = Location(self.bucket, key), hashlib.sha256(body).hexdigest()
        self.store.put(location, body, sha256=digest, metadata=self.metadata(attempt.number))
        return DataFile(
            location,
            area,
            file_format,
            self.batch_id,
            attempt.number,
            part,
            record_count,
            len(body),
            digest,
        )

    # ---- gates ---------------------------------------------------------------------------------------------

    def check(self, area: Area) -> Verdict:
        """Hand the gate of an area the message that the ledger sends."""
        message = CheckBatch(self.batch_id, area)
        return gate.check(area, message, ledger=self.ledger, store=self.store, sender=self.sender)

    def see(self, area: Area, location: Location) -> Verdict:
        """Hand the gate of an area the event that S3 sends."""
        message = ObjectCreated(location, 0, None)
        return gate.check(area, message, ledger=self.ledger, store=self.store, sender=self.sender)

    def go_to(self, area: Area, parts: Sequence[Part] = TWO_PARTS) -> None:
        """Lead the batch to where the gate of an area is to check it."""
        self.plan()
        self.extract(parts)
        for passed in (Area.TMP, Area.INPUT, Area.PROCESSING):
            if passed is area:
                return
            assert self.check(passed) is Verdict.OPENED
        self.process()


class MemoryJourney(Journey):
    """A batch over memory adapters, and a stranger who can write past every rule."""

    def __init__(self, **changes: Any) -> None:
        self.clock = SteppingClock()
        self.memory = MemoryObjectStore(self.clock)
        self.queues = MemoryQueues()
        super().__init__(MemoryLedger(self.clock), self.memory, self.queues, **changes)

    def overwrite(
        self, file: DataFile, body: bytes | None = None, *, metadata: Mapping[str, str] | None = None
    ) -> None:
        body = self.memory.read(file.location) if body is None else body
        known = self.metadata(file.attempt) if metadata is None else metadata
        self.memory.overwrite(file.location, body, metadata=known)

    def put_by_hand(self, key: str, body: bytes = b"mine") -> Location:
        location = Location(self.bucket, key)
        self.memory.overwrite(location, body)
        return location

    def object_keys(self) -> list[str]:
        return [info.location.key for info in self.memory.list(self.bucket, "")]

    def set_aside_messages(self) -> list[Location]:
        messages = [parse_clean_message(item.message.body) for item in self.queues.waiting(QueueName.CLEAN)]
        return [message.location for message in messages if isinstance(message, SetObjectAside)]


def parquet_of(
    batch: Batch, attempt: int, contract: TableContract, *, ids: Sequence[object] = (1, 2, 3)
) -> bytes:
    """Return a Parquet file as the processor writes it; `ids` of another type make it a wrong one."""
    metadata = footer_metadata(batch=batch, attempt=attempt, contract=contract, record_count=3)
    table = pa.table({"id": list(ids), "name": ["a", "b", "c"]}).replace_schema_metadata(metadata)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()
