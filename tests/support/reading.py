"""What suites ask of every reader of a database: the ways to read, and tables to be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.databases import (
    MariaDbDatabase,
    PostgresDatabase,
    Source,
    SqliteDatabase,
    by_odbc,
    by_sqlalchemy,
    natively,
)
from support.extraction import bodies, column, run_extract, updated_at

from services.extractor.dialects import DialectName
from services.extractor.readers import ReadLimits, SourceReader, open_reader
from services.processor.decode import parse_records
from shared.domain.contracts import TableContract
from shared.errors import Refused
from shared.lifecycle import StageResult
from shared.secrets.memory import MemorySecrets

WAYS = {
    "postgres natively": ("postgres", natively),
    "postgres by odbc": ("postgres", by_odbc),
    "postgres by sqlalchemy": ("postgres", by_sqlalchemy),
    "mariadb by odbc": ("mariadb", by_odbc),
    "mariadb by odbc, by rows": ("mariadb", lambda server: by_odbc(server, fetch="rows")),
    "mariadb by sqlalchemy": ("mariadb", by_sqlalchemy),
    "sqlite by odbc": ("sqlite", by_odbc),
    "sqlite by sqlalchemy": ("sqlite", by_sqlalchemy),
}


#: Each product, and each driver that binds and streams in its own way.
FEWER_WAYS = [
    "postgres natively",
    "postgres by odbc",
    "mariadb by odbc",
    "mariadb by sqlalchemy",
    "sqlite by odbc",
    "sqlite by sqlalchemy",
]


@contextmanager
def source_by(request: pytest.FixtureRequest, directory: Path) -> Iterator[Source]:
    """A fresh database, read in the way that the parameter of a fixture names."""
    product, way = WAYS[request.param]
    if product == "sqlite":
        yield way(SqliteDatabase(directory / "source.db"))  # type: ignore[operator]
        return
    with served_by(request, product) as server:
        yield way(server)  # type: ignore[operator]


@contextmanager
def served_by(request: pytest.FixtureRequest, product: str) -> Iterator[PostgresDatabase | MariaDbDatabase]:
    """A fresh database of a server, with a login that may read it."""
    database: PostgresDatabase | MariaDbDatabase
    if product == "postgres":
        database = PostgresDatabase(request.getfixturevalue("fresh_database"))
    else:
        name = request.getfixturevalue("fresh_mariadb_database")
        database = MariaDbDatabase(request.getfixturevalue("mariadb_server"), name)
    yield database
    database.leave()


def extract(
    source: Source, contract: TableContract, **options: Any
) -> tuple[StageResult, list[list[str | None]]]:
    """Extract a window, and return its rows as the processor will read them."""
    result, store = run_extract(contract, secrets=source.secrets, **options)
    records = b"".join(bodies(result, store))
    frame = parse_records(records, column_count=len(contract.output_columns), place="test")
    return result, [list(row) for row in frame.rows()]


def refusal(source: Source, contract: TableContract, **options: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        extract(source, contract, **options)
    return refused.value


@contextmanager
def reader_on(source: Source, contract: TableContract, **limits: Any) -> Iterator[SourceReader]:
    with open_reader(contract, secrets=MemorySecrets(source.secrets), limits=ReadLimits(**limits)) as reader:
        yield reader


def make_customers(source: Source, *more: str) -> None:
    """A table of `id` and what else is asked for."""
    columns = ", ".join([f"id {source.server.integer} NOT NULL", *more])
    source.run(f"CREATE TABLE customers ({columns})")


MOMENTS = ["2025-12-31 23:49:59.999999", "2025-12-31 23:50:00", "2026-01-01 10:00:00.000001",
           "2026-01-01 23:59:59.999999", "2026-01-02 00:00:00"]  # fmt: skip


def make_changes(source: Source) -> TableContract:
    """A table with a row at each of `MOMENTS`, and its contract."""
    make_customers(source, f"updated_at {source.server.moment} NOT NULL")
    source.run(*(f"INSERT INTO customers VALUES ({n}, '{moment}')" for n, moment in enumerate(MOMENTS, 1)))
    return source.contract(
        column("id", "int64" if is_sqlite(source) else "int32"),
        column("updated_at", "timestamp"),
        cursor=updated_at(overlap=timedelta(minutes=10)),
    )


def is_sqlite(source: Source) -> bool:
    return source.server.dialect.name is DialectName.SQLITE


def is_mariadb(source: Source) -> bool:
    return source.server.dialect.name is DialectName.MYSQL
