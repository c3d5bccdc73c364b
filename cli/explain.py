"""What happens next with a batch, and what cures each reason: sentences for people."""

from datetime import datetime

from shared.domain.batches import (
    HELD_STATES,
    STAGE_STATES,
    Attempt,
    AttemptState,
    Batch,
    BatchState,
)
from shared.domain.quiet_hours import quiet_until
from shared.domain.reasons import Reason
from shared.domain.sources import SourceGuard

_NEXT = {
    BatchState.PLANNED: "An extractor claims it and reads the window from the source.",
    BatchState.EXTRACTED: "The gate of tmp/ checks its CSV files and copies them to input/.",
    BatchState.ADMITTED: "The gate of input/ checks the copies and copies them to processing/.",
    BatchState.STAGED: "The gate of processing/ checks the copies and wakes a processor.",
    BatchState.READY: "A processor claims it and writes Parquet to final/.",
    BatchState.PROCESSED: "The gate of final/ checks its Parquet files against the ledger.",
    BatchState.COMMITTED: "A publisher claims it and brings its rows to the analysts.",
    BatchState.PUBLISHED: "Nothing: analysts see its rows.",
    BatchState.SUPERSEDED: "Nothing: a newer snapshot of the table holds everything.",
    BatchState.DISCARDED: "Nothing: somebody gave it up, and its rows will not come.",
    BatchState.QUARANTINED: "Nothing, until somebody cures the cause and replays it, or gives it up.",
    BatchState.FAILED: "Nothing, until somebody cures the cause and replays it, or gives it up.",
}

#: What a person does about each reason before `esclusa quarantine replay`.
CURES = {
    Reason.FOREIGN_OBJECT: (
        "Find out who writes to the bucket beside Esclusa. The object was set aside in quarantine/; "
        "a batch whose place it took can be replayed."
    ),
    Reason.OBJECT_MISSING: "Find out who deleted the object (lifecycle rules, people), then replay the batch.",
    Reason.SIZE_MISMATCH: "The object was changed or cut after it was written. Find out by whom, then replay.",
    Reason.CHECKSUM_MISMATCH: "The object was changed after it was written. Find out by whom, then replay.",
    Reason.HEADER_MISMATCH: "The file was written under another contract, or changed. Replay the batch.",
    Reason.RECORD_COUNT_MISMATCH: "The file was changed, or its writer miscounted. Replay; report it if it returns.",
    Reason.METADATA_MISMATCH: "The object is of another attempt, source or area. Find out who put it there, replay.",
    Reason.FOOTER_UNREADABLE: "The Parquet file is damaged. Replay the batch.",
    Reason.FOOTER_MISMATCH: "The Parquet file was written under another contract. Replay the batch.",
    Reason.TABLE_MISSING: (
        "Create the table again, grant SELECT on it, or correct `relation` in the source file; then replay. "
        "`esclusa check --source` tells whether it can be read."
    ),
    Reason.QUERY_INVALID: (
        "Correct `query` in the source file, or what it names at the source; then replay. `esclusa check --source` tells "
        "whether the server takes it."
    ),
    Reason.COLUMN_MISSING: (
        "Take the column out of the source file (`esclusa contract accept`), or bring it back at the source; then replay."
    ),
    Reason.TYPE_CHANGED: "Take the type into the source file (`esclusa contract accept`), or mend it at the source; then replay.",
    Reason.KEY_CHANGED: (
        "Choose key columns that tell rows apart, or take `key_is_unique` out of the source file, or bring the key back at the "
        "source; then replay."
    ),
    Reason.SCHEMA_CHANGED_DURING_READ: "Replay the batch once nobody alters the table any more.",
    Reason.NULL_CURSOR: "Give every row a cursor value at the source, or choose another cursor; then replay.",
    Reason.MASK_KEY_MISSING: "Put the mask key where the source file's `mask_key` says it is; then replay.",
    Reason.VALUE_NOT_REPRESENTABLE: "Mend the value at the source, or drop the column; then replay.",
    Reason.SOURCE_ANSWER_INVALID: "See what the source answers (`detail`), have it mended, then replay.",
    Reason.SOURCE_LIMIT_EXCEEDED: "Raise the source's limits or shorten its windows (`max_window`); then replay.",
    Reason.CELL_NOT_CONVERTIBLE: "Correct the column's type in the source file, or the value at the source; replay.",
    Reason.DELETE_BURST: (
        "See whether the rows are rightly gone at the source. If they are, `esclusa quarantine replay BATCH --approve` "
        "deletes them; else mend the source, then replay without."
    ),
    Reason.NULL_KEY: "Give the row a key at the source, or choose key columns that are never NULL; then replay.",
    Reason.NULL_NOT_ALLOWED: "Allow NULL for the column in the source file, or mend the row; then replay.",
    Reason.TOO_MANY_REJECTS: (
        "`esclusa quarantine show BATCH --rejects` names line, column and code of each row. Correct types or the "
        "source, or raise the table's `quarantine` limits; then replay."
    ),
    Reason.EMPTY_REPLACE: "If the source is rightly empty, set `allow_empty` for the table, else fill it again; then replay.",
    Reason.PROOF_FAILED: "Replay the batch; if it returns, the warehouse drops or doubles rows: look into it.",
    Reason.TARGET_INCOMPATIBLE: "Where numbers of an external table became wider, `esclusa widen` carries it. Else alter or drop "
    "the target's column, or correct the type. Then replay.",
    Reason.ROLLED_BACK: "`esclusa rollback TABLE --forward` loads everything again, and replays the batches held for this.",
    Reason.NEWER_SNAPSHOT_PUBLISHED: "Nothing to do.",
    Reason.ATTEMPT_FAILED: "Nothing to do while attempts are left: the next one follows by itself.",
    Reason.LEASE_EXPIRED: "Nothing to do while attempts are left. If it returns, see the workers' logs and memory.",
    Reason.ATTEMPTS_EXHAUSTED: "Its `detail` and its attempts say why. Cure that, then replay.",
    Reason.COUNTS_DO_NOT_ADD_UP: "A defect of Esclusa or of the source's driver: report it, with the batch's manifest.",
    Reason.REPLAYED: "Nothing to do.",
    Reason.DISCARDED: "Nothing to do. A later window brings its rows only if they change at the source.",
}


def next_step(
    batch: Batch, attempts: list[Attempt], *, now: datetime, guard: SourceGuard | None = None
) -> str:
    """Return what happens next with a batch. The guard of its source tells what a planned one waits for."""
    if batch.state is BatchState.PLANNED and batch.woken_at is None and guard is not None:
        return _of_deferred(batch, guard, now=now)
    for stage, states in STAGE_STATES.items():
        if batch.state is states.running:
            return _of_running(stage, [attempt for attempt in attempts if attempt.stage is stage], now=now)
    sentence = _NEXT[batch.state]
    if batch.reason is Reason.ATTEMPT_FAILED:
        sentence = f"{sentence} Its last attempt failed; the next one follows after a pause."
    return sentence


def _of_deferred(batch: Batch, guard: SourceGuard, *, now: datetime) -> str:
    if quiet_end := quiet_until(guard.limits.quiet_hours, now):
        why = f"the quiet hours of its source, {batch.source}, to end at {quiet_end:%Y-%m-%dT%H:%M:%SZ}"
    elif closed_until := guard.closed_until(now):
        why = f"its source, {batch.source}, which failed time and again, to be tried after {closed_until:%Y-%m-%dT%H:%M:%SZ}"
    else:
        why = f"one of the {guard.limits.max_concurrent_extracts} places at its source, {batch.source}"
    return f"It waits for {why}. It is woken by itself, and uses up no attempt meanwhile."


def _of_running(stage: str, attempts: list[Attempt], *, now: datetime) -> str:
    running = [attempt for attempt in attempts if attempt.state is AttemptState.RUNNING]
    if running and running[-1].lease_until > now:
        return f"Attempt {running[-1].number} of {stage} is at work on {running[-1].worker}."
    return f"Its worker gave no sign of life for a whole lease: the sweeper frees it for another {stage} attempt."


def cure(batch: Batch) -> str | None:
    """Return what cures a batch that is held; None if it needs nobody."""
    if batch.state not in HELD_STATES:
        return None
    advice = CURES[batch.reason] if batch.reason else "Its history says why."
    return f"{advice} Replay: esclusa quarantine replay {batch.id}"
