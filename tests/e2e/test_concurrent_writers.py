"""
Twenty writers at once, that commit late, tie, update and delete, at a PostgreSQL and a MariaDB source: nothing is lost
and nothing is there twice.

`WRITERS_SECONDS=600 make writers` does it for ten minutes.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pymysql
import pytest
from support.databases import MariaDbDatabase
from support.fleet import PATIENCE_SECONDS, SmallFleet, until
from support.mariadb import MariaDbServer
from support.needs import require_odbc_driver

from shared.domain.batches import STATES_AT_REST, BatchState

SECONDS = float(os.environ.get("WRITERS_SECONDS") or 20)
OPEN = frozenset(BatchState) - STATES_AT_REST
WRITER_COUNT = 20
KEYS = 400
#: A transaction stays open no longer, and the source's lag is above it.
LONGEST_TRANSACTION_SECONDS = 3.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * SECONDS + 900)]

SOURCE = """\
name: {name}
{connection}
schedule: {{every: 1s, max_window: 10s}}
tables:
  accounts:
    relation: {schema}.accounts
    key: [id]
    cursor: {{column: changed, lag: 5s, overlap: 2s{timezone}}}
    deletes: {{sweep: {{every: 5s, max_rows: 1000000}}}}
    publish: {{mode: merge, target: native}}
    columns:
      id: {{source_type: "{integer}", type: int32, nullable: false, mask: keep}}
      value: {{source_type: "{bigint}", type: int64, nullable: false, mask: keep}}
      changed: {{source_type: "{moment}", type: {moment_type}, nullable: false, mask: keep}}
"""


#: A deadlock, a wait that was too long, a key that another one was quicker to insert.
COLLISIONS = (
    psycopg.errors.OperationalError,
    psycopg.errors.IntegrityError,
    pymysql.err.OperationalError,
    pymysql.err.IntegrityError,
)


@dataclass
class Writers:
    """Threads that write like an application: each statement is told with the mark `%s` for values."""

    connect: Callable[[], Any]
    #: The moment at which a transaction began, of which several may be equal.
    now: str
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _failures: list[BaseException] = field(default_factory=list)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._guarded, args=(number,)) for number in range(WRITER_COUNT)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(60)
        assert self._failures == []

    def _guarded(self, number: int) -> None:
        dice = random.Random(self.seed * 1000 + number)
        while not self._stop.is_set():
            try:
                with closing(self.connect()) as connection:
                    while not self._stop.wait(dice.uniform(0.02, 0.3)):
                        self._write(connection, dice)
            except COLLISIONS:
                # Two writers in each other's way: the application tries again.
                self.done["collisions"] += 1
            except BaseException as error:
                self._failures.append(error)
                raise

    def _write(self, connection: Any, dice: random.Random) -> None:
        with connection.cursor() as cursor:
            # The moment is that of the beginning, as now() is in PostgreSQL; some round it, so that many tie.
            cursor.execute(f"SELECT {self.now}")
            ((moment,),) = cursor.fetchall()
            if dice.random() < 0.3:
                moment = moment.replace(microsecond=0)
            for _ in range(dice.randint(1, 4)):
                self._change(cursor, dice, moment)
            if dice.random() < 0.1:
                self.done["late commits"] += 1
                time.sleep(dice.uniform(0.5, LONGEST_TRANSACTION_SECONDS - 1))
        if dice.random() < 0.05:
            connection.rollback()
            self.done["rollbacks"] += 1
        else:
            connection.commit()

    def _change(self, cursor: Any, dice: random.Random, moment: Any) -> None:
        key, value = dice.randrange(KEYS), dice.getrandbits(62)
        kind = dice.choices(["upsert", "update", "delete"], [4, 4, 2])[0]
        self.done[kind] += 1
        if kind == "delete":
            cursor.execute("DELETE FROM accounts WHERE id = %s", (key,))
            return
        cursor.execute("UPDATE accounts SET value = %s, changed = %s WHERE id = %s", (value, moment, key))
        if kind == "upsert" and cursor.rowcount == 0:
            cursor.execute(
                "INSERT INTO accounts (id, value, changed) SELECT %s, %s, %s WHERE NOT EXISTS "
                "(SELECT 1 FROM accounts WHERE id = %s)",
                (key, value, moment, key),
            )


def test_postgresql_loses_and_doubles_nothing(fleet: SmallFleet) -> None:
    table = (
        "CREATE TABLE accounts (id integer PRIMARY KEY, value bigint NOT NULL, changed timestamptz NOT NULL)"
    )
    with fleet.own_source("ledgers", table) as dsn:
        fleet.write_source(
            "ledgers",
            SOURCE.format(
                name="ledgers",
                connection="kind: postgres\nconnection: {dsn: 'secretsmanager:esclusa/ledgers#dsn'}",
                schema="public",
                timezone="",
                integer="integer",
                bigint="bigint",
                moment="timestamp with time zone",
                moment_type="timestamptz",
            ),
        )
        writers = Writers(lambda: _patient(psycopg.connect(dsn)), "now()", seed=_seed())

        lead(fleet, "ledgers", writers)

        with psycopg.connect(dsn) as connection:
            there = connection.execute("SELECT id, value, changed FROM accounts ORDER BY id").fetchall()
        assert fleet.warehouse("SELECT id, value, changed FROM ledgers.accounts ORDER BY id") == there


def test_mariadb_over_odbc_loses_and_doubles_nothing(
    fleet: SmallFleet, mariadb_server: MariaDbServer, fresh_mariadb_database: str
) -> None:
    require_odbc_driver("MariaDB Unicode")
    database = MariaDbDatabase(mariadb_server, fresh_mariadb_database)
    database.run(
        "CREATE TABLE accounts (id int PRIMARY KEY, value bigint NOT NULL, changed datetime(6) NOT NULL, "
        "INDEX (changed))"
    )
    fleet.put_secret("esclusa/books", {"odbc": database.connection_string()})
    fleet.write_source(
        "books",
        SOURCE.format(
            name="books",
            connection="kind: odbc\ndialect: mysql\n"
            "connection: {connection_string: 'secretsmanager:esclusa/books#odbc'}",
            schema=database.schema,
            timezone=", timezone: UTC",
            integer="int(11)",
            bigint="bigint(20)",
            moment="datetime(6)",
            moment_type="timestamp",
        ),
    )

    def connect() -> Any:
        connection = mariadb_server.connect(database=database.schema)
        connection.autocommit(False)
        with connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00', innodb_lock_wait_timeout = 5")
        connection.commit()
        return connection

    lead(fleet, "books", Writers(connect, "utc_timestamp(6)", seed=_seed()))

    there = list(
        mariadb_server.rows("SELECT id, value, changed FROM accounts ORDER BY id", database=database.schema)
    )
    assert fleet.warehouse("SELECT id, value, changed FROM books.accounts ORDER BY id") == there


def lead(fleet: SmallFleet, source: str, writers: Writers) -> None:
    """Let the writers write while the fleet reads, and then let it read what is left, the deletes too."""
    fleet.up()
    deadline = time.monotonic() + SECONDS
    with writers.at_work():
        while time.monotonic() < deadline:
            fleet.enqueue(source)
            time.sleep(1)
            # Not a promise: a machine that has much else to do may take as long as the whole test.
            until(
                lambda: len(fleet.batches(source=source, states=OPEN)) < 50,
                what="the fleet to keep up",
                within_seconds=SECONDS + PATIENCE_SECONDS,
            )
    fleet.move_everything(source)
    swept = time.monotonic()
    until(
        lambda: (fleet.enqueue(source), time.monotonic() - swept > 12)[1],
        what="another key sweep",
        pause=1,
    )
    fleet.wait_until_at_rest()
    held = fleet.batches(source=source, states=frozenset({BatchState.QUARANTINED, BatchState.FAILED}))
    assert [(batch.slot, batch.reason, batch.detail) for batch in held] == []
    print(f"{source}: {dict(sorted(writers.done.items()))}, {len(fleet.batches(source=source))} batches")


def _patient(connection: psycopg.Connection) -> psycopg.Connection:
    connection.execute("SET lock_timeout = '5s'")
    connection.commit()
    return connection


def _seed() -> int:
    seed = int(os.environ.get("WRITERS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"WRITERS_SEED={seed}")
    return seed
