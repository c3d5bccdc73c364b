"""A key is replaced on a running fleet: both pseudonyms, what was published read again, the old key gone."""

import hashlib
import hmac
from collections.abc import Iterator

import psycopg
import pytest
from support.commands import Ended, run_command
from support.fleet import SmallFleet

from cli.output import ExitCode
from local.passwords import read_passwords

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCHEMA = """
CREATE TABLE members (id integer PRIMARY KEY, email text, born_on date, updated_at timestamptz NOT NULL DEFAULT now());
INSERT INTO members SELECT i, 'member.' || i || '@example.org', date '1990-05-05' + i, now() - interval '1 hour'
    FROM generate_series(1, 20) AS i;
"""

FILE = """\
name: club
kind: postgres
connection: {dsn: secretsmanager:esclusa/club#dsn}
mask_key: secretsmanager:esclusa/mask#k1  # since the beginning
mask_key_id: k1
schedule: {every: 1s}
tables:
  members:
    relation: public.members
    columns:
      id: {source_type: integer, type: int32, nullable: false, mask: keep}
      email: {source_type: text, mask: {hmac: {domain: email, normalize: email}}}
      born_on: {source_type: date, type: date, mask: {truncate: year}}
      updated_at: {source_type: timestamp with time zone, type: timestamptz, nullable: false, mask: keep}
    key: [id]
    cursor: {column: updated_at, lag: 1s, overlap: 5s}
    publish: {mode: merge, target: native}
"""


@pytest.fixture
def club(fleet: SmallFleet) -> Iterator[str]:
    """A source of its own, whose members are published under the first key."""
    with fleet.own_source("club", SCHEMA) as dsn:
        fleet.write_source("club", FILE)
        fleet.up()
        fleet.move_everything("club")
        yield dsn


def rotate(fleet: SmallFleet, *options: str) -> Ended:
    return run_command("mask", "rotate", "club", "--sources", str(fleet.sources), *options)


def pseudonyms(fleet: SmallFleet, numbers: range, *, key_id: str) -> set[str]:
    key = read_passwords(fleet.home)[f"mask-{key_id}"].encode()
    return {
        hmac.new(key, f"email\0member.{i}@example.org".encode(), hashlib.sha256).hexdigest() for i in numbers
    }


def shown(fleet: SmallFleet, expression: str) -> set[str]:
    return {text for (text,) in fleet.warehouse(f"SELECT {expression} FROM club.members")}


def test_a_key_is_replaced_while_the_fleet_runs_and_no_join_is_lost(fleet: SmallFleet, club: str) -> None:
    assert rotate(fleet, "--to", "secretsmanager:esclusa/mask#k2", "--id", "k2").exit_code == ExitCode.OK
    with psycopg.connect(club, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO members SELECT i, 'member.' || i || '@example.org', '1990-08-08' FROM generate_series(21, 30) i"
        )
    fleet.move_everything("club")

    assert shown(fleet, "coalesce(email__k1, email)") == pseudonyms(fleet, range(1, 31), key_id="k1")
    assert rotate(fleet, "--finish").exit_code == ExitCode.PROBLEM

    again = run_command("backfill", "club.members", "--sources", str(fleet.sources), "--wait")
    assert again.exit_code == ExitCode.OK, again.errors
    finished = rotate(fleet, "--finish")
    assert finished.exit_code == ExitCode.OK, finished.errors
    fleet.move_everything("club")

    told = run_command("masks", "club.members", "--json")
    assert shown(fleet, "email") == pseudonyms(fleet, range(1, 31), key_id="k2")
    assert shown(fleet, "born_on::text") == {"1990-01-01"}
    assert told.exit_code == ExitCode.OK
    assert {tally["key_id"] for tally in told.document["masked"] if tally["column"] == "email"} == {
        "k1",
        "k2",
    }
    assert told.document["left_in_clear"] == ["id", "updated_at"]
