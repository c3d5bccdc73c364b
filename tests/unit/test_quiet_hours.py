"""Quiet hours: the clock on the wall where the source is, on every day of the year."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.quiet_hours import QuietHours, leaves_time, quiet_time, quiet_until
from shared.domain.retries import RetryPolicy
from shared.domain.sources import SourceGuard, SourceLimits

ROME = ZoneInfo("Europe/Rome")
NIGHT = QuietHours.parse("22:00-06:00 Europe/Rome")
HOUR = timedelta(hours=1)


def in_rome(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ROME).astimezone(UTC)


# ---- which moments are quiet ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "until"),
    [
        ("2026-11-22 21:59:59", None),
        ("2026-11-22 22:00", "2026-11-23 06:00"),
        ("2026-11-23 00:00", "2026-11-23 06:00"),
        ("2026-11-23 05:59:59", "2026-11-23 06:00"),
        ("2026-11-23 06:00", None),
        # An hour comes twice, and an hour is left out.
        ("2026-10-24 23:00", "2026-10-25 06:00"),
        ("2026-03-28 23:00", "2026-03-29 06:00"),
    ],
)
def test_a_night_is_quiet_by_the_clock_on_the_wall(moment: str, until: str | None) -> None:
    found = quiet_until([NIGHT], in_rome(moment))

    assert found == (in_rome(until) if until else None)


def test_hours_within_a_day_leave_the_night_alone() -> None:
    business = QuietHours.parse("09:00-17:30 America/New_York")

    noon = quiet_until([business], datetime(2026, 7, 1, 16, tzinfo=UTC))
    midnight = quiet_until([business], datetime(2026, 7, 1, 4, tzinfo=UTC))

    assert (noon, midnight) == (datetime(2026, 7, 1, 21, 30, tzinfo=UTC), None)


def test_an_hour_that_comes_twice_is_quiet_twice() -> None:
    hours = [QuietHours.parse("02:00-02:30 Europe/Rome")]  # clocks go back from 03:00 to 02:00

    first = quiet_until(hours, datetime(2026, 10, 25, 0, 15, tzinfo=UTC))
    second = quiet_until(hours, datetime(2026, 10, 25, 1, 15, tzinfo=UTC))

    assert (first, second) == (datetime(2026, 10, 25, 1, 30, tzinfo=UTC),) * 2


def test_an_hour_that_is_left_out_does_not_make_the_quiet_shorter() -> None:
    hours = [QuietHours.parse("02:15-04:00 Europe/Rome")]  # clocks go forward from 02:00 to 03:00

    assert quiet_until(hours, datetime(2026, 3, 29, 1, 30, tzinfo=UTC)) == in_rome("2026-03-29 04:00")
    assert quiet_until(hours, in_rome("2026-03-29 04:00")) is None


def test_hours_that_meet_are_one() -> None:
    hours = [QuietHours.parse("22:00-02:00 UTC"), QuietHours.parse("02:00-04:00 UTC")]

    found = quiet_until(hours, datetime(2026, 7, 1, 23, tzinfo=UTC))

    assert found == datetime(2026, 7, 2, 4, tzinfo=UTC)


def wall_clock(minutes: int) -> time:
    return time(minutes // 60 % 24, minutes % 60)


@given(
    opens=st.integers(0, 24 * 60 - 1),
    length=st.integers(1, 24 * 60 - 1),
    zone=st.sampled_from(["UTC", "Europe/Rome", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia"]),
    minute=st.integers(0, 10 * 366 * 24 * 60),
)
def test_where_clocks_are_not_set_a_moment_is_quiet_if_its_wall_clock_says_so(
    opens: int, length: int, zone: str, minute: int
) -> None:
    hours = QuietHours(wall_clock(opens), wall_clock(opens + length), ZoneInfo(zone))
    moment = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    wall = moment.astimezone(hours.zone)

    found = quiet_until([hours], moment)

    into_them = (wall.hour * 60 + wall.minute - opens) % (24 * 60)
    is_quiet = into_them < length
    offsets = {(moment + day * timedelta(days=1)).astimezone(hours.zone).utcoffset() for day in (-1, 0, 1)}
    # On the days on which they are set, more is quiet, never less.
    assert (found is not None) == is_quiet or (found is not None and len(offsets) > 1)


# ---- how much of a span is quiet -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "quiet"),
    [
        ("2026-11-22 12:00", "2026-11-23 12:00", 8 * HOUR),
        ("2026-11-22 23:00", "2026-11-23 01:00", 2 * HOUR),
        ("2026-11-22 12:00", "2026-11-22 13:00", 0 * HOUR),
        ("2026-10-24 12:00", "2026-10-25 12:00", 9 * HOUR),
        ("2026-03-28 12:00", "2026-03-29 12:00", 7 * HOUR),
        ("2026-11-01 12:00", "2026-11-30 12:00", 29 * 8 * HOUR),
    ],
)
def test_the_quiet_part_of_a_span_is_counted_once(start: str, end: str, quiet: timedelta) -> None:
    doubled = [NIGHT, QuietHours.parse("23:00-01:00 Europe/Rome")]

    assert quiet_time(doubled, in_rome(start), in_rome(end)) == quiet


def test_hours_that_cover_the_day_leave_no_time() -> None:
    assert leaves_time([])
    assert leaves_time([NIGHT])
    assert not leaves_time([NIGHT, QuietHours.parse("06:00-22:00 Europe/Rome")])
    # Another zone: in summer an hour is left, in winter there is none.
    assert not leaves_time([NIGHT, QuietHours.parse("05:00-21:00 UTC")])


# ---- spelling ------------------------------------------------------------------------------------------------


def test_they_are_read_as_they_are_written() -> None:
    for text in ("22:00-06:00 Europe/Rome", "00:00-00:01 UTC", "09:00-17:30 America/New_York"):
        assert str(QuietHours.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "two times and a zone"),
        ("22-6 UTC", "two times and a zone"),
        ("22:00-06:00", "two times and a zone"),
        ("22:00-24:00 UTC", "times from 00:00 to 23:59"),
        ("22:00-22:00 UTC", "two different times"),
        ("22:00-06:00 Europe/Roma", "a time zone of the IANA database"),
        ("22:00-06:00 ../../etc/passwd", "a time zone of the IANA database"),
    ],
)
def test_what_is_spelled_otherwise_is_refused_by_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=f"expected {expected}"):
        QuietHours.parse(text)


# ---- the guard -----------------------------------------------------------------------------------------------


def test_in_quiet_hours_no_place_is_free_and_afterwards_all_are() -> None:
    guard = SourceGuard("shop", SourceLimits(3, quiet_hours=(NIGHT,)))

    places = [guard.free_places(running=1, now=in_rome(f"2026-11-22 {hour}:00")) for hour in (21, 22, 23)]

    assert places == [2, 0, 0]
    assert guard.free_places(running=1, now=in_rome("2026-11-23 06:00")) == 2


def test_what_ends_later_holds_the_source_closed_breaker_or_quiet_hours() -> None:
    ten, six = in_rome("2026-11-22 22:00"), in_rome("2026-11-23 06:00")
    guard = SourceGuard("shop", SourceLimits(quiet_hours=(NIGHT,)), failures_in_a_row=2)
    failing = guard.after_failure(six - HOUR / 60, retry=RetryPolicy(12))

    assert guard.closed_until(ten - HOUR) is None
    assert guard.closed_until(ten) == six
    assert failing.open_until is not None
    assert failing.closed_until(six - HOUR / 60) == max(six, failing.open_until)
    assert failing.closed_until(ten) == max(six, failing.open_until)


def test_each_batch_has_an_equal_share_of_the_rows() -> None:
    limits = SourceLimits(4, rows_per_second=1_000, deadline=timedelta(minutes=1))

    assert (limits.rows_per_second_of_a_batch, limits.max_rows_of_a_batch) == (250.0, 15_000)
    assert SourceLimits(4).rows_per_second_of_a_batch is None
    assert SourceLimits(4).max_rows_of_a_batch is None
