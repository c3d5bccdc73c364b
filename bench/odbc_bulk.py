"""A table over ODBC by the extractor, against a loop over `fetchmany` of pyodbc that writes CSV."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from support.databases import MariaDbDatabase, PostgresDatabase

from bench.extracting import ADDRESS, Extraction
from bench.measuring import Comparison, Taken, Target, in_a_process
from bench.tables import LINEITEM_OF_MARIADB
from services.extractor.dialects import DialectName
from shared.domain.contracts import SourceKind

LOOP = "pyodbc fetchmany and csv"
EXTRACTOR = "extractor over ODBC"


def make_table_of_mariadb(database: MariaDbDatabase, *, row_count: int) -> None:
    """Make the same table as in PostgreSQL."""
    database.run(LINEITEM_OF_MARIADB.format(last=row_count - 1), "ANALYZE TABLE lineitem")


def compare(
    database: PostgresDatabase | MariaDbDatabase,
    *,
    directory: Path,
    s3: Mapping[str, str],
    row_count: int,
    rounds: int,
) -> Comparison:
    """Read `lineitem` of a database both ways. `s3` is the environment of the clients of an S3."""
    name = database.dialect.name
    comparison = Comparison(
        f"ODBC to CSV, {name}, lineitem, {row_count:,} rows", targets=[Target(EXTRACTOR, LOOP, 2.5)]
    )
    extraction = Extraction(
        "lineitem",
        (database.schema, "lineitem"),
        kind=SourceKind.ODBC,
        connection={"connection_string": f"env:{ADDRESS}", "dialect": name},
    )
    address = database.connection_string()
    comparison.run(
        {
            LOOP: partial(fetch_in_a_loop, address, name, directory=directory),
            EXTRACTOR: partial(extraction.measure, address, s3=s3),
        },
        rounds=rounds,
    )
    return comparison


def fetch_in_a_loop(address: str, dialect: DialectName, *, directory: Path) -> Taken:
    """Let rows come as Python's values, as most scripts do."""
    # Without it psqlODBC holds the whole result in memory.
    address += ";UseDeclareFetch=1;Fetch=10000" if dialect is DialectName.POSTGRESQL else ""
    target = directory / "pyodbc.csv"
    try:
        return in_a_process("bench.fetching", str(target), environment={ADDRESS: address})
    finally:
        target.unlink(missing_ok=True)
