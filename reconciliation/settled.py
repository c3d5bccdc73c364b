"""
Which windows can be compared, and which of them a row belongs to.

A window is *settled* once nothing more comes to it: it is published, and so is what follows. The next window reads
its last rows again, as many as the overlap says, so before one that is not published this much is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from shared.domain.batches import Batch

#: The window of a row whose moment lies in a settled window that is not compared now.
ELSEWHERE = -1
#: The window of a row whose moment lies in no settled window: a batch that brings it is on its way, held, or to come.
OPEN = -2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEGINNING = -(2**63)


@dataclass(frozen=True, slots=True)
class SettledWindow:
    """A published batch, and up to where its window is settled."""

    batch: Batch
    until: datetime

    @property
    def start(self) -> datetime | None:
        """Where the window begins; None for one that reads from the beginning."""
        return self.batch.window.start


def settled_windows(published: Sequence[Batch], *, overlap: timedelta) -> list[SettledWindow]:
    """Return the settled part of each window that has one, oldest first."""
    settled = []
    next_start: datetime | None = None
    open_from: datetime | None = None
    for batch in sorted(published, key=lambda batch: batch.window.end, reverse=True):
        if open_from is None or batch.window.end != next_start:
            open_from = batch.window.end
        next_start = batch.window.start
        until = min(batch.window.end, open_from - overlap)
        if next_start is None or until > next_start:
            settled.append(SettledWindow(batch, until))
    return settled[::-1]


class Timeline:
    """The settled windows of a table, those to be compared numbered from 0."""

    def __init__(self, settled: Sequence[SettledWindow], *, compared: Sequence[SettledWindow]) -> None:
        number = {window.batch.id: index for index, window in enumerate(compared)}
        self._starts = pl.Series([microseconds(window.start) for window in settled], dtype=pl.Int64)
        self._untils = pl.Series([microseconds(window.until) for window in settled], dtype=pl.Int64)
        self._numbers = pl.Series(
            [number.get(window.batch.id, ELSEWHERE) for window in settled], dtype=pl.Int32
        )

    def windows_of(self, moments: pl.Series) -> pl.Series:
        """Return the number of the window of each moment, given in microseconds; `ELSEWHERE` or `OPEN` if it has none."""
        if self._starts.is_empty():
            return pl.repeat(OPEN, moments.len(), dtype=pl.Int32, eager=True)
        position = self._starts.search_sorted(moments, side="right").cast(pl.Int64) - 1
        known = position.clip(lower_bound=0)
        frame = pl.DataFrame(
            {
                "number": self._numbers.gather(known),
                "is_settled": (position >= 0) & (moments < self._untils.gather(known)),
            }
        )
        return frame.select(
            pl.when(pl.col("is_settled")).then(pl.col("number")).otherwise(pl.lit(OPEN, dtype=pl.Int32))
        ).to_series()


def microseconds(moment: datetime | None) -> int:
    """
    Return a moment as a cursor column holds it: microseconds since 1970; for None, less than any.

    >>> microseconds(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000
    """
    return _BEGINNING if moment is None else (moment - _EPOCH) // timedelta(microseconds=1)
