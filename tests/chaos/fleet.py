"""The fleet that chaos is made in: several small sources, workers that come back, and a reader that never rests."""

import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest import mock

import psycopg
from chaos.controller import Controller, controller
from psycopg import sql
from support.fleet import SmallFleet, find_free_block

import local.fleet
import local.provision
from infra.plan import Plan
from local.fleet import dead_processes
from local.processes import Home, supervise
from shared.domain.contracts import TableContract
from shared.errors import ConfigurationError

INJECTION = Path(__file__).parent / "injection"

#: What an attempt wrote and nobody recorded is removed after so long.
STRAY_AFTER_SECONDS = 25

ROW_COUNT = 60
LARGE_ROW_COUNT = 18_000

SCHEMA = f"""
CREATE TABLE small (
    id integer PRIMARY KEY, name text, email text, amount numeric(12,2), changed_at timestamptz NOT NULL
);
INSERT INTO small
SELECT i, CASE i % 7 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'name ' || i END, 'person' || i || '@example.org',
       i * 1.25, timestamptz '2026-01-01 00:00:00.000001+00' + i * interval '1 second'
FROM generate_series(1, {ROW_COUNT}) AS i;
CREATE TABLE bad (
    id integer PRIMARY KEY, name date, email text, amount numeric(12,2), changed_at timestamptz NOT NULL
);
INSERT INTO bad SELECT id, 'infinity', email, amount, changed_at FROM small;
"""

#: Enough that CSV and Parquet both leave in parts: hexadecimal digits that no compression halves.
LARGE_SCHEMA = f"""
CREATE TABLE large AS
SELECT i AS id, (SELECT string_agg(md5(i::text || '.' || j::text), '') FROM generate_series(1, 32) AS j) AS name,
       'person' || i || '@example.org' AS email, (i * 1.25)::numeric(12,2) AS amount,
       timestamptz '2026-01-01 00:00:00.000001+00' + i * interval '1 second' AS changed_at
FROM generate_series(1, {LARGE_ROW_COUNT}) AS i;
ALTER TABLE large ALTER COLUMN changed_at SET NOT NULL, ADD PRIMARY KEY (id);
"""

#: The tables of a source file: every trial loads one of them under a name of its own.
PROFILES = {
    "append": ("small", "{column: changed_at, lag: 0s, overlap: 0s}", "append"),
    "merge": ("small", "{column: changed_at, lag: 0s, overlap: 0s}", "merge"),
    "replace": ("small", "none", "replace"),
    # Every row of it is refused.
    "held": ("bad", "{column: changed_at, lag: 0s, overlap: 0s}", "append"),
    "large": ("large", "{column: changed_at, lag: 0s, overlap: 0s}", "merge"),
}


def source_file(name: str, tables: dict[str, str]) -> str:
    """Return a source file; `tables` gives each table its profile."""
    lines = [
        f"name: {name}",
        "kind: postgres",
        f"connection: {{dsn: 'secretsmanager:esclusa/{name}#dsn'}}",
        "mask_key: secretsmanager:esclusa/mask#k1",
        "mask_key_id: k1",
        "schedule: {every: 1h, max_window: 1h, catch_up_limit: 24}",
        "tables:",
    ]
    for table, profile in tables.items():
        relation, cursor, mode = PROFILES[profile]
        kind = "date" if relation == "bad" else "text"
        lines += [
            f"  {table}:",
            f"    relation: public.{relation}",
            "    columns:",
            "      id: {source_type: integer, type: int32, nullable: false, mask: keep}",
            f"      name: {{source_type: {kind}, type: {kind if kind == 'date' else 'string'}, mask: keep}}",
            "      email: {source_type: text, type: string, mask: {hmac: {domain: email}}}",
            '      amount: {source_type: "numeric(12,2)", type: "decimal(12,2)", mask: keep}',
            "      changed_at: {source_type: timestamp with time zone, type: timestamptz, nullable: false, mask: keep}",
            "    key: [id]",
            f"    cursor: {cursor}",
            f"    publish: {{mode: {mode}, target: both}}",
        ]
    return "\n".join(lines) + "\n"


@dataclass(slots=True)
class ChaosFleet:
    """A small fleet whose every side effect asks a controller."""

    small: SmallFleet
    controller: Controller
    sources: tuple[str, ...]
    reader: "Reader"
    #: How often each worker was started anew.
    restarts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _dsns: dict[str, str] = field(default_factory=dict)
    _contracts: dict[tuple[str, str], TableContract] = field(default_factory=dict)

    def contract(self, source: str, profile: str, *, table: str) -> TableContract:
        """Return the contract of a table that is loaded like a profile and named anew."""
        if (source, profile) not in self._contracts:
            self._contracts[source, profile] = self.small.contract(profile, source=source)
        return replace(self._contracts[source, profile], table=table)

    def source_rows(self, source: str, profile: str) -> list[tuple[Any, ...]]:
        """Return what a table should hold, without the masked column."""
        with psycopg.connect(self._dsns[source]) as connection:
            return _rows(connection, sql.Identifier("public", PROFILES[profile][0]))

    def warehouse_rows(self, source: str, table: str) -> list[tuple[Any, ...]]:
        """Return what analysts see in a table."""
        with psycopg.connect(self.small.stack.warehouse_dsn) as connection:
            return _rows(connection, sql.Identifier(source, table))


def _rows(connection: psycopg.Connection, table: sql.Composable) -> list[tuple[Any, ...]]:
    connection.execute("SET timezone = 'UTC'")
    query = sql.SQL("SELECT id, name, amount::text, changed_at::text FROM {} ORDER BY id, changed_at").format(
        table
    )
    return connection.execute(query).fetchall()


class Reader(threading.Thread):
    """Asks the warehouse all the time, and notes every table in which it saw a part of a batch."""

    def __init__(self, dsn: str) -> None:
        super().__init__(name="chaos-reader", daemon=True)
        self._dsn = dsn
        self._stopped = threading.Event()
        self._seen: dict[str, str] = {}
        self.poll_count = 0

    def partial(self, source: str, table: str) -> str | None:
        """Return what was seen of a part of a batch; None if none was."""
        return self._seen.get(f"{source}.{table}")

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=30)

    def run(self) -> None:
        while not self._stopped.wait(0.15):
            with suppress(psycopg.Error):
                self._poll()

    def _poll(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stopped.wait(0.15):
                self._look(connection)
                self.poll_count += 1

    def _look(self, connection: psycopg.Connection) -> None:
        # Recent tables only: the others are at rest.
        found = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE n.nspname ~ '^chaos_[0-9]+__base$' AND c.relkind = 'r' ORDER BY c.oid DESC LIMIT 20"
        ).fetchall()
        counts = [
            sql.SQL("SELECT {name}, _esclusa_batch_id, count(*) FROM {table} GROUP BY 2").format(
                name=f"{schema.removesuffix('__base')}.{table}", table=sql.Identifier(schema, table)
            )
            for schema, table in found
        ]
        if not counts:
            return
        for name, batch, row_count in connection.execute(sql.SQL(" UNION ALL ").join(counts)).fetchall():
            if row_count not in {ROW_COUNT, LARGE_ROW_COUNT}:
                self._seen[name] = f"{row_count} rows of batch {batch}"


class Guardian(threading.Thread):
    """Starts workers anew that died, as an orchestrator of containers does."""

    def __init__(self, fleet: ChaosFleet) -> None:
        super().__init__(name="chaos-guardian", daemon=True)
        self._fleet = fleet
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=30)

    def run(self) -> None:
        small = self._fleet.small
        while not self._stopped.wait(0.5):
            if not (dead := dead_processes(small.home)):
                continue
            with suppress(ConfigurationError), supervise(small.home, purpose="restart") as supervisor:
                for spec in local.fleet.worker_processes(small.environment):
                    if spec.name in dead and supervisor.start(spec):
                        self._fleet.restarts[spec.name] += 1


@contextmanager
def chaos_fleet(
    *, source_count: int, concurrency: int = 3, with_large_tables: bool = True
) -> Iterator[ChaosFleet]:
    """Bring up a fleet under a controller, with a source for each trial that runs at a time."""
    directory = Path(mkdtemp(prefix="esclusa-chaos-"))
    directory.chmod(0o711)
    names = tuple(f"chaos_{index}" for index in range(source_count))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        control = stack.enter_context(controller())
        path = os.pathsep.join(filter(None, [str(INJECTION), os.environ.get("PYTHONPATH", "")]))
        stack.enter_context(
            mock.patch.dict(os.environ, {"PYTHONPATH": path, "CHAOS_CONTROLLER": control.address})
        )
        _with_short_times(stack, concurrency=concurrency)
        sources = directory / "sources"
        sources.mkdir()
        for name in names:
            (sources / f"{name}.yaml").write_text(
                source_file(name, {profile: profile for profile in PROFILES})
            )
        small = SmallFleet(Home(directory / "home"), find_free_block(), sources)
        stack.callback(small.down)
        small.up()
        reader = Reader(small.stack.warehouse_dsn)
        fleet = ChaosFleet(small, control, names, reader)
        schema = SCHEMA + (LARGE_SCHEMA if with_large_tables else "")
        for name in names:
            fleet._dsns[name] = stack.enter_context(small.own_source(name, schema))
        stack.enter_context(small.environment_set())
        guardian = Guardian(fleet)
        guardian.start()
        stack.callback(guardian.stop)
        reader.start()
        stack.callback(reader.stop)
        yield fleet


def _with_short_times(stack: ExitStack, *, concurrency: int) -> None:
    """Give the fleet times in which a trial heals while one waits, and enough tasks at once that none waits long."""
    plain_plan, plain_processes = local.provision.local_plan, local.fleet.worker_processes

    def plan(**options: Any) -> Plan:
        made = plain_plan(**options)
        swept = {
            f"ESCLUSA_SWEEP_{what}_AFTER_SECONDS": str(STRAY_AFTER_SECONDS)
            for what in ("STRAY", "UPLOAD", "FOREIGN")
        }
        environment = {**dict(made.environment), **swept}
        # A machine that is busy with much else takes long over a sweep.
        return replace(
            made, function_timeout_seconds=60, max_concurrency=4, environment=tuple(environment.items())
        )

    def processes(environment: dict[str, str]) -> Sequence[Any]:
        times = {"ESCLUSA_VISIBILITY_TIMEOUT_SECONDS": "8", "ESCLUSA_RECEIVE_TIMEOUT_SECONDS": "6"}
        return [
            replace(spec, environment={**spec.environment, **times, "ESCLUSA_CONCURRENCY": str(concurrency)})
            for spec in plain_processes(environment)
        ]

    stack.enter_context(mock.patch.object(local.provision, "local_plan", plan))
    stack.enter_context(mock.patch.object(local.fleet, "worker_processes", processes))
