"""
How a column of a contract stands in Redshift: while it is staged, and in its table.

COPY of Parquet converts next to nothing, so a staged column has the type of the file; what is to be another type in
the table is converted on the way from one to the other, by an expression that says so.
"""

import re
from dataclasses import dataclass

from services.publisher.numbers import widens
from services.publisher.redshift.names import quote_identifier, short_digest
from services.publisher.warehouse import RESERVED_PREFIX
from shared.domain.contracts import Column, ColumnKind
from shared.domain.reasons import Reason
from shared.errors import Refused

# Source: Amazon Redshift Developer Guide, "Character types": VARCHAR holds 65,535 bytes, not characters.
MAX_VARCHAR_BYTES = 65_535
# Source: the same, "VARBYTE type": without a size it is 64,000. COPY fills no VARBYTE of another size from Parquet (dlt,
# destinations/impl/redshift), so the staged one has none, and no longer value arrives.
MAX_VARBYTE_BYTES = 64_000
MIN_VARCHAR_BYTES = 16

#: Type of the table, its name in the catalogue, and the encoding of its blocks. COPY of Parquet chooses none by itself.
_PLAIN = {
    ColumnKind.BOOLEAN: ("BOOLEAN", "boolean", "RAW"),
    ColumnKind.INT16: ("SMALLINT", "smallint", "AZ64"),
    ColumnKind.INT32: ("INTEGER", "integer", "AZ64"),
    ColumnKind.INT64: ("BIGINT", "bigint", "AZ64"),
    ColumnKind.FLOAT32: ("REAL", "real", "RAW"),
    ColumnKind.FLOAT64: ("DOUBLE PRECISION", "double precision", "RAW"),
    ColumnKind.DATE: ("DATE", "date", "AZ64"),
    ColumnKind.TIMESTAMP: ("TIMESTAMP", "timestamp without time zone", "AZ64"),
    ColumnKind.TIMESTAMPTZ: ("TIMESTAMPTZ", "timestamp with time zone", "AZ64"),
    ColumnKind.BINARY: (
        f"VARBYTE({MAX_VARBYTE_BYTES})",
        f"binary varying({MAX_VARBYTE_BYTES})",
        "ZSTD",
    ),
    ColumnKind.JSON: ("SUPER", "super", "ZSTD"),
}

#: The kinds whose values Redshift keeps as VARCHAR.
TEXT_KINDS = frozenset({ColumnKind.STRING, ColumnKind.JSON})

_VARCHAR = re.compile(r"character varying\((?P<size>\d+)\)")


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a base table, as DDL makes it and as the catalogue names its type."""

    name: str
    quoted: str
    ddl_type: str
    type: str
    encoding: str


@dataclass(frozen=True, slots=True)
class TypedColumn:
    """A column of a contract in Redshift."""

    name: str
    quoted: str
    kind: ColumnKind
    staged_type: str
    table: TableColumn
    #: Of JSON: the column that holds its text as it came, which SUPER does not keep.
    exact: TableColumn | None = None

    @property
    def table_columns(self) -> tuple[TableColumn, ...]:
        """The columns of the base table that hold it."""
        return (self.table,) if self.exact is None else (self.table, self.exact)

    @property
    def text(self) -> str:
        """The quoted column of the base table that tells two values apart."""
        return self.quoted if self.exact is None else self.exact.quoted

    def values(self, staged: str) -> tuple[str, ...]:
        """
        Return what goes into the columns of the base table, of a row of the stage.

        Files hold moments in UTC and without a zone.
        """
        value = f"{staged}.{self.quoted}"
        if self.kind is ColumnKind.TIMESTAMPTZ:
            return (f"{value} AT TIME ZONE 'UTC'",)
        if self.kind is ColumnKind.JSON:
            return (f"JSON_PARSE({value})", value)
        return (value,)


def typed_column(column: Column, *, longest_in_bytes: int, where: str) -> TypedColumn:
    """
    Return how a column stands in Redshift, wide enough for its longest value.

    Raises:
        Refused: TARGET_INCOMPATIBLE if Redshift has no such name, or no type that holds the values.
    """
    quoted, type_ = quote_identifier(column.name), column.output_type
    kind = type_.kind
    limit = MAX_VARBYTE_BYTES if kind is ColumnKind.BINARY else MAX_VARCHAR_BYTES
    if longest_in_bytes > limit:
        raise Refused(
            Reason.TARGET_INCOMPATIBLE,
            f"{where}: column {column.name!r}: a value of {longest_in_bytes} bytes, and Redshift holds {limit} at most; "
            "drop the column, shorten it at the source, by a view, or publish to `external` only",
        )
    size = fitted_size(longest_in_bytes)
    varchar = (f"VARCHAR({size})", f"character varying({size})", "ZSTD")
    if kind is ColumnKind.STRING:
        table = TableColumn(column.name, quoted, *varchar)
    elif kind is ColumnKind.DECIMAL:
        digits = f"({type_.precision},{type_.scale})"
        table = TableColumn(column.name, quoted, f"DECIMAL{digits}", f"numeric{digits}", "AZ64")
    else:
        table = TableColumn(column.name, quoted, *_PLAIN[kind])
    staged = {
        ColumnKind.TIMESTAMPTZ: "TIMESTAMP",
        ColumnKind.JSON: varchar[0],
        ColumnKind.BINARY: "VARBYTE",
    }
    exact = None
    if kind is ColumnKind.JSON:
        name = f"{RESERVED_PREFIX}json_{short_digest(column.name.lower())}"
        exact = TableColumn(name, quote_identifier(name), *varchar)
    return TypedColumn(column.name, quoted, kind, staged.get(kind, table.ddl_type), table, exact)


def fitted_size(longest_in_bytes: int) -> int:
    """
    Return the size of a VARCHAR: a power of two, so that a column is widened a few times in its life at most.

    Wider ones cost: sorts and joins keep the whole width in memory.

    >>> [fitted_size(size) for size in (0, 16, 17, 40_000, 65_535)]
    [16, 16, 32, 65535, 65535]
    """
    size = MIN_VARCHAR_BYTES
    while size < longest_in_bytes:
        size *= 2
    return min(size, MAX_VARCHAR_BYTES)


def holds(found: str, wanted: str) -> bool:
    """
    Return whether a column that was made as `found` takes every value of a column that should be `wanted`.

    >>> holds("bigint", "integer"), holds("integer", "bigint")
    (True, False)
    >>> holds("character varying(32)", "character varying(16)"), holds("character varying(16)", "super")
    (True, False)
    """
    wide, narrow = _VARCHAR.fullmatch(found), _VARCHAR.fullmatch(wanted)
    if wide and narrow:
        return int(wide["size"]) >= int(narrow["size"])
    return found == wanted or widens(found, wanted)


def can_be_widened(found: str, wanted: str) -> bool:
    """
    Return whether ALTER TABLE brings a column from one type to another: a VARCHAR to a longer one, and nothing else.

    Source: Amazon Redshift Developer Guide, ALTER TABLE, ALTER COLUMN TYPE.

    >>> can_be_widened("character varying(16)", "character varying(32)"), can_be_widened("integer", "bigint")
    (True, False)
    """
    return bool(_VARCHAR.fullmatch(found) and _VARCHAR.fullmatch(wanted)) and not holds(found, wanted)
