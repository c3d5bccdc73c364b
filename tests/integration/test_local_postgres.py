"""What the embedded PostgreSQL promises: it starts again whatever was killed, and each role can do its part only."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from local.passwords import password_file
from local.ports import LOOPBACK, find_free_port
from local.postgres import (
    PROCESS_NAME,
    SHOP_DATABASE,
    SHOP_READER,
    DatabaseSpec,
    EmbeddedPostgres,
    find_postgres_processes,
)
from local.processes import living_processes
from shared.errors import ConfigurationError


@pytest.fixture
def server(server_directory: Path) -> Iterator[EmbeddedPostgres]:
    """A server of this test's own, with the settings that users get."""
    server = EmbeddedPostgres(server_directory / f"postgres-{time.monotonic_ns()}", find_free_port())
    yield server
    server.stop()
    server.delete()


def count_rows(server: EmbeddedPostgres) -> int:
    with psycopg.connect(server.dsn("postgres")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM kept").fetchone() or (None,)
        assert isinstance(count, int)
        return count


def keep_a_row(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.dsn("postgres")) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (moment timestamptz DEFAULT now())")
        connection.execute("INSERT INTO kept DEFAULT VALUES")


def kill_hard(server: EmbeddedPostgres, *, only_the_parent: bool) -> None:
    parent = living_processes(server.home)[PROCESS_NAME]
    victims = find_postgres_processes(server.data_directory)
    for process in victims:
        if process.pid == parent or not only_the_parent:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    psutil.wait_procs([process for process in victims if process.pid == parent], timeout=10)


@pytest.mark.parametrize("only_the_parent", [True, False])
def test_what_was_committed_survives_a_kill(server: EmbeddedPostgres, only_the_parent: bool) -> None:
    server.start()
    keep_a_row(server)

    kill_hard(server, only_the_parent=only_the_parent)
    server.start()

    assert count_rows(server) == 1


def test_it_starts_although_its_old_pid_belongs_to_somebody_else_now(server: EmbeddedPostgres) -> None:
    server.start()
    keep_a_row(server)
    pid_file = server.data_directory / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    kill_hard(server, only_the_parent=False)
    with subprocess.Popen(["sleep", "60"], user="nobody" if os.geteuid() == 0 else None) as stranger:
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")

        server.start()

        assert count_rows(server) == 1
        assert stranger.poll() is None
        stranger.kill()


def test_a_stop_does_not_wait_for_clients_and_leaves_no_process(server: EmbeddedPostgres) -> None:
    server.start()
    client = psycopg.connect(server.dsn("postgres"))
    client.execute("SELECT 1")

    server.stop()

    assert find_postgres_processes(server.data_directory) == []
    assert "database system is shut down" in server.home.log_file(PROCESS_NAME).read_text()
    with pytest.raises(psycopg.OperationalError):
        client.execute("SELECT 1")
    client.close()


def test_a_stop_finds_the_server_although_everything_that_recorded_it_is_lost(
    server: EmbeddedPostgres,
) -> None:
    server.start()
    server.home.state_file.unlink()

    server.stop()

    assert find_postgres_processes(server.data_directory) == []


def test_an_interrupted_first_start_is_made_good(server: EmbeddedPostgres) -> None:
    server.home.prepare()
    server._place_binaries()
    server._place_data()
    (server.data_directory.with_name("draft")).mkdir()
    (server.data_directory.with_name("draft") / "half-made").touch()

    server.start()

    assert server.answers()


def test_it_listens_on_loopback_only_and_as_no_privileged_user(server: EmbeddedPostgres) -> None:
    server.start()

    addresses, users = set(), set()
    for process in find_postgres_processes(server.data_directory):
        with suppress(psutil.NoSuchProcess):  # a background process of the server may end meanwhile
            users.add(process.username())
            addresses |= {
                connection.laddr.ip
                for connection in process.net_connections(kind="tcp")
                if connection.status == psutil.CONN_LISTEN
            }
    assert addresses == {LOOPBACK}
    assert users
    assert "root" not in users


def test_a_taken_port_is_refused_before_anything_starts(server: EmbeddedPostgres) -> None:
    with (
        socket.create_server((LOOPBACK, server.port)),
        pytest.raises(ConfigurationError, match=rf"port {server.port} .*wanted for PostgreSQL, is taken by"),
    ):
        server.start()

    assert living_processes(server.home) == {}


def test_a_wrong_password_opens_nothing(postgres_server: EmbeddedPostgres) -> None:
    right = postgres_server.dsn("postgres")
    password = right.split(":")[2].partition("@")[0]

    for wrong in (right.replace(password, "wrong"), right.replace(f":{password}", "")):
        with pytest.raises(psycopg.OperationalError, match=r"password"):
            psycopg.connect(wrong, connect_timeout=5)


def test_the_passwords_are_for_their_owner_only_and_on_no_command_line(
    postgres_server: EmbeddedPostgres,
) -> None:
    password = postgres_server.dsn("postgres").split(":")[2].partition("@")[0]

    command_lines = [
        " ".join(process.cmdline()) for process in find_postgres_processes(postgres_server.data_directory)
    ]

    assert password_file(postgres_server.home).stat().st_mode & 0o777 == 0o600
    assert not any(password in line for line in command_lines)


def test_the_reader_of_the_shop_reads_every_table_and_changes_none(postgres_server: EmbeddedPostgres) -> None:
    postgres_server.create_database(SHOP_DATABASE)
    with psycopg.connect(postgres_server.dsn("shop", role="shop_owner")) as owner:
        owner.execute("CREATE TABLE made_before (value text)")
    postgres_server.create_reader(SHOP_READER)
    with psycopg.connect(postgres_server.dsn("shop", role="shop_owner")) as owner:
        owner.execute("CREATE TABLE made_later (value text)")
        owner.execute("INSERT INTO made_later VALUES ('seen')")

    with psycopg.connect(postgres_server.dsn("shop", role="shop_reader"), autocommit=True) as reader:
        seen = reader.execute(
            "SELECT value FROM made_later UNION ALL SELECT value FROM made_before"
        ).fetchall()
        refused = []
        for attempt in (
            "SET default_transaction_read_only = off",
            "INSERT INTO made_later VALUES ('x')",
            "INSERT INTO made_before VALUES ('x')",
            "DELETE FROM made_later",
            "DROP TABLE made_later",
            "CREATE TABLE mine (value text)",
        ):
            try:
                reader.execute(attempt)
            except psycopg.errors.InsufficientPrivilege:
                refused.append(attempt.split()[0])

    assert seen == [("seen",)]
    assert refused == ["INSERT", "INSERT", "DELETE", "DROP", "CREATE"]


def test_a_role_cannot_enter_the_database_of_another(postgres_server: EmbeddedPostgres) -> None:
    postgres_server.create_database(DatabaseSpec("mine", owner="mine_owner"))
    postgres_server.create_database(DatabaseSpec("yours", owner="yours_owner"))

    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(postgres_server.dsn("yours", role="mine_owner"), connect_timeout=5)


def test_creating_a_database_again_changes_nothing(postgres_server: EmbeddedPostgres) -> None:
    database = DatabaseSpec("twice", owner="twice_owner")

    created = [postgres_server.create_database(database) for _ in range(2)]

    assert created == [True, False]


def test_each_test_gets_an_empty_database_of_its_own(
    fresh_database: str, postgres_server: EmbeddedPostgres
) -> None:
    with psycopg.connect(fresh_database) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        name = connection.execute("SELECT current_database()").fetchone()

    assert tables == (0,)
    assert name != ("postgres",)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_root_can_run_it_in_a_home_that_nobody_else_can_reach(server_directory: Path) -> None:
    closed = server_directory / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "home", find_free_port(), durable=False)

    with server:
        keep_a_row(server)
        rows = count_rows(server)
    place = server.data_directory.parent
    server.delete()

    assert rows == 1
    assert not place.exists()
