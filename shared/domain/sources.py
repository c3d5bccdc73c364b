"""What protects a source from the fleet, and the fleet from a source."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from shared.domain.quiet_hours import QuietHours, quiet_until
from shared.domain.retries import RetryPolicy

DEFAULT_MAX_CONCURRENT_EXTRACTS = 4
#: Below the soft time limit of a worker, so that the error has a name.
DEFAULT_DEADLINE = timedelta(minutes=10)

#: So many extract attempts in a row that failed or died open the breaker.
FAILURES_THAT_OPEN = 3
#: It is open no longer, so that a source that is back is soon noticed.
LONGEST_OPEN = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """What the whole fleet may take of one source, as its file says. No part of a contract: it holds at once."""

    #: So many batches are read from it at once.
    max_concurrent_extracts: int = DEFAULT_MAX_CONCURRENT_EXTRACTS
    #: All of them together read no more than this; None for as fast as it goes.
    rows_per_second: int | None = None
    #: The reading of one batch takes no longer, whatever else is allowed.
    deadline: timedelta = DEFAULT_DEADLINE
    #: No batch begins in these.
    quiet_hours: tuple[QuietHours, ...] = ()

    @property
    def rows_per_second_of_a_batch(self) -> float | None:
        """
        The share of one batch, which is the same however few are read: no two have to agree on anything.

        >>> SourceLimits(max_concurrent_extracts=4, rows_per_second=1_000).rows_per_second_of_a_batch
        250.0
        """
        return self.rows_per_second / self.max_concurrent_extracts if self.rows_per_second else None

    @property
    def max_rows_of_a_batch(self) -> int | None:
        """How many rows a batch can have and be read by its deadline; None if nothing slows it down."""
        share = self.rows_per_second_of_a_batch
        return None if share is None else int(share * self.deadline.total_seconds())


@dataclass(frozen=True, slots=True)
class SourceGuard:
    """
    What the fleet may take of one source, and its circuit breaker.

    A source that hangs holds no more workers than it has places, one that fails ever fewer: while its breaker is
    open nothing of it is claimed, and what is claimed then is one attempt at a time, until one succeeds. In its
    quiet hours nothing is claimed either.
    """

    source: str
    limits: SourceLimits = field(default_factory=SourceLimits)
    failures_in_a_row: int = 0
    #: Nothing of the source is claimed before; None while it answers.
    open_until: datetime | None = None

    def free_places(self, *, running: int, now: datetime) -> int:
        """Return how many more extract attempts may begin, while so many run."""
        if self.closed_until(now) is not None:
            return 0
        places = self.limits.max_concurrent_extracts
        allowed = places if self.failures_in_a_row < FAILURES_THAT_OPEN else 1
        return max(allowed - running, 0)

    def closed_until(self, now: datetime) -> datetime | None:
        """Return when the breaker or the quiet hours end in which nothing is claimed; None if neither is the case."""
        is_open = self.open_until is not None and now < self.open_until
        quiet_end = quiet_until(self.limits.quiet_hours, now)
        ends = [end for end in (self.open_until if is_open else None, quiet_end) if end is not None]
        return max(ends, default=None)

    def after_failure(self, now: datetime, *, retry: RetryPolicy) -> "SourceGuard":
        """Return the guard after an attempt that failed or died."""
        failures = self.failures_in_a_row + 1
        if failures < FAILURES_THAT_OPEN:
            return replace(self, failures_in_a_row=failures)
        pause = min(retry.pause_after(failures), LONGEST_OPEN)
        return replace(self, failures_in_a_row=failures, open_until=now + pause)

    def after_success(self) -> "SourceGuard":
        """Return the guard after the source was read, or refused for what it holds: it answers."""
        return replace(self, failures_in_a_row=0, open_until=None)
