"""What waits for a person, on a whole fleet: seen, cured and replayed, read again for its rejected rows, or given up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.commands import Ended, run_command
from support.fleet import SmallFleet, until

from cli.output import ExitCode
from shared.domain.batches import BatchState
from shared.domain.files import Area, DataFile
from shared.domain.reasons import Reason

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TABLES = """
CREATE TABLE measured (id integer PRIMARY KEY, taken date, changed timestamptz NOT NULL);
INSERT INTO measured SELECT i, date '2026-01-01' + i, '2026-02-01Z' FROM generate_series(1, 200) AS i;
UPDATE measured SET taken = 'infinity' WHERE id <= 5;
CREATE TABLE junk AS TABLE measured;
ALTER TABLE junk ADD PRIMARY KEY (id);
"""

SOURCE = """\
name: ward
kind: postgres
connection: {{dsn: 'secretsmanager:esclusa/ward#dsn'}}
schedule: {{every: 1h, max_window: 1h, catch_up_limit: 24}}
quarantine: {{max_rejected_rows: 100, max_rejected_ratio: {ratio}}}
tables:
"""

TABLE = """\
  {table}:
    relation: public.{table}
    key: [id]
    cursor: {{column: changed, lag: 1s, overlap: 0s}}
    publish: {{mode: merge, target: both}}
    columns:
      id: {{source_type: integer, type: int32, nullable: false, mask: keep}}
      taken: {{source_type: date, type: date, mask: keep}}
      changed: {{source_type: timestamp with time zone, type: timestamptz, nullable: false, mask: keep}}
"""


@pytest.fixture
def ward(fleet: SmallFleet) -> Iterator[str]:
    """A source of two tables, in each of which 5 of 200 rows do not fit; 1 in 100 may."""
    with fleet.own_source("ward", TABLES) as dsn:
        declare(fleet, ratio="0.01")
        fleet.up()
        yield dsn


def declare(fleet: SmallFleet, *, ratio: str) -> None:
    tables = "".join(TABLE.format(table=table) for table in ("measured", "junk"))
    fleet.write_source("ward", SOURCE.format(ratio=ratio) + tables)


def quarantine(*arguments: str, sources: Path | None = None) -> Any:
    where = [] if sources is None else ["--sources", str(sources)]
    ended = run("quarantine", *arguments, *where, "--json")
    assert ended.exit_code == ExitCode.OK, ended.errors
    return ended.document


def run(*arguments: str) -> Ended:
    return run_command(*arguments)


def set_aside(fleet: SmallFleet, batch_id: str) -> list[DataFile]:
    """Wait until the cleaner has taken the copies of a batch out of the transient areas."""

    def look() -> list[DataFile] | None:
        files = [file for file in fleet.files(batch_id) if file.deleted_at is None]
        return files if {file.area for file in files} == {Area.QUARANTINE} else None

    return until(look, what=f"batch {batch_id} to be set aside")


def test_what_is_held_is_listed_cured_and_replayed_or_given_up_for_good(fleet: SmallFleet, ward: str) -> None:
    fleet.enqueue("ward")
    fleet.wait_until_at_rest()

    # Both are held, for a reason that a person can see.
    listed = quarantine("list", "--source", "ward")["batches"]
    held = {batch["table"]: batch["batch_id"] for batch in listed}
    assert {batch["reason"] for batch in listed} == {Reason.TOO_MANY_REJECTS}
    measured, junk = held["measured"], held["junk"]
    aside = {table: set_aside(fleet, batch) for table, batch in held.items()}
    shown = quarantine("show", measured, "--rejects")
    assert (
        sorted((cell["column"], cell["code"]) for cell in shown["rejected_cells"])
        == [("taken", Reason.CELL_NOT_CONVERTIBLE)] * 5
    )
    assert {item["key"] for item in shown["objects"]} == {file.location.key for file in aside["measured"]}
    assert [item["header"]["is_as_declared"] for item in shown["objects"] if item["header"]] == [True]
    assert "infinity" not in str(shown)

    # Cured in the source file: a few more rows may be rejected. Replayed by its filters, it is published.
    declare(fleet, ratio="0.05")
    (replayed,) = quarantine("replay", "--table", "measured", "--source", "ward", sources=fleet.sources)[
        "batches"
    ]
    assert (replayed["batch_id"], replayed["contract_version"], replayed["goes_on_from"]) == (
        measured,
        2,
        "source",
    )
    fleet.wait_for_state(measured, BatchState.PUBLISHED)
    assert fleet.warehouse("SELECT count(*) FROM ward.measured") == [(195,)]

    # Cured at the source without a move of the cursor: no later window brings the rows, a second reading does.
    with psycopg.connect(ward, autocommit=True) as source:
        source.execute("UPDATE measured SET taken = date '2026-01-01' + id WHERE id <= 5")
        expected = source.execute("SELECT id, taken, changed FROM measured ORDER BY id").fetchall()
    (lacking,) = quarantine("list", "--rejects", "--source", "ward")["batches"]
    assert (lacking["batch_id"], lacking["rows_rejected"]) == (measured, 5)
    (again,) = quarantine("replay", measured, "--rejects", sources=fleet.sources)["batches"]
    fleet.wait_for_state(again["planned_batch_id"], BatchState.PUBLISHED)
    assert fleet.warehouse("SELECT id, taken, changed FROM ward.measured ORDER BY id") == expected
    assert quarantine("list", "--rejects", "--source", "ward")["batches"] == []

    # Given up, the other leaves nothing behind but what the ledger knows of it, and holds up nobody.
    (given_up,) = quarantine("discard", junk, "--because", "a test", "--yes")["batches"]
    assert given_up["object_count"] == len(aside["junk"]) == 2
    until(
        lambda: all(file.deleted_at for file in fleet.files(junk)),
        what="the cleaner to delete what was given up",
    )
    left = [info.location.key for info in fleet.fleet.store.list(fleet.bucket("ward"), "quarantine/")]
    assert not [key for key in left if junk in key]
    assert fleet.batch(junk).state is BatchState.DISCARDED
    with fleet.fleet.ledger.transaction() as tx:
        progress = {item.table: item for item in tx.table_progress() if item.source == "ward"}
    assert progress["junk"].published_until == progress["junk"].planned_until
    assert quarantine("list", "--source", "ward")["batches"] == []
