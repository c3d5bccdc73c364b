"""
The fields of many records in the CSV dialect at once, as expressions of Polars: read, and written.

`shared/csv_dialect.py` says what the dialect is, one record at a time.
"""

import polars as pl

from services.extractor.readers import Chunk
from shared.csv_dialect import DELIMITER, QUOTE

_FIELD = '(?:(?:"[^"]*")+|[^",\n]*)'

_NEEDS_QUOTES = '[",\n\r]'


def fields_pattern(count: int) -> str:
    """Return a regular expression of so many fields, one behind the other, as they are written, their quotes included."""
    return f"{_FIELD}(?:{DELIMITER}{_FIELD}){{{count - 1}}}"


def value_of(field: pl.Expr) -> pl.Expr:
    """Return the value that a field stands for."""
    inner = (
        field.str.strip_prefix(QUOTE).str.strip_suffix(QUOTE).str.replace_all(QUOTE * 2, QUOTE, literal=True)
    )
    return pl.when(field.str.starts_with(QUOTE)).then(inner).when(field != "").then(field)


def field_of(value: pl.Expr) -> pl.Expr:
    """Return a value as a field, with quotes where they are needed and nowhere else."""
    # Of most values nothing is left here, and then nothing is to be done.
    special = pl.when((value == "") | value.str.contains(_NEEDS_QUOTES)).then(value)
    quoted = pl.concat_str(
        pl.lit(QUOTE), special.str.replace_all(QUOTE, QUOTE * 2, literal=True), pl.lit(QUOTE)
    )
    return pl.coalesce(quoted, value, pl.lit(""))


def plain_field_of(value: pl.Expr) -> pl.Expr:
    """Return a value that needs quotes only where it is empty as a field."""
    return pl.when(value == "").then(pl.lit(QUOTE * 2)).otherwise(value).fill_null("")


def chunk_of(records: pl.Series) -> Chunk:
    """Return a chunk of whole records."""
    _, offsets, body = records.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()).buffers()
    ends = memoryview(offsets).cast("q")
    return Chunk(memoryview(body).cast("B")[: ends[-1]], ends)
