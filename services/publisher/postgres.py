"""The warehouse in PostgreSQL: embedded on one machine, and a real choice for those without Redshift."""

from collections.abc import Generator
from contextlib import contextmanager

import polars as pl
import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import TextLoader

from services.publisher import statements
from services.publisher.postgres_load import load_batch, prune_gone, rebuild_table
from services.publisher.postgres_session import Cursor, count, settings_of, transaction, translated
from services.publisher.postgres_tables import ensure_schemas
from services.publisher.read_back import typed_block
from services.publisher.warehouse import (
    LoadResult,
    NativeLoad,
    PruneResult,
    QueryFailed,
    QueryResult,
    Rebuild,
    RebuildResult,
)
from shared.answering import connect
from shared.domain.contracts import TableContract
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window
from shared.errors import ConfigurationError, Refused
from shared.ports import ObjectStore

log = structlog.get_logger()

#: Below the worker's soft time limit, so that the error has a name.
DEFAULT_LOAD_TIMEOUT_SECONDS = 780.0
CONNECT_TIMEOUT_SECONDS = 5
#: A whole table may be read back; nobody waits for it but the comparison.
READ_TIMEOUT_SECONDS = 3600.0
READ_BLOCK_SIZE_IN_BYTES = 8 * 1024 * 1024
#: A rebuild reads every file of a table in one transaction.
REBUILD_TIMEOUT_SECONDS = 4 * 3600.0


class PostgresWarehouse:
    """Native tables in one PostgreSQL database; see `Warehouse`. Connects for each call, keeps nothing open."""

    def __init__(
        self,
        dsn: str,
        *,
        store: ObjectStore,
        analysts_role: str = "",
        load_timeout_seconds: float = DEFAULT_LOAD_TIMEOUT_SECONDS,
    ) -> None:
        try:
            conninfo_to_dict(dsn)
        except psycopg.Error:
            # Its own text may quote the password.
            raise ConfigurationError(
                "the warehouse's DSN: expected postgresql://role:password@host:port/database"
            ) from None
        self._dsn = dsn
        self._store = store
        self._analysts_role = analysts_role
        self._load_timeout_seconds = load_timeout_seconds

    def load(self, load: NativeLoad) -> LoadResult:
        """Bring a batch into its table in one transaction; see `Warehouse`."""
        target = statements.target_table(load)
        settings = _load_settings(self._load_timeout_seconds)
        with translated(target.name), self._connect(self._load_timeout_seconds) as connection:
            ensure_schemas(connection, load, target, settings, analysts_role=self._analysts_role)
            with transaction(connection, settings) as cursor:
                result = load_batch(cursor, load, target, store=self._store)
        log.info(
            "native_load_finished",
            table=target.name,
            is_superseded=result.is_superseded,
            was_loaded_before=result.was_loaded_before,
            **result.counts,
        )
        return result

    def prune(self, load: NativeLoad) -> PruneResult:
        """Delete the rows whose keys a key sweep does not have; see `Warehouse`."""
        target = statements.target_table(load)
        settings = _load_settings(self._load_timeout_seconds)
        with translated(target.name), self._connect(self._load_timeout_seconds) as connection:
            ensure_schemas(connection, load, target, settings, analysts_role=self._analysts_role)
            with transaction(connection, settings) as cursor:
                result = prune_gone(cursor, load, target, store=self._store)
        log.info(
            "native_prune_finished",
            table=target.name,
            was_loaded_before=result.was_loaded_before,
            **result.counts,
        )
        return result

    def rebuild(self, rebuild: Rebuild) -> RebuildResult:
        """Make a table anew of some of its batches in one transaction; see `Warehouse`."""
        load = rebuild.newest
        target = statements.target_table(load)
        settings = _load_settings(REBUILD_TIMEOUT_SECONDS)
        with translated(target.name), self._connect(REBUILD_TIMEOUT_SECONDS) as connection:
            ensure_schemas(connection, load, target, settings, analysts_role=self._analysts_role)
            with transaction(connection, settings) as cursor:
                result = rebuild_table(cursor, rebuild, target, store=self._store)
        log.info(
            "native_table_rebuilt",
            table=target.name,
            rebuild=rebuild.id,
            is_held=rebuild.is_held,
            batch_count=len(rebuild.loads),
            withdrawn_count=len(rebuild.withdrawn_batch_ids),
            record_count=result.row_count,
            was_done_before=result.was_done_before,
        )
        return result

    def row_count(self, source: str, table: str) -> int:
        """Return how many rows analysts see in a table; see `Warehouse`."""
        statement = statements.count_view(source, table)
        settings = settings_of(statement_timeout=self._load_timeout_seconds)
        try:
            with (
                translated(f"{source}.{table}"),
                self._connect(self._load_timeout_seconds) as connection,
                transaction(connection, settings) as cursor,
            ):
                return count(cursor, statement)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise KeyError(f"{source}.{table}") from error

    def read_rows(
        self, contract: TableContract, *, window: Window | None = None, extent: Extent | None = None
    ) -> Generator[pl.DataFrame, None, None]:
        """
        Return what analysts see in a table; see `Warehouse`.

        One COPY, so one snapshot. It holds up loads only while they change the view.
        """
        name = f"{contract.source}.{contract.table}"
        statement = statements.copy_view(contract, window=window, extent=extent)
        with translated(name), self._connect(READ_TIMEOUT_SECONDS) as connection:
            connection.read_only = True
            with transaction(connection, settings_of(statement_timeout=READ_TIMEOUT_SECONDS)) as cursor:
                try:
                    for records in _copied_records(cursor, statement):
                        yield typed_block(records, contract=contract, place=f"warehouse, {name}")
                except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                    return
                except psycopg.errors.UndefinedColumn as error:
                    raise Refused(
                        Reason.TARGET_INCOMPATIBLE,
                        f"warehouse, {name}: {error.diag.message_primary}; the contract has that column",
                    ) from None

    def query(self, sql: str, *, row_limit: int, timeout_seconds: float) -> QueryResult:
        """
        Answer one statement in a read-only transaction; see `Warehouse`.

        Dates, times and JSON come as PostgreSQL writes them: Python has no infinity and no year 10000.
        """
        settings = settings_of(statement_timeout=timeout_seconds, lock_timeout=timeout_seconds)
        with translated("query"), self._connect(timeout_seconds) as connection:
            for name in ("date", "timestamp", "timestamptz", "json", "jsonb"):
                connection.adapters.register_loader(name, TextLoader)
            connection.read_only = True
            with transaction(connection, settings):
                return _answer(connection, sql, row_limit=row_limit, timeout_seconds=timeout_seconds)

    @contextmanager
    def _connect(self, statement_timeout_seconds: float) -> Generator[psycopg.Connection]:
        connection = connect(
            self._dsn,
            statement_timeout_seconds=statement_timeout_seconds,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            client_encoding="UTF8",
            application_name="esclusa-publisher",
            # `$1` for values: any other style reads the `%` in a column's name.
            cursor_factory=psycopg.RawCursor,
        )
        with connection:
            yield connection


def _load_settings(timeout_seconds: float) -> dict[str, str]:
    return settings_of(
        statement_timeout=timeout_seconds,
        # Other batches of the table may load for as long.
        lock_timeout=timeout_seconds,
        idle_in_transaction_session_timeout=timeout_seconds,
    )


# ---- reading back -------------------------------------------------------------------------------------------


def _copied_records(cursor: Cursor, statement: str) -> Generator[bytes, None, None]:
    """Gather the records of a COPY into blocks: the server sends one message per record."""
    block = bytearray()
    with cursor.copy(statement) as copy:
        for record in copy:
            block += record
            if len(block) >= READ_BLOCK_SIZE_IN_BYTES:
                yield bytes(block)
                block.clear()
    if block:
        yield bytes(block)


# ---- a query ---------------------------------------------------------------------------------------------------


def _answer(
    connection: psycopg.Connection, sql: str, *, row_limit: int, timeout_seconds: float
) -> QueryResult:
    # A cursor of the server takes one SELECT and nothing else, by the extended protocol: nobody leaves the
    # read-only transaction by a COMMIT before a second statement. And no more rows come than are asked for.
    try:
        with psycopg.RawServerCursor(connection, "esclusa_query") as cursor:
            cursor.execute(sql)
            rows = tuple(cursor.fetchmany(row_limit + 1))
            columns = tuple(column.name for column in cursor.description or ())
    except psycopg.errors.QueryCanceled:
        raise QueryFailed(f"the answer took longer than {timeout_seconds:g} seconds") from None
    except _REFUSALS as error:
        raise QueryFailed(error.diag.message_primary or str(error)) from None
    return QueryResult(columns=columns, rows=rows[:row_limit], is_cut=len(rows) > row_limit)


# InternalError is also what a write in a read-only transaction raises, ProtocolViolation a `$1` without a value.
_REFUSALS = (
    psycopg.ProgrammingError,
    psycopg.DataError,
    psycopg.NotSupportedError,
    psycopg.InternalError,
    psycopg.errors.ProtocolViolation,
)
