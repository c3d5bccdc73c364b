"""
A live PostgreSQL database, discovered.

    text = discover_postgres(dsn, source="shop", reference="secretsmanager:esclusa/shop#dsn")
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from services.extractor.dialects.postgresql import DESCRIBE_COLUMNS, SESSION_SETTINGS, UNIQUE_KEYS, fate_of
from services.extractor.discovery.document import check_names, render
from services.extractor.discovery.proposals import (
    CONNECT_TIMEOUT_SECONDS,
    HARMLESS_KINDS,
    SAMPLE_TIMEOUT_SECONDS,
    SAMPLED_CHARACTERS,
    SAMPLED_ROWS,
    STATEMENT_TIMEOUT_SECONDS,
    DescribedColumn,
    DiscoveredTable,
    RefusedTable,
    Relation,
    propose,
    refusal_of,
    table_names,
)
from shared.certificates import root_certificate
from shared.errors import ConfigurationError, Unavailable


def discover_postgres(dsn: str, *, source: str, reference: str, schemas: Sequence[str] | None = None) -> str:
    """
    Return the text of a source file for a live PostgreSQL database.

    `reference` is where the connection string will be found; the string itself is not written. `schemas`
    limits what is looked at; by default all but PostgreSQL's own.

    Raises:
        ConfigurationError: if the name, the reference or a schema is wrong, or nothing can be read.
        Unavailable: if the database does not answer.
    """
    check_names(source, reference)
    with _translated_errors(source, reference), _read_only_session(dsn) as connection:
        relations = _find_relations(connection, source=source, schemas=schemas)
        enums = _find_enums(connection)
        names = table_names(relations, plain_schema="public")
        found = [
            _discover_relation(connection, relation, name=names[relation.schema, relation.name], enums=enums)
            for relation in relations
        ]
    return render(
        source,
        kind="postgres",
        connection={"dsn": reference},
        tables=[table for table in found if isinstance(table, DiscoveredTable)],
        refused=[table for table in found if isinstance(table, RefusedTable)],
    )


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


@contextmanager
def _read_only_session(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(
        dsn,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        client_encoding="UTF8",
        application_name="esclusa discover",
        **root_certificate(conninfo_to_dict(dsn)),
    ) as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        settings = {**SESSION_SETTINGS, "statement_timeout": str(STATEMENT_TIMEOUT_SECONDS * 1000)}
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
) -> list[Relation]:
    relations = [Relation(*row) for row in connection.execute(_FIND_RELATIONS)]
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


def _discover_relation(
    connection: psycopg.Connection, relation: Relation, *, name: str, enums: frozenset[str]
) -> DiscoveredTable | RefusedTable:
    if refusal := refusal_of(relation, name=name):
        return refusal
    parameters = {"schema": relation.schema, "name": relation.name}
    described = [
        _described(column, source_type, nullable, enums=enums)
        for column, source_type, nullable in connection.execute(DESCRIBE_COLUMNS, parameters)
    ]
    # The primary key, else the smallest unique index.
    key = tuple((connection.execute(UNIQUE_KEYS, parameters).fetchone() or ([],))[0])
    return propose(relation, described, name=name, key=key, samples=_sample(connection, relation, described))


def _described(name: str, source_type: str, nullable: bool, *, enums: frozenset[str]) -> DescribedColumn:
    fate = fate_of(source_type)
    is_harmless = (
        fate.type.kind in HARMLESS_KINDS
        or source_type.removesuffix("[]") in enums
        or _HARMLESS_TEXT_TYPES.fullmatch(source_type) is not None
    )
    return DescribedColumn(name, source_type, nullable, fate, is_harmless=is_harmless)


def _sample(
    connection: psycopg.Connection, relation: Relation, columns: Sequence[DescribedColumn]
) -> dict[str, list[str | None]] | None:
    """Return some values of each column as text; None if the table does not answer soon."""
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
                sql.SQL("SET LOCAL statement_timeout = {}").format(SAMPLE_TIMEOUT_SECONDS * 1000)
            )
            rows = connection.execute(statement).fetchall()
    except psycopg.OperationalError:
        if connection.closed:
            raise
        return None
    except psycopg.Error:
        # A view may divide by zero; a type may have no text.
        return None
    return {column.name: [row[position] for row in rows] for position, column in enumerate(columns)}


_HARMLESS_TEXT_TYPES = re.compile(
    r"(time(\(\d\))? with(out)? time zone|interval.*|money|uuid|bit.*|oid|numeric.*"
    r"|(int4|int8|num|date|ts|tstz)(multi)?range"
    r"|(boolean|smallint|integer|bigint|real|double precision|numeric(\(\d+,-?\d+\))?|date|uuid"
    r"|timestamp(\(\d\))? with(out)? time zone)\[\])"
)
