"""A search of every place that a fleet writes to for texts that must not be there."""

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import md5, sha1, sha256
from typing import Any

import polars as pl
import psutil
import psycopg
import pyarrow.parquet as pq
import requests
from psycopg import sql
from support.fleet import SmallFleet

from local.passwords import password_file, read_passwords
from local.processes import find_supervised, living_processes
from shared.ports import QueueName

#: Shorter texts would be found by accident.
LEAST_CHARACTERS = 8

#: What a person at the source would not want to see elsewhere, as `sources/shop.yaml` masks or drops it.
PERSONAL = """
    SELECT 'email', email FROM customers UNION ALL SELECT 'phone', phone FROM customers
    UNION ALL SELECT 'full name', full_name FROM customers UNION ALL SELECT 'national id', national_id FROM customers
    UNION ALL SELECT 'street', street FROM customers UNION ALL SELECT 'note', notes FROM customers
    UNION ALL SELECT 'birth date', birth_date::text FROM customers
    UNION ALL SELECT 'client address', host(client_address) FROM orders
"""

#: The sample's texts that break careless readers stand in columns that are kept as well.
KEPT = """
    SELECT description FROM products UNION ALL SELECT note FROM order_items UNION ALL SELECT released_on::text FROM products
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A piece of text, and where it was found."""

    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Leak:
    """A text that must not be there. It is shown: the samples hold no real person."""

    where: str
    kind: str
    text: str


def find_leaks(forbidden: dict[str, str], places: Iterable[Place]) -> list[Leak]:
    """Return which of the forbidden texts stand in which places, as they are or as an unkeyed hash."""
    origin = {spelling: text for text in forbidden for spelling in _spellings(text)}
    looked_at = list(places)
    # All at once: the automaton of many thousand texts takes longer to build than to run.
    found = pl.Series([place.text for place in looked_at]).str.extract_many(list(origin), overlapping=True)
    leaks = {
        Leak(place.where, forbidden[origin[text]], text)
        for place, texts in zip(looked_at, found, strict=True)
        for text in texts
    }
    return sorted(leaks, key=lambda leak: (leak.where, leak.kind, leak.text))


def _spellings(text: str) -> set[str]:
    plain = text.encode()
    return {
        text,
        json.dumps(text)[1:-1],
        sha256(plain).hexdigest(),
        sha1(plain).hexdigest(),  # noqa: S324  looked for, not relied on
        md5(plain).hexdigest(),  # noqa: S324
    }


# ---- what to look for ------------------------------------------------------------------------------------------


def personal_texts(fleet: SmallFleet) -> dict[str, str]:
    """Return the clear texts of masked and dropped columns of both sources, each with what it is."""
    with psycopg.connect(fleet.stack.shop_reader_dsn) as connection:
        kept = " ".join(text for (text,) in connection.execute(KEPT) if text)
        found = {text: kind for kind, text in connection.execute(PERSONAL) if text}
    for record in _contacts(fleet):
        found[f"{record['first_name']} {record['last_name']}"] = "contact's name"
        for name in ("email", "phone"):
            if record[name]:
                found[record[name]] = f"contact's {name}"
    return {
        text: kind
        for text, kind in found.items()
        if len(text) >= LEAST_CHARACTERS
        and text not in kept
        and text.isprintable()
        and not {'"', "\\"} & set(text)
    }


def secret_texts(fleet: SmallFleet) -> dict[str, str]:
    """Return every password, key and token of the fleet, each with its name."""
    return {password: f"secret {name}" for name, password in read_passwords(fleet.home).items()}


def _contacts(fleet: SmallFleet) -> Iterator[dict[str, Any]]:
    page: int | None = 1
    while page:
        answer = requests.get(
            f"{fleet.stack.crm_url}/v1/contacts",
            params={"page": page, "per_page": 200},
            headers={"Authorization": f"Bearer {fleet.stack.crm_token}"},
            timeout=10,
        )
        if answer.status_code == requests.codes.too_many_requests:
            continue
        yield from answer.json()["data"]
        page = page + 1 if page < answer.json()["total_pages"] else None


# ---- where to look ---------------------------------------------------------------------------------------------


def all_places(fleet: SmallFleet) -> Iterator[Place]:
    """Return everything that a fleet has written down and that is there now."""
    yield from object_places(fleet)
    yield from queue_places(fleet)
    yield from log_places(fleet)
    yield from database_places("ledger", fleet.stack.control_dsn)
    yield from database_places("warehouse", fleet.stack.warehouse_dsn)
    yield from catalog_places(fleet)
    yield from process_places(fleet)
    yield from file_places(fleet)


def object_places(fleet: SmallFleet) -> Iterator[Place]:
    """Every object of every bucket: key, metadata, tags and body; of Parquet the values and the footer."""
    s3 = fleet.client("s3")
    for bucket in s3.list_buckets()["Buckets"]:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
            for item in page.get("Contents", []):
                yield from _object_place(s3, bucket["Name"], item["Key"])


def _object_place(s3: Any, bucket: str, key: str) -> Iterator[Place]:
    where = f"s3://{bucket}/{key}"
    with suppress(s3.exceptions.NoSuchKey):  # the cleaner goes on with its work
        answer = s3.get_object(Bucket=bucket, Key=key)
        body = answer["Body"].read()
        tags = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
        yield Place(f"{where} (key, metadata, tags)", json.dumps([key, answer["Metadata"], tags]))
        yield Place(where, body.decode(errors="replace"))
        if key.endswith(".parquet") and body.startswith(b"PAR1") and body.endswith(b"PAR1"):
            with suppress(OSError):  # spoilt by an earlier test; its bytes were looked at
                table = pq.read_table(io.BytesIO(body))
                yield Place(f"{where} (footer)", f"{pq.read_metadata(io.BytesIO(body)).metadata}")
                for name in table.column_names:
                    values = "\n".join(str(value) for value in table[name].to_pylist() if value is not None)
                    yield Place(f"{where} column {name}", values)


def queue_places(fleet: SmallFleet) -> Iterator[Place]:
    """Every message that waits in a queue or among dead letters. Peeking counts as a receive."""
    sqs = fleet.client("sqs")
    for queue in QueueName:
        for is_dead in (False, True):
            url = fleet.queue_url(queue, dead_letters=is_dead)
            seen: set[str] = set()
            while messages := sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=5, MessageAttributeNames=["All"]
            ).get("Messages", []):
                if {message["MessageId"] for message in messages} <= seen:
                    break
                seen |= {message["MessageId"] for message in messages}
                bodies = [[message["Body"], message.get("MessageAttributes")] for message in messages]
                yield Place(f"queue {url}", json.dumps(bodies, ensure_ascii=False))


def log_places(fleet: SmallFleet) -> Iterator[Place]:
    """Every log file, and what the Lambdas logged."""
    for file in sorted(fleet.home.logs.iterdir()):
        yield Place(f"log {file.name}", file.read_text(errors="replace"))
    logs = fleet.client("logs")
    for group in logs.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        for stream in logs.describe_log_streams(logGroupName=name)["logStreams"]:
            events = logs.get_log_events(logGroupName=name, logStreamName=stream["logStreamName"])["events"]
            yield Place(f"log group {name}", "\n".join(event["message"] for event in events))


def database_places(name: str, dsn: str) -> Iterator[Place]:
    """Every row of every table of a database, as text."""
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
            "WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"
        ).fetchall()
        for schema, table in tables:
            statement = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(schema, table))
            with connection.cursor().copy(statement) as copy:
                yield Place(f"{name}: {schema}.{table}", b"".join(copy).decode())


def catalog_places(fleet: SmallFleet) -> Iterator[Place]:
    """Every table and partition of the Glue catalog with its parameters."""
    glue = fleet.client("glue")
    for database in glue.get_databases()["DatabaseList"]:
        for table in glue.get_tables(DatabaseName=database["Name"])["TableList"]:
            names = {"DatabaseName": database["Name"], "TableName": table["Name"]}
            partitions = glue.get_partitions(**names)["Partitions"]
            yield Place(
                f"glue {database['Name']}.{table['Name']}", json.dumps([table, partitions], default=str)
            )


def process_places(fleet: SmallFleet) -> Iterator[Place]:
    """Arguments of every process, and the environments of those that are Esclusa's."""
    living = living_processes(fleet.home)
    for process in find_supervised(fleet.home):
        with suppress(psutil.Error):
            yield Place(f"arguments of {process.name()}", "\n".join(process.cmdline()))
            # The sample CRM is no part of Esclusa, and is given its token this way.
            if process.pid != living.get("crm"):
                variables = "\n".join(f"{name}={value}" for name, value in process.environ().items())
                yield Place(f"environment of {' '.join(process.cmdline()[-2:])}", variables)


def file_places(fleet: SmallFleet) -> Iterator[Place]:
    """Every file of the home but those that are there to hold secrets, the objects and the databases."""
    own = {password_file(fleet.home), fleet.home.path / "crm.jsonl"}
    for file in sorted(fleet.home.path.rglob("*")):
        top = file.relative_to(fleet.home.path).parts[:2]
        is_elsewhere = top[0] in {"postgres", "postgres-binaries", "logs"} or top == ("aws", "objects")
        if file.is_file() and not is_elsewhere and file not in own and "secretsmanager" not in file.name:
            yield Place(f"file {file.relative_to(fleet.home.path)}", file.read_text(errors="replace"))
