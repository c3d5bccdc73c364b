"""Which windows can be compared, and to which of them a row belongs: of moments, days and numbers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
from support.ledger_rows import a_batch

from reconciliation.history import Span
from reconciliation.positions import Bounds, position_of, value_at
from reconciliation.settled import ELSEWHERE, OPEN, SettledWindow, Timeline, settled_windows
from shared.domain.batches import Batch
from shared.domain.contracts import CursorScale
from shared.domain.windows import Extent, Window

DAWN = datetime(2026, 1, 1, tzinfo=UTC)


def hour(number: float) -> datetime:
    return DAWN + timedelta(hours=number)


def batch(start: float | None, end: float) -> Batch:
    window = Window(None if start is None else hour(start), hour(end))
    return replace(a_batch(), id=f"b{end}", window=window)


def settle(published: list[Batch], *, overlap: timedelta = timedelta(0)) -> list[SettledWindow]:
    return settled_windows(published, scale=CursorScale.MOMENT, overlap=overlap // timedelta(microseconds=1))


def spans(settled: list[SettledWindow]) -> list[tuple[float | None, float]]:
    def hours(position: int | None) -> float | None:
        if position is None:
            return None
        moment = value_at(position, CursorScale.MOMENT)
        assert isinstance(moment, datetime)
        return (moment - DAWN) / timedelta(hours=1)

    return [(hours(window.stretch.low), hours(window.stretch.high)) for window in settled]  # type: ignore[misc]


def numbers(low: int | None, high: int) -> Batch:
    extent = Extent("id", None if low is None else str(low), str(high))
    return replace(a_batch(), id=f"b{high}", window=Window(None, DAWN), extent=extent)


def test_published_windows_that_follow_on_each_other_are_settled_but_for_the_last_overlap():
    published = [batch(2, 3), batch(None, 1), batch(1, 2)]

    settled = settle(published, overlap=timedelta(minutes=15))

    assert spans(settled) == [(None, 1), (1, 2), (2, 2.75)]


def test_before_a_window_that_is_not_published_the_overlap_is_left_out_too():
    published = [batch(None, 1), batch(1, 2), batch(3, 4)]

    settled = settle(published, overlap=timedelta(minutes=30))

    assert spans(settled) == [(None, 1), (1, 1.5), (3, 3.5)]


def test_windows_within_the_overlap_are_not_settled():
    published = [batch(None, 1), batch(1, 1.25), batch(1.25, 1.5)]

    settled = settle(published, overlap=timedelta(minutes=30))

    assert spans(settled) == [(None, 1)]


def test_an_overlap_reaches_back_over_several_windows():
    published = [batch(None, 1), batch(1, 2), batch(2, 2.25)]

    settled = settle(published, overlap=timedelta(minutes=30))

    assert spans(settled) == [(None, 1), (1, 1.75)]


def test_without_an_overlap_every_published_window_is_settled():
    published = [batch(None, 1), batch(3, 4)]

    assert spans(settle(published)) == [(None, 1), (3, 4)]


def windows_of(timeline: Timeline, *hours: float) -> list[int]:
    moments = pl.Series([position_of(hour(number), CursorScale.MOMENT) for number in hours], dtype=pl.Int64)
    return timeline.windows_of(moments).to_list()


def test_a_row_belongs_to_the_half_open_window_of_its_moment():
    settled = settle([batch(0, 1), batch(1, 2), batch(3, 4)])
    timeline = Timeline(settled, compared=settled[1:])

    assert windows_of(timeline, 0, 1, 1.999, 2, 3, 4, -1) == [ELSEWHERE, 0, 0, OPEN, 1, OPEN, OPEN]


def test_the_first_window_reaches_back_to_the_beginning():
    settled = settle([batch(None, 1)])

    assert windows_of(Timeline(settled, compared=settled), -24 * 365 * 1000, 0.5) == [0, 0]


def test_a_row_without_a_moment_and_a_table_without_settled_windows_are_open():
    settled = settle([batch(0, 1)])
    nothing = pl.Series([None], dtype=pl.Int64)

    assert Timeline(settled, compared=settled).windows_of(nothing).to_list() == [OPEN]
    assert windows_of(Timeline([], compared=[]), 0, 1) == [OPEN, OPEN]


def test_a_span_covers_the_windows_that_reach_into_it():
    span = Span(start=hour(1), end=hour(2))

    covered = [
        span.covers(window.window) for window in (batch(None, 1), batch(0.5, 1.5), batch(1, 2), batch(2, 3))
    ]

    assert covered == [False, True, True, False]
    assert Span().covers(batch(None, 1).window)
    assert Span(end=hour(1)).covers(batch(None, 5).window)


def test_parts_of_one_window_are_told_apart_by_their_numbers():
    published = [numbers(100, 200), numbers(None, 100), numbers(300, 2**63)]

    settled = settled_windows(published, scale=CursorScale.COUNT, overlap=10)
    timeline = Timeline(settled, compared=settled)
    found = timeline.windows_of(pl.Series([-(2**63), 99, 100, 189, 190, 250, 300, 2**63 - 11, 2**63 - 10]))

    assert [(window.stretch.low, window.stretch.high) for window in settled] == [
        (None, 100),
        (100, 190),
        (300, 2**63 - 10),
    ]
    assert [window.is_whole for window in settled] == [True, False, False]
    assert found.to_list() == [0, 0, 1, 1, OPEN, OPEN, 2, 2, OPEN]


def test_the_largest_number_that_there_is_lies_in_its_window():
    settled = settled_windows([numbers(5, 2**63)], scale=CursorScale.COUNT, overlap=0)

    assert Timeline(settled, compared=settled).windows_of(pl.Series([2**63 - 1])).to_list() == [0]


def test_a_batch_without_numbers_is_no_window_of_a_cursor_that_counts():
    assert settled_windows([batch(None, 1)], scale=CursorScale.COUNT, overlap=0) == []


def test_days_are_told_apart_by_days():
    published = [batch(None, 24), batch(24, 72)]

    settled = settled_windows(published, scale=CursorScale.DAY, overlap=1)
    timeline = Timeline(settled, compared=settled)
    days = pl.Series([DAWN.date() + timedelta(days=day) for day in range(-1, 3)])

    assert timeline.windows_of(days.to_physical().cast(pl.Int64)).to_list() == [0, 0, 1, OPEN]


def test_what_is_newer_than_numbers_has_no_upper_bound():
    bounds = Bounds(extent=Extent("id", "5", "9"))

    assert bounds.newer(until=DAWN) == Bounds(extent=Extent("id", "9", None))
    assert Bounds(window=Window(None, DAWN)).newer(until=hour(1)) == Bounds(window=Window(DAWN, hour(1)))
