"""Sources that are not as declared: each mistake has its reason at the right place, and the rest goes on."""

from collections.abc import Iterator
from dataclasses import replace

import psutil
import psycopg
import pytest
from support.fleet import SmallFleet, until

from local.ports import find_free_port
from local.processes import living_processes
from services.extractor.enqueue import EnqueuedSource, enqueue
from shared.domain.batches import Batch, BatchState
from shared.domain.counts import Count
from shared.domain.files import Area, FileFormat
from shared.domain.reasons import Reason
from shared.fleet import Fleet
from shared.lifecycle import messages_for
from shared.queues.sqs import SqsSender, make_sqs_client
from shared.settings import FleetSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TABLES = """
CREATE TABLE sound (id integer PRIMARY KEY, name text);
CREATE TABLE vanished (id integer PRIMARY KEY, name text);
CREATE TABLE lost_column (id integer PRIMARY KEY, name text);
CREATE TABLE changed_type (id integer PRIMARY KEY, name text);
CREATE TABLE new_column (id integer PRIMARY KEY, name text);
CREATE TABLE one_bad_cell (id integer PRIMARY KEY, name date);
CREATE TABLE many_bad_cells (id integer PRIMARY KEY, name date);
CREATE TABLE emptied (id integer PRIMARY KEY, name text);
INSERT INTO sound SELECT i, 'name ' || i FROM generate_series(1, 200) AS i;
INSERT INTO vanished TABLE sound;
INSERT INTO lost_column TABLE sound;
INSERT INTO changed_type TABLE sound;
INSERT INTO new_column TABLE sound;
INSERT INTO one_bad_cell SELECT id, date '2026-01-01' FROM sound;
INSERT INTO many_bad_cells TABLE one_bad_cell;
"""

HARM = """
DROP TABLE vanished;
ALTER TABLE lost_column DROP COLUMN name;
ALTER TABLE changed_type ALTER COLUMN name TYPE varchar(50);
ALTER TABLE new_column ADD COLUMN social_security_number text DEFAULT '078-05-1120';
UPDATE one_bad_cell SET name = 'infinity' WHERE id = 7;
UPDATE many_bad_cells SET name = '4713-01-01 BC' WHERE id <= 10;
"""

CURE = """
CREATE TABLE vanished AS TABLE sound;
ALTER TABLE lost_column ADD COLUMN name text;
ALTER TABLE changed_type ALTER COLUMN name TYPE text;
UPDATE many_bad_cells SET name = '2026-01-01';
INSERT INTO emptied TABLE sound;
"""

EXPECTED = {
    "sound": (BatchState.PUBLISHED, None),
    "vanished": (BatchState.QUARANTINED, Reason.TABLE_MISSING),
    "lost_column": (BatchState.QUARANTINED, Reason.COLUMN_MISSING),
    "changed_type": (BatchState.QUARANTINED, Reason.TYPE_CHANGED),
    "new_column": (BatchState.PUBLISHED, None),
    "one_bad_cell": (BatchState.PUBLISHED, None),
    "many_bad_cells": (BatchState.QUARANTINED, Reason.TOO_MANY_REJECTS),
    "emptied": (BatchState.QUARANTINED, Reason.EMPTY_REPLACE),
}


KEPT_TEXT = "source_type: text, type: string, mask: keep"


def source_file(name: str, *, mask_key: str = "", tables: dict[str, str]) -> str:
    """Return a source file; `tables` gives the column `name` of each its type and mask."""
    lines = [
        f"name: {name}",
        "kind: postgres",
        f"connection: {{dsn: 'secretsmanager:esclusa/{name}#dsn'}}",
        *([f"mask_key: {mask_key}", "mask_key_id: k9"] if mask_key else []),
        "schedule: {every: 1h, max_window: 1h, catch_up_limit: 24}",
        "quarantine: {max_rejected_rows: 100, max_rejected_ratio: 0.01}",
        "tables:",
    ]
    for table, column in tables.items():
        lines += [
            f"  {table}:",
            f"    relation: public.{table}",
            "    columns:",
            "      id: {source_type: integer, type: int32, nullable: false, mask: keep}",
            f"      name: {{{column}}}",
            "    key: [id]",
            "    cursor: none",
            "    publish: {mode: replace, target: both}",
        ]
    return "\n".join(lines) + "\n"


@pytest.fixture
def frail_dsn(fleet: SmallFleet) -> Iterator[str]:
    with fleet.own_source("frail", TABLES) as dsn:
        yield dsn


def test_each_bad_table_is_held_for_its_reason_and_cured_while_the_others_arrive(
    fleet: SmallFleet, frail_dsn: str
) -> None:
    columns = {
        table: "source_type: date, type: date, mask: keep" if "bad_cell" in table else KEPT_TEXT
        for table in EXPECTED
    }
    fleet.write_source("frail", source_file("frail", tables=columns))
    fleet.up()
    run(frail_dsn, HARM)

    fleet.enqueue("frail")
    batches = at_rest(fleet, "frail")

    assert {table: (batch.state, batch.reason) for table, batch in batches.items()} == EXPECTED
    for table in ("vanished", "lost_column", "changed_type", "many_bad_cells", "emptied"):
        assert table in batches[table].detail
    assert batches["new_column"].counts[Count.COLUMNS_WITHHELD] == 1
    assert fleet.warehouse("SELECT * FROM frail.new_column LIMIT 1")[0] == (1, "name 1")
    assert batches["one_bad_cell"].counts[Count.ROWS_REJECTED] == 1
    rejects = [file for file in fleet.files(batches["one_bad_cell"].id) if file.format is FileFormat.REJECTS]
    assert [file.area for file in rejects] == [Area.QUARANTINE]
    assert CELL_REASON in fleet.fleet.store.read(rejects[0].location).decode()
    run(frail_dsn, CURE)
    held = [batch for batch in batches.values() if batch.state is BatchState.QUARANTINED]
    for batch in held:
        assert fleet.replay(batch.id)
    for batch in held:
        fleet.wait_for_state(batch.id, BatchState.PUBLISHED)
    assert all(fleet.warehouse(f"SELECT count(*) FROM frail.{batch.table}") == [(200,)] for batch in held)


CELL_REASON = str(Reason.CELL_NOT_CONVERTIBLE)


def test_without_its_mask_key_nothing_of_a_table_leaves(fleet: SmallFleet) -> None:
    masked = "source_type: text, type: string, mask: {hmac: {domain: name}}"
    with fleet.own_source("keyless", TABLES):
        tables = {"sound": KEPT_TEXT, "vanished": masked}
        fleet.write_source(
            "keyless", source_file("keyless", mask_key="secretsmanager:esclusa/absent#k9", tables=tables)
        )
        fleet.up()

        fleet.enqueue("keyless")
        batches = at_rest(fleet, "keyless")
        objects = [info.location.key for info in fleet.fleet.store.list(fleet.bucket("keyless"), "")]
        fleet.put_secret("esclusa/absent", {"k9": "a key that was made only now, long enough"})
        fleet.replay(batches["vanished"].id)
        fleet.wait_for_state(batches["vanished"].id, BatchState.PUBLISHED)

    assert (batches["vanished"].state, batches["vanished"].reason) == (
        BatchState.QUARANTINED,
        Reason.MASK_KEY_MISSING,
    )
    assert "secretsmanager:esclusa/absent#k9" in batches["vanished"].detail
    assert batches["sound"].state is BatchState.PUBLISHED
    assert not [key for key in objects if "vanished" in key]


def test_an_unreachable_source_is_named_and_holds_up_no_other(fleet: SmallFleet) -> None:
    with fleet.own_source("away", TABLES) as dsn:
        fleet.write_source("away", source_file("away", tables={"sound": KEPT_TEXT}))
        fleet.up()
        fleet.put_secret(
            "esclusa/away", {"dsn": f"postgresql://nobody:hunter2@127.0.0.1:{find_free_port()}/away"}
        )

        outcomes = enqueue_in_a_new_process(fleet)
        fleet.put_secret("esclusa/away", {"dsn": dsn})
        again = enqueue_in_a_new_process(fleet)
        fleet.wait_until_at_rest()

    error = str(outcomes["away"].error)
    assert "away" in error
    assert "hunter2" not in error
    assert [name for name, outcome in outcomes.items() if outcome.error is None] == ["crm", "shop"]
    assert again["away"].error is None
    assert fleet.warehouse("SELECT count(*) FROM away.sound") == [(200,)]


def enqueue_in_a_new_process(fleet: SmallFleet) -> dict[str, EnqueuedSource]:
    """Plan as cron does: a process remembers secrets for a minute, a new one remembers none."""
    connected = Fleet.connect(FleetSettings())
    return {outcome.source: outcome for outcome in enqueue(fleet.catalog_sources(), fleet=connected)}


def test_an_outbox_that_filled_while_the_queues_were_away_is_sent_when_they_are_back(
    fleet: SmallFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.move_everything("shop")
    fleet.shop("UPDATE orders SET updated_at = now(), item_count = 7 WHERE order_id <= 300")
    known = {batch.id for batch in fleet.batches()}
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{find_free_port()}")
        sender = SqsSender(make_sqs_client(fleet.fleet.settings.region), fleet.fleet.settings.queue_urls)
    cut_off = replace(fleet.fleet, sender=sender)

    scheduler = psutil.Process(living_processes(fleet.home)["scheduler"])
    scheduler.suspend()
    try:
        planned = until(
            lambda: sum(outcome.planned_count for outcome in enqueue(fleet.catalog_sources(), fleet=cut_off)),
            what="a window to be due",
            pause=0.5,
        )
        post_again(fleet, message_count=500)
        waiting = pending_message_count(fleet)
    finally:
        scheduler.resume()
    until(lambda: pending_message_count(fleet) == 0, what="the outbox to be sent")
    fleet.wait_until_at_rest()

    assert waiting >= 500 + planned
    assert len([batch for batch in fleet.batches() if batch.id not in known]) >= planned
    fleet.assert_all_equal()


def post_again(fleet: SmallFleet, *, message_count: int) -> None:
    """Post messages of batches that need none any more, as a long outage with many wakes would."""
    done = fleet.batches(source="shop", states=frozenset({BatchState.PUBLISHED}))
    with fleet.fleet.ledger.transaction() as tx:
        for number in range(message_count):
            batch = done[number % len(done)]
            state = [BatchState.PLANNED, BatchState.EXTRACTED, BatchState.READY, BatchState.COMMITTED][
                number % 4
            ]
            for message in messages_for(replace(batch, state=state)):
                tx.post(message)


def pending_message_count(fleet: SmallFleet) -> int:
    with fleet.fleet.ledger.transaction() as tx:
        return tx.pending_message_count()


def run(dsn: str, script: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(script)  # type: ignore[call-overload]


def at_rest(fleet: SmallFleet, source: str) -> dict[str, Batch]:
    """Wait until all is at rest, and return the one batch of each table of a source."""
    fleet.wait_until_at_rest()
    batches = fleet.batches(source=source)
    assert len({batch.table for batch in batches}) == len(batches)
    return {batch.table: batch for batch in batches}
