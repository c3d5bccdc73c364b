"""
The SQL text around the loads of the Redshift warehouse: tables, views, what the catalogue is asked, and reading back.

What runs outside of a transaction says so: ALTER COLUMN TYPE, and whatever is external.
Source: Amazon Redshift Developer Guide, ALTER TABLE, CREATE EXTERNAL SCHEMA.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.publisher.redshift.names import quote_found, quote_identifier, quote_text
from services.publisher.redshift.plan import Statement
from services.publisher.redshift.statements import MARKER_COLUMNS, PRUNE_MODE
from services.publisher.redshift.target import HIDDEN, REBUILDS_TABLE, Target, incompatible, moment
from services.publisher.redshift.types import TableColumn, typed_column
from services.publisher.warehouse import BASE_SUFFIX, LOADS_COLUMNS, LOADS_VIEW, NativeLoad, Rebuild
from shared.domain.contracts import ColumnKind, DeleteMode, TableContract
from shared.domain.windows import Extent, Window

#: The schema over the Glue database of a source is named like the source and ends so.
LAKE_SUFFIX = "__lake"


# ---- schemas and the tables of ours ------------------------------------------------------------------------


#: How many relations `find_house` finds once all are there.
HOUSE_SIZE = 4


def create_house(target: Target, *, analysts_role: str) -> list[Statement]:
    """Create what loads of a table stand on, unless it is there: schemas, markers and their view, and the table's turn."""
    texts = [
        f"CREATE SCHEMA IF NOT EXISTS {target.view_schema}",
        f"CREATE SCHEMA IF NOT EXISTS {target.base_schema}",
        *(_let_read(target, analysts_role) if analysts_role else []),
        f"CREATE TABLE IF NOT EXISTS {target.loads} ({', '.join(_LOADS)}) DISTSTYLE AUTO",
        f"CREATE TABLE IF NOT EXISTS {target.rebuilds} ({', '.join(_REBUILDS)}) DISTSTYLE AUTO",
        _create_turn(target),
        _create_loads_view(target),
    ]
    return [Statement("create what loads stand on", text, touches_rows=False) for text in texts]


def _create_turn(target: Target) -> str:
    return f'CREATE TABLE IF NOT EXISTS {target.turn} ("turn" BIGINT NOT NULL ENCODE RAW) DISTSTYLE ALL'


def _let_read(target: Target, role: str) -> list[str]:
    """Let a role read what is in the schema of a source, and whatever will be; of base tables it needs nothing."""
    reader = f"ROLE {quote_found(role)}"
    return [
        f"GRANT USAGE ON SCHEMA {target.view_schema} TO {reader}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {target.view_schema} TO {reader}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {target.view_schema} GRANT SELECT ON TABLES TO {reader}",
    ]


_LOADS = (
    "batch_id VARCHAR(64) NOT NULL ENCODE ZSTD",
    "source VARCHAR(128) NOT NULL ENCODE ZSTD",
    "table_name VARCHAR(512) NOT NULL ENCODE ZSTD",
    "mode VARCHAR(16) NOT NULL ENCODE ZSTD",
    "slot VARCHAR(256) NOT NULL ENCODE ZSTD",
    "window_start TIMESTAMPTZ ENCODE AZ64",
    "window_end TIMESTAMPTZ NOT NULL ENCODE AZ64",
    "contract_version INTEGER NOT NULL ENCODE AZ64",
    "publish_attempt INTEGER NOT NULL ENCODE AZ64",
    "manifest_sha256 CHAR(64) NOT NULL ENCODE ZSTD",
    "rows_staged BIGINT NOT NULL ENCODE AZ64",
    "rows_inserted BIGINT NOT NULL ENCODE AZ64",
    "rows_updated BIGINT NOT NULL ENCODE AZ64",
    "rows_unchanged BIGINT NOT NULL ENCODE AZ64",
    "rows_deleted BIGINT NOT NULL ENCODE AZ64",
    # In UTC: SYSDATE is a TIMESTAMP. Source: Amazon Redshift Developer Guide, SYSDATE.
    "loaded_at TIMESTAMP NOT NULL DEFAULT SYSDATE ENCODE AZ64",
)

_REBUILDS = (
    "id VARCHAR(128) NOT NULL ENCODE ZSTD",
    "table_name VARCHAR(512) NOT NULL ENCODE ZSTD",
    "turn BIGINT NOT NULL ENCODE AZ64",
    "is_held BOOLEAN NOT NULL ENCODE RAW",
    "row_count BIGINT NOT NULL ENCODE AZ64",
)


def _create_loads_view(target: Target) -> str:
    """Show what is loaded beside the analysts' tables, in the columns of `LOADS_COLUMNS`."""
    told = {
        "row_count": "rows_staged",
        "loaded_at": "loaded_at AT TIME ZONE 'UTC'",
        "delay_seconds": "CAST(EXTRACT(EPOCH FROM loaded_at) "
        "- EXTRACT(EPOCH FROM window_end AT TIME ZONE 'UTC') AS BIGINT)",
        "is_gapless": f"MIN(follows) OVER ({_BY_WINDOW} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) = 1",
        "is_rolled_back": "COALESCE(is_held, FALSE)",
    }
    shown = ", ".join(f'{told.get(name, name)} AS "{name}"' for name in LOADS_COLUMNS)
    newest = (
        "SELECT *, ROW_NUMBER() OVER (PARTITION BY batch_id ORDER BY publish_attempt DESC, loaded_at DESC) AS n "
        f"FROM {target.loads}"
    )
    held = (
        "SELECT table_name AS held_table, is_held, ROW_NUMBER() OVER (PARTITION BY table_name ORDER BY turn DESC) AS r "
        f"FROM {target.rebuilds}"
    )
    # A key sweep reads keys alone: it fills no gap, and is none.
    ends = f"CASE WHEN mode <> {quote_text(PRUNE_MODE)} THEN window_end END"
    before = f"MAX({ends}) OVER ({_BY_WINDOW} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    follows = (
        f"CASE WHEN mode <> {quote_text(PRUNE_MODE)} AND window_start > {before} THEN 0 ELSE 1 END AS follows"
    )
    return (
        f"CREATE OR REPLACE VIEW {target.loads_view} AS SELECT {shown} FROM (SELECT l.*, h.is_held, {follows} "
        f"FROM ({newest}) AS l LEFT JOIN ({held}) AS h ON h.held_table = l.table_name AND h.r = 1 "
        "WHERE l.n = 1) AS marked WITH NO SCHEMA BINDING"
    )


# Redshift wants a frame wherever an aggregate has an order.
_BY_WINDOW = "PARTITION BY table_name ORDER BY window_end, window_start, batch_id"


# ---- the base table ----------------------------------------------------------------------------------------


def create_base(target: Target) -> Statement:
    """Create the base table: the contract's columns and two hidden ones, sorted and spread as the contract says."""
    columns = ", ".join(_column(column, target) for column in (*target.table_columns, *HIDDEN))
    spread = f"DISTSTYLE KEY DISTKEY ({target.dist_key})" if target.dist_key else "DISTSTYLE AUTO"
    order = f" COMPOUND SORTKEY ({', '.join(target.sort_key)})" if target.sort_key else ""
    return Statement(
        "create the base table",
        f"CREATE TABLE {target.base} ({columns}) {spread}{order}",
        touches_rows=False,
    )


def _column(column: TableColumn, target: Target) -> str:
    # The first column of a sort key stays as it is: blocks are found by it.
    # Source: Amazon Redshift Developer Guide, "Compression encodings".
    encoding = "RAW" if target.sort_key and column.quoted == target.sort_key[0] else column.encoding
    return f"{column.quoted} {column.ddl_type} ENCODE {encoding}"


def add_column(target: Target, column: TableColumn) -> Statement:
    """Add a column; Redshift adds one at a time. Rows that are there have NULL in it."""
    return Statement(
        "add a column",
        f"ALTER TABLE {target.base} ADD COLUMN {column.quoted} {column.ddl_type} ENCODE {column.encoding}",
        touches_rows=False,
    )


def widen_column(target: Target, column: TableColumn) -> Statement:
    """Make a VARCHAR longer. Not in a transaction."""
    return Statement(
        "widen a column",
        f"ALTER TABLE {target.base} ALTER COLUMN {column.quoted} TYPE {column.ddl_type}",
        touches_rows=False,
    )


def comment_table(target: Target) -> Statement:
    """Say on the base table what it is."""
    text = quote_text(target.base_comment)
    return Statement("comment", f"COMMENT ON TABLE {target.base} IS {text}", touches_rows=False)


def comment_column(target: Target, quoted: str, comment: str) -> Statement:
    """Say on a column of the base table what its values are."""
    return Statement(
        "comment",
        f"COMMENT ON COLUMN {target.base}.{quoted} IS {quote_text(comment)}",
        touches_rows=False,
    )


# ---- a table made anew --------------------------------------------------------------------------------------


def create_scratch(target: Target, scratch: Target) -> list[Statement]:
    """Create what a state is put together in, like the table itself. What an earlier try left goes first."""
    texts = [
        f"CREATE TABLE {scratch.base} (LIKE {target.base})",
        f"CREATE TABLE {scratch.loads} ({', '.join(_LOADS)}) DISTSTYLE AUTO",
        _create_turn(scratch),
    ]
    created = [
        Statement("create what the state is put together in", text, touches_rows=False) for text in texts
    ]
    return [*drop_scratch(scratch), *created]


def drop_scratch(scratch: Target) -> list[Statement]:
    """Drop what a state was put together in."""
    return [
        Statement(
            "drop what the state was put together in", f"DROP TABLE IF EXISTS {name}", touches_rows=False
        )
        for name in (scratch.base, scratch.loads, scratch.turn)
    ]


def insert_scratch(target: Target, scratch: Target, columns: Sequence[str]) -> Statement:
    """Fill the table with the state that was put together. `columns`: all of the table's, quoted."""
    listed = ", ".join(columns)
    return Statement(
        "insert the state", f"INSERT INTO {target.base} ({listed}) SELECT {listed} FROM {scratch.base}"
    )


def delete_markers(target: Target, batch_ids: Sequence[str]) -> Statement:
    """Delete the markers of batches."""
    listed = ", ".join(map(quote_text, batch_ids))
    return Statement(
        "delete the markers", f"DELETE FROM {target.loads} WHERE batch_id IN ({listed})", touches_rows=False
    )


def insert_scratch_markers(target: Target, scratch: Target) -> Statement:
    """Set the markers of the batches that the state was put together of."""
    listed = f"{MARKER_COLUMNS}, loaded_at"
    return Statement(
        "set the markers",
        f"INSERT INTO {target.loads} ({listed}) SELECT {listed} FROM {scratch.loads}",
        touches_rows=False,
    )


def save_rebuild(target: Target, rebuild: Rebuild, *, turn: int) -> Statement:
    """Say that the table was made anew, and whether it is held as it is now."""
    values = [quote_text(rebuild.id), quote_text(target.table), str(turn), str(rebuild.is_held).upper()]
    return Statement(
        "say that it was done",
        f"INSERT INTO {target.rebuilds} (id, table_name, turn, is_held, row_count) "
        f"SELECT {', '.join(values)}, COUNT(*) FROM {target.base}",
    )


def find_rebuild(target: Target, rebuild_id: str) -> Statement:
    """Whether a rebuild was done, and how many rows the table had then."""
    return Statement(
        "look for the rebuild",
        f"SELECT row_count FROM {target.rebuilds} WHERE id = :id AND table_name = :table",
        parameters={"id": rebuild_id, "table": target.table},
        touches_rows=False,
    )


# ---- the analysts' view ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """What somebody may do with a view."""

    privilege: str
    name: str
    #: `user`, `group`, `role` or `public`.
    kind: str
    is_grantable: bool


_PRIVILEGES = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "REFERENCES", "DROP", "ALTER", "TRUNCATE"})


def show_view(target: Target, grants: Iterable[Grant]) -> list[Statement]:
    """
    Make the view anew: the contract's columns in their order, deleted rows left out, with what was granted on it.

    Redshift replaces a view only by one of the same columns, so it is dropped and created, in one transaction.
    Source: Amazon Redshift Developer Guide, CREATE VIEW.
    """
    columns = ", ".join(column.quoted for column in target.columns)
    visible = f" WHERE {target.deleted_at} IS NULL" if target.deleted_at else ""
    created = (
        f"CREATE VIEW {target.view} AS SELECT {columns} FROM {target.base}{visible} WITH NO SCHEMA BINDING"
    )
    comment = f"COMMENT ON VIEW {target.view} IS {quote_text(target.comment)}"
    texts = [f"DROP VIEW IF EXISTS {target.view}", created, comment, *_grants(target, grants)]
    return [Statement("show the view", text, touches_rows=False) for text in texts]


def _grants(target: Target, grants: Iterable[Grant]) -> list[str]:
    """Gather grants, so that they take few statements however many people have them."""
    gathered: dict[tuple[str, str, bool], list[str]] = {}
    for grant in grants:
        privilege = grant.privilege.upper()
        if privilege not in _PRIVILEGES:
            raise incompatible(target.name, f"a privilege on its view that is not known: {grant.privilege!r}")
        gathered.setdefault((privilege, grant.kind, grant.is_grantable), []).append(grant.name)
    return [
        f"GRANT {privilege} ON {target.view} TO {_grantees(kind, names)}"
        + (" WITH GRANT OPTION" if is_grantable else "")
        for (privilege, kind, is_grantable), names in sorted(gathered.items())
    ]


def _grantees(kind: str, names: Sequence[str]) -> str:
    if kind == "public":
        return "PUBLIC"
    word = {"user": "", "group": "GROUP ", "role": "ROLE "}[kind]
    return ", ".join(f"{word}{quote_found(name)}" for name in sorted(names))


# ---- what the catalogue is asked ---------------------------------------------------------------------------


def find_columns(names: Mapping[str, str]) -> Statement:
    """The columns of a base table in their order, as `format_type` names their types, with their comments."""
    return Statement(
        "look at the columns",
        "SELECT a.attname, FORMAT_TYPE(a.atttypid, a.atttypmod), COALESCE(d.description, '') "
        "FROM pg_attribute AS a INNER JOIN pg_class AS c ON c.oid = a.attrelid "
        "INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "LEFT JOIN pg_description AS d ON d.objoid = c.oid AND d.objsubid = a.attnum "
        "WHERE n.nspname = :schema AND c.relname = :table AND a.attnum > 0 AND NOT a.attisdropped "
        "ORDER BY a.attnum",
        parameters=dict(names),
        touches_rows=False,
    )


def find_relation(names: Mapping[str, str]) -> Statement:
    """Whether a name is taken in a schema, by what kind of relation, and the comment on it."""
    return Statement(
        "look for a relation",
        "SELECT CAST(c.relkind AS VARCHAR(1)), COALESCE(d.description, '') "
        "FROM pg_class AS c INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "LEFT JOIN pg_description AS d ON d.objoid = c.oid AND d.objsubid = 0 "
        "WHERE n.nspname = :schema AND c.relname = :table",
        parameters=dict(names),
        touches_rows=False,
    )


def find_house(target: Target) -> Statement:
    """Which of what loads of a table stand on are there: three tables and a view of ours."""
    return Statement(
        "look for what loads stand on",
        "SELECT c.relname, CAST(c.relkind AS VARCHAR(1)) "
        "FROM pg_class AS c INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname IN (:views, :bases) AND c.relname IN (:loads, :rebuilds, :turn)",
        parameters={
            "views": target.view_names["schema"],
            "bases": target.base_names["schema"],
            "loads": LOADS_VIEW,
            "rebuilds": REBUILDS_TABLE,
            "turn": target.turn_name,
        },
        touches_rows=False,
    )


def find_grants(names: Mapping[str, str]) -> Statement:
    """Who may do what with a view, besides its owner."""
    # Source: Amazon Redshift Developer Guide, SVV_RELATION_PRIVILEGES.
    return Statement(
        "look for grants",
        "SELECT privilege_type, identity_name, identity_type, admin_option FROM svv_relation_privileges "
        "WHERE namespace_name = :schema AND relation_name = :table",
        parameters=dict(names),
        touches_rows=False,
    )


def find_state(target: Target, load: NativeLoad, *, prune_mode: str) -> Statement:
    """
    How far a table is, in one snapshot: its turn, the newest window of other batches, the newest contract, tables that
    are called like it but for case, what holds it at an earlier state, and the marker of the batch.
    """
    marker = "publish_attempt, manifest_sha256, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_deleted"
    shown = ", ".join(f"m.{name}" for name in marker.split(", "))
    return Statement(
        "look how far the table is",
        f'SELECT t."turn", CAST(o.newest_window_end AS VARCHAR(40)), o.newest_contract, o.others, h.held_by, {shown} '
        f'FROM (SELECT COALESCE(MAX("turn"), 0) AS "turn" FROM {target.turn}) AS t '
        "CROSS JOIN (SELECT "
        f"MAX(CASE WHEN batch_id <> :batch AND table_name = :table AND mode <> '{prune_mode}' "
        "THEN window_end END) AT TIME ZONE 'UTC' AS newest_window_end, "
        f"MAX(CASE WHEN table_name = :table AND mode <> '{prune_mode}' THEN contract_version END) AS newest_contract, "
        "SUM(CASE WHEN LOWER(table_name) = LOWER(:table) AND table_name <> :table THEN 1 ELSE 0 END) AS others "
        f"FROM {target.loads}) AS o "
        "LEFT JOIN (SELECT CASE WHEN is_held THEN id END AS held_by "
        f"FROM {target.rebuilds} WHERE table_name = :table ORDER BY turn DESC LIMIT 1) AS h ON 1 = 1 "
        f"LEFT JOIN (SELECT {marker} FROM {target.loads} WHERE batch_id = :batch "
        "ORDER BY publish_attempt DESC, loaded_at DESC LIMIT 1) AS m ON 1 = 1",
        parameters={"batch": load.batch_id, "table": load.contract.table},
        touches_rows=False,
    )


# ---- reading back ------------------------------------------------------------------------------------------


def count_view(source: str, table: str) -> Statement:
    """Count the rows that analysts see."""
    view = f"{quote_identifier(source)}.{quote_identifier(table)}"
    return Statement("count the rows", f"SELECT COUNT(*) FROM {view}", touches_rows=False)


def read_base(contract: TableContract, window: Window | None, extent: Extent | None) -> Statement:
    """
    Read what analysts see, the contract's columns in their order; of bounds, the rows whose cursor lies in them.

    From the base table, which has the exact text of JSON beside what it means; deleted rows are left out as in the view.
    """
    where = f"{contract.source}.{contract.table}"
    columns = [typed_column(column, longest_in_bytes=0, where=where) for column in contract.output_columns]
    values = ", ".join(_read_value(column.text, column.kind) for column in columns)
    conditions = _within(contract, window, extent)
    if contract.deletes.mode is DeleteMode.SOFT:
        conditions.append(f"{quote_identifier(contract.deletes.column)} IS NULL")
    base = f"{quote_identifier(contract.source + BASE_SUFFIX)}.{quote_identifier(contract.table)}"
    bounds = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return Statement("read the rows back", f"SELECT {values} FROM {base}{bounds}")


def _read_value(quoted: str, kind: ColumnKind) -> str:
    # Bytes have no form of their own in the answers of the Data API that is documented.
    return f"FROM_VARBYTE({quoted}, 'hex')" if kind is ColumnKind.BINARY else quoted


def _within(contract: TableContract, window: Window | None, extent: Extent | None) -> list[str]:
    if contract.cursor is None:
        return []
    cursor = quote_identifier(contract.cursor.column)
    if extent is not None:
        # Only numbers go into the text.
        bounds = {"<": extent.high, ">=": extent.low}
        return [f"{cursor} {sign} {int(bound)}" for sign, bound in bounds.items() if bound is not None]
    if window is None:
        return []
    kind = contract.column(contract.cursor.column).type.kind
    moments = {"<": window.end, ">=": window.start}
    return [
        f"{cursor} {sign} {moment(bound) if kind is ColumnKind.TIMESTAMPTZ else _naive(bound)}"
        for sign, bound in moments.items()
        if bound is not None
    ]


def _naive(bound: datetime) -> str:
    return f"CAST('{bound:%Y-%m-%d %H:%M:%S.%f}' AS TIMESTAMP)"


# ---- the lake ----------------------------------------------------------------------------------------------


def lake_schema(source: str) -> str:
    """Return the schema over the Glue database of a source, quoted."""
    return quote_identifier(source + LAKE_SUFFIX)


def create_lake_schema(source: str, *, database: str, role_arn: str, region: str) -> Statement:
    """Create the schema over the Glue database of a source. Not in a transaction."""
    return Statement(
        "create the external schema",
        f"CREATE EXTERNAL SCHEMA IF NOT EXISTS {lake_schema(source)} FROM DATA CATALOG "
        f"DATABASE {quote_text(database)} REGION {quote_text(region)} IAM_ROLE {quote_text(role_arn)}",
        touches_rows=False,
    )
