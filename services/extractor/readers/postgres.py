"""
Reads PostgreSQL by `COPY (SELECT …) TO STDOUT (FORMAT csv)`: the server's own text, and nothing parses it here.

A batch is read in one REPEATABLE READ READ ONLY transaction that locks the table before it takes its snapshot.
Without the lock an ALTER TABLE that rewrites the table, or a TRUNCATE, could commit between the two, and the
snapshot would find the table empty. Source: PostgreSQL documentation, 13.6 "Caveats".
"""

import io
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any

import psycopg
from psycopg import errors, pq, sql
from psycopg.abc import PQGen
from psycopg.generators import fetch_many
from psycopg.waiting import Wait

from services.extractor.dialects import CsvField
from services.extractor.dialects.postgresql import (
    DESCRIBE_COLUMNS,
    SESSION_SETTINGS,
    UNIQUE_KEYS,
    PostgresqlDialect,
    select_expression,
)
from services.extractor.drift import (
    compare,
    findings_of,
    require_agreement,
    tell_applied,
    unclassified,
)
from services.extractor.readers import (
    Chunk,
    Condition,
    CursorBounds,
    Finding,
    ReadLimits,
    SourceColumn,
    bound_value,
    conditions_of,
    fingerprint_of,
    range_conditions,
)
from services.extractor.readers.database import DatabaseSnapshot, require_distinct, sums_of
from shared.answering import connect
from shared.domain.contracts import CursorScale, TableContract
from shared.domain.drift import Drift
from shared.domain.key_ranges import CellSums, Interval, KeySpan
from shared.domain.reasons import Reason
from shared.domain.source_queries import SourceQuery
from shared.domain.windows import Extent, Window
from shared.errors import ConfigurationError, EsclusaError, Refused, SourceConflict, SourceUnavailable
from shared.ports import SecretStore

_DIALECT = PostgresqlDialect()

#: Ordinary and partitioned tables, and views. PostgreSQL has no lock for the other kinds.
_LOCKABLE_KINDS = frozenset("rpv")

_FIND_RELATION = """
SELECT c.relkind::text,
       pg_catalog.has_table_privilege(c.oid, 'SELECT'),
       pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
           AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

# What a standby has replayed is all it can show, so its clock is that of the last commit it has seen.
# The start of the statement lies before its snapshot; a clock read later would promise commits unseen.
_READ_CLOCK = """
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_xact_replay_timestamp()
            ELSE pg_catalog.statement_timestamp() END
"""


# libpq receives into a buffer that it enlarges for a message that does not fit, and keeps. At the 16 KiB of its beginning
# it asks the kernel for every forty records or so: a thirteenth as often after one message of this size, and 7 % less CPU.
# Source: PostgreSQL 17, `src/interfaces/libpq/fe-misc.c`, pqCheckInBufferSpace.
_ENLARGE_RECEIVE_BUFFER = "SELECT pg_catalog.repeat(' ', 262144)"


class PostgresReader:
    """A table, view or foreign table of a PostgreSQL database, over one connection. See `SourceReader`."""

    def __init__(self, contract: TableContract, *, secrets: SecretStore, limits: ReadLimits) -> None:
        self._contract = contract
        self._secrets = secrets
        self._limits = limits
        self._timeout_seconds = int(
            contract.origin.connection.get("timeout_seconds", limits.read_timeout_seconds)
        )
        self._place = _place(contract)
        self._connection: psycopg.Connection | None = None
        self._has_large_buffer = False

    def close(self) -> None:
        """Leave the database."""
        if self._connection is not None:
            self._connection.close()

    def clock(self) -> datetime:
        """Return the database's clock; of a standby, that of the last commit it has replayed."""
        with self._transaction(self._session()) as connection:
            return self._read_clock(connection)

    def open_since(self) -> datetime | None:
        """Return the start of the oldest open transaction that has written; see `SourceReader`."""
        with self._transaction(self._session()) as connection:
            return self._read_open_since(connection)

    def check(self) -> list[Finding]:
        """Look at connection, rights and columns; see `SourceReader`."""
        subject = f"{self._contract.source}.{self._contract.table}"
        try:
            with self._locked_transaction() as connection:
                drift = self._compare(connection)
        except EsclusaError as error:
            return [Finding(subject, is_ok=False, detail=str(error))]
        return findings_of(self._contract, drift)

    def drift(self) -> Drift:
        """Return what the table has otherwise; see `SourceReader`."""
        with self._locked_transaction() as connection:
            return self._compare(connection)

    def count_rows(self, window: Window | None = None, *, extent: Extent | None = None) -> int:
        """Return how many rows a window has, or the table; see `SourceReader`."""
        with self._transaction(self._session()) as connection:
            origin, where = self._origin_and_where(connection, window, extent)
            query = sql.SQL("SELECT pg_catalog.count(*) FROM {}{}").format(origin, where)
            return int(_one_value(connection, query))

    def cursor_bounds(self, window: Window | None = None) -> CursorBounds | None:
        """Return the bounds of the cursor's values; see `SourceReader`."""
        cursor = self._contract.cursor
        if cursor is None:
            return None
        with self._transaction(self._session()) as connection:
            origin, where = self._origin_and_where(connection, window, None)
            column = sql.Identifier(cursor.column)
            if self._contract.cursor_scale is not CursorScale.COUNT:
                # Python knows no other years, and no infinity.
                where = (
                    where
                    + sql.SQL(" AND " if where.as_string() else " WHERE ")
                    + sql.SQL("{0} >= '0001-01-02' AND {0} < '9999-12-31'").format(column)
                )
            query = sql.SQL("SELECT pg_catalog.min({0}), pg_catalog.max({0}) FROM {1}{2}").format(
                column, origin, where
            )
            found = connection.execute(query).fetchone()
        if found is None or found[0] is None:
            return None
        return CursorBounds(*map(_in_utc, found))

    def _origin_and_where(
        self, connection: psycopg.Connection, window: Window | None, extent: Extent | None
    ) -> tuple[sql.Composable, sql.Composable]:
        columns = self._describe(connection)
        require_agreement(self._contract, columns, types=_DIALECT, place=self._place)
        conditions = conditions_of(self._contract, window, extent=extent, with_overlap=False)
        where = _where(conditions, by_name=_columns_by_name(columns))
        return origin_of(self._contract, conditions), where

    @contextmanager
    def open_snapshot(self, window: Window, *, extent: Extent | None = None) -> "Iterator[PostgresSnapshot]":
        """Begin to read a window; see `SourceReader`."""
        # Before the snapshot: what commits in between is seen by it, and waited for needlessly at worst.
        open_since = self.open_since()
        conditions = conditions_of(self._contract, window, extent=extent)
        with self._locked_transaction(conditions) as connection:
            taken_at = self._read_clock(connection)
            columns = self._describe(connection)
            drift = require_agreement(
                self._contract,
                columns,
                types=_DIALECT,
                place=self._place,
                unique_keys=self._unique_keys(connection),
            )
            tell_applied(self._contract, drift)
            if not self._has_large_buffer:
                connection.execute(_ENLARGE_RECEIVE_BUFFER)
                self._has_large_buffer = True
            yield PostgresSnapshot(
                self._contract,
                connection,
                columns=columns,
                conditions=conditions,
                taken_at=taken_at,
                open_since=open_since,
                describe_anew=self._describe_anew,
                chunk_size_in_bytes=self._limits.chunk_size_in_bytes,
            )

    # ---- the steps -----------------------------------------------------------------------------------------

    @contextmanager
    def _locked_transaction(self, conditions: Sequence[Condition] = ()) -> Iterator[psycopg.Connection]:
        """
        Begin a transaction on a table, or on the tables of a query, that stay as they are until it ends.

        The snapshot of a table is not taken yet.

        Raises:
            Refused: if the table is not there, or may not be read.
        """
        if self._contract.query is not None:
            with self._held_by_query(conditions) as connection:
                yield connection
            return
        with self._transaction(self._session()) as connection:
            is_lockable = self._find_relation(connection)
        with self._transaction(connection):
            if is_lockable:
                connection.execute(
                    sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(origin_of(self._contract, ()))
                )
            yield connection

    @contextmanager
    def _held_by_query(self, conditions: Sequence[Condition]) -> Iterator[psycopg.Connection]:
        """
        Begin a transaction on whatever a query reads.

        Nobody knows its tables but the server, which takes the snapshot before it locks them. So another session
        locks them first, by the same query for no row, until this one has its snapshot and its own locks.
        """
        touch = sql.SQL("SELECT FROM {} LIMIT 0").format(origin_of(self._contract, conditions))
        with self._transaction(self._session()) as connection:
            with self._connect() as beside, self._transaction(beside), self._query_errors():
                beside.execute(touch)
                connection.execute(touch)
            yield connection

    @contextmanager
    def _query_errors(self) -> Iterator[None]:
        """Tell what the server says of the query itself. No row was read, so it quotes none."""
        try:
            yield
        except (errors.InsufficientPrivilege, errors.UndefinedTable):
            raise
        except psycopg.Error as error:
            if not (error.sqlstate or "").startswith("42"):
                raise
            raise Refused(
                Reason.QUERY_INVALID, f"{self._place}: {error.diag.message_primary or error}"
            ) from None

    def _session(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
            self._has_large_buffer = False
        return self._connection

    def _connect(self) -> psycopg.Connection:
        reference = self._contract.origin.connection["dsn"]
        dsn = self._secrets.resolve(reference)
        with _translated(self._place):
            try:
                return connect(
                    dsn,
                    statement_timeout_seconds=self._timeout_seconds,
                    autocommit=True,
                    # A pooler may give each transaction another server, which knows no statement of ours.
                    prepare_threshold=None,
                    client_encoding="UTF8",
                    application_name="esclusa-extractor",
                    connect_timeout=self._limits.connect_timeout_seconds,
                )
            except psycopg.ProgrammingError:
                # Its text repeats the connection string with the password in it.
                raise ConfigurationError(
                    f"source {self._contract.source!r}: {reference} should hold a PostgreSQL connection string "
                    "(postgresql://user:password@host:port/database), found something else"
                ) from None

    @contextmanager
    def _transaction(self, connection: psycopg.Connection) -> Iterator[psycopg.Connection]:
        """One REPEATABLE READ READ ONLY transaction with every setting that shapes text or bounds time."""
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        settings = {
            **SESSION_SETTINGS,
            "statement_timeout": f"{self._timeout_seconds}s",
            "lock_timeout": f"{self._limits.lock_timeout_seconds}s",
            "idle_in_transaction_session_timeout": f"{self._timeout_seconds}s",
            # A policy that hides rows then raises an error, instead of hiding them from the counts as well.
            "row_security": "off",
        }
        with _translated(self._place), connection.transaction():
            # SET and not set_config(): a SELECT would take the snapshot before the lock.
            connection.execute(
                sql.SQL("; ").join(
                    sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), sql.Literal(value))
                    for name, value in settings.items()
                )
            )
            yield connection

    def _find_relation(self, connection: psycopg.Connection) -> bool:
        """
        Return whether PostgreSQL would give us a lock on the table.

        It has none for materialized views and foreign tables, and gives none to a role that may read some
        columns only. There the fingerprints before and after have to do.
        """
        found = connection.execute(_FIND_RELATION, self._names).fetchone()
        if found is None:
            raise Refused(
                Reason.TABLE_MISSING, f"{self._place}: the database has no table or view of that name"
            )
        kind, may_read_all, may_read_some = found
        if not may_read_some:
            raise Refused(
                Reason.TABLE_MISSING,
                f"{self._place}: the role may not read it; grant it USAGE on the schema and SELECT on the table",
            )
        return bool(may_read_all) and kind in _LOCKABLE_KINDS

    def _read_clock(self, connection: psycopg.Connection) -> datetime:
        moment: datetime | None = _one_value(connection, sql.SQL(_READ_CLOCK))
        if moment is None:
            raise SourceUnavailable(
                f"{self._place}: the standby has not replayed any commit since it started"
            )
        return moment.astimezone(UTC)

    def _read_open_since(self, connection: psycopg.Connection) -> datetime | None:
        text: str | None = _one_value(connection, sql.SQL(_DIALECT.oldest_open_transaction().sql))
        return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)

    def _describe(self, connection: psycopg.Connection) -> tuple[SourceColumn, ...]:
        if self._contract.query is not None:
            return self._describe_query(connection, self._contract.query)
        rows = connection.execute(DESCRIBE_COLUMNS, self._names)
        return tuple(SourceColumn(*row) for row in rows)

    def _describe_query(self, connection: psycopg.Connection, query: SourceQuery) -> tuple[SourceColumn, ...]:
        text = query.written(lambda _: _DIALECT.parameter(query.bound_type).replace("?", "NULL"))
        with self._query_errors():
            names = [name for (name,) in connection.execute(sql.SQL(_DIALECT.names_of_query(text).sql))]
            require_distinct(names, place=self._place)
            rows = connection.execute(sql.SQL(_DIALECT.describe_query(text, names).columns.sql))
            return tuple(SourceColumn(name, source_type) for name, source_type, _ in rows)

    def _compare(self, connection: psycopg.Connection) -> Drift:
        return compare(
            self._contract,
            self._describe(connection),
            types=_DIALECT,
            unique_keys=self._unique_keys(connection),
        )

    def _unique_keys(self, connection: psycopg.Connection) -> list[list[str]]:
        if self._contract.query is not None:
            return []
        return [columns for (columns,) in connection.execute(UNIQUE_KEYS, self._names)]

    def _describe_anew(self) -> tuple[SourceColumn, ...]:
        """Return the columns as a new session sees them: a snapshot does not see them change."""
        with self._connect() as other, self._transaction(other):
            return self._describe(other)

    @property
    def _names(self) -> dict[str, str]:
        schema, name = self._contract.relation
        return {"schema": schema, "name": name}


class PostgresSnapshot(DatabaseSnapshot):
    """One transaction on one table. See `SourceSnapshot`."""

    def __init__(
        self,
        contract: TableContract,
        connection: psycopg.Connection,
        *,
        columns: tuple[SourceColumn, ...],
        conditions: Sequence[Condition],
        taken_at: datetime,
        open_since: datetime | None,
        describe_anew: Callable[[], tuple[SourceColumn, ...]],
        chunk_size_in_bytes: int,
    ) -> None:
        super().__init__(columns, taken_at=taken_at, open_since=open_since)
        self._contract = contract
        self._connection = connection
        self._conditions = conditions
        self._describe_anew = describe_anew
        self._chunk_size_in_bytes = chunk_size_in_bytes

    def read(self) -> Generator[Chunk, None, None]:
        """Read the rows of the window; see `SourceSnapshot`."""
        with _translated(_place(self._contract)):
            self._require_cursor_values()
            yield from self._read(self._conditions)

    def key_span(self, column: str) -> KeySpan | None:
        """Return how many rows there are, and the bounds of a key column; see `RangedSnapshot`."""
        query = sql.SQL(
            "SELECT pg_catalog.count(*), pg_catalog.min({0}), pg_catalog.max({0}), "
            "pg_catalog.count(*) - pg_catalog.count({0}) FROM {1}{2}"
        )
        by_name = _columns_by_name(self._columns)
        with _translated(_place(self._contract)):
            found = self._connection.execute(
                query.format(
                    sql.Identifier(column),
                    origin_of(self._contract, self._conditions),
                    _where(self._conditions, by_name=by_name),
                )
            ).fetchone()
        if not found or not found[0]:
            return None
        row_count, low, high, keyless_count = found
        return KeySpan(row_count, low or 0, high or 0, keyless_count)

    def cell_sums(self, column: str, *, bits: int) -> dict[int, CellSums]:
        """Return what the rows of each range add up to, as the server sums them; see `RangedSnapshot`."""
        place, by_name = _place(self._contract), _columns_by_name(self._columns)
        fields = [
            CsvField(quoted, _DIALECT.text_of(quoted, by_name[name].source_type), is_plain=False)
            for name, quoted in ((read.name, _quoted(read.name)) for read in self._contract.read_columns)
        ]
        query = sql.SQL(
            "SELECT cell, pg_catalog.count(*), pg_catalog.count(hashed), {} FROM (SELECT {} AS cell, {} AS hashed "
            "FROM {}{}) AS hashes GROUP BY cell"
        ).format(
            sql.SQL(", ").join(map(sql.SQL, _DIALECT.quarters_of("hashed"))),
            sql.SQL(_DIALECT.cell_of(_quoted(column), bits)),
            sql.SQL(_DIALECT.hash_of(fields)),
            origin_of(self._contract, self._conditions),
            _where(self._conditions, by_name=by_name),
        )
        with _translated(place):
            return sums_of(self._connection.execute(query), place=place)

    def read_ranges(self, column: str, intervals: Sequence[Interval]) -> Generator[Chunk, None, None]:
        """Read the rows of some ranges; see `RangedSnapshot`."""
        kind = _DIALECT.fate_of(_columns_by_name(self._columns)[column].source_type).type.kind
        with _translated(_place(self._contract)):
            for interval in intervals:
                yield from self._read([*self._conditions, *range_conditions(column, interval, kind=kind)])

    def _read(self, conditions: Sequence[Condition]) -> Generator[Chunk, None, None]:
        # A database in SQL_ASCII converts and checks nothing.
        is_unchecked = self._connection.info.parameter_status("server_encoding") == "SQL_ASCII"
        statement = copy_statement(self._contract, columns=self._columns, conditions=conditions)
        with self._connection.cursor() as cursor, cursor.copy(statement):
            result = None
            while result is None:
                chunk, result = self._connection.wait(
                    _gather_chunk(self._connection.pgconn, size_in_bytes=self._chunk_size_in_bytes)
                )
                if is_unchecked:
                    _require_utf8(chunk, _place(self._contract))
                if chunk.record_count:
                    yield chunk
            self._rows_read_count += result.command_tuples or 0

    def unclassified_columns(self) -> Sequence[SourceColumn]:
        """Return the columns that the contract does not know."""
        return unclassified(self._contract, self._columns)

    def current_fingerprint(self) -> str:
        """Return the fingerprint as a new session sees it."""
        return fingerprint_of(self._describe_anew())

    def _require_cursor_values(self) -> None:
        cursor = self._contract.cursor
        if cursor is None:
            return
        is_nullable = _columns_by_name(self._columns)[cursor.column].is_nullable
        # A row at infinity is in no window, just as one without a value. No number is infinite.
        lost = ["{0} IS NULL"] if is_nullable else []
        if self._contract.cursor_scale is not CursorScale.COUNT:
            lost.append("{0} IN ('infinity', '-infinity')")
        if not lost:
            return
        condition = sql.SQL(" OR ".join(lost)).format(sql.Identifier(cursor.column))
        origin = origin_of(self._contract, self._conditions)
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(origin, condition)
        if _one_value(self._connection, query):
            raise Refused(
                Reason.NULL_CURSOR,
                f"{_place(self._contract)}: expected a value in cursor column {cursor.column!r} of every row, "
                "found rows with NULL or infinity, which belong to no window; set them at the source",
            )


def copy_statement(
    contract: TableContract, *, columns: Sequence[SourceColumn], conditions: Sequence[Condition]
) -> sql.Composed:
    """Return the COPY that reads a window. Columns that do not leave are not in it."""
    by_name = _columns_by_name(columns)
    expressions = [
        sql.SQL(select_expression(_quoted(column.name), by_name[column.name].source_type))
        for column in contract.read_columns
    ]
    return sql.SQL("COPY (SELECT {} FROM {}{}) TO STDOUT (FORMAT csv)").format(
        sql.SQL(", ").join(expressions),
        origin_of(contract, conditions),
        _where(conditions, by_name=by_name),
    )


def origin_of(contract: TableContract, conditions: Sequence[Condition]) -> sql.Composable:
    """
    Return what stands behind FROM: the table, or the query with its values.

    COPY takes no parameters. So the driver writes each value as a literal of its type; values are moments, dates and
    numbers of ours, never texts, and no text of the file is searched for where they go.
    """
    query = contract.query
    if query is None:
        return sql.Identifier(*contract.relation)
    kind = _DIALECT.fate_of(query.bound_type).type.kind
    values = [
        bound_value(placeholder, conditions, cursor=contract.cursor, kind=kind)
        for placeholder in query.placeholders
    ]
    pieces: list[sql.Composable] = [sql.SQL("("), sql.SQL(query.pieces[0])]
    for value, piece in zip(values, query.pieces[1:], strict=True):
        pieces += [_literal(value, source_type=query.bound_type), sql.SQL(piece)]
    return sql.Composed([*pieces, sql.SQL(") AS q")])


def _where(conditions: Sequence[Condition], *, by_name: dict[str, SourceColumn]) -> sql.Composable:
    if not conditions:
        return sql.SQL("")
    compared = [
        sql.SQL("{} {} {}").format(
            sql.Identifier(condition.column),
            sql.SQL(condition.operator),
            _literal(condition.value, source_type=by_name[condition.column].source_type),
        )
        for condition in conditions
    ]
    return sql.SQL(" WHERE ") + sql.SQL(" AND ").join(compared)


def _literal(value: datetime | date | int | str, *, source_type: str) -> sql.Literal:
    if isinstance(value, datetime) and not source_type.endswith("with time zone"):
        # A timestamp without zone is in UTC by contract; compared with a moment, it would lose its index.
        return sql.Literal(value.replace(tzinfo=None))
    return sql.Literal(value)


def _in_utc(value: datetime | date | int) -> datetime | int:
    if isinstance(value, int):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime(value.year, value.month, value.day, tzinfo=UTC)


def _gather_chunk(
    pgconn: pq.abc.PGconn, *, size_in_bytes: int
) -> PQGen[tuple[Chunk, pq.abc.PGresult | None]]:
    """
    Gather records of a COPY up to the first record boundary behind the size; behind the last one, its result too.

    PostgreSQL sends "always one [CopyData message] per row" (documentation, 54.2.7 "COPY Operations"), so
    where messages end records end, and nothing is parsed for it.

    As psycopg's own `copy_from`, whose iteration enters and leaves `Connection.wait` for each record: that is more
    than half of what reading costs. psycopg 3.3, `psycopg.generators.copy_from`.
    """
    # A BytesIO gives its bytes away without copying them, and its `write` takes a record without a line of Python.
    body, size_of_body, offsets = io.BytesIO(), 0, array("q", [0])
    while True:
        size, record = pgconn.get_copy_data(1)
        if size > 0:
            body.write(record)
            size_of_body += size
            offsets.append(size_of_body)
            if size_of_body >= size_in_bytes:
                return Chunk(body.getvalue(), offsets), None
        elif size == 0:
            while not (yield Wait.R):
                continue
            pgconn.consume_input()
        else:
            (result,) = yield from fetch_many(pgconn)
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise errors.error_from_result(result)
            return Chunk(body.getvalue(), offsets), result


def _columns_by_name(columns: Sequence[SourceColumn]) -> dict[str, SourceColumn]:
    return {column.name: column for column in columns}


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()


def _place(contract: TableContract) -> str:
    return f"source {contract.source!r}, table {contract.origin_name!r}"


def _one_value(connection: psycopg.Connection, query: sql.SQL | sql.Composed) -> Any:
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def _require_utf8(chunk: Chunk, place: str) -> None:
    try:
        str(chunk.body, "utf-8")
    except UnicodeDecodeError as error:
        raise Refused(
            Reason.VALUE_NOT_REPRESENTABLE,
            f"{place}: the database is in SQL_ASCII and holds text that is not UTF-8; give the COPY a view "
            "that converts it",
        ) from error.with_traceback(None)


@contextmanager
def _translated(place: str) -> Iterator[None]:
    """
    Turn the driver's errors into ours.

    Only the first line of the server's message is kept, since detail and context repeat values of rows; and not
    even that one of errors that may be about data.
    """
    try:
        yield
    except errors.InsufficientPrivilege as error:
        raise Refused(Reason.TABLE_MISSING, f"{place}: {_said(error)}") from None
    except errors.UndefinedTable as error:
        raise Refused(Reason.TABLE_MISSING, f"{place}: {_said(error)}") from None
    except psycopg.DataError as error:
        raise Refused(
            Reason.VALUE_NOT_REPRESENTABLE,
            f"{place}: a value cannot be computed, or converted to UTF-8 "
            f"({type(error).__name__}, SQLSTATE {error.sqlstate})",
        ) from None
    except psycopg.Error as error:
        if (error.sqlstate or "").startswith(_CONFLICTS):
            raise SourceConflict(f"{place}: {_said(error)}; it will be read again whole") from None
        raise SourceUnavailable(f"{place}: {_said(error)}") from None


#: A deadlock, a standby that cancels what stands in the way of replaying, a lock that could not be had. By state and
#: not by class: of the errors that end a session, psycopg has no class for each.
#: Source: PostgreSQL documentation, appendix A, and 27.4.2 "Handling Query Conflicts".
_CONFLICTS = ("40", "55P03")


#: Classes of SQLSTATE whose messages tell of servers, rights and names only. All others may quote values: a view's
#: function can raise any text, or run one as SQL. Source: PostgreSQL documentation, appendix A.
_SPEAKING_CLASSES = frozenset({"08", "25", "28", "3D", "3F", "40", "53", "55", "57"})
_SPEAKING_STATES = frozenset({"42501", "42703", "42P01"})


def _said(error: psycopg.Error) -> str:
    state = error.sqlstate
    if state is None or state[:2] in _SPEAKING_CLASSES or state in _SPEAKING_STATES:
        return f"{type(error).__name__}: {error.diag.message_primary or error}"
    return f"{type(error).__name__}, SQLSTATE {state}; the server's own log tells more"
