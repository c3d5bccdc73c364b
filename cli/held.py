"""Which batches wait for a person: those that are held, and published ones with rejected rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from shared import lifecycle
from shared.domain.batches import HELD_STATES, Batch, BatchState
from shared.domain.files import Area, DataFile
from shared.domain.reasons import Reason
from shared.ports import LedgerTransaction


@dataclass(frozen=True, slots=True)
class Selection:
    """What a person asked for. Everything that is not said fits."""

    source: str | None = None
    table: str | None = None
    reasons: frozenset[Reason] = frozenset()
    states: frozenset[BatchState] = frozenset()
    #: Half-open, on the time at which a batch entered its state.
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing was said."""
        return self == Selection()

    def holds(self, batch: Batch) -> bool:
        """Return whether a batch fits, but for its state."""
        return (
            self.source in {None, batch.source}
            and self.table in {None, batch.table}
            and (not self.reasons or batch.reason in self.reasons)
            and (self.since is None or batch.changed_at >= self.since)
            and (self.until is None or batch.changed_at < self.until)
        )


def held_batches(tx: LedgerTransaction, selection: Selection) -> list[Batch]:
    """Return the held batches that fit, the last held first."""
    found = tx.batches(source=selection.source, table=selection.table, states=selection.states or HELD_STATES)
    return sorted(
        filter(selection.holds, found), key=lambda batch: (batch.changed_at, batch.id), reverse=True
    )


@dataclass(frozen=True, slots=True)
class RejectedRows:
    """A published batch, the lists of the rows it lacks, and the batches that read its window again for them."""

    batch: Batch
    files: tuple[DataFile, ...]
    readings: tuple[Batch, ...]


def batches_with_rejects(
    tx: LedgerTransaction, selection: Selection, *, bucket: str | None
) -> list[RejectedRows]:
    """
    Return published batches whose rejected rows nobody has dealt with, the last published first.

    Left out are those whose list of rejects is gone (expired or given up), and those whose window was read again
    and published since: what is still rejected stands on that second reading.
    """
    found = [
        rejected
        for batch in _with_files_set_aside(tx, selection, bucket=bucket)
        if batch.state is BatchState.PUBLISHED
        and selection.holds(batch)
        and (rejected := rejected_rows(tx, batch)).files
        and all(reading.state is not BatchState.PUBLISHED for reading in rejected.readings)
    ]
    return sorted(found, key=lambda item: (item.batch.changed_at, item.batch.id), reverse=True)


def rejected_rows(tx: LedgerTransaction, batch: Batch) -> RejectedRows:
    """Return what is known of the rejected rows of a batch."""
    files, readings = lifecycle.rejects_files(tx, batch), lifecycle.readings_after(tx, batch)
    return RejectedRows(batch, tuple(files), tuple(readings))


def _with_files_set_aside(
    tx: LedgerTransaction, selection: Selection, *, bucket: str | None
) -> Iterator[Batch]:
    files = tx.files(areas=[Area.QUARANTINE], table=selection.table, bucket=bucket, present_only=True)
    for batch_id in dict.fromkeys(file.batch_id for file in files if file.batch_id is not None):
        if (batch := tx.batch(batch_id)) is not None:
            yield batch
