"""
What the footer of a Parquet file in `final/` says, and what it has to say.

The processor writes footers by this page and the gate of `final/` reads them by it, so both agree by
construction. Only the tail of an object is read, and the Parquet library is imported only when one is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.domain.batches import Batch, Stage
from shared.domain.contracts import ColumnKind, ColumnType, TableContract
from shared.domain.files import Location
from shared.domain.reasons import Reason
from shared.errors import Refused
from shared.ports import ObjectStore

#: Every key of ours in a footer begins so; other keys are the library's.
METADATA_PREFIX = "esclusa."

MAGIC = b"PAR1"

#: Nearly every footer is shorter, so that one read is enough.
TAIL_SIZE_IN_BYTES = 64 * 1024

#: A footer grows with columns times row groups: 1,600 columns in 60 groups take about 10 MB. What claims to be
#: longer is not read, for a Lambda holds it in memory.
MAX_FOOTER_SIZE_IN_BYTES = 32 * 1024 * 1024

#: How the Parquet library names the types we write. A timestamp without zone is one that is not adjusted to UTC.
_PARQUET_TYPES = {
    ColumnKind.STRING: "string",
    ColumnKind.BOOLEAN: "bool",
    ColumnKind.INT16: "int16",
    ColumnKind.INT32: "int32",
    ColumnKind.INT64: "int64",
    ColumnKind.FLOAT32: "float",
    ColumnKind.FLOAT64: "double",
    ColumnKind.DATE: "date32[day]",
    ColumnKind.TIMESTAMP: "timestamp[us]",
    # Spectrum has no TIMESTAMPTZ: moments are written in UTC and without a zone, `esclusa.columns` says so.
    ColumnKind.TIMESTAMPTZ: "timestamp[us]",
    ColumnKind.JSON: "string",
    ColumnKind.BINARY: "binary",
}


@dataclass(frozen=True, slots=True)
class Footer:
    """What a Parquet file says of itself."""

    record_count: int
    #: Name and Parquet type of each column, in their order.
    columns: tuple[tuple[str, str], ...]
    #: Our keys only, see `footer_metadata`.
    metadata: Mapping[str, str]


# ---- what it has to say ------------------------------------------------------------------------------------


def parquet_type(column_type: ColumnType) -> str:
    """
    Return the Parquet type that holds a contract's type, as the Parquet library spells it.

    >>> parquet_type(ColumnType.parse("decimal(12,2)")), parquet_type(ColumnType.parse("timestamptz"))
    ('decimal128(12, 2)', 'timestamp[us]')
    """
    if column_type.kind is ColumnKind.DECIMAL:
        return f"decimal128({column_type.precision}, {column_type.scale})"
    return _PARQUET_TYPES[column_type.kind]


def expected_columns(contract: TableContract) -> tuple[tuple[str, str], ...]:
    """Return name and Parquet type of each column that a file of a table has, in their order."""
    return tuple((column.name, parquet_type(column.output_type)) for column in contract.output_columns)


def footer_metadata(
    *, batch: Batch, attempt: int, contract: TableContract, record_count: int
) -> dict[str, str]:
    """
    Return the keys that tie a file to its batch. They hold no time: equal rows give equal bytes.

    `esclusa.columns` keeps the contract's types where Parquet has fewer: JSON is text there, and a moment is
    a timestamp without zone, whose zone is UTC.
    """
    columns = [
        {"name": column.name, "type": str(column.output_type)}
        | ({"zone": "UTC"} if column.output_type.kind is ColumnKind.TIMESTAMPTZ else {})
        for column in contract.output_columns
    ]
    return {
        f"{METADATA_PREFIX}{name}": value
        for name, value in {
            "batch_id": batch.id,
            "source": batch.source,
            "table": batch.table,
            "attempt": str(attempt),
            "contract_version": str(batch.contract_version),
            "record_count": str(record_count),
            "columns": json.dumps(columns, ensure_ascii=False, separators=(",", ":")),
        }.items()
    }


# ---- what it says ------------------------------------------------------------------------------------------


def read_footer(store: ObjectStore, location: Location, *, file_size_in_bytes: int) -> Footer:
    """
    Return the footer of an object, reading its tail only.

    Raises:
        Refused: `footer_unreadable`, if the object does not end as a Parquet file does.
        ObjectNotFound: if there is none.
    """
    footer = _footer_bytes(store, location, file_size_in_bytes)
    return _parse(footer, location)


def _footer_bytes(store: ObjectStore, location: Location, file_size_in_bytes: int) -> bytes:
    """Return the serialised footer with the eight bytes that end the file: its length and the magic number."""
    ending_size = 4 + len(MAGIC)
    if file_size_in_bytes < len(MAGIC) + ending_size:
        raise _unreadable(
            location, f"a Parquet file has at least 12 bytes, this one has {file_size_in_bytes}"
        )
    tail = store.read(location, start=-min(file_size_in_bytes, TAIL_SIZE_IN_BYTES))
    if not tail.endswith(MAGIC) or len(tail) < ending_size:
        raise _unreadable(location, "it does not end with PAR1")
    length = int.from_bytes(tail[-ending_size:-4], "little") + ending_size
    longest = min(file_size_in_bytes - len(MAGIC), MAX_FOOTER_SIZE_IN_BYTES)
    if length > longest:
        raise _unreadable(location, f"its footer claims {length} bytes, at most {longest} are possible")
    return tail[-length:] if length <= len(tail) else store.read(location, start=-length)


def _parse(footer: bytes, location: Location) -> Footer:
    # Deferred: the other gates and the command never read a footer.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # The library wants a file; magic number and footer alone are one to it, as it reads no data page.
        metadata = pq.read_metadata(pa.BufferReader(MAGIC + footer))
        schema = metadata.schema.to_arrow_schema()
        return Footer(
            record_count=_record_count(metadata),
            columns=tuple((field.name, str(field.type)) for field in schema),
            metadata=_own_metadata(metadata),
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(location, f"its footer cannot be parsed ({type(error).__name__})") from error


def _record_count(metadata: Any) -> int:
    """Return the record count that the file and the sum of its row groups agree on."""
    in_groups = sum(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
    if metadata.num_rows != in_groups:
        raise ValueError(f"the file counts {metadata.num_rows} records, its row groups {in_groups}")
    return int(metadata.num_rows)


def _own_metadata(metadata: Any) -> dict[str, str]:
    found: Mapping[bytes, bytes] = metadata.metadata or {}
    prefix = METADATA_PREFIX.encode()
    return {key.decode(): value.decode() for key, value in found.items() if key.startswith(prefix)}


def _unreadable(location: Location, detail: str) -> Refused:
    return Refused(Reason.FOOTER_UNREADABLE, f"{location}: {detail}")


# ---- the comparison ----------------------------------------------------------------------------------------


def check_footer(
    footer: Footer, *, location: Location, contract: TableContract, batch: Batch, record_count: int
) -> None:
    """
    Compare a footer with the ledger.

    Raises:
        Refused: `record_count_mismatch` or `footer_mismatch`; the detail names the first difference.
    """
    if footer.record_count != record_count:
        raise Refused(
            Reason.RECORD_COUNT_MISMATCH,
            f"{location}: should have {record_count} records, its footer counts {footer.record_count}",
        )
    check_columns(footer.columns, expected_columns(contract), location)
    expected = footer_metadata(
        batch=batch,
        attempt=batch.attempt_number(Stage.PROCESS),
        contract=contract,
        record_count=record_count,
    )
    for key, value in expected.items():
        if footer.metadata.get(key) != value:
            raise Refused(
                Reason.FOOTER_MISMATCH,
                f"{location}: {key} should be {value!r}, found {footer.metadata.get(key)!r}",
            )


def check_columns(
    found: tuple[tuple[str, str], ...], expected: tuple[tuple[str, str], ...], location: Location
) -> None:
    """
    Compare the columns of a footer with those of a contract: names, types and order.

    Raises:
        Refused: `footer_mismatch`; the detail names the first difference.
    """
    if len(found) != len(expected):
        raise Refused(
            Reason.FOOTER_MISMATCH,
            f"{location}: should have {len(expected)} columns, found {len(found)}",
        )
    for position, (column, wanted) in enumerate(zip(found, expected, strict=True), start=1):
        if column != wanted:
            raise Refused(
                Reason.FOOTER_MISMATCH,
                f"{location}: column {position} should be {wanted[0]!r} of type {wanted[1]}, "
                f"found {column[0]!r} of type {column[1]}",
            )
