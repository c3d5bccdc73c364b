"""
The SQL text of the PostgreSQL warehouse: pure functions of names and types, each one statement.

Values are bound (`$1`), except where PostgreSQL binds none; identifiers are quoted by `quote_identifier` alone.
`b` is the base table, `s` the staging table in the statements that use both.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from psycopg import sql

from services.publisher.catalog import describe_column
from services.publisher.numbers import widens
from services.publisher.warehouse import BASE_SUFFIX, RESERVED_PREFIX, NativeLoad, refuse_own_names, target_of
from shared.domain.contracts import ColumnKind, ColumnType, DeleteMode, PublishMode, TableContract
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window
from shared.errors import Refused

# Source: PostgreSQL manual, "Lexical Structure": NAMEDATALEN - 1 bytes. Longer names are cut silently.
MAX_IDENTIFIER_BYTES = 63
# Source: PostgreSQL manual, "Limits": columns per table. Two hidden ones are ours.
MAX_COLUMNS = 1598

BATCH_COLUMN = f"{RESERVED_PREFIX}batch_id"
WINDOW_COLUMN = f"{RESERVED_PREFIX}window_end"
POSITION_COLUMN = f"{RESERVED_PREFIX}position"
OWN_SCHEMA = "_esclusa"

_TYPES = {
    ColumnKind.STRING: "text",
    ColumnKind.BOOLEAN: "boolean",
    ColumnKind.INT16: "smallint",
    ColumnKind.INT32: "integer",
    ColumnKind.INT64: "bigint",
    ColumnKind.FLOAT32: "real",
    ColumnKind.FLOAT64: "double precision",
    ColumnKind.DATE: "date",
    ColumnKind.TIMESTAMP: "timestamp without time zone",
    ColumnKind.TIMESTAMPTZ: "timestamp with time zone",
    # Not jsonb: it reorders keys, drops doubles and rewrites numbers. json keeps the text and still answers `->>`.
    ColumnKind.JSON: "json",
    ColumnKind.BINARY: "bytea",
}


def postgres_type(type_: ColumnType) -> str:
    """
    Return a column's type in the words of PostgreSQL's own `format_type`.

    >>> postgres_type(ColumnType.parse("decimal(12,2)"))
    'numeric(12,2)'
    """
    if type_.kind is ColumnKind.DECIMAL:
        return f"numeric({type_.precision},{type_.scale})"
    return _TYPES[type_.kind]


def holds(found: str, wanted: str) -> bool:
    """
    Return whether a column that was made as `found` takes every value of a column that should be `wanted`.

    >>> holds("bigint", "integer"), holds("integer", "bigint"), holds("text", "json")
    (True, False, False)
    >>> holds("numeric(14,4)", "numeric(12,2)"), holds("numeric(12,4)", "numeric(12,2)")
    (True, False)
    """
    return found == wanted or widens(found, wanted)


def can_be_widened(found: str, wanted: str) -> bool:
    """
    Return whether a column can be brought from one type to another without any value changing.

    >>> can_be_widened("integer", "bigint"), can_be_widened("bigint", "integer"), can_be_widened("integer", "text")
    (True, False, False)
    """
    return widens(wanted, found)


def quote_identifier(name: str) -> str:
    """
    Return a name quoted, whatever is in it.

    >>> print(quote_identifier('we"ird; DROP TABLE x'))
    "we""ird; DROP TABLE x"

    Raises:
        Refused: TARGET_INCOMPATIBLE if PostgreSQL has no such name: empty, too long, or with a NUL.
    """
    if not 1 <= len(name.encode()) <= MAX_IDENTIFIER_BYTES or "\0" in name:
        raise Refused(
            Reason.TARGET_INCOMPATIBLE,
            f"name {name!r}: expected 1 to {MAX_IDENTIFIER_BYTES} bytes without NUL, found {len(name.encode())} "
            "bytes; give it another name in the source's file or publish to `external` only",
        )
    return sql.Identifier(name).as_string()


def quote_text(text: str) -> str:
    """Quote a text for the statements that bind no values."""
    return sql.Literal(text).as_string()


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column of a base table: quoted, and with the words of `format_type`."""

    name: str
    quoted: str
    type: str
    comment: str


@dataclass(frozen=True, slots=True)
class TargetTable:
    """The names of one table in the warehouse, quoted, and what its statements have to know of its contract."""

    #: As people call it, and as messages do.
    name: str
    #: The schema of the analysts' view, the view itself, the schema of the base table, the base table.
    view_schema: str
    view: str
    base_schema: str
    base: str
    columns: tuple[TargetColumn, ...]
    key: tuple[str, ...]
    #: The cursor column; None if it does not tell which version is newer.
    ordering: str | None
    #: The column that says when a row was deleted; None if deletes are not looked for.
    deleted_at: str | None
    comment: str

    @property
    def column_list(self) -> str:
        """The contract's columns, for lists of columns."""
        return ", ".join(column.quoted for column in self.columns)


STAGE = f"pg_temp.{quote_identifier(RESERVED_PREFIX + 'stage')}"
LOADS = f"{quote_identifier(OWN_SCHEMA)}.loads"
_BATCH, _WINDOW, _POSITION = map(quote_identifier, (BATCH_COLUMN, WINDOW_COLUMN, POSITION_COLUMN))


def target_table(load: NativeLoad) -> TargetTable:
    """
    Return the target of a load, with every name checked.

    Raises:
        Refused: TARGET_INCOMPATIBLE if PostgreSQL cannot hold a name, the key or the number of columns.
    """
    contract = load.contract
    where = target_of(load)
    refuse_own_names(contract)
    _refuse_source_name(contract.source)
    _refuse_columns(contract, where=where)
    view_schema, base_schema = (
        quote_identifier(contract.source),
        quote_identifier(base_schema_of(contract.source)),
    )
    table = quote_identifier(contract.table)
    ordering = load.ordering_column
    return TargetTable(
        name=where,
        view_schema=view_schema,
        view=f"{view_schema}.{table}",
        base_schema=base_schema,
        base=f"{base_schema}.{table}",
        columns=tuple(
            TargetColumn(
                name=column.name,
                quoted=quote_identifier(column.name),
                type=postgres_type(column.output_type),
                comment=describe_column(column),
            )
            for column in contract.output_columns
        ),
        key=tuple(map(quote_identifier, contract.key)),
        ordering=quote_identifier(ordering.name) if ordering else None,
        deleted_at=quote_identifier(contract.deletes.column)
        if contract.deletes.mode is DeleteMode.SOFT
        else None,
        comment=_describe_table(load),
    )


def base_schema_of(source: str) -> str:
    """Return the schema of a source's base tables, unquoted."""
    return source + BASE_SUFFIX


_SAYINGS = {
    PublishMode.APPEND: "every row of every batch",
    PublishMode.MERGE: "the newest version of each row",
    PublishMode.REPLACE: "the newest snapshot",
}


def _describe_table(load: NativeLoad) -> str:
    text = f"{target_of(load)}: {_SAYINGS[load.contract.publishing.mode]}"
    if load.contract.deletes.mode is DeleteMode.SOFT:
        text += f"; rows with {load.contract.deletes.column} are left out"
    return f"{text}; contract {load.contract_version}"


def _refuse_columns(contract: TableContract, *, where: str) -> None:
    columns = {column.name: column for column in contract.output_columns}
    if len(columns) > MAX_COLUMNS:
        raise _incompatible(where, f"expected at most {MAX_COLUMNS} columns, found {len(columns)}")
    if contract.publishing.mode is PublishMode.MERGE and not contract.key:
        raise _incompatible(where, "a merge needs key columns, found none")
    for name in columns:
        if name.startswith(RESERVED_PREFIX):
            raise _incompatible(
                where, f"column {name!r}: names beginning with {RESERVED_PREFIX} are Esclusa's own"
            )
    for name in contract.key:
        if name not in columns:
            raise _incompatible(where, f"key column {name!r} is not in the files")
        if columns[name].output_type.kind is ColumnKind.JSON:
            raise _incompatible(where, f"key column {name!r}: values of type json cannot be compared")
    if contract.deletes.mode is DeleteMode.SOFT and contract.deletes.column not in columns:
        raise _incompatible(
            where, f"column {contract.deletes.column!r}, which tells deleted rows, is not in the files"
        )


def _refuse_source_name(source: str) -> None:
    if (
        source.startswith("pg_")
        or source in {"information_schema", OWN_SCHEMA}
        or source.endswith(BASE_SUFFIX)
    ):
        raise _incompatible(source, "PostgreSQL or Esclusa uses schemas of this name for itself")


def _incompatible(where: str, found: str) -> Refused:
    return Refused(
        Reason.TARGET_INCOMPATIBLE, f"{where}: {found}; mend the source's file or publish to `external` only"
    )


# ---- the house: schemas, and settings of a transaction -----------------------------------------------------


#: Holds back others of the same name until the transaction ends.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"

#: Settings of this transaction only, so that they hold through a pooler too.
SET_FOR_TRANSACTION = (
    "SELECT set_config(name, value, true) FROM unnest($1::text[], $2::text[]) AS s(name, value)"
)

#: How many of some schemas exist.
COUNT_SCHEMAS = "SELECT count(*) FROM pg_namespace WHERE nspname = ANY ($1::text[])"


def create_schema(quoted_schema: str) -> str:
    """Create a schema unless it is there."""
    return f"CREATE SCHEMA IF NOT EXISTS {quoted_schema}"


# ---- the base table ----------------------------------------------------------------------------------------


#: The columns of a relation in their order, as `format_type` names their types, with their comments.
FIND_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), coalesce(col_description(a.attrelid, a.attnum), '')
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""

#: The column names of each unique index of a base table that a merge can rely on.
FIND_UNIQUE_KEYS = """
SELECT array_agg(a.attname::text)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
WHERE n.nspname = $1 AND c.relname = $2 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
  AND i.indexprs IS NULL AND i.indnkeyatts = i.indnatts
GROUP BY i.indexrelid
"""


def create_base(target: TargetTable) -> str:
    """Create the base table: the contract's columns and two hidden ones."""
    columns = [f"{column.quoted} {column.type}" for column in target.columns]
    hidden = [f"{_BATCH} text NOT NULL", f"{_WINDOW} timestamp with time zone NOT NULL"]
    return f"CREATE TABLE {target.base} ({', '.join(columns + hidden)})"


def add_columns(target: TargetTable, columns: Sequence[TargetColumn]) -> str:
    """Add columns that the contract has and the base table has not. Rows that are there have NULL in them."""
    return f"ALTER TABLE {target.base} " + ", ".join(
        f"ADD COLUMN {column.quoted} {column.type}" for column in columns
    )


def widen_columns(target: TargetTable, columns: Sequence[TargetColumn]) -> str:
    """
    Bring columns to wider types of the contract.

    PostgreSQL rewrites the table for it under a lock, but for a numeric that only gets more digits before the point.
    Source: PostgreSQL manual, ALTER TABLE, notes.
    """
    return f"ALTER TABLE {target.base} " + ", ".join(
        f"ALTER COLUMN {column.quoted} TYPE {column.type}" for column in columns
    )


def create_unique_key(target: TargetTable) -> str:
    """Create the index by which a merge finds rows. PostgreSQL gives it a name that fits."""
    return f"CREATE UNIQUE INDEX ON {target.base} ({', '.join(target.key)})"


# ---- the staging table -------------------------------------------------------------------------------------


def create_stage(target: TargetTable) -> str:
    """Create the staging table of this transaction; rows are numbered as they come."""
    columns = [f"{column.quoted} {column.type}" for column in target.columns]
    position = f"{_POSITION} bigint GENERATED ALWAYS AS IDENTITY"
    return f"CREATE TEMPORARY TABLE {STAGE} ({', '.join([*columns, position])}) ON COMMIT DROP"


def copy_into_stage(target: TargetTable) -> str:
    """Take CSV: an unquoted empty field is NULL, a quoted one an empty string."""
    return f"COPY {STAGE} ({target.column_list}) FROM STDIN (FORMAT csv)"


def count_null_keys(target: TargetTable) -> str:
    """Count rows that no key finds."""
    return f"SELECT count(*) FROM {STAGE} WHERE " + " OR ".join(f"{name} IS NULL" for name in target.key)


COUNT_STAGED = f"SELECT count(*) FROM {STAGE}"
ANALYZE_STAGE = f"ANALYZE {STAGE}"
#: Before the next batch of one transaction.
DROP_STAGE = f"DROP TABLE IF EXISTS {STAGE}"


def measure_stage(target: TargetTable, *, numbers: Collection[str]) -> list[str]:
    """
    Count the values of each column, and of the numbers tell sum, minimum and maximum as text.

    One answer holds no more than PostgreSQL's 1,664 columns, so wide tables are asked several times.
    """
    answers = []
    for column in target.columns:
        answers.append(f"count({column.quoted})")
        if column.name in numbers:
            # The sum of bigint is numeric: nothing overflows.
            answers += [f"{function}({column.quoted})::text" for function in ("sum", "min", "max")]
    asked = (answers[start : start + MAX_COLUMNS] for start in range(0, len(answers), MAX_COLUMNS))
    return [f"SELECT {', '.join(some)} FROM {STAGE}" for some in asked]


def delete_older_versions(target: TargetTable) -> str:
    """Keep the latest row of each key: by cursor, then by position."""
    newest_first = [f"{target.ordering} DESC NULLS LAST"] if target.ordering else []
    newest_first.append(f"{_POSITION} DESC")
    return f"""
DELETE FROM {STAGE} WHERE {_POSITION} IN (
    SELECT {_POSITION} FROM (
        SELECT {_POSITION},
            row_number() OVER (PARTITION BY {", ".join(target.key)} ORDER BY {", ".join(newest_first)}) AS version
        FROM {STAGE}
    ) AS ranked WHERE version > 1
)"""


# ---- the three modes ---------------------------------------------------------------------------------------


def count_merge(target: TargetTable) -> str:
    """Count the staged rows that are new, and those that are newer than what is there and differ from it."""
    return f"""
SELECT count(*) FILTER (WHERE b.{_BATCH} IS NULL),
    count(*) FILTER (WHERE b.{_BATCH} IS NOT NULL AND {_is_newer(target, window_end="$1")} AND {_differs(target)})
FROM {STAGE} AS s LEFT JOIN {target.base} AS b ON {_same_key(target)}"""


def update_from_stage(target: TargetTable) -> str:
    """Put newer versions in the place of older ones. Rows that do not differ get the newer batch and window."""
    values = ", ".join(f"{column.quoted} = s.{column.quoted}" for column in target.columns)
    return f"""
UPDATE {target.base} AS b SET {values}, {_BATCH} = $2, {_WINDOW} = $1
FROM {STAGE} AS s WHERE {_same_key(target)} AND {_is_newer(target, window_end="$1")}"""


def insert_new_from_stage(target: TargetTable) -> str:
    """Add staged rows whose key is not there."""
    return f"""{_insert(target)}
FROM {STAGE} AS s WHERE NOT EXISTS (SELECT 1 FROM {target.base} AS b WHERE {_same_key(target)})"""


def count_missing_keys(target: TargetTable) -> str:
    """Count staged keys that the base table does not hold: none, after a load."""
    return f"""
SELECT count(*) FROM {STAGE} AS s
WHERE NOT EXISTS (SELECT 1 FROM {target.base} AS b WHERE {_same_key(target)})"""


def insert_all_from_stage(target: TargetTable) -> str:
    """Add every staged row, in the order of the files."""
    return f"{_insert(target)}\nFROM {STAGE} AS s ORDER BY s.{_POSITION}"


def delete_batch(target: TargetTable) -> str:
    """Delete the rows that an earlier load of the batch brought."""
    return f"DELETE FROM {target.base} WHERE {_BATCH} = $1"


def delete_all(target: TargetTable) -> str:
    """Delete every row; readers see them until the transaction ends, which TRUNCATE would not grant."""
    return f"DELETE FROM {target.base}"


def count_gone(target: TargetTable) -> str:
    """Count the rows whose keys were not staged, and all rows."""
    return f"SELECT count(*) FILTER (WHERE {_is_gone(target)}), count(*) FROM {target.base} AS b"


def delete_gone(target: TargetTable) -> str:
    """Delete the rows whose keys were not staged."""
    return f"DELETE FROM {target.base} AS b WHERE {_is_gone(target)}"


def _is_gone(target: TargetTable) -> str:
    """
    Whether the key of a row of the base table was not staged, though the sweep can tell.

    It can of rows that are as of its moment ($1) or earlier and came under the same keys: in these versions of the
    contract ($2).
    """
    return (
        f"b.{_WINDOW} <= $1::timestamp with time zone "
        f"AND b.{_BATCH} IN (SELECT batch_id FROM {LOADS} WHERE contract_version = ANY ($2::integer[])) "
        f"AND NOT EXISTS (SELECT FROM {STAGE} AS s WHERE {_same_key(target)})"
    )


def count_base(target: TargetTable) -> str:
    """Count the rows of the base table."""
    return f"SELECT count(*) FROM {target.base}"


def _insert(target: TargetTable) -> str:
    staged = ", ".join(f"s.{column.quoted}" for column in target.columns)
    return (
        f"INSERT INTO {target.base} ({target.column_list}, {_WINDOW}, {_BATCH})\n"
        f"SELECT {staged}, $1::timestamp with time zone, $2::text"
    )


def _same_key(target: TargetTable) -> str:
    return " AND ".join(f"b.{name} = s.{name}" for name in target.key)


def _is_newer(target: TargetTable, *, window_end: str) -> str:
    """Whether the staged row is at least as new: by cursor, then by the end of the window."""
    by_window = f"{window_end}::timestamp with time zone >= b.{_WINDOW}"
    if target.ordering is None:
        return by_window
    staged, there = f"s.{target.ordering}", f"b.{target.ordering}"
    return (
        f"({staged} > {there} OR ({there} IS NULL AND {staged} IS NOT NULL)"
        f" OR ({staged} IS NOT DISTINCT FROM {there} AND {by_window}))"
    )


def _differs(target: TargetTable) -> str:
    # json has no equality; two texts that differ are two values.
    pairs = [
        f"s.{column.quoted}::text IS DISTINCT FROM b.{column.quoted}::text"
        if column.type == "json"
        else f"s.{column.quoted} IS DISTINCT FROM b.{column.quoted}"
        for column in target.columns
    ]
    return f"({' OR '.join(pairs)})"


# ---- the analysts' view ------------------------------------------------------------------------------------


#: Whether a name is taken in a schema, by what kind of relation, and the comment on it.
FIND_RELATION = """
SELECT c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), ''), c.oid
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2
"""

#: Who may do what with a relation, besides its owner. A grantee without a role is PUBLIC.
FIND_GRANTS = """
SELECT grantee.rolname::text, acl.privilege_type, acl.is_grantable
FROM pg_class c, aclexplode(c.relacl) AS acl LEFT JOIN pg_roles grantee ON grantee.oid = acl.grantee
WHERE c.oid = $1 AND acl.grantee <> c.relowner
ORDER BY 1, 2
"""

_PRIVILEGES = {
    "SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN",
}  # fmt: skip


def create_view(target: TargetTable) -> str:
    """Create or extend the view: the contract's columns in their order, deleted rows left out."""
    visible = f" WHERE {target.deleted_at} IS NULL" if target.deleted_at else ""
    return f"CREATE OR REPLACE VIEW {target.view} AS SELECT {target.column_list} FROM {target.base}{visible}"


def drop_view(target: TargetTable) -> str:
    """Drop the view, if nothing else stands on it."""
    return f"DROP VIEW {target.view}"


def grant(target: TargetTable, *, role: str | None, privilege: str, is_grantable: bool) -> str:
    """Give a role what it had on the view before; PUBLIC if there is no role."""
    if privilege not in _PRIVILEGES:
        raise ValueError(f"expected a privilege on a view, found {privilege!r}")
    grantee = "PUBLIC" if role is None else quote_identifier(role)
    return f"GRANT {privilege} ON {target.view} TO {grantee}" + (" WITH GRANT OPTION" if is_grantable else "")


def comments(target: TargetTable) -> list[str]:
    """Say on base table, view and columns what they are."""
    return [
        f"COMMENT ON TABLE {target.base} IS {quote_text('base of ' + target.comment)}",
        f"COMMENT ON VIEW {target.view} IS {quote_text(target.comment)}",
        *(
            f"COMMENT ON COLUMN {target.view}.{column.quoted} IS {quote_text(column.comment)}"
            for column in target.columns
        ),
    ]


def count_view(source: str, table: str) -> str:
    """Count the rows that analysts see."""
    return f"SELECT count(*) FROM {quote_identifier(source)}.{quote_identifier(table)}"


def copy_view(contract: TableContract, *, window: Window | None, extent: Extent | None = None) -> str:
    """
    Copy what analysts see as CSV, the contract's columns in their order; of bounds, the rows whose cursor lies in them.

    The bounds are written into the text, since COPY binds no values. They are moments in UTC or numbers, nothing else.
    """
    columns = ", ".join(quote_identifier(column.name) for column in contract.output_columns)
    view = f"{quote_identifier(contract.source)}.{quote_identifier(contract.table)}"
    return f"COPY (SELECT {columns} FROM {view}{_within(contract, window, extent)}) TO STDOUT (FORMAT csv)"


def _within(contract: TableContract, window: Window | None, extent: Extent | None) -> str:
    if contract.cursor is None:
        return ""
    bounds: dict[str, str | None] = {}
    if extent is not None:
        # Only numbers go into the text.
        bounds = {
            operator: None if bound is None else str(int(bound))
            for operator, bound in (("<", extent.high), (">=", extent.low))
        }
    elif window is not None:
        has_zone = contract.column(contract.cursor.column).type.kind is ColumnKind.TIMESTAMPTZ
        zone = "+00" if has_zone else ""
        bounds = {
            operator: None if moment is None else quote_text(f"{moment:%Y-%m-%d %H:%M:%S.%f}{zone}")
            for operator, moment in (("<", window.end), (">=", window.start))
        }
    cursor = quote_identifier(contract.cursor.column)
    conditions = [f"{cursor} {operator} {bound}" for operator, bound in bounds.items() if bound is not None]
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""
