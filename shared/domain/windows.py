"""Windows on a table's cursor, and which of them are due."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: The slot of the first window of a table, which has no lower bound.
INITIAL_SLOT = "initial"

#: Sets the slots of snapshots apart. A window that begins where a snapshot ended is another batch: a table may be
#: given a cursor, and lose it again.
SNAPSHOT_SLOT_PREFIX = "snapshot "

#: Sets the slots of batches apart that read a published window again, for the rows that were rejected then.
REJECTS_SLOT_INFIX = " rejects "

#: Sets the slots of batches apart that read a span of time again because somebody asked for it.
BACKFILL_SLOT_PREFIX = "backfill "

#: A transaction that is open holds the windows of its source back no longer.
LONGEST_HELD_BACK = timedelta(hours=1)

#: Sets the slots of batches apart that read all keys of a table, to find the rows that are gone.
KEY_SWEEP_SLOT_PREFIX = "keys "

#: What a moment tells apart, and a date: a window on dates is whole days long.
MICROSECOND = timedelta(microseconds=1)
ONE_DAY = timedelta(days=1)

#: A span of numbers is cut into no more parts: numbers of which most are missing would give any number of them.
MAX_COUNTED_PARTS = 1_000


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open `[start, end)` in UTC. `start` None reads from the beginning."""

    start: datetime | None
    end: datetime

    def __post_init__(self) -> None:
        for bound in (self.start, self.end):
            if bound is not None and bound.utcoffset() != timedelta(0):
                raise ValueError(f"a window's bounds must be aware and in UTC, got {bound!r}")
        if self.start is not None and self.start >= self.end:
            raise ValueError(f"a window must start before it ends, got {self.start} to {self.end}")


@dataclass(frozen=True, slots=True)
class Extent:
    """
    Which rows a batch reads beside its window of time: half-open `[low, high)` of one column.

    Of a table whose cursor counts, the cursor itself; of a part of a big table, a range of its key. The bounds are texts
    as the source spells values of the column; None is open.
    """

    column: str
    low: str | None
    high: str | None


@dataclass(frozen=True, slots=True)
class PlannedWindow:
    """A window and the slot that gives its batch its identity."""

    slot: str
    window: Window
    extent: Extent | None = None
    #: It waits behind the windows that are due now.
    is_bulk: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often a table is due, and how it catches up after an outage."""

    #: Windows end on multiples of this since 1970-01-01 UTC. An hour at most.
    every: timedelta
    #: A table that is behind is read in windows no longer than this.
    max_window: timedelta
    #: At most so many windows of a table are planned at once.
    catch_up_limit: int
    #: What was never read is read in parts of about so many rows, each a batch of its own.
    rows_per_part: int = 2_000_000


def floor_to(moment: datetime, every: timedelta) -> datetime:
    """
    Return the last multiple of `every` since 1970-01-01 UTC that is not after `moment`.

    >>> floor_to(datetime(2026, 11, 22, 20, 17, tzinfo=UTC), timedelta(minutes=15)).isoformat()
    '2026-11-22T20:15:00+00:00'
    """
    return moment - (moment - EPOCH) % every


def horizon_of(now: datetime, *, lag: timedelta, open_since: datetime | None) -> datetime:
    """
    Return the moment up to which every row has been committed.

    That is `lag` ago, or, if the source shows transactions that have written and are open, the start of the oldest:
    its rows bear that moment and are not seen yet. One that is never ended holds nothing back for longer than an hour.
    """
    horizon = now - lag
    if open_since is None or open_since >= horizon:
        return horizon
    return max(open_since, horizon - LONGEST_HELD_BACK)


def slot_of(moment: datetime) -> str:
    """
    Return a moment in UTC as the text that names a slot.

    >>> slot_of(datetime(2026, 11, 22, 20, 15, tzinfo=UTC))
    '2026-11-22T20:15:00.000000Z'
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def rejects_slot(slot: str, number: int) -> str:
    """
    Return the slot of the batch that reads a window again for its rejected rows, numbered from 1.

    A batch that was planned so has its own window's slot in it: what it rejects is read by the next number.

    >>> rejects_slot("initial", 1), rejects_slot("initial rejects 1", 2)
    ('initial rejects 1', 'initial rejects 2')
    """
    return f"{slot.partition(REJECTS_SLOT_INFIX)[0]}{REJECTS_SLOT_INFIX}{number}"


def rejects_slot_number(slot: str) -> int:
    """
    Return the number of a slot of `rejects_slot`; 0 for any other.

    >>> rejects_slot_number("initial"), rejects_slot_number("initial rejects 2")
    (0, 2)
    """
    return int(slot.partition(REJECTS_SLOT_INFIX)[2] or 0)


def backfill_slot(run: str, slot: str) -> str:
    """
    Return the slot of a window that a backfill reads, given the slot it would have by itself.

    >>> backfill_slot("r1", "initial")
    'backfill r1 initial'
    """
    return f"{BACKFILL_SLOT_PREFIX}{run} {slot}"


def backfill_run(slot: str) -> str | None:
    """
    Return the run of a slot of `backfill_slot`; None for any other.

    >>> backfill_run("backfill r1 initial"), backfill_run("initial")
    ('r1', None)
    """
    return slot.split(" ")[1] if slot.startswith(BACKFILL_SLOT_PREFIX) else None


def is_second_reading(slot: str) -> bool:
    """Return whether the batch of a slot reads what another one has read: it moves no table forward."""
    return REJECTS_SLOT_INFIX in slot or slot.startswith(BACKFILL_SLOT_PREFIX) or is_key_sweep(slot)


def is_key_sweep(slot: str) -> bool:
    """Return whether the batch of a slot reads keys only, to find the rows that are gone."""
    return slot.startswith(KEY_SWEEP_SLOT_PREFIX)


def due_key_sweep(
    last: datetime | None, *, planned_until: datetime, every: timedelta
) -> PlannedWindow | None:
    """
    Return the key sweep that is due, if it is: of a table that is planned so far, and was swept so far last.

    What it finds gone was there in the time before the window's end; rows that came later are left alone.
    """
    if last is not None and floor_to(planned_until, every) <= floor_to(last, every):
        return None
    return PlannedWindow(
        KEY_SWEEP_SLOT_PREFIX + slot_of(planned_until), Window(None, planned_until), is_bulk=True
    )


def due_windows(
    watermark: datetime | None,
    *,
    horizon: datetime,
    schedule: Schedule,
    resolution: timedelta = MICROSECOND,
) -> list[PlannedWindow]:
    """
    Return the closed windows between a table's watermark and the horizon, oldest first.

    A window's slot is its start: windows tile the cursor without gap, so two planners that saw
    other clocks plan the same slot and meet in one batch, whose window the first of them fixed.
    A table that is behind gets fewer and longer windows, none above `schedule.max_window`; one
    that never read gets a single window without lower bound. No bound falls between two values of
    the cursor, which are `resolution` apart.
    """
    closed = floor_to(horizon, max(schedule.every, resolution))
    if watermark is None:
        return [PlannedWindow(INITIAL_SLOT, Window(None, closed))]
    longest = max(schedule.max_window, resolution)
    return list(islice(tiles(watermark, closed, longest), schedule.catch_up_limit))


def tiles(start: datetime, end: datetime, longest: timedelta) -> Iterator[PlannedWindow]:
    """Return windows from one moment to another, without gap and none longer than a time, each with its slot."""
    while start < end:
        stop = min(start + longest, end)
        yield PlannedWindow(slot_of(start), Window(start, stop))
        start = stop


def due_snapshot(watermark: datetime | None, *, horizon: datetime, schedule: Schedule) -> list[PlannedWindow]:
    """Return the snapshot that is due, if any. Missed snapshots are not made up for: the latest holds them."""
    closed = floor_to(horizon, schedule.every)
    if watermark is not None and closed <= watermark:
        return []
    return [PlannedWindow(SNAPSHOT_SLOT_PREFIX + slot_of(closed), Window(None, closed))]


def counted_windows(
    column: str, window: Window, *, first: int | None, low: int | None, high: int | None, rows_per_part: int
) -> list[PlannedWindow]:
    """
    Return the parts in which the numbers `[low, high)` of a cursor that counts are read in one window of time.

    None if there is nothing between them. Without `low` everything from the beginning is read, and `first` is the
    smallest number there is. A slot is the number at which a part begins, behind the start of the window: a table may
    be given another cursor, whose numbers are those of the one before and mean something else.
    """
    if high is None or (low is not None and low >= high):
        return []
    begin = low if low is not None else min(high, first if first is not None else high)
    size = max(rows_per_part, -(-(high - begin) // MAX_COUNTED_PARTS))
    cuts = [low, *range(begin + size, high, size), high]
    behind = "" if window.start is None else f"{slot_of(window.start)} "
    return [
        PlannedWindow(
            behind + (INITIAL_SLOT if start is None else f"from {start}"),
            window,
            extent=Extent(column, None if start is None else str(start), str(stop)),
            is_bulk=len(cuts) > 2,
        )
        for start, stop in pairwise(cuts)
    ]
