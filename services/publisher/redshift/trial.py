"""Batches made for a trial of the warehouse: a contract, Parquet files in a bucket, and what should come of them."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.publisher.redshift.files import manifest_location
from services.publisher.warehouse import NativeLoad, Warehouse
from shared.domain.contracts import (
    Column,
    ColumnKind,
    ColumnType,
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
    keys_of,
)
from shared.domain.files import Area, DataFile, FileFormat, FileStatus, Location, copy_key
from shared.domain.windows import KEY_SWEEP_SLOT_PREFIX, Schedule, Window
from shared.measures import MEASURES_KEY, to_text
from shared.measuring import measure
from shared.ports import ObjectStore

_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_QUARTER = timedelta(minutes=15)

#: Values that are easily changed on the way, by their type.
EVERY_TYPE: dict[str, list[Any]] = {
    "string": ["", "NULL", " pad ", "it's \\ \"", "two\nlines", "naïve ☃ \U0001f600"],
    "boolean": [True, False],
    "int16": [-(2**15), 2**15 - 1],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1],
    "float32": [0.5, -1.401298464324817e-45],
    "float64": [0.1, 1.7976931348623157e308],
    "decimal(38,10)": [Decimal("9" * 28 + "." + "9" * 10), Decimal("-0.0000000001")],
    "date": [date(1, 1, 1), date(9999, 12, 31)],
    "timestamp": [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)],  # noqa: DTZ001 - in Parquet a moment has no zone
    "timestamptz": [datetime(2026, 3, 29, 1, 30, 0, 1)],  # noqa: DTZ001
    "json": ['{"b": 1.10, "a": [null,  "é"]}', '""'],
    "binary": [b"", bytes(range(256))],
}

_ARROW = {
    ColumnKind.STRING: pa.large_string(),
    ColumnKind.BOOLEAN: pa.bool_(),
    ColumnKind.INT16: pa.int16(),
    ColumnKind.INT32: pa.int32(),
    ColumnKind.INT64: pa.int64(),
    ColumnKind.FLOAT32: pa.float32(),
    ColumnKind.FLOAT64: pa.float64(),
    ColumnKind.DATE: pa.date32(),
    ColumnKind.TIMESTAMP: pa.timestamp("us"),
    ColumnKind.TIMESTAMPTZ: pa.timestamp("us"),
    ColumnKind.JSON: pa.large_string(),
    ColumnKind.BINARY: pa.large_binary(),
}

Row = tuple[Any, ...]


class Trial:
    """Loads batches of a source that nobody else has. `locations` are the objects that it wrote."""

    def __init__(self, warehouse: Warehouse, store: ObjectStore, *, bucket: str, source: str) -> None:
        self._warehouse = warehouse
        self._store = store
        self._bucket = bucket
        self._source = source
        self._count = 0
        self.locations: list[Location] = []

    # ---- what is tried; an empty answer is a good one ----------------------------------------------------------

    def every_type(self) -> Iterator[tuple[str, bool]]:
        """Load and read back a table for each type, and tell of each whether the values are the same."""
        for kind, values in EVERY_TYPE.items():
            rows = list(enumerate([*values, None]))
            table = "types_" + kind.partition("(")[0]
            contract = self._contract(table, PublishMode.REPLACE, ("id", "int64"), ("value", kind))
            self._load(contract, rows)
            yield kind, self._rows(contract) == sorted(rows, key=repr)

    def mode(self, mode: PublishMode) -> str:
        """Load a batch twice and an older one after it; tell what is wrong."""
        contract = self._contract(f"mode_{mode}", mode, ("id", "int64"), ("name", "string"))
        newer = self._batch(contract, [(1, "new"), (2, "b")], quarter=2)
        first = self._warehouse.load(newer)
        again = self._warehouse.load(replace(newer, attempt=2))
        if first.rows_inserted != 2 or not again.was_loaded_before:
            return f"first {first}, again {again}"
        self._load(contract, [(1, "old"), (3, "c")], quarter=1)
        expected = {
            PublishMode.APPEND: [(1, "new"), (1, "old"), (2, "b"), (3, "c")],
            PublishMode.MERGE: [(1, "new"), (2, "b"), (3, "c")],
            PublishMode.REPLACE: [(1, "new"), (2, "b")],
        }[mode]
        found = self._rows(contract)
        return (
            ""
            if found == sorted(expected, key=repr)
            else f"expected {len(expected)} rows, found {len(found)} or others"
        )

    def widened(self) -> str:
        """Load a value that is longer than its column; tell what is wrong."""
        contract = self._contract("widened", PublishMode.MERGE, ("id", "int64"), ("name", "string"))
        self._load(contract, [(1, "short")], quarter=1)
        self._load(contract, [(2, "é" * 100)], quarter=2)
        found = self._rows(contract)
        return (
            ""
            if found == [(1, "short"), (2, "é" * 100)]
            else f"expected two rows as loaded, found {len(found)}"
        )

    def swept(self) -> str:
        """Sweep a key away, and again; tell what is wrong."""
        contract = replace(
            self._contract("swept", PublishMode.MERGE, ("id", "int64"), ("name", "string")),
            deletes=Deletes(DeleteMode.SWEEP),
        )
        self._load(contract, [(1, "a"), (2, "b")], quarter=1)
        keys = replace(
            self._batch(keys_of(contract), [(1,)], quarter=2),
            slot=f"{KEY_SWEEP_SLOT_PREFIX}trial",
            same_key_versions=(1,),
        )
        first, again = self._warehouse.prune(keys), self._warehouse.prune(replace(keys, attempt=2))
        found = self._rows(contract)
        is_right = (first.rows_deleted, again.was_loaded_before, found) == (1, True, [(1, "a")])
        return "" if is_right else f"first {first}, again {again}, {len(found)} rows left"

    def wide(self, column_count: int) -> str:
        """Load a table of many columns; tell what is wrong."""
        columns = [(f"column_number_{number}", "string") for number in range(column_count)]
        contract = self._contract("many_columns", PublishMode.REPLACE, *columns)
        row = tuple(f"value {number}" for number in range(column_count))
        self._load(contract, [row])
        return "" if self._rows(contract) == [row] else "other values came back than were loaded"

    # ---- files for a COPY by itself ----------------------------------------------------------------------------

    def file_of_one_row(self) -> DataFile:
        """Write a file with one row of one column, `id`."""
        return self._batch(self._contract("copied", PublishMode.APPEND, ("id", "int64")), [(1,)]).files[0]

    def manifest(self, entries: Sequence[tuple[Location, int]]) -> Location:
        """Write a list of files with the lengths given."""
        listed = [
            {"url": str(location), "mandatory": True, "meta": {"content_length": length}}
            for location, length in entries
        ]
        body = json.dumps({"entries": listed}).encode()
        key = copy_key(
            f"files-{self._count:05d}.manifest", table="copied", batch_id=self._next_batch_id(), attempt=1
        )
        location = Location(self._bucket, key)
        self.locations.append(location)
        self._store.put(location, body, sha256=hashlib.sha256(body).hexdigest(), metadata={})
        return location

    # ---- how -------------------------------------------------------------------------------------------------

    def _contract(self, table: str, mode: PublishMode, *columns: tuple[str, str]) -> TableContract:
        keep = Mask(MaskKind.KEEP)
        return TableContract(
            origin=Origin(self._source, SourceKind.POSTGRES, {}),
            table=table,
            relation=("public", table),
            columns=tuple(Column(name, ColumnType.parse(type_), keep) for name, type_ in columns),
            key=() if mode is PublishMode.APPEND else (columns[0][0],),
            cursor=None,
            schedule=Schedule(every=_QUARTER, max_window=_QUARTER, catch_up_limit=1),
            publishing=Publishing(mode, Target.NATIVE),
        )

    def _load(self, contract: TableContract, rows: Sequence[Row], *, quarter: int = 1) -> None:
        self._warehouse.load(self._batch(contract, rows, quarter=quarter))

    def _rows(self, contract: TableContract) -> list[Row]:
        blocks = self._warehouse.read_rows(contract)
        return sorted((row for block in blocks for row in block.iter_rows()), key=repr)

    def _batch(self, contract: TableContract, rows: Sequence[Row], *, quarter: int = 1) -> NativeLoad:
        batch_id = self._next_batch_id()
        end = _NOON + _QUARTER * quarter
        load = NativeLoad(
            batch_id=batch_id,
            slot=end.isoformat(),
            window=Window(end - _QUARTER, end),
            as_of=end,
            contract=contract,
            contract_version=1,
            attempt=1,
            files=(self._write(contract, rows, batch_id),),
        )
        self.locations += [
            manifest_location(replace(load, attempt=attempt), load.files) for attempt in (1, 2)
        ]
        return load

    def _next_batch_id(self) -> str:
        """Return an id that no other trial has."""
        self._count += 1
        return "b" + hashlib.sha256(f"{self._source} {self._count}".encode()).hexdigest()[:24]

    def _write(self, contract: TableContract, rows: Sequence[Row], batch_id: str) -> DataFile:
        columns = contract.output_columns
        values = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
        table = pa.table(
            {
                column.name: pa.array(cells, type=_arrow_type(column.output_type))
                for column, cells in zip(columns, values, strict=True)
            }
        )
        sink = io.BytesIO()
        with pq.ParquetWriter(sink, table.schema, compression="zstd", store_schema=False) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({MEASURES_KEY: to_text(measure(table))})
        body = sink.getvalue()
        sha256 = hashlib.sha256(body).hexdigest()
        key = copy_key("rows-00000.parquet", table=contract.table, batch_id=batch_id, attempt=1)
        location = Location(self._bucket, key)
        self.locations.append(location)
        self._store.put(location, body, sha256=sha256, metadata={})
        return DataFile(
            location=location,
            area=Area.FINAL,
            format=FileFormat.PARQUET,
            batch_id=batch_id,
            attempt=1,
            part=0,
            record_count=len(rows),
            file_size_in_bytes=len(body),
            sha256=sha256,
            status=FileStatus.CORRECT,
        )


def _arrow_type(type_: ColumnType) -> pa.DataType:
    if type_.kind is ColumnKind.DECIMAL:
        return pa.decimal128(type_.precision, type_.scale)
    return _ARROW[type_.kind]
