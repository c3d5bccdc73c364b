"""
What a batch's rows come to, column by column: values that are there, and of numbers sum, minimum and maximum.

Taken of the files on the way into the warehouse, and compared with what the warehouse says of the same rows. Exact:
numbers are integers here, decimals as many of their last digit. Sums of floating-point numbers depend on the
order of the rows, and are not taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Self

import polars as pl

from shared.domain.contracts import Column, ColumnKind
from shared.domain.reasons import Reason
from shared.errors import Refused

_NUMBERS = frozenset({ColumnKind.INT16, ColumnKind.INT32, ColumnKind.INT64, ColumnKind.DECIMAL})
# A decimal of 38 digits, summed over 10^12 rows, fits.
_EXACT = Context(prec=60)
_HALF = pl.lit(10**18, dtype=pl.Int128)


@dataclass(slots=True)
class _ColumnTotal:
    column: Column
    value_count: int = 0
    total: int = 0
    least: int | None = None
    greatest: int | None = None

    def add(self, values: pl.Series) -> None:
        self.value_count += len(values) - values.null_count()
        if self.column.output_type.kind not in _NUMBERS or values.null_count() == len(values):
            return
        integers = pl.lit(values.to_physical()).cast(pl.Int128)
        # In halves: the sum of some decimals of 38 digits is beyond 128 bits.
        high, low, least, greatest = (
            int(value)
            for value in pl.select(
                (integers // _HALF).sum().alias("high"),
                (integers % _HALF).sum().alias("low"),
                integers.min().alias("least"),
                integers.max().alias("greatest"),
            ).row(0)
        )
        self.total += high * 10**18 + low
        self.least = least if self.least is None else min(self.least, least)
        self.greatest = greatest if self.greatest is None else max(self.greatest, greatest)


@dataclass(slots=True)
class Totals:
    """What the rows of a batch come to, taken block by block."""

    _columns: list[_ColumnTotal] = field(default_factory=list)

    @classmethod
    def of(cls, columns: Sequence[Column]) -> Self:
        """Begin, with no rows."""
        return cls([_ColumnTotal(column) for column in columns])

    @property
    def numbers(self) -> frozenset[str]:
        """The columns of which sum, minimum and maximum are taken."""
        return frozenset(one.column.name for one in self._columns if one.column.output_type.kind in _NUMBERS)

    def add(self, rows: pl.DataFrame) -> None:
        """Take rows in, whose columns are in the order of the contract."""
        for one, values in zip(self._columns, rows.get_columns(), strict=True):
            one.add(values)

    def refuse_difference(self, found: Sequence[object], *, where: str) -> None:
        """
        Compare with what a warehouse says of the same rows.

        `found`: for each column in its order the number of values, and of `numbers` then sum, minimum and maximum: as
        text, or None if there is no value.

        Raises:
            Refused: PROOF_FAILED; it names the column and the total, never a value.
        """
        answers = iter(found)
        for one in self._columns:
            name = one.column.name
            value_count = int(str(next(answers)))
            if value_count != one.value_count:
                raise _failed(
                    where,
                    name,
                    f"values that are not NULL: {one.value_count} in its files, {value_count} staged",
                )
            if name not in self.numbers:
                continue
            scale = one.column.output_type.scale or 0
            told = [_as_integer(next(answers), scale=scale) for _ in range(3)]
            expected = [one.total if one.value_count else None, one.least, one.greatest]
            for what, wanted, other in zip(("sum", "minimum", "maximum"), expected, told, strict=True):
                if wanted != other:
                    raise _failed(where, name, f"the {what} of the rows staged is not that of its files")


def _as_integer(text: object, *, scale: int) -> int | None:
    if text is None:
        return None
    scaled = Decimal(str(text)).scaleb(scale, context=_EXACT)
    return int(scaled) if scaled == scaled.to_integral_value(context=_EXACT) else None


def _failed(where: str, column: str, found: str) -> Refused:
    return Refused(Reason.PROOF_FAILED, f"{where}: column {column!r}: {found}")
