"""Masks from a PostgreSQL source to the view of an analyst: coarse values, and two keys at once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from support.carrying import carry
from support.extraction import (
    BUCKET,
    HMAC_EMAIL,
    MASK_KEY,
    column,
    make_assignment,
    make_contract,
    updated_at,
)

from services.extractor.extract import extract
from services.extractor.readers import open_reader
from services.processor.process import process
from services.publisher.memory import MemoryCatalog
from services.publisher.postgres import PostgresWarehouse
from services.publisher.publish import publish
from shared.domain.batches import Stage, batch_id
from shared.domain.contracts import Mask, MaskKind, TableContract, Truncation
from shared.domain.files import FileFormat
from shared.domain.windows import Window
from shared.object_store.memory import MemoryObjectStore
from shared.secrets.memory import MemorySecrets

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(query).fetchall()


# ---- coarse values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "declared", "mask", "values", "rejected"),
    [
        (
            "date",
            "date",
            Mask(MaskKind.TRUNCATE, truncation=Truncation.YEAR),
            {"1990-07-15": "1990-01-01", "0001-12-31": "0001-01-01", "9999-12-31": "9999-01-01"},
            ["infinity", "-infinity", "0044-03-15 BC", "10000-01-01", "5874897-12-31"],
        ),
        (
            "timestamptz",
            "timestamptz",
            Mask(MaskKind.TRUNCATE, truncation=Truncation.HOUR),
            {"2026-03-29 03:30+02": "2026-03-29 01:00:00+00", "1969-12-31 23:59:59.999999+00": "1969-12-31 23:00:00+00"},
            ["infinity", "294276-12-31 00:00+00", "0001-01-01 00:00+14"],
        ),
        (
            "timestamp",
            "timestamp",
            Mask(MaskKind.TRUNCATE, truncation=Truncation.MONTH),
            {"2024-02-29 12:34:56.7": "2024-02-01 00:00:00"},
            ["-infinity", "4713-01-01 BC"],
        ),
        (
            "numeric(38,10)",
            "decimal(38,10)",
            Mask(MaskKind.BUCKET, step=Decimal("0.5")),
            {
                "9999999999999999999999999999.9999999999": "9999999999999999999999999999.5000000000",
                "-9999999999999999999999999999.4": "-9999999999999999999999999999.5000000000",
                "-0.0000000001": "-0.5000000000",
                "0": "0.0000000000",
            },
            ["NaN", "-9999999999999999999999999999.6"],
        ),
        (
            "bigint",
            "int64",
            Mask(MaskKind.BUCKET, step=Decimal(1000)),
            {"9223372036854775807": "9223372036854775000", "-1": "-1000", "999": "0"},
            ["-9223372036854775808"],
        ),
    ],
)  # fmt: skip
def test_coarse_values_arrive_exact_and_of_their_type_or_are_rejected_and_counted(
    fresh_database: str, type_: str, declared: str, mask: Mask, values: dict[str, str], rejected: list[str]
) -> None:
    run(fresh_database, f"CREATE TABLE things (n integer, v {type_})")
    for number, value in enumerate([*values, *rejected]):
        run(fresh_database, f"INSERT INTO things VALUES ({number}, '{value}')")
    run(fresh_database, "INSERT INTO things VALUES (-1, NULL)")
    contract = make_contract(
        [column("n", "int32"), column("v", declared, mask)], relation=("public", "things")
    )

    counts = carry(contract, secrets={"env:SHOP_DSN": fresh_database}, warehouse=fresh_database)

    found = rows(fresh_database, "SELECT v::text, pg_typeof(v) = pg_typeof((SELECT v FROM things LIMIT 1)) "
                                 "FROM shop.things ORDER BY n")  # fmt: skip
    assert found == [(None, True), *((value, True) for value in values.values())]
    assert counts["rows_rejected"] == len(rejected)


# ---- two keys ----------------------------------------------------------------------------------------------

SECRETS = {"env:MASK_KEY": MASK_KEY, "env:MASK_KEY_2": "the second key, long enough"}


def under_keys(*, current: str, previous: str = "") -> TableContract:
    """The contract of customers, under one key or two."""
    email = column("email", mask=replace(HMAC_EMAIL, key_id=current))
    old = replace(
        email, name=f"email__{previous}", mask=replace(HMAC_EMAIL, key_id=previous), made_from="email"
    )
    columns = [column("id", "int32", nullable=False), email, column("updated_at", "timestamptz")]
    return make_contract([*columns, *([old] if previous else [])], cursor=updated_at())


def load(dsn: str, contract: TableContract, *, version: int, hour: int, slot: str = "") -> None:
    """Lead one hour of customers through all services."""
    store, vault = MemoryObjectStore(), MemorySecrets({**SECRETS, "env:SHOP_DSN": dsn})
    window = Window(NOON + hour * HOUR, NOON + (hour + 1) * HOUR)
    assignment = make_assignment(contract, window=window)
    batch = replace(
        assignment.batch,
        id=batch_id("shop", "customers", slot or f"hour {hour}"),
        contract_version=version,
        attempts=dict.fromkeys(Stage, 1),
        bucket=BUCKET,
    )
    assignment = replace(assignment, batch=batch, attempt=replace(assignment.attempt, batch_id=batch.id))
    with open_reader(contract, secrets=vault) as reader:
        extracted = extract(assignment, reader=reader, store=store, secrets=vault)
    processed = process(replace(assignment, files=tuple(extracted.files)), store=store)
    final = tuple(file for file in processed.files if file.format is FileFormat.PARQUET)
    publish(
        replace(assignment, files=final),
        warehouse=PostgresWarehouse(dsn, store=store),
        catalog=MemoryCatalog(),
    )


def test_analysts_join_under_the_old_key_all_the_time_and_under_the_new_one_in_the_end(
    fresh_database: str,
) -> None:
    dsn = fresh_database
    run(
        dsn,
        "CREATE TABLE customers (id int PRIMARY KEY, email text, updated_at timestamptz NOT NULL)",
        "INSERT INTO customers VALUES (1, 'Ann@x.org', '2026-01-01 12:30Z'), (2, NULL, '2026-01-01 12:40Z'), "
        "(3, 'ann@x.org', '2026-01-01 13:30Z')",
    )
    by_old_key = "SELECT count(DISTINCT coalesce(email__k1, email)), count(coalesce(email__k1, email)) FROM shop.customers"
    rotating = under_keys(current="k2", previous="k1")
    load(dsn, under_keys(current="k1"), version=1, hour=0)

    load(dsn, rotating, version=2, hour=1)

    (half,) = rows(dsn, "SELECT count(DISTINCT email) FROM shop.customers")
    assert half == (2,)
    assert rows(dsn, by_old_key) == [(1, 2)]

    load(dsn, rotating, version=2, hour=0, slot="again")

    assert rows(dsn, by_old_key) == [(1, 2)]
    assert rows(dsn, "SELECT count(DISTINCT email), count(email) FROM shop.customers") == [(1, 2)]

    run(dsn, "INSERT INTO customers VALUES (4, ' ANN@X.ORG', '2026-01-01 14:30Z')")
    load(dsn, under_keys(current="k2"), version=3, hour=2)

    shown = rows(
        dsn, "SELECT attname FROM pg_attribute WHERE attrelid = 'shop.customers'::regclass AND attnum > 0"
    )
    told = rows(dsn, "SELECT col_description('shop.customers'::regclass, 2)")
    assert {name for (name,) in shown} == {"id", "email", "updated_at"}
    assert rows(dsn, "SELECT count(DISTINCT email), count(email) FROM shop.customers") == [(1, 3)]
    assert told == [("masked: hmac of email, key k2",)]


def test_evidence_names_each_key(fresh_database: str) -> None:
    run(
        fresh_database,
        "CREATE TABLE customers (id int, email text, updated_at timestamptz NOT NULL)",
        "INSERT INTO customers VALUES (1, 'a@x.org', '2026-01-01 12:30Z'), (2, NULL, '2026-01-01 12:30Z')",
    )
    contract = under_keys(current="k2", previous="k1")
    vault = MemorySecrets({**SECRETS, "env:SHOP_DSN": fresh_database})

    with open_reader(contract, secrets=vault) as reader:
        result = extract(
            make_assignment(contract, window=Window(NOON, NOON + HOUR)),
            reader=reader,
            store=MemoryObjectStore(),
            secrets=vault,
        )

    found = {proof.column: (proof.key_id, proof.masked_value_count) for proof in result.evidence}
    assert found == {"id": ("", 0), "email": ("k2", 1), "updated_at": ("", 0), "email__k1": ("k1", 1)}
