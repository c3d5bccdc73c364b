"""Windows tile a table's cursor: no gap, no overlap, none open, whatever the clocks of the planners say."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.windows import (
    EPOCH,
    INITIAL_SLOT,
    PlannedWindow,
    Schedule,
    Window,
    due_snapshot,
    due_windows,
    floor_to,
    slot_of,
)

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
QUARTERLY = Schedule(every=QUARTER, max_window=timedelta(hours=1), catch_up_limit=4)

moments = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001  Hypothesis adds the zone
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
steps = st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(hours=1))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    every = draw(steps)
    return Schedule(
        every, max_window=every * draw(st.integers(1, 50)), catch_up_limit=draw(st.integers(1, 20))
    )


# ---- windows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end"),
    [
        pytest.param(NOON.replace(tzinfo=None), NOON, id="naive start"),
        pytest.param(None, NOON.replace(tzinfo=None), id="naive end"),
        pytest.param(None, NOON.astimezone(timezone(timedelta(hours=1))), id="another zone"),
    ],
)
def test_a_window_is_in_utc_or_refused(start: datetime | None, end: datetime) -> None:
    with pytest.raises(ValueError, match="aware and in UTC"):
        Window(start, end)


@pytest.mark.parametrize("start", [NOON, NOON + timedelta(microseconds=1)])
def test_a_window_starts_before_it_ends(start: datetime) -> None:
    with pytest.raises(ValueError, match="start before it ends"):
        Window(start, NOON)


@given(moments, steps)
def test_flooring_finds_the_last_multiple_that_is_not_after(moment: datetime, every: timedelta) -> None:
    floored = floor_to(moment, every)

    assert timedelta(0) <= moment - floored < every
    assert (floored - EPOCH) % every == timedelta(0)


@given(moments, moments)
def test_slots_sort_as_their_moments_and_tell_microseconds_apart(one: datetime, other: datetime) -> None:
    assert (slot_of(one) < slot_of(other)) == (one < other)
    assert (slot_of(one) == slot_of(other)) == (one == other)


# ---- due windows ---------------------------------------------------------------------------------------------


def test_a_table_that_was_never_read_gets_one_window_from_the_beginning() -> None:
    due = due_windows(None, horizon=NOON + timedelta(minutes=7), schedule=QUARTERLY)

    assert due == [PlannedWindow(INITIAL_SLOT, Window(None, NOON))]


def test_nothing_is_due_before_a_window_has_closed() -> None:
    assert due_windows(NOON, horizon=NOON + timedelta(minutes=14, seconds=59), schedule=QUARTERLY) == []


def test_a_window_is_due_at_the_moment_it_closes() -> None:
    due = due_windows(NOON, horizon=NOON + QUARTER, schedule=QUARTERLY)

    assert due == [PlannedWindow("2026-11-22T12:00:00.000000Z", Window(NOON, NOON + QUARTER))]


def test_nothing_is_due_if_a_clock_went_backwards() -> None:
    assert due_windows(NOON, horizon=NOON - timedelta(hours=3), schedule=QUARTERLY) == []


def test_a_table_that_is_behind_gets_fewer_and_longer_windows() -> None:
    due = due_windows(NOON, horizon=NOON + timedelta(hours=2, minutes=20), schedule=QUARTERLY)

    lengths = [planned.window.end - NOON for planned in due]
    assert lengths == [timedelta(hours=1), timedelta(hours=2), timedelta(hours=2, minutes=15)]


def test_a_table_that_is_far_behind_catches_up_step_by_step() -> None:
    horizon = NOON + timedelta(days=1)
    watermark, rounds = NOON, 0
    while due := due_windows(watermark, horizon=horizon, schedule=QUARTERLY):
        assert len(due) <= QUARTERLY.catch_up_limit
        watermark, rounds = due[-1].window.end, rounds + 1

    assert (watermark, rounds) == (horizon, 6)


def test_two_planners_with_other_clocks_plan_the_same_slots() -> None:
    early = due_windows(NOON, horizon=NOON + QUARTER, schedule=QUARTERLY)
    late = due_windows(NOON, horizon=NOON + 2 * QUARTER, schedule=QUARTERLY)

    assert [planned.slot for planned in early] == [planned.slot for planned in late]


@given(moments, moments, schedules())
def test_windows_tile_the_cursor_without_gap_or_overlap(
    watermark: datetime, horizon: datetime, schedule: Schedule
) -> None:
    watermark = floor_to(watermark, schedule.every)

    due = due_windows(watermark, horizon=horizon, schedule=schedule)

    assert len(due) <= schedule.catch_up_limit
    assert all(before.window.end == after.window.start for before, after in pairwise(due))
    assert len({planned.slot for planned in due}) == len(due)
    for planned in due:
        assert planned.window.start is not None
        assert planned.slot == slot_of(planned.window.start)
        assert timedelta(0) < planned.window.end - planned.window.start <= schedule.max_window
        assert planned.window.end <= horizon
    if due:
        assert due[0].window.start == watermark


# ---- due snapshots -------------------------------------------------------------------------------------------


def test_a_snapshot_reads_everything_and_is_named_by_when_it_was_due() -> None:
    due = due_snapshot(None, horizon=NOON + timedelta(minutes=7), schedule=QUARTERLY)

    assert due == [PlannedWindow("snapshot 2026-11-22T12:00:00.000000Z", Window(None, NOON))]


def test_a_snapshot_is_due_once() -> None:
    assert due_snapshot(NOON, horizon=NOON + timedelta(minutes=14), schedule=QUARTERLY) == []
    assert due_snapshot(NOON, horizon=NOON - timedelta(hours=1), schedule=QUARTERLY) == []


def test_missed_snapshots_are_not_made_up_for() -> None:
    due = due_snapshot(NOON, horizon=NOON + timedelta(hours=5), schedule=QUARTERLY)

    assert [planned.window.end for planned in due] == [NOON + timedelta(hours=5)]
