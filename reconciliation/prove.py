"""
The story of reconciliation: what the ledger says is published, read on every side, compared window by window.

The sides are read one after the other, in the opposite direction to that in which rows travel: what is new at the
source meanwhile is behind every window that is compared. What differs is read again, and counts only if it still does.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import structlog

from reconciliation.compare import ROW_SIDES, TALLIED, Compared
from reconciliation.csv_side import csv_checksum, csv_difference
from reconciliation.explain import row_differences
from reconciliation.findings import Difference, Measure, TableFinding, WindowFinding
from reconciliation.history import EVERYTHING, Group, History, Span, compared_groups, read_history
from reconciliation.reading import Places, Reading
from reconciliation.settled import SettledWindow
from reconciliation.sides import Side
from reconciliation.spill import Spill, partition_count_for
from services.processor.checksum import Checksum
from shared.domain.batches import Batch, Stage
from shared.domain.contracts import CursorScale, PublishMode
from shared.domain.counts import Count
from shared.domain.windows import slot_of
from shared.errors import Refused
from shared.ports import Ledger

log = structlog.get_logger()

#: So many differing rows of a table are looked at a second time; they are held in memory with all their columns.
MAX_ROWS_LOOKED_AT_AGAIN = 10_000


def prove_table(
    source: str,
    table: str,
    *,
    places: Places,
    span: Span = EVERYTHING,
    on_rows: Callable[[int], None] = lambda _: None,
) -> TableFinding:
    """
    Compare the published windows of a table on all sides.

    `on_rows` is told of rows as they are read.

    Raises:
        Unavailable: if a side does not answer.
    """
    history = read_history(source, table, ledger=places.ledger)
    finding = TableFinding(source, table, unpublished_count=history.unpublished_count(span))
    if not history.published:
        return replace(finding, remarks=("nothing of it is published",))
    if history.newest.cursor_scale is CursorScale.COUNT:
        # Its windows of time hold no rows that time tells apart.
        return replace(finding, remarks=("its cursor counts: such a table is not compared yet",))
    settled = history.settled()
    asked = [window for window in settled if span.covers(window.batch.window)]
    windows, remarks, moved_row_count = [], [], 0
    for group in compared_groups(history, settled, asked=asked):
        if isinstance(group, str):
            remarks.append(group)
            continue
        found, moved = compare_group(group, history=history, places=places, on_rows=on_rows)
        windows += found
        moved_row_count += moved
        if names := ", ".join(map(repr, group.shape.left_out)):
            remarks.append(f"columns that were not compared, since contracts differ in them: {names}")
    log.info("table_compared", source=source, table=table, window_count=len(windows))
    return replace(
        finding,
        windows=tuple(sorted(windows, key=lambda window: window.batch.window.end)),
        unsettled_count=sum(span.covers(batch.window) for batch in history.windows) - len(asked),
        moved_row_count=moved_row_count,
        remarks=tuple(remarks),
        is_snapshot=bool(windows) and history.newest.cursor is None,
    )


# ---- the comparison ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class FirstLook:
    """What reading all rows once came to."""

    tallies: dict[int, dict[Side, Checksum]] = field(default_factory=dict)
    #: The first rows that differ, see `compare.TALLIED`, and whether there are more.
    differences: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TALLIED))
    is_cut: bool = False

    def add(self, compared: Compared) -> None:
        """Take in the rows of one partition."""
        for window, sides in compared.tallies().items():
            known = self.tallies.setdefault(window, {})
            for side, checksum in sides.items():
                known[side] = known.get(side, Checksum()) + checksum
        found = pl.concat([self.differences, compared.differences()]).sort("window", "key", "row")
        self.is_cut |= found.height > MAX_ROWS_LOOKED_AT_AGAIN
        self.differences = found.head(MAX_ROWS_LOOKED_AT_AGAIN)

    def leave_out(self, moved: pl.DataFrame) -> None:
        """Take rows out that moved while they were looked at."""
        for window, _, row, *counts in moved.select(*TALLIED).iter_rows():
            sides = self.tallies[window]
            for side, count in zip(ROW_SIDES, counts, strict=True):
                if side in sides:
                    sides[side] -= Checksum(count, row * count)


def compare_group(
    group: Group, *, history: History, places: Places, on_rows: Callable[[int], None]
) -> tuple[list[WindowFinding], int]:
    """Compare the windows of a group; return what was found, and how many rows moved meanwhile."""
    reading = Reading(group, history=history, places=places, on_rows=on_rows)
    try:
        first = look_at_everything(reading)
        second = look_again(reading, first.differences["key"].unique()) if first.differences.height else None
    except Refused as refusal:
        side = reading.side
        log.warning("side_refused", side=side, reason=refusal.reason)
        return [_unreadable(window, side=side, refusal=refusal) for window in group.compared], 0
    still, moved_count = first.differences, 0
    if second is not None:
        place = ["window", "key"]
        still = second.differences().join(first.differences, on=place, how="semi")
        moved = first.differences.join(still, on=place, how="anti")
        first.leave_out(moved)
        moved_count = moved.height
    windows = [
        _finding(number, window, reading, first=first, second=second, still=still)
        for number, window in enumerate(group.compared)
    ]
    return windows, moved_count


def look_at_everything(reading: Reading) -> FirstLook:
    """Read every side once, and compare by key what the rows were reduced to."""
    group = reading.group
    row_count = sum(batch.counts.get(Count.ROWS_IN_FINAL, 0) for batch in group.batches)
    look = FirstLook()
    with tempfile.TemporaryDirectory(prefix="esclusa-prove-") as name:
        partition_count = partition_count_for(row_count)
        spills = {}
        for side in reading.sides:
            with Spill(Path(name) / side, partition_count=partition_count) as spill:
                for rows in reading.rows_of(side):
                    spill.add(rows)
            spills[side] = spill
        for parts in zip(*(spill.partitions() for spill in spills.values()), strict=True):
            look.add(reading.compared(dict(zip(spills, parts, strict=True))))
    return look


def look_again(reading: Reading, keys: pl.Series) -> Compared:
    """Read every side again, and keep the rows of some keys with all their columns."""
    kept = {}
    for side in reading.sides:
        rows = [block.filter(pl.col("key").is_in(keys.implode())) for block in reading.rows_of(side)]
        kept[side] = pl.concat(rows) if rows else reading.no_rows()
    return reading.compared(kept)


def _finding(
    number: int,
    window: SettledWindow,
    reading: Reading,
    *,
    first: FirstLook,
    second: Compared | None,
    still: pl.DataFrame,
) -> WindowFinding:
    """Return what was found of one window: the first difference on the way of its rows."""
    batch, group = window.batch, reading.group
    readings = [other for other in group.batches if other.window == batch.window]
    accepted = {
        other.id: csv_checksum(other, _manifest(other, ledger=reading.places.ledger)) for other in readings
    }
    in_files = [
        csv_difference(other, accepted=accepted[other.id], lake=reading.lake_counts[other.id])
        for other in readings
    ]
    travel = [side for side in ROW_SIDES if side in reading.sides]
    tallies = {side: first.tallies.get(number, {}).get(side, Checksum()) for side in travel}
    by_rows = row_differences(
        number,
        sides=travel,
        tallies=tallies,
        differing=still,
        rows=second,
        shape=group.shape,
        is_cut=first.is_cut,
    )
    remarks, differences = [], []
    for difference in by_rows:
        if difference.sides[0] is Side.SOURCE and group.contract.publishing.mode is PublishMode.REPLACE:
            # Nothing tells a source that moved on from a snapshot that was read wrongly.
            remarks.append(
                f"the source is no longer as the snapshot of {slot_of(batch.window.end)}: {difference.detail}"
            )
        else:
            differences.append(difference)
    in_csv = accepted[batch.id]
    return WindowFinding(
        batch=batch,
        until=window.until,
        sides=tallies if in_csv is None else {**tallies, Side.CSV: in_csv},
        rejected_row_count=readings[-1].counts.get(Count.ROWS_REJECTED, 0),
        difference=next((difference for difference in [*in_files, *differences] if difference), None),
        remarks=tuple(remarks),
    )


def _unreadable(window: SettledWindow, *, side: Side, refusal: Refused) -> WindowFinding:
    """Return that a window could not be compared, since a side is not what it should be."""
    between = {
        Side.SOURCE: (Side.SOURCE, Side.LAKE),
        Side.LAKE: (Side.SOURCE, Side.LAKE),
        Side.WAREHOUSE: (Side.LAKE, Side.WAREHOUSE),
    }[side]
    difference = Difference(between, Measure.CONTENT, str(refusal))
    return WindowFinding(window.batch, window.until, sides={}, difference=difference)


def _manifest(batch: Batch, *, ledger: Ledger) -> Mapping[str, object] | None:
    with ledger.transaction() as tx:
        return tx.manifest(batch.id, Stage.PROCESS, batch.committed_attempt or 0)
