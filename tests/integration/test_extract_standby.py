"""A standby that has to replay breaks a reading off: nothing of it counts, and read again it is whole."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support.extraction import WINDOW, column, make_contract, run_extract

from local.ports import find_free_port
from local.postgres import EmbeddedPostgres, unprivileged_user
from local.processes import ProcessSpec, primary_group
from services.extractor.readers import ReadLimits, open_reader
from shared.errors import SourceConflict
from shared.secrets.memory import MemorySecrets

ROW_COUNT = 10_000
CONTRACT = make_contract([column("id", "int32"), column("name")])

#: A query that is at work, not one whose answer fills a buffer: PostgreSQL cancels none that waits for its client.
SLOW_VIEW = """
ALTER TABLE customers RENAME TO all_customers;
CREATE VIEW customers AS SELECT * FROM all_customers WHERE id > 100 OR pg_sleep(0.1) IS NOT NULL;
"""
QUICK_VIEW = "CREATE OR REPLACE VIEW customers AS SELECT * FROM all_customers;"


class Standby(EmbeddedPostgres):
    """A hot standby that never waits for those who read from it."""

    def __init__(self, directory: Path, port: int, *, primary: EmbeddedPostgres) -> None:
        super().__init__(directory, port, durable=False)
        self._primary = primary

    def dsn(self, database: str, *, role: str = "postgres") -> str:
        """Roles and passwords are the primary's."""
        return make_conninfo(self._primary.dsn(database, role=role), port=self.port)

    def process(self) -> ProcessSpec:
        spec = super().process()
        return replace(spec, command=[*spec.command, "-c", "max_standby_streaming_delay=0"])

    def _initialise(self) -> None:
        user = unprivileged_user()
        parts = conninfo_to_dict(self._primary.dsn("postgres"))
        target = self.data_directory
        target.parent.mkdir(exist_ok=True)
        subprocess.run(
            [
                *(str(self._binary("pg_basebackup")), "-D", str(target), "-R", "-X", "stream", "-c", "fast"),
                *("-h", str(parts["host"]), "-p", str(parts["port"]), "-U", str(parts["user"]), "--no-sync"),
            ],
            user=user,
            group=primary_group(user) if user else None,
            extra_groups=[] if user else None,
            cwd=target.parent,
            env={"PGPASSWORD": str(parts["password"]), "PATH": os.environ["PATH"]},
            check=True,
            timeout=120,
        )


@pytest.fixture
def standby(postgres_server: EmbeddedPostgres, server_directory: Path) -> Iterator[Standby]:
    with Standby(server_directory / "standby", find_free_port(), primary=postgres_server) as server:
        yield server


def wait_until_replayed(standby: Standby, primary_dsn: str) -> None:
    with psycopg.connect(primary_dsn) as primary, psycopg.connect(standby.dsn("postgres")) as replica:
        # Inserted, not written: a commit of this server does not wait for its log.
        (written,) = primary.execute("SELECT pg_current_wal_insert_lsn()").fetchone() or ("",)
        deadline = time.monotonic() + 60
        while True:
            found = replica.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [written]).fetchone()
            replica.rollback()
            if found == (True,):
                return
            assert time.monotonic() < deadline, "the standby does not follow"
            time.sleep(0.05)


def test_what_a_standby_cancels_is_a_conflict_and_read_again_it_is_whole(
    fresh_database: str, standby: Standby
) -> None:
    name = str(conninfo_to_dict(fresh_database)["dbname"])
    change(
        fresh_database,
        f"CREATE TABLE customers AS SELECT i AS id, 'x' AS name FROM generate_series(1, {ROW_COUNT}) i",
        SLOW_VIEW,
    )
    wait_until_replayed(standby, fresh_database)
    secrets = MemorySecrets({"env:SHOP_DSN": standby.dsn(name)})
    removal = ["DELETE FROM all_customers WHERE id % 2 = 0", "VACUUM all_customers"]

    with (
        open_reader(CONTRACT, secrets=secrets, limits=ReadLimits()) as reader,
        reader.open_snapshot(WINDOW) as snapshot,
        once_it_reads(standby, lambda: change(fresh_database, *removal)),
        pytest.raises(SourceConflict, match="conflict with recovery"),
    ):
        list(snapshot.read())
    change(fresh_database, QUICK_VIEW)
    wait_until_replayed(standby, fresh_database)
    result, _ = run_extract(CONTRACT, secrets={"env:SHOP_DSN": standby.dsn(name)})

    assert result.counts["rows_read"] == ROW_COUNT // 2


def change(dsn: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


@contextmanager
def once_it_reads(standby: Standby, act: Callable[[], None]) -> Iterator[None]:
    """Do something as soon as a query on the standby sleeps, while the block runs."""

    def wait_and_act() -> None:
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        deadline = time.monotonic() + 60
        with psycopg.connect(standby.dsn("postgres"), autocommit=True) as replica:
            while replica.execute(asleep).fetchone() == (0,):
                assert time.monotonic() < deadline, "nobody reads"
                time.sleep(0.02)
        act()

    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(wait_and_act)
        yield
        acting.result()
