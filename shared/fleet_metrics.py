"""What ledger and queues say, as samples of metrics: for the watcher, which logs them, and for `esclusa metrics`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta

import structlog

from shared.alarms import WATCHER, freshness_of
from shared.deadline import within
from shared.domain.alarms import Alarm, AlarmKind
from shared.domain.batches import FINAL_STATES, BatchState
from shared.domain.progress import Expectation, TableProgress
from shared.errors import EsclusaError, Unavailable
from shared.ports import BatchTally, Ledger, QueueInspector, QueueName
from shared.telemetry import metric_list
from shared.telemetry.metrics import Sample, sample

log = structlog.get_logger()

#: What is counted of batches: those that are on their way, or held.
OPEN_STATES = tuple(state for state in BatchState if state not in FINAL_STATES)

Progress = Mapping[tuple[str, str], TableProgress]


def read_ledger(ledger: Ledger, *, table_limit: int) -> list[Sample]:
    """
    Return what the ledger says: by eight statements, whose answers are as long as there are tables and open alarms.

    Raises:
        EsclusaError: if it does not answer, or is none that this version reads.
    """
    with ledger.transaction() as tx:
        now = tx.now()
        expectations = tx.expectations()
        progress = {(item.source, item.table): item for item in tx.table_progress()}
        tallies = tx.batch_tallies(states=OPEN_STATES)
        alarms = tx.alarms(unsettled_only=True)
        watched_at = tx.last_run(WATCHER)
        message_count, oldest_message_at = tx.pending_message_count(), tx.oldest_pending_at()
    expected = [(item.source, item.table) for item in expectations]
    # Those that are expected first: of others only batches are told.
    tables = list(dict.fromkeys([*expected, *((tally.source, tally.table) for tally in tallies)]))
    told = frozenset(tables[:table_limit])
    told_expectations = [item for item in expectations if (item.source, item.table) in told]
    return [
        *_open_batch_samples([tally for tally in tallies if (tally.source, tally.table) in told]),
        *_oldest_batch_samples(tallies, now=now),
        *freshness_samples(told_expectations, progress, now=now),
        *_lateness_samples(told_expectations),
        *_watermark_samples(told_expectations, progress, now=now),
        *open_alarm_samples(_open_counts(alarms)),
        *_moment(metric_list.WATCHED_TIMESTAMP_SECONDS, watched_at),
        sample(metric_list.OUTBOX_MESSAGES, message_count),
        outbox_age_sample(oldest_message_at, now=now),
        sample(metric_list.EXPORTER_TABLES_LEFT_OUT, len(tables) - len(told)),
    ]


def read_queues(inspector: QueueInspector, *, patience: timedelta) -> list[Sample]:
    """
    Return how full the queues are, and their dead letters.

    Raises:
        EsclusaError: if one of them does not answer, or all together not within `patience`.
    """
    return within(patience, lambda: list(_queue_samples(inspector)), what="queues")


def freshness_samples(
    expectations: Iterable[Expectation], progress: Progress, *, now: datetime
) -> Iterator[Sample]:
    """Return how fresh each table is."""
    for expectation in expectations:
        table = expectation.source, expectation.table
        age = freshness_of(expectation, progress.get(table), now=now)
        yield sample(metric_list.FRESHNESS_SECONDS, _seconds(age), source=table[0], table=table[1])


def open_alarm_samples(counts: Mapping[AlarmKind, int]) -> Iterator[Sample]:
    """Return how many alarms of each kind are open, also where none is."""
    for kind in AlarmKind:
        yield sample(metric_list.OPEN_ALARMS, counts.get(kind, 0), kind=kind)


def dead_letter_samples(counts: Mapping[QueueName, int]) -> Iterator[Sample]:
    """Return how many dead letters each queue has that answered."""
    for queue, count in counts.items():
        yield sample(metric_list.DEAD_LETTERS, count, queue=queue)


def outbox_age_sample(oldest_message_at: datetime | None, *, now: datetime) -> Sample:
    """Return how old the oldest message of the outbox is."""
    age = now - oldest_message_at if oldest_message_at else timedelta(0)
    return sample(metric_list.OUTBOX_AGE_SECONDS, _seconds(age))


def _open_batch_samples(tallies: Iterable[BatchTally]) -> Iterator[Sample]:
    for tally in tallies:
        yield sample(
            metric_list.OPEN_BATCHES, tally.count, source=tally.source, table=tally.table, state=tally.state
        )


def _oldest_batch_samples(tallies: Iterable[BatchTally], *, now: datetime) -> Iterator[Sample]:
    since: dict[BatchState, datetime] = {}
    for tally in tallies:
        since[tally.state] = min(since.get(tally.state, tally.longest_since), tally.longest_since)
    for state in OPEN_STATES:
        age = now - since[state] if state in since else timedelta(0)
        yield sample(metric_list.OLDEST_BATCH_AGE_SECONDS, _seconds(age), state=state)


def _lateness_samples(expectations: Iterable[Expectation]) -> Iterator[Sample]:
    for expectation in expectations:
        bound = (expectation.every + expectation.expected_by).total_seconds()
        yield sample(
            metric_list.LATE_AFTER_SECONDS, bound, source=expectation.source, table=expectation.table
        )


def _watermark_samples(
    expectations: Iterable[Expectation], progress: Progress, *, now: datetime
) -> Iterator[Sample]:
    for expectation in expectations:
        found = progress.get((expectation.source, expectation.table))
        if found is not None:
            lag = _seconds(now - found.planned_until)
            yield sample(metric_list.WATERMARK_LAG_SECONDS, lag, source=found.source, table=found.table)


def _open_counts(alarms: Iterable[Alarm]) -> Counter[AlarmKind]:
    return Counter(alarm.kind for alarm in alarms if alarm.resolved_at is None)


def _moment(metric: metric_list.Metric, at: datetime | None) -> Iterator[Sample]:
    if at is not None:
        yield sample(metric, at.timestamp())


def _queue_samples(inspector: QueueInspector) -> Iterator[Sample]:
    for queue in QueueName:
        try:
            depth = inspector.depth(queue)
            dead = inspector.depth(queue, dead_letters=True)
        except Unavailable:
            raise  # Another one would cost its timeouts too.
        except EsclusaError as error:
            # One that this process knows no URL of, say.
            log.warning("queue_not_seen", queue=queue, detail=str(error))
            continue
        conditions = {"visible": depth.visible, "in_flight": depth.in_flight, "delayed": depth.delayed}
        for condition, count in conditions.items():
            yield sample(metric_list.QUEUE_MESSAGES, count, queue=queue, condition=condition)
        yield from dead_letter_samples({queue: dead.total})


def _seconds(age: timedelta) -> float:
    """A source whose clock is ahead of the ledger's is not fresher than fresh."""
    return max(age.total_seconds(), 0.0)
