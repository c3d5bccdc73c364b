"""A live database of any product, discovered over ODBC or by a SQLAlchemy URL."""

import re
from collections.abc import Mapping, Sequence

from services.extractor.dialects import Carriage, Dialect, DialectName, Statement
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
from services.extractor.readers.sql.driver import Driver, Row, WatchedConnection
from shared.errors import ConfigurationError, Refused, SourceUnavailable

# Moments, spans, numbers, generated ids and closed lists of words, whatever product names them so.
_HARMLESS_TEXT_TYPES = re.compile(
    r"(time|datetime|timestamp|interval|decimal|numeric|number|float|money|uuid|uniqueidentifier|enum|set|bit)\b.*",
    re.IGNORECASE | re.DOTALL,
)


def discover_sql(
    driver: Driver,
    dialect: Dialect,
    *,
    source: str,
    kind: str,
    connection: Mapping[str, str],
    schemas: Sequence[str] | None = None,
) -> str:
    """
    Return the text of a source file for a live database.

    `connection` is what the file says of it, references and nothing else. `schemas` limits what is looked at.

    Raises:
        ConfigurationError: if the name, a reference or a schema is wrong, or nothing can be read.
        SourceUnavailable: if the database does not answer.
    """
    check_names(source, *connection.values())
    session = _Session(driver, dialect, place=f"source {source}")
    try:
        relations = _find_relations(session, source=source, schemas=schemas)
        names = table_names(relations)
        found = [
            _discover_relation(session, relation, name=names[relation.schema, relation.name])
            for relation in relations
        ]
    finally:
        session.close()
    tables = [table for table in found if isinstance(table, DiscoveredTable)]
    if not tables:
        raise ConfigurationError(
            f"source {source}: expected at least one table or view that this login may read, found none; grant it "
            "the right to read"
        )
    return render(
        source,
        kind=kind,
        dialect=dialect.name,
        connection=connection,
        tables=tables,
        refused=[table for table in found if isinstance(table, RefusedTable)],
    )


class _Session:
    """A connection that is opened anew once it had to be given up."""

    def __init__(self, driver: Driver, dialect: Dialect, *, place: str) -> None:
        self.dialect = dialect
        self._driver = driver
        self._place = place
        self._connection: WatchedConnection | None = None

    def query(self, statement: Statement, *, seconds: float = STATEMENT_TIMEOUT_SECONDS) -> list[Row]:
        """Return the rows of a query, within a time."""
        if self._connection is None:
            self._connection = self._open()
        self._connection.allow(seconds)
        try:
            return self._connection.query(statement)
        except SourceUnavailable:
            self.close()
            raise

    def close(self) -> None:
        """Leave the database."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> WatchedConnection:
        connection = WatchedConnection(
            self._driver.connect, seconds=CONNECT_TIMEOUT_SECONDS, place=self._place
        )
        connection.allow(STATEMENT_TIMEOUT_SECONDS)
        for statement in self.dialect.session_settings(
            statement_timeout_seconds=STATEMENT_TIMEOUT_SECONDS, lock_timeout_seconds=SAMPLE_TIMEOUT_SECONDS
        ):
            connection.execute(statement)
        return connection


def _find_relations(session: _Session, *, source: str, schemas: Sequence[str] | None) -> list[Relation]:
    relations = [
        Relation(schema or "", name or "", is_table=kind == "table", is_readable=True)
        for schema, name, kind in session.query(session.dialect.tables())
    ]
    present = {relation.schema for relation in relations}
    missing = [schema for schema in schemas or () if schema not in present]
    if missing:
        raise ConfigurationError(
            f"source {source}: expected schemas with tables or views "
            f"({', '.join(sorted(present)) or 'there are none'}), found {', '.join(map(repr, missing))}"
        )
    return [relation for relation in relations if schemas is None or relation.schema in schemas]


def _discover_relation(session: _Session, relation: Relation, *, name: str) -> DiscoveredTable | RefusedTable:
    full_name = f"{relation.schema}.{relation.name}"
    if refusal := refusal_of(relation, name=name):
        return refusal
    try:
        quoted = ".".join(map(session.dialect.quote, (relation.schema, relation.name)))
    except ValueError as error:
        return RefusedTable(full_name, str(error))
    described = [
        _described(session.dialect, *row)
        for row in session.query(session.dialect.columns(relation.schema, relation.name))
    ]
    key = tuple(
        column or "" for (column,) in session.query(session.dialect.key(relation.schema, relation.name))
    )
    try:
        samples = _sample(session, quoted, described, key=key)
    except Refused as error:
        # Of a table that may be seen and not read. What is wrong with a view's expressions is told so too.
        return RefusedTable(full_name, f"it could not be read ({error.reason})")
    return propose(relation, described, name=name, key=key, samples=samples)


def _described(
    dialect: Dialect, name: str | None, source_type: str | None, nullable: str | None
) -> DescribedColumn:
    fate = dialect.fate_of(source_type or "")
    # A declared type of SQLite keeps no text out of its columns.
    is_held_to = dialect.name is not DialectName.SQLITE
    is_harmless = fate.type.kind in HARMLESS_KINDS or (
        is_held_to and _HARMLESS_TEXT_TYPES.fullmatch(source_type or "") is not None
    )
    return DescribedColumn(name or "", source_type or "", nullable == "1", fate, is_harmless=is_harmless)


def _sample(
    session: _Session, relation: str, columns: Sequence[DescribedColumn], *, key: Sequence[str]
) -> dict[str, list[str | None]] | None:
    """
    Return some values of the columns that are judged by them; None if the table does not answer soon.

    Raises:
        Refused: if it may not be read.
    """
    dialect = session.dialect
    looked_at = [column for column in columns if _is_looked_at(dialect, column, is_key=column.name in key)]
    texts = [dialect.text_of(dialect.quote(column.name), column.source_type) for column in looked_at]
    expressions = ", ".join(f"{text} AS c{position}" for position, text in enumerate(texts)) or "1 AS c0"
    statement = dialect.some_of(expressions, relation, count=SAMPLED_ROWS)
    try:
        rows = session.query(statement, seconds=SAMPLE_TIMEOUT_SECONDS)
    except SourceUnavailable:
        return None
    return {
        column.name: [value and value[:SAMPLED_CHARACTERS] for value in (row[position] for row in rows)]
        for position, column in enumerate(looked_at)
    }


def _is_looked_at(dialect: Dialect, column: DescribedColumn, *, is_key: bool) -> bool:
    # A type without a bound may hold gigabytes, and a text of it is withheld whatever its first rows look like.
    if column.is_harmless or column.fate.carriage is Carriage.REFUSED:
        return False
    return is_key or dialect.max_octets_of(column.source_type) is not None
