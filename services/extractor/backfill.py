"""What a backfill would read: a span of a table, cut into parts, and how many rows they have now."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from services.extractor.readers import SourceReader
from services.extractor.scouting import parts_of
from shared.bulk import require_backfillable
from shared.domain.contracts import CursorScale, TableContract
from shared.domain.windows import (
    INITIAL_SLOT,
    MICROSECOND,
    ONE_DAY,
    PlannedWindow,
    Window,
    counted_windows,
    floor_to,
    slot_of,
    tiles,
)
from shared.errors import ConfigurationError

#: A backfill has no more parts: each is a row of the ledger, a message and some objects.
MAX_PARTS = 10_000
#: Parts of a given length are counted one by one, so many of them.
MAX_COUNTED_PARTS = 500


@dataclass(frozen=True, slots=True)
class BackfillPart:
    """A part of a backfill. `row_count` is None if it was not counted."""

    planned: PlannedWindow
    row_count: int | None


def backfill_parts(
    contract: TableContract,
    reader: SourceReader,
    *,
    start: datetime | int | None,
    end: datetime | int,
    chunk: timedelta | int | None,
    watermark: datetime,
) -> list[BackfillPart]:
    """
    Cut the span `[start, end)` into parts: of a length, or of about so many rows each, or as the schedule says.

    A `start` of None is the beginning. `watermark`: up to where the table is planned.

    Raises:
        ConfigurationError: if the span is empty or does not fit the cursor, or there are too many parts.
        Refused: if the table is not as the contract has it.
        Unavailable: if the source does not answer, or cannot count in time.
    """
    require_backfillable(contract)
    if contract.cursor_scale is CursorScale.COUNT:
        parts = _counted_parts(contract, reader, start=start, end=end, chunk=chunk, watermark=watermark)
    else:
        parts = _timed_parts(contract, reader, start=start, end=end, chunk=chunk)
    if len(parts) > MAX_PARTS:
        raise ConfigurationError(
            f"a backfill of {contract.source}.{contract.table} should have at most {MAX_PARTS} parts; "
            "choose a larger --chunk or a shorter span"
        )
    return parts


def _timed_parts(
    contract: TableContract,
    reader: SourceReader,
    *,
    start: datetime | int | None,
    end: datetime | int,
    chunk: timedelta | int | None,
) -> list[BackfillPart]:
    if isinstance(start, int) or isinstance(end, int):
        raise ConfigurationError(
            f"a backfill of {contract.source}.{contract.table} goes from a moment to a moment, found a number"
        )
    if contract.cursor_scale is CursorScale.DAY:
        # Rows of a day cannot be told apart: all of it is read.
        start = None if start is None else floor_to(start, ONE_DAY)
        end = floor_to(end + ONE_DAY - MICROSECOND, ONE_DAY)
    if start is not None and start >= end:
        raise ConfigurationError(f"expected --from before --to, found {slot_of(start)} and {slot_of(end)}")
    whole = Window(start, end)
    if not isinstance(chunk, timedelta):
        parts = parts_of(reader, contract, whole, rows_per_part=chunk or contract.schedule.rows_per_part)
        return [BackfillPart(_planned(part.window), part.row_count) for part in parts]
    first = start
    if first is None:
        bounds = reader.cursor_bounds(whole)
        if bounds is None or isinstance(bounds.low, int):
            return [BackfillPart(_planned(whole), 0)]
        first = floor_to(bounds.low, chunk)
    planned = [tile.window for tile in islice(tiles(first, end, chunk), MAX_PARTS + 1)]
    planned[0] = Window(start, planned[0].end)
    is_countable = len(planned) <= MAX_COUNTED_PARTS
    return [
        BackfillPart(_planned(window), reader.count_rows(window) if is_countable else None)
        for window in planned
    ]


def _counted_parts(
    contract: TableContract,
    reader: SourceReader,
    *,
    start: datetime | int | None,
    end: datetime | int,
    chunk: timedelta | int | None,
    watermark: datetime,
) -> list[BackfillPart]:
    if isinstance(start, datetime) or isinstance(end, datetime) or isinstance(chunk, timedelta):
        raise ConfigurationError(
            f"a backfill of {contract.source}.{contract.table} goes from a number to a number, as its cursor counts; "
            "found a moment or a duration"
        )
    bounds = reader.cursor_bounds()
    lowest = bounds.low if bounds and isinstance(bounds.low, int) else end
    windows = counted_windows(
        contract.cursor.column if contract.cursor else "",
        Window(None, watermark),
        first=lowest,
        low=start,
        high=end,
        rows_per_part=chunk or contract.schedule.rows_per_part,
    )
    if not windows:
        raise ConfigurationError(f"expected --from below --to, found {start} and {end}")
    return [BackfillPart(window, reader.count_rows(extent=window.extent)) for window in windows]


def _planned(window: Window) -> PlannedWindow:
    return PlannedWindow(INITIAL_SLOT if window.start is None else slot_of(window.start), window)
