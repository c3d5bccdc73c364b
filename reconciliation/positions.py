"""
Where a row lies among all rows of its table: the value of its cursor as a whole number.

Of moments microseconds since 1970, of dates days since 1970, of a cursor that counts the number itself: just as Polars
holds them. Windows, spans of days and spans of numbers are then told apart by one kind of comparison.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from shared.domain.batches import Batch
from shared.domain.contracts import CursorScale, TableContract
from shared.domain.windows import MICROSECOND, ONE_DAY, Extent, Window

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_UNITS = {CursorScale.MOMENT: MICROSECOND, CursorScale.DAY: ONE_DAY}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Half-open `[low, high)` of positions. `low` None reaches back to the beginning."""

    low: int | None
    high: int

    def meets(self, other: "Stretch") -> bool:
        """Whether both have a position in common."""
        return (self.low is None or self.low < other.high) and (other.low is None or other.low < self.high)


def stretch_of(batch: Batch, scale: CursorScale) -> Stretch | None:
    """Return what a batch reads, without its overlap; None if its bounds are not of that scale."""
    window, extent = batch.window, batch.extent
    if scale is not CursorScale.COUNT:
        low = None if window.start is None else position_of(window.start, scale)
        return Stretch(low, position_of(window.end, scale))
    if extent is None or extent.high is None:
        return None
    return Stretch(None if extent.low is None else int(extent.low), int(extent.high))


def overlap_of(contract: TableContract) -> int:
    """Return from how many positions before its start a batch is read."""
    cursor, scale = contract.cursor, contract.cursor_scale
    if cursor is None or scale is None:
        return 0
    # Of dates the day on which the overlap begins is read whole.
    return cursor.overlap_count if scale is CursorScale.COUNT else -(-cursor.overlap // _UNITS[scale])


def position_of(moment: datetime, scale: CursorScale) -> int:
    """
    Return where a moment lies; of days, that of its day.

    >>> moment = datetime(1970, 1, 2, tzinfo=UTC)
    >>> position_of(moment, CursorScale.MOMENT), position_of(moment, CursorScale.DAY)
    (86400000000, 1)
    """
    return (moment - _EPOCH) // _UNITS[scale]


def value_at(position: int, scale: CursorScale) -> datetime | int:
    """
    Return the moment in UTC that lies at a position, or the number.

    >>> value_at(1, CursorScale.DAY).isoformat(), value_at(7, CursorScale.COUNT)
    ('1970-01-02T00:00:00+00:00', 7)
    """
    return position if scale is CursorScale.COUNT else _EPOCH + position * _UNITS[scale]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Which rows are read: those of a window, or those of an extent of a cursor that counts."""

    window: Window | None = None
    extent: Extent | None = None

    @classmethod
    def of(cls, contract: TableContract, stretch: Stretch) -> "Bounds":
        """Return the bounds of a stretch of a table that has a cursor."""
        cursor, scale = contract.cursor, contract.cursor_scale
        if cursor is None or scale is None:
            raise ValueError(f"table {contract.source}.{contract.table} has no cursor, and no stretches")
        if scale is CursorScale.COUNT:
            low = None if stretch.low is None else str(stretch.low)
            return cls(extent=Extent(cursor.column, low, str(stretch.high)))
        start = None if stretch.low is None else _EPOCH + stretch.low * _UNITS[scale]
        return cls(window=Window(start, _EPOCH + stretch.high * _UNITS[scale]))

    def newer(self, *, until: datetime) -> "Bounds":
        """Return the bounds of all that comes behind; of moments, what is not behind `until`."""
        if self.extent is not None:
            return Bounds(extent=Extent(self.extent.column, self.extent.high, None))
        return Bounds(window=Window(self.window.end if self.window else None, until))
