"""What the ledger recorded and nobody did. Each search reads, locks nothing, and changes nothing."""

from collections.abc import Iterator, Sequence

from lambdas.sweeper.actions import Action, ActionKind, told
from lambdas.sweeper.limits import SweepLimits
from shared.domain.batches import GATE_STATES, STAGE_STATES, Batch
from shared.domain.compactions import CompactionState
from shared.domain.files import Area, DataFile
from shared.domain.sources import SourceGuard
from shared.ports import Ledger, ObjectStore

#: States in which a batch waits for a message.
WAITING_STATES = frozenset(
    {states.waiting for states in STAGE_STATES.values()} | {checked for checked, _ in GATE_STATES.values()}
)

_MAX_DOUBLINGS = 6

#: A batch that was woken so often has its patience at its longest: somebody may ask what it waits for.
LONG_WAIT_WAKE_COUNT = _MAX_DOUBLINGS + 1


def find_expired_leases(ledger: Ledger, *, limits: SweepLimits) -> list[Action]:
    """Find attempts whose worker gave no sign of life for a whole lease."""
    with ledger.transaction() as tx:
        attempts = tx.expired_attempts(limit=limits.step_limit)
    return [
        Action(
            ActionKind.EXPIRE_LEASE,
            attempt,
            f"{attempt.stage} attempt {attempt.number}: its lease is over since {told(attempt.lease_until)}",
        )
        for attempt in attempts
    ]


def find_sleeping_batches(ledger: Ledger, *, limits: SweepLimits) -> list[Action]:
    """Find batches that wait for a message, and nobody moved."""
    with ledger.transaction() as tx:
        now = tx.now()
        # The ledger leaves out those whose time has not come: here they would take the places of others.
        woken_before = [now - limits.wake_after * 2**doublings for doublings in range(_MAX_DOUBLINGS + 1)]
        batches = tx.batches_to_wake(
            states=WAITING_STATES, woken_before=woken_before, limit=limits.step_limit
        )
    return [Action(ActionKind.WAKE_BATCH, batch, _why_sleeping(batch)) for batch in batches]


def _why_sleeping(batch: Batch) -> str:
    if batch.not_before is not None:
        return f"{batch.state}: its next attempt may begin since {told(batch.not_before)}"
    return f"{batch.state} since {told(batch.changed_at)}, {batch.wake_count} messages sent"


def find_free_places(ledger: Ledger) -> list[Action]:
    """
    Find sources that have free places and batches that wait for one: a breaker closes by the clock.

    Only sources with such batches are looked at: of a thousand, few.
    """
    found = []
    with ledger.transaction() as tx:
        guards = {guard.source: guard for guard in tx.source_guards()}
        for source in tx.sources_with_deferred_batches():
            running = tx.running_extract_count(source)
            places = guards.get(source, SourceGuard(source)).free_places(running=running, now=tx.now())
            batches = tx.deferred_batches(source, limit=places) if places else []
            if batches:
                waiting = ", ".join(batch.id for batch in batches)
                reason = f"{places} places are free, {running} attempts run; waiting: {waiting}"
                found.append(Action(ActionKind.START_DEFERRED, source, reason))
    return found


def find_leftovers(ledger: Ledger, *, limits: SweepLimits) -> list[Action]:
    """Find batches whose copies may go and still lie there."""
    with ledger.transaction() as tx:
        settled_before = tx.now() - limits.clean_after
        batches = tx.batches_with_leftovers(limit=limits.step_limit)
    return [
        Action(ActionKind.CLEAN_BATCH, batch, f"{batch.state} since {told(batch.changed_at)}, and has copies")
        for batch in batches
        if batch.changed_at < settled_before
    ]


def find_replaced(ledger: Ledger, *, limits: SweepLimits) -> list[Action]:
    """Find compactions whose unread files had their time."""
    with ledger.transaction() as tx:
        found = tx.compactions_to_clean(limit=limits.step_limit)
    return [
        Action(
            ActionKind.DELETE_REPLACED,
            compaction,
            f"{compaction.source}.{compaction.table} of {compaction.day}: {compaction.state}, and the files of "
            f"{f'its {len(compaction.batches)} batches' if compaction.state is CompactionState.COMMITTED else 'its own'} "
            "had their time",
        )
        for compaction in found
    ]


def find_messages(ledger: Ledger) -> list[Action]:
    """Find whether the outbox holds messages."""
    with ledger.transaction() as tx:
        count = tx.pending_message_count()
    return [Action(ActionKind.SEND_MESSAGES, "outbox", f"{count} messages are not sent")] if count else []


def old_evidence(ledger: Ledger, *, limits: SweepLimits) -> dict[str, list[DataFile]]:
    """Return, by bucket, the files of `quarantine/` that the rule of their bucket should have deleted by now."""
    with ledger.transaction() as tx:
        files = tx.files(
            areas=[Area.QUARANTINE],
            present_only=True,
            recorded_before=tx.now() - limits.quarantine_kept,
            limit=limits.step_limit,
        )
    return _by_bucket(files)


def foreign_in_the_way(ledger: Ledger, *, limits: SweepLimits) -> dict[str, list[DataFile]]:
    """Return, by bucket, the files that nobody of ours wrote and that should have been set aside by now."""
    with ledger.transaction() as tx:
        files = tx.files(
            areas=[area for area in Area if area is not Area.QUARANTINE],
            present_only=True,
            foreign_only=True,
            recorded_before=tx.now() - limits.foreign_after,
            limit=limits.step_limit,
        )
    return _by_bucket(files)


def _by_bucket(files: Sequence[DataFile]) -> dict[str, list[DataFile]]:
    found: dict[str, list[DataFile]] = {}
    for file in files:
        found.setdefault(file.location.bucket, []).append(file)
    return found


def find_gone(files: Sequence[DataFile], store: ObjectStore) -> Iterator[Action]:
    """Find those of some files that their bucket does not hold any more."""
    for file in files:
        if not _is_there(file, store):
            since = "" if file.recorded_at is None else f" on {told(file.recorded_at)}"
            reason = f"recorded{since}; its bucket does not hold it any more"
            yield Action(ActionKind.RECORD_EXPIRED, file, reason)


def _is_there(file: DataFile, store: ObjectStore) -> bool:
    # Listed, not asked for: the sweeper may not read objects.
    first = next(store.list(file.location.bucket, file.location.key), None)
    return first is not None and first.location == file.location
