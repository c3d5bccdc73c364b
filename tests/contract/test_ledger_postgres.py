"""What PostgreSQL adds to a ledger: locks between processes, outages, and queries that stay quick."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from support.ledger_rows import (
    BUCKET,
    NOON,
    a_batch,
    a_contract,
    a_final_file,
    a_raw_file,
    add_batch,
)
from support.ledgers import postgres_ledger

from local.postgres import EmbeddedPostgres
from shared import lifecycle
from shared.domain.batches import BatchState, Stage
from shared.domain.files import Area
from shared.domain.windows import PlannedWindow, Window
from shared.errors import ConfigurationError, Unavailable
from shared.fleet_metrics import read_ledger
from shared.ledger.memory import MemoryLedger
from shared.ledger.postgres import PostgresLedger
from shared.ports import OutboxMessage, QueueName
from shared.telemetry.metric_list import OPEN_BATCHES


@pytest.fixture
def ledger(dsn: str) -> Iterator[PostgresLedger]:
    with postgres_ledger(dsn) as ledger:
        yield ledger


@pytest.fixture
def impatient(dsn: str) -> Iterator[PostgresLedger]:
    with postgres_ledger(dsn, statement_timeout_seconds=1) as ledger:
        yield ledger


def on_the_server(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        cursor = connection.execute(statement)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def test_a_contract_of_a_newer_version_is_refused_by_name_and_keeps_nobody_from_the_other_tables(
    dsn: str, ledger: PostgresLedger
) -> None:
    with ledger.transaction() as tx:
        tx.insert_contract(a_contract("orders"))
        tx.insert_contract(a_contract("returns"))
    on_the_server(
        dsn,
        "INSERT INTO esclusa.contract (source, table_name, version, sha256, document) SELECT source, table_name, 2, "
        "repeat('a', 64), (document::jsonb || '{\"of_next_year\": 1}')::json FROM esclusa.contract WHERE table_name = 'orders'",
    )

    with ledger.transaction() as tx:
        with pytest.raises(ConfigurationError, match=r"of_next_year .*a newer version of Esclusa"):
            tx.latest_contract("shop", "orders")
        assert tx.contract("shop", "orders", 1) == a_contract("orders")
        assert tx.latest_contract("shop", "returns") == a_contract("returns")
        assert tx.known_tables() == [("shop", "orders"), ("shop", "returns")]


# ---- locks ---------------------------------------------------------------------------------------------------


def test_messages_that_another_sender_holds_are_passed_over(ledger: PostgresLedger) -> None:
    with ledger.transaction() as tx:
        for body in ("first", "second", "third"):
            tx.post(OutboxMessage(QueueName.CLEAN, body, "shop"))

    with ledger.transaction() as one, ledger.transaction() as other:
        held = [item.message.body for item in one.pending_messages(limit=2)]
        free = [item.message.body for item in other.pending_messages(limit=2)]

    assert (held, free) == (["first", "second"], ["third"])


def test_a_second_planner_waits_for_the_first_even_before_there_is_a_watermark(
    ledger: PostgresLedger, impatient: PostgresLedger
) -> None:
    with ledger.transaction() as first:
        first.watermark("shop", "orders")

        with pytest.raises(Unavailable, match="QueryCanceled"), impatient.transaction() as second:
            second.watermark("shop", "orders")
        with impatient.transaction() as of_another_table:
            assert of_another_table.watermark("shop", "customers") is None


def test_a_locked_batch_makes_others_wait_and_readers_not(
    ledger: PostgresLedger, impatient: PostgresLedger
) -> None:
    batch = a_batch()
    with ledger.transaction() as tx:
        add_batch(tx, batch)

    with ledger.transaction() as holder:
        holder.batch(batch.id, lock=True)

        with impatient.transaction() as reader:
            assert reader.batch(batch.id) == batch
        with pytest.raises(Unavailable, match="QueryCanceled"), impatient.transaction() as waiting:
            waiting.batch(batch.id, lock=True)


def test_of_two_transactions_that_wait_for_each_other_one_gives_way(ledger: PostgresLedger) -> None:
    one, other = a_batch("one"), a_batch("other")
    with ledger.transaction() as tx:
        add_batch(tx, one)
        add_batch(tx, other)
    met = threading.Barrier(2)
    outcomes: list[str] = []

    def lock(first: str, second: str) -> None:
        try:
            with ledger.transaction() as tx:
                tx.batch(first, lock=True)
                met.wait(timeout=30)
                tx.batch(second, lock=True)
            outcomes.append("done")
        except Unavailable as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=lock, args=args) for args in [(one.id, other.id), (other.id, one.id)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert len(outcomes) == 2
    assert "done" in outcomes
    assert any("DeadlockDetected" in outcome for outcome in outcomes)


# ---- outages -------------------------------------------------------------------------------------------------


def test_nothing_connects_before_the_first_transaction() -> None:
    ledger = PostgresLedger("postgresql://esclusa:secret@127.0.0.1:1/control")

    with (
        pytest.raises(Unavailable, match=r"the ledger at 127\.0\.0\.1:1, database control"),
        ledger.transaction(),
    ):
        pass


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        ledger = PostgresLedger(f"postgresql://e@127.0.0.1:{port}/control", connect_timeout_seconds=2)

        with pytest.raises(Unavailable, match="ConnectionTimeout"), ledger.transaction():
            pass


def test_a_transaction_whose_connection_broke_is_unavailable_and_the_next_one_works(
    dsn: str, ledger: PostgresLedger
) -> None:
    with pytest.raises(Unavailable), ledger.transaction() as tx:  # noqa: PT012  the block is the transaction
        add_batch(tx, a_batch())
        _end_sessions(dsn)
        tx.batches()

    with ledger.transaction() as tx:
        assert tx.batches() == []


def test_a_commit_that_broke_off_is_unavailable(dsn: str, ledger: PostgresLedger) -> None:
    with pytest.raises(Unavailable), ledger.transaction() as tx:  # noqa: PT012  the block is the transaction
        add_batch(tx, a_batch())
        _end_sessions(dsn)

    with ledger.transaction() as tx:
        assert tx.batches() == []


def test_sessions_that_ended_while_idle_are_not_noticed(dsn: str, ledger: PostgresLedger) -> None:
    with ledger.transaction() as tx:
        tx.now()

    _end_sessions(dsn)

    with ledger.transaction() as tx:
        assert tx.batches() == []


def test_the_first_error_is_the_one_that_is_raised(dsn: str, ledger: PostgresLedger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.transaction() as tx:  # noqa: PT012  the same
        tx.now()
        _end_sessions(dsn)
        _ = 1 / 0


def test_a_server_that_became_a_reader_is_unavailable_until_it_writes_again(
    dsn: str, ledger: PostgresLedger
) -> None:
    with ledger.transaction() as tx:
        add_batch(tx, a_batch())
    database = dsn.rpartition("/")[2]
    _end_sessions(dsn)
    on_the_server(dsn, f"ALTER DATABASE {database} SET default_transaction_read_only = on")

    with pytest.raises(Unavailable, match="ReadOnlySqlTransaction"), ledger.transaction() as tx:
        tx.set_watermark("shop", "orders", NOON)
    on_the_server(dsn, f"ALTER DATABASE {database} RESET default_transaction_read_only")

    # The session of before would still refuse: it must not have gone back to the pool.
    with ledger.transaction() as tx:
        tx.set_watermark("shop", "orders", NOON)


def test_a_frozen_worker_cannot_hold_a_transaction_for_ever(ledger: PostgresLedger) -> None:
    with ledger.transaction() as tx:
        settings = {
            name: tx._connection.exec_driver_sql(f"SHOW {name}").scalar()  # type: ignore[attr-defined]
            for name in ("statement_timeout", "idle_in_transaction_session_timeout")
        }

    assert settings == {"statement_timeout": "30s", "idle_in_transaction_session_timeout": "2min"}


def _end_sessions(dsn: str) -> None:
    on_the_server(
        dsn,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        " AND (xact_start IS NOT NULL OR state = 'idle')",
    )


# ---- addresses and secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dsn",
    [
        pytest.param("postgresql://esclusa:hunter%ter@db/control", id="bad encoding"),
        pytest.param("postgresql://esclusa:hunt@er2@db/control", id="an unencoded @"),
        pytest.param("postgres:/esclusa:hunter2@db", id="no address"),
        pytest.param("host=db password='hunter2", id="open quote"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused_without_being_quoted(dsn: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        PostgresLedger(dsn)

    assert "hunt" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_refused_password_is_not_in_the_error(postgres_server: EmbeddedPostgres) -> None:
    address = postgres_server.dsn("postgres")
    right = psycopg.conninfo.conninfo_to_dict(address)["password"]
    wrong = address.replace(str(right), "hunter2")

    with pytest.raises(Unavailable) as refusal, PostgresLedger(wrong).transaction():
        pass

    assert "hunter2" not in f"{refusal.value} {refusal.value.__cause__}"


def test_an_error_of_a_statement_does_not_quote_its_values(ledger: PostgresLedger) -> None:
    with pytest.raises(Exception, match="outbox_queue_is_known") as refusal, ledger.transaction() as tx:
        tx.post(OutboxMessage("nowhere", "a body with something in it", "shop"))  # type: ignore[arg-type]

    assert "something in it" not in str(refusal.value).split("DETAIL")[0]


# ---- at scale ------------------------------------------------------------------------------------------------


@contextmanager
def plans(ledger: PostgresLedger) -> Iterator[list[str]]:
    """Collect the plan of every query that runs within."""
    from sqlalchemy import event

    collected: list[str] = []
    engine = ledger._database._engine

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().startswith(("SELECT esclusa.", "SELECT DISTINCT esclusa.")):
            raw = connection.connection.cursor()
            raw.execute(f"EXPLAIN {statement}", parameters)
            collected.append("\n".join(row[0] for row in raw.fetchall()))

    event.listen(engine, "before_cursor_execute", explain)
    yield collected
    event.remove(engine, "before_cursor_execute", explain)


@pytest.fixture
def crowded(dsn: str, ledger: PostgresLedger) -> PostgresLedger:
    """A ledger of 20 000 published batches with their files, and a few open ones."""
    published, open_one = a_batch("published", state=BatchState.PUBLISHED, woken_at=None), a_batch("open")
    published = replace(
        published, attempts=dict.fromkeys(Stage, 1), committed_attempt=1, window=Window(None, NOON)
    )
    with ledger.transaction() as tx:
        add_batch(tx, published)
        add_batch(tx, open_one)
        tx.insert_file(a_raw_file(published, deleted_at=NOON))
        tx.insert_file(a_final_file(published))
        tx.insert_file(a_raw_file(open_one))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            """
            INSERT INTO esclusa.batch
            SELECT (json_populate_record(b, json_build_object(
                'id', 'b' || n, 'slot', 's' || n, 'planned_at', b.planned_at + n * interval '1 minute'))).*
            FROM esclusa.batch b, generate_series(1, 20000) n WHERE b.slot = 'published'
            """
        )
        connection.execute(
            """
            INSERT INTO esclusa.data_file (bucket, key, area, format, batch_id, attempt, part,
                record_count, file_size_in_bytes, sha256, status, detail, recorded_at, deleted_at)
            SELECT f.bucket, f.key || n, f.area, f.format, 'b' || n, f.attempt, f.part,
                f.record_count, f.file_size_in_bytes, f.sha256, f.status, f.detail, f.recorded_at, f.deleted_at
            FROM esclusa.data_file f JOIN esclusa.batch b ON b.id = f.batch_id, generate_series(1, 20000) n
            WHERE b.slot = 'published'
            """
        )
        connection.execute("ANALYZE esclusa.batch")
        connection.execute("ANALYZE esclusa.data_file")
    return ledger


def test_no_query_of_the_fleet_reads_a_whole_table(crowded: PostgresLedger) -> None:
    with plans(crowded) as collected, crowded.transaction() as tx:
        tx.batch("b7", lock=True)
        tx.batches(newest_first=True, limit=50)
        tx.batches(source="shop", table="orders", limit=1)
        tx.batches(states=[BatchState.PLANNED, BatchState.FAILED], limit=50)
        tx.batches_to_wake(states=[BatchState.PLANNED, BatchState.READY], woken_before=[NOON, NOON], limit=50)
        tx.batches_with_leftovers(limit=50)
        tx.sources_with_deferred_batches()
        tx.files(areas=[Area.QUARANTINE], present_only=True, recorded_before=NOON, limit=50)
        tx.expired_attempts(limit=50)
        tx.attempts("b7")
        tx.events("b7")
        tx.files(batch_id="b7")
        tx.file(a_raw_file(a_batch()).location)
        tx.files_at(BUCKET, [a_raw_file(a_batch(), part=part).location.key for part in range(50)])
        tx.mask_evidence("b7")

    assert len(collected) == 15
    of_large_tables = [
        plan for plan in collected if "Seq Scan on batch" in plan or "Seq Scan on data_file" in plan
    ]
    assert of_large_tables == [], "\n".join(of_large_tables)


def test_what_prometheus_is_told_is_read_by_few_statements_none_of_which_reads_all_batches(
    crowded: PostgresLedger,
) -> None:
    with plans(crowded) as collected:
        samples = read_ledger(crowded, table_limit=1000)

    # The clock and the number of messages in the outbox beside them: eight.
    assert len(collected) == 6
    # That of how far tables came looks at published batches, too, but only of tables with an open snapshot.
    others = [plan for plan in collected if "watermark" not in plan]
    assert len(others) == 5
    assert "Seq Scan on batch" not in "\n".join(others)
    assert [sample.value for sample in samples if sample.metric is OPEN_BATCHES] == [1]


# ---- memory --------------------------------------------------------------------------------------------------


def test_a_transaction_in_memory_that_began_within_another_says_so_instead_of_waiting_for_ever() -> None:
    ledger = MemoryLedger(lambda: NOON)

    with ledger.transaction(), pytest.raises(RuntimeError, match="in a transaction"), ledger.transaction():
        pass


def test_a_transaction_in_memory_that_has_ended_changes_nothing_more() -> None:
    ledger = MemoryLedger(lambda: NOON)
    with ledger.transaction() as tx:
        tx.insert_contract(a_contract())

    with pytest.raises(RuntimeError, match="has ended"):
        lifecycle.plan(tx, a_contract(), planned=PlannedWindow("s", Window(None, NOON)), bucket=BUCKET)
