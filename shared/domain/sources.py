"""What protects a source from the fleet, and the fleet from a source."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from shared.domain.quiet_hours import QuietHours, quiet_until
from shared.domain.retries import RetryPolicy

DEFAULT_MAX_CONCURRENT_EXTRACTS = 4
#: Below the soft time limit of a worker, so that the error has a name.
DEFAULT_DEADLINE = timedelta(minutes=10)

#: What the reading of a batch takes: its own connection, and for a moment at its end another one, which looks at the schema.
CONNECTIONS_OF_AN_EXTRACT = 2
#: What everybody else together leaves to batches, and batches to everybody else: none holds the other up for good.
CONNECTIONS_LEFT_TO_BATCHES = CONNECTIONS_OF_AN_EXTRACT
CONNECTIONS_LEFT_TO_VISITS = 2

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
    #: So many connections are open to it at once, whoever opens them; None: nobody counts.
    max_connections: int | None = None

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
class Visit:
    """Somebody at a source who is no batch: enqueue, check, discover, prove, recount, backfill."""

    id: str
    #: Told to those who wait.
    who: str
    connection_count: int
    #: Renewed while the visitor lives; then it no longer counts.
    lease_until: datetime


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
    visits: tuple[Visit, ...] = ()

    def free_places(self, *, running: int, now: datetime) -> int:
        """Return how many more extract attempts may begin, while so many run."""
        if self.closed_until(now) is not None:
            return 0
        places = self.limits.max_concurrent_extracts
        if self.limits.max_connections is not None:
            others = max(self._visiting(now), CONNECTIONS_LEFT_TO_VISITS)
            places = min(places, (self.limits.max_connections - others) // CONNECTIONS_OF_AN_EXTRACT)
        allowed = places if self.failures_in_a_row < FAILURES_THAT_OPEN else 1
        return max(allowed - running, 0)

    def free_connections(self, *, running: int, now: datetime) -> int | None:
        """Return how many connections a visit may have, while so many extract attempts run; None: any number."""
        if self.limits.max_connections is None:
            return None
        visiting = self._visiting(now)
        taken = visiting + max(running * CONNECTIONS_OF_AN_EXTRACT, CONNECTIONS_LEFT_TO_BATCHES)
        return max(self.limits.max_connections - taken, 0)

    def after_arrival(self, visit: Visit, now: datetime) -> "SourceGuard":
        """Return the guard while somebody visits, or goes on visiting; without those who gave no sign of life."""
        others = tuple(other for other in self.visits if other.id != visit.id and other.lease_until > now)
        return replace(self, visits=(*others, visit))

    def after_leaving(self, visit_id: str) -> "SourceGuard":
        """Return the guard after a visit."""
        return replace(self, visits=tuple(visit for visit in self.visits if visit.id != visit_id))

    def present(self, now: datetime) -> tuple[Visit, ...]:
        """Return the visits that count."""
        return tuple(visit for visit in self.visits if visit.lease_until > now)

    def _visiting(self, now: datetime) -> int:
        return sum(visit.connection_count for visit in self.present(now))

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
