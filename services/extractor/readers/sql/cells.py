"""What the rows of each range of a key add up to: as the server sums them, or else as they are read."""

import hashlib
from collections.abc import Iterable

import pyarrow as pa

from services.extractor.readers.database import sums_of
from services.extractor.readers.sql.driver import WatchedConnection
from services.extractor.readers.sql.records import RecordQuery
from shared.domain.key_ranges import CellSums


def cell_sums(
    connection: WatchedConnection, query: RecordQuery, column: str, *, bits: int, max_text_octets: int
) -> dict[int, CellSums]:
    """
    Return the sums of each cell of a query's rows; see `RangedSnapshot`.

    Raises:
        Refused: if the server gave up on the hash of a row.
    """
    statement = query.cell_sums(column, bits=bits)
    if statement is not None:
        return sums_of(connection.query(statement), place=query.place)
    batches = connection.stream(query.texts(), query.texts_size(max_text_octets))
    try:
        return _summed(batches, position=query.position_of(column), bits=bits)
    finally:
        batches.close()


def _summed(batches: Iterable[pa.RecordBatch], *, position: int, bits: int) -> dict[int, CellSums]:
    found: dict[int, list[int]] = {}
    for batch in batches:
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            hashed = hashlib.md5(_netstrings(row), usedforsecurity=False).digest()
            sums = found.setdefault(int(row[position]) >> bits, [0] * 5)
            sums[0] += 1
            for quarter in range(4):
                sums[quarter + 1] += int.from_bytes(hashed[4 * quarter : 4 * quarter + 4])
    return {
        number: CellSums(count, (one, two, three, four))
        for number, (count, one, two, three, four) in found.items()
    }


def _netstrings(row: tuple[str | None, ...]) -> bytes:
    """Return the values of a row as one text that no other row has. A netstring begins with a digit, NULL does not."""
    written = ["~" if value is None else f"{len(value)}:{value}," for value in row]
    return "".join(written).encode("utf-8", "surrogatepass")
