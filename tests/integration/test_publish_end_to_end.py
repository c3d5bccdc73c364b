"""What the processor wrote, published to PostgreSQL and Glue over S3, and read back by psycopg and DuckDB."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import psycopg
import pytest
from support.process_batches import BUCKET, Scene, column, table

from services.publisher.glue import GlueCatalog, make_glue_client
from services.publisher.postgres import PostgresWarehouse
from services.publisher.publish import publish
from shared.domain.batches import Stage
from shared.domain.contracts import Publishing, PublishMode
from shared.domain.files import FileFormat
from shared.object_store.s3 import S3ObjectStore, make_s3_client

# A bucket acme-shop is the source shop under the prefix acme.
DATABASE = "acme_shop"

ROWS = [
    ("1", "", '{"a":  1}', "0.10", "2026-03-29 01:30:00.000001+00"),
    ("2", None, None, None, None),
    ("3", 'NULL "quoted"\r\nline', "[]", "-99999999.99", "1999-12-31 23:59:59.999999+00"),
]


@pytest.fixture
def store(aws_env):
    client = make_s3_client("eu-west-1")
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    yield S3ObjectStore(client)
    for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=found["Key"])
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def glue(aws_env):
    client = make_glue_client("eu-west-1")
    yield client
    client.delete_database(Name=DATABASE)


@pytest.fixture
def lake_reader(aws_env):
    """DuckDB, as an engine that reads external tables."""
    package = find_spec("duckdb_extension_httpfs")
    assert package is not None
    assert package.origin is not None
    (extension,) = Path(package.origin).parent.rglob("httpfs.duckdb_extension")
    with duckdb.connect() as connection:
        connection.execute(f"LOAD '{extension}'")
        connection.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{aws_env['AWS_ACCESS_KEY_ID']}', "
            f"SECRET '{aws_env['AWS_SECRET_ACCESS_KEY']}', "
            f"ENDPOINT '{urlsplit(aws_env['AWS_ENDPOINT_URL']).netloc}', URL_STYLE path, USE_SSL false)"
        )
        yield connection


def test_both_targets_show_what_the_processor_wrote(store, glue, lake_reader, fresh_database):
    contract = table(
        column("id", "int64"),
        column("text"),
        column("document", "json"),
        column("price", "decimal(10,2)"),
        column("changed", "timestamptz"),
        key=["id"],
        cursor=None,
    )
    scene = Scene(replace(contract, publishing=Publishing(PublishMode.MERGE)), store=store)
    scene.add_rows(*ROWS)
    processed = scene.process()
    files = tuple(file for file in processed.files if file.format is FileFormat.PARQUET)
    attempt = replace(scene.assignment.attempt, stage=Stage.PUBLISH)

    result = publish(
        replace(scene.assignment, attempt=attempt, files=files),
        warehouse=PostgresWarehouse(fresh_database, store=store),
        catalog=GlueCatalog(glue, prefix="acme"),
    )

    (partition,) = glue.get_partitions(DatabaseName=DATABASE, TableName="orders")["Partitions"]
    folder = partition["StorageDescriptor"]["Location"]
    selected = "id, text, document::text, price::text, changed::timestamp::text"
    external = lake_reader.execute(f"SELECT {selected} FROM read_parquet('{folder}*') ORDER BY id").fetchall()
    with psycopg.connect(fresh_database, options="-c timezone=UTC") as connection:
        native = connection.execute(f"SELECT {selected} FROM shop.orders ORDER BY id").fetchall()
    assert result.counts["rows_inserted"] == 3
    assert native == [
        (int(id_), text, document, price, changed and changed.removesuffix("+00"))
        for id_, text, document, price, changed in ROWS
    ]
    assert external == native
