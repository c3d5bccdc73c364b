"""What the snapshots of all databases have in common, whatever carries their rows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from services.extractor.readers import SourceColumn, fingerprint_of
from shared.domain.key_ranges import CellSums
from shared.domain.reasons import Reason
from shared.errors import Refused


class DatabaseSnapshot:
    """What was seen before the rows are read, and how many were. See `SourceSnapshot`."""

    def __init__(
        self, columns: Sequence[SourceColumn], *, taken_at: datetime, open_since: datetime | None
    ) -> None:
        self._columns = columns
        self._taken_at = taken_at
        self._open_since = open_since
        self._rows_read_count = 0

    @property
    def taken_at(self) -> datetime:
        """The database's clock before the snapshot."""
        return self._taken_at

    @property
    def open_since(self) -> datetime | None:
        """The start of the oldest transaction that had written, by the database's own list."""
        return self._open_since

    @property
    def fingerprint(self) -> str:
        """Of the columns and types in the snapshot."""
        return fingerprint_of(self._columns)

    @property
    def rows_read_count(self) -> int:
        """As the database, or its driver, counted them."""
        return self._rows_read_count

    @property
    def rows_outside_window_count(self) -> int:
        """None: the database compares exactly."""
        return 0


def require_distinct(names: Sequence[str], *, place: str) -> None:
    """
    Make sure that each column of a query can be told from the others.

    Raises:
        Refused: if two have one name, or one has none.
    """
    twice = [name for name, count in Counter(names).items() if count > 1 or not name]
    if twice:
        raise Refused(
            Reason.QUERY_INVALID,
            f"{place}: expected columns with names of their own, found {', '.join(map(repr, twice))} twice or without "
            "one; name them by AS",
        )


def sums_of(rows: Iterable[Sequence[str | int | None]], *, place: str) -> dict[int, CellSums]:
    """
    Return the sums of each cell from a server's rows of cell, row count, count of hashes and four sums.

    Raises:
        Refused: if some row has no hash.
    """
    found = {}
    for row in rows:
        number, row_count, hashed_count, one, two, three, four = (int(value or 0) for value in row)
        if row_count != hashed_count:
            raise Refused(
                Reason.VALUE_NOT_REPRESENTABLE,
                f"{place}: the server gave up on the hash of a record, which is longer than it holds "
                "(max_allowed_packet); raise that there, withhold the large column, or leave out key_ranges",
            )
        found[number] = CellSums(row_count, (one, two, three, four))
    return found
