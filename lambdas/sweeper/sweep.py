"""
The sweeper: what makes the fleet converge with every queue purged and every event lost.

It resends messages that never left, frees leases of dead workers, wakes batches that nobody moved, has the
cleaner look at leftovers, and removes objects and uploads of attempts that died before they could record them.

Each step finds actions and carries them out as they come; a dry run finds them and does nothing.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, product

import structlog

from lambdas.sweeper.actions import TAKES_AWAY, Action, ActionKind
from lambdas.sweeper.in_buckets import Graces, judge_object, judge_upload, without_settled
from lambdas.sweeper.in_ledger import (
    find_expired_leases,
    find_free_places,
    find_gone,
    find_leftovers,
    find_messages,
    find_replaced,
    find_sleeping_batches,
    foreign_in_the_way,
    old_evidence,
)
from lambdas.sweeper.limits import SweepLimits
from lambdas.sweeper.report import NotReached, SweepPart, SweepReport
from shared import compactions, lifecycle
from shared.domain.batches import Attempt, Batch
from shared.domain.compactions import Compaction
from shared.domain.files import TRANSIENT_AREAS, Area, DataFile, Location
from shared.domain.retries import RetryPolicy
from shared.errors import Unavailable
from shared.messages import clean_message
from shared.outbox import send_pending
from shared.ports import Ledger, ObjectInfo, ObjectStore, OpenUpload, QueueName, QueueSender

log = structlog.get_logger()

#: As many as S3 names in one answer.
_OBJECTS_PER_QUESTION = 1_000
#: Of a long list, so many stand in a log record.
_MAX_LOGGED = 10


def sweep(
    *,
    ledger: Ledger,
    store: ObjectStore,
    sender: QueueSender,
    buckets: Collection[str],
    limits: SweepLimits,
    retry: RetryPolicy,
    areas: Collection[Area] = TRANSIENT_AREAS,
    is_dry_run: bool = False,
    is_time_up: Callable[[], bool] = lambda: False,
    resume_after: Mapping[str, str] | None = None,
) -> SweepReport:
    """
    Heal what can be healed now, and say what was done and what was not reached. Repeating it is safe.

    `areas` are searched for strays: the transient ones each time, `final/` and `quarantine/`, which are long,
    now and then. Of two sweeps at once, the second leaves to the first what that one is at. A dry run changes
    nothing, anywhere, and is kept from nothing. `resume_after` tells, as an earlier report did, after which key an
    area that was not searched to its end goes on.

    Raises:
        Unavailable: if the ledger does not answer. What was healed before stays healed.
    """
    run = _Run(ledger, store, sender, limits, retry, is_time_up, resume_after or {}, SweepReport(is_dry_run))
    with _alone(run, SweepPart.EVERYDAY) as is_alone:
        if is_alone:
            _sweep_ledger(run)
            _search_buckets(run, buckets, [area for area in TRANSIENT_AREAS if area in areas])
    long_areas = [area for area in areas if area not in TRANSIENT_AREAS]
    if long_areas:
        with _alone(run, SweepPart.DEEP) as is_alone:
            if is_alone:
                _record_gone(run)
                _search_long_areas(run, buckets, long_areas)
    if run.has_begun:
        run.send()
    _log(run.report)
    return run.report


@contextmanager
def _alone(run: "_Run", part: SweepPart) -> Iterator[bool]:
    if run.report.is_dry_run:
        run.has_begun = True
        yield True
        return
    with run.ledger.exclusively(part) as is_alone:
        if not is_alone:
            log.info("sweep_skipped", part=part)
            run.report.skipped.append(part)
        run.has_begun |= is_alone
        yield is_alone


def _sweep_ledger(run: "_Run") -> None:
    run.take_all(find_expired_leases(run.ledger, limits=run.limits))
    run.take_all(find_sleeping_batches(run.ledger, limits=run.limits))
    run.take_all(find_free_places(run.ledger))
    run.take_all(find_leftovers(run.ledger, limits=run.limits))
    run.take_all(find_replaced(run.ledger, limits=run.limits))
    if not run.report.is_dry_run:  # it will find the same messages at its end
        run.send()


def _record_gone(run: "_Run") -> None:
    for search in (old_evidence, foreign_in_the_way):
        for bucket, files in search(run.ledger, limits=run.limits).items():
            with _outage_of_one_bucket(run, bucket):
                run.take_all(find_gone(files, run.store))


def _search_buckets(run: "_Run", buckets: Collection[str], areas: Collection[Area]) -> None:
    for bucket in _in_fair_order(run, buckets):
        with _outage_of_one_bucket(run, bucket):
            _search_uploads(run, bucket)
            for area in areas:
                _search_area(run, bucket, area)


def _search_long_areas(run: "_Run", buckets: Collection[str], areas: Collection[Area]) -> None:
    prefixes = {f"s3://{bucket}/{area}/": (bucket, area) for bucket, area in product(buckets, areas)}
    for prefix in _in_fair_order(run, prefixes):
        bucket, area = prefixes[prefix]
        with _outage_of_one_bucket(run, bucket):
            _search_area(run, bucket, area)


def _in_fair_order(run: "_Run", names: Iterable[str]) -> list[str]:
    """Shuffle by the minute: whatever takes all the time of one run stands before others in another."""
    with run.ledger.transaction() as tx:
        minute = f"{tx.now():%Y-%m-%dT%H:%M}"
    return sorted(names, key=lambda name: hashlib.sha256(f"{minute} {name}".encode()).digest())


@contextmanager
def _outage_of_one_bucket(run: "_Run", bucket: str) -> Iterator[None]:
    """Go on after an outage: the bucket of one source, gone or closed to us, keeps us from no other."""
    try:
        yield
    except Unavailable as error:
        log.warning("bucket_not_swept", bucket=bucket, detail=str(error))
        run.report.buckets_not_swept[bucket] = str(error)


# ---- one bucket ----------------------------------------------------------------------------------------------


def _search_uploads(run: "_Run", bucket: str) -> None:
    if run.is_over():
        run.leave(f"open uploads of s3://{bucket}/")
        return
    graces = Graces.now(run.ledger, run.limits)
    for upload in run.store.open_uploads(bucket):
        if run.is_over():
            run.leave(f"open uploads of s3://{bucket}/")
            return
        action = judge_upload(upload, graces=graces, ledger=run.ledger)
        if action is not None:
            run.take(action)


def _search_area(run: "_Run", bucket: str, area: Area) -> None:
    prefix = f"s3://{bucket}/{area}/"
    after = run.resume_after.get(prefix, "")
    listed = run.store.list(bucket, f"{area}/", after=after)
    while not run.is_over():
        graces = Graces.now(run.ledger, run.limits)
        page = list(islice(listed, _OBJECTS_PER_QUESTION))
        if not page:
            run.report.finished.append(prefix)
            return
        for info in without_settled(bucket, page, graces=graces, ledger=run.ledger):
            if run.is_over():
                run.leave(prefix, after=after)
                return
            _judge(run, info, area, graces=graces)
            after = info.location.key
        after = page[-1].location.key
    run.leave(prefix, after=after)


def _judge(run: "_Run", info: ObjectInfo, area: Area, *, graces: Graces) -> None:
    try:
        action = judge_object(info, area, graces=graces, ledger=run.ledger)
        if action is not None:
            run.take(action)
    except Unavailable:
        raise
    except Exception:
        # A key that the ledger cannot hold, say. Whoever put it there must not stop every later sweep.
        log.exception("object_not_judged", bucket=info.location.bucket, key=info.location.key)
        run.report.objects_not_judged.append(str(info.location))


# ---- one run -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """What one sweep works with, and what it has come to so far."""

    ledger: Ledger
    store: ObjectStore
    sender: QueueSender
    limits: SweepLimits
    retry: RetryPolicy
    is_time_up: Callable[[], bool]
    resume_after: Mapping[str, str]
    report: SweepReport
    has_begun: bool = field(default=False, init=False)
    taken_away: int = field(default=0, init=False)

    def is_over(self) -> bool:
        """Whether nothing more is to be searched."""
        return self.report.is_delete_limit_reached or self.is_time_up()

    def leave(self, where: str, *, after: str = "") -> None:
        """Note what was not reached."""
        self.report.not_reached.append(NotReached(where, after))

    def send(self) -> None:
        """Send what the outbox holds, also when the time is up: there is some kept for it."""
        for action in find_messages(self.ledger):
            self.take(action)

    def take_all(self, actions: Iterable[Action]) -> None:
        """Carry out what a step found in the ledger, as long as there is time."""
        for action in actions:
            if self.is_time_up():
                self.leave(str(action.kind))
                return
            self.take(action)

    def take(self, action: Action) -> None:
        """Carry an action out, unless this is a dry run or takes away more than one run may."""
        report = self.report
        if action.kind in TAKES_AWAY:
            if self.taken_away >= self.limits.delete_limit:
                report.is_delete_limit_reached = True
                return
            self.taken_away += 1
        done = 1 if report.is_dry_run else self._carry_out(action)
        if not done:
            return
        if action.kind in TAKES_AWAY and not report.is_dry_run:
            log.warning("taken_away", kind=action.kind, location=action.subject, because=action.because)
        report.counts[action.kind] += done
        if report.counts[action.kind] <= max(self.limits.step_limit, self.limits.delete_limit):
            report.actions.append(action)

    def _carry_out(self, action: Action) -> int:
        """Do it, if the ledger still agrees, and return how often it was done."""
        match action.kind, action.target:
            case ActionKind.SEND_MESSAGES, _:
                return send_pending(self.ledger, self.sender)
            case ActionKind.ABORT_UPLOAD, OpenUpload() as upload:
                self.store.abort_upload(upload)
            case ActionKind.DELETE_STRAY, Location() as location:
                self.store.delete(location)
            case ActionKind.DELETE_REPLACED, Compaction() as compaction:
                return self._delete_replaced(compaction)
            case ActionKind.LEAVE_UNKNOWN, _:
                pass
            case _:
                return self._record(action)
        return 1

    def _record(self, action: Action) -> int:
        """Do what changes nothing but the ledger."""
        with self.ledger.transaction() as tx:
            match action.kind, action.target:
                case ActionKind.EXPIRE_LEASE, Attempt() as attempt:
                    return int(lifecycle.expire_attempt(tx, attempt, retry=self.retry))
                case ActionKind.WAKE_BATCH, Batch() as batch:
                    return int(lifecycle.wake(tx, batch.id, state=batch.state))
                case ActionKind.START_DEFERRED, str() as source:
                    return lifecycle.start_deferred(tx, source)
                case ActionKind.CLEAN_BATCH, Batch() as batch:
                    tx.post(lifecycle.message_of(batch, QueueName.CLEAN, clean_message(batch.id)))
                case ActionKind.RECORD_EXPIRED, DataFile() as file:
                    lifecycle.record_deleted(tx, file.location)
                case ActionKind.SET_ASIDE, DataFile() as file:
                    lifecycle.record_foreign(tx, file)
                case ActionKind.ADOPT, DataFile() as file:
                    lifecycle.record_set_aside(tx, file)
                case kind, target:
                    raise TypeError(f"{kind}: cannot be done to a {type(target).__name__}")
        return 1

    def _delete_replaced(self, compaction: Compaction) -> int:
        """
        Delete what nobody reads any more, and return whether there was anything; each run finds what is left.

        The action counts as one object already; each further file counts too.
        """
        with self.ledger.transaction() as tx:
            unread = compactions.take_unread(tx, compaction.id)
        files = unread[: self.limits.delete_limit - self.taken_away + 1]
        self.taken_away += max(len(files) - 1, 0)
        self.report.is_delete_limit_reached |= len(files) < len(unread)
        for file in files:
            self.store.delete(file.location)
        with self.ledger.transaction() as tx:
            for file in files:
                lifecycle.record_deleted(tx, file.location)
            compactions.take_unread(tx, compaction.id)
        return int(bool(files))


def _log(report: SweepReport) -> None:
    counts = {str(kind): count for kind, count in report.counts.items() if count}
    log.info("swept", is_dry_run=report.is_dry_run, **counts)
    if report.not_reached:
        where = [item.where for item in report.not_reached[:_MAX_LOGGED]]
        log.warning("sweep_not_finished", not_reached_count=len(report.not_reached), where=where)
    if waiting := report.waiting_long:
        batch_ids = [batch.id for batch in waiting[:_MAX_LOGGED]]
        log.warning("batches_wait_long", batch_count=len(waiting), batch_ids=batch_ids)
    if report.is_delete_limit_reached:
        log.error("sweep_delete_limit_reached", is_dry_run=report.is_dry_run, **counts)
    if unknown := report.counts[ActionKind.LEAVE_UNKNOWN]:
        first = [item.subject for item in report.actions if item.kind is ActionKind.LEAVE_UNKNOWN]
        log.error("objects_of_unknown_attempts", object_count=unknown, locations=first[:_MAX_LOGGED])
