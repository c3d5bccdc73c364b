"""A database that nobody has seen before is taken in: discover, edit the masks, up, enqueue."""

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql
from support.fleet import SmallFleet

from local.passwords import read_passwords
from local.proof import compare
from services.extractor.discovery.postgres import discover_postgres
from shared.catalog import load_sources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCHEMA = """
CREATE SCHEMA "Sales & Co";
CREATE TYPE "Sales & Co"."Mood" AS ENUM ('happy', 'it''s "ok"');
CREATE TABLE "Sales & Co"."order" (
    "select" bigint, "Group By" text, "quo""te" integer, "per cent %s" numeric(20, 5), "日本 🚚" text,
    " leading" boolean, "back\\slash" date, "e-mail" text, "Mood" "Sales & Co"."Mood", "Updated At" timestamptz NOT NULL,
    "a_column_name_of_exactly_sixty_three_bytes_which_is_the_longest" integer,
    PRIMARY KEY ("select", "Group By"));
CREATE TABLE "Sales & Co"."Order" (id integer PRIMARY KEY, "id " integer, "ID2" text);
CREATE TABLE "we""ird'; DROP TABLE x; --" (id uuid PRIMARY KEY, "value" double precision, "from" timestamptz NOT NULL);
CREATE TABLE "ünïcode 表" (id integer PRIMARY KEY, "naïve" text);
CREATE TABLE a_table_name_of_exactly_sixty_three_bytes_which_is_the_longest1 (id smallint PRIMARY KEY, t timestamp);
CREATE TABLE "nothing.in.it" (id integer PRIMARY KEY);
INSERT INTO "Sales & Co"."order"
    SELECT i, CASE WHEN i % 2 = 0 THEN 'NULL' ELSE '' END, i, i / 7.0, E'🚚\\n"' || i, i % 3 = 0, date '2026-01-01' + i,
           'person.' || i || '@example.org', 'it''s "ok"', now() - i * interval '1 second', i
    FROM generate_series(1, 50) AS i;
INSERT INTO "Sales & Co"."Order" SELECT i, i, 'x' || i FROM generate_series(1, 5) AS i;
INSERT INTO "we""ird'; DROP TABLE x; --"
    SELECT gen_random_uuid(), 1.0 / i, now() - interval '1 hour' FROM generate_series(1, 7) AS i;
INSERT INTO "ünïcode 表" SELECT i, 'ñ' || i FROM generate_series(1, 9) AS i;
INSERT INTO a_table_name_of_exactly_sixty_three_bytes_which_is_the_longest1
    SELECT i, timestamp '2026-01-01 00:00:00.123456' FROM generate_series(1, 3) AS i;
"""


@pytest.fixture
def unseen_dsn(fleet: SmallFleet) -> Iterator[str]:
    """A database with names as people give them, whose connection string lies in the secret store."""
    with fleet.own_source("unseen", SCHEMA) as dsn:
        yield dsn


def test_a_database_never_seen_before_is_taken_in(fleet: SmallFleet, unseen_dsn: str) -> None:
    written = discover_postgres(unseen_dsn, source="unseen", reference="secretsmanager:esclusa/unseen#dsn")

    fleet.write_source("unseen", edited_by_a_person(written))
    fleet.up()
    fleet.move_everything("unseen")

    published = {}
    for contract in load_sources(fleet.sources).source("unseen").contracts():
        with fleet.fleet.ledger.transaction() as tx:
            planned_until = tx.watermark("unseen", contract.table)
        assert planned_until is not None
        stack = replace(fleet.stack, shop_reader_dsn=unseen_dsn)
        found = compare(contract, stack=stack, planned_until=planned_until)
        assert found.is_equal, (contract.table, found)
        published[contract.relation] = found.warehouse_row_count
    assert published == {
        ("Sales & Co", "order"): 50,
        ("Sales & Co", "Order"): 5,
        ("public", "we\"ird'; DROP TABLE x; --"): 7,
        ("public", "ünïcode 表"): 9,
        ("public", "a_table_name_of_exactly_sixty_three_bytes_which_is_the_longest1"): 3,
        ("public", "nothing.in.it"): 0,
    }
    assert emails_in_the_warehouse(fleet) == {
        pseudonym(fleet, f"person.{i}@example.org") for i in range(1, 51)
    }


def edited_by_a_person(text: str) -> str:
    """Return the discovered file with every withheld column decided, as its comments ask for."""
    text = re.sub(r"(?m)^# (mask_key.*)$", r"\1", text)
    text = re.sub(r"(?m)^(\s+e-mail: .*)mask: withhold", r"\1mask: {hmac: {domain: email}}", text)
    # A text of several lines looks like free text, which may not be kept.
    text = text.replace("content: free_text, ", "")
    text = text.replace("mask: withhold", "mask: keep").replace("every: 15m", "every: 1s")
    text = text.replace("mode: replace, target: both", "mode: replace, target: both, allow_empty: true")
    order, key, rest = text.partition("key: [select, Group By]")
    assert key
    rest = rest.replace("cursor: none", "cursor: {column: Updated At, lag: 1s, overlap: 5s}", 1)
    rest = rest.replace("{mode: replace, target: both, allow_empty: true}", "{mode: merge, target: both}", 1)
    return order + key + rest


def emails_in_the_warehouse(fleet: SmallFleet) -> set[str]:
    table = next(
        contract.table
        for contract in load_sources(fleet.sources).source("unseen").contracts()
        if contract.relation == ("Sales & Co", "order")
    )
    query = sql.SQL('SELECT "e-mail" FROM {}').format(sql.Identifier("unseen", table))
    with psycopg.connect(fleet.stack.warehouse_dsn) as connection:
        return {email for (email,) in connection.execute(query)}


def pseudonym(fleet: SmallFleet, email: str) -> str:
    key = read_passwords(fleet.home)["mask-k1"].encode()
    return hmac.new(key, b"email\0" + email.encode(), hashlib.sha256).hexdigest()
