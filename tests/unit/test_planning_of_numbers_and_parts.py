"""Planning by numbers, by days, and in parts: nothing is left out, and nothing is read twice."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ledger_rows import BUCKET, NOON, a_contract
from support.scouts import ToldScout

from shared import lifecycle
from shared.domain.batches import Batch, Stage, batch_id
from shared.domain.contracts import (
    STRING,
    Column,
    ColumnKind,
    ColumnType,
    Cursor,
    DeleteMode,
    Deletes,
    KeySweep,
    Mask,
    MaskKind,
    PublishMode,
    TableContract,
    Target,
)
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.sources import SourceLimits
from shared.domain.windows import Extent, PlannedWindow, Window, counted_windows, is_key_sweep
from shared.errors import Refused
from shared.ledger.memory import MemoryLedger
from shared.planning import Counted, plan_source, register_source
from shared.ports import QueueName

QUARTER = timedelta(minutes=15)
LAG = timedelta(minutes=1)
MOMENTS = a_contract().contract


def with_cursor(kind: ColumnKind, *, lag: timedelta = LAG, rows_per_part: int = 1_000) -> TableContract:
    return replace(
        MOMENTS,
        columns=(*MOMENTS.columns, Column("seq", ColumnType(kind), Mask(MaskKind.KEEP), nullable=False)),
        cursor=Cursor("seq", lag=lag, overlap=timedelta(0)),
        schedule=replace(MOMENTS.schedule, rows_per_part=rows_per_part),
    )


COUNTING = with_cursor(ColumnKind.INT64)
DAILY = with_cursor(ColumnKind.DATE)


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger(lambda: NOON)


def planned(
    ledger: MemoryLedger,
    contract: TableContract,
    moment: datetime,
    *,
    numbers: tuple[int, int] | None = None,
    cuts: Sequence[datetime] = (),
) -> list[PlannedWindow]:
    scout = ToldScout(lambda: moment, numbers=numbers, cuts=cuts)
    (table,) = plan_source([contract], ledger=ledger, scout=scout, bucket=BUCKET)
    return list(table.planned)


def spans(windows: Sequence[PlannedWindow]) -> list[tuple[str | None, str | None]]:
    return [(window.extent.low, window.extent.high) for window in windows if window.extent]


def batches(ledger: MemoryLedger) -> list[Batch]:
    with ledger.transaction() as tx:
        return tx.batches()


# ---- numbers ---------------------------------------------------------------------------------------------------


def test_numbers_that_were_seen_are_read_once_the_lag_has_passed(ledger: MemoryLedger) -> None:
    assert planned(ledger, COUNTING, NOON, numbers=(5, 100)) == []

    first = planned(ledger, COUNTING, NOON + QUARTER, numbers=(5, 170))
    seen_only = planned(ledger, COUNTING, NOON + QUARTER + LAG / 2, numbers=(5, 175))
    second = planned(ledger, COUNTING, NOON + 2 * QUARTER, numbers=(5, 180))
    third = planned(ledger, COUNTING, NOON + 3 * QUARTER, numbers=(5, 190))

    assert first == [
        PlannedWindow("initial", Window(None, NOON), extent=Extent("seq", None, "101")),
    ]
    assert seen_only == []
    assert spans(second) == [("101", "171")]
    assert spans(third) == [("171", "181")]


def test_without_a_lag_numbers_are_read_as_they_are_seen(ledger: MemoryLedger) -> None:
    contract = with_cursor(ColumnKind.INT64, lag=timedelta(0))

    assert spans(planned(ledger, contract, NOON, numbers=(1, 10))) == [(None, "11")]
    assert planned(ledger, contract, NOON + QUARTER / 2, numbers=(1, 12)) == []
    assert spans(planned(ledger, contract, NOON + QUARTER, numbers=(1, 12))) == [("11", "13")]


def test_a_lag_longer_than_the_interval_starves_nothing(ledger: MemoryLedger) -> None:
    contract = with_cursor(ColumnKind.INT64, lag=2 * QUARTER)
    windows: list[PlannedWindow] = []

    for step in range(9):
        windows += planned(ledger, contract, NOON + step * QUARTER, numbers=(1, 10 * step + 9))

    assert spans(windows) == [(None, "10"), ("10", "30"), ("30", "50"), ("50", "70")]
    assert [window.window.end - NOON for window in windows] == [step * 2 * QUARTER for step in range(4)]


def test_a_table_without_new_numbers_plans_no_batch_and_still_moves_on(ledger: MemoryLedger) -> None:
    contract = with_cursor(ColumnKind.INT64, lag=timedelta(0))
    planned(ledger, contract, NOON, numbers=(1, 10))

    assert planned(ledger, contract, NOON + QUARTER, numbers=(1, 10)) == []

    with ledger.transaction() as tx:
        assert tx.watermark("shop", "orders") == NOON + QUARTER
    assert spans(planned(ledger, contract, NOON + 2 * QUARTER, numbers=(1, 11))) == [("11", "12")]


def test_numbers_that_went_back_are_not_planned_again(ledger: MemoryLedger) -> None:
    contract = with_cursor(ColumnKind.INT64, lag=timedelta(0))
    planned(ledger, contract, NOON, numbers=(1, 100))

    # The newest rows were deleted; the sequence goes on where it was.
    assert planned(ledger, contract, NOON + QUARTER, numbers=(1, 50)) == []
    assert spans(planned(ledger, contract, NOON + 2 * QUARTER, numbers=(1, 105))) == [("101", "106")]


def test_an_empty_table_of_numbers_is_planned_once_it_has_rows(ledger: MemoryLedger) -> None:
    contract = with_cursor(ColumnKind.INT64, lag=timedelta(0))

    assert planned(ledger, contract, NOON, numbers=None) == []
    assert spans(planned(ledger, contract, NOON + QUARTER, numbers=(1, 3))) == [(None, "4")]


def test_many_numbers_at_first_are_read_in_parts_behind_what_is_due(ledger: MemoryLedger) -> None:
    contract = with_cursor(ColumnKind.INT64, lag=timedelta(0))

    parts = planned(ledger, contract, NOON, numbers=(501, 3_000))

    assert spans(parts) == [(None, "1501"), ("1501", "2501"), ("2501", "3001")]
    with ledger.transaction() as tx:
        assert {item.message.queue for item in tx.pending_messages(limit=10)} == {QueueName.BACKFILL}
    assert spans(planned(ledger, contract, NOON + QUARTER, numbers=(501, 3_001))) == [("3001", "3002")]
    assert {batch.slot: batch.is_bulk for batch in batches(ledger)} == {
        "initial": True,
        "from 1501": True,
        "from 2501": True,
        "2026-11-22T12:00:00.000000Z from 3001": False,
    }


@given(
    low=st.integers(-(10**6), 10**12) | st.none(),
    first=st.integers(-(10**6), 10**12),
    length=st.integers(0, 10**12),
    rows_per_part=st.integers(1, 10**7),
)
def test_parts_of_numbers_tile_them_without_gap(
    low: int | None, first: int, length: int, rows_per_part: int
) -> None:
    begin = first if low is None else low
    high = begin + length

    parts = counted_windows(
        "seq", Window(None, NOON), first=first, low=low, high=high, rows_per_part=rows_per_part
    )

    if low is not None and length == 0:
        assert parts == []
        return
    bounds = spans(parts)
    assert bounds[0][0] == (None if low is None else str(low))
    assert bounds[-1][1] == str(high)
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    assert len(parts) <= 1_001
    assert len({part.slot for part in parts}) == len(parts)


NUMBERS = with_cursor(ColumnKind.INT64, lag=timedelta(0))
VERSIONS = replace(
    NUMBERS,
    columns=(*NUMBERS.columns, Column("version", ColumnType(ColumnKind.INT64), Mask(MaskKind.KEEP))),
    cursor=Cursor("version", lag=timedelta(0), overlap=timedelta(0)),
)


def test_a_table_that_gets_a_cursor_that_counts_is_read_from_the_beginning(ledger: MemoryLedger) -> None:
    planned(ledger, MOMENTS, NOON + LAG)

    parts = planned(ledger, NUMBERS, NOON + QUARTER, numbers=(1, 10))

    assert spans(parts) == [(None, "11")]
    assert spans(planned(ledger, NUMBERS, NOON + 2 * QUARTER, numbers=(1, 11))) == [("11", "12")]


def test_the_numbers_of_another_column_tell_nothing_of_these(ledger: MemoryLedger) -> None:
    planned(ledger, NUMBERS, NOON, numbers=(1, 10))
    planned(ledger, NUMBERS, NOON + QUARTER, numbers=(1, 5_000))

    parts = planned(ledger, VERSIONS, NOON + 2 * QUARTER, numbers=(1, 50))
    # It begins where a part of the other column's numbers began.
    later = planned(ledger, VERSIONS, NOON + 3 * QUARTER, numbers=(1, 2_049))

    assert spans(parts) == [(None, "51")]
    assert [spans(later)[0][0], spans(later)[-1][1]] == ["51", "2050"]


def test_a_cursor_that_comes_back_goes_on_where_it_was_and_loses_no_number(ledger: MemoryLedger) -> None:
    planned(ledger, NUMBERS, NOON, numbers=(1, 10))
    planned(ledger, MOMENTS, NOON + QUARTER + LAG)

    assert spans(planned(ledger, NUMBERS, NOON + 2 * QUARTER, numbers=(1, 20))) == [("11", "21")]


def test_a_table_that_rows_are_added_to_is_not_read_again_by_another_cursor(ledger: MemoryLedger) -> None:
    appended = replace(MOMENTS, publishing=replace(MOMENTS.publishing, mode=PublishMode.APPEND))
    counting = replace(NUMBERS, publishing=appended.publishing)
    planned(ledger, appended, NOON + LAG)

    scout = ToldScout(lambda: NOON + QUARTER, numbers=(1, 10))
    (table,) = plan_source([counting], ledger=ledger, scout=scout, bucket=BUCKET)

    assert table.planned == ()
    assert "stand there twice" in str(table.error)


def test_a_clock_that_was_set_back_plans_nothing_and_breaks_nothing(ledger: MemoryLedger) -> None:
    planned(ledger, MOMENTS, NOON + LAG)

    assert planned(ledger, NUMBERS, NOON - QUARTER, numbers=(1, 10)) == []
    assert spans(planned(ledger, NUMBERS, NOON + QUARTER, numbers=(1, 11))) == [(None, "12")]


def test_a_table_whose_cursor_cannot_be_counted_holds_up_none_of_the_others(ledger: MemoryLedger) -> None:
    class Failing(ToldScout):
        def counted(self, contract: TableContract) -> Counted:
            raise Refused(Reason.TABLE_MISSING, "it is gone")

    gone, sound = replace(NUMBERS, table="gone"), MOMENTS
    found = plan_source([gone, sound], ledger=ledger, scout=Failing(lambda: NOON + LAG), bucket=BUCKET)

    assert [(table.table, len(table.planned), str(table.error)) for table in found] == [
        ("gone", 0, "table_missing: it is gone"),
        ("orders", 1, "None"),
    ]


# ---- days ------------------------------------------------------------------------------------------------------


def test_a_day_is_read_when_it_is_over_and_not_before(ledger: MemoryLedger) -> None:
    midnight = datetime(2026, 11, 22, tzinfo=UTC)
    planned(ledger, DAILY, midnight + LAG)

    assert planned(ledger, DAILY, midnight + timedelta(hours=24)) == []
    assert [item.window for item in planned(ledger, DAILY, midnight + timedelta(hours=24) + LAG)] == [
        Window(midnight, midnight + timedelta(hours=24))
    ]


def test_days_that_were_missed_are_caught_up_one_by_one(ledger: MemoryLedger) -> None:
    midnight = datetime(2026, 11, 22, tzinfo=UTC)
    planned(ledger, DAILY, midnight + LAG)

    windows = planned(ledger, DAILY, midnight + timedelta(days=3, hours=5))

    assert [window.window for window in windows] == [
        Window(midnight + timedelta(days=day), midnight + timedelta(days=day + 1)) for day in range(3)
    ]


def test_a_table_of_days_is_not_late_before_its_day_is_over(ledger: MemoryLedger) -> None:
    register_source([DAILY], expected_by={"orders": QUARTER}, limits=SourceLimits(), ledger=ledger)

    with ledger.transaction() as tx:
        (expectation,) = tx.expectations()
    midnight = datetime(2026, 11, 24, tzinfo=UTC)
    assert not expectation.is_late(midnight, now=midnight + timedelta(days=1))
    assert expectation.is_late(midnight, now=midnight + timedelta(days=1, hours=1))


# ---- first loads -----------------------------------------------------------------------------------------------


def test_a_first_load_in_parts_waits_in_the_queue_of_bulk_work(ledger: MemoryLedger) -> None:
    cuts = [NOON - timedelta(days=2), NOON - timedelta(days=1)]

    parts = planned(ledger, MOMENTS, NOON + LAG, cuts=cuts)

    assert [(part.slot, part.is_bulk) for part in parts] == [
        ("initial", True),
        ("2026-11-20T12:00:00.000000Z", True),
        ("2026-11-21T12:00:00.000000Z", True),
    ]
    assert [part.window.start for part in parts] == [None, *cuts]
    assert all(one.window.end == other.window.start for one, other in pairwise(parts))
    with ledger.transaction() as tx:
        assert {item.message.queue for item in tx.pending_messages(limit=10)} == {QueueName.BACKFILL}


def test_a_table_that_was_planned_is_not_looked_at_for_its_first_load_again(ledger: MemoryLedger) -> None:
    planned(ledger, MOMENTS, NOON + LAG)

    later = planned(ledger, MOMENTS, NOON + QUARTER + LAG, cuts=[NOON - timedelta(days=1)])

    assert [window.window for window in later] == [Window(NOON, NOON + QUARTER)]
    assert [window.is_bulk for window in later] == [False]


# ---- transactions that are open at the source ------------------------------------------------------------------


def held(
    ledger: MemoryLedger, contract: TableContract, moment: datetime, *, since: datetime, **more: object
) -> list[Window]:
    scout = ToldScout(lambda: moment, lambda: since, **more)  # type: ignore[arg-type]
    (table,) = plan_source([contract], ledger=ledger, scout=scout, bucket=BUCKET)
    return [window.window for window in table.planned]


def test_a_window_waits_for_the_oldest_transaction_that_has_written(ledger: MemoryLedger) -> None:
    planned(ledger, MOMENTS, NOON + LAG)

    assert held(ledger, MOMENTS, NOON + QUARTER + LAG, since=NOON + QUARTER - LAG) == []
    assert held(ledger, MOMENTS, NOON + QUARTER + LAG, since=NOON + QUARTER) == [Window(NOON, NOON + QUARTER)]


def test_a_transaction_that_is_never_ended_holds_nothing_back_for_longer_than_an_hour(
    ledger: MemoryLedger,
) -> None:
    planned(ledger, MOMENTS, NOON + LAG)

    windows = held(ledger, MOMENTS, NOON + timedelta(hours=3) + LAG, since=NOON)

    assert windows[-1].end == NOON + timedelta(hours=2)


def test_numbers_wait_for_a_transaction_that_is_older_than_their_sighting(ledger: MemoryLedger) -> None:
    planned(ledger, COUNTING, NOON, numbers=(1, 10))

    assert held(ledger, COUNTING, NOON + QUARTER, since=NOON - LAG, numbers=(1, 20)) == []
    assert held(ledger, COUNTING, NOON + QUARTER, since=NOON, numbers=(1, 20)) == [Window(None, NOON)]


# ---- rows that are gone ----------------------------------------------------------------------------------------

SWEPT = replace(MOMENTS, deletes=Deletes(DeleteMode.SWEEP, every=timedelta(hours=1)))


def test_keys_are_swept_as_often_as_said_up_to_where_the_table_is_planned(ledger: MemoryLedger) -> None:
    first = planned(ledger, SWEPT, NOON + LAG)
    second = planned(ledger, SWEPT, NOON + QUARTER + LAG)
    third = planned(ledger, SWEPT, NOON + 2 * QUARTER + LAG)

    assert [window.slot for window in first] == ["initial"]
    assert second[1:] == [
        PlannedWindow("keys 2026-11-22T12:15:00.000000Z", Window(None, NOON + QUARTER), is_bulk=True)
    ]
    assert len(third) == 1


def test_a_sweep_on_its_way_is_not_followed_by_another_and_holds_no_table_back(ledger: MemoryLedger) -> None:
    planned(ledger, SWEPT, NOON + LAG)
    (_, sweep) = planned(ledger, SWEPT, NOON + QUARTER + LAG)

    for hour in range(1, 4):
        assert not [
            w for w in planned(ledger, SWEPT, NOON + timedelta(hours=hour) + LAG) if is_key_sweep(w.slot)
        ]

    with ledger.transaction() as tx:
        for batch in tx.batches():
            if not is_key_sweep(batch.slot):
                lifecycle.claim(tx, batch.id, Stage.EXTRACT, worker="w", lease=LAG, retry=RetryPolicy(0))
                lifecycle.discard(tx, batch.id, detail="a test")
        (progress,) = tx.table_progress()
        assert progress.published_until == NOON + timedelta(hours=3)
        found = tx.batch(batch_id("shop", "orders", sweep.slot))
        assert found is not None
        lifecycle.claim(tx, found.id, Stage.EXTRACT, worker="w", lease=LAG, retry=RetryPolicy(0))
        lifecycle.discard(tx, found.id, detail="a test")
    assert [w for w in planned(ledger, SWEPT, NOON + timedelta(hours=4) + LAG) if is_key_sweep(w.slot)]


def test_a_sweep_is_read_under_a_contract_of_the_keys_alone(ledger: MemoryLedger) -> None:
    planned(ledger, SWEPT, NOON + LAG)
    planned(ledger, SWEPT, NOON + QUARTER + LAG)

    with ledger.transaction() as tx:
        contracts = {is_key_sweep(batch.slot): lifecycle.contract_of(tx, batch) for batch in tx.batches()}

    assert [column.name for column in contracts[True].output_columns] == list(SWEPT.key)
    # Those that are known are not told to be new at the source.
    assert [column.name for column in contracts[True].columns] == [column.name for column in SWEPT.columns]
    assert (contracts[True].cursor, contracts[True].publishing.target) == (None, Target.NATIVE)
    assert not contracts[True].limits.allow(rejected=1, total=10**9)
    assert contracts[False] == SWEPT


def test_a_sweep_can_tell_of_rows_that_came_under_the_same_keys_alone(ledger: MemoryLedger) -> None:
    pseudonym = Mask(MaskKind.HMAC, domain="orders", key_id="k2")
    hidden = replace(
        SWEPT,
        columns=tuple(
            replace(column, mask=pseudonym) if column.name in SWEPT.key else column
            for column in SWEPT.columns
        ),
    )
    widened = replace(hidden, columns=(*hidden.columns, Column("more", STRING, Mask(MaskKind.KEEP))))
    for step, contract in enumerate([SWEPT, hidden, widened]):
        planned(ledger, contract, NOON + step * QUARTER + LAG)

    with ledger.transaction() as tx:
        known = {batch.slot: lifecycle.key_sweep_of(tx, batch) for batch in tx.batches()}

    assert [sweep for slot, sweep in known.items() if is_key_sweep(slot)] == [
        KeySweep(timedelta(seconds=30), versions=(2, 3))
    ]
    assert known["initial"] is None
