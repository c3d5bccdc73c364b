"""
The life of a compaction in the ledger, told once, and which files the rows of a batch are read from because of it.

    writing    its file is being written, under a lease; nobody reads it
    prepared   of a widening: its file waits until those of all its table's batches do; nobody reads it
    committed  one transaction names its file and says which rows of it are whose; from then on it is read
    undone     another says that the files of its batches are read again
    replaced   a widening holds its rows, in the types of a newer contract
    abandoned  it came to nothing

A *widening* is a compaction whose file has wider types than its batches were read in. All that a table needs are
committed by one transaction: so the ledger never shows rows of both types.

The files that nobody reads any more stay for a while: whoever began to read them may end. Then the sweeper deletes them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

from shared.domain.batches import Batch, BatchState
from shared.domain.compactions import Compaction, CompactionState
from shared.domain.contracts import TableContract
from shared.domain.files import Area, DataFile, Location, compaction_key
from shared.errors import LostLease
from shared.ports import LedgerTransaction
from shared.rollbacks import is_moving


def file_of(compaction: Compaction) -> Location:
    """Return where the one file of a compaction lies."""
    key = compaction_key(table=compaction.table, day=compaction.day, compaction_id=compaction.id)
    return Location(compaction.bucket, key)


def commit(tx: LedgerTransaction, compaction_id: str, *, file: DataFile, retention: timedelta) -> Compaction:
    """
    Have the file of a compaction read in place of those of its batches.

    Raises:
        LostLease: if it took longer than its lease, or a batch is no longer what it was; nothing changes then.
    """
    compaction = _being_written(tx, compaction_id)
    batches = lock_batches(tx, [part.batch_id for part in compaction.batches])
    # What others did is looked up behind the locks: whoever held them before has committed it by now.
    if is_moving(tx, compaction.source, compaction.table):
        raise LostLease(
            f"compaction {compaction.id}: the table is led to an earlier state, or forward, meanwhile"
        )
    compacted = CommittedRows.of(tx, compaction.source, compaction.table)
    for part, batch in zip(compaction.batches, batches, strict=True):
        if batch is None or batch.state is not BatchState.PUBLISHED or compacted.compaction_of(batch.id):
            raise LostLease(
                f"compaction {compaction.id}: batch {part.batch_id} is compacted or held meanwhile"
            )
    _insert_file(tx, compaction, file)
    return _decide(tx, compaction, CompactionState.COMMITTED, retention=retention)


def prepare(tx: LedgerTransaction, compaction_id: str, *, file: DataFile) -> Compaction:
    """
    Keep the file of a widening until those of all its table's batches are there.

    Raises:
        LostLease: if it took longer than its lease.
    """
    compaction = _being_written(tx, compaction_id)
    _insert_file(tx, compaction, file)
    prepared = replace(compaction, state=CompactionState.PREPARED, decided_at=tx.now())
    tx.save_compaction(prepared)
    return prepared


def commit_widenings(
    tx: LedgerTransaction, compaction_ids: Collection[str], *, retention: timedelta
) -> list[Compaction]:
    """
    Have the files of a table's prepared widenings read in place of all others of their batches, all at once.

    Compactions that hold the rows of these batches are replaced.

    Raises:
        LostLease: if one of them is no longer what it was, the table is led elsewhere, or batches were compacted
            meanwhile that would be torn apart; nothing changes then.
    """
    prepared = [_locked(tx, compaction_id) for compaction_id in sorted(compaction_ids)]
    for compaction in prepared:
        if compaction.state is not CompactionState.PREPARED:
            raise LostLease(f"compaction {compaction.id}: it is {compaction.state}, no longer prepared")
    batch_ids = {part.batch_id for compaction in prepared for part in compaction.batches}
    lock_batches(tx, [*batch_ids])
    source, table = prepared[0].source, prepared[0].table
    if is_moving(tx, source, table):
        raise LostLease(f"{source}.{table}: it is led to an earlier state, or forward, meanwhile")
    for found in tx.compactions(source, table, states=[CompactionState.COMMITTED]):
        if not batch_ids.isdisjoint(part.batch_id for part in found.batches):
            before = _locked(tx, found.id)
            if before.state is not CompactionState.COMMITTED or not _lies_within(before, batch_ids):
                raise LostLease(f"compaction {before.id}: batches are compacted otherwise meanwhile")
            # What is deleted from now on is its own file, and not those of its batches.
            unread = replace(before, deletes_begun_at=None, cleaned_at=None)
            _decide(tx, unread, CompactionState.REPLACED, retention=retention)
    return [
        _decide(tx, compaction, CompactionState.COMMITTED, retention=retention) for compaction in prepared
    ]


def _lies_within(compaction: Compaction, batch_ids: Collection[str]) -> bool:
    return all(part.batch_id in batch_ids for part in compaction.batches)


def undo(tx: LedgerTransaction, compaction_id: str, *, retention: timedelta, detail: str) -> Compaction:
    """
    Have the files of the batches of a compaction read again.

    Raises:
        KeyError: if there is no such compaction.
        LostLease: if it is not committed, or the files of its batches are being deleted or gone.
    """
    compaction = _locked(tx, compaction_id)
    if compaction.state is not CompactionState.COMMITTED:
        raise LostLease(
            f"compaction {compaction.id} is {compaction.state}: only a committed one can be undone"
        )
    if compaction.types_version is not None:
        raise LostLease(
            f"compaction {compaction.id} has the types of contract {compaction.types_version}, as the table has by now: "
            "the files that it replaced have narrower ones, and could not be read beside the others; there is no way back"
        )
    if compaction.deletes_begun_at is not None:
        raise LostLease(
            f"compaction {compaction.id}: the files it replaced are deleted since "
            f"{compaction.deletes_begun_at:%Y-%m-%dT%H:%M:%SZ}; there is no way back, and its own file holds every row"
        )
    return _decide(tx, replace(compaction, detail=detail), CompactionState.UNDONE, retention=retention)


def lock_batches(tx: LedgerTransaction, batch_ids: Sequence[str]) -> list[Batch | None]:
    """
    Lock batches against whoever compacts them, or withdraws them by a rollback, at the same moment; return them.

    In one order, whoever locks several.
    """
    locked = {batch_id: tx.batch(batch_id, lock=True) for batch_id in sorted(batch_ids)}
    return [locked[batch_id] for batch_id in batch_ids]


def abandon(tx: LedgerTransaction, compaction_id: str, *, detail: str) -> None:
    """
    Give a compaction up that is not committed.

    What it has written is a stray from then on; a file that the ledger names already goes as unread.
    """
    compaction = _locked(tx, compaction_id)
    now = tx.now()
    given_up = replace(compaction, state=CompactionState.ABANDONED, decided_at=now, detail=detail)
    if compaction.state is CompactionState.WRITING:
        tx.save_compaction(given_up)
    elif compaction.state is CompactionState.PREPARED:
        # No catalog ever showed it, and nobody reads it.
        tx.save_compaction(replace(given_up, shown_at=now, delete_after=now))


def record_shown(tx: LedgerTransaction, compaction: Compaction) -> None:
    """Record that the catalog was brought to the state of a compaction, if it still is in it."""
    current = _locked(tx, compaction.id)
    if current.state is compaction.state and current.shown_at is None:
        tx.save_compaction(replace(current, shown_at=tx.now()))


def record_widened(tx: LedgerTransaction, widened: Sequence[Compaction]) -> None:
    """Record that the catalog was brought to widenings, and so away from the compactions that they replaced."""
    batch_ids = {part.batch_id for compaction in widened for part in compaction.batches}
    source, table = widened[0].source, widened[0].table
    replaced = tx.compactions(source, table, states=[CompactionState.REPLACED])
    for compaction in [*widened, *(one for one in replaced if one.carrier.batch_id in batch_ids)]:
        record_shown(tx, compaction)


def take_unread(tx: LedgerTransaction, compaction_id: str) -> list[DataFile]:
    """
    Return the files that nobody reads any more and whose time is over, and let there be no way back.

    Those of the batches of a committed compaction; its own, if it is not read any more. None of one that has time left.
    """
    compaction = _locked(tx, compaction_id)
    now = tx.now()
    if compaction.shown_at is None or compaction.delete_after is None or now <= compaction.delete_after:
        return []
    files = unread_files(tx, compaction)
    begun_at = compaction.deletes_begun_at or now
    tx.save_compaction(replace(compaction, deletes_begun_at=begun_at, cleaned_at=None if files else now))
    return files


def unread_files(tx: LedgerTransaction, compaction: Compaction) -> list[DataFile]:
    """Return the files that are still there and that nobody reads because of a compaction."""
    if compaction.state is not CompactionState.COMMITTED:
        file = tx.file(file_of(compaction))
        return [file] if file is not None and file.deleted_at is None else []
    found = []
    for part in compaction.batches:
        batch = tx.batch(part.batch_id)
        if batch is not None:
            found += tx.files(
                batch_id=batch.id, areas=[Area.FINAL], attempt=batch.committed_attempt, present_only=True
            )
    return found


@dataclass(frozen=True, slots=True)
class CommittedRows:
    """Where the rows of the published batches of one table are read from: their own files, or those of compactions."""

    #: By the id of the batch.
    _compactions: Mapping[str, Compaction]
    #: The newest contract to whose types files of the table were widened; None if none were.
    types_version: int | None = None

    @classmethod
    def of(cls, tx: LedgerTransaction, source: str, table: str) -> Self:
        """Look up what is compacted of a table."""
        committed = tx.compactions(source, table, states=[CompactionState.COMMITTED])
        versions = [one.types_version for one in committed if one.types_version is not None]
        return cls(
            {part.batch_id: compaction for compaction in committed for part in compaction.batches},
            max(versions, default=None),
        )

    def compaction_of(self, batch_id: str) -> Compaction | None:
        """Return the compaction whose file holds the rows of a batch; None if they lie in files of its own."""
        return self._compactions.get(batch_id)

    def files_of(self, tx: LedgerTransaction, batch: Batch) -> list[DataFile]:
        """
        Return the files that hold the rows of a batch, by part.

        One that holds those of other batches too says where these begin (`DataFile.first_row`).
        """
        compaction = self.compaction_of(batch.id)
        if compaction is None:
            return sorted(own_files(tx, batch), key=lambda file: file.part)
        file = tx.file(file_of(compaction))
        if file is None:
            raise KeyError(f"compaction {compaction.id}: the ledger does not name its file")
        part = next(part for part in compaction.batches if part.batch_id == batch.id)
        return [replace(file, batch_id=batch.id, record_count=part.row_count, first_row=part.first_row)]


def in_types(tx: LedgerTransaction, contract: TableContract, version: int | None) -> TableContract:
    """
    Return a contract in the types to which a widening by another version of it brings files.

    What an earlier one widened stays so, also of a column that the version does not have any more.
    """
    if version is None:
        return contract
    states = [CompactionState.COMMITTED, CompactionState.REPLACED]
    known = tx.compactions(contract.source, contract.table, states=states)
    earlier = {one.types_version for one in known if one.types_version and one.types_version < version}
    for each in [*sorted(earlier), version]:
        contract = contract.in_types_of(tx.contract(contract.source, contract.table, each).contract)
    return contract


def own_files(tx: LedgerTransaction, batch: Batch) -> list[DataFile]:
    """Return the committed files that a batch itself has or had in `final/`."""
    return tx.files(batch_id=batch.id, areas=[Area.FINAL], attempt=batch.committed_attempt)


def _locked(tx: LedgerTransaction, compaction_id: str) -> Compaction:
    compaction = tx.compaction(compaction_id, lock=True)
    if compaction is None:
        raise KeyError(f"the ledger knows no compaction {compaction_id}")
    return compaction


def _being_written(tx: LedgerTransaction, compaction_id: str) -> Compaction:
    compaction = _locked(tx, compaction_id)
    if compaction.state is not CompactionState.WRITING or tx.now() >= compaction.lease_until:
        raise LostLease(f"compaction {compaction.id}: its lease is over, or it is {compaction.state} already")
    return compaction


def _insert_file(tx: LedgerTransaction, compaction: Compaction, file: DataFile) -> None:
    now = tx.now()
    if not tx.insert_file(replace(file, recorded_at=now, checked_at=now)):
        raise LostLease(f"compaction {compaction.id}: {file.location} is recorded already")


def _decide(
    tx: LedgerTransaction, compaction: Compaction, state: CompactionState, *, retention: timedelta
) -> Compaction:
    now = tx.now()
    decided = replace(compaction, state=state, decided_at=now, shown_at=None, delete_after=now + retention)
    tx.save_compaction(decided)
    return decided
