"""One stage of one batch, told once for all workers: claim, work, record, send on."""

import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum

import structlog

from shared import lifecycle
from shared.domain.batches import Attempt, Batch, Stage
from shared.domain.contracts import KeySweep, TableContract
from shared.domain.files import Area, DataFile
from shared.domain.key_ranges import KnownCells
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.sources import SourceLimits
from shared.domain.traces import TraceParent
from shared.errors import Interrupted, LostLease, Refused, SourceUnavailable, Unavailable
from shared.lifecycle import CarriedRows, StageResult
from shared.outbox import send_pending
from shared.ports import Ledger, QueueSender
from shared.rollbacks import rollback_of
from shared.stage_record import StageRecord, recorded
from shared.telemetry.logs import bind
from shared.telemetry.tracing import span

log = structlog.get_logger()

#: The area whose files a stage reads.
_AREA_READ_BY = {Stage.PROCESS: Area.PROCESSING, Stage.PUBLISH: Area.FINAL}

MAX_DETAIL_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the work of one attempt is given: frozen facts from the ledger."""

    attempt: Attempt
    batch: Batch
    contract: TableContract
    #: The files the stage reads: CSV in `processing/` for process, Parquet in `final/` for publish.
    files: tuple[DataFile, ...] = ()
    #: What extract may take of the source, as it is now: no part of the contract.
    source_limits: SourceLimits = field(default_factory=SourceLimits)
    #: Of a key sweep, what it has to know beside its contract.
    sweep: KeySweep | None = None
    #: Of publish: the rows of all batches of the table that are published, without this one.
    published_row_count: int = 0
    #: Of publish: the rollback that holds the table at an earlier state; empty if none does.
    rollback_id: str = ""
    #: Of extract, of a table that is read by ranges: what was published of it.
    known_cells: KnownCells | None = None
    #: Of process, of such a table: what is taken over as it was.
    carried: CarriedRows | None = None


class Outcome(StrEnum):
    """What came of a message."""

    #: The work is done and recorded.
    COMPLETED = "completed"
    #: There was nothing to do: done already, held by another attempt, or not this batch's turn.
    NOTHING_TO_DO = "nothing_to_do"
    #: The batch is quarantined.
    REFUSED = "refused"
    #: Every allowed attempt failed; the batch is at rest.
    EXHAUSTED = "exhausted"
    #: Another attempt speaks for the batch; whatever this one did counts for nothing.
    LOST_LEASE = "lost_lease"


@dataclass(frozen=True, slots=True)
class StageLimits:
    """How long a claim holds without a sign of life, and how often and when a stage is tried."""

    lease: timedelta
    retry: RetryPolicy


def run(
    stage: Stage,
    batch_id: str,
    work: Callable[[Assignment], StageResult],
    *,
    ledger: Ledger,
    sender: QueueSender,
    worker: str,
    limits: StageLimits,
    keep_alive: Callable[[Attempt], AbstractContextManager[None]],
    traceparent: str | None = None,
) -> Outcome:
    """
    Do one stage of one batch, if it is there to be done.

    `keep_alive` renews the attempt's lease while the work goes on. `traceparent`: what the message says of it. From
    here on every log line says what it is about, until whoever called lets go of it.

    Raises:
        Exception: what the work raised, if another attempt may follow. The message must then come back.
        Interrupted: if the process was told to stop. The message must come back at once: the batch is free.
        Unavailable: if the ledger cannot be reached. The message must come back as well.
    """
    bind(batch_id=batch_id, stage=stage)
    with recorded(stage, hint=TraceParent.parse(traceparent)) as note:
        assignment = _claim(stage, batch_id, ledger=ledger, worker=worker, limits=limits, note=note)
        if assignment is None:
            outcome = Outcome.NOTHING_TO_DO
        else:
            log.info("stage_claimed", worker=worker)
            with note.claimed(assignment.batch, assignment.attempt):
                outcome = _do(
                    assignment,
                    work,
                    ledger=ledger,
                    sender=sender,
                    limits=limits,
                    keep_alive=keep_alive,
                    note=note,
                )
        note.outcome = outcome
        if outcome is not Outcome.LOST_LEASE:
            send_pending(ledger, sender)
    return outcome


def _do(
    assignment: Assignment,
    work: Callable[[Assignment], StageResult],
    *,
    ledger: Ledger,
    sender: QueueSender,
    limits: StageLimits,
    keep_alive: Callable[[Attempt], AbstractContextManager[None]],
    note: StageRecord,
) -> Outcome:
    """Do the work of an attempt and record what came of it."""
    attempt = assignment.attempt
    try:
        with keep_alive(attempt), span("work"):
            result = work(assignment)
        with span("record"), ledger.transaction() as tx:
            lifecycle.complete(tx, attempt, result)
    except LostLease as error:
        log.warning("stage_lost_lease", detail=str(error))
        note.lost()
        return Outcome.LOST_LEASE
    except Interrupted:
        _let_go(attempt, ledger=ledger, note=note)
        send_pending(ledger, sender)
        raise
    except Refused as refusal:
        return _refuse(attempt, refusal, ledger=ledger, note=note)
    except Exception as error:
        if not _fail(attempt, error, ledger=ledger, limits=limits, note=note):
            send_pending(ledger, sender)
            raise
        note.reason = Reason.ATTEMPTS_EXHAUSTED
        return Outcome.EXHAUSTED
    log.info("stage_completed", **dict(result.counts))
    note.done(result, read=assignment.files)
    return Outcome.COMPLETED


def _claim(
    stage: Stage, batch_id: str, *, ledger: Ledger, worker: str, limits: StageLimits, note: StageRecord
) -> Assignment | None:
    with ledger.transaction() as tx:
        attempt = lifecycle.claim(tx, batch_id, stage, worker=worker, lease=limits.lease, retry=limits.retry)
        batch = tx.batch(batch_id)
        note.know(batch)
        if attempt is None:
            return None
        if batch is None:
            raise LostLease(f"batch {batch_id} vanished from the ledger")
        contract = lifecycle.contract_of(tx, batch)
        area = _AREA_READ_BY.get(stage)
        files = lifecycle.files_to_check(tx, batch, area) if area else []
        # The claim of an extract attempt holds the lock of the guard already.
        source_limits = tx.source_guard(batch.source).limits if stage is Stage.EXTRACT else SourceLimits()
        sweep = lifecycle.key_sweep_of(tx, batch)
        assignment = Assignment(attempt, batch, contract, tuple(files), source_limits, sweep)
        if stage is Stage.EXTRACT:
            return replace(assignment, known_cells=lifecycle.known_cells_of(tx, batch, contract))
        if stage is Stage.PROCESS:
            return replace(assignment, carried=lifecycle.carried_rows_of(tx, batch))
        rollback = rollback_of(tx, batch.source, batch.table)
        return replace(
            assignment,
            published_row_count=tx.published_row_count(batch.source, batch.table),
            rollback_id=rollback.id if rollback else "",
        )


def _refuse(attempt: Attempt, refusal: Refused, *, ledger: Ledger, note: StageRecord) -> Outcome:
    log.warning("stage_refused", reason=refusal.reason, detail=refusal.detail)
    note.reason = refusal.reason
    try:
        with ledger.transaction() as tx:
            lifecycle.refuse_attempt(
                tx,
                attempt,
                reason=refusal.reason,
                detail=refusal.detail,
                files=refusal.evidence,
                findings=refusal.findings,
            )
    except LostLease:
        note.lost()
        return Outcome.LOST_LEASE
    return Outcome.REFUSED


def _let_go(attempt: Attempt, *, ledger: Ledger, note: StageRecord) -> None:
    """End an attempt now: whoever gets its message next begins another one."""
    try:
        with ledger.transaction() as tx:
            lifecycle.let_go(tx, attempt)
        log.warning("stage_interrupted")
    except (LostLease, Unavailable) as error:
        log.warning("stage_interrupted", detail=str(error))
        if isinstance(error, LostLease):
            note.lost()


def _fail(
    attempt: Attempt, error: Exception, *, ledger: Ledger, limits: StageLimits, note: StageRecord
) -> bool:
    """Record a failed attempt; True if it was the last one allowed."""
    detail = describe(error)
    log.error("stage_failed", detail=detail, exc_info=error)
    try:
        with ledger.transaction() as tx:
            batch = lifecycle.fail_attempt(
                tx, attempt, detail=detail, retry=limits.retry, blames_source=_is_of_source(error)
            )
    except LostLease:
        note.lost()
        return False
    return batch.state.value == "failed"


def _is_of_source(error: Exception) -> bool:
    """
    Return whether a source may be to blame.

    An outage of anything else is none of its doing, nor is it ill if it put another transaction first.
    """
    return isinstance(error, SourceUnavailable) or not isinstance(error, Unavailable)


def describe(error: BaseException) -> str:
    """Return an error as one bounded line: its class, its text, and where in our code it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].name}:{frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}"[:MAX_DETAIL_CHARACTERS]
