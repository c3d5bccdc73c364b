"""What every lake catalog promises, tried on the one in memory and on Glue of two local AWS servers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber
from moto import mock_aws
from support.publish_batches import BUCKET, NOON, column, contract_of

from local.ports import find_free_port
from services.publisher.catalog import (
    ExternalBatch,
    ExternalTable,
    LakeCatalog,
    external_table,
)
from services.publisher.glue import GlueCatalog, make_glue_client
from services.publisher.memory import MemoryCatalog
from shared.domain.contracts import MaskKind, PublishMode
from shared.domain.files import Location
from shared.domain.reasons import Reason
from shared.errors import ConfigurationError, LostLease, Refused, Unavailable

DATABASE = "acme_lake_shop"


@dataclass
class Lake:
    """A catalog under test, and what a reader of it finds."""

    catalog: LakeCatalog
    client: Any = None

    def folders(self, table: str = "orders") -> dict[str, int]:
        """Return the folders that a reader of a table reads, with the record count that the catalog tells."""
        if isinstance(self.catalog, MemoryCatalog):
            batches = self.catalog.batches["shop", table].values()
            return {str(batch.folder): batch.record_count for batch in batches}
        found = self.table(table)
        parts = [found]
        if found["PartitionKeys"]:
            pages = self.client.get_paginator("get_partitions").paginate(
                DatabaseName=DATABASE, TableName=table
            )
            parts = [part for page in pages for part in page["Partitions"]]
        return {part["StorageDescriptor"]["Location"]: int(part["Parameters"]["numRows"]) for part in parts}

    def columns(self, table: str = "orders") -> list[tuple[str, str, str]]:
        if isinstance(self.catalog, MemoryCatalog):
            columns = self.catalog.tables["shop", table].columns
            return [(column.name, column.type, column.comment) for column in columns]
        columns = self.table(table)["StorageDescriptor"]["Columns"]
        return [(column["Name"], column["Type"], column["Comment"]) for column in columns]

    def table(self, name: str = "orders") -> Any:
        return self.client.get_table(DatabaseName=DATABASE, Name=name)["Table"]


@pytest.fixture(params=["memory", "ministack", "moto"])
def lake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    if request.param == "memory":
        yield Lake(MemoryCatalog())
    elif request.param == "ministack":
        request.getfixturevalue("aws_env")
        client = make_glue_client("eu-west-1")
        yield Lake(GlueCatalog(client, prefix="acme-lake"), client)
        for table in client.get_tables(DatabaseName=DATABASE)["TableList"]:
            client.delete_table(DatabaseName=DATABASE, Name=table["Name"])
    else:
        for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        with mock_aws():
            client = make_glue_client("eu-west-1")
            yield Lake(GlueCatalog(client, prefix="acme-lake"), client)


def table_of(*, mode: PublishMode = PublishMode.MERGE, version: int = 1, **changes: Any) -> ExternalTable:
    return external_table(contract_of(mode=mode, **changes), contract_version=version, bucket=BUCKET)


MERGED, REPLACED = table_of(), table_of(mode=PublishMode.REPLACE)


def batch(
    number: int, *, attempt: int = 1, process_attempt: int = 1, record_count: int = 10
) -> ExternalBatch:
    folder = f"final/orders/day=2026-11-22/batch=b{number}/a{process_attempt}/"
    return ExternalBatch(
        batch_id=f"b{number}",
        day="2026-11-22",
        window_end=NOON + timedelta(minutes=15 * number),
        folder=Location(BUCKET, folder),
        record_count=record_count,
        attempt=attempt,
    )


def test_each_batch_of_an_incremental_table_is_a_partition_at_its_own_folder(lake):
    for number in (1, 2):
        lake.catalog.put_partition(MERGED, batch(number, record_count=number))

    assert lake.folders() == {str(batch(1).folder): 1, str(batch(2).folder): 2}


def test_putting_a_partition_again_changes_nothing(lake):
    for attempt in (1, 2):
        lake.catalog.put_partition(MERGED, batch(1, attempt=attempt))

    assert lake.folders() == {str(batch(1).folder): 10}


def test_a_replay_leads_the_partition_to_the_files_of_the_new_attempt(lake):
    lake.catalog.put_partition(MERGED, batch(1))

    lake.catalog.put_partition(MERGED, batch(1, attempt=2, process_attempt=2, record_count=9))

    assert lake.folders() == {str(batch(1, process_attempt=2).folder): 9}


def test_an_attempt_that_was_overtaken_leads_no_partition_back(lake):
    lake.catalog.put_partition(MERGED, batch(1, attempt=2, process_attempt=2))

    with pytest.raises(LostLease):
        lake.catalog.put_partition(MERGED, batch(1, attempt=1, process_attempt=1))

    assert lake.folders() == {str(batch(1, process_attempt=2).folder): 10}


def test_a_replaced_table_is_its_newest_snapshot_alone(lake):
    shown = [lake.catalog.put_snapshot(REPLACED, batch(number)) for number in (1, 3, 2)]

    assert shown == [True, True, False]
    assert lake.folders() == {str(batch(3).folder): 10}


def test_putting_a_snapshot_again_changes_nothing(lake):
    assert lake.catalog.put_snapshot(REPLACED, batch(1))
    assert lake.catalog.put_snapshot(REPLACED, batch(1, attempt=2))

    assert lake.folders() == {str(batch(1).folder): 10}


def test_a_replay_of_a_snapshot_shows_the_new_files(lake):
    lake.catalog.put_snapshot(REPLACED, batch(1))

    assert lake.catalog.put_snapshot(REPLACED, batch(1, attempt=2, process_attempt=2))

    assert lake.folders() == {str(batch(1, process_attempt=2).folder): 10}


def test_an_attempt_that_was_overtaken_puts_no_snapshot(lake):
    lake.catalog.put_snapshot(REPLACED, batch(1, attempt=2, process_attempt=2))

    with pytest.raises(LostLease):
        lake.catalog.put_snapshot(REPLACED, batch(1, attempt=1, process_attempt=1))


def test_a_new_contract_brings_its_columns_and_an_older_one_takes_none_away(lake):
    newer = replace(
        MERGED, columns=(*MERGED.columns, replace(MERGED.columns[1], name="city")), contract_version=2
    )
    lake.catalog.put_partition(MERGED, batch(1))

    lake.catalog.put_partition(newer, batch(2))
    lake.catalog.put_partition(MERGED, batch(3))

    assert [name for name, _, _ in lake.columns()] == ["id", "name", "changed", "city"]
    assert len(lake.folders()) == 3


def with_type(table: ExternalTable, type_: str, *, comment: str = "", version: int = 2) -> ExternalTable:
    """The table with another type of its first column."""
    changed = replace(table.columns[0], type=type_, comment=comment)
    return replace(table, columns=(changed, *table.columns[1:]), contract_version=version)


def test_a_type_that_older_partitions_do_not_have_is_refused_by_name(lake):
    lake.catalog.put_partition(MERGED, batch(1))
    before = lake.columns()

    with pytest.raises(Refused, match="column 'id' should be string, found bigint") as refused:
        lake.catalog.put_partition(with_type(MERGED, "string"), batch(2))

    assert refused.value.reason is Reason.TARGET_INCOMPATIBLE
    assert lake.columns() == before
    assert lake.folders() == {str(batch(1).folder): 10}


def test_a_column_that_is_masked_from_now_on_may_change_its_type_and_not_back(lake):
    lake.catalog.put_partition(MERGED, batch(1))

    lake.catalog.put_partition(with_type(MERGED, "string", comment="masked: redact"), batch(2))

    assert lake.columns()[0] == ("id", "string", "masked: redact")
    with pytest.raises(Refused, match="should be bigint, found string"):
        lake.catalog.put_partition(replace(MERGED, contract_version=3), batch(3))


def test_partitions_of_before_a_column_was_masked_are_led_elsewhere_and_no_more_of_them_come(lake):
    lake.catalog.put_partition(MERGED, batch(1))
    masked = replace(with_type(MERGED, "string", comment="masked: redact"), contract_version=2)
    lake.catalog.put_partition(masked, batch(2))

    lake.catalog.change_types(MERGED)
    lake.catalog.switch_partitions(MERGED, [moved(1, folder="c1", record_count=10)])

    assert lake.columns()[0] == ("id", "string", "masked: redact")
    assert f"s3://{BUCKET}/final/orders/c1/" in lake.folders()
    with pytest.raises(Refused, match="should be bigint, found string"):
        lake.catalog.put_partition(MERGED, batch(3))


def narrow_and_wide() -> tuple[ExternalTable, ExternalTable]:
    """A table, and as a newer contract wants it: of wider types, with a column more and one less."""
    narrow = contract_of(column("id", "int32"), column("price", "decimal(10,2)"), column("name"), cursor=None)
    wide = contract_of(column("id", "int64"), column("price", "decimal(14,4)"), column("city"), cursor=None)
    return (
        external_table(narrow, contract_version=1, bucket=BUCKET),
        external_table(wide, contract_version=2, bucket=BUCKET),
    )


def test_types_are_changed_to_wider_ones_and_nothing_else_of_the_table(lake):
    narrow, wide = narrow_and_wide()
    lake.catalog.put_partition(replace(narrow, record_count=10), batch(1))

    for _ in range(2):
        lake.catalog.change_types(wide)

    assert [(name, type_) for name, type_, _ in lake.columns()] == [
        ("id", "bigint"),
        ("price", "decimal(14,4)"),
        ("name", "string"),
    ]
    assert lake.folders() == {str(batch(1).folder): 10}
    if lake.client is not None:
        parameters = lake.table()["Parameters"]
        assert (parameters["esclusa.contract_version"], parameters["numRows"]) == ("1", "10")


def test_after_a_change_of_types_a_batch_of_these_is_shown_and_one_of_the_narrower_is_not(lake):
    narrow, wide = narrow_and_wide()
    lake.catalog.put_partition(narrow, batch(1))
    with pytest.raises(Refused, match=r"`esclusa widen shop\.orders` writes those files anew"):
        lake.catalog.put_partition(wide, batch(2))
    lake.catalog.change_types(wide)

    lake.catalog.switch_partitions(wide, [moved(1, folder="c1", record_count=10)])
    lake.catalog.put_partition(wide, batch(2))

    assert len(lake.folders()) == 2
    assert [name for name, _, _ in lake.columns()] == ["id", "price", "city"]
    with pytest.raises(Refused, match=r"column 'id' should be int, found bigint.*replay the batch"):
        lake.catalog.put_partition(narrow, batch(3))


def test_a_change_of_types_leaves_what_is_no_widening_and_tables_that_are_not_there(lake):
    narrow, wide = narrow_and_wide()
    lake.catalog.put_partition(wide, batch(1))
    before = lake.columns()

    lake.catalog.change_types(narrow)
    lake.catalog.change_types(replace(wide, name="another", table="another"))

    assert lake.columns() == before


def test_a_snapshot_may_have_other_types_than_the_one_before(lake):
    lake.catalog.put_snapshot(REPLACED, batch(1))

    assert lake.catalog.put_snapshot(with_type(REPLACED, "string"), batch(2))

    assert lake.columns()[0][1] == "string"


def test_two_tables_whose_names_come_to_one_are_told_apart(lake):
    first = external_table(contract_of(table="Order Items"), contract_version=1, bucket=BUCKET)
    second = external_table(contract_of(table="order_items"), contract_version=1, bucket=BUCKET)
    lake.catalog.put_partition(first, batch(1))

    with pytest.raises(Refused) as refusal:
        lake.catalog.put_partition(second, batch(2))

    assert refusal.value.reason is Reason.TARGET_INCOMPATIBLE
    assert "Order Items" in refusal.value.detail


@pytest.mark.parametrize(
    ("before", "after"), [(MERGED, REPLACED), (REPLACED, MERGED)], ids=["merge", "replace"]
)
def test_a_change_of_the_publish_mode_is_refused(lake, before, after):
    put(lake, before, batch(1))

    with pytest.raises(Refused) as refusal:
        put(lake, after, batch(2))

    assert refusal.value.reason is Reason.TARGET_INCOMPATIBLE
    assert lake.folders() == {str(batch(1).folder): 10}


def moved(number: int, *, folder: str, record_count: int = 0) -> ExternalBatch:
    """The batch as a compaction shows it."""
    location = Location(BUCKET, f"final/orders/{folder}/")
    return replace(batch(number), folder=location, record_count=record_count, moved_by="c1")


def test_many_batches_are_shown_at_once_and_again_without_harm(lake):
    batches = [batch(number, record_count=number) for number in range(205)]

    for _ in range(2):
        lake.catalog.put_partitions(MERGED, batches)

    assert lake.folders() == {str(one.folder): one.record_count for one in batches}


def test_partitions_are_switched_to_another_folder_and_back(lake):
    batches = [batch(number) for number in (1, 2)]
    lake.catalog.put_partitions(MERGED, batches)

    lake.catalog.switch_partitions(MERGED, [moved(1, folder="c1", record_count=20), moved(2, folder="empty")])
    switched = lake.folders()
    lake.catalog.switch_partitions(MERGED, batches)

    assert switched == {f"s3://{BUCKET}/final/orders/c1/": 20, f"s3://{BUCKET}/final/orders/empty/": 0}
    assert lake.folders() == {str(one.folder): 10 for one in batches}


def test_a_publisher_leads_no_partition_out_of_a_compaction(lake):
    lake.catalog.put_partition(MERGED, batch(1))
    lake.catalog.switch_partitions(MERGED, [moved(1, folder="c1", record_count=20)])

    lake.catalog.put_partition(MERGED, batch(1, attempt=9, process_attempt=9))

    assert lake.folders() == {f"s3://{BUCKET}/final/orders/c1/": 20}


def test_partitions_that_were_lost_are_made_anew_by_a_switch(lake):
    lake.catalog.put_partition(MERGED, batch(1))

    lake.catalog.switch_partitions(MERGED, [moved(2, folder="c1", record_count=20)])

    assert lake.folders() == {str(batch(1).folder): 10, f"s3://{BUCKET}/final/orders/c1/": 20}


def test_a_snapshot_gives_way_to_an_older_one_if_an_operator_goes_back(lake):
    lake.catalog.put_snapshot(REPLACED, batch(2))

    assert lake.catalog.put_snapshot(REPLACED, batch(1), goes_back=True)

    assert lake.folders() == {str(batch(1).folder): 10}


def test_a_partitioned_table_tells_about_how_many_rows_it_has():
    catalog, stub = stubbed()
    told = {"numRows": "100", "esclusa.table": "orders", "esclusa.contract_version": "1"}
    found = {
        "Name": "orders",
        "Parameters": told,
        "PartitionKeys": [{"Name": "esclusa_day"}],
        "StorageDescriptor": {
            "Columns": [{"Name": c.name, "Type": c.type, "Comment": c.comment} for c in MERGED.columns]
        },
    }
    with stub:
        for row_count in (105, 150):
            stub.add_response("get_table", {"Table": found})
            if row_count == 150:
                stub.add_response(
                    "update_table", {}, {"DatabaseName": DATABASE, "TableInput": ANY, "SkipArchive": True}
                )
            stub.add_response("batch_create_partition", {"Errors": []})
            catalog.put_partition(replace(MERGED, record_count=row_count), batch(1))

    stub.assert_no_pending_responses()


def put(lake, table, one):
    return (lake.catalog.put_partition if table.is_partitioned else lake.catalog.put_snapshot)(table, one)


KINDS = {
    "string": "string",
    "boolean": "boolean",
    "int16": "smallint",
    "int32": "int",
    "int64": "bigint",
    "float32": "float",
    "float64": "double",
    "decimal(38,9)": "decimal(38,9)",
    "date": "date",
    "timestamp": "timestamp",
    "timestamptz": "timestamp",
    "json": "string",
    "binary": "binary",
}


def test_every_kind_of_column_has_the_type_that_its_parquet_has(lake):
    columns = [column(f"c{number}", kind) for number, kind in enumerate(KINDS)]
    contract = contract_of(
        *columns, column("E-Mail", "int64", mask=MaskKind.HMAC), column("gone", mask=MaskKind.DROP)
    )

    put(lake, external_table(contract, contract_version=1, bucket=BUCKET), batch(1))

    types = [type_ for _, type_, _ in lake.columns()]
    assert types == [*KINDS.values(), "string"]
    comments = {name: comment for name, _, comment in lake.columns() if comment}
    assert comments == {"c10": "UTC", "c11": "JSON as text", "e-mail": "masked: hmac of customer, key k1"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["Day", "DAY"], "'DAY' and 'Day' are one name"), (["ESCLUSA_day"], "partition key"), (["a\nb"], "'a\\nb'"), (["x" * 256], "255 bytes")],
)  # fmt: skip
def test_a_column_that_an_external_table_cannot_name_is_refused_by_name(names, expected):
    contract = contract_of(*(column(name) for name in names), key=())

    with pytest.raises(Refused) as refusal:
        external_table(contract, contract_version=1, bucket=BUCKET)

    assert refusal.value.reason is Reason.TARGET_INCOMPATIBLE
    assert expected in refusal.value.detail


def test_columns_named_like_our_folders_are_carried():
    contract = contract_of(column("day"), column("batch"), key=())

    names = [column.name for column in external_table(contract, contract_version=1, bucket=BUCKET).columns]

    assert names == ["day", "batch"]


# ---- Glue alone: what no server on this machine does ---------------------------------------------------------------


def stubbed() -> tuple[GlueCatalog, Stubber]:
    client = boto3.client("glue", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
    return GlueCatalog(client, prefix="acme-lake"), Stubber(client)


def found_table(catalog: GlueCatalog, number: int, *, version: str) -> dict[str, Any]:
    parameters = {"esclusa.table": "orders", "esclusa.window_end": batch(number).window_end.isoformat()}
    return {"Table": {"Name": "orders", "Parameters": parameters, "VersionId": version}}


def test_of_two_snapshots_at_once_the_newer_stays():
    catalog, stub = stubbed()
    update = {"DatabaseName": DATABASE, "TableInput": ANY, "SkipArchive": True}
    stub.add_response("get_table", found_table(catalog, 1, version="7"))
    stub.add_client_error(
        "update_table", "ConcurrentModificationException", expected_params={**update, "VersionId": "7"}
    )
    stub.add_response("get_table", found_table(catalog, 3, version="8"))

    with stub:
        is_shown = catalog.put_snapshot(REPLACED, batch(2))

    assert not is_shown
    stub.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("InternalServiceException", Unavailable),
        ("ThrottlingException", Unavailable),
        ("AccessDeniedException", ConfigurationError),
        ("InvalidInputException", Refused),
    ],
)
def test_errors_of_glue_say_what_happens_next(code, error):
    catalog, stub = stubbed()
    stub.add_client_error("get_table", code)

    with stub, pytest.raises(error, match=r"acme_lake_shop\.orders"):
        catalog.put_partition(MERGED, batch(1))


def test_a_partition_that_glue_could_not_make_is_unavailable():
    catalog, stub = stubbed()
    table = {**found_table(catalog, 1, version="1")["Table"], "PartitionKeys": [{"Name": "esclusa_day"}]}
    table["Parameters"]["esclusa.contract_version"] = "2"
    stub.add_response("get_table", {"Table": table})
    error = {"ErrorDetail": {"ErrorCode": "ResourceNumberLimitExceededException", "ErrorMessage": "too many"}}
    stub.add_response("batch_create_partition", {"Errors": [error]})

    with stub, pytest.raises(Unavailable, match="too many"):
        catalog.put_partition(MERGED, batch(1))


def test_a_catalog_that_is_away_is_unavailable(aws_env, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{find_free_port()}")
    catalog = GlueCatalog(make_glue_client("eu-west-1"), prefix="acme-lake")

    with pytest.raises(Unavailable):
        catalog.put_partition(MERGED, batch(1))
