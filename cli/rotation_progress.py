"""What still stands under the key before while the keys of a source are rotated, by the ledger."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.domain.batches import HELD_STATES, STATES_AT_REST, Batch, BatchState
from shared.domain.contracts import CursorScale, MaskKind, PublishMode, TableContract
from shared.domain.windows import EPOCH, Extent
from shared.ports import Ledger, LedgerTransaction


@dataclass(frozen=True, slots=True)
class TableProgress:
    """How far a table has come from one key to the next."""

    source: str
    table: str
    #: Columns that leave under both keys.
    columns: tuple[str, ...]
    #: Batches that were planned under the key before and are on their way with it.
    under_way: tuple[Batch, ...]
    #: Such as are held: a replay takes the newest contract and with it the new key.
    held: tuple[Batch, ...]
    #: Published batches whose rows nothing has read again under the new key.
    unread: tuple[Batch, ...]

    @property
    def is_done(self) -> bool:
        """Whether nothing stands or comes under the key before."""
        return not (self.under_way or self.held or self.unread)


def look_at_rotation(contracts: Iterable[TableContract], *, ledger: Ledger) -> list[TableProgress]:
    """Return how far the tables are whose contracts, as their source file has them, write pseudonyms under two keys."""
    rotating = [contract for contract in contracts if any(column.made_from for column in contract.columns)]
    found = []
    for contract in rotating:
        with ledger.transaction() as tx:
            found.append(_look_at_table(contract, tx))
    return found


def _look_at_table(contract: TableContract, tx: LedgerTransaction) -> TableProgress:
    batches = tx.batches(source=contract.source, table=contract.table)
    versions = {batch.contract_version for batch in batches}
    old_versions = {
        version
        for version in versions
        if _is_under_old_key(tx.contract(contract.source, contract.table, version).contract, now=contract)
    }
    old = [batch for batch in batches if batch.contract_version in old_versions]
    published = [batch for batch in batches if batch.state is BatchState.PUBLISHED]
    return TableProgress(
        source=contract.source,
        table=contract.table,
        columns=tuple(column.made_from for column in contract.columns if column.made_from),
        under_way=tuple(batch for batch in old if batch.state not in STATES_AT_REST),
        held=tuple(batch for batch in old if batch.state in HELD_STATES),
        unread=tuple(
            unread_batches(
                contract,
                old=[batch for batch in published if batch.contract_version in old_versions],
                new=[batch for batch in published if batch.contract_version not in old_versions],
            )
        ),
    )


def _is_under_old_key(frozen: TableContract, *, now: TableContract) -> bool:
    """Whether a batch of a frozen contract has pseudonyms under another key where the file has the new one."""
    rotated = {column.made_from for column in now.columns if column.made_from}
    key_ids = {column.name: column.mask.key_id for column in now.columns}
    return any(
        column.name in rotated
        and column.mask.kind is MaskKind.HMAC
        and column.mask.key_id != key_ids[column.name]
        for column in frozen.columns
    )


# ---- what was read again -------------------------------------------------------------------------------------


def unread_batches(contract: TableContract, *, old: Sequence[Batch], new: Sequence[Batch]) -> list[Batch]:
    """Return the old batches whose rows the new ones have not read, each of them whole, oldest first."""
    if contract.publishing.mode is PublishMode.REPLACE:
        newest = max([*old, *new], key=lambda batch: batch.window.end, default=None)
        return [newest] if newest in old and newest is not None else []
    spans = [_span_of(batch, contract) for batch in new]
    return sorted(
        (batch for batch in old if not _is_covered(_span_of(batch, contract), spans)),
        key=lambda batch: batch.window.end,
    )


@dataclass(frozen=True, slots=True)
class _Span:
    """Which rows a batch read: half-open on the cursor, in its numbers or in microseconds."""

    low: float
    high: float
    #: And of these only the rows in a range of another column.
    part: Extent | None = None


def _span_of(batch: Batch, contract: TableContract) -> _Span:
    window, extent = batch.window, batch.extent
    if contract.cursor_scale is CursorScale.COUNT:
        low, high = (extent.low, extent.high) if extent else (None, None)
        return _Span(-math.inf if low is None else int(low), math.inf if high is None else int(high))
    start = -math.inf if window.start is None else _microseconds(window.start)
    return _Span(start, _microseconds(window.end), part=extent)


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def _is_covered(span: _Span, others: Iterable[_Span]) -> bool:
    # A part with other bounds is not counted, though it may hold the same rows: rather once too often than not at all.
    usable = sorted((other.low, other.high) for other in others if other.part in {None, span.part})
    reached = span.low
    for low, high in usable:
        if low > reached:
            break
        reached = max(reached, high)
    return reached >= span.high
