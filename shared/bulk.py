"""
Work in bulk: what reads much at once, in parts that are batches of their own and wait behind what is due now.

A first load is planned by `shared.planning`; a backfill is asked for by a person. It reads a span again that is planned
already, moves no watermark, and its rows take the place of what stands there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog

from shared import lifecycle
from shared.domain.batches import FINAL_STATES, HELD_STATES, Batch
from shared.domain.contracts import CursorScale, PublishMode, TableContract
from shared.domain.counts import Count
from shared.domain.windows import PlannedWindow, backfill_run, backfill_slot, is_key_sweep
from shared.errors import ConfigurationError
from shared.planning import register_contract
from shared.ports import Ledger, LedgerTransaction

log = structlog.get_logger()

#: What the parts of a first load are called, where a backfill has the moment it was asked for.
FIRST_LOAD = "first load"


@dataclass(frozen=True, slots=True)
class BulkRun:
    """A first load in parts, or a backfill."""

    source: str
    table: str
    #: `first load`, or the moment at which a backfill was asked for.
    name: str
    #: In the order of their windows.
    batches: tuple[Batch, ...]

    @property
    def done(self) -> tuple[Batch, ...]:
        """Those that need nothing more."""
        return tuple(batch for batch in self.batches if batch.state in FINAL_STATES)

    @property
    def held(self) -> tuple[Batch, ...]:
        """Those that wait for an operator."""
        return tuple(batch for batch in self.batches if batch.state in HELD_STATES)

    @property
    def is_at_rest(self) -> bool:
        """Whether the fleet has nothing more to do for it."""
        return len(self.done) + len(self.held) == len(self.batches)

    @property
    def row_count(self) -> int:
        """Rows that are published."""
        return sum(batch.counts.get(Count.ROWS_IN_FINAL, 0) for batch in self.done)

    @property
    def planned_at(self) -> datetime:
        """When it was asked for."""
        return min(batch.planned_at for batch in self.batches)

    def time_left(self, now: datetime) -> timedelta | None:
        """Return about how long it still takes, if it goes on as it went; None if that cannot be said."""
        if self.is_at_rest:
            return timedelta(0)
        if not self.done:
            return None
        open_count = len(self.batches) - len(self.done) - len(self.held)
        return (now - self.planned_at) / len(self.done) * open_count


def require_backfillable(contract: TableContract) -> None:
    """
    Make sure that reading a span of a table again changes nothing but what is wrong.

    Raises:
        ConfigurationError: if rows that are read again would stand there twice, or each batch is the whole table.
    """
    place = f"table {contract.source}.{contract.table}"
    if contract.cursor is None:
        raise ConfigurationError(
            f"{place}: expected a table with a cursor; each batch of this one is a snapshot of all of it, and the "
            "next `esclusa enqueue` takes one"
        )
    if contract.publishing.mode is not PublishMode.MERGE:
        raise ConfigurationError(
            f"{place}: expected publish.mode merge, found {contract.publishing.mode}; rows that are read again would "
            "stand there twice"
        )


def plan_backfill(
    contract: TableContract, windows: Sequence[PlannedWindow], *, ledger: Ledger, bucket: str
) -> BulkRun:
    """
    Plan a backfill, all of it or nothing, in one transaction.

    Raises:
        ConfigurationError: if the table cannot be read again, it was never planned, the span is not planned yet, or a
            backfill that is not done reads rows of it too.
    """
    require_backfillable(contract)
    place = f"table {contract.source}.{contract.table}"
    with ledger.transaction() as tx:
        watermark = tx.watermark(contract.source, contract.table)
        if watermark is None:
            raise ConfigurationError(
                f"{place}: nothing of it is planned yet; the first `esclusa enqueue` reads all of it"
            )
        if contract.cursor_scale is not CursorScale.COUNT and windows[-1].window.end > watermark:
            raise ConfigurationError(
                f"{place}: expected a span up to {watermark:%Y-%m-%dT%H:%M:%SZ}, where its live windows go on, found "
                f"one up to {windows[-1].window.end:%Y-%m-%dT%H:%M:%SZ}"
            )
        for run in bulk_runs(tx, source=contract.source, table=contract.table):
            if run.name != FIRST_LOAD and not run.is_at_rest and _overlap(run, windows):
                raise ConfigurationError(
                    f"{place}: the backfill {run.name} reads rows of this span and is not done; "
                    "`esclusa backfills` tells how far it is"
                )
        version = register_contract(tx, contract)
        name = tx.now().astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        for window in windows:
            planned = replace(window, slot=backfill_slot(name, window.slot), is_bulk=True)
            lifecycle.plan(tx, version, planned=planned, bucket=bucket)
        (run,) = [
            run for run in bulk_runs(tx, source=contract.source, table=contract.table) if run.name == name
        ]
    log.info("backfill_planned", source=run.source, table=run.table, run=name, count=len(run.batches))
    return run


def bulk_runs(tx: LedgerTransaction, *, source: str | None = None, table: str | None = None) -> list[BulkRun]:
    """Return the first loads in parts and the backfills, oldest first."""
    found: dict[tuple[str, str, str], list[Batch]] = {}
    for batch in tx.batches(source=source, table=table, bulk_only=True):
        if is_key_sweep(batch.slot):
            # It waits behind the live windows, too, and is no part of anything.
            continue
        name = backfill_run(batch.slot) or FIRST_LOAD
        found.setdefault((batch.source, batch.table, name), []).append(batch)
    runs = [BulkRun(*key, tuple(sorted(batches, key=_position))) for key, batches in found.items()]
    return sorted(runs, key=lambda run: (run.planned_at, run.source, run.table, run.name))


def _position(batch: Batch) -> tuple[datetime, int]:
    """Where a batch stands among those of its run."""
    high = batch.extent.high if batch.extent else None
    return batch.window.end, int(high) if high else 0


def _overlap(run: BulkRun, windows: Sequence[PlannedWindow]) -> bool:
    extents = [window.extent for window in windows if window.extent]
    if extents:
        return any(
            (one.low is None or other.high is None or int(one.low) < int(other.high))
            and (other.low is None or one.high is None or int(other.low) < int(one.high))
            for one in extents
            for other in (batch.extent for batch in run.batches)
            if other is not None
        )
    return any(
        (window.window.start is None or window.window.start < batch.window.end)
        and (batch.window.start is None or batch.window.start < window.window.end)
        for window in windows
        for batch in run.batches
    )
