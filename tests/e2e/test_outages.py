"""
Each part that the fleet stands on, away while the fleet runs under load: nothing is lost, nobody is restarted.

In the suite an outage lasts half a minute and changes its kind half way. `make outages` lets each kind last for
minutes (OUTAGE_SECONDS) and writes what it measured to the file that OUTAGE_REPORT names.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.fleet import find_free_block, sample_sources, until
from support.fronted_fleet import LEDGER, S3, SHOP, SQS, WAREHOUSE, FrontedFleet
from support.load import Load
from support.relay import MAX_REQUESTS_PER_SECOND, Away, Relays

from local.processes import Home

SECONDS = float(os.environ.get("OUTAGE_SECONDS", "0"))
REPORT = os.environ.get("OUTAGE_REPORT")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + 3 * SECONDS)]

Phases = tuple[tuple[Away, float], ...]

#: What is away, and how: AWS is reached through one address for all, and says 503 if it is overloaded.
KINDS = {
    LEDGER: (Away.REFUSING, Away.SILENT, Away.FORGETFUL),
    WAREHOUSE: (Away.REFUSING, Away.SILENT),
    SHOP: (Away.REFUSING, Away.SILENT),
    S3: (Away.ERROR_503, Away.SILENT),
    SQS: (Away.ERROR_503, Away.SILENT),
}


def cases() -> list[tuple[str, Phases]]:
    if SECONDS:
        return [(part, ((how, SECONDS),)) for part, kinds in KINDS.items() for how in kinds]
    return [(part, ((KINDS[part][0], 12.0), (KINDS[part][1], 14.0))) for part in KINDS]


def name_of(case: tuple[str, Phases]) -> str:
    part, phases = case
    return f"{part} {', then '.join(how.value for how, _ in phases)}"


@pytest.fixture(scope="module")
def fronted_fleet(server_directory: Path) -> Iterator[FrontedFleet]:
    """A fleet of its own, each of whose servers can be taken away."""
    with (
        sample_sources(server_directory / "outage-sources", every="4s") as sources,
        Relays().running() as relays,
    ):
        fleet = FrontedFleet(Home(server_directory / "outages"), find_free_block(), sources, relays=relays)
        try:
            fleet.up()
            yield fleet
        finally:
            fleet.down()


@pytest.fixture
def fleet(fronted_fleet: FrontedFleet) -> Iterator[FrontedFleet]:
    fronted_fleet.repair()
    with fronted_fleet.environment_set():
        fronted_fleet.move_everything()
        yield fronted_fleet


@dataclass(frozen=True)
class Outage:
    """What an outage came to."""

    began_at: datetime
    seconds: float
    requests_per_second: dict[str, float]
    #: After its end, until all that was on its way at its end was at rest.
    recovery_seconds: float
    load: Load

    @property
    def total_requests_per_second(self) -> float:
        return sum(self.requests_per_second.values())


def go_through_outage(fleet: FrontedFleet, part: str, phases: Phases) -> Outage:
    """Take a part away under load, bring it back, and wait until what was on its way has arrived."""
    with fleet.under_load() as load:
        until(lambda: len(load.enqueued) >= 2, what="the load to run")
        began_at, began = datetime.now(UTC), time.monotonic()
        for how, seconds in phases:
            with fleet.relays.away(part, how):
                time.sleep(seconds)
        returned = time.monotonic()
        asks = fleet.relays.asks_by_asker(part, since=began)
        on_their_way = {batch.id for batch in fleet.open_batches()}
        until(
            lambda: not on_their_way & {batch.id for batch in fleet.open_batches()},
            what=f"what was on its way when {part} came back to arrive",
            within_seconds=240 + 1.5 * SECONDS,
            pause=0.5,
        )
        recovered = time.monotonic()
    return Outage(
        began_at,
        returned - began,
        {asker: count / (returned - began) for asker, count in sorted(asks.items())},
        recovered - returned,
        load,
    )


@pytest.mark.parametrize("case", cases(), ids=name_of)
def test_a_part_that_is_away_costs_no_row_and_no_restart(
    fleet: FrontedFleet, case: tuple[str, Phases]
) -> None:
    part, phases = case
    pids = fleet.worker_pids()

    outage = go_through_outage(fleet, part, phases)

    report(case, outage, fleet)
    fleet.move_everything()
    fleet.assert_all_equal("shop")
    fleet.assert_all_equal("crm")
    assert fleet.worker_pids() == pids
    assert fleet.dead_letter_count() == 0
    # Somebody noticed, else nothing was tried here; and nobody asked without a pause.
    assert 0 < outage.total_requests_per_second < MAX_REQUESTS_PER_SECOND


def report(case: tuple[str, Phases], outage: Outage, fleet: FrontedFleet) -> None:
    """Append what was measured as one line of JSON, if somebody asked for it."""
    if not REPORT:
        return
    attempts = fleet.attempts_by_state(since=outage.began_at)
    measured = {
        "part": case[0],
        "how": [how.value for how, _ in case[1]],
        "seconds": round(outage.seconds, 1),
        "requests_per_second": {asker: round(rate, 3) for asker, rate in outage.requests_per_second.items()},
        "total_requests_per_second": round(outage.total_requests_per_second, 2),
        "recovery_seconds": round(outage.recovery_seconds, 1),
        "attempts": dict(attempts),
        "enqueue_exit_codes": [enqueued.exit_code for enqueued in outage.load.enqueued],
        "longest_enqueue_seconds": round(
            max(enqueued.duration_seconds for enqueued in outage.load.enqueued), 1
        ),
    }
    with Path(REPORT).open("a", encoding="utf-8") as file:
        file.write(json.dumps(measured) + "\n")
