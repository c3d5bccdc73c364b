"""What protects a source from the fleet, and the fleet from a source."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from shared.domain.retries import RetryPolicy

DEFAULT_MAX_CONCURRENT_EXTRACTS = 4

#: So many extract attempts in a row that failed or died open the breaker.
FAILURES_THAT_OPEN = 3
#: It is open no longer, so that a source that is back is soon noticed.
LONGEST_OPEN = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class SourceGuard:
    """
    How many extract attempts of one source may run at once in the whole fleet, and its circuit breaker.

    A source that hangs holds no more workers than that, one that fails ever fewer: while its breaker is open
    nothing of it is claimed, and what is claimed then is one attempt at a time, until one succeeds.
    """

    source: str
    max_concurrent_extracts: int = DEFAULT_MAX_CONCURRENT_EXTRACTS
    failures_in_a_row: int = 0
    #: Nothing of the source is claimed before; None while it answers.
    open_until: datetime | None = None

    def free_places(self, *, running: int, now: datetime) -> int:
        """Return how many more extract attempts may begin, while so many run."""
        if self.open_until is not None and now < self.open_until:
            return 0
        allowed = self.max_concurrent_extracts if self.failures_in_a_row < FAILURES_THAT_OPEN else 1
        return max(allowed - running, 0)

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
