"""
Rows of the warehouse, read back: PostgreSQL's text → the types that the committed Parquet has.

Values of the contract's types come back as they went in. What somebody put there by hand may have no place in the
type (`infinity` as a moment): it is refused by its column, and never read as NULL.
"""

import polars as pl

from shared.csv_dialect import DELIMITER, QUOTE, RECORD_TERMINATOR, header_line
from shared.domain.contracts import ColumnKind, ColumnType, TableContract
from shared.domain.reasons import Reason
from shared.errors import Refused

_PLAIN_TYPES: dict[ColumnKind, type[pl.DataType]] = {
    ColumnKind.STRING: pl.String,
    ColumnKind.BOOLEAN: pl.Boolean,
    ColumnKind.INT16: pl.Int16,
    ColumnKind.INT32: pl.Int32,
    ColumnKind.INT64: pl.Int64,
    ColumnKind.FLOAT32: pl.Float32,
    ColumnKind.FLOAT64: pl.Float64,
    ColumnKind.DATE: pl.Date,
    ColumnKind.JSON: pl.String,
    ColumnKind.BINARY: pl.Binary,
}

_DATE_FORMAT = "%Y-%m-%d"
_TIMESTAMP_FORMAT = "%Y-%m-%d %H:%M:%S%.f"


def polars_type(type_: ColumnType) -> pl.DataType:
    """Return the type that a column of the committed Parquet has once it is read."""
    match type_.kind:
        case ColumnKind.DECIMAL:
            return pl.Decimal(type_.precision, type_.scale or 0)
        case ColumnKind.TIMESTAMP | ColumnKind.TIMESTAMPTZ:
            return pl.Datetime("us")
        case _:
            return _PLAIN_TYPES[type_.kind]()


def typed_block(records: bytes, *, contract: TableContract, place: str) -> pl.DataFrame:
    """
    Read whole records of `COPY … TO STDOUT (FORMAT csv)` as rows of the contract's columns, in their order.

    The session that wrote them had `TimeZone` UTC, `DateStyle` ISO, `bytea_output` hex, `extra_float_digits` 1.

    Raises:
        Refused: TARGET_INCOMPATIBLE if a value does not fit the type of its column.
    """
    positions = positions_of(contract)
    text = pl.read_csv(
        # The header keeps a byte order mark at the start from being taken for one of a file.
        header_line(positions) + records,
        schema=dict.fromkeys(positions, pl.String),
        has_header=True,
        separator=DELIMITER,
        quote_char=QUOTE,
        eol_char=RECORD_TERMINATOR,
    )
    return typed_rows(text, contract=contract, place=place)


def positions_of(contract: TableContract) -> list[str]:
    """Return what the columns are called while they are text: Polars takes names such as `*` and `^a$` for patterns."""
    return [f"c{position}" for position in range(len(contract.output_columns))]


def typed_rows(text: pl.DataFrame, *, contract: TableContract, place: str) -> pl.DataFrame:
    """
    Give rows, all text in the columns of `positions_of`, the types and names of the contract's columns.

    Raises:
        Refused: TARGET_INCOMPATIBLE if a value does not fit the type of its column.
    """
    columns, positions = contract.output_columns, positions_of(contract)
    typed = text.select(
        _typed(pl.col(position), column.output_type).alias(position)
        for position, column in zip(positions, columns, strict=True)
    )
    unfit = [
        column.name
        for position, column in zip(positions, columns, strict=True)
        if typed[position].null_count() != text[position].null_count()
    ]
    if unfit:
        raise Refused(
            Reason.TARGET_INCOMPATIBLE,
            f"{place}: {', '.join(map(repr, unfit))} should hold values of the contract's types, found others, "
            "which somebody else wrote there",
        )
    return typed.rename(dict(zip(positions, [column.name for column in columns], strict=True)))


def _typed(text: pl.Expr, type_: ColumnType) -> pl.Expr:
    match type_.kind:
        case ColumnKind.STRING | ColumnKind.JSON:
            return text
        case ColumnKind.BOOLEAN:
            return text == "t"
        case ColumnKind.DATE:
            return text.str.to_date(_DATE_FORMAT, strict=False)
        case ColumnKind.TIMESTAMP:
            return text.str.to_datetime(_TIMESTAMP_FORMAT, time_unit="us", strict=False)
        case ColumnKind.TIMESTAMPTZ:
            in_utc = text.str.strip_suffix("+00")
            return in_utc.str.to_datetime(_TIMESTAMP_FORMAT, time_unit="us", strict=False)
        case ColumnKind.BINARY:
            return text.str.slice(2).str.decode("hex", strict=False)
        case _:
            return text.cast(polars_type(type_), strict=False)
