"""
The story of reconciliation: what the ledger says is published, read on every side, compared window by window.

The sides are read one after the other, in the opposite direction to that in which rows travel: what is new at the
source meanwhile is behind every window that is compared. What differs is read again, and counts only if it still does.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import structlog

from reconciliation.compare import ROW_SIDES, TALLIED, Compared, compared_rows
from reconciliation.csv_side import csv_checksum, csv_difference
from reconciliation.explain import row_differences
from reconciliation.findings import Difference, LakeCount, Measure, TableFinding, WindowFinding
from reconciliation.settled import SettledWindow, Timeline, settled_windows
from reconciliation.shape import Shape, common_shape
from reconciliation.sides import Side, SourceRows, lake_rows, warehouse_rows
from reconciliation.spill import Spill, partition_count_for
from services.processor.checksum import Checksum, fingerprint
from services.processor.decode import position_name
from services.publisher.read_back import polars_type
from services.publisher.warehouse import Warehouse
from shared.domain.batches import Batch, BatchState, Stage
from shared.domain.contracts import PublishMode, TableContract, Target
from shared.domain.counts import Count
from shared.domain.files import Area, DataFile
from shared.domain.windows import Window, slot_of
from shared.errors import Refused
from shared.ports import Ledger, ObjectStore, SecretStore

log = structlog.get_logger()

#: So many differing rows of a table are looked at a second time; they are held in memory with all their columns.
MAX_ROWS_LOOKED_AT_AGAIN = 10_000


@dataclass(frozen=True, slots=True)
class Places:
    """Where the sides are."""

    ledger: Ledger
    store: ObjectStore
    secrets: SecretStore
    warehouse: Warehouse


@dataclass(frozen=True, slots=True)
class Span:
    """Which windows are asked for: those that reach into it. None: no bound."""

    start: datetime | None = None
    end: datetime | None = None

    def covers(self, window: Window) -> bool:
        """Whether a window reaches into the span."""
        begins_before_end = self.end is None or window.start is None or window.start < self.end
        return begins_before_end and (self.start is None or window.end > self.start)


EVERYTHING = Span()


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
    for group in compared_groups(history, span):
        if isinstance(group, str):
            finding = replace(finding, remarks=(*finding.remarks, group))
            continue
        windows, moved = compare_group(group, history=history, places=places, on_rows=on_rows)
        finding = replace(
            finding,
            windows=(*finding.windows, *windows),
            moved_row_count=finding.moved_row_count + moved,
        )
        if group.shape.left_out:
            names = ", ".join(map(repr, group.shape.left_out))
            finding = replace(
                finding, remarks=(*finding.remarks, f"not compared, since contracts differ in it: {names}")
            )
    in_order = sorted(finding.windows, key=lambda found: found.batch.window.end)
    asked = sum(span.covers(batch.window) for batch in history.comparable)
    log.info(
        "table_proved", source=source, table=table, is_equal=finding.is_equal, window_count=len(in_order)
    )
    return replace(finding, windows=tuple(in_order), unsettled_count=max(0, asked - len(in_order)))


# ---- what there is to compare ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class History:
    """What the ledger knows of a table."""

    #: Published batches, by the end of their windows.
    published: tuple[Batch, ...]
    unpublished: tuple[Batch, ...]
    contracts: dict[int, TableContract]

    @property
    def newest(self) -> TableContract:
        """The newest contract under which something was published."""
        return self.contracts[max(batch.contract_version for batch in self.published)]

    @property
    def comparable(self) -> tuple[Batch, ...]:
        """The batches whose windows can be compared: of a replaced table, the newest snapshot."""
        if self.newest.cursor is None:
            return self.published[-1:]
        return tuple(batch for batch in self.published if self.contracts[batch.contract_version].cursor)

    def unpublished_count(self, span: Span) -> int:
        """Return how many windows of a span are not published."""
        return sum(span.covers(batch.window) for batch in self.unpublished)


def read_history(source: str, table: str, *, ledger: Ledger) -> History:
    """Return the batches of a table and their contracts."""
    with ledger.transaction() as tx:
        batches = tx.batches(source=source, table=table)
        published = [batch for batch in batches if batch.state is BatchState.PUBLISHED]
        contracts = {
            version: tx.contract(source, table, version).contract
            for version in {batch.contract_version for batch in published}
        }
    without_rows = {BatchState.PUBLISHED, BatchState.SUPERSEDED, BatchState.DISCARDED}
    return History(
        published=tuple(sorted(published, key=lambda batch: batch.window.end)),
        unpublished=tuple(batch for batch in batches if batch.state not in without_rows),
        contracts=contracts,
    )


@dataclass(frozen=True, slots=True)
class Group:
    """Windows that are compared in the same columns: those of one contract."""

    shape: Shape
    #: The contract under which the source is read.
    contract: TableContract
    compared: tuple[SettledWindow, ...]
    settled: tuple[SettledWindow, ...]
    #: The batches in whose files rows of these windows, or newer versions of them, may lie; oldest first.
    batches: tuple[Batch, ...]

    @property
    def start(self) -> datetime | None:
        """Where the first window begins."""
        return self.compared[0].start

    @property
    def timeline(self) -> Timeline | None:
        """What tells to which window a row belongs; None if there is but one."""
        if self.contract.cursor is None:
            return None
        return Timeline(self.settled, compared=self.compared)

    @property
    def bounds(self) -> Window | None:
        """From the beginning of the first window to the end of the last; None for a table without a cursor."""
        if self.contract.cursor is None:
            return None
        return Window(self.start, max(window.until for window in self.compared))

    @property
    def has_native_target(self) -> bool:
        """Whether the rows go to the warehouse."""
        return self.contract.publishing.target is not Target.EXTERNAL


def compared_groups(history: History, span: Span) -> Iterator[Group | str]:
    """Return the settled windows of a span, by contract; in place of those that cannot be compared, why."""
    newest = history.newest
    overlap = timedelta(0)
    if newest.cursor is not None:
        cursors = [contract.cursor for contract in history.contracts.values() if contract.cursor]
        overlap = max(cursor.overlap for cursor in cursors)
    settled = settled_windows(history.comparable, overlap=overlap)
    asked = [window for window in settled if span.covers(window.batch.window)]
    for version in sorted({window.batch.contract_version for window in asked}):
        compared = tuple(window for window in asked if window.batch.contract_version == version)
        start = compared[0].start
        batches = tuple(batch for batch in history.comparable if start is None or batch.window.end > start)
        others = {batch.contract_version for batch in batches}
        shape = common_shape(newest, [history.contracts[other] for other in sorted(others)])
        if isinstance(shape, str):
            yield f"{len(compared)} windows under contract {version} were not compared: {shape}"
        else:
            yield Group(shape, newest, compared, tuple(settled), batches)


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
    reading = _Reading(group, history=history, places=places, on_rows=on_rows)
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


def look_at_everything(reading: "_Reading") -> FirstLook:
    """Read every side once, and compare by key what the rows were reduced to."""
    group = reading.group
    row_count = sum(batch.counts.get(Count.ROWS_IN_FINAL, 0) for batch in group.batches)
    look = FirstLook()
    with tempfile.TemporaryDirectory(prefix="esclusa-prove-") as name, ExitStack() as opened:
        partition_count = partition_count_for(row_count)
        spills = {
            side: opened.enter_context(Spill(Path(name) / side, partition_count=partition_count))
            for side in reading.sides
        }
        for side, spill in spills.items():
            for rows in reading.rows_of(side):
                spill.add(rows)
            spill.finish()
        for parts in zip(*(spill.partitions() for spill in spills.values()), strict=True):
            look.add(reading.compared(dict(zip(spills, parts, strict=True))))
    return look


def look_again(reading: "_Reading", keys: pl.Series) -> Compared:
    """Read every side again, and keep the rows of some keys with all their columns."""
    kept = {}
    for side in reading.sides:
        rows = [block.filter(pl.col("key").is_in(keys.implode())) for block in reading.rows_of(side)]
        kept[side] = pl.concat(rows) if rows else reading.no_rows()
    return reading.compared(kept)


class _Reading:
    """Reads the sides of a group, one after the other, as often as asked."""

    def __init__(
        self, group: Group, *, history: History, places: Places, on_rows: Callable[[int], None]
    ) -> None:
        self.group = group
        #: The side that is being read.
        self.side = Side.LAKE
        #: What was read of the files of each batch.
        self.lake_counts: dict[str, LakeCount] = {}
        self.history = history
        self.places = places
        self._timeline = group.timeline
        self._on_rows = on_rows

    @property
    def sides(self) -> list[Side]:
        """The sides that there are, in the order of reading."""
        return (
            [Side.WAREHOUSE, Side.LAKE, Side.SOURCE]
            if self.group.has_native_target
            else [Side.LAKE, Side.SOURCE]
        )

    def compared(self, rows: dict[Side, pl.DataFrame]) -> Compared:
        """Return the rows that count."""
        return compared_rows(
            rows[Side.SOURCE],
            rows[Side.LAKE],
            rows.get(Side.WAREHOUSE),
            mode=self.group.contract.publishing.mode,
            has_key=bool(self.group.contract.key),
        )

    def rows_of(self, side: Side) -> Iterator[pl.DataFrame]:
        """Read a side."""
        self.side = side
        for rows in self._blocks_of(side):
            self._on_rows(rows.height)
            yield rows

    def no_rows(self) -> pl.DataFrame:
        """Return no row, in the form of those that are read."""
        columns = {
            position_name(number): column.output_type
            for number, column in enumerate(self.group.shape.columns)
        }
        empty = pl.DataFrame(schema={name: polars_type(type_) for name, type_ in columns.items()})
        return self.group.shape.reduce(empty, timeline=self._timeline, order=pl.lit(0))

    def _blocks_of(self, side: Side) -> Iterator[pl.DataFrame]:
        group = self.group
        if side is Side.WAREHOUSE:
            return warehouse_rows(
                group.shape, warehouse=self.places.warehouse, window=group.bounds, timeline=self._timeline
            )
        if side is Side.LAKE:
            return self._lake_blocks()
        source = SourceRows(group.contract, group.shape, self.places.secrets, group.start)
        return source.read(self._timeline)

    def _lake_blocks(self) -> Iterator[pl.DataFrame]:
        shape = self.group.shape
        for order, batch in enumerate(self.group.batches):
            contract = self.history.contracts[batch.contract_version]
            count = self.lake_counts[batch.id] = LakeCount()
            cells = [
                (pl.col(position_name(position)), column.output_type)
                for position, column in enumerate(contract.output_columns)
            ]
            for file in _committed_files(batch, ledger=self.places.ledger):
                try:
                    for rows in lake_rows(file, contract=contract, store=self.places.store):
                        count.checksum += Checksum.of(rows.select(fingerprint(cells).alias("row"))["row"])
                        selected = shape.select(rows, contract=contract)
                        yield shape.reduce(selected, timeline=self._timeline, order=pl.lit(order))
                except Refused as refusal:
                    count.problem = count.problem or str(refusal)


def _finding(
    number: int,
    window: SettledWindow,
    reading: _Reading,
    *,
    first: FirstLook,
    second: Compared | None,
    still: pl.DataFrame,
) -> WindowFinding:
    """Return what was found of one window: the first difference on the way of its rows."""
    batch, group = window.batch, reading.group
    accepted = csv_checksum(batch, _manifest(batch, ledger=reading.places.ledger))
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
    in_files = csv_difference(batch, accepted=accepted, lake=reading.lake_counts[batch.id])
    return WindowFinding(
        batch=batch,
        until=window.until,
        sides=tallies if accepted is None else {**tallies, Side.CSV: accepted},
        rejected_row_count=batch.counts.get(Count.ROWS_REJECTED, 0),
        difference=in_files or next(iter(differences), None),
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


def _committed_files(batch: Batch, *, ledger: Ledger) -> list[DataFile]:
    with ledger.transaction() as tx:
        files = tx.files(batch_id=batch.id, areas=[Area.FINAL], attempt=batch.committed_attempt)
    return sorted(files, key=lambda file: file.part)
