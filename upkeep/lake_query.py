"""
A person's question to the lake, answered on this machine: DuckDB over exactly the committed files.

Which files these are, the ledger says; what is in them, our own object store reads. DuckDB itself opens nothing: from
its first moment it is shut off from files and networks, and its settings are locked. To find the names in a statement it
binds it, and a table function that is bound reads its file.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.publisher.catalog import BATCH_KEY, DAY_KEY, describe_column
from services.publisher.warehouse import QueryFailed, QueryResult
from shared.compactions import in_types
from shared.domain.contracts import Column, ColumnKind, ColumnType, TableContract
from shared.errors import EsclusaError
from shared.ports import Ledger, ObjectStore
from shared.visible import VisibleFile, visible_files
from upkeep.store_files import StoreFiles

if TYPE_CHECKING:
    import duckdb
    import pyarrow.dataset as pads

#: What a question may take of this machine; it never spills to the disk.
MEMORY_LIMIT = "2GB"
THREADS = 4

MAX_NAMES_TOLD = 20

_TYPES = {
    ColumnKind.STRING: "VARCHAR",
    ColumnKind.BOOLEAN: "BOOLEAN",
    ColumnKind.INT16: "SMALLINT",
    ColumnKind.INT32: "INTEGER",
    ColumnKind.INT64: "BIGINT",
    ColumnKind.FLOAT32: "REAL",
    ColumnKind.FLOAT64: "DOUBLE",
    ColumnKind.DATE: "DATE",
    ColumnKind.TIMESTAMP: "TIMESTAMP",
    # As in every external table: in UTC, and the comment says so.
    ColumnKind.TIMESTAMPTZ: "TIMESTAMP",
    ColumnKind.JSON: "VARCHAR",
    ColumnKind.BINARY: "BLOB",
}


@dataclass(frozen=True, slots=True)
class LakeTable:
    """A table as the ledger shows it at one moment."""

    source: str
    name: str
    #: By version, and that of the types if they were widened: those by which its files are written. The newest says what
    #: people see.
    contracts: Mapping[tuple[int, int], TableContract]
    files: tuple[VisibleFile, ...]

    @property
    def newest(self) -> TableContract:
        """The contract whose columns and masks the table has."""
        return self.contracts[max(self.contracts)]


def query_lake(
    sql: str, *, ledger: Ledger, store: ObjectStore, row_limit: int, timeout_seconds: float
) -> QueryResult:
    """
    Answer one SELECT over the tables of the lake, which are named `<source>.<table>`.

    Raises:
        QueryFailed: if it is no SELECT, DuckDB refuses it, or it takes too long.
        ObjectNotFound: if a file is gone that the ledger lists.
        Unavailable: if ledger or store do not answer.
    """
    import duckdb

    # Nothing of this process can be named in SQL, such as its variables.
    config: dict[str, str | bool | int | float | list[str]] = {
        "python_enable_replacements": "false",
        "enable_external_access": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": MEMORY_LIMIT,
        "threads": str(THREADS),
        "temp_directory": "",
        "lock_configuration": "true",
    }
    with duckdb.connect(":memory:", config=config) as connection, _told(timeout_seconds, ledger):
        wanted = _tables_named(connection, sql)
        files = StoreFiles(store)
        for table in _lake_tables(ledger, wanted):
            _show(connection, table, files)
        with files.failures_raised():
            return _answer(connection, sql, row_limit=row_limit, timeout_seconds=timeout_seconds)


# ---- what is asked for -------------------------------------------------------------------------------------


def _tables_named(connection: "duckdb.DuckDBPyConnection", sql: str) -> set[str]:
    """Return the tables that a statement names, as DuckDB writes them, in lower case: it does not tell cases apart."""
    import duckdb

    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise QueryFailed(
            "expected one SELECT, found "
            + ("another statement" if len(statements) == 1 else f"{len(statements)}")
        )
    return {name.lower() for name in connection.get_table_names(sql, qualified=True)}


def _lake_tables(ledger: Ledger, wanted: set[str]) -> list[LakeTable]:
    with ledger.transaction() as tx:
        known = tx.known_tables()
        found = {}
        for source, table in known:
            name = _name(source, table).lower()
            # DuckDB quotes a name where it has to.
            spellings = {
                f"{one}.{other}" for one in (source, _quoted(source)) for other in (table, _quoted(table))
            }
            if not any(_is_spelled(spelling.lower(), one) for spelling in spellings for one in wanted):
                continue
            if name in found:
                raise QueryFailed(
                    f"{source}.{table}: another table of the source has the same name but for upper and lower case, and "
                    "DuckDB cannot tell them apart"
                )
            files = tuple(visible_files(tx, source, table))
            contracts = {
                versions: in_types(tx, tx.contract(source, table, versions[0]).contract, versions[1] or None)
                for versions in {_versions(file) for file in files}
            }
            if contracts:
                found[name] = LakeTable(source, table, contracts, files)
    return list(found.values())


def _versions(file: VisibleFile) -> tuple[int, int]:
    return file.contract_version, file.types_version or 0


def _is_spelled(name: str, written: str) -> bool:
    """
    Return whether a name as DuckDB writes it is that of a table: with `AS o` or `TABLESAMPLE` behind it, if there was any.

    >>> _is_spelled("shop.orders", "shop.orders as o"), _is_spelled("shop.order", "shop.orders as o")
    (True, False)
    """
    return written == name or written.startswith(f"{name} ")


# ---- the tables --------------------------------------------------------------------------------------------


def _show(connection: "duckdb.DuckDBPyConnection", table: LakeTable, files: StoreFiles) -> None:
    """Create the view of a table: what its files hold, in the columns of its newest contract."""
    parts = []
    for (version, types_version), contract in sorted(table.contracts.items(), key=lambda item: item[0]):
        own = [file for file in table.files if _versions(file) == (version, types_version)]
        widened = f" in types of {types_version}" if types_version else ""
        registered = f"esclusa files {table.source}.{table.name} {version}{widened}"
        connection.register(registered, _dataset(own, contract, table.newest, files))
        parts.append(f"SELECT {_selected(contract, table.newest)} FROM {_quoted(registered)}")
    view = _name(table.source, table.name)
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(table.source)}")
    connection.execute(f"CREATE VIEW {view} AS {' UNION ALL '.join(parts)}")
    connection.execute(
        f"COMMENT ON VIEW {view} IS {_text(f'{table.source}.{table.name}: all versions of a row')}"
    )
    for column in table.newest.output_columns:
        if comment := describe_column(column):
            connection.execute(f"COMMENT ON COLUMN {view}.{_quoted(column.name)} IS {_text(comment)}")


def _dataset(
    visible: Sequence[VisibleFile], contract: TableContract, newest: TableContract, files: StoreFiles
) -> "pads.Dataset":
    """
    Return the files of one contract, each with the partition keys under which the catalog shows it.

    It has no column that the table does not show: a person's SQL can name it, and not only the view over it.
    """
    import pyarrow as pa
    import pyarrow.dataset as pads

    from services.processor.parquet import arrow_schema

    there = {column.name: column for column in contract.output_columns}
    shown = [column.name for column in newest.output_columns if _is_shown(there.get(column.name), column)]
    written = arrow_schema(contract)
    keys = [pa.field(DAY_KEY, pa.string()), pa.field(BATCH_KEY, pa.string())]
    schema = pa.schema([*(written.field(name) for name in shown), *keys])
    reader = pads.ParquetFileFormat()
    filesystem = files.filesystem([one.file for one in visible])
    fragments = [
        reader.make_fragment(
            str(one.file.location),
            filesystem=filesystem,
            partition_expression=(pads.field(DAY_KEY) == one.day) & (pads.field(BATCH_KEY) == one.batch_id),
        )
        for one in visible
    ]
    return pads.FileSystemDataset(fragments, schema, reader, filesystem)


def _selected(contract: TableContract, newest: TableContract) -> str:
    """
    Return the columns of the newest contract as files of an older one have them.

    A column they lack is NULL, a narrower type is widened, and what they have in clear and is masked by now is not shown.
    """
    there = {column.name: column for column in contract.output_columns}
    selected = [_as_now(there.get(column.name), column) for column in newest.output_columns]
    return ", ".join([*selected, DAY_KEY, BATCH_KEY])


def _as_now(there: Column | None, column: Column) -> str:
    type_ = duckdb_type(column.output_type)
    value = _quoted(column.name) if _is_shown(there, column) else "NULL"
    return f"CAST({value} AS {type_}) AS {_quoted(column.name)}"


def _is_shown(there: Column | None, column: Column) -> bool:
    """Return whether people see what files of an older contract have of a column: not what they lack, or have in clear."""
    return there is not None and (there.mask.changes_values or not column.mask.changes_values)


def duckdb_type(type_: ColumnType) -> str:
    """
    Return the type of a column in DuckDB.

    >>> duckdb_type(ColumnType.parse("decimal(12,2)"))
    'DECIMAL(12,2)'
    """
    if type_.kind is ColumnKind.DECIMAL:
        return f"DECIMAL({type_.precision},{type_.scale})"
    return _TYPES[type_.kind]


def _name(source: str, table: str) -> str:
    return f"{_quoted(source)}.{_quoted(table)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# ---- the answer --------------------------------------------------------------------------------------------


def _answer(
    connection: "duckdb.DuckDBPyConnection", sql: str, *, row_limit: int, timeout_seconds: float
) -> QueryResult:
    timer = threading.Timer(timeout_seconds, connection.interrupt)
    timer.start()
    try:
        answer = connection.execute(sql)
        columns = tuple(column[0] for column in answer.description or ())
        rows = tuple(answer.fetchmany(row_limit + 1))
    finally:
        timer.cancel()
    return QueryResult(columns, rows[:row_limit], is_cut=len(rows) > row_limit)


@contextmanager
def _told(timeout_seconds: float, ledger: Ledger) -> Iterator[None]:
    """Say errors of DuckDB as they are: to the person who asked, about their own statement."""
    import duckdb

    try:
        yield
    except EsclusaError:
        raise
    except duckdb.InterruptException:
        raise QueryFailed(f"the answer took longer than {timeout_seconds:g} seconds") from None
    except duckdb.CatalogException as error:
        raise QueryFailed(f"{str(error).strip()}\n{_names_told(ledger)}") from None
    except duckdb.Error as error:
        raise QueryFailed(str(error).strip()) from None


def _names_told(ledger: Ledger) -> str:
    with ledger.transaction() as tx:
        known = [f"{source}.{table}" for source, table in tx.known_tables()]
    more = f" and {len(known) - MAX_NAMES_TOLD} more" if len(known) > MAX_NAMES_TOLD else ""
    return f"the lake has {', '.join(known[:MAX_NAMES_TOLD]) or 'no table yet'}{more}"
