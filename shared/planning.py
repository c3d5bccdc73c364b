"""What `esclusa enqueue` does: register a source and its contracts, and plan every window that is due."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from shared import lifecycle
from shared.contract_document import sha256_of
from shared.domain.batches import STATES_AT_REST, BatchState
from shared.domain.contracts import ContractVersion, TableContract
from shared.domain.progress import Expectation
from shared.domain.sources import SourceLimits
from shared.domain.windows import PlannedWindow, due_snapshot, due_windows
from shared.ports import Ledger, LedgerTransaction

log = structlog.get_logger()

_OPEN_STATES = frozenset(BatchState) - STATES_AT_REST


@dataclass(frozen=True, slots=True)
class PlannedTable:
    """What planning a table came to."""

    source: str
    table: str
    contract_version: int
    planned: tuple[PlannedWindow, ...]


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
            every, patience = contract.schedule.every, expected_by[contract.table]
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


def plan_source(
    contracts: Sequence[TableContract],
    *,
    ledger: Ledger,
    source_clock: Callable[[], datetime],
    bucket: str,
) -> list[PlannedTable]:
    """
    Plan the due windows of a source's tables, each table in one transaction with its messages.

    The horizon is the source's own clock, read once, before anything is planned: a row that commits later
    than `lag` after its cursor value is caught by the overlap of a later window.

    Raises:
        Unavailable: if the source's clock or the ledger cannot be read. Tables planned before stay planned.
    """
    now = source_clock()
    return [_plan_table(contract, now=now, ledger=ledger, bucket=bucket) for contract in contracts]


def _plan_table(contract: TableContract, *, now: datetime, ledger: Ledger, bucket: str) -> PlannedTable:
    with ledger.transaction() as tx:
        # Locks the table for planning: a second planner waits here and then finds nothing due.
        watermark = tx.watermark(contract.source, contract.table)
        version = register_contract(tx, contract)
        due = _due(tx, contract, watermark=watermark, now=now)
        planned = tuple(
            window for window in due if lifecycle.plan(tx, version, planned=window, bucket=bucket)
        )
        if due:
            tx.set_watermark(contract.source, contract.table, due[-1].window.end)
    if planned:
        log.info("windows_planned", source=contract.source, table=contract.table, count=len(planned))
    return PlannedTable(contract.source, contract.table, version.version, planned)


def _due(
    tx: LedgerTransaction, contract: TableContract, *, watermark: datetime | None, now: datetime
) -> list[PlannedWindow]:
    if contract.cursor is not None:
        return due_windows(watermark, horizon=now - contract.cursor.lag, schedule=contract.schedule)
    if tx.batches(source=contract.source, table=contract.table, states=_OPEN_STATES, limit=1):
        # A snapshot is still on its way; a second one behind it would only supersede it.
        return []
    return due_snapshot(watermark, horizon=now, schedule=contract.schedule)
