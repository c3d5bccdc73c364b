"""Times as people type them: `2026-11-22`, `2026-11-22T14:30Z`, or spans such as `36h` or `30s`."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import typer

_AGE = re.compile(r"(?P<number>[0-9]{1,5})(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time, or, without `at`, how long before now it lies."""

    at: datetime | None = None
    age: timedelta = timedelta(0)

    def seen_from(self, now: datetime) -> datetime:
        """Return the point in time, aware and in UTC."""
        return self.at or now - self.age


def read_moment(text: str) -> Moment:
    """
    Read a moment; without a zone it is UTC.

    >>> read_moment("36h").age, read_moment("2026-11-22T14:30+01:00").at
    (datetime.timedelta(days=1, seconds=43200), datetime.datetime(2026, 11, 22, 13, 30, tzinfo=datetime.timezone.utc))

    Raises:
        BadParameter: if it is none.
    """
    if match := _AGE.fullmatch(text):
        return Moment(age=timedelta(**{_UNITS[match["unit"]]: int(match["number"])}))
    try:
        moment = datetime.fromisoformat(text)
        return Moment(at=moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC))
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"expected a moment such as 2026-11-22 or 2026-11-22T14:30Z, or an age such as 36h, found {text!r}"
        ) from None


def read_day(text: str) -> datetime:
    """
    Read a day and return its start in UTC.

    >>> read_day("2026-11-22")
    datetime.datetime(2026, 11, 22, 0, 0, tzinfo=datetime.timezone.utc)

    Raises:
        BadParameter: if it is none.
    """
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise typer.BadParameter(f"expected a day such as 2026-11-22, found {text!r}") from None


def read_pause(text: str) -> timedelta:
    """
    Read how long something waits.

    >>> read_pause("30s"), read_pause("5m")
    (datetime.timedelta(seconds=30), datetime.timedelta(seconds=300))

    Raises:
        BadParameter: if it is no span of at least a second.
    """
    match = _AGE.fullmatch(text)
    pause = timedelta(**{_UNITS[match["unit"]]: int(match["number"])}) if match else timedelta(0)
    if pause < timedelta(seconds=1):
        raise typer.BadParameter(f"expected a span of a second or more, such as 30s or 5m, found {text!r}")
    return pause
