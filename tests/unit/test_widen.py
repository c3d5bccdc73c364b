"""Widening: an external table's files in wider types, the same rows, and no way to read both types by one table."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.lake_house import LakeHouse
from support.publish_batches import BUCKET, REPLACE, Row, assignment_of, at, column, contract_of
from support.upkeep import DyingLedger, ledger_rows, sweep_after

from services.publisher.catalog import external_table
from services.publisher.publish import publish
from services.publisher.read_back import polars_type
from services.publisher.restore import restore_catalog
from services.publisher.rows import in_types, read_blocks
from shared.compactions import CommittedRows, file_of
from shared.contract_document import sha256_of
from shared.domain.batches import BatchState
from shared.domain.compactions import CompactionState
from shared.domain.contracts import ContractVersion, MaskKind, PublishMode, TableContract, Target
from shared.domain.reasons import Reason
from shared.errors import LostLease, Refused, Unavailable
from shared.ports import Ledger
from upkeep import compact, rollback
from upkeep import widen as module
from upkeep.compact import Tools
from upkeep.lake_query import query_lake
from upkeep.widen import MAX_ROUNDS, find_widening, held_batches, replay_held, widen


def orders(id_: str, price: str, *more: Any, mode: PublishMode = PublishMode.APPEND) -> TableContract:
    columns = (column("id", id_), column("price", price), column("changed", "timestamptz"), *more)
    return contract_of(*columns, mode=mode, key=("id",) if mode is PublishMode.MERGE else ())


NARROW = orders("int32", "decimal(10,2)")
WIDE = orders("int64", "decimal(14,4)", column("city"))
MERGED_NARROW = orders("int32", "decimal(10,2)", mode=PublishMode.MERGE)
MERGED_WIDE = orders("int64", "decimal(14,4)", column("city"), mode=PublishMode.MERGE)

ROWS: list[Row] = [(number, Decimal(number) / 4, at(number)) for number in range(8)]
NEW: Row = (2**40, Decimal("1234567890.1234"), at(99), "Bonn")


def register(house: LakeHouse, contract: TableContract, *, version: int) -> None:
    with house.ledger.transaction() as tx:
        tx.insert_contract(ContractVersion(version, sha256_of(contract), contract))


@pytest.fixture
def house() -> LakeHouse:
    """A table of four batches, whose newest contract has wider types; nothing was published under it."""
    house = LakeHouse()
    for number in range(4):
        house.publish(ROWS[2 * number : 2 * number + 2], NARROW, quarter=number)
    register(house, WIDE, version=2)
    return house


def tools_of(house: LakeHouse) -> Tools:
    return Tools(house.ledger, house.store, house.catalog)


def widen_all(house: LakeHouse, tools: Tools | None = None):
    return widen("shop", "orders", tools=tools or tools_of(house), detail="test")


def compact_all(house: LakeHouse):
    groups = compact.find_groups("shop", "orders", ledger=house.ledger, covers=lambda _: True)
    return [compact.compact_group(group, tools=tools_of(house), detail="test") for group in groups]


def file_types(house: LakeHouse) -> set[tuple[str, str]]:
    """Return the types that the files have to which the catalog leads."""
    return {
        (str(schema.field("id").type), str(schema.field("price").type))
        for folder in house.lake_folders()
        for info in house.store.list(folder.bucket, folder.key)
        for schema in [pq.read_schema(pa.BufferReader(house.store.read(info.location)))]
    }


def table_types(house: LakeHouse) -> list[str]:
    return [one.type for one in house.catalog.tables["shop", "orders"].columns]


WIDE_FILES = {("int64", "decimal128(14, 4)")}


def require_widened(house: LakeHouse) -> None:
    assert file_types(house) == WIDE_FILES
    assert table_types(house)[:2] == ["bigint", "decimal(14,4)"]
    assert house.lake_rows() == ledger_rows(house) == sorted(ROWS, key=repr)


def states(house: LakeHouse) -> list[CompactionState]:
    with house.ledger.transaction() as tx:
        return [one.state for one in tx.compactions("shop", "orders")]


def test_all_partitions_lead_to_files_of_the_wider_types_with_the_same_rows(house):
    (compaction,) = widen_all(house)

    require_widened(house)
    assert (compaction.state, compaction.types_version, compaction.contract_version) == ("committed", 2, 1)
    assert compaction.shown_at is not None
    assert widen_all(house) == []


def test_a_batch_of_the_wider_contract_is_refused_before_and_shown_after(house):
    load = house.published.batch([NEW], WIDE, quarter=9, version=2)
    external = replace(load.contract.publishing, target=Target.EXTERNAL)
    load = replace(load, contract=replace(load.contract, publishing=external))

    def show() -> None:
        publish(assignment_of(load), warehouse=house.published.warehouse, catalog=house.catalog)

    with pytest.raises(Refused, match=r"`esclusa widen shop\.orders` writes those files anew"):
        show()

    widen_all(house)
    show()

    assert len(house.lake_folders()) == 5
    assert file_types(house) == WIDE_FILES
    assert table_types(house) == ["bigint", "decimal(14,4)", "timestamp", "string"]


def test_a_batch_of_the_narrower_contract_is_refused_afterwards_and_told_how_it_goes_on(house):
    widen_all(house)
    load = house.published.batch([ROWS[0]], NARROW, quarter=9)

    with pytest.raises(Refused, match="replay the batch: it is then read under that"):
        publish(assignment_of(load), warehouse=house.published.warehouse, catalog=house.catalog)


def test_rows_of_each_batch_are_read_as_they_were_brought(house):
    with house.ledger.transaction() as tx:
        batches = tx.batches(source="shop", table="orders")
    widen_all(house)

    with house.ledger.transaction() as tx:
        rows = CommittedRows.of(tx, "shop", "orders")
        files = [rows.files_of(tx, batch) for batch in batches]

    for number, (file,) in enumerate(files):
        (block,) = read_blocks(file, columns=NARROW.output_columns, store=house.store)
        assert block.rows() == ROWS[2 * number : 2 * number + 2]
        assert [str(dtype) for dtype in block.dtypes[:2]] == ["Int32", "Decimal(precision=10, scale=2)"]


def test_a_table_that_was_compacted_is_widened_file_by_file(house):
    (before,) = compact_all(house)
    house.publish([(8, Decimal(2), at(8))], NARROW, quarter=8)

    widened = widen_all(house)

    assert sorted(len(one.batches) for one in widened) == [1, 4]
    assert states(house) == ["replaced", "committed", "committed"]
    assert file_types(house) == WIDE_FILES
    assert [row[0] for row in house.lake_rows()] == list(range(9))
    (whole,) = [one for one in widened if len(one.batches) == 4]
    assert whole.batches == before.batches


def test_what_was_widened_is_widened_again(house):
    widest = orders("int64", "decimal(20,6)")
    widen_all(house)
    register(house, widest, version=3)

    (again,) = widen_all(house)

    assert again.types_version == 3
    assert states(house) == ["replaced", "committed"]
    assert file_types(house) == {("int64", "decimal128(20, 6)")}
    assert house.lake_rows() == ledger_rows(house) == sorted(ROWS, key=repr)


def test_files_of_several_contracts_are_brought_to_the_newest_one_whatever_they_were_widened_to():
    house = LakeHouse()
    house.publish([ROWS[0]], orders("int16", "decimal(8,2)"), quarter=1)
    register(house, orders("int32", "decimal(8,2)"), version=2)
    widen_all(house)
    house.publish([ROWS[1]], orders("int32", "decimal(8,2)"), quarter=2, version=2)
    register(house, orders("int64", "decimal(10,2)"), version=3)

    widened = widen_all(house)

    assert sorted(one.contract_version for one in widened) == [1, 2]
    assert file_types(house) == {("int64", "decimal128(10, 2)")}
    assert house.lake_rows() == ledger_rows(house) == ROWS[:2]


WITHOUT_ID = contract_of(column("price", "decimal(20,4)"), column("changed", "timestamptz"), key=())


def test_a_column_that_was_widened_and_is_gone_since_stays_as_wide_as_the_catalog_has_it(house):
    widen_all(house)
    register(house, WITHOUT_ID, version=3)

    widen_all(house)

    assert file_types(house) == {("int64", "decimal128(20, 4)")}
    assert table_types(house)[:2] == ["bigint", "decimal(20,4)"]
    assert house.lake_rows() == ledger_rows(house) == sorted(ROWS, key=repr)


def test_a_table_that_lost_a_widened_column_is_restored_and_asked_in_its_types(house):
    widen_all(house)
    register(house, WITHOUT_ID, version=3)
    widen_all(house)
    house.catalog.tables.clear()
    house.catalog.batches.clear()

    restore_catalog(ledger=house.ledger, catalog=house.catalog)
    answer = query_lake(
        "SELECT count(*), any_value(typeof(price)) FROM shop.orders",
        ledger=house.ledger,
        store=house.store,
        row_limit=10,
        timeout_seconds=20,
    )

    assert table_types(house)[:2] == ["bigint", "decimal(20,4)"]
    assert answer.rows == ((8, "DECIMAL(20,4)"),)


def test_a_type_that_no_file_has_and_the_catalog_tells_is_widened_too(house):
    widen_all(house)
    told, wanted = (
        orders("int64", "decimal(14,4)", column("city"), column("y", kind)) for kind in ("int32", "int64")
    )
    register(house, told, version=3)
    # Here a publisher dies: the table is told, and its batch has no partition.
    house.catalog.put_partitions(external_table(told, contract_version=3, bucket=BUCKET), [])
    register(house, wanted, version=4)

    widen_all(house)
    house.publish([(*NEW, 2**40)], wanted, quarter=9, version=4)

    assert table_types(house)[-1] == "bigint"


def test_a_type_that_no_file_has_and_that_cannot_be_widened_keeps_no_other_from_it(house):
    told, wanted = (orders("int64", "decimal(14,4)", column("y", kind)) for kind in ("int64", "string"))
    register(house, told, version=3)
    house.catalog.put_partitions(
        external_table(
            replace(NARROW, columns=(*NARROW.columns, told.column("y"))), contract_version=3, bucket=BUCKET
        ),
        [],
    )
    register(house, wanted, version=4)

    widen_all(house)

    assert file_types(house) == WIDE_FILES
    assert table_types(house) == ["bigint", "decimal(14,4)", "timestamp", "bigint"]
    assert house.lake_rows() == ledger_rows(house) == sorted(ROWS, key=repr)


@pytest.mark.parametrize(
    ("narrow", "wide", "values", "too_much"),
    [
        ("int16", "int64", [-(2**15), None, 2**15 - 1], 2**15),
        ("int32", "int64", [-(2**31), None, 2**31 - 1], 2**31),
        ("decimal(10,2)", "decimal(38,2)", ["-99999999.99", None, "0.01"], "100000000.00"),
        ("decimal(10,2)", "decimal(38,30)", ["-99999999.99", None, "0.01"], "0.011"),
        ("decimal(36,0)", "decimal(38,2)", ["9" * 36, "-" + "9" * 36], "0.01"),
    ],
)  # fmt: skip
def test_numbers_are_the_same_in_both_types_and_what_does_not_fit_is_never_cut(
    narrow, wide, values, too_much
):
    typed = [Decimal(value) if isinstance(value, str) else value for value in [*values, too_much]]
    narrower, wider = ((column("x", type_),) for type_ in (narrow, wide))
    given = pl.DataFrame({"x": pl.Series(typed[:-1], dtype=polars_type(narrower[0].type))})

    there = in_types(given, wider, where="there")
    back = in_types(there, narrower, where="back")

    assert there.schema == {"x": polars_type(wider[0].type)}
    assert there["x"].to_list() == typed[:-1] == back["x"].to_list()
    assert back.schema == given.schema
    outgrown = pl.DataFrame({"x": pl.Series(typed[-1:], dtype=polars_type(wider[0].type))})
    with pytest.raises(Refused, match="back: column 'x' has numbers that do not fit") as refused:
        in_types(outgrown, narrower, where="back")
    assert str(too_much) not in refused.value.detail


# ---- what is no widening -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (column("x"), column("x", mask=MaskKind.HMAC), "'x' is masked or dropped by now, and older files have it in clear"),
        (column("x"), column("x", mask=MaskKind.DROP), "'x' is masked or dropped by now"),
        (column("x", "int32"), column("x", "int16"), "column 'x' should be int16, found int32"),
        (column("x", "float32"), column("x", "float64"), "column 'x' should be float64, found float32"),
        (column("x", "int32"), column("x"), "column 'x' should be string, found int32"),
        (column("x", "decimal(10,2)"), column("x", "decimal(10,4)"), r"should be decimal\(10,4\)"),
    ],
)  # fmt: skip
def test_whatever_else_changed_is_refused_by_name_and_nothing_is_written(before, after, told):
    house = LakeHouse()
    value = {"string": "a", "decimal(10,2)": Decimal(1)}.get(str(before.type), 1)
    house.publish([(1, Decimal(1), at(1), value)], orders("int32", "decimal(10,2)", before))
    register(house, orders("int64", "decimal(10,2)", after), version=2)
    keys = house.keys()

    with pytest.raises(Refused, match=told) as refused:
        widen_all(house)

    assert refused.value.reason is Reason.TARGET_INCOMPATIBLE
    assert "another name in the source's file" in refused.value.detail
    assert house.keys() == keys
    assert states(house) == []


def test_a_contract_that_no_external_table_carries_is_refused_before_anything_is_written(house):
    register(house, orders("int64", "decimal(14,4)", column("city"), column("CITY")), version=3)
    keys = house.keys()

    with pytest.raises(Refused, match="'CITY' and 'city' are one name in lower case"):
        widen_all(house)

    assert house.keys() == keys
    assert states(house) == []


def test_a_mask_that_only_has_another_key_is_no_obstacle():
    house = LakeHouse()
    first = column("name", mask=MaskKind.HMAC)
    second = replace(first, mask=replace(first.mask, key_id="k2"))
    house.publish([(1, Decimal(1), at(1), "f00d")], orders("int32", "decimal(10,2)", first))
    register(house, orders("int64", "decimal(10,2)", second), version=2)

    widen_all(house)

    assert file_types(house) == {("int64", "decimal128(10, 2)")}


def test_columns_of_one_contract_alone_are_no_obstacle(house):
    register(house, contract_of(column("id", "int64"), column("city"), cursor=None, key=()), version=3)

    widen_all(house)

    assert file_types(house) == {("int64", "decimal128(10, 2)")}


@pytest.mark.parametrize(
    ("contract", "told"),
    [
        (REPLACE, "each snapshot replaces the one before"),
        (replace(WIDE, publishing=replace(WIDE.publishing, target=Target.NATIVE)), "`native` alone"),
        (NARROW, "its files have the types of contract 1"),
    ],
    ids=["replace", "native", "same types"],
)
def test_a_table_with_nothing_to_widen_says_why(contract, told):
    house = LakeHouse()
    rows = [row if contract is NARROW else (*row, "Bonn") for row in ROWS[:1]]
    house.publish(rows if contract is not REPLACE else [(1, "Anna", at(1))], contract)

    assert told in find_widening("shop", "orders", ledger=house.ledger).why_nothing
    assert widen_all(house) == []


# ---- what people do with it --------------------------------------------------------------------------------


def test_there_is_no_way_back(house):
    (compaction,) = widen_all(house)

    with pytest.raises(Refused, match="there is no way back"):
        compact.undo(compaction.id, tools=tools_of(house), detail="test")

    require_widened(house)


@pytest.mark.parametrize(
    ("narrow", "wide"), [(NARROW, WIDE), (MERGED_NARROW, MERGED_WIDE)], ids=["append", "merge"]
)
def test_a_table_goes_back_and_forward_over_widened_batches(narrow, wide):
    house = LakeHouse()
    first = house.publish(ROWS[:2], narrow, quarter=1)
    then = house.rows()
    register(house, wide, version=2)
    widen_all(house)
    house.clock.moment += timedelta(hours=1)
    house.publish([NEW], wide, quarter=9, version=2)
    now = house.rows()
    tools = rollback.Tools(house.ledger, house.store, house.published.warehouse, house.catalog)

    back = rollback.plan_rollback("shop", "orders", to=first.id, tools=tools)
    rollback.carry_out(back, tools=tools, actor="anna", detail="test")
    was = (house.rows(), house.lake_rows())
    with pytest.raises(Refused, match="held at an earlier state"):
        widen_all(house)
    forward = rollback.plan_forward("shop", "orders", tools=tools)
    rollback.carry_out(forward, tools=tools, actor="anna", detail="test")

    assert [row[:3] for row in was[0]] == [row[:3] for row in then] == ROWS[:2]
    assert was[1] == ROWS[:2]
    assert house.rows() == now
    assert file_types(house) == WIDE_FILES
    assert len(ledger_rows(house)) == 3


def test_a_table_goes_back_within_the_narrower_contract_although_it_was_widened(house, monkeypatch):
    monkeypatch.setattr(compact, "MAX_PARTITIONS_PER_REQUEST", 1)
    with house.ledger.transaction() as tx:
        first = min(tx.batches(), key=lambda batch: batch.changed_at)
    widen_all(house)
    tools = rollback.Tools(house.ledger, house.store, house.published.warehouse, house.catalog)

    back = rollback.plan_rollback("shop", "orders", to=first.id, tools=tools)
    rollback.carry_out(back, tools=tools, actor="anna", detail="test")

    assert house.lake_rows() == house.rows() == ROWS[:2]
    assert table_types(house)[:2] == ["bigint", "decimal(14,4)"]


def test_a_batch_does_not_leave_the_file_that_it_shares_and_nobody_is_told_to_undo_it(house):
    with house.ledger.transaction() as tx:
        first = min(tx.batches(), key=lambda batch: batch.changed_at)
    widen_all(house)
    tools = rollback.Tools(house.ledger, house.store, house.published.warehouse, house.catalog)

    with pytest.raises(
        Refused, match="go back to a batch that was published before or after all of them"
    ) as told:
        rollback.plan_rollback("shop", "orders", to=first.id, tools=tools)

    assert "--undo" not in told.value.detail


def test_the_lake_answers_in_the_wider_types(house):
    widen_all(house)

    answer = query_lake(
        "SELECT id, price, typeof(id), typeof(price) FROM shop.orders ORDER BY id LIMIT 1",
        ledger=house.ledger,
        store=house.store,
        row_limit=10,
        timeout_seconds=20,
    )

    assert answer.rows == ((0, Decimal(0), "BIGINT", "DECIMAL(14,4)"),)


def test_a_catalog_that_lost_its_memory_is_filled_in_the_wider_types(house):
    compact_all(house)
    widen_all(house)
    house.publish([NEW], WIDE, quarter=9, version=2)
    house.catalog.tables.clear()
    house.catalog.batches.clear()

    restore_catalog(ledger=house.ledger, catalog=house.catalog)

    assert file_types(house) == WIDE_FILES
    assert table_types(house) == ["bigint", "decimal(14,4)", "timestamp", "string"]
    assert len(house.lake_folders()) == 5


def test_what_is_compacted_afterwards_is_shown_beside_it(house):
    widen_all(house)
    for quarter in (9, 10):
        house.publish([(quarter, *NEW[1:])], WIDE, quarter=quarter, version=2)

    (compaction,) = compact_all(house)

    assert (compaction.types_version, len(compaction.batches)) == (None, 2)
    assert file_types(house) == WIDE_FILES
    assert len(ledger_rows(house)) == 10


@pytest.mark.parametrize("is_compacted", [True, False], ids=["compacted", "files of its own"])
def test_what_nobody_reads_goes_after_its_time_once_the_new_files_are_shown(house, is_compacted):
    if is_compacted:
        compact_all(house)
    before = set(house.keys())
    switch = house.catalog.switch_partitions

    def away(*_: object) -> None:
        raise Unavailable("away")

    house.catalog.switch_partitions = away
    with pytest.raises(Unavailable):
        widen_all(house)
    sweep_after(house, timedelta(days=30))
    # What the compaction replaced has had its time; its own file is still the one that engines read.
    assert {key for key in before if "compaction=" in key or not is_compacted} < set(house.keys())

    house.catalog.switch_partitions = switch
    (compaction,) = widen_all(house)
    sweep_after(house, timedelta(minutes=1))
    sweep_after(house, timedelta(minutes=1))

    assert house.keys() == [file_of(compaction).key]
    require_widened(house)
    with house.ledger.transaction() as tx:
        assert all(one.cleaned_at for one in tx.compactions("shop", "orders"))


def test_held_batches_of_the_newest_contract_go_on_from_their_files_and_no_others(house):
    new = house.published.batch([NEW], WIDE, quarter=9, version=2)
    old = house.published.batch([ROWS[0]], NARROW, quarter=10)
    for load in (new, old):
        house.hold(assignment_of(load).batch, Reason.TARGET_INCOMPATIBLE)
    widen_all(house)

    (replayed,) = replay_held("shop", "orders", ledger=house.ledger)

    assert (replayed.id, replayed.state) == (new.batch_id, BatchState.COMMITTED)
    assert [one.id for one in held_batches("shop", "orders", ledger=house.ledger)] == [old.batch_id]


# ---- what happens meanwhile --------------------------------------------------------------------------------


def while_writing(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], *, times: int = 1) -> None:
    """Have something happen when a file was proven, so often."""
    original, left = compact._prove, [times]

    def proven(*args: object, **kwargs: object) -> None:
        original(*args, **kwargs)  # type: ignore[arg-type]
        if left[0]:
            left[0] -= 1
            act()

    monkeypatch.setattr(compact, "_prove", proven)


def test_a_batch_that_is_published_meanwhile_is_taken_in(house, monkeypatch):
    while_writing(monkeypatch, lambda: house.publish([(8, Decimal(2), at(8))], NARROW, quarter=8))

    widen_all(house)

    assert file_types(house) == WIDE_FILES
    assert [row[0] for row in house.lake_rows()] == list(range(9))


def test_a_batch_that_is_published_right_before_the_commit_is_written_first(house, monkeypatch):
    dying = DyingLedger(house.ledger, number=4, before=False)
    with pytest.raises(Unavailable):
        widen_all(house, Tools(dying, house.store, house.catalog))
    assert states(house) == ["prepared"]
    original = module.find_widening

    def find_and_publish(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(module, "find_widening", original)
        found = original(*args, **kwargs)
        house.publish([(8, Decimal(2), at(8))], NARROW, quarter=8)
        return found

    monkeypatch.setattr(module, "find_widening", find_and_publish)

    widen_all(house)

    assert file_types(house) == WIDE_FILES
    assert [row[0] for row in house.lake_rows()] == list(range(9))


def test_batches_that_go_on_to_be_published_end_the_run_and_the_next_one_goes_on(house, monkeypatch):
    quarters = iter(range(10, 90))

    def publish_one() -> None:
        quarter = next(quarters)
        house.publish([(quarter, Decimal(2), at(quarter))], NARROW, quarter=quarter)

    while_writing(monkeypatch, publish_one, times=MAX_ROUNDS)
    with pytest.raises(Unavailable, match="run the same again"):
        widen_all(house)
    assert table_types(house)[:2] == ["int", "decimal(10,2)"]

    widen_all(house)

    assert file_types(house) == WIDE_FILES


def compact_while_writing(house, monkeypatch) -> None:
    """Have all batches compacted together, as it was begun before, when the first file was proven."""
    groups = compact.find_groups("shop", "orders", ledger=house.ledger, covers=lambda _: True)
    while_writing(monkeypatch, lambda: compact.compact_group(groups[0], tools=tools_of(house), detail="test"))


def test_a_compaction_that_is_committed_meanwhile_is_replaced_by_a_file_with_all_of_its_rows(
    house, monkeypatch
):
    compact_while_writing(house, monkeypatch)
    house.publish([(8, Decimal(2), at(8))], NARROW, quarter=8)

    widen_all(house)

    assert sorted(states(house)) == ["committed", "replaced"]
    assert file_types(house) == WIDE_FILES
    assert [row[0] for row in house.lake_rows()] == list(range(9))


def test_files_whose_batches_were_compacted_together_meanwhile_are_given_up_and_that_one_is_widened(
    house, monkeypatch
):
    compact_while_writing(house, monkeypatch)
    monkeypatch.setattr(compact, "MAX_PARTITIONS_PER_REQUEST", 2)

    widen_all(house)

    assert sorted(states(house)) == ["abandoned", "abandoned", "committed", "replaced"]
    require_widened(house)
    for _ in range(3):
        sweep_after(house, timedelta(days=8))
    assert len(house.keys()) == 1
    require_widened(house)


def test_files_that_wait_are_neither_read_nor_compacted_nor_written_twice(house):
    house.catalog.change_types = _raise(Unavailable("away"))
    dying = DyingLedger(house.ledger, number=4, before=False)
    with pytest.raises(Unavailable):
        widen_all(house, Tools(dying, house.store, house.catalog))
    assert states(house) == ["prepared"]
    assert compact_all(house) == []
    assert ledger_rows(house) == house.lake_rows() == sorted(ROWS, key=repr)
    del house.catalog.change_types

    widen_all(house)

    assert states(house) == ["committed"]
    require_widened(house)


def _raise(error: Exception) -> Callable[..., object]:
    def raising(*_: object, **__: object) -> object:
        raise error

    return raising


def test_files_that_wait_in_vain_go(house):
    before = set(house.keys())
    dying = DyingLedger(house.ledger, number=4, before=False)
    with pytest.raises(Unavailable):
        widen_all(house, Tools(dying, house.store, house.catalog))
    register(house, NARROW, version=3)

    assert widen_all(house) == []

    assert states(house) == ["abandoned"]
    sweep_after(house, timedelta(minutes=1))
    assert set(house.keys()) == before


def prepare_all(house: LakeHouse, *, transactions: int = 4) -> None:
    """Have a run die when its files are written, and wait."""
    dying = DyingLedger(house.ledger, number=transactions, before=False)
    with pytest.raises(Unavailable):
        widen_all(house, Tools(dying, house.store, house.catalog))
    assert set(states(house)) == {"prepared"}


def test_files_that_wait_go_also_if_the_newest_contract_is_no_widening(house):
    prepare_all(house)
    register(house, orders("string", "decimal(14,4)"), version=3)

    with pytest.raises(Refused, match="'id' should be string, found int32"):
        widen_all(house)

    assert states(house) == ["abandoned"]
    assert [one.state for one in compact_all(house)] == ["committed"]


def test_files_that_wait_stay_while_the_table_is_held(house):
    prepare_all(house)
    with house.ledger.transaction() as tx:
        first = min(tx.batches(), key=lambda batch: batch.changed_at)
    tools = rollback.Tools(house.ledger, house.store, house.published.warehouse, house.catalog)
    back = rollback.plan_rollback("shop", "orders", to=first.id, tools=tools)
    rollback.carry_out(back, tools=tools, actor="anna", detail="test")

    with pytest.raises(Refused, match="held at an earlier state"):
        widen_all(house)

    assert states(house) == ["prepared"]


def test_files_that_wait_serve_no_contract_that_wants_other_types_of_another_column():
    house = LakeHouse()
    for version, name in enumerate(("y", "x"), start=1):
        narrow = contract_of(column(name, "int32"), column("changed", "timestamptz"), key=())
        house.publish([(version, at(version))], narrow, quarter=version, version=version)

    def both(y: str) -> TableContract:
        return contract_of(column("x", "int64"), column("y", y), column("changed", "timestamptz"), key=())

    register(house, both("int64"), version=3)
    prepare_all(house, transactions=6)
    register(house, both("int32"), version=4)

    widen_all(house)

    assert states(house) == ["abandoned", "abandoned", "committed"]
    with house.ledger.transaction() as tx:
        assert CommittedRows.of(tx, "shop", "orders").types_version == 4


def test_files_that_wait_serve_a_newer_contract_that_wants_the_same_types(house):
    prepare_all(house)
    register(house, replace(WIDE, key_is_unique=True), version=3)

    widen_all(house)

    assert states(house) == ["committed"]
    require_widened(house)


def test_a_table_that_is_led_back_meanwhile_is_not_widened(house, monkeypatch):
    with house.ledger.transaction() as tx:
        first = min(tx.batches(), key=lambda batch: batch.changed_at)
    tools = rollback.Tools(house.ledger, house.store, house.published.warehouse, house.catalog)

    def go_back() -> None:
        plan = rollback.plan_rollback("shop", "orders", to=first.id, tools=tools)
        rollback.carry_out(plan, tools=tools, actor="anna", detail="test")

    while_writing(monkeypatch, go_back)

    with pytest.raises((Refused, LostLease)):
        widen_all(house)

    assert house.lake_rows() == ROWS[:2]
    assert table_types(house)[:2] == ["int", "decimal(10,2)"]


def test_a_table_that_is_led_back_before_the_catalog_has_its_types_goes_on_once_it_has(house, monkeypatch):
    house.publish([(8, Decimal(2), at(8))], NARROW, quarter=8)
    with house.ledger.transaction() as tx:
        batches = sorted(tx.batches(), key=lambda batch: batch.changed_at)
    house.catalog.change_types = _raise(Unavailable("away"))
    monkeypatch.setattr(compact, "MAX_PARTITIONS_PER_REQUEST", 1)
    with pytest.raises(Unavailable):
        widen_all(house)
    del house.catalog.change_types
    tools = rollback.Tools(house.ledger, house.store, house.published.warehouse, house.catalog)

    def go_back() -> None:
        plan = rollback.plan_rollback("shop", "orders", to=batches[0].id, tools=tools)
        rollback.carry_out(plan, tools=tools, actor="anna", detail="test")

    with pytest.raises(Refused, match=r"`esclusa widen shop\.orders`"):
        go_back()
    widen_all(house)
    go_back()

    assert house.lake_rows() == house.rows() == ROWS[:2]
    assert file_types(house) == WIDE_FILES


def test_a_batch_of_the_narrower_contract_that_is_being_published_is_waited_for(house):
    load = house.published.batch([(8, Decimal(2), at(8))], NARROW, quarter=8)
    with house.ledger.transaction() as tx:
        assert tx.insert_batch(assignment_of(load).batch)

    with pytest.raises(
        Unavailable, match=f"batch {load.batch_id} of the older contract 1 is being published"
    ):
        widen_all(house)

    require_widened(house)


def test_a_batch_that_is_through_between_the_last_two_looks_is_not_missed(house, monkeypatch):
    load = house.published.batch([(8, Decimal(2), at(8))], NARROW, quarter=8)
    batch = replace(assignment_of(load).batch, committed_attempt=1)
    with house.ledger.transaction() as tx:
        assert tx.insert_batch(batch)
        assert all(tx.insert_file(file) for file in load.files)
    publish(assignment_of(load), warehouse=house.published.warehouse, catalog=house.catalog)
    original = module.find_widening

    def find_and_be_through(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        if found.why_nothing:
            monkeypatch.setattr(module, "find_widening", original)
            with house.ledger.transaction() as tx:
                tx.save_batch(replace(batch, state=BatchState.PUBLISHED))
        return found

    monkeypatch.setattr(module, "find_widening", find_and_be_through)

    with pytest.raises(Unavailable, match=f"batch {batch.id} of the older contract 1 is being published"):
        widen_all(house)
    widen_all(house)

    assert file_types(house) == WIDE_FILES


def test_a_file_that_does_not_hold_the_rows_of_its_batches_is_never_read(house, monkeypatch):
    original = compact._rows

    def with_values_changed(*args, **kwargs):
        for block, size in original(*args, **kwargs):
            yield block.with_columns(id=block["id"] + 1), size

    monkeypatch.setattr(compact, "_rows", with_values_changed)

    with pytest.raises(Refused) as refused:
        widen_all(house)

    assert refused.value.reason is Reason.PROOF_FAILED
    assert states(house) == ["abandoned"]
    assert house.lake_rows() == ledger_rows(house) == sorted(ROWS, key=repr)


# ---- a run that dies ---------------------------------------------------------------------------------------


class DyingParts:
    """Store and catalog of which the n-th call that changes something, and every one after it, ends in an outage."""

    CALLS = ("open_upload", "change_types", "switch_partitions")

    def __init__(self, house: LakeHouse, *, number: int, before: bool) -> None:
        self.number, self.before, self.made = number, before, 0
        self.store, self.catalog = _Dying(house.store, self), _Dying(house.catalog, self)

    def call(self, original: Callable[..., object], *args: object, **kwargs: object) -> object:
        self.made += 1
        if self.made > self.number or (self.made == self.number and self.before):
            raise Unavailable("dead")
        done = original(*args, **kwargs)
        if self.made == self.number:
            raise Unavailable("dead, and it was done")
        return done


class _Dying:
    def __init__(self, part: Any, parts: DyingParts) -> None:
        self._part, self._parts = part, parts

    def __getattr__(self, name: str) -> Any:
        original = getattr(self._part, name)
        if name not in DyingParts.CALLS:
            return original
        return lambda *args, **kwargs: self._parts.call(original, *args, **kwargs)


def mixed_house(monkeypatch: pytest.MonkeyPatch) -> LakeHouse:
    """A table with a compacted day and batches of their own, of which one request takes no more than two."""
    house = LakeHouse()
    for number in range(4):
        house.publish(ROWS[2 * number : 2 * number + 2], NARROW, quarter=number)
        if number == 1:
            compact_all(house)
    register(house, WIDE, version=2)
    monkeypatch.setattr(compact, "MAX_PARTITIONS_PER_REQUEST", 2)
    return house


def ids_in_lake(house: LakeHouse) -> list[int]:
    """Return what an engine reads that takes files of both types."""
    return sorted(
        id_
        for folder in house.lake_folders()
        for info in house.store.list(folder.bucket, folder.key)
        for id_ in pq.read_table(pa.BufferReader(house.store.read(info.location)))["id"].to_pylist()
    )


def goes_on(house: LakeHouse) -> None:
    """Sweep, run the same again, and find everything as if no run had died."""
    assert ids_in_lake(house) == list(range(8))
    assert ledger_rows(house) == sorted(ROWS, key=repr)
    sweep_after(house, timedelta(days=8))
    assert ids_in_lake(house) == list(range(8))
    widen_all(house)
    require_widened(house)
    for _ in range(3):
        sweep_after(house, timedelta(days=8))
    require_widened(house)
    with house.ledger.transaction() as tx:
        found = tx.compactions("shop", "orders", states=[CompactionState.COMMITTED])
    assert house.keys() == sorted(file_of(one).key for one in found)


def died_at_each(run: Callable[[int], bool]) -> int:
    """Run with 1, 2, 3, … until a run lives; return how many died."""
    number = 1
    while run(number):
        number += 1
    return number - 1


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_run_that_dies_at_any_call_of_store_or_catalog_is_taken_up(monkeypatch, before):
    def run(number: int) -> bool:
        house = mixed_house(monkeypatch)
        dying = DyingParts(house, number=number, before=before)
        try:
            widen_all(house, Tools(house.ledger, dying.store, dying.catalog))
        except Unavailable:
            goes_on(house)
            return True
        return False

    # Two files, the types, two requests, and a look at the types once nothing is left.
    assert died_at_each(run) == 6


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_run_that_dies_at_any_transaction_is_taken_up(monkeypatch, before):
    def run(number: int) -> bool:
        house = mixed_house(monkeypatch)
        dying: Ledger = DyingLedger(house.ledger, number=number, before=before)
        try:
            widen_all(house, Tools(dying, house.store, house.catalog))
        except Unavailable:
            goes_on(house)
            return True
        return False

    assert died_at_each(run) > 10


def test_what_is_committed_is_finished_although_a_widened_column_was_masked_meanwhile(house):
    house.catalog.change_types = _raise(Unavailable("away"))
    with pytest.raises(Unavailable):
        widen_all(house)
    del house.catalog.change_types
    masked = contract_of(column("id", "int64", mask=MaskKind.HMAC), column("changed", "timestamptz"), key=())
    house.publish([("f00d", at(9))], masked, quarter=9, version=3)

    (shown,) = compact.finish("shop", "orders", tools=tools_of(house))

    assert shown.shown_at is not None
    assert table_types(house) == ["string", "timestamp"]


def test_the_next_compaction_finishes_what_is_committed(house):
    house.catalog.switch_partitions, switch = _raise(Unavailable("away")), house.catalog.switch_partitions
    with pytest.raises(Unavailable):
        widen_all(house)
    assert "has still to be led to them" in find_widening("shop", "orders", ledger=house.ledger).why_nothing
    house.catalog.switch_partitions = switch

    (shown,) = compact.finish("shop", "orders", tools=tools_of(house))

    assert shown.shown_at is not None
    require_widened(house)
    assert compact.finish("shop", "orders", tools=tools_of(house)) == []
