"""Reconciliation over real databases: what is equal is found equal, and what was tampered with is named by side and window."""

import hashlib
import io
from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest
from support.extraction import HMAC, column
from support.reconciled import Travelled, hour, orders

from reconciliation import prove
from reconciliation.findings import Difference, Measure
from reconciliation.history import Span
from reconciliation.sides import Side
from shared.compactions import unread_files
from shared.domain.batches import BatchState, Stage
from shared.domain.contracts import ColumnType, DeleteMode, Deletes, PublishMode, QuarantineLimits, Target
from shared.domain.counts import Count
from shared.domain.files import Area
from shared.errors import Unavailable
from shared.visible import published_batches
from upkeep import compact, rollback, widen

ANNA = (1, "Anna", "1.10", hour(0.5))
EMPTY = (2, "", None, hour(0.75))
THREE = (3, "NULL", "3.00", hour(1.5))
FOUR = (4, None, "4", hour(2.5))


@pytest.fixture
def shop(fresh_database: str) -> Travelled:
    """Three windows of orders: until hour 1, until hour 2, until hour 3."""
    return three_windows(Travelled(fresh_database))


def three_windows(shop: Travelled) -> Travelled:
    shop.insert(ANNA, EMPTY, THREE, FOUR)
    shop.move(None, hour(1))
    shop.move(hour(1), hour(2))
    shop.move(hour(2), hour(3))
    return shop


def difference_of(shop: Travelled) -> tuple[int, Difference]:
    """The number of the first window that differs, and how."""
    found = shop.prove()
    number = next(number for number, window in enumerate(found.windows) if not window.is_equal)
    difference = found.windows[number].difference
    assert difference is not None
    return number, difference


# ---- what is equal -----------------------------------------------------------------------------------------


def test_equal_sides_are_found_equal_window_by_window(shop):
    found = shop.prove()

    assert found.is_equal
    assert [window.sides[Side.SOURCE].row_count for window in found.windows] == [2, 1, 1]
    for window in found.windows:
        assert len(set(window.sides.values())) == 1
        assert set(window.sides) == set(Side)


def test_a_compacted_table_is_compared_as_before_also_when_the_replaced_files_are_gone(shop):
    before = shop.prove()
    tools = compact.Tools(shop.ledger, shop.store, shop.catalog)
    (group,) = compact.find_groups("shop", "orders", ledger=shop.ledger, covers=lambda _: True)
    compaction = compact.compact_group(group, tools=tools, detail="test")
    with shop.ledger.transaction() as tx:
        for file in unread_files(tx, compaction):
            shop.store.delete(file.location)

    found = shop.prove()

    assert found.is_equal
    assert [window.sides for window in found.windows] == [window.sides for window in before.windows]


def test_a_widened_table_is_compared_as_before_and_what_was_held_for_it_is_published(shop):
    before = shop.prove()
    wider = [
        replace(one, type=ColumnType.parse("decimal(14,4)")) if one.name == "price" else one
        for one in shop.contract.columns
    ]
    shop.contract = replace(shop.contract, columns=tuple(wider))
    shop.insert((5, "Emma", "5.00", hour(3.5)))
    held = shop.move(hour(3), hour(4), until=Stage.PROCESS)
    assert "`esclusa widen shop.orders`" in shop.publish(held).detail

    widen.widen("shop", "orders", tools=compact.Tools(shop.ledger, shop.store, shop.catalog), detail="test")
    widened = shop.prove()
    widen.replay_held("shop", "orders", ledger=shop.ledger)
    published = shop.publish(held)
    found = shop.prove()

    assert widened.is_equal
    assert [window.sides for window in widened.windows] == [window.sides for window in before.windows]
    assert published.state is BatchState.PUBLISHED
    assert found.is_equal
    assert len(found.windows) == 4


def test_a_table_held_at_an_earlier_state_is_compared_with_what_it_has(shop):
    tools = rollback.Tools(shop.ledger, shop.store, shop.warehouse, shop.catalog)
    with shop.ledger.transaction() as tx:
        second = published_batches(tx, "shop", "orders")[1]
    plan = rollback.plan_rollback("shop", "orders", to=second.id, tools=tools)

    rollback.carry_out(plan, tools=tools, actor="test", detail="test")
    held = shop.prove()
    rollback.carry_out(
        rollback.plan_forward("shop", "orders", tools=tools), tools=tools, actor="test", detail="test"
    )

    assert held.is_equal
    assert len(held.windows) == 2
    assert shop.prove().is_equal
    assert len(shop.prove().windows) == 3


def test_a_row_that_changed_has_left_its_window_on_every_side(shop):
    shop.execute("UPDATE public.orders SET name = 'Anne', updated_at = %s WHERE id = 1", hour(3.5))
    shop.move(hour(3), hour(4))

    found = shop.prove()

    assert found.is_equal
    assert [window.sides[Side.WAREHOUSE].row_count for window in found.windows] == [1, 1, 1, 1]


def test_a_row_that_changed_and_is_on_its_way_is_no_difference(shop):
    shop.execute("UPDATE public.orders SET name = 'Anne', updated_at = %s WHERE id = 1", hour(3.5))

    found = shop.prove()

    assert found.is_equal
    assert [window.sides[Side.WAREHOUSE].row_count for window in found.windows] == [1, 1, 1]


def test_a_row_in_a_window_that_is_held_is_no_difference_in_the_others(shop):
    shop.execute("UPDATE public.orders SET updated_at = %s WHERE id = 1", hour(3.5))
    shop.move(hour(3), hour(4), until=Stage.EXTRACT)
    shop.insert((5, "later", "1", hour(4.5)))
    shop.move(hour(4), hour(5))

    found = shop.prove()

    assert found.is_equal
    assert found.unpublished_count == 1
    assert [window.sides[Side.SOURCE].row_count for window in found.windows] == [1, 1, 1, 1]


def test_the_overlap_before_what_is_not_published_is_left_to_the_next_window(fresh_database):
    shop = Travelled(fresh_database, orders(overlap=timedelta(minutes=30)))
    three_windows(shop)
    # It committed late, behind its window; the next one reads it again.
    shop.insert((5, "late", "1", hour(2.75)))

    found = shop.prove()
    shop.move(hour(3), hour(4))

    assert found.is_equal
    assert found.windows[-1].until == hour(2.5)
    assert shop.prove().total(Side.LAKE).row_count == 5


def test_a_window_that_is_all_overlap_is_not_settled(fresh_database):
    shop = three_windows(Travelled(fresh_database, orders(overlap=timedelta(hours=1))))

    found = shop.prove()

    assert len(found.windows) == 2
    assert found.unsettled_count == 1


def test_softly_deleted_rows_are_on_no_side(fresh_database):
    contract = orders(
        columns=[
            column("id", "int64", nullable=False),
            column("updated_at", "timestamptz"),
            column("gone", "timestamptz"),
        ],
        deletes=Deletes(DeleteMode.SOFT, "gone"),
    )
    shop = three_windows(Travelled(fresh_database, contract))
    shop.execute("UPDATE public.orders SET gone = now(), updated_at = %s WHERE id = 1", hour(3.5))
    shop.move(hour(3), hour(4))

    found = shop.prove()

    assert found.is_equal
    assert [window.sides[Side.LAKE].row_count for window in found.windows] == [1, 1, 1, 0]


def test_rejected_rows_are_a_known_difference_and_counted(fresh_database):
    limits = QuarantineLimits(max_rejected_rows=10, max_rejected_ratio=1.0)
    contract = orders(
        columns=[column("id", "int64"), column("name", nullable=False), column("updated_at", "timestamptz")],
        limits=limits,
    )
    shop = three_windows(Travelled(fresh_database, contract))
    # Its next version does not fit either: the table keeps the one before.
    shop.execute("UPDATE public.orders SET name = NULL, updated_at = %s WHERE id = 1", hour(3.5))
    shop.move(hour(3), hour(4))

    found = shop.prove()

    assert found.is_equal
    assert [window.rejected_row_count for window in found.windows] == [0, 0, 1, 1]
    assert found.total(Side.SOURCE).row_count == 2


def test_masked_columns_are_compared_as_they_left(fresh_database):
    contract = orders(
        columns=[
            column("id", "int64", HMAC, nullable=False),
            column("name", "string", HMAC),
            column("updated_at", "timestamptz"),
        ]
    )
    shop = three_windows(Travelled(fresh_database, contract))

    equal = shop.prove().is_equal
    shop.execute("UPDATE shop__base.orders SET name = 'Anna' WHERE name IS NOT NULL")
    _, difference = difference_of(shop)

    assert equal
    (row, *_) = difference.rows
    assert len(row.key["id"]) == 64
    assert row.columns == ("name",)
    assert "Anna" not in repr(difference)


def test_a_table_for_the_lake_alone_has_three_sides(fresh_database):
    contract = orders()
    contract = replace(contract, publishing=replace(contract.publishing, target=Target.EXTERNAL))
    shop = three_windows(Travelled(fresh_database, contract))

    found = shop.prove()

    assert found.is_equal
    assert set(found.windows[0].sides) == {Side.SOURCE, Side.CSV, Side.LAKE}


def test_only_the_windows_asked_for_are_compared(shop):
    shop.execute("DELETE FROM shop__base.orders WHERE id = 1")

    later = shop.prove(Span(start=hour(1)))
    middle = shop.prove(Span(start=hour(1), end=hour(2)))

    assert later.is_equal
    assert [window.batch.window.end for window in later.windows] == [hour(2), hour(3)]
    assert [window.batch.window.end for window in middle.windows] == [hour(2)]


def test_columns_that_contracts_differ_in_are_left_out_and_named(shop):
    shop.contract = replace(shop.contract, columns=(*shop.contract.columns, column("gone", "timestamptz")))
    shop.insert((5, "new", "1", hour(3.5), hour(3)))
    shop.move(hour(3), hour(4))

    equal = shop.prove()
    shop.execute("UPDATE shop__base.orders SET gone = NULL WHERE id = 5")
    number, difference = difference_of(shop)

    assert equal.is_equal
    assert "'gone'" in equal.remarks[0]
    assert number == 3
    assert difference.rows[0].columns == ("gone",)


def test_a_table_of_which_nothing_is_published_has_nothing_to_differ_in(fresh_database):
    shop = Travelled(fresh_database)
    shop.move(None, hour(1), until=Stage.EXTRACT)

    found = shop.prove()

    assert found.is_equal
    assert found.unpublished_count == 1
    assert found.remarks == ("nothing of it is published",)


# ---- what was tampered with --------------------------------------------------------------------------------


def test_a_row_deleted_in_the_warehouse_is_missed_there(shop):
    shop.execute("DELETE FROM shop__base.orders WHERE id = 3")

    number, difference = difference_of(shop)

    assert number == 1
    assert difference.sides == (Side.LAKE, Side.WAREHOUSE)
    assert difference.measure is Measure.COUNT
    assert difference.rows[0].key == {"id": "3"}
    assert difference.rows[0].counts == {Side.LAKE: 1, Side.WAREHOUSE: 0}
    assert "lake has 1 rows, warehouse 0" in difference.detail


def test_a_value_changed_in_the_warehouse_is_told_by_its_column(shop):
    shop.execute("UPDATE shop__base.orders SET price = 1.11, name = 'secret' WHERE id = 1")

    number, difference = difference_of(shop)

    assert number == 0
    assert difference.sides == (Side.LAKE, Side.WAREHOUSE)
    assert difference.measure is Measure.CHECKSUM
    assert difference.rows[0].columns == ("name", "price")
    assert "secret" not in repr(difference)


@pytest.mark.parametrize("value", ["NULL", "''"])
def test_null_the_empty_string_and_the_word_null_are_three_values(shop, value):
    shop.execute(f"UPDATE shop__base.orders SET name = {value} WHERE id = 3")

    _, difference = difference_of(shop)

    assert difference.rows[0].columns == ("name",)


def test_a_cursor_changed_in_the_warehouse_is_told_by_its_column(shop):
    shop.execute("UPDATE shop__base.orders SET updated_at = %s WHERE id = 1", hour(1.25))

    number, difference = difference_of(shop)

    assert number == 0
    assert difference.measure is Measure.COUNT
    assert difference.rows[0].columns == ("updated_at",)


def test_a_row_added_in_the_warehouse_is_only_there(shop):
    shop.execute(
        "INSERT INTO shop__base.orders SELECT 9, name, price, updated_at, _esclusa_batch_id, _esclusa_window_end FROM shop__base.orders WHERE id = 3"
    )

    number, difference = difference_of(shop)

    assert number == 1
    assert difference.sides == (Side.LAKE, Side.WAREHOUSE)
    assert difference.rows[0].key == {"id": "9"}
    assert difference.rows[0].counts == {Side.LAKE: 0, Side.WAREHOUSE: 1}


def test_a_value_that_no_column_of_the_contract_holds_is_told_by_its_column(fresh_database):
    columns = [
        column("id", "int64", nullable=False),
        column("updated_at", "timestamptz"),
        column("gone", "timestamptz"),
    ]
    shop = three_windows(Travelled(fresh_database, orders(columns=columns)))
    # It must not be taken for the NULL that lies in its place elsewhere.
    shop.execute("UPDATE shop__base.orders SET gone = 'infinity' WHERE id = 1")

    _, difference = difference_of(shop)

    assert difference.sides == (Side.LAKE, Side.WAREHOUSE)
    assert difference.measure is Measure.CONTENT
    assert "'gone'" in difference.detail


def test_a_view_that_lost_a_column_is_told_by_it(shop):
    shop.execute("DROP VIEW shop.orders")
    shop.execute("CREATE VIEW shop.orders AS SELECT id, name, updated_at FROM shop__base.orders")

    _, difference = difference_of(shop)

    assert difference.measure is Measure.CONTENT
    assert difference.sides == (Side.LAKE, Side.WAREHOUSE)
    assert "price" in difference.detail


def test_a_table_that_is_gone_from_the_warehouse_has_no_rows_there(shop):
    shop.execute("DROP VIEW shop.orders")

    number, difference = difference_of(shop)

    assert number == 0
    assert "lake has 2 rows, warehouse 0" in difference.detail


def without_a_row(shop: Travelled, *, number: int, is_told_to_the_ledger: bool) -> None:
    """Take the first row out of the Parquet of a window, and have the ledger believe it if asked."""
    with shop.ledger.transaction() as tx:
        batch = sorted(tx.batches(), key=lambda batch: batch.window.end)[number]
        (file,) = tx.files(batch_id=batch.id, areas=[Area.FINAL])
        sink = io.BytesIO()
        pl.read_parquet(io.BytesIO(shop.store.read(file.location)))[1:].write_parquet(sink)
        shop.store.overwrite(file.location, sink.getvalue())
        if is_told_to_the_ledger:
            digest = hashlib.sha256(sink.getvalue()).hexdigest()
            shop.ledger._tables.files[file.location] = replace(file, sha256=digest)


def test_a_parquet_file_that_was_changed_is_told_by_its_checksum(shop):
    without_a_row(shop, number=1, is_told_to_the_ledger=False)

    number, difference = difference_of(shop)

    assert number == 1
    assert difference.sides == (Side.CSV, Side.LAKE)
    assert difference.measure is Measure.CONTENT
    assert "checksum_mismatch" in difference.detail


def test_a_row_that_never_got_into_the_parquet_is_missed_in_the_lake(shop):
    without_a_row(shop, number=0, is_told_to_the_ledger=True)

    number, difference = difference_of(shop)

    assert number == 0
    assert difference.sides == (Side.CSV, Side.LAKE)
    assert difference.measure is Measure.COUNT
    assert "2 rows of the batch were accepted, its files in the lake hold 1" in difference.detail


def test_a_row_changed_at_the_source_without_moving_its_cursor_is_told_by_its_column(shop):
    shop.execute("UPDATE public.orders SET price = 9 WHERE id = 3")

    number, difference = difference_of(shop)

    assert number == 1
    assert difference.sides == (Side.SOURCE, Side.LAKE)
    assert difference.measure is Measure.CHECKSUM
    assert difference.rows[0].columns == ("price",)


def test_a_row_that_came_behind_its_window_is_missed_in_the_lake(shop):
    shop.insert((5, "late", "1", hour(1.75)))

    number, difference = difference_of(shop)

    assert number == 1
    assert difference.sides == (Side.SOURCE, Side.LAKE)
    assert difference.rows[0].counts == {Side.SOURCE: 1, Side.LAKE: 0}


def test_a_row_deleted_at_the_source_without_a_trace_is_only_in_the_lake(shop):
    shop.execute("DELETE FROM public.orders WHERE id = 4")

    number, difference = difference_of(shop)

    assert number == 2
    assert difference.sides == (Side.SOURCE, Side.LAKE)
    assert difference.rows[0].counts == {Side.SOURCE: 0, Side.LAKE: 1}


def test_a_column_that_is_gone_from_the_source_is_told(shop):
    shop.execute("ALTER TABLE public.orders DROP COLUMN price")

    _, difference = difference_of(shop)

    assert difference.measure is Measure.CONTENT
    assert difference.sides == (Side.SOURCE, Side.LAKE)
    assert "'price'" in difference.detail


# ---- append and replace ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [(), ("id",)], ids=["without a key", "with a key"])
def test_a_double_in_an_append_table_is_told(fresh_database, key):
    shop = three_windows(Travelled(fresh_database, orders(mode=PublishMode.APPEND, key=key)))
    equal = shop.prove()
    shop.execute("INSERT INTO shop__base.orders SELECT * FROM shop__base.orders WHERE id = 3")

    number, difference = difference_of(shop)

    assert equal.is_equal
    assert number == 1
    assert difference.sides == (Side.LAKE, Side.WAREHOUSE)
    assert difference.rows[0].counts == {Side.LAKE: 1, Side.WAREHOUSE: 2}
    assert difference.rows[0].key == ({"id": "3"} if key else {})


def test_rows_that_are_equal_but_for_nothing_count_as_often_as_they_are_there(fresh_database):
    shop = Travelled(fresh_database, orders(mode=PublishMode.APPEND, key=()))
    shop.insert(ANNA, ANNA)
    shop.move(None, hour(1))
    equal = shop.prove()
    shop.execute("DELETE FROM shop__base.orders WHERE ctid = (SELECT min(ctid) FROM shop__base.orders)")

    _, difference = difference_of(shop)

    assert equal.is_equal
    assert difference.rows[0].counts == {Side.LAKE: 2, Side.WAREHOUSE: 1}


def test_an_older_version_in_an_append_table_is_not_asked_of_the_source_but_of_the_warehouse(fresh_database):
    shop = three_windows(Travelled(fresh_database, orders(mode=PublishMode.APPEND)))
    shop.execute("UPDATE public.orders SET name = 'Anne', updated_at = %s WHERE id = 1", hour(3.5))
    shop.move(hour(3), hour(4))
    shop.execute("UPDATE public.orders SET name = 'Anke', updated_at = %s WHERE id = 1", hour(4.5))
    equal = shop.prove()
    shop.execute("DELETE FROM shop__base.orders WHERE name = 'Anna'")

    number, difference = difference_of(shop)

    assert equal.is_equal
    assert equal.total(Side.WAREHOUSE).row_count == 5
    assert number == 0
    assert difference.sides == (Side.LAKE, Side.WAREHOUSE)


def snapshot_of(fresh_database: str) -> Travelled:
    shop = Travelled(fresh_database, orders(mode=PublishMode.REPLACE))
    shop.insert(ANNA, EMPTY, THREE)
    shop.move(None, hour(1))
    shop.insert(FOUR)
    shop.move(None, hour(2))
    return shop


def test_of_a_replaced_table_the_newest_snapshot_is_compared(fresh_database):
    shop = snapshot_of(fresh_database)

    found = shop.prove()

    assert found.is_equal
    assert [window.sides[Side.SOURCE].row_count for window in found.windows] == [4]
    assert not found.windows[0].remarks


def test_a_source_that_moved_on_from_its_snapshot_is_remarked_not_blamed(fresh_database):
    shop = snapshot_of(fresh_database)
    shop.execute("UPDATE public.orders SET name = 'Anne' WHERE id = 1")

    found = shop.prove()

    assert found.is_equal
    assert "no longer as the snapshot of 2026-01-01T02:00:00" in found.windows[0].remarks[0]


def test_a_snapshot_that_was_changed_in_the_warehouse_is_told(fresh_database):
    shop = snapshot_of(fresh_database)
    shop.execute("UPDATE shop__base.orders SET name = 'Anne' WHERE id = 1")

    _, difference = difference_of(shop)

    assert difference.sides == (Side.LAKE, Side.WAREHOUSE)
    assert difference.rows[0].columns == ("name",)


# ---- the second look, and sides that are away --------------------------------------------------------------


def test_a_row_that_moves_while_it_is_looked_at_is_no_difference(shop, monkeypatch):
    shop.execute("UPDATE shop__base.orders SET name = 'other for a moment' WHERE id = 1")
    look_again = prove.look_again

    def cured_first(*args, **kwargs):
        shop.execute("UPDATE shop__base.orders SET name = 'Anna' WHERE id = 1")
        return look_again(*args, **kwargs)

    monkeypatch.setattr(prove, "look_again", cured_first)

    found = shop.prove()

    assert found.is_equal
    assert found.moved_row_count == 2
    assert {window.sides[Side.LAKE] == window.sides[Side.WAREHOUSE] for window in found.windows} == {True}


def test_differences_beyond_those_that_can_be_looked_at_again_are_counted_at_least(shop, monkeypatch):
    monkeypatch.setattr(prove, "MAX_ROWS_LOOKED_AT_AGAIN", 1)
    shop.execute("DELETE FROM shop__base.orders")

    found = shop.prove()

    assert [window.is_equal for window in found.windows] == [False, False, False]
    assert found.windows[0].difference.is_cut
    assert "at least 1 only in lake" in found.windows[0].difference.detail


def test_any_number_of_partitions_finds_the_same(shop, monkeypatch):
    whole = shop.prove()
    monkeypatch.setattr("reconciliation.spill.ROWS_PER_PARTITION", 1)

    parted = shop.prove()
    shop.execute("DELETE FROM shop__base.orders WHERE id = 3")

    assert [window.sides for window in parted.windows] == [window.sides for window in whole.windows]
    assert difference_of(shop)[0] == 1


def test_a_side_that_does_not_answer_is_told_as_that(shop):
    shop.secrets = type(shop.secrets)({"env:SHOP_DSN": "postgresql://nobody@127.0.0.1:1/none"})

    with pytest.raises(Unavailable, match="source 'shop'"):
        shop.prove()


def test_without_the_mask_key_nothing_can_be_said_of_the_source(fresh_database):
    columns = [
        column("id", "int64", nullable=False),
        column("name", "string", HMAC),
        column("updated_at", "timestamptz"),
    ]
    shop = three_windows(Travelled(fresh_database, orders(columns=columns)))
    shop.secrets = type(shop.secrets)({"env:SHOP_DSN": fresh_database})

    with pytest.raises(Unavailable, match="mask_key_missing"):
        shop.prove()


def test_a_source_that_moved_is_read_where_it_is_now(shop):
    shop.secrets = type(shop.secrets)({"env:NEW_DSN": shop.dsn})
    origin = replace(shop.contract.origin, connection={"dsn": "env:NEW_DSN"})
    shop.contract = replace(shop.contract, origin=origin)
    shop.move(hour(3), hour(4), until=Stage.EXTRACT)

    assert shop.prove().is_equal


def test_what_the_batches_counted_has_to_add_up(shop):
    with shop.ledger.transaction() as tx:
        batch = min(tx.batches(), key=lambda batch: batch.window.end)
    shop.ledger._tables.batches[batch.id] = replace(batch, counts={**batch.counts, Count.ROWS_READ: 7})

    number, difference = difference_of(shop)

    assert number == 0
    assert difference.sides == (Side.SOURCE, Side.CSV)
    assert "rows_read is 7" in difference.detail


def test_a_second_reading_of_a_window_counts_as_its_newest(fresh_database):
    limits = QuarantineLimits(max_rejected_rows=10, max_rejected_ratio=1.0)
    contract = orders(
        columns=[
            column("id", "int64", nullable=False),
            column("name", nullable=False),
            column("updated_at", "timestamptz"),
        ],
        limits=limits,
    )
    shop = three_windows(Travelled(fresh_database, contract))
    before = shop.prove()
    shop.execute("UPDATE public.orders SET name = 'mended' WHERE id = 4")
    mended = difference_of(shop)
    shop.read_again(before.windows[2].batch)

    after = shop.prove()

    assert before.is_equal
    assert mended[0] == 2
    assert after.is_equal
    assert [window.rejected_row_count for window in after.windows] == [0, 0, 0]
    assert after.total(Side.WAREHOUSE).row_count == 4
