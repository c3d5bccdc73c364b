"""
`discover`: the file of a source that nobody has declared yet, written from the live source.

    text = discover_postgres(dsn, source="shop", reference="secretsmanager:esclusa/shop#dsn")

Every table and column stands in it with its type and fate. It errs on the side of silence: only columns of
types that can hardly hold a person (numbers, moments, booleans, enums, keys) are preset to `keep`, everything
else to `withhold` with the reason beside it. Values are looked at and never written.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import NamedTuple, TypeAlias

import psycopg
from psycopg import sql
from pydantic_core import PydanticCustomError

from services.extractor.personal_signs import look_like_codes, sign_in_name, sign_in_values
from services.extractor.types_postgres import DESCRIBE_COLUMNS, SESSION_SETTINGS, Carriage, fate_of
from shared.catalog import SCHEMA_FILE_NAME
from shared.catalog.forms import check_name
from shared.domain.contracts import STRING, ColumnKind, ColumnType
from shared.errors import ConfigurationError, Unavailable
from shared.secrets.reference import parse_reference

#: How many rows of a table are looked at, and how much of a value.
SAMPLED_ROWS = 200
SAMPLED_CHARACTERS = 200
#: A table that does not answer within this is judged by its names and types alone.
SAMPLE_TIMEOUT_MILLISECONDS = 5_000
CONNECT_TIMEOUT_SECONDS = 10
STATEMENT_TIMEOUT_MILLISECONDS = 60_000

MAX_RECORD_DEPTH = 4
MAX_RECORD_COLUMNS = 1_000


@dataclass(frozen=True, slots=True)
class DiscoveredColumn:
    """A column and what is proposed for it."""

    name: str
    source_type: str
    type: ColumnType
    nullable: bool
    #: Preset to `keep`, else to `withhold`.
    is_kept: bool
    #: Told beside it: why it is withheld, and how its values are carried.
    why: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class DiscoveredTable:
    """A table and what is proposed for it."""

    name: str
    #: The lines that say where it is found: `relation`, or `path` and `options`.
    place: tuple[str, ...]
    columns: tuple[DiscoveredColumn, ...]
    key: tuple[str, ...] = ()
    cursor: str | None = None
    deleted_column: str | None = None
    remarks: tuple[str, ...] = ()

    def kept(self, name: str) -> bool:
        """Whether a column is preset to leave."""
        return any(column.is_kept for column in self.columns if column.name == name)


@dataclass(frozen=True, slots=True)
class RefusedTable:
    """What cannot be taken in as it is, by name and with the reason."""

    name: str
    why: str


# ---- PostgreSQL --------------------------------------------------------------------------------------------


def discover_postgres(dsn: str, *, source: str, reference: str, schemas: Sequence[str] | None = None) -> str:
    """
    Return the text of a source file for a live PostgreSQL database.

    `reference` is where the connection string will be found; the string itself is not written. `schemas`
    limits what is looked at; by default all but PostgreSQL's own.

    Raises:
        ConfigurationError: if the name, the reference or a schema is wrong, or nothing can be read.
        Unavailable: if the database does not answer.
    """
    _check_names(source, reference)
    with _translated_errors(source, reference), _read_only_session(dsn) as connection:
        relations = _find_relations(connection, source=source, schemas=schemas)
        enums = _find_enums(connection)
        names = _table_names(relations)
        found = [
            _discover_relation(connection, relation, name=names[relation.schema, relation.name], enums=enums)
            for relation in relations
        ]
    return _render(
        source,
        kind="postgres",
        connection={"dsn": reference},
        tables=[table for table in found if isinstance(table, DiscoveredTable)],
        refused=[table for table in found if isinstance(table, RefusedTable)],
    )


class _Relation(NamedTuple):
    schema: str
    name: str
    is_table: bool
    is_readable: bool


class _Described(NamedTuple):
    name: str
    source_type: str
    nullable: bool


_FIND_RELATIONS = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind IN ('r', 'p') AS is_table,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS is_readable
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND NOT c.relispartition
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname, c.relname
"""

_FIND_ENUMS = """
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname)
FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
WHERE t.typtype = 'e'
"""

# The primary key, else the smallest unique index over columns that are never NULL.
_FIND_KEY = """
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
LIMIT 1
"""


@contextmanager
def _read_only_session(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(
        dsn,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        client_encoding="UTF8",
        application_name="esclusa discover",
    ) as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        settings = {**SESSION_SETTINGS, "statement_timeout": str(STATEMENT_TIMEOUT_MILLISECONDS)}
        for name, value in settings.items():
            connection.execute("SELECT pg_catalog.set_config(%s, %s, false)", [name, value])
        yield connection


@contextmanager
def _translated_errors(source: str, reference: str) -> Iterator[None]:
    """psycopg's own messages may quote parts of a connection string, so none of them is passed on."""
    where = f"source {source}: the database that {reference} names"
    try:
        yield
    except psycopg.ProgrammingError as error:
        if error.sqlstate is None:
            raise ConfigurationError(f"{where}: expected a connection string, found another text") from None
        raise Unavailable(f"{where} refused a catalogue query (SQLSTATE {error.sqlstate})") from None
    except psycopg.Error as error:
        raise Unavailable(f"{where}: expected an answer, found {_no_answer(error)}") from None


def _no_answer(error: psycopg.Error) -> str:
    """Tell in our own words what a driver's error says."""
    known = {
        "password authentication failed": "that it refuses the user or the password",
        "onnection refused": "that nothing listens at that address",
        "could not translate host name": "that the host's name is unknown",
        "failed to resolve host": "that the host's name is unknown",
        "timeout": "nothing in time",
        "does not exist": "that the user or the database does not exist",
        "SSL": "that no encrypted connection could be agreed on",
    }
    text = str(error)
    return next((words for sign, words in known.items() if sign in text), type(error).__name__)


def _find_relations(
    connection: psycopg.Connection, *, source: str, schemas: Sequence[str] | None
) -> list[_Relation]:
    relations = [_Relation(*row) for row in connection.execute(_FIND_RELATIONS)]
    present = {relation.schema for relation in relations}
    missing = [schema for schema in schemas or () if schema not in present]
    if missing:
        raise ConfigurationError(
            f"source {source}: expected schemas with tables or views "
            f"({', '.join(sorted(present)) or 'there are none'}), found {', '.join(map(repr, missing))}"
        )
    chosen = [relation for relation in relations if schemas is None or relation.schema in schemas]
    if not any(relation.is_readable for relation in chosen):
        raise ConfigurationError(
            f"source {source}: expected at least one table or view that this role may read, found none; "
            "grant it USAGE on the schema and SELECT on the tables"
        )
    return chosen


def _find_enums(connection: psycopg.Connection) -> frozenset[str]:
    return frozenset(name for (name,) in connection.execute(_FIND_ENUMS))


def _table_names(relations: Iterable[_Relation]) -> dict[tuple[str, str], str]:
    """Return a name for each relation: its own, with the schema before it where two would be the same."""
    own = list(relations)
    occurrences = Counter(relation.name.casefold() for relation in own)
    names: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for relation in own:
        name = relation.name
        if occurrences[name.casefold()] > 1 and relation.schema != "public":
            name = f"{relation.schema}_{name}"
        plain, number = name, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.casefold())
        names[relation.schema, relation.name] = name
    return names


def _discover_relation(
    connection: psycopg.Connection, relation: _Relation, *, name: str, enums: frozenset[str]
) -> DiscoveredTable | RefusedTable:
    full_name = f"{relation.schema}.{relation.name}"
    if not relation.is_readable:
        return RefusedTable(full_name, "this role may not read it (GRANT SELECT)")
    if not all(map(_is_carried, (name, relation.schema, relation.name))):
        return RefusedTable(full_name, "its name has control characters or more than 127 bytes")
    parameters = {"schema": relation.schema, "name": relation.name}
    described = [_Described(*row) for row in connection.execute(DESCRIBE_COLUMNS, parameters)]
    usable = [column for column in described if _is_carried(column.name)]
    if not usable:
        return RefusedTable(full_name, "it has no columns that can be carried")
    key = tuple((connection.execute(_FIND_KEY, parameters).fetchone() or ([],))[0])
    key = key if all(map(_is_carried, key)) else ()
    samples = _sample(connection, relation, usable)
    columns = _withhold_collisions(
        _judge_column(column, is_key=column.name in key, values=samples.get(column.name), enums=enums)
        for column in usable
    )
    remarks = [
        f"column {_scalar(column.name)} is refused: its name has control characters or more than 127 bytes"
        for column in described
        if not _is_carried(column.name)
    ]
    remarks += [
        f"{_scalar(column.name)} has no zone; if it is in UTC it can be the cursor, with timezone: UTC"
        for column in columns
        if column.type.kind is ColumnKind.TIMESTAMP
        and not column.nullable
        and _CURSOR_NAME.fullmatch(column.name)
    ]
    if samples == {}:
        remarks.append("its values could not be looked at, so names and types alone were judged")
    if not relation.is_table:
        remarks.append("no ordinary table: whether its rows have a key is for you to say")
    return DiscoveredTable(
        name=name,
        place=(f"relation: {_relation_text(relation)}",),
        columns=columns,
        key=key,
        cursor=_guess_cursor(columns) if key else None,
        deleted_column=_guess_deleted(columns),
        remarks=tuple(remarks),
    )


def _relation_text(relation: _Relation) -> str:
    if "." in relation.schema + relation.name:
        return f"[{_scalar(relation.schema)}, {_scalar(relation.name)}]"
    return _scalar(f"{relation.schema}.{relation.name}")


def _sample(
    connection: psycopg.Connection, relation: _Relation, columns: Sequence[_Described]
) -> dict[str, list[str | None]]:
    """Return some values of each column as text; nothing if the table does not answer soon."""
    statement = sql.SQL("SELECT {} FROM {} LIMIT {}").format(
        sql.SQL(", ").join(
            sql.SQL("pg_catalog.left({}::pg_catalog.text, {})").format(
                sql.Identifier(column.name), sql.Literal(SAMPLED_CHARACTERS)
            )
            for column in columns
        ),
        sql.Identifier(relation.schema, relation.name),
        sql.Literal(SAMPLED_ROWS),
    )
    try:
        with connection.transaction():
            connection.execute(
                sql.SQL("SET LOCAL statement_timeout = {}").format(SAMPLE_TIMEOUT_MILLISECONDS)
            )
            rows = connection.execute(statement).fetchall()
    except psycopg.OperationalError:
        if connection.closed:
            raise
        return {}
    except psycopg.Error:
        # A view may divide by zero; a type may have no text.
        return {}
    return {column.name: [row[position] for row in rows] for position, column in enumerate(columns)}


_HARMLESS_TEXT_TYPES = re.compile(
    r"(time(\(\d\))? with(out)? time zone|interval.*|money|uuid|bit.*|oid|numeric.*"
    r"|(int4|int8|num|date|ts|tstz)(multi)?range"
    r"|(boolean|smallint|integer|bigint|real|double precision|numeric(\(\d+,-?\d+\))?|date|uuid"
    r"|timestamp(\(\d\))? with(out)? time zone)\[\])"
)
_HARMLESS_KINDS = set(ColumnKind) - {ColumnKind.STRING, ColumnKind.JSON, ColumnKind.BINARY}


def _judge_column(
    column: _Described, *, is_key: bool, values: Sequence[str | None] | None, enums: frozenset[str]
) -> DiscoveredColumn:
    fate = fate_of(column.source_type)
    is_harmless = (
        fate.type.kind in _HARMLESS_KINDS
        or column.source_type.removesuffix("[]") in enums
        or _HARMLESS_TEXT_TYPES.fullmatch(column.source_type) is not None
    )
    is_text = fate.type.kind is ColumnKind.STRING and fate.carriage is Carriage.EXACT
    is_kept, why = _judge(
        column.name,
        is_harmless=is_harmless,
        is_key=is_key,
        values=() if is_harmless or values is None else values,
        what="text" if is_text else column.source_type,
    )
    told_fate = "rendered as text by the source" if fate.carriage is Carriage.TEXT else "exact"
    why = "; ".join(filter(None, (why, told_fate)))
    return DiscoveredColumn(
        column.name, column.source_type, fate.type, column.nullable and not is_key, is_kept=is_kept, why=why
    )


# ---- REST --------------------------------------------------------------------------------------------------

#: A record as a REST source sends it, numbers with a fraction as `Decimal`.
Record: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RestSample:
    """Some records of one endpoint, and the options with which they were asked for."""

    path: str
    records: Iterable[Record]
    options: Mapping[str, str] = field(default_factory=dict)


def discover_rest(samples: Iterable[RestSample], *, source: str, base_url: str, token: str = "") -> str:
    """
    Return the text of a source file for a REST source, from records that somebody has fetched.

    `base_url` and `token` are references. Nested objects become columns, lists leave as JSON text.

    Raises:
        ConfigurationError: if the name or a reference is not as it should be, or there is no endpoint.
    """
    _check_names(source, base_url, *([token] if token else []))
    found = [_discover_endpoint(sample) for sample in samples]
    tables: list[DiscoveredTable] = []
    for table in found:
        if isinstance(table, DiscoveredTable):
            same = sum(table.name.casefold() == other.name.casefold() for other in tables)
            tables.append(replace(table, name=f"{table.name}_{same + 1}") if same else table)
    if not tables:
        raise ConfigurationError(f"source {source}: expected at least one endpoint with records, found none")
    return _render(
        source,
        kind="rest",
        connection={"base_url": base_url} | ({"token": token} if token else {}),
        tables=tables,
        refused=[table for table in found if isinstance(table, RefusedTable)],
    )


def _discover_endpoint(sample: RestSample) -> DiscoveredTable | RefusedTable:
    records = list(islice(sample.records, SAMPLED_ROWS))
    values: dict[tuple[str, ...], list[object]] = {}
    for record in records:
        for path, value in _flatten(record):
            if path in values or len(values) < MAX_RECORD_COLUMNS:
                values.setdefault(path, []).append(value)
    # What is an object in one record and nothing in another is told by the object's own values.
    told = {path: found for path, found in values.items() if not _is_told_below(path, found, values)}
    if not told:
        return RefusedTable(sample.path, "no record, or none with values, was at hand")
    names = _column_names(told)
    key = tuple(names[path] for path, found in told.items() if _is_identity(path, found, len(records)))
    columns = _withhold_collisions(
        _judge_values(names[path], path, found, is_key=names[path] in key, record_count=len(records))
        for path, found in told.items()
    )
    can_filter = {"after_parameter", "before_parameter"} <= sample.options.keys()
    return DiscoveredTable(
        name=sample.path.rstrip("/").rpartition("/")[2] or "records",
        place=_endpoint_lines(sample),
        columns=columns,
        key=key,
        cursor=_guess_cursor(columns) if key and can_filter else None,
        deleted_column=_guess_deleted(columns),
        remarks=()
        if can_filter
        else ("for a cursor, options need after_parameter and before_parameter; else each batch reads all",),
    )


def _endpoint_lines(sample: RestSample) -> tuple[str, ...]:
    options = {"paging": "none", **sample.options}
    remark = "" if "paging" in sample.options else "  # how its pages are asked for is for you to say"
    return (
        f"path: {_scalar(sample.path)}",
        f"options:{remark}",
        *(f"  {name}: {_scalar(value)}" for name, value in options.items()),
    )


def _flatten(record: Record, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, value in record.items():
        path = (*above, name)
        can_go_on = len(path) < MAX_RECORD_DEPTH and isinstance(value, Mapping) and bool(value)
        if can_go_on and isinstance(value, Mapping) and all(_is_step(step) for step in (*path, *value)):
            yield from _flatten(value, path)
        elif _is_carried("_".join(path)):
            yield path, value


def _is_step(name: str) -> bool:
    """Whether a name can stand in a dotted path."""
    return bool(name) and "." not in name and not re.search(r"\s", name)


def _is_told_below(
    path: tuple[str, ...], found: Sequence[object], values: Mapping[tuple[str, ...], object]
) -> bool:
    return all(value is None for value in found) and any(
        len(other) > len(path) and other[: len(path)] == path for other in values
    )


def _column_names(paths: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    names: dict[tuple[str, ...], str] = {}
    for path in paths:
        name, number = "_".join(path), 1
        while name in names.values():
            number += 1
            name = f"{'_'.join(path)}_{number}"
        names[path] = name
    return names


def _is_identity(path: tuple[str, ...], found: Sequence[object], record_count: int) -> bool:
    return (
        path in {("id",), ("Id",), ("ID",), ("uuid",)}
        and len(found) == record_count
        and all(isinstance(value, int | str) and not isinstance(value, bool) for value in found)
        and len(set(found)) == record_count
    )


def _judge_values(
    name: str, path: tuple[str, ...], found: Sequence[object], *, is_key: bool, record_count: int
) -> DiscoveredColumn:
    present = [value for value in found if value is not None]
    source_type, column_type = _type_of_values(present)
    texts = [value[:SAMPLED_CHARACTERS] for value in present if isinstance(value, str)]
    is_kept, why = _judge(
        name,
        is_harmless=column_type.kind in _HARMLESS_KINDS or source_type == "number",
        is_key=is_key,
        values=texts,
        what=source_type or "never seen with a value",
    )
    if source_type == "number" and column_type == STRING:
        why = "; ".join(filter(None, (why, "text until you say decimal(p,s) or float64")))
    always = len(present) == record_count
    return DiscoveredColumn(
        name,
        source_type,
        column_type,
        # A sample proves nothing of the rest, but a key and a cursor have to have values.
        nullable=not (always and (is_key or column_type.kind is ColumnKind.TIMESTAMPTZ)),
        is_kept=is_kept,
        why=why,
        path="" if path == (name,) else ".".join(path),
    )


def _type_of_values(present: Sequence[object]) -> tuple[str, ColumnType]:
    """Return JSON's word for the values and the type that holds them all."""
    if not present:
        return "", STRING
    if all(isinstance(value, bool) for value in present):
        return "boolean", ColumnType(ColumnKind.BOOLEAN)
    if any(isinstance(value, bool) for value in present):
        return "mixed", STRING
    if all(isinstance(value, int) for value in present):
        fits = all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in present)
        return "integer", ColumnType(ColumnKind.INT64) if fits else STRING
    if all(isinstance(value, int | float | Decimal) for value in present):
        return "number", STRING
    if all(isinstance(value, str) for value in present):
        return "string", _type_of_texts([str(value) for value in present])
    if all(isinstance(value, Mapping | list) for value in present):
        return "object" if isinstance(present[0], Mapping) else "array", ColumnType(ColumnKind.JSON)
    return "mixed", STRING


def _type_of_texts(texts: Sequence[str]) -> ColumnType:
    if all(_is_moment(text) for text in texts):
        return ColumnType(ColumnKind.TIMESTAMPTZ)
    if all(_is_date(text) for text in texts):
        return ColumnType(ColumnKind.DATE)
    return STRING


def _is_moment(text: str) -> bool:
    try:
        return len(text) > 10 and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _is_date(text: str) -> bool:
    try:
        return len(text) == 10 and bool(date.fromisoformat(text))
    except ValueError:
        return False


# ---- judging -----------------------------------------------------------------------------------------------

_CURSOR_NAME = re.compile(
    r"(last_?)?(updated|modified|changed)(_?(at|on|date|time|ts|timestamp))?"
    r"|(date|time)_?(updated|modified)|(update|modification|change)_?(time|date|ts|timestamp)"
    r"|lastmodifieddate|systemmodstamp|mtime|last_(update|change)",
    re.IGNORECASE,
)
_DELETED_NAME = re.compile(r"(deleted|removed)_?(at|on|date|time)", re.IGNORECASE)


def _judge(
    name: str, *, is_harmless: bool, is_key: bool, values: Sequence[str | None], what: str
) -> tuple[bool, str]:
    """Return whether a column may leave at first, and why."""
    if sign := sign_in_name(name):
        return False, f"withheld: by its name it may be {sign}"
    if is_harmless:
        return True, ""
    if sign := sign_in_values(values):
        return False, f"withheld: some values look like {sign}"
    if is_key and look_like_codes(values):
        return True, "part of the key, its values look like codes"
    return False, f"withheld: {what} may hold anything"


def _withhold_collisions(columns: Iterable[DiscoveredColumn]) -> tuple[DiscoveredColumn, ...]:
    """Of two kept columns whose names differ by case alone the second is withheld: warehouses fold them."""
    judged: list[DiscoveredColumn] = []
    taken: set[str] = set()
    for column in columns:
        if column.is_kept and column.name.casefold() in taken:
            judged.append(
                replace(
                    column, is_kept=False, why="withheld: a warehouse cannot tell its name from another's"
                )
            )
            continue
        judged.append(column)
        if column.is_kept:
            taken.add(column.name.casefold())
    return tuple(judged)


def _guess_cursor(columns: Iterable[DiscoveredColumn]) -> str | None:
    """Return a column that looks as if it were set by every change, never NULL and with a zone."""
    for column in columns:
        is_moment = column.type.kind is ColumnKind.TIMESTAMPTZ and not column.nullable
        if is_moment and column.is_kept and _CURSOR_NAME.fullmatch(column.name):
            return column.name
    return None


def _guess_deleted(columns: Iterable[DiscoveredColumn]) -> str | None:
    for column in columns:
        is_moment = column.type.kind in {ColumnKind.TIMESTAMPTZ, ColumnKind.TIMESTAMP, ColumnKind.DATE}
        if is_moment and column.nullable and column.is_kept and _DELETED_NAME.fullmatch(column.name):
            return column.name
    return None


# ---- writing -----------------------------------------------------------------------------------------------


def _check_names(source: str, *references: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", source):
        raise ConfigurationError(
            f"expected a source name of small letters, digits and _ (up to 31), found {source[:60]!r}"
        )
    for reference in references:
        try:
            parse_reference(reference)
        except ValueError as error:
            raise ConfigurationError(f"source {source}: {error}") from None


def _is_carried(name: str) -> bool:
    """Whether a name can be carried; what cannot is refused by name."""
    try:
        check_name(name)
    except PydanticCustomError:
        return False
    return True


def _render(
    source: str,
    *,
    kind: str,
    connection: Mapping[str, str],
    tables: Sequence[DiscoveredTable],
    refused: Sequence[RefusedTable],
) -> str:
    kept = sum(column.is_kept for table in tables for column in table.columns)
    total = sum(len(table.columns) for table in tables)
    lines = [
        f"# yaml-language-server: $schema={SCHEMA_FILE_NAME}",
        "#",
        f"# Written by `esclusa discover {source}`. {kept} of {total} columns are preset to keep,",
        '# the others are withheld until you give them a mask: keep, drop, redact, last4, {constant: "…"} or',
        "# {hmac: {domain: …}}, which needs mask_key and mask_key_id. Look at the kept ones too.",
        f"name: {source}",
        f"kind: {kind}",
        "connection:",
        *(f"  {name}: {_scalar(reference)}" for name, reference in connection.items()),
        "# mask_key: secretsmanager:esclusa/mask#k1",
        "# mask_key_id: k1",
        "schedule: {every: 15m, max_window: 1h, catch_up_limit: 24}",
        "quarantine: {max_rejected_rows: 100, max_rejected_ratio: 0.01}",
        "",
        *_refused_lines(refused),
        "tables:",
    ]
    for table in tables:
        lines += _table_lines(table)
    return "\n".join(lines) + "\n"


def _refused_lines(refused: Sequence[RefusedTable]) -> list[str]:
    if not refused:
        return []
    return ["# Not taken in:", *(f"#   {_scalar(table.name)}: {table.why}" for table in refused), ""]


def _table_lines(table: DiscoveredTable) -> list[str]:
    withheld = [name for name in table.key if not table.kept(name)]
    lines = [f"  {_scalar(table.name)}:", *(f"    # {_comment(remark)}" for remark in table.remarks)]
    lines += [f"    {line}" for line in table.place]
    if not any(column.is_kept for column in table.columns):
        lines.append("    # EDIT: every column is withheld; the file is refused until one leaves.")
    lines += ["    columns:", *(f"      {_column_line(column)}" for column in table.columns)]
    if withheld:
        lines.append(
            f"    # EDIT: {', '.join(map(_scalar, withheld))} is withheld; the file is refused "
            "until each key column is kept or masked by hmac."
        )
    lines.append(f"    key: [{', '.join(map(_scalar, table.key))}]")
    if table.cursor:
        lines += [
            "    # The lag must be longer than the longest transaction that writes this table.",
            f"    cursor: {{column: {_scalar(table.cursor)}, lag: 1m, overlap: 5m}}",
        ]
    else:
        missing = "no column that tells of every change was found" if table.key else "no key was found"
        lines += [f"    # {missing}: each batch reads the whole table.", "    cursor: none"]
    if table.deleted_column:
        lines.append(f"    deletes: {{soft: {_scalar(table.deleted_column)}}}")
    lines += [f"    publish: {{mode: {'merge' if table.cursor else 'replace'}, target: both}}", ""]
    return lines


def _column_line(column: DiscoveredColumn) -> str:
    parts = {
        "path": column.path,
        "source_type": column.source_type,
        "type": str(column.type),
        "mask": "keep" if column.is_kept else "withhold",
    }
    fields = [f"{name}: {_scalar(value)}" for name, value in parts.items() if value]
    if not column.nullable:
        fields.insert(-1, "nullable: false")
    remark = f"  # {_comment(column.why)}" if column.why else ""
    return f"{_scalar(column.name)}: {{{', '.join(fields)}}}{remark}"


def _comment(text: str) -> str:
    """Keep a comment on its line, whatever a source calls its types."""
    return "".join(character if character.isprintable() else "?" for character in text)


_PLAIN = re.compile(
    r"[A-Za-z_/][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*|secretsmanager:[A-Za-z0-9/_+=.@-]+(#[A-Za-z0-9_.-]+)?"
)
_NOT_PLAIN = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def _scalar(text: str) -> str:
    """
    Return a text as a YAML scalar that every YAML reader takes for that text.

    >>> _scalar("order_id"), _scalar("no"), _scalar('a "b": c')
    ('order_id', '"no"', '"a \\\\"b\\\\": c"')
    """
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_PLAIN:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
