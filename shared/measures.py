"""
What was measured of the columns of a Parquet file when it was written, kept in its footer.

A warehouse that is told to fetch the file itself proves by it that the values arrived, and makes its columns as wide as
the values are. Nothing is measured of floating-point numbers but their NULLs: their sum depends on the order.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

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
    #: Of days and moments, as ISO 8601 without a zone; None if there are none but NULLs.
    earliest: str | None = None
    latest: str | None = None

    def __add__(self, other: "ColumnMeasure") -> "ColumnMeasure":
        """
        Take two together.

        >>> ColumnMeasure(1, 3, 2) + ColumnMeasure(0, 9, 9)
        ColumnMeasure(null_count=1, size_in_bytes=12, longest_in_bytes=9, total=None, earliest=None, latest=None)
        """
        return ColumnMeasure(
            null_count=self.null_count + other.null_count,
            size_in_bytes=_sum(self.size_in_bytes, other.size_in_bytes),
            longest_in_bytes=max(_present(self.longest_in_bytes, other.longest_in_bytes), default=None),
            total=_sum(self.total, other.total),
            earliest=min(_present(self.earliest, other.earliest), default=None),
            latest=max(_present(self.latest, other.latest), default=None),
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
}


def to_text(measures: Iterable[ColumnMeasure]) -> str:
    """
    Return the measures of a file's columns, in their order, as the footer has them.

    >>> to_text([ColumnMeasure(1, total=7)])
    '[{"nulls":1,"total":7}]'
    """
    entries = [
        {short: value for short, name in _FIELDS.items() if (value := getattr(measure, name)) is not None}
        for measure in measures
    ]
    return json.dumps(entries, separators=(",", ":"))


def from_text(text: str) -> list[ColumnMeasure]:
    """
    Read what `to_text` wrote.

    Raises:
        ValueError: if it is something else.
    """
    entries = json.loads(text)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"expected a list of objects, found {type(entries).__name__}")
    try:
        return [
            ColumnMeasure(**{_FIELDS[short]: value for short, value in entry.items()}) for entry in entries
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"unknown measure {error}") from error


def taken_together(one: Sequence[ColumnMeasure], other: Sequence[ColumnMeasure]) -> list[ColumnMeasure]:
    """Return what the columns of two files measure together."""
    return [column + same_column for column, same_column in zip(one, other, strict=True)]
