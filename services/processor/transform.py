"""
Rows of a batch → the rows that count: of several versions of a key, the latest.

`Transform` is a port. It takes and gives Parquet parts and a rule, and nothing of Polars, so that an engine that
spreads over machines can take the place of this one, table by table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from services.processor.parquet import Part, PartLayout, write_parts

#: Keys of so many rows are compared at once: about 200 MB for keys of two numbers.
ROWS_PER_PARTITION = 2_000_000


@dataclass(frozen=True, slots=True)
class LatestByKey:
    """Which rows are versions of one, and which of them is the latest. Columns are given by position."""

    key: tuple[int, ...]
    #: The row with the largest value is the latest, NULL being the smallest; among equals, and if there is no
    #: cursor, the one that comes last.
    cursor: int | None


class Transform(Protocol):
    """What makes the rows that count out of the rows that fit."""

    def keep_latest(
        self, parts: Sequence[Part], *, rule: LatestByKey, folder: Path, layout: PartLayout
    ) -> Sequence[Part]:
        """
        Return parts that hold the latest row of each key, in the order of the rows given.

        New parts lie in `folder`, which does not exist yet. If no row was replaced, the same parts come back.
        """
        ...


@dataclass(frozen=True, slots=True)
class PolarsTransform:
    """
    Compares keys partition by partition of their hash.

    Memory: one partition's keys and cursors, one row group, and 8 bytes for each replaced row of the batch.
    """

    rows_per_partition: int = ROWS_PER_PARTITION

    def keep_latest(
        self, parts: Sequence[Part], *, rule: LatestByKey, folder: Path, layout: PartLayout
    ) -> Sequence[Part]:
        """Return parts that hold the latest row of each key; see `Transform`."""
        replaced = self._replaced_rows(parts, rule)
        if replaced.is_empty():
            return parts
        return write_parts(_without(replaced, parts, layout.schema), folder=folder, layout=layout)

    def _replaced_rows(self, parts: Sequence[Part], rule: LatestByKey) -> pl.Series:
        """Return the numbers of the rows that a later version replaces, ascending; the batch's first row is 0."""
        row_count = sum(part.record_count for part in parts)
        partition_count = row_count // self.rows_per_partition + 1
        found = [
            _replaced_in_partition(parts, rule, partition, partition_count)
            for partition in range(partition_count)
        ]
        return pl.concat(found).sort()


def _replaced_in_partition(
    parts: Sequence[Part], rule: LatestByKey, partition: int, partition_count: int
) -> pl.Series:
    # By position: a name such as `a.b` or `*` is a pattern to most readers.
    key = {f"key{number}": pl.nth(position) for number, position in enumerate(rule.key)}
    cursor = {} if rule.cursor is None else {"cursor": pl.nth(rule.cursor)}
    rows = pl.scan_parquet([part.path for part in parts], glob=False, hive_partitioning=False)
    rows = rows.select(**key, **cursor).with_row_index("row")
    if partition_count > 1:
        rows = rows.filter(pl.struct(*key).hash() % partition_count == partition)
    # Nearly every batch ends here, without a key that has two rows.
    repeated = rows.group_by(*key).agg(pl.len().alias("count")).filter(pl.col("count") > 1)
    versions = rows.join(repeated, on=list(key), how="semi").collect(engine="streaming")
    versions = versions.sort(*cursor, "row", nulls_last=False)
    return versions.filter(~pl.struct(*key).is_last_distinct())["row"].cast(pl.UInt64)


def _without(replaced: pl.Series, parts: Sequence[Part], schema: pa.Schema) -> Iterator[pa.Table]:
    """Read parts row group by row group, leaving rows out."""
    first_row = 0
    for part in parts:
        with pq.ParquetFile(part.path) as file:
            for index in range(file.num_row_groups):
                group = file.read_row_group(index)
                rows = pl.int_range(first_row, first_row + group.num_rows, dtype=pl.UInt64, eager=True)
                here = replaced.filter(replaced.is_between(first_row, first_row + group.num_rows - 1))
                yield group.filter((~rows.is_in(here.implode())).to_arrow()).cast(schema)
                first_row += group.num_rows
