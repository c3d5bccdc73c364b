"""Compaction and widening over real S3 and Glue of the local AWS server, as an engine sees them that asks the catalog."""

import io
import itertools
import threading
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.lake_house import LakeHouse
from support.ledgers import postgres_ledger
from support.publish_batches import APPEND, BUCKET, Published, at, column, contract_of
from support.upkeep import DyingLedger

from infra import migrations
from services.publisher.glue import GlueCatalog, make_glue_client
from services.publisher.memory import MemoryWarehouse, rows_in
from shared.contract_document import sha256_of
from shared.domain.contracts import ContractVersion, PublishMode
from shared.errors import Unavailable
from shared.object_store.s3 import S3ObjectStore, make_s3_client
from upkeep import compact, widen
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
    # Between two requests of a widening there are files of both types.
    everything = pa.concat_tables(tables, promote_options="permissive")
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


NARROW = contract_of(
    column("id", "int32"), column("price", "decimal(10,2)"), mode=PublishMode.APPEND, key=(), cursor=None
)
WIDE = contract_of(
    column("id", "int64"), column("price", "decimal(14,4)"), mode=PublishMode.APPEND, key=(), cursor=None
)


def shown_types(client, glue):
    """Return what the catalog tells of the table, and what the files have to which its partitions lead."""
    columns = glue.get_table(DatabaseName=DATABASE, Name="orders")["Table"]["StorageDescriptor"]["Columns"]
    parts = glue.get_partitions(DatabaseName=DATABASE, TableName="orders")["Partitions"]
    told = {tuple(one["Type"] for one in part["StorageDescriptor"]["Columns"]) for part in parts}
    files = set()
    for part in parts:
        prefix = part["StorageDescriptor"]["Location"].removeprefix(f"s3://{BUCKET}/")
        for found in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", []):
            body = client.get_object(Bucket=BUCKET, Key=found["Key"])["Body"].read()
            files.add(tuple(str(type_) for type_ in pq.read_schema(io.BytesIO(body)).types))
    return tuple(one["Type"] for one in columns), told, files


def test_every_partition_that_glue_shows_is_widened_and_a_run_that_died_is_taken_up(
    client, glue, fresh_database
):
    store = S3ObjectStore(client)
    published = Published(MemoryWarehouse(rows_in(store)), store)
    migrations.upgrade(fresh_database)
    with postgres_ledger(fresh_database) as ledger:
        house = LakeHouse(
            store=store, published=published, catalog=GlueCatalog(glue, prefix="acme-lake"), ledger=ledger
        )
        tools = Tools(ledger, store, house.catalog)
        rows = [(number, Decimal(number) / 4) for number in range(6)]
        for number, row in enumerate(rows[:4]):
            house.publish([row], NARROW, quarter=number)
        (group,) = compact.find_groups("shop", "orders", ledger=ledger, covers=lambda _: True)
        compact.compact_group(group, tools=tools, detail="test")
        house.publish([rows[4]], NARROW, quarter=4)
        with ledger.transaction() as tx:
            tx.insert_contract(ContractVersion(2, sha256_of(WIDE), WIDE))

        for number in itertools.count(1):
            dying = Tools(DyingLedger(ledger, number=number, before=number % 2 == 0), store, house.catalog)
            try:
                widen.widen("shop", "orders", tools=dying, detail="test")
            except Unavailable:
                assert engine_rows(client, glue) == [(number,) for number in range(5)]
            else:
                break
        house.publish([rows[5]], WIDE, quarter=5, version=2)

        assert number > 5
        assert shown_types(client, glue) == (
            ("bigint", "decimal(14,4)"),
            {("bigint", "decimal(14,4)")},
            {("int64", "decimal128(14, 4)")},
        )
        assert engine_rows(client, glue) == [(number,) for number in range(6)]
        answer = query_lake(
            "SELECT id, price FROM shop.orders ORDER BY id",
            ledger=ledger,
            store=store,
            row_limit=100,
            timeout_seconds=20,
        )
        assert list(answer.rows) == rows
