"""
Runs every comparison on this machine, one after the other, and prints a table and a JSON document of each.

BENCH_ROWS and BENCH_ROUNDS say how much, BENCH_MEMORY_ROWS for how many rows memory is measured, such as 1000000,50000000.
BENCH_ONLY names some of the comparisons: postgres, odbc, memory, masking. MariaDB and the ODBC drivers are the machine's.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
from support.databases import MariaDbDatabase, PostgresDatabase
from support.extraction import BUCKET
from support.mariadb import MariaDbServer

from bench import masking, memory, odbc_bulk, postgres_to_s3
from bench.elsewhere import s3_elsewhere
from bench.measuring import Comparison
from local import aws
from local.ports import find_free_port
from local.postgres import EmbeddedPostgres
from local.processes import Home, read_state, supervise

COMPARISONS = ("postgres", "odbc", "memory", "masking")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be compared, and how much of it."""

    only: frozenset[str]
    row_count: int
    rounds: int
    memory_row_counts: tuple[int, ...]

    @classmethod
    def of_environment(cls) -> Self:
        """Read it, and end with a line of text if it names a comparison that there is not."""
        only = frozenset(os.environ.get("BENCH_ONLY", ",".join(COMPARISONS)).split(","))
        if unknown := only.difference(COMPARISONS):
            sys.exit(f"BENCH_ONLY: expected some of {', '.join(COMPARISONS)}, found {', '.join(unknown)}")
        return cls(
            only,
            row_count=int(os.environ.get("BENCH_ROWS", "2000000")),
            rounds=int(os.environ.get("BENCH_ROUNDS", "3")),
            memory_row_counts=tuple(
                map(int, os.environ.get("BENCH_MEMORY_ROWS", "1000000,6000000").split(","))
            ),
        )


def main() -> None:
    """Start the servers, compare, stop them, also when we are told to end."""
    wanted = Wanted.of_environment()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="esclusa-bench-"))
    directory.chmod(0o711)  # PostgreSQL runs as another user if we are root.
    try:
        for comparison in comparisons(wanted, directory):
            print(comparison.table())
            print(json.dumps(comparison.document()), flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def comparisons(wanted: Wanted, directory: Path) -> Iterator[Comparison]:
    """Return what was compared, as it comes."""
    if wanted.only & {"postgres", "odbc", "memory"}:
        yield from of_postgres(wanted, directory)
    if "odbc" in wanted.only:
        yield of_mariadb(wanted, directory)
    if "masking" in wanted.only:
        # It needs no server and waits for none: there is little that could differ from round to round.
        yield masking.compare(row_count=wanted.row_count, rounds=1)


def of_postgres(wanted: Wanted, directory: Path) -> Iterator[Comparison]:
    """Compare what is read from PostgreSQL."""
    row_count, rounds = wanted.row_count, wanted.rounds
    with (
        EmbeddedPostgres(directory / "postgres", find_free_port(), durable=False) as server,
        s3_elsewhere() as elsewhere,
    ):
        dsn = server.dsn("postgres")
        # Before the tables: its role may read what is made after it.
        database = PostgresDatabase(dsn)
        postgres_to_s3.make_tables(dsn, row_count=row_count)
        if "postgres" in wanted.only:
            with _local_s3(directory) as local:
                yield from postgres_to_s3.compare(
                    dsn,
                    directory=directory,
                    elsewhere=elsewhere,
                    local=local,
                    row_count=row_count,
                    rounds=rounds,
                )
        if "odbc" in wanted.only:
            yield odbc_bulk.compare(
                database, directory=directory, s3=elsewhere, row_count=row_count, rounds=rounds
            )
        if "memory" in wanted.only:
            for table in ("lineitem", "contact"):
                yield memory.compare(
                    dsn,
                    s3=elsewhere,
                    table=table,
                    row_counts=wanted.memory_row_counts,
                    table_row_count=row_count,
                )


def of_mariadb(wanted: Wanted, directory: Path) -> Comparison:
    """Compare what is read from MariaDB."""
    with MariaDbServer(directory / "mariadb", find_free_port()) as mariadb, s3_elsewhere() as elsewhere:
        mariadb.run("CREATE DATABASE bench")
        database = MariaDbDatabase(mariadb, "bench")
        odbc_bulk.make_table_of_mariadb(database, row_count=wanted.row_count)
        return odbc_bulk.compare(
            database, directory=directory, s3=elsewhere, row_count=wanted.row_count, rounds=wanted.rounds
        )


@contextmanager
def _local_s3(directory: Path) -> Iterator[postgres_to_s3.LocalS3]:
    """Run a local AWS server with the bucket."""
    home, port = Home(directory / "aws"), find_free_port()
    environment = aws.client_environment(port)
    with supervise(home, purpose="bench") as supervisor:
        aws.start(supervisor, port)
        try:
            s3 = postgres_to_s3.LocalS3(environment, psutil.Process(read_state(home)[0].pid))
            s3.client().create_bucket(
                Bucket=BUCKET,
                CreateBucketConfiguration={"LocationConstraint": environment["AWS_DEFAULT_REGION"]},  # type: ignore[typeddict-item]
            )
            yield s3
        finally:
            supervisor.stop_all()


if __name__ == "__main__":
    main()
