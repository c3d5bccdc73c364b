"""
Text → the contract's types, exactly. A cell that cannot be converted without change makes its row a reject.

Each type has one spelling or a few, written as a pattern before the conversion, for Polars itself converts
more than is exact: `00123` to 123, `1.005` to 1.00, `23:59:60` to the next day.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from services.processor.decode import TextBlock, position_name
from shared.domain.contracts import Column, ColumnKind, ColumnType, TableContract
from shared.domain.reasons import Reason

#: A shape tells a person what is wrong with a value without telling the value.
MAX_SHAPE_CHARACTERS = 40

_INTEGER = r"^(?:0|-?[1-9][0-9]*)$"
_FLOAT = r"^(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|NaN|-?Infinity)$"
_NONZERO_MANTISSA = r"^-?[0.]*[1-9]"
_BOOLEAN = r"^(?:true|false|t|f)$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
# Polars takes second 60 for the next minute. Digits after the sixth may only be zeros.
_TIMESTAMP = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-5][0-9](?:\.[0-9]{1,6}0*)?"
_OFFSET = r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)"
_BINARY = r"^\\x(?:[0-9a-fA-F]{2})*$"

_TIMESTAMP_FORMAT = "%Y-%m-%d %H:%M:%S%.f"

_INTEGER_TYPES: dict[ColumnKind, type[pl.DataType]] = {
    ColumnKind.INT16: pl.Int16,
    ColumnKind.INT32: pl.Int32,
    ColumnKind.INT64: pl.Int64,
}
_FLOAT_TYPES: dict[ColumnKind, type[pl.DataType]] = {
    ColumnKind.FLOAT32: pl.Float32,
    ColumnKind.FLOAT64: pl.Float64,
}


@dataclass(frozen=True, slots=True)
class Conformed:
    """The rows of a block, parted."""

    #: Typed, columns by position.
    accepted: pl.DataFrame
    #: A row for each broken cell: `part`, `line`, `column`, `code`, `value` (its shape; NULL for a NULL).
    broken_cells: pl.DataFrame
    rejected_count: int


def conform(block: TextBlock, *, contract: TableContract) -> Conformed:
    """Give every column its type, and part the rows that fit from those with a broken cell."""
    columns = contract.output_columns
    typed = block.frame.select(
        typed_column(pl.col(position_name(position)), column.output_type)
        for position, column in enumerate(columns)
    )
    broken = [
        cells
        for position, column in enumerate(columns)
        for cells in _broken_cells(block, typed, position, column, is_key=column.name in contract.key)
    ]
    if not broken:
        return Conformed(typed, pl.DataFrame(schema=_BROKEN_CELLS), rejected_count=0)
    cells = pl.concat(broken).sort("line", maintain_order=True)
    rejected = cells["line"].unique() - block.first_line
    is_rejected = pl.int_range(typed.height, dtype=pl.Int64, eager=True).is_in(rejected.implode())
    return Conformed(typed.filter(~is_rejected), cells, rejected_count=rejected.len())


# ---- types -------------------------------------------------------------------------------------------------


def typed_column(text: pl.Expr, column_type: ColumnType) -> pl.Expr:
    """Return the conversion of a text column: NULL where the text is NULL, or cannot become the type unchanged."""
    match column_type.kind:
        case ColumnKind.STRING:
            return text
        case ColumnKind.BOOLEAN:
            return pl.when(text.str.contains(_BOOLEAN)).then(text.str.starts_with("t"))
        case ColumnKind.INT16 | ColumnKind.INT32 | ColumnKind.INT64:
            return _matching(text, _INTEGER).cast(_INTEGER_TYPES[column_type.kind], strict=False)
        case ColumnKind.FLOAT32 | ColumnKind.FLOAT64:
            return _float(text, _FLOAT_TYPES[column_type.kind])
        case ColumnKind.DECIMAL:
            return _decimal(text, precision=column_type.precision or 0, scale=column_type.scale or 0)
        case ColumnKind.DATE:
            return _after_year_0(_matching(text, _DATE), text.str.to_date("%Y-%m-%d", strict=False))
        case ColumnKind.TIMESTAMP:
            return _timestamp(text)
        case ColumnKind.TIMESTAMPTZ:
            return _timestamptz(text)
        case ColumnKind.JSON:
            return text.map_batches(_keep_json, return_dtype=pl.String)
        case ColumnKind.BINARY:
            return _matching(text, _BINARY).str.slice(2).str.decode("hex", strict=False)


def _matching(text: pl.Expr, pattern: str) -> pl.Expr:
    return pl.when(text.str.contains(pattern)).then(text)


def _float(text: pl.Expr, float_type: type[pl.DataType]) -> pl.Expr:
    """Convert to the nearest float. What would become infinite or zero without being spelled so is refused."""
    number = _matching(text, _FLOAT).cast(float_type, strict=False)
    has_overflown = number.is_infinite() & ~text.str.ends_with("Infinity")
    has_vanished = (number == 0) & text.str.contains(_NONZERO_MANTISSA)
    return pl.when(~has_overflown & ~has_vanished).then(number)


def _decimal(text: pl.Expr, *, precision: int, scale: int) -> pl.Expr:
    """Convert without a float in between. Surplus fraction digits may only be zeros."""
    integer_digits = precision - scale
    integer = rf"(?:0|[1-9][0-9]{{0,{integer_digits - 1}}})" if integer_digits else "0"
    fraction = rf"[0-9]{{1,{scale}}}0*" if scale else "0+"
    return _matching(text, rf"^-?{integer}(?:\.{fraction})?$").cast(
        pl.Decimal(precision, scale), strict=False
    )


def _timestamp(text: pl.Expr) -> pl.Expr:
    """Convert a time without zone; one with a zone would lose it, so it is refused."""
    spelled = _matching(text, _TIMESTAMP + "$")
    return _after_year_0(spelled, _parsed_time(spelled, _TIMESTAMP_FORMAT))


def _timestamptz(text: pl.Expr) -> pl.Expr:
    """Convert a moment to UTC, without zone as Spectrum has none; one without offset is no moment and refused."""
    spelled = _matching(text, _TIMESTAMP + _OFFSET + "$")
    moment = _parsed_time(spelled, _TIMESTAMP_FORMAT + "%#z").dt.replace_time_zone(None)
    return _after_year_0(spelled, pl.when(moment.dt.year().is_between(1, 9999)).then(moment))


def _parsed_time(text: pl.Expr, time_format: str) -> pl.Expr:
    separated = text.str.replace("T", " ", literal=True)
    return separated.str.to_datetime(time_format, time_unit="us", strict=False)


def _after_year_0(text: pl.Expr, converted: pl.Expr) -> pl.Expr:
    # The patterns bound years by 9999; the year 0 is none to Redshift, PostgreSQL and Python.
    return pl.when(text.is_not_null() & ~text.str.starts_with("0000")).then(converted)


def _keep_json(texts: pl.Series) -> pl.Series:
    """Return the texts as they are, NULL for those that are not JSON by RFC 8259."""
    return pl.Series(
        texts.name,
        [text if text is None or _is_json(text) else None for text in texts],
        dtype=pl.String,
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# Numbers stay text: Python refuses to convert integers of more than 4,300 digits.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)


def _is_json(text: str) -> bool:
    try:
        _JSON.decode(text)
    except (ValueError, RecursionError):
        # About a thousand levels are too deep for Python's parser, and for readers of a warehouse.
        return False
    return True


# ---- rejects -----------------------------------------------------------------------------------------------

_BROKEN_CELLS = {
    "part": pl.Int64,
    "line": pl.Int64,
    "column": pl.String,
    "code": pl.String,
    "value": pl.String,
}


def _broken_cells(
    block: TextBlock, typed: pl.DataFrame, position: int, column: Column, *, is_key: bool
) -> Sequence[pl.DataFrame]:
    text, value = block.frame.to_series(position), typed.to_series(position)
    found = []
    if value.null_count() != text.null_count():
        is_broken = value.is_null() & text.is_not_null()
        found.append(_cells(block, text, is_broken, column, Reason.CELL_NOT_CONVERTIBLE))
    if text.null_count() and (is_key or not column.nullable):
        code = Reason.NULL_KEY if is_key else Reason.NULL_NOT_ALLOWED
        found.append(_cells(block, text, text.is_null(), column, code))
    return found


def _cells(
    block: TextBlock, text: pl.Series, is_broken: pl.Series, column: Column, code: Reason
) -> pl.DataFrame:
    lines = is_broken.arg_true().cast(pl.Int64) + block.first_line
    return pl.DataFrame(
        {
            "part": pl.repeat(block.part, lines.len(), dtype=pl.Int64, eager=True),
            "line": lines,
            "column": pl.repeat(column.name, lines.len(), dtype=pl.String, eager=True),
            "code": pl.repeat(str(code), lines.len(), dtype=pl.String, eager=True),
            "value": shape_of(text.filter(is_broken)),
        },
        schema=_BROKEN_CELLS,
    )


def shape_of(text: pl.Series) -> pl.Series:
    """
    Return what values look like without what they are: digits become 9, letters a or A, other characters stay.

    >>> shape_of(pl.Series(["12,50 Lire", None])).to_list()
    ['99,99 Aaaa', None]
    """
    return (
        text.str.slice(0, MAX_SHAPE_CHARACTERS)
        .str.replace_all(r"\p{N}", "9")
        .str.replace_all(r"[\p{Lu}\p{Lt}]", "A")
        .str.replace_all(r"[\p{L}\p{M}--[aA]]", "a")
    )
