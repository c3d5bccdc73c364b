"""
PostgreSQL to CSV in S3 by the extractor, against `psql` copying the same query to a file.

To an S3 on other machines, and to a local S3 server. What that one costs itself shows beside it, and in what the
fastest plain way makes of the same server: `psql` whose output boto3 uploads as it comes.
"""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, TYPE_CHECKING, cast

import boto3
import psutil
from boto3.s3.transfer import TransferConfig
from support.extraction import BUCKET

from bench.extracting import Extraction
from bench.measuring import Comparison, Taken, Target, Try, of_a_command
from bench.tables import COLUMNS, CONTACT, LINEITEM, make_table
from local.postgres import INSTALLATION, wheel_directory

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PSQL = "psql COPY to a file"
EXTRACTOR_ELSEWHERE = "extractor to an S3 elsewhere"
PSQL_TO_LOCAL_S3 = "psql COPY, uploaded to a local S3"
EXTRACTOR_TO_LOCAL_S3 = "extractor to a local S3"

#: The columns of each table that are put under a keyed pseudonym.
MASKED = {"lineitem": (), "contact": ("email", "phone")}


@dataclass(frozen=True, slots=True)
class LocalS3:
    """A local AWS server with our bucket."""

    #: That of its clients.
    environment: Mapping[str, str]
    process: psutil.Process

    def client(self) -> "S3Client":
        """Return a plain client of it."""
        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name=self.environment["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )

    def measured(self, attempt: Try) -> Taken:
        """Return what a try took, and how much of the machine the server took meanwhile."""
        before = self._cpu_seconds()
        return replace(attempt(), s3_cpu_seconds=self._cpu_seconds() - before)

    def _cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


def make_tables(dsn: str, *, row_count: int) -> None:
    """Make what is read, here and by other comparisons."""
    for statement in (LINEITEM, CONTACT):
        make_table(dsn, statement, row_count=row_count)


def compare(
    dsn: str,
    *,
    directory: Path,
    elsewhere: Mapping[str, str],
    local: LocalS3,
    row_count: int,
    rounds: int,
) -> Iterator[Comparison]:
    """Return the comparisons without and with two masked columns. `elsewhere` is the environment of its clients."""
    for table, at_least in (("lineitem", 0.85), ("contact", 0.7)):
        masked = MASKED[table]
        comparison = Comparison(
            f"PostgreSQL to CSV, {table}, {row_count:,} rows, {len(masked)} columns under HMAC",
            targets=[
                Target(EXTRACTOR_ELSEWHERE, PSQL, at_least),
                Target(EXTRACTOR_TO_LOCAL_S3, PSQL, at_least),
                Target(EXTRACTOR_TO_LOCAL_S3, PSQL_TO_LOCAL_S3, at_least),
            ],
        )
        measure = partial(Extraction(table, ("public", table), masked).measure, dsn)
        upload = partial(psql_upload, dsn, table, local=local, row_count=row_count)
        comparison.run(
            {
                PSQL: partial(psql_copy, dsn, table, directory=directory, row_count=row_count),
                EXTRACTOR_ELSEWHERE: partial(measure, s3=elsewhere),
                PSQL_TO_LOCAL_S3: partial(local.measured, upload),
                EXTRACTOR_TO_LOCAL_S3: partial(local.measured, partial(measure, s3=local.environment)),
            },
            rounds=rounds,
        )
        yield comparison


def psql_copy(dsn: str, table: str, *, directory: Path, row_count: int) -> Taken:
    """Let the server's own client write the rows to a file."""
    target = directory / "psql.csv"
    try:
        return of_a_command([*_psql(dsn, table), "-o", str(target)], record_count=row_count)
    finally:
        target.unlink(missing_ok=True)


def psql_upload(dsn: str, table: str, *, local: LocalS3, row_count: int) -> Taken:
    """Let boto3 upload what the server's own client writes, and prove nothing. CPU is that of `psql` and of boto3."""
    client = local.client()
    began_at, ours_before = time.perf_counter(), time.process_time()
    process = Popen(_psql(dsn, table), stdout=PIPE)
    with cast("IO[bytes]", process.stdout) as output:
        client.upload_fileobj(output, BUCKET, f"psql/{table}.csv", Config=TransferConfig(max_concurrency=2))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"psql ended with {process.returncode}")
    cpu_seconds = time.process_time() - ours_before + usage.ru_utime + usage.ru_stime
    return Taken(time.perf_counter() - began_at, cpu_seconds, row_count)


def _psql(dsn: str, table: str) -> list[str]:
    query = f"COPY (SELECT {', '.join(COLUMNS[table])} FROM {table}) TO STDOUT (FORMAT csv)"
    return [str(wheel_directory() / INSTALLATION / "bin" / "psql"), "-X", "-c", query, "-d", dsn]
