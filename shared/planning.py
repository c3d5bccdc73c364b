"""What `esclusa enqueue` does: register the contracts of a source and plan every window that is due."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from shared import lifecycle
from shared.contract_document import sha256_of
from shared.domain.batches import STATES_AT_REST, BatchState
from shared.domain.contracts import ContractVersion, TableContract
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
