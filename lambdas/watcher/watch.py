"""
The watcher: looks, judges, records, measures, tells. Once a minute.

What it finds is in the ledger and in the log before anybody is told, so that a receiver who does not answer costs
nothing but the notice.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import structlog

from lambdas.emf import tell as tell_metric
from shared.alarms import WATCHER, AlarmLimits, Facts, judge, look, record, tell
from shared.domain.alarms import AlarmKind
from shared.fleet_metrics import dead_letter_samples, freshness_samples, open_alarm_samples, outbox_age_sample
from shared.ports import Ledger, Notifier, QueueInspector
from shared.telemetry.metrics import Sample

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WatchReport:
    """What a run came to."""

    raised_count: int = 0
    resolved_count: int = 0
    told_count: int = 0
    open_counts: Mapping[AlarmKind, int] = field(default_factory=dict)


def watch(
    *,
    ledger: Ledger,
    inspector: QueueInspector,
    notifier: Notifier | None,
    limits: AlarmLimits,
    fleet: str,
) -> WatchReport:
    """
    Look once, and tell what changed. Of two at once the second does nothing.

    Raises:
        Unavailable: if the ledger does not answer. That nobody watches then is told by the alarm on this very
            function, outside of the fleet.
    """
    with ledger.exclusively(WATCHER) as is_alone:
        if not is_alone:
            log.info("watch_skipped")
            return WatchReport()
        facts = look(ledger, inspector, limits=limits)
        findings = judge(facts, limits=limits)
        with ledger.transaction() as tx:
            changes = record(tx, findings)
            tx.record_run(WATCHER)
        for sample in samples(facts, changes.open_counts):
            tell_metric(sample, fleet=fleet, at=facts.now)
        told = tell(ledger, notifier, fleet=fleet)
    log.info(
        "watched",
        raised_count=len(changes.raised),
        resolved_count=len(changes.resolved),
        told_count=told,
        open_count=sum(changes.open_counts.values()),
    )
    return WatchReport(len(changes.raised), len(changes.resolved), told, changes.open_counts)


def samples(facts: Facts, open_counts: Mapping[AlarmKind, int]) -> Iterator[Sample]:
    """Return what the watcher measures."""
    yield from freshness_samples(facts.expectations, facts.progress, now=facts.now)
    yield from open_alarm_samples(open_counts)
    yield from dead_letter_samples(facts.dead_letters)
    yield outbox_age_sample(facts.oldest_message_at, now=facts.now)
