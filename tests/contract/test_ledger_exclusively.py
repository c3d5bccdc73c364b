"""A named lock in the ledger: one holder, gone with whoever held it, however that came about."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import psycopg
import pytest
from support.ledger_rows import a_batch, add_batch
from support.ledgers import postgres_ledger

from local.processes import SOURCE_ROOT
from shared.errors import Unavailable
from shared.ledger.connection import Database
from shared.ledger.postgres import PostgresLedger
from shared.ports import Ledger

HOLDER = """
import sys
from shared.ledger.postgres import PostgresLedger
with PostgresLedger(sys.argv[1]).exclusively("sweep") as is_held:
    print(is_held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def of_one_process(dsn: str) -> Iterator[PostgresLedger]:
    with postgres_ledger(dsn) as ledger:
        yield ledger


@pytest.fixture
def of_another_process(dsn: str) -> Iterator[PostgresLedger]:
    with postgres_ledger(dsn) as ledger:
        yield ledger


def is_free(ledger: Ledger, name: str = "sweep") -> bool:
    with ledger.exclusively(name) as is_held:
        return is_held


# ---- both ledgers ------------------------------------------------------------------------------------------------


def test_one_holds_a_name_and_others_hear_at_once_that_they_do_not(ledger: Ledger) -> None:
    with ledger.exclusively("sweep") as is_held:
        others = [is_free(ledger), is_free(ledger)]

    assert (is_held, others) == (True, [False, False])
    assert is_free(ledger)


def test_of_two_threads_one_holds_it(ledger: Ledger) -> None:
    answers: list[bool] = []
    with ledger.exclusively("sweep"):
        thread = threading.Thread(target=lambda: answers.append(is_free(ledger)))
        thread.start()
        thread.join(10)

    assert answers == [False]


def test_who_did_not_get_it_gives_nothing_back_that_is_not_his(ledger: Ledger) -> None:
    with ledger.exclusively("sweep"):
        assert not is_free(ledger)

        assert not is_free(ledger)


def test_another_name_is_another_lock(ledger: Ledger) -> None:
    with ledger.exclusively("sweep"):
        assert is_free(ledger, "sweep-deep")


def test_it_is_given_back_when_the_block_raises(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.exclusively("sweep"):
        raise ZeroDivisionError

    assert is_free(ledger)


def test_the_ledger_can_be_read_and_written_within(ledger: Ledger) -> None:
    with ledger.exclusively("sweep"), ledger.transaction() as tx:
        add_batch(tx, a_batch())

    with ledger.transaction() as tx:
        assert tx.batch(a_batch().id)


def test_what_was_written_within_stays_when_the_block_raises(ledger: Ledger) -> None:
    def write_and_raise() -> None:
        with ledger.transaction() as tx:
            add_batch(tx, a_batch())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), ledger.exclusively("sweep"):
        write_and_raise()

    with ledger.transaction() as tx:
        assert tx.batch(a_batch().id)


# ---- between processes -------------------------------------------------------------------------------------------


def test_of_two_processes_one_holds_it(
    of_one_process: PostgresLedger, of_another_process: PostgresLedger
) -> None:
    with of_one_process.exclusively("sweep"):
        assert not is_free(of_another_process)

    assert is_free(of_another_process)


def test_it_goes_with_a_holder_that_is_killed(dsn: str, of_one_process: PostgresLedger) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, dsn],
        cwd=SOURCE_ROOT,
        env={"PYTHONPATH": str(SOURCE_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert not is_free(of_one_process)
    finally:
        psutil.Process(holder.pid).kill()
        holder.wait(10)

    _wait_until_free(of_one_process)


def test_a_holder_whose_connection_broke_is_told_at_the_end(
    dsn: str, of_one_process: PostgresLedger, of_another_process: PostgresLedger
) -> None:
    lock = of_one_process.exclusively("sweep")
    assert lock.__enter__()
    _end_sessions(dsn)
    _wait_until_free(of_another_process)

    with pytest.raises(Unavailable):
        lock.__exit__(None, None, None)
    assert is_free(of_one_process)


def test_it_is_held_longer_than_a_transaction_may_be_idle(
    dsn: str, of_another_process: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.ledger.connection.IDLE_IN_TRANSACTION_SECONDS", 1)
    with postgres_ledger(dsn) as impatient, impatient.exclusively("sweep"):
        time.sleep(2.5)

        assert not is_free(of_another_process)


def test_the_server_notices_within_a_minute_that_the_machine_of_a_holder_is_gone(dsn: str) -> None:
    database = Database(dsn, statement_timeout_seconds=30, connect_timeout_seconds=5)
    with database.transaction() as connection:
        idle, interval, count = (
            int(connection.exec_driver_sql(f"SHOW tcp_keepalives_{name}").scalar_one())
            for name in ("idle", "interval", "count")
        )
    database.close()

    assert 0 < idle + interval * count <= 60


def test_that_it_is_held_long_keeps_no_vacuum_from_anything(dsn: str, of_one_process: PostgresLedger) -> None:
    with of_one_process.exclusively("sweep"), psycopg.connect(dsn) as connection:
        held = connection.execute(
            "SELECT backend_xid, backend_xmin FROM pg_stat_activity"
            " WHERE state = 'idle in transaction' AND datname = current_database()"
        ).fetchall()

    assert held == [(None, None)]


def test_a_ledger_that_is_away_is_unavailable() -> None:
    away = PostgresLedger("postgresql://nobody@127.0.0.1:1/none")

    with pytest.raises(Unavailable), away.exclusively("sweep"):
        pass


def _wait_until_free(ledger: Ledger) -> None:
    deadline = time.monotonic() + 20
    while not is_free(ledger):
        assert time.monotonic() < deadline, "the lock of a dead holder is still there"
        time.sleep(0.05)


def _end_sessions(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
        )
