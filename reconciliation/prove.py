"""
The story of reconciliation: what the ledger says is published, read on every side, compared window by window.

The sides are read one after the other, in the opposite direction to that in which rows travel: what is new at the
source meanwhile is behind every window that is compared. What differs is read again, and counts only if it still does.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import polars as pl
import structlog

from reconciliation.compare import ROW_SIDES, TALLIED, Compared
from reconciliation.csv_side import csv_checksum, csv_difference
from reconciliation.explain import row_differences
from reconciliation.findings import Difference, Measure, TableFinding, WindowFinding
from reconciliation.history import EVERYTHING, Group, History, Span, compared_groups, read_history
from reconciliation.positions import value_at
from reconciliation.reading import Places, Reading
from reconciliation.settled import SettledWindow
from reconciliation.shape import REDUCED
from reconciliation.sides import Side
from reconciliation.spill import Spill, partition_count_for
from services.processor.checksum import Checksum
from shared.domain.batches import Batch, Stage
from shared.domain.contracts import PublishMode
from shared.domain.counts import Count
from shared.domain.windows import is_second_reading, slot_of
from shared.errors import Refused
from shared.ports import Ledger

log = structlog.get_logger()

#: So often a table is compared, if what differs may be what was read again and published meanwhile.
MAX_COMPARISONS = 3

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
    for _ in range(MAX_COMPARISONS):
        history = read_history(source, table, ledger=places.ledger)
        finding = prove_history(
            history, TableFinding(source, table), places=places, span=span, on_rows=on_rows
        )
        if finding.is_equal or not _was_read_again_since(history, source, table, ledger=places.ledger):
            break
    log.info("table_compared", source=source, table=table, window_count=len(finding.windows))
    return finding


def prove_history(
    history: History,
    finding: TableFinding,
    *,
    places: Places,
    span: Span,
    on_rows: Callable[[int], None],
) -> TableFinding:
    """Compare what the ledger knows of a table with its sides, and put what is found into the finding."""
    finding = replace(finding, unpublished_count=history.unpublished_count(span))
    if not history.published:
        return replace(finding, remarks=("nothing of it is published",))
    settled = history.settled()
    asked = [window for window in settled if span.covers(window.batch.window)]
    windows, remarks, moved_row_count, gone_row_count = [], [], 0, 0
    for group in compared_groups(history, settled, asked=asked):
        if isinstance(group, str):
            remarks.append(group)
            continue
        found = compare_group(group, history=history, places=places, on_rows=on_rows)
        windows += found.windows
        moved_row_count += found.moved_row_count
        gone_row_count += found.gone_row_count
        if names := ", ".join(map(repr, group.shape.left_out)):
            remarks.append(f"columns that were not compared, since contracts differ in them: {names}")
    if other_count := history.other_window_count(span):
        remarks.append(f"{other_count} windows were not compared: they were read by another cursor")
    if gone_row_count:
        remarks.append(
            f"{gone_row_count} rows are gone at the source and were left out: the next key sweep deletes them"
        )
    place = {window.batch.id: number for number, window in enumerate(settled)}
    return replace(
        finding,
        windows=tuple(sorted(windows, key=lambda window: place[window.batch.id])),
        unsettled_count=sum(span.covers(batch.window) for batch in history.windows) - len(asked),
        moved_row_count=moved_row_count,
        remarks=tuple(remarks),
        is_snapshot=bool(windows) and history.newest.cursor is None,
    )


def _was_read_again_since(history: History, source: str, table: str, *, ledger: Ledger) -> bool:
    """
    Whether windows were read again and published, or rows swept away, since the ledger was looked at.

    Such rows were not yet on the side that was read first, and were on the others: what differs may be just that.
    """

    def second_readings(seen: History) -> set[str]:
        sweep = {seen.key_sweep.id} if seen.key_sweep else set()
        return sweep | {batch.id for batch in seen.published if is_second_reading(batch.slot)}

    return second_readings(read_history(source, table, ledger=ledger)) != second_readings(history)


# ---- the comparison ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class FirstLook:
    """What reading all rows once came to."""

    tallies: dict[int, dict[Side, Checksum]] = field(default_factory=dict)
    #: The first rows that differ, see `compare.TALLIED`, and whether there are more.
    differences: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TALLIED))
    is_cut: bool = False
    #: Keys that were left out, since the next key sweep deletes them.
    gone_count: int = 0

    def add(self, compared: Compared) -> None:
        """Take in the rows of one partition."""
        for window, sides in compared.tallies().items():
            known = self.tallies.setdefault(window, {})
            for side, checksum in sides.items():
                known[side] = known.get(side, Checksum()) + checksum
        self.gone_count += compared.gone_count
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


@dataclass(frozen=True, slots=True)
class GroupFinding:
    """What comparing the windows of a group came to."""

    windows: list[WindowFinding]
    #: Rows that moved meanwhile.
    moved_row_count: int = 0
    #: Rows that are gone at the source, and wait for the next key sweep.
    gone_row_count: int = 0


def compare_group(
    group: Group, *, history: History, places: Places, on_rows: Callable[[int], None]
) -> GroupFinding:
    """Compare the windows of a group."""
    reading = Reading(group, history=history, places=places, on_rows=on_rows)
    try:
        first = look_at_everything(reading)
        second = look_again(reading, first.differences["key"].unique()) if first.differences.height else None
    except Refused as refusal:
        side = reading.side
        log.warning("side_refused", side=side, reason=refusal.reason)
        until = [value_at(window.stretch.high, history.scale) for window in group.compared]
        return GroupFinding(
            [
                _unreadable(window, until=end, side=side, refusal=refusal)
                for window, end in zip(group.compared, until, strict=True)
            ]
        )
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
    return GroupFinding(windows, moved_count, first.gone_count)


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
        with Spill(Path(name) / "swept", partition_count=partition_count) as swept:
            for keys in reading.swept_keys():
                swept.add(keys)
        for keys, *parts in zip(
            swept.partitions(), *(spill.partitions() for spill in spills.values()), strict=True
        ):
            look.add(reading.compared(dict(zip(spills, parts, strict=True)), swept_keys=keys))
    return look


def look_again(reading: Reading, keys: pl.Series) -> Compared:
    """Read every side again, and keep the rows of some keys with all their columns."""
    kept = {}
    for side in reading.sides:
        rows = [block.filter(pl.col("key").is_in(keys.implode())) for block in reading.rows_of(side)]
        kept[side] = pl.concat(rows) if rows else reading.no_rows()
    swept = [
        block.select(*REDUCED).filter(pl.col("key").is_in(keys.implode())) for block in reading.swept_keys()
    ]
    return reading.compared(
        kept, swept_keys=pl.concat(swept) if swept else reading.no_rows().select(*REDUCED)
    )


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
    batch, group, history = window.batch, reading.group, reading.history
    readings = [other for other in group.batches if _reads_rows_of(window, other, history=history)]
    accepted = {
        other.id: csv_checksum(other, _manifest(other, ledger=reading.places.ledger)) for other in readings
    }
    in_files = [
        _named(
            other,
            csv_difference(other, accepted=accepted[other.id], lake=reading.lake_counts[other.id]),
            beside=batch,
        )
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
    remarks = [
        f"batch {other.id} reads rows of the window of {batch.id} again, and is not published: {other.state}"
        for other in history.second_readings_of(window)
    ]
    differences = []
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
        until=value_at(window.stretch.high, history.scale),
        sides=tallies if in_csv is None else {**tallies, Side.CSV: in_csv},
        rejected_row_count=_newest_whole_reading(window, readings).counts.get(Count.ROWS_REJECTED, 0),
        difference=next((difference for difference in [*in_files, *differences] if difference), None),
        remarks=tuple(remarks),
    )


def _reads_rows_of(window: SettledWindow, other: Batch, *, history: History) -> bool:
    """Whether a batch is that of a window, or reads rows of it again."""
    if other.id == window.batch.id:
        return True
    stretch = history.stretch_of(other)
    return is_second_reading(other.slot) and stretch is not None and stretch.meets(window.stretch)


def _newest_whole_reading(window: SettledWindow, readings: Sequence[Batch]) -> Batch:
    """Return the last batch that read just the window: what it rejected is what is missing of it."""
    bounds = window.batch.window, window.batch.extent
    return [other for other in readings if (other.window, other.extent) == bounds][-1]


def _named(batch: Batch, difference: Difference | None, *, beside: Batch) -> Difference | None:
    """Say of which batch a difference is, if it is not that of the window."""
    if difference is None or batch.id == beside.id:
        return difference
    return replace(difference, detail=f"batch {batch.id}, which read rows of it again: {difference.detail}")


def _unreadable(
    window: SettledWindow, *, until: datetime | int, side: Side, refusal: Refused
) -> WindowFinding:
    """Return that a window could not be compared, since a side is not what it should be."""
    between = {
        Side.SOURCE: (Side.SOURCE, Side.LAKE),
        Side.LAKE: (Side.SOURCE, Side.LAKE),
        Side.WAREHOUSE: (Side.LAKE, Side.WAREHOUSE),
    }[side]
    difference = Difference(between, Measure.CONTENT, str(refusal))
    return WindowFinding(window.batch, until, sides={}, difference=difference)


def _manifest(batch: Batch, *, ledger: Ledger) -> Mapping[str, object] | None:
    with ledger.transaction() as tx:
        return tx.manifest(batch.id, Stage.PROCESS, batch.committed_attempt or 0)
