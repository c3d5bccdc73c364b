"""Which ranges of a table's key have to be read again: those that differ from what was published."""

from collections.abc import Mapping

import structlog

from services.extractor.readers import RangedSnapshot, SourceSnapshot
from shared.domain.contracts import TableContract
from shared.domain.key_ranges import (
    BITS_FINER,
    EVERYTHING,
    MOST_BITS_FINER,
    CellSums,
    Interval,
    KnownCells,
    RangeReading,
    bits_for,
    cell_count_for,
    changed_intervals,
    coarsening_for,
    digests_of,
    folded,
    row_count_of,
)
from shared.ports import SecretStore
from shared.stage import Assignment

log = structlog.get_logger()

#: Of a table whose columns all leave as they are: what a digest could tell, its rows tell in the warehouse.
_KEY_OF_CLEAR_ROWS = b"esclusa ranges of rows in clear"


def choose_ranges(
    assignment: Assignment, snapshot: SourceSnapshot, *, secrets: SecretStore
) -> RangeReading | None:
    """
    Return what has to be read of a table that is read by ranges of its key; None of any other, to be read whole.

    Everything, if nothing is known of it; nothing, if no range has changed. A table with rows that have no number in
    the key is such another one as long as it has them.

    Raises:
        Refused: if the source cannot tell what its rows add up to.
        Unavailable: if the source, or the store of secrets, breaks off.
    """
    contract = assignment.contract
    column, ranges = contract.range_column, contract.key_ranges
    if not contract.is_read_by_ranges or column is None or ranges is None:
        return None
    if not isinstance(snapshot, RangedSnapshot):
        raise TypeError(f"table {contract.table!r}: its source cannot be read by ranges")  # rules forbid it
    span = snapshot.key_span(column)
    if span is None:
        return RangeReading(column, 0, {}, 0, baseline=None, intervals=EVERYTHING)
    if span.keyless_count:
        # Rows are rejected and counted when they are read, and by ranges nobody would read these.
        log.warning("ranges_not_compared", column=column, keyless_count=span.keyless_count)
        return None
    finest = max(bits_for(span, rows_per_range=ranges.rows_per_range) - BITS_FINER, 0)
    known = assignment.known_cells
    if known is not None and known.bits < finest - MOST_BITS_FINER:
        known = None
    if known is not None:
        # From the finer grid both can be had.
        finest = min(finest, known.bits)
    cells = snapshot.cell_sums(column, bits=finest)
    cell_count = 2 * cell_count_for(span.row_count, rows_per_range=ranges.rows_per_range)
    bits = finest + coarsening_for(cells, cell_count=cell_count)
    key = _key_of_digests(contract, secrets)
    digests = digests_of(folded(cells, by=bits - finest), column=column, bits=bits, key=key)
    intervals = EVERYTHING if known is None else _changed(cells, finest, known, column=column, key=key)
    reading = RangeReading(
        column,
        bits,
        digests,
        row_count_of(cells.values()),
        baseline=known.batch_id if known else None,
        intervals=intervals,
    )
    log.info(
        "ranges_compared",
        range_count=len(digests),
        read_count=len(intervals),
        baseline=reading.baseline,
        row_count=reading.row_count,
    )
    return reading


def _changed(
    cells: Mapping[int, CellSums],
    finest: int,
    known: KnownCells,
    *,
    column: str,
    key: bytes,
) -> tuple[Interval, ...]:
    """Return the ranges that differ, on the grid of what is known: of no other has it digests."""
    now = digests_of(folded(cells, by=known.bits - finest), column=column, bits=known.bits, key=key)
    return changed_intervals(known.digests, now, bits=known.bits)


def _key_of_digests(contract: TableContract, secrets: SecretStore) -> bytes:
    """Return the key of digests: a mask key of the source. Without one every column leaves in clear."""
    keys = contract.origin.mask_keys
    return secrets.resolve(keys[min(keys)]).encode() if keys else _KEY_OF_CLEAR_ROWS
