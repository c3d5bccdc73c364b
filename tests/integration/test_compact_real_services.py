"""Compaction over real S3 and Glue of the local AWS server: an engine that goes on asking meanwhile sees each row once."""

import io
import threading

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.lake_house import LakeHouse
from support.publish_batches import APPEND, BUCKET, Published, at

from services.publisher.glue import GlueCatalog, make_glue_client
from services.publisher.memory import MemoryWarehouse, rows_in
from shared.object_store.s3 import S3ObjectStore, make_s3_client
from upkeep import compact
from upkeep.compact import Tools
from upkeep.lake_query import query_lake

DATABASE = "acme_lake_shop"
ROWS = [(number, f"name {number}", at(number)) for number in range(30)]


@pytest.fixture
def client(aws_env):
    client = make_s3_client("eu-west-1")
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    yield client
    for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=found["Key"])
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def glue(aws_env):
    client = make_glue_client("eu-west-1")
    yield client
    client.delete_database(Name=DATABASE)


def engine_rows(client, glue):
    """Ask the catalog for the partitions, read what lies in their folders, and let DuckDB count, as an engine would."""
    parts = glue.get_partitions(DatabaseName=DATABASE, TableName="orders")["Partitions"]
    tables = []
    for part in parts:
        prefix = part["StorageDescriptor"]["Location"].removeprefix(f"s3://{BUCKET}/")
        for found in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", []):
            body = client.get_object(Bucket=BUCKET, Key=found["Key"])["Body"].read()
            tables.append(pq.read_table(io.BytesIO(body)))
    everything = pa.concat_tables(tables)
    with duckdb.connect() as connection:
        connection.register("everything", everything)
        return connection.execute("SELECT id FROM everything ORDER BY id").fetchall()


def test_readers_notice_nothing_of_a_compaction_and_of_its_undoing(client, glue):
    store = S3ObjectStore(client)
    published = Published(MemoryWarehouse(rows_in(store)), store)
    house = LakeHouse(store=store, published=published, catalog=GlueCatalog(glue, prefix="acme-lake"))
    for number, row in enumerate(ROWS):
        house.publish([row], APPEND, quarter=number)
    expected = [(row[0],) for row in ROWS]
    tools = Tools(house.ledger, store, house.catalog)
    done = threading.Event()
    seen: list[object] = []

    def read_on() -> None:
        while not done.is_set():
            seen.append(engine_rows(client, glue))

    reader = threading.Thread(target=read_on)
    reader.start()
    for _ in range(3):
        (group,) = compact.find_groups("shop", "orders", ledger=house.ledger, covers=lambda _: True)
        compaction = compact.compact_group(group, tools=tools, detail="test")
        answer = query_lake(
            "SELECT id FROM shop.orders ORDER BY id",
            ledger=house.ledger,
            store=store,
            row_limit=100,
            timeout_seconds=20,
        )
        assert list(answer.rows) == expected
        compact.undo(compaction.id, tools=tools, detail="test")
    done.set()
    reader.join(60)

    assert len(seen) > 3
    assert all(rows == expected for rows in seen)
