"""
The extractor's story: read one window of one table from one snapshot, mask it, write it to `tmp/`.

Nothing here knows the ledger or a queue. Parts that a failed attempt leaves lie under its own number, which no
row of the ledger names.
"""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import structlog

from services.extractor.masking import MaskedChunk, Masking, prepare_masking
from services.extractor.pace import Pace
from services.extractor.parts import DEFAULT_PART_SIZE_IN_BYTES, PARTS_AT_ONCE, PartWriter
from services.extractor.ranges import choose_ranges
from services.extractor.readers import Chunk, RangedSnapshot, SourceColumn, SourceReader, SourceSnapshot
from shared.csv_dialect import DIALECT
from shared.domain.contracts import Column, MaskEvidence, MaskKind, TableContract
from shared.domain.counts import Count
from shared.domain.files import DataFile
from shared.domain.key_ranges import RangeReading
from shared.domain.reasons import Reason
from shared.domain.windows import horizon_of, slot_of
from shared.errors import Refused, SourceConflict, Unavailable
from shared.lifecycle import StageResult
from shared.ports import ObjectStore, SecretStore
from shared.stage import Assignment

log = structlog.get_logger()

MANIFEST_VERSION = 1

#: Chunks that wait for or are being masked while the next is read; each costs a few times its size.
CHUNKS_AHEAD = 2


def extract(
    assignment: Assignment,
    *,
    reader: SourceReader,
    store: ObjectStore,
    secrets: SecretStore,
    part_size_in_bytes: int = DEFAULT_PART_SIZE_IN_BYTES,
    parts_at_once: int = PARTS_AT_ONCE,
) -> StageResult:
    """
    Read the window of a batch and write it, masked, as CSV files to `tmp/`.

    Raises:
        Refused: if the table is not as the contract has it, its schema changes meanwhile, a value cannot be
            carried, the mask key cannot be had, or the source's pace leaves no time for so many rows.
        Unavailable: if source or store break off, the source's deadline is over, or its clock is not past the window
            yet.
    """
    contract, batch = assignment.contract, assignment.batch
    pace = Pace(assignment.source_limits, place=f"source {batch.source!r}, table {batch.table!r}")
    masking = prepare_masking(contract, secrets=secrets)
    masked_value_counts: Counter[str] = Counter()
    with (
        reader.open_snapshot(batch.window, extent=batch.extent) as snapshot,
        PartWriter(
            assignment, store=store, part_size_in_bytes=part_size_in_bytes, parts_at_once=parts_at_once
        ) as parts,
    ):
        require_closed_window(assignment, snapshot)
        ranges = choose_ranges(assignment, snapshot, secrets=secrets)
        with (
            closing(read(snapshot, ranges)) as read_chunks,
            closing(pace.keep(read_chunks)) as chunks,
            closing(mask_ahead(chunks, masking)) as masked_chunks,
        ):
            for masked in masked_chunks:
                parts.write(masked.chunk)
                masked_value_counts.update(masked.masked_value_counts)
        require_unchanged_schema(assignment, snapshot)
        files = parts.complete()
        new_columns = list(snapshot.unclassified_columns())
    report_new_columns(contract, new_columns)
    counts = count_rows_and_columns(contract, files, snapshot=snapshot, new_columns=new_columns)
    return StageResult(
        files=files,
        counts=counts,
        manifest=describe(
            assignment, files, snapshot=snapshot, new_columns=new_columns, counts=counts, ranges=ranges
        ),
        evidence=collect_evidence(assignment, masked_value_counts, new_columns=new_columns),
    )


def require_closed_window(assignment: Assignment, snapshot: SourceSnapshot) -> None:
    """
    Make sure that no row of the window can still commit.

    Raises:
        Unavailable: if the source's clock is not past the window's end by the lag: it was set back, or this is
            a standby that fell behind. The same later reads everything.
    """
    # What a sweep does not see is deleted: a standby that fell behind must not say what is gone.
    told_by = assignment.sweep or assignment.contract.cursor
    if told_by is None:
        return
    lag = told_by.lag
    place = f"source {assignment.batch.source!r}, table {assignment.batch.table!r}"
    closed_at = assignment.batch.window.end + lag
    if snapshot.taken_at < closed_at:
        raise Unavailable(
            f"{place}: expected its clock to be at {slot_of(closed_at)} or later, found "
            f"{slot_of(snapshot.taken_at)}; rows of the window may still come"
        )
    horizon = horizon_of(snapshot.taken_at, lag=lag, open_since=snapshot.open_since)
    if horizon < assignment.batch.window.end and snapshot.open_since is not None:
        raise SourceConflict(
            f"{place}: a transaction that began {slot_of(snapshot.open_since)} has written and is still open; what it "
            f"commits may belong to this window, which ends {slot_of(assignment.batch.window.end)}"
        )


def read(snapshot: SourceSnapshot, ranges: RangeReading | None) -> Generator[Chunk, None, None]:
    """Read what a batch is to read: all rows of the window, or those of the ranges that changed."""
    if ranges is not None and isinstance(snapshot, RangedSnapshot):
        return snapshot.read_ranges(ranges.column, ranges.intervals)
    return snapshot.read()


def mask_ahead(chunks: Iterator[Chunk], masking: Masking) -> Generator[MaskedChunk, None, None]:
    """
    Mask on a second thread while the next chunks are read, in order and never more than a few ahead.

    Whoever reads also cuts: masks take longer than reading, and all wait for the longest step.
    """
    if not masking.changes_anything:
        yield from map(masking.mask, chunks)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="masking") as thread:
        yield from _ahead(chunks, lambda chunk: thread.submit(masking.mask_pieces, masking.cut(chunk)))


def _ahead(chunks: Iterator[Chunk], submit: Callable[[Chunk], Future[MaskedChunk]]) -> Iterator[MaskedChunk]:
    under_way: deque[Future[MaskedChunk]] = deque()
    for chunk in chunks:
        under_way.append(submit(chunk))
        if len(under_way) > CHUNKS_AHEAD:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def require_unchanged_schema(assignment: Assignment, snapshot: SourceSnapshot) -> None:
    """
    Compare the schema with that of the beginning.

    Raises:
        Refused: if it changed while it was read.
    """
    found = snapshot.current_fingerprint()
    if found != snapshot.fingerprint:
        raise Refused(
            Reason.SCHEMA_CHANGED_DURING_READ,
            f"source {assignment.batch.source!r}, table {assignment.batch.table!r}: the fingerprint of its columns "
            f"should be {snapshot.fingerprint[:12]}, found {found[:12]} after reading; replay the batch",
        )


def report_new_columns(contract: TableContract, new_columns: Sequence[SourceColumn]) -> None:
    """Log the columns that nobody has classified, so that somebody does."""
    if new_columns:
        log.warning(
            "columns_unclassified",
            source=contract.source,
            table=contract.table,
            columns=[column.name for column in new_columns],
        )


def count_rows_and_columns(
    contract: TableContract,
    files: Sequence[DataFile],
    *,
    snapshot: SourceSnapshot,
    new_columns: Sequence[SourceColumn],
) -> dict[str, int]:
    """Return the counts of the batch so far."""
    return {
        Count.ROWS_READ: snapshot.rows_read_count,
        Count.ROWS_WRITTEN: sum(file.record_count for file in files),
        Count.ROWS_OUTSIDE_WINDOW: snapshot.rows_outside_window_count,
        Count.COLUMNS_WITHHELD: sum(not column.leaves for column in contract.columns) + len(new_columns),
        Count.COLUMNS_MASKED: sum(column.mask.changes_values for column in contract.columns),
    }


def describe(
    assignment: Assignment,
    files: Sequence[DataFile],
    *,
    snapshot: SourceSnapshot,
    new_columns: Sequence[SourceColumn],
    counts: Mapping[str, int],
    ranges: RangeReading | None = None,
) -> dict[str, object]:
    """Return the manifest of the batch: JSON values only, and all that a stranger needs to read its files."""
    contract, batch = assignment.contract, assignment.batch
    withheld = [column for column in contract.columns if not column.leaves]
    return {
        "version": MANIFEST_VERSION,
        "batch_id": batch.id,
        "attempt": assignment.attempt.number,
        "source": batch.source,
        "table": batch.table,
        "relation": list(contract.relation),
        "query": None if contract.query is None else contract.query.text,
        "slot": batch.slot,
        "window": _describe_window(assignment),
        "contract_version": batch.contract_version,
        "configuration_sha256": batch.configuration_sha256,
        "snapshot_at": slot_of(snapshot.taken_at),
        "schema_fingerprint": snapshot.fingerprint,
        "dialect": dict(DIALECT),
        "header": [column.name for column in contract.output_columns],
        "columns": [_describe_column(column) for column in contract.output_columns],
        "withheld": [
            *({"name": column.name, "mask": str(column.mask.kind), "is_new": False} for column in withheld),
            *(
                {"name": column.name, "mask": str(MaskKind.WITHHOLD), "is_new": True}
                for column in new_columns
            ),
        ],
        "parts": [_describe_file(file) for file in files],
        "counts": {str(name): count for name, count in counts.items()},
        **({} if ranges is None else {"ranges": ranges.entry()}),
    }


def collect_evidence(
    assignment: Assignment, masked_value_counts: Mapping[str, int], *, new_columns: Sequence[SourceColumn]
) -> list[MaskEvidence]:
    """Return what was done to each column, those that did not leave and those nobody knows included."""
    contract, batch_id, attempt = assignment.contract, assignment.batch.id, assignment.attempt.number
    known = [
        MaskEvidence(
            batch_id=batch_id,
            attempt=attempt,
            column=column.name,
            mask=column.mask.kind,
            key_id=column.mask.key_id,
            masked_value_count=masked_value_counts.get(column.name, 0),
        )
        for column in contract.columns
    ]
    new = [
        MaskEvidence(batch_id, attempt, column.name, MaskKind.WITHHOLD, key_id="", masked_value_count=0)
        for column in new_columns
    ]
    return known + new


def _describe_window(assignment: Assignment) -> dict[str, object]:
    window, extent, cursor = assignment.batch.window, assignment.batch.extent, assignment.contract.cursor
    start = window.start
    described: dict[str, object] = {
        "cursor": None if cursor is None else cursor.column,
        "start": None if start is None else slot_of(start),
        "end": slot_of(window.end),
        "read_from": None if start is None or cursor is None else slot_of(start - cursor.overlap),
    }
    if extent is not None:
        described["extent"] = {"column": extent.column, "low": extent.low, "high": extent.high}
    return described


def _describe_column(column: Column) -> dict[str, object]:
    return {
        "name": column.name,
        "type": str(column.output_type),
        "source_type": column.source_type,
        "nullable": column.nullable,
        "mask": str(column.mask.kind),
        "key_id": column.mask.key_id,
    }


def _describe_file(file: DataFile) -> dict[str, object]:
    return {
        "key": file.location.key,
        "record_count": file.record_count,
        "file_size_in_bytes": file.file_size_in_bytes,
        "sha256": file.sha256,
    }
