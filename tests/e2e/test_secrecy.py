"""A search of every place for the clear text of what is masked and for secrets, after everything before it ran."""

import io
from collections.abc import Callable

import polars as pl
import psycopg
import pytest
from support.fleet import SmallFleet, until
from support.leaks import (
    Place,
    all_places,
    catalog_places,
    database_places,
    find_leaks,
    log_places,
    object_places,
    personal_texts,
    queue_places,
    secret_texts,
)

from shared.domain.batches import BatchState
from shared.domain.files import Area
from shared.ports import QueueName

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_nothing_that_is_masked_and_no_secret_is_anywhere(fleet: SmallFleet) -> None:
    fleet.move_everything()
    forbidden = personal_texts(fleet) | secret_texts(fleet)
    for table in ("customers", "orders"):
        fleet.shop(f"UPDATE {table} SET updated_at = now()")

    with fleet.gates_closed():
        # Raw files in tmp/ live for a moment only; here they wait to be looked at.
        fleet.shop("UPDATE products SET stock = 1")
        until(
            lambda: (
                fleet.enqueue("shop")
                and len(fleet.batches(table="customers", states=frozenset({BatchState.EXTRACTED}))) > 0
                and len(fleet.batches(table="orders", states=frozenset({BatchState.EXTRACTED}))) > 0
            ),
            what="raw files in tmp/",
            pause=1,
        )
        raw = list(object_places(fleet))
    fleet.wait_until_at_rest()
    places = [*raw, *all_places(fleet)]

    assert any(f"{Area.TMP}/customers/" in place.where for place in raw)
    assert len(forbidden) > 1000
    assert {"email", "phone", "full name", "street", "national id", "birth date"} <= set(forbidden.values())
    for part in (
        "s3://",
        "queue ",
        "log ",
        "ledger: ",
        "warehouse: ",
        "glue ",
        "arguments of ",
        "environment of ",
    ):
        assert part == "queue " or any(place.where.startswith(part) for place in places), part
    assert find_leaks(forbidden, places) == []


CLEAR_TEXT = "customer.4711@example.com"


def plant_object(fleet: SmallFleet) -> Callable[[], list[Place]]:
    fleet.client("s3").put_object(
        Bucket=fleet.bucket(), Key="quarantine/planted.csv", Body=CLEAR_TEXT.encode()
    )
    return lambda: list(object_places(fleet))


def plant_parquet(fleet: SmallFleet) -> Callable[[], list[Place]]:
    body = io.BytesIO()
    pl.DataFrame({"email": [CLEAR_TEXT] * 3}).write_parquet(body, compression="zstd")
    fleet.client("s3").put_object(
        Bucket=fleet.bucket(), Key="quarantine/planted.parquet", Body=body.getvalue()
    )
    return lambda: list(object_places(fleet))


def plant_key(fleet: SmallFleet) -> Callable[[], list[Place]]:
    fleet.client("s3").put_object(Bucket=fleet.bucket(), Key=f"quarantine/{CLEAR_TEXT}", Body=b"")
    return lambda: list(object_places(fleet))


def plant_dead_letter(fleet: SmallFleet) -> Callable[[], list[Place]]:
    url = fleet.queue_url(QueueName.CLEAN, dead_letters=True)
    fleet.client("sqs").send_message(QueueUrl=url, MessageBody=CLEAR_TEXT)
    return lambda: list(queue_places(fleet))


def plant_log_line(fleet: SmallFleet) -> Callable[[], list[Place]]:
    fleet.home.log_file("planted").write_text(f'{{"detail": "{CLEAR_TEXT}"}}')
    return lambda: list(log_places(fleet))


def plant_row(fleet: SmallFleet) -> Callable[[], list[Place]]:
    with psycopg.connect(fleet.stack.control_dsn) as connection:
        connection.execute("CREATE TABLE planted AS SELECT %s::text AS detail", [CLEAR_TEXT])
    return lambda: list(database_places("ledger", fleet.stack.control_dsn))


def plant_parameter(fleet: SmallFleet) -> Callable[[], list[Place]]:
    glue = fleet.client("glue")
    glue.create_database(DatabaseInput={"Name": "planted"})
    glue.create_table(
        DatabaseName="planted", TableInput={"Name": "planted", "Parameters": {"example": CLEAR_TEXT}}
    )
    return lambda: list(catalog_places(fleet))


def remove_planted(fleet: SmallFleet) -> None:
    s3 = fleet.client("s3")
    for key in ("planted.csv", "planted.parquet", CLEAR_TEXT):
        s3.delete_object(Bucket=fleet.bucket(), Key=f"quarantine/{key}")
    sqs, url = fleet.client("sqs"), fleet.queue_url(QueueName.CLEAN, dead_letters=True)
    for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
        if message["Body"] == CLEAR_TEXT:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    fleet.home.log_file("planted").unlink(missing_ok=True)
    with psycopg.connect(fleet.stack.control_dsn) as connection:
        connection.execute("DROP TABLE IF EXISTS planted")
    glue = fleet.client("glue")
    if any(database["Name"] == "planted" for database in glue.get_databases()["DatabaseList"]):
        glue.delete_table(DatabaseName="planted", Name="planted")
        glue.delete_database(Name="planted")


@pytest.mark.parametrize(
    "plant",
    [plant_object, plant_parquet, plant_key, plant_dead_letter, plant_log_line, plant_row, plant_parameter],
)
def test_the_search_finds_what_is_planted(
    fleet: SmallFleet, plant: Callable[[SmallFleet], Callable[[], list[Place]]]
) -> None:
    try:
        look = plant(fleet)

        leaks = find_leaks({CLEAR_TEXT: "email"}, look())
    finally:
        remove_planted(fleet)

    assert {leak.text for leak in leaks} == {CLEAR_TEXT}
