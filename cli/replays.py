"""Replaying and giving up one batch at a time: what it came to, or why it was not done."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cli.held import RejectedRows, rejected_rows
from cli.output import NotDone, NotFound
from shared import lifecycle
from shared.domain.batches import HELD_STATES, Batch, BatchState
from shared.domain.contracts import ContractVersion, PublishMode, TableContract
from shared.domain.files import TRANSIENT_AREAS, Area, DataFile
from shared.errors import ConfigurationError, EsclusaError
from shared.planning import register_contract
from shared.ports import Ledger, LedgerTransaction

if TYPE_CHECKING:
    from shared.catalog import Catalog

log = structlog.get_logger()


class GoesOnFrom(StrEnum):
    """Where a replayed batch begins."""

    SOURCE = "source"
    COMMITTED_FILES = "committed_files"


@dataclass(frozen=True, slots=True)
class Replayed:
    """What replaying a batch came to."""

    batch_id: str
    #: As it was before.
    before: Batch | None = None
    state: BatchState | None = None
    goes_on_from: GoesOnFrom | None = None
    contract_version: int | None = None
    #: The batch that reads the rejected rows again.
    planned_batch_id: str | None = None
    remark: str | None = None
    error: EsclusaError | None = None


@dataclass(frozen=True, slots=True)
class Replays:
    """How batches are replayed: under which contracts, with which note, or only on trial."""

    ledger: Ledger
    #: The source files; None if there are none here.
    catalog: "Catalog | None"
    note: str = ""
    #: Everything is done and then undone.
    is_trial: bool = False
    #: What the limits of the contract would hold back again is approved.
    is_approved: bool = False

    def replay(self, batch_id: str) -> Replayed:
        """Send a held batch on its way again, under the newest contract of its table."""
        with self._transaction() as tx:
            batch = _locked(tx, batch_id)
            _require_held(batch, to="replayed")
            contract = self._contract(tx, batch)
            remark = _remark_on_snapshot(tx, batch, contract.contract)
            moved = lifecycle.replay(
                tx, batch.id, contract=contract, detail=self.note, is_approved=self.is_approved
            )
        state = moved.state if moved else None
        if not self.is_trial:
            log.info("batch_replayed", batch_id=batch.id, state=state, contract_version=contract.version)
        return Replayed(
            batch.id,
            batch,
            state,
            GoesOnFrom.SOURCE if state is BatchState.PLANNED else GoesOnFrom.COMMITTED_FILES,
            contract.version,
            remark=remark,
        )

    def replay_rejects(self, batch_id: str) -> Replayed:
        """Have the window of a published batch read again for its rejected rows, by a batch of its own."""
        with self._transaction() as tx:
            rejected = _with_rejects(tx, _locked(tx, batch_id))
            batch = rejected.batch
            contract = self._contract(tx, batch)
            _require_merge(batch, contract.contract)
            planned = lifecycle.plan_again(tx, batch, contract=contract, detail=self.note)
            if planned is None:
                # Looked up anew: somebody may have been first just now.
                raise NotDone(_under_way(rejected_rows(tx, batch)))
        if not self.is_trial:
            log.info("rejects_replayed", batch_id=batch.id, planned_batch_id=planned.id)
        return Replayed(
            batch.id,
            batch,
            planned.state,
            GoesOnFrom.SOURCE,
            contract.version,
            planned_batch_id=planned.id,
        )

    @contextmanager
    def _transaction(self) -> Iterator[LedgerTransaction]:
        with suppress(_Undone), self.ledger.transaction() as tx:
            yield tx
            if self.is_trial:
                raise _Undone

    def _contract(self, tx: LedgerTransaction, batch: Batch) -> ContractVersion:
        declared = self._declared_contract(batch)
        contract = (
            register_contract(tx, declared) if declared else tx.latest_contract(batch.source, batch.table)
        )
        if contract is None:
            raise NotDone(f"batch {batch.id}: the ledger holds no contract of its table")
        return contract

    def _declared_contract(self, batch: Batch) -> TableContract | None:
        """
        Return the contract of a batch's table as the source files have it; None if they do not know the table.

        Raises:
            ConfigurationError: if the file of its source has mistakes.
        """
        if self.catalog is None:
            return None
        mistakes = [
            str(problem) for problem in self.catalog.problems if Path(problem.file).stem == batch.source
        ]
        if mistakes:
            raise ConfigurationError("\n".join([f"batch {batch.id} was not replayed:", *mistakes]))
        for contract in self.catalog.contracts():
            if (contract.source, contract.table) == (batch.source, batch.table):
                return contract
        return None


class _Undone(Exception):
    """Rolls a transaction back and means nothing else."""


# ---- giving up ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loss:
    """What is lost and what is deleted if a batch, or its rejected rows, are given up."""

    batch: Batch
    #: Rows that will not come, as far as they were ever counted.
    row_count: int | None
    #: Whether the next snapshot brings them anyway.
    is_made_up_for: bool
    files: list[DataFile] = field(default_factory=list)

    @property
    def size_in_bytes(self) -> int:
        """How much is deleted."""
        return sum(file.file_size_in_bytes for file in self.files)


#: The last count that is known tells most.
_ROW_COUNTS = ("rows_in_final", "rows_written", "rows_read")


def loss_of(tx: LedgerTransaction, batch_id: str) -> Loss:
    """
    Return what giving a held batch up costs.

    Raises:
        NotFound: if there is no such batch.
        NotDone: if it is not held.
    """
    batch = _found(tx.batch(batch_id), batch_id)
    _require_held(batch, to="discarded")
    present = tx.files(batch_id=batch.id, areas=[*TRANSIENT_AREAS, Area.QUARANTINE], present_only=True)
    row_count = next((batch.counts[name] for name in _ROW_COUNTS if name in batch.counts), None)
    return Loss(batch, row_count, _is_replaced(tx, batch), present)


def loss_of_rejects(tx: LedgerTransaction, batch_id: str) -> Loss:
    """
    Return what giving up the rejected rows of a published batch costs.

    Raises:
        NotFound: if there is no such batch.
        NotDone: if it is not published, or has no list of rejected rows.
    """
    rejected = _with_rejects(tx, _found(tx.batch(batch_id), batch_id))
    batch = rejected.batch
    return Loss(batch, batch.counts.get("rows_rejected"), _is_replaced(tx, batch), list(rejected.files))


def discard(ledger: Ledger, batch_id: str, *, because: str) -> None:
    """Give a held batch up. Raises `NotDone` if it is not held any more."""
    with ledger.transaction() as tx:
        batch = _locked(tx, batch_id)
        _require_held(batch, to="discarded")
        lifecycle.discard(tx, batch.id, detail=because)
    log.warning("batch_discarded", batch_id=batch_id)


def discard_rejects(ledger: Ledger, batch_id: str, *, because: str) -> None:
    """Give the rejected rows of a published batch up. Raises `NotDone` if somebody did already."""
    with ledger.transaction() as tx:
        rejected = _with_rejects(tx, _locked(tx, batch_id))
        lifecycle.discard_rejects(tx, rejected.batch, detail=because)
    log.warning("rejects_discarded", batch_id=batch_id)


# ---- what stands in the way --------------------------------------------------------------------------------


def _locked(tx: LedgerTransaction, batch_id: str) -> Batch:
    return _found(tx.batch(batch_id, lock=True), batch_id)


def _found(batch: Batch | None, batch_id: str) -> Batch:
    if batch is None:
        raise NotFound(f"batch {batch_id!r}: the ledger holds none of that id")
    return batch


def _require_held(batch: Batch, *, to: str) -> None:
    if batch.state not in HELD_STATES:
        raise NotDone(
            f"batch {batch.id}: expected {' or '.join(sorted(HELD_STATES))}, found {batch.state}; "
            f"only a batch that is held can be {to}"
        )


def _with_rejects(tx: LedgerTransaction, batch: Batch) -> RejectedRows:
    if batch.state in HELD_STATES:
        raise NotDone(
            f"batch {batch.id}: expected {BatchState.PUBLISHED}, found {batch.state}; "
            "it is held as a whole: leave out --rejects"
        )
    rejected = rejected_rows(tx, batch)
    if batch.state is not BatchState.PUBLISHED or not rejected.files:
        raise NotDone(
            f"batch {batch.id}: expected a published batch with a list of rejected rows, found {batch.state}, "
            f"{batch.counts.get('rows_rejected', 0)} rows rejected and {len(rejected.files)} lists in quarantine/"
        )
    return rejected


def _require_merge(batch: Batch, contract: TableContract) -> None:
    where = f"batch {batch.id}: {batch.source}.{batch.table}"
    if contract.publishing.mode is PublishMode.APPEND:
        raise NotDone(
            f"{where} is appended to, so reading the window again would double the rows that did arrive; "
            f"mend the rows at the source so that their {_cursor_name(contract)} moves, and a later window brings "
            "them, or give them up: esclusa quarantine discard --rejects"
        )
    if contract.publishing.mode is PublishMode.REPLACE:
        raise NotDone(
            f"{where} is replaced by each snapshot: after the cure the next one brings the rows, "
            "and nothing has to be replayed"
        )


def _cursor_name(contract: TableContract) -> str:
    return f"cursor {contract.cursor.column!r}" if contract.cursor else "cursor"


def _under_way(rejected: RejectedRows) -> str:
    last = rejected.readings[-1]
    if last.state in HELD_STATES:
        advice = f"cure that and replay it: esclusa quarantine show {last.id}"
    else:
        advice = "wait for it"
    return f"batch {rejected.batch.id}: batch {last.id} reads its rejected rows already, and is {last.state}; {advice}"


def _remark_on_snapshot(tx: LedgerTransaction, batch: Batch, contract: TableContract) -> str | None:
    """Return what to say of a snapshot that has been overtaken."""
    if contract.publishing.mode is not PublishMode.REPLACE:
        return None
    published = tx.batches(
        source=batch.source, table=batch.table, states={BatchState.PUBLISHED}, newest_first=True, limit=1
    )
    if not published or published[0].window.end <= batch.window.end:
        return None
    return f"a newer snapshot is published ({published[0].id}): this one will end superseded; discarding costs nothing"


def _is_replaced(tx: LedgerTransaction, batch: Batch) -> bool:
    contract = tx.contract(batch.source, batch.table, batch.contract_version).contract
    return contract.publishing.mode is PublishMode.REPLACE
