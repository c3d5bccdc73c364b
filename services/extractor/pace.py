"""
Reads a source no faster and no longer than its limits allow.

The source is made to wait by not reading on: nothing is gathered here meanwhile. Between two chunks it may run as far
ahead as the buffers of the network reach.
"""

import time
from collections.abc import Callable, Generator, Iterator

from services.extractor.readers import Chunk, ReadLimits
from shared.domain.reasons import Reason
from shared.domain.sources import SourceLimits
from shared.errors import Refused, SourceUnavailable

#: The steps in which a slowed source is read: small, so that it is asked for a little time and again.
PACED_CHUNK_SIZE_IN_BYTES = 64 * 1024


def read_limits_of(limits: SourceLimits) -> ReadLimits:
    """Return what a reader is given: no statement of it outlasts the deadline."""
    timeout_seconds = int(limits.deadline.total_seconds())
    if limits.rows_per_second is None:
        return ReadLimits(read_timeout_seconds=timeout_seconds)
    return ReadLimits(read_timeout_seconds=timeout_seconds, chunk_size_in_bytes=PACED_CHUNK_SIZE_IN_BYTES)


class Pace:
    """The time that the reading of one batch may take, from when this is made, and how it is spread."""

    def __init__(
        self,
        limits: SourceLimits,
        *,
        place: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limits = limits
        self._place = place
        self._clock = clock
        self._sleep = sleep
        self._deadline_seconds = limits.deadline.total_seconds()
        self._began_at = clock()

    def keep(self, chunks: Iterator[Chunk]) -> Generator[Chunk, None, None]:
        """
        Hand chunks on, each followed by the pause that its rows cost.

        Raises:
            Refused: if there are more rows than can be read in time at this pace: the next attempt would find as many.
            SourceUnavailable: if the deadline is over.
        """
        read_from = self._clock()
        row_count = 0
        for chunk in chunks:
            row_count += chunk.record_count
            self._require_time_left(row_count)
            yield chunk
            self._pause_until(read_from, row_count)

    def _require_time_left(self, row_count: int) -> None:
        most = self._limits.max_rows_of_a_batch
        if most is not None and row_count > most:
            raise Refused(
                Reason.SOURCE_LIMIT_EXCEEDED,
                f"{self._place}: expected at most {most} rows, all that a batch can read within its deadline of "
                f"{self._deadline_seconds:g} s at {self._limits.rows_per_second_of_a_batch:g} rows per second, found "
                "more; raise limits.rows_per_second or limits.deadline, or shorten the windows",
            )
        if self._clock() - self._began_at > self._deadline_seconds:
            raise SourceUnavailable(
                f"{self._place}: reading took longer than its deadline of {self._deadline_seconds:g} s; "
                f"{row_count} rows were read until then"
            )

    def _pause_until(self, read_from: float, row_count: int) -> None:
        share = self._limits.rows_per_second_of_a_batch
        if share is None:
            return
        pause = read_from + row_count / share - self._clock()
        if pause > 0:
            self._sleep(pause)
