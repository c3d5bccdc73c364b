"""The publisher's story, over warehouse and catalog in memory."""

from dataclasses import replace

import pytest
from support.publish_batches import APPEND, BUCKET, MERGE, REPLACE, Published, assignment_of, at, contract_of

from services.publisher.memory import MemoryCatalog, MemoryWarehouse, rows_in
from services.publisher.publish import publish
from services.publisher.warehouse import manifest_sha256
from shared.domain.contracts import PublishMode, Target
from shared.domain.files import Location
from shared.domain.reasons import Reason
from shared.errors import LostLease, Refused, Unavailable
from shared.object_store.memory import MemoryObjectStore

ANNA, BERT = (1, "Anna", at(1)), (2, "Bert", at(2))
FOLDERS = ("shop", "orders")


class House:
    """A publisher's surroundings in memory."""

    def __init__(self) -> None:
        store = MemoryObjectStore()
        self.published = Published(MemoryWarehouse(rows_in(store)), store)
        self.catalog = MemoryCatalog()

    def publish(self, *args, **kwargs):
        return self.run(self.published.batch(*args, **kwargs))

    def run(self, load):
        return publish(assignment_of(load), warehouse=self.published.warehouse, catalog=self.catalog)

    def folders(self) -> list[str]:
        """Return what readers of the external table read."""
        return [str(batch.folder) for batch in self.catalog.batches.get(FOLDERS, {}).values()]


@pytest.fixture
def house() -> House:
    return House()


def towards(contract, target):
    return replace(contract, publishing=replace(contract.publishing, target=target))


def test_a_batch_is_seen_in_the_warehouse_and_in_the_lake(house):
    load = house.published.batch([ANNA, BERT])

    result = house.run(load)

    assert house.published.rows() == [ANNA, BERT]
    assert house.folders() == [f"s3://{BUCKET}/final/orders/day=2026-11-22/batch={load.batch_id}/a1/"]
    assert result.counts == {"rows_staged": 2, "rows_inserted": 2, "rows_updated": 0, "rows_unchanged": 0}
    assert not result.is_superseded


def test_a_table_for_the_lake_alone_is_in_no_warehouse(house):
    result = house.publish([ANNA], towards(MERGE, Target.EXTERNAL))

    assert len(house.folders()) == 1
    assert result.counts == {}
    with pytest.raises(KeyError):
        house.published.rows()


def test_a_table_for_the_warehouse_alone_is_not_in_the_lake(house):
    house.publish([ANNA], towards(MERGE, Target.NATIVE))

    assert house.published.rows() == [ANNA]
    assert house.catalog.tables == {}


def test_a_name_that_only_the_lake_cannot_carry_is_no_matter_for_a_native_table(house):
    columns = (*MERGE.columns, replace(MERGE.columns[1], name="NAME"))

    house.publish([(1, "a", at(1), "b")], towards(contract_of(*columns), Target.NATIVE))

    assert house.published.rows() == [(1, "a", at(1), "b")]


def test_a_name_that_the_lake_cannot_carry_is_refused_before_the_warehouse_is_touched(house):
    columns = (*MERGE.columns, replace(MERGE.columns[1], name="NAME"))

    with pytest.raises(Refused, match="'NAME' and 'name' are one name"):
        house.publish([(1, "a", at(1), "b")], contract_of(*columns))

    with pytest.raises(KeyError):
        house.published.rows()


def test_what_the_warehouse_refuses_is_not_shown_in_the_lake(house):
    with pytest.raises(Refused):
        house.publish([ANNA, (None, "Nobody", at(2))])

    assert house.folders() == []


@pytest.mark.parametrize("contract", [APPEND, MERGE, REPLACE], ids=["append", "merge", "replace"])
def test_an_attempt_that_died_between_warehouse_and_lake_is_made_good_by_the_next(house, contract):
    class Away(MemoryCatalog):
        def put_partition(self, table, batch):
            raise Unavailable("Glue is away")

        put_snapshot = put_partition

    first = house.published.batch([ANNA, BERT], contract)
    with pytest.raises(Unavailable):
        publish(assignment_of(first), warehouse=house.published.warehouse, catalog=Away())

    result = house.run(replace(first, attempt=2))

    assert house.published.rows() == [ANNA, BERT]
    assert len(house.folders()) == 1
    assert result.counts["rows_inserted"] == 2
    assert result.manifest["was_loaded_before"]


@pytest.mark.parametrize("target", list(Target))
def test_an_older_snapshot_is_superseded_wherever_it_should_go(house, target):
    contract = towards(REPLACE, target)
    newer = house.published.batch([ANNA], contract, quarter=2)
    house.run(newer)
    before = house.folders()

    result = house.publish([BERT], contract, quarter=1)

    assert result.is_superseded
    assert result.counts == {}
    assert house.folders() == before


def test_a_replaced_external_table_is_one_snapshot_at_a_time(house):
    loads = [house.published.batch([ANNA], REPLACE, quarter=quarter) for quarter in (1, 2)]

    for load in loads:
        house.run(load)

    assert house.folders() == [f"s3://{BUCKET}/final/orders/day=2026-11-22/batch={loads[1].batch_id}/a1/"]


@pytest.mark.parametrize("target", list(Target))
def test_a_snapshot_without_rows_empties_neither_warehouse_nor_lake(house, target):
    contract = towards(REPLACE, target)
    house.publish([ANNA], contract, quarter=1)
    before = house.folders()

    with pytest.raises(Refused) as refusal:
        house.publish([], contract, quarter=2)

    assert refusal.value.reason is Reason.EMPTY_REPLACE
    assert house.folders() == before


def test_a_snapshot_without_rows_is_shown_where_the_contract_believes_it(house):
    contract = contract_of(mode=PublishMode.REPLACE, allow_empty=True)
    house.publish([ANNA], contract, quarter=1)

    house.publish([], contract, quarter=2)

    assert house.published.rows() == []
    assert len(house.folders()) == 1


def test_a_replay_leads_readers_of_the_lake_to_the_new_files(house):
    house.publish([ANNA])

    house.publish([ANNA], attempt=2, process_attempt=2)

    assert [folder.endswith("/a2/") for folder in house.folders()] == [True]


def test_an_attempt_that_was_overtaken_changes_neither_warehouse_nor_lake(house):
    house.publish([ANNA], attempt=2, process_attempt=2)
    before = house.folders()

    with pytest.raises(LostLease):
        house.publish([BERT], attempt=1, process_attempt=1)

    assert house.published.rows() == [ANNA]
    assert house.folders() == before


def test_files_in_more_than_one_folder_are_a_defect_and_shown_to_nobody(house):
    load = house.published.batch([ANNA, BERT], towards(MERGE, Target.EXTERNAL))
    strayed = Location(BUCKET, load.files[1].location.key.replace("/a1/", "/a2/"))

    with pytest.raises(ValueError, match="found 2 folders"):
        house.run(replace(load, files=(load.files[0], replace(load.files[1], location=strayed))))

    assert house.folders() == []


def test_the_manifest_names_every_file_that_was_published(house):
    load = house.published.batch([ANNA, BERT])

    manifest = house.run(load).manifest

    assert manifest["manifest_sha256"] == manifest_sha256(load.files)
    assert manifest["record_count"] == 2
    assert [file["location"] for file in manifest["files"]] == [str(file.location) for file in load.files]
    assert (manifest["target"], manifest["mode"]) == ("both", "merge")


def test_a_manifest_is_told_apart_by_content_and_place_and_not_by_order(house):
    first, second = house.published.batch([ANNA, BERT]).files

    assert manifest_sha256([first, second]) == manifest_sha256([second, first])
    for changed in (
        replace(first, sha256="0" * 64),
        replace(first, record_count=9),
        replace(first, location=Location(BUCKET, "other")),
    ):
        assert manifest_sha256([changed, second]) != manifest_sha256([first, second])
