"""
When a type of a source may become another without any value changing: the words of each product, side by side.

A *widening* takes every value of the type before, and more. It matters what becomes of a value's text, because a
masked column is made of texts: a pseudonym of `1.5` is another than that of `1.50`.
Whatever is not told here is no widening, and is held: it is cheap to add a pair, and dear to lose a value.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from services.extractor.dialects import DialectName

#: In UTF-8.
MAX_CHARACTER_SIZE_IN_BYTES = 4


class Widening(StrEnum):
    """What a change of type leaves as it was."""

    #: Every value, and its text.
    SAME_TEXT = "same_text"
    #: Every value; its text may have more zeros.
    SAME_VALUE = "same_value"


@dataclass(frozen=True, slots=True)
class _Shape:
    """The values of a type: of which family, how many of them, and how they are written."""

    family: str
    #: From and to, of whole numbers.
    low: int = 0
    high: int = 0
    #: How much surely fits: characters of texts, digits of decimals before the point; None: no bound.
    size: int | None = 0
    #: How much there may be. More than surely fits where the bound is one of bytes.
    longest: int | None = 0
    #: Digits behind the point, of decimals and of seconds.
    scale: int = 0
    #: Whether digits behind the point are always written.
    is_padded: bool = False


def widening(dialect: DialectName, before: str, after: str) -> Widening | None:
    """
    Return what stays the same when a column's type becomes another; None if it is no widening.

    >>> widening(DialectName.POSTGRESQL, "character varying(10)", "text")
    <Widening.SAME_TEXT: 'same_text'>
    >>> widening(DialectName.POSTGRESQL, "numeric(10,2)", "numeric(12,4)")
    <Widening.SAME_VALUE: 'same_value'>
    >>> widening(DialectName.POSTGRESQL, "bigint", "integer") is None
    True
    """
    if before == after:
        return Widening.SAME_TEXT
    if dialect is DialectName.MYSQL and _has_more_members(before, after):
        return Widening.SAME_TEXT
    shape_of = _SHAPES[dialect]
    narrow, wide = shape_of(before), shape_of(after)
    if narrow is None or wide is None or not _contains(wide, narrow):
        return None
    is_rewritten = narrow.is_padded and narrow.scale != wide.scale
    return Widening.SAME_VALUE if is_rewritten else Widening.SAME_TEXT


def _contains(wide: _Shape, narrow: _Shape) -> bool:
    return (
        wide.family == narrow.family
        and wide.low <= narrow.low
        and wide.high >= narrow.high
        and wide.scale >= narrow.scale
        and (wide.size is None or (narrow.longest is not None and wide.size >= narrow.longest))
    )


def _integer(size_in_bytes: int, *, unsigned: bool = False) -> _Shape:
    values = 1 << 8 * size_in_bytes
    low = 0 if unsigned else -values // 2
    return _Shape("integer", low=low, high=low + values - 1)


def _text(size: int | None, *, family: str = "text") -> _Shape:
    return _Shape(family, size=size, longest=size)


def _text_of_bytes(size_in_bytes: int) -> _Shape:
    return _Shape("text", size=size_in_bytes // MAX_CHARACTER_SIZE_IN_BYTES, longest=size_in_bytes)


def _decimal(precision: int, scale: int, *, family: str = "decimal") -> _Shape:
    whole_digits = precision - scale
    return _Shape(family, size=whole_digits, longest=whole_digits, scale=scale, is_padded=True)


def _seconds(family: str, digits: int, *, is_padded: bool) -> _Shape:
    return _Shape(family, scale=digits, is_padded=is_padded)


# As `format_type` and MySQL's COLUMN_TYPE write them: `timestamp(3) with time zone`, `decimal(10,2) unsigned`.
_WORD = re.compile(
    r"(?P<head>[a-z]\w*(?: [a-z]+)*?) ?(?:\((?P<first>\d+|max)(?:, ?(?P<second>-?\d+))?\))?"
    r"(?P<tail>(?: [a-z]+)*)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Word:
    """A type as a product writes it, in small letters and taken apart."""

    name: str
    first: int | None
    second: int | None
    is_max: bool


def _word(source_type: str) -> _Word | None:
    match = _WORD.fullmatch(source_type)
    if match is None:
        return None
    first, second = match["first"], match["second"]
    is_max = first is not None and first.lower() == "max"
    return _Word(
        (match["head"] + match["tail"]).lower(),
        None if first is None or is_max else int(first),
        None if second is None else int(second),
        is_max,
    )


# ---- PostgreSQL --------------------------------------------------------------------------------------------

_POSTGRESQL_INTEGERS = {"smallint": _integer(2), "integer": _integer(4), "bigint": _integer(8)}
_POSTGRESQL_MOMENTS = {
    "timestamp without time zone",
    "timestamp with time zone",
    "time without time zone",
    "time with time zone",
}


def _postgresql(source_type: str) -> _Shape | None:
    """
    Whole numbers, decimals of declared digits, `character varying` and `text`, moments, and arrays of these.

    Not `character(n)`, whose values are filled up with blanks, nor `real`: what is 0.1 there is
    0.10000000149011612 as `double precision`. PostgreSQL drops zeros at the end of seconds, and of decimals none.
    """
    if source_type.endswith("[]"):
        item = _postgresql(source_type.removesuffix("[]"))
        # Each item is written as it is outside of one, and no array of ours is more than text.
        return item and replace(item, family=f"array of {item.family}")
    if source_type in _POSTGRESQL_INTEGERS:
        return _POSTGRESQL_INTEGERS[source_type]
    word = _word(source_type)
    if word is None:
        return None
    if word.name in {"text", "character varying"}:
        return _text(word.first)
    if word.name == "bit varying":
        return _text(word.first, family="bits")
    if word.name == "numeric" and word.first is not None:
        return _decimal(word.first, word.second or 0)
    if word.name in _POSTGRESQL_MOMENTS:
        return _seconds(word.name, 6 if word.first is None else word.first, is_padded=False)
    return None


# ---- MySQL and MariaDB -------------------------------------------------------------------------------------

_MYSQL_INTEGERS = {"tinyint": 1, "smallint": 2, "mediumint": 3, "int": 4, "bigint": 8}
# Bytes. Source: MySQL Reference Manual, "String Type Storage Requirements".
_MYSQL_TEXTS = {"tinytext": 2**8 - 1, "text": 2**16 - 1, "mediumtext": 2**24 - 1, "longtext": 2**32 - 1}
_MYSQL_BYTES = {"tinyblob": 2**8 - 1, "blob": 2**16 - 1, "mediumblob": 2**24 - 1, "longblob": 2**32 - 1}


def _mysql(source_type: str) -> _Shape | None:
    """
    Whole numbers with and without sign, decimals, texts, bytes, and moments.

    Not `zerofill`, which changes texts with the width, nor `char` and `binary`, which are filled up.
    """
    word = _word(source_type)
    if word is None or "zerofill" in word.name:
        return None
    name = word.name.removesuffix(" unsigned")
    is_unsigned = name != word.name
    if name in _MYSQL_INTEGERS:
        # The number in parentheses is a width for display, and changes nothing.
        return _integer(_MYSQL_INTEGERS[name], unsigned=is_unsigned)
    if name == "decimal" and word.first is not None:
        family = "decimal unsigned" if is_unsigned else "decimal"
        return _decimal(word.first, word.second or 0, family=family)
    if is_unsigned:
        return None
    if name == "varchar" and word.first is not None:
        return _text(word.first)
    if name in _MYSQL_TEXTS:
        return _text_of_bytes(_MYSQL_TEXTS[name])
    if name == "varbinary" and word.first is not None:
        return _text(word.first, family="bytes")
    if name in _MYSQL_BYTES:
        return _text(_MYSQL_BYTES[name], family="bytes")
    if name in {"datetime", "timestamp", "time"}:
        return _seconds(name, word.first or 0, is_padded=True)
    return None


def _has_more_members(before: str, after: str) -> bool:
    """
    Whether an `enum` or `set` of MySQL got members behind those it had.

    >>> _has_more_members("enum('a','b')", "enum('a','b','c')"), _has_more_members("enum('a')", "enum('b')")
    (True, False)
    """
    is_list = before.lower().startswith(("enum(", "set(")) and before.endswith(")")
    return is_list and after.startswith(f"{before[:-1]},'")


# ---- the others --------------------------------------------------------------------------------------------

_SQLSERVER_INTEGERS = {"smallint": _integer(2), "int": _integer(4), "bigint": _integer(8)}


def _sqlserver(source_type: str) -> _Shape | None:
    """
    Whole numbers, decimals, `varchar` and `nvarchar`. Not moments: their text has as many digits as they declare,
    and `datetime2(7)` has more than ours.
    """
    word = _word(source_type)
    if word is None:
        return None
    if word.name == "tinyint":
        return _integer(1, unsigned=True)
    if word.name in _SQLSERVER_INTEGERS:
        return _SQLSERVER_INTEGERS[word.name]
    if word.name in {"decimal", "numeric"} and word.first is not None:
        return _decimal(word.first, word.second or 0)
    if word.name in {"varchar", "nvarchar"} and (word.is_max or word.first is not None):
        # Bytes of a code page, and characters of UTF-16: no size of the one says anything of the other.
        return _text(None if word.is_max else word.first, family=word.name)
    return None


def _oracle(source_type: str) -> _Shape | None:
    """`VARCHAR2` and `NVARCHAR2` by their characters, and `NUMBER` of declared digits."""
    word = _word(source_type)
    if word is None or word.first is None:
        return None
    if word.name in {"varchar2", "nvarchar2"}:
        return _text(word.first, family=word.name)
    if word.name == "number" and (word.second or 0) >= 0:
        return _decimal(word.first, word.second or 0)
    return None


def _sqlite(source_type: str) -> _Shape | None:  # noqa: ARG001 (the others look at it)
    """Nothing: the words that SQLite has for types bind no value."""
    return None


_SHAPES: Mapping[DialectName, Callable[[str], _Shape | None]] = {
    DialectName.POSTGRESQL: _postgresql,
    DialectName.MYSQL: _mysql,
    DialectName.SQLSERVER: _sqlserver,
    DialectName.ORACLE: _oracle,
    DialectName.SQLITE: _sqlite,
}
