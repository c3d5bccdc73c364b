"""
Alarms: what is wrong now is raised once, told once, and resolved by itself.

    facts = look(ledger, inspector, limits=limits)      what ledger and queues say
    findings = judge(facts, limits=limits)              which conditions hold: a pure function
    record(tx, findings)                                alarms raised and resolved, in the ledger and in the log
    tell(ledger, notifier, fleet="esclusa")             one notice of everything that nobody was told of yet

The watcher does all four each minute; `esclusa alarms` only the first two, so that it tells the truth even if the
watcher is dead. Details are made of names, states, reasons and moments: what an error or a row said is not in them.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import structlog

from shared.deadline import within
from shared.domain.alarms import Alarm, AlarmKind
from shared.domain.batches import FINAL_STATES, HELD_STATES, Batch, BatchState
from shared.domain.progress import Expectation, TableProgress
from shared.domain.proofs import Proof
from shared.domain.quiet_hours import QuietHours, quiet_time
from shared.domain.sources import FAILURES_THAT_OPEN, SourceGuard
from shared.errors import EsclusaError, Unavailable
from shared.ports import Ledger, LedgerTransaction, Notice, Notifier, QueueInspector, QueueName

log = structlog.get_logger()

#: Under this name the ledger knows when the watcher last ran, and lets one run at a time.
WATCHER = "watcher"

_OPEN_STATES = frozenset(BatchState) - FINAL_STATES


@dataclass(frozen=True, slots=True)
class AlarmLimits:
    """From when on something is alarming that is not so at once, and how much is looked at."""

    #: A message that did not leave the outbox for so long is stuck.
    outbox_stuck_after: timedelta = timedelta(minutes=5)
    #: Held batches beyond so many have no alarm each: the first ones tell what is to be told.
    held_limit: int = 1_000
    #: All queues together may take so long to tell how many dead letters they have.
    queues_patience: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that somebody has to look at, as it was found now."""

    kind: AlarmKind
    subject: str
    #: What was found and what to do. No clock in it, so that it stays the same while the condition does.
    detail: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What conditions are judged by."""

    now: datetime
    expectations: Sequence[Expectation] = ()
    #: By source and table; nothing of a table that was never planned.
    progress: Mapping[tuple[str, str], TableProgress] = field(default_factory=dict)
    #: Of each late table the batch that stands in its way, if there is one.
    blocking: Mapping[tuple[str, str], Batch] = field(default_factory=dict)
    held: Sequence[Batch] = ()
    guards: Sequence[SourceGuard] = ()
    differing: Sequence[Proof] = ()
    oldest_message_at: datetime | None = None
    #: Of the queues that answered.
    dead_letters: Mapping[QueueName, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Findings:
    """The conditions that hold, and what could not be judged."""

    conditions: tuple[Condition, ...]
    #: Queues that did not answer: whether they have dead letters is not known.
    unseen_queues: frozenset[str]
    #: More batches are held than were looked at.
    is_held_cut: bool

    def is_judged(self, kind: AlarmKind, subject: str) -> bool:
        """Return whether enough was seen to say that something is not the case."""
        match kind:
            case AlarmKind.DEAD_LETTERS:
                return subject not in self.unseen_queues
            case AlarmKind.BATCH_HELD:
                return not self.is_held_cut
            case _:
                return True


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of alarms."""

    raised: tuple[Alarm, ...] = ()
    resolved: tuple[Alarm, ...] = ()
    #: How many alarms of each kind are open now.
    open_counts: Mapping[AlarmKind, int] = field(default_factory=dict)


# ---- looking ---------------------------------------------------------------------------------------------------


def look(ledger: Ledger, inspector: QueueInspector | None, *, limits: AlarmLimits) -> Facts:
    """
    Return what ledger and queues say. Without an inspector no queue is asked.

    Raises:
        Unavailable: if the ledger does not answer. Queues that do not answer are logged and left out.
    """
    with ledger.transaction() as tx:
        facts = _look_into_ledger(tx, limits=limits)
    if inspector is None:
        return facts
    return replace(facts, dead_letters=_count_dead_letters(inspector, patience=limits.queues_patience))


def _look_into_ledger(tx: LedgerTransaction, *, limits: AlarmLimits) -> Facts:
    now = tx.now()
    expectations = tx.expectations()
    progress = {(item.source, item.table): item for item in tx.table_progress()}
    guards = tx.source_guards()
    quiet = _quiet_hours_by_source(guards)
    blocking = {}
    for item in expectations:
        table = item.source, item.table
        if is_late(item, progress.get(table), now=now, quiet_hours=quiet.get(item.source, ())):
            for batch in tx.batches(source=item.source, table=item.table, states=_OPEN_STATES, limit=1):
                blocking[table] = batch
    return Facts(
        now=now,
        expectations=expectations,
        progress=progress,
        blocking=blocking,
        held=tx.batches(states=HELD_STATES, limit=limits.held_limit + 1),
        guards=guards,
        differing=tx.latest_proofs(differing_only=True),
        oldest_message_at=tx.oldest_pending_at(),
    )


def _count_dead_letters(inspector: QueueInspector, *, patience: timedelta) -> dict[QueueName, int]:
    counts: dict[QueueName, int] = {}

    def count_all() -> None:
        for queue in QueueName:
            try:
                dead = inspector.depth(queue, dead_letters=True)
            except Unavailable:
                # Another one would cost its timeouts too.
                raise
            except EsclusaError as error:
                log.warning("queue_not_seen", queue=queue, detail=str(error))
                continue
            counts[queue] = dead.total

    try:
        within(patience, count_all, what="dead letters")
    except Unavailable as error:
        log.warning("queues_not_seen", detail=str(error))
    return dict(counts)


# ---- judging ---------------------------------------------------------------------------------------------------


def judge(facts: Facts, *, limits: AlarmLimits) -> Findings:
    """Return which conditions hold. The same facts give the same findings, in the same order."""
    held = facts.held[: limits.held_limit]
    conditions = (
        *_late_tables(facts),
        *(_held_batch(batch) for batch in held),
        *_dead_letters(facts),
        *_failing_sources(facts),
        *_stuck_outbox(facts, limits=limits),
        *_differing_tables(facts),
    )
    unseen = frozenset(str(queue) for queue in QueueName if queue not in facts.dead_letters)
    return Findings(conditions, unseen, is_held_cut=len(held) < len(facts.held))


def freshness_of(expectation: Expectation, progress: TableProgress | None, *, now: datetime) -> timedelta:
    """
    Return how old the moment is up to which a table is published whole.

    Of a table of which nothing is published yet: for how long it has been expected. The moments of windows are
    those of the source's clock, `now` is the ledger's.
    """
    return now - expectation.reached(_published_until(progress))


def is_late(
    expectation: Expectation,
    progress: TableProgress | None,
    *,
    now: datetime,
    quiet_hours: Sequence[QuietHours] = (),
) -> bool:
    """
    Return whether rows of a table are missing that should be in the warehouse by now.

    The quiet hours of its source do not count: nobody expects then what nobody may read.
    """
    published_until = _published_until(progress)
    if not expectation.is_late(published_until, now=now):
        return False
    quiet = quiet_time(quiet_hours, expectation.reached(published_until), now)
    return expectation.is_late(published_until, now=now - quiet)


def _published_until(progress: TableProgress | None) -> datetime | None:
    return progress.published_until if progress else None


def _quiet_hours_by_source(guards: Sequence[SourceGuard]) -> dict[str, tuple[QuietHours, ...]]:
    return {guard.source: guard.limits.quiet_hours for guard in guards}


def _late_tables(facts: Facts) -> list[Condition]:
    quiet = _quiet_hours_by_source(facts.guards)
    late = []
    for expectation in facts.expectations:
        table = expectation.source, expectation.table
        progress = facts.progress.get(table)
        if is_late(expectation, progress, now=facts.now, quiet_hours=quiet.get(expectation.source, ())):
            detail = _why_late(expectation, progress, facts.blocking.get(table))
            late.append(Condition(AlarmKind.TABLE_LATE, table_name(*table), detail))
    return late


def _why_late(expectation: Expectation, progress: TableProgress | None, blocking: Batch | None) -> str:
    published_until = _published_until(progress)
    found = (
        f"published up to {_moment(published_until)} only"
        if published_until
        else f"expected since {_moment(expectation.since)}, nothing published"
    )
    if blocking is None:
        planned = (
            f"nothing planned since {_moment(progress.planned_until)}"
            if progress
            else "nothing was ever planned"
        )
        return (
            f"{found}: {planned}. See whether `esclusa enqueue` runs, and what it says; "
            f"`esclusa check --source {expectation.source}` tells whether the source answers"
        )
    state = f"batch {blocking.id} is {blocking.state} since {_moment(blocking.changed_at)}"
    if blocking.state in HELD_STATES:
        state += f", held: {blocking.reason or 'no reason'}"
    return f"{found}: {state}. `esclusa why {blocking.id}` tells what it waits for"


def _held_batch(batch: Batch) -> Condition:
    detail = (
        f"{table_name(batch.source, batch.table)}: {batch.state} since {_moment(batch.changed_at)}, "
        f"{batch.reason or 'no reason'}. `esclusa why {batch.id}` tells what cures it"
    )
    return Condition(AlarmKind.BATCH_HELD, batch.id, detail)


def _dead_letters(facts: Facts) -> list[Condition]:
    return [
        Condition(
            AlarmKind.DEAD_LETTERS,
            str(queue),
            f"messages that were delivered too often, and never done. `esclusa peek {queue} --dead` shows them",
        )
        for queue, count in facts.dead_letters.items()
        if count
    ]


def _failing_sources(facts: Facts) -> list[Condition]:
    # Of sources that are still expected: batches of one that was retired may go on failing, and none will succeed.
    expected = {item.source for item in facts.expectations}
    # Not only while the breaker is open: it lets an attempt through each time its pause is over.
    return [
        Condition(
            AlarmKind.SOURCE_FAILING,
            guard.source,
            "its last extract attempts all failed, and it is read more seldom until one succeeds. "
            f"`esclusa check --source {guard.source}` tells whether it answers",
        )
        for guard in facts.guards
        if guard.source in expected and guard.failures_in_a_row >= FAILURES_THAT_OPEN
    ]


def _stuck_outbox(facts: Facts, *, limits: AlarmLimits) -> list[Condition]:
    oldest = facts.oldest_message_at
    if oldest is None or facts.now - oldest <= limits.outbox_stuck_after:
        return []
    detail = (
        f"a message of {_moment(oldest)} has not left. See the log for `messages_not_sent` and `outbox_not_sent`, "
        "and whether SQS answers: `esclusa queues`"
    )
    return [Condition(AlarmKind.OUTBOX_STUCK, "outbox", detail)]


def _differing_tables(facts: Facts) -> list[Condition]:
    """Those of tables that are still expected: nobody proves a table again that left its file."""
    expected = {(item.source, item.table) for item in facts.expectations}
    windows: dict[tuple[str, str], list[Proof]] = {}
    for proof in facts.differing:
        if (proof.source, proof.table) in expected:
            windows.setdefault((proof.source, proof.table), []).append(proof)
    return [
        Condition(
            AlarmKind.PROOF_DIFFERS,
            table_name(*table),
            f"windows that do not hold the same rows everywhere: {len(proofs)}, the first ends "
            f"{_moment(proofs[0].window.end)}. `esclusa prove {table_name(*table)}` tells the difference",
        )
        for table, proofs in sorted(windows.items())
    ]


def table_name(source: str, table: str) -> str:
    """Return a table as alarms and commands name it."""
    return f"{source}.{table}"


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---- recording -------------------------------------------------------------------------------------------------


def record(tx: LedgerTransaction, findings: Findings) -> Changes:
    """
    Raise an alarm for each condition that has none, and resolve those that are over.

    Both are logged before the transaction ends: if it fails, they are found and logged once more.
    """
    now = tx.now()
    open_alarms = {
        (alarm.kind, alarm.subject): alarm
        for alarm in tx.alarms(unsettled_only=True)
        if alarm.resolved_at is None
    }
    raised = []
    for found in findings.conditions:
        known = open_alarms.get((found.kind, found.subject))
        if known is None:
            raised.append(Alarm(found.kind, found.subject, raised_at=now, detail=found.detail))
            tx.save_alarm(raised[-1])
        elif known.detail != found.detail:
            # Found anew, told once: a batch that stood here stands there now.
            tx.save_alarm(replace(known, detail=found.detail))
    lasting = {(found.kind, found.subject) for found in findings.conditions}
    resolved = [
        replace(alarm, resolved_at=now)
        for key, alarm in open_alarms.items()
        if key not in lasting and findings.is_judged(*key)
    ]
    for alarm in resolved:
        tx.save_alarm(alarm)
    _log(raised, resolved)
    counts = Counter(alarm.kind for alarm in (*open_alarms.values(), *raised))
    counts.subtract(Counter(alarm.kind for alarm in resolved))
    return Changes(tuple(raised), tuple(resolved), dict(counts))


def _log(raised: Collection[Alarm], resolved: Collection[Alarm]) -> None:
    for alarm in raised:
        log.error("alarm_raised", kind=alarm.kind, subject=alarm.subject, detail=alarm.detail)
    for alarm in resolved:
        log.info("alarm_resolved", kind=alarm.kind, subject=alarm.subject, raised_at=_moment(alarm.raised_at))


def open_alarms_of(findings: Findings, recorded: Collection[Alarm], *, now: datetime) -> list[Alarm]:
    """
    Return the alarms that are open now, whether or not the watcher has recorded them; the longest open first.

    `recorded`: those that are not settled. One of which it cannot be judged whether it is over is open still.
    """
    known = {(alarm.kind, alarm.subject): alarm for alarm in recorded if alarm.resolved_at is None}
    standing = {key: alarm for key, alarm in known.items() if not findings.is_judged(*key)}
    for found in findings.conditions:
        key = found.kind, found.subject
        fresh = known.get(key) or Alarm(found.kind, found.subject, raised_at=now, detail=found.detail)
        standing[key] = replace(fresh, detail=found.detail)
    return sorted(standing.values(), key=lambda alarm: (alarm.raised_at, alarm.kind, alarm.subject))


# ---- telling ---------------------------------------------------------------------------------------------------


def tell(ledger: Ledger, notifier: Notifier | None, *, fleet: str) -> int:
    """
    Send one notice of everything that nobody was told of yet, and return how many alarms it told.

    It is told at least once: a notice that left and could not be recorded is sent again, under the same id. One
    that cannot be delivered is logged, and all that is due then is tried again the next time. Without a notifier
    the log has told it.

    Raises:
        Unavailable: if the ledger does not answer.
    """
    with ledger.transaction() as tx:
        due = [alarm for alarm in tx.alarms(unsettled_only=True) if _is_due(alarm)]
        now = tx.now()
    if not due:
        return 0
    notice = _notice(due, fleet=fleet, now=now)
    if notifier is not None:
        try:
            notifier.notify(notice)
        except EsclusaError as error:
            log.error("notice_not_delivered", alarm_count=len(due), detail=str(error))  # noqa: TRY400
            return 0
        except Exception:
            # A defect, or an answer that nobody foresaw: the alarms themselves must not suffer from it.
            log.exception("notice_not_delivered", alarm_count=len(due))
            return 0
    with ledger.transaction() as tx:
        for alarm in due:
            tx.save_alarm(_told(alarm, now))
    return len(due)


def _is_due(alarm: Alarm) -> bool:
    if alarm.resolved_at is not None:
        return alarm.resolve_told_at is None
    return alarm.raise_told_at is None


def _told(alarm: Alarm, now: datetime) -> Alarm:
    raise_told_at = alarm.raise_told_at or now
    return replace(
        alarm, raise_told_at=raise_told_at, resolve_told_at=None if alarm.resolved_at is None else now
    )


def _notice(due: Sequence[Alarm], *, fleet: str, now: datetime) -> Notice:
    """One that came and went between two notices is told as resolved only."""
    identity = "\0".join(
        f"{a.kind}\0{a.subject}\0{a.raised_at.isoformat()}\0{a.resolved_at is None}" for a in due
    )
    return Notice(
        id=hashlib.sha256(f"{fleet}\0{identity}".encode(errors="replace")).hexdigest()[:32],
        fleet=fleet,
        told_at=now,
        raised=tuple(alarm for alarm in due if alarm.resolved_at is None),
        resolved=tuple(alarm for alarm in due if alarm.resolved_at is not None),
    )
