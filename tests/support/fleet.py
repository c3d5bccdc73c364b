"""A whole small fleet for tests: the embedded stack, real workers, real Lambdas, and ways to look into and break it."""

import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import boto3
import psutil
import psycopg
from botocore.config import Config

from infra.names import function_name
from local import fleet as local_fleet
from local.ports import PortBlock, require_free_port
from local.postgres import DatabaseSpec, EmbeddedPostgres, find_postgres_processes
from local.processes import Home, find_supervised, living_processes
from local.proof import Comparison, compare
from local.shop import ShopSize
from local.stack import Stack
from services.extractor.enqueue import EnqueuedSource, enqueue
from shared.catalog import Source, load_sources
from shared.domain.batches import STATES_AT_REST, Batch, BatchEvent, BatchState
from shared.domain.contracts import TableContract
from shared.domain.files import Area, DataFile, Location
from shared.errors import ConfigurationError, Unavailable
from shared.fleet import Fleet
from shared.lifecycle import GATE_QUEUES, replay
from shared.planning import register_contract, retire_source
from shared.settings import FleetSettings

SMALL_SHOP = ShopSize(customers=300, products=30, orders=2000)

#: A task that died is done again after so long.
CLAIM_LEASE = timedelta(seconds=6)

#: The most that anything awaited may take. Generous: the machine may be busy with other tests.
PATIENCE_SECONDS = 150.0

#: More often than that nobody has to plan until what was there at a moment is planned.
MOST_PLANNINGS = 40

OPEN_STATES = frozenset(BatchState) - STATES_AT_REST

Found = TypeVar("Found")


def until(
    look: Callable[[], Found | None],
    *,
    what: str,
    within_seconds: float = PATIENCE_SECONDS,
    pause: float = 0.1,
) -> Found:
    """
    Look again and again until something true is seen, and return it.

    Raises:
        TimeoutError: if it does not come in time.
    """
    deadline = time.monotonic() + within_seconds
    while True:
        with suppress(Unavailable, psycopg.OperationalError):
            if found := look():
                return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within_seconds:.0f} seconds for {what}")
        time.sleep(pause)


SAMPLE_SOURCES = Path(__file__).parents[2] / "sources"
SAMPLES = ("shop.yaml", "crm.yaml")


@contextmanager
def sample_sources(directory: Path, *, every: str) -> Iterator[Path]:
    """Copy the sample sources into a new directory, with windows that are short, so that tests are."""
    directory.mkdir()
    for name in SAMPLES:
        text = (SAMPLE_SOURCES / name).read_text()
        assert "every: 10s" in text
        (directory / name).write_text(
            text.replace("every: 10s", f"every: {every}").replace("lag: 2s", "lag: 1s")
        )
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def find_free_block() -> PortBlock:
    """
    Return three consecutive ports that are free at this instant.

    Below those that systems give to clients (Linux from 32768 on): of these, one is taken before a server listens.
    """
    while True:
        block = PortBlock(random.randrange(20_000, 32_000, 3))
        with suppress(ConfigurationError):
            for port in (block.aws, block.postgres, block.crm):
                require_free_port(port, purpose="a test")
            return block


@dataclass(slots=True)
class SmallFleet:
    """One fleet in a directory of its own."""

    home: Home
    ports: PortBlock
    #: The source files; a test may write more into it and call `up` again.
    sources: Path
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    _stack: Stack | None = field(default=None, repr=False)
    _fleet: Fleet | None = field(default=None, repr=False)

    # ---- its life ------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Start what does not run and provision what the sources need."""
        running = local_fleet.up(
            self.home, self.sources, ports=self.ports, shop_size=SMALL_SHOP, claim_lease=CLAIM_LEASE
        )
        self.environment, self._stack = running.environment, running.stack
        if self._fleet is None:
            with self.environment_set():
                self._fleet = Fleet.connect(FleetSettings())

    def repair(self) -> None:
        """Bring back what was killed; cheap if nothing was."""
        if local_fleet.dead_processes(self.home):
            self.up()

    def down(self) -> None:
        """End every process by its pid, and delete the data."""
        local_fleet.down(self.home, ports=self.ports)
        EmbeddedPostgres(self.home.path, self.ports.postgres).delete()

    def ends_of_logs(self, *, line_count: int = 25) -> str:
        """Return the last lines of each process's log."""
        parts = []
        for log in sorted((self.home.path / "logs").glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-line_count:]
            parts.append("\n".join([f"---- {log.name}", *(line[:600] for line in lines)]))
        return "\n".join(parts)

    @contextmanager
    def environment_set(self) -> Iterator[None]:
        """Reach this fleet's AWS server, and nothing else, with every client made in the block."""
        before = dict(os.environ)
        for name in [name for name in os.environ if name.startswith(("AWS_", "ESCLUSA_"))]:
            del os.environ[name]
        os.environ.update(self.environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    # ---- what it consists of -------------------------------------------------------------------------------

    @property
    def stack(self) -> Stack:
        assert self._stack is not None
        return self._stack

    @property
    def fleet(self) -> Fleet:
        assert self._fleet is not None
        return self._fleet

    def client(self, service: str) -> Any:
        """Return a client of the fleet's AWS server."""
        with self.environment_set():
            return boto3.session.Session().client(
                service,  # type: ignore[call-overload]
                region_name=self.environment["AWS_REGION"],
                config=Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 3}),
            )

    def catalog_sources(self) -> tuple[Source, ...]:
        return load_sources(self.sources).sources

    def contract(self, table: str, *, source: str = "shop") -> TableContract:
        """Return the contract of a table as its file has it now."""
        contracts = load_sources(self.sources).source(source).contracts()
        return next(contract for contract in contracts if contract.table == table)

    def bucket(self, source: str = "shop") -> str:
        return self.fleet.settings.bucket(source)

    def put_secret(self, name: str, value: Mapping[str, str]) -> None:
        """Put a secret where references such as `secretsmanager:NAME#FIELD` lead."""
        client, text = self.client("secretsmanager"), json.dumps(value)
        try:
            client.create_secret(Name=name, SecretString=text)
        except client.exceptions.ResourceExistsException:
            client.put_secret_value(SecretId=name, SecretString=text)

    @contextmanager
    def own_source(self, name: str, schema: str) -> Iterator[str]:
        """
        Make a database that the fleet does not know, and give its owner's DSN; `secretsmanager:esclusa/NAME#dsn` leads there.

        The source file that a test writes with `write_source` is gone after the block.
        """
        postgres = EmbeddedPostgres(self.home.path, self.ports.postgres)
        database = DatabaseSpec(name, owner=f"{name}_owner")
        postgres.create_database(database)
        dsn = postgres.dsn(name, role=database.owner)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(schema)  # type: ignore[call-overload]
        self.put_secret(f"esclusa/{name}", {"dsn": dsn})
        try:
            yield dsn
        finally:
            (self.sources / f"{name}.yaml").unlink(missing_ok=True)

    def write_source(self, name: str, text: str) -> None:
        """Write a source file beside the others."""
        (self.sources / f"{name}.yaml").write_text(text, encoding="utf-8")

    def back_to_samples(self) -> None:
        """Bring back what was killed, and expect nothing of sources that a test added."""
        for file in self.sources.glob("*.yaml"):
            if file.name not in SAMPLES:
                file.unlink()
        self.repair()
        with self.fleet.ledger.transaction() as tx:
            expected = {item.source for item in tx.expectations()}
        for source in expected - {Path(name).stem for name in SAMPLES}:
            retire_source(source, ledger=self.fleet.ledger)

    # ---- moving rows ---------------------------------------------------------------------------------------

    def enqueue(self, *names: str) -> list[EnqueuedSource]:
        """Plan and send what is due, of all sources or of those named."""
        chosen = [source for source in self.catalog_sources() if not names or source.name in names]
        return enqueue(chosen, fleet=self.fleet)

    def move_everything(self, *names: str) -> None:
        """
        Plan until everything that is in the sources now is planned, and wait until all of it is at rest.

        What dies meanwhile stays dead: a test that kills says when the fleet is repaired.
        """
        moment = datetime.now(UTC)
        contracts = [
            contract
            for source in self.catalog_sources()
            if not names or source.name in names
            for contract in source.contracts()
        ]

        def not_planned() -> list[str]:
            with self.fleet.ledger.transaction() as tx:
                marks = [(f"{c.source}.{c.table}", tx.watermark(c.source, c.table)) for c in contracts]
            return [f"{table} until {mark}" for table, mark in marks if mark is None or mark <= moment]

        slowest = max(c.schedule.every + (c.cursor.lag if c.cursor else timedelta(0)) for c in contracts)
        time.sleep(slowest.total_seconds())
        for _ in range(MOST_PLANNINGS):
            # A snapshot is planned only when none is on its way. How long that takes is no measure of anything:
            # what is on its way has only to move.
            self.wait_until_at_rest()
            with suppress(Unavailable, psycopg.OperationalError):
                self.enqueue(*names)
                if not not_planned():
                    break
            time.sleep(0.5)
        else:
            raise TimeoutError(
                f"planned {MOST_PLANNINGS} times up to {moment}, and still not: {not_planned()}"
            )
        self.wait_until_at_rest()

    def wait_until_at_rest(self) -> None:
        """
        Wait until no batch is on its way, however many there are: as long as some move.

        Raises:
            TimeoutError: if none moved for long; the message tells how many stand where, and names some.
        """
        seen: set[tuple[str, BatchState]] | None = None

        def moved() -> bool:
            nonlocal seen
            before, seen = seen, {(batch.id, batch.state) for batch in self.batches(states=OPEN_STATES)}
            return not seen or seen != before

        while seen is None or seen:
            try:
                until(moved, what="all batches to come to rest")
            except TimeoutError as error:
                raise TimeoutError(f"{error}: {self._open_batches_told()}") from None

    def _open_batches_told(self) -> str:
        batches = self.batches(states=OPEN_STATES)
        first = [f"{b.id} {b.source}.{b.table} {b.state} {b.detail}" for b in batches[:10]]
        return f"{dict(Counter(str(b.state) for b in batches))}, the oldest: {first}"

    def comparisons(self, source: str = "shop") -> dict[str, Comparison]:
        """Compare every table of a source row by row with the warehouse."""
        compared = {}
        for contract in load_sources(self.sources).source(source).contracts():
            with self.fleet.ledger.transaction() as tx:
                planned_until = tx.watermark(contract.source, contract.table)
            assert planned_until is not None, contract.table
            compared[contract.table] = compare(contract, stack=self.stack, planned_until=planned_until)
        return compared

    def assert_all_equal(self, source: str = "shop") -> None:
        """Check that the warehouse holds exactly the rows of a source, and that nothing is held back."""
        held = [
            (batch.table, batch.state, batch.reason, batch.detail)
            for batch in self.batches(source=source)
            if batch.state in {BatchState.QUARANTINED, BatchState.FAILED}
        ]
        different = {table: found for table, found in self.comparisons(source).items() if not found.is_equal}

        assert not held, held
        assert not different, different

    # ---- looking into the ledger ---------------------------------------------------------------------------

    def batches(
        self,
        *,
        source: str | None = None,
        table: str | None = None,
        states: frozenset[BatchState] | None = None,
    ) -> list[Batch]:
        with self.fleet.ledger.transaction() as tx:
            return tx.batches(source=source, table=table, states=states)

    def batch(self, batch_id: str) -> Batch:
        with self.fleet.ledger.transaction() as tx:
            batch = tx.batch(batch_id)
        assert batch is not None, batch_id
        return batch

    def events(self, batch_id: str) -> list[BatchEvent]:
        with self.fleet.ledger.transaction() as tx:
            return tx.events(batch_id)

    def file(self, location: Location) -> DataFile | None:
        with self.fleet.ledger.transaction() as tx:
            return tx.file(location)

    def files(self, batch_id: str | None = None, *, areas: Sequence[Area] | None = None) -> list[DataFile]:
        with self.fleet.ledger.transaction() as tx:
            return tx.files(batch_id=batch_id, areas=areas)

    def wait_for_state(self, batch_id: str, *states: BatchState) -> Batch:
        """Wait until a batch is in one of some states."""

        def look() -> Batch | None:
            batch = self.batch(batch_id)
            return batch if batch.state in states else None

        try:
            return until(look, what=f"batch {batch_id} to be {' or '.join(states)}")
        except TimeoutError as error:
            batch = self.batch(batch_id)
            raise TimeoutError(f"{error}: it is {batch.state}: {batch.reason} {batch.detail}") from None

    def replay(self, batch_id: str) -> Batch | None:
        """Do what an operator does after the cure: replay a batch under the contract of today's file."""
        batch = self.batch(batch_id)
        with self.fleet.ledger.transaction() as tx:
            version = register_contract(tx, self.contract(batch.table, source=batch.source))
            return replay(tx, batch_id, contract=version, detail="cured")

    @contextmanager
    def held_in(self, state: BatchState, *, table: str, source: str = "shop") -> Iterator[str]:
        """
        Enqueue what is due of a source, catch a batch of a table in a state, and hold its row.

        Nothing that is at work on the batch can record it: so an attempt is caught between its work and its
        record, the crash point with the most to lose. Looked out for before it is enqueued: a state lasts
        milliseconds.
        """
        connection = psycopg.connect(self.stack.control_dsn)
        enqueueing = threading.Thread(target=self._enqueue_until_due, args=[source], daemon=True)
        enqueueing.start()
        try:

            def catch() -> str | None:
                found = connection.execute(
                    "SELECT id FROM esclusa.batch WHERE table_name = %s AND state = %s LIMIT 1 FOR UPDATE",
                    [table, state],
                ).fetchone()
                if found is None:
                    connection.rollback()
                return found[0] if found else None

            batch_id = until(catch, what=f"a batch of {table} to be {state}", pause=0.002)
            enqueueing.join(timeout=PATIENCE_SECONDS)
            yield batch_id
        finally:
            # Closed, not rolled back: the server may have been killed meanwhile.
            connection.close()

    def _enqueue_until_due(self, source: str) -> None:
        until(lambda: self.enqueue(source)[0].planned_count >= 3, what="something to be due", pause=0.5)

    def blocked_clients(self) -> list[psutil.Process]:
        """Return the processes whose session with the control database waits for a lock."""
        with psycopg.connect(self.stack.control_dsn) as connection:
            ports = {
                port
                for (port,) in connection.execute(
                    "SELECT client_port FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                )
            }
        found = []
        for process in find_supervised(self.home):
            with suppress(psutil.Error):
                addresses = [link.laddr for link in process.net_connections(kind="tcp") if link.laddr]
                if any(address.port in ports for address in addresses) and process.name() != "postgres":
                    found.append(process)
        return found

    # ---- breaking it ---------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """kill -9 the main process of a part."""
        pid = living_processes(self.home)[name]
        os.kill(pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(pid)], timeout=10)

    def children(self, name: str) -> list[psutil.Process]:
        """Return the child processes of a part."""
        return psutil.Process(living_processes(self.home)[name]).children(recursive=True)

    def everything(self) -> list[psutil.Process]:
        """Return every process of this fleet."""
        data_directory = EmbeddedPostgres(self.home.path, self.ports.postgres).data_directory
        return [*find_supervised(self.home), *find_postgres_processes(data_directory)]

    @contextmanager
    def gates_closed(self) -> Iterator[Callable[[Area], None]]:
        """Stop all gates; the function given opens one, and the end of the block the rest."""
        client = self.client("lambda")
        prefix = self.fleet.settings.bucket_prefix
        mappings = {
            area: mapping["UUID"]
            for area in GATE_QUEUES
            for mapping in client.list_event_source_mappings(
                FunctionName=function_name(prefix, f"gate-{area}")
            )["EventSourceMappings"]
        }
        assert len(mappings) == len(GATE_QUEUES)

        def set_enabled(area: Area, enabled: bool) -> None:
            client.update_event_source_mapping(UUID=mappings[area], Enabled=enabled)

        for area in mappings:
            set_enabled(area, False)
        try:
            yield lambda area: set_enabled(area, True)
        finally:
            for area in mappings:
                set_enabled(area, True)

    # ---- queues --------------------------------------------------------------------------------------------

    def queue_url(self, queue: str, *, dead_letters: bool = False) -> str:
        url = self.fleet.settings.queue_urls[queue]  # type: ignore[index]
        return f"{url}-dlq" if dead_letters else url

    def shop(self, statement: str, parameters: Sequence[object] = ()) -> int:
        """Change the shop as its owner, and return how many rows changed."""
        with psycopg.connect(self.stack.shop_owner_dsn, autocommit=True) as connection:
            return connection.execute(statement, parameters).rowcount  # type: ignore[call-overload, no-any-return]

    def warehouse(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the warehouse."""
        with psycopg.connect(self.stack.warehouse_dsn) as connection:
            return connection.execute(query).fetchall()  # type: ignore[call-overload, no-any-return]
