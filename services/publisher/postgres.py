"""The warehouse in PostgreSQL: embedded on one machine, and a real choice for those without Redshift."""

import re
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import polars as pl
import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import TextLoader

from services.publisher import statements
from services.publisher.catalog import says_masked
from services.publisher.read_back import typed_block
from services.publisher.rows import read_blocks
from services.publisher.statements import TargetTable
from services.publisher.warehouse import (
    LoadResult,
    NativeLoad,
    PruneResult,
    QueryFailed,
    QueryResult,
    refuse_burst,
    refuse_clear_values,
    refuse_empty_replace,
)
from shared.answering import connect
from shared.domain.contracts import PublishMode, TableContract
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window
from shared.errors import ConfigurationError, LostLease, Refused, Unavailable
from shared.ports import ObjectStore

log = structlog.get_logger()

#: Below the worker's soft time limit, so that the error has a name.
DEFAULT_LOAD_TIMEOUT_SECONDS = 780.0
CONNECT_TIMEOUT_SECONDS = 5
#: A whole table may be read back; nobody waits for it but the comparison.
READ_TIMEOUT_SECONDS = 3600.0
READ_BLOCK_SIZE_IN_BYTES = 8 * 1024 * 1024
# DDL waits for the running queries of analysts, and new ones wait behind it.
DDL_LOCK_TIMEOUT_SECONDS = 30.0
# One value has one text, whatever server, role or database says.
TEXT_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
# A worker that died with its machine lets go of its locks after about a minute.
KEEP_ALIVE_SETTINGS = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}

# The values of the row follow it, and of JSON an excerpt goes before it.
_COPY_CONTEXT = re.compile(r"^COPY \S+, line (?P<line>[0-9]+), column (?P<column>[^:\n]+)", re.MULTILINE)

_Cursor: TypeAlias = psycopg.Cursor[Any]


class PostgresWarehouse:
    """Native tables in one PostgreSQL database; see `Warehouse`. Connects for each call, keeps nothing open."""

    def __init__(
        self, dsn: str, *, store: ObjectStore, load_timeout_seconds: float = DEFAULT_LOAD_TIMEOUT_SECONDS
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
        self._load_timeout_seconds = load_timeout_seconds

    def load(self, load: NativeLoad) -> LoadResult:
        """Bring a batch into its table in one transaction; see `Warehouse`."""
        target = statements.target_table(load)
        settings = self._load_settings()
        with _translated(target.name), self._connect(self._load_timeout_seconds) as connection:
            _ensure_schemas(connection, load, target, settings)
            with _transaction(connection, settings) as cursor:
                result = _load(cursor, load, target, store=self._store)
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
        settings = self._load_settings()
        with _translated(target.name), self._connect(self._load_timeout_seconds) as connection:
            _ensure_schemas(connection, load, target, settings)
            with _transaction(connection, settings) as cursor:
                result = _prune(cursor, load, target, store=self._store)
        log.info(
            "native_prune_finished",
            table=target.name,
            was_loaded_before=result.was_loaded_before,
            **result.counts,
        )
        return result

    def row_count(self, source: str, table: str) -> int:
        """Return how many rows analysts see in a table; see `Warehouse`."""
        statement = statements.count_view(source, table)
        settings = _settings(statement_timeout=self._load_timeout_seconds)
        try:
            with (
                _translated(f"{source}.{table}"),
                self._connect(self._load_timeout_seconds) as connection,
                _transaction(connection, settings) as cursor,
            ):
                return _count(cursor, statement)
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
        with _translated(name), self._connect(READ_TIMEOUT_SECONDS) as connection:
            connection.read_only = True
            with _transaction(connection, _settings(statement_timeout=READ_TIMEOUT_SECONDS)) as cursor:
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
        settings = _settings(statement_timeout=timeout_seconds, lock_timeout=timeout_seconds)
        with _translated("query"), self._connect(timeout_seconds) as connection:
            for name in ("date", "timestamp", "timestamptz", "json", "jsonb"):
                connection.adapters.register_loader(name, TextLoader)
            connection.read_only = True
            with _transaction(connection, settings):
                return _answer(connection, sql, row_limit=row_limit, timeout_seconds=timeout_seconds)

    def _load_settings(self) -> dict[str, str]:
        return _settings(
            statement_timeout=self._load_timeout_seconds,
            # Other batches of the table may load for as long.
            lock_timeout=self._load_timeout_seconds,
            idle_in_transaction_session_timeout=self._load_timeout_seconds,
        )

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


# ---- a load, step by step ------------------------------------------------------------------------------------


def _load(cursor: _Cursor, load: NativeLoad, target: TargetTable, *, store: ObjectStore) -> LoadResult:
    _lock_table(cursor, target)
    if (before := _find_load_before(cursor, load)) and before.was_loaded_before:
        return before
    newest_window_end, newest_contract = _one(
        cursor,
        statements.FIND_TABLE_STATE,
        [load.contract.source, load.contract.table, load.batch_id],
    )
    if load.contract.publishing.mode is PublishMode.REPLACE:
        if newest_window_end is not None and load.as_of < newest_window_end:
            return LoadResult(is_superseded=True)
        refuse_empty_replace(load)
    if newest_contract is not None and newest_contract > load.contract_version:
        shown = cursor.execute(statements.FIND_COLUMNS, _view_names(load)).fetchall()
        refuse_clear_values(load, masked={name for name, _, comment in shown if says_masked(comment)})
    is_newest_contract = newest_contract is None or load.contract_version >= newest_contract
    _prepare_base(cursor, load, target, may_widen=is_newest_contract)
    _stage(cursor, load, target, store=store)
    mode = _MODES[load.contract.publishing.mode]
    if before is not None and load.contract.publishing.mode is PublishMode.APPEND:
        # A replay. Without a marker no row of the batch is there, and looking for some reads the whole table.
        cursor.execute(statements.delete_batch(target), [load.batch_id])
    result = mode(cursor, load, target)
    _save_marker(cursor, load, result)
    if is_newest_contract:
        _show_view(cursor, load, target)
    return result


def _lock_table(cursor: _Cursor, target: TargetTable) -> None:
    cursor.execute(statements.LOCK, [f"esclusa load {target.name}"])
    cursor.execute(
        statements.SET_FOR_TRANSACTION, [["lock_timeout"], [_milliseconds(DDL_LOCK_TIMEOUT_SECONDS)]]
    )


def _find_load_before(cursor: _Cursor, load: NativeLoad) -> LoadResult | None:
    """Return what an earlier load of the batch came to; None if there was none."""
    row = cursor.execute(statements.FIND_LOAD, [load.batch_id]).fetchone()
    if row is None:
        return None
    attempt, manifest, staged, inserted, updated, unchanged, _ = row
    if attempt > load.attempt:
        raise LostLease(
            f"batch {load.batch_id}: attempt {attempt} of publish has loaded it, this is attempt {load.attempt}"
        )
    return LoadResult(
        staged, inserted, updated, unchanged, was_loaded_before=manifest == load.manifest_sha256
    )


def _prepare_base(cursor: _Cursor, load: NativeLoad, target: TargetTable, *, may_widen: bool) -> None:
    """Create the base table, or bring it to the contract; its types only to a contract that is the newest."""
    names = _base_names(load)
    found = {name: type_ for name, type_, _ in cursor.execute(statements.FIND_COLUMNS, names).fetchall()}
    if not found:
        cursor.execute(statements.create_base(target))
    else:
        outgrown = [
            column
            for column in target.columns
            if may_widen
            and statements.can_be_widened(found.get(column.name, ""), column.type)
            # A column that took smaller numbers before takes them still.
            and not statements.holds(found[column.name], column.type)
        ]
        _refuse_unfit_columns(found, target, but={column.name for column in outgrown})
        if missing := [column for column in target.columns if column.name not in found]:
            cursor.execute(statements.add_columns(target, missing))
        if outgrown:
            with _view_taken_away(cursor, load, target):
                cursor.execute(statements.widen_columns(target, outgrown))
            types = {column.name: [found[column.name], column.type] for column in outgrown}
            log.warning("native_columns_widened", table=target.name, columns=types)
    if load.contract.publishing.mode is PublishMode.MERGE:
        keys = [set(row[0]) for row in cursor.execute(statements.FIND_UNIQUE_KEYS, names).fetchall()]
        if set(load.contract.key) not in keys:
            cursor.execute(statements.create_unique_key(target))


def _refuse_unfit_columns(found: Mapping[str, str], target: TargetTable, *, but: Collection[str]) -> None:
    wanted = {column.name: column.type for column in target.columns if column.name not in but}
    wanted |= {statements.BATCH_COLUMN: "text", statements.WINDOW_COLUMN: "timestamp with time zone"}
    hidden = {statements.BATCH_COLUMN, statements.WINDOW_COLUMN}
    unfit = [
        f"column {name!r} should be {type_}, found {found.get(name, 'none')}"
        for name, type_ in wanted.items()
        if (name in found or name in hidden) and not statements.holds(found.get(name, ""), type_)
    ]
    if unfit:
        raise Refused(
            Reason.TARGET_INCOMPATIBLE,
            f"{target.name}: its base table {target.base} does not fit the contract: {'; '.join(unfit)}; change "
            "the base table or give the column another name, then replay the batch",
        )


def _stage(cursor: _Cursor, load: NativeLoad, target: TargetTable, *, store: ObjectStore) -> None:
    """
    Copy all rows of the batch into the staging table, and prove that they are as many as the ledger says.

    Raises:
        Refused: PROOF_FAILED if they are not, NULL_KEY if a merge could not find them again.
    """
    cursor.execute(statements.create_stage(target))
    with cursor.copy(statements.copy_into_stage(target)) as copy:
        for file in load.files:
            for block in read_blocks(file, columns=load.contract.output_columns, store=store):
                copy.write(as_csv(block))
    _prove(target, "staged rows", expected=load.record_count, found=_count(cursor, statements.COUNT_STAGED))
    cursor.execute(statements.ANALYZE_STAGE)
    if target.key and (count := _count(cursor, statements.count_null_keys(target))):
        raise Refused(
            Reason.NULL_KEY,
            f"{target.name}: {count} rows of batch {load.batch_id} have NULL in the key {', '.join(target.key)}",
        )


def _append(cursor: _Cursor, load: NativeLoad, target: TargetTable) -> LoadResult:
    staged = load.record_count
    cursor.execute(statements.insert_all_from_stage(target), [load.as_of, load.batch_id])
    _prove(target, "inserted rows", expected=staged, found=cursor.rowcount)
    return LoadResult(rows_staged=staged, rows_inserted=staged)


def _merge(cursor: _Cursor, load: NativeLoad, target: TargetTable) -> LoadResult:
    cursor.execute(statements.delete_older_versions(target))
    inserted, updated = _one(cursor, statements.count_merge(target), [load.as_of])
    cursor.execute(statements.update_from_stage(target), [load.as_of, load.batch_id])
    cursor.execute(statements.insert_new_from_stage(target), [load.as_of, load.batch_id])
    _prove(target, "inserted rows", expected=inserted, found=cursor.rowcount)
    missing = _count(cursor, statements.count_missing_keys(target))
    _prove(target, "keys of the batch that are missing after the merge", expected=0, found=missing)
    return LoadResult(
        rows_staged=load.record_count,
        rows_inserted=inserted,
        rows_updated=updated,
        rows_unchanged=load.record_count - inserted - updated,
    )


def _replace(cursor: _Cursor, load: NativeLoad, target: TargetTable) -> LoadResult:
    if target.key:
        cursor.execute(statements.delete_older_versions(target))
    snapshot_count = _count(cursor, statements.COUNT_STAGED)
    cursor.execute(statements.delete_all(target))
    cursor.execute(statements.insert_all_from_stage(target), [load.as_of, load.batch_id])
    found = _count(cursor, statements.count_base(target))
    _prove(target, "rows of the snapshot", expected=snapshot_count, found=found)
    return LoadResult(
        rows_staged=load.record_count,
        rows_inserted=snapshot_count,
        rows_unchanged=load.record_count - snapshot_count,
    )


def _prune(cursor: _Cursor, load: NativeLoad, target: TargetTable, *, store: ObjectStore) -> PruneResult:
    _lock_table(cursor, target)
    row = cursor.execute(statements.FIND_LOAD, [load.batch_id]).fetchone()
    if (before := _find_load_before(cursor, load)) and before.was_loaded_before and row is not None:
        return PruneResult(before.rows_staged, row[-1], was_loaded_before=True)
    deleted = 0
    if _has_keys(cursor, load, target):
        _stage(cursor, load, target, store=store)
        told = [load.as_of, list(load.same_key_versions)]
        gone, total = _one(cursor, statements.count_gone(target), told)
        refuse_burst(load, deleted=gone, total=total)
        cursor.execute(statements.delete_gone(target), told)
        deleted = cursor.rowcount
        _prove(target, "deleted rows", expected=gone, found=deleted)
    result = LoadResult(rows_staged=load.record_count)
    _save_marker(cursor, load, result, mode=statements.PRUNE_MODE, deleted=deleted)
    return PruneResult(load.record_count, deleted)


def _has_keys(cursor: _Cursor, load: NativeLoad, target: TargetTable) -> bool:
    """
    Return whether a table has the columns of the key. One without, or that is not there yet, has no row of it.

    Raises:
        Refused: TARGET_INCOMPATIBLE if they are of types that cannot be compared with the key's.
    """
    found = {name: type_ for name, type_, _ in cursor.execute(statements.FIND_COLUMNS, _base_names(load))}
    if any(column.name not in found for column in target.columns):
        return False
    widened_later = {
        column.name for column in target.columns if statements.can_be_widened(found[column.name], column.type)
    }
    _refuse_unfit_columns(found, target, but=widened_later)
    return True


_MODES: Mapping[PublishMode, Callable[[_Cursor, NativeLoad, TargetTable], LoadResult]] = {
    PublishMode.APPEND: _append,
    PublishMode.MERGE: _merge,
    PublishMode.REPLACE: _replace,
}


def _save_marker(
    cursor: _Cursor, load: NativeLoad, result: LoadResult, *, mode: str = "", deleted: int = 0
) -> None:
    cursor.execute(
        statements.SAVE_LOAD,
        [
            load.batch_id,
            load.contract.source,
            load.contract.table,
            mode or load.contract.publishing.mode,
            load.slot,
            load.window.start,
            load.window.end,
            load.contract_version,
            load.attempt,
            load.manifest_sha256,
            result.rows_staged,
            result.rows_inserted,
            result.rows_updated,
            result.rows_unchanged,
            deleted,
        ],
    )


def _show_view(cursor: _Cursor, load: NativeLoad, target: TargetTable) -> None:
    """Bring the analysts' view to the contract, if it is not there yet. What was granted on it stays."""
    view_names = _view_names(load)
    base_types = {
        name: type_
        for name, type_, _ in cursor.execute(statements.FIND_COLUMNS, _base_names(load)).fetchall()
    }
    wanted = [(column.name, base_types[column.name], column.comment) for column in target.columns]
    relation = cursor.execute(statements.FIND_RELATION, view_names).fetchone()
    if relation is None:
        cursor.execute(statements.create_view(target))
    else:
        kind, comment, _ = relation
        if kind != "v":
            raise Refused(
                Reason.TARGET_INCOMPATIBLE,
                f"{target.name}: expected to make the view {target.view}, but another relation has its name; rename it, "
                "then replay the batch",
            )
        found = cursor.execute(statements.FIND_COLUMNS, view_names).fetchall()
        if found == wanted and comment == target.comment:
            return
        _report_newly_masked(target, found)
        if [column[:2] for column in found] == [column[:2] for column in wanted[: len(found)]]:
            cursor.execute(statements.create_view(target))
        else:
            # PostgreSQL replaces a view only by one that begins with the same columns.
            with _view_taken_away(cursor, load, target):
                pass
    for statement in statements.comments(target):
        cursor.execute(statement)


def _report_newly_masked(target: TargetTable, shown: Sequence[tuple[str, str, str]]) -> None:
    """Say so if older rows hold in clear what is masked from now on: only people can decide what becomes of them."""
    clear = {name for name, _, comment in shown if not says_masked(comment)}
    newly_masked = [
        column.name for column in target.columns if column.name in clear and says_masked(column.comment)
    ]
    if newly_masked:
        log.warning("clear_values_remain", table=target.name, columns=newly_masked)


@contextmanager
def _view_taken_away(cursor: _Cursor, load: NativeLoad, target: TargetTable) -> Generator[None]:
    """Drop the analysts' view for a while, if there is one, and make it anew by the contract, with its grants."""
    kind, _, view_id = cursor.execute(statements.FIND_RELATION, _view_names(load)).fetchone() or ("", "", 0)
    if kind != "v":
        yield
        return
    grants = cursor.execute(statements.FIND_GRANTS, [view_id]).fetchall()
    cursor.execute(statements.drop_view(target))
    yield
    cursor.execute(statements.create_view(target))
    for role, privilege, is_grantable in grants:
        cursor.execute(statements.grant(target, role=role, privilege=privilege, is_grantable=is_grantable))


# ---- reading back -------------------------------------------------------------------------------------------


def _copied_records(cursor: _Cursor, statement: str) -> Generator[bytes, None, None]:
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


# ---- the parts -------------------------------------------------------------------------------------------------


def _ensure_schemas(
    connection: psycopg.Connection, load: NativeLoad, target: TargetTable, settings: Mapping[str, str]
) -> None:
    """Create the schemas and the table of markers if they are not there, in a transaction before the load's."""
    source = load.contract.source
    wanted = [statements.OWN_SCHEMA, source, statements.base_schema_of(source)]
    with _transaction(connection, settings) as cursor:
        if _count(cursor, statements.COUNT_SCHEMAS, [wanted]) == len(wanted):
            return
        # In spite of its IF NOT EXISTS, CREATE fails if two of them meet.
        cursor.execute(statements.LOCK, ["esclusa schemas"])
        for schema in (
            statements.quote_identifier(statements.OWN_SCHEMA),
            target.view_schema,
            target.base_schema,
        ):
            cursor.execute(statements.create_schema(schema))
        cursor.execute(statements.CREATE_LOADS)
        cursor.execute(statements.INDEX_LOADS)


def as_csv(block: pl.DataFrame) -> str:
    """
    Return rows as the CSV that COPY reads: strings quoted, NULL as nothing, bytes in hexadecimal.

    >>> as_csv(pl.DataFrame({"a": ["", None, "x"], "b": [b"\\xff", None, b""]}))
    '"","\\\\xff"\\n,\\n"x","\\\\x"\\n'
    """
    # By position: Polars takes names such as `*` and `^a$` for patterns.
    numbered = pl.DataFrame(
        [column.alias(f"c{position}") for position, column in enumerate(block.get_columns())]
    )
    expressions = [_readable(column) for column in numbered.get_columns()]
    return numbered.select(expressions).write_csv(include_header=False, quote_style="non_numeric")


def _readable(column: pl.Series) -> pl.Expr:
    expression = pl.col(column.name)
    if column.dtype == pl.Binary:
        return (pl.lit("\\x") + expression.bin.encode("hex")).alias(column.name)
    if column.dtype == pl.Date or column.dtype.base_type() == pl.Datetime:
        return _readable_moment(column)
    return expression


def _readable_moment(column: pl.Series) -> pl.Expr:
    """Polars writes years as ISO 8601 does, `+10000` and `0000`; PostgreSQL reads `10000` and `0001 BC`."""
    expression = pl.col(column.name)
    years = column.dt.year()
    if column.null_count() == len(column) or (int(years.min()) >= 1 and int(years.max()) <= 9999):  # type: ignore[arg-type]
        return expression
    pattern = "-%m-%d" if column.dtype == pl.Date else "-%m-%dT%H:%M:%S%.6f"
    year, rest = expression.dt.year(), expression.dt.to_string(pattern)
    common = year.cast(pl.String).str.zfill(4) + rest
    before_christ = (1 - year).cast(pl.String).str.zfill(4) + rest + " BC"
    return pl.when(year < 1).then(before_christ).otherwise(common).alias(column.name)


def _view_names(load: NativeLoad) -> list[str]:
    return [load.contract.source, load.contract.table]


def _base_names(load: NativeLoad) -> list[str]:
    return [statements.base_schema_of(load.contract.source), load.contract.table]


def _prove(target: TargetTable, what: str, *, expected: int, found: int) -> None:
    if expected != found:
        raise Refused(Reason.PROOF_FAILED, f"{target.name}: {what}: expected {expected}, found {found}")


def _one(cursor: _Cursor, statement: str, values: list[object] | None = None) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = cursor.execute(statement, values).fetchone()
    if row is None:
        raise Unavailable("the warehouse answered a question for one row with none")
    return row


def _count(cursor: _Cursor, statement: str, values: list[object] | None = None) -> int:
    return int(_one(cursor, statement, values)[0])


def _settings(**timeouts_seconds: float) -> dict[str, str]:
    """Return the settings of a transaction."""
    timeouts = {name: _milliseconds(seconds) for name, seconds in timeouts_seconds.items()}
    return {**TEXT_SETTINGS, **KEEP_ALIVE_SETTINGS, **timeouts}


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


@contextmanager
def _transaction(connection: psycopg.Connection, settings: Mapping[str, str]) -> Generator[_Cursor]:
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(statements.SET_FOR_TRANSACTION, [list(settings), list(settings.values())])
        yield cursor


@contextmanager
def _translated(target: str) -> Generator[None]:
    """
    Say errors of PostgreSQL in our own words.

    Its texts, and above all its contexts, quote values of rows: none goes on, unless the server had no part in it.
    """
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate is None:
            if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
                raise Unavailable(f"warehouse, {target}: {error}") from error
            raise
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            raise ConfigurationError(
                f"warehouse, {target}: {error.diag.message_primary}; grant it to the publisher's role"
            ) from None
        if _never_fits(error):
            raise Refused(Reason.TARGET_INCOMPATIBLE, f"{target}: {_describe(error)}") from None
        if str(error.sqlstate)[:2] in _ABOUT_NAMES:
            raise
        raise Unavailable(f"warehouse, {target}: {_describe(error)}") from None


#: Classes of errors about names and rights, which no values of rows lead to.
_ABOUT_NAMES = frozenset({"3F", "42"})


def _never_fits(error: psycopg.Error) -> bool:
    """Whether repeating would end the same: values, constraints, limits, dependants."""
    # Source: PostgreSQL manual, "Error Codes": 22 data exception, 23 integrity constraint violation, 54 program
    # limit exceeded, 2BP01 dependent objects still exist, 54000 and 54011 rows and columns above the limits.
    return str(error.sqlstate)[:2] in {"22", "23", "54"} or error.sqlstate == "2BP01"


def _describe(error: psycopg.Error) -> str:
    """Return what may be said of an error: its name, and of the place only names of columns and relations."""
    words = [f"{type(error).__name__} (SQLSTATE {error.sqlstate})"]
    if match := _COPY_CONTEXT.search(error.diag.context or ""):
        words.append(f"row {match['line']} of the batch, column {match['column']!r}")
    if error.diag.constraint_name:
        words.append(f"constraint {error.diag.constraint_name!r}")
    if isinstance(error, psycopg.errors.DependentObjectsStillExist):
        words.append(f"{error.diag.message_detail}; drop it, replay the batch, and create it again")
    return ", ".join(words)
