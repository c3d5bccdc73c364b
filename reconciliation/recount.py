"""
The recount: how many rows the source has today of what was read from it before.

A row that commits later than lag and overlap allow, or is dated back, lies behind every window that is still to come,
and nobody who reads forward meets it. But it makes the count of its window rise. Each published window is counted
again, and one that has more rows than are known of it is read again, by a backfill.

Fewer rows are nothing unusual: whoever changes a row moves it to a newer window. The lower count is noted, so that a
later rise is seen. A rise that a fall hides between two recounts is not: `prove` finds it, which compares the rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

import structlog

from reconciliation.history import EVERYTHING, History, Span, read_history
from reconciliation.positions import Bounds, Stretch, overlap_of, stretch_of, value_at
from reconciliation.settled import SettledWindow
from services.extractor.backfill import backfill_parts
from services.extractor.readers import SourceReader, open_reader
from services.extractor.scouting import LIMITS
from shared.bulk import FIRST_LOAD, BulkRun, bulk_runs, plan_backfill
from shared.domain.batches import HELD_STATES, Batch
from shared.domain.contracts import PublishMode, SourceKind, TableContract
from shared.domain.counts import Count
from shared.domain.recounts import Recount
from shared.domain.windows import PlannedWindow
from shared.errors import Unavailable
from shared.ports import Ledger, LedgerTransaction, SecretStore
from shared.visits import visiting

log = structlog.get_logger()


class Answer(StrEnum):
    """What is done about a window that has more rows than are known of it."""

    #: A backfill was planned that reads it again.
    PLANNED = "planned"
    #: Another backfill that reads rows of it is on its way; the next recount looks again.
    UNDER_WAY = "under_way"
    #: Another backfill that reads rows of it is held: an operator has to look at it first.
    HELD = "held"
    #: Nothing: rows of an appended table that are read again would stand there twice.
    IMPOSSIBLE = "impossible"
    #: Nothing: it was only asked what would be done.
    DRY_RUN = "dry_run"

    @property
    def brings_rows(self) -> bool:
        """Whether the rows come without anybody's help."""
        return self in {Answer.PLANNED, Answer.UNDER_WAY}


@dataclass(frozen=True, slots=True)
class WindowCount:
    """One window, counted again."""

    window: SettledWindow
    #: The batch that read all of it last. What it read, overlap included, is what was counted.
    reading: Batch
    #: By the last recount; if there was none since it was read, as many as were read.
    known_row_count: int
    found_row_count: int
    answer: Answer | None = None

    @property
    def is_more(self) -> bool:
        """Whether rows came that nobody has read."""
        return self.found_row_count > self.known_row_count

    @property
    def is_fewer(self) -> bool:
        """Whether rows left it, as those do that are changed."""
        return self.found_row_count < self.known_row_count


@dataclass(frozen=True, slots=True)
class TableRecount:
    """What the recount of a table came to."""

    source: str
    table: str
    #: Oldest first.
    windows: tuple[WindowCount, ...] = ()
    #: The backfill that was planned.
    run: BulkRun | None = None
    #: Why windows, or all of them, were not counted.
    remarks: tuple[str, ...] = ()
    #: The source stopped to answer: older windows were not counted.
    error: Unavailable | None = None

    @property
    def more(self) -> tuple[WindowCount, ...]:
        """The windows that have more rows than are known."""
        return tuple(window for window in self.windows if window.is_more)

    @property
    def is_cared_for(self) -> bool:
        """Whether all rows that were found to be missing come without anybody's help."""
        return all(window.answer is not None and window.answer.brings_rows for window in self.more)


def recount_table(
    source: str,
    table: str,
    *,
    ledger: Ledger,
    secrets: SecretStore,
    bucket: str,
    span: Span = EVERYTHING,
    is_dry_run: bool = False,
    on_window: Callable[[], None] = lambda: None,
) -> TableRecount:
    """
    Count the settled windows of a table again, and plan to read those again that have more rows than are known.

    `on_window` is told of each window that was counted.

    Raises:
        Refused: if the table is not as the contract has it.
        ConfigurationError: if somebody else planned a backfill of the same rows meanwhile.
        Unavailable: if the ledger does not answer, or the source when asked how to cut what is read again.
    """
    finding = TableRecount(source, table)
    history = read_history(source, table, ledger=ledger)
    with ledger.transaction() as tx:
        latest = tx.latest_contract(source, table)
        watermark = tx.watermark(source, table)
        noted = {recount.batch_id: recount.row_count for recount in tx.recounts(source, table)}
    if latest is None or watermark is None or not history.published:
        return replace(finding, remarks=("nothing of it is published",))
    contract = latest.contract
    if remark := why_uncountable(contract, history):
        return replace(finding, remarks=(remark,))
    asked = [window for window in history.settled() if window.is_whole and span.covers(window.batch.window)]
    with (
        ledger.exclusively(f"recount {source}.{table}") as is_alone,
        visiting(source, who="recount", ledger=ledger),
        open_reader(contract, secrets=secrets, limits=LIMITS) as reader,
    ):
        if not is_alone:
            return replace(finding, remarks=("another recount of it is at work",))
        counts = [_to_count(window, history=history, noted=noted) for window in asked]
        counted, error = count_windows(counts, contract, reader, history=history, on_window=on_window)
        counted = answer_each(counted, contract, history=history, ledger=ledger, is_dry_run=is_dry_run)
        run = None
        if stretches := joined([count.window.stretch for count in counted if count.answer is Answer.PLANNED]):
            parts = list(_parts(stretches, contract, reader, watermark=watermark))
            run = plan_backfill(contract, parts, ledger=ledger, bucket=bucket)
    # Behind the plan: what fails before is found again by the next recount.
    if not is_dry_run:
        _note(counted, ledger=ledger)
    _tell(finding, counted)
    return replace(finding, windows=tuple(counted), run=run, error=error)


def why_uncountable(contract: TableContract, history: History) -> str:
    """Return why the windows of a table cannot be counted; empty if they can."""
    cursor = contract.cursor
    if cursor is None:
        return "it has no cursor: each batch reads all of it anew"
    if contract.origin.kind is SourceKind.REST:
        return "its source would have to be read to be counted"
    used = history.newest.cursor
    if used is None or used.column != cursor.column or contract.cursor_scale is not history.scale:
        return "its cursor was changed, and nothing is published with the new one"
    return ""


# ---- counting ----------------------------------------------------------------------------------------------


def _to_count(window: SettledWindow, *, history: History, noted: Mapping[str, int]) -> WindowCount:
    """Return a window with what is known of it, and nothing found yet."""
    bounds = window.batch.window, window.batch.extent
    # Its own batch is one of them; one that read just that again came later, and saw more.
    reading = [batch for batch in history.batches if (batch.window, batch.extent) == bounds][-1]
    read = reading.counts.get(Count.ROWS_READ, 0) - reading.counts.get(Count.ROWS_OUTSIDE_WINDOW, 0)
    known = noted.get(reading.id, read)
    return WindowCount(window, reading, known_row_count=known, found_row_count=known)


def count_windows(
    windows: Sequence[WindowCount],
    contract: TableContract,
    reader: SourceReader,
    *,
    history: History,
    on_window: Callable[[], None],
) -> tuple[list[WindowCount], Unavailable | None]:
    """Count what each batch has read, the newest windows first; return those that were counted, oldest first."""
    counted: list[WindowCount] = []
    error = None
    for window in reversed(windows):
        read_under = history.contracts[window.reading.contract_version]
        bounds = Bounds.of(contract, _as_read(window.window.stretch, overlap=overlap_of(read_under)))
        try:
            found = reader.count_rows(bounds.window, extent=bounds.extent)
        except Unavailable as outage:
            # The first window of a big table may well take too long to count: those after it are counted by then.
            error = outage
            break
        on_window()
        counted.append(replace(window, found_row_count=found))
    return counted[::-1], error


def _as_read(stretch: Stretch, *, overlap: int) -> Stretch:
    return stretch if stretch.low is None else Stretch(stretch.low - overlap, stretch.high)


# ---- what is done ------------------------------------------------------------------------------------------


def answer_each(
    counted: Sequence[WindowCount],
    contract: TableContract,
    *,
    history: History,
    ledger: Ledger,
    is_dry_run: bool,
) -> list[WindowCount]:
    """Decide what is done about each window that has more rows than are known."""
    with ledger.transaction() as tx:
        runs = _open_backfills(tx, contract)

    def answer(count: WindowCount) -> Answer | None:
        if not count.is_more:
            return None
        if contract.publishing.mode is not PublishMode.MERGE:
            return Answer.IMPOSSIBLE
        others = history.second_readings_of(count.window)
        if any(batch.state in HELD_STATES for batch in others):
            return Answer.HELD
        # A part of it that is published already may have been read before the rows came.
        if others or any(_reads(run, count.window.stretch, history=history) for run in runs):
            return Answer.UNDER_WAY
        return Answer.DRY_RUN if is_dry_run else Answer.PLANNED

    return [replace(count, answer=answer(count)) for count in counted]


def _open_backfills(tx: LedgerTransaction, contract: TableContract) -> list[BulkRun]:
    runs = bulk_runs(tx, source=contract.source, table=contract.table)
    return [run for run in runs if run.name != FIRST_LOAD and not run.is_at_rest]


def _reads(run: BulkRun, stretch: Stretch, *, history: History) -> bool:
    stretches = (stretch_of(batch, history.scale) for batch in run.batches)
    return any(other is not None and other.meets(stretch) for other in stretches)


def joined(stretches: Sequence[Stretch]) -> list[Stretch]:
    """
    Join stretches that follow on each other; they come oldest first.

    >>> joined([Stretch(None, 2), Stretch(2, 3), Stretch(5, 6)])
    [Stretch(low=None, high=3), Stretch(low=5, high=6)]
    """
    found: list[Stretch] = []
    for stretch in stretches:
        if found and found[-1].high == stretch.low:
            found[-1] = Stretch(found[-1].low, stretch.high)
        else:
            found.append(stretch)
    return found


def _parts(
    stretches: Sequence[Stretch], contract: TableContract, reader: SourceReader, *, watermark: datetime
) -> Iterator[PlannedWindow]:
    scale = contract.cursor_scale
    if scale is None:
        raise ValueError(
            f"table {contract.source}.{contract.table} has no cursor, and no windows to read again"
        )
    for stretch in stretches:
        start = None if stretch.low is None else value_at(stretch.low, scale)
        end = value_at(stretch.high, scale)
        for part in backfill_parts(contract, reader, start=start, end=end, chunk=None, watermark=watermark):
            yield part.planned


def _note(counted: Sequence[WindowCount], *, ledger: Ledger) -> None:
    """
    Keep what was found, so that the next recount finds what moved since.

    Not of windows about which nothing was done: they are to be found again.
    """
    with ledger.transaction() as tx:
        now = tx.now()
        tx.save_recounts(
            [
                Recount(count.reading.id, now, count.found_row_count)
                for count in counted
                if count.answer in {None, Answer.PLANNED}
            ]
        )


def _tell(finding: TableRecount, counted: Sequence[WindowCount]) -> None:
    for count in counted:
        if count.is_more:
            log.warning(
                "window_count_rose",
                source=finding.source,
                table=finding.table,
                batch_id=count.window.batch.id,
                known_row_count=count.known_row_count,
                found_row_count=count.found_row_count,
                answer=count.answer,
            )
    log.info(
        "table_recounted",
        source=finding.source,
        table=finding.table,
        window_count=len(counted),
        more_count=sum(count.is_more for count in counted),
        fewer_count=sum(count.is_fewer for count in counted),
    )
