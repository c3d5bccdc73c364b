"""
Runs every comparison on this machine, one after the other, and prints a table and a JSON document of each.

BENCH_ROWS and BENCH_ROUNDS say how much, BENCH_MEMORY_ROWS for how many rows memory is measured, such as 1000000,50000000.
BENCH_ONLY names some of the comparisons: postgres, odbc, memory. MariaDB and the ODBC drivers are the machine's.
"""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from support.databases import MariaDbDatabase, PostgresDatabase
from support.extraction import BUCKET
from support.mariadb import MariaDbServer

from bench import memory, odbc_bulk, postgres_to_s3
from bench.measuring import Comparison
from local import aws
from local.ports import find_free_port
from local.postgres import EmbeddedPostgres
from local.processes import Home, supervise


def main() -> None:
    """Start the servers, compare, stop them, also when we are told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="esclusa-bench-"))
    directory.chmod(0o711)  # PostgreSQL runs as another user if we are root.
    try:
        for comparison in comparisons(directory):
            print(comparison.table())
            print(json.dumps(comparison.document()), flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def comparisons(directory: Path) -> Iterator[Comparison]:
    """Return what was compared, as it comes."""
    row_count = int(os.environ.get("BENCH_ROWS", "2000000"))
    rounds = int(os.environ.get("BENCH_ROUNDS", "3"))
    memory_rows = tuple(map(int, os.environ.get("BENCH_MEMORY_ROWS", "1000000,6000000").split(",")))
    only = os.environ.get("BENCH_ONLY", "postgres,odbc,memory").split(",")
    with EmbeddedPostgres(directory / "postgres", find_free_port(), durable=False) as server:
        dsn = server.dsn("postgres")
        postgres = PostgresDatabase(dsn)
        postgres_to_s3.make_tables(dsn, row_count=row_count)
        if "postgres" in only:
            with _local_s3(directory) as environment:
                yield from postgres_to_s3.compare(
                    dsn, directory=directory, aws=environment, row_count=row_count, rounds=rounds
                )
        if "odbc" in only:
            yield odbc_bulk.compare(postgres, directory=directory, row_count=row_count, rounds=rounds)
        if "memory" in only:
            for table in ("lineitem", "contact"):
                yield memory.compare(
                    dsn,
                    directory=directory,
                    table=table,
                    row_counts=memory_rows,
                    table_row_count=row_count,
                )
    if "odbc" in only:
        with MariaDbServer(directory / "mariadb", find_free_port()) as mariadb:
            mariadb.run("CREATE DATABASE bench")
            database = MariaDbDatabase(mariadb, "bench")
            odbc_bulk.make_table_of_mariadb(database, row_count=row_count)
            yield odbc_bulk.compare(database, directory=directory, row_count=row_count, rounds=rounds)


@contextmanager
def _local_s3(directory: Path) -> Iterator[dict[str, str]]:
    """Run a local AWS server with the bucket, and return the environment of its clients."""
    home, port = Home(directory / "aws"), find_free_port()
    environment = aws.client_environment(port)
    with supervise(home, purpose="bench") as supervisor:
        aws.start(supervisor, port)
        try:
            boto3.client(
                "s3",
                endpoint_url=aws.endpoint_url(port),
                region_name=environment["AWS_DEFAULT_REGION"],
                aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            ).create_bucket(
                Bucket=BUCKET,
                CreateBucketConfiguration={"LocationConstraint": environment["AWS_DEFAULT_REGION"]},  # type: ignore[typeddict-item]
            )
            yield environment
        finally:
            supervisor.stop_all()


if __name__ == "__main__":
    main()
