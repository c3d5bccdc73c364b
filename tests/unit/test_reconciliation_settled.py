"""Which windows can be compared, and to which of them a row belongs."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
from support.ledger_rows import a_batch

from reconciliation.history import Span
from reconciliation.settled import ELSEWHERE, OPEN, SettledWindow, Timeline, microseconds, settled_windows
from shared.domain.batches import Batch
from shared.domain.windows import Window

DAWN = datetime(2026, 1, 1, tzinfo=UTC)


def hour(number: float) -> datetime:
    return DAWN + timedelta(hours=number)


def batch(start: float | None, end: float) -> Batch:
    window = Window(None if start is None else hour(start), hour(end))
    return replace(a_batch(), id=f"b{end}", window=window)


def spans(settled: list[SettledWindow]) -> list[tuple[float | None, float]]:
    def hours(moment: datetime | None) -> float | None:
        return None if moment is None else (moment - DAWN) / timedelta(hours=1)

    return [(hours(window.start), hours(window.until)) for window in settled]  # type: ignore[misc]


def test_published_windows_that_follow_on_each_other_are_settled_but_for_the_last_overlap():
    published = [batch(2, 3), batch(None, 1), batch(1, 2)]

    settled = settled_windows(published, overlap=timedelta(minutes=15))

    assert spans(settled) == [(None, 1), (1, 2), (2, 2.75)]


def test_before_a_window_that_is_not_published_the_overlap_is_left_out_too():
    published = [batch(None, 1), batch(1, 2), batch(3, 4)]

    settled = settled_windows(published, overlap=timedelta(minutes=30))

    assert spans(settled) == [(None, 1), (1, 1.5), (3, 3.5)]


def test_windows_within_the_overlap_are_not_settled():
    published = [batch(None, 1), batch(1, 1.25), batch(1.25, 1.5)]

    settled = settled_windows(published, overlap=timedelta(minutes=30))

    assert spans(settled) == [(None, 1)]


def test_an_overlap_reaches_back_over_several_windows():
    published = [batch(None, 1), batch(1, 2), batch(2, 2.25)]

    settled = settled_windows(published, overlap=timedelta(minutes=30))

    assert spans(settled) == [(None, 1), (1, 1.75)]


def test_without_an_overlap_every_published_window_is_settled():
    published = [batch(None, 1), batch(3, 4)]

    assert spans(settled_windows(published, overlap=timedelta(0))) == [(None, 1), (3, 4)]


def windows_of(timeline: Timeline, *hours: float) -> list[int]:
    moments = pl.Series([microseconds(hour(number)) for number in hours], dtype=pl.Int64)
    return timeline.windows_of(moments).to_list()


def test_a_row_belongs_to_the_half_open_window_of_its_moment():
    settled = settled_windows([batch(0, 1), batch(1, 2), batch(3, 4)], overlap=timedelta(0))
    timeline = Timeline(settled, compared=settled[1:])

    assert windows_of(timeline, 0, 1, 1.999, 2, 3, 4, -1) == [ELSEWHERE, 0, 0, OPEN, 1, OPEN, OPEN]


def test_the_first_window_reaches_back_to_the_beginning():
    settled = settled_windows([batch(None, 1)], overlap=timedelta(0))

    assert windows_of(Timeline(settled, compared=settled), -24 * 365 * 1000, 0.5) == [0, 0]


def test_a_row_without_a_moment_and_a_table_without_settled_windows_are_open():
    settled = settled_windows([batch(0, 1)], overlap=timedelta(0))
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
