"""
How long each stage takes for a small batch, on a warm worker: `PYTHONPATH=.:tests python -m bench.service_times --write`.

A whole small fleet runs on this machine: real PostgreSQL, local AWS server, Lambdas, one worker with one task at once. A
backfill of the sample shop makes BATCHES batches of some fifty rows. One kind of worker runs at a time, so that stages do
not take the processor from each other: when all batches have passed a stage, the next worker begins. While its queue is
full, one batch follows the other: from claim to claim is what a batch costs a task, messages and ledger included. The
first batches of each worker, when it is cold, do not count.

What is written (`bench/service_times.json`) is what `bench.scaling` reckons with.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

import psycopg
from support.fleet import SmallFleet, find_free_block, sample_sources, until

from local.fleet import SCHEDULER, WORKERS, worker_processes
from local.processes import Home, supervise
from shared.bulk import plan_backfill
from shared.domain.batches import Attempt, BatchState, Stage
from shared.domain.windows import PlannedWindow, Window
from shared.outbox import send_pending

FILE: Final = Path(__file__).parent / "service_times.json"
TABLE: Final = "orders"
BATCHES: Final = 60
COLD_BATCHES: Final = 10
PATIENCE_SECONDS: Final = 600.0

#: Which worker leads a batch through a stage, and where it stands when the gates behind it are done.
WAY: Final = (
    (Stage.EXTRACT, "backfiller", BatchState.READY),
    (Stage.PROCESS, "processor", BatchState.COMMITTED),
    (Stage.PUBLISH, "publisher", BatchState.PUBLISHED),
)


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """What one batch costs one task of a worker."""

    #: From claim to claim, median: what `bench.scaling` reckons with.
    seconds: float
    #: The slowest of twenty.
    p95_seconds: float
    #: From claim to the end of the attempt, median: the work without what messages cost.
    work_seconds: float


def main() -> None:
    """Measure, print, and with --write keep it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name}")
    is_written = parser.parse_args().write
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="esclusa-bench-"))
    directory.chmod(0o711)  # PostgreSQL runs as another user if we are root.
    try:
        with sample_sources(directory / "sources", every="10s") as sources:
            fleet = SmallFleet(Home(directory / "home"), find_free_block(), sources)
            try:
                fleet.up()
                with fleet.environment_set():
                    document = _document(measure(fleet))
            finally:
                fleet.down()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    text = json.dumps(document, indent=2) + "\n"
    print(text, end="")
    if is_written:
        FILE.write_text(text)


def measure(fleet: SmallFleet) -> dict[Stage, ServiceTime]:
    """Lead batches through one stage after the other, and return what each took."""
    fleet.move_everything("shop")
    with supervise(fleet.home, purpose="bench") as supervisor:
        for name in (*WORKERS, SCHEDULER):
            supervisor.stop(name)
    batch_ids = _plan(fleet)
    return {stage: _run(fleet, batch_ids, stage, worker, end) for stage, worker, end in WAY}


def _plan(fleet: SmallFleet) -> list[str]:
    contract = fleet.contract(TABLE)
    with psycopg.connect(fleet.stack.shop_owner_dsn) as connection:
        ((first, last),) = connection.execute(f"SELECT min(updated_at), max(updated_at) FROM {TABLE}")
    start, end = first, last + timedelta(microseconds=1)
    bounds = [start + (end - start) * number / BATCHES for number in range(BATCHES + 1)]
    windows = [
        PlannedWindow(low.isoformat(), Window(low, high), is_bulk=True) for low, high in pairwise(bounds)
    ]
    run = plan_backfill(contract, windows, ledger=fleet.fleet.ledger, bucket=fleet.bucket())
    send_pending(fleet.fleet.ledger, fleet.fleet.sender)
    return [batch.id for batch in run.batches]


def _run(
    fleet: SmallFleet, batch_ids: Sequence[str], stage: Stage, worker: str, end: BatchState
) -> ServiceTime:
    (spec,) = [spec for spec in worker_processes(fleet.environment) if spec.name == worker]
    with supervise(fleet.home, purpose="bench") as supervisor:
        supervisor.start(spec)
        until(
            _all_are(fleet, batch_ids, end),
            what=f"{worker} to lead all to {end}",
            within_seconds=PATIENCE_SECONDS,
        )
        supervisor.stop(worker)
    with fleet.fleet.ledger.transaction() as tx:
        attempts = [
            attempt for batch_id in batch_ids for attempt in tx.attempts(batch_id) if attempt.stage is stage
        ]
    return service_time(attempts)


def service_time(attempts: Sequence[Attempt]) -> ServiceTime:
    """Return what a batch cost the one task that made these attempts, without those of a cold process."""
    warm = sorted(attempts, key=lambda attempt: attempt.claimed_at)[COLD_BATCHES:]
    cycles = [(later.claimed_at - earlier.claimed_at).total_seconds() for earlier, later in pairwise(warm)]
    work = [(a.ended_at - a.claimed_at).total_seconds() for a in warm if a.ended_at is not None]
    return ServiceTime(
        seconds=round(statistics.median(cycles), 3),
        p95_seconds=round(statistics.quantiles(cycles, n=20)[-1], 3),
        work_seconds=round(statistics.median(work), 3),
    )


def _all_are(fleet: SmallFleet, batch_ids: Sequence[str], state: BatchState) -> Callable[[], bool]:
    wanted = set(batch_ids)

    def look() -> bool:
        return {batch.id for batch in fleet.batches(states=frozenset({state}))} >= wanted

    return look


def _document(times: dict[Stage, ServiceTime]) -> dict[str, object]:
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[1]:.1f} over five minutes",
        "batches": BATCHES - COLD_BATCHES,
        "stages": {
            str(stage): {
                "seconds": time.seconds,
                "p95_seconds": time.p95_seconds,
                "work_seconds": time.work_seconds,
            }
            for stage, time in times.items()
        },
    }


if __name__ == "__main__":
    main()
