"""
Rows of a batch that was read by ranges of its key: those of the ranges that did not change, from the batch before.

They are the rows of its committed Parquet, masked and typed under the same contract, so they are taken as they are.
"""

from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from services.processor.decode import fetch, position_name
from shared.domain.files import DataFile
from shared.domain.key_ranges import Interval
from shared.domain.reasons import Reason
from shared.errors import ObjectNotFound, Refused
from shared.ports import ObjectStore
from shared.stage import Assignment


class CarriedFrames:
    """The rows that are taken over, and how many they were."""

    def __init__(self, assignment: Assignment, *, store: ObjectStore, folder: Path) -> None:
        self._assignment = assignment
        self._store = store
        self._folder = folder
        #: Complete after `frames`.
        self.row_count = 0

    def frames(self) -> Iterator[tuple[pl.DataFrame, int]]:
        """
        Return the rows as those from CSV are, each frame with a size that depends on nothing but the files.

        Raises:
            Refused: if the files of the other batch are gone, or not what the ledger says.
        """
        carried = self._assignment.carried
        if carried is None:
            return
        if not carried.files:
            raise Refused(
                Reason.OBJECT_MISSING,
                f"batch {self._assignment.batch.id}: the files of batch {carried.batch_id}, whose unchanged rows it takes "
                "over, are gone; replay it",
            )
        names = [column.name for column in self._assignment.contract.output_columns]
        is_kept = ~_is_read_anew(position_name(names.index(carried.column)), carried.intervals)
        folder = self._folder / "carried"
        folder.mkdir()
        for file in sorted(carried.files, key=lambda file: file.part):
            path = self._fetch(file, folder)
            with pq.ParquetFile(path) as parquet:
                for index in range(parquet.num_row_groups):
                    group = parquet.read_row_group(index)
                    renamed = group.rename_columns([position_name(number) for number in range(len(names))])
                    rows = pl.DataFrame(pl.from_arrow(renamed)).filter(is_kept)
                    self.row_count += rows.height
                    yield rows, parquet.metadata.row_group(index).total_byte_size
            path.unlink()

    def _fetch(self, file: DataFile, folder: Path) -> Path:
        try:
            return fetch(file, store=self._store, folder=folder)
        except ObjectNotFound as error:
            # The ledger knows nothing of it, so every batch to come would be compared with that one as well.
            raise Refused(
                Reason.OBJECT_MISSING,
                f"batch {self._assignment.batch.id}: unchanged rows are to be taken over from {error}; restore the object "
                "and replay, or change key_ranges.rows_per_range of the table, enqueue and replay: under a new contract "
                "everything is read",
            ) from None


def _is_read_anew(name: str, intervals: tuple[Interval, ...]) -> pl.Expr:
    """Whether a key lies in one of the ranges that were read from the source."""
    key = pl.col(name).cast(pl.Int64)
    inside = [
        (pl.lit(True) if interval.low is None else key >= interval.low)
        & (pl.lit(True) if interval.high is None else key < interval.high)
        for interval in intervals
    ]
    return reduce(lambda one, other: one | other, inside, pl.lit(False))
