"""The names of one table in Redshift, checked, and what its statements have to know of its contract."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.publisher.catalog import describe_column, says_masked
from services.publisher.redshift.names import (
    SYSTEM_COLUMNS,
    comment_text,
    folded,
    quote_identifier,
    refuse_one_name_twice,
    short_digest,
)
from services.publisher.redshift.types import TableColumn, TypedColumn, typed_column
from services.publisher.warehouse import BASE_SUFFIX, LOADS_VIEW, RESERVED_PREFIX, NativeLoad, target_of
from shared.domain.contracts import Column, ColumnKind, DeleteMode, PublishMode
from shared.domain.reasons import Reason
from shared.errors import Refused
from shared.measures import ColumnMeasure

# Source: Amazon Redshift Management Guide, "Quotas and limits": 1,600 columns in a table; a view has as many.
MAX_COLUMNS = 1_597
MAX_TABLE_COLUMNS = 1_600
# Source: Amazon Redshift Developer Guide, CREATE TABLE, SORTKEY.
MAX_SORT_COLUMNS = 400

BATCH_COLUMN = f"{RESERVED_PREFIX}batch_id"
WINDOW_COLUMN = f"{RESERVED_PREFIX}window_end"
REBUILDS_TABLE = f"{RESERVED_PREFIX}rebuilds"
#: Begins the names of the tables in which an earlier state is put together.
SCRATCH_PREFIX = f"{RESERVED_PREFIX}rebuild_"

HIDDEN = (
    TableColumn(BATCH_COLUMN, f'"{BATCH_COLUMN}"', "VARCHAR(64)", "character varying(64)", "ZSTD"),
    TableColumn(WINDOW_COLUMN, f'"{WINDOW_COLUMN}"', "TIMESTAMPTZ", "timestamp with time zone", "AZ64"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A table as one load wants it. All names but `name` are quoted."""

    #: As people call it, and as messages do.
    name: str
    source: str
    table: str
    view_schema: str
    view: str
    base_schema: str
    base: str
    #: What stands for the base table in a condition.
    base_alias: str
    #: The table that every load of this one locks, and analysts never read.
    turn: str
    loads: str
    loads_view: str
    rebuilds: str
    columns: tuple[TypedColumn, ...]
    comments: tuple[str, ...]
    key: tuple[TypedColumn, ...]
    #: The cursor column; None if it does not tell which version is newer.
    ordering: TypedColumn | None
    deleted_at: str | None
    sort_key: tuple[str, ...]
    dist_key: str | None
    comment: str

    @property
    def turn_name(self) -> str:
        """The name of the turn in the catalogue."""
        return _turn_name(self.table)

    @property
    def table_columns(self) -> tuple[TableColumn, ...]:
        """The columns of the contract in the base table, in its order."""
        return tuple(part for column in self.columns for part in column.table_columns)

    @property
    def base_comment(self) -> str:
        """What the base table says of itself."""
        return comment_text("base of " + self.comment)

    @property
    def base_names(self) -> dict[str, str]:
        """Schema and table of the base table, as the catalogue has them."""
        return {"schema": folded(self.source + BASE_SUFFIX), "table": folded(self.table)}

    @property
    def view_names(self) -> dict[str, str]:
        """Schema and name of the analysts' view, as the catalogue has them."""
        return {"schema": folded(self.source), "table": folded(self.table)}


def target_of_load(load: NativeLoad, measures: Sequence[ColumnMeasure]) -> Target:
    """
    Return the target of a load, with every name and type checked.

    Raises:
        Refused: TARGET_INCOMPATIBLE if Redshift cannot hold a name, a type, the key or the number of columns.
    """
    contract, where = load.contract, target_of(load)
    _refuse_names(contract.source, contract.table, where=where)
    _refuse_columns(load, where=where)
    columns = {
        column.name: typed_column(column, longest_in_bytes=measure.longest_in_bytes or 0, where=where)
        for column, measure in zip(contract.output_columns, measures, strict=True)
    }
    ordering = load.ordering_column
    view_schema = quote_identifier(contract.source)
    base_schema = quote_identifier(contract.source + BASE_SUFFIX)
    table = quote_identifier(contract.table)
    sort_key = contract.publishing.sort_key or ((ordering.name,) if ordering else ())
    dist_key = contract.publishing.dist_key
    deleted_at = contract.deletes.column if contract.deletes.mode is DeleteMode.SOFT else None
    target = Target(
        name=where,
        source=contract.source,
        table=contract.table,
        view_schema=view_schema,
        view=f"{view_schema}.{table}",
        base_schema=base_schema,
        base=f"{base_schema}.{table}",
        base_alias=table,
        turn=f'{base_schema}."{_turn_name(contract.table)}"',
        loads=f'{base_schema}."{LOADS_VIEW}"',
        loads_view=f'{view_schema}."{LOADS_VIEW}"',
        rebuilds=f'{base_schema}."{REBUILDS_TABLE}"',
        columns=tuple(columns.values()),
        comments=tuple(_describe_column(column) for column in contract.output_columns),
        key=tuple(columns[name] for name in contract.key),
        ordering=columns[ordering.name] if ordering else None,
        deleted_at=quote_identifier(deleted_at) if deleted_at else None,
        sort_key=tuple(columns[name].quoted for name in sort_key if name in columns),
        dist_key=columns[dist_key].quoted if dist_key in columns else None,
        comment=comment_text(_describe_table(load)),
    )
    found = len(target.table_columns) + len(HIDDEN)
    if found > MAX_TABLE_COLUMNS:
        raise incompatible(
            where,
            f"expected at most {MAX_TABLE_COLUMNS} columns with ours and two for each of JSON, found {found}",
        )
    return target


def _turn_name(table: str) -> str:
    return f"{RESERVED_PREFIX}turn_{short_digest(folded(table))}"


def _describe_column(column: Column) -> str:
    """Say what a reader has to know of a column. JSON is no text here."""
    return comment_text(describe_column(column).replace("JSON as text", "JSON as SUPER"))


_SAYINGS = {
    PublishMode.APPEND: "every row of every batch",
    PublishMode.MERGE: "the newest version of each row",
    PublishMode.REPLACE: "the newest snapshot",
}


def _describe_table(load: NativeLoad) -> str:
    """
    Say what a table is. Columns of a late-binding view take no comment, so its own names what is masked.

    Source: Amazon Redshift Developer Guide, COMMENT: not on columns of late-binding views.
    """
    contract = load.contract
    text = f"{target_of(load)}: {_SAYINGS[contract.publishing.mode]}"
    if contract.deletes.mode is DeleteMode.SOFT:
        text += f"; rows with {contract.deletes.column} are left out"
    masked = [
        f"{column.name} ({description.removeprefix('masked: ')})"
        for column in contract.output_columns
        if says_masked(description := describe_column(column))
    ]
    if masked:
        text += f"; masked: {', '.join(masked)}"
    return f"{text}; contract {load.contract_version}"


def _refuse_names(source: str, table: str, *, where: str) -> None:
    if source.startswith("pg_") or source in {"information_schema", "public"} or source.endswith(BASE_SUFFIX):
        raise incompatible(where, "Redshift or Esclusa uses schemas of this name for itself")
    if folded(table).startswith(RESERVED_PREFIX):
        raise incompatible(where, f"names beginning with {RESERVED_PREFIX} are Esclusa's own")
    if table.startswith("#"):
        raise incompatible(where, "a table whose name begins with # is a temporary one in Redshift")


def _refuse_columns(load: NativeLoad, *, where: str) -> None:
    contract = load.contract
    columns = {column.name: column for column in contract.output_columns}
    if len(columns) > MAX_COLUMNS:
        raise incompatible(where, f"expected at most {MAX_COLUMNS} columns, found {len(columns)}")
    if len(contract.publishing.sort_key) > MAX_SORT_COLUMNS:
        raise incompatible(where, f"expected a sort key of at most {MAX_SORT_COLUMNS} columns")
    if contract.publishing.mode is PublishMode.MERGE and not contract.key:
        raise incompatible(where, "a merge needs key columns, found none")
    refuse_one_name_twice(columns, where=where)
    for name in columns:
        if folded(name).startswith(RESERVED_PREFIX):
            raise incompatible(
                where, f"column {name!r}: names beginning with {RESERVED_PREFIX} are Esclusa's own"
            )
        if folded(name) in SYSTEM_COLUMNS:
            raise incompatible(
                where, f"column {name!r}: every table of Redshift has one of this name already"
            )
    for name in contract.key:
        if name not in columns:
            raise incompatible(where, f"key column {name!r} is not in the files")
        if columns[name].output_type.kind is ColumnKind.JSON:
            raise incompatible(where, f"key column {name!r}: values of type json cannot be compared")
    if contract.deletes.mode is DeleteMode.SOFT and contract.deletes.column not in columns:
        raise incompatible(
            where, f"column {contract.deletes.column!r}, which tells deleted rows, is not in the files"
        )


def incompatible(where: str, found: str) -> Refused:
    """Return the refusal of a target that Redshift cannot hold."""
    return Refused(
        Reason.TARGET_INCOMPATIBLE, f"{where}: {found}; mend the source's file or publish to `external` only"
    )


def moment(value: datetime) -> str:
    """
    Return a moment as an expression.

    >>> from datetime import UTC
    >>> moment(datetime(2026, 11, 22, 12, tzinfo=UTC))
    "CAST('2026-11-22 12:00:00.000000+00' AS TIMESTAMPTZ)"
    """
    offset = value.utcoffset()
    if offset is None:
        raise ValueError(f"expected an aware moment, found {value.isoformat()}")
    in_utc = (value - offset).replace(tzinfo=None)
    return f"CAST('{in_utc.isoformat(' ', 'microseconds')}+00' AS TIMESTAMPTZ)"
