"""The commands over a real PostgreSQL as source and ledger: discover, check, enqueue, and the look at it after."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from support.commands import Ended, OneAnswer, QueuesAway, Shell
from support.ledgers import copied_database, migrated_template, postgres_ledger

from cli.output import ExitCode
from local.ports import find_free_port
from local.postgres import EmbeddedPostgres
from services.publisher.warehouse import QueryFailed
from shared import lifecycle
from shared.catalog import read_sources
from shared.domain.batches import Stage
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.errors import Unavailable
from shared.ports import QueueName
from shared.secrets.memory import MemorySecrets

TABLES = """
CREATE TABLE customers (id bigint PRIMARY KEY, email text NOT NULL, updated_at timestamptz NOT NULL);
CREATE TABLE products (code int PRIMARY KEY, price numeric(12,2));
INSERT INTO customers VALUES (1, 'ann@example.org', now() - interval '1 day');
"""


@pytest.fixture(scope="module")
def template(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    with migrated_template(postgres_server) as name:
        yield name


@dataclass
class House:
    """A source in a database, its files, and a ledger in another database."""

    shell: Shell
    sources: Path
    source_dsn: str

    def run(self, *arguments: str) -> Ended:
        return self.shell.run(*arguments, ESCLUSA_SOURCES=str(self.sources))

    def discover(self, name: str = "shop") -> Path:
        file = self.sources / f"{name}.yaml"
        ended = self.run("discover", name, "--dsn", "env:SHOP_DSN", "--out", str(file))
        assert ended.exit_code == ExitCode.OK, ended.errors
        return file

    def declare_unreachable(self, name: str) -> None:
        text = self.discover("template").read_text().replace("name: template", f"name: {name}")
        (self.sources / f"{name}.yaml").write_text(text.replace("env:SHOP_DSN", "env:CLOSED_DSN"))
        (self.sources / "template.yaml").unlink()


@pytest.fixture
def house(
    postgres_server: EmbeddedPostgres, template: str, fresh_database: str, tmp_path: Path
) -> Iterator[House]:
    with psycopg.connect(fresh_database) as connection:
        connection.execute(TABLES)
    sources = tmp_path / "sources"
    sources.mkdir()
    closed = f"postgresql://me:hunter2@127.0.0.1:{find_free_port()}/shop"
    with copied_database(postgres_server, template) as dsn, postgres_ledger(dsn) as ledger:
        secrets = {"env:SHOP_DSN": fresh_database, "env:CLOSED_DSN": closed, "env:LEDGER_DSN": dsn}
        yield House(Shell(secrets=MemorySecrets(secrets), ledger=ledger), sources, fresh_database)


# ---- discover ----------------------------------------------------------------------------------------------


def test_what_is_discovered_is_a_sound_source_file_without_the_connection_string(house: House) -> None:
    file = house.discover()

    catalog = read_sources(house.sources)
    assert catalog.problems == ()
    assert {contract.table for contract in catalog.contracts()} == {"customers", "products"}
    assert house.source_dsn not in file.read_text()


def test_discover_writes_to_standard_output_nothing_but_the_file(house: House) -> None:
    written = house.run("discover", "shop", "--dsn", "env:SHOP_DSN", "--schema", "public").output

    assert written == house.discover().read_text()


def test_discover_overwrites_no_file(house: House) -> None:
    file = house.discover()
    file.write_text("edited by hand")

    ended = house.run("discover", "shop", "--dsn", "env:SHOP_DSN", "--out", str(file))

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert file.read_text() == "edited by hand"


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("env:CLOSED_DSN", ExitCode.UNAVAILABLE),
        ("env:NO_SUCH_SECRET", ExitCode.CONFIGURATION),
        ("postgresql://me:hunter2@db/shop", ExitCode.CONFIGURATION),
    ],
)
def test_discover_of_what_does_not_answer_tells_why_and_no_password(
    house: House, reference: str, code: ExitCode
) -> None:
    ended = house.run("discover", "shop", "--dsn", reference)

    assert ended.exit_code == code
    assert ended.errors.startswith("error: ")
    assert "hunter2" not in ended.errors


# ---- check -------------------------------------------------------------------------------------------------


def checks(ended: Ended) -> dict[tuple[str, str], str]:
    return {(check["kind"], check["subject"]): check["verdict"] for check in ended.document["checks"]}


def test_check_looks_at_everything_once(house: House) -> None:
    file = house.discover()

    ended = house.run("check", "--json")

    found = checks(ended)
    assert ended.document["is_ok"] is True, ended.output
    assert ended.exit_code == ExitCode.OK
    assert found["file", str(file)] == "ok"
    assert found["secret", "env:SHOP_DSN"] == "ok"
    assert found["table", "shop.customers"] == "ok"
    assert found["ledger", "control database"] == "ok"
    assert found["bucket", "esclusa-shop"] == "ok"
    assert found["queue", "extract"] == "ok"
    assert found["warehouse", "warehouse"] == "ok"


def test_check_writes_one_line_each(house: House) -> None:
    house.discover()

    lines = house.run("check").output.splitlines()

    assert sum(line.startswith("ok      queue ") for line in lines) == len(QueueName)
    assert any(line.startswith("ok      table     shop.customers") for line in lines)


def test_check_tells_every_mistake_of_a_file_with_its_line_and_goes_on(house: House) -> None:
    house.discover()
    broken = house.sources / "crm.yaml"
    broken.write_text("name: crm\nkind: postgres\nconnection: {dns: x}\ntables: {}\n")

    ended = house.run("check", "--json")

    found = checks(ended)
    assert ended.exit_code == ExitCode.PROBLEM
    assert {place for kind, place in found if kind == "file" and place.startswith(str(broken))} >= {
        f"{broken}:3",
        f"{broken}:4",
    }
    assert found["table", "shop.customers"] == "ok"


def test_check_tells_what_vanished_at_the_source_and_goes_on(house: House) -> None:
    house.discover()
    with psycopg.connect(house.source_dsn) as connection:
        connection.execute("DROP TABLE products; ALTER TABLE customers ADD COLUMN shoe_size int")

    ended = house.run("check", "--json")

    found = checks(ended)
    assert ended.exit_code == ExitCode.PROBLEM
    assert found["table", "shop.products"] == "failed"
    assert found["table", "shop.customers"] == "ok"
    assert any("shoe_size" in check["detail"] for check in ended.document["checks"])


@pytest.mark.parametrize(("row_count", "verdict"), [(20, "ok"), (21, "failed")])
def test_check_tells_of_a_table_that_its_pace_leaves_no_time_for(
    house: House, row_count: int, verdict: str
) -> None:
    file = house.discover()
    limits = "limits: {max_concurrent_extracts: 3, rows_per_second: 1, deadline: 1m}\n"
    file.write_text(file.read_text().replace("tables:\n", f"{limits}tables:\n", 1))
    with psycopg.connect(house.source_dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO products SELECT generate_series(1, %s)", [row_count])

    checks = house.run("check", "--json").document["checks"]

    (pace,) = [check for check in checks if check["kind"] == "pace"]
    assert (pace["subject"], pace["verdict"]) == ("shop.products", verdict)
    assert f"{row_count}" in pace["detail"]


def test_check_of_one_source_looks_at_no_other(house: House) -> None:
    house.discover()
    house.declare_unreachable("far_away")

    assert house.run("check", "--source", "shop").exit_code == ExitCode.OK
    assert house.run("check").exit_code == ExitCode.PROBLEM
    assert house.run("check", "--source", "shp").exit_code == ExitCode.NOT_FOUND


def test_check_tells_each_part_that_does_not_answer(house: House) -> None:
    house.discover()
    house.shell.secrets = MemorySecrets({"env:SHOP_DSN": house.source_dsn})
    house.shell.queues = QueuesAway(Unavailable("queue: nobody answers"))
    house.shell.warehouse = OneAnswer(QueryFailed("permission denied"))

    ended = house.run("check", "--json")

    found = checks(ended)
    assert ended.exit_code == ExitCode.PROBLEM
    failed = {kind for (kind, _), verdict in found.items() if verdict == "failed"}
    assert failed == {"ledger", "queue", "warehouse"}


def test_check_tells_a_ledger_that_was_never_migrated(house: House) -> None:
    house.discover()
    # The source's own database: nobody migrated it.
    secrets = {"env:SHOP_DSN": house.source_dsn, "env:LEDGER_DSN": house.source_dsn}
    house.shell.secrets = MemorySecrets(secrets)

    ended = house.run("check", "--json")

    (ledger,) = [check for check in ended.document["checks"] if check["kind"] == "ledger"]
    assert ledger["verdict"] == "failed"
    assert "found none" in ledger["detail"]


# ---- enqueue -----------------------------------------------------------------------------------------------


def test_enqueue_plans_what_is_due_and_sends_it(house: House) -> None:
    house.discover()

    document = house.run("enqueue", "--json").document

    assert document["planned_count"] == 2
    assert document["outbox_message_count"] == 0
    assert len(house.shell.queues.waiting("extract")) == 2
    (shop,) = document["sources"]
    planned = {table["table"]: table["planned"][0]["batch_id"] for table in shop["tables"]}
    assert house.run("why", planned["customers"], "--json").document["batch"]["table"] == "customers"
    assert {table["table"] for table in house.run("status", "--json").document["tables"]} == set(planned)


def test_enqueue_again_plans_nothing_twice(house: House) -> None:
    house.discover()
    house.run("enqueue")

    assert house.run("enqueue", "--json").document["planned_count"] == 0


def test_a_source_that_does_not_answer_holds_up_no_other(house: House) -> None:
    house.declare_unreachable("a_far_one")
    house.discover()

    ended = house.run("enqueue", "--json")

    assert ended.exit_code == ExitCode.PROBLEM
    far, shop = ended.document["sources"]
    assert (far["source"], far["tables"]) == ("a_far_one", [])
    assert far["error"] is not None
    assert sum(len(table["planned"]) for table in shop["tables"]) == 2
    assert "source a_far_one was not enqueued" in ended.errors
    assert "hunter2" not in ended.errors + ended.output


def test_a_source_file_with_mistakes_holds_up_no_other(house: House) -> None:
    house.discover()
    (house.sources / "crm.yaml").write_text("name: crm\nkind: carrier-pigeon\n")

    ended = house.run("enqueue", "--json")

    assert ended.exit_code == ExitCode.PROBLEM
    assert ended.document["planned_count"] == 2
    assert "crm.yaml:2: kind" in ended.errors


def test_one_source_can_be_enqueued_alone(house: House) -> None:
    house.declare_unreachable("a_far_one")
    house.discover()

    ended = house.run("enqueue", "--source", "shop", "--json")

    assert ended.exit_code == ExitCode.OK
    assert [source["source"] for source in ended.document["sources"]] == ["shop"]


def test_with_the_queues_away_batches_are_planned_and_it_is_said(house: House) -> None:
    house.discover()
    house.shell.queues = QueuesAway(Unavailable("queues: nobody answers"))

    ended = house.run("enqueue", "--json")

    assert ended.exit_code == ExitCode.OK
    assert ended.document["outbox_message_count"] == 2
    assert "2 messages wait in the outbox" in ended.errors


def test_two_planners_at_once_plan_each_window_once(house: House) -> None:
    from services.extractor.enqueue import enqueue

    house.discover()
    sources = read_sources(house.sources).sources
    counts: list[int] = []

    def plan() -> None:
        counts.extend(outcome.planned_count for outcome in enqueue(sources, fleet=house.shell.fleet))

    planners = [threading.Thread(target=plan) for _ in range(3)]
    for planner in planners:
        planner.start()
    for planner in planners:
        planner.join(timeout=60)

    assert sum(counts) == 2
    with house.shell.ledger.transaction() as tx:
        assert len(tx.batches()) == 2


# ---- replay ------------------------------------------------------------------------------------------------


def test_a_batch_is_replayed_under_the_edited_file(house: House) -> None:
    file = house.discover()
    house.run("enqueue")
    with house.shell.ledger.transaction() as tx:
        (batch,) = tx.batches(table="customers")
        lease = timedelta(minutes=1)
        attempt = lifecycle.claim(tx, batch.id, Stage.EXTRACT, worker="w", lease=lease, retry=RetryPolicy(3))
        assert attempt is not None
        lifecycle.refuse_attempt(tx, attempt, reason=Reason.TYPE_CHANGED, detail="id is no int64")
    file.write_text(file.read_text().replace("type: string", "type: json"))

    ended = house.run("quarantine", "replay", batch.id, "--note", "the type is mended", "--json")

    assert ended.exit_code == ExitCode.OK, ended.errors
    (replayed,) = ended.document["batches"]
    assert (replayed["state"], replayed["contract_version"]) == ("planned", 2)
    story = house.run("why", batch.id, "--json").document
    assert story["history"][-1]["detail"] == "the type is mended"
    assert len(house.shell.queues.waiting("extract")) == 3


@pytest.mark.parametrize(
    "target", ["nonsense", "s3://b/k", "tmp/x", "b" * 5000, "'; DROP TABLE batch --", "%", "🙂"]
)
def test_a_target_of_any_form_is_looked_for_and_not_found(house: House, target: str) -> None:
    house.discover()
    house.run("enqueue")

    for command in (
        ["why", target],
        ["files", "--batch", target],
        ["quarantine", "replay", target],
        ["status", "--source", target],
    ):
        assert house.run(*command).exit_code == ExitCode.NOT_FOUND, command
