"""
A gate: checks the files of a batch in one area against the ledger, and lets the batch on when all are correct.

What it is asked to look at (an S3 event, a message of the outbox) is a hint. Everything is decided from the
ledger and the object itself, so early, late, doubled, forged and lost events change nothing.
"""

import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import structlog

from lambdas.invocation import Received, handle_messages, warm_fleet
from lambdas.subject import about
from shared import lifecycle
from shared.csv_dialect import header_line
from shared.domain.batches import GATE_STATES, Batch
from shared.domain.contracts import TableContract
from shared.domain.counts import Count
from shared.domain.files import (
    NEXT_AREA,
    Area,
    DataFile,
    FileFormat,
    FileStatus,
    Location,
    ParsedKey,
    compaction_of_key,
)
from shared.domain.reasons import Reason
from shared.domain.traces import TraceParent
from shared.errors import MalformedMessage, ObjectConflict, ObjectNotFound, Refused
from shared.messages import CheckBatch, GateMessage, parse_gate_message
from shared.outbox import send_pending
from shared.ports import Ledger, LedgerTransaction, ObjectInfo, ObjectStore, QueueSender
from shared.telemetry.metric_list import GATE_CHECKS, GATE_DURATION_SECONDS, GATE_REFUSALS
from shared.telemetry.metrics import record

log = structlog.get_logger()


class Verdict(StrEnum):
    """What came of a message to a gate."""

    #: All files are correct and the batch is through.
    OPENED = "opened"
    #: What was looked at is correct; other files of the batch are still to come.
    WAITING = "waiting"
    #: A file is incorrect and its batch quarantined.
    REFUSED = "refused"
    #: Nobody of ours wrote the object; it will be set aside.
    FOREIGN = "foreign"
    #: The ledger does not know the file yet, or the batch has moved on.
    NOTHING_TO_DO = "nothing_to_do"


def handle_area(area: Area, event: Mapping[str, Any]) -> dict[str, Any]:
    """Check what an SQS event names in an area; the whole of the four handlers."""
    fleet = warm_fleet(f"gate-{area}")

    def check_all(received: Received) -> None:
        for message in parse_gate_message(received.body):
            check(
                area,
                message,
                ledger=fleet.ledger,
                store=fleet.store,
                sender=fleet.sender,
                trace=received.trace,
            )

    return handle_messages(event, check_all, function=f"gate-{area}")


def check(
    area: Area,
    message: GateMessage,
    *,
    ledger: Ledger,
    store: ObjectStore,
    sender: QueueSender,
    trace: TraceParent | None = None,
) -> Verdict:
    """
    Do what one message asks of the gate of an area. `trace`: where the message says that it belongs.

    Raises:
        MalformedMessage: if it is meant for another gate.
        Unavailable: if ledger or store do not answer; the message must come back.
    """
    begun = time.monotonic()
    if isinstance(message, CheckBatch):
        if message.area is not area:
            raise MalformedMessage(f"a message for the gate of {message.area}/ came to the gate of {area}/")
        verdict = check_batch(area, message.batch_id, ledger=ledger, store=store, trace=trace)
    else:
        verdict = check_object(area, message.location, ledger=ledger, store=store, trace=trace)
    send_pending(ledger, sender)
    record(GATE_CHECKS, area=area, verdict=verdict)
    record(GATE_DURATION_SECONDS, time.monotonic() - begun, area=area)
    return verdict


def check_batch(
    area: Area, batch_id: str, *, ledger: Ledger, store: ObjectStore, trace: TraceParent | None
) -> Verdict:
    """Check every file of a batch that no gate has checked yet, and open the gate if all are correct."""
    with ledger.transaction() as tx:
        batch = tx.batch(batch_id)
        if batch is None or batch.state is not GATE_STATES[area][0]:
            return Verdict.NOTHING_TO_DO
        contract = lifecycle.contract_of(tx, batch)
        files = lifecycle.files_to_check(tx, batch, area)
    with about(
        batch,
        stage=f"gate-{area}",
        attempt=batch.attempt_number(lifecycle.writer_of(area)),
        hint=trace,
    ):
        for file in files:
            if file.status is FileStatus.ANNOUNCED:
                objection = _check_file(file, batch, contract, ledger, store)
                if objection is not None:
                    return objection
        return _open(area, batch, ledger=ledger, store=store)


def check_object(
    area: Area, location: Location, *, ledger: Ledger, store: ObjectStore, trace: TraceParent | None
) -> Verdict:
    """Check the one file that an S3 event names, and open the gate if it was the last of its batch."""
    with ledger.transaction() as tx:
        file = tx.file(location)
        if _is_of_compaction(tx, file, location):
            # It is checked by who writes it, before the ledger names it.
            return Verdict.NOTHING_TO_DO
        batch = _batch_of(tx, file, location)
        contract = lifecycle.contract_of(tx, batch) if batch else None
    if batch is None or contract is None:
        return _report_foreign(area, location, ledger=ledger, store=store)
    if file is None or file.status is not FileStatus.ANNOUNCED or not _stands_before(area, batch, file):
        # Its writer has not committed yet, or died; the commit or the sweeper will see to it.
        return Verdict.NOTHING_TO_DO
    with about(batch, stage=f"gate-{area}", attempt=file.attempt, hint=trace):
        objection = _check_file(file, batch, contract, ledger, store)
        return objection or _open(area, batch, ledger=ledger, store=store)


def _is_of_compaction(tx: LedgerTransaction, file: DataFile | None, location: Location) -> bool:
    if file is not None:
        return file.compaction_id is not None
    compaction_id = compaction_of_key(location.key)
    return compaction_id is not None and tx.compaction(compaction_id) is not None


def _stands_before(area: Area, batch: Batch, file: DataFile) -> bool:
    """Return whether a batch waits at this gate, and for this file: not for one of an attempt before it."""
    is_current = file.attempt == batch.attempt_number(lifecycle.writer_of(area))
    return batch.state is GATE_STATES[area][0] and file.area is area and is_current


def _batch_of(tx: LedgerTransaction, file: DataFile | None, location: Location) -> Batch | None:
    """Return the batch an object belongs to by the ledger, or by a key that one of its attempts would write."""
    if file is not None:
        return tx.batch(file.batch_id) if file.batch_id else None
    parsed = ParsedKey.of(location.key)
    batch = tx.batch(parsed.batch_id) if parsed else None
    if parsed is None or batch is None or batch.bucket != location.bucket:
        return None
    is_ours = 1 <= parsed.attempt <= batch.attempt_number(lifecycle.writer_of_key(parsed))
    return batch if is_ours else None


# ---- one file ----------------------------------------------------------------------------------------------


def _check_file(
    file: DataFile, batch: Batch, contract: TableContract, ledger: Ledger, store: ObjectStore
) -> Verdict | None:
    """Compare one file with the ledger and record what was found; a verdict only if the gate stays shut."""
    try:
        _compare(file, batch, contract, store)
    except Refused as refusal:
        return _refuse(file, refusal.reason, refusal.detail, ledger=ledger)
    except ObjectNotFound as error:  # it went while we looked at it
        return _refuse(file, Reason.OBJECT_MISSING, str(error), ledger=ledger)
    with ledger.transaction() as tx:
        recorded = lifecycle.record_correct(tx, file, area=file.area)
    return None if recorded else Verdict.NOTHING_TO_DO


def _refuse(file: DataFile, reason: Reason, detail: str, *, ledger: Ledger) -> Verdict:
    """Quarantine the batch of a file, unless it moved on meanwhile: then what was found counts for nothing."""
    with ledger.transaction() as tx:
        recorded = lifecycle.record_incorrect(tx, file, area=file.area, reason=reason, detail=detail)
    if not recorded:
        return Verdict.NOTHING_TO_DO
    log.warning("file_refused", key=file.location.key, reason=reason, detail=detail)
    record(GATE_REFUSALS, area=file.area, reason=reason)
    return Verdict.REFUSED


def _compare(file: DataFile, batch: Batch, contract: TableContract, store: ObjectStore) -> None:
    info = store.head(file.location)
    if info is None:
        raise Refused(
            Reason.OBJECT_MISSING, f"{file.location}: the ledger lists it, the bucket does not hold it"
        )
    _compare_size(file, info)
    _compare_metadata(file, batch, info.metadata)
    found = store.sha256(file.location)
    if found != file.sha256:
        raise Refused(
            Reason.CHECKSUM_MISMATCH, f"{file.location}: SHA-256 should be {file.sha256}, found {found}"
        )
    if file.format is FileFormat.CSV:
        _compare_header(file, batch, contract, store)
    else:
        _compare_footer(file, batch, contract, store)


def _compare_size(file: DataFile, info: ObjectInfo) -> None:
    if info.file_size_in_bytes != file.file_size_in_bytes:
        raise Refused(
            Reason.SIZE_MISMATCH,
            f"{file.location}: should have {file.file_size_in_bytes} bytes, found {info.file_size_in_bytes}",
        )


def _compare_metadata(file: DataFile, batch: Batch, metadata: Mapping[str, str]) -> None:
    expected = {
        "esclusa-batch": batch.id,
        "esclusa-attempt": str(file.attempt),
        "esclusa-source": batch.source,
    }
    for name, value in expected.items():
        if metadata.get(name) != value:
            raise Refused(
                Reason.METADATA_MISMATCH,
                f"{file.location}: {name} should be {value!r}, found {metadata.get(name)!r}",
            )


def _compare_header(file: DataFile, batch: Batch, contract: TableContract, store: ObjectStore) -> None:
    header = header_line([column.name for column in contract.output_columns])
    if store.read(file.location, start=0, length=len(header)) != header:
        raise Refused(
            Reason.HEADER_MISMATCH,
            f"{file.location}: the first line is not the header of {contract.table!r} "
            f"in contract version {batch.contract_version}",
        )
    # Counting records means reading all; that each ends with a line break, and none is nothing, costs no read.
    size_in_bytes = file.file_size_in_bytes - len(header)
    if size_in_bytes < file.record_count or (file.record_count == 0 and size_in_bytes):
        raise Refused(
            Reason.RECORD_COUNT_MISMATCH,
            f"{file.location}: {file.record_count} records cannot take the {size_in_bytes} bytes "
            "after its header",
        )


def _compare_footer(file: DataFile, batch: Batch, contract: TableContract, store: ObjectStore) -> None:
    # Deferred: only the gate of final/ pays for the Parquet library.
    from shared.parquet_footer import check_footer, read_footer

    footer = read_footer(store, file.location, file_size_in_bytes=file.file_size_in_bytes)
    check_footer(
        footer, location=file.location, contract=contract, batch=batch, record_count=file.record_count
    )


# ---- the batch ---------------------------------------------------------------------------------------------


def _open(area: Area, batch: Batch, *, ledger: Ledger, store: ObjectStore) -> Verdict:
    """
    Let the batch on if all its files are correct: first the copies, then the commit that names them.

    A gate that dies between the two leaves copies that the next try finds there and takes for its own.
    """
    with ledger.transaction() as tx:
        files = lifecycle.files_to_check(tx, batch, area)
    if not files or any(file.status is not FileStatus.CORRECT for file in files):
        return Verdict.WAITING
    if not _counts_agree(area, batch, files):
        return _refuse_counts(area, batch, files, ledger=ledger)
    for file in files:
        objection = _copy_on(area, file, batch, ledger=ledger, store=store)
        if objection is not None:
            return objection
    with ledger.transaction() as tx:
        opened = lifecycle.open_gate(
            tx, batch.id, area=area, attempt=batch.attempt_number(lifecycle.writer_of(area))
        )
    if opened:
        log.info("gate_opened", area=area, file_count=len(files))
    return Verdict.OPENED if opened else Verdict.NOTHING_TO_DO


def _copy_on(
    area: Area, file: DataFile, batch: Batch, *, ledger: Ledger, store: ObjectStore
) -> Verdict | None:
    """Copy a file to the next area, if there is one; a verdict only if the gate stays shut."""
    next_area = NEXT_AREA.get(area)
    if next_area is None:
        return None
    try:
        store.copy(file.location, lifecycle.copy_location(file, batch, next_area), sha256=file.sha256)
    except ObjectNotFound as error:
        # Deleted since it was found correct: repeating would never end.
        return _refuse(file, Reason.OBJECT_MISSING, str(error), ledger=ledger)
    except ObjectConflict as error:
        # Altered since it was found correct, or its place was taken.
        return _refuse(file, Reason.CHECKSUM_MISMATCH, str(error), ledger=ledger)
    return None


def _expected_record_count(area: Area, batch: Batch) -> int:
    return batch.counts.get(Count.ROWS_IN_FINAL if area is Area.FINAL else Count.ROWS_WRITTEN, 0)


def _counts_agree(area: Area, batch: Batch, files: list[DataFile]) -> bool:
    return sum(file.record_count for file in files) == _expected_record_count(area, batch)


def _refuse_counts(area: Area, batch: Batch, files: list[DataFile], *, ledger: Ledger) -> Verdict:
    found = sum(file.record_count for file in files)
    detail = f"{area}/: the files should hold {_expected_record_count(area, batch)} records, found {found}"
    return _refuse(files[0], Reason.RECORD_COUNT_MISMATCH, detail, ledger=ledger)


def _report_foreign(area: Area, location: Location, *, ledger: Ledger, store: ObjectStore) -> Verdict:
    info = store.head(location)
    if info is None or not location.key.startswith(f"{area}/"):
        return Verdict.NOTHING_TO_DO
    with ledger.transaction() as tx:
        lifecycle.record_foreign(tx, foreign_file(info, area=area))
    log.warning("foreign_object", bucket=location.bucket, key=location.key)
    return Verdict.FOREIGN


def foreign_file(info: ObjectInfo, *, area: Area) -> DataFile:
    """Return what the ledger records of an object that no attempt wrote."""
    return DataFile(
        location=info.location,
        area=area,
        format=FileFormat.FOREIGN,
        batch_id=None,
        attempt=0,
        part=0,
        record_count=0,
        file_size_in_bytes=info.file_size_in_bytes,
        sha256="",
        status=FileStatus.INCORRECT,
        reason=Reason.FOREIGN_OBJECT,
        detail="no attempt known to the ledger writes such an object",
    )
