"""Many small committed files written anew as one, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self


class CompactionState(StrEnum):
    """Which files the rows of a compaction's batches are read from."""

    #: Its file is being written; nobody reads it.
    WRITING = "writing"
    #: Its file is whole and proven, and waits until all of its table's are that have to change at once; nobody reads it.
    PREPARED = "prepared"
    #: Its file is read in place of those of its batches.
    COMMITTED = "committed"
    #: An operator took it back: the files of its batches are read again.
    UNDONE = "undone"
    #: Another compaction holds its rows, in wider types: that one's file is read.
    REPLACED = "replaced"
    #: It came to nothing: its writer died, or a batch was no longer what it had been.
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class CompactedBatch:
    """The rows of one batch within the file of a compaction: they lie together, in their order."""

    batch_id: str
    first_row: int
    row_count: int

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"batch_id": self.batch_id, "first_row": self.first_row, "row_count": self.row_count}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read what `document` wrote."""
        return cls(document["batch_id"], document["first_row"], document["row_count"])


@dataclass(frozen=True, slots=True)
class Compaction:
    """One file in place of those of some batches of one day of a table."""

    #: `c` and 24 hexadecimal digits, in the key of its file. Never used again.
    id: str
    source: str
    table: str
    bucket: str
    #: `YYYY-MM-DD`, of the windows of its batches.
    day: str
    #: The newest contract of its batches, whose columns its file has.
    contract_version: int
    state: CompactionState
    #: In the order of their rows.
    batches: tuple[CompactedBatch, ...]
    begun_at: datetime
    #: Until then its writer lives; nobody commits what it wrote afterwards.
    lease_until: datetime
    #: Of a widening: the contract whose types its file has (`TableContract.in_types_of`); None: those of its own.
    types_version: int | None = None
    #: When it came to its state.
    decided_at: datetime | None = None
    #: When the catalog was brought to the state; None as long as it is not.
    shown_at: datetime | None = None
    #: From when on the files that nobody reads any more may go: those of the batches, or its own.
    delete_after: datetime | None = None
    #: When somebody began to delete them: from then on there is no way back.
    deletes_begun_at: datetime | None = None
    #: When the last of them was gone.
    cleaned_at: datetime | None = None
    #: Who asked for it, and why.
    detail: str = ""

    @property
    def row_count(self) -> int:
        """The rows of all its batches."""
        return sum(batch.row_count for batch in self.batches)

    @property
    def carrier(self) -> CompactedBatch:
        """The batch whose partition leads to the file; those of the others are empty."""
        return self.batches[0]
