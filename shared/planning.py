"""What `esclusa enqueue` does: register a source and its contracts, and plan every window that is due."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from shared import lifecycle
from shared.contract_document import sha256_of
from shared.domain.batches import FINAL_STATES, STATES_AT_REST, BatchState
from shared.domain.contracts import ContractVersion, CursorScale, DeleteMode, PublishMode, TableContract
from shared.domain.progress import CursorCount, Expectation
from shared.domain.sources import SourceLimits
from shared.domain.windows import (
    INITIAL_SLOT,
    MICROSECOND,
    ONE_DAY,
    PlannedWindow,
    Window,
    counted_windows,
    due_key_sweep,
    due_snapshot,
    due_windows,
    floor_to,
    horizon_of,
    slot_of,
)
from shared.errors import ConfigurationError, EsclusaError
from shared.ports import Ledger, LedgerTransaction

log = structlog.get_logger()

_OPEN_STATES = frozenset(BatchState) - STATES_AT_REST


@dataclass(frozen=True, slots=True)
class SourceTime:
    """A source's clock, and since when a transaction that has written is open there; see `Scout`."""

    now: datetime
    open_since: datetime | None

    def horizon(self, contract: TableContract) -> datetime:
        """Return the moment up to which every row of a table has been committed."""
        lag = contract.cursor.lag if contract.cursor else timedelta(0)
        return horizon_of(self.now, lag=lag, open_since=self.open_since)


@dataclass(frozen=True, slots=True)
class Counted:
    """What was seen of a cursor that counts. Both None: the table is empty."""

    lowest: int | None
    #: One more than the largest value.
    below: int | None
    #: On the source's clock, behind the values: whatever is below was given out before.
    at: datetime


@dataclass(frozen=True, slots=True)
class PlannedTable:
    """What planning a table came to."""

    source: str
    table: str
    contract_version: int
    planned: tuple[PlannedWindow, ...]
    #: Why nothing of it could be planned. The other tables of the source are not affected.
    error: EsclusaError | None = None


def register_source(
    contracts: Sequence[TableContract],
    *,
    expected_by: Mapping[str, timedelta],
    limits: SourceLimits,
    ledger: Ledger,
) -> None:
    """
    Record what the file of a source says of how it is run: its limits, and by when each table is expected.

    Done before the source itself is asked for anything, so that one that never answers is late like any other.
    Tables that left the file are expected no more.
    """
    source = contracts[0].source
    with ledger.transaction() as tx:
        guard = tx.source_guard(source)
        if guard.limits != limits:
            tx.save_source_guard(replace(guard, limits=limits))
        now = tx.now()
        for contract in contracts:
            # A window on days ends once a day, however often it is looked for.
            every = max(contract.schedule.every, _resolution(contract))
            patience = expected_by[contract.table]
            tx.save_expectation(Expectation(source, contract.table, every, patience, since=now))
        _expect_no_more(tx, source, but={contract.table for contract in contracts})


def retire_source(source: str, *, ledger: Ledger) -> int:
    """
    Expect nothing of a source any more, and return of how many tables it was. Its batches and files stay.

    Nothing else does it: a source whose file vanished is late, loudly, until a person says that this is meant.
    """
    with ledger.transaction() as tx:
        if not any(item.source == source for item in tx.expectations()):
            return 0
        # Locked before what is expected of it, as who registers it does.
        guard = tx.source_guard(source)
        # Nobody will read it again, so nobody would notice that it answers.
        tx.save_source_guard(guard.after_success())
        return _expect_no_more(tx, source)


def _expect_no_more(tx: LedgerTransaction, source: str, *, but: Collection[str] = ()) -> int:
    tables = [item.table for item in tx.expectations() if item.source == source and item.table not in but]
    for table in tables:
        tx.delete_expectation(source, table)
    return len(tables)


def register_contract(tx: LedgerTransaction, contract: TableContract) -> ContractVersion:
    """Return the contract as the ledger keeps it: the latest version if it is the same, else a new one."""
    latest = tx.latest_contract(contract.source, contract.table)
    digest = sha256_of(contract)
    if latest is not None and latest.sha256 == digest:
        return latest
    version = ContractVersion((latest.version if latest else 0) + 1, digest, contract)
    if tx.insert_contract(version):
        log.info("contract_registered", source=contract.source, table=contract.table, version=version.version)
        return version
    # Another planner was first; what it registered is what counts.
    return tx.contract(contract.source, contract.table, version.version)


class Scout(Protocol):
    """Who looks at a source before something of it is planned. Asked outside of any transaction of the ledger."""

    def clock(self) -> datetime:
        """
        Return the source's own clock, in UTC.

        Raises:
            Unavailable: if it does not answer.
        """
        ...

    def open_since(self) -> datetime | None:
        """
        Return the start of the oldest open transaction that has written, if there is one and the source shows it.

        Raises:
            Unavailable: if it does not answer.
        """
        ...

    def counted(self, contract: TableContract) -> Counted:
        """
        Look at a cursor that counts: its values, and after them the clock.

        Raises:
            Refused: if the table is not as the contract has it.
            Unavailable: if the source does not answer.
        """
        ...

    def first_parts(self, contract: TableContract, whole: Window) -> Sequence[Window]:
        """Return the windows, without gap and oldest first, in which a table is read for the first time."""
        ...


def plan_source(
    contracts: Sequence[TableContract], *, ledger: Ledger, scout: Scout, bucket: str
) -> list[PlannedTable]:
    """
    Plan the due windows of a source's tables, each table in one transaction with its messages.

    A table whose cursor cannot be counted holds up none of the others.

    The horizon is the source's own clock less the lag, read once, before anything is planned, or the start of the
    oldest transaction that has written and is still open: what that one commits bears no earlier moment.

    Raises:
        Unavailable: if the source's clock or the ledger cannot be read. Tables planned before stay planned.
    """
    time = SourceTime(scout.clock(), scout.open_since())
    with ledger.transaction() as tx:
        planned_before = {(item.source, item.table) for item in tx.table_progress()}
    planned = []
    for contract in contracts:
        counted, first, error = None, [], None
        if contract.cursor_scale is CursorScale.COUNT:
            try:
                counted = scout.counted(contract)
            except EsclusaError as failure:
                log.warning(
                    "cursor_not_counted", source=contract.source, table=contract.table, detail=str(failure)
                )
                error = failure
        elif contract.cursor is not None and (contract.source, contract.table) not in planned_before:
            first = _first_load(contract, time=time, scout=scout)
        table = _plan_table(
            contract, time=time, counted=counted, first=first, ledger=ledger, bucket=bucket, error=error
        )
        planned.append(table)
    return planned


def _plan_table(
    contract: TableContract,
    *,
    time: SourceTime,
    counted: Counted | None,
    first: Sequence[PlannedWindow],
    ledger: Ledger,
    bucket: str,
    error: EsclusaError | None,
) -> PlannedTable:
    with ledger.transaction() as tx:
        # Locks the table for planning: a second planner waits here and then finds nothing due.
        watermark = tx.watermark(contract.source, contract.table)
        version = register_contract(tx, contract)
        due: list[PlannedWindow] = []
        planned_until = None
        if counted is not None:
            error = _numbers_that_would_double_rows(tx, contract, watermark=watermark)
        if counted is not None and error is None:
            due, planned_until = _due_counts(
                tx, contract, replace(time, now=counted.at), counted, watermark=watermark
            )
        elif error is None:
            # Looked at before the lock: another planner may have been first.
            is_first = bool(first) and watermark is None
            due = list(first) if is_first else _due(tx, contract, watermark=watermark, time=time)
            planned_until = due[-1].window.end if due else None
        planned = tuple(
            window for window in due if lifecycle.plan(tx, version, planned=window, bucket=bucket)
        )
        if planned_until is not None:
            tx.set_watermark(contract.source, contract.table, planned_until)
        if watermark is not None:
            planned += _plan_key_sweep(tx, version, planned_until=planned_until or watermark, bucket=bucket)
    if planned:
        log.info("windows_planned", source=contract.source, table=contract.table, count=len(planned))
    return PlannedTable(contract.source, contract.table, version.version, planned, error)


def _plan_key_sweep(
    tx: LedgerTransaction, version: ContractVersion, *, planned_until: datetime, bucket: str
) -> tuple[PlannedWindow, ...]:
    """Plan the key sweep that is due, once nothing of the one before is on its way."""
    contract = version.contract
    if contract.deletes.mode is not DeleteMode.SWEEP:
        return ()
    last = tx.last_key_sweep(contract.source, contract.table)
    if last is not None and last.state not in FINAL_STATES:
        return ()
    due = due_key_sweep(
        last.window.end if last else None, planned_until=planned_until, every=contract.deletes.every
    )
    if due is None or not lifecycle.plan(tx, version, planned=due, bucket=bucket):
        return ()
    return (due,)


def _first_load(contract: TableContract, *, time: SourceTime, scout: Scout) -> list[PlannedWindow]:
    """Return the parts in which a table that was never read is read first."""
    (whole,) = _due_moments(contract, watermark=None, time=time)
    windows = scout.first_parts(contract, whole.window)
    return [
        PlannedWindow(
            slot_of(window.start) if window.start else INITIAL_SLOT, window, is_bulk=len(windows) > 1
        )
        for window in windows
    ]


def _due(
    tx: LedgerTransaction, contract: TableContract, *, watermark: datetime | None, time: SourceTime
) -> list[PlannedWindow]:
    if contract.cursor is not None:
        return _due_moments(contract, watermark=watermark, time=time)
    if tx.batches(source=contract.source, table=contract.table, states=_OPEN_STATES, limit=1):
        # A snapshot is still on its way; a second one behind it would only supersede it.
        return []
    return due_snapshot(watermark, horizon=time.now, schedule=contract.schedule)


def _due_moments(
    contract: TableContract, *, watermark: datetime | None, time: SourceTime
) -> list[PlannedWindow]:
    return due_windows(
        watermark,
        horizon=time.horizon(contract),
        schedule=contract.schedule,
        resolution=_resolution(contract),
    )


def _resolution(contract: TableContract) -> timedelta:
    """Return how far apart two values of a cursor are at least."""
    return ONE_DAY if contract.cursor_scale is CursorScale.DAY else MICROSECOND


def _known_count(tx: LedgerTransaction, contract: TableContract) -> CursorCount | None:
    """Return what is known of the numbers of the contract's own cursor."""
    known = tx.cursor_count(contract.source, contract.table)
    return known if known and contract.cursor and known.column == contract.cursor.column else None


def _numbers_that_would_double_rows(
    tx: LedgerTransaction, contract: TableContract, *, watermark: datetime | None
) -> ConfigurationError | None:
    """Say that a table has got a cursor by which its rows would be read, and stand there, once more."""
    if contract.publishing.mode is not PublishMode.APPEND:
        return None
    if watermark is None or _known_count(tx, contract) is not None:
        return None
    return ConfigurationError(
        f"table {contract.source}.{contract.table}: expected the cursor that it was planned with, found "
        f"{contract.cursor.column if contract.cursor else None!r}, which counts; all rows would be read anew and, "
        "with publish.mode append, stand there twice. Take the cursor back, or give the table another name"
    )


def _due_counts(
    tx: LedgerTransaction,
    contract: TableContract,
    time: SourceTime,
    counted: Counted,
    *,
    watermark: datetime | None,
) -> tuple[list[PlannedWindow], datetime | None]:
    """
    Return the windows of a cursor that counts that are due, and up to where the table is planned with them.

    What is seen of the numbers now is planned once the lag has passed: by then every row with a number below the one
    that was seen has been committed. Until it is planned nothing else is noted. A table that has got this cursor only
    now is read from the beginning.
    """
    every = contract.schedule.every
    column = contract.cursor.column if contract.cursor else ""
    known = _known_count(tx, contract)
    is_of_another_interval = known is None or floor_to(counted.at, every) > floor_to(known.seen_at, every)
    if known is None:
        known = CursorCount(column, None, counted.at, counted.below)
    elif watermark is not None and known.seen_at <= watermark and is_of_another_interval:
        known = replace(known, seen_at=counted.at, seen_below=counted.below)
    if watermark is not None and known.seen_at <= watermark:
        # It was planned, or the source's clock was set back: what is seen now is of no later moment.
        return [], None
    if time.horizon(contract) < known.seen_at:
        tx.set_cursor_count(contract.source, contract.table, known)
        return [], None
    window = Window(watermark, known.seen_at)
    due = counted_windows(
        column,
        window,
        first=counted.lowest,
        low=known.planned_below,
        high=known.seen_below,
        rows_per_part=contract.schedule.rows_per_part,
    )
    planned = replace(known, planned_below=known.seen_below if due else known.planned_below)
    if is_of_another_interval:
        planned = replace(planned, seen_at=counted.at, seen_below=counted.below)
    tx.set_cursor_count(contract.source, contract.table, planned)
    return due, known.seen_at
