"""
The sweeper: what makes the fleet converge with every queue purged and every event lost.

It resends messages that never left, frees leases of dead workers, wakes batches that nobody moved, has the
cleaner look at leftovers, and removes objects and uploads of attempts that died before they could record them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from itertools import islice

import structlog

from lambdas.gate import foreign_file
from shared import lifecycle
from shared.domain.batches import GATE_STATES, STAGE_STATES, STATES_AT_REST
from shared.domain.files import (
    TRANSIENT_AREAS,
    Area,
    DataFile,
    Location,
    ParsedKey,
    key_before_quarantine,
)
from shared.domain.retries import RetryPolicy
from shared.errors import Unavailable
from shared.messages import clean_message
from shared.outbox import send_pending
from shared.ports import (
    Ledger,
    LedgerTransaction,
    ObjectInfo,
    ObjectStore,
    OutboxMessage,
    QueueName,
    QueueSender,
)

log = structlog.get_logger()

#: States in which a batch waits for a message.
WAITING_STATES = frozenset(
    {states.waiting for states in STAGE_STATES.values()} | {checked for checked, _ in GATE_STATES.values()}
)

_MAX_DOUBLINGS = 6

#: As many as S3 names in one answer.
_OBJECTS_PER_QUESTION = 1_000


@dataclass(frozen=True, slots=True)
class SweepLimits:
    """How patient a sweep is, and how much it does at once."""

    #: A batch that nobody moved for so long is woken; the second time after twice that, and so on.
    wake_after: timedelta = timedelta(seconds=60)
    #: Objects and uploads that the ledger does not name are left alone for so long: their attempt may be about
    #: to record them. After as long again, an object that was to be set aside and still lies there is told anew.
    stray_after: timedelta = timedelta(hours=2)
    #: The most batches, leases or objects that one step handles.
    step_limit: int = 1_000


@dataclass(slots=True)
class SweepReport:
    """What a sweep did, by step."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, count: int) -> None:
        """Count what a step did."""
        self.counts[name] = self.counts.get(name, 0) + count


def sweep(
    *,
    ledger: Ledger,
    store: ObjectStore,
    sender: QueueSender,
    buckets: Collection[str],
    limits: SweepLimits,
    retry: RetryPolicy,
    areas: Collection[Area] = TRANSIENT_AREAS,
) -> SweepReport:
    """
    Heal what can be healed now. Sweeps may overlap and repeat; each step is safe to do twice.

    `areas` are searched for strays: the transient ones each time, `final/` and `quarantine/`, which are long,
    now and then.

    Raises:
        Unavailable: if the ledger does not answer. What was healed before stays healed.
    """
    report = SweepReport()
    report.add("leases_expired", _expire_leases(ledger, limits=limits, retry=retry))
    report.add("batches_woken", _wake_batches(ledger, limits=limits))
    report.add("deferred_started", _start_deferred(ledger))
    report.add("batches_to_clean", _send_to_cleaner(ledger, limits=limits))
    report.add("messages_sent", send_pending(ledger, sender))
    for bucket in sorted(buckets):
        try:
            report.add("uploads_aborted", _abort_uploads(bucket, ledger=ledger, store=store, limits=limits))
            for area in areas:
                _remove_strays(bucket, area, report, ledger=ledger, store=store, limits=limits)
        except Unavailable as error:
            # The bucket of one source, gone or closed to us, must not keep us from those of the others.
            log.warning("bucket_not_swept", bucket=bucket, detail=str(error))
            report.add("buckets_not_swept", 1)
    report.add("messages_sent", send_pending(ledger, sender))
    log.info("swept", **report.counts)
    return report


def _expire_leases(ledger: Ledger, *, limits: SweepLimits, retry: RetryPolicy) -> int:
    with ledger.transaction() as tx:
        attempts = tx.expired_attempts(limit=limits.step_limit)
    expired = 0
    for attempt in attempts:
        with ledger.transaction() as tx:
            expired += lifecycle.expire_attempt(tx, attempt, retry=retry)
    return expired


def _wake_batches(ledger: Ledger, *, limits: SweepLimits) -> int:
    with ledger.transaction() as tx:
        now = tx.now()
        # The ledger leaves out those whose time has not come: here they would take the places of others.
        woken_before = [now - limits.wake_after * 2**doublings for doublings in range(_MAX_DOUBLINGS + 1)]
        batches = tx.batches_to_wake(
            states=WAITING_STATES, woken_before=woken_before, limit=limits.step_limit
        )
    woken = 0
    for batch in batches:
        with ledger.transaction() as tx:
            woken += lifecycle.wake(tx, batch.id, state=batch.state)
    return woken


def _start_deferred(ledger: Ledger) -> int:
    """Give free places at sources to batches that wait for one: the breaker of a source closes by the clock."""
    with ledger.transaction() as tx:
        sources = [guard.source for guard in tx.source_guards()]
    started = 0
    for source in sources:
        with ledger.transaction() as tx:
            started += lifecycle.start_deferred(tx, source)
    return started


def _send_to_cleaner(ledger: Ledger, *, limits: SweepLimits) -> int:
    with ledger.transaction() as tx:
        settled_before = tx.now() - limits.wake_after
        batches = [
            batch
            for batch in tx.batches_with_leftovers(limit=limits.step_limit)
            if batch.changed_at < settled_before
        ]
        for batch in batches:
            tx.post(OutboxMessage(QueueName.CLEAN, clean_message(batch.id), group=batch.source))
    return len(batches)


# ---- what the ledger does not name ---------------------------------------------------------------------------


def _abort_uploads(bucket: str, *, ledger: Ledger, store: ObjectStore, limits: SweepLimits) -> int:
    with ledger.transaction() as tx:
        begun_before = tx.now() - limits.stray_after
    aborted = 0
    for upload in store.open_uploads(bucket):
        if upload.initiated_at >= begun_before:
            continue
        with ledger.transaction() as tx:
            origin = _origin_of(tx, upload.location)
        if origin is not _Origin.LIVE_ATTEMPT:
            store.abort_upload(upload)
            aborted += 1
    return aborted


def _remove_strays(
    bucket: str, area: Area, report: SweepReport, *, ledger: Ledger, store: ObjectStore, limits: SweepLimits
) -> None:
    with ledger.transaction() as tx:
        written_before = tx.now() - limits.stray_after
    old = (info for info in store.list(bucket, f"{area}/") if info.last_modified < written_before)
    while page := list(islice(old, _OBJECTS_PER_QUESTION)):
        for info in _without_known(bucket, page, noted_before=written_before, ledger=ledger):
            try:
                _judge_stray(info, area, report, noted_before=written_before, ledger=ledger, store=store)
            except Unavailable:
                raise
            except Exception:
                # A key that the ledger cannot hold, say. Whoever put it there must not stop every later sweep.
                log.exception("object_not_judged", bucket=bucket, key=info.location.key)
                report.add("objects_not_judged", 1)


def _without_known(
    bucket: str, page: Sequence[ObjectInfo], *, noted_before: datetime, ledger: Ledger
) -> list[ObjectInfo]:
    """
    Leave out the objects that the ledger knows and asks nothing about: nearly all.

    Asked for one by one, those of a `final/` of some ten thousand files would outlast the Lambda, and what lies
    behind them would never be reached.
    """
    # No text of PostgreSQL holds a NUL.
    keys = [info.location.key for info in page if "\0" not in info.location.key]
    with ledger.transaction() as tx:
        settled = {
            file.location
            for file in tx.files_at(bucket, keys)
            if _is_settled(file, noted_before=noted_before)
        }
    return [info for info in page if info.location not in settled]


def _is_settled(file: DataFile, *, noted_before: datetime) -> bool:
    """Whether a file is where the ledger says, and nobody need be told of it."""
    if file.deleted_at is not None:
        return False
    if file.batch_id is not None or file.area is Area.QUARANTINE:
        return True
    return file.checked_at is not None and file.checked_at >= noted_before


def _judge_stray(
    info: ObjectInfo,
    area: Area,
    report: SweepReport,
    *,
    noted_before: datetime,
    ledger: Ledger,
    store: ObjectStore,
) -> None:
    with ledger.transaction() as tx:
        file = tx.file(info.location)
        if file is not None and file.deleted_at is None:
            if not _is_settled(file, noted_before=noted_before):
                # The message that has it set aside was lost, or gave up.
                lifecycle.record_foreign(tx, file)
                report.add("foreign_objects", 1)
            return
        origin = _origin_of(tx, info.location)
        if origin is _Origin.FOREIGN:
            if area is Area.QUARANTINE:
                lifecycle.record_set_aside(tx, _set_aside_file(tx, info))
                report.add("quarantine_adopted", 1)
                return
            lifecycle.record_foreign(tx, foreign_file(info, area=area))
            report.add("foreign_objects", 1)
    if origin is _Origin.DEAD_ATTEMPT:
        store.delete(info.location)
        report.add("strays_removed", 1)
        log.warning("stray_removed", bucket=info.location.bucket, key=info.location.key)


def _set_aside_file(tx: LedgerTransaction, info: ObjectInfo) -> DataFile:
    """Return what the ledger should know of an object that a cleaner set aside, and died before it said so."""
    unknown = foreign_file(info, area=Area.QUARANTINE)
    key = key_before_quarantine(info.location.key)
    original = tx.file(Location(info.location.bucket, key)) if key else None
    if original is None:
        return unknown
    # Its bytes need not be those of the original: that may be why it was refused.
    return replace(
        original,
        location=info.location,
        file_size_in_bytes=info.file_size_in_bytes,
        sha256=original.sha256 if info.location.key.endswith("@" + original.sha256[:16]) else "",
    )


class _Origin(Enum):
    #: An attempt that still speaks for its batch, or a gate at work: it will be recorded, or die.
    LIVE_ATTEMPT = auto()
    #: An attempt that ended, or a copy that was deleted and came back.
    DEAD_ATTEMPT = auto()
    #: Nobody of ours.
    FOREIGN = auto()


def _origin_of(tx: LedgerTransaction, location: Location) -> _Origin:
    """Say who wrote, or writes, an object that the ledger does not name."""
    parsed = ParsedKey.of(location.key)
    batch = tx.batch(parsed.batch_id) if parsed else None
    if parsed is None or batch is None or batch.bucket != location.bucket:
        return _Origin.FOREIGN
    latest = batch.attempt_number(lifecycle.writer_of(parsed.area))
    if not 1 <= parsed.attempt <= latest:
        return _Origin.FOREIGN
    is_live = parsed.attempt == latest and batch.state not in STATES_AT_REST
    return _Origin.LIVE_ATTEMPT if is_live else _Origin.DEAD_ATTEMPT
