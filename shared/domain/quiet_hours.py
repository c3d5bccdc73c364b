"""Hours in which no extract of a source begins, by the clock on the wall where the source is."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_SPELLING = re.compile(r"(?P<opens>[0-9]{2}:[0-9]{2})-(?P<closes>[0-9]{2}:[0-9]{2}) (?P<zone>\S+)")
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """
    A stretch of each day, half-open, in the time of a zone. If it closes before it opens, it closes the next day.

    On the days on which clocks are set the source is left alone for longer, not for less: where a time comes twice,
    or not at all, the earliest reading of the opening counts and the latest of the closing.
    """

    opens: time
    closes: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> "QuietHours":
        """
        Read them as source files spell them.

        >>> str(QuietHours.parse("22:00-06:00 Europe/Rome"))
        '22:00-06:00 Europe/Rome'

        Raises:
            ValueError: if they are spelled otherwise, have no length, or no such zone is known; the message begins
                with what was expected.
        """
        match = _SPELLING.fullmatch(text)
        if match is None:
            raise ValueError("expected two times and a zone, such as 22:00-06:00 Europe/Rome")
        try:
            opens, closes = time.fromisoformat(match["opens"]), time.fromisoformat(match["closes"])
        except ValueError:
            raise ValueError("expected times from 00:00 to 23:59") from None
        if opens == closes:
            raise ValueError("expected two different times")
        try:
            return cls(opens, closes, ZoneInfo(match["zone"]))
        except (ValueError, OSError, LookupError):
            raise ValueError(
                "expected a time zone of the IANA database, such as Europe/Rome or UTC"
            ) from None

    def __str__(self) -> str:
        return f"{self.opens:%H:%M}-{self.closes:%H:%M} {self.zone.key}"

    def periods(self, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Return the periods in UTC that reach into `[start, end]`, by when they open."""
        day = start.astimezone(self.zone).date() - _ONE_DAY
        last = end.astimezone(self.zone).date() + _ONE_DAY
        while day <= last:
            opens = min(self._readings(day, self.opens))
            closing_day = day if self.opens < self.closes else day + _ONE_DAY
            closes = max(self._readings(closing_day, self.closes))
            if opens <= end and closes > start:
                yield opens, closes
            day += _ONE_DAY

    def _readings(self, day: date, wall_clock: time) -> list[datetime]:
        """Return both moments that a time on the wall can mean; on most days they are one."""
        return [
            datetime.combine(day, wall_clock, self.zone).replace(fold=fold).astimezone(UTC) for fold in (0, 1)
        ]


def quiet_until(hours: Sequence[QuietHours], moment: datetime) -> datetime | None:
    """Return when the quiet period ends that a moment lies in; None if it lies in none."""
    for opens, closes in _united(hours, moment, moment + 2 * _ONE_DAY):
        if opens <= moment < closes:
            return closes
    return None


def quiet_time(hours: Sequence[QuietHours], start: datetime, end: datetime) -> timedelta:
    """Return how much of `[start, end)` was quiet."""
    return sum(
        (min(closes, end) - max(opens, start) for opens, closes in _united(hours, start, end)), timedelta(0)
    )


def leaves_time(hours: Sequence[QuietHours]) -> bool:
    """Return whether any time of the day is left, in winter and in summer."""
    return all(
        quiet_time(hours, noon, noon + 2 * _ONE_DAY) < 2 * _ONE_DAY
        for noon in (datetime(2026, 1, 15, 12, tzinfo=UTC), datetime(2026, 7, 15, 12, tzinfo=UTC))
    )


def _united(hours: Sequence[QuietHours], start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Return the quiet periods that reach into `[start, end]`, those that meet as one."""
    united: list[tuple[datetime, datetime]] = []
    for opens, closes in sorted(period for rule in hours for period in rule.periods(start, end)):
        if united and opens <= united[-1][1]:
            united[-1] = united[-1][0], max(closes, united[-1][1])
        else:
            united.append((opens, closes))
    return united
