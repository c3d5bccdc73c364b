"""Backfills: planned whole or not at all, behind the live windows, and what they bring takes its place."""

from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from support.ledger_rows import BUCKET, NOON, a_contract
from support.ledgers import SteppingClock
from support.scouts import ToldScout

from cli.backfill import planned_end_of
from shared import lifecycle
from shared.bulk import FIRST_LOAD, bulk_runs, plan_backfill
from shared.domain.batches import BatchState
from shared.domain.contracts import (
    Column,
    ColumnKind,
    ColumnType,
    Cursor,
    DeleteMode,
    Deletes,
    Mask,
    MaskKind,
    Publishing,
    PublishMode,
    TableContract,
)
from shared.domain.progress import CursorCount
from shared.domain.windows import PlannedWindow, Window, counted_windows, slot_of
from shared.errors import ConfigurationError
from shared.ledger.memory import MemoryLedger
from shared.planning import plan_source
from shared.ports import QueueName

CONTRACT = a_contract().contract
HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def ledger(clock: SteppingClock) -> MemoryLedger:
    ledger = MemoryLedger(clock)
    plan(ledger)
    return ledger


def plan(ledger: MemoryLedger, *, moment: datetime = NOON + timedelta(seconds=30)) -> None:
    plan_source([CONTRACT], ledger=ledger, scout=ToldScout(lambda: moment), bucket=BUCKET)


def hours(first: int, last: int) -> list[PlannedWindow]:
    windows = [Window(NOON + hour * HOUR, NOON + (hour + 1) * HOUR) for hour in range(first, last)]
    return [PlannedWindow(slot_of(window.start or NOON), window) for window in windows]


def test_a_backfill_waits_behind_the_live_windows_and_moves_no_watermark(ledger: MemoryLedger) -> None:
    run = plan_backfill(CONTRACT, hours(-3, -1), ledger=ledger, bucket=BUCKET)

    assert [(batch.window, batch.is_bulk) for batch in run.batches] == [
        (window.window, True) for window in hours(-3, -1)
    ]
    with ledger.transaction() as tx:
        assert tx.watermark("shop", "orders") == NOON
        assert [item.message.queue for item in tx.pending_messages(limit=9)] == [
            QueueName.EXTRACT,
            QueueName.BACKFILL,
            QueueName.BACKFILL,
        ]


def test_what_a_backfill_brings_is_as_of_the_moment_it_was_asked_for(
    ledger: MemoryLedger, clock: SteppingClock
) -> None:
    clock.advance(hours=5)

    run = plan_backfill(CONTRACT, hours(-3, -2), ledger=ledger, bucket=BUCKET)

    # So it wins over the live batch that read these rows before, whose window ends at noon.
    assert run.batches[0].as_of >= NOON + 5 * HOUR > run.batches[0].window.end


def test_a_backfill_wins_over_its_own_window_though_the_clock_of_the_source_is_ahead() -> None:
    ledger = MemoryLedger(lambda: NOON - HOUR)
    plan(ledger)

    run = plan_backfill(CONTRACT, hours(-1, 0), ledger=ledger, bucket=BUCKET)

    assert run.batches[0].as_of == NOON


def test_a_backfill_does_not_hold_the_table_back(ledger: MemoryLedger, clock: SteppingClock) -> None:
    for batch in _batches(ledger):
        with ledger.transaction() as tx:
            assert (
                lifecycle.claim(tx, batch, lifecycle.Stage.EXTRACT, worker="w", lease=HOUR, retry=_NO_RETRY)
                is None
            )
            lifecycle.discard(tx, batch, detail="a test")

    plan_backfill(CONTRACT, hours(-3, -2), ledger=ledger, bucket=BUCKET)

    with ledger.transaction() as tx:
        (progress,) = tx.table_progress()
    assert progress.published_until == NOON


@pytest.mark.parametrize("overlapping", [hours(-2, -1), hours(-4, 0), hours(-3, -2)])
def test_a_second_backfill_of_the_same_rows_waits_for_the_first(
    ledger: MemoryLedger, overlapping: list[PlannedWindow]
) -> None:
    plan_backfill(CONTRACT, hours(-3, -1), ledger=ledger, bucket=BUCKET)

    with pytest.raises(ConfigurationError, match="is not done"):
        plan_backfill(CONTRACT, overlapping, ledger=ledger, bucket=BUCKET)

    assert len(_runs(ledger)) == 1


def test_backfills_of_other_rows_stand_side_by_side(ledger: MemoryLedger, clock: SteppingClock) -> None:
    plan_backfill(CONTRACT, hours(-3, -2), ledger=ledger, bucket=BUCKET)
    clock.advance(seconds=1)
    plan_backfill(CONTRACT, hours(-2, -1), ledger=ledger, bucket=BUCKET)

    assert [len(run.batches) for run in _runs(ledger)] == [1, 1]


def test_what_is_not_planned_yet_is_left_to_the_live_windows(ledger: MemoryLedger) -> None:
    with pytest.raises(ConfigurationError, match="expected a span up to 2026-11-22T12:00:00Z"):
        plan_backfill(CONTRACT, hours(-1, 1), ledger=ledger, bucket=BUCKET)

    assert _runs(ledger) == []


@pytest.mark.parametrize(
    ("contract", "sentence"),
    [
        (replace(CONTRACT, publishing=Publishing(PublishMode.APPEND)), "stand there twice"),
        (
            replace(CONTRACT, cursor=None, publishing=Publishing(PublishMode.REPLACE)),
            "a snapshot of all of it",
        ),
        (replace(CONTRACT, table="refunds"), "nothing of it is planned yet"),
    ],
)
def test_tables_that_gain_nothing_by_it_are_refused(
    ledger: MemoryLedger, contract: TableContract, sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        plan_backfill(contract, hours(-3, -1), ledger=ledger, bucket=BUCKET)


COUNTING = replace(
    CONTRACT,
    columns=(*CONTRACT.columns, Column("seq", ColumnType(ColumnKind.INT64), Mask(MaskKind.KEEP))),
    cursor=Cursor("seq", lag=timedelta(0), overlap=timedelta(0)),
)


def numbers(low: int | None, high: int) -> list[PlannedWindow]:
    return counted_windows(
        "seq", Window(None, NOON), first=-1_000, low=low, high=high, rows_per_part=1_000_000
    )


@pytest.mark.parametrize(
    ("other", "is_refused"),
    [((-200, -150), True), ((-600, -500), True), ((None, -900), True), ((-100, 5), False)],
)
def test_numbers_below_zero_are_of_the_same_rows_too(
    ledger: MemoryLedger, clock: SteppingClock, other: tuple[int | None, int], is_refused: bool
) -> None:
    plan_backfill(COUNTING, numbers(None, -100), ledger=ledger, bucket=BUCKET)
    clock.advance(seconds=1)

    with pytest.raises(ConfigurationError, match="is not done") if is_refused else nullcontext():
        plan_backfill(COUNTING, numbers(*other), ledger=ledger, bucket=BUCKET)


def test_a_backfill_without_an_end_reads_up_to_where_the_live_windows_go_on() -> None:
    assert planned_end_of(CONTRACT, None, watermark=NOON) == NOON
    for below in (0, -5, 7):
        known = CursorCount("seq", below, NOON, 9)
        assert planned_end_of(COUNTING, known, watermark=NOON) == below
    for unknown in (None, CursorCount("seq", None, NOON, 9), CursorCount("version", 7, NOON, 9)):
        with pytest.raises(ConfigurationError, match="no number of its cursor 'seq'"):
            planned_end_of(COUNTING, unknown, watermark=NOON)


def test_a_key_sweep_is_no_part_of_a_first_load(ledger: MemoryLedger) -> None:
    swept = replace(CONTRACT, deletes=Deletes(DeleteMode.SWEEP))
    scout = ToldScout(lambda: NOON + HOUR)
    (table,) = plan_source([swept], ledger=ledger, scout=scout, bucket=BUCKET)

    assert [window.slot for window in table.planned if window.is_bulk] != []
    assert _runs(ledger) == []


def test_how_far_a_run_is_and_how_long_it_takes_is_told_by_what_is_done(clock: SteppingClock) -> None:
    ledger = MemoryLedger(clock)
    cuts = [NOON - 3 * HOUR, NOON - 2 * HOUR, NOON - HOUR]
    scout = ToldScout(lambda: NOON + timedelta(seconds=30), cuts=cuts)
    plan_source([CONTRACT], ledger=ledger, scout=scout, bucket=BUCKET)
    (run,) = _runs(ledger)
    assert (run.name, len(run.batches), run.time_left(NOON + HOUR)) == (FIRST_LOAD, 4, None)
    clock.advance(hours=1)

    with ledger.transaction() as tx:
        assert (
            lifecycle.claim(
                tx, run.batches[0].id, lifecycle.Stage.EXTRACT, worker="w", lease=HOUR, retry=_NO_RETRY
            )
            is None
        )
        lifecycle.discard(tx, run.batches[0].id, detail="a test")

    (run,) = _runs(ledger)
    assert (len(run.done), len(run.held), run.is_at_rest) == (1, 0, False)
    left = run.time_left(run.planned_at + HOUR)
    assert left == 3 * HOUR


def _runs(ledger: MemoryLedger) -> list:  # type: ignore[type-arg]
    with ledger.transaction() as tx:
        return bulk_runs(tx, source="shop")


def _batches(ledger: MemoryLedger) -> list[str]:
    with ledger.transaction() as tx:
        return [batch.id for batch in tx.batches(states=[BatchState.PLANNED])]


_NO_RETRY = lifecycle.RetryPolicy(0)
