"""
The port to the lake catalog: external tables over the committed files in `final/`.

An incremental table has one partition per batch, whose location is the folder of the committed attempt. A replaced
table has no partitions; its own location is the folder of the newest snapshot. Either appears by one call, so a
reader sees a batch whole or not at all, and never a file that the ledger has not committed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from services.publisher.numbers import widens
from shared.domain.contracts import Column, ColumnKind, ColumnType, PublishMode, TableContract
from shared.domain.files import Area, Location, key_segment
from shared.domain.reasons import Reason
from shared.errors import Refused

#: So many partitions go into one request.
# Source: AWS Glue API, BatchCreatePartition and BatchUpdatePartition: at most 100 entries.
MAX_PARTITIONS_PER_REQUEST = 100

#: Partition keys. Not `day` and `batch`, which a source may well have as columns of its own.
DAY_KEY, BATCH_KEY = "esclusa_day", "esclusa_batch"

# Redshift's limit of an external table, less the two pseudo-columns and the two keys of ours.
# Source: Amazon Redshift Developer Guide, CREATE EXTERNAL TABLE: 1,598 columns, 1,597 with pseudo-columns.
MAX_COLUMNS = 1595
# Source: AWS Glue API, Column: Name 1 to 255 bytes of a single line.
MAX_NAME_BYTES = 255

_HIVE_TYPES = {
    ColumnKind.STRING: "string",
    ColumnKind.BOOLEAN: "boolean",
    ColumnKind.INT16: "smallint",
    ColumnKind.INT32: "int",
    ColumnKind.INT64: "bigint",
    ColumnKind.FLOAT32: "float",
    ColumnKind.FLOAT64: "double",
    ColumnKind.DATE: "date",
    ColumnKind.TIMESTAMP: "timestamp",
    # External tables know no zone: the files hold UTC, and the column's comment says so.
    ColumnKind.TIMESTAMPTZ: "timestamp",
    ColumnKind.JSON: "string",
    ColumnKind.BINARY: "binary",
}


_MASKED = "masked: "

#: The cure where files cannot be written anew in another type.
ANOTHER_NAME = "give the table another name in the source's file, so that it is loaded anew"


@dataclass(frozen=True, slots=True)
class ExternalColumn:
    """A column by its name and Hive type."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True, slots=True)
class ExternalTable:
    """An external table as one version of its contract wants it."""

    source: str
    name: str
    #: The table's name in its contract. Two of them can come to one name here; the second is refused.
    table: str
    columns: tuple[ExternalColumn, ...]
    contract_version: int
    #: The folder of all batches. Of a partitioned table nobody reads it; it is where people look.
    folder: Location
    is_partitioned: bool
    #: Rows of all published batches, by the ledger; None if nobody counted them.
    record_count: int | None = None


@dataclass(frozen=True, slots=True)
class ExternalBatch:
    """One committed batch as readers find it."""

    batch_id: str
    #: `YYYY-MM-DD`, of its window.
    day: str
    window_end: datetime
    #: The folder that holds its committed files and nothing else.
    folder: Location
    record_count: int
    #: The publish attempt that speaks.
    attempt: int
    #: The compaction or rollback that led its partition elsewhere. Publishers leave it there.
    moved_by: str = ""


class LakeCatalog(Protocol):
    """
    Where engines look up external tables. Both ways create database and table if absent, bring the table's columns
    to its contract unless a newer contract was there, and repeat without harm.
    """

    def put_partition(self, table: ExternalTable, batch: ExternalBatch) -> None:
        """
        Show a batch as a partition of its own, at the folder given, wherever it was before.

        A partition that a compaction or a rollback led elsewhere stays there.

        Raises:
            Refused: TARGET_INCOMPATIBLE if the name is another table's, or the table is not partitioned.
            LostLease: if a later attempt has put the partition.
            Unavailable: if the catalog does not answer.
        """
        ...

    def put_partitions(self, table: ExternalTable, batches: Sequence[ExternalBatch]) -> None:
        """Show many batches, as `put_partition` does each, in as few requests as there can be."""
        ...

    def switch_partitions(self, table: ExternalTable, batches: Sequence[ExternalBatch]) -> None:
        """
        Lead partitions to other folders, all in one request, whoever put them where they are.

        At most `MAX_PARTITIONS_PER_REQUEST`. Those that are not there are made beforehand, empty.

        Raises:
            Refused: TARGET_INCOMPATIBLE if the name is another table's, or the table is not partitioned.
            Unavailable: if the catalog does not answer, or took not all of them. Do it again.
        """
        ...

    def change_types(self, table: ExternalTable) -> None:
        """
        Bring the columns that are there to the wider types that a table tells, by one request; nothing else changes.

        Whoever calls it has files of these types for all partitions, and leads them there next. Until then engines refuse
        to read those that are not. A column of which another change is told stays as it is: no file has it, else nobody would
        call. Of a table that is not there, nothing is done.

        Raises:
            Refused: TARGET_INCOMPATIBLE if the name is another table's, or the table is not partitioned.
            Unavailable: if the catalog does not answer.
        """
        ...

    def put_snapshot(self, table: ExternalTable, batch: ExternalBatch, *, goes_back: bool = False) -> bool:
        """
        Make a batch the whole of a table; False, and nothing changed, if a newer snapshot is there.

        With `goes_back` a newer one gives way: an operator leads the table back.

        Raises:
            Refused: TARGET_INCOMPATIBLE if the name is another table's, or the table is partitioned.
            LostLease: if a later attempt has put this snapshot.
            Unavailable: if the catalog does not answer.
        """
        ...


def external_table(contract: TableContract, *, contract_version: int, bucket: str) -> ExternalTable:
    """
    Return the external table of a contract.

    Raises:
        Refused: TARGET_INCOMPATIBLE if a name cannot be carried; it names the column.
    """
    where = f"{contract.source}.{contract.table}"
    columns = tuple(_external_column(column, where=where) for column in contract.output_columns)
    seen: dict[str, str] = {DAY_KEY: "the partition key", BATCH_KEY: "the partition key"}
    for column, external in zip(contract.output_columns, columns, strict=True):
        if external.name in seen:
            raise _incompatible(
                where, f"column {column.name!r} and {seen[external.name]!r} are one name in lower case"
            )
        seen[external.name] = column.name
    if len(columns) > MAX_COLUMNS:
        raise _incompatible(where, f"expected at most {MAX_COLUMNS} columns, found {len(columns)}")
    return ExternalTable(
        source=contract.source,
        name=external_name(contract.table),
        table=contract.table,
        columns=columns,
        contract_version=contract_version,
        folder=Location(bucket, f"{Area.FINAL}/{key_segment(contract.table)}/"),
        is_partitioned=contract.publishing.mode is not PublishMode.REPLACE,
    )


def empty_folder(table: ExternalTable) -> Location:
    """Return where partitions lead that have no rows: a folder in which nobody puts anything."""
    return Location(table.folder.bucket, f"{table.folder.key}empty/")


def database_name(source: str, *, prefix: str) -> str:
    """
    Return the database of a source's external tables.

    >>> database_name("web_shop", prefix="acme-lake")
    'acme_lake_web_shop'
    """
    return f"{prefix.replace('-', '_')}_{source}"


def external_name(table: str) -> str:
    """
    Return a table's name as every engine takes it: lower case, letters, digits and underscores.

    >>> external_name("Order Items/2026")
    'order_items_2026'
    """
    return re.sub(r"[^a-z0-9_]", "_", table.lower())


def hive_type(type_: ColumnType) -> str:
    """
    Return the Hive type of a column in Parquet.

    >>> hive_type(ColumnType.parse("decimal(12,2)"))
    'decimal(12,2)'
    """
    return str(type_) if type_.kind is ColumnKind.DECIMAL else _HIVE_TYPES[type_.kind]


def describe_column(column: Column) -> str:
    """Return what a reader has to know of a column's values; empty if they are what they seem."""
    parts = []
    if column.mask.changes_values:
        parts.append(f"{_MASKED}{column.mask}")
    if column.output_type.kind is ColumnKind.TIMESTAMPTZ:
        parts.append("UTC")
    elif column.output_type.kind is ColumnKind.JSON:
        parts.append("JSON as text")
    return "; ".join(parts)


def says_masked(description: str) -> bool:
    """
    Return whether `describe_column` said this of a masked column.

    >>> says_masked("masked: hmac"), says_masked("UTC")
    (True, False)
    """
    return description.startswith(_MASKED)


def refuse_changed_types(
    found: Sequence[ExternalColumn], table: ExternalTable, *, is_masked_since: bool = False
) -> None:
    """
    Make sure that the files of all partitions have the types that the table tells.

    `found`: the columns as the catalog has them. A column that is masked from now on may change its type:
    to hold its batches would serve nobody. Redshift then refuses to read its older partitions. `is_masked_since`: a newer
    contract made the columns found, and older partitions, which are there with whatever type, are led elsewhere: what it
    masks is not compared.
    Source: Amazon Redshift Developer Guide, "Troubleshooting queries in Amazon Redshift Spectrum": a file's type has to
    be the column's, else "incompatible Parquet schema".

    Raises:
        Refused: TARGET_INCOMPATIBLE; it names the columns.
    """
    changed = _changed_types(found, table, is_masked_since=is_masked_since)
    if not changed:
        return
    told = "; ".join(
        f"column {column.name!r} should be {column.type}, found {before}" for column, before in changed
    )
    if all(widens(column.type, before) for column, before in changed):
        cure = f"`esclusa widen {table.source}.{table.table}` writes those files anew in the wider types, then replay the batch"
    elif all(widens(before, column.type) for column, before in changed):
        cure = "if a newer contract has the wider types, replay the batch: it is then read under that"
    else:
        cure = f"{ANOTHER_NAME}, or publish to `native` only"
    raise Refused(
        Reason.TARGET_INCOMPATIBLE,
        f"{table.source}.{table.table}: its external table {table.name} has files of other types: {told}; {cure}",
    )


def widened_columns(
    found: Sequence[ExternalColumn], table: ExternalTable, *, is_masked_since: bool = False
) -> tuple[ExternalColumn, ...]:
    """
    Return the columns that the catalog has, in the wider types that a table tells of them.

    `is_masked_since`: a newer contract made the columns found; those that it masks stay as they are.
    """
    changed = _changed_types(found, table, is_masked_since=is_masked_since)
    types = {column.name: column.type for column, before in changed if widens(column.type, before)}
    return tuple(replace(column, type=types.get(column.name, column.type)) for column in found)


def _changed_types(
    found: Sequence[ExternalColumn], table: ExternalTable, *, is_masked_since: bool
) -> list[tuple[ExternalColumn, str]]:
    """Return the columns whose type is another one than the catalog has, each with that."""
    types = {
        column.name: column.type for column in found if not (is_masked_since and says_masked(column.comment))
    }
    return [
        (column, types[column.name])
        for column in table.columns
        if types.get(column.name, column.type) != column.type and not says_masked(column.comment)
    ]


def _external_column(column: Column, *, where: str) -> ExternalColumn:
    # Engines look columns up in Parquet by name, whatever its case. Any other change of the name would make
    # them read NULLs, so a name is carried or refused, never bent.
    name = column.name.lower()
    if not 1 <= len(name.encode()) <= MAX_NAME_BYTES or not name.isprintable():
        raise _incompatible(
            where,
            f"column {column.name!r}: expected a printable name of 1 to {MAX_NAME_BYTES} bytes for an external table",
        )
    return ExternalColumn(name, hive_type(column.output_type), describe_column(column))


def _incompatible(where: str, found: str) -> Refused:
    return Refused(
        Reason.TARGET_INCOMPATIBLE, f"{where}: {found}; rename it at the source or publish to `native` only"
    )
