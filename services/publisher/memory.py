"""Warehouse and lake catalog in memory: what they promise, without a server, for simulations and unit tests."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl

from services.publisher.catalog import (
    MAX_PARTITIONS_PER_REQUEST,
    ExternalBatch,
    ExternalTable,
    refuse_changed_types,
    widened_columns,
)
from services.publisher.read_back import polars_type
from services.publisher.rows import read_blocks
from services.publisher.warehouse import (
    LoadResult,
    NativeLoad,
    PruneResult,
    QueryFailed,
    QueryResult,
    Rebuild,
    RebuildResult,
    refuse_burst,
    refuse_clear_values,
    refuse_empty_replace,
    refuse_own_names,
    refuse_while_rolled_back,
    target_of,
)
from shared.domain.contracts import Column, DeleteMode, PublishMode, TableContract
from shared.domain.files import DataFile
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window, is_key_sweep
from shared.errors import LostLease, Refused
from shared.ports import ObjectStore

#: The values of one row, in the order of the contract's output columns.
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row with the hidden columns: which batch brought it, and the end of that batch's window."""

    values: Mapping[str, Any]
    batch_id: str
    window_end: datetime


@dataclass(frozen=True, slots=True)
class Marker:
    """What a batch left behind."""

    load: NativeLoad
    result: LoadResult


@dataclass(slots=True)
class _Table:
    contract: TableContract
    contract_version: int
    rows: list[StoredRow] = field(default_factory=list)


def rows_in(store: ObjectStore) -> Callable[[DataFile, Sequence[Column]], Iterator[Row]]:
    """Return what reads the rows of Parquet files in a store."""

    def read_rows(file: DataFile, columns: Sequence[Column]) -> Iterator[Row]:
        for block in read_blocks(file, columns=columns, store=store):
            yield from block.iter_rows()

    return read_rows


class MemoryWarehouse:
    """Native tables as lists of rows; see `Warehouse`. `read_rows` gives the rows of a file."""

    def __init__(self, read_rows: Callable[[DataFile, Sequence[Column]], Iterable[Row]]) -> None:
        self._read_rows = read_rows
        self._tables: dict[tuple[str, str], _Table] = {}
        self._markers: dict[str, Marker] = {}
        self._prunes: dict[str, tuple[NativeLoad, PruneResult]] = {}
        self._rebuilds: dict[str, RebuildResult] = {}
        #: What holds a table at an earlier state, by the name of the table.
        self._holds: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def markers(self) -> Mapping[str, Marker]:
        """The marker of each loaded batch."""
        return self._markers

    def load(self, load: NativeLoad) -> LoadResult:
        """Bring a batch into its table; see `Warehouse`."""
        refuse_own_names(load.contract)
        with self._lock:
            before = self._markers.get(load.batch_id)
            if before is not None and before.load.attempt > load.attempt:
                raise LostLease(
                    f"batch {load.batch_id}: attempt {before.load.attempt} of publish has loaded it"
                )
            if before is not None and before.load.manifest_sha256 == load.manifest_sha256:
                return replace(before.result, was_loaded_before=True)
            refuse_while_rolled_back(load, self._holds.get(target_of(load)))
            if load.contract.publishing.mode is PublishMode.REPLACE:
                if self._has_newer(load):
                    return LoadResult(is_superseded=True)
                refuse_empty_replace(load)
            table = self._tables.get((load.contract.source, load.contract.table))
            if table is not None and table.contract_version > load.contract_version:
                shown_columns = table.contract.output_columns
                refuse_clear_values(
                    load, masked={column.name for column in shown_columns if column.mask.changes_values}
                )
            staged = self._stage(load)
            rows, result = _MODES[load.contract.publishing.mode](load, staged, table.rows if table else [])
            shown = (
                (table.contract, table.contract_version)
                if table is not None and table.contract_version > load.contract_version
                else (load.contract, load.contract_version)
            )
            self._tables[load.contract.source, load.contract.table] = _Table(*shown, rows)
            self._markers[load.batch_id] = Marker(load, result)
            return result

    def prune(self, load: NativeLoad) -> PruneResult:
        """Delete the rows whose keys a key sweep does not have; see `Warehouse`."""
        with self._lock:
            before = self._prunes.get(load.batch_id)
            if before is not None and before[0].attempt > load.attempt:
                raise LostLease(f"batch {load.batch_id}: attempt {before[0].attempt} of publish has done it")
            if before is not None and before[0].manifest_sha256 == load.manifest_sha256:
                return replace(before[1], was_loaded_before=True)
            refuse_while_rolled_back(load, self._holds.get(target_of(load)))
            table = self._tables.get((load.contract.source, load.contract.table))
            deleted = 0
            if table is not None:
                rows = self._without_gone(load, table.rows, self._markers)
                deleted = len(table.rows) - len(rows)
                refuse_burst(load, deleted=deleted, total=len(table.rows))
                table.rows = rows
            result = PruneResult(load.record_count, deleted)
            self._prunes[load.batch_id] = load, result
            return result

    def _without_gone(
        self, sweep: NativeLoad, rows: list[StoredRow], markers: Mapping[str, Marker]
    ) -> list[StoredRow]:
        keys = {_key_of(row, sweep.contract) for row in self._stage(sweep)}
        return [
            row
            for row in rows
            if row.window_end > sweep.as_of
            or markers[row.batch_id].load.contract_version not in sweep.same_key_versions
            or _key_of(row, sweep.contract) in keys
        ]

    def rebuild(self, rebuild: Rebuild) -> RebuildResult:
        """Make a table anew of some of its batches; see `Warehouse`."""
        with self._lock:
            if (before := self._rebuilds.get(rebuild.id)) is not None:
                return replace(before, was_done_before=True)
            newest = rebuild.newest
            contract = newest.contract
            table = self._tables.setdefault(
                (contract.source, contract.table), _Table(contract, newest.contract_version)
            )
            masked = {column.name for column in table.contract.output_columns if column.mask.changes_values}
            rows: list[StoredRow] = []
            markers = dict(self._markers)
            prunes = dict(self._prunes)
            for load in rebuild.loads:
                if is_key_sweep(load.slot):
                    kept = self._without_gone(load, rows, markers)
                    prunes[load.batch_id] = load, PruneResult(load.record_count, len(rows) - len(kept))
                    rows = kept
                    continue
                refuse_clear_values(load, masked=masked)
                rows, result = _MODES[load.contract.publishing.mode](load, self._stage(load), rows)
                markers[load.batch_id] = Marker(load, result)
            for batch_id in rebuild.withdrawn_batch_ids:
                markers.pop(batch_id, None)
                prunes.pop(batch_id, None)
            table.rows, self._markers, self._prunes = rows, markers, prunes
            self._holds.pop(target_of(newest), None)
            if rebuild.is_held:
                self._holds[target_of(newest)] = rebuild.id
            result_of_all = self._rebuilds[rebuild.id] = RebuildResult(len(rows))
            return result_of_all

    def row_count(self, source: str, table: str) -> int:
        """Return how many rows analysts see in a table; see `Warehouse`."""
        return len(self.rows(source, table))

    def rows(self, source: str, table: str) -> list[Row]:
        """Return the rows that analysts see, in the contract's columns."""
        found = self._tables[source, table]
        deletes = found.contract.deletes
        return [
            tuple(row.values.get(column.name) for column in found.contract.output_columns)
            for row in found.rows
            if deletes.mode is not DeleteMode.SOFT or row.values.get(deletes.column) is None
        ]

    def read_rows(
        self, contract: TableContract, *, window: Window | None = None, extent: Extent | None = None
    ) -> Iterator[pl.DataFrame]:
        """Return what analysts see in a table; see `Warehouse`."""
        found = self._tables.get((contract.source, contract.table))
        if found is None:
            return
        shown = [column.name for column in found.contract.output_columns]
        wanted = [column.name for column in contract.output_columns]
        if missing := [name for name in wanted if name not in shown]:
            raise Refused(
                Reason.TARGET_INCOMPATIBLE, f"{contract.source}.{contract.table}: no column {missing[0]!r}"
            )
        rows = [dict(zip(shown, row, strict=True)) for row in self.rows(contract.source, contract.table)]
        yield pl.DataFrame(
            [tuple(row[name] for name in wanted) for row in rows if _is_in(window, extent, row, contract)],
            schema={column.name: polars_type(column.output_type) for column in contract.output_columns},
            orient="row",
        )

    def query(self, sql: str, *, row_limit: int, timeout_seconds: float) -> QueryResult:  # noqa: ARG002
        """Refuse: a dictionary speaks no SQL."""
        raise QueryFailed("the warehouse in memory answers no SQL")

    def _has_newer(self, load: NativeLoad) -> bool:
        others = (
            marker.load
            for marker in self._markers.values()
            if marker.load.batch_id != load.batch_id and target_of(marker.load) == target_of(load)
        )
        return any(other.as_of > load.as_of for other in others)

    def _stage(self, load: NativeLoad) -> list[StoredRow]:
        columns = load.contract.output_columns
        names = [column.name for column in columns]
        rows = [
            StoredRow(dict(zip(names, values, strict=True)), load.batch_id, load.as_of)
            for file in load.files
            for values in self._read_rows(file, columns)
        ]
        if len(rows) != load.record_count:
            raise Refused(
                Reason.PROOF_FAILED,
                f"{target_of(load)}: staged rows: expected {load.record_count}, found {len(rows)}",
            )
        null_keys = sum(None in _key_of(row, load.contract) for row in rows)
        if null_keys:
            raise Refused(Reason.NULL_KEY, f"{target_of(load)}: {null_keys} rows have NULL in the key")
        return rows


def _is_in(
    window: Window | None, extent: Extent | None, row: Mapping[str, Any], contract: TableContract
) -> bool:
    if contract.cursor is None or (window is None and extent is None):
        return True
    value = row[contract.cursor.column]
    if value is None:
        return False
    if extent is not None:
        low, high = extent.low, extent.high
        return (low is None or value >= int(low)) and (high is None or value < int(high))
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - in Parquet a moment has no zone
    moment = value.replace(tzinfo=UTC)
    return window is not None and moment < window.end and (window.start is None or moment >= window.start)


def _append(
    load: NativeLoad, staged: list[StoredRow], there: list[StoredRow]
) -> tuple[list[StoredRow], LoadResult]:
    kept = [row for row in there if row.batch_id != load.batch_id]
    return kept + staged, LoadResult(rows_staged=len(staged), rows_inserted=len(staged))


def _merge(
    load: NativeLoad, staged: list[StoredRow], there: list[StoredRow]
) -> tuple[list[StoredRow], LoadResult]:
    merged = {_key_of(row, load.contract): row for row in there}
    inserted = updated = 0
    for key, row in _latest(load, staged).items():
        old = merged.get(key)
        if old is None:
            inserted += 1
        elif _age(load, row) < _age(load, old):
            continue
        elif any(old.values.get(name) != value for name, value in row.values.items()):
            updated += 1
        # Columns that only a newer contract has keep what is in them.
        merged[key] = replace(row, values={**(old.values if old else {}), **row.values})
    return list(merged.values()), _counted(staged, inserted=inserted, updated=updated)


def _replace(
    load: NativeLoad,
    staged: list[StoredRow],
    there: list[StoredRow],  # noqa: ARG001
) -> tuple[list[StoredRow], LoadResult]:
    rows = list(_latest(load, staged).values()) if load.contract.key else staged
    return rows, _counted(staged, inserted=len(rows), updated=0)


_MODES = {PublishMode.APPEND: _append, PublishMode.MERGE: _merge, PublishMode.REPLACE: _replace}


def _latest(load: NativeLoad, staged: list[StoredRow]) -> dict[Row, StoredRow]:
    """Return the latest row of each key: by cursor, then by position."""
    latest: dict[Row, StoredRow] = {}
    for row in staged:
        key = _key_of(row, load.contract)
        if key not in latest or _age(load, row) >= _age(load, latest[key]):
            latest[key] = row
    return latest


def _age(load: NativeLoad, row: StoredRow) -> tuple[Any, ...]:
    """Return what tells which of two versions is newer: a cursor before none, then the end of the window."""
    column = load.ordering_column
    if column is None:
        return (row.window_end,)
    value = row.values[column.name]
    return (value is not None, value, row.window_end) if value is not None else (False, row.window_end)


def _key_of(row: StoredRow, contract: TableContract) -> Row:
    return tuple(row.values[name] for name in contract.key)


def _counted(staged: list[StoredRow], *, inserted: int, updated: int) -> LoadResult:
    return LoadResult(
        rows_staged=len(staged),
        rows_inserted=inserted,
        rows_updated=updated,
        rows_unchanged=len(staged) - inserted - updated,
    )


class MemoryCatalog:
    """External tables in dictionaries; see `LakeCatalog`."""

    def __init__(self) -> None:
        #: By source and name.
        self.tables: dict[tuple[str, str], ExternalTable] = {}
        #: What a reader of a table finds, by day and batch; of a replaced table, one.
        self.batches: dict[tuple[str, str], dict[tuple[str, str], ExternalBatch]] = {}

    def put_partition(self, table: ExternalTable, batch: ExternalBatch) -> None:
        """Show a batch as a partition of its own; see `LakeCatalog`."""
        self.put_partitions(table, [batch])

    def put_partitions(self, table: ExternalTable, batches: Sequence[ExternalBatch]) -> None:
        """Show many batches; see `LakeCatalog`."""
        there = self._bring_to_contract(table)
        for batch in batches:
            shown = there.get((batch.day, batch.batch_id))
            if shown is not None and shown.moved_by:
                continue
            _refuse_earlier_attempt(batch, shown)
            there[batch.day, batch.batch_id] = batch

    def switch_partitions(self, table: ExternalTable, batches: Sequence[ExternalBatch]) -> None:
        """Lead partitions to other folders at once; see `LakeCatalog`."""
        if len(batches) > MAX_PARTITIONS_PER_REQUEST:
            raise ValueError(f"expected at most {MAX_PARTITIONS_PER_REQUEST} partitions, got {len(batches)}")
        there = self._bring_to_contract(table, moves=True)
        self.batches[table.source, table.name] = there | {
            (batch.day, batch.batch_id): batch for batch in batches
        }

    def change_types(self, table: ExternalTable) -> None:
        """Bring columns to wider types; see `LakeCatalog`."""
        found = self._find(table)
        if found is not None:
            is_masked_since = found.contract_version > table.contract_version
            columns = widened_columns(found.columns, table, is_masked_since=is_masked_since)
            self.tables[table.source, table.name] = replace(found, columns=columns)

    def put_snapshot(self, table: ExternalTable, batch: ExternalBatch, *, goes_back: bool = False) -> bool:
        """Make a batch the whole of a table; see `LakeCatalog`."""
        batches = self._bring_to_contract(table)
        for shown in batches.values():
            if batch.window_end < shown.window_end and not goes_back:
                return False
            if shown.batch_id == batch.batch_id:
                _refuse_earlier_attempt(batch, shown)
        self.batches[table.source, table.name] = {(batch.day, batch.batch_id): batch}
        return True

    def _bring_to_contract(
        self, table: ExternalTable, *, moves: bool = False
    ) -> dict[tuple[str, str], ExternalBatch]:
        name = (table.source, table.name)
        found = self._find(table)
        if found is not None and found.is_partitioned:
            is_masked_since = moves and found.contract_version > table.contract_version
            refuse_changed_types(found.columns, table, is_masked_since=is_masked_since)
        if found is None or found.contract_version <= table.contract_version:
            self.tables[name] = table
        return self.batches.setdefault(name, {})

    def _find(self, table: ExternalTable) -> ExternalTable | None:
        found = self.tables.get((table.source, table.name))
        if found is not None and (found.table, found.is_partitioned) != (table.table, table.is_partitioned):
            raise Refused(
                Reason.TARGET_INCOMPATIBLE,
                f"{table.source}.{table.table}: its external table {table.name} is that of {found.table!r}, or "
                "was made for another publish mode",
            )
        return found


def _refuse_earlier_attempt(batch: ExternalBatch, shown: ExternalBatch | None) -> None:
    if shown is not None and shown.attempt > batch.attempt:
        raise LostLease(
            f"batch {batch.batch_id}: attempt {shown.attempt} of publish has put it in the catalog"
        )
