"""
The watcher: looks, judges, records, measures, tells. Once a minute.

What it finds is in the ledger and in the log before anybody is told, so that a receiver who does not answer costs
nothing but the notice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from lambdas.watcher.metrics import metric_records
from shared.alarms import WATCHER, AlarmLimits, judge, look, record, tell
from shared.domain.alarms import AlarmKind
from shared.ports import Ledger, Notifier, QueueInspector

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
        for fields in metric_records(facts, changes.open_counts, fleet=fleet):
            log.info("metric", **fields)
        told = tell(ledger, notifier, fleet=fleet)
    log.info(
        "watched",
        raised_count=len(changes.raised),
        resolved_count=len(changes.resolved),
        told_count=told,
        open_count=sum(changes.open_counts.values()),
    )
    return WatchReport(len(changes.raised), len(changes.resolved), told, changes.open_counts)
