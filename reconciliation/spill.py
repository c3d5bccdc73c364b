"""Reduced rows on the local disk, parted by key, so that any number of them is compared in bounded memory."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import pyarrow as pa

from reconciliation.shape import REDUCED

#: Rows of one side that are compared at once: about 80 MB. The others' come to it.
ROWS_PER_PARTITION = 2_000_000

_SCHEMA = pl.DataFrame(schema=REDUCED).to_arrow().schema


def partition_count_for(row_count: int) -> int:
    """
    Return into how many partitions so many rows are parted.

    >>> partition_count_for(0), partition_count_for(5_000_000)
    (1, 3)
    """
    return row_count // ROWS_PER_PARTITION + 1


class Spill:
    """The reduced rows of one side. A context manager; after `finish` they can be read."""

    def __init__(self, folder: Path, *, partition_count: int) -> None:
        folder.mkdir()
        self._paths = [folder / f"{number:05d}.arrow" for number in range(partition_count)]
        self._writers = [pa.ipc.new_stream(path, _SCHEMA) for path in self._paths]

    def add(self, reduced: pl.DataFrame) -> None:
        """Put rows to those of their keys; only what they are reduced to is kept."""
        rows = reduced.select(*REDUCED)
        for number, writer in enumerate(self._writers):
            part = (
                rows.filter(pl.col("key") % len(self._writers) == number) if len(self._writers) > 1 else rows
            )
            if part.height:
                writer.write_table(part.to_arrow())

    def finish(self) -> None:
        """End writing. Harmless when repeated."""
        for writer in self._writers:
            writer.close()

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
        self.finish()
