"""
The life of a batch, told once: every change of the ledger that moves one, as functions on a transaction.

Each function locks the batch's row, checks that its caller may still speak for it, and writes state, history,
files and outbox together. Which adapter lies below, and what else happens before or after, it does not know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from shared.domain.batches import (
    FINAL_STATES,
    GATE_STATES,
    HELD_STATES,
    STAGE_STATES,
    STATES_AT_REST,
    STATES_IN_FINAL,
    Attempt,
    AttemptState,
    Batch,
    BatchEvent,
    BatchState,
    Stage,
    batch_id,
)
from shared.domain.contracts import (
    ContractVersion,
    KeySweep,
    MaskEvidence,
    TableContract,
    have_same_keys,
    keys_of,
)
from shared.domain.counts import Count, broken_sum
from shared.domain.files import (
    NEXT_AREA,
    TRANSIENT_AREAS,
    Area,
    DataFile,
    FileFormat,
    FileStatus,
    Location,
    ParsedKey,
    raw_key,
)
from shared.domain.key_ranges import Interval, KnownCells, RangeReading
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.sources import SourceGuard
from shared.domain.traces import TraceParent, trace_id_of
from shared.domain.windows import (
    KEY_SWEEP_SLOT_PREFIX,
    SNAPSHOT_SLOT_PREFIX,
    PlannedWindow,
    is_key_sweep,
    rejects_slot,
    rejects_slot_number,
)
from shared.errors import LostLease, Refused
from shared.messages import clean_message, gate_message, set_aside_message, task_message
from shared.ports import LedgerTransaction, OutboxMessage, QueueName
from shared.telemetry.tracing import open_span

#: The queue of each gate.
GATE_QUEUES = {
    Area.TMP: QueueName.GATE_TMP,
    Area.INPUT: QueueName.GATE_INPUT,
    Area.PROCESSING: QueueName.GATE_PROCESSING,
    Area.FINAL: QueueName.GATE_FINAL,
}

_STAGE_QUEUES = {
    Stage.EXTRACT: QueueName.EXTRACT,
    Stage.PROCESS: QueueName.PROCESS,
    Stage.PUBLISH: QueueName.PUBLISH,
}

#: The stage of each worker queue.
QUEUE_STAGES = {queue: stage for stage, queue in _STAGE_QUEUES.items()} | {QueueName.BACKFILL: Stage.EXTRACT}

_STAGE_WAITING_IN = {states.waiting: stage for stage, states in STAGE_STATES.items()}
_AREA_CHECKED_IN = {checked: area for area, (checked, _) in GATE_STATES.items()}


@dataclass(frozen=True, slots=True)
class CarriedRows:
    """Rows that a batch takes over from another one: those whose key lies in none of some ranges."""

    #: The other one.
    batch_id: str
    #: Its committed files; none if they are gone.
    files: tuple[DataFile, ...]
    column: str
    #: What was read anew.
    intervals: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class StageResult:
    """What the work of one attempt came to."""

    files: Sequence[DataFile] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    manifest: Mapping[str, object] = field(default_factory=dict)
    evidence: Sequence[MaskEvidence] = ()
    #: For a publisher that found a newer snapshot in the warehouse.
    is_superseded: bool = False


# ---- planning ----------------------------------------------------------------------------------------------


def plan(tx: LedgerTransaction, contract: ContractVersion, *, planned: PlannedWindow, bucket: str) -> bool:
    """Add the batch of a window and post its first message; False if it is planned already."""
    return _plan(tx, contract, planned=planned, bucket=bucket, actor="planner") is not None


def plan_again(
    tx: LedgerTransaction, batch: Batch, *, contract: ContractVersion, detail: str
) -> Batch | None:
    """
    Plan a batch that reads a published window again, for the rows that were rejected; None if one is planned.

    A published batch is final, so this is another one: of the same window, with a slot of its own. It brings the
    rows that arrived once more, so it is for tables that merge by key.
    """
    readings = readings_after(tx, batch)
    if readings and readings[-1].state not in FINAL_STATES:
        return None
    number = rejects_slot_number((readings or [batch])[-1].slot) + 1
    return _plan(
        tx,
        contract,
        planned=PlannedWindow(
            rejects_slot(batch.slot, number), batch.window, extent=batch.extent, is_bulk=batch.is_bulk
        ),
        bucket=batch.bucket,
        actor="operator",
        reason=Reason.REPLAYED,
        detail=f"the rejected rows of {batch.id}" + (f": {detail}" if detail else ""),
    )


def readings_after(tx: LedgerTransaction, batch: Batch) -> list[Batch]:
    """Return the batches that read the window of a batch again for its rejected rows, in their order."""
    found: list[Batch] = []
    number = rejects_slot_number(batch.slot)
    while True:
        number += 1
        reading = tx.batch(batch_id(batch.source, batch.table, rejects_slot(batch.slot, number)))
        if reading is None:
            return found
        found.append(reading)


def _plan(
    tx: LedgerTransaction,
    contract: ContractVersion,
    *,
    planned: PlannedWindow,
    bucket: str,
    actor: str,
    reason: Reason | None = None,
    detail: str = "",
) -> Batch | None:
    now = tx.now()
    new_id = batch_id(contract.contract.source, contract.contract.table, planned.slot)
    batch = Batch(
        id=new_id,
        source=contract.contract.source,
        table=contract.contract.table,
        slot=planned.slot,
        window=planned.window,
        contract_version=contract.version,
        configuration_sha256=contract.sha256,
        bucket=bucket,
        state=BatchState.PLANNED,
        planned_at=now,
        changed_at=now,
        woken_at=now,
        wake_count=1,
        extent=planned.extent,
        is_bulk=planned.is_bulk,
        trace_id=trace_id_of(new_id, begun_at=now),
    )
    if not tx.insert_batch(batch):
        return None
    tx.append_event(BatchEvent(batch.id, 1, None, BatchState.PLANNED, now, actor, reason, detail))
    for message in messages_for(batch):
        tx.post(message)
    return batch


# ---- attempts ----------------------------------------------------------------------------------------------


def claim(
    tx: LedgerTransaction, batch_id: str, stage: Stage, *, worker: str, lease: timedelta, retry: RetryPolicy
) -> Attempt | None:
    """
    Take a batch for one attempt of a stage; None if there is nothing to do for this caller.

    A batch that waits for the stage is taken; one whose attempt outlived its lease is taken over. If every
    allowed attempt is used up, the batch fails here. A batch whose source has no free place is deferred: it
    needs no worker and no message until `start_deferred` finds a place for it.
    """
    batch = tx.batch(batch_id, lock=True)
    if batch is None:
        return None
    states = STAGE_STATES[stage]
    now = tx.now()
    if batch.state is states.running:
        held = _current_attempt(tx, batch, stage)
        if held.lease_until > now:
            return None
        # The caller has a message in hand: it needs no other.
        batch = _end_expired(tx, batch, held, retry=retry, actor=worker, awaited_messages=1)
    if batch.state is not states.waiting or (batch.not_before is not None and now < batch.not_before):
        return None
    if _attempts_used(batch, stage) >= retry.max_attempts:
        _fail_batch(tx, batch, stage, actor=worker)
        return None
    if stage is Stage.EXTRACT and not _has_place(tx, batch):
        tx.save_batch(replace(batch, woken_at=None))
        return None
    attempt = Attempt(
        batch_id=batch.id,
        stage=stage,
        number=batch.attempt_number(stage) + 1,
        worker=worker,
        state=AttemptState.RUNNING,
        claimed_at=now,
        lease_until=now + lease,
    )
    tx.insert_attempt(attempt)
    taken = replace(batch, attempts={**batch.attempts, stage: attempt.number})
    _move(tx, taken, states.running, actor=_speaker(attempt))
    return attempt


def renew(tx: LedgerTransaction, attempt: Attempt, *, lease: timedelta) -> None:
    """
    Prolong the lease of a running attempt.

    Raises:
        LostLease: if another attempt speaks for the batch.
    """
    current = _speaking(tx, attempt)[1]
    tx.save_attempt(replace(current, lease_until=tx.now() + lease))


def complete(tx: LedgerTransaction, attempt: Attempt, result: StageResult) -> Batch:
    """
    Record what an attempt made and let the batch go on.

    Raises:
        LostLease: if another attempt speaks for the batch.
        Refused: if the rows do not add up, or a foreign object lay where a file of this attempt lies.
    """
    batch, current = _speaking(tx, attempt)
    counts = {**batch.counts, **result.counts}
    if sentence := broken_sum(attempt.stage, counts):
        raise Refused(Reason.COUNTS_DO_NOT_ADD_UP, f"batch {batch.id}, {attempt.stage}: {sentence}")
    for file in result.files:
        if not tx.insert_file(replace(file, recorded_at=tx.now())):
            # Passed over, its rows would be missing from the batch without a word.
            raise Refused(Reason.FOREIGN_OBJECT, _taken(file.location))
    tx.insert_mask_evidence(result.evidence)
    tx.insert_manifest(batch.id, attempt.stage, attempt.number, result.manifest)
    tx.save_attempt(replace(current, state=AttemptState.SUCCEEDED, ended_at=tx.now()))
    done = BatchState.SUPERSEDED if result.is_superseded else STAGE_STATES[attempt.stage].done
    reason = Reason.NEWER_SNAPSHOT_PUBLISHED if result.is_superseded else None
    batch = _move(tx, replace(batch, counts=counts, detail=""), done, actor=_speaker(attempt), reason=reason)
    _leave_source(tx, batch, attempt.stage)
    return batch


def fail_attempt(
    tx: LedgerTransaction,
    attempt: Attempt,
    *,
    detail: str,
    retry: RetryPolicy,
    blames_source: bool = True,
) -> Batch:
    """
    End an attempt that raised. The batch waits for another one, or fails if all are used up.

    No message is posted for the next attempt: the one that woke this comes back by itself after a pause, and
    the sweeper sends another if it does not. Whatever messages come before, the next attempt begins only after a
    pause, so that an outage does not use them up in minutes. Without `blames_source` the breaker of its source does
    not count it: what failed lies elsewhere.
    """
    batch, current = _speaking(tx, attempt)
    now = tx.now()
    tx.save_attempt(
        replace(current, state=AttemptState.FAILED, ended_at=now, reason=Reason.ATTEMPT_FAILED, detail=detail)
    )
    batch = replace(batch, detail=detail)
    used = _attempts_used(batch, attempt.stage)
    if used >= retry.max_attempts:
        batch = _fail_batch(tx, batch, attempt.stage, actor=_speaker(attempt))
    else:
        batch = _move(
            tx,
            batch,
            STAGE_STATES[attempt.stage].waiting,
            actor=_speaker(attempt),
            reason=Reason.ATTEMPT_FAILED,
            awaited_messages=used,
            # The message is back after the whole pause. It must not come too early by a hair.
            not_before=now + retry.pause_after(used) * 3 / 4,
        )
    _leave_source(tx, batch, attempt.stage, failed=retry if blames_source else None, answered=False)
    return batch


def refuse_attempt(
    tx: LedgerTransaction,
    attempt: Attempt,
    *,
    reason: Reason,
    detail: str,
    files: Sequence[DataFile] = (),
    findings: Mapping[str, object] | None = None,
) -> Batch:
    """
    Quarantine the batch of an attempt.

    `files` are evidence that the attempt left in `quarantine/`; `findings`, JSON values, become its manifest.
    """
    batch, current = _speaking(tx, attempt)
    now = tx.now()
    for file in files:
        tx.insert_file(replace(file, recorded_at=now))
    if findings:
        tx.insert_manifest(batch.id, attempt.stage, attempt.number, findings)
    tx.save_attempt(replace(current, state=AttemptState.FAILED, ended_at=now, reason=reason, detail=detail))
    batch = _move(
        tx, replace(batch, detail=detail), BatchState.QUARANTINED, actor=_speaker(attempt), reason=reason
    )
    _leave_source(tx, batch, attempt.stage)
    return batch


def let_go(tx: LedgerTransaction, attempt: Attempt) -> Batch:
    """
    End an attempt whose worker was told to stop. The batch waits for another one, which may begin at once.

    No message is posted: the worker gives back the one it has. It says nothing of the source, so it counts as no
    failure of it: to replace all workers at once must not open a breaker.

    Raises:
        LostLease: if another attempt speaks for the batch.
    """
    batch, current = _speaking(tx, attempt)
    now, detail = tx.now(), "its worker was told to stop"
    ended = replace(current, state=AttemptState.EXPIRED, lease_until=now, ended_at=now)
    tx.save_attempt(replace(ended, reason=Reason.LEASE_EXPIRED, detail=detail))
    batch = _move(
        tx,
        replace(batch, detail=detail),
        STAGE_STATES[attempt.stage].waiting,
        actor=_speaker(attempt),
        reason=Reason.LEASE_EXPIRED,
        awaited_messages=1,
    )
    if attempt.stage is Stage.EXTRACT:
        start_deferred(tx, batch.source)
    return batch


def expire_attempt(tx: LedgerTransaction, attempt: Attempt, *, retry: RetryPolicy) -> bool:
    """Free a batch whose attempt outlived its lease and wake it again; False if it moved meanwhile."""
    batch = tx.batch(attempt.batch_id, lock=True)
    if batch is None or batch.state is not STAGE_STATES[attempt.stage].running:
        return False
    current = _current_attempt(tx, batch, attempt.stage)
    if current.number != attempt.number or current.lease_until > tx.now():
        return False
    _end_expired(tx, batch, current, retry=retry, actor="sweeper")
    return True


def _end_expired(
    tx: LedgerTransaction,
    batch: Batch,
    attempt: Attempt,
    *,
    retry: RetryPolicy,
    actor: str,
    awaited_messages: int = 0,
) -> Batch:
    tx.save_attempt(
        replace(attempt, state=AttemptState.EXPIRED, ended_at=tx.now(), reason=Reason.LEASE_EXPIRED)
    )
    batch = replace(batch, detail="")  # it told of an attempt before this one
    if _attempts_used(batch, attempt.stage) >= retry.max_attempts:
        batch = _fail_batch(tx, batch, attempt.stage, actor=actor)
    else:
        batch = _move(
            tx,
            batch,
            STAGE_STATES[attempt.stage].waiting,
            actor=actor,
            reason=Reason.LEASE_EXPIRED,
            awaited_messages=awaited_messages,
        )
    _leave_source(tx, batch, attempt.stage, failed=retry)
    return batch


# ---- places at a source ------------------------------------------------------------------------------------


def _has_place(tx: LedgerTransaction, batch: Batch) -> bool:
    """
    Return whether one more extract attempt of a batch's source may begin.

    Locks the source's guard, always after the batch: two claims of one source wait for each other here.
    """
    guard = tx.source_guard(batch.source)
    return guard.free_places(running=tx.running_extract_count(batch.source), now=tx.now()) > 0


def _leave_source(
    tx: LedgerTransaction,
    batch: Batch,
    stage: Stage,
    *,
    failed: RetryPolicy | None = None,
    answered: bool = True,
) -> None:
    """Note whether the source answered an extract attempt or failed it, and give its place to a batch that waits."""
    if stage is not Stage.EXTRACT:
        return
    guard = noted = tx.source_guard(batch.source)
    if failed is not None:
        noted = guard.after_failure(tx.now(), retry=failed)
    elif answered:
        noted = guard.after_success()
    if noted != guard:
        tx.save_source_guard(noted)
    _start_deferred(tx, noted)


def start_deferred(tx: LedgerTransaction, source: str) -> int:
    """Wake as many deferred batches of a source as there are places, and return how many."""
    return _start_deferred(tx, tx.source_guard(source))


def _start_deferred(tx: LedgerTransaction, guard: SourceGuard) -> int:
    # The batches are not changed: their locks come before that of the guard. Until one is claimed it may get
    # several messages; all but the first find nothing to do.
    places = guard.free_places(running=tx.running_extract_count(guard.source), now=tx.now())
    batches = tx.deferred_batches(guard.source, limit=places) if places else []
    for batch in batches:
        for message in messages_for(batch):
            tx.post(message)
    return len(batches)


# ---- gates -------------------------------------------------------------------------------------------------


def writer_of(area: Area) -> Stage:
    """Return the stage whose attempts number the files that are written to an area."""
    return Stage.PROCESS if area in {Area.FINAL, Area.QUARANTINE} else Stage.EXTRACT


def writer_of_key(key: ParsedKey) -> Stage:
    """Return the stage whose attempts number the objects of a key of ours."""
    return Stage.PUBLISH if key.is_for_copy else writer_of(key.area)


def files_to_check(tx: LedgerTransaction, batch: Batch, area: Area) -> list[DataFile]:
    """Return the files of the attempt that a batch stands on, in one area."""
    return tx.files(batch_id=batch.id, areas=[area], attempt=batch.attempt_number(writer_of(area)))


def record_correct(tx: LedgerTransaction, file: DataFile, *, area: Area) -> bool:
    """Record that a gate found a file as announced; False if its batch no longer stands before this gate."""
    if _before_gate(tx, file, area=area) is None:
        return False
    tx.save_file(replace(file, status=FileStatus.CORRECT, reason=None, detail="", checked_at=tx.now()))
    return True


def open_gate(tx: LedgerTransaction, batch_id: str, *, area: Area, attempt: int) -> bool:
    """
    Let a batch through a gate, if all its files are correct; False if they are not or it is through already.

    A batch for whose copies the ledger has no place, because a foreign object lay there, is quarantined.

    Names the copies in the next area. They must lie there already: whoever reads the ledger may rely on them.
    """
    batch = _standing_before_gate(tx, batch_id, area=area, attempt=attempt)
    if batch is None:
        return False
    files = files_to_check(tx, batch, area)
    if not files or any(file.status is not FileStatus.CORRECT for file in files):
        return False
    now = tx.now()
    if (next_area := NEXT_AREA.get(area)) is not None:
        for file in files:
            announced = replace(file, status=FileStatus.ANNOUNCED, recorded_at=now, checked_at=None)
            copy = replace(announced, area=next_area, location=copy_location(file, batch, next_area))
            if not tx.insert_file(copy):
                held, reason = replace(batch, detail=_taken(copy.location)), Reason.FOREIGN_OBJECT
                _move(tx, held, BatchState.QUARANTINED, actor=f"gate:{area}", reason=reason)
                return False
    if area is Area.FINAL:
        batch = replace(batch, committed_attempt=attempt)
    _move(tx, batch, GATE_STATES[area][1], actor=f"gate:{area}")
    return True


def copy_location(file: DataFile, batch: Batch, area: Area) -> Location:
    """Return where the copy of a raw file lies in another area."""
    key = raw_key(area, table=batch.table, batch_id=batch.id, attempt=file.attempt, part=file.part)
    return Location(file.location.bucket, key)


def record_incorrect(
    tx: LedgerTransaction, file: DataFile, *, area: Area, reason: Reason, detail: str
) -> bool:
    """Record that a gate refused a file: its whole batch is quarantined. False if it no longer stands here."""
    batch = _before_gate(tx, file, area=area)
    if batch is None:
        return False
    tx.save_file(
        replace(file, status=FileStatus.INCORRECT, reason=reason, detail=detail, checked_at=tx.now())
    )
    _move(tx, replace(batch, detail=detail), BatchState.QUARANTINED, actor=f"gate:{area}", reason=reason)
    return True


def record_foreign(tx: LedgerTransaction, file: DataFile) -> None:
    """Record an object that no attempt wrote, and have the cleaner set it aside."""
    now = tx.now()
    if not tx.insert_file(replace(file, recorded_at=now, checked_at=now)):
        known = tx.file(file.location)
        if known is not None and not known.is_foreign:
            return  # its attempt recorded it meanwhile
        tx.save_file(replace(file, checked_at=now, deleted_at=None))
    tx.post(OutboxMessage(QueueName.CLEAN, set_aside_message(file.location), group=file.location.bucket))


def record_set_aside(tx: LedgerTransaction, file: DataFile) -> None:
    """Record a copy in `quarantine/`, if the ledger does not know it yet."""
    kept = FileStatus.INCORRECT if file.status is FileStatus.INCORRECT else FileStatus.CORRECT
    tx.insert_file(replace(file, area=Area.QUARANTINE, status=kept, recorded_at=tx.now(), deleted_at=None))


def _before_gate(tx: LedgerTransaction, file: DataFile, *, area: Area) -> Batch | None:
    if file.batch_id is None:
        return None
    return _standing_before_gate(tx, file.batch_id, area=area, attempt=file.attempt)


def _standing_before_gate(tx: LedgerTransaction, batch_id: str, *, area: Area, attempt: int) -> Batch | None:
    batch = tx.batch(batch_id, lock=True)
    if batch is None or batch.state is not GATE_STATES[area][0]:
        return None
    return batch if batch.attempt_number(writer_of(area)) == attempt else None


# ---- cleaning ----------------------------------------------------------------------------------------------


def leftovers(tx: LedgerTransaction, batch: Batch) -> list[DataFile]:
    """
    Return the files of a batch that may go now.

    Copies in transient areas, once the rows are safely in `final/` or the batch is held; files in `final/` of an
    attempt that readers do not see, once the batch is at rest; and what was set aside of a batch given up, or
    given up of a batch that is published.
    """
    files: list[DataFile] = []
    if batch.state in STATES_IN_FINAL | STATES_AT_REST:
        files += tx.files(batch_id=batch.id, areas=TRANSIENT_AREAS, present_only=True)
    if batch.state in STATES_AT_REST:
        in_final = tx.files(batch_id=batch.id, areas=[Area.FINAL], present_only=True)
        files += [file for file in in_final if not batch.may_show(file.attempt)]
    set_aside = tx.files(batch_id=batch.id, areas=[Area.QUARANTINE], present_only=True)
    is_given_up = batch.state is BatchState.DISCARDED
    return files + [file for file in set_aside if is_given_up or file.reason is Reason.DISCARDED]


def record_deleted(tx: LedgerTransaction, location: Location) -> None:
    """Record that an object is gone."""
    file = tx.file(location)
    if file is not None and file.deleted_at is None:
        tx.save_file(replace(file, deleted_at=tx.now()))


# ---- operators and sweeper -----------------------------------------------------------------------------------


def contract_of(tx: LedgerTransaction, batch: Batch) -> TableContract:
    """Return the contract under which a batch is read and carried: of a key sweep, that of the keys alone."""
    contract = tx.contract(batch.source, batch.table, batch.contract_version).contract
    return keys_of(contract) if is_key_sweep(batch.slot) else contract


def key_sweep_of(tx: LedgerTransaction, batch: Batch) -> KeySweep | None:
    """Return what a key sweep has to know beside its contract; None for any other batch."""
    if not is_key_sweep(batch.slot):
        return None
    latest = tx.latest_contract(batch.source, batch.table)
    contracts = {
        version: tx.contract(batch.source, batch.table, version).contract
        for version in range(1, (latest.version if latest else 0) + 1)
    }
    own = contracts[batch.contract_version]
    return KeySweep(
        lag=own.cursor.lag if own.cursor else timedelta(0),
        versions=tuple(version for version, contract in contracts.items() if have_same_keys(contract, own)),
    )


def known_cells_of(tx: LedgerTransaction, batch: Batch, contract: TableContract) -> KnownCells | None:
    """
    Return what the last published batch of its kind has of a table that is read by ranges of its key; None if nothing.

    It is what that batch read, and is known by being published: there is no other record of it that could be ahead or
    behind. Under another contract nothing is known, nor of a batch that rejected rows: they would be missing unnoticed.
    """
    if not contract.is_read_by_ranges:
        return None
    prefix = KEY_SWEEP_SLOT_PREFIX if is_key_sweep(batch.slot) else SNAPSHOT_SLOT_PREFIX
    published = tx.batches(
        source=batch.source,
        table=batch.table,
        states=[BatchState.PUBLISHED],
        slot_prefix=prefix,
        newest_first=True,
        limit=1,
    )
    for before in published:
        reading = _range_reading_of(tx, before)
        is_alike = before.contract_version == batch.contract_version
        if reading is None or not is_alike or before.counts.get(Count.ROWS_REJECTED):
            return None
        if _rows_of(tx, before) is not None:
            return KnownCells(before.id, reading.bits, reading.digests)
    return None


def carried_rows_of(tx: LedgerTransaction, batch: Batch) -> CarriedRows | None:
    """Return what a batch that was read by ranges takes over of another one; None if it takes over nothing."""
    reading = _range_reading_of(tx, batch)
    if reading is None or reading.baseline is None:
        return None
    before = tx.batch(reading.baseline)
    files = _rows_of(tx, before) if before is not None else None
    return CarriedRows(reading.baseline, tuple(files or ()), reading.column, reading.intervals)


def _range_reading_of(tx: LedgerTransaction, batch: Batch) -> RangeReading | None:
    manifest = tx.manifest(batch.id, Stage.EXTRACT, batch.attempt_number(Stage.EXTRACT))
    return RangeReading.from_entry((manifest or {}).get("ranges"))


def _rows_of(tx: LedgerTransaction, batch: Batch) -> list[DataFile] | None:
    """Return the committed files of a batch, if all of its rows are still there."""
    files = tx.files(
        batch_id=batch.id, areas=[Area.FINAL], attempt=batch.committed_attempt, present_only=True
    )
    row_count = sum(file.record_count for file in files)
    return files if files and row_count == batch.counts.get(Count.ROWS_IN_FINAL) else None


def replay(
    tx: LedgerTransaction,
    batch_id: str,
    *,
    contract: ContractVersion,
    detail: str,
    is_approved: bool = False,
) -> Batch | None:
    """
    Send a held batch on its way again, with a new series of attempts; None if it is not held.

    It takes the contract given, the one place where a batch changes its contract. A batch that was held at the
    publisher and keeps its contract goes on from its committed files, any other from the source: also one that
    was refused as empty or as a burst of deletes nobody approved, whose files would be refused again. What is approved
    are those files: it says nothing of what is read anew.
    """
    batch = tx.batch(batch_id, lock=True)
    if batch is None or batch.state not in HELD_STATES:
        return None
    held_from = tx.events(batch_id)[-1].from_state
    is_approved = is_approved or batch.is_approved
    would_be_refused_again = batch.reason is Reason.EMPTY_REPLACE or (
        batch.reason is Reason.DELETE_BURST and not is_approved
    )
    if (
        held_from in {BatchState.COMMITTED, BatchState.PUBLISHING}
        and contract.version == batch.contract_version
        and not would_be_refused_again
    ):
        state, counts = BatchState.COMMITTED, batch.counts
    else:
        state, counts, is_approved = BatchState.PLANNED, {}, False
    fresh = replace(
        batch,
        contract_version=contract.version,
        configuration_sha256=contract.sha256,
        attempts_before_replay=dict(batch.attempts),
        counts=counts,
        detail=detail,
        is_approved=is_approved,
        trace_id=trace_id_of(batch.id, begun_at=tx.now()),
    )
    return _move(tx, fresh, state, actor="operator", reason=Reason.REPLAYED)


def discard(tx: LedgerTransaction, batch_id: str, *, detail: str) -> Batch | None:
    """
    Give a held batch up for good: its rows will not come. None if it is not held.

    Its copies go, also those that were set aside; what the ledger knows of them stays, and so do committed files
    in `final/`: a publisher may have shown them.
    """
    batch = tx.batch(batch_id, lock=True)
    if batch is None or batch.state not in HELD_STATES:
        return None
    given_up = replace(batch, detail=detail)
    return _move(tx, given_up, BatchState.DISCARDED, actor="operator", reason=Reason.DISCARDED)


def discard_rejects(tx: LedgerTransaction, batch: Batch, *, detail: str) -> list[DataFile]:
    """
    Give the rejected rows of a published batch up: have the cleaner delete the list of them. Return the files.

    The batch is final and stays as it is; the ledger keeps the rows of the files, with the reason.
    """
    files = rejects_files(tx, batch)
    for file in files:
        tx.save_file(replace(file, reason=Reason.DISCARDED, detail=detail))
    if files:
        tx.post(message_of(batch, QueueName.CLEAN, clean_message(batch.id)))
    return files


def rejects_files(tx: LedgerTransaction, batch: Batch) -> list[DataFile]:
    """Return the present lists of rejected rows of the attempt that a batch stands on, unless they were given up."""
    number = batch.attempt_number(Stage.PROCESS)
    found = tx.files(batch_id=batch.id, areas=[Area.QUARANTINE], attempt=number, present_only=True)
    return [
        file for file in found if file.format is FileFormat.REJECTS and file.reason is not Reason.DISCARDED
    ]


def wake(tx: LedgerTransaction, batch_id: str, *, state: BatchState) -> bool:
    """Post the messages of the state a batch waits in once more; False if it moved on meanwhile."""
    batch = tx.batch(batch_id, lock=True)
    if batch is None or batch.state is not state:
        return False
    for message in messages_for(batch):
        tx.post(message)
    now = tx.now()
    awaited = batch.not_before if batch.not_before is not None and now < batch.not_before else None
    tx.save_batch(replace(batch, woken_at=now, wake_count=batch.wake_count + 1, not_before=awaited))
    return True


def messages_for(batch: Batch) -> list[OutboxMessage]:
    """Return the messages that make a batch in its state go on: what to send on entering it, and again."""
    messages = []
    if (stage := _STAGE_WAITING_IN.get(batch.state)) is not None:
        queue = queue_of(batch, stage)
        body = task_message(
            f"esclusa.{stage}", {"batch_id": batch.id}, queue=queue, task_id=f"{batch.id}-{stage}"
        )
        messages.append(message_of(batch, queue, body))
    if (area := _AREA_CHECKED_IN.get(batch.state)) is not None:
        messages.append(message_of(batch, GATE_QUEUES[area], gate_message(batch.id, area)))
    if batch.state in {BatchState.COMMITTED, BatchState.DISCARDED, *HELD_STATES}:
        messages.append(message_of(batch, QueueName.CLEAN, clean_message(batch.id)))
    return messages


def message_of(batch: Batch, queue: QueueName, body: str) -> OutboxMessage:
    """Return a message about a batch, in its source's group and its trace."""
    trace = str(TraceParent.below(batch.trace_id, open_span())) if batch.trace_id else None
    return OutboxMessage(queue, body, group=batch.source, traceparent=trace)


def queue_of(batch: Batch, stage: Stage) -> QueueName:
    """Return the queue in which a batch waits for a stage."""
    if stage is Stage.EXTRACT and batch.is_bulk:
        return QueueName.BACKFILL
    return _STAGE_QUEUES[stage]


# ---- the parts ---------------------------------------------------------------------------------------------


def _move(
    tx: LedgerTransaction,
    batch: Batch,
    state: BatchState,
    *,
    actor: str,
    reason: Reason | None = None,
    awaited_messages: int = 0,
    not_before: datetime | None = None,
) -> Batch:
    """
    Enter a state: write it, its history and the messages it needs.

    With `awaited_messages` none is posted: one is on its way already, and so many came before it.
    """
    now = tx.now()
    messages = [] if awaited_messages else messages_for(replace(batch, state=state))
    moved = tx.save_batch(
        replace(
            batch,
            state=state,
            changed_at=now,
            reason=reason,
            woken_at=now if messages or awaited_messages else None,
            wake_count=awaited_messages + 1 if awaited_messages else min(len(messages), 1),
            not_before=not_before,
        )
    )
    last = tx.events(batch.id)[-1]
    # The batch keeps what went wrong last; the event of a step that went well says nothing of it.
    detail = batch.detail if reason is not None else ""
    tx.append_event(BatchEvent(batch.id, last.sequence + 1, last.to_state, state, now, actor, reason, detail))
    for message in messages:
        tx.post(message)
    return moved


def _fail_batch(tx: LedgerTransaction, batch: Batch, stage: Stage, *, actor: str) -> Batch:
    used = _attempts_used(batch, stage)
    detail = f"{stage} failed {used} times, the last time: {batch.detail or 'its worker died'}"
    return _move(
        tx, replace(batch, detail=detail), BatchState.FAILED, actor=actor, reason=Reason.ATTEMPTS_EXHAUSTED
    )


def _taken(location: Location) -> str:
    return f"{location}: the ledger names another object there, of no attempt; replay the batch"


def _attempts_used(batch: Batch, stage: Stage) -> int:
    return batch.attempt_number(stage) - batch.attempts_before_replay.get(stage, 0)


def _speaking(tx: LedgerTransaction, attempt: Attempt) -> tuple[Batch, Attempt]:
    batch = tx.batch(attempt.batch_id, lock=True)
    current = tx.attempt(attempt.batch_id, attempt.stage, attempt.number)
    if (
        batch is None
        or current is None
        or current.state is not AttemptState.RUNNING
        or batch.state is not STAGE_STATES[attempt.stage].running
        or batch.attempt_number(attempt.stage) != attempt.number
    ):
        raise LostLease(
            f"batch {attempt.batch_id}: attempt {attempt.number} of {attempt.stage} no longer speaks for it"
        )
    return batch, current


def _current_attempt(tx: LedgerTransaction, batch: Batch, stage: Stage) -> Attempt:
    attempt = tx.attempt(batch.id, stage, batch.attempt_number(stage))
    if attempt is None:
        raise LostLease(f"batch {batch.id}: the ledger holds no attempt of {stage}")
    return attempt


def _speaker(attempt: Attempt) -> str:
    return f"{attempt.stage}#{attempt.number}"
