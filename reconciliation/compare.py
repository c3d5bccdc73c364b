"""
Reduced rows of source, lake and warehouse → what each side holds of each window, and the rows that differ.

Pure: frames in, frames out. What counts as the same depends on the publish mode.

merge    The newest version of each key, without those that are deleted softly or were found gone by a key sweep. A key
         whose newest version lies in no settled window is left out on every side: its batch is on its way, or held,
         or to come. Of a table that is swept so is a key that the source has no more: the next sweep deletes it.
append   Every row, as often as it is there. Of a table with a key, a row of the lake that has a newer version is
         not asked of the source, which has only the newest.
replace  Every row of the newest snapshot.
"""

from dataclasses import dataclass

import polars as pl

from reconciliation.settled import OPEN
from reconciliation.sides import Side
from services.processor.checksum import Checksum, half_sums, joined_sum
from shared.domain.contracts import PublishMode

#: The sides that are compared row by row, in the order in which rows travel.
ROW_SIDES = (Side.SOURCE, Side.LAKE, Side.WAREHOUSE)

#: A row of a window, and how often each side has it.
TALLIED: dict[str, type[pl.DataType]] = {
    "window": pl.Int32,
    "key": pl.UInt64,
    "row": pl.UInt64,
    **{str(side): pl.Int64 for side in ROW_SIDES},
}


@dataclass(frozen=True, slots=True)
class Swept:
    """What the last key sweep said of the rows of a table that is swept."""

    #: The keys that the source had, reduced as rows are; None before the first sweep.
    keys: pl.DataFrame | None = None
    #: Of these rows of the lake it tells: those of so many batches, the oldest. Later ones it did not see.
    batch_count: int = 0


@dataclass(frozen=True, slots=True)
class Compared:
    """The rows of the sides that count. `warehouse` is None for a table that has no native target."""

    source: pl.DataFrame
    lake: pl.DataFrame
    warehouse: pl.DataFrame | None
    #: Keys that were left out, since the next key sweep deletes them.
    gone_count: int = 0

    def rows_of(self, side: Side) -> pl.DataFrame | None:
        """Return the rows of a side."""
        return {Side.SOURCE: self.source, Side.LAKE: self.lake, Side.WAREHOUSE: self.warehouse}[side]

    def tallies(self) -> dict[int, dict[Side, Checksum]]:
        """Return the checksum of each side by window. A side without rows in a window is not there."""
        found: dict[int, dict[Side, Checksum]] = {}
        for side in ROW_SIDES:
            rows = self.rows_of(side)
            if rows is None:
                continue
            low, high = half_sums(pl.col("row"))
            sums = rows.group_by("window").agg(pl.len().alias("count"), low.alias("low"), high.alias("high"))
            for window, count, low_sum, high_sum in sums.iter_rows():
                found.setdefault(window, {})[side] = Checksum(count, joined_sum(low=low_sum, high=high_sum))
        return found

    def differences(self) -> pl.DataFrame:
        """Return the rows that the sides do not have equally often, by window and key; see `TALLIED`."""
        counted = []
        for side in ROW_SIDES:
            rows = self.rows_of(side)
            if rows is None:
                # Nobody asks a warehouse that the table does not go to.
                rows = self.lake
            mine = [pl.lit(1 if side is other else 0, dtype=pl.Int64).alias(other) for other in ROW_SIDES]
            counted.append(rows.select("window", "key", "row", *mine))
        tallied = pl.concat(counted).group_by("window", "key", "row").agg(pl.col(*ROW_SIDES).sum())
        differs = (pl.col(Side.SOURCE) != pl.col(Side.LAKE)) | (pl.col(Side.LAKE) != pl.col(Side.WAREHOUSE))
        return tallied.filter(differs).select(*TALLIED).sort("window", "key", "row")


def compared_rows(
    source: pl.DataFrame,
    lake: pl.DataFrame,
    warehouse: pl.DataFrame | None,
    *,
    mode: PublishMode,
    has_key: bool,
    swept: Swept | None = None,
) -> Compared:
    """Return the rows that count, of all rows that were read. Columns beside the reduced ones stay."""
    match mode:
        case PublishMode.MERGE:
            return _newest_versions(source, lake, warehouse, swept=swept)
        case PublishMode.APPEND:
            return _every_row(source, lake, warehouse, has_key=has_key)
        case PublishMode.REPLACE:
            newest = _newest(source) if has_key else source
            return Compared(_shown(newest), _shown(lake), warehouse)


def _newest_versions(
    source: pl.DataFrame, lake: pl.DataFrame, warehouse: pl.DataFrame | None, *, swept: Swept | None
) -> Compared:
    open_keys = source.filter(pl.col("window") == OPEN).select("key").unique()

    def settled(rows: pl.DataFrame) -> pl.DataFrame:
        return _shown(rows).join(open_keys, on="key", how="anti")

    in_lake, in_warehouse = settled(_newest(lake)), None if warehouse is None else settled(warehouse)
    gone_count = 0
    if swept is not None:
        in_lake = _without_swept(in_lake, swept)
        gone = in_lake.join(source, on="key", how="anti").select("key")
        gone_count = gone.height
        in_lake = in_lake.join(gone, on="key", how="anti")
        in_warehouse = None if in_warehouse is None else in_warehouse.join(gone, on="key", how="anti")
    return Compared(settled(_newest(source)), in_lake, in_warehouse, gone_count)


def _without_swept(newest: pl.DataFrame, swept: Swept) -> pl.DataFrame:
    """Leave out what a key sweep deleted: keys that the source had no more, if nothing brought them since."""
    if swept.keys is None:
        return newest
    deleted = newest.filter(pl.col("order") < swept.batch_count).join(swept.keys, on="key", how="anti")
    return newest.join(deleted, on="key", how="anti")


def _every_row(
    source: pl.DataFrame, lake: pl.DataFrame, warehouse: pl.DataFrame | None, *, has_key: bool
) -> Compared:
    in_source = _shown(source)
    if has_key:
        newest = (
            pl.concat([lake, source.select(lake.columns)])
            .group_by("key")
            .agg(pl.col("version").max().alias("newest"))
        )
        open_keys = source.filter(pl.col("window") == OPEN).select("key").unique()
        is_open = pl.col("key").is_in(open_keys["key"].implode())
        replaced = (
            _shown(lake)
            .join(newest, on="key")
            .filter((pl.col("version") < pl.col("newest")) | is_open)
            .select(in_source.columns)
            .join(in_source, on=["window", "key", "row"], how="anti")
        )
        in_source = pl.concat([in_source, replaced])
    return Compared(in_source, _shown(lake), None if warehouse is None else _shown(warehouse))


def _newest(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the newest row of each key: by cursor, then by what tells equal cursors apart."""
    return rows.sort("version", "order", maintain_order=True).unique("key", keep="last", maintain_order=True)


def _shown(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter((pl.col("window") >= 0) & ~pl.col("is_deleted"))
