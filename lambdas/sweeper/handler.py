"""The Lambda of the sweeper, called by a schedule."""

from collections.abc import Mapping
from typing import Any

from lambdas.invocation import warm_fleet
from lambdas.sweeper.settings import SweeperSettings
from lambdas.sweeper.sweep import sweep
from shared.domain.files import TRANSIENT_AREAS, Area


def handle(event: Mapping[str, Any], context: object) -> dict[str, int]:  # noqa: ARG001  Lambda's signature
    """Sweep every source's bucket. `{"deep": true}` searches `final/` for strays as well."""
    fleet = warm_fleet("sweeper")
    with fleet.ledger.transaction() as tx:
        sources = {version.contract.source for version in tx.latest_contracts()}
    report = sweep(
        ledger=fleet.ledger,
        store=fleet.store,
        sender=fleet.sender,
        buckets={fleet.settings.bucket(source) for source in sources},
        limits=SweeperSettings().limits(),
        max_attempts=fleet.settings.max_attempts,
        areas=(*TRANSIENT_AREAS, Area.FINAL) if event.get("deep") else TRANSIENT_AREAS,
    )
    return report.counts
