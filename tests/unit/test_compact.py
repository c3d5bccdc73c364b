"""Compaction: fewer files, the same rows, at every instant, for every reader."""

import threading
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.lake_house import LakeHouse
from support.publish_batches import APPEND, BUCKET, MERGE, REPLACE, at, column, contract_of
from support.upkeep import DyingLedger, interrupt_at, ledger_rows, sweep_after

from lambdas.sweeper.actions import ActionKind
from services.publisher.catalog import external_table
from services.publisher.restore import restore_catalog
from services.publisher.rows import read_blocks
from shared.compactions import CommittedRows, file_of
from shared.domain.compactions import Compaction, CompactionState
from shared.domain.contracts import MaskKind, PublishMode, Target
from shared.domain.files import Area, Location, compaction_key
from shared.domain.reasons import Reason
from shared.errors import LostLease, Refused, Unavailable
from shared.visible import visible_files
from upkeep import compact
from upkeep.compact import Tools

ALL = [(number, f"name {number}", at(number)) for number in range(12)]


@pytest.fixture
def house() -> LakeHouse:
    return LakeHouse()


def tools_of(house: LakeHouse) -> Tools:
    return Tools(house.ledger, house.store, house.catalog)


def publish_all(house: LakeHouse, contract=APPEND) -> None:
    for quarter in range(4):
        house.publish(ALL[3 * quarter : 3 * quarter + 3], contract, quarter=quarter)


def groups_of(house: LakeHouse, **changes):
    return compact.find_groups("shop", "orders", ledger=house.ledger, covers=lambda _: True, **changes)


def compact_all(house: LakeHouse) -> list[Compaction]:
    return [compact.compact_group(group, tools=tools_of(house), detail="test") for group in groups_of(house)]


@pytest.mark.parametrize("contract", [APPEND, MERGE], ids=["append", "merge"])
def test_many_small_files_become_one_with_the_same_rows(house, contract):
    publish_all(house, contract)
    before = house.lake_rows()

    (compaction,) = compact_all(house)

    assert compaction.state is CompactionState.COMMITTED
    assert house.lake_rows() == before == ledger_rows(house) == sorted(ALL, key=repr)
    with house.ledger.transaction() as tx:
        (visible,) = visible_files(tx, "shop", "orders")
    assert visible.file.location == file_of(compaction)
    assert visible.file.record_count == 12
    assert groups_of(house) == []


def test_all_versions_of_a_row_stay_in_the_lake(house):
    house.publish([(1, "old", at(1))], quarter=1)
    house.publish([(1, "new", at(16))], quarter=2)

    compact_all(house)

    assert house.lake_rows() == [(1, "new", at(16)), (1, "old", at(1))]


def test_the_rows_of_each_batch_are_found_again_in_the_file(house):
    publish_all(house)
    with house.ledger.transaction() as tx:
        batches = tx.batches(source="shop", table="orders")
    compact_all(house)

    with house.ledger.transaction() as tx:
        rows = CommittedRows.of(tx, "shop", "orders")
        files = {batch.id: rows.files_of(tx, batch) for batch in batches}

    for number, batch in enumerate(batches):
        (file,) = files[batch.id]
        (block,) = read_blocks(file, columns=APPEND.output_columns, store=house.store)
        assert block.rows() == ALL[3 * number : 3 * number + 3]


def test_groups_end_at_their_size_and_at_what_one_request_switches(house, monkeypatch):
    publish_all(house)
    (whole,) = groups_of(house)
    size = whole.size_in_bytes

    assert [len(group.members) for group in groups_of(house, target_size_in_bytes=size)] == [4]
    assert [len(group.members) for group in groups_of(house, target_size_in_bytes=size - 1)] == [3]
    assert groups_of(house, target_size_in_bytes=whole.members[0].size_in_bytes) == []
    monkeypatch.setattr(compact, "MAX_PARTITIONS_PER_REQUEST", 2)
    assert [len(group.members) for group in groups_of(house)] == [2, 2]


def test_batches_of_before_a_column_was_masked_are_compacted_afterwards(house):
    def with_mask(kind: MaskKind):
        masked = column("name", "int32", mask=kind)
        return contract_of(column("id", "int64"), masked, column("changed", "timestamptz"), key=())

    for quarter in range(2):
        house.publish([(quarter, 7, at(quarter))], with_mask(MaskKind.KEEP), quarter=quarter)
    house.publish([(2, "f00d", at(2))], with_mask(MaskKind.HMAC), quarter=2, version=2)

    (compaction,) = compact_all(house)

    assert compaction.shown_at is not None
    assert len(compaction.batches) == 2
    assert compact.finish("shop", "orders", tools=tools_of(house)) == []


@pytest.mark.parametrize(
    ("before", "after"), [(Target.BOTH, Target.NATIVE), (Target.NATIVE, Target.EXTERNAL)]
)
def test_batches_that_the_lake_shows_and_others_that_it_does_not_are_kept_apart(house, before, after):
    for quarter in range(4):
        version, target = (1, before) if quarter < 2 else (2, after)
        contract = replace(APPEND, publishing=replace(APPEND.publishing, target=target))
        house.publish(ALL[3 * quarter : 3 * quarter + 3], contract, quarter=quarter, version=version)
    shown = house.lake_rows()

    compact_all(house)
    for _ in range(2):
        sweep_after(house, timedelta(days=8))

    assert house.lake_rows() == shown
    assert len(shown) == 6


def test_batches_whose_contracts_write_other_columns_are_kept_apart(house):
    house.publish([ALL[0]], quarter=1)
    house.publish([ALL[1]], quarter=2)
    wider = contract_of(*MERGE.columns, column("city"))
    house.publish([(*ALL[2], "Bonn")], wider, quarter=3, version=2)
    house.publish([(*ALL[3], "Ulm")], wider, quarter=4, version=2)

    assert [(group.contract_version, len(group.members)) for group in groups_of(house)] == [(1, 2), (2, 2)]


def test_a_replaced_table_has_nothing_to_compact(house):
    house.publish([ALL[0]], REPLACE, quarter=1)
    house.publish([ALL[1]], REPLACE, quarter=2)

    assert groups_of(house) == []


def test_a_table_that_only_the_warehouse_shows_is_compacted_without_a_catalog(house):
    contract = replace(APPEND, publishing=replace(APPEND.publishing, target=Target.NATIVE))
    publish_all(house, contract)

    (compaction,) = compact_all(house)

    assert compaction.shown_at is not None
    assert house.catalog.tables == {}
    assert ledger_rows(house) == sorted(ALL, key=repr)


def test_readers_see_each_row_once_at_every_instant(house):
    publish_all(house)
    expected = sorted(ALL, key=repr)
    tools = tools_of(house)

    def go_there_and_back() -> None:
        (compaction,) = compact_all(house)
        compact.undo(compaction.id, tools=tools, detail="test")

    for _ in range(3):
        # Between the question to the catalog and the reading of the files.
        assert house.lake_rows(between=go_there_and_back) == expected
    stop = threading.Event()
    errors: list[BaseException] = []

    def read_on() -> None:
        try:
            while not stop.is_set():
                assert house.lake_rows() == expected
                assert ledger_rows(house) == expected
        except BaseException as error:  # noqa: BLE001  it is told by the test
            errors.append(error)

    reader = threading.Thread(target=read_on)
    reader.start()
    for _ in range(10):
        go_there_and_back()
    stop.set()
    reader.join(30)
    assert errors == []


def test_undone_everything_is_read_as_before(house):
    publish_all(house)
    before = house.lake_folders()
    (compaction,) = compact_all(house)

    undone = compact.undo(compaction.id, tools=tools_of(house), detail="a mistake")

    assert (undone.state, undone.detail) == (CompactionState.UNDONE, "a mistake")
    assert house.lake_folders() == before
    assert ledger_rows(house) == sorted(ALL, key=repr)
    with pytest.raises(Refused, match="only a committed one"):
        compact.undo(compaction.id, tools=tools_of(house), detail="again")


# ---- what stays, and for how long --------------------------------------------------------------------------


def test_replaced_files_stay_for_their_time_and_then_go_and_the_rows_stay(house):
    publish_all(house)
    before = set(house.keys())
    (compaction,) = compact_all(house)

    sweep_after(house, timedelta(days=6))
    assert set(house.keys()) == before | {file_of(compaction).key}
    sweep_after(house, timedelta(days=2))
    sweep_after(house, timedelta(minutes=1))

    assert house.keys() == [file_of(compaction).key]
    assert house.lake_rows() == ledger_rows(house) == sorted(ALL, key=repr)
    with house.ledger.transaction() as tx:
        assert tx.compaction(compaction.id).cleaned_at is not None
        assert all(file.deleted_at for file in tx.files(areas=[Area.FINAL]) if file.batch_id)


def test_one_run_deletes_no_more_replaced_files_than_it_may(house):
    publish_all(house)
    (compaction,) = compact_all(house)

    left = []
    for _ in range(3):
        report = sweep_after(house, timedelta(days=8), delete_limit=3)
        left.append((len(house.keys()) - 1, report.is_delete_limit_reached))

    assert left == [(5, True), (2, True), (0, False)]
    assert house.keys() == [file_of(compaction).key]
    with house.ledger.transaction() as tx:
        assert tx.compaction(compaction.id).cleaned_at is not None


def test_an_object_that_only_calls_itself_the_file_of_a_compaction_is_set_aside_and_not_deleted(house):
    publish_all(house)
    (compaction,) = compact_all(house)
    key = compaction_key(table="other", day=compaction.day, compaction_id=compaction.id)
    body = b"whose?"
    house.store.put(Location(BUCKET, key), body, sha256=sha256(body).hexdigest(), metadata={})

    counts = sweep_after(house, timedelta(days=36_500)).counts

    assert (counts[ActionKind.SET_ASIDE], counts[ActionKind.DELETE_STRAY]) == (1, 0)


def test_what_is_being_deleted_cannot_be_undone(house):
    publish_all(house)
    (compaction,) = compact_all(house)
    sweep_after(house, timedelta(days=8))

    with pytest.raises(Refused, match="no way back"):
        compact.undo(compaction.id, tools=tools_of(house), detail="late")

    assert house.lake_rows() == sorted(ALL, key=repr)


def test_the_file_of_an_undone_compaction_goes_after_its_time(house):
    publish_all(house)
    before = house.keys()
    (compaction,) = compact_all(house)
    compact.undo(compaction.id, tools=tools_of(house), detail="test")

    sweep_after(house, timedelta(days=8))

    assert house.keys() == before
    assert house.lake_rows() == sorted(ALL, key=repr)


def test_nothing_is_deleted_before_the_catalog_shows_what_is_read_instead(house):
    publish_all(house)
    before = set(house.keys())
    interrupt_at(house, "switch_partitions", before=True)
    with pytest.raises(Unavailable):
        compact_all(house)

    sweep_after(house, timedelta(days=30))

    assert before < set(house.keys())


# ---- a run that dies ---------------------------------------------------------------------------------------


def goes_on(house: LakeHouse) -> None:
    """Let the time of the dead run pass, and do what the next scheduled run and the sweeper do."""
    expected = sorted(ALL, key=repr)
    assert house.lake_rows() == ledger_rows(house) == expected
    house.clock.moment += timedelta(hours=2)
    compact.finish("shop", "orders", tools=tools_of(house))
    compact_all(house)
    assert house.lake_rows() == ledger_rows(house) == expected
    sweep_after(house, timedelta(days=8))
    sweep_after(house, timedelta(minutes=1))
    assert house.lake_rows() == ledger_rows(house) == expected
    (folder,) = {folder.key for folder in house.lake_folders() if list(house.store.list(BUCKET, folder.key))}
    assert house.keys() == [info.location.key for info in house.store.list(BUCKET, folder)]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("effect", ["open_upload", "switch_partitions"])
def test_a_run_that_dies_at_a_store_or_catalog_is_taken_up(house, effect, before):
    publish_all(house)
    interrupt_at(house, effect, before=before)

    with pytest.raises(Unavailable):
        compact_all(house)

    goes_on(house)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, 5))
def test_a_run_that_dies_at_any_transaction_is_taken_up(house, number, before):
    publish_all(house)
    (group,) = groups_of(house)
    dying = DyingLedger(house.ledger, number=number, before=before)

    with pytest.raises(Unavailable):
        compact.compact_group(group, tools=Tools(dying, house.store, house.catalog), detail="test")

    assert dying.begun >= number
    goes_on(house)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, 4))
def test_an_undo_that_dies_at_any_transaction_is_taken_up(house, number, before):
    publish_all(house)
    (compaction,) = compact_all(house)
    dying = DyingLedger(house.ledger, number=number, before=before)

    with pytest.raises(Unavailable):
        compact.undo(compaction.id, tools=Tools(dying, house.store, house.catalog), detail="test")

    assert house.lake_rows() == ledger_rows(house) == sorted(ALL, key=repr)
    compact.finish("shop", "orders", tools=tools_of(house))
    with house.ledger.transaction() as tx:
        state = tx.compaction(compaction.id).state
    if state is CompactionState.COMMITTED:
        compact.undo(compaction.id, tools=tools_of(house), detail="test")
    assert house.lake_rows() == ledger_rows(house) == sorted(ALL, key=repr)


def test_a_writer_whose_lease_is_over_commits_nothing(house, monkeypatch):
    publish_all(house)
    (group,) = groups_of(house)
    proven = compact._prove

    def slowly(*args, **kwargs):
        proven(*args, **kwargs)
        house.clock.moment += compact.LEASE

    monkeypatch.setattr(compact, "_prove", slowly)

    with pytest.raises(LostLease):
        compact.compact_group(group, tools=tools_of(house), detail="slow")

    assert groups_of(house) == [group]
    monkeypatch.undo()
    goes_on(house)


def test_of_two_runs_over_the_same_batches_one_commits(house):
    publish_all(house)
    (group,) = groups_of(house)

    compact.compact_group(group, tools=tools_of(house), detail="first")
    with pytest.raises(LostLease):
        compact.compact_group(group, tools=tools_of(house), detail="second")

    assert house.lake_rows() == ledger_rows(house) == sorted(ALL, key=repr)


def test_a_compaction_that_is_undone_while_the_catalog_comes_to_show_it_is_not_shown(house):
    publish_all(house)
    (group,) = groups_of(house)
    original = house.catalog.switch_partitions

    def overtaken(*args):
        house.catalog.switch_partitions = original
        with house.ledger.transaction() as tx:
            (compaction,) = tx.compactions("shop", "orders")
        compact.undo(compaction.id, tools=tools_of(house), detail="another operator")
        original(*args)

    house.catalog.switch_partitions = overtaken

    compaction = compact.compact_group(group, tools=tools_of(house), detail="test")
    sweep_after(house, compact.DEFAULT_RETENTION + timedelta(days=1))

    assert compaction.state is CompactionState.UNDONE
    assert house.lake_rows() == ledger_rows(house) == sorted(ALL, key=repr)


def test_a_file_that_does_not_hold_the_rows_of_its_batches_is_never_read(house, monkeypatch):
    publish_all(house)
    original = compact._rows

    def with_rows_swapped(*args, **kwargs):
        for block, size in original(*args, **kwargs):
            yield block.with_columns(name=block["name"].reverse()), size

    monkeypatch.setattr(compact, "_rows", with_rows_swapped)

    with pytest.raises(Refused) as refused:
        compact_all(house)

    assert refused.value.reason is Reason.PROOF_FAILED
    assert "name" not in refused.value.detail
    monkeypatch.setattr(compact, "_rows", original)
    goes_on(house)


def test_a_source_file_that_was_changed_ends_the_compaction(house):
    publish_all(house)
    key = house.keys()[0]
    house.store.overwrite(Location(BUCKET, key), b"PAR1 something else PAR1")

    with pytest.raises(Refused) as refused:
        compact_all(house)

    assert refused.value.reason is Reason.CHECKSUM_MISMATCH


def test_a_catalog_that_lost_its_memory_is_filled_as_it_was(house):
    publish_all(house)
    (compaction,) = compact_all(house)
    house.publish([(99, "later", at(99))], APPEND, quarter=9)
    before = house.lake_rows()
    house.catalog.tables.clear()
    house.catalog.batches.clear()

    restore_catalog(ledger=house.ledger, catalog=house.catalog)

    assert house.lake_rows() == before
    assert len(before) == 13
    assert compaction.id in str(house.lake_folders())


def test_a_table_that_the_catalog_refuses_keeps_no_other_from_being_filled_again(house):
    one, other = (contract_of(mode=PublishMode.APPEND, key=(), table=name) for name in ("lines", "orders"))
    house.publish([(1, "a", at(1))], one, quarter=1)
    house.publish([(2, "b", at(2))], other, quarter=2)
    before = house.lake_rows("orders")
    for name in ("lines", "orders"):
        del house.catalog.batches["shop", name], house.catalog.tables["shop", name]
    narrower = contract_of(column("id", "int32"), mode=PublishMode.APPEND, key=(), cursor=None, table="lines")
    house.catalog.put_partitions(external_table(narrower, contract_version=1, bucket=BUCKET), [])

    with pytest.raises(Refused, match=r"shop\.lines"):
        restore_catalog(ledger=house.ledger, catalog=house.catalog)

    assert house.lake_rows("orders") == before


# ---- any batches -------------------------------------------------------------------------------------------

COUNTS = st.lists(st.integers(0, 3), min_size=1, max_size=8)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(counts=COUNTS, target=st.integers(500, 6000), most=st.integers(1, 5))
def test_whatever_there_is_each_batch_is_in_one_group_at_most_and_each_row_where_the_ledger_says(
    counts, target, most
):
    house = LakeHouse()
    expected = {}
    for quarter, count in enumerate(counts):
        own = [(100 * quarter + number, "x" * number, at(quarter)) for number in range(count)]
        expected[house.publish(own, APPEND, quarter=quarter).id] = own
    before = house.lake_rows()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compact, "MAX_PARTITIONS_PER_REQUEST", most)
        groups = groups_of(house, target_size_in_bytes=target)
        done = [compact.compact_group(group, tools=tools_of(house), detail="test") for group in groups]

    ids = [member.batch.id for group in groups for member in group.members]
    assert len(ids) == len(set(ids))
    assert all(2 <= len(group.members) <= most and group.size_in_bytes <= target for group in groups)
    assert [part.batch_id for compaction in done for part in compaction.batches] == ids
    assert house.lake_rows() == ledger_rows(house) == before
    with house.ledger.transaction() as tx:
        rows = CommittedRows.of(tx, "shop", "orders")
        files = {batch.id: rows.files_of(tx, batch) for batch in tx.batches()}
    for batch_id, own in expected.items():
        found = [
            row
            for file in files[batch_id]
            for block in read_blocks(file, columns=APPEND.output_columns, store=house.store)
            for row in block.rows()
        ]
        assert found == own
