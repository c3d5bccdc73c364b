"""
The fate of every PostgreSQL type: carried as itself, or as the text that the server makes of it.

Text comes from the server, by COPY: measured over 48 types, drivers changed values of seven of them
(`date 'infinity'` became today), while the server's own text was exact for all. Settings of the session
decide how that text looks, so every session of ours begins with `SESSION_SETTINGS`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from shared.domain.contracts import MAX_DECIMAL_PRECISION, STRING, ColumnKind, ColumnType

#: Set in each session that reads, so that one value has one text, whatever server, role or database says.
SESSION_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "DateStyle": "ISO, YMD",
        "TimeZone": "UTC",
        "IntervalStyle": "iso_8601",
        "bytea_output": "hex",
        # The shortest text that reads back as the same float. Source: PostgreSQL documentation, 8.1.3.
        "extra_float_digits": "1",
    }
)

#: The columns of one table or view, with the words for their types that `fate_of` reads and contracts keep.
#: Parameters: `schema`, `name`. No row: no such relation, or one without columns.
#: `format_type` leaves the schema out where the search path leads to it, so types that are not PostgreSQL's
#: own are named here by schema and name. A domain counts as the type below it: its values are that type's.
DESCRIBE_COLUMNS = """
SELECT a.attname AS name,
       CASE
           WHEN home.nspname = 'pg_catalog' THEN pg_catalog.format_type(plain.oid, plain.modifier)
           ELSE pg_catalog.quote_ident(home.nspname) || '.' || pg_catalog.quote_ident(item.typname)
                || CASE WHEN item.oid <> plain.oid THEN '[]' ELSE '' END
       END AS source_type,
       NOT (a.attnotnull OR declared.typnotnull) AS nullable
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_type AS declared ON declared.oid = a.atttypid
CROSS JOIN LATERAL (
    SELECT CASE WHEN declared.typtype = 'd' THEN declared.typbasetype ELSE a.atttypid END AS oid,
           CASE WHEN declared.typtype = 'd' THEN declared.typtypmod ELSE a.atttypmod END AS modifier
) AS plain
JOIN pg_catalog.pg_type AS base ON base.oid = plain.oid
JOIN pg_catalog.pg_type AS item
    ON item.oid = CASE WHEN base.typcategory = 'A' AND base.typelem <> 0 THEN base.typelem ELSE base.oid END
JOIN pg_catalog.pg_namespace AS home ON home.oid = item.typnamespace
WHERE n.nspname = %(schema)s
  AND c.relname = %(name)s
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND a.attnum > 0
  AND NOT a.attisdropped
ORDER BY a.attnum
"""


class Carriage(StrEnum):
    """How values of a source type are carried."""

    #: In a type of ours that holds each of its values.
    EXACT = "exact"
    #: As a string, in the server's own words.
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a column of some source type."""

    type: ColumnType
    carriage: Carriage


_EXACT = {
    "boolean": ColumnKind.BOOLEAN,
    "smallint": ColumnKind.INT16,
    "integer": ColumnKind.INT32,
    "bigint": ColumnKind.INT64,
    "real": ColumnKind.FLOAT32,
    "double precision": ColumnKind.FLOAT64,
    "text": ColumnKind.STRING,
    "character varying": ColumnKind.STRING,
    "character": ColumnKind.STRING,
    "date": ColumnKind.DATE,
    "timestamp without time zone": ColumnKind.TIMESTAMP,
    "timestamp with time zone": ColumnKind.TIMESTAMPTZ,
    "json": ColumnKind.JSON,
    "jsonb": ColumnKind.JSON,
    "bytea": ColumnKind.BINARY,
}

# As `format_type` writes them: the digits stand after the first word, as in `timestamp(3) with time zone`.
_TYPE = re.compile(
    r"(?P<head>[a-z]+(?: [a-z]+)*?)(?:\((?P<first>\d+)(?:,(?P<second>-?\d+))?\))?(?P<tail>(?: [a-z]+)*)"
)

_WIDER: Mapping[ColumnKind, frozenset[ColumnKind]] = {
    ColumnKind.INT16: frozenset({ColumnKind.INT32, ColumnKind.INT64}),
    ColumnKind.INT32: frozenset({ColumnKind.INT64}),
    ColumnKind.FLOAT32: frozenset({ColumnKind.FLOAT64}),
}


def fate_of(source_type: str) -> Fate:
    """
    Return what becomes of a type, named as `DESCRIBE_COLUMNS` or `format_type` names it.

    Exact: booleans, integers, floats, text, dates, timestamps, JSON, bytea, and numerics of up to 38 declared
    digits. Everything else is text: numerics without bounds, uuid, inet, enums, times, intervals, money,
    xml, arrays, ranges, composites and every type of an extension.

    >>> str(fate_of("numeric(12,2)").type)
    'decimal(12,2)'
    >>> fate_of("numeric").carriage
    <Carriage.TEXT: 'text'>
    """
    match = _TYPE.fullmatch(source_type)
    if match is None:
        return Fate(STRING, Carriage.TEXT)
    plain = match["head"] + match["tail"]
    if plain == "numeric" and match["first"]:
        return _fate_of_numeric(precision=int(match["first"]), scale=int(match["second"] or 0))
    if plain in _EXACT:
        return Fate(ColumnType(_EXACT[plain]), Carriage.EXACT)
    return Fate(STRING, Carriage.TEXT)


def _fate_of_numeric(*, precision: int, scale: int) -> Fate:
    # PostgreSQL 15 and later take scales below zero and above the precision; no Parquet decimal has those.
    if precision <= MAX_DECIMAL_PRECISION and 0 <= scale <= precision:
        return Fate(ColumnType(ColumnKind.DECIMAL, precision, scale), Carriage.EXACT)
    return Fate(STRING, Carriage.TEXT)


def can_carry(source_type: str, declared: ColumnType) -> bool:
    """
    Return whether a contract may declare this type for a column of the source's type: no value may change.

    Besides its fate: a string (the server's text), a wider number, and for a numeric without bounds any
    decimal, since a value with more digits is then a rejected row and never a rounded one.
    """
    fate = fate_of(source_type)
    if declared in {fate.type, STRING} or declared.kind in _WIDER.get(fate.type.kind, ()):
        return True
    if declared.kind is not ColumnKind.DECIMAL:
        return False
    return source_type.startswith("numeric") and (
        fate.carriage is Carriage.TEXT or _holds(declared, fate.type)
    )


def _holds(wide: ColumnType, narrow: ColumnType) -> bool:
    """Whether a decimal type has room for every value of another, before and after the point."""
    wide_scale, narrow_scale = wide.scale or 0, narrow.scale or 0
    wide_whole, narrow_whole = (wide.precision or 0) - wide_scale, (narrow.precision or 0) - narrow_scale
    return wide_scale >= narrow_scale and wide_whole >= narrow_whole


def select_expression(quoted_name: str, source_type: str) -> str:
    """
    Return what stands in the SELECT list of a COPY for a column, given by its quoted name.

    COPY writes each value by its type's own output function, and that is the canonical text: ISO dates and
    moments (`2026-11-22 20:15:00.123456+00`), bytea as `\\x` and hexadecimal, floats in their shortest exact
    form. Only booleans differ: `t` and `f` are PostgreSQL's alone, their cast says `true` and `false`.
    Nothing else is cast to text, because that changes values: `character(5)` would lose its trailing
    blanks, `inet` addresses would gain a `/32`.
    """
    if fate_of(source_type).type.kind is ColumnKind.BOOLEAN:
        return f"{quoted_name}::pg_catalog.text"
    return quoted_name
