"""How far tables have come, and by when they are expected to."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Expectation:
    """By when the rows of a table are expected, as its source file says."""

    source: str
    table: str
    #: How often a window of the table ends.
    every: timedelta
    #: A window's rows are expected in the warehouse by so long after its end.
    expected_by: timedelta
    #: When the table was first expected: before that it cannot be late.
    since: datetime

    def reached(self, published_until: datetime | None) -> datetime:
        """Return up to where nothing is missing: what was before the table was expected is not missed."""
        return self.since if published_until is None else max(published_until, self.since)

    def is_late(self, published_until: datetime | None, *, now: datetime) -> bool:
        """Return whether rows are missing that should be there: `published_until` is where they end."""
        return now - self.reached(published_until) > self.every + self.expected_by


@dataclass(frozen=True, slots=True)
class TableProgress:
    """How far a table has come."""

    source: str
    table: str
    #: Windows are planned up to here.
    planned_until: datetime
    #: Every window up to here is published, superseded or discarded; None before the first is.
    published_until: datetime | None


@dataclass(frozen=True, slots=True)
class CursorCount:
    """
    How far a counting cursor was planned and seen.

    Numbers tell no time, so what is seen of one is noted with the moment: once that lies back by the lag, every row
    with a number below it has been committed.
    """

    #: Whose numbers they are: those of another column tell nothing of these.
    column: str
    #: Rows with numbers below it are planned; None before the first window.
    planned_below: int | None
    #: At this moment of the source's clock every number was below `seen_below`.
    seen_at: datetime
    seen_below: int | None
