"""The Lambda of the sweeper, called by a schedule."""

from collections.abc import Collection, Mapping
from typing import Any

from lambdas.invocation import forget_fleet, warm_fleet
from lambdas.sweeper.settings import SweeperSettings
from lambdas.sweeper.sweep import sweep
from shared.domain.files import TRANSIENT_AREAS, Area
from shared.errors import Unavailable
from shared.fleet import Fleet


def handle(event: Mapping[str, Any], context: object) -> dict[str, int]:  # noqa: ARG001  Lambda's signature
    """Sweep every source's bucket. `{"deep": true}` searches `final/` and `quarantine/` for strays as well."""
    fleet = warm_fleet("sweeper")
    try:
        return _sweep_all(fleet, areas=tuple(Area) if event.get("deep") else TRANSIENT_AREAS)
    except Unavailable:
        forget_fleet()
        raise


def _sweep_all(fleet: Fleet, *, areas: Collection[Area]) -> dict[str, int]:
    with fleet.ledger.transaction() as tx:
        sources = {version.contract.source for version in tx.latest_contracts()}
    report = sweep(
        ledger=fleet.ledger,
        store=fleet.store,
        sender=fleet.sender,
        buckets={fleet.settings.bucket(source) for source in sources},
        limits=SweeperSettings().limits(),
        retry=fleet.settings.retry_policy,
        areas=areas,
    )
    return report.counts
