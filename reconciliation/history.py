"""What there is to compare of a table, by the ledger: its published batches, and which of them are compared together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from reconciliation.positions import Bounds, Stretch, overlap_of, stretch_of
from reconciliation.settled import SettledWindow, Timeline, settled_windows
from reconciliation.shape import Shape, common_shape
from shared.domain.batches import Batch, BatchState
from shared.domain.contracts import CursorScale, TableContract, Target
from shared.domain.windows import Window, is_key_sweep, is_second_reading
from shared.ports import Ledger
from shared.rollbacks import rollback_of

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

    #: Published batches by the moments that they show, and then as they were published: in the order in which of two
    #: equal versions of a row the later takes the place of the earlier.
    published: tuple[Batch, ...]
    unpublished: tuple[Batch, ...]
    contracts: dict[int, TableContract]
    #: The last published batch that read all keys, to find the rows that are gone.
    key_sweep: Batch | None
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
    def scale(self) -> CursorScale:
        """By what rows are told apart; snapshots are, by the moment they were taken."""
        return self.newest.cursor_scale or CursorScale.MOMENT

    @property
    def windows(self) -> tuple[Batch, ...]:
        """Those of them that read a window, or a part of one, first, by the cursor of today."""
        return tuple(
            batch
            for batch in self.batches
            if not is_second_reading(batch.slot) and self._is_alike(batch.contract_version)
        )

    def other_window_count(self, span: Span) -> int:
        """Return how many windows of a span were read by a cursor that the table no longer has."""
        return sum(
            span.covers(batch.window) and not is_second_reading(batch.slot)
            for batch in self.batches
            if not self._is_alike(batch.contract_version)
        )

    def stretch_of(self, batch: Batch) -> Stretch | None:
        """Return what a batch reads; None if its contract had another cursor."""
        return stretch_of(batch, self.scale) if self._is_alike(batch.contract_version) else None

    def _is_alike(self, contract_version: int) -> bool:
        """Whether the cursor of a contract is the newest one's."""
        one, other = self.newest, self.contracts[contract_version]
        names = [contract.cursor.column if contract.cursor else None for contract in (one, other)]
        return one.cursor_scale is other.cursor_scale and names[0] == names[1]

    def settled(self) -> list[SettledWindow]:
        """Return the windows to which nothing more comes, oldest first."""
        overlap = max(
            overlap_of(contract) for version, contract in self.contracts.items() if self._is_alike(version)
        )
        return settled_windows(self.windows, scale=self.scale, overlap=overlap)

    def second_readings_of(self, window: SettledWindow) -> list[Batch]:
        """Return the batches on their way that read rows of a window again."""
        return [
            batch
            for batch in self.unpublished
            if is_second_reading(batch.slot)
            and (stretch := stretch_of(batch, self.scale))
            and stretch.meets(window.stretch)
        ]

    def unpublished_count(self, span: Span) -> int:
        """Return how many windows of a span are not published."""
        return sum(
            span.covers(batch.window) for batch in self.unpublished if not is_second_reading(batch.slot)
        )


def read_history(source: str, table: str, *, ledger: Ledger) -> History:
    """Return the batches of a table and their contracts."""
    with ledger.transaction() as tx:
        found = tx.batches(source=source, table=table)
        batches = [batch for batch in found if not is_key_sweep(batch.slot)]
        # Those that a rollback withdrew are not in the table, and are looked at as if they were still to come.
        rollback = rollback_of(tx, source, table)
        withdrawn = set(rollback.withdrawn_batch_ids) if rollback else set()
        published = [
            batch for batch in batches if batch.state is BatchState.PUBLISHED and batch.id not in withdrawn
        ]
        sweeps = [
            batch
            for batch in found
            if is_key_sweep(batch.slot) and batch.state is BatchState.PUBLISHED and batch.id not in withdrawn
        ]
        contracts = {
            version: tx.contract(source, table, version).contract
            for version in {batch.contract_version for batch in [*published, *sweeps]}
        }
        latest = tx.latest_contract(source, table)
    return History(
        published=tuple(sorted(published, key=lambda batch: (batch.as_of, batch.changed_at))),
        unpublished=tuple(batch for batch in batches if batch.state not in _DONE or batch.id in withdrawn),
        contracts=contracts,
        key_sweep=max(sweeps, key=lambda batch: batch.window.end, default=None),
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
    def bounds(self) -> Bounds | None:
        """From the beginning of the first window to the end of the last; None for a table without a cursor."""
        if self.contract.cursor is None:
            return None
        high = max(window.stretch.high for window in self.compared)
        return Bounds.of(self.contract, Stretch(self.compared[0].stretch.low, high))

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
        batches = tuple(
            batch for batch in history.batches if _may_hold_rows_of(compared[0], batch, history=history)
        )
        others = {batch.contract_version for batch in batches}
        shape = common_shape(history.newest, [history.contracts[other] for other in sorted(others)])
        if isinstance(shape, str):
            yield f"{len(compared)} windows under contract {version} were not compared: {shape}"
        else:
            yield Group(shape, history.newest, compared, tuple(settled), batches)


def _may_hold_rows_of(first: SettledWindow, batch: Batch, *, history: History) -> bool:
    """Whether rows of a window, or of newer ones, may lie in the files of a batch."""
    stretch = history.stretch_of(batch)
    if stretch is not None:
        return first.stretch.low is None or stretch.high > first.stretch.low
    # Of another cursor: nobody knows where its rows lie, but what was planned before was read again since.
    start = first.batch.window.start
    return start is None or batch.window.end > start
