"""A first load in parts, a table of numbers, and a backfill, on a real fleet."""

import psycopg
import pytest
from support.commands import run_command
from support.fleet import SmallFleet, until

from cli.output import ExitCode
from shared.domain.batches import BatchState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TABLES = """
CREATE TABLE readings (id integer PRIMARY KEY, value text NOT NULL, seen timestamptz NOT NULL);
INSERT INTO readings SELECT i, 'v' || i, '2026-01-01Z'::timestamptz + i * interval '1 hour'
    FROM generate_series(1, 2000) AS i;
CREATE TABLE clicks (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, page text NOT NULL);
INSERT INTO clicks (page) SELECT 'p' || i FROM generate_series(1, 700) AS i;
"""

SOURCE = """\
name: bulky
kind: postgres
connection: {dsn: 'secretsmanager:esclusa/bulky#dsn'}
schedule: {every: 1s}
tables:
  readings:
    relation: public.readings
    key: [id]
    cursor: {column: seen, lag: 0s, overlap: 0s}
    schedule: {rows_per_part: 300}
    publish: {mode: merge, target: both}
    columns:
      id: {source_type: integer, type: int32, nullable: false, mask: keep}
      value: {source_type: text, type: string, nullable: false, mask: keep}
      seen: {source_type: timestamp with time zone, type: timestamptz, nullable: false, mask: keep}
  clicks:
    relation: public.clicks
    key: [id]
    cursor: {column: id, lag: 0s, overlap: 0}
    schedule: {rows_per_part: 250}
    publish: {mode: append, target: both}
    columns:
      id: {source_type: bigint, type: int64, nullable: false, mask: keep}
      page: {source_type: text, type: string, nullable: false, mask: keep}
"""


def test_what_is_read_in_bulk_arrives_once_and_a_backfill_mends_what_no_cursor_tells(
    fleet: SmallFleet,
) -> None:
    with fleet.own_source("bulky", TABLES) as dsn:
        fleet.write_source("bulky", SOURCE)
        fleet.up()

        # The first loads come in parts, by the worker of bulk work.
        fleet.move_everything("bulky")
        parts = [batch for batch in fleet.batches(source="bulky", table="readings") if batch.is_bulk]
        assert len(parts) >= 7
        assert {batch.state for batch in parts} == {BatchState.PUBLISHED}
        assert fleet.warehouse("SELECT count(*), count(DISTINCT id), sum(id) FROM bulky.readings") == [
            (2000, 2000, 2001000)
        ]
        assert fleet.warehouse("SELECT count(*), count(DISTINCT id), max(id) FROM bulky.clicks") == [
            (700, 700, 700)
        ]
        runs = run_command("backfills", "--source", "bulky", "--json").document["runs"]
        assert {(run["table"], run["run"], run["seconds_left"]) for run in runs} == {
            ("readings", "first load", 0),
            ("clicks", "first load", 0),
        }

        # Numbers go on where they were.
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("INSERT INTO clicks (page) SELECT 'q' || i FROM generate_series(1, 10) AS i")
            # Nobody touched the cursor: no window tells of it.
            connection.execute("UPDATE readings SET value = 'mended' WHERE id BETWEEN 500 AND 509")
        fleet.move_everything("bulky")
        until(
            lambda: (
                fleet.enqueue("bulky"),
                fleet.warehouse("SELECT count(*) FROM bulky.clicks") == [(710,)],
            )[1],
            what="the new numbers to arrive",
            pause=0.5,
        )
        assert fleet.warehouse("SELECT count(*) FROM bulky.readings WHERE value = 'mended'") == [(0,)]

        # A backfill reads it again, and says before what it would read.
        span = ["readings", "--from", "2026-01-21T00:00Z", "--to", "2026-01-23T00:00Z"]
        sources = ["--sources", str(fleet.sources)]
        planned = run_command("backfill", *span, *sources, "--chunk", "1d", "--dry-run", "--json")
        assert [part["row_count"] for part in planned.document["parts"]] == [24, 24]
        assert planned.document["size_in_bytes"] > 0
        done = run_command("backfill", *span, *sources, "--chunk", "1d", "--wait", "--json")

        assert (done.exit_code, done.document["done_count"]) == (ExitCode.OK, 2)
        assert fleet.warehouse("SELECT id FROM bulky.readings WHERE value = 'mended' ORDER BY id") == [
            (number,) for number in range(500, 510)
        ]
        assert fleet.warehouse("SELECT count(*) FROM bulky.readings") == [(2000,)]
        assert run_command("prove", "bulky.readings", "--json").exit_code == ExitCode.OK
