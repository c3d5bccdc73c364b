"""
Cuts a result into parts for drivers that hold a whole result before they give its first row, so that memory stays bounded.

All parts are read in the one snapshot, by half-open ranges of a column that is a whole number and never NULL: together
they are the result, whether or not the column's values are unique.
"""

from collections.abc import Iterator

from services.extractor.dialects import Statement
from services.extractor.readers.sql.driver import WatchedConnection
from services.extractor.readers.sql.records import RecordQuery
from shared.domain.reasons import Reason
from shared.errors import Refused

#: What a driver may hold, by the largest size that its rows could have.
MAX_HELD_OCTETS = 128 * 1024 * 1024


def statements_of(
    connection: WatchedConnection, query: RecordQuery, *, max_record_octets: int
) -> Iterator[Statement]:
    """
    Return the statements that give the rows of a query, one after the other.

    Raises:
        Refused: if the driver would have to hold more than a process may, and nothing is there to cut the result by.
    """
    if not connection.holds_results:
        yield query.statement()
        return
    max_rows = max(MAX_HELD_OCTETS // max_record_octets, 1)
    for part in _parts(connection, query, max_rows=max_rows):
        yield part.statement()


def _parts(connection: WatchedConnection, query: RecordQuery, *, max_rows: int) -> Iterator[RecordQuery]:
    row_count, column = query.count_in(connection), query.countable_key()
    if row_count <= max_rows:
        yield query
        return
    if column is None:
        _require_small(connection, query)
        yield query
        return
    low, high = query.bounds_in(connection, column)
    yield from _halves(connection, query, column, low, high + 1, row_count=row_count, max_rows=max_rows)


def _halves(
    connection: WatchedConnection,
    query: RecordQuery,
    column: str,
    low: int,
    high: int,
    *,
    row_count: int,
    max_rows: int,
) -> Iterator[RecordQuery]:
    """Halve a range by its values until no part has too many rows; empty parts are left out."""
    if not row_count:
        return
    part = query.between(column, low, high)
    if row_count <= max_rows or high - low == 1:
        if row_count > max_rows:
            _require_small(connection, part)
        yield part
        return
    middle = (low + high) // 2
    lower_count = query.between(column, low, middle).count_in(connection)
    yield from _halves(connection, query, column, low, middle, row_count=lower_count, max_rows=max_rows)
    yield from _halves(
        connection, query, column, middle, high, row_count=row_count - lower_count, max_rows=max_rows
    )


def _require_small(connection: WatchedConnection, query: RecordQuery) -> None:
    """
    Look at the real size, which takes the server as long as to write every row.

    Raises:
        Refused: if it is too large.
    """
    octets = query.total_octets_in(connection)
    if octets > MAX_HELD_OCTETS:
        raise Refused(
            Reason.SOURCE_LIMIT_EXCEEDED,
            f"{query.place}: its ODBC driver holds whole results, and this one has {octets} bytes; take a newer driver "
            f"(Connector/ODBC 3.1.17 streams), kind sqlalchemy, or give the table a key that is a whole number",
        )
