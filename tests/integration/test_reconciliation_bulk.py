"""Reconciliation of cursors that are days or numbers, of first loads in parts, and of what was read again."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from support.extraction import column
from support.reconciled import Travelled, hour, orders

from reconciliation import prove
from reconciliation.findings import Difference, Measure, TableFinding
from reconciliation.history import Span
from reconciliation.recount import Answer
from reconciliation.sides import Side
from shared.domain.batches import Stage
from shared.domain.contracts import Cursor, DeleteMode, Deletes, PublishMode, TableContract
from shared.domain.counts import Count
from shared.domain.files import Area
from shared.domain.windows import PlannedWindow, Window, counted_windows, slot_of

NO_TIME = (timedelta(0), timedelta(0))
FIRST, SECOND = Window(None, hour(1)), Window(hour(1), hour(2))


def by_number(*, overlap: int = 0, mode: PublishMode = PublishMode.MERGE) -> TableContract:
    """Orders whose cursor is their number."""
    contract = orders(mode=mode)
    return _with_cursor(contract, Cursor("id", timedelta(0), timedelta(0), overlap_count=overlap))


def by_day(*, overlap: timedelta = timedelta(0)) -> TableContract:
    """Orders whose cursor is a date."""
    columns = [column("id", "int64", nullable=False), column("name"), column("day", "date")]
    return _with_cursor(orders(columns=columns), Cursor("day", timedelta(0), overlap))


def _with_cursor(contract: TableContract, cursor: Cursor) -> TableContract:
    return replace(contract, cursor=cursor)


def numbered(dsn: str, *, overlap: int = 0, mode: PublishMode = PublishMode.MERGE) -> Travelled:
    """Ten orders: the first six read in two parts of one window, the others in the next."""
    shop = Travelled(dsn, by_number(overlap=overlap, mode=mode))
    shop.execute("INSERT INTO public.orders SELECT i, 'n' || i, i, now() FROM generate_series(1, 6) i")
    shop.move_numbers(FIRST, low=None, high=7, rows_per_part=3)
    shop.execute("INSERT INTO public.orders SELECT i, 'n' || i, i, now() FROM generate_series(7, 10) i")
    shop.move_numbers(SECOND, low=7, high=11)
    return shop


def first_difference(found: TableFinding) -> tuple[int, Difference]:
    number = next(number for number, window in enumerate(found.windows) if not window.is_equal)
    difference = found.windows[number].difference
    assert difference is not None
    return number, difference


def planned(start: float | None, end: float) -> PlannedWindow:
    window = Window(None if start is None else hour(start), hour(end))
    return PlannedWindow("initial" if window.start is None else slot_of(window.start), window)


# ---- cursors that count ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [PublishMode.MERGE, PublishMode.APPEND])
def test_windows_of_numbers_are_compared_part_by_part(fresh_database, mode):
    shop = numbered(fresh_database, mode=mode)

    found = shop.prove()

    assert found.is_equal
    assert found.unsettled_count == 0
    assert [window.sides[Side.SOURCE].row_count for window in found.windows] == [2, 3, 1, 4]
    assert all(len(set(window.sides.values())) == 1 for window in found.windows)
    assert [window.until for window in found.windows] == [3, 6, 7, 11]


def test_a_difference_in_one_part_is_told_of_that_part(fresh_database):
    shop = numbered(fresh_database)
    shop.execute("UPDATE shop__base.orders SET name = 'x' WHERE id = 4")

    found = shop.prove()

    assert [window.is_equal for window in found.windows] == [True, False, True, True]
    assert first_difference(found)[1].rows[0].columns == ("name",)


def test_numbers_that_are_not_planned_yet_are_no_difference(fresh_database):
    shop = numbered(fresh_database)
    shop.insert((11, "new", "1", hour(3)))
    shop.execute("UPDATE public.orders SET id = 12 WHERE id = 1")

    found = shop.prove()

    # Its row went on to a number that is still to come, and the old one is nowhere.
    assert [window.is_equal for window in found.windows] == [False, True, True, True]
    assert first_difference(found)[1].rows[0].key == {"id": "1"}


def test_a_number_that_came_behind_its_window_is_missed_in_the_lake(fresh_database):
    shop = numbered(fresh_database)
    shop.insert((0, "late", "1", hour(3)))

    number, difference = first_difference(shop.prove())

    assert number == 0
    assert difference.sides == (Side.SOURCE, Side.LAKE)
    assert difference.rows[0].counts == {Side.SOURCE: 1, Side.LAKE: 0}


def test_the_last_numbers_are_left_to_the_next_window_as_many_as_overlap(fresh_database):
    shop = numbered(fresh_database, overlap=2)
    shop.execute("DELETE FROM shop__base.orders WHERE id >= 9")

    found = shop.prove()

    assert found.is_equal
    assert found.windows[-1].until == 9
    assert found.total(Side.SOURCE).row_count == 8


def test_windows_of_numbers_are_chosen_by_the_moments_at_which_they_were_planned(fresh_database):
    shop = numbered(fresh_database)
    shop.execute("DELETE FROM shop__base.orders WHERE id < 7")

    later, earlier = shop.prove(Span(start=hour(1))), shop.prove(Span(end=hour(1)))

    assert later.is_equal
    assert [window.until for window in later.windows] == [11]
    assert [window.is_equal for window in earlier.windows] == [False, False, False]


def test_a_row_whose_number_grew_has_left_its_window_on_every_side(fresh_database):
    columns = [column("id", "int64", nullable=False), column("name"), column("price", "decimal(10,2)")]
    columns.append(column("version", "int64"))
    contract = _with_cursor(orders(columns=columns), Cursor("version", timedelta(0), timedelta(0)))
    shop = Travelled(fresh_database, contract)
    shop.execute("ALTER TABLE public.orders ADD version bigint GENERATED ALWAYS AS IDENTITY")
    shop.insert((1, "Anna", "1", hour(0)), (2, "Bert", "2", hour(0)))
    shop.move_numbers(FIRST, low=None, high=3)
    shop.execute("UPDATE public.orders SET name = 'Anne', version = DEFAULT WHERE id = 1")
    on_its_way = shop.prove()
    shop.move_numbers(SECOND, low=3, high=4)

    arrived = shop.prove()

    assert on_its_way.is_equal
    assert [window.sides[Side.SOURCE].row_count for window in on_its_way.windows] == [1]
    assert arrived.is_equal
    assert [window.sides[Side.WAREHOUSE].row_count for window in arrived.windows] == [1, 1]


def test_a_table_that_was_given_a_cursor_that_counts_is_compared_from_then_on(fresh_database):
    shop = Travelled(fresh_database)
    shop.insert((1, "Anna", "1", hour(0.5)), (2, "Bert", "2", hour(0.75)))
    shop.move(None, hour(1))
    shop.contract = by_number()
    shop.insert((3, "Carl", "3", hour(1.5)))
    shop.move_numbers(SECOND, low=None, high=4)
    equal = shop.prove()
    shop.execute("UPDATE shop__base.orders SET name = 'x' WHERE id = 2")

    found = shop.prove()

    assert equal.is_equal
    assert [window.sides[Side.LAKE].row_count for window in equal.windows] == [3]
    assert equal.unsettled_count == 0
    assert equal.remarks == ("1 windows were not compared: they were read by another cursor",)
    assert first_difference(found)[1].rows[0].columns == ("name",)


def test_numbers_of_another_cursor_are_none_of_this_ones(fresh_database):
    columns = [column("id", "int64", nullable=False), column("name"), column("other", "int64")]
    shop = Travelled(fresh_database, _with_cursor(orders(columns=columns), Cursor("id", *NO_TIME)))
    shop.execute("ALTER TABLE public.orders ADD other bigint GENERATED ALWAYS AS (1000 - id) STORED")
    shop.execute("INSERT INTO public.orders (id, name) SELECT i, 'n' FROM generate_series(1, 6) i")
    shop.move_numbers(FIRST, low=None, high=500)
    shop.contract = _with_cursor(shop.contract, Cursor("other", *NO_TIME))
    shop.move_numbers(SECOND, low=None, high=1_000)

    found = shop.prove()

    assert found.is_equal
    assert [window.sides[Side.SOURCE].row_count for window in found.windows] == [6]
    assert "another cursor" in found.remarks[0]


# ---- cursors that are days ---------------------------------------------------------------------------------


def daily(dsn: str, *, overlap: timedelta = timedelta(0)) -> Travelled:
    """Three rows of each of three days, in two windows."""
    shop = Travelled(dsn, by_day(overlap=overlap))
    shop.execute("ALTER TABLE public.orders ADD day date")
    shop.execute(
        "INSERT INTO public.orders (id, name, day) "
        "SELECT i, 'n' || i, date '2025-12-31' + i / 3 FROM generate_series(0, 8) i"
    )
    shop.move(None, hour(0))
    shop.move(hour(0), hour(48))
    return shop


def test_windows_of_days_are_compared(fresh_database):
    shop = daily(fresh_database)

    found = shop.prove()
    shop.execute("UPDATE shop__base.orders SET name = 'x' WHERE id = 3")

    assert found.is_equal
    assert [window.sides[Side.WAREHOUSE].row_count for window in found.windows] == [3, 6]
    assert first_difference(shop.prove())[0] == 1
    assert shop.prove(Span(end=hour(0))).is_equal


def test_a_day_that_the_next_window_reads_again_is_left_to_it(fresh_database):
    shop = daily(fresh_database, overlap=timedelta(hours=1))
    shop.execute("INSERT INTO public.orders (id, name, day) VALUES (99, 'late', %s)", date(2026, 1, 2))

    found = shop.prove()

    assert found.is_equal
    assert found.windows[-1].until == datetime(2026, 1, 2, tzinfo=UTC)
    assert found.total(Side.SOURCE).row_count == 6


def test_a_row_of_a_later_day_is_still_to_come(fresh_database):
    shop = daily(fresh_database)
    shop.execute("UPDATE public.orders SET day = '2026-01-05' WHERE id = 0")

    found = shop.prove()

    assert found.is_equal
    assert [window.sides[Side.LAKE].row_count for window in found.windows] == [2, 6]


# ---- first loads in parts, and backfills -------------------------------------------------------------------


def three_hours(dsn: str) -> Travelled:
    """Four orders in three hours."""
    shop = Travelled(dsn)
    shop.insert(
        (1, "Anna", "1.10", hour(0.5)),
        (2, "Bert", "2", hour(0.75)),
        (3, "Carl", "3", hour(1.5)),
        (4, "Dora", "4", hour(2.5)),
    )
    return shop


def test_the_parts_of_a_first_load_are_compared_in_whatever_order_they_came(fresh_database):
    shop = three_hours(fresh_database)
    parts = [replace(part, is_bulk=True) for part in (planned(2, 3), planned(None, 1), planned(1, 2))]
    shop.move_parts(parts)

    found = shop.prove()

    assert found.is_equal
    assert [window.sides[Side.LAKE].row_count for window in found.windows] == [2, 1, 1]


def test_what_a_backfill_brought_takes_its_place_across_windows(fresh_database):
    shop = three_hours(fresh_database)
    for start, end in ((None, 1), (1, 2), (2, 3)):
        shop.move(None if start is None else hour(start), hour(end))
    shop.insert((5, "late", "1", hour(0.8)), (6, "late", "1", hour(1.25)))
    shop.execute("UPDATE public.orders SET name = 'Carlo' WHERE id = 3")
    before = shop.prove()
    run = shop.plan_backfill(planned(0.6, 1.75))
    on_its_way = shop.prove()
    shop.lead(run)

    after = shop.prove()

    assert [window.is_equal for window in before.windows] == [False, False, True]
    assert [window.is_equal for window in on_its_way.windows] == [False, False, True]
    assert run.batches[0].id in on_its_way.windows[0].remarks[0]
    assert on_its_way.windows[2].remarks == ()
    assert after.is_equal
    assert [window.sides[Side.WAREHOUSE].row_count for window in after.windows] == [3, 2, 1]
    assert after.windows[0].remarks == ()


def test_a_row_that_went_on_after_a_backfill_read_it_is_no_difference(fresh_database):
    shop = three_hours(fresh_database)
    shop.move(None, hour(1))
    shop.move(hour(1), hour(3))
    shop.lead(shop.plan_backfill(planned(None, 2)))
    shop.execute("UPDATE public.orders SET name = 'Anne', updated_at = %s WHERE id = 1", hour(3.5))
    shop.move(hour(3), hour(4))

    found = shop.prove()

    assert found.is_equal
    assert [window.sides[Side.LAKE].row_count for window in found.windows] == [1, 2, 1]


def test_the_files_of_a_backfill_are_compared_with_what_it_read(fresh_database):
    shop = three_hours(fresh_database)
    shop.move(None, hour(1))
    shop.move(hour(1), hour(3))
    (batch,) = shop.lead(shop.plan_backfill(planned(0.6, 1.75)))
    with shop.ledger.transaction() as tx:
        (file,) = tx.files(batch_id=batch.id, areas=[Area.FINAL])
    shop.store.overwrite(file.location, b"something else")

    found = shop.prove()

    # The rows themselves are in the files of the first readings too.
    assert [window.is_equal for window in found.windows] == [False, False]
    _, difference = first_difference(found)
    assert difference.sides == (Side.CSV, Side.LAKE)
    assert difference.measure is Measure.CONTENT
    assert f"batch {batch.id}, which read rows of it again" in difference.detail


def test_a_backfill_of_numbers_is_compared(fresh_database):
    shop = numbered(fresh_database)
    shop.insert((0, "late", "1", hour(3)))
    shop.execute("UPDATE public.orders SET name = 'other' WHERE id = 8")
    before = shop.prove()
    windows = counted_windows("id", Window(None, hour(2)), first=0, low=None, high=9, rows_per_part=5)
    shop.lead(shop.plan_backfill(*windows))

    after = shop.prove()

    assert [window.is_equal for window in before.windows] == [False, True, True, False]
    assert after.is_equal
    assert [window.sides[Side.WAREHOUSE].row_count for window in after.windows] == [3, 3, 1, 4]


def test_what_a_second_reading_of_the_window_rejected_is_what_is_missing(fresh_database):
    shop = three_hours(fresh_database)
    first = shop.move(None, hour(3))
    shop.read_again(first)

    found = shop.prove()

    assert found.is_equal
    assert found.windows[0].rejected_row_count == 0
    assert found.windows[0].batch.counts[Count.ROWS_READ] == 4


def test_a_backfill_that_is_published_while_the_sides_are_read_is_no_difference(fresh_database, monkeypatch):
    shop = three_hours(fresh_database)
    shop.move(None, hour(3))
    shop.execute("UPDATE public.orders SET name = 'Carlo' WHERE id = 3")
    run = shop.plan_backfill(planned(None, 3))
    look_at_everything = prove.look_at_everything
    led = []

    def led_meanwhile(reading):
        if not led:
            led.extend(shop.lead(run))
        return look_at_everything(reading)

    monkeypatch.setattr(prove, "look_at_everything", led_meanwhile)

    found = shop.prove()

    assert led
    assert found.is_equal
    assert Stage.PUBLISH in led[0].attempts


# ---- key sweeps --------------------------------------------------------------------------------------------


def swept(dsn: str) -> Travelled:
    """Four orders in two windows of a table that is swept."""
    shop = three_hours(dsn)
    shop.contract = replace(shop.contract, deletes=Deletes(DeleteMode.SWEEP))
    shop.move(None, hour(1))
    shop.move(hour(1), hour(3))
    return shop


def test_rows_that_a_key_sweep_deleted_are_on_no_side(fresh_database):
    shop = swept(fresh_database)
    shop.execute("DELETE FROM public.orders WHERE id IN (1, 3)")
    shop.sweep_keys(hour(4))

    found = shop.prove()

    assert found.is_equal
    assert found.remarks == ()
    assert [window.sides[Side.WAREHOUSE].row_count for window in found.windows] == [1, 1]
    assert [window.sides[Side.LAKE].row_count for window in found.windows] == [1, 1]


def test_rows_that_the_next_key_sweep_will_delete_are_left_out_and_counted(fresh_database):
    shop = swept(fresh_database)
    shop.execute("DELETE FROM public.orders WHERE id = 1")

    before = shop.prove()
    shop.sweep_keys(hour(4), until=Stage.EXTRACT)
    on_its_way = shop.prove()

    for found in (before, on_its_way):
        assert found.is_equal
        assert "1 rows are gone at the source" in found.remarks[0]
        assert [window.sides[Side.LAKE].row_count for window in found.windows] == [1, 2]


def test_a_row_that_a_key_sweep_should_have_deleted_is_told(fresh_database):
    shop = swept(fresh_database)
    shop.execute("CREATE TABLE kept AS SELECT * FROM shop__base.orders WHERE id = 1")
    shop.execute("DELETE FROM public.orders WHERE id = 1")
    shop.sweep_keys(hour(4))
    shop.execute("INSERT INTO shop__base.orders SELECT * FROM kept")

    number, difference = first_difference(shop.prove())

    assert number == 0
    assert difference.sides == (Side.LAKE, Side.WAREHOUSE)
    assert difference.rows[0].counts == {Side.LAKE: 0, Side.WAREHOUSE: 1}


def test_a_row_that_came_after_a_key_sweep_is_asked_of_every_side(fresh_database):
    shop = swept(fresh_database)
    shop.execute("DELETE FROM public.orders WHERE id = 1")
    shop.sweep_keys(hour(3))
    shop.insert((1, "Anna again", "1", hour(3.5)), (5, "new", "1", hour(3.5)))
    shop.move(hour(3), hour(4))
    equal = shop.prove()
    shop.execute("DELETE FROM shop__base.orders WHERE id = 5")

    number, difference = first_difference(shop.prove())

    assert equal.is_equal
    assert [window.sides[Side.LAKE].row_count for window in equal.windows] == [1, 2, 2]
    assert number == 2
    assert difference.rows[0].key == {"id": "5"}


def test_windows_of_before_the_table_was_swept_are_compared(fresh_database):
    shop = three_hours(fresh_database)
    shop.move(None, hour(1))
    shop.contract = replace(shop.contract, deletes=Deletes(DeleteMode.SWEEP))
    shop.move(hour(1), hour(3))
    shop.execute("DELETE FROM public.orders WHERE id = 1")
    shop.sweep_keys(hour(3))

    found = shop.prove()

    assert found.is_equal
    assert [window.sides[Side.WAREHOUSE].row_count for window in found.windows] == [1, 2]


def test_a_key_sweep_is_no_window_to_be_counted_again(fresh_database):
    shop = swept(fresh_database)
    shop.sweep_keys(hour(4), until=Stage.EXTRACT)
    shop.insert((9, "late", "1", hour(0.1)))

    found = shop.recount()

    assert [count.answer for count in found.windows] == [Answer.PLANNED, None]
