"""The rows of a batch, by name, and the sums they must keep."""

from collections.abc import Mapping
from enum import StrEnum

from shared.domain.batches import Stage


class Count(StrEnum):
    """A number of rows of one batch. Every row read is written somewhere or dropped for a named reason."""

    #: Rows the source sent.
    ROWS_READ = "rows_read"
    #: Rows the source sent although they lie outside the window; they belong to another batch.
    ROWS_OUTSIDE_WINDOW = "rows_outside_window"
    #: Rows in the CSV files.
    ROWS_WRITTEN = "rows_written"
    #: Rows parsed from the CSV files.
    ROWS_DECODED = "rows_decoded"
    #: Rows that a processor rejected.
    ROWS_REJECTED = "rows_rejected"
    #: Rows that a later version of the same key in the same batch replaced.
    ROWS_DEDUPLICATED = "rows_deduplicated"
    #: Rows in the Parquet files.
    ROWS_IN_FINAL = "rows_in_final"
    #: Rows staged in the warehouse.
    ROWS_STAGED = "rows_staged"
    #: Rows that were new in the target table.
    ROWS_INSERTED = "rows_inserted"
    #: Rows that replaced an older version in the target table.
    ROWS_UPDATED = "rows_updated"
    #: Rows whose target already held the same or a newer version.
    ROWS_UNCHANGED = "rows_unchanged"
    #: Rows that a key sweep took out of the target table: their keys are gone at the source.
    ROWS_DELETED = "rows_deleted"
    #: Columns of the source that left in no form: dropped, withheld or new.
    COLUMNS_WITHHELD = "columns_withheld"
    #: Columns that left masked.
    COLUMNS_MASKED = "columns_masked"


#: Per stage: the left count equals the sum of the right ones.
SUMS: dict[Stage, tuple[tuple[Count, tuple[Count, ...]], ...]] = {
    Stage.EXTRACT: ((Count.ROWS_READ, (Count.ROWS_WRITTEN, Count.ROWS_OUTSIDE_WINDOW)),),
    Stage.PROCESS: (
        (Count.ROWS_WRITTEN, (Count.ROWS_DECODED,)),
        (Count.ROWS_DECODED, (Count.ROWS_IN_FINAL, Count.ROWS_REJECTED, Count.ROWS_DEDUPLICATED)),
    ),
    Stage.PUBLISH: (),
}


def broken_sum(stage: Stage, counts: Mapping[str, int]) -> str | None:
    """
    Return the first sum of a stage that a batch's counts do not keep, as a sentence; None if all hold.

    >>> broken_sum(Stage.EXTRACT, {"rows_read": 3, "rows_written": 2})
    'rows_read is 3, but rows_written + rows_outside_window is 2'
    """
    for whole, parts in SUMS[stage]:
        total = sum(counts.get(part, 0) for part in parts)
        if counts.get(whole, 0) != total:
            return f"{whole} is {counts.get(whole, 0)}, but {' + '.join(parts)} is {total}"
    return None
