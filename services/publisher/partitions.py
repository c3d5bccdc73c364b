"""Where the partition of each published batch has to lead, by the ledger: compactions and rollbacks included."""

from collections.abc import Iterator, Sequence

from services.publisher.catalog import ExternalBatch, ExternalTable, empty_folder, external_table
from shared.compactions import CommittedRows, file_of, in_types, own_files
from shared.domain.batches import Batch, Stage
from shared.domain.contracts import TableContract
from shared.domain.files import Location, day_of_key
from shared.domain.rollbacks import Rollback
from shared.ports import LedgerTransaction
from shared.rollbacks import rollback_of


def shown_table(
    tx: LedgerTransaction, contract: TableContract, *, contract_version: int, bucket: str
) -> ExternalTable:
    """Return the external table of a contract, in the types to which the table's files were widened."""
    rows = CommittedRows.of(tx, contract.source, contract.table)
    widened = in_types(tx, contract, rows.types_version)
    return external_table(widened, contract_version=contract_version, bucket=bucket)


def partitions_of(
    tx: LedgerTransaction,
    table: ExternalTable,
    batches: Sequence[Batch],
    *,
    rollback: Rollback | None = None,
) -> Iterator[ExternalBatch]:
    """
    Return published batches as the catalog has to show them.

    A batch has the folder of its own files, with two exceptions: rows that lie in the file of a compaction are shown
    by the partition of its first batch, and a batch that a rollback withdrew is shown empty: `rollback`, if one is
    under way, else the one that holds the table.
    """
    rollback = rollback or rollback_of(tx, table.source, table.table)
    rows = CommittedRows.of(tx, table.source, table.table)
    for batch in batches:
        own = own_files(tx, batch)
        compaction = rows.compaction_of(batch.id)
        folder, record_count, moved_by = _folder(own[0].location), sum(file.record_count for file in own), ""
        if rollback is not None and batch.id in rollback.withdrawn_batch_ids:
            folder, record_count, moved_by = empty_folder(table), 0, rollback.id
        elif compaction is not None and compaction.carrier.batch_id == batch.id:
            folder, record_count, moved_by = _folder(file_of(compaction)), compaction.row_count, compaction.id
        elif compaction is not None:
            folder, record_count, moved_by = empty_folder(table), 0, compaction.id
        yield ExternalBatch(
            batch_id=batch.id,
            day=day_of_key(own[0].location.key),
            window_end=batch.as_of,
            folder=folder,
            record_count=record_count,
            attempt=batch.attempt_number(Stage.PUBLISH),
            moved_by=moved_by,
        )


def _folder(location: Location) -> Location:
    return Location(location.bucket, location.key.rpartition("/")[0] + "/")
