"""Which of our types has room for every value of another: what a contract may declare in the place of a type's fate."""

from collections.abc import Mapping

from shared.domain.contracts import STRING, ColumnKind, ColumnType

_WIDER: Mapping[ColumnKind, frozenset[ColumnKind]] = {
    ColumnKind.INT16: frozenset({ColumnKind.INT32, ColumnKind.INT64}),
    ColumnKind.INT32: frozenset({ColumnKind.INT64}),
    ColumnKind.FLOAT32: frozenset({ColumnKind.FLOAT64}),
}
#: Digits that every value of an integer type fits in.
_DIGITS = {ColumnKind.INT16: 5, ColumnKind.INT32: 10, ColumnKind.INT64: 19}


def holds(wide: ColumnType, narrow: ColumnType) -> bool:
    """
    Return whether a type takes every value of another without change. A string takes the text of any value.

    >>> holds(ColumnType.parse("decimal(14,2)"), ColumnType.parse("decimal(12,2)"))
    True
    >>> holds(ColumnType.parse("decimal(19,0)"), ColumnType.parse("int64"))
    True
    >>> holds(ColumnType.parse("int32"), ColumnType.parse("int64"))
    False
    """
    if wide in {narrow, STRING} or wide.kind in _WIDER.get(narrow.kind, ()):
        return True
    if wide.kind is not ColumnKind.DECIMAL:
        return False
    whole = (wide.precision or 0) - (wide.scale or 0)
    if narrow.kind is ColumnKind.DECIMAL:
        narrow_whole = (narrow.precision or 0) - (narrow.scale or 0)
        return (wide.scale or 0) >= (narrow.scale or 0) and whole >= narrow_whole
    return whole >= _DIGITS.get(narrow.kind, whole + 1)
