"""What a comparison found: of a table, of each of its windows, and of the first rows that differ. Never a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from reconciliation.sides import Side
from services.processor.checksum import Checksum
from shared.domain.batches import Batch


class Measure(StrEnum):
    """By what two sides of a window differ."""

    #: They have another number of rows.
    COUNT = "count"
    #: They have as many rows, but not the same.
    CHECKSUM = "checksum"
    #: What one of them consists of is missing or damaged, or cannot be read as what it should be.
    CONTENT = "content"


@dataclass(frozen=True, slots=True)
class DifferingRow:
    """One key at which two sides differ."""

    #: The key's columns as text; empty for a table without a key. Of masked columns, what left in their place.
    key: Mapping[str, str]
    #: How often each of the two sides has a row of it in the window.
    counts: Mapping[Side, int]
    #: The columns whose values differ, where both sides have one row of the key.
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference of a window: two sides that follow on each other, and what tells them apart."""

    sides: tuple[Side, Side]
    measure: Measure
    #: What was expected and what was found, in a sentence without values of rows.
    detail: str
    #: Keys that differ, as many as were looked at. Where checksums of unequal rows are all that is known: 0.
    differing_key_count: int = 0
    #: There are more than were looked at.
    is_cut: bool = False
    #: The first of them.
    rows: tuple[DifferingRow, ...] = ()

    @property
    def sentence(self) -> str:
        """The difference as people are told of it: no key is in it, and no value."""
        return f"{self.sides[0]} and {self.sides[1]} differ by {self.measure}: {self.detail}"


@dataclass(frozen=True, slots=True)
class WindowFinding:
    """One window, compared."""

    batch: Batch
    #: The end of what was compared, a number if the cursor counts; before the window's end if rows of it may still come.
    until: datetime | int
    #: Rows and sum of each side. That of the CSV is of the batch, as it was read; the others are of today.
    sides: Mapping[Side, Checksum]
    #: Rows that the processor set aside, by the ledger: the known difference between CSV and lake.
    rejected_row_count: int = 0
    difference: Difference | None = None
    #: Why something that looks like a difference is none, or what was not compared.
    remarks: tuple[str, ...] = ()

    @property
    def is_equal(self) -> bool:
        """Whether all sides hold the same."""
        return self.difference is None


@dataclass(frozen=True, slots=True)
class TableFinding:
    """One table, compared window by window."""

    source: str
    table: str
    windows: tuple[WindowFinding, ...] = ()
    #: Published windows in the span that are not settled yet.
    unsettled_count: int = 0
    #: Windows in the span that are not published.
    unpublished_count: int = 0
    #: Rows that moved while they were looked at, and were left out.
    moved_row_count: int = 0
    remarks: tuple[str, ...] = ()
    #: The table is one snapshot, which each batch replaces.
    is_snapshot: bool = False

    @property
    def is_equal(self) -> bool:
        """Whether no window differs."""
        return all(window.is_equal for window in self.windows)

    @property
    def first_difference(self) -> WindowFinding | None:
        """The oldest window that differs."""
        return next((window for window in self.windows if not window.is_equal), None)

    def total(self, side: Side) -> Checksum:
        """Return the checksum of a side over all windows."""
        return sum((window.sides.get(side, Checksum()) for window in self.windows), Checksum())


@dataclass(slots=True)
class LakeCount:
    """What was read of the files of one batch."""

    checksum: Checksum = field(default_factory=Checksum)
    #: What a file that could not be read says.
    problem: str = ""
