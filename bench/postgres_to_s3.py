"""PostgreSQL to CSV in S3 by the extractor, against `psql` copying the same query to a file."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.extracting import CONNECTION
from bench.measuring import Comparison, Taken, Target, in_a_process, of_a_command
from bench.tables import COLUMNS, CONTACT, LINEITEM, make_table

from local.postgres import INSTALLATION, wheel_directory

PSQL = "psql COPY to a file"
TO_DISK = "extractor to a disk"
TO_S3 = "extractor to a local S3"
MASKED = {"contact": ("email", "phone")}


def make_tables(dsn: str, *, row_count: int) -> None:
    """Make what is read, here and by other comparisons."""
    for statement in (LINEITEM, CONTACT):
        make_table(dsn, statement, row_count=row_count)


def compare(
    dsn: str, *, directory: Path, aws: dict[str, str], row_count: int, rounds: int
) -> list[Comparison]:
    """Return the comparisons without and with two masked columns. `aws` is the environment of a local AWS server."""
    comparisons = []
    for table, at_least in (("lineitem", 0.85), ("contact", 0.7)):
        masked = MASKED.get(table, ())
        name = f"PostgreSQL to CSV, {table}, {row_count} rows, {len(masked)} columns under HMAC"
        comparison = Comparison(name, targets=[Target(TO_DISK, PSQL, at_least), Target(TO_S3, PSQL, at_least)])
        comparison.run(
            {
                PSQL: partial(psql_copy, dsn, table, directory=directory, row_count=row_count),
                TO_DISK: extraction(dsn, table, masked=masked, directory=directory),
                TO_S3: extraction(dsn, table, masked=masked, aws=aws),
            },
            rounds=rounds,
        )
        comparisons.append(comparison)
    return comparisons


def psql_copy(dsn: str, table: str, *, directory: Path, row_count: int) -> Taken:
    """Let the server's own client write the rows, as many bytes as we write."""
    query = f"COPY (SELECT {', '.join(COLUMNS[table])} FROM {table}) TO STDOUT (FORMAT csv)"
    target = directory / "psql.csv"
    try:
        return of_a_command(
            [str(wheel_directory() / INSTALLATION / "bin" / "psql"), "-X", "-q", "-o", str(target), "-c", query, dsn],
            record_count=row_count,
            environment={},
        )
    finally:
        target.unlink(missing_ok=True)


def extraction(
    dsn: str,
    table: str,
    *,
    relation: str = "",
    masked: tuple[str, ...] = (),
    directory: Path | None = None,
    aws: dict[str, str] | None = None,
) -> Callable[[], Taken]:
    """Return a try of the extractor, to a directory that is emptied afterwards or to S3."""
    store = str(directory / "extracted") if directory else "s3"

    def attempt() -> Taken:
        try:
            return in_a_process(
                "bench.extracting",
                *(table, relation or table, ",".join(masked), store),
                environment={**(aws or {}), CONNECTION: dsn, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            )
        finally:
            if directory:
                shutil.rmtree(store, ignore_errors=True)

    return attempt
