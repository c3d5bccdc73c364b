"""How often something that failed is tried again, and after what pause."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A stage of a batch is tried so often, each next time after a longer pause."""

    max_attempts: int
    first_pause: timedelta = timedelta(seconds=10)
    longest_pause: timedelta = timedelta(minutes=15)

    def pause_after(self, failures: int) -> timedelta:
        """
        Return the pause after a number of failures: doubled with each one, up to the longest.

        >>> RetryPolicy(12).pause_after(3)
        datetime.timedelta(seconds=40)
        """
        doublings = min(max(failures - 1, 0), 16)
        return min(self.first_pause * (1 << doublings), self.longest_pause)
