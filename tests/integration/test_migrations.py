"""The migrations make the tables that the ledger's adapter expects, and the database refuses what it must."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection

from infra import migrations
from local.postgres import EmbeddedPostgres
from shared.domain.batches import EDGES
from shared.errors import ConfigurationError, Unavailable
from shared.ledger.postgres import PostgresLedger
from shared.ledger.revision import POST_VERSION_TABLE, PRE_VERSION_TABLE
from shared.ledger.tables import SCHEMA, metadata


@pytest.fixture
def migrated(fresh_database: str) -> str:
    migrations.upgrade(fresh_database)
    return fresh_database


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchall()


def engine_connection(dsn: str) -> Connection:
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn)).connect()


VERSION_TABLES = {PRE_VERSION_TABLE, POST_VERSION_TABLE}
CONSTRAINTS = rf"""
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = '{SCHEMA}'::regnamespace AND conrelid::regclass::text NOT LIKE '%alembic\_version%'
    ORDER BY 1, 2
"""
INDEXES = rf"""
    SELECT indexname, indexdef FROM pg_indexes
    WHERE schemaname = '{SCHEMA}' AND tablename NOT LIKE 'alembic\_version%' ORDER BY 1
"""
COLUMNS = rf"""
    SELECT table_name, column_name, data_type, collation_name, is_nullable, column_default, identity_generation,
        generation_expression
    FROM information_schema.columns
    WHERE table_schema = '{SCHEMA}' AND table_name NOT LIKE 'alembic\_version%' ORDER BY 1, 2
"""


def test_a_migrated_database_has_the_tables_that_the_ledger_expects(migrated: str) -> None:
    with engine_connection(migrated) as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: {
                    "schema": name == SCHEMA,
                    "table": name not in VERSION_TABLES,
                }.get(kind, True),
                "compare_type": True,
            },
        )
        differences = compare_metadata(context, metadata)

    assert differences == []


@pytest.mark.parametrize(
    "catalogue", [CONSTRAINTS, INDEXES, COLUMNS], ids=["constraints", "indexes", "columns"]
)
def test_what_alembic_does_not_compare_is_equal_too(
    migrated: str, postgres_server: EmbeddedPostgres, catalogue: str
) -> None:
    from_migrations = rows(migrated, catalogue)
    with engine_connection(migrated) as connection:
        connection.exec_driver_sql(f"ALTER SCHEMA {SCHEMA} RENAME TO migrated")
        connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
        metadata.create_all(connection)
        connection.commit()

    from_metadata = rows(migrated, catalogue)

    assert from_migrations == from_metadata


def test_the_ledger_allows_exactly_the_edges_of_the_domain(migrated: str) -> None:
    edges = rows(migrated, "SELECT from_state, to_state FROM esclusa.allowed_edge")

    assert set(edges) == {(str(from_state), str(to_state)) for from_state, to_state in EDGES}


def test_a_database_says_which_revision_it_is_at(fresh_database: str) -> None:
    before = migrations.current(fresh_database)
    migrations.upgrade(fresh_database)

    assert (before, migrations.current(fresh_database)) == (None, migrations.newest())


def test_migrating_twice_changes_nothing(migrated: str) -> None:
    before = rows(migrated, COLUMNS)

    migrations.upgrade(migrated)

    assert rows(migrated, COLUMNS) == before


def test_two_deployments_may_migrate_at_once(fresh_database: str) -> None:
    errors: list[Exception] = []
    start = threading.Barrier(2)

    def deploy() -> None:
        start.wait(timeout=30)
        try:
            migrations.upgrade(fresh_database)
        except Exception as error:  # noqa: BLE001  whatever it is, it must be none
            errors.append(error)

    threads = [threading.Thread(target=deploy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert errors == []
    assert migrations.current(fresh_database) == migrations.newest()


def test_a_ledger_that_was_never_migrated_says_so(fresh_database: str) -> None:
    ledger = PostgresLedger(fresh_database)

    with pytest.raises(ConfigurationError, match="migrate it first"), ledger.transaction() as tx:
        tx.batch("b1")

    ledger.close()


def test_a_database_that_is_away_cannot_be_migrated_now() -> None:
    with pytest.raises(Unavailable, match=r"the ledger at 127\.0\.0\.1:1"):
        migrations.upgrade("postgresql://esclusa:secret@127.0.0.1:1/control")


BATCH = """
    INSERT INTO esclusa.contract VALUES ('shop', 'orders', 1, 'c0', '{}');
    INSERT INTO esclusa.batch VALUES (
        'b1', 'shop', 'orders', 'initial', NULL, now(), NULL, NULL, NULL, false, 1, 'c0', 'bucket', 'planned', now(), now(),
        0, 0, 0, 0, 0, 0, NULL, '{}', NULL, '', now(), 1, NULL, false, 0);
    INSERT INTO esclusa.batch_event VALUES ('b1', 1, DEFAULT, NULL, 'planned', now(), 'planner', NULL, '');
    INSERT INTO esclusa.data_file VALUES (
        'bucket', 'tmp/x', 'tmp', 'csv', 'b1', 1, 0, 0, 0, 'e3', 'announced', NULL, '', now(), NULL, NULL);
    INSERT INTO esclusa.mask_evidence VALUES ('b1', 1, 'email', 'hmac', 'k1', 3);
    INSERT INTO esclusa.attempt VALUES ('b1', 'extract', 1, DEFAULT, 'w', 'running', now(), now(), NULL, NULL, '');
"""


@pytest.fixture
def connection(migrated: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(BATCH)
        yield connection


def event(sequence: int, from_state: str, to_state: str) -> str:
    return (
        f"INSERT INTO esclusa.batch_event VALUES ('b1', {sequence}, DEFAULT, {from_state}, '{to_state}',"
        " now(), 'somebody', NULL, '')"
    )


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        pytest.param(
            event(2, "'planned'", "published"), "batch_event_allowed_edge_exists", id="no such edge"
        ),
        pytest.param(
            event(2, "'ready'", "processing"), "batch_event_follows_the_last", id="not from the last"
        ),
        pytest.param(event(3, "'planned'", "extracting"), "batch_event_follows_the_last", id="a gap"),
        pytest.param(
            event(1, "'planned'", "extracting"), "only_the_first_comes_from_nowhere", id="no beginning"
        ),
        pytest.param(
            event(2, "NULL", "planned"), "only_the_first_comes_from_nowhere", id="a second beginning"
        ),
        pytest.param("UPDATE esclusa.batch_event SET actor = 'x'", "history of a batch", id="changed event"),
        pytest.param("DELETE FROM esclusa.batch_event", "history of a batch", id="deleted event"),
        pytest.param("TRUNCATE esclusa.batch_event", "history of a batch", id="truncated events"),
        pytest.param("DELETE FROM esclusa.data_file", "never deleted", id="deleted file"),
        pytest.param("TRUNCATE esclusa.data_file", "never deleted", id="truncated files"),
        pytest.param("UPDATE esclusa.data_file SET record_count = 7", "never changes", id="other file"),
        pytest.param(
            "UPDATE esclusa.data_file SET area = 'attic'", "never changes|area_is_known", id="no area"
        ),
        pytest.param(
            "UPDATE esclusa.data_file SET status = 'fine'", "data_file_status_is_known", id="no status"
        ),
        pytest.param(
            "UPDATE esclusa.data_file SET reason = 'why'", "data_file_reason_is_known", id="no reason"
        ),
        pytest.param(
            "UPDATE esclusa.attempt SET state = 'tired'", "attempt_state_is_known", id="no such attempt"
        ),
        pytest.param(
            "UPDATE esclusa.batch SET state = 'published'", "no edge leads", id="state along no edge"
        ),
        pytest.param("UPDATE esclusa.batch SET state = 'lost'", "no edge leads", id="no state"),
        pytest.param(
            "UPDATE esclusa.batch SET reason = 'why'", "batch_reason_is_known", id="no reason of a batch"
        ),
        pytest.param(
            "UPDATE esclusa.batch SET window_end = now()", "fixed by its first insert", id="other window"
        ),
        pytest.param(
            "UPDATE esclusa.batch SET extent_low = '1'", "fixed by its first insert", id="other extent"
        ),
        pytest.param("DELETE FROM esclusa.batch", "never deleted", id="deleted batch"),
        pytest.param(
            'INSERT INTO esclusa.batch SELECT (json_populate_record(b, \'{"id": "b2"}\')).* FROM esclusa.batch b',
            "batch_slot_is_planned_once",
            id="second batch of a slot",
        ),
        pytest.param("UPDATE esclusa.contract SET document = '1'", "frozen", id="changed contract"),
        pytest.param(
            "UPDATE esclusa.mask_evidence SET mask = 'keep'", "evidence is never changed", id="evidence"
        ),
        pytest.param(
            "INSERT INTO esclusa.outbox VALUES (DEFAULT, 'x', '', '')", "queue_is_known", id="no queue"
        ),
    ],
)
def test_the_database_itself_refuses(connection: psycopg.Connection, statement: str, named: str) -> None:
    with pytest.raises(psycopg.IntegrityError, match=named):
        connection.execute(statement)


def test_the_database_lets_a_batch_go_its_way(connection: psycopg.Connection) -> None:
    connection.execute("UPDATE esclusa.batch SET state = 'extracting', revision = revision + 1")
    connection.execute(event(2, "'planned'", "extracting"))
    connection.execute(
        "UPDATE esclusa.data_file SET status = 'correct', checked_at = now(), deleted_at = now()"
    )

    history = connection.execute("SELECT sequence, to_state FROM esclusa.batch_event ORDER BY 1").fetchall()
    assert history == [(1, "planned"), (2, "extracting")]


def test_every_table_says_what_it_holds(migrated: str) -> None:
    silent = rows(
        migrated,
        rf"""
        SELECT relname FROM pg_class WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind = 'r'
            AND relname NOT LIKE 'alembic\_version%' AND obj_description(oid) IS NULL
        """,
    )

    assert silent == []
