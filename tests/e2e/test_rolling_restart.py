"""
All workers replaced one after another while rows stream through: what was not interrupted is not done twice.

A worker is told to stop as Kubernetes does it, by SIGTERM, and started anew when it has gone; there is one of each
kind, so that nobody stands in for it meanwhile. `make rolling-restart` does it for longer (RESTART_ROUNDS) and writes
what it measured to the file that RESTART_REPORT names.
"""

import json
import os
import statistics
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg
import pytest
from support.fleet import PATIENCE_SECONDS, SmallFleet, until
from support.load import under_load

from local.fleet import WORKERS, worker_processes
from local.processes import living_processes, supervise
from shared.domain.batches import AttemptState, BatchState, Stage

ROUNDS = int(os.environ.get("RESTART_ROUNDS", "1"))
REPORT = os.environ.get("RESTART_REPORT")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 120 * ROUNDS)]

#: SIGTERM, soft shutdown, interruption and the end of the process have to fit in. Kubernetes kills after so long.
GRACE_SECONDS = 20.0

MAX_ADDED_SECONDS = 60.0


@pytest.fixture(autouse=True)
def at_rest(fleet: SmallFleet) -> None:
    fleet.move_everything("shop")


def restart(fleet: SmallFleet, worker: str) -> set[int]:
    """Stop a worker by SIGTERM and start it anew; return the pids of the processes that ended."""
    main = psutil.Process(living_processes(fleet.home)[worker])
    ended = {main.pid, *(child.pid for child in main.children(recursive=True))}
    main.terminate()
    # A parent of ours may not reap it; a zombie has ended as well.
    until(
        lambda: not main.is_running() or main.status() == psutil.STATUS_ZOMBIE,
        what=f"{worker} to end by itself",
        within_seconds=GRACE_SECONDS,
    )
    specs = {spec.name: spec for spec in worker_processes(fleet.environment)}
    with supervise(fleet.home, purpose="rolling restart") as supervisor:
        supervisor.start(specs[worker])
    return ended


def latencies_seconds(fleet: SmallFleet, *, since: datetime) -> list[float]:
    """Return how long each batch planned since a moment took until analysts had it."""
    arrived = fleet.batches(states=frozenset({BatchState.PUBLISHED, BatchState.SUPERSEDED}))
    return [
        (batch.changed_at - batch.planned_at).total_seconds() for batch in arrived if batch.planned_at > since
    ]


class Attempted(NamedTuple):
    """One attempt, and the process that made it."""

    batch_id: str
    stage: str
    state: str
    pid: int


def attempts_since(fleet: SmallFleet, moment: datetime) -> list[Attempted]:
    """Return every attempt at batches that were planned since a moment."""
    with psycopg.connect(fleet.stack.control_dsn) as connection:
        rows = connection.execute(
            "SELECT batch_id, stage, attempt.state, split_part(worker, ':', 2)::int FROM esclusa.attempt"
            " JOIN esclusa.batch ON batch.id = batch_id WHERE planned_at > %s",
            [moment],
        )
        return [Attempted(*row) for row in rows]


def test_workers_restarted_one_after_another_add_less_than_a_minute_and_repeat_only_what_was_interrupted(
    fleet: SmallFleet,
) -> None:
    began_quietly = datetime.now(UTC)
    with under_load(fleet, fleet.environment) as load:
        until(
            lambda: len(load.enqueued) >= 5 * ROUNDS,
            what="the load to run for a while",
            within_seconds=PATIENCE_SECONDS * ROUNDS,
        )
    fleet.wait_until_at_rest()
    quiet = latencies_seconds(fleet, since=began_quietly)

    began = datetime.now(UTC)
    ended: set[int] = set()
    with under_load(fleet, fleet.environment) as load:
        until(lambda: len(load.enqueued) >= 2, what="the load to run")
        for _ in range(ROUNDS):
            for worker in WORKERS:
                ended |= restart(fleet, worker)
                time.sleep(2)
    fleet.wait_until_at_rest()
    restarted = latencies_seconds(fleet, since=began)
    attempts = attempts_since(fleet, began)

    report(quiet, restarted, attempts, ended)
    fleet.move_everything("shop")
    fleet.assert_all_equal()
    done = Counter((made.batch_id, made.stage) for made in attempts if made.state == AttemptState.SUCCEEDED)
    assert set(done.values()) == {1}
    # Each attempt beyond the one that succeeded was that of a process that was told to stop.
    assert {made.pid for made in attempts if made.state != AttemptState.SUCCEEDED} <= ended
    assert max(restarted) < max(quiet) + MAX_ADDED_SECONDS


SLOW_ROWS = """
CREATE TABLE rows (id integer PRIMARY KEY, name text);
INSERT INTO rows SELECT i, 'name ' || i FROM generate_series(1, 200) AS i;
CREATE VIEW slow_rows AS SELECT * FROM rows WHERE pg_sleep(0.1) IS NOT NULL;
"""

SLOW_SOURCE = """
name: slow
kind: postgres
connection: {dsn: 'secretsmanager:esclusa/slow#dsn'}
schedule: {every: 1h, max_window: 1h, catch_up_limit: 24}
quarantine: {max_rejected_rows: 100, max_rejected_ratio: 0.01}
tables:
  slow_rows:
    relation: public.slow_rows
    columns:
      id: {source_type: integer, type: int32, nullable: false, mask: keep}
      name: {source_type: text, type: string, mask: keep}
    key: [id]
    cursor: none
    publish: {mode: replace, target: both}
"""


def test_a_task_longer_than_the_soft_shutdown_is_interrupted_and_taken_over_without_waiting_for_its_lease(
    fleet: SmallFleet,
) -> None:
    with fleet.own_source("slow", SLOW_ROWS):
        fleet.write_source("slow", SLOW_SOURCE)
        fleet.up()
        fleet.enqueue("slow")
        [batch] = fleet.batches(source="slow")
        fleet.wait_for_state(batch.id, BatchState.EXTRACTING)

        restart(fleet, "extractor")

        ended_at = datetime.now(UTC)
        fleet.wait_for_state(batch.id, BatchState.PUBLISHED)
    with fleet.fleet.ledger.transaction() as tx:
        interrupted, repeated = [made for made in tx.attempts(batch.id) if made.stage is Stage.EXTRACT]
    assert (interrupted.state, repeated.state) == (AttemptState.EXPIRED, AttemptState.SUCCEEDED)
    assert interrupted.lease_until <= ended_at
    assert fleet.warehouse("SELECT count(*) FROM slow.slow_rows") == [(200,)]


def report(quiet: list[float], restarted: list[float], attempts: list[Attempted], ended: set[int]) -> None:
    """Write what was measured, if somebody asked for it."""
    if not REPORT:
        return
    interrupted = [attempt for attempt in attempts if attempt.state != AttemptState.SUCCEEDED]
    measured = {
        "rounds": ROUNDS,
        "batches": {"without": len(quiet), "with": len(restarted)},
        "latency_seconds": {
            name: {"median": round(statistics.median(found), 1), "longest": round(max(found), 1)}
            for name, found in (("without", quiet), ("with", restarted))
        },
        "attempts": len(attempts),
        "interrupted_attempts": len(interrupted),
        "processes_ended": len(ended),
    }
    Path(REPORT).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
