"""
The port to the sources, and which reader serves which kind.

A reader is made for one table. It connects when it is used, and everything of one batch is read from one
snapshot, so that a retry starts over and two snapshots are never stitched together.
"""

import hashlib
import json
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from typing import Protocol, Self, runtime_checkable

from shared.domain.contracts import (
    MOMENT_KINDS,
    ColumnKind,
    Cursor,
    CursorScale,
    SourceKind,
    TableContract,
)
from shared.domain.drift import Drift
from shared.domain.key_ranges import CellSums, Interval, KeySpan
from shared.domain.source_queries import Placeholder
from shared.domain.windows import Extent, Window
from shared.ports import SecretStore


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What one batch may take of a source. The contract's own `timeout_seconds` goes before the general one."""

    connect_timeout_seconds: int = 10
    #: How long to wait for a table that somebody holds with a lock of their own.
    lock_timeout_seconds: int = 10
    #: The whole reading of one batch. Below the worker's soft time limit, so that the error has a name.
    read_timeout_seconds: int = 600
    #: Chunks are cut at the first record boundary behind this.
    chunk_size_in_bytes: int = 6 * 1024 * 1024


DEFAULT_LIMITS = ReadLimits()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole records in the CSV dialect, one behind the other, without a header."""

    body: bytes | memoryview
    #: Where in the body each record begins, and behind them where the last one ends. 64 bits each, for Arrow.
    offsets: "array[int] | memoryview"

    @classmethod
    def of(cls, records: Iterable[bytes]) -> Self:
        """Return a chunk of these records."""
        made = list(records)
        return cls(b"".join(made), array("q", accumulate(map(len, made), initial=0)))

    @property
    def record_count(self) -> int:
        """How many records there are."""
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column as the source has it now."""

    name: str
    #: The source's own word for the type; empty where it has none.
    source_type: str = ""
    is_nullable: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at when a table was checked."""

    subject: str
    is_ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class CursorBounds:
    """The smallest and the largest value of a cursor: moments in UTC, also of dates, or numbers."""

    low: datetime | int
    high: datetime | int


class SourceSnapshot(Protocol):
    """One table at one moment of its source."""

    @property
    def taken_at(self) -> datetime:
        """The moment on the source's clock, in UTC: everything that had committed by then is seen."""
        ...

    @property
    def open_since(self) -> datetime | None:
        """The start of the oldest transaction that had written before the snapshot; see `SourceReader.open_since`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the table's columns and types when the snapshot was opened."""
        ...

    @property
    def rows_read_count(self) -> int:
        """Rows that the source sent, counted where they arrive. Complete after `read`."""
        ...

    @property
    def rows_outside_window_count(self) -> int:
        """Those of them that the source sent although they lie outside the window; they are in no chunk."""
        ...

    def read(self) -> Generator[Chunk, None, None]:
        """
        Read the rows of the window, of the columns that leave, in the contract's order.

        Raises:
            Refused: if the source says something that cannot be carried or cannot be true.
            Unavailable: if it breaks off or takes too long.
        """
        ...

    def unclassified_columns(self) -> Sequence[SourceColumn]:
        """Return the columns that the contract does not know; they are never read. Complete after `read`."""
        ...

    def current_fingerprint(self) -> str:
        """Return the fingerprint as it is now, whatever the snapshot sees."""
        ...


@runtime_checkable
class RangedSnapshot(SourceSnapshot, Protocol):
    """A snapshot of which ranges of a key can be compared and read. Those of databases are."""

    def key_span(self, column: str) -> KeySpan | None:
        """
        Return how many rows there are, those without a whole number in the key, and the smallest and largest key.

        None if there is no row.
        """
        ...

    def cell_sums(self, column: str, *, bits: int) -> dict[int, CellSums]:
        """
        Return what the rows of each cell `key >> bits` add up to, of the columns that leave, as the source has them.

        NULL, the empty string and any word for NULL are three values, and the order of rows is none. Where the server has
        a hash it computes the sums; else every row is read for it, and nothing kept.

        Raises:
            Refused: if a row has no hash.
            Unavailable: if the source breaks off or takes too long.
        """
        ...

    def read_ranges(self, column: str, intervals: Sequence[Interval]) -> Generator[Chunk, None, None]:
        """Read the rows whose key lies in some ranges, one range after the other; see `read`."""
        ...


class SourceReader(Protocol):
    """One table of one source."""

    def clock(self) -> datetime:
        """
        Return the moment up to which the source can be read, on its own clock and in UTC.

        Raises:
            Unavailable: if it does not answer.
        """
        ...

    def open_since(self) -> datetime | None:
        """
        Return the start of the oldest open transaction that has written: what it commits may bear that moment.

        On the source's clock and in UTC; None if there is none, or the source does not show those of others.

        Raises:
            Unavailable: if it does not answer.
        """
        ...

    def check(self) -> list[Finding]:
        """Look at connection, rights and columns, and read no row. Finds all that is wrong; raises nothing."""
        ...

    def drift(self) -> Drift:
        """
        Return what the table has otherwise than its contract, and read no row of it.

        Raises:
            Refused: if the table is not there, or may not be read.
            Unavailable: if the source does not answer.
        """
        ...

    def count_rows(self, window: Window | None = None, *, extent: Extent | None = None) -> int:
        """
        Return how many rows a window has now, without its overlap; of the whole table if none is given.

        Raises:
            Refused: if the table is not as the contract has it.
            Unavailable: if the source does not answer, or takes too long.
        """
        ...

    def cursor_bounds(self, window: Window | None = None) -> CursorBounds | None:
        """
        Return the bounds of the cursor's values in a window, or in the whole table.

        None if there is no row, or the source cannot tell without being read.

        Raises:
            Refused: if the table is not as the contract has it.
            Unavailable: if the source does not answer, or takes too long.
        """
        ...

    def open_snapshot(
        self, window: Window, *, extent: Extent | None = None
    ) -> AbstractContextManager[SourceSnapshot]:
        """
        Begin to read a window, from its start less the overlap; without a cursor, the whole table.

        An `extent` narrows it further. If it is of the cursor's own column, it takes the place of the window.

        Raises:
            Refused: if the table is not as the contract has it.
            Unavailable: if the source does not answer.
        """
        ...

    def close(self) -> None:
        """Leave the source."""
        ...


@contextmanager
def open_reader(
    contract: TableContract, *, secrets: SecretStore, limits: ReadLimits = DEFAULT_LIMITS
) -> Iterator[SourceReader]:
    """Open the reader of a table. It connects at first use and leaves the source at the end of the block."""
    with closing(_reader_of(contract, secrets=secrets, limits=limits)) as reader:
        yield reader


def _reader_of(contract: TableContract, *, secrets: SecretStore, limits: ReadLimits) -> SourceReader:
    # Deferred: each reader brings its own driver, and itself imports this module.
    match contract.origin.kind:
        case SourceKind.POSTGRES:
            from services.extractor.readers.postgres import PostgresReader

            return PostgresReader(contract, secrets=secrets, limits=limits)
        case SourceKind.ODBC | SourceKind.SQLALCHEMY:
            from services.extractor.readers.sql import open_sql_reader

            return open_sql_reader(contract, secrets=secrets, limits=limits)
        case SourceKind.REST:
            from services.extractor.readers.rest import RestReader

            return RestReader(contract, secrets=secrets, limits=limits)


def fingerprint_of(columns: Sequence[SourceColumn]) -> str:
    """
    Return the SHA-256 of the names and types of columns, in their order.

    >>> fingerprint_of([SourceColumn("id", "bigint")])[:8]
    '8251d790'
    """
    text = json.dumps([[column.name, column.source_type] for column in columns], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Condition:
    """What a value of a column has to be: `<` or `>=` another one."""

    column: str
    operator: str
    #: A date or number of a column that holds such; a moment in UTC; the source's own text of any other.
    value: datetime | date | int | str


def conditions_of(
    contract: TableContract, window: Window | None, *, extent: Extent | None = None, with_overlap: bool = True
) -> list[Condition]:
    """
    Return the conditions on the rows of a window, the upper bound of the cursor first.

    An extent of a counting cursor takes the place of the window; one of another column narrows it.
    """
    cursor, scale = contract.cursor, contract.cursor_scale
    conditions = []
    if cursor is not None and scale is CursorScale.COUNT:
        if extent is not None:
            overlap = cursor.overlap_count if with_overlap else 0
            low = None if extent.low is None else int(extent.low) - overlap
            conditions += _between(extent.column, low, None if extent.high is None else int(extent.high))
        return conditions
    if cursor is not None and window is not None:
        overlap_time = cursor.overlap if with_overlap else timedelta(0)
        start = None if window.start is None else window.start - overlap_time
        if scale is CursorScale.DAY:
            # Both are midnights but for the overlap, which then reaches back to the beginning of its day.
            conditions += _between(cursor.column, start and start.date(), window.end.date())
        else:
            conditions += _between(cursor.column, start, window.end)
    if extent is not None:
        conditions += _between(extent.column, extent.low, extent.high)
    return conditions


#: The first and the last value of each scale that a query is told where a batch has no bound.
_FIRST_MOMENT, _LAST_MOMENT = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)
_BITS = {ColumnKind.INT16: 16, ColumnKind.INT32: 32}


def bound_value(
    placeholder: Placeholder, conditions: Sequence[Condition], *, cursor: Cursor | None, kind: ColumnKind
) -> datetime | date | int:
    """
    Return the value of a query's placeholder, by the conditions that stand around the query.

    `kind`: what becomes of the cursor's type at the source, which bounds the numbers there.
    """
    is_start = placeholder is Placeholder.WINDOW_START
    for condition in conditions:
        of_cursor = cursor is not None and condition.column == cursor.column
        # A range that is cut once more, for a driver's sake, stands behind: what is wider loses no row.
        if of_cursor and (condition.operator == ">=") == is_start and not isinstance(condition.value, str):
            return condition.value
    if kind in MOMENT_KINDS:
        return _FIRST_MOMENT if is_start else _LAST_MOMENT
    if kind is ColumnKind.DATE:
        return (_FIRST_MOMENT if is_start else _LAST_MOMENT).date()
    largest = (1 << (_BITS.get(kind, 64) - 1)) - 1
    return -largest - 1 if is_start else largest


def range_conditions(column: str, interval: Interval, *, kind: ColumnKind) -> list[Condition]:
    """
    Return the conditions on the rows of a range. A bound that no value of the column reaches is left out.

    `kind`: what becomes of the column's type at the source, which cannot be compared with larger numbers.
    """
    largest = (1 << (_BITS.get(kind, 64) - 1)) - 1
    low, high = interval.low, interval.high
    return _between(
        column,
        low if low is not None and low >= -largest - 1 else None,
        high if high is not None and high <= largest else None,
    )


def _between(
    column: str, low: datetime | date | int | str | None, high: datetime | date | int | str | None
) -> list[Condition]:
    upper = [] if high is None else [Condition(column, "<", high)]
    lower = [] if low is None else [Condition(column, ">=", low)]
    return upper + lower
