"""
Reads any database that speaks SQL: what is said is the dialect's, how it is carried is the driver's.

A batch is read in one transaction of one connection, which sees one moment of the database. Every value leaves it as
the server's own text, and where the product can, the server writes whole records: one text for each row is several
times as fast through any driver as one for each value, and the driver has nothing to convert.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime

from services.extractor.dialects import Dialect, DialectName
from services.extractor.dialects.registry import dialect_of
from services.extractor.drift import compare, findings_of, require_agreement, tell_applied, unclassified
from services.extractor.readers import (
    Chunk,
    Condition,
    CursorBounds,
    Finding,
    ReadLimits,
    SourceColumn,
    conditions_of,
    fingerprint_of,
)
from services.extractor.readers.database import DatabaseSnapshot, require_distinct
from services.extractor.readers.sql.cells import cell_sums
from services.extractor.readers.sql.driver import Driver, ServerError, WatchedConnection
from services.extractor.readers.sql.pages import statements_of
from services.extractor.readers.sql.records import RecordQuery, chunks_of
from shared.domain.contracts import CursorScale, SourceKind, TableContract
from shared.domain.drift import Drift
from shared.domain.key_ranges import CellSums, Interval, KeySpan
from shared.domain.reasons import Reason
from shared.domain.source_queries import SourceQuery
from shared.domain.windows import Extent, Window
from shared.errors import EsclusaError, Refused, SourceUnavailable
from shared.ports import SecretStore

#: So many rows a driver holds beside those that are handed on, unless they are too large.
ROWS_AHEAD = 200
MAX_OCTETS_AHEAD = 32 * 1024 * 1024


def open_sql_reader(contract: TableContract, *, secrets: SecretStore, limits: ReadLimits) -> "SqlReader":
    """Return the reader of a table that is reached through ODBC or SQLAlchemy."""
    connection = contract.origin.connection
    dialect = dialect_of(DialectName(connection["dialect"]))
    driver = driver_of(
        contract.origin.kind,
        connection,
        dialect=dialect.name,
        secrets=secrets,
        connect_timeout_seconds=limits.connect_timeout_seconds,
        place=place_of(contract),
    )
    return SqlReader(contract, driver=driver, dialect=dialect, limits=limits)


def driver_of(
    kind: SourceKind,
    connection: Mapping[str, str],
    *,
    dialect: DialectName,
    secrets: SecretStore,
    connect_timeout_seconds: int,
    place: str,
) -> Driver:
    """Return what connects to a source of kind `odbc`, or else `sqlalchemy`, by what its file says of the connection."""
    # Deferred: an image may have the one way and not the other.
    if kind is SourceKind.ODBC:
        from services.extractor.readers.sql.odbc import OdbcDriver

        return OdbcDriver(
            connection["connection_string"],
            dialect=dialect,
            secrets=secrets,
            connect_timeout_seconds=connect_timeout_seconds,
            place=place,
            fetches_rows=connection.get("fetch") == "rows",
        )
    from services.extractor.readers.sql.alchemy import AlchemyDriver

    return AlchemyDriver(
        connection["url"],
        dialect=dialect,
        secrets=secrets,
        connect_timeout_seconds=connect_timeout_seconds,
        place=place,
    )


class SqlReader:
    """A table or view of a database, by its dialect and a driver. See `SourceReader`."""

    def __init__(
        self, contract: TableContract, *, driver: Driver, dialect: Dialect, limits: ReadLimits
    ) -> None:
        self._contract = contract
        self._driver = driver
        self._dialect = dialect
        self._limits = limits
        self._timeout_seconds = int(
            contract.origin.connection.get("timeout_seconds", limits.read_timeout_seconds)
        )
        self._place = place_of(contract)
        self._looking: WatchedConnection | None = None

    def close(self) -> None:
        """Leave the database."""
        if self._looking is not None:
            self._looking.close()
            self._looking = None

    def clock(self) -> datetime:
        """Return the database's clock; see `SourceReader`."""
        with self._look() as connection:
            return self._read_clock(connection)

    def open_since(self) -> datetime | None:
        """Return the start of the oldest open transaction that has written; see `SourceReader`."""
        with self._look() as connection:
            return self._read_open_since(connection)

    def check(self) -> list[Finding]:
        """Look at connection, rights and columns; see `SourceReader`."""
        subject = f"{self._contract.source}.{self._contract.table}"
        try:
            with self._look() as connection:
                self._find(connection)
                columns = self._describe(connection)
                drift = self._compare(connection, columns)
                if not drift.held:
                    connection.query(self._query(columns, []).no_row())
        except EsclusaError as error:
            return [Finding(subject, is_ok=False, detail=str(error))]
        return findings_of(self._contract, drift)

    def drift(self) -> Drift:
        """Return what the table has otherwise; see `SourceReader`."""
        with self._look() as connection:
            self._find(connection)
            return self._compare(connection, self._describe(connection))

    def count_rows(self, window: Window | None = None, *, extent: Extent | None = None) -> int:
        """Return how many rows a window has, or the table; see `SourceReader`."""
        with self._look() as connection:
            query = self._query_in_agreement(connection, window, extent)
            return int(_only_text(connection.query(query.count())) or 0)

    def cursor_bounds(self, window: Window | None = None) -> CursorBounds | None:
        """Return the bounds of the cursor's values; see `SourceReader`. None if one is no moment that Python knows."""
        cursor = self._contract.cursor
        if cursor is None:
            return None
        with self._look() as connection:
            query = self._query_in_agreement(connection, window, None)
            ((low, high),) = connection.query(query.bounds(cursor.column))
        if low is None or high is None:
            return None
        if self._contract.cursor_scale is CursorScale.COUNT:
            return CursorBounds(int(low), int(high))
        try:
            return CursorBounds(_moment(low), _moment(high))
        except ValueError:
            return None

    @contextmanager
    def open_snapshot(self, window: Window, *, extent: Extent | None = None) -> "Iterator[SqlSnapshot]":
        """Begin to read a window; see `SourceReader`."""
        conditions = conditions_of(self._contract, window, extent=extent)
        with self._snapshot(conditions, rows_ahead=ROWS_AHEAD) as snapshot:
            rows_ahead = MAX_OCTETS_AHEAD // snapshot.max_record_octets
            if rows_ahead >= ROWS_AHEAD:
                yield snapshot
                return
        # Its rows are so large that the driver must hold fewer. Nothing of the first snapshot was read.
        with self._snapshot(conditions, rows_ahead=max(rows_ahead, 1)) as snapshot:
            yield snapshot

    # ---- the steps -----------------------------------------------------------------------------------------

    @contextmanager
    def _snapshot(self, conditions: Sequence[Condition], *, rows_ahead: int) -> "Iterator[SqlSnapshot]":
        with self._session(rows_ahead) as connection:
            # Before the snapshot: a clock read in it would promise commits that it does not see.
            taken_at = self._read_clock(connection)
            open_since = self._read_open_since(connection)
            kind = self._find(connection)
            if not self._dialect.begins_by_statement:
                self._run(connection, self._dialect.end_snapshot())
            if self._contract.query is None:
                self._run(connection, self._dialect.begin_snapshot())
                self._run(connection, self._dialect.hold(*self._names, kind))
                columns = self._describe(connection)
                query = self._query_of_snapshot(connection, columns, conditions)
            else:
                # By another session: some products describe by what no snapshot allows.
                with self._look() as other:
                    columns = self._describe(other)
                with self._held_beside(self._query(columns, conditions)):
                    self._run(connection, self._dialect.begin_snapshot())
                    query = self._query_of_snapshot(connection, columns, conditions)
                    connection.query(query.touch())
            yield SqlSnapshot(
                self,
                connection,
                query,
                columns=columns,
                taken_at=taken_at,
                open_since=open_since,
                max_record_octets=query.measure(connection),
            )
            self._run(connection, self._dialect.end_snapshot())

    def _query_of_snapshot(
        self,
        connection: WatchedConnection,
        columns: tuple[SourceColumn, ...],
        conditions: Sequence[Condition],
    ) -> RecordQuery:
        drift = require_agreement(
            self._contract,
            columns,
            types=self._dialect,
            place=self._place,
            unique_keys=self._unique_keys(connection),
        )
        tell_applied(self._contract, drift)
        return self._query(columns, conditions)

    @contextmanager
    def _held_beside(self, query: RecordQuery) -> Iterator[None]:
        """Hold what a query reads by another session, where a snapshot alone would come too late for it."""
        if not self._dialect.holds_tables_late:
            yield
            return
        with self._look() as other:
            self._run(other, self._dialect.begin_snapshot())
            other.query(query.touch())
            yield
            self._run(other, self._dialect.end_snapshot())

    @contextmanager
    def _session(self, rows_ahead: int | None = None) -> Iterator[WatchedConnection]:
        connection = self._open(rows_ahead)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _look(self) -> Iterator[WatchedConnection]:
        """The connection for questions between batches: opened at the first, and anew after a failure."""
        if self._looking is None:
            self._looking = self._open()
        self._looking.allow(self._timeout_seconds)
        try:
            yield self._looking
        except EsclusaError:
            self.close()
            raise

    def _open(self, rows_ahead: int | None = None) -> WatchedConnection:
        """Open a session with every setting that shapes text or bounds time."""
        connection = WatchedConnection(
            lambda: self._driver.connect(
                rows_ahead=rows_ahead,
                is_autocommitting=rows_ahead is None or self._dialect.begins_by_statement,
            ),
            seconds=self._limits.connect_timeout_seconds,
            place=self._place,
        )
        connection.allow(self._timeout_seconds)
        settings = self._dialect.session_settings(
            statement_timeout_seconds=self._timeout_seconds,
            lock_timeout_seconds=self._limits.lock_timeout_seconds,
        )
        try:
            self._run(connection, settings)
        except EsclusaError:
            connection.close()
            raise
        return connection

    def _run(self, connection: WatchedConnection, statements: Sequence[str]) -> None:
        for statement in statements:
            connection.execute(statement)

    def _read_clock(self, connection: WatchedConnection) -> datetime:
        text = _only_text(connection.query(self._dialect.clock()))
        if text is None:
            raise SourceUnavailable(
                f"{self._place}: the server tells no clock; a standby that has replayed nothing has none yet"
            )
        return _moment(text)

    def _read_open_since(self, connection: WatchedConnection) -> datetime | None:
        statement = self._dialect.oldest_open_transaction()
        if statement is None:
            return None
        try:
            text = _only_text(connection.query(statement))
        except Refused:
            # A login that may not see the transactions of others: then the lag alone has to do.
            return None
        return None if text is None else _moment(text)

    def _find(self, connection: WatchedConnection) -> str:
        if self._contract.query is not None:
            return "query"
        kind = _only_text(connection.query(self._dialect.table(*self._names)))
        if kind is None:
            raise Refused(
                Reason.TABLE_MISSING,
                f"{self._place}: the database has no table or view of that name that this login may see",
            )
        return kind

    def _describe(self, connection: WatchedConnection) -> tuple[SourceColumn, ...]:
        if self._contract.query is not None:
            return self._describe_query(connection, self._contract.query)
        rows = connection.query(self._dialect.columns(*self._names))
        return tuple(
            SourceColumn(name or "", source_type or "", nullable == "1")
            for name, source_type, nullable in rows
        )

    def _describe_query(self, connection: WatchedConnection, query: SourceQuery) -> tuple[SourceColumn, ...]:
        """
        Return the columns that a query gives; none of its rows is looked for.

        Raises:
            Refused: if the server does not take it, or two of its columns have one name.
        """
        text = query.written(lambda _: self._dialect.parameter(query.bound_type).replace("?", "NULL"))
        needs = ""
        try:
            names = self._dialect.names_of_query(text)
            found = [name or "" for (name,) in connection.query(names)] if names else []
            require_distinct(found, place=self._place)
            description = self._dialect.describe_query(text, found)
            needs = f" (describing a query needs {description.needs})" if description.needs else ""
            self._run(connection, description.before)
            rows = connection.query(description.columns)
            self._run(connection, description.after)
        except ServerError as error:
            if not error.first_line:
                raise
            # No row was read, so what the server says is of the query alone.
            raise Refused(Reason.QUERY_INVALID, f"{self._place}: {error.first_line}{needs}") from None
        except Refused as refusal:
            raise Refused(refusal.reason, f"{refusal.detail}{needs}") from None
        columns = tuple(SourceColumn(row[0] or "", row[1] or "", row[2] in {"1", "YES"}) for row in rows)
        require_distinct([column.name for column in columns], place=self._place)
        return columns

    def _compare(self, connection: WatchedConnection, columns: Sequence[SourceColumn]) -> Drift:
        return compare(
            self._contract, columns, types=self._dialect, unique_keys=self._unique_keys(connection)
        )

    def _unique_keys(self, connection: WatchedConnection) -> list[list[str]]:
        """Return the primary key, the only one that each product tells alike; none if it has none."""
        if self._contract.query is not None:
            return []
        key = [name or "" for (name,) in connection.query(self._dialect.key(*self._names))]
        return [key] if key else []

    def describe_anew(self) -> tuple[SourceColumn, ...]:
        """Return the columns as a new session sees them: a snapshot may not see them change."""
        if self._contract.query is not None:
            # The session that described it at first is beside the snapshot's: a third is not needed.
            with self._look() as connection:
                return self._describe(connection)
        with self._session() as connection:
            return self._describe(connection)

    def _query_in_agreement(
        self, connection: WatchedConnection, window: Window | None, extent: Extent | None
    ) -> RecordQuery:
        self._find(connection)
        columns = self._describe(connection)
        require_agreement(self._contract, columns, types=self._dialect, place=self._place)
        return self._query(columns, conditions_of(self._contract, window, extent=extent, with_overlap=False))

    def _query(self, columns: Sequence[SourceColumn], conditions: Sequence[Condition]) -> RecordQuery:
        return RecordQuery(
            self._contract, dialect=self._dialect, columns=columns, conditions=conditions, place=self._place
        )

    @property
    def contract(self) -> TableContract:
        """The table that is read."""
        return self._contract

    @property
    def chunk_size_in_bytes(self) -> int:
        """Where chunks are cut."""
        return self._limits.chunk_size_in_bytes

    @property
    def _names(self) -> tuple[str, str]:
        schema, name = self._contract.relation
        return schema, name


class SqlSnapshot(DatabaseSnapshot):
    """One transaction on one table. See `SourceSnapshot`."""

    def __init__(
        self,
        reader: SqlReader,
        connection: WatchedConnection,
        query: RecordQuery,
        *,
        columns: tuple[SourceColumn, ...],
        taken_at: datetime,
        open_since: datetime | None,
        max_record_octets: int,
    ) -> None:
        super().__init__(columns, taken_at=taken_at, open_since=open_since)
        self._reader = reader
        self._connection = connection
        self._query = query
        #: No record of it is larger.
        self.max_record_octets = max_record_octets

    def read(self) -> Generator[Chunk, None, None]:
        """Read the rows of the window; see `SourceSnapshot`."""
        self._query.require_cursor_values(self._connection)
        yield from self._read(self._query)

    def key_span(self, column: str) -> KeySpan | None:
        """Return how many rows there are, and the bounds of a key column; see `RangedSnapshot`."""
        row_count, keyless_count = self._query.keyless_in(self._connection, column)
        if not row_count:
            return None
        if keyless_count:
            return KeySpan(row_count, 0, 0, keyless_count)
        return KeySpan(row_count, *self._query.bounds_in(self._connection, column))

    def cell_sums(self, column: str, *, bits: int) -> dict[int, CellSums]:
        """Return what the rows of each range add up to; see `RangedSnapshot`."""
        return cell_sums(
            self._connection, self._query, column, bits=bits, max_text_octets=self.max_record_octets
        )

    def read_ranges(self, column: str, intervals: Sequence[Interval]) -> Generator[Chunk, None, None]:
        """Read the rows of some ranges; see `RangedSnapshot`."""
        for interval in intervals:
            yield from self._read(self._query.within(column, interval))

    def _read(self, query: RecordQuery) -> Generator[Chunk, None, None]:
        chunk_size = self._reader.chunk_size_in_bytes
        size = query.result_size(self.max_record_octets, chunk_size_in_bytes=chunk_size)
        for statement in statements_of(self._connection, query, max_record_octets=self.max_record_octets):
            # Closed at once, whatever happens: a result that is not let go of holds the session and its locks.
            with closing(self._connection.stream(statement, size)) as batches:
                for chunk in chunks_of(batches, query=query, size_in_bytes=chunk_size):
                    self._rows_read_count += chunk.record_count
                    yield chunk

    def unclassified_columns(self) -> Sequence[SourceColumn]:
        """Return the columns that the contract does not know."""
        return unclassified(self._reader.contract, self._columns)

    def current_fingerprint(self) -> str:
        """Return the fingerprint as a new session sees it."""
        return fingerprint_of(self._reader.describe_anew())


def place_of(contract: TableContract) -> str:
    """Return how errors name a table."""
    return f"source {contract.source!r}, table {contract.origin_name!r}"


def _only_text(rows: Sequence[tuple[str | None, ...]]) -> str | None:
    return rows[0][0] if rows else None


def _moment(text: str) -> datetime:
    """Return a moment from its text; without an offset, and for a day, it is in UTC."""
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
