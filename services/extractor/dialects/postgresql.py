"""
PostgreSQL: the fate of every type, carried as itself or as the text that the server makes of it, and the SQL to say so.

Text comes from the server: measured over 48 types, drivers changed values of seven of them (`date 'infinity'` became
today), while the server's own text was exact for all. Settings of the session decide how that text looks, so every
session of ours begins with `SESSION_SETTINGS`.

The native reader takes each value by its type's output function, as COPY writes it. Through other drivers the same
function is had by `concat`, since a cast to text changes values: `character(5)` would lose its trailing blanks, `inet`
addresses would gain a `/32`.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from services.extractor.dialects import (
    Carriage,
    CsvField,
    DialectName,
    Fate,
    QueryDescription,
    Statement,
)
from services.extractor.dialects.holding import holds
from shared.domain.contracts import MAX_DECIMAL_PRECISION, STRING, ColumnKind, ColumnType

#: Set in each session that reads, so that one value has one text, whatever server, role or database says.
SESSION_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "DateStyle": "ISO, YMD",
        "TimeZone": "UTC",
        "IntervalStyle": "iso_8601",
        "bytea_output": "hex",
        # The shortest text that reads back as the same float. Source: PostgreSQL documentation, 8.1.3.
        "extra_float_digits": "1",
        # A query of a source file is read by this rule.
        "standard_conforming_strings": "on",
    }
)

_COLUMNS = """
SELECT a.attname AS name,
       CASE
           WHEN home.nspname = 'pg_catalog' THEN pg_catalog.format_type(plain.oid, plain.modifier)
           ELSE pg_catalog.quote_ident(home.nspname) || '.' || pg_catalog.quote_ident(item.typname)
                || CASE WHEN item.oid <> plain.oid THEN '[]' ELSE '' END
       END AS source_type,
       {nullable} AS nullable
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_type AS declared ON declared.oid = a.atttypid
CROSS JOIN LATERAL (
    SELECT CASE WHEN declared.typtype = 'd' THEN declared.typbasetype ELSE a.atttypid END AS oid,
           CASE WHEN declared.typtype = 'd' THEN declared.typtypmod ELSE a.atttypmod END AS modifier
) AS plain
JOIN pg_catalog.pg_type AS base ON base.oid = plain.oid
JOIN pg_catalog.pg_type AS item
    ON item.oid = CASE WHEN base.typcategory = 'A' AND base.typelem <> 0 THEN base.typelem ELSE base.oid END
JOIN pg_catalog.pg_namespace AS home ON home.oid = item.typnamespace
WHERE n.nspname = {schema}
  AND c.relname = {name}
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND a.attnum > 0
  AND NOT a.attisdropped
ORDER BY a.attnum
"""

#: The columns of one table or view, with the words for their types that `fate_of` reads and contracts keep.
#: Parameters: `schema`, `name`. No row: no such relation, or one without columns.
#: `format_type` leaves the schema out where the search path leads to it, so types that are not PostgreSQL's
#: own are named here by schema and name. A domain counts as the type below it: its values are that type's.
DESCRIBE_COLUMNS = _COLUMNS.format(
    schema="%(schema)s", name="%(name)s", nullable="NOT (a.attnotnull OR declared.typnotnull)"
)

_DESCRIBE_COLUMNS_AS_TEXT = _COLUMNS.format(
    schema="?", name="?", nullable="CASE WHEN a.attnotnull OR declared.typnotnull THEN '0' ELSE '1' END"
)

# LOCK asks for the right to read the whole table: who may read some columns only gets none, and is told by the kind.
_TABLE = """
SELECT CASE WHEN c.relkind IN ('r', 'p') THEN 'table' WHEN c.relkind = 'v' THEN 'view'
            WHEN c.relkind = 'm' THEN 'materialized view' ELSE 'foreign table' END
       || CASE WHEN pg_catalog.has_table_privilege(c.oid, 'SELECT') THEN '' ELSE ' of which some columns may be read' END
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ? AND c.relname = ? AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

_TABLES = """
SELECT n.nspname, c.relname,
       CASE WHEN c.relkind IN ('r', 'p') THEN 'table' WHEN c.relkind = 'v' THEN 'view'
            WHEN c.relkind = 'm' THEN 'materialized view' ELSE 'foreign table' END
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY n.nspname, c.relname
"""

#: The columns of each unique index over whole columns that are never NULL, the primary key first, then the smallest.
#: Parameters: `schema`, `name`.
UNIQUE_KEYS = """
SELECT ARRAY(SELECT a.attname::text
             FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, position)
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.position <= i.indnkeyatts ORDER BY k.position) AS columns
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(name)s
  AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND NOT EXISTS (SELECT FROM unnest(i.indkey::smallint[]) AS k(attnum)
                  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                  WHERE NOT a.attnotnull)
ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid
"""

_KEY = """
SELECT a.attname
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS part (number, position)
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = part.number
WHERE i.indisprimary AND n.nspname = ? AND c.relname = ?
ORDER BY part.position
"""

# The row of a join with nothing: all columns of a query, NULL and typed, and none of its rows is looked for.
_NO_ROW_OF = "SELECT q.* FROM (SELECT 1) AS nothing LEFT JOIN ({}) AS q ON FALSE"

# A domain counts as the type below it, as in `_COLUMNS`. Expressions have no digits, so no column of a query has.
_DESCRIBE_QUERY = """
SELECT described.name,
       CASE
           WHEN home.nspname = 'pg_catalog' THEN pg_catalog.format_type(plain.oid, NULL)
           ELSE pg_catalog.quote_ident(home.nspname) || '.' || pg_catalog.quote_ident(item.typname)
                || CASE WHEN item.oid <> plain.oid THEN '[]' ELSE '' END
       END AS source_type,
       '1' AS nullable
FROM (
    SELECT pg_catalog.unnest(ARRAY[{names}]::pg_catalog.text[]) AS name,
           pg_catalog.unnest(ARRAY[{types}]::pg_catalog.oid[]) AS oid,
           pg_catalog.generate_series(1, {count}) AS position
    FROM ({row}) AS z
) AS described
JOIN pg_catalog.pg_type AS declared ON declared.oid = described.oid
CROSS JOIN LATERAL (
    SELECT CASE WHEN declared.typtype = 'd' THEN declared.typbasetype ELSE declared.oid END AS oid
) AS plain
JOIN pg_catalog.pg_type AS base ON base.oid = plain.oid
JOIN pg_catalog.pg_type AS item
    ON item.oid = CASE WHEN base.typcategory = 'A' AND base.typelem <> 0 THEN base.typelem ELSE base.oid END
JOIN pg_catalog.pg_namespace AS home ON home.oid = item.typnamespace
ORDER BY described.position
"""

_ISO_IN_UTC = """pg_catalog.to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US')"""

# What a standby has replayed is all it can show, so its clock is that of the last commit it has seen.
# The start of the statement lies before its snapshot; a clock read later would promise commits unseen.
_CLOCK = "SELECT " + _ISO_IN_UTC.format(
    "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_xact_replay_timestamp() "
    "ELSE pg_catalog.statement_timestamp() END"
)

# Of other roles' sessions a role sees nothing but that they are there, unless it may read all statistics: no row then.
_OLDEST_OPEN_TRANSACTION = (
    "SELECT "
    + _ISO_IN_UTC.format("pg_catalog.min(started)")
    + """
FROM (
    SELECT a.xact_start AS started
    FROM pg_catalog.pg_stat_activity AS a
    WHERE a.datname = pg_catalog.current_database() AND a.backend_xid IS NOT NULL
    UNION ALL
    SELECT p.prepared FROM pg_catalog.pg_prepared_xacts AS p WHERE p.database = pg_catalog.current_database()
) AS open_ones
HAVING pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
"""
)

_EXACT = {
    "boolean": ColumnKind.BOOLEAN,
    "smallint": ColumnKind.INT16,
    "integer": ColumnKind.INT32,
    "bigint": ColumnKind.INT64,
    "real": ColumnKind.FLOAT32,
    "double precision": ColumnKind.FLOAT64,
    "text": ColumnKind.STRING,
    "character varying": ColumnKind.STRING,
    "character": ColumnKind.STRING,
    "date": ColumnKind.DATE,
    "timestamp without time zone": ColumnKind.TIMESTAMP,
    "timestamp with time zone": ColumnKind.TIMESTAMPTZ,
    "json": ColumnKind.JSON,
    "jsonb": ColumnKind.JSON,
    "bytea": ColumnKind.BINARY,
}

_BEYOND_OURS = "infinity, years BC and above 9999 become rejected rows; as `string` they arrive"
_MAY_BE_DECIMAL = "may be declared as any decimal: what does not fit is rejected"
_NOTES = {
    "date": _BEYOND_OURS,
    "timestamp without time zone": _BEYOND_OURS,
    "timestamp with time zone": _BEYOND_OURS,
    "numeric": _MAY_BE_DECIMAL,
    "character": "with its trailing blanks",
    "jsonb": "as the server writes it: it keeps neither blanks nor the order of keys",
    "interval": "ISO 8601",
}

# As `format_type` writes them: the digits stand after the first word, as in `timestamp(3) with time zone`.
_TYPE = re.compile(
    r"(?P<head>[a-z]+(?: [a-z]+)*?)(?:\((?P<first>\d+)(?:,(?P<second>-?\d+))?\))?(?P<tail>(?: [a-z]+)*)"
)

# The longest texts of types whose digits are bounded: 294276-12-31 23:59:59.999999+00 and 4713-01-01 … BC, an
# IPv6 address with its prefix, a year-long interval in ISO 8601.
_MAX_OCTETS = {
    "boolean": 5,
    "smallint": 6,
    "integer": 11,
    "bigint": 20,
    "real": 16,
    "double precision": 25,
    "date": 20,
    "timestamp without time zone": 40,
    "timestamp with time zone": 50,
    "time without time zone": 20,
    "time with time zone": 40,
    "interval": 160,
    "uuid": 36,
    "inet": 50,
    "cidr": 50,
    "macaddr": 20,
    "oid": 10,
}
#: The point, a sign, and a zero before the point.
_DECIMAL_OVERHEAD = 3
MAX_CHARACTER_SIZE_IN_BYTES = 4

# A cast says what their output function says.
_CAST_KINDS = frozenset(
    {
        ColumnKind.BOOLEAN,
        ColumnKind.INT16,
        ColumnKind.INT32,
        ColumnKind.INT64,
        ColumnKind.FLOAT32,
        ColumnKind.FLOAT64,
        ColumnKind.DECIMAL,
        ColumnKind.DATE,
        ColumnKind.TIMESTAMP,
        ColumnKind.TIMESTAMPTZ,
        ColumnKind.JSON,
        ColumnKind.BINARY,
    }
)

#: A function has at most so many arguments. Source: PostgreSQL documentation, appendix K "PostgreSQL Limits".
MAX_ARGUMENTS = 100
MAX_NAME_SIZE_IN_BYTES = 63


class PostgresqlDialect:
    """The SQL of PostgreSQL. See `Dialect`."""

    name = DialectName.POSTGRESQL
    begins_by_statement = True

    def quote(self, name: str) -> str:
        """
        Return a name in double quotes.

        >>> PostgresqlDialect().quote('odd"name')
        '"odd""name"'
        """
        if not name or "\0" in name or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_SIZE_IN_BYTES:
            raise ValueError(
                f"expected a name of 1 to {MAX_NAME_SIZE_IN_BYTES} bytes without NUL, found {name!r}"
            )
        return '"' + name.replace('"', '""') + '"'

    def fate_of(self, source_type: str) -> Fate:
        """Return what becomes of a type; see `Dialect`."""
        return fate_of(source_type)

    def can_carry(self, source_type: str, declared: ColumnType) -> bool:
        """Return whether a contract may declare this type; see `Dialect`."""
        return can_carry(source_type, declared)

    def text_of(self, quoted_name: str, source_type: str) -> str:
        """
        Return the expression of a column's text; see `Dialect`.

        `IS NULL` would take a composite of NULLs for none; compared by `IS DISTINCT FROM`, it is one.
        """
        plain, _ = _plain(source_type)
        if fate_of(source_type).type.kind in _CAST_KINDS or plain in {"text", "character varying"}:
            return f"{quoted_name}::pg_catalog.text"
        return f"CASE WHEN {quoted_name} IS DISTINCT FROM NULL THEN pg_catalog.concat({quoted_name}) END"

    def session_settings(self, *, statement_timeout_seconds: int, lock_timeout_seconds: int) -> Sequence[str]:
        """Return the settings of a session; see `Dialect`."""
        settings = {
            **SESSION_SETTINGS,
            "client_encoding": "UTF8",
            "statement_timeout": f"{statement_timeout_seconds}s",
            "lock_timeout": f"{lock_timeout_seconds}s",
            "idle_in_transaction_session_timeout": f"{statement_timeout_seconds}s",
            # A policy that hides rows then raises an error, instead of hiding them from the counts as well.
            "row_security": "off",
        }
        return [f"SET {name} = '{value}'" for name, value in settings.items()]

    def begin_snapshot(self) -> Sequence[str]:
        """Begin a transaction; its snapshot is taken by the first query, so that `hold` may come before it."""
        return ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"]

    def hold(self, schema: str, name: str, kind: str) -> Sequence[str]:
        """Lock a table or view. PostgreSQL has no lock for the other kinds; there the fingerprints have to do."""
        if kind not in {"table", "view"}:
            return []
        return [f"LOCK TABLE {self.quote(schema)}.{self.quote(name)} IN ACCESS SHARE MODE"]

    def end_snapshot(self) -> Sequence[str]:
        """End the transaction."""
        return ["COMMIT"]

    def clock(self) -> Statement:
        """Return the query of the server's clock; of a standby, that of the last commit it has replayed."""
        return Statement(_CLOCK)

    def oldest_open_transaction(self) -> Statement:
        """Return the query of the oldest open transaction; no row if the role may not see those of others."""
        return Statement(_OLDEST_OPEN_TRANSACTION)

    def tables(self) -> Statement:
        """Return the query of all tables and views; see `Dialect`."""
        return Statement(_TABLES)

    def table(self, schema: str, name: str) -> Statement:
        """Return the query of one table's kind; see `Dialect`."""
        return Statement(_TABLE, (schema, name))

    def columns(self, schema: str, name: str) -> Statement:
        """Return the query of a table's columns; see `Dialect`."""
        return Statement(_DESCRIBE_COLUMNS_AS_TEXT, (schema, name))

    def key(self, schema: str, name: str) -> Statement:
        """Return the query of a table's primary key; see `Dialect`."""
        return Statement(_KEY, (schema, name))

    @property
    def holds_tables_late(self) -> bool:
        """Yes. Source: PostgreSQL documentation, 13.6 "Caveats"."""
        return True

    def names_of_query(self, query: str) -> Statement:
        """Return a query of the names of a query's columns, those too that stand twice."""
        row = _NO_ROW_OF.format(query)
        return Statement(f"SELECT pg_catalog.json_object_keys(pg_catalog.row_to_json(z)) FROM ({row}) AS z")

    def describe_query(self, query: str, names: Sequence[str]) -> QueryDescription:
        """Return how to ask for the types of a query's columns; see `Dialect`."""
        described = _DESCRIBE_QUERY.format(
            names=", ".join("'" + name.replace("'", "''") + "'" for name in names),
            types=", ".join(f"pg_catalog.pg_typeof(z.{self.quote(name)})" for name in names),
            count=len(names),
            row=_NO_ROW_OF.format(query),
        )
        return QueryDescription(Statement(described))

    def some_of(self, expressions: str, relation: str, *, count: int) -> Statement:
        """Return a query of some rows; see `Dialect`."""
        return Statement(f"SELECT {expressions} FROM {relation} LIMIT {count}")

    def parameter(self, source_type: str) -> str:
        """
        Return the placeholder for values of a type, without its digits: a cast to `varchar(10)` cuts.

        >>> PostgresqlDialect().parameter("timestamp(3) with time zone")
        'CAST(? AS timestamp with time zone)'
        """
        plain, _ = _plain(source_type)
        return f"CAST(? AS {'pg_catalog.bpchar' if plain == 'character' else plain})"

    def in_no_window(self, quoted_name: str, source_type: str) -> str:
        """Return the condition for moments at infinity."""
        if fate_of(source_type).type.kind in {ColumnKind.DATE, ColumnKind.TIMESTAMP, ColumnKind.TIMESTAMPTZ}:
            return f"{quoted_name} IN ('infinity', '-infinity')"
        return ""

    def record_of(self, fields: Sequence[CsvField]) -> str:
        """Return the expression of a record. `concat` leaves NULL out, which is how our CSV writes it."""
        parts: list[str] = []
        for field in fields:
            if parts:
                parts.append("','")
            # Of a NULL the whole becomes NULL.
            quoted = f"""('"' || pg_catalog.replace({field.text}, '"', '""') || '"')"""
            parts.append(field.text if field.is_plain else quoted)
        return _concat([*parts, "pg_catalog.chr(10)"])

    def cell_of(self, quoted_name: str, bits: int) -> str:
        """Return the expression of a number without its lowest bits."""
        return f"({quoted_name}::pg_catalog.int8 >> {bits})"

    def hash_of(self, fields: Sequence[CsvField]) -> str:
        """Return the MD5 of the record in our CSV, where NULL, '' and 'NULL' are three things."""
        return f"pg_catalog.md5({self.record_of(fields)})"

    def quarters_of(self, hashed: str) -> Sequence[str]:
        """Return the four sums; see `Dialect`."""
        return [
            f"pg_catalog.sum(('x' || pg_catalog.substr({hashed}, {start}, 8))::bit(32)::pg_catalog.int8)::pg_catalog.text"
            for start in (1, 9, 17, 25)
        ]

    def octets_of(self, text: str) -> str:
        """Return the expression of a text's bytes; a character of another encoding has at most three times as many."""
        size = f"pg_catalog.octet_length({text})"
        return f"CASE WHEN pg_catalog.getdatabaseencoding() = 'UTF8' THEN {size} ELSE {size} * 3 END"

    def max_octets_of(self, source_type: str) -> int | None:
        """Return how long the text of a type can be; see `Dialect`."""
        plain, digits = _plain(source_type)
        if plain in _MAX_OCTETS:
            return _MAX_OCTETS[plain]
        if digits is None:
            return None
        if plain in {"character", "character varying"}:
            return digits * MAX_CHARACTER_SIZE_IN_BYTES
        if fate_of(source_type).type.kind is ColumnKind.DECIMAL:
            return digits + _DECIMAL_OVERHEAD
        return None


def fate_of(source_type: str) -> Fate:
    """
    Return what becomes of a type, named as `DESCRIBE_COLUMNS` or `format_type` names it.

    Exact: booleans, integers, floats, text, dates, timestamps, JSON, bytea, and numerics of up to 38 declared
    digits. Everything else is text: numerics without bounds, uuid, inet, enums, times, intervals, money,
    xml, arrays, ranges, composites and every type of an extension.

    >>> str(fate_of("numeric(12,2)").type)
    'decimal(12,2)'
    >>> fate_of("numeric").carriage
    <Carriage.TEXT: 'text'>
    """
    match = _TYPE.fullmatch(source_type)
    if match is None:
        return Fate(STRING, Carriage.TEXT)
    plain = match["head"] + match["tail"]
    if plain == "numeric" and match["first"]:
        return _fate_of_numeric(precision=int(match["first"]), scale=int(match["second"] or 0))
    if plain in _EXACT:
        return Fate(ColumnType(_EXACT[plain]), Carriage.EXACT, _NOTES.get(plain, ""))
    return Fate(STRING, Carriage.TEXT, _NOTES.get(plain, ""))


def _fate_of_numeric(*, precision: int, scale: int) -> Fate:
    # PostgreSQL 15 and later take scales below zero and above the precision; no Parquet decimal has those.
    if precision <= MAX_DECIMAL_PRECISION and 0 <= scale <= precision:
        return Fate(
            ColumnType(ColumnKind.DECIMAL, precision, scale), Carriage.EXACT, "NaN becomes a rejected row"
        )
    return Fate(STRING, Carriage.TEXT, _MAY_BE_DECIMAL)


def can_carry(source_type: str, declared: ColumnType) -> bool:
    """
    Return whether a contract may declare this type for a column of the source's type: no value may change.

    Besides its fate: a string (the server's text), a wider number, and for a numeric without bounds any
    decimal, since a value with more digits is then a rejected row and never a rounded one.
    """
    fate = fate_of(source_type)
    is_unbounded = source_type.startswith("numeric") and fate.carriage is Carriage.TEXT
    return holds(declared, fate.type) or (declared.kind is ColumnKind.DECIMAL and is_unbounded)


def select_expression(quoted_name: str, source_type: str) -> str:
    """
    Return what stands in the SELECT list of a COPY for a column, given by its quoted name.

    COPY writes each value by its type's own output function, and that is the canonical text: ISO dates and
    moments (`2026-11-22 20:15:00.123456+00`), bytea as `\\x` and hexadecimal, floats in their shortest exact
    form. Only booleans differ: `t` and `f` are PostgreSQL's alone, their cast says `true` and `false`.
    Nothing else is cast to text, because that changes values: `character(5)` would lose its trailing
    blanks, `inet` addresses would gain a `/32`.
    """
    if fate_of(source_type).type.kind is ColumnKind.BOOLEAN:
        return f"{quoted_name}::pg_catalog.text"
    return quoted_name


def _plain(source_type: str) -> tuple[str, int | None]:
    """Return a type without its digits, and the first of them."""
    match = _TYPE.fullmatch(source_type)
    if match is None:
        return source_type, None
    return match["head"] + match["tail"], int(match["first"]) if match["first"] else None


def _concat(parts: Sequence[str]) -> str:
    """Join any number of texts, by calls within calls where one takes no more."""
    while len(parts) > MAX_ARGUMENTS:
        groups = [parts[start : start + MAX_ARGUMENTS] for start in range(0, len(parts), MAX_ARGUMENTS)]
        parts = [f"pg_catalog.concat({', '.join(group)})" for group in groups]
    return f"pg_catalog.concat({', '.join(parts)})"
