"""Reduced rows on the local disk, parted by key, so that any number of them is compared in bounded memory."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import pyarrow as pa

from reconciliation.shape import REDUCED

#: Rows of one side that are compared at once; with those of the others they take about 150 MB.
ROWS_PER_PARTITION = 250_000

#: Each is an open file. Of more rows than these hold, partitions grow.
MAX_PARTITIONS = 400

_SCHEMA = pl.DataFrame(schema=REDUCED).to_arrow().schema


def partition_count_for(row_count: int) -> int:
    """
    Return into how many partitions so many rows are parted.

    >>> partition_count_for(0), partition_count_for(1_000_000), partition_count_for(10**9)
    (1, 5, 400)
    """
    return min(row_count // ROWS_PER_PARTITION + 1, MAX_PARTITIONS)


class Spill:
    """The reduced rows of one side. A context manager: they are added in its block, and can be read behind it."""

    def __init__(self, folder: Path, *, partition_count: int) -> None:
        folder.mkdir()
        self._paths = [folder / f"{number:05d}.arrow" for number in range(partition_count)]
        self._writers = [pa.ipc.new_stream(path, _SCHEMA) for path in self._paths]

    def add(self, reduced: pl.DataFrame) -> None:
        """Put rows to those of their keys; only what they are reduced to is kept."""
        if reduced.is_empty():
            return
        rows = reduced.select(*REDUCED)
        for (number, *_), part in rows.group_by(pl.col("key") % len(self._writers)):
            self._writers[int(str(number))].write_table(part.to_arrow())

    def partitions(self) -> Iterator[pl.DataFrame]:
        """Return the rows, partition by partition; all rows of one key are in one."""
        for path in self._paths:
            with pa.ipc.open_stream(path) as stream:
                rows = pl.from_arrow(stream.read_all())
            if not isinstance(rows, pl.DataFrame):
                raise TypeError(f"{path}: expected rows, found {type(rows).__name__}")
            yield rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.close()
