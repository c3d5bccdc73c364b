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
    #: Rows of the snapshot or key sweep before, taken over with the ranges of keys that did not change since.
    ROWS_CARRIED_OVER = "rows_carried_over"
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


#: Per stage: the sum of the left counts equals that of the right ones.
SUMS: dict[Stage, tuple[tuple[tuple[Count, ...], tuple[Count, ...]], ...]] = {
    Stage.EXTRACT: (((Count.ROWS_READ,), (Count.ROWS_WRITTEN, Count.ROWS_OUTSIDE_WINDOW)),),
    Stage.PROCESS: (
        ((Count.ROWS_WRITTEN,), (Count.ROWS_DECODED,)),
        (
            (Count.ROWS_DECODED, Count.ROWS_CARRIED_OVER),
            (Count.ROWS_IN_FINAL, Count.ROWS_REJECTED, Count.ROWS_DEDUPLICATED),
        ),
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
        expected, total = (sum(counts.get(name, 0) for name in names) for names in (whole, parts))
        if expected != total:
            # What no batch but a few has is not named where it is none.
            named = " + ".join(name for name in whole if name is whole[0] or counts.get(name))
            return f"{named} is {expected}, but {' + '.join(parts)} is {total}"
    return None
