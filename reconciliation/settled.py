"""
Which windows can be compared, and which of them a row belongs to.

A window is *settled* once nothing more comes to it: it is published, and so is what follows. The next window reads
its last rows again, as many as the overlap says, so before one that is not published this much is left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from reconciliation.positions import Stretch, stretch_of
from shared.domain.batches import Batch
from shared.domain.contracts import CursorScale

#: The window of a row that lies in a settled window that is not compared now.
ELSEWHERE = -1
#: The window of a row that lies in no settled window: a batch that brings it is on its way, held, or to come.
OPEN = -2

_FIRST_POSITION, _LAST_POSITION = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class SettledWindow:
    """A published batch, and the settled part of what it reads."""

    batch: Batch
    stretch: Stretch
    #: Whether all of it is settled.
    is_whole: bool


def settled_windows(published: Sequence[Batch], *, scale: CursorScale, overlap: int) -> list[SettledWindow]:
    """Return the settled part of each window that has one, oldest first. `overlap` is in positions."""
    settled = []
    next_low: int | None = None
    open_from: int | None = None
    found = [(stretch, batch) for batch in published if (stretch := stretch_of(batch, scale))]
    for stretch, batch in sorted(found, key=lambda item: item[0].high, reverse=True):
        if open_from is None or stretch.high != next_low:
            open_from = stretch.high
        next_low = stretch.low
        until = min(stretch.high, open_from - overlap)
        if next_low is None or until > next_low:
            settled.append(SettledWindow(batch, Stretch(next_low, until), is_whole=until == stretch.high))
    return settled[::-1]


class Timeline:
    """The settled windows of a table, those to be compared numbered from 0."""

    def __init__(self, settled: Sequence[SettledWindow], *, compared: Sequence[SettledWindow]) -> None:
        number = {window.batch.id: index for index, window in enumerate(compared)}
        self._firsts = _positions(
            _FIRST_POSITION if window.stretch.low is None else window.stretch.low for window in settled
        )
        self._lasts = _positions(window.stretch.high - 1 for window in settled)
        self._numbers = pl.Series(
            [number.get(window.batch.id, ELSEWHERE) for window in settled], dtype=pl.Int32
        )

    def windows_of(self, positions: pl.Series) -> pl.Series:
        """Return the number of the window of each position; `ELSEWHERE` or `OPEN` if it has none."""
        if self._firsts.is_empty():
            return pl.repeat(OPEN, positions.len(), dtype=pl.Int32, eager=True)
        place = self._firsts.search_sorted(positions, side="right").cast(pl.Int64) - 1
        known = place.clip(lower_bound=0)
        frame = pl.DataFrame(
            {
                "number": self._numbers.gather(known),
                "is_settled": (place >= 0) & (positions <= self._lasts.gather(known)),
            }
        )
        return frame.select(
            pl.when(pl.col("is_settled")).then(pl.col("number")).otherwise(pl.lit(OPEN, dtype=pl.Int32))
        ).to_series()


def _positions(found: Iterable[int]) -> pl.Series:
    # An overlap may reach below the smallest number that there is, and a window end behind the largest.
    inside = [min(max(position, _FIRST_POSITION), _LAST_POSITION) for position in found]
    return pl.Series(inside, dtype=pl.Int64)
