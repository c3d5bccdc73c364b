"""PostgreSQL to CSV in S3 by the extractor, against `psql` copying the same query to a file."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from bench.extracting import TO_S3, Extraction
from bench.measuring import Comparison, Taken, Target, of_a_command
from bench.tables import COLUMNS, CONTACT, LINEITEM, make_table
from local.postgres import INSTALLATION, wheel_directory

PSQL = "psql COPY to a file"
EXTRACTOR_TO_DISK = "extractor to a disk"
EXTRACTOR_TO_S3 = "extractor to a local S3"

#: The columns of each table that are put under a keyed pseudonym.
MASKED = {"lineitem": (), "contact": ("email", "phone")}


def make_tables(dsn: str, *, row_count: int) -> None:
    """Make what is read, here and by other comparisons."""
    for statement in (LINEITEM, CONTACT):
        make_table(dsn, statement, row_count=row_count)


def compare(
    dsn: str, *, directory: Path, aws: Mapping[str, str], row_count: int, rounds: int
) -> Iterator[Comparison]:
    """Return the comparisons without and with two masked columns. `aws` is the environment of a local AWS server."""
    for table, at_least in (("lineitem", 0.85), ("contact", 0.7)):
        masked = MASKED[table]
        comparison = Comparison(
            f"PostgreSQL to CSV, {table}, {row_count:,} rows, {len(masked)} columns under HMAC",
            targets=[Target(way, PSQL, at_least) for way in (EXTRACTOR_TO_DISK, EXTRACTOR_TO_S3)],
        )
        to_disk = Extraction(table, ("public", table), str(directory / "extracted"), masked)
        to_s3 = Extraction(table, ("public", table), TO_S3, masked)
        comparison.run(
            {
                PSQL: partial(psql_copy, dsn, table, directory=directory, row_count=row_count),
                EXTRACTOR_TO_DISK: partial(to_disk.measure, dsn),
                EXTRACTOR_TO_S3: partial(to_s3.measure, dsn, environment=aws),
            },
            rounds=rounds,
        )
        yield comparison


def psql_copy(dsn: str, table: str, *, directory: Path, row_count: int) -> Taken:
    """Let the server's own client write the rows to a file."""
    query = f"COPY (SELECT {', '.join(COLUMNS[table])} FROM {table}) TO STDOUT (FORMAT csv)"
    target = directory / "psql.csv"
    try:
        return of_a_command(
            [
                str(wheel_directory() / INSTALLATION / "bin" / "psql"),
                "-X",
                "-o",
                str(target),
                "-c",
                query,
                dsn,
            ],
            record_count=row_count,
        )
    finally:
        target.unlink(missing_ok=True)
