"""Numbers in the words of warehouses and of the lake: which type of them takes every value of another."""

import re

from shared.domain.contracts import ColumnKind, ColumnType

_INTEGERS = {
    "smallint": ColumnKind.INT16,
    "integer": ColumnKind.INT32,
    "int": ColumnKind.INT32,
    "bigint": ColumnKind.INT64,
}
_DECIMAL = re.compile(r"(?:numeric|decimal)\((?P<precision>\d+),(?P<scale>\d+)\)")


def widens(wide: str, narrow: str) -> bool:
    """
    Return whether a column of one type can become one of another without any value changing; see `ColumnType.widens`.

    >>> widens("bigint", "integer"), widens("integer", "integer"), widens("text", "integer")
    (True, False, False)
    >>> widens("decimal(14,4)", "decimal(12,2)"), widens("numeric(12,4)", "numeric(12,2)")
    (True, False)
    """
    one, other = _number(wide), _number(narrow)
    return one is not None and other is not None and one.widens(other)


def _number(words: str) -> ColumnType | None:
    if words in _INTEGERS:
        return ColumnType(_INTEGERS[words])
    if match := _DECIMAL.fullmatch(words):
        return ColumnType(ColumnKind.DECIMAL, int(match["precision"]), int(match["scale"]))
    return None
