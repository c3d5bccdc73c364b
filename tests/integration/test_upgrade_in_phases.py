"""An upgrade runs in two phases, and a process works only with tables that fit it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from support.commands import Shell
from support.ledgers import copied_database, migrated_template, postgres_ledger

from cli import checks
from cli.output import ExitCode
from infra import migrations
from infra.migrations import POST, PRE, Chain
from local.postgres import EmbeddedPostgres
from shared.errors import ConfigurationError, Unavailable
from shared.secrets.memory import MemorySecrets

REMOVAL = '''
"""What nobody uses."""

from alembic import op

revision = "{revision}"
down_revision = {down_revision}


def upgrade() -> None:
    """Remove a column."""
    op.execute("ALTER TABLE esclusa.batch DROP COLUMN {column}")
'''


@pytest.fixture
def removals(tmp_path: Path) -> Chain:
    """A chain of the phase `post` that removes two columns. Its directory has a strange name."""
    directory = tmp_path / "100% post: versions"
    directory.mkdir()
    for revision, down_revision, column in (("0001", "None", "detail"), ("0002", '"0001"', "changed_at")):
        text = REMOVAL.format(revision=revision, down_revision=down_revision, column=column)
        (directory / f"post_{revision}.py").write_text(text)
    return replace(POST, directory=directory)


@pytest.fixture(scope="module")
def template(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The name of a migrated database that tests copy."""
    with migrated_template(postgres_server) as name:
        yield name


@pytest.fixture
def migrated(postgres_server: EmbeddedPostgres, template: str) -> Iterator[str]:
    """The DSN of a migrated database."""
    with copied_database(postgres_server, template) as dsn:
        yield dsn


def columns_of_batch(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        query = (
            "SELECT attname FROM pg_attribute WHERE attrelid = 'esclusa.batch'::regclass AND NOT attisdropped"
        )
        return {name for (name,) in connection.execute(query)}


def set_revision(dsn: str, table: str, revision: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS esclusa.{table} (version_num varchar(32))")  # type: ignore[call-overload]
        connection.execute(f"DELETE FROM esclusa.{table}")  # type: ignore[call-overload]
        connection.execute(f"INSERT INTO esclusa.{table} VALUES (%s)", [revision])  # type: ignore[call-overload]


# ---- the phases ----------------------------------------------------------------------------------------------


def test_what_is_removed_waits_for_its_phase(fresh_database: str, removals: Chain) -> None:
    added = migrations.upgrade(fresh_database, chains=[PRE])
    between = columns_of_batch(fresh_database)
    waiting = migrations.pending(fresh_database, removals)

    removed = migrations.upgrade(fresh_database, chains=[removals])

    assert added == [f"pre {revision}" for revision in migrations.revisions(PRE)]
    assert {"detail", "changed_at"} <= between
    assert waiting == ["0001", "0002"]
    assert removed == ["post 0001", "post 0002"]
    assert not {"detail", "changed_at"} & columns_of_batch(fresh_database)
    assert migrations.current(fresh_database, PRE) == migrations.newest(PRE)
    assert migrations.upgrade(fresh_database, chains=[PRE, removals]) == []


def test_nothing_is_removed_before_everything_was_added(fresh_database: str, removals: Chain) -> None:
    with pytest.raises(
        ConfigurationError, match="before anything is removed, found none; run `esclusa migrate"
    ):
        migrations.upgrade(fresh_database, chains=[removals])

    assert migrations.current(fresh_database, removals) is None


def test_a_new_ledger_gets_both_phases_at_once(fresh_database: str, removals: Chain) -> None:
    migrations.upgrade(fresh_database, chains=[PRE, removals])

    assert "detail" not in columns_of_batch(fresh_database)


def test_an_old_version_leaves_a_newer_ledger_alone(migrated: str) -> None:
    set_revision(migrated, PRE.version_table, "9999")

    assert migrations.upgrade(migrated) == []
    assert migrations.current(migrated) == "9999"


@contextmanager
def held_lock(dsn: str) -> Iterator[psycopg.Connection]:
    """Hold the table of batches, as a long report would, until the connection is closed."""
    with psycopg.connect(dsn) as connection:
        connection.execute("LOCK TABLE esclusa.batch IN ACCESS SHARE MODE")
        yield connection


def test_a_migration_gives_way_to_who_holds_a_table_and_tries_again(
    migrated: str, removals: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_SECONDS", 0.1)

    with held_lock(migrated) as holder:
        # While it pauses, the holder is done.
        monkeypatch.setattr(migrations.time, "sleep", lambda _: holder.rollback())
        ran = migrations.upgrade(migrated, chains=[removals])

    assert ran == ["post 0001", "post 0002"]


def test_a_migration_gives_up_on_a_table_that_stays_locked(
    migrated: str, removals: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(migrations, "LOCK_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(migrations, "LOCK_ATTEMPTS", 2)

    with held_lock(migrated), pytest.raises(Unavailable, match="LockNotAvailable"):
        migrations.upgrade(migrated, chains=[removals])

    assert migrations.current(migrated, removals) is None


# ---- processes and tables --------------------------------------------------------------------------------------


def test_a_process_refuses_tables_that_are_too_old(migrated: str) -> None:
    set_revision(migrated, PRE.version_table, "0000")

    with (
        postgres_ledger(migrated) as ledger,
        pytest.raises(
            ConfigurationError, match=r"needs tables of revision \d{4}, found 0000; migrate it first"
        ),
        ledger.transaction(),
    ):
        raise AssertionError("nothing is done")


def test_a_process_works_with_tables_of_a_newer_version(migrated: str) -> None:
    set_revision(migrated, PRE.version_table, "9999")

    with postgres_ledger(migrated) as ledger, ledger.transaction() as tx:
        assert tx.batch("none") is None


def test_a_process_refuses_tables_from_which_a_newer_version_removed(migrated: str) -> None:
    set_revision(migrated, POST.version_table, "9999")

    with (
        postgres_ledger(migrated) as ledger,
        pytest.raises(
            ConfigurationError, match="a newer version of Esclusa removed what this one works with"
        ),
        ledger.exclusively("sweep"),
    ):
        raise AssertionError("nothing is done")


def test_a_worker_ends_before_its_first_message_if_the_tables_are_too_old(fresh_database: str) -> None:
    settings = {
        "ESCLUSA_LEDGER_DSN": "env:LEDGER_DSN",
        "LEDGER_DSN": fresh_database,
        "ESCLUSA_QUEUE_URLS": json.dumps({"publish": "http://127.0.0.1:1/queue/publish"}),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }

    ended = subprocess.run(
        [sys.executable, "-m", "services.publisher.app"],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert ended.returncode == 1
    assert "found none; migrate it first, with `esclusa migrate --phase pre`" in ended.stdout + ended.stderr


def test_check_says_how_the_tables_and_the_code_stand_to_each_other(
    migrated: str, removals: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Shell(secrets=MemorySecrets({"env:LEDGER_DSN": migrated})).fleet
    at_the_newest = checks.ledger_revision(fleet)
    monkeypatch.setattr(migrations, "POST", removals)
    with_removals = checks.ledger_revision(fleet)
    set_revision(migrated, PRE.version_table, "9999")

    assert at_the_newest == f"revision {migrations.newest()}"
    assert with_removals.endswith(
        "2 removals wait for `esclusa migrate --phase post`, once no older version runs"
    )
    assert f"revision 9999; newer than this version of Esclusa, which needs {migrations.newest()}" in (
        checks.ledger_revision(fleet)
    )


# ---- the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def shell(fresh_database: str) -> Shell:
    return Shell(secrets=MemorySecrets({"env:LEDGER_DSN": fresh_database}))


def test_the_command_adds_and_says_what_it_did(shell: Shell, fresh_database: str) -> None:
    would_run = shell.run("migrate", "--dry-run")
    untouched = migrations.current(fresh_database)
    ran = shell.run("migrate", "--phase", "pre", "--json").document
    again = shell.run("migrate")

    assert would_run.output.splitlines()[0] == "would run: pre 0001"
    assert untouched is None
    assert ran == {
        "phase": "pre",
        "dry_run": False,
        "ran": [f"pre {revision}" for revision in migrations.revisions()],
        "revision": migrations.newest(),
    }
    assert again.output == f"nothing to do: phase pre is at revision {migrations.newest()}\n"


def test_the_command_does_not_remove_from_a_ledger_that_was_not_added_to(shell: Shell) -> None:
    ended = shell.run("migrate", "--phase", "post")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "run `esclusa migrate --phase pre`" in ended.errors


def test_the_command_knows_two_phases(shell: Shell) -> None:
    ended = shell.run("migrate", "--phase", "during")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "expected pre or post, found 'during'" in ended.errors
