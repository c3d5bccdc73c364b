"""
Ranges of a key: how many rows each has and what they add up to, and from that which have to be read again.

All numbers of a key column are cut by a grid of cells as wide as a power of two: `key >> bits` is the cell's number. The
sums of a cell are the sums of its halves, so what is known of one grid can be compared with what was found on another: a
table that grows gets a coarser grid, and one that fills up a finer one, and nothing is read again for it.
"""

import hashlib
import hmac
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

#: A table is cut into no more cells.
MAX_CELLS = 4_096
#: Cells are no wider: their width, as a number, fits into 64 bits.
MAX_BITS = 62
#: What is known of a grid that is finer by more than this is let go of: nobody asks a source for so many cells.
MOST_BITS_FINER = 4
#: The source is asked for cells that are finer by so much than even keys would need: at most eight times as many.
BITS_FINER = 3
#: A batch reads no more ranges, one after the other. Beyond that the nearest are joined, and what lies between is read.
MAX_INTERVALS = 64

LARGEST_KEY = 2**63 - 1

#: Kept of a keyed digest: 128 bits.
_DIGEST_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class KeySpan:
    """What is seen of a key column at first."""

    row_count: int
    low: int
    high: int
    #: Rows without a whole number there: no range has them. If there are any, nothing is known of the bounds.
    keyless_count: int = 0


@dataclass(frozen=True, slots=True)
class Interval:
    """Half-open `[low, high)` of a key column; None is open."""

    low: int | None
    high: int | None

    def __contains__(self, number: int) -> bool:
        return (self.low is None or number >= self.low) and (self.high is None or number < self.high)


EVERYTHING = (Interval(None, None),)


@dataclass(frozen=True, slots=True)
class CellSums:
    """What the rows of a cell add up to: their count, and the four quarters of their hashes, each summed."""

    row_count: int
    quarters: tuple[int, int, int, int]

    def __add__(self, other: "CellSums") -> "CellSums":
        one, two, three, four = (
            mine + theirs for mine, theirs in zip(self.quarters, other.quarters, strict=True)
        )
        return CellSums(self.row_count + other.row_count, (one, two, three, four))


@dataclass(frozen=True, slots=True)
class KnownCells:
    """What a published batch has of a table: the digest of each cell that has rows."""

    batch_id: str
    bits: int
    digests: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class RangeReading:
    """What a batch reads of a table, and what it knows of the rest."""

    column: str
    bits: int
    #: Of each cell that has rows, as they are now.
    digests: Mapping[int, str]
    row_count: int
    #: The batch whose rows outside of the intervals are as they were; None if everything is read.
    baseline: str | None
    #: What is read.
    intervals: tuple[Interval, ...]

    def entry(self) -> dict[str, object]:
        """Return it as JSON values, for a manifest."""
        return {
            "column": self.column,
            "bits": self.bits,
            "row_count": self.row_count,
            "baseline": self.baseline,
            "read": [[interval.low, interval.high] for interval in self.intervals],
            "cells": [[number, digest] for number, digest in sorted(self.digests.items())],
        }

    @classmethod
    def from_entry(cls, entry: object) -> "Self | None":
        """Read what a manifest holds; None if it holds nothing."""
        if not isinstance(entry, Mapping):
            return None
        return cls(
            column=str(entry["column"]),
            bits=int(entry["bits"]),
            digests={int(number): str(digest) for number, digest in entry["cells"]},
            row_count=int(entry["row_count"]),
            baseline=entry["baseline"],
            intervals=tuple(Interval(low, high) for low, high in entry["read"]),
        )


def cell_count_for(row_count: int, *, rows_per_range: int) -> int:
    """Return into how many cells a table of so many rows is cut, so that about so many lie in each."""
    return min(max(-(-row_count // rows_per_range), 1), MAX_CELLS)


def bits_for(span: KeySpan, *, rows_per_range: int) -> int:
    """
    Return how wide cells are if keys lie evenly.

    >>> bits_for(KeySpan(1_000_000, 1, 1_000_000), rows_per_range=10_000)
    14
    """
    width = -(-(span.high - span.low + 1) // cell_count_for(span.row_count, rows_per_range=rows_per_range))
    return min(max(width - 1, 0).bit_length(), MAX_BITS)


def coarsening_for(cells: Mapping[int, CellSums], *, cell_count: int) -> int:
    """
    Return by how many bits a grid is to be coarser to have no more than so many cells with rows in them.

    Keys that lie close together in few places leave most cells empty: then finer ones can be had for nothing.
    """
    by = 0
    while len({number >> by for number in cells}) > cell_count:
        by += 1
    return by


def folded(cells: Mapping[int, CellSums], *, by: int) -> dict[int, CellSums]:
    """
    Return the cells of a grid that is coarser by so many bits.

    >>> one = CellSums(1, (1, 2, 3, 4))
    >>> folded({-1: one, 0: one, 1: one}, by=1) == {-1: one, 0: one + one}
    True
    """
    found: dict[int, CellSums] = {}
    for number, sums in cells.items():
        coarse = number >> by
        found[coarse] = found[coarse] + sums if coarse in found else sums
    return found


def digests_of(cells: Mapping[int, CellSums], *, column: str, bits: int, key: bytes) -> dict[int, str]:
    """
    Return the digest of each cell, keyed: the sums of one row would be a hash of it that anybody can try values on.

    The same rows have the same digest, in whatever order; other rows have another one, but for one chance in 2^128. It
    does not hold against who can choose rows at the source: sums of MD5 can be made to meet.
    """
    return {
        number: hmac.new(
            key,
            f"esclusa range\0{column}\0{bits}\0{number}\0{sums.row_count}\0"
            f"{'.'.join(map(str, sums.quarters))}".encode(),
            hashlib.sha256,
        ).hexdigest()[:_DIGEST_CHARACTERS]
        for number, sums in cells.items()
    }


def changed_intervals(
    before: Mapping[int, str], after: Mapping[int, str], *, bits: int
) -> tuple[Interval, ...]:
    """
    Return the ranges whose cells differ, those that one side alone has among them; joined where they touch.

    >>> changed_intervals({0: "a", 1: "b"}, {0: "a", 1: "c", 2: "d"}, bits=10)
    (Interval(low=1024, high=3072),)
    """
    changed = {number for number in before.keys() | after.keys() if before.get(number) != after.get(number)}
    return tuple(
        Interval(first << bits, high if (high := (last + 1) << bits) <= LARGEST_KEY else None)
        for first, last in _joined(changed)
    )


def _joined(numbers: Collection[int]) -> list[tuple[int, int]]:
    """Return numbers as pairs of first and last, of which there are no more than a batch may read."""
    ordered = sorted(numbers)
    gaps = sorted((later - earlier for earlier, later in itertools.pairwise(ordered)), reverse=True)
    # Gaps that part two ranges: the widest ones.
    narrowest = gaps[MAX_INTERVALS - 1] if len(gaps) >= MAX_INTERVALS else 1
    pairs: list[tuple[int, int]] = []
    for number in ordered:
        if pairs and number - pairs[-1][1] <= max(narrowest, 1):
            pairs[-1] = (pairs[-1][0], number)
        else:
            pairs.append((number, number))
    return pairs


def row_count_of(cells: Iterable[CellSums]) -> int:
    """Return how many rows all cells have."""
    return sum(sums.row_count for sums in cells)


def is_in_any(intervals: Sequence[Interval], number: int) -> bool:
    """Return whether a key lies in one of some ranges."""
    return any(number in interval for interval in intervals)
