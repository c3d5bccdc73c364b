"""
An upgrade from version 0.1.0, with its ledger and its messages in the queues, and beside its processes.

`tests/data/0.1.0` is frozen: a ledger with a batch in every state, the messages of every kind, and each statement that
the version sends to the ledger, as its own code wrote them.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Json
from support.ledgers import new_database, postgres_ledger
from support.schema_changes import migrate_to

from infra import migrations
from infra.migrations import PRE
from local.postgres import EmbeddedPostgres
from shared import messages, stage
from shared.contract_document import from_json
from shared.domain.batches import Batch, BatchState, Stage
from shared.domain.files import Area, Location
from shared.domain.retries import RetryPolicy
from shared.ledger.postgres import PostgresLedger
from shared.lifecycle import StageResult
from shared.messages import CheckBatch, CleanBatch, SetObjectAside, TaskMessage
from shared.ports import QueueName
from shared.queues.memory import MemoryQueues
from shared.stage import Outcome, StageLimits

FROZEN = Path(__file__).parents[1] / "data" / "0.1.0"
#: The revision of its tables.
REVISION = "0001"

LEDGER: dict[str, list[dict[str, Any]]] = json.loads((FROZEN / "ledger.json").read_text())
MESSAGES: dict[str, Any] = json.loads((FROZEN / "messages.json").read_text())
STATEMENTS: list[str] = json.loads((FROZEN / "statements.json").read_text())


#: What a stage says of the three rows of each batch; the files of an extract say it themselves.
COUNTS: dict[Stage, dict[str, int]] = {
    Stage.EXTRACT: {},
    Stage.PROCESS: {"rows_decoded": 3, "rows_in_final": 3},
    Stage.PUBLISH: {"rows_published": 3},
}


@pytest.fixture(scope="module")
def upgraded(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The DSN of a ledger that version 0.1.0 filled and this one upgraded, both phases."""
    with _ledger_of_0_1_0(postgres_server) as dsn:
        migrations.upgrade(dsn)
        yield dsn


@pytest.fixture
def ledger(upgraded: str) -> Iterator[PostgresLedger]:
    with postgres_ledger(upgraded) as ledger:
        yield ledger


def batch_in(ledger: PostgresLedger, state: BatchState) -> Batch:
    """Return the batch whose slot is named like the state that 0.1.0 left it in."""
    with ledger.transaction() as tx:
        (batch,) = [batch for batch in tx.batches(limit=100) if batch.slot == state]
    return batch


# ---- this version reads what the version before wrote ------------------------------------------------------------


def test_every_batch_is_where_it_was(ledger: PostgresLedger) -> None:
    with ledger.transaction() as tx:
        batches = tx.batches(limit=100)
        files = {batch.id: tx.files(batch_id=batch.id, areas=list(Area)) for batch in batches}
        histories = [tx.events(batch.id) for batch in batches]
        attempts = [attempt for batch in batches for attempt in tx.attempts(batch.id)]

    assert {batch.slot for batch in batches} == {batch.state for batch in batches}
    assert len(batches) == len(LEDGER["batch"])
    assert sum(map(len, files.values())) == len(LEDGER["data_file"])
    assert sum(map(len, histories)) == len(LEDGER["batch_event"])
    assert len(attempts) == len(LEDGER["attempt"])


def test_its_contracts_are_read(ledger: PostgresLedger) -> None:
    (row,) = LEDGER["contract"]

    with ledger.transaction() as tx:
        version = tx.latest_contract(row["source"], row["table_name"])

    assert version is not None
    assert version.sha256 == row["sha256"]
    assert version.contract == from_json(json.dumps(row["document"]))


@pytest.mark.parametrize(
    ("state", "stage_name", "next_state"),
    [
        (BatchState.PLANNED, Stage.EXTRACT, BatchState.EXTRACTED),
        (BatchState.READY, Stage.PROCESS, BatchState.PROCESSED),
        (BatchState.COMMITTED, Stage.PUBLISH, BatchState.PUBLISHED),
    ],
)
def test_a_batch_goes_on_by_the_message_that_was_in_the_queue(
    ledger: PostgresLedger, state: BatchState, stage_name: Stage, next_state: BatchState
) -> None:
    batch = batch_in(ledger, state)
    golden = MESSAGES["task"][{"extract": 0, "process": 2, "publish": 3}[stage_name]].replace("b-1", batch.id)

    task = messages.parse_task_message(golden)
    outcome = stage.run(
        stage_name,
        task.batch_id,
        lambda _: StageResult(counts=COUNTS[stage_name]),
        ledger=ledger,
        sender=MemoryQueues(),
        worker="w",
        limits=StageLimits(timedelta(minutes=5), RetryPolicy(3)),
        keep_alive=lambda _: nullcontext(),
    )

    assert outcome is Outcome.COMPLETED
    with ledger.transaction() as tx:
        after = tx.batch(batch.id)
    assert after is not None
    assert after.state is next_state


def test_its_messages_are_read() -> None:
    tasks = [messages.parse_task_message(body) for body in MESSAGES["task"]]
    checks = [messages.parse_gate_message(body) for body in MESSAGES["gate"]]
    cleans = [messages.parse_clean_message(body) for body in MESSAGES["clean"]]

    assert tasks == [
        TaskMessage("esclusa.extract", "b-1.esclusa.extract.1", "b-1"),
        TaskMessage("esclusa.extract", "b-1.esclusa.extract.1", "b-1"),
        TaskMessage("esclusa.process", "b-1.esclusa.process.1", "b-1"),
        TaskMessage("esclusa.publish", "b-1.esclusa.publish.1", "b-1"),
    ]
    assert checks == [
        [CheckBatch("b-1", area)] for area in (Area.TMP, Area.INPUT, Area.PROCESSING, Area.FINAL)
    ]
    assert cleans == [CleanBatch("b-1"), SetObjectAside(Location("esclusa-shop", "tmp/ä b.csv"))]


def test_what_waits_in_its_outbox_is_read(between: psycopg.Connection) -> None:
    waiting = between.execute("SELECT queue, body FROM esclusa.outbox ORDER BY id").fetchall()

    assert [list(message) for message in waiting] == MESSAGES["posted"]
    for queue, body in waiting:
        read = messages.parse_task_message if queue == QueueName.EXTRACT else messages.parse_clean_message
        assert read(body)


# ---- the version before goes on beside this one ----------------------------------------------------------------


def test_this_version_writes_messages_that_the_version_before_reads() -> None:
    """Its readers take exactly the fields they know."""
    tasks = [
        messages.task_message(
            parsed.task,
            {"batch_id": parsed.batch_id},
            queue=json.loads(body)["properties"]["delivery_info"]["routing_key"],
            task_id=parsed.task_id,
        )
        for body in MESSAGES["task"]
        for parsed in [messages.parse_task_message(body)]
    ]
    checks = [
        messages.gate_message("b-1", area) for area in (Area.TMP, Area.INPUT, Area.PROCESSING, Area.FINAL)
    ]
    cleans = [
        messages.clean_message("b-1"),
        messages.set_aside_message(Location("esclusa-shop", "tmp/ä b.csv")),
    ]

    assert (tasks, checks, cleans) == (MESSAGES["task"], MESSAGES["gate"], MESSAGES["clean"])


@pytest.fixture(scope="module")
def between(postgres_server: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """A connection to its ledger after the phase `pre`: where both versions work."""
    with _ledger_of_0_1_0(postgres_server) as dsn:
        migrations.upgrade(dsn, chains=[PRE])
        with psycopg.connect(dsn, autocommit=True) as connection:
            yield connection


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: " ".join(statement.split()[:3]))
def test_a_statement_of_the_version_before_still_runs(statement: str, between: psycopg.Connection) -> None:
    # Planned, not only parsed: that is where ON CONFLICT looks for its index.
    between.execute(f"EXPLAIN (GENERIC_PLAN) {numbered(statement)}")  # type: ignore[call-overload]


def numbered(statement: str) -> str:
    """
    Write the parameters of a statement as a server knows them.

    >>> numbered("SELECT %(a)s, %(b)s, %(a)s %% 2")
    'SELECT $1, $2, $1 % 2'
    """
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    return re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", statement).replace("%%", "%")


# ---- how it was --------------------------------------------------------------------------------------------------


@contextmanager
def _ledger_of_0_1_0(server: EmbeddedPostgres) -> Iterator[str]:
    with new_database(server) as name:
        dsn = server.dsn(name)
        migrate_to(dsn, REVISION)
        with psycopg.connect(dsn) as connection:
            for table, rows in LEDGER.items():
                _insert(connection, table, rows)
        yield dsn


def _insert(connection: psycopg.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    relation, columns = sql.Identifier("esclusa", table), sql.SQL(", ").join(map(sql.Identifier, rows[0]))
    connection.execute(
        sql.SQL(
            "INSERT INTO {0} ({1}) OVERRIDING SYSTEM VALUE SELECT {1} FROM json_populate_recordset(NULL::{0}, %s)"
        ).format(relation, columns),
        [Json(rows)],
    )
    if "id" in rows[0] and isinstance(rows[0]["id"], int):
        connection.execute(
            "SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)",
            [f"esclusa.{table}", max(row["id"] for row in rows)],
        )
