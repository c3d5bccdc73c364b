"""What there is to compare of a table, by the ledger: its published batches, and which of them are compared together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from reconciliation.settled import SettledWindow, Timeline, settled_windows
from reconciliation.shape import Shape, common_shape
from shared.domain.batches import Batch, BatchState
from shared.domain.contracts import TableContract, Target
from shared.domain.windows import Window, is_second_reading, rejects_slot_number
from shared.ports import Ledger

#: States of batches whose rows are in the table, or will never be.
_DONE = frozenset({BatchState.PUBLISHED, BatchState.SUPERSEDED, BatchState.DISCARDED})


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


@dataclass(frozen=True, slots=True)
class History:
    """What the ledger knows of a table."""

    #: Published batches, by the moments that they show; the second readings of a window behind the first.
    published: tuple[Batch, ...]
    unpublished: tuple[Batch, ...]
    contracts: dict[int, TableContract]

    #: How the source is reached today.
    connection: Mapping[str, str]

    @property
    def newest(self) -> TableContract:
        """The newest contract under which something was published; the source may have moved since."""
        contract = self.contracts[max(batch.contract_version for batch in self.published)]
        return replace(contract, origin=replace(contract.origin, connection=self.connection))

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches whose rows the table should show: of a replaced one, those of the newest snapshot."""
        if self.newest.cursor is None:
            return self.published[-1:]
        return tuple(batch for batch in self.published if self.contracts[batch.contract_version].cursor)

    @property
    def windows(self) -> tuple[Batch, ...]:
        """Those of them that read a window first: one for each window."""
        return tuple(batch for batch in self.batches if not is_second_reading(batch.slot))

    def settled(self) -> list[SettledWindow]:
        """Return the windows to which nothing more comes, oldest first."""
        overlaps = [contract.cursor.overlap for contract in self.contracts.values() if contract.cursor]
        return settled_windows(self.windows, overlap=max(overlaps) if self.newest.cursor else timedelta(0))

    def unpublished_count(self, span: Span) -> int:
        """Return how many windows of a span are not published."""
        return sum(
            span.covers(batch.window) for batch in self.unpublished if not is_second_reading(batch.slot)
        )


def read_history(source: str, table: str, *, ledger: Ledger) -> History:
    """Return the batches of a table and their contracts."""
    with ledger.transaction() as tx:
        batches = tx.batches(source=source, table=table)
        published = [batch for batch in batches if batch.state is BatchState.PUBLISHED]
        contracts = {
            version: tx.contract(source, table, version).contract
            for version in {batch.contract_version for batch in published}
        }
        latest = tx.latest_contract(source, table)
    return History(
        published=tuple(
            sorted(published, key=lambda batch: (batch.as_of, rejects_slot_number(batch.slot)))
        ),
        unpublished=tuple(batch for batch in batches if batch.state not in _DONE),
        contracts=contracts,
        connection=latest.contract.origin.connection if latest else {},
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
        return Window(self.compared[0].start, max(window.until for window in self.compared))

    @property
    def has_native_target(self) -> bool:
        """Whether the rows go to the warehouse."""
        return self.contract.publishing.target is not Target.EXTERNAL


def compared_groups(
    history: History, settled: Sequence[SettledWindow], *, asked: Sequence[SettledWindow]
) -> Iterator[Group | str]:
    """Return the windows asked for by contract; in place of those that cannot be compared, why."""
    for version in sorted({window.batch.contract_version for window in asked}):
        compared = tuple(window for window in asked if window.batch.contract_version == version)
        start = compared[0].start
        batches = tuple(batch for batch in history.batches if start is None or batch.window.end > start)
        others = {batch.contract_version for batch in batches}
        shape = common_shape(history.newest, [history.contracts[other] for other in sorted(others)])
        if isinstance(shape, str):
            yield f"{len(compared)} windows under contract {version} were not compared: {shape}"
        else:
            yield Group(shape, history.newest, compared, tuple(settled), batches)
