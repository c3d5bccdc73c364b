"""
What was measured of the columns of a Parquet file when it was written, kept in its footer.

A warehouse that is told to fetch the file itself proves by it that the values arrived, and makes its columns as wide as
the values are. Nothing is measured of floating-point numbers but their NULLs: their sum depends on the order.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

#: The key in the footer.
MEASURES_KEY = "esclusa.measures"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ColumnMeasure:
    """One column of one file, or of several taken together. What does not fit its type is None."""

    null_count: int = 0
    #: Of text and bytes: all of them together, and the longest. Text counts in UTF-8.
    size_in_bytes: int | None = None
    longest_in_bytes: int | None = None
    #: Of whole numbers, and of decimals in units of their last digit; of truth values how many are true.
    total: int | None = None
    #: Of days and moments, as ISO 8601 without a zone; None if there are none but NULLs, or `is_beyond_calendar`.
    earliest: str | None = None
    latest: str | None = None
    #: Some day or moment is not of the years 1 to 9999: then nothing is told of the ends of the others either.
    is_beyond_calendar: bool = False

    def __add__(self, other: "ColumnMeasure") -> "ColumnMeasure":
        """
        Take two together.

        >>> ColumnMeasure(1, 3, 2) + ColumnMeasure(0, 9, 9)
        ColumnMeasure(null_count=1, size_in_bytes=12, longest_in_bytes=9, total=None, earliest=None, latest=None, is_beyond_calendar=False)
        """
        is_beyond_calendar = self.is_beyond_calendar or other.is_beyond_calendar
        earliest = min(_present(self.earliest, other.earliest), default=None)
        latest = max(_present(self.latest, other.latest), default=None)
        return ColumnMeasure(
            null_count=self.null_count + other.null_count,
            size_in_bytes=_sum(self.size_in_bytes, other.size_in_bytes),
            longest_in_bytes=max(_present(self.longest_in_bytes, other.longest_in_bytes), default=None),
            total=_sum(self.total, other.total),
            earliest=None if is_beyond_calendar else earliest,
            latest=None if is_beyond_calendar else latest,
            is_beyond_calendar=is_beyond_calendar,
        )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)


def _present(*values: T | None) -> list[T]:
    return [value for value in values if value is not None]


_FIELDS = {
    "nulls": "null_count",
    "bytes": "size_in_bytes",
    "longest": "longest_in_bytes",
    "total": "total",
    "earliest": "earliest",
    "latest": "latest",
    "beyond": "is_beyond_calendar",
}

_COUNTS = frozenset({"nulls", "bytes", "longest"})
_END = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?: [0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6})?", re.ASCII)


def to_text(measures: Iterable[ColumnMeasure]) -> str:
    """
    Return the measures of a file's columns, in their order, as the footer has them.

    >>> to_text([ColumnMeasure(1, total=7)])
    '[{"nulls":1,"total":7}]'
    """
    entries = [
        {
            short: value
            for short, name in _FIELDS.items()
            if (value := getattr(measure, name)) is not None and value is not False
        }
        for measure in measures
    ]
    return json.dumps(entries, separators=(",", ":"))


def from_text(text: str) -> list[ColumnMeasure]:
    """
    Read what `to_text` wrote, and let nothing else pass: it goes into the SQL of proofs.

    Raises:
        ValueError: if it is something else.
    """
    entries = json.loads(text)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"expected a list of objects, found {type(entries).__name__}")
    return [_from_entry(entry) for entry in entries]


def _from_entry(entry: Mapping[str, Any]) -> ColumnMeasure:
    for short, value in entry.items():
        if short not in _FIELDS:
            raise ValueError(f"unknown measure {short!r}")
        if not _is_measure(short, value):
            raise ValueError(f"measure {short!r}: expected another value than it has")
    return ColumnMeasure(**{_FIELDS[short]: value for short, value in entry.items()})


def _is_measure(short: str, value: object) -> bool:
    if short in {"earliest", "latest"}:
        return isinstance(value, str) and _END.fullmatch(value) is not None
    if short == "beyond":
        return value is True
    return type(value) is int and (value >= 0 or short not in _COUNTS)


def taken_together(one: Sequence[ColumnMeasure], other: Sequence[ColumnMeasure]) -> list[ColumnMeasure]:
    """Return what the columns of two files measure together."""
    return [column + same_column for column, same_column in zip(one, other, strict=True)]
