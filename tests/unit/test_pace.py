"""How fast, and for how long, a batch is read."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from support.extraction import column, make_assignment, make_contract

from services.extractor.pace import PACED_CHUNK_SIZE_IN_BYTES, Pace, read_limits_of
from services.extractor.readers import Chunk, ReadLimits
from shared.domain.reasons import Reason
from shared.domain.sources import SourceLimits
from shared.errors import Refused, SourceUnavailable

MINUTE = timedelta(minutes=1)


class StandingClock:
    """A clock that only moves when somebody sleeps, or the source takes its time."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


def chunks_of(*row_counts: int, clock: StandingClock, seconds_each: float = 0.0) -> Iterator[Chunk]:
    for count in row_counts:
        clock.now += seconds_each
        yield Chunk.of([b"x\n"] * count)


def a_pace(clock: StandingClock, limits: SourceLimits) -> Pace:
    return Pace(limits, place="source 'shop', table 'orders'", clock=clock, sleep=clock.sleep)


def test_each_chunk_is_followed_by_the_pause_that_its_rows_cost() -> None:
    clock = StandingClock()
    pace = a_pace(clock, SourceLimits(2, rows_per_second=200))

    handed_on = [
        (chunk.record_count, clock.now - 1_000) for chunk in pace.keep(chunks_of(50, 100, 1, clock=clock))
    ]

    assert handed_on == [(50, 0.0), (100, 0.5), (1, 1.5)]
    assert clock.now - 1_000 == pytest.approx(1.51), (
        "the last rows count as well: another batch may follow at once"
    )


def test_a_source_that_is_slower_than_its_pace_is_not_slowed_down() -> None:
    clock = StandingClock()
    pace = a_pace(clock, SourceLimits(1, rows_per_second=100))

    for _ in pace.keep(chunks_of(50, 50, 50, clock=clock, seconds_each=1.0)):
        pass

    assert clock.slept == []


def test_without_a_pace_nobody_waits() -> None:
    clock = StandingClock()

    for _ in a_pace(clock, SourceLimits()).keep(chunks_of(1_000_000, 1, clock=clock)):
        pass

    assert clock.slept == []


def test_an_endless_source_is_given_up_at_the_deadline_and_blamed() -> None:
    clock = StandingClock()
    pace = a_pace(clock, SourceLimits(deadline=MINUTE))

    with pytest.raises(SourceUnavailable, match="deadline of 60 s; 70 rows were read"):
        list(pace.keep(chunks_of(*[10] * 1_000, clock=clock, seconds_each=10.0)))

    assert clock.now - 1_000 == 70.0


def test_what_came_before_the_first_row_is_part_of_the_deadline() -> None:
    clock = StandingClock()
    pace = a_pace(clock, SourceLimits(deadline=MINUTE))
    clock.now += 61  # connecting, a lock, a slow plan

    with pytest.raises(SourceUnavailable):
        next(pace.keep(chunks_of(1, clock=clock)))


def test_more_rows_than_the_pace_lets_through_by_the_deadline_are_refused_before_anybody_waits_for_it() -> (
    None
):
    clock = StandingClock()
    pace = a_pace(clock, SourceLimits(2, rows_per_second=20, deadline=MINUTE))

    with pytest.raises(Refused, match="at most 600 rows") as refusal:
        list(pace.keep(chunks_of(300, 301, clock=clock)))

    assert refusal.value.reason is Reason.SOURCE_LIMIT_EXCEEDED
    assert clock.now - 1_000 == 30.0


def test_a_reader_is_bounded_by_the_deadline_and_reads_a_slowed_source_in_small_steps() -> None:
    fast = read_limits_of(SourceLimits(deadline=MINUTE))
    slow = read_limits_of(SourceLimits(rows_per_second=5))

    assert (fast.read_timeout_seconds, fast.chunk_size_in_bytes) == (60, ReadLimits().chunk_size_in_bytes)
    assert (slow.read_timeout_seconds, slow.chunk_size_in_bytes) == (600, PACED_CHUNK_SIZE_IN_BYTES)


def test_an_assignment_that_says_nothing_has_the_usual_limits() -> None:
    assert make_assignment(make_contract([column("id")])).source_limits == SourceLimits()
