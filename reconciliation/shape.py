"""
What of a table's rows is compared: the columns that all contracts concerned have alike.

A row may lie in the files of several batches, and each batch was read under its own contract. A column that one of
them has otherwise (another type, another mask or key of the mask, or not at all) has no one value to compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from reconciliation.settled import Timeline
from services.processor.checksum import fingerprint
from services.processor.decode import position_name
from shared.domain.contracts import Column, ColumnType, DeleteMode, TableContract

#: What a row is reduced to. `key` and `row` are fingerprints, `window` a number of the timeline, `version` the cursor's
#: position, `order` tells versions of equal cursors apart: the larger is the newer.
REDUCED = {
    "key": pl.UInt64,
    "row": pl.UInt64,
    "window": pl.Int32,
    "version": pl.Int64,
    "order": pl.Int64,
    "is_deleted": pl.Boolean,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The rows to compare: a contract that has only the compared columns, and the names of those left out."""

    contract: TableContract
    left_out: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The compared columns."""
        return self.contract.output_columns

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [column.name for column in self.columns]

    def positions_in(self, contract: TableContract) -> list[int]:
        """Return where the compared columns stand among those of a contract that has them all."""
        position = {column.name: number for number, column in enumerate(contract.output_columns)}
        return [position[name] for name in self.names]

    def select(self, rows: pl.DataFrame, *, contract: TableContract) -> pl.DataFrame:
        """Return the compared columns of rows that have the columns of a contract, named by their position."""
        return pl.DataFrame(
            [
                rows.to_series(position).alias(position_name(number))
                for number, position in enumerate(self.positions_in(contract))
            ]
        )

    def reduce(self, rows: pl.DataFrame, *, timeline: Timeline | None, order: pl.Expr) -> pl.DataFrame:
        """
        Put what rows are reduced to before their compared columns. Without a timeline all belong to window 0.

        `order`: what tells versions of equal cursors apart.
        """
        cells = [self._typed_cell(column) for column in self.columns]
        key = [self._typed_cell(self.contract.column(name)) for name in self.contract.key]
        reduced = rows.select(
            pl.all(),
            key=fingerprint(key or cells),
            row=fingerprint(cells),
            version=self._version(),
            order=order.cast(pl.Int64),
            is_deleted=self._is_deleted(),
        )
        window = pl.repeat(0, rows.height, dtype=pl.Int32, eager=True)
        if timeline is not None:
            window = timeline.windows_of(reduced["version"])
        return reduced.with_columns(window.alias("window")).select(*REDUCED, pl.exclude(*REDUCED))

    def _version(self) -> pl.Expr:
        if self.contract.cursor is None:
            return pl.lit(0, dtype=pl.Int64)
        return self._cell(self.contract.cursor.column).to_physical().cast(pl.Int64)

    def _is_deleted(self) -> pl.Expr:
        if self.contract.deletes.mode is not DeleteMode.SOFT:
            return pl.lit(value=False)
        return self._cell(self.contract.deletes.column).is_not_null()

    def _cell(self, name: str) -> pl.Expr:
        return pl.col(position_name(self.names.index(name)))

    def _typed_cell(self, column: Column) -> tuple[pl.Expr, ColumnType]:
        return self._cell(column.name), column.output_type


def common_shape(contract: TableContract, others: Sequence[TableContract]) -> Shape | str:
    """Return what rows read under any of these contracts have in common; a sentence if they cannot be compared."""
    for other in others:
        for what, one, another in (
            ("publish mode", contract.publishing.mode, other.publishing.mode),
            ("key", contract.key, other.key),
            ("cursor", _cursor_column(contract), _cursor_column(other)),
            ("column of deletes", contract.deletes.column, other.deletes.column),
        ):
            if one != another:
                return (
                    f"the contracts of its batches differ in their {what}: a row has no one meaning in them"
                )
    alike = [
        column for column in contract.output_columns if all(has_alike(other, column) for other in others)
    ]
    names = {column.name for column in alike}
    needed = {*contract.key, _cursor_column(contract), contract.deletes.column} - {"", None}
    if missing := sorted(str(name) for name in needed if name not in names):
        return f"the contracts of its batches have {', '.join(map(repr, missing))} in more than one form"
    left_out = tuple(column.name for column in contract.output_columns if column.name not in names)
    return Shape(replace(contract, columns=tuple(alike)), left_out)


def has_alike(other: TableContract, column: Column) -> bool:
    """Whether values of a column are the same under another contract."""
    return any(
        found.name == column.name
        and (found.output_type, found.mask, found.path) == (column.output_type, column.mask, column.path)
        for found in other.output_columns
    )


def _cursor_column(contract: TableContract) -> str | None:
    return contract.cursor.column if contract.cursor else None
