"""Which committed files a reader of the lake sees of a table: what the ledger says, and not what a bucket holds."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.compactions import CommittedRows, file_of
from shared.domain.batches import Batch, BatchState
from shared.domain.contracts import PublishMode
from shared.domain.files import Area, DataFile, day_of_key
from shared.domain.windows import is_key_sweep
from shared.ports import LedgerTransaction
from shared.rollbacks import rollback_of


@dataclass(frozen=True, slots=True)
class VisibleFile:
    """One file, and the partition in which the catalog shows it."""

    file: DataFile
    #: Of the contract whose columns it has.
    contract_version: int
    day: str
    batch_id: str
    #: Of the contract whose types it has, if it was widened.
    types_version: int | None = None


def published_batches(
    tx: LedgerTransaction, source: str, table: str, *, with_withdrawn: bool = False
) -> list[Batch]:
    """Return the batches whose rows a table has, as they were published; without those that a rollback withdrew."""
    rollback = None if with_withdrawn else rollback_of(tx, source, table)
    withdrawn = set(rollback.withdrawn_batch_ids) if rollback else set()
    found = tx.batches(source=source, table=table, states=[BatchState.PUBLISHED])
    return sorted(
        (batch for batch in found if batch.id not in withdrawn),
        key=lambda batch: (batch.changed_at, batch.id),
    )


def visible_files(tx: LedgerTransaction, source: str, table: str) -> list[VisibleFile]:
    """Return the files that hold the rows of a table, each once: of a replaced one, those of its newest snapshot."""
    batches = [batch for batch in published_batches(tx, source, table) if not is_key_sweep(batch.slot)]
    newest = max(batches, key=lambda batch: batch.contract_version, default=None)
    if newest is not None:
        contract = tx.contract(source, table, newest.contract_version).contract
        if contract.publishing.mode is PublishMode.REPLACE:
            batches = [max(batches, key=lambda batch: (batch.as_of, batch.changed_at))]
    rows = CommittedRows.of(tx, source, table)
    own = _files_by_attempt(tx, batches)
    found: dict[str, VisibleFile] = {}
    for batch in batches:
        compaction = rows.compaction_of(batch.id)
        if compaction is not None:
            file = tx.file(file_of(compaction))
            if file is None:
                raise KeyError(f"compaction {compaction.id}: the ledger does not name its file")
            found[compaction.id] = VisibleFile(
                file,
                compaction.contract_version,
                compaction.day,
                compaction.carrier.batch_id,
                compaction.types_version,
            )
            continue
        for file in own.get((batch.id, batch.committed_attempt), []):
            found[str(file.location)] = VisibleFile(
                file, batch.contract_version, day_of_key(file.location.key), batch.id
            )
    return list(found.values())


def _files_by_attempt(
    tx: LedgerTransaction, batches: Sequence[Batch]
) -> dict[tuple[str | None, int | None], list[DataFile]]:
    """Return the files in `final/` of a table, by batch and attempt: one question, whatever the number of batches."""
    found: dict[tuple[str | None, int | None], list[DataFile]] = {}
    for bucket, table in {(batch.bucket, batch.table) for batch in batches}:
        for file in tx.files(areas=[Area.FINAL], bucket=bucket, table=table):
            found.setdefault((file.batch_id, file.attempt), []).append(file)
    return found
