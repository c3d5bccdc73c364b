"""The Lambda of the sweeper, called by a schedule."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from lambdas.invocation import forget_fleet, warm_fleet
from lambdas.sweeper.report import SweepReport
from lambdas.sweeper.settings import SweeperSettings
from lambdas.sweeper.sweep import sweep
from shared.domain.files import TRANSIENT_AREAS, Area
from shared.errors import Unavailable
from shared.fleet import Fleet
from shared.telemetry.metric_list import SWEEP_ACTIONS
from shared.telemetry.metrics import record

#: What a sweep that runs out of time keeps for its last steps: to end what it is at, and to send what it posted.
RESERVED_MILLISECONDS: Final = 8_000

#: The key up to which areas were searched for which there was no time. Lost with the process: then they begin anew.
_searched_up_to: dict[str, str] = {}


def handle(event: Mapping[str, Any], context: Any) -> dict[str, object]:
    """Sweep every source's bucket. `{"deep": true}` searches `final/` and `quarantine/` for strays as well."""
    fleet = warm_fleet("sweeper")
    try:
        report = sweep_all(
            fleet,
            areas=tuple(Area) if event.get("deep") else TRANSIENT_AREAS,
            is_time_up=lambda: context.get_remaining_time_in_millis() < RESERVED_MILLISECONDS,
        )
    except Unavailable:
        forget_fleet()
        raise
    for kind, count in report.counts.items():
        if count:
            record(SWEEP_ACTIONS, count, kind=kind)
    return report.document()


def sweep_all(fleet: Fleet, *, areas: Collection[Area], is_time_up: Callable[[], bool]) -> SweepReport:
    """Sweep the buckets of all sources, and remember where it ended for the next time."""
    with fleet.ledger.transaction() as tx:
        sources = {source for source, _ in tx.known_tables()}
    report = sweep(
        ledger=fleet.ledger,
        store=fleet.store,
        sender=fleet.sender,
        buckets={fleet.settings.bucket(source) for source in sources},
        limits=SweeperSettings().limits(),
        retry=fleet.settings.retry_policy,
        areas=areas,
        is_time_up=is_time_up,
        resume_after=_searched_up_to,
    )
    for area in report.finished:
        _searched_up_to.pop(area, None)
    _searched_up_to.update({item.where: item.after for item in report.not_reached if item.after})
    return report
