"""
Row groups on their way into a Parquet file, measured column by column; `shared/measures.py` says what for.

Beside it and not in it, for this one needs the Parquet library.
"""

from decimal import Context, Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shared.measures import ColumnMeasure

#: Decimals of more digits have sums that 38 digits may not hold.
MAX_SUMMED_PRECISION = 28

_EXACT = Context(prec=60)


def measure(group: pa.Table) -> list[ColumnMeasure]:
    """Return the measures of the columns of a table, in their order."""
    return [_measure(column) for column in group.columns]


def _measure(column: pa.ChunkedArray) -> ColumnMeasure:
    type_, null_count = column.type, column.null_count
    if pa.types.is_large_string(type_) or pa.types.is_large_binary(type_):
        lengths = pc.binary_length(column)
        return ColumnMeasure(
            null_count,
            size_in_bytes=pc.sum(lengths).as_py() or 0,
            longest_in_bytes=pc.max(lengths).as_py() or 0,
        )
    if pa.types.is_boolean(type_):
        return ColumnMeasure(null_count, total=pc.sum(column).as_py() or 0)
    if pa.types.is_integer(type_):
        # As decimals: the sum of large integers would wrap around without a word.
        return ColumnMeasure(null_count, total=int(pc.sum(column.cast(pa.decimal128(19, 0))).as_py() or 0))
    if pa.types.is_decimal(type_):
        if type_.precision > MAX_SUMMED_PRECISION:
            return ColumnMeasure(null_count)
        total = pc.sum(column.cast(pa.decimal128(38, type_.scale))).as_py() or Decimal(0)
        return ColumnMeasure(null_count, total=int(total.scaleb(type_.scale, context=_EXACT)))
    if pa.types.is_date(type_) or pa.types.is_timestamp(type_):
        try:
            ends = pc.min_max(column).as_py()
        except (OverflowError, ValueError):
            # The years 10000 and 1 BC are in a column, and not in Python's calendar.
            return ColumnMeasure(null_count, is_beyond_calendar=True)
        return ColumnMeasure(null_count, earliest=_iso(ends["min"]), latest=_iso(ends["max"]))
    return ColumnMeasure(null_count)


def _iso(value: Any) -> str | None:
    """
    Return a day or moment so that the order of the texts is that of the values.

    >>> from datetime import date, datetime
    >>> _iso(date(12, 1, 31)), _iso(datetime(2026, 1, 2, 3))
    ('0012-01-31', '2026-01-02 03:00:00.000000')
    """
    if value is None:
        return None
    return str(value.isoformat() if not hasattr(value, "hour") else value.isoformat(" ", "microseconds"))
