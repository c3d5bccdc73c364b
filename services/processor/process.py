"""The processor's story: the raw files of one batch become clean Parquet, and broken rows are set aside."""

import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC
from itertools import chain
from pathlib import Path

import polars as pl
import structlog

from services.processor.carry_over import CarriedFrames
from services.processor.checksum import Checksum, fingerprint
from services.processor.conform import conform
from services.processor.decode import decode, fetch, position_name
from services.processor.parquet import Part, PartLayout, arrow_schema, row_groups, write_parts
from services.processor.rejects import Rejects
from services.processor.transform import LatestByKey, PolarsTransform, Transform
from shared.domain.contracts import TableContract
from shared.domain.counts import Count
from shared.domain.files import (
    Area,
    DataFile,
    FileFormat,
    FileStatus,
    Location,
    final_key,
    key_segment,
    rejects_key,
)
from shared.domain.reasons import Reason
from shared.errors import Refused
from shared.lifecycle import StageResult
from shared.parquet_footer import footer_metadata
from shared.ports import ObjectStore
from shared.stage import Assignment

log = structlog.get_logger()

# Source: Amazon Redshift Developer Guide, "Creating data files for queries in Amazon Redshift Spectrum".
TARGET_FILE_SIZE_IN_BYTES = 128 * 1024 * 1024

#: CSV text that is decoded at once. Smaller blocks are slower, larger ones take more memory without being faster.
BLOCK_SIZE_IN_BYTES = 16 * 1024 * 1024

#: CSV text that becomes one row group.
ROW_GROUP_TEXT_IN_BYTES = 64 * 1024 * 1024

UPLOAD_CHUNK_SIZE_IN_BYTES = 1024 * 1024

KEEP_LATEST_WITH_POLARS = PolarsTransform()


def process(
    assignment: Assignment,
    *,
    store: ObjectStore,
    target_file_size_in_bytes: int = TARGET_FILE_SIZE_IN_BYTES,
    block_size_in_bytes: int = BLOCK_SIZE_IN_BYTES,
    transform: Transform = KEEP_LATEST_WITH_POLARS,
) -> StageResult:
    """
    Turn the CSV files of a batch into Parquet in `final/`, and set the rows that do not fit aside.

    Works in a temporary directory, which holds one CSV file and the batch's Parquet, twice if rows were
    replaced. Nothing is uploaded before the whole batch is known to be good.

    Raises:
        Refused: if a file is not what the ledger says, or more rows are rejected than the table allows.
        ObjectNotFound: if a file is not there.
        Unavailable: if the store does not answer.
    """
    contract = assignment.contract
    with tempfile.TemporaryDirectory(prefix="esclusa-process-") as name:
        folder = Path(name)
        rejects = Rejects(folder / "rejects.csv", contract.limits)
        summed = _SummedRows(contract)
        layout = _layout(assignment, target_file_size_in_bytes)

        frames = _accepted_frames(
            assignment, rejects, store=store, folder=folder, block_size_in_bytes=block_size_in_bytes
        )
        carried = CarriedFrames(assignment, store=store, folder=folder)
        groups = row_groups(
            summed.passed_on(chain(frames, carried.frames())),
            schema=layout.schema,
            text_size_in_bytes=min(ROW_GROUP_TEXT_IN_BYTES, target_file_size_in_bytes),
        )
        accepted = write_parts(groups, folder=folder / "accepted", layout=layout)
        set_aside = _upload_rejects(assignment, rejects, store=store)
        _refuse_too_many(assignment, rejects, accepted, evidence=set_aside)
        latest = _keep_latest(accepted, contract, transform=transform, folder=folder, layout=layout)
        final = [_upload_part(assignment, part, number, store=store) for number, part in enumerate(latest)]
    return StageResult(
        files=[*final, *set_aside],
        counts=_counts(accepted, latest, rejects, carried_count=carried.row_count),
        manifest=_manifest(assignment, final, rejects, accepted=summed.checksum),
    )


# ---- the steps, in the order of their calling --------------------------------------------------------------


def _layout(assignment: Assignment, target_file_size_in_bytes: int) -> PartLayout:
    return PartLayout(
        schema=arrow_schema(assignment.contract),
        metadata=lambda record_count: footer_metadata(
            batch=assignment.batch,
            attempt=assignment.attempt.number,
            contract=assignment.contract,
            record_count=record_count,
        ),
        target_file_size_in_bytes=target_file_size_in_bytes,
    )


def _accepted_frames(
    assignment: Assignment,
    rejects: Rejects,
    *,
    store: ObjectStore,
    folder: Path,
    block_size_in_bytes: int,
) -> Iterator[tuple[pl.DataFrame, int]]:
    """Read the files in the order of their parts; give what fits with the size of its text, set aside the rest."""
    contract = assignment.contract
    names = [column.name for column in contract.output_columns]
    for file in sorted(assignment.files, key=lambda file: file.part):
        path = fetch(file, store=store, folder=folder)
        for block in decode(path, file=file, columns=names, block_size_in_bytes=block_size_in_bytes):
            conformed = conform(block, contract=contract)
            rejects.add(conformed)
            yield conformed.accepted, block.text_size_in_bytes
        path.unlink()


class _SummedRows:
    """Takes the checksum of rows on their way from CSV to Parquet: reconciliation compares it with what got there."""

    def __init__(self, contract: TableContract) -> None:
        self.checksum = Checksum()
        self._fingerprint = fingerprint(
            [
                (pl.col(position_name(position)), column.output_type)
                for position, column in enumerate(contract.output_columns)
            ]
        )

    def passed_on(self, frames: Iterator[tuple[pl.DataFrame, int]]) -> Iterator[tuple[pl.DataFrame, int]]:
        for frame, text_size_in_bytes in frames:
            self.checksum += Checksum.of(frame.select(self._fingerprint.alias("row"))["row"])
            yield frame, text_size_in_bytes


def _upload_rejects(assignment: Assignment, rejects: Rejects, *, store: ObjectStore) -> list[DataFile]:
    if rejects.row_count == 0:
        return []
    log.warning("rows_rejected", rejected_count=rejects.row_count, most=rejects.most_frequent(3))
    batch, attempt = assignment.batch, assignment.attempt.number
    location = Location(batch.bucket, rejects_key(table=batch.table, batch_id=batch.id, attempt=attempt))
    size_in_bytes, sha256 = _upload(rejects.path, location, assignment, store=store)
    return [
        DataFile(
            location=location,
            area=Area.QUARANTINE,
            format=FileFormat.REJECTS,
            batch_id=batch.id,
            attempt=attempt,
            part=0,
            record_count=rejects.record_count,
            file_size_in_bytes=size_in_bytes,
            sha256=sha256,
            status=FileStatus.CORRECT,  # no gate stands before quarantine/
        )
    ]


def _refuse_too_many(
    assignment: Assignment, rejects: Rejects, accepted: Sequence[Part], *, evidence: Sequence[DataFile]
) -> None:
    limits = assignment.contract.limits
    total = _row_count(accepted) + rejects.row_count
    if limits.allow(rejected=rejects.row_count, total=total):
        return
    raise Refused(
        Reason.TOO_MANY_REJECTS,
        f"{assignment.batch.source}.{assignment.batch.table}: {rejects.row_count} of {total} rows do not fit "
        f"the contract, at most {limits.max_rejected_rows} rows and a share of {limits.max_rejected_ratio:g} "
        f"are allowed; broken cells: {rejects.most_frequent(5)}; see {evidence[0].location}",
        evidence=evidence,
    )


def _keep_latest(
    accepted: Sequence[Part],
    contract: TableContract,
    *,
    transform: Transform,
    folder: Path,
    layout: PartLayout,
) -> Sequence[Part]:
    if not contract.key:
        return accepted
    position = {column.name: position for position, column in enumerate(contract.output_columns)}
    rule = LatestByKey(
        key=tuple(position[name] for name in contract.key),
        cursor=position[contract.cursor.column] if contract.cursor else None,
    )
    return transform.keep_latest(accepted, rule=rule, folder=folder / "latest", layout=layout)


def _upload_part(assignment: Assignment, part: Part, number: int, *, store: ObjectStore) -> DataFile:
    batch, attempt = assignment.batch, assignment.attempt.number
    key = final_key(
        table=batch.table,
        day=batch.window.end.astimezone(UTC).date().isoformat(),
        batch_id=batch.id,
        attempt=attempt,
        part=number,
    )
    location = Location(batch.bucket, key)
    size_in_bytes, sha256 = _upload(part.path, location, assignment, store=store)
    return DataFile(
        location=location,
        area=Area.FINAL,
        format=FileFormat.PARQUET,
        batch_id=batch.id,
        attempt=attempt,
        part=number,
        record_count=part.record_count,
        file_size_in_bytes=size_in_bytes,
        sha256=sha256,
    )


def _upload(path: Path, location: Location, assignment: Assignment, *, store: ObjectStore) -> tuple[int, str]:
    """Write a local file once to the bucket; return its size in bytes and its SHA-256."""
    upload = store.open_upload(
        location,
        metadata={
            "esclusa-batch": assignment.batch.id,
            "esclusa-attempt": str(assignment.attempt.number),
            "esclusa-source": assignment.batch.source,
            "esclusa-table": key_segment(assignment.batch.table),
            "esclusa-stage": str(assignment.attempt.stage),
        },
    )
    try:
        with path.open("rb") as body:
            while chunk := body.read(UPLOAD_CHUNK_SIZE_IN_BYTES):
                upload.write(chunk)
        upload.complete()
    finally:
        upload.abort()  # harmless after `complete`
    return upload.file_size_in_bytes, upload.sha256


# ---- what is recorded --------------------------------------------------------------------------------------


def _row_count(parts: Sequence[Part]) -> int:
    return sum(part.record_count for part in parts)


def _counts(
    accepted: Sequence[Part], latest: Sequence[Part], rejects: Rejects, *, carried_count: int
) -> dict[str, int]:
    return {
        Count.ROWS_DECODED: _row_count(accepted) + rejects.row_count - carried_count,
        **({Count.ROWS_CARRIED_OVER: carried_count} if carried_count else {}),
        Count.ROWS_REJECTED: rejects.row_count,
        Count.ROWS_DEDUPLICATED: _row_count(accepted) - _row_count(latest),
        Count.ROWS_IN_FINAL: _row_count(latest),
    }


def _manifest(
    assignment: Assignment, final: Sequence[DataFile], rejects: Rejects, *, accepted: Checksum
) -> dict[str, object]:
    """Return what an attempt read and wrote, as JSON values."""
    return {
        "contract_version": assignment.batch.contract_version,
        "columns": [
            {"name": column.name, "type": str(column.output_type)}
            for column in assignment.contract.output_columns
        ],
        "read": [_file_entry(file) for file in sorted(assignment.files, key=lambda file: file.part)],
        "written": [_file_entry(file) for file in final],
        "accepted": accepted.entry(),
        "broken_cells": [
            {"column": column, "code": code, "count": count}
            for (column, code), count in sorted(rejects.cell_counts.items())
        ],
    }


def _file_entry(file: DataFile) -> dict[str, object]:
    return {
        "key": file.location.key,
        "record_count": file.record_count,
        "file_size_in_bytes": file.file_size_in_bytes,
        "sha256": file.sha256,
    }
